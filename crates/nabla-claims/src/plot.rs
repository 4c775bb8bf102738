//! Plots as SVG text: line curves with linear or logarithmic axes, and dots with error bars.
//!
//! A plot is drawn for a light or dark page ([`Theme::Page`]: ink follows the text colour, the background is
//! transparent) or for use on its own ([`Theme::Standalone`]: dark on white). The SVG needs nothing else to
//! be shown, and the same plot gives the same bytes.
//!
//! ```
//! use nabla_claims::plot::{LinePlot, Series, Theme, line_plot};
//! let losses: Vec<[f64; 2]> = (1..=100).map(|i| [f64::from(i), 1.0 / f64::from(i)]).collect();
//! let plot = LinePlot::new("Training loss", "step", "loss")
//!     .log_x()
//!     .log_y()
//!     .with_series(Series::new("train", losses));
//! let svg = line_plot(&plot, Theme::Standalone).unwrap();
//! assert!(svg.starts_with("<svg"));
//! ```

use std::path::Path;

use nabla_base::write_bytes_atomically;
use serde::{Deserialize, Serialize};

use crate::names::Role;
use crate::result::ResultError;

mod axis;
mod drawing;
mod thinning;

pub use drawing::{dot_plot, line_plot};

/// The reason why a plot cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// No point can be shown: none was given, or none is finite (and positive, on a log axis).
    #[error("the plot '{0}' has no point that its axes can show")]
    NothingToShow(String),
    /// The drawing failed.
    #[error("cannot draw the plot '{title}': {reason}")]
    Drawing {
        /// The plot's title.
        title: String,
        /// Why.
        reason: String,
    },
}

/// The surroundings of a plot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// A page, light or dark: ink is the page's `currentColor`, the background transparent, and
    /// the k-th data colour is the page's `--series-k` where it defines one.
    Page,
    /// None: dark ink on white, for a separate file.
    Standalone,
}

/// One curve: points in the order in which they are joined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    name: String,
    points: Vec<[f64; 2]>,
}

impl Series {
    /// A curve through `points` (x, y). Points that are not finite are left out, so a curve that
    /// diverges ends where it does.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = [f64; 2]>) -> Self {
        let finite = |point: &[f64; 2]| point.iter().all(|value| value.is_finite());
        Self {
            name: name.into(),
            points: points.into_iter().filter(finite).collect(),
        }
    }

    /// The name that the legend shows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The points, all finite.
    pub fn points(&self) -> &[[f64; 2]] {
        &self.points
    }
}

/// Curves over a common axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinePlot {
    /// The title above the plot.
    pub title: String,
    /// The quantity on the x axis, with its unit.
    pub x_label: String,
    /// The quantity on the y axis, with its unit.
    pub y_label: String,
    /// Whether x is logarithmic; points at or below zero are then left out.
    pub log_x: bool,
    /// Whether y is logarithmic; points at or below zero are then left out.
    pub log_y: bool,
    /// The curves.
    pub series: Vec<Series>,
}

impl LinePlot {
    /// A plot without curves, both axes linear.
    pub fn new(
        title: impl Into<String>,
        x_label: impl Into<String>,
        y_label: impl Into<String>,
    ) -> Self {
        Self {
            title: title.into(),
            x_label: x_label.into(),
            y_label: y_label.into(),
            log_x: false,
            log_y: false,
            series: Vec::new(),
        }
    }

    /// Makes x logarithmic.
    pub fn log_x(mut self) -> Self {
        self.log_x = true;
        self
    }

    /// Makes y logarithmic.
    pub fn log_y(mut self) -> Self {
        self.log_y = true;
        self
    }

    /// Adds a curve.
    pub fn with_series(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// The plot with as few points as possible while looking the same, as stored in result files.
    ///
    /// For each curve, the point farthest from the line drawn without it is kept, and then the farthest of
    /// the remaining points, until the curve lies within a quarter of a CSS pixel of all its points. Numbers
    /// are rounded to a ten-thousandth of their axis (five significant digits on a logarithmic one). Curves
    /// of up to 40 points, which are drawn with a dot for each point, keep all of them, and longer ones keep
    /// more than 40.
    pub fn thinned(&self) -> Self {
        thinning::thinned(self)
    }

    /// Whether the axes can show a point.
    fn shows(&self, point: &[f64; 2]) -> bool {
        let fits = |value: f64, log: bool| value.is_finite() && (!log || value > 0.0);
        fits(point[0], self.log_x) && fits(point[1], self.log_y)
    }
}

/// Curves of at most this many points have a dot for each.
const DOTTED: usize = 40;

/// One row of a dot plot: the values of one variant.
#[derive(Debug, Clone, PartialEq)]
pub struct DotRow {
    /// The name at the left.
    pub label: String,
    /// The role, which decides the colour.
    pub role: Role,
    /// The values, one per seed: small dots; their mean is a large dot, with the spread as an
    /// error bar. Values that are not finite are not shown.
    pub values: Vec<f64>,
}

/// One panel of a dot plot, with its own x axis.
#[derive(Debug, Clone, PartialEq)]
pub struct DotPanel {
    /// The title above the panel, such as `x4`.
    pub title: String,
    /// The values per row; `None` where the row does not exist in this panel.
    pub rows: Vec<Option<DotRow>>,
}

/// Values with error bars by variant, panels beside one another.
#[derive(Debug, Clone, PartialEq)]
pub struct DotPlot {
    /// The title above the plot.
    pub title: String,
    /// The quantity of the values, with its unit and better direction.
    pub x_label: String,
    /// The names of the rows, from top to bottom.
    pub labels: Vec<String>,
    /// The panels, each with one entry per label.
    pub panels: Vec<DotPanel>,
}

/// Writes a plot to a file, completely or not at all.
///
/// # Errors
/// [`ResultError::Output`] if the file cannot be written.
pub fn write_svg(path: &Path, svg: &str) -> Result<(), ResultError> {
    Ok(write_bytes_atomically(path, svg.as_bytes())?)
}
