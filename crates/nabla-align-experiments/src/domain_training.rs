//! A network trained on domains by an objective, the same for all objectives of an experiment.

use std::ops::ControlFlow;

use burn::tensor::Device;
use nabla_align::DomainObjective;
use nabla_claims::ClaimError;
use nabla_train::classification::{TrainingConfig, evaluate};
use nabla_train::classifier::Classifier;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::gradient_source::GradientSources;
use nabla_train::initialization::he_normal;
use nabla_train::mlp::{Mlp, MlpConfig};
use nabla_train::optimizer::OptimizerConfig;
use serde_json::Value;

/// What all objectives have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Budget {
    pub(crate) steps: usize,
    /// Examples of a step, over all domains; all of them, if that is more than there are.
    pub(crate) batch: usize,
    /// Of Adam.
    pub(crate) rate: f64,
    /// The decay that Adam adds to the gradient; `2λ` for `λ Σθ²` in the loss.
    pub(crate) decay: f64,
    pub(crate) hidden: Vec<usize>,
}

/// Examples to train on, one domain after the other.
pub(crate) struct Training<'a> {
    pub(crate) examples: &'a Examples,
    /// Examples of each domain.
    pub(crate) counts: &'a [usize],
    pub(crate) shape: InputShape,
    pub(crate) classes: usize,
}

/// The network after all steps.
pub(crate) fn trained(
    objective: &DomainObjective,
    training: &Training<'_>,
    budget: &Budget,
    decayed: bool,
    seed: u64,
) -> Result<Mlp, ClaimError> {
    let config = MlpConfig {
        hidden: budget.hidden.clone(),
    };
    let features = training.shape.features();
    let model = config.init(features, training.classes, &Device::flex().autodiff());
    let model = he_normal(model.map_err(ClaimError::experiment)?, seed);
    let model = model.map_err(ClaimError::experiment)?;
    let (model, _) = trained_from(model, objective, training, budget, decayed, seed)?;
    Ok(model)
}

/// A network after all steps from its present weights, and what the objective has to tell.
pub(crate) fn trained_from<M: Classifier + 'static>(
    model: M,
    objective: &DomainObjective,
    training: &Training<'_>,
    budget: &Budget,
    decayed: bool,
    seed: u64,
) -> Result<(M, Value), ClaimError> {
    let features = training.shape.features();
    let mut optimizer = OptimizerConfig::named("adam").map_err(ClaimError::experiment)?;
    optimizer.learning_rate = Some(budget.rate);
    optimizer.weight_decay = if decayed { budget.decay } else { 0.0 };
    let count = training.examples.len();
    let batch = budget.batch.min(count);
    let config = TrainingConfig::of_steps(budget.steps, count, batch, optimizer, seed);
    // Only the end is measured.
    let one = training.examples.chosen(&[0], features);
    let trainer = config.trainer(training.examples, &one, training.shape, model);
    let mut trainer = trainer.map_err(ClaimError::experiment)?;
    let plan = config.plan(count, budget.steps, false);
    let source = objective.clone().for_domains(training.counts);
    let source = source.source(trainer.model(), plan);
    if let Some(source) = source.map_err(ClaimError::experiment)? {
        trainer.task_mut().set_source(source);
    }
    let run = trainer.run(None, &mut |progress| match progress.step >= budget.steps {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    });
    run.map_err(ClaimError::experiment)?;
    let told = trainer.task().report().map_err(ClaimError::experiment)?;
    Ok((trainer.model().clone(), told))
}

/// The share of right answers, in percent.
pub(crate) fn accuracy(
    model: &impl Classifier,
    examples: &Examples,
    shape: InputShape,
) -> Result<f64, ClaimError> {
    let found = evaluate(model, examples, shape).map_err(ClaimError::experiment);
    found.map(|(_, accuracy)| 100.0 * accuracy)
}
