//! Sparse quadratics, `f(x) = ½ xᵀ A x − bᵀ x`, and label propagation on a graph as an example.

use std::collections::{BTreeMap, VecDeque};

use nabla_data::LabelledRows;

use super::BlockDescentError;
use super::problem::{Curvature, SmoothProblem};

/// `f(x) = ½ xᵀ A x − bᵀ x` with a sparse symmetric positive definite `A`. The gradient is updated
/// incrementally: moving a block costs as much as the entries of its rows.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseQuadratic {
    rows: Vec<Vec<(usize, f64)>>,
    b: Vec<f64>,
}

impl SparseQuadratic {
    /// Creates the problem from the entries of `A`: `diagonal`, `[n]`, and `(i, j, A_ij)` off the diagonal,
    /// each pair once; entries of the same pair are added.
    ///
    /// # Errors
    /// If there is no coordinate, a size or an index does not fit, a number is not finite, or a
    /// diagonal entry is not positive.
    pub fn new(
        diagonal: &[f64],
        entries: &[(usize, usize, f64)],
        b: Vec<f64>,
    ) -> Result<Self, BlockDescentError> {
        let n = diagonal.len();
        if n == 0 {
            return Err(BlockDescentError::Empty("coordinates"));
        }
        if b.len() != n {
            return Err(BlockDescentError::Length {
                name: "right side",
                expected: n,
                found: b.len(),
            });
        }
        let mut rows: Vec<BTreeMap<usize, f64>> = Vec::with_capacity(n);
        for (i, &value) in diagonal.iter().enumerate() {
            if !(value > 0.0 && value.is_finite()) {
                return Err(BlockDescentError::NotPositiveDefinite { coordinate: i });
            }
            rows.push(BTreeMap::from([(i, value)]));
        }
        for &(i, j, value) in entries {
            for coordinate in [i, j] {
                if coordinate >= n {
                    return Err(BlockDescentError::Coordinate {
                        name: "entry",
                        coordinate,
                        dimension: n,
                    });
                }
            }
            if !value.is_finite() || i == j {
                return Err(BlockDescentError::Entry { i, j, value });
            }
            *rows[i].entry(j).or_default() += value;
            *rows[j].entry(i).or_default() += value;
        }
        if let Some(i) = b.iter().position(|b| !b.is_finite()) {
            return Err(BlockDescentError::Entry {
                i,
                j: i,
                value: b[i],
            });
        }
        let rows = rows.into_iter().map(|row| row.into_iter().collect());
        Ok(Self {
            rows: rows.collect(),
            b,
        })
    }

    /// `A x − b`.
    fn residual(&self, x: &[f64]) -> Vec<f64> {
        let products = self.rows.iter().zip(&self.b);
        products
            .map(|(row, b)| row.iter().map(|&(j, a)| a * x[j]).sum::<f64>() - b)
            .collect()
    }
}

impl SmoothProblem for SparseQuadratic {
    /// The gradient.
    type State = Vec<f64>;

    fn dimension(&self) -> usize {
        self.b.len()
    }

    fn state(&self, x: &[f64], _: bool) -> Vec<f64> {
        self.residual(x)
    }

    fn value(&self, state: &Vec<f64>, x: &[f64]) -> f64 {
        let terms = x.iter().zip(state).zip(&self.b);
        0.5 * terms.map(|((x, g), b)| x * (g - b)).sum::<f64>()
    }

    fn gradient(&self, state: &Vec<f64>, _: &[f64], block: &[usize]) -> Vec<f64> {
        block.iter().map(|&i| state[i]).collect()
    }

    fn full_gradient(&self, state: &Vec<f64>, _: &[f64]) -> Vec<f64> {
        state.clone()
    }

    fn curvature_row(&self, _: &Vec<f64>, _: Curvature, i: usize) -> Vec<(usize, f64)> {
        self.rows[i].clone()
    }

    fn coordinate_lipschitz(&self, _: &Vec<f64>) -> Vec<f64> {
        let diagonal = |(i, row): (usize, &Vec<(usize, f64)>)| {
            row.iter().find(|(j, _)| *j == i).map_or(0.0, |&(_, a)| a)
        };
        self.rows.iter().enumerate().map(diagonal).collect()
    }

    fn change(&self, state: &mut Vec<f64>, _: &[f64], block: &[usize], delta: &[f64]) -> f64 {
        let mut sum = 0.0;
        for (&i, d) in block.iter().zip(delta) {
            let mut product = 0.0;
            for &(j, a) in &self.rows[i] {
                if let Ok(at) = block.binary_search(&j) {
                    product += a * delta[at];
                }
            }
            sum += d * (state[i] + 0.5 * product);
        }
        sum
    }

    fn advance(&self, state: &mut Vec<f64>, _: &[f64], block: &[usize], delta: &[f64]) -> f64 {
        // Along the step, f changes by half the sum of the slopes before and after.
        let along = |state: &[f64]| {
            let terms = block.iter().zip(delta);
            terms.map(|(&i, d)| d * state[i]).sum::<f64>()
        };
        let before = along(state);
        for (&i, d) in block.iter().zip(delta) {
            for &(j, a) in &self.rows[i] {
                state[j] += a * d;
            }
        }
        0.5 * (before + along(state))
    }

    fn is_quadratic(&self) -> bool {
        true
    }
}

/// Labels for the nodes of a graph, some of which are known: minimises over the others
/// `½ Σ w_ij (y_i − y_j)²`, the sum over the edges.
///
/// ```
/// use nabla_solve::block_coordinate_descent::{
///     BlockCoordinateDescentConfig, LabelPropagation, Penalty,
/// };
/// use std::ops::ControlFlow;
///
/// // A chain of five nodes with labels at its ends.
/// let edges = [(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0), (3, 4, 1.0)];
/// let known = [Some(0.0), None, None, None, Some(4.0)];
/// let graph = LabelPropagation::new(&edges, &known)?;
/// let found = BlockCoordinateDescentConfig::message_passing()
///     .solve(graph.quadratic(), &Penalty::None, None, &mut |_| ControlFlow::Continue(()))?;
/// let labels = graph.labels(&found.x)?;
/// assert!(labels.iter().enumerate().all(|(i, y)| (y - i as f64).abs() < 1e-9));
/// # Ok::<(), nabla_solve::block_coordinate_descent::BlockDescentError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LabelPropagation {
    quadratic: SparseQuadratic,
    /// The node of every coordinate.
    nodes: Vec<usize>,
    known: Vec<Option<f64>>,
}

impl LabelPropagation {
    /// Creates the problem from `edges` `(i, j, w_ij)` with positive weights, and the `known` labels,
    /// `[nodes]`.
    ///
    /// # Errors
    /// If an edge does not fit or its weight is not positive and finite, no label is missing, or a node
    /// without a label is not linked, even indirectly, to a labelled node.
    pub fn new(
        edges: &[(usize, usize, f64)],
        known: &[Option<f64>],
    ) -> Result<Self, BlockDescentError> {
        let n = known.len();
        let mut neighbours = vec![Vec::new(); n];
        for &(i, j, value) in edges {
            for coordinate in [i, j] {
                if coordinate >= n {
                    return Err(BlockDescentError::Coordinate {
                        name: "edge",
                        coordinate,
                        dimension: n,
                    });
                }
            }
            if i == j || !(value > 0.0 && value.is_finite()) {
                return Err(BlockDescentError::Entry { i, j, value });
            }
            neighbours[i].push(j);
            neighbours[j].push(i);
        }
        // Search outwards from the known labels.
        let mut reached: Vec<bool> = known.iter().map(Option::is_some).collect();
        let mut queue: VecDeque<usize> = (0..n).filter(|&i| reached[i]).collect();
        while let Some(i) = queue.pop_front() {
            for &j in &neighbours[i] {
                if !reached[j] {
                    reached[j] = true;
                    queue.push_back(j);
                }
            }
        }
        if let Some(node) = reached.iter().position(|r| !r) {
            return Err(BlockDescentError::Unreachable(node));
        }
        let nodes: Vec<usize> = (0..n).filter(|&i| known[i].is_none()).collect();
        if nodes.is_empty() {
            return Err(BlockDescentError::Empty("nodes without a label"));
        }
        let mut place = vec![None; n];
        for (at, &node) in nodes.iter().enumerate() {
            place[node] = Some(at);
        }
        let mut diagonal = vec![0.0; nodes.len()];
        let mut b = vec![0.0; nodes.len()];
        let mut entries = Vec::new();
        for &(i, j, w) in edges {
            match (place[i], place[j]) {
                (Some(a), Some(c)) => {
                    diagonal[a] += w;
                    diagonal[c] += w;
                    entries.push((a, c, -w));
                }
                (Some(a), None) => {
                    diagonal[a] += w;
                    b[a] += w * known[j].unwrap_or_default();
                }
                (None, Some(c)) => {
                    diagonal[c] += w;
                    b[c] += w * known[i].unwrap_or_default();
                }
                (None, None) => {}
            }
        }
        Ok(Self {
            quadratic: SparseQuadratic::new(&diagonal, &entries, b)?,
            nodes,
            known: known.to_vec(),
        })
    }

    /// The problem over the nodes without a label.
    pub fn quadratic(&self) -> &SparseQuadratic {
        &self.quadratic
    }

    /// The node of every coordinate of [`quadratic`](Self::quadratic).
    pub fn nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// The labels of all nodes from those found for the others.
    ///
    /// # Errors
    /// If `x` does not have a number for each node without a label.
    pub fn labels(&self, x: &[f64]) -> Result<Vec<f64>, BlockDescentError> {
        if x.len() != self.nodes.len() {
            return Err(BlockDescentError::Length {
                name: "solution",
                expected: self.nodes.len(),
                found: x.len(),
            });
        }
        let mut labels: Vec<f64> = self.known.iter().map(|y| y.unwrap_or_default()).collect();
        for (&node, &y) in self.nodes.iter().zip(x) {
            labels[node] = y;
        }
        Ok(labels)
    }
}

/// The graph of the paper's label propagation: an edge of weight 1 between every example and its `count`
/// nearest neighbours (Euclidean). `O(examples²)` distances.
///
/// # Errors
/// If there are too few examples for this number of neighbours, or `count` is 0.
pub fn nearest_neighbour_edges(
    rows: &LabelledRows,
    count: usize,
) -> Result<Vec<(usize, usize, f64)>, BlockDescentError> {
    let n = rows.len();
    if count == 0 || count >= n {
        return Err(BlockDescentError::Neighbours { count, examples: n });
    }
    let norms: Vec<f64> = (0..n)
        .map(|i| rows.row(i).map(|(_, v)| v * v).sum())
        .collect();
    let mut edges = BTreeMap::new();
    let mut dense = vec![0.0; rows.features()];
    for i in 0..n {
        for (column, value) in rows.row(i) {
            dense[column] = value;
        }
        let mut others: Vec<(f64, usize)> = (0..n)
            .filter(|&j| j != i)
            .map(|j| (norms[i] + norms[j] - 2.0 * rows.dot(j, &dense), j))
            .collect();
        others.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for &(_, j) in &others[..count] {
            edges.insert((i.min(j), i.max(j)), 1.0);
        }
        for (column, _) in rows.row(i) {
            dense[column] = 0.0;
        }
    }
    Ok(edges.into_iter().map(|((i, j), w)| (i, j, w)).collect())
}
