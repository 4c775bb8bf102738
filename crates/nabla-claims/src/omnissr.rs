//! OmniSSR's parts against each other and against interpolation, on held-out panoramas.
//!
//! Each panorama is reduced by the operator `A` and rounded to 8 bit, as a file of it would be, and
//! enlarged again by every variant. What comes out is rounded to 8 bit too before it is measured.
//! The prior is the embedded one, the same for all; where OTII is left out there is no panorama
//! within the steps that GD could act on, so "planes + GD" is GD on the final panorama alone, which
//! is the ablation of the paper.
//!
//! What the planes can hold at all is told beside it: the truth itself, through the planes of the
//! enlarged panorama.
//!
//! The prior runs with the steps that it was made for, and at x4 also with 5: there it
//! draws the detail instead of predicting its mean, as the paper's 200-step sampler does, and the
//! planes can disagree.

use std::ops::ControlFlow;

use nabla_data::{PanoramaSet, Raster, Split};
use nabla_diffusion::prior::SuperResolutionPrior;
use nabla_panorama::pixels::{to_rasters, to_tensor};
use nabla_panorama::{
    BicubicDown, Erp, Interpolation, LinearOperator, Merge, OmniSsrConfig, TangentGrid,
    TangentOptions, TangentProjection, evaluate, gradient_decomposition, resize_erp, to_8_bit,
};

use crate::claim::{Claim, ClaimContext, ClaimError, Paper};
use crate::measurement::{Measurement, Metric, Table, Variant};

const BICUBIC: &str = "bicubic";
const LANCZOS: &str = "Lanczos";
const BICUBIC_GD: &str = "bicubic + GD";
const ON_ERP: &str = "prior on the ERP image";
const PLANES: &str = "prior on planes";
const PLANES_GD: &str = "planes + GD";
const PLANES_OTII: &str = "planes + OTII";
const OMNISSR: &str = "OmniSSR (planes + OTII + GD)";
const PICTURES: &str = "OmniSSR, planes merged as pictures";

const PSNR: &str = "WS-PSNR";
const SSIM: &str = "WS-SSIM";
const SEAM: &str = "seam error";
const POLE: &str = "pole error";
const SPREAD: &str = "disagreement of planes";
const CONSISTENCY: &str = "max |AE − y|";

/// Steps at which the prior draws rather than predicts.
const MANY_STEPS: usize = 5;

/// What the published method is without, or with, its parts: `(name, γ_l, γ_e, γ_p, merge)`.
const PIPELINES: [(&str, f64, f64, f64, Merge); 5] = [
    (PLANES, 0.0, 0.0, 0.0, Merge::Changes),
    (PLANES_GD, 0.0, 0.0, 1.0, Merge::Changes),
    (PLANES_OTII, 0.5, 0.0, 0.0, Merge::Changes),
    (PICTURES, 0.5, 1.0, 1.0, Merge::Pictures),
    (OMNISSR, 0.5, 1.0, 1.0, Merge::Changes),
];

/// The variants that draw: the prior on the ERP image, and the pipelines in their order.
const DRAWN: [&str; PIPELINES.len() + 1] =
    [ON_ERP, PLANES, PLANES_GD, PLANES_OTII, PICTURES, OMNISSR];

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct OmniSsrClaim;

impl Claim for OmniSsrClaim {
    fn slug(&self) -> &str {
        "omnissr"
    }

    fn paper(&self) -> Paper {
        Paper::new(
            "OmniSSR: Zero-shot Omnidirectional Image Super-Resolution using Stable Diffusion Model",
            "Li, Sheng, Li, Zhang",
            2024,
            "2404.10312",
        )
    }

    fn statement(&self) -> &str {
        "A planar diffusion prior on tangent planes super-resolves 360-degree panoramas without \
         training on them; octadecaplex tangent information interaction (OTII) and gradient \
         decomposition (GD) each improve the result, and both together most."
    }

    fn criterion(&self) -> &str {
        "Mean over the held-out panoramas and seeds, at x2 and x4 with the prior's own number of \
         steps: OmniSSR has higher WS-PSNR and WS-SSIM than bicubic and Lanczos. There, and at x4 \
         with 5 steps: lower seam error and pole error than the same prior on the ERP image; higher \
         WS-PSNR than the prior on planes with neither part, with OTII alone and with GD alone, each \
         of which beats neither; its planes disagree less than without OTII."
    }

    fn run(&self, context: &ClaimContext<'_>) -> Result<Measurement, ClaimError> {
        let prior =
            SuperResolutionPrior::embedded(&context.device).map_err(ClaimError::experiment)?;
        let panoramas = panoramas(context)?;
        let own = prior.config().sampling_steps;
        let settings = if context.quick {
            vec![Setting::new(4, 2, true)]
        } else {
            vec![
                Setting::new(2, own, true),
                Setting::new(4, own, true),
                Setting::new(4, MANY_STEPS, false),
            ]
        };
        let groups: Vec<String> = settings.iter().map(|s| s.group.clone()).collect();
        let mut table = Table::new(
            &context.seeds,
            [
                Metric::higher(PSNR, "dB"),
                Metric::higher(SSIM, ""),
                Metric::lower(SEAM, ""),
                Metric::lower(POLE, ""),
                Metric::lower(SPREAD, ""),
                Metric::lower(CONSISTENCY, ""),
            ],
            [
                Variant::method(OMNISSR),
                Variant::ablation(PICTURES),
                Variant::ablation(PLANES_OTII),
                Variant::ablation(PLANES_GD),
                Variant::ablation(PLANES),
                Variant::baseline(ON_ERP),
                Variant::baseline(BICUBIC_GD),
                Variant::baseline(LANCZOS),
                Variant::baseline(BICUBIC),
            ],
            groups.clone(),
        )?;
        let mut notes = Vec::new();
        for setting in &settings {
            notes.push(measure(context, &prior, &panoramas, setting, &mut table)?);
        }
        let mut checks = Vec::new();
        for Setting {
            group, faithful, ..
        } in &settings
        {
            if *faithful {
                for metric in [PSNR, SSIM] {
                    for baseline in [BICUBIC, LANCZOS] {
                        checks.push(table.compare(group, metric, OMNISSR, baseline)?);
                    }
                }
            }
            for metric in [SEAM, POLE] {
                checks.push(table.compare(group, metric, OMNISSR, ON_ERP)?);
            }
            for (better, worse) in [
                (OMNISSR, PLANES_GD),
                (OMNISSR, PLANES_OTII),
                (PLANES_GD, PLANES),
                (PLANES_OTII, PLANES),
            ] {
                checks.push(table.compare(group, PSNR, better, worse)?);
            }
            checks.push(table.compare(group, SPREAD, OMNISSR, PLANES)?);
        }
        let mut measurement = Measurement::new(table, checks).with_note(format!(
            "{} held-out panoramas, the embedded prior, 8-bit input and output.",
            panoramas.len()
        ));
        for (group, note) in groups.iter().zip(notes) {
            measurement = measurement.with_note(format!("{group}: {note}"));
        }
        Ok(measurement)
    }
}

/// What is measured at once.
struct Setting {
    scale: usize,
    /// Steps of the prior's sampler.
    steps: usize,
    /// Whether the result is meant to be as near to the truth as can be.
    faithful: bool,
    group: String,
}

impl Setting {
    fn new(scale: usize, steps: usize, faithful: bool) -> Self {
        let plural = if steps == 1 { "" } else { "s" };
        Self {
            scale,
            steps,
            faithful,
            group: format!("x{scale}, {steps} step{plural}"),
        }
    }
}

/// The held-out panoramas; in the quick form two of them, small.
fn panoramas(context: &ClaimContext<'_>) -> Result<Vec<Raster>, ClaimError> {
    let folder = context.assets.join("panoramas");
    let asset = |error: nabla_data::DataSetError| ClaimError::Asset {
        path: folder.clone(),
        reason: error.to_string(),
    };
    let set = PanoramaSet::open(&folder).map_err(asset)?;
    let names = set.names(Split::HeldOut);
    let count = if context.quick { 2 } else { names.len() };
    names[..count.min(names.len())]
        .iter()
        .map(|name| {
            let panorama = set.load(name).map_err(asset)?.raster;
            if context.quick {
                resize_erp(&panorama, 64, Interpolation::BICUBIC)
                    .map(to_8_bit)
                    .map_err(ClaimError::experiment)
            } else {
                Ok(panorama)
            }
        })
        .collect()
}

/// Sums of the metrics over the panoramas.
#[derive(Clone, Copy, Default)]
struct Sums {
    psnr: f64,
    ssim: f64,
    seam: f64,
    pole: f64,
    spread: f64,
    inconsistency: f64,
}

impl Sums {
    /// What every variant has.
    fn metrics(&self) -> [(&'static str, f64); 5] {
        [
            (PSNR, self.psnr),
            (SSIM, self.ssim),
            (SEAM, self.seam),
            (POLE, self.pole),
            (CONSISTENCY, self.inconsistency),
        ]
    }

    /// Adds what is measured of `picture`, and returns its WS-PSNR.
    fn add(
        &mut self,
        picture: Raster,
        truth: &Raster,
        low: &Raster,
        operator: &BicubicDown,
    ) -> Result<f64, ClaimError> {
        let picture = to_8_bit(picture);
        let found = evaluate(&picture, truth).map_err(ClaimError::experiment)?;
        self.psnr += found.area.ws_psnr;
        self.ssim += found.area.ws_ssim;
        self.seam += found.seam_error;
        self.pole += found.pole_error;
        let reduced = operator.apply(&picture).map_err(ClaimError::experiment)?;
        self.inconsistency += reduced
            .data()
            .iter()
            .zip(low.data())
            .map(|(a, b)| f64::from((a - b).abs()))
            .fold(0.0, f64::max);
        Ok(found.area.ws_psnr)
    }
}

/// Fills the group of `setting`; returns what is to be said besides.
fn measure(
    context: &ClaimContext<'_>,
    prior: &SuperResolutionPrior,
    panoramas: &[Raster],
    setting: &Setting,
    table: &mut Table,
) -> Result<String, ClaimError> {
    let Setting {
        scale,
        steps,
        ref group,
        ..
    } = *setting;
    let variants = DRAWN.len() as u64;
    context.progress.begin(
        &format!("OmniSSR, {group}"),
        panoramas.len() as u64 * context.seeds.len() as u64 * variants,
    );
    let interpolations = [BICUBIC, LANCZOS, BICUBIC_GD];
    let mut fixed = [Sums::default(); 3];
    let mut sums = vec![[Sums::default(); DRAWN.len()]; context.seeds.len()];
    let mut held = Sums::default();
    let mut won = 0;
    for truth in panoramas {
        let erp = Erp::of(truth).map_err(ClaimError::experiment)?;
        let operator = BicubicDown::new(scale, erp).map_err(ClaimError::experiment)?;
        let low = to_8_bit(operator.apply(truth).map_err(ClaimError::experiment)?);
        let low_erp = Erp::of(&low).map_err(ClaimError::experiment)?;
        let enlarge = |interpolation| {
            resize_erp(&low, erp.height(), interpolation).map_err(ClaimError::experiment)
        };
        let bicubic = enlarge(Interpolation::BICUBIC)?;
        let bicubic_psnr = fixed[0].add(bicubic.clone(), truth, &low, &operator)?;
        fixed[1].add(enlarge(Interpolation::Lanczos3)?, truth, &low, &operator)?;
        let consistent = gradient_decomposition(&operator, &bicubic, &low, 1.0)
            .map_err(ClaimError::experiment)?;
        fixed[2].add(consistent, truth, &low, &operator)?;
        let through_planes = through_planes(truth, &bicubic)?;
        held.add(through_planes, truth, &low, &operator)?;

        let mut mean_psnr = 0.0;
        for (&seed, sums) in context.seeds.iter().zip(&mut sums) {
            let on_erp = restore(prior, &bicubic, steps, seed)?;
            sums[0].add(on_erp, truth, &low, &operator)?;
            context.progress.advance(1);
            for ((name, gamma_latent, gamma_erp, gamma_post, merge), sums) in
                PIPELINES.into_iter().zip(&mut sums[1..])
            {
                let config = OmniSsrConfig {
                    steps: Some(steps),
                    gamma_latent,
                    gamma_erp,
                    gamma_post,
                    merge,
                    seed,
                    ..OmniSsrConfig::new(scale)
                };
                let out = config
                    .init(prior, low_erp)
                    .and_then(|o| o.run(&low, &mut |_| ControlFlow::Continue(())))
                    .map_err(ClaimError::experiment)?;
                sums.spread += out.spread;
                let psnr = sums.add(out.panorama, truth, &low, &operator)?;
                if name == OMNISSR {
                    mean_psnr += psnr / context.seeds.len() as f64;
                }
                context.progress.advance(1);
            }
        }
        won += usize::from(mean_psnr > bicubic_psnr);
    }

    let count = panoramas.len() as f64;
    for (variant, sums) in interpolations.into_iter().zip(fixed) {
        for (metric, sum) in sums.metrics() {
            table.record_for_every_seed(group, variant, metric, sum / count)?;
        }
    }
    for (&seed, sums) in context.seeds.iter().zip(sums) {
        for (variant, sums) in DRAWN.into_iter().zip(sums) {
            for (metric, sum) in sums.metrics() {
                table.record(group, variant, metric, seed, sum / count)?;
            }
            // The ERP image alone has no planes that could disagree.
            if variant != ON_ERP {
                table.record(group, variant, SPREAD, seed, sums.spread / count)?;
            }
        }
    }
    Ok(format!(
        "OmniSSR has higher WS-PSNR than bicubic on {won} of {} panoramas (mean over the seeds). \
         Planes of this size can hold no more than {:.2} dB and a pole error of {:.4}.",
        panoramas.len(),
        held.psnr / count,
        held.pole / count
    ))
}

/// The truth by what the planes can hold of its difference to `enlarged`.
fn through_planes(truth: &Raster, enlarged: &Raster) -> Result<Raster, ClaimError> {
    let erp = Erp::of(truth).map_err(ClaimError::experiment)?;
    let merged = TangentProjection::new(
        TangentGrid::octadecaplex(),
        erp,
        erp.height() / 2,
        TangentOptions::of(Interpolation::BICUBIC),
    )
    .and_then(|projection| {
        let before = projection.to_tangent(enlarged)?;
        projection.merge_changes(enlarged, &before, projection.to_tangent(truth)?)
    });
    merged.map_err(ClaimError::experiment)
}

/// The prior on the ERP image as if it were a planar picture.
fn restore(
    prior: &SuperResolutionPrior,
    enlarged: &Raster,
    steps: usize,
    seed: u64,
) -> Result<Raster, ClaimError> {
    let sharp = prior
        .restore(to_tensor([enlarged], prior.device()), steps, seed)
        .map_err(ClaimError::experiment)?;
    to_rasters(sharp)
        .pop()
        .ok_or_else(|| ClaimError::experiment("the prior returned no picture"))
}
