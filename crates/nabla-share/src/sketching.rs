//! Sketching: gradient descent and federated averaging whose messages are sketches, in both directions.
//!
//! `N` clients minimise the mean of their losses `f_c`, with weights `w` of `d` numbers. The clients and the server
//! exchange `s` numbers in a round, far fewer than `d`. All of them draw the matrix of the round,
//! `R ∈ R^{s×d}` with `E RᵀR = I`, from a common seed, so that it is never sent:
//!
//! ```text
//! round t:  R = family(seed, t)                          a new matrix in every round
//!   client c:  u = w;  K times: u ← u − η_loc ∇f_c(u)    the whole local loss, or a minibatch
//!              send y_c = R (u − w)                      s numbers up
//!   server:    y = η_glob (1/N) Σ_c y_c;  broadcast y    s numbers down
//!   all:       w ← w + Rᵀ y
//! ```
//!
//! With `K = 1` and `η_glob = 1` this is sketched gradient descent, `w ← w − η RᵀR ∇f(w)`. What is sketched is the
//! change of the model, and `Rᵀ y` is unbiased, so there is neither error feedback nor a search for heavy hitters. The
//! server holds nothing of size `d`.
//!
//! **Steps.** `RᵀR g` has the right mean, but is longer than `g`: `E‖RᵀR g‖² = (1 + α) ‖g‖²` with `α` about `d/s`
//! ([`second_moment`](LinearSketch::second_moment)). So in the worst case, the rates are those of gradient descent with
//! `(1 + α) L` instead of `L`, for the step `1/((1 + α) L)` ([`worst_case_step`]): what a round saves, more rounds cost.
//! The worst case is a Hessian `A` whose eigenvalues are all large. With the [variance](LinearSketch::variance) `v` of
//! the family, at most `1/s`,
//!
//! ```text
//! E[RᵀR A RᵀR] ≼ (1 + v) A + v tr(A) I
//! ```
//!
//! so that the step may be `1/((1 + v) L + v tr A)` ([`effective_rank_step`]): instead of `d`, it is the effective rank
//! `tr(A)/L` that counts, and for `s` well above it nothing is lost. With `K` local steps, a step is a `K`-th of this.
//!
//! The matrix must be [drawn anew](Matrices::Fresh) in every round. One that [stays](Matrices::Fixed) confines `w` to
//! `s` dimensions.
//!
//! **Privacy.** A sketch hides nothing: who knows the seed solves for the data once `s` is at least the number of
//! unknowns. A [`Client`] of your own can send what is private; `nabla_private::private_sketch` has the noise for it.
//!
//! [`SketchedAveraging::run`] is one client on any [`Communicator`]; rank 0 is the server, too. A message is the round,
//! the identity of the matrix, and the numbers, so that ranks that disagree about round, seed, family or sizes get an
//! error that says so. Sums are taken in the order of the ranks: threads and processes have the same bits.
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::time::Duration;
//!
//! use nabla_grad::SketchFamily;
//! use nabla_share::communicator::{Communicator, threads};
//! use nabla_share::sketching::{LocalDescent, LocalLoss, SketchedAveraging, SketchingError, SketchingState};
//!
//! /// `½ ‖w − c‖²` with another `c` at every client.
//! struct Distance(f64);
//!
//! impl LocalLoss for Distance {
//!     fn examples(&self) -> usize {
//!         1
//!     }
//!
//!     fn gradient(&self, w: &[f64], _: &[usize]) -> Vec<f64> {
//!         w.iter().map(|w| w - self.0).collect()
//!     }
//! }
//!
//! let method = SketchedAveraging { family: SketchFamily::Srht, length: 16, ..SketchedAveraging::default() };
//! let found = threads::run(3, Duration::from_secs(10), |ranks| -> Result<_, SketchingError> {
//!     let mut client = LocalDescent::new(Distance(ranks.rank() as f64));
//!     client.step = 0.2;
//!     let mut state = SketchingState::new(vec![0.0; 60]);
//!     method.run(ranks, &mut client, &mut state, 150, |_| ControlFlow::Continue(()))?;
//!     Ok(state.weights)
//! })?;
//! // The mean of 0, 1 and 2.
//! assert!(found.iter().flatten().all(|w| (w - 1.0).abs() < 1e-3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Song, Wang, Yu, Zhang, *Sketching for First Order Method: Efficient Algorithm for Low-Bandwidth Channel and
//! Vulnerability*, ICML 2023, arXiv 2210.08371 (the method and its worst case; the step by the effective rank is our
//! own derivation).

use std::error::Error;
use std::ops::ControlFlow;

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::add_scaled;
use nabla_grad::compressor::WireError;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::sketch::{DrawnSketch, LinearSketch, SketchError, SketchFamily, SketchMessage};
use serde::{Deserialize, Serialize};

use crate::communicator::{Communicator, CommunicatorError, Tag};

mod local;
mod state;

pub use local::{LocalDescent, LocalLoss};
pub use state::SketchingState;

/// The reason why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum SketchingError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A matrix cannot be drawn, or a change is not finite: the steps are too long.
    #[error(transparent)]
    Sketch(#[from] SketchError),
    /// A rank is in another round.
    #[error(
        "rank {rank} is in round {found}, but this rank in round {expected}: all must begin with the same state"
    )]
    Round {
        /// The other rank.
        rank: usize,
        /// Its round.
        found: u64,
        /// The round of this rank.
        expected: u64,
    },
    /// A rank has drawn another matrix, or its message is damaged.
    #[error(
        "the message of rank {rank} in round {round} is refused: all ranks need the same seed, family and sizes ({source})"
    )]
    Message {
        /// The sender.
        rank: usize,
        /// The round.
        round: u64,
        /// What is wrong with it.
        source: WireError,
    },
    /// A message is too short to be one.
    #[error("rank {rank} sent {found} bytes, which are no message of a round")]
    Short {
        /// The sender.
        rank: usize,
        /// The bytes.
        found: usize,
    },
    /// A gradient has another length than the weights.
    #[error("the gradient of client {client} must have {expected} elements, but it has {found}")]
    Gradient {
        /// The client.
        client: usize,
        /// The number of weights.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// A client of your own has failed.
    #[error("client {client} failed in round {round}: {source}")]
    Client {
        /// The client.
        client: usize,
        /// The round.
        round: u64,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A saved state is damaged.
    #[error("the state of a sketched averaging cannot be read: it has {0} bytes")]
    State(usize),
    /// The ranks cannot communicate. It is a cause of its own, so that a rank that has ended is found among the causes.
    #[error("{0}")]
    Communicator(#[from] CommunicatorError),
}

/// Which matrix a round has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Matrices {
    /// A new one in every round.
    #[default]
    Fresh,
    /// That of the first round in all of them, which confines the weights to `s` dimensions: only to measure what is
    /// lost.
    Fixed,
}

/// What a client knows in a round.
#[derive(Clone, Copy)]
pub struct Round<'a> {
    /// The number of the round, from 0.
    pub number: u64,
    /// The number of the client, its rank.
    pub client: usize,
    /// The common weights `w`, `[d]`.
    pub weights: &'a [f64],
    /// `R`, `[s, d]`.
    pub sketch: &'a dyn LinearSketch,
}

/// What a client answers in a round.
pub trait Client {
    /// The sketch of its change, `y_c`, `[s]`.
    ///
    /// # Errors
    /// If it has none.
    fn answer(&mut self, round: Round<'_>) -> Result<Vec<f64>, SketchingError>;
}

/// What an observer sees after every round, at rank 0.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The rounds made.
    pub rounds: u64,
    /// `w`, with the same bits on every rank, `[d]`.
    pub weights: &'a [f64],
    /// Bytes that a client has sent.
    pub up: u64,
    /// Bytes that a client has received.
    pub down: u64,
}

/// The method; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SketchedAveraging {
    /// Of the matrices. Default the subsampled randomised Hadamard transform.
    pub family: SketchFamily,
    /// `s`. Default 64.
    pub length: usize,
    /// Whether every round has a matrix of its own. Default yes.
    pub matrices: Matrices,
    /// `η_glob`. Default 1.
    pub global_step: f64,
    /// From which all ranks draw the matrices. Default 0.
    pub seed: u64,
}

impl Default for SketchedAveraging {
    fn default() -> Self {
        Self {
            family: SketchFamily::Srht,
            length: 64,
            matrices: Matrices::default(),
            global_step: 1.0,
            seed: 0,
        }
    }
}

const UP: Tag = Tag::new(0x534b);

impl SketchedAveraging {
    /// The matrix of a round, for `dimension` weights.
    ///
    /// # Errors
    /// If the family has none of this size.
    pub fn matrix(&self, round: u64, dimension: usize) -> Result<DrawnSketch, SketchError> {
        let stream = match self.matrices {
            Matrices::Fresh => round,
            Matrices::Fixed => 0,
        };
        let mut noise = SeededNoise::new(self.seed, stream);
        self.family.draw(self.length, dimension, &mut noise)
    }

    /// Runs rounds at this rank until `rounds` have been made in all, or the observer, which only rank 0 asks, breaks.
    /// All ranks call this with the same settings and states.
    ///
    /// # Errors
    /// If a setting is out of range, a change is not finite, the ranks disagree, or one of them fails.
    pub fn run<C: Communicator + ?Sized>(
        &self,
        ranks: &mut C,
        client: &mut dyn Client,
        state: &mut SketchingState,
        rounds: u64,
        mut observe: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<(), SketchingError> {
        range::positive("global step η_glob", self.global_step)?;
        while state.round < rounds {
            let round = state.round;
            let sketch = self.matrix(round, state.weights.len())?;
            let own = client.answer(Round {
                number: round,
                client: ranks.rank(),
                weights: &state.weights,
                sketch: &*sketch,
            })?;
            let own = SketchMessage::of_sketched(&*sketch, &own)?;
            let bytes = framed(round, &own);
            state.up += bytes.len() as u64;
            let mut down = Vec::new();
            if ranks.rank() == 0 {
                let mean = self.mean(ranks, &own, round, &*sketch)?;
                let mean = SketchMessage::of_sketched(&*sketch, &mean)?;
                // The server is the first to step, so that its observer can stop everyone in this round.
                move_along(&mut state.weights, &*sketch, &mean)?;
                down = framed(round, &mean);
                let seen = observe(Progress {
                    rounds: round + 1,
                    weights: &state.weights,
                    up: state.up,
                    down: state.down + down.len() as u64 + 1,
                });
                down.push(u8::from(seen.is_break()));
            } else {
                ranks.send(0, UP, &bytes)?;
            }
            ranks.broadcast(0, &mut down)?;
            state.down += down.len() as u64;
            state.round += 1;
            let Some((stop, message)) = down.split_last() else {
                return Err(SketchingError::Short { rank: 0, found: 0 });
            };
            if ranks.rank() != 0 {
                let mean = read(message, 0, round, &*sketch)?;
                move_along(&mut state.weights, &*sketch, &mean)?;
            }
            if *stop != 0 {
                break;
            }
        }
        Ok(())
    }

    /// `η_glob (1/N) Σ_c y_c` at the server, in the order of the ranks.
    fn mean<C: Communicator + ?Sized>(
        &self,
        ranks: &mut C,
        own: &SketchMessage,
        round: u64,
        sketch: &dyn LinearSketch,
    ) -> Result<Vec<f64>, SketchingError> {
        let factor = self.global_step / ranks.size() as f64;
        let mut sum = own.values();
        for rank in 1..ranks.size() {
            let bytes = ranks.receive(rank, UP)?;
            let message = read(&bytes, rank, round, sketch)?;
            add_scaled(&mut sum, 1.0, &message.values());
        }
        sum.iter_mut().for_each(|sum| *sum *= factor);
        Ok(sum)
    }
}

/// `w ← w + Rᵀ y`.
fn move_along(
    weights: &mut [f64],
    sketch: &dyn LinearSketch,
    mean: &SketchMessage,
) -> Result<(), SketchError> {
    add_scaled(weights, 1.0, &sketch.transposed_values(&mean.values())?);
    Ok(())
}

/// The bytes of the round, and those of the message.
fn framed(round: u64, message: &SketchMessage) -> Vec<u8> {
    let mut bytes = round.to_le_bytes().to_vec();
    bytes.extend(message.to_bytes());
    bytes
}

fn read(
    bytes: &[u8],
    rank: usize,
    round: u64,
    sketch: &dyn LinearSketch,
) -> Result<SketchMessage, SketchingError> {
    let Some((found, message)) = bytes.split_first_chunk::<8>() else {
        let found = bytes.len();
        return Err(SketchingError::Short { rank, found });
    };
    let found = u64::from_le_bytes(*found);
    if found != round {
        return Err(SketchingError::Round {
            rank,
            found,
            expected: round,
        });
    }
    SketchMessage::from_bytes(message, sketch).map_err(|source| SketchingError::Message {
        rank,
        round,
        source,
    })
}

/// The step for which theory promises convergence whatever the Hessian is: `1/(K (1 + α) L)`.
///
/// - `smoothness`: `L`; `second_moment`: `1 + α`, by [`LinearSketch::second_moment`]; `local_steps`: `K`
///
/// # Errors
/// If a number is out of range.
pub fn worst_case_step(
    smoothness: f64,
    second_moment: f64,
    local_steps: usize,
) -> Result<f64, OutOfRange> {
    range::positive("smoothness L", smoothness)?;
    range::check(
        second_moment >= 1.0 && second_moment.is_finite(),
        "second moment of the sketch",
        second_moment,
        "finite and at least 1",
    )?;
    range::at_least("number of local steps", local_steps, 1)?;
    Ok(1.0 / (local_steps as f64 * second_moment * smoothness))
}

/// The step for Hessians of a known trace: `1/(K ((1 + v) L + v tr A))`.
///
/// - `smoothness`: `L`; `trace`: `tr A`, at least `L`, so that `tr(A)/L` is the effective rank
/// - `variance`: `v`, by [`LinearSketch::variance`]; `local_steps`: `K`
///
/// # Errors
/// If a number is out of range.
///
/// ```
/// // Of a Hessian with one eigenvalue, a sketch of 100 numbers costs a step of two percent.
/// let step = nabla_share::sketching::effective_rank_step(1.0, 1.0, 0.01, 1)?;
/// assert!((step - 1.0 / 1.02).abs() < 1e-12);
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
pub fn effective_rank_step(
    smoothness: f64,
    trace: f64,
    variance: f64,
    local_steps: usize,
) -> Result<f64, OutOfRange> {
    range::positive("smoothness L", smoothness)?;
    range::check(
        trace >= smoothness && trace.is_finite(),
        "trace of the Hessian",
        trace,
        "finite and at least the smoothness L",
    )?;
    range::not_negative("variance of the sketch", variance)?;
    range::at_least("number of local steps", local_steps, 1)?;
    let length = (1.0 + variance) * smoothness + variance * trace;
    Ok(1.0 / (local_steps as f64 * length))
}

#[cfg(test)]
mod tests;
