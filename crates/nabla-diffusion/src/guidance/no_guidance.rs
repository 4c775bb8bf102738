//! No guidance: the model's prediction, unchanged.

use burn::config::Config;

use super::{Answers, Guidance};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised};
use crate::sampler_error::OwnError;

/// The model's prediction under its first condition.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct NoGuidance {}

impl<const D: usize> Guidance<D> for NoGuidance {
    fn conditions(&mut self, _step: &Step<'_, D>) -> Vec<Condition> {
        vec![Condition::FIRST]
    }

    fn combine(
        &mut self,
        _step: &Step<'_, D>,
        answers: Answers<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let [output] = answers.outputs()?;
        Ok(answers.read(output)?)
    }
}
