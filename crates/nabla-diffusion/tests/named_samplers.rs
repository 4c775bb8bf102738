//! Samplers by name and scheduler files: every call of the network against diffusers, orders of
//! convergence against the closed form for Gaussian data.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use nabla_diffusion::churn::Churn;
use nabla_diffusion::ddim::DdimConfig;
use nabla_diffusion::deis::DeisConfig;
use nabla_diffusion::denoiser::{Denoised, Denoiser, GaussianDenoiser, Prediction, SamplerStep};
use nabla_diffusion::dpm_solver_multistep::{
    DpmAlgorithm, DpmSolverMultistepConfig, DpmSolverType,
};
use nabla_diffusion::dpm_solver_singlestep::DpmSolverSinglestepConfig;
use nabla_diffusion::euler::EulerConfig;
use nabla_diffusion::heun::HeunConfig;
use nabla_diffusion::pndm::{PndmConfig, PndmMethod};
use nabla_diffusion::sampler::{SamplerConfig, SamplerKind};
use nabla_diffusion::schedule::{
    BetaSchedule, NoiseLevel, NoiseSchedule, NoiseScheduleConfig, Spacing,
};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::stable_diffusion::model_folder::{ModelFolderError, Part};
use nabla_diffusion::stable_diffusion::scheduler_config::SchedulerConfig;
use nabla_diffusion::unipc::UniPcConfig;
use serde_json::{Value, json};

use crate::reference_values::{floats, reference, tensor, values};

const SHAPE: [usize; 4] = [1, 2, 2, 2];

fn scheduler(config: &Value) -> Result<SchedulerConfig, ModelFolderError> {
    let folder = tempfile::tempdir().unwrap();
    let text = serde_json::to_string(config).unwrap();
    fs::write(folder.path().join("scheduler_config.json"), text).unwrap();
    SchedulerConfig::load(&Part::open(folder.path(), "").unwrap())
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
        let made = config.sampler(config.kind().unwrap(), None, steps).unwrap();
        let model = GaussianDenoiser::new(
            tensor(&reference["mean"], SHAPE),
            tensor(&reference["variance"], SHAPE),
            config.prediction().unwrap(),
        );
        let calls = case["calls"].as_array().unwrap();
        assert_eq!(made.sampler.calls(), calls.len(), "{name}");
        let mut seen = Vec::new();
        let start = tensor(&reference["start"], SHAPE) * made.start_scale;
        let mut hook = |step: SamplerStep<'_>, denoised: Denoised| {
            seen.push((step.level.timestep, step.x.clone()));
            denoised
        };
        let mut noise = SeededNoise::new(7, 0);
        let end = made
            .sampler
            .sample_with_hook(&model, start, &mut noise, &mut hook);
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
        let made = config.sampler(config.kind().unwrap(), None, steps).unwrap();
        let schedule = made.sampler.schedule();
        let name = format!("{} in {steps} steps", case["config"]);
        let times = floats(&case["timesteps"]);
        // Clipping takes the noisiest steps away.
        let steps = times.len();
        assert_eq!(schedule.steps(), steps, "{name}");
        for (index, expected) in times.iter().enumerate() {
            let found = schedule.timestep(steps - 1 - index);
            assert!(
                (found - expected).abs() < 1e-3,
                "{name}: {found} for {expected}"
            );
        }
        let Some(sigmas) = case.get("sigmas") else {
            continue;
        };
        let sigmas = floats(sigmas);
        let of = |alpha_bar: f64| ((1.0 - alpha_bar) / alpha_bar).sqrt();
        let found = (0..steps).rev().map(|i| schedule.sigma(i));
        let found = found.chain([of(schedule.previous_alpha_bar(0))]);
        for (found, expected) in found.zip(sigmas) {
            assert!(
                (found / expected - 1.0).abs() < 2e-5 || found == expected,
                "{name}: {found} for {expected}"
            );
        }
        let scale = case["init_noise_sigma"].as_f64().unwrap();
        let top = schedule.sigma(steps - 1);
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
        let made = made.sampler(SamplerKind::Euler, None, 30).unwrap();
        let level = made.sampler.schedule().level(29);
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
        let config = match name {
            "dpm++3m-sde" => SamplerKind::DpmSolverMultistep3Sde.config(),
            _ if name.starts_with("heun") => {
                SamplerConfig::Heun(HeunConfig::new().with_churn(churn))
            }
            _ => SamplerConfig::Euler(EulerConfig::new().with_churn(churn)),
        };
        let sampler = config.init(schedule.clone()).unwrap();
        let calls = case["calls"].as_array().unwrap();
        assert_eq!(sampler.calls(), calls.len(), "{name}");
        let check = |found: &Tensor<4>, expected: &Value| {
            for (found, expected) in values(found).iter().zip(floats(expected)) {
                let error = (f64::from(*found) - expected).abs() / expected.abs().max(1.0);
                assert!(error < 2e-5, "{name}: {found} instead of {expected}");
            }
        };
        let mut call = calls.iter();
        let mut hook = |step: SamplerStep<'_>, denoised: Denoised| {
            let expected = call.next().unwrap();
            let sigma = expected["sigma"].as_f64().unwrap();
            assert!((step.level.sigma() / sigma - 1.0).abs() < 1e-5, "{name}");
            // The time is that of the level, as far as the training goes.
            let time = training.timestep_of_sigma(sigma);
            assert!((step.level.timestep - time).abs() < 0.01, "{name}");
            check(step.x, &expected["x"]);
            denoised
        };
        let start = tensor(&reference["start"], SHAPE);
        let mut noise = SeededNoise::new(7, 0);
        let end = sampler.sample_with_hook(&model, start, &mut noise, &mut hook);
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
        let euler = EulerConfig::new().with_churn(Some(churn));
        let heun = HeunConfig::new().with_churn(Some(churn));
        assert!(euler.init(training.clone()).is_err());
        assert!(heun.init(training.clone()).is_err());
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
        let made = config.sampler(SamplerKind::Pndm, None, steps).unwrap();
        let sampler = made.sampler;
        let model = GaussianDenoiser::new(
            tensor(&reference["mean"], SHAPE),
            tensor(&reference["variance"], SHAPE),
            Prediction::Epsilon,
        );
        let start = tensor(&reference["start"], SHAPE);
        let schedule = sampler.schedule();
        let top = schedule.alpha_bar(steps - 1);
        let exact = model.transport(start.clone(), top, schedule.previous_alpha_bar(0));
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
    assert_eq!(config.kind().unwrap(), SamplerKind::DpmSolverMultistep);
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
fn error(config: SamplerConfig, prediction: Prediction, steps: usize) -> f64 {
    let training = smooth();
    let stride = 768 / steps;
    // From time 1000 down to 232.
    let levels: Vec<NoiseLevel> = (1..=steps)
        .map(|k| training.level(232 + k * stride))
        .collect();
    let end = training.alpha_bar(232);
    let schedule = NoiseSchedule::from_levels(&levels, end)
        .unwrap()
        .of_training(&training);
    let start = SeededNoise::new(3, 0).normal(SHAPE, &Device::flex());
    let model = gaussian(prediction);
    let exact = model.transport(start.clone(), schedule.alpha_bar(steps - 1), end);
    let sampler = config.init(schedule).unwrap();
    let found = sampler
        .sample(&model, start, &mut SeededNoise::new(0, 0))
        .unwrap();
    (found - exact).abs().max().into_scalar::<f32>().into()
}

/// The order, from the errors in 12 and in 24 steps: coarse enough for `f32`.
fn order(config: SamplerConfig, prediction: Prediction) -> f64 {
    (error(config, prediction, 12) / error(config, prediction, 24)).log2()
}

#[test]
fn orders_of_convergence() {
    let pndm = |method| SamplerConfig::Pndm(PndmConfig::new().with_method(method));
    let single = |order| {
        SamplerConfig::DpmSolverSinglestep(
            DpmSolverSinglestepConfig::new()
                .with_order(order)
                .with_solver_type(DpmSolverType::Heun)
                .with_lower_order_final(false),
        )
    };
    for (config, least, most) in [
        (SamplerConfig::Ddim(DdimConfig::new()), 0.8, 1.3),
        (SamplerKind::Euler.config(), 0.8, 1.3),
        (pndm(PndmMethod::SPndm), 1.6, 9.0),
        (pndm(PndmMethod::FPndm), 1.6, 9.0),
        (pndm(PndmMethod::Plms), 1.6, 9.0),
        (SamplerKind::Heun.config(), 1.6, 9.0),
        (SamplerKind::Lms.config(), 1.6, 9.0),
        (
            // Not with the first-order end that it has in short schedules.
            SamplerConfig::DpmSolverMultistep(
                DpmSolverMultistepConfig::new().with_lower_order_final(false),
            ),
            1.6,
            9.0,
        ),
        (SamplerKind::UniPc.config(), 1.6, 9.0),
        (
            SamplerConfig::DpmSolverMultistep(
                DpmSolverMultistepConfig::new()
                    .with_order(3)
                    .with_lower_order_final(false),
            ),
            1.6,
            9.0,
        ),
        (
            SamplerConfig::DpmSolverMultistep(
                DpmSolverMultistepConfig::new()
                    .with_algorithm(DpmAlgorithm::DpmSolver)
                    .with_lower_order_final(false),
            ),
            1.6,
            9.0,
        ),
        (
            SamplerConfig::UniPc(UniPcConfig::new().with_of_noise(true)),
            1.6,
            9.0,
        ),
        (
            SamplerConfig::Deis(DeisConfig::new().with_lower_order_final(false)),
            1.6,
            9.0,
        ),
        (
            SamplerConfig::Deis(
                DeisConfig::new()
                    .with_order(3)
                    .with_lower_order_final(false),
            ),
            2.2,
            9.0,
        ),
        (single(2), 1.6, 9.0),
        (single(3), 2.2, 9.0),
        (SamplerKind::Dpm2.config(), 1.6, 9.0),
    ] {
        for prediction in Prediction::ALL {
            let order = order(config, prediction);
            println!("{config:?} {prediction:?}: {order:.2}");
            assert!(
                (least..most).contains(&order),
                "{config:?} {prediction:?}: {order}"
            );
        }
    }
}

/// What the network predicts is one thing said in five ways: the picture is the same.
#[test]
fn every_sampler_takes_every_prediction() {
    let training = NoiseScheduleConfig::new().init().unwrap();
    let schedule = training.respace(Spacing::Trailing, 12).unwrap();
    for kind in SamplerKind::ALL {
        let sampler = kind.config().init(schedule.clone()).unwrap();
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
            assert!(error < 2e-3, "{kind} {prediction:?}: {error}");
        }
    }
}

/// Where diffusers refuses to go, or gives no number: the noise's form has a last step too, DDIM's.
#[test]
fn forms_of_the_noise_reach_sigma_0() {
    let dpm = DpmSolverMultistepConfig::new();
    let training = smooth();
    let schedule = training.respace(Spacing::Trailing, 32).unwrap();
    let model = gaussian(Prediction::Epsilon);
    let start = SeededNoise::new(3, 0).normal(SHAPE, &Device::flex());
    let exact = model.transport(start.clone(), schedule.alpha_bar(31), 1.0);
    for config in [
        SamplerConfig::DpmSolverMultistep(dpm.with_algorithm(DpmAlgorithm::DpmSolver)),
        SamplerConfig::UniPc(UniPcConfig::new().with_of_noise(true)),
        SamplerKind::Deis.config(),
    ] {
        let sampler = config.init(schedule.clone()).unwrap();
        let mut noise = SeededNoise::new(0, 0);
        let end = sampler.sample(&model, start.clone(), &mut noise).unwrap();
        let error = (end - exact.clone()).abs().max().into_scalar::<f32>();
        println!("{config:?}: {error:.2e}");
        assert!(error < 0.1, "{config:?}: {error}");
    }
    let sde = dpm.with_algorithm(DpmAlgorithm::SdeDpmSolver);
    let error = sde.init(schedule).unwrap_err();
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
        let levels: Vec<NoiseLevel> = times[1..].iter().map(|&t| training.level(t)).collect();
        let end = training.alpha_bar(232);
        let schedule = NoiseSchedule::from_levels(&levels, end)
            .unwrap()
            .of_training(&training);
        let exact = model.transport(start.clone(), training.alpha_bar(1000), end);
        let pndm = PndmConfig::new().with_method(PndmMethod::SPndm);
        let found =
            pndm.init(schedule)
                .unwrap()
                .sample(&model, start.clone(), &mut SeededNoise::new(0, 0));
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
        let config = PndmConfig::new().with_method(method);
        let refused = config.init(leading(least - 1)).unwrap_err();
        assert!(
            refused.to_string().contains(&least.to_string()),
            "{refused}"
        );
        let pndm = config.init(leading(least)).unwrap();
        let mut calls = 0;
        let mut hook = |_: SamplerStep<'_>, denoised| {
            calls += 1;
            denoised
        };
        let mut noise = SeededNoise::new(1, 0);
        let start = noise.normal(SHAPE, &Device::flex());
        pndm.sample_with_hook(&model, start, &mut noise, &mut hook)
            .unwrap();
        assert_eq!((calls, pndm.calls()), (least + more, least + more));
    }
}

#[test]
fn the_last_steps_alone_continue_a_noised_picture() {
    let training = smooth();
    let schedule = training.respace(Spacing::Trailing, 64).unwrap();
    let model = gaussian(Prediction::Epsilon);
    let picture = model.predict(
        Tensor::zeros(SHAPE, &Device::flex()),
        NoiseLevel {
            timestep: 0.0,
            alpha_bar: 0.5,
        },
    );
    let z = SeededNoise::new(5, 0).normal(SHAPE, &Device::flex());
    for kind in [
        SamplerKind::Ddim,
        SamplerKind::Plms,
        SamplerKind::UniPc,
        SamplerKind::Lms,
    ] {
        let sampler = kind.config().init(schedule.clone()).unwrap();
        let part = sampler.last_steps(16).unwrap();
        let start = part.schedule().add_noise(picture.clone(), z.clone(), &[15]);
        let level = part.schedule().level(15);
        let exact = model.transport(start.clone(), level.alpha_bar, 1.0);
        let end = part
            .sample(&model, start, &mut SeededNoise::new(0, 0))
            .unwrap();
        let error = (end - exact).abs().max().into_scalar::<f32>();
        assert!(error < 0.1, "{kind}: {error}");
        assert!(sampler.last_steps(0).is_err() && sampler.last_steps(65).is_err());
    }
}

#[test]
fn combined_velocities_lose_an_order() {
    let plms = |combine| {
        let config = PndmConfig::new().with_method(PndmMethod::Plms);
        SamplerConfig::Pndm(config.with_combine_outputs(combine))
    };
    let [combined, converted] = [true, false].map(|c| order(plms(c), Prediction::Velocity));
    println!("combined velocities: order {combined:.2}, noises: {converted:.2}");
    assert!(combined < 1.4 && converted > 1.6, "{combined} {converted}");
    let error = |combine| error(plms(combine), Prediction::Epsilon, 12);
    assert_eq!(error(true), error(false));
}

#[test]
fn the_folders_of_stable_diffusion_name_their_samplers() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny");
    for (folder, kind, prediction) in [
        ("sd15", SamplerKind::Plms, Prediction::Epsilon),
        ("sd21", SamplerKind::Ddim, Prediction::Velocity),
        ("sdxl", SamplerKind::Euler, Prediction::Epsilon),
    ] {
        let folder = tiny.join(folder);
        let part = Part::open(&folder.join("scheduler"), "").unwrap();
        let config = SchedulerConfig::load(&part).unwrap();
        assert_eq!(config.kind().unwrap(), kind);
        assert_eq!(config.prediction().unwrap(), prediction);
        // Their grids in every spacing, of the samplers that the fixtures have.
        let text = fs::read_to_string(folder.join("reference.json")).unwrap();
        // As Python writes it.
        let text = text.replace(": -Infinity", ": null");
        let facts: Value = serde_json::from_str(&text).unwrap();
        for (name, kind) in [
            ("ddim", SamplerKind::Ddim),
            ("euler", SamplerKind::Euler),
            ("dpm", SamplerKind::DpmSolverMultistep),
            ("unipc", SamplerKind::UniPc),
        ] {
            // Only the first of the folders has them.
            let grids = facts["timesteps"][name].as_object();
            for (spacing, by_steps) in grids.into_iter().flatten() {
                let mut config = config.clone();
                config.timestep_spacing = Some(spacing.clone());
                for (steps, times) in by_steps.as_object().unwrap() {
                    let steps: usize = steps.parse().unwrap();
                    let made = config.sampler(kind, None, steps).unwrap();
                    let times = floats(times);
                    let found = (0..steps)
                        .rev()
                        .map(|i| made.sampler.schedule().timestep(i));
                    for (found, expected) in found.zip(times) {
                        assert!((found - expected).abs() < 1e-3, "{name} {spacing} {steps}");
                    }
                }
            }
        }
    }
}
