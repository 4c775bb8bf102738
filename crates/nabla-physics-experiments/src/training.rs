//! The loop of a training, which counts and times.

use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Tensor, TensorData};
use nabla_claims::{ClaimError, Metric, Table, TableError, Task, Variant, median};
use nabla_physics::Solver;
use nabla_physics::field::Field;
use serde::{Deserialize, Serialize};

use crate::regularisation::Clock;

pub(crate) const EVALUATIONS: Metric = Metric::lower("evaluations of a prediction", "");
pub(crate) const PREDICTION: Metric = Metric::lower("prediction", "ms");
pub(crate) const TRAINING: Metric = Metric::lower("training", "s");
pub(crate) const TRAINING_EVALUATIONS: Metric =
    Metric::lower("evaluations of the last epoch's updates", "");
pub(crate) const ACCURACY: Metric = Metric::higher("test accuracy", "%");
pub(crate) const SQUARED_ERROR: Metric = Metric::lower("test error", "");

/// What a training and its model cost, and how good the model is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Of a prediction for a fixed batch.
    pub(crate) evaluations: f64,
    /// The shortest of several predictions.
    pub(crate) prediction_ms: f64,
    /// By the median of each epoch's updates.
    pub(crate) training_s: f64,
    /// Mean of the last epoch's updates.
    pub(crate) training_evaluations: f64,
    /// [`ACCURACY`] or [`SQUARED_ERROR`].
    pub(crate) quality: f64,
}

impl Outcome {
    pub(crate) fn record(
        &self,
        table: &mut Table,
        task: &Task,
        variant: &Variant,
        quality: &Metric,
        seed: u64,
    ) -> Result<(), TableError> {
        for (metric, value) in [
            (&EVALUATIONS, self.evaluations),
            (&PREDICTION, self.prediction_ms),
            (&TRAINING, self.training_s),
            (&TRAINING_EVALUATIONS, self.training_evaluations),
            (quality, self.quality),
        ] {
            table.record(task, variant, metric, seed, value)?;
        }
        Ok(())
    }
}

/// What the updates cost.
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) last_evaluations: f64,
}

/// Trains a model.
///
/// - `[epochs, batches]`: batches of an epoch
/// - `rate`: of an update, from 0
/// - `loss`: of a model at a time, with the evaluations that it took
pub(crate) fn trained<M: Module>(
    mut model: M,
    mut optimizer: ModuleOptimizer,
    [epochs, batches]: [usize; 2],
    rate: impl Fn(usize) -> f64,
    mut loss: impl FnMut(&M, Clock, usize) -> Result<(Tensor<1>, usize), ClaimError>,
) -> Result<(M, Spent), ClaimError> {
    let mut spent = Spent {
        seconds: 0.0,
        last_evaluations: 0.0,
    };
    for epoch in 0..epochs {
        let mut seconds = Vec::with_capacity(batches);
        let mut evaluations = 0;
        for batch in 0..batches {
            let begun = Instant::now();
            let update = epoch * batches + batch;
            let clock = Clock {
                epoch,
                epochs,
                update,
                updates: epochs * batches,
            };
            let (loss, counted) = loss(&model, clock, batch)?;
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(rate(update), model, gradients);
            seconds.push(begun.elapsed().as_secs_f64());
            evaluations += counted;
        }
        spent.seconds += median(&seconds) * batches as f64;
        spent.last_evaluations = evaluations as f64 / batches as f64;
    }
    Ok((model, spent))
}

/// How often a prediction is timed.
const TIMED: usize = 9;

/// The shortest time of something, in milliseconds, and what it returns.
pub(crate) fn shortest<T>(
    mut predict: impl FnMut() -> Result<T, ClaimError>,
) -> Result<(f64, T), ClaimError> {
    let mut found = predict()?;
    let mut least = f64::INFINITY;
    for _ in 0..TIMED {
        let begun = Instant::now();
        found = predict()?;
        least = least.min(1e3 * begun.elapsed().as_secs_f64());
    }
    Ok((least, found))
}

/// A solve of a prediction: the states and the evaluations.
pub(crate) fn predicted<F: Field>(
    solver: &Solver,
    field: &F,
    start: Tensor<2>,
    times: &[f64],
) -> Result<(Tensor<3>, usize), ClaimError> {
    let solution = solver.solve(field, start, times);
    let solution = solution.map_err(ClaimError::experiment)?;
    Ok((solution.values(), solution.statistics().evaluations()))
}

/// A single number of a graph.
pub(crate) fn number<const D: usize>(x: Tensor<D>) -> f64 {
    let data: TensorData = x.into_data();
    data.iter::<f64>().next().unwrap_or(f64::NAN)
}
