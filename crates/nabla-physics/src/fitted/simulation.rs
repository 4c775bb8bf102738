//! Going on from a state with a model that was fitted.

use burn::tensor::{Device, Tensor};
use nabla_base::range;

use super::model::{Clock, FittedModel, Timed};
use super::settings::SolverSettings;
use super::shooting::matrix;
use super::{FitError, located};
use crate::sde::{SdeMethod, SdeSolver};
use crate::solve_error::SolveError;

/// Where a simulation begins, in the units of the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The name of the trajectory, for messages.
    pub name: String,
    /// When.
    pub time: f64,
    /// The numbers of the state.
    pub values: Vec<f64>,
}

/// What was simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// The state at each time, in the units of the data.
    pub values: Vec<Vec<f64>>,
    /// Evaluations of `f`.
    pub evaluations: usize,
}

/// Many paths from one start: at each time, numbers for each column.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantiles {
    /// The mean of the paths.
    pub mean: Vec<Vec<f64>>,
    /// A tenth of the paths is below this.
    pub low: Vec<Vec<f64>>,
    /// A tenth of the paths is above this.
    pub high: Vec<Vec<f64>>,
}

impl Quantiles {
    /// - `paths`: at least one; the state at each time
    pub fn of(paths: &[Path]) -> Self {
        let times = paths.first().map_or(0, |path| path.values.len());
        let columns = paths.first().and_then(|path| path.values.first());
        let columns = columns.map_or(0, Vec::len);
        let each = |number: &dyn Fn(&[f64]) -> f64| -> Vec<Vec<f64>> {
            let at = |time: usize, column: usize| {
                let values = paths.iter().map(|path| path.values[time][column]);
                let mut values: Vec<f64> = values.collect();
                values.sort_by(f64::total_cmp);
                number(&values)
            };
            let row = |time| (0..columns).map(|column| at(time, column)).collect();
            (0..times).map(row).collect()
        };
        let quantile = |share: f64| {
            move |sorted: &[f64]| {
                let place = share * (sorted.len() - 1) as f64;
                let below = place.floor() as usize;
                let above = (below + 1).min(sorted.len() - 1);
                sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
            }
        };
        Self {
            mean: each(&|values| values.iter().sum::<f64>() / values.len() as f64),
            low: each(&quantile(0.1)),
            high: each(&quantile(0.9)),
        }
    }
}

impl FittedModel {
    /// Goes on from a state; of a stochastic equation, without its noise.
    ///
    /// - `times`: rising, after that of the start, in the unit of the data
    ///
    /// # Errors
    /// If the start or the times do not fit, or the solver fails: then with the time.
    pub fn simulate(
        &self,
        start: &Start,
        times: &[f64],
        solver: &SolverSettings,
    ) -> Result<Path, FitError> {
        solver.validate()?;
        let (state, clock, own) = self.begun(start, times, 1)?;
        let field = Timed::drift(self.network(), clock);
        let unit = self.config().scaling.unit;
        let solved = solver.solver(unit).solve(&field, state, &own);
        let solution = solved.map_err(|error| self.located(start, error))?;
        let found = solution.values(); // [times, 1, columns]
        let mut paths = self.restored(found, 1);
        let values = paths.swap_remove(0);
        Ok(Path {
            values,
            evaluations: solution.statistics().evaluations(),
        })
    }

    /// Goes on from a state many times, each with other noise, by Euler and Maruyama's method with steps of its own.
    ///
    /// - `tolerance`: of a step, in standard deviations of the data
    ///
    /// # Errors
    /// As [`simulate`](Self::simulate), or if the equation is not stochastic or there are no paths.
    pub fn simulate_paths(
        &self,
        start: &Start,
        times: &[f64],
        paths: usize,
        tolerance: f64,
        seed: u64,
    ) -> Result<Vec<Path>, FitError> {
        let diffusion = self.network().diffusion.as_ref();
        let diffusion = diffusion.ok_or(FitError::NotStochastic)?;
        range::within("number of paths", paths, 1..=1_000_000)?;
        range::positive("tolerance", tolerance)?;
        let (state, clock, own) = self.begun(start, times, paths)?;
        let drift = Timed::drift(self.network(), clock.clone());
        let noise = Timed::diffusion(diffusion, clock);
        // Any noise of its own for each number: that of one may depend on the others.
        let solver = SdeSolver::new(SdeMethod::EulerMaruyama).with_tolerances(tolerance, tolerance);
        let solved = solver.solve(&drift, &noise, state, &own, seed);
        let solution = solved.map_err(|error| self.located(start, error))?;
        let evaluations = solution.statistics().evaluations();
        let paths = self.restored(solution.values(), paths).into_iter();
        let path = |values| Path {
            values,
            evaluations,
        };
        Ok(paths.map(path).collect())
    }

    /// Checks what [`simulate`](Self::simulate) would be given, without solving anything.
    ///
    /// # Errors
    /// If the start, the times or the settings do not fit.
    pub fn check(
        &self,
        start: &Start,
        times: &[f64],
        solver: &SolverSettings,
    ) -> Result<(), FitError> {
        solver.validate()?;
        self.begun(start, times, 1).map(drop)
    }

    /// The state, `[paths, columns]`, how time runs, and the times of the solver.
    fn begun(
        &self,
        start: &Start,
        times: &[f64],
        paths: usize,
    ) -> Result<(Tensor<2>, Clock, Vec<f64>), FitError> {
        let config = self.config();
        let (columns, scaling) = (config.columns.len(), &config.scaling);
        if start.values.len() != columns {
            return Err(FitError::Start {
                found: start.values.len(),
                expected: columns,
            });
        }
        range::finite("time of the start", start.time)?;
        for (value, name) in start.values.iter().zip(&config.columns) {
            range::finite(format!("start of {name:?}"), *value)?;
        }
        let mut before = start.time;
        for &time in times {
            let rises = time > before && time.is_finite();
            let expected = format!("finite and greater than the one before, {before}");
            range::check(rises, "time to simulate", time, expected)?;
            before = time;
        }
        let own = times.iter().map(|time| (time - start.time) / scaling.unit);
        let own: Vec<f64> = std::iter::once(0.0).chain(own).collect();
        let values = start.values.iter().enumerate();
        let state: Vec<f64> = values.map(|(i, &x)| scaling.normalised(i, x)).collect();
        let clock = Clock {
            seen: vec![scaling.seen(start.time)],
            seen_per_unit: vec![scaling.seen_in(scaling.unit)],
            speed: vec![1.0],
            time_dependent: config.time_dependent,
        };
        let state = matrix(&state.repeat(paths), columns, &Device::flex());
        Ok((state, clock, own))
    }

    fn located(&self, start: &Start, error: SolveError) -> FitError {
        let unit = self.config().scaling.unit;
        located(error, |_, time| {
            (start.name.clone(), start.time + unit * time)
        })
    }

    /// - `values`: `[times, paths, columns]`, the first time being that of the start
    /// - returns the states of each path
    fn restored(&self, values: Tensor<3>, paths: usize) -> Vec<Vec<Vec<f64>>> {
        let columns = self.config().columns.len();
        let numbers: Vec<f64> = values.into_data().iter::<f64>().collect();
        let mut all = vec![Vec::new(); paths];
        for states in numbers.chunks(paths * columns).skip(1) {
            for (path, state) in all.iter_mut().zip(states.chunks(columns)) {
                let state = state.iter().enumerate();
                path.push(
                    state
                        .map(|(i, &z)| self.config().scaling.restored(i, z))
                        .collect(),
                );
            }
        }
        all
    }
}
