use super::*;
use burn::module::{Module, Param};
use burn::nn::{
    BatchNormConfig, GroupNormConfig, InstanceNormConfig, LayerNormConfig, RmsNormConfig,
};
use burn::tensor::{DType, Device, Distribution, Gradients, Tolerance};

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let x: Tensor<D> = Tensor::random(shape, Distribution::Normal(1.0, 2.0), device);
    x.cast(DType::F64).require_grad()
}

fn redrawn<const D: usize>(param: Param<Tensor<D>>) -> Param<Tensor<D>> {
    param.map(|tensor| random(tensor.dims(), &tensor.device()))
}

fn near() -> Tolerance<f64> {
    Tolerance::absolute(1e-9)
}

fn same_gradient<const D: usize>(x: &Tensor<D>, found: &Gradients, expected: &Gradients) {
    let [found, expected] = [found, expected].map(|grads| x.grad(grads).unwrap().into_data());
    found.assert_approx_eq(&expected, near());
}

/// Checks values; returns the gradients of ours and of Burn's.
fn compared<const D: usize>(found: Tensor<D>, burns: Tensor<D>) -> [Gradients; 2] {
    found.to_data().assert_approx_eq(&burns.to_data(), near());
    let weights = random(found.dims(), &found.device()).detach();
    [found, burns].map(|y| (y * weights.clone()).sum().backward())
}

#[test]
fn groups_and_instances_are_burns() {
    let device = Device::flex().autodiff();
    for (shape, groups, affine) in [
        ([1, 1, 1, 3], 1, true),
        ([2, 6, 3, 5], 3, true),
        ([3, 4, 17, 9], 2, false),
        ([2, 8, 40, 50], 2, true),
    ] {
        let mut norm = GroupNormConfig::new(groups, shape[1])
            .with_affine(affine)
            .init(&device);
        norm.gamma = norm.gamma.map(redrawn);
        norm.beta = norm.beta.map(redrawn);
        let x = random(shape, &device);
        for then in 0..3 {
            let burns = norm.forward(x.clone());
            let (found, burns) = match then {
                0 => (group_norm(&norm, x.clone()), burns),
                1 => (group_norm_silu(&norm, x.clone()), silu(burns)),
                _ => (group_norm_relu(&norm, x.clone()), relu(burns)),
            };
            let [grads, expected] = compared(found, burns);
            same_gradient(&x, &grads, &expected);
            for param in [&norm.gamma, &norm.beta].into_iter().flatten() {
                same_gradient(&param.val(), &grads, &expected);
            }
        }
        let mut norm = InstanceNormConfig::new(shape[1])
            .with_affine(affine)
            .init(&device);
        norm.gamma = norm.gamma.map(redrawn);
        norm.beta = norm.beta.map(redrawn);
        let [grads, expected] = compared(instance_norm(&norm, x.clone()), norm.forward(x.clone()));
        same_gradient(&x, &grads, &expected);
    }
}

#[test]
fn batches_are_burns_and_move_the_running_statistics_alike() {
    let device = Device::flex().autodiff();
    for shape in [[2, 3, 1, 1], [4, 5, 7, 3], [3, 2, 40, 30]] {
        let double = |mut norm: BatchNorm| {
            norm.gamma = redrawn(norm.gamma);
            norm.beta = redrawn(norm.beta);
            for state in [&norm.running_mean, &norm.running_var] {
                state.update(state.value().cast(DType::F64));
            }
            norm
        };
        let ours = double(BatchNormConfig::new(shape[1]).init(&device));
        let mut theirs = double(BatchNormConfig::new(shape[1]).init(&device));
        (theirs.gamma, theirs.beta) = (ours.gamma.clone(), ours.beta.clone());
        for round in 0..3 {
            let x = random(shape, &device);
            let burns = theirs.forward(x.clone());
            let (found, burns) = match round {
                0 => (batch_norm(&ours, x.clone()), burns),
                _ => (
                    batch_norm_relu(&ours, x.clone()),
                    burn::tensor::activation::relu(burns),
                ),
            };
            let [grads, expected] = compared(found, burns);
            same_gradient(&x, &grads, &expected);
            same_gradient(&ours.gamma.val(), &grads, &expected);
            same_gradient(&ours.beta.val(), &grads, &expected);
        }
        for (a, b) in [
            (&ours.running_mean, &theirs.running_mean),
            (&ours.running_var, &theirs.running_var),
        ] {
            let (a, b) = (a.value_sync().into_data(), b.value_sync().into_data());
            a.assert_approx_eq(&b, near());
        }
        // With the running statistics: outside of training, and of a frozen layer under a gradient.
        let x: Tensor<4> = Tensor::random(shape, Distribution::Default, &Device::flex());
        let x = x.cast(DType::F64);
        let (ours, theirs) = (ours.valid(), theirs.valid());
        let found = batch_norm(&ours, x.clone()).into_data();
        found.assert_approx_eq(&theirs.forward(x.clone()).into_data(), near());
        let frozen = ours.train().freeze();
        let x = Tensor::<4>::from_data(x.into_data(), (&device, DType::F64)).require_grad();
        let [grads, expected] = compared(batch_norm(&frozen, x.clone()), frozen.forward(x.clone()));
        same_gradient(&x, &grads, &expected);
    }
}

#[test]
fn rows_are_burns() {
    let device = Device::flex().autodiff();
    for shape in [[1, 1, 1], [2, 3, 5], [3, 50, 130]] {
        let mut norm = LayerNormConfig::new(shape[2])
            .with_epsilon(1e-3)
            .init(&device);
        norm.gamma = redrawn(norm.gamma);
        norm.beta = norm.beta.map(redrawn);
        let x = random(shape, &device);
        let (gamma, beta) = (norm.gamma.val(), norm.beta.as_ref().map(|b| b.val()));
        let found = layer_norm(&norm, 1e-3, x.clone());
        let [grads, expected] = compared(found, norm.forward(x.clone()));
        same_gradient(&x, &grads, &expected);
        same_gradient(&gamma, &grads, &expected);
        same_gradient(&beta.unwrap(), &grads, &expected);

        let mut norm = RmsNormConfig::new(shape[2])
            .with_epsilon(1e-3)
            .init(&device);
        norm.gamma = redrawn(norm.gamma);
        // Burn's takes the root in single precision.
        let rms = (x.clone().square().mean_dim(2) + 1e-3).sqrt();
        let burns = x.clone() / rms * norm.gamma.val().unsqueeze();
        let [grads, expected] = compared(rms_norm(&norm, x.clone()), burns);
        same_gradient(&x, &grads, &expected);
        same_gradient(&norm.gamma.val(), &grads, &expected);
    }
}

#[test]
fn modulated_silu_is_burns() {
    let device = Device::flex().autodiff();
    for [batch, channels, height, width] in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 2, 16, 17]] {
        let x = random([batch, channels, height, width], &device);
        let [scale, shift] = [0, 1].map(|_| random([batch, channels], &device));
        let wide = |v: &Tensor<2>| v.clone().reshape([batch, channels, 1, 1]);
        let burns = silu(x.clone() * (wide(&scale) + 1.0) + wide(&shift));
        let found = modulated_silu(x.clone(), scale.clone(), shift.clone());
        let [grads, expected] = compared(found, burns);
        same_gradient(&x, &grads, &expected);
        same_gradient(&scale, &grads, &expected);
        same_gradient(&shift, &grads, &expected);
    }
}

/// A picture of one colour has no variance, however large its numbers.
#[test]
fn a_constant_group_is_its_shift() {
    let device = Device::flex();
    let norm = GroupNormConfig::new(1, 2).init(&device);
    let y = group_norm(
        &norm,
        Tensor::<4>::full([1, 2, 30, 30], 12_345.678, &device),
    );
    assert!(y.into_data().iter::<f32>().all(|y| y == 0.0));
}
