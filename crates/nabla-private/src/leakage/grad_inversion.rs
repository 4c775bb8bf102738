//! GradInversion: the pixels of a batch, by several searches that keep each other near their consensus.
//!
//! ```text
//! x_s ~ N(½, ¼²) for each seed s = 1 … S
//! minimise over x_s   α_G Σ_layers ‖∇_{w_l} ℓ(x_s) − g*_l‖₂
//!                     + λ_tv TV(x_s) + λ_n ‖x_s‖₂/side²
//!                     + α_BN Σ_norms ‖μ_l(x_s) − μ̄_l‖₂ + ‖σ²_l(x_s) − σ̄²_l‖₂
//!                     + α_group ‖x_s − E‖₂/side²
//! x_s ← clamp(x_s − η_t Adam + η_t α_n N(0, I), 0, 1)
//! ```
//!
//! with a short warm-up of the learning rate `η_t` and a cosine after it. The labels of the whole batch come from the
//! [minima](super::labels) of the last layer's columns. `μ_l` and `σ²_l` are the mean and variance of each channel of what
//! goes into a batch normalisation, and `μ̄_l`, `σ̄²_l` those by which the network normalises: natural pictures have
//! statistics like those of the training. A network without batch normalisation has no such term, nor has one that was
//! never trained, whose means of 0 and variances of 1 say nothing of pictures. The noise lets a search leave a bad place; it
//! fades with the learning rate.
//!
//! **The consensus** `E`. Gradients of convolutional networks say little about where something is, so that searches from
//! different seeds find the same picture in different places. After the first quarter of the steps, and at regular steps
//! then, the mean over the seeds is taken, each seed's picture is moved to where it fits this mean best, and the mean of
//! the moved pictures is what the searches are drawn to.
//!
//! The answer is the candidate whose gradient is nearest: the pictures of a seed, or the last consensus.
//!
//! **Where this differs.** The paper registers pictures by a flow (RANSAC-Flow), here they are moved by whole pixels, up to
//! [`GradInversionConfig::shift`]. The distance from the consensus is divided by the side's square, as `‖x‖₂` is in
//! [`PixelPrior`] and both are in the code of GIAS, which has this method to compare with: undivided, `α_group = 0.01` is
//! stronger than the gradients of small pictures and holds the searches back. Pixels are in `[0, 1]`
//! and not divided by their deviation, so the noise and the learning rate are about four times as large for the picture.
//! There is no official code; the factor 10 of the first batch normalisation is that of DeepInversion's, and `α_G = 1e-3`,
//! `α_n = 0.2` and the quarter of the steps are from memory of the paper's section 4. The reimplementation in Geiping's
//! `breaching` has the other values, but `1e-4` and `0.01` for these two, and no group.
//!
//! Source: Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov, *See through Gradients: Image Batch Recovery via GradInversion*,
//! CVPR 2021, arXiv 2104.07586.

use std::f64::consts::PI;

use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::normalization::BatchStatistics;
use serde::{Deserialize, Serialize};

use super::descent::Descent;
use super::error::LeakageError;
use super::gradient_oracle::{Objective, leaf, norm, number};
use super::inverting_gradients::Recovered;
use super::pixel_prior::PixelPrior;

/// Configuration of [`grad_inversion`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GradInversionConfig {
    /// Default 20000.
    pub steps: usize,
    /// Steps in which the learning rate rises. Default 50.
    pub warmup: usize,
    /// Default 0.1.
    pub learning_rate: f64,
    /// `S`. Default 8.
    pub seeds: usize,
    /// `α_G`. Default 1e-3.
    pub gradient: f64,
    /// `λ_tv` and `λ_n`.
    pub prior: PixelPrior,
    /// `α_BN`. Default 0.1.
    pub statistics: f64,
    /// The factor of the first batch normalisation. Default 10.
    pub first_statistics: f64,
    /// `α_group`. Default 0.01; 0 for searches that know nothing of each other.
    pub group: f64,
    /// The share of the steps before the first consensus. Default 0.25.
    pub group_from: f64,
    /// Steps between two of them. Default 100.
    pub group_every: usize,
    /// How far pictures are moved, in pixels. Default 2.
    pub shift: usize,
    /// `α_n`. Default 0.2.
    pub noise: f64,
}

impl Default for GradInversionConfig {
    fn default() -> Self {
        Self {
            steps: 20_000,
            warmup: 50,
            learning_rate: 0.1,
            seeds: 8,
            gradient: 1e-3,
            prior: PixelPrior::default(),
            statistics: 0.1,
            first_statistics: 10.0,
            group: 0.01,
            group_from: 0.25,
            group_every: 100,
            shift: 2,
            noise: 0.2,
        }
    }
}

impl GradInversionConfig {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), LeakageError> {
        for (name, value) in [
            ("number of steps", self.steps),
            ("number of seeds", self.seeds),
            ("number of steps between two consensuses", self.group_every),
        ] {
            range::at_least(name, value, 1)?;
        }
        range::positive("learning rate of the attack", self.learning_rate)?;
        range::positive("weight of the gradients' distance", self.gradient)?;
        for (name, value) in [
            ("weight of the batch statistics", self.statistics),
            (
                "factor of the first batch statistics",
                self.first_statistics,
            ),
            ("weight of the consensus", self.group),
            ("deviation of the pixels' noise", self.noise),
        ] {
            range::not_negative(name, value)?;
        }
        range::within(
            "share of the steps before the consensus",
            self.group_from,
            0.0..=1.0,
        )?;
        range::within("shift of a picture", self.shift, 0..=MOST_SHIFT)?;
        Ok(self.prior.validate()?)
    }

    /// The learning rate at a share of the steps.
    fn rate(&self, share: f64) -> f64 {
        let warm = self.warmup.min(self.steps) as f64 / self.steps as f64;
        let rise = match share < warm {
            true => (share * self.steps as f64 + 1.0) / self.warmup as f64,
            false => 1.0,
        };
        let fall = 0.5 * (1.0 + (PI * (share - warm).max(0.0) / (1.0 - warm).max(1e-9)).cos());
        self.learning_rate * rise.min(fall)
    }
}

/// The longest shift; each is tried.
const MOST_SHIFT: usize = 8;

/// The streams of the seed: the starts from 0, and the noise.
const NOISE: u64 = 1 << 40;

/// The statistics of the batch normalisations for pictures, `[batch, pixels]`.
pub type Statistics<'a> = dyn Fn(Tensor<2>) -> Vec<BatchStatistics> + 'a;

/// What the attack found.
#[derive(Clone, Debug)]
pub struct GradInversion {
    /// In `[0, 1]`, `[batch, pixels]`.
    pub pictures: Tensor<2>,
    /// The distance of the gradients of these pictures, `Σ_layers ‖·‖₂`.
    pub cost: f64,
    /// Each seed's pictures and cost.
    pub seeds: Vec<Recovered>,
    /// The last consensus and its cost, if there is one.
    pub consensus: Option<Recovered>,
    /// Whether the network has batch normalisations with statistics of a training, which were matched.
    pub statistics: bool,
}

/// `Σ_layers ‖g_l − g*_l‖₂` and its derivative by `g`.
///
/// - `found`, `observed`: `[m]`; `lengths`: of the layers, one after the other
///
/// # Errors
/// If the lengths are not those of the gradients, or something is not finite.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_private::leakage::grad_inversion::layer_distance;
///
/// let vector = |values: [f32; 3]| Tensor::<1>::from_floats(values, &Device::flex());
/// let (distance, slope) = layer_distance(&vector([3.0, 4.0, 2.0]), &vector([0.0; 3]), &[2, 1])?;
/// assert!((distance - 7.0).abs() < 1e-6);
/// let slope: Vec<f32> = slope.into_data().iter().collect();
/// assert!((slope[0] - 0.6).abs() < 1e-6 && (slope[2] - 1.0).abs() < 1e-6);
/// # Ok::<(), nabla_private::leakage::LeakageError>(())
/// ```
pub fn layer_distance(
    found: &Tensor<1>,
    observed: &Tensor<1>,
    lengths: &[usize],
) -> Result<(f64, Tensor<1>), LeakageError> {
    let ([length], [expected]) = (found.dims(), observed.dims());
    if length != expected || lengths.iter().sum::<usize>() != length {
        return Err(LeakageError::Length {
            expected: length,
            found: expected,
        });
    }
    let difference = found.clone() - observed.clone();
    let (mut sum, mut at) = (0.0, 0);
    let mut slopes = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let part = difference.clone().narrow(0, at, length);
        at += length;
        let distance = norm(&part)?;
        sum += distance;
        // No direction leads away from 0.
        slopes.push(match distance > 0.0 {
            true => part / distance,
            false => part,
        });
    }
    Ok((sum, Tensor::cat(slopes, 0)))
}

/// Searches the pixels of a batch.
///
/// - `objective`: `Σ_layers ‖·‖₂` of pictures, `[batch, pixels]`, as [`layer_distance`] has it
/// - `statistics`: of the network's batch normalisations, if it has any
/// - `shape`: channels, height and width
///
/// # Errors
/// If a setting is out of range, or a cost is not finite.
pub fn grad_inversion(
    objective: &Objective<'_>,
    statistics: &Statistics<'_>,
    batch: usize,
    shape: [usize; 3],
    config: GradInversionConfig,
    seed: u64,
    device: &Device,
) -> Result<GradInversion, LeakageError> {
    config.validate()?;
    let device = device.clone().without_autodiff();
    let pixels: usize = shape.iter().product();
    let [_, height, width] = shape;
    let area = (height.max(width) as f64).powi(2);
    let starts = (0..config.seeds as u64)
        .map(|s| SeededNoise::new(seed, s).normal([batch, pixels], &device) * 0.25 + 0.5);
    let start = Tensor::cat(starts.collect(), 0); // [seeds · batch, pixels]
    let of_seed = |x: &Tensor<2>, s: usize| x.clone().narrow(0, s * batch, batch);

    let group_from = (config.group_from * config.steps as f64) as usize;
    let mut consensus: Option<Tensor<2>> = None;
    let mut step = 0;
    let trained =
        config.statistics > 0.0 && are_trained(&statistics(of_seed(&start, 0).autodiff()));
    let mut noise = SeededNoise::new(seed, NOISE);
    let found = Descent {
        steps: config.steps,
        rate: &|share| config.rate(share),
        slope: &mut |x| {
            let due = step >= group_from && (step - group_from).is_multiple_of(config.group_every);
            if config.group > 0.0 && config.seeds > 1 && due {
                consensus = Some(agreed(x, batch, shape, config.shift)?);
            }
            step += 1;
            let mut slopes = Vec::with_capacity(config.seeds);
            for s in 0..config.seeds {
                let own = of_seed(x, s);
                let mut slope = objective(&own)?.slope * config.gradient;
                slope = slope + config.prior.slope(&own, shape)?;
                if trained && let Some(by_statistics) = statistics_slope(statistics, &own, config) {
                    slope = slope + by_statistics * config.statistics;
                }
                if let Some(consensus) = &consensus {
                    let away = own - consensus.clone();
                    let length = number(away.clone().square().sum())?.sqrt();
                    if length > 0.0 {
                        slope = slope + away * (config.group / (length * area));
                    }
                }
                slopes.push(slope);
            }
            Ok(Tensor::cat(slopes, 0))
        },
        then: &mut |x, rate| {
            let x = match config.noise > 0.0 {
                true => {
                    let size = x.dims();
                    x + noise.normal::<2>(size, &device) * (rate * config.noise)
                }
                false => x,
            };
            Ok(x.clamp(0.0, 1.0))
        },
    }
    .run(start)?;

    let recovered = |pictures: Tensor<2>| {
        let cost = objective(&pictures)?.cost;
        Ok::<_, LeakageError>(Recovered { pictures, cost })
    };
    let seeds = (0..config.seeds).map(|s| recovered(of_seed(&found, s)));
    let seeds = seeds.collect::<Result<Vec<_>, _>>()?;
    let consensus = match config.group > 0.0 && config.seeds > 1 {
        true => Some(recovered(agreed(&found, batch, shape, config.shift)?)?),
        false => None,
    };
    let best = seeds
        .iter()
        .chain(&consensus)
        .min_by(|a, b| a.cost.total_cmp(&b.cost));
    let best = best.ok_or(LeakageError::NoRestart)?.clone();
    Ok(GradInversion {
        pictures: best.pictures,
        cost: best.cost,
        seeds,
        consensus,
        statistics: trained,
    })
}

/// Whether there are statistics of a training: those of a network that was never trained are means of 0 and variances of 1.
pub fn are_trained(statistics: &[BatchStatistics]) -> bool {
    let largest = |x: Tensor<1>| x.abs().max().into_scalar::<f64>();
    statistics.iter().any(|own| {
        largest(own.running_mean.clone()) > 0.0 || largest(own.running_variance.clone() - 1.0) > 0.0
    })
}

/// The slope of the distance of a batch's statistics from the running ones; none without a batch normalisation.
fn statistics_slope(
    statistics: &Statistics<'_>,
    pictures: &Tensor<2>,
    config: GradInversionConfig,
) -> Option<Tensor<2>> {
    let leaf = leaf(pictures);
    let found = statistics(leaf.clone());
    // The root has no slope at 0.
    let length = |x: Tensor<1>| (x.square().sum() + 1e-12).sqrt();
    let costs = found.into_iter().enumerate().map(|(layer, own)| {
        let apart =
            length(own.mean - own.running_mean) + length(own.variance - own.running_variance);
        match layer {
            0 => apart * config.first_statistics,
            _ => apart,
        }
    });
    let cost = costs.reduce(|a, b| a + b)?;
    let mut gradients = cost.backward();
    leaf.grad_remove(&mut gradients)
}

/// The consensus of each picture of the batch, `[batch, pixels]`, of all seeds', `[seeds · batch, pixels]`.
fn agreed(
    all: &Tensor<2>,
    batch: usize,
    shape: [usize; 3],
    shift: usize,
) -> Result<Tensor<2>, LeakageError> {
    let [rows, pixels] = all.dims();
    let values = all
        .try_to_vec_as::<f32>()
        .map_err(|e| LeakageError::Device(e.to_string()))?;
    let mut found = Vec::with_capacity(batch * pixels);
    for picture in 0..batch {
        let of_seeds = (picture..rows).step_by(batch);
        let of_seeds: Vec<&[f32]> = of_seeds
            .map(|row| &values[row * pixels..(row + 1) * pixels])
            .collect();
        found.extend(registered_mean(&of_seeds, shape, shift));
    }
    let device = all.device().without_autodiff();
    Ok(Tensor::from_data(
        TensorData::new(found, [batch, pixels]),
        &device,
    ))
}

/// The mean of pictures, each moved by whole pixels to where it fits the plain mean best; what is moved in at an edge
/// repeats the edge.
///
/// - `shape`: channels, height and width; `shift`: the longest, in pixels
pub fn registered_mean(pictures: &[&[f32]], shape: [usize; 3], shift: usize) -> Vec<f32> {
    let mean_of = |pictures: &[Vec<f32>]| -> Vec<f32> {
        let count = pictures.len().max(1) as f32;
        let length = pictures.first().map_or(0, Vec::len);
        (0..length)
            .map(|i| pictures.iter().map(|p| p[i]).sum::<f32>() / count)
            .collect()
    };
    let plain: Vec<Vec<f32>> = pictures.iter().map(|p| p.to_vec()).collect();
    let mean = mean_of(&plain);
    let reach = shift as isize;
    let registered = plain.iter().map(|picture| {
        let mut best = (f64::INFINITY, picture.clone());
        // No shift first, which stays where none is better.
        let shifts = (-reach..=reach).flat_map(|dy| (-reach..=reach).map(move |dx| [dy, dx]));
        let mut shifts: Vec<[isize; 2]> = shifts.collect();
        shifts.sort_by_key(|[dy, dx]| dy * dy + dx * dx);
        for by in shifts {
            let moved = moved(picture, shape, by);
            let squares = moved
                .iter()
                .zip(&mean)
                .map(|(a, b)| f64::from(a - b).powi(2));
            let apart: f64 = squares.sum();
            if apart < best.0 {
                best = (apart, moved);
            }
        }
        best.1
    });
    mean_of(&registered.collect::<Vec<_>>())
}

/// A picture moved down and to the right.
fn moved(picture: &[f32], [channels, height, width]: [usize; 3], [dy, dx]: [isize; 2]) -> Vec<f32> {
    let mut moved = Vec::with_capacity(picture.len());
    let at = |i: usize, by: isize, length: usize| {
        (i as isize - by).clamp(0, length as isize - 1) as usize
    };
    for channel in 0..channels {
        for y in 0..height {
            let row = (channel * height + at(y, dy, height)) * width;
            moved.extend((0..width).map(|x| picture[row + at(x, dx, width)]));
        }
    }
    moved
}

#[cfg(test)]
mod tests;
