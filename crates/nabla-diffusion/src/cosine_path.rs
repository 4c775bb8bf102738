//! The variance-preserving path that turns at a constant speed: the cosine schedule in continuous time.
//!
//! ```text
//! x_t = cos(π t/2) x_0 + sin(π t/2) ε,   0 ≤ t ≤ 1
//! ```
//!
//! Source: Nichol, Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, 2021, arXiv 2102.09672 (the cosine);
//! Albergo, Vanden-Eijnden, *Building Normalizing Flows with Stochastic Interpolants*, 2023, arXiv 2209.15571 (as the path
//! of a flow).

use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

use burn::config::Config;
use nabla_base::range;

use crate::level::{Level, Levels, NoisePath};
use crate::schedule::ScheduleError;

/// The path; see the [module documentation](self).
///
/// ```
/// use nabla_diffusion::cosine_path::CosinePath;
/// use nabla_diffusion::level::NoisePath;
///
/// let middle = CosinePath::new().level_at(0.5);
/// assert!((middle.signal() - middle.noise()).abs() < 1e-12);
/// assert!((middle.scale() - 1.0).abs() < 1e-12);
/// # assert_eq!(CosinePath::new().levels(4)?.steps(), 4);
/// # Ok::<(), nabla_diffusion::schedule::ScheduleError>(())
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub struct CosinePath {
    /// Where a run starts, in `(0, 1]`. Default 0.999: at 1, `σ` is infinite.
    #[config(default = 0.999)]
    pub start: f64,
}

impl CosinePath {
    /// `steps` evenly spaced times from the start down to the sample at 0.
    ///
    /// # Errors
    /// If there are no steps, or `start` is not in `(0, 1]`.
    pub fn levels(&self, steps: usize) -> Result<Levels, ScheduleError> {
        let fits = self.start > 0.0 && self.start <= 1.0;
        range::check(fits, "start of the cosine path", self.start, "in (0, 1]")?;
        Levels::evenly(Arc::new(*self), self.start, steps)
    }
}

impl NoisePath for CosinePath {
    fn level_at(&self, time: f64) -> Level {
        let time = time.clamp(0.0, 1.0);
        let (noise, signal) = (FRAC_PI_2 * time).sin_cos();
        // cos(π/2) is not exactly 0.
        let signal = if time == 1.0 { 0.0 } else { signal };
        Level::new(time, signal, noise)
    }

    fn level_of_sigma(&self, sigma: f64) -> Level {
        self.level_at(sigma.atan() / FRAC_PI_2)
    }

    fn times(&self) -> [f64; 2] {
        [0.0, 1.0]
    }

    fn smooth_at(&self, time: f64) -> (Level, f64) {
        let level = self.level_at(time);
        // ln(signal²/noise²)
        let rate = -2.0 * FRAC_PI_2 / (level.signal() * level.noise());
        (level, rate)
    }

    fn rates_at(&self, time: f64) -> [f64; 2] {
        let (sine, cosine) = (FRAC_PI_2 * time.clamp(0.0, 1.0)).sin_cos();
        [-FRAC_PI_2 * sine, FRAC_PI_2 * cosine]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_and_inverse_are_those_of_the_path() {
        let path = CosinePath::new();
        let h = 1e-6;
        for time in [0.1, 0.5, 0.93] {
            let level = path.level_at(time);
            assert!((path.level_of_sigma(level.sigma()).time() - time).abs() < 1e-12);
            let (after, before) = (path.level_at(time + h), path.level_at(time - h));
            let slope = |value: fn(Level) -> f64| (value(after) - value(before)) / (2.0 * h);
            let [signal, noise] = path.rates_at(time);
            assert!((signal - slope(Level::signal)).abs() < 1e-8, "{time}");
            assert!((noise - slope(Level::noise)).abs() < 1e-8, "{time}");
            let (_, rate) = path.smooth_at(time);
            assert!((rate / slope(Level::log_snr) - 1.0).abs() < 1e-6, "{time}");
        }
        assert_eq!(path.level_at(1.0).signal(), 0.0);
        assert!(path.with_start(0.0).levels(3).is_err());
    }
}
