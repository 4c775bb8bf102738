//! AdjointDPM: the gradient of a loss of a finished sample, through all steps of the sampler, in the memory of one
//! step.
//!
//! A deterministic sampler solves the probability-flow equation of a network `ε(x, t, c)`. With
//!
//! ```text
//! y = (α_T/α_t) x_t,   ρ = α_T σ_t/α_t         (α_t the signal, σ_t the noise)
//! dy/dρ = ε((α_t/α_T) y, t(ρ), c)
//! ```
//!
//! its linear part is solved exactly, and what is left is not stiff ([`FlowForm::Rho`], the paper's form). For a
//! loss `L(x_0)`, the adjoint `a = ∂L/∂y` follows the equation
//!
//! ```text
//! da/dρ = −aᵀ ∂ε/∂y,   dG_θ/dρ = −aᵀ ∂ε/∂θ,   dG_c/dρ = −aᵀ ∂ε/∂c
//! ```
//!
//! from the sample back to the noise, where `a` is the gradient of the noise, and `G` those of the weights and of
//! the condition. Each evaluation is one product with a Jacobian, from the graph of one call.
//!
//! # Which gradient
//! The adjoint equation is that of the exact flow. Solved with finitely many steps, it is the gradient neither of
//! the flow nor of the sampler: with Euler's method it uses the Jacobian at the later end of each step, where
//! the sampler's own gradient has the one at the earlier end. Where steps are coarse against the noise (`τ_{i−1} > 2
//! τ_i`), the sign becomes wrong, and beyond 3 it diverges. So [`GradientMode::Exact`], the default, computes the
//! gradient of the sampler itself: each step is computed once more from the state at its beginning, and its graph
//! is followed backwards. This is back-propagation through the whole sampler, up to rounding.
//!
//! | mode | gradient | memory |
//! |---|---|---|
//! | [`Exact`](GradientMode::Exact) | of the sampler | one step's graph, and a state for each step |
//! | [`Adjoint`](GradientMode::Adjoint) | the paper's, from the states of the forward run | the same |
//! | [`Reintegrated`](GradientMode::Reintegrated) | the paper's, with the states solved backwards | one step's graph |
//!
//! A step is that of the method: one call of the network in Euler's, four in that of Runge and Kutta. Adams and
//! Bashforth's method has the graph of one call.
//!
//! # What the gradients are of
//! The gradient of the noise is always returned. A [`Wanted`] receives those of everything else: [`LeafGradient`]
//! of a tensor (an embedding), [`ModuleGradients`] of weights, a pair of both. What is wanted must require
//! gradients, and each call of the model must compute anew what follows from it, because Burn follows a graph
//! backwards only once.
//!
//! The model and its guidance must be functions of state and level: dropout off, no momentum. Otherwise the
//! recomputed steps are others, which is an error ([`AdjointError::NotRepeatable`]) where it shows.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::adjoint_dpm::{AdjointDpm, LeafGradient};
//! use nabla_diffusion::denoiser::{Prediction, denoiser};
//! use nabla_diffusion::level::Level;
//! use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
//! use nabla_diffusion::seeded_noise::SeededNoise;
//!
//! let device = Device::flex();
//! // The denoiser of data around a learned point.
//! let point = Tensor::<2>::zeros([1, 3], &device).autodiff().require_grad();
//! let model = denoiser(Prediction::Sample, |x: Tensor<2>, level: Level| {
//!     point.clone() + (x - point.clone() * level.signal()) * (0.1 * level.signal())
//! });
//! let levels = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 10)?.into();
//! let mut wanted = LeafGradient::new(point.clone());
//! let start = SeededNoise::new(42, 0).normal([4, 3], &device);
//!
//! let mut run = AdjointDpm::new().of(&model, &levels)?;
//! let found = run.gradient(start, &mut |sample| Ok((sample - 1.0).square().mean()), &mut wanted)?;
//! // Nearer to 1 is better.
//! assert!(wanted.gradient().max().into_scalar::<f32>() < 0.0);
//! assert_eq!(found.noise.dims(), [4, 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Pan, Liew, Tan, Feng, Yan, *AdjointDPM: Adjoint Sensitivity Method for Gradient Backpropagation of
//! Diffusion Probabilistic Models*, 2024, arXiv 2307.10711; Chen et al., *Neural Ordinary Differential Equations*,
//! 2018, arXiv 1806.07366 (the adjoint equation).

use burn::config::Config;
use burn::tensor::{Tensor, TensorData};
use nabla_base::range::OutOfRange;

use crate::denoiser::Denoiser;
use crate::guidance::Guidance;
use crate::level::Levels;
pub use crate::ode_method::OdeMethod;
use crate::sampler_error::{OwnError, SamplerError};

mod adversarial;
mod backward;
mod equation;
mod run;
mod style;
mod tuning;
mod wanted;

pub use adversarial::{AdversarialNoise, AdversarialSample};
use equation::Equation;
pub use run::{DifferentiableRun, LossGradient, Trajectory};
pub use style::{StyleLoss, StyleSample, content_distance, gram_matrix};
pub use tuning::{LossAndGradients, Tuning, TuningProgress};
pub use wanted::{LeafGradient, ModuleGradients, Wanted};

/// The form of the equation.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum FlowForm {
    /// The paper's form in `y` and `ρ`, whose right side is `ε` alone.
    Rho,
    /// The equation in the time of the path, `dx/dt = f x + g²/(2σ) ε`: the paper's baseline, stiff where little
    /// noise is left.
    Time,
}

nabla_base::choices! {
    FlowForm: "form" {
        "rho" => Self::Rho, "With the linear part solved exactly";
        "time" => Self::Time, "In the time of the path";
    }
}

/// Which gradient is computed; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum GradientMode {
    /// That of the sampler.
    Exact,
    /// The adjoint equation, solved with the same method, at the states of the forward run.
    Adjoint,
    /// The adjoint equation together with the equation itself, both solved backwards: no state is kept.
    Reintegrated,
}

nabla_base::choices! {
    GradientMode: "gradient" {
        "exact" => Self::Exact, "That of the sampler";
        "adjoint" => Self::Adjoint, "The adjoint equation, at the states of the run";
        "reintegrated" => Self::Reintegrated, "The adjoint equation, with the states solved backwards";
    }
}

/// Why a gradient cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum AdjointError {
    /// The sampler, the model or its guidance.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The loss failed.
    #[error("{0}")]
    Loss(#[source] OwnError),
    /// The loss does not depend on the sample.
    #[error("the loss does not depend on the sample")]
    NoDependence,
    /// A guidance that leaves the state.
    #[error(
        "a guidance that sets the sample apart from the direction, as CFG++ does, follows no equation of the \
         state alone: use another, such as classifier-free guidance"
    )]
    Apart,
    /// A recomputed step differs.
    #[error(
        "step {step} gave another result when it was computed again: the model or its guidance is no function of \
         the state alone (dropout, or a guidance with momentum)"
    )]
    NotRepeatable {
        /// The number of the step, from 1.
        step: usize,
    },
    /// The adjoint is not finite.
    #[error(
        "the gradient is not finite before step {step} (counted from 1): the steps are too long for the adjoint \
         equation, or the model's own gradient is not finite"
    )]
    NotFinite {
        /// The number of the step.
        step: usize,
    },
    /// The gradient of the sample has another shape.
    #[error("the gradient of the sample has the shape {found:?}, but the sample has {expected:?}")]
    Shape {
        /// Its shape.
        found: Vec<usize>,
        /// That of the sample.
        expected: Vec<usize>,
    },
}

impl From<OutOfRange> for AdjointError {
    fn from(error: OutOfRange) -> Self {
        Self::Sampler(error.into())
    }
}

/// The method; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct AdjointDpm {
    /// How the equation is solved. Default [`OdeMethod::Euler`], as in the paper's experiments.
    #[config(default = "OdeMethod::Euler")]
    pub method: OdeMethod,
    /// The form of the equation. Default [`FlowForm::Rho`].
    #[config(default = "FlowForm::Rho")]
    pub form: FlowForm,
    /// Which gradient is computed. Default [`GradientMode::Exact`].
    #[config(default = "GradientMode::Exact")]
    pub mode: GradientMode,
}

impl AdjointDpm {
    /// Prepares runs of a model, without guidance.
    ///
    /// - `levels`: of the run, whose first level must have some signal. If it ends without noise, the last step
    ///   is DDIM's, with its exact gradient in every mode
    ///
    /// # Errors
    /// If the levels do not fit the form.
    pub fn of<'a, const D: usize>(
        &self,
        model: &'a dyn Denoiser<D>,
        levels: &'a Levels,
    ) -> Result<DifferentiableRun<'a, D>, AdjointError> {
        let equation = Equation::new(self.form, levels)?;
        Ok(DifferentiableRun::new(*self, equation, model))
    }
}

/// The only number of a tensor, or NaN.
fn number(value: Tensor<1>) -> f64 {
    let data: TensorData = value.inner().into_data().convert::<f64>();
    data.iter::<f64>().next().unwrap_or(f64::NAN)
}

/// Borrows a guidance, if there is one.
fn lent<'b, const D: usize>(
    guidance: &'b mut Option<&mut dyn Guidance<D>>,
) -> Option<&'b mut dyn Guidance<D>> {
    match guidance {
        Some(guidance) => Some(&mut **guidance),
        None => None,
    }
}

#[cfg(test)]
mod tests;
