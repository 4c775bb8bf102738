//! The discrete Fourier transform of a plane on the processor, by RustFFT.

use std::fmt;
use std::sync::Arc;

use rustfft::num_complex::Complex64;
use rustfft::{Fft, FftPlanner};

/// Plans for planes of one size.
#[derive(Clone)]
pub(crate) struct Fourier {
    height: usize,
    width: usize,
    /// Along rows and along columns, forward and inverse.
    plans: [[Arc<dyn Fft<f64>>; 2]; 2],
}

impl fmt::Debug for Fourier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fourier")
            .field("height", &self.height)
            .field("width", &self.width)
            .finish_non_exhaustive()
    }
}

/// Which way a transform goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Forward,
    Inverse,
}

impl Fourier {
    /// - `height`, `width`: at least 1
    pub(crate) fn new(height: usize, width: usize) -> Self {
        let mut planner = FftPlanner::new();
        let mut both = |n| [planner.plan_fft_forward(n), planner.plan_fft_inverse(n)];
        Self {
            height,
            width,
            plans: [both(width), both(height)],
        }
    }

    /// Transforms a plane, row after row, without a factor: the inverse of the forward transform is `height ·
    /// width` times the plane.
    pub(crate) fn transform(&self, way: Way, plane: &mut [Complex64]) {
        let [rows, columns] = &self.plans;
        let which = usize::from(way == Way::Inverse);
        rows[which].process(plane);
        let mut turned = transposed(plane, self.height, self.width);
        columns[which].process(&mut turned);
        plane.copy_from_slice(&transposed(&turned, self.width, self.height));
    }

    /// The transform with the origin in the middle of both planes (at `n/2`, rounded down) and the factor that makes
    /// it unitary.
    pub(crate) fn centred(&self, way: Way, plane: &mut [Complex64]) {
        let (height, width) = (self.height, self.width);
        // The middle goes to the corner …
        rolled(plane, [height, width], [height / 2, width / 2]);
        self.transform(way, plane);
        // … and back.
        rolled(
            plane,
            [height, width],
            [height.div_ceil(2), width.div_ceil(2)],
        );
        let factor = 1.0 / ((height * width) as f64).sqrt();
        plane.iter_mut().for_each(|z| *z *= factor);
    }
}

fn transposed(plane: &[Complex64], height: usize, width: usize) -> Vec<Complex64> {
    let mut turned = vec![Complex64::ZERO; plane.len()];
    for (y, row) in plane.chunks_exact(width).enumerate() {
        for (x, z) in row.iter().enumerate() {
            turned[x * height + y] = *z;
        }
    }
    turned
}

/// Moves row `top` and column `left` to the first, in a circle.
fn rolled(plane: &mut [Complex64], [height, width]: [usize; 2], [top, left]: [usize; 2]) {
    plane.rotate_left(top % height * width);
    plane
        .chunks_exact_mut(width)
        .for_each(|row| row.rotate_left(left % width));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the definition, at even and odd sides.
    #[test]
    fn the_centred_transform_is_its_definition() {
        for [height, width] in [[4, 6], [5, 3], [1, 2]] {
            let value = |i: usize| Complex64::new((i as f64 * 1.3).sin(), (i as f64 * 0.7).cos());
            let plane: Vec<Complex64> = (0..height * width).map(value).collect();
            let mut found = plane.clone();
            let fourier = Fourier::new(height, width);
            fourier.centred(Way::Forward, &mut found);
            let place = |i: usize, n: usize| i as f64 - (n / 2) as f64;
            for v in 0..height {
                for u in 0..width {
                    let mut sum = Complex64::ZERO;
                    for y in 0..height {
                        for x in 0..width {
                            let turns = place(v, height) * place(y, height) / height as f64
                                + place(u, width) * place(x, width) / width as f64;
                            let phase = -std::f64::consts::TAU * turns;
                            sum += plane[y * width + x] * Complex64::from_polar(1.0, phase);
                        }
                    }
                    let expected = sum / ((height * width) as f64).sqrt();
                    assert!((found[v * width + u] - expected).norm() < 1e-12);
                }
            }
            fourier.centred(Way::Inverse, &mut found);
            let error = found.iter().zip(&plane).map(|(a, b)| (a - b).norm());
            assert!(error.fold(0.0, f64::max) < 1e-12);
        }
    }
}
