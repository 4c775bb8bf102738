//! RDDM: residual denoising diffusion models.
//!
//! A diffusion from a picture `I_0` to a degraded picture `I_in` plus noise, with a residual
//! `I_res = I_in − I_0` and a noise `ε` that are removed with separate coefficients:
//!
//! ```text
//! I_t = I_{t-1} + α_t I_res + β_t ε_{t-1}                    one forward step
//! I_t = I_0 + ᾱ_t I_res + β̄_t ε,   ᾱ_t = Σ α_i, β̄_t² = Σ β_i²  from the start (eq. 7)
//! ᾱ_T = 1, so that I_T = I_in + β̄_T ε
//! ```
//!
//! A network predicts the residual, the noise, or both, and the reverse step is
//!
//! ```text
//! I_{t'} = I_t − (ᾱ_t − ᾱ_{t'}) I_res − (β̄_t − √(β̄_{t'}² − σ²)) ε + σ z,    σ² = η (β̄_t² − β̄_{t'}²) β̄_{t'}² / β̄_t²
//! ```
//!
//! where `η = 0` is deterministic and `η = 1` is the ancestral posterior. With `I_in = 0` the model
//! generates from noise, and `ᾱ_t = 1 − √(ᾱ_t of DDIM)`, `β̄_t² = 1 − ᾱ_t of DDIM` make it DDIM.
//!
//! This module has the schedule, the networks, the predictions and a single reverse step;
//! [`rddm_sampler`](crate::rddm_sampler) has the losses and whole runs, [`rddm_trainer`](crate::rddm_trainer)
//! the training.
//!
//! Source: Liu, Wang, Fan, Wang, Tang, Qu, *Residual Denoising Diffusion Models*, CVPR 2024, arXiv
//! 2308.13712, with the variants of the official code (github.com/nachifur/RDDM): the objectives SM-Res,
//! SM-N, SM-Res-N and x0-N; one network, one encoder with two decoders, or two networks; the coefficient
//! schedules; the partially path-independent generation; the automatic choice of the objective (AOSA). Where
//! the official code differs from its equations, this implementation follows the equations:
//!
//! - The code sets `1 − ᾱ_T` to 1e-6 in every schedule. Here this is done only if `ᾱ_T` reaches 1, so that a
//!   converted DDIM schedule keeps its true last value.
//! - The code clips `β̄_t²` to 1. Here a larger final variance is possible.
//! - In the partially path-independent generation, each of the code's two passes ends by removing the rest of
//!   both parts, so a share of each is removed twice. Here each pass removes only its own part.
//! - The code's sampler with all `T` steps is always ancestral. Here only `η` decides. (`η = 1` with
//!   [`Removal::Resample`] is that sampler.)

use burn::config::Config;
use burn::tensor::{Device, Tensor};
use nabla_base::range::{self, OutOfRange};

use crate::asking::{Predicted, Step};
use crate::sampler_error::OwnError;
use crate::unet::UNetConfigError;

mod coefficients;
mod network;

pub use coefficients::{Coefficients, Grid};
pub use network::{ResidualNetwork, Sharing};

/// Why an RDDM cannot be built or run as asked.
#[derive(Debug, thiserror::Error)]
pub enum RddmError {
    /// The schedule has no steps.
    #[error("RDDM needs at least 1 diffusion step, but 0 were asked for")]
    NoSteps,
    /// More sampling steps than training steps, or none.
    #[error("RDDM was asked for {asked} sampling steps, but it can take 1 to {available}")]
    SamplingSteps {
        /// Steps asked for.
        asked: usize,
        /// Steps of the schedule.
        available: usize,
    },
    /// A variance, an exponent or η is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// DDIM's cumulative products do not fall from at most 1 to above 0.
    #[error(
        "the cumulative products of a DDIM schedule must fall strictly within (0, 1], but number {index} is {value}"
    )]
    NotADdimSchedule {
        /// Index of the offending value.
        index: usize,
        /// The value.
        value: f64,
    },
    /// The network's number of outputs does not match the objective.
    #[error(
        "the objective {objective:?} needs {expected} network output(s), but the network has {found}"
    )]
    Outputs {
        /// The objective.
        objective: Objective,
        /// Outputs it needs.
        expected: usize,
        /// Outputs there are.
        found: usize,
    },
    /// A network's output and the picture have different shapes.
    #[error("the network's output has the shape {found:?}, but the picture has {picture:?}")]
    OutputShape {
        /// Shape of the output.
        found: [usize; 4],
        /// Shape of the picture.
        picture: [usize; 4],
    },
    /// Two pictures that belong together have different shapes.
    #[error("the {what} has the shape {found:?}, but the picture has {picture:?}")]
    PictureShape {
        /// Which picture.
        what: &'static str,
        /// Its shape.
        found: [usize; 4],
        /// Shape of the picture it belongs to.
        picture: [usize; 4],
    },
    /// Removing residual and noise one after the other needs separate predictions of both.
    #[error(
        "the path {path:?} needs a network that predicts residual and noise (SM-Res-N), both \
         trusted and removed with their own coefficients, but the objective is {objective:?}, \
         with {trust:?} trusted and {removal:?} removed"
    )]
    Path {
        /// The path.
        path: Path,
        /// The objective.
        objective: Objective,
        /// Which predictions are trusted.
        trust: Trust,
        /// How a step removes them.
        removal: Removal,
    },
    /// The UNet's configuration is wrong.
    #[error(transparent)]
    UNet(#[from] UNetConfigError),
    /// The network failed.
    #[error("{0}")]
    Network(#[source] OwnError),
}

/// Configuration of a [`ResidualSchedule`].
///
/// The defaults are the paper's: `T = 1000`, `α` decreasing and `β²` increasing linearly. For
/// restoration the paper also uses `noise_variance = 0.01`, its code's default when a degraded
/// picture conditions the network.
#[derive(Config, Debug, PartialEq)]
pub struct ResidualScheduleConfig {
    /// Diffusion steps `T`. Default 1000.
    #[config(default = 1000)]
    pub steps: usize,
    /// Shape of `α_t`. Default `Decreased { power: 1 }`.
    #[config(default = "Coefficients::Decreased { power: 1.0 }")]
    pub residual: Coefficients,
    /// Shape of `β_t²`. Default `Increased { power: 1 }`.
    #[config(default = "Coefficients::Increased { power: 1.0 }")]
    pub noise: Coefficients,
    /// The points at which the powers are taken. Default `FromOneStep`.
    #[config(default = "Grid::FromOneStep")]
    pub grid: Grid,
    /// `β̄_T²`, the official code's `sum_scale`. Default 1.
    #[config(default = 1.0)]
    pub noise_variance: f64,
}

impl ResidualScheduleConfig {
    /// Computes the tables.
    ///
    /// # Errors
    /// If there are no steps, or a variance or exponent is out of range.
    ///
    /// ```
    /// use nabla_diffusion::rddm::ResidualScheduleConfig;
    /// let schedule = ResidualScheduleConfig::new().with_noise_variance(0.01).init()?;
    /// assert_eq!(schedule.steps(), 1000);
    /// assert!((schedule.residual_sum(999) - 1.0).abs() < 1e-12);
    /// assert!((schedule.noise_std(999) - 0.1).abs() < 1e-12);
    /// # Ok::<(), nabla_diffusion::rddm::RddmError>(())
    /// ```
    pub fn init(&self) -> Result<ResidualSchedule, RddmError> {
        if self.steps == 0 {
            return Err(RddmError::NoSteps);
        }
        range::positive("final noise variance of RDDM", self.noise_variance)?;
        for coefficients in [self.residual, self.noise] {
            if let Coefficients::Increased { power } | Coefficients::Decreased { power } =
                coefficients
            {
                range::not_negative("schedule exponent of RDDM", power)?;
            }
        }
        Ok(ResidualSchedule::from_sums(
            cumulative_sum(self.residual.values(self.steps, 1.0, self.grid)),
            cumulative_sum(
                self.noise
                    .values(self.steps, self.noise_variance, self.grid),
            ),
        ))
    }
}

fn cumulative_sum(values: Vec<f64>) -> Vec<f64> {
    let mut sum = 0.0;
    values
        .into_iter()
        .map(|v| {
            sum += v;
            sum
        })
        .collect()
}

/// The tables `ᾱ_t` and `β̄_t²` of one RDDM; index `t` counts from 0 as in the official code.
#[derive(Clone, Debug, PartialEq)]
pub struct ResidualSchedule {
    residual_sum: Vec<f64>,
    noise_variance: Vec<f64>,
}

impl ResidualSchedule {
    fn from_sums(residual_sum: Vec<f64>, noise_variance: Vec<f64>) -> Self {
        Self {
            residual_sum,
            noise_variance,
        }
    }

    /// The RDDM that equals a DDIM with the cumulative products `alpha_bar` (decreasing, in
    /// `(0, 1)`): `ᾱ_t = 1 − √alpha_bar_t`, `β̄_t² = 1 − alpha_bar_t`, with `I_in = 0`.
    ///
    /// # Errors
    /// If there are no products, or they do not fall strictly within `(0, 1)`.
    pub fn from_ddim(alpha_bar: &[f64]) -> Result<Self, RddmError> {
        if alpha_bar.is_empty() {
            return Err(RddmError::NoSteps);
        }
        let mut previous = f64::INFINITY;
        for (index, &value) in alpha_bar.iter().enumerate() {
            if !(value > 0.0 && value < 1.0 && value < previous) {
                return Err(RddmError::NotADdimSchedule { index, value });
            }
            previous = value;
        }
        Ok(Self::from_sums(
            alpha_bar.iter().map(|a| 1.0 - a.sqrt()).collect(),
            alpha_bar.iter().map(|a| 1.0 - a).collect(),
        ))
    }

    /// Number of diffusion steps `T`.
    pub fn steps(&self) -> usize {
        self.residual_sum.len()
    }

    /// `ᾱ_t`.
    ///
    /// # Panics
    /// If `t >= self.steps()`.
    pub fn residual_sum(&self, t: usize) -> f64 {
        self.residual_sum[t]
    }

    /// `β̄_t`.
    ///
    /// # Panics
    /// If `t >= self.steps()`.
    pub fn noise_std(&self, t: usize) -> f64 {
        self.noise_variance[t].sqrt()
    }

    /// The level of a picture with residual and noise of these indices; `None` means that the part is gone.
    ///
    /// # Panics
    /// If an index is not below [`steps`](Self::steps).
    pub fn level(&self, residual: Option<usize>, noise: Option<usize>) -> ResidualLevel {
        ResidualLevel {
            residual_sum: residual.map_or(0.0, |t| self.residual_sum(t)),
            noise_std: noise.map_or(0.0, |t| self.noise_std(t)),
            residual_index: residual,
            noise_index: noise,
        }
    }

    /// The times that the residual network and the noise network get, `[batch]` each.
    ///
    /// # Panics
    /// If a `t` is not below [`steps`](Self::steps).
    pub fn times(&self, told: TimeCondition, t: &[usize], device: &Device) -> [Tensor<1>; 2] {
        let total = self.steps() as f64;
        let tensor = |value: &dyn Fn(usize) -> f64| {
            let values: Vec<f32> = t.iter().map(|&t| value(t) as f32).collect();
            Tensor::<1>::from_floats(values.as_slice(), device)
        };
        match told {
            TimeCondition::Step => {
                let step = tensor(&|t| t as f64);
                [step.clone(), step]
            }
            TimeCondition::Coefficients => [
                tensor(&|t| self.residual_sum(t) * total),
                tensor(&|t| self.noise_std(t) * total),
            ],
        }
    }

    /// `I_t = I_0 + ᾱ_t I_res + β̄_t ε` for one `t` per example.
    ///
    /// - `clean`, `residual`, `noise`: `[batch, channels, height, width]`
    /// - `t`: `batch` indices below [`steps`](Self::steps)
    ///
    /// # Panics
    /// If a `t` is not below [`steps`](Self::steps).
    pub fn diffuse(
        &self,
        clean: Tensor<4>,
        residual: Tensor<4>,
        noise: Tensor<4>,
        t: &[usize],
    ) -> Tensor<4> {
        let device = clean.device();
        clean
            + residual * per_example(t.iter().map(|&t| self.residual_sum(t)), &device)
            + noise * per_example(t.iter().map(|&t| self.noise_std(t)), &device)
    }

    /// The indices that a sampler of `count` steps visits, from `T − 1` down, and `None` for `I_0`.
    ///
    /// As in the official code: `int(linspace(−1, T − 1, count + 1))`, reversed.
    ///
    /// # Errors
    /// If `count` is 0 or more than [`steps`](Self::steps).
    pub fn sampling_pairs(&self, count: usize) -> Result<Vec<(usize, Option<usize>)>, RddmError> {
        let available = self.steps();
        if count == 0 || count > available {
            return Err(RddmError::SamplingSteps {
                asked: count,
                available,
            });
        }
        // Position i of the linspace, truncated towards zero; −1 stands for the clean picture.
        let at = |i: usize| {
            let x = -1.0 + (available as f64) * (i as f64) / (count as f64);
            (i > 0).then(|| x.max(0.0) as usize)
        };
        Ok((0..count)
            .rev()
            .map(|i| (at(i + 1).unwrap_or(0), at(i)))
            .collect())
    }
}

/// `[batch, 1, 1, 1]`.
fn per_example(values: impl Iterator<Item = f64>, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = values.map(|v| v as f32).collect();
    let batch = values.len();
    Tensor::<1>::from_floats(values.as_slice(), device).reshape([batch, 1, 1, 1])
}

/// The form in which the networks get the time.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum TimeCondition {
    /// Both get the index `t`, as in the official code for restoration.
    Step,
    /// The residual network gets `ᾱ_t T`, the noise network `β̄_t T`. The schedule may then be changed after
    /// training, and residual and noise may be removed one after the other, as in the official code for the
    /// partially path-independent generation.
    Coefficients,
}

/// What the network is trained to predict.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Objective {
    /// SM-Res (`pred_res`): the residual; the noise follows from it.
    Residual,
    /// SM-N (`pred_noise`): the noise; the residual follows from it.
    Noise,
    /// SM-Res-N (`pred_res_noise`): the residual and the noise.
    ResidualNoise,
    /// `pred_res_add_noise`: the residual, and its sum with the noise.
    ResidualAddNoise,
    /// `pred_x0_noise`: the clean picture and the noise.
    CleanNoise,
    /// `pred_x0_add_noise`: the clean picture, and its sum with the noise.
    CleanAddNoise,
}

impl Objective {
    /// Number of network outputs.
    pub fn outputs(self) -> usize {
        match self {
            Self::Residual | Self::Noise => 1,
            Self::ResidualNoise
            | Self::ResidualAddNoise
            | Self::CleanNoise
            | Self::CleanAddNoise => 2,
        }
    }

    /// The training targets of the outputs, each `[batch, channels, height, width]`.
    ///
    /// - `clean`, `residual`, `noise`: `[batch, channels, height, width]`
    pub fn targets(
        self,
        clean: Tensor<4>,
        residual: Tensor<4>,
        noise: Tensor<4>,
    ) -> Vec<Tensor<4>> {
        match self {
            Self::Residual => vec![residual],
            Self::Noise => vec![noise],
            Self::ResidualNoise => vec![residual, noise],
            Self::ResidualAddNoise => vec![residual.clone(), residual + noise],
            Self::CleanNoise => vec![clean, noise],
            Self::CleanAddNoise => vec![clean.clone(), clean + noise],
        }
    }
}

/// Which of two predictions a sampler uses (the official `test_res_or_noise`).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Both.
    Both,
    /// The residual; the noise follows from it.
    Residual,
    /// The noise; the residual follows from it.
    Noise,
}

/// A model's prediction for one `I_t`: `I_t = clean + ᾱ_t residual + β̄_t noise`.
#[derive(Clone, Debug)]
pub struct ResidualPrediction {
    /// `I_res`, `[batch, channels, height, width]`.
    pub residual: Tensor<4>,
    /// `ε`, `[batch, channels, height, width]`.
    pub noise: Tensor<4>,
    /// `I_0`, `[batch, channels, height, width]`.
    pub clean: Tensor<4>,
}

/// The position of `I_t`: how much of the residual and of the noise it contains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResidualLevel {
    /// `ᾱ`: how much of the residual.
    pub residual_sum: f64,
    /// `β̄`: the standard deviation of the noise.
    pub noise_std: f64,
    /// The index of `ᾱ` in the schedule; `None` if `ᾱ` is 0.
    pub residual_index: Option<usize>,
    /// The index of `β̄` in the schedule; `None` if `β̄` is 0.
    pub noise_index: Option<usize>,
}

impl Predicted<4> for ResidualPrediction {
    type Level = ResidualLevel;
    type Kind = Objective;
}

impl Step<'_, 4, ResidualPrediction> {
    /// The prediction whose clean picture is `clean`, `[batch, channels, height, width]`: the residual leads
    /// to `input`, which is `I_in`, and the noise explains the rest of `x`. Use it to apply a correction of
    /// the clean picture (such as OmniSSR's).
    pub fn prediction_of_clean(&self, clean: Tensor<4>, input: &Tensor<4>) -> ResidualPrediction {
        let ResidualLevel {
            residual_sum,
            noise_std,
            ..
        } = self.level;
        let residual = input.clone() - clean.clone();
        let noise = if noise_std > 0.0 {
            (self.x.clone() - clean.clone() - residual.clone() * residual_sum) / noise_std.max(1e-6)
        } else {
            clean.zeros_like()
        };
        ResidualPrediction {
            residual,
            noise,
            clean,
        }
    }
}

impl ResidualSchedule {
    /// The noise that explains `x` if the residual is `residual` (and `I_0 = input − residual`).
    pub fn noise_from_residual(
        &self,
        x: Tensor<4>,
        input: Tensor<4>,
        residual: Tensor<4>,
        t: &[usize],
    ) -> Tensor<4> {
        let device = x.device();
        // β̄_0 is 0 on the grid from zero, where the noise is unknown; this keeps the quotient finite.
        (x - input - residual * per_example(t.iter().map(|&t| self.residual_sum(t) - 1.0), &device))
            / per_example(t.iter().map(|&t| self.noise_std(t).max(1e-6)), &device)
    }

    /// The clean picture that explains `x` if the noise is `noise` and the residual leads to `input`. At `ᾱ_t
    /// = 1` the equation has no solution; as in the official code, the divisor is at least 1e-6.
    pub fn clean_from_noise(
        &self,
        x: Tensor<4>,
        input: Tensor<4>,
        noise: Tensor<4>,
        t: &[usize],
    ) -> Tensor<4> {
        let device = x.device();
        (x - input * per_example(t.iter().map(|&t| self.residual_sum(t)), &device)
            - noise * per_example(t.iter().map(|&t| self.noise_std(t)), &device))
            / per_example(
                t.iter().map(|&t| (1.0 - self.residual_sum(t)).max(1e-6)),
                &device,
            )
    }

    /// Completes the network's `outputs` to a prediction.
    ///
    /// With `clip`, residual and clean picture are limited to `[−1, 1]`, the official default.
    ///
    /// # Errors
    /// If there are not as many outputs as `objective` has.
    #[allow(clippy::too_many_arguments)]
    pub fn prediction(
        &self,
        objective: Objective,
        trust: Trust,
        outputs: Vec<Tensor<4>>,
        x: Tensor<4>,
        input: Tensor<4>,
        t: &[usize],
        clip: bool,
    ) -> Result<ResidualPrediction, RddmError> {
        let found = outputs.len();
        let expected = objective.outputs();
        let mismatch = RddmError::Outputs {
            objective,
            expected,
            found,
        };
        if found != expected {
            return Err(mismatch);
        }
        let clamp = |x: Tensor<4>| if clip { x.clamp(-1.0, 1.0) } else { x };
        let mut outputs = outputs.into_iter();
        let first = outputs.next().ok_or(mismatch)?;
        let second = outputs.next().map(|second| match objective {
            Objective::ResidualAddNoise | Objective::CleanAddNoise => second - first.clone(),
            _ => second,
        });
        let predicts_clean = matches!(objective, Objective::CleanNoise | Objective::CleanAddNoise);
        let of_residual = |residual: Tensor<4>| {
            let residual = clamp(residual);
            let noise = self.noise_from_residual(x.clone(), input.clone(), residual.clone(), t);
            let clean = clamp(input.clone() - residual.clone());
            ResidualPrediction {
                residual,
                noise,
                clean,
            }
        };
        let of_noise = |noise: Tensor<4>| {
            let clean = clamp(self.clean_from_noise(x.clone(), input.clone(), noise.clone(), t));
            let residual = clamp(input.clone() - clean.clone());
            ResidualPrediction {
                residual,
                noise,
                clean,
            }
        };
        Ok(match (objective, second) {
            (Objective::Noise, _) => of_noise(first),
            (Objective::Residual, _) | (_, None) => of_residual(first),
            (_, Some(noise)) => {
                let residual = if predicts_clean {
                    input.clone() - first.clone()
                } else {
                    first.clone()
                };
                match trust {
                    Trust::Residual => of_residual(residual),
                    Trust::Noise => of_noise(noise),
                    Trust::Both if predicts_clean => ResidualPrediction {
                        residual: clamp(residual),
                        noise,
                        clean: clamp(first),
                    },
                    Trust::Both => {
                        let residual = clamp(residual);
                        let device = x.device();
                        let sum = per_example(t.iter().map(|&t| self.residual_sum(t)), &device);
                        let std = per_example(t.iter().map(|&t| self.noise_std(t)), &device);
                        let clean = clamp(x.clone() - residual.clone() * sum - noise.clone() * std);
                        ResidualPrediction {
                            residual,
                            noise,
                            clean,
                        }
                    }
                }
            }
        })
    }

    /// One reverse step from index `t` to `next` (`None` for the clean picture itself).
    ///
    /// - `x`: `I_t`
    /// - `eta`: 0 deterministic, 1 ancestral
    /// - `fresh`: the noise `z`, needed only if `eta > 0`
    /// - `remove`: what is removed in this step, see [`Removal`]
    ///
    /// # Panics
    /// If `t` or `next` is not below [`steps`](Self::steps).
    #[allow(clippy::too_many_arguments)]
    pub fn reverse_step(
        &self,
        x: Tensor<4>,
        prediction: &ResidualPrediction,
        t: usize,
        next: Option<usize>,
        eta: f64,
        fresh: Option<Tensor<4>>,
        remove: Removal,
    ) -> Tensor<4> {
        let Some(next) = next else {
            return match remove {
                Removal::ResidualAndNoise | Removal::Resample => prediction.clean.clone(),
                Removal::Residual => {
                    x - prediction.residual.clone().mul_scalar(self.residual_sum(t))
                }
                Removal::Noise => x - prediction.noise.clone().mul_scalar(self.noise_std(t)),
            };
        };
        let alpha = self.residual_sum[t] - self.residual_sum[next];
        let (now, then) = (self.noise_variance[t], self.noise_variance[next]);
        let sigma2 = eta * (now - then) * then / now;
        let kept = (then - sigma2).max(0.0).sqrt();
        let less_residual = |x: Tensor<4>| x - prediction.residual.clone().mul_scalar(alpha);
        let less_noise = |x: Tensor<4>| x - prediction.noise.clone().mul_scalar(now.sqrt() - kept);
        let x = match remove {
            Removal::ResidualAndNoise => less_noise(less_residual(x)),
            Removal::Residual => less_residual(x),
            Removal::Noise => less_noise(x),
            Removal::Resample => {
                let ratio = kept / now.sqrt();
                x.mul_scalar(ratio)
                    + prediction.clean.clone().mul_scalar(1.0 - ratio)
                    + prediction
                        .residual
                        .clone()
                        .mul_scalar(self.residual_sum[next] - self.residual_sum[t] * ratio)
            }
        };
        match fresh {
            Some(z) if sigma2 > 0.0 => x + z.mul_scalar(sigma2.sqrt()),
            _ => x,
        }
    }
}

/// What one reverse step removes.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Residual and noise together (the official `use_pred_noise`), the default.
    ResidualAndNoise,
    /// The same step written with the predicted clean picture (the official `use_x_start`). It differs from
    /// the default if the prediction was clipped, and takes a corrected clean picture into account.
    Resample,
    /// Only the residual: half of a partially path-independent generation.
    Residual,
    /// Only the noise: the other half.
    Noise,
}

/// The order in which a sampler removes residual and noise.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Path {
    /// Both in each step.
    Together,
    /// First the whole residual, with the noise kept, then the whole noise; this takes twice the calls.
    ResidualFirst,
    /// First the whole noise, with the residual kept, then the whole residual; this takes twice the calls.
    NoiseFirst,
}
