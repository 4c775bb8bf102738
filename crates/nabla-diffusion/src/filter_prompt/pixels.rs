//! The pixels of a picture, for filters.

use burn::tensor::{Device, Tensor, TensorData};

use super::FilterError;

/// The values of a picture in `[0, 1]`, `[channels, height, width]`: one channel of gray, or three of colours.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    shape: [usize; 3],
    values: Vec<f32>,
}

impl Pixels {
    /// The value of each channel, row and column.
    pub fn from_fn(
        channels: usize,
        height: usize,
        width: usize,
        value: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let mut values = Vec::with_capacity(channels * height * width);
        for channel in 0..channels {
            for row in 0..height {
                values.extend((0..width).map(|column| value(channel, row, column)));
            }
        }
        Self {
            shape: [channels, height, width],
            values,
        }
    }

    /// The values of a tensor `[1, channels, height, width]`.
    ///
    /// # Errors
    /// If they cannot be read from the device.
    pub fn of_tensor(picture: Tensor<4>) -> Result<Self, FilterError> {
        let [_, channels, height, width] = picture.dims();
        let values = picture.slice_dim(0, 0..1).try_into_vec_as::<f32>();
        Ok(Self {
            shape: [channels, height, width],
            values: values.map_err(|error| FilterError::Device(error.to_string()))?,
        })
    }

    /// `[1, channels, height, width]`.
    pub fn into_tensor(self, device: &Device) -> Tensor<4> {
        let [channels, height, width] = self.shape;
        Tensor::from_data(
            TensorData::new(self.values, [1, channels, height, width]),
            device,
        )
    }

    /// The number of channels.
    pub fn channels(&self) -> usize {
        self.shape[0]
    }

    /// `[height, width]`.
    pub fn size(&self) -> [usize; 2] {
        [self.shape[1], self.shape[2]]
    }

    /// All values, row by row, channel by channel.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// A value.
    ///
    /// # Panics
    /// If the picture has no such channel, row or column.
    pub fn get(&self, channel: usize, row: usize, column: usize) -> f32 {
        let [channels, height, width] = self.shape;
        assert!(channel < channels && row < height && column < width);
        self.values[(channel * height + row) * width + column]
    }

    /// A value, of the nearest pixel where the position is outside.
    pub(super) fn nearest(&self, channel: usize, row: isize, column: isize) -> f32 {
        let [height, width] = self.size();
        let within = |at: isize, length: usize| at.clamp(0, length as isize - 1) as usize;
        self.get(channel, within(row, height), within(column, width))
    }

    /// Each value by `change`.
    pub fn map(mut self, change: impl Fn(f32) -> f32) -> Self {
        self.values
            .iter_mut()
            .for_each(|value| *value = change(*value));
        self
    }

    /// The values of each channel by `change`, which gets them all.
    pub(super) fn map_channels(mut self, change: impl Fn(&mut [f32])) -> Self {
        let [height, width] = self.size();
        self.values.chunks_mut(height * width).for_each(change);
        self
    }

    /// Each pixel from the pixels around it.
    pub(super) fn map_pixels(&self, value: impl Fn(&Self, usize, usize, usize) -> f32) -> Self {
        let [channels, height, width] = self.shape;
        Self::from_fn(channels, height, width, |c, y, x| value(self, c, y, x))
    }

    /// `(1 − share) self + share other`, of the same shape.
    pub(super) fn mixed(mut self, other: &Self, share: f32) -> Self {
        for (own, other) in self.values.iter_mut().zip(&other.values) {
            *own += share * (other - *own);
        }
        self
    }

    /// The same with the share of the pixel in the first channel of `mask`.
    pub(super) fn mixed_by(mut self, other: &Self, mask: &Self) -> Self {
        let [height, width] = self.size();
        let plane = height * width;
        for (at, (own, other)) in self.values.iter_mut().zip(&other.values).enumerate() {
            *own += mask.values[at % plane] * (other - *own);
        }
        self
    }

    /// The brightness of each pixel, `0.299 R + 0.587 G + 0.114 B` (ITU-R BT.601).
    pub fn brightness(&self) -> Vec<f32> {
        let [height, width] = self.size();
        let plane = height * width;
        match self.channels() {
            3 => (0..plane)
                .map(|at| {
                    let [red, green, blue] = [0, 1, 2].map(|c| self.values[c * plane + at]);
                    0.299 * red + 0.587 * green + 0.114 * blue
                })
                .collect(),
            _ => self.values[..plane].to_vec(),
        }
    }

    /// # Errors
    /// If there are no pixels, or a value is outside `[0, 1]`.
    pub(super) fn check(&self) -> Result<(), FilterError> {
        if self.values.is_empty() {
            return Err(FilterError::Empty);
        }
        let outside = |value: &&f32| !(0.0..=1.0).contains(*value);
        match self.values.iter().find(outside) {
            Some(&value) => Err(FilterError::Value(value)),
            None => Ok(()),
        }
    }
}
