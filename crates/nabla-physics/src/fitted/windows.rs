//! The data of a fit: normalised, divided into what is learnt and what is held out, and cut into windows.

use nabla_data::trajectories::Trajectories;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::order::permutation;
use serde::{Deserialize, Serialize};

use super::FitError;

/// How numbers of the data become numbers of the network, and back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Of each column.
    pub mean: Vec<f64>,
    /// The standard deviation of each column.
    pub deviation: Vec<f64>,
    /// The first and the last time of the data that are learnt.
    pub times: [f64; 2],
    /// The unit of time: that in which the squared change of a number, in standard deviations, is 1 on average.
    pub unit: f64,
}

impl Scaling {
    pub(super) fn normalised(&self, column: usize, value: f64) -> f64 {
        (value - self.mean[column]) / self.deviation[column]
    }

    pub(super) fn restored(&self, column: usize, value: f64) -> f64 {
        self.mean[column] + self.deviation[column] * value
    }

    /// What a network sees of a time: −1 at the first, 1 at the last.
    pub(super) fn seen(&self, time: f64) -> f64 {
        2.0 * (time - self.times[0]) / (self.times[1] - self.times[0]) - 1.0
    }

    /// By how much [`seen`](Self::seen) grows in a length of time.
    pub(super) fn seen_in(&self, length: f64) -> f64 {
        2.0 * length / (self.times[1] - self.times[0])
    }
}

/// Rows of a trajectory, normalised.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) times: Vec<f64>,
    /// `[rows, columns]`, 0 in a gap.
    pub(super) values: Vec<f64>,
    pub(super) observed: Vec<bool>,
    /// The last value seen in each gap, the mean (0) before the first: what is known at that time.
    pub(super) carried: Vec<f64>,
    /// Between the values before and after a gap.
    pub(super) interpolated: Vec<f64>,
}

impl Series {
    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// 1 for each of some cells that is observed, and 0 for each gap.
    pub(super) fn mask(&self, cells: std::ops::Range<usize>) -> impl Iterator<Item = f64> {
        let of = |&observed: &bool| f64::from(u8::from(observed));
        self.observed[cells].iter().map(of)
    }

    fn part(&self, rows: std::ops::Range<usize>, columns: usize) -> Self {
        let cells = rows.start * columns..rows.end * columns;
        Self {
            name: self.name.clone(),
            times: self.times[rows].to_vec(),
            values: self.values[cells.clone()].to_vec(),
            observed: self.observed[cells.clone()].to_vec(),
            carried: self.carried[cells.clone()].to_vec(),
            interpolated: self.interpolated[cells].to_vec(),
        }
    }

    pub(super) fn is_complete(&self, row: usize, columns: usize) -> bool {
        self.observed[row * columns..(row + 1) * columns]
            .iter()
            .all(|&observed| observed)
    }
}

/// Rows of a series that are solved from one start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) series: usize,
    /// The row of the start.
    pub(super) first: usize,
    /// With the start.
    pub(super) rows: usize,
}

/// The data of a fit.
#[derive(Clone, Debug)]
pub(super) struct Data {
    pub(super) columns: usize,
    pub(super) scaling: Scaling,
    pub(super) training: Vec<Series>,
    pub(super) held_out: Vec<Series>,
}

/// From so many trajectories on, whole ones are held out.
const WHOLE: usize = 5;

impl Data {
    /// - `share`: that is held out
    pub(super) fn new(table: &Trajectories, share: f64, seed: u64) -> Result<Self, FitError> {
        let columns = table.columns.len();
        let all = &table.trajectories;
        if let Some(short) = all.iter().find(|trajectory| trajectory.len() < 2) {
            return Err(FitError::TooShort {
                name: short.name.clone(),
                rows: short.len(),
            });
        }
        // Which rows are learnt, and which are held out.
        let mut learnt: Vec<Option<usize>> = all.iter().map(|t| Some(t.len())).collect();
        if share > 0.0 && all.len() >= WHOLE {
            let count = ((share * all.len() as f64).ceil() as usize).min(all.len() - 1);
            let order = permutation(all.len(), &mut SeededNoise::new(seed, 1));
            order[..count]
                .iter()
                .for_each(|&place| learnt[place] = None);
        } else if share > 0.0 {
            for (rows, trajectory) in learnt.iter_mut().zip(all) {
                let held_out = (share * trajectory.len() as f64).ceil() as usize;
                *rows = Some(trajectory.len().saturating_sub(held_out).max(2));
            }
        }
        let scaling = scaling(table, &learnt)?;
        let [mut training, mut held_out] = [Vec::new(), Vec::new()];
        for (trajectory, rows) in all.iter().zip(&learnt) {
            let series = normalised(trajectory, columns, &scaling);
            let all = series.len();
            match *rows {
                None => held_out.push(series),
                Some(rows) => {
                    training.push(series.part(0..rows, columns));
                    // From the last row that is learnt.
                    if rows < all {
                        held_out.push(series.part(rows - 1..all, columns));
                    }
                }
            }
        }
        // What lies between values of both parts is none of the training's business.
        for series in &mut training {
            series.interpolated = interpolated(series, columns);
        }
        Ok(Self {
            columns,
            scaling,
            training,
            held_out,
        })
    }

    /// Whether a number that is learnt is missing.
    pub(super) fn has_gaps(&self) -> bool {
        let mut observed = self.training.iter().flat_map(|series| &series.observed);
        observed.any(|&observed| !observed)
    }
}

/// Rows from the beginning of a window to that of the next.
pub(super) fn stride(rows: usize) -> usize {
    (rows - 1).div_ceil(2).max(1)
}

/// Windows of at most `rows` rows, each of which begins in the middle of the one before; the last ends with the series.
pub(super) fn windows(all: &[Series], rows: usize) -> Vec<Window> {
    let stride = stride(rows);
    let mut found = Vec::new();
    for (series, rows_of) in all.iter().map(Series::len).enumerate() {
        let last = rows_of.saturating_sub(rows);
        let firsts = (0..last).step_by(stride).chain([last]);
        found.extend(firsts.map(|first| Window {
            series,
            first,
            rows: rows.min(rows_of),
        }));
    }
    found
}

/// Windows that share only their ends, in which every row but the first is predicted once.
pub(super) fn pieces(all: &[Series], rows: usize) -> Vec<Window> {
    let mut found = Vec::new();
    for (series, rows_of) in all.iter().map(Series::len).enumerate() {
        for first in (0..rows_of - 1).step_by(rows - 1) {
            found.push(Window {
                series,
                first,
                rows: rows.min(rows_of - first),
            });
        }
    }
    found
}

fn normalised(
    trajectory: &nabla_data::trajectories::Trajectory,
    columns: usize,
    scaling: &Scaling,
) -> Series {
    let mut series = Series {
        name: trajectory.name.clone(),
        times: trajectory.times.clone(),
        values: Vec::new(),
        observed: Vec::new(),
        carried: Vec::new(),
        interpolated: Vec::new(),
    };
    let mut last = vec![0.0; columns];
    for (place, value) in trajectory.values.iter().enumerate() {
        let column = place % columns;
        let value = value.map(|value| scaling.normalised(column, value));
        last[column] = value.unwrap_or(last[column]);
        series.values.push(value.unwrap_or(0.0));
        series.observed.push(value.is_some());
        series.carried.push(last[column]);
    }
    series.interpolated = interpolated(&series, columns);
    series
}

fn interpolated(series: &Series, columns: usize) -> Vec<f64> {
    let mut filled = series.values.clone();
    for column in 0..columns {
        let at = |row: usize| series.values[row * columns + column];
        let seen: Vec<usize> = (0..series.len())
            .filter(|row| series.observed[row * columns + column])
            .collect();
        for row in 0..series.len() {
            let after = seen.partition_point(|&other| other < row);
            let before = after.checked_sub(1).map(|place| seen[place]);
            filled[row * columns + column] = match (before, seen.get(after).copied()) {
                (_, Some(after)) if after == row => at(row),
                (Some(a), Some(b)) => {
                    let [from, to, now] = [a, b, row].map(|row| series.times[row]);
                    at(a) + (at(b) - at(a)) * (now - from) / (to - from)
                }
                (Some(only), None) | (None, Some(only)) => at(only),
                (None, None) => 0.0,
            };
        }
    }
    filled
}

/// - `learnt`: rows of each trajectory from its first on; `None` for none
fn scaling(table: &Trajectories, learnt: &[Option<usize>]) -> Result<Scaling, FitError> {
    let columns = table.columns.len();
    let (mut mean, mut deviation) = (Vec::new(), Vec::new());
    let parts = || {
        let all = table.trajectories.iter().zip(learnt);
        all.map(|(trajectory, rows)| (trajectory, rows.unwrap_or(0)))
    };
    for column in 0..columns {
        let values: Vec<f64> = parts()
            .flat_map(|(t, rows)| (0..rows).filter_map(move |row| t.row(row)[column]))
            .collect();
        let name = || table.columns[column].clone();
        if values.is_empty() {
            return Err(FitError::Unseen(name()));
        }
        let count = values.len() as f64;
        let average = values.iter().map(|value| value / count).sum::<f64>();
        let variance = values
            .iter()
            .map(|v| (v - average).powi(2) / count)
            .sum::<f64>();
        let spread = variance.sqrt();
        if !average.is_finite() || !spread.is_finite() {
            return Err(FitError::TooLarge(name()));
        }
        // A column that does not change stays where it is.
        let still = spread <= 1e-12 * average.abs() || spread == 0.0;
        mean.push(average);
        deviation.push(if still {
            average.abs().max(1.0)
        } else {
            spread
        });
    }
    let ends = parts().filter(|(_, rows)| *rows > 0);
    let times = ends.fold(
        [f64::INFINITY, f64::NEG_INFINITY],
        |[first, last], (t, rows)| [first.min(t.times[0]), last.max(t.times[rows - 1])],
    );
    let mut scaling = Scaling {
        mean,
        deviation,
        times,
        unit: times[1] - times[0],
    };
    // The mean squared change over more and more rows, until it is that of independent numbers' half.
    let longest = parts().map(|(_, rows)| rows).max().unwrap_or(0);
    let (mut before, mut lag) = ([0.0; 2], 1);
    while lag < longest {
        let (mut change, mut apart, mut count) = (0.0, 0.0, 0.0);
        for (t, rows) in parts() {
            for row in lag..rows {
                for column in 0..columns {
                    if let (Some(a), Some(b)) = (t.row(row - lag)[column], t.row(row)[column]) {
                        change += ((b - a) / scaling.deviation[column]).powi(2);
                        apart += t.times[row] - t.times[row - lag];
                        count += 1.0;
                    }
                }
            }
        }
        if count > 0.0 {
            let [time, squared] = [apart / count, change / count];
            if squared >= 1.0 {
                let share = (1.0 - before[1]) / (squared - before[1]);
                scaling.unit = before[0] + share * (time - before[0]);
                break;
            }
            before = [time, squared];
        }
        lag += lag.div_ceil(4);
    }
    Ok(scaling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_data::trajectories::TrajectoryOptions;

    fn table(text: &str) -> Trajectories {
        Trajectories::parse(text.as_bytes(), &TrajectoryOptions::default()).unwrap()
    }

    #[test]
    fn the_end_of_few_trajectories_is_held_out_or_some_of_many() {
        let rows: String = (0..10).map(|i| format!("{i},{}\n", i % 3)).collect();
        let one = table(&format!("t,a\n{rows}"));
        let data = Data::new(&one, 0.2, 1).unwrap();
        assert_eq!(data.training[0].times.len(), 8);
        assert_eq!(data.held_out[0].times, [7.0, 8.0, 9.0]);
        assert!(Data::new(&one, 0.0, 1).unwrap().held_out.is_empty());
        // Mean and deviation are those of what is learnt.
        let values = [0.0, 1.0, 2.0, 0.0, 1.0, 2.0, 0.0, 1.0];
        let mean = values.iter().sum::<f64>() / 8.0;
        assert!((data.scaling.mean[0] - mean).abs() < 1e-12);
        let rows: String = (0..10)
            .flat_map(|id| (0..4).map(move |i| format!("{id},{i},{}\n", i + id)))
            .collect();
        let many = table(&format!("id,t,a\n{rows}"));
        let data = Data::new(&many, 0.2, 1).unwrap();
        assert_eq!([data.training.len(), data.held_out.len()], [8, 2]);
        let again = Data::new(&many, 0.2, 1).unwrap();
        assert_eq!(data.held_out, again.held_out);
    }

    #[test]
    fn gaps_are_filled_by_what_is_known_or_what_lies_between() {
        let data = Data::new(&table("t,a,b\n0,,1\n1,2,\n3,,5\n4,8,6\n"), 0.0, 1).unwrap();
        let series = &data.training[0];
        let raw = |values: &[f64], column: usize| -> Vec<f64> {
            let column_of = values.iter().skip(column).step_by(2);
            column_of
                .map(|&v| data.scaling.restored(column, v))
                .collect()
        };
        let close = |a: Vec<f64>, b: [f64; 4]| {
            assert!(
                a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12),
                "{a:?} {b:?}"
            );
        };
        close(raw(&series.carried, 0), [5.0, 2.0, 2.0, 8.0]);
        close(raw(&series.carried, 1), [1.0, 1.0, 5.0, 6.0]);
        close(raw(&series.interpolated, 0), [2.0, 2.0, 6.0, 8.0]);
        close(
            raw(&series.interpolated, 1)[..].to_vec(),
            [1.0, 1.0 + 4.0 / 3.0, 5.0, 6.0],
        );
        assert!(data.has_gaps());
        assert!(!series.is_complete(0, 2) && series.is_complete(3, 2));
    }

    #[test]
    fn windows_overlap_by_half_and_pieces_share_their_ends() {
        let rows: String = (0..10).map(|i| format!("{i},{i}\n")).collect();
        let data = Data::new(&table(&format!("t,a\n{rows}")), 0.0, 1).unwrap();
        let firsts = |all: Vec<Window>| -> Vec<[usize; 2]> {
            all.iter()
                .map(|window| [window.first, window.rows])
                .collect()
        };
        let series = &data.training;
        assert_eq!(firsts(windows(series, 5)), [[0, 5], [2, 5], [4, 5], [5, 5]]);
        assert_eq!(firsts(windows(series, 20)), [[0, 10]]);
        assert_eq!(firsts(windows(series, 2)).len(), 9);
        assert_eq!(firsts(pieces(series, 5)), [[0, 5], [4, 5], [8, 2]]);
        assert_eq!(firsts(pieces(series, 10)), [[0, 10]]);
    }

    /// The change of a sine of angular frequency ω is 2 (1 − cos ωt) in variances: 1 after π/(3ω).
    #[test]
    fn the_unit_of_time_is_that_of_a_change_by_a_deviation() {
        let rows: String = (0..2000)
            .map(|i| format!("{},{}\n", 0.5 * f64::from(i), (0.05 * f64::from(i)).sin()))
            .collect();
        let data = Data::new(&table(&format!("t,a\n{rows}")), 0.0, 1).unwrap();
        let expected = std::f64::consts::FRAC_PI_3 / 0.1;
        assert!(
            (data.scaling.unit / expected - 1.0).abs() < 0.05,
            "{}",
            data.scaling.unit
        );
    }
}
