use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::*;
use crate::field::{Dynamics, field, parametric};
use crate::options::Options;
use crate::{Controller, Event, Solution, Solver, Steps};

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

const ADJOINTS: [Adjoint; 6] = [
    Adjoint::Discrete(Checkpoints::Automatic),
    Adjoint::Discrete(Checkpoints::Every(3)),
    Adjoint::Discrete(Checkpoints::SquareRoot),
    Adjoint::Forward,
    Adjoint::Interpolating,
    Adjoint::Backsolve,
];

/// `u' = tanh(u A + t b) − c u`, with nine parameters.
#[derive(Module, Debug)]
struct Net {
    a: Param<Tensor<2>>,
    b: Param<Tensor<1>>,
    c: Param<Tensor<1>>,
    frozen: Param<Tensor<1>>,
}

impl Net {
    fn new(parameters: &[f64]) -> Self {
        let of = |values: &[f64]| wide(values, [values.len()]).autodiff().require_grad();
        let a = wide(&parameters[..4], [2, 2]).autodiff().require_grad();
        let frozen = wide(&[1.5], [1]).autodiff();
        Self {
            a: Param::from_tensor(a),
            b: Param::from_tensor(of(&parameters[4..6])),
            c: Param::from_tensor(of(&parameters[6..8])),
            frozen: Param::from_tensor(frozen).set_require_grad(false),
        }
    }
}

impl Dynamics for Net {
    fn slope(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        let shift = t * self.b.val().unsqueeze();
        let bent = (u.clone().matmul(self.a.val()) + shift).tanh() * self.frozen.val().unsqueeze();
        bent - u * self.c.val().unsqueeze()
    }
}

const PARAMETERS: [f64; 8] = [0.3, -1.2, 0.9, 0.4, 0.5, -0.2, 0.1, 0.3];
const START: [f64; 6] = [1.0, 0.2, -0.5, 0.7, 0.1, -1.1];

/// A loss of the values at all times, and of errors and stiffness with these weights.
fn loss(found: &Solution, estimates: [f64; 2]) -> Tensor<1> {
    let mut sum = (found.last().powi_scalar(3) * 0.2).sum();
    for index in 0..found.times().len() - 1 {
        let weight = 0.3 + index as f64;
        sum = sum + (found.at(index).unwrap() * weight).sin().sum();
    }
    let lengths = found.lengths().autodiff();
    if estimates[0] != 0.0 {
        sum = sum + (found.errors() * lengths.clone()).sum() * estimates[0];
    }
    if estimates[1] != 0.0 {
        sum = sum + (found.stiffness() * lengths).square().sum() * estimates[1];
    }
    sum
}

/// The gradient by parameters and state, by central differences.
fn differences(solver: &Solver, estimates: [f64; 2]) -> Vec<f64> {
    let value = |p: &[f64], u: &[f64]| {
        let found = solver
            .solve(&Net::new(p), wide(u, [3, 2]).autodiff(), &TIMES)
            .unwrap();
        list(&loss(&found, estimates))[0]
    };
    let shift = 1e-5;
    let slope = |i: usize| {
        let at = |sign: f64| {
            let (mut p, mut u) = (PARAMETERS, START);
            match i < p.len() {
                true => p[i] += sign * shift,
                false => u[i - p.len()] += sign * shift,
            }
            value(&p, &u)
        };
        (at(1.0) - at(-1.0)) / (2.0 * shift)
    };
    (0..PARAMETERS.len() + START.len()).map(slope).collect()
}

const TIMES: [f64; 4] = [0.0, 0.35, 0.8, 2.0];

/// The gradient by parameters and state, by autodiff.
fn solved(solver: &Solver, estimates: [f64; 2]) -> Vec<f64> {
    let net = Net::new(&PARAMETERS);
    let start = wide(&START, [3, 2]).autodiff().require_grad();
    let found = solver.solve(&net, start.clone(), &TIMES).unwrap();
    let gradients = loss(&found, estimates).backward();
    let mut all = list(&net.a.val().grad(&gradients).unwrap());
    all.extend(list(&net.b.val().grad(&gradients).unwrap()));
    all.extend(list(&net.c.val().grad(&gradients).unwrap()));
    all.extend(list(&start.grad(&gradients).unwrap()));
    assert_eq!(found.gradient_failure(), None);
    all
}

fn check(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() < tolerance * size, "{what}, {i}: {a} {b}");
    }
}

/// With steps of one length, the gradient of the steps is that of the function.
#[test]
fn gradients_of_constant_steps_are_central_differences() {
    for method in Method::ALL {
        let solver = Solver::new(method)
            .with_constant_step(0.11)
            .with_tolerances(1e-2, 1e-2)
            .with_event(Event::change(1.2, |u| u.clone().sin() + u * 0.5))
            .with_event(Event::stop(0.9));
        let stiff = method == Method::RODAS4;
        for steps in [Steps::Joint, Steps::PerTrajectory] {
            let solver = solver.clone().with_steps(steps);
            let expected = differences(&solver, [0.0; 2]);
            for adjoint in &ADJOINTS[..if stiff { 3 } else { 4 }] {
                let found = solved(&solver.clone().with_adjoint(*adjoint), [0.0; 2]);
                check(
                    &found,
                    &expected,
                    1e-8,
                    &format!("{method} {adjoint:?} {steps:?}"),
                );
            }
        }
    }
}

#[test]
fn gradients_of_error_and_stiffness_are_central_differences() {
    for method in Method::ALL {
        for steps in [Steps::Joint, Steps::PerTrajectory] {
            // The error of a Rosenbrock method has large terms that cancel.
            let tolerance = if method == Method::RODAS4 { 1e-2 } else { 1e-5 };
            let solver = Solver::new(method)
                .with_constant_step(0.23)
                .with_tolerances(tolerance, 1e-4)
                .with_steps(steps);
            let weights = if method == Method::RODAS4 {
                [3.0, 0.0]
            } else {
                [3.0, 0.7]
            };
            let expected = differences(&solver, weights);
            let all: Vec<_> = ADJOINTS[..3]
                .iter()
                .map(|adjoint| {
                    let found = solved(&solver.clone().with_adjoint(*adjoint), weights);
                    check(
                        &found,
                        &expected,
                        2e-6,
                        &format!("{method} {steps:?} {adjoint:?}"),
                    );
                    found
                })
                .collect();
            for other in &all[1..] {
                check(other, &all[0], 1e-7, &format!("{method} {steps:?}"));
            }
        }
    }
}

/// With steps that depend on the errors, whose lengths are constants.
#[test]
fn adjoints_agree_with_each_other() {
    for (method, steps) in [
        (Method::TSIT5, Steps::Joint),
        (Method::TSIT5, Steps::PerTrajectory),
        (Method::VERN7, Steps::Joint),
        (Method::VERN7, Steps::PerTrajectory),
        (Method::DOPRI5, Steps::PerTrajectory),
        (Method::BS3, Steps::PerTrajectory),
    ] {
        let tolerance = if method == Method::BS3 { 1e-7 } else { 1e-9 };
        // Long first steps, so that some are rejected.
        let solver = Solver::new(method)
            .with_tolerances(tolerance, tolerance)
            .with_first_step(0.7)
            .with_steps(steps)
            .with_event(Event::change(1.2, |u| u.clone().sin() + u * 0.5));
        let all = ADJOINTS.map(|adjoint| {
            let solver = solver.clone().with_adjoint(adjoint);
            solved(&solver, [0.0; 2])
        });
        for (adjoint, found) in ADJOINTS.iter().zip(&all).skip(1) {
            let exact = matches!(adjoint, Adjoint::Discrete(_) | Adjoint::Forward);
            let near = if exact { 1e-11 } else { 300.0 * tolerance };
            check(
                found,
                &all[0],
                near,
                &format!("{method} {steps:?} {adjoint:?}"),
            );
        }
        let solver = solver.with_tolerances(1e-4, 1e-4);
        let both = ADJOINTS[..3].iter().map(|adjoint| {
            let solver = solver.clone().with_adjoint(*adjoint);
            solved(&solver, [1.0, 1.0])
        });
        let both: Vec<_> = both.collect();
        check(&both[1], &both[0], 1e-10, "every third");
        check(&both[2], &both[0], 1e-10, "square root");
    }
}

/// `L = u(T)²/2` of `u' = λ u` has `dL/dλ = T u(T)²` and `dL/du_0 = u(T) exp(λ T)`.
#[test]
fn gradients_have_their_closed_form() {
    let (rate, start, end) = (-0.7_f64, 1.3_f64, 1.9_f64);
    let last = (rate * end).exp() * start;
    for adjoint in ADJOINTS {
        // From a graph of its own, and used twice.
        let root = wide(&[rate / 2.0], [1]).autodiff().require_grad();
        let growth = parametric(root.clone() * 2.0, |u: Tensor<2>, _, p: Tensor<1>| {
            u * p.unsqueeze()
        });
        let first = wide(&[start], [1, 1]).autodiff().require_grad();
        let solver = Solver::new(Method::TSIT5)
            .with_tolerances(1e-11, 1e-11)
            .with_adjoint(adjoint);
        let found = solver.solve(&growth, first.clone(), &[0.0, end]).unwrap();
        let gradients = (found.last().square() * 0.5).sum().backward();
        let by_rate = list(&root.grad(&gradients).unwrap())[0] / 2.0;
        let by_start = list(&first.grad(&gradients).unwrap())[0];
        assert!(
            (by_rate - end * last * last).abs() < 1e-8,
            "{adjoint:?} {by_rate}"
        );
        assert!(
            (by_start - last * (rate * end).exp()).abs() < 1e-8,
            "{adjoint:?}"
        );
    }
}

/// The gradient of the error by the rate, from the closed form in the notes on local regularisation.
#[test]
fn the_error_of_a_linear_equation_has_its_gradient() {
    let root = wide(&[-1.0], [1]).autodiff().require_grad();
    let growth = parametric(root.clone(), |u: Tensor<2>, _, p: Tensor<1>| {
        u * p.unsqueeze()
    });
    let solver = Solver::new(Method::TSIT5)
        .with_constant_step(0.1)
        .with_tolerances(1e-3, 1e-3);
    let found = solver
        .solve(&growth, wide(&[1.0], [1, 1]).autodiff(), &[0.0, 0.1])
        .unwrap();
    let gradients = found.errors().sum().backward();
    let by_rate = list(&root.grad(&gradients).unwrap())[0];
    assert!((by_rate / -1.113_736_42e-5 - 1.0).abs() < 1e-7, "{by_rate}");
}

#[test]
fn what_has_no_gradient_is_named() {
    let start = wide(&[1.0], [1, 1]).autodiff().require_grad();
    let hidden = start.clone();
    let f = field(move |u: Tensor<2>, _| u * hidden.clone());
    let error = |solver: Solver, f: &dyn Fn(&Solver) -> Result<Solution, SolveError>| {
        f(&solver).unwrap_err()
    };
    for solver in [
        Solver::new(Method::TSIT5),
        Solver::new(Method::TSIT5).with_constant_step(0.1),
    ] {
        let found = error(solver, &|solver| {
            solver.solve(&f, start.clone(), &[0.0, 1.0])
        });
        assert_eq!(found, SolveError::HiddenParameters);
    }
    let hidden = start.clone();
    let decay = field(|u: Tensor<2>, _| -u);
    let solver =
        Solver::new(Method::TSIT5).with_event(Event::change(0.5, move |u| u + hidden.clone()));
    let found = error(solver, &|solver| {
        solver.solve(&decay, start.clone(), &[0.0, 1.0])
    });
    assert_eq!(found, SolveError::HiddenInEvent(0.5));
    let solver = Solver::new(Method::RODAS4).with_adjoint(Adjoint::Backsolve);
    let found = error(solver, &|solver| {
        solver.solve(&decay, start.clone(), &[0.0, 1.0])
    });
    assert_eq!(
        found.to_string(),
        "the gradient by the backsolve adjoint is not there for rodas4: take the discrete one"
    );
    let solver = Solver::new(Method::TSIT5).with_adjoint(Adjoint::Discrete(Checkpoints::Every(0)));
    let found = error(solver, &|solver| {
        solver.solve(&decay, start.clone(), &[0.0, 1.0])
    });
    assert!(
        found
            .to_string()
            .starts_with("the steps between two checkpoints is 0"),
        "{found}"
    );
    // A backward pass that fails: decay is growth backwards, which overflows the allowed steps.
    let stiff = field(|u: Tensor<2>, _| u * -60.0);
    let solver = Solver::new(Method::TSIT5)
        .with_adjoint(Adjoint::Backsolve)
        .with_controller(Controller::PI)
        .with_most_steps(60);
    let found = solver.solve(&stiff, start.clone(), &[0.0, 5.0]);
    if let Ok(found) = found {
        let gradients = found.last().sum().backward();
        assert!(found.gradient_failure().is_some());
        assert!(list(&start.grad(&gradients).unwrap())[0].is_nan());
    }
}

/// Both the states that are kept and the steps between them are near the root of the number of steps.
#[test]
fn checkpoints_are_as_many_as_the_root_of_the_steps() {
    for steps in [7, 60, 500, 4000] {
        let plan = Plan {
            method: Method::EULER,
            options: Options {
                tolerances: [1.0, 0.0],
                controller: Controller::Constant,
                first_step: Some(1.0 / f64::from(steps)),
                most_steps: 10_000,
            },
            longest_step: f64::INFINITY,
            apart: false,
            columns: 1,
            events: Vec::new(),
            keep_states: false,
            constant_first_stage: false,
        };
        let mut system = FieldSystem::new(&field(|u: Tensor<2>, _| -u));
        let start = wide(&[1.0], [1, 1]);
        let found = run(&plan, &mut system, start, &[0.0, 1.0], Keep::States(0)).unwrap();
        assert_eq!(found.records.len(), steps as usize);
        let places: Vec<usize> = found.checkpoints.iter().map(|(place, _)| *place).collect();
        assert_eq!(places[0], 0);
        let ends = places[1..].iter().copied().chain([steps as usize]);
        let longest = places.iter().zip(ends).map(|(a, b)| b - a).max().unwrap();
        let root = f64::from(steps).sqrt();
        assert!(
            (longest as f64) < 2.0 * root + 1.0,
            "{steps}: {longest} steps"
        );
        assert!(
            (places.len() as f64) < 2.5 * root + 3.0,
            "{steps}: {} states",
            places.len()
        );
    }
}

/// The steps whose graphs are kept end before the change, with it, or behind it.
#[test]
fn changes_beside_the_last_graph_have_their_gradient() {
    for steps in 14..19 {
        let all = [Checkpoints::Automatic, Checkpoints::SquareRoot].map(|checkpoints| {
            let start = wide(&[1.3], [1, 1]).autodiff().require_grad();
            let decay = field(|u: Tensor<2>, _| u * -0.5);
            let time = 0.0625 * f64::from(steps);
            let solver = Solver::new(Method::TSIT5)
                .with_constant_step(0.0625)
                .with_event(Event::change(time, |u| u * 2.0))
                .with_event(Event::change(time, |u| u * 3.0))
                .with_adjoint(Adjoint::Discrete(checkpoints));
            let found = solver.solve(&decay, start.clone(), &[0.0, 3.0]).unwrap();
            let gradients = found.last().sum().backward();
            list(&start.grad(&gradients).unwrap())[0]
        });
        for found in all {
            assert!(
                (found - 6.0 * (-1.5_f64).exp()).abs() < 1e-9,
                "{steps}: {found}"
            );
        }
    }
}

/// Far more steps than graphs are kept of: the time grows with the steps, not with their square, and the gradient is right.
#[test]
fn many_steps_have_a_gradient_in_time() {
    let begun = std::time::Instant::now();
    let all = [Checkpoints::Automatic, Checkpoints::SquareRoot].map(|checkpoints| {
        let start = wide(&[1.3], [1, 1]).autodiff().require_grad();
        let decay = field(|u: Tensor<2>, _| u * -0.5);
        let solver = Solver::new(Method::TSIT5)
            .with_constant_step(0.001)
            .with_event(Event::change(0.0105, |u| u * 2.0))
            .with_event(Event::change(0.6003, |u| u * 2.0))
            .with_adjoint(Adjoint::Discrete(checkpoints));
        let found = solver
            .solve(&decay, start.clone(), &[0.0, 0.3, 1.0])
            .unwrap();
        let gradients = (found.last() + found.at(1).unwrap()).sum().backward();
        list(&start.grad(&gradients).unwrap())[0]
    });
    let expected = 4.0 * (-0.5_f64).exp() + 2.0 * (-0.15_f64).exp();
    for found in all {
        assert!((found - expected).abs() < 1e-9, "{found} {expected}");
    }
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}
