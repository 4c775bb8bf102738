//! A network of two layers with rectified units, without offsets, as theory has it.
//!
//! ```text
//! f(x) = Σ_j a_j max(0, ⟨w_j, x⟩)
//! path norm = Σ_j |a_j| ‖w_j‖₂
//! ```

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::norm;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::trace::Probe;

/// The network.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_probe::two_layer_relu::TwoLayerRelu;
///
/// let device = Device::flex();
/// let inner = Tensor::<2>::from_floats([[3.0, 4.0], [1.0, 0.0]], &device);
/// let outer = Tensor::<1>::from_floats([2.0, -1.0], &device);
/// let network = TwoLayerRelu::of(inner, outer)?;
/// assert_eq!(network.path_norm()?, 11.0);
/// # Ok::<(), nabla_probe::two_layer_relu::TwoLayerReluError>(())
/// ```
#[derive(Module, Debug)]
pub struct TwoLayerRelu {
    /// `w_j`, `[units, inputs]`.
    pub inner: Param<Tensor<2>>,
    /// `a_j`, `[units]`.
    pub outer: Param<Tensor<1>>,
}

/// The reason why there is no such network, or nothing known of it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TwoLayerReluError {
    /// A size or deviation is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The layers don't fit.
    #[error("the inner layer has {inner} units, but the outer one {outer}")]
    Units {
        /// Of the inner layer.
        inner: usize,
        /// Of the outer layer.
        outer: usize,
    },
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

impl TwoLayerRelu {
    /// From its weights: `inner` `[units, inputs]` and `outer` `[units]`.
    ///
    /// # Errors
    /// If they are of different numbers of units, or none.
    pub fn of(inner: Tensor<2>, outer: Tensor<1>) -> Result<Self, TwoLayerReluError> {
        let ([units, inputs], [others]) = (inner.dims(), outer.dims());
        if units != others {
            return Err(TwoLayerReluError::Units {
                inner: units,
                outer: others,
            });
        }
        range::at_least("number of units", units, 1)?;
        range::at_least("number of inputs", inputs, 1)?;
        Ok(Self {
            inner: Param::from_tensor(inner),
            outer: Param::from_tensor(outer),
        })
    }

    /// A network of which only the inner layer is trained: `w_j ~ N(0, σ² I)` and `a_j = ±1/√units`, frozen.
    ///
    /// - `deviation`: `σ`
    ///
    /// # Errors
    /// If there are no inputs or units, or the deviation is negative or not finite.
    pub fn frozen_head(
        inputs: usize,
        units: usize,
        deviation: f64,
        seed: u64,
        device: &Device,
    ) -> Result<Self, TwoLayerReluError> {
        range::not_negative("deviation of the first weights", deviation)?;
        range::at_least("number of units", units, 1)?;
        range::at_least("number of inputs", inputs, 1)?;
        let mut noise = SeededNoise::new(seed, 0);
        let inner = noise.normal([units, inputs], device) * deviation;
        let height = 1.0 / (units as f64).sqrt();
        let signs = Probe::Rademacher.draw(units, &mut noise);
        let outer: Vec<f64> = signs.iter().map(|sign| sign * height).collect();
        let outer = Tensor::from_data(TensorData::new(outer, [units]), (device, inner.dtype()));
        let mut network = Self::of(inner, outer)?;
        network.outer = network.outer.set_require_grad(false);
        Ok(network)
    }

    /// `f(x)`, `[examples]`, for `x` `[examples, inputs]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<1> {
        let hidden = relu(x.matmul(self.inner.val().transpose())); // [examples, units]
        hidden
            .matmul(self.outer.val().unsqueeze_dim(1))
            .squeeze_dim(1)
    }

    /// `Σ_j |a_j| ‖w_j‖₂`.
    ///
    /// # Errors
    /// If the weights cannot be read from the device.
    pub fn path_norm(&self) -> Result<f64, TwoLayerReluError> {
        let [_, inputs] = self.inner.dims();
        let (inner, outer) = (read(self.inner.val())?, read(self.outer.val())?);
        let units = outer.iter().zip(inner.chunks(inputs));
        Ok(units.map(|(a, w)| a.abs() * norm(w)).sum())
    }
}

fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f64>, TwoLayerReluError> {
    let values = tensor.try_into_vec_as::<f64>();
    values.map_err(|error| TwoLayerReluError::Device(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_scaled_against_its_weight_is_the_same_network() {
        let device = Device::flex();
        let network = TwoLayerRelu::frozen_head(5, 8, 0.5, 1, &device).unwrap();
        let scaled =
            TwoLayerRelu::of(network.inner.val() * 4.0, network.outer.val() * 0.25).unwrap();
        let x = SeededNoise::new(2, 0).normal([6, 5], &device);
        let [one, other] =
            [&network, &scaled].map(|network| read(network.forward(x.clone())).unwrap());
        for (a, b) in one.iter().zip(&other) {
            assert!((a - b).abs() < 1e-6);
        }
        let norms = [&network, &scaled].map(|network| network.path_norm().unwrap());
        assert!((norms[0] - norms[1]).abs() < 1e-5 * norms[0]);
        assert!(!network.outer.val().is_require_grad());
    }

    #[test]
    fn sizes_are_checked() {
        let device = Device::flex();
        let of = |units| {
            TwoLayerRelu::of(
                Tensor::zeros([units, 2], &device),
                Tensor::zeros([3], &device),
            )
        };
        assert!(matches!(
            of(2),
            Err(TwoLayerReluError::Units { inner: 2, outer: 3 })
        ));
        assert!(of(3).is_ok());
        assert!(TwoLayerRelu::frozen_head(0, 3, 1.0, 0, &device).is_err());
        assert!(TwoLayerRelu::frozen_head(2, 3, f64::NAN, 0, &device).is_err());
    }
}
