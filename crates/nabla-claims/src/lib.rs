//! The experiments that measure each method's published claim.
//!
//! A [`Claim`] states what a paper says of its method and what has to come out for that to hold;
//! [`run_claims`] runs the method and its baselines on the same data with the same budget over at
//! least three seeds and writes a [`ClaimResult`] to `results/<slug>.json`; [`write_report`]
//! renders all results to `RESULTS.md` and a self-contained HTML page. A claim that does not hold
//! is reported as not held. The quick form of an experiment only shows that it works: its numbers
//! are never results, and [`ClaimResult::save`] refuses them.
//!
//! [`METHODS`] lists the methods of the mission with their papers.

pub mod adabelief;
pub mod adamp;
pub mod block_coordinate_descent;
mod claim;
pub mod convex_relu;
pub mod diffgrad;
pub mod m_fac;
pub mod matrix_sensing;
mod measurement;
pub mod normalized_lr;
pub mod omnissr;
pub mod plot;
pub mod pndm;
pub mod rddm;
pub mod registry;
pub mod report;
mod result;
mod runner;
pub mod training_contest;
pub mod trajectory;
pub mod zo_rank_sgd;

pub use claim::{
    Claim, ClaimContext, ClaimError, MIN_SEEDS, NoProgress, Paper, ProgressSink, Source,
};
pub use measurement::{
    Check, Direction, Measurement, Metric, Role, Summary, Table, TableError, Variant,
};
pub use plot::{DotPlot, LinePlot, Series, dot_plot, line_plot};
pub use registry::{METHODS, Method, State, claim, claims};
pub use report::{read_results, write_report};
pub use result::{
    ClaimResult, Commit, RESULT_FORMAT, ResultError, Verdict, describe_device, read_result,
};
pub use runner::{RunError, RunSummary, run_claim, run_claims};
