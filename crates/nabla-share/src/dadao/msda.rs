//! MSDA: dual accelerated descent in rounds of several gossips, to which [DADAO](super) is compared.
//!
//! Nodes that can minimise `f_i(x) − ⟨y, x⟩` know the gradient of the conjugate, `∇f_i*(y)`, and descend in the dual by
//! Nesterov's method. A round gossips `K` times by a Chebyshev polynomial of `W`, the Laplacian over its largest
//! eigenvalue. With `κ = L/μ`, and `γ` the smallest positive eigenvalue of `W`:
//!
//! ```text
//! K = ⌊1/√γ⌋,  c₁ = (1 − √γ)/(1 + √γ),  c₂ = (1 + γ)/(1 − γ),  c₃ = 2/(1 + γ)
//! η = μ (1 + c₁^{2K})/(1 + c₁^K)²,   m = ((1 + c₁^K)√κ − 1 + c₁^K)/((1 + c₁^K)√κ + 1 − c₁^K)
//!
//! θ_i = ∇f_i*(y_i)                       the node's solution
//! u⁺ = y − η P(θ)
//! y⁺ = (1 + m) u⁺ − m u
//!
//! P(θ):  a₀ = 1,  a₁ = c₂,  t₀ = θ,  t₁ = c₂ (I − c₃W) θ
//!        a_{k+1} = 2c₂ a_k − a_{k−1},   t_{k+1} = 2c₂ (I − c₃W) t_k − t_{k−1};   P(θ) = t₀ − t_K/a_K
//! ```
//!
//! The error of the dual falls by `1 − (1 − c₁^K)/((1 + c₁^K)√κ)` in a round.
//!
//! Source: Scaman, Bach, Bubeck, Lee, Massoulié, *Optimal Algorithms for Smooth and Strongly Convex Distributed
//! Optimization in Networks*, ICML 2017, arXiv 1702.08704, algorithm 2.

use std::ops::ControlFlow;

use super::rounds::{Gossip, Round, Vectors, sum};
use super::{DadaoError, Objective};
use crate::graph::Graph;

/// The constants of a run.
struct Constants {
    /// `K`.
    gossips: usize,
    /// `1/c₂`, which is 0 on a complete graph.
    inverse_c2: f64,
    eta: f64,
    momentum: f64,
    /// The factor of the dual's error in a round.
    rate: f64,
}

fn constants(objective: &Objective<'_>, gamma: f64) -> Constants {
    // What rounding leaves above 1 is a complete graph.
    let gamma = gamma.min(1.0);
    let gossips = (1.0 / gamma.sqrt()).floor() as usize;
    let c1 = (1.0 - gamma.sqrt()) / (1.0 + gamma.sqrt());
    let power = c1.powi(gossips as i32);
    let root = (objective.smoothness / objective.strong_convexity).sqrt();
    let [above, below] = [(1.0 + power) * root, 1.0 - power];
    Constants {
        gossips,
        inverse_c2: (1.0 - gamma) / (1.0 + gamma),
        eta: objective.strong_convexity * (1.0 + power * power) / (1.0 + power).powi(2),
        momentum: (above - below) / (above + below),
        rate: 1.0 - below / above,
    }
}

/// The factor by which the error of the dual falls in a round on a graph, by theory.
///
/// # Errors
/// If the eigenvalues of the graph cannot be computed.
pub fn rate(objective: &Objective<'_>, graph: &Graph) -> Result<f64, DadaoError> {
    let [smallest, largest] = graph.extreme_eigenvalues()?;
    Ok(constants(objective, smallest / largest).rate)
}

/// `P(θ)`, with every `t_k` divided by its `a_k`.
fn accelerated_gossip(gossip: &Gossip<'_>, constants: &Constants, theta: &Vectors) -> Vectors {
    let shrunk = |t: &Vectors| sum([(1.0, t), (-1.0, &gossip.once(t))]);
    let mut before = theta.clone();
    let mut now = shrunk(theta);
    // a_{k−1}/a_k.
    let mut ratio = constants.inverse_c2;
    for _ in 1..constants.gossips {
        let growth = 2.0 - ratio * constants.inverse_c2;
        let next_ratio = constants.inverse_c2 / growth;
        let next = sum([
            (2.0 / growth, &shrunk(&now)),
            (-ratio * next_ratio, &before),
        ]);
        (before, now, ratio) = (now, next, next_ratio);
    }
    sum([(1.0, theta), (-1.0, &now)])
}

/// Runs rounds until the observer breaks or they are over, and returns the solutions of all nodes. The dual begins at 0,
/// so that each node begins at its own minimum.
///
/// - `duals`: `L` and `μ` of the `f_i`, and the gradients of their conjugates, from `y` to the `x` with `∇f_i(x) = y`
///
/// # Errors
/// If the objective does not fit, or a gradient has another length or is not finite.
pub fn run(
    duals: &Objective<'_>,
    graph: &Graph,
    dimension: usize,
    rounds: usize,
    mut observe: impl FnMut(Round<'_>) -> ControlFlow<()>,
) -> Result<Vec<Vec<f64>>, DadaoError> {
    let nodes = graph.nodes();
    duals.check(nodes)?;
    nabla_base::range::at_least("dimension", dimension, 1)?;
    let [smallest, largest] = graph.extreme_eigenvalues()?;
    let gamma = smallest / largest;
    let constants = constants(duals, gamma);
    let gossip = Gossip {
        graph,
        // c₃ W.
        scale: 2.0 / (1.0 + gamma) / largest,
        times: 1,
    };
    let mut u = vec![vec![0.0; dimension]; nodes];
    let mut y = u.clone();
    let mut solutions = u.clone();
    for round in 1..=rounds as u64 {
        let theta: Result<Vectors, _> = (0..nodes).map(|i| duals.gradient(i, &y[i])).collect();
        solutions = theta?;
        let gossiped = accelerated_gossip(&gossip, &constants, &solutions);
        let next = sum([(1.0, &y), (-constants.eta, &gossiped)]);
        y = sum([(1.0 + constants.momentum, &next), (-constants.momentum, &u)]);
        u = next;
        let seen = Round {
            gradients: round * nodes as u64,
            gossips: round * (graph.edges().len() * constants.gossips) as u64,
            solutions: &solutions,
        };
        if observe(seen).is_break() {
            break;
        }
    }
    Ok(solutions)
}
