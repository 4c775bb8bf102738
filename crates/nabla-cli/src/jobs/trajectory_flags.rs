//! The flags that say what a table of trajectories holds.

use clap::Args;
use nabla::data::trajectories::TrajectoryOptions;

/// Which columns are what.
#[derive(Clone, Debug, Args)]
pub struct TrajectoryFlags {
    /// The column of times [default: the first named t or time, or else the first]
    #[arg(long, value_name = "COLUMN")]
    time: Option<String>,
    /// The column that names the trajectory of a row [default: the first named id or trajectory; without one, the file
    /// is one trajectory]
    #[arg(long, value_name = "COLUMN")]
    trajectory: Option<String>,
    /// The columns of values, in this order [default: all others]
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    columns: Vec<String>,
}

impl TrajectoryFlags {
    /// Replaces what is given.
    pub fn apply(&self, columns: &mut TrajectoryOptions) {
        if self.time.is_some() {
            columns.time.clone_from(&self.time);
        }
        if self.trajectory.is_some() {
            columns.trajectory.clone_from(&self.trajectory);
        }
        if !self.columns.is_empty() {
            columns.columns.clone_from(&self.columns);
        }
    }
}
