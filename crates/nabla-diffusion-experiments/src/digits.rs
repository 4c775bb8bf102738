//! The handwritten digits, normalized.

use burn::tensor::{Device, Tensor, TensorData};
use nabla_claims::ClaimError;
use nabla_diffusion::kinetic_optimal::{Normalized, normalized};

/// Numbers of a digit: 8 x 8 pixels.
pub(crate) const PIXELS: usize = 64;

/// The number of digits.
pub(crate) const CLASSES: usize = 10;

/// The digits with mean 0 and mean square 1.
pub(crate) struct Digits {
    /// One after the other, and how to come back.
    pub(crate) values: Normalized,
    pub(crate) classes: Vec<usize>,
}

impl Digits {
    pub(crate) fn load() -> Result<Self, ClaimError> {
        let pictures = nabla_data::digits().map_err(ClaimError::experiment)?;
        let values = (0..pictures.len()).flat_map(|i| pictures.pixels(i).iter());
        let values: Vec<f64> = values.map(|&value| f64::from(value)).collect();
        Ok(Self {
            values: normalized(&values, PIXELS).map_err(ClaimError::experiment)?,
            classes: pictures.labels().iter().map(|&l| usize::from(l)).collect(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.classes.len()
    }

    /// Some digits, `[count, PIXELS]`.
    pub(crate) fn rows(&self, chosen: impl Iterator<Item = usize>, device: &Device) -> Tensor<2> {
        let points = &self.values.points;
        let values = chosen.flat_map(|i| &points[i * PIXELS..(i + 1) * PIXELS]);
        let values: Vec<f32> = values.map(|&value| value as f32).collect();
        let count = values.len() / PIXELS;
        Tensor::from_data(TensorData::new(values, [count, PIXELS]), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_normalized_and_come_in_the_order_asked_for() {
        let digits = Digits::load().unwrap();
        assert_eq!(digits.len(), 1797);
        let rows = digits.rows([3, 0].into_iter(), &Device::flex());
        assert_eq!(rows.dims(), [2, PIXELS]);
        let first = rows.slice_dim(0, 1..2).try_into_vec_as::<f32>().unwrap();
        assert_eq!(first[5], digits.values.points[5] as f32);
        // The first digit of the set is a 0.
        assert_eq!(digits.classes[0], 0);
    }
}
