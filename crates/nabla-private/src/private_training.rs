//! The gradients of a private training: sampled, clipped, noisy and counted.
//!
//! ```text
//! for each step t:
//!   S   ← each of the N examples with probability q = batch/N          secret_noise
//!   sum ← Σ_{i∈S} clip(∇L_i, C)                                        clipping, in virtual batches
//!   v   ← what the release makes of it, with noise                     dp_sgd, dicesgd
//!   θ   ← step of any optimizer along v                                nabla_train
//! ```
//!
//! [`PrivacyConfig`] is a [`GradientSources`] for an `Experiment` of `nabla-train`: the noise for a
//! budget `(ε, δ)` follows from the number of steps by itself. What is guaranteed: whoever sees all weights of all steps
//! learns almost the same with and without any one training example. Not covered is what is computed from the examples
//! beside the weights: losses and accuracies of the training examples, and the checkpoint of an unfinished training,
//! which holds the key of the noise.
//!
//! A training that resumes from a checkpoint draws the same samples and the same noise again as it did after that
//! checkpoint, so that nothing is spent twice.

use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_base::registry::RegistryError;
use nabla_grad::flat::ParameterLayout;
use nabla_grad::per_example::Reduction;
use nabla_grad::training_mode::batch_norm_in_training;
use nabla_kernels::per_example::backward;
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::gradient_source::{
    Answers, GradientSource, GradientSources, Plan, TrainingExamples,
};
use nabla_train::learner::Learner;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::accountant::calibrate::{least, noise_multiplier};
use crate::accountant::{AccountError, Accountant, History, NOISE_MULTIPLIERS, accountants};
use crate::budget::{Budget, two_multipliers};
use crate::canaries::{Canaries, CanaryConfig};
use crate::clipping::{Clipping, ClippingError, check_noise};
use crate::dicesgd::{Accounting, DiceConfig, DiceSgd};
use crate::diff2::{Diff2Config, Diff2Gradients, Routine};
use crate::dp_sgd::DpSgd;
use crate::release::{Release, Sums};
use crate::secret_noise::{NoEntropy, NoiseKey};

mod spending;

pub use spending::PrivacyReport;
pub(crate) use spending::{Report, Spending};

/// The reason why a training is not private.
#[derive(Debug, thiserror::Error)]
pub enum PrivacyError {
    /// A value is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The account.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The accountant.
    #[error(transparent)]
    Accountant(#[from] RegistryError),
    /// The key of the noise.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// The gradients.
    #[error(transparent)]
    Clipping(#[from] ClippingError),
    /// The model normalises by the batch.
    #[error(
        "{layer} normalises by the batch, so that no example has a gradient of its own to clip: use group normalisation \
         (`--normalization group`, or `normalization = \"group\"` of the model in the experiment)"
    )]
    BatchNorm {
        /// The layer.
        layer: String,
    },
    /// Neither or both of budget and noise are given.
    #[error(
        "a private training needs either a budget ε (epsilon) or a noise multiplier, but {} given",
        if *both { "both are" } else { "none is" }
    )]
    Noise {
        /// Whether both are given.
        both: bool,
    },
    /// The features are scaled by the training examples.
    #[error(
        "the features are scaled by the mean and deviation of the training examples, on which every gradient would \
         depend: train privately with standardization = \"none\" and features in a range that you know"
    )]
    Scaled,
    /// Pictures are changed at random.
    #[error("private training knows no changes of pictures: leave out the augmentation")]
    Augmented,
    /// DIFF2 clips flat.
    #[error(
        "DIFF2 clips whole gradients and their differences: leave out the clipping, or choose flat"
    )]
    FlatOnly,
    /// DIFF2 takes all examples in every round.
    #[error(
        "DIFF2 takes the gradient of all examples in every round, so that the batch must be {examples} (an epoch is a \
         round then), but it is {batch}"
    )]
    WholeBatch {
        /// Training examples.
        examples: usize,
        /// The batch.
        batch: usize,
    },
    /// Several kinds of noise cannot follow from one number.
    #[error(
        "{method} divides the noise among several mechanisms: give a budget (epsilon), not a noise multiplier"
    )]
    NeedsBudget {
        /// The method.
        method: &'static str,
    },
    /// DIFF2 has no canaries.
    #[error("an audit by canaries knows dp-sgd and dice-sgd, but the method is diff2")]
    NoCanaries,
    /// The state in a checkpoint is damaged.
    #[error("the state of the private training cannot be read: {0}")]
    State(String),
}

impl From<PrivacyError> for TrainingError {
    fn from(error: PrivacyError) -> Self {
        match error {
            PrivacyError::Clipping(ClippingError::NotFinite) => Self::Failed(error.into()),
            _ => Self::task(error),
        }
    }
}

/// What is released of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PrivateMethod {
    /// `dp-sgd`: the noisy mean of clipped gradients. With braces, for a variant without them takes any field.
    DpSgd {},
    /// `dice-sgd`: the same, and what clipping took off is given back later.
    DiceSgd(DiceConfig),
    /// `diff2`: differences of whole gradients.
    Diff2(Diff2Config),
}

impl Default for PrivateMethod {
    fn default() -> Self {
        Self::DpSgd {}
    }
}

nabla_base::choices! {
    PrivateMethod: "private method" {
        "dp-sgd" => Self::DpSgd {}, "The noisy mean of clipped gradients";
        "dice-sgd" => Self::DiceSgd(DiceConfig::default()), "The same, and what clipping took off is given back later";
        "diff2" => Self::Diff2(Diff2Config::default()), "Differences of the gradients of all examples";
    }
}

/// How a training is private.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrivacyConfig {
    /// The budget `ε` of the whole training, from which the noise follows. Either this or the noise multiplier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// The noise multiplier `σ`, the noise in multiples of the clip. Either this or the budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_multiplier: Option<f64>,
    /// `δ`, the probability that the guarantee does not hold. Default: one in ten times the number of examples, rounded down to one digit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// The accountant whose word counts, one of [`accountants`]. Default `pld`.
    pub accountant: String,
    /// How gradients are clipped. Default flat, to 1.
    pub clipping: Clipping,
    /// What is released. Default DP-SGD.
    pub method: PrivateMethod,
    /// Examples that are computed at once: less memory, the same result. Default 128.
    pub virtual_batch: usize,
    /// A seed of the noise, for experiments that are to be repeated; whoever knows it can take the noise off. Default:
    /// a key from the operating system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_seed: Option<u64>,
}

impl Default for PrivacyConfig {
    fn default() -> Self {
        Self {
            epsilon: None,
            noise_multiplier: None,
            delta: None,
            accountant: "pld".to_owned(),
            clipping: Clipping::default(),
            method: PrivateMethod::default(),
            virtual_batch: 128,
            noise_seed: None,
        }
    }
}

impl PrivacyConfig {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value, or if neither or both of budget and noise are given.
    pub fn validate(&self) -> Result<(), PrivacyError> {
        self.clipping.validate()?;
        match (self.epsilon, self.noise_multiplier) {
            (Some(epsilon), None) => range::positive("epsilon", epsilon)?,
            (None, Some(noise)) => {
                range::within("noise multiplier", noise, NOISE_MULTIPLIERS)?;
                check_noise(noise, self.clipping.sensitivity())?;
            }
            (epsilon, _) => {
                return Err(PrivacyError::Noise {
                    both: epsilon.is_some(),
                });
            }
        }
        if let Some(delta) = self.delta {
            range::between("delta", delta, 0.0, 1.0)?;
        }
        match self.method {
            PrivateMethod::DpSgd {} => {}
            PrivateMethod::DiceSgd(dice) => dice.validate()?,
            PrivateMethod::Diff2(diff2) => diff2.validate()?,
        }
        self.accountant()?;
        range::at_least("virtual batch", self.virtual_batch, 1)?;
        Ok(())
    }

    /// The accountant whose word counts.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn accountant(&self) -> Result<Box<dyn Accountant>, RegistryError> {
        accountants().get(&self.accountant)
    }

    /// `δ`, for so many examples.
    pub fn delta(&self, examples: usize) -> f64 {
        self.delta.unwrap_or_else(|| {
            let share = 0.1 / examples.max(1) as f64;
            let digit = 10f64.powi(share.log10().floor() as i32);
            // One digit, rounded down.
            (share / digit).floor() * digit
        })
    }

    fn budget(&self, examples: usize) -> Option<Budget> {
        let delta = self.delta(examples);
        self.epsilon.map(|epsilon| Budget { epsilon, delta })
    }

    /// What is released of the steps of a training as planned, with the noise that its budget needs.
    ///
    /// # Errors
    /// If a value is out of range, or the budget cannot be kept by any noise.
    pub fn release(&self, plan: Plan) -> Result<Box<dyn Release>, PrivacyError> {
        self.validate()?;
        let (examples, batch) = (plan.examples, plan.batch);
        refuse_data_dependence(plan)?;
        range::within("batch of a private training", batch, 1..=examples)?;
        let sampling_rate = batch as f64 / examples as f64;
        let clip = self.clipping.sensitivity();
        let steps = plan.steps as u64;
        let accountant = self.accountant()?;
        let budget = self.budget(examples);
        let one = || -> Result<f64, PrivacyError> {
            Ok(match (budget, self.noise_multiplier) {
                (Some(Budget { epsilon, delta }), _) => {
                    let accountant = accountant.as_ref();
                    noise_multiplier(
                        accountant,
                        epsilon,
                        delta,
                        sampling_rate,
                        steps,
                        &History::new(),
                    )?
                }
                (None, noise) => noise.unwrap_or_default(),
            })
        };
        Ok(match self.method {
            PrivateMethod::DpSgd {} => Box::new(DpSgd {
                clip,
                noise_multiplier: one()?,
                sampling_rate,
                batch: batch as f64,
            }),
            PrivateMethod::DiceSgd(dice) => {
                let is_paper = dice.accounting == Accounting::Paper || dice.error_clip == 0.0;
                let multipliers = match budget {
                    _ if is_paper => [one()?, 0.0],
                    Some(budget) => {
                        let second = 2.0 * dice.error_clip * batch as f64;
                        let accountant = accountant.as_ref();
                        two_multipliers(accountant, budget, sampling_rate, steps, second)?
                    }
                    None => return Err(PrivacyError::NeedsBudget { method: "dice-sgd" }),
                };
                let batch = batch as f64;
                Box::new(DiceSgd::new(dice, clip, multipliers, sampling_rate, batch))
            }
            PrivateMethod::Diff2(_) => return Err(PrivacyError::NoCanaries),
        })
    }

    /// The noise multipliers of DIFF2.
    fn of_diff2(&self, diff2: Diff2Config, plan: Plan) -> Result<[f64; 3], PrivacyError> {
        self.validate()?;
        let Plan {
            examples, batch, ..
        } = plan;
        refuse_data_dependence(plan)?;
        if !matches!(self.clipping, Clipping::Flat { .. }) {
            return Err(PrivacyError::FlatOnly);
        }
        if batch != examples {
            return Err(PrivacyError::WholeBatch { examples, batch });
        }
        range::within(
            "number of clients of DIFF2",
            diff2.clients,
            1..=examples.max(1),
        )?;
        if let Routine::LocalSteps { batch, .. } = diff2.routine {
            let most = examples / diff2.clients;
            range::within("local batch of DIFF2", batch, 1..=most.max(1))?;
        }
        let budget = self.budget(examples);
        let budget = budget.ok_or(PrivacyError::NeedsBudget { method: "diff2" })?;
        let rounds = plan.steps as u64;
        let Budget { epsilon, delta } = budget;
        let scale = least(self.accountant()?.as_ref(), epsilon, delta, |scale| {
            let multipliers = diff2.multipliers(rounds, scale, examples);
            diff2.history(multipliers, rounds, examples)
        })?;
        Ok(diff2.multipliers(rounds, scale, examples))
    }
}

impl GradientSources for PrivacyConfig {
    fn source<M: Classifier + 'static>(
        &self,
        model: &M,
        plan: Plan,
    ) -> Result<Option<Box<dyn GradientSource<M>>>, TrainingError> {
        let PrivateMethod::Diff2(diff2) = self.method else {
            return Ok(Some(Box::new(self.gradients(model, plan)?)));
        };
        refuse_batch_norm(model)?;
        let multipliers = self.of_diff2(diff2, plan)?;
        let (config, key) = (self.clone(), self.key()?);
        let source = Diff2Gradients::new(diff2, config, plan, multipliers, key);
        Ok(Some(Box::new(source)))
    }
}

/// Refuses what would make the gradient of one example depend on the others.
fn refuse_data_dependence(plan: Plan) -> Result<(), PrivacyError> {
    match plan {
        Plan { scaled: true, .. } => Err(PrivacyError::Scaled),
        Plan {
            augmented: true, ..
        } => Err(PrivacyError::Augmented),
        _ => Ok(()),
    }
}

/// Refuses a model whose examples have no gradients of their own.
fn refuse_batch_norm<M: Classifier>(model: &M) -> Result<(), PrivacyError> {
    match batch_norm_in_training(model) {
        Some(layer) => Err(PrivacyError::BatchNorm {
            layer: layer.to_string(),
        }),
        None => Ok(()),
    }
}

/// A private training with canaries, which is audited.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditedTraining {
    /// How it is private.
    pub privacy: PrivacyConfig,
    /// The canaries.
    pub canaries: CanaryConfig,
    /// The confidence of the lower bound.
    pub confidence: f64,
}

impl AuditedTraining {
    /// Refuses values that are out of range, and methods without canaries.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), PrivacyError> {
        self.privacy.validate()?;
        if let PrivateMethod::Diff2(_) = self.privacy.method {
            return Err(PrivacyError::NoCanaries);
        }
        range::between("confidence", self.confidence, 0.0, 1.0)?;
        Ok(self.canaries.validate()?)
    }
}

impl GradientSources for AuditedTraining {
    fn source<M: Classifier + 'static>(
        &self,
        model: &M,
        plan: Plan,
    ) -> Result<Option<Box<dyn GradientSource<M>>>, TrainingError> {
        self.validate()?;
        let mut gradients = self.privacy.gradients(model, plan)?;
        let canaries = Canaries::new(self.canaries).map_err(PrivacyError::Range)?;
        gradients.canaries = Some((canaries, self.confidence));
        Ok(Some(Box::new(gradients)))
    }
}

impl PrivacyConfig {
    fn gradients<M: Classifier>(
        &self,
        model: &M,
        plan: Plan,
    ) -> Result<PrivateGradients, PrivacyError> {
        refuse_batch_norm(model)?;
        Ok(PrivateGradients {
            config: self.clone(),
            plan,
            release: self.counted(plan)?,
            key: self.key()?,
            spending: Spending::default(),
            canaries: None,
        })
    }

    /// The release, after an account of the planned steps: what cannot be counted is refused before anything is released.
    /// Noise that follows from a budget has been counted.
    fn counted(&self, plan: Plan) -> Result<Box<dyn Release>, PrivacyError> {
        let release = self.release(plan)?;
        if self.epsilon.is_none() {
            let history = release.history(plan.steps as u64)?;
            self.accountant()?
                .epsilon(&history, self.delta(plan.examples))?;
        }
        Ok(release)
    }

    fn key(&self) -> Result<NoiseKey, PrivacyError> {
        Ok(match self.noise_seed {
            Some(seed) => NoiseKey::from_seed(seed),
            None => NoiseKey::from_system()?,
        })
    }
}

/// The gradients of a private training; see the [module documentation](self).
struct PrivateGradients {
    config: PrivacyConfig,
    plan: Plan,
    release: Box<dyn Release>,
    key: NoiseKey,
    spending: Spending,
    /// With the confidence of their audit.
    canaries: Option<(Canaries, f64)>,
}

/// The state in a checkpoint.
#[derive(Serialize, Deserialize)]
struct State {
    key: Option<NoiseKey>,
    spending: Spending,
    memory: Vec<f64>,
}

/// Adds gradients to sums, in the order of `layout`.
fn add(
    sums: &mut [f64],
    layout: &ParameterLayout,
    gradients: &GradientsParams,
) -> Result<(), TrainingError> {
    let vector = layout.flatten_gradients_or_zeros(gradients)?;
    let values = vector.into_data();
    sums.iter_mut()
        .zip(values.iter::<f64>())
        .for_each(|(sum, value)| *sum += value);
    Ok(())
}

impl<M: Classifier> GradientSource<M> for PrivateGradients {
    fn name(&self) -> &str {
        self.release.name()
    }

    fn gradient(
        &mut self,
        examples: &mut TrainingExamples<'_>,
        learner: &mut Learner<M>,
    ) -> Result<Answers, TrainingError> {
        let failed = |error| TrainingError::from(PrivacyError::Clipping(error));
        let step = self.spending.steps;
        let rate = self.plan.batch as f64 / self.plan.examples as f64;
        let sample = self.key.poisson_sample(step, examples.len(), rate);
        let layout = ParameterLayout::trainable(learner.model())?;
        let zeros = vec![0.0; layout.total_length()];
        let mut sums = Sums {
            raw: match self.release.needs_raw() {
                true => zeros.clone(),
                false => Vec::new(),
            },
            clipped: zeros,
        };
        let mut answers = Answers::default();
        let mut total = 0.0;
        let mut clipped = 0;
        for part in sample.chunks(self.config.virtual_batch) {
            let batch = examples.chosen(part, learner.step(), learner.device());
            let (loss, right) = examples.mean_loss(learner.model(), batch);
            answers.right += right;
            answers.examples += part.len();
            let mean: f64 = loss.clone().without_autodiff().into_scalar();
            total += mean * part.len() as f64;
            let gradients = backward(loss, part.len(), Reduction::Mean)
                .map_err(|error| failed(error.into()))?;
            let sum = self
                .config
                .clipping
                .sum(&gradients, learner.model())
                .map_err(failed)?;
            clipped += sum.clipped as u64;
            add(&mut sums.clipped, &layout, &sum.gradients)?;
            if self.release.needs_raw() {
                let all = vec![1.0; part.len()];
                let raw = gradients.weighted(learner.model(), &all);
                let raw = raw.map_err(|error| failed(error.into()))?;
                add(&mut sums.raw, &layout, &raw)?;
            }
        }
        if let Some((canaries, _)) = &mut self.canaries {
            let layers = layout.entries().len();
            canaries.join(&mut sums, self.config.clipping, layers, rate);
        }
        let own = self
            .canaries
            .as_ref()
            .map_or(0, |(canaries, _)| canaries.count());
        let noise = self.key.normal(step, layout.total_length() + own);
        let mut released = self.release.release(sums, noise);
        let watched = released.split_off(layout.total_length());
        if let Some((canaries, _)) = &mut self.canaries {
            let shift = canaries.shift(self.config.clipping, layout.entries().len());
            let shift = shift / self.plan.batch as f64;
            let deviation = self.release.deviation_of_step();
            canaries.watch(
                &watched,
                deviation.map(|deviation| [rate, shift, deviation]),
            );
        }
        let released = TensorData::new(released, [layout.total_length()]);
        let released = Tensor::<1>::from_data(released, layout.device());
        // A sample can be empty: there is noise alone then, and no loss.
        let loss = (answers.examples > 0).then(|| (total / answers.examples as f64) as f32);
        learner.contribute(layout.to_gradients(released)?, loss)?;
        self.spending.add(clipped, answers.examples as u64);
        Ok(answers)
    }

    /// The configuration with the noise that follows from the budget.
    fn settings(&self) -> Value {
        json!({
            "privacy": self.config,
            "history": self.release.history(1).ok(),
        })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        let key = self.spending.key(&self.key, self.plan);
        let state = State {
            // What is never released isn't kept either when nothing is to be repeated.
            memory: match &key {
                Some(_) => self.release.state(),
                None => Vec::new(),
            },
            key,
            spending: self.spending,
        };
        serde_json::to_vec(&state).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        if self.canaries.is_some() {
            // What the canaries have seen is not in the checkpoint.
            return Err(PrivacyError::State("an audit cannot be resumed".into()).into());
        }
        let state: State = serde_json::from_slice(state)
            .map_err(|error| PrivacyError::State(error.to_string()))?;
        if let Some(key) = state.key {
            self.key = key;
        }
        self.spending = state.spending;
        self.release.restore(state.memory);
        Ok(())
    }

    fn report(&self) -> Result<Value, TrainingError> {
        let history = self.release.history(self.spending.steps);
        let history = history.map_err(PrivacyError::Range)?;
        let delta = self.config.delta(self.plan.examples);
        let audit = self.canaries.as_ref().map(|(canaries, confidence)| {
            let audit = canaries.audit(delta, *confidence);
            audit.map_err(PrivacyError::Range)
        });
        let caveat = self.release.caveat();
        let report = Report {
            history,
            caveat,
            audit: audit.transpose()?,
        };
        self.spending
            .told(&self.config, self.plan, &self.key, report)
    }
}
