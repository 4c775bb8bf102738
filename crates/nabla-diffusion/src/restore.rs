//! Restoring a picture from a linear measurement of it, with a diffusion model as the prior.
//!
//! ```text
//! y = A x + n,   n ~ N(0, σ_y² I)
//! ```
//!
//! `A` is a [`LinearOperator`]: [`Separable`] (super-resolution, blur), [`Inpainting`], [`Blur`] by any kernel,
//! [`MultiCoilMri`], [`Radon`] (parallel and fan beam), [`MatrixOperator`], or your own. [`operators()`] has them by
//! name, with options by name.
//!
//! A [`Restorer`] is a method, for any [`Denoiser`]:
//!
//! | name | method | gradients through the network | noise |
//! |---|---|---|---|
//! | `dds` | [`Dds`]: conjugate gradients on the denoised estimate; volumes with total variation | no | yes |
//! | `ddnm` | [`Ddnm`]: replaces what was measured; DDNM+ with noise | no | with known singular values |
//! | `pigdm` | [`PiGdm`]: the pseudo-inverse as guidance | yes | yes |
//! | `dps` | [`Dps`]: the gradient of the distance to the measurement | yes | yes |
//!
//! Each is made of the parts of every run ([`Parts`]): a sampler, a guidance, corrections. So each works with any
//! model, on any path (variance preserving and exploding), and [`Restoration::sampled_by`] combines it with another
//! sampler. Where a gradient through the network is needed, `∇_x ½‖y − A x̂_0(x)‖² = −Jᵀ Aᵀ(y − A x̂_0)`: the
//! network is differentiated, the operator only has its adjoint applied.
//!
//! ```
//! use std::sync::Arc;
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
//! use nabla_diffusion::restore::{Dds, Inpainting, Problem, Restoration};
//! use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
//!
//! let device = Device::flex();
//! // A model of bright pictures, half of whose pixels are known, and dark.
//! let model = GaussianDenoiser::new(
//!     Tensor::<4>::ones([1, 1, 4, 4], &device),
//!     Tensor::ones([1, 1, 4, 4], &device) * 1e-4,
//!     Prediction::Epsilon,
//! );
//! let known = Inpainting::new([1, 4, 4], (0..16).map(|i| i < 8).collect())?;
//! let y = Tensor::zeros([1, 1, 4, 4], &device);
//! let problem = Problem::new(Arc::new(known), y, 0.0)?;
//! let levels = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 20)?.into();
//! let found = Restoration::new(&Dds::new(), &problem, &levels).run(&model, 42)?;
//! let rows: Vec<f32> = found.sample.try_into_vec_as().unwrap();
//! assert!(rows[..8].iter().all(|v| v.abs() < 1e-3) && rows[8..].iter().all(|v| *v > 0.8));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Sources: see the file of each method and operator.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use nabla_base::range::{self, OutOfRange};

use crate::correction::Correction;
use crate::denoiser::Denoiser;
use crate::guidance::{Evaluations, Guidance};
use crate::level::Levels;
use crate::registry::Registry;
use crate::sampler::{Sampler, Sampling, Solver};
use crate::sampler_error::SamplerError;
use crate::seeded_noise::SeededNoise;

pub mod coil_maps;
mod conjugate_gradient;
pub mod ddnm;
pub mod dds;
mod differentiated;
pub mod dps;
mod fourier;
mod operator;
pub mod operators;
pub mod pigdm;
pub mod prior_denoiser;
mod pulled;
mod recipe;
mod renoising;
mod sampling_mask;
pub mod trained_prior;
pub mod volume;

pub use coil_maps::{CoilMaps, Espirit};
pub use conjugate_gradient::{ConjugateGradient, Coupling, Solved};
pub use ddnm::Ddnm;
pub use dds::{Consistency, Dds};
pub use dps::Dps;
pub use operator::{Decomposed, LinearOperator, OperatorError};
pub use operators::{
    Blur, Boundary, FanBeam, Inpainting, MatrixOperator, MultiCoilMri, ParallelBeam, Radon,
    Reduction, Separable, bicubic_taps, views as radon_views,
};
pub use pigdm::{PiGdm, Weighting};
pub use prior_denoiser::PriorDenoiser;
pub use pulled::Pull;
pub use recipe::{
    BlurRecipe, Given, InpaintingRecipe, MriRecipe, OperatorRecipe, RadonRecipe, Rays,
    SuperResolutionRecipe, operators,
};
pub use renoising::Renoising;
pub use sampling_mask::SamplingPattern;
pub use trained_prior::{RunOptions, TrainedPrior, TrainedPriorError};
pub use volume::TotalVariation;

/// The reason why a picture cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The operator cannot be built or applied.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The run failed or was stopped.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The method needs the singular values of the operator.
    #[error(
        "{method} needs the singular values of the operator when the measurement is noisy, but those of \
         {operator} are not known: use dds or pigdm"
    )]
    NoSingularValues {
        /// The method.
        method: &'static str,
        /// The operator, with its article.
        operator: &'static str,
    },
}

/// What was measured, and how.
#[derive(Clone, Debug)]
pub struct Problem<const D: usize = 4> {
    operator: Arc<dyn LinearOperator<D>>,
    /// `[batch, range…]`.
    measurement: Tensor<D>,
    noise: f64,
}

impl<const D: usize> Problem<D> {
    /// - `measurement`: `y`, `[batch, range…]`
    /// - `noise`: `σ_y`, the standard deviation of the noise in each number of `y`; 0 if there is none
    ///
    /// # Errors
    /// If the measurement does not fit the operator, or the noise is negative.
    pub fn new(
        operator: Arc<dyn LinearOperator<D>>,
        measurement: Tensor<D>,
        noise: f64,
    ) -> Result<Self, RestoreError> {
        let range = operator.range();
        operator::check_shape(operator.name(), "measurement", &measurement, &range)?;
        range::not_negative("noise of the measurement", noise)?;
        Ok(Self {
            operator,
            measurement,
            noise,
        })
    }

    /// Measures a picture: `y = A x + σ_y n`.
    ///
    /// - `x`: `[batch, domain…]`
    ///
    /// # Errors
    /// If the picture does not fit the operator, or the noise is negative.
    pub fn simulated(
        operator: Arc<dyn LinearOperator<D>>,
        x: Tensor<D>,
        noise: f64,
        seed: u64,
    ) -> Result<Self, RestoreError> {
        let y = operator.apply(x)?;
        range::not_negative("noise of the measurement", noise)?;
        let n = SeededNoise::new(seed, 2).normal(y.dims(), &y.device());
        // Numbers that were not measured have no noise either.
        let y = match noise > 0.0 {
            true => y.clone() + operator.measured(n * noise)?,
            false => y,
        };
        Self::new(operator, y, noise)
    }

    /// The same problem for `u`, where the picture is `x = scale · u + offset`: the measurement becomes `(y − A offset)
    /// /scale`. A network knows pictures in `[−1, 1]`, and a measurement belongs to a picture in its own unit.
    ///
    /// # Errors
    /// If the scale is not positive, or the operator fails.
    pub fn in_units(&self, scale: f64, offset: f64) -> Result<Self, RestoreError> {
        range::positive("scale of the picture's unit", scale)?;
        range::finite("offset of the picture's unit", offset)?;
        let shape = self.picture_shape()?;
        let constant: Tensor<D> = Tensor::full(shape, offset, &self.measurement.device());
        let constant = self
            .operator
            .apply(constant.cast(self.measurement.dtype()))?;
        Ok(Self {
            operator: self.operator.clone(),
            measurement: (self.measurement.clone() - constant) / scale,
            noise: self.noise / scale,
        })
    }

    /// The problem of some pictures of the batch.
    ///
    /// # Panics
    /// If the batch has no such pictures.
    #[must_use]
    pub fn rows(&self, rows: Range<usize>) -> Self {
        Self {
            measurement: self.measurement.clone().slice_dim(0, rows),
            ..self.clone()
        }
    }

    /// `‖y − A x‖/‖y‖`, of the whole batch.
    ///
    /// # Errors
    /// If the picture does not fit.
    pub fn relative_residual(&self, x: Tensor<D>) -> Result<f64, OperatorError> {
        let size = |x: Tensor<D>| -> Result<f64, OperatorError> {
            Ok(operator::host(x)?.iter().map(|v| v * v).sum::<f64>().sqrt())
        };
        let (left, all) = (size(self.residual(x)?)?, size(self.measurement.clone())?);
        Ok(if all > 0.0 { left / all } else { left })
    }

    /// Whether each number of a measurement is measured at all, `[1, range…]`: 1 or 0.
    ///
    /// # Errors
    /// If the operator fails.
    pub fn measured(&self) -> Result<Tensor<D>, OperatorError> {
        let ones = self.measurement.clone().slice_dim(0, 0..1).ones_like();
        self.operator.measured(ones)
    }

    /// The operator.
    pub fn operator(&self) -> &dyn LinearOperator<D> {
        self.operator.as_ref()
    }

    /// `y`.
    pub fn measurement(&self) -> &Tensor<D> {
        &self.measurement
    }

    /// `σ_y`.
    pub fn noise(&self) -> f64 {
        self.noise
    }

    /// The shape of the pictures, with the batch.
    ///
    /// # Errors
    /// If the operator's shape has another rank.
    pub fn picture_shape(&self) -> Result<[usize; D], OperatorError> {
        operator::batched(self.measurement.dims()[0], &self.operator.domain())
    }

    /// `y − A x`.
    ///
    /// # Errors
    /// If the picture does not fit.
    pub fn residual(&self, x: Tensor<D>) -> Result<Tensor<D>, OperatorError> {
        Ok(self.measurement.clone() - self.operator.apply(x)?)
    }
}

/// A method of restoration; see the [module documentation](self).
///
/// A method of your own puts its parts together: a sampler, and what stands between the network and it.
pub trait Restorer<const D: usize = 4>: Debug + Send + Sync {
    /// The parts of a run.
    ///
    /// # Errors
    /// If an option is out of range, or the method cannot solve this problem.
    fn parts(&self, problem: &Problem<D>, levels: &Levels) -> Result<Parts<D>, RestoreError>;

    /// The number of steps that the method is published with. Default 50.
    fn steps(&self) -> usize {
        50
    }

    /// Whether it takes a gradient through the network, and approaches the measurement only step by step. Default false:
    /// every estimate agrees with it.
    fn differentiates(&self) -> bool {
        false
    }
}

impl<const D: usize> Restorer<D> for Box<dyn Restorer<D>> {
    fn parts(&self, problem: &Problem<D>, levels: &Levels) -> Result<Parts<D>, RestoreError> {
        (**self).parts(problem, levels)
    }

    fn steps(&self) -> usize {
        (**self).steps()
    }

    fn differentiates(&self) -> bool {
        (**self).differentiates()
    }
}

/// The parts of a restoration.
pub struct Parts<const D: usize = 4> {
    /// The sampler that the method is published with.
    pub solver: Arc<dyn Solver<D>>,
    /// How the network is asked; `None` for the guidance that the caller chose.
    pub guidance: Option<Box<dyn Guidance<D>>>,
    /// What corrects the prediction.
    pub correction: Option<Box<dyn Correction<D>>>,
    /// Where the guidance puts what is added to the state at the end of a step.
    pub pull: Option<Pull<D>>,
}

/// A method on a problem, ready to run.
pub struct Restoration<'a, const D: usize = 4> {
    restorer: &'a dyn Restorer<D>,
    problem: &'a Problem<D>,
    levels: &'a Levels,
    solver: Option<Arc<dyn Solver<D>>>,
    guidance: Option<&'a mut dyn Guidance<D>>,
    observer: Option<&'a mut dyn Correction<D>>,
}

/// A restored picture.
#[derive(Clone, Debug)]
pub struct Restored<const D: usize = 4> {
    /// The picture, `[batch, domain…]`.
    pub sample: Tensor<D>,
    /// What the network was asked.
    pub evaluations: Evaluations,
}

impl<'a, const D: usize> Restoration<'a, D> {
    /// - `levels`: those that the sampler visits, for the path of the network
    pub fn new(restorer: &'a dyn Restorer<D>, problem: &'a Problem<D>, levels: &'a Levels) -> Self {
        Self {
            restorer,
            problem,
            levels,
            solver: None,
            guidance: None,
            observer: None,
        }
    }

    /// Uses another sampler than the method's own.
    #[must_use]
    pub fn sampled_by(self, solver: Arc<dyn Solver<D>>) -> Self {
        Self {
            solver: Some(solver),
            ..self
        }
    }

    /// Asks the network through a guidance, of a condition for example. Methods that need gradients ask the network
    /// themselves, and do not use it.
    #[must_use]
    pub fn guided_by(self, guidance: &'a mut dyn Guidance<D>) -> Self {
        Self {
            guidance: Some(guidance),
            ..self
        }
    }

    /// Adds a correction that sees each prediction last, such as a progress bar, which may stop the run.
    #[must_use]
    pub fn observed_by(self, observer: &'a mut dyn Correction<D>) -> Self {
        Self {
            observer: Some(observer),
            ..self
        }
    }

    /// Restores from noise.
    ///
    /// - `seed`: of the noise of the start and of the steps
    ///
    /// # Errors
    /// If an option is out of range, the method cannot solve the problem, the model or the operator fails, or the run
    /// was stopped.
    pub fn run(self, model: &dyn Denoiser<D>, seed: u64) -> Result<Restored<D>, RestoreError> {
        let device = self.problem.measurement.device();
        let start = self.start(seed, &device)?;
        self.run_from(model, start, &mut SeededNoise::new(seed, 1))
    }

    /// Noise at the first level: standard normal on the variance-preserving path.
    ///
    /// # Errors
    /// If the operator's shape has another rank.
    pub fn start(&self, seed: u64, device: &Device) -> Result<Tensor<D>, RestoreError> {
        let shape = self.problem.picture_shape()?;
        let first = self.levels.level(self.levels.steps() - 1);
        Ok(SeededNoise::new(seed, 0).normal(shape, device) * first.scale())
    }

    /// Restores from a start of your own.
    ///
    /// - `x`: at the first level, `[batch, domain…]`
    /// - `noise`: of the steps
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_from(
        self,
        model: &dyn Denoiser<D>,
        x: Tensor<D>,
        noise: &mut SeededNoise,
    ) -> Result<Restored<D>, RestoreError> {
        let mut parts = self.restorer.parts(self.problem, self.levels)?;
        let solver = self.solver.unwrap_or(parts.solver);
        let solver = match parts.pull {
            Some(pull) => pull.pulling(solver),
            None => solver,
        };
        let sampler = Sampler::new(solver, self.levels.clone())?;
        let mut evaluations = Evaluations::new();
        let mut sampling = Sampling::of(model).counted_in(&mut evaluations);
        if let Some(guidance) = &mut parts.guidance {
            sampling = sampling.guided_by(guidance.as_mut());
        } else if let Some(guidance) = self.guidance {
            sampling = sampling.guided_by(guidance);
        }
        if let Some(correction) = &mut parts.correction {
            sampling = sampling.corrected_by(correction.as_mut());
        }
        if let Some(observer) = self.observer {
            sampling = sampling.corrected_by(observer);
        }
        let sample = sampling.run(&sampler, x, noise)?;
        Ok(Restored {
            sample,
            evaluations,
        })
    }
}

/// All methods, by name; see the [module documentation](self).
///
/// ```
/// use nabla_diffusion::registry::Options;
/// use nabla_diffusion::restore::restorers;
///
/// let dds = restorers::<4>().make("dds", &Options::parse(&["cg_iterations=3"])?)?;
/// assert!(format!("{dds:?}").contains("cg_iterations: 3"));
/// # Ok::<(), nabla_diffusion::registry::RegistryError>(())
/// ```
pub fn restorers<const D: usize>() -> Registry<Box<dyn Restorer<D>>> {
    fn boxed<const D: usize>(restorer: impl Restorer<D> + 'static) -> Box<dyn Restorer<D>> {
        Box::new(restorer)
    }
    Registry::new("restoration method")
        .with(
            "dds",
            "DDS: conjugate gradients on the denoised estimate, without gradients through the network",
            Dds::new(),
            boxed,
        )
        .with(
            "ddnm",
            "DDNM: what was measured is replaced; DDNM+ if there is noise",
            Ddnm::new(),
            boxed,
        )
        .with(
            "pigdm",
            "PiGDM: guided by the pseudo-inverse, with a gradient through the network",
            PiGdm::new(),
            boxed,
        )
        .with(
            "dps",
            "DPS: guided by the distance to the measurement, with a gradient through the network",
            Dps::new(),
            boxed,
        )
}
