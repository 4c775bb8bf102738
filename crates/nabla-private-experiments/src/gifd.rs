//! GIFD against attacks on pixels, on the latent vector alone, on it and the generator's weights (GIAS), and without
//! derivatives (GGL), with the same number of gradient evaluations.
//!
//! Fashion-MNIST, averaged to 14 × 14; the network 196-32-10 with tanh and random weights, as the paper attacks a network
//! that has not been trained; the generator a variational autoencoder's decoder of three stages. From the whole gradient
//! pixels alone give an exact picture here, so that the generator has something to add only where the gradient tells less:
//! a sketch of it, with and without noise. A step along a slope takes three gradients, a point of GGL's search one.

use std::ops::ControlFlow;
use std::sync::OnceLock;

use burn::tensor::{Device, Tensor};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_data::squares_of_four;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::sketch::SketchFamily;
use nabla_private::leakage::audit::{Secret, rows};
use nabla_private::leakage::decoder::{Decoder, DecoderConfig};
use nabla_private::leakage::decoder_training::DecoderTraining;
use nabla_private::leakage::ggl::{GglConfig, ggl};
use nabla_private::leakage::gias::{GiasConfig, gias};
use nabla_private::leakage::gifd::{GifdConfig, gifd};
use nabla_private::leakage::inverting_gradients::{
    InvertingConfig, Recovered, inverting_gradients,
};
use nabla_private::leakage::picture_quality::{matched, psnr, ssim};
use nabla_private::leakage::pixel_prior::PixelPrior;
use nabla_private::leakage::small_network::{SmallNetwork, Units, label_loss};
use nabla_private::leakage::{Distance, GradientOracle, LeakageError, Objective, Observed};
use nabla_train::data_set::{DataConfig, Standardization};
use nabla_train::examples::Examples;
use nabla_train::trainer::Progress;
use serde::{Deserialize, Serialize};

const GIFD: Variant = Variant::method("GIFD");
const NO_BALL: Variant = Variant::method("GIFD without the balls");
const LAST_RESTART: Variant = Variant::method("GIFD, last restart, as in the official code");
const LATENT: Variant = Variant::baseline("latent vector alone");
const GIAS: Variant = Variant::baseline("GIAS");
const GGL: Variant = Variant::baseline("GGL");
const PIXELS: Variant = Variant::baseline("Inverting Gradients");
const SMOOTH: Variant = Variant::baseline("Inverting Gradients, λ = 1e-2");

const PSNR: Metric = Metric::higher("PSNR", "dB");
const SSIM: Metric = Metric::higher("SSIM", "");
const COST: Metric = Metric::informative("distance of the gradients", "");

const SHAPE: [usize; 3] = [1, 14, 14];
const PIXEL_COUNT: usize = 14 * 14;
const CLASSES: usize = 10;
const UNITS: usize = 32;

/// What is seen of the gradient, and of which pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Setting {
    name: &'static str,
    /// Pictures behind a gradient.
    batch: usize,
    /// The length of the sketch; none for the whole gradient.
    sketch: Option<usize>,
    /// The norm of the noise in that of what is seen.
    noise: f64,
    /// Whether the pictures are turned by 90 degrees, which the generator has not seen.
    turned: bool,
}

const SETTINGS: [Setting; 6] = [
    setting("whole gradient", 1, None, 0.0, false),
    setting("sketch of 100", 1, Some(100), 0.0, false),
    setting("sketch of 60", 1, Some(60), 0.0, false),
    setting("sketch of 100, noise 10 %", 1, Some(100), 0.1, false),
    setting("sketch of 100, turned pictures", 1, Some(100), 0.0, true),
    setting("sketch of 400, batch of 4", 4, Some(400), 0.0, false),
];

const fn setting(
    name: &'static str,
    batch: usize,
    sketch: Option<usize>,
    noise: f64,
    turned: bool,
) -> Setting {
    Setting {
        name,
        batch,
        sketch,
        noise,
        turned,
    }
}

/// Those in which the paper's statement is tested; from a whole gradient nobody needs a generator.
fn is_tested(setting: &Setting) -> bool {
    setting.sketch.is_some()
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct GifdClaim;

impl Claim for GifdClaim {
    fn slug(&self) -> &str {
        "gifd"
    }

    fn statement(&self) -> &str {
        "GIFD rebuilds pictures from gradients better, by the pixel, than attacks on pixels and on the latent vector of a \
         generator, also for pictures of another kind than the generator's, with defences, and for batches."
    }

    fn criterion(&self) -> &str {
        "From sketches of 100 and of 60 numbers, with noise of 10 %, for turned pictures and for batches of 4, the mean PSNR \
         of GIFD is higher than that of the search of the latent vector alone and than that of Inverting Gradients, all with \
         1800 steps. In detail: GIAS with 1800 steps and GGL with 5400 gradients, which are as many, are no better either, nor \
         is Inverting Gradients with a hundred times its total variation; with noise the balls gain at least 2 dB; the best \
         restart is not worse than the last one."
    }

    fn version(&self) -> u32 {
        2
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let tasks = SETTINGS.iter().map(|setting| Task::named(setting.name));
        let variants = [
            GIFD,
            NO_BALL,
            LAST_RESTART,
            LATENT,
            GIAS,
            GGL,
            PIXELS,
            SMOOTH,
        ];
        let mut table = Table::new(bench.seeds(), [PSNR, SSIM, COST], variants.clone(), tasks)?;
        let plan = Plan::new(bench.quick());
        let pictures = Pictures::open(&plan)?;
        let generators = OnceLock::new();
        let points: Vec<(usize, usize, u64)> = (0..SETTINGS.len())
            .flat_map(|setting| (0..variants.len()).map(move |variant| (setting, variant)))
            .flat_map(|(s, v)| bench.seeds().iter().map(move |&seed| (s, v, seed)))
            .collect();
        let found = bench.measure(
            &Stage::new("attacks", &(plan, SETTINGS)),
            &points,
            |(setting, variant, seed)| {
                Cell::of(&Task::named(SETTINGS[*setting].name))
                    .variant(&variants[*variant])
                    .seed(*seed)
            },
            |&(setting, variant, seed)| {
                // It is trained once, if anything is left to be measured.
                let generator = generators.get_or_init(|| pictures.generator(&plan));
                let generator = generator.as_ref();
                let generator =
                    generator.map_err(|error| ClaimError::experiment(error.as_str()))?;
                attacked(
                    &plan,
                    &pictures,
                    generator,
                    &SETTINGS[setting],
                    &variants[variant],
                    seed,
                )
            },
        )?;
        for ((setting, variant, seed), found) in points.into_iter().zip(found) {
            let (task, variant) = (Task::named(SETTINGS[setting].name), &variants[variant]);
            table.record(&task, variant, &PSNR, seed, found.psnr)?;
            table.record(&task, variant, &SSIM, seed, found.ssim)?;
            table.record(&task, variant, &COST, seed, found.cost)?;
        }
        let mut checks = Vec::new();
        for setting in SETTINGS.iter().filter(|setting| is_tested(setting)) {
            let task = Task::named(setting.name);
            for baseline in [&LATENT, &PIXELS] {
                checks.push(table.compare(&task, &PSNR, &GIFD, baseline)?.headline());
            }
            for baseline in [&GIAS, &GGL, &SMOOTH] {
                checks.push(table.compare(&task, &PSNR, &GIFD, baseline)?);
            }
            checks.push(table.not_worse(&task, &PSNR, &GIFD, &LAST_RESTART)?);
            if setting.noise > 0.0 {
                let [with, without] = [
                    table.mean(&task, &GIFD, &PSNR)?,
                    table.mean(&task, &NO_BALL, &PSNR)?,
                ];
                checks.push(Check::new(
                    format!("{task}: the balls gain at least 2 dB"),
                    with - without >= 2.0,
                    format!("{with:.1} and {without:.1} dB"),
                ));
            }
        }
        let mut measurement = Measurement::new(table, checks);
        measurement.notes = vec![
            "The paper's networks (ResNet-18 on ImageNet and FFHQ, BigGAN and StyleGAN2) are out of reach of two cores; the \
             network and the generator here are small, and what the gradient tells is limited by sketches instead of by the \
             size of the pictures."
                .to_owned(),
            "PSNR is limited to 100 dB; labels are known to all attacks.".to_owned(),
            "GIAS has 2 restarts of 300 steps for the latent vector and 1200 steps for the weights, at the learning rates of \
             its own scripts; GGL 108 generations of 50 points, with the regulariser of its code. GIFD's comparison gave them \
             9000 steps and 40000 points, against 10000 or 13000 steps of its own."
                .to_owned(),
        ];
        Ok(measurement)
    }
}

/// The sizes of the experiment.
#[derive(Clone, Copy, Debug, Serialize)]
struct Plan {
    /// Steps of all stages and restarts together.
    steps: usize,
    restarts: usize,
    /// Points of a generation of GGL.
    candidates: usize,
    /// Gradients for each setting and seed.
    gradients: usize,
    epochs: usize,
    limit: Option<usize>,
}

impl Plan {
    fn new(quick: bool) -> Self {
        match quick {
            true => Self {
                steps: 12,
                restarts: 2,
                candidates: 9,
                gradients: 1,
                epochs: 1,
                limit: Some(300),
            },
            false => Self {
                steps: 1800,
                restarts: 2,
                candidates: 50,
                gradients: 4,
                epochs: 12,
                limit: None,
            },
        }
    }
}

/// Averaged to 14 × 14: those that the generator is trained on, and those that are attacked.
struct Pictures {
    training: Vec<f32>,
    test: Examples,
}

impl Pictures {
    fn open(plan: &Plan) -> Result<Self, ClaimError> {
        let data = DataConfig {
            source: "fashion".into(),
            limit: plan.limit,
            standardization: Standardization::None,
            ..DataConfig::default()
        };
        let data = data.open().map_err(ClaimError::experiment)?;
        Ok(Self {
            training: averaged(&data.training.features),
            test: Examples {
                features: averaged(&data.test.features),
                labels: data.test.labels.clone(),
            },
        })
    }

    fn generator(&self, plan: &Plan) -> Result<Decoder, String> {
        let training = DecoderTraining {
            epochs: plan.epochs,
            ..DecoderTraining::default()
        };
        let go = &mut |_: Progress<'_, ()>| ControlFlow::Continue(());
        let config = DecoderConfig::of(SHAPE);
        let trainer = training.trainer(&config, &self.training, &Device::flex());
        let trained = trainer.and_then(|mut trainer| {
            trainer.run(None, go)?;
            Ok(trainer.model().decoder())
        });
        trained.map_err(|error| error.to_string())
    }
}

/// 28 × 28 to 14 × 14, by the mean of 2 × 2.
fn averaged(features: &[f32]) -> Vec<f32> {
    // Pictures of an even height follow each other like rows of one.
    let squares = squares_of_four(features, 28);
    squares.map(|[a, b, c, d]| (a + b + c + d) / 4.0).collect()
}

/// A picture turned by 90 degrees.
fn turned(picture: &[f32]) -> Vec<f32> {
    let at = |i: usize| picture[14 * (13 - i % 14) + i / 14];
    (0..PIXEL_COUNT).map(at).collect()
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Found {
    psnr: f64,
    ssim: f64,
    cost: f64,
}

/// Streams of the seed.
const SKETCH: u64 = 1 << 40;
const NOISE: u64 = 1 << 41;

/// The means over the gradients of a setting.
fn attacked(
    plan: &Plan,
    known: &Pictures,
    generator: &Decoder,
    setting: &Setting,
    variant: &Variant,
    seed: u64,
) -> Result<Found, ClaimError> {
    let failed = |error: LeakageError| ClaimError::experiment(error);
    // As many pictures for each setting.
    let gradients = plan.gradients.div_ceil(setting.batch);
    let mut all: Vec<Found> = Vec::new();
    for gradient in 0..gradients as u64 {
        let own = seed * 1000 + gradient;
        let drawn = Secret::drawn(&known.test, SHAPE, CLASSES, setting.batch, own);
        let mut secret = drawn.map_err(failed)?;
        if setting.turned {
            secret.pictures = secret
                .pictures
                .iter()
                .map(|picture| turned(picture))
                .collect();
        }
        let device = Device::flex();
        let labels: Vec<usize> = secret.labels.iter().map(|&label| label as usize).collect();
        let loss = |network: &SmallNetwork, x: Tensor<2>| label_loss(network.scores(x), &labels);
        let network = SmallNetwork::new([PIXEL_COUNT, UNITS, CLASSES], Units::Tanh, own, &device);
        let oracle = GradientOracle::new(network.map_err(ClaimError::experiment)?, loss);
        let oracle = oracle.map_err(failed)?;
        let rows = rows(&secret.pictures, &device);
        let whole = oracle.gradient(&rows).map_err(failed)?;
        let mut observed = match setting.sketch {
            None => Observed::whole(whole),
            Some(length) => {
                let mut noise = SeededNoise::new(own, SKETCH);
                let dimension = oracle.layout().total_length();
                let sketch = SketchFamily::Count.draw(length, dimension, &mut noise);
                let sketch = sketch.map_err(ClaimError::experiment)?;
                Observed::sketched(&whole, sketch).map_err(failed)?
            }
        };
        if setting.noise > 0.0 {
            let [count] = observed.values.dims();
            let noise =
                SeededNoise::new(own, NOISE).normal::<1>([count], &observed.values.device());
            let length = |x: &Tensor<1>| x.clone().square().sum().sqrt();
            let scale = length(&observed.values) / length(&noise) * setting.noise;
            observed.values = observed.values + noise * scale;
        }
        let attack = Attacking {
            plan,
            generator,
            batch: setting.batch,
            seed: own,
            device: &device,
        };
        let found = if *variant == GGL {
            let tensors = oracle.layout().entries().len();
            let cost = |x: &Tensor<2>| oracle.cost(x, &observed, Distance::SquaredError);
            attack.without_slopes(&cost, tensors)
        } else {
            let objective = |x: &Tensor<2>| oracle.matched(x, &observed, Distance::Cosine);
            attack.along_slopes(&objective, variant)
        };
        let Recovered { pictures, cost } = found.map_err(failed)?;
        let values: Vec<f32> = pictures.into_data().iter().collect();
        let rebuilt: Vec<Vec<f32>> = values
            .chunks_exact(PIXEL_COUNT)
            .map(<[f32]>::to_vec)
            .collect();
        let order = matched(&secret.pictures, &rebuilt).map_err(ClaimError::experiment)?;
        for (truth, other) in secret.pictures.iter().zip(order) {
            all.push(Found {
                psnr: psnr(truth, &rebuilt[other]),
                ssim: ssim(truth, &rebuilt[other], SHAPE),
                cost,
            });
        }
    }
    let mean = |of: fn(&Found) -> f64| all.iter().map(of).sum::<f64>() / all.len().max(1) as f64;
    Ok(Found {
        psnr: mean(|found| found.psnr),
        ssim: mean(|found| found.ssim),
        cost: mean(|found| found.cost),
    })
}

/// An attack on one gradient.
struct Attacking<'a> {
    plan: &'a Plan,
    generator: &'a Decoder,
    batch: usize,
    seed: u64,
    device: &'a Device,
}

impl Attacking<'_> {
    fn without_slopes(
        &self,
        cost: &dyn Fn(&Tensor<2>) -> Result<f64, LeakageError>,
        tensors: usize,
    ) -> Result<Recovered, LeakageError> {
        let (candidates, seed) = (self.plan.candidates, self.seed);
        let config = GglConfig {
            // A step takes three gradients.
            generations: 3 * self.plan.steps / candidates,
            candidates,
            ..GglConfig::default()
        };
        let (generator, batch) = (self.generator, self.batch);
        ggl(cost, generator, batch, tensors, config, seed, self.device)
    }

    fn along_slopes(
        &self,
        objective: &Objective<'_>,
        variant: &Variant,
    ) -> Result<Recovered, LeakageError> {
        let (plan, seed, device) = (self.plan, self.seed, self.device);
        let (generator, batch) = (self.generator, self.batch);
        if let Some(total_variation) = pixel_prior(variant) {
            let config = InvertingConfig {
                steps: plan.steps,
                prior: PixelPrior {
                    total_variation,
                    norm: 0.0,
                },
                ..InvertingConfig::default()
            };
            return inverting_gradients(objective, batch, SHAPE, config, seed, device);
        }
        // Of three stages of GIFD; the two others' steps are the weights' in GIAS.
        let stage = plan.steps / (plan.restarts * 3);
        if *variant == GIAS {
            let config = GiasConfig {
                latent_steps: stage,
                weight_steps: plan.steps - plan.restarts * stage,
                restarts: plan.restarts,
                ..GiasConfig::default()
            };
            let found = gias(objective, generator, batch, config, seed, device)?;
            return Ok(Recovered {
                pictures: found.pictures,
                cost: found.cost,
            });
        }
        let radii = match *variant == LATENT {
            true => Vec::new(),
            false => vec![10.0, 30.0],
        };
        let config = GifdConfig {
            steps: plan.steps / (plan.restarts * (1 + radii.len())),
            restarts: plan.restarts,
            ball: *variant != NO_BALL,
            last_restart: *variant == LAST_RESTART,
            radii,
            ..GifdConfig::default()
        };
        let found = gifd(objective, generator, batch, &config, seed, device)?;
        Ok(Recovered {
            pictures: found.pictures,
            cost: found.cost,
        })
    }
}

/// The weight of the total variation, for an attack on pixels.
fn pixel_prior(variant: &Variant) -> Option<f64> {
    if *variant == PIXELS {
        Some(1e-4)
    } else if *variant == SMOOTH {
        Some(1e-2)
    } else {
        None
    }
}
