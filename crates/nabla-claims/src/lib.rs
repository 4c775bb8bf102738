//! Measured claims: the contract that an experiment fulfils, what runs it, and what reports it.
//!
//! A [`Claim`] states what a paper says of its method and what has to come out for that to hold. It declares
//! its [`cells`] (one variant at one task with one seed each) and how one is measured; [`run_claims`] measures
//! them, keeps each until all are done, and writes a [`ClaimResult`] to `results/<slug>.json`. The verdict
//! follows the [headlines](Check::headline) among its checks, which say what the paper's own sentence says; the
//! other checks are details. [`report`] renders all results. A claim that does not hold is reported as not held.
//! The quick form of an experiment only shows that it works: its numbers are never results, and
//! [`ClaimResult::save`] refuses them.
//!
//! No experiment is in this crate: they stand beside the families of methods that they measure (such as
//! `nabla-optim-experiments`), each crate with one list of them, and a program puts the lists together as
//! [`Experiments`]. The methods and their papers are in [`nabla_base::methods`].

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
pub use committed::{headline_differences, quick_and_committed};
pub use experiments::{Experiments, MakeClaim};
pub use measurement::{Check, Measurement};
pub use names::{Direction, Metric, Role, Task, Variant};
pub use plot::{DotPlot, LinePlot, Series, dot_plot, line_plot};
pub use report::{read_results, write_report};
pub use result::{
    ClaimResult, Commit, RESULT_FORMAT, ResultError, Verdict, describe_device, read_result,
};
pub use runner::{CELLS_FOLDER, RunError, RunSummary, run_claim, run_claims};
pub use summary::Summary;
pub use table::{Table, TableError};
