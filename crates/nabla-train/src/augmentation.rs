//! Random changes of pictures in training: shifts and mirroring.
//!
//! As in He et al. 2015 (arXiv 1512.03385): a picture is padded by `shift` pixels of the mean on each side, a
//! crop of the original size is taken at a random position, and half of them are mirrored left to right.

use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// How pictures are changed. By default, they are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// The maximum shift in each direction, in pixels. Default 0; 4 for CIFAR-10.
    pub shift: usize,
    /// Whether half of the pictures are mirrored. Default no.
    pub mirror: bool,
}

impl Augmentation {
    /// Whether it leaves pictures unchanged.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Changes a standardised picture of `shape` (channels, height, width), whose mean is 0.
    pub fn apply(self, picture: &mut [f32], shape: [usize; 3], draw: &mut SeededNoise) {
        let [channels, height, width] = shape;
        let reach = self.shift as i64;
        let mut offset = || {
            if reach > 0 {
                draw.random_range(-reach..=reach)
            } else {
                0
            }
        };
        let [down, right] = [offset(), offset()];
        let mirrored = self.mirror && draw.random_bool(0.5);
        let source = picture.to_vec();
        for c in 0..channels {
            for y in 0..height {
                for x in 0..width {
                    let from_x = if mirrored { width - 1 - x } else { x } as i64 + right;
                    let from_y = y as i64 + down;
                    let inside =
                        (0..height as i64).contains(&from_y) && (0..width as i64).contains(&from_x);
                    picture[(c * height + y) * width + x] = if inside {
                        source[(c * height + from_y as usize) * width + from_x as usize]
                    } else {
                        0.0
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_shifted_and_mirrored_as_often_as_said() {
        let shape = [2, 3, 3];
        let picture: Vec<f32> = (1..=18).map(|i| i as f32).collect();
        let change = Augmentation {
            shift: 1,
            mirror: true,
        };
        let mut draw = SeededNoise::new(3, 0);
        let (mut kept, mut mirrored, tries) = (0, 0, 9000);
        for _ in 0..tries {
            let mut changed = picture.clone();
            change.apply(&mut changed, shape, &mut draw);
            // The middle of a 3 x 3 picture shows where it came from; mirrored, columns fall.
            let falls = changed[4] != 0.0
                && [3, 5].iter().any(|&i| {
                    changed[i] != 0.0 && (changed[i] - changed[4]) * (i as f32 - 4.0) < 0.0
                });
            mirrored += usize::from(falls);
            kept += usize::from(changed == picture);
            // Both channels move together.
            for i in 0..9 {
                let [a, b] = [changed[i], changed[i + 9]];
                assert!((a == 0.0 && b == 0.0) || b == a + 9.0);
            }
        }
        // One of nine shifts and one of two mirrors leave it alone; four standard errors.
        let close = |count: usize, p: f64| {
            let expected = p * f64::from(tries);
            (count as f64 - expected).abs() < 4.0 * (expected * (1.0 - p)).sqrt()
        };
        assert!(close(kept, 1.0 / 18.0), "{kept}");
        assert!(close(mirrored, 0.5), "{mirrored}");
        assert!(Augmentation::default().is_none());
    }
}
