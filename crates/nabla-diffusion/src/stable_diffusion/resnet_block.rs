//! The residual block of latent diffusion's UNet and autoencoder.
//!
//! ```text
//! h = conv(silu(norm(x))) + W silu(t),   y = shortcut(x) + conv(silu(norm(h)))
//! ```
//!
//! with 3 x 3 convolutions, a `shortcut` that is the identity or a 1 x 1 convolution, and a time
//! embedding `t` in the UNet only.
//!
//! Source: Rombach et al., *High-Resolution Image Synthesis with Latent Diffusion Models*, 2022, arXiv
//! 2112.10752.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Linear};
use burn::tensor::Tensor;

use super::norm_statistics::NormStatistics;
use super::weights::{Scope, WeightsError};
use nabla_kernels::activation::silu;
use nabla_kernels::convolution::conv2d;
use nabla_kernels::linear::linear;
use nabla_kernels::residual::add;

/// The block; see the [module](self).
#[derive(Module, Debug)]
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

/// The options of the normalisation.
#[derive(Clone, Copy, Debug)]
pub struct GroupNormOptions {
    /// Groups of channels.
    pub groups: usize,
    /// The constant added to the variance.
    pub epsilon: f64,
}

impl ResnetBlock {
    /// Loads it from `scope`.
    ///
    /// - `time`: channels of the time embedding, if there is one
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn load(
        scope: &Scope<'_>,
        [input, output]: [usize; 2],
        time: Option<usize>,
        norm: GroupNormOptions,
    ) -> Result<Self, WeightsError> {
        let group_norm = |name: &str, channels| {
            scope
                .at(name)
                .group_norm(norm.groups, channels, norm.epsilon)
        };
        Ok(Self {
            norm1: group_norm("norm1", input)?,
            conv1: scope.at("conv1").conv2d(input, output, 3, 1)?,
            time: time
                .map(|time| scope.at("time_emb_proj").linear(time, output))
                .transpose()?,
            norm2: group_norm("norm2", output)?,
            conv2: scope.at("conv2").conv2d(output, output, 3, 1)?,
            shortcut: (input != output)
                .then(|| scope.at("conv_shortcut").conv2d(input, output, 1, 1))
                .transpose()?,
        })
    }

    /// `y`.
    ///
    /// - `x`: `[batch, input, height, width]`
    /// - `time`: `[batch, channels]`, if the block has one
    /// - returns `[batch, output, height, width]`
    pub fn forward(&self, x: Tensor<4>, time: Option<&Tensor<2>>) -> Tensor<4> {
        self.forward_with(x, time, |h| h)
    }

    /// The same, with `change` applied to the value that is added to the shortcut.
    pub fn forward_with(
        &self,
        x: Tensor<4>,
        time: Option<&Tensor<2>>,
        change: impl FnOnce(Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        self.compute(x, time, &mut NormStatistics::Own, change)
    }

    /// The shortcut alone: what is left of a skipped block.
    pub fn shortcut(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.shortcut {
            Some(shortcut) => conv2d(shortcut, x),
            None => x,
        }
    }

    /// `y` of a block without a time embedding, whose norms have these statistics.
    pub fn forward_normalized(&self, x: Tensor<4>, norms: &mut NormStatistics) -> Tensor<4> {
        self.compute(x, None, norms, |h| h)
    }

    fn compute(
        &self,
        x: Tensor<4>,
        time: Option<&Tensor<2>>,
        norms: &mut NormStatistics,
        change: impl FnOnce(Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let h = norms.group_norm_silu(&self.norm1, x.clone());
        let mut h = conv2d(&self.conv1, h);
        if let (Some(project), Some(time)) = (&self.time, time) {
            let shift = linear(project, silu(time.clone())); // [batch, output]
            let [batch, channels] = shift.dims();
            h = h + shift.reshape([batch, channels, 1, 1]);
        }
        let h = norms.group_norm_silu(&self.norm2, h);
        let h = change(conv2d(&self.conv2, h));
        add(self.shortcut(x), h)
    }
}
