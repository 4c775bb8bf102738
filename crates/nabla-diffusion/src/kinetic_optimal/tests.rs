use burn::tensor::{DType, Device, Tensor, TensorData};

use super::*;
use crate::cosine_path::CosinePath;
use crate::ddim::Ddim;
use crate::denoiser::{GaussianDenoiser, GaussianMixture, MixturePart, Prediction};
use crate::level::StraightLine;
use crate::sampler::Sampler;
use crate::seeded_noise::SeededNoise;

/// `λ(r) = E tanh²(r (r + g))` of two points at ±1, by the trapezoidal rule over `g`.
fn two_points(r: f64) -> f64 {
    let (steps, end) = (4000, 12.0);
    let sum: f64 = (0..=steps)
        .map(|k| {
            let g = -end + 2.0 * end * f64::from(k) / f64::from(steps);
            (r * (r + g)).tanh().powi(2) * (-0.5 * g * g).exp()
        })
        .sum();
    sum * 2.0 * end / f64::from(steps) / (2.0 * std::f64::consts::PI).sqrt()
}

/// The same as a function of `θ`, without noise.
fn exact_two_points(grid: usize) -> DataSeparation {
    let kappa = (0..=grid).map(|k| match k {
        0 => 0.0,
        _ if k == grid => 1.0,
        _ => {
            let r = (FRAC_PI_2 * k as f64 / grid as f64).tan();
            (1.0 - (1.0 - two_points(r)) * (1.0 + r * r)).clamp(0.0, 1.0)
        }
    });
    DataSeparation::new(kappa.collect()).unwrap()
}

#[test]
fn two_points_have_the_reference_values() {
    for (r, expected) in [
        (0.5, 0.2040542656),
        (1.0, 0.5504004908),
        (2.0, 0.9314025912),
    ] {
        assert!((two_points(r) - expected).abs() < 1e-9, "{r}");
    }
    let separation = exact_two_points(800);
    assert!((separation.angle() - 0.69126439).abs() < 2e-5);
    let path = KineticOptimal::with_floor(separation.clone(), 1e-9).unwrap();
    assert!(
        (path.energy() - 0.45911887).abs() < 3e-5,
        "{}",
        path.energy()
    );
    for (t, theta) in [
        (0.1, 0.7863),
        (0.25, 1.0053),
        (0.5, 1.2238),
        (0.75, 1.4033),
        (0.9, 1.5056),
    ] {
        let found = path.polar(t)[1];
        assert!((found - theta).abs() < 2e-4, "{t}: {found}");
    }
    for (t, signal, noise) in [
        (0.1, 0.693, 0.692),
        (0.5, 0.885, 0.320),
        (0.9, 0.977, 0.064),
    ] {
        let level = path.level_at(1.0 - t);
        assert!((level.signal() - signal).abs() < 6e-4, "{t}");
        assert!((level.noise() - noise).abs() < 6e-4, "{t}");
    }
    for (path, expected) in [
        (&StraightLine::new() as &dyn NoisePath, 0.98239),
        (&CosinePath::new(), 0.86894),
        (&path, 0.45911887),
    ] {
        let found = kinetic_energy(path, &separation);
        assert!((found / expected - 1.0).abs() < 1e-3, "{path:?}: {found}");
    }
}

/// Two points at 0.6 ± 0.8: their mean square is 1, their mean isn't 0, and the energy of a path is what is measured
/// along it.
#[test]
fn the_mean_of_the_data_may_be_another_than_zero() {
    let points = [-0.2, 1.4];
    let config = SeparationConfig::new().with_draws(4000).with_grid(60);
    let separation = DataSeparation::of_points(&points, 1, &config).unwrap();
    assert!((separation.kappa(0.0) - 0.36).abs() < 1e-12);
    let path = KineticOptimal::new(separation.clone()).unwrap();
    for path in [&path as &dyn NoisePath, &StraightLine::new()] {
        let (times, nodes) = (2000, 400);
        let mut sum = 0.0;
        for k in 0..times {
            let time = (f64::from(k) + 0.5) / f64::from(times);
            let (level, [signal, noise]) = (path.level_at(time), path.rates_at(time));
            let (a, m) = (level.signal(), level.noise());
            for (x_0, i) in points.iter().flat_map(|x| (0..nodes).map(move |i| (x, i))) {
                // The trapezoidal rule over ε.
                let epsilon = -6.0 + 12.0 * f64::from(i) / f64::from(nodes);
                let density = (-0.5 * epsilon * epsilon).exp() * 12.0 / f64::from(nodes);
                let x = a * x_0 + m * epsilon;
                let weights = points.map(|p| (-0.5 * ((x - a * p) / m).powi(2)).exp());
                let mean =
                    (weights[0] * points[0] + weights[1] * points[1]) / (weights[0] + weights[1]);
                let velocity = match mean.is_nan() {
                    true => signal * x_0 + noise * epsilon,
                    false => signal * mean + noise * (x - a * mean) / m,
                };
                sum += 0.5 * velocity.powi(2) * density;
            }
        }
        let measured = sum / f64::from(times) / (2.0 * std::f64::consts::PI).sqrt();
        let expected = kinetic_energy(path, &separation);
        assert!(
            (measured / expected - 1.0).abs() < 0.02,
            "{measured} {expected}"
        );
    }
    let wrong = DataSeparation::of_points(&[-1.0, 2.0], 1, &config);
    assert!(wrong.unwrap_err().to_string().contains("mean square 2.5"));
}

#[test]
fn far_points_have_the_straight_line() {
    let apart = DataSeparation::new(vec![1.0; 41]).unwrap();
    let path = KineticOptimal::new(apart.clone()).unwrap();
    assert!((path.energy() - 2.0).abs() < 1e-12);
    for k in 0..=20 {
        let time = f64::from(k) / 20.0;
        let level = path.level_at(time);
        assert!((level.signal() - (1.0 - time)).abs() < 1e-12, "{time}");
        assert!((level.noise() - time).abs() < 1e-12, "{time}");
    }
    let cosine = std::f64::consts::PI.powi(2) / 4.0;
    assert!((kinetic_energy(&CosinePath::new(), &apart) - cosine).abs() < 1e-6);
}

#[test]
fn normal_data_are_not_separated() {
    let two = DataSeparation::of_variances(&[0.5, 1.5], 2).unwrap();
    assert!((two.kappa(std::f64::consts::FRAC_PI_4) - 0.0666666667).abs() < 1e-9);
    let none = DataSeparation::of_variances(&[1.0; 3], 10).unwrap();
    assert!((none.lambda(2.0) - 0.8).abs() < 1e-12);
    assert!(kinetic_energy(&CosinePath::new(), &none) < 1e-12);
    let refused = KineticOptimal::new(none);
    assert!(matches!(refused, Err(KineticOptimalError::NoSeparation)));
    assert!(DataSeparation::of_variances(&[0.5, 0.6], 10).is_err());
}

/// Derivatives, inverses, and the constant speed of the shortest path.
#[test]
fn the_path_is_consistent() {
    let path = KineticOptimal::new(exact_two_points(100)).unwrap();
    let h = 1e-6;
    for time in [0.05, 0.31, 0.5, 0.77, 0.95] {
        let level = path.level_at(time);
        let back = path.level_of_sigma(level.sigma());
        assert!((back.time() - time).abs() < 1e-9, "{time}");
        assert!((back.signal() - level.signal()).abs() < 1e-9);
        let [signal, noise] = path.rates_at(time);
        let (after, before) = (path.level_at(time + h), path.level_at(time - h));
        let difference = (after.signal() - before.signal()) / (2.0 * h);
        assert!(
            (signal - difference).abs() < 1e-4,
            "{time}: {signal} {difference}"
        );
        let difference = (after.noise() - before.noise()) / (2.0 * h);
        assert!(
            (noise - difference).abs() < 1e-4,
            "{time}: {noise} {difference}"
        );
        // ρ̇² + ρ² κ θ̇² is the square of the chord's length everywhere.
        let [radius, theta] = path.polar(1.0 - time);
        let (sine, cosine) = theta.sin_cos();
        let outward = signal * sine + noise * cosine;
        let turning = (signal * cosine - noise * sine) / radius;
        let kappa = path.separation.kappa(theta);
        let speed = outward.powi(2) + radius.powi(2) * kappa * turning.powi(2);
        assert!((speed - path.energy()).abs() < 1e-9, "{time}: {speed}");
        let (_, rate) = path.smooth_at(time);
        let difference = (after.log_snr() - before.log_snr()) / (2.0 * h);
        assert!((rate / difference - 1.0).abs() < 1e-3, "{time}");
    }
    let ends = [path.level_at(0.0), path.level_at(1.0)];
    assert_eq!([ends[0].noise(), ends[1].signal()], [0.0, 0.0]);
}

/// No monotone schedule is better, whatever it is.
#[test]
fn no_other_schedule_has_less_energy() {
    let separation = exact_two_points(200);
    let path = KineticOptimal::with_floor(separation.clone(), 1e-7).unwrap();
    let found = kinetic_energy(&path, &separation);
    assert!((found / path.energy() - 1.0).abs() < 5e-3);

    #[derive(Debug)]
    struct Bent([f64; 4]);
    impl NoisePath for Bent {
        fn level_at(&self, time: f64) -> Level {
            let [power, twist, bulge, _] = self.0;
            let share = (1.0 - time).powf(power);
            let theta = FRAC_PI_2 * (share + twist * share * (1.0 - share));
            let radius = 1.0 + bulge * time * (1.0 - time);
            Level::new(time, radius * theta.sin(), radius * theta.cos())
        }
        fn level_of_sigma(&self, sigma: f64) -> Level {
            Level::straight(sigma)
        }
        fn times(&self) -> [f64; 2] {
            [0.0, 1.0]
        }
    }
    let mut noise = SeededNoise::new(1, 0);
    for values in noise.normal_values(400).chunks(4) {
        let [power, twist, bulge] = [0, 1, 2].map(|i| f64::from(values[i]));
        let bent = Bent([power.abs().max(0.1), twist.tanh(), bulge.tanh(), 0.0]);
        let energy = kinetic_energy(&bent, &separation);
        assert!(energy >= 0.999 * path.energy(), "{bent:?}: {energy}");
    }
}

fn random_points(count: usize, dimension: usize, seed: u64) -> Vec<f64> {
    let values = SeededNoise::new(seed, 9).normal_values(count * dimension);
    let values: Vec<f64> = values.into_iter().map(f64::from).collect();
    normalized(&values, dimension).unwrap().points
}

/// With the same number of points, the straight line is the better the more dimensions there are.
#[test]
fn in_high_dimensions_the_straight_line_is_nearly_optimal() {
    let config = SeparationConfig::new().with_draws(300);
    let mut gaps = Vec::new();
    for dimension in [4, 64, 256] {
        let points = random_points(16, dimension, 3);
        let separation = DataSeparation::of_points(&points, dimension, &config).unwrap();
        let straight = kinetic_energy(&StraightLine::new(), &separation);
        let path = KineticOptimal::new(separation.clone()).unwrap();
        gaps.push(straight / path.energy() - 1.0);
        for r in [0.3, 1.0, 3.0] {
            let bound = 0.663 * 15.0 / (r * r * dimension as f64);
            assert!(
                1.0 - separation.lambda(r) <= bound + 0.01,
                "{dimension} {r}"
            );
        }
    }
    assert!(
        gaps[0] > 2.0 * gaps[1] && gaps[1] > 1.5 * gaps[2],
        "{gaps:?}"
    );
    assert!(gaps[2] < 0.06, "{gaps:?}");
}

/// The formula in `κ` against `E‖ȧ x̂ + ṁ ε̂‖²` itself, from the denoiser.
#[test]
fn the_energy_is_that_of_the_flow() {
    let part = |place| MixturePart {
        class: 0,
        weight: 1.0,
        mean: vec![place],
        deviation: 0.0,
    };
    let model = GaussianMixture::new(vec![part(-1.0), part(1.0)]).unwrap();
    let separation = exact_two_points(400);
    let count = 4000;
    let device = Device::flex();
    let data: Vec<f64> = (0..count).map(|i| f64::from(i % 2) * 2.0 - 1.0).collect();
    let data = TensorData::new(data, [count as usize, 1]);
    let data = Tensor::<2>::from_data(data, (&device, DType::F64));
    let epsilon = SeededNoise::new(5, 0).normal([count as usize, 1], &device);
    let epsilon = epsilon.cast(DType::F64);
    let path = KineticOptimal::new(separation.clone()).unwrap();
    for path in [
        &StraightLine::new() as &dyn NoisePath,
        &CosinePath::new(),
        &path,
    ] {
        let steps = 200;
        let mut sum = 0.0;
        for k in 0..steps {
            let time = (f64::from(k) + 0.5) / f64::from(steps);
            let level = path.level_at(time);
            let [signal, noise] = path.rates_at(time);
            let x = level.mix(data.clone(), epsilon.clone());
            let found = crate::denoiser::Denoised::predict(&model, &x, level).unwrap();
            let velocity = found.sample * signal + found.epsilon * noise;
            sum += velocity.square().mean().into_scalar::<f64>() / f64::from(steps);
        }
        let formula = kinetic_energy(path, &separation);
        assert!(
            (sum / formula - 1.0).abs() < 0.03,
            "{path:?}: {sum} {formula}"
        );
    }
}

#[test]
fn a_denoiser_knows_the_separation_of_its_distribution() {
    let device = Device::flex();
    let variances = [0.4, 1.6, 3.0, 1.0];
    let variance = Tensor::<2>::from_floats([variances.map(|v| v as f32)], &device);
    let model = GaussianDenoiser::new(
        variance.zeros_like() + 0.3,
        variance.clone(),
        Prediction::Epsilon,
    );
    let data = SeededNoise::new(2, 0).normal([4000, 4], &device) * variance.sqrt() + 0.3;
    let config = SeparationConfig::new()
        .with_grid(20)
        .with_draws(4000)
        .with_boundary(Boundary::Share(1.0));
    let path = StraightLine::new();
    let found = DataSeparation::of_denoiser(&model, &data, &path, &config).unwrap();
    let shares = variances.map(|v| v / 1.5);
    let exact = DataSeparation::of_variances(&shares, 20).unwrap();
    for k in 1..20 {
        let theta = FRAC_PI_2 * f64::from(k) / 20.0;
        let difference = (found.kappa(theta) - exact.kappa(theta)).abs();
        assert!(difference < 0.02, "{theta}: {difference}");
    }
}

#[test]
fn samplers_run_on_the_path() {
    let device = Device::flex();
    let ones = Tensor::<2>::ones([1, 3], &device);
    let model = GaussianDenoiser::new(ones.clone() * 0.5, ones * 0.04, Prediction::Sample);
    let path = KineticOptimal::new(exact_two_points(50)).unwrap();
    let levels = path.levels(40).unwrap();
    let mut noise = SeededNoise::new(4, 0);
    let start = noise.normal([500, 3], &device);
    let sampler = Sampler::new(Ddim::new(), levels).unwrap();
    let found = sampler.sample(&model, start, &mut noise).unwrap();
    let mean = found.clone().mean().into_scalar::<f32>();
    let deviation = (found - 0.5).square().mean().sqrt().into_scalar::<f32>();
    assert!((mean - 0.5).abs() < 0.03, "{mean}");
    assert!((deviation - 0.2).abs() < 0.04, "{deviation}");
    assert!(path.levels(0).is_err());
}

#[test]
fn wrong_data_are_refused() {
    let config = SeparationConfig::new();
    let told = |points: &[f64], dimension, config: &SeparationConfig| {
        let error = DataSeparation::of_points(points, dimension, config);
        error.unwrap_err().to_string()
    };
    assert!(told(&[1.0, -1.0, 1.0], 2, &config).contains("3 numbers"));
    assert!(told(&[3.0, 1.0], 1, &config).contains("normalize"));
    assert!(told(&[1.0], 1, &config).contains("number of points"));
    assert!(told(&[1.0, f64::NAN], 1, &config).contains("finite"));
    assert!(told(&[1.0, -1.0], 1, &config.with_grid(1)).contains("grid"));
    let share = config.with_boundary(Boundary::Share(2.0));
    assert!(told(&[1.0, -1.0], 1, &share).contains("share"));
    assert!(normalized(&[2.0, 2.0], 1).is_err());
    let back = normalized(&[1.0, 2.0, 3.0, 6.0], 2).unwrap();
    assert_eq!(back.mean, [2.0, 4.0]);
    assert!((back.scale - 2.5f64.sqrt()).abs() < 1e-12);
    assert!(KineticOptimal::with_floor(exact_two_points(4), 0.0).is_err());
}
