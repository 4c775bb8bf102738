//! The trainings, restorations, generations and selections of one seed.

use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use nabla_claims::{Bench, ClaimError};
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::denoiser::{OwnError, Prediction, denoiser};
use nabla_diffusion::ema::EmaConfig;
use nabla_diffusion::level::Level;
use nabla_diffusion::rddm::{
    Coefficients, Objective, ResidualNetwork, ResidualSchedule, ResidualScheduleConfig, Sharing,
    TimeCondition,
};
use nabla_diffusion::rddm_sampler::{
    Loss, Rddm, RddmConfig, RddmInput, RddmSamplingConfig, ResidualDenoiser, seeded_weights,
};
use nabla_diffusion::rddm_trainer::{
    Batch, BatchError, BatchSource, Rate, RddmTrainerConfig, select_objective,
};
use nabla_diffusion::sampler::Sampler;
use nabla_diffusion::schedule::{NoiseSchedule, NoiseScheduleConfig, Spacing};
use nabla_diffusion::unet::{Normalization, UNetConfig};
use nabla_grad::seeded_noise::SeededNoise;

use super::checks::Choice;
use super::pictures::{Photos, crops, degrade, sliced_wasserstein};
use super::{GENERATED, RESTORATION, RESTORED, Restored, Restorer, Size, paths};
use crate::mean_psnr::mean_psnr;

/// One seed of the experiment.
pub(super) struct Run<'a> {
    pub(super) bench: &'a Bench<'a>,
    pub(super) size: Size,
    pub(super) photos: &'a Photos,
    pub(super) seed: u64,
}

/// The training pictures of a task.
#[derive(Clone, Copy, PartialEq)]
enum Job {
    /// Clean and degraded crops; the degraded one is `I_in`.
    Restoration,
    /// The same crops, where `I_in` is 0 and the degraded one only a condition.
    ConditionalDdim,
    /// Only clean crops.
    Generation,
}

impl Run<'_> {
    fn source(&self, job: Job) -> impl BatchSource + use<'_> {
        move |size: usize, draw: &mut SeededNoise, device: &Device| {
            let side = match job {
                Job::Generation => GENERATED,
                _ => RESTORED,
            };
            let clean = crops(&self.photos.training, size, side, draw, device);
            Ok::<_, BatchError>(match job {
                Job::Generation => Batch::generation(clean),
                Job::Restoration => Batch::restoration(clean.clone(), degrade(&clean, draw)),
                Job::ConditionalDdim => Batch {
                    degraded: None,
                    condition: Some(degrade(&clean, draw)),
                    clean,
                },
            })
        }
    }

    fn network(&self, objective: Objective, job: Job) -> Result<ResidualNetwork, ClaimError> {
        let unet = UNetConfig::new(1, 1)
            .with_condition_channels(usize::from(job != Job::Generation))
            .with_base_channels(self.size.channels)
            .with_multipliers(vec![1, 2])
            .with_blocks_per_level(1)
            .with_attention_levels(vec![])
            .with_middle_attention(false)
            .with_normalization(Normalization::None);
        let device = self.bench.context().device.clone().autodiff();
        seeded_weights(self.seed, &device, || {
            ResidualNetwork::init(&unet, objective, Sharing::Separate, &device)
        })
        .map_err(ClaimError::experiment)
    }

    fn config(&self, job: Job) -> RddmTrainerConfig {
        let steps = match job {
            Job::Generation => self.size.generation_steps,
            _ => self.size.steps,
        };
        // The official losses: absolute for restoration, squared for generation.
        let loss = match job {
            Job::Generation => Loss::L2,
            _ => Loss::L1,
        };
        RddmTrainerConfig::new(steps)
            .with_batch(self.size.batch)
            .with_loss(loss)
            .with_learning_rate(1e-3)
            .with_rate(Rate::WarmupCosine {
                warmup: steps / 20,
                floor: 0.05,
            })
            .with_ema(EmaConfig::new().with_decay(0.99))
            .with_ema_every(1)
            .with_seed(self.seed)
    }

    /// A trained network and its losses.
    fn train(&self, job: Job, rddm: &Rddm) -> Result<(ResidualNetwork, Vec<f32>), ClaimError> {
        let network = self.network(rddm.config().objective, job)?;
        let mut trainer = self
            .config(job)
            .trainer(rddm.clone(), network, self.source(job))
            .map_err(ClaimError::experiment)?;
        trainer
            .run(None, &mut |_| {
                self.bench.progress().advance(1);
                ControlFlow::Continue(())
            })
            .map_err(ClaimError::experiment)?;
        let average = trainer.average().unwrap_or(trainer.model());
        Ok((average.clone(), trainer.history().losses()))
    }

    /// Held-out crops, the same for every seed.
    fn held_out(&self, count: usize, side: usize) -> Tensor<4> {
        let mut draw = SeededNoise::new(1, 1000);
        let device = &self.bench.context().device;
        crops(&self.photos.held_out, count, side, &mut draw, device)
    }

    /// The noise of a sampling: the same for every variant of a seed.
    fn sampling_noise(&self) -> SeededNoise {
        SeededNoise::new(self.seed, 100)
    }

    /// The restoration results of one method.
    pub(super) fn restored(&self, restorer: Restorer) -> Result<Restored, ClaimError> {
        let truth = self.held_out(self.size.tests, RESTORED);
        // Darkened in the same way for every seed.
        let degraded = degrade(&truth, &mut SeededNoise::new(1, 1001));
        let psnr = mean_psnr(degraded.clone(), &truth)?;
        let schedule = restoration_schedule(None)?;
        let (objective, time, schedule) = match restorer {
            Restorer::Residual => (Objective::Residual, TimeCondition::Step, schedule),
            Restorer::Noise => (Objective::Noise, TimeCondition::Step, schedule),
            Restorer::ResidualNoise => {
                let time = TimeCondition::Coefficients;
                (Objective::ResidualNoise, time, schedule)
            }
            Restorer::Regression => {
                let schedule = regression_schedule()?;
                (Objective::Residual, TimeCondition::Step, schedule)
            }
            Restorer::Ddim => return self.restored_by_ddim(&truth, &degraded, psnr),
        };
        let rddm = RddmConfig::new()
            .with_objective(objective)
            .with_time(time)
            .with_condition_on_input(true)
            .init(schedule);
        let (network, losses) = self.train(Job::Restoration, &rddm)?;
        let given = RddmInput::new(degraded);
        let restore = |rddm: &Rddm, config: RddmSamplingConfig| -> Result<f64, ClaimError> {
            let sampler = rddm.sampler(config).map_err(ClaimError::experiment)?;
            let restored = sampler
                .restore(&network, &given, &mut self.sampling_noise())
                .map_err(ClaimError::experiment)?;
            mean_psnr(restored, &truth)
        };
        let at_steps = RESTORATION.into_iter().map(|(steps, _)| {
            // Regression takes one step, however many the others take.
            let steps = steps.min(rddm.schedule().steps());
            restore(&rddm, RddmSamplingConfig::new().with_steps(steps))
        });
        let at_steps = at_steps.collect::<Result<_, _>>()?;
        let mut on_paths = Vec::new();
        if restorer == Restorer::ResidualNoise {
            let config = RddmSamplingConfig::new().with_steps(5);
            for (variant, coefficients, path) in paths() {
                let rddm = rddm.with_schedule(restoration_schedule(coefficients)?);
                let psnr = restore(&rddm, config.with_path(path))?;
                on_paths.push((variant.name().to_owned(), psnr));
            }
        }
        Ok(Restored {
            psnr: at_steps,
            degraded: psnr,
            paths: on_paths,
            losses,
        })
    }

    /// The conditional DDIM is a special case of RDDM, so it is trained by the same loop, but it is sampled
    /// by the sampler of DDIM.
    fn restored_by_ddim(
        &self,
        truth: &Tensor<4>,
        degraded: &Tensor<4>,
        psnr: f64,
    ) -> Result<Restored, ClaimError> {
        let ddim = ddim_schedule()?;
        let rddm = RddmConfig::new()
            .with_objective(Objective::Noise)
            .init(converted(&ddim)?);
        let (network, losses) = self.train(Job::ConditionalDdim, &rddm)?;
        let model = denoiser(Prediction::Epsilon, |x: Tensor<4>, level: Level| {
            let time = level.times(x.dims()[0], &x.device());
            let mut outputs = network.predict(x, [time.clone(), time], Some(degraded.clone()))?;
            Ok::<_, OwnError>(outputs.swap_remove(0))
        });
        let mut at_steps = Vec::new();
        for (steps, _) in RESTORATION {
            let short = ddim
                .respace(Spacing::Trailing, steps)
                .map_err(ClaimError::experiment)?;
            let sampler = Sampler::new(Ddim::new().with_clip(Some(1.0)), short)
                .map_err(ClaimError::experiment)?;
            let mut noise = self.sampling_noise();
            let start = noise.normal(truth.dims(), &truth.device());
            let restored = sampler
                .sample(&model, start, &mut noise)
                .map_err(ClaimError::experiment)?;
            at_steps.push(mean_psnr(restored, truth)?);
        }
        Ok(Restored {
            psnr: at_steps,
            degraded: psnr,
            paths: Vec::new(),
            losses,
        })
    }

    /// The distance of generated pictures.
    pub(super) fn generated(&self, objective: Objective) -> Result<f64, ClaimError> {
        let truth = self.held_out(self.size.generated, GENERATED);
        let rddm = RddmConfig::new()
            .with_objective(objective)
            .init(converted(&ddim_schedule()?)?);
        let (network, _) = self.train(Job::Generation, &rddm)?;
        let sampler = rddm
            .sampler(RddmSamplingConfig::new().with_steps(10))
            .map_err(ClaimError::experiment)?;
        let mut noise = self.sampling_noise();
        let made = sampler
            .generate(&network, truth.dims(), &truth.device(), &mut noise)
            .map_err(ClaimError::experiment)?;
        sliced_wasserstein(made, &truth)
    }

    /// The choice of AOSA, and the share of the residual at its end.
    pub(super) fn selected(&self, restoration: bool) -> Result<(Choice, f64), ClaimError> {
        let (job, schedule) = if restoration {
            (Job::Restoration, restoration_schedule(None)?)
        } else {
            (Job::Generation, converted(&ddim_schedule()?)?)
        };
        let rddm = RddmConfig::new()
            .with_condition_on_input(restoration)
            .init(schedule);
        // The official threshold, rate and loss: a choice takes at least 125 steps.
        let config = RddmTrainerConfig::new(self.size.selection_steps)
            .with_batch(self.size.batch)
            .with_seed(self.seed);
        let network = self.network(Objective::Residual, job)?;
        let mut source = self.source(job);
        let found = select_objective(&config, 0.01, &rddm, network, &mut source, &mut |_| {
            self.bench.progress().advance(1);
            ControlFlow::Continue(())
        })
        .map_err(ClaimError::experiment)?;
        let share = found.shares.last().copied().unwrap_or(0.5);
        Ok((Choice::of(found.objective), f64::from(share)))
    }
}

/// The paper's schedule for restoration, `β̄_T² = 0.01`, with other coefficients if given.
fn restoration_schedule(
    coefficients: Option<(Coefficients, Coefficients)>,
) -> Result<ResidualSchedule, ClaimError> {
    let mut config = ResidualScheduleConfig::new().with_noise_variance(0.01);
    if let Some((residual, noise)) = coefficients {
        config = config.with_residual(residual).with_noise(noise);
    }
    config.init().map_err(ClaimError::experiment)
}

/// One step that adds the whole residual and almost no noise, a ten-thousandth of a grey level: the network sees
/// `I_in` and predicts `I_in − I_0` once.
fn regression_schedule() -> Result<ResidualSchedule, ClaimError> {
    let config = ResidualScheduleConfig::new()
        .with_steps(1)
        .with_noise_variance(1e-12);
    config.init().map_err(ClaimError::experiment)
}

/// DDPM's linear schedule.
fn ddim_schedule() -> Result<NoiseSchedule, ClaimError> {
    NoiseScheduleConfig::new()
        .init()
        .map_err(ClaimError::experiment)
}

fn converted(ddim: &NoiseSchedule) -> Result<ResidualSchedule, ClaimError> {
    let products: Vec<f64> = (0..ddim.steps()).map(|t| ddim.alpha_bar(t)).collect();
    ResidualSchedule::from_ddim(&products).map_err(ClaimError::experiment)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the only step of the regression, the network's input is the degraded picture, and its output gives
    /// the result.
    #[test]
    fn regression_is_rddm_of_one_step_without_noise() {
        let device = Device::flex();
        let schedule = regression_schedule().unwrap();
        assert_eq!(schedule.steps(), 1);
        assert_eq!(schedule.residual_sum(0), 1.0);
        let rddm = RddmConfig::new()
            .with_objective(Objective::Residual)
            .with_condition_on_input(true)
            .init(schedule);
        let degraded = SeededNoise::new(0, 0).normal([2, 1, 4, 4], &device) * 0.1;
        // A network that takes I_t for the residual: only the difference between I_in and I_t remains.
        let network = |x: Tensor<4>, _times: [Tensor<1>; 2], _condition: Option<Tensor<4>>| vec![x];
        let sampler = rddm
            .sampler(RddmSamplingConfig::new().with_steps(1))
            .unwrap();
        let given = RddmInput::new(degraded);
        let mut noise = SeededNoise::new(1, 0);
        let restored = sampler.restore(&network, &given, &mut noise).unwrap();
        assert_eq!(sampler.calls(), 1);
        let largest = restored.abs().max().into_scalar::<f32>();
        assert!(largest < 1e-5, "{largest}");
    }
}
