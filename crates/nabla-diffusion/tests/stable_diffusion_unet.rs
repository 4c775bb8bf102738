//! The UNet of Stable Diffusion 1.5, 2.1 and XL against `diffusers`, on models of the same
//! architecture and random weights.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as tests

mod tiny_models;

use burn::tensor::{DType, Device, Tensor};
use nabla_diffusion::stable_diffusion::unet2d_condition::{AddedCondition, UNet2DCondition};
use nabla_diffusion::stable_diffusion::weights::Precision;
use tiny_models::{Reference, distance, folder};

/// The differences at each timestep, for a wide and for an odd size, relative to the largest output.
fn differences(name: &str, precision: Precision) -> Vec<f32> {
    let device = Device::flex();
    let part = folder(name)
        .part("unet", &["UNet2DConditionModel"])
        .unwrap();
    let (unet, config) = UNet2DCondition::load(&part, &device, precision).unwrap();
    let reference = Reference::of(name);
    let dtype = precision.dtype();
    let embeds = reference.tensor::<3>("text.embeds").cast(dtype);
    let empty = reference.tensor::<3>("text.embeds_empty").cast(dtype);
    let added = |batch: usize| {
        config.pooled_text_channels().map(|_| AddedCondition {
            text: reference
                .tensor("unet.text_embeds")
                .slice_dim(0, 0..batch)
                .cast(dtype),
            size: reference
                .tensor("unet.time_ids")
                .slice_dim(0, 0..batch)
                .cast(dtype),
        })
    };
    let run = |sample: &str, timestep: f32| {
        let x = reference.tensor::<4>(sample).cast(dtype);
        let batch = x.dims()[0];
        let text = match batch {
            1 => embeds.clone(),
            _ => Tensor::cat(vec![embeds.clone(), empty.clone()], 0),
        };
        let t = Tensor::<1>::full([batch], timestep, &device);
        unet.forward(x, t, &text, added(batch).as_ref())
    };
    [
        ("unet.sample", 1.0, "unet.out_t1"),
        ("unet.sample", 500.0, "unet.out_t500"),
        ("unet.sample", 999.0, "unet.out_t999"),
        ("unet.sample_wide", 500.0, "unet.out_wide_t500"),
        ("unet.sample_odd", 500.0, "unet.out_odd_t500"),
    ]
    .map(|(sample, timestep, expected)| {
        let found = run(sample, timestep);
        assert_eq!(found.dtype(), dtype);
        let expected = reference.tensor::<4>(expected);
        let largest = expected.clone().abs().max().into_scalar::<f32>();
        assert!(largest > 0.1, "{largest}");
        distance(found, expected) / largest.max(1.0)
    })
    .to_vec()
}

#[test]
fn predictions_are_those_of_diffusers() {
    for name in ["sd15", "sd21", "sdxl"] {
        for difference in differences(name, Precision::F32) {
            assert!(difference < 1e-4, "{name}: {difference}");
        }
    }
}

#[test]
fn half_precision_is_near() {
    for name in ["sd15", "sd21", "sdxl"] {
        for (precision, tolerance) in [(Precision::F16, 0.02), (Precision::Bf16, 0.15)] {
            for difference in differences(name, precision) {
                assert!(difference < tolerance, "{name} {precision:?}: {difference}");
            }
        }
    }
}

/// The network is one of Burn's: gradients flow to its weights and to the latent.
#[test]
fn gradients_reach_the_latent() {
    let device = Device::flex().autodiff();
    let part = folder("sd15")
        .part("unet", &["UNet2DConditionModel"])
        .unwrap();
    let (unet, _) = UNet2DCondition::load(&part, &device, Precision::F32).unwrap();
    let reference = Reference::of("sd15");
    let text = reference.tensor::<3>("text.embeds").to_device(&device);
    let at = |x: Tensor<4>| {
        let t = Tensor::<1>::full([1], 500.0, &device);
        unet.forward(x, t, &text, None).powi_scalar(2).sum()
    };
    let start = reference.tensor::<4>("unet.sample_wide").to_device(&device);
    let x = start.clone().require_grad();
    let gradient = x.grad(&at(x.clone()).backward()).unwrap();
    let direction = (gradient.clone().cast(DType::F32))
        .sign()
        .to_device(&device);
    let step = 1e-2;
    let difference = (at(start.clone() + direction.clone() * step) - at(start - direction * step))
        .into_scalar::<f32>()
        / (2.0 * step as f32);
    let expected = gradient.abs().sum().into_scalar::<f32>();
    assert!(
        (difference - expected).abs() < 0.02 * expected,
        "{difference} {expected}"
    );
}
