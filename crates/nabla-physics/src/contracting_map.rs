//! Maps on the nodes of a graph that contract, whatever numbers a network gives for them.
//!
//! From logits `a` of edges and offsets `b` of nodes, for each head,
//!
//! ```text
//! T(z) = φ(γ A z + b),      A[r, c] = Σ_e bound(a_e) / degree(r)      over the edges e of row r and column c
//! ```
//!
//! with `0 < γ < 1` and a bound in [0, 1]: rows of `A` have entries that are not negative and add up to at most 1. Or the entries
//! are the softmax of the logits of a row. Then `‖γ A‖_∞ ≤ γ`, so that there is one fixed point and steps from anywhere lead
//! there ([`fixed_point`](crate::fixed_point)).
//!
//! What happens in a node changes the state of another one `k` edges away by at most `γᵏ/(1 − γ)`, whatever is learnt: `γ` is
//! to be near the factor by which effects fade in the problem, such as the discount of a decision process.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_physics::contracting_map::ContractingMapConfig;
//! use nabla_physics::fixed_point::FixedPointSolver;
//! use nabla_physics::graph::Graph;
//!
//! let device = Device::flex();
//! let graph = Graph::undirected(3, &[[0, 1], [1, 2]])?;
//! let (logits, offsets) = (Tensor::ones([4, 1], &device), Tensor::ones([3, 1], &device));
//! let map = ContractingMapConfig::new(0.5).map(&graph, logits, offsets)?;
//! let found = map.solve(&FixedPointSolver::Direct)?;
//! assert!((found.z.into_data().try_to_vec::<f32>()?[0] - 2.0).abs() < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Park, Choo, Park, *Convergent Graph Solvers*, 2021, arXiv 2106.01680. Its code has `r` the source of an edge
//! ([`Direction::Out`]), although in its own value iteration values depend on those of sources; here it is the target. In the
//! code, of edges with the same ends only the last one has a weight.

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use nabla_kernels::activation::sigmoid;

use crate::fixed_point::{Direction, EdgeMap, FixedPointError, Nonlinearity};
use crate::graph::Graph;

/// What makes the rows of the matrix add up to at most 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalizer {
    /// Each entry is bounded and divided by the degree of its row. The default.
    #[default]
    Degree,
    /// Entries are the softmax of a row's logits.
    Softmax,
}

/// What keeps an entry in [0, 1] before it is divided by the degree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bound {
    /// The nearest number in [0, 1], as in the paper. Edges with logits outside of it have no gradient. The default.
    #[default]
    Clip,
    /// `1/(1 + e⁻ᵃ)`, which has a gradient everywhere.
    Sigmoid,
}

/// Makes maps that contract by `γ`; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContractingMapConfig {
    /// `γ`, in (0, 1); 0.5 in the paper's code.
    pub gamma: f64,
    /// Which end of an edge is acted on; the target by default.
    pub direction: Direction,
    /// By the degree by default.
    pub normalizer: Normalizer,
    /// A clip by default.
    pub bound: Bound,
    /// `φ(x) = x` by default.
    pub nonlinearity: Nonlinearity,
}

impl Default for ContractingMapConfig {
    fn default() -> Self {
        Self::new(0.5)
    }
}

impl ContractingMapConfig {
    /// With the defaults.
    pub fn new(gamma: f64) -> Self {
        Self {
            gamma,
            direction: Direction::default(),
            normalizer: Normalizer::default(),
            bound: Bound::default(),
            nonlinearity: Nonlinearity::default(),
        }
    }

    /// Sets which end of an edge is acted on.
    #[must_use]
    pub fn with_direction(mut self, direction: Direction) -> Self {
        self.direction = direction;
        self
    }

    /// Sets what makes rows add up to at most 1.
    #[must_use]
    pub fn with_normalizer(mut self, normalizer: Normalizer) -> Self {
        self.normalizer = normalizer;
        self
    }

    /// Sets what keeps entries in [0, 1].
    #[must_use]
    pub fn with_bound(mut self, bound: Bound) -> Self {
        self.bound = bound;
        self
    }

    /// Sets `φ`.
    #[must_use]
    pub fn with_nonlinearity(mut self, nonlinearity: Nonlinearity) -> Self {
        self.nonlinearity = nonlinearity;
        self
    }

    /// Refuses a `γ` that is not in (0, 1).
    ///
    /// # Errors
    /// An error with it.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::between("factor γ of a contracting map", self.gamma, 0.0, 1.0)
    }

    /// The map of a graph.
    ///
    /// - `logits`: `a`, `[edges, heads]`
    /// - `offsets`: `b`, `[nodes, heads]`
    ///
    /// # Errors
    /// If `γ` is not in (0, 1), or logits and offsets don't fit the graph.
    pub fn map(
        &self,
        graph: &Graph,
        logits: Tensor<2>,
        offsets: Tensor<2>,
    ) -> Result<EdgeMap, FixedPointError> {
        self.validate()?;
        graph.check_edges("logits", logits.dims()[0])?;
        let rows = match self.direction {
            Direction::In => graph.by_target(),
            Direction::Out => graph.by_source(),
        };
        let weights = match self.normalizer {
            Normalizer::Softmax => rows.softmax(logits)?,
            Normalizer::Degree => {
                let entries = match self.bound {
                    Bound::Clip => logits.clamp(0.0, 1.0),
                    Bound::Sigmoid => sigmoid(logits),
                };
                // Rows that have edges have a degree.
                let shares = rows.shares(&entries);
                entries * rows.spread(shares)?
            }
        };
        let map = EdgeMap::new(graph.clone(), self.direction, weights, offsets)?;
        Ok(map
            .with_gamma(self.gamma)
            .with_nonlinearity(self.nonlinearity))
    }
}
