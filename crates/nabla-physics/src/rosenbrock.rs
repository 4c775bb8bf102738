//! Rosenbrock methods, for stiff equations: implicit ones that solve linear systems instead of nonlinear ones.
//!
//! ```text
//! (I/(γ h) − J) k_i = f(y_i, t + c_i h) + Σ_j C_ij k_j / h + h d_i ∂f/∂t,   y_i = u + Σ_j a_ij k_j
//! u⁺ = u + Σ_i b_i k_i,   ũ = Σ_i e_i k_i,   J = ∂f/∂u (u, t)
//! u(t + θ h) = (1 − θ) u + θ (u⁺ + (1 − θ) Σ_i (H_1i + θ H_2i) k_i)
//! ```
//!
//! `J` takes `d` products with the transposed Jacobian, for all trajectories together: the trajectories of a batch must not
//! depend on each other. The systems, `d × d` for each trajectory, are solved in `f64` on the processor, so these methods
//! are for few components.
//!
//! **The discrete adjoint** needs the derivative of `μᵀ (J k_i + h d_i ∂f/∂t)`, a second derivative of the field, which is
//! the derivative of the products `μᵀ ∂f` along the direction `(k_i, h d_i)` of state and time. It is taken by differences of
//! order 4 of these products, with a relative error of about `10⁻¹²` in `f64` and `10⁻⁵` in `f32`.
//!
//! The stiffness estimate is the largest row sum of `|J|`.
//!
//! Source: Hairer, Wanner, *Solving Ordinary Differential Equations II*, IV.7 and VI.4 (RODAS).

use burn::tensor::Tensor;
use faer::linalg::solvers::{PartialPivLu, Solve};
use faer::{Mat, MatMut};
use nabla_kernels::row_combination::{Term, row_combination};

use crate::differences;
use crate::field::{Stage, System, sum_of};
use crate::method::{Attempt, moves};
use crate::numbers::{numbers, tensor_like};
use crate::solve_error::SolveError;

/// A Rosenbrock method; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RosenbrockTableau {
    /// The name.
    pub name: &'static str,
    /// The order of the method.
    pub order: usize,
    /// The power of the step with which the error estimate falls.
    pub error_order: usize,
    /// `γ`.
    pub gamma: f64,
    /// `c_i`.
    pub nodes: &'static [f64],
    /// `d_i`.
    pub slopes: &'static [f64],
    /// `a_ij`.
    pub stages: &'static [&'static [f64]],
    /// `C_ij`.
    pub couplings: &'static [&'static [f64]],
    /// `b_i`.
    pub weights: &'static [f64],
    /// `e_i`.
    pub error: &'static [f64],
    /// `H_1i` and `H_2i`.
    pub dense: [&'static [f64]; 2],
}

impl RosenbrockTableau {
    pub(crate) fn dense_weights(&self, theta: f64) -> Vec<f64> {
        let at = |row: &[f64], i: usize| row.get(i).copied().unwrap_or(0.0);
        let each = self.weights.iter().enumerate().map(|(i, weight)| {
            let curve = at(self.dense[0], i) + theta * at(self.dense[1], i);
            theta * weight + theta * (1.0 - theta) * curve
        });
        each.collect()
    }
}

/// Rodas4: order 4, error of order 3, stiffly accurate.
pub const RODAS4: RosenbrockTableau = RosenbrockTableau {
    name: "rodas4",
    order: 4,
    error_order: 4,
    gamma: 0.25,
    nodes: &[0.0, 0.386, 0.21, 0.63, 1.0, 1.0],
    slopes: &[0.25, -0.1043, 0.1035, -0.0362, 0.0, 0.0],
    stages: &[
        &[],
        &[1.544],
        &[0.946_678_528_081_582_6, 0.255_701_169_898_328_4],
        &[
            3.314_825_187_068_521,
            2.896_124_015_972_201,
            0.998_641_913_997_781_7,
        ],
        &[
            1.221_224_509_226_641,
            6.019_134_481_288_629,
            12.537_083_329_320_87,
            -0.687_886_036_105_895,
        ],
        &[
            1.221_224_509_226_641,
            6.019_134_481_288_629,
            12.537_083_329_320_87,
            -0.687_886_036_105_895,
            1.0,
        ],
    ],
    couplings: &[
        &[],
        &[-5.6688],
        &[-2.430_093_356_833_875, -0.206_359_915_709_191_5],
        &[
            -0.107_352_905_815_137_5,
            -9.594_562_251_023_355,
            -20.470_286_148_096_16,
        ],
        &[
            7.496_443_313_967_647,
            -10.246_804_314_643_52,
            -33.999_903_528_199_05,
            11.708_908_932_061_6,
        ],
        &[
            8.083_246_795_921_522,
            -7.981_132_988_064_893,
            -31.521_594_328_743_71,
            16.319_305_431_231_36,
            -6.058_818_238_834_054,
        ],
    ],
    weights: &[
        1.221_224_509_226_641,
        6.019_134_481_288_629,
        12.537_083_329_320_87,
        -0.687_886_036_105_895,
        1.0,
        1.0,
    ],
    error: &[0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    dense: [
        &[
            10.126_235_083_445_86,
            -7.487_995_877_610_167,
            -34.800_918_615_557_47,
            -7.992_771_707_568_823,
            1.025_137_723_295_662,
        ],
        &[
            -0.676_280_339_280_125_3,
            6.087_714_651_680_015,
            16.430_843_209_024_78,
            24.767_225_114_183_86,
            -6.594_389_125_716_872,
        ],
    ],
};

/// The factorised matrices of a step, one for each trajectory.
pub(crate) struct Factors {
    /// Of `I/(γh) − J`.
    solvers: Vec<PartialPivLu<f64>>,
    /// The largest row sum of `|J|`, by trajectory.
    pub(crate) stiffness: Vec<f64>,
}

impl std::fmt::Debug for Factors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Factors")
            .field("stiffness", &self.stiffness)
            .finish_non_exhaustive()
    }
}

impl Factors {
    /// `(I/(γh) − J)⁻¹ r` or its transpose, for each trajectory.
    fn solve(&self, right: &Tensor<2>, transposed: bool) -> Result<Tensor<2>, SolveError> {
        let dims @ [_, width] = right.dims();
        let mut values = numbers(right)?;
        for (solver, row) in self.solvers.iter().zip(values.chunks_exact_mut(width)) {
            let right = MatMut::from_column_major_slice_mut(row, width, 1);
            match transposed {
                true => solver.solve_transpose_in_place(right),
                false => solver.solve_in_place(right),
            }
        }
        Ok(tensor_like(values, dims, right))
    }
}

/// `x_r · f_r` for all rows.
fn scaled(x: &Tensor<2>, factors: &[f64]) -> Tensor<2> {
    row_combination(&[Term { factors, matrix: x }])
}

/// `∂f/∂u` and `∂f/∂t`: `[batch][d × d]`, row after row, and `[batch, d]`.
fn jacobian(
    system: &mut dyn System,
    u: &Tensor<2>,
    times: &[f64],
) -> Result<(Vec<Mat<f64>>, Tensor<2>), SolveError> {
    let [batch, width] = u.dims();
    let mut matrices = vec![Mat::<f64>::zeros(width, width); batch];
    for output in 0..width {
        let unit = (0..batch * width).map(|i| f64::from(u8::from(i % width == output)));
        let unit = tensor_like(unit.collect(), [batch, width], u);
        let (row, _) = system.evaluate(u.clone(), times, true)?.pull(unit);
        for (matrix, row) in matrices.iter_mut().zip(numbers(&row)?.chunks_exact(width)) {
            row.iter()
                .enumerate()
                .for_each(|(input, value)| matrix[(output, input)] = *value);
        }
    }
    // The field is smooth in time where the method has its order, so that differences do.
    let shift = differences::distance(u.dtype(), 1);
    let shifts: Vec<f64> = times.iter().map(|t| shift * t.abs().max(1.0)).collect();
    let mut change = u.zeros_like();
    for (place, weight) in differences::FIRST {
        let at: Vec<f64> = times
            .iter()
            .zip(&shifts)
            .map(|(t, shift)| t + place * shift)
            .collect();
        change = change + system.evaluate(u.clone(), &at, false)?.slope * weight;
    }
    let inverse: Vec<f64> = shifts.iter().map(|shift| 1.0 / shift).collect();
    Ok((matrices, scaled(&change, &inverse)))
}

/// `1/h`, and 0 for trajectories that do not move.
fn inverse(lengths: &[f64]) -> Vec<f64> {
    let each = lengths.iter();
    each.map(|&length| if length == 0.0 { 0.0 } else { 1.0 / length })
        .collect()
}

/// A step from `u`. The stages hold the `k_i` as slopes, and the `y_i`.
pub(crate) fn attempt(
    tableau: &RosenbrockTableau,
    system: &mut dyn System,
    u: &Tensor<2>,
    times: &[f64],
    lengths: &[f64],
    tracked: bool,
) -> Result<Attempt, SolveError> {
    let [batch, width] = u.dims();
    let (matrices, by_time) = jacobian(system, u, times)?;
    let of = |list: &[f64], row: usize| list[if list.len() == 1 { 0 } else { row }];
    let mut solvers = Vec::with_capacity(batch);
    let mut stiffness = Vec::with_capacity(batch);
    for (row, j) in matrices.into_iter().enumerate() {
        let sums = (0..width).map(|i| j.row(i).iter().map(|x| x.abs()).sum::<f64>());
        stiffness.push(sums.fold(0.0, f64::max));
        // A trajectory that rests may have any length: what follows is not used.
        let length = of(lengths, row);
        let diagonal = 1.0 / (tableau.gamma * if length == 0.0 { 1.0 } else { length });
        let w = Mat::from_fn(width, width, |a, b| {
            f64::from(u8::from(a == b)) * diagonal - j[(a, b)]
        });
        if !(0..width).all(|a| w.row(a).iter().all(|x| x.is_finite())) {
            return Err(SolveError::NotFinite {
                time: of(times, row),
                trajectory: row,
            });
        }
        solvers.push(w.partial_piv_lu());
    }
    let factors = Factors { solvers, stiffness };
    let mut attempt = Attempt {
        before: u.clone(),
        after: u.clone(),
        stages: Vec::with_capacity(tableau.nodes.len()),
        times: times.to_vec(),
        lengths: lengths.to_vec(),
        shares_first: false,
        factors: None,
    };
    // Weights of increments have no length in them.
    let ones = vec![1.0; lengths.len()];
    let inverse = inverse(lengths);
    for (i, &node) in tableau.nodes.iter().enumerate() {
        let argument = match tableau.stages[i].is_empty() {
            true => u.clone(),
            false => attempt.sum(Some(&[1.0]), tableau.stages[i], &ones),
        };
        let at = times
            .iter()
            .zip(lengths)
            .map(|(time, length)| time + node * length);
        let mut stage: Stage = system.evaluate(argument, &at.collect::<Vec<_>>(), tracked)?;
        let mut right = stage.slope.clone();
        if i > 0 {
            right = right + attempt.sum(None, tableau.couplings[i], &inverse);
        }
        if tableau.slopes[i] != 0.0 {
            let factors: Vec<f64> = lengths
                .iter()
                .map(|length| length * tableau.slopes[i])
                .collect();
            right = right + scaled(&by_time, &factors);
        }
        stage.slope = factors.solve(&right, false)?;
        attempt.stages.push(stage);
    }
    attempt.after = attempt.sum(Some(&[1.0]), tableau.weights, &moves(lengths));
    attempt.factors = Some(factors);
    Ok(attempt)
}

/// The gradients of a step, from those by its increments.
///
/// - `by_increments`: what is known of the gradient by each `k_i`, `[batch, d]`
/// - returns the gradients by the state before the step, through the increments, and adds those by parameters
pub(crate) fn reverse(
    tableau: &RosenbrockTableau,
    system: &mut dyn System,
    attempt: &mut Attempt,
    mut by_increments: Vec<Option<Tensor<2>>>,
    by_parameters: &mut Option<Tensor<1>>,
) -> Result<Tensor<2>, SolveError> {
    let mut by_state = attempt.before.zeros_like();
    let Some(factors) = attempt.factors.take() else {
        return Ok(by_state);
    };
    let (times, lengths) = (attempt.times.clone(), attempt.lengths.clone());
    let inverse = inverse(&lengths);
    let u = attempt.before.clone();
    for i in (0..tableau.nodes.len()).rev() {
        let Some(by_increment) = by_increments[i].take() else {
            continue;
        };
        let mu = factors.solve(&by_increment, true)?;
        let (nu, found) = attempt.stages[i].pull(mu.clone());
        *by_parameters = sum_of(by_parameters.take(), found);
        by_state = by_state + nu.clone();
        let couplings = tableau.couplings[i].iter().zip(tableau.stages[i]);
        for (by_increment, (coupling, stage)) in by_increments.iter_mut().zip(couplings) {
            let sum = by_increment.take().unwrap_or_else(|| mu.zeros_like());
            let sum = sum + scaled(&mu, &inverse) * *coupling + nu.clone() * *stage;
            *by_increment = Some(sum);
        }
        // The derivative of μᵀ(J k_i + h d_i ∂f/∂t), along (k_i, h d_i).
        let k = attempt.stages[i].slope.clone();
        let size = numbers(&k)?
            .into_iter()
            .fold(0.0_f64, |most, x| most.max(x.abs()));
        let scale = numbers(&u)?
            .into_iter()
            .fold(1.0_f64, |most, x| most.max(x.abs()));
        let drift = lengths
            .iter()
            .map(|h| (h * tableau.slopes[i]).abs())
            .fold(0.0, f64::max);
        let direction = size.max(drift);
        if direction == 0.0 {
            continue;
        }
        let shift = differences::distance(u.dtype(), 1) * scale / direction;
        for (place, weight) in differences::FIRST {
            let moved = place * shift;
            let at = row_combination(&[
                Term {
                    factors: &[1.0],
                    matrix: &u,
                },
                Term {
                    factors: &[moved],
                    matrix: &k,
                },
            ]);
            let at_times = times.iter().zip(&lengths);
            let at_times: Vec<f64> = at_times
                .map(|(t, h)| t + moved * h * tableau.slopes[i])
                .collect();
            let (nu, found) = system.evaluate(at, &at_times, true)?.pull(mu.clone());
            let factor = weight / shift;
            by_state = by_state + nu * factor;
            let found = found.map(|found| found * factor);
            *by_parameters = sum_of(by_parameters.take(), found);
        }
    }
    Ok(by_state)
}
