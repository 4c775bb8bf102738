//! The variance-exploding path in continuous time, with a noise that rises geometrically.
//!
//! ```text
//! x_t = x_0 + σ_t ε,   σ_t = σ_min (σ_max/σ_min)^t,   0 ≤ t ≤ 1
//! ```
//!
//! At time 0 the noise `σ_min` is left; a run ends with a step to the sample without it.
//!
//! Source: Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations*, 2021, arXiv
//! 2011.13456, appendix C.

use std::sync::Arc;

use burn::config::Config;
use nabla_base::range::{self, OutOfRange};

use crate::level::{Level, Levels, NoisePath};
use crate::schedule::ScheduleError;

/// The path; see the [module documentation](self).
///
/// ```
/// use nabla_diffusion::exploding_path::ExplodingPath;
/// use nabla_diffusion::level::NoisePath;
///
/// let path = ExplodingPath::new().with_sigma_min(0.1).with_sigma_max(10.0);
/// assert!((path.level_at(0.5).sigma() - 1.0).abs() < 1e-12);
/// # assert_eq!(path.levels(4)?.steps(), 4);
/// # Ok::<(), nabla_diffusion::schedule::ScheduleError>(())
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub struct ExplodingPath {
    /// The least noise, above 0. Default 0.01.
    #[config(default = 0.01)]
    pub sigma_min: f64,
    /// The most noise, above the least. Default 20, for data of mean square 1.
    #[config(default = 20.0)]
    pub sigma_max: f64,
}

impl ExplodingPath {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::positive("least noise of the path", self.sigma_min)?;
        let fits = self.sigma_max > self.sigma_min && self.sigma_max.is_finite();
        let expected = format!("finite and above {}, the least", self.sigma_min);
        range::check(fits, "most noise of the path", self.sigma_max, expected)
    }

    /// `steps` evenly spaced times down to, but not including, time 0, and then the sample without noise.
    ///
    /// # Errors
    /// If there are no steps, or a field is out of range.
    pub fn levels(&self, steps: usize) -> Result<Levels, ScheduleError> {
        self.validate()?;
        Levels::evenly(Arc::new(*self), 1.0, steps)
    }

    /// `ln(σ_max/σ_min)`
    fn span(&self) -> f64 {
        (self.sigma_max / self.sigma_min).ln()
    }
}

impl NoisePath for ExplodingPath {
    fn level_at(&self, time: f64) -> Level {
        let time = time.clamp(0.0, 1.0);
        let sigma = self.sigma_min * (self.span() * time).exp();
        Level::variance_exploding(time, sigma)
    }

    fn level_of_sigma(&self, sigma: f64) -> Level {
        let time = (sigma / self.sigma_min).ln() / self.span();
        Level::variance_exploding(time.clamp(0.0, 1.0), sigma)
    }

    fn times(&self) -> [f64; 2] {
        [0.0, 1.0]
    }

    fn smooth_at(&self, time: f64) -> (Level, f64) {
        (self.level_at(time), -2.0 * self.span())
    }

    fn rates_at(&self, time: f64) -> [f64; 2] {
        [0.0, self.span() * self.level_at(time).noise()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_and_inverse_are_those_of_the_path() {
        let path = ExplodingPath::new();
        let h = 1e-6;
        for time in [0.1, 0.5, 0.93] {
            let level = path.level_at(time);
            assert!((path.level_of_sigma(level.sigma()).time() - time).abs() < 1e-12);
            let (after, before) = (path.level_at(time + h), path.level_at(time - h));
            let slope = (after.noise() - before.noise()) / (2.0 * h);
            let [signal, noise] = path.rates_at(time);
            assert_eq!(signal, 0.0);
            assert!((noise / slope - 1.0).abs() < 1e-6, "{time}");
            let slope = (after.log_snr() - before.log_snr()) / (2.0 * h);
            assert!(
                (path.smooth_at(time).1 / slope - 1.0).abs() < 1e-6,
                "{time}"
            );
        }
        assert_eq!(path.levels(5).unwrap().end().noise(), 0.0);
        assert!(path.with_sigma_max(0.001).levels(5).is_err());
    }
}
