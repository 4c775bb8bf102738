//! RDDM as a whole: the model, its loss, and the sampler.
//!
//! [`RddmConfig`] sets the inputs and predictions of the network, which must be the same in training and
//! sampling. [`RddmSamplingConfig`] sets how pictures are drawn, which can be changed afterwards. A run
//! starts from `I_T = I_in + β̄_T ε` and goes down the time pairs of [`ResidualSchedule::sampling_pairs`];
//! each step calls the network, lets [`Correction`]s see (and replace) the prediction, and takes the reverse
//! step of [`rddm`](crate::rddm):
//!
//! ```text
//! (I_res, ε, I_0) = correction(prediction(network(I_t, t)))
//! I_{t'} = I_t − (ᾱ_t − ᾱ_{t'}) I_res − (β̄_t − √(β̄_{t'}² − σ²)) ε + σ z
//! ```
//!
//! With the paths of the partially path-independent generation, residual and noise have separate indices,
//! `I_{a,b} = I_0 + ᾱ_a I_res + β̄_b ε`, and one reaches the clean picture before the other.
//!
//! The loop is [`follow`], as for all samplers, but with a [`ResidualPrediction`] instead of a clean sample
//! and a direction.
//!
//! Source: Liu et al., *Residual Denoising Diffusion Models*, CVPR 2024, arXiv 2308.13712.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::asking::{Asking, Source, Step};
use crate::correction::Correction;
use crate::rddm::{
    Objective, Path, RddmError, Removal, ResidualLevel, ResidualPrediction, ResidualSchedule,
    TimeCondition, Trust,
};
use crate::sampler::{follow, steps};
use crate::sampler_error::{SamplerError, check_eta};
use crate::seeded_noise::SeededNoise;

mod residual_denoiser;

pub use residual_denoiser::ResidualDenoiser;

/// The distance between prediction and target.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Mean absolute difference, as in the official code for restoration.
    L1,
    /// Mean squared difference, as in the official code for generation.
    L2,
}

impl Loss {
    /// The mean distance, `[1]`.
    pub fn between(self, prediction: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
        let difference = prediction - target;
        match self {
            Self::L1 => difference.abs().mean(),
            Self::L2 => difference.square().mean(),
        }
    }
}

/// The inputs and predictions of an RDDM's network, which must be the same in training and sampling.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct RddmConfig {
    /// What the network predicts. Default `ResidualNoise`.
    #[config(default = "Objective::ResidualNoise")]
    pub objective: Objective,
    /// The form of its time input. Default `Step`.
    #[config(default = "TimeCondition::Step")]
    pub time: TimeCondition,
    /// Whether it also sees `I_in` besides `I_t` (the official `condition`), for restoration. Default false.
    #[config(default = false)]
    pub condition_on_input: bool,
}

impl RddmConfig {
    /// The model over `schedule`.
    ///
    /// ```
    /// use nabla_diffusion::rddm::{Objective, ResidualScheduleConfig};
    /// use nabla_diffusion::rddm_sampler::RddmConfig;
    ///
    /// let rddm = RddmConfig::new()
    ///     .with_objective(Objective::Residual)
    ///     .with_condition_on_input(true)
    ///     .init(ResidualScheduleConfig::new().with_noise_variance(0.01).init()?);
    /// assert_eq!(rddm.schedule().steps(), 1000);
    /// # Ok::<(), nabla_diffusion::rddm::RddmError>(())
    /// ```
    pub fn init(&self, schedule: ResidualSchedule) -> Rddm {
        Rddm {
            schedule,
            config: *self,
        }
    }
}

/// A residual denoising diffusion model without its network: schedule and conventions.
#[derive(Clone, Debug, PartialEq)]
pub struct Rddm {
    schedule: ResidualSchedule,
    config: RddmConfig,
}

/// A picture, or a batch of them, that a network may see.
#[derive(Clone, Debug)]
pub struct RddmInput {
    /// `I_in`, `[batch, channels, height, width]`: the degraded picture, or zeros to generate.
    pub input: Tensor<4>,
    /// Further pictures for the network to see (the official `input_condition`, a mask, say),
    /// `[batch, any, height, width]`.
    pub condition: Option<Tensor<4>>,
}

impl RddmInput {
    /// The degraded picture alone, `[batch, channels, height, width]`.
    pub fn new(input: Tensor<4>) -> Self {
        Self {
            input,
            condition: None,
        }
    }

    /// Adds further pictures for the network to see, `[batch, any, height, width]`.
    #[must_use]
    pub fn with_condition(mut self, condition: Tensor<4>) -> Self {
        self.condition = Some(condition);
        self
    }
}

impl Rddm {
    /// The schedule.
    pub fn schedule(&self) -> &ResidualSchedule {
        &self.schedule
    }

    /// What the network gets and predicts.
    pub fn config(&self) -> RddmConfig {
        self.config
    }

    /// The same conventions with another schedule: a network that gets the coefficients may be
    /// sampled with a schedule that it was not trained with.
    pub fn with_schedule(&self, schedule: ResidualSchedule) -> Self {
        Self {
            schedule,
            config: self.config,
        }
    }

    /// The network's outputs for `x = I_t`.
    ///
    /// - `x`: `[batch, channels, height, width]`
    /// - `given`: what it was made of
    /// - `t`: one index per example
    ///
    /// # Errors
    /// If the network has other outputs than the objective needs, or of another shape than `x`.
    ///
    /// # Panics
    /// If a `t` is not below the number of steps.
    pub fn outputs(
        &self,
        model: &dyn ResidualDenoiser,
        x: Tensor<4>,
        given: &RddmInput,
        t: &[usize],
    ) -> Result<Vec<Tensor<4>>, RddmError> {
        let times = self.schedule.times(self.config.time, t, &x.device());
        self.ask(model, x, given, times)
    }

    fn ask(
        &self,
        model: &dyn ResidualDenoiser,
        x: Tensor<4>,
        given: &RddmInput,
        times: [Tensor<1>; 2],
    ) -> Result<Vec<Tensor<4>>, RddmError> {
        // A network that predicts only the noise gets the noise's time.
        let [residual_time, noise_time] = times;
        let times = match self.config.objective {
            Objective::Noise => [noise_time.clone(), noise_time],
            _ => [residual_time, noise_time],
        };
        let seen = self.config.condition_on_input.then(|| given.input.clone());
        let seen: Vec<Tensor<4>> = seen.into_iter().chain(given.condition.clone()).collect();
        let condition = (!seen.is_empty()).then(|| Tensor::cat(seen, 1));
        let picture = x.dims();
        let outputs = model.predict(x, times, condition);
        let outputs = outputs.map_err(RddmError::Network)?;
        let objective = self.config.objective;
        let (expected, found) = (objective.outputs(), outputs.len());
        if found != expected {
            return Err(RddmError::Outputs {
                objective,
                expected,
                found,
            });
        }
        match outputs.iter().map(Tensor::dims).find(|&s| s != picture) {
            Some(found) => Err(RddmError::OutputShape { found, picture }),
            None => Ok(outputs),
        }
    }

    /// The training loss, `[1]`: the distance of each output from its target, averaged over the
    /// batch, summed over the outputs.
    ///
    /// - `clean`: `I_0`, `[batch, channels, height, width]`
    /// - `given`: `I_in` and the network's other inputs
    /// - `t`: one index per example; `noise`: `ε`, `[batch, channels, height, width]`
    ///
    /// # Errors
    /// As [`outputs`](Self::outputs), or if the pictures differ in shape.
    ///
    /// # Panics
    /// If a `t` is not below the number of steps, or their number is not that of the examples.
    pub fn loss(
        &self,
        model: &dyn ResidualDenoiser,
        clean: Tensor<4>,
        given: &RddmInput,
        t: &[usize],
        noise: Tensor<4>,
        loss: Loss,
    ) -> Result<Tensor<1>, RddmError> {
        check_shape("degraded picture", &given.input, &clean)?;
        check_shape("noise", &noise, &clean)?;
        let device = clean.device();
        let residual = given.input.clone() - clean.clone();
        let x = self
            .schedule
            .diffuse(clean.clone(), residual.clone(), noise.clone(), t);
        let outputs = self.outputs(model, x, given, t)?;
        let targets = self.config.objective.targets(clean, residual, noise);
        Ok(outputs
            .into_iter()
            .zip(targets)
            .map(|(output, target)| loss.between(output, target))
            .reduce(|sum, next| sum + next)
            .unwrap_or_else(|| Tensor::zeros([1], &device)))
    }

    /// The sampler.
    ///
    /// # Errors
    /// If the number of steps or `eta` is out of range, or the objective does not allow the path.
    pub fn sampler(&self, config: RddmSamplingConfig) -> Result<RddmSampler, RddmError> {
        check_eta("RDDM", config.eta)?;
        let pairs = self.schedule.sampling_pairs(config.steps)?;
        let objective = self.config.objective;
        let apart = matches!(
            objective,
            Objective::ResidualNoise | Objective::ResidualAddNoise
        ) && config.trust == Trust::Both
            && config.removal == Removal::ResidualAndNoise;
        if config.path != Path::Together && !apart {
            return Err(RddmError::Path {
                path: config.path,
                objective,
                trust: config.trust,
                removal: config.removal,
            });
        }
        let last = Some(self.schedule.steps() - 1);
        let pairs = || pairs.iter().map(|&(t, next)| (Some(t), next));
        let moves = match config.path {
            Path::Together => pairs().map(|pair| Move::new(pair, pair)).collect(),
            Path::ResidualFirst => pairs()
                .map(|pair| Move::new(pair, (last, last)))
                .chain(pairs().map(|pair| Move::new((None, None), pair)))
                .collect(),
            Path::NoiseFirst => pairs()
                .map(|pair| Move::new((last, last), pair))
                .chain(pairs().map(|pair| Move::new(pair, (None, None))))
                .collect(),
        };
        Ok(RddmSampler {
            rddm: self.clone(),
            config,
            moves,
        })
    }
}

pub(crate) fn check_shape(
    what: &'static str,
    found: &Tensor<4>,
    picture: &Tensor<4>,
) -> Result<(), RddmError> {
    let (found, picture) = (found.dims(), picture.dims());
    if found == picture {
        Ok(())
    } else {
        Err(RddmError::PictureShape {
            what,
            found,
            picture,
        })
    }
}

/// How pictures are drawn from an [`Rddm`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct RddmSamplingConfig {
    /// The number of steps, from 1 to that of the schedule. Default 10, the official number for generation
    /// and the upper end for restoration (2 to 10).
    #[config(default = 10)]
    pub steps: usize,
    /// Share of fresh noise, in `[0, 1]`. Default 0: deterministic; the official code always uses 0 for
    /// restoration.
    #[config(default = 0.0)]
    pub eta: f64,
    /// Which of two predictions is used. Default `Both`.
    #[config(default = "Trust::Both")]
    pub trust: Trust,
    /// How a step removes residual and noise. Default `ResidualAndNoise`.
    #[config(default = "Removal::ResidualAndNoise")]
    pub removal: Removal,
    /// The order in which they are removed. Default `Together`; the other paths need an objective with
    /// residual and noise, `Trust::Both` and `Removal::ResidualAndNoise`.
    #[config(default = "Path::Together")]
    pub path: Path,
    /// Whether predicted residuals and clean pictures are limited to `[−1, 1]`. Default true.
    #[config(default = true)]
    pub clip: bool,
}

/// One move of the sampler: the indices of residual and noise before and after; `None` is 0.
#[derive(Clone, Copy, Debug)]
struct Move {
    residual: (Option<usize>, Option<usize>),
    noise: (Option<usize>, Option<usize>),
}

impl Move {
    fn new(
        residual: (Option<usize>, Option<usize>),
        noise: (Option<usize>, Option<usize>),
    ) -> Self {
        Self { residual, noise }
    }
}

/// The sampler; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::rddm::{Objective, ResidualScheduleConfig};
/// use nabla_diffusion::rddm_sampler::{RddmConfig, RddmInput, RddmSamplingConfig};
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let device = Device::flex();
/// let rddm = RddmConfig::new()
///     .with_objective(Objective::Residual)
///     .with_condition_on_input(true)
///     .init(ResidualScheduleConfig::new().with_noise_variance(0.01).init()?);
/// // A network for which all clean pictures are black: I_res = I_in − 0.
/// let network = |_x: Tensor<4>, _times: [Tensor<1>; 2], condition: Option<Tensor<4>>| {
///     condition.into_iter().collect::<Vec<_>>()
/// };
/// let degraded = RddmInput::new(Tensor::ones([1, 3, 8, 8], &device) * 0.5);
/// let mut noise = SeededNoise::new(42, 0);
/// let sampler = rddm.sampler(RddmSamplingConfig::new().with_steps(5))?;
/// let restored = sampler.restore(&network, &degraded, &mut noise)?; // [1, 3, 8, 8]
/// assert!(restored.abs().max().into_scalar::<f32>() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct RddmSampler {
    rddm: Rddm,
    config: RddmSamplingConfig,
    moves: Vec<Move>,
}

impl RddmSampler {
    /// The number of network calls in one run.
    pub fn calls(&self) -> usize {
        self.moves.len()
    }

    /// The model.
    pub fn rddm(&self) -> &Rddm {
        &self.rddm
    }

    /// `I_T = I_in + β̄_T ε`, `[batch, channels, height, width]`.
    pub fn start(&self, input: &Tensor<4>, noise: &mut SeededNoise) -> Tensor<4> {
        let schedule = &self.rddm.schedule;
        let std = schedule.noise_std(schedule.steps() - 1);
        input.clone() + noise.normal(input.dims(), &input.device()) * std
    }

    /// Restores degraded pictures, and returns their shape, `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// If the network fails, or the number or the shape of its outputs is wrong.
    pub fn restore(
        &self,
        model: &dyn ResidualDenoiser,
        given: &RddmInput,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<4>, SamplerError> {
        let x = self.start(&given.input, noise);
        self.run(model, x, given, noise, Vec::new())
    }

    /// Generates pictures of the given `shape`, `[batch, channels, height, width]`, from noise (`I_in = 0`).
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn generate(
        &self,
        model: &dyn ResidualDenoiser,
        shape: [usize; 4],
        device: &Device,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<4>, SamplerError> {
        self.restore(model, &RddmInput::new(Tensor::zeros(shape, device)), noise)
    }

    /// Runs all steps from a given start, with corrections.
    ///
    /// - `x`: `I_T`, as returned by [`start`](Self::start), `[batch, channels, height, width]`
    /// - `given`: `I_in` and the network's other inputs
    /// - `noise`: the fresh noise of the steps; not used if `eta` is 0
    /// - `corrections`: see, and may replace, the prediction of every step, one after the other
    ///
    /// # Errors
    /// As [`restore`](Self::restore), if the pictures differ in shape, or a correction fails or stops the run.
    pub fn run<'a>(
        &self,
        model: &dyn ResidualDenoiser,
        x: Tensor<4>,
        given: &RddmInput,
        noise: &'a mut SeededNoise,
        corrections: Vec<&'a mut (dyn Correction<4, ResidualPrediction> + 'a)>,
    ) -> Result<Tensor<4>, SamplerError> {
        check_shape("degraded picture", &given.input, &x)?;
        let schedule = &self.rddm.schedule;
        let count = self.moves.len();
        let move_of = |index: usize| self.moves[count - 1 - index];
        let mut run = steps(
            move |x: Tensor<4>, index, ask: &mut Asking<'_, 4, ResidualPrediction>| {
                let step = move_of(index);
                let level = schedule.level(step.residual.0, step.noise.0);
                let prediction = ask.predict(&x, index, level)?;
                let then = schedule.level(step.residual.1, step.noise.1);
                Ok(self.reverse(x, prediction, step, [level, then], ask.noise()))
            },
        );
        let mut source = ResidualSource {
            sampler: self,
            model,
            given,
        };
        let corrections = corrections.into_iter().map(|c| c as _).collect();
        let mut ask = Asking::new(&mut source, corrections, noise, count);
        follow(run.as_mut(), x, &mut ask)
    }

    /// The state at the end of a move between two levels.
    fn reverse(
        &self,
        x: Tensor<4>,
        prediction: ResidualPrediction,
        step: Move,
        [level, to]: [ResidualLevel; 2],
        noise: &mut SeededNoise,
    ) -> Tensor<4> {
        // Fresh noise only if some noise remains: in the last step there is none to renew.
        let (now, then) = (level.noise_std, to.noise_std);
        let sigma2 = if now > then && now > 0.0 {
            let (now, then) = (now * now, then * then);
            self.config.eta * (now - then) * then / now
        } else {
            0.0
        };
        let fresh = (sigma2 > 0.0).then(|| noise.normal(x.dims(), &x.device()));
        match (self.config.path, step.residual, step.noise) {
            (Path::Together, (Some(t), next), _) => self.rddm.schedule.reverse_step(
                x,
                &prediction,
                t,
                next,
                self.config.eta,
                fresh,
                self.config.removal,
            ),
            (_, (_, None), (_, None)) => prediction.clean,
            _ => {
                let alpha = level.residual_sum - to.residual_sum;
                let beta = now - (then * then - sigma2).max(0.0).sqrt();
                let x = x - prediction.residual * alpha - prediction.noise * beta;
                match fresh {
                    Some(z) => x + z * sigma2.sqrt(),
                    None => x,
                }
            }
        }
    }

    /// The model's prediction for `x` at a level.
    fn prediction(
        &self,
        model: &dyn ResidualDenoiser,
        x: &Tensor<4>,
        given: &RddmInput,
        level: ResidualLevel,
    ) -> Result<ResidualPrediction, RddmError> {
        let schedule = &self.rddm.schedule;
        let config = self.rddm.config;
        let [batch, ..] = x.dims();
        if let (Path::Together, Some(t)) = (self.config.path, level.residual_index) {
            let t = vec![t; batch];
            let outputs = self.rddm.outputs(model, x.clone(), given, &t)?;
            return schedule.prediction(
                config.objective,
                self.config.trust,
                outputs,
                x.clone(),
                given.input.clone(),
                &t,
                self.config.clip,
            );
        }
        let device = x.device();
        // A part that is gone has no index: the network gets the beginning of the schedule.
        let told = |t: Option<usize>| {
            let [residual, noise] =
                schedule.times(config.time, &vec![t.unwrap_or(0); batch], &device);
            match (t, config.time) {
                (None, TimeCondition::Coefficients) => [residual * 0.0, noise * 0.0],
                _ => [residual, noise],
            }
        };
        let [residual_time, _] = told(level.residual_index);
        let [_, noise_time] = told(level.noise_index);
        let outputs = self
            .rddm
            .ask(model, x.clone(), given, [residual_time, noise_time])?;
        let [first, second]: [Tensor<4>; 2] =
            outputs
                .try_into()
                .map_err(|outputs: Vec<_>| RddmError::Outputs {
                    objective: config.objective,
                    expected: 2,
                    found: outputs.len(),
                })?;
        let noise = match config.objective {
            Objective::ResidualAddNoise => second - first.clone(),
            _ => second,
        };
        let clamp = |x: Tensor<4>| {
            if self.config.clip {
                x.clamp(-1.0, 1.0)
            } else {
                x
            }
        };
        let residual = clamp(first);
        let (alpha, beta) = (level.residual_sum, level.noise_std);
        let clean = clamp(x.clone() - residual.clone() * alpha - noise.clone() * beta);
        Ok(ResidualPrediction {
            residual,
            noise,
            clean,
        })
    }
}

/// A network with its inputs, as a source of predictions for a sampler.
struct ResidualSource<'a> {
    sampler: &'a RddmSampler,
    model: &'a dyn ResidualDenoiser,
    given: &'a RddmInput,
}

impl Source<4, ResidualPrediction> for ResidualSource<'_> {
    fn kind(&self) -> Objective {
        self.sampler.rddm.config.objective
    }

    fn predict(
        &mut self,
        step: &Step<'_, 4, ResidualPrediction>,
    ) -> Result<ResidualPrediction, SamplerError> {
        let sampler = self.sampler;
        Ok(sampler.prediction(self.model, step.x, self.given, step.level)?)
    }

    fn settle(
        &mut self,
        step: &Step<'_, 4, ResidualPrediction>,
        prediction: ResidualPrediction,
    ) -> Result<ResidualPrediction, SamplerError> {
        check_shape("clean picture of a correction", &prediction.clean, step.x)?;
        Ok(prediction)
    }
}

/// Builds a network whose initial weights depend only on `seed`.
///
/// Burn's layers draw their weights from one generator of the backend, lazily. This function seeds it, builds
/// the network and draws the weights at once, one caller at a time. (Other draws from the backend's generator
/// at the same time, in another thread, would mix in; nothing else in this crate draws from it.)
///
/// ```
/// use burn::tensor::Device;
/// use nabla_diffusion::rddm_sampler::seeded_weights;
/// use nabla_diffusion::unet::UNetConfig;
///
/// let device = Device::flex();
/// let config = UNetConfig::new(3, 3).with_base_channels(32);
/// let unet = seeded_weights(42, &device, || config.init(&device))?;
/// # let _ = unet;
/// # Ok::<(), nabla_diffusion::unet::UNetConfigError>(())
/// ```
///
/// # Errors
/// As `build`.
pub fn seeded_weights<M: Module, E>(
    seed: u64,
    device: &Device,
    build: impl FnOnce() -> Result<M, E>,
) -> Result<M, E> {
    use burn::module::{ModuleVisitor, Param};
    use std::sync::{Mutex, PoisonError};

    struct Draw;
    impl ModuleVisitor for Draw {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let _ = param.val();
        }
    }

    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(seed);
    let module = build()?;
    module.visit(&mut Draw);
    Ok(module)
}
