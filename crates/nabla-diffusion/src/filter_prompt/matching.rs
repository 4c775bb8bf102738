//! Filters that compare with the picture of the other branch.

use burn::config::Config;

use super::{FilterError, PixelFilter, Pixels};

/// The least and the greatest brightness become those of the other picture. A picture of one brightness is kept.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct MatchRange {}

/// Inverts the picture if its median brightness is in the other half of its range than that of the other picture:
/// something dark on light ground becomes something light on dark ground.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct MatchPolarity {}

/// The least, the median and the greatest brightness.
fn brightness(picture: &Pixels) -> [f32; 3] {
    let mut all = picture.brightness();
    all.sort_by(f32::total_cmp);
    [all[0], all[all.len() / 2], all[all.len() - 1]]
}

impl PixelFilter for MatchRange {
    fn is_tonal(&self) -> bool {
        true
    }

    fn apply(&self, picture: Pixels, other: Option<&Pixels>) -> Result<Pixels, FilterError> {
        let other = other.ok_or(FilterError::NoOther("match-range"))?;
        let ([low, _, high], [to_low, _, to_high]) = (brightness(&picture), brightness(other));
        if high <= low {
            return Ok(picture);
        }
        let slope = (to_high - to_low) / (high - low);
        Ok(picture.map(|value| to_low + slope * (value - low)))
    }
}

impl PixelFilter for MatchPolarity {
    fn is_tonal(&self) -> bool {
        true
    }

    fn apply(&self, picture: Pixels, other: Option<&Pixels>) -> Result<Pixels, FilterError> {
        let other = other.ok_or(FilterError::NoOther("match-polarity"))?;
        let on_light = |picture: &Pixels| {
            let [low, median, high] = brightness(picture);
            median > (low + high) / 2.0
        };
        match on_light(&picture) == on_light(other) {
            true => Ok(picture),
            false => Ok(picture.map(|value| 1.0 - value)),
        }
    }
}
