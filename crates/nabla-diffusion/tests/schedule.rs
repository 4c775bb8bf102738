//! Noise schedules against diffusers and against their own identities.

use nabla_base::choices::Choices;
use nabla_base::range::OutOfRange;
use nabla_diffusion::level::{alpha_bar_from_sigma, sigma_from_alpha_bar};
use nabla_diffusion::schedule::{
    BetaSchedule, NoiseSchedule, NoiseScheduleConfig, ScheduleError, Spacing,
};
use nabla_diffusion::sigma_spacing::{KarrasSigmas, SigmaSpacing};
use proptest::prelude::*;

use crate::reference_values::{floats, reference};

fn config(name: &str) -> NoiseScheduleConfig {
    let config = NoiseScheduleConfig::new();
    match name {
        "linear" => config,
        "scaled_linear" => config.with_betas(BetaSchedule::STABLE_DIFFUSION),
        "cosine" => config.with_betas(BetaSchedule::COSINE),
        "sigmoid" => config.with_betas(BetaSchedule::Sigmoid {
            start: 1e-4,
            end: 0.02,
        }),
        "zero_terminal" => config
            .with_betas(BetaSchedule::STABLE_DIFFUSION)
            .with_zero_terminal_snr(true),
        _ => panic!("no schedule {name}"),
    }
}

fn spacing(name: &str, offset: usize) -> Spacing {
    match name {
        "linspace" => Spacing::Linspace,
        "leading" => Spacing::Leading { offset },
        "trailing" => Spacing::Trailing,
        _ => panic!("no spacing {name}"),
    }
}

#[test]
fn tables_agree_with_diffusers() {
    for (name, table) in reference("diffusers_reference.json")["tables"]
        .as_object()
        .unwrap()
    {
        let schedule = config(name).init().unwrap();
        let (betas, alpha_bars) = (floats(&table["beta"]), floats(&table["alpha_bar"]));
        // diffusers computes in f32; where ᾱ falls to 0 the ratio of two small numbers loses digits.
        let tolerance = |beta: f64| {
            if name == "zero_terminal" {
                1e-6 + 1e-4 * beta
            } else {
                1e-6
            }
        };
        for (i, index) in floats(&table["index"]).into_iter().enumerate() {
            let index = index as usize;
            assert!(
                (schedule.beta(index) - betas[i]).abs() < tolerance(betas[i]),
                "{name}: beta {index} is {}, diffusers has {}",
                schedule.beta(index),
                betas[i]
            );
            assert!(
                (schedule.alpha_bar(index) - alpha_bars[i]).abs() < 1e-6,
                "{name}: alpha-bar {index} is {}, diffusers has {}",
                schedule.alpha_bar(index),
                alpha_bars[i]
            );
        }
    }
}

#[test]
fn spacings_agree_with_diffusers() {
    for case in reference("diffusers_reference.json")["spacings"]
        .as_array()
        .unwrap()
    {
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let kept = spacing(case["spacing"].as_str().unwrap(), number("offset"))
            .timesteps(1000, number("count"))
            .unwrap();
        assert_eq!(kept.len(), number("length"), "{case}");
        let falling: Vec<usize> = kept.iter().rev().copied().collect();
        assert_eq!(falling[0], number("first"), "{case}");
        assert_eq!(falling[falling.len() - 1], number("last"), "{case}");
        assert_eq!(
            falling
                .iter()
                .enumerate()
                .map(|(i, t)| i * t)
                .sum::<usize>(),
            number("weighted_sum"),
            "{case}"
        );
        if let Some(expected) = case["falling"].as_array() {
            let expected: Vec<usize> = expected
                .iter()
                .map(|t| t.as_u64().unwrap() as usize)
                .collect();
            assert_eq!(falling, expected, "{case}");
        }
    }
}

#[test]
fn karras_levels_agree_with_diffusers() {
    let karras = &reference("diffusers_reference.json")["karras"];
    // diffusers computes them in f32, with a seventh power that multiplies the rounding.
    let close = |a: f64, b: f64| (a - b).abs() <= 3e-5 * b.abs().max(1e-3);
    for (ours, theirs) in KarrasSigmas::new()
        .sigmas(18)
        .unwrap()
        .into_iter()
        .zip(floats(&karras["edm_18"]))
    {
        assert!(close(ours, theirs), "{ours} {theirs}");
    }

    let schedule = config("scaled_linear")
        .init()
        .unwrap()
        .respace_karras(20, 7.0)
        .unwrap();
    let sigmas = floats(&karras["scaled_linear_20"]);
    let timesteps = floats(&karras["scaled_linear_20_timesteps"]);
    for (i, (sigma, timestep)) in sigmas.into_iter().zip(timesteps).enumerate() {
        let index = 19 - i;
        assert!(
            close(schedule.sigma(index), sigma),
            "{} {sigma}",
            schedule.sigma(index)
        );
        assert!(
            (schedule.timestep(index) - timestep).abs() < 1e-2,
            "{} {timestep}",
            schedule.timestep(index)
        );
    }
}

#[test]
fn beta_levels_agree_with_scipy() {
    let quantiles = floats(&reference("sampler_reference.json")["beta_quantiles"]);
    let sigmas = SigmaSpacing::Beta
        .sigmas(1.0, 2.0, quantiles.len())
        .unwrap();
    for (sigma, quantile) in sigmas.iter().zip(quantiles) {
        assert!((sigma - 1.0 - quantile).abs() < 1e-14, "{sigma} {quantile}");
    }
}

#[test]
fn spacings_have_names_and_ends() {
    for choice in SigmaSpacing::choices() {
        let spacing = choice.value;
        assert_eq!(choice.name.parse::<SigmaSpacing>(), Ok(spacing));
        assert_eq!(spacing.to_string(), choice.name);
        let sigmas = spacing.sigmas(0.03, 14.6, 9).unwrap();
        assert!((sigmas[0] - 14.6).abs() < 1e-12 && (sigmas[8] - 0.03).abs() < 1e-12);
        assert!(sigmas.windows(2).all(|pair| pair[1] < pair[0]), "{spacing}");
        assert_eq!(spacing.sigmas(0.1, 1.0, 0), Err(ScheduleError::NoSteps));
        assert!(spacing.sigmas(1.0, 1.0, 3).is_err());
    }
    let error = "odd".parse::<SigmaSpacing>().unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no spacing of sigmas named 'odd'; the names are karras, exponential, beta, lu"
    );
}

#[test]
fn zero_terminal_snr_keeps_the_first_step_and_empties_the_last() {
    let before = config("scaled_linear").init().unwrap();
    let after = config("zero_terminal").init().unwrap();
    assert!((before.alpha_bar(0) - after.alpha_bar(0)).abs() < 1e-15);
    assert_eq!(after.alpha_bar(999), 0.0);
    assert_eq!(after.snr(999), 0.0);
    assert_eq!(after.log_snr(999), f64::NEG_INFINITY);
    assert_eq!(after.sigma(999), f64::INFINITY);
    assert_eq!(after.beta(999), 1.0);
    let again = after.rescale_zero_terminal_snr().unwrap();
    for (a, b) in again.alpha_bars().iter().zip(after.alpha_bars()) {
        assert!((a - b).abs() < 1e-15, "{a} {b}");
    }
}

#[test]
fn stable_diffusion_starts_and_ends_at_its_known_noise_levels() {
    // The sigma range that every Stable Diffusion sampler is documented with.
    let schedule = config("scaled_linear").init().unwrap();
    assert!((schedule.sigma(0) - 0.0292).abs() < 5e-5);
    assert!((schedule.sigma(999) - 14.6146).abs() < 5e-4);
}

#[test]
fn wrong_parameters_are_told() {
    let fail = |config: NoiseScheduleConfig| config.init().unwrap_err();
    let config = NoiseScheduleConfig::new();
    assert_eq!(fail(config.with_steps(0)), ScheduleError::NoSteps);
    assert_eq!(
        fail(config.with_betas(BetaSchedule::Linear {
            start: 0.0,
            end: 0.02
        })),
        ScheduleError::Beta {
            index: 0,
            value: 0.0
        }
    );
    assert_eq!(
        fail(config.with_steps(3).with_betas(BetaSchedule::Linear {
            start: 0.5,
            end: 1.5
        })),
        ScheduleError::Beta {
            index: 1,
            value: 1.0
        }
    );
    // The square root of a negative beta is not a number.
    assert!(matches!(
        fail(config.with_betas(BetaSchedule::ScaledLinear {
            start: -0.1,
            end: 0.02
        })),
        ScheduleError::Beta { index: 0, .. }
    ));
    let range = |name: &'static str, value: f64, expected: &'static str| {
        ScheduleError::Range(OutOfRange::new(name, value, expected))
    };
    let offset = fail(config.with_betas(BetaSchedule::Cosine {
        offset: -1.0,
        max_beta: 0.999,
    }));
    let name = "offset of the cosine schedule";
    assert_eq!(offset, range(name, -1.0, "at least 0 and finite"));
    assert_eq!(
        fail(config.with_steps(1).with_zero_terminal_snr(true)),
        ScheduleError::SingleStep
    );

    let schedule = config.with_steps(10).init().unwrap();
    assert_eq!(
        schedule.respace(Spacing::Linspace, 11).unwrap_err(),
        ScheduleError::Steps {
            asked: 11,
            available: 10
        }
    );
    assert_eq!(
        schedule.respace(Spacing::Trailing, 0).unwrap_err(),
        ScheduleError::Steps {
            asked: 0,
            available: 10
        }
    );
    assert_eq!(
        schedule
            .respace(Spacing::Leading { offset: 1 }, 10)
            .unwrap_err(),
        ScheduleError::Respacing {
            index: 9,
            value: 10,
            available: 10
        }
    );
    assert_eq!(
        schedule.respace_to(&[3, 3]).unwrap_err(),
        ScheduleError::Respacing {
            index: 1,
            value: 3,
            available: 10
        }
    );
    assert_eq!(
        schedule.respace_to(&[]).unwrap_err(),
        ScheduleError::NoSteps
    );
    assert_eq!(
        schedule.truncate(11).unwrap_err(),
        ScheduleError::Steps {
            asked: 11,
            available: 10
        }
    );
    assert_eq!(
        schedule.respace_to_sigmas(&[1.0, 2.0]).unwrap_err(),
        ScheduleError::Sigma {
            index: 1,
            value: 2.0
        }
    );
    assert!(matches!(
        schedule.clone().with_final_alpha_bar(1.1).unwrap_err(),
        ScheduleError::FinalAlphaBar { .. }
    ));
    assert_eq!(
        NoiseSchedule::from_alpha_bars(&[0.9, 0.0, 0.0]).unwrap_err(),
        ScheduleError::AlphaBar {
            index: 1,
            value: 0.0
        }
    );
    assert!(NoiseSchedule::from_alpha_bars(&[0.9, f64::NAN]).is_err());

    let sigmas = KarrasSigmas::new();
    assert_eq!(sigmas.sigmas(0).unwrap_err(), ScheduleError::NoSteps);
    assert_eq!(
        sigmas.with_sigma_min(80.0).sigmas(5).unwrap_err(),
        ScheduleError::SigmaRange {
            min: 80.0,
            max: 80.0
        }
    );
    assert_eq!(
        sigmas.with_rho(0.0).sigmas(5).unwrap_err(),
        range("rho of the Karras levels", 0.0, "positive and finite")
    );
}

#[test]
fn errors_read_as_sentences() {
    let error = NoiseScheduleConfig::new()
        .init()
        .unwrap()
        .respace(Spacing::Trailing, 2000);
    assert_eq!(
        error.unwrap_err().to_string(),
        "2000 steps of a noise schedule were asked for, but it has 1 to 1000"
    );
}

#[test]
fn configuration_survives_json() {
    let config = config("zero_terminal");
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(
        serde_json::from_str::<NoiseScheduleConfig>(&json).unwrap(),
        config
    );
}

fn any_schedule() -> impl Strategy<Value = NoiseSchedule> {
    (
        2..400_usize,
        prop_oneof![
            (1e-4..0.05, 1e-4..0.05).prop_map(|(start, end)| BetaSchedule::Linear { start, end }),
            (1e-4..0.05, 1e-4..0.05)
                .prop_map(|(start, end)| BetaSchedule::ScaledLinear { start, end }),
            (1e-4..0.05, 1e-4..0.05).prop_map(|(start, end)| BetaSchedule::Sigmoid { start, end }),
            (1e-3..0.1).prop_map(|offset| BetaSchedule::Cosine {
                offset,
                max_beta: 0.999
            }),
        ],
        any::<bool>(),
    )
        .prop_map(|(steps, betas, zero_terminal_snr)| {
            NoiseScheduleConfig {
                steps,
                betas,
                zero_terminal_snr,
            }
            .init()
            .unwrap()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn respaced_schedules_keep_the_levels(
        schedule in any_schedule(),
        share in 0.0..1.0_f64,
        spacing in prop_oneof![
            Just(Spacing::Linspace),
            Just(Spacing::Leading { offset: 0 }),
            Just(Spacing::Trailing),
        ],
    ) {
        let steps = schedule.steps();
        let count = 1 + (share * (steps - 1) as f64) as usize;
        let short = schedule.respace(spacing, count).unwrap();
        let mut product = 1.0;
        for k in 0..count {
            let t = short.timestep(k) as usize;
            product *= 1.0 - short.beta(k);
            prop_assert_eq!(short.alpha_bar(k), schedule.alpha_bar(t));
            prop_assert!((product - schedule.alpha_bar(t)).abs() < 1e-12);
            prop_assert!(short.beta(k) > 0.0 && short.beta(k) <= 1.0);
        }
    }

    /// Sampling `q(x_{t−1} | x_t, x_0)` with `x_t` drawn from `q(x_t | x_0)` gives `q(x_{t−1} | x_0)`.
    #[test]
    fn the_posterior_leads_to_the_marginal(schedule in any_schedule(), share in 0.0..1.0_f64) {
        let t = (share * schedule.steps() as f64) as usize;
        let (level, posterior) = (schedule.level(t), schedule.posterior(t));
        let previous = schedule.previous_alpha_bar(t);
        let mean = posterior.sample + posterior.x * level.signal();
        let variance = (posterior.x * level.noise()).powi(2) + posterior.variance;
        prop_assert!((mean - previous.sqrt()).abs() < 1e-9);
        prop_assert!((variance - (1.0 - previous)).abs() < 1e-9);
    }

    #[test]
    fn sigma_and_alpha_bar_are_inverse(sigma in 1e-3..1e3_f64) {
        let back = sigma_from_alpha_bar(alpha_bar_from_sigma(sigma));
        prop_assert!((back / sigma - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_step_of_a_steps_sigma_is_the_step(schedule in any_schedule(), share in 0.0..1.0_f64) {
        let t = (share * (schedule.steps() - 1) as f64) as usize;
        prop_assert!((schedule.timestep_of_sigma(schedule.sigma(t)) - t as f64).abs() < 1e-6);
        prop_assert!((schedule.log_snr(t) - (-2.0 * schedule.sigma(t).ln())).abs() < 1e-9);
    }
}
