//! Gradient-free classifier guidance against classifier-free guidance and autoguidance: the class of the pictures and
//! their quality at as many calls of the network.
//!
//! There are two grounds. The first is a ring of six Gaussians that overlap, each a class of its own, where the denoiser
//! and the classifier are exact. The second is the denoiser of Fashion-MNIST
//! (`fashion_ground`) in 20 steps, where one classifier guides and another one judges: a
//! guide would find its own mistakes good.
//!
//! How the scale of a step follows from the classifier is not published; the rules are ours
//! ([`ScaleRule`](nabla_diffusion::guidance::ScaleRule)), and the default, the odds, takes part. GFCG's scale is the
//! highest one, which a picture gets that the classifier takes for another class.

use burn::tensor::Tensor;
use nabla_claims::{Bench, Check, Claim, ClaimError, Measurement, Metric, Table, Task, Variant};
use nabla_diffusion::guidance::{
    ClassifierFree, GradientFreeClassifier, GradientFreeClassifierConfig, Guidance, Reference,
};
use nabla_diffusion::guidance_trial::{AUTOGUIDANCE, GFCG as GFCG_ALONE, GFCG_OR_CFG, GFCG_WEAK};
use nabla_diffusion::level::Level;

use crate::fashion_ground::{self, ACCURACY, Contestant, FD, Ground, METRICS, contest};
use crate::guided_mixture::{Mixture, MixtureContest};

const NONE: Variant = Variant::baseline("condition without guidance");
const CFG: Variant = Variant::baseline("classifier-free guidance");
const WEAK: Variant = Variant::baseline("autoguidance");
const GFCG: Variant = Variant::method("GFCG");
const GFCG_CFG: Variant = Variant::method("GFCG or classifier-free guidance");
const GFCG_ATG: Variant = Variant::method("GFCG on autoguidance");

const RIGHT: Metric = Metric::higher("points of their class", "%");
const DISTANCE: Metric = Metric::lower("sliced Wasserstein distance to the classes", "");

const RING_SCALES: [f64; 3] = [1.5, 2.0, 4.0];
/// The scales on Fashion-MNIST.
const SCALES: [f64; 2] = [1.5, 2.5];

fn ring_task(scale: f64) -> Task {
    Task::of(format!("ring of six overlapping Gaussians, scale {scale}"))
}

#[derive(Clone, Copy, Debug)]
struct Size {
    points: usize,
    steps: usize,
}

const FULL: Size = Size {
    points: 5000,
    steps: 50,
};
const QUICK: Size = Size {
    points: 400,
    steps: 20,
};

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct GfcgClaim;

impl Claim for GfcgClaim {
    fn slug(&self) -> &str {
        "gfcg"
    }

    fn statement(&self) -> &str {
        "Guiding away from the class with which a classifier confuses the picture, without its gradient, consistently \
         improves the class accuracy at no further call of the network; on autoguidance it improves both accuracy and \
         Fréchet distance."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds, on Fashion-MNIST, with a judge that is not the guide: at every scale GFCG has a class \
         accuracy above that of the condition without guidance and that of classifier-free guidance, and GFCG on \
         autoguidance has a higher accuracy and a lower Fréchet distance than autoguidance. In detail: the Fréchet \
         distance of GFCG is not above that of classifier-free guidance; on the ring with exact denoiser and classifier \
         more points are of their class than under classifier-free guidance at every scale."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let (size, ground_size) = match bench.quick() {
            true => (QUICK, fashion_ground::QUICK),
            false => (FULL, fashion_ground::FULL),
        };
        let ground = Ground::load(ground_size, bench.context())?;
        let mut table = Table::new(
            bench.seeds(),
            METRICS.into_iter().chain([RIGHT, DISTANCE]),
            [GFCG, GFCG_CFG, GFCG_ATG, CFG, WEAK, NONE],
            SCALES
                .map(fashion_ground::task)
                .into_iter()
                .chain(RING_SCALES.map(ring_task)),
        )?;
        ring(bench, size, &mut table)?;
        let contestants = SCALES.into_iter().flat_map(|scale| {
            let task = fashion_ground::task(scale);
            [
                (GFCG, GFCG_ALONE, scale),
                (GFCG_CFG, GFCG_OR_CFG, scale),
                (GFCG_ATG, GFCG_WEAK, scale),
                (CFG, "classifier-free", scale),
                (WEAK, AUTOGUIDANCE, scale),
                (NONE, "classifier-free", 1.0),
            ]
            .map(|(variant, name, scale)| Contestant::new(&task, &variant, name, scale))
        });
        let contestants: Vec<Contestant> = contestants.collect();
        contest(bench, &ground, ground_size, &contestants, &mut table)?;
        let checks = checks(&table)?;
        let plot = fashion_ground::plot(
            &table,
            "Fashion-MNIST: class accuracy and Fréchet distance at the scales (mean of the seeds)",
            ("class accuracy in %", &ACCURACY),
            &SCALES,
            &[GFCG, GFCG_CFG, GFCG_ATG, CFG, WEAK, NONE],
        );
        Ok(Measurement::new(table, checks)
            .with_plot(plot)
            .with_note(
                "Not measured: ImageNet at 512 pixels, whose latents must be decoded for the classifier, and texts. The weak \
                 model of autoguidance is a smaller training of the same network.",
            )
            .with_note(
                "The condition without guidance has no scale: its rows repeat under both scales. It takes two calls here, as \
                 classifier-free guidance of scale 1.",
            ))
    }
}

fn ring(bench: &Bench<'_>, size: Size, table: &mut Table) -> Result<(), ClaimError> {
    let mixture = Mixture {
        model: Mixture::ring(6, 6, 0.35)?,
        steps: size.steps,
        points: size.points,
    };
    let classifier = |x: Tensor<2>| Ok(mixture.model.log_posterior(x, Level::straight(1e-3))?);
    let contest = MixtureContest {
        mixture: &mixture,
        task: ring_task,
        scales: &RING_SCALES,
        variants: &[GFCG, GFCG_CFG, CFG, NONE],
        own: &RIGHT,
        distance: &DISTANCE,
    };
    contest.run(
        bench,
        table,
        |variant, scale, seed| {
            let of_classifier = |reference| {
                let config = GradientFreeClassifierConfig::new().with_max_scale(scale);
                let classes = mixture.classes();
                GradientFreeClassifier::new(config, &classifier, classes, reference)
            };
            let plain = |scale| ClassifierFree::new().with_scale(scale);
            let (mut guidance, itself): (Box<dyn Guidance<2> + '_>, bool) = if *variant == GFCG {
                (Box::new(of_classifier(Reference::Alone)), true)
            } else if *variant == GFCG_CFG {
                let reference = Reference::OrClassifierFree(scale);
                (Box::new(of_classifier(reference)), true)
            } else if *variant == CFG {
                (Box::new(plain(scale)), false)
            } else {
                (Box::new(plain(1.0)), false)
            };
            mixture.drawn(guidance.as_mut(), itself, seed)
        },
        |drawn, _| mixture.accuracy(drawn),
    )
}

/// The headlines are the abstract's: the accuracy alone, and both on autoguidance.
fn checks(table: &Table) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    for scale in SCALES {
        let task = fashion_ground::task(scale);
        for (metric, better, worse, headline) in [
            (ACCURACY, GFCG, NONE, true),
            (ACCURACY, GFCG, CFG, true),
            (ACCURACY, GFCG_ATG, WEAK, true),
            (FD, GFCG_ATG, WEAK, true),
            (FD, GFCG, CFG, false),
            (ACCURACY, GFCG_CFG, CFG, false),
            (FD, GFCG_CFG, CFG, false),
        ] {
            let check = table.compare(&task, &metric, &better, &worse)?;
            checks.push(check.headline_if(headline));
        }
    }
    for scale in RING_SCALES {
        checks.push(table.compare(&ring_task(scale), &RIGHT, &GFCG, &CFG)?);
    }
    Ok(checks)
}
