//! `scheduler/scheduler_config.json`: the noise schedule of a model, and the sampler it names.
//!
//! The file names a class of the diffusers library and its options. From it come the training schedule,
//! what the network predicts, and a [`Sampler`] whose time steps and noise levels are those of that class;
//! another sampler than the named one can be asked for, with the options that it shares with the file and
//! its own class's defaults for the rest.
//!
//! | class | [`SamplerKind`] | grid of N steps |
//! |---|---|---|
//! | `DDIMScheduler` | `ddim` | [`Spacing`], in whole steps |
//! | `DDPMScheduler` | `ddpm` | the same |
//! | `PNDMScheduler` | `plms`, or `pndm` without `skip_prk_steps` | the same |
//! | `EulerDiscreteScheduler` | `euler` | the same, but `linspace` is not rounded and `σ` linear between |
//! | `EulerAncestralDiscreteScheduler` | `euler-ancestral` | as Euler |
//! | `HeunDiscreteScheduler` | `heun` | as Euler |
//! | `LMSDiscreteScheduler` | `lms` | as Euler |
//! | `DPMSolverMultistepScheduler` | `dpm++2m`, `dpm++2m-sde` | N + 1 points without the lowest |
//! | `UniPCMultistepScheduler` | `unipc` | as DPM-Solver |
//!
//! With Karras spacing, Euler's kin spread the `σ` between the ends of their own grid, DPM-Solver and UniPC
//! over the whole training schedule, telling the network the nearest whole step.
//!
//! Three things differ from diffusers on purpose: where its DDIM and PNDM take a step of `⌊T/N⌋` although
//! the grid's is another (`linspace`, or N that does not divide T), the step here leads to the grid's next
//! level; a run that starts in the middle restarts PLMS properly; and the predicted picture is clipped if
//! the file says so or is itself one of DDIM or DDPM, whose default that is, but not because DDIM was asked
//! for over the file of another class.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::model_folder::{ModelFolderError, Part};
use crate::ddim::DdimConfig;
use crate::ddpm::{DdpmConfig, Variance};
use crate::denoiser::{Prediction, SamplerError};
use crate::dpm_solver_multistep::DpmSolverMultistepConfig;
use crate::pndm::{PndmConfig, PndmMethod};
use crate::sampler::{Sampler, SamplerConfig, SamplerKind};
use crate::schedule::{
    BetaSchedule, KarrasSigmas, NoiseLevel, NoiseSchedule, NoiseScheduleConfig, ScheduleError,
    Spacing, alpha_bar_from_sigma, sigma_from_alpha_bar,
};
use crate::unipc::{UniPcB, UniPcConfig};

/// The file in a part's folder.
const FILE: &str = "scheduler_config.json";

/// Why there is no sampler.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The file.
    #[error(transparent)]
    Folder(#[from] ModelFolderError),
    /// The schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The sampler.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
}

/// A sampler as a model's folder, and maybe the user, wants it.
#[derive(Clone, Debug)]
pub struct ScheduledSampler {
    /// The sampler over its steps.
    pub sampler: Sampler,
    /// What standard normal noise is multiplied by to start from, where the run starts from noise alone:
    /// 1, or `√(1 − ᾱ)` of the noisiest level for the classes that start from `σ_max` times the noise. A
    /// noised picture is not scaled.
    pub start_scale: f64,
}

/// The keys of the file, as diffusers names them; `None` where the file has none.
#[derive(Clone, Debug, Default, Deserialize)]
#[allow(missing_docs)] // the names are those of the file's keys
pub struct SchedulerConfig {
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    pub num_train_timesteps: Option<usize>,
    pub beta_start: Option<f64>,
    pub beta_end: Option<f64>,
    pub beta_schedule: Option<String>,
    pub trained_betas: Option<Vec<f64>>,
    pub rescale_betas_zero_snr: Option<bool>,
    pub prediction_type: Option<String>,
    pub timestep_spacing: Option<String>,
    pub steps_offset: Option<usize>,
    pub set_alpha_to_one: Option<bool>,
    pub clip_sample: Option<bool>,
    pub clip_sample_range: Option<f64>,
    pub skip_prk_steps: Option<bool>,
    pub use_karras_sigmas: Option<bool>,
    pub final_sigmas_type: Option<String>,
    pub interpolation_type: Option<String>,
    pub timestep_type: Option<String>,
    pub solver_order: Option<usize>,
    pub algorithm_type: Option<String>,
    pub solver_type: Option<String>,
    pub lower_order_final: Option<bool>,
    pub euler_at_final: Option<bool>,
    pub lambda_min_clipped: Option<f64>,
    pub variance_type: Option<String>,
    pub predict_x0: Option<bool>,
    pub disable_corrector: Option<Vec<usize>>,
    pub sigma_min: Option<f64>,
    pub sigma_max: Option<f64>,
    #[serde(skip)]
    path: PathBuf,
}

impl SchedulerConfig {
    /// Reads `scheduler_config.json` of the part `scheduler`.
    ///
    /// # Errors
    /// If there is no such file, its class or an option that its class has is not implemented, or it has a
    /// key that none of the classes has.
    pub fn load(part: &Part) -> Result<Self, ModelFolderError> {
        let silent = [
            "dynamic_thresholding_ratio",
            "sample_max_value",
            "flow_shift",
            "time_shift_type",
        ];
        let config: Self = part.config(FILE, &silent, &[])?;
        config.checked(part.folder().join(FILE))
    }

    /// The configuration with the keys of `values`, which errors say is of `path`.
    ///
    /// # Errors
    /// If a value is of the wrong kind, or not implemented.
    pub fn from_values(path: &Path, values: serde_json::Value) -> Result<Self, ModelFolderError> {
        let config: Self =
            serde_json::from_value(values).map_err(|e| ModelFolderError::Config {
                path: path.to_owned(),
                reason: e.to_string(),
            })?;
        config.checked(path.to_owned())
    }

    fn checked(mut self, path: PathBuf) -> Result<Self, ModelFolderError> {
        self.path = path;
        self.options(self.kind()?)?;
        self.prediction()?;
        self.training_config()?;
        self.spacing(self.kind()?)?;
        Ok(self)
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sampler that the file names.
    ///
    /// # Errors
    /// If its class is none of those in the [module documentation](self).
    pub fn kind(&self) -> Result<SamplerKind, ModelFolderError> {
        Ok(match self.class_name.as_deref() {
            Some("DDIMScheduler") => SamplerKind::Ddim,
            Some("DDPMScheduler") => SamplerKind::Ddpm,
            Some("PNDMScheduler") => match self.skip_prk_steps {
                Some(true) => SamplerKind::Plms,
                _ => SamplerKind::Pndm,
            },
            Some("EulerDiscreteScheduler") => SamplerKind::Euler,
            Some("EulerAncestralDiscreteScheduler") => SamplerKind::EulerAncestral,
            Some("HeunDiscreteScheduler") => SamplerKind::Heun,
            Some("LMSDiscreteScheduler") => SamplerKind::Lms,
            Some("DPMSolverMultistepScheduler") => match self.algorithm_type.as_deref() {
                Some("sde-dpmsolver++") => SamplerKind::DpmSolverMultistepSde,
                _ => SamplerKind::DpmSolverMultistep,
            },
            Some("UniPCMultistepScheduler") => SamplerKind::UniPc,
            other => {
                return Err(self.unsupported(
                    "_class_name",
                    other.unwrap_or("null"),
                    "it must be one of DDIMScheduler, DDPMScheduler, PNDMScheduler, \
                     EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, \
                     HeunDiscreteScheduler, LMSDiscreteScheduler, DPMSolverMultistepScheduler, \
                     UniPCMultistepScheduler",
                ));
            }
        })
    }

    /// What the network predicts.
    ///
    /// # Errors
    /// If `prediction_type` is none of `epsilon`, `sample`, `v_prediction`.
    pub fn prediction(&self) -> Result<Prediction, ModelFolderError> {
        match self.prediction_type.as_deref() {
            None | Some("epsilon") => Ok(Prediction::Epsilon),
            Some("sample") => Ok(Prediction::Sample),
            Some("v_prediction") => Ok(Prediction::Velocity),
            Some(other) => Err(self.unsupported(
                "prediction_type",
                other,
                "it must be epsilon, sample or v_prediction",
            )),
        }
    }

    /// The noise schedule of the training.
    ///
    /// # Errors
    /// If the `β` are of an unknown kind or not in (0, 1).
    pub fn training_schedule(&self) -> Result<NoiseSchedule, SchedulerError> {
        let config = self.training_config()?;
        match &self.trained_betas {
            Some(betas) => {
                let schedule = NoiseSchedule::from_betas(betas)?;
                Ok(match config.zero_terminal_snr {
                    true => schedule.rescale_zero_terminal_snr()?,
                    false => schedule,
                })
            }
            None => Ok(config.init()?),
        }
    }

    /// A sampler of so many steps.
    ///
    /// - `kind`: the sampler; [`kind`](Self::kind) is the file's own
    /// - `karras`: whether the noise levels are spaced as Karras et al. do; without it, as the file says
    ///
    /// # Errors
    /// If an option of that sampler is not implemented, or it cannot make so many steps.
    pub fn sampler(
        &self,
        kind: SamplerKind,
        karras: Option<bool>,
        steps: usize,
    ) -> Result<ScheduledSampler, SchedulerError> {
        let options = self.options(kind)?;
        let spacing = self.spacing(kind)?;
        let mut training = self.training_schedule()?;
        let last = training.steps() - 1;
        if training.alpha_bar(last) == 0.0 && !matches!(kind, SamplerKind::Ddim | SamplerKind::Ddpm)
        {
            // These work with a finite σ: the least positive number of half precision instead of 0.
            let mut alpha_bars = training.alpha_bars().to_vec();
            alpha_bars[last] = f64::powi(2.0, -24);
            training = NoiseSchedule::from_alpha_bars(&alpha_bars)?;
        }
        if steps == 0 || steps > training.steps() {
            return Err(SchedulerError::Schedule(ScheduleError::Steps {
                asked: steps,
                available: training.steps(),
            }));
        }
        let grid = Grid {
            training: &training,
            spacing,
            steps,
            karras: match karras {
                Some(karras) => karras,
                None => self.use_karras_sigmas == Some(true) && has_karras(kind),
            },
        };
        let first = training.alpha_bar(0);
        let final_alpha_bar = match kind {
            SamplerKind::Ddim if self.set_alpha_to_one == Some(false) => first,
            SamplerKind::Pndm | SamplerKind::SPndm | SamplerKind::Plms
                if self.set_alpha_to_one != Some(true) =>
            {
                first
            }
            SamplerKind::Euler
            | SamplerKind::DpmSolverMultistep
            | SamplerKind::DpmSolverMultistepSde
            | SamplerKind::UniPc
                if self.final_sigma_is_least()? =>
            {
                first
            }
            _ => 1.0,
        };
        let levels = match kind {
            SamplerKind::DpmSolverMultistep | SamplerKind::DpmSolverMultistepSde => {
                grid.without_lowest(self.last_timestep(&training), !self.is_cosine())?
            }
            SamplerKind::UniPc => grid.without_lowest(training.steps(), true)?,
            kind if is_of_euler(kind) => grid.interpolated()?,
            _ => grid.whole_steps()?,
        };
        let schedule = NoiseSchedule::from_levels(&levels, final_alpha_bar)?;
        let start_scale = match spacing {
            Spacing::Linspace | Spacing::Trailing if is_of_euler(kind) => {
                schedule.level(steps - 1).noise()
            }
            _ => 1.0,
        };
        Ok(ScheduledSampler {
            sampler: options.init(schedule, &training)?,
            start_scale,
        })
    }

    fn training_config(&self) -> Result<NoiseScheduleConfig, ModelFolderError> {
        // The one class with other defaults.
        let (start, end) = match self.class_name.as_deref() {
            Some("HeunDiscreteScheduler") => (0.00085, 0.012),
            _ => (1e-4, 0.02),
        };
        let (start, end) = (
            self.beta_start.unwrap_or(start),
            self.beta_end.unwrap_or(end),
        );
        let betas = match self.beta_schedule.as_deref() {
            None | Some("linear") => BetaSchedule::Linear { start, end },
            Some("scaled_linear") => BetaSchedule::ScaledLinear { start, end },
            Some("squaredcos_cap_v2") => BetaSchedule::COSINE,
            Some("sigmoid") => BetaSchedule::Sigmoid { start, end },
            Some(other) => {
                return Err(self.unsupported(
                    "beta_schedule",
                    other,
                    "it must be linear, scaled_linear, squaredcos_cap_v2 or sigmoid",
                ));
            }
        };
        Ok(NoiseScheduleConfig::new()
            .with_steps(self.num_train_timesteps.unwrap_or(1000))
            .with_betas(betas)
            .with_zero_terminal_snr(self.rescale_betas_zero_snr == Some(true)))
    }

    fn is_cosine(&self) -> bool {
        self.beta_schedule.as_deref() == Some("squaredcos_cap_v2")
    }

    fn spacing(&self, kind: SamplerKind) -> Result<Spacing, ModelFolderError> {
        let offset = self.steps_offset.unwrap_or(0);
        let leading = matches!(
            kind,
            SamplerKind::Ddim
                | SamplerKind::Ddpm
                | SamplerKind::Pndm
                | SamplerKind::SPndm
                | SamplerKind::Plms
        );
        match self.timestep_spacing.as_deref() {
            None if leading => Ok(Spacing::Leading { offset }),
            None | Some("linspace") => Ok(Spacing::Linspace),
            Some("leading") => Ok(Spacing::Leading { offset }),
            Some("trailing") => Ok(Spacing::Trailing),
            Some(other) => Err(self.unsupported(
                "timestep_spacing",
                other,
                "it must be linspace, leading or trailing",
            )),
        }
    }

    fn final_sigma_is_least(&self) -> Result<bool, ModelFolderError> {
        match self.final_sigmas_type.as_deref() {
            None | Some("zero") => Ok(false),
            Some("sigma_min") => Ok(true),
            Some(other) => {
                Err(self.unsupported("final_sigmas_type", other, "it must be zero or sigma_min"))
            }
        }
    }

    /// DPM-Solver's last training step, whose `λ` is at least `lambda_min_clipped`, and one more.
    fn last_timestep(&self, training: &NoiseSchedule) -> usize {
        let least = self.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY);
        let kept = (0..training.steps()).filter(|&t| 0.5 * training.log_snr(t) >= least);
        kept.count().max(1)
    }

    fn options(&self, kind: SamplerKind) -> Result<SamplerConfig, ModelFolderError> {
        self.final_sigma_is_least()?;
        let own = self.kind()?;
        let clip = match (self.clip_sample, own) {
            (Some(true), _) | (None, SamplerKind::Ddim | SamplerKind::Ddpm) => {
                Some(self.clip_sample_range.unwrap_or(1.0))
            }
            _ => None,
        };
        Ok(match (kind, kind.config()) {
            (_, SamplerConfig::Ddim(_)) => SamplerConfig::Ddim(DdimConfig::new().with_clip(clip)),
            (_, SamplerConfig::Ddpm(_)) => {
                let variance = match self.variance_type.as_deref() {
                    None | Some("fixed_small" | "fixed_small_log") => Variance::FixedSmall,
                    Some("fixed_large") => Variance::FixedLarge,
                    Some("learned_range") => Variance::LearnedRange,
                    Some(other) => {
                        return Err(self.unsupported(
                            "variance_type",
                            other,
                            "it must be fixed_small, fixed_large or learned_range",
                        ));
                    }
                };
                SamplerConfig::Ddpm(DdpmConfig::new().with_variance(variance).with_clip(clip))
            }
            (_, SamplerConfig::Pndm(pndm)) => SamplerConfig::Pndm(
                PndmConfig::new()
                    .with_method(pndm.method)
                    // S-PNDM is not in diffusers, so there is nothing to agree with.
                    .with_combine_outputs(pndm.method != PndmMethod::SPndm),
            ),
            (_, SamplerConfig::DpmSolverMultistep(solver)) => {
                self.dpm_solver(solver, kind == own)?
            }
            (_, SamplerConfig::UniPc(_)) => self.unipc(kind == own)?,
            (SamplerKind::Euler, config) => {
                self.only(
                    "interpolation_type",
                    self.interpolation_type.as_deref(),
                    "linear",
                )?;
                self.only("timestep_type", self.timestep_type.as_deref(), "discrete")?;
                for (key, value) in [("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)] {
                    if let Some(value) = value {
                        return Err(self.unsupported(key, value, "only null is implemented"));
                    }
                }
                config
            }
            (_, config) => config,
        })
    }

    fn dpm_solver(
        &self,
        solver: DpmSolverMultistepConfig,
        own: bool,
    ) -> Result<SamplerConfig, ModelFolderError> {
        let mut solver = solver;
        if own {
            match self.algorithm_type.as_deref() {
                None | Some("dpmsolver++" | "sde-dpmsolver++") => {}
                Some(other) => {
                    return Err(self.unsupported(
                        "algorithm_type",
                        other,
                        "it must be dpmsolver++ or sde-dpmsolver++",
                    ));
                }
            }
            // The names of other classes' variants stand for midpoint, as in diffusers.
            match self.solver_type.as_deref() {
                None | Some("midpoint" | "logrho" | "bh1" | "bh2") => {}
                Some(other) => {
                    return Err(self.unsupported("solver_type", other, "it must be midpoint"));
                }
            }
            solver.order = match self.solver_order.unwrap_or(2) {
                order @ 1..=2 => order,
                order => {
                    return Err(self.unsupported("solver_order", order, "it must be 1 or 2"));
                }
            };
        }
        solver.lower_order_final = self.lower_order_final.unwrap_or(true);
        solver.euler_at_final = self.euler_at_final.unwrap_or(false);
        Ok(SamplerConfig::DpmSolverMultistep(solver))
    }

    fn unipc(&self, own: bool) -> Result<SamplerConfig, ModelFolderError> {
        let mut unipc = UniPcConfig::new();
        if own {
            unipc.b = match self.solver_type.as_deref() {
                Some("bh1") => UniPcB::B1,
                // The names of other classes' variants stand for bh2, as in diffusers.
                None | Some("bh2" | "midpoint" | "heun" | "logrho") => UniPcB::B2,
                Some(other) => {
                    return Err(self.unsupported("solver_type", other, "it must be bh1 or bh2"));
                }
            };
            unipc.order = match self.solver_order.unwrap_or(2) {
                order @ 1..=3 => order,
                order => {
                    return Err(self.unsupported("solver_order", order, "it must be 1 to 3"));
                }
            };
            if self.predict_x0 == Some(false) {
                return Err(self.unsupported("predict_x0", false, "only true is implemented"));
            }
            match self.disable_corrector.as_deref() {
                None | Some([]) => {}
                Some(steps) => {
                    return Err(self.unsupported(
                        "disable_corrector",
                        format!("{steps:?}"),
                        "only [] is implemented",
                    ));
                }
            }
        }
        unipc.lower_order_final = self.lower_order_final.unwrap_or(true);
        Ok(SamplerConfig::UniPc(unipc))
    }

    fn only(
        &self,
        key: &str,
        value: Option<&str>,
        implemented: &str,
    ) -> Result<(), ModelFolderError> {
        match value {
            Some(other) if other != implemented => {
                Err(self.unsupported(key, other, &format!("only {implemented} is implemented")))
            }
            _ => Ok(()),
        }
    }

    fn unsupported(&self, key: &str, value: impl ToString, expected: &str) -> ModelFolderError {
        ModelFolderError::Unsupported {
            path: self.path.clone(),
            key: key.to_owned(),
            value: value.to_string(),
            expected: expected.to_owned(),
        }
    }
}

/// Whether diffusers' class reads `use_karras_sigmas`.
fn has_karras(kind: SamplerKind) -> bool {
    matches!(
        kind,
        SamplerKind::Euler
            | SamplerKind::Heun
            | SamplerKind::Lms
            | SamplerKind::DpmSolverMultistep
            | SamplerKind::DpmSolverMultistepSde
            | SamplerKind::UniPc
    )
}

fn is_of_euler(kind: SamplerKind) -> bool {
    matches!(
        kind,
        SamplerKind::Euler | SamplerKind::EulerAncestral | SamplerKind::Heun | SamplerKind::Lms
    )
}

/// The levels of a run, the cleanest first.
struct Grid<'a> {
    training: &'a NoiseSchedule,
    spacing: Spacing,
    steps: usize,
    karras: bool,
}

impl Grid<'_> {
    /// Whole training steps.
    fn whole_steps(&self) -> Result<Vec<NoiseLevel>, ScheduleError> {
        if self.karras {
            let schedule = self.training.respace_karras(self.steps, 7.0)?;
            return Ok((0..self.steps).map(|i| schedule.level(i)).collect());
        }
        let kept = self.spacing.timesteps(self.training.steps(), self.steps)?;
        Ok(kept.into_iter().map(|t| self.training.level(t)).collect())
    }

    /// Times that may lie between training steps, where `σ` is linear.
    fn interpolated(&self) -> Result<Vec<NoiseLevel>, ScheduleError> {
        let last = (self.training.steps() - 1) as f64;
        let levels = match self.spacing {
            // A single step is step 0, as in NumPy.
            Spacing::Linspace => (0..self.steps)
                .map(|i| last * i as f64 / (self.steps.max(2) - 1) as f64)
                .map(|t| self.linear_in_sigma(t))
                .collect(),
            _ => Self {
                karras: false,
                ..*self
            }
            .whole_steps()?,
        };
        if !self.karras {
            return Ok(levels);
        }
        let ends = KarrasSigmas::new()
            .with_sigma_min(levels[0].sigma())
            .with_sigma_max(levels[self.steps - 1].sigma());
        let sigmas = ends.sigmas(self.steps)?;
        Ok(self.at_sigmas(&sigmas, false))
    }

    /// DPM-Solver's grid: one point more, without the lowest one.
    ///
    /// - `end`: the training steps from here on are not used
    /// - `whole`: whether Karras levels are told as whole steps
    fn without_lowest(&self, end: usize, whole: bool) -> Result<Vec<NoiseLevel>, ScheduleError> {
        if self.karras {
            let last = self.training.steps() - 1;
            let ends = KarrasSigmas::new()
                .with_sigma_min(self.training.sigma(0))
                .with_sigma_max(self.training.sigma(last));
            return Ok(self.at_sigmas(&ends.sigmas(self.steps)?, whole));
        }
        let kept: Vec<usize> = match self.spacing {
            Spacing::Linspace => Spacing::Linspace.timesteps(end, self.steps + 1)?,
            Spacing::Leading { offset } => {
                let stride = end / (self.steps + 1);
                (0..=self.steps).map(|k| k * stride + offset).collect()
            }
            Spacing::Trailing => {
                let stride = self.training.steps() as f64 / self.steps as f64;
                let mut kept: Vec<usize> = (0..self.steps)
                    .map(|k| (end as f64 - k as f64 * stride).round_ties_even())
                    .take_while(|&t| t >= 1.0)
                    .map(|t| t as usize - 1)
                    .collect();
                // The place of the lowest, which is not in this grid.
                kept.push(0);
                kept.reverse();
                kept
            }
        };
        kept.into_iter()
            .skip(1)
            .enumerate()
            .map(|(index, t)| match t < self.training.steps() {
                true => Ok(self.training.level(t)),
                false => Err(ScheduleError::Respacing {
                    index,
                    value: t,
                    available: self.training.steps(),
                }),
            })
            .collect()
    }

    fn linear_in_sigma(&self, timestep: f64) -> NoiseLevel {
        let below = (timestep.floor() as usize).min(self.training.steps() - 1);
        let above = (below + 1).min(self.training.steps() - 1);
        let weight = timestep - below as f64;
        let alpha_bar = match weight {
            0.0 => self.training.alpha_bar(below),
            _ => {
                let sigma = |t: usize| sigma_from_alpha_bar(self.training.alpha_bar(t));
                alpha_bar_from_sigma((1.0 - weight) * sigma(below) + weight * sigma(above))
            }
        };
        NoiseLevel {
            timestep,
            alpha_bar,
        }
    }

    /// - `sigmas`: falling
    fn at_sigmas(&self, sigmas: &[f64], whole: bool) -> Vec<NoiseLevel> {
        let level = |&sigma: &f64| {
            let timestep = self.training.timestep_of_sigma(sigma);
            NoiseLevel {
                timestep: match whole {
                    true => timestep.round_ties_even(),
                    false => timestep,
                },
                alpha_bar: alpha_bar_from_sigma(sigma),
            }
        };
        sigmas.iter().rev().map(level).collect()
    }
}
