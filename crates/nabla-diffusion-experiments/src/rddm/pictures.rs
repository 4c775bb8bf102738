//! The pictures, how they are darkened, and how the results are measured.

use burn::tensor::{Device, Tensor, TensorData};
use nabla_claims::{ClaimContext, ClaimError};
use nabla_data::{DataSetError, PhotoSet};
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;

use super::{RESTORED, Size};

/// How dark the input is, drawn per crop, and how noisy, in units of the range.
const EXPOSURE: (f32, f32) = (0.2, 0.4);
const SENSOR_NOISE: f64 = 0.03;
/// A grey picture in `[−1, 1]`, row by row.
pub(super) struct Grey {
    height: usize,
    width: usize,
    values: Vec<f32>,
}

/// The photographs, in two disjoint sets.
pub(super) struct Photos {
    pub(super) training: Vec<Grey>,
    pub(super) held_out: Vec<Grey>,
}

impl Photos {
    pub(super) fn load(context: &ClaimContext<'_>, size: &Size) -> Result<Self, ClaimError> {
        let folder = context.assets.join("photos");
        let asset = |error: DataSetError| ClaimError::asset(&folder, error);
        let set = PhotoSet::open(&folder).map_err(asset)?;
        let count = set.len().min(size.photos);
        context.progress.begin("reading photographs", count as u64);
        let (mut training, mut held_out) = (Vec::new(), Vec::new());
        for index in 0..count {
            let picture = set.load(index).map_err(asset)?;
            let [channels, height, width] = picture.raster.shape();
            // Reduced by whole steps to about 400 rows, so that a crop shows more than a surface.
            let by = (height.min(width) / 400).max(1);
            let (rows, columns) = (height / by, width / by);
            if rows.min(columns) < RESTORED {
                continue;
            }
            let mut values = vec![0.0; rows * columns];
            let weight = 2.0 / (channels * by * by) as f32;
            for channel in 0..channels {
                let plane = picture.raster.plane(channel);
                for y in 0..rows * by {
                    for x in 0..columns * by {
                        values[(y / by) * columns + x / by] += weight * plane[y * width + x];
                    }
                }
            }
            let grey = Grey {
                height: rows,
                width: columns,
                values: values.into_iter().map(|v| v - 1.0).collect(),
            };
            if index % 4 == 3 {
                held_out.push(grey);
            } else {
                training.push(grey);
            }
            context.progress.advance(1);
        }
        if training.is_empty() || held_out.is_empty() {
            let reason = "it needs at least four photographs";
            return Err(ClaimError::asset(&folder, reason));
        }
        Ok(Self { training, held_out })
    }
}

/// `count` square crops, mirrored at random, `[count, 1, side, side]`.
pub(super) fn crops(
    pictures: &[Grey],
    count: usize,
    side: usize,
    draw: &mut SeededNoise,
    device: &Device,
) -> Tensor<4> {
    let mut values: Vec<f32> = Vec::with_capacity(count * side * side);
    for _ in 0..count {
        let picture = &pictures[draw.random_range(0..pictures.len())];
        let top = draw.random_range(0..=picture.height - side);
        let left = draw.random_range(0..=picture.width - side);
        let mirrored = draw.random_range(0..2) == 1;
        for y in 0..side {
            let start = (top + y) * picture.width + left;
            let row = &picture.values[start..start + side];
            if mirrored {
                values.extend(row.iter().rev());
            } else {
                values.extend(row);
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [count, 1, side, side]), device)
}

/// The pictures in the dark: `v = e u + noise` of `u` in `[0, 1]`, each with its own exposure `e`.
pub(super) fn degrade(clean: &Tensor<4>, draw: &mut SeededNoise) -> Tensor<4> {
    let device = clean.device();
    let [count, ..] = clean.dims();
    let exposures: Vec<f32> = (0..count)
        .map(|_| draw.random_range(EXPOSURE.0..EXPOSURE.1))
        .collect();
    let exposure = Tensor::from_data(TensorData::new(exposures, [count, 1, 1, 1]), &device);
    let noise = draw.normal(clean.dims(), &device) * (2.0 * SENSOR_NOISE);
    ((clean.clone() + 1.0) * exposure - 1.0 + noise).clamp(-1.0, 1.0)
}

/// The sliced Wasserstein distance of two batches with the same number of pictures.
pub(super) fn sliced_wasserstein(a: Tensor<4>, b: &Tensor<4>) -> Result<f64, ClaimError> {
    pub(super) const DIRECTIONS: usize = 128;
    let [count, channels, height, width] = b.dims();
    let dimension = channels * height * width;
    let directions = SeededNoise::new(0, 77).normal([dimension, DIRECTIONS], &b.device());
    let length = directions.clone().square().sum_dim(0).sqrt();
    let directions = directions / length;
    let project = |x: Tensor<4>| {
        x.reshape([count, dimension])
            .matmul(directions.clone())
            .sort(0)
    };
    let distance = (project(a) - project(b.clone())).square().mean().sqrt();
    distance
        .try_into_scalar::<f64>()
        .map_err(ClaimError::experiment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dark_is_as_dark_and_noisy_as_it_should_be() {
        let device = Device::flex();
        // Mid grey, so that nothing is clipped: 0.5 of the range becomes 0.1 to 0.2.
        let grey = Tensor::<4>::zeros([200, 1, 16, 16], &device);
        let dark = (degrade(&grey, &mut SeededNoise::new(0, 0)) + 1.0) / 2.0;
        let means = dark.clone().reshape([200, 256]).mean_dim(1);
        let deviation = (dark.reshape([200, 256]) - means.clone())
            .square()
            .mean()
            .sqrt();
        assert!((deviation.into_scalar::<f64>() - SENSOR_NOISE).abs() < 1e-3);
        let means: Vec<f32> = means.try_into_vec_as().unwrap();
        assert!(means.iter().all(|m| (0.09..0.21).contains(m)));
        let mean = means.iter().sum::<f32>() / 200.0;
        assert!((mean - 0.15).abs() < 0.01, "{mean}");
    }

    #[test]
    fn the_distance_of_shifted_pictures_is_the_shift() {
        let device = Device::flex();
        let a = SeededNoise::new(1, 0).normal([50, 1, 4, 4], &device);
        assert_eq!(sliced_wasserstein(a.clone(), &a).unwrap(), 0.0);
        // The mean square of a unit direction's sum is 1, so that a shift of c is c away.
        let shifted = sliced_wasserstein(a.clone() + 2.0, &a).unwrap();
        assert!((shifted - 2.0).abs() < 0.4, "{shifted}");
    }
}
