//! The display of a training: in a terminal the loss curve with a bar, the accuracy and the time
//! left, otherwise one line per epoch.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use nabla::train::history::EpochRecord;
use nabla::train::trainer::Progress;
use nabla::train::validation::Measured;

use nabla::base::words::duration;

/// The height of the curve, in lines.
const HEIGHT: usize = 6;
/// The maximum width of the curve, in characters.
const WIDTH: usize = 72;
/// The minimum time between two drawings of the curve.
const REDRAW: Duration = Duration::from_millis(200);

/// Shows a training on standard error.
pub struct Dashboard {
    terminal: Option<Terminal>,
    begun: Instant,
    /// Steps that were done when this training began.
    resumed: usize,
    /// Whether a step has been shown.
    shown: bool,
    losses: Vec<f64>,
    epochs: usize,
    measured: Measured,
    last: Option<EpochRecord>,
}

struct Terminal {
    _all: MultiProgress,
    rows: Vec<ProgressBar>,
    bar: ProgressBar,
    drawn: Option<Instant>,
}

impl Terminal {
    fn new() -> Self {
        let all = MultiProgress::new();
        let line = || {
            let line = all.add(ProgressBar::new(1));
            // An error would mean a malformed template; the default style is good enough then.
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                line.set_style(style);
            }
            line
        };
        let rows = (0..=HEIGHT).map(|_| line()).collect();
        let bar = all.add(ProgressBar::new(1));
        let template = "[{wide_bar}] {pos}/{len} {elapsed}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self {
            _all: all,
            rows,
            bar,
            drawn: None,
        }
    }
}

impl Dashboard {
    /// - `epochs`: the number of epochs of the whole training
    /// - `measured`: what the examples are by which they are measured
    pub fn new(epochs: usize, measured: Measured) -> Self {
        Self {
            terminal: stderr().is_terminal().then(Terminal::new),
            begun: Instant::now(),
            resumed: 0,
            shown: false,
            losses: Vec::new(),
            epochs,
            measured,
            last: None,
        }
    }

    /// Shows a step.
    pub fn step(&mut self, progress: &Progress<'_>) {
        if !std::mem::replace(&mut self.shown, true) {
            self.resumed = progress.step - 1;
        }
        self.losses.extend(progress.record.loss.map(f64::from));
        self.last = progress.epoch.copied().or(self.last);
        let Some(terminal) = &mut self.terminal else {
            if let Some(epoch) = progress.epoch {
                let done = (progress.step - self.resumed) as f64;
                let left = (progress.steps - progress.step) as f64;
                let seconds = self.begun.elapsed().as_secs_f64() * left / done;
                let left = match progress.steps - progress.step {
                    0 => String::new(),
                    _ => format!(", {} left", duration(seconds)),
                };
                eprintln!("{}{left}", epoch_line(epoch, self.epochs, self.measured));
            }
            return;
        };
        if progress.epoch.is_none() && terminal.drawn.is_some_and(|at| at.elapsed() < REDRAW) {
            return;
        }
        terminal.drawn = Some(Instant::now());
        terminal.bar.set_length(progress.steps as u64);
        terminal.bar.set_position(progress.step as u64);
        let rows = curve(&self.losses, WIDTH, HEIGHT);
        for (line, row) in terminal.rows.iter().zip(rows) {
            line.set_message(row);
        }
        let told = match &self.last {
            Some(epoch) => epoch_line(epoch, self.epochs, self.measured),
            None => match self.losses.last() {
                Some(loss) => format!("loss {loss:.4}"),
                None => String::new(),
            },
        };
        terminal.rows[HEIGHT].set_message(told);
    }

    /// Leaves the curve and the last numbers on the screen, and removes the bar.
    pub fn finish(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.rows.iter().for_each(ProgressBar::abandon);
            terminal.bar.finish_and_clear();
        }
    }
}

fn epoch_line(epoch: &EpochRecord, epochs: usize, measured: Measured) -> String {
    format!(
        "epoch {}/{epochs}: training loss {:.4}, accuracy {:.2} %; {} loss {:.4}, accuracy {:.2} %",
        epoch.epoch,
        epoch.training_loss,
        100.0 * epoch.training_accuracy,
        measured.name(),
        epoch.test_loss,
        100.0 * epoch.test_accuracy
    )
}

/// A curve of block characters, `height` lines of at most `width` columns, on a logarithmic axis whose ends are
/// labelled at the left.
fn curve(values: &[f64], width: usize, height: usize) -> Vec<String> {
    const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let window = values.len().div_ceil(width).max(1);
    let columns: Vec<f64> = values
        .chunks(window)
        .map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64)
        .map(|mean| mean.max(1e-12).ln())
        .collect();
    let (low, high) = columns
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| {
            (low.min(v), high.max(v))
        });
    let levels = 8 * height;
    let level = |value: f64| {
        let share = if high > low {
            (value - low) / (high - low)
        } else {
            0.0
        };
        1 + (share * (levels - 1) as f64).round() as usize
    };
    (0..height)
        .map(|row| {
            let floor = 8 * (height - 1 - row);
            let label = match row {
                0 if high.is_finite() => format!("{:9.2e}", high.exp()),
                _ if row == height - 1 && low.is_finite() => format!("{:9.2e}", low.exp()),
                _ => " ".repeat(9),
            };
            let blocks: String = columns
                .iter()
                .map(|&value| BLOCKS[level(value).saturating_sub(floor).min(8)])
                .collect();
            format!("{label} |{blocks}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_falls_from_the_top_left_to_the_bottom_right() {
        let values: Vec<f64> = (0..16)
            .map(|i| 10_f64.powf(1.0 - f64::from(i) / 15.0))
            .collect();
        let rows = curve(&values, 16, 2);
        assert_eq!(rows[0], "   1.00e1 |█▇▆▅▄▃▂▁        ");
        assert_eq!(rows[1], "   1.00e0 |█████████▇▆▅▄▃▂▁");
        assert_eq!(curve(&[], 10, 2)[1], "          |");
        // Many values are averaged into the columns.
        assert!(curve(&vec![1.0; 1000], 30, 2)[0].chars().count() <= 11 + 30);
    }
}
