//! `nabla evaluate`: measures how close a panorama is to its reference.

use std::path::PathBuf;

use clap::Args;
use nabla::data::{Light, Picture, ReadOptions, ToneCurve};
use nabla::panorama::{AreaEvaluation, ErpArea, Evaluation, evaluate, evaluate_area};

use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::output::table;
use crate::picture_files::read_panorama;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The panorama to judge, or a part of one
    #[arg(value_name = "SR")]
    picture: PathBuf,
    /// The truth, of the same size and the same part of the sphere; linear light (HDR, EXR) is compared
    /// through a tone curve computed from REF
    #[arg(value_name = "REF")]
    reference: PathBuf,
}

impl Job for Arguments {
    const JSON: Option<&'static str> =
        Some("Print JSON; the infinite PSNR of equal pictures is null");

    fn run(&self, context: &Context) -> Result<Report, Failure> {
        run(self, context)
    }
}

fn run(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    let read = |path: &PathBuf| {
        let mut note = |text: &str| context.note_at_end(&format!("{}: {text}", path.display()));
        read_panorama(path, &ReadOptions::default(), &mut note)
    };
    let (picture, area) = read(&arguments.picture)?;
    let (reference, reference_area) = read(&arguments.reference)?;
    let (picture, reference) = in_one_light(picture, reference, arguments)?;
    let (picture, reference) = match (picture.raster.channels(), reference.raster.channels()) {
        (a, b) if a == b => (picture, reference),
        _ => (picture.into_rgb(), reference.into_rgb()),
    };
    if !area.is_full() || !reference_area.is_full() {
        if area != reference_area {
            let of = |area: &ErpArea| {
                let [left, top] = area.offset();
                format!(
                    "{} x {} at {left}, {top} of {} x {}",
                    area.width(),
                    area.height(),
                    area.whole().width(),
                    area.whole().height()
                )
            };
            return Err(Failure::input(format!(
                "the pictures must cover the same part of the sphere, but {} is {} and {} is {}",
                arguments.picture.display(),
                of(&area),
                arguments.reference.display(),
                of(&reference_area)
            )));
        }
        let evaluation = evaluate_area(&picture.raster, &reference.raster, &area)?;
        return context.report(&evaluation, || area_text(&evaluation));
    }
    let evaluation = evaluate(&picture.raster, &reference.raster)?;
    context.report(&evaluation, || text(&evaluation))
}

/// Converts two pictures of linear light by the tone curve of the second.
fn in_one_light(
    picture: Picture,
    reference: Picture,
    arguments: &Arguments,
) -> Result<(Picture, Picture), Failure> {
    match (picture.light, reference.light) {
        (Light::Display, Light::Display) => Ok((picture, reference)),
        (Light::Linear, Light::Linear) => {
            let curve = ToneCurve::of(&reference.raster);
            let shown = |picture: Picture| Picture {
                raster: curve.encode(picture.raster),
                light: Light::Display,
                ..picture
            };
            Ok((shown(picture), shown(reference)))
        }
        (light, _) => {
            let (linear, other) = match light {
                Light::Linear => (&arguments.picture, &arguments.reference),
                Light::Display => (&arguments.reference, &arguments.picture),
            };
            Err(Failure::input(format!(
                "{} has linear light and {} has samples for a screen: they cannot be compared",
                linear.display(),
                other.display()
            )))
        }
    }
}

fn row(name: &str, value: String, what: &str) -> String {
    format!("{name:<11}{value:>9}  {what}\n")
}

fn decibel(v: f64) -> String {
    format!("{v:.3}")
}

fn index(v: f64) -> String {
    format!("{v:.5}")
}

fn area_text(evaluation: &AreaEvaluation) -> String {
    let better = "higher is better";
    let weighted = "each pixel weighted by its area";
    [
        row("PSNR", decibel(evaluation.psnr), &format!("dB, {better}")),
        row("SSIM", index(evaluation.ssim), &format!("of 1, {better}")),
        row(
            "WS-PSNR",
            decibel(evaluation.ws_psnr),
            &format!("dB, {weighted}"),
        ),
        row(
            "WS-SSIM",
            index(evaluation.ws_ssim),
            &format!("of 1, {weighted}"),
        ),
    ]
    .concat()
}

fn text(evaluation: &Evaluation) -> String {
    [
        area_text(&evaluation.area),
        row(
            "seam error",
            index(evaluation.seam_error),
            "break at the 180-degree meridian, 0 is best",
        ),
        row(
            "pole error",
            index(evaluation.pole_error),
            "around both poles, lower is better",
        ),
    ]
    .concat()
}

/// The metrics of several pictures against one reference, one line each.
pub fn comparison(rows: &[(&str, &Evaluation)]) -> String {
    let head = [
        "",
        "WS-PSNR",
        "WS-SSIM",
        "PSNR",
        "SSIM",
        "seam error",
        "pole error",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for (name, e) in rows {
        lines.push(vec![
            (*name).to_owned(),
            format!("{:.2} dB", e.area.ws_psnr),
            format!("{:.4}", e.area.ws_ssim),
            format!("{:.2} dB", e.area.psnr),
            format!("{:.4}", e.area.ssim),
            format!("{:.5}", e.seam_error),
            format!("{:.5}", e.pole_error),
        ]);
    }
    table(&lines)
}
