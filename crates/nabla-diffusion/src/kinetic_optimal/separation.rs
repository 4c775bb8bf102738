//! The data separation function: closed forms, and estimates from points or from a trained denoiser.

use std::f64::consts::FRAC_PI_2;

use burn::config::Config;
use burn::tensor::{DType, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use rand::RngExt;
use rayon::prelude::*;

use crate::denoiser::{Denoised, Denoiser};
use crate::level::NoisePath;
use crate::sampler_error::SamplerError;
use crate::seeded_noise::SeededNoise;

/// Why a data separation function cannot be estimated.
#[derive(Debug, thiserror::Error)]
pub enum SeparationError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The points are not whole.
    #[error("{found} numbers are not points of {dimension} numbers each")]
    Points {
        /// How many numbers there are.
        found: usize,
        /// How many a point has.
        dimension: usize,
    },
    /// The data do not have mean square 1.
    #[error(
        "the numbers of the points have the mean square {power}, but 1 is needed: normalize them first"
    )]
    NotNormalized {
        /// The mean square of the numbers.
        power: f64,
    },
    /// The denoiser failed.
    #[error(transparent)]
    Denoiser(#[from] SamplerError),
}

/// What is left at the end without noise.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum Boundary {
    /// `κ(π/2) = 1`: a finite set of points.
    Discrete,
    /// `κ(π/2) = 1 − k/d`: a smooth set with this share `k/d` of the dimensions, in `[0, 1]`.
    Share(f64),
}

impl Boundary {
    fn value(self) -> Result<f64, OutOfRange> {
        match self {
            Self::Discrete => Ok(1.0),
            Self::Share(share) => {
                range::within("share of the dimensions", share, 0.0..=1.0)?;
                Ok(1.0 - share)
            }
        }
    }
}

/// How a data separation function is estimated.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct SeparationConfig {
    /// Intervals of the grid, even in `θ`. Default 40.
    #[config(default = 40)]
    pub grid: usize,
    /// Draws, the same at every place of the grid. Default 500.
    #[config(default = 500)]
    pub draws: usize,
    /// What is left at the end without noise. Default [`Boundary::Discrete`].
    #[config(default = "Boundary::Discrete")]
    pub boundary: Boundary,
    /// Seed of the draws. Default 0.
    #[config(default = 0)]
    pub seed: u64,
}

impl SeparationConfig {
    fn validate(&self) -> Result<f64, OutOfRange> {
        range::at_least("grid of the data separation", self.grid, 2)?;
        range::at_least("draws of the data separation", self.draws, 1)?;
        self.boundary.value()
    }

    /// `θ` of the places inside of the grid.
    fn inner(&self) -> impl Iterator<Item = f64> + use<> {
        let grid = self.grid;
        (1..grid).map(move |k| FRAC_PI_2 * k as f64 / grid as f64)
    }
}

/// Points with mean 0 and mean square 1, and how to come back.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalized {
    /// `(x − mean)/scale`, one point after the other.
    pub points: Vec<f64>,
    /// Of each coordinate.
    pub mean: Vec<f64>,
    /// The root mean square of all numbers after the mean was subtracted.
    pub scale: f64,
}

/// Subtracts the mean of each coordinate, and divides by the root mean square of all numbers.
///
/// - `points`: one after the other
/// - `dimension`: numbers of a point
///
/// # Errors
/// If there are fewer than two points, they are not whole, not finite, or all the same.
pub fn normalized(points: &[f64], dimension: usize) -> Result<Normalized, SeparationError> {
    let count = check_points(points, dimension)?;
    let mut mean = vec![0.0; dimension];
    for point in points.chunks(dimension) {
        for (sum, value) in mean.iter_mut().zip(point) {
            *sum += value / count as f64;
        }
    }
    let centred = points.chunks(dimension).flat_map(|point| {
        let each = point.iter().zip(&mean);
        each.map(|(value, mean)| value - mean).collect::<Vec<_>>()
    });
    let mut points: Vec<f64> = centred.collect();
    let power = points.iter().map(|v| v * v).sum::<f64>() / points.len() as f64;
    range::positive("mean square of the points around their mean", power)?;
    let scale = power.sqrt();
    points.iter_mut().for_each(|value| *value /= scale);
    Ok(Normalized {
        points,
        mean,
        scale,
    })
}

fn check_points(points: &[f64], dimension: usize) -> Result<usize, SeparationError> {
    range::at_least("number of numbers of a point", dimension, 1)?;
    if !points.len().is_multiple_of(dimension) {
        let found = points.len();
        return Err(SeparationError::Points { found, dimension });
    }
    let count = points.len() / dimension;
    range::at_least("number of points", count, 2)?;
    if let Some(&wrong) = points.iter().find(|value| !value.is_finite()) {
        range::finite("number of a point", wrong)?;
    }
    Ok(count)
}

/// `κ` on a grid that is even in `θ`, linear in between; see the [module documentation](super).
#[derive(Clone, Debug, PartialEq)]
pub struct DataSeparation {
    /// At `θ = 0, …, π/2`.
    kappa: Vec<f64>,
    /// `∫√κ` from 0 to each place.
    phi: Vec<f64>,
}

impl DataSeparation {
    /// From values of `κ` at evenly spaced `θ`, from 0 to `π/2`.
    ///
    /// # Errors
    /// If there are fewer than two, or one is not in `[0, 1]`.
    pub fn new(kappa: Vec<f64>) -> Result<Self, OutOfRange> {
        range::at_least("number of values of the data separation", kappa.len(), 2)?;
        for &value in &kappa {
            range::within("data separation", value, 0.0..=1.0)?;
        }
        Ok(Self::of_values(kappa))
    }

    fn of_values(kappa: Vec<f64>) -> Self {
        let width = FRAC_PI_2 / (kappa.len() - 1) as f64;
        let mut phi = vec![0.0];
        let mut sum = 0.0;
        for pair in kappa.windows(2) {
            sum += width * root_mean(pair[0], pair[1]);
            phi.push(sum);
        }
        Self { kappa, phi }
    }

    /// That of independent numbers of normal distributions with these variances, whose mean is 1.
    ///
    /// # Errors
    /// If there is none, one is negative, or their mean is not 1.
    pub fn of_variances(variances: &[f64], grid: usize) -> Result<Self, SeparationError> {
        range::at_least("number of variances", variances.len(), 1)?;
        range::at_least("grid of the data separation", grid, 2)?;
        for &variance in variances {
            range::not_negative("variance", variance)?;
        }
        let mean = |value: &dyn Fn(f64) -> f64| {
            variances.iter().map(|&v| value(v)).sum::<f64>() / variances.len() as f64
        };
        let power = mean(&|v| v);
        if (power - 1.0).abs() > 1e-6 {
            return Err(SeparationError::NotNormalized { power });
        }
        let flat = variances.iter().filter(|&&v| v == 0.0).count();
        let kappa = (0..=grid).map(|k| match k {
            0 => 0.0,
            _ if k == grid => flat as f64 / variances.len() as f64,
            _ => {
                let power = (FRAC_PI_2 * k as f64 / grid as f64).tan().powi(2);
                (1.0 - (1.0 + power) * mean(&|v| v / (1.0 + power * v))).clamp(0.0, 1.0)
            }
        });
        Ok(Self::of_values(kappa.collect()))
    }

    /// That of a finite set of points, estimated with the exact posterior mean `Σ w_i x_i`, `w_i ∝ exp(−‖z − r
    /// x_i‖²/2)`.
    ///
    /// For the distribution from which the points were drawn, this is too large: every finite set is perfectly
    /// separated at the end. Use [`of_denoiser`](Self::of_denoiser) with a trained one instead.
    ///
    /// - `points`: one after the other, with mean square 1 ([`normalized`]). Their mean may be another than 0: then
    ///   `κ(0) = ‖mean‖²/d`, since without any signal the mean is all that is known.
    ///
    /// # Errors
    /// If the configuration is out of range, or the points are not whole, not finite or not normalized.
    pub fn of_points(
        points: &[f64],
        dimension: usize,
        config: &SeparationConfig,
    ) -> Result<Self, SeparationError> {
        let boundary = config.validate()?;
        let count = check_points(points, dimension)?;
        let mean = (0..dimension)
            .map(|k| points.iter().skip(k).step_by(dimension).sum::<f64>() / count as f64)
            .map(|mean| mean * mean)
            .sum::<f64>();
        let power = points.iter().map(|v| v * v).sum::<f64>() / points.len() as f64;
        if (power - 1.0).abs() > 1e-3 {
            return Err(SeparationError::NotNormalized { power });
        }
        let norms: Vec<f64> = points.chunks(dimension).map(|x| dot(x, x)).collect();
        let mut noise = SeededNoise::new(config.seed, 0);
        let chosen: Vec<usize> = (0..config.draws)
            .map(|_| noise.random_range(0..count))
            .collect();
        let normal = noise.normal_values(config.draws * dimension);
        let normal: Vec<f64> = normal.into_iter().map(f64::from).collect();
        let mut kappa = vec![(mean / dimension as f64).min(1.0)];
        for theta in config.inner() {
            let r = theta.tan();
            let linear = r / (1.0 + r * r);
            let rooms = || (vec![0.0; dimension], vec![0.0; dimension], vec![0.0; count]);
            let draws = chosen.par_iter().zip(normal.par_chunks(dimension));
            let each = draws.map_init(rooms, |(z, predicted, shares), (&i, epsilon)| {
                let x = &points[i * dimension..(i + 1) * dimension];
                for ((z, x), epsilon) in z.iter_mut().zip(x).zip(epsilon) {
                    *z = r * x + epsilon;
                }
                posterior_mean(points, &norms, r, z, shares, predicted);
                let both = predicted.iter().zip(z.iter());
                both.map(|(x, z)| (x - linear * z).powi(2)).sum::<f64>()
            });
            // In the order of the draws, however many threads there are.
            let sum: f64 = each.collect::<Vec<f64>>().into_iter().sum();
            let value = (1.0 + r * r) * sum / (config.draws * dimension) as f64;
            kappa.push(value.clamp(0.0, 1.0));
        }
        kappa.push(boundary);
        Ok(Self::of_values(kappa))
    }

    /// That of the distribution which a denoiser knows.
    ///
    /// - `data`: examples, `[batch, …]`, at least two; they need not be normalized, but `κ` is that of the
    ///   normalized ones
    /// - `path`: the path of the denoiser
    ///
    /// # Errors
    /// If the configuration is out of range, there are too few examples, or the denoiser fails.
    pub fn of_denoiser<const D: usize>(
        model: &dyn Denoiser<D>,
        data: &Tensor<D>,
        path: &dyn NoisePath,
        config: &SeparationConfig,
    ) -> Result<Self, SeparationError> {
        let boundary = config.validate()?;
        let dims = data.dims();
        range::at_least("number of examples", dims[0], 2)?;
        let mean = data.clone().mean_dim(0); // [1, …]
        let power = average((data.clone() - mean.clone()).square());
        range::positive("mean square of the examples around their mean", power)?;
        let scale = power.sqrt();
        let rounds = config.draws.div_ceil(dims[0]);
        let mut noise = SeededNoise::new(config.seed, 0);
        let noises: Vec<Tensor<D>> = (0..rounds)
            .map(|_| noise.normal(dims, &data.device()))
            .collect();
        let mut kappa = vec![0.0];
        for theta in config.inner() {
            // In normalized data, z = r (x − mean)/scale + ε.
            let r = theta.tan();
            let level = path.level_of_sigma(scale / r);
            let mut sum = 0.0;
            for epsilon in &noises {
                let x = level.mix(data.clone(), epsilon.clone());
                let sample = Denoised::predict(model, &x, level)?.sample.inner();
                let z = (x - mean.clone() * level.signal()) / level.noise();
                let difference = (sample - mean.clone()) / scale - z * (r / (1.0 + r * r));
                sum += average(difference.square());
            }
            let value = (1.0 + r * r) * sum / rounds as f64;
            kappa.push(value.clamp(0.0, 1.0));
        }
        kappa.push(boundary);
        Ok(Self::of_values(kappa))
    }

    /// `κ` at evenly spaced `θ`, from 0 to `π/2`; what [`new`](Self::new) takes.
    pub fn values(&self) -> &[f64] {
        &self.kappa
    }

    fn width(&self) -> f64 {
        FRAC_PI_2 / (self.kappa.len() - 1) as f64
    }

    /// The place of `θ`: an interval, and the share of it.
    fn place(&self, theta: f64) -> (usize, f64) {
        let place = theta.clamp(0.0, FRAC_PI_2) / self.width();
        let interval = (place as usize).min(self.kappa.len() - 2);
        (interval, (place - interval as f64).clamp(0.0, 1.0))
    }

    /// `κ` at `θ`, which is clamped to `[0, π/2]`.
    pub fn kappa(&self, theta: f64) -> f64 {
        let (i, share) = self.place(theta);
        self.kappa[i] + share * (self.kappa[i + 1] - self.kappa[i])
    }

    /// `λ = 1 − (1 − κ)/(1 + r²)` at the ratio `r` of signal and noise.
    pub fn lambda(&self, r: f64) -> f64 {
        1.0 - (1.0 - self.kappa(r.atan())) / (1.0 + r * r)
    }

    /// `φ(θ) = ∫_0^θ √κ`.
    pub fn phi(&self, theta: f64) -> f64 {
        let (i, share) = self.place(theta);
        let here = self.kappa[i] + share * (self.kappa[i + 1] - self.kappa[i]);
        self.phi[i] + share * self.width() * root_mean(self.kappa[i], here)
    }

    /// `Φ = φ(π/2)`.
    pub fn angle(&self) -> f64 {
        self.phi[self.phi.len() - 1]
    }

    /// The inverse of [`phi`](Self::phi); where `κ` is 0, any of the places.
    pub fn theta_of_phi(&self, phi: f64) -> f64 {
        let after = self.phi.partition_point(|&value| value < phi);
        let i = after.saturating_sub(1).min(self.kappa.len() - 2);
        let (mut low, mut high) = (0.0, 1.0);
        let [begin, end] = [self.kappa[i], self.kappa[i + 1]];
        // Halved until no number lies in between.
        for _ in 0..60 {
            let share = 0.5 * (low + high);
            let here = begin + share * (end - begin);
            match self.phi[i] + share * self.width() * root_mean(begin, here) < phi {
                true => low = share,
                false => high = share,
            }
        }
        (i as f64 + 0.5 * (low + high)) * self.width()
    }

    pub(super) fn largest(&self) -> f64 {
        self.kappa.iter().copied().fold(0.0, f64::max)
    }

    pub(super) fn raised_to(&self, floor: f64) -> Self {
        Self::of_values(self.kappa.iter().map(|value| value.max(floor)).collect())
    }
}

/// The mean of `√κ` where `κ` goes linearly from one value to another: `⅔ (a + √(ab) + b)/(√a + √b)`.
fn root_mean(a: f64, b: f64) -> f64 {
    let (u, v) = (a.sqrt(), b.sqrt());
    match u + v == 0.0 {
        true => 0.0,
        false => 2.0 / 3.0 * (a + u * v + b) / (u + v),
    }
}

/// `E[x | z]` of a set of points, with `z = r x + ε`.
///
/// - `norms`: `‖x_i‖²`
fn posterior_mean(
    points: &[f64],
    norms: &[f64],
    r: f64,
    z: &[f64],
    shares: &mut [f64],
    mean: &mut [f64],
) {
    let dimension = z.len();
    let mut largest = f64::NEG_INFINITY;
    for ((share, x), norm) in shares.iter_mut().zip(points.chunks(dimension)).zip(norms) {
        *share = r * dot(z, x) - 0.5 * r * r * norm;
        largest = largest.max(*share);
    }
    let mut sum = 0.0;
    mean.fill(0.0);
    for (share, x) in shares.iter().zip(points.chunks(dimension)) {
        let weight = (share - largest).exp();
        if weight > 0.0 {
            sum += weight;
            for (mean, x) in mean.iter_mut().zip(x) {
                *mean += weight * x;
            }
        }
    }
    mean.iter_mut().for_each(|mean| *mean /= sum);
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The mean of all numbers.
fn average<const D: usize>(x: Tensor<D>) -> f64 {
    let data: TensorData = x.inner().cast(DType::F64).mean().into_data();
    data.iter::<f64>().next().unwrap_or(f64::NAN)
}
