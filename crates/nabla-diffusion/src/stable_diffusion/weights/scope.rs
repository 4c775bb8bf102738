//! The tensors below a prefix, and the layers built from them.

use std::fmt;

use burn::module::Param;
use burn::nn::conv::Conv2d;
use burn::nn::{Embedding, GroupNorm, LayerNorm, LayerNormConfig, Linear, PaddingConfig2d};
use burn::tensor::{DType, Device, Tensor};

use super::{Weights, WeightsError};

/// The tensors below a prefix.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    pub(super) weights: &'a Weights,
    pub(super) prefix: String,
}

impl Scope<'_> {
    /// The tensors below `prefix.name`.
    pub fn at(&self, name: impl fmt::Display) -> Self {
        Self {
            weights: self.weights,
            prefix: self.full(name),
        }
    }

    fn full(&self, name: impl fmt::Display) -> String {
        match self.prefix.as_str() {
            "" => name.to_string(),
            prefix => format!("{prefix}.{name}"),
        }
    }

    /// The device of the tensors.
    pub fn device(&self) -> &Device {
        &self.weights.device
    }

    /// Whether this tensor exists.
    pub fn has(&self, name: &str) -> bool {
        self.weights.lookup(&self.full(name)).1.is_some()
    }

    /// The shape of a tensor in the file.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (there, entry) = self.weights.lookup(&self.full(name));
        there.shape(&entry?.shape)
    }

    /// A tensor.
    ///
    /// # Errors
    /// If there is none, it has another shape, or it cannot be read.
    pub fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, WeightsError> {
        let data = self.weights.read(&self.full(name), &shape)?;
        let dtype = self.weights.precision.dtype();
        Ok(Tensor::from_data(
            data.convert_dtype(dtype),
            (self.device(), dtype),
        ))
    }

    /// The numbers of a tensor of any shape, and its shape.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn values(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>), WeightsError> {
        let shape = self.shape(name).unwrap_or_default();
        let data = self.weights.read(&self.full(name), &shape)?;
        let values = data.convert_dtype(DType::F32).try_to_vec();
        let values = values.map_err(|e| WeightsError::Format {
            path: self.weights.paths.first().cloned().unwrap_or_default(),
            reason: format!("the tensor {name} cannot be read: {e:?}"),
        })?;
        Ok((values, shape))
    }

    /// Whether a tensor of any kind of numbers has one that is not 0.
    ///
    /// # Errors
    /// If there is none, or it cannot be read.
    pub fn is_nonzero(&self, name: &str) -> Result<bool, WeightsError> {
        self.weights.is_nonzero(&self.full(name))
    }

    fn parameter<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, WeightsError> {
        Ok(Param::from_tensor(self.tensor(name, shape)?))
    }

    /// `x Wᵀ + b`; the file has `weight`, `[output, input]`, and `bias`, `[output]`.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn linear(&self, input: usize, output: usize) -> Result<Linear, WeightsError> {
        let bias = self.parameter("bias", [output])?;
        Ok(Linear {
            bias: Some(bias),
            ..self.linear_without_bias(input, output)?
        })
    }

    /// `x Wᵀ`.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn linear_without_bias(&self, input: usize, output: usize) -> Result<Linear, WeightsError> {
        let weight = self.tensor("weight", [output, input])?;
        Ok(Linear {
            weight: Param::from_tensor(weight.transpose()),
            bias: None,
        })
    }

    /// A convolution with a square kernel, padded with zeros so that stride 1 keeps the size of the picture.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn conv2d(
        &self,
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<Conv2d, WeightsError> {
        let margin = kernel / 2;
        Ok(Conv2d {
            weight: self.parameter("weight", [output, input, kernel, kernel])?,
            bias: Some(self.parameter("bias", [output])?),
            stride: [stride; 2],
            kernel_size: [kernel; 2],
            dilation: [1; 2],
            groups: 1,
            padding: PaddingConfig2d::Explicit(margin, margin, margin, margin),
        })
    }

    /// Group normalisation with a gain and an offset.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn group_norm(
        &self,
        groups: usize,
        channels: usize,
        epsilon: f64,
    ) -> Result<GroupNorm, WeightsError> {
        Ok(GroupNorm {
            gamma: Some(self.parameter("weight", [channels])?),
            beta: Some(self.parameter("bias", [channels])?),
            num_groups: groups,
            num_channels: channels,
            epsilon,
            affine: true,
        })
    }

    /// Layer normalisation with a gain and an offset.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn layer_norm(&self, channels: usize, epsilon: f64) -> Result<LayerNorm, WeightsError> {
        let mut norm = LayerNormConfig::new(channels)
            .with_epsilon(epsilon)
            .init(self.device());
        norm.gamma = self.parameter("weight", [channels])?;
        norm.beta = Some(self.parameter("bias", [channels])?);
        Ok(norm)
    }

    /// A table of `count` vectors of `channels` numbers.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn embedding(&self, count: usize, channels: usize) -> Result<Embedding, WeightsError> {
        Ok(Embedding {
            weight: self.parameter("weight", [count, channels])?,
        })
    }
}
