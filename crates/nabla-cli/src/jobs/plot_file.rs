//! A plot that goes into a file of its own.

use std::path::Path;

use nabla::base::check_writable;
use nabla::claims::plot::{LinePlot, Theme, line_plot, write_svg};

use crate::errors::Failure;

/// Checks, before the work, that a plot can be written there.
///
/// # Errors
/// If the file is not named as an SVG, or cannot be written.
pub fn check(path: &Path) -> Result<(), Failure> {
    check_named(path, "plot", "svg")
}

/// Checks, before the work, that a file of a kind can be written there.
///
/// - `what`: the kind, in a word
/// - `ending`: of its name
///
/// # Errors
/// If the file has another ending, or cannot be written.
pub fn check_named(path: &Path, what: &str, ending: &str) -> Result<(), Failure> {
    if path
        .extension()
        .is_none_or(|e| !e.eq_ignore_ascii_case(ending))
    {
        return Err(Failure::input(format!(
            "{} is no {what} that can be written: name it .{ending}",
            path.display()
        )));
    }
    Ok(check_writable(path)?)
}

/// Writes it.
///
/// # Errors
/// If it cannot be drawn or written.
pub fn write(path: &Path, plot: &LinePlot) -> Result<(), Failure> {
    let svg = line_plot(plot, Theme::Standalone).map_err(Failure::run)?;
    Ok(write_svg(path, &svg)?)
}
