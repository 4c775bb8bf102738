//! Noise schedules: how much of the picture and how much noise there is at each step.
//!
//! The variance-preserving diffusion of a picture `x_0` is
//!
//! ```text
//! x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε,   ε ~ N(0, I),   ᾱ_t = Π_{s ≤ t} α_s,   α_t = 1 − β_t
//! ```
//!
//! Everything that a sampler needs follows from `ᾱ`: the signal-to-noise ratio `ᾱ / (1 − ᾱ)`, the noise level
//! `σ = √((1 − ᾱ) / ᾱ)` of the variance-exploding form `x_t / √ᾱ_t = x_0 + σ_t ε`, and the posterior
//! `q(x_{t−1} | x_t, x_0)`. The tables are in `f64`.
//!
//! A schedule with fewer steps ([`NoiseSchedule::respace`]) is again a [`NoiseSchedule`]: it keeps some `τ_k`
//! of the training steps, gives the network `τ_k` as its time, and has `β'_k = 1 − ᾱ_{τ_k} / ᾱ_{τ_{k−1}}`. So
//! every sampler works with every spacing. A respaced schedule remembers the schedule that it was made from
//! ([`NoiseSchedule::training`]), where samplers look up times between two of its steps.
//!
//! Sources:
//! - linear `β`: Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, arXiv
//!   2006.11239;
//! - `β` linear in the square root: Rombach et al., *High-Resolution Image Synthesis with Latent
//!   Diffusion Models*, 2022, arXiv 2112.10752;
//! - cosine `ᾱ`, respacing: Nichol, Dhariwal, *Improved Denoising Diffusion Probabilistic Models*,
//!   2021, arXiv 2102.09672;
//! - sigmoid `β`: Xu et al., *GeoDiff*, 2022, arXiv 2203.02923;
//! - the `σ` levels: Karras, Aittala, Aila, Laine, *Elucidating the Design Space of
//!   Diffusion-Based Generative Models*, 2022, arXiv 2206.00364, eq. 5;
//! - the spacings and the zero terminal signal-to-noise ratio: Lin, Liu, Li, Yang, *Common
//!   Diffusion Noise Schedules and Sample Steps are Flawed*, 2023, arXiv 2305.08891.

use std::sync::Arc;

use burn::config::Config;
use burn::tensor::{Device, Tensor};
use nabla_base::range::{self, OutOfRange};

use crate::level::{Level, alpha_bar_from_sigma, check_falling, sigma_from_alpha_bar};
use crate::sigma_spacing::{KarrasSigmas, linspace};

mod path;
mod spacing;

pub use spacing::Spacing;

/// Why a noise schedule cannot be built as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// No steps.
    #[error("a noise schedule needs at least 1 step, but 0 were asked for")]
    NoSteps,
    /// A single step cannot both keep its `ᾱ` and lose it.
    #[error("a zero terminal signal-to-noise ratio needs at least 2 steps, but there is 1")]
    SingleStep,
    /// A `β` outside (0, 1).
    #[error("beta number {index} of the noise schedule is {value}, but it must lie in (0, 1)")]
    Beta {
        /// Index of the step.
        index: usize,
        /// The value.
        value: f64,
    },
    /// `ᾱ` does not fall strictly within (0, 1); only the last may be 0.
    #[error(
        "alpha-bar number {index} of the noise schedule is {value}, but alpha-bar must fall \
         strictly from below 1 to above 0, where only the last may be 0"
    )]
    AlphaBar {
        /// Index of the step.
        index: usize,
        /// The value.
        value: f64,
    },
    /// `ᾱ` of the end of sampling lies below that of the first step or above 1.
    #[error(
        "the final alpha-bar is {value}, but it must lie between the first step's {first} and 1"
    )]
    FinalAlphaBar {
        /// The value.
        value: f64,
        /// `ᾱ_0`.
        first: f64,
    },
    /// More steps than the schedule has, or none.
    #[error("{asked} steps of a noise schedule were asked for, but it has 1 to {available}")]
    Steps {
        /// Steps asked for.
        asked: usize,
        /// Steps there are.
        available: usize,
    },
    /// The chosen steps do not rise strictly within the schedule.
    #[error(
        "step number {index} of the respaced schedule is {value}, but the steps must rise \
         strictly and stay below {available}"
    )]
    Respacing {
        /// Index in the list of chosen steps.
        index: usize,
        /// The step chosen.
        value: usize,
        /// Steps there are.
        available: usize,
    },
    /// `σ` levels that are not positive, finite and falling.
    #[error("sigma number {index} is {value}, but sigmas must be positive, finite and falling")]
    Sigma {
        /// Index in the list.
        index: usize,
        /// The value.
        value: f64,
    },
    /// `σ_min` and `σ_max` in the wrong order, not positive or not finite.
    #[error(
        "sigma_min is {min} and sigma_max is {max}, but 0 < sigma_min < sigma_max < infinity must \
         hold"
    )]
    SigmaRange {
        /// `σ_min`.
        min: f64,
        /// `σ_max`.
        max: f64,
    },
    /// A number out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

/// How `β_t` runs over the training steps.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum BetaSchedule {
    /// `β` linear from `start` to `end`.
    Linear {
        /// `β` of the first step.
        start: f64,
        /// `β` of the last step.
        end: f64,
    },
    /// `√β` linear; what latent diffusion calls "linear".
    ScaledLinear {
        /// `β` of the first step.
        start: f64,
        /// `β` of the last step.
        end: f64,
    },
    /// `ᾱ(u) ∝ cos²((u + offset) / (1 + offset) π/2)` at `u = (t + 1) / T`, each `β` at most
    /// `max_beta` ("squaredcos_cap_v2").
    Cosine {
        /// The offset `s` that keeps the first `β` from vanishing.
        offset: f64,
        /// Upper bound of `β`.
        max_beta: f64,
    },
    /// `β = start + (end − start) sigmoid(z)`, `z` linear from −6 to 6.
    Sigmoid {
        /// Lower limit of `β`.
        start: f64,
        /// Upper limit of `β`.
        end: f64,
    },
}

impl BetaSchedule {
    /// Ho et al.: linear from 0.0001 to 0.02.
    pub const DDPM: Self = Self::Linear {
        start: 1e-4,
        end: 0.02,
    };
    /// Stable Diffusion 1 and 2, StableSR: `√β` linear, from 0.00085 to 0.012.
    pub const STABLE_DIFFUSION: Self = Self::ScaledLinear {
        start: 0.00085,
        end: 0.012,
    };
    /// Nichol and Dhariwal: cosine, offset 0.008, `β` at most 0.999.
    pub const COSINE: Self = Self::Cosine {
        offset: 0.008,
        max_beta: 0.999,
    };

    /// `β_t` for `t = 0 .. steps`.
    fn betas(self, steps: usize) -> Vec<f64> {
        match self {
            Self::Linear { start, end } => linspace(start, end, steps).collect(),
            Self::ScaledLinear { start, end } => linspace(start.sqrt(), end.sqrt(), steps)
                .map(|root| root * root)
                .collect(),
            Self::Cosine { offset, max_beta } => {
                let alpha_bar = |t: usize| {
                    let u = t as f64 / steps as f64;
                    ((u + offset) / (1.0 + offset) * std::f64::consts::FRAC_PI_2)
                        .cos()
                        .powi(2)
                };
                (0..steps)
                    .map(|t| (1.0 - alpha_bar(t + 1) / alpha_bar(t)).min(max_beta))
                    .collect()
            }
            Self::Sigmoid { start, end } => linspace(-6.0, 6.0, steps)
                .map(|z| start + (end - start) / (1.0 + (-z).exp()))
                .collect(),
        }
    }
}

/// Configuration of a [`NoiseSchedule`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct NoiseScheduleConfig {
    /// Training steps `T`. Default 1000.
    #[config(default = 1000)]
    pub steps: usize,
    /// `β_t`. Default [`BetaSchedule::DDPM`].
    #[config(default = "BetaSchedule::DDPM")]
    pub betas: BetaSchedule,
    /// Whether to rescale `√ᾱ` so that nothing of the picture is left at the last step
    /// (Lin et al., algorithm 1). The model must then not predict `ε`. Default false.
    #[config(default = false)]
    pub zero_terminal_snr: bool,
}

impl NoiseScheduleConfig {
    /// Computes the tables.
    ///
    /// # Errors
    /// If there are no steps (fewer than 2 with `zero_terminal_snr`), a `β` is not in (0, 1), or the cosine's
    /// offset is negative or not finite.
    ///
    /// ```
    /// use nabla_diffusion::schedule::{BetaSchedule, NoiseScheduleConfig, Spacing};
    ///
    /// let training =
    ///     NoiseScheduleConfig::new().with_betas(BetaSchedule::STABLE_DIFFUSION).init()?;
    /// let sampling = training.respace(Spacing::Linspace, 200)?;
    /// assert_eq!(sampling.steps(), 200);
    /// assert_eq!(sampling.timestep(199), 999.0);
    /// assert_eq!(sampling.alpha_bar(199), training.alpha_bar(999));
    /// # Ok::<(), nabla_diffusion::schedule::ScheduleError>(())
    /// ```
    pub fn init(&self) -> Result<NoiseSchedule, ScheduleError> {
        if let BetaSchedule::Cosine { offset, .. } = self.betas {
            range::not_negative("offset of the cosine schedule", offset)?;
        }
        let schedule = NoiseSchedule::from_betas(&self.betas.betas(self.steps))?;
        if self.zero_terminal_snr {
            schedule.rescale_zero_terminal_snr()
        } else {
            Ok(schedule)
        }
    }
}

/// The posterior `q(x_{t−1} | x_t, x_0) = N(sample · x_0 + x · x_t, variance)` of one step
/// (Ho et al., eq. 7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// Weight of `x_0`: `√ᾱ_{t−1} β_t / (1 − ᾱ_t)`.
    pub sample: f64,
    /// Weight of `x_t`: `√α_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t)`.
    pub x: f64,
    /// `β̃_t = β_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t)`.
    pub variance: f64,
}

impl Posterior {
    /// - `alpha_bar`: `ᾱ_t`
    /// - `previous`: `ᾱ_{t−1}`
    pub(crate) fn new(alpha_bar: f64, previous: f64) -> Self {
        let alpha = alpha_bar / previous;
        let beta = 1.0 - alpha;
        Self {
            sample: previous.sqrt() * beta / (1.0 - alpha_bar),
            x: alpha.sqrt() * (1.0 - previous) / (1.0 - alpha_bar),
            variance: beta * (1.0 - previous) / (1.0 - alpha_bar),
        }
    }
}

/// The tables of a noise schedule; index 0 is the cleanest step.
///
/// Methods that take an index panic if it is not below [`steps`](Self::steps), as indexing does.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    alpha_bar: Vec<f64>,
    timestep: Vec<f64>,
    final_alpha_bar: f64,
    /// The schedule that this one keeps some steps of; `None` if this is the training schedule itself.
    training: Option<Arc<NoiseSchedule>>,
}

impl NoiseSchedule {
    /// Creates the schedule from `β_t`, each in (0, 1).
    ///
    /// # Errors
    /// If the list is empty, or a value is not in (0, 1).
    pub fn from_betas(betas: &[f64]) -> Result<Self, ScheduleError> {
        if let Some(index) = betas.iter().position(|&beta| !(beta > 0.0 && beta < 1.0)) {
            return Err(ScheduleError::Beta {
                index,
                value: betas[index],
            });
        }
        let alpha_bar = betas.iter().scan(1.0, |product, beta| {
            *product *= 1.0 - beta;
            Some(*product)
        });
        Self::from_alpha_bars(&alpha_bar.collect::<Vec<_>>())
    }

    /// Creates the schedule from `ᾱ_t`, falling strictly within (0, 1), where only the last may be 0.
    ///
    /// # Errors
    /// If the list is empty, or does not fall like this.
    pub fn from_alpha_bars(alpha_bars: &[f64]) -> Result<Self, ScheduleError> {
        let timestep = (0..alpha_bars.len()).map(|t| t as f64).collect();
        Self::new(alpha_bars.to_vec(), timestep, 1.0)
    }

    /// Creates the schedule from the levels that a sampler visits, the cleanest first, with `ᾱ` falling
    /// strictly; each level may have any time step for the network.
    ///
    /// - `final_alpha_bar`: the `ᾱ` after the last sampling step, usually 1
    ///
    /// # Errors
    /// If there is no level, `ᾱ` does not fall like this, or `final_alpha_bar` is not in `[ᾱ_0, 1]`.
    pub fn from_levels(levels: &[Level], final_alpha_bar: f64) -> Result<Self, ScheduleError> {
        Self::new(
            levels.iter().map(|l| l.alpha_bar()).collect(),
            levels.iter().map(|l| l.time()).collect(),
            1.0,
        )?
        .with_final_alpha_bar(final_alpha_bar)
    }

    fn new(
        alpha_bar: Vec<f64>,
        timestep: Vec<f64>,
        final_alpha_bar: f64,
    ) -> Result<Self, ScheduleError> {
        check_falling(alpha_bar.iter().copied())?;
        Ok(Self {
            alpha_bar,
            timestep,
            final_alpha_bar,
            training: None,
        })
    }

    /// The training schedule, of which this one keeps some steps or levels; this schedule itself, if it was
    /// not made from another one.
    pub fn training(&self) -> &Self {
        self.training.as_deref().unwrap_or(self)
    }

    /// The same schedule, marked as one that keeps levels of `training`, like those made by
    /// [`respace`](Self::respace) and its relatives.
    ///
    /// ```
    /// use nabla_diffusion::level::Level;
    /// use nabla_diffusion::schedule::{NoiseSchedule, NoiseScheduleConfig, Spacing};
    ///
    /// let training = NoiseScheduleConfig::new().init()?;
    /// assert_eq!(training.respace(Spacing::Trailing, 20)?.training(), &training);
    /// let levels: [Level; 2] = [100.5, 700.25].map(|time| training.level_at(time));
    /// let schedule = NoiseSchedule::from_levels(&levels, 1.0)?.of_training(&training);
    /// assert_eq!(schedule.training().steps(), 1000);
    /// # Ok::<(), nabla_diffusion::schedule::ScheduleError>(())
    /// ```
    #[must_use]
    pub fn of_training(mut self, training: &Self) -> Self {
        self.training = Some(training.root());
        self
    }

    fn root(&self) -> Arc<Self> {
        match &self.training {
            Some(training) => training.clone(),
            None => Arc::new(self.clone()),
        }
    }

    /// The same schedule with another `ᾱ` after the last sampling step. The default is 1; Stable Diffusion's
    /// DDIM ends at the training schedule's `ᾱ_0`.
    ///
    /// # Errors
    /// If the value does not lie between the first step's `ᾱ` and 1.
    pub fn with_final_alpha_bar(mut self, value: f64) -> Result<Self, ScheduleError> {
        let first = self.alpha_bar[0];
        if !(first..=1.0).contains(&value) {
            return Err(ScheduleError::FinalAlphaBar { value, first });
        }
        self.final_alpha_bar = value;
        Ok(self)
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.alpha_bar.len()
    }

    /// All `ᾱ_t`, falling.
    pub fn alpha_bars(&self) -> &[f64] {
        &self.alpha_bar
    }

    /// `ᾱ_t`.
    pub fn alpha_bar(&self, index: usize) -> f64 {
        self.alpha_bar[index]
    }

    /// `ᾱ_{t−1}`, the level that a sampler goes to from `t`. Before the first step it is 1, unless set by
    /// [`with_final_alpha_bar`](Self::with_final_alpha_bar).
    pub fn previous_alpha_bar(&self, index: usize) -> f64 {
        if index == 0 {
            self.final_alpha_bar
        } else {
            self.alpha_bar[index - 1]
        }
    }

    /// `α_t = ᾱ_t / ᾱ_{t−1}`.
    pub fn alpha(&self, index: usize) -> f64 {
        self.alpha_bar(index) / self.previous_alpha_bar(index)
    }

    /// `β_t = 1 − α_t`.
    pub fn beta(&self, index: usize) -> f64 {
        1.0 - self.alpha(index)
    }

    /// All `β_t`.
    pub fn betas(&self) -> Vec<f64> {
        (0..self.steps()).map(|t| self.beta(t)).collect()
    }

    /// The time that the network gets at this step, in units of training steps.
    pub fn timestep(&self, index: usize) -> f64 {
        self.timestep[index]
    }

    /// The noise level of this step.
    pub fn level(&self, index: usize) -> Level {
        Level::variance_preserving(self.timestep[index], self.alpha_bar[index])
    }

    /// `σ_t = √((1 − ᾱ_t) / ᾱ_t)`.
    pub fn sigma(&self, index: usize) -> f64 {
        self.level(index).sigma()
    }

    /// The signal-to-noise ratio `ᾱ_t / (1 − ᾱ_t)`.
    pub fn snr(&self, index: usize) -> f64 {
        self.level(index).snr()
    }

    /// The natural logarithm of [`snr`](Self::snr).
    pub fn log_snr(&self, index: usize) -> f64 {
        self.level(index).log_snr()
    }

    /// `q(x_{t−1} | x_t, x_0)`.
    pub fn posterior(&self, index: usize) -> Posterior {
        Posterior::new(self.alpha_bar(index), self.previous_alpha_bar(index))
    }

    /// `x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε` with one `t` per example.
    ///
    /// - `sample`, `noise`: `[batch, …]`, of the same shape
    /// - `index`: `batch` indices
    ///
    /// # Panics
    /// If an index is not below [`steps`](Self::steps), or the shapes do not agree.
    pub fn add_noise<const D: usize>(
        &self,
        sample: Tensor<D>,
        noise: Tensor<D>,
        index: &[usize],
    ) -> Tensor<D> {
        let device = sample.device();
        let (signal, scale) = self.scales(index, &device);
        sample * signal + noise * scale
    }

    /// `√ᾱ_t` and `√(1 − ᾱ_t)`, `[batch, 1, …]` each.
    pub(crate) fn scales<const D: usize>(
        &self,
        index: &[usize],
        device: &Device,
    ) -> (Tensor<D>, Tensor<D>) {
        let column = |value: fn(Level) -> f64| {
            let values: Vec<f32> = index.iter().map(|&t| value(self.level(t)) as f32).collect();
            let mut shape = [1; D];
            shape[0] = index.len();
            Tensor::<1>::from_floats(values.as_slice(), device).reshape(shape)
        };
        (column(Level::signal), column(Level::noise))
    }

    /// The time that the network gets for each example, `[batch]`.
    ///
    /// # Panics
    /// If an index is not below [`steps`](Self::steps).
    pub fn timesteps(&self, index: &[usize], device: &Device) -> Tensor<1> {
        let values: Vec<f32> = index.iter().map(|&t| self.timestep(t) as f32).collect();
        Tensor::from_floats(values.as_slice(), device)
    }

    /// The schedule of `count` steps in the given spacing; the network still gets the times of this schedule.
    ///
    /// # Errors
    /// As [`Spacing::timesteps`].
    pub fn respace(&self, spacing: Spacing, count: usize) -> Result<Self, ScheduleError> {
        self.respace_to(&spacing.timesteps(self.steps(), count)?)
    }

    /// The schedule that keeps the steps `kept`, in rising order.
    ///
    /// # Errors
    /// If `kept` is empty, does not rise strictly, or contains a step that this schedule does not have.
    pub fn respace_to(&self, kept: &[usize]) -> Result<Self, ScheduleError> {
        let available = self.steps();
        for (index, &value) in kept.iter().enumerate() {
            if value >= available || (index > 0 && value <= kept[index - 1]) {
                return Err(ScheduleError::Respacing {
                    index,
                    value,
                    available,
                });
            }
        }
        let schedule = Self::new(
            kept.iter().map(|&t| self.alpha_bar[t]).collect(),
            kept.iter().map(|&t| self.timestep[t]).collect(),
            self.final_alpha_bar,
        )?;
        Ok(schedule.of_training(self))
    }

    /// The first (cleanest) `count` steps: a sampler then starts from a picture that is noised only
    /// up to step `count − 1`, instead of from pure noise (SDEdit, arXiv 2108.01073).
    ///
    /// # Errors
    /// If `count` is 0 or more than there are.
    pub fn truncate(&self, count: usize) -> Result<Self, ScheduleError> {
        let available = self.steps();
        if count == 0 || count > available {
            return Err(ScheduleError::Steps {
                asked: count,
                available,
            });
        }
        self.respace_to(&(0..count).collect::<Vec<_>>())
    }

    /// The schedule with the levels `sigmas`, falling; the network gets the (fractional) step with the same
    /// `σ`, see [`timestep_of_sigma`](Self::timestep_of_sigma).
    ///
    /// # Errors
    /// If the list is empty, or the values are not positive, finite and strictly falling.
    pub fn respace_to_sigmas(&self, sigmas: &[f64]) -> Result<Self, ScheduleError> {
        let mut previous = f64::INFINITY;
        for (index, &value) in sigmas.iter().enumerate() {
            if !(value > 0.0 && value < previous) {
                return Err(ScheduleError::Sigma { index, value });
            }
            previous = value;
        }
        let mut schedule = Self::new(
            sigmas
                .iter()
                .rev()
                .map(|&sigma| alpha_bar_from_sigma(sigma))
                .collect(),
            sigmas
                .iter()
                .rev()
                .map(|&sigma| self.timestep_of_sigma(sigma))
                .collect(),
            1.0,
        )?;
        // A level below this schedule's first step may lie beyond its final level.
        schedule.final_alpha_bar = self.final_alpha_bar.max(schedule.alpha_bar[0]);
        Ok(schedule.of_training(self))
    }

    /// The schedule of `count` Karras levels between this schedule's lowest and highest `σ`.
    ///
    /// # Errors
    /// If `count` is 0, `rho` is not positive, or the highest `σ` is infinite (zero terminal signal-to-noise
    /// ratio).
    pub fn respace_karras(&self, count: usize, rho: f64) -> Result<Self, ScheduleError> {
        let sigmas = KarrasSigmas::new()
            .with_sigma_min(self.sigma(0))
            .with_sigma_max(self.sigma(self.steps() - 1))
            .with_rho(rho);
        self.respace_to_sigmas(&sigmas.sigmas(count)?)
    }

    /// The noise level at a time between two steps, with the logarithm of the signal-to-noise ratio
    /// interpolated linearly. Before the first step it is the first step's level, and after the last one the
    /// last step's.
    ///
    /// - `timestep`: in units of training steps, as [`timestep`](Self::timestep)
    pub fn level_at(&self, timestep: f64) -> Level {
        let above = self.timestep.partition_point(|&t| t < timestep);
        let level = |index: usize| Level::variance_preserving(timestep, self.alpha_bar[index]);
        if above == self.steps() {
            return level(above - 1);
        }
        if above == 0 || self.timestep[above] == timestep {
            return level(above);
        }
        let (t0, t1) = (self.timestep[above - 1], self.timestep[above]);
        let weight = (timestep - t0) / (t1 - t0);
        let log_snr = (1.0 - weight) * self.log_snr(above - 1) + weight * self.log_snr(above);
        Level::variance_preserving(timestep, 1.0 / (1.0 + (-log_snr).exp()))
    }

    /// The level with the noise level `sigma`, whose time is [`timestep_of_sigma`](Self::timestep_of_sigma).
    pub fn level_of_sigma(&self, sigma: f64) -> Level {
        Level::variance_preserving(self.timestep_of_sigma(sigma), alpha_bar_from_sigma(sigma))
    }

    /// The step at which this schedule has the noise level `sigma`, linearly interpolated in
    /// `ln σ` and limited to the schedule's range.
    pub fn timestep_of_sigma(&self, sigma: f64) -> f64 {
        let above = self
            .alpha_bar
            .partition_point(|&a| sigma_from_alpha_bar(a) <= sigma);
        if above == 0 {
            return self.timestep[0];
        }
        if above == self.steps() {
            return self.timestep[above - 1];
        }
        let (low, high) = (self.sigma(above - 1).ln(), self.sigma(above).ln());
        let weight = (sigma.ln() - low) / (high - low);
        self.timestep[above - 1] + weight * (self.timestep[above] - self.timestep[above - 1])
    }

    /// Shifts and scales `√ᾱ` so that the last is 0 and the first stays (Lin et al., algorithm 1).
    ///
    /// # Errors
    /// If there are fewer than 2 steps.
    pub fn rescale_zero_terminal_snr(&self) -> Result<Self, ScheduleError> {
        let roots: Vec<f64> = self.alpha_bar.iter().map(|a| a.sqrt()).collect();
        let (first, last) = (roots[0], roots[roots.len() - 1]);
        if roots.len() < 2 {
            return Err(ScheduleError::SingleStep);
        }
        let alpha_bar = roots
            .iter()
            .map(|root| ((root - last) * first / (first - last)).powi(2))
            .collect();
        Self::new(alpha_bar, self.timestep.clone(), self.final_alpha_bar)
    }
}
