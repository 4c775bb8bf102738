//! A schedule as a path, and as the levels of a run.

use super::NoiseSchedule;
use crate::level::{Level, Levels, NoisePath, check_rising};
use crate::sampler_error::{SamplerError, check_steps};

/// Between two training steps, [`level_at`](NoisePath::level_at) interpolates the logarithm of the
/// signal-to-noise ratio linearly, and [`smooth_at`](NoisePath::smooth_at) uses the monotone cubic of Fritsch
/// and Butland (*A Method for Constructing Local Monotone Piecewise Cubic Interpolants*, 1984), scipy's
/// `PchipInterpolator`.
impl NoisePath for NoiseSchedule {
    fn level_at(&self, time: f64) -> Level {
        NoiseSchedule::level_at(self, time)
    }

    fn level_of_sigma(&self, sigma: f64) -> Level {
        NoiseSchedule::level_of_sigma(self, sigma)
    }

    fn times(&self) -> [f64; 2] {
        [self.timestep(0), self.timestep(self.steps() - 1)]
    }

    /// No noise is left one step before the first training step, time 0.
    fn clean_time(&self) -> f64 {
        -1.0
    }

    fn tick(&self) -> f64 {
        1.0
    }

    fn check_smooth(&self) -> Result<(), SamplerError> {
        check_steps("the probability flow", self.steps(), 2)?;
        Levels::from(self).check_sigmas()?;
        check_rising(self.timestep.iter().copied())
    }

    fn smooth_at(&self, time: f64) -> (Level, f64) {
        let last = self.steps() - 1;
        let above = self.timestep.partition_point(|&t| t <= time).clamp(1, last);
        let below = above - 1;
        let length = |i: usize| self.timestep[i + 1] - self.timestep[i];
        let rise = |i: usize| (self.log_snr(i + 1) - self.log_snr(i)) / length(i);
        // At an end, use three points, but never against the direction of the interval there.
        let end = |near: usize, far: usize| {
            let (h, m) = ([length(near), length(far)], [rise(near), rise(far)]);
            let slope = ((2.0 * h[0] + h[1]) * m[0] - h[0] * m[1]) / (h[0] + h[1]);
            slope.min(0.0)
        };
        let slope = |i: usize| match i {
            _ if last == 1 => rise(0),
            0 => end(0, 1),
            _ if i == last => end(last - 1, last - 2),
            _ => {
                let (h0, h1) = (length(i - 1), length(i));
                let (w0, w1) = (2.0 * h1 + h0, h1 + 2.0 * h0);
                (w0 + w1) / (w0 / rise(i - 1) + w1 / rise(i))
            }
        };
        let whole = length(below);
        let u = (time - self.timestep[below]) / whole;
        let (v0, v1) = (self.log_snr(below), self.log_snr(above));
        let (d0, d1) = (slope(below) * whole, slope(above) * whole);
        // The cubic with these ends and slopes.
        let square = 3.0 * (v1 - v0) - 2.0 * d0 - d1;
        let cube = d0 + d1 - 2.0 * (v1 - v0);
        let log_snr = v0 + u * (d0 + u * (square + u * cube));
        let rate = (d0 + u * (2.0 * square + 3.0 * u * cube)) / whole;
        let level = Level::variance_preserving(time, 1.0 / (1.0 + (-log_snr).exp()));
        (level, rate)
    }
}

/// All levels of the schedule, with its [`training`](NoiseSchedule::training) schedule as the path; after the
/// last step, the network would get the same time as in that step.
impl From<NoiseSchedule> for Levels {
    fn from(schedule: NoiseSchedule) -> Self {
        Self::from(&schedule)
    }
}

impl From<&NoiseSchedule> for Levels {
    fn from(schedule: &NoiseSchedule) -> Self {
        let visited = (0..schedule.steps()).map(|t| schedule.level(t)).collect();
        let end = Level::variance_preserving(schedule.timestep(0), schedule.final_alpha_bar);
        Self::of_table(visited, end, schedule.root())
    }
}
