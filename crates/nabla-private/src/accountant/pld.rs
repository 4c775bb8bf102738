//! The privacy loss distribution on a grid, rounded such that it never reveals less.
//!
//! The distribution of the privacy loss of a step determines the whole curve `δ(ε)`, and that of
//! all steps is its convolution power. On a grid with spacing `h`, the probability `p` of a bin from `l` to
//! `l + h` goes to its two ends such that the probabilities by both distributions, `P` and `Q`, are kept. A loss `x`
//! in the bin gives its upper end the share
//!
//! ```text
//! (1 − e^{l − x}) / (1 − e^{−h})
//! ```
//!
//! which connects the dots: the `δ(ε)` of the grid is the true one at every point of the grid, and between them linear in
//! `e^ε`, hence larger, because the curve is convex in `e^ε`. A larger curve stays larger under composition. So the
//! `ε` of this accountant is never too low, and the closest of all those on the grid.
//!
//! The sum of the losses makes the excess of `δ` grow with the number of steps, by the factor `e^{Σ excess of K}` at the
//! tilt `s` (see `composition.rs`), so `ε` is too high by about `Σ excess of K/s`. Besides, a coarse
//! grid has long lines between its dots. The grid is refined until both are small enough, or the grid has the most points allowed. `Epsilon::estimate` is without
//! them.
//!
//! Sources: Meiser, Mohammadi, *Tight on Budget? Tight Bounds for r-Fold Approximate Differential Privacy*, CCS 2018;
//! Koskela, Jälkö, Honkela, *Computing Tight Differential Privacy Guarantees Using FFT*, 2019, arXiv 1906.03049; Koskela,
//! Jälkö, Prediger, Honkela, *Tight Differential Privacy for Discrete-Valued Mechanisms and for the Subsampled Gaussian
//! Mechanism Using FFT*, 2020, arXiv 2006.07134; Doroshenko, Ghazi, Kamath, Kumar, Manurangsi, *Connect the Dots:
//! Tighter Discrete Approximations of Privacy Loss Distributions*, 2022, arXiv 2207.04380.

use serde::{Deserialize, Serialize};

use super::composition::{Composed, Composition, Discrete, Side, Tilt};
use super::privacy_loss::{Bins, PrivacyLoss};
use super::{AccountError, Accountant, Epsilon, History};
use super::{check_delta, check_epsilon, check_points, left_out_for_epsilon, reveals_nothing};

/// The accountant `pld`; see the [module](self).
///
/// ```
/// use nabla_private::accountant::pld::Pld;
/// use nabla_private::accountant::{Accountant, History};
///
/// let history = History::new().with(1.1, 0.01, 10_000)?;
/// let spent = Pld::default().epsilon(&history, 1e-5)?;
/// assert!((4.0..6.0).contains(&spent.epsilon));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pld {
    /// How much too high `ε` may be because of the grid, if it is from 1 to 10; otherwise this times `ε`, or a tenth of it.
    /// Default 1e-5.
    pub tolerance: f64,
    /// The most points of the grid, which may make the tolerance unreachable; about 150 bytes each. Default
    /// 2²¹ = 2,097,152.
    pub points: usize,
}

impl Default for Pld {
    fn default() -> Self {
        Self {
            tolerance: 1e-5,
            points: 1 << 21,
        }
    }
}

/// How many tilts are tried, each weaker than the one before, until the answer is on the grid.
const TILTS: usize = 4;

/// The points of the first grid.
const FIRST: usize = 1 << 10;

impl Pld {
    fn check(&self) -> Result<(), AccountError> {
        nabla_base::range::positive("tolerance of the accountant pld", self.tolerance)?;
        check_points("pld", self.points)
    }

    /// The sum of all losses and the error of `ε`; none if the losses fit no grid.
    ///
    /// - `answer`: the `ε` that is found with it, if it is on the grid
    fn compose(
        &self,
        composition: &Composition,
        tilt: Tilt,
        epsilon: f64,
        answer: impl Fn(&Composed) -> Option<f64>,
    ) -> Option<(Composed, f64)> {
        let composition = composition.without_light(tilt);
        let window = composition.window(tilt);
        let tolerance = self.tolerance * tilt.scale(epsilon);
        let mut points = FIRST.min(self.points);
        loop {
            let steps = composition.on_grid(window, points, connect_the_dots)?;
            let mut error = (steps.excess() / tilt.s).max(0.0);
            if error <= tolerance || points >= self.points {
                let composed = steps.composed();
                error += answer(&composed).map_or(0.0, |epsilon| composed.resolution(epsilon));
                if error <= 2.0 * tolerance || points >= self.points {
                    return Some((composed, error));
                }
            }
            // The error decreases with the square of the spacing, or less.
            let factor = (error / tolerance)
                .sqrt()
                .min((self.points / points) as f64);
            points =
                (points * (factor.ceil() as usize).next_power_of_two().max(2)).min(self.points);
        }
    }
}

/// Distributes a loss over the grid.
fn connect_the_dots(loss: &PrivacyLoss, grid: &mut Discrete) {
    let spacing = grid.spacing();
    let bins = Bins {
        spacing,
        first_edge: 0.0,
    };
    let whole = (-spacing).exp_m1();
    loss.each_bin(bins, |bin, nodes| {
        let low = bin as f64 * spacing;
        let [mut lower, mut upper] = [0.0; 2];
        for (loss, mass) in nodes {
            let share = ((low - loss).exp_m1() / whole).clamp(0.0, 1.0);
            lower += mass * (1.0 - share);
            upper += mass * share;
        }
        grid.add(bin, lower);
        grid.add(bin + 1, upper);
    });
}

impl Accountant for Pld {
    fn name(&self) -> &'static str {
        "pld"
    }

    fn epsilon(&self, history: &History, delta: f64) -> Result<Epsilon, AccountError> {
        check_delta(delta)?;
        self.check()?;
        let mut found = Epsilon::exactly(0.0);
        if reveals_nothing(history, delta) {
            return Ok(found);
        }
        for composition in Composition::directions(history, 1e-9 * delta) {
            let tilt = composition.tilt_for_delta(delta);
            let bound = tilt.epsilon(delta - composition.left_out());
            // The other direction is often the smaller one by far.
            if bound <= found.epsilon {
                continue;
            }
            let mut tilt = tilt;
            let (mut epsilon, mut estimate) = (bound, bound);
            for _ in 0..TILTS {
                let answer = |sum: &Composed| sum.epsilon(delta, Side::Upper);
                let composed = self.compose(&composition, tilt, epsilon, answer);
                let Some((sum, error)) = composed else {
                    break;
                };
                let on_grid = [Side::Upper, Side::Estimate].map(|side| sum.epsilon(delta, side));
                if let [Some(upper), Some(middle)] = on_grid {
                    epsilon = epsilon.min(upper);
                    estimate = middle - error;
                }
                if sum.holds(estimate) || epsilon <= 0.0 {
                    break;
                }
                tilt = composition.weaker(tilt);
            }
            let [epsilon, estimate] = [epsilon.max(0.0), estimate.clamp(0.0, epsilon.max(0.0))];
            if epsilon > found.epsilon {
                found = Epsilon {
                    estimate: Some(estimate),
                    ..Epsilon::at_most(epsilon)
                };
            }
        }
        Ok(found)
    }

    fn delta(&self, history: &History, epsilon: f64) -> Result<f64, AccountError> {
        check_epsilon(epsilon)?;
        self.check()?;
        let mut found: f64 = 0.0;
        for composition in Composition::directions(history, left_out_for_epsilon(history, epsilon))
        {
            let tilt = composition.tilt_for_epsilon(epsilon);
            let bound = tilt.log_delta(epsilon).exp() + composition.left_out();
            if bound <= found {
                continue;
            }
            let composed = self.compose(&composition, tilt, epsilon, |_| Some(epsilon));
            let on_grid = composed.and_then(|(sum, _)| sum.delta(epsilon));
            found = found.max(on_grid.map_or(bound, |delta| delta.min(bound)));
        }
        Ok(found)
    }
}
