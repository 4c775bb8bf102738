//! The test for scale-invariant weights and the projection Π, which AdamP and SGDP share; see the [parent
//! module](super) for their equations.

use burn::tensor::Tensor;
use nabla_grad::decomposition::{DecompositionError, Views, cosine_similarity};
use nabla_grad::elementwise::Channels;
use serde::{Deserialize, Serialize};

use crate::precision::like;

/// The dimension of a weight that corresponds to its layer's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelDim {
    /// Dimension 1 of matrices, Burn's `[d_input, d_output]`, and 0 of tensors of higher rank,
    /// `[channels_out, channels_in, ...]`.
    #[serde(alias = "ByRank")]
    ByRank,
    /// This dimension. Tensors without it are only tested as a whole.
    #[serde(alias = "Dim")]
    Dim(usize),
}

impl ChannelDim {
    /// The dimension, for a tensor of rank `rank`.
    pub(super) fn of_rank(self, rank: usize) -> usize {
        match self {
            Self::ByRank if rank == 2 => 1,
            Self::ByRank => 0,
            Self::Dim(dim) => dim,
        }
    }
}

/// Whether the gradient is so nearly orthogonal to the weight, in all vectors of `views`, that AdamP treats
/// the weight as scale invariant. AdamP then removes from the step the part
/// [along](nabla_grad::decomposition::decompose) the weight.
///
/// # Errors
/// If the tensors differ in shape or device, have no elements, or lack the dimension of the views.
pub fn is_scale_invariant<const D: usize>(
    weight: Tensor<D>,
    grad: Tensor<D>,
    views: Views,
    delta: f64,
) -> Result<bool, DecompositionError> {
    let shape = weight.dims();
    let cosines = cosine_similarity(grad, weight, views)?;
    let count = match views {
        Views::Whole => 1,
        Views::Each(dim) => shape[dim],
    };
    let size = shape.iter().product::<usize>() / count;
    let highest: f64 = cosines.abs().max().into_scalar();
    Ok(highest < threshold(delta, size))
}

/// The least norm by which a cosine is divided if there is no ε: its square is a normal `f32`.
const LEAST_NORM: f64 = 1e-18;

/// `δ/√K`.
fn threshold(delta: f64, size: usize) -> f64 {
    delta / (size as f64).sqrt()
}

/// `[outer, channels, inner]` to `[1, channels, 1]`.
fn sum_channels(x: Tensor<3>) -> Tensor<3> {
    x.sum_dim(2).sum_dim(0)
}

/// `w·p/(‖w‖ + ε)²`, `[1, channels, 1]`.
fn radial(w: &Tensor<3>, p: &Tensor<3>, epsilon: f64) -> Tensor<3> {
    let norm = sum_channels(w.clone().square()).sqrt() + epsilon;
    sum_channels(w.clone() * p.clone()) / norm.clamp_min(LEAST_NORM).square()
}

/// The highest `|cos(w_c, g_c)|`, `[1]`.
fn highest_cosine(w: &Tensor<3>, g: &Tensor<3>, epsilon: f64) -> Tensor<1> {
    let norm = |x: &Tensor<3>| {
        let norm = sum_channels(x.clone().square()).sqrt();
        norm.clamp_min(epsilon.max(LEAST_NORM))
    };
    let product = sum_channels(w.clone() * g.clone()).abs();
    (product / norm(w) / norm(g)).max()
}

/// The common parts of AdamP and SGDP: the test, the projection, the decay and the step.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    pub(super) delta: f64,
    pub(super) wd_ratio: f64,
    pub(super) epsilon: f64,
    pub(super) channel_dim: ChannelDim,
}

/// The sums over a channel that the test and the projection need.
mod sum {
    pub const GW: usize = 0;
    pub const GG: usize = 1;
    pub const WW: usize = 2;
    pub const WP: usize = 3;
}

/// The terms of the sums over a channel.
#[inline(always)]
pub(super) fn terms(w: f32, g: f32, p: f32) -> [f32; 4] {
    [g * w, g * g, w * w, w * p]
}

impl Projection {
    /// The channels of a weight, with which the sums over the layer are sums of theirs. `None` for a weight
    /// that is not projected.
    pub(super) fn channels(&self, shape: &[usize]) -> Option<Channels> {
        if shape.len() < 2 || shape.contains(&0) {
            return None;
        }
        let along = Channels::along(shape, self.channel_dim.of_rank(shape.len()));
        Some(along.unwrap_or(Channels::whole(shape.iter().product())))
    }

    /// The factor of `w` in the radial part of the step, for each channel, and the ratio of
    /// the decay, from the sums over the channels.
    pub(super) fn decide(&self, channels: Channels, sums: &[[f64; 4]]) -> (Vec<f32>, f64) {
        let views = [
            (channels, sums.to_vec()),
            (
                Channels::whole(channels.size() * channels.count()),
                vec![sums.iter().fold([0.0; 4], |mut total, sums| {
                    for (total, sum) in total.iter_mut().zip(sums) {
                        *total += sum;
                    }
                    total
                })],
            ),
        ];
        let least = self.epsilon.max(LEAST_NORM);
        for (view, sums) in views {
            let cosine = |s: &[f64; 4]| {
                let norms = s[sum::GG].sqrt().max(least) * s[sum::WW].sqrt().max(least);
                s[sum::GW].abs() / norms
            };
            // A cosine that is NaN is not below the threshold.
            let limit = threshold(self.delta, view.size());
            if sums.iter().all(|s| cosine(s) < limit) {
                let along = |s: &[f64; 4]| {
                    let norm = (s[sum::WW].sqrt() + self.epsilon).max(LEAST_NORM);
                    (s[sum::WP] / (norm * norm)) as f32
                };
                let coefficients = match sums.as_slice() {
                    [all] => vec![along(all); channels.count()],
                    each => each.iter().map(along).collect(),
                };
                return (coefficients, self.wd_ratio);
            }
        }
        (vec![0.0; channels.count()], 1.0)
    }

    /// `w ← (1 − r decay) w − step Π(p)`, with Burn's operations. The result of the test stays on the device,
    /// as a factor of 0 or 1.
    pub(super) fn composed_step<const D: usize>(
        &self,
        w: Tensor<D>,
        g: Tensor<D>,
        p: Tensor<D>,
        decay: f64,
        step: f64,
    ) -> Tensor<D> {
        let shape = w.dims();
        let Some(channels) = self.channels(&shape) else {
            return w * (1.0 - decay) - p * step;
        };
        let layer = Channels::whole(shape.iter().product());
        let mut p = p;
        // 1 as long as no view was found to be scale invariant.
        let mut open = Tensor::<3>::ones([1, 1, 1], (&w.device(), w.dtype()));
        for view in [channels, layer] {
            let [w, g, p3] = [&w, &g, &p].map(|x| x.clone().reshape(view.shape()));
            let fires = highest_cosine(&w, &g, self.epsilon)
                .reshape([1, 1, 1])
                .lower_elem(threshold(self.delta, view.size()))
                .float();
            let fires = like(fires, &open) * open.clone();
            let along = radial(&w, &p3, self.epsilon) * fires.clone();
            p = (p3 - w * along).reshape(shape);
            open = open - fires;
        }
        let ratio = open * (1.0 - self.wd_ratio) + self.wd_ratio;
        let w = w.reshape(layer.shape());
        let w = w.clone() - w * ratio * decay;
        w.reshape(shape) - p * step
    }
}
