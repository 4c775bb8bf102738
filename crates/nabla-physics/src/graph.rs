//! Directed graphs of nodes, several of them as one, and sums, means, maxima and softmaxes over the edges of a node.
//!
//! An edge `e` goes from its source `s(e)` to its target `d(e)`. For rows `x_e` of edges,
//!
//! ```text
//! sum      y_v = Σ_{e: d(e) = v} x_e
//! mean     y_v / in-degree, 0 for a node without edges
//! max      the greatest of each column, 0 for a node without edges
//! softmax  exp x_e / Σ_{d(f) = d(e)} exp x_f
//! ```
//!
//! and the same over sources. They are [`Segments`], whose operations have gradients. [`Graph::batch`] puts graphs side by
//! side; what is computed of the whole is what would be computed of each.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_physics::graph::Graph;
//!
//! // 0 → 1 ← 2
//! let graph = Graph::new(3, vec![0, 2], vec![1, 1])?;
//! let x = Tensor::<2>::from_floats([[1.0], [5.0]], &Device::flex()); // [edges, 1]
//! let y = graph.by_target().mean(x)?; // [nodes, 1]
//! assert_eq!(y.into_data().try_to_vec::<f32>()?, [0.0, 3.0, 0.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ops::Range;
use std::sync::Arc;

mod segments;

pub use segments::Segments;

/// Why there is no graph, or why rows don't fit it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// As many sources as targets are needed.
    #[error(
        "{sources} sources and {targets} targets do not make edges, there must be as many of both"
    )]
    Lengths {
        /// How many sources.
        sources: usize,
        /// How many targets.
        targets: usize,
    },
    /// An end of an edge is no node.
    #[error("edge {edge} goes from {source_node} to {target}, but the graph has {nodes} nodes")]
    Edge {
        /// Which edge, from 0.
        edge: usize,
        /// Its source.
        source_node: usize,
        /// Its target.
        target: usize,
        /// How many nodes there are.
        nodes: usize,
    },
    /// There is a row for each node, or each edge.
    #[error("{what} have {found} rows, expected {expected}")]
    Rows {
        /// Of what.
        what: &'static str,
        /// How many were found.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// Rows have another width.
    #[error("{what} have {found} columns, expected {expected}")]
    Columns {
        /// Of what.
        what: &'static str,
        /// How many were found.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// A directed graph, or several side by side; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    sources: Arc<[usize]>,
    targets: Arc<[usize]>,
    nodes: usize,
    /// The first node and the first edge of each graph, and at last how many there are.
    starts: Vec<[usize; 2]>,
}

impl Graph {
    /// One graph.
    ///
    /// - `sources`, `targets`: the ends of each edge; the same edge may come twice, and an edge may end where it begins
    ///
    /// # Errors
    /// If there are not as many sources as targets, or an end is not below `nodes`.
    pub fn new(nodes: usize, sources: Vec<usize>, targets: Vec<usize>) -> Result<Self, GraphError> {
        if sources.len() != targets.len() {
            return Err(GraphError::Lengths {
                sources: sources.len(),
                targets: targets.len(),
            });
        }
        for (edge, (&source_node, &target)) in sources.iter().zip(&targets).enumerate() {
            if source_node.max(target) >= nodes {
                return Err(GraphError::Edge {
                    edge,
                    source_node,
                    target,
                    nodes,
                });
            }
        }
        let starts = vec![[0, 0], [nodes, sources.len()]];
        Ok(Self {
            sources: sources.into(),
            targets: targets.into(),
            nodes,
            starts,
        })
    }

    /// A graph with two edges for each pair: first all pairs as they are, then all the other way round.
    ///
    /// # Errors
    /// If an end is not below `nodes`.
    pub fn undirected(nodes: usize, pairs: &[[usize; 2]]) -> Result<Self, GraphError> {
        let side = |end: usize| pairs.iter().map(move |pair| pair[end]);
        Self::new(
            nodes,
            side(0).chain(side(1)).collect(),
            side(1).chain(side(0)).collect(),
        )
    }

    /// Graphs side by side: the nodes and edges of the first, then those of the second, and so on.
    pub fn batch(graphs: &[Self]) -> Self {
        let (mut sources, mut targets) = (Vec::new(), Vec::new());
        let (mut nodes, mut starts) = (0, vec![[0, 0]]);
        for graph in graphs {
            let first = [nodes, sources.len()];
            sources.extend(graph.sources.iter().map(|&node| node + first[0]));
            targets.extend(graph.targets.iter().map(|&node| node + first[0]));
            nodes += graph.nodes;
            let own = graph.starts[1..].iter();
            starts.extend(own.map(|start| [start[0] + first[0], start[1] + first[1]]));
        }
        Self {
            sources: sources.into(),
            targets: targets.into(),
            nodes,
            starts,
        }
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// How many edges there are.
    pub fn edges(&self) -> usize {
        self.sources.len()
    }

    /// How many graphs there are side by side.
    pub fn graphs(&self) -> usize {
        self.starts.len() - 1
    }

    /// The source of each edge.
    pub fn sources(&self) -> &[usize] {
        &self.sources
    }

    /// The target of each edge.
    pub fn targets(&self) -> &[usize] {
        &self.targets
    }

    /// The nodes and the edges of each graph.
    pub fn parts(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        let pairs = self.starts.windows(2);
        pairs.map(|pair| (pair[0][0]..pair[1][0], pair[0][1]..pair[1][1]))
    }

    /// The edges that end in each node.
    pub fn by_target(&self) -> Segments {
        Segments::new(self.targets.clone(), self.nodes)
    }

    /// The edges that begin in each node.
    pub fn by_source(&self) -> Segments {
        Segments::new(self.sources.clone(), self.nodes)
    }

    /// The nodes of each graph: for what is read out of a whole graph.
    pub fn by_graph(&self) -> Segments {
        let mut of = Vec::with_capacity(self.nodes);
        for (graph, (nodes, _)) in self.parts().enumerate() {
            of.extend(nodes.map(|_| graph));
        }
        Segments::new(of.into(), self.graphs())
    }

    /// Refuses another number of rows than that of the nodes.
    pub(crate) fn check_nodes(&self, what: &'static str, found: usize) -> Result<(), GraphError> {
        rows(what, found, self.nodes)
    }

    /// Refuses another number of rows than that of the edges.
    pub(crate) fn check_edges(&self, what: &'static str, found: usize) -> Result<(), GraphError> {
        rows(what, found, self.edges())
    }
}

fn rows(what: &'static str, found: usize, expected: usize) -> Result<(), GraphError> {
    match found == expected {
        true => Ok(()),
        false => Err(GraphError::Rows {
            what,
            found,
            expected,
        }),
    }
}

/// Refuses another number of columns.
pub(crate) fn columns(what: &'static str, found: usize, expected: usize) -> Result<(), GraphError> {
    match found == expected {
        true => Ok(()),
        false => Err(GraphError::Columns {
            what,
            found,
            expected,
        }),
    }
}

#[cfg(test)]
mod tests;
