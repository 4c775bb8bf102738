//! Inverting Gradients: pixels by the cosine of the gradients, with little variation.
//!
//! ```text
//! x ~ N(½, ¼²)
//! repeat:  x ← clamp(Adam(x, sign ∇_x [1 − ⟨g(x), g*⟩/(‖g(x)‖‖g*‖) + λ TV(x)]), 0, 1)
//! ```
//!
//! with the labels known or [inferred](super::labels), the learning rate divided by ten after 3/8, 5/8 and 7/8 of the
//! steps, and pixels in `[0, 1]`, for which the start is that of the paper with a mean of ½ and a deviation of ¼ of the
//! pictures.
//!
//! Source: Geiping, Bauermeister, Dröge, Moeller, *Inverting Gradients – How easy is it to break privacy in federated
//! learning?*, NeurIPS 2020, arXiv 2003.14053, eq. 4.

use burn::tensor::{Device, Tensor};
use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use super::descent::{Descent, three_drops};
use super::error::LeakageError;
use super::gradient_oracle::Objective;
use super::pixel_prior::PixelPrior;

/// Configuration of [`inverting_gradients`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InvertingConfig {
    /// Steps. Default 4800.
    pub steps: usize,
    /// Default 0.1.
    pub learning_rate: f64,
    /// Whether Adam gets the sign of the slope. Default true.
    pub signed: bool,
    /// `λ`, and nothing for the norm by default.
    pub prior: PixelPrior,
}

impl Default for InvertingConfig {
    fn default() -> Self {
        Self {
            steps: 4800,
            learning_rate: 0.1,
            signed: true,
            prior: PixelPrior {
                norm: 0.0,
                ..PixelPrior::default()
            },
        }
    }
}

/// Pictures, and what they cost.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// In `[0, 1]`, `[batch, pixels]`.
    pub pictures: Tensor<2>,
    /// The distance of the gradients, without the regulariser.
    pub cost: f64,
}

/// Searches pixels.
///
/// - `objective`: the cosine distance of pictures; `shape`: channels, height and width
///
/// # Errors
/// If a setting is out of range, or a cost is not finite.
pub fn inverting_gradients(
    objective: &Objective<'_>,
    batch: usize,
    shape: [usize; 3],
    config: InvertingConfig,
    seed: u64,
    device: &Device,
) -> Result<Recovered, LeakageError> {
    range::positive("learning rate of the attack", config.learning_rate)?;
    range::at_least("number of steps", config.steps, 1)?;
    config.prior.validate()?;
    let device = device.clone().without_autodiff();
    let size = [batch, shape.iter().product()];
    let start = SeededNoise::new(seed, 0).normal(size, &device) * 0.25 + 0.5;
    let pictures = Descent {
        steps: config.steps,
        rate: &|share| config.learning_rate * three_drops(share),
        slope: &mut |x| {
            let slope = objective(x)?.slope + config.prior.slope(x, shape)?;
            Ok(if config.signed { slope.sign() } else { slope })
        },
        then: &mut |x, _| Ok(x.clamp(0.0, 1.0)),
    }
    .run(start)?;
    let cost = objective(&pictures)?.cost;
    Ok(Recovered { pictures, cost })
}
