//! The privacy loss as a random variable, rounded to the nearest point of a grid, with a proven error.
//!
//! Each loss `Y` of a step is rounded to a multiple of the spacing `h`, and the difference of the means is added back, so
//! that `Ỹ − Y` has the mean 0 and is spread over no more than `h`. By Hoeffding's inequality, the sums of `k` steps
//! differ by more than
//!
//! ```text
//! η = h √(k/2 · ln(2/δ₀))
//! ```
//!
//! with a probability of at most `δ₀`. Hence, with `δ̃` of the rounded losses,
//!
//! ```text
//! δ̃(ε + η) − δ₀ ≤ δ(ε) ≤ δ̃(ε − η) + δ₀
//! ```
//!
//! The `ε` for `δ` is therefore between `ε̃(δ + δ₀) − η` and `ε̃(δ − δ₀) + η`, and `ε̃(δ)` is an estimate that is mostly
//! closer by far. Errors of the steps cancel each other, so the grid can be `√k` times coarser than one that is rounded
//! up.
//!
//! `Epsilon::epsilon` is the upper end, the one that may be promised. As in the authors' code, `δ₀ = δ/1000`. Otherwise
//! than there, the grid has the length of the window of `composition.rs`, not that of a bound by Rényi
//! divergences, and the sum is exact to small `δ`.
//!
//! Source: Gopi, Lee, Wutschitz, *Numerical Composition of Differential Privacy*, 2021, arXiv 2106.02848.

use serde::{Deserialize, Serialize};

use super::composition::{Composed, Composition, Discrete, Side, Tilt};
use super::privacy_loss::{Bins, PrivacyLoss};
use super::{AccountError, Accountant, Epsilon, History};
use super::{check_delta, check_epsilon, check_points, left_out_for_epsilon, reveals_nothing};

/// The accountant `prv`; see the [module](self).
///
/// ```
/// use nabla_private::accountant::prv::Prv;
/// use nabla_private::accountant::{Accountant, History};
///
/// let history = History::new().with(1.1, 0.01, 10_000)?;
/// let spent = Prv::default().epsilon(&history, 1e-5)?;
/// let (lower, estimate) = (spent.lower.unwrap(), spent.estimate.unwrap());
/// assert!(lower < estimate && estimate < spent.epsilon);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prv {
    /// The error `η` of `ε`, if it is from 1 to 10; otherwise this times `ε`, or a tenth of it. Default 1e-3.
    pub epsilon_error: f64,
    /// The most points of the grid, which may make the error larger; about 150 bytes each. Default 2²¹ = 2,097,152.
    pub points: usize,
}

impl Default for Prv {
    fn default() -> Self {
        Self {
            epsilon_error: 1e-3,
            points: 1 << 21,
        }
    }
}

/// `δ₀/δ`
const DELTA_ERROR: f64 = 1e-3;

impl Prv {
    fn check(&self) -> Result<(), AccountError> {
        nabla_base::range::positive("epsilon_error of the accountant prv", self.epsilon_error)?;
        check_points("prv", self.points)
    }

    /// The sum of the rounded losses, and `η`; none if they fit no grid.
    fn compose(
        &self,
        composition: &Composition,
        tilt: Tilt,
        epsilon: f64,
        delta_error: f64,
    ) -> Option<(Composed, f64)> {
        let window = composition.window(tilt);
        let deviation = (0.5 * composition.steps() * (2.0 / delta_error).ln()).sqrt();
        let spacing = self.epsilon_error * tilt.scale(epsilon) / deviation;
        let points = (window.width() / spacing)
            .max(1024.0)
            .min(self.points as f64);
        let points = (points as usize).next_power_of_two().min(self.points);
        let steps = composition.on_grid(window, points, round_to_nearest)?;
        Some((steps.composed(), steps.spacing() * deviation))
    }
}

/// Rounds a loss to the grid.
fn round_to_nearest(loss: &PrivacyLoss, grid: &mut Discrete) {
    let spacing = grid.spacing();
    let bins = Bins {
        spacing,
        first_edge: -0.5,
    };
    let [mut total, mut rounded] = [0.0; 2];
    loss.each_bin(bins, |bin, nodes| {
        let nearest = bin as f64 * spacing;
        let mut here = 0.0;
        for (loss, mass) in nodes {
            here += mass;
            rounded += mass * (nearest - loss);
        }
        total += here;
        grid.add(bin, here);
    });
    grid.shift = -rounded / total;
}

impl Accountant for Prv {
    fn name(&self) -> &'static str {
        "prv"
    }

    fn epsilon(&self, history: &History, delta: f64) -> Result<Epsilon, AccountError> {
        check_delta(delta)?;
        self.check()?;
        if reveals_nothing(history, delta) {
            return Ok(Epsilon::exactly(0.0));
        }
        let delta_error = DELTA_ERROR * delta;
        let [mut lower, mut estimate, mut upper] = [0.0_f64; 3];
        for composition in Composition::directions(history, 1e-9 * delta) {
            let tilt = composition.tilt_for_delta(delta);
            let bound = tilt.epsilon(delta - composition.left_out());
            // The other direction is often the smaller one by far.
            if bound <= lower {
                continue;
            }
            let composed = self.compose(&composition, tilt, bound, delta_error);
            let Some((sum, error)) = composed else {
                upper = upper.max(bound);
                estimate = estimate.max(bound);
                continue;
            };
            let at = |delta: f64, side: Side| sum.epsilon(delta, side);
            let most = at(delta - delta_error, Side::Upper).map_or(bound, |e| e + error);
            let middle = at(delta, Side::Estimate).unwrap_or(bound);
            // At the lower end of the grid, ε may be less.
            let least = at(delta + delta_error, Side::Lower).filter(|e| sum.holds(*e));
            upper = upper.max(most.min(bound));
            estimate = estimate.max(middle.min(bound));
            lower = lower.max(least.map_or(0.0, |e| e - error));
        }
        Ok(Epsilon {
            epsilon: upper,
            estimate: Some(estimate.min(upper)),
            lower: Some(lower.min(upper)),
            order: None,
        })
    }

    fn delta(&self, history: &History, epsilon: f64) -> Result<f64, AccountError> {
        check_epsilon(epsilon)?;
        self.check()?;
        let left_out = left_out_for_epsilon(history, epsilon);
        let mut upper: f64 = 0.0;
        for composition in Composition::directions(history, left_out) {
            let tilt = composition.tilt_for_epsilon(epsilon);
            let bound = tilt.log_delta(epsilon).exp() + composition.left_out();
            if bound <= upper {
                continue;
            }
            // Not more than δ/1000, as what is left out is much less than δ.
            let delta_error = (1e9 * left_out * DELTA_ERROR).min(0.5);
            let composed = self.compose(&composition, tilt, epsilon, delta_error);
            let found = composed.and_then(|(sum, error)| sum.delta(epsilon - error));
            upper = upper.max(found.map_or(bound, |delta| (delta + delta_error).min(bound)));
        }
        Ok(upper.min(1.0))
    }
}
