//! The choice of the objective by training (AOSA); see the [module above](super) for its equations.

use std::marker::PhantomData;
use std::ops::ControlFlow;

use burn::module::{Module, ModuleDisplay, Param};
use burn::tensor::Tensor;
use nabla_base::range;
use nabla_train::transform::ClipByNorm;
use nabla_train::{Learner, Task, Trainer, TrainingError};

use super::{BatchSource, Draws, Example, RddmTrainerConfig, RddmTrainingError};
use crate::rddm::{Objective, RddmError};
use crate::rddm_sampler::{Loss, Rddm, RddmConfig, RddmInput, ResidualDenoiser, check_shape};

/// The result of [`select_objective`].
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// [`Objective::Residual`] or [`Objective::Noise`]; `None` if the steps ran out without a decision.
    pub objective: Option<Objective>,
    /// The share `λ` of the residual before the first step and after each.
    pub shares: Vec<f32>,
}

impl Rddm {
    /// The loss of the objective selection, `[1]`; see the [module documentation](super).
    ///
    /// - `model`: a network with one output, which gets the time of the residual; the objective of the model
    ///   is not used
    /// - `share`: `λ`, `[1]`
    /// - the others: as for [`loss`](Self::loss)
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    ///
    /// # Panics
    /// As [`loss`](Self::loss).
    #[allow(clippy::too_many_arguments)]
    pub fn selection_loss(
        &self,
        model: &dyn ResidualDenoiser,
        clean: Tensor<4>,
        given: &RddmInput,
        t: &[usize],
        noise: Tensor<4>,
        loss: Loss,
        share: Tensor<1>,
    ) -> Result<Tensor<1>, RddmError> {
        check_shape("degraded picture", &given.input, &clean)?;
        check_shape("noise", &noise, &clean)?;
        let schedule = self.schedule();
        let one_output = RddmConfig {
            objective: Objective::Residual,
            ..self.config()
        }
        .init(schedule.clone());
        let input = given.input.clone();
        let residual = input.clone() - clean.clone();
        let x = schedule.diffuse(clean, residual.clone(), noise.clone(), t);
        let output = one_output
            .outputs(model, x.clone(), given, t)?
            .swap_remove(0);
        let rest = share.clone().neg() + 1.0;
        let (of_output, of_derived) = (
            share.clone().reshape([1, 1, 1, 1]),
            rest.clone().reshape([1, 1, 1, 1]),
        );
        // The residual if the output is the noise, and the noise if it is the residual.
        let clean_of_noise = schedule
            .clean_from_noise(x.clone(), input.clone(), output.clone(), t)
            .clamp(-1.0, 1.0);
        let noise_of_residual = schedule.noise_from_residual(x, input.clone(), output.clone(), t);
        let as_residual =
            output.clone() * of_output.clone() + (input - clean_of_noise) * of_derived.clone();
        let as_noise = noise_of_residual * of_output + output * of_derived;
        Ok(loss.between(as_residual, residual) * share + loss.between(as_noise, noise) * rest)
    }
}

/// A network and the learned share of the residual, each with its own optimizer.
#[derive(Module, Debug)]
struct Weighed<M: Module + ModuleDisplay> {
    network: M,
    share: Param<Tensor<1>>,
}

/// The players of a selection.
const NETWORK: &str = "network";
const SHARE: &str = "share";

/// The task of a selection.
struct Selecting<'a, M> {
    config: RddmTrainerConfig,
    rddm: &'a Rddm,
    source: &'a mut dyn BatchSource,
    draws: Draws,
    network: PhantomData<M>,
}

impl<M: Module + ModuleDisplay + ResidualDenoiser> Task for Selecting<'_, M> {
    type Model = Weighed<M>;
    type Batch = Example;
    type Report = ();

    fn batch(&mut self, learner: &Learner<Weighed<M>>) -> Result<Example, TrainingError> {
        let steps = self.rddm.schedule().steps();
        let batch = self.config.batch;
        let draws = &mut self.draws;
        Ok(draws.example(self.source, batch, steps, 0.0, learner.device())?)
    }

    fn loss(&mut self, model: &Weighed<M>, example: Example) -> Result<Tensor<1>, TrainingError> {
        let loss = self.rddm.selection_loss(
            &model.network,
            example.clean,
            &example.given,
            &example.t,
            example.noise,
            self.config.loss,
            model.share.val(),
        );
        Ok(loss.map_err(RddmTrainingError::from)?)
    }
}

/// Determines by training whether the residual or the noise is the better objective (AOSA); see the
/// [module documentation](super).
///
/// - `config`: its `steps` is the maximum; its learning rate also applies to the share, which Adam moves by
///   about one learning rate per step, so at least `threshold / learning_rate` steps are needed
/// - `threshold`: how far the share must move from 0.5; officially 0.01
/// - `rddm`: schedule and conditioning; its objective is not used
/// - `network`: has one output; its weights do not matter afterwards
/// - `on_step`: sees the share after every step
///
/// # Errors
/// As [`RddmTrainerConfig::trainer`] and [`Trainer::train_step`], or if `threshold` is not in (0, 0.5).
pub fn select_objective<M: Module + ModuleDisplay + ResidualDenoiser>(
    config: &RddmTrainerConfig,
    threshold: f64,
    rddm: &Rddm,
    network: M,
    source: &mut dyn BatchSource,
    on_step: &mut dyn FnMut(f32) -> ControlFlow<()>,
) -> Result<Selection, RddmTrainingError> {
    config.validate()?;
    let name = "threshold of the objective selection";
    range::between(name, threshold, 0.0, 0.5)?;
    let device = network.devices().into_iter().next().unwrap_or_default();
    let model = Weighed {
        network,
        share: Param::from_tensor(Tensor::from_floats([0.5], &device)),
    };
    let task = Selecting {
        config: *config,
        rddm,
        source,
        draws: Draws::new(config.seed),
        network: PhantomData,
    };
    let optimizer = config.optimizer()?;
    let mut trainer = Trainer::new(config.config()?, task, model)?;
    // The official code limits both gradients together. This makes no difference to the share, because Adam's
    // step does not depend on the length of the gradient.
    for (player, parameters) in [(NETWORK, r"^network\."), (SHARE, "^share$")] {
        trainer = trainer.with_player(player, parameters, optimizer.clone())?;
        if config.gradient_clip > 0.0 {
            trainer = trainer.with_transform(ClipByNorm(config.gradient_clip));
        }
    }
    let mut shares = vec![0.5];
    while !trainer.is_finished() {
        trainer.train_step()?;
        let share = trainer.model().share.val().without_autodiff();
        let lambda = share
            .try_into_scalar::<f32>()
            .map_err(|e| TrainingError::Device(e.to_string()))?;
        shares.push(lambda);
        let moved = f64::from(lambda) - 0.5;
        let objective = if moved >= threshold {
            Some(Objective::Residual)
        } else if moved <= -threshold {
            Some(Objective::Noise)
        } else {
            None
        };
        if objective.is_some() || on_step(lambda).is_break() {
            return Ok(Selection { objective, shares });
        }
    }
    Ok(Selection {
        objective: None,
        shares,
    })
}
