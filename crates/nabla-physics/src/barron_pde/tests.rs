use std::f64::consts::{PI, TAU};

use burn::tensor::{Device, Tensor, TensorData};
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use rustfft::num_complex::Complex64;
use serde::Deserialize;

use super::*;

fn one(domain: Domain) -> SparseFourier {
    SparseFourier::constant(domain, 1.0).unwrap()
}

/// `−Δu + u + βu³`.
fn reaction(domain: Domain, beta: f64) -> Quartic<SparseFourier> {
    Quartic::linear(one(domain), one(domain))
        .unwrap()
        .with_cubed_value(beta)
        .unwrap()
}

/// The right side of which `u` is the solution.
fn right_side(equation: &Quartic<SparseFourier>, u: &SparseFourier) -> SparseFourier {
    Point::new(equation, &u.zero(), u.clone()).unwrap().gradient
}

fn distance(a: &SparseFourier, b: &SparseFourier) -> f64 {
    a.plus(-1.0, b).unwrap().h1_norm()
}

/// A few waves over two coordinates each.
fn random_waves(dims: usize, count: usize, amplitude: f64, seed: u64) -> SparseFourier {
    let domain = Domain::periodic(dims);
    let mut noise = SeededNoise::new(seed, 0);
    let mut sum = one(domain).zero();
    for _ in 0..count {
        let mut k = vec![0; dims];
        let first = noise.random_range(0..dims);
        k[first] = noise.random_range(1..=2);
        k[(first + 1) % dims] += noise.random_range(-1..=1);
        let size = amplitude * noise.random_range(0.5..1.0);
        let wave = SparseFourier::cosine(domain, &k, size, noise.random_range(0.0..TAU)).unwrap();
        sum = sum.plus(1.0, &wave).unwrap();
    }
    sum
}

#[test]
fn norms_are_the_closed_forms() {
    let domain = Domain::periodic(1);
    let u = SparseFourier::cosine(domain, &[1], 1.0, 0.0).unwrap();
    let cubed = u.times(&u).unwrap().times(&u).unwrap();
    for (found, expected) in [
        (u.barron_norm(), 1.0 + TAU),
        (u.times(&u).unwrap().barron_norm(), 1.0 + TAU),
        (cubed.barron_norm(), 1.0 + 3.0 * PI),
        (u.l2_norm(), 0.5_f64.sqrt()),
        (u.h1_norm(), (0.5 * (1.0 + TAU * TAU)).sqrt()),
        (u.inner(&cubed).unwrap(), 3.0 / 8.0),
        (u.slope(0).at(&[0.25]).unwrap(), -TAU),
    ] {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
}

#[test]
fn products_and_slopes_are_those_of_the_values() {
    let (u, v) = (random_waves(4, 5, 1.0, 1), random_waves(4, 4, 1.0, 2));
    let product = u.times(&v).unwrap();
    let point = [0.13, 0.71, 0.38, 0.92];
    let at = |f: &SparseFourier| f.at(&point).unwrap();
    assert!((at(&product) - at(&u) * at(&v)).abs() < 1e-12);
    for j in 0..4 {
        let moved = |by: f64| {
            let mut moved = point;
            moved[j] += by;
            u.at(&moved).unwrap()
        };
        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((at(&u.slope(j)) - slope).abs() < 1e-7);
        let mut turned = point;
        turned[j] = -turned[j];
        assert!((u.reflected(j).at(&turned).unwrap() - at(&u)).abs() < 1e-12);
    }
    let norms = [&u, &v].map(SparseFourier::barron_norm);
    assert!(product.barron_norm() <= norms[0] * norms[1]);
}

/// Values of the notes to the paper, in one dimension at the rate ½.
#[test]
fn the_descent_is_the_known_one() {
    let domain = Domain::periodic(1);
    let equation = reaction(domain, 2.0);
    let solution = SparseFourier::cosine(domain, &[1], 1.0, 0.0).unwrap();
    let f = right_side(&equation, &solution);
    let of = |f: &SparseFourier, k: i32| {
        let found = f.pairs().find(|(own, _, _)| **own == [k]);
        found.map_or(0.0, |(_, coefficient, _)| 2.0 * coefficient.re)
    };
    assert!((of(&f, 1) - 41.978_417_604_4).abs() < 1e-9 && (of(&f, 3) - 0.5).abs() < 1e-12);
    assert!((f.barron_norm() - 315.661_372_28).abs() < 1e-7);
    let first = [
        0.5185283923,
        0.7752058994,
        0.8974891421,
        0.9538658000,
        0.9793703903,
        0.9908013158,
    ];
    let third = [7.016e-4, 9.539e-4, 8.493e-4, 6.162e-4, 3.984e-4, 2.401e-4];
    let distances = [
        2.166065, 1.011384, 0.4613152, 0.2077115, 0.09296075, 0.041507,
    ];
    let energies = [
        -8.14917778,
        -10.12197436,
        -10.56472211,
        -10.65823085,
        -10.67731725,
        -10.68114997,
    ];
    for steps in 1..=6 {
        let descent = SobolevDescent {
            rule: StepRule::Fixed(0.5),
            steps,
            prune: 0.0,
            ..SobolevDescent::default()
        };
        let found = descent.solve(&equation, &f, &f.zero()).unwrap();
        let at = steps - 1;
        assert!((of(&found.u, 1) - first[at]).abs() < 1e-9);
        assert!((of(&found.u, 3) - third[at]).abs() < 1e-7);
        assert!((distance(&found.u, &solution) - distances[at]).abs() < 1e-6);
        assert!((found.history[steps].energy - energies[at]).abs() < 1e-7);
        assert!(distance(&found.u, &solution) <= found.error_bound);
    }
}

/// With coefficients in space and both powers, against NumPy on a full grid.
#[test]
fn descents_are_numpys() {
    #[derive(Deserialize)]
    struct Run {
        alpha: f64,
        beta: f64,
        rate: f64,
        history: Vec<[f64; 3]>,
    }
    #[derive(Deserialize)]
    struct Reference {
        runs: Vec<Run>,
    }
    let reference: Reference =
        serde_json::from_str(include_str!("../../tests/reference/barron_pde.json")).unwrap();
    let domain = Domain::periodic(2);
    let wave = |k: [i32; 2], amplitude: f64, phase: f64| {
        SparseFourier::cosine(domain, &k, amplitude, phase).unwrap()
    };
    let a = wave([0, 0], 1.0, 0.0)
        .plus(1.0, &wave([1, 0], 0.3, 0.0))
        .unwrap();
    let c = wave([0, 0], 2.0, 0.0)
        .plus(1.0, &wave([1, 1], 0.5, 0.0))
        .unwrap();
    let f = wave([1, 0], 30.0, 0.4)
        .plus(1.0, &wave([1, -2], 20.0, -PI / 2.0))
        .unwrap();
    for run in reference.runs {
        let descent = SobolevDescent {
            rule: StepRule::Fixed(run.rate),
            steps: 8,
            prune: 0.0,
            tolerance: 1e-12,
            ..SobolevDescent::default()
        };
        let grid = |f: &SparseFourier| GridFourier::of(f, 40).unwrap();
        let equation = Quartic::linear(grid(&a), grid(&c))
            .and_then(|equation| equation.with_cubed_value(run.beta))
            .and_then(|equation| equation.with_cubed_slopes(run.alpha))
            .unwrap();
        let on_grid = descent
            .solve(&equation, &grid(&f), &grid(&f).zero())
            .unwrap();
        assert_eq!(on_grid.history.len(), run.history.len());
        for (found, expected) in on_grid.history.iter().zip(&run.history) {
            let found = [found.energy, found.residual, found.barron_norm];
            for (found, expected) in found.iter().zip(expected) {
                let scale = expected.abs().max(1.0);
                assert!(
                    (found - expected).abs() < 1e-8 * scale,
                    "{found} {expected}"
                );
            }
        }
        // The sparse functions, whose products leave nothing out, as far as pruning allows.
        let descent = SobolevDescent {
            steps: 4,
            prune: 1e-8,
            ..descent
        };
        let equation = Quartic::linear(a.clone(), c.clone())
            .and_then(|equation| equation.with_cubed_value(run.beta))
            .and_then(|equation| equation.with_cubed_slopes(run.alpha))
            .unwrap();
        let sparse = descent.solve(&equation, &f, &f.zero()).unwrap();
        for (found, expected) in sparse.history.iter().zip(&run.history) {
            let expected = expected[0];
            assert!((found.energy - expected).abs() < 1e-5 * expected.abs().max(1.0));
        }
    }
}

#[test]
fn grids_and_sparse_functions_agree() {
    let u = random_waves(3, 4, 1.0, 3);
    let v = random_waves(3, 3, 1.0, 4);
    // Within the band, a product is exact.
    let grid = |f: &SparseFourier| GridFourier::of(f, 6).unwrap();
    let found = grid(&u).times(&grid(&v)).unwrap();
    let expected = u.times(&v).unwrap();
    assert!(distance(&found.sparse().unwrap(), &expected) < 1e-12);
    assert!((grid(&u).inner(&grid(&v)).unwrap() - u.inner(&v).unwrap()).abs() < 1e-12);
    for j in 0..3 {
        let found = [grid(&u).slope(j), grid(&u).reflected(j)];
        for (found, expected) in found.iter().zip([u.slope(j), u.reflected(j)]) {
            assert!(distance(&found.sparse().unwrap(), &expected) < 1e-12);
        }
    }
    let (kept, dropped) = found.pruned(0.1);
    assert!(kept.modes() > 0 && dropped.modes() > 0);
    let whole = kept.plus(1.0, &dropped).unwrap().sparse().unwrap();
    assert!(distance(&whole, &expected) < 1e-12);
    assert!(
        kept.sparse()
            .unwrap()
            .pairs()
            .all(|(_, c, _)| c.norm() >= 0.1)
    );
    // What lies outside of the band is left out, and comes back nowhere.
    let narrow = |f: &SparseFourier| GridFourier::of(f, 2).unwrap();
    let found = narrow(&u).times(&narrow(&u)).unwrap().sparse().unwrap();
    let inside = |f: &SparseFourier| {
        let pairs = f.pairs().filter(|(k, _, _)| k.iter().all(|k| k.abs() <= 2));
        SparseFourier::new(u.domain(), pairs.map(|(k, c, _)| (k.to_vec(), c))).unwrap()
    };
    let expected = inside(&inside(&u).times(&inside(&u)).unwrap());
    assert!(distance(&found, &expected) < 1e-12);
}

/// The gradient is that of the energy, for all terms.
#[test]
fn the_gradient_is_the_energys() {
    let u = random_waves(3, 3, 0.5, 5);
    let v = random_waves(3, 3, 0.5, 6);
    let f = random_waves(3, 2, 1.0, 7);
    let a = one(u.domain())
        .plus(0.2, &random_waves(3, 1, 1.0, 8))
        .unwrap();
    let equation = Quartic::linear(a.clone(), a)
        .and_then(|equation| equation.with_cubed_value(1.5))
        .and_then(|equation| equation.with_cubed_slopes(0.4))
        .unwrap();
    let at = |by: f64| {
        let moved = u.plus(by, &v).unwrap();
        energy(&equation, &f, &moved, &moved.slopes()).unwrap()
    };
    let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
    let point = Point::new(&equation, &f, u.clone()).unwrap();
    let found = point.gradient.inner(&v).unwrap();
    assert!((found - slope).abs() < 1e-6 * slope.abs().max(1.0));
    // Curvature between the bounds.
    let curvature = (at(1e-3) - 2.0 * at(0.0) + at(-1e-3)) / 1e-6;
    let square = v.h1_norm().powi(2);
    let equation: &dyn Lagrangian<SparseFourier> = &equation;
    assert!(curvature >= equation.convexity() * square);
    assert!(curvature <= equation.smoothness(&u, &u.slopes()) * square);
}

#[test]
fn every_rule_finds_the_solution_in_every_dimension() {
    for dims in [1, 4, 20] {
        let solution = random_waves(dims, 3, 0.5, 9);
        let equation = reaction(solution.domain(), 2.0);
        let f = right_side(&equation, &solution);
        for rule in [
            StepRule::Fixed(0.5),
            StepRule::Convexity,
            StepRule::Backtracking,
        ] {
            let descent = SobolevDescent {
                rule,
                tolerance: 1e-5,
                steps: 300,
                prune: 1e-8,
                ..SobolevDescent::default()
            };
            let found = descent.solve(&equation, &f, &f.zero()).unwrap();
            assert!(found.converged, "{dims} {rule:?}: {}", found.error_bound);
            assert!(distance(&found.u, &solution) <= 1e-5);
            for pair in found.history.windows(2) {
                assert!(pair[1].energy <= pair[0].energy + 1e-10);
            }
            // What theory allows is more.
            for iterate in &found.history {
                assert!(iterate.barron_norm.ln() <= iterate.log_bound + 1e-9);
                assert!(iterate.second_norm.ln() <= iterate.log_second_bound + 1e-9);
            }
        }
    }
}

#[test]
fn slopes_may_be_cubed() {
    let solution = random_waves(3, 2, 0.1, 10);
    let equation = Quartic::linear(one(solution.domain()), one(solution.domain()))
        .unwrap()
        .with_cubed_slopes(0.3)
        .unwrap();
    let f = right_side(&equation, &solution);
    let descent = SobolevDescent {
        tolerance: 1e-4,
        prune: 1e-7,
        ..SobolevDescent::default()
    };
    let found = descent.solve(&equation, &f, &f.zero()).unwrap();
    assert!(found.converged && distance(&found.u, &solution) <= 1e-4);
    for iterate in &found.history {
        assert!(iterate.second_norm.ln() <= iterate.log_second_bound + 1e-9);
    }
}

#[test]
fn without_the_preconditioner_only_short_steps_descend() {
    let solution = random_waves(2, 2, 0.5, 11);
    let equation = reaction(solution.domain(), 2.0);
    let f = right_side(&equation, &solution);
    let with = |rate: f64| SobolevDescent {
        rule: StepRule::Fixed(rate),
        preconditioner: Preconditioner::None,
        steps: 20,
        ..SobolevDescent::default()
    };
    let error = with(0.5).solve(&equation, &f, &f.zero()).unwrap_err();
    assert!(
        matches!(error, BarronError::Rises { rate: 0.5, .. }),
        "{error}"
    );
    let slow = with(1e-4).solve(&equation, &f, &f.zero()).unwrap();
    let fast = SobolevDescent {
        steps: 20,
        ..SobolevDescent::default()
    };
    let fast = fast.solve(&equation, &f, &f.zero()).unwrap();
    assert!(distance(&fast.u, &solution) < 1e-3 * distance(&slow.u, &solution));
}

/// Poisson's equation, whose solution has a closed form.
#[test]
fn poissons_equation_is_solved() {
    // −Δu = f with zero borders.
    let domain = Domain::zero_at_borders(3);
    let f = SparseFourier::sine_product(domain, &[1, 2, 3], 14.0 * PI * PI).unwrap();
    let zero = f.zero();
    let equation = Quartic::linear(one(domain), zero.clone()).unwrap();
    let found = SobolevDescent::default()
        .solve(&equation, &f, &zero)
        .unwrap();
    let expected = SparseFourier::sine_product(domain, &[1, 2, 3], 1.0).unwrap();
    assert!(found.converged && distance(&found.u, &expected) < 1e-6);
    assert!(found.u.at(&[0.3, 1.0, 0.4]).unwrap().abs() < 1e-6);
    // With periodic borders it has one up to the mean, if the right side has none.
    let domain = Domain::periodic(2);
    let wave = SparseFourier::cosine(domain, &[1, 1], 1.0, 0.3).unwrap();
    let equation = Quartic::linear(one(domain), wave.zero()).unwrap();
    let descent = SobolevDescent::default();
    let found = descent
        .solve(&equation, &wave.scaled(8.0 * PI * PI), &wave.zero())
        .unwrap();
    assert!(distance(&found.u, &wave) < 1e-6);
    let lifted = wave.plus(1.0, &one(domain)).unwrap();
    let error = descent.solve(&equation, &lifted, &wave.zero()).unwrap_err();
    assert_eq!(error, BarronError::Mean(1.0));
}

/// A nonlinear equation with zero borders stays odd.
#[test]
fn zero_borders_hold_for_reactions() {
    let domain = Domain::zero_at_borders(2);
    let solution = SparseFourier::sine_product(domain, &[1, 2], 0.7).unwrap();
    let equation = reaction(domain, 1.0);
    let f = right_side(&equation, &solution);
    let found = SobolevDescent::default()
        .solve(&equation, &f, &f.zero())
        .unwrap();
    assert!(distance(&found.u, &solution) < 1e-6);
    let even = SparseFourier::cosine(domain, &[1, 1], 1.0, 0.0).unwrap();
    let error = SobolevDescent::default()
        .solve(&equation, &even, &even.zero())
        .unwrap_err();
    assert_eq!(error, BarronError::NotOdd("the right side", 0));
}

#[test]
fn perturbed_equations_have_near_solutions() {
    let solution = random_waves(3, 3, 0.5, 12);
    let equation = reaction(solution.domain(), 2.0);
    let f = right_side(&equation, &solution);
    let change = random_waves(3, 3, 0.1, 13);
    let descent = SobolevDescent::default();
    let solve = |f: &SparseFourier| descent.solve(&equation, f, &f.zero()).unwrap().u;
    let dual = change.multiplied(&|w| (1.0 / (1.0 + spectral::square(w)).sqrt()).into());
    let bound = perturbed_distance(dual.l2_norm(), 0.0, 1.0).unwrap();
    let found = distance(&solve(&f), &solve(&f.plus(1.0, &change).unwrap()));
    assert!(
        found <= bound + 2e-6 && found > 0.1 * bound,
        "{found} {bound}"
    );
}

/// Points of the unit box, and the values there.
fn points(u: &SparseFourier, count: usize) -> (Tensor<2>, Vec<f64>) {
    let dims = u.domain().dims;
    let mut noise = SeededNoise::new(77, 0);
    let x: Vec<f64> = (0..count * dims).map(|_| noise.random()).collect();
    let values = x.chunks_exact(dims).map(|x| u.at(x).unwrap()).collect();
    let device = Device::flex();
    (
        Tensor::from_data(TensorData::new(x, [count, dims]), &device),
        values,
    )
}

fn error(network: &TwoLayerNetwork, x: &Tensor<2>, values: &[f64]) -> f64 {
    let found: Vec<f64> = network.forward(x.clone()).into_data().iter().collect();
    let squares = found.iter().zip(values).map(|(a, b)| (a - b).powi(2));
    (squares.sum::<f64>() / values.len() as f64).sqrt()
}

/// Of every kind: the mean over many draws is the function, and the error is within the bound.
#[test]
fn networks_are_the_function_in_the_mean() {
    let device = Device::flex();
    let u = random_waves(3, 4, 0.5, 14)
        .plus(0.3, &one(Domain::periodic(3)))
        .unwrap();
    let (x, values) = points(&u, 400);
    for unit in [
        Unit::Cosine,
        Unit::Step,
        Unit::Sigmoid { steepness: 1e6 },
        Unit::Relu,
    ] {
        let bound = TwoLayerNetwork::error_bound(&u, 64, unit).unwrap();
        let errors: Vec<f64> = (0..16)
            .map(|seed| {
                let network = TwoLayerNetwork::sampled(&u, 64, unit, seed, &device).unwrap();
                error(&network, &x, &values).powi(2)
            })
            .collect();
        let root = (errors.iter().sum::<f64>() / 16.0).sqrt();
        assert!(
            root <= bound && root > 0.05 * bound,
            "{unit:?}: {root} {bound}"
        );
        // A network of many more units is nearer by the root of their number.
        let many = TwoLayerNetwork::sampled(&u, 65_536, unit, 1, &device).unwrap();
        let near = error(&many, &x, &values);
        assert!(near < root / 8.0, "{unit:?}: {near} {root}");
        let few = TwoLayerNetwork::sampled(&u, 64, unit, 3, &device).unwrap();
        let before = error(&few, &x, &values);
        let fitted = few.refitted(x.clone(), &values).unwrap();
        assert!(error(&fitted, &x, &values) <= before + 1e-5);
    }
    let largest = TwoLayerNetwork::largest(&u, 4, &device).unwrap();
    assert!(error(&largest, &x, &values) < 1e-5);
}

#[test]
fn what_is_no_function_is_refused() {
    let domain = Domain::periodic(2);
    let wave = |k: &[i32]| SparseFourier::cosine(domain, k, 1.0, 0.0);
    let u = wave(&[1, 0]).unwrap();
    let message = |error: BarronError| error.to_string();
    assert_eq!(
        message(wave(&[1]).unwrap_err()),
        "1 coordinates for a function of 2"
    );
    let twice = [(vec![1, 0], Complex64::ONE), (vec![-1, 0], Complex64::ONE)];
    assert!(matches!(
        SparseFourier::new(domain, twice),
        Err(BarronError::Twice(_))
    ));
    let complex = [(vec![0, 0], Complex64::I)];
    assert_eq!(
        SparseFourier::new(domain, complex),
        Err(BarronError::NotReal)
    );
    let infinite = [(vec![0, 1], Complex64::new(f64::INFINITY, 0.0))];
    assert!(matches!(
        SparseFourier::new(domain, infinite),
        Err(BarronError::NotFinite(_))
    ));
    assert!(u.at(&[0.0]).is_err());
    let other = SparseFourier::constant(Domain::periodic(3), 1.0).unwrap();
    assert!(matches!(u.times(&other), Err(BarronError::Domains(..))));
    let high = SparseFourier::constant(Domain::periodic(9), 1.0).unwrap();
    assert_eq!(
        GridFourier::of(&high, 10).unwrap_err(),
        BarronError::Grid { band: 10, dims: 9 }
    );
    // A coefficient that may be negative.
    let a = one(domain).plus(2.0, &u).unwrap();
    let equation = Quartic::linear(a, one(domain)).unwrap();
    let descent = SobolevDescent::default();
    assert_eq!(
        descent.solve(&equation, &u, &u).unwrap_err(),
        BarronError::NotConvex(-1.0)
    );
    let equation = reaction(domain, 0.0);
    let too_long = SobolevDescent {
        rule: StepRule::Fixed(5.0),
        ..SobolevDescent::default()
    };
    assert!(matches!(
        too_long.solve(&equation, &u, &u.zero()),
        Err(BarronError::Rises { step: 1, .. })
    ));
    let device = Device::flex();
    let constant = one(domain);
    assert_eq!(
        TwoLayerNetwork::largest(&constant, 3, &device).unwrap_err(),
        BarronError::Constant
    );
    assert!(TwoLayerNetwork::sampled(&u, 2, Unit::Relu, 0, &device).is_err());
    let sigmoid = Unit::Sigmoid { steepness: 0.0 };
    assert!(TwoLayerNetwork::sampled(&u, 2, sigmoid, 0, &device).is_err());
}
