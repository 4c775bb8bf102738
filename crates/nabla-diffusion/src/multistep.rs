//! Weights of linear multistep methods on uneven grids.
//!
//! An Adams–Bashforth method integrates the polynomial through the last values. On an even grid, its weights
//! are the well-known fractions; on any other grid, they are the integrals of the Lagrange polynomials,
//!
//! ```text
//! w_k = 1/(b − a) ∫_a^b Π_{j ≠ k} (t − t_j) / (t_k − t_j) dt
//! ```
//!
//! Source: Hairer, Nørsett, Wanner, *Solving Ordinary Differential Equations I*, 1993, section III.1.

use std::collections::VecDeque;

use burn::tensor::Tensor;

/// The weights that turn values at `nodes` into the mean over the interval from `from` to `to`; their sum is
/// 1.
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

/// The latest values of a multistep method, each at its node; the newest first.
#[derive(Clone, Debug)]
pub(crate) struct History<const D: usize> {
    most: usize,
    latest: VecDeque<(f64, Tensor<D>)>,
}

impl<const D: usize> History<D> {
    /// - `most`: the maximum number of stored values
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            latest: VecDeque::new(),
        }
    }

    /// Adds the newest value, and removes the oldest if there are too many.
    pub(crate) fn push(&mut self, node: f64, value: Tensor<D>) {
        self.latest.push_front((node, value));
        self.latest.truncate(self.most);
    }

    /// Replaces the newest value.
    pub(crate) fn replace_newest(&mut self, value: Tensor<D>) {
        if let Some((_, newest)) = self.latest.front_mut() {
            *newest = value;
        }
    }

    /// Adds the newest value, and returns the mean, over the interval from its node to `to`, of the
    /// polynomial through all stored values.
    pub(crate) fn mean(&mut self, node: f64, value: Tensor<D>, to: f64) -> Tensor<D> {
        self.push(node, value.clone());
        let nodes: Vec<f64> = self.latest.iter().map(|&(node, _)| node).collect();
        let weights = adams_bashforth(&nodes, node, to);
        let older = self.latest.iter().zip(&weights).skip(1);
        older.fold(value * weights[0], |sum, ((_, value), &weight)| {
            sum + value.clone() * weight
        })
    }

    /// The coefficients `c_k` of `Σ_k c_k (t − t_0)^k`, `t_0` the newest node, of the polynomial through
    /// the newest `order` values: by Newton's divided differences.
    ///
    /// - `order`: 1 to 3; fewer if there are fewer values
    pub(crate) fn polynomial(&self, order: usize) -> Vec<Tensor<D>> {
        let kept = self.latest.iter().take(order);
        let (nodes, mut differences): (Vec<f64>, Vec<Tensor<D>>) = kept.cloned().unzip();
        for level in 1..nodes.len() {
            for k in (level..nodes.len()).rev() {
                let rise = differences[k - 1].clone() - differences[k].clone();
                differences[k] = rise / (nodes[k - level] - nodes[k]);
            }
        }
        // c_0 + c (t − t_0) + d (t − t_0)(t − t_1) has the slope c + d (t_0 − t_1) at t_0.
        if let [_, slope, curvature] = differences.as_mut_slice() {
            *slope = slope.clone() + curvature.clone() * (nodes[0] - nodes[1]);
        }
        differences
    }
}
