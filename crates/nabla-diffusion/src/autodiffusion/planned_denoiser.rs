//! A model that skips blocks as a plan says.

use burn::tensor::Tensor;

use super::{Plan, PlanError, Space};
use crate::block_skipping::{BlockSet, SkippableDenoiser};
use crate::denoiser::{Condition, Denoiser, OwnError, Prediction, rows};
use crate::level::{Level, Levels};

/// The reason why a network with skipped blocks does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the plan skips blocks of the network, which a guidance that looks into its self-attention cannot do: \
     choose another guidance, or a plan without skipped blocks"
)]
struct SkippedAttention;

/// A model that skips in each step of a run the blocks that a plan skips there; see the
/// [module documentation](super).
///
/// A call belongs to the step with the next time at or above its own, so that samplers which call the network between
/// two steps work too.
pub struct PlannedDenoiser<'a, const D: usize = 4> {
    model: &'a dyn SkippableDenoiser<D>,
    /// The times of the steps, rising, and what is skipped.
    steps: Vec<(f64, &'a BlockSet)>,
}

impl<const D: usize> std::fmt::Debug for PlannedDenoiser<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlannedDenoiser")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl<'a, const D: usize> PlannedDenoiser<'a, D> {
    /// - `levels`: those of the run, one for each step of the plan
    ///
    /// # Errors
    /// If the network has fewer blocks than the plan skips, or the run does not have as many steps as the plan.
    pub fn new(
        model: &'a dyn SkippableDenoiser<D>,
        plan: &'a Plan,
        levels: &Levels,
    ) -> Result<Self, PlanError> {
        plan.check(Space {
            steps: usize::MAX,
            blocks: model.blocks(),
        })?;
        if levels.steps() != plan.count() {
            return Err(PlanError::Steps {
                asked: plan.count(),
                steps: levels.steps(),
            });
        }
        let genes = plan.genes().iter().enumerate();
        let steps = genes.map(|(index, gene)| (levels.level(index).time(), &gene.skipped));
        Ok(Self {
            model,
            steps: steps.collect(),
        })
    }

    /// What is skipped in a call at `time`.
    fn skipped(&self, time: f64) -> &'a BlockSet {
        let before = self.steps.partition_point(|&(step, _)| step < time - 1e-9);
        let step = self.steps.get(before).or(self.steps.last());
        step.map_or(BlockSet::none(), |&(_, skipped)| skipped)
    }

    fn whole(&self, time: f64) -> Result<(), OwnError> {
        match self.skipped(time).is_empty() {
            true => Ok(()),
            false => Err(SkippedAttention.into()),
        }
    }
}

impl<const D: usize> Denoiser<D> for PlannedDenoiser<'_, D> {
    fn prediction(&self) -> Prediction {
        self.model.prediction()
    }

    fn predict(
        &self,
        x: Tensor<D>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<D>>, OwnError> {
        if self.skipped(level.time()).is_empty() {
            return self.model.predict(x, level, conditions);
        }
        rows::of_conditions(x, conditions, |x, rows| self.predict_rows(x, level, rows))
    }

    fn predict_rows(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<D>, OwnError> {
        let skipped = self.skipped(level.time());
        self.model.predict_rows_skipping(x, level, rows, skipped)
    }

    fn predict_perturbed(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<D>, OwnError> {
        self.whole(level.time())?;
        self.model.predict_perturbed(x, level, rows)
    }

    fn predict_attending(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<(Tensor<D>, Tensor<3>), OwnError> {
        self.whole(level.time())?;
        self.model.predict_attending(x, level, rows)
    }
}
