//! What the attacks suppose of pictures: that neighbouring pixels are alike, and values small.
//!
//! ```text
//! R(x) = λ_tv TV(x) + λ_n ‖x‖₂/S²,      TV(x) = mean|∂_h x| + mean|∂_v x|
//! ```
//!
//! with the side `S` of the picture and one mean for each direction.

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

use super::error::LeakageError;
use super::gradient_oracle::{norm, number};

/// The regulariser of the pixels; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PixelPrior {
    /// `λ_tv`. Default 1e-4.
    pub total_variation: f64,
    /// `λ_n`. Default 1e-6.
    pub norm: f64,
}

impl Default for PixelPrior {
    fn default() -> Self {
        Self {
            total_variation: 1e-4,
            norm: 1e-6,
        }
    }
}

impl PixelPrior {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// If a weight is negative.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::not_negative("weight of the total variation", self.total_variation)?;
        range::not_negative("weight of the norm", self.norm)
    }

    /// `∂R/∂x`, `[batch, channels · height · width]`.
    ///
    /// - `pictures`: as the result; `shape`: channels, height and width
    ///
    /// # Errors
    /// If the pictures are not finite.
    pub fn slope(
        &self,
        pictures: &Tensor<2>,
        shape: [usize; 3],
    ) -> Result<Tensor<2>, LeakageError> {
        let [batch, pixels] = pictures.dims();
        let [channels, height, width] = shape;
        let side = height.max(width) as f64;
        let mut slope = pictures.zeros_like();
        if self.total_variation > 0.0 {
            let x = pictures.clone().reshape([batch, channels, height, width]);
            let across = variation_slope(x.clone(), 3);
            let down = variation_slope(x, 2);
            slope = slope + (across + down).reshape([batch, pixels]) * self.total_variation;
        }
        if self.norm > 0.0 {
            let length = norm(&pictures.clone().flatten::<1>(0, 1))?;
            if length > 0.0 {
                slope = slope + pictures.clone() * (self.norm / (length * side * side));
            }
        }
        Ok(slope)
    }
}

/// The derivative of the mean of `|x_{i+1} − x_i|` along a dimension, `[batch, channels, height, width]`.
fn variation_slope(x: Tensor<4>, dim: usize) -> Tensor<4> {
    let length = x.dims()[dim];
    if length < 2 {
        return x.zeros_like();
    }
    let signs = (x.clone().narrow(dim, 1, length - 1) - x.narrow(dim, 0, length - 1)).sign();
    let count: usize = signs.dims().iter().product();
    let edge = signs.clone().narrow(dim, 0, 1).zeros_like();
    let after = Tensor::cat(vec![edge.clone(), signs.clone()], dim);
    let before = Tensor::cat(vec![signs, edge], dim);
    (after - before) / count as f64
}

/// `TV(x)` of pictures, `[batch, channels · height · width]`, with channels, height and width.
///
/// # Errors
/// If a value is not finite.
pub fn total_variation(pictures: &Tensor<2>, shape: [usize; 3]) -> Result<f64, LeakageError> {
    let [batch, _] = pictures.dims();
    let [channels, height, width] = shape;
    let x = pictures.clone().reshape([batch, channels, height, width]);
    let along = |dim: usize| match x.dims()[dim] {
        0 | 1 => Ok(0.0),
        length => {
            let ahead = x.clone().narrow(dim, 1, length - 1);
            number((ahead - x.clone().narrow(dim, 0, length - 1)).abs().mean())
        }
    };
    Ok(along(2)? + along(3)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};
    use nabla_grad::seeded_noise::SeededNoise;

    #[test]
    fn a_ramp_varies_by_its_step() {
        let ramp: Vec<f32> = (0..14 * 14).map(|i| (i % 14) as f32 / 13.0).collect();
        let ramp = Tensor::<2>::from_data(TensorData::new(ramp, [1, 196]), &Device::flex());
        let found = total_variation(&ramp, [1, 14, 14]).unwrap();
        assert!((found - 1.0 / 13.0).abs() < 1e-6);
    }

    #[test]
    fn slopes_are_differences() {
        let shape = [2, 3, 4];
        let prior = PixelPrior {
            total_variation: 1.0,
            norm: 0.0,
        };
        let device = Device::flex();
        let x = SeededNoise::new(1, 0).normal::<2>([2, 24], &device);
        let x = x.cast(DType::F64);
        let slope: Vec<f64> = prior.slope(&x, shape).unwrap().into_data().iter().collect();
        let values: Vec<f64> = x.into_data().iter().collect();
        for i in 0..values.len() {
            let at = |h: f64| {
                let mut moved = values.clone();
                moved[i] += h;
                let moved = TensorData::new(moved, [2, 24]);
                let moved = Tensor::from_data(moved, (&device, DType::F64));
                total_variation(&moved, shape).unwrap()
            };
            let difference = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!(
                (difference - slope[i]).abs() < 1e-7,
                "{difference} {}",
                slope[i]
            );
        }
    }
}
