//! A kernel of the user's own.

use burn::config::Config;
use nabla_base::range;

use super::{FilterError, PixelFilter, Pixels, rank};

/// `Σ values · pixels around / scale + offset`, upright as it is written (a correlation). As in Pillow, pixels whose
/// window would leave the picture are kept.
#[derive(Config, Debug, PartialEq)]
pub struct Kernel {
    /// Row by row, a square with an odd side. Default: sharpening.
    #[config(default = "vec![0.0, -1.0, 0.0, -1.0, 5.0, -1.0, 0.0, -1.0, 0.0]")]
    pub values: Vec<f64>,
    /// Default: the sum of the values, or 1 if that is 0.
    #[config(default = "None")]
    pub scale: Option<f64>,
    /// Default 0.
    #[config(default = 0.0)]
    pub offset: f64,
}

impl PixelFilter for Kernel {
    fn apply(&self, picture: Pixels, _: Option<&Pixels>) -> Result<Pixels, FilterError> {
        let side = self.values.len().isqrt();
        let square = side * side == self.values.len() && side > 0;
        let count = self.values.len();
        range::check(
            square,
            "number of values of a kernel",
            count,
            "a square, as 9 or 25",
        )?;
        rank::check_window(side)?;
        for &value in &self.values {
            range::finite("value of a kernel", value)?;
        }
        range::finite("offset of a kernel", self.offset)?;
        let sum: f64 = self.values.iter().sum();
        let scale = self.scale.unwrap_or(if sum == 0.0 { 1.0 } else { sum });
        let divides = scale.is_finite() && scale != 0.0;
        range::check(divides, "scale of a kernel", scale, "finite, and not 0")?;
        let reach = side / 2;
        let [height, width] = picture.size();
        Ok(picture.map_pixels(|from, channel, row, column| {
            let inside =
                row >= reach && column >= reach && row + reach < height && column + reach < width;
            if !inside {
                return from.get(channel, row, column);
            }
            let terms = self.values.iter().enumerate().map(|(at, value)| {
                let (dy, dx) = (at / side, at % side);
                value * f64::from(from.get(channel, row + dy - reach, column + dx - reach))
            });
            (terms.sum::<f64>() / scale + self.offset) as f32
        }))
    }
}
