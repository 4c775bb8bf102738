//! The problem as block coordinate descent sees it, `F(x) = f(x) + g(x)`: the smooth `f` as
//! a trait, the separable `g` as a [`Penalty`].

use faer::{Mat, Side};
use nabla_base::range;
use serde::{Deserialize, Serialize};

use super::BlockDescentError;

/// The requested second derivatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curvature {
    /// `∇²f(x)`, at the current point.
    Here,
    /// A matrix `H ⪰ ∇²f(x)` for all `x`.
    Bound,
}

/// A convex, twice differentiable `f` of `n` coordinates whose blocks can be moved at low cost.
///
/// [`State`](Self::State) holds values that an implementation updates along with `x` (residuals, `X w`, the
/// gradient), so that a step costs only as much as its block. Your own problem needs the methods without a
/// default; the others follow from them, and you can implement them if there is a faster way.
pub trait SmoothProblem {
    /// The values that are updated along with `x`.
    type State: Clone;

    /// Number `n` of coordinates.
    fn dimension(&self) -> usize;

    /// The state at `x`, `[n]`. `greedy` means that [`full_gradient`](Self::full_gradient) will be read in
    /// every step, so it pays to update the gradient incrementally.
    fn state(&self, x: &[f64], greedy: bool) -> Self::State;

    /// `f(x)`.
    fn value(&self, state: &Self::State, x: &[f64]) -> f64;

    /// `∇_b f(x)` of a block of coordinates, `[block]`.
    fn gradient(&self, state: &Self::State, x: &[f64], block: &[usize]) -> Vec<f64>;

    /// The entries of row `i` of the second derivatives that may differ from 0, with their columns, including
    /// the diagonal, in the order of the columns. With [`Curvature::Bound`] this must not depend on the
    /// state.
    fn curvature_row(&self, state: &Self::State, kind: Curvature, i: usize) -> Vec<(usize, f64)>;

    /// `f(x + U_b δ) − f(x)`, without moving; the state may be used as scratch space.
    fn change(&self, state: &mut Self::State, x: &[f64], block: &[usize], delta: &[f64]) -> f64;

    /// Moves the state from `x` to `x + U_b δ`, and returns `f(x + U_b δ) − f(x)`. `x` is the point
    /// before the step.
    fn advance(&self, state: &mut Self::State, x: &[f64], block: &[usize], delta: &[f64]) -> f64;

    /// `∇f(x)`, `[n]`.
    fn full_gradient(&self, state: &Self::State, x: &[f64]) -> Vec<f64> {
        let all: Vec<usize> = (0..self.dimension()).collect();
        self.gradient(state, x, &all)
    }

    /// The second derivatives of a block, `[block, block]`. The bound for a block may be tighter than the
    /// block of the overall bound.
    fn curvature_block(&self, state: &Self::State, kind: Curvature, block: &[usize]) -> Mat<f64> {
        let mut out = Mat::zeros(block.len(), block.len());
        for (a, &i) in block.iter().enumerate() {
            for (j, value) in self.curvature_row(state, kind, i) {
                if let Ok(b) = block.binary_search(&j) {
                    out[(a, b)] = value;
                }
            }
        }
        out
    }

    /// `L_i`, the Lipschitz constant of `∂f/∂x_i` along `x_i`, `[n]`.
    fn coordinate_lipschitz(&self, state: &Self::State) -> Vec<f64> {
        (0..self.dimension())
            .map(|i| self.curvature_block(state, Curvature::Bound, &[i])[(0, 0)])
            .collect()
    }

    /// `L_b`, the Lipschitz constant of `∇_b f` along the block: the largest eigenvalue of its bound.
    ///
    /// # Errors
    /// If the eigenvalues cannot be computed.
    fn block_lipschitz(
        &self,
        state: &Self::State,
        block: &[usize],
    ) -> Result<f64, BlockDescentError> {
        largest_eigenvalue(&self.curvature_block(state, Curvature::Bound, block))
    }

    /// `H v` with the bound of all coordinates.
    fn bound_product(&self, state: &Self::State, v: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; v.len()];
        for (i, &scale) in v.iter().enumerate().filter(|(_, s)| **s != 0.0) {
            for (j, value) in self.curvature_row(state, Curvature::Bound, i) {
                out[j] += scale * value;
            }
        }
        out
    }

    /// Whether `f` is quadratic and its [`Curvature::Bound`] is its Hessian, so that a matrix update is exact.
    fn is_quadratic(&self) -> bool {
        false
    }

    /// `F(x)` minus a lower bound of the minimum from a dual point, if the problem has one for this penalty.
    fn duality_gap(&self, state: &Self::State, x: &[f64], penalty: &Penalty) -> Option<f64> {
        let _ = (state, x, penalty);
        None
    }
}

/// The separable part `g` of the objective.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Penalty {
    /// `g = 0`.
    #[default]
    None,
    /// `λ ‖x‖₁`.
    L1(f64),
    /// `x ≥ 0`.
    NonNegative,
    /// `x ≥ 0` and `λ Σ x_i`, as in the paper's experiments on active sets.
    NonNegativeL1(f64),
    /// `low ≤ x ≤ high`.
    Box {
        /// The lower bound of every coordinate.
        low: f64,
        /// The upper bound of every coordinate.
        high: f64,
    },
    /// `λ Σ_G ‖x_G‖₂` of groups that partition the coordinates. The blocks must consist of whole groups.
    GroupL1 {
        /// `λ`.
        weight: f64,
        /// The coordinates of each group.
        groups: Vec<Vec<usize>>,
    },
}

impl Penalty {
    /// Refuses invalid numbers and groups.
    pub(super) fn check(&self, dimension: usize) -> Result<(), BlockDescentError> {
        match self {
            Self::None | Self::NonNegative => Ok(()),
            Self::L1(weight) | Self::NonNegativeL1(weight) => {
                Ok(range::not_negative("penalty weight", *weight)?)
            }
            Self::Box { low, high } => {
                if low < high {
                    Ok(())
                } else {
                    Err(BlockDescentError::Bounds {
                        low: *low,
                        high: *high,
                    })
                }
            }
            Self::GroupL1 { weight, groups } => {
                range::not_negative("penalty weight", *weight)?;
                check_cover("group", groups, dimension)
            }
        }
    }

    /// The weight of `|x_i|`, if there is one.
    pub(super) fn l1(&self) -> f64 {
        match self {
            Self::L1(weight) | Self::NonNegativeL1(weight) => *weight,
            _ => 0.0,
        }
    }

    /// The bounds of a coordinate.
    pub(super) fn bounds(&self) -> (f64, f64) {
        match self {
            Self::NonNegative | Self::NonNegativeL1(_) => (0.0, f64::INFINITY),
            Self::Box { low, high } => (*low, *high),
            _ => (f64::NEG_INFINITY, f64::INFINITY),
        }
    }

    /// `g(x)`; infinite outside the bounds.
    pub fn value(&self, x: &[f64]) -> f64 {
        match self {
            Self::GroupL1 { weight, groups } => {
                let norm = |group: &Vec<usize>| group.iter().map(|&i| x[i] * x[i]).sum::<f64>();
                weight * groups.iter().map(|group| norm(group).sqrt()).sum::<f64>()
            }
            _ => x.iter().map(|&x| self.coordinate_value(x)).sum(),
        }
    }

    /// `g_i(x_i)` of a penalty of single coordinates; 0 for groups.
    pub(super) fn coordinate_value(&self, x: f64) -> f64 {
        let (low, high) = self.bounds();
        if x < low || x > high {
            f64::INFINITY
        } else {
            self.l1() * x.abs()
        }
    }

    /// `g` at `x + U_b δ` minus `g` at `x`.
    pub(super) fn change(&self, x: &[f64], block: &[usize], delta: &[f64]) -> f64 {
        match self {
            Self::None => 0.0,
            Self::GroupL1 { weight, groups } => {
                let step = |i: usize| block.binary_search(&i).map_or(0.0, |at| delta[at]);
                let mut sum = 0.0;
                for group in groups {
                    if group.iter().any(|i| block.binary_search(i).is_ok()) {
                        let old: f64 = group.iter().map(|&i| x[i] * x[i]).sum();
                        let new: f64 = group.iter().map(|&i| (x[i] + step(i)).powi(2)).sum();
                        let norms = new.sqrt() + old.sqrt();
                        // Compute the difference of the norms from that of the squares, without cancellation.
                        if norms > 0.0 {
                            let squares = |&i: &usize| step(i) * (2.0 * x[i] + step(i));
                            sum += group.iter().map(squares).sum::<f64>() / norms;
                        }
                    }
                }
                weight * sum
            }
            _ => block
                .iter()
                .zip(delta)
                .map(|(&i, d)| self.coordinate_change(x[i], *d))
                .sum(),
        }
    }

    /// `g_i(x + d) − g_i(x)`, without cancellation if the sign does not change.
    pub(super) fn coordinate_change(&self, x: f64, d: f64) -> f64 {
        let new = x + d;
        let (low, high) = self.bounds();
        if new < low || new > high {
            f64::INFINITY
        } else if new * x > 0.0 {
            self.l1() * d * x.signum()
        } else {
            self.l1() * (new.abs() - x.abs())
        }
    }

    /// `prox_{t g_i}(v)` of a penalty of single coordinates.
    pub(super) fn coordinate_prox(&self, v: f64, t: f64) -> f64 {
        let (low, high) = self.bounds();
        let shrunk = (v.abs() - t * self.l1()).max(0.0).copysign(v);
        // Avoid −0, which would count as a sign.
        shrunk.clamp(low, high) + 0.0
    }

    /// `prox_{t g}` of a block that consists of whole groups, `v` over the block.
    pub(super) fn block_prox(&self, block: &[usize], v: &[f64], t: f64) -> Vec<f64> {
        let Self::GroupL1 { weight, groups } = self else {
            return v.iter().map(|&v| self.coordinate_prox(v, t)).collect();
        };
        let mut out = v.to_vec();
        for group in groups {
            let at: Vec<usize> = group
                .iter()
                .filter_map(|i| block.binary_search(i).ok())
                .collect();
            let norm = at.iter().map(|&a| v[a] * v[a]).sum::<f64>().sqrt();
            let scale = if norm > t * weight {
                1.0 - t * weight / norm
            } else {
                0.0
            };
            for a in at {
                out[a] = scale * v[a] + 0.0;
            }
        }
        out
    }

    /// The element of `∂F` with the least norm, `[n]`: the counterpart of the gradient in a smooth problem.
    pub(super) fn least_subgradient(&self, x: &[f64], gradient: &[f64]) -> Vec<f64> {
        match self {
            Self::None => gradient.to_vec(),
            Self::GroupL1 { weight, groups } => {
                let mut out = gradient.to_vec();
                for group in groups {
                    let size = group.iter().map(|&i| x[i] * x[i]).sum::<f64>().sqrt();
                    let slope = group
                        .iter()
                        .map(|&i| gradient[i].powi(2))
                        .sum::<f64>()
                        .sqrt();
                    for &i in group {
                        out[i] = if size > 0.0 {
                            gradient[i] + weight * x[i] / size
                        } else if slope > *weight {
                            gradient[i] * (1.0 - weight / slope)
                        } else {
                            0.0
                        };
                    }
                }
                out
            }
            _ => x
                .iter()
                .zip(gradient)
                .map(|(&x, &g)| self.coordinate_subgradient(x, g))
                .collect(),
        }
    }

    /// The element of `∂_i F` with the smallest absolute value.
    pub(super) fn coordinate_subgradient(&self, x: f64, g: f64) -> f64 {
        let (low, high) = self.bounds();
        let l1 = self.l1();
        // The interval [left, right] of slopes of F.
        let (mut left, mut right) = match x.partial_cmp(&0.0) {
            Some(std::cmp::Ordering::Greater) => (g + l1, g + l1),
            Some(std::cmp::Ordering::Less) => (g - l1, g - l1),
            _ => (g - l1, g + l1),
        };
        if x <= low {
            left = f64::NEG_INFINITY;
        }
        if x >= high {
            right = f64::INFINITY;
        }
        // Not `clamp`, which panics for NaN.
        0.0_f64.max(left).min(right)
    }

    /// Whether coordinate `i` lies on a kink of `g` or on a bound, and on which: −1, 0 or 1, or `None` if `g`
    /// is smooth there.
    pub(super) fn face(&self, x: f64) -> Option<i8> {
        let (low, high) = self.bounds();
        match self {
            Self::None => None,
            Self::L1(_) | Self::GroupL1 { .. } => (x == 0.0).then_some(0),
            _ if x <= low => Some(-1),
            _ if x >= high => Some(1),
            _ => None,
        }
    }
}

/// Checks that every coordinate is in exactly one set.
pub(super) fn check_cover(
    name: &'static str,
    sets: &[Vec<usize>],
    dimension: usize,
) -> Result<(), BlockDescentError> {
    let mut times = vec![0_usize; dimension];
    for &coordinate in sets.iter().flatten() {
        match times.get_mut(coordinate) {
            Some(times) => *times += 1,
            None => {
                return Err(BlockDescentError::Coordinate {
                    name,
                    coordinate,
                    dimension,
                });
            }
        }
    }
    match times.iter().position(|&times| times != 1) {
        Some(coordinate) => Err(BlockDescentError::Cover {
            name,
            coordinate,
            times: times[coordinate],
        }),
        None => Ok(()),
    }
}

/// Of a symmetric matrix.
pub(super) fn largest_eigenvalue(matrix: &Mat<f64>) -> Result<f64, BlockDescentError> {
    if matrix.nrows() == 1 {
        return Ok(matrix[(0, 0)]);
    }
    let values = matrix
        .self_adjoint_eigenvalues(Side::Lower)
        .map_err(|_| BlockDescentError::Diverged)?;
    Ok(values.last().copied().unwrap_or(0.0))
}

/// `H⁻¹ v`, or with the pseudo-inverse if `H` is singular.
pub(super) fn solve_positive(h: &Mat<f64>, v: &[f64]) -> Result<Vec<f64>, BlockDescentError> {
    use faer::linalg::solvers::Solve;
    let n = v.len();
    if n == 1 {
        let h = h[(0, 0)];
        return Ok(vec![if h > 0.0 { v[0] / h } else { 0.0 }]);
    }
    let rhs = Mat::from_fn(n, 1, |i, _| v[i]);
    if let Ok(factor) = h.llt(Side::Lower) {
        let l = factor.L();
        let pivots = (0..n).map(|i| l[(i, i)]);
        let (least, most) = pivots.fold((f64::INFINITY, 0.0_f64), |(a, b), p| (a.min(p), b.max(p)));
        // Pivots are square roots, so this corresponds to a condition number of about 1e12.
        if least > 1e-6 * most {
            let out = factor.solve(&rhs);
            return Ok((0..n).map(|i| out[(i, 0)]).collect());
        }
    }
    let eigen = h
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| BlockDescentError::Diverged)?;
    let (u, s) = (eigen.U(), eigen.S().column_vector());
    let largest = s[n - 1].max(0.0);
    let mut coefficients = u.transpose() * &rhs;
    for i in 0..n {
        let kept = s[i] > 1e-13 * largest;
        coefficients[(i, 0)] = if kept {
            coefficients[(i, 0)] / s[i]
        } else {
            0.0
        };
    }
    let out = u * coefficients;
    Ok((0..n).map(|i| out[(i, 0)]).collect())
}
