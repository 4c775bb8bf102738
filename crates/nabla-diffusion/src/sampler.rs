//! All samplers by name, behind one call.
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
//! | `dpm++3m-sde` | its stochastic variant, as in k-diffusion | S | yes |
//! | `dpm++2s` | [`dpm_solver_singlestep`](crate::dpm_solver_singlestep) | S | |
//! | `deis` | [`deis`](crate::deis) | S | |
//! | `dpm2` | [`dpm2`](crate::dpm2) | 2 S − 1 | |
//! | `dpm2-ancestral` | its ancestral variant | 2 S − 1 | yes |
//! | `unipc` | [`unipc`](crate::unipc) | S | |
//! | `lcm` | [`lcm`](crate::lcm), for latent consistency models | S | yes |
//!
//! Every sampler takes and gives pictures in the variance-preserving form
//! `x = √ᾱ x_0 + √(1 − ᾱ) ε`, and turns them into `x/√ᾱ` itself if it works with `σ`. So the same standard
//! normal start serves all of them, and nobody scales it by an "initial sigma".
//!
//! A run that starts from a noised picture instead of pure noise (SDEdit, image to image) goes along the
//! cleanest steps only: [`Sampler::last_steps`].
//!
//! A hook sees the predicted picture in every call of the network, and may replace it. DDIM and DDPM use
//! `sample` and `epsilon` of what it gives back; the others use `sample` alone, and the `ε` that follows
//! from it.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Tensor;

use crate::ddim::{Ddim, DdimConfig};
use crate::ddpm::{Ddpm, DdpmConfig};
use crate::deis::{Deis, DeisConfig};
use crate::denoiser::{Denoiser, SamplerError, SamplerHook};
use crate::dpm_solver_multistep::{
    DpmAlgorithm, DpmSolverMultistep, DpmSolverMultistepConfig, DpmSolverType, ThirdOrder,
};
use crate::dpm_solver_singlestep::{DpmSolverSinglestep, DpmSolverSinglestepConfig};
use crate::dpm2::{Dpm2, Dpm2Config};
use crate::euler::{Euler, EulerConfig};
use crate::heun::{Heun, HeunConfig};
use crate::lcm::{Lcm, LcmConfig};
use crate::lms::{Lms, LmsConfig};
use crate::pndm::{Pndm, PndmConfig, PndmMethod};
use crate::schedule::NoiseSchedule;
use crate::seeded_noise::SeededNoise;
use crate::unipc::{UniPc, UniPcConfig};

/// A sampler's name; see the [module documentation](self).
///
/// ```
/// use nabla_diffusion::sampler::SamplerKind;
///
/// let kind: SamplerKind = "dpm++2m".parse()?;
/// assert_eq!(kind, SamplerKind::DpmSolverMultistep);
/// assert!("dpm++9m".parse::<SamplerKind>().is_err());
/// # Ok::<(), nabla_diffusion::denoiser::SamplerError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SamplerKind {
    /// `ddim`
    Ddim,
    /// `ddpm`
    Ddpm,
    /// `pndm`: F-PNDM
    Pndm,
    /// `s-pndm`
    SPndm,
    /// `plms`
    Plms,
    /// `euler`
    Euler,
    /// `euler-ancestral`
    EulerAncestral,
    /// `heun`
    Heun,
    /// `lms`
    Lms,
    /// `dpm++2m`
    DpmSolverMultistep,
    /// `dpm++2m-sde`
    DpmSolverMultistepSde,
    /// `dpm++3m`
    DpmSolverMultistep3,
    /// `dpm++3m-sde`
    DpmSolverMultistep3Sde,
    /// `dpm++2s`
    DpmSolverSinglestep,
    /// `deis`
    Deis,
    /// `dpm2`
    Dpm2,
    /// `dpm2-ancestral`
    Dpm2Ancestral,
    /// `unipc`
    UniPc,
    /// `lcm`
    Lcm,
}

impl SamplerKind {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Ddim,
        Self::Ddpm,
        Self::Pndm,
        Self::SPndm,
        Self::Plms,
        Self::Euler,
        Self::EulerAncestral,
        Self::Heun,
        Self::Lms,
        Self::DpmSolverMultistep,
        Self::DpmSolverMultistepSde,
        Self::DpmSolverMultistep3,
        Self::DpmSolverMultistep3Sde,
        Self::DpmSolverSinglestep,
        Self::Deis,
        Self::Dpm2,
        Self::Dpm2Ancestral,
        Self::UniPc,
        Self::Lcm,
    ];

    /// The name, as commands take it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Ddpm => "ddpm",
            Self::Pndm => "pndm",
            Self::SPndm => "s-pndm",
            Self::Plms => "plms",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler-ancestral",
            Self::Heun => "heun",
            Self::Lms => "lms",
            Self::DpmSolverMultistep => "dpm++2m",
            Self::DpmSolverMultistepSde => "dpm++2m-sde",
            Self::DpmSolverMultistep3 => "dpm++3m",
            Self::DpmSolverMultistep3Sde => "dpm++3m-sde",
            Self::DpmSolverSinglestep => "dpm++2s",
            Self::Deis => "deis",
            Self::Dpm2 => "dpm2",
            Self::Dpm2Ancestral => "dpm2-ancestral",
            Self::UniPc => "unipc",
            Self::Lcm => "lcm",
        }
    }

    /// Its configuration with the defaults.
    pub fn config(self) -> SamplerConfig {
        let pndm = |method| SamplerConfig::Pndm(PndmConfig::new().with_method(method));
        let dpm = DpmSolverMultistepConfig::new();
        let sde = dpm.with_algorithm(DpmAlgorithm::SdeDpmSolverPlusPlus);
        match self {
            Self::Ddim => SamplerConfig::Ddim(DdimConfig::new()),
            Self::Ddpm => SamplerConfig::Ddpm(DdpmConfig::new()),
            Self::Pndm => pndm(PndmMethod::FPndm),
            Self::SPndm => pndm(PndmMethod::SPndm),
            Self::Plms => pndm(PndmMethod::Plms),
            Self::Euler => SamplerConfig::Euler(EulerConfig::new()),
            Self::EulerAncestral => SamplerConfig::Euler(EulerConfig::new().with_eta(1.0)),
            Self::Heun => SamplerConfig::Heun(HeunConfig::new()),
            Self::Lms => SamplerConfig::Lms(LmsConfig::new()),
            Self::DpmSolverMultistep => SamplerConfig::DpmSolverMultistep(dpm),
            Self::DpmSolverMultistepSde => SamplerConfig::DpmSolverMultistep(sde),
            Self::DpmSolverMultistep3 => SamplerConfig::DpmSolverMultistep(dpm.with_order(3)),
            Self::DpmSolverMultistep3Sde => SamplerConfig::DpmSolverMultistep(
                sde.with_order(3)
                    .with_third_order(ThirdOrder::Diffusers)
                    .with_solver_type(DpmSolverType::Heun)
                    .with_lower_order_final(false),
            ),
            Self::DpmSolverSinglestep => {
                SamplerConfig::DpmSolverSinglestep(DpmSolverSinglestepConfig::new())
            }
            Self::Deis => SamplerConfig::Deis(DeisConfig::new()),
            Self::Dpm2 => SamplerConfig::Dpm2(Dpm2Config::new()),
            Self::Dpm2Ancestral => SamplerConfig::Dpm2(Dpm2Config::new().with_eta(1.0)),
            Self::UniPc => SamplerConfig::UniPc(UniPcConfig::new()),
            Self::Lcm => SamplerConfig::Lcm(LcmConfig::new()),
        }
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SamplerKind {
    type Err = SamplerError;

    fn from_str(name: &str) -> Result<Self, SamplerError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| SamplerError::UnknownSampler {
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// A sampler with its options.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SamplerConfig {
    /// See [`ddim`](crate::ddim).
    Ddim(DdimConfig),
    /// See [`ddpm`](crate::ddpm).
    Ddpm(DdpmConfig),
    /// See [`pndm`](crate::pndm).
    Pndm(PndmConfig),
    /// See [`euler`](crate::euler).
    Euler(EulerConfig),
    /// See [`heun`](crate::heun).
    Heun(HeunConfig),
    /// See [`lms`](crate::lms).
    Lms(LmsConfig),
    /// See [`dpm_solver_multistep`](crate::dpm_solver_multistep).
    DpmSolverMultistep(DpmSolverMultistepConfig),
    /// See [`dpm_solver_singlestep`](crate::dpm_solver_singlestep).
    DpmSolverSinglestep(DpmSolverSinglestepConfig),
    /// See [`deis`](crate::deis).
    Deis(DeisConfig),
    /// See [`dpm2`](crate::dpm2).
    Dpm2(Dpm2Config),
    /// See [`unipc`](crate::unipc).
    UniPc(UniPcConfig),
    /// See [`lcm`](crate::lcm).
    Lcm(LcmConfig),
}

impl SamplerConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If an option does not fit, or the sampler cannot run on the schedule.
    pub fn init(self, schedule: NoiseSchedule) -> Result<Sampler, SamplerError> {
        let method = match self {
            Self::Ddim(c) => Method::Ddim(c.init(schedule.clone())?),
            Self::Ddpm(c) => Method::Ddpm(c.init(schedule.clone())?),
            Self::Pndm(c) => Method::Pndm(c.init(schedule.clone())?),
            Self::Euler(c) => Method::Euler(c.init(schedule.clone())?),
            Self::Heun(c) => Method::Heun(c.init(schedule.clone())?),
            Self::Lms(c) => Method::Lms(c.init(schedule.clone())?),
            Self::DpmSolverMultistep(c) => Method::DpmSolverMultistep(c.init(schedule.clone())?),
            Self::DpmSolverSinglestep(c) => Method::DpmSolverSinglestep(c.init(schedule.clone())?),
            Self::Deis(c) => Method::Deis(c.init(schedule.clone())?),
            Self::Dpm2(c) => Method::Dpm2(c.init(schedule.clone())?),
            Self::UniPc(c) => Method::UniPc(c.init(schedule.clone())?),
            Self::Lcm(c) => Method::Lcm(c.init(schedule.clone())?),
        };
        Ok(Sampler {
            config: self,
            method,
            schedule,
        })
    }

    /// Calls of the network in so many steps.
    pub fn calls(self, steps: usize) -> usize {
        match self {
            Self::Pndm(config) => config.method.calls(steps),
            Self::Heun(_) | Self::Dpm2(_) => (2 * steps).saturating_sub(1),
            _ => steps,
        }
    }
}

/// The samplers themselves.
#[derive(Clone, Debug)]
enum Method {
    Ddim(Ddim),
    Ddpm(Ddpm),
    Pndm(Pndm),
    Euler(Euler),
    Heun(Heun),
    Lms(Lms),
    DpmSolverMultistep(DpmSolverMultistep),
    DpmSolverSinglestep(DpmSolverSinglestep),
    Deis(Deis),
    Dpm2(Dpm2),
    UniPc(UniPc),
    Lcm(Lcm),
}

/// A sampler over its schedule; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplerConfig,
    method: Method,
    schedule: NoiseSchedule,
}

impl Sampler {
    /// What it was made with.
    pub fn config(&self) -> SamplerConfig {
        self.config
    }

    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Calls of the network for one run; Heun's method and DPM2 need one more if the schedule does not end at
    /// `ᾱ = 1`.
    pub fn calls(&self) -> usize {
        self.config.calls(self.schedule.steps())
    }

    /// The sampler that only does the last `steps` steps, which lead from a noised picture to a clean one.
    ///
    /// Its start is at the level `schedule().level(steps - 1)`:
    /// [`NoiseSchedule::add_noise`] of the new sampler's [`schedule`](Self::schedule) makes it.
    ///
    /// # Errors
    /// If `steps` is 0 or more than there are, or too few for the sampler.
    pub fn last_steps(&self, steps: usize) -> Result<Self, SamplerError> {
        let schedule = self.schedule.truncate(steps);
        let schedule = schedule.map_err(|_| SamplerError::Start {
            start: steps,
            steps: self.schedule.steps(),
        })?;
        self.config.init(schedule)
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step: standard normal noise, or a
    ///   noised picture; `[batch, channels, height, width]`
    /// - `noise`: the noise of the steps, for the samplers that add some
    /// - returns `[batch, channels, height, width]`
    ///
    /// # Errors
    /// If the model's output has the wrong shape, or it predicts `ε` where `ᾱ` is 0.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
    /// use nabla_diffusion::sampler::SamplerKind;
    /// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    ///
    /// let device = Device::flex();
    /// let model = GaussianDenoiser::new(
    ///     Tensor::zeros([1, 3, 8, 8], &device),
    ///     Tensor::ones([1, 3, 8, 8], &device) * 0.25,
    ///     Prediction::Epsilon,
    /// );
    /// let training = NoiseScheduleConfig::new().init()?;
    /// let schedule = training.respace(Spacing::Trailing, 20)?;
    /// for kind in SamplerKind::ALL {
    ///     let sampler = kind.config().init(schedule.clone())?;
    ///     let mut noise = SeededNoise::new(42, 0);
    ///     let start = noise.normal([1, 3, 8, 8], &device);
    ///     let picture = sampler.sample(&model, start, &mut noise)?;
    ///     assert!(picture.abs().max().into_scalar::<f32>() < 3.0, "{kind}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sample(
        &self,
        model: &dyn Denoiser,
        x: Tensor<4>,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<4>, SamplerError> {
        self.sample_with_hook(model, x, noise, &mut |_, denoised| denoised)
    }

    /// [`sample`](Self::sample) with a hook that sees, and may replace, the picture predicted in every
    /// call of the network; also where progress can be shown.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn sample_with_hook(
        &self,
        model: &dyn Denoiser,
        x: Tensor<4>,
        noise: &mut SeededNoise,
        hook: &mut SamplerHook<'_>,
    ) -> Result<Tensor<4>, SamplerError> {
        match &self.method {
            Method::Ddim(ddim) => ddim.sample_with_hook(model, x, noise, hook),
            Method::Ddpm(ddpm) => ddpm.sample_with_hook(model, x, noise, hook),
            Method::Pndm(pndm) => pndm.sample_with_hook(model, x, noise, hook),
            Method::Euler(euler) => euler.sample_with_hook(model, x, noise, hook),
            Method::Heun(heun) => heun.sample_with_hook(model, x, noise, hook),
            Method::Lms(lms) => lms.sample_with_hook(model, x, noise, hook),
            Method::DpmSolverMultistep(dpm) => dpm.sample_with_hook(model, x, noise, hook),
            Method::DpmSolverSinglestep(dpm) => dpm.sample_with_hook(model, x, noise, hook),
            Method::Deis(deis) => deis.sample_with_hook(model, x, noise, hook),
            Method::Dpm2(dpm2) => dpm2.sample_with_hook(model, x, noise, hook),
            Method::UniPc(unipc) => unipc.sample_with_hook(model, x, noise, hook),
            Method::Lcm(lcm) => lcm.sample_with_hook(model, x, noise, hook),
        }
    }
}
