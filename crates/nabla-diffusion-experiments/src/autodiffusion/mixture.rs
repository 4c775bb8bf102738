//! A mixture of Gaussians with full covariances, fitted to data, as an exact model.
//!
//! ```text
//! x_0 ~ Σ_k w_k N(μ_k, Σ_k),   x = signal · x_0 + noise · ε
//! A_k = (signal² Σ_k + noise² I)⁻¹,   d_k = x − signal μ_k
//! ε̂ = noise Σ_k r_k A_k d_k,   r_k ∝ w_k √|A_k| exp(−½ d_kᵀ A_k d_k)
//! ```
//!
//! Fitted by expectation and maximization (Dempster, Laird, Rubin, 1977).

use burn::tensor::{Tensor, TensorData};
use faer::Mat;
use nabla_claims::ClaimError;
use nabla_diffusion::denoiser::{Condition, Denoiser, OwnError, Prediction};
use nabla_diffusion::level::Level;
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_train::frechet::Moments;
use rand::seq::index::sample;

use super::data::{Data, NUMBERS, eigen};

/// Added to the variances, so that a part of few rows has a density.
const LEAST_VARIANCE: f64 = 1e-3;

type Vector = [f64; NUMBERS];

/// A part of the mixture.
struct Part {
    weight: f64,
    mean: Vector,
    covariance: Mat<f64>,
    /// Of the covariance.
    variances: Vec<f64>,
    vectors: Mat<f64>,
}

impl Part {
    fn new(weight: f64, mean: Vector, covariance: Mat<f64>) -> Result<Self, ClaimError> {
        let (variances, vectors) = eigen(&covariance)?;
        Ok(Self {
            weight,
            mean,
            covariance,
            variances,
            vectors,
        })
    }
}

/// A part at a noise level.
struct Blurred {
    /// `signal μ`.
    centre: Vector,
    /// `A`, row by row.
    precision: Vec<Vector>,
    /// `ln w + ½ ln |A|`.
    constant: f64,
}

impl Blurred {
    fn new(part: &Part, signal: f64, noise: f64) -> Self {
        let blurred: Vec<f64> = part
            .variances
            .iter()
            .map(|variance| signal * signal * variance.max(0.0) + noise * noise)
            .collect();
        let entry = |i: usize, j: usize| -> f64 {
            let each = blurred.iter().enumerate();
            each.map(|(k, v)| part.vectors[(i, k)] * part.vectors[(j, k)] / v)
                .sum()
        };
        let row = |i: usize| std::array::from_fn(|j| entry(i, j));
        let log_volume: f64 = blurred.iter().map(|v| v.ln()).sum();
        Self {
            centre: part.mean.map(|mean| signal * mean),
            precision: (0..NUMBERS).map(row).collect(),
            constant: part.weight.ln() - 0.5 * log_volume,
        }
    }

    /// `A d`, and the logarithm of the part's density up to a constant.
    fn at(&self, x: &[f64]) -> (Vector, f64) {
        let d: Vector = std::array::from_fn(|i| x[i] - self.centre[i]);
        let mut pulled = [0.0; NUMBERS];
        let mut square = 0.0;
        for (i, row) in self.precision.iter().enumerate() {
            pulled[i] = row.iter().zip(&d).map(|(a, d)| a * d).sum();
            square += pulled[i] * d[i];
        }
        (pulled, self.constant - 0.5 * square)
    }
}

/// Shares from logarithms, which sum to 1.
fn shares(logs: &[f64]) -> Vec<f64> {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let each: Vec<f64> = logs.iter().map(|log| (log - largest).exp()).collect();
    let sum: f64 = each.iter().sum();
    each.into_iter().map(|share| share / sum).collect()
}

/// A mixture that was fitted to data.
pub(super) struct Mixture {
    parts: Vec<Part>,
    moments: Moments,
}

impl Mixture {
    /// Fits a mixture of `count` parts in so many rounds.
    pub(super) fn fit(data: &Data, count: usize, rounds: usize) -> Result<Self, ClaimError> {
        let rows: Vec<&[f64]> = data.rows().collect();
        let whole = Mat::from_fn(NUMBERS, NUMBERS, |i, j| f64::from(u8::from(i == j)));
        let mut noise = SeededNoise::new(0, count as u64);
        let chosen = sample(&mut noise, rows.len(), count);
        let mut parts = chosen
            .iter()
            .map(|i| {
                let mean = std::array::from_fn(|j| rows[i][j]);
                Part::new(1.0 / count as f64, mean, whole.clone())
            })
            .collect::<Result<Vec<_>, _>>()?;
        for _ in 0..rounds {
            let clean: Vec<Blurred> = parts.iter().map(|p| Blurred::new(p, 1.0, 0.0)).collect();
            let responsible: Vec<Vec<f64>> = rows
                .iter()
                .map(|row| shares(&clean.iter().map(|part| part.at(row).1).collect::<Vec<_>>()))
                .collect();
            for (k, part) in parts.iter_mut().enumerate() {
                let total: f64 = responsible.iter().map(|shares| shares[k]).sum::<f64>() + 1e-9;
                let pairs = || rows.iter().zip(&responsible).map(|(row, r)| (row, r[k]));
                let mean: Vector = std::array::from_fn(|j| {
                    pairs().map(|(row, r)| r * row[j]).sum::<f64>() / total
                });
                let mut sums = vec![[0.0; NUMBERS]; NUMBERS];
                for (row, r) in pairs().filter(|&(_, r)| r > 1e-12) {
                    let d: Vector = std::array::from_fn(|j| row[j] - mean[j]);
                    for (sum, di) in sums.iter_mut().zip(&d) {
                        let scaled = r * di;
                        sum.iter_mut().zip(&d).for_each(|(s, dj)| *s += scaled * dj);
                    }
                }
                let covariance = Mat::from_fn(NUMBERS, NUMBERS, |i, j| {
                    let least = if i == j { LEAST_VARIANCE } else { 0.0 };
                    sums[i][j] / total + least
                });
                *part = Part::new(total / rows.len() as f64, mean, covariance)?;
            }
        }
        let moments = exact_moments(&parts);
        Ok(Self { parts, moments })
    }

    /// The exact mean and covariance.
    pub(super) fn moments(&self) -> &Moments {
        &self.moments
    }
}

fn exact_moments(parts: &[Part]) -> Moments {
    let mean: Vector =
        std::array::from_fn(|i| parts.iter().map(|part| part.weight * part.mean[i]).sum());
    let entry = |i: usize, j: usize| -> f64 {
        let each = parts.iter().map(|part| {
            let [di, dj] = [i, j].map(|k| part.mean[k] - mean[k]);
            part.weight * (part.covariance[(i, j)] + di * dj)
        });
        each.sum()
    };
    let places = (0..NUMBERS).flat_map(|i| (0..NUMBERS).map(move |j| (i, j)));
    Moments {
        samples: usize::MAX,
        mean: mean.to_vec(),
        covariance: places.map(|(i, j)| entry(i, j)).collect(),
    }
}

impl Denoiser<2> for Mixture {
    /// The sample, which is computed in `f64`: near the end of the cosine schedule `ε` would not determine it.
    fn prediction(&self) -> Prediction {
        Prediction::Sample
    }

    fn predict(
        &self,
        x: Tensor<2>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<2>>, OwnError> {
        let (shape, device) = (x.dims(), x.device());
        let (signal, noise) = (level.signal(), level.noise());
        let parts = self
            .parts
            .iter()
            .map(|part| Blurred::new(part, signal, noise));
        let parts: Vec<Blurred> = parts.collect();
        let mut samples = Vec::with_capacity(shape[0] * NUMBERS);
        for row in x.try_into_vec_as::<f32>()?.chunks_exact(NUMBERS) {
            let row: Vector = std::array::from_fn(|i| f64::from(row[i]));
            let at: Vec<(Vector, f64)> = parts.iter().map(|part| part.at(&row)).collect();
            let shares = shares(&at.iter().map(|(_, log)| *log).collect::<Vec<_>>());
            for i in 0..NUMBERS {
                let each = at.iter().zip(&shares);
                let pulled: f64 = each.map(|((pulled, _), share)| share * pulled[i]).sum();
                samples.push(((row[i] - noise * noise * pulled) / signal) as f32);
            }
        }
        let sample = Tensor::from_data(TensorData::new(samples, shape), &device);
        Ok(vec![sample; conditions.len()])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// A mixture of one part is a Gaussian, whose posterior mean is known.
    #[test]
    fn one_part_is_a_gaussian_and_many_are_likelier() {
        let data = Data::digits().unwrap();
        let one = Mixture::fit(&data, 1, 3).unwrap();
        let level = Level::variance_preserving(500.0, 0.4);
        let x = SeededNoise::new(0, 0).normal([4, NUMBERS], &Device::flex());
        let found = one.predict(x.clone(), level, &[Condition::FIRST]).unwrap();
        // Unit variance in all directions, and the least variance.
        let variance = 1.0 + LEAST_VARIANCE;
        let gain = level.signal() * variance / (0.4 * variance + 0.6);
        let error = (found[0].clone() - x * gain)
            .abs()
            .max()
            .into_scalar::<f32>();
        assert!(error < 3e-3, "{error}");

        let ten = Mixture::fit(&data, 10, 20).unwrap();
        let likelihood = |mixture: &Mixture| -> f64 {
            let parts = mixture.parts.iter().map(|p| Blurred::new(p, 1.0, 0.0));
            let parts: Vec<Blurred> = parts.collect();
            let rows = data.rows().map(|row| {
                let logs = parts.iter().map(|part| part.at(row).1);
                logs.map(f64::exp).sum::<f64>().ln()
            });
            rows.sum()
        };
        assert!(likelihood(&ten) > likelihood(&one) + 100.0);
        // The moments of a fitted mixture are nearly those of the data.
        let reference = data.moments().unwrap();
        let apart = nabla_train::frechet::frechet_distance(&reference, ten.moments()).unwrap();
        assert!(apart < 1e-4, "{apart}");
    }
}
