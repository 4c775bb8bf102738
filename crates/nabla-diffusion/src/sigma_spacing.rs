//! Spacings of the noise levels `σ` between a highest and a lowest one.
//!
//! With `u` going from 0 to 1 in N even steps, including both ends:
//!
//! | name | level | source |
//! |---|---|---|
//! | `karras` | `(σ_max^(1/7) + u (σ_min^(1/7) − σ_max^(1/7)))^7` | Karras et al., 2022, arXiv 2206.00364, eq. 5 |
//! | `exponential` | `ln σ` even | |
//! | `beta` | `σ_min + q(1 − u) (σ_max − σ_min)`, `q` the quantiles of Beta(0.6, 0.6) | Lee et al., *Beta Sampling is All You Need*, 2024, arXiv 2407.12173 |
//! | `lu` | `λ = −ln σ` even, the same as `exponential` | Lu et al., *DPM-Solver*, 2022, arXiv 2206.00927 |
//!
//! `lu` and `exponential` have different names because diffusers tells the network different times with
//! them: see [`SchedulerConfig`](crate::stable_diffusion::scheduler_config::SchedulerConfig).

use std::fmt;

use burn::config::Config;
use nabla_base::choices::Choices as _;
use nabla_base::{choices, range};

use crate::schedule::ScheduleError;

/// A spacing; see the [module documentation](self).
///
/// ```
/// use nabla_diffusion::sigma_spacing::SigmaSpacing;
///
/// let spacing: SigmaSpacing = "exponential".parse()?;
/// let sigmas = spacing.sigmas(0.1, 10.0, 3)?;
/// assert!((sigmas[1] - 1.0).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SigmaSpacing {
    /// `karras`
    Karras,
    /// `exponential`
    Exponential,
    /// `beta`
    Beta,
    /// `lu`
    Lu,
}

choices! {
    SigmaSpacing: "spacing of sigmas" {
        "karras" => Self::Karras, "Crowded at the lower end, as Karras et al. do";
        "exponential" => Self::Exponential, "Even in their logarithm";
        "beta" => Self::Beta, "Crowded at both ends, by the quantiles of a beta distribution";
        "lu" => Self::Lu, "Even in their logarithm, with the times that go with DPM-Solver";
    }
}

impl SigmaSpacing {
    /// `count` levels, falling from `sigma_max` to `sigma_min`; `sigma_max` alone if `count` is 1.
    ///
    /// # Errors
    /// If `count` is 0, or `0 < sigma_min < sigma_max < ∞` fails.
    pub fn sigmas(
        self,
        sigma_min: f64,
        sigma_max: f64,
        count: usize,
    ) -> Result<Vec<f64>, ScheduleError> {
        check_sigma_range(sigma_min, sigma_max, count)?;
        Ok(match self {
            Self::Karras => {
                let karras = KarrasSigmas::new();
                return karras
                    .with_sigma_min(sigma_min)
                    .with_sigma_max(sigma_max)
                    .sigmas(count);
            }
            Self::Exponential | Self::Lu => linspace(sigma_max.ln(), sigma_min.ln(), count)
                .map(f64::exp)
                .collect(),
            Self::Beta => linspace(1.0, 0.0, count)
                .map(|p| sigma_min + symmetric_beta_quantile(0.6, p) * (sigma_max - sigma_min))
                .collect(),
        })
    }
}

/// Writes the name.
impl fmt::Display for SigmaSpacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.choice_name().unwrap_or_default())
    }
}

/// `count` values from `start` to `end`, both included; `start` alone if `count` is 1.
pub(crate) fn linspace(start: f64, end: f64, count: usize) -> impl Iterator<Item = f64> {
    let stride = if count > 1 {
        (end - start) / (count - 1) as f64
    } else {
        0.0
    };
    (0..count).map(move |i| start + stride * i as f64)
}

/// The noise levels of Karras et al., evenly spaced in `σ^(1/ρ)`:
/// `σ_i = (σ_max^(1/ρ) + i/(N−1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ`.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct KarrasSigmas {
    /// The lowest level. Default 0.002.
    #[config(default = 0.002)]
    pub sigma_min: f64,
    /// The highest level. Default 80.
    #[config(default = 80.0)]
    pub sigma_max: f64,
    /// How strongly the levels are concentrated at the lower end. Default 7.
    #[config(default = 7.0)]
    pub rho: f64,
}

impl KarrasSigmas {
    /// `count` levels, falling from `sigma_max` to `sigma_min` (`sigma_max` alone if `count` is
    /// 1). The paper's samplers continue from the last level to 0, which is not in the list.
    ///
    /// # Errors
    /// If `count` is 0, `0 < sigma_min < sigma_max < ∞` fails, or `rho` is not positive.
    ///
    /// ```
    /// use nabla_diffusion::sigma_spacing::KarrasSigmas;
    /// let sigmas = KarrasSigmas::new().sigmas(18)?;
    /// assert!((sigmas[0] - 80.0).abs() < 1e-9 && (sigmas[17] - 0.002).abs() < 1e-12);
    /// # Ok::<(), nabla_diffusion::schedule::ScheduleError>(())
    /// ```
    pub fn sigmas(&self, count: usize) -> Result<Vec<f64>, ScheduleError> {
        let (min, max, rho) = (self.sigma_min, self.sigma_max, self.rho);
        check_sigma_range(min, max, count)?;
        range::positive("rho of the Karras levels", rho)?;
        Ok(linspace(max.powf(1.0 / rho), min.powf(1.0 / rho), count)
            .map(|r| r.powf(rho))
            .collect())
    }
}

/// Checks that `count` levels from `max` down to `min` are possible.
fn check_sigma_range(min: f64, max: f64, count: usize) -> Result<(), ScheduleError> {
    if count == 0 {
        return Err(ScheduleError::NoSteps);
    }
    match 0.0 < min && min < max && max.is_finite() {
        true => Ok(()),
        false => Err(ScheduleError::SigmaRange { min, max }),
    }
}

/// The quantile function of Beta(a, a) at `p` in `[0, 1]`.
fn symmetric_beta_quantile(a: f64, p: f64) -> f64 {
    if p > 0.5 {
        return 1.0 - symmetric_beta_quantile(a, 1.0 - p);
    }
    // Half of the whole integral lies below 1/2.
    let wanted = 2.0 * p * incomplete_beta(a, 0.5);
    let (mut low, mut high) = (0.0, 0.5);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return middle;
        }
        match incomplete_beta(a, middle) < wanted {
            true => low = middle,
            false => high = middle,
        }
    }
}

/// `∫_0^x t^(a−1) (1 − t)^(a−1) dt = x^a Σ_n (1 − a)_n x^n / (n! (a + n))`, for `x` up to 1/2.
fn incomplete_beta(a: f64, x: f64) -> f64 {
    let (mut sum, mut power) = (0.0, 1.0);
    for n in 0..64 {
        let n = f64::from(n);
        sum += power / (a + n);
        power *= x * (1.0 - a + n) / (n + 1.0);
    }
    x.powf(a) * sum
}
