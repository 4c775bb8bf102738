//! `nabla solve`: a LIBSVM problem in, a model out, and how far from the optimum it can be.

mod block_descent;
mod model_file;
mod predict;
mod problem_file;
mod relu_network;
mod separation;
mod steps;

use clap::{Args, Subcommand};

use crate::errors::Failure;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Regression, classification, label propagation by block coordinate descent
    Bcd(Box<block_descent::Arguments>),
    /// A hyperplane between two classes by normalized logistic regression or perceptrons
    Separate(Box<separation::Arguments>),
    /// A two-layer ReLU network, trained to global optimality as a convex program
    Relu(Box<relu_network::Arguments>),
    /// Apply a model that one of the others wrote
    Predict(predict::Arguments),
}

/// Does the job.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.task {
        Task::Bcd(arguments) => block_descent::run(arguments),
        Task::Separate(arguments) => separation::run(arguments),
        Task::Relu(arguments) => relu_network::run(arguments),
        Task::Predict(arguments) => predict::run(arguments),
    }
}
