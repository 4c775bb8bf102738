//! The Gauss-Newton matrix, from differences of a model's outputs.

use std::sync::OnceLock;

use burn::config::Config;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Tensor, TensorData};

use nabla_base::range;

use super::difference::{Difference, DifferenceConfig, DirectionalDerivative};
use super::hessian::{check_fixed, placed};
use super::{CurvatureError, CurvatureOperator, Product, expect_dim, norm, on_device, values};
use crate::flat::ParameterLayout;

/// The outputs of a model as a function of the flat parameters.
///
/// [`ModuleOutputs`] implements this for modules.
pub trait OutputFunction {
    /// `z(θ)`, `[examples, outputs]` without autodiff, for `θ` `[parameters]`.
    ///
    /// # Errors
    /// If the outputs cannot be computed.
    fn outputs(&self, parameters: &Tensor<1>) -> Result<Tensor<2>, CurvatureError>;

    /// `Jᵀ u`, `[parameters]`, for `u` `[examples, outputs]`: exact, by one backward pass.
    ///
    /// # Errors
    /// If the outputs have no gradient.
    fn pull_back(
        &self,
        parameters: &Tensor<1>,
        cotangent: Tensor<2>,
    ) -> Result<Tensor<1>, CurvatureError>;

    /// As [`GradientField::check`](super::GradientField::check).
    ///
    /// # Errors
    /// If the outputs are not a fixed function of the parameters.
    fn check(&self, parameters: &Tensor<1>) -> Result<(), CurvatureError> {
        let _ = parameters;
        Ok(())
    }
}

/// The outputs of a module on fixed inputs.
#[derive(Clone, Debug)]
pub struct ModuleOutputs<M, F> {
    module: M,
    layout: ParameterLayout,
    outputs: F,
}

impl<M: Module, F: Fn(&M) -> Tensor<2>> ModuleOutputs<M, F> {
    /// `outputs` returns the outputs, `[examples, outputs]`, of a module that differs from `module` in the
    /// parameters of `layout`. The module must live on an autodiff device.
    pub fn new(module: M, layout: ParameterLayout, outputs: F) -> Self {
        Self {
            module,
            layout,
            outputs,
        }
    }

    /// The module's own parameters, `[parameters]`.
    ///
    /// # Errors
    /// If the layout is not that of the module.
    pub fn parameters(&self) -> Result<Tensor<1>, CurvatureError> {
        Ok(self.layout.flatten_parameters(&self.module)?)
    }

    fn module_at(&self, parameters: &Tensor<1>) -> Result<M, CurvatureError> {
        placed(&self.module, &self.layout, parameters)
    }
}

impl<M: Module, F: Fn(&M) -> Tensor<2>> OutputFunction for ModuleOutputs<M, F> {
    fn outputs(&self, parameters: &Tensor<1>) -> Result<Tensor<2>, CurvatureError> {
        Ok((self.outputs)(&self.module_at(parameters)?).without_autodiff())
    }

    fn pull_back(
        &self,
        parameters: &Tensor<1>,
        cotangent: Tensor<2>,
    ) -> Result<Tensor<1>, CurvatureError> {
        let module = self.module_at(parameters)?;
        let outputs = (self.outputs)(&module);
        if !outputs.is_tracked() {
            return Err(CurvatureError::NoGradient { what: "output" });
        }
        // The gradient of ⟨z, u⟩ with u held fixed is Jᵀ u.
        let product = (outputs * cotangent.autodiff()).sum();
        let gradients = GradientsParams::from_grads(product.backward(), &module);
        Ok(self.layout.flatten_gradients_or_zeros(&gradients)?)
    }

    fn check(&self, parameters: &Tensor<1>) -> Result<(), CurvatureError> {
        check_fixed(&self.module, || self.outputs(parameters))
    }
}

/// `H_z`, the Hessian of the loss of one example in the model's outputs `z`.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum OutputLoss {
    /// `½ ‖z − y‖²`: the identity.
    SquaredError,
    /// `−log softmax(z)_y`: `diag(p) − p pᵀ` with `p = softmax(z)`.
    SoftmaxCrossEntropy,
}

/// The generalised Gauss-Newton matrix `scale · Σ_i J_iᵀ H_z J_i`; see the
/// [module documentation](super).
///
/// It does not depend on the targets.
#[derive(Clone, Debug)]
pub struct GaussNewton<O> {
    model: O,
    /// Of `θ′ ↦ scale · Jᵀ H_z (z(θ′) − z(θ))`, with `J` and `H_z` at `θ`.
    derivative: DirectionalDerivative,
    /// Of `z` itself, once it is asked for.
    outputs: OnceLock<DirectionalDerivative>,
    config: DifferenceConfig,
    /// `[parameters]`.
    at: Tensor<1>,
    /// `z(θ)`, `[examples, outputs]`.
    centre: Vec<f64>,
    shape: [usize; 2],
    /// `p`, `[examples, outputs]`, for the cross-entropy.
    probabilities: Option<Tensor<2>>,
    scale: f64,
}

impl<O: OutputFunction> GaussNewton<O> {
    /// Creates the matrix at the parameters `at`, `[parameters]`. `scale` is the factor of each example's
    /// loss in the total loss: 1 for a sum, `1 / examples` for a mean, `2 / (examples · outputs)` for Burn's
    /// `MseLoss` with mean reduction.
    ///
    /// # Errors
    /// If a number of the configuration is out of range, `scale` or a parameter is not finite, or the outputs
    /// fail or differ between two evaluations.
    pub fn new(
        model: O,
        at: Tensor<1>,
        loss: OutputLoss,
        scale: f64,
        config: DifferenceConfig,
    ) -> Result<Self, CurvatureError> {
        range::finite("scale of the loss", scale)?;
        let at = at.without_autodiff();
        model.check(&at)?;
        let outputs = model.outputs(&at)?.without_autodiff();
        let shape = outputs.dims();
        let centre = values(&outputs)?;
        let probabilities = match loss {
            OutputLoss::SquaredError => None,
            OutputLoss::SoftmaxCrossEntropy => Some(softmax(outputs, 1)),
        };
        let z = |theta: &[f64]| outputs_at(&model, theta, &at.device(), at.dtype());
        let pulled = |theta: &[f64]| {
            let change = difference(&z(theta)?, &centre)?;
            pull_back(&model, &at, &change, shape, probabilities.as_ref(), scale)
        };
        // At `at` the change is 0, so the difference of repeated values is measured relative to the norm of the
        // pulled-back outputs instead.
        let size = norm(&pull_back(
            &model,
            &at,
            &centre,
            shape,
            probabilities.as_ref(),
            scale,
        )?);
        let size = Some(size);
        let derivative = DirectionalDerivative::new(&pulled, &at, config, "output", size)?;
        expect_dim("product", derivative.dim(), derivative.centre().len())?;
        Ok(Self {
            derivative,
            outputs: OnceLock::new(),
            config,
            centre,
            shape,
            probabilities,
            scale,
            model,
            at,
        })
    }

    /// `J v`, `[examples, outputs]`, with a bound of its error. `None` if `v = 0`. The first call finds a step, as
    /// [`new`](Self::new) does for products.
    ///
    /// # Errors
    /// If `v` has another length than the parameters, is not finite, or the outputs fail.
    pub fn output_change(&self, v: &Tensor<1>) -> Result<Option<Difference<2>>, CurvatureError> {
        let z = |theta: &[f64]| self.z(theta);
        let outputs = match self.outputs.get() {
            Some(outputs) => outputs,
            None => {
                let new = DirectionalDerivative::new(&z, &self.at, self.config, "output", None)?;
                self.outputs.get_or_init(|| new)
            }
        };
        let found = outputs.along(&z, &values(v)?)?;
        Ok(found.map(|found| {
            let tensor = |values: &[f64]| outputs.tensor(values).reshape(self.shape);
            Difference {
                value: tensor(&found.value),
                extrapolated: tensor(&found.extrapolated),
                error: found.error + outputs.epsilon() * norm(&found.value),
                step: found.step,
            }
        }))
    }

    /// `z(θ)`, `[examples, outputs]`.
    pub fn outputs(&self) -> Tensor<2> {
        let values = TensorData::new(self.centre.clone(), self.shape);
        Tensor::from_data(values, (&self.at.device(), self.at.dtype()))
    }

    fn z(&self, theta: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        outputs_at(&self.model, theta, &self.at.device(), self.at.dtype())
    }

    fn field(&self, theta: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        let change = difference(&self.z(theta)?, &self.centre)?;
        let probabilities = self.probabilities.as_ref();
        pull_back(
            &self.model,
            &self.at,
            &change,
            self.shape,
            probabilities,
            self.scale,
        )
    }
}

/// `z`, `[examples · outputs]`, at parameters on the host.
fn outputs_at(
    model: &impl OutputFunction,
    theta: &[f64],
    device: &Device,
    dtype: DType,
) -> Result<Vec<f64>, CurvatureError> {
    values(&model.outputs(&on_device(theta, device, dtype))?)
}

fn difference(a: &[f64], b: &[f64]) -> Result<Vec<f64>, CurvatureError> {
    expect_dim("output", b.len(), a.len())?;
    Ok(a.iter().zip(b).map(|(a, b)| a - b).collect())
}

/// `scale · Jᵀ H_z u` for `u`, `[examples · outputs]`.
fn pull_back(
    model: &impl OutputFunction,
    at: &Tensor<1>,
    u: &[f64],
    shape: [usize; 2],
    probabilities: Option<&Tensor<2>>,
    scale: f64,
) -> Result<Vec<f64>, CurvatureError> {
    let data = TensorData::new(u.to_vec(), shape);
    let u = Tensor::<2>::from_data(data, (&at.device(), at.dtype()));
    let product = match probabilities {
        None => u,
        Some(p) => {
            let mean = (p.clone() * u.clone()).sum_dim(1); // pᵀ u, [examples, 1]
            p.clone() * (u - mean)
        }
    };
    values(&model.pull_back(at, product * scale)?)
}

impl<O: OutputFunction> CurvatureOperator for GaussNewton<O> {
    fn dim(&self) -> usize {
        self.derivative.dim()
    }

    fn device(&self) -> Device {
        self.derivative.device().clone()
    }

    fn dtype(&self) -> DType {
        self.derivative.dtype()
    }

    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        self.derivative.apply(&|theta| self.field(theta), v)
    }

    fn apply_values(&self, v: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        self.derivative.apply_values(&|theta| self.field(theta), v)
    }

    fn apply_with_error(&self, v: &[f64]) -> Result<Product, CurvatureError> {
        self.derivative
            .apply_with_error(&|theta| self.field(theta), v)
    }
}
