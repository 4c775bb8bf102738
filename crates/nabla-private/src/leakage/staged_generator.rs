//! Generators in stages, `G = G_N ∘ … ∘ G_1`: an attack may search the latent vector, what any stage made of it, or the
//! generator's own weights.

use burn::tensor::Tensor;

use super::error::LeakageError;
use super::gradient_oracle::{Matched, Objective, leaf};

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

    /// All weights as one vector, `[n]`, without a graph.
    fn weights(&self) -> Tensor<1>;

    /// `G_w(z)` by a generator of its own for each row, `[batch, pixels]`; with a graph if `weights` has one.
    ///
    /// - `weights`: as [`weights`](Self::weights) orders them, `[batch, n]`; `latent`: `z`, `[batch, latent]`
    fn pictures_by(&self, weights: Tensor<2>, latent: Tensor<2>) -> Tensor<2>;

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
    through(&|h| generator.pictures(k, h), objective, also, feature)
}

/// The cost of one generator's weights for each picture, and its derivative by these weights, `[batch, n]`.
///
/// - `latent`: `z`, which stays, `[batch, latent]`; `also`: a regulariser's slope at the pictures
/// - `weights`: `[batch, n]`
///
/// # Errors
/// Those of the objective.
pub fn through_weights(
    generator: &dyn StagedGenerator,
    objective: &Objective<'_>,
    also: &dyn Fn(&Tensor<2>) -> Result<Tensor<2>, LeakageError>,
    latent: &Tensor<2>,
    weights: &Tensor<2>,
) -> Result<Matched, LeakageError> {
    let pictures = |w| generator.pictures_by(w, latent.clone().without_autodiff().autodiff());
    through(&pictures, objective, also, weights)
}

/// The derivative through any way from unknowns to pictures.
fn through(
    pictures: &dyn Fn(Tensor<2>) -> Tensor<2>,
    objective: &Objective<'_>,
    also: &dyn Fn(&Tensor<2>) -> Result<Tensor<2>, LeakageError>,
    unknowns: &Tensor<2>,
) -> Result<Matched, LeakageError> {
    let leaf = leaf(unknowns);
    let pictures = pictures(leaf.clone());
    let plain = pictures.clone().without_autodiff();
    let Matched { cost, slope } = objective(&plain)?;
    let slope = slope + also(&plain)?;
    let mut gradients = (pictures * slope.autodiff()).sum().backward();
    let slope = leaf
        .grad_remove(&mut gradients)
        .ok_or(LeakageError::NoGradient)?;
    Ok(Matched { cost, slope })
}
