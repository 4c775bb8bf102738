use super::*;
use nabla_base::rate_fit::{exponential_rate, power_rate};

const SIDE: usize = 50;
const STEP: f64 = 0.25;

/// Rank 3 with singular values 1.
fn truth() -> Mat<f64> {
    Mat::from_fn(SIDE, SIDE, |i, j| if i == j && i < 3 { 1.0 } else { 0.0 })
}

fn full() -> (FullObservation, Vec<f64>) {
    let operator = FullObservation::new(SIDE, SIDE).unwrap();
    let y = operator.forward(truth().as_ref());
    (operator, y)
}

fn symmetric(rank: usize) -> SymmetricFactors<FullObservation> {
    let (operator, y) = full();
    SymmetricFactors::new(operator, y, FactorStart::new(rank, 0.1)).unwrap()
}

fn asymmetric(rank: usize, scale: f64) -> AsymmetricFactors<FullObservation> {
    let (operator, y) = full();
    AsymmetricFactors::new(operator, y, FactorStart::new(rank, scale)).unwrap()
}

fn error(matrix: &Mat<f64>) -> f64 {
    squared_distance(matrix.as_ref(), truth().as_ref()).unwrap()
}

#[test]
fn the_symmetric_form_is_fast_at_the_true_rank_and_slow_above() {
    let mut exact = symmetric(3);
    for _ in 0..500 {
        exact.step(STEP).unwrap();
    }
    assert!(error(&exact.matrix()) < 1e-20);
    let mut over = symmetric(5);
    let mut errors = Vec::new();
    for t in 1..=10_000 {
        over.step(STEP).unwrap();
        if t >= 1000 && t % 100 == 0 {
            errors.push((f64::from(t), error(&over.matrix())));
        }
    }
    let fit = power_rate(errors).unwrap();
    assert!((-2.2..=-1.7).contains(&fit.rate), "{fit:?}");
}

#[test]
fn the_asymmetric_form_has_a_rate_of_alpha_squared() {
    let rates = [0.5, 0.2, 0.1].map(|scale| {
        let mut factors = asymmetric(5, scale);
        let mut errors = Vec::new();
        let (from, to) = (200, 200 + (30.0 / (scale * scale)) as i32);
        for t in 1..=to {
            factors.step(STEP).unwrap();
            if t >= from && t % 20 == 0 {
                errors.push((f64::from(t), error(&factors.matrix())));
            }
        }
        let fit = exponential_rate(errors).unwrap();
        assert!(fit.rate < 0.0 && fit.explained > 0.99, "{scale}: {fit:?}");
        (scale, -fit.rate)
    });
    let power = power_rate(rates).unwrap().rate;
    assert!((power - 2.0).abs() < 0.15, "{power}: {rates:?}");
}

#[test]
fn rebalancing_keeps_the_product_and_frees_the_rate_of_alpha() {
    let mut rates = Vec::new();
    for scale in [0.2, 0.1, 0.05] {
        let mut factors = asymmetric(5, scale);
        for _ in 0..200 {
            factors.step(STEP).unwrap();
        }
        let before = factors.matrix();
        factors.rebalance(0.5).unwrap();
        let after = factors.matrix();
        assert!(squared_distance(before.as_ref(), after.as_ref()).unwrap() < 1e-24);
        let s = factors.factors()[0].singular_values().unwrap();
        assert!(s.iter().all(|s| (s - 0.5).abs() < 1e-12), "{s:?}");
        let mut errors = Vec::new();
        for t in 0..100 {
            factors.step(STEP).unwrap();
            if t >= 20 {
                errors.push((f64::from(t), error(&factors.matrix())));
            }
        }
        rates.push(exponential_rate(errors).unwrap().rate);
    }
    for rate in &rates {
        assert!((rate / rates[0] - 1.0).abs() < 0.05, "{rates:?}");
    }
    // 20 times faster than without at α = 0.1, where the rate is about −0.0026.
    assert!(rates[1] < -0.05, "{rates:?}");
}

#[test]
fn gradients_are_those_of_the_losses() {
    let operator = GaussianSensing::new(6, 5, 40, 1).unwrap();
    let truth = Mat::from_fn(6, 5, |i, j| (i as f64 - j as f64) / 5.0);
    let y = operator.forward(truth.as_ref());
    let start = FactorStart::new(3, 2.0);
    let factors = AsymmetricFactors::new(operator, y, start).unwrap();
    let (step, h) = (1e-3, 1e-6);
    let mut moved = factors.clone();
    moved.step(step).unwrap();
    for (i, j) in [(0, 0), (4, 2), (2, 1)] {
        let slope = |which: usize| {
            let loss = |sign: f64| {
                let mut near = factors.clone();
                let factor = if which == 0 { &mut near.f } else { &mut near.g };
                factor[(i, j)] += sign * h;
                near.loss()
            };
            (loss(1.0) - loss(-1.0)) / (2.0 * h)
        };
        let taken = |old: &Mat<f64>, new: &Mat<f64>| (old[(i, j)] - new[(i, j)]) / step;
        assert!((taken(&factors.f, &moved.f) - slope(0)).abs() < 1e-5);
        assert!((taken(&factors.g, &moved.g) - slope(1)).abs() < 1e-5);
    }

    let operator = GaussianSensing::new(6, 6, 40, 2).unwrap();
    let y = operator.forward(Mat::<f64>::identity(6, 6).as_ref());
    let factors = SymmetricFactors::new(operator, y, start).unwrap();
    let mut moved = factors.clone();
    moved.step(step).unwrap();
    for (i, j) in [(0, 0), (5, 2), (2, 1)] {
        let loss = |sign: f64| {
            let mut near = factors.clone();
            near.x[(i, j)] += sign * h;
            near.loss()
        };
        let slope = (loss(1.0) - loss(-1.0)) / (2.0 * h);
        let taken = (factors.x[(i, j)] - moved.x[(i, j)]) / step;
        assert!((taken - slope).abs() < 1e-5, "{taken} {slope}");
    }
}

#[test]
fn the_adjoint_is_one_and_keeps_lengths_about() {
    let operator = GaussianSensing::new(8, 6, 4000, 3).unwrap();
    let matrix = Mat::from_fn(8, 6, |i, j| (i * 7 + j * 3) as f64 % 5.0 - 2.0);
    let y = operator.forward(matrix.as_ref());
    let z: Vec<f64> = (0..4000).map(|i| f64::from(i % 7) - 3.0).collect();
    let left: f64 = y.iter().zip(&z).map(|(a, b)| a * b).sum();
    let right: f64 = entries(operator.adjoint(&z).as_ref())
        .iter()
        .zip(entries(matrix.as_ref()))
        .map(|(a, b)| a * b)
        .sum();
    assert!((left - right).abs() < 1e-9 * left.abs().max(1.0));
    let ratio = squared_norm(&y) / matrix.squared_norm_l2();
    assert!((ratio - 1.0).abs() < 0.15, "{ratio}");
}

#[test]
fn condensed_measurements_give_the_same_steps() {
    let whole = GaussianSensing::new(6, 5, 200, 4).unwrap();
    let condensed = whole.clone().condensed();
    assert_eq!((whole.count(), condensed.count()), (200, 30));
    let truth = Mat::from_fn(6, 5, |i, j| (i as f64 - j as f64) / 5.0);
    let run = |operator: GaussianSensing| {
        let y = operator.forward(truth.as_ref());
        let start = FactorStart::new(3, 0.5);
        let mut factors = AsymmetricFactors::new(operator, y, start).unwrap();
        let first = factors.loss();
        for _ in 0..20 {
            factors.step(0.05).unwrap();
        }
        (first, factors.matrix())
    };
    let ((loss, matrix), (same_loss, same_matrix)) = (run(whole), run(condensed));
    assert!((loss - same_loss).abs() < 1e-12 * loss);
    let distance = squared_distance(matrix.as_ref(), same_matrix.as_ref()).unwrap();
    assert!(distance < 1e-24, "{distance:e}");
    // Fewer measurements than entries are left unchanged.
    let few = GaussianSensing::new(6, 5, 20, 4).unwrap();
    assert_eq!(few.condensed().count(), 20);
}

#[test]
fn gradient_descent_about_conserves_the_imbalance() {
    let mut factors = asymmetric(5, 0.2);
    let before = factors.imbalance();
    for _ in 0..2000 {
        factors.step(0.01).unwrap();
    }
    let change = (factors.imbalance() - &before).norm_l2();
    assert!(change < 0.1 * before.norm_l2(), "{change}");
}

#[test]
fn wrong_input_is_told() {
    let told = |start: FactorStart| {
        let (operator, y) = full();
        AsymmetricFactors::new(operator, y, start)
            .unwrap_err()
            .to_string()
    };
    assert!(told(FactorStart::new(0, 0.1)).contains("width is 0"));
    assert!(told(FactorStart::new(51, 0.1)).contains("from 1 to 50"));
    assert!(told(FactorStart::new(3, -0.1)).contains("scale of the start is -0.1"));
    let (operator, _) = full();
    let error = SymmetricFactors::new(operator, vec![0.0; 3], FactorStart::new(3, 0.1));
    assert!(matches!(
        error,
        Err(MatrixSensingError::Count {
            expected: 2500,
            found: 3
        })
    ));
    let oblong = FullObservation::new(3, 4).unwrap();
    assert!(SymmetricFactors::new(oblong, vec![0.0; 12], FactorStart::new(2, 0.1)).is_err());
    assert!(GaussianSensing::new(3, 4, 0, 0).is_err());
    let mut factors = asymmetric(4, 0.1);
    assert!(factors.step(f64::NAN).is_err());
    assert!(factors.rebalance(0.0).is_err());
    factors.f = Mat::zeros(SIDE, 4);
    assert!(matches!(
        factors.rebalance(1.0),
        Err(MatrixSensingError::Singular { .. })
    ));
    let mut wild = asymmetric(4, 1.0);
    let diverged = (0..200).find_map(|_| wild.step(50.0).err());
    assert_eq!(diverged, Some(MatrixSensingError::Diverged));
}
