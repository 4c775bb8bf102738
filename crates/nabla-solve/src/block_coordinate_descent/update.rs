//! How a selected block moves.

use faer::Mat;
use serde::{Deserialize, Serialize};

use super::BlockDescentError;
use super::problem::{Penalty, solve_positive};

/// The step size of a gradient update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepSize {
    /// `1/L`, with the largest eigenvalue `L` of the bound of all coordinates.
    Global,
    /// `1/L_b`, with the largest eigenvalue of the bound of the block.
    Block,
}

/// How a selected block moves. With a penalty each becomes its proximal form: the update minimises
/// its model of `f` plus `g`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Update {
    /// `x_b ← prox(x_b − ∇_b f / L)`.
    Gradient(StepSize),
    /// A gradient update with estimates of the Lipschitz constants. Each coordinate starts with 1. A block
    /// takes the largest estimate of its coordinates, doubles it until `f` falls as much as this constant
    /// guarantees, and stores it for its coordinates. The greedy rules use the estimates, too.
    Backtracking,
    /// `x_b ← x_b − H_b⁻¹ ∇_b f` with the bound `H_b`. Exact for a quadratic `f`; with a penalty, the
    /// minimum of the quadratic model plus `g`.
    Matrix,
    /// `x_b ← x_b − α (∇²_bb f)⁻¹ ∇_b f` with a line search for `α`; with a penalty, a proximal Newton
    /// step.
    Newton,
    /// Two-metric projection, for bounds, `λ ‖x‖₁` and both: coordinates at a bound that the gradient pushes
    /// against take a gradient step, the others a Newton step, and coordinates that cross a bound (for `λ
    /// ‖x‖₁`, 0) are projected onto it, with a line search along the projected path.
    TwoMetric,
}

nabla_base::choices! {
    Update: "update" {
        "gradient" => Self::Gradient(StepSize::Block), "Gradient steps, with the Lipschitz constant of the block";
        "gradient-global" => Self::Gradient(StepSize::Global), "Gradient steps, with the Lipschitz constant of all weights";
        "backtracking" => Self::Backtracking, "Gradient steps, with constants found by backtracking";
        "matrix" => Self::Matrix, "Steps with the bound of the second derivatives; exact for least squares";
        "newton" => Self::Newton, "Newton steps, with a line search";
        "two-metric" => Self::TwoMetric, "Newton steps where no bound is in the way";
    }
}

/// How the linear system of a matrix or Newton update is solved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockSolver {
    /// By Cholesky's factorisation of the dense block, `O(|b|³)`.
    #[default]
    Dense,
    /// By message passing, `O(|b|)`: the blocks must be forests.
    MessagePassing,
}

/// The minimum share of the slope by which a line search must lower the objective, as in the authors' code.
const SUFFICIENT: f64 = 1e-10;

/// Line searches give up below this step.
const SMALLEST: f64 = 1e-18;

/// The largest step `α ≤ 1` found by backtracking with `F(α) − F(0) ≤ 1e-10 α φ`, where `change(α)` is
/// `F(α) − F(0)` and `φ < 0` the slope at 0: quadratic, then cubic interpolation. 0 if there is none.
pub(super) fn interpolating_search(slope: f64, mut change: impl FnMut(f64) -> f64) -> f64 {
    let mut alpha = 1.0;
    let mut last: Option<(f64, f64)> = None;
    while alpha > SMALLEST {
        let value = change(alpha);
        if value <= SUFFICIENT * alpha * slope {
            return alpha;
        }
        let z = value - alpha * slope;
        let next = match last {
            _ if !value.is_finite() => 0.1 * alpha,
            None => -slope * alpha * alpha / (2.0 * z),
            Some((alpha_0, z_0)) => {
                // z(α) = a α³ + b α² through the last two points.
                let c = 1.0 / ((alpha - alpha_0) * alpha_0.powi(2) * alpha.powi(2));
                let a = c * (alpha_0.powi(2) * z - alpha.powi(2) * z_0);
                let b = c * (-alpha_0.powi(3) * z + alpha.powi(3) * z_0);
                let root = b * b - 3.0 * a * slope;
                if a == 0.0 {
                    -slope / (2.0 * b)
                } else {
                    (-b + root.max(0.0).sqrt()) / (3.0 * a)
                }
            }
        };
        last = value.is_finite().then_some((alpha, z));
        alpha = if next.is_finite() {
            next.clamp(0.1 * alpha, 0.9 * alpha)
        } else {
            0.5 * alpha
        };
    }
    0.0
}

/// The largest `α` of 1, ½, ¼ … that `accepts`, or 0.
pub(super) fn halving_search(mut accepts: impl FnMut(f64) -> bool) -> f64 {
    let mut alpha = 1.0;
    while alpha > SMALLEST {
        if accepts(alpha) {
            return alpha;
        }
        alpha *= 0.5;
    }
    0.0
}

/// Passes of coordinate descent over the model of a block.
const PASSES: usize = 1000;

/// After this number of passes, the free coordinates are solved for even if they still change.
const POLISH_EVERY: usize = 8;

/// The minimum of `g·d + ½ dᵀ H d + Σ g_i(x_i + d_i)` as `x + d`, for a penalty of single
/// coordinates: coordinate descent finds which of them lie on a kink, and a linear system the others.
pub(super) fn proximal_quadratic(
    h: &Mat<f64>,
    gradient: &[f64],
    x: &[f64],
    penalty: &Penalty,
) -> Result<Vec<f64>, BlockDescentError> {
    let n = x.len();
    let largest = (0..n).map(|i| h[(i, i)]).fold(0.0, f64::max);
    let floor = (1e-14 * largest).max(f64::MIN_POSITIVE);
    let mut at = x.to_vec();
    let mut slope = gradient.to_vec();
    let mut last_faces: Vec<Option<i8>> = at.iter().map(|&x| pattern(penalty, x)).collect();
    for pass in 0..PASSES {
        let mut moved = 0.0_f64;
        for i in 0..n {
            let hii = h[(i, i)].max(floor);
            let new = penalty.coordinate_prox(at[i] - slope[i] / hii, 1.0 / hii);
            let step = new - at[i];
            if step != 0.0 {
                at[i] = new;
                for (j, s) in slope.iter_mut().enumerate() {
                    *s += h[(j, i)] * step;
                }
                moved = moved.max(step.abs() / new.abs().max(1.0));
            }
        }
        let faces: Vec<Option<i8>> = at.iter().map(|&x| pattern(penalty, x)).collect();
        if faces == last_faces || pass % POLISH_EVERY == POLISH_EVERY - 1 {
            match polish(h, gradient, x, &at, penalty)? {
                Polished::Minimum(point) => return Ok(point),
                Polished::Lower(point) => {
                    at = point;
                    moved = f64::INFINITY;
                    slope = model_slope(h, gradient, x, &at);
                }
                Polished::Released(point) => {
                    at = point;
                    slope = model_slope(h, gradient, x, &at);
                }
            }
        }
        if moved <= 1e-15 {
            break;
        }
        last_faces = faces;
    }
    Ok(at)
}

/// The kink or bound that a coordinate lies on, or the sign with which it is free.
fn pattern(penalty: &Penalty, x: f64) -> Option<i8> {
    match penalty.face(x) {
        Some(face) => Some(face),
        None if penalty.l1() > 0.0 => Some(if x > 0.0 { 2 } else { -2 }),
        None => None,
    }
}

/// The slopes of the model without the penalty.
fn model_slope(h: &Mat<f64>, gradient: &[f64], x: &[f64], at: &[f64]) -> Vec<f64> {
    let n = x.len();
    (0..n)
        .map(|i| gradient[i] + (0..n).map(|j| h[(i, j)] * (at[j] - x[j])).sum::<f64>())
        .collect()
}

/// The result of solving for the free coordinates.
enum Polished {
    /// The minimum of the model.
    Minimum(Vec<f64>),
    /// A point on the way to it, where a coordinate reached its kink.
    Lower(Vec<f64>),
    /// The minimum with the other coordinates fixed, some of them wrongly.
    Released(Vec<f64>),
}

/// Moves the free coordinates to their joint minimum, with the others fixed on their kinks, or as far towards
/// it as possible without crossing a kink: an active-set step.
fn polish(
    h: &Mat<f64>,
    gradient: &[f64],
    x: &[f64],
    at: &[f64],
    penalty: &Penalty,
) -> Result<Polished, BlockDescentError> {
    let n = x.len();
    let free: Vec<usize> = (0..n).filter(|&i| penalty.face(at[i]).is_none()).collect();
    let mut out = at.to_vec();
    if !free.is_empty() {
        let held: Vec<usize> = (0..n).filter(|&i| penalty.face(at[i]).is_some()).collect();
        let right: Vec<f64> = free
            .iter()
            .map(|&i| {
                let from_held: f64 = held.iter().map(|&j| h[(i, j)] * (at[j] - x[j])).sum();
                -(gradient[i] + penalty.l1() * at[i].signum() + from_held)
            })
            .collect();
        let block = Mat::from_fn(free.len(), free.len(), |a, b| h[(free[a], free[b])]);
        let d = solve_positive(&block, &right)?;
        // The share of the way to the first kink, and the kink's coordinate.
        let mut first: Option<(f64, usize, f64)> = None;
        for (&i, d) in free.iter().zip(&d) {
            let (mut low, mut high) = penalty.bounds();
            if penalty.l1() > 0.0 {
                if at[i] > 0.0 {
                    low = low.max(0.0);
                } else {
                    high = high.min(0.0);
                }
            }
            let to = x[i] + d;
            let kink = if to <= low {
                low
            } else if to >= high {
                high
            } else {
                out[i] = to;
                continue;
            };
            out[i] = to;
            let share = (kink - at[i]) / (to - at[i]);
            if first.is_none_or(|(least, ..)| share < least) {
                first = Some((share, i, kink));
            }
        }
        if let Some((share, i, kink)) = first {
            for &j in &free {
                out[j] = at[j] + share * (out[j] - at[j]);
            }
            out[i] = kink;
            return Ok(Polished::Lower(out));
        }
    }
    let size = gradient.iter().fold(penalty.l1(), |m, g| m.max(g.abs()));
    let slope = model_slope(h, gradient, x, &out);
    let held =
        (0..n).all(|i| penalty.coordinate_subgradient(out[i], slope[i]).abs() <= 1e-9 * size);
    Ok(if held {
        Polished::Minimum(out)
    } else {
        Polished::Released(out)
    })
}

/// The direction and the box of a two-metric step over a block.
#[derive(Debug)]
pub(super) struct TwoMetricStep {
    /// The slope of `F` within the box, `[block]`.
    pub slope: Vec<f64>,
    /// `[block]`.
    pub direction: Vec<f64>,
    /// Whether a coordinate is held at its bound and takes a gradient step.
    pub active: Vec<bool>,
    bounds: Vec<(f64, f64)>,
}

/// The maximum distance from a bound that counts as on it, as in the authors' code.
const NEAR: f64 = 1e-4;

impl TwoMetricStep {
    pub(super) fn new(
        h: &Mat<f64>,
        gradient: &[f64],
        x: &[f64],
        lipschitz: &[f64],
        penalty: &Penalty,
    ) -> Result<Self, BlockDescentError> {
        let n = x.len();
        let mut slope = vec![0.0; n];
        let mut bounds = vec![(0.0, 0.0); n];
        for i in 0..n {
            if let Penalty::L1(l1) = penalty {
                // Within the orthant of x, or the one that x is about to enter.
                let sign = if x[i] != 0.0 {
                    x[i].signum()
                } else {
                    let least = penalty.coordinate_subgradient(0.0, gradient[i]);
                    if least == 0.0 { 0.0 } else { -least.signum() }
                };
                if sign > 0.0 {
                    bounds[i] = (0.0, f64::INFINITY);
                } else if sign < 0.0 {
                    bounds[i] = (f64::NEG_INFINITY, 0.0);
                }
                slope[i] = if sign == 0.0 {
                    0.0
                } else {
                    gradient[i] + l1 * sign
                };
            } else {
                bounds[i] = penalty.bounds();
                slope[i] = gradient[i] + penalty.l1();
            }
        }
        let project = |i: usize, v: f64| v.clamp(bounds[i].0, bounds[i].1);
        // Bertsekas' distance, which vanishes at the solution.
        let distance: f64 = (0..n)
            .map(|i| (x[i] - project(i, x[i] - slope[i])).powi(2))
            .sum();
        let near = distance.sqrt().min(NEAR);
        let active: Vec<bool> = (0..n)
            .map(|i| {
                let (low, high) = bounds[i];
                low == high
                    || (x[i] <= low + near && slope[i] > 0.0)
                    || (x[i] >= high - near && slope[i] < 0.0)
            })
            .collect();
        let scale: f64 = (0..n).filter(|&i| active[i]).map(|i| lipschitz[i]).sum();
        let work: Vec<usize> = (0..n).filter(|&i| !active[i]).collect();
        let block = Mat::from_fn(work.len(), work.len(), |a, b| h[(work[a], work[b])]);
        let right: Vec<f64> = work.iter().map(|&i| slope[i]).collect();
        let newton = if work.is_empty() {
            Vec::new()
        } else {
            solve_positive(&block, &right)?
        };
        let mut direction = vec![0.0; n];
        for (i, d) in direction.iter_mut().enumerate() {
            if active[i] && scale > 0.0 {
                *d = -slope[i] / scale;
            }
        }
        for (&i, d) in work.iter().zip(&newton) {
            direction[i] = -d;
        }
        Ok(Self {
            slope,
            direction,
            active,
            bounds,
        })
    }

    /// The point at `α` of the projected path.
    pub(super) fn point(&self, x: &[f64], alpha: f64) -> Vec<f64> {
        let moved = x.iter().zip(&self.direction).zip(&self.bounds);
        moved
            .map(|((x, d), (low, high))| (x + alpha * d).clamp(*low, *high) + 0.0)
            .collect()
    }

    /// Bertsekas' measure of the decrease, a share of which a step of `α` to `point` must reach.
    pub(super) fn expected(&self, x: &[f64], point: &[f64], alpha: f64) -> f64 {
        (0..x.len())
            .map(|i| {
                if self.active[i] {
                    self.slope[i] * (x[i] - point[i])
                } else {
                    -alpha * self.slope[i] * self.direction[i]
                }
            })
            .sum()
    }
}

/// Whether a change of the objective is a sufficient share of an expected decrease.
pub(super) fn sufficient(change: f64, expected: f64) -> bool {
    change <= -SUFFICIENT * expected
}
