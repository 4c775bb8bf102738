//! How far a job is: a bar with the time left on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nabla::base::progress::ProgressSink;
use nabla::base::words::duration;

/// The least time between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Shows progress on the standard error.
pub struct Progress {
    state: Mutex<State>,
}

struct State {
    /// `None` where the standard error is no terminal.
    bar: Option<ProgressBar>,
    stage: String,
    steps: u64,
    done: u64,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Nothing is shown before the first stage begins.
    pub fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
            // Only a template that is wrong would be refused; the default does then.
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

    /// Takes the bar away.
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
