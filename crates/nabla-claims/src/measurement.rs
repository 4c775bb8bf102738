//! What an experiment hands back: its table, its checks, its curves and what there is to say.

use serde::{Deserialize, Serialize};

use crate::plot::LinePlot;
use crate::table::Table;

/// One statement of the pass criterion and whether it holds of what was measured.
///
/// A check is a detail, reported beside the verdict, until it is made a [headline](Check::headline): the
/// verdict follows the headlines alone. They are the few that say what the paper's abstract says. Choose those
/// of a new experiment from the abstract, before measuring. Those of Nabla's first twelve were chosen from the
/// abstracts after the first measurements, and reviewed against the abstracts independently, with the numbers
/// known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The statement, such as `x4, WS-PSNR: OmniSSR is above bicubic`.
    pub text: String,
    /// Whether the verdict follows it. In files of the format 1 all did.
    #[serde(default = "in_format_1")]
    pub headline: bool,
    /// Whether it holds.
    pub holds: bool,
    /// The numbers that decide it.
    pub detail: String,
}

fn in_format_1() -> bool {
    true
}

impl Check {
    /// A check from its statement, outcome and deciding numbers; a detail.
    pub fn new(text: impl Into<String>, holds: bool, detail: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            headline: false,
            holds,
            detail: detail.into(),
        }
    }

    /// Makes the verdict follow it.
    pub fn headline(self) -> Self {
        self.headline_if(true)
    }

    /// Makes the verdict follow it, where one statement is a headline in some tasks only.
    pub fn headline_if(mut self, headline: bool) -> Self {
        self.headline = headline;
        self
    }
}

/// What an experiment hands back: its table, its checks, its curves and what there is to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// The numbers.
    pub table: Table,
    /// The pass criterion, statement by statement; at least one is a headline.
    pub checks: Vec<Check>,
    /// Curves to plot beside the table; may be empty.
    pub plots: Vec<LinePlot>,
    /// Free remarks, such as why the claim does not hold at this scale; may be empty.
    pub notes: Vec<String>,
}

impl Measurement {
    /// A measurement with no curves and no notes.
    pub fn new(table: Table, checks: Vec<Check>) -> Self {
        Self {
            table,
            checks,
            plots: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a remark.
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds a curve.
    pub fn with_plot(mut self, plot: LinePlot) -> Self {
        self.plots.push(plot);
        self
    }
}
