//! Sequential gradient coding: gradients that wait neither for slow workers nor compute much twice.
//!
//! A leader and `n` workers compute one gradient after another, each a sum over the chunks of a batch. Gradient coding
//! gives every chunk to several workers, so that some of them, the stragglers, need not answer. Sequential codes
//! spread the redundancy over workers *and rounds*: a gradient may be ready up to `T` rounds after its start, and what
//! a straggler has lost is computed again later, and only then. Several models are trained in turn, so that nobody
//! waits for the `T` rounds.
//!
//! A *job* `t = 0, 1, …` is one gradient `g(t)`. It starts in round `t` and is decoded at the end of round `t + T` at
//! the latest. The *load* `L` is the share of a batch that each worker processes per round.
//!
//! | Scheme | `T` | Load |
//! |---|---|---|
//! | [`GradientCode::uncoded`] | 0 | `1/n` |
//! | [`GradientCode`], GC(n, s) | 0 | `(s+1)/n` |
//! | [`SrSgc`], selective repetition | `B` | `(⌈Bλ/(W−1+B)⌉ + 1)/n` |
//! | [`MSgc`], multiplexed | `W−2+B` | `(λ+1)(W−1+B) / (n(B + (W−1)(λ+1)))` |
//!
//! A [`CodingScheme`] says who computes what in which round, and which combination of the answers is the gradient. The
//! [`History`] knows what has been returned. In every round
//!
//! ```text
//! tasks ← scheme.assign(history)
//! wait for the answers that arrive within (1 + μ) · (time of the fastest worker)
//! wait on as long as the WaitRule says
//! decode every job whose answers suffice
//! ```
//!
//! The paper and its code wait for all workers as soon as the stragglers fit no [`StragglerModel`] of the scheme. The
//! default here is [`WaitRule::UntilRecoverable`]: wait until no open job is lost, even if nobody answers in time for
//! a whole round less than the scheme allows. Which rule is used decides which scheme is fastest.
//!
//! Simulated seconds of 80 jobs with 256 workers, 5 % of them straggling, 2.2 seconds for a whole batch, and
//! parameters chosen on other rounds than those that are timed (seeds 0, 1, 2):
//!
//! | Code | Uncoded | GC | SR-SGC | M-SGC |
//! |---|---|---|---|---|
//! | [cyclic](CodeKind::Cyclic), of `n − s` answers | 205, 209, 203 | 98, 97, 96 | 97, 96, 95 | 88, 89, 92 |
//! | [repetition](CodeKind::Fitting) where it fits | 205, 209, 203 | 74, 75, 74 | 74, 75, 74 | 86, 88, 91 |
//!
//! The papers count `n − s` answers, and by this count M-SGC is fastest; but random cyclic codes of 256 workers are
//! ill-conditioned, so that the first row can only be simulated. A repetition code needs only one answer of
//! each group, and stragglers that are independent seldom fill a group, so that four copies do: then GC is fastest,
//! even at 8 seconds for a whole batch.
//!
//! [`run`] trains with real workers, [`simulation`] predicts the time, and [`selection`] chooses the scheme.
//!
//! Here jobs, rounds, workers and slots count from 0; in the paper they count from 1.
//!
//! Sources: Krishnan, Ebrahimi, Khisti, *Sequential Gradient Coding For Straggler Mitigation*, ICLR 2023, arXiv
//! 2211.13802; their code, github.com/mamaj/Sequential-Gradient-Coding, whose simulators accept one straggler less in
//! GC(n, s) than the theory allows, and compute no gradients; Tandon, Lei, Dimakis, Karampatziakis, *Gradient Coding:
//! Avoiding Stragglers in Distributed Learning*, ICML 2017, arXiv 1612.03301.

use nabla_base::choices;
use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

pub mod gradient_code;
mod history;
mod linear_combination;
pub mod m_sgc;
pub mod run;
pub mod selection;
pub mod simulation;
pub mod sr_sgc;
pub mod straggler_model;

pub use gradient_code::{CodeKind, GradientCode};
pub use history::{History, MiniTask, Returned};
pub use linear_combination::LinearCombination;
pub use m_sgc::MSgc;
pub use sr_sgc::SrSgc;
pub use straggler_model::StragglerModel;

use crate::communicator::numbers::Number;

/// The reason why a scheme cannot be made, or a gradient cannot be decoded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CodingError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The workers cannot be divided into groups.
    #[error(
        "repetition needs groups of {group} workers, but the number of workers, {workers}, is no multiple of it"
    )]
    Groups {
        /// The number of workers.
        workers: usize,
        /// The workers of a group, `s + 1`.
        group: usize,
    },
    /// `W − 1` is no multiple of `B`.
    #[error(
        "the window of SR-SGC must be a multiple of the burst plus 1, but the window is {window} and the burst is {burst}"
    )]
    Window {
        /// `B`.
        burst: usize,
        /// `W`.
        window: usize,
    },
    /// The coefficients of the code are too unequal to decode a gradient with them.
    #[error(
        "the cyclic code of {workers} workers and {stragglers} stragglers is ill-conditioned: \
         its decoding {what}; use fewer stragglers, or repetition"
    )]
    IllConditioned {
        /// The number of workers.
        workers: usize,
        /// The stragglers that it should tolerate.
        stragglers: usize,
        /// What is wrong, with the number.
        what: String,
    },
    /// The answers do not determine the gradient.
    #[error("the gradient cannot be decoded from the answers of {answered} of {workers} workers")]
    TooFewAnswers {
        /// The workers that have answered.
        answered: usize,
        /// The number of workers.
        workers: usize,
    },
    /// An answer is missing that was said to be there.
    #[error("the answer of worker {worker} to its part {part} is missing")]
    MissingAnswer {
        /// The worker.
        worker: usize,
        /// The part.
        part: usize,
    },
    /// Two gradients have different lengths.
    #[error("a gradient has {found} elements, but the others have {expected}")]
    Length {
        /// The length of the others.
        expected: usize,
        /// Its length.
        found: usize,
    },
}

/// The most rounds of a window `W`. A scheme has parts for each round of its window, and models take their turns.
pub const LONGEST_WINDOW: usize = 1000;

/// Refuses bursts and windows of a sequential scheme that are out of range.
fn check_rounds(burst: usize, window: usize) -> Result<(), OutOfRange> {
    range::within("burst", burst, 1..=LONGEST_WINDOW - 1)?;
    range::check(
        window > burst && window <= LONGEST_WINDOW,
        "window",
        window,
        format!("greater than the burst, {burst}, and at most {LONGEST_WINDOW}"),
    )
}

/// When a round ends after the cut-off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitRule {
    /// If the stragglers fit no model of the scheme, all workers are waited for. As in the paper's code.
    ForAll,
    /// As soon as the stragglers fit a model of the scheme.
    UntilModelHolds,
    /// As soon as every open job would still be decoded in time if nobody straggled any more.
    #[default]
    UntilRecoverable,
}

choices! {
    WaitRule: "wait rule" {
        "for-all" => Self::ForAll, "Wait for all workers if the stragglers fit no model of the scheme";
        "until-model-holds" => Self::UntilModelHolds, "Wait until the stragglers fit a model of the scheme";
        "until-recoverable" => Self::UntilRecoverable, "Wait until no open job is lost";
    }
}

/// A weight of the answer to one mini-task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodingTerm {
    /// The worker, from 0.
    pub worker: usize,
    /// The number of the mini-task among the worker's mini-tasks of the job.
    pub part: usize,
    /// The factor of the answer in the gradient.
    pub weight: f64,
}

/// Who computes what in which round, and how the gradient follows from the answers; see the [module
/// documentation](self).
///
/// Every job has the same chunks. A worker has [`parts`](Self::parts) mini-tasks in each job; the answer to one is a
/// [`combination`](Self::combination) of the gradients of some chunks.
pub trait CodingScheme: std::fmt::Debug + Send + Sync {
    /// The name with the parameters.
    fn label(&self) -> String;

    /// `n`.
    fn workers(&self) -> usize;

    /// `T`: the rounds between a job's start and the one at whose end it must be decoded.
    fn delay(&self) -> usize;

    /// `L`: the share of a batch that a worker processes in a round.
    fn load(&self) -> f64;

    /// The number of mini-tasks that each worker has in each job.
    fn parts(&self) -> usize;

    /// The share of a batch that one mini-task processes.
    fn part_load(&self) -> f64;

    /// The share of the batch in every chunk; their sum is 1.
    fn chunk_shares(&self) -> Vec<f64>;

    /// The chunks of a worker's mini-task, with the factors of their gradients in its answer.
    ///
    /// # Errors
    /// If the code has no usable coefficients.
    fn combination(&self, worker: usize, part: usize) -> Result<Vec<(usize, f64)>, CodingError>;

    /// Patterns of stragglers that never lose a job, if all of a run fits one of them.
    fn models(&self) -> Vec<StragglerModel>;

    /// The mini-tasks of every worker in the history's round.
    fn assign(&self, history: &History) -> Vec<Vec<MiniTask>>;

    /// Whether every open job would be decoded in time if the round ended now and nobody straggled any more.
    fn recoverable(&self, history: &History) -> bool;

    /// Whether the returned answers of a job determine its gradient.
    fn decodable(&self, returned: &Returned) -> bool;

    /// The answers whose sum with these weights is the gradient, in a fixed order.
    ///
    /// # Errors
    /// If the answers do not determine it.
    fn decoding(&self, returned: &Returned) -> Result<Vec<DecodingTerm>, CodingError>;

    /// Computes the coefficients of the code, if it has any, and checks that gradients can be decoded with them. Call
    /// it before a run, so that no error comes in the middle.
    ///
    /// # Errors
    /// If the code is ill-conditioned.
    fn prepare(&self) -> Result<(), CodingError>;
}

/// A worker's answer to a mini-task.
///
/// - `gradient`: the gradient of a chunk, `[d]`
///
/// # Errors
/// If the coefficients are unusable, `gradient` fails, or the gradients differ in length.
///
/// ```
/// use nabla_share::sequential_gradient_coding::{CodeKind, CodingError, GradientCode, encode};
///
/// // Two groups of two workers; worker 1 has the chunks 0 and 1.
/// let code = GradientCode::new(4, 1, CodeKind::Repetition)?;
/// let answer = encode(&code, 1, 0, |chunk| Ok::<_, CodingError>(vec![chunk as f32, 1.0]))?;
/// assert_eq!(answer, [1.0, 2.0]);
/// # Ok::<(), CodingError>(())
/// ```
pub fn encode<T: Number, E: From<CodingError>>(
    scheme: &(impl CodingScheme + ?Sized),
    worker: usize,
    part: usize,
    mut gradient: impl FnMut(usize) -> Result<Vec<T>, E>,
) -> Result<Vec<T>, E> {
    let mut sum = LinearCombination::new();
    for (chunk, factor) in scheme.combination(worker, part)? {
        sum.add(factor, &gradient(chunk)?)?;
    }
    Ok(sum.rounded())
}

/// The gradient of a job, decoded from the answers.
///
/// - `returned`: which answers there are
/// - `answer`: the answer of a worker to a part, `[d]`
///
/// # Errors
/// If the answers do not determine the gradient, or differ in length.
pub fn decode<'a, T: Number>(
    scheme: &(impl CodingScheme + ?Sized),
    returned: &Returned,
    answer: impl Fn(usize, usize) -> Option<&'a [T]>,
) -> Result<Vec<T>, CodingError> {
    let mut sum = LinearCombination::new();
    for term in scheme.decoding(returned)? {
        let (worker, part) = (term.worker, term.part);
        let values = answer(worker, part).ok_or(CodingError::MissingAnswer { worker, part })?;
        sum.add(term.weight, values)?;
    }
    Ok(sum.rounded())
}

/// The rule for one round; see [`WaitRule`].
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    rule: WaitRule,
    /// Whether the rule has decided to wait for all.
    for_all: bool,
}

impl Waiting {
    pub fn new(rule: WaitRule) -> Self {
        Self {
            rule,
            for_all: false,
        }
    }

    /// Whether the round may end with the answers that have been recorded. To be asked first at the cut-off.
    pub fn is_over(&mut self, scheme: &dyn CodingScheme, history: &History) -> bool {
        if history.missing().iter().all(|&straggles| !straggles) {
            return true;
        }
        let fits = || history.fits_a_model();
        match self.rule {
            WaitRule::ForAll => {
                self.for_all = self.for_all || !fits();
                !self.for_all
            }
            WaitRule::UntilModelHolds => fits(),
            WaitRule::UntilRecoverable => scheme.recoverable(history),
        }
    }
}

#[cfg(test)]
mod tests;
