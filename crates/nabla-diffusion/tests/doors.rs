//! What a user can bring, in every sampler that there is: paths, ranks, guidance, corrections, options.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor};
use nabla_diffusion::asking::{Asking, Step};
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::denoiser::{
    Condition, Denoised, Denoiser, GaussianDenoiser, OwnError, Prediction, SamplerError, denoiser,
};
use nabla_diffusion::guidance::{CfgPlusPlus, ClassifierFree, Guidance, ModelAt, guidances};
use nabla_diffusion::level::{Level, Levels, NoisePath, StraightLine};
use nabla_diffusion::probability_flow::ProbabilityFlow;
use nabla_diffusion::registry::Options;
use nabla_diffusion::sampler::{Sampler, Sampling, Solver, Steps, samplers, shared, steps};
use nabla_diffusion::sampler_error::Cancelled;
use nabla_diffusion::schedule::{NoiseSchedule, NoiseScheduleConfig, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;

const SHAPE: [usize; 4] = [2, 1, 2, 3];

fn schedule(steps: usize) -> NoiseSchedule {
    let training = NoiseScheduleConfig::new().init().unwrap();
    training.respace(Spacing::Trailing, steps).unwrap()
}

/// The same with noise left at the end.
fn noisy_end(steps: usize) -> NoiseSchedule {
    let training = NoiseScheduleConfig::new().init().unwrap();
    let levels: Vec<Level> = (1..=steps)
        .map(|k| training.level(200 + k * (799 / steps)))
        .collect();
    NoiseSchedule::from_levels(&levels, training.alpha_bar(200))
        .unwrap()
        .of_training(&training)
}

fn largest<const D: usize>(x: Tensor<D>) -> f64 {
    x.abs().max().cast(DType::F64).into_scalar::<f64>()
}

fn full<const D: usize>(shape: [usize; D], value: f64) -> Tensor<D> {
    Tensor::full(shape, value, &Device::flex())
}

fn start<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    SeededNoise::new(3, 0).normal(shape, &Device::flex())
}

/// Two Gaussians, of which the condition chooses one; without it a wide one.
struct Conditioned;

impl Conditioned {
    fn gaussian(condition: Condition) -> Result<GaussianDenoiser, SamplerError> {
        let (mean, variance) = match condition {
            Condition::Given(0) => (0.6, 0.1),
            Condition::Given(1) => (-0.4, 0.2),
            Condition::Without => (0.1, 0.5),
            Condition::Given(_) => {
                return Err(SamplerError::NoCondition {
                    condition,
                    known: "2".to_owned(),
                });
            }
        };
        let (mean, variance) = (full([1; 4], mean), full([1; 4], variance));
        Ok(GaussianDenoiser::new(mean, variance, Prediction::Epsilon))
    }
}

impl Denoiser for Conditioned {
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

    /// A wider Gaussian.
    fn predict_perturbed(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<4>, OwnError> {
        Ok(self.predict_rows(x * 0.9, level, rows)? * 0.9)
    }

    /// Attends to what is bright.
    fn predict_attending(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<(Tensor<4>, Tensor<3>), OwnError> {
        let attention = x.clone().slice_dim(1, 0..1).squeeze_dim::<3>(1) + 1.0;
        Ok((self.predict_rows(x, level, rows)?, attention))
    }
}

/// Algorithm 2 of the paper, written out.
fn cfg_plus_plus_by_hand(levels: &Levels, strength: f64, mut x: Tensor<4>) -> Tensor<4> {
    for index in (0..levels.steps()).rev() {
        let (level, to) = (levels.level(index), levels.level_after(index));
        let asked = Conditioned.predict(x.clone(), level, &[Condition::Without, Condition::FIRST]);
        let mut asked = asked.unwrap();
        let (with, without) = (asked.remove(1), asked.remove(0));
        let guided = without.clone() + (with - without.clone()) * strength;
        let sample = (x - guided * level.noise()) / level.signal();
        x = sample * to.signal() + without * to.noise();
    }
    x
}

#[test]
fn cfg_plus_plus_is_its_formula_in_ddim_and_in_every_method_of_order_1() {
    let schedule = schedule(8);
    let guided = |solver: Arc<dyn Solver>| {
        let sampler = Sampler::new(solver, &schedule).unwrap();
        let mut guidance = CfgPlusPlus::new().with_scale(0.8);
        Sampling::of(&Conditioned)
            .guided_by(&mut guidance)
            .run(&sampler, start(SHAPE), &mut SeededNoise::new(1, 0))
            .unwrap()
    };
    let expected = cfg_plus_plus_by_hand(&(&schedule).into(), 0.8, start(SHAPE));
    for (name, options) in [
        ("ddim", vec![]),
        ("euler", vec![]),
        ("lms", vec!["order=1"]),
        ("deis", vec!["order=1"]),
        ("dpm++2m", vec!["order=1"]),
        ("dpm++2m", vec!["order=1", "algorithm=DpmSolver"]),
        ("dpm++2s", vec!["order=1"]),
        ("unipc", vec!["order=1", "uncorrected_steps=99"]),
    ] {
        let options = Options::parse(&options).unwrap();
        let found = guided(samplers().make(name, &options).unwrap());
        let error = largest(found - expected.clone());
        assert!(error < 2e-4, "{name} {options}: {error}");
    }
    // Classifier-free guidance is something else.
    let sampler = Sampler::new(Ddim::new(), &schedule).unwrap();
    let mut guidance = ClassifierFree::new().with_scale(0.8);
    let other = Sampling::of(&Conditioned)
        .guided_by(&mut guidance)
        .run(&sampler, start(SHAPE), &mut SeededNoise::new(1, 0))
        .unwrap();
    assert!(largest(other - expected) > 0.02);
}

/// Sample and direction that do not depend on the state: wherever a run begins, the state is made up of them
/// after its first step. Of a sampler that overwrites the direction the result depends on the start.
#[derive(Debug)]
struct Apart;

const SAMPLE: f64 = 0.3;
const DIRECTION: f64 = -0.7;

impl<const D: usize> Guidance<D> for Apart {
    fn guide(
        &mut self,
        step: &Step<'_, D>,
        _model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let sample = step.x.ones_like() * SAMPLE;
        let direction = step.x.ones_like() * DIRECTION;
        Ok(Denoised::new(sample, direction.clone()).with_direction(direction))
    }
}

#[test]
fn sample_and_direction_apart_are_honoured_by_every_sampler() {
    // Never asked, since the guidance knows the answer.
    let model = denoiser(Prediction::Epsilon, |_: Tensor<4>, _| {
        Err(std::io::Error::other("the model was asked"))
    });
    let run = |solver: Arc<dyn Solver>, levels: Levels| {
        let sampler = Sampler::new(solver, levels).unwrap();
        let mut guidance = Apart;
        Sampling::of(&model)
            .guided_by(&mut guidance)
            .run(&sampler, start(SHAPE), &mut SeededNoise::new(1, 0))
            .unwrap()
    };
    let names = samplers::<4>().names().into_iter();
    let solvers = names.map(|name| (name, samplers().get(name).unwrap()));
    let flow = ("probability flow", shared(ProbabilityFlow::new()));
    for (name, solver) in solvers.chain([flow]) {
        // Without noise at the end only the sample is left; LCM's boundary condition keeps a little of x.
        let end = run(solver.clone(), schedule(12).into());
        let error = largest(end - SAMPLE);
        let tolerance = if name == "lcm" { 2e-2 } else { 1e-3 };
        assert!(error < tolerance, "{name}: {error}");
        // With noise at the end the direction is too, unless the noise is fresh.
        let fresh = name.contains("ancestral") || name.contains("sde");
        if fresh || matches!(name, "ddpm" | "lcm") {
            continue;
        }
        let levels = Levels::from(noisy_end(12));
        let level = levels.end();
        let expected = SAMPLE * level.signal() + DIRECTION * level.noise();
        let error = largest(run(solver, levels) - expected);
        // There signal and noise themselves are integrated, by a method of order 2.
        let tolerance = if name == "velocity" { 5e-3 } else { 1e-3 };
        assert!(error < tolerance, "{name}: {error}");
    }
}

/// The variance-exploding path.
#[derive(Debug)]
struct Exploding;

impl NoisePath for Exploding {
    fn level_at(&self, time: f64) -> Level {
        Level::variance_exploding(time, time)
    }

    fn level_of_sigma(&self, sigma: f64) -> Level {
        self.level_at(sigma)
    }

    fn times(&self) -> [f64; 2] {
        [0.0, 200.0]
    }
}

/// The levels of the same `σ` on other paths: their states are the same in other scales, and so is the sample.
#[test]
fn every_sampler_goes_along_every_path() {
    let line = StraightLine::new().with_start(0.98).levels(10).unwrap();
    let sigmas: Vec<f64> = (0..10).map(|i| line.level(i).sigma()).collect();
    let exploding = sigmas.iter().map(|&sigma| Exploding.level_at(sigma));
    let end = Level::variance_exploding(0.0, 0.0);
    let exploding = Levels::new(exploding.collect(), end, Arc::new(Exploding)).unwrap();
    let training = NoiseScheduleConfig::new().init().unwrap();
    let falling: Vec<f64> = sigmas.iter().rev().copied().collect();
    let preserving = Levels::from(training.respace_to_sigmas(&falling).unwrap());
    let model = |prediction| GaussianDenoiser::new(full(SHAPE, 0.4), full(SHAPE, 0.09), prediction);
    for name in samplers::<4>().names() {
        let draw = |levels: &Levels, prediction| {
            let sampler = Sampler::new(samplers().get(name).unwrap(), levels.clone()).unwrap();
            let mut noise = SeededNoise::new(5, 0);
            let x = start(SHAPE) * levels.start().scale();
            sampler.sample(&model(prediction), x, &mut noise).unwrap()
        };
        let expected = draw(&preserving, Prediction::Sample);
        for levels in [&line, &exploding] {
            for prediction in Prediction::ALL {
                let error = largest(draw(levels, prediction) - expected.clone());
                // PNDM's weights and LCM's boundary condition are functions of the time, which is another.
                let tolerance = match name {
                    "lcm" => 0.6,
                    "pndm" | "s-pndm" | "plms" => 0.3,
                    // Its steps are those of the path's time.
                    "velocity" => 0.05,
                    _ => 2e-3,
                };
                assert!(
                    error < tolerance,
                    "{name} {prediction:?} {levels:?}: {error}"
                );
            }
        }
    }
}

/// The equation on the line, against the closed form.
#[test]
fn the_probability_flow_follows_the_straight_line() {
    let shape = [1, 1, 1, 4];
    let double = |value: f64| Tensor::<4>::full(shape, value, (&Device::flex(), DType::F64));
    let model = GaussianDenoiser::new(double(0.4), double(0.09), Prediction::Flow);
    let levels = StraightLine::new().levels(5).unwrap();
    let flow = ProbabilityFlow::new().with_rtol(1e-8).with_atol(1e-8);
    let x = double(1.3);
    let sampling = Sampling::of(&model);
    let found = flow
        .solve(&levels, sampling, x.clone(), 0.95, 0.05)
        .unwrap();
    let exact = model.transport(x.clone(), Level::straight(0.95), Level::straight(0.05));
    let error = largest(found.x - exact);
    assert!(error < 1e-6, "{error}");
    // The ends of the line have no equation.
    for (from, to) in [(1.0, 0.5), (0.5, 0.0)] {
        let refused = flow.solve(&levels, Sampling::of(&model), x.clone(), from, to);
        assert!(refused.is_err(), "{from} {to}");
    }
}

/// As flow matching is sampled: Euler's method along the velocity, from pure noise.
#[test]
fn ddim_on_the_straight_line_is_eulers_method_of_flow_matching() {
    let velocity = |x: Tensor<2>, time: f64| x * 0.3 - time;
    let model = nabla_diffusion::denoiser::flow_denoiser(velocity);
    let levels = StraightLine::new().with_shift(3.0).levels(6).unwrap();
    let sampler = Sampler::new(Ddim::new(), levels.clone()).unwrap();
    let x = start([5, 3]);
    let found = sampler
        .sample(&model, x.clone(), &mut SeededNoise::new(0, 0))
        .unwrap();
    let mut expected = x;
    for index in (0..6).rev() {
        let (from, to) = (levels.level(index).time(), levels.level_after(index).time());
        let slope = velocity(expected.clone(), from);
        expected = expected + slope * (to - from);
    }
    assert!(largest(found - expected) < 1e-5);
}

fn every_sampler_draws<const D: usize>(shape: [usize; D]) {
    let schedule = schedule(6);
    let model = GaussianDenoiser::new(full(shape, 0.2), full(shape, 0.05), Prediction::Velocity);
    // The same numbers in one row are the same sample.
    let count = shape.iter().product();
    let row = GaussianDenoiser::new(
        full([1, count], 0.2),
        full([1, count], 0.05),
        Prediction::Velocity,
    );
    for name in samplers::<D>().names() {
        let sampler = Sampler::new(samplers().get(name).unwrap(), &schedule).unwrap();
        let mut noise = SeededNoise::new(1, 0);
        let found = sampler.sample(&model, start(shape), &mut noise).unwrap();
        assert_eq!(found.dims(), shape, "{name}");
        let sampler = Sampler::new(samplers().get(name).unwrap(), &schedule).unwrap();
        let mut noise = SeededNoise::new(1, 0);
        let flat = sampler.sample(&row, start([1, count]), &mut noise).unwrap();
        let error = largest(found.reshape([1, count]) - flat);
        assert_eq!(error, 0.0, "{name}");
    }
}

#[test]
fn every_sampler_draws_tensors_of_any_rank() {
    every_sampler_draws([12]);
    every_sampler_draws([3, 4]);
    every_sampler_draws([2, 5, 3]);
    every_sampler_draws([1, 2, 3, 2, 4]);
}

/// A model, a guidance and a correction that fail, each with an error of its own.
#[test]
fn errors_of_ones_own_come_out_of_every_sampler_as_themselves() {
    #[derive(Debug, thiserror::Error)]
    #[error("call {0} is one too many")]
    struct TooMany(usize);

    #[derive(Debug)]
    struct Moody;
    impl Guidance for Moody {
        fn guide(
            &mut self,
            step: &Step<'_>,
            model: &mut ModelAt<'_>,
        ) -> Result<Denoised, OwnError> {
            let [output] = model.ask([Condition::FIRST])?;
            match step.call {
                2 => Err(TooMany(step.call).into()),
                _ => Ok(model.read(output)?),
            }
        }
    }

    for name in samplers::<4>().names() {
        let sampler = Sampler::new(samplers().get(name).unwrap(), schedule(6)).unwrap();
        let calls = std::cell::Cell::new(0);
        let fails_at = |at: usize| {
            let calls = &calls;
            calls.set(0);
            denoiser(Prediction::Sample, move |x: Tensor<4>, _| {
                calls.set(calls.get() + 1);
                match calls.get() == at {
                    true => Err(TooMany(at)),
                    false => Ok(x * 0.5),
                }
            })
        };
        let noise = &mut SeededNoise::new(0, 0);
        let error = sampler
            .sample(&fails_at(3), start(SHAPE), noise)
            .unwrap_err();
        assert_eq!(error.to_string(), "call 3 is one too many", "{name}");
        assert_eq!(error.own::<TooMany>().unwrap().0, 3, "{name}");

        let model = fails_at(0);
        let mut guidance = Moody;
        let sampling = Sampling::of(&model).guided_by(&mut guidance);
        let error = sampling.run(&sampler, start(SHAPE), noise).unwrap_err();
        assert_eq!(error.own::<TooMany>().unwrap().0, 2, "{name}");
        assert_eq!(calls.get(), 3, "{name}");

        let model = fails_at(0);
        let mut stop = |step: &Step<'_>, d: Denoised| match step.call {
            2 => Err(Cancelled),
            _ => Ok(d),
        };
        let sampling = Sampling::of(&model).corrected_by(&mut stop);
        let error = sampling.run(&sampler, start(SHAPE), noise).unwrap_err();
        assert!(matches!(error, SamplerError::Cancelled), "{name}: {error}");
        assert_eq!(calls.get(), 3, "{name}");

        // Of another shape.
        let mut wide = |_: &Step<'_>, d: Denoised| {
            let sample = d.sample.clone().repeat_dim(3, 2);
            d.with_sample(sample)
        };
        let model = fails_at(0);
        let sampling = Sampling::of(&model).corrected_by(&mut wide);
        let error = sampling.run(&sampler, start(SHAPE), noise).unwrap_err();
        assert!(
            matches!(error, SamplerError::PredictionShape { .. }),
            "{name}"
        );
    }
}

/// The registry says what is true of every member: its calls, its options, its errors.
#[test]
fn every_sampler_keeps_what_its_registry_says() {
    let model = GaussianDenoiser::new(full(SHAPE, 0.2), full(SHAPE, 0.05), Prediction::Epsilon);
    for entry in samplers::<4>().entries() {
        let (name, solver) = (entry.name(), samplers::<4>().get(entry.name()).unwrap());
        assert!(
            !entry.about().is_empty() && entry.about().is_ascii(),
            "{name}"
        );
        let least = solver.least_steps();
        for steps in [least, least + 3] {
            let sampler = Sampler::new(solver.clone(), schedule(steps)).unwrap();
            let mut calls = 0;
            let mut count = |step: &Step<'_>, d: Denoised| {
                assert_eq!((step.call, step.steps), (calls, steps), "{name}");
                calls += 1;
                d
            };
            let sampling = Sampling::of(&model).corrected_by(&mut count);
            let mut noise = SeededNoise::new(0, 0);
            sampling.run(&sampler, start(SHAPE), &mut noise).unwrap();
            assert_eq!(
                (calls, solver.calls(steps)),
                (sampler.calls(), calls),
                "{name}"
            );
        }
        if least > 1 {
            let error = Sampler::<4>::new(solver, schedule(least - 1)).unwrap_err();
            assert!(matches!(error, SamplerError::TooFewSteps { .. }), "{name}");
        }
        // Its defaults are options, and every one of them is checked where it can be wrong.
        let again = samplers::<4>().make(name, entry.defaults()).unwrap();
        let first = samplers::<4>().get(name).unwrap();
        assert_eq!(format!("{again:?}"), format!("{first:?}"));
        for (option, wrong) in [
            ("eta", "7"),
            ("clip", "-1"),
            ("order", "9"),
            ("churn", "-2"),
        ] {
            if entry.defaults().iter().any(|(known, _)| known == option) {
                let texts = [format!("{option}={wrong}")];
                let made = samplers::<4>().make(name, &Options::parse(&texts).unwrap());
                let error = Sampler::<4>::new(made.unwrap(), schedule(8)).unwrap_err();
                assert!(matches!(error, SamplerError::Range(_)), "{name}: {error}");
                assert!(error.to_string().contains(wrong), "{name}: {error}");
            }
        }
        let texts = Options::parse(&["nonsense=1"]).unwrap();
        let error = samplers::<4>().make(name, &texts).unwrap_err().to_string();
        for (option, _) in entry.defaults().iter() {
            assert!(error.contains(option), "{name}: {error}");
        }
    }
}

#[test]
fn churn_is_an_option_in_two_forms() {
    let make = |text: &str| {
        let made = samplers::<4>().make("euler", &Options::parse(&[text]).unwrap());
        made.map(|solver| format!("{solver:?}"))
            .map_err(|e| e.to_string())
    };
    let short = make("churn=0.3").unwrap();
    assert!(
        short.contains("amount: 0.3") && short.contains("noise_scale: 1.0"),
        "{short}"
    );
    let long = make("churn={\"amount\": 40, \"noise_scale\": 1.003}").unwrap();
    assert!(
        long.contains("amount: 40.0") && long.contains("noise_scale: 1.003"),
        "{long}"
    );
    let error = make("churn=much").unwrap_err();
    assert!(
        error.contains("it must be a number, or an object with amount"),
        "{error}"
    );
}

#[test]
fn every_guidance_begins_and_combines() {
    for entry in guidances::<4>().entries() {
        let name = entry.name();
        let mut guidance = guidances::<4>().get(name).unwrap();
        for sampler in samplers::<4>().names() {
            let sampler = Sampler::new(samplers().get(sampler).unwrap(), schedule(5)).unwrap();
            let end = Sampling::of(&Conditioned)
                .guided_by(&mut guidance)
                .run(&sampler, start(SHAPE), &mut SeededNoise::new(0, 0))
                .unwrap();
            assert!(largest(end).is_finite(), "{name}");
        }
    }
    let refused = |options: &[&str]| {
        let options = Options::parse(options).unwrap();
        let mut guidance = guidances::<4>().make("classifier-free", &options).unwrap();
        let sampler = Sampler::new(Ddim::new(), schedule(5)).unwrap();
        let sampling = Sampling::of(&Conditioned).guided_by(&mut guidance);
        let run = sampling.run(&sampler, start(SHAPE), &mut SeededNoise::new(0, 0));
        run.unwrap_err().to_string()
    };
    assert_eq!(
        refused(&["rescale=2"]),
        "the guidance rescale is 2, but it must be in [0, 1]"
    );
    // A model with one condition bound to it has no other.
    let bound = denoiser(Prediction::Sample, |x: Tensor<4>, _| x);
    let sampler = Sampler::new(Ddim::new(), schedule(5)).unwrap();
    let mut guidance = ClassifierFree::new();
    let error = Sampling::of(&bound)
        .guided_by(&mut guidance)
        .run(&sampler, start(SHAPE), &mut SeededNoise::new(0, 0))
        .unwrap_err();
    assert!(matches!(
        error,
        SamplerError::NoCondition {
            condition: Condition::Without,
            ..
        }
    ));
}

/// A momentum over the guidance's own steps, forgotten between runs.
#[derive(Debug, Default)]
struct Momentum {
    mean: Option<Tensor<4>>,
}

impl Guidance for Momentum {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        self.mean = None;
        Ok(())
    }

    fn guide(&mut self, _step: &Step<'_>, model: &mut ModelAt<'_>) -> Result<Denoised, OwnError> {
        let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
        let difference = with - without.clone();
        let mean = match self.mean.take() {
            Some(mean) => mean * 0.5 + difference * 0.5,
            None => difference,
        };
        self.mean = Some(mean.clone());
        Ok(model.read(without + mean * 2.0)?)
    }
}

#[test]
fn a_guidance_remembers_within_a_run_and_forgets_between_two() {
    let sampler = Sampler::new(Ddim::new(), schedule(6)).unwrap();
    let mut momentum = Momentum::default();
    let mut draw = || {
        Sampling::of(&Conditioned)
            .guided_by(&mut momentum)
            .run(&sampler, start(SHAPE), &mut SeededNoise::new(0, 0))
            .unwrap()
    };
    let (first, second) = (draw(), draw());
    assert_eq!(largest(first.clone() - second), 0.0);
    let mut plain = ClassifierFree::new().with_scale(2.0);
    let other = Sampling::of(&Conditioned)
        .guided_by(&mut plain)
        .run(&sampler, start(SHAPE), &mut SeededNoise::new(0, 0))
        .unwrap();
    assert!(largest(first - other) > 1e-3);
}

/// A sampler in a file of its own, in a registry of one's own beside ours.
#[derive(burn::config::Config, Debug, Copy, PartialEq)]
struct Toy {
    /// How much of the sample is kept.
    #[config(default = 1.0)]
    keep: f64,
}

impl<const D: usize> Solver<D> for Toy {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let answer = ask.ask(x, index, levels.level(index))?;
            let to = levels.level_after(index);
            Ok(to.mix(answer.sample * self.keep, answer.epsilon))
        }))
    }
}

#[test]
fn a_sampler_of_ones_own_is_a_member_like_ours() {
    let family = samplers().with("toy", "DDIM as a toy", Toy::new(), shared);
    let model = GaussianDenoiser::new(full(SHAPE, 0.2), full(SHAPE, 0.05), Prediction::Epsilon);
    let draw = |solver: Arc<dyn Solver>| {
        let sampler = Sampler::new(solver, schedule(6)).unwrap();
        let mut noise = SeededNoise::new(0, 0);
        sampler.sample(&model, start(SHAPE), &mut noise).unwrap()
    };
    let toy = draw(family.get("toy").unwrap());
    assert!(largest(toy - draw(family.get("ddim").unwrap())) < 2e-3);
    let none = family
        .make("toy", &Options::new().with("keep", 0.0))
        .unwrap();
    assert_eq!(largest(draw(none)), 0.0);
    assert_eq!(family.names().len(), samplers::<4>().names().len() + 1);
}
