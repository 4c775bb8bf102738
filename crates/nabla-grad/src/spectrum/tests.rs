use super::*;
use burn::tensor::{Device, Tensor};
use faer::Side;

use crate::curvature::tests::{
    dense, distance, network_gradient, product, reference, symmetric, theta, vector,
};
use crate::curvature::{DenseOperator, DifferenceConfig, FunctionOperator, Hessian, Order, Step};

const DIM: usize = 24;
const STEPS: usize = 8;

/// The matrix and the start of `tests/reference/curvature_reference.py`.
fn matrix() -> DenseOperator {
    let rows: Vec<Vec<f64>> = (0..DIM)
        .map(|i| {
            (0..DIM)
                .map(|j| (((i * j * (i + j) + 3 * (i + j)) % 31) as f64 - 15.0) / 16.0)
                .collect()
        })
        .collect();
    dense(&rows)
}

fn start() -> Vec<f64> {
    (0..DIM)
        .map(|i| (((5 * i + 1) % 7) as f64 - 3.0) / 4.0)
        .collect()
}

fn eigenvalues(rows: &[Vec<f64>]) -> Vec<f64> {
    let dim = rows.len();
    Mat::<f64>::from_fn(dim, dim, |i, j| rows[i][j])
        .self_adjoint_eigenvalues(Side::Lower)
        .unwrap()
}

fn steps(steps: usize, reorthogonalise: bool) -> LanczosConfig {
    LanczosConfig {
        steps,
        reorthogonalise,
    }
}

#[test]
fn lanczos_gives_the_tridiagonal_matrix_of_scipy() {
    for reorthogonalise in [true, false] {
        let found = lanczos(&matrix(), &start(), &steps(STEPS, reorthogonalise)).unwrap();
        let mut beta = found.beta.clone();
        beta.push(found.remainder);
        assert!(distance(&found.alpha, &reference("matrix", "alpha")) < 1e-11);
        assert!(distance(&beta, &reference("matrix", "beta")) < 1e-11);
        assert_eq!(found.basis.is_some(), reorthogonalise);

        let quadrature = found.quadrature().unwrap();
        assert!(distance(&quadrature.nodes, &reference("matrix", "nodes")) < 1e-11);
        assert!(distance(&quadrature.weights, &reference("matrix", "weights")) < 1e-11);
        // Gauss quadrature is exact up to the degree 2 m − 1.
        for (k, exact) in reference("matrix", "moments").iter().enumerate() {
            let moment = quadrature.integrate(|x| x.powi(k as i32));
            assert!((moment - exact).abs() < 1e-10 * exact.abs().max(1.0), "{k}");
        }
    }
}

#[test]
fn the_density_is_pyhessians() {
    let quadrature = Quadrature {
        nodes: reference("matrix", "nodes"),
        weights: reference("matrix", "weights"),
        operator_error: 0.0,
    };
    let config = DensityConfig::new()
        .with_points(241)
        .with_sigma(Some(0.5))
        .with_bounds(Some([-12.0, 12.0]));
    // The same run twice has the same mean.
    let found = SpectralDensity::of(&[quadrature.clone(), quadrature], &config).unwrap();
    assert!(distance(&found.density, &reference("matrix", "density")) < 1e-12);
    assert_eq!((found.grid[0], found.grid.len()), (-12.0, 241));
    assert!((found.grid[240] - 12.0).abs() < 1e-12);
}

#[test]
fn all_steps_of_lanczos_give_all_eigenvalues_with_their_vectors() {
    let exact = reference("matrix", "eigenvalues");
    let found = lanczos(&matrix(), &start(), &LanczosConfig::new()).unwrap();
    assert_eq!((found.alpha.len(), found.remainder), (DIM, 0.0));
    let pairs = found.ritz_pairs().unwrap();
    let values: Vec<f64> = pairs.iter().map(|pair| pair.value).collect();
    assert!(distance(&values, &exact) < 1e-11);
    for pair in pairs {
        assert_eq!(pair.residual, 0.0);
        let v = pair.vector.unwrap();
        let mut error = matrix().apply_values(&v).unwrap();
        add_scaled(&mut error, -pair.value, &v);
        assert!(norm(&error) < 1e-11 && (norm(&v) - 1.0).abs() < 1e-12);
    }
}

#[test]
fn a_ritz_values_residual_is_what_it_says_and_bounds_its_error() {
    let (rows, operator) = symmetric(60, 2);
    let exact = eigenvalues(&rows);
    let start = Probe::Gaussian.draw(60, &mut SeededNoise::new(3, 0));
    let found = lanczos(&operator, &start, &steps(40, true)).unwrap();
    let pairs = found.ritz_pairs().unwrap();
    assert_eq!(pairs.len(), 40);
    for pair in &pairs {
        let v = pair.vector.as_ref().unwrap();
        let mut error = product(&rows, v);
        add_scaled(&mut error, -pair.value, v);
        assert!((norm(&error) - pair.residual).abs() < 1e-10);
        let nearest = exact
            .iter()
            .map(|x| (x - pair.value).abs())
            .fold(f64::INFINITY, f64::min);
        assert!(nearest <= pair.residual + 1e-10);
    }
    // The extreme eigenvalues have converged.
    assert!((pairs[0].value - exact[0]).abs() < 1e-5);
    assert!((pairs[39].value - exact[59]).abs() < 1e-5);
}

#[test]
fn what_the_operator_does_not_know_is_in_the_residual_and_not_converged() {
    let (rows, exact) = symmetric(30, 5);
    let eigenvalues = eigenvalues(&rows);
    // Off by 5 % in a direction that changes with the vector.
    let off = FunctionOperator::new(30, Device::flex(), |v: &Tensor<1>| {
        let product = exact.apply(v).map_err(Box::new)?;
        let wrong = (v.clone() * 1e4).sin();
        let length = |t: &Tensor<1>| t.clone().square().sum().sqrt();
        let share = length(&product) / length(&wrong) * 0.05;
        Ok(product + wrong * share)
    });
    let off = off.with_dtype(burn::tensor::DType::F64).with_error(0.06);
    let off = off.unwrap();
    let config = PowerConfig::new().with_iterations(40);
    let noise = &mut SeededNoise::new(1, 0);
    let pair = &top_eigenpairs(&off, &config, noise).unwrap()[0];
    assert!(
        !pair.converged && pair.operator_error > 0.05 * pair.value.abs(),
        "{pair:?}"
    );
    let nearest = |value: f64| {
        let off = eigenvalues.iter().map(|x| (x - value).abs());
        off.fold(f64::INFINITY, f64::min)
    };
    assert!(nearest(pair.value) <= pair.residual);
    let start = Probe::Gaussian.draw(30, noise);
    let found = lanczos(&off, &start, &steps(20, true)).unwrap();
    assert!(found.quadrature().unwrap().operator_error > 0.1);
    for pair in found.ritz_pairs().unwrap() {
        assert!(nearest(pair.value) <= pair.residual && pair.operator_error > 0.0);
        let v = pair.vector.unwrap();
        let mut error = product(&rows, &v);
        add_scaled(&mut error, -pair.value, &v);
        assert!(norm(&error) <= pair.residual);
    }
    assert!(
        FunctionOperator::new(1, Device::flex(), |v: &Tensor<1>| Ok(v.clone()))
            .with_error(-1.0)
            .is_err()
    );
}

#[test]
fn orthogonality_is_kept_only_if_asked_for() {
    // One eigenvalue far off converges early, and later vectors lose their orthogonality to it.
    let mut rows: Vec<Vec<f64>> = symmetric(80, 5).0;
    rows[0][0] += 1000.0;
    let operator = dense(&rows);
    let exact = eigenvalues(&rows);
    let start = Probe::Gaussian.draw(80, &mut SeededNoise::new(4, 0));
    let copies = |reorthogonalise| {
        let found = lanczos(&operator, &start, &steps(60, reorthogonalise)).unwrap();
        if let Some(basis) = &found.basis {
            for (i, a) in basis.iter().enumerate() {
                for (j, b) in basis.iter().enumerate() {
                    let expected = f64::from(u8::from(i == j));
                    assert!((dot(a, b) - expected).abs() < 1e-13);
                }
            }
        }
        let pairs = found.ritz_pairs().unwrap();
        let near = |pair: &&RitzPair| (pair.value - exact[79]).abs() < 1e-6;
        pairs.iter().filter(near).count()
    };
    assert_eq!(copies(true), 1);
    assert!(copies(false) > 1);
}

#[test]
fn lanczos_stops_when_the_krylov_space_is_exhausted() {
    // 2 I + u uᵀ has two distinct eigenvalues.
    let u = Probe::Gaussian.draw(30, &mut SeededNoise::new(6, 0));
    let rows: Vec<Vec<f64>> = (0..30)
        .map(|i| {
            (0..30)
                .map(|j| u[i] * u[j] + 2.0 * f64::from(u8::from(i == j)))
                .collect()
        })
        .collect();
    let start = Probe::Gaussian.draw(30, &mut SeededNoise::new(7, 0));
    let found = lanczos(&dense(&rows), &start, &LanczosConfig::new()).unwrap();
    assert_eq!((found.alpha.len(), found.remainder), (2, 0.0));
    let values = found.quadrature().unwrap().nodes;
    assert!(distance(&values, &[2.0, 2.0 + dot(&u, &u)]) < 1e-12);
    // A matrix of zeros is exhausted at once, also in f32.
    let zero = FunctionOperator::new(5, Device::flex(), |v: &Tensor<1>| Ok(v.zeros_like()));
    let found = lanczos(&zero, &[1.0; 5], &LanczosConfig::new()).unwrap();
    assert_eq!((found.alpha, found.remainder), (vec![0.0], 0.0));
}

#[test]
fn power_iteration_finds_the_largest_by_absolute_value() {
    let (rows, operator) = symmetric(30, 8);
    let mut exact = eigenvalues(&rows);
    exact.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
    let config = PowerConfig {
        count: 3,
        iterations: 20_000,
        tolerance: 1e-13,
    };
    let found = top_eigenpairs(&operator, &config, &mut SeededNoise::new(2, 0)).unwrap();
    for (pair, exact) in found.iter().zip(&exact) {
        assert!(pair.converged);
        assert!((pair.value - exact).abs() < 1e-6, "{} {exact}", pair.value);
        let mut error = product(&rows, &pair.vector);
        add_scaled(&mut error, -pair.value, &pair.vector);
        assert!((norm(&error) - pair.residual).abs() < 1e-8);
        assert!(pair.residual < 1e-3);
    }
    // The limit of iterations is kept and reported.
    let config = PowerConfig {
        iterations: 3,
        ..config
    };
    let found = top_eigenpairs(&operator, &config, &mut SeededNoise::new(2, 0)).unwrap();
    assert!(!found[0].converged);
    assert_eq!(found[0].iterations, 3);
    // An eigenvalue is within the residual even so.
    let nearest = exact.iter().map(|x| (x - found[0].value).abs());
    assert!(nearest.fold(f64::INFINITY, f64::min) <= found[0].residual);
}

#[test]
fn deflation_goes_on_into_the_kernel() {
    let mut rows = vec![vec![0.0; 4]; 4];
    rows[1][1] = -3.0;
    rows[2][2] = 2.0;
    let config = PowerConfig::new().with_count(4).with_tolerance(1e-12);
    let found = top_eigenpairs(&dense(&rows), &config, &mut SeededNoise::new(1, 0)).unwrap();
    let values: Vec<f64> = found.iter().map(|pair| pair.value).collect();
    assert!(
        distance(&values, &[-3.0, 2.0, 0.0, 0.0]) < 1e-9,
        "{values:?}"
    );
    for (i, pair) in found.iter().enumerate() {
        for other in &found[..i] {
            assert!(dot(&pair.vector, &other.vector).abs() < 1e-12);
        }
    }
}

#[test]
fn a_networks_hessian_has_torchs_eigenvalues() {
    let exact = reference("network", "hessian_eigenvalues");
    let config = DifferenceConfig::new()
        .with_step(Step::Automatic)
        .with_order(Order::Fourth);
    let hessian = Hessian::new(network_gradient, vector(&theta()), config).unwrap();
    let start = Probe::Gaussian.draw(exact.len(), &mut SeededNoise::new(9, 0));
    let found = lanczos(&hessian, &start, &LanczosConfig::new()).unwrap();
    let found = found.quadrature().unwrap().nodes;
    // A Krylov space has a fivefold eigenvalue (0 here) once.
    let near = |x: f64, of: &[f64]| of.iter().any(|y| (x - y).abs() < 1e-7);
    assert!(found.iter().all(|&x| near(x, &exact)), "{found:?}");
    assert!(exact.iter().all(|&x| near(x, &found)), "{found:?}");
    let config = PowerConfig {
        count: 2,
        iterations: 1000,
        tolerance: 1e-10,
    };
    let found = top_eigenpairs(&hessian, &config, &mut SeededNoise::new(9, 0)).unwrap();
    assert!((found[0].value - exact[30]).abs() < 1e-6);
    assert!((found[1].value - exact[29]).abs() < 1e-6);
}

#[test]
fn the_density_has_the_moments_of_the_spectrum() {
    let (rows, operator) = symmetric(100, 10);
    let exact = eigenvalues(&rows);
    let config = DensityConfig::new()
        .with_steps(40)
        .with_runs(20)
        .with_sigma(Some(0.2));
    let quadratures =
        spectral_quadratures(&operator, &config, &mut SeededNoise::new(1, 0)).unwrap();
    let density = spectral_density(&operator, &config, &mut SeededNoise::new(1, 0)).unwrap();
    assert!((density.integrate(|_| 1.0) - 1.0).abs() < 1e-4);
    for power in [1, 2, 4] {
        let true_moment = exact.iter().map(|x| x.powi(power)).sum::<f64>() / 100.0;
        let runs: Vec<f64> = quadratures
            .iter()
            .map(|q| q.integrate(|x| x.powi(power)))
            .collect();
        let mean = runs.iter().sum::<f64>() / 20.0;
        let variance = runs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 19.0;
        let error = (variance / 20.0).sqrt();
        assert!(
            (mean - true_moment).abs() < 4.0 * error + 1e-9,
            "{power}: {mean} ± {error} for {true_moment}"
        );
        // Smoothing adds moments of the Gaussian: E (x + σ z)^k.
        let s2 = 0.2_f64.powi(2);
        let second = runs_mean(&quadratures, 2);
        let smoothed = match power {
            1 => mean,
            2 => mean + s2,
            _ => mean + 6.0 * s2 * second + 3.0 * s2 * s2,
        };
        let found = density.integrate(|x| x.powi(power));
        assert!(
            (found - smoothed).abs() < 2e-3 * smoothed.abs().max(1.0),
            "{power}: {found} {smoothed}"
        );
    }
}

fn runs_mean(quadratures: &[Quadrature], power: i32) -> f64 {
    let sum: f64 = quadratures
        .iter()
        .map(|q| q.integrate(|x| x.powi(power)))
        .sum();
    sum / quadratures.len() as f64
}

/// Against the smoothed histogram of all eigenvalues, in the L1 distance of densities.
#[test]
fn the_density_approaches_that_of_the_dense_eigenvalues() {
    let (rows, operator) = symmetric(100, 12);
    let exact = Quadrature {
        nodes: eigenvalues(&rows),
        weights: vec![0.01; 100],
        operator_error: 0.0,
    };
    let base = DensityConfig::new()
        .with_points(500)
        .with_sigma(Some(1.5))
        .with_bounds(Some([-35.0, 35.0]));
    let exact = SpectralDensity::of(&[exact], &base).unwrap();
    let distance = |runs, reorthogonalise| {
        let config = base
            .with_steps(60)
            .with_runs(runs)
            .with_reorthogonalise(reorthogonalise);
        let found = spectral_density(&operator, &config, &mut SeededNoise::new(5, 0)).unwrap();
        assert_eq!(found.grid, exact.grid);
        let pairs = found.density.iter().zip(&exact.density);
        pairs.map(|(a, b)| (a - b).abs()).sum::<f64>() * (found.grid[1] - found.grid[0])
    };
    let (one, many) = (distance(1, true), distance(40, true));
    assert!(many < 0.05 && many < 0.5 * one, "{one} {many}");
    // Lost orthogonality does not harm the density.
    assert!(distance(40, false) < 0.05);
}

#[test]
fn the_default_grid_holds_all_of_the_density() {
    for scale in [1e-6, 1.0, 1e6] {
        let quadrature = Quadrature {
            nodes: vec![-3.0 * scale, 0.1 * scale, 5.0 * scale],
            weights: vec![0.25, 0.5, 0.25],
            operator_error: 0.0,
        };
        let config = DensityConfig::new();
        let found = SpectralDensity::of(&[quadrature], &config).unwrap();
        let all = found.integrate(|_| 1.0);
        assert!((all - 1.0).abs() < 1e-3, "{scale}: {all}");
        let mean = found.integrate(|t| t);
        assert!(
            (mean - 0.55 * scale).abs() < 1e-3 * (scale + 1.0),
            "{scale}"
        );
        assert!(
            found.sigma >= 1.99 * (found.grid[1] - found.grid[0]),
            "{scale}"
        );
    }
}

#[test]
fn a_seed_gives_the_same_bits() {
    let (_, operator) = symmetric(20, 3);
    let run = |seed| {
        let mut noise = SeededNoise::new(seed, 1);
        let config = DensityConfig::new().with_steps(5).with_points(64);
        (
            top_eigenpairs(&operator, &PowerConfig::new(), &mut noise).unwrap(),
            spectral_density(&operator, &config, &mut noise).unwrap(),
        )
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1).1, run(2).1);
}

#[test]
fn what_cannot_be_is_refused() {
    let (_, operator) = symmetric(4, 3);
    let mut noise = SeededNoise::new(1, 0);
    let mut refused = |config: PowerConfig| {
        top_eigenpairs(&operator, &config, &mut noise).expect_err("out of range")
    };
    assert!(matches!(
        refused(PowerConfig::new().with_count(5)),
        SpectrumError::TooMany { asked: 5, dim: 4 }
    ));
    for config in [
        PowerConfig::new().with_count(0),
        PowerConfig::new().with_iterations(0),
        PowerConfig::new().with_tolerance(f64::NAN),
    ] {
        assert!(matches!(refused(config), SpectrumError::Range(_)));
    }
    let config = LanczosConfig::new();
    for start in [[0.0; 4], [f64::NAN; 4]] {
        let refused = lanczos(&operator, &start, &config);
        assert!(matches!(refused, Err(SpectrumError::Range(_))));
    }
    assert!(matches!(
        lanczos(&operator, &[1.0; 3], &config),
        Err(SpectrumError::StartLength { dim: 4, found: 3 })
    ));
    let quadrature = Quadrature {
        nodes: vec![1.0],
        weights: vec![1.0],
        operator_error: 0.0,
    };
    let config = DensityConfig::new();
    for config in [
        config.with_points(31),
        config.with_sigma(Some(0.0)),
        config.with_sigma(Some(f64::NAN)),
        config.with_bounds(Some([1.0, 1.0])),
        config.with_bounds(Some([0.0, f64::INFINITY])),
        // Too narrow for the grid.
        config.with_bounds(Some([-1e6, 1e6])).with_sigma(Some(1.0)),
    ] {
        let refused = SpectralDensity::of(std::slice::from_ref(&quadrature), &config);
        assert!(
            matches!(refused, Err(SpectrumError::Range(_))),
            "{config:?}"
        );
    }
    assert!(matches!(
        SpectralDensity::of(&[], &config),
        Err(SpectrumError::NoQuadrature)
    ));
}
