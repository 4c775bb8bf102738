//! Oracles for the order of points instead of a function's values.
//!
//! An (m, k)-ranking oracle of a function `f` takes `m` points and names the `k` lowest of them, the
//! lowest first:
//!
//! ```text
//! O(x_1, …, x_m) = (i_1, …, i_k)   with   f(x_{i_1}) ≤ … ≤ f(x_{i_k}) ≤ f(x_j) for all other j
//! ```
//!
//! `k = m` is the whole order, `k = 1` only the best; a comparison of two points has `m = 2`. The oracle may
//! be a hidden function ([`FunctionOracle`]), the same with noise ([`NoisyFunctionOracle`]), the loss of a
//! Burn module ([`ModuleOracle`]), any other oracle with mistakes ([`SwappingOracle`]), or a person or a
//! program ([`ProtocolOracle`](crate::ranking_protocol::ProtocolOracle)). Any strictly increasing function of
//! `f` gives the same answers.
//!
//! In pairs, an answer is a directed acyclic graph with an edge `(i, j)` for every two points of which `i` is
//! known to be lower: each of the `k` points has an edge to everything after it. The graph has
//!
//! ```text
//! |E| = km − k(k + 1)/2
//! ```
//!
//! edges ([`edge_count`]), and the number of ordered pairs of different edges that share a point is
//! ([`neighbouring_edge_pairs`])
//!
//! ```text
//! N(E) = m²k + mk² − k³ + k² − 4mk + 2k
//! ```
//!
//! Source: Tang, Rybin, Chang, *Zeroth-Order Optimization Meets Human Feedback: Provable Learning via
//! Ranking Oracles*, ICLR 2024, arXiv 2303.03751.

use std::cmp::Ordering;
use std::convert::Infallible;

use burn::module::Module;
use burn::tensor::{DType, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::flat::{FlatError, ParameterLayout};
use nabla_grad::seeded_noise::SeededNoise;

use crate::zeroth_order::{RunError, ZerothOrderError};
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// The reason why an order or a question is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RankingError {
    /// The number of points to name is invalid.
    #[error(
        "the best {best} of {candidates} points were requested, but the number must be 1 to {candidates}"
    )]
    Best {
        /// The requested number.
        best: usize,
        /// Of how many points.
        candidates: usize,
    },
    /// The coordinates do not form whole points.
    #[error("{values} coordinates are not one or more points of {dimension} coordinates each")]
    Points {
        /// Number of coordinates.
        values: usize,
        /// Number of coordinates of a point.
        dimension: usize,
    },
    /// A point does not exist.
    #[error("the order names point {candidate}, but {}", points(*candidates))]
    Unknown {
        /// The point, from 0.
        candidate: usize,
        /// How many there are.
        candidates: usize,
    },
    /// A point occurs twice.
    #[error("the order names point {candidate} twice")]
    Duplicate {
        /// The point, from 0.
        candidate: usize,
    },
}

/// A question: points to be put in order.
///
/// ```
/// use nabla_solve::ranking_oracle::RankingQuestion;
/// // The best of two points in the plane.
/// let question = RankingQuestion::new(0, 1, 2, vec![0.0, 1.0, 2.0, 3.0])?;
/// assert_eq!((question.candidates(), question.point(1)), (2, &[2.0, 3.0][..]));
/// # Ok::<(), nabla_solve::ranking_oracle::RankingError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RankingQuestion {
    number: u64,
    best: usize,
    dimension: usize,
    /// `[m, dimension]`, row-major.
    points: Vec<f64>,
}

impl RankingQuestion {
    /// Question number `number` of a run: the best `best` of `points`, `[m, dimension]`, one point
    /// after the other.
    ///
    /// # Errors
    /// If there is no point, the last one is incomplete, or `best` is not 1 to m.
    pub fn new(
        number: u64,
        best: usize,
        dimension: usize,
        points: Vec<f64>,
    ) -> Result<Self, RankingError> {
        if points.is_empty() || dimension == 0 || !points.len().is_multiple_of(dimension) {
            return Err(RankingError::Points {
                values: points.len(),
                dimension,
            });
        }
        check_best(points.len() / dimension, best)?;
        Ok(Self {
            number,
            best,
            dimension,
            points,
        })
    }

    /// The number of previous questions of the run, which makes an oracle's noise reproducible.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The number of points to name, `k`.
    pub fn best(&self) -> usize {
        self.best
    }

    /// Number of points, `m`.
    pub fn candidates(&self) -> usize {
        self.points.len() / self.dimension
    }

    /// Number of coordinates of a point.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Point number `candidate`, from 0, `[dimension]`.
    ///
    /// # Panics
    /// If there is no such point.
    pub fn point(&self, candidate: usize) -> &[f64] {
        &self.points[candidate * self.dimension..][..self.dimension]
    }

    /// All points.
    pub fn points(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.points.chunks_exact(self.dimension)
    }
}

/// An answer: which of the points are the best, the best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    candidates: usize,
    best: Vec<usize>,
}

/// The range of the points, in words.
fn points(candidates: usize) -> String {
    match candidates.checked_sub(1) {
        Some(last) => format!("the points are 0 to {last}"),
        None => "there are no points".to_owned(),
    }
}

impl Ranking {
    /// The points `best`, from 0, of `candidates`, the best first.
    ///
    /// # Errors
    /// If no point is named, a named point does not exist, or a point is named twice.
    pub fn new(candidates: usize, best: Vec<usize>) -> Result<Self, RankingError> {
        let mut seen = vec![false; candidates];
        for &candidate in &best {
            match seen.get_mut(candidate) {
                None => {
                    return Err(RankingError::Unknown {
                        candidate,
                        candidates,
                    });
                }
                Some(true) => return Err(RankingError::Duplicate { candidate }),
                Some(seen) => *seen = true,
            }
        }
        check_best(candidates, best.len())?;
        Ok(Self { candidates, best })
    }

    /// The `best` lowest of `values`. Of two equal values, the first counts as lower, and NaN is above
    /// everything.
    ///
    /// ```
    /// use nabla_solve::ranking_oracle::Ranking;
    /// let ranking = Ranking::of_values(&[3.0, 1.0, 2.0, f64::NAN], 2)?;
    /// assert_eq!(ranking.best(), [1, 2]);
    /// # Ok::<(), nabla_solve::ranking_oracle::RankingError>(())
    /// ```
    ///
    /// # Errors
    /// If `best` is not 1 to the number of values.
    pub fn of_values(values: &[f64], best: usize) -> Result<Self, RankingError> {
        check_best(values.len(), best)?;
        Ok(Self::lowest(values, best))
    }

    /// Creates an order that is known to be valid.
    pub(crate) fn of_checked(candidates: usize, best: Vec<usize>) -> Self {
        Self { candidates, best }
    }

    /// The lowest of `values`, of which there are at least `best`.
    fn lowest(values: &[f64], best: usize) -> Self {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| {
            let (a, b) = (values[a], values[b]);
            let finite = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
            a.is_nan().cmp(&b.is_nan()).then(finite)
        });
        order.truncate(best);
        Self {
            candidates: values.len(),
            best: order,
        }
    }

    /// The points, from 0, the best first, `[k]`.
    pub fn best(&self) -> &[usize] {
        &self.best
    }

    /// Number of points in the question, `m`.
    pub fn candidates(&self) -> usize {
        self.candidates
    }

    /// The edges `(i, j)` of the graph: point `i` is lower than point `j`. The edges of the best point come
    /// first.
    pub fn edges(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut rank = vec![self.best.len(); self.candidates];
        for (r, &i) in self.best.iter().enumerate() {
            rank[i] = r;
        }
        self.best.iter().enumerate().flat_map(move |(r, &i)| {
            let behind: Vec<usize> = (0..rank.len()).filter(|&j| rank[j] > r).collect();
            behind.into_iter().map(move |j| (i, j))
        })
    }

    /// For each point, the number of edges that end in it minus the number of edges that start in it, `[m]`:
    /// `Σ_{(i,j)∈E} (ξ_j − ξ_i) = Σ_i w_i ξ_i`. That is `2r + 1 − m` for the `r`-th best, from 0, and
    /// `k` for a point that is not named.
    pub fn weights(&self) -> Vec<f64> {
        let mut weights = vec![self.best.len() as f64; self.candidates];
        for (r, &i) in self.best.iter().enumerate() {
            weights[i] = (2 * r + 1) as f64 - self.candidates as f64;
        }
        weights
    }
}

fn check_best(candidates: usize, best: usize) -> Result<(), RankingError> {
    if (1..=candidates).contains(&best) {
        Ok(())
    } else {
        Err(RankingError::Best { best, candidates })
    }
}

/// `|E|` of an (m, k)-ranking; 0 unless `1 ≤ k ≤ m`.
///
/// ```
/// use nabla_solve::ranking_oracle::edge_count;
/// assert_eq!([edge_count(5, 5), edge_count(5, 1)], [10, 4]);
/// ```
pub fn edge_count(candidates: usize, best: usize) -> usize {
    let (m, k) = (candidates, best.min(candidates));
    // The r-th best, from 0, has an edge to each of the m − 1 − r points after it.
    k.saturating_mul(m) - k.saturating_mul(k + 1) / 2
}

/// `N(E)` of an (m, k)-ranking; 0 unless `1 ≤ k ≤ m`.
pub fn neighbouring_edge_pairs(candidates: usize, best: usize) -> usize {
    let (m, k) = (candidates, best.min(candidates));
    // A point with n edges is in n(n − 1) such pairs: the k best have m − 1 edges, the others k.
    let pairs = |points: usize, edges: usize| {
        points
            .saturating_mul(edges)
            .saturating_mul(edges.saturating_sub(1))
    };
    pairs(k, m.saturating_sub(1)).saturating_add(pairs(m - k, k))
}

/// An oracle, which puts points in order.
pub trait RankingOracle {
    /// Its error.
    type Error: std::error::Error;

    /// The [`best`](RankingQuestion::best) points of the question, in order.
    ///
    /// # Errors
    /// If the oracle does not answer. It may answer if asked again.
    fn rank(&mut self, question: &RankingQuestion) -> Result<Ranking, Self::Error>;
}

impl<O: RankingOracle + ?Sized> RankingOracle for &mut O {
    type Error = O::Error;

    fn rank(&mut self, question: &RankingQuestion) -> Result<Ranking, Self::Error> {
        (**self).rank(question)
    }
}

/// The answer to a question for the best of some points, with the question.
///
/// - `points`: `[candidates, dimension]`, row by row
pub(crate) fn ask<O>(
    oracle: &mut O,
    number: u64,
    best: usize,
    dimension: usize,
    points: Vec<f64>,
) -> Result<(RankingQuestion, Ranking), RunError<O::Error>>
where
    O: RankingOracle + ?Sized,
    O::Error: 'static,
{
    if points.iter().any(|p| !p.is_finite()) {
        return Err(ZerothOrderError::Diverged.into());
    }
    let question = RankingQuestion::new(number, best, dimension, points)
        .map_err(|_| ZerothOrderError::Empty)?;
    let ranking = oracle.rank(&question).map_err(RunError::Oracle)?;
    Ok((question, ranking))
}

/// The order of a question's points by the values `value` gives them.
fn by_value(question: &RankingQuestion, values: impl IntoIterator<Item = f64>) -> Ranking {
    let values: Vec<f64> = values.into_iter().collect();
    Ranking::lowest(&values, question.best())
}

/// The order by a function, lowest first.
///
/// ```
/// use nabla_solve::ranking_oracle::{FunctionOracle, RankingOracle, RankingQuestion};
/// let mut oracle = FunctionOracle::new(|x: &[f64]| x[0] * x[0]);
/// let question = RankingQuestion::new(0, 2, 1, vec![3.0, -1.0, 2.0])?;
/// assert_eq!(oracle.rank(&question)?.best(), [1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FunctionOracle<F> {
    function: F,
}

impl<F: FnMut(&[f64]) -> f64> FunctionOracle<F> {
    /// Orders points by `function`. NaN is the worst value.
    pub fn new(function: F) -> Self {
        Self { function }
    }
}

impl<F: FnMut(&[f64]) -> f64> RankingOracle for FunctionOracle<F> {
    type Error = Infallible;

    fn rank(&mut self, question: &RankingQuestion) -> Result<Ranking, Infallible> {
        Ok(by_value(
            question,
            question.points().map(&mut self.function),
        ))
    }
}

/// The noise on a value before points are put in order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueNoise {
    /// Normal, with this standard deviation (Thurstone's model of judgement).
    Gaussian(f64),
    /// Gumbel, with this scale `s`: the order is then one of the Plackett-Luce model, in which the next best
    /// is `i` with a probability proportional to `exp(−f_i/s)`. For two points, this is the model of Bradley
    /// and Terry.
    PlackettLuce(f64),
}

/// The order by a function with noise. The noise of a question depends only on the seed and on the question's
/// number, so a resumed run gets the same noise.
#[derive(Clone, Debug)]
pub struct NoisyFunctionOracle<F> {
    function: F,
    noise: ValueNoise,
    seed: u64,
}

impl<F: FnMut(&[f64]) -> f64> NoisyFunctionOracle<F> {
    /// Orders points by `function` plus `noise`.
    ///
    /// # Errors
    /// If the size of the noise is negative or not finite.
    pub fn new(function: F, noise: ValueNoise, seed: u64) -> Result<Self, OutOfRange> {
        let (ValueNoise::Gaussian(size) | ValueNoise::PlackettLuce(size)) = noise;
        range::not_negative("size of the noise", size)?;
        Ok(Self {
            function,
            noise,
            seed,
        })
    }
}

impl<F: FnMut(&[f64]) -> f64> RankingOracle for NoisyFunctionOracle<F> {
    type Error = Infallible;

    fn rank(&mut self, question: &RankingQuestion) -> Result<Ranking, Infallible> {
        let mut noise = SeededNoise::new(self.seed, question.number());
        let values = question.points().map(|x| {
            let noise = match self.noise {
                ValueNoise::Gaussian(deviation) => deviation * f64::from(noise.normal_values(1)[0]),
                // A standard Gumbel number is −log(−log u); the lowest value is the best.
                ValueNoise::PlackettLuce(scale) => {
                    let uniform: f64 = noise.random();
                    scale * (-uniform.max(f64::MIN_POSITIVE).ln()).ln()
                }
            };
            (self.function)(x) + noise
        });
        Ok(by_value(question, values))
    }
}

/// Another oracle's order with mistakes: going through the answer from the best on, each point is swapped
/// with the next with a given probability. The swaps depend only on the seed and on the question's number.
#[derive(Clone, Debug)]
pub struct SwappingOracle<O> {
    oracle: O,
    probability: f64,
    seed: u64,
}

impl<O: RankingOracle> SwappingOracle<O> {
    /// The order of `oracle` with swaps of a `probability` in [0, 1].
    ///
    /// # Errors
    /// If the probability is invalid.
    pub fn new(oracle: O, probability: f64, seed: u64) -> Result<Self, OutOfRange> {
        range::within("probability of a slip", probability, 0.0..=1.0)?;
        Ok(Self {
            oracle,
            probability,
            seed,
        })
    }
}

impl<O: RankingOracle> RankingOracle for SwappingOracle<O> {
    type Error = O::Error;

    /// With `k < m`, one more point is requested, so that the last one named can be swapped out.
    fn rank(&mut self, question: &RankingQuestion) -> Result<Ranking, O::Error> {
        let mut wider = question.clone();
        wider.best = (question.best + 1).min(question.candidates());
        let mut ranking = self.oracle.rank(&wider)?;
        let mut noise = SeededNoise::new(self.seed, question.number());
        for r in 1..ranking.best.len() {
            if noise.random::<f64>() < self.probability {
                ranking.best.swap(r - 1, r);
            }
        }
        ranking.best.truncate(question.best());
        Ok(ranking)
    }
}

/// The order by the loss of a Burn module whose parameters, as one flat vector, are the point.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Tensor};
/// use nabla_solve::ranking_oracle::ModuleOracle;
/// use nabla_solve::zo_rank_sgd::{ZoRankSgd, ZoRankSgdConfig};
///
/// let device = Device::flex();
/// let model: Linear = LinearConfig::new(3, 1).init(&device);
/// let x = Tensor::<2>::ones([4, 3], &device);
/// let mut oracle = ModuleOracle::new(model, |model: &Linear| {
///     f64::from(model.forward(x.clone()).square().mean().into_scalar::<f32>())
/// })?;
/// let mut run = ZoRankSgd::new(ZoRankSgdConfig::new(), oracle.start()?)?;
/// run.step(&mut oracle)?;
/// let model = oracle.module(run.point())?;
/// # let _ = model;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ModuleOracle<M, F> {
    module: M,
    layout: ParameterLayout,
    element_type: DType,
    loss: F,
}

impl<M: Module, F: FnMut(&M) -> f64> ModuleOracle<M, F> {
    /// Orders points by the `loss` of `module`, over all its float parameters.
    ///
    /// # Errors
    /// If the module has no parameters, or they cannot be one vector.
    pub fn new(module: M, loss: F) -> Result<Self, FlatError> {
        let layout = ParameterLayout::of(&module)?;
        Self::with_layout(module, layout, loss)
    }

    /// Orders points by the `loss` of `module`, over the parameters of `layout`, for example those that
    /// [require a gradient](ParameterLayout::trainable).
    ///
    /// # Errors
    /// If the layout is not that of the module, or the parameters cannot be one vector.
    pub fn with_layout(module: M, layout: ParameterLayout, loss: F) -> Result<Self, FlatError> {
        let element_type = layout.flatten_parameters(&module)?.dtype();
        Ok(Self {
            module,
            layout,
            element_type,
            loss,
        })
    }

    /// The current parameters, `[d]`, as a start.
    ///
    /// # Errors
    /// If they are not numbers that can be read.
    pub fn start(&self) -> Result<Vec<f64>, FlatError> {
        let parameters = self.layout.flatten_parameters(&self.module)?;
        Ok(parameters.into_data().iter::<f64>().collect())
    }

    /// The module with the parameters `point`, `[d]`, rounded to the module's element type.
    ///
    /// # Errors
    /// If the point has another length.
    pub fn module(&self, point: &[f64]) -> Result<M, FlatError> {
        let data = TensorData::new(point.to_vec(), [point.len()]);
        let vector = Tensor::from_data(data, (self.layout.device(), self.element_type));
        self.layout.with_parameters(self.module.clone(), vector)
    }
}

impl<M: Module, F: FnMut(&M) -> f64> RankingOracle for ModuleOracle<M, F> {
    type Error = FlatError;

    fn rank(&mut self, question: &RankingQuestion) -> Result<Ranking, FlatError> {
        let mut values = Vec::with_capacity(question.candidates());
        for point in question.points() {
            let module = self.module(point)?;
            values.push((self.loss)(&module));
        }
        Ok(by_value(question, values))
    }
}

#[cfg(test)]
mod tests;
