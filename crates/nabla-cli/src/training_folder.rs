//! Trainings in folders, which go on where they were broken off.

use std::ops::ControlFlow;
use std::path::Path;

use nabla::train::task::Task;
use nabla::train::trainer::Trainer;

use crate::errors::Failure;
use crate::job::Context;
use crate::recipe_file::{FolderLock, begin_folder};
use crate::training_progress::TrainingProgress;

/// Trains to the end in a folder, from its checkpoint on if it has one, and writes the recipe into it. No other training can
/// begin there while the lock is held, which is returned.
///
/// - `recipe`: its text
/// - `stage`: such as `training the denoiser`
///
/// # Errors
/// If the folder cannot be written, another training runs there, its checkpoint is that of another training, or the training
/// fails.
pub fn train_in<T: Task>(
    folder: &Path,
    mut trainer: Trainer<T>,
    recipe: &str,
    stage: &'static str,
    context: &Context,
) -> Result<(Trainer<T>, FolderLock), Failure> {
    let mut lock = FolderLock::of(folder)?;
    let checkpoint = folder.join("checkpoint.safetensors");
    if checkpoint.exists() {
        trainer = trainer.resume(&checkpoint).map_err(Failure::input)?;
    }
    // Not before: the folder may hold another training, with its recipe.
    begin_folder(&mut lock, folder, "recipe.toml", recipe)?;

    let progress = context.progress();
    let mut told = TrainingProgress::new(progress, stage);
    trainer
        .run(Some(&checkpoint), &mut |step| {
            told.step(step.step, step.steps, &step.record);
            ControlFlow::Continue(())
        })
        .map_err(Failure::run)?;
    progress.finish();
    Ok((trainer, lock))
}
