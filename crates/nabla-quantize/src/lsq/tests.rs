use burn::tensor::{Device, TensorData};
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Reference {
    shape: [usize; 2],
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    bits: u32,
    signed: bool,
    x: Vec<f32>,
    upstream: Vec<f32>,
    step: Vec<f32>,
    y: Vec<f32>,
    by_x: Vec<f32>,
    by_step: Vec<f32>,
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs();
        assert!(
            error <= 1e-5 * (1.0 + expected.abs()),
            "{what}: {found} for {expected}"
        );
    }
}

/// Values, gradients by numbers and by step sizes are those of a published implementation.
#[test]
fn gradients_are_those_of_lsq_net() {
    let text = include_str!("../../tests/reference/lsq.json");
    let reference: Reference = serde_json::from_str(text).unwrap();
    let device = Device::flex().autodiff();
    for case in &reference.cases {
        let levels = match case.signed {
            true => Levels::signed(case.bits).unwrap(),
            false => Levels::unsigned(case.bits).unwrap(),
        };
        let tensor = |values: &[f32]| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), reference.shape), &device)
        };
        let x = tensor(&case.x).require_grad();
        let channels = case.step.len();
        let data = TensorData::new(case.step.clone(), [channels, 1]);
        let step = Tensor::<2>::from_data(data, &device).require_grad();
        let used = step_of(step.clone(), levels.gradient_factor(case.x.len()));
        let y = codes(x.clone(), used.clone(), levels) * used;
        near(&host(y.clone()), &case.y, "value");
        let gradients = (y * tensor(&case.upstream)).sum().backward();
        near(&host(x.grad(&gradients).unwrap()), &case.by_x, "by x");
        near(
            &host(step.grad(&gradients).unwrap()),
            &case.by_step,
            "by step",
        );
        // The first step size, of the magnitudes of each channel.
        let rows = case.x.len() / channels;
        for (values, &step) in case.x.chunks(rows).zip(&case.step) {
            let mean = values.iter().map(|x| f64::from(x.abs())).sum::<f64>() / rows as f64;
            near(&[levels.first_step(mean) as f32], &[step], "first step");
        }
    }
}

/// Halves go to the even neighbour, with autodiff and without; a step size that is not positive counts as the smallest
/// one, and still has a gradient.
#[test]
fn halves_are_rounded_to_even_and_steps_stay_positive() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        let x = Tensor::<1>::from_floats([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], &device);
        let one = Tensor::from_floats([1.0], &device);
        let v = host(codes(x, one, Levels::signed(4).unwrap()));
        assert_eq!(v, [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0]);
        let step = Tensor::<1>::from_floats([-0.5, 0.25], &device);
        assert_eq!(host(step_of(step, 0.1)), [SMALLEST as f32, 0.25]);
    }
    let step = Tensor::<1>::from_floats([-0.5], &Device::flex().autodiff()).require_grad();
    let gradients = (step_of(step.clone(), 0.125) * 4.0).sum().backward();
    assert_eq!(host(step.grad(&gradients).unwrap()), [0.5]);
}

/// With many bits for the range, rounding changes next to nothing.
#[test]
fn fine_grids_are_nearly_the_identity() {
    let device = Device::flex();
    let x = Tensor::<1>::from_floats([-0.9, -0.33, 0.0, 0.41, 0.97], &device);
    let step = Tensor::<1>::from_floats([1.0 / 127.0], &device);
    let back = codes(x.clone(), step.clone(), Levels::signed(8).unwrap()) * step;
    assert!((back - x).abs().max().into_scalar::<f32>() <= 0.5 / 127.0 + 1e-6);
}

#[test]
fn grids_out_of_range_are_refused_also_in_files() {
    assert_eq!(
        Levels::signed(1).unwrap_err().to_string(),
        "the number of bits is 1, but it must be from 2 to 8"
    );
    assert!(Levels::unsigned(9).is_err());
    assert!(serde_json::from_str::<Levels>(r#"{"bits": 40, "signed": true}"#).is_err());
    let levels = Levels::signed(3).unwrap();
    assert_eq!((levels.low(), levels.high(), levels.largest()), (-4, 3, 4));
    let json = serde_json::to_string(&levels).unwrap();
    assert_eq!(serde_json::from_str::<Levels>(&json).unwrap(), levels);
}
