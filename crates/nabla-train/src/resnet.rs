//! The residual networks of the CIFAR-10 experiments: ResNet-20 and its deeper relatives.
//!
//! ```text
//! 3x3 convolution to 16 channels, batch normalisation, ReLU
//! 3 stages of n blocks with 16, 32 and 64 channels; the first block of stages 2 and 3 halves the picture
//! block: y = ReLU(x' + BN(conv(ReLU(BN(conv(x))))))             BN: or another normalisation
//! global average pooling, a linear layer                          6n + 2 layers; n = 3 is ResNet-20
//! ```
//!
//! The shortcut is option A of the paper, without parameters: `x'` is `x` or, where the shape changes,
//! every second pixel of `x`, with channels of zeros after its own. Convolutions have no bias. For
//! colour pictures and 10 classes ResNet-20 has 269,722 parameters (the paper: 0.27 M).
//!
//! Weights are drawn by [He's rule](crate::initialization), as in the paper, which trains with SGD,
//! momentum 0.9, weight decay 1e-4, batches of 128, learning rate 0.1 divided by 10 at 1/2 and 3/4
//! of 64k steps, and pictures padded by 4, cropped at random and mirrored.
//!
//! Source: He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, 2015, arXiv
//! 1512.03385, section 4.2.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::pool::{AvgPool2d, AvgPool2dConfig};
use burn::nn::{BatchNorm, GroupNorm, Linear};
use burn::tensor::{Device, Tensor};
use nabla_base::range;
use nabla_kernels::convolution::conv2d;
use nabla_kernels::linear::linear as apply;
use nabla_kernels::pooling::avg_pool2d;
use nabla_kernels::residual::add_relu;
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, ModelError, Seen, check_width};
use crate::cnn::convolution;
use crate::mlp::linear;
use crate::normalization::{
    BatchStatistics, Normalization, See, Sight, batch_statistics, maps, normalized, normalized_relu,
};

/// Configuration of [`ResNet`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResNetConfig {
    /// Layers with weights, `6n + 2`. Default 20.
    pub depth: usize,
    /// Channels of the first stage; the others have 2 and 4 times as many. Default 16.
    pub width: usize,
    /// The normalisation. Default over the batch, as in the paper.
    #[serde(skip_serializing_if = "is_default")]
    pub normalization: Normalization,
}

/// Older files don't have it.
fn is_default(normalization: &Normalization) -> bool {
    *normalization == Normalization::default()
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            depth: 20,
            width: 16,
            normalization: Normalization::default(),
        }
    }
}

impl ResNetConfig {
    /// The model for pictures of `shape` (channels, height, width), with weights to be
    /// [drawn](crate::initialization::he_normal).
    ///
    /// # Errors
    /// If the depth is not `6n + 2` or the width 0, or the pictures are smaller than 4 pixels.
    pub fn init(
        &self,
        shape: [usize; 3],
        classes: usize,
        device: &Device,
    ) -> Result<ResNet, ModelError> {
        range::check(
            self.depth % 6 == 2 && (8..=1202).contains(&self.depth),
            "depth of the resnet",
            self.depth,
            "6n + 2 with n from 1 to 200",
        )?;
        check_width("resnet", "width", self.width)?;
        let [channels, height, width] = shape;
        if height.min(width) < 4 {
            return Err(ModelError::TooSmall {
                model: "resnet",
                layers: 2,
                needed: 4,
                found: height.min(width),
            });
        }
        let mut blocks = Vec::new();
        let mut inputs = self.width;
        for stage in 0..3 {
            let outputs = self.width << stage;
            for block in 0..(self.depth - 2) / 6 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                blocks.push(Block::new(
                    inputs,
                    outputs,
                    stride,
                    self.normalization,
                    device,
                ));
                inputs = outputs;
            }
        }
        let (norm, group_norm) = self.normalization.init(self.width, device);
        Ok(ResNet {
            convolution: convolution(channels, self.width, 1, false, device),
            norm,
            group_norm,
            blocks,
            output: linear(inputs, classes, device),
            shape,
        })
    }
}

/// A residual block of two convolutions.
#[derive(Module, Debug)]
pub struct Block {
    /// `[channels_out, channels_in, 3, 3]`, with the stride of the block.
    pub convolution_1: Conv2d,
    /// After it.
    pub norm_1: Option<BatchNorm>,
    /// In its place.
    pub group_norm_1: Option<GroupNorm>,
    /// `[channels_out, channels_out, 3, 3]`.
    pub convolution_2: Conv2d,
    /// After it.
    pub norm_2: Option<BatchNorm>,
    /// In its place.
    pub group_norm_2: Option<GroupNorm>,
    /// Takes every second pixel, if the block halves the picture.
    pub shortcut: Option<AvgPool2d>,
}

impl Block {
    fn new(
        inputs: usize,
        outputs: usize,
        stride: usize,
        normalization: Normalization,
        device: &Device,
    ) -> Self {
        let (norm_1, group_norm_1) = normalization.init(outputs, device);
        let (norm_2, group_norm_2) = normalization.init(outputs, device);
        Self {
            convolution_1: convolution(inputs, outputs, stride, false, device),
            norm_1,
            group_norm_1,
            convolution_2: convolution(outputs, outputs, 1, false, device),
            norm_2,
            group_norm_2,
            // The average of one pixel is the pixel.
            shortcut: (stride > 1).then(|| {
                AvgPool2dConfig::new([1, 1])
                    .with_strides([stride, stride])
                    .init()
            }),
        }
    }

    fn forward(&self, input: Tensor<4>, see: See<'_>) -> Tensor<4> {
        let x = conv2d(&self.convolution_1, input.clone());
        let x = normalized_relu(&self.norm_1, &self.group_norm_1, x, see);
        let x = conv2d(&self.convolution_2, x);
        let x = normalized(&self.norm_2, &self.group_norm_2, x, see);
        add_relu(x, self.skip(input))
    }

    /// `x'`: option A.
    fn skip(&self, input: Tensor<4>) -> Tensor<4> {
        let Some(shortcut) = &self.shortcut else {
            return input;
        };
        let kept = avg_pool2d(shortcut, input);
        let [batch, channels, height, width] = kept.dims();
        let [outputs, ..] = self.convolution_1.weight.dims();
        let shape = [batch, outputs - channels, height, width];
        let zeros = Tensor::zeros(shape, (&kept.device(), kept.dtype()));
        Tensor::cat(vec![kept, zeros], 1)
    }
}

/// The model.
#[derive(Module, Debug)]
pub struct ResNet {
    /// The first convolution.
    pub convolution: Conv2d,
    /// After it.
    pub norm: Option<BatchNorm>,
    /// In its place.
    pub group_norm: Option<GroupNorm>,
    /// The `3n` blocks.
    pub blocks: Vec<Block>,
    /// The last layer.
    pub output: Linear,
    /// Channels, height and width of the pictures.
    #[module(skip)]
    pub shape: [usize; 3],
}

impl ResNet {
    /// The input of the last layer; `see` gets the map of the first convolution and of each block.
    fn features(&self, input: Tensor<2>, see: See<'_>) -> Tensor<2> {
        let [batch, _] = input.dims();
        let [channels, height, width] = self.shape;
        let x = input.reshape([batch, channels, height, width]);
        let x = conv2d(&self.convolution, x);
        let mut x = normalized_relu(&self.norm, &self.group_norm, x, see);
        see(Sight::Map(&x));
        for block in &self.blocks {
            x = block.forward(x, see);
            see(Sight::Map(&x));
        }
        let [batch, channels, height, width] = x.dims();
        let pooled = x.reshape([batch, channels, height * width]).mean_dim(2);
        pooled.reshape([batch, channels])
    }
}

impl Classifier for ResNet {
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

    #[test]
    fn the_parameters_are_those_of_the_paper() {
        let device = Device::flex();
        let count = |depth| {
            let config = ResNetConfig {
                depth,
                ..ResNetConfig::default()
            };
            config.init([3, 32, 32], 10, &device).unwrap().num_params()
        };
        // Table 6 of the paper: 0.27 M, 0.46 M, 0.66 M, 0.85 M, 1.7 M. The exact numbers are those of
        // github.com/akamaster/pytorch_resnet_cifar10 (option A). Burn counts the running mean and
        // variance of each normalisation too, which are no parameters.
        let buffers = |depth: usize| {
            let n = (depth - 2) / 6;
            2 * (16 + 2 * n * 16 + 2 * n * 32 + 2 * n * 64)
        };
        for (depth, expected) in [(20, 269_722), (32, 464_154), (56, 853_018)] {
            let found = count(depth);
            assert!(
                found == expected || found == expected + buffers(depth),
                "{depth}: {found}"
            );
        }
        assert!(
            ResNetConfig {
                depth: 21,
                ..ResNetConfig::default()
            }
            .init([3, 32, 32], 10, &device)
            .is_err()
        );
    }

    /// With kernels of zero a block is ReLU of its shortcut.
    #[test]
    fn the_shortcut_takes_every_second_pixel_and_pads_channels_with_zeros() {
        let device = Device::flex();
        let block = Block::new(1, 2, 2, Normalization::Batch, &device);
        let x = Tensor::<1>::from_floats(
            [
                0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14.,
            ],
            &device,
        );
        let y = block.forward(x.reshape([1, 1, 3, 5]), &mut |_| {});
        assert_eq!(y.dims(), [1, 2, 2, 3]);
        let found: Vec<f32> = y.into_data().iter::<f32>().collect();
        let expected = [0., 2., 4., 10., 12., 14., 0., 0., 0., 0., 0., 0.];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_maps_are_those_of_the_first_layer_and_the_blocks() {
        let device = Device::flex();
        let model = ResNetConfig::default()
            .init([3, 8, 8], 10, &device)
            .unwrap();
        let maps = model.maps(Tensor::ones([1, 192], &device));
        assert_eq!(maps.len(), 1 + model.blocks.len());
        let statistics = model.batch_statistics(Tensor::ones([1, 192], &device));
        assert_eq!(statistics.len(), 1 + 2 * model.blocks.len());
        let last = maps.last().unwrap().clone().mean_dim(2).mean_dim(3);
        let features = model.seen(Tensor::ones([1, 192], &device)).features;
        let shape = features.dims();
        let difference = last.reshape(shape) - features;
        assert!(difference.abs().max().into_scalar::<f32>() < 1e-6);
    }
}
