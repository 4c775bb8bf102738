//! `nabla train generator`: a small generator of pictures for `nabla audit leakage --generator DIR`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use nabla::base::words::{count, duration};
use nabla::private::leakage::decoder::{Decoder, DecoderConfig};
use nabla::private::leakage::decoder_training::DecoderTraining;
use nabla::train::data_set::{DataConfig, DataSet, Standardization};
use nabla::train::error::TrainingError;
use nabla::train::examples::InputShape;
use nabla::train::experiment::files;
use serde::Serialize;

use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::loss_plot::mean;
use crate::recipe_file::create_folder;
use crate::seeds::SeedFlag;
use crate::training_progress::TrainingProgress;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The folder of the generator, where an interrupted training continues
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// The pictures: digits, fashion, or a folder with those of a data set
    #[arg(long, value_name = "NAME|DIR", default_value = "fashion")]
    data: String,
    /// The length of the latent vector
    #[arg(long, value_name = "N", default_value_t = 16)]
    latent: usize,
    /// Units of each stage but the last
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [64, 256])]
    hidden: Vec<usize>,
    /// How often each picture is seen
    #[arg(long, value_name = "N", default_value_t = DecoderTraining::default().epochs)]
    epochs: usize,
    #[command(flatten)]
    seed: SeedFlag,
    #[command(flatten)]
    device: DeviceFlag,
}

fn failed(error: TrainingError) -> Failure {
    match error.is_failure() {
        true => Failure::run(error),
        false => Failure::input(error),
    }
}

/// A data set whose pixels stay as they are, from 0 to 1.
pub fn of_pixels(source: &str) -> DataConfig {
    let mut data = DataConfig {
        standardization: Standardization::None,
        ..DataConfig::default()
    };
    data.switch_to(source);
    data
}

/// Pictures with values from 0 to 1, and their shape.
pub fn open_pictures(source: &str) -> Result<(DataSet, [usize; 3]), Failure> {
    let data = of_pixels(source).open().map_err(Failure::input)?;
    match data.shape {
        InputShape::Picture(shape) => Ok((data, shape)),
        InputShape::Row(_) => Err(Failure::input(format!(
            "{source} has rows of numbers, but pictures are expected"
        ))),
    }
}

#[derive(Serialize)]
struct Trained {
    folder: PathBuf,
    pictures: usize,
    steps: usize,
    /// Mean over the last tenth of the steps.
    loss: f64,
    seconds: f64,
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let device = self.device.open()?;
        let (data, shape) = open_pictures(&self.data)?;
        let config = DecoderConfig {
            shape,
            latent: self.latent,
            hidden: self.hidden.clone(),
        };
        let training = DecoderTraining {
            epochs: self.epochs,
            seed: self.seed.value(),
            ..DecoderTraining::default()
        };
        let begun = Instant::now();
        Decoder::check(&self.out).map_err(Failure::input)?;
        let mut trainer = training
            .trainer(&config, &data.training.features, &device)
            .map_err(failed)?;
        let checkpoint = self.out.join(files::CHECKPOINT);
        if checkpoint.exists() {
            trainer = trainer.resume(&checkpoint).map_err(failed)?;
            let (done, asked) = (trainer.step(), trainer.steps());
            if done > asked {
                // The last one may have been broken off.
                let epochs = self.epochs as f64 * done as f64 / asked as f64;
                let epochs = format!("{epochs:.1}");
                return Err(Failure::input(format!(
                    "the generator in {} already has {} epochs, more than --epochs {}: give at least as many, or another \
                     folder",
                    self.out.display(),
                    epochs.trim_end_matches(".0"),
                    self.epochs
                )));
            }
        }
        create_folder(&self.out)?;
        let progress = context.progress();
        let mut told = TrainingProgress::new(progress, "training the generator");
        trainer
            .run(Some(&checkpoint), &mut |step| {
                told.step(step.step, step.steps, &step.record);
                context.go_on()
            })
            .map_err(failed)?;
        context.check()?;
        progress.finish();
        trainer
            .model()
            .decoder()
            .save(&config, &self.out)
            .map_err(Failure::input)?;
        let losses = trainer.history().losses();
        let tail = &losses[losses.len() - losses.len().div_ceil(10)..];
        let trained = Trained {
            folder: self.out.clone(),
            pictures: data.training.len(),
            steps: losses.len(),
            loss: mean(tail),
            seconds: begun.elapsed().as_secs_f64(),
        };
        context.report(&trained, || {
            format!(
                "{} on {} in {}, loss {:.2}\nuse it with: nabla audit leakage --generator {}\n",
                count(trained.steps, "step"),
                count(trained.pictures, "picture"),
                duration(trained.seconds),
                trained.loss,
                self.out.display()
            )
        })
    }
}
