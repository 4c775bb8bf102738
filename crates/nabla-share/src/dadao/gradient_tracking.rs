//! Gradient tracking: decentralised descent along an estimate of the mean gradient, to which [DADAO](super) is compared.
//!
//! ```text
//! x⁺ = M x − η t
//! t⁺ = M t + ∇F(x⁺) − ∇F(x),    t = ∇F(x) at the start
//! ```
//!
//! `M = I − 2/(λ_min⁺ + λ_max) Λ`, with the Laplacian `Λ` of the graph, mixes as fast as equal weights can. The sum of
//! the `t_i` is that of the gradients for ever. It converges linearly for steps that are small enough, without
//! acceleration. A message is both vectors.
//!
//! Sources: Nedić, Olshevsky, Shi, *Achieving Geometric Convergence for Distributed Optimization over Time-Varying
//! Graphs*, SIAM Journal on Optimization 2017, arXiv 1607.03218; Qu, Li, *Harnessing Smoothness to Accelerate
//! Distributed Optimization*, 2016, arXiv 1605.07112; Xiao, Boyd, *Fast Linear Iterations for Distributed Averaging*,
//! 2004 (the weights).

use std::ops::ControlFlow;

use nabla_base::range;

use super::rounds::{Gossip, Round, sum};
use super::{DadaoError, Objective, check_starts};
use crate::graph::Graph;

/// The method; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientTracking {
    /// `η`.
    pub step: f64,
}

impl GradientTracking {
    /// Runs rounds until the observer breaks or they are over, and returns `x` of every node.
    ///
    /// - `starts`: `x` of every node, all of the same length
    ///
    /// # Errors
    /// If the step is not positive, the objective or the starts do not fit, or a gradient has another length or is not
    /// finite, as when the step is too long.
    pub fn run(
        &self,
        objective: &Objective<'_>,
        graph: &Graph,
        starts: &[Vec<f64>],
        rounds: usize,
        mut observe: impl FnMut(Round<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f64>>, DadaoError> {
        let nodes = graph.nodes();
        range::positive("step η", self.step)?;
        objective.check(nodes)?;
        check_starts(starts, nodes)?;
        let [smallest, largest] = graph.extreme_eigenvalues()?;
        let gossip = Gossip {
            graph,
            scale: 2.0 / (smallest + largest),
            times: 1,
        };
        let mut x = starts.to_vec();
        let mut gradient = objective.gradients(&x)?;
        let mut tracked = gradient.clone();
        for round in 1..=rounds as u64 {
            x = sum([(1.0, &x), (-1.0, &gossip.once(&x)), (-self.step, &tracked)]);
            let next = objective.gradients(&x)?;
            let mixed = gossip.once(&tracked);
            tracked = sum([
                (1.0, &tracked),
                (-1.0, &mixed),
                (1.0, &next),
                (-1.0, &gradient),
            ]);
            gradient = next;
            let seen = Round {
                // With that of the start.
                gradients: (round + 1) * nodes as u64,
                gossips: round * graph.edges().len() as u64,
                solutions: &x,
            };
            if observe(seen).is_break() {
                break;
            }
        }
        Ok(x)
    }
}
