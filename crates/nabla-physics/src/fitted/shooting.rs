//! Windows of a batch, solved together and read at their rows.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::model::{Clock, FittedNetwork, Timed};
use super::settings::Regulariser;
use super::windows::{Data, Series, Window};
use super::{FitError, located};
use crate::field::Field;
use crate::local_regularisation::LocalPenalty;
use crate::solver::{Solution, Solver};
use nabla_grad::seeded_noise::SeededNoise;

/// Two times of a batch are one if they differ by less, in lengths of a window.
const SAME: f64 = 1e-9;

/// Windows that are solved together, each in its own time from 0 to 1.
#[derive(Clone, Debug)]
pub(super) struct Batch<'a> {
    series: &'a [Series],
    windows: &'a [Window],
    columns: usize,
    clock: Clock,
    /// From 0 to 1.
    times: Vec<f64>,
    /// For each row that is predicted, window after window: the place of its value among all times and windows.
    places: Vec<i64>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        data: &Data,
        series: &'a [Series],
        windows: &'a [Window],
        timed: bool,
    ) -> Self {
        let mut clock = Clock {
            seen: Vec::new(),
            seen_per_unit: Vec::new(),
            speed: Vec::new(),
            time_dependent: timed,
        };
        let mut all = Vec::new();
        for (place, window) in windows.iter().enumerate() {
            let (begin, length) = ends(series, window);
            clock.seen.push(data.scaling.seen(begin));
            clock.seen_per_unit.push(data.scaling.seen_in(length));
            clock.speed.push(length / data.scaling.unit);
            let times = &series[window.series].times[window.first..window.first + window.rows];
            let shares = times[1..].iter().map(|time| (time - begin) / length);
            all.extend(shares.map(|share| (share, place)));
        }
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by(|&a, &b| all[a].0.total_cmp(&all[b].0));
        let mut times = vec![0.0];
        let mut places = vec![0; all.len()];
        for entry in order {
            let (share, window) = all[entry];
            let last = times.last().copied().unwrap_or_default();
            // Rows at the very start are read where the next begins.
            if times.len() == 1 || share - last > SAME {
                times.push(share.max(SAME));
            }
            places[entry] = ((times.len() - 1) * windows.len() + window) as i64;
        }
        if let Some(last) = times.last_mut() {
            *last = 1.0;
        }
        Self {
            series,
            windows,
            columns: data.columns,
            clock,
            times,
            places,
        }
    }

    /// The longest window in the data's unit of time.
    pub(super) fn longest(&self) -> f64 {
        let lengths = self
            .windows
            .iter()
            .map(|window| ends(self.series, window).1);
        lengths.fold(0.0, f64::max)
    }

    /// The numbers of the rows where the windows begin, `[windows, columns]`.
    ///
    /// - `values`: of a series, such as with gaps filled
    pub(super) fn starts(&self, values: fn(&Series) -> &Vec<f64>) -> Vec<f64> {
        let rows = self.windows.iter().flat_map(|window| {
            let begin = window.first * self.columns;
            values(&self.series[window.series])[begin..begin + self.columns].iter()
        });
        rows.copied().collect()
    }

    /// Each row that is predicted: its series, and its number there.
    pub(super) fn rows(&self) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        self.windows.iter().flat_map(|window| {
            (window.first + 1..window.first + window.rows).map(|row| (window.series, row))
        })
    }

    /// What was observed in the rows that are predicted, `[rows, columns]`: values, and 1 where there is one.
    pub(super) fn observed(&self) -> [Vec<f64>; 2] {
        let [mut values, mut mask] = [Vec::new(), Vec::new()];
        for (series, row) in self.rows() {
            let cells = row * self.columns..(row + 1) * self.columns;
            let series = &self.series[series];
            values.extend_from_slice(&series.values[cells.clone()]);
            mask.extend(series.mask(cells));
        }
        [values, mask]
    }

    /// Solves from `start`, `[windows, columns]`, and returns what is predicted, `[rows, columns]`, with a penalty.
    pub(super) fn solve(
        &self,
        network: &FittedNetwork,
        start: Tensor<2>,
        solver: &Solver,
        regulariser: Regulariser,
        step: usize,
        draws: &mut SeededNoise,
    ) -> Result<Solved, FitError> {
        let field = Timed::drift(network, self.clock.clone());
        let (solution, penalty) = match regulariser {
            Regulariser::None => (self.solution(solver, &field, start)?, None),
            Regulariser::Ernode(penalty, weights) => {
                let solution = self.solution(solver, &field, start)?;
                let penalty = penalty.of(&solution) * weights.weight(step);
                (solution, Some(penalty))
            }
            Regulariser::Local(penalty, weights) => {
                let (solution, penalty) = self.local(&penalty, solver, &field, start, draws)?;
                (solution, Some(penalty * weights.weight(step)))
            }
        };
        let values: Tensor<3> = solution.values(); // [times, windows, columns]
        let [times, windows, columns] = values.dims();
        let places = indices(&self.places, &values.device());
        Ok(Solved {
            predicted: values.reshape([times * windows, columns]).select(0, places),
            penalty,
            solution,
        })
    }

    fn solution(
        &self,
        solver: &Solver,
        field: &impl Field,
        start: Tensor<2>,
    ) -> Result<Solution, FitError> {
        let solved = solver.solve(field, start, &self.times);
        solved.map_err(|error| located(error, |row, time| self.place(row, time)))
    }

    fn local(
        &self,
        penalty: &LocalPenalty,
        solver: &Solver,
        field: &impl Field,
        start: Tensor<2>,
        draws: &mut SeededNoise,
    ) -> Result<(Solution, Tensor<1>), FitError> {
        let solved = penalty.solve(solver, field, start, &self.times, draws);
        solved.map_err(|error| located(error, |row, time| self.place(row, time)))
    }

    /// The name of a window's trajectory, and what is its time in the data's.
    pub(super) fn place(&self, row: usize, time: f64) -> (String, f64) {
        let window = &self.windows[row.min(self.windows.len() - 1)];
        let (begin, length) = ends(self.series, window);
        (
            self.series[window.series].name.clone(),
            begin + length * time,
        )
    }
}

/// The first time of a window, and its length.
fn ends(series: &[Series], window: &Window) -> (f64, f64) {
    let times = &series[window.series].times;
    let begin = times[window.first];
    (begin, times[window.first + window.rows - 1] - begin)
}

/// What was solved.
pub(super) struct Solved {
    /// `[rows, columns]`
    pub(super) predicted: Tensor<2>,
    /// `[1]`, with its weight.
    pub(super) penalty: Option<Tensor<1>>,
    pub(super) solution: Solution,
}

pub(super) fn indices(places: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(places.to_vec(), [places.len()]), device)
}

/// Numbers in single precision, `[rows, columns]`.
pub(super) fn matrix(values: &[f64], columns: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / columns;
    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}
