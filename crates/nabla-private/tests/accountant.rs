//! The accountants beside dp-accounting, Opacus and closed forms: `reference/accountant.py` wrote the numbers.

use std::path::Path;

use nabla_private::accountant::gaussian::Gaussian;
use nabla_private::accountant::pld::Pld;
use nabla_private::accountant::prv::Prv;
use nabla_private::accountant::rdp::Rdp;
use nabla_private::accountant::{Accountant, History, accountants};
use proptest::prelude::*;
use serde::Deserialize;

/// A row of `reference/accountant.csv`.
#[derive(Debug, Deserialize)]
struct Row {
    noise_multiplier: f64,
    sampling_rate: f64,
    steps: u64,
    delta: f64,
    eps_rdp_exact: f64,
    order_rdp_exact: f64,
    eps_rdp_dp_accounting: f64,
    eps_rdp_opacus: f64,
    order_rdp_opacus: f64,
    eps_pld_dp_accounting: Option<f64>,
    eps_prv_opacus_lower: Option<f64>,
    eps_prv_opacus_upper: Option<f64>,
    eps_gauss_exact: Option<f64>,
    eps_pld_fine: Option<f64>,
}

impl Row {
    fn history(&self) -> History {
        of(self.noise_multiplier, self.sampling_rate, self.steps)
    }
}

fn of(noise: f64, rate: f64, steps: u64) -> History {
    History::new().with(noise, rate, steps).unwrap()
}

/// The digits of the file.
const DIGITS: f64 = 1e-6;

fn rows() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/accountant.csv");
    let mut reader = csv::ReaderBuilder::new();
    let mut reader = reader.comment(Some(b'#')).from_path(path).unwrap();
    let rows: Vec<Row> = reader.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 196);
    rows
}

#[test]
fn renyi_divergences_are_those_of_opacus_and_at_most_those_of_dp_accounting() {
    for row in rows() {
        let found = Rdp::default().epsilon(&row.history(), row.delta).unwrap();
        assert!(
            (found.epsilon - row.eps_rdp_exact).abs() <= DIGITS,
            "{found:?} {row:?}"
        );
        assert_eq!(found.order, Some(row.order_rdp_exact), "{row:?}");
        assert!(
            found.epsilon <= row.eps_rdp_dp_accounting + DIGITS,
            "{found:?} {row:?}"
        );
        // Opacus's own orders lack 11, and end at 63.
        assert!(
            found.epsilon <= row.eps_rdp_opacus + DIGITS,
            "{found:?} {row:?}"
        );
        if found.order == Some(row.order_rdp_opacus) {
            assert!(
                (found.epsilon - row.eps_rdp_opacus).abs() <= DIGITS,
                "{found:?} {row:?}"
            );
        }
    }
}

#[test]
fn loss_distributions_are_those_of_dp_accounting_on_a_fine_grid() {
    for row in rows() {
        let found = Pld::default().epsilon(&row.history(), row.delta).unwrap();
        if let (Some(coarse), Some(fine)) = (row.eps_pld_dp_accounting, row.eps_pld_fine) {
            assert!((found.epsilon - fine).abs() < 3e-5, "{found:?} {row:?}");
            assert!(found.epsilon < coarse + 3e-5, "{found:?} {row:?}");
        }
        if let Some(exact) = row.eps_gauss_exact {
            assert!(found.epsilon > exact - DIGITS, "{found:?} {row:?}");
            assert!(
                found.epsilon < exact + 1e-5 * exact.max(1.0) + DIGITS,
                "{found:?} {row:?}"
            );
        }
        assert!(
            found.epsilon <= row.eps_rdp_exact + DIGITS,
            "{found:?} {row:?}"
        );
    }
}

#[test]
fn loss_variables_enclose_the_truth_more_closely_than_opacus() {
    let accountant = Prv {
        epsilon_error: 1e-2,
        ..Prv::default()
    };
    for row in rows() {
        let found = accountant.epsilon(&row.history(), row.delta).unwrap();
        let (lower, estimate) = (found.lower.unwrap(), found.estimate.unwrap());
        assert!(
            lower <= estimate && estimate <= found.epsilon,
            "{found:?} {row:?}"
        );
        let exact = row.eps_gauss_exact.or(row.eps_pld_fine);
        if let Some(exact) = exact {
            // The grid of dp-accounting is above the truth.
            assert!(
                lower < exact + DIGITS && exact - 3e-5 < found.epsilon,
                "{found:?} {row:?}"
            );
            let half = 0.5 * (found.epsilon - lower);
            assert!(
                (estimate - exact).abs() < half + DIGITS,
                "{found:?} {row:?}"
            );
        }
        if let (Some(low), Some(high)) = (row.eps_prv_opacus_lower, row.eps_prv_opacus_upper) {
            assert!(low < found.epsilon && lower < high, "{found:?} {row:?}");
        }
    }
}

#[test]
fn gaussians_are_exact() {
    for row in rows() {
        match row.eps_gauss_exact {
            Some(exact) => {
                let found = Gaussian {}.epsilon(&row.history(), row.delta).unwrap();
                assert!((found.epsilon - exact).abs() <= DIGITS, "{found:?} {row:?}");
            }
            None => assert!(Gaussian {}.epsilon(&row.history(), row.delta).is_err()),
        }
    }
}

/// `δ(ε)` of one step, where `P/Q` is monotone: the tail of `P` less `e^ε` times that of `Q`.
fn delta_of_one_step(noise: f64, rate: f64, epsilon: f64) -> f64 {
    let tail = |x: f64| 0.5 * libm::erfc(x / noise / 2_f64.sqrt());
    let at = noise * noise * (epsilon.exp_m1() / rate).ln_1p() + 0.5;
    rate * tail(at - 1.0) + (1.0 - rate - epsilon.exp()) * tail(at)
}

#[test]
fn one_step_has_its_closed_form() {
    for (noise, rate) in [
        (0.5, 0.001),
        (1.0, 0.01),
        (0.3, 0.5),
        (5.0, 0.2),
        (2.0, 1.0),
    ] {
        for epsilon in [1e-3, 0.03, 0.5, 2.0] {
            let exact = delta_of_one_step(noise, rate, epsilon);
            if exact < 1e-14 {
                continue;
            }
            for accountant in [&Pld::default() as &dyn Accountant, &Prv::default()] {
                let found = accountant.epsilon(&of(noise, rate, 1), exact).unwrap();
                let told = format!("{noise} {rate} {exact} {found:?} {epsilon}");
                assert!(found.epsilon > epsilon * (1.0 - 1e-6), "{told}");
                // A thousandth of a large δ, the error of δ, is much of ε.
                let close = found.epsilon < epsilon * 1.001 + 1e-3;
                assert!(close || found.lower.is_some() && exact > 0.1, "{told}");
                match found.lower {
                    Some(lower) => assert!(lower < epsilon, "{told}"),
                    None => {
                        let off = found.estimate.unwrap() - epsilon;
                        assert!(off.abs() < 1e-3 * epsilon + 1e-5, "{told}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_smallest_deltas_keep_their_digits() {
    for delta in [1e-12, 1e-30, 1e-90] {
        for (noise, steps) in [(1.0, 1), (30.0, 2000)] {
            let history = of(noise, 1.0, steps);
            let exact = Gaussian {}.epsilon(&history, delta).unwrap().epsilon;
            let found = Pld::default().epsilon(&history, delta).unwrap().epsilon;
            assert!(
                found >= exact * (1.0 - 1e-12) && found < exact * 1.00002,
                "{found} {exact}"
            );
            // Of many samples there is no closed form, but a rate of nearly 1.
            let sampled = of(noise, 1.0 - 1e-9, steps);
            let found = Pld::default().epsilon(&sampled, delta).unwrap();
            let prv = Prv::default().epsilon(&sampled, delta).unwrap();
            assert!(
                (found.epsilon / exact - 1.0).abs() < 1e-4,
                "{found:?} {exact}"
            );
            let within = prv.lower.unwrap()..prv.epsilon;
            assert!(
                within.contains(&found.estimate.unwrap()),
                "{found:?} {prv:?}"
            );
        }
    }
}

#[test]
fn nothing_done_reveals_nothing() {
    for name in accountants().names() {
        let accountant = accountants().get(name).unwrap();
        assert_eq!(accountant.name(), name);
        for history in [History::new(), of(1.0, 1.0, 0), of(0.5, 0.1, 0)] {
            assert_eq!(
                accountant.epsilon(&history, 1e-5).unwrap().epsilon,
                0.0,
                "{name}"
            );
            assert_eq!(accountant.delta(&history, 0.1).unwrap(), 0.0, "{name}");
        }
    }
}

#[test]
fn a_wrong_number_gets_one_sentence() {
    let history = of(1.0, 1.0, 1);
    for name in accountants().names() {
        let accountant = accountants().get(name).unwrap();
        for delta in [0.0, 1.0, -0.1, f64::NAN, 1e-200] {
            let told = accountant.epsilon(&history, delta).unwrap_err().to_string();
            assert!(
                told.starts_with("the delta is ") && told.contains("it must be"),
                "{told}"
            );
        }
        for epsilon in [-1.0, f64::NAN, f64::INFINITY] {
            let told = accountant.delta(&history, epsilon).unwrap_err().to_string();
            assert!(told.starts_with("the epsilon is "), "{told}");
        }
    }
    let odd = Pld {
        points: 1000,
        ..Pld::default()
    };
    let told = odd.epsilon(&history, 1e-5).unwrap_err().to_string();
    assert!(
        told.contains("number of points of the accountant pld is 1000"),
        "{told}"
    );
    let idle = Prv {
        epsilon_error: 0.0,
        ..Prv::default()
    };
    assert!(idle.delta(&history, 1.0).is_err());
}

#[test]
fn extreme_histories_have_an_answer() {
    for noise in [1e-4, 0.1, 1.0, 1000.0, 1e9] {
        for rate in [1e-12, 1e-6, 0.01, 0.999_999, 1.0] {
            for (steps, delta) in [(1, 1e-12), (1000, 0.5), (10_000_000, 1e-5)] {
                let history = of(noise, rate, steps);
                let [rdp, pld] = ["rdp", "pld"].map(|name| {
                    let accountant = accountants().get(name).unwrap();
                    let epsilon = accountant.epsilon(&history, delta).unwrap().epsilon;
                    assert!(
                        epsilon >= 0.0 && epsilon.is_finite(),
                        "{name} {history:?} {delta}"
                    );
                    epsilon
                });
                assert!(pld <= 1.01 * rdp + 1e-9, "{pld} {rdp} {history:?} {delta}");
            }
        }
    }
}

/// What the accountants that know samples say.
fn epsilons(history: &History, delta: f64) -> [f64; 3] {
    ["rdp", "pld", "prv"].map(|name| {
        let accountant = accountants().get(name).unwrap();
        accountant.epsilon(history, delta).unwrap().epsilon
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// More noise, a lower rate, fewer steps and a larger δ reveal less.
    #[test]
    fn every_argument_counts_in_its_direction(
        noise in 0.5..4.0_f64,
        rate in 0.001..0.9_f64,
        steps in 1..3000_u64,
        log_delta in -12.0..-2.0_f64,
    ) {
        let delta = 10_f64.powf(log_delta);
        let base = epsilons(&of(noise, rate, steps), delta);
        let less = [
            epsilons(&of(1.1 * noise, rate, steps), delta),
            epsilons(&of(noise, 0.9 * rate, steps), delta),
            epsilons(&of(noise, rate, steps - steps.div_ceil(10)), delta),
            epsilons(&of(noise, rate, steps), 2.0 * delta),
        ];
        for less in less {
            // By the errors of the grids.
            for (less, base) in less.into_iter().zip(base).zip([1e-9, 5e-5, 5e-3]).map(|((a, b), t)| (a, b * (1.0 + t) + 1e-12)) {
                prop_assert!(less <= base, "{less} {base}");
            }
        }
        let [rdp, pld, _] = base;
        prop_assert!(pld <= rdp * (1.0 + 1e-9) + 1e-9, "{pld} {rdp}");
        let prv = Prv::default().epsilon(&of(noise, rate, steps), delta).unwrap();
        prop_assert!(prv.lower.unwrap() <= pld);
    }

    /// Phases may be told in any order, and in one or in two.
    #[test]
    fn phases_commute(
        noise in prop::array::uniform2(0.6..3.0_f64),
        rate in prop::array::uniform2(0.001..0.5_f64),
        steps in prop::array::uniform2(1..1000_u64),
    ) {
        let one = |h: History, i: usize| h.with(noise[i], rate[i], steps[i]).unwrap();
        let there = one(one(History::new(), 0), 1);
        let back = one(one(History::new(), 1), 0);
        for (a, b) in epsilons(&there, 1e-5).into_iter().zip(epsilons(&back, 1e-5)) {
            prop_assert!((a - b).abs() <= 1e-6 * a, "{a} {b}");
        }
        let alone = epsilons(&one(History::new(), 0), 1e-5);
        for (both, alone) in epsilons(&there, 1e-5).into_iter().zip(alone) {
            prop_assert!(both > alone * 0.99, "{both} {alone}");
        }
        let twice = of(noise[0], rate[0], steps[0]).with(noise[0], rate[0], steps[0]).unwrap();
        prop_assert_eq!(twice, of(noise[0], rate[0], 2 * steps[0]));
    }

    /// `δ(ε(δ)) = δ`, to what the grid's error of ε makes of δ.
    #[test]
    fn epsilon_and_delta_are_inverse(
        noise in 0.5..4.0_f64,
        rate in 0.001..0.9_f64,
        steps in 1..3000_u64,
        log_delta in -12.0..-2.0_f64,
    ) {
        let history = of(noise, rate, steps);
        let delta = 10_f64.powf(log_delta);
        for (name, tolerance) in [("rdp", 1e-6), ("pld", 0.01), ("prv", 0.3)] {
            let accountant = accountants().get(name).unwrap();
            let epsilon = accountant.epsilon(&history, delta).unwrap().epsilon;
            if epsilon > 0.0 {
                let back = accountant.delta(&history, epsilon).unwrap();
                prop_assert!((back / delta).ln().abs() < tolerance, "{name} {epsilon} {back} {delta}");
            }
        }
    }

    /// A rate of 1 is the limit of rates below it.
    #[test]
    fn a_rate_of_one_is_a_limit(noise in 0.5..20.0_f64, steps in 1..30_u64) {
        let full = epsilons(&of(noise, 1.0, steps), 1e-6);
        let nearly = epsilons(&of(noise, 1.0 - 1e-10, steps), 1e-6);
        for (a, b) in full.into_iter().zip(nearly) {
            prop_assert!((a - b).abs() < 3e-3 * a, "{a} {b}");
        }
        let exact = Gaussian {}.epsilon(&of(noise, 1.0, steps), 1e-6).unwrap().epsilon;
        prop_assert!(full.iter().all(|e| *e >= exact * (1.0 - 1e-9)), "{full:?} {exact}");
    }
}
