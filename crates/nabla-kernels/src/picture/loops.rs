//! The loops over pictures on the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::TensorData;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// The number of parallel partial sums.
pub(super) const LANES: usize = 16;

/// The number of samples per task of an elementwise operation.
pub(super) const CHUNK: usize = 1 << 14;

/// `f32`s of a gathered tile: half a megabyte, which the second-level cache holds.
const TILE: usize = 1 << 17;

pub(super) fn dims(x: &impl TensorMetadata) -> [usize; 4] {
    let shape = x.shape();
    [shape[0], shape[1], shape[2], shape[3]]
}

pub(super) fn float(shape: [usize; 4], data: Vec<f32>) -> FloatTensor<Flex> {
    FloatTensor::<Flex>::from_data(TensorData::new(data, shape))
}

/// `activation(group_norm(x))` in `f32`.
pub(super) fn normalize(
    x: FloatTensor<Flex>,
    gamma: FloatTensor<Flex>,
    beta: FloatTensor<Flex>,
    groups: usize,
    epsilon: f64,
    activation: impl Fn(f32) -> f32 + Sync,
) -> FloatTensor<Flex> {
    let shape = dims(&x);
    let [_, channels, height, width] = shape;
    let (area, members) = (height * width, channels / groups);
    let (x, gamma, beta) = (
        x.to_contiguous(),
        gamma.to_contiguous(),
        beta.to_contiguous(),
    );
    let (x, gamma, beta): (&[f32], &[f32], &[f32]) = (x.storage(), gamma.storage(), beta.storage());
    let mut y = vec![0.0; x.len()];
    if y.is_empty() {
        return float(shape, y);
    }
    let arch = pulp::Arch::new();
    y.par_chunks_mut(members * area)
        .zip(x.par_chunks(members * area))
        .enumerate()
        .for_each(|(group, (y, x))| {
            arch.dispatch(|| {
                let [mean, scale] = mean_and_scale(x, epsilon);
                let first = group % groups * members;
                let planes = y.chunks_exact_mut(area).zip(x.chunks_exact(area));
                for (channel, (y, x)) in planes.enumerate() {
                    let gain = (f64::from(gamma[first + channel]) * scale) as f32;
                    let (mean, shift) = (mean as f32, beta[first + channel]);
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = activation((x - mean) * gain + shift);
                    }
                }
            });
        });
    float(shape, y)
}

/// The gradients of [`normalize`] by `x`, `gamma` and `beta`, in `f32`.
///
/// - `slope`: the derivative of the activation
pub(super) fn normalize_backward(
    [x, gamma, beta]: [FloatTensor<Flex>; 3],
    groups: usize,
    epsilon: f64,
    grad: FloatTensor<Flex>,
    slope: impl Fn(f32) -> f32 + Sync,
) -> [FloatTensor<Flex>; 3] {
    let shape = dims(&x);
    let [_, channels, height, width] = shape;
    let (area, members) = (height * width, channels / groups);
    let [x, gamma, beta, grad] = [x, gamma, beta, grad].map(|v| v.to_contiguous());
    let (x, grad): (&[f32], &[f32]) = (x.storage(), grad.storage());
    let (gamma, beta): (&[f32], &[f32]) = (gamma.storage(), beta.storage());
    let mut dx = vec![0.0; x.len()];
    let arch = pulp::Arch::new();
    let count = (members * area) as f64;
    // For each group of each picture, Σ ∂u x̂ and Σ ∂u of its channels.
    let sums: Vec<Vec<[f64; 2]>> = dx
        .par_chunks_mut((members * area).max(1))
        .enumerate()
        .map(|(group, dx)| {
            let range = group * members * area..(group + 1) * members * area;
            let (x, grad) = (&x[range.clone()], &grad[range]);
            let first = group % groups * members;
            arch.dispatch(|| {
                let [mean, scale] = mean_and_scale(x, epsilon).map(|value| value as f32);
                let mut by_channel = Vec::with_capacity(members);
                let (mut level, mut along) = (0.0, 0.0);
                // ∂u, in the place of ∂x for now.
                for channel in 0..members {
                    let plane = channel * area..(channel + 1) * area;
                    let (gain, shift) = (gamma[first + channel], beta[first + channel]);
                    let [of_normal, of_one] = activation_backward(
                        &mut dx[plane.clone()],
                        &x[plane.clone()],
                        &grad[plane],
                        [mean, scale, gain, shift],
                        &slope,
                    );
                    level += f64::from(gain) * of_one;
                    along += f64::from(gain) * of_normal;
                    by_channel.push([of_normal, of_one]);
                }
                let (level, along) = ((level / count) as f32, (along / count) as f32);
                let planes = dx.chunks_exact_mut(area).zip(x.chunks_exact(area));
                for (channel, (dx, x)) in planes.enumerate() {
                    let gain = gamma[first + channel];
                    for (dx, &x) in dx.iter_mut().zip(x) {
                        let normal = (x - mean) * scale;
                        *dx = (*dx * gain - level - normal * along) * scale;
                    }
                }
                by_channel
            })
        })
        .collect();
    let mut by_gamma = vec![0.0_f64; channels];
    let mut by_beta = vec![0.0_f64; channels];
    for (group, of_channels) in sums.into_iter().enumerate() {
        let first = group % groups * members;
        for (channel, [of_normal, of_one]) in of_channels.into_iter().enumerate() {
            by_gamma[first + channel] += of_normal;
            by_beta[first + channel] += of_one;
        }
    }
    let row = |values: Vec<f64>| {
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        FloatTensor::<Flex>::from_data(TensorData::new(values, [channels]))
    };
    [float(shape, dx), row(by_gamma), row(by_beta)]
}

/// `∂u = ∂y slope(u)` of a plane with `u = x̂ gain + shift`; returns `Σ ∂u x̂` and `Σ ∂u`.
#[inline(always)]
fn activation_backward(
    du: &mut [f32],
    x: &[f32],
    grad: &[f32],
    [mean, scale, gain, shift]: [f32; 4],
    slope: &impl Fn(f32) -> f32,
) -> [f64; 2] {
    let mut totals = [0.0; 2];
    let pieces = du.chunks_mut(64 * LANES);
    let given = x.chunks(64 * LANES).zip(grad.chunks(64 * LANES));
    for (du, (x, grad)) in pieces.zip(given) {
        // Sums in lanes, which vectorise, and in a fixed order.
        let (mut of_normal, mut of_one) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let lanes = du.chunks_mut(LANES);
        for (du, (x, grad)) in lanes.zip(x.chunks(LANES).zip(grad.chunks(LANES))) {
            for (lane, (du, (&x, &g))) in du.iter_mut().zip(x.iter().zip(grad)).enumerate() {
                let normal = (x - mean) * scale;
                let value = g * slope(normal * gain + shift);
                *du = value;
                of_normal[lane] += value * normal;
                of_one[lane] += value;
            }
        }
        totals[0] += of_normal.iter().map(|&v| f64::from(v)).sum::<f64>();
        totals[1] += of_one.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    totals
}

/// The mean of a group, and 1/√(variance + ε).
#[inline(always)]
fn mean_and_scale(x: &[f32], epsilon: f64) -> [f64; 2] {
    let count = x.len() as f64;
    // Sum around the first number, so that a picture of one colour has no variance.
    let origin = x[0];
    let (sum, squares) = sums(x, origin);
    let mean = sum / count;
    let variance = (squares / count - mean * mean).max(0.0);
    let scale = 1.0 / (variance + epsilon).sqrt();
    [f64::from(origin) + mean, scale]
}

/// `Σ (x − origin)` and `Σ (x − origin)²`: in `f32` over short pieces, in `f64` over these.
#[inline(always)]
fn sums(x: &[f32], origin: f32) -> (f64, f64) {
    let (mut sum, mut squares) = (0.0, 0.0);
    for piece in x.chunks(64 * LANES) {
        let (mut s, mut q) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let whole = piece.as_chunks::<LANES>();
        for x in whole.0 {
            for lane in 0..LANES {
                let d = x[lane] - origin;
                s[lane] += d;
                q[lane] += d * d;
            }
        }
        for (lane, &x) in whole.1.iter().enumerate() {
            let d = x - origin;
            s[lane] += d;
            q[lane] += d * d;
        }
        sum += s.iter().map(|&v| f64::from(v)).sum::<f64>();
        squares += q.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    (sum, squares)
}

/// `y = w * x (+ bias)`: `[batch, inputs, height, width]` to `[batch, outputs, height, width]`.
pub(super) fn convolve(
    x: &[f32],
    shape: [usize; 4],
    weight: &[f32],
    bias: Option<&[f32]>,
    outputs: usize,
) -> Vec<f32> {
    let [batch, inputs, height, width] = shape;
    let mut y = vec![0.0; batch * outputs * height * width];
    if y.is_empty() {
        return y;
    }
    let depth = 9 * inputs;
    let weight = MatRef::from_row_major_slice(weight, outputs, depth);

    let rows = batch * height;
    if rows * width < outputs {
        return convolve_few(x, shape, weight, bias, outputs);
    }
    // All rows of the batch form one sequence, cut into tiles whose gathered columns fit the cache.
    let rows_per_tile = (TILE / (depth * width).max(1)).clamp(1, rows);
    let tiles: Vec<Vec<f32>> = (0..rows.div_ceil(rows_per_tile))
        .into_par_iter()
        .map_init(Vec::new, |columns: &mut Vec<f32>, tile| {
            let first = tile * rows_per_tile;
            let count = rows_per_tile.min(rows - first);
            let n = count * width;
            columns.resize(depth * n, 0.0);
            gather(x, shape, 0..inputs, first..first + count, columns);
            let mut out = vec![0.0; outputs * n];
            matmul(
                MatMut::from_row_major_slice_mut(&mut out, outputs, n),
                Accum::Replace,
                weight,
                MatRef::from_row_major_slice(columns, depth, n),
                1.0,
                Par::Seq,
            );
            out
        })
        .collect();

    y.par_chunks_mut(height * width)
        .enumerate()
        .for_each(|(plane, y)| {
            let (b, channel) = (plane / outputs, plane % outputs);
            let offset = bias.map_or(0.0, |bias| bias[channel]);
            for (r, y) in y.chunks_exact_mut(width).enumerate() {
                let row = b * height + r;
                let (tile, local) = (row / rows_per_tile, row % rows_per_tile);
                let n = rows_per_tile.min(rows - tile * rows_per_tile) * width;
                let start = channel * n + local * width;
                for (y, v) in y.iter_mut().zip(&tiles[tile][start..start + width]) {
                    *y = v + offset;
                }
            }
        });
    y
}

/// [`convolve`] with fewer positions than output channels: most of the memory belongs to the weights, which
/// are read once.
fn convolve_few(
    x: &[f32],
    shape: [usize; 4],
    weight: MatRef<'_, f32>,
    bias: Option<&[f32]>,
    outputs: usize,
) -> Vec<f32> {
    /// The number of parts of the output channels, one per task.
    const PARTS: usize = 8;
    let [batch, inputs, height, width] = shape;
    let (area, positions, depth) = (height * width, batch * height * width, 9 * inputs);
    let mut columns = vec![0.0; depth * positions];
    columns
        .par_chunks_mut(9 * positions)
        .enumerate()
        .for_each(|(channel, columns)| {
            gather(x, shape, channel..channel + 1, 0..batch * height, columns);
        });
    let columns = MatRef::from_row_major_slice(&columns, depth, positions);
    let part = outputs.div_ceil(PARTS);
    let parts: Vec<Vec<f32>> = (0..outputs.div_ceil(part))
        .into_par_iter()
        .map(|task| {
            let first = task * part;
            let count = part.min(outputs - first);
            let mut out = vec![0.0; count * positions];
            matmul(
                MatMut::from_row_major_slice_mut(&mut out, count, positions),
                Accum::Replace,
                weight.subrows(first, count),
                columns,
                1.0,
                Par::Seq,
            );
            out
        })
        .collect();
    let mut y = vec![0.0; outputs * positions];
    y.par_chunks_mut(area).enumerate().for_each(|(plane, y)| {
        let (b, channel) = (plane / outputs, plane % outputs);
        let offset = bias.map_or(0.0, |bias| bias[channel]);
        let start = channel % part * positions + b * area;
        let line = &parts[channel / part][start..start + area];
        for (y, v) in y.iter_mut().zip(line) {
            *y = v + offset;
        }
    });
    y
}

/// `dw[o, i, ky, kx] = Σ grad[b, o, r, c] x[b, i, r + ky − 1, c + kx − 1]`.
pub(super) fn weight_gradient(
    x: &[f32],
    shape: [usize; 4],
    grad: &[f32],
    outputs: usize,
) -> Vec<f32> {
    /// The number of input channels per task.
    const BLOCK: usize = 16;
    let [batch, inputs, height, width] = shape;
    let area = height * width;
    let blocks: Vec<Vec<f32>> = (0..inputs.div_ceil(BLOCK))
        .into_par_iter()
        .map(|block| {
            let channels = block * BLOCK..((block + 1) * BLOCK).min(inputs);
            let depth = 9 * channels.len();
            let rows_per_tile = (TILE / (depth * width).max(1)).clamp(1, height.max(1));
            let mut columns = Vec::new();
            let mut dw = vec![0.0; outputs * depth];
            for b in 0..batch {
                for first in (0..height).step_by(rows_per_tile) {
                    let count = rows_per_tile.min(height - first);
                    let n = count * width;
                    columns.resize(depth * n, 0.0);
                    let row = b * height + first;
                    gather(x, shape, channels.clone(), row..row + count, &mut columns);
                    let grad = &grad[b * outputs * area..(b + 1) * outputs * area];
                    let grad = MatRef::from_row_major_slice(grad, outputs, area);
                    matmul(
                        MatMut::from_row_major_slice_mut(&mut dw, outputs, depth),
                        Accum::Add,
                        grad.subcols(first * width, n),
                        MatRef::from_row_major_slice(&columns, depth, n).transpose(),
                        1.0,
                        Par::Seq,
                    );
                }
            }
            dw
        })
        .collect();
    let mut dw = vec![0.0; outputs * inputs * 9];
    for (o, dw) in dw.chunks_exact_mut(9 * inputs).enumerate() {
        let mut start = 0;
        for block in &blocks {
            let depth = block.len() / outputs;
            dw[start..start + depth].copy_from_slice(&block[o * depth..(o + 1) * depth]);
            start += depth;
        }
    }
    dw
}

/// Fills `columns`, `[9 * channels, rows * width]`, with the 3x3 neighbourhoods of the picture
/// `x`, `[batch, inputs, height, width]`. Rows are numbered through the whole batch.
fn gather(
    x: &[f32],
    [_, inputs, height, width]: [usize; 4],
    channels: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
    columns: &mut [f32],
) {
    let n = rows.len() * width;
    for (k, column) in columns.chunks_exact_mut(n).enumerate() {
        let (channel, ky, kx) = (channels.start + k / 9, k / 3 % 3, k % 3);
        for (row, out) in rows.clone().zip(column.chunks_exact_mut(width)) {
            let (b, r) = (row / height, row % height + ky);
            if r == 0 || r > height {
                out.fill(0.0);
                continue;
            }
            let start = ((b * inputs + channel) * height + r - 1) * width;
            let line = &x[start..start + width];
            match kx {
                0 => {
                    out[0] = 0.0;
                    out[1..].copy_from_slice(&line[..width - 1]);
                }
                1 => out.copy_from_slice(line),
                _ => {
                    out[..width - 1].copy_from_slice(&line[1..]);
                    out[width - 1] = 0.0;
                }
            }
        }
    }
}
