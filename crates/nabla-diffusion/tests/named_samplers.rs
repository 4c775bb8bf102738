//! Samplers by name and scheduler files: every call of the network against diffusers, orders of
//! convergence against the closed form for Gaussian data.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use nabla_diffusion::asking::Step;
use nabla_diffusion::churn::Churn;
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::deis::Deis;
use nabla_diffusion::denoiser::{Denoised, GaussianDenoiser, Prediction};
use nabla_diffusion::dpm_solver_multistep::{DpmAlgorithm, DpmSolverMultistep, DpmSolverType};
use nabla_diffusion::dpm_solver_singlestep::DpmSolverSinglestep;
use nabla_diffusion::euler::Euler;
use nabla_diffusion::heun::Heun;
use nabla_diffusion::level::Level;
use nabla_diffusion::pndm::{Pndm, PndmMethod};
use nabla_diffusion::registry::Options;
use nabla_diffusion::sampler::{Sampler, Sampling, Solver, samplers, shared};
use nabla_diffusion::schedule::{BetaSchedule, NoiseSchedule, NoiseScheduleConfig, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::stable_diffusion::model_folder::{ModelFolderError, Part};
use nabla_diffusion::stable_diffusion::pipeline::SamplerChoice;
use nabla_diffusion::stable_diffusion::scheduler_config::{ScheduledSampler, SchedulerConfig};
use nabla_diffusion::unipc::UniPc;
use serde_json::{Value, json};

use crate::reference_values::{floats, reference, tensor, values};

const SHAPE: [usize; 4] = [1, 2, 2, 2];

fn scheduler(config: &Value) -> Result<SchedulerConfig, ModelFolderError> {
    let folder = tempfile::tempdir().unwrap();
    let text = serde_json::to_string(config).unwrap();
    fs::write(folder.path().join("scheduler_config.json"), text).unwrap();
    SchedulerConfig::load(&Part::open(folder.path(), "").unwrap())
}

/// The sampler that a file names.
fn own(config: &SchedulerConfig, steps: usize) -> ScheduledSampler {
    let choice = SamplerChoice::default();
    config.sampler(&choice, None, steps).unwrap()
}

/// One of ours with its defaults.
fn named(name: &str) -> Arc<dyn Solver> {
    samplers().get(name).unwrap()
}

/// The noise that the stochastic cases draw: the one the reference was made with.
#[test]
fn the_noise_is_that_of_the_reference() {
    let recorded = floats(&reference("sampler_reference.json")["noise"]);
    let mut noise = SeededNoise::new(7, 0);
    let drawn: Vec<f32> = (0..recorded.len() / 8)
        .flat_map(|_| values(&noise.normal(SHAPE, &Device::flex())))
        .collect();
    for (drawn, recorded) in drawn.iter().zip(recorded) {
        assert!((f64::from(*drawn) - recorded).abs() < 1e-6);
    }
}

#[test]
fn every_call_of_the_network_agrees_with_diffusers() {
    let reference = reference("sampler_reference.json");
    let mut worst = (0.0, String::new());
    for case in reference["runs"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let config = scheduler(&case["config"]).unwrap();
        let steps = case["steps"].as_u64().unwrap() as usize;
        let made = own(&config, steps);
        let model = GaussianDenoiser::new(
            tensor(&reference["mean"], SHAPE),
            tensor(&reference["variance"], SHAPE),
            config.prediction().unwrap(),
        );
        let calls = case["calls"].as_array().unwrap();
        assert_eq!(made.sampler.calls(), calls.len(), "{name}");
        let mut seen = Vec::new();
        let start = tensor(&reference["start"], SHAPE) * made.start_scale;
        let mut see = |step: &Step<'_>, denoised: Denoised| {
            seen.push((step.level.time(), step.x.clone()));
            denoised
        };
        let mut noise = SeededNoise::new(7, 0);
        let sampling = Sampling::of(&model).corrected_by(&mut see);
        let end = sampling.run(&made.sampler, start, &mut noise);
        let mut check = |found: &Tensor<4>, expected: &Value, place: String| {
            for (found, expected) in values(found).iter().zip(floats(expected)) {
                let error = (f64::from(*found) - expected).abs() / expected.abs().max(1.0);
                // A σ of 4096 takes digits from an f32.
                let tolerance = if place.contains("zero snr") {
                    1e-4
                } else {
                    2e-5
                };
                assert!(error < tolerance, "{place}: {found} instead of {expected}");
                if tolerance < 1e-4 && error > worst.0 {
                    worst = (error, place.clone());
                }
            }
        };
        for (index, ((timestep, x), call)) in seen.iter().zip(calls).enumerate() {
            let expected = call["t"].as_f64().unwrap();
            assert!(
                (timestep - expected).abs() < 1e-3,
                "{name}, call {index}: timestep {timestep} instead of {expected}"
            );
            check(x, &call["x"], format!("{name}, call {index}"));
        }
        check(&end.unwrap(), &case["end"], format!("{name}, end"));
    }
    println!("largest difference {:.2e} in {}", worst.0, worst.1);
}

#[test]
fn time_steps_and_sigmas_are_those_of_diffusers() {
    for case in reference("sampler_reference.json")["grids"]
        .as_array()
        .unwrap()
    {
        let config = scheduler(&case["config"]).unwrap();
        let steps = case["steps"].as_u64().unwrap() as usize;
        let made = own(&config, steps);
        let levels = made.sampler.levels();
        let name = format!("{} in {steps} steps", case["config"]);
        let times = floats(&case["timesteps"]);
        // Clipping takes the noisiest steps away.
        let steps = times.len();
        assert_eq!(levels.steps(), steps, "{name}");
        for (index, expected) in times.iter().enumerate() {
            let found = levels.level(steps - 1 - index).time();
            assert!(
                (found - expected).abs() < 1e-3,
                "{name}: {found} for {expected}"
            );
        }
        let Some(sigmas) = case.get("sigmas") else {
            continue;
        };
        let sigmas = floats(sigmas);
        let found = (0..steps).rev().map(|i| levels.level(i).sigma());
        let found = found.chain([levels.end().sigma()]);
        for (found, expected) in found.zip(sigmas) {
            assert!(
                (found / expected - 1.0).abs() < 2e-5 || found == expected,
                "{name}: {found} for {expected}"
            );
        }
        let scale = case["init_noise_sigma"].as_f64().unwrap();
        let top = levels.start().sigma();
        let expected = match made.start_scale {
            1.0 if scale == 1.0 => 1.0,
            start => start * (1.0 + top * top).sqrt(),
        };
        assert!(
            (scale / expected - 1.0).abs() < 2e-5,
            "{name}: {scale} for {expected}"
        );
    }
}

/// The `init_noise_sigma` of diffusers 0.42, after the steps are set: what noise is scaled by in its form
/// `x/√ᾱ`, 30 steps over Stable Diffusion's schedule.
#[test]
fn noise_is_scaled_as_diffusers_scales_it_once_the_steps_are_set() {
    for (spacing, sigma, expected) in [
        ("leading", 11.4769, 11.5203),
        ("linspace", 14.6146, 14.6146),
        ("trailing", 14.6146, 14.6146),
    ] {
        let config = json!({
            "_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear",
            "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": spacing, "steps_offset": 1,
        });
        let made = scheduler(&config).unwrap();
        let made = made.sampler(&"euler".into(), None, 30).unwrap();
        let level = made.sampler.levels().level(29);
        assert!(
            (level.sigma() - sigma).abs() < 1e-4,
            "{spacing}: {}",
            level.sigma()
        );
        let scale = made.start_scale / level.signal();
        assert!((scale - expected).abs() < 1e-4, "{spacing}: {scale}");
    }
}

/// Churn, and the third order with noise, which k-diffusion has as its source has.
#[test]
fn every_call_of_the_network_agrees_with_k_diffusion() {
    let reference = reference("sampler_reference.json");
    let training = NoiseScheduleConfig::new()
        .with_betas(BetaSchedule::STABLE_DIFFUSION)
        .init()
        .unwrap();
    let schedule = training.respace(Spacing::Trailing, 10).unwrap();
    let model = GaussianDenoiser::new(
        tensor(&reference["mean"], SHAPE),
        tensor(&reference["variance"], SHAPE),
        Prediction::Sample,
    );
    for case in reference["k_diffusion"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let number = |key: &str| case["churn"][key].as_f64();
        let churn = number("s_churn").map(|amount| Churn {
            amount,
            sigma_min: number("s_tmin").unwrap_or(0.0),
            sigma_max: number("s_tmax"),
            noise_scale: number("s_noise").unwrap_or(1.0),
        });
        let solver = match name {
            // The weight of its third order is not the exact one.
            "dpm++3m-sde" => {
                let published = Options::parse(&["third_order=Diffusers"]).unwrap();
                samplers().make(name, &published).unwrap()
            }
            _ if name.starts_with("heun") => shared(Heun::new().with_churn(churn)),
            _ => shared(Euler::new().with_churn(churn)),
        };
        let sampler = Sampler::new(solver, &schedule).unwrap();
        let calls = case["calls"].as_array().unwrap();
        assert_eq!(sampler.calls(), calls.len(), "{name}");
        let check = |found: &Tensor<4>, expected: &Value| {
            for (found, expected) in values(found).iter().zip(floats(expected)) {
                let error = (f64::from(*found) - expected).abs() / expected.abs().max(1.0);
                assert!(error < 2e-5, "{name}: {found} instead of {expected}");
            }
        };
        let mut call = calls.iter();
        let mut see = |step: &Step<'_>, denoised: Denoised| {
            let expected = call.next().unwrap();
            let sigma = expected["sigma"].as_f64().unwrap();
            assert!((step.level.sigma() / sigma - 1.0).abs() < 1e-5, "{name}");
            // The time is that of the level, as far as the training goes.
            let time = training.timestep_of_sigma(sigma);
            assert!((step.level.time() - time).abs() < 0.01, "{name}");
            check(step.x, &expected["x"]);
            denoised
        };
        let start = tensor(&reference["start"], SHAPE);
        let mut noise = SeededNoise::new(7, 0);
        let sampling = Sampling::of(&model).corrected_by(&mut see);
        let end = sampling.run(&sampler, start, &mut noise);
        check(&end.unwrap(), &case["end"]);
    }
}

#[test]
fn wrong_churn_is_refused() {
    let training = NoiseScheduleConfig::new().init().unwrap();
    for churn in [
        Churn::new(-1.0),
        Churn::new(f64::NAN),
        Churn::new(1.0).with_noise_scale(-0.5),
    ] {
        let euler = Euler::new().with_churn(Some(churn));
        let heun = Heun::new().with_churn(Some(churn));
        assert!(Sampler::<4>::new(euler, &training).is_err());
        assert!(Sampler::<4>::new(heun, &training).is_err());
    }
}

/// With an odd stride, half of it is no whole training step. diffusers then asks the network about one
/// time, and has taken the picture to another; here both are the middle. What that changes is small
/// against the error of the method.
#[test]
fn runge_and_kuttas_start_stays_near_that_of_diffusers_where_strides_are_odd() {
    let reference = reference("sampler_reference.json");
    for case in reference["uneven_pndm"].as_array().unwrap() {
        let config = scheduler(&case["config"]).unwrap();
        // 1000/8 and 1000/40 are odd.
        let steps = case["steps"].as_u64().unwrap() as usize;
        let made = config.sampler(&"pndm".into(), None, steps).unwrap();
        let sampler = made.sampler;
        let model = GaussianDenoiser::new(
            tensor(&reference["mean"], SHAPE),
            tensor(&reference["variance"], SHAPE),
            Prediction::Epsilon,
        );
        let start = tensor(&reference["start"], SHAPE);
        let levels = sampler.levels();
        let exact = model.transport(start.clone(), levels.start(), levels.end());
        let mut noise = SeededNoise::new(0, 0);
        let ours = sampler.sample(&model, start, &mut noise).unwrap();
        let theirs = tensor(&case["end"], SHAPE);
        let largest = |x: Tensor<4>| x.abs().max().into_scalar::<f32>();
        let apart = largest(ours.clone() - theirs.clone());
        let [ours, theirs] = [ours, theirs].map(|end| largest(end - exact.clone()));
        println!("{steps} steps: error {ours:.2e}, diffusers {theirs:.2e}, apart {apart:.2e}");
        assert!(apart > 1e-5 && apart < 0.1 * ours.min(theirs), "{apart}");
    }
}

#[test]
fn unknown_classes_and_options_are_named() {
    let named = |config: Value, key: &str, value: &str| {
        let text = scheduler(&config).unwrap_err().to_string();
        assert!(text.contains(key) && text.contains(value), "{text}");
    };
    named(
        json!({"_class_name": "FooScheduler"}),
        "_class_name",
        "FooScheduler",
    );
    named(
        json!({"_class_name": "DDIMScheduler", "warp": 2}),
        "warp",
        "2",
    );
    named(
        json!({"_class_name": "DDIMScheduler", "thresholding": true}),
        "thresholding",
        "true",
    );
    named(
        json!({"_class_name": "DDIMScheduler", "beta_schedule": "wavy"}),
        "beta_schedule",
        "wavy",
    );
    named(
        json!({"_class_name": "EulerDiscreteScheduler", "prediction_type": "flow_prediction"}),
        "prediction_type",
        "flow_prediction",
    );
    let dpm = |options: Value| {
        let mut config = json!({"_class_name": "DPMSolverMultistepScheduler"});
        let fields = config.as_object_mut().unwrap();
        fields.extend(options.as_object().unwrap().clone());
        config
    };
    named(dpm(json!({"solver_order": 4})), "solver_order", "4");
    named(
        dpm(json!({"algorithm_type": "sde-dpmsolver"})),
        "final_sigmas_type",
        "zero",
    );
    let ends = "sigma_min";
    named(
        dpm(
            json!({"algorithm_type": "sde-dpmsolver", "final_sigmas_type": ends, "solver_order": 3}),
        ),
        "solver_order",
        "3",
    );
    named(
        dpm(json!({"use_karras_sigmas": true, "use_beta_sigmas": true})),
        "use_beta_sigmas",
        "use_karras_sigmas",
    );
    named(
        json!({"_class_name": "UniPCMultistepScheduler", "disable_corrector": [1]}),
        "disable_corrector",
        "[1]",
    );
    named(
        json!({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "odd"}),
        "timestep_spacing",
        "odd",
    );
}

#[test]
fn a_number_that_json_does_not_have_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"lambda_min_clipped\": -Infinity}";
    fs::write(folder.path().join("scheduler_config.json"), text).unwrap();
    let config = SchedulerConfig::load(&Part::open(folder.path(), "").unwrap()).unwrap();
    assert_eq!(config.lambda_min_clipped, None);
    assert_eq!(config.sampler_name().unwrap(), "dpm++2m");
}

/// A schedule of 1024 steps so smooth that all grids below lie in it, with the middles of their steps.
fn smooth() -> NoiseSchedule {
    NoiseScheduleConfig::new().with_steps(1024).init().unwrap()
}

fn gaussian(prediction: Prediction) -> GaussianDenoiser {
    let device = Device::flex();
    let row = |values: [f32; 8]| Tensor::<1>::from_floats(values, &device).reshape(SHAPE);
    GaussianDenoiser::new(
        row([0.5, -0.4, 0.3, -0.2, 0.1, 0.0, -0.6, 0.7]),
        row([0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.5, 3.0]),
        prediction,
    )
}

/// The error of one run down to a level that is still noisy, where the equation is smooth.
fn error(solver: &Arc<dyn Solver>, prediction: Prediction, steps: usize) -> f64 {
    let training = smooth();
    let stride = 768 / steps;
    // From time 1000 down to 232.
    let levels: Vec<Level> = (1..=steps)
        .map(|k| training.level(232 + k * stride))
        .collect();
    let end = training.alpha_bar(232);
    let schedule = NoiseSchedule::from_levels(&levels, end)
        .unwrap()
        .of_training(&training);
    let start = SeededNoise::new(3, 0).normal(SHAPE, &Device::flex());
    let model = gaussian(prediction);
    let exact = model.transport(
        start.clone(),
        schedule.level(steps - 1),
        training.level(232),
    );
    let sampler = Sampler::new(solver.clone(), schedule).unwrap();
    let found = sampler
        .sample(&model, start, &mut SeededNoise::new(0, 0))
        .unwrap();
    (found - exact).abs().max().into_scalar::<f32>().into()
}

/// The order, from the errors in 12 and in 24 steps: coarse enough for `f32`.
fn order(solver: &Arc<dyn Solver>, prediction: Prediction) -> f64 {
    (error(solver, prediction, 12) / error(solver, prediction, 24)).log2()
}

#[test]
fn orders_of_convergence() {
    let pndm = |method| shared(Pndm::new().with_method(method));
    let single = |order| {
        shared(
            DpmSolverSinglestep::new()
                .with_order(order)
                .with_solver_type(DpmSolverType::Heun)
                .with_lower_order_final(false),
        )
    };
    // Not with the first-order end that it has in short schedules.
    let dpm = DpmSolverMultistep::new().with_lower_order_final(false);
    let deis = Deis::new().with_lower_order_final(false);
    for (solver, least, most) in [
        (shared(Ddim::new()), 0.8, 1.3),
        (named("euler"), 0.8, 1.3),
        (pndm(PndmMethod::SPndm), 1.6, 9.0),
        (pndm(PndmMethod::FPndm), 1.6, 9.0),
        (pndm(PndmMethod::Plms), 1.6, 9.0),
        (named("heun"), 1.6, 9.0),
        (named("lms"), 1.6, 9.0),
        (shared(dpm), 1.6, 9.0),
        (named("unipc"), 1.6, 9.0),
        (shared(dpm.with_order(3)), 1.6, 9.0),
        (
            shared(dpm.with_algorithm(DpmAlgorithm::DpmSolver)),
            1.6,
            9.0,
        ),
        (shared(UniPc::new().with_of_noise(true)), 1.6, 9.0),
        (shared(deis), 1.6, 9.0),
        (shared(deis.with_order(3)), 2.2, 9.0),
        (single(2), 1.6, 9.0),
        (single(3), 2.2, 9.0),
        (named("dpm2"), 1.6, 9.0),
    ] {
        for prediction in Prediction::ALL {
            let order = order(&solver, prediction);
            println!("{solver:?} {prediction:?}: {order:.2}");
            assert!(
                (least..most).contains(&order),
                "{solver:?} {prediction:?}: {order}"
            );
        }
    }
}

/// What the network predicts is one thing said in five ways: the picture is the same.
#[test]
fn every_sampler_takes_every_prediction() {
    let training = NoiseScheduleConfig::new().init().unwrap();
    let schedule = training.respace(Spacing::Trailing, 12).unwrap();
    for name in samplers::<4>().names() {
        let sampler = Sampler::new(named(name), &schedule).unwrap();
        let picture = |prediction| {
            let mut noise = SeededNoise::new(3, 0);
            let start = noise.normal(SHAPE, &Device::flex());
            let found = sampler.sample(&gaussian(prediction), start, &mut noise);
            found.unwrap()
        };
        let expected = picture(Prediction::Sample);
        for prediction in Prediction::ALL {
            let error = (picture(prediction) - expected.clone()).abs().max();
            let error = error.into_scalar::<f32>();
            // Of rounding in ε at the first step, which α = 0.006 enlarges.
            assert!(error < 2e-3, "{name} {prediction:?}: {error}");
        }
    }
}

/// Where diffusers refuses to go, or gives no number: the noise's form has a last step too, DDIM's.
#[test]
fn forms_of_the_noise_reach_sigma_0() {
    let dpm = DpmSolverMultistep::new();
    let training = smooth();
    let schedule = training.respace(Spacing::Trailing, 32).unwrap();
    let model = gaussian(Prediction::Epsilon);
    let start = SeededNoise::new(3, 0).normal(SHAPE, &Device::flex());
    for solver in [
        shared(dpm.with_algorithm(DpmAlgorithm::DpmSolver)),
        shared(UniPc::new().with_of_noise(true)),
        named("deis"),
    ] {
        let sampler = Sampler::new(solver.clone(), &schedule).unwrap();
        let levels = sampler.levels();
        let exact = model.transport(start.clone(), levels.start(), levels.end());
        let mut noise = SeededNoise::new(0, 0);
        let end = sampler.sample(&model, start.clone(), &mut noise).unwrap();
        let error = (end - exact).abs().max().into_scalar::<f32>();
        println!("{solver:?}: {error:.2e}");
        assert!(error < 0.1, "{solver:?}: {error}");
    }
    let sde = dpm.with_algorithm(DpmAlgorithm::SdeDpmSolver);
    let error = Sampler::<4>::new(sde, schedule).unwrap_err();
    assert!(error.to_string().contains("sigma 0"), "{error}");
}

#[test]
fn uneven_times_keep_the_order() {
    let training = smooth();
    let model = gaussian(Prediction::Epsilon);
    let start = SeededNoise::new(3, 0).normal(SHAPE, &Device::flex());
    // Steps of two lengths in turn; halving each keeps the pattern.
    let error = |halvings: usize| {
        let mut times = vec![232];
        for k in 0..12 {
            let stride = if k % 2 == 0 { 32 } else { 96 };
            for _ in 0..1 << halvings {
                times.push(times[times.len() - 1] + (stride >> halvings));
            }
        }
        let levels: Vec<Level> = times[1..].iter().map(|&t| training.level(t)).collect();
        let end = training.alpha_bar(232);
        let schedule = NoiseSchedule::from_levels(&levels, end)
            .unwrap()
            .of_training(&training);
        let exact = model.transport(start.clone(), training.level(1000), training.level(232));
        let found = Sampler::new(named("s-pndm"), schedule).unwrap().sample(
            &model,
            start.clone(),
            &mut SeededNoise::new(0, 0),
        );
        (found.unwrap() - exact).abs().max().into_scalar::<f32>()
    };
    // The coarsest pattern is not yet in the asymptotic range.
    let order = (error(1) / error(3)).log2() / 2.0;
    assert!(order > 1.7, "{order}");
}

#[test]
fn pndm_counts_its_calls_and_refuses_short_schedules() {
    let training = NoiseScheduleConfig::new().init().unwrap();
    let leading = |n| training.respace(Spacing::Leading { offset: 0 }, n).unwrap();
    let model = gaussian(Prediction::Epsilon);
    for (method, least, more) in [
        (PndmMethod::FPndm, 4, 9),
        (PndmMethod::Fon, 4, 9),
        (PndmMethod::SPndm, 2, 1),
        (PndmMethod::Plms, 2, 1),
    ] {
        let solver = Pndm::new().with_method(method);
        let refused = Sampler::<4>::new(solver, leading(least - 1)).unwrap_err();
        assert!(
            refused.to_string().contains(&least.to_string()),
            "{refused}"
        );
        let pndm = Sampler::new(solver, leading(least)).unwrap();
        let mut calls = 0;
        let mut count = |step: &Step<'_>, denoised: Denoised| {
            assert_eq!(step.call, calls);
            calls += 1;
            denoised
        };
        let mut noise = SeededNoise::new(1, 0);
        let start = noise.normal(SHAPE, &Device::flex());
        let sampling = Sampling::of(&model).corrected_by(&mut count);
        sampling.run(&pndm, start, &mut noise).unwrap();
        assert_eq!((calls, pndm.calls()), (least + more, least + more));
    }
}

#[test]
fn the_last_steps_alone_continue_a_noised_picture() {
    let training = smooth();
    let schedule = training.respace(Spacing::Trailing, 64).unwrap();
    let model = gaussian(Prediction::Epsilon);
    let picture = model.answer(
        Tensor::zeros(SHAPE, &Device::flex()),
        Level::variance_preserving(0.0, 0.5),
    );
    let z = SeededNoise::new(5, 0).normal(SHAPE, &Device::flex());
    for name in ["ddim", "plms", "unipc", "lms"] {
        let sampler = Sampler::new(named(name), &schedule).unwrap();
        let part = sampler.last_steps(16).unwrap();
        let levels = part.levels();
        assert_eq!(levels.start(), schedule.level(15));
        let start = levels.add_noise(picture.clone(), z.clone());
        let exact = model.transport(start.clone(), levels.start(), levels.end());
        let end = part
            .sample(&model, start, &mut SeededNoise::new(0, 0))
            .unwrap();
        let error = (end - exact).abs().max().into_scalar::<f32>();
        assert!(error < 0.1, "{name}: {error}");
        assert!(sampler.last_steps(0).is_err() && sampler.last_steps(65).is_err());
    }
}

#[test]
fn combined_velocities_lose_an_order() {
    let plms = |combine| {
        let plms = Pndm::new().with_method(PndmMethod::Plms);
        shared(plms.with_combine_outputs(combine))
    };
    let [combined, converted] = [true, false].map(|c| order(&plms(c), Prediction::Velocity));
    println!("combined velocities: order {combined:.2}, noises: {converted:.2}");
    assert!(combined < 1.4 && converted > 1.6, "{combined} {converted}");
    let error = |combine| error(&plms(combine), Prediction::Epsilon, 12);
    assert_eq!(error(true), error(false));
}

#[test]
fn the_folders_of_stable_diffusion_name_their_samplers() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny");
    for (folder, sampler, prediction) in [
        ("sd15", "plms", Prediction::Epsilon),
        ("sd21", "ddim", Prediction::Velocity),
        ("sdxl", "euler", Prediction::Epsilon),
    ] {
        let folder = tiny.join(folder);
        let part = Part::open(&folder.join("scheduler"), "").unwrap();
        let config = SchedulerConfig::load(&part).unwrap();
        assert_eq!(config.sampler_name().unwrap(), sampler);
        assert_eq!(config.prediction().unwrap(), prediction);
        // Their grids in every spacing, of the samplers that the fixtures have.
        let text = fs::read_to_string(folder.join("reference.json")).unwrap();
        // As Python writes it.
        let text = text.replace(": -Infinity", ": null");
        let facts: Value = serde_json::from_str(&text).unwrap();
        for (name, sampler) in [
            ("ddim", "ddim"),
            ("euler", "euler"),
            ("dpm", "dpm++2m"),
            ("unipc", "unipc"),
        ] {
            // Only the first of the folders has them.
            let grids = facts["timesteps"][name].as_object();
            for (spacing, by_steps) in grids.into_iter().flatten() {
                let mut config = config.clone();
                config.timestep_spacing = Some(spacing.clone());
                for (steps, times) in by_steps.as_object().unwrap() {
                    let steps: usize = steps.parse().unwrap();
                    let made = config.sampler(&sampler.into(), None, steps).unwrap();
                    let times = floats(times);
                    let found = (0..steps)
                        .rev()
                        .map(|i| made.sampler.levels().level(i).time());
                    for (found, expected) in found.zip(times) {
                        assert!((found - expected).abs() < 1e-3, "{name} {spacing} {steps}");
                    }
                }
            }
        }
    }
}
