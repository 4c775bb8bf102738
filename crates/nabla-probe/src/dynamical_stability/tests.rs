use rand::seq::index::sample;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::*;

fn normal(draw: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(draw)
}

/// `φ`, `[examples, parameters]`, normal.
fn features(examples: usize, parameters: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut draw = ChaCha8Rng::seed_from_u64(seed);
    (0..examples)
        .map(|_| (0..parameters).map(|_| normal(&mut draw)).collect())
        .collect()
}

fn tensor(rows: &[Vec<f64>]) -> Tensor<2> {
    let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn curvature(rows: &[Vec<f64>]) -> ExampleCurvature {
    ExampleCurvature::of_gradients(&tensor(rows)).unwrap()
}

/// The map of the second moment as a `p² × p²` matrix, from its definition over all batches that two draws make: the
/// moments of a batch's mean of `H_i` depend on pairs alone.
fn second_moment_map(rows: &[Vec<f64>], rate: f64, batch: usize, sampling: Sampling) -> Mat<f64> {
    let (n, p) = (rows.len(), rows[0].len());
    let b = batch as f64;
    let h = |i: usize| Mat::from_fn(p, p, |a, c| rows[i][a] * rows[i][c]);
    let hessian = Mat::from_fn(p, p, |a, c| {
        rows.iter().map(|r| r[a] * r[c]).sum::<f64>() / n as f64
    });
    let kron = |x: &Mat<f64>, y: &Mat<f64>| {
        Mat::from_fn(p * p, p * p, |i, j| x[(i / p, j / p)] * y[(i % p, j % p)])
    };
    let identity = Mat::<f64>::identity(p, p);
    // E[Ĥ ⊗ Ĥ] = 1/B² Σ_k,l E[H_k ⊗ H_l]: B times the same example, B (B − 1) pairs of draws.
    let mut square = Mat::<f64>::zeros(p * p, p * p);
    for i in 0..n {
        for j in 0..n {
            let same = if i == j { 1.0 / (b * n as f64) } else { 0.0 };
            let pairs = match sampling {
                Sampling::WithReplacement => (b - 1.0) / b / (n * n) as f64,
                Sampling::WithoutReplacement if i == j => 0.0,
                Sampling::WithoutReplacement => (b - 1.0) / b / (n * (n - 1)) as f64,
            };
            square += kron(&h(i), &h(j)) * faer::Scale(same + pairs);
        }
    }
    let linear = kron(&identity, &hessian) + kron(&hessian, &identity);
    Mat::<f64>::identity(p * p, p * p) - linear * faer::Scale(rate)
        + square * faer::Scale(rate * rate)
}

fn spectral_radius(map: &Mat<f64>) -> f64 {
    let values = map.self_adjoint_eigen(Side::Lower).unwrap();
    values
        .S()
        .column_vector()
        .iter()
        .fold(0.0, |most: f64, x| most.max(x.abs()))
}

#[test]
fn at_the_threshold_the_spectral_radius_is_one() {
    for seed in 0..5 {
        let rows = features(9, 4, seed);
        let curvature = curvature(&rows);
        for sampling in [Sampling::WithReplacement, Sampling::WithoutReplacement] {
            for batch in [1, 2, 5, 9] {
                let rate = curvature.sgd_threshold(batch, sampling).unwrap();
                let radius = |factor: f64| {
                    spectral_radius(&second_moment_map(&rows, factor * rate, batch, sampling))
                };
                assert!(
                    (radius(1.0) - 1.0).abs() < 1e-8,
                    "{batch} {sampling:?}: {}",
                    radius(1.0)
                );
                assert!(radius(0.999) < 1.0 && radius(1.001) > 1.0);
                assert!(
                    curvature
                        .is_linearly_stable(0.999 * rate, batch, sampling)
                        .unwrap()
                );
                assert!(
                    !curvature
                        .is_linearly_stable(1.001 * rate, batch, sampling)
                        .unwrap()
                );
            }
        }
        let whole = curvature
            .sgd_threshold(9, Sampling::WithoutReplacement)
            .unwrap();
        assert!((whole / curvature.gd_threshold() - 1.0).abs() < 1e-9);
    }
}

/// By how much `E‖e‖²` grows in a step after many, from particles: those that have grown are drawn more often, so that
/// the mean is not left to the few that no simulation meets.
fn simulated_growth(
    rows: &[Vec<f64>],
    rate: f64,
    batch: usize,
    sampling: Sampling,
    draw: &mut ChaCha8Rng,
) -> f64 {
    const PARTICLES: usize = 8000;
    const STEPS: usize = 60;
    let (n, p) = (rows.len(), rows[0].len());
    let mut particles: Vec<Vec<f64>> = (0..PARTICLES)
        .map(|_| (0..p).map(|_| normal(draw)).collect())
        .collect();
    let mut growths = Vec::new();
    for step in 0..STEPS {
        let mut weights = Vec::with_capacity(PARTICLES);
        for e in &mut particles {
            let length = norm(e);
            e.iter_mut().for_each(|x| *x /= length);
            let chosen: Vec<usize> = match sampling {
                Sampling::WithReplacement => (0..batch).map(|_| draw.random_range(0..n)).collect(),
                Sampling::WithoutReplacement => sample(draw, n, batch).into_vec(),
            };
            let before = e.clone();
            for i in chosen {
                let along = dot(&rows[i], &before);
                let factor = -rate / batch as f64 * along;
                e.iter_mut()
                    .zip(&rows[i])
                    .for_each(|(x, phi)| *x += factor * phi);
            }
            weights.push(dot(e, e));
        }
        let total: f64 = weights.iter().sum();
        if step >= STEPS / 3 {
            growths.push((total / PARTICLES as f64).ln());
        }
        // Systematic resampling.
        let spacing = total / PARTICLES as f64;
        let mut at = draw.random::<f64>() * spacing;
        let (mut sum, mut index) = (weights[0], 0);
        let next = (0..PARTICLES).map(|_| {
            while sum < at && index + 1 < PARTICLES {
                index += 1;
                sum += weights[index];
            }
            at += spacing;
            particles[index].clone()
        });
        particles = next.collect();
    }
    (growths.iter().sum::<f64>() / growths.len() as f64).exp()
}

#[test]
fn simulated_sgd_leaves_above_the_threshold_in_twenty_random_problems() {
    let mut draw = ChaCha8Rng::seed_from_u64(11);
    for problem in 0..20 {
        let (n, p) = (8 + problem % 7, 3 + problem % 3);
        let rows = features(n, p, 100 + problem as u64);
        let batch = [1, 2, 4][problem % 3];
        let sampling = match problem % 2 {
            0 => Sampling::WithReplacement,
            _ => Sampling::WithoutReplacement,
        };
        let rate = sgd_stability_threshold(&tensor(&rows), batch, sampling).unwrap();
        let below = simulated_growth(&rows, 0.95 * rate, batch, sampling, &mut draw);
        let above = simulated_growth(&rows, 1.05 * rate, batch, sampling, &mut draw);
        assert!(
            below < 1.0 && above > 1.0,
            "problem {problem}: {below} and {above}"
        );
    }
}

#[test]
fn the_trace_bounds_the_rate_of_single_examples_and_is_met_on_the_sphere() {
    let one = |rows: &[Vec<f64>]| {
        let curvature = curvature(rows);
        let rate = curvature
            .sgd_threshold(1, Sampling::WithReplacement)
            .unwrap();
        rate * curvature.sharpness(0.0).trace
    };
    for seed in 0..20 {
        let mut rows = features(50, 6, seed);
        let product = one(&rows);
        assert!(product <= 2.0 + 1e-6, "{product}");
        // Few long gradients: far from sufficient.
        let mut long = rows.clone();
        long[0].iter_mut().for_each(|x| *x *= 20.0);
        assert!(one(&long) < 0.25, "{}", one(&long));
        for row in &mut rows {
            let length = norm(row);
            row.iter_mut().for_each(|x| *x /= length);
        }
        assert!((one(&rows) - 2.0).abs() < 1e-3, "{}", one(&rows));
    }
}

#[test]
fn more_parameters_than_examples_have_the_same_sharpness_as_their_gram_matrix() {
    let rows = features(7, 30, 3);
    let found = curvature(&rows);
    assert_eq!(found.eigenvalues().len(), 7);
    let sharpness = found.sharpness(1e-3);
    let products = |i: usize, j: usize| dot(&rows[i], &rows[j]);
    let trace = (0..7).map(|i| products(i, i)).sum::<f64>() / 7.0;
    let squares: f64 = (0..49).map(|k| products(k / 7, k % 7).powi(2)).sum();
    assert!((sharpness.trace / trace - 1.0).abs() < 1e-10);
    assert!((sharpness.frobenius / (squares.sqrt() / 7.0) - 1.0).abs() < 1e-10);
    assert!(!sharpness.at_minimum && found.sharpness(1e-9).at_minimum);
    // The coordinates of the Gram matrix are as good as the parameters.
    let padded: Vec<Vec<f64>> = features(9, 4, 1)
        .into_iter()
        .map(|r| [r, vec![0.0; 20]].concat())
        .collect();
    let [narrow, wide] = [curvature(&features(9, 4, 1)), curvature(&padded)];
    for batch in [1, 4] {
        let rates = [&narrow, &wide].map(|c| {
            c.sgd_threshold(batch, Sampling::WithoutReplacement)
                .unwrap()
        });
        assert!((rates[0] / rates[1] - 1.0).abs() < 1e-7, "{rates:?}");
    }
}

#[test]
fn fewer_directions_never_lower_the_threshold_and_the_bound_never_exceeds_it() {
    for seed in 0..10 {
        let rows = features(12, 5, seed);
        let whole = curvature(&rows);
        let some: Vec<Vec<f64>> = rows.iter().map(|r| r[..3].to_vec()).collect();
        let longest = rows.iter().map(|r| dot(r, r)).fold(0.0, f64::max);
        for sampling in [Sampling::WithReplacement, Sampling::WithoutReplacement] {
            for batch in [1, 3, 12] {
                let exact = whole.sgd_threshold(batch, sampling).unwrap();
                let above = curvature(&some).sgd_threshold(batch, sampling).unwrap();
                let lambda = whole.eigenvalues()[0];
                let below = sufficient_rate(longest, lambda, batch, 12, sampling).unwrap();
                assert!(below <= exact * (1.0 + 1e-9) && exact <= above * (1.0 + 1e-9));
            }
        }
    }
}

#[test]
fn softmax_rows_have_the_gauss_newton_matrix_of_the_cross_entropy() {
    // Two examples of three classes, and the scores themselves as parameters: J is the identity.
    let device = Device::flex();
    let scores = Tensor::<2>::from_floats([[0.3, -1.0, 2.0], [0.0, 0.5, 0.1]], &device);
    let changes: Vec<Tensor<2>> = (0..6)
        .map(|k| {
            let mut values = vec![0.0_f32; 6];
            values[k] = 1.0;
            Tensor::from_data(TensorData::new(values, [2, 3]), &device)
        })
        .collect();
    let found = ExampleCurvature::of_softmax(&scores, &changes).unwrap();
    let values: Vec<f64> = scores.clone().try_into_vec_as::<f64>().unwrap();
    // tr (diag p − p pᵀ) = 1 − ‖p‖², and half of each, as it is the mean.
    let trace: f64 = values
        .chunks(3)
        .map(|z| 1.0 - dot(&softmax(z), &softmax(z)))
        .sum::<f64>()
        / 2.0;
    assert!((found.sharpness(0.0).trace - trace).abs() < 1e-6);
    assert_eq!(found.eigenvalues().len(), 4); // of rank 2 each
    let wrong = ExampleCurvature::of_softmax(&scores, &[Tensor::zeros([3, 2], &device)]);
    assert!(matches!(
        wrong,
        Err(StabilityError::Shape {
            expected: [2, 3],
            found: [3, 2]
        })
    ));
}

#[test]
fn wrong_input_is_refused() {
    let rows = features(4, 3, 0);
    let curvature = curvature(&rows);
    let told = |error: StabilityError| error.to_string();
    for sampling in [Sampling::WithReplacement, Sampling::WithoutReplacement] {
        let error = told(curvature.sgd_threshold(0, sampling).unwrap_err());
        assert!(error.starts_with("the batch size is 0"), "{error}");
    }
    let error = told(
        curvature
            .sgd_threshold(5, Sampling::WithoutReplacement)
            .unwrap_err(),
    );
    assert_eq!(error, "the batch size is 5, but it must be from 1 to 4");
    assert!(
        curvature
            .sgd_threshold(5, Sampling::WithReplacement)
            .is_ok()
    );
    assert!(
        curvature
            .is_linearly_stable(f64::NAN, 1, Sampling::default())
            .is_err()
    );
    let device = Device::flex();
    let of = |rows: Tensor<2>| ExampleCurvature::of_gradients(&rows).unwrap_err();
    assert!(matches!(
        of(Tensor::zeros([3, 2], &device)),
        StabilityError::Flat
    ));
    assert!(matches!(
        of(Tensor::zeros([0, 2], &device)),
        StabilityError::Empty { .. }
    ));
    let nan = Tensor::<2>::from_floats([[1.0, 2.0], [f32::NAN, 0.0]], &device);
    assert!(matches!(of(nan), StabilityError::NotFinite { example: 1 }));
    let odd = ExampleCurvature::of_rows(&Tensor::ones([3, 2], &device), 2);
    assert!(matches!(
        odd,
        Err(StabilityError::Rows {
            rows: 3,
            per_example: 2
        })
    ));
    let one = ExampleCurvature::of_gradients(&Tensor::ones([1, 2], &device)).unwrap();
    let rate = one.sgd_threshold(1, Sampling::WithoutReplacement).unwrap();
    assert!((rate - 1.0).abs() < 1e-9);
}
