//! OmniSSR's parts against each other and against interpolation, on held-out panoramas.
//!
//! Each panorama is reduced by the operator `A` and rounded to 8 bit, as in a file, and enlarged again by
//! every variant. The result is rounded to 8 bit too before it is measured. All variants use the embedded
//! prior. Without OTII, there is no panorama within the steps on which GD could act, so "planes + GD" applies
//! GD only to the final panorama, which is the ablation of the paper.
//!
//! OmniSSR must beat the same prior on the equirectangular picture, treated as if it were planar. A trained
//! prior is expected to beat interpolations in any case, so these comparisons are details.
//!
//! The limit of the planes is reported too: the original itself, passed through the planes of the enlarged
//! panorama.
//!
//! The prior runs with its default steps, and at x4 also with 5 steps: there it draws the detail instead of
//! predicting its mean, as the paper's 200-step sampler does, and the planes can disagree.

use std::ops::ControlFlow;

use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimContext, ClaimError, Measurement, Metric, Stage, Table, Task,
    Variant,
};
use nabla_data::{DataSetError, PanoramaSet, Raster, Split};
use nabla_diffusion::prior::SuperResolutionPrior;
use nabla_panorama::pixels::{to_rasters, to_tensor};
use nabla_panorama::{
    BicubicDown, Erp, Interpolation, LinearOperator, Merge, OmniSsrConfig, TangentGrid,
    TangentOptions, TangentProjection, evaluate, gradient_decomposition, resize_erp, to_8_bit,
};
use serde::{Deserialize, Serialize};

const BICUBIC: Variant = Variant::baseline("bicubic");
const LANCZOS: Variant = Variant::baseline("Lanczos");
const BICUBIC_GD: Variant = Variant::baseline("bicubic + GD");
const ON_ERP: Variant = Variant::baseline("prior on the ERP image");
const PLANES: Variant = Variant::ablation("prior on planes");
const PLANES_GD: Variant = Variant::ablation("planes + GD");
const PLANES_OTII: Variant = Variant::ablation("planes + OTII");
const OMNISSR: Variant = Variant::method("OmniSSR (planes + OTII + GD)");
const PICTURES: Variant = Variant::ablation("OmniSSR, planes merged as pictures");

const PSNR: Metric = Metric::higher("WS-PSNR", "dB");
const SSIM: Metric = Metric::higher("WS-SSIM", "");
const SEAM: Metric = Metric::lower("seam error", "");
const POLE: Metric = Metric::lower("pole error", "");
const SPREAD: Metric = Metric::lower("disagreement of planes", "");
const CONSISTENCY: Metric = Metric::lower("max |AE − y|", "");

/// Steps at which the prior draws rather than predicts.
const MANY_STEPS: usize = 5;

/// A pipeline: the published method without, or with, its parts.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pipeline {
    gamma_latent: f64,
    gamma_erp: f64,
    gamma_post: f64,
    merge: Merge,
}

const fn pipeline(gamma_latent: f64, gamma_erp: f64, gamma_post: f64, merge: Merge) -> Pipeline {
    Pipeline {
        gamma_latent,
        gamma_erp,
        gamma_post,
        merge,
    }
}

/// The variants that draw the detail: the prior on the ERP image, which has no planes, and the pipelines.
const DRAWN: [(Variant, Option<Pipeline>); 6] = [
    (ON_ERP, None),
    (PLANES, Some(pipeline(0.0, 0.0, 0.0, Merge::Changes))),
    (PLANES_GD, Some(pipeline(0.0, 0.0, 1.0, Merge::Changes))),
    (PLANES_OTII, Some(pipeline(0.5, 0.0, 0.0, Merge::Changes))),
    (PICTURES, Some(pipeline(0.5, 1.0, 1.0, Merge::Pictures))),
    (OMNISSR, Some(pipeline(0.5, 1.0, 1.0, Merge::Changes))),
];

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct OmniSsrClaim;

impl Claim for OmniSsrClaim {
    fn slug(&self) -> &str {
        "omnissr"
    }

    fn statement(&self) -> &str {
        "A planar diffusion prior on tangent planes super-resolves 360-degree panoramas, without training on \
         them, with fidelity (and with realness, which is not measured here); octadecaplex tangent \
         information interaction (OTII) and gradient decomposition (GD) ensure better consistency. In \
         detail: each of the two improves the result, and both together most."
    }

    fn criterion(&self) -> &str {
        "Mean over the held-out panoramas and seeds, at x2 and x4 with the prior's own number of steps, and \
         at x4 with 5 steps: OmniSSR has higher WS-PSNR and WS-SSIM than the same prior on the ERP image, \
         and a lower max |AE − y| than the planes with OTII alone. In detail: higher WS-PSNR and WS-SSIM \
         than bicubic, Lanczos and bicubic + GD; lower seam error and pole error than the same prior on the \
         ERP image; higher WS-PSNR than the prior on planes with OTII alone and with GD alone, each of \
         which beats the prior on planes with neither; its planes disagree less than without OTII."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let context = bench.context();
        let prior =
            SuperResolutionPrior::embedded(&context.device).map_err(ClaimError::experiment)?;
        let panoramas = panoramas(context)?;
        let own = prior.config().sampling_steps;
        let settings = if bench.quick() {
            vec![Setting::new(4, 2)]
        } else {
            vec![
                Setting::new(2, own),
                Setting::new(4, own),
                Setting::new(4, MANY_STEPS),
            ]
        };
        let mut table = Table::new(
            bench.seeds(),
            [PSNR, SSIM, SEAM, POLE, SPREAD, CONSISTENCY],
            [
                OMNISSR,
                PICTURES,
                PLANES_OTII,
                PLANES_GD,
                PLANES,
                ON_ERP,
                BICUBIC_GD,
                LANCZOS,
                BICUBIC,
            ],
            settings.iter().map(|setting| setting.task.clone()),
        )?;
        let mut notes = Vec::new();
        for setting in &settings {
            notes.push(measure(bench, &prior, &panoramas, setting, &mut table)?);
        }
        let mut checks = Vec::new();
        for Setting { task, .. } in &settings {
            checks.extend(judged(&table, task)?);
        }
        let mut measurement = Measurement::new(table, checks).with_note(format!(
            "{} held-out panoramas, the embedded prior, 8-bit input and output.",
            panoramas.len()
        ));
        for (setting, note) in settings.iter().zip(notes) {
            measurement = measurement.with_note(format!("{}: {note}", setting.task));
        }
        Ok(measurement.with_note(
            "Not measured: realness (FID, LPIPS), and the paper's own prior, Stable Diffusion, and data.",
        ))
    }
}

/// The checks of one setting. The headlines test the abstract: fidelity, for which the rival is the same prior
/// without any part of the method, and better consistency, here with the small picture. That planes agree
/// better after averaging follows almost by construction, so it is a detail.
fn judged(table: &Table, task: &Task) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    for metric in [PSNR, SSIM] {
        let check = table.compare(task, &metric, &OMNISSR, &ON_ERP)?;
        checks.push(check.headline());
    }
    let check = table.compare(task, &CONSISTENCY, &OMNISSR, &PLANES_OTII)?;
    checks.push(check.headline());
    for metric in [PSNR, SSIM] {
        for baseline in [BICUBIC, LANCZOS, BICUBIC_GD] {
            checks.push(table.compare(task, &metric, &OMNISSR, &baseline)?);
        }
    }
    for metric in [SEAM, POLE] {
        checks.push(table.compare(task, &metric, &OMNISSR, &ON_ERP)?);
    }
    for (better, worse) in [
        (OMNISSR, PLANES_GD),
        (OMNISSR, PLANES_OTII),
        (PLANES_GD, PLANES),
        (PLANES_OTII, PLANES),
    ] {
        checks.push(table.compare(task, &PSNR, &better, &worse)?);
    }
    checks.push(table.compare(task, &SPREAD, &OMNISSR, &PLANES)?);
    Ok(checks)
}

/// A set-up that is measured together.
struct Setting {
    scale: usize,
    /// The number of steps of the prior's sampler.
    steps: usize,
    task: Task,
}

impl Setting {
    fn new(scale: usize, steps: usize) -> Self {
        let plural = if steps == 1 { "" } else { "s" };
        Self {
            scale,
            steps,
            task: Task::of(format!("x{scale}, {steps} step{plural}")),
        }
    }
}

/// The held-out panoramas; in the quick form two of them, small.
fn panoramas(context: &ClaimContext<'_>) -> Result<Vec<(String, Raster)>, ClaimError> {
    let folder = context.assets.join("panoramas");
    let asset = |error: DataSetError| ClaimError::asset(&folder, error);
    let set = PanoramaSet::open(&folder).map_err(asset)?;
    let names = set.names(Split::HeldOut);
    let count = if context.quick { 2 } else { names.len() };
    names[..count.min(names.len())]
        .iter()
        .map(|name| {
            let panorama = set.load(name).map_err(asset)?.raster;
            let panorama = if context.quick {
                resize_erp(&panorama, 64, Interpolation::BICUBIC)
                    .map(to_8_bit)
                    .map_err(ClaimError::experiment)?
            } else {
                panorama
            };
            Ok((name.to_string(), panorama))
        })
        .collect()
}

/// The metrics of a picture, or their sums over the panoramas.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Quality {
    psnr: f64,
    ssim: f64,
    seam: f64,
    pole: f64,
    inconsistency: f64,
    /// The metric of pictures made from planes; 0 for others.
    spread: f64,
}

impl Quality {
    /// The data that every variant uses.
    fn metrics(&self) -> [(Metric, f64); 5] {
        [
            (PSNR, self.psnr),
            (SSIM, self.ssim),
            (SEAM, self.seam),
            (POLE, self.pole),
            (CONSISTENCY, self.inconsistency),
        ]
    }

    fn sum(qualities: impl Iterator<Item = Self>) -> Self {
        qualities.fold(Self::default(), |sum, next| Self {
            psnr: sum.psnr + next.psnr,
            ssim: sum.ssim + next.ssim,
            seam: sum.seam + next.seam,
            pole: sum.pole + next.pole,
            inconsistency: sum.inconsistency + next.inconsistency,
            spread: sum.spread + next.spread,
        })
    }
}

/// A panorama, reduced.
struct Reduced<'a> {
    truth: &'a Raster,
    operator: BicubicDown,
    low: Raster,
    /// The low one, enlarged by bicubic interpolation.
    bicubic: Raster,
}

impl<'a> Reduced<'a> {
    fn of(truth: &'a Raster, scale: usize) -> Result<Self, ClaimError> {
        let erp = Erp::of(truth).map_err(ClaimError::experiment)?;
        let operator = BicubicDown::new(scale, erp).map_err(ClaimError::experiment)?;
        let low = to_8_bit(operator.apply(truth).map_err(ClaimError::experiment)?);
        Ok(Self {
            bicubic: resize_erp(&low, erp.height(), Interpolation::BICUBIC)
                .map_err(ClaimError::experiment)?,
            truth,
            operator,
            low,
        })
    }

    fn quality(&self, picture: Raster) -> Result<Quality, ClaimError> {
        let picture = to_8_bit(picture);
        let found = evaluate(&picture, self.truth).map_err(ClaimError::experiment)?;
        let reduced = self
            .operator
            .apply(&picture)
            .map_err(ClaimError::experiment)?;
        Ok(Quality {
            psnr: found.area.ws_psnr,
            ssim: found.area.ws_ssim,
            seam: found.seam_error,
            pole: found.pole_error,
            inconsistency: reduced
                .data()
                .iter()
                .zip(self.low.data())
                .map(|(a, b)| f64::from((a - b).abs()))
                .fold(0.0, f64::max),
            spread: 0.0,
        })
    }

    /// Measures bicubic, Lanczos, bicubic with GD, and the limit of the planes.
    fn fixed(&self) -> Result<[Quality; 4], ClaimError> {
        let lanczos = resize_erp(&self.low, self.truth.height(), Interpolation::Lanczos3)
            .map_err(ClaimError::experiment)?;
        let consistent = gradient_decomposition(&self.operator, &self.bicubic, &self.low, 1.0)
            .map_err(ClaimError::experiment)?;
        Ok([
            self.quality(self.bicubic.clone())?,
            self.quality(lanczos)?,
            self.quality(consistent)?,
            self.quality(through_planes(self.truth, &self.bicubic)?)?,
        ])
    }

    fn drawn(
        &self,
        prior: &SuperResolutionPrior,
        pipeline: Option<Pipeline>,
        setting: &Setting,
        seed: u64,
    ) -> Result<Quality, ClaimError> {
        let Some(pipeline) = pipeline else {
            return self.quality(restore(prior, &self.bicubic, setting.steps, seed)?);
        };
        let config = OmniSsrConfig {
            steps: Some(setting.steps),
            gamma_latent: pipeline.gamma_latent,
            gamma_erp: pipeline.gamma_erp,
            gamma_post: pipeline.gamma_post,
            merge: pipeline.merge,
            seed,
            ..OmniSsrConfig::new(setting.scale)
        };
        let low_erp = Erp::of(&self.low).map_err(ClaimError::experiment)?;
        let out = config
            .init(prior, low_erp)
            .and_then(|o| o.run(&self.low, &mut |_| ControlFlow::Continue(())))
            .map_err(ClaimError::experiment)?;
        Ok(Quality {
            spread: out.spread,
            ..self.quality(out.panorama)?
        })
    }
}

/// Fills the task of `setting`; returns additional notes.
fn measure(
    bench: &Bench<'_>,
    prior: &SuperResolutionPrior,
    panoramas: &[(String, Raster)],
    setting: &Setting,
    table: &mut Table,
) -> Result<String, ClaimError> {
    let task = &setting.task;
    let fixed = bench.measure(
        &Stage::new(format!("OmniSSR, {task}, interpolations"), &setting.scale),
        panoramas,
        |(name, _)| Cell::of(task).part(name),
        |(_, truth)| Reduced::of(truth, setting.scale)?.fixed(),
    )?;
    let mut points = Vec::new();
    for (panorama, _) in panoramas.iter().enumerate() {
        for (s, _) in bench.seeds().iter().enumerate() {
            points.extend((0..DRAWN.len()).map(|v| (panorama, s, v)));
        }
    }
    // Reduced for the first cell of a panorama that is not stored.
    let mut reduced: Option<(usize, Reduced<'_>)> = None;
    let drawn = bench.measure(
        &Stage::new(format!("OmniSSR, {task}"), &(setting.scale, setting.steps)),
        &points,
        |&(panorama, s, v)| {
            let cell = Cell::of(task).part(&panoramas[panorama].0);
            cell.variant(&DRAWN[v].0).seed(bench.seeds()[s])
        },
        |&(panorama, s, v)| {
            let present = match reduced.take() {
                Some((of, present)) if of == panorama => present,
                _ => Reduced::of(&panoramas[panorama].1, setting.scale)?,
            };
            let (_, present) = reduced.insert((panorama, present));
            present.drawn(prior, DRAWN[v].1, setting, bench.seeds()[s])
        },
    )?;

    let count = panoramas.len() as f64;
    for (i, variant) in [BICUBIC, LANCZOS, BICUBIC_GD].into_iter().enumerate() {
        let sum = Quality::sum(fixed.iter().map(|fixed| fixed[i]));
        for (metric, sum) in sum.metrics() {
            table.record_for_every_seed(task, &variant, &metric, sum / count)?;
        }
    }
    let of = |seed: usize, variant: usize| {
        let pairs = points.iter().zip(&drawn);
        pairs.filter(move |((_, s, v), _)| (*s, *v) == (seed, variant))
    };
    for (s, &seed) in bench.seeds().iter().enumerate() {
        for (v, (variant, pipeline)) in DRAWN.iter().enumerate() {
            let sum = Quality::sum(of(s, v).map(|(_, quality)| *quality));
            for (metric, sum) in sum.metrics() {
                table.record(task, variant, &metric, seed, sum / count)?;
            }
            // The ERP image alone has no planes that could disagree.
            if pipeline.is_some() {
                table.record(task, variant, &SPREAD, seed, sum.spread / count)?;
            }
        }
    }
    let whole = DRAWN.iter().position(|(variant, _)| *variant == OMNISSR);
    let won = fixed.iter().enumerate().filter(|(panorama, fixed)| {
        let seeds = bench.seeds().len() as f64;
        let pairs = points.iter().zip(&drawn);
        let own = pairs.filter(|((p, _, v), _)| p == panorama && Some(*v) == whole);
        let mean = own.fold(0.0, |mean, (_, quality)| mean + quality.psnr / seeds);
        mean > fixed[0].psnr
    });
    let won = won.count();
    let held = Quality::sum(fixed.iter().map(|fixed| fixed[3]));
    Ok(format!(
        "OmniSSR has higher WS-PSNR than bicubic on {won} of {} panoramas (mean over the seeds). \
         Planes of this size can hold no more than {:.2} dB and a pole error of {:.4}.",
        panoramas.len(),
        held.psnr / count,
        held.pole / count
    ))
}

/// The original, as far as the planes can represent its difference from `enlarged`.
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
