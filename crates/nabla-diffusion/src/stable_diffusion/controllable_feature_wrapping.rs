//! StableSR's controllable feature wrapping: a decoder that also uses the picture to be enlarged.
//!
//! A latent cannot hold every detail of a picture. At the inner levels of Stable Diffusion's
//! [decoder](super::autoencoder_kl), the encoder's features `f` of the enlarged small picture are therefore
//! mixed in:
//!
//! ```text
//! h ← h + w R([f, h]),   R = residual block, dense blocks, residual block
//! ```
//!
//! The weight `w` is the user's: 0 keeps the sampler's details, 1 stays with the given picture; 0.5 is
//! the published compromise. A dense block is five convolutions, each of which sees the outputs of all
//! before it; three of them, with a shortcut around them, make one of the blocks of `R`.
//!
//! Sources: Wang et al., *Exploiting Diffusion Prior for Real-World Image Super-Resolution*, IJCV 2024,
//! arXiv 2305.07015, section 3.2; Wang et al., *ESRGAN: Enhanced Super-Resolution Generative Adversarial
//! Networks*, 2018, arXiv 1809.00219 (the dense blocks).

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use serde::Deserialize;

use super::autoencoder_kl::{AutoencoderError, AutoencoderKl, AutoencoderKlConfig};
use super::resnet_block::{GroupNormOptions, ResnetBlock};
use super::weights::{Scope, WeightsError};
use nabla_kernels::activation::Activation;
use nabla_kernels::convolution::conv2d;

/// The sizes of `R`. The defaults are the published model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FeatureWrappingConfig {
    /// Blocks of three dense blocks. Default 2.
    pub blocks: usize,
    /// Channels that each convolution of a dense block adds. Default 32.
    pub growth: usize,
}

impl Default for FeatureWrappingConfig {
    fn default() -> Self {
        Self {
            blocks: 2,
            growth: 32,
        }
    }
}

/// An autoencoder with feature wrapping; see the [module](self).
#[derive(Module, Debug)]
pub struct WrappedAutoencoder {
    autoencoder: AutoencoderKl,
    /// For each level except the finest and the coarsest, the finest first.
    fusions: Vec<Fusion>,
}

impl WrappedAutoencoder {
    /// Loads it from `scope`, which is that of an autoencoder; `R` of level `i` is called
    /// `decoder.fusion_layer_i`.
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn from_scope(
        autoencoder: &AutoencoderKlConfig,
        config: FeatureWrappingConfig,
        scope: &Scope<'_>,
    ) -> Result<Self, WeightsError> {
        let channels = &autoencoder.block_out_channels;
        let inner = channels.iter().enumerate().skip(1);
        let inner = inner.take(channels.len().saturating_sub(2));
        let norm = GroupNormOptions {
            groups: autoencoder.norm_num_groups,
            epsilon: 1e-6,
        };
        Ok(Self {
            autoencoder: AutoencoderKl::from_scope(autoencoder, scope)?,
            fusions: inner
                .map(|(i, &channels)| {
                    let scope = scope.at(format!("decoder.fusion_layer_{i}"));
                    Fusion::load(&scope, channels, config, norm)
                })
                .collect::<Result<_, _>>()?,
        })
    }

    /// The autoencoder itself, without the wrapping.
    pub fn autoencoder(&self) -> &AutoencoderKl {
        &self.autoencoder
    }

    /// The features of pictures, for each inner level, the finest first.
    ///
    /// - `x`: `[batch, 3, height, width]`, from −1 to 1
    ///
    /// # Errors
    /// As [`AutoencoderKl::encode`].
    pub fn features(&self, x: Tensor<4>) -> Result<Vec<Tensor<4>>, AutoencoderError> {
        let mut features = Vec::new();
        self.autoencoder.encode_with(x, &mut |level, h| {
            if (1..=self.fusions.len()).contains(&level) {
                features.push(h.clone());
            }
        })?;
        Ok(features)
    }

    /// Decodes latents to pictures, `[batch, 3, 8 · height, 8 · width]`, approximately from −1 to 1.
    ///
    /// - `z`: `[batch, channels, height, width]`, without scale
    /// - `features`: of pictures of the size of the result
    /// - `weight`: `w`
    ///
    /// # Errors
    /// As [`AutoencoderKl::decode`].
    pub fn decode(
        &self,
        z: Tensor<4>,
        features: &[Tensor<4>],
        weight: f64,
    ) -> Result<Tensor<4>, AutoencoderError> {
        self.autoencoder.decode_with(z, &mut |level, h| {
            let inner = level.checked_sub(1);
            let fusion = inner.and_then(|i| self.fusions.get(i).zip(features.get(i)));
            match fusion {
                Some((fusion, f)) if weight != 0.0 => {
                    h.clone() + fusion.forward(f.clone(), h) * weight
                }
                _ => h,
            }
        })
    }
}

/// `R`.
#[derive(Module, Debug)]
struct Fusion {
    first: ResnetBlock,
    dense: Vec<ResidualInResidual>,
    last: ResnetBlock,
}

impl Fusion {
    fn load(
        scope: &Scope<'_>,
        channels: usize,
        config: FeatureWrappingConfig,
        norm: GroupNormOptions,
    ) -> Result<Self, WeightsError> {
        let resnet =
            |name: &str, input| ResnetBlock::load(&scope.at(name), [input, channels], None, norm);
        Ok(Self {
            first: resnet("encode_enc_1", 2 * channels)?,
            dense: (0..config.blocks)
                .map(|i| {
                    let scope = scope.at("encode_enc_2").at(i);
                    ResidualInResidual::load(&scope, channels, config.growth)
                })
                .collect::<Result<_, _>>()?,
            last: resnet("encode_enc_3", channels)?,
        })
    }

    fn forward(&self, features: Tensor<4>, h: Tensor<4>) -> Tensor<4> {
        let x = self.first.forward(Tensor::cat(vec![features, h], 1), None);
        let x = self.dense.iter().fold(x, |x, block| block.forward(x));
        self.last.forward(x, None)
    }
}

/// The share of the output of a dense block, and of three of them, that is added to the input.
const SHARE: f64 = 0.2;

/// `x + 0.2 d₃(d₂(d₁(x)))`.
#[derive(Module, Debug)]
struct ResidualInResidual {
    blocks: Vec<DenseBlock>,
}

impl ResidualInResidual {
    fn load(scope: &Scope<'_>, channels: usize, growth: usize) -> Result<Self, WeightsError> {
        let blocks = (1..=3).map(|i| {
            let scope = scope.at(format!("rdb{i}"));
            DenseBlock::load(&scope, channels, growth)
        });
        Ok(Self {
            blocks: blocks.collect::<Result<_, _>>()?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self
            .blocks
            .iter()
            .fold(x.clone(), |h, block| block.forward(h));
        x + h * SHARE
    }
}

/// `x + 0.2 conv₅([x, h₁ … h₄])`, `hᵢ = leaky_relu(convᵢ([x, h₁ … hᵢ₋₁]))`.
#[derive(Module, Debug)]
struct DenseBlock {
    convolutions: Vec<Conv2d>,
}

impl DenseBlock {
    fn load(scope: &Scope<'_>, channels: usize, growth: usize) -> Result<Self, WeightsError> {
        let convolutions = (0..5).map(|i| {
            let output = if i < 4 { growth } else { channels };
            let scope = scope.at(format!("conv{}", i + 1));
            scope.conv2d(channels + i * growth, output, 3, 1)
        });
        Ok(Self {
            convolutions: convolutions.collect::<Result<_, _>>()?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut all = x.clone();
        for (i, conv) in self.convolutions.iter().enumerate() {
            let h = conv2d(conv, all.clone());
            if i + 1 == self.convolutions.len() {
                return x + h * SHARE;
            }
            let h = Activation::LeakyRelu { slope: 0.2 }.forward(h);
            all = Tensor::cat(vec![all, h], 1);
        }
        x
    }
}
