//! Where the gradient of a classifier's step comes from.
//!
//! By default it is that of the mean loss of a batch. A [`GradientSource`] computes it in another way: private training
//! clips the gradients of the examples and adds noise, workers compute a part each and share it. Everything else stays
//! with the [trainer](crate::trainer): the transforms, the optimizer, the learning rates, the measurements, the
//! checkpoints, in which the source has its state.
//!
//! [`GradientSources`] makes the source of an [`Experiment`](crate::experiment::Experiment), where the type of the model
//! follows from a name.

use std::path::Path;

use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::cross_entropy::cross_entropy;
use serde_json::Value;

use crate::augmentation::Augmentation;
use crate::checkpoint;
use crate::classification::{LabelledBatch, rightly};
use crate::classifier::Classifier;
use crate::error::TrainingError;
use crate::examples::{Examples, InputShape};
use crate::learner::Learner;
use crate::order::EpochOrder;
use crate::validation::Validation;

/// The changes of the pictures in step `t` are drawn from stream `CHANGES + t` of the seed. Stream 0 is for
/// the initial weights.
const CHANGES: u64 = 1 << 48;

/// The examples of a training, and what becomes of them in a step.
#[derive(Clone, Debug)]
pub struct TrainingExamples<'a> {
    pub(crate) examples: &'a Examples,
    pub(crate) shape: InputShape,
    pub(crate) seed: u64,
    pub(crate) batch: usize,
    pub(crate) label_smoothing: f64,
    pub(crate) augmentation: Augmentation,
    pub(crate) order: EpochOrder,
}

impl TrainingExamples<'_> {
    /// The same examples in the order, and with the changes, of a training with another seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self.order = EpochOrder::new(self.examples.len(), self.batch, seed);
        self
    }

    /// The same examples without changes of the pictures, for measurements.
    #[must_use]
    pub fn without_changes(mut self) -> Self {
        self.augmentation = Augmentation::default();
        self
    }

    /// The seed of the training.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The shape of an example.
    pub fn shape(&self) -> InputShape {
        self.shape
    }

    /// The share of a target that is spread over all classes.
    pub fn label_smoothing(&self) -> f64 {
        self.label_smoothing
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The examples of step `step`, from 0, in the order of its epoch.
    pub fn of_step(&mut self, step: usize) -> Vec<usize> {
        self.order.batch(step).to_vec()
    }

    /// The examples at `indices` as step `step` sees them. The changes of pictures are drawn one example after another.
    pub fn chosen(&self, indices: &[usize], step: usize, device: &Device) -> LabelledBatch {
        let width = self.shape.features();
        let Examples {
            mut features,
            labels,
        } = self.examples.chosen(indices, width);
        if let InputShape::Picture(shape) = self.shape
            && !self.augmentation.is_none()
        {
            let mut draw = SeededNoise::new(self.seed, CHANGES + step as u64);
            for picture in features.chunks_exact_mut(width) {
                self.augmentation.apply(picture, shape, &mut draw);
            }
        }
        let data = TensorData::new(features, [labels.len(), width]);
        LabelledBatch {
            input: Tensor::from_data(data, device),
            labels,
        }
    }

    /// The mean loss of a batch, `[1]`, and the number of right answers.
    pub fn mean_loss<M: Classifier>(&self, model: &M, batch: LabelledBatch) -> (Tensor<1>, usize) {
        let LabelledBatch { input, labels } = batch;
        let device = input.device();
        let target: Vec<i32> = labels.iter().map(|&l| l as i32).collect();
        let target = TensorData::new(target, [labels.len()]);
        let target = Tensor::<1, Int>::from_data(target, &device);
        let logits = model.logits(input);
        let smoothing = (self.label_smoothing > 0.0).then_some(self.label_smoothing as f32);
        let config = CrossEntropyLossConfig::new().with_smoothing(smoothing);
        let loss = cross_entropy(&config.init(&device), logits.clone(), target);
        let right = rightly(logits.without_autodiff(), &labels);
        (loss, right)
    }
}

/// What a training has planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Training examples.
    pub examples: usize,
    /// Examples of a step.
    pub batch: usize,
    /// All steps.
    pub steps: usize,
    /// The seed of the training.
    pub seed: u64,
    /// Whether features are scaled by the mean and deviation of the training examples.
    pub scaled: bool,
    /// Whether pictures are changed at random.
    pub augmented: bool,
}

/// The answers to the examples of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Right ones.
    pub right: usize,
    /// Examples.
    pub examples: usize,
}

/// Where the gradient of a step comes from; see the [module documentation](self).
pub trait GradientSource<M: Classifier> {
    /// Its name in checkpoints.
    fn name(&self) -> &str;

    /// Computes the gradient of the current step and leaves it with `learner`, by
    /// [`backward`](Learner::backward) or [`contribute`](Learner::contribute). A source that makes several updates in a
    /// step calls [`apply`](Learner::apply) itself; gradients that are left afterwards make one more.
    ///
    /// # Errors
    /// Any error that prevents this; the step is then not taken.
    fn gradient(
        &mut self,
        examples: &mut TrainingExamples<'_>,
        learner: &mut Learner<M>,
    ) -> Result<Answers, TrainingError>;

    /// Everything that affects the result, apart from the state; a training with other settings cannot resume from a
    /// checkpoint. Default: nothing.
    fn settings(&self) -> Value {
        Value::Null
    }

    /// Its state. Default: none.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        Ok(Vec::new())
    }

    /// Restores a state.
    ///
    /// # Errors
    /// If it belongs to another source.
    fn restore(&mut self, _state: &[u8]) -> Result<(), TrainingError> {
        Ok(())
    }

    /// What is to be told about the steps so far. Default: nothing.
    ///
    /// # Errors
    /// If it cannot be computed.
    fn report(&self) -> Result<Value, TrainingError> {
        Ok(Value::Null)
    }
}

/// Makes the source of a training once the type of its model is known.
pub trait GradientSources {
    /// The source; none for the gradient of the mean loss of a batch.
    ///
    /// # Errors
    /// If it does not fit the model or the plan.
    fn source<M: Classifier + 'static>(
        &self,
        model: &M,
        plan: Plan,
    ) -> Result<Option<Box<dyn GradientSource<M>>>, TrainingError>;

    /// How the training is measured, if the test examples of its data set are for validation. Default: they are for the
    /// test.
    fn validation(&self) -> Option<Validation> {
        None
    }

    /// Whether the model is measured on the test examples and the training saved: of several workers, one is enough.
    /// Default yes.
    fn measures(&self) -> bool {
        true
    }

    /// The bytes of the checkpoint to resume from, if there is one. Default: those of the file. Of several workers, one
    /// may have it and hand it to the others.
    ///
    /// # Errors
    /// If the file exists but cannot be read.
    fn checkpoint(&self, path: &Path) -> Result<Option<Vec<u8>>, TrainingError> {
        match path.exists() {
            true => Ok(Some(checkpoint::read(path)?)),
            false => Ok(None),
        }
    }
}

/// The gradient of the mean loss of a batch.
#[derive(Clone, Copy, Debug)]
pub struct OfBatches;

impl GradientSources for OfBatches {
    fn source<M: Classifier + 'static>(
        &self,
        _model: &M,
        _plan: Plan,
    ) -> Result<Option<Box<dyn GradientSource<M>>>, TrainingError> {
        Ok(None)
    }
}
