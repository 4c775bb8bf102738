//! Weights of linear multistep methods on uneven grids.
//!
//! An Adams–Bashforth method integrates the polynomial through the last values. On an even grid its
//! weights are the well-known fractions; on another one they are the integrals of the Lagrange
//! polynomials,
//!
//! ```text
//! w_k = 1/(b − a) ∫_a^b Π_{j ≠ k} (t − t_j) / (t_k − t_j) dt
//! ```
//!
//! Source: Hairer, Nørsett, Wanner, *Solving Ordinary Differential Equations I*, 1993, section III.1.

use burn::tensor::Tensor;

/// The weights with which values at `nodes` give the mean over the interval from `from` to `to`; their
/// sum is 1.
///
/// Exact for up to 6 nodes, which must differ from each other.
///
/// ```
/// use nabla_diffusion::multistep::adams_bashforth;
///
/// let weights = adams_bashforth(&[0.0, 1.0, 2.0, 3.0], 0.0, -1.0);
/// for (weight, fraction) in weights.iter().zip([55.0, -59.0, 37.0, -9.0]) {
///     assert!((weight - fraction / 24.0).abs() < 1e-12);
/// }
/// ```
pub fn adams_bashforth(nodes: &[f64], from: f64, to: f64) -> Vec<f64> {
    // Gauss and Legendre's rule of three points, exact up to degree 5.
    let outer = 0.6_f64.sqrt();
    let points = [(-outer, 5.0 / 18.0), (0.0, 8.0 / 18.0), (outer, 5.0 / 18.0)];
    let (centre, half) = (0.5 * (from + to), 0.5 * (to - from));
    let basis = |k: usize, t: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|&(j, _)| j != k);
        others.map(|(_, &n)| (t - n) / (nodes[k] - n)).product()
    };
    (0..nodes.len())
        .map(|k| {
            points
                .iter()
                .map(|&(p, w)| w * basis(k, centre + half * p))
                .sum()
        })
        .collect()
}

/// `Σ w_k v_k`, in the shape of `like`.
pub(crate) fn weighted_sum<'a>(
    values: impl IntoIterator<Item = &'a Tensor<4>>,
    weights: &[f64],
    like: &Tensor<4>,
) -> Tensor<4> {
    values
        .into_iter()
        .zip(weights)
        .map(|(value, &weight)| value.clone() * weight)
        .reduce(|sum, term| sum + term)
        .unwrap_or_else(|| like.zeros_like())
}
