//! An objective as the gradient source of a training.
//!
//! The training examples of all domains are one list, a domain after the other. In every step, a [`DomainSource`] draws a
//! batch of every domain in the order of that domain's own epochs, leaving out an incomplete last batch, and hands
//! them to its [`Objective`]. Changes of pictures, label smoothing, the optimizer, the schedule, averages and checkpoints
//! are those of the training.
//!
//! [`DomainObjective`] names the objective, so that an `Experiment` makes the source for its model.

use std::sync::{Arc, OnceLock};

use nabla_base::range;
use nabla_base::registry::{Options, RegistryError};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::gradient_source::{
    Answers, GradientSource, GradientSources, Plan, TrainingExamples,
};
use nabla_train::learner::Learner;
use nabla_train::order::EpochOrder;
use nabla_train::validation::Validation;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{DomainBatch, DomainPlan, DomainStep, Objective, ObjectiveError};
use crate::objectives::objectives;

/// An objective draws what it needs in step `t` from stream `OBJECTIVE + t` of the seed.
const OBJECTIVE: u64 = 1 << 49;

/// The batches of one domain.
#[derive(Clone, Debug)]
struct DomainOrder {
    /// The place of its first example.
    begin: usize,
    batch: usize,
    order: EpochOrder,
    /// Whole batches of an epoch.
    whole: usize,
}

impl DomainOrder {
    fn new(begin: usize, count: usize, batch: usize, seed: u64) -> Self {
        let batch = batch.min(count);
        Self {
            begin,
            batch,
            order: EpochOrder::new(count, batch, seed),
            whole: count / batch.max(1),
        }
    }

    /// The examples of a step, by their places among those of all domains.
    fn of_step(&mut self, step: usize) -> Vec<usize> {
        let whole = self.whole.max(1);
        let at = (step / whole) * self.order.steps_per_epoch() + step % whole;
        let chosen = self.order.batch(at).iter();
        chosen.map(|&i| self.begin + i).collect()
    }
}

/// An objective that gets a batch of every domain; see the [module documentation](self).
pub struct DomainSource<M: Classifier> {
    objective: Box<dyn Objective<M>>,
    domains: Vec<usize>,
    batch: usize,
    orders: Vec<DomainOrder>,
    plan: DomainPlan,
    name: String,
    validation: Option<Arc<Examples>>,
    /// Of the validation examples, for checkpoints.
    fingerprint: OnceLock<String>,
}

impl<M: Classifier> std::fmt::Debug for DomainSource<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DomainSource")
            .field("objective", &self.name)
            .field("domains", &self.domains)
            .finish_non_exhaustive()
    }
}

impl<M: Classifier> DomainSource<M> {
    /// - `domains`: the number of training examples of each domain, in the order in which the training has them
    /// - `plan`: of the training; a step's examples are divided evenly between the domains
    ///
    /// # Errors
    /// If there is no domain, a domain is empty, the domains have other examples than the training, a step has fewer
    /// than two examples of a domain, or the objective refuses the model or the plan.
    pub fn new(
        objective: Box<dyn Objective<M>>,
        domains: &[usize],
        model: &M,
        plan: Plan,
    ) -> Result<Self, ObjectiveError> {
        range::at_least("number of training domains", domains.len(), 1)?;
        for (i, &count) in domains.iter().enumerate() {
            range::at_least(
                format!("number of examples of training domain {}", i + 1),
                count,
                2,
            )?;
        }
        let all: usize = domains.iter().sum();
        range::check(
            all == plan.examples,
            "number of examples of all domains",
            all,
            format!("{}, those of the training", plan.examples),
        )?;
        let batch = plan.batch / domains.len();
        range::check(
            batch >= 2,
            "batch of a training on domains",
            plan.batch,
            format!(
                "at least {}, two examples of each domain",
                2 * domains.len()
            ),
        )?;
        let domain_plan = DomainPlan {
            batches: domains.iter().map(|&count| batch.min(count)).collect(),
            steps: plan.steps,
            shape: None,
        };
        objective.check(model, &domain_plan)?;
        let mut begin = 0;
        let orders = domains.iter().enumerate().map(|(i, &count)| {
            // Domains of the same size would be in the same order otherwise.
            let seed = plan.seed.wrapping_add((i as u64) << 32);
            let order = DomainOrder::new(begin, count, batch, seed);
            begin += count;
            order
        });
        Ok(Self {
            orders: orders.collect(),
            name: format!("domains: {}", objective.name()),
            objective,
            domains: domains.to_vec(),
            batch,
            plan: domain_plan,
            validation: None,
            fingerprint: OnceLock::new(),
        })
    }

    /// Shows the objective examples of the training domains on which no step is taken, if it looks at them.
    #[must_use]
    pub fn with_validation(mut self, examples: Option<Arc<Examples>>) -> Self {
        self.validation = examples;
        self.fingerprint = OnceLock::new();
        self
    }

    /// Checks the objective again once the shape of an example is known.
    pub(crate) fn see_shape(&mut self, model: &M, shape: InputShape) -> Result<(), ObjectiveError> {
        if self.plan.shape.is_none() {
            self.plan.shape = Some(shape);
            self.objective.check(model, &self.plan)?;
        }
        Ok(())
    }

    /// The objective.
    pub fn objective(&self) -> &dyn Objective<M> {
        self.objective.as_ref()
    }
}

impl<M: Classifier> GradientSource<M> for DomainSource<M> {
    fn name(&self) -> &str {
        &self.name
    }

    fn gradient(
        &mut self,
        examples: &mut TrainingExamples<'_>,
        learner: &mut Learner<M>,
    ) -> Result<Answers, TrainingError> {
        // It is known with the first examples only.
        self.see_shape(learner.model(), examples.shape())?;
        let number = learner.step();
        let rows: Vec<usize> = self
            .orders
            .iter_mut()
            .flat_map(|o| o.of_step(number))
            .collect();
        // At once: the changes of pictures come from one stream.
        let drawn = examples.chosen(&rows, number, learner.device());
        let width = examples.shape().features();
        let mut begin = 0;
        let batches = self.orders.iter().map(|order| {
            let rows = begin..begin + order.batch;
            begin = rows.end;
            DomainBatch {
                input: drawn.input.clone().slice([rows.clone(), 0..width]),
                labels: drawn.labels[rows].to_vec(),
            }
        });
        let batches = batches.collect();
        let noise = SeededNoise::new(examples.seed(), OBJECTIVE + number as u64);
        let mut step = DomainStep::new(learner, batches, examples.shape(), noise)
            .with_label_smoothing(examples.label_smoothing())
            .with_validation(self.validation.as_deref());
        self.objective.step(&mut step)?;
        Ok(step.answers())
    }

    fn settings(&self) -> Value {
        // Once: every checkpoint has the settings.
        let fingerprint = |examples: &Arc<Examples>| {
            let known = self.fingerprint.get_or_init(|| examples.fingerprint());
            known.clone()
        };
        json!({
            "domains": self.domains,
            "batch": self.batch,
            "validation_examples": self.validation.as_ref().map(fingerprint),
            "objective": self.objective.settings(),
        })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        Ok(self.objective.state()?)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        Ok(self.objective.restore(state)?)
    }

    fn report(&self) -> Result<Value, TrainingError> {
        Ok(self.objective.report())
    }
}

/// An objective by name, and the domains of the training examples.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use burn::tensor::Device;
/// use nabla_align::{Coloured, DomainObjective};
/// use nabla_train::classification::TrainingConfig;
/// use nabla_train::gradient_source::{GradientSources, Plan};
/// use nabla_train::initialization::he_normal;
/// use nabla_train::mlp::MlpConfig;
///
/// let domains = Coloured::default().of(&nabla_data::digits()?, 0)?;
/// let held_out = domains.hold_out("-90%", 0.2, 0)?;
/// let config = TrainingConfig { epochs: 1, batch: 100, ..TrainingConfig::default() };
/// let model = MlpConfig { hidden: vec![16] }.init(128, 2, &Device::flex().autodiff())?;
/// let model = he_normal(model, config.seed)?;
///
/// let mut trainer = config.trainer(&held_out.training, &held_out.validation, domains.shape(), model)?;
/// let plan = Plan {
///     examples: held_out.training.len(),
///     batch: config.batch,
///     steps: trainer.steps(),
///     seed: config.seed,
///     scaled: false,
///     augmented: false,
/// };
/// let irm = DomainObjective::named("irm").with("penalty", 10.0).for_domains(&held_out.counts);
/// if let Some(source) = irm.source(trainer.model(), plan)? {
///     trainer.task_mut().set_source(source);
/// }
/// trainer.run(None, &mut |_| ControlFlow::Continue(()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainObjective {
    /// The name of the objective.
    pub name: String,
    /// Its options.
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub options: Options,
    /// The number of training examples of each domain, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<usize>,
    /// Examples of the training domains on which no step is taken, for objectives that look at them (UDIM).
    #[serde(skip)]
    pub validation: Option<Arc<Examples>>,
    /// How the training is measured, if by those examples.
    #[serde(skip)]
    pub measured: Option<Validation>,
}

impl DomainObjective {
    /// An objective with its defaults.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            options: Options::new(),
            domains: Vec::new(),
            validation: None,
            measured: None,
        }
    }

    /// Sets an option.
    #[must_use]
    pub fn with(mut self, option: &str, value: impl Into<Value>) -> Self {
        self.options.set(option, value.into());
        self
    }

    /// Says how many training examples each domain has.
    #[must_use]
    pub fn for_domains(mut self, domains: &[usize]) -> Self {
        self.domains = domains.to_vec();
        self
    }

    /// Says that the test examples of the data set are validation examples of the training domains.
    #[must_use]
    pub fn measured_by(mut self, validation: Validation) -> Self {
        self.measured = Some(validation);
        self
    }

    /// Gives the objective validation examples, if it looks at them.
    #[must_use]
    pub fn validated_on(mut self, examples: Examples) -> Self {
        self.validation = Some(Arc::new(examples));
        self
    }

    /// The objective for a type of models.
    ///
    /// # Errors
    /// If there is none of the name, or an option is wrong.
    pub fn make<M: Classifier + 'static>(&self) -> Result<Box<dyn Objective<M>>, RegistryError> {
        objectives::<M>().make(&self.name, &self.options)
    }
}

impl GradientSources for DomainObjective {
    fn source<M: Classifier + 'static>(
        &self,
        model: &M,
        plan: Plan,
    ) -> Result<Option<Box<dyn GradientSource<M>>>, TrainingError> {
        let objective = self.make::<M>().map_err(TrainingError::task)?;
        let source = DomainSource::new(objective, &self.domains, model, plan)?;
        Ok(Some(Box::new(
            source.with_validation(self.validation.clone()),
        )))
    }

    fn validation(&self) -> Option<Validation> {
        self.measured.clone()
    }
}

/// The width of a picture's channel, or an error of the objective that needs pictures.
pub(crate) fn picture_shape(
    shape: InputShape,
    objective: &'static str,
) -> Result<[usize; 3], ObjectiveError> {
    match shape {
        InputShape::Picture(shape) => Ok(shape),
        InputShape::Row(features) => Err(ObjectiveError::Own(
            format!("{objective} moves the style of pictures, but the examples are rows of {features} numbers")
                .into(),
        )),
    }
}

#[cfg(test)]
mod tests;
