//! The errors of forecasts.

use burn::tensor::Device;
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use super::FitError;
use super::baselines::Baseline;
use super::model::FittedNetwork;
use super::settings::{FitConfig, Regulariser};
use super::shooting::{Batch, matrix};
use super::windows::{Data, Series, Window};

/// Windows that are forecast together.
const TOGETHER: usize = 64;

/// Errors on the same data; none where a forecast is not finite or does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// Of the model.
    pub model: Option<f64>,
    /// Of the last value carried on; for likelihoods, of a random walk.
    pub constant: Option<f64>,
    /// Of `z' = A z + b`; for likelihoods, with noise.
    pub linear: Option<f64>,
}

/// What came of a fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Rows of a window, the first with its start.
    pub window: usize,
    /// The error of forecasts from the first row of each window of what was learnt, in standard deviations.
    pub training: Errors,
    /// The same for what was held out, if anything.
    pub validation: Option<Errors>,
    /// Of forecasts from the first row that was held out to the end.
    pub to_the_end: Option<Errors>,
    /// Mean negative log likelihoods of a number in nats, in standard deviations: of what was learnt, for stochastic
    /// equations.
    pub training_likelihood: Option<Errors>,
    /// Of what was held out.
    pub validation_likelihood: Option<Errors>,
    /// Evaluations of `f` for a forecast of a window, on average: of what was learnt.
    pub evaluations: Option<f64>,
}

/// Squared errors of a forecast, and its evaluations.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Squares {
    sum: f64,
    count: f64,
    evaluations: f64,
    solved: f64,
}

impl Squares {
    pub(super) fn error(&self) -> Option<f64> {
        let error = (self.sum / self.count).sqrt();
        error.is_finite().then_some(error)
    }

    pub(super) fn evaluations(&self) -> Option<f64> {
        (self.solved > 0.0).then(|| self.evaluations / self.solved)
    }
}

/// Of a model.
pub(super) fn of_model(
    config: &FitConfig,
    data: &Data,
    series: &[Series],
    windows: &[Window],
    network: &FittedNetwork,
) -> Result<Squares, FitError> {
    let mut squares = Squares::default();
    let device = Device::flex();
    for some in windows.chunks(TOGETHER) {
        let batch = Batch::new(data, series, some, config.time_dependent);
        let start = matrix(
            &batch.starts(|series| &series.carried),
            data.columns,
            &device,
        );
        let solver = config.solver(batch.longest());
        let mut none = SeededNoise::new(0, 0);
        let solved = batch.solve(network, start, &solver, Regulariser::None, 0, &mut none)?;
        let [values, mask] = batch.observed();
        let predicted = solved.predicted.into_data();
        for ((found, value), mask) in predicted.iter::<f64>().zip(values).zip(mask) {
            squares.sum += mask * (found - value).powi(2);
            squares.count += mask;
        }
        squares.evaluations += solved.solution.statistics().evaluations() as f64;
        squares.solved += 1.0;
    }
    Ok(squares)
}

/// Of a forecast without a network.
pub(super) fn of_baseline(
    baseline: &Baseline,
    data: &Data,
    series: &[Series],
    windows: &[Window],
) -> Squares {
    let (mut squares, columns) = (Squares::default(), data.columns);
    for window in windows {
        let series = &series[window.series];
        let mut state =
            series.carried[window.first * columns..(window.first + 1) * columns].to_vec();
        for row in window.first + 1..window.first + window.rows {
            let length = (series.times[row] - series.times[row - 1]) / data.scaling.unit;
            state = baseline.forecast(&state, length);
            for (column, found) in state.iter().enumerate() {
                let cell = row * columns + column;
                if series.observed[cell] {
                    squares.sum += (found - series.values[cell]).powi(2);
                    squares.count += 1.0;
                }
            }
        }
    }
    squares
}
