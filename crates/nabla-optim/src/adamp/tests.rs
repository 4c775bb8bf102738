use super::*;
use burn::tensor::DType;
use nabla_grad::decomposition::Views;

/// One output of three inputs, as Burn's `Linear` has it.
fn column(x: [f64; 3]) -> Tensor<2> {
    let data = burn::tensor::TensorData::new(x.to_vec(), [3, 1]);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn values(x: &Tensor<2>) -> [f64; 3] {
    let x: Vec<f64> = x.to_data().iter::<f64>().collect();
    x.try_into().unwrap()
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The norms and values of `f(w) = −(w/‖w‖)·u`, which is scale invariant, on the way.
fn descend(config: &SgdPConfig, start: [f64; 3], steps: usize) -> Vec<(f64, f64)> {
    let optimizer = config.build().unwrap();
    let u = [0.0, 0.6, 0.8];
    let (mut w, mut state) = (column(start), None);
    (0..steps)
        .map(|_| {
            let at = values(&w);
            let norm = dot(at, at).sqrt();
            let along = dot(at, u) / (norm * norm);
            let grad: [f64; 3] = std::array::from_fn(|i| (along * at[i] - u[i]) / norm);
            let (new, kept) = optimizer.step(0.1, w.clone(), column(grad), state.take());
            let after = values(&new);
            if optimizer.projection.delta > 0.0 {
                // The step is orthogonal, so that Pythagoras' theorem holds.
                let step: [f64; 3] = std::array::from_fn(|i| after[i] - at[i]);
                let expected = dot(at, at) + dot(step, step);
                assert!((dot(after, after) / expected - 1.0).abs() < 1e-12);
            }
            (w, state) = (new, kept);
            let norm = dot(after, after).sqrt();
            (norm, -dot(after, u) / norm)
        })
        .collect()
}

#[test]
fn the_norm_grows_by_the_step_alone_and_the_descent_is_faster() {
    let sgdp = SgdPConfig::new().with_momentum(0.9).with_epsilon(0.0);
    let sgd = sgdp.clone().with_delta(0.0);
    let start = [1.0, 0.2, -0.1];
    let norm = |config| descend(config, start, 200)[199].0;
    assert!(norm(&sgd) > norm(&sgdp));
    // From a small norm the first steps are long, and the momentum's inflation is large.
    let start = [-0.1, -0.02, -0.01];
    let steps = |config| {
        let path = descend(config, start, 5000);
        path.iter().position(|(_, f)| *f < -0.999).unwrap()
    };
    assert!(
        steps(&sgdp) < steps(&sgd),
        "{} {}",
        steps(&sgdp),
        steps(&sgd)
    );
}

/// A vector gets Adam's step and all of the decay, although its gradient is orthogonal to it.
#[test]
fn vectors_are_not_projected() {
    let device = Device::flex();
    let optimizer = AdamPConfig::new().with_weight_decay(0.1).build().unwrap();
    let w = Tensor::<1>::from_floats([1.0, 1.0], &device);
    let g = Tensor::<1>::from_floats([1.0, -1.0], &device);
    let (w, _) = optimizer.step(0.01, w, g.clone(), None);
    let kept = 1.0 - 0.01 * 0.1;
    let w: Vec<f64> = w.to_data().iter::<f64>().collect();
    assert!((w[0] - (kept - 0.01)).abs() < 1e-6 && (w[1] - (kept + 0.01)).abs() < 1e-6);
    // The same numbers as a matrix of one output.
    let w = Tensor::<2>::from_floats([[1.0], [1.0]], &device);
    let (w, _) = optimizer.step(0.01, w, g.reshape([2, 1]), None);
    let w: Vec<f64> = w.to_data().iter::<f64>().collect();
    let kept = 1.0 - 0.01 * 0.1 * 0.1;
    assert!((w[0] - (kept - 0.01)).abs() < 1e-6 && (w[1] - (kept + 0.01)).abs() < 1e-6);
}

#[test]
fn zeros_make_no_nan() {
    let device = Device::flex();
    for epsilon in [0.0, 1e-8] {
        let optimizer = SgdPConfig::new().with_epsilon(epsilon).build().unwrap();
        let (zeros, ones) = (
            Tensor::<2>::zeros([4, 3], &device),
            Tensor::ones([4, 3], &device),
        );
        for (w, g) in [
            (zeros.clone(), ones.clone()),
            (ones, zeros.clone()),
            (zeros.clone(), zeros),
        ] {
            for device in [device.clone(), device.clone().autodiff()] {
                let [w, g] = [&w, &g].map(|x| Tensor::<2>::from_data(x.to_data(), &device));
                let (w, _) = optimizer.step(0.1, w, g, None);
                assert!(w.to_data().iter::<f32>().all(f32::is_finite));
            }
        }
    }
}

#[test]
fn channels_are_those_of_burns_layers() {
    assert_eq!(ChannelDim::ByRank.of_rank(2), 1);
    assert_eq!(ChannelDim::ByRank.of_rank(3), 0);
    assert_eq!(ChannelDim::ByRank.of_rank(4), 0);
    assert_eq!(ChannelDim::Dim(1).of_rank(4), 1);
}

#[test]
fn the_test_looks_at_every_vector() {
    let device = Device::flex();
    let w = Tensor::<2>::from_floats([[1.0, 1.0], [1.0, 2.0]], &device);
    let invariant = |g: [[f32; 2]; 2], views| {
        let g = Tensor::<2>::from_floats(g, &device);
        is_scale_invariant(w.clone(), g, views, 0.1).unwrap()
    };
    let rows = [[1.0, -1.0], [2.0, -1.0]];
    assert!(invariant(rows, Views::Each(0)));
    assert!(invariant(rows, Views::Whole));
    assert!(!invariant(rows, Views::Each(1)));
    let whole = [[1.0, 1.0], [-2.0, 0.0]];
    assert!(invariant(whole, Views::Whole));
    assert!(!invariant(whole, Views::Each(0)));
    let error = is_scale_invariant(w.clone(), w, Views::Each(2), 0.1);
    assert!(error.is_err());
}

#[test]
fn configurations_are_checked() {
    let config = AdamPConfig::new();
    for bad in [
        config.clone().with_beta_1(1.0),
        config.clone().with_beta_2(f64::NAN),
        config.clone().with_epsilon(-1e-8),
        config.clone().with_delta(-0.1),
        config.clone().with_wd_ratio(1.5),
        config.with_weight_decay(-1.0),
    ] {
        assert!(bad.build().is_err() && bad.init().is_err());
    }
    let config = SgdPConfig::new();
    for bad in [
        config.clone().with_momentum(1.0),
        config.clone().with_dampening(1.1),
        config.with_wd_ratio(-0.1),
    ] {
        assert!(bad.build().is_err() && bad.init().is_err());
    }
}
