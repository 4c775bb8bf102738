//! `nabla evaluate`: how close a panorama is to its reference.

use std::path::PathBuf;

use clap::Args;
use nabla::data::ReadOptions;
use nabla::panorama::{Evaluation, evaluate};

use crate::errors::Failure;
use crate::output::{print, print_json, table};
use crate::picture_files::read_panorama;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The panorama to judge
    #[arg(value_name = "SR")]
    picture: PathBuf,
    /// The truth, of the same size
    #[arg(value_name = "REF")]
    reference: PathBuf,
    /// Print JSON; an infinite PSNR (equal pictures) is null
    #[arg(long)]
    json: bool,
}

/// Does the job.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let read = |path: &PathBuf| read_panorama(path, &ReadOptions::default());
    let (picture, _) = read(&arguments.picture)?;
    let (reference, _) = read(&arguments.reference)?;
    let (picture, reference) = match (picture.raster.channels(), reference.raster.channels()) {
        (a, b) if a == b => (picture, reference),
        _ => (picture.into_rgb(), reference.into_rgb()),
    };
    let evaluation = evaluate(&picture.raster, &reference.raster)?;
    if arguments.json {
        print_json(&evaluation)
    } else {
        print(&text(&evaluation))
    }
}

fn text(evaluation: &Evaluation) -> String {
    let row = |name: &str, value: String, what: &str| format!("{name:<11}{value:>9}  {what}\n");
    let decibel = |v: f64| format!("{v:.3}");
    let index = |v: f64| format!("{v:.5}");
    [
        row("PSNR", decibel(evaluation.psnr), "dB, higher is better"),
        row("SSIM", index(evaluation.ssim), "of 1, higher is better"),
        row(
            "WS-PSNR",
            decibel(evaluation.ws_psnr),
            "dB, each pixel weighted by its area",
        ),
        row(
            "WS-SSIM",
            index(evaluation.ws_ssim),
            "of 1, each pixel weighted by its area",
        ),
        row(
            "seam error",
            index(evaluation.seam_error),
            "break at the 180-degree meridian, 0 is none",
        ),
        row(
            "pole error",
            index(evaluation.pole_error),
            "around both poles, lower is better",
        ),
    ]
    .concat()
}

/// The measures of several pictures against one reference, a line each.
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
            format!("{:.2} dB", e.ws_psnr),
            format!("{:.4}", e.ws_ssim),
            format!("{:.2} dB", e.psnr),
            format!("{:.4}", e.ssim),
            format!("{:.5}", e.seam_error),
            format!("{:.5}", e.pole_error),
        ]);
    }
    table(&lines)
}
