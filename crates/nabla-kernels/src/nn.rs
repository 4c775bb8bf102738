//! Burn's layers, computed by the kernels.
//!
//! Each layer wraps the one of its name in [`burn::nn`]: same parameters, same records, other `forward`. A model gets
//! the kernels by the path of its imports, and `into()` where a layer is made; checkpoints written before load.
//!
//! ```
//! use burn::module::Module;
//! use burn::nn::{LinearConfig, Relu};
//! use burn::tensor::{Device, Tensor};
//! use nabla_kernels::nn::Linear;
//!
//! #[derive(Module, Debug)]
//! struct Mlp {
//!     hidden: Linear,
//!     output: Linear,
//! }
//!
//! impl Mlp {
//!     fn new(device: &Device) -> Self {
//!         Self {
//!             hidden: LinearConfig::new(4, 16).init(device).into(),
//!             output: LinearConfig::new(16, 2).init(device).into(),
//!         }
//!     }
//!
//!     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
//!         self.output.forward(Relu::new().forward(self.hidden.forward(x)))
//!     }
//! }
//!
//! let device = Device::flex();
//! let y = Mlp::new(&device).forward(Tensor::ones([3, 4], &device));
//! assert_eq!(y.dims(), [3, 2]);
//! ```

use std::ops::{Deref, DerefMut};

use burn::module::{
    Content, Devices, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor,
};
use burn::nn;
use burn::tensor::{Device, Int, Tensor};

use crate::{convolution, embedding, linear, normalization, pooling, prelu};

/// A layer of ours around Burn's.
macro_rules! layer {
    ($name:ident($inner:ty), $forward:item) => {
        #[doc = concat!("[`", stringify!($inner), "`](burn::", stringify!($inner), ") with the kernels.")]
        #[derive(Clone, Debug)]
        pub struct $name(pub $inner);

        impl $name {
            $forward
        }

        impl From<$inner> for $name {
            fn from(inner: $inner) -> Self {
                Self(inner)
            }
        }

        impl Deref for $name {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.0
            }
        }

        impl DerefMut for $name {
            fn deref_mut(&mut self) -> &mut $inner {
                &mut self.0
            }
        }

        impl Module for $name {
            fn collect_devices(&self, devices: Devices) -> Devices {
                self.0.collect_devices(devices)
            }

            fn fork(self, device: &Device) -> Self {
                Self(self.0.fork(device))
            }

            fn to_device(self, device: &Device) -> Self {
                Self(self.0.to_device(device))
            }

            fn train(self) -> Self {
                Self(self.0.train())
            }

            fn valid(&self) -> Self {
                Self(self.0.valid())
            }

            fn materialize(self) -> Self {
                Self(self.0.materialize())
            }

            fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
                self.0.visit(visitor);
            }

            fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
                Self(self.0.map(mapper))
            }
        }

        impl ModuleDisplayDefault for $name {
            fn content(&self, content: Content) -> Option<Content> {
                self.0.content(content)
            }

            fn num_params(&self) -> usize {
                ModuleDisplayDefault::num_params(&self.0)
            }
        }

        impl ModuleDisplay for $name {
            fn custom_settings(&self) -> Option<DisplaySettings> {
                self.0.custom_settings()
            }

            fn custom_content(&self, content: Content) -> Option<Content> {
                self.0.custom_content(content)
            }
        }
    };
}

layer!(
    Linear(nn::Linear),
    /// [`linear::linear`].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear::linear(&self.0, x)
    }
);
layer!(
    Conv1d(nn::conv::Conv1d),
    /// [`convolution::conv1d`].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        convolution::conv1d(&self.0, x)
    }
);
layer!(
    Conv2d(nn::conv::Conv2d),
    /// [`convolution::conv2d`].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        convolution::conv2d(&self.0, x)
    }
);
layer!(
    Conv3d(nn::conv::Conv3d),
    /// [`convolution::conv3d`].
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        convolution::conv3d(&self.0, x)
    }
);
layer!(
    ConvTranspose1d(nn::conv::ConvTranspose1d),
    /// [`convolution::conv_transpose1d`].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        convolution::conv_transpose1d(&self.0, x)
    }
);
layer!(
    ConvTranspose2d(nn::conv::ConvTranspose2d),
    /// [`convolution::conv_transpose2d`].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        convolution::conv_transpose2d(&self.0, x)
    }
);
layer!(
    ConvTranspose3d(nn::conv::ConvTranspose3d),
    /// [`convolution::conv_transpose3d`].
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        convolution::conv_transpose3d(&self.0, x)
    }
);
layer!(
    BatchNorm(nn::BatchNorm),
    /// [`normalization::batch_norm`].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        normalization::batch_norm(&self.0, x)
    }
);
layer!(
    GroupNorm(nn::GroupNorm),
    /// [`normalization::group_norm`].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        normalization::group_norm(&self.0, x)
    }
);
layer!(
    InstanceNorm(nn::InstanceNorm),
    /// [`normalization::instance_norm`].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        normalization::instance_norm(&self.0, x)
    }
);
layer!(
    RmsNorm(nn::RmsNorm),
    /// [`normalization::rms_norm`].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        normalization::rms_norm(&self.0, x)
    }
);
layer!(
    LayerNorm(nn::LayerNorm),
    /// [`normalization::layer_norm`]; `epsilon` is that of the layer's configuration, by default 1e-5, which Burn
    /// doesn't make public.
    pub fn forward<const D: usize>(&self, epsilon: f64, x: Tensor<D>) -> Tensor<D> {
        normalization::layer_norm(&self.0, epsilon, x)
    }
);
layer!(
    Embedding(nn::Embedding),
    /// [`embedding::embedding`].
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        embedding::embedding(&self.0, ids)
    }
);
layer!(
    PRelu(nn::PRelu),
    /// [`prelu::prelu`].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        prelu::prelu(&self.0, x)
    }
);
layer!(
    MaxPool1d(nn::pool::MaxPool1d),
    /// Computes the layer: [`max_pool1d`](crate::pooling::max_pool1d).
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        pooling::max_pool1d(&self.0, x)
    }
);
layer!(
    AvgPool1d(nn::pool::AvgPool1d),
    /// Computes the layer: [`avg_pool1d`](crate::pooling::avg_pool1d).
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        pooling::avg_pool1d(&self.0, x)
    }
);
layer!(
    AdaptiveAvgPool1d(nn::pool::AdaptiveAvgPool1d),
    /// Computes the layer: [`adaptive_avg_pool1d`](crate::pooling::adaptive_avg_pool1d).
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        pooling::adaptive_avg_pool1d(&self.0, x)
    }
);
layer!(
    MaxPool2d(nn::pool::MaxPool2d),
    /// [`pooling::max_pool2d`].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        pooling::max_pool2d(&self.0, x)
    }
);
layer!(
    AvgPool2d(nn::pool::AvgPool2d),
    /// [`pooling::avg_pool2d`].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        pooling::avg_pool2d(&self.0, x)
    }
);
layer!(
    AdaptiveAvgPool2d(nn::pool::AdaptiveAvgPool2d),
    /// [`pooling::adaptive_avg_pool2d`].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        pooling::adaptive_avg_pool2d(&self.0, x)
    }
);
layer!(
    AdaptiveAvgPool3d(nn::pool::AdaptiveAvgPool3d),
    /// [`pooling::adaptive_avg_pool3d`].
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        pooling::adaptive_avg_pool3d(&self.0, x)
    }
);

#[cfg(test)]
mod pytorch_values;

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::conv::Conv2dConfig;
    use burn::nn::{BatchNormConfig, LinearConfig};

    #[derive(Module, Debug)]
    struct Burns {
        conv: nn::conv::Conv2d,
        norm: nn::BatchNorm,
        output: nn::Linear,
    }

    #[derive(Module, Debug)]
    struct Ours {
        conv: Conv2d,
        norm: BatchNorm,
        output: Linear,
    }

    /// What Burn's layers saved loads into ours, and the other way round, with the same names.
    #[test]
    fn records_are_burns() {
        let device = Device::flex();
        let burns = |device: &Device| Burns {
            conv: Conv2dConfig::new([1, 2], [3, 3]).init(device),
            norm: BatchNormConfig::new(2).init(device),
            output: LinearConfig::new(8, 3).init(device),
        };
        let ours = |device: &Device| {
            let Burns { conv, norm, output } = burns(device);
            Ours {
                conv: conv.into(),
                norm: norm.into(),
                output: output.into(),
            }
        };
        let x = Tensor::<4>::random([1, 1, 4, 4], burn::tensor::Distribution::Default, &device);
        let saved = burns(&device);
        let expected = {
            let y = saved.norm.forward(saved.conv.forward(x.clone()));
            saved.output.forward(y.flatten::<2>(1, 3))
        };
        let through = |ours: &Ours| {
            let y = ours.norm.forward(ours.conv.forward(x.clone()));
            ours.output.forward(y.flatten::<2>(1, 3)).into_data()
        };
        let loaded = ours(&device).load_record(saved.into_record());
        let near = burn::tensor::Tolerance::<f32>::absolute(1e-5);
        through(&loaded).assert_approx_eq(&expected.into_data(), near);
        assert_eq!(
            Module::num_params(&loaded),
            Module::num_params(&burns(&device))
        );
        let before = through(&loaded);
        let back = burns(&device).load_record(loaded.into_record());
        let again = ours(&device).load_record(back.into_record());
        through(&again).assert_approx_eq(&before, near);
    }
}
