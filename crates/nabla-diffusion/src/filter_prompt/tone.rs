//! Filters of the brightness and the colours of each pixel.

use burn::config::Config;
use nabla_base::range;

use super::{FilterError, PixelFilter, Pixels};

/// The brightness in every channel.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Gray {}

/// `1 − v`.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Invert {}

/// `m + factor (v − m)`, with the mean brightness `m`, rounded to one of 256 shades as in Pillow.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Contrast {
    /// At least 0; 1 changes nothing. Default 1.5.
    #[config(default = 1.5)]
    pub factor: f64,
}

/// Each channel stretched to the range from 0 to 1. A channel of one value only is kept.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct AutoContrast {
    /// The share of the darkest and of the lightest pixels that do not count, in per cent, below 50. Default 0.
    #[config(default = 0.0)]
    pub cutoff: f64,
}

impl PixelFilter for Gray {
    fn is_tonal(&self) -> bool {
        true
    }

    fn apply(&self, picture: Pixels, _: Option<&Pixels>) -> Result<Pixels, FilterError> {
        let brightness = picture.brightness();
        let ([height, width], channels) = (picture.size(), picture.channels());
        Ok(Pixels::from_fn(channels, height, width, |_, y, x| {
            brightness[y * width + x]
        }))
    }
}

impl PixelFilter for Invert {
    fn is_tonal(&self) -> bool {
        true
    }

    fn apply(&self, picture: Pixels, _: Option<&Pixels>) -> Result<Pixels, FilterError> {
        Ok(picture.map(|value| 1.0 - value))
    }
}

impl PixelFilter for Contrast {
    fn is_tonal(&self) -> bool {
        true
    }

    fn apply(&self, picture: Pixels, _: Option<&Pixels>) -> Result<Pixels, FilterError> {
        range::not_negative("factor of the contrast", self.factor)?;
        let brightness = picture.brightness();
        let sum: f64 = brightness.iter().map(|&v| f64::from(v)).sum();
        let mean = (255.0 * sum / brightness.len() as f64 + 0.5).floor() / 255.0;
        let factor = self.factor;
        Ok(picture.map(|value| (mean + factor * (f64::from(value) - mean)) as f32))
    }
}

impl PixelFilter for AutoContrast {
    fn is_tonal(&self) -> bool {
        true
    }

    fn apply(&self, picture: Pixels, _: Option<&Pixels>) -> Result<Pixels, FilterError> {
        let fits = (0.0..50.0).contains(&self.cutoff);
        range::check(
            fits,
            "cutoff of the contrast in per cent",
            self.cutoff,
            "in [0, 50)",
        )?;
        Ok(picture.map_channels(|values| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f32::total_cmp);
            let cut = (sorted.len() as f64 * self.cutoff / 100.0).floor() as usize;
            let (low, high) = (sorted[cut], sorted[sorted.len() - 1 - cut]);
            if high > low {
                let stretched = |value: f32| ((value - low) / (high - low)).clamp(0.0, 1.0);
                values
                    .iter_mut()
                    .for_each(|value| *value = stretched(*value));
            }
        }))
    }
}
