use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::rate_fit::power_rate;

use super::step::{Equation, Noise};
use super::*;
use crate::field::{field, parametric};
use crate::{Controller, SolveError};

fn wide<const D: usize>(values: &[f64], dims: [usize; D]) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), dims),
        (&Device::flex(), DType::F64),
    )
}

fn list<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
    x.clone()
        .inner()
        .into_data()
        .convert::<f64>()
        .iter()
        .collect()
}

const METHODS: [SdeMethod; 4] = [
    SdeMethod::EulerMaruyama,
    SdeMethod::Milstein,
    SdeMethod::SOSRI,
    SdeMethod::SOSRA,
];

/// From the notes on ERNODE: NumPy, with the coefficients and formulas of StochasticDiffEq.jl.
#[test]
fn a_step_of_sosri_is_that_of_the_published_software() {
    let (drift, diffusion) = (
        field(|u: Tensor<2>, _| u * 1.5),
        field(|u: Tensor<2>, _| u * 0.5),
    );
    for (drift_error, expected) in [
        (DriftError::Sum, Some(0.061_273_389_25)),
        (DriftError::Difference, None),
    ] {
        let equation = Equation {
            drift: &drift,
            diffusion: &diffusion,
            drift_error,
        };
        let (dw, dz) = (0.05, -0.03);
        let noise = Noise {
            increment: wide(&[dw], [1, 1]),
            mean: wide(&[0.5 * (dw + dz / 3.0_f64.sqrt())], [1, 1]),
        };
        let u = wide(&[1.0], [1, 1]);
        let found = equation
            .step(SdeMethod::SOSRI, &u, 0.0, 0.01, &noise)
            .unwrap();
        assert!((list(&found.next)[0] - 1.039_527_018_686_462_2).abs() < 1e-14);
        let error = list(&found.error)[0];
        match expected {
            Some(drift) => assert!((error - drift + 1.511_217_09e-4).abs() < 1e-11, "{error}"),
            None => assert!(error.abs() < 2e-3, "{error}"),
        }
    }
}

/// Geometric Brownian motion with its closed form along the same paths; additive noise against short steps.
#[test]
fn every_method_converges_strongly_with_its_order() {
    let (rate, noise, paths) = (0.7, 0.8, 400);
    let end = 1.0;
    let grid: Vec<f64> = (1..=256).map(|i| f64::from(i) / 256.0).collect();
    let start = Tensor::<2>::ones([paths, 1], (&Device::flex(), DType::F64));
    for method in METHODS {
        let additive = method == SdeMethod::SOSRA;
        let drift = field(move |u: Tensor<2>, t: Tensor<2>| match additive {
            true => u.sin() * -1.0 + t,
            false => u * rate,
        });
        let diffusion = field(move |u: Tensor<2>, t: Tensor<2>| match additive {
            true => u.zeros_like() + (t * 0.5 + 0.4),
            false => u * noise,
        });
        let path = || BrownianPath::new(paths, 0.0, 11).drawn_at(&grid);
        let solve = |count: usize| {
            let solver = SdeSolver::new(method).with_constant_step(end / count as f64);
            let times = [0.0, end];
            list(
                &solver
                    .solve_along(&drift, &diffusion, start.clone(), &times, &mut path())
                    .unwrap()
                    .last(),
            )
        };
        let exact: Vec<f64> = match additive {
            true => solve(256),
            false => {
                let w = path().until(end).value;
                w.iter()
                    .map(|w| ((rate - 0.5 * noise * noise) * end + noise * w).exp())
                    .collect()
            }
        };
        let errors = [4, 8, 16, 32].map(|count: usize| {
            let squares = solve(count)
                .iter()
                .zip(&exact)
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f64>();
            (1.0 / count as f64, (squares / paths as f64).sqrt())
        });
        let found = power_rate(errors).unwrap().rate;
        // SOSRA's order is 3/2 in general, and 2 where noise is small.
        let (least, most) = match method {
            SdeMethod::EulerMaruyama => (0.4, 0.7),
            SdeMethod::Milstein => (0.85, 1.2),
            SdeMethod::Sri(_) => (1.3, 1.75),
            SdeMethod::Sra(_) => (1.4, 2.2),
        };
        assert!(
            found > least && found < most,
            "{method:?}: strong order {found}"
        );
    }
}

/// Accepted noise is not calmer than noise is: the mean and variance of an Ornstein-Uhlenbeck process.
#[test]
fn rejections_do_not_bias_the_noise() {
    let drift = field(|u: Tensor<2>, _| u * -2.0);
    let diffusion = field(|u: Tensor<2>, t: Tensor<2>| u.zeros_like() + (t.sin() * 0.2 + 1.0));
    for method in METHODS {
        let count = 60;
        let mut ends = Vec::new();
        let mut rejected = 0;
        for seed in 0..40 {
            let start = Tensor::<2>::ones([count, 1], (&Device::flex(), DType::F64));
            let solver = SdeSolver::new(method)
                .with_tolerances(0.02, 0.02)
                .with_first_step(0.2);
            let found = solver
                .solve(&drift, &diffusion, start, &[0.0, 1.0], seed)
                .unwrap();
            rejected += found.statistics().rejected();
            ends.extend(list(&found.last()));
        }
        assert!(rejected > 10, "{method:?}: {rejected}");
        let n = ends.len() as f64;
        let mean = ends.iter().sum::<f64>() / n;
        let variance = ends.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        // ∫ exp(−4 (1 − s)) (1 + sin(s)/5)² ds
        let steps = 10_000;
        let expected: f64 = (0..steps)
            .map(|i| {
                let s = (f64::from(i) + 0.5) / f64::from(steps);
                (-4.0 * (1.0 - s)).exp() * (1.0 + 0.2 * s.sin()).powi(2) / f64::from(steps)
            })
            .sum();
        let error = 4.0 * (expected / n).sqrt();
        assert!(
            (mean - (-2.0_f64).exp()).abs() < error + 2e-3,
            "{method:?}: {mean}"
        );
        let error = 4.0 * (2.0 / n).sqrt() * expected;
        assert!(
            (variance - expected).abs() < error + 5e-3,
            "{method:?}: {variance} {expected}"
        );
    }
}

#[test]
fn tighter_tolerances_give_smaller_errors_along_the_same_path() {
    let (drift, diffusion) = (
        field(|u: Tensor<2>, _| u * 0.5),
        field(|u: Tensor<2>, _| u * 0.6),
    );
    let mut last = f64::INFINITY;
    for tolerance in [1e-1, 1e-2, 1e-3, 1e-4] {
        let grid: Vec<f64> = (1..=64).map(|i| f64::from(i) / 64.0).collect();
        let mut path = BrownianPath::new(50, 0.0, 3).drawn_at(&grid);
        let exact: Vec<f64> = path
            .until(1.0)
            .value
            .iter()
            .map(|w| (0.5 - 0.18 + 0.6 * w).exp())
            .collect();
        let start = Tensor::<2>::ones([50, 1], (&Device::flex(), DType::F64));
        let solver = SdeSolver::new(SdeMethod::SOSRI).with_tolerances(tolerance, tolerance);
        let found = solver
            .solve_along(&drift, &diffusion, start, &[0.0, 0.4, 1.0], &mut path)
            .unwrap();
        let ends = list(&found.last());
        let error = ends
            .iter()
            .zip(&exact)
            .map(|(a, b)| (a - b).abs())
            .sum::<f64>()
            / 50.0;
        assert!(
            error < last && error < 3.0 * tolerance,
            "{tolerance}: {error}"
        );
        last = error;
    }
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let (drift, diffusion) = (
        field(|u: Tensor<2>, _| u * 0.5),
        field(|u: Tensor<2>, _| u * 0.6),
    );
    let solve = |seed: u64| {
        let start = Tensor::<2>::ones([3, 2], &Device::flex());
        let solver = SdeSolver::new(SdeMethod::SOSRI).with_tolerances(1e-3, 1e-3);
        list(
            &solver
                .solve(&drift, &diffusion, start, &[0.0, 1.0], seed)
                .unwrap()
                .last(),
        )
    };
    assert_eq!(solve(5), solve(5));
    assert_ne!(solve(5), solve(6));
}

/// Of values, errors and stiffness, with steps of one length.
#[test]
fn gradients_are_central_differences() {
    for method in METHODS {
        let loss = |p: &[f64], u: &[f64], tracked: bool| {
            let leaf = |x: Tensor<1>| {
                if tracked {
                    x.autodiff().require_grad()
                } else {
                    x
                }
            };
            let [a, b] = [&p[..2], &p[2..]].map(|p| leaf(wide(p, [2])));
            let drift = parametric(a.clone(), |u: Tensor<2>, t: Tensor<2>, p: Tensor<1>| {
                (u * p.unsqueeze()).sin() + t
            });
            let diffusion = parametric(b.clone(), |u: Tensor<2>, _, p: Tensor<1>| {
                u.cos() * p.unsqueeze()
            });
            let start = wide(u, [2, 2]);
            let start = if tracked {
                start.autodiff().require_grad()
            } else {
                start
            };
            let solver = SdeSolver::new(method)
                .with_constant_step(0.13)
                .with_tolerances(1e-2, 1e-2);
            let found = solver
                .solve(&drift, &diffusion, start.clone(), &[0.0, 0.4, 1.0], 1)
                .unwrap();
            let sum = found.at(1).unwrap().sin().sum() + (found.last().powi_scalar(3) * 0.3).sum();
            let sum = sum + found.errors().sum() * 0.02 + found.stiffness().square().sum() * 0.1;
            (sum, [a, b], start)
        };
        let (p, u) = ([0.4, -0.9, 0.3, 0.5], [0.2, 1.0, -0.4, 0.7]);
        let (value, [a, b], start) = loss(&p, &u, true);
        let gradients = value.backward();
        let mut found = list(&a.grad(&gradients).unwrap());
        found.extend(list(&b.grad(&gradients).unwrap()));
        found.extend(list(&start.grad(&gradients).unwrap()));
        for (i, found) in found.iter().enumerate() {
            let at = |sign: f64| {
                let (mut p, mut u) = (p, u);
                if i < 4 {
                    p[i] += sign * 1e-6
                } else {
                    u[i - 4] += sign * 1e-6
                };
                list(&loss(&p, &u, false).0)[0]
            };
            let expected = (at(1.0) - at(-1.0)) / 2e-6;
            assert!(
                (found - expected).abs() < 1e-6 * expected.abs().max(1.0),
                "{method:?} {i}: {found} {expected}"
            );
        }
    }
}

#[test]
fn bad_input_is_named() {
    let (drift, diffusion) = (
        field(|u: Tensor<2>, _| u * 0.5),
        field(|u: Tensor<2>, _| u * 0.6),
    );
    let solver = SdeSolver::new(SdeMethod::SOSRI);
    let start = wide(&[1.0], [1, 1]);
    let told = |solver: &SdeSolver, times: &[f64]| {
        solver
            .solve(&drift, &diffusion, start.clone(), times, 0)
            .unwrap_err()
            .to_string()
    };
    assert!(told(&solver, &[0.0, 0.0]).starts_with("time 1 (from 0) is 0"));
    assert!(
        told(&solver.with_controller(Controller::Constant), &[0.0, 1.0])
            .starts_with("steps of one length")
    );
    assert!(told(&solver.with_most_steps(1), &[0.0, 1.0]).contains("1 steps"));
    let mut path = BrownianPath::new(2, 0.0, 0);
    let error = solver.solve_along(&drift, &diffusion, start.clone(), &[0.0, 1.0], &mut path);
    assert_eq!(
        error.unwrap_err().to_string(),
        "the number of Brownian motions is 2, but it must be 1, that of the state"
    );
    let wrong = field(|u: Tensor<2>, _| u / 0.0);
    let error = solver
        .solve(&wrong, &diffusion, start, &[0.0, 1.0], 0)
        .unwrap_err();
    assert!(matches!(error, SolveError::NotFinite { .. }));
}
