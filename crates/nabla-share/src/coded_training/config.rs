//! How workers train with coded gradients.

use std::time::Duration;

use nabla_base::range;
use serde::{Deserialize, Serialize};

use crate::sequential_gradient_coding::run::{CodedRun, DeathRule};
use crate::sequential_gradient_coding::{
    CodeKind, CodingError, CodingScheme, GradientCode, MSgc, SrSgc, WaitRule,
};

/// The scheme by which gradients are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Coding {
    /// No chunk is computed twice, and all workers are waited for.
    Uncoded,
    /// Gradient coding, GC(n, s).
    Gc {
        /// `s`, the stragglers of a round.
        stragglers: usize,
    },
    /// Selective repetition.
    SrSgc {
        /// `B`, the rounds in a row in which a worker straggles.
        burst: usize,
        /// `W`, a multiple of `B` plus 1.
        window: usize,
        /// `λ`, the stragglers of `W` rounds.
        stragglers: usize,
    },
    /// Multiplexed.
    MSgc {
        /// `B`, the rounds in a row in which a worker straggles.
        burst: usize,
        /// `W`, greater than `B`.
        window: usize,
        /// `λ`, the stragglers of `W` rounds.
        stragglers: usize,
    },
}

nabla_base::choices! {
    Coding: "coding" {
        "uncoded" => Self::Uncoded, "No chunk twice: all workers are waited for";
        "gc" => Self::Gc { stragglers: 1 }, "Gradient coding: every chunk at several workers";
        "sr-sgc" => Self::SrSgc { burst: 1, window: 2, stragglers: 1 }, "Sequential, lost chunks are computed again";
        "m-sgc" => Self::MSgc { burst: 1, window: 2, stragglers: 1 }, "Sequential, with chunks that are only computed again when lost";
    }
}

impl Coding {
    /// The same coding for another number of stragglers, if it tolerates any.
    #[must_use]
    pub fn with_stragglers(self, stragglers: usize) -> Option<Self> {
        match self {
            Self::Uncoded => None,
            Self::Gc { .. } => Some(Self::Gc { stragglers }),
            Self::SrSgc { burst, window, .. } => Some(Self::SrSgc {
                burst,
                window,
                stragglers,
            }),
            Self::MSgc { burst, window, .. } => Some(Self::MSgc {
                burst,
                window,
                stragglers,
            }),
        }
    }

    /// The same coding for another burst or window, if it is sequential.
    #[must_use]
    pub fn with_rounds(self, burst: Option<usize>, window: Option<usize>) -> Option<Self> {
        match self {
            Self::Uncoded | Self::Gc { .. } => None,
            Self::SrSgc {
                burst: b,
                window: w,
                stragglers,
            } => Some(Self::SrSgc {
                burst: burst.unwrap_or(b),
                window: window.unwrap_or(w),
                stragglers,
            }),
            Self::MSgc {
                burst: b,
                window: w,
                stragglers,
            } => Some(Self::MSgc {
                burst: burst.unwrap_or(b),
                window: window.unwrap_or(w),
                stragglers,
            }),
        }
    }
}

/// How workers train with coded gradients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CodingConfig {
    /// `n`, the workers; the leader is one rank more. Default 4.
    pub workers: usize,
    /// The scheme. Default gradient coding for one straggler.
    pub coding: Coding,
    /// How chunks are shared out. Default repetition where it fits.
    pub code: CodeKind,
    /// `M`, the models that are trained in turn; 0, the default, for `T + 1`, the fewest.
    pub models: usize,
    /// μ: a round is cut off at `1 + μ` times the time of the fastest worker. Default 1.
    pub tolerance: f64,
    /// What happens after the cut-off. Default: until no open job is lost.
    pub rule: WaitRule,
    /// What happens when a worker has died. Default: another one does its tasks.
    pub deaths: DeathRule,
    /// Seconds after which a silent worker is dead; it must be longer than a measurement of the model. Default 600.
    pub time_limit: f64,
}

impl Default for CodingConfig {
    fn default() -> Self {
        Self {
            workers: 4,
            coding: Coding::Gc { stragglers: 1 },
            code: CodeKind::Fitting,
            models: 0,
            tolerance: 1.0,
            rule: WaitRule::default(),
            deaths: DeathRule::default(),
            time_limit: 600.0,
        }
    }
}

impl CodingConfig {
    /// The scheme.
    ///
    /// # Errors
    /// If a number is out of range, or the code is none for so many workers.
    pub fn scheme(&self) -> Result<Box<dyn CodingScheme>, CodingError> {
        let n =
            range::within("number of workers", self.workers, 1..=1024).map(|()| self.workers)?;
        range::within("time limit in seconds", self.time_limit, 0.1..=1e6)?;
        range::not_negative("tolerance", self.tolerance)?;
        // Every model has a thread.
        range::within("number of models", self.models, 0..=1024)?;
        // Nobody stands in for a single worker.
        if self.coding != Coding::Uncoded {
            range::at_least("number of workers with coded gradients", n, 2)?;
        }
        Ok(match self.coding {
            Coding::Uncoded => Box::new(GradientCode::uncoded(n)?),
            Coding::Gc { stragglers } => Box::new(GradientCode::new(n, stragglers, self.code)?),
            Coding::SrSgc {
                burst,
                window,
                stragglers,
            } => Box::new(SrSgc::new(n, burst, window, stragglers, self.code)?),
            Coding::MSgc {
                burst,
                window,
                stragglers,
            } => Box::new(MSgc::new(n, burst, window, stragglers, self.code)?),
        })
    }

    /// The models that are trained in turn.
    pub fn models_for(&self, scheme: &dyn CodingScheme) -> usize {
        match self.models {
            0 => scheme.delay() + 1,
            models => models,
        }
    }

    /// The longest time that a rank waits for another one.
    pub fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.time_limit)
    }

    pub(super) fn run(&self, scheme: &dyn CodingScheme, jobs: usize) -> CodedRun {
        CodedRun {
            jobs,
            models: self.models_for(scheme),
            tolerance: match self.coding {
                // There is nothing that could be left out.
                Coding::Uncoded => f64::MAX,
                _ => self.tolerance,
            },
            rule: self.rule,
            deaths: self.deaths,
        }
    }
}
