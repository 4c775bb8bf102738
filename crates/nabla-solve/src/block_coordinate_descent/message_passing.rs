//! Huge blocks whose coordinates form a forest: exact updates in linear time by message passing, and
//! partitions of a graph into forests or into sets without edges.
//!
//! A block update solves `H_bb d = −∇_b f`. Where the graph of the entries of `H_bb` off its diagonal
//! has no cycles, Gaussian elimination from the leaves to the roots creates no new entries:
//!
//! ```text
//! leaves to roots   P_i = H_ii − Σ_children H_ic² / P_c      v_i = r_i − Σ_children H_ic v_c / P_c
//! roots to leaves   d_i = (v_i − H_ip d_p) / P_i
//! ```
//!
//! which are the messages of Gaussian belief propagation (Shental et al., *Gaussian belief propagation solver
//! for systems of linear equations*, 2008) each sent once, so that a block of half of all coordinates costs
//! no more than its entries.

use serde::{Deserialize, Serialize};

use super::BlockDescentError;

/// Solves `H d = r` for a symmetric positive definite `H` whose graph is a forest, in
/// `O(diagonal + edges)`.
///
/// - `diagonal`: `H_ii`, `[n]`
/// - `edges`: `(i, j, H_ij)`, each pair once
/// - `right`: `r`, `[n]`
///
/// ```
/// use nabla_solve::block_coordinate_descent::solve_forest;
/// // [2 −1; −1 2] d = [1, 0]
/// let d = solve_forest(&[2.0, 2.0], &[(0, 1, -1.0)], &[1.0, 0.0])?;
/// assert!((d[0] - 2.0 / 3.0).abs() < 1e-15 && (d[1] - 1.0 / 3.0).abs() < 1e-15);
/// # Ok::<(), nabla_solve::block_coordinate_descent::BlockDescentError>(())
/// ```
///
/// # Errors
/// [`BlockDescentError::NotForest`] if there is a cycle, [`BlockDescentError::NotPositiveDefinite`] if
/// a pivot is not positive, and [`BlockDescentError::Length`] or [`BlockDescentError::Coordinate`] for
/// sizes that do not fit.
pub fn solve_forest(
    diagonal: &[f64],
    edges: &[(usize, usize, f64)],
    right: &[f64],
) -> Result<Vec<f64>, BlockDescentError> {
    let n = diagonal.len();
    if right.len() != n {
        return Err(BlockDescentError::Length {
            name: "right side",
            expected: n,
            found: right.len(),
        });
    }
    let mut neighbours = vec![Vec::new(); n];
    for &(i, j, value) in edges {
        if let Some(&coordinate) = [i, j].iter().find(|&&k| k >= n) {
            return Err(BlockDescentError::Coordinate {
                name: "edge",
                coordinate,
                dimension: n,
            });
        }
        if i == j {
            return Err(BlockDescentError::NotForest { coordinate: i });
        }
        neighbours[i].push((j, value));
        neighbours[j].push((i, value));
    }
    // Roots before their children.
    let mut order = Vec::with_capacity(n);
    let mut parent: Vec<Option<(usize, f64)>> = vec![None; n];
    let mut seen = vec![false; n];
    for root in 0..n {
        if seen[root] {
            continue;
        }
        seen[root] = true;
        let mut next = order.len();
        order.push(root);
        while let Some(&i) = order.get(next) {
            next += 1;
            let mut to_parent = parent[i].map(|(p, _)| p);
            for &(j, value) in &neighbours[i] {
                if to_parent == Some(j) {
                    // A second edge to the same node would be a cycle.
                    to_parent = None;
                } else if seen[j] {
                    return Err(BlockDescentError::NotForest { coordinate: j });
                } else {
                    seen[j] = true;
                    parent[j] = Some((i, value));
                    order.push(j);
                }
            }
        }
    }
    let mut pivot = diagonal.to_vec();
    let mut v = right.to_vec();
    for &i in order.iter().rev() {
        if pivot[i].is_nan() || pivot[i] <= 0.0 {
            return Err(BlockDescentError::NotPositiveDefinite { coordinate: i });
        }
        if let Some((p, value)) = parent[i] {
            let ratio = value / pivot[i];
            pivot[p] -= ratio * value;
            v[p] -= ratio * v[i];
        }
    }
    for &i in &order {
        let from_parent = parent[i].map_or(0.0, |(p, value)| value * v[p]);
        v[i] = (v[i] - from_parent) / pivot[i];
    }
    Ok(v)
}

/// The order in which the coordinates are assigned to the sets of a graph partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DealOrder {
    /// In their own order.
    Index,
    /// Coordinates with large Lipschitz constants first, so that they are together.
    #[default]
    Lipschitz,
}

/// Growing trees over the nodes of a graph.
#[derive(Clone, Debug)]
struct Forest {
    /// The representative of each node's tree; `None` if the node is not in a tree.
    parent: Vec<Option<usize>>,
}

impl Forest {
    fn new(nodes: usize) -> Self {
        Self {
            parent: vec![None; nodes],
        }
    }

    fn root(&mut self, mut i: usize) -> usize {
        while let Some(p) = self.parent[i] {
            if p == i {
                break;
            }
            self.parent[i] = self.parent[p];
            i = p;
        }
        i
    }

    /// Adds node `i` unless that closes a cycle; returns whether it was added.
    fn add(&mut self, i: usize, neighbours: &[usize]) -> bool {
        let mut trees: Vec<usize> = Vec::new();
        for &j in neighbours {
            if self.parent[j].is_some() {
                let tree = self.root(j);
                if trees.contains(&tree) {
                    return false;
                }
                trees.push(tree);
            }
        }
        self.parent[i] = Some(i);
        for tree in trees {
            self.parent[tree] = Some(i);
        }
        true
    }
}

/// Divides the nodes of a graph into sets that are forests: every node goes to the first set in which it
/// closes no cycle. `neighbours[i]` are the nodes to which `i` is linked, without `i` itself; `order` is the
/// order of assignment.
pub fn forest_partition(neighbours: &[Vec<usize>], order: &[usize]) -> Vec<Vec<usize>> {
    let mut sets: Vec<(Forest, Vec<usize>)> = Vec::new();
    for &i in order {
        let place = sets
            .iter_mut()
            .find_map(|(forest, set)| forest.add(i, &neighbours[i]).then_some(set));
        match place {
            Some(set) => set.push(i),
            None => {
                let mut forest = Forest::new(neighbours.len());
                forest.add(i, &[]);
                sets.push((forest, vec![i]));
            }
        }
    }
    sorted(sets.into_iter().map(|(_, set)| set).collect())
}

/// Divides the nodes of a graph into sets without edges, by colouring: among the colours that no neighbour
/// has, every node takes the one with the fewest nodes so far. A chain or a lattice, assigned in the order of
/// the index, gets two colours: red and black.
pub fn red_black_partition(neighbours: &[Vec<usize>], order: &[usize]) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = Vec::new();
    let mut colour = vec![None; neighbours.len()];
    for &i in order {
        let free = (0..sets.len())
            .filter(|c| !neighbours[i].iter().any(|&j| colour[j] == Some(*c)))
            .min_by_key(|&c| sets[c].len());
        let c = free.unwrap_or(sets.len());
        if c == sets.len() {
            sets.push(Vec::new());
        }
        sets[c].push(i);
        colour[i] = Some(c);
    }
    sorted(sets)
}

/// The two trees of a lattice of `rows x columns` nodes, numbered down the columns: two combs whose teeth are
/// every second column and whose spines are the first and the last row. `None` for a lattice with fewer than
/// two rows or columns.
pub fn lattice_trees(rows: usize, columns: usize) -> Option<[Vec<usize>; 2]> {
    if rows < 2 || columns < 2 {
        return None;
    }
    let mut trees = [Vec::new(), Vec::new()];
    for column in 0..columns {
        for row in 0..rows {
            let first = if row == 0 {
                true
            } else if row == rows - 1 {
                false
            } else {
                column % 2 == 0
            };
            trees[usize::from(!first)].push(column * rows + row);
        }
    }
    Some(trees)
}

/// The forest found by adding nodes in `order` if they close no cycle, sorted.
pub(super) fn greedy_forest(neighbours: &[Vec<usize>], order: &[usize]) -> Vec<usize> {
    let mut forest = Forest::new(neighbours.len());
    let mut block: Vec<usize> = order
        .iter()
        .copied()
        .filter(|&i| forest.add(i, &neighbours[i]))
        .collect();
    block.sort_unstable();
    block
}

fn sorted(mut sets: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    for set in &mut sets {
        set.sort_unstable();
    }
    sets
}
