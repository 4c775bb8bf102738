//! The trainings of a comparison.

use std::sync::Arc;

use nabla_train::classification::{TrainingConfig, evaluate};
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::initialization::he_normal;
use nabla_train::model_config::OnModel;
use nabla_train::optimizer::OptimizerConfig;

use super::{Check, DomainComparison, DomainComparisonError, DomainEvent, DomainObserver, Setting};
use crate::domain_source::{DomainObjective, DomainSource};
use crate::domains::HeldOut;
use crate::objective::DomainPlan;

/// A training of a model whose type follows from its name.
pub(super) struct Training<'a, 'o> {
    pub(super) comparison: &'a DomainComparison,
    pub(super) shape: InputShape,
    pub(super) parts: &'a HeldOut,
    pub(super) setting: &'a Setting,
    pub(super) seed: u64,
    pub(super) observe: DomainObserver<'o>,
}

/// Examples of a step, and of the training.
fn batches(batch: usize, counts: &[usize]) -> (usize, usize) {
    let smallest = counts.iter().copied().min().unwrap_or(2);
    (batch.min(smallest) * counts.len(), counts.iter().sum())
}

fn config(
    comparison: &DomainComparison,
    setting: &Setting,
    counts: &[usize],
    seed: u64,
) -> Result<TrainingConfig, DomainComparisonError> {
    let mut optimizer = OptimizerConfig::named("adam")?;
    optimizer.learning_rate = Some(setting.learning_rate);
    let (batch, all) = batches(setting.batch, counts);
    Ok(TrainingConfig::of_steps(
        comparison.steps,
        all,
        batch,
        optimizer,
        seed,
    ))
}

impl OnModel for Training<'_, '_> {
    /// The measurements, and why it ended early.
    type Output = Result<(Vec<Check>, Option<String>), DomainComparisonError>;

    fn on<M: Classifier + 'static>(self, model: M) -> Self::Output {
        let Self {
            comparison,
            shape,
            parts,
            setting,
            seed,
            observe,
        } = self;
        let model = match comparison.model.is_drawn() {
            true => he_normal(model, seed)?,
            false => model,
        };
        let width = shape.features();
        let count = parts.training.len();
        let config = config(comparison, setting, &parts.counts, seed)?;
        // What is measured is measured here.
        let one = parts.training.chosen(&[0], width);
        let mut trainer = config.trainer(&parts.training, &one, shape, model)?;
        let plan = config.plan(count, comparison.steps, true);
        let objective = setting.objective.make::<M>()?;
        let source = DomainSource::new(objective, &parts.counts, trainer.model(), plan)?
            .with_validation(Some(Arc::new(parts.validation.clone())));
        trainer.task_mut().set_source(Box::new(source));
        let validation = parts.validation_by_domain(width);
        let mut checks = Vec::new();
        for step in 1..=comparison.steps {
            match trainer.train_step() {
                Ok(_) => {}
                Err(error) if error.is_divergence() => {
                    return Ok((checks, Some(error.to_string())));
                }
                Err(error) => return Err(error.into()),
            }
            if step.is_multiple_of(comparison.check_every) || step == comparison.steps {
                let of = |examples: &Examples| -> Result<f64, TrainingError> {
                    Ok(evaluate(trainer.model(), examples, shape)?.1)
                };
                checks.push(Check {
                    step,
                    validation: validation.iter().map(of).collect::<Result<_, _>>()?,
                    held_out: of(&parts.test)?,
                });
            }
            if observe(DomainEvent::Step).is_break() {
                return Err(DomainComparisonError::Stopped);
            }
        }
        Ok((checks, None))
    }
}

/// A training that is only checked.
pub(super) struct Checking<'a> {
    pub(super) comparison: &'a DomainComparison,
    pub(super) objective: &'a DomainObjective,
    pub(super) counts: &'a [usize],
    pub(super) shape: InputShape,
}

impl OnModel for Checking<'_> {
    type Output = Result<(), DomainComparisonError>;

    fn on<M: Classifier + 'static>(self, model: M) -> Self::Output {
        let Self {
            comparison,
            objective,
            counts,
            shape,
        } = self;
        let setting = comparison.setting(objective, 0, 0)?;
        let config = config(comparison, &setting, counts, 0)?;
        let plan = config.plan(counts.iter().sum(), comparison.steps, true);
        let (step, _) = batches(setting.batch, counts);
        let domain_plan = DomainPlan {
            batches: vec![step / counts.len(); counts.len()],
            steps: comparison.steps,
            shape: Some(shape),
        };
        objective.make::<M>()?.check(&model, &domain_plan)?;
        DomainSource::new(objective.make::<M>()?, counts, &model, plan)?;
        Ok(())
    }
}
