//! Limiting the gradients of a module before a step.
//!
//! ```text
//! norm    g ← g · min(1, c/(‖g‖₂ + 1e-6))     ‖g‖₂ over all parameters together
//! value   g ← min(max(g, −c), c)              each number separately
//! ```
//!
//! Burn's own clipping by norm limits each parameter separately, which changes the direction of the whole
//! gradient; this one does not. Both match PyTorch (`clip_grad_norm_`, `clip_grad_value_`).
//!
//! Source: Pascanu, Mikolov, Bengio, *On the difficulty of training Recurrent Neural Networks*, 2012,
//! arXiv 1211.5063.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// A norm cannot be read back from the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read the gradient's norm from the device: {0}")]
pub struct ClippingError(pub String);

/// The squares of a module's gradients, summed per parameter.
struct Squares<'a> {
    gradients: &'a GradientsParams,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.sums.push(gradient.square().sum());
        }
    }
}

/// The operation applied to each number of a module's gradients.
struct Change<'a> {
    gradients: &'a mut GradientsParams,
    change: Limit,
}

#[derive(Clone, Copy)]
enum Limit {
    Scale(f64),
    Clamp(f64),
}

impl ModuleVisitor for Change<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let changed = match self.change {
                Limit::Scale(factor) => gradient * factor,
                Limit::Clamp(limit) => gradient.clamp(-limit, limit),
            };
            self.gradients.register::<D>(param.id, changed);
        }
    }
}

/// The Euclidean norm of all gradients of `module` together; 0 if there are none.
///
/// # Errors
/// If the norm cannot be read from the device.
pub fn gradient_norm<M: Module>(
    module: &M,
    gradients: &GradientsParams,
) -> Result<f32, ClippingError> {
    let mut squares = Squares {
        gradients,
        sums: Vec::new(),
    };
    module.visit(&mut squares);
    if squares.sums.is_empty() {
        return Ok(0.0);
    }
    // One reading from the device instead of one per parameter.
    Tensor::cat(squares.sums, 0)
        .sum()
        .sqrt()
        .try_into_scalar::<f32>()
        .map_err(|e| ClippingError(e.to_string()))
}

/// Limits the norm of all gradients together to `limit` (0 for no limit), and returns the norm before.
///
/// # Errors
/// If the norm cannot be read from the device.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::GradientsParams;
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::clipping::{clip_norm, gradient_norm};
///
/// let device = Device::flex().autodiff();
/// let layer: Linear = LinearConfig::new(4, 1).init(&device);
/// let loss = layer.forward(Tensor::<2>::ones([1, 4], &device)).sum();
/// let mut grads = GradientsParams::from_grads(loss.backward(), &layer); // all 1: four and a bias
/// assert!((clip_norm(&layer, &mut grads, 0.5)? - 5_f32.sqrt()).abs() < 1e-5);
/// assert!((gradient_norm(&layer, &grads)? - 0.5).abs() < 1e-5);
/// # Ok::<(), nabla_grad::clipping::ClippingError>(())
/// ```
pub fn clip_norm<M: Module>(
    module: &M,
    gradients: &mut GradientsParams,
    limit: f64,
) -> Result<f32, ClippingError> {
    let norm = gradient_norm(module, gradients)?;
    if limit > 0.0 && f64::from(norm) > limit {
        let change = Limit::Scale(limit / (f64::from(norm) + 1e-6));
        module.visit(&mut Change { gradients, change });
    }
    Ok(norm)
}

/// Limits each number of the gradients to `[-limit, limit]`.
pub fn clip_value<M: Module>(module: &M, gradients: &mut GradientsParams, limit: f64) {
    let change = Limit::Clamp(limit);
    module.visit(&mut Change { gradients, change });
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    fn gradients() -> (Linear, GradientsParams) {
        let device = Device::flex().autodiff();
        let layer: Linear = LinearConfig::new(2, 1).init(&device);
        let x = Tensor::<2>::from_floats([[3.0, -4.0]], &device);
        let grads = GradientsParams::from_grads(layer.forward(x).sum().backward(), &layer);
        (layer, grads)
    }

    fn numbers(layer: &Linear, grads: &GradientsParams) -> Vec<f32> {
        let weight = grads.get::<2>(layer.weight.id).unwrap().into_data();
        let bias = layer.bias.as_ref().unwrap().id;
        let bias = grads.get::<1>(bias).unwrap().into_data();
        weight.iter::<f32>().chain(bias.iter::<f32>()).collect()
    }

    #[test]
    fn the_norm_is_over_all_parameters_and_the_direction_stays() {
        // The gradient is (3, -4) and 1: a norm of √26.
        let (layer, mut grads) = gradients();
        let norm = clip_norm(&layer, &mut grads, 100.0).unwrap();
        assert!((f64::from(norm) - 26_f64.sqrt()).abs() < 1e-6);
        assert_eq!(numbers(&layer, &grads), [3.0, -4.0, 1.0]);
        clip_norm(&layer, &mut grads, 2.0).unwrap();
        let factor = (2.0 / 26_f64.sqrt()) as f32;
        for (found, expected) in numbers(&layer, &grads).iter().zip([3.0, -4.0, 1.0]) {
            assert!((found - expected * factor).abs() < 1e-6);
        }
        clip_norm(&layer, &mut grads, 0.0).unwrap();
        assert!((gradient_norm(&layer, &grads).unwrap() - 2.0).abs() < 1e-5);
    }

    #[test]
    fn values_are_limited_one_by_one() {
        let (layer, mut grads) = gradients();
        clip_value(&layer, &mut grads, 2.5);
        assert_eq!(numbers(&layer, &grads), [2.5, -2.5, 1.0]);
    }

    #[test]
    fn without_gradients_the_norm_is_0() {
        let (layer, _) = gradients();
        assert_eq!(gradient_norm(&layer, &GradientsParams::new()), Ok(0.0));
    }
}
