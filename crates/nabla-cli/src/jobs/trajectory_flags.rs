//! The flags that say what a table of trajectories holds.

use clap::Args;
use nabla::data::trajectories::TrajectoryOptions;
use serde::{Deserialize, Serialize};

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

/// The same in a recipe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Columns {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trajectory: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    columns: Vec<String>,
}

impl TrajectoryFlags {
    /// Replaces what is given.
    pub fn apply(&self, columns: &mut Columns) {
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

impl Columns {
    /// Those with these names.
    pub fn of(time: &str, trajectory: Option<&str>, columns: &[String]) -> Self {
        Self {
            time: Some(time.to_owned()),
            trajectory: trajectory.map(str::to_owned),
            columns: columns.to_vec(),
        }
    }

    /// For the reader.
    pub fn options(&self) -> TrajectoryOptions {
        TrajectoryOptions {
            time: self.time.clone(),
            trajectory: self.trajectory.clone(),
            columns: self.columns.clone(),
        }
    }
}
