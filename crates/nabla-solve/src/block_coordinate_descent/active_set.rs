//! When a proximal method has found which coordinates of the solution are 0 or at a bound: the margin of this
//! decision, the distance from the solution within which a step cannot miss it, and the number of steps to
//! come this close.
//!
//! With the solution `x*` let `Z` be the coordinates where `x_i*` lies on a kink of `g_i` (0, or a
//! bound), and `[l_i, u_i] = ∂g_i(x_i*)`. If `x*` is not degenerate,
//!
//! ```text
//! δ = min_{i∈Z} min(−∇_i f(x*) − l_i,  u_i + ∇_i f(x*)) > 0
//! ```
//!
//! then every proximal step of a coordinate of `Z` with the step size `1/L_b` from an `x` with
//!
//! ```text
//! ‖x − x*‖ ≤ δ / (L_b + L)
//! ```
//!
//! gives `x_i = x_i*` exactly, `L` being the Lipschitz constant of `∇f`: `x_i − ∇_i f(x)/L_b` has then
//! moved by at most `‖x − x*‖ (1 + L/L_b) ≤ δ/L_b` from where the whole interval
//! `x_i* + [l_i, u_i]/L_b` is mapped to `x_i*`. With `L_b = L` this is the paper's `δ/2L`. A method with
//! `F(x_k) − F* ≤ (1 − 1/κ)^k (F(x_0) − F*)` on a `μ`-strongly convex `F` is this close after
//!
//! ```text
//! k ≥ κ log( 2 (F(x_0) − F*) / (μ ρ²) ),    ρ = δ / (L_b + L)
//! ```
//!
//! steps, and has identified the active set when every block has been selected once more: after one
//! more round of the cyclic rule, and after `m log(m/p)` more draws out of `m` blocks at random with
//! probability `1 − p`.

use super::problem::Penalty;

/// `δ`, the smallest margin by which a coordinate is held on its kink or bound, where `x` is the solution and
/// `gradient` is `∇f` there. 0 for a degenerate solution, `None` if no coordinate (or group) lies on a kink.
///
/// ```
/// use nabla_solve::block_coordinate_descent::{Penalty, nondegeneracy};
/// let delta = nondegeneracy(&Penalty::L1(1.0), &[2.0, 0.0, 0.0], &[-1.0, 0.25, -0.5]);
/// assert_eq!(delta, Some(0.5));
/// ```
pub fn nondegeneracy(penalty: &Penalty, x: &[f64], gradient: &[f64]) -> Option<f64> {
    let margins: Vec<f64> = match penalty {
        Penalty::GroupL1 { weight, groups } => {
            let size =
                |v: &[f64], group: &[usize]| group.iter().map(|&i| v[i] * v[i]).sum::<f64>().sqrt();
            let zero = groups.iter().filter(|group| size(x, group) == 0.0);
            zero.map(|group| weight - size(gradient, group)).collect()
        }
        _ => {
            let on_face = |(&x, &g): (&f64, &f64)| {
                let face = penalty.face(x)?;
                let l1 = penalty.l1();
                Some(match (penalty, face) {
                    (Penalty::L1(_), _) => l1 - g.abs(),
                    (_, -1) => g + l1,
                    _ => -g,
                })
            };
            x.iter().zip(gradient).filter_map(on_face).collect()
        }
    };
    let least = margins.into_iter().fold(f64::INFINITY, f64::min);
    least.is_finite().then_some(least.max(0.0))
}

/// `δ / (L_b + L)`: the distance from the solution within which a proximal step with `1/L_b` cannot miss the
/// active set, if `∇f` has the Lipschitz constant `L`.
pub fn identification_radius(delta: f64, block_lipschitz: f64, lipschitz: f64) -> f64 {
    delta / (block_lipschitz + lipschitz)
}

/// The number of steps that bring a method with the linear rate `1 − 1/κ` within `radius` of the solution of
/// a `μ`-strongly convex problem, starting `excess = F(x_0) − F*` above the minimum.
///
/// ```
/// use nabla_solve::block_coordinate_descent::active_set_complexity;
/// // log(2 · 50 / 1) · 10
/// assert_eq!(active_set_complexity(10.0, 50.0, 1.0, 1.0), 47);
/// ```
pub fn active_set_complexity(kappa: f64, excess: f64, mu: f64, radius: f64) -> usize {
    let steps = kappa * (2.0 * excess / (mu * radius * radius)).ln();
    // The cast of NaN and of negative numbers is 0.
    steps.ceil() as usize
}

/// The number of random draws out of `blocks` blocks that select each of them with the probability
/// `1 − failure`, by the union bound: `m log(m/p)`.
pub fn random_round(blocks: usize, failure: f64) -> usize {
    let m = blocks as f64;
    (m * (m / failure).ln()).ceil() as usize
}
