//! The paths of a flow, and which of them suits given data.

use std::sync::Arc;

use burn::config::Config;
use nabla_base::range::{self, OutOfRange};

use super::START;
use crate::cosine_path::CosinePath;
use crate::exploding_path::ExplodingPath;
use crate::kinetic_optimal::{
    DataSeparation, KineticOptimal, KineticOptimalError, SeparationConfig, SeparationError,
    kinetic_energy, normalized,
};
use crate::level::{Level, Levels, NoisePath, StraightLine};
use crate::schedule::ScheduleError;

/// Why there is no path as asked.
#[derive(Debug, thiserror::Error)]
pub enum FlowPathError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There is no kinetic-optimal path.
    #[error(transparent)]
    KineticOptimal(#[from] KineticOptimalError),
    /// The data have no data separation function.
    #[error(transparent)]
    Separation(#[from] SeparationError),
    /// The path has no such levels.
    #[error(transparent)]
    Levels(#[from] ScheduleError),
}

/// The path of a flow.
#[derive(Config, Debug, PartialEq)]
pub enum FlowPath {
    /// The straight line.
    CondOt,
    /// The [cosine path](CosinePath).
    Vp,
    /// The [variance-exploding path](ExplodingPath).
    Ve(ExplodingPath),
    /// The path of least kinetic energy for data with these values of `κ` at evenly spaced angles
    /// ([`DataSeparation::values`]).
    KineticOptimal {
        /// From 0 to `π/2`, each in `[0, 1]`.
        kappa: Vec<f64>,
    },
}

impl FlowPath {
    /// The path.
    ///
    /// # Errors
    /// If a number is out of range, or `κ` is 0 everywhere.
    pub fn init(&self) -> Result<Arc<dyn NoisePath>, FlowPathError> {
        Ok(match self {
            Self::CondOt => Arc::new(StraightLine::new()),
            Self::Vp => Arc::new(CosinePath::new()),
            Self::Ve(path) => {
                path.validate()?;
                Arc::new(*path)
            }
            Self::KineticOptimal { kappa } => {
                Arc::new(KineticOptimal::new(DataSeparation::new(kappa.clone())?)?)
            }
        })
    }

    /// The path for data of another root mean square than 1: their signal is `a_t/scale`.
    ///
    /// # Errors
    /// As [`init`](Self::init), or if `scale` is not positive.
    pub fn for_scale(&self, scale: f64) -> Result<Arc<dyn NoisePath>, FlowPathError> {
        range::positive("scale of the data", scale)?;
        let path = self.init()?;
        Ok(match scale == 1.0 {
            true => path,
            false => Arc::new(Scaled { path, scale }),
        })
    }

    /// Levels for any sampler: evenly spaced times from [`START`], or from 1 if there is signal.
    ///
    /// - `scale`: as in [`for_scale`](Self::for_scale)
    ///
    /// # Errors
    /// If there are no steps, or the path is not as it must be.
    pub fn levels(&self, steps: usize, scale: f64) -> Result<Levels, FlowPathError> {
        Ok(even_levels(&self.for_scale(scale)?, steps)?)
    }

    /// The kinetic energies of the kinetic-optimal path and of the straight line for each dimension of the data; `None`
    /// of other paths, which know no data.
    ///
    /// # Errors
    /// If a value of `κ` is out of range, or all are 0.
    pub fn energies(&self) -> Result<Option<[f64; 2]>, FlowPathError> {
        let Self::KineticOptimal { kappa } = self else {
            return Ok(None);
        };
        let separation = DataSeparation::new(kappa.clone())?;
        let straight = kinetic_energy(&StraightLine::new(), &separation);
        Ok(Some([KineticOptimal::new(separation)?.energy(), straight]))
    }
}

/// Levels for any sampler: evenly spaced times from [`START`], or from 1 if there is signal.
pub(crate) fn even_levels(
    path: &Arc<dyn NoisePath>,
    steps: usize,
) -> Result<Levels, ScheduleError> {
    let start = match path.level_at(1.0).signal() > 0.0 {
        true => 1.0,
        false => START,
    };
    Levels::evenly(path.clone(), start, steps)
}

/// A path by its name.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum PathChoice {
    /// [`FlowPath::CondOt`].
    CondOt,
    /// [`FlowPath::Vp`].
    Vp,
    /// [`FlowPath::Ve`] with its defaults.
    Ve,
    /// [`FlowPath::KineticOptimal`] for the data.
    KineticOptimal,
}

nabla_base::choices! {
    PathChoice: "path" {
        "cond-ot" => Self::CondOt, "The straight line from the noise to the data";
        "vp" => Self::Vp, "Variance preserving, along a circle";
        "ve" => Self::Ve, "Variance exploding";
        "kinetic-optimal" => Self::KineticOptimal, "The path on which the flow to these data moves least";
    }
}

/// The number of points from which a data separation function is estimated: its cost grows with it.
const SEPARATED: usize = 2000;

impl PathChoice {
    /// The path for data.
    ///
    /// - `points`: normalized, one after the other; the kinetic-optimal path is estimated from 2000 of them, evenly
    ///   spaced
    /// - `seed`: of the estimate
    ///
    /// # Errors
    /// If the data separation function cannot be estimated.
    pub fn path(
        self,
        points: &[f64],
        dimension: usize,
        seed: u64,
    ) -> Result<FlowPath, FlowPathError> {
        self.of(dimension, seed, || {
            Ok(normalized(&some(points, dimension), dimension)?.points)
        })
    }

    /// The path for data whose mean is not subtracted, such as pictures, and their root mean square.
    ///
    /// - `points`, `seed`: as in [`path`](Self::path), but not normalized
    ///
    /// # Errors
    /// If all numbers are 0, or the data separation function cannot be estimated.
    pub fn path_around_zero(
        self,
        points: &[f64],
        dimension: usize,
        seed: u64,
    ) -> Result<(FlowPath, f64), FlowPathError> {
        let scale = root_mean_square(points)?;
        let path = self.of(dimension, seed, || {
            let mut some = some(points, dimension);
            let scale = root_mean_square(&some)?;
            some.iter_mut().for_each(|value| *value /= scale);
            Ok(some)
        })?;
        Ok((path, scale))
    }

    fn of(
        self,
        dimension: usize,
        seed: u64,
        points: impl FnOnce() -> Result<Vec<f64>, FlowPathError>,
    ) -> Result<FlowPath, FlowPathError> {
        Ok(match self {
            Self::CondOt => FlowPath::CondOt,
            Self::Vp => FlowPath::Vp,
            Self::Ve => FlowPath::Ve(ExplodingPath::new()),
            Self::KineticOptimal => {
                let config = SeparationConfig::new().with_seed(seed);
                let separation = DataSeparation::of_points(&points()?, dimension, &config)?;
                let kappa = separation.values().to_vec();
                FlowPath::KineticOptimal { kappa }
            }
        })
    }
}

/// At most [`SEPARATED`] of the points, evenly spaced: data may be sorted.
fn some(points: &[f64], dimension: usize) -> Vec<f64> {
    let count = points.len() / dimension.max(1);
    let kept = count.min(SEPARATED);
    let place = |k: usize| k * count / kept * dimension;
    (0..kept)
        .flat_map(|k| &points[place(k)..place(k) + dimension])
        .copied()
        .collect()
}

fn root_mean_square(values: &[f64]) -> Result<f64, OutOfRange> {
    let power = values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64;
    range::positive("mean square of the data", power)?;
    Ok(power.sqrt())
}

/// A path for data of mean square 1, as that of data of another.
#[derive(Clone, Debug)]
struct Scaled {
    path: Arc<dyn NoisePath>,
    scale: f64,
}

impl Scaled {
    fn scaled(&self, level: Level) -> Level {
        Level::new(level.time(), level.signal() / self.scale, level.noise())
    }
}

impl NoisePath for Scaled {
    fn level_at(&self, time: f64) -> Level {
        self.scaled(self.path.level_at(time))
    }

    fn level_of_sigma(&self, sigma: f64) -> Level {
        self.scaled(self.path.level_of_sigma(sigma / self.scale))
    }

    fn times(&self) -> [f64; 2] {
        self.path.times()
    }

    /// Another scale adds a constant to the logarithm of the signal-to-noise ratio.
    fn smooth_at(&self, time: f64) -> (Level, f64) {
        let (level, rate) = self.path.smooth_at(time);
        (self.scaled(level), rate)
    }

    fn rates_at(&self, time: f64) -> [f64; 2] {
        let [signal, noise] = self.path.rates_at(time);
        [signal / self.scale, noise]
    }
}

#[cfg(test)]
mod tests {
    use nabla_base::choices::Choices;

    use super::*;

    #[test]
    fn a_path_for_another_scale_is_that_path_for_scaled_data() {
        let h = 1e-6;
        for choice in PathChoice::choices() {
            let (path, scale) = choice.value.path_around_zero(&[-0.3, 0.5], 1, 0).unwrap();
            assert!((scale - 0.17f64.sqrt()).abs() < 1e-12);
            let [plain, scaled] = [path.init(), path.for_scale(scale)].map(Result::unwrap);
            for time in [0.2, 0.5, 0.8] {
                let [a, b] = [&plain, &scaled].map(|path| path.level_at(time));
                assert!((a.signal() - b.signal() * scale).abs() < 1e-12);
                assert_eq!(a.noise(), b.noise());
                assert!((scaled.level_of_sigma(b.sigma()).time() - time).abs() < 1e-9);
                let (after, before) = (scaled.level_at(time + h), scaled.level_at(time - h));
                let slope = |value: fn(Level) -> f64| (value(after) - value(before)) / (2.0 * h);
                let [signal, noise] = scaled.rates_at(time);
                assert!((signal - slope(Level::signal)).abs() < 1e-3, "{choice:?}");
                assert!((noise - slope(Level::noise)).abs() < 1e-3, "{choice:?}");
                let rate = scaled.smooth_at(time).1;
                assert!(
                    (rate / slope(Level::log_snr) - 1.0).abs() < 1e-3,
                    "{choice:?}"
                );
            }
            let levels = path.levels(7, scale).unwrap();
            assert_eq!([levels.steps() as f64, levels.end().noise()], [7.0, 0.0]);
            assert!(path.levels(0, scale).is_err() && path.levels(3, 0.0).is_err());
        }
        assert!(PathChoice::Vp.path_around_zero(&[0.0, 0.0], 1, 0).is_err());
    }

    /// Sorted data: all of one kind first.
    #[test]
    fn points_are_taken_from_all_of_the_data() {
        let sorted: Vec<f64> = (0..2 * SEPARATED + 1).map(|k| k as f64).collect();
        let kept = some(&sorted, 1);
        assert_eq!(kept.len(), SEPARATED);
        assert!(kept[SEPARATED - 1] > 1.99 * SEPARATED as f64);
        assert_eq!(some(&sorted[..6], 2), sorted[..6]);
    }
}
