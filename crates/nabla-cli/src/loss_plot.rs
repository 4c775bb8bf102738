//! The loss of a training, as the points of a curve and as files.

use std::path::Path;

use nabla::base::write_bytes_atomically;
use nabla::claims::plot::{LinePlot, Series, Theme, line_plot, write_svg};

use crate::errors::Failure;

/// The maximum number of points of a curve.
const POINTS: usize = 200;

/// The losses of all steps as means over windows, so that the trend is visible, and the number of steps in a window.
/// A point is at the middle of its window.
pub fn averaged(losses: &[f32]) -> (usize, Vec<[f64; 2]>) {
    let window = losses.len().div_ceil(POINTS).max(1);
    let point = |(i, chunk): (usize, &[f32])| {
        let mean = chunk.iter().map(|&l| f64::from(l)).sum::<f64>() / chunk.len() as f64;
        [(i * window) as f64 + 0.5 * chunk.len() as f64, mean]
    };
    (
        window,
        losses.chunks(window).enumerate().map(point).collect(),
    )
}

/// The mean; 0 if there are no losses.
pub fn mean(losses: &[f32]) -> f64 {
    losses.iter().map(|&l| f64::from(l)).sum::<f64>() / losses.len().max(1) as f64
}

/// Writes `loss.csv` and `loss.svg`, the losses of all steps.
///
/// - `axis`: what the loss is
pub fn write_losses(folder: &Path, title: &str, axis: &str, losses: &[f32]) -> Result<(), Failure> {
    write(folder, title, axis, losses, LinePlot::log_y)
}

/// The same for losses that may be negative, on a linear axis.
pub fn write_signed_losses(
    folder: &Path,
    title: &str,
    axis: &str,
    losses: &[f32],
) -> Result<(), Failure> {
    write(folder, title, axis, losses, |plot| plot)
}

fn write(
    folder: &Path,
    title: &str,
    axis: &str,
    losses: &[f32],
    with_axis: impl Fn(LinePlot) -> LinePlot,
) -> Result<(), Failure> {
    let lines = losses.iter().enumerate();
    let table: String = std::iter::once("step,loss\n".to_owned())
        .chain(lines.map(|(i, loss)| format!("{},{loss}\n", i + 1)))
        .collect();
    write_bytes_atomically(&folder.join("loss.csv"), table.as_bytes())?;
    let (window, points) = averaged(losses);
    let plot = LinePlot::new(title, "step", format!("{axis}, mean of {window} steps"));
    let plot = with_axis(plot).with_series(Series::new("training loss", points));
    let curve = line_plot(&plot, Theme::Standalone).map_err(Failure::run)?;
    Ok(write_svg(&folder.join("loss.svg"), &curve)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_keep_the_mean_and_the_end() {
        assert_eq!(averaged(&[4.0, 2.0]), (1, vec![[0.5, 4.0], [1.5, 2.0]]));
        let losses: Vec<f32> = (0..1001).map(|i| i as f32).collect();
        let (window, points) = averaged(&losses);
        assert_eq!((window, points.len()), (6, 167));
        assert_eq!(points[0], [3.0, 2.5]);
        assert_eq!(points[166], [998.5, 998.0]);
        assert_eq!(averaged(&[]), (1, Vec::new()));
    }
}
