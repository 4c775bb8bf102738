//! The weight average against diffusers' `EMAModel` and its closed form.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use nabla_diffusion::ema::{Ema, EmaConfig, EmaError, WarmUp};

use crate::reference_values::{floats, reference};

#[derive(Module, Debug)]
struct Point {
    position: Param<Tensor<1>>,
}

fn point(values: &[f64], device: &Device) -> Point {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    Point {
        position: Param::from_tensor(Tensor::from_floats(values.as_slice(), device)),
    }
}

fn position(ema: &Ema<Point>) -> Vec<f32> {
    ema.average()
        .position
        .val()
        .into_data()
        .try_to_vec()
        .unwrap()
}

#[test]
fn averages_agree_with_diffusers() {
    let reference = reference("diffusers_reference.json");
    let reference = &reference["ema"];
    let path: Vec<Vec<f64>> = reference["path"]
        .as_array()
        .unwrap()
        .iter()
        .map(floats)
        .collect();
    // Training runs on an autodiff device, the average lives on the plain one.
    let device = Device::flex().autodiff();
    for run in reference["runs"].as_array().unwrap() {
        let warm_up = match (run["inverse_gamma"].as_f64(), run["power"].as_f64()) {
            (Some(inverse_gamma), Some(power)) => WarmUp::Power {
                inverse_gamma,
                power,
            },
            _ => WarmUp::Rational,
        };
        let config = EmaConfig::new()
            .with_decay(run["decay"].as_f64().unwrap())
            .with_warm_up(warm_up);
        let mut ema = config.init(&point(&path[0], &device)).unwrap();
        for (here, expected) in path.iter().zip(run["averages"].as_array().unwrap()) {
            ema.update(&point(here, &device)).unwrap();
            for (ours, theirs) in position(&ema).into_iter().zip(floats(expected)) {
                assert!(
                    (f64::from(ours) - theirs).abs() < 1e-6,
                    "{run}: {ours} {theirs}"
                );
            }
        }
        assert!(!ema.average().position.val().is_autodiff());
        assert_eq!(ema.updates(), path.len() as u64);
    }
}

#[test]
fn without_warm_up_the_average_is_geometric() {
    let device = Device::flex();
    let config = EmaConfig::new().with_decay(0.9).with_warm_up(WarmUp::None);
    let mut ema = config.init(&point(&[1.0], &device)).unwrap();
    for n in 1..=30 {
        ema.update(&point(&[0.0], &device)).unwrap();
        assert!((f64::from(position(&ema)[0]) - 0.9_f64.powi(n)).abs() < 1e-6);
    }
}

#[test]
fn the_average_starts_as_the_network() {
    let device = Device::flex().autodiff();
    // Parameters of Burn's layers are drawn lazily: the copy must not draw its own.
    let network: Linear = LinearConfig::new(5, 3).init(&device);
    let ema = EmaConfig::new().init(&network).unwrap();
    assert_eq!(
        ema.average().weight.val().into_data(),
        network.weight.val().without_autodiff().into_data()
    );
}

#[test]
fn a_restored_average_goes_on_with_the_same_bits() {
    let device = Device::flex();
    let config = EmaConfig::new().with_decay(0.99);
    let at = |n: u32| point(&[f64::from(n).sin(), f64::from(n).cos()], &device);
    let mut whole = config.init(&at(0)).unwrap();
    let mut first = config.init(&at(0)).unwrap();
    for n in 1..=10 {
        whole.update(&at(n)).unwrap();
        first.update(&at(n)).unwrap();
    }
    let stored = first.average().clone().into_record().into_bytes().unwrap();
    let record = burn::store::ModuleRecord::from_bytes(stored).unwrap();
    let mut resumed = config
        .restore(at(99).load_record(record), first.updates())
        .unwrap();
    for n in 11..=20 {
        whole.update(&at(n)).unwrap();
        resumed.update(&at(n)).unwrap();
    }
    assert_eq!(position(&whole), position(&resumed));
}

#[test]
fn another_network_is_refused_and_leaves_the_average() {
    let device = Device::flex();
    let linear = |input: usize, bias: bool| -> Linear {
        LinearConfig::new(input, 2)
            .with_bias(bias)
            .with_initializer(Initializer::Ones)
            .init(&device)
    };
    let mut ema = EmaConfig::new().init(&linear(3, true)).unwrap();
    assert_eq!(
        ema.update(&linear(4, true)).unwrap_err(),
        EmaError::Mismatch { index: 0 }
    );
    assert_eq!(
        ema.update(&linear(3, false)).unwrap_err(),
        EmaError::Mismatch { index: 1 }
    );
    assert_eq!(ema.updates(), 0);
    assert_eq!(ema.average().weight.val().dims(), [3, 2]);

    let mut without_bias = EmaConfig::new().init(&linear(3, false)).unwrap();
    assert_eq!(
        without_bias.update(&linear(3, true)).unwrap_err(),
        EmaError::Mismatch { index: 1 }
    );
}

#[test]
fn wrong_parameters_are_told() {
    let network = point(&[0.0], &Device::flex());
    let fail = |config: EmaConfig| config.init(&network).unwrap_err();
    assert_eq!(
        fail(EmaConfig::new().with_decay(1.5)).to_string(),
        "the decay of the moving average is 1.5, but it must be from 0 to 1"
    );
    let warm_up = WarmUp::Power {
        inverse_gamma: 0.0,
        power: 1.0,
    };
    assert_eq!(
        fail(EmaConfig::new().with_warm_up(warm_up)).to_string(),
        "the inverse gamma of the moving average's warm-up is 0, but it must be positive and finite"
    );
}
