//! Samplers: their trait, the loop that runs all of them, and a registry of Nabla's samplers by name.
//!
//! | name | sampler | calls of the network in S steps | noise |
//! |---|---|---|---|
//! | `ddim` | [`ddim`](crate::ddim) | S | |
//! | `ddpm` | [`ddpm`](crate::ddpm) | S | yes |
//! | `pndm` | F-PNDM of [`pndm`](crate::pndm) | S + 9 | |
//! | `s-pndm` | S-PNDM | S + 1 | |
//! | `plms` | Stable Diffusion's PLMS | S + 1 | |
//! | `euler` | [`euler`](crate::euler) | S | |
//! | `euler-ancestral` | Euler ancestral | S | yes |
//! | `heun` | [`heun`](crate::heun) | 2 S − 1 | |
//! | `lms` | [`lms`](crate::lms) | S | |
//! | `dpm++2m` | [`dpm_solver_multistep`](crate::dpm_solver_multistep) | S | |
//! | `dpm++2m-sde` | its stochastic variant | S | yes |
//! | `dpm++3m` | the same with order 3, exact | S | |
//! | `dpm++3m-sde` | its stochastic variant, as in k-diffusion, but exact | S | yes |
//! | `dpm++2s` | [`dpm_solver_singlestep`](crate::dpm_solver_singlestep) | S | |
//! | `deis` | [`deis`](crate::deis) | S | |
//! | `dpm2` | [`dpm2`](crate::dpm2) | 2 S − 1 | |
//! | `dpm2-ancestral` | its ancestral variant | 2 S − 1 | yes |
//! | `unipc` | [`unipc`](crate::unipc) | S | |
//! | `lcm` | [`lcm`](crate::lcm), for latent consistency models | S | yes |
//! | `velocity` | [`flow_velocity`](crate::flow_velocity), in the path's time | 2 S − 1 | |
//!
//! [`probability_flow`](crate::probability_flow) has no name in the registry, because its number of calls is
//! not known in advance.
//!
//! A [`Solver`] is a configuration. Together with the [`Levels`] of a schedule or a path it is a [`Sampler`],
//! which draws samples. A [`Sampling`] adds a [`Guidance`] and [`Correction`]s. Every run, of every sampler,
//! of any rank and on any affine Gaussian path, goes through one loop ([`follow`]), including runs of
//! residual denoising diffusion.
//!
//! Every sampler takes and returns `x` at the scale of its path, and converts it to `x/signal` internally if
//! it works with `σ`. So on the variance-preserving path, all samplers start from the same standard normal
//! noise, without scaling it by an "initial sigma".
//!
//! A run that starts from a noised sample instead of pure noise (SDEdit, image to image) takes only the
//! cleanest steps: [`Sampler::last_steps`].
//!
//! # Your own sampler
//! Write a step: a closure over the levels, which queries the model through an [`Asking`] and continues from
//! [`Answer::x`](crate::asking::Answer::x).
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::asking::Asking;
//! use nabla_diffusion::denoiser::{Prediction, SamplerError, denoiser};
//! use nabla_diffusion::level::Levels;
//! use nabla_diffusion::sampler::{Sampler, Solver, Steps, steps};
//! use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
//! use nabla_diffusion::seeded_noise::SeededNoise;
//!
//! /// Predicts, and adds new noise to the prediction.
//! #[derive(Clone, Debug)]
//! struct Renoise;
//!
//! impl<const D: usize> Solver<D> for Renoise {
//!     fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
//!         Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
//!             let sample = ask.ask(x, index, levels.level(index))?.sample;
//!             let z = ask.normal(&sample);
//!             Ok(levels.level_after(index).mix(sample, z))
//!         }))
//!     }
//! }
//!
//! let device = Device::flex();
//! let model = denoiser(Prediction::Sample, |x: Tensor<3>, _level| x.zeros_like());
//! let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 4)?;
//! let sampler = Sampler::new(Renoise, schedule)?;
//! let mut noise = SeededNoise::new(42, 0);
//! let start = noise.normal([2, 16, 3], &device);
//! let sequences = sampler.sample(&model, start, &mut noise)?;
//! assert_eq!(sequences.abs().max().into_scalar::<f32>(), 0.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;

use crate::asking::{Asking, Predicted, Reading};
use crate::correction::Correction;
use crate::ddim::Ddim;
use crate::ddpm::Ddpm;
use crate::deis::Deis;
use crate::denoiser::{Denoised, Denoiser};
use crate::dpm_solver_multistep::{DpmAlgorithm, DpmSolverMultistep, DpmSolverType};
use crate::dpm_solver_singlestep::DpmSolverSinglestep;
use crate::dpm2::Dpm2;
use crate::euler::Euler;
use crate::flow_velocity::FlowVelocity;
use crate::guidance::{Evaluations, Guidance, Guided, NoGuidance};
use crate::heun::Heun;
use crate::lcm::Lcm;
use crate::level::Levels;
use crate::lms::Lms;
use crate::pndm::{Pndm, PndmMethod};
use crate::registry::Registry;
use crate::sampler_error::SamplerError;
use crate::seeded_noise::SeededNoise;
use crate::unipc::UniPc;

/// The mathematics of a sampler, and its options; see the [module documentation](self).
pub trait Solver<const D: usize = 4>: Debug + Send + Sync {
    /// Starts a run over `levels`.
    ///
    /// # Errors
    /// If an option is out of range, or the sampler cannot run over these levels.
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError>;

    /// How the sampler reads predictions. Default: without a limit, with the direction that follows from the
    /// sample.
    fn reading(&self) -> Reading {
        Reading::default()
    }

    /// The number of network calls in `steps` steps, or an estimate if it is not known in advance. Default:
    /// `steps`.
    fn calls(&self, steps: usize) -> usize {
        steps
    }

    /// The minimum number of steps of this sampler; [`begin`](Self::begin) refuses fewer. Default 1.
    fn least_steps(&self) -> usize {
        1
    }

    /// The levels to use if a model's files don't specify them. Default [`Grid::WholeSteps`].
    fn grid(&self) -> Grid {
        Grid::WholeSteps
    }
}

/// The levels on which a sampler is customarily run; see
/// [`SchedulerConfig`](crate::stable_diffusion::scheduler_config::SchedulerConfig).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// Whole training steps.
    WholeSteps,
    /// Times that may lie between two training steps, for samplers in `σ`.
    Interpolated,
    /// Whole training steps of a grid with one more point, without its lowest point, for samplers in `ln σ`.
    WithoutLowest,
    /// Some of the steps for which a consistency model was distilled.
    Distilled,
}

/// The steps of one run: made by [`steps`].
pub type Steps<'a, const D: usize = 4, P = Denoised<D>> = Box<dyn SolverRun<D, P> + 'a>;

/// A run of a solver, with its state between steps.
pub trait SolverRun<const D: usize = 4, P: Predicted<D> = Denoised<D>> {
    /// Returns the state at the end of a step.
    ///
    /// - `x`: the state at the beginning of the step, `[batch, …]`
    /// - `index`: the index of the step; falls from `steps − 1` to 0
    ///
    /// # Errors
    /// Those of `ask`, and the solver's own.
    fn step(
        &mut self,
        x: Tensor<D>,
        index: usize,
        ask: &mut Asking<'_, D, P>,
    ) -> Result<Tensor<D>, SamplerError>;
}

impl<const D: usize, P, F> SolverRun<D, P> for F
where
    P: Predicted<D>,
    F: FnMut(Tensor<D>, usize, &mut Asking<'_, D, P>) -> Result<Tensor<D>, SamplerError>,
{
    fn step(
        &mut self,
        x: Tensor<D>,
        index: usize,
        ask: &mut Asking<'_, D, P>,
    ) -> Result<Tensor<D>, SamplerError> {
        self(x, index, ask)
    }
}

/// Creates steps from a closure of the state, the index of the step, and the object to query.
pub fn steps<'a, const D: usize, P, F>(step: F) -> Steps<'a, D, P>
where
    P: Predicted<D> + 'a,
    F: FnMut(Tensor<D>, usize, &mut Asking<'_, D, P>) -> Result<Tensor<D>, SamplerError> + 'a,
{
    Box::new(step)
}

/// The loop of every run: step after step, from the noisiest to the cleanest.
///
/// - `x`: the state at the beginning, `[batch, …]`
///
/// # Errors
/// The error of the first step that fails; no further step is taken.
pub fn follow<const D: usize, P: Predicted<D>>(
    run: &mut (dyn SolverRun<D, P> + '_),
    mut x: Tensor<D>,
    ask: &mut Asking<'_, D, P>,
) -> Result<Tensor<D>, SamplerError> {
    for index in (0..ask.steps()).rev() {
        x = run.step(x, index, ask)?;
    }
    Ok(x)
}

impl<const D: usize> Solver<D> for Arc<dyn Solver<D>> {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        (**self).begin(levels)
    }

    fn reading(&self) -> Reading {
        (**self).reading()
    }

    fn calls(&self, steps: usize) -> usize {
        (**self).calls(steps)
    }

    fn least_steps(&self) -> usize {
        (**self).least_steps()
    }

    fn grid(&self) -> Grid {
        (**self).grid()
    }
}

/// Wraps a solver so that a registry can hold it and many runs can share it.
pub fn shared<const D: usize>(solver: impl Solver<D> + 'static) -> Arc<dyn Solver<D>> {
    Arc::new(solver)
}

/// All of Nabla's samplers, by name; see the [module documentation](self).
///
/// ```
/// use nabla_diffusion::sampler::samplers;
///
/// assert_eq!(samplers::<4>().get("heun")?.calls(10), 19);
/// assert!(samplers::<4>().get("dpm++9m").is_err());
/// # Ok::<(), nabla_diffusion::registry::RegistryError>(())
/// ```
///
/// You can add your own, with options like the built-in ones:
///
/// ```
/// use nabla_diffusion::euler::Euler;
/// use nabla_diffusion::registry::Options;
/// use nabla_diffusion::sampler::{samplers, shared};
///
/// let mine = samplers::<4>().with("half-ancestral", "Euler, half ancestral", Euler::new().with_eta(0.5), shared);
/// let sampler = mine.make("half-ancestral", &Options::parse(&["clip=1"])?)?;
/// assert!(format!("{sampler:?}").contains("clip: Some(1.0)"));
///
/// let error = mine.make("euler", &Options::parse(&["speed=2"])?).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "the sampler euler has no option \"speed\"; it has: churn, clip, eta"
/// );
/// # Ok::<(), nabla_diffusion::registry::RegistryError>(())
/// ```
pub fn samplers<const D: usize>() -> Registry<Arc<dyn Solver<D>>> {
    let pndm = |method| Pndm::new().with_method(method);
    let dpm = DpmSolverMultistep::new();
    let sde = dpm.with_algorithm(DpmAlgorithm::SdeDpmSolverPlusPlus);
    // As in k-diffusion, except for the weight of the third order.
    let sde3 = sde
        .with_order(3)
        .with_solver_type(DpmSolverType::Heun)
        .with_lower_order_final(false);
    Registry::new("sampler")
        .with(
            "ddim",
            "DDIM: order 1, noise as eta says",
            Ddim::new(),
            shared,
        )
        .with(
            "ddpm",
            "DDPM: ancestral, for many steps",
            Ddpm::new(),
            shared,
        )
        .with(
            "pndm",
            "F-PNDM: Runge and Kutta's start, then order 4",
            pndm(PndmMethod::FPndm),
            shared,
        )
        .with("s-pndm", "S-PNDM: order 2", pndm(PndmMethod::SPndm), shared)
        .with(
            "plms",
            "PLMS: PNDM as Stable Diffusion has it",
            pndm(PndmMethod::Plms),
            shared,
        )
        .with(
            "euler",
            "Euler's method in sigma, with churn if asked for",
            Euler::new(),
            shared,
        )
        .with(
            "euler-ancestral",
            "Euler with fresh noise",
            Euler::new().with_eta(1.0),
            shared,
        )
        .with(
            "heun",
            "Heun's method in sigma: order 2, two calls a step",
            Heun::new(),
            shared,
        )
        .with(
            "lms",
            "linear multistep in sigma, order 4",
            Lms::new(),
            shared,
        )
        .with("dpm++2m", "DPM-Solver++, multistep of order 2", dpm, shared)
        .with(
            "dpm++2m-sde",
            "DPM-Solver++ of order 2 with noise",
            sde,
            shared,
        )
        .with(
            "dpm++3m",
            "DPM-Solver++, multistep of order 3",
            dpm.with_order(3),
            shared,
        )
        .with(
            "dpm++3m-sde",
            "DPM-Solver++ of order 3 with noise",
            sde3,
            shared,
        )
        .with(
            "dpm++2s",
            "DPM-Solver++ in single steps of order 2",
            DpmSolverSinglestep::new(),
            shared,
        )
        .with(
            "deis",
            "DEIS: multistep of order 2 of the noise",
            Deis::new(),
            shared,
        )
        .with(
            "dpm2",
            "the midpoint method in ln sigma, two calls a step",
            Dpm2::new(),
            shared,
        )
        .with(
            "dpm2-ancestral",
            "DPM2 with fresh noise",
            Dpm2::new().with_eta(1.0),
            shared,
        )
        .with(
            "unipc",
            "UniPC: predictor and corrector of order 2",
            UniPc::new(),
            shared,
        )
        .with(
            "lcm",
            "for latent consistency models, 1 to 8 steps",
            Lcm::new(),
            shared,
        )
        .with(
            "velocity",
            "the velocity of the path in its own time, by Heun's or another method",
            FlowVelocity::new(),
            shared,
        )
}

/// A solver with the levels of its run; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Sampler<const D: usize = 4> {
    solver: Arc<dyn Solver<D>>,
    levels: Levels,
}

impl<const D: usize> Sampler<D> {
    /// - `levels`: from a [`NoiseSchedule`](crate::schedule::NoiseSchedule) or any other path
    ///
    /// # Errors
    /// If an option is out of range, or the sampler cannot run over these levels.
    pub fn new(
        solver: impl Solver<D> + 'static,
        levels: impl Into<Levels>,
    ) -> Result<Self, SamplerError> {
        let (solver, levels) = (shared(solver), levels.into());
        drop(solver.begin(&levels)?);
        Ok(Self { solver, levels })
    }

    /// The solver of this sampler.
    pub fn solver(&self) -> &dyn Solver<D> {
        self.solver.as_ref()
    }

    /// The levels that the sampler visits.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// The number of network calls in one run; Heun's method and DPM2 need one more if some noise is left at
    /// the end.
    pub fn calls(&self) -> usize {
        self.solver.calls(self.levels.steps())
    }

    /// The sampler that takes only the last `steps` steps, from a noised sample to a clean one.
    ///
    /// Compute its start with [`Levels::add_noise`] of the new sampler's [`levels`](Self::levels).
    ///
    /// # Errors
    /// If `steps` is 0, more than the sampler has, or too few for the sampler.
    pub fn last_steps(&self, steps: usize) -> Result<Self, SamplerError> {
        let levels = self.levels.last_steps(steps);
        let levels = levels.map_err(|_| SamplerError::Start {
            start: steps,
            steps: self.levels.steps(),
        })?;
        Self::new(self.solver.clone(), levels)
    }

    /// Draws samples, without guidance or corrections.
    ///
    /// - `x`: the start, at the level of the first step: noise, or a noised sample, `[batch, …]`
    /// - `noise`: the noise of the steps, for the samplers that add noise
    /// - returns the shape of `x`
    ///
    /// # Errors
    /// If the model fails, its output has the wrong shape, or it predicts `ε` where no signal is left.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
    /// use nabla_diffusion::sampler::{Sampler, samplers};
    /// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    ///
    /// let device = Device::flex();
    /// let model = GaussianDenoiser::new(
    ///     Tensor::<4>::zeros([1, 3, 8, 8], &device),
    ///     Tensor::ones([1, 3, 8, 8], &device) * 0.25,
    ///     Prediction::Epsilon,
    /// );
    /// let training = NoiseScheduleConfig::new().init()?;
    /// let schedule = training.respace(Spacing::Trailing, 20)?;
    /// for name in samplers::<4>().names() {
    ///     let sampler = Sampler::new(samplers().get(name)?, &schedule)?;
    ///     let mut noise = SeededNoise::new(42, 0);
    ///     let start = noise.normal([1, 3, 8, 8], &device);
    ///     let picture = sampler.sample(&model, start, &mut noise)?;
    ///     assert!(picture.abs().max().into_scalar::<f32>() < 3.0, "{name}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sample(
        &self,
        model: &dyn Denoiser<D>,
        x: Tensor<D>,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<D>, SamplerError> {
        Sampling::of(model).run(self, x, noise)
    }
}

/// The parts of a run: a model, its guidance, and corrections.
pub struct Sampling<'a, const D: usize = 4> {
    model: &'a dyn Denoiser<D>,
    guidance: Option<&'a mut dyn Guidance<D>>,
    corrections: Vec<&'a mut (dyn Correction<D> + 'a)>,
    evaluations: Option<&'a mut Evaluations>,
}

impl<const D: usize> Debug for Sampling<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampling")
            .field("guidance", &self.guidance)
            .field("corrections", &self.corrections.len())
            .finish_non_exhaustive()
    }
}

impl<'a, const D: usize> Sampling<'a, D> {
    /// Starts from a model alone.
    pub fn of(model: &'a dyn Denoiser<D>) -> Self {
        Self {
            model,
            guidance: None,
            corrections: Vec::new(),
            evaluations: None,
        }
    }

    /// Sets the guidance. Default [`NoGuidance`].
    #[must_use]
    pub fn guided_by(self, guidance: &'a mut dyn Guidance<D>) -> Self {
        Self {
            guidance: Some(guidance),
            ..self
        }
    }

    /// Adds a correction, which sees predictions after the corrections added before it.
    #[must_use]
    pub fn corrected_by(mut self, correction: &'a mut (dyn Correction<D> + 'a)) -> Self {
        self.corrections.push(correction);
        self
    }

    /// Adds the network evaluations of the run to `evaluations`, also if it fails.
    #[must_use]
    pub fn counted_in(self, evaluations: &'a mut Evaluations) -> Self {
        Self {
            evaluations: Some(evaluations),
            ..self
        }
    }

    /// Draws samples; see [`Sampler::sample`].
    ///
    /// # Errors
    /// As [`Sampler::sample`], if the guidance or a correction fails, or if one of them stops the run
    /// ([`SamplerError::Cancelled`]).
    pub fn run(
        self,
        sampler: &Sampler<D>,
        x: Tensor<D>,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<D>, SamplerError> {
        let mut run = sampler.solver.begin(&sampler.levels)?;
        let reading = sampler.solver.reading();
        self.asking(reading, sampler.levels.steps(), noise, |ask| {
            follow(run.as_mut(), x, ask)
        })
    }

    /// Creates the object through which a run of `steps` steps queries the model.
    pub(crate) fn asking<R>(
        self,
        reading: Reading,
        steps: usize,
        noise: &mut SeededNoise,
        run: impl FnOnce(&mut Asking<'_, D>) -> Result<R, SamplerError>,
    ) -> Result<R, SamplerError> {
        let mut none = NoGuidance::new();
        let guidance = match self.guidance {
            Some(guidance) => guidance,
            None => &mut none,
        };
        guidance.begin(steps)?;
        let mut uncounted = Evaluations::new();
        let mut source = Guided {
            model: self.model,
            guidance,
            evaluations: self.evaluations.unwrap_or(&mut uncounted),
            reading,
        };
        let corrections = self.corrections.into_iter().map(|c| c as _).collect();
        run(&mut Asking::new(&mut source, corrections, noise, steps))
    }
}
