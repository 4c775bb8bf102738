//! Training classifiers on real data sets, and comparing optimizers at it.
//!
//! * [`experiment`]: data, model and training in one serialisable [`Experiment`],
//!   which runs and gives a history;
//! * [`comparison`]: several optimizers with learning rates searched by the same budget;
//! * [`training`]: the loop, for any model that is a [`Classifier`];
//! * [`checkpoint`]: going on bit by bit; [`history`]: what happened;
//! * [`data_set`]: examples from the formats of `nabla-data`; [`augmentation`] of pictures;
//! * [`logistic_regression`], [`mlp`], [`cnn`], [`resnet`]: the models; [`initialization`]: their first
//!   weights;
//! * [`optimizer`]: the optimizers of `nabla-optim` and of Burn by name, and anybody's by
//!   [`OtherOptimizer`]; [`schedule`]: learning rates.
//!
//! On the processor (Burn's backend `flex`) the same experiment gives the same bits. Everything random
//! is drawn on the host from streams of one seed.

pub mod augmentation;
pub mod checkpoint;
pub mod classifier;
pub mod cnn;
pub mod comparison;
pub mod data_set;
pub mod experiment;
pub mod history;
pub mod initialization;
pub mod logistic_regression;
pub mod mlp;
pub mod optimizer;
pub mod resnet;
pub mod schedule;
pub mod training;

pub use augmentation::Augmentation;
pub use checkpoint::CheckpointError;
pub use classifier::{Classifier, ModelError};
pub use cnn::{Cnn, CnnConfig};
pub use comparison::{
    Comparison, ComparisonError, ComparisonEvent, Contender, Phase, RunRecord, Spread, Standing,
};
pub use data_set::{
    DataConfig, DataError, DataSet, Examples, InputShape, Standardization, TableReading,
};
pub use experiment::{Experiment, ModelConfig, Observer, Outcome};
pub use history::{EpochRecord, History, StepRecord, Timing};
pub use initialization::he_normal;
pub use logistic_regression::{LogisticRegression, LogisticRegressionConfig};
pub use mlp::{Mlp, MlpConfig};
pub use optimizer::{
    Method, OptimizerConfig, OptimizerError, OtherOptimizer, ParameterGroup, Stepper,
};
pub use resnet::{ResNet, ResNetConfig};
pub use schedule::{Decay, Schedule, ScheduleError};
pub use training::{Progress, Trainer, TrainingConfig, TrainingError, evaluate};
