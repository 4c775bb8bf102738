//! The levels that the classes of diffusers visit.

use crate::level::{Level, alpha_bar_from_sigma, sigma_from_alpha_bar};
use crate::schedule::{NoiseSchedule, ScheduleError, Spacing};
use crate::sigma_spacing::SigmaSpacing;

/// The levels of a run, the cleanest first.
pub(super) struct Visited<'a> {
    pub(super) training: &'a NoiseSchedule,
    pub(super) spacing: Spacing,
    pub(super) steps: usize,
    pub(super) sigmas: Option<SigmaSpacing>,
}

/// The time that the network gets at a level between two training steps.
#[derive(Clone, Copy)]
pub(super) enum Told {
    Fraction,
    Nearest,
    Below,
}

impl Visited<'_> {
    /// Whole training steps.
    pub(super) fn whole_steps(&self) -> Result<Vec<Level>, ScheduleError> {
        if let Some(spacing) = self.sigmas {
            return self.over_training(spacing, Told::Fraction);
        }
        let kept = self.spacing.timesteps(self.training.steps(), self.steps)?;
        Ok(kept.into_iter().map(|t| self.training.level(t)).collect())
    }

    /// Times that may lie between training steps, with `σ` interpolated linearly.
    ///
    /// - `karras`: the time of Karras levels
    pub(super) fn interpolated(&self, karras: Told) -> Result<Vec<Level>, ScheduleError> {
        let last = (self.training.steps() - 1) as f64;
        let levels = match self.spacing {
            // A single step is step 0, as in NumPy.
            Spacing::Linspace => (0..self.steps)
                .map(|i| last * i as f64 / (self.steps.max(2) - 1) as f64)
                .map(|t| self.linear_in_sigma(t))
                .collect(),
            _ => Self {
                sigmas: None,
                ..*self
            }
            .whole_steps()?,
        };
        let Some(spacing) = self.sigmas else {
            return Ok(levels);
        };
        let told = match spacing {
            SigmaSpacing::Karras => karras,
            _ => Told::Fraction,
        };
        let (low, high) = (levels[0].sigma(), levels[self.steps - 1].sigma());
        Ok(self.at_sigmas(&spacing.sigmas(low, high, self.steps)?, told))
    }

    /// Some of the `original` steps for which a consistency model was distilled.
    pub(super) fn distilled(&self, original: usize) -> Result<Vec<Level>, ScheduleError> {
        if let Some(spacing) = self.sigmas {
            return self.over_training(spacing, Told::Fraction);
        }
        let available = original.min(self.training.steps());
        if self.steps > available {
            return Err(ScheduleError::Steps {
                asked: self.steps,
                available,
            });
        }
        let stride = self.training.steps() / available;
        Ok((0..self.steps)
            .rev()
            .map(|k| (available - k * available / self.steps) * stride - 1)
            .map(|t| self.training.level(t))
            .collect())
    }

    /// Spaced levels over the whole training schedule.
    fn over_training(
        &self,
        spacing: SigmaSpacing,
        told: Told,
    ) -> Result<Vec<Level>, ScheduleError> {
        let last = self.training.steps() - 1;
        let (low, high) = (self.training.sigma(0), self.training.sigma(last));
        Ok(self.at_sigmas(&spacing.sigmas(low, high, self.steps)?, told))
    }

    /// DPM-Solver's grid: one more point, without the lowest one.
    ///
    /// - `end`: training steps from this one on are not used
    /// - `below`: whether all spaced levels get the time of the step below
    pub(super) fn without_lowest(
        &self,
        end: usize,
        below: bool,
    ) -> Result<Vec<Level>, ScheduleError> {
        if let Some(spacing) = self.sigmas {
            let told = match spacing {
                SigmaSpacing::Karras | SigmaSpacing::Lu if !below => Told::Nearest,
                _ => Told::Below,
            };
            return self.over_training(spacing, told);
        }
        let kept: Vec<usize> = match self.spacing {
            Spacing::Linspace => Spacing::Linspace.timesteps(end, self.steps + 1)?,
            Spacing::Leading { offset } => {
                let stride = end / (self.steps + 1);
                (0..=self.steps).map(|k| k * stride + offset).collect()
            }
            Spacing::Trailing => {
                let stride = self.training.steps() as f64 / self.steps as f64;
                let mut kept: Vec<usize> = (0..self.steps)
                    .map(|k| (end as f64 - k as f64 * stride).round_ties_even())
                    .take_while(|&t| t >= 1.0)
                    .map(|t| t as usize - 1)
                    .collect();
                // The position of the lowest point, which is not in this grid.
                kept.push(0);
                kept.reverse();
                kept
            }
        };
        kept.into_iter()
            .skip(1)
            .enumerate()
            .map(|(index, t)| match t < self.training.steps() {
                true => Ok(self.training.level(t)),
                false => Err(ScheduleError::Respacing {
                    index,
                    value: t,
                    available: self.training.steps(),
                }),
            })
            .collect()
    }

    fn linear_in_sigma(&self, timestep: f64) -> Level {
        let below = (timestep.floor() as usize).min(self.training.steps() - 1);
        let above = (below + 1).min(self.training.steps() - 1);
        let weight = timestep - below as f64;
        let alpha_bar = match weight {
            0.0 => self.training.alpha_bar(below),
            _ => {
                let sigma = |t: usize| sigma_from_alpha_bar(self.training.alpha_bar(t));
                alpha_bar_from_sigma((1.0 - weight) * sigma(below) + weight * sigma(above))
            }
        };
        Level::variance_preserving(timestep, alpha_bar)
    }

    /// - `sigmas`: falling
    fn at_sigmas(&self, sigmas: &[f64], told: Told) -> Vec<Level> {
        let level = |&sigma: &f64| {
            let level = self.training.level_of_sigma(sigma);
            match told {
                Told::Fraction => level,
                Told::Nearest => level.with_time(level.time().round_ties_even()),
                Told::Below => level.with_time(level.time().floor()),
            }
        };
        sigmas.iter().rev().map(level).collect()
    }
}
