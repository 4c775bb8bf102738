//! Learning rates over the steps of a training.
//!
//! With `S` steps, of which the first `W = ⌈warmup · S⌉` (or a given number) warm up, step `t` (from 0) has
//! the learning rate `η · f(t)`:
//!
//! ```text
//! warm-up    f = (t + 1)/W                                          for t < W
//! p = (t − W)/(S − W)                                               after it
//! constant   f = 1
//! step       f = factorᵏ, k of the given shares of the training are over (t/S ≥ share)
//! cosine     f = floor + (1 − floor)(1 + cos(π p))/2
//! linear     f = 1 − (1 − floor) p
//! cosine-to-last   as cosine, but p = (t + 1 − W)/(S − W): the last step is at the floor
//! cosine-restarts  as cosine, but p = ((t − W) mod P)/P with a period of P steps
//! ```
//!
//! Sources: the steps are those of He et al. 2015 (arXiv 1512.03385, divided by 10 at 1/2 and 3/4);
//! the cosine: Loshchilov, Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, 2016, arXiv
//! 1608.03983, with and without restarts; the warm-up: Goyal et al., *Accurate, Large Minibatch SGD*, 2017,
//! arXiv 1706.02677.

use std::f64::consts::PI;

use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Decay {
    /// Not at all.
    Constant,
    /// Multiplied by `factor` at each of the shares `at` of the training.
    Step {
        /// Shares of the training, in `[0, 1]`. Default 0.5 and 0.75.
        #[serde(default = "half_and_three_quarters")]
        at: Vec<f64>,
        /// Default 0.1.
        #[serde(default = "a_tenth")]
        factor: f64,
    },
    /// Along half a period of the cosine.
    Cosine {
        /// The final share, in `[0, 1]`. Default 0.
        #[serde(default)]
        floor: f64,
    },
    /// Like `Cosine`, but the last step is at the floor, not the one that would follow it.
    CosineToLast {
        /// The final share, in `[0, 1]`. Default 0.
        #[serde(default)]
        floor: f64,
    },
    /// Along half a period of the cosine, again and again.
    CosineRestarts {
        /// The steps from one restart to the next, at least 1.
        period: usize,
        /// The share at the end of a period, in `[0, 1]`. Default 0.
        #[serde(default)]
        floor: f64,
    },
    /// Along a straight line.
    Linear {
        /// The final share, in `[0, 1]`. Default 0.
        #[serde(default)]
        floor: f64,
    },
}

nabla_base::choices! {
    Decay: "schedule" {
        "constant" => Self::Constant, "Not at all";
        "step" => Self::steps(), "By a factor of 10 at 1/2 and at 3/4 of the training";
        "cosine" => Self::Cosine { floor: 0.0 }, "To 0 along a cosine";
        "linear" => Self::Linear { floor: 0.0 }, "To 0 along a straight line";
    }
}

fn half_and_three_quarters() -> Vec<f64> {
    vec![0.5, 0.75]
}

fn a_tenth() -> f64 {
    0.1
}

impl Default for Decay {
    fn default() -> Self {
        Self::Cosine { floor: 0.0 }
    }
}

impl Decay {
    /// The decay by steps with the defaults.
    pub fn steps() -> Self {
        Self::Step {
            at: half_and_three_quarters(),
            factor: a_tenth(),
        }
    }
}

/// A schedule of learning rates; see the [module documentation](self).
///
/// ```
/// use nabla_train::schedule::{Decay, Schedule};
/// let decay = Decay::Linear { floor: 0.0 };
/// let schedule = Schedule { decay, warmup: 0.5, ..Schedule::default() };
/// let shares: Vec<f64> = (0..4).map(|t| schedule.share(t, 4)).collect();
/// assert_eq!(shares, [0.5, 1.0, 1.0, 0.5]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// After the warm-up. Default: cosine to 0.
    pub decay: Decay,
    /// The share of the training that warms up, in `[0, 1)`. Default 0.
    pub warmup: f64,
    /// The number of steps that warm up, instead of a share. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<usize>,
}

impl Schedule {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        let share = |name: &'static str, value: f64| {
            range::check((0.0..=1.0).contains(&value), name, value, "in [0, 1]")
        };
        range::check(
            (0.0..1.0).contains(&self.warmup),
            "schedule's warmup",
            self.warmup,
            "at least 0 and less than 1",
        )?;
        match &self.decay {
            Decay::Constant => Ok(()),
            Decay::Step { at, factor } => {
                at.iter()
                    .try_for_each(|&value| share("schedule's place of a step", value))?;
                range::positive("schedule's factor", *factor)
            }
            Decay::CosineRestarts { period, floor } => {
                range::at_least("schedule's period", *period, 1)?;
                share("schedule's floor", *floor)
            }
            Decay::Cosine { floor } | Decay::CosineToLast { floor } | Decay::Linear { floor } => {
                share("schedule's floor", *floor)
            }
        }
    }

    /// Whether the learning rate is the same in all steps, however many there are.
    pub fn is_constant(&self) -> bool {
        self.decay == Decay::Constant && self.warmup == 0.0 && self.warmup_steps.unwrap_or(0) == 0
    }

    /// `f(t)`: the share of the learning rate in step `step` (from 0) of `steps`.
    pub fn share(&self, step: usize, steps: usize) -> f64 {
        let share = (self.warmup * steps as f64).ceil() as usize;
        let warm = self.warmup_steps.unwrap_or(share);
        if step < warm {
            return (step + 1) as f64 / warm as f64;
        }
        let progress = (step - warm) as f64 / (steps.max(warm + 1) - warm) as f64;
        let progress = progress.min(1.0);
        match &self.decay {
            Decay::Constant => 1.0,
            Decay::Step { at, factor } => {
                let share = step as f64 / steps.max(1) as f64;
                let passed = at.iter().filter(|&&at| share >= at).count();
                factor.powi(passed as i32)
            }
            Decay::Cosine { floor } => floor + (1.0 - floor) * 0.5 * (1.0 + (PI * progress).cos()),
            Decay::CosineToLast { floor } => {
                let length = steps.saturating_sub(warm).max(1) as f64;
                let done = ((step + 1 - warm) as f64 / length).min(1.0);
                floor + (1.0 - floor) * 0.5 * (1.0 + (PI * done).cos())
            }
            Decay::CosineRestarts { period, floor } => {
                let period = (*period).max(1);
                let done = ((step - warm) % period) as f64 / period as f64;
                floor + (1.0 - floor) * 0.5 * (1.0 + (PI * done).cos())
            }
            Decay::Linear { floor } => 1.0 - (1.0 - floor) * progress,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of torch.optim.lr_scheduler (see `tests/reference/training.py`).
    #[test]
    fn schedules_are_those_of_torch() {
        let at = |decay: &Decay, warmup, steps, t| {
            let schedule = Schedule {
                decay: decay.clone(),
                warmup,
                warmup_steps: None,
            };
            schedule.validate().unwrap();
            schedule.share(t, steps)
        };
        // CosineAnnealingLR(T_max=10, eta_min=0.1) of rate 1.
        let cosine = Decay::Cosine { floor: 0.1 };
        for (t, expected) in [
            (0, 1.0),
            (3, 0.814_503_363_531_612_9),
            (5, 0.55),
            (9, 0.122_024_567_667_180_92),
        ] {
            assert!((at(&cosine, 0.0, 10, t) - expected).abs() < 1e-12, "{t}");
        }
        // MultiStepLR(milestones=[5, 7], gamma=0.1) of ten steps.
        let step = Decay::Step {
            at: vec![0.5, 0.7],
            factor: 0.1,
        };
        let found: Vec<f64> = (0..10).map(|t| at(&step, 0.0, 10, t)).collect();
        let expected = [1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01, 0.01];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12);
        }
        let warm: Vec<f64> = (0..8).map(|t| at(&Decay::Constant, 0.5, 8, t)).collect();
        assert_eq!(warm, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]);
    }

    /// Values of torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(T_0=4, eta_min=0.1) of rate 1.
    #[test]
    fn restarts_are_those_of_torch() {
        let schedule = Schedule {
            decay: Decay::CosineRestarts {
                period: 4,
                floor: 0.1,
            },
            ..Schedule::default()
        };
        schedule.validate().unwrap();
        let expected = [
            1.0,
            0.868_198_051_533_946_4,
            0.55,
            0.231_801_948_466_053_68,
            1.0,
            0.868_198_051_533_946_4,
        ];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!(
                (schedule.share(step, 100) - expected).abs() < 1e-12,
                "{step}"
            );
        }
        let never = Schedule {
            decay: Decay::CosineRestarts {
                period: 0,
                floor: 0.0,
            },
            ..Schedule::default()
        };
        assert!(never.validate().is_err());
    }

    /// A warm-up of some steps, and a cosine whose last step is at the floor.
    #[test]
    fn the_last_step_is_at_the_floor() {
        let schedule = Schedule {
            decay: Decay::CosineToLast { floor: 0.1 },
            warmup: 0.0,
            warmup_steps: Some(10),
        };
        assert_eq!(schedule.share(4, 110), 0.5);
        assert_eq!(schedule.share(9, 110), 1.0);
        assert!((schedule.share(59, 110) - 0.55).abs() < 1e-12);
        assert!((schedule.share(109, 110) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let told = |schedule: Schedule| schedule.validate().unwrap_err().to_string();
        let warmup = Schedule {
            warmup: 1.0,
            ..Schedule::default()
        };
        assert_eq!(
            told(warmup),
            "the schedule's warmup is 1, but it must be at least 0 and less than 1"
        );
        for decay in [
            Decay::Cosine { floor: -0.1 },
            Decay::Linear { floor: f64::NAN },
            Decay::Step {
                at: vec![1.5],
                factor: 0.1,
            },
            Decay::Step {
                at: vec![0.5],
                factor: 0.0,
            },
        ] {
            told(Schedule {
                decay,
                ..Schedule::default()
            });
        }
    }
}
