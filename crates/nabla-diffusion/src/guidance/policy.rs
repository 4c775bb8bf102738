//! Guidance by a policy: for each step of a run, whether and how strongly it is guided.
//!
//! Source: Castillo et al., *Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models*,
//! 2023, arXiv 2312.12487, section 3; a policy is found by [`PolicySearch`](super::PolicySearch).

use burn::tensor::Tensor;
use nabla_base::range;
use serde::{Deserialize, Serialize};

use super::{ClassifierFree, Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised};
use crate::sampler_error::OwnError;

/// What happens in a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum PolicyStep {
    /// The prediction without the condition: one evaluation.
    Unconditional,
    /// The prediction under the condition: one evaluation.
    Conditional,
    /// Classifier-free guidance of this scale: two evaluations.
    ClassifierFree(f64),
}

impl PolicyStep {
    /// The number of evaluations.
    pub fn evaluations(self) -> usize {
        match self {
            Self::Unconditional | Self::Conditional => 1,
            Self::ClassifierFree(_) => 2,
        }
    }

    /// The combined prediction.
    pub(super) fn combined<const D: usize>(
        self,
        without: &Tensor<D>,
        with: &Tensor<D>,
    ) -> Tensor<D> {
        match self {
            Self::Unconditional => without.clone(),
            Self::Conditional => with.clone(),
            Self::ClassifierFree(scale) => {
                let usual = ClassifierFree::new().with_scale(scale);
                usual.guided(without.clone(), with.clone())
            }
        }
    }
}

/// A guidance that follows a policy; a file with it is what serde writes.
///
/// ```
/// use nabla_diffusion::guidance::{GuidancePolicy, PolicyStep};
///
/// // Guidance early, none late.
/// let policy = GuidancePolicy::early(20, 10, 7.5);
/// assert_eq!(policy.evaluations(), 30);
/// assert_eq!(policy.steps[10], PolicyStep::Conditional);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuidancePolicy {
    /// What happens in each step, the noisiest first.
    pub steps: Vec<PolicyStep>,
}

impl GuidancePolicy {
    /// Classifier-free guidance of this scale in the first `guided` steps, and none in the others.
    pub fn early(steps: usize, guided: usize, scale: f64) -> Self {
        let of_step = |step: usize| match step < guided {
            true => PolicyStep::ClassifierFree(scale),
            false => PolicyStep::Conditional,
        };
        Self {
            steps: (0..steps).map(of_step).collect(),
        }
    }

    /// The evaluations of a run, for each row, with a sampler that calls the model once in each step.
    pub fn evaluations(&self) -> usize {
        self.steps.iter().map(|step| step.evaluations()).sum()
    }
}

impl<const D: usize> Guidance<D> for GuidancePolicy {
    fn begin(&mut self, steps: usize) -> Result<(), OwnError> {
        let expected = self.steps.len();
        let told = format!("{expected}, as the policy has");
        range::check(steps == expected, "number of steps", steps, told)?;
        for step in &self.steps {
            if let PolicyStep::ClassifierFree(scale) = step {
                range::finite("guidance scale of the policy", *scale)?;
            }
        }
        Ok(())
    }

    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let choice = self.steps[step.done()];
        let output = match choice {
            PolicyStep::Unconditional | PolicyStep::Conditional => {
                let [output] = model.ask([match choice {
                    PolicyStep::Unconditional => Condition::Without,
                    _ => Condition::FIRST,
                }])?;
                output
            }
            PolicyStep::ClassifierFree(_) => {
                let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
                choice.combined(&without, &with)
            }
        };
        Ok(model.read(output)?)
    }
}
