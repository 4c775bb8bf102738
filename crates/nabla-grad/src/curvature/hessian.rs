//! The Hessian of a loss, from differences of its gradient.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use nabla_base::range;

use super::difference::{Difference, DifferenceConfig, DirectionalDerivative};
use super::{CurvatureError, CurvatureOperator, Product, expect_dim, values};
use crate::flat::ParameterLayout;
use crate::training_mode::{batch_norm_in_training, moved_since, statistics, training_layers};

/// The gradient of a loss as a function of the flat parameters.
///
/// Implemented for closures, and for modules by [`ModuleLoss`].
pub trait GradientField {
    /// `∇L(θ)`, `[parameters]` without autodiff, for `θ` `[parameters]` without autodiff.
    ///
    /// # Errors
    /// If there is no such gradient.
    fn gradient(&self, parameters: &Tensor<1>) -> Result<Tensor<1>, CurvatureError>;

    /// Refuses a gradient that is not a fixed function of the parameters, as far as this can be detected. It
    /// is called once, with the parameters of an operator. The default implementation accepts everything.
    ///
    /// # Errors
    /// If it is not a fixed function.
    fn check(&self, parameters: &Tensor<1>) -> Result<(), CurvatureError> {
        let _ = parameters;
        Ok(())
    }
}

impl<F> GradientField for F
where
    F: Fn(&Tensor<1>) -> Result<Tensor<1>, CurvatureError>,
{
    fn gradient(&self, parameters: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        self(parameters)
    }
}

/// The gradient of a module's loss in the order of its [`ParameterLayout`].
#[derive(Clone, Debug)]
pub struct ModuleLoss<M, F> {
    module: M,
    layout: ParameterLayout,
    loss: F,
}

impl<M: Module, F: Fn(&M) -> Tensor<1>> ModuleLoss<M, F> {
    /// `loss` returns the loss, `[1]`, of a module that differs from `module` in the parameters of `layout`.
    /// The module must live on an autodiff device. Parameters that the loss does not depend on have the
    /// gradient 0.
    pub fn new(module: M, layout: ParameterLayout, loss: F) -> Self {
        Self {
            module,
            layout,
            loss,
        }
    }

    /// The module's own parameters, `[parameters]`.
    ///
    /// # Errors
    /// If the layout is not that of the module.
    pub fn parameters(&self) -> Result<Tensor<1>, CurvatureError> {
        Ok(self.layout.flatten_parameters(&self.module)?)
    }
}

impl<M: Module, F: Fn(&M) -> Tensor<1>> GradientField for ModuleLoss<M, F> {
    /// # Errors
    /// Also if a batch normalisation is in training mode, or the layout has a tensor without gradient.
    fn gradient(&self, parameters: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        let module = placed(&self.module, &self.layout, parameters)?;
        let loss = (self.loss)(&module);
        if !loss.is_tracked() {
            return Err(CurvatureError::NoGradient { what: "loss" });
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &module);
        Ok(self.layout.flatten_gradients_or_zeros(&gradients)?)
    }

    fn check(&self, parameters: &Tensor<1>) -> Result<(), CurvatureError> {
        check_fixed(&self.module, || self.gradient(parameters))
    }
}

/// `module` at `parameters`, if its function there can be differentiated.
pub(super) fn placed<M: Module>(
    module: &M,
    layout: &ParameterLayout,
    parameters: &Tensor<1>,
) -> Result<M, CurvatureError> {
    if let Some(layer) = batch_norm_in_training(module) {
        return Err(CurvatureError::Training { layer });
    }
    if let Some(name) = layout.without_gradient(module) {
        return Err(CurvatureError::NotTrainable { name });
    }
    Ok(layout.with_parameters(module.clone(), parameters.clone())?)
}

/// Evaluates a function of `module` twice, if this can reveal statistics that move or values that differ.
pub(super) fn check_fixed<M: Module, const D: usize>(
    module: &M,
    function: impl Fn() -> Result<Tensor<D>, CurvatureError>,
) -> Result<(), CurvatureError> {
    let before = statistics(module);
    let layers = training_layers(module);
    if before.is_empty() && layers.is_empty() {
        return Ok(());
    }
    let (first, second) = (values(&function()?)?, values(&function()?)?);
    if let Some(name) = moved_since(&before, module) {
        return Err(CurvatureError::Moved { name });
    }
    let size = |values: &[f64]| values.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    let change: Vec<f64> = first.iter().zip(&second).map(|(a, b)| a - b).collect();
    // The sums of a parallel device may differ in their last bits.
    if layers.is_empty() || size(&change) <= 1e-4 * size(&first).max(size(&second)) {
        Ok(())
    } else {
        Err(CurvatureError::RandomLayers { layers })
    }
}

/// The Hessian of a loss, by central differences of its gradient; see the
/// [module documentation](super).
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::curvature::{CurvatureOperator, DifferenceConfig, Hessian, ModuleLoss};
/// use nabla_grad::flat::ParameterLayout;
///
/// let device = Device::flex().autodiff();
/// let module: Linear = LinearConfig::new(2, 1).init(&device);
/// let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
/// let layout = ParameterLayout::trainable(&module)?;
/// let loss = ModuleLoss::new(module, layout, move |m: &Linear| m.forward(x.clone()).square().sum());
/// let at = loss.parameters()?;
/// let hessian = Hessian::new(loss, at, DifferenceConfig::new())?;
/// // The weight's part of the Hessian is 2 xᵀ x.
/// let product = hessian.apply_values(&[1.0, 0.0, 0.0])?;
/// assert!((product[0] - 20.0).abs() < 1e-2 && (product[1] - 28.0).abs() < 1e-2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Hessian<G> {
    gradient: G,
    derivative: DirectionalDerivative,
}

impl<G: GradientField> Hessian<G> {
    /// Creates the Hessian at the parameters `at`, `[parameters]`. This evaluates the gradient 8 times to
    /// measure its rounding, and then up to [`MOST_STEPS`](super::MOST_STEPS) pairs of times to find a first
    /// step.
    ///
    /// # Errors
    /// If a number of the configuration is out of range, a parameter is not finite, or the gradient
    /// fails or differs between two evaluations.
    pub fn new(
        gradient: G,
        at: Tensor<1>,
        config: DifferenceConfig,
    ) -> Result<Self, CurvatureError> {
        let at = at.without_autodiff();
        gradient.check(&at)?;
        let (device, dtype) = (at.device(), at.dtype());
        let field = |theta: &[f64]| evaluate(&gradient, theta, &device, dtype);
        let derivative = DirectionalDerivative::new(&field, &at, config, "gradient", None)?;
        expect_dim("gradient", derivative.dim(), derivative.centre().len())?;
        Ok(Self {
            gradient,
            derivative,
        })
    }

    /// The Hessian of another function of as many parameters, such as the loss of more examples, with this one's steps and
    /// this one's share of rounding. It evaluates the gradient once, where [`new`](Self::new) does 8 times and more.
    ///
    /// # Errors
    /// If there are more or fewer parameters, or the gradient fails or is not finite.
    pub fn like<H: GradientField>(
        &self,
        gradient: H,
        at: Tensor<1>,
    ) -> Result<Hessian<H>, CurvatureError> {
        let at = at.without_autodiff();
        gradient.check(&at)?;
        let (device, dtype) = (at.device(), at.dtype());
        let field = |theta: &[f64]| evaluate(&gradient, theta, &device, dtype);
        let derivative = self.derivative.like(&field, &at, "gradient")?;
        Ok(Hessian {
            gradient,
            derivative,
        })
    }

    /// Takes differences of this step, as a multiple of `v`, from now on, such as the step that a
    /// [`product`](Self::product) has found.
    ///
    /// # Errors
    /// If it is not positive.
    pub fn with_step(mut self, step: f64) -> Result<Self, CurvatureError> {
        self.derivative.fix_step(step)?;
        Ok(self)
    }

    /// `H v` with a bound of its error and its extrapolation.
    ///
    /// # Errors
    /// If `v` has another length than the parameters, is not finite, or a gradient fails.
    pub fn product(&self, v: &Tensor<1>) -> Result<Difference<1>, CurvatureError> {
        self.searched(v, None)
    }

    /// [`product`](Self::product), but an automatic step is searched from `step` on, a multiple of `v`.
    ///
    /// # Errors
    /// As [`product`](Self::product), and if the step is not positive.
    pub fn product_from(&self, v: &Tensor<1>, step: f64) -> Result<Difference<1>, CurvatureError> {
        range::positive("finite-difference step", step)?;
        self.searched(v, Some(step))
    }

    /// `H v` by a difference with this step, a multiple of `v`, in two gradients (four at fourth order).
    ///
    /// # Errors
    /// As [`product`](Self::product), and if the step is not positive.
    pub fn product_with(&self, v: &Tensor<1>, step: f64) -> Result<Tensor<1>, CurvatureError> {
        range::positive("finite-difference step", step)?;
        let derivative = &self.derivative;
        let found = derivative.value_with(&|theta| self.field(theta), &values(v)?, step)?;
        Ok(match found {
            Some(found) => derivative.tensor(&found),
            None => v.zeros_like(),
        })
    }

    fn searched(&self, v: &Tensor<1>, step: Option<f64>) -> Result<Difference<1>, CurvatureError> {
        let derivative = &self.derivative;
        let found = derivative.along_from(&|theta| self.field(theta), &values(v)?, step)?;
        Ok(match found {
            Some(found) => Difference {
                value: derivative.tensor(&found.value),
                extrapolated: derivative.tensor(&found.extrapolated),
                // Converting to the parameters' type rounds the numbers once more.
                error: found.error + derivative.epsilon() * super::norm(&found.value),
                step: found.step,
            },
            None => Difference {
                value: v.zeros_like(),
                extrapolated: v.zeros_like(),
                error: 0.0,
                step: 0.0,
            },
        })
    }

    fn field(&self, theta: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        let derivative = &self.derivative;
        evaluate(
            &self.gradient,
            theta,
            derivative.device(),
            derivative.dtype(),
        )
    }
}

/// The gradient at parameters on the host.
fn evaluate(
    gradient: &impl GradientField,
    theta: &[f64],
    device: &Device,
    dtype: DType,
) -> Result<Vec<f64>, CurvatureError> {
    let found = gradient.gradient(&super::on_device(theta, device, dtype))?;
    values(&found)
}

impl<G: GradientField> CurvatureOperator for Hessian<G> {
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
