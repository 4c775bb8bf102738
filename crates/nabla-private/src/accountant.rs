//! The accounts of privacy: what a training with noisy gradients reveals about an example, at most.
//!
//! A training is `(ε, δ)`-differentially private if an example's presence changes the probability of any outcome by
//! at most a factor of `e^ε`, apart from a probability of `δ`. The [`History`] says what was done: phases of steps of
//! the Poisson-subsampled Gaussian mechanism, for neighbouring data sets that differ by one example more or less. An
//! [`Accountant`] computes `ε` for a `δ`, or `δ` for an `ε`. [`accountants`] lists all of them:
//!
//! | Name | `ε` is | Time |
//! |---|---|---|
//! | [`rdp`] | an upper bound, often 5 to 20 % too high, and much more if little is revealed | 1 ms |
//! | [`pld`] | an upper bound, too high by the error of its grid, 1e-5 | 0.01 to 3 s |
//! | [`prv`] | an upper bound, with an estimate and a lower bound | 0.01 to 3 s |
//! | [`gaussian`] | exact, for a sampling rate of 1 | 1 µs |
//!
//! ```
//! use nabla_private::accountant::{History, accountants};
//!
//! let history = History::new().with(1.1, 0.01, 1000)?;
//! let spent = accountants().get("pld")?.epsilon(&history, 1e-5)?;
//! assert!((spent.epsilon - 1.5).abs() < 0.1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`calibrate::noise_multiplier`] finds the noise that a budget needs.
//!
//! Your own accountant is an implementation of [`Accountant`]; with a line in [`accountants`], or by
//! [`with`](Registry::with) in your program, it has a name.

use std::fmt::Debug;

use nabla_base::OutOfRange;
use nabla_base::range;
use nabla_base::registry::Registry;
use serde::Serialize;

pub(crate) mod bisection;
pub mod calibrate;
mod composition;
pub mod gaussian;
mod history;
mod log_sum;
mod normal;
pub mod pld;
pub(crate) mod privacy_loss;
pub mod prv;
pub mod rdp;

pub use history::{History, NOISE_MULTIPLIERS, Phase};

use composition::Composition;

/// The reason why there is no account.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AccountError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The accountant `gaussian` was asked about samples.
    #[error(
        "the accountant gaussian knows only steps on all examples, but a sampling rate is {rate}: ask rdp, pld or prv"
    )]
    Sampled {
        /// The first sampling rate that isn't 1.
        rate: f64,
    },
    /// The steps that were already done have spent the budget.
    #[error(
        "an ε of {epsilon} cannot be reached: by the accountant {accountant}, what was done before has spent {spent}"
    )]
    Spent {
        /// The `ε` to reach.
        epsilon: f64,
        /// The `ε` of the earlier steps.
        spent: f64,
        /// The accountant.
        accountant: &'static str,
    },
    /// No noise is enough for the budget.
    #[error(
        "an ε of {epsilon} cannot be reached: by the accountant {accountant}, even a noise multiplier of {noise} \
         gives {reached}"
    )]
    Unreachable {
        /// The `ε` to reach.
        epsilon: f64,
        /// The `ε` with the most noise.
        reached: f64,
        /// The most noise.
        noise: f64,
        /// The accountant.
        accountant: &'static str,
    },
}

/// What has been revealed, for a `δ`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Epsilon {
    /// What may be promised: the true value is not larger.
    pub epsilon: f64,
    /// The accountant's best guess of the true value.
    pub estimate: Option<f64>,
    /// The true value is not smaller.
    pub lower: Option<f64>,
    /// The Rényi order of the bound.
    pub order: Option<f64>,
}

impl Epsilon {
    /// An upper bound, and nothing else.
    pub fn at_most(epsilon: f64) -> Self {
        Self {
            epsilon,
            estimate: None,
            lower: None,
            order: None,
        }
    }

    /// The true value.
    pub fn exactly(epsilon: f64) -> Self {
        Self {
            estimate: Some(epsilon),
            lower: Some(epsilon),
            ..Self::at_most(epsilon)
        }
    }
}

/// Computes what has been revealed; see the [module](self).
pub trait Accountant: Debug + Send + Sync {
    /// The name, as used in commands.
    fn name(&self) -> &'static str;

    /// The least `ε` that the accountant can promise for a `δ`, 0 if nothing was done.
    ///
    /// # Errors
    /// If `δ` isn't between 0 and 1, or is below 1e-100, an option of the accountant is out of range, or it can't judge this history.
    fn epsilon(&self, history: &History, delta: f64) -> Result<Epsilon, AccountError>;

    /// The least `δ` that the accountant can promise for an `ε`, 0 if nothing was done.
    ///
    /// # Errors
    /// If `ε` is negative or infinite, an option of the accountant is out of range, or it can't judge this history.
    fn delta(&self, history: &History, epsilon: f64) -> Result<f64, AccountError>;
}

/// All accountants by name.
pub fn accountants() -> Registry<Box<dyn Accountant>> {
    fn boxed<A: Accountant + 'static>(accountant: A) -> Box<dyn Accountant> {
        Box::new(accountant)
    }
    Registry::new("accountant")
        .with(
            "rdp",
            "Rényi divergences: fast, an upper bound",
            rdp::Rdp::default(),
            boxed,
        )
        .with(
            "pld",
            "the distribution of the privacy loss: a tight upper bound",
            pld::Pld::default(),
            boxed,
        )
        .with(
            "prv",
            "the same by another method, with a proven lower bound",
            prv::Prv::default(),
            boxed,
        )
        .with(
            "gaussian",
            "exact, for a sampling rate of 1",
            gaussian::Gaussian {},
            boxed,
        )
}

/// The smallest `δ`: with smaller ones, f64 has too few numbers to be exact with.
const LEAST_DELTA: f64 = 1e-100;

/// Checks the `δ` of a question.
fn check_delta(delta: f64) -> Result<(), OutOfRange> {
    match delta > 0.0 && delta < LEAST_DELTA {
        true => range::at_least("delta", delta, LEAST_DELTA),
        false => range::between("delta", delta, 0.0, 1.0),
    }
}

/// Checks the `ε` of a question.
fn check_epsilon(epsilon: f64) -> Result<(), OutOfRange> {
    range::not_negative("epsilon", epsilon)
}

/// Checks the size of a grid.
fn check_points(accountant: &str, points: usize) -> Result<(), AccountError> {
    Ok(range::check(
        points.is_power_of_two() && (1 << 10..=1 << 26).contains(&points),
        format!("number of points of the accountant {accountant}"),
        points,
        "a power of two from 1024 to 67108864",
    )?)
}

/// Whether the total variation of all steps is at most `δ`, so that `ε` is 0.
fn reveals_nothing(history: &History, delta: f64) -> bool {
    let (sampled, mu) = history.sampled_and_mu();
    let between = |mu: f64| libm::erf(mu / 8_f64.sqrt());
    let of_phase =
        |p: &Phase| p.steps() as f64 * p.sampling_rate() * between(1.0 / p.noise_multiplier());
    sampled.iter().map(of_phase).sum::<f64>() + between(mu) <= delta
}

/// How much of the probability may be left out when `δ` is asked for an `ε`: a billionth of `δ`, or less.
fn left_out_for_epsilon(history: &History, epsilon: f64) -> f64 {
    let scale = |composition: Composition| {
        let tilt = composition.tilt_for_epsilon(epsilon);
        // Chernoff's bound, less what it is too high by.
        let width = composition.window(tilt).width();
        tilt.log_delta(epsilon) - (tilt.s * width).ln_1p()
    };
    let scales = Composition::directions(history, f64::MIN_POSITIVE)
        .into_iter()
        .map(scale);
    let delta: f64 = scales.fold(f64::NEG_INFINITY, f64::max).exp();
    (1e-9 * delta).clamp(f64::MIN_POSITIVE, 1e-9)
}
