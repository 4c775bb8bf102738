//! Gradients through equations: solvers of ordinary and stochastic differential equations, and what is learnt from their
//! steps.
//!
//! A [`Solver`] is put together from parts that do not know each other:
//!
//! * a method, which is a [`tableau`]: [`euler`], [`rk4`], [`bs3`], [`dopri5`], [`tsit5`], [`vern7`], and [`rosenbrock`] for
//!   stiff equations;
//! * a [`controller`], which finds the lengths of the steps;
//! * an [`adjoint`], which computes gradients: through the steps, with or without checkpoints, by the adjoint equation, or
//!   forward;
//! * [events](event) at given times.
//!
//! What is learnt from the steps: [`ernode`] and [`local_regularisation`] penalise errors and stiffness; [`steer`] and
//! [`taynode`] are what they are compared with.
//!
//! The equation is a [`field`]: a closure, or a Burn module such as a [`neural_ode`]; series that are observed
//! partly have a [`latent_ode`]. Stochastic equations are solved by [`sde`].
//! [`fitted`] learns both from data at irregular times. [`barron_pde`] solves elliptic equations in many dimensions,
//! and [`linear`] sparse linear systems, for which [`dcdm`] learns directions.
//!
//! On a [`graph`], [`cgs`] predicts what a networked system is like at rest, by [contracting maps](contracting_map) and the
//! gradients of their [fixed points](fixed_point); [`ignn`], [`sse`] and plain [message passing](message_passing) are what it
//! is compared with. Its problems are [`value_iteration`] and [`pore_network`].

pub mod adjoint;
pub mod barron_pde;
pub mod bs3;
pub mod cgs;
pub mod contracting_map;
pub mod controller;
pub mod dcdm;
pub mod delaunay;
mod differences;
pub mod dopri5;
pub mod ernode;
pub mod euler;
pub mod event;
pub mod field;
mod first_step;
pub mod fitted;
pub mod fixed_point;
pub mod graph;
pub mod graph_example;
pub mod ignn;
pub mod latent_ode;
pub mod linear;
pub mod local_regularisation;
pub mod message_passing;
mod method;
pub mod neural_ode;
mod norms;
mod numbers;
mod operation;
mod options;
pub mod pore_network;
pub mod rk4;
pub mod rosenbrock;
mod run;
pub mod sde;
mod solve_error;
mod solver;
pub mod sse;
pub mod steer;
pub mod tableau;
pub mod taynode;
pub mod time_linear;
pub mod tsit5;
pub mod value_iteration;
pub mod vern7;

pub use adjoint::{Adjoint, Checkpoints};
pub use controller::Controller;
pub use event::Event;
pub use method::Method;
pub use solve_error::SolveError;
pub use solver::{Solution, Solver, Statistics, Step, Steps};
