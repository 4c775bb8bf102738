//! The likelihood of rows of a stochastic equation, by the moments of its linearisation.

use std::f64::consts::TAU;

use burn::tensor::{Device, Tensor, TensorData};

use super::model::{FittedNetwork, noise};
use super::shooting::matrix;
use super::windows::{Data, Series, Window};
use crate::field::Dynamics;

/// Half the distance of the two states of a central difference, in standard deviations of the data. Rounding is a part in
/// 10⁵ of a slope, and the error of the difference a part in 10⁴ of its third derivative.
const APART: f64 = 1e-2;

/// The negative log likelihood of all numbers after the first row of each window, `[1]`, and how many they are.
///
/// - `device`: that of the network
pub(super) fn surprise(
    data: &Data,
    series: &[Series],
    windows: &[Window],
    network: &FittedNetwork,
    time_dependent: bool,
    substeps: usize,
    device: &Device,
) -> (Tensor<1>, f64) {
    let (batch, d) = (windows.len(), data.columns);
    let rows = windows.iter().map(|window| window.rows).max().unwrap_or(0);
    // Of a row of all windows; zeros beyond the end of a window.
    let row_of = |row: usize| -> [Vec<f64>; 4] {
        let [mut values, mut mask, mut seen, mut length] = [(); 4].map(|()| Vec::new());
        for window in windows {
            let series = &series[window.series];
            let place = window.first + row;
            match row < window.rows {
                true => {
                    let cells = place * d..(place + 1) * d;
                    values.extend_from_slice(&series.values[cells.clone()]);
                    mask.extend(series.mask(cells));
                    let before = series.times[place.saturating_sub(1).max(window.first)];
                    seen.push(data.scaling.seen(before));
                    length.push((series.times[place] - before) / data.scaling.unit);
                }
                false => {
                    values.extend(std::iter::repeat_n(0.0, d));
                    mask.extend(std::iter::repeat_n(0.0, d));
                    seen.push(0.0);
                    length.push(0.0);
                }
            }
        }
        [values, mask, seen, length]
    };
    let [values, mask, ..] = row_of(0);
    let mut mean = matrix(&values, d, device); // [batch, d]
    let missing = matrix(&mask, d, device).neg() + 1.0;
    let identity = Tensor::<2>::eye(d, device).unsqueeze::<3>(); // [1, d, d]
    let mut covariance = missing.unsqueeze_dim::<3>(2) * identity.clone(); // [batch, d, d]
    let mut sum = Tensor::<1>::zeros([1], device);
    let mut count = 0.0;
    // One unit of the network's time as it is seen.
    let pace = data.scaling.seen_in(data.scaling.unit);
    for row in 1..rows {
        let [values, mask, seen, length] = row_of(row);
        let h = matrix(&length, 1, device) / substeps as f64; // [batch, 1]
        let mut t = matrix(&seen, 1, device);
        for _ in 0..substeps {
            let half = h.clone() * 0.5;
            let slope = network.drift.slope(mean.clone(), t.clone());
            let middle = mean.clone() + slope * half.clone();
            let now = match time_dependent {
                true => t.clone() + half.clone() * pace,
                false => t.clone(),
            };
            let (slope, jacobian) = linearised(network, middle.clone(), now.clone());
            mean = mean + slope * h.clone();
            let step = h.clone().unsqueeze_dim::<3>(2); // [batch, 1, 1]
            let by_half = jacobian.clone() * (step.clone() * 0.5);
            let by_step = jacobian * step.clone();
            let flow = identity.clone() + by_step.clone() + by_step.clone().matmul(by_step) * 0.5;
            let spread = match &network.diffusion {
                Some(diffusion) => noise(diffusion, middle, now).square() * h.clone(),
                None => mean.zeros_like(),
            };
            // B Q Bᵀ with B = I + hJ/2 and a diagonal Q.
            let from = identity.clone() + by_half;
            let added = (from.clone() * spread.unsqueeze_dim::<3>(1)).matmul(from.swap_dims(1, 2));
            covariance = flow.clone().matmul(covariance).matmul(flow.swap_dims(1, 2)) + added;
            if time_dependent {
                t = t + h.clone() * pace;
            }
        }
        count += mask.iter().sum::<f64>();
        let seen = matrix(&mask, d, device);
        let values = matrix(&values, d, device);
        // Number by number: the density of each, given those before.
        for column in 0..d {
            let one = |x: &Tensor<2>| x.clone().slice_dim(1, column..column + 1); // [batch, 1]
            let is_seen = one(&seen);
            let row = covariance.clone().slice_dim(1, column..column + 1); // [batch, 1, d]
            let column_of = row.clone().reshape([batch, d]);
            let variance = one(&column_of) * is_seen.clone() + (is_seen.clone().neg() + 1.0);
            let error = (one(&values) - one(&mean)) * is_seen.clone();
            let surprise = error.clone().square() / variance.clone()
                + (variance.clone().log() + TAU.ln()) * is_seen.clone();
            sum = sum + surprise.sum() * 0.5;
            let gain = column_of / variance * is_seen; // [batch, d]
            mean = mean + gain.clone() * error;
            covariance = covariance - gain.unsqueeze_dim::<3>(2) * row;
        }
        // What was seen is known, without rounding.
        let unseen = seen.clone().neg() + 1.0;
        mean = values * seen + mean * unseen.clone();
        let both = unseen.clone().unsqueeze_dim::<3>(2) * unseen.unsqueeze_dim::<3>(1);
        covariance = covariance * both;
    }
    (sum, count)
}

/// `f` and its Jacobian by central differences, `[batch, d]` and `[batch, d, d]`, with the gradients of both.
fn linearised(
    network: &FittedNetwork,
    state: Tensor<2>,
    time: Tensor<2>,
) -> (Tensor<2>, Tensor<3>) {
    let [batch, d] = state.dims();
    let device = state.device();
    let mut shifts = vec![0.0_f32; (2 * d + 1) * d];
    for column in 0..d {
        shifts[(2 * column + 1) * d + column] = APART as f32;
        shifts[(2 * column + 2) * d + column] = -APART as f32;
    }
    let count = 2 * d + 1;
    let shifts = Tensor::<3>::from_data(TensorData::new(shifts, [count, 1, d]), &device);
    let states = (state.unsqueeze::<3>() + shifts).reshape([count * batch, d]);
    let times = match time.dims()[0] {
        1 => time,
        _ => time.repeat_dim(0, count),
    };
    let slopes = network
        .drift
        .slope(states, times)
        .reshape([count, batch, d]);
    let at = |place: usize| slopes.clone().slice_dim(0, place..place + 1); // [1, batch, d]
    let columns = (0..d).map(|column| (at(2 * column + 1) - at(2 * column + 2)) * (0.5 / APART));
    let jacobian = Tensor::cat(columns.collect(), 0); // [by column, batch, d]
    // [batch, of f, by column]
    let jacobian = jacobian.swap_dims(0, 1).swap_dims(1, 2);
    (at(0).reshape([batch, d]), jacobian)
}
