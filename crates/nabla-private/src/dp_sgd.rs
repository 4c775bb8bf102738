//! DP-SGD: steps along the noisy mean of clipped gradients.
//!
//! ```text
//! S ← each example with probability q                          Poisson sampling
//! v ← 1/B · ( Σ_{i∈S} clip(g_i, C) + σ C w ),   w ~ N(0, I)     B = q N, whatever |S| is
//! θ ← step of the optimizer along v
//! ```
//!
//! With the noise multiplier `σ`, one example more or less moves the sum by at most `C` in noise of `σC`: `T` steps are
//! the Poisson-subsampled Gaussian mechanism, which the [accountants](crate::accountant) count.
//!
//! Source: Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, *Deep Learning with Differential Privacy*, 2016,
//! arXiv 1607.00133.

use nabla_base::OutOfRange;

use crate::accountant::History;
use crate::release::{Release, Sums};

/// The noisy mean; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DpSgd {
    /// The limit `C` to which gradients are clipped.
    pub clip: f64,
    /// The noise multiplier `σ`.
    pub noise_multiplier: f64,
    /// The sampling rate `q`.
    pub sampling_rate: f64,
    /// Examples `B` that a step is expected to see.
    pub batch: f64,
}

impl Release for DpSgd {
    fn name(&self) -> &'static str {
        "dp-sgd"
    }

    fn history(&self, steps: u64) -> Result<History, OutOfRange> {
        History::new().with(self.noise_multiplier, self.sampling_rate, steps)
    }

    fn deviation_of_step(&self) -> Option<f64> {
        Some(self.noise_multiplier * self.clip / self.batch)
    }

    fn release(&mut self, sums: Sums, noise: Vec<f64>) -> Vec<f64> {
        let deviation = self.noise_multiplier * self.clip;
        let noisy = sums.clipped.into_iter().zip(noise);
        noisy
            .map(|(sum, w)| (sum + deviation * w) / self.batch)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_over_the_expected_batch_and_the_noise_as_wide_as_the_clip() {
        let mut release = DpSgd {
            clip: 2.0,
            noise_multiplier: 3.0,
            sampling_rate: 0.1,
            batch: 8.0,
        };
        let sums = Sums {
            clipped: vec![4.0, 0.0],
            raw: Vec::new(),
        };
        assert_eq!(release.release(sums, vec![0.0, 1.0]), [0.5, 0.75]);
    }
}
