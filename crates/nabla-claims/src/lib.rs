//! Measured claims: the contract of an experiment, the runner, and the report.
//!
//! A [`Claim`] states what a paper claims about its method, and the criterion for it to hold. It declares its
//! [`cells`] (each one variant on one task with one seed) and how to measure one of them; [`run_claims`]
//! measures them, stores each until all are done, and writes a [`ClaimResult`] to `results/<slug>.json`. The
//! verdict follows the [headlines](Check::headline) among its checks, which test the claim of the paper
//! itself; the other checks are details. [`report`] renders all results. A claim that does not hold is
//! reported as not held. The quick form of an experiment only shows that it works: its numbers are never
//! results, and [`ClaimResult::save`] refuses them.
//!
//! This crate contains no experiments: they are in crates beside the families of methods that they measure
//! (such as `nabla-optim-experiments`), each with one list, and a program joins the lists as [`Experiments`].
//! The methods and their papers are in [`nabla_base::methods`].

pub mod cells;
pub mod claim;
mod committed;
mod experiments;
mod measurement;
mod names;
pub mod plot;
pub mod report;
mod result;
mod result_text;
mod runner;
mod summary;
mod table;

pub use cells::{Bench, Cell, Stage};
pub use claim::{Claim, ClaimContext, ClaimError, MIN_SEEDS, Source};
pub use committed::QuickForms;
pub use experiments::{Experiments, MakeClaim};
pub use measurement::{Check, Measurement};
pub use names::{Direction, Metric, Role, Task, Variant};
pub use plot::{DotPlot, LinePlot, Series, dot_plot, line_plot};
pub use report::{read_results, write_report};
pub use result::{
    ClaimResult, Commit, RESULT_FORMAT, ResultError, Verdict, describe_device, read_result,
};
pub use runner::{CELLS_FOLDER, RunError, RunSummary, run_claim, run_claims};
pub use summary::{Summary, median};
pub use table::{Table, TableError};
