//! The density of a sample under a diffusion model or a flow, by the probability-flow equation.
//!
//! With `u = x/signal` and `s = ln σ`, the flow is `du/ds = σ ε(x)`, and along it the density changes as the divergence
//! says:
//!
//! ```text
//! d ln p(u)/ds = −σ tr ∂ε/∂u,   ln p(u_0) = ln N(u_T; 0, (1 + σ_T²) I) + ∫ σ tr ∂ε/∂u ds
//! ```
//!
//! The trace is exact, with one product for each dimension, or estimated without bias by `vᵀ (∂ε/∂u) v` with random
//! signs `v` (Hutchinson), the same during a run ([`Divergence`]). The equation is solved by the classical method of
//! Runge and Kutta in the steps between the given levels.
//!
//! At the cleanest level there is a little noise left, and the density is that of `x_0` with this noise. At the
//! noisiest level, the data are taken to have mean 0 and mean square 1, which matters little if `σ` is large.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
//! use nabla_diffusion::likelihood::{Divergence, log_density};
//! use nabla_diffusion::vp_path::VpPath;
//!
//! let device = Device::flex();
//! let ones = Tensor::<2>::ones([1, 2], &device);
//! let model = GaussianDenoiser::new(ones.clone() * 0.0, ones.clone() * 0.25, Prediction::Epsilon);
//! let levels = VpPath::new().even_in_log_snr(40)?;
//! let found = log_density(&model, &levels, ones * 0.5, Divergence::Exact)?;
//! // −½ ln(2π s²) − x²/(2 s²) for each number, s = ½.
//! assert!((found[0] / 2.0 - (-0.2257913526 - 0.5)).abs() < 1e-2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Chen et al., 2018, arXiv 1806.07366, section 4; Grathwohl et al., *FFJORD*, 2019, arXiv 1810.01367; Song et
//! al., 2021, arXiv 2011.13456, section 4.3.

use std::f64::consts::PI;

use burn::tensor::{DType, Tensor, TensorData};

use crate::denoiser::{Denoised, Denoiser};
use crate::level::{Level, Levels};
use crate::sampler_error::SamplerError;
use crate::seeded_noise::SeededNoise;
use crate::vector_jacobian::vector_jacobian;

/// How the divergence is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// With one product for each dimension: for few of them.
    Exact,
    /// The mean of this many random products.
    Hutchinson {
        /// The number of products, at least 1.
        probes: usize,
        /// The seed of the signs.
        seed: u64,
    },
}

/// `ln p` of each row in nats, at the level at which the run ends, for `x/signal` there.
///
/// - `model`: differentiable; asked under its first condition
/// - `levels`: of a run, which ends at a level with noise
/// - `x`: `[batch, …]`, at the end of the run
///
/// # Errors
/// If the model fails, the first level has no signal, the last one no noise, or there is no probe.
pub fn log_density<const D: usize>(
    model: &dyn Denoiser<D>,
    levels: &Levels,
    x: Tensor<D>,
    divergence: Divergence,
) -> Result<Vec<f64>, SamplerError> {
    let (start, end) = (levels.start(), levels.end());
    if start.signal() == 0.0 {
        let time = start.time();
        return Err(SamplerError::InfiniteSigma { time });
    }
    if end.noise() == 0.0 {
        return Err(SamplerError::FinalSigma {
            sampler: "the density",
        });
    }
    let dims = x.dims();
    let numbers: usize = dims[1..].iter().product();
    let probes = probes(&x, numbers, divergence)?;
    let flow = Flow { model, probes };
    let mut u = x.inner() / end.signal();
    let mut sums = vec![0.0; dims[0]];
    for index in 0..levels.steps() {
        let (from, to) = (levels.level_after(index), levels.level(index));
        let (low, high) = (from.sigma().ln(), to.sigma().ln());
        let middle = levels.path().level_of_sigma((0.5 * (low + high)).exp());
        let length = high - low;
        let (k1, d1) = flow.at(&u, from)?;
        let (k2, d2) = flow.at(&(u.clone() + k1.clone() * (0.5 * length)), middle)?;
        let (k3, d3) = flow.at(&(u.clone() + k2.clone() * (0.5 * length)), middle)?;
        let (k4, d4) = flow.at(&(u.clone() + k3.clone() * length), to)?;
        u = u + (k1 + k2 * 2.0 + k3 * 2.0 + k4) * (length / 6.0);
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum += length / 6.0 * (d1[row] + 2.0 * d2[row] + 2.0 * d3[row] + d4[row]);
        }
    }
    let variance = 1.0 + start.sigma().powi(2);
    let constant = -0.5 * numbers as f64 * (2.0 * PI * variance).ln();
    let squares = by_row(u.square());
    let each = sums.iter().zip(squares);
    Ok(each
        .map(|(sum, square)| sum + constant - 0.5 * square / variance)
        .collect())
}

/// The vectors whose products make up the trace, each with its weight.
fn probes<const D: usize>(
    x: &Tensor<D>,
    numbers: usize,
    divergence: Divergence,
) -> Result<Vec<(Tensor<D>, f64)>, SamplerError> {
    let (dims, options) = (x.dims(), (&x.device().inner(), x.dtype()));
    let tensor = |values: Vec<f64>| Tensor::from_data(TensorData::new(values, dims), options);
    match divergence {
        Divergence::Exact => {
            let unit = |k: usize| {
                (0..dims[0] * numbers).map(move |i| f64::from(u8::from(i % numbers == k)))
            };
            let each = (0..numbers).map(|k| (tensor(unit(k).collect()), 1.0));
            Ok(each.collect())
        }
        Divergence::Hutchinson { probes, seed } => {
            nabla_base::range::at_least("number of probes", probes, 1)?;
            let mut draw = SeededNoise::new(seed, 0);
            let each = (0..probes).map(|_| {
                let signs = draw.normal_values(dims[0] * numbers).into_iter();
                let signs = signs.map(|value| f64::from(value.signum()));
                (tensor(signs.collect()), 1.0 / probes as f64)
            });
            Ok(each.collect())
        }
    }
}

/// `du/d ln σ` and its divergence.
struct Flow<'a, const D: usize> {
    model: &'a dyn Denoiser<D>,
    probes: Vec<(Tensor<D>, f64)>,
}

impl<const D: usize> Flow<'_, D> {
    fn at(&self, u: &Tensor<D>, level: Level) -> Result<(Tensor<D>, Vec<f64>), SamplerError> {
        let mut traces = vec![0.0; u.dims()[0]];
        let mut slope = None;
        for (probe, weight) in &self.probes {
            let leaf = u.clone().autodiff().require_grad();
            let x = leaf.clone() * level.signal();
            let epsilon = Denoised::predict(self.model, &x, level)?.epsilon;
            let flow = epsilon * level.sigma();
            slope = Some(flow.clone().inner());
            let (product, _) = vector_jacobian(&leaf, flow, probe.clone());
            let each = by_row(product * probe.clone());
            for (trace, value) in traces.iter_mut().zip(each) {
                *trace += weight * value;
            }
        }
        Ok((slope.unwrap_or_else(|| u.zeros_like()), traces))
    }
}

/// The sum of each row.
fn by_row<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    let rows = x.dims()[0];
    let sums: Tensor<2> = x.cast(DType::F64).reshape([rows as i32, -1]).sum_dim(1);
    sums.into_data().iter::<f64>().collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::denoiser::{GaussianMixture, MixturePart, Prediction, denoiser};
    use crate::vp_path::VpPath;

    /// The density of a mixture, also with the noise that is left.
    #[test]
    fn the_density_is_that_of_a_mixture() {
        let part = |weight, mean: [f64; 2], deviation| MixturePart {
            class: 0,
            weight,
            mean: mean.to_vec(),
            deviation,
        };
        let parts = vec![part(1.0, [1.0, 0.2], 0.4), part(2.0, [-0.7, -0.5], 0.6)];
        let model = GaussianMixture::new(parts.clone()).unwrap();
        let levels = VpPath::new().even_in_log_snr(60).unwrap();
        let end = levels.end();
        let places = [[1.0, 0.0], [-0.2, 0.1], [0.5, -1.0]];
        let data = TensorData::new(places.concat(), [3, 2]);
        let x = Tensor::<2>::from_data(data, (&Device::flex(), DType::F64)) * end.signal();
        let expected = places.map(|place| {
            let each = parts.iter().map(|part| {
                let v = part.deviation.powi(2) + end.sigma().powi(2);
                let squares = place.iter().zip(&part.mean);
                let square: f64 = squares.map(|(x, m)| (x - m).powi(2)).sum();
                part.weight / 3.0 / (2.0 * PI * v) * (-0.5 * square / v).exp()
            });
            each.sum::<f64>().ln()
        });
        let exact = log_density(&model, &levels, x.clone(), Divergence::Exact).unwrap();
        for (found, expected) in exact.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 2e-3,
                "{found} against {expected}"
            );
        }
        let probes = Divergence::Hutchinson {
            probes: 40,
            seed: 1,
        };
        let estimate = log_density(&model, &levels, x, probes).unwrap();
        for (found, exact) in estimate.iter().zip(&exact) {
            assert!((found - exact).abs() < 0.3, "{found} against {exact}");
        }
    }

    #[test]
    fn what_has_no_density_is_refused() {
        let model = denoiser(Prediction::Epsilon, |x: Tensor<2>, _| x);
        let x = Tensor::<2>::zeros([1, 2], &Device::flex());
        let clean = crate::level::StraightLine::new()
            .with_start(0.9)
            .levels(3)
            .unwrap();
        assert!(log_density(&model, &clean, x.clone(), Divergence::Exact).is_err());
        let levels = VpPath::new().even_in_log_snr(3).unwrap();
        let none = Divergence::Hutchinson { probes: 0, seed: 0 };
        assert!(log_density(&model, &levels, x, none).is_err());
    }
}
