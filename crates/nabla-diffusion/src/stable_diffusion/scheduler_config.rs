//! `scheduler/scheduler_config.json`: the noise schedule of a model, and the sampler it names.
//!
//! The file names a class of the diffusers library and its options. It determines the training schedule, the
//! kind of prediction, and a [`Sampler`] with the time steps and noise levels of that class. You can also use
//! another sampler than the named one: it takes the options that the file also has, and its own class's
//! defaults for the others. Every option of Nabla's samplers can be set.
//!
//! | class | [sampler](crate::sampler) | grid of N steps |
//! |---|---|---|
//! | `DDIMScheduler` | `ddim` | [`Spacing`], in whole steps |
//! | `DDPMScheduler` | `ddpm` | the same |
//! | `PNDMScheduler` | `plms`, or `pndm` without `skip_prk_steps` | the same |
//! | `EulerDiscreteScheduler` | `euler` | the same, but `linspace` is not rounded and `σ` linear between |
//! | `EulerAncestralDiscreteScheduler` | `euler-ancestral` | as Euler |
//! | `HeunDiscreteScheduler` | `heun` | as Euler |
//! | `LMSDiscreteScheduler` | `lms` | as Euler |
//! | `DPMSolverMultistepScheduler` | `dpm++2m`, `dpm++3m` and their `-sde` | N + 1 points without the lowest |
//! | `UniPCMultistepScheduler` | `unipc` | as DPM-Solver |
//! | `DPMSolverSinglestepScheduler` | `dpm++2s` | as DPM-Solver, `linspace` |
//! | `DEISMultistepScheduler` | `deis` | as DPM-Solver |
//! | `KDPM2DiscreteScheduler` | `dpm2` | as Euler |
//! | `KDPM2AncestralDiscreteScheduler` | `dpm2-ancestral` | as Euler |
//! | `LCMScheduler` | `lcm` | N of the `original_inference_steps` |
//!
//! Your own sampler runs over the grid that it declares ([`Solver::grid`]).
//!
//! With a [`SigmaSpacing`], the samplers with Euler's grid spread the `σ` between the ends of their own grid.
//! DPM-Solver, UniPC and DEIS spread them over the whole training schedule, and the network gets a whole
//! step: the nearest one with `karras` and `lu`, the one below with `exponential` and `beta` (and with all
//! spacings on DPM-Solver's cosine schedule). With DPM2 and `karras`, the network gets the nearest whole
//! step, but a fraction for the middle levels. All other samplers spread the `σ` over the whole training
//! schedule, with fractional steps.
//!
//! A file of `DPMSolverMultistepScheduler` uses the third order of diffusers ([`ThirdOrder::Diffusers`]);
//! `dpm++3m` with the file of another class uses the exact one.
//!
//! Some things differ from diffusers on purpose. Its DDIM and PNDM take steps of `⌊T/N⌋` even if the steps of
//! the grid differ (with `linspace`, or if N does not divide T); here a step always leads to the grid's next
//! level. A run that starts in the middle restarts PLMS properly. The predicted picture is clipped if the
//! file says so, or if the file itself is for DDIM or DDPM, which clip by default, but not just because DDIM
//! was chosen with the file of another class. `dpmsolver` may end at `σ = 0` (with DDIM's step), which
//! diffusers refuses; so may UniPC without `predict_x0`, where diffusers returns NaN.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::model_folder::{ModelFolderError, Part};
use super::sampler_choice::SamplerChoice;
use crate::ddim::Ddim;
use crate::ddpm::{Ddpm, Variance};
use crate::deis::Deis;
use crate::denoiser::Prediction;
use crate::dpm_solver_multistep::{DpmAlgorithm, DpmSolverMultistep, DpmSolverType, ThirdOrder};
use crate::dpm_solver_singlestep::DpmSolverSinglestep;
use crate::lcm::Lcm;
use crate::pndm::PndmMethod;
use crate::registry::{Options, RegistryError};
use crate::sampler::{Grid, Sampler, Solver, samplers};
use crate::sampler_error::SamplerError;
use crate::schedule::{BetaSchedule, NoiseSchedule, NoiseScheduleConfig, ScheduleError, Spacing};
use crate::sigma_spacing::SigmaSpacing;
use crate::unipc::{UniPc, UniPcB};

mod classes;
mod grid;
mod planned;

use classes::{CLASSES, OWN, combined, fields, grid_of, has_spacing};
use grid::{Told, Visited};

/// The file in a part's folder.
const FILE: &str = "scheduler_config.json";

/// The reason why there is no sampler.
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
    /// The sampler's name, or an option.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// A sampler according to a model's folder and the user's choices.
#[derive(Clone, Debug)]
pub struct ScheduledSampler {
    /// The sampler over its steps.
    pub sampler: Sampler,
    /// The factor of the standard normal noise from which a run starts, if it starts from noise alone:
    /// 1, or `√(1 − ᾱ)` of the noisiest level for the classes that start from `σ_max` times the noise. A
    /// noised picture is not scaled.
    pub start_scale: f64,
}

/// The keys of the file, named as in diffusers; `None` if the file does not have the key.
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
    pub use_exponential_sigmas: Option<bool>,
    pub use_beta_sigmas: Option<bool>,
    pub use_lu_lambdas: Option<bool>,
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
    pub original_inference_steps: Option<usize>,
    pub timestep_scaling: Option<f64>,
    #[serde(skip)]
    path: PathBuf,
}

impl SchedulerConfig {
    /// Reads `scheduler_config.json` of the part `scheduler`.
    ///
    /// # Errors
    /// If there is no such file, its class or an option of its class is not implemented, or it has a key that
    /// is in none of the classes.
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

    /// Creates the configuration from the keys of `values`; errors name `path`.
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
        let name = self.sampler_name()?;
        let rule = grid_of(name);
        self.options(name)?;
        self.sigma_spacing(name, rule)?;
        self.prediction()?;
        self.training_config()?;
        self.spacing(rule)?;
        Ok(self)
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of the sampler for the file's class.
    ///
    /// # Errors
    /// If its class is none of those in the [module documentation](self).
    pub fn sampler_name(&self) -> Result<&'static str, ModelFolderError> {
        let class = self.class_name.as_deref();
        let Some(&(_, name)) = CLASSES.iter().find(|(known, _)| Some(*known) == class) else {
            let classes: Vec<&str> = CLASSES.iter().map(|(class, _)| *class).collect();
            let expected = format!("it must be one of {}", classes.join(", "));
            return Err(self.unsupported("_class_name", class.unwrap_or("null"), &expected));
        };
        // Two of the classes correspond to several samplers.
        let algorithm = self.algorithm_type.as_deref();
        let noisy = algorithm.is_some_and(|a| a.starts_with("sde-"));
        Ok(match (name, self.solver_order, noisy) {
            ("plms", ..) if self.skip_prk_steps != Some(true) => "pndm",
            ("dpm++2m", Some(3), false) => "dpm++3m",
            ("dpm++2m", Some(3), true) => "dpm++3m-sde",
            ("dpm++2m", _, true) => "dpm++2m-sde",
            _ => name,
        })
    }

    /// What the network predicts.
    ///
    /// # Errors
    /// If `prediction_type` is not `epsilon`, `sample` or `v_prediction`.
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

    /// Creates a sampler with `steps` steps.
    ///
    /// - `choice`: the sampler; by default the file's own
    /// - `sigmas`: the spacing of the noise levels; `None` to follow the file
    ///
    /// # Errors
    /// If the sampler or an option does not exist, an option of that sampler is not implemented, or it does
    /// not support this number of steps.
    pub fn sampler(
        &self,
        choice: &SamplerChoice,
        sigmas: Option<SigmaSpacing>,
        steps: usize,
    ) -> Result<ScheduledSampler, SchedulerError> {
        let (name, solver) = self.chosen(choice)?;
        let rule = solver.grid();
        let spacing = self.spacing(rule)?;
        let training = self.training_for(name)?;
        if steps == 0 || steps > training.steps() {
            return Err(SchedulerError::Schedule(ScheduleError::Steps {
                asked: steps,
                available: training.steps(),
            }));
        }
        let visited = Visited {
            training: &training,
            spacing,
            steps,
            sigmas: match sigmas {
                Some(sigmas) => Some(sigmas),
                None => self.sigma_spacing(name, rule)?,
            },
        };
        let final_alpha_bar = self.final_alpha_bar(name, rule, &training)?;
        let levels = match rule {
            Grid::WholeSteps => visited.whole_steps()?,
            Grid::Interpolated => visited.interpolated(match name {
                "dpm2" | "dpm2-ancestral" => Told::Nearest,
                _ => Told::Fraction,
            })?,
            Grid::WithoutLowest => match name {
                "unipc" | "deis" => visited.without_lowest(training.steps(), false)?,
                "dpm++2s" => visited.without_lowest(self.last_timestep(&training), false)?,
                _ => visited.without_lowest(self.last_timestep(&training), self.is_cosine())?,
            },
            Grid::Distilled => visited.distilled(self.original_inference_steps.unwrap_or(50))?,
        };
        // Spaced levels may end where the schedule does, up to rounding.
        let lowest = levels.first().map_or(0.0, |level| level.alpha_bar());
        let final_alpha_bar = final_alpha_bar.max(lowest);
        let schedule = NoiseSchedule::from_levels(&levels, final_alpha_bar)?.of_training(&training);
        let start_scale = match spacing {
            Spacing::Linspace | Spacing::Trailing if rule == Grid::Interpolated => {
                schedule.level(steps - 1).noise()
            }
            _ => 1.0,
        };
        Ok(ScheduledSampler {
            sampler: Sampler::new(solver, schedule)?,
            start_scale,
        })
    }

    /// The name of a sampler, and the sampler itself with its options.
    fn chosen(
        &self,
        choice: &SamplerChoice,
    ) -> Result<(&'static str, Arc<dyn Solver>), SchedulerError> {
        match choice {
            SamplerChoice::Own(solver) => Ok((OWN, solver.clone())),
            SamplerChoice::Named { name, options } => {
                let registry = samplers::<4>();
                let name = match name {
                    Some(name) => registry.entry(name)?.name(),
                    None => self.sampler_name()?,
                };
                let options = self.options(name)?.overridden(options);
                Ok((name, registry.make(name, &options)?))
            }
        }
    }

    fn training_config(&self) -> Result<NoiseScheduleConfig, ModelFolderError> {
        // These classes have other defaults.
        let (start, end, usual) = match self.class_name.as_deref() {
            Some(
                "HeunDiscreteScheduler"
                | "KDPM2DiscreteScheduler"
                | "KDPM2AncestralDiscreteScheduler",
            ) => (0.00085, 0.012, "linear"),
            Some("LCMScheduler") => (0.00085, 0.012, "scaled_linear"),
            _ => (1e-4, 0.02, "linear"),
        };
        let (start, end) = (
            self.beta_start.unwrap_or(start),
            self.beta_end.unwrap_or(end),
        );
        let betas = match self.beta_schedule.as_deref().unwrap_or(usual) {
            "linear" => BetaSchedule::Linear { start, end },
            "scaled_linear" => BetaSchedule::ScaledLinear { start, end },
            "squaredcos_cap_v2" => BetaSchedule::COSINE,
            "sigmoid" => BetaSchedule::Sigmoid { start, end },
            other => {
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

    fn spacing(&self, rule: Grid) -> Result<Spacing, ModelFolderError> {
        let offset = self.steps_offset.unwrap_or(0);
        match self.timestep_spacing.as_deref() {
            None if rule == Grid::WholeSteps => Ok(Spacing::Leading { offset }),
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

    /// The spacing of the levels that the file specifies for the sampler's class.
    fn sigma_spacing(
        &self,
        name: &str,
        rule: Grid,
    ) -> Result<Option<SigmaSpacing>, ModelFolderError> {
        let asked = [
            (
                "use_karras_sigmas",
                self.use_karras_sigmas,
                SigmaSpacing::Karras,
            ),
            ("use_lu_lambdas", self.use_lu_lambdas, SigmaSpacing::Lu),
            (
                "use_exponential_sigmas",
                self.use_exponential_sigmas,
                SigmaSpacing::Exponential,
            ),
            ("use_beta_sigmas", self.use_beta_sigmas, SigmaSpacing::Beta),
        ];
        let mut found = None;
        for (key, value, spacing) in asked {
            if value == Some(true) && has_spacing(name, rule, spacing) {
                if let Some((first, _)) = found {
                    let expected = format!("it must be false where {first} is true");
                    return Err(self.unsupported(key, true, &expected));
                }
                found = Some((key, spacing));
            }
        }
        Ok(found.map(|(_, spacing)| spacing))
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

    /// One more than DPM-Solver's last training step, whose `λ` is at least `lambda_min_clipped`.
    fn last_timestep(&self, training: &NoiseSchedule) -> usize {
        let least = self.lambda_min_clipped.unwrap_or(f64::NEG_INFINITY);
        let kept = (0..training.steps()).filter(|&t| 0.5 * training.log_snr(t) >= least);
        kept.count().max(1)
    }

    /// The options in the file for one of Nabla's samplers.
    fn options(&self, name: &'static str) -> Result<Options, ModelFolderError> {
        self.final_sigma_is_least()?;
        let own = self.sampler_name()?;
        let clip = match (self.clip_sample, own) {
            (Some(true), _) | (None, "ddim" | "ddpm") => {
                Some(self.clip_sample_range.unwrap_or(1.0))
            }
            _ => None,
        };
        Ok(match name {
            "ddim" => fields(&Ddim::new().with_clip(clip)),
            "ddpm" => {
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
                fields(&Ddpm::new().with_variance(variance).with_clip(clip))
            }
            "pndm" => fields(&combined(PndmMethod::FPndm)),
            "plms" => fields(&combined(PndmMethod::Plms)),
            "dpm++2m" | "dpm++2m-sde" | "dpm++3m" | "dpm++3m-sde" => {
                self.dpm_solver(name == own)?
            }
            "dpm++2s" => self.singlestep(name == own)?,
            "deis" => self.deis(name == own)?,
            "unipc" => {
                self.only_null(&[("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)])?;
                self.unipc(name == own)?
            }
            "lcm" => fields(
                &Lcm::new()
                    .with_timestep_scaling(self.timestep_scaling.unwrap_or(10.0))
                    .with_clip(clip),
            ),
            "euler" => {
                self.only(
                    "interpolation_type",
                    self.interpolation_type.as_deref(),
                    "linear",
                )?;
                self.only("timestep_type", self.timestep_type.as_deref(), "discrete")?;
                self.only_null(&[("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)])?;
                Options::new()
            }
            _ => Options::new(),
        })
    }

    fn dpm_solver(&self, own: bool) -> Result<Options, ModelFolderError> {
        let mut options = Options::new();
        if own {
            let solver = self.dpm_options(DpmSolverMultistep::new())?;
            options = fields(&solver.with_lower_order_final(true));
        }
        if let Some(falls) = self.lower_order_final {
            options = options.with("lower_order_final", falls);
        }
        Ok(options.with("euler_at_final", self.euler_at_final.unwrap_or(false)))
    }

    /// The options of DPM-Solver's own classes.
    fn dpm_options(
        &self,
        mut solver: DpmSolverMultistep,
    ) -> Result<DpmSolverMultistep, ModelFolderError> {
        solver.algorithm = match self.algorithm_type.as_deref() {
            // The names of other classes' variants mean this one, as in diffusers.
            None | Some("dpmsolver++" | "deis") => DpmAlgorithm::DpmSolverPlusPlus,
            Some("sde-dpmsolver++") => DpmAlgorithm::SdeDpmSolverPlusPlus,
            Some("dpmsolver") => DpmAlgorithm::DpmSolver,
            Some("sde-dpmsolver") => {
                if !self.final_sigma_is_least()? {
                    let found = self.final_sigmas_type.as_deref().unwrap_or("zero");
                    return Err(self.unsupported(
                        "final_sigmas_type",
                        found,
                        "for the algorithm_type sde-dpmsolver it must be sigma_min",
                    ));
                }
                DpmAlgorithm::SdeDpmSolver
            }
            Some(other) => {
                return Err(self.unsupported(
                    "algorithm_type",
                    other,
                    "it must be dpmsolver, dpmsolver++, sde-dpmsolver or sde-dpmsolver++",
                ));
            }
        };
        solver.solver_type = match self.solver_type.as_deref() {
            // The names of other classes' variants mean midpoint, as in diffusers.
            None | Some("midpoint" | "logrho" | "bh1" | "bh2") => DpmSolverType::Midpoint,
            Some("heun") => DpmSolverType::Heun,
            Some(other) => {
                return Err(self.unsupported("solver_type", other, "it must be midpoint or heun"));
            }
        };
        let (most, expected) = match solver.algorithm {
            DpmAlgorithm::SdeDpmSolver => {
                (2, "for the algorithm_type sde-dpmsolver it must be 1 or 2")
            }
            _ => (3, "it must be 1 to 3"),
        };
        solver.order = self.order(most, expected)?;
        // A file for this class should give the pictures of diffusers.
        solver.third_order = ThirdOrder::Diffusers;
        Ok(solver)
    }

    fn singlestep(&self, own: bool) -> Result<Options, ModelFolderError> {
        let mut solver = DpmSolverSinglestep::new();
        if own {
            if self.algorithm_type.as_deref() == Some("sde-dpmsolver") {
                return Err(self.unsupported(
                    "algorithm_type",
                    "sde-dpmsolver",
                    "it must be dpmsolver, dpmsolver++ or sde-dpmsolver++",
                ));
            }
            // The same options as for the multistep class, except for this class's default at the end.
            let several = self.dpm_options(DpmSolverMultistep::new())?;
            solver.algorithm = several.algorithm;
            solver.solver_type = several.solver_type;
            solver.order = several.order;
            solver.lower_order_final = self.lower_order_final == Some(true);
        }
        Ok(fields(&solver))
    }

    fn deis(&self, own: bool) -> Result<Options, ModelFolderError> {
        let mut deis = Deis::new();
        if own {
            self.one_of(
                "algorithm_type",
                self.algorithm_type.as_deref(),
                &["deis", "dpmsolver", "dpmsolver++"],
            )?;
            self.one_of(
                "solver_type",
                self.solver_type.as_deref(),
                &["logrho", "midpoint", "heun", "bh1", "bh2"],
            )?;
            deis.order = self.order(3, "it must be 1 to 3")?;
        }
        deis.lower_order_final = self.lower_order_final.unwrap_or(true);
        Ok(fields(&deis))
    }

    fn order(&self, most: usize, expected: &str) -> Result<usize, ModelFolderError> {
        match self.solver_order.unwrap_or(2) {
            order if (1..=most).contains(&order) => Ok(order),
            order => Err(self.unsupported("solver_order", order, expected)),
        }
    }

    /// Checks that an option has one of the names that all mean the same, as in diffusers.
    fn one_of(
        &self,
        key: &str,
        value: Option<&str>,
        names: &[&str],
    ) -> Result<(), ModelFolderError> {
        match value {
            Some(other) if !names.contains(&other) => {
                let expected = format!("it must be {}", names[0]);
                Err(self.unsupported(key, other, &expected))
            }
            _ => Ok(()),
        }
    }

    fn unipc(&self, own: bool) -> Result<Options, ModelFolderError> {
        let mut unipc = UniPc::new();
        if own {
            unipc.b = match self.solver_type.as_deref() {
                Some("bh1") => UniPcB::B1,
                // The names of other classes' variants mean bh2, as in diffusers.
                None | Some("bh2" | "midpoint" | "heun" | "logrho") => UniPcB::B2,
                Some(other) => {
                    return Err(self.unsupported("solver_type", other, "it must be bh1 or bh2"));
                }
            };
            unipc.order = self.order(3, "it must be 1 to 3")?;
            unipc.of_noise = self.predict_x0 == Some(false);
            let steps = self.disable_corrector.as_deref().unwrap_or_default();
            if !steps.iter().copied().eq(0..steps.len()) {
                return Err(self.unsupported(
                    "disable_corrector",
                    format!("{steps:?}"),
                    "it must be the first steps in order, as [0, 1, 2]",
                ));
            }
            unipc.uncorrected_steps = steps.len();
        }
        unipc.lower_order_final = self.lower_order_final.unwrap_or(true);
        Ok(fields(&unipc))
    }

    fn only_null(&self, options: &[(&str, Option<f64>)]) -> Result<(), ModelFolderError> {
        match options.iter().find_map(|&(key, value)| Some((key, value?))) {
            Some((key, value)) => Err(self.unsupported(key, value, "only null is implemented")),
            None => Ok(()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_stands_for_a_sampler_that_there_is() {
        for (class, name) in CLASSES {
            assert!(samplers::<4>().get(name).is_ok(), "{class}");
        }
    }
}
