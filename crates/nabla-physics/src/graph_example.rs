//! Graphs with numbers on nodes and edges, and what is to be predicted of them.

use burn::tensor::{Device, Tensor, TensorData};

use crate::graph::{Graph, GraphError};

/// A graph with its features and targets.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphExample {
    graph: Graph,
    /// Rows of nodes, edges and targets.
    rows: [Vec<Vec<f64>>; 3],
}

impl GraphExample {
    /// - `nodes`: a row of features for each node
    /// - `edges`: a row of features for each edge
    /// - `targets`: a row for each node, or a single one for the graph
    ///
    /// # Errors
    /// If there are not as many rows, or rows have different widths.
    pub fn new(
        graph: Graph,
        nodes: Vec<Vec<f64>>,
        edges: Vec<Vec<f64>>,
        targets: Vec<Vec<f64>>,
    ) -> Result<Self, GraphError> {
        graph.check_nodes("the features of nodes", nodes.len())?;
        graph.check_edges("the features of edges", edges.len())?;
        if targets.len() != 1 {
            graph.check_nodes("targets", targets.len())?;
        }
        let rows = [nodes, edges, targets];
        for (what, rows) in ["the features of nodes", "the features of edges", "targets"]
            .into_iter()
            .zip(&rows)
        {
            let width = rows.first().map_or(0, Vec::len);
            for row in rows {
                super::graph::columns(what, row.len(), width)?;
            }
        }
        Ok(Self { graph, rows })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The targets, row after row.
    pub fn targets(&self) -> impl Iterator<Item = f64> + '_ {
        self.rows[2].iter().flatten().copied()
    }
}

/// Examples side by side.
#[derive(Clone, Debug)]
pub struct GraphBatch {
    /// All graphs as one.
    pub graph: Graph,
    /// `[nodes, node features]`
    pub nodes: Tensor<2>,
    /// `[edges, edge features]`
    pub edges: Tensor<2>,
    /// `[nodes or graphs, targets]`
    pub targets: Tensor<2>,
}

impl GraphBatch {
    /// # Errors
    /// If examples have different numbers of features or targets.
    pub fn new<'a>(
        examples: impl IntoIterator<Item = &'a GraphExample>,
        device: &Device,
    ) -> Result<Self, GraphError> {
        let (mut graphs, mut rows) = (Vec::new(), [const { Vec::new() }; 3]);
        for example in examples {
            graphs.push(example.graph.clone());
            for (all, own) in rows.iter_mut().zip(&example.rows) {
                all.extend(own);
            }
        }
        let tensor = |what, rows: &[&Vec<f64>]| {
            let width = rows.first().map_or(1, |row| row.len());
            let mut values = Vec::with_capacity(rows.len() * width);
            for row in rows {
                super::graph::columns(what, row.len(), width)?;
                values.extend_from_slice(row);
            }
            let data = TensorData::new(values, [rows.len(), width]);
            Ok(Tensor::from_data(data, device))
        };
        let [nodes, edges, targets] = &rows;
        Ok(Self {
            graph: Graph::batch(&graphs),
            nodes: tensor("the features of nodes", nodes)?,
            edges: tensor("the features of edges", edges)?,
            targets: tensor("targets", targets)?,
        })
    }
}
