//! RDDM against the official code (`reference/rddm_reference.py`), against closed forms, and its
//! sampler's contracts.

use std::cell::Cell;

use burn::tensor::{Device, Tensor};
use nabla_diffusion::asking::Step;
use nabla_diffusion::correction::Correction;
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::denoiser::{Prediction, denoiser};
use nabla_diffusion::rddm::{
    Coefficients, Grid, Objective, Path, RddmError, Removal, ResidualPrediction, ResidualSchedule,
    ResidualScheduleConfig, TimeCondition, Trust,
};
use nabla_diffusion::rddm_sampler::{
    Loss, Rddm, RddmConfig, RddmInput, RddmSamplingConfig, ResidualDenoiser,
};
use nabla_diffusion::sampler::Sampler;
use nabla_diffusion::sampler_error::{Cancelled, SamplerError};
use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;
use proptest::prelude::*;
use serde_json::Value;

use crate::reference_values::{floats, reference, tensor, values};

type ResidualStep<'a> = Step<'a, 4, ResidualPrediction>;

/// Of the pictures of the reference.
const SHAPE: [usize; 4] = [2, 1, 2, 3];

fn indices(value: &Value) -> Vec<usize> {
    let values = value.as_array().unwrap().iter();
    values.map(|v| v.as_u64().unwrap() as usize).collect()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{what}: {a} instead of {b}");
    }
}

fn assert_tensor(found: &Tensor<4>, expected: &Value, tolerance: f64, what: &str) {
    let found: Vec<f64> = values(found).into_iter().map(f64::from).collect();
    assert_close(&found, &floats(expected), tolerance, what);
}

fn objective(name: &Value) -> Objective {
    match name.as_str().unwrap() {
        "pred_res" => Objective::Residual,
        "pred_noise" => Objective::Noise,
        "pred_res_noise" => Objective::ResidualNoise,
        "pred_res_add_noise" => Objective::ResidualAddNoise,
        "pred_x0_noise" => Objective::CleanNoise,
        "pred_x0_add_noise" => Objective::CleanAddNoise,
        other => panic!("no objective {other}"),
    }
}

/// The reference's linear 'network' with `count` outputs.
fn linear(count: usize) -> impl Fn(Tensor<4>, [Tensor<1>; 2], Option<Tensor<4>>) -> Vec<Tensor<4>> {
    let weights: Vec<Vec<f64>> = reference("rddm_reference.json")["weights"]
        .as_array()
        .unwrap()
        .iter()
        .map(floats)
        .collect();
    move |x, times, condition| {
        let condition = condition.unwrap_or_else(|| x.zeros_like());
        weights
            .iter()
            .zip(times)
            .take(count)
            .map(|(w, time)| {
                let batch = time.dims()[0];
                x.clone() * w[0]
                    + condition.clone() * w[1]
                    + (time / 1000.0 * w[2] + w[3]).reshape([batch, 1, 1, 1])
            })
            .collect()
    }
}

/// The schedule of a DDIM with the usual linear betas.
fn ddim_schedule() -> ResidualSchedule {
    let ddim = NoiseScheduleConfig::new().init().unwrap();
    let products: Vec<f64> = (0..ddim.steps()).map(|t| ddim.alpha_bar(t)).collect();
    ResidualSchedule::from_ddim(&products).unwrap()
}

#[test]
fn coefficients_and_tables_are_the_official_ones() {
    let reference = reference("rddm_reference.json");
    for case in reference["coefficients"].as_array().unwrap() {
        let power = case["power"].as_f64().unwrap();
        let coefficients = match case["schedule"].as_str().unwrap() {
            "increased" => Coefficients::Increased { power },
            "decreased" => Coefficients::Decreased { power },
            "average" => Coefficients::Average,
            _ => Coefficients::Normal,
        };
        let grid = match case["grid"].as_str().unwrap() {
            "one_step" => Grid::FromOneStep,
            _ => Grid::FromZero,
        };
        let schedule = ResidualScheduleConfig::new()
            .with_steps(7)
            .with_noise(coefficients)
            .with_grid(grid)
            .with_noise_variance(0.5)
            .init()
            .unwrap();
        let sums = (0..7).map(|t| schedule.noise_std(t).powi(2));
        let found: Vec<f64> = sums
            .scan(0.0, |before, sum| {
                Some(sum - std::mem::replace(before, sum))
            })
            .collect();
        assert_close(&found, &floats(&case["values"]), 1e-7, &case.to_string());
    }
    for table in reference["tables"].as_array().unwrap() {
        let schedule = match table["name"].as_str().unwrap() {
            "restoration" => ResidualScheduleConfig::new()
                .with_noise_variance(0.01)
                .init()
                .unwrap(),
            _ => ddim_schedule(),
        };
        let at = indices(&table["at"]);
        let sums: Vec<f64> = at.iter().map(|&t| schedule.residual_sum(t)).collect();
        let stds: Vec<f64> = at.iter().map(|&t| schedule.noise_std(t)).collect();
        assert_close(&sums, &floats(&table["alphas_cumsum"]), 1e-5, "sums");
        assert_close(&stds, &floats(&table["betas_cumsum"]), 1e-5, "stds");
    }
}

#[test]
fn samplers_visit_the_official_times() {
    let schedule = ResidualScheduleConfig::new().init().unwrap();
    for (count, times) in reference("rddm_reference.json")["times"]
        .as_object()
        .unwrap()
    {
        let expected: Vec<i64> = times
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t.as_i64().unwrap())
            .collect();
        let pairs = schedule.sampling_pairs(count.parse().unwrap()).unwrap();
        let mut found = vec![-1];
        found.extend(pairs.iter().rev().map(|&(t, _)| t as i64));
        assert_eq!(found, expected, "{count}");
        // Each pair goes on where the one before ended, down to the clean picture.
        assert!(pairs.windows(2).all(|w| w[0].1 == Some(w[1].0)));
        assert_eq!(pairs[pairs.len() - 1].1, None);
    }
}

#[test]
fn trajectories_are_the_official_ones() {
    let reference = reference("rddm_reference.json");
    let degraded = tensor(&reference["degraded"], SHAPE);
    let mut checked = 0;
    for case in reference["trajectories"].as_array().unwrap() {
        let name = format!(
            "{} {} steps, eta {}, {}",
            case["objective"], case["steps"], case["eta"], case["removal"]
        );
        let objective = objective(&case["objective"]);
        let condition = case["condition"].as_bool().unwrap();
        let total = case["total"].as_u64().unwrap() as usize;
        let steps = case["steps"].as_u64().unwrap() as usize;
        let eta = case["eta"].as_f64().unwrap();
        let removal = match case["removal"].as_str().unwrap() {
            "use_pred_noise" => Removal::ResidualAndNoise,
            _ => Removal::Resample,
        };
        let schedule = ResidualScheduleConfig::new()
            .with_steps(total)
            .with_noise_variance(case["noise_variance"].as_f64().unwrap())
            .init()
            .unwrap();
        let rddm = RddmConfig::new()
            .with_objective(objective)
            .with_condition_on_input(condition)
            .init(schedule.clone());
        let model = linear(objective.outputs());
        let input = if condition {
            degraded.clone()
        } else {
            degraded.zeros_like()
        };
        let given = RddmInput::new(input.clone());
        let states = case["states"].as_array().unwrap();
        let mut noises = case["noise"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| tensor(v, SHAPE));
        // The official code scales its states to [0, 1] and back in f32: 2e-7 of a state. SM-N
        // divides by 1 − ᾱ_T = 1e-6 in its first step, where every clean picture saturates.
        let tolerance = 1e-5;
        let mut x =
            input.clone() + noises.next().unwrap() * schedule.noise_std(schedule.steps() - 1);
        assert_tensor(&x, &states[0], tolerance, &name);
        let start = x.clone();
        for (k, (t, next)) in schedule
            .sampling_pairs(steps)
            .unwrap()
            .into_iter()
            .enumerate()
        {
            let outputs = rddm.outputs(&model, x.clone(), &given, &[t; 2]).unwrap();
            let prediction = schedule
                .prediction(
                    objective,
                    Trust::Both,
                    outputs,
                    x.clone(),
                    input.clone(),
                    &[t; 2],
                    true,
                )
                .unwrap();
            let fresh = (eta > 0.0 && next.is_some()).then(|| noises.next().unwrap());
            x = schedule.reverse_step(x, &prediction, t, next, eta, fresh, removal);
            assert_tensor(&x, &states[k + 1], tolerance, &format!("{name}, state {k}"));
            checked += 1;
        }
        if eta == 0.0 {
            let sampler = rddm
                .sampler(
                    RddmSamplingConfig::new()
                        .with_steps(steps)
                        .with_removal(removal),
                )
                .unwrap();
            let mut noise = SeededNoise::new(0, 0);
            let found = sampler
                .run(&model, start, &given, &mut noise, Vec::new())
                .unwrap();
            assert_tensor(&found, states.last().unwrap(), tolerance, &name);
            assert_eq!(noise.state(), SeededNoise::new(0, 0).state());
        }
    }
    assert!(checked > 200);
}

#[test]
fn the_pass_that_removes_only_the_residual_is_the_official_one() {
    let reference = reference("rddm_reference.json");
    let states = reference["residual_pass"].as_array().unwrap();
    let rddm = RddmConfig::new()
        .with_time(TimeCondition::Coefficients)
        .init(ddim_schedule());
    let config = RddmSamplingConfig::new()
        .with_steps(5)
        .with_path(Path::ResidualFirst);
    let sampler = rddm.sampler(config).unwrap();
    assert_eq!(sampler.calls(), 10);
    let start = tensor(&states[0], SHAPE);
    let given = RddmInput::new(start.zeros_like());
    let mut seen = Vec::new();
    let mut see = |step: &ResidualStep<'_>, prediction: ResidualPrediction| {
        seen.push(step.x.clone());
        prediction
    };
    let mut noise = SeededNoise::new(0, 0);
    sampler
        .run(&linear(2), start, &given, &mut noise, vec![&mut see])
        .unwrap();
    for (k, state) in states.iter().enumerate() {
        assert_tensor(&seen[k], state, 1e-5, &format!("state {k}"));
    }
}

#[test]
fn trusting_one_of_two_predictions_is_as_official() {
    let reference = reference("rddm_reference.json");
    let (x, input) = (
        tensor(&reference["clean"], SHAPE),
        tensor(&reference["degraded"], SHAPE),
    );
    let schedule = ddim_schedule();
    let rddm = RddmConfig::new()
        .with_time(TimeCondition::Coefficients)
        .with_condition_on_input(true)
        .init(schedule.clone());
    for case in reference["trust"].as_array().unwrap() {
        let trust = match case["trust"].as_str().unwrap() {
            "res" => Trust::Residual,
            "noise" => Trust::Noise,
            _ => Trust::Both,
        };
        let t = indices(&case["t"]);
        let given = RddmInput::new(input.clone());
        let outputs = rddm.outputs(&linear(2), x.clone(), &given, &t).unwrap();
        let ResidualPrediction {
            residual,
            noise,
            clean,
        } = schedule
            .prediction(
                Objective::ResidualNoise,
                trust,
                outputs,
                x.clone(),
                input.clone(),
                &t,
                true,
            )
            .unwrap();
        let name = case["trust"].to_string();
        assert_tensor(&residual, &case["residual"], 1e-5, &name);
        assert_tensor(&clean, &case["clean"], 1e-5, &name);
        // Divided by β̄_0 = 0.01, whose f32 in the official table is off by 3e-6.
        for (found, expected) in values(&noise).into_iter().zip(floats(&case["noise"])) {
            let error = (f64::from(found) - expected).abs();
            assert!(
                error <= 5e-4 * expected.abs().max(0.02),
                "{name}: {found} {expected}"
            );
        }
    }
}

#[test]
fn losses_are_the_official_ones() {
    let reference = reference("rddm_reference.json");
    let (clean, degraded) = (
        tensor(&reference["clean"], SHAPE),
        tensor(&reference["degraded"], SHAPE),
    );
    let noise = tensor(&reference["noise"], SHAPE);
    let given = RddmInput::new(degraded);
    let model = |objective: Objective, schedule| -> Rddm {
        RddmConfig::new()
            .with_objective(objective)
            .with_condition_on_input(true)
            .init(schedule)
    };
    let schedule = ResidualScheduleConfig::new()
        .with_noise_variance(0.01)
        .init()
        .unwrap();
    for case in reference["losses"].as_array().unwrap() {
        let objective = objective(&case["objective"]);
        let kind = match case["loss"].as_str().unwrap() {
            "l1" => Loss::L1,
            _ => Loss::L2,
        };
        let loss = model(objective, schedule.clone())
            .loss(
                &linear(objective.outputs()),
                clean.clone(),
                &given,
                &indices(&case["t"]),
                noise.clone(),
                kind,
            )
            .unwrap()
            .into_scalar::<f64>();
        assert_close(
            &[loss],
            &[case["value"].as_f64().unwrap()],
            1e-5,
            &case.to_string(),
        );
    }
    let device = Device::flex().autodiff();
    for case in reference["selection"].as_array().unwrap() {
        let share = Tensor::<1>::from_floats([case["share"].as_f64().unwrap()], &device);
        let share = share.require_grad();
        let on = |x: &Tensor<4>| Tensor::from_data(x.to_data(), &device);
        let loss = model(Objective::Residual, ddim_schedule())
            .selection_loss(
                &linear(1),
                on(&clean),
                &RddmInput::new(on(&given.input)),
                &indices(&case["t"]),
                on(&noise),
                Loss::L1,
                share.clone(),
            )
            .unwrap();
        let gradient = share.grad(&loss.backward()).unwrap().into_scalar::<f64>();
        let loss = loss.without_autodiff().into_scalar::<f64>();
        let expected = ["value", "gradient"].map(|key| case[key].as_f64().unwrap());
        assert_close(&[loss, gradient], &expected, 2e-5, &case.to_string());
    }
}

/// A model that knows the clean picture: `I_res = I_in − I_0`, `ε` from `I_t`.
fn oracle(
    clean: Tensor<4>,
    input: Tensor<4>,
    schedule: ResidualSchedule,
) -> impl Fn(Tensor<4>, [Tensor<1>; 2], Option<Tensor<4>>) -> Vec<Tensor<4>> {
    move |x, [residual_time, noise_time], _| {
        let total = schedule.steps() as f64;
        let wide = |time: Tensor<1>| {
            let batch = time.dims()[0];
            (time / total).reshape([batch, 1, 1, 1])
        };
        let residual = input.clone() - clean.clone();
        let noise = (x - clean.clone() - residual.clone() * wide(residual_time))
            / wide(noise_time).clamp_min(1e-9);
        vec![residual, noise]
    }
}

#[test]
fn every_path_leads_a_perfect_model_to_the_clean_picture() {
    let device = Device::flex();
    let mut noise = SeededNoise::new(1, 0);
    let clean = noise.normal([2, 3, 4, 5], &device).clamp(-0.5, 0.5);
    let input = clean.clone() * 0.5 + 0.25;
    let schedule = ResidualScheduleConfig::new()
        .with_noise_variance(0.25)
        .init()
        .unwrap();
    let rddm = RddmConfig::new()
        .with_time(TimeCondition::Coefficients)
        .init(schedule.clone());
    let model = oracle(clean.clone(), input.clone(), schedule);
    for path in [Path::Together, Path::ResidualFirst, Path::NoiseFirst] {
        for eta in [0.0, 0.3, 1.0] {
            for steps in [1, 2, 7] {
                let config = RddmSamplingConfig::new()
                    .with_path(path)
                    .with_eta(eta)
                    .with_steps(steps);
                let sampler = rddm.sampler(config).unwrap();
                let mut calls = 0;
                let given = RddmInput::new(input.clone());
                let start = sampler.start(&input, &mut noise);
                let mut see = |step: &ResidualStep<'_>, prediction: ResidualPrediction| {
                    assert_eq!((step.done(), step.steps), (calls, sampler.calls()));
                    assert_eq!(step.call, calls);
                    calls += 1;
                    // I_t is made of what the model says, in every step.
                    let rebuilt = prediction.clean.clone()
                        + prediction.residual.clone() * step.level.residual_sum
                        + prediction.noise.clone() * step.level.noise_std;
                    let error = (rebuilt - step.x.clone()).abs().max();
                    assert!(error.into_scalar::<f32>() < 1e-4);
                    prediction
                };
                let found = sampler
                    .run(&model, start, &given, &mut noise, vec![&mut see])
                    .unwrap();
                assert_eq!(
                    calls,
                    if path == Path::Together {
                        steps
                    } else {
                        2 * steps
                    }
                );
                let error = (found - clean.clone()).abs().max().into_scalar::<f32>();
                assert!(error < 1e-4, "{path:?} {eta} {steps}: {error}");
            }
        }
    }
}

#[test]
fn a_converted_ddim_samples_as_the_ddim() {
    let device = Device::flex();
    let ddim = NoiseScheduleConfig::new().init().unwrap();
    let short = ddim.respace(Spacing::Trailing, 10).unwrap();
    let products: Vec<f64> = (0..short.steps()).map(|t| short.alpha_bar(t)).collect();
    let rddm = RddmConfig::new()
        .with_objective(Objective::Noise)
        .init(ResidualSchedule::from_ddim(&products).unwrap());
    let predict = |x: Tensor<4>| x.sin() * 0.7 + 0.1;
    let model = |x: Tensor<4>, _: [Tensor<1>; 2], _: Option<Tensor<4>>| vec![predict(x)];
    let theirs = denoiser(Prediction::Epsilon, |x: Tensor<4>, _| predict(x));
    // With fresh noise they differ: RDDM's posterior is that of its own forward process.
    let sampler = rddm
        .sampler(RddmSamplingConfig::new().with_steps(10).with_clip(false))
        .unwrap();
    let ddim = Sampler::new(Ddim::new(), short).unwrap();
    let start = SeededNoise::new(3, 0).normal([1, 2, 4, 4], &device);
    let given = RddmInput::new(start.zeros_like());
    let mut noise = SeededNoise::new(4, 0);
    let ours = sampler
        .run(&model, start.clone(), &given, &mut noise, Vec::new())
        .unwrap();
    let expected = ddim.sample(&theirs, start, &mut noise).unwrap();
    let scale = expected.clone().abs().max().into_scalar::<f32>();
    let error = (ours - expected).abs().max().into_scalar::<f32>();
    assert!(error < 1e-4 * scale, "{error} of {scale}");
}

#[test]
fn a_corrected_clean_picture_is_where_the_sampler_ends() {
    let device = Device::flex();
    let schedule = ResidualScheduleConfig::new()
        .with_noise_variance(0.01)
        .init()
        .unwrap();
    let input = SeededNoise::new(8, 0).normal([1, 1, 4, 4], &device) * 0.3;
    let truth = input.clone() * 0.5;
    for removal in [Removal::ResidualAndNoise, Removal::Resample] {
        let rddm = RddmConfig::new()
            .with_condition_on_input(true)
            .init(schedule.clone());
        let config = RddmSamplingConfig::new()
            .with_steps(4)
            .with_removal(removal);
        let sampler = rddm.sampler(config).unwrap();
        let mut noise = SeededNoise::new(9, 0);
        let start = sampler.start(&input, &mut noise);
        let mut before: Option<f32> = None;
        let mut correct = |step: &ResidualStep<'_>, _: ResidualPrediction| {
            // The state comes nearer to the corrected picture's own trajectory each step.
            let distance = (step.x.clone() - truth.clone())
                .abs()
                .mean()
                .into_scalar::<f32>();
            assert!(before.is_none_or(|before| distance < before));
            before = Some(distance);
            step.prediction_of_clean(truth.clone(), &input)
        };
        let given = RddmInput::new(input.clone());
        let found = sampler
            .run(&linear(2), start, &given, &mut noise, vec![&mut correct])
            .unwrap();
        assert_eq!(values(&found), values(&truth));
    }
}

#[test]
fn a_sampling_is_that_of_its_seed() {
    let rddm = RddmConfig::new()
        .with_objective(Objective::Noise)
        .init(ResidualScheduleConfig::new().init().unwrap());
    let config = RddmSamplingConfig::new().with_steps(6).with_eta(1.0);
    let sampler = rddm.sampler(config).unwrap();
    let draw = |seed| {
        let mut noise = SeededNoise::new(seed, 0);
        let device = Device::flex();
        values(
            &sampler
                .generate(&linear(1), [1, 1, 3, 3], &device, &mut noise)
                .unwrap(),
        )
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    assert!(draw(1).iter().all(|v| v.abs() <= 1.0));
}

#[test]
fn a_network_for_the_noise_alone_gets_the_noises_time() {
    let told = std::cell::RefCell::new(Vec::new());
    let model = |x: Tensor<4>, times: [Tensor<1>; 2], _: Option<Tensor<4>>| {
        let times = times.map(|t| t.try_into_vec_as::<f32>().unwrap()[0]);
        told.borrow_mut().push(times);
        vec![x]
    };
    let schedule = ddim_schedule();
    let x = Tensor::<4>::zeros([1, 1, 2, 2], &Device::flex());
    let given = RddmInput::new(x.clone());
    for objective in [Objective::Residual, Objective::Noise] {
        let rddm = RddmConfig::new()
            .with_objective(objective)
            .with_time(TimeCondition::Coefficients)
            .init(schedule.clone());
        rddm.outputs(&model, x.clone(), &given, &[300]).unwrap();
    }
    let expected = [schedule.residual_sum(300), schedule.noise_std(300)].map(|v| v * 1000.0);
    let told = told.into_inner();
    assert!((f64::from(told[0][0]) - expected[0]).abs() < 1e-3);
    assert!((f64::from(told[1][0]) - expected[1]).abs() < 1e-3);
    assert_eq!(told[1][0], told[1][1]);
}

#[test]
fn wrong_settings_and_networks_are_refused() {
    let config = ResidualScheduleConfig::new();
    let error = config.clone().with_steps(0).init();
    assert!(matches!(error, Err(RddmError::NoSteps)));
    for variance in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        let error = config.clone().with_noise_variance(variance).init();
        assert_eq!(
            error.unwrap_err().to_string(),
            format!(
                "the final noise variance of RDDM is {variance}, but it must be positive and finite"
            )
        );
    }
    for power in [-1.0, f64::NAN] {
        let error = config.clone().with_noise(Coefficients::Increased { power });
        assert_eq!(
            error.init().unwrap_err().to_string(),
            format!(
                "the schedule exponent of RDDM is {power}, but it must be at least 0 and finite"
            )
        );
    }
    for products in [
        vec![1.0, 0.5],
        vec![0.5, 0.5],
        vec![0.5, 0.0],
        vec![f64::NAN],
    ] {
        let error = ResidualSchedule::from_ddim(&products);
        assert!(matches!(error, Err(RddmError::NotADdimSchedule { .. })));
    }
    let error = ResidualSchedule::from_ddim(&[]);
    assert!(matches!(error, Err(RddmError::NoSteps)));

    let rddm = RddmConfig::new().init(config.init().unwrap());
    let sampling = RddmSamplingConfig::new();
    for steps in [0, 1001] {
        let error = rddm.sampler(sampling.with_steps(steps)).unwrap_err();
        assert!(
            matches!(
                error,
                RddmError::SamplingSteps { asked, available: 1000 } if asked == steps
            ),
            "{error}"
        );
    }
    for eta in [-0.1, 1.1, f64::NAN] {
        let error = rddm.sampler(sampling.with_eta(eta)).unwrap_err();
        assert!(matches!(error, RddmError::Range(_)));
        assert_eq!(
            error.to_string(),
            format!("the eta of RDDM is {eta}, but it must be in [0, 1]")
        );
    }
    let path = sampling.with_path(Path::NoiseFirst);
    for wrong in [
        path.with_trust(Trust::Noise),
        path.with_removal(Removal::Resample),
    ] {
        assert!(matches!(rddm.sampler(wrong), Err(RddmError::Path { .. })));
    }
    let residual = RddmConfig::new().with_objective(Objective::Residual);
    let residual = residual.init(config.init().unwrap());
    assert!(matches!(
        residual.sampler(path),
        Err(RddmError::Path { .. })
    ));

    let x = Tensor::<4>::zeros([1, 1, 2, 2], &Device::flex());
    let run = |model: &dyn Fn(Tensor<4>) -> Vec<Tensor<4>>, input: Tensor<4>| {
        let model = |x: Tensor<4>, _: [Tensor<1>; 2], _: Option<Tensor<4>>| model(x);
        let mut noise = SeededNoise::new(0, 0);
        let given = RddmInput::new(input);
        rddm.sampler(sampling)
            .unwrap()
            .run(&model, x.clone(), &given, &mut noise, Vec::new())
            .unwrap_err()
    };
    assert!(matches!(
        run(&|x| vec![x], x.clone()),
        SamplerError::Rddm(RddmError::Outputs {
            expected: 2,
            found: 1,
            ..
        })
    ));
    let narrow = |x: Tensor<4>| vec![x.clone(), x.slice([0..1, 0..1, 0..2, 0..1])];
    assert!(matches!(
        run(&narrow, x.clone()),
        SamplerError::Rddm(RddmError::OutputShape { .. })
    ));
    let tall = Tensor::zeros([1, 1, 4, 2], &Device::flex());
    assert!(matches!(
        run(&|x| vec![x.clone(), x], tall),
        SamplerError::Rddm(RddmError::PictureShape { .. })
    ));
}

/// A network and a correction may fail with errors of their own, or stop the run, which then asks no more.
#[test]
fn errors_of_ones_own_end_a_run_as_themselves() {
    let rddm = RddmConfig::new()
        .with_objective(Objective::Residual)
        .init(ResidualScheduleConfig::new().init().unwrap());
    let sampler = rddm.sampler(RddmSamplingConfig::new()).unwrap();
    let x = Tensor::<4>::zeros([1, 1, 2, 2], &Device::flex());
    let given = RddmInput::new(x.clone());
    let run = |model: &dyn ResidualDenoiser,
               correct: &mut dyn Correction<4, ResidualPrediction>| {
        let mut noise = SeededNoise::new(0, 0);
        sampler
            .run(model, x.clone(), &given, &mut noise, vec![correct])
            .unwrap_err()
    };
    let dead = |_: Tensor<4>, _: [Tensor<1>; 2], _: Option<Tensor<4>>| {
        Err::<Vec<Tensor<4>>, _>(std::io::Error::other("the line is dead"))
    };
    let asked = Cell::new(0);
    let alive = |x: Tensor<4>, _: [Tensor<1>; 2], _: Option<Tensor<4>>| {
        asked.set(asked.get() + 1);
        vec![x]
    };
    let mut none = |_: &ResidualStep<'_>, p: ResidualPrediction| p;
    let error = run(&dead, &mut none);
    assert_eq!(
        error.own::<std::io::Error>().unwrap().to_string(),
        "the line is dead"
    );
    let mut stop = |step: &ResidualStep<'_>, p: ResidualPrediction| match step.done() < 2 {
        true => Ok(p),
        false => Err(Cancelled),
    };
    assert!(matches!(run(&alive, &mut stop), SamplerError::Cancelled));
    assert_eq!(asked.get(), 3);
    // A correction of another shape.
    let mut wrong = |_: &ResidualStep<'_>, p: ResidualPrediction| ResidualPrediction {
        clean: p.clean.repeat_dim(3, 2),
        ..p
    };
    let error = run(&alive, &mut wrong);
    assert!(matches!(
        error,
        SamplerError::Rddm(RddmError::PictureShape { .. })
    ));
}

fn any_coefficients() -> impl Strategy<Value = Coefficients> {
    prop_oneof![
        (0.0..4.0).prop_map(|power| Coefficients::Increased { power }),
        (0.0..4.0).prop_map(|power| Coefficients::Decreased { power }),
        Just(Coefficients::Average),
        Just(Coefficients::Normal),
    ]
}

proptest! {
    #[test]
    fn sums_rise_to_their_ends(
        steps in 1_usize..300,
        residual in any_coefficients(),
        noise in any_coefficients(),
        variance in 1e-4..10.0,
        zero in any::<bool>(),
        count in 1_usize..300,
    ) {
        let grid = if zero { Grid::FromZero } else { Grid::FromOneStep };
        let schedule = ResidualScheduleConfig::new()
            .with_steps(steps)
            .with_residual(residual)
            .with_noise(noise)
            .with_noise_variance(variance)
            .with_grid(grid)
            .init()
            .unwrap();
        prop_assert!((schedule.residual_sum(steps - 1) - 1.0).abs() < 1e-9);
        prop_assert!((schedule.noise_std(steps - 1).powi(2) / variance - 1.0).abs() < 1e-9);
        for t in 1..steps {
            prop_assert!(schedule.residual_sum(t) >= schedule.residual_sum(t - 1));
            prop_assert!(schedule.noise_std(t) >= schedule.noise_std(t - 1));
        }
        let pairs = schedule.sampling_pairs(count);
        prop_assert_eq!(pairs.is_ok(), count <= steps);
        if let Ok(pairs) = pairs {
            prop_assert_eq!(pairs.len(), count);
            prop_assert_eq!(pairs[0].0, steps - 1);
            prop_assert!(pairs.iter().all(|&(t, next)| next.is_none_or(|next| next < t)));
        }
    }

    #[test]
    fn both_ways_of_removing_agree_where_nothing_is_clipped(
        seed in any::<u64>(),
        t in 1_usize..1000,
        next in 0_usize..999,
        eta in 0.0..1.0,
    ) {
        prop_assume!(next < t);
        let schedule = ResidualScheduleConfig::new().init().unwrap();
        let mut noise = SeededNoise::new(seed, 0);
        let device = Device::flex();
        let mut draw = || noise.normal([1, 1, 2, 2], &device) * 0.3;
        let (clean, residual, epsilon, fresh) = (draw(), draw(), draw(), draw());
        let x = schedule.diffuse(clean.clone(), residual.clone(), epsilon.clone(), &[t]);
        let prediction = ResidualPrediction { residual, noise: epsilon, clean };
        let step = |removal| {
            let fresh = Some(fresh.clone());
            values(&schedule.reverse_step(x.clone(), &prediction, t, Some(next), eta, fresh, removal))
        };
        for (a, b) in step(Removal::ResidualAndNoise).into_iter().zip(step(Removal::Resample)) {
            prop_assert!((a - b).abs() < 1e-5, "{} {}", a, b);
        }
        // Removing one after the other is removing both.
        let only = |x: Tensor<4>, removal| {
            schedule.reverse_step(x, &prediction, t, Some(next), 0.0, None, removal)
        };
        let both = only(x.clone(), Removal::ResidualAndNoise);
        let apart = only(only(x.clone(), Removal::Residual), Removal::Noise);
        for (a, b) in values(&both).into_iter().zip(values(&apart)) {
            prop_assert!((a - b).abs() < 1e-5, "{} {}", a, b);
        }
    }
}
