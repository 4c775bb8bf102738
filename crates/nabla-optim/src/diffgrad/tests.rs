use super::*;
use burn::tensor::DType;

fn vector(x: &[f64]) -> Tensor<1> {
    let data = burn::tensor::TensorData::new(x.to_vec(), [x.len()]);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

/// The weight after each of `steps` steps along `grad(w, t)`, from `start`.
fn run(
    config: &DiffGradConfig,
    lr: f64,
    start: f64,
    steps: usize,
    grad: impl Fn(f64, usize) -> f64,
) -> Vec<f64> {
    let optimizer = config.build().unwrap();
    let (mut w, mut state) = (vector(&[start]), None);
    (0..steps)
        .map(|t| {
            let at: f64 = w.clone().into_scalar();
            let g = vector(&[grad(at, t)]);
            (w, state) = optimizer.step(lr, w.clone(), g, state.take());
            w.clone().into_scalar()
        })
        .collect()
}

/// Adam with ε beside the uncorrected root, by hand: the steps.
fn adam(lr: f64, grads: &[f64]) -> Vec<f64> {
    let (mut m, mut v) = (0.0, 0.0);
    grads
        .iter()
        .enumerate()
        .map(|(t, g)| {
            let t = t as i32 + 1;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let root: f64 = 1.0 - 0.999f64.powi(t);
            lr * root.sqrt() / (1.0 - 0.9f64.powi(t)) * m / (f64::sqrt(v) + 1e-8)
        })
        .collect()
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn with_a_constant_gradient_it_is_adam_at_half_the_learning_rate() {
    let g = 0.3;
    let weights = run(&DiffGradConfig::new(), 0.01, 1.0, 20, |_, _| g);
    let mut w = 1.0;
    for (t, (ours, step)) in weights.iter().zip(adam(0.01, &[g; 20])).enumerate() {
        // The gradient before the first one is 0.
        w -= step * if t == 0 { logistic(g) } else { 0.5 };
        assert!((ours - w).abs() < 1e-12, "{t}: {ours} {w}");
    }
}

#[test]
fn with_a_fast_changing_gradient_it_is_adam() {
    let grad = |t: usize| if t.is_multiple_of(2) { 90.0 } else { -40.0 };
    let weights = run(&DiffGradConfig::new(), 0.01, 1.0, 20, |_, t| grad(t));
    let grads: Vec<f64> = (0..20).map(grad).collect();
    let mut w = 1.0;
    for (ours, step) in weights.iter().zip(adam(0.01, &grads)) {
        w -= step;
        assert!((ours - w).abs() < 1e-12, "{ours} {w}");
    }
}

/// In the authors' first code the last gradient was the buffer of the present one, and ξ ½.
#[test]
fn the_friction_sees_the_change_of_the_gradient() {
    let device = Device::flex();
    let optimizer = DiffGradConfig::new().build().unwrap();
    let w = Tensor::<1>::ones([50], &device);
    let g = Tensor::<1>::ones([50], &device);
    let (w, state) = optimizer.step(0.1, w, g.clone(), None);
    let state = state.unwrap();
    let mean = |g: Tensor<1>| {
        let xi = optimizer.friction(Some(&state), g);
        xi.mean().into_scalar::<f64>()
    };
    assert!((mean(g.clone()) - 0.5).abs() < 1e-6);
    assert!((mean(g.clone() * -1.0) - logistic(2.0)).abs() < 1e-6);
    // The step has that friction, too: it is longer than along the same gradient.
    let kept = state.previous_grad.to_data();
    let step = |g: Tensor<1>| {
        let (new, _) = optimizer.step(0.1, w.clone(), g, Some(state.clone()));
        (new - w.clone()).abs().mean().into_scalar::<f64>()
    };
    let (m, g2) = (0.9 * 0.1 + 0.1 * 3.0, 0.999 * 0.001 + 0.001 * 9.0);
    let adam = 0.1 * (1.0 - 0.999f64.powi(2)).sqrt() / (1.0 - 0.81) * m / f64::sqrt(g2);
    assert!((step(g * 3.0) / adam - logistic(2.0)).abs() < 1e-5);
    assert_eq!(state.previous_grad.to_data(), kept);
}

/// All coefficients, and both places of ε, against a loop.
#[test]
fn coefficients_are_their_formulas() {
    let grads = [0.5, -1.0, 2.0, 2.0, 0.1, -0.3];
    for placement in [EpsilonPlacement::Uncorrected, EpsilonPlacement::Corrected] {
        for friction in [
            Friction::Sigmoid,
            Friction::SignedSigmoid,
            Friction::WideSigmoid,
            Friction::DeviationSigmoid,
            Friction::Tanh,
            Friction::MomentumSigmoid,
        ] {
            let config = DiffGradConfig::new()
                .with_friction(friction)
                .with_epsilon(1e-2)
                .with_epsilon_placement(placement);
            let weights = run(&config, 0.01, 1.0, grads.len(), |_, t| grads[t]);
            let (mut w, mut m, mut v, mut last) = (1.0, 0.0, 0.0f64, 0.0);
            for (t, (g, ours)) in grads.iter().zip(&weights).enumerate() {
                let t = t as i32 + 1;
                let m_last: f64 = m;
                m = 0.9 * m + 0.1 * g;
                v = 0.999 * v + 0.001 * g * g;
                let d: f64 = last - g;
                let xi = match friction {
                    Friction::Sigmoid => logistic(d.abs()),
                    Friction::SignedSigmoid => logistic(d),
                    Friction::WideSigmoid => 9.0 * logistic(0.5 * d.abs()) - 4.0,
                    // One number has no deviation.
                    Friction::DeviationSigmoid => logistic(-g.abs()),
                    Friction::Tanh => (0.5 * d.abs()).tanh(),
                    Friction::MomentumSigmoid => logistic((m_last - m).abs()),
                    other => unreachable!("{other:?} is tested over whole gradients"),
                };
                let (c1, c2) = (1.0 - 0.9f64.powi(t), 1.0 - 0.999f64.powi(t));
                w -= match placement {
                    EpsilonPlacement::Uncorrected => {
                        0.01 * c2.sqrt() / c1 * xi * m / (v.sqrt() + 1e-2)
                    }
                    EpsilonPlacement::Corrected => 0.01 * xi * (m / c1) / ((v / c2).sqrt() + 1e-2),
                };
                last = *g;
                assert!(
                    (ours - w).abs() < 1e-12,
                    "{friction:?} {placement:?}: {ours} {w}"
                );
            }
        }
    }
}

/// DFC3 to DFC5 at the second step, from the mean 2 and the variance 2/3 of the absolute gradients,
/// with and without coupled decay, of Burn's operations (64 bits) and in one pass (32 bits).
#[test]
fn the_papers_coefficients_of_the_whole_gradient() {
    let (first, second) = ([0.5, 0.5, -1.0], [1.0, -2.0, 3.0]);
    for (friction, power) in [
        (Friction::RootDeviationSigmoid, 0.5),
        (Friction::DeviationSigmoid, 1.0),
        (Friction::SquaredDeviationSigmoid, 2.0),
    ] {
        let config = DiffGradConfig::new().with_friction(friction);
        let optimizer = config.build().unwrap();
        let deviation = f64::sqrt(2.0 / 3.0).powf(power);
        let expected: Vec<f64> = first
            .iter()
            .zip(second)
            .map(|(a, b): (&f64, f64)| logistic(deviation * (a - b).abs() - 2.0))
            .collect();
        for dtype in [DType::F64, DType::F32] {
            let vector = |x: [f64; 3]| vector(&x).cast(dtype);
            let (w, state) = optimizer.step(0.1, vector([1.0; 3]), vector(first), None);
            let state = state.unwrap();
            let found = optimizer.friction(Some(&state), vector(second));
            let found: Vec<f64> = found.into_data().iter().collect();
            let adam = DiffGradConfig::new().with_friction(Friction::Sigmoid);
            let adam = adam.build().unwrap();
            let step = |optimizer: &DiffGrad| {
                let (new, _) = optimizer.step(0.1, w.clone(), vector(second), Some(state.clone()));
                (w.clone() - new)
                    .into_data()
                    .iter::<f64>()
                    .collect::<Vec<_>>()
            };
            // The steps of two coefficients have the proportion of the coefficients.
            let (ours, plain) = (step(&optimizer), step(&adam));
            for i in 0..3 {
                assert!(
                    (found[i] - expected[i]).abs() < 1e-6,
                    "{friction:?}: {found:?}"
                );
                let sigmoid = logistic((first[i] - second[i]).abs());
                let share = ours[i] / plain[i] * sigmoid;
                assert!(
                    (share - expected[i]).abs() < 1e-5,
                    "{friction:?}: {share} {expected:?}"
                );
            }
        }
    }
}

/// The paper's first function, with the settings of the authors' notebook: a global minimum at
/// -0.3, a local one at 0.2.
#[test]
fn it_settles_in_the_global_minimum_of_the_papers_first_function() {
    let grad = |x: f64, _| {
        if x <= 0.0 {
            2.0 * (x + 0.3)
        } else {
            2.0 * (x - 0.2)
        }
    };
    let config = DiffGradConfig::new().with_beta_1(0.95);
    let end = run(&config, 0.1, -1.0, 300, grad)[299];
    assert!((end + 0.3).abs() < 0.01, "{end}");
}

#[test]
fn configurations_are_checked() {
    let config = DiffGradConfig::new();
    for bad in [
        config.clone().with_beta_1(1.0),
        config.clone().with_beta_2(-0.1),
        config.clone().with_epsilon(-1e-8),
        config.clone().with_weight_decay(-1.0),
    ] {
        assert!(bad.build().is_err() && bad.init().is_err());
    }
}
