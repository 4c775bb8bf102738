//! The program `nabla`: one file per job in `jobs/`.
//!
//! Exit codes: 0 done; 1 a claim or a job failed while it ran; 2 the input or the command line is
//! wrong; 130 interrupted. Whatever goes wrong is told in one line on the standard error.

mod dashboard;
mod devices;
mod errors;
mod interrupt;
mod jobs;
mod loss_plot;
mod output;
mod picture_files;
mod precision;
mod progress;
mod recipe_file;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::errors::{Failure, quiet_panics, told_panic};

/// Everything you can do with a gradient.
#[derive(Parser)]
#[command(name = "nabla", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Make a 360-degree panorama sharper, or a folder of them; without IN the bundled sample
    Upscale(jobs::upscale::Arguments),
    /// Make pictures from a text with a Stable Diffusion model: from noise, a picture, or within a mask
    Sample(jobs::sample::Arguments),
    /// Compare a panorama with its reference: PSNR, SSIM, WS-PSNR, WS-SSIM, seam, poles
    Evaluate(jobs::evaluate::Arguments),
    /// Turn a panorama into tangent planes or a cube map, and back
    Project(jobs::project::Arguments),
    /// Train a classifier with any optimizer, or the networks that other jobs use
    Train(jobs::train::Arguments),
    /// Compare optimizers, each with the learning rate that suits it
    Compare(jobs::compare::Arguments),
    /// Solve a LIBSVM problem: a model with a certificate of how good it is
    Solve(jobs::solve::Arguments),
    /// List, run and report the measured claims of the methods
    Claims(jobs::claims::Arguments),
    /// List every method with its paper, its state and what became of its claim
    List(jobs::list::Arguments),
    /// Show what this program is made of, and check each device
    Doctor(jobs::doctor::Arguments),
}

fn run(job: Job) -> Result<(), Failure> {
    match job {
        Job::Upscale(arguments) => jobs::upscale::run(&arguments),
        Job::Sample(arguments) => jobs::sample::run(&arguments),
        Job::Evaluate(arguments) => jobs::evaluate::run(&arguments),
        Job::Project(arguments) => jobs::project::run(&arguments),
        Job::Train(arguments) => jobs::train::run(&arguments),
        Job::Compare(arguments) => jobs::compare::run(&arguments),
        Job::Solve(arguments) => jobs::solve::run(&arguments),
        Job::Claims(arguments) => jobs::claims::run(&arguments),
        Job::List(arguments) => jobs::list::run(&arguments),
        Job::Doctor(arguments) => jobs::doctor::run(&arguments),
    }
}

fn main() -> ExitCode {
    quiet_panics();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let job = match CommandLine::try_parse() {
            Ok(command_line) => command_line.job,
            Err(error) => match error.kind() {
                ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    // Nobody is left to tell if the text cannot be written.
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
        run(job).map_err(Some)
    }));
    let failure = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(None)) => return ExitCode::from(2),
        Ok(Err(Some(failure))) => failure,
        Err(panic) => told_panic(panic.as_ref()),
    };
    eprintln!("nabla: {failure}");
    failure.exit_code()
}
