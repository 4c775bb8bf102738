//! A step that refuses gradients that would make the weights NaN.
//!
//! After a step, one NaN in a gradient is in every moment of its parameter and in the weight, and after the
//! next forward pass it is everywhere. [`checked_step`] checks the gradients first, which takes one more pass
//! over them, and names the parameter. [`check_gradients`] only checks, for a loop that wants to skip the
//! step and keep the module.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, LearningRate, ModuleOptimizer};
use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use nabla_grad::elementwise::all_finite;
use nabla_grad::module_path::ModulePath;

/// The reason why a step was not taken. The optimizer is unchanged.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StepError {
    /// The learning rate is NaN, infinite or negative.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The module has no parameter that an optimizer could change.
    #[error("the module has no parameters of floating-point numbers")]
    NoParameters,
    /// There is no gradient for any parameter of the module.
    #[error(
        "none of the module's parameters has a gradient: was the loss computed with this module?"
    )]
    NoGradients,
    /// The shape of a gradient differs from that of its parameter.
    #[error(
        "the parameter {parameter:?} has the shape {expected:?}, but its gradient has {}",
        describe(.found)
    )]
    Shape {
        /// Path of the parameter in the module.
        parameter: String,
        /// Shape of the parameter.
        expected: Vec<usize>,
        /// Shape of the gradient; `None` if its rank differs.
        found: Option<Vec<usize>>,
    },
    /// A gradient contains NaN or infinity.
    #[error("the gradient of the parameter {parameter:?} is not finite")]
    NotFinite {
        /// Path of the parameter in the module.
        parameter: String,
    },
}

fn describe(found: &Option<Vec<usize>>) -> String {
    match found {
        Some(shape) => format!("the shape {shape:?}"),
        None => "another rank".into(),
    }
}

/// Updates `module` as [`ModuleOptimizer::step`] does, unless that would put NaN or infinity into it.
///
/// # Errors
/// If the learning rate is negative or not finite, the module has no parameters, no parameter has a gradient,
/// or a gradient is not finite or has the wrong shape. The optimizer is then unchanged; call
/// [`check_gradients`] first to keep the module, too.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::GradientsParams;
/// use burn::tensor::{Device, Tensor};
/// use nabla_optim::adamp::AdamPConfig;
/// use nabla_optim::checked_step::{StepError, checked_step};
///
/// let device = Device::flex().autodiff();
/// let layer: Linear = LinearConfig::new(4, 2).init(&device);
/// let mut optimizer = AdamPConfig::new().init()?;
/// let loss = layer.forward(Tensor::<2>::ones([1, 4], &device)).sum() * f32::NAN;
/// let grads = GradientsParams::from_grads(loss.backward(), &layer);
/// let error = checked_step(&mut optimizer, 1e-3, layer, grads).err();
/// let parameter = "weight".to_string();
/// assert_eq!(error, Some(StepError::NotFinite { parameter }));
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
pub fn checked_step<M: Module>(
    optimizer: &mut ModuleOptimizer,
    lr: LearningRate,
    module: M,
    grads: GradientsParams,
) -> Result<M, StepError> {
    range::not_negative("learning rate", lr)?;
    check_gradients(&module, &grads)?;
    Ok(optimizer.step(lr, module, grads))
}

/// Checks that a step of `module` along `grads` is possible and leaves it finite. On a GPU, this waits for
/// each gradient.
///
/// # Errors
/// Those of [`checked_step`], except for the learning rate.
pub fn check_gradients<M: Module>(module: &M, grads: &GradientsParams) -> Result<(), StepError> {
    let mut check = Check {
        grads,
        path: ModulePath::default(),
        parameters: 0,
        found: 0,
        error: None,
    };
    module.visit(&mut check);
    match check {
        Check {
            error: Some(error), ..
        } => Err(error),
        Check { parameters: 0, .. } => Err(StepError::NoParameters),
        Check { found: 0, .. } => Err(StepError::NoGradients),
        _ => Ok(()),
    }
}

struct Check<'a> {
    grads: &'a GradientsParams,
    path: ModulePath,
    parameters: usize,
    found: usize,
    /// The first one.
    error: Option<StepError>,
}

impl ModuleVisitor for Check<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.parameters += 1;
        if self.error.is_some() {
            return;
        }
        let parameter = || self.path.name();
        let expected = param.shape().to_vec();
        // Burn looks up a gradient by its rank, and panics if the rank differs.
        let grad = catch_unwind(AssertUnwindSafe(|| self.grads.get::<D>(param.id)));
        self.error = match grad {
            Ok(None) => return,
            Err(_) => Some(StepError::Shape {
                parameter: parameter(),
                expected,
                found: None,
            }),
            Ok(Some(grad)) if grad.dims().as_slice() != expected => Some(StepError::Shape {
                parameter: parameter(),
                expected,
                found: Some(grad.dims().to_vec()),
            }),
            Ok(Some(grad)) if !all_finite(grad.clone()) => Some(StepError::NotFinite {
                parameter: parameter(),
            }),
            Ok(Some(_)) => None,
        };
        self.found += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig, Relu};
    use burn::tensor::Device;

    use crate::diffgrad::DiffGradConfig;

    fn layer() -> Linear {
        LinearConfig::new(3, 2).init(&Device::flex().autodiff())
    }

    fn grads(layer: &Linear, scale: f32) -> GradientsParams {
        let x = Tensor::<2>::ones([1, 3], &layer.weight.val().device());
        GradientsParams::from_grads((layer.forward(x).sum() * scale).backward(), layer)
    }

    #[test]
    fn a_sound_step_is_burns() {
        let layer = layer();
        let mut optimizer = DiffGradConfig::new().init().unwrap();
        let mut burns = optimizer.clone();
        let checked = checked_step(&mut optimizer, 0.1, layer.clone(), grads(&layer, 1.0)).unwrap();
        let gradients = grads(&layer, 1.0);
        let expected = burns.step(0.1, layer.clone(), gradients);
        let weight = checked.weight.val().to_data();
        assert_eq!(weight, expected.weight.val().to_data());
        assert_ne!(weight, layer.weight.val().to_data());
    }

    #[test]
    fn bad_gradients_are_named_and_leave_the_optimizer_as_it_was() {
        let layer = layer();
        let mut optimizer = DiffGradConfig::new().init().unwrap();
        for scale in [f32::NAN, f32::INFINITY] {
            let gradients = grads(&layer, scale);
            let error = checked_step(&mut optimizer, 0.1, layer.clone(), gradients).unwrap_err();
            let parameter = "weight".to_string();
            assert_eq!(error, StepError::NotFinite { parameter });
        }
        assert!(optimizer.to_record().is_empty());

        let device = Device::flex();
        let mut gradients = grads(&layer, 1.0);
        gradients.register(layer.weight.id, Tensor::<2>::ones([2, 3], &device));
        assert_eq!(
            check_gradients(&layer, &gradients),
            Err(StepError::Shape {
                parameter: "weight".into(),
                expected: vec![3, 2],
                found: Some(vec![2, 3]),
            })
        );
        let mut gradients = grads(&layer, 1.0);
        let bias = layer.bias.as_ref().unwrap();
        gradients.register(bias.id, Tensor::<3>::ones([1, 1, 2], &device));
        let error = check_gradients(&layer, &gradients).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the parameter \"bias\" has the shape [2], but its gradient has another rank"
        );
    }

    #[test]
    fn missing_parameters_and_gradients_are_errors() {
        let layer = layer();
        let mut optimizer = DiffGradConfig::new().init().unwrap();
        let mut step = |lr, grads| checked_step(&mut optimizer, lr, layer.clone(), grads).err();
        let none = GradientsParams::new;
        assert_eq!(step(0.1, none()), Some(StepError::NoGradients));
        for rate in [-1.0, f64::NAN] {
            let told = step(rate, none()).unwrap().to_string();
            let expected =
                format!("the learning rate is {rate}, but it must be at least 0 and finite");
            assert_eq!(told, expected);
        }
        let empty = check_gradients(&Relu::new(), &none());
        assert_eq!(empty, Err(StepError::NoParameters));
    }

    /// A parameter that the loss does not depend on has no gradient and stays as it is.
    #[test]
    fn one_gradient_is_enough() {
        let layer = layer();
        let mut gradients = GradientsParams::new();
        let ones = Tensor::<2>::ones([3, 2], &Device::flex());
        gradients.register(layer.weight.id, ones);
        assert_eq!(check_gradients(&layer, &gradients), Ok(()));
    }
}
