//! The program `nabla`: one file per job in `jobs/`.
//!
//! Exit codes: 0 done; 1 a claim or a job failed while it ran; 2 the input or the command line is
//! wrong; 130 interrupted. Every error is reported in one line on standard error.

mod adjoint_flags;
mod choice;
mod dashboard;
mod devices;
mod errors;
mod interrupt;
mod job;
mod jobs;
mod loss_plot;
mod output;
mod picture_files;
mod progress;
mod recipe_file;
mod seeds;
mod training_folder;
mod training_progress;
mod wrong_value;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::errors::{Failure, Kind, of_panic, quiet_panics};
use crate::job::{Of, Run, jobs};

/// Everything you can do with a gradient.
#[derive(Parser)]
#[command(name = "nabla", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    task: Task,
}

jobs! {
    enum Task {
        /// Make a 360-degree panorama sharper, or a folder of them; without IN, use the bundled sample
        Upscale(Of<jobs::upscale::Arguments>),
        /// Make pictures from a text with a Stable Diffusion model: from noise, from a picture, or within a mask
        Sample(Of<jobs::sample::Arguments>),
        /// Restore a picture or a volume from a measurement: reduced, blurred, with missing pixels, or from an MRI or CT scan
        Restore(Of<jobs::restore::Arguments>),
        /// Compare a panorama with its reference: PSNR, SSIM, WS-PSNR, WS-SSIM, seam, poles
        Evaluate(Of<jobs::evaluate::Arguments>),
        /// Turn a panorama into tangent planes or a cube map, and back
        Project(Of<jobs::project::Arguments>),
        /// Train a classifier with any optimizer, or the networks that other commands use
        #[command(subcommand)]
        Train(jobs::train::Task),
        /// Measure how good what a model makes is
        #[command(subcommand)]
        Measure(jobs::measure::Task),
        /// Search what a model should be run with
        #[command(subcommand)]
        Search(jobs::search::Task),
        /// Teach a model by a loss of its finished pictures, through all steps of the sampler
        #[command(subcommand)]
        Tune(jobs::tune::Task),
        /// Compare optimizers, each at its best learning rate, or objectives of domains, each at its best setting
        Compare(Of<jobs::compare::Arguments>),
        /// Look into a trained model: the sharpness of its loss, the coherence of its gradients
        #[command(subcommand)]
        Inspect(jobs::inspect::Task),
        /// Find out what a training or a model gives away
        #[command(subcommand)]
        Audit(jobs::audit::Task),
        /// Say what a private training reveals, by every accountant, or find the noise for a budget
        Privacy(Of<jobs::privacy::Arguments>),
        /// Solve a LIBSVM problem: get a model, and a certificate of how far it is from the optimum
        #[command(subcommand)]
        Solve(jobs::solve::Task),
        /// Go on from a state with a model that was fitted to data
        #[command(subcommand)]
        Simulate(jobs::simulate::Task),
        /// List, run and report experiments that measure what the papers claim
        #[command(subcommand)]
        Claims(jobs::claims::Task),
        /// List every method with its paper, its state and the result of its claim
        List(Of<jobs::list::Arguments>),
        /// Show how this program was built, and check each device
        Doctor(Of<jobs::doctor::Arguments>),
    }
}

fn main() -> ExitCode {
    quiet_panics();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let task = match CommandLine::try_parse() {
            Ok(command_line) => command_line.task,
            Err(error) => match error.kind() {
                ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    // If the text cannot be written, there is nowhere left to report that.
                    let _ = error.print();
                    return if error.use_stderr() {
                        Err(None)
                    } else {
                        Ok(())
                    };
                }
                _ => return Err(Some(Failure::usage(&error))),
            },
        };
        interrupt::watch()?;
        task.run().map_err(Some)
    }));
    let failure = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(None)) => return ExitCode::from(2),
        Ok(Err(Some(failure))) => failure,
        Err(panic) => of_panic(panic.as_ref()),
    };
    if failure.kind() == Kind::Interrupted {
        interrupt::end();
    }
    eprintln!("nabla: {failure}");
    failure.exit_code()
}
