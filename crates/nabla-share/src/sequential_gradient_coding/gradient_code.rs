//! Gradient coding, GC(n, s): every chunk at `s + 1` workers, and any `n − s` answers determine the gradient.
//!
//! The batch has `n` chunks. Worker `i` holds `s + 1` of them and returns one vector, `ℓ_i = Σ_c B[i,c] g_c`. There
//! are two codes:
//!
//! * *repetition*, if `s + 1` divides `n`: each group of `s + 1` workers holds the same chunks, all coefficients are 1,
//!   and one answer of each group suffices. So more than `s` stragglers are tolerated if they are in different groups.
//!   Which worker of a group answers makes no difference, so the bits of the gradient don't depend on the stragglers;
//! * *cyclic*: worker `i` holds the chunks `i, …, i + s` (modulo `n`). With a random `H ∈ R^{s×n}` whose rows sum to 0,
//!
//! ```text
//! B[i,i] = 1,   H[:, i+1 … i+s] · B[i, i+1 … i+s]ᵀ = −H[:, i]
//! ```
//!
//! so that the rows of `B` span the vectors that `H` takes to 0, and the vector of ones is one of them: there is an `a`
//! with `aᵀ B[I,:] = 1ᵀ` for any `n − s` workers `I`. It is taken with the least norm, because the answers are rounded.
//! A random `H` can be ill-conditioned, so some are drawn, the best is taken, and a code with which decoding would lose
//! the digits of single precision is refused.
//!
//! Source: Tandon, Lei, Dimakis, Karampatziakis, *Gradient Coding: Avoiding Stragglers in Distributed Learning*, ICML
//! 2017, arXiv 1612.03301.

use std::sync::OnceLock;

use faer::Mat;
use faer::linalg::solvers::Solve;
use nabla_base::choices;
use nabla_base::range;
use nabla_grad::SeededNoise;
use rand::seq::index;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use super::{CodingError, CodingScheme, DecodingTerm, History, MiniTask, Returned, StragglerModel};

/// The matrices `H` that are drawn, of which the best is taken.
const DRAWS: u64 = 16;

/// The number of workers above which judging a code takes seconds, so that only two are drawn.
const MANY: usize = 64;

/// A code is judged by all patterns of stragglers if there are no more than these.
const PATTERNS: usize = 512;

/// Else by this many sets of neighbours, and as many random ones.
const SAMPLES: usize = 32;

/// The most by which `B[I,:]ᵀ a` may differ from 1.
const RESIDUAL: f64 = 1e-9;

/// The most by which decoding may amplify rounding: in single precision, 3 digits remain in the worst case.
const AMPLIFICATION: f64 = 1e4;

/// How the chunks are shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodeKind {
    /// Groups of workers with the same chunks.
    Repetition,
    /// Consecutive chunks.
    Cyclic,
    /// Repetition if `s + 1` divides the number of workers, else cyclic.
    #[default]
    Fitting,
}

choices! {
    CodeKind: "code" {
        "repetition" => Self::Repetition, "Groups of workers with the same chunks";
        "cyclic" => Self::Cyclic, "Consecutive chunks, for any number of stragglers";
        "fitting" => Self::Fitting, "Repetition if its groups fit the number of workers, else cyclic";
    }
}

/// GC(n, s); see the [module documentation](self).
///
/// The coefficients of a cyclic code are computed when they are first needed: to simulate a code it takes none.
///
/// ```
/// use nabla_share::sequential_gradient_coding::{CodeKind, CodingScheme, GradientCode};
///
/// let code = GradientCode::new(3, 1, CodeKind::Cyclic)?;
/// assert_eq!(code.load(), 2.0 / 3.0);
/// // Worker 1 is a straggler; the other two suffice.
/// let weights = code.weights(&[true, false, true])?;
/// let mut decoded = [0.0; 3];
/// for worker in [0, 2] {
///     for (chunk, factor) in code.combination(worker, 0)? {
///         decoded[chunk] += weights[worker] * factor;
///     }
/// }
/// assert!(decoded.iter().all(|factor: &f64| (factor - 1.0).abs() < 1e-12));
/// # Ok::<(), nabla_share::sequential_gradient_coding::CodingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct GradientCode {
    workers: usize,
    stragglers: usize,
    repeats: bool,
    /// `B`, `[n, n]`, of a cyclic code.
    coefficients: OnceLock<Result<Mat<f64>, CodingError>>,
}

impl GradientCode {
    /// - `workers`: `n`; `stragglers`: `s`, less than `n`
    ///
    /// # Errors
    /// If there are no workers, too many stragglers, or the workers make no groups for repetition.
    pub fn new(workers: usize, stragglers: usize, kind: CodeKind) -> Result<Self, CodingError> {
        range::at_least("number of workers", workers, 1)?;
        range::within("number of stragglers", stragglers, 0..=workers - 1)?;
        let group = stragglers + 1;
        let divides = workers.is_multiple_of(group);
        if kind == CodeKind::Repetition && !divides {
            return Err(CodingError::Groups { workers, group });
        }
        Ok(Self {
            workers,
            stragglers,
            repeats: divides && kind != CodeKind::Cyclic,
            coefficients: OnceLock::new(),
        })
    }

    /// Every worker has its own chunk, and all are needed.
    ///
    /// # Errors
    /// If there are no workers.
    pub fn uncoded(workers: usize) -> Result<Self, CodingError> {
        Self::new(workers, 0, CodeKind::Repetition)
    }

    /// `s`, the number of stragglers that are always tolerated.
    pub fn stragglers(&self) -> usize {
        self.stragglers
    }

    /// Whether it is the repetition code.
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// The chunks of a worker, in order.
    fn chunks(&self, worker: usize) -> impl Iterator<Item = usize> {
        let group = self.stragglers + 1;
        let first = match self.repeats {
            true => worker - worker % group,
            false => worker,
        };
        let workers = self.workers;
        (first..first + group).map(move |chunk| chunk % workers)
    }

    fn coefficients(&self) -> Result<&Mat<f64>, CodingError> {
        let drawn = self.coefficients.get_or_init(|| self.best(AMPLIFICATION));
        drawn.as_ref().map_err(Clone::clone)
    }

    /// The chunks of a worker with its row of `B`.
    ///
    /// # Errors
    /// If the code is ill-conditioned.
    pub fn row(&self, worker: usize) -> Result<Vec<(usize, f64)>, CodingError> {
        if self.repeats {
            return Ok(self.chunks(worker).map(|chunk| (chunk, 1.0)).collect());
        }
        let matrix = self.coefficients()?;
        let chunks = self.chunks(worker);
        Ok(chunks
            .map(|chunk| (chunk, matrix[(worker, chunk)]))
            .collect())
    }

    /// Whether the answers of these workers determine the gradient.
    pub fn suffices(&self, answered: &[bool]) -> bool {
        match self.repeats {
            true => {
                let mut groups = answered.chunks(self.stragglers + 1);
                groups.all(|group| group.contains(&true))
            }
            false => count(answered) + self.stragglers >= self.workers,
        }
    }

    /// `a`: the weight of every worker's answer in the gradient, `[n]`; 0 for those that did not answer.
    ///
    /// # Errors
    /// If the answers do not determine the gradient, or the code is ill-conditioned.
    pub fn weights(&self, answered: &[bool]) -> Result<Vec<f64>, CodingError> {
        if answered.len() != self.workers || !self.suffices(answered) {
            return Err(CodingError::TooFewAnswers {
                answered: count(answered),
                workers: self.workers,
            });
        }
        if self.repeats {
            let mut weights = vec![0.0; self.workers];
            for first in (0..self.workers).step_by(self.stragglers + 1) {
                let mut group = first..self.workers;
                if let Some(worker) = group.find(|&worker| answered[worker]) {
                    weights[worker] = 1.0;
                }
            }
            return Ok(weights);
        }
        Ok(self.solve(self.coefficients()?, answered)?.0)
    }

    fn refused(&self, what: String) -> CodingError {
        CodingError::IllConditioned {
            workers: self.workers,
            stragglers: self.stragglers,
            what,
        }
    }

    /// The best of some random codes, if it amplifies rounding at most `limit` times.
    fn best(&self, limit: f64) -> Result<Mat<f64>, CodingError> {
        let mut best: Option<(f64, Mat<f64>)> = None;
        let mut refusal = None;
        let draws = if self.workers > MANY { 2 } else { DRAWS };
        for seed in 0..draws {
            let judged = self.draw(seed).and_then(|matrix| {
                let amplification = self.amplification(&matrix)?;
                Ok((amplification, matrix))
            });
            match judged {
                Ok(code) if best.as_ref().is_none_or(|best| code.0 < best.0) => best = Some(code),
                Ok(_) => {}
                Err(error) => refusal = Some(error),
            }
        }
        match best {
            Some((amplification, matrix)) if amplification <= limit => Ok(matrix),
            Some((amplification, _)) => Err(self.refused(format!(
                "amplifies rounding {amplification:.1e} times, more than {limit:.0e}"
            ))),
            None => Err(refusal.unwrap_or_else(|| self.refused("has no coefficients".to_owned()))),
        }
    }

    /// `B` of a random `H`.
    fn draw(&self, seed: u64) -> Result<Mat<f64>, CodingError> {
        let (n, s) = (self.workers, self.stragglers);
        let mut noise = SeededNoise::new(seed, 0);
        let mut h = Mat::<f64>::zeros(s, n);
        for row in 0..s {
            let mut sum = 0.0;
            for column in 0..n - 1 {
                let value: f64 = StandardNormal.sample(&mut noise);
                h[(row, column)] = value;
                sum += value;
            }
            h[(row, n - 1)] = -sum;
        }
        let mut b = Mat::<f64>::zeros(n, n);
        for worker in 0..n {
            b[(worker, worker)] = 1.0;
            let column = |j: usize| (worker + 1 + j) % n;
            let left = Mat::from_fn(s, s, |i, j| h[(i, column(j))]);
            let right = Mat::from_fn(s, 1, |i, _| -h[(i, worker)]);
            let solution = left.partial_piv_lu().solve(&right);
            let residual = (&left * &solution - &right).norm_max() / right.norm_max().max(1.0);
            // What is no number does not fit either.
            let fits = residual <= RESIDUAL;
            if s > 0 && !fits {
                return Err(self.refused(format!("has a residual of {residual:.1e}")));
            }
            for j in 0..s {
                b[(worker, column(j))] = solution[(j, 0)];
            }
        }
        Ok(b)
    }

    /// The `a` of least norm with `aᵀ B[I,:] = 1ᵀ`, and by how much it amplifies the rounding of the answers:
    /// `max_c Σ_i |a_i B[i,c]|`.
    fn solve(&self, b: &Mat<f64>, answered: &[bool]) -> Result<(Vec<f64>, f64), CodingError> {
        let n = self.workers;
        let rows: Vec<usize> = (0..n).filter(|&worker| answered[worker]).collect();
        let matrix = Mat::from_fn(rows.len(), n, |i, j| b[(rows[i], j)]);
        let svd = matrix
            .thin_svd()
            .map_err(|error| self.refused(format!("fails: {error:?}")))?;
        // The rank of B is n − s, so the other singular values are 0 up to rounding.
        let rank = rows.len().min(n - self.stragglers);
        let (u, v) = (svd.U(), svd.V());
        let mut weights = vec![0.0; n];
        for k in 0..rank {
            let ones: f64 = (0..n).map(|j| v[(j, k)]).sum();
            let factor = ones / svd.S().column_vector()[k];
            for (i, &row) in rows.iter().enumerate() {
                weights[row] += u[(i, k)] * factor;
            }
        }
        let (mut residual, mut amplification) = (0.0_f64, 0.0_f64);
        for chunk in 0..n {
            let terms = || rows.iter().map(|&row| weights[row] * b[(row, chunk)]);
            let error = (terms().sum::<f64>() - 1.0).abs();
            // A maximum would pass over what is no number.
            residual = if error <= residual { residual } else { error };
            amplification = amplification.max(terms().map(f64::abs).sum());
        }
        match residual <= RESIDUAL {
            true => Ok((weights, amplification)),
            false => Err(self.refused(format!("has a residual of {residual:.1e}"))),
        }
    }

    /// The worst amplification over all patterns of `s` stragglers, or over many if there are too many.
    fn amplification(&self, b: &Mat<f64>) -> Result<f64, CodingError> {
        let mut worst = 0.0_f64;
        for stragglers in self.patterns() {
            let mut answered = vec![true; self.workers];
            stragglers
                .iter()
                .for_each(|&worker| answered[worker] = false);
            worst = worst.max(self.solve(b, &answered)?.1);
        }
        Ok(worst)
    }

    /// The sets of `s` workers by which a code is judged: all, or the consecutive and some random ones.
    fn patterns(&self) -> Vec<Vec<usize>> {
        let (n, s) = (self.workers, self.stragglers);
        let mut patterns: Vec<Vec<usize>> = vec![Vec::new()];
        for _ in 0..s {
            let longer = patterns.iter().flat_map(|pattern| {
                let next = pattern.last().map_or(0, |last| last + 1);
                (next..n).map(move |worker| [pattern.as_slice(), &[worker]].concat())
            });
            // Prefixes that can't be continued are few, and dropped by the next level.
            patterns = longer.take(4 * PATTERNS + 1).collect();
            if patterns.len() > 4 * PATTERNS {
                break;
            }
        }
        if patterns.len() <= PATTERNS && patterns.iter().all(|pattern| pattern.len() == s) {
            return patterns;
        }
        let mut noise = SeededNoise::new(0, 1);
        let neighbours = (0..n.min(SAMPLES)).map(|k| {
            let first = k * n / n.min(SAMPLES);
            (first..first + s).map(|worker| worker % n).collect()
        });
        let mut patterns: Vec<Vec<usize>> = neighbours.collect();
        patterns.extend((0..SAMPLES).map(|_| index::sample(&mut noise, n, s).into_vec()));
        patterns
    }
}

fn count(answered: &[bool]) -> usize {
    answered.iter().filter(|&&answered| answered).count()
}

impl CodingScheme for GradientCode {
    fn label(&self) -> String {
        let (n, s) = (self.workers, self.stragglers);
        match (s, self.repeats) {
            (0, _) => format!("uncoded(n={n})"),
            (_, true) => format!("GC(n={n}, s={s}, repetition)"),
            (_, false) => format!("GC(n={n}, s={s}, cyclic)"),
        }
    }

    fn workers(&self) -> usize {
        self.workers
    }

    fn delay(&self) -> usize {
        0
    }

    fn load(&self) -> f64 {
        self.part_load()
    }

    fn parts(&self) -> usize {
        1
    }

    fn part_load(&self) -> f64 {
        (self.stragglers + 1) as f64 / self.workers as f64
    }

    fn chunk_shares(&self) -> Vec<f64> {
        vec![1.0 / self.workers as f64; self.workers]
    }

    fn combination(&self, worker: usize, _: usize) -> Result<Vec<(usize, f64)>, CodingError> {
        self.row(worker)
    }

    fn models(&self) -> Vec<StragglerModel> {
        vec![StragglerModel::PerRound {
            most: self.stragglers,
        }]
    }

    fn assign(&self, history: &History) -> Vec<Vec<MiniTask>> {
        let job = history.round();
        let tasks = match job < history.jobs() {
            true => vec![MiniTask { job, part: 0 }],
            false => Vec::new(),
        };
        vec![tasks; self.workers]
    }

    fn recoverable(&self, history: &History) -> bool {
        let due = history.due_job().and_then(|job| history.returned(job));
        due.is_none_or(|returned| self.decodable(returned))
    }

    fn decodable(&self, returned: &Returned) -> bool {
        self.suffices(returned.of_part(0))
    }

    fn decoding(&self, returned: &Returned) -> Result<Vec<DecodingTerm>, CodingError> {
        Ok(terms(0, &self.weights(returned.of_part(0))?))
    }

    fn prepare(&self) -> Result<(), CodingError> {
        match self.repeats {
            true => Ok(()),
            false => self.coefficients().map(|_| ()),
        }
    }
}

/// The workers with a weight in one part.
pub(super) fn terms(part: usize, weights: &[f64]) -> Vec<DecodingTerm> {
    let used = weights
        .iter()
        .enumerate()
        .filter(|(_, weight)| **weight != 0.0);
    used.map(|(worker, &weight)| DecodingTerm {
        worker,
        part,
        weight,
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ill_conditioned_code_is_refused() {
        let code = GradientCode::new(16, 8, CodeKind::Cyclic).unwrap();
        assert!(code.prepare().is_ok());
        let error = code.best(2.0).unwrap_err().to_string();
        let start = "the cyclic code of 16 workers and 8 stragglers is ill-conditioned: its decoding \
                     amplifies rounding ";
        assert!(error.starts_with(start), "{error}");
        // Weights that don't decode are refused, however they came about.
        let zeros = Mat::zeros(16, 16);
        assert!(code.solve(&zeros, &[true; 16]).is_err());
    }

    #[test]
    fn few_patterns_are_all_and_many_are_sampled() {
        let patterns = |n, s| {
            let code = GradientCode::new(n, s, CodeKind::Cyclic).unwrap();
            let patterns = code.patterns();
            assert!(patterns.iter().all(|pattern| pattern.len() == s));
            patterns.len()
        };
        assert_eq!(
            (patterns(5, 2), patterns(8, 5), patterns(3, 0)),
            (10, 56, 1)
        );
        assert_eq!((patterns(40, 20), patterns(10, 9)), (64, 10));
    }
}
