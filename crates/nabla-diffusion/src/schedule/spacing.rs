//! The training steps that a shorter schedule keeps.

use burn::config::Config;

use super::ScheduleError;
use crate::sigma_spacing::linspace;

/// The training steps that a shorter schedule keeps (Lin et al., table 2).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Spacing {
    /// `round(linspace(0, T − 1, N))`, with both ends, as in Improved DDPM, StableSR and OmniSSR. A single
    /// step is step 0, so use at least 2.
    Linspace,
    /// `k ⌊T/N⌋ + offset`, as in DDIM: never the last step. Stable Diffusion uses `offset` 1.
    Leading {
        /// Added to every step.
        offset: usize,
    },
    /// `round(T − (N − 1 − k) T/N) − 1`: always the last step.
    Trailing,
}

impl Spacing {
    /// The `count` steps kept out of `steps`, in rising order. Halves round to even, as in NumPy.
    ///
    /// # Errors
    /// If `count` is 0 or more than `steps`, or the offset pushes a step out of the schedule.
    pub fn timesteps(self, steps: usize, count: usize) -> Result<Vec<usize>, ScheduleError> {
        if count == 0 || count > steps {
            return Err(ScheduleError::Steps {
                asked: count,
                available: steps,
            });
        }
        let kept: Vec<usize> = match self {
            Self::Linspace => linspace(0.0, (steps - 1) as f64, count)
                .map(|t| t.round_ties_even() as usize)
                .collect(),
            Self::Leading { offset } => (0..count).map(|k| k * (steps / count) + offset).collect(),
            Self::Trailing => {
                let stride = steps as f64 / count as f64;
                (0..count)
                    .rev()
                    .map(|k| (steps as f64 - k as f64 * stride).round_ties_even() as usize - 1)
                    .collect()
            }
        };
        match kept.iter().position(|&t| t >= steps) {
            Some(index) => Err(ScheduleError::Respacing {
                index,
                value: kept[index],
                available: steps,
            }),
            None => Ok(kept),
        }
    }
}
