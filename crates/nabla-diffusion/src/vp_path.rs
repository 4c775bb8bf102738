//! The variance-preserving path in continuous time, with a `β` that rises linearly.
//!
//! ```text
//! dx = −½ β(t) x dt + √β(t) dw,   β(t) = β_0 + t (β_1 − β_0),   0 < t ≤ 1
//! ln signal = −¼ t² (β_1 − β_0) − ½ t β_0,   noise² = 1 − signal²
//! ```
//!
//! Source: Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations*, 2021, arXiv
//! 2011.13456, appendix C.

use std::sync::Arc;

use burn::config::Config;
use nabla_base::range;

use crate::level::{Level, Levels, NoisePath};
use crate::schedule::ScheduleError;

/// The path; see the [module documentation](self). Its network's times are those of the path.
///
/// ```
/// use nabla_diffusion::level::NoisePath;
/// use nabla_diffusion::vp_path::VpPath;
///
/// let path = VpPath::new();
/// let end = path.level_at(1.0);
/// assert!((end.signal() - 0.00657159).abs() < 1e-8);
/// assert!((path.level_of_sigma(end.sigma()).time() - 1.0).abs() < 1e-12);
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub struct VpPath {
    /// `β_0`, above 0. Default 0.1.
    #[config(default = 0.1)]
    pub beta_min: f64,
    /// `β_1`, at least `β_0`. Default 20.
    #[config(default = 20.0)]
    pub beta_max: f64,
    /// The cleanest time, in `(0, 1)`. Default 1e-3.
    #[config(default = 1e-3)]
    pub first: f64,
}

impl VpPath {
    fn level(&self, time: f64) -> Level {
        let rise = self.beta_max - self.beta_min;
        let log_power = -0.5 * time * time * rise - time * self.beta_min;
        Level::variance_preserving(time, log_power.exp())
    }

    /// `steps + 1` levels at these times, of which the first is the end of the run.
    ///
    /// - `times`: rising, each within the path's
    ///
    /// # Errors
    /// If there are fewer than two times, they do not rise, or a field is out of range.
    pub fn levels(&self, times: &[f64]) -> Result<Levels, ScheduleError> {
        range::positive("beta_min of the path", self.beta_min)?;
        let fits = self.beta_max >= self.beta_min && self.beta_max.is_finite();
        let expected = "finite and at least beta_min";
        range::check(fits, "beta_max of the path", self.beta_max, expected)?;
        let fits = self.first > 0.0 && self.first < 1.0;
        range::check(
            fits,
            "first time of the path",
            self.first,
            "between 0 and 1",
        )?;
        range::at_least("number of times", times.len(), 2)?;
        for &time in times {
            range::within("time of the path", time, self.first..=1.0)?;
        }
        let levels: Vec<Level> = times.iter().map(|&time| self.level(time)).collect();
        Levels::new(levels[1..].to_vec(), levels[0], Arc::new(*self))
    }

    /// The levels of `steps` steps from time 1 to the first time, evenly spaced in time.
    ///
    /// # Errors
    /// If there are no steps, or a field is out of range.
    pub fn even_in_time(&self, steps: usize) -> Result<Levels, ScheduleError> {
        let share = |k: usize| k as f64 / steps as f64;
        let times = (0..=steps).map(|k| match k == steps {
            true => 1.0,
            false => self.first + (1.0 - self.first) * share(k),
        });
        self.levels(&times.collect::<Vec<_>>())
    }

    /// The same, evenly spaced in the logarithm of the signal-to-noise ratio.
    ///
    /// # Errors
    /// If there are no steps, or a field is out of range.
    pub fn even_in_log_snr(&self, steps: usize) -> Result<Levels, ScheduleError> {
        let [clean, noisy] = [self.first, 1.0].map(|time| self.level(time).lambda());
        let times = (0..=steps).map(|k| match k {
            0 => self.first,
            _ if k == steps => 1.0,
            _ => {
                let lambda = clean + (noisy - clean) * k as f64 / steps as f64;
                self.level_of_sigma((-lambda).exp()).time()
            }
        });
        self.levels(&times.collect::<Vec<_>>())
    }
}

impl NoisePath for VpPath {
    fn level_at(&self, time: f64) -> Level {
        self.level(time.clamp(self.first, 1.0))
    }

    fn level_of_sigma(&self, sigma: f64) -> Level {
        let rise = self.beta_max - self.beta_min;
        // −ln ᾱ, and the root of ½ t² rise + t β_0 = −ln ᾱ without cancellation.
        let log = (sigma * sigma).ln_1p();
        let time = 2.0 * log / ((self.beta_min.powi(2) + 2.0 * rise * log).sqrt() + self.beta_min);
        let alpha_bar = 1.0 / (1.0 + sigma * sigma);
        Level::variance_preserving(time.clamp(self.first, 1.0), alpha_bar)
    }

    fn times(&self) -> [f64; 2] {
        [self.first, 1.0]
    }

    fn smooth_at(&self, time: f64) -> (Level, f64) {
        let level = self.level_at(time);
        let beta = self.beta_min + time * (self.beta_max - self.beta_min);
        // ℓ = ln ᾱ − ln (1 − ᾱ)
        (level, -beta / (1.0 - level.alpha_bar()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_levels_and_derivatives_fit() {
        let path = VpPath::new();
        for time in [1e-3, 0.01, 0.3, 0.77, 1.0] {
            let (level, rate) = path.smooth_at(time);
            let back = path.level_of_sigma(level.sigma());
            assert!((back.time() - time).abs() < 1e-11, "{time}");
            assert!((back.alpha_bar() - level.alpha_bar()).abs() < 1e-14);
            let h = 1e-6;
            let difference =
                (path.level(time + h).log_snr() - path.level(time - h).log_snr()) / (2.0 * h);
            assert!((difference / rate - 1.0).abs() < 1e-5, "{time}");
        }
        // The reference values of 2307.10711's path.
        assert!((path.level_at(1.0).sigma() - 152.167).abs() < 1e-3);
    }

    #[test]
    fn grids_have_their_ends() {
        let path = VpPath::new();
        for levels in [
            path.even_in_time(7).unwrap(),
            path.even_in_log_snr(7).unwrap(),
        ] {
            assert_eq!(levels.steps(), 7);
            assert_eq!(levels.start().time(), 1.0);
            assert_eq!(levels.end().time(), 1e-3);
        }
        assert!(path.even_in_time(0).is_err());
        assert!(path.levels(&[0.5, 0.2]).is_err());
        assert!(path.with_beta_max(0.01).even_in_time(3).is_err());
    }
}
