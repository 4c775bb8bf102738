//! What the synchronous methods have in common: rounds, and gossip over all edges at once.

use nabla_base::vector::add_scaled;

use crate::graph::Graph;

/// What an observer sees after every round.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// The gradients of all nodes so far.
    pub gradients: u64,
    /// The gossips of all edges so far; each is one message in both directions.
    pub gossips: u64,
    /// `x` of every node, `[nodes]` of `[dimension]`.
    pub solutions: &'a [Vec<f64>],
}

/// One vector per node.
pub(super) type Vectors = Vec<Vec<f64>>;

/// `Σ factor · vectors`, node by node.
pub(super) fn sum<const N: usize>(terms: [(f64, &Vectors); N]) -> Vectors {
    let mut sum = vec![vec![0.0; terms[0].1[0].len()]; terms[0].1.len()];
    for (factor, vectors) in terms {
        for (sum, vector) in sum.iter_mut().zip(vectors) {
            add_scaled(sum, factor, vector);
        }
    }
    sum
}

/// `v ↦ W v`, or its form of several gossips.
pub(super) struct Gossip<'a> {
    pub(super) graph: &'a Graph,
    /// One over the largest eigenvalue of the Laplacian.
    pub(super) scale: f64,
    pub(super) times: usize,
}

impl Gossip<'_> {
    pub(super) fn once(&self, vectors: &Vectors) -> Vectors {
        let mut out = vec![vec![0.0; vectors[0].len()]; vectors.len()];
        for &(i, j) in self.graph.edges() {
            for k in 0..vectors[i].len() {
                let flow = self.scale * (vectors[i][k] - vectors[j][k]);
                out[i][k] += flow;
                out[j][k] -= flow;
            }
        }
        out
    }

    pub(super) fn apply(&self, vectors: &Vectors) -> Vectors {
        let mut left = vectors.clone();
        for _ in 0..self.times {
            left = sum([(1.0, &left), (-1.0, &self.once(&left))]);
        }
        sum([(1.0, vectors), (-1.0, &left)])
    }
}
