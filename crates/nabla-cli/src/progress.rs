//! The progress of a job: in a terminal a bar with the time left, otherwise a line from time to time.

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nabla::base::progress::ProgressSink;
use nabla::base::words::duration;

/// The minimum time between two lines if there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Shows progress on standard error.
pub struct Progress {
    state: Mutex<State>,
}

struct State {
    /// `None` if standard error is not a terminal.
    bar: Option<ProgressBar>,
    stage: String,
    steps: u64,
    done: u64,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Creates the display, which shows nothing before the first stage begins.
    pub fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            // An error would mean a malformed template; the default style is good enough then.
            if let Ok(style) =
                ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} {elapsed}, {eta} left")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        let now = Instant::now();
        Self {
            state: Mutex::new(State {
                bar,
                stage: String::new(),
                steps: 0,
                done: 0,
                begun: now,
                told: now,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.state().bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl ProgressSink for Progress {
    fn begin(&self, stage: &str, steps: u64) {
        let mut state = self.state();
        let now = Instant::now();
        state.stage = stage.to_owned();
        (state.steps, state.done) = (steps, 0);
        (state.begun, state.told) = (now, now);
        match &state.bar {
            Some(bar) => {
                bar.reset();
                bar.set_length(steps);
                bar.set_message(stage.to_owned());
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.tick();
            }
            None => eprintln!("{stage}"),
        }
    }

    fn advance(&self, steps: u64) {
        let mut state = self.state();
        state.done = state.done.saturating_add(steps);
        if let Some(bar) = &state.bar {
            bar.inc(steps);
        } else if state.told.elapsed() >= BETWEEN_LINES && state.done < state.steps {
            state.told = Instant::now();
            let seconds = state.begun.elapsed().as_secs_f64();
            let left = seconds * (state.steps - state.done) as f64 / state.done.max(1) as f64;
            eprintln!(
                "{}: {} of {}, {} left",
                state.stage,
                state.done,
                state.steps,
                duration(left)
            );
        }
    }

    fn note(&self, line: &str) {
        let state = self.state();
        match &state.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}
