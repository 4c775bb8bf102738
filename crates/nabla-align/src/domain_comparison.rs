//! Several objectives in every domain of a set, with the same budget of search for each: DomainBed's table.
//!
//! ```text
//! for each objective, each test domain, each seed:
//!   for each trial:  options ← defaults in the first trial, then drawn; rate and batch, too.
//!                      A number of steps is that of 5000, and scales with the training
//!                    train on the other domains, and measure every few steps
//!   choose a trial and a step by a rule that does not see the test domain
//!   told: the accuracy in the test domain of what was chosen
//! ```
//!
//! Features are standardised by the training examples. The rules are those of [`selection`](crate::selection); of
//! [leaving a domain out](Selection::LeaveOneDomainOut), every trial is also trained without each training domain. Every
//! finished training is [stored](nabla_train::run_store), and is not repeated. Source: Gulrajani, Lopez-Paz, *In Search of
//! Lost Domain Generalization*, 2021, arXiv 2007.01434.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use nabla_base::Repeated;
use nabla_base::range::{self, OutOfRange};
use nabla_base::registry::{Options, RegistryError};
use nabla_grad::flat::FlatError;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_quantize::{QuantizationConfig, Quantized};
use nabla_train::calibration::{CalibrationError, calibrated};
use nabla_train::classifier::{Classifier, ModelError};
use nabla_train::error::TrainingError;
use nabla_train::examples::Scaling;
use nabla_train::initialization::he_normal;
use nabla_train::mlp::Mlp;
use nabla_train::model_config::ModelConfig;
use nabla_train::optimizer::OptimizerError;
use nabla_train::run_store::{RunStore, RunStoreError};
use serde::{Deserialize, Serialize};

use crate::domain_config::{DomainConfigError, DomainSet};
use crate::domain_source::DomainObjective;
use crate::domains::{DomainError, Domains};
use crate::objective::ObjectiveError;
use crate::objectives::objectives;
use crate::search::{Draw, drawn, scaled};
use crate::selection::{
    Chosen, LeftOut, Measured, Selection, by_domains_left_out, by_training_domains,
};

mod table;
mod training;

use training::Training;

pub use table::{Accuracy, DomainTable, Reached, Row};

/// The reason why objectives cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum DomainComparisonError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The set of domains.
    #[error(transparent)]
    Set(#[from] DomainConfigError),
    /// The domains.
    #[error(transparent)]
    Domains(#[from] DomainError),
    /// An objective's name or option.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Something is given twice.
    #[error(transparent)]
    Repeated(#[from] Repeated),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its first weights.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// Its layers cannot be rounded.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The optimizer.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// An objective.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
    /// A training, other than one that diverges.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The file of runs.
    #[error(transparent)]
    Runs(#[from] RunStoreError),
    /// The one who watches asked to stop.
    #[error("the comparison was stopped")]
    Stopped,
}

impl DomainComparisonError {
    /// Whether it failed while it ran, rather than the input being wrong.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Training(error) => error.is_failure(),
            Self::Stopped => true,
            _ => false,
        }
    }
}

/// A comparison; see the [module documentation](self).
///
/// ```
/// use std::ops::ControlFlow;
///
/// use burn::tensor::{Device, Tensor};
/// use nabla_align::DomainObjective;
/// use nabla_align::domain_comparison::DomainComparison;
///
/// let comparison = DomainComparison {
///     objectives: vec![DomainObjective::named("erm"), DomainObjective::named("vrex")],
///     steps: 20,
///     check_every: 10,
///     trials: 2,
///     seeds: vec![0],
///     ..DomainComparison::default()
/// };
/// let tables = comparison.run(&Device::flex(), None, &mut |_| ControlFlow::Continue(()))?;
/// assert_eq!(tables[0].rows.len(), 2);
/// assert_eq!(tables[0].rows[0].accuracies.len(), 3); // one for each test domain
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DomainComparison {
    /// The domains.
    pub domains: DomainSet,
    /// The objectives; options that are given are not searched. Default ERM, IRM, V-REx and Fishr.
    pub objectives: Vec<DomainObjective>,
    /// The model. Default the MLP.
    pub model: ModelConfig,
    /// How many bits the weights and inputs of its layers have. Default: layers are not rounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationConfig>,
    /// The domains that are held out in turn. Default: each of them.
    pub tests: Vec<String>,
    /// Steps of a training. Default 5000.
    pub steps: usize,
    /// Steps between two measurements. Default 100.
    pub check_every: usize,
    /// Examples of a domain in a step, in the first trial. Default 64.
    pub batch: usize,
    /// The learning rate of Adam in the first trial. Default 1e-3.
    pub learning_rate: f64,
    /// Settings that are tried for each objective and test domain; the first is the defaults. Default 20.
    pub trials: usize,
    /// The seeds: of the first weights, the validation examples and the drawn settings. Default 0, 1 and 2.
    pub seeds: Vec<u64>,
    /// The share of a training domain for validation. Default 0.2.
    pub validation_share: f64,
    /// How a trial and a step are chosen; a table for each. Default by the training domains.
    pub selections: Vec<Selection>,
}

impl Default for DomainComparison {
    fn default() -> Self {
        let names = ["erm", "irm", "vrex", "fishr"];
        Self {
            domains: DomainSet::default(),
            objectives: names.map(DomainObjective::named).to_vec(),
            model: ModelConfig::default(),
            quantization: None,
            tests: Vec::new(),
            steps: 5000,
            check_every: 100,
            batch: 64,
            learning_rate: 1e-3,
            trials: 20,
            seeds: vec![0, 1, 2],
            validation_share: 0.2,
            selections: vec![Selection::TrainingDomains],
        }
    }
}

/// What a training is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purpose {
    /// The objective.
    pub objective: String,
    /// The test domain.
    pub test: String,
    /// The domain that is left out besides, to choose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// The number of the trial, from 0.
    pub trial: usize,
    /// The seed.
    pub seed: u64,
}

/// A finished training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DomainRun {
    /// What it is for.
    pub purpose: Purpose,
    /// Its learning rate.
    pub learning_rate: f64,
    /// Examples of a domain in a step.
    pub batch: usize,
    /// The options of its objective, other than the defaults.
    pub options: Options,
    /// The measurements; fewer than planned if it diverged.
    pub checks: Vec<Check>,
    /// Why it ended early.
    pub diverged: Option<String>,
}

/// Accuracies at a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Steps done.
    pub step: usize,
    /// On the validation examples of each training domain.
    pub validation: Vec<f64>,
    /// In the domain that was held out: the one that is left out besides, or the test domain.
    pub held_out: f64,
}

/// The progress of a comparison.
#[derive(Clone, Copy, Debug)]
pub enum DomainEvent<'a> {
    /// Everything was checked, and the first training begins.
    Begin {
        /// The number of trainings in all.
        runs: usize,
    },
    /// A step of a training.
    Step,
    /// A training is finished, now or in an earlier call.
    End(&'a DomainRun),
}

/// Sees the progress, and may stop the comparison.
pub type DomainObserver<'a> = &'a mut dyn FnMut(DomainEvent<'_>) -> ControlFlow<()>;

/// A setting.
#[derive(Clone, Debug)]
struct Setting {
    objective: DomainObjective,
    batch: usize,
    learning_rate: f64,
}

/// Settings are drawn from stream `TRIALS + trial` of the seed.
const TRIALS: u64 = 1 << 50;

impl DomainComparison {
    /// Refuses values that are out of range, unknown names and what is given twice, before data are read.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<(), DomainComparisonError> {
        if let Some(config) = &self.quantization {
            config.validate()?;
        }
        for (name, value) in [
            ("number of objectives", self.objectives.len()),
            ("number of steps of the comparison", self.steps),
            ("number of trials of the comparison", self.trials),
            ("number of seeds", self.seeds.len()),
            ("number of rules of selection", self.selections.len()),
        ] {
            range::at_least(name, value, 1)?;
        }
        range::at_least("batch of the comparison", self.batch, 2)?;
        range::positive("learning rate of the comparison", self.learning_rate)?;
        let most = self.steps;
        range::within(
            "number of steps between measurements",
            self.check_every,
            1..=most,
        )?;
        let share = self.validation_share;
        range::between("validation share", share, 0.0, 1.0)?;
        let names: Vec<&String> = self.objectives.iter().map(|o| &o.name).collect();
        Repeated::check("objective", &names, |name| (*name).clone())?;
        Repeated::check("test domain", &self.tests, |test| format!("{test:?}"))?;
        Repeated::check("seed", &self.seeds, u64::to_string)?;
        Repeated::check("rule of selection", &self.selections, |rule| {
            rule.name().to_owned()
        })?;
        for objective in &self.objectives {
            objective.make::<Mlp>()?;
        }
        Ok(())
    }

    /// Whether every trial is also trained without each training domain.
    fn leaves_out(&self) -> bool {
        self.selections.contains(&Selection::LeaveOneDomainOut)
    }

    /// The test domains.
    fn tests(&self, domains: &Domains) -> Vec<String> {
        match self.tests.is_empty() {
            true => domains.names().to_vec(),
            false => self.tests.clone(),
        }
    }

    /// Refuses an objective that does not fit the model or the domains.
    ///
    /// # Errors
    /// Why it does not, or what is wrong with the domains.
    pub fn fits(
        &self,
        objective: &DomainObjective,
        domains: &Domains,
    ) -> Result<(), DomainComparisonError> {
        let shape = domains.shape();
        let device = Device::flex().autodiff();
        let model = self.model.init(shape, domains.classes().len(), &device)?;
        let Some(config) = &self.quantization else {
            return self.fits_model(objective, domains, &model);
        };
        // Of drawn weights and some input: only the layers count.
        let input = Tensor::<2>::ones([1, shape.features()], &device);
        let model = he_normal(model, 0)?;
        let model = Quantized::new(model, config, |model| drop(model.logits(input)));
        self.fits_model(objective, domains, &model.map_err(CalibrationError::from)?)
    }

    fn fits_model<M: Classifier + 'static>(
        &self,
        objective: &DomainObjective,
        domains: &Domains,
        model: &M,
    ) -> Result<(), DomainComparisonError> {
        let fits =
            |counts: &[usize]| training::check(self, objective, counts, domains.shape(), model);
        for test in self.tests(domains) {
            let counts = domains.training_counts(&test, self.validation_share)?;
            fits(&counts)?;
            if self.leaves_out() {
                for left_out in 0..counts.len() {
                    let mut rest = counts.clone();
                    rest.remove(left_out);
                    range::at_least(
                        "number of training domains besides one that is left out",
                        rest.len(),
                        1,
                    )?;
                    fits(&rest)?;
                }
            }
        }
        Ok(())
    }

    /// The number of trainings in all.
    pub fn runs(&self, domains: &Domains) -> usize {
        let tests = self.tests(domains).len();
        let each = match self.leaves_out() {
            // Once with all training domains, and once without each of them.
            true => domains.names().len(),
            false => 1,
        };
        self.objectives.len() * tests * self.seeds.len() * self.trials * each
    }

    /// Refuses the folder of another comparison, before data are read.
    ///
    /// # Errors
    /// If its file of runs cannot be read, or belongs to another comparison.
    pub fn check_folder(&self, folder: &Path) -> Result<(), DomainComparisonError> {
        RunStore::<DomainRun>::open(self, Some(folder))?;
        Ok(())
    }

    /// Reads the domains, and runs the comparison, or resumes it.
    ///
    /// - `device`: where to compute, without autodiff
    /// - `folder`: where finished trainings are stored
    /// - returns a table for each rule of selection
    ///
    /// # Errors
    /// As [`run_on`](Self::run_on), or if the domains cannot be read.
    pub fn run(
        &self,
        device: &Device,
        folder: Option<&Path>,
        observe: DomainObserver<'_>,
    ) -> Result<Vec<DomainTable>, DomainComparisonError> {
        self.validate()?;
        if let Some(folder) = folder {
            self.check_folder(folder)?;
        }
        self.run_on(&self.domains.read(&self.tests, 0)?, device, folder, observe)
    }

    /// As [`run`](Self::run), on domains that are open.
    ///
    /// # Errors
    /// If a value is out of range, a name is unknown, an objective does not fit, the domains are too few or too small, the
    /// folder belongs to another comparison or cannot be written, `observe` stops it, or a training fails; one that
    /// diverges only ends its trial.
    pub fn run_on(
        &self,
        domains: &Domains,
        device: &Device,
        folder: Option<&Path>,
        observe: DomainObserver<'_>,
    ) -> Result<Vec<DomainTable>, DomainComparisonError> {
        self.validate()?;
        for objective in &self.objectives {
            self.fits(objective, domains)?;
        }
        let mut running = Running {
            comparison: self,
            domains,
            device,
            store: RunStore::open(self, folder)?,
            observe,
        };
        running.store.of_examples(&domains.fingerprint())?;
        let runs = self.runs(domains);
        running.tell(DomainEvent::Begin { runs })?;
        let tests = self.tests(domains);
        let tables = self
            .selections
            .iter()
            .map(|&rule| DomainTable::new(rule, &tests));
        let mut tables: Vec<DomainTable> = tables.collect();
        for objective in &self.objectives {
            // For each rule, each test domain, each seed.
            let mut reached = vec![vec![Vec::new(); tests.len()]; tables.len()];
            for (place, test) in tests.iter().enumerate() {
                for &seed in &self.seeds {
                    let of_rules = running.reach(objective, test, seed)?;
                    for (reached, found) in reached.iter_mut().zip(of_rules) {
                        reached[place].push(found);
                    }
                }
            }
            for (table, reached) in tables.iter_mut().zip(reached) {
                table.push(&objective.name, reached);
            }
        }
        tables.iter_mut().for_each(DomainTable::rank);
        Ok(tables)
    }

    /// The setting of a trial.
    fn setting(
        &self,
        objective: &DomainObjective,
        trial: usize,
        seed: u64,
    ) -> Result<Setting, DomainComparisonError> {
        let mut setting = Setting {
            objective: objective.clone(),
            batch: self.batch,
            learning_rate: self.learning_rate,
        };
        // What is searched depends on no type of model.
        let known = objectives::<Mlp>();
        let searched = known.make(&objective.name, &objective.options)?.search();
        if trial == 0 {
            let defaults = known.entry(&objective.name)?.defaults();
            let scaled = scaled(&searched, defaults, self.steps);
            setting.objective.options = scaled.overridden(&objective.options);
        } else {
            let mut noise = SeededNoise::new(seed, TRIALS + trial as u64);
            // The same rates and batches for every objective.
            let number = |draw: Draw, noise: &mut SeededNoise| {
                draw.value(self.steps, noise).as_f64().unwrap_or(1.0)
            };
            setting.learning_rate *= number(Draw::Power(-1.5, 0.5), &mut noise);
            let times = number(Draw::Uniform(-3.0, 3.0), &mut noise).exp2();
            setting.batch = ((self.batch as f64 * times) as usize).max(2);
            let own = drawn(&searched, self.steps, &mut noise);
            setting.objective.options = own.overridden(&objective.options);
        }
        Ok(setting)
    }
}

/// A comparison in progress.
struct Running<'a, 'o> {
    comparison: &'a DomainComparison,
    domains: &'a Domains,
    device: &'a Device,
    store: RunStore<DomainRun>,
    observe: DomainObserver<'o>,
}

impl Running<'_, '_> {
    fn tell(&mut self, event: DomainEvent<'_>) -> Result<(), DomainComparisonError> {
        match (self.observe)(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(DomainComparisonError::Stopped),
        }
    }

    /// All trials of an objective in a test domain, and the choice by each rule.
    fn reach(
        &mut self,
        objective: &DomainObjective,
        test: &str,
        seed: u64,
    ) -> Result<Vec<Option<Reached>>, DomainComparisonError> {
        let others = self.domains.names().iter().filter(|name| *name != test);
        let others: Vec<String> = others.cloned().collect();
        let (mut runs, mut measured, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for trial in 0..self.comparison.trials {
            let purpose = |left_out: Option<&String>| Purpose {
                objective: objective.name.clone(),
                test: test.to_owned(),
                left_out: left_out.cloned(),
                trial,
                seed,
            };
            let run = self.done(objective, purpose(None))?;
            measured.extend(run.checks.iter().map(|check| Measured {
                trial,
                step: check.step,
                validation: check.validation.clone(),
            }));
            runs.push(run);
            if self.comparison.leaves_out() {
                for (domain, name) in others.iter().enumerate() {
                    let run = self.done(objective, purpose(Some(name)))?;
                    left_out.extend(run.checks.iter().map(|check| LeftOut {
                        trial,
                        step: check.step,
                        domain,
                        accuracy: check.held_out,
                    }));
                }
            }
        }
        let rules = self.comparison.selections.iter();
        let chosen = rules.map(|rule| -> Result<Option<Reached>, DomainComparisonError> {
            let chosen = match rule {
                Selection::TrainingDomains => by_training_domains(&measured),
                Selection::LeaveOneDomainOut => by_domains_left_out(&left_out, others.len())?,
            };
            Ok(chosen.and_then(|chosen| reached(&runs, chosen)))
        });
        chosen.collect()
    }

    /// A training, unless it is stored.
    fn done(
        &mut self,
        objective: &DomainObjective,
        purpose: Purpose,
    ) -> Result<DomainRun, DomainComparisonError> {
        let known = self.store.runs().iter().find(|run| run.purpose == purpose);
        if let Some(known) = known.cloned() {
            self.tell(DomainEvent::End(&known))?;
            return Ok(known);
        }
        let comparison = self.comparison;
        let setting = comparison.setting(objective, purpose.trial, purpose.seed)?;
        let share = comparison.validation_share;
        let (rest, held_out);
        let (domains, held_out) = match &purpose.left_out {
            None => (self.domains, &purpose.test),
            Some(left_out) => {
                rest = self.domains.without(&[&purpose.test])?;
                held_out = left_out.clone();
                (&rest, &held_out)
            }
        };
        let mut parts = domains.hold_out(held_out, share, purpose.seed)?;
        let shape = domains.shape();
        let scaling = Scaling::of(&parts.training, shape);
        for part in [&mut parts.training, &mut parts.validation, &mut parts.test] {
            scaling.apply(&mut part.features, shape);
        }
        let config = training::config(comparison, &setting, &parts.counts, purpose.seed)?;
        let training = Training {
            comparison,
            config: &config,
            objective: &setting.objective,
            shape,
            parts: &parts,
            observe: &mut *self.observe,
        };
        let device = self.device.clone().autodiff();
        let classes = domains.classes().len();
        let model = comparison.model.init(shape, classes, &device)?;
        let model = match comparison.model.is_drawn() {
            true => he_normal(model, purpose.seed)?,
            false => model,
        };
        let (checks, diverged) = match &comparison.quantization {
            None => training.run(model)?,
            Some(bits) => {
                let examples = config.examples(&parts.training, shape)?;
                training.run(calibrated(model, bits, examples)?)?
            }
        };
        let run = DomainRun {
            purpose,
            learning_rate: setting.learning_rate,
            batch: setting.batch,
            options: setting.objective.options,
            checks,
            diverged,
        };
        self.store.push(run.clone())?;
        self.tell(DomainEvent::End(&run))?;
        Ok(run)
    }
}

/// What a choice has reached; none if the training on all training domains was not measured there.
fn reached(runs: &[DomainRun], chosen: Chosen) -> Option<Reached> {
    let run = runs.iter().find(|run| run.purpose.trial == chosen.trial)?;
    let check = run.checks.iter().find(|check| check.step == chosen.step)?;
    Some(Reached {
        seed: run.purpose.seed,
        chosen,
        learning_rate: run.learning_rate,
        batch: run.batch,
        options: run.options.clone(),
        accuracy: check.held_out,
    })
}

#[cfg(test)]
mod tests;
