//! How weights decay.
//!
//! With the learning rate η and the weight decay λ, before the step along the gradient:
//!
//! ```text
//! coupled     g ← g + λ w           the gradient of λ‖w‖²/2, which an adaptive step rescales
//! decoupled   w ← (1 − η λ) w
//! fixed       w ← (1 − λ) w         independent of the learning rate and its schedule
//! ```
//!
//! Sources: Loshchilov, Hutter, *Decoupled Weight Decay Regularization*, 2019, arXiv 1711.05101; the
//! fixed decay is the option with that name in `adabelief-pytorch`.

use serde::{Deserialize, Serialize};

/// How weights decay; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightDecayMode {
    /// By the gradient.
    #[serde(alias = "Coupled")]
    Coupled,
    /// By a factor that depends on the learning rate.
    #[serde(alias = "Decoupled")]
    Decoupled,
    /// By a fixed factor.
    #[serde(alias = "Fixed")]
    Fixed,
}

impl WeightDecayMode {
    /// The multiple of the weights that is added to the gradient.
    pub(crate) fn coupling(self, weight_decay: f64) -> f64 {
        match self {
            Self::Coupled => weight_decay,
            Self::Decoupled | Self::Fixed => 0.0,
        }
    }

    /// The factor of the weights.
    pub(crate) fn factor(self, lr: f64, weight_decay: f64) -> f64 {
        match self {
            Self::Coupled => 1.0,
            Self::Decoupled => 1.0 - lr * weight_decay,
            Self::Fixed => 1.0 - weight_decay,
        }
    }
}
