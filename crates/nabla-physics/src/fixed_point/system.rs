//! The numbers of a map on the nodes of a graph.

use std::ops::Range;

use faer::Mat;
use faer::linalg::solvers::Solve;

use super::{FixedPointError, FixedPointSolver, Nonlinearity, most_steps};

/// A map with its numbers, row after row: `heads` of them for each node and edge.
#[derive(Debug)]
pub(super) struct System {
    /// The nodes and edges of each graph.
    pub(super) parts: Vec<(Range<usize>, Range<usize>)>,
    /// The row in the matrix of each edge.
    pub(super) rows: Vec<usize>,
    pub(super) cols: Vec<usize>,
    pub(super) heads: usize,
    pub(super) weights: Vec<f64>,
    pub(super) offsets: Vec<f64>,
    pub(super) gamma: f64,
    pub(super) nonlinearity: Nonlinearity,
}

/// Where steps have led.
pub(super) struct Reached {
    pub(super) z: Vec<f64>,
    pub(super) iterations: usize,
    pub(super) residual: f64,
    pub(super) converged: bool,
}

/// One of the two maps.
#[derive(Clone, Copy)]
enum Which<'a> {
    /// `z ← φ(γ A z + b)`
    Forward,
    /// `u ← g + γ Aᵀ D u`
    Adjoint {
        gradient: &'a [f64],
        slopes: &'a [f64],
    },
}

impl System {
    pub(super) fn contraction_factor(&self) -> f64 {
        let mut sums = vec![0.0; self.offsets.len()];
        for (edge, &row) in self.rows.iter().enumerate() {
            for head in 0..self.heads {
                sums[row * self.heads + head] += self.weights[edge * self.heads + head].abs();
            }
        }
        self.gamma * sums.into_iter().fold(0.0, f64::max)
    }

    pub(super) fn solve(&self, solver: &FixedPointSolver) -> Result<Reached, FixedPointError> {
        let reached = match *solver {
            FixedPointSolver::Direct => return self.direct(),
            FixedPointSolver::Picard { .. } => self.steps(Which::Forward, solver)?,
            FixedPointSolver::Official { .. } => return self.steps(Which::Forward, solver),
        };
        match reached.converged {
            true => Ok(reached),
            false => Err(FixedPointError::NotConverged {
                iterations: reached.iterations,
                residual: reached.residual,
            }),
        }
    }

    /// `u`.
    pub(super) fn adjoint(
        &self,
        solver: &FixedPointSolver,
        z: &[f64],
        gradient: &[f64],
    ) -> Result<Vec<f64>, FixedPointError> {
        let slopes: Vec<f64> = z.iter().map(|&z| self.nonlinearity.slope(z)).collect();
        let which = Which::Adjoint {
            gradient,
            slopes: &slopes,
        };
        if *solver == FixedPointSolver::Direct {
            return self.eliminated(which);
        }
        let reached = self.steps(which, solver)?;
        let official = matches!(solver, FixedPointSolver::Official { .. });
        match reached.converged || official {
            true => Ok(reached.z),
            false => Err(FixedPointError::NotConverged {
                iterations: reached.iterations,
                residual: reached.residual,
            }),
        }
    }

    /// The gradients by offsets and weights.
    pub(super) fn pull(
        &self,
        solver: &FixedPointSolver,
        z: &[f64],
        gradient: &[f64],
    ) -> Option<(Vec<f64>, Vec<f64>)> {
        let mut by_offsets = self.adjoint(solver, z, gradient).ok()?;
        for (u, &z) in by_offsets.iter_mut().zip(z) {
            *u *= self.nonlinearity.slope(z);
        }
        let mut by_weights = Vec::with_capacity(self.weights.len());
        for (&row, &col) in self.rows.iter().zip(&self.cols) {
            let [row, col] = [row, col].map(|node| node * self.heads..(node + 1) * self.heads);
            let pairs = by_offsets[row].iter().zip(&z[col]);
            by_weights.extend(pairs.map(|(u, z)| self.gamma * u * z));
        }
        Some((by_offsets, by_weights))
    }

    /// One step of the nodes of a part: `next` from `now`.
    fn step(
        &self,
        which: Which<'_>,
        part: &(Range<usize>, Range<usize>),
        now: &[f64],
        next: &mut [f64],
    ) {
        let heads = self.heads;
        let (nodes, edges) = part;
        let own = nodes.start * heads..nodes.end * heads;
        next[own.clone()].fill(0.0);
        for edge in edges.clone() {
            let (row, col) = (self.rows[edge] * heads, self.cols[edge] * heads);
            let weights = &self.weights[edge * heads..(edge + 1) * heads];
            match which {
                Which::Forward => {
                    let (to, from) = (&mut next[row..row + heads], &now[col..col + heads]);
                    for ((to, &from), &weight) in to.iter_mut().zip(from).zip(weights) {
                        *to += weight * from;
                    }
                }
                Which::Adjoint { slopes, .. } => {
                    let (to, from) = (&mut next[col..col + heads], &now[row..row + heads]);
                    let slopes = &slopes[row..row + heads];
                    for (((to, &from), &weight), &slope) in
                        to.iter_mut().zip(from).zip(weights).zip(slopes)
                    {
                        *to += weight * slope * from;
                    }
                }
            }
        }
        for place in own {
            next[place] = match which {
                Which::Forward => {
                    let x = self.gamma * next[place] + self.offsets[place];
                    self.nonlinearity.value(x)
                }
                Which::Adjoint { gradient, .. } => gradient[place] + self.gamma * next[place],
            };
        }
    }

    fn steps(
        &self,
        which: Which<'_>,
        solver: &FixedPointSolver,
    ) -> Result<Reached, FixedPointError> {
        let size = self.offsets.len();
        let mut now = vec![0.0; size];
        let mut next = vec![0.0; size];
        let mut reached = Reached {
            z: Vec::new(),
            iterations: 0,
            residual: 0.0,
            converged: true,
        };
        match *solver {
            FixedPointSolver::Picard { tolerance, most } => {
                let factor = self.contraction_factor();
                let most = match most {
                    Some(most) => most,
                    // Some steps more than in exact arithmetic.
                    None if factor > 0.0 && factor < 1.0 => most_steps(factor, tolerance)? + 2,
                    None if factor == 0.0 => 2,
                    None => 1000,
                };
                for part in &self.parts {
                    let own = part.0.start * self.heads..part.0.end * self.heads;
                    let scale = match which {
                        Which::Forward => greatest(self.offsets[own.clone()].iter().copied()),
                        // The adjoint contracts in the norm of sums.
                        Which::Adjoint { gradient, .. } => {
                            sizes(gradient[own.clone()].iter().copied())
                        }
                    };
                    let (mut iterations, mut moved) = (0, f64::INFINITY);
                    while moved > tolerance && iterations < most {
                        self.step(which, part, &now, &mut next);
                        let pairs = now[own.clone()].iter().zip(&next[own.clone()]);
                        let apart = pairs.map(|(a, b)| b - a);
                        let length = match which {
                            Which::Forward => greatest(apart),
                            Which::Adjoint { .. } => sizes(apart),
                        };
                        moved = if length == 0.0 { 0.0 } else { length / scale };
                        now[own.clone()].copy_from_slice(&next[own.clone()]);
                        iterations += 1;
                        if !moved.is_finite() {
                            moved = f64::INFINITY;
                            break;
                        }
                    }
                    reached.iterations = reached.iterations.max(iterations);
                    reached.residual = reached.residual.max(moved);
                    reached.converged &= moved <= tolerance;
                }
            }
            FixedPointSolver::Official { tolerance, most } => {
                reached.converged = false;
                let scale = greatest(self.offsets.iter().copied());
                while !reached.converged && reached.iterations < most {
                    for part in &self.parts {
                        self.step(which, part, &now, &mut next);
                    }
                    let apart = now.iter().zip(&next).map(|(a, b)| b - a);
                    let length = apart.clone().map(|x| x * x).sum::<f64>().sqrt();
                    reached.residual = greatest(apart) / scale;
                    reached.converged = length <= tolerance;
                    reached.iterations += 1;
                    std::mem::swap(&mut now, &mut next);
                }
            }
            FixedPointSolver::Direct => return self.direct(),
        }
        reached.z = now;
        Ok(reached)
    }

    fn direct(&self) -> Result<Reached, FixedPointError> {
        if self.nonlinearity != Nonlinearity::Identity {
            return Err(FixedPointError::NotLinear(self.nonlinearity));
        }
        let z = self.eliminated(Which::Forward)?;
        let mut next = vec![0.0; z.len()];
        for part in &self.parts {
            self.step(Which::Forward, part, &z, &mut next);
        }
        let scale = greatest(self.offsets.iter().copied());
        let apart = greatest(z.iter().zip(&next).map(|(a, b)| b - a));
        Ok(Reached {
            z,
            iterations: 0,
            residual: if apart == 0.0 { 0.0 } else { apart / scale },
            converged: true,
        })
    }

    /// The solution of `(I − γ A) z = b` or `(I − γ Aᵀ D) u = g`, graph by graph and head by head.
    fn eliminated(&self, which: Which<'_>) -> Result<Vec<f64>, FixedPointError> {
        let heads = self.heads;
        let mut found = vec![0.0; self.offsets.len()];
        for (graph, (nodes, edges)) in self.parts.iter().enumerate() {
            for head in 0..heads {
                let mut matrix = Mat::<f64>::identity(nodes.len(), nodes.len());
                for edge in edges.clone() {
                    let (row, col) = (self.rows[edge], self.cols[edge]);
                    let weight = self.gamma * self.weights[edge * heads + head];
                    let [i, j] = [row, col].map(|node| node - nodes.start);
                    match which {
                        Which::Forward => matrix[(i, j)] -= weight,
                        Which::Adjoint { slopes, .. } => {
                            matrix[(j, i)] -= weight * slopes[row * heads + head];
                        }
                    }
                }
                let right = match which {
                    Which::Forward => &self.offsets[..],
                    Which::Adjoint { gradient, .. } => gradient,
                };
                let column = Mat::from_fn(nodes.len(), 1, |i, _| {
                    right[(nodes.start + i) * heads + head]
                });
                let solution = matrix.partial_piv_lu().solve(&column);
                for i in 0..nodes.len() {
                    if !solution[(i, 0)].is_finite() {
                        return Err(FixedPointError::Singular { graph, head });
                    }
                    found[(nodes.start + i) * heads + head] = solution[(i, 0)];
                }
            }
        }
        Ok(found)
    }
}

/// The greatest size; infinite if one is not a number.
fn greatest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |most: f64, x| match x.is_nan() {
        true => f64::INFINITY,
        false => most.max(x.abs()),
    })
}

/// The sum of sizes.
fn sizes(values: impl Iterator<Item = f64>) -> f64 {
    values.map(f64::abs).sum()
}
