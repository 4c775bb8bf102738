//! One training of a comparison.

use std::sync::Arc;

use nabla_train::classification::{TrainingConfig, evaluate};
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::optimizer::OptimizerConfig;

use super::{Check, DomainComparison, DomainComparisonError, DomainEvent, DomainObserver, Setting};
use crate::domain_source::{DomainObjective, DomainSource};
use crate::domains::HeldOut;

/// One training.
pub(super) struct Training<'a, 'o> {
    pub(super) comparison: &'a DomainComparison,
    pub(super) config: &'a TrainingConfig,
    pub(super) objective: &'a DomainObjective,
    pub(super) shape: InputShape,
    pub(super) parts: &'a HeldOut,
    pub(super) observe: DomainObserver<'o>,
}

/// The configuration of a training.
///
/// - `counts`: of the training examples of each domain
pub(super) fn config(
    comparison: &DomainComparison,
    setting: &Setting,
    counts: &[usize],
    seed: u64,
) -> Result<TrainingConfig, DomainComparisonError> {
    let mut optimizer = OptimizerConfig::named("adam")?;
    optimizer.learning_rate = Some(setting.learning_rate);
    let smallest = counts.iter().copied().min().unwrap_or(2);
    Ok(TrainingConfig::of_steps(
        comparison.steps,
        counts.iter().sum(),
        setting.batch.min(smallest) * counts.len(),
        optimizer,
        seed,
    ))
}

impl Training<'_, '_> {
    /// The measurements, and why it ended early.
    ///
    /// - `model`: with its first weights
    pub(super) fn run<M: Classifier + 'static>(
        self,
        model: M,
    ) -> Result<(Vec<Check>, Option<String>), DomainComparisonError> {
        let Self {
            comparison,
            config,
            objective,
            shape,
            parts,
            observe,
        } = self;
        let width = shape.features();
        let count = parts.training.len();
        // What is measured is measured here.
        let one = parts.training.chosen(&[0], width);
        let mut trainer = config.trainer(&parts.training, &one, shape, model)?;
        let plan = config.plan(count, comparison.steps, true);
        let objective = objective.make::<M>()?;
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

/// Refuses an objective that does not fit the model or the domains.
///
/// - `counts`: of the training examples of each domain
pub(super) fn check<M: Classifier + 'static>(
    comparison: &DomainComparison,
    objective: &DomainObjective,
    counts: &[usize],
    shape: InputShape,
    model: &M,
) -> Result<(), DomainComparisonError> {
    let setting = comparison.setting(objective, 0, 0)?;
    let config = config(comparison, &setting, counts, 0)?;
    let plan = config.plan(counts.iter().sum(), comparison.steps, true);
    let mut source = DomainSource::new(objective.make::<M>()?, counts, model, plan)?;
    Ok(source.see_shape(model, shape)?)
}
