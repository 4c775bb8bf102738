//! Rotated pictures: the same classes, and a domain for every angle.
//!
//! The rules are those of DomainBed's rotated MNIST, for any grey pictures: they are shuffled and dealt to the domains in
//! turn, and those of a domain are turned counter-clockwise by its angle about the middle, with bilinear interpolation,
//! and black outside.

use nabla_base::range;
use nabla_data::LabelledPictures;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::order::permutation;
use serde::{Deserialize, Serialize};

use crate::coloured::GreyPictures;
use crate::domains::{DomainError, Domains};

/// The rules; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotated {
    /// The angles in degrees. Default 0, 15, …, 75.
    pub angles: Vec<f64>,
}

impl Default for Rotated {
    fn default() -> Self {
        Self {
            angles: vec![0.0, 15.0, 30.0, 45.0, 60.0, 75.0],
        }
    }
}

/// The order in which pictures are dealt to domains.
const DEALT: u64 = 0;

/// A grey picture turned counter-clockwise about its middle.
///
/// - `pixels`: `[height·width]`, row by row; pixels whose middle comes from outside are 0
///
/// ```
/// use nabla_align::rotated::turned;
///
/// assert_eq!(turned(&[1.0, 2.0, 3.0, 4.0], [2, 2], 90.0), [2.0, 4.0, 1.0, 3.0]);
/// ```
pub fn turned(pixels: &[f32], [height, width]: [usize; 2], degrees: f64) -> Vec<f32> {
    // A quarter turn has no rounding.
    let exact = |x: f64| (x * 1e15).round() / 1e15;
    let (sin, cos) = degrees.to_radians().sin_cos();
    let (sin, cos) = (exact(sin), exact(cos));
    let (mid_x, mid_y) = (width as f64 / 2.0, height as f64 / 2.0);
    let at = |x: f64, y: f64| {
        let column = (x.max(0.0) as usize).min(width - 1);
        let row = (y.max(0.0) as usize).min(height - 1);
        f64::from(pixels[row * width + column])
    };
    let from = |row: usize, column: usize| {
        let (dx, dy) = (column as f64 + 0.5 - mid_x, row as f64 + 0.5 - mid_y);
        let x = cos * dx - sin * dy + mid_x;
        let y = sin * dx + cos * dy + mid_y;
        let inside = (0.0..width as f64).contains(&x) && (0.0..height as f64).contains(&y);
        if !inside {
            return 0.0;
        }
        let (x, y) = (x - 0.5, y - 0.5);
        let (left, top) = (x.floor(), y.floor());
        let (right, down) = (x - left, y - top);
        let above = at(left, top) * (1.0 - right) + at(left + 1.0, top) * right;
        let below = at(left, top + 1.0) * (1.0 - right) + at(left + 1.0, top + 1.0) * right;
        (above * (1.0 - down) + below * down) as f32
    };
    let places = (0..height).flat_map(|row| (0..width).map(move |column| (row, column)));
    places.map(|(row, column)| from(row, column)).collect()
}

impl Rotated {
    /// Deals pictures to the domains, and turns them.
    ///
    /// # Errors
    /// If the pictures have several channels, or an angle is not finite.
    ///
    /// ```
    /// use nabla_align::Rotated;
    ///
    /// let domains = Rotated::default().of(&nabla_data::digits()?, 7)?;
    /// assert_eq!(domains.names(), ["0", "15", "30", "45", "60", "75"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(&self, pictures: &LabelledPictures, seed: u64) -> Result<Domains, DomainError> {
        for &angle in &self.angles {
            range::finite("angle of a domain", angle)?;
        }
        let grey = GreyPictures::of(pictures)?;
        let order = permutation(grey.labels.len(), &mut SeededNoise::new(seed, DEALT));
        let count = self.angles.len();
        let domain = |(i, &angle): (usize, &f64)| {
            let own: Vec<usize> = order.iter().skip(i).step_by(count).copied().collect();
            let turned = own
                .iter()
                .flat_map(|&j| turned(grey.picture(j), grey.size, angle));
            let examples = Examples {
                features: turned.collect(),
                labels: own.iter().map(|&j| grey.labels[j]).collect(),
            };
            (angle.to_string(), examples)
        };
        let domains = self.angles.iter().enumerate().map(domain).collect();
        let shape = InputShape::Picture(pictures.shape());
        Domains::new(domains, pictures.classes().to_vec(), shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from `torchvision.transforms.functional.rotate` of a PIL image, which rounds to whole numbers;
    /// `tests/reference/rotated.py`.
    #[test]
    fn pictures_are_turned_as_in_domainbed() {
        let reference = include_str!("../tests/reference/rotated.json");
        let reference: serde_json::Value = serde_json::from_str(reference).unwrap();
        let floats = |value: &serde_json::Value| -> Vec<f32> {
            let values = value.as_array().unwrap().iter();
            values.map(|x| x.as_f64().unwrap() as f32).collect()
        };
        let pixels = floats(&reference["pixels"]);
        let size = [reference["height"].as_u64(), reference["width"].as_u64()];
        let size = size.map(|x| x.unwrap() as usize);
        for turn in reference["turned"].as_array().unwrap() {
            let angle = turn["angle"].as_f64().unwrap();
            let found = turned(&pixels, size, angle);
            for (found, expected) in found.iter().zip(floats(&turn["pixels"])) {
                assert!(
                    (found - expected).abs() <= 1.0,
                    "{angle}: {found} for {expected}"
                );
            }
        }
    }

    #[test]
    fn a_picture_that_is_not_turned_stays_as_it_is() {
        let digits = nabla_data::digits().unwrap();
        let domains = Rotated { angles: vec![0.0] }.of(&digits, 0).unwrap();
        assert_eq!(domains.examples()[0].len(), 1797);
        let pixels: Vec<f32> = (0..20).map(|i| i as f32).collect();
        assert_eq!(turned(&pixels, [4, 5], 0.0), pixels);
        let four = (0..4).fold(pixels.clone(), |p, i| {
            turned(&p, [[4, 5], [5, 4]][i % 2], 0.0)
        });
        assert_eq!(four, pixels);
    }
}
