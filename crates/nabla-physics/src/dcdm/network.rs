//! The network: residual fields to directions, by convolutions at two resolutions.

use burn::module::{Module, Param};
use burn::nn::PaddingConfig3d;
use burn::nn::conv::{Conv3d, Conv3dConfig};
use burn::nn::pool::AdaptiveAvgPool3dConfig;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::convolution::{conv3d, conv3d_relu};
use nabla_kernels::pooling::adaptive_avg_pool3d;
use nabla_kernels::residual;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{DcdmError, DirectionModel};

/// The architecture, whose default is the paper's for volumes of 64³.
///
/// ```text
/// x ← c_0(r)                           linear, 1 → channels
/// a = c(x);  b = c(a)                  c: a convolution 3×3×3 and ReLU
/// repeat: a = c(b) + a;  b = c(a)      `before` times
/// x ← mean of 2×2×2 of b
/// repeat: x ← c(c(x)) + x              `coarse` times
/// x ← x twice in each dimension, + b
/// repeat: x ← c(c(x)) + x              `after` times
/// q = w · x                            in each cell, channels → 1
/// ```
///
/// Convolutions see zeros around the grid, and have biases. A network works on grids of any size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DcdmNetConfig {
    /// Of the grid: 2 or 3.
    pub dimensions: usize,
    /// Channels between layers. The paper's are 16.
    pub channels: usize,
    /// Residual pairs at full resolution before the pool: 1 for 64³, 2 for 128³.
    pub before: usize,
    /// Pairs at half resolution: 3 for 64³, 5 for 128³.
    pub coarse: usize,
    /// Pairs at full resolution after it: 2 for 64³, 3 for 128³.
    pub after: usize,
}

impl DcdmNetConfig {
    /// The paper's architecture for 64³ unknowns: 15 convolutions and the last layer.
    pub fn small(dimensions: usize) -> Self {
        Self {
            dimensions,
            channels: 16,
            before: 1,
            coarse: 3,
            after: 2,
        }
    }

    /// The paper's architecture for 128³ and more.
    pub fn large(dimensions: usize) -> Self {
        Self {
            before: 2,
            coarse: 5,
            after: 3,
            ..Self::small(dimensions)
        }
    }

    /// With this many channels.
    #[must_use]
    pub fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let dimensions = self.dimensions;
        range::check(
            matches!(dimensions, 2 | 3),
            "number of dimensions",
            dimensions,
            "2 or 3",
        )?;
        range::at_least("number of channels", self.channels, 1)
    }

    /// The network with weights drawn uniformly (Glorot, Bengio 2010), and biases 0.
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn init(&self, device: &Device, noise: &mut SeededNoise) -> Result<DcdmNet, OutOfRange> {
        self.validate()?;
        let channels = self.channels;
        let mut layer = |input: usize, output: usize, side: usize| {
            self.convolution([input, output], side, device, noise)
        };
        let first = layer(1, channels, 3);
        let mut several = |count: usize| -> Vec<Conv3d> {
            (0..count).map(|_| layer(channels, channels, 3)).collect()
        };
        let before = several(2 + 2 * self.before);
        let coarse = several(2 * self.coarse);
        let after = several(2 * self.after);
        let last = layer(channels, 1, 1);
        Ok(DcdmNet {
            first,
            before,
            coarse,
            after,
            last,
            dimensions: self.dimensions,
        })
    }

    fn convolution(
        &self,
        channels: [usize; 2],
        side: usize,
        device: &Device,
        noise: &mut SeededNoise,
    ) -> Conv3d {
        let deep = if self.dimensions == 3 { side } else { 1 };
        let kernel = [deep, side, side];
        let [deep, wide] = [deep / 2, side / 2];
        let mut conv = Conv3dConfig::new(channels, kernel)
            .with_padding(PaddingConfig3d::Explicit(deep, wide, wide))
            .init(device);
        let taps: usize = kernel.iter().product();
        let bound = (6.0 / (taps * (channels[0] + channels[1])) as f64).sqrt();
        let shape = [channels[1], channels[0], kernel[0], kernel[1], kernel[2]];
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| (bound * noise.random_range(-1.0..1.0)) as f32)
            .collect();
        let weight = Tensor::<5>::from_data(TensorData::new(values, shape), device);
        conv.weight = Param::from_tensor(weight);
        conv.bias = Some(Param::from_tensor(Tensor::zeros([channels[1]], device)));
        conv
    }
}

/// The network; see [`DcdmNetConfig`].
#[derive(Module, Debug)]
pub struct DcdmNet {
    first: Conv3d,
    before: Vec<Conv3d>,
    coarse: Vec<Conv3d>,
    after: Vec<Conv3d>,
    last: Conv3d,
    #[module(skip)]
    dimensions: usize,
}

/// `{x ← c(c(x)) + x}` for each pair.
fn pairs(layers: &[Conv3d], mut x: Tensor<5>) -> Tensor<5> {
    for pair in layers.chunks_exact(2) {
        let inner = conv3d_relu(&pair[1], conv3d_relu(&pair[0], x.clone()));
        x = residual::add(inner, x);
    }
    x
}

impl DcdmNet {
    /// Directions, `[batch, 1, depth, height, width]` like the residuals. The depth of planes is 1; sides are even.
    ///
    /// - `r`: `[batch, 1, depth, height, width]`
    pub fn forward(&self, r: Tensor<5>) -> Tensor<5> {
        let x = conv3d(&self.first, r); // [batch, channels, depth, height, width]
        let mut layers = self.before.iter();
        let mut next = |x: Tensor<5>| match layers.next() {
            Some(layer) => conv3d_relu(layer, x),
            None => x,
        };
        let mut a = next(x);
        let mut b = next(a.clone());
        for _ in 0..(self.before.len() - 2) / 2 {
            a = residual::add(next(b), a);
            b = next(a.clone());
        }
        let [_, _, depth, height, width] = b.dims();
        let deep = if self.dimensions == 3 {
            depth / 2
        } else {
            depth
        };
        let pool = AdaptiveAvgPool3dConfig::new([deep, height / 2, width / 2]).init();
        let coarse = pairs(&self.coarse, adaptive_avg_pool3d(&pool, b.clone()));
        let mut up = doubled(doubled(coarse, 4), 3);
        if self.dimensions == 3 {
            up = doubled(up, 2);
        }
        let x = pairs(&self.after, residual::add(up, b));
        conv3d(&self.last, x)
    }

    /// Directions for residuals of a grid, `[batch, cells]` both. Odd sides are made even by zeros.
    ///
    /// - `sides`: of the grid
    ///
    /// # Errors
    /// If the grid doesn't fit the network or the residuals.
    pub fn directions(&self, r: Tensor<2>, sides: &[usize]) -> Result<Tensor<2>, DcdmError> {
        let [depth, height, width] = match (sides, self.dimensions) {
            ([height, width], 2) => [1, *height, *width],
            ([depth, height, width], 3) => [*depth, *height, *width],
            _ => {
                return Err(DcdmError::Dimensions {
                    expected: self.dimensions,
                    found: sides.len(),
                });
            }
        };
        let [batch, cells] = r.dims();
        if cells != depth * height * width {
            return Err(DcdmError::Length {
                what: "residual",
                expected: depth * height * width,
                found: cells,
            });
        }
        let mut x = r.reshape([batch, 1, depth, height, width]);
        let deep = self.dimensions == 3 && depth % 2 == 1;
        for (axis, odd) in [(2, deep), (3, height % 2 == 1), (4, width % 2 == 1)] {
            if odd {
                let mut shape = x.dims();
                shape[axis] = 1;
                x = Tensor::cat(vec![x.clone(), Tensor::zeros(shape, &x.device())], axis);
            }
        }
        let q = self.forward(x);
        let q = q.slice([0..batch, 0..1, 0..depth, 0..height, 0..width]);
        Ok(q.reshape([batch, cells]))
    }
}

/// Each number twice along an axis.
fn doubled(x: Tensor<5>, axis: usize) -> Tensor<5> {
    let mut shape = x.dims();
    let size = shape[axis];
    let before: usize = shape[..axis].iter().product();
    let after: usize = shape[axis + 1..].iter().product();
    shape[axis] = 2 * size;
    let each: Tensor<4> = x.reshape([before, size, 1, after]);
    each.expand([before, size, 2, after]).reshape(shape)
}

/// A network on a grid, as the solver asks for it.
#[derive(Clone, Debug)]
pub struct GridDirections<'a> {
    network: &'a DcdmNet,
    sides: Vec<usize>,
    device: Device,
}

impl<'a> GridDirections<'a> {
    /// - `network`: without gradients
    /// - `sides`: of the grid whose cells the unknowns are, the last index fastest
    pub fn new(network: &'a DcdmNet, sides: &[usize], device: &Device) -> Self {
        Self {
            network,
            sides: sides.to_vec(),
            device: device.clone(),
        }
    }
}

impl DirectionModel for GridDirections<'_> {
    fn direction(&self, unit_residual: &[f64]) -> Result<Vec<f64>, DcdmError> {
        let values: Vec<f32> = unit_residual.iter().map(|&r| r as f32).collect();
        let cells = values.len();
        let r = Tensor::<2>::from_data(TensorData::new(values, [1, cells]), &self.device);
        let q = self.network.directions(r, &self.sides)?;
        let values = q.try_into_vec_as::<f64>();
        values.map_err(|error| DcdmError::Device(error.to_string()))
    }
}
