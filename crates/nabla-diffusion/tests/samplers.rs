//! DDPM and DDIM: single steps against diffusers, whole runs against the closed form for Gaussian
//! data.

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::range::OutOfRange;
use nabla_diffusion::asking::Step;
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::ddpm::{Ddpm, Variance};
use nabla_diffusion::denoiser::{
    Condition, Denoised, Denoiser, GaussianDenoiser, Prediction, SamplerError, denoiser,
    flow_denoiser,
};
use nabla_diffusion::level::{Level, Levels, alpha_bar_from_flow_time};
use nabla_diffusion::sampler::{Sampler, Sampling};
use nabla_diffusion::schedule::{BetaSchedule, NoiseSchedule, NoiseScheduleConfig, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::sigma_spacing::KarrasSigmas;
use proptest::prelude::*;
use serde_json::Value;

use crate::reference_values::{floats, reference, tensor, values};

fn training_schedule(name: &str) -> NoiseSchedule {
    let config = NoiseScheduleConfig::new();
    match name {
        "linear" => config,
        "scaled_linear" => config.with_betas(BetaSchedule::STABLE_DIFFUSION),
        "cosine" => config.with_betas(BetaSchedule::COSINE),
        "zero_terminal" => config
            .with_betas(BetaSchedule::STABLE_DIFFUSION)
            .with_zero_terminal_snr(true),
        _ => panic!("no schedule {name}"),
    }
    .init()
    .unwrap()
}

fn prediction(name: &str) -> Prediction {
    match name {
        "epsilon" => Prediction::Epsilon,
        "sample" => Prediction::Sample,
        "v_prediction" => Prediction::Velocity,
        _ => panic!("no prediction {name}"),
    }
}

/// The schedule of a reference case.
fn schedule(case: &Value) -> NoiseSchedule {
    let spacing = match case["spacing"].as_str().unwrap() {
        "linspace" => Spacing::Linspace,
        "leading" => Spacing::Leading {
            offset: case["offset"].as_u64().unwrap_or(0) as usize,
        },
        _ => Spacing::Trailing,
    };
    let training = training_schedule(case["schedule"].as_str().unwrap());
    let short = training
        .respace(spacing, case["count"].as_u64().unwrap() as usize)
        .unwrap();
    if case["final_alpha_bar_is_one"].as_bool() == Some(false) {
        short.with_final_alpha_bar(training.alpha_bar(0)).unwrap()
    } else {
        short
    }
}

struct Inputs {
    x: Tensor<4>,
    output: Tensor<4>,
    variance: Tensor<4>,
    noise: Tensor<4>,
}

fn inputs(reference: &Value) -> Inputs {
    let shape: Vec<usize> = floats(&reference["shape"])
        .into_iter()
        .map(|n| n as usize)
        .collect();
    let shape = [shape[0], shape[1], shape[2], shape[3]];
    let get = |name: &str| tensor(&reference["inputs"][name], shape);
    Inputs {
        x: get("x"),
        output: get("output"),
        variance: get("variance"),
        noise: get("noise"),
    }
}

/// Every value within `tolerance` of the expected one, relative above 1.
fn assert_close(found: &Tensor<4>, expected: &[f64], tolerance: f64, case: &str) {
    let found = values(found);
    assert_eq!(found.len(), expected.len(), "{case}");
    for (found, expected) in found.into_iter().zip(expected) {
        let error = (f64::from(found) - expected).abs() / expected.abs().max(1.0);
        assert!(error < tolerance, "{case}: {found} instead of {expected}");
    }
}

fn describe(case: &Value) -> String {
    let mut case = case.clone();
    let fields = case.as_object_mut().unwrap();
    fields.remove("sample");
    fields.remove("previous");
    case.to_string()
}

#[test]
fn ddpm_steps_agree_with_diffusers() {
    let reference = reference("diffusers_reference.json");
    let inputs = inputs(&reference);
    for case in reference["ddpm"].as_array().unwrap() {
        let name = describe(case);
        let index = case["index"].as_u64().unwrap() as usize;
        let (variance, output) = match case["variance"].as_str().unwrap() {
            "fixed_small" => (Variance::FixedSmall, inputs.output.clone()),
            "fixed_large" => (Variance::FixedLarge, inputs.output.clone()),
            _ => (
                Variance::LearnedRange,
                Tensor::cat(vec![inputs.output.clone(), inputs.variance.clone()], 1),
            ),
        };
        let schedule = schedule(case);
        assert_eq!(
            schedule.timestep(index),
            case["timestep"].as_f64().unwrap(),
            "{name}"
        );
        let levels = Levels::from(schedule);
        let sampler = Ddpm::new()
            .with_variance(variance)
            .with_clip(case["clip"].as_f64());
        let kind = prediction(case["prediction"].as_str().unwrap());
        let model = denoiser(kind, |_: Tensor<4>, _| output.clone());
        let denoised = sampler.denoise(&levels, &model, &inputs.x, index).unwrap();
        assert_close(&denoised.sample, &floats(&case["sample"]), 2e-5, &name);
        let previous = sampler
            .step(
                &levels,
                inputs.x.clone(),
                denoised,
                index,
                Some(inputs.noise.clone()),
            )
            .unwrap();
        assert_close(&previous, &floats(&case["previous"]), 1e-5, &name);
    }
}

#[test]
fn ddim_steps_agree_with_diffusers() {
    let reference = reference("diffusers_reference.json");
    let inputs = inputs(&reference);
    for case in reference["ddim"].as_array().unwrap() {
        let name = describe(case);
        let index = case["index"].as_u64().unwrap() as usize;
        let schedule = schedule(case);
        assert_eq!(
            schedule.timestep(index),
            case["timestep"].as_f64().unwrap(),
            "{name}"
        );
        let levels = Levels::from(schedule);
        let sampler = Ddim::new()
            .with_eta(case["eta"].as_f64().unwrap())
            .with_clip(case["clip"].as_f64())
            .with_rederive_epsilon(case["rederive_epsilon"].as_bool().unwrap());
        let kind = prediction(case["prediction"].as_str().unwrap());
        let model = denoiser(kind, |_: Tensor<4>, _| inputs.output.clone());
        let denoised = sampler.denoise(&levels, &model, &inputs.x, index).unwrap();
        assert_close(&denoised.sample, &floats(&case["sample"]), 2e-5, &name);
        let previous = sampler.step(&levels, denoised, index, Some(inputs.noise.clone()));
        assert_close(&previous, &floats(&case["previous"]), 1e-5, &name);
    }
}

/// Four kinds of pixels, 4096 of each: `[1, 4, 64, 64]`.
const MEANS: [f64; 4] = [0.7, -0.4, 0.0, 0.2];
const VARIANCES: [f64; 4] = [0.04, 0.5, 1.0, 0.0025];

fn gaussian(prediction: Prediction) -> GaussianDenoiser {
    let channels = |values: [f64; 4]| {
        Tensor::<4>::from_data(
            TensorData::new(values.to_vec(), [1, 4, 1, 1]),
            &Device::flex(),
        )
    };
    GaussianDenoiser::new(channels(MEANS), channels(VARIANCES), prediction)
}

fn start() -> Tensor<4> {
    SeededNoise::new(1, 0).normal([1, 4, 64, 64], &Device::flex())
}

fn root_mean_square(x: Tensor<4>) -> f64 {
    f64::from(x.square().mean().sqrt().into_scalar::<f32>())
}

#[test]
fn ddim_with_full_noise_is_ddpm() {
    for prediction in Prediction::ALL {
        let schedule = training_schedule("linear")
            .respace(Spacing::Linspace, 25)
            .unwrap();
        let model = gaussian(prediction);
        let ddpm = Sampler::new(Ddpm::new(), &schedule).unwrap();
        let ddim = Sampler::new(Ddim::new().with_eta(1.0), &schedule).unwrap();
        let ancestral = ddpm
            .sample(&model, start(), &mut SeededNoise::new(2, 0))
            .unwrap();
        let implicit = ddim
            .sample(&model, start(), &mut SeededNoise::new(2, 0))
            .unwrap();
        assert_close(
            &implicit,
            &values(&ancestral)
                .into_iter()
                .map(f64::from)
                .collect::<Vec<_>>(),
            2e-5,
            &format!("{prediction:?}"),
        );
    }
}

/// Errors of `measure` at the step counts and the orders between successive ones.
fn orders(counts: &[usize], measure: impl Fn(usize) -> f64) -> (Vec<f64>, Vec<f64>) {
    let errors: Vec<f64> = counts.iter().map(|&n| measure(n)).collect();
    let orders = (1..counts.len())
        .map(|i| (errors[i - 1] / errors[i]).ln() / (counts[i] as f64 / counts[i - 1] as f64).ln())
        .collect();
    (errors, orders)
}

/// Karras levels, a smooth grid in the step number at every count, down to a level whose
/// remaining error is far below the discretisation's.
fn smooth_schedule(steps: usize) -> NoiseSchedule {
    let sigmas = KarrasSigmas::new().sigmas(steps).unwrap();
    training_schedule("linear")
        .respace_to_sigmas(&sigmas)
        .unwrap()
}

#[test]
fn ddim_converges_to_the_transport_map_with_order_1() {
    for prediction in Prediction::ALL {
        let model = gaussian(prediction);
        let (errors, orders) = orders(&[32, 64, 128, 256], |steps| {
            let ddim = Sampler::new(Ddim::new(), smooth_schedule(steps)).unwrap();
            let exact = model.transport(start(), ddim.levels().start(), ddim.levels().end());
            let found = ddim
                .sample(&model, start(), &mut SeededNoise::new(0, 0))
                .unwrap();
            root_mean_square(found - exact)
        });
        println!("DDIM, {prediction:?}: errors {errors:?}, orders {orders:?}");
        assert!(errors[3] < 0.02, "{errors:?}");
        assert!(
            orders.iter().all(|order| (0.9..1.1).contains(order)),
            "{orders:?}"
        );
    }
}

#[test]
fn usual_inversion_has_order_1_and_iterated_inversion_is_exact() {
    let model = gaussian(Prediction::Epsilon);
    let round_trip = |steps: usize, iterations: usize| {
        let ddim = Sampler::new(Ddim::new(), smooth_schedule(steps)).unwrap();
        let picture = ddim
            .sample(&model, start(), &mut SeededNoise::new(0, 0))
            .unwrap();
        let noise = Ddim::new()
            .invert(ddim.levels(), &model, picture, iterations)
            .unwrap();
        root_mean_square(noise - start())
    };
    let (errors, found) = orders(&[128, 256, 512, 1024], |steps| round_trip(steps, 1));
    println!("DDIM inversion: errors {errors:?}, orders {found:?}");
    assert!(
        found.iter().all(|order| (0.85..1.15).contains(order)),
        "{found:?}"
    );

    let exact = round_trip(64, 30);
    println!("DDIM inversion, 30 iterations: error {exact}");
    assert!(exact < 1e-3, "{exact}");
}

/// Mean and variance of the sampler's result for a pixel `N(mean, variance)`, exactly: every step
/// is affine in `x` and adds independent noise.
fn exact_result(schedule: &Levels, large: bool, mean: f64, variance: f64) -> (f64, f64) {
    let (mut m, mut v) = (0.0, 1.0);
    for k in (0..schedule.steps()).rev() {
        let (level, posterior) = (schedule.level(k), schedule.posterior(k));
        let gain =
            level.signal() * variance / (level.alpha_bar() * variance + 1.0 - level.alpha_bar());
        // x̂_0 = mean + gain (x − √ᾱ mean)
        let slope = posterior.sample * gain + posterior.x;
        let offset = posterior.sample * (1.0 - gain * level.signal()) * mean;
        let noise = match (k, large) {
            (0, _) => 0.0,
            (_, true) => schedule.beta(k),
            (_, false) => posterior.variance,
        };
        (m, v) = (slope * m + offset, slope * slope * v + noise);
    }
    (m, v)
}

#[test]
fn ddpm_samples_have_the_exact_mean_and_variance() {
    let model = gaussian(Prediction::Epsilon);
    let steps = 60;
    let schedule = training_schedule("linear")
        .respace(Spacing::Linspace, steps)
        .unwrap();
    for (variance, large) in [(Variance::FixedSmall, false), (Variance::FixedLarge, true)] {
        let ddpm = Sampler::new(Ddpm::new().with_variance(variance), &schedule).unwrap();
        let mut noise = SeededNoise::new(3, 0);
        let start = noise.normal([4, 4, 64, 64], &Device::flex());
        let samples = ddpm.sample(&model, start, &mut noise).unwrap();
        for channel in 0..4 {
            let pixels = values(&samples.clone().slice_dim(1, channel..channel + 1));
            let n = pixels.len() as f64;
            let mean = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / n;
            let var = pixels
                .iter()
                .map(|&p| (f64::from(p) - mean).powi(2))
                .sum::<f64>()
                / n;
            let (m, v) = exact_result(ddpm.levels(), large, MEANS[channel], VARIANCES[channel]);
            // Four standard errors of the mean and of the variance of n normal numbers.
            assert!(
                (mean - m).abs() < 4.0 * (v / n).sqrt(),
                "{variance:?} {channel}: {mean} {m}"
            );
            assert!(
                (var - v).abs() < 4.0 * v * (2.0 / n).sqrt(),
                "{variance:?} {channel}: {var} {v}"
            );
        }
    }
}

#[test]
fn ddpm_tends_to_the_data_distribution() {
    let ddpm = |steps: usize| {
        let betas = BetaSchedule::Linear {
            start: 0.1 / steps as f64,
            end: 20.0 / steps as f64,
        };
        let config = NoiseScheduleConfig::new()
            .with_steps(steps)
            .with_betas(betas);
        Levels::from(config.init().unwrap())
    };
    for (mean, variance) in MEANS.into_iter().zip(VARIANCES) {
        let (_, found) = orders(&[50_000, 100_000, 200_000], |steps| {
            (exact_result(&ddpm(steps), false, mean, variance).1 - variance).abs()
        });
        // Constant variance 1 is the fixed point of the whole process; no order to measure there.
        if variance < 1.0 {
            // The error falls as ln N / N, whose order reaches 1 slowly from below.
            assert!(
                found.iter().all(|order| (0.85..1.05).contains(order)) && found.is_sorted(),
                "{variance}: {found:?}"
            );
        }
        let (m, v) = exact_result(&ddpm(50_000), false, mean, variance);
        assert!(
            (m - mean).abs() < 5e-3 && (v / variance - 1.0).abs() < 2e-2,
            "{m} {v} {variance}"
        );
    }
}

#[test]
fn learned_variance_spans_the_two_fixed_ones() {
    let schedule = training_schedule("cosine")
        .respace(Spacing::Trailing, 20)
        .unwrap();
    let inner = gaussian(Prediction::Epsilon);
    let run = |variance: Variance, model: &dyn Denoiser| {
        let ddpm = Sampler::new(Ddpm::new().with_variance(variance), &schedule).unwrap();
        ddpm.sample(model, start(), &mut SeededNoise::new(5, 0))
            .unwrap()
    };
    for (v, fixed) in [(-1.0, Variance::FixedSmall), (1.0, Variance::FixedLarge)] {
        let learned = denoiser(Prediction::Epsilon, |x: Tensor<4>, level| {
            let output = inner.answer(x, level);
            let variance = output.ones_like() * v;
            Tensor::cat(vec![output, variance], 1)
        });
        let expected: Vec<f64> = values(&run(fixed, &inner))
            .into_iter()
            .map(f64::from)
            .collect();
        assert_close(
            &run(Variance::LearnedRange, &learned),
            &expected,
            1e-4,
            &format!("{fixed:?}"),
        );
        // The two channels more do not disturb a sampler that ignores them.
        assert_close(
            &run(fixed, &learned),
            &expected,
            1e-6,
            &format!("{fixed:?}"),
        );
    }
}

#[test]
fn a_correction_sees_every_step_and_decides_the_result() {
    let model = gaussian(Prediction::Epsilon);
    let schedule = training_schedule("scaled_linear")
        .respace(Spacing::Linspace, 10)
        .unwrap();
    let wanted = start() * 0.1;
    let mut noise = SeededNoise::new(0, 0);

    let mut seen = Vec::new();
    let ddpm = Sampler::new(Ddpm::new(), &schedule).unwrap();
    let mut replace = |step: &Step<'_>, denoised: Denoised| {
        seen.push((step.index, step.level.time()));
        assert_eq!(step.steps, 10);
        assert_eq!(step.x.dims(), denoised.sample.dims());
        denoised.with_sample(wanted.clone())
    };
    let result = Sampling::of(&model)
        .corrected_by(&mut replace)
        .run(&ddpm, start(), &mut noise)
        .unwrap();
    let expected: Vec<f64> = values(&wanted).into_iter().map(f64::from).collect();
    // The last step's posterior mean is the clean picture itself.
    assert_close(&result, &expected, 1e-6, "DDPM");
    assert_eq!(
        seen.iter().map(|s| s.0).collect::<Vec<_>>(),
        (0..10).rev().collect::<Vec<_>>()
    );
    assert_eq!(
        seen.iter().map(|s| s.1).collect::<Vec<_>>(),
        [
            999.0, 888.0, 777.0, 666.0, 555.0, 444.0, 333.0, 222.0, 111.0, 0.0
        ]
    );

    let ddim = Sampler::new(Ddim::new(), schedule).unwrap();
    let mut replace = |_: &Step<'_>, denoised: Denoised| denoised.with_sample(wanted.clone());
    let result = Sampling::of(&model)
        .corrected_by(&mut replace)
        .run(&ddim, start(), &mut noise)
        .unwrap();
    assert_close(&result, &expected, 1e-6, "DDIM");
}

#[test]
fn stepping_by_hand_is_sampling() {
    let model = gaussian(Prediction::Velocity);
    let schedule = training_schedule("zero_terminal")
        .respace(Spacing::Trailing, 8)
        .unwrap();
    let ddpm = Ddpm::new().with_clip(Some(1.0));
    let sampler = Sampler::new(ddpm, schedule).unwrap();
    let whole = sampler
        .sample(&model, start(), &mut SeededNoise::new(9, 4))
        .unwrap();
    let levels = sampler.levels();
    let mut noise = SeededNoise::new(9, 4);
    let mut x = start();
    for index in (0..8).rev() {
        let denoised = ddpm.denoise(levels, &model, &x, index).unwrap();
        let z = (index > 0).then(|| noise.normal(x.dims(), &x.device()));
        x = ddpm.step(levels, x, denoised, index, z).unwrap();
    }
    assert_eq!(values(&whole), values(&x));
}

#[test]
fn a_truncated_schedule_starts_from_a_noised_picture() {
    // From a picture noised up to step 300, the map to clean data is the transport from there.
    let model = gaussian(Prediction::Epsilon);
    let schedule = training_schedule("linear").truncate(301).unwrap();
    let level = schedule.level(300);
    let picture = start() * 0.3;
    let noise = SeededNoise::new(8, 0).normal([1, 4, 64, 64], &Device::flex());
    let x = schedule.add_noise(picture, noise, &[300]);
    let ddim = Sampler::new(Ddim::new(), schedule).unwrap();
    let found = ddim
        .sample(&model, x.clone(), &mut SeededNoise::new(0, 0))
        .unwrap();
    let error = root_mean_square(found - model.transport(x, level, ddim.levels().end()));
    assert!(error < 5e-3, "{error}");
}

#[test]
fn wrong_models_and_parameters_are_refused() {
    let zero_terminal = training_schedule("zero_terminal");
    let linear = training_schedule("linear")
        .respace(Spacing::Linspace, 5)
        .unwrap();
    let device = Device::flex();
    let x = Tensor::<4>::zeros([1, 3, 2, 2], &device);
    let (ddim, levels) = (Ddim::new(), Levels::from(zero_terminal));
    let same = denoiser(Prediction::Epsilon, |x: Tensor<4>, _| x);
    let error = ddim.denoise(&levels, &same, &x, 999).unwrap_err();
    assert!(matches!(error, SamplerError::NoSignal { time: 999.0 }));
    let wrong = denoiser(Prediction::Sample, |x: Tensor<4>, _| x.slice_dim(1, 0..2));
    let error = ddim.denoise(&levels, &wrong, &x, 5).unwrap_err();
    let SamplerError::OutputShape { found, state } = error else {
        panic!("{error}");
    };
    assert_eq!((found, state), (vec![1, 2, 2, 2], vec![1, 3, 2, 2]));
    let range = |error: SamplerError| match error {
        SamplerError::Range(OutOfRange { name, value, .. }) => format!("{name} {value}"),
        other => panic!("{other}"),
    };
    let error = ddim.invert(&levels, &same, x.clone(), 0).unwrap_err();
    assert_eq!(range(error), "number of iterations of the inversion 0");

    let ddpm = Ddpm::new().with_variance(Variance::LearnedRange);
    let ddpm = Sampler::new(ddpm, &linear).unwrap();
    let error = ddpm.sample(&same, x, &mut SeededNoise::new(0, 0));
    assert!(matches!(error, Err(SamplerError::NoLearnedVariance)));
    let error = Sampler::<4>::new(Ddim::new().with_eta(1.5), &linear).unwrap_err();
    assert_eq!(range(error), "eta of DDIM 1.5");
    let error = Sampler::<4>::new(Ddpm::new().with_clip(Some(0.0)), &linear).unwrap_err();
    assert_eq!(range(error), "clip range 0");
}

/// Of pixels that are independent Gaussians, `x_0 ~ N(μ, s²)`: the score of `x_t`, and the velocity of the
/// straight flow as the derivative of `x_t = (1 − t) μ + √((1 − t)² s² + t²) z`.
#[test]
fn score_and_flow_are_the_closed_forms_of_gaussian_data() {
    let device = Device::flex();
    let (mean, variance) = (0.3, 0.16);
    let full = |value: f64| Tensor::<4>::full([1, 1, 1, 5], value, (&device, DType::F64));
    let values = TensorData::new(vec![-2.0_f64, -0.5, 0.1, 0.7, 3.0], [1, 1, 1, 5]);
    let x = Tensor::<4>::from_data(values, (&device, DType::F64));
    let near = |found: Tensor<4>, expected: Tensor<4>, what: &str| {
        let scale = expected.clone().abs().max().into_scalar::<f64>().max(1.0);
        let error = (found - expected).abs().max().into_scalar::<f64>();
        assert!(error < 1e-9 * scale, "{what}: {error}");
    };
    let answer = |kind, level| {
        GaussianDenoiser::new(full(mean), full(variance), kind).answer(x.clone(), level)
    };
    for time in [0.02, 0.3, 0.5, 0.9, 0.999] {
        let level = Level::variance_preserving(0.0, alpha_bar_from_flow_time(time));
        assert!((level.flow_time() - time).abs() < 1e-12);
        let spread = level.alpha_bar() * variance + 1.0 - level.alpha_bar();
        let score = (x.clone() - level.signal() * mean) / -spread;
        near(answer(Prediction::Score, level), score, "score");
        // On the straight line, where this x is scaled to.
        let straight = Level::straight(time);
        let scaled = x.clone() * (straight.signal() / level.signal());
        let spread = straight.signal().powi(2) * variance + time * time;
        let velocity = (scaled.clone() - straight.signal() * mean)
            * ((time - straight.signal() * variance) / spread)
            - mean;
        near(answer(Prediction::Flow, level), velocity.clone(), "flow");
        // And through a network that only knows this line.
        let network = flow_denoiser(|x: Tensor<4>, t| {
            let spread = (1.0 - t) * (1.0 - t) * variance + t * t;
            (x - (1.0 - t) * mean) * ((t - (1.0 - t) * variance) / spread) - mean
        });
        let answer = network.predict(x.clone(), level, &[Condition::FIRST]);
        near(answer.unwrap().remove(0), velocity, "network");
    }
    // The flow says something of the picture where there is nothing left of it; the score does not.
    let nothing = Level::variance_preserving(999.0, 0.0);
    let ask = |kind| {
        let model = GaussianDenoiser::new(full(mean), full(variance), kind);
        Denoised::predict(&model, &x, nothing)
    };
    near(ask(Prediction::Flow).unwrap().sample, full(mean), "sample");
    assert!(matches!(
        ask(Prediction::Score),
        Err(SamplerError::NoSignal { time: 999.0 })
    ));
}

const KINDS: [Prediction; 5] = Prediction::ALL;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The predictions are made of `x_0` and `ε` as defined; every conversion between them gives the
    /// other, so every round trip is the identity.
    #[test]
    fn predictions_convert_into_each_other(
        alpha_bar in 0.02..0.98_f64,
        (signal, noise_scale) in (0.1..2.0_f64, 0.1..3.0_f64),
        sample in prop::collection::vec(-1.0..1.0_f32, 12),
        noise in prop::collection::vec(-3.0..3.0_f32, 12),
    ) {
        let device = Device::flex();
        let shape = [1, 3, 2, 2];
        let schedule = NoiseSchedule::from_alpha_bars(&[alpha_bar]).unwrap();
        let sample = Tensor::<4>::from_data(TensorData::new(sample, shape), &device);
        let noise = Tensor::<4>::from_data(TensorData::new(noise, shape), &device);
        let x = schedule.add_noise(sample.clone(), noise.clone(), &[0]);
        let level = Level::variance_preserving(0.0, alpha_bar);
        let of = |kind: Prediction| kind.target(sample.clone(), noise.clone(), &schedule, &[0]);
        for from in KINDS {
            for to in KINDS {
                let found = from.convert(to, of(from), x.clone(), level);
                let error = (found - of(to)).abs().max().into_scalar::<f32>();
                prop_assert!(error < 1e-4, "{from:?} to {to:?} at {alpha_bar}: {error}");
                let back = to.convert(from, from.convert(to, of(from), x.clone(), level), x.clone(), level);
                let error = (back - of(from)).abs().max().into_scalar::<f32>();
                prop_assert!(error < 1e-4, "{from:?} to {to:?} and back at {alpha_bar}: {error}");
            }
        }

        // On any other path too.
        let level = Level::new(0.0, signal, noise_scale);
        let x = sample.clone() * signal + noise.clone() * noise_scale;
        let of = |kind: Prediction| match kind {
            Prediction::Epsilon => noise.clone(),
            Prediction::Sample => sample.clone(),
            Prediction::Velocity => noise.clone() * signal - sample.clone() * noise_scale,
            Prediction::Score => noise.clone() / -noise_scale,
            Prediction::Flow => noise.clone() - sample.clone(),
        };
        for from in KINDS {
            for to in KINDS {
                let found = from.convert(to, of(from), x.clone(), level);
                let error = (found - of(to)).abs().max().into_scalar::<f32>();
                prop_assert!(error < 5e-4, "{from:?} to {to:?} at {level:?}: {error}");
            }
        }
    }
}
