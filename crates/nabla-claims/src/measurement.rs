//! The outcome of an experiment: its table, its checks, its curves and its notes.

use serde::{Deserialize, Serialize};

use crate::plot::LinePlot;
use crate::table::Table;

/// One statement of the pass criterion, and whether the measurement satisfies it.
///
/// A check is a detail, reported next to the verdict, unless it is made a [headline](Check::headline): only
/// the headlines decide the verdict. They are the few checks that test what the paper's abstract claims.
/// Choose those of a new experiment from the abstract, before measuring. Those of Nabla's first twelve were
/// chosen from the abstracts after the first measurements, and reviewed against the abstracts independently,
/// with the numbers known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The statement, such as `x4, WS-PSNR: OmniSSR is above bicubic`.
    pub text: String,
    /// Whether it decides the verdict. In files of format 1, all checks did.
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
    /// Creates a detail from its statement, outcome and deciding numbers.
    pub fn new(text: impl Into<String>, holds: bool, detail: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            headline: false,
            holds,
            detail: detail.into(),
        }
    }

    /// Makes it a headline, which decides the verdict.
    pub fn headline(self) -> Self {
        self.headline_if(true)
    }

    /// Makes it a headline or not, for a statement that is a headline only in some tasks.
    pub fn headline_if(mut self, headline: bool) -> Self {
        self.headline = headline;
        self
    }
}

/// The outcome of an experiment: its table, its checks, its curves and its notes.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// The numbers.
    pub table: Table,
    /// The pass criterion, statement by statement; at least one is a headline.
    pub checks: Vec<Check>,
    /// Curves to plot with the table; may be empty.
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
