use burn::tensor::{DType, Tensor, TensorData};

use super::*;
use crate::gauge_freedom::{GaussianMixtureScore, HostField, MixtureComponent, jacobians};

fn normal(count: usize, seed: u64) -> Vec<f64> {
    Probe::Gaussian.draw(count, &mut SeededNoise::new(seed, 7))
}

fn mean_squares(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value * value;
        count += 1.0;
    }
    sum / count
}

#[test]
fn the_process_has_its_closed_forms() {
    let process = ForwardProcess {
        rate: 0.1,
        slope: 2.0,
        ..ForwardProcess::default()
    };
    for t in [0.05, 0.7, 3.0] {
        // By the trapezoidal rule, which is exact of a line.
        let integral = 0.5 * t * (0.1 + 0.1 + 2.0 * t);
        assert!((process.signal(t) - (-0.5 * integral).exp()).abs() < 1e-14);
        assert!((process.variance(t) + process.signal(t).powi(2) - 1.0).abs() < 1e-14);
        assert!((process.time_of(process.sigma(t)) - t).abs() < 1e-12);
        let plain = ForwardProcess::default();
        assert!((plain.time_of(plain.sigma(t)) - t).abs() < 1e-12);
    }
}

/// `λ E‖s − s_cond‖² = E‖f − X_0‖²`, and the same of the other forms.
#[test]
fn the_losses_of_all_forms_are_one_regression() {
    let process = ForwardProcess::default();
    let points = normal(300, 1);
    let pairs = ScorePairs::draw(&points, 3, &process, LargeInputs::Keep, 2).unwrap();
    assert_eq!(pairs.len(), 100);
    let forms = [ScoreParam::X0, ScoreParam::Eps, ScoreParam::Score];
    for (i, t) in pairs.times.iter().enumerate() {
        let (signal, variance) = (process.signal(*t), process.variance(*t));
        let (x, clean) = (&pairs.noisy[3 * i..][..3], &pairs.clean[3 * i..][..3]);
        let guess = normal(3, 100 + i as u64);
        let plain: f64 = guess.iter().zip(clean).map(|(a, b)| (a - b).powi(2)).sum();
        for form in forms {
            let to = |value: &[f64]| ScoreParam::X0.convert(form, value, x, signal, variance);
            let (found, label) = (to(&guess), to(clean));
            let loss: f64 = found.iter().zip(&label).map(|(a, b)| (a - b).powi(2)).sum();
            let expected = form.loss_weight(signal, variance) * plain;
            assert!((loss / expected - 1.0).abs() < 1e-10);
            for other in forms {
                let there = form.convert(other, &found, x, signal, variance);
                let back = other.convert(form, &there, x, signal, variance);
                for (a, b) in back.iter().zip(&found) {
                    assert!((a - b).abs() < 1e-10 * (1.0 + b.abs()));
                }
            }
        }
        // The label of ε is the noise.
        let noise = ScoreParam::X0.convert(ScoreParam::Eps, clean, x, signal, variance);
        for k in 0..3 {
            let expected = (x[k] - signal * clean[k]) / variance.sqrt();
            assert!((noise[k] - expected).abs() < 1e-12);
        }
    }
}

/// Data ±1 with equal weights: `f* = tanh(αx/h)` and the noise is `1 − f*²`.
#[test]
fn targets_and_their_noise_are_those_of_two_points() {
    let halves = [-1.0, 1.0].map(|place| MixtureComponent::isotropic(1.0, vec![place], 0.0));
    let score = GaussianMixtureScore::new(halves.to_vec()).unwrap();
    let process = ForwardProcess::default();
    let mean = posterior_mean(&score, &process, 1.0, &[1.0]).unwrap()[0];
    assert!((mean - 0.744062).abs() < 1e-6);
    for (t, x) in [(0.3, 0.4), (1.0, 1.0), (2.5, -1.0)] {
        let mean = posterior_mean(&score, &process, t, &[x]).unwrap()[0];
        let expected = (process.signal(t) * x / process.variance(t)).tanh();
        assert!((mean - expected).abs() < 1e-10);
        let noise = posterior_noise(&score, &process, t, &[x]).unwrap();
        assert!((noise - (1.0 - mean * mean)).abs() < 1e-8);
    }
}

#[test]
fn large_inputs_are_dropped_or_shortened() {
    let process = ForwardProcess::default();
    let points = normal(4000, 3);
    let drawn = |large| ScorePairs::draw(&points, 2, &process, large, 4).unwrap();
    let (all, dropped) = (drawn(LargeInputs::Keep), drawn(LargeInputs::Drop(2.0)));
    let shortened = drawn(LargeInputs::Shorten(2.0));
    // P(‖x‖ > 2) = e^−2 of a standard normal in the plane, which stays one.
    assert!((dropped.large - (-2_f64).exp()).abs() < 0.03 && all.large == 0.0);
    assert_eq!(
        dropped.len(),
        ((1.0 - dropped.large) * 2000.0).round() as usize
    );
    assert!((shortened.large - dropped.large).abs() < 1e-12 && shortened.len() == 2000);
    assert!(dropped.noisy.chunks(2).all(|x| norm(x) <= 2.0));
    assert!(
        shortened
            .features
            .chunks(4)
            .all(|z| norm(&z[..2]) <= 2.0 + 1e-12)
    );
    assert_eq!(shortened.noisy, all.noisy);
    let none = ScorePairs::draw(&points, 2, &process, LargeInputs::Drop(1e-9), 4);
    assert!(matches!(none, Err(ScoreEstimationError::AllDropped(2000))));
}

/// The kernel of a finite width comes near `κ` as its root, and random signs decouple the outputs.
#[test]
fn the_kernel_of_a_wide_network_is_the_tangent_kernel() {
    let z = normal(6 * 4, 5);
    let exact = tangent_kernel(&z, &z, 4).unwrap();
    let off = |units: usize| {
        let errors = (0..20).flat_map(|seed| {
            let weights = normal(units * 4, 50 + seed);
            let found = finite_width_kernel(&weights, &z, &z, 4).unwrap();
            let apart: Vec<f64> = found.iter().zip(&exact).map(|(a, b)| a - b).collect();
            apart
        });
        mean_squares(errors).sqrt()
    };
    let ratio = off(200) / off(3200);
    assert!((ratio - 4.0).abs() < 0.8, "{ratio}");
    // Against the gradients of a network: f changes along W by the kernel.
    let network = MirroredRelu::new(4, 20_000, 2, 9, &Device::flex()).unwrap();
    let mut moved = network.clone();
    let one = network.rows(&z[..4], 4).unwrap();
    let label = network.rows(&[-1.0, 0.0], 2).unwrap();
    moved.step(&one, &label, 1e-3); // y − f = (−1, 0)
    let found = moved.predict(&network.rows(&z, 4).unwrap()).unwrap();
    for (i, f) in found.chunks(2).enumerate() {
        assert!(
            (f[0] / -1e-3 - exact[i]).abs() < 0.05 * (1.0 + exact[i].abs()),
            "{i}"
        );
        assert!((f[1] / 1e-3).abs() < 0.05 * (1.0 + exact[i].abs()), "{i}");
    }
}

/// The written out gradient is that of a backward pass.
#[test]
fn the_gradient_of_the_network_is_that_of_its_loss() {
    let device = Device::flex();
    let mut network = MirroredRelu::new(4, 10, 3, 1, &device).unwrap();
    let z = network.rows(&normal(28, 2), 4).unwrap();
    let y = network.rows(&normal(21, 3), 3).unwrap();
    for _ in 0..5 {
        network.step(&z, &y, 0.3);
    }
    let weights = network.weights().unwrap();
    let leaf = Tensor::<2>::from_data(TensorData::new(weights, [10, 4]), (&device, DType::F64));
    let leaf = leaf.autodiff().require_grad();
    let auto = |t: &Tensor<2>| t.clone().autodiff();
    let outer = {
        // Of the second layer, from the outputs for single units.
        let mut noise = SeededNoise::new(1, 0);
        let _weights = Probe::Gaussian.draw(20, &mut noise);
        let signs = Probe::Rademacher.draw(15, &mut noise);
        let scale = 1.0 / 10_f64.sqrt();
        let half = signs.iter().map(|a| a * scale);
        let both: Vec<f64> = half.clone().chain(half.map(|a| -a)).collect();
        Tensor::<2>::from_data(TensorData::new(both, [10, 3]), (&device, DType::F64))
    };
    let hidden = burn::tensor::activation::relu(auto(&z).matmul(leaf.clone().transpose()));
    let loss = (hidden.matmul(auto(&outer)) - auto(&y)).square().sum();
    let expected = leaf.grad(&loss.backward()).unwrap();
    let [expected, found] =
        [expected, network.gradient(&z, &y)].map(|t| t.try_into_vec_as::<f64>().unwrap());
    for (expected, found) in expected.iter().zip(found) {
        assert!(
            (expected / 14.0 - found).abs() < 1e-14,
            "{} {found}",
            expected / 14.0
        );
    }
    assert!(MirroredRelu::new(4, 9, 3, 1, &device).is_err());
}

/// Of normal data with variance `v` the target is linear, and the regression comes to it.
#[test]
fn the_regression_learns_the_score_of_normal_data() {
    let process = ForwardProcess::default();
    let points: Vec<f64> = normal(1200, 6).iter().map(|z| 0.8 * z).collect();
    let pairs = ScorePairs::draw(&points, 1, &process, LargeInputs::Keep, 7).unwrap();
    let kernel = pairs.kernel(&pairs).unwrap();
    let descent = KernelGd::new(&kernel, &pairs.clean, 1, 1.0).unwrap();
    let score = KernelScore::new(process, &pairs, descent.stopped_at(300));
    let (mut off, mut size) = (0.0, 0.0);
    for t in [0.2, 0.6, 1.2, 2.0] {
        for x in [-1.2, -0.4, 0.3, 1.0] {
            let (alpha, h) = (process.signal(t), process.variance(t));
            let expected = alpha * 0.64 * x / (alpha * alpha * 0.64 + h);
            let found = score.clean(t, &[x]).unwrap()[0];
            off += (found - expected).powi(2);
            size += expected * expected;
            // As a field at x/α.
            let (u, sigma) = (x / alpha, process.sigma(t));
            let field = score.eval(&[u], sigma).unwrap()[0];
            assert!((field * sigma * sigma - (found - u)).abs() < 1e-10);
        }
    }
    assert!(off < 0.03 * size, "{off} {size}");
    // Its Jacobian is a derivative: the field works with all that is made for fields.
    let plain = HostField::new(1, |u: &[f64], sigma| score.eval(u, sigma).unwrap());
    let [one, other] = [
        jacobians(&score, &[0.3], 0.7).unwrap(),
        jacobians(&plain, &[0.3], 0.7).unwrap(),
    ];
    assert_eq!(one, other);
}

#[test]
fn a_report_shows_overfitting_and_where_to_stop() {
    let process = ForwardProcess::default();
    let centres = [[1.0, 0.0], [-0.6, 0.9], [-0.6, -0.9]];
    let draw = |count: usize, seed: u64| {
        let z = normal(2 * count, seed);
        let points: Vec<f64> = (0..2 * count)
            .map(|i| centres[(i / 2) % 3][i % 2] + 0.15 * z[i])
            .collect();
        ScorePairs::draw(&points, 2, &process, LargeInputs::Keep, seed).unwrap()
    };
    let (training, holdout) = (draw(150, 1), draw(600, 2));
    let run = |width| {
        let mut config = KernelRegime::new(width);
        config.steps = 60;
        config
            .run(&training, &holdout, Some(0.65), &Device::flex())
            .unwrap()
    };
    let (narrow, wide) = (run(100), run(3200));
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    assert!(most(&wide.deviation) < 0.4 * most(&narrow.deviation));
    assert!(most(&wide.weight_move) < 0.6 * most(&narrow.weight_move));
    assert!(most(&wide.deviation) < 0.2 * wide.prediction);
    let at = |step: u64| *wide.curve.iter().find(|p| p.step == step).unwrap();
    let (best, end) = (at(wide.stop_holdout), *wide.curve.last().unwrap());
    assert!(best.holdout < 0.85 * end.holdout && end.training < 0.1 * best.training);
    let theory = wide.stop_theory.unwrap();
    assert!(
        theory >= 1 && theory < wide.stop_holdout,
        "{theory} {}",
        wide.stop_holdout
    );
    assert_eq!(narrow.curve, wide.curve);
}

#[test]
fn what_cannot_be_learnt_is_refused_in_words() {
    let told = |earliest, latest| {
        let process = ForwardProcess {
            earliest,
            latest,
            ..ForwardProcess::default()
        };
        let pairs = ScorePairs::draw(&[1.0; 4], 2, &process, LargeInputs::Keep, 0);
        pairs.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(told(0.0, 1.0).contains("earliest time is 0"));
    assert!(told(1.0, 1.0).contains("earliest time is 1"));
    assert_eq!(told(0.1, 1.0), "");
    let falling = ForwardProcess {
        slope: -1.0,
        ..ForwardProcess::default()
    };
    assert!(falling.validate().is_err());
    let process = ForwardProcess::default();
    let draw = |points: &[f64], d| ScorePairs::draw(points, d, &process, LargeInputs::Keep, 0);
    assert!(
        draw(&[1.0; 5], 2)
            .unwrap_err()
            .to_string()
            .contains("5 values")
    );
    let (two, three) = (draw(&[1.0; 6], 2).unwrap(), draw(&[1.0; 6], 3).unwrap());
    assert!(two.kernel(&three).is_err());
    let mut config = KernelRegime::new(10);
    config.rate = 100.0;
    let error = config.run(&two, &two, None, &Device::flex()).unwrap_err();
    assert!(error.to_string().contains("less than 2/λ_max"));
    config.width = 0;
    config.rate = 0.1;
    assert!(config.run(&two, &two, None, &Device::flex()).is_err());
    assert!(tangent_kernel(&[1.0; 3], &[1.0; 4], 2).is_err());
}
