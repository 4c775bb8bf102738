//! A small convolutional network.
//!
//! Each stage is a convolution of 3 x 3 with padding 1, [normalisation](crate::normalization), rectified
//! units and max pooling of 2 x 2; a linear layer scores the classes. Kernels and the matrix are
//! drawn by [He's rule](crate::initialization); biases and shifts start at 0, gains at 1. A convolution
//! before a normalisation has no bias.

use burn::module::{Initializer, Module};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, GroupNorm, Linear, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use nabla_kernels::convolution::{conv2d, conv2d_relu};
use nabla_kernels::linear::linear as apply;
use nabla_kernels::pooling::max_pool2d;
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, ModelError, Seen, check_width};
use crate::mlp::linear;
use crate::normalization::{
    BatchStatistics, Normalization, See, Sight, batch_statistics, maps, normalized_relu,
};

/// Configuration of [`Cnn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CnnConfig {
    /// Channels of each stage, which halves the picture. Default 16 and 32.
    pub channels: Vec<usize>,
    /// The normalisation. Default over the batch.
    #[serde(alias = "batch_norm")]
    pub normalization: Normalization,
}

impl Default for CnnConfig {
    fn default() -> Self {
        Self {
            channels: vec![16, 32],
            normalization: Normalization::default(),
        }
    }
}

impl CnnConfig {
    /// The model for pictures of `shape` (channels, height, width), with weights to be
    /// [drawn](crate::initialization::he_normal).
    ///
    /// # Errors
    /// If a stage has no channels, or the pictures are too small for the number of stages.
    pub fn init(
        &self,
        shape: [usize; 3],
        classes: usize,
        device: &Device,
    ) -> Result<Cnn, ModelError> {
        let [mut inputs, mut height, mut width] = shape;
        let side = height.min(width);
        if side.checked_shr(self.channels.len() as u32).unwrap_or(0) == 0 {
            return Err(ModelError::TooSmall {
                model: "cnn",
                layers: self.channels.len(),
                needed: 1_usize
                    .checked_shl(self.channels.len() as u32)
                    .unwrap_or(usize::MAX),
                found: side,
            });
        }
        let mut stages = Vec::new();
        for &channels in &self.channels {
            check_width("cnn", "number of channels", channels)?;
            let bias = self.normalization == Normalization::None;
            let (norm, group_norm) = self.normalization.init(channels, device);
            stages.push(Stage {
                convolution: convolution(inputs, channels, 1, bias, device),
                norm,
                group_norm,
                pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            });
            (inputs, height, width) = (channels, height / 2, width / 2);
        }
        Ok(Cnn {
            stages,
            output: linear(inputs * height * width, classes, device),
            shape,
        })
    }
}

/// A 3 x 3 convolution of zeros, whose kernel is to be drawn.
pub(crate) fn convolution(
    inputs: usize,
    outputs: usize,
    stride: usize,
    bias: bool,
    device: &Device,
) -> Conv2d {
    Conv2dConfig::new([inputs, outputs], [3, 3])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_bias(bias)
        .with_initializer(Initializer::Zeros)
        .init(device)
}

/// One stage of [`Cnn`].
#[derive(Module, Debug)]
pub struct Stage {
    /// `[channels_out, channels_in, 3, 3]`.
    pub convolution: Conv2d,
    /// Batch normalisation.
    pub norm: Option<BatchNorm>,
    /// Group normalisation.
    pub group_norm: Option<GroupNorm>,
    /// Max pooling of 2 x 2.
    pub pool: MaxPool2d,
}

/// The model.
#[derive(Module, Debug)]
pub struct Cnn {
    /// The stages.
    pub stages: Vec<Stage>,
    /// The last layer.
    pub output: Linear,
    /// Channels, height and width of the pictures.
    #[module(skip)]
    pub shape: [usize; 3],
}

impl Cnn {
    /// The input of the last layer; `see` gets the map of each stage before it is halved.
    fn features(&self, input: Tensor<2>, see: See<'_>) -> Tensor<2> {
        let [batch, _] = input.dims();
        let [channels, height, width] = self.shape;
        let mut x = input.reshape([batch, channels, height, width]);
        for stage in &self.stages {
            x = match (&stage.norm, &stage.group_norm) {
                (None, None) => conv2d_relu(&stage.convolution, x),
                (norm, group) => normalized_relu(norm, group, conv2d(&stage.convolution, x), see),
            };
            see(Sight::Map(&x));
            x = max_pool2d(&stage.pool, x); // [batch, channels, height/2, width/2]
        }
        x.flatten(1, 3)
    }
}

impl Classifier for Cnn {
    fn logits(&self, input: Tensor<2>) -> Tensor<2> {
        apply(&self.output, self.features(input, &mut |_| {}))
    }

    fn seen(&self, input: Tensor<2>) -> Seen {
        Seen::through(&self.output, self.features(input, &mut |_| {}))
    }

    fn head(&self) -> Option<&Linear> {
        Some(&self.output)
    }

    fn maps(&self, input: Tensor<2>) -> Vec<Tensor<4>> {
        maps(|see| {
            self.features(input, see);
        })
    }

    fn batch_statistics(&self, input: Tensor<2>) -> Vec<BatchStatistics> {
        batch_statistics(|see| {
            self.features(input, see);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The maps are those before each pooling, and the features follow from the last of them.
    #[test]
    fn the_maps_are_those_of_the_stages() {
        let device = Device::flex();
        let config = CnnConfig {
            channels: vec![4, 6],
            normalization: Normalization::Group,
        };
        let cnn = config.init([1, 9, 8], 3, &device).unwrap();
        let input = Tensor::<2>::ones([2, 72], &device);
        let maps = cnn.maps(input.clone());
        let shapes: Vec<[usize; 4]> = maps.iter().map(|map| map.dims()).collect();
        assert_eq!(shapes, [[2, 4, 9, 8], [2, 6, 4, 4]]);
        let pooled = cnn.stages[1].pool.forward(maps[1].clone());
        let features: Tensor<2> = pooled.flatten(1, 3);
        let difference = features - cnn.seen(input).features;
        assert_eq!(difference.abs().max().into_scalar::<f32>(), 0.0);
    }
}
