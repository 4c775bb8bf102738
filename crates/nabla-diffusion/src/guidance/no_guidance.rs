//! No guidance: the model's prediction, unchanged.

use burn::config::Config;

use super::{Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised};
use crate::sampler_error::OwnError;

/// The model's prediction under its first condition.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct NoGuidance {}

impl<const D: usize> Guidance<D> for NoGuidance {
    fn guide(
        &mut self,
        _step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let [output] = model.ask([Condition::FIRST])?;
        Ok(model.read(output)?)
    }
}
