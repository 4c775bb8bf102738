//! Generators in stages, `G = G_N ∘ … ∘ G_1`: an attack may search the latent vector, or what any stage made of it.

use burn::tensor::Tensor;

use super::error::LeakageError;
use super::gradient_oracle::{Matched, Objective};

/// A generator of pictures with values in `[0, 1]`.
///
/// Features are flat: a stage takes and gives `[batch, features]`, whatever they are inside.
pub trait StagedGenerator {
    /// `N`, at least 1.
    fn stages(&self) -> usize;

    /// The length of the latent vector `z`.
    fn latent(&self) -> usize;

    /// Channels, height and width of the pictures.
    fn shape(&self) -> [usize; 3];

    /// `G_{k+1}(h)`, for `k` from 0.
    ///
    /// - `feature`: what stage `k` made, or `z` if `k` is 0, `[batch, features]`
    fn stage(&self, k: usize, feature: Tensor<2>) -> Tensor<2>;

    /// `G_N ∘ … ∘ G_{k+1}(h)`, `[batch, pixels]`.
    fn pictures(&self, k: usize, feature: Tensor<2>) -> Tensor<2> {
        (k..self.stages()).fold(feature, |h, k| self.stage(k, h))
    }
}

/// The cost of a feature, and its derivative by the feature: one backward pass of the generator after those of the
/// objective.
///
/// - `k`: the stages that made the feature; `also`: a regulariser's slope at the pictures
///
/// # Errors
/// Those of the objective.
pub fn through_generator(
    generator: &dyn StagedGenerator,
    objective: &Objective<'_>,
    also: &dyn Fn(&Tensor<2>) -> Result<Tensor<2>, LeakageError>,
    k: usize,
    feature: &Tensor<2>,
) -> Result<Matched, LeakageError> {
    let leaf = feature.clone().without_autodiff().autodiff().require_grad();
    let pictures = generator.pictures(k, leaf.clone());
    let plain = pictures.clone().without_autodiff();
    let Matched { cost, slope } = objective(&plain)?;
    let slope = slope + also(&plain)?;
    let mut gradients = (pictures * slope.autodiff()).sum().backward();
    let slope = leaf
        .grad_remove(&mut gradients)
        .ok_or(LeakageError::NoGradient)?;
    Ok(Matched { cost, slope })
}
