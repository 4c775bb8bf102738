//! What holds for every optimizer: one pass gives what Burn's operations give, in place, whatever the
//! number of threads and the precision, with the state that the documentation states.

use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, ModuleOptimizer, Optimizer, RecordState, StateSink};
use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor};
use nabla_grad::elementwise::Dense;
use nabla_optim::adabelief::{AdaBelief, AdaBeliefConfig};
use nabla_optim::adamp::{AdamP, AdamPConfig, ChannelDim, SgdP, SgdPConfig};
use nabla_optim::adamw::{AdamW, AdamWConfig};
use nabla_optim::diffgrad::{DiffGrad, DiffGradConfig, EpsilonPlacement, Friction};
use nabla_optim::weight_decay::WeightDecayMode;

fn adamps() -> Vec<AdamP> {
    let config = AdamPConfig::new().with_weight_decay(0.1);
    [
        config.clone(),
        config.clone().with_nesterov(true),
        // Thresholds above 1 project always, 0 never.
        config.clone().with_delta(1e6),
        config.clone().with_delta(1e6).with_nesterov(true),
        config.clone().with_delta(0.0),
        // Of a weight that nearly half decays, the rest is enough to find it again; of a smaller rest it isn't tried.
        config.clone().with_delta(1e6).with_weight_decay(45.0),
        config.clone().with_delta(1e6).with_weight_decay(90.0),
        config
            .clone()
            .with_delta(1e6)
            .with_channel_dim(ChannelDim::Dim(0)),
        config.with_delta(1e6).with_channel_dim(ChannelDim::Dim(7)),
    ]
    .iter()
    .map(|c| c.build().unwrap())
    .collect()
}

fn sgdps() -> Vec<SgdP> {
    let config = SgdPConfig::new().with_momentum(0.9).with_weight_decay(0.01);
    [
        config.clone(),
        config.clone().with_nesterov(true).with_dampening(0.2),
        config.clone().with_delta(1e6),
        config.with_delta(1e6).with_nesterov(true),
    ]
    .iter()
    .map(|c| c.build().unwrap())
    .collect()
}

const FRICTIONS: [Friction; 8] = [
    Friction::Sigmoid,
    Friction::SignedSigmoid,
    Friction::WideSigmoid,
    Friction::DeviationSigmoid,
    Friction::SquaredDeviationSigmoid,
    Friction::RootDeviationSigmoid,
    Friction::Tanh,
    Friction::MomentumSigmoid,
];

const MODES: [WeightDecayMode; 3] = [
    WeightDecayMode::Coupled,
    WeightDecayMode::Decoupled,
    WeightDecayMode::Fixed,
];

fn diffgrads() -> Vec<DiffGrad> {
    let mut all = Vec::new();
    for friction in FRICTIONS {
        for (mode, placement) in MODES.into_iter().zip([
            EpsilonPlacement::Uncorrected,
            EpsilonPlacement::Corrected,
            EpsilonPlacement::Uncorrected,
        ]) {
            let config = DiffGradConfig::new()
                .with_friction(friction)
                .with_weight_decay(0.05)
                .with_weight_decay_mode(mode)
                .with_epsilon(1e-3)
                .with_epsilon_placement(placement);
            all.push(config.build().unwrap());
        }
    }
    all
}

fn adabeliefs() -> Vec<AdaBelief> {
    let mut all = Vec::new();
    for mode in MODES {
        for amsgrad in [false, true] {
            for (rectify, sgd) in [(false, false), (true, false), (true, true)] {
                let config = AdaBeliefConfig::new()
                    .with_weight_decay(0.05)
                    .with_weight_decay_mode(mode)
                    .with_amsgrad(amsgrad)
                    .with_rectify(rectify)
                    .with_degenerated_to_sgd(sgd)
                    .with_epsilon(1e-8);
                all.push(config.build().unwrap());
            }
        }
    }
    all
}

fn adamws() -> Vec<AdamW> {
    let mut all = Vec::new();
    for mode in MODES {
        for amsgrad in [false, true] {
            for cautious in [false, true] {
                let config = AdamWConfig::new()
                    .with_weight_decay(0.05)
                    .with_weight_decay_mode(mode)
                    .with_amsgrad(amsgrad)
                    .with_cautious_weight_decay(cautious);
                all.push(config.build().unwrap());
            }
        }
    }
    all
}

fn random<const D: usize>(shape: [usize; D], scale: f64, device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, scale), device)
}

fn numbers<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
    x.to_data().iter::<f64>().collect()
}

/// Weights after eight steps of `optimizer`, on `device`.
fn run<const D: usize, O: Optimizer>(
    optimizer: &O,
    start: &Tensor<D>,
    grads: &[Tensor<D>],
    device: &Device,
) -> Vec<f64> {
    let mut weight = start.clone().to_device(device);
    let mut state = None;
    for grad in grads {
        let grad = grad.clone().to_device(device);
        (weight, state) = optimizer.step(0.01, weight, grad, state);
    }
    numbers(&weight)
}

fn both_ways_in<const D: usize, O: Optimizer>(optimizer: &O, shape: [usize; D]) {
    let device = Device::flex();
    let start = random(shape, 1.0, &device);
    let grads: Vec<_> = (0..8).map(|_| random(shape, 0.5, &device)).collect();
    let fused = run(optimizer, &start, &grads, &device);
    // A tensor on an autodiff device is not taken out of Burn.
    let autodiff = device.clone().autodiff();
    let moved = |x: &Tensor<D>| Tensor::<D>::from_data(x.to_data(), &autodiff);
    let grads: Vec<_> = grads.iter().map(moved).collect();
    assert!(Dense::take(moved(&start)).is_err());
    let composed = run(optimizer, &moved(&start), &grads, &autodiff);
    assert_eq!(fused.len(), composed.len());
    for (a, b) in fused.iter().zip(&composed) {
        assert!((a - b).abs() <= 2e-5 * (0.1 + b.abs()), "{shape:?} {a} {b}");
    }
}

fn both_ways<O: Optimizer>(optimizers: &[O]) {
    for optimizer in optimizers {
        both_ways_in(optimizer, [37]);
        both_ways_in(optimizer, [0]);
        both_ways_in(optimizer, [1, 1]);
        both_ways_in(optimizer, [5, 0]);
        both_ways_in(optimizer, [300, 70]);
        both_ways_in(optimizer, [3, 20_000]);
        both_ways_in(optimizer, [4, 5, 6]);
        both_ways_in(optimizer, [16, 9, 3, 3]);
    }
}

#[test]
fn adamp_in_one_pass_is_that_of_burns_operations() {
    both_ways(&adamps());
}

#[test]
fn sgdp_in_one_pass_is_that_of_burns_operations() {
    both_ways(&sgdps());
}

#[test]
fn diffgrad_in_one_pass_is_that_of_burns_operations() {
    both_ways(&diffgrads());
}

#[test]
fn adabelief_in_one_pass_is_that_of_burns_operations() {
    both_ways(&adabeliefs());
}

#[test]
fn adamw_in_one_pass_is_that_of_burns_operations() {
    both_ways(&adamws());
}

#[test]
fn the_thread_count_does_not_change_a_bit() {
    fn check<O: Optimizer>(optimizers: &[O]) {
        let device = Device::flex();
        let start = random([300, 170], 1.0, &device);
        let grads: Vec<_> = (0..3).map(|_| random([300, 170], 1.0, &device)).collect();
        for optimizer in optimizers {
            let threads = |n| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
                pool.unwrap()
                    .install(|| run(optimizer, &start, &grads, &device))
            };
            assert_eq!(threads(1), threads(3));
        }
    }
    check(&adamps());
    check(&sgdps());
    check(&diffgrads());
    check(&adabeliefs());
    check(&adamws());
}

/// The floats of a state per parameter, as its record has them.
fn floats<const D: usize, O: Optimizer>(optimizer: &O, shape: [usize; D]) -> f64 {
    let device = Device::flex();
    let start = random(shape, 1.0, &device);
    let grad = random(shape, 1.0, &device);
    let (_, state) = optimizer.step(0.1, start, grad, None);
    let mut sink = StateSink::default();
    state.unwrap().state_flatten("", &mut sink);
    let stored: usize = sink
        .tensors
        .iter()
        .map(|(_, data)| data.num_elements())
        .sum();
    stored as f64 / shape.iter().product::<usize>() as f64
}

#[test]
fn states_have_the_documented_size() {
    let shape = [12, 7];
    assert_eq!(floats(&AdamPConfig::new().build().unwrap(), shape), 2.0);
    assert_eq!(floats(&SgdPConfig::new().build().unwrap(), shape), 1.0);
    assert_eq!(floats(&DiffGradConfig::new().build().unwrap(), shape), 3.0);
    let adabelief = AdaBeliefConfig::new();
    assert_eq!(floats(&adabelief.build().unwrap(), shape), 2.0);
    let amsgrad = adabelief.with_amsgrad(true);
    assert_eq!(floats(&amsgrad.build().unwrap(), shape), 3.0);
    let adamw = AdamWConfig::new();
    assert_eq!(floats(&adamw.build().unwrap(), shape), 2.0);
    let amsgrad = adamw.with_amsgrad(true);
    assert_eq!(floats(&amsgrad.build().unwrap(), shape), 3.0);
}

fn place(layer: &Linear) -> *const f32 {
    let weight = layer.weight.val().inner();
    Dense::take(weight).unwrap().values().as_ptr()
}

#[test]
fn a_modules_weights_are_updated_where_they_are() {
    let device = Device::flex().autodiff();
    let optimizers: [ModuleOptimizer; 5] = [
        AdamWConfig::new().init().unwrap(),
        AdamPConfig::new().init().unwrap(),
        SgdPConfig::new().init().unwrap(),
        DiffGradConfig::new().init().unwrap(),
        AdaBeliefConfig::new().init().unwrap(),
    ];
    for mut optimizer in optimizers {
        let mut layer: Linear = LinearConfig::new(64, 32).init(&device);
        let before = (place(&layer), numbers(&layer.weight.val()));
        for _ in 0..3 {
            let x = Tensor::<2>::ones([2, 64], &device);
            let loss = layer.forward(x).powi_scalar(2).sum();
            let grads = GradientsParams::from_grads(loss.backward(), &layer);
            layer = optimizer.step(0.1, layer, grads);
        }
        assert_eq!(place(&layer), before.0);
        assert_ne!(numbers(&layer.weight.val()), before.1);
    }
}

/// A copy of the weights, as that of a moving average, is not written.
#[test]
fn a_copy_of_the_weights_stays() {
    let device = Device::flex();
    let weight = random([20, 20], 1.0, &device);
    let (copy, before) = (weight.clone(), numbers(&weight));
    let optimizer = AdamPConfig::new().build().unwrap();
    let grad = random([20, 20], 1.0, &device);
    let (stepped, _) = optimizer.step(0.1, weight, grad, None);
    assert_eq!(numbers(&copy), before);
    assert_ne!(numbers(&stepped), before);
}

#[test]
fn half_precision_is_stepped_in_single() {
    fn check<O: Optimizer>(optimizer: &O) {
        let device = Device::flex();
        for half in [FloatDType::F16, FloatDType::BF16] {
            let weight = random([8, 6], 1.0, &device).cast(half);
            // Squares of these vanish in 16 bits.
            let grad = random([8, 6], 1e-4, &device).cast(half);
            let single = |x: &Tensor<2>| x.clone().cast(FloatDType::F32);
            let (a, state) = optimizer.step(0.1, weight.clone(), grad.clone(), None);
            let (b, _) = optimizer.step(0.1, single(&weight), single(&grad), None);
            assert_eq!(a.dtype(), DType::from(half));
            assert_eq!(numbers(&a), numbers(&b.cast(half)));
            let mut sink = StateSink::default();
            state.unwrap().state_flatten("", &mut sink);
            assert!(
                sink.tensors
                    .iter()
                    .all(|(_, data)| data.dtype() == DType::F32)
            );
        }
    }
    check(&AdamPConfig::new().build().unwrap());
    check(&SgdPConfig::new().build().unwrap());
    check(&DiffGradConfig::new().build().unwrap());
    check(&AdaBeliefConfig::new().build().unwrap());
    check(&AdamWConfig::new().build().unwrap());
}
