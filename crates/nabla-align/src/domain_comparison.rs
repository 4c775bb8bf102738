//! Several objectives in every domain of a set, with the same budget of search for each: DomainBed's table.
//!
//! ```text
//! for each seed, each test domain, each objective:
//!   for each trial:  options ← defaults in the first trial, then drawn; rate and batch, too
//!                    train on the other domains, and measure every few steps
//!   choose a trial and a step by a rule that does not see the test domain
//!   told: the accuracy in the test domain of what was chosen
//! ```
//!
//! The rules are those of [`selection`](crate::selection). Source: Gulrajani, Lopez-Paz, *In Search of Lost Domain
//! Generalization*, 2021, arXiv 2007.01434.

use nabla_base::range::{self, OutOfRange};
use nabla_base::registry::{Options, RegistryError};
use nabla_base::vector::mean_with_error;
use nabla_grad::flat::FlatError;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::classification::{TrainingConfig, evaluate};
use nabla_train::classifier::{Classifier, ModelError};
use nabla_train::error::TrainingError;
use nabla_train::examples::Examples;
use nabla_train::initialization::he_normal;
use nabla_train::mlp::Mlp;
use nabla_train::model_config::{ModelConfig, OnModel};
use nabla_train::optimizer::{OptimizerConfig, OptimizerError};
use serde::{Deserialize, Serialize};

use burn::tensor::Device;

use crate::domain_source::{DomainObjective, DomainSource};
use crate::domains::{DomainError, Domains, HeldOut};
use crate::objective::ObjectiveError;
use crate::objectives::objectives;
use crate::search::{Draw, drawn};
use crate::selection::{
    Chosen, LeftOut, Measured, Selection, by_domains_left_out, by_training_domains,
};

/// The reason why objectives cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DomainComparisonError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The domains.
    #[error(transparent)]
    Domains(#[from] DomainError),
    /// An objective's name or option.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its first weights.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// The optimizer.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// An objective.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// A training, other than one that diverges.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// No trial of an objective was measured.
    #[error(
        "every trial of {objective} with the test domain {test:?} diverged before it was measured"
    )]
    Diverged {
        /// The objective.
        objective: String,
        /// The test domain.
        test: String,
    },
    /// The one who watches asked to stop.
    #[error("the comparison was stopped")]
    Stopped,
}

/// A comparison; see the [module documentation](self).
///
/// ```
/// use nabla_align::domain_comparison::DomainComparison;
/// use nabla_align::{Coloured, DomainObjective};
///
/// let comparison = DomainComparison {
///     objectives: vec![DomainObjective::named("erm"), DomainObjective::named("vrex")],
///     steps: 20,
///     check_every: 10,
///     trials: 2,
///     seeds: vec![0],
///     ..DomainComparison::default()
/// };
/// let domains = Coloured::default().of(&nabla_data::digits()?, 0)?;
/// let table = comparison.run(&domains, &mut |_| true)?;
/// assert_eq!(table.rows.len(), 2);
/// assert_eq!(table.rows[0].accuracies.len(), 3); // one for each test domain
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DomainComparison {
    /// The objectives; options that are given are not searched.
    pub objectives: Vec<DomainObjective>,
    /// The model. Default the MLP.
    pub model: ModelConfig,
    /// The domains that are held out in turn. Default: each of them.
    pub tests: Vec<String>,
    /// Steps of a training. Default 5000.
    pub steps: usize,
    /// Steps between two measurements. Default 100.
    pub check_every: usize,
    /// Examples of a domain in a step, in the first trial. Default 64.
    pub batch: usize,
    /// The learning rate of Adam in the first trial. Default 1e-3.
    pub rate: f64,
    /// Settings that are tried for each objective and test domain; the first is the defaults. Default 20.
    pub trials: usize,
    /// The seeds. Default 0, 1 and 2.
    pub seeds: Vec<u64>,
    /// The share of a training domain for validation. Default 0.2.
    pub validation_share: f64,
    /// How a trial and a step are chosen. Default by the training domains.
    pub selection: Selection,
}

impl Default for DomainComparison {
    fn default() -> Self {
        Self {
            objectives: Vec::new(),
            model: ModelConfig::default(),
            tests: Vec::new(),
            steps: 5000,
            check_every: 100,
            batch: 64,
            rate: 1e-3,
            trials: 20,
            seeds: vec![0, 1, 2],
            validation_share: 0.2,
            selection: Selection::TrainingDomains,
        }
    }
}

/// A training that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Done<'a> {
    /// The objective.
    pub objective: &'a str,
    /// The test domain.
    pub test: &'a str,
    /// The domain that was left out besides, to choose.
    pub left_out: Option<&'a str>,
    /// The number of the trial, from 0.
    pub trial: usize,
    /// The seed.
    pub seed: u64,
}

/// What an objective has reached in a test domain with a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// The seed.
    pub seed: u64,
    /// What was chosen.
    pub chosen: Chosen,
    /// The options of its trial.
    pub options: Options,
    /// The accuracy in the test domain.
    pub accuracy: f64,
}

/// An objective in the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The objective.
    pub objective: String,
    /// For each test domain, one for each seed.
    pub reached: Vec<Vec<Reached>>,
    /// For each test domain, the mean accuracy over the seeds, and its standard error; none of a single seed.
    pub accuracies: Vec<(f64, Option<f64>)>,
    /// The mean over the test domains.
    pub mean: f64,
}

/// The table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DomainTable {
    /// The test domains.
    pub tests: Vec<String>,
    /// The objectives.
    pub rows: Vec<Row>,
}

/// A setting.
#[derive(Clone, Debug)]
struct Trial {
    objective: DomainObjective,
    batch: usize,
    rate: f64,
}

/// Settings are drawn from stream `TRIALS + trial` of the seed.
const TRIALS: u64 = 1 << 50;

/// Accuracies at a step.
struct Check {
    step: usize,
    validation: Vec<f64>,
    test: f64,
}

impl DomainComparison {
    fn validate(&self) -> Result<(), OutOfRange> {
        for (name, value) in [
            ("number of objectives", self.objectives.len()),
            ("steps of the comparison", self.steps),
            ("steps between measurements", self.check_every),
            ("trials of the comparison", self.trials),
            ("number of seeds", self.seeds.len()),
        ] {
            range::at_least(name, value, 1)?;
        }
        range::at_least("batch of the comparison", self.batch, 2)?;
        range::positive("rate of the comparison", self.rate)?;
        let most = self.steps;
        range::within("steps between measurements", self.check_every, 1..=most)?;
        let share = self.validation_share;
        range::between("validation share", share, 0.0, 1.0)
    }

    /// Trains and chooses. `watch` sees every training that was done, and may stop the comparison.
    ///
    /// # Errors
    /// If a value is out of range, a name is unknown, the domains are too few or too small, or a training fails; one that
    /// diverges only ends its trial.
    pub fn run(
        &self,
        domains: &Domains,
        watch: &mut dyn FnMut(&Done<'_>) -> bool,
    ) -> Result<DomainTable, DomainComparisonError> {
        self.validate()?;
        let tests: Vec<String> = match self.tests.is_empty() {
            true => domains.names().to_vec(),
            false => self.tests.clone(),
        };
        let mut rows = Vec::with_capacity(self.objectives.len());
        for objective in &self.objectives {
            let mut reached = Vec::with_capacity(tests.len());
            for test in &tests {
                let of_seed = |&seed: &u64| self.reach(domains, objective, test, seed, watch);
                reached.push(
                    self.seeds
                        .iter()
                        .map(of_seed)
                        .collect::<Result<Vec<_>, _>>()?,
                );
            }
            let accuracies: Vec<_> = reached.iter().map(|of| summary(of)).collect();
            let mean = accuracies.iter().map(|(mean, _)| mean).sum::<f64>() / tests.len() as f64;
            rows.push(Row {
                objective: objective.name.clone(),
                reached,
                accuracies,
                mean,
            });
        }
        Ok(DomainTable { tests, rows })
    }

    /// The setting of a trial.
    fn trial(
        &self,
        objective: &DomainObjective,
        trial: usize,
        seed: u64,
    ) -> Result<Trial, DomainComparisonError> {
        let mut setting = Trial {
            objective: objective.clone(),
            batch: self.batch,
            rate: self.rate,
        };
        if trial > 0 {
            let mut noise = SeededNoise::new(seed, TRIALS + trial as u64);
            // The same rates and batches for every objective.
            let number = |draw: Draw, noise: &mut SeededNoise| {
                draw.value(self.steps, noise).as_f64().unwrap_or(1.0)
            };
            setting.rate = self.rate * number(Draw::Power(-1.5, 0.5), &mut noise);
            let times = number(Draw::Uniform(-3.0, 3.0), &mut noise).exp2();
            setting.batch = ((self.batch as f64 * times) as usize).max(2);
            // What is searched depends on no type of model.
            let searched = objectives::<Mlp>().make(&objective.name, &objective.options)?;
            let own = drawn(&searched.search(), self.steps, &mut noise);
            setting.objective.options = own.overridden(&objective.options);
        }
        Ok(setting)
    }

    /// All trials of an objective in a test domain, and the choice.
    fn reach(
        &self,
        domains: &Domains,
        objective: &DomainObjective,
        test: &str,
        seed: u64,
        watch: &mut dyn FnMut(&Done<'_>) -> bool,
    ) -> Result<Reached, DomainComparisonError> {
        let parts = domains.hold_out(test, self.validation_share, seed)?;
        let mut measured = Vec::new();
        let mut tested = Vec::new();
        let mut left_out = Vec::new();
        for trial in 0..self.trials {
            let setting = self.trial(objective, trial, seed)?;
            let mut tell = |left_out: Option<&str>| {
                let objective = &objective.name;
                let done = Done {
                    objective,
                    test,
                    left_out,
                    trial,
                    seed,
                };
                match watch(&done) {
                    true => Ok(()),
                    false => Err(DomainComparisonError::Stopped),
                }
            };
            for check in self.train(domains, &parts, &setting, seed)? {
                tested.push((trial, check.step, check.test));
                let (step, validation) = (check.step, check.validation);
                measured.push(Measured {
                    trial,
                    step,
                    validation,
                });
            }
            tell(None)?;
            if self.selection == Selection::LeaveOneDomainOut {
                let rest = domains.without(&[test])?;
                for (domain, name) in parts.names.iter().enumerate() {
                    let parts = rest.hold_out(name, self.validation_share, seed)?;
                    for check in self.train(&rest, &parts, &setting, seed)? {
                        left_out.push(LeftOut {
                            trial,
                            step: check.step,
                            domain,
                            accuracy: check.test,
                        });
                    }
                    tell(Some(name))?;
                }
            }
        }
        let chosen = match self.selection {
            Selection::TrainingDomains => by_training_domains(&measured),
            Selection::LeaveOneDomainOut => by_domains_left_out(&left_out, parts.names.len())?,
        };
        let accuracy = |chosen: &Chosen| {
            let mut same = tested
                .iter()
                .filter(|t| (t.0, t.1) == (chosen.trial, chosen.step));
            same.next().map(|t| t.2)
        };
        let found = chosen.and_then(|chosen| Some((chosen, accuracy(&chosen)?)));
        let (chosen, accuracy) = found.ok_or_else(|| DomainComparisonError::Diverged {
            objective: objective.name.clone(),
            test: test.to_owned(),
        })?;
        Ok(Reached {
            seed,
            chosen,
            options: self.trial(objective, chosen.trial, seed)?.objective.options,
            accuracy,
        })
    }

    /// The measurements of a training, up to where it diverges.
    fn train(
        &self,
        domains: &Domains,
        parts: &HeldOut,
        setting: &Trial,
        seed: u64,
    ) -> Result<Vec<Check>, DomainComparisonError> {
        let training = Training {
            comparison: self,
            domains,
            parts,
            setting,
            seed,
        };
        let device = Device::flex().autodiff();
        let classes = domains.classes().len();
        self.model
            .init_for(domains.shape(), classes, &device, training)?
    }
}

/// A training of a model whose type follows from its name.
struct Training<'a> {
    comparison: &'a DomainComparison,
    domains: &'a Domains,
    parts: &'a HeldOut,
    setting: &'a Trial,
    seed: u64,
}

impl OnModel for Training<'_> {
    type Output = Result<Vec<Check>, DomainComparisonError>;

    fn on<M: Classifier + 'static>(self, model: M) -> Self::Output {
        let Self {
            comparison,
            domains,
            parts,
            setting,
            seed,
        } = self;
        let model = match comparison.model.is_drawn() {
            true => he_normal(model, seed)?,
            false => model,
        };
        let shape = domains.shape();
        let width = shape.features();
        let mut optimizer = OptimizerConfig::named("adam")?;
        optimizer.learning_rate = Some(setting.rate);
        let smallest = parts.counts.iter().copied().min().unwrap_or(2);
        let batch = setting.batch.min(smallest) * parts.counts.len();
        let count = parts.training.len();
        let config = TrainingConfig::of_steps(comparison.steps, count, batch, optimizer, seed);
        // What is measured is measured here.
        let one = parts.training.chosen(&[0], width);
        let mut trainer = config.trainer(&parts.training, &one, shape, model)?;
        let plan = config.plan(count, comparison.steps, false);
        let objective = setting.objective.make::<M>()?;
        let source = DomainSource::new(objective, &parts.counts, trainer.model(), plan)?;
        trainer.task_mut().set_source(Box::new(source));
        let validation = parts.validation_by_domain(width);
        let mut checks = Vec::new();
        for step in 1..=comparison.steps {
            match trainer.train_step() {
                Ok(_) => {}
                Err(error) if error.is_divergence() => break,
                Err(error) => return Err(error.into()),
            }
            if step.is_multiple_of(comparison.check_every) || step == comparison.steps {
                let of = |examples: &Examples| -> Result<f64, TrainingError> {
                    Ok(evaluate(trainer.model(), examples, shape)?.1)
                };
                checks.push(Check {
                    step,
                    validation: validation.iter().map(of).collect::<Result<_, _>>()?,
                    test: of(&parts.test)?,
                });
            }
        }
        Ok(checks)
    }
}

/// The mean accuracy, and its standard error.
fn summary(reached: &[Reached]) -> (f64, Option<f64>) {
    let accuracies: Vec<f64> = reached.iter().map(|r| r.accuracy).collect();
    mean_with_error(&accuracies)
}

impl DomainTable {
    /// The table as Markdown, in percent, with standard errors.
    pub fn markdown(&self) -> String {
        let mut text = format!("| objective | {} | mean |\n", self.tests.join(" | "));
        text += &format!("|---|{}\n", "---|".repeat(self.tests.len() + 1));
        for row in &self.rows {
            let cells = row.accuracies.iter().map(|(mean, error)| match error {
                Some(error) => format!("{:.1} ± {:.1}", 100.0 * mean, 100.0 * error),
                None => format!("{:.1}", 100.0 * mean),
            });
            let cells: Vec<String> = cells.collect();
            let mean = 100.0 * row.mean;
            text += &format!(
                "| {} | {} | {mean:.1} |\n",
                row.objective,
                cells.join(" | ")
            );
        }
        text
    }
}

#[cfg(test)]
mod tests;
