//! Forecasts without a network, with which a fit is compared.

use faer::Mat;
use faer::linalg::solvers::Solve;

use super::windows::Series;

/// What is forecast without a network, in the numbers of the network.
#[derive(Clone, Debug)]
pub(super) struct Baseline {
    /// Of `z' = A z + b`, as `(A b; 0 0)`; `None` if the last value is carried on.
    matrix: Option<Mat<f64>>,
    /// Of a random walk around that, per time.
    variances: Vec<f64>,
}

impl Baseline {
    pub(super) fn constant(all: &[Series], columns: usize, unit: f64) -> Self {
        Self::around(None, all, columns, unit)
    }

    /// The least squares of slopes between two complete rows, at the mean of both; `None` if there are too few.
    pub(super) fn linear(all: &[Series], columns: usize, unit: f64) -> Option<Self> {
        let width = columns + 1;
        let mut normal = Mat::<f64>::zeros(width, width);
        let mut right = Mat::<f64>::zeros(width, columns);
        let mut count = 0;
        for (before, after, length) in pairs(all, columns, unit) {
            let middle = |i: usize| match before.get(i) {
                Some(value) => 0.5 * (value + after[i]),
                None => 1.0,
            };
            // Errors of the change, rather than of the slope: short gaps do not count more than long ones.
            for i in 0..width {
                for j in 0..width {
                    normal[(i, j)] += length * length * middle(i) * middle(j);
                }
                for j in 0..columns {
                    right[(i, j)] += length * middle(i) * (after[j] - before[j]);
                }
            }
            count += 1;
        }
        if count < width {
            return None;
        }
        // For columns that do not change, or change together.
        let trace: f64 = (0..width).map(|i| normal[(i, i)]).sum();
        for i in 0..width {
            normal[(i, i)] += 1e-9 * trace / width as f64;
        }
        let solved = normal.partial_piv_lu().solve(&right); // [width, columns]
        let matrix = Mat::from_fn(width, width, |i, j| match i < columns {
            true => solved[(j, i)],
            false => 0.0,
        });
        let finite = (0..width).all(|i| (0..width).all(|j| matrix[(i, j)].is_finite()));
        if !finite {
            return None;
        }
        Some(Self::around(Some(matrix), all, columns, unit))
    }

    /// With the mean squared errors of one row from the one before, per time, as variances.
    fn around(matrix: Option<Mat<f64>>, all: &[Series], columns: usize, unit: f64) -> Self {
        let mut baseline = Self {
            matrix,
            variances: Vec::new(),
        };
        let mut sums = vec![0.0; columns];
        let mut count: f64 = 0.0;
        for (before, after, length) in pairs(all, columns, unit) {
            let predicted = baseline.forecast(before, length);
            for ((sum, found), expected) in sums.iter_mut().zip(after).zip(predicted) {
                *sum += (found - expected).powi(2) / length;
            }
            count += 1.0;
        }
        let variances = sums.iter().map(|sum| (sum / count.max(1.0)).max(1e-12));
        baseline.variances = variances.collect();
        baseline
    }

    /// The state after some time, in the network's unit.
    pub(super) fn forecast(&self, state: &[f64], time: f64) -> Vec<f64> {
        match &self.matrix {
            None => state.to_vec(),
            Some(matrix) => {
                let flow = exponential(matrix, time);
                let all = |i: usize| -> f64 {
                    let by_state = state.iter().enumerate().map(|(j, z)| flow[(i, j)] * z);
                    by_state.sum::<f64>() + flow[(i, state.len())]
                };
                (0..state.len()).map(all).collect()
            }
        }
    }

    /// The negative log density of a row after another, in nats.
    fn surprise(&self, before: &[f64], after: &[f64], length: f64) -> f64 {
        let predicted = self.forecast(before, length);
        let each = predicted.iter().zip(after).zip(&self.variances);
        each.map(|((mean, value), variance)| {
            let variance = variance * length;
            0.5 * ((value - mean).powi(2) / variance + (std::f64::consts::TAU * variance).ln())
        })
        .sum()
    }

    /// The mean negative log likelihood of a number, over pairs of complete rows.
    pub(super) fn likelihood(&self, all: &[Series], columns: usize, unit: f64) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0.0);
        for (before, after, length) in pairs(all, columns, unit) {
            sum += self.surprise(before, after, length);
            count += columns as f64;
        }
        let mean: f64 = sum / count;
        mean.is_finite().then_some(mean)
    }
}

/// Two rows, and the time between them.
type Pair<'a> = (&'a [f64], &'a [f64], f64);

/// Complete rows that follow each other, and the time between them in the network's unit.
fn pairs(all: &[Series], columns: usize, unit: f64) -> Vec<Pair<'_>> {
    let mut found = Vec::new();
    for series in all {
        for row in 1..series.len() {
            if series.is_complete(row - 1, columns) && series.is_complete(row, columns) {
                let at = |row: usize| &series.values[row * columns..(row + 1) * columns];
                let length = (series.times[row] - series.times[row - 1]) / unit;
                found.push((at(row - 1), at(row), length));
            }
        }
    }
    found
}

/// `exp(A t)` by scaling and squaring of Taylor's series.
fn exponential(matrix: &Mat<f64>, time: f64) -> Mat<f64> {
    let width = matrix.nrows();
    let row = |i: usize| {
        (0..width)
            .map(|j| (matrix[(i, j)] * time).abs())
            .sum::<f64>()
    };
    let norm = (0..width).map(row).fold(0.0, f64::max);
    let halvings = (norm.log2().ceil() + 2.0).clamp(0.0, 1000.0) as i32;
    let small = matrix * faer::Scale(time * 0.5_f64.powi(halvings));
    let mut term = Mat::<f64>::identity(width, width);
    let mut sum = term.clone();
    for k in 1..=14 {
        term = &term * &small * faer::Scale(1.0 / f64::from(k));
        sum += &term;
    }
    for _ in 0..halvings {
        sum = &sum * &sum;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_of_a_rotation_turns() {
        let matrix = Mat::from_fn(2, 2, |i, j| [[0.0, 1.0], [-1.0, 0.0]][i][j]);
        for time in [1e-3, 0.7, 30.0] {
            let flow = exponential(&matrix, time);
            assert!((flow[(0, 0)] - time.cos()).abs() < 1e-12, "{time}");
            assert!((flow[(0, 1)] - time.sin()).abs() < 1e-12, "{time}");
        }
    }

    #[test]
    fn least_squares_find_a_linear_equation() {
        // z' = −0.5 z + 0.2 towards 0.4, and a turning pair.
        let rows = 60;
        let time = |row: usize| 0.05 * row as f64 + 0.01 * (row % 3) as f64;
        let values: Vec<f64> = (0..rows)
            .flat_map(|row| {
                let t = time(row);
                [0.4 + (-0.5 * t).exp(), t.cos(), -t.sin()]
            })
            .collect();
        let series = Series {
            name: String::new(),
            times: (0..rows).map(time).collect(),
            observed: vec![true; values.len()],
            carried: values.clone(),
            interpolated: values.clone(),
            values,
        };
        let found = Baseline::linear(std::slice::from_ref(&series), 3, 1.0).unwrap();
        let predicted = found.forecast(&[1.4, 1.0, 0.0], 2.0);
        let expected = [0.4 + (-1.0_f64).exp(), 2.0_f64.cos(), -2.0_f64.sin()];
        for (a, b) in predicted.iter().zip(expected) {
            assert!((a - b).abs() < 1e-3, "{predicted:?} {expected:?}");
        }
        let carried = Baseline::constant(&[series], 3, 1.0);
        assert_eq!(carried.forecast(&[1.0, 2.0, 3.0], 9.0), [1.0, 2.0, 3.0]);
    }
}
