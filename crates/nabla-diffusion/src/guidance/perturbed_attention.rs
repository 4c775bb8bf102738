//! PAG, perturbed-attention guidance: away from what the network draws when its positions don't look at each
//! other.
//!
//! ```text
//! ε = ε_∅ + g (ε_c − ε_∅) + s (ε_c − ε̂_c)
//! ```
//!
//! `ε̂_c` is the prediction of the same network under the same condition with the map of the self-attention in its
//! middle block replaced by the identity: every position keeps its own value. Such a prediction has the right
//! look but no structure, so the difference leads to pictures with more structure, also without a condition. It
//! costs a third evaluation, or the second one if `g` is 1.
//!
//! Source: Ahn, Cho, Min, Jang, Kim, Kim, Park, Jin, Kim, *Self-Rectifying Diffusion Sampling with
//! Perturbed-Attention Guidance*, 2024, arXiv 2403.17377; with classifier-free guidance as in the diffusers
//! library.

use burn::config::Config;
use nabla_base::range;

use super::{ClassifierFree, Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised};
use crate::sampler_error::OwnError;

/// Perturbed-attention guidance: `ε_∅ + g (ε_c − ε_∅) + s (ε_c − ε̂_c)`, where `ε̂_c` is the prediction without
/// self-attention in the middle of the network.
///
/// For models that implement [`predict_perturbed`](crate::denoiser::Denoiser::predict_perturbed), as Stable
/// Diffusion does. Source: Ahn et al., 2024, arXiv 2403.17377.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct PerturbedAttention {
    /// `g`, the scale of classifier-free guidance; 1 leaves it out. Default 7.5.
    #[config(default = 7.5)]
    pub scale: f64,
    /// `s`. Default 3.
    #[config(default = 3.0)]
    pub perturbed_scale: f64,
}

impl<const D: usize> Guidance<D> for PerturbedAttention {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        range::finite("guidance scale", self.scale)?;
        Ok(range::finite(
            "scale of the perturbed prediction",
            self.perturbed_scale,
        )?)
    }

    fn guide(
        &mut self,
        _step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let (guided, with) = match self.scale == 1.0 {
            true => {
                let [with] = model.ask([Condition::FIRST])?;
                (with.clone(), with)
            }
            false => {
                let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
                let usual = ClassifierFree::new().with_scale(self.scale);
                (usual.guided(without, with.clone()), with)
            }
        };
        let guided = match self.perturbed_scale == 0.0 {
            true => guided,
            false => {
                let perturbed = model.ask_perturbed(Condition::FIRST)?;
                guided + (with - perturbed) * self.perturbed_scale
            }
        };
        Ok(model.read(guided)?)
    }
}
