//! Neural ODEs and SDEs that are fitted to trajectories: data at irregular times, with gaps, of any lengths.
//!
//! ```text
//! ordinary      z' = f(z, t)                             f, g: networks of tanh layers
//! stochastic    dz = f(z, t) dt + g(z, t) dW,  g > 0     noise of its own for each number, in the sense of Itô
//! ```
//!
//! `z` are the columns of the data, less their means and divided by their standard deviations, and time is divided by that
//! in which a number changes by about one standard deviation ([`Scaling`]); both are saved with the model.
//!
//! # Ordinary equations
//! **Multiple shooting.** Each trajectory is cut into windows of some rows, each of which begins in the middle of the one
//! before. A window is solved from its first row, and the loss is the mean squared error of all numbers that were observed
//! after it. The windows of a batch are solved together, each in the time `s ∈ [0, 1]` of its own, `dz/ds = T f(z, t_0 + T s)`,
//! and read at the union of their times: the solver's steps do not depend on those.
//!
//! In each step, a window begins at any complete row before the next one does: from a few starts alone, a network learns
//! their noise.
//!
//! **A growing horizon.** In the first half of the training, windows are shorter: from two rows on, they grow to their whole
//! length. A long window of a bad model is chaos, and its gradient tells nothing.
//!
//! **Gaps.** Numbers that are missing in the first row of a window are parameters, which are learnt beside the network; they
//! begin between the observations before and after. Where a window ends in such a row of the next, its end is compared with
//! that parameter, so that the windows are pieces of one trajectory. Other gaps are left out of the loss.
//!
//! # Stochastic equations
//! The loss is the negative log likelihood of the data. Between two rows, mean and covariance follow the equation linearised
//! around the mean,
//!
//! ```text
//! m' = f(m, t),     P' = J P + P Jᵀ + diag(g(m, t)²),     J = ∂f/∂z at m
//! ```
//!
//! in a number of midpoint steps: exact in the limit for linear drift and additive noise, and with the error of Euler and
//! Maruyama's density in a higher order. What is observed in a row is then known: `m` and `P` are conditioned on it, number
//! by number, and the density of each number given those before is its likelihood. A complete row leaves `P = 0`, so that
//! windows of two rows have the whole likelihood; a gap leaves a variance. Numbers that are missing in the first row have the
//! mean and the variance of the data.
//!
//! # Measured
//! The last fifth of each trajectory is held out, or a fifth of the trajectories if there are five or more. The error of a
//! forecast is the root mean square over all numbers that follow the first row of a window, in standard deviations of their
//! columns. It stands beside that of two forecasts without a network: the last value carried on, and the solution of
//! `z' = A z + b` with the least squares for the slopes between two rows. A gap in the row where a forecast begins is
//! filled with the last value seen.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use nabla_data::trajectories::{Trajectories, TrajectoryOptions};
//! use nabla_physics::fitted::{Fit, FitConfig, Start};
//!
//! let rows: String = (0..30).map(|i| format!("{i},{}\n", (0.3 * f64::from(i)).sin())).collect();
//! let table = Trajectories::parse(format!("t,a\n{rows}").as_bytes(), &TrajectoryOptions::default())?;
//! let config = FitConfig { steps: 3, hidden: vec![8], ..FitConfig::default() };
//! let mut fit = Fit::new(&config, &table)?;
//! fit.run(None, &mut |_| ControlFlow::Continue(()))?;
//! let fitted = fit.finish()?;
//! assert!(fitted.report.training.model.is_some());
//! let start = Start { name: String::new(), time: 0.0, values: vec![0.0] };
//! let path = fitted.model.simulate(&start, &[1.0, 2.0], &fitted.model.config().solver)?;
//! assert_eq!(path.values.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Sources: Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*, 2018, arXiv 1806.07366; Bock,
//! Plitt, *A Multiple Shooting Algorithm for Direct Solution of Optimal Control Problems*, 1984, and Turan, Jäschke, *Multiple
//! Shooting for Training Neural Differential Equations on Time Series*, 2021, arXiv 2109.06786; Särkkä, Solin, *Applied
//! Stochastic Differential Equations*, 2019, chapter 9 (moments of the linearised equation), and Shoji, Ozaki, *Estimation for
//! Nonlinear Stochastic Differential Equations by a Local Linearization Method*, 1998.

use nabla_base::range::OutOfRange;
use nabla_train::error::TrainingError;
use nabla_train::network_folder::NetworkFolderError;
use nabla_train::optimizer::OptimizerError;

use crate::solve_error::SolveError;

mod baselines;
mod forecast;
mod model;
mod settings;
mod shooting;
mod simulation;
mod training;
mod transition;
mod windows;

pub use forecast::{Errors, Report};
pub use model::{CONFIG_FILE, FittedConfig, FittedModel, FittedNetwork};
pub use settings::{
    ActivationName, AdjointName, FitConfig, Kind, MethodName, Regularisation, SolverSettings,
};
pub use simulation::{Path, Quantiles, Start};
pub use training::{Fit, Fitted, Learnt, Measured};
pub use windows::Scaling;

/// Why a model cannot be fitted or simulated.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The training failed, or cannot begin.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The optimizer is none.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// The model cannot be read or written.
    #[error(transparent)]
    Folder(#[from] NetworkFolderError),
    /// Steps of one length without their length.
    #[error("the method {0} has no error estimate to find its steps by: give their length")]
    NoStep(&'static str),
    /// Settings that exclude each other.
    #[error("{0}")]
    Together(&'static str),
    /// A trajectory is too short.
    #[error(
        "{} has {rows} row(s), but at least 2 are needed to learn from",
        told(name)
    )]
    TooShort {
        /// Of the trajectory.
        name: String,
        /// Its rows.
        rows: usize,
    },
    /// A column has no value to learn from.
    #[error(
        "the column {0:?} has no values in the part that is learnt: leave it out, or hold out less"
    )]
    Unseen(String),
    /// A column has numbers too large to square.
    #[error("the column {0:?} has numbers too large to compute with")]
    TooLarge(String),
    /// The solver failed.
    #[error(
        "{} cannot be followed beyond the time {time}: {reason}",
        told(trajectory)
    )]
    Solve {
        /// The trajectory.
        trajectory: String,
        /// In the data's unit.
        time: f64,
        /// Why.
        reason: String,
    },
    /// The solver cannot solve this at all.
    #[error(transparent)]
    Solver(SolveError),
    /// A start has too few numbers or too many.
    #[error("the start has {found} numbers, but the model has {expected} columns")]
    Start {
        /// How many it has.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A stochastic equation was expected.
    #[error("the model is an ordinary equation, which has one path from each start")]
    NotStochastic,
    /// Saved numbers do not fit each other.
    #[error("the model's configuration is wrong: {0}")]
    Config(String),
}

impl FitError {
    /// Whether it failed while it ran, rather than the input being wrong.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Training(error) => error.is_failure(),
            Self::Solve { .. } | Self::Solver(_) => true,
            _ => false,
        }
    }
}

fn told(trajectory: &str) -> String {
    match trajectory {
        "" => "the trajectory".to_owned(),
        name => format!("the trajectory {name:?}"),
    }
}

/// The error of a solver, at its place in the data.
///
/// - `place`: the name of a trajectory of the batch, and what is a time of the solver in the data's unit
fn located(error: SolveError, place: impl Fn(usize, f64) -> (String, f64)) -> FitError {
    let (row, time, reason) = match &error {
        SolveError::NotFinite { time, trajectory } => (
            *trajectory,
            *time,
            "the equation's right side is not finite",
        ),
        SolveError::Underflow {
            time, trajectory, ..
        } => (
            *trajectory,
            *time,
            "the steps of the solver underflow, so its tolerance is too small or the solution goes to infinity",
        ),
        SolveError::TooManySteps { time, .. } => (
            0,
            *time,
            "the solver needs too many steps, so the equation may be stiff: try rodas4",
        ),
        SolveError::Singular { time, trajectory } => (
            *trajectory,
            *time,
            "the linear system of a step has no solution",
        ),
        _ => return FitError::Solver(error),
    };
    let (trajectory, time) = place(row, time);
    FitError::Solve {
        trajectory,
        time,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
