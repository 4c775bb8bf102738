//! What holds for every guidance in every sampler: rows, calls, scales.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};
use nabla_diffusion::denoiser::{
    Condition, Denoiser, GaussianDenoiser, OwnError, Prediction, RowConditions, SamplerError,
};
use nabla_diffusion::guidance::{
    AdaptiveConfig, ClassifierFree, Evaluations, Guidance, LimitedInterval, NoGuidance, guidances,
};
use nabla_diffusion::level::Level;
use nabla_diffusion::registry::Options;
use nabla_diffusion::sampler::{Sampler, Sampling, Solver, samplers};
use nabla_diffusion::schedule::{NoiseSchedule, NoiseScheduleConfig, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;

const SHAPE: [usize; 4] = [3, 1, 4, 4];

fn schedule(steps: usize) -> NoiseSchedule {
    let training = NoiseScheduleConfig::new().init().unwrap();
    training.respace(Spacing::Trailing, steps).unwrap()
}

fn start() -> Tensor<4> {
    SeededNoise::new(3, 0).normal(SHAPE, &Device::flex())
}

fn largest(x: Tensor<4>) -> f64 {
    x.abs().max().cast(DType::F64).into_scalar::<f64>()
}

fn row(x: &Tensor<4>, row: usize) -> Tensor<4> {
    x.clone().slice_dim(0, row..row + 1)
}

/// Three narrow Gaussians as classes, and a wide one without; with some self-attention to speak of.
struct Classes;

impl Classes {
    fn gaussian(condition: Condition) -> Result<GaussianDenoiser, SamplerError> {
        let (mean, variance) = match condition {
            Condition::Given(0) => (0.6, 0.1),
            Condition::Given(1) => (-0.4, 0.02),
            Condition::Given(2) => (0.0, 0.5),
            Condition::Without => (0.1, 0.6),
            Condition::Given(_) => {
                return Err(SamplerError::NoCondition {
                    condition,
                    known: "3".to_owned(),
                });
            }
        };
        let full = |value: f64| Tensor::full([1; 4], value, &Device::flex());
        let (mean, variance) = (full(mean), full(variance));
        Ok(GaussianDenoiser::new(mean, variance, Prediction::Epsilon))
    }
}

impl Denoiser for Classes {
    fn prediction(&self) -> Prediction {
        Prediction::Epsilon
    }

    fn predict(
        &self,
        x: Tensor<4>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        let each = conditions.iter();
        each.map(|&c| Ok(Self::gaussian(c)?.answer(x.clone(), level)))
            .collect()
    }

    fn predict_perturbed(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<4>, OwnError> {
        Ok(self.predict_rows(x * 0.9, level, rows)? * 0.9)
    }

    fn predict_attending(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<(Tensor<4>, Tensor<3>), OwnError> {
        let attention = x.clone().squeeze_dim::<3>(1) + 1.0;
        Ok((self.predict_rows(x, level, rows)?, attention))
    }
}

/// A class for each row.
fn labels() -> Vec<Condition> {
    (0..3).map(Condition::Given).collect()
}

fn run(
    model: &dyn Denoiser,
    guidance: &mut dyn Guidance,
    solver: Arc<dyn Solver>,
    x: Tensor<4>,
) -> (Tensor<4>, Evaluations) {
    let sampler = Sampler::new(solver, schedule(8)).unwrap();
    let mut evaluations = Evaluations::new();
    let found = Sampling::of(model)
        .guided_by(guidance)
        .counted_in(&mut evaluations)
        .run(&sampler, x, &mut SeededNoise::new(0, 0))
        .unwrap();
    (found, evaluations)
}

/// Every member in every sampler, in batches and alone.
#[test]
fn every_guidance_works_in_every_sampler_and_rows_do_not_influence_each_other() {
    let all = RowConditions::new(&Classes, labels());
    for entry in guidances::<4>().entries() {
        // An adaptive guidance that releases the rows in different steps.
        let options = match entry.name() {
            "adaptive" => vec!["threshold=0.9", "rising=false", "scale=2"],
            "limited-interval" => vec!["low=0.2", "high=3", "scale=2"],
            "cfg++" | "none" => vec![],
            _ => vec!["scale=2"],
        };
        let options = Options::parse(&options).unwrap();
        let mut guidance = guidances::<4>().make(entry.name(), &options).unwrap();
        for name in samplers::<4>().names() {
            let what = format!("{} in {name}", entry.name());
            let solver = || samplers::<4>().get(name).unwrap();
            let (found, evaluations) = run(&all, &mut guidance, solver(), start());
            assert!(largest(found.clone()).is_finite(), "{what}");
            let queries = solver().calls(8);
            assert_eq!(evaluations.of_classifier_free(), 2 * 3 * queries, "{what}");
            assert_eq!(evaluations.each().len(), 3, "{what}");
            let total: usize = evaluations.each().iter().sum();
            assert_eq!(evaluations.total(), total, "{what}");
            match entry.name() {
                "none" => assert_eq!(total, 3 * queries, "{what}"),
                "adaptive" | "limited-interval" => {
                    assert!(
                        (3 * queries..6 * queries).contains(&total),
                        "{what}: {total}"
                    );
                }
                "perturbed-attention" | "self-attention" => {
                    assert_eq!(total, 9 * queries, "{what}")
                }
                _ => assert_eq!(evaluations.saved(), 0, "{what}"),
            }
            // The noise of a step belongs to the whole batch.
            if name.contains("ancestral") || name.contains("sde") || matches!(name, "ddpm" | "lcm")
            {
                continue;
            }
            for (number, &label) in labels().iter().enumerate() {
                let alone = RowConditions::new(&Classes, vec![label]);
                let (one, of_one) = run(&alone, &mut guidance, solver(), row(&start(), number));
                let error = largest(one - row(&found, number));
                assert!(error < 1e-5, "{what}, row {number}: {error}");
                assert_eq!(
                    of_one.each(),
                    &evaluations.each()[number..=number],
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn adaptive_guidance_with_the_threshold_1_is_classifier_free_guidance_bit_for_bit() {
    let model = RowConditions::new(&Classes, labels());
    for name in samplers::<4>().names() {
        let solver = || samplers::<4>().get(name).unwrap();
        for rescale in [0.0, 0.5] {
            let mut usual = ClassifierFree::new().with_rescale(rescale);
            let config = AdaptiveConfig::new().with_threshold(1.0).with_warm_up(0);
            let mut adaptive = config.with_rescale(rescale).init();
            let (expected, _) = run(&model, &mut usual, solver(), start());
            let (found, evaluations) = run(&model, &mut adaptive, solver(), start());
            assert_eq!(largest(found - expected), 0.0, "{name}");
            assert_eq!(evaluations.saved(), 0, "{name}");
        }
    }
}

#[test]
fn the_scale_1_is_the_model_under_the_condition() {
    let model = RowConditions::new(&Classes, labels());
    for name in ["ddim", "dpm++2m", "heun"] {
        let solver = || samplers::<4>().get(name).unwrap();
        let (expected, _) = run(&model, &mut NoGuidance::new(), solver(), start());
        for member in ["classifier-free", "apg", "adaptive", "limited-interval"] {
            let options = Options::parse(&["scale=1"]).unwrap();
            let mut guidance = guidances::<4>().make(member, &options).unwrap();
            let (found, _) = run(&model, &mut guidance, solver(), start());
            let error = largest(found - expected.clone());
            assert!(error < 1e-5, "{member} in {name}: {error}");
        }
    }
}

#[test]
fn the_interval_says_where_there_is_guidance() {
    let model = RowConditions::new(&Classes, labels());
    let solver = || samplers::<4>().get("ddim").unwrap();
    let usual = ClassifierFree::new().with_scale(3.0);
    let (all, _) = run(&model, &mut usual.clone(), solver(), start());
    let mut everywhere = LimitedInterval::new(0.0, f64::INFINITY, usual);
    let (found, evaluations) = run(&model, &mut everywhere, solver(), start());
    assert_eq!(largest(found - all), 0.0);
    assert_eq!(evaluations.saved(), 0);
    // Its end belongs to it, its beginning does not.
    let levels = schedule(8);
    let levels = nabla_diffusion::level::Levels::from(levels);
    let sigma = |index: usize| levels.level(index).sigma();
    let mut some = LimitedInterval::new(sigma(2), sigma(5), usual);
    let (_, evaluations) = run(&model, &mut some, solver(), start());
    assert_eq!(evaluations.each(), [8 + 3; 3]);
    let mut wrong = LimitedInterval::new(3.0, 1.0, usual);
    let error = Guidance::<4>::begin(&mut wrong, 8).unwrap_err().to_string();
    assert!(
        error.contains("upper end of the guidance interval is 1"),
        "{error}"
    );
}

#[test]
fn what_a_guidance_cannot_do_is_said_in_one_sentence() {
    let begun = |name: &str, options: &[&str]| {
        let options = Options::parse(options).unwrap();
        let mut guidance = guidances::<4>().make(name, &options).unwrap();
        guidance.begin(8).unwrap_err().to_string()
    };
    for (name, option, told) in [
        (
            "cfg++",
            "scale=7.5",
            "the scale of CFG++ is 7.5, but it must be in [0, 1]",
        ),
        (
            "apg",
            "eta=-1",
            "the eta of APG is -1, but it must be in [0, 1]",
        ),
        (
            "adaptive",
            "threshold=2",
            "the threshold of adaptive guidance is 2",
        ),
        (
            "limited-interval",
            "low=-1",
            "lower end of the guidance interval is -1",
        ),
    ] {
        let error = begun(name, &[option]);
        assert!(
            error.starts_with("the ") && error.contains(told),
            "{name}: {error}"
        );
    }
    let mut beyond = guidances::<4>()
        .make(
            "cfg++",
            &Options::parse(&["scale=1.5", "extrapolate=true"]).unwrap(),
        )
        .unwrap();
    beyond.begin(8).unwrap();

    // A model without self-attention.
    let model = GaussianDenoiser::new(start() * 0.0, start() * 0.0 + 1.0, Prediction::Epsilon);
    for name in ["perturbed-attention", "self-attention"] {
        let options = Options::parse(&["scale=1"]).unwrap();
        let mut guidance = guidances::<4>().make(name, &options).unwrap();
        let sampler = Sampler::new(samplers().get("ddim").unwrap(), schedule(4)).unwrap();
        let sampling = Sampling::of(&model).guided_by(&mut guidance);
        let error = sampling
            .run(&sampler, start(), &mut SeededNoise::new(0, 0))
            .unwrap_err();
        assert!(
            matches!(error, SamplerError::NoSelfAttention),
            "{name}: {error}"
        );
    }

    // As many conditions as rows, and no other rows.
    let two = RowConditions::new(&Classes, labels()[..2].to_vec());
    let sampler = Sampler::new(samplers().get("ddim").unwrap(), schedule(4)).unwrap();
    let error = Sampling::of(&two).run(&sampler, start(), &mut SeededNoise::new(0, 0));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("the number of conditions is 2, but it must be 3"),
        "{error}"
    );
    let mut evaluations = Evaluations::new();
    let x = start();
    let level = Level::straight(0.5);
    let mut at = nabla_diffusion::guidance::ModelAt::new(&Classes, &x, level, &mut evaluations);
    let error = at.ask_rows(&[(3, Condition::FIRST)]).unwrap_err();
    assert!(
        matches!(error, SamplerError::NoRow { row: 3, rows: 3 }),
        "{error}"
    );
}
