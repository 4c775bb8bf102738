//! The integration tests of this crate.
#![allow(clippy::unwrap_used)]

mod coded_run;
mod coded_training;
mod communicator;
mod data_parallel;
mod simulated_table;
