//! The probability flow against scipy's `RK45`, call by call, and against the closed form.

use crate::reference_values::{floats, reference};
use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_diffusion::asking::Step;
use nabla_diffusion::denoiser::{Denoised, GaussianDenoiser, Prediction, SamplerError, denoiser};
use nabla_diffusion::level::Levels;
use nabla_diffusion::probability_flow::ProbabilityFlow;
use nabla_diffusion::sampler::{Sampler, Sampling};
use nabla_diffusion::schedule::{NoiseSchedule, NoiseScheduleConfig, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;
use serde_json::Value;

const SHAPE: [usize; 4] = [1, 2, 2, 2];

fn tensor(value: &Value, dtype: DType) -> Tensor<4> {
    let data = TensorData::new(floats(value), SHAPE);
    Tensor::from_data(data, (&Device::flex(), dtype))
}

fn model(reference: &Value, prediction: Prediction, dtype: DType) -> GaussianDenoiser {
    GaussianDenoiser::new(
        tensor(&reference["mean"], dtype),
        tensor(&reference["variance"], dtype),
        prediction,
    )
}

fn training() -> NoiseSchedule {
    NoiseScheduleConfig::new().init().unwrap()
}

fn flow(rtol: f64, atol: f64) -> ProbabilityFlow {
    ProbabilityFlow::new().with_rtol(rtol).with_atol(atol)
}

fn levels() -> Levels {
    training().into()
}

#[test]
fn calls_and_results_are_those_of_scipy() {
    let reference = reference("probability_flow_reference.json");
    for case in reference["cases"].as_array().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let flow = flow(number("rtol"), number("atol"));
        for prediction in Prediction::ALL {
            let mut asked = 0;
            let mut count = |_: &Step<'_>, denoised: Denoised| {
                asked += 1;
                denoised
            };
            let model = model(&reference, prediction, DType::F64);
            let found = flow
                .solve(
                    &levels(),
                    Sampling::of(&model).corrected_by(&mut count),
                    tensor(&reference["start"], DType::F64),
                    number("from"),
                    number("to"),
                )
                .unwrap();
            let name = format!("{prediction:?} {case}");
            assert_eq!(found.calls as f64, number("calls"), "{name}");
            assert_eq!(found.steps as f64, number("steps"), "{name}");
            // One to begin with, one for the first step's length, six in every step.
            assert_eq!(found.calls, 2 + 6 * (found.steps + found.refused), "{name}");
            assert_eq!(asked, found.calls);
            let end: Vec<f64> = found.x.into_data().try_to_vec().unwrap();
            for (found, expected) in end.into_iter().zip(floats(&case["end"])) {
                assert!(
                    (found - expected).abs() < 1e-9,
                    "{name}: {found} for {expected}"
                );
            }
        }
    }
}

#[test]
fn single_precision_takes_as_many_calls() {
    let reference = reference("probability_flow_reference.json");
    for case in reference["cases"].as_array().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let (rtol, atol) = (number("rtol"), number("atol"));
        // Finer tolerances are near its rounding.
        if rtol < 1e-3 || atol < 1e-3 {
            continue;
        }
        let model = model(&reference, Prediction::Sample, DType::F32);
        let start = tensor(&reference["start"], DType::F32);
        let sampling = Sampling::of(&model);
        let found = flow(rtol, atol)
            .solve(&levels(), sampling, start, number("from"), number("to"))
            .unwrap();
        assert_eq!(found.calls as f64, number("calls"), "{case}");
        for (found, expected) in crate::reference_values::values(&found.x)
            .into_iter()
            .zip(floats(&case["end"]))
        {
            assert!((f64::from(found) - expected).abs() < 1e-4, "{case}");
        }
    }
}

/// Down and up again, the errors stay in proportion to the tolerance.
#[test]
fn it_follows_the_transport_map_and_returns() {
    let reference = reference("probability_flow_reference.json");
    let model = model(&reference, Prediction::Epsilon, DType::F64);
    let start = tensor(&reference["start"], DType::F64);
    let schedule = training();
    let exact = model.transport(start.clone(), schedule.level(999), schedule.level(1));
    let largest = |x: Tensor<4>| x.abs().max().into_scalar::<f64>();
    let mut errors = Vec::new();
    for tolerance in [1e-2, 1e-4, 1e-6] {
        let flow = flow(tolerance, tolerance);
        let down = flow
            .solve(&levels(), Sampling::of(&model), start.clone(), 999.0, 1.0)
            .unwrap();
        let up = flow
            .solve(&levels(), Sampling::of(&model), down.x.clone(), 1.0, 999.0)
            .unwrap();
        let error = largest(down.x - exact.clone());
        assert!(error < 20.0 * tolerance, "{tolerance}: {error}");
        assert!(largest(up.x - start.clone()) < 200.0 * tolerance);
        errors.push(error);
    }
    println!("errors {errors:?}");
    assert!(errors[0] > 10.0 * errors[1] && errors[1] > 10.0 * errors[2]);
}

/// As every other sampler does, from the schedule's last step to what is behind its first.
#[test]
fn it_samples_between_the_ends_of_a_schedule() {
    let reference = reference("probability_flow_reference.json");
    let model = model(&reference, Prediction::Flow, DType::F64);
    let start = tensor(&reference["start"], DType::F64);
    let schedule = training()
        .respace(Spacing::Leading { offset: 1 }, 20)
        .unwrap();
    let flow = ProbabilityFlow::new().with_rtol(1e-7).with_atol(1e-7);
    let flow = Sampler::new(flow, &schedule).unwrap();
    let exact = model.transport(start.clone(), schedule.level(19), schedule.level(0));
    let mut noise = SeededNoise::new(0, 0);
    let mut last = None;
    let mut see = |step: &Step<'_>, denoised: Denoised| {
        last = Some((step.level, step.x.clone()));
        denoised
    };
    let sampling = Sampling::of(&model).corrected_by(&mut see);
    let found = sampling.run(&flow, start, &mut noise).unwrap();
    let (level, x) = last.unwrap();
    assert_eq!(level, schedule.level(0));
    let largest = |x: Tensor<4>| x.abs().max().into_scalar::<f64>();
    assert!(largest(x.clone() - exact) < 1e-5);
    let sample = Denoised::predict(&model, &x, level).unwrap().sample;
    assert!(largest(found - sample) < 1e-12);
}

#[test]
fn what_cannot_be_is_refused() {
    let config = ProbabilityFlow::new();
    for wrong in [
        config.with_rtol(0.0),
        config.with_rtol(f64::INFINITY),
        config.with_atol(-1.0),
        config.with_atol(f64::NAN),
    ] {
        let error = Sampler::<4>::new(wrong, training()).unwrap_err();
        let SamplerError::Range(range) = &error else {
            panic!("{error}");
        };
        assert!(range.name.starts_with("tolerance"), "{error}");
    }
    let zero = NoiseScheduleConfig::new().with_zero_terminal_snr(true);
    assert!(Sampler::<4>::new(config, zero.init().unwrap()).is_err());
    assert!(Sampler::<4>::new(config, training().truncate(1).unwrap()).is_err());

    let (flow, levels) = (flow(1e-3, 1e-3), levels());
    let x = Tensor::<4>::zeros(SHAPE, &Device::flex());
    let black = denoiser(Prediction::Sample, |x: Tensor<4>, _| x.zeros_like());
    let solve = |from, to| flow.solve(&levels, Sampling::of(&black), x.clone(), from, to);
    for (from, to) in [(1000.0, 0.0), (999.0, -1.0), (f64::NAN, 0.0)] {
        let error = solve(from, to);
        assert!(matches!(error, Err(SamplerError::OutsideTime { .. })));
    }
    assert_eq!(solve(5.0, 5.0).unwrap().calls, 0);
    // A model that gives no number does not keep it searching for ever.
    let broken = denoiser(Prediction::Sample, |x: Tensor<4>, _| x * f64::NAN);
    let error = flow.solve(&levels, Sampling::of(&broken), x.clone(), 999.0, 0.0);
    assert!(matches!(error, Err(SamplerError::StepTooShort { .. })));
}
