//! The optimizers against the published implementations; `reference/optimizers.py` and `reference/adamw.py` say
//! which.

use burn::optim::Optimizer;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_optim::adabelief::AdaBeliefConfig;
use nabla_optim::adamp::{AdamPConfig, ChannelDim, SgdPConfig};
use nabla_optim::adamw::AdamWConfig;
use nabla_optim::diffgrad::DiffGradConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Deserialize)]
struct Reference {
    every: usize,
    shapes: Vec<Vec<usize>>,
    starts: Vec<Vec<f64>>,
    /// The gradients of all steps in one line, per tensor.
    gradients: Vec<Vec<f64>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    optimizer: String,
    mode: String,
    lr: f64,
    options: Map<String, Value>,
    /// After every some steps, per tensor.
    weights: Vec<Vec<Vec<f64>>>,
}

/// `[rows, columns]` to `[columns, rows]`.
fn transpose(x: &[f64], [rows, columns]: [usize; 2]) -> Vec<f64> {
    (0..columns * rows)
        .map(|i| x[i % rows * columns + i / rows])
        .collect()
}

/// `grad` without its part along `weight` in each of `rows` rows.
fn orthogonal(grad: &[f64], weight: &[f64], rows: usize) -> Vec<f64> {
    let size = grad.len() / rows;
    let mut out = grad.to_vec();
    for (g, w) in out.chunks_mut(size).zip(weight.chunks(size)) {
        let dot: f64 = g.iter().zip(w).map(|(g, w)| g * w).sum();
        let square: f64 = w.iter().map(|w| w * w).sum();
        for (g, w) in g.iter_mut().zip(w) {
            *g -= w * dot / square;
        }
    }
    out
}

/// How a trajectory is computed.
#[derive(Clone, Copy)]
struct Setting {
    dtype: DType,
    /// Matrices as Burn's `Linear` has them.
    transposed: bool,
}

/// The largest relative deviation of the trajectory of tensor number `index`.
fn deviation<const D: usize, O: Optimizer>(
    optimizer: &O,
    reference: &Reference,
    case: &Case,
    index: usize,
    setting: Setting,
) -> f64 {
    let mut shape: [usize; D] = reference.shapes[index].clone().try_into().unwrap();
    let [rows, size] = [shape[0], shape.iter().product()];
    let matrix = [rows, size / rows];
    let turned = setting.transposed && D == 2;
    if turned {
        shape.reverse();
    }
    let device = Device::flex();
    let to = |x: &[f64]| {
        let x = if turned {
            transpose(x, matrix)
        } else {
            x.to_vec()
        };
        Tensor::<D>::from_data(TensorData::new(x, shape), (&device, setting.dtype))
    };
    let from = |x: &Tensor<D>| {
        let x: Vec<f64> = x.to_data().iter::<f64>().collect();
        if turned {
            transpose(&x, [matrix[1], matrix[0]])
        } else {
            x
        }
    };
    let mut weight = to(&reference.starts[index]);
    let mut state = None;
    let mut worst: f64 = 0.0;
    let steps = reference.gradients[index].chunks(size);
    for (t, grad) in steps.enumerate() {
        let grad = match case.mode.as_str() {
            "channel" if D > 1 => orthogonal(grad, &from(&weight), rows),
            "layer" if D > 1 => orthogonal(grad, &from(&weight), 1),
            _ => grad.to_vec(),
        };
        (weight, state) = optimizer.step(case.lr, weight, to(&grad), state);
        if (t + 1) % reference.every == 0 {
            let expected = &case.weights[t / reference.every][index];
            let square: f64 = expected.iter().map(|x| x * x).sum();
            let typical = (square / size as f64).sqrt();
            for (ours, theirs) in from(&weight).iter().zip(expected) {
                // A weight that happens to be near zero is not nearer to the reference than others.
                worst = worst.max((ours - theirs).abs() / theirs.abs().max(typical));
            }
        }
    }
    assert!(!worst.is_nan());
    worst
}

fn deviations<O: Optimizer>(
    optimizer: &O,
    reference: &Reference,
    case: &Case,
    setting: Setting,
) -> f64 {
    (0..reference.shapes.len())
        .map(|i| match reference.shapes[i].len() {
            1 => deviation::<1, O>(optimizer, reference, case, i, setting),
            2 => deviation::<2, O>(optimizer, reference, case, i, setting),
            4 => deviation::<4, O>(optimizer, reference, case, i, setting),
            rank => panic!("rank {rank}"),
        })
        .fold(0.0, f64::max)
}

/// `config` with `options`.
fn with<C: Serialize + DeserializeOwned>(config: C, options: &Map<String, Value>) -> C {
    let mut value = serde_json::to_value(config).unwrap();
    for (name, option) in options {
        let place = value
            .get_mut(name)
            .unwrap_or_else(|| panic!("no option {name}"));
        *place = option.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn check(name: &str) {
    let text = match name {
        "adamw" => include_str!("reference/adamw.json"),
        _ => include_str!("reference/optimizers.json"),
    };
    let mut reference: Reference = serde_json::from_str(text).unwrap();
    // Numbers of 32 bits are written in the digits that give back 32 bits.
    for values in [&mut reference.starts, &mut reference.gradients] {
        for x in values.iter_mut().flatten() {
            *x = f64::from(*x as f32);
        }
    }
    let cases = || reference.cases.iter().filter(|case| case.optimizer == name);
    assert!(cases().count() >= 5);
    for (dtype, bound) in [(DType::F64, 1e-10), (DType::F32, 1e-5)] {
        let mut worst: f64 = 0.0;
        for case in cases() {
            for transposed in [false, true] {
                let setting = Setting { dtype, transposed };
                let dim = if transposed {
                    ChannelDim::ByRank
                } else {
                    ChannelDim::Dim(0)
                };
                let options = &case.options;
                let deviation = match name {
                    "adamp" => {
                        let config = with(AdamPConfig::new(), options).with_channel_dim(dim);
                        deviations(&config.build().unwrap(), &reference, case, setting)
                    }
                    "sgdp" => {
                        let config = with(SgdPConfig::new(), options).with_channel_dim(dim);
                        deviations(&config.build().unwrap(), &reference, case, setting)
                    }
                    "adamw" => {
                        let config = with(AdamWConfig::new(), options);
                        deviations(&config.build().unwrap(), &reference, case, setting)
                    }
                    "diffgrad" => {
                        let config = with(DiffGradConfig::new(), options);
                        deviations(&config.build().unwrap(), &reference, case, setting)
                    }
                    _ => {
                        let config = with(AdaBeliefConfig::new(), options);
                        deviations(&config.build().unwrap(), &reference, case, setting)
                    }
                };
                assert!(
                    deviation <= bound,
                    "{name} {dtype:?} {options:?} {}: {deviation:e}",
                    case.mode
                );
                worst = worst.max(deviation);
            }
        }
        println!("{name} {dtype:?}: at most {worst:.1e}");
    }
}

#[test]
fn adamp_is_that_of_the_authors() {
    check("adamp");
}

#[test]
fn sgdp_is_that_of_the_authors() {
    check("sgdp");
}

#[test]
fn diffgrad_is_that_of_torch_optimizer() {
    check("diffgrad");
}

#[test]
fn adabelief_is_that_of_the_authors() {
    check("adabelief");
}

#[test]
fn adamw_is_that_of_pytorch() {
    check("adamw");
}

#[derive(Deserialize)]
struct EpsilonPlace {
    start: Vec<f64>,
    gradients: Vec<Vec<f64>>,
    adamp: Vec<Vec<f64>>,
    adamp_elsewhere: Vec<Vec<f64>>,
    adabelief: Vec<Vec<f64>>,
}

/// The weights after each step of a vector.
fn steps<O: Optimizer>(optimizer: &O, reference: &EpsilonPlace) -> Vec<Vec<f64>> {
    let device = Device::flex();
    let vector = |x: &[f64]| {
        let data = TensorData::new(x.to_vec(), [x.len()]);
        Tensor::<1>::from_data(data, (&device, DType::F64))
    };
    let (mut weight, mut state) = (vector(&reference.start), None);
    let gradients = reference.gradients.iter();
    let step = gradients.map(|gradient| {
        (weight, state) = optimizer.step(0.01, weight.clone(), vector(gradient), state.take());
        weight.to_data().try_to_vec::<f64>().unwrap()
    });
    step.collect()
}

/// With gradients of 1e-6 the place of ε decides the step: AdamP's is added after the correction of the
/// bias, as the authors' code has it (`pytorch_optimizer` adds it before), AdaBelief's to the state and to
/// the root.
#[test]
fn epsilon_has_the_place_of_the_authors_code() {
    let text = include_str!("reference/epsilon_place.json");
    let reference: EpsilonPlace = serde_json::from_str(text).unwrap();
    let largest = |a: &[Vec<f64>], b: &[Vec<f64>]| {
        let pairs = a.iter().flatten().zip(b.iter().flatten());
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    let adamp = AdamPConfig::new().with_epsilon(1e-8).build().unwrap();
    let found = steps(&adamp, &reference);
    let difference = largest(&found, &reference.adamp);
    assert!(difference < 1e-12, "AdamP: {difference}");
    assert!(largest(&found, &reference.adamp_elsewhere) > 1e-3);
    let adabelief = AdaBeliefConfig::new()
        .with_epsilon(1e-8)
        .with_rectify(false)
        .build()
        .unwrap();
    let difference = largest(&steps(&adabelief, &reference), &reference.adabelief);
    assert!(difference < 1e-12, "AdaBelief: {difference}");
}
