//! Training classifiers on real data sets, and comparing optimizers at it.
//!
//! * [`experiment`]: data, model and training in one serialisable [`Experiment`](experiment::Experiment),
//!   which runs and gives a history;
//! * [`comparison`]: several optimizers with learning rates searched by the same budget;
//! * [`training`]: the loop, for any model that is a [`Classifier`](classifier::Classifier);
//! * [`checkpoint`]: going on bit by bit; [`history`]: what happened;
//! * [`data_set`]: examples from the formats of `nabla-data`; [`augmentation`] of pictures;
//! * [`logistic_regression`], [`mlp`], [`cnn`], [`resnet`]: the models; [`initialization`]: their first
//!   weights;
//! * [`optimizer`]: the optimizers of `nabla-optim` and of Burn by name; [`schedule`]: learning rates.
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
