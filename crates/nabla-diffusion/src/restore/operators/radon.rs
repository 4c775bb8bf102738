//! Computed tomography: sums of a picture along rays.
//!
//! Along each ray the picture is sampled at steps of one pixel, between pixels by bilinear interpolation, and the
//! samples are summed. The adjoint gives each sample back to the same four pixels with the same weights, so it is
//! exact for this sum; it is the back projection without a filter.
//!
//! * [`ParallelBeam`]: at the angle `θ`, detector `j` is at `u = j − D/2` and the ray runs along `v`:
//!   `x = u cos θ + v sin θ + w/2`, `y = −u sin θ + v cos θ + h/2` (all halves rounded down). For a square picture
//!   this is scikit-image's `radon`, number by number.
//! * [`FanBeam`]: the source is on a circle around the middle, and a flat detector, seen from the source, behind the
//!   middle; all rays of a view start at the source.
//!
//! Sparse views and limited angles are choices of the angles ([`views`]).
//!
//! Sources: Radon, 1917; Kak, Slaney, *Principles of Computerized Tomographic Imaging*, 1988, chapter 3.

use burn::tensor::Tensor;
use nabla_base::range;
use rayon::prelude::*;

use crate::restore::operator::{LinearOperator, OperatorError, check_shape, check_sides, on_host};

/// Parallel rays.
#[derive(Clone, Debug, PartialEq)]
pub struct ParallelBeam {
    /// The angles of the views, in degrees.
    pub angles: Vec<f64>,
    /// The number of detectors; `None` for as many as the picture's longer side (the corners are cut off), which is
    /// scikit-image's `circle=True`.
    pub detectors: Option<usize>,
}

/// Rays from a source that goes around the picture.
#[derive(Clone, Debug, PartialEq)]
pub struct FanBeam {
    /// The angles of the source, in degrees.
    pub angles: Vec<f64>,
    /// The distance from the source to the middle, in pixels; larger than half of the picture's diagonal.
    pub source_distance: f64,
    /// The distance from the middle to the detector, in pixels; at least 0.
    pub detector_distance: f64,
    /// The number of detectors.
    pub detectors: usize,
    /// The width of a detector, in pixels; above 0.
    pub detector_width: f64,
}

impl FanBeam {
    /// A geometry that sees the whole picture: the source and the detector at the distance of the picture's diagonal
    /// from the middle, and as many detectors as pixels in the diagonal.
    pub fn around([height, width]: [usize; 2], angles: Vec<f64>) -> Self {
        let diagonal = (height as f64).hypot(width as f64);
        let detectors = diagonal.ceil() as usize;
        // A ray that touches the circle around the picture has the slope (1/2)/√(1 − 1/4) at this distance.
        let reach = 2.0 * diagonal * 0.5 / 0.75_f64.sqrt();
        Self {
            angles,
            source_distance: diagonal,
            detector_distance: diagonal,
            detectors,
            detector_width: 2.0 * reach / detectors as f64,
        }
    }
}

/// Evenly spaced angles in degrees.
///
/// - `first`, `span`: the angles go from `first` to `first + span`, the latter not included
pub fn views(count: usize, first: f64, span: f64) -> Vec<f64> {
    let angle = |i: usize| first + span * i as f64 / count as f64;
    (0..count).map(angle).collect()
}

/// The samples of a ray: at `start + k · step` for `k` below `count`.
#[derive(Clone, Copy, Debug)]
struct Ray {
    start: [f64; 2],
    step: [f64; 2],
    count: usize,
}

/// The sums along the rays of a geometry; see the [module documentation](self).
///
/// The measurement of a picture `[channels, height, width]` is `[channels, angles, detectors]`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::restore::{LinearOperator, Radon, radon_views};
///
/// let radon = Radon::parallel([1, 16, 16], radon_views(8, 0.0, 180.0))?;
/// let sinogram = radon.apply(Tensor::ones([1, 1, 16, 16], &Device::flex()))?;
/// assert_eq!(sinogram.dims(), [1, 1, 8, 16]);
/// // At 0 degrees every detector sees a column of 16 pixels.
/// let first: Vec<f32> = sinogram.slice_dim(2, 0..1).try_into_vec_as().unwrap();
/// assert!(first.iter().all(|sum| (sum - 16.0).abs() < 1e-4));
/// # Ok::<(), nabla_diffusion::restore::OperatorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Radon {
    picture: [usize; 3],
    /// `[angles, detectors]`.
    sinogram: [usize; 2],
    /// View after view.
    rays: Vec<Ray>,
}

const NAME: &str = "a Radon transform";

/// Back projection adds the views of each part in order, and then the parts: the result does not depend on the
/// number of threads.
const PARTS: usize = 16;

impl Radon {
    /// Parallel rays, as many detectors as the longer side has pixels.
    ///
    /// - `picture`: `[channels, height, width]`
    /// - `angles`: in degrees
    ///
    /// # Errors
    /// As [`of_parallel_beam`](Self::of_parallel_beam).
    pub fn parallel(picture: [usize; 3], angles: Vec<f64>) -> Result<Self, OperatorError> {
        let detectors = None;
        Self::of_parallel_beam(picture, &ParallelBeam { angles, detectors })
    }

    /// Parallel rays.
    ///
    /// # Errors
    /// If a side is 0, there is no angle or no detector, or an angle is not finite.
    pub fn of_parallel_beam(
        picture: [usize; 3],
        beam: &ParallelBeam,
    ) -> Result<Self, OperatorError> {
        let [_, height, width] = picture;
        let side = height.max(width);
        let detectors = beam.detectors.unwrap_or(side);
        // Enough samples for every detector to reach the corners, if it can.
        let diagonal = (height as f64).hypot(width as f64).ceil() as usize;
        let samples = match beam.detectors {
            None => side,
            Some(_) => diagonal.max(side),
        };
        let middle = [(width / 2) as f64, (height / 2) as f64];
        let ray = |angle: f64, j: usize| {
            let (sin, cos) = angle.to_radians().sin_cos();
            let u = j as f64 - (detectors / 2) as f64;
            let v = -((samples / 2) as f64);
            Ray {
                start: [
                    u * cos + v * sin + middle[0],
                    -u * sin + v * cos + middle[1],
                ],
                step: [sin, cos],
                count: samples,
            }
        };
        Self::new(picture, &beam.angles, detectors, ray)
    }

    /// Rays from a source.
    ///
    /// # Errors
    /// If a side is 0, there is no angle or no detector, a number is not finite, or the source is inside the circle
    /// around the picture.
    pub fn of_fan_beam(picture: [usize; 3], beam: &FanBeam) -> Result<Self, OperatorError> {
        let [_, height, width] = picture;
        let diagonal = (height as f64).hypot(width as f64);
        let distance = beam.source_distance;
        let outside = distance.is_finite() && distance > diagonal / 2.0;
        let expected = format!(
            "above {:.1} pixels, half of the picture's diagonal",
            diagonal / 2.0
        );
        range::check(outside, "distance of the source", distance, expected)?;
        range::not_negative("distance of the detector", beam.detector_distance)?;
        range::positive("width of a detector", beam.detector_width)?;
        let middle = [(width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0];
        // From the source, the picture lies between these distances.
        let near = (distance - diagonal / 2.0).floor();
        let count = diagonal.ceil() as usize + 2;
        let reach = distance + beam.detector_distance;
        let ray = |angle: f64, j: usize| {
            // As parallel rays: at angle 0 the rays run down the columns.
            let (sin, cos) = angle.to_radians().sin_cos();
            let (across, along) = ([cos, -sin], [sin, cos]);
            let place = j as f64 - (beam.detectors as f64 - 1.0) / 2.0;
            let slope = place * beam.detector_width / reach;
            let length = 1.0_f64.hypot(slope);
            let step = [0, 1].map(|a| (along[a] + slope * across[a]) / length);
            let source = [0, 1].map(|a| middle[a] - distance * along[a]);
            Ray {
                start: [0, 1].map(|a| source[a] + near * step[a]),
                step,
                count,
            }
        };
        Self::new(picture, &beam.angles, beam.detectors, ray)
    }

    fn new(
        picture: [usize; 3],
        angles: &[f64],
        detectors: usize,
        ray: impl Fn(f64, usize) -> Ray,
    ) -> Result<Self, OperatorError> {
        check_sides(&picture)?;
        range::at_least("number of angles", angles.len(), 1)?;
        range::at_least("number of detectors", detectors, 1)?;
        for &angle in angles {
            range::finite("angle of a view", angle)?;
        }
        let views = angles.iter();
        let rays = views.flat_map(|&angle| (0..detectors).map(move |j| (angle, j)));
        Ok(Self {
            picture,
            sinogram: [angles.len(), detectors],
            rays: rays.map(|(angle, j)| ray(angle % 360.0, j)).collect(),
        })
    }

    /// Calls `visit` with each pixel that a ray meets and the weight of the pixel.
    fn along(&self, ray: &Ray, mut visit: impl FnMut(usize, f64)) {
        let [_, height, width] = self.picture;
        let (h, w) = (height as isize, width as isize);
        let [first, last] = inside(ray, height, width);
        for k in first..last {
            let [x, y] = [0, 1].map(|a| ray.start[a] + k as f64 * ray.step[a]);
            let (left, top) = (x.floor(), y.floor());
            let (right_share, bottom_share) = (x - left, y - top);
            let (left, top) = (left as isize, top as isize);
            for (row, row_weight) in [(top, 1.0 - bottom_share), (top + 1, bottom_share)] {
                if row < 0 || row >= h {
                    continue;
                }
                for (column, weight) in [(left, 1.0 - right_share), (left + 1, right_share)] {
                    if column >= 0 && column < w {
                        visit((row * w + column) as usize, row_weight * weight);
                    }
                }
            }
        }
    }
}

/// The samples of a ray that may meet the picture.
fn inside(ray: &Ray, height: usize, width: usize) -> [usize; 2] {
    let (mut first, mut last) = (0.0_f64, ray.count as f64);
    for (start, step, side) in [
        (ray.start[0], ray.step[0], width as f64),
        (ray.start[1], ray.step[1], height as f64),
    ] {
        // start + k step within [−1, side]
        if step.abs() < 1e-9 {
            if start < -1.5 || start > side + 0.5 {
                return [0, 0];
            }
            continue;
        }
        let ends = [(-1.0 - start) / step, (side - start) / step];
        first = first.max(ends[0].min(ends[1]) - 1.0);
        last = last.min(ends[0].max(ends[1]) + 2.0);
    }
    match last > first {
        true => [first.max(0.0) as usize, last.max(0.0).ceil() as usize],
        false => [0, 0],
    }
}

impl LinearOperator for Radon {
    fn name(&self) -> &'static str {
        NAME
    }

    fn domain(&self) -> Vec<usize> {
        self.picture.to_vec()
    }

    fn range(&self) -> Vec<usize> {
        vec![self.picture[0], self.sinogram[0], self.sinogram[1]]
    }

    fn apply(&self, x: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        check_shape(NAME, "picture", &x, &self.domain())?;
        let pixels = self.picture[1] * self.picture[2];
        on_host(x, &self.range(), |x, y| {
            let channels = x.chunks_exact(pixels);
            for (x, y) in channels.zip(y.chunks_exact_mut(self.rays.len())) {
                y.par_iter_mut().zip(&self.rays).for_each(|(sum, ray)| {
                    self.along(ray, |pixel, weight| *sum += weight * x[pixel]);
                });
            }
        })
    }

    fn adjoint(&self, y: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        check_shape(NAME, "measurement", &y, &self.range())?;
        let pixels = self.picture[1] * self.picture[2];
        let part = self.rays.len().div_ceil(PARTS);
        on_host(y, &self.domain(), |y, x| {
            let channels = y.chunks_exact(self.rays.len());
            for (y, x) in channels.zip(x.chunks_exact_mut(pixels)) {
                let parts = self.rays.par_chunks(part).zip(y.par_chunks(part));
                let sums: Vec<Vec<f64>> = parts
                    .map(|(rays, y)| {
                        let mut sum = vec![0.0; pixels];
                        for (ray, value) in rays.iter().zip(y) {
                            self.along(ray, |pixel, weight| sum[pixel] += weight * value);
                        }
                        sum
                    })
                    .collect();
                for sum in sums {
                    x.iter_mut().zip(sum).for_each(|(x, s)| *x += s);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use burn::tensor::{DType, Device, TensorData};

    use super::*;
    use crate::restore::operator::host;

    const SIDES: [usize; 2] = [48, 40];
    /// Of the blob, in pixels from the middle between pixels.
    const PLACE: [f64; 2] = [5.5, -3.0];
    const DEVIATION: f64 = 4.0;

    /// The integral of `exp(−r²/(2 s²))` along a line at the distance `d` from its middle.
    fn gaussian_line(deviation: f64, distance: f64) -> f64 {
        deviation * TAU.sqrt() * (-0.5 * (distance / deviation).powi(2)).exp()
    }

    fn blob(middle: [f64; 2]) -> Tensor<4> {
        let [height, width] = SIDES;
        let value = |i: usize| {
            let (x, y) = ((i % width) as f64, (i / width) as f64);
            let square = (x - middle[0] - PLACE[0]).powi(2) + (y - middle[1] - PLACE[1]).powi(2);
            (-0.5 * square / DEVIATION.powi(2)).exp()
        };
        let values: Vec<f64> = (0..height * width).map(value).collect();
        let data = TensorData::new(values, [1, 1, height, width]);
        Tensor::from_data(data, (&Device::flex(), DType::F64))
    }

    /// Every ray of a fan against the integral of a Gaussian along the same line, which is known.
    #[test]
    fn fan_beams_are_line_integrals() {
        let angles = views(9, 10.0, 360.0);
        let beam = FanBeam::around(SIDES, angles.clone());
        let radon = Radon::of_fan_beam([1, SIDES[0], SIDES[1]], &beam).unwrap();
        let [height, width] = SIDES.map(|n| n as f64);
        let found = radon
            .apply(blob([(width - 1.0) / 2.0, (height - 1.0) / 2.0]))
            .unwrap();
        let found = host(found).unwrap();
        for (view, angle) in angles.iter().enumerate() {
            let (sin, cos) = angle.to_radians().sin_cos();
            for j in 0..beam.detectors {
                let place = j as f64 - (beam.detectors as f64 - 1.0) / 2.0;
                let slope =
                    place * beam.detector_width / (beam.source_distance + beam.detector_distance);
                // In the frame of the view: the blob at (u, v), the ray from (0, −R) along (slope, 1).
                let u = PLACE[0] * cos - PLACE[1] * sin;
                let v = PLACE[0] * sin + PLACE[1] * cos;
                let distance =
                    (u - slope * (v + beam.source_distance)).abs() / 1.0_f64.hypot(slope);
                let expected = gaussian_line(DEVIATION, distance);
                let error = (found[view * beam.detectors + j] - expected).abs();
                assert!(error < 0.15, "{angle} {j}: {error}");
            }
        }
    }

    /// A source far away sends parallel rays.
    #[test]
    fn a_far_source_is_a_parallel_beam() {
        let angles = views(5, 0.0, 180.0);
        let picture = [1, 41, 41];
        let beam = FanBeam {
            angles: angles.clone(),
            source_distance: 1e6,
            detector_distance: 0.0,
            detectors: 41,
            detector_width: 1.0,
        };
        let value = |i: usize| ((i as f64) * 0.37).sin() + 1.0;
        let inside = |i: usize| (i % 41).abs_diff(20).pow(2) + (i / 41).abs_diff(20).pow(2) < 300;
        let smooth = |i: usize| if inside(i) { value(i / 41) } else { 0.0 };
        let values: Vec<f64> = (0..41 * 41).map(smooth).collect();
        let x = Tensor::<4>::from_data(
            TensorData::new(values, [1, 1, 41, 41]),
            (&Device::flex(), DType::F64),
        );
        let fan = Radon::of_fan_beam(picture, &beam).unwrap();
        let parallel = Radon::parallel(picture, angles).unwrap();
        let found = host(fan.apply(x.clone()).unwrap()).unwrap();
        let expected = host(parallel.apply(x).unwrap()).unwrap();
        // The samples of the two lie at other places along the same ray.
        let error: f64 = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).powi(2))
            .sum();
        let size: f64 = expected.iter().map(|b| b * b).sum();
        assert!((error / size).sqrt() < 0.05, "{}", (error / size).sqrt());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let told = |radon: Result<Radon, OperatorError>| radon.unwrap_err().to_string();
        assert!(told(Radon::parallel([1, 8, 8], vec![])).contains("number of angles is 0"));
        assert!(told(Radon::parallel([1, 8, 8], vec![f64::NAN])).contains("angle of a view"));
        assert!(told(Radon::parallel([1, 0, 8], vec![0.0])).contains("side of the picture is 0"));
        let mut beam = FanBeam::around([8, 8], vec![0.0]);
        beam.source_distance = 3.0;
        assert!(told(Radon::of_fan_beam([1, 8, 8], &beam)).contains("distance of the source"));
    }
}
