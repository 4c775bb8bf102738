//! Graphs of nodes that talk to their neighbours, the constants of gossip on them, and the best rates of it.
//!
//! Edge `(i, j)` gossips `λ_ij` times per unit of time. With `e_i` the unit vectors,
//!
//! ```text
//! Λ = Σ λ_ij (e_i − e_j)(e_i − e_j)ᵀ
//! χ₁ = 1 / (smallest positive eigenvalue of Λ)           how slowly the whole graph agrees
//! χ₂ = ½ max over edges of (e_i − e_j)ᵀ Λ⁺ (e_i − e_j)    half the largest resistance of an edge; χ₂ ≤ χ₁
//! ```
//!
//! Both fall as one over the rates. [DADAO](crate::dadao) needs `χ₁ χ₂ ≤ ½`. [`EdgeRates::uniform`] gives all edges the
//! same rate, the least that suffices; [`EdgeRates::optimal`] gives each its own, such that together they are least.
//! With a bound `u` for `2 χ₂` and for `1/χ₁` this is a semidefinite program:
//!
//! ```text
//! min Σ λ_ij   with   Λ ⪰ u (I − 11ᵀ/n),   (e_i − e_j)ᵀ (Λ + 11ᵀ/n)⁻¹ (e_i − e_j) ≤ u for every edge,   λ ≥ 0
//! ```
//!
//! The second condition is a linear matrix inequality by its Schur complement. The program is solved here by Newton's
//! method on its logarithmic barrier (Boyd, Vandenberghe, *Convex Optimization*, 2004, chapter 11), whose derivatives
//! need only `n × n` inverses and a system of as many unknowns as there are edges. The conic solver of this workspace
//! has semidefinite cones only together with a BLAS library.
//!
//! The weights of fastest mixing, which maximise the smallest eigenvalue alone, are others, and worse on a path.
//!
//! ```
//! use nabla_share::graph::{EdgeRates, Graph};
//!
//! let barbell = Graph::barbell(4)?;
//! let [uniform, optimal] = [EdgeRates::uniform(&barbell)?, EdgeRates::optimal(&barbell)?];
//! assert!((uniform.total() - 21.8418).abs() < 1e-3);
//! assert!((optimal.total() - 13.2054).abs() < 1e-3);
//! # Ok::<(), nabla_share::graph::GraphError>(())
//! ```
//!
//! Source: Nabli, Oyallon, *DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization*, ICML 2023, arXiv
//! 2208.00779 (the constants, and that a semidefinite relaxation gives rates; the program above is our own derivation).

use std::collections::BTreeSet;

use faer::linalg::solvers::{DenseSolveCore, SelfAdjointEigen, Solve};
use faer::{Mat, Side};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::SeededNoise;
use rand::RngExt;

/// The reason why a graph or its rates cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// An edge is none between two nodes of the graph.
    #[error("the edge from {from} to {to} does not join two of the {nodes} nodes")]
    Edge {
        /// One end.
        from: usize,
        /// The other end.
        to: usize,
        /// The number of nodes.
        nodes: usize,
    },
    /// The graph has several parts.
    #[error("the graph is not connected: there is no path from node 0 to node {node}")]
    Disconnected {
        /// A node of another part.
        node: usize,
    },
    /// The optimal rates were not found.
    #[error("the optimal rates cannot be computed: {0}; use uniform rates")]
    Solver(&'static str),
}

/// A connected graph without directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    nodes: usize,
    edges: Vec<(usize, usize)>,
}

impl Graph {
    /// A graph of `nodes` nodes, at least 2, with these edges. An edge given twice, in any direction, counts once.
    ///
    /// # Errors
    /// If there are fewer nodes, an edge is none between two of them, or the graph is not connected.
    pub fn new(
        nodes: usize,
        edges: impl IntoIterator<Item = (usize, usize)>,
    ) -> Result<Self, GraphError> {
        range::at_least("number of nodes", nodes, 2)?;
        let mut sorted = BTreeSet::new();
        for (from, to) in edges {
            if from == to || from.max(to) >= nodes {
                return Err(GraphError::Edge { from, to, nodes });
            }
            sorted.insert((from.min(to), from.max(to)));
        }
        let graph = Self {
            nodes,
            edges: sorted.into_iter().collect(),
        };
        let parts = graph.parts();
        match parts.iter().position(|&part| part != 0) {
            Some(node) => Err(GraphError::Disconnected { node }),
            None => Ok(graph),
        }
    }

    /// `0 – 1 – … – (nodes − 1)`.
    ///
    /// # Errors
    /// If there are fewer than 2 nodes.
    pub fn path(nodes: usize) -> Result<Self, GraphError> {
        Self::new(nodes, (1..nodes).map(|node| (node - 1, node)))
    }

    /// A path whose ends are joined.
    ///
    /// # Errors
    /// If there are fewer than 3 nodes.
    pub fn ring(nodes: usize) -> Result<Self, GraphError> {
        range::at_least("number of nodes of a ring", nodes, 3)?;
        Self::new(nodes, (0..nodes).map(|node| (node, (node + 1) % nodes)))
    }

    /// Node 0 in the middle of all others.
    ///
    /// # Errors
    /// If there are fewer than 2 nodes.
    pub fn star(nodes: usize) -> Result<Self, GraphError> {
        Self::new(nodes, (1..nodes).map(|node| (0, node)))
    }

    /// `rows × columns` nodes, row by row, each joined to those beside, above and below it.
    ///
    /// # Errors
    /// If there are fewer than 2 nodes.
    pub fn grid(rows: usize, columns: usize) -> Result<Self, GraphError> {
        let nodes = rows * columns;
        let right = (0..nodes).filter(|node| (node + 1) % columns != 0);
        let below = (0..nodes.saturating_sub(columns)).map(|node| (node, node + columns));
        Self::new(nodes, right.map(|node| (node, node + 1)).chain(below))
    }

    /// All nodes joined to each other.
    ///
    /// # Errors
    /// If there are fewer than 2 nodes.
    pub fn complete(nodes: usize) -> Result<Self, GraphError> {
        Self::new(nodes, pairs(0, nodes))
    }

    /// Two complete graphs of `half` nodes each, joined by one edge.
    ///
    /// # Errors
    /// If a half has no nodes.
    pub fn barbell(half: usize) -> Result<Self, GraphError> {
        range::at_least("number of nodes of half a barbell", half, 1)?;
        let bridge = [(half - 1, half)];
        let halves = pairs(0, half).chain(pairs(half, 2 * half));
        Self::new(2 * half, halves.chain(bridge))
    }

    /// Random points of the unit square, joined if they are at most `radius` apart; then the nearest points of
    /// different parts, until the graph is connected.
    ///
    /// # Errors
    /// If there are fewer than 2 nodes, or the radius is negative or not finite.
    pub fn random_geometric(nodes: usize, radius: f64, seed: u64) -> Result<Self, GraphError> {
        range::at_least("number of nodes", nodes, 2)?;
        range::not_negative("radius", radius)?;
        let mut noise = SeededNoise::new(seed, 0);
        let points: Vec<[f64; 2]> = (0..nodes).map(|_| noise.random()).collect();
        let distance = |(i, j): (usize, usize)| {
            (points[i][0] - points[j][0]).hypot(points[i][1] - points[j][1])
        };
        let near = pairs(0, nodes).filter(|&pair| distance(pair) <= radius);
        let mut graph = Self {
            nodes,
            edges: near.collect(),
        };
        loop {
            let parts = graph.parts();
            let between = pairs(0, nodes).filter(|&(i, j)| parts[i] != parts[j]);
            let nearest = between.min_by(|&a, &b| distance(a).total_cmp(&distance(b)));
            let Some(edge) = nearest else {
                return Self::new(nodes, graph.edges);
            };
            graph.edges.push(edge);
        }
    }

    /// The number of nodes.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The edges, in order, each with its smaller end first.
    pub fn edges(&self) -> &[(usize, usize)] {
        &self.edges
    }

    /// `Λ`.
    fn weighted(&self, rates: &[f64]) -> Mat<f64> {
        let mut matrix = Mat::zeros(self.nodes, self.nodes);
        for (&(i, j), rate) in self.edges.iter().zip(rates) {
            matrix[(i, i)] += rate;
            matrix[(j, j)] += rate;
            matrix[(i, j)] -= rate;
            matrix[(j, i)] -= rate;
        }
        matrix
    }

    /// The eigenvalues of `Λ`, in increasing order, and its eigenvectors.
    fn eigen(&self, rates: &[f64]) -> Result<SelfAdjointEigen<f64>, GraphError> {
        let found = self.weighted(rates).self_adjoint_eigen(Side::Lower);
        found.map_err(|_| GraphError::Solver("the Laplacian has no eigenvalues"))
    }

    /// The smallest positive and the largest eigenvalue of the Laplacian `D − A`.
    ///
    /// # Errors
    /// If they cannot be computed.
    pub fn extreme_eigenvalues(&self) -> Result<[f64; 2], GraphError> {
        let decomposition = self.eigen(&vec![1.0; self.edges.len()])?;
        Ok([decomposition.S()[1], decomposition.S()[self.nodes - 1]])
    }

    /// The smallest node of each node's part.
    fn parts(&self) -> Vec<usize> {
        let mut part: Vec<usize> = (0..self.nodes).collect();
        loop {
            let before = part.clone();
            for &(i, j) in &self.edges {
                let least = part[i].min(part[j]);
                (part[i], part[j]) = (least, least);
            }
            if part == before {
                return part;
            }
        }
    }
}

fn pairs(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    (from..to).flat_map(move |i| (i + 1..to).map(move |j| (i, j)))
}

/// The constants of gossip; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraphSpectrum {
    /// `χ₁`.
    pub chi1: f64,
    /// `χ₂`.
    pub chi2: f64,
}

/// How often each edge of a graph gossips per unit of time.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeRates {
    graph: Graph,
    rates: Vec<f64>,
    spectrum: GraphSpectrum,
}

impl EdgeRates {
    /// - `rates`: `λ_ij` of every edge of the graph, in order
    ///
    /// # Errors
    /// If there is another number of rates, one is negative or not finite, or the edges with positive rates do not
    /// connect the graph.
    pub fn new(graph: &Graph, rates: Vec<f64>) -> Result<Self, GraphError> {
        let edges = graph.edges.len();
        let name = "number of rates";
        range::within(name, rates.len(), edges..=edges)?;
        for &rate in &rates {
            range::not_negative("rate of an edge", rate)?;
        }
        let used = graph
            .edges
            .iter()
            .zip(&rates)
            .filter(|(_, rate)| **rate > 0.0);
        Graph::new(graph.nodes, used.map(|(&edge, _)| edge))?;
        let decomposition = graph.eigen(&rates)?;
        let (values, vectors) = (decomposition.S(), decomposition.U());
        // In increasing order; the first is that of the constant vector.
        let resistance = |&(i, j): &(usize, usize)| -> f64 {
            let part = |k: usize| (vectors[(i, k)] - vectors[(j, k)]).powi(2) / values[k];
            (1..graph.nodes).map(part).sum()
        };
        let spectrum = GraphSpectrum {
            chi1: 1.0 / values[1],
            chi2: 0.5 * graph.edges.iter().map(resistance).fold(0.0, f64::max),
        };
        Ok(Self {
            graph: graph.clone(),
            rates,
            spectrum,
        })
    }

    /// The same rate for all edges, the least with `χ₁ χ₂ ≤ ½`.
    ///
    /// # Errors
    /// If the eigenvalues of the graph cannot be computed.
    pub fn uniform(graph: &Graph) -> Result<Self, GraphError> {
        Self::new(graph, vec![1.0; graph.edges.len()])?.just_enough()
    }

    /// The rates with `χ₁ χ₂ ≤ ½` whose sum is least, to about six digits.
    ///
    /// # Errors
    /// If Newton's method fails.
    pub fn optimal(graph: &Graph) -> Result<Self, GraphError> {
        Self::new(graph, Barrier::new(graph).minimum()?)?.just_enough()
    }

    /// Scaled such that `χ₁ χ₂ = ½`.
    fn just_enough(self) -> Result<Self, GraphError> {
        let scale = (2.0 * self.spectrum.chi1 * self.spectrum.chi2).sqrt();
        // A little more, so that rounding does not break the condition.
        let scale = scale * (1.0 + 1e-12);
        let rates = self.rates.iter().map(|rate| scale * rate).collect();
        Self::new(&self.graph, rates)
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// `λ_ij`, in the order of the graph's edges.
    pub fn rates(&self) -> &[f64] {
        &self.rates
    }

    /// `Σ λ_ij`, the messages per unit of time.
    pub fn total(&self) -> f64 {
        self.rates.iter().sum()
    }

    /// `χ₁` and `χ₂`.
    pub fn spectrum(&self) -> GraphSpectrum {
        self.spectrum
    }
}

/// The barrier of the program: `t Σ λ − log det(Λ + J − u (I − J)) − Σ log(u − R_e) − Σ log λ`, with `J = 11ᵀ/n` and
/// the resistances `R_e`. Its variables are the `λ` of all edges, and then `u`.
struct Barrier<'a> {
    graph: &'a Graph,
}

/// What the barrier is made of at a point.
struct At {
    /// `bᵀ (Λ + J)⁻¹ b` for all pairs of edges, `b = e_i − e_j`.
    resistances: Mat<f64>,
    /// `(Λ + J − u (I − J))⁻¹`.
    inverse: Mat<f64>,
    log_determinant: f64,
}

impl<'a> Barrier<'a> {
    const TOLERANCE: f64 = 1e-7;

    fn new(graph: &'a Graph) -> Self {
        Self { graph }
    }

    /// `None` if the point is not inside.
    fn at(&self, x: &[f64]) -> Option<At> {
        let n = self.graph.nodes;
        let (u, rates) = x.split_last()?;
        if rates.iter().any(|&rate| rate <= 0.0) {
            return None;
        }
        let mean = 1.0 / n as f64;
        let laplacian = self.graph.weighted(rates);
        let whole = Mat::from_fn(n, n, |i, j| laplacian[(i, j)] + mean);
        let less = Mat::from_fn(n, n, |i, j| whole[(i, j)] - u * (f64::from(i == j) - mean));
        let whole = whole.llt(Side::Lower).ok()?.inverse();
        let less = less.llt(Side::Lower).ok()?;
        let log_determinant = (0..n).map(|i| 2.0 * less.L()[(i, i)].ln()).sum();
        let resistances = self.between_edges(&whole);
        let edges = self.graph.edges.len();
        (0..edges).all(|e| resistances[(e, e)] < *u).then(|| At {
            resistances,
            inverse: less.inverse(),
            log_determinant,
        })
    }

    /// `bᵀ M b'` for all pairs of edges.
    fn between_edges(&self, matrix: &Mat<f64>) -> Mat<f64> {
        let edges = &self.graph.edges;
        Mat::from_fn(edges.len(), edges.len(), |e, f| {
            let ((i, j), (k, l)) = (edges[e], edges[f]);
            matrix[(i, k)] - matrix[(i, l)] - matrix[(j, k)] + matrix[(j, l)]
        })
    }

    fn value(&self, t: f64, x: &[f64], at: &At) -> f64 {
        let edges = self.graph.edges.len();
        let u = x[edges];
        let slack = |e: usize| (u - at.resistances[(e, e)]).ln() + x[e].ln();
        let linear = t * x[..edges].iter().sum::<f64>();
        linear - at.log_determinant - (0..edges).map(slack).sum::<f64>()
    }

    /// The step of Newton's method, and the slope of the barrier along it.
    fn newton(&self, t: f64, x: &[f64], at: &At) -> Result<(Vec<f64>, f64), GraphError> {
        let edges = self.graph.edges.len();
        let (k, inverse) = (&at.resistances, &at.inverse);
        let n = self.between_edges(inverse);
        let squared = inverse * inverse;
        let n_squared = self.between_edges(&squared);
        let trace = |matrix: &Mat<f64>| (0..self.graph.nodes).map(|i| matrix[(i, i)]).sum::<f64>();
        let slack: Vec<f64> = (0..edges).map(|e| x[edges] - k[(e, e)]).collect();
        let scaled = Mat::from_fn(edges, edges, |e, f| k[(e, f)] / slack[e]);
        let curvature = k.transpose() * &scaled;
        // By the slack's derivatives, K_ef² and 1.
        let share = Mat::from_fn(edges, edges, |e, f| k[(e, f)].powi(2) / slack[e]);
        let outer = share.transpose() * &share;
        let mut gradient = vec![0.0; edges + 1];
        let mut hessian = Mat::zeros(edges + 1, edges + 1);
        for f in 0..edges {
            let sum: f64 = (0..edges).map(|e| share[(e, f)]).sum();
            gradient[f] = t - n[(f, f)] - sum - 1.0 / x[f];
            for g in 0..edges {
                hessian[(f, g)] =
                    n[(f, g)].powi(2) + outer[(f, g)] + 2.0 * k[(f, g)] * curvature[(f, g)];
            }
            hessian[(f, f)] += x[f].powi(-2);
            let mixed: f64 = (0..edges).map(|e| share[(e, f)] / slack[e]).sum();
            hessian[(f, edges)] = mixed - n_squared[(f, f)];
            hessian[(edges, f)] = hessian[(f, edges)];
        }
        // The constant vector, on which the determinant does not depend, has the eigenvalue 1.
        gradient[edges] = trace(inverse) - 1.0 - slack.iter().map(|s| 1.0 / s).sum::<f64>();
        hessian[(edges, edges)] =
            trace(&squared) - 1.0 + slack.iter().map(|s| s.powi(-2)).sum::<f64>();
        let failed = |_| GraphError::Solver("the barrier is not convex to rounding");
        let factor = hessian.llt(Side::Lower).map_err(failed)?;
        let right = Mat::from_fn(edges + 1, 1, |f, _| -gradient[f]);
        let solved = factor.solve(&right);
        let step: Vec<f64> = (0..=edges).map(|f| solved[(f, 0)]).collect();
        let slope = nabla_base::vector::dot(&gradient, &step);
        Ok((step, slope))
    }

    /// The rates, up to their scale.
    fn minimum(&self) -> Result<Vec<f64>, GraphError> {
        let edges = self.graph.edges.len();
        let even = EdgeRates::new(self.graph, vec![1.0; edges])?.spectrum;
        // With u = 1, rates above 2 χ₂ and χ₁ are inside.
        let mut x = vec![2.0 * even.chi1.max(2.0 * even.chi2); edges];
        x.push(1.0);
        let conditions = (self.graph.nodes - 1 + 2 * edges) as f64;
        let outside = || GraphError::Solver("a point left the feasible set");
        let mut t = conditions / x[..edges].iter().sum::<f64>();
        while conditions / t > Self::TOLERANCE * x[..edges].iter().sum::<f64>() {
            t *= 8.0;
            for _ in 0..100 {
                let at = self.at(&x).ok_or_else(outside)?;
                let (step, slope) = self.newton(t, &x, &at)?;
                if -slope < 1e-8 {
                    break;
                }
                let value = self.value(t, &x, &at);
                let moved = |length: f64| -> Vec<f64> {
                    x.iter().zip(&step).map(|(x, s)| x + length * s).collect()
                };
                let lengths = std::iter::successors(Some(1.0), |length| Some(0.5 * length));
                let better = lengths.take(50).map(moved).find(|candidate| {
                    let at = self.at(candidate);
                    at.is_some_and(|at| self.value(t, candidate, &at) < value)
                });
                match better {
                    Some(better) => x = better,
                    // Rounding hides what is left to gain.
                    None => break,
                }
            }
        }
        x.truncate(edges);
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `χ₁` and `χ₂` for uniform rates whose sum is 1, the least total rate, and that of the optimal rates.
    #[test]
    fn the_constants_are_those_of_the_table() {
        let chis = |chi1, chi2| Some([chi1, chi2]);
        let table = [
            (Graph::path(8), chis(45.9797, 3.5), 17.9404, 17.9404),
            (Graph::ring(8), chis(13.6569, 3.5), 9.7774, 9.7774),
            (Graph::star(8), chis(7.0, 3.5), 7.0, 7.0),
            (Graph::complete(8), chis(3.5, 3.5), 4.9497, 4.9497),
            (Graph::grid(3, 3), chis(12.0, 4.25), 10.0995, 9.8337),
            (Graph::barbell(4), chis(36.6974, 6.5), 21.8418, 13.2054),
            (Graph::ring(16), chis(105.0966, 7.5), 39.7045, 39.7045),
            (Graph::path(16), chis(390.3258, 7.5), 76.5172, 76.5172),
            (Graph::grid(4, 4), None, 26.3, 24.8897),
            (Graph::barbell(8), None, 126.1, 32.9239),
        ];
        for (graph, chis, uniform, optimal) in table {
            let graph = graph.unwrap();
            let edges = graph.edges().len();
            let near = |found: f64, expected: f64, tolerance: f64| {
                let error = (found / expected - 1.0).abs();
                assert!(error < tolerance, "{graph:?}: {found} for {expected}");
            };
            let normal = EdgeRates::new(&graph, vec![1.0 / edges as f64; edges]).unwrap();
            if let Some([chi1, chi2]) = chis {
                near(normal.spectrum().chi1, chi1, 1e-5);
                near(normal.spectrum().chi2, chi2, 1e-5);
            }
            let even = EdgeRates::uniform(&graph).unwrap();
            near(
                even.total(),
                uniform,
                if chis.is_some() { 1e-5 } else { 2e-3 },
            );
            let best = EdgeRates::optimal(&graph).unwrap();
            near(best.total(), optimal, 1e-5);
            for rates in [even, best] {
                let GraphSpectrum { chi1, chi2 } = rates.spectrum();
                assert!(chi1 * chi2 <= 0.5 && chi1 * chi2 > 0.499_999);
            }
        }
    }

    #[test]
    fn random_graphs_are_connected_and_their_seeds_repeat_them() {
        for seed in 0..5 {
            let graph = Graph::random_geometric(20, 0.15, seed).unwrap();
            assert_eq!(graph, Graph::random_geometric(20, 0.15, seed).unwrap());
            assert!(graph.edges().len() >= 19);
            let even = EdgeRates::uniform(&graph).unwrap().total();
            assert!(EdgeRates::optimal(&graph).unwrap().total() <= even * (1.0 + 1e-6));
        }
        let all = Graph::random_geometric(6, 2.0, 0).unwrap();
        assert_eq!(all, Graph::complete(6).unwrap());
    }

    #[test]
    fn what_is_no_connected_graph_is_refused() {
        let error = Graph::new(4, [(0, 1), (2, 3)]).unwrap_err().to_string();
        assert_eq!(
            error,
            "the graph is not connected: there is no path from node 0 to node 2"
        );
        let error = Graph::new(3, [(0, 3)]).unwrap_err().to_string();
        assert_eq!(
            error,
            "the edge from 0 to 3 does not join two of the 3 nodes"
        );
        assert!(Graph::new(3, [(1, 1)]).is_err() && Graph::path(1).is_err());
        assert!(Graph::ring(2).is_err() && Graph::grid(0, 3).is_err());
        let path = Graph::path(3).unwrap();
        assert!(EdgeRates::new(&path, vec![1.0]).is_err());
        assert!(EdgeRates::new(&path, vec![1.0, 0.0]).is_err());
        assert!(EdgeRates::new(&path, vec![1.0, f64::NAN]).is_err());
    }
}
