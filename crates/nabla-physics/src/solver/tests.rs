use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::rate_fit::power_rate;
use serde_json::Value;

use super::*;
use crate::field::field;

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

fn column(u: &Tensor<2>, i: usize) -> Tensor<2> {
    u.clone().slice_dim(1, i..i + 1)
}

/// `u' = 2 cos(2t) u` with `u = exp(sin 2t)`, and a nonlinear one beside it, `v' = −2 t v²` with `v = 1/(1 + t²)`.
fn smooth() -> impl Field {
    field(|u: Tensor<2>, t: Tensor<2>| {
        let first = column(&u, 0) * (t.clone() * 2.0).cos() * 2.0;
        let second = column(&u, 1).square() * t * -2.0;
        Tensor::cat(vec![first, second], 1)
    })
}

fn smooth_at(t: f64) -> [f64; 2] {
    [(2.0 * t).sin().exp(), 1.0 / (1.0 + t * t)]
}

fn distance(found: &[f64], expected: &[f64]) -> f64 {
    let each = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f64::max)
}

/// Errors at the end, of dense output, and error estimates of the first step, for steps of several lengths.
fn errors(method: Method) -> Vec<[f64; 4]> {
    let counts: &[usize] = match method.order() {
        1 => &[100, 200, 400, 800],
        7 => &[16, 20, 28, 40],
        _ => &[32, 48, 64, 96, 128],
    };
    let each = counts.iter().map(|&count| {
        let length = 2.0 / count as f64;
        let times = [0.0, 0.37, 0.71, 1.13, 2.0];
        let start = wide(&[1.0, 1.0], [1, 2]);
        let solver = Solver::new(method)
            .with_constant_step(length)
            .with_tolerances(1.0, 0.0);
        let found = solver.solve(&smooth(), start, &times).unwrap();
        assert_eq!(found.statistics().accepted(), count);
        let dense = (1..4).map(|i| distance(&list(&found.at(i).unwrap()), &smooth_at(times[i])));
        let dense = dense.fold(0.0, f64::max);
        let end = distance(&list(&found.last()), &smooth_at(2.0));
        let middle = &found.statistics().steps()[count / 2];
        [length, end, dense, middle.errors[0]]
    });
    each.collect()
}

#[test]
fn every_method_converges_with_its_order() {
    for method in Method::ALL {
        let errors = errors(method);
        let rate = |which: usize| {
            let points = errors.iter().map(|error| (error[0], error[which]));
            power_rate(points).unwrap().rate
        };
        let order = method.order() as f64;
        // What a method does better than its order is this equation's.
        let most = if method == Method::RODAS4 { 1.2 } else { 0.6 };
        assert!(
            rate(1) > order - 0.25 && rate(1) < order + most,
            "{method}: order {}",
            rate(1)
        );
        // Cubic polynomials have order 4 in a step; errors within steps vary with their places in them.
        let dense = match method {
            Method::VERN7 => 6.5,
            _ => order.min(3.6),
        };
        assert!(
            rate(2) > dense - 0.6,
            "{method}: dense output of order {}",
            rate(2)
        );
        let error = method.error_order() as f64;
        assert!(
            (rate(3) - error).abs() < 0.45,
            "{method}: estimate of order {}",
            rate(3)
        );
    }
}

#[test]
fn tableaux_are_checked() {
    for method in Method::ALL {
        method.check().unwrap();
        // At both ends, dense output is the state there.
        assert!(
            method
                .dense_weights(0.0)
                .iter()
                .all(|weight| *weight == 0.0)
        );
        let end = method.dense_weights(1.0);
        for (i, found) in end.iter().enumerate() {
            let expected = method.weights().get(i).copied().unwrap_or(0.0);
            assert!(
                (found - expected).abs() < 1e-11,
                "{method}: {found} {expected}"
            );
        }
    }
    let wrong = crate::Method::Explicit(&crate::tableau::Tableau {
        weights: &[0.5, 0.6],
        last_is_first: false,
        ..crate::euler::EULER
    });
    let error = Solver::new(wrong).solve(&smooth(), wide(&[1.0, 1.0], [1, 2]), &[0.0, 1.0]);
    assert_eq!(
        error.unwrap_err().to_string(),
        "the tableau `euler` is no explicit method: its weights do not sum to 1"
    );
}

type Problem = Box<dyn Fn(&Solver, Tensor<2>, &[f64]) -> Solution>;

fn problem(name: &str) -> Problem {
    let solve =
        |solver: &Solver, f: &dyn Fn(&Solver) -> Result<Solution, SolveError>| f(solver).unwrap();
    match name {
        "spiral" => Box::new(move |solver, start, times| {
            solve(solver, &|solver| {
                let f = field(|u: Tensor<2>, _| {
                    let [x, y] = [0, 1].map(|i| column(&u, i).powi_scalar(3));
                    let first = x.clone() * -0.1 - y.clone() * 2.0;
                    Tensor::cat(vec![first, x * 2.0 - y * 0.1], 1)
                });
                solver.solve(&f, start.clone(), times)
            })
        }),
        "van der pol" => Box::new(move |solver, start, times| {
            solve(solver, &|solver| {
                solver.solve(&van_der_pol(5.0), start.clone(), times)
            })
        }),
        _ => Box::new(move |solver, start, times| {
            solve(solver, &|solver| {
                let f = field(|u: Tensor<2>, t: Tensor<2>| -u + (t * 3.0).sin());
                solver.solve(&f, start.clone(), times)
            })
        }),
    }
}

fn van_der_pol(mu: f64) -> impl Field {
    field(move |u: Tensor<2>, _| {
        let [x, y] = [0, 1].map(|i| column(&u, i));
        let second = (x.clone().square() * -1.0 + 1.0) * y.clone() * mu - x;
        Tensor::cat(vec![y, second], 1)
    })
}

fn reference() -> Value {
    serde_json::from_str(include_str!("../../tests/reference/solvers.json")).unwrap()
}

fn numbers_of(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers_of).collect(),
        value => vec![value.as_f64().unwrap()],
    }
}

#[test]
fn steps_and_values_are_those_of_scipy_and_diffrax() {
    let reference = reference();
    let runs = reference["runs"].as_array().unwrap();
    assert!(runs.len() > 40);
    for run in runs {
        let name = run["method"].as_str().unwrap();
        let method = Method::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .unwrap();
        let tolerance = run["tolerance"].as_f64().unwrap();
        let controller = match run["package"].as_str().unwrap() {
            "scipy" => Controller::INTEGRAL,
            _ => Controller::Pid {
                proportional: run["proportional"].as_f64().unwrap(),
                integral: run["integral"].as_f64().unwrap(),
                derivative: 0.0,
                safety: 0.9,
                least: 0.2,
                most: 10.0,
            },
        };
        let start = numbers_of(&run["start"]);
        let times = numbers_of(&run["times"]);
        let solver = Solver::new(method)
            .with_tolerances(tolerance, tolerance)
            .with_controller(controller);
        let solver = match run["first"].as_f64() {
            Some(first) => solver.with_first_step(first),
            None => solver,
        };
        let width = start.len();
        let solve = problem(run["problem"].as_str().unwrap());
        let found = solve(&solver, wide(&start, [1, width]), &times);
        let statistics = found.statistics();
        let count = |key: &str| run[key].as_u64().unwrap() as f64;
        let told = format!(
            "{} {} {name} {tolerance} {:?}: {} accepted, {} rejected",
            run["package"],
            run["problem"],
            run["proportional"],
            statistics.accepted(),
            statistics.rejected()
        );
        // Within 2 % of the steps, or one of few.
        let near = |found: usize, expected: f64| {
            (found as f64 - expected).abs() <= (0.02 * expected).max(1.0)
        };
        assert!(near(statistics.accepted(), count("accepted")), "{told}");
        let tries = statistics.accepted() + statistics.rejected();
        assert!(near(tries, count("accepted") + count("rejected")), "{told}");
        if let Some(evaluations) = run["evaluations"].as_u64() {
            assert!(near(statistics.evaluations(), evaluations as f64), "{told}");
        }
        let values = list(&found.values());
        // The same steps give the same values, up to rounding.
        let expected = numbers_of(&run["values"]);
        let gap = distance(&values, &expected);
        assert!(gap < 1e-3 * tolerance + 1e-10, "{told}: {gap}");
        let exact = numbers_of(&run["exact"]);
        assert!(
            distance(&values, &exact) < 300.0 * tolerance,
            "{told} {}",
            distance(&values, &exact)
        );
    }
}

/// From the notes on ERNODE: the tableau in NumPy, and full solves with the controller of OrdinaryDiffEq.jl.
#[test]
fn tsit5_and_pi_control_are_those_of_ordinary_diff_eq() {
    let logistic = field(|u: Tensor<2>, _| u.clone() * (u * -1.0 + 1.0));
    let solver = Solver::new(Method::TSIT5)
        .with_constant_step(0.5)
        .with_tolerances(1.0, 0.0);
    let found = solver
        .solve(&logistic, wide(&[0.1], [1, 1]), &[0.0, 0.5])
        .unwrap();
    assert!((list(&found.last())[0] - 0.154_828_135_912_209_79).abs() < 1e-15);
    let step = &found.statistics().steps()[0];
    assert!(
        (step.errors[0] - 5.426_884_556_695e-7).abs() < 1e-17,
        "{}",
        step.errors[0]
    );
    assert!(
        (step.stiffness[0] - 0.689_005_427_938_169_4).abs() < 1e-7,
        "{}",
        step.stiffness[0]
    );

    let decay = field(|u: Tensor<2>, _| -u);
    let solver = Solver::new(Method::TSIT5)
        .with_constant_step(0.1)
        .with_tolerances(1e-3, 1e-3);
    let found = solver
        .solve(&decay, wide(&[1.0], [1, 1]), &[0.0, 0.1])
        .unwrap();
    let step = &found.statistics().steps()[0];
    assert!((step.errors[0] / 2.211_443_5e-6 - 1.0).abs() < 1e-7);
    assert!((step.stiffness[0] - 1.0).abs() < 1e-8);
    let solver = solver.with_first_step(0.5);
    let found = solver
        .solve(&decay, wide(&[1.0], [1, 1]), &[0.0, 0.25, 0.5])
        .unwrap();
    assert!((list(&found.at(1).unwrap())[0] - 0.778_791_85).abs() < 1e-8);

    for (name, times, absolute, relative, accepted, rejected, end) in [
        (
            "spiral",
            [0.0, 1.5],
            1e-6,
            1e-6,
            59,
            0,
            [1.291_991_56, 0.972_586_07],
        ),
        (
            "spiral",
            [0.0, 1.5],
            1e-6,
            1e-3,
            24,
            0,
            [1.291_991_56, 0.972_586_07],
        ),
        (
            "van der pol",
            [0.0, 10.0],
            1e-6,
            1e-6,
            120,
            4,
            [-1.158_700, 0.430_471],
        ),
    ] {
        let solver = Solver::new(Method::TSIT5).with_tolerances(absolute, relative);
        let found = problem(name)(&solver, wide(&[2.0, 0.0], [1, 2]), &times);
        let statistics = found.statistics();
        let counted = (statistics.accepted(), statistics.rejected());
        assert_eq!(counted, (accepted, rejected), "{name} {relative}");
        // One evaluation less than there: the first slope is not computed twice.
        assert_eq!(statistics.evaluations(), 2 + 6 * (accepted + rejected));
        assert!(
            distance(&list(&found.last()), &end) < 30.0 * relative,
            "{:?}",
            list(&found.last())
        );
        if name == "spiral" && relative == 1e-6 {
            let steps = statistics.steps();
            assert!((steps[0].lengths[0] - 0.014_908_875).abs() < 1e-9);
            let sum: f64 = steps
                .iter()
                .map(|step| step.errors[0] * step.lengths[0])
                .sum();
            assert!((sum - 0.214_338_5).abs() < 1e-6, "{sum}");
            let most = steps
                .iter()
                .map(|step| step.stiffness[0])
                .fold(0.0, f64::max);
            assert!((most - 21.97).abs() < 0.01, "{most}");
        }
    }
}

#[test]
fn stiff_equations_take_few_steps_of_a_rosenbrock_method() {
    let reference = reference();
    let robertson = field(|u: Tensor<2>, _| {
        let [x, y, z] = [0, 1, 2].map(|i| column(&u, i));
        let (a, b, c) = (x * 0.04, y.clone().square() * 3e7, y * z * 1e4);
        Tensor::cat(vec![c.clone() - a.clone(), a - b.clone() - c, b], 1)
    });
    let times = numbers_of(&reference["robertson"]["times"]);
    let solver = Solver::new(Method::RODAS4).with_tolerances(1e-10, 1e-6);
    let found = solver
        .solve(&robertson, wide(&[1.0, 0.0, 0.0], [1, 3]), &times)
        .unwrap();
    let values = list(&found.values());
    let expected = numbers_of(&reference["robertson"]["values"]);
    for (found, expected) in values.iter().zip(&expected) {
        assert!(
            (found - expected).abs() <= 2e-5 * expected.abs() + 1e-9,
            "{found} {expected}"
        );
    }
    let steps = found.statistics().accepted();
    assert!(steps < 250, "{steps}");
    // Mass is preserved by the field, and by the method.
    assert!((values[9] + values[10] + values[11] - 1.0).abs() < 1e-9);

    let explicit = Solver::new(Method::TSIT5).with_tolerances(1e-6, 1e-4);
    let stiff = Solver::new(Method::RODAS4).with_tolerances(1e-6, 1e-4);
    let [explicit, stiff] = [explicit, stiff].map(|solver| {
        solver
            .solve(
                &van_der_pol(200.0),
                wide(&[2.0, 0.0], [1, 2]),
                &[0.0, 100.0],
            )
            .unwrap()
    });
    assert!(distance(&list(&explicit.last()), &list(&stiff.last())) < 1e-3);
    let [many, few] = [&explicit, &stiff].map(|found| found.statistics().accepted());
    assert!(many > 20 * few, "{many} {few}");
    // The explicit method sees that it takes its steps at the edge of stability.
    let step = &explicit.statistics().steps()[many - 10];
    let edge = step.stiffness[0] * step.lengths[0];
    assert!(edge > 2.0 && edge < 5.0, "{edge}");
}

#[test]
fn each_trajectory_takes_its_own_steps() {
    let starts = [[2.0, 0.0], [0.1, 0.1], [1.0, 3.0]];
    let times = [0.0, 1.0, 2.5, 7.0];
    for method in [Method::TSIT5, Method::VERN7, Method::BS3, Method::RODAS4] {
        let solver = Solver::new(method)
            .with_tolerances(1e-7, 1e-5)
            .with_event(Event::change(3.0, |u| u * 1.1))
            .with_steps(Steps::PerTrajectory);
        let all = solver
            .solve(&van_der_pol(3.0), wide(&starts.concat(), [3, 2]), &times)
            .unwrap();
        let values = all.values();
        for (row, start) in starts.iter().enumerate() {
            let alone = solver
                .solve(&van_der_pol(3.0), wide(start, [1, 2]), &times)
                .unwrap();
            let own = values.clone().slice([0..4, row..row + 1, 0..2]);
            let gap = distance(&list(&own), &list(&alone.values()));
            assert!(gap < 1e-12, "{method}: {gap}");
            let counts = |found: &Solution, row: usize| {
                let statistics = found.statistics();
                let accepted = statistics.accepted_by_trajectory()[row];
                (accepted, statistics.rejected_by_trajectory()[row])
            };
            assert_eq!(counts(&all, row), counts(&alone, 0), "{method}");
            let steps = all.statistics().steps().iter();
            let lengths: Vec<f64> = steps
                .map(|step| step.lengths[row])
                .filter(|&length| length != 0.0)
                .collect();
            let expected: Vec<f64> = alone
                .statistics()
                .steps()
                .iter()
                .map(|step| step.lengths[0])
                .collect();
            assert!(distance(&lengths, &expected) < 1e-9);
        }
        let accepted = all.statistics().accepted_by_trajectory();
        assert!(accepted.iter().any(|&count| count != accepted[0]));
    }
}

/// `u' = −u` with doses, and a field with a corner.
#[test]
fn steps_end_at_events() {
    let decay = field(|u: Tensor<2>, _| -u);
    let solver = Solver::new(Method::DOPRI5)
        .with_tolerances(1e-10, 1e-10)
        .with_event(Event::change(2.0, |u| u * 0.5))
        .with_event(Event::change(1.0, |u| u + 1.0));
    let found = solver
        .solve(&decay, wide(&[1.0], [1, 1]), &[0.0, 1.0, 1.5, 3.0])
        .unwrap();
    let first = (-1.0_f64).exp();
    let expected = [
        1.0,
        first,
        (first + 1.0) * (-0.5_f64).exp(),
        (first + 1.0) * 0.5 * (-2.0_f64).exp(),
    ];
    assert!(distance(&list(&found.values()), &expected) < 1e-8);
    let begins = |time: f64| {
        let mut steps = found.statistics().steps().iter();
        steps.any(|step| step.times[0] == time)
    };
    assert!(begins(1.0) && begins(2.0));

    let corner = field(|u: Tensor<2>, t: Tensor<2>| u.zeros_like() + (t - 1.0).abs());
    let solve = |solver: &Solver| {
        solver
            .solve(&corner, wide(&[0.0], [1, 1]), &[0.0, 2.0])
            .unwrap()
    };
    let solver = Solver::new(Method::VERN7).with_tolerances(1e-10, 1e-10);
    let [with, without] = [
        solve(&solver.clone().with_event(Event::stop(1.0))),
        solve(&solver),
    ];
    assert!((list(&with.last())[0] - 1.0).abs() < 1e-12);
    let [with, without] = [with, without].map(|found| found.statistics().evaluations());
    assert!(2 * with < without, "{with} {without}");
    let error =
        solver
            .with_event(Event::stop(2.0))
            .solve(&corner, wide(&[0.0], [1, 1]), &[0.0, 2.0]);
    assert_eq!(
        error.unwrap_err().to_string(),
        "an event at the time 2 lies outside of the interval from 0 to 2, without its ends"
    );
}

#[test]
fn the_same_in_f32() {
    let start = Tensor::<2>::from_floats([[2.0, 0.0]], &Device::flex());
    let solver = Solver::new(Method::TSIT5).with_tolerances(1e-5, 1e-5);
    let found = solver.solve(&van_der_pol(5.0), start, &[0.0, 3.0]).unwrap();
    assert_eq!(found.last().dtype(), DType::F32);
    let expected = solver
        .solve(&van_der_pol(5.0), wide(&[2.0, 0.0], [1, 2]), &[0.0, 3.0])
        .unwrap();
    assert!(distance(&list(&found.last()), &list(&expected.last())) < 1e-4);
    let [a, b] = [&found, &expected].map(|found| found.statistics().accepted());
    assert!(a.abs_diff(b) <= 1, "{a} {b}");
}

#[test]
fn bad_input_is_named() {
    let told = |solver: &Solver, start: &[f64], times: &[f64]| {
        let decay = field(|u: Tensor<2>, _| -u);
        solver
            .solve(&decay, wide(start, [1, start.len()]), times)
            .unwrap_err()
            .to_string()
    };
    let solver = Solver::new(Method::TSIT5);
    assert_eq!(
        told(&solver, &[1.0], &[0.0, 2.0, 1.5]),
        "time 2 (from 0) is 1.5, but it must be finite and greater than the one before, 2"
    );
    assert!(told(&solver, &[1.0], &[0.0, f64::NAN]).starts_with("time 1 (from 0) is NaN"));
    assert!(told(&solver, &[1.0], &[0.0]).starts_with("1 times are no interval"));
    assert_eq!(
        told(&solver, &[1.0, f64::NAN], &[0.0, 1.0]),
        "the initial state has the value NaN in row 0 and column 1 (from 0), but it must be finite"
    );
    assert!(told(&solver, &[], &[0.0, 1.0]).starts_with("a state of the shape [1, 0]"));
    let wrong = solver.clone().with_tolerances(-1.0, 0.0);
    assert!(told(&wrong, &[1.0], &[0.0, 1.0]).starts_with("the absolute tolerance is -1"));
    let wrong = solver.clone().with_controller(Controller::Constant);
    assert!(told(&wrong, &[1.0], &[0.0, 1.0]).starts_with("steps of one length"));
    let wrong = solver.clone().with_most_steps(3).with_longest_step(0.01);
    assert_eq!(
        told(&wrong, &[1.0], &[0.0, 1.0]),
        "the time 0.03 was reached after 3 steps, which are the most that are allowed: the equation may be stiff"
    );

    // u' = u² has a pole at t = 1.
    let pole = field(|u: Tensor<2>, _| u.square());
    let error = solver
        .solve(&pole, wide(&[1.0], [1, 1]), &[0.0, 2.0])
        .unwrap_err();
    match error {
        SolveError::Underflow { time, .. } | SolveError::NotFinite { time, .. } => {
            assert!((time - 1.0).abs() < 1e-2, "{time}");
        }
        error => panic!("{error}"),
    }
    // A field that is nowhere after t = 1, for one of two trajectories.
    let edge = field(|u: Tensor<2>, t: Tensor<2>| u.clone() * 0.0 + (t * -1.0 + u).sqrt());
    let apart = solver.clone().with_steps(Steps::PerTrajectory);
    let error = apart
        .solve(&edge, wide(&[50.0, 0.01], [2, 1]), &[0.0, 2.0])
        .unwrap_err();
    assert!(error.to_string().contains("trajectory 1"), "{error}");
    let fixed = solver.clone().with_constant_step(0.1);
    let error = fixed
        .solve(&edge, wide(&[0.01], [1, 1]), &[0.0, 2.0])
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the field is not finite at the time"),
        "{error}"
    );

    let other = field(|u: Tensor<2>, _| u.slice_dim(1, 0..1));
    let error = solver
        .solve(&other, wide(&[1.0, 2.0], [1, 2]), &[0.0, 1.0])
        .unwrap_err();
    assert_eq!(
        error,
        SolveError::FieldShape {
            expected: [1, 2],
            found: [1, 1]
        }
    );
    let other = field(|u: Tensor<2>, _| u.cast(DType::F32));
    let error = solver
        .solve(&other, wide(&[1.0], [1, 1]), &[0.0, 1.0])
        .unwrap_err();
    assert!(matches!(error, SolveError::FieldType { .. }));
    let captured = wide(&[1.0], [1, 1]).autodiff().require_grad();
    let hidden = field(move |u: Tensor<2>, _| u * captured.clone());
    let error = solver
        .solve(&hidden, wide(&[1.0], [1, 1]), &[0.0, 1.0])
        .unwrap_err();
    assert_eq!(error, SolveError::HiddenParameters);
}
