//! The activation patterns `D = diag(1[X h ≥ 0])` of a data matrix: sampled, or all of them.
//!
//! `n` examples of rank `r` have at most `2 Σ_{k<r} C(n−1, k)` patterns (Cover's count of the cells of `n`
//! hyperplanes through the origin), which data in general position reach. This is `O(n^r)`, so the patterns
//! are sampled (algorithm 2.1 of the paper):
//!
//! ```text
//! h ~ N(0, I_d),  D = diag(1[X h ≥ 0]),  until P_s different ones are there
//! ```
//!
//! With probability at least `1 − ψ`, one more random pattern changes the optimum with a
//! probability of at most `ξ`, if
//!
//! ```text
//! P_s ≥ min{ (n+1)/(ψ ξ) − 1,  2/ξ · (n + 1 − log ψ) }
//! ```
//!
//! ([`sample_size`]), by the theory of sampled convex programs: the dual has `n` variables and a constraint
//! for each pattern. For adversarial training (algorithm 4.1), the patterns must cover the perturbed data, so
//! each `h` also gives the patterns of `X + ε sgn(R)`, `R ~ N(0, 1)`.

use std::collections::HashSet;

use faer::{Mat, MatRef};
use nabla_base::range;
use nabla_base::vector::dot;
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use super::error::ConvexReluError;
use super::problem::ConvexReluProblem;

/// Different activation patterns of the examples of a problem, with directions that generate them.
#[derive(Clone, Debug, PartialEq)]
pub struct ActivationPatterns {
    /// The diagonals of `D_1 … D_P` as columns of 0 and 1, `[n, P]`.
    active: Mat<f64>,
    /// `h_1 … h_P`, `[d, P]`, where `D_i = diag(1[X h_i ≥ 0])`; `None` if they came from elsewhere or from
    /// perturbed data.
    gates: Option<Mat<f64>>,
}

/// How patterns are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatternSampling {
    /// `P_s`, the requested number of different patterns.
    pub count: usize,
    /// The maximum number of drawn directions (`P_a` in the paper), because the data can have fewer patterns
    /// than requested.
    pub max_draws: usize,
    /// The seed of the directions.
    pub seed: u64,
}

impl PatternSampling {
    /// `count` patterns from at most `100 count` directions with seed 0.
    pub fn new(count: usize) -> Self {
        Self {
            count,
            max_draws: count.saturating_mul(100),
            seed: 0,
        }
    }

    /// Another limit of the directions.
    #[must_use]
    pub fn with_max_draws(mut self, max_draws: usize) -> Self {
        self.max_draws = max_draws;
        self
    }

    /// Another seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    fn check(self) -> Result<(), ConvexReluError> {
        range::at_least("number of patterns", self.count, 1)?;
        Ok(range::at_least(
            "number of directions that are drawn",
            self.max_draws,
            1,
        )?)
    }
}

impl ActivationPatterns {
    /// Draws patterns until there are [`count`](PatternSampling::count) different ones, or fewer if
    /// [`max_draws`](PatternSampling::max_draws) directions do not give as many.
    ///
    /// ```
    /// use nabla_solve::convex_relu::*;
    ///
    /// let examples = DenseExamples::new(&[[1.0, 0.0], [0.0, 1.0]], &[1.0, -1.0])?;
    /// let problem = ConvexReluProblem::new(&examples, Loss::Squared, 0.1, false)?;
    /// let patterns = ActivationPatterns::sample(&problem, PatternSampling::new(50))?;
    /// assert_eq!(patterns.len(), 4); // the quadrants
    /// # Ok::<(), ConvexReluError>(())
    /// ```
    ///
    /// # Errors
    /// If a count is 0.
    pub fn sample(
        problem: &ConvexReluProblem,
        sampling: PatternSampling,
    ) -> Result<Self, ConvexReluError> {
        sampling.check()?;
        let x = problem.design();
        let mut noise = SeededNoise::new(sampling.seed, 0);
        let mut set = PatternSet::new(x.nrows());
        let mut gates = Vec::new();
        for _ in 0..sampling.max_draws {
            if set.len() == sampling.count {
                break;
            }
            let h = direction(&mut noise, x.ncols());
            if set.insert(activations(x, &h)) {
                gates.push(h);
            }
        }
        Ok(Self {
            active: set.matrix(),
            gates: Some(columns(x.ncols(), &gates)),
        })
    }

    /// Like [`sample`](Self::sample), with the patterns of `copies` data sets for each direction: `X`
    /// itself and `copies − 1` random corners of the box of half-width `epsilon` around it (algorithm
    /// 4.1). The column of the bias is not perturbed.
    ///
    /// # Errors
    /// If a count is 0, or `epsilon` is negative or not finite.
    pub fn sample_perturbed(
        problem: &ConvexReluProblem,
        sampling: PatternSampling,
        epsilon: f64,
        copies: usize,
    ) -> Result<Self, ConvexReluError> {
        sampling.check()?;
        range::at_least("number of perturbed copies", copies, 1)?;
        range::not_negative("radius of the perturbations", epsilon)?;
        let x = problem.design();
        let mut noise = SeededNoise::new(sampling.seed, 0);
        let mut corners = SeededNoise::new(sampling.seed, 1);
        let mut set = PatternSet::new(x.nrows());
        for _ in 0..sampling.max_draws {
            if set.len() == sampling.count {
                break;
            }
            let h = direction(&mut noise, x.ncols());
            set.insert(activations(x, &h));
            for _ in 1..copies {
                if set.len() == sampling.count {
                    break;
                }
                let mut moved = x.to_owned();
                for k in 0..x.nrows() {
                    let signs = corners.normal_values(problem.features());
                    for (j, &sign) in signs.iter().enumerate() {
                        moved[(k, j)] += if sign >= 0.0 { epsilon } else { -epsilon };
                    }
                }
                set.insert(activations(moved.as_ref(), &h));
            }
        }
        Ok(Self {
            active: set.matrix(),
            gates: None,
        })
    }

    /// All patterns with a set of directions of positive measure, which make the convex program exact: the
    /// others belong to borders of the cells and add nothing.
    ///
    /// The cells are those of the hyperplanes `x_k·h = 0`. Each of them, within the row space of `X`,
    /// has an extreme ray where the hyperplanes of `r − 1` independent examples meet; the cells around
    /// a ray are those of the examples that vanish on it. So it costs
    /// `O(C(n, r−1) 2^(r−1) n r)`, for small ranks only.
    ///
    /// # Errors
    /// [`ConvexReluError::TooManyPatterns`] if the bound is above `limit`.
    pub fn enumerate(problem: &ConvexReluProblem, limit: usize) -> Result<Self, ConvexReluError> {
        let x = problem.design();
        let (n, d) = (x.nrows(), x.ncols());
        let (rank, basis) = row_space(x)?;
        let bound = pattern_bound(n, rank);
        if bound > limit as f64 {
            return Err(ConvexReluError::TooManyPatterns {
                examples: n,
                rank,
                bound,
                limit,
            });
        }
        let reduced = x * &basis; // [n, rank]
        let rows: Vec<Vec<f64>> = (0..n)
            .map(|k| (0..rank).map(|j| reduced[(k, j)]).collect())
            .collect();
        let mut set = PatternSet::new(n);
        let mut gates = Vec::new();
        for witness in cells(&rows, rank) {
            let h: Vec<f64> = (0..d)
                .map(|i| (0..rank).map(|j| basis[(i, j)] * witness[j]).sum())
                .collect();
            // Examples with only zeros are active in every pattern.
            if set.insert(activations(x, &h)) {
                gates.push(h);
            }
        }
        Ok(Self {
            active: set.matrix(),
            gates: Some(columns(d, &gates)),
        })
    }

    /// The different patterns of given directions, `[directions][d]`, where `d` counts the bias.
    ///
    /// # Errors
    /// If there are none, or one has the wrong length.
    pub fn from_gates(
        problem: &ConvexReluProblem,
        gates: &[impl AsRef<[f64]>],
    ) -> Result<Self, ConvexReluError> {
        let x = problem.design();
        let mut set = PatternSet::new(x.nrows());
        let mut kept = Vec::new();
        for gate in gates {
            let gate = gate.as_ref();
            if gate.len() != x.ncols() {
                return Err(ConvexReluError::Features {
                    found: gate.len(),
                    expected: x.ncols(),
                });
            }
            if set.insert(activations(x, gate)) {
                kept.push(gate.to_vec());
            }
        }
        if kept.is_empty() {
            return Err(ConvexReluError::NoPatterns);
        }
        Ok(Self {
            active: set.matrix(),
            gates: Some(columns(x.ncols(), &kept)),
        })
    }

    /// The different ones of given patterns, `[patterns][n]`.
    ///
    /// # Errors
    /// If there are none, or the length of one is not the number of examples.
    pub fn from_masks(
        problem: &ConvexReluProblem,
        masks: &[impl AsRef<[bool]>],
    ) -> Result<Self, ConvexReluError> {
        let expected = problem.len();
        let mut set = PatternSet::new(expected);
        for mask in masks {
            let mask = mask.as_ref();
            if mask.len() != expected {
                return Err(ConvexReluError::PatternLength {
                    found: mask.len(),
                    expected,
                });
            }
            set.insert(mask.to_vec());
        }
        if set.len() == 0 {
            return Err(ConvexReluError::NoPatterns);
        }
        Ok(Self {
            active: set.matrix(),
            gates: None,
        })
    }

    /// The number `P` of patterns.
    pub fn len(&self) -> usize {
        self.active.ncols()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number `n` of examples.
    pub fn examples(&self) -> usize {
        self.active.nrows()
    }

    /// The diagonals of the `D_i` as columns of 0 and 1, `[n, P]`.
    pub fn active(&self) -> MatRef<'_, f64> {
        self.active.as_ref()
    }

    /// Directions that generate the patterns, `[d, P]`.
    pub fn gates(&self) -> Option<MatRef<'_, f64>> {
        self.gates.as_ref().map(Mat::as_ref)
    }

    /// The first `count` patterns.
    #[must_use]
    pub fn truncated(&self, count: usize) -> Self {
        let count = count.min(self.len());
        Self {
            active: self.active.subcols(0, count).to_owned(),
            gates: self.gates.as_ref().map(|g| g.subcols(0, count).to_owned()),
        }
    }
}

/// `2 Σ_{k<r} C(n−1, k)`, the maximum number of patterns of `examples` examples with the rank `rank`.
///
/// ```
/// use nabla_solve::convex_relu::pattern_bound;
/// assert_eq!(pattern_bound(20, 3), 382.0);
/// ```
pub fn pattern_bound(examples: usize, rank: usize) -> f64 {
    if examples == 0 || rank == 0 {
        return 1.0;
    }
    let mut term = 1.0;
    let mut sum = 0.0;
    for k in 0..rank.min(examples) {
        sum += term;
        term *= (examples - 1 - k) as f64 / (k + 1) as f64;
    }
    2.0 * sum
}

/// The number of patterns, or of features of a sampled program, that are enough so that, with a confidence of
/// `1 − failure`, one more changes the optimum with a probability of at most `violation`: `min{(n+1)/(ψ ξ) −
/// 1, 2/ξ (n + 1 − log ψ)}`, rounded up.
///
/// ```
/// use nabla_solve::convex_relu::sample_size;
/// assert_eq!(sample_size(20, 0.1, 0.1)?, 467); // the other bound is 2099
/// # Ok::<(), nabla_solve::convex_relu::ConvexReluError>(())
/// ```
///
/// # Errors
/// If a probability does not lie between 0 and 1.
pub fn sample_size(
    examples: usize,
    violation: f64,
    failure: f64,
) -> Result<usize, ConvexReluError> {
    for (name, value) in [
        ("probability of a change", violation),
        ("probability of a failure", failure),
    ] {
        range::between(name, value, 0.0, 1.0)?;
    }
    let variables = examples as f64 + 1.0;
    let markov = variables / (failure * violation) - 1.0;
    let chernoff = 2.0 / violation * (variables - failure.ln());
    Ok(markov.min(chernoff).ceil() as usize)
}

/// Distinct patterns in their original order.
struct PatternSet {
    examples: usize,
    seen: HashSet<Vec<u64>>,
    patterns: Vec<Vec<bool>>,
}

impl PatternSet {
    fn new(examples: usize) -> Self {
        Self {
            examples,
            seen: HashSet::new(),
            patterns: Vec::new(),
        }
    }

    fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Adds a pattern; returns whether it is new.
    fn insert(&mut self, pattern: Vec<bool>) -> bool {
        let key = pattern
            .chunks(64)
            .map(|bits| {
                bits.iter()
                    .enumerate()
                    .fold(0, |word, (i, &bit)| word | u64::from(bit) << i)
            })
            .collect();
        let new = self.seen.insert(key);
        if new {
            self.patterns.push(pattern);
        }
        new
    }

    fn matrix(&self) -> Mat<f64> {
        Mat::from_fn(self.examples, self.patterns.len(), |k, i| {
            f64::from(u8::from(self.patterns[i][k]))
        })
    }
}

fn direction(noise: &mut SeededNoise, length: usize) -> Vec<f64> {
    noise
        .normal_values(length)
        .into_iter()
        .map(f64::from)
        .collect()
}

/// `1[X h ≥ 0]`.
fn activations(x: MatRef<'_, f64>, h: &[f64]) -> Vec<bool> {
    let h = Mat::from_fn(h.len(), 1, |i, _| h[i]);
    let product = x * &h;
    (0..x.nrows()).map(|k| product[(k, 0)] >= 0.0).collect()
}

fn columns(rows: usize, vectors: &[Vec<f64>]) -> Mat<f64> {
    Mat::from_fn(rows, vectors.len(), |i, j| vectors[j][i])
}

/// A number below this share of the largest counts as 0.
const ZERO: f64 = 1e-10;

/// The rank of `x` and an orthonormal basis of its row space, `[d, rank]`.
fn row_space(x: MatRef<'_, f64>) -> Result<(usize, Mat<f64>), ConvexReluError> {
    let svd = x
        .thin_svd()
        .map_err(|e| ConvexReluError::Factorization(format!("{e:?}")))?;
    let s = svd.S().column_vector();
    let largest = (0..s.nrows()).map(|i| s[i]).fold(0.0, f64::max);
    let rank = (0..s.nrows()).filter(|&i| s[i] > ZERO * largest).count();
    Ok((rank, svd.V().subcols(0, rank).to_owned()))
}

/// A point within each cell of the hyperplanes `row·c = 0` in `R^rank`; a cell may occur more than once. The
/// rows span `R^rank`, and rows of zeros have no effect.
fn cells(rows: &[Vec<f64>], rank: usize) -> Vec<Vec<f64>> {
    let scale = rows.iter().flatten().fold(0.0, |m: f64, v| m.max(v.abs()));
    let rows: Vec<&Vec<f64>> = rows
        .iter()
        .filter(|row| row.iter().any(|v| v.abs() > ZERO * scale))
        .collect();
    match rank {
        0 => return vec![Vec::new()],
        1 => return vec![vec![1.0], vec![-1.0]],
        _ => {}
    }
    let mut out = Vec::new();
    let mut visited = HashSet::new();
    for chosen in combinations(rows.len(), rank - 1) {
        let Some(ray) = common_normal(&chosen.iter().map(|&k| rows[k]).collect::<Vec<_>>(), rank)
        else {
            continue;
        };
        let heights: Vec<f64> = rows.iter().map(|row| dot(row, &ray)).collect();
        let vanish: Vec<usize> = (0..rows.len())
            .filter(|&k| heights[k].abs() <= ZERO * dot(rows[k], rows[k]).sqrt())
            .collect();
        // Other examples can choose the same ray.
        if !visited.insert(vanish.clone()) {
            continue;
        }
        // Around the ray: the examples that vanish on it, across it.
        let basis = across(&ray);
        let local: Vec<Vec<f64>> = vanish
            .iter()
            .map(|&k| basis.iter().map(|b| dot(rows[k], b)).collect())
            .collect();
        for inner in cells(&local, rank - 1) {
            let step: Vec<f64> = (0..rank)
                .map(|i| basis.iter().zip(&inner).map(|(b, c)| b[i] * c).sum())
                .collect();
            // The step is small enough that no other example changes sides.
            let size = (0..rows.len())
                .filter(|k| !vanish.contains(k))
                .map(|k| {
                    let slope = dot(rows[k], &step).abs();
                    if slope > 0.0 {
                        0.5 * heights[k].abs() / slope
                    } else {
                        f64::INFINITY
                    }
                })
                .fold(1.0, f64::min);
            for sign in [1.0, -1.0] {
                out.push((0..rank).map(|i| sign * ray[i] + size * step[i]).collect());
            }
        }
    }
    out
}

/// The unit vector across `rank − 1` rows, if they are independent.
fn common_normal(rows: &[&Vec<f64>], rank: usize) -> Option<Vec<f64>> {
    // Gauss-Jordan elimination with complete pivoting; the column without a pivot is free.
    let mut a: Vec<Vec<f64>> = rows
        .iter()
        .map(|row| {
            let length = dot(row, row).sqrt();
            row.iter().map(|v| v / length).collect()
        })
        .collect();
    let mut pivots = vec![usize::MAX; a.len()];
    let mut free: Vec<usize> = (0..rank).collect();
    for step in 0..a.len() {
        let (mut row, mut column, mut largest) = (step, 0, 0.0);
        for (i, values) in a.iter().enumerate().skip(step) {
            for &j in &free {
                if values[j].abs() > largest {
                    (row, column, largest) = (i, j, values[j].abs());
                }
            }
        }
        if largest <= ZERO {
            return None;
        }
        a.swap(step, row);
        pivots[step] = column;
        free.retain(|&j| j != column);
        let pivot = a[step][column];
        for v in &mut a[step] {
            *v /= pivot;
        }
        let taken = a[step].clone();
        for (i, values) in a.iter_mut().enumerate() {
            if i != step {
                let factor = values[column];
                for (v, t) in values.iter_mut().zip(&taken) {
                    *v -= factor * t;
                }
            }
        }
    }
    let free = *free.first()?;
    let mut normal = vec![0.0; rank];
    normal[free] = 1.0;
    for (values, &column) in a.iter().zip(&pivots) {
        normal[column] = -values[free];
    }
    let length = dot(&normal, &normal).sqrt();
    Some(normal.iter().map(|v| v / length).collect())
}

/// An orthonormal basis of the complement of the unit vector `ray`: the columns of the Householder reflection
/// that takes it to an axis, except for that axis.
fn across(ray: &[f64]) -> Vec<Vec<f64>> {
    let axis = (0..ray.len())
        .max_by(|&i, &j| ray[i].abs().total_cmp(&ray[j].abs()))
        .unwrap_or(0);
    let mut w = ray.to_vec();
    w[axis] += ray[axis].signum();
    let squared = dot(&w, &w);
    (0..ray.len())
        .filter(|&j| j != axis)
        .map(|j| {
            (0..ray.len())
                .map(|i| f64::from(u8::from(i == j)) - 2.0 * w[i] * w[j] / squared)
                .collect()
        })
        .collect()
}

/// All ways to choose `count` of `0..n`, in order.
fn combinations(n: usize, count: usize) -> impl Iterator<Item = Vec<usize>> {
    let mut next = (count <= n).then(|| (0..count).collect::<Vec<usize>>());
    std::iter::from_fn(move || {
        let current = next.clone()?;
        next = (0..count)
            .rev()
            .find(|&i| current[i] < n - count + i)
            .map(|i| {
                let mut following = current.clone();
                for (step, slot) in following[i..].iter_mut().enumerate() {
                    *slot = current[i] + 1 + step;
                }
                following
            });
        Some(current)
    })
}

#[cfg(test)]
mod tests;
