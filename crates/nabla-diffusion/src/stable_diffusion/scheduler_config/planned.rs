//! Samplers for plans, and what they share with those for a number of steps.

use super::{OWN, ScheduledSampler, SchedulerConfig, SchedulerError};
use crate::autodiffusion::{Plan, planned_options};
use crate::sampler::{Grid, Sampler};
use crate::schedule::NoiseSchedule;
use crate::stable_diffusion::sampler_choice::SamplerChoice;

impl SchedulerConfig {
    /// Creates a sampler that takes the steps of a plan, from standard normal noise, whatever the plan's first step is.
    ///
    /// - `choice`: the sampler; by default the file's own
    ///
    /// # Errors
    /// If the sampler or an option does not exist, an option of that sampler is not implemented, or the plan has a step
    /// that the training schedule has not.
    pub fn planned_sampler(
        &self,
        choice: &SamplerChoice,
        plan: &Plan,
    ) -> Result<ScheduledSampler, SchedulerError> {
        let choice = match choice {
            SamplerChoice::Named { name, options } => {
                let name = match name {
                    Some(name) => name,
                    None => self.sampler_name()?,
                };
                SamplerChoice::named(name).with_options(&planned_options(name, options)?)
            }
            own => own.clone(),
        };
        let (name, solver) = self.chosen(&choice)?;
        let training = self.training_for(name)?;
        let schedule = training.respace_to(&plan.steps().collect::<Vec<_>>())?;
        let end = self.final_alpha_bar(name, solver.grid(), &training)?;
        let schedule = schedule.with_final_alpha_bar(end)?;
        Ok(ScheduledSampler {
            sampler: Sampler::new(solver, schedule)?,
            start_scale: 1.0,
        })
    }

    /// The training schedule as a sampler needs it.
    pub(super) fn training_for(&self, name: &str) -> Result<NoiseSchedule, SchedulerError> {
        let training = self.training_schedule()?;
        let last = training.steps() - 1;
        if training.alpha_bar(last) > 0.0 || matches!(name, "ddim" | "ddpm" | OWN) {
            return Ok(training);
        }
        // These samplers need a finite σ: the smallest positive half-precision number replaces 0.
        let mut alpha_bars = training.alpha_bars().to_vec();
        alpha_bars[last] = f64::powi(2.0, -24);
        Ok(NoiseSchedule::from_alpha_bars(&alpha_bars)?)
    }

    /// `ᾱ` after the last step.
    pub(super) fn final_alpha_bar(
        &self,
        name: &str,
        rule: Grid,
        training: &NoiseSchedule,
    ) -> Result<f64, SchedulerError> {
        let least_noise = match name {
            "ddim" => self.set_alpha_to_one == Some(false),
            "pndm" | "s-pndm" | "plms" => self.set_alpha_to_one != Some(true),
            // This class has no other end.
            "deis" => true,
            _ if name == "euler" || rule == Grid::WithoutLowest => self.final_sigma_is_least()?,
            _ => false,
        };
        Ok(if least_noise {
            training.alpha_bar(0)
        } else {
            1.0
        })
    }
}
