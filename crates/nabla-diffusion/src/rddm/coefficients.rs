//! The shapes of the coefficients of residual and noise.

use burn::config::Config;

/// The shape of a coefficient schedule over `x = t / T`, normalised to its sum.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum Coefficients {
    /// `P(x, a) ∝ xᵃ`.
    Increased {
        /// The exponent `a`.
        power: f64,
    },
    /// `P(1 − x, a)`: the mirror image of `Increased`.
    Decreased {
        /// The exponent `a`.
        power: f64,
    },
    /// Equal coefficients.
    Average,
    /// A bell over three standard deviations to each side.
    Normal,
}

/// The `T` points `x` at which a power is taken.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Grid {
    /// `1/T, 2/T … 1`: every coefficient is positive. Used by the official code for restoration.
    FromOneStep,
    /// `0, 1/(T−1) … 1`: the first coefficient of `Increased`, and the last of `Decreased`, is 0. Used by the
    /// official code for generation, inpainting and translation.
    FromZero,
}

impl Coefficients {
    /// The `steps` coefficients, which sum to `sum`.
    pub(super) fn values(self, steps: usize, sum: f64, grid: Grid) -> Vec<f64> {
        let n = steps as f64;
        // The i-th of the T points, from 0.
        let x = |i: usize| match grid {
            Grid::FromZero if steps > 1 => i as f64 / (n - 1.0),
            _ => (i + 1) as f64 / n,
        };
        let raw: Vec<f64> = (1..=steps)
            .map(|t| match self {
                Self::Increased { power } => x(t - 1).powf(power),
                Self::Decreased { power } => x(steps - t).powf(power),
                Self::Average => 1.0,
                Self::Normal => {
                    let z = if steps == 1 {
                        0.0
                    } else {
                        6.0 * (t - 1) as f64 / (n - 1.0) - 3.0
                    };
                    (-0.5 * z * z).exp()
                }
            })
            .collect();
        let total: f64 = raw.iter().sum();
        raw.into_iter().map(|v| v / total * sum).collect()
    }
}
