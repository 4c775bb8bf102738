//! Training: one trainer for every task, the optimizers by name, and classifiers on real data sets.
//!
//! * [`task`]: the model to train and its data; your own task is a type with two methods;
//! * [`trainer`]: the loop around it; [`learner`]: the model in training, as a task sees it;
//! * [`transform`]: changes of gradients before a step; [`schedule`]: learning rates; [`ema`]: an
//!   average of the weights; [`order`]: the order of the examples;
//! * [`optimizer`]: the optimizers of `nabla-optim` and of Burn by name, and third-party optimizers;
//! * [`checkpoint`]: resuming bit for bit; [`history`]: the record of a training; [`error`]: its errors;
//! * [`gradient_source`]: where the gradients of a classifier come from: private, shared between workers;
//! * [`validation`]: examples by which the weights of an epoch are chosen; [`run_store`] and [`difference`]: what is
//!   kept of a comparison, and how another one is refused;
//! * [`classification`]: the task of a [`classifier`] of [`examples`]; [`augmentation`] of pictures;
//! * [`sliced_wasserstein`]: the distance between two sets of points;
//! * [`logistic_regression`], [`mlp`], [`cnn`], [`resnet`]: models; [`normalization`] in them; [`initialization`]:
//!   their initial weights.
//!
//! With the feature `data`, which is on by default:
//!
//! * `data_set`: examples from the formats of `nabla-data`;
//! * `experiment`: data, model and training in one serialisable `Experiment`, which can be run, and whose
//!   results can be written to a folder;
//! * `comparison`: several optimizers, with the same budget for the search of their learning rates.
//!
//! On the CPU (Burn's backend `flex`), the same training gives the same bits. Everything random
//! is drawn on the host from streams of one seed.

pub mod augmentation;
mod best_weights;
pub mod calibration;
pub mod checkpoint;
pub mod classification;
pub mod classifier;
pub mod cnn;
#[cfg(feature = "data")]
pub mod comparison;
#[cfg(feature = "data")]
pub mod data_set;
pub mod difference;
pub mod ema;
pub mod error;
pub mod examples;
#[cfg(feature = "data")]
pub mod experiment;
pub mod frechet;
pub mod gradient_source;
pub mod history;
pub mod initialization;
pub mod learner;
pub mod logistic_regression;
pub mod mlp;
pub mod model_config;
pub mod network_folder;
pub mod normalization;
pub mod optimizer;
pub mod order;
#[cfg(feature = "data")]
pub mod point_set;
pub mod precision_recall;
pub mod resnet;
pub mod run_store;
pub mod schedule;
pub mod sliced_wasserstein;
pub mod task;
pub mod trained_classifier;
pub mod trainer;
pub mod transform;
pub mod validation;

pub use augmentation::Augmentation;
pub use checkpoint::CheckpointError;
pub use classification::{Classification, TrainingConfig, evaluate};
pub use classifier::{Classifier, ModelError, Seen};
pub use cnn::{Cnn, CnnConfig};
#[cfg(feature = "data")]
pub use comparison::{
    Comparison, ComparisonError, ComparisonEvent, Contender, Phase, RunRecord, Spread, Standing,
};
#[cfg(feature = "data")]
pub use data_set::{DataConfig, DataError, DataSet, Standardization, TableReading};
pub use ema::{Ema, EmaConfig, EmaError, WarmUp};
pub use error::TrainingError;
pub use examples::{Examples, InputShape, Scaling};
#[cfg(feature = "data")]
pub use experiment::{Experiment, ExperimentError, Outcome};
pub use frechet::{Moments, MomentsError, frechet_distance};
pub use gradient_source::{GradientSource, GradientSources, OfBatches, Plan};
pub use history::{EpochRecord, History, StepRecord, Timing};
pub use initialization::he_normal;
pub use learner::Learner;
pub use logistic_regression::{LogisticRegression, LogisticRegressionConfig};
pub use mlp::{Mlp, MlpConfig};
pub use model_config::ModelConfig;
pub use network_folder::NetworkFolderError;
pub use normalization::Normalization;
pub use optimizer::{
    Method, OptimizerConfig, OptimizerError, OptimizerMethod, OtherOptimizer, ParameterGroup,
    Stepper,
};
pub use order::EpochOrder;
pub use precision_recall::{Manifold, PrecisionRecallError};
pub use resnet::{ResNet, ResNetConfig};
pub use schedule::{Decay, Schedule};
pub use task::Task;
pub use trained_classifier::{ClassifierConfig, TrainedClassifier, TrainedClassifierError};
pub use trainer::{Averaging, Observer, Progress, Trainer, TrainerConfig};
pub use transform::{ClipByNorm, ClipByValue, GradientTransform, Gradients};
pub use validation::{Keep, Measured, Validation};
