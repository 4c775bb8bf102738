//! The best weights of a training so far, by a measurement.

use burn::module::Module;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckpointError, record};

/// Which measurement was the best.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BestMeasurement {
    /// Its number, from 0.
    pub(crate) number: usize,
    pub(crate) score: f64,
}

/// Keeps the weights with the highest score; see [`Trainer::keeping_best`](crate::trainer::Trainer::keeping_best).
pub(crate) struct BestWeights<R> {
    score: fn(&R) -> f64,
    /// With Burn's record of the weights.
    pub(crate) best: Option<(BestMeasurement, Vec<u8>)>,
}

impl<R> BestWeights<R> {
    pub(crate) fn new(score: fn(&R) -> f64) -> Self {
        Self { score, best: None }
    }

    /// Looks at a measurement; of equal scores the first is kept, and what is no number never.
    pub(crate) fn see<M: Module>(
        &mut self,
        model: &M,
        number: usize,
        report: &R,
    ) -> Result<(), CheckpointError> {
        let score = (self.score)(report);
        let better = match &self.best {
            Some((best, _)) => score > best.score,
            None => !score.is_nan(),
        };
        if better {
            let weights = record(model.valid())?;
            self.best = Some((BestMeasurement { number, score }, weights));
        }
        Ok(())
    }
}
