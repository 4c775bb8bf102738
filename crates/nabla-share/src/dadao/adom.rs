//! ADOM+: accelerated decentralised descent in rounds, to which [DADAO](super) is compared.
//!
//! In every round all nodes take a gradient and then gossip over all edges, by `W`, the Laplacian of the graph over its
//! largest eigenvalue. With `χ` its condition number, `κ = L/μ`, and
//!
//! ```text
//! τ₂ = 1/√κ,  τ₁ = 1/(√κ + ½),  σ₂ = τ₂/(16χ),  σ₁ = 1/(1/σ₂ + ½),  η = 1/(Lτ₂),  α = ν = μ/2,
//! β = 1/(2L),  θ = ν/(4σ₂),  γ = ν/(14σ₂χ²),  δ = 1/(17L),  ζ = ½
//!
//! x_g = τ₁ x + (1−τ₁) x_f;   y_g = σ₁ y + (1−σ₁) y_f;   z_g = σ₁ z + (1−σ₁) z_f;   g = ∇F(x_g) − ν x_g
//! y⁺ = y + θβ (g − y⁺) − θ ((y_g + z_g)/ν + x⁺),   x⁺ = x + ηα (x_g − x⁺) − η (g − y⁺)      both at once
//! q = (γ/ν)(y_g + z_g) + m;   z⁺ = z + γδ (z_g − z) − W q;   m⁺ = q − W q
//! x_f = x_g + τ₂ (x⁺ − x);   y_f = y_g + σ₂ (y⁺ − y);   z_f = z_g − ζ W (y_g + z_g)
//! ```
//!
//! With [multi-consensus](AdomPlus::multi_consensus) a round gossips `K = ⌈χ ln 2⌉` times, by `I − (I − W)^K`, for
//! which `χ` is at most 2.
//!
//! Source: Kovalev, Gasanov, Gasnikov, Richtárik, *Lower Bounds and Optimal Algorithms for Smooth and Strongly Convex
//! Decentralized Optimization Over Time-Varying Networks*, NeurIPS 2021, arXiv 2106.04469.

use std::ops::ControlFlow;

use super::rounds::{Gossip, Round, sum};
use super::{DadaoError, Objective, check_starts};
use crate::graph::Graph;

/// The method; see the [module documentation](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdomPlus {
    /// Whether each round gossips until the error of the consensus has halved. By default it gossips once.
    pub multi_consensus: bool,
}

impl AdomPlus {
    /// Runs rounds until the observer breaks or they are over, and returns `x` of every node.
    ///
    /// - `starts`: `x` of every node, all of the same length
    ///
    /// # Errors
    /// If the objective or the starts do not fit, or a gradient has another length or is not finite.
    pub fn run(
        &self,
        objective: &Objective<'_>,
        graph: &Graph,
        starts: &[Vec<f64>],
        rounds: usize,
        mut observe: impl FnMut(Round<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<f64>>, DadaoError> {
        let nodes = graph.nodes();
        objective.check(nodes)?;
        let dimension = check_starts(starts, nodes)?;
        let [smallest, largest] = graph.extreme_eigenvalues()?;
        let chi = largest / smallest;
        let gossip = Gossip {
            graph,
            scale: 1.0 / largest,
            times: match self.multi_consensus {
                true => (chi * 2f64.ln()).ceil() as usize,
                false => 1,
            },
        };
        let chi = if self.multi_consensus {
            chi.min(2.0)
        } else {
            chi
        };

        let (l, mu) = (objective.smoothness, objective.strong_convexity);
        let tau_2 = (mu / l).sqrt();
        let tau_1 = 1.0 / (1.0 / tau_2 + 0.5);
        let sigma_2 = tau_2 / (16.0 * chi);
        let sigma_1 = 1.0 / (1.0 / sigma_2 + 0.5);
        let (eta, nu, beta) = (1.0 / (l * tau_2), 0.5 * mu, 0.5 / l);
        let (alpha, zeta, delta) = (nu, 0.5, 1.0 / (17.0 * l));
        let theta = nu / (4.0 * sigma_2);
        let gamma = nu / (14.0 * sigma_2 * chi * chi);

        let zero = || vec![vec![0.0; dimension]; nodes];
        let (mut x, mut x_f) = (starts.to_vec(), starts.to_vec());
        let (mut y, mut y_f, mut z, mut z_f, mut m) = (zero(), zero(), zero(), zero(), zero());
        for round in 1..=rounds as u64 {
            let x_g = sum([(tau_1, &x), (1.0 - tau_1, &x_f)]);
            let y_g = sum([(sigma_1, &y), (1.0 - sigma_1, &y_f)]);
            let z_g = sum([(sigma_1, &z), (1.0 - sigma_1, &z_f)]);
            let g = sum([(1.0, &objective.gradients(&x_g)?), (-nu, &x_g)]);
            let dual = sum([(1.0, &y_g), (1.0, &z_g)]);
            // x⁺ = ahead + pull · y⁺.
            let shrink = 1.0 / (1.0 + eta * alpha);
            let ahead = sum([
                (shrink, &x),
                (shrink * eta * alpha, &x_g),
                (-shrink * eta, &g),
            ]);
            let pull = shrink * eta;
            let divide = 1.0 / (1.0 + theta * beta + theta * pull);
            let y_next = sum([
                (divide, &y),
                (divide * theta * beta, &g),
                (-divide * theta / nu, &dual),
                (-divide * theta, &ahead),
            ]);
            let x_next = sum([(1.0, &ahead), (pull, &y_next)]);
            let q = sum([(gamma / nu, &dual), (1.0, &m)]);
            let w_q = gossip.apply(&q);
            let z_next = sum([
                (1.0 - gamma * delta, &z),
                (gamma * delta, &z_g),
                (-1.0, &w_q),
            ]);
            m = sum([(1.0, &q), (-1.0, &w_q)]);
            x_f = sum([(1.0, &x_g), (tau_2, &x_next), (-tau_2, &x)]);
            y_f = sum([(1.0, &y_g), (sigma_2, &y_next), (-sigma_2, &y)]);
            z_f = sum([(1.0, &z_g), (-zeta, &gossip.apply(&dual))]);
            (x, y, z) = (x_next, y_next, z_next);
            let edges = graph.edges().len() * gossip.times;
            let seen = Round {
                gradients: round * nodes as u64,
                gossips: round * edges as u64,
                solutions: &x,
            };
            if observe(seen).is_break() {
                break;
            }
        }
        Ok(x)
    }
}
