//! The common parts of descents without gradients: perturbations, schedules, the line search, and errors.

use burn::config::Config;
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{NotFinite, add_scaled, dot, finite, moved, norm};
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Deserializer};

/// The reason why a run cannot start, continue or be resumed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ZerothOrderError {
    /// A number of the configuration is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// More points are to be named than exist.
    #[error(
        "the best {best} of {candidates} points were requested, but the number must be 1 to {candidates}"
    )]
    Best {
        /// The requested number.
        best: usize,
        /// Of how many points.
        candidates: usize,
    },
    /// There is no start.
    #[error("the start has no coordinates")]
    Empty,
    /// A coordinate of the start or of a saved state is not finite.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// The answer belongs to another question.
    #[error(
        "the answer names {best} of {candidates} points, but the question is for {expected_best} of \
         {expected_candidates}"
    )]
    Answer {
        /// Named in the answer.
        best: usize,
        /// Points of the answer.
        candidates: usize,
        /// Asked for.
        expected_best: usize,
        /// Points of the question.
        expected_candidates: usize,
    },
    /// The steps lead to numbers that are not finite.
    #[error("the point is no longer finite: lower the step size")]
    Diverged,
    /// The saved state is impossible.
    #[error("the saved state does not fit: {0}")]
    State(&'static str),
}

/// The reason why a run with an oracle stopped.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum RunError<E: std::error::Error + 'static> {
    /// The oracle did not answer. The run is in the state before the question and can continue.
    #[error("the oracle did not answer: {0}")]
    Oracle(#[source] E),
    /// The run cannot continue.
    #[error(transparent)]
    Run(#[from] ZerothOrderError),
}

/// The distribution of the perturbations `ξ`.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Directions {
    /// Independent `N(0, I)`, of length about `√d`, as in the paper.
    Gaussian,
    /// Independent and uniform on the unit sphere. Steps and perturbations are `√d` times shorter than
    /// with Gaussian ones of the same μ and η.
    Sphere,
    /// Of length 1 and orthogonal to each other, up to `d` at a time; each one by itself is uniform on the
    /// sphere.
    Orthogonal,
}

/// How a step size or a perturbation changes over the iterations `t = 1, 2, …`.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Not at all.
    Constant,
    /// By `1/√t`.
    InverseSquareRoot,
}

impl Schedule {
    pub(crate) fn at(self, value: f64, iteration: u64) -> f64 {
        match self {
            Self::Constant => value,
            Self::InverseSquareRoot => value / (iteration as f64).sqrt(),
        }
    }
}

/// The line search along the direction; see [`zo_rank_sgd`](crate::zo_rank_sgd).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct LineSearch {
    /// Points in the question, `l`, including the current point. Default 5.
    #[config(default = 5)]
    pub candidates: usize,
    /// Each step is shorter than the one before by this factor, `γ`, in (0, 1). Default 0.5.
    #[config(default = 0.5)]
    pub shrink: f64,
    /// Whether the best perturbed point of each ranking replaces a step. Default false.
    #[config(default = false)]
    pub best_perturbed: bool,
    /// Whether the direction is the mean of all estimates since the last move. Default false.
    #[config(default = false)]
    pub accumulate: bool,
}

impl LineSearch {
    /// The variant for human feedback (algorithm 3), with `candidates` points in the question.
    pub fn human_feedback(candidates: usize) -> Self {
        Self::new()
            .with_candidates(candidates)
            .with_best_perturbed(true)
            .with_accumulate(true)
    }

    /// # Errors
    /// If a value is out of range; `others` of the points are neither steps nor the current point.
    pub(crate) fn check(self, others: usize) -> Result<(), ZerothOrderError> {
        let name = "number of points in the line search";
        range::at_least(name, self.candidates, others.saturating_add(2))?;
        let name = "shrinking factor of the line search";
        Ok(range::between(name, self.shrink, 0.0, 1.0)?)
    }

    /// `x − η γ^i g`.
    pub(crate) fn trial(
        self,
        point: &[f64],
        step_size: f64,
        direction: &[f64],
        i: usize,
    ) -> Vec<f64> {
        let shrink = self.shrink.powi(i32::try_from(i).unwrap_or(i32::MAX));
        moved(point, -step_size * shrink, direction)
    }
}

/// Everything that a run needs to continue, saved and loaded unchanged; impossible states are refused.
pub(crate) trait RunState: Sized {
    fn check(&self) -> Result<(), ZerothOrderError>;

    fn checked(self) -> Result<Self, ZerothOrderError> {
        self.check()?;
        Ok(self)
    }
}

/// Loads a state: `deserialize_with` of the field of a run.
pub(crate) fn load<'de, S, D>(deserializer: D) -> Result<S, D::Error>
where
    S: RunState + Deserialize<'de>,
    D: Deserializer<'de>,
{
    let state = S::deserialize(deserializer)?;
    state.checked().map_err(serde::de::Error::custom)
}

/// Checks that a run can be at a point.
pub(crate) fn check_point(point: &[f64]) -> Result<(), ZerothOrderError> {
    match point.is_empty() {
        true => Err(ZerothOrderError::Empty),
        false => Ok(finite("point", point)?),
    }
}

impl Directions {
    /// `count` perturbations of `dimension` coordinates, `[count, dimension]` row-major, from one
    /// stream of a seed.
    pub fn draw(self, count: usize, dimension: usize, seed: u64, stream: u64) -> Vec<f64> {
        let mut noise = SeededNoise::new(seed, stream);
        let mut rows: Vec<f64> = Vec::with_capacity(count * dimension);
        while rows.len() < count * dimension {
            let normal = noise.normal_values(dimension);
            let mut row: Vec<f64> = normal.into_iter().map(f64::from).collect();
            if self != Self::Gaussian {
                // Project twice, because the first projection leaves an error of the size of rounding
                // relative to the rest of the row.
                let drawn = norm(&row);
                if self == Self::Orthogonal {
                    let first = rows.len() / dimension / dimension * dimension;
                    for _ in 0..2 {
                        for other in rows[first * dimension..].chunks_exact(dimension) {
                            let along = dot(other, &row);
                            add_scaled(&mut row, -along, other);
                        }
                    }
                }
                let length = norm(&row);
                // Vectors without an independent direction are drawn again.
                if length <= 1e-6 * drawn {
                    continue;
                }
                row.iter_mut().for_each(|r| *r /= length);
            }
            rows.extend(row);
        }
        rows
    }
}
