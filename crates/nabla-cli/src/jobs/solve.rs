//! `nabla solve`: solves a LIBSVM problem, and states how far from the optimum the model can be; or a linear system, and states
//! its residual.

mod block_descent;
mod descent;
mod label_propagation;
mod linear_system;
mod measured_line;
mod predict;
mod problem_file;
mod relu_network;
mod separation;
mod steps;

use crate::job::{Of, jobs};

jobs! {
    /// What can be solved.
    pub enum Task {
        /// Regression, classification or label propagation by block coordinate descent
        Bcd(Of<block_descent::Arguments>),
        /// A hyperplane between two classes by normalized logistic regression or perceptrons
        Separate(Of<separation::Arguments>),
        /// A two-layer ReLU network, trained to global optimality as a convex program
        Relu(Of<relu_network::Arguments>),
        /// A sparse linear system with a symmetric, positive definite matrix, by conjugate gradients or learnt directions
        Linear(Of<linear_system::Arguments>),
        /// Apply a model that one of the other commands wrote
        Predict(Of<predict::Arguments>),
    }
}
