use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::vector::norm;
use nabla_grad::flat::with_float_type;
use nabla_train::trainer::{Trainer, TrainerConfig};

use super::energy_networks::*;
use super::*;

fn normal(count: usize, seed: u64) -> Vec<f64> {
    Probe::Gaussian.draw(count, &mut SeededNoise::new(seed, 7))
}

fn largest_difference(one: &[f64], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    let each = one.iter().zip(other).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f64::max)
}

/// The mixture of the notes' exactness table.
fn mixture() -> GaussianMixtureScore {
    let part = |weight, mean: [f64; 2], deviation| {
        MixtureComponent::isotropic(weight, mean.to_vec(), deviation)
    };
    GaussianMixtureScore::new(vec![
        part(0.5, [2.0, 0.0], 0.15),
        part(0.3, [-1.0, 1.5], 0.3),
        part(0.2, [-1.0, -1.0], 0.2),
    ])
    .unwrap()
}

const TURN: [f64; 4] = [0.0, -1.0, 1.0, 0.0];

/// A field whose products are taken by the trait's differences.
struct Differences<F>(F);

impl<F: VectorField> VectorField for Differences<F> {
    fn dimension(&self) -> usize {
        self.0.dimension()
    }

    fn eval(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        self.0.eval(x, sigma)
    }
}

#[test]
fn exact_scores_are_gradients_and_their_products_are_those_of_differences() {
    let full = GaussianMixtureScore::new(vec![
        MixtureComponent {
            weight: 2.0,
            mean: vec![0.3, -0.2, 0.0],
            covariance: vec![1.0, 0.3, 0.0, 0.3, 0.5, 0.1, 0.0, 0.1, 0.2],
        },
        MixtureComponent::isotropic(1.0, vec![1.0, 1.0, -1.0], 0.4),
    ])
    .unwrap();
    let x = normal(12, 1);
    for sigma in [0.3, 2.0] {
        let score = full.eval(&x, sigma).unwrap();
        let h = 1e-5;
        for i in 0..x.len() {
            let [above, below] = [h, -h].map(|step| {
                let mut moved = x.clone();
                moved[i] += step;
                full.log_density(&moved, sigma).unwrap()[i / 3]
            });
            assert!((score[i] - (above - below) / (2.0 * h)).abs() < 1e-7);
        }
        let directions = normal(24, 2);
        let exact = full.products(&x, &directions, sigma).unwrap();
        let found = Differences(full.clone())
            .products(&x, &directions, sigma)
            .unwrap();
        assert!(largest_difference(&exact, &found) < 1e-5);
        for (intrinsic, ambient) in [(1, 2), (2, 3), (1, 3), (2, 6), (5, 6)] {
            let sphere = SphereScore::new(intrinsic, ambient, 1.3).unwrap();
            let exact = sphere.products(&x, &directions, sigma).unwrap_or_default();
            if x.len().is_multiple_of(ambient) {
                let other = Differences(sphere)
                    .products(&x, &directions, sigma)
                    .unwrap();
                assert!(
                    largest_difference(&exact, &other) < 1e-4,
                    "{intrinsic} {ambient}"
                );
            }
            // At the centre nothing pulls.
            let centre = vec![0.0; ambient];
            assert_eq!(sphere.eval(&centre, sigma).unwrap(), centre);
            let one = jacobians(&sphere, &centre, sigma).unwrap();
            let other = jacobians(&Differences(sphere), &centre, sigma).unwrap();
            assert!(largest_difference(&one, &other) < 1e-5);
        }
    }
}

/// The density of the sphere in three dimensions with noise is `∝ exp(−(ρ² + R²)/2σ²) sinh(k)/k`.
#[test]
fn the_score_of_the_sphere_is_that_of_its_density() {
    let sphere = SphereScore::new(2, 3, 1.0).unwrap();
    for (rho, sigma) in [(0.9_f64, 0.5), (1.2, 0.3), (4.0, 2.0)] {
        let log_density = |rho: f64| {
            let k = rho / (sigma * sigma);
            -0.5 * rho * rho / (sigma * sigma) + k.sinh().ln() - k.ln()
        };
        let h = 1e-5;
        let expected = (log_density(rho + h) - log_density(rho - h)) / (2.0 * h);
        let found = sphere.eval(&[0.0, rho, 0.0], sigma).unwrap();
        assert!((found[1] - expected).abs() < 1e-8 * expected.abs().max(1.0));
    }
    let wide = SphereScore::new(2, 5, 1.0).unwrap();
    let found = score_singular_values(&wide, &[1.0, 0.0, 0.0, 0.0, 0.0], 0.05).unwrap();
    for (found, expected) in found[0].iter().zip([1.0, 1.0, 0.9975, 0.0025, 0.0025]) {
        assert!((found - expected).abs() < 1e-4, "{found}");
    }
}

/// Densities are exact with every gauge part, and with no other.
#[test]
fn densities_are_exact_if_and_only_if_the_conservative_part_is_the_score() {
    let score = mixture();
    let grid = FlowGrid {
        sigma_max: 8.0,
        sigma_min: 0.1,
        steps: 300,
    };
    let x = [
        2.0, 0.1, -0.8, 1.2, -1.0, -1.0, 0.6, 0.4, 2.1, -0.4, -1.5, 1.0, -0.6, -1.2,
    ];
    let truth = score.log_density(&x, grid.sigma_min).unwrap();
    let prior = |x: &[f64]| score.log_density(x, grid.sigma_max).unwrap()[0];
    let off = |field: &dyn VectorField| {
        let found = log_density(field, &x, &grid, Divergence::Exact, &prior).unwrap();
        largest_difference(&found, &truth)
    };
    for factor in [0.0, 0.5, 2.0] {
        let field = Gauged::new(score.clone(), &TURN.map(|t| factor * t)).unwrap();
        assert!(off(&field) < 1e-4, "{factor}: {}", off(&field));
        let residual = gauge_residual(&field, &score, &x, 0.5, Divergence::Exact).unwrap();
        assert!(residual < 1e-10);
    }
    let whirled = HostField::new(2, |x: &[f64], sigma: f64| {
        let mut s = mixture().eval(x, sigma).unwrap();
        let factor = 0.5 / (1.0 + sigma * sigma);
        s[0] -= factor * x[1];
        s[1] += factor * x[0];
        s
    });
    let scaled = HostField::new(2, |x: &[f64], sigma: f64| {
        let s = mixture().eval(x, sigma).unwrap();
        s.iter().map(|s| 1.2 * s).collect()
    });
    let (whirled_off, scaled_off) = (off(&whirled), off(&scaled));
    assert!(
        whirled_off > 0.1 && scaled_off > 0.1,
        "{whirled_off} {scaled_off}"
    );
    assert!(gauge_residual(&whirled, &score, &x, 0.5, Divergence::Exact).unwrap() > 0.1);
    // Random signs give the trace without bias; here of many probes.
    let field = Gauged::new(score.clone(), &TURN).unwrap();
    let probes = Divergence::Hutchinson {
        probes: 3000,
        seed: 1,
    };
    let [exact, estimated] =
        [Divergence::Exact, probes].map(|divergence| divergence.of(&field, &x, 0.5).unwrap());
    assert!(largest_difference(&exact, &estimated) < 0.2);
}

/// `|det Y| = p_max(x_max)/p_min(x_min)`, with a gauge part and without.
#[test]
fn the_determinant_of_the_flow_is_the_ratio_of_the_densities() {
    let score = mixture();
    let config = FlowJacobian {
        grid: FlowGrid {
            sigma_max: 10.0,
            sigma_min: 0.05,
            steps: 400,
        },
        ..FlowJacobian::default()
    };
    let starts = [3.0, -8.0, -11.0, 4.0];
    for factor in [0.0, 3.0] {
        let field = Gauged::new(score.clone(), &TURN.map(|t| factor * t)).unwrap();
        let found = flow_singular_values(&field, &starts, &config).unwrap();
        let high = score.log_density(&starts, 10.0).unwrap();
        let low = score.log_density(&found.ends, 0.05).unwrap();
        for (i, values) in found.values.last().unwrap().iter().enumerate() {
            let log_det: f64 = values.iter().map(|v| v.ln()).sum();
            assert!(
                (log_det - (high[i] - low[i])).abs() < 1e-4,
                "{factor} {log_det}"
            );
        }
    }
}

/// With the splitting by `Q R`, singular values are right over nine decades.
#[test]
fn singular_values_of_a_line_are_exact_far_below_its_noise() {
    // A line across the plane, with a part of the field that turns.
    let line = MixtureComponent {
        weight: 1.0,
        mean: vec![0.0; 2],
        covariance: vec![0.5; 4],
    };
    let score = GaussianMixtureScore::new(vec![line]).unwrap();
    let config = FlowJacobian {
        grid: FlowGrid {
            sigma_max: 10.0,
            sigma_min: 1e-9,
            steps: 4000,
        },
        condition: 1e3,
        ..FlowJacobian::default()
    };
    let found = flow_singular_values(&score, &[3.0, -8.0], &config).unwrap();
    let last = &found.values.last().unwrap()[0];
    assert!((last[0] * 101_f64.sqrt() - 1.0).abs() < 1e-7);
    assert!((last[1] / 1e-10 - 1.0).abs() < 1e-6, "{last:?}");
    assert_eq!(found.sigmas.len(), 400);
}

#[test]
fn a_gauge_part_shears_the_flow_but_the_slope_still_counts() {
    let starts: Vec<f64> = normal(6 * 3, 3).iter().map(|z| 10.0 * z).collect();
    let config = FlowJacobian {
        grid: FlowGrid {
            steps: 400,
            ..FlowGrid::default()
        },
        ..FlowJacobian::default()
    };
    let sphere = SphereScore::new(2, 3, 1.0).unwrap();
    // Of spectral norm 5.
    let axis = [0.6, 0.0, 0.8].map(|a| 5.0 * a);
    let matrix = [
        0.0, -axis[2], axis[1], axis[2], 0.0, -axis[0], -axis[1], axis[0], 0.0,
    ];
    let spread = |spectrum: &FlowSpectrum| -> f64 {
        let last = spectrum.values.last().unwrap();
        let each = last.iter().map(|values| values[0] / values[1]);
        each.sum::<f64>() / last.len() as f64
    };
    let read =
        |spectrum: &FlowSpectrum, criterion| intrinsic_dimension(spectrum, criterion).unwrap();
    let plain = flow_singular_values(&sphere, &starts, &config).unwrap();
    assert!((spread(&plain) - 1.0).abs() < 1e-6);
    let gauged = Gauged::new(sphere, &matrix).unwrap();
    let gauged = flow_singular_values(&gauged, &starts, &config).unwrap();
    assert!(spread(&gauged) > 2.0, "{}", spread(&gauged));
    for spectrum in [&plain, &gauged] {
        assert_eq!(read(spectrum, Criterion::slope()), [2; 6]);
        assert_eq!(read(spectrum, Criterion::Gap), [2; 6]);
    }
    assert_eq!(read(&plain, Criterion::Share(0.5)), [2; 6]);
    let misread = read(&gauged, Criterion::Share(0.5));
    assert!(
        misread.iter().filter(|&&d| d == 1).count() >= 4,
        "{misread:?}"
    );
    // A random plane through all three directions has both directions along the sphere in it.
    let part = FlowJacobian {
        directions: Directions::Random { count: 2, seed: 1 },
        ..config
    };
    let part = flow_singular_values(&sphere, &starts, &part).unwrap();
    assert_eq!(read(&part, Criterion::slope()), [2; 6]);
}

/// On samples, monomials of degree 2 find the symmetric matrix of Lyapunov's equation with the samples' covariance.
#[test]
fn the_decomposition_of_samples_is_that_of_the_linear_field() {
    let m = [-0.5, 1.0, 0.2, 0.0, -1.0, 0.3, 0.7, -0.4, 0.1];
    let half = normal(300, 4);
    let mixed: Vec<f64> = half
        .chunks(3)
        .flat_map(|z| [z[0], 0.5 * z[1] + 0.3 * z[0], 2.0 * z[2]])
        .collect();
    // Symmetric about 0.
    let samples: Vec<f64> = mixed
        .iter()
        .copied()
        .chain(mixed.iter().map(|x| -x))
        .collect();
    let mut covariance = [0.0; 9];
    for x in samples.chunks(3) {
        for (i, entry) in covariance.iter_mut().enumerate() {
            *entry += x[i / 3] * x[i % 3] / 200.0;
        }
    }
    let apply = |matrix: &[f64], x: &[f64]| -> Vec<f64> {
        let rows = matrix.chunks(3);
        rows.map(|row| dot(row, x)).collect()
    };
    let field = HostField::new(3, |x: &[f64], _| apply(&m, x));
    let (k, n) = linear_decomposition(&m, &covariance).unwrap();
    for i in 0..3 {
        for j in 0..3 {
            assert!((k[3 * i + j] - k[3 * j + i]).abs() < 1e-14);
            // N Σ is antisymmetric.
            let entry = |a: usize, b: usize| -> f64 {
                (0..3).map(|c| n[3 * a + c] * covariance[3 * c + b]).sum()
            };
            assert!((entry(i, j) + entry(j, i)).abs() < 1e-13);
        }
    }
    let basis = Monomials::new(3, 2).unwrap();
    let found = helmholtz(&field, &samples, 1.0, &basis, 0.0).unwrap();
    let x = [0.3, -0.7, 1.1];
    let gradient = found.gradient(&x).unwrap();
    assert!(largest_difference(&gradient, &apply(&k, &x)) < 1e-10);
    assert!(found.overlap.abs() < 1e-12);
    let parts = squared_norm(&found.gauge) / squared_norm(&found.conservative);
    assert!((found.energy_fraction - 1.0 / (1.0 + parts)).abs() < 1e-12);
    // The gradient is that of the potential, for bumps too.
    let basis = (
        basis,
        RadialBasis::new(3, samples[..30].to_vec(), 0.8).unwrap(),
    );
    assert_eq!(basis.functions(), 19);
    let curved = HostField::new(3, |x: &[f64], _| vec![x[1].sin(), x[0] * x[2], -x[2]]);
    let found = helmholtz(&curved, &samples, 1.0, &basis, 1e-8).unwrap();
    let gradient = found.gradient(&x).unwrap();
    for i in 0..3 {
        let [above, below] = [1e-5, -1e-5].map(|h| {
            let mut moved = x;
            moved[i] += h;
            found.potential(&moved).unwrap()[0]
        });
        assert!((gradient[i] - (above - below) / 2e-5).abs() < 1e-8);
    }
}

/// A gauge field of a mixture is orthogonal to all gradients: of a field with one, the decomposition finds the score.
#[test]
fn a_gauge_part_is_not_mistaken_for_a_gradient() {
    let score = mixture();
    let sigma = 1.0;
    let mut draw = normal(2 * 4000, 5).into_iter();
    let means = [[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.0]];
    let mut samples = Vec::new();
    for i in 0..4000 {
        let part = if i % 10 < 5 {
            0
        } else if i % 10 < 8 {
            1
        } else {
            2
        };
        let deviation = [0.15_f64, 0.3, 0.2][part].hypot(sigma);
        for mean in means[part] {
            samples.push(mean + deviation * draw.next().unwrap());
        }
    }
    let field = Gauged::new(score.clone(), &TURN.map(|t| 2.0 * t)).unwrap();
    let basis = Monomials::new(2, 7).unwrap();
    let found = helmholtz(&field, &samples, sigma, &basis, 0.0).unwrap();
    let truth = score.eval(&samples, sigma).unwrap();
    // ‖r‖² = 4 ‖∇ln p‖²
    assert!(
        (found.energy_fraction - 0.2).abs() < 0.02,
        "{}",
        found.energy_fraction
    );
    let off: Vec<f64> = found
        .conservative
        .iter()
        .zip(&truth)
        .map(|(a, b)| a - b)
        .collect();
    assert!(squared_norm(&off) < 0.1 * squared_norm(&truth));
}

fn points(values: &[f64], width: usize, device: &Device) -> Tensor<2> {
    let data = TensorData::new(values.to_vec(), [values.len() / width, width]);
    Tensor::from_data(data, (device, DType::F64))
}

fn drawn<H: ScoreHead>(head: H) -> H {
    with_float_type(
        nabla_train::initialization::he_normal(head, 3).unwrap(),
        DType::F64,
    )
}

/// The written out gradients are those that a backward pass finds of the energies.
#[test]
fn energy_networks_give_the_gradients_of_their_energies() {
    let device = Device::flex().autodiff();
    let u = points(&normal(8 * 3, 6), 3, &device);
    let tau = points(&normal(8 * LEVEL_FEATURES, 7), LEVEL_FEATURES, &device);
    let tied = drawn(TiedEnergy::new(3, 11, 4, &device).unwrap());
    let deep = drawn(DeepEnergy::new(3, 9, &device).unwrap());
    let quadratic = drawn(QuadraticEnergy::new(3, 9, &device).unwrap());
    type Energy<'a> = Box<dyn Fn(Tensor<2>) -> [Tensor<2>; 2] + 'a>;
    let each: [Energy<'_>; 3] = [
        Box::new(|u| {
            [
                tied.energy(u.clone(), tau.clone()),
                tied.forward(u, tau.clone()),
            ]
        }),
        Box::new(|u| {
            [
                deep.energy(u.clone(), tau.clone()),
                deep.forward(u, tau.clone()),
            ]
        }),
        Box::new(|u| {
            let energy = quadratic.energy(u.clone(), tau.clone());
            [energy, quadratic.forward(u, tau.clone())]
        }),
    ];
    for energy in each {
        let leaf = u.clone().inner().autodiff().require_grad();
        let [energy, field] = energy(leaf.clone());
        let gradient = leaf.grad(&energy.sum().backward()).unwrap();
        let [one, other] = [gradient, field.inner()].map(|t| t.try_into_vec_as::<f64>().unwrap());
        assert!(largest_difference(&one, &other) < 1e-12);
        assert!(norm(&one) > 0.1);
    }
}

fn unconstrained(device: &Device) -> ScoreNetwork<Unconstrained> {
    ScoreNetwork::new(Unconstrained::new(3, 8, device).unwrap(), 0.7, 1).unwrap()
}

#[test]
fn networks_are_fields_with_the_same_products_in_every_way() {
    let device = Device::flex().autodiff();
    let free = unconstrained(&device);
    let field = score_field(&free, 3, DType::F64).unwrap();
    let x = normal(15, 8);
    let directions = normal(30, 9);
    let sigma = 0.4;
    let exact = field.products(&x, &directions, sigma).unwrap();
    let rough = Differences(field.clone());
    assert!(largest_difference(&exact, &rough.products(&x, &directions, sigma).unwrap()) < 1e-5);
    let transposed = field.transposed_products(&x, &directions, sigma).unwrap();
    let other = rough.transposed_products(&x, &directions, sigma).unwrap();
    assert!(largest_difference(&transposed, &other) < 1e-5);
    // On a device without gradients, and in single precision.
    let plain = free.valid();
    let single = score_field(&plain, 3, DType::F32).unwrap();
    assert!(largest_difference(&exact, &single.products(&x, &directions, sigma).unwrap()) < 0.05);
    let with = single.clone().with_derivatives(Derivatives::Backward);
    assert!(matches!(
        with.products(&x, &directions, sigma),
        Err(GaugeError::NoGradients)
    ));
    let whole = asymmetry(&field, &x, sigma, Probes::All).unwrap();
    let random = Probes::Random {
        count: 400,
        seed: 2,
    };
    let estimated = asymmetry(&field, &x, sigma, random).unwrap();
    assert!(whole > 0.01 && (estimated / whole - 1.0).abs() < 0.1);
    let deep = ScoreNetwork::new(DeepEnergy::new(3, 8, &device).unwrap(), 0.7, 1).unwrap();
    let deep = score_field(&deep, 3, DType::F64).unwrap();
    assert!(asymmetry(&deep, &x, sigma, Probes::All).unwrap() < 1e-14);
}

/// Over many directions, the penalty is `‖σ² (J − Jᵀ)‖²_F / D²`.
#[test]
fn the_penalty_is_the_square_of_the_antisymmetric_part() {
    let device = Device::flex().autodiff();
    let free = unconstrained(&device);
    let (x, sigma) = ([0.4, -0.1, 0.8], 0.5);
    let jacobian = jacobians(&score_field(&free, 3, DType::F64).unwrap(), &x, sigma).unwrap();
    let entry = |i: usize| sigma * sigma * (jacobian[i] - jacobian[(i % 3) * 3 + i / 3]);
    let expected: f64 = (0..9).map(|i| entry(i).powi(2)).sum::<f64>() / 9.0;
    let model = with_float_type(free, DType::F64);
    const ROWS: usize = 20_000;
    let units = |seed| {
        let drawn = points(&normal(3 * ROWS, seed), 3, &device);
        drawn.clone() / drawn.square().sum_dim(1).sqrt()
    };
    let at = points(&x.repeat(ROWS), 3, &device);
    let levels = points(&vec![sigma; ROWS], 1, &device);
    let penalty = AntisymmetryPenalty {
        step: 1e-4,
        ..AntisymmetryPenalty::default()
    };
    let found = penalty.of(&model, &at, &levels, [units(10), units(11)]);
    let found: f64 = found.inner().into_scalar();
    assert!((found / expected - 1.0).abs() < 0.05, "{found} {expected}");
}

fn ring(count: usize) -> Vec<f32> {
    let angles = (0..count).map(|k| k as f64 * std::f64::consts::TAU / count as f64);
    angles
        .flat_map(|a| [a.cos() as f32, a.sin() as f32])
        .collect()
}

/// A short training comes near the least loss, that of the exact score.
#[test]
fn denoising_score_matching_approaches_the_exact_score() {
    let device = Device::flex().autodiff();
    let config = ScoreMatchingConfig {
        sigma_min: 0.1,
        penalty: Some(AntisymmetryPenalty::default()),
        ..ScoreMatchingConfig::default()
    };
    let trained = |steps: usize| {
        let task = ScoreMatching::new(2, ring(500), config).unwrap();
        let head = Unconstrained::new(2, 24, &device).unwrap();
        let model = ScoreNetwork::new(head, 0.7, 1).unwrap();
        let mut training = TrainerConfig {
            steps,
            ..TrainerConfig::default()
        };
        training.optimizer.learning_rate = Some(5e-3);
        let mut trainer = Trainer::new(training, task, model).unwrap();
        trainer
            .run(None, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        trainer
    };
    let mut fresh = ScoreMatching::<ScoreNetwork<Unconstrained>>::new(
        2,
        ring(500),
        ScoreMatchingConfig {
            seed: 99,
            batch: 4000,
            ..config
        },
    )
    .unwrap();
    let points = fresh.draw(&device);
    let loss = |steps| -> f32 { matching_loss(trained(steps).model(), &points).into_scalar() };
    let exact = SphereScore::new(1, 2, 1.0).unwrap();
    let host = |t: &Tensor<2>| t.clone().inner().try_into_vec_as::<f64>().unwrap();
    let [clean, noise, sigma] = [&points.clean, &points.noise, &points.sigma].map(host);
    let mut least = 0.0;
    for (i, &sigma) in sigma.iter().enumerate() {
        let each = [2 * i, 2 * i + 1];
        let x = each.map(|k| clean[k] + sigma * noise[k]);
        let score = exact.eval(&x, sigma).unwrap();
        let left = each
            .iter()
            .zip(score)
            .map(|(&k, s)| (sigma * s + noise[k]).powi(2));
        least += left.sum::<f64>() / 4000.0;
    }
    let (before, after) = (f64::from(loss(1)), f64::from(loss(1500)));
    assert!(least < after && after < least + 0.06, "{least} {after}");
    assert!(before > least + 0.15, "{before}");
}

#[derive(serde::Deserialize)]
struct Reference {
    points: Vec<Vec<f64>>,
    two_nn: f64,
    local_pca: f64,
}

/// scikit-dimension 0.5.0; see `tests/reference/dimension.py`.
#[test]
fn dimensions_are_those_of_scikit_dimension() {
    let text = include_str!("../../tests/reference/dimension.json");
    let all: std::collections::BTreeMap<String, Reference> = serde_json::from_str(text).unwrap();
    assert_eq!(all.len(), 4);
    for (name, reference) in &all {
        let d = reference.points[0].len();
        let points = reference.points.concat();
        let found = two_nn(d, &points).unwrap();
        assert!(
            (found / reference.two_nn - 1.0).abs() < 1e-9,
            "{name}: {found}"
        );
        let sphere = match name.as_str() {
            "circle in 2" => SphereScore::new(1, 2, 1.0),
            "sphere in 3" | "sphere in 5" => SphereScore::new(2, d, 1.0),
            _ => continue,
        };
        let found = score_dimension(&sphere.unwrap(), &points, 0.05).unwrap();
        assert!(
            found
                .iter()
                .all(|&found| found as f64 == reference.local_pca),
            "{name}"
        );
    }
    // Points a step apart.
    let row: Vec<f64> = (0..9).map(f64::from).collect();
    assert_eq!(median_neighbour_distance(1, &row).unwrap(), 1.0);
}

#[test]
fn what_cannot_be_told_is_refused_in_words() {
    let told = |error: GaugeError| error.to_string();
    let score = mixture();
    assert!(told(score.eval(&[1.0; 3], 1.0).unwrap_err()).contains("3 values are no points of 2"));
    let error = score.products(&[1.0; 2], &[1.0; 3], 1.0).unwrap_err();
    assert!(told(error).contains("3 values are not equally many directions"));
    let longer = HostField::new(2, |_: &[f64], _| vec![0.0; 3]);
    assert!(told(jacobians(&longer, &[0.0; 2], 1.0).unwrap_err()).contains("not square"));
    let grid = FlowGrid {
        sigma_min: 10.0,
        ..FlowGrid::default()
    };
    let error = flow_samples(&score, &[0.0; 2], &grid).unwrap_err();
    assert!(told(error).contains("lowest noise level is 10"));
    let basis = Monomials::new(2, 3).unwrap();
    let error = helmholtz(&score, &[0.0, 1.0], 1.0, &basis, 0.0).unwrap_err();
    assert!(told(error).contains("depend on one another on 1 samples"));
    let endless = HostField::new(1, |x: &[f64], _| vec![-1e300 * x[0].powi(3)]);
    let error = flow_samples(&endless, &[1e9], &FlowGrid::default()).unwrap_err();
    assert!(told(error).contains("not finite at noise level"));
    assert!(
        told(Gauged::new(mixture(), &[0.0, 1.0, 1.0, 0.0]).err().unwrap()).contains("negative")
    );
    assert!(told(linear_decomposition(&[1.0; 4], &[1.0; 9]).unwrap_err()).contains("4 entries"));
    assert!(told(linear_decomposition(&[1.0; 4], &[1.0; 4]).unwrap_err()).contains("eigenvalue"));
    assert!(Monomials::new(60, 5).is_err() && Monomials::new(0, 2).is_err());
    assert!(SphereScore::new(3, 3, 1.0).is_err());
    let negative = MixtureComponent {
        weight: 1.0,
        mean: vec![0.0; 2],
        covariance: vec![1.0, 0.0, 0.0, -1.0],
    };
    assert!(told(GaussianMixtureScore::new(vec![negative]).unwrap_err()).contains("at least 0"));
    let few = FlowJacobian {
        every: 600,
        ..FlowJacobian::default()
    };
    let spectrum = flow_singular_values(&score, &[1.0; 2], &few).unwrap();
    let error = intrinsic_dimension(&spectrum, Criterion::slope()).unwrap_err();
    assert!(told(error).contains("at least two levels"));
    let config = ScoreMatchingConfig {
        batch: 0,
        ..ScoreMatchingConfig::default()
    };
    let task = ScoreMatching::<ScoreNetwork<Unconstrained>>::new(2, ring(3), config);
    assert!(told(task.err().unwrap()).contains("number of points in a batch is 0"));
}
