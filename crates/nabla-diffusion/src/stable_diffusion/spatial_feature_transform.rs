//! Spatial feature transforms: one feature map scales and shifts another, position by position.
//!
//! ```text
//! y = norm(h) (1 + γ(f)) + β(f),   γ(f) = conv(relu(conv(f))),   β likewise, from the same inner map
//! ```
//!
//! StableSR puts one at the end of every residual block of Stable Diffusion's UNet, with the features of
//! its [time-aware encoder](super::time_aware_encoder); the UNet itself is unchanged.
//!
//! Sources: Wang, Yu, Dong, Loy, *Recovering Realistic Texture in Image Super-resolution by Deep Spatial
//! Feature Transform*, CVPR 2018, arXiv 1804.02815; Park, Liu, Wang, Zhu, *Semantic Image Synthesis with
//! Spatially-Adaptive Normalization*, CVPR 2019, arXiv 1903.07291 (the form with a norm); Wang et al.,
//! *Exploiting Diffusion Prior for Real-World Image Super-Resolution*, IJCV 2024, arXiv 2305.07015.

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

use super::resnet_block::GroupNormOptions;
use super::unet2d_condition::UNet2DConditionConfig;
use super::weights::{Scope, WeightsError};
use nabla_kernels::activation::relu;
use nabla_kernels::convolution::conv2d;
use nabla_kernels::normalization::group_norm;

/// One transform; see the [module](self).
#[derive(Module, Debug)]
pub struct SpatialFeatureTransform {
    norm: GroupNorm,
    shared: Conv2d,
    gamma: Conv2d,
    beta: Conv2d,
}

impl SpatialFeatureTransform {
    /// Loads it from `scope`.
    ///
    /// - `channels`: of `h`; `features`: of `f`; `hidden`: of the inner map
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn load(
        scope: &Scope<'_>,
        channels: usize,
        [features, hidden]: [usize; 2],
        norm: GroupNormOptions,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            norm: scope
                .at("param_free_norm")
                .group_norm(norm.groups, channels, norm.epsilon)?,
            shared: scope.at("mlp_shared.0").conv2d(features, hidden, 3, 1)?,
            gamma: scope.at("mlp_gamma").conv2d(hidden, channels, 3, 1)?,
            beta: scope.at("mlp_beta").conv2d(hidden, channels, 3, 1)?,
        })
    }

    /// `y`.
    ///
    /// - `h`: `[batch, channels, height, width]`
    /// - `features`: `[batch, features, height, width]`
    pub fn forward(&self, h: Tensor<4>, features: Tensor<4>) -> Tensor<4> {
        let inner = relu(conv2d(&self.shared, features)); // [batch, hidden, height, width]
        let gamma = conv2d(&self.gamma, inner.clone());
        let beta = conv2d(&self.beta, inner);
        let h = group_norm(&self.norm, h);
        h.clone() + h * gamma + beta
    }
}

/// A transform for each residual block of a UNet, in the order in which they are computed.
#[derive(Module, Debug)]
pub struct UNetFeatureTransforms {
    transforms: Vec<SpatialFeatureTransform>,
    /// The UNet level of each transform, 0 for the finest.
    levels: Vec<usize>,
}

impl UNetFeatureTransforms {
    /// Loads them from the scope of their UNet; each is called `spade` within its residual block.
    ///
    /// - `features`: channels of the features, and of the transforms' inner maps
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn from_scope(
        unet: &UNet2DConditionConfig,
        features: [usize; 2],
        scope: &Scope<'_>,
    ) -> Result<Self, WeightsError> {
        let count = unet.block_out_channels.len();
        let norm = GroupNormOptions {
            groups: unet.norm_num_groups,
            epsilon: 1e-5,
        };
        let down = (0..count).flat_map(|level| {
            (0..unet.layers_per_block)
                .map(move |block| (format!("down_blocks.{level}.resnets.{block}"), level))
        });
        let middle = (0..2).map(|block| (format!("mid_block.resnets.{block}"), count - 1));
        let up = (0..count).flat_map(|i| {
            (0..=unet.layers_per_block)
                .map(move |block| (format!("up_blocks.{i}.resnets.{block}"), count - 1 - i))
        });
        let (mut transforms, mut levels) = (Vec::new(), Vec::new());
        for (name, level) in down.chain(middle).chain(up) {
            let scope = scope.at(name).at("spade");
            let channels = unet.block_out_channels[level];
            transforms.push(SpatialFeatureTransform::load(
                &scope, channels, features, norm,
            )?);
            levels.push(level);
        }
        Ok(Self { transforms, levels })
    }

    /// The value that residual block number `block` adds to its shortcut instead of `h`; use it as the
    /// `change` of [`UNet2DCondition::forward_with`](super::unet2d_condition::UNet2DCondition::forward_with).
    ///
    /// - `features`: of each level, the finest first
    pub fn change(&self, features: &[Tensor<4>], block: usize, h: Tensor<4>) -> Tensor<4> {
        let level = self
            .levels
            .get(block)
            .and_then(|&level| features.get(level));
        match (self.transforms.get(block), level) {
            (Some(transform), Some(features)) => transform.forward(h, features.clone()),
            _ => h,
        }
    }
}
