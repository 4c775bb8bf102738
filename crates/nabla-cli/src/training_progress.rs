//! The progress of a training as a bar, with a line about the loss now and then.

use nabla::base::progress::ProgressSink;
use nabla::train::history::StepRecord;

use crate::progress::Progress;

/// The number of last steps over which a reported loss is averaged.
pub const REPORTED: usize = 100;

/// What is told about a training, which may continue one that was broken off.
pub struct TrainingProgress<'a> {
    progress: &'a Progress,
    stage: &'static str,
    begun: bool,
    sum: f64,
}

impl<'a> TrainingProgress<'a> {
    /// - `stage`: such as `training the denoiser`
    pub fn new(progress: &'a Progress, stage: &'static str) -> Self {
        Self {
            progress,
            stage,
            begun: false,
            sum: 0.0,
        }
    }

    /// Tells of a step.
    ///
    /// - `step`, `steps`: done, and in all
    pub fn step(&mut self, step: usize, steps: usize, record: &StepRecord) {
        match self.begun {
            true => self.progress.advance(1),
            false => {
                self.progress.begin(self.stage, steps as u64);
                self.progress.advance(step as u64);
                self.begun = true;
            }
        }
        self.sum += f64::from(record.loss.unwrap_or_default());
        if step.is_multiple_of(REPORTED) {
            let (loss, rate) = (self.sum / REPORTED as f64, record.learning_rate);
            let line = format!("step {step}: loss {loss:.5}, learning rate {rate:.1e}");
            self.progress.note(&line);
            self.sum = 0.0;
        }
    }
}
