//! The training of a sparse autoencoder: a [`Task`] of the trainer, so that schedules, checkpoints and resuming are those of
//! every training.
//!
//! After each step the rows of the dictionary are brought back to the length 1, and what would only lengthen them is taken off
//! their gradient before. A latent that has not been active for long counts as dead, which an encoder may revive.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_kernels::selected_rows::{row_products, weighted_rows};
use nabla_train::error::TrainingError;
use nabla_train::learner::Learner;
use nabla_train::optimizer::{OptimizerConfig, ParameterGroup};
use nabla_train::order::EpochOrder;
use nabla_train::schedule::{Decay, Schedule};
use nabla_train::task::Task;
use nabla_train::trainer::{Trainer, TrainerConfig};
use nabla_train::transform::{GradientTransform, Gradients};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::activation_set::ActivationSet;
use crate::sparse_autoencoder::{Objective, SaeBatch, SaeError, SparseAutoencoder, every_row};

/// How an autoencoder is trained.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
///
/// use burn::tensor::Device;
/// use nabla_probe::activation_set::{ActivationSet, Storage};
/// use nabla_probe::gradient_sae::GradientSaeConfig;
/// use nabla_probe::sae_training::SaeTraining;
/// use nabla_probe::sparse_autoencoder::{DictionaryConfig, SparseAutoencoder};
///
/// let mut data = ActivationSet::new(4, Storage::default())?;
/// let values: Vec<f32> = (0..400).map(|i| (i as f32 * 0.7).sin()).collect();
/// data.push(&values, None)?;
/// let device = Device::flex().autodiff();
/// let sae = GradientSaeConfig::top_k(2).init(&DictionaryConfig::new(16), &data, &device)?;
/// let training = SaeTraining { steps: 20, batch: 10, ..SaeTraining::default() };
/// let mut trainer = training.trainer(sae, Arc::new(data))?;
/// trainer.run(None, &mut |_| ControlFlow::Continue(()))?;
/// assert_eq!(trainer.model().dictionary().latents(), 16);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SaeTraining {
    /// Steps; 2000 by default.
    pub steps: usize,
    /// Activations of a step; 512 by default.
    pub batch: usize,
    /// Adam's; 0.001 by default.
    pub learning_rate: f64,
    /// The first steps, in which the learning rate rises; 50 by default.
    pub warm_up: usize,
    /// After so many activations without it, a latent counts as dead; by default 10 million, or a tenth of the training
    /// if that is less.
    pub dead_after: Option<u64>,
    /// Of the order of the activations; 0 by default.
    pub seed: u64,
}

impl Default for SaeTraining {
    fn default() -> Self {
        Self {
            steps: 2000,
            batch: 512,
            learning_rate: 1e-3,
            warm_up: 50,
            dead_after: None,
            seed: 0,
        }
    }
}

impl SaeTraining {
    /// Activations after which a latent counts as dead.
    pub fn dead_after(&self) -> u64 {
        const TEN_MILLIONS: u64 = 10_000_000;
        let tenth = (self.steps * self.batch / 10) as u64;
        self.dead_after.unwrap_or(TEN_MILLIONS.min(tenth))
    }

    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::at_least("number of steps", self.steps, 1)?;
        range::at_least("batch of activations", self.batch, 1)?;
        range::positive("learning rate", self.learning_rate)
    }

    /// A training of `sae`, whose device must compute gradients.
    ///
    /// # Errors
    /// If a number is out of range, the activations don't fit, or the device computes no gradients.
    pub fn trainer<S: SparseAutoencoder>(
        &self,
        sae: S,
        data: Arc<ActivationSet>,
    ) -> Result<Trainer<SaeTask<S>>, SaeError> {
        self.validate()?;
        range::at_least("number of activations", data.rows(), 1)?;
        let dictionary = sae.dictionary();
        if dictionary.width() != data.width() {
            return Err(SaeError::Width {
                dictionary: dictionary.width(),
                found: data.width(),
            });
        }
        let latents = dictionary.latents();
        let mut optimizer = OptimizerConfig::named("adamw")?;
        optimizer.method = optimizer.method.with("epsilon", 6.25e-10)?;
        optimizer.learning_rate = Some(self.learning_rate);
        if let Some((parameters, far)) = sae.far_moving() {
            let moved = self.steps as f64 * self.learning_rate;
            optimizer.groups.push(ParameterGroup {
                parameters: parameters.to_owned(),
                weight_decay: None,
                learning_rate_factor: (far / moved).max(1.0),
            });
        }
        let config = TrainerConfig {
            steps: self.steps,
            schedule: Schedule {
                decay: Decay::Constant,
                warmup_steps: Some(self.warm_up),
                ..Schedule::default()
            },
            optimizer,
            ..TrainerConfig::default()
        };
        let task = SaeTask {
            order: EpochOrder::new(data.rows(), self.batch, self.seed),
            data,
            training: self.clone(),
            quiet: vec![0; latents],
            last: None,
            kind: std::marker::PhantomData,
        };
        Ok(Trainer::new(config, task, sae)?.with_transform(AlongTheSphere))
    }
}

/// The training of an autoencoder as a [`Task`].
pub struct SaeTask<S> {
    data: Arc<ActivationSet>,
    order: EpochOrder,
    training: SaeTraining,
    /// The activations since each latent was active.
    quiet: Vec<u64>,
    last: Option<SaeStep>,
    kind: std::marker::PhantomData<fn() -> S>,
}

/// What was seen in a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SaeStep {
    /// Of the variance.
    pub unexplained: f64,
    /// The mean number of active latents.
    pub active: f64,
    /// The share of latents that were dead before it.
    pub dead: f64,
}

impl<S> SaeTask<S> {
    /// What was seen in the last step.
    pub fn last(&self) -> Option<SaeStep> {
        self.last
    }

    fn dead(&self) -> Vec<usize> {
        let after = self.training.dead_after();
        let latents = self.quiet.iter().enumerate();
        let dead = latents.filter(|&(_, &quiet)| quiet >= after);
        dead.map(|(latent, _)| latent).collect()
    }
}

impl<S: SparseAutoencoder> Task for SaeTask<S> {
    type Model = S;
    type Batch = SaeBatch;
    type Report = ();

    fn batch(&mut self, learner: &Learner<S>) -> Result<SaeBatch, TrainingError> {
        let rows = self.order.batch(learner.step());
        let count = rows.len();
        let read = self.data.read(rows).map_err(TrainingError::task)?;
        let decoder = learner.model().dictionary().decoder.val();
        let options = (learner.device(), decoder.dtype());
        let tensor = |values: Vec<f32>| {
            Tensor::from_data(TensorData::new(values, [count, self.data.width()]), options)
        };
        Ok(SaeBatch {
            x: tensor(read.activations),
            gradient: tensor(read.gradients),
            dead: self.dead(),
            progress: learner.step() as f64 / learner.steps() as f64,
        })
    }

    fn step(&mut self, learner: &mut Learner<S>) -> Result<(), TrainingError> {
        let batch = self.batch(learner)?;
        let dead = batch.dead.len() as f64 / self.quiet.len() as f64;
        let Objective { loss, seen } = learner.model().objective(batch)?;
        learner.update(loss)?;
        learner.replaced(|model| model.stepped(&seen))?;
        let examples = seen.codes.examples() as u64;
        for (quiet, count) in self.quiet.iter_mut().zip(seen.codes.counts()) {
            *quiet = if count > 0 { 0 } else { *quiet + examples };
        }
        self.last = Some(SaeStep {
            unexplained: seen.unexplained,
            active: seen.codes.mean_active(),
            dead,
        });
        Ok(())
    }

    fn settings(&self) -> Value {
        let mut training = self.training.clone();
        // With a constant rate, more steps are the same training.
        training.steps = 0;
        json!({
            "training": training,
            "dead_after": self.training.dead_after(),
            "activations": [self.data.rows(), self.data.width()],
        })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        serde_json::to_vec(&self.quiet).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let quiet: Vec<u64> = serde_json::from_slice(state).map_err(TrainingError::task)?;
        if quiet.len() != self.quiet.len() {
            let (found, wanted) = (quiet.len(), self.quiet.len());
            return Err(TrainingError::task(format!(
                "the checkpoint is of {found} latents, but the dictionary has {wanted}"
            )));
        }
        self.quiet = quiet;
        Ok(())
    }
}

/// Takes what would only lengthen the decoder's rows off their gradient.
struct AlongTheSphere;

impl<S: SparseAutoencoder> GradientTransform<S> for AlongTheSphere {
    fn name(&self) -> &str {
        "along the sphere"
    }

    fn apply(&mut self, gradients: &mut Gradients<'_, S>) -> Result<(), TrainingError> {
        let decoder = &gradients.model().dictionary().decoder;
        let (id, rows) = (decoder.id, decoder.val().without_autodiff());
        if let Some(gradient) = gradients.params_mut().remove::<2>(id) {
            // The rows have the length 1.
            let ids = every_row(&rows);
            let along = row_products(rows.clone(), ids.clone(), gradient.clone()); // [latents, 1]
            let along = weighted_rows(rows, ids, along);
            gradients.params_mut().register::<2>(id, gradient - along);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
