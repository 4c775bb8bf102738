//! Churn: noise that a sampler adds on the way, and removes again.
//!
//! Before a step from the level `σ`, the picture is made noisier,
//!
//! ```text
//! γ = min(S_churn/N, √2 − 1) if S_tmin ≤ σ ≤ S_tmax, otherwise 0
//! σ̂ = σ + γ σ,   x̂ = x̃ + √(σ̂² − σ²) S_noise z
//! ```
//!
//! for `x̃ = x/signal`, and the step starts from there: the network is called on `x̂` at `σ̂`. This corrects
//! errors of earlier steps. `EulerDiscreteScheduler` of the diffusers library adds the same noise, but calls
//! the network on the picture without it; here it works as in the source and in k-diffusion.
//!
//! Source: Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative
//! Models*, 2022, arXiv 2206.00364, algorithm 2.

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

use crate::level::{Level, Levels};
use crate::seeded_noise::SeededNoise;

/// The amount and the range of the churn; see the [module documentation](self).
///
/// As an option, it can be written as the amount alone: `churn=40`, or `churn={"amount": 40, "noise_scale":
/// 1.003}`.
///
/// ```
/// use nabla_diffusion::churn::Churn;
///
/// let churn: Churn = serde_json::from_str("40")?;
/// assert_eq!(churn, Churn::new(40.0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "ChurnForm")]
pub struct Churn {
    /// `S_churn`, which is divided among the steps. At least 0; the source uses 40 to 80.
    pub amount: f64,
    /// `S_tmin`: the lowest level with churn. Default 0.
    pub sigma_min: f64,
    /// `S_tmax`: the highest level with churn. Default: no limit.
    pub sigma_max: Option<f64>,
    /// `S_noise`: standard deviation of the noise; slightly above 1 keeps detail. Default 1.
    pub noise_scale: f64,
}

/// The serialized forms of a churn.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "it must be a number, or an object with amount, sigma_min, sigma_max, noise_scale"
)]
enum ChurnForm {
    Amount(f64),
    Whole {
        amount: f64,
        sigma_min: Option<f64>,
        sigma_max: Option<f64>,
        noise_scale: Option<f64>,
    },
}

impl From<ChurnForm> for Churn {
    fn from(form: ChurnForm) -> Self {
        match form {
            ChurnForm::Amount(amount) => Self::new(amount),
            ChurnForm::Whole {
                amount,
                sigma_min,
                sigma_max,
                noise_scale,
            } => {
                let usual = Self::new(amount);
                Self {
                    amount,
                    sigma_min: sigma_min.unwrap_or(usual.sigma_min),
                    sigma_max,
                    noise_scale: noise_scale.unwrap_or(usual.noise_scale),
                }
            }
        }
    }
}

impl Churn {
    /// Churn of this amount, on all levels.
    pub fn new(amount: f64) -> Self {
        Self {
            amount,
            sigma_min: 0.0,
            sigma_max: None,
            noise_scale: 1.0,
        }
    }

    /// The same with another lowest level.
    #[must_use]
    pub fn with_sigma_min(self, sigma_min: f64) -> Self {
        Self { sigma_min, ..self }
    }

    /// The same with another highest level.
    #[must_use]
    pub fn with_sigma_max(self, sigma_max: Option<f64>) -> Self {
        Self { sigma_max, ..self }
    }

    /// The same with another standard deviation of the noise.
    #[must_use]
    pub fn with_noise_scale(self, noise_scale: f64) -> Self {
        Self {
            noise_scale,
            ..self
        }
    }

    /// # Errors
    /// If `amount` or `noise_scale` is negative or not finite.
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        range::not_negative("amount of churn", self.amount)?;
        range::not_negative("noise scale of churn", self.noise_scale)
    }

    /// The noisier state and its level.
    ///
    /// - `levels`: the levels of the run, whose path gives the time of a level
    pub(crate) fn raise<const D: usize>(
        &self,
        x: Tensor<D>,
        level: Level,
        levels: &Levels,
        noise: &mut SeededNoise,
    ) -> (Tensor<D>, Level) {
        let sigma = level.sigma();
        let within = sigma >= self.sigma_min && self.sigma_max.is_none_or(|most| sigma <= most);
        let gamma = (self.amount / levels.steps() as f64).min(2.0_f64.sqrt() - 1.0);
        if !within || gamma == 0.0 {
            return (x, level);
        }
        let raised = sigma * (1.0 + gamma);
        let to = levels.path().level_of_sigma(raised);
        let added = self.noise_scale * (raised * raised - sigma * sigma).sqrt();
        let z = noise.normal(x.dims(), &x.device());
        let x = x * (to.signal() / level.signal()) + z * (to.signal() * added);
        (x, to)
    }
}
