//! Fixed points of maps on the nodes of a graph, and their gradients without the way to them.
//!
//! Each of `H` heads has a number in every node, and a weight on every edge. With `A_m` the weights of head `m` as a matrix,
//! whose row is the node that an edge acts on ([`Direction`]),
//!
//! ```text
//! T_m(z) = φ(γ A_m z + b_m),      z*_m = T_m(z*_m)
//! ```
//!
//! There is one fixed point, and steps from 0 lead to it, if `γ` times the sum of each row's sizes is below 1: then `T`
//! is a contraction in the maximum norm. That is what a [`contracting_map`](crate::contracting_map) sees to.
//!
//! The gradient follows from the implicit function theorem. With `g` the gradient by `z*` and `D = diag φ'(γ A z* + b)`,
//!
//! ```text
//! u = g + γ Aᵀ D u,      ∂b = D u,      ∂A[r, c] = γ (D u)_r z*_c
//! ```
//!
//! so that what is needed is one more fixed point, of a contraction in the norm of sums; nothing of the steps is kept. Both are
//! found by steps, or by a [direct](FixedPointSolver::Direct) solution of each graph of a batch. They are computed in doubles,
//! on the processor. The result is a node of Burn's graph: `backward` does the rest.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_physics::fixed_point::{Direction, EdgeMap, FixedPointSolver};
//! use nabla_physics::graph::Graph;
//!
//! // z = ½ z + 1 on one node.
//! let device = Device::flex().autodiff();
//! let graph = Graph::new(1, vec![0], vec![0])?;
//! let weight = Tensor::<2>::from_floats([[0.5]], &device).require_grad(); // [edges, heads]
//! let map = EdgeMap::new(graph, Direction::In, weight.clone(), Tensor::ones([1, 1], &device))?;
//! let z = map.solve(&FixedPointSolver::default())?.z; // [nodes, heads]
//! let gradients = z.clone().sum().backward();
//! assert!((z.into_scalar::<f32>() - 2.0).abs() < 1e-5);
//! // 1 / (1 − w)²
//! assert!((weight.grad(&gradients).ok_or("no gradient")?.into_scalar::<f32>() - 4.0).abs() < 1e-4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};

use crate::field::Pulled;
use crate::graph::{Graph, GraphError, columns};
use crate::numbers::{numbers, tensor_like};
use crate::operation::{Pullback, attached};

mod system;

use system::System;

/// Which end of an edge is acted on: the row of the matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// The target: a node follows from the sources of the edges that come in. The default.
    #[default]
    In,
    /// The source, as in the official code of convergent graph solvers.
    Out,
}

/// `φ`, whose slope is nowhere above 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nonlinearity {
    /// `φ(x) = x`. The default.
    #[default]
    Identity,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
}

impl Nonlinearity {
    pub(crate) fn value(self, x: f64) -> f64 {
        match self {
            Self::Identity => x,
            Self::Tanh => x.tanh(),
            // What is not a number stays one.
            Self::Relu if x < 0.0 => 0.0,
            Self::Relu => x,
        }
    }

    /// `φ'` from the value of `φ`.
    pub(crate) fn slope(self, value: f64) -> f64 {
        match self {
            Self::Identity => 1.0,
            Self::Tanh => 1.0 - value * value,
            Self::Relu => f64::from(u8::from(value > 0.0)),
        }
    }
}

/// How a fixed point is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FixedPointSolver {
    /// Steps `z ← T(z)` from 0, for each graph of a batch until a step moves no number by more than `tolerance · ‖b‖_∞`. Then the
    /// distance from the fixed point is at most `q/(1 − q)` times that, with `q` the contraction's factor.
    Picard {
        /// Default `1e-6`.
        tolerance: f64,
        /// The most steps. Without a number, as many as a contraction by `γ` may need, of which there is a bound.
        most: Option<usize>,
    },
    /// Steps as in the official code: until the root of the sum of squares of a step, over all heads and all graphs of the
    /// batch together, is below a number, but no more than so many. Then it goes on with what it has.
    Official {
        /// In the units of `z`; `1e-6` in the paper's code.
        tolerance: f64,
        /// 50 in the paper's code.
        most: usize,
    },
    /// The solution of the linear equations of each graph and head by elimination, which needs `nodes²` numbers. Only for
    /// `φ(x) = x`.
    Direct,
}

impl Default for FixedPointSolver {
    fn default() -> Self {
        Self::Picard {
            tolerance: 1e-6,
            most: None,
        }
    }
}

impl FixedPointSolver {
    /// The steps of the official code, with its numbers.
    pub const OFFICIAL: Self = Self::Official {
        tolerance: 1e-6,
        most: 50,
    };

    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// If a tolerance is not positive, or there may be no step.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let (tolerance, most) = match *self {
            Self::Picard { tolerance, most } => (tolerance, most.unwrap_or(1)),
            Self::Official { tolerance, most } => (tolerance, most),
            Self::Direct => return Ok(()),
        };
        range::positive("tolerance of a fixed point", tolerance)?;
        range::at_least("most steps to a fixed point", most, 1)
    }
}

/// After how many steps at most a contraction from 0 has come to its fixed point: step `k` moves by at most `factorᵏ⁻¹ ‖b‖`.
///
/// - `factor`: of the contraction, in (0, 1)
/// - `tolerance`: the last step's share of `‖b‖`
///
/// # Errors
/// If a number is out of range.
pub fn most_steps(factor: f64, tolerance: f64) -> Result<usize, OutOfRange> {
    range::between("factor of a contraction", factor, 0.0, 1.0)?;
    range::positive("tolerance of a fixed point", tolerance)?;
    Ok(1 + (tolerance.ln() / factor.ln()).ceil().max(0.0) as usize)
}

/// Why there is no fixed point.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FixedPointError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Something does not fit the graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A weight or an offset is not finite.
    #[error("{what} of a map hold a number that is not finite, in row {row}")]
    NotFinite {
        /// Of what.
        what: &'static str,
        /// The first such row.
        row: usize,
    },
    /// The steps don't come to an end.
    #[error(
        "no fixed point after {iterations} steps, the last one moved by {residual:e} of the offsets: the map is no \
         contraction, or needs more steps"
    )]
    NotConverged {
        /// How many steps.
        iterations: usize,
        /// The last step, as a share of `‖b‖_∞`.
        residual: f64,
    },
    /// Elimination is for linear maps.
    #[error("a map with {0:?} has no direct solution, take steps")]
    NotLinear(Nonlinearity),
    /// The equations have no solution.
    #[error("the equations of graph {graph} have no finite solution for head {head}")]
    Singular {
        /// Which graph of the batch.
        graph: usize,
        /// Which head.
        head: usize,
    },
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// What was found.
#[derive(Clone, Debug)]
pub struct FixedPoint {
    /// `z*`, `[nodes, heads]`, with its gradient.
    pub z: Tensor<2>,
    /// The most steps that a graph of the batch took; 0 for a direct solution.
    pub iterations: usize,
    /// The largest last step of a graph, as a share of its `‖b‖_∞`.
    pub residual: f64,
    /// Whether the steps have come to an end.
    pub converged: bool,
}

/// `T(z) = φ(γ A z + b)`; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct EdgeMap {
    graph: Graph,
    direction: Direction,
    /// `[edges, heads]`
    weights: Tensor<2>,
    /// `b`, `[nodes, heads]`
    offsets: Tensor<2>,
    gamma: f64,
    nonlinearity: Nonlinearity,
}

impl EdgeMap {
    /// A map with `γ = 1` and `φ(x) = x`.
    ///
    /// - `weights`: `[edges, heads]`; edges with the same ends add up
    /// - `offsets`: `b`, `[nodes, heads]`
    ///
    /// # Errors
    /// If there is not a row for each edge and each node, or they have not as many heads.
    pub fn new(
        graph: Graph,
        direction: Direction,
        weights: Tensor<2>,
        offsets: Tensor<2>,
    ) -> Result<Self, GraphError> {
        graph.check_edges("weights", weights.dims()[0])?;
        graph.check_nodes("offsets", offsets.dims()[0])?;
        columns("weights", weights.dims()[1], offsets.dims()[1])?;
        Ok(Self {
            graph,
            direction,
            weights,
            offsets,
            gamma: 1.0,
            nonlinearity: Nonlinearity::Identity,
        })
    }

    /// Sets `γ`.
    #[must_use]
    pub fn with_gamma(mut self, gamma: f64) -> Self {
        self.gamma = gamma;
        self
    }

    /// Sets `φ`.
    #[must_use]
    pub fn with_nonlinearity(mut self, nonlinearity: Nonlinearity) -> Self {
        self.nonlinearity = nonlinearity;
        self
    }

    /// The weights, `[edges, heads]`, without `γ`.
    pub fn weights(&self) -> &Tensor<2> {
        &self.weights
    }

    /// `b`, `[nodes, heads]`.
    pub fn offsets(&self) -> &Tensor<2> {
        &self.offsets
    }

    /// `γ`.
    pub fn gamma(&self) -> f64 {
        self.gamma
    }

    /// `T(z)` as operations with their own gradients.
    ///
    /// - `z`, and what is returned: `[nodes, heads]`
    ///
    /// # Errors
    /// If `z` does not fit the graph.
    pub fn apply(&self, z: Tensor<2>) -> Result<Tensor<2>, GraphError> {
        columns("states", z.dims()[1], self.offsets.dims()[1])?;
        let (rows, cols) = match self.direction {
            Direction::In => (self.graph.by_target(), self.graph.by_source()),
            Direction::Out => (self.graph.by_source(), self.graph.by_target()),
        };
        let seen = self.weights.clone() * cols.spread(z)?; // [edges, heads]
        let x = rows.sum(seen)? * self.gamma + self.offsets.clone();
        Ok(match self.nonlinearity {
            Nonlinearity::Identity => x,
            Nonlinearity::Tanh => x.tanh(),
            Nonlinearity::Relu => burn::tensor::activation::relu(x),
        })
    }

    /// The largest `γ Σ_c |A[r, c]|` of any row and head: `T` is a contraction by it, if it is below 1.
    ///
    /// # Errors
    /// If a number is not finite or cannot be read.
    pub fn contraction_factor(&self) -> Result<f64, FixedPointError> {
        Ok(self.system()?.contraction_factor())
    }

    fn system(&self) -> Result<System, FixedPointError> {
        let read = |what, tensor: &Tensor<2>| {
            let values =
                numbers(tensor).map_err(|error| FixedPointError::Device(error.to_string()))?;
            let width = tensor.dims()[1].max(1);
            match values.iter().position(|value| !value.is_finite()) {
                Some(place) => Err(FixedPointError::NotFinite {
                    what,
                    row: place / width,
                }),
                None => Ok(values),
            }
        };
        let weights = read("the weights", &self.weights)?;
        let offsets = read("the offsets", &self.offsets)?;
        let (rows, cols) = match self.direction {
            Direction::In => (self.graph.targets(), self.graph.sources()),
            Direction::Out => (self.graph.sources(), self.graph.targets()),
        };
        Ok(System {
            parts: self.graph.parts().collect(),
            rows: rows.to_vec(),
            cols: cols.to_vec(),
            heads: self.offsets.dims()[1],
            weights,
            offsets,
            gamma: self.gamma,
            nonlinearity: self.nonlinearity,
        })
    }

    /// The fixed point, with its gradient by weights and offsets. The gradient is found by the same solver; where its steps
    /// don't come to an end, it is not a number.
    ///
    /// # Errors
    /// If a number is not finite or out of range, the steps of [`FixedPointSolver::Picard`] don't come to an end, or there is
    /// no direct solution.
    pub fn solve(&self, solver: &FixedPointSolver) -> Result<FixedPoint, FixedPointError> {
        solver.validate()?;
        range::positive("factor γ of a map", self.gamma)?;
        let system = Arc::new(self.system()?);
        let found = system.solve(solver)?;
        let [edges, heads] = self.weights.dims();
        let dims = self.offsets.dims();
        let values = tensor_like(found.z.clone(), [found.z.len()], &self.offsets);
        let (solver, z) = (*solver, found.z);
        let pullback = Pullback::new(move |gradient: Tensor<1>| -> Pulled {
            let gradient: Tensor<2> = gradient.reshape(dims);
            let pulled = numbers(&gradient)
                .ok()
                .and_then(|gradient| system.pull(&solver, &z, &gradient));
            let (by_offsets, by_weights) =
                pulled.unwrap_or_else(|| (vec![f64::NAN; z.len()], vec![f64::NAN; edges * heads]));
            (
                tensor_like(by_offsets, dims, &gradient),
                Some(tensor_like(by_weights, [edges * heads], &gradient)),
            )
        });
        let weights = self.weights.clone().reshape([edges * heads]);
        let z = attached(values, self.offsets.clone(), weights, pullback).reshape(dims);
        Ok(FixedPoint {
            z,
            iterations: found.iterations,
            residual: found.residual,
            converged: found.converged,
        })
    }

    /// `u` of the [module documentation](self), `[nodes, heads]`, for the gradient `g` by the fixed point: with constant `u` and
    /// `z*`, the gradients of `Σ u · T(z*)` are those of a loss whose gradient by `z*` is `g`.
    ///
    /// - `z`: the fixed point
    ///
    /// # Errors
    /// As [`solve`](Self::solve).
    pub fn adjoint(
        &self,
        solver: &FixedPointSolver,
        z: &Tensor<2>,
        gradient: &Tensor<2>,
    ) -> Result<Tensor<2>, FixedPointError> {
        solver.validate()?;
        for (what, tensor) in [("states", z), ("gradients", gradient)] {
            self.graph.check_nodes(what, tensor.dims()[0])?;
            columns(what, tensor.dims()[1], self.offsets.dims()[1])?;
        }
        let read =
            |tensor| numbers(tensor).map_err(|error| FixedPointError::Device(error.to_string()));
        let found = self
            .system()?
            .adjoint(solver, &read(z)?, &read(gradient)?)?;
        Ok(tensor_like(found, gradient.dims(), gradient))
    }
}

#[cfg(test)]
mod tests;
