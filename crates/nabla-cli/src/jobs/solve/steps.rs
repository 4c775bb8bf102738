//! The steps of a solver: which ones are stored, and its progress.

use nabla::base::progress::ProgressSink;

use crate::progress::Progress;

/// The maximum number of stored steps.
const MOST_KEPT: usize = 20_000;

/// Steps for a file or a plot: all of them or, if there are many, every 2nd, 4th, 8th … one, and always the last.
pub struct Steps<T> {
    kept: Vec<T>,
    every: usize,
    seen: usize,
    last: Option<T>,
}

impl<T> Steps<T> {
    /// An empty list.
    pub fn new() -> Self {
        Self {
            kept: Vec::new(),
            every: 1,
            seen: 0,
            last: None,
        }
    }

    /// Adds the next step.
    pub fn push(&mut self, step: T) {
        if self.seen.is_multiple_of(self.every) {
            self.kept.push(step);
            self.last = None;
        } else {
            self.last = Some(step);
        }
        self.seen += 1;
        if self.kept.len() > MOST_KEPT {
            let mut index = 0;
            self.kept.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.every *= 2;
        }
    }

    /// The stored steps.
    pub fn finish(mut self) -> Vec<T> {
        self.kept.extend(self.last);
        self.kept
    }
}

/// The number of parts of a solver's progress bar.
const PARTS: u64 = 100;

/// Shows the progress of a solver: by how many orders of magnitude its residual still has to fall, or by the
/// limit of its steps, whichever is closer.
pub struct Approach<'a> {
    progress: &'a Progress,
    stage: String,
    limit: usize,
    tolerance: f64,
    first: Option<f64>,
    /// The parts shown so far; `None` before the first step, because a refused problem shows no progress.
    told: Option<u64>,
}

impl<'a> Approach<'a> {
    /// - `limit`: the maximum number of steps
    /// - `tolerance`: the residual at which the solver ends
    pub fn new(progress: &'a Progress, stage: &str, limit: usize, tolerance: f64) -> Self {
        Self {
            progress,
            stage: stage.to_owned(),
            limit,
            tolerance,
            first: None,
            told: None,
        }
    }

    /// Updates the progress after `iteration` steps, with a residual on the same scale as the tolerance.
    pub fn at(&mut self, iteration: usize, residual: Option<f64>) {
        let mut share = iteration as f64 / self.limit.max(1) as f64;
        if let Some(residual) = residual {
            let first = *self.first.get_or_insert(residual);
            let whole = (first / self.tolerance).ln();
            if whole > 0.0 {
                share = share.max((first / residual).ln() / whole);
            }
        }
        // A cast of NaN is 0.
        let part = (share * PARTS as f64).min(PARTS as f64) as u64;
        let told = *self.told.get_or_insert_with(|| {
            self.progress.begin(&self.stage, PARTS);
            0
        });
        if part > told {
            self.progress.advance(part - told);
            self.told = Some(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_steps_are_all_kept_and_of_many_the_first_and_the_last() {
        for count in [1, 2, 20_000, 20_001, 123_456] {
            let mut steps = Steps::new();
            (0..count).for_each(|i| steps.push(i));
            let kept = steps.finish();
            assert!(kept.len() <= MOST_KEPT + 1);
            assert_eq!((kept[0], kept.last()), (0, Some(&(count - 1))));
            assert!(count > MOST_KEPT || kept.len() == count);
            assert!(kept.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
