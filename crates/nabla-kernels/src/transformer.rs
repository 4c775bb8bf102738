//! The two operations in which a latent diffusion transformer spends its time, written for Burn's pure-Rust
//! CPU backend: attention over many positions, and the gated feed-forward layer.
//!
//! Attention stores the scores of only some queries with some keys at a time: with the running maximum `m` and
//! sum `l` of each query,
//!
//! ```text
//! m' = max(m, max_j s_j),   p_j = exp(s_j − m'),   l' = l exp(m − m') + Σ p_j
//! o' = o exp(m − m') + Σ p_j v_j;   at the end  o/l
//! ```
//!
//! (Milakov, Gimelshein, *Online normalizer calculation for softmax*, 2018, arXiv 1805.02867; Dao et al.,
//! *FlashAttention*, 2022, arXiv 2205.14135). The feed-forward layer gates each part of its product while it
//! is in the cache. 16-bit numbers are computed in 32 bits (see `half_precision`). Other backends and
//! autodiff run Burn's own operations.
//!
//! Results do not depend on the number of threads: the work is divided at fixed positions.

use burn::nn::Linear;
use burn::tensor::activation::gelu;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Tensor};
use faer::linalg::matmul::matmul;
use faer::reborrow::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use nabla_grad::elementwise::{Dense, exp};
use rayon::prelude::*;

use crate::half_precision::{Numbers, result};

/// The number of queries per task.
const QUERIES: usize = 128;
/// The number of keys whose scores are stored at a time.
const KEYS: usize = 512;
/// The number of values that are loaded, computed and stored in parallel.
const LANES: usize = 16;

/// `softmax(q kᵀ/√d) v` for each head.
///
/// - `q`: `[batch, length, heads · d]`; `k`, `v`: `[batch, words, heads · d]`
/// - `causal`: whether a position attends only to itself and earlier positions
/// - returns the shape of `q`
pub fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    heads: usize,
    causal: bool,
) -> Tensor<3> {
    let ([batch, length, inner], [_, words, _]) = (q.dims(), k.dims());
    let (dtype, kept) = (q.dtype(), [q.clone(), k.clone(), v.clone()]);
    match (Numbers::take(q), Numbers::take(k), Numbers::take(v)) {
        (Some(q), Some(k), Some(v)) => {
            drop(kept);
            let [q, k, v] = [q, k, v].map(Numbers::into_dense);
            let shape = Shape {
                length,
                words,
                inner,
                d: inner / heads,
                causal,
            };
            let y = shape.attend(batch, heads, q, &k, &v);
            result(y, [batch, length, inner], dtype)
        }
        _ => {
            let [q, k, v] = kept;
            // [batch, length, heads · d] -> [batch, heads, length, d]
            let split = |x: Tensor<3>| {
                let [batch, length, inner] = x.dims();
                x.reshape([batch, length, heads, inner / heads])
                    .swap_dims(1, 2)
            };
            let options = AttentionModuleOptions {
                is_causal: causal,
                ..AttentionModuleOptions::default()
            };
            let y =
                burn::tensor::module::attention(split(q), split(k), split(v), None, None, options);
            y.swap_dims(1, 2).reshape([batch, length, inner])
        }
    }
}

struct Shape {
    length: usize,
    words: usize,
    /// The distance between positions, in numbers.
    inner: usize,
    d: usize,
    causal: bool,
}

impl Shape {
    fn attend(&self, batch: usize, heads: usize, q: Dense, k: &Dense, v: &Dense) -> Dense {
        let blocks = self.length.div_ceil(QUERIES);
        let parts: Vec<Vec<f32>> = (0..batch * heads * blocks)
            .into_par_iter()
            .map_init(Vec::new, |scores, task| {
                let (place, block) = (task / blocks, task % blocks);
                let (b, head) = (place / heads, place % heads);
                let of = |length: usize| {
                    let start = b * length * self.inner + head * self.d;
                    start..(b + 1) * length * self.inner
                };
                let q = &q.values()[of(self.length)];
                let [k, v] = [k, v].map(|x| &x.values()[of(self.words)]);
                self.block(block * QUERIES, [q, k, v], scores)
            })
            .collect();
        let mut out = q;
        if self.inner > 0 {
            out.values_mut()
                .par_chunks_mut(self.inner)
                .enumerate()
                .for_each(|(row, out)| {
                    let (b, position) = (row / self.length, row % self.length);
                    let (block, local) = (position / QUERIES, position % QUERIES);
                    for (head, out) in out.chunks_exact_mut(self.d).enumerate() {
                        let part = &parts[(b * heads + head) * blocks + block];
                        out.copy_from_slice(&part[local * self.d..(local + 1) * self.d]);
                    }
                });
        }
        out
    }

    /// Some positions of a head, `[count, d]`.
    fn rows<'a>(&self, x: &'a [f32], first: usize, count: usize) -> MatRef<'a, f32> {
        let x = &x[first * self.inner..];
        MatRef::from_row_major_slice_with_stride(x, count, self.d, self.inner)
    }

    /// The results of the queries from `first` on, `[queries, d]`. `q`, `k` and `v` all start at the head.
    fn block(&self, first: usize, [q, k, v]: [&[f32]; 3], scores: &mut Vec<f32>) -> Vec<f32> {
        let d = self.d;
        let count = QUERIES.min(self.length - first);
        let queries = self.rows(q, first, count);
        let mut out = vec![0.0; count * d];
        let mut highest = vec![f32::NEG_INFINITY; count];
        let mut sums = vec![0.0f32; count];
        let end = match self.causal {
            true => self.words.min(first + count),
            false => self.words,
        };
        let arch = pulp::Arch::new();
        for start in (0..end).step_by(KEYS) {
            let keys = KEYS.min(end - start);
            scores.resize(count * keys, 0.0);
            matmul(
                MatMut::from_column_major_slice_mut(scores, keys, count),
                Accum::Replace,
                self.rows(k, start, keys),
                queries.transpose(),
                1.0 / (d as f32).sqrt(),
                Par::Seq,
            );
            arch.dispatch(|| {
                for (query, scores) in scores.chunks_exact_mut(keys).enumerate() {
                    if self.causal {
                        let seen = (first + query + 1).saturating_sub(start).min(keys);
                        scores[seen..].fill(f32::NEG_INFINITY);
                    }
                    let before = highest[query];
                    let now = maximum(scores).max(before);
                    let shrink = exp(before - now);
                    sums[query] = sums[query] * shrink + exponentials(scores, now);
                    highest[query] = now;
                    if shrink != 1.0 {
                        for o in &mut out[query * d..(query + 1) * d] {
                            *o *= shrink;
                        }
                    }
                }
            });
            matmul(
                MatMut::from_column_major_slice_mut(&mut out, d, count),
                Accum::Add,
                self.rows(v, start, keys).transpose(),
                MatRef::from_column_major_slice(scores, keys, count),
                1.0,
                Par::Seq,
            );
        }
        for (out, sum) in out.chunks_exact_mut(d.max(1)).zip(sums) {
            for o in out {
                *o /= sum;
            }
        }
        out
    }
}

#[inline(always)]
fn maximum(values: &[f32]) -> f32 {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    let rest = rest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    lanes.into_iter().fold(rest, f32::max)
}

/// `exp(v − highest)` in place; their sum.
#[inline(always)]
fn exponentials(values: &mut [f32], highest: f32) -> f32 {
    let (blocks, rest) = values.as_chunks_mut::<LANES>();
    let mut lanes = [0.0; LANES];
    for block in blocks {
        for (lane, v) in lanes.iter_mut().zip(block) {
            *v = exp(*v - highest);
            *lane += *v;
        }
    }
    let mut sum = 0.0;
    for v in rest {
        *v = exp(*v - highest);
        sum += *v;
    }
    lanes.into_iter().sum::<f32>() + sum
}

/// `x Wᵀ + bias`, or without the bias if there is none.
///
/// - `x`: `[…, input]`
/// - returns `[…, output]`
pub fn linear<const D: usize>(linear: &Linear, x: Tensor<D>) -> Tensor<D> {
    match DenseLayer::take(linear, x.clone()) {
        Some(layer) => layer.apply(),
        None => linear.forward(x),
    }
}

/// `a · gelu(b)` with `[a, b] = x Wᵀ + bias`: a gated linear layer (GEGLU).
///
/// - `x`: `[…, input]`; `linear` to `2 n` channels
/// - returns `[…, n]`
pub fn linear_geglu<const D: usize>(linear: &Linear, x: Tensor<D>) -> Tensor<D> {
    match DenseLayer::take(linear, x.clone()) {
        Some(layer) => layer.apply_gated(),
        None => gated(linear.forward(x)),
    }
}

fn gated<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let n = x.dims()[D - 1] / 2;
    let value = x.clone().slice_dim(D - 1, 0..n);
    value * gelu(x.slice_dim(D - 1, n..2 * n))
}

/// A linear layer and its input.
struct DenseLayer<const D: usize> {
    /// `[rows, input]`
    x: Dense,
    /// `[output, input]`
    weight: Numbers,
    /// `[output]`
    bias: Option<Dense>,
    input: usize,
    /// The shape of `x`.
    shape: [usize; D],
    dtype: DType,
}

impl<const D: usize> DenseLayer<D> {
    /// `None` if Burn's operations must do it.
    fn take(linear: &Linear, x: Tensor<D>) -> Option<Self> {
        let (shape, dtype) = (x.dims(), x.dtype());
        let bias = match &linear.bias {
            Some(bias) => Some(Numbers::take(bias.val())?.into_dense()),
            None => None,
        };
        Some(Self {
            x: Numbers::take(x)?.into_dense(),
            // In the stored layout: one row per output.
            weight: Numbers::take(linear.weight.val().transpose())?,
            bias,
            input: shape[D - 1],
            shape,
            dtype,
        })
    }

    /// Some outputs of some rows: `tile = x Wᵀ + bias`.
    ///
    /// - `row`: the first row of `x`; `output`: the first output of the layer
    /// - `place`: scratch space for weights that are stored in 16 bits
    fn multiply(&self, mut tile: MatMut<'_, f32>, row: usize, output: usize, place: &mut Vec<f32>) {
        let (rows, outputs) = (tile.nrows(), tile.ncols());
        let begin = match &self.bias {
            Some(bias) => {
                for i in 0..rows {
                    row_of(&mut tile, i).copy_from_slice(&bias.values()[output..output + outputs]);
                }
                Accum::Add
            }
            None => Accum::Replace,
        };
        let part = |first: usize, count: usize| first * self.input..(first + count) * self.input;
        let x = &self.x.values()[part(row, rows)];
        let weight = self.weight.read(part(output, outputs), place);
        matmul(
            tile,
            begin,
            MatRef::from_row_major_slice(x, rows, self.input),
            MatRef::from_row_major_slice(weight, outputs, self.input).transpose(),
            1.0,
            Par::Seq,
        );
    }

    fn apply(&self) -> Tensor<D> {
        let n = self.outputs();
        let (mut out, shape) = self.place(n);
        for_each_tile(out.values_mut(), n, |row, column, tile, place| {
            self.multiply(tile, row, column, place);
        });
        result(out, shape, self.dtype)
    }

    fn apply_gated(&self) -> Tensor<D> {
        let n = self.outputs() / 2;
        let (mut out, shape) = self.place(n);
        let arch = pulp::Arch::new();
        let compute = |row, column, mut tile: MatMut<'_, f32>, scratch: &mut [Vec<f32>; 2]| {
            let (rows, columns) = (tile.nrows(), tile.ncols());
            let [gates, place] = scratch;
            self.multiply(tile.rb_mut(), row, column, place);
            gates.resize(rows * columns, 0.0);
            let gate = MatMut::from_row_major_slice_mut(gates, rows, columns);
            self.multiply(gate, row, n + column, place);
            arch.dispatch(|| {
                for (i, gates) in gates.chunks_exact(columns).enumerate() {
                    gate_by(row_of(&mut tile, i), gates);
                }
            });
        };
        for_each_tile(out.values_mut(), n, compute);
        result(out, shape, self.dtype)
    }

    /// For a result with this number of channels; also returns its shape.
    fn place(&self, channels: usize) -> (Dense, [usize; D]) {
        let mut shape = self.shape;
        shape[D - 1] = channels;
        (Dense::zeros(&shape), shape)
    }

    fn outputs(&self) -> usize {
        self.weight.len() / self.input.max(1)
    }
}

/// A row of a matrix with contiguous rows.
fn row_of<'a>(tile: &'a mut MatMut<'_, f32>, row: usize) -> &'a mut [f32] {
    let tile = tile.rb_mut().try_as_row_major_mut();
    tile.map_or(&mut [], |tile| tile.row_mut(row).as_slice_mut())
}

/// Calls `compute(row, column, tile, scratch)` for each tile of `out`, `[rows, columns]`, which starts at
/// that row and column, with as many rows as keep a tile's part of the input in the cache, and few enough
/// columns that all threads have some.
fn for_each_tile<S: Default + Send>(
    out: &mut [f32],
    columns: usize,
    compute: impl Fn(usize, usize, MatMut<'_, f32>, &mut S) + Sync,
) {
    const ROWS: usize = 512;
    const COLUMNS: usize = 64;
    let mut tiles = Vec::new();
    for (block, out) in out.chunks_mut((ROWS * columns).max(1)).enumerate() {
        let rows = out.len() / columns;
        let mut rest = MatMut::from_row_major_slice_mut(out, rows, columns);
        for column in (0..columns).step_by(COLUMNS) {
            let (tile, others) = rest.split_at_col_mut(COLUMNS.min(columns - column));
            tiles.push((block * ROWS, column, tile));
            rest = others;
        }
    }
    tiles
        .into_par_iter()
        .for_each_init(S::default, |scratch, (row, column, tile)| {
            compute(row, column, tile, scratch);
        });
}

/// `values · gelu(gates)` in place.
#[inline(always)]
fn gate_by(values: &mut [f32], gates: &[f32]) {
    let (blocks, rest) = values.as_chunks_mut::<LANES>();
    let (gate_blocks, gate_rest) = gates.as_chunks::<LANES>();
    for (values, gates) in blocks.iter_mut().zip(gate_blocks) {
        for (v, &g) in values.iter_mut().zip(gates) {
            *v *= gelu_of(g);
        }
    }
    for (v, &g) in rest.iter_mut().zip(gate_rest) {
        *v *= gelu_of(g);
    }
}

/// `x Φ(x)` with the distribution function of the normal distribution, to 1e-6 of `|x|`.
#[inline(always)]
fn gelu_of(x: f32) -> f32 {
    // Abramowitz, Stegun, Handbook of Mathematical Functions, 7.1.26: erfc(z) = p(t) exp(−z²) to 1.5e-7.
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    for c in [-1.453_152_1, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = p * t + c;
    }
    let tail = 0.5 * p * t * exp(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::LinearConfig;
    use burn::tensor::{Device, Distribution, Tolerance};

    fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    /// In double precision, without any of the tricks.
    fn exact(q: &Tensor<3>, k: &Tensor<3>, v: &Tensor<3>, heads: usize, causal: bool) -> Vec<f64> {
        let [batch, length, inner] = q.dims();
        let [_, words, _] = k.dims();
        let d = inner / heads;
        let [q, k, v] = [q, k, v].map(|x| x.to_data().try_to_vec::<f32>().unwrap());
        let mut out = vec![0.0; q.len()];
        for b in 0..batch {
            for h in 0..heads {
                for i in 0..length {
                    let at = |row: usize, rows: usize| (b * rows + row) * inner + h * d;
                    let seen = if causal { i + 1 } else { words };
                    let scores: Vec<f64> = (0..seen)
                        .map(|j| {
                            let dot: f64 = (0..d)
                                .map(|c| {
                                    f64::from(q[at(i, length) + c]) * f64::from(k[at(j, words) + c])
                                })
                                .sum();
                            (dot / (d as f64).sqrt()).exp()
                        })
                        .collect();
                    let sum: f64 = scores.iter().sum();
                    for c in 0..d {
                        let value = |j: usize| f64::from(v[at(j, words) + c]);
                        let total: f64 = scores.iter().enumerate().map(|(j, s)| s * value(j)).sum();
                        out[at(i, length) + c] = total / sum;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn attention_is_the_closed_form() {
        let device = Device::flex();
        for ([batch, length, words], heads, d, causal) in [
            ([1, 3, 3], 1, 1, false),
            ([2, 130, 77], 2, 5, false),
            ([1, 200, 1100], 3, 8, false),
            ([1, 600, 600], 2, 4, true),
            ([2, 7, 7], 1, 16, true),
        ] {
            let q = random([batch, length, heads * d], &device) * 3.0;
            let k = random([batch, words, heads * d], &device);
            let v = random([batch, words, heads * d], &device);
            let expected = exact(&q, &k, &v, heads, causal);
            for device in [device.clone(), device.clone().autodiff()] {
                let [q, k, v] = [&q, &k, &v].map(|x| Tensor::from_data(x.to_data(), &device));
                let found = attention(q, k, v, heads, causal).into_data();
                for (found, expected) in found.try_to_vec::<f32>().unwrap().iter().zip(&expected) {
                    assert!(
                        (f64::from(*found) - expected).abs() < 2e-5,
                        "{found} {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let device = Device::flex();
        let q = Tensor::<3>::full([1, 2, 4], 300.0, &device);
        let v = random([1, 700, 4], &device);
        let k = Tensor::<3>::full([1, 700, 4], 1.0, &device);
        let found = attention(q, k, v.clone(), 1, false);
        let mean = v.mean_dim(1).repeat_dim(1, 2).into_data();
        found
            .into_data()
            .assert_approx_eq::<f32>(&mean, Tolerance::absolute(1e-5));
    }

    #[test]
    fn linear_layers_are_burns() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            for ([batch, length, input], n) in [
                ([1, 1, 1], 1),
                ([2, 3, 5], 7),
                ([1, 300, 40], 150),
                ([3, 190, 8], 129),
            ] {
                let layer = LinearConfig::new(input, 2 * n).init(&device);
                let x: Tensor<3> = random([batch, length, input], &device);
                let expected = layer.forward(x.clone());
                let check = |found: Tensor<3>, expected: Tensor<3>| {
                    let tolerance = Tolerance::<f32>::absolute(4e-6);
                    let found = found.into_data();
                    found.assert_approx_eq::<f32>(&expected.into_data(), tolerance);
                };
                check(linear(&layer, x.clone()), expected.clone());
                check(linear_geglu(&layer, x.clone()), gated(expected));

                let plain = Linear {
                    bias: None,
                    ..layer
                };
                let expected = plain.forward(x.clone());
                check(linear(&plain, x.clone()), expected.clone());
                check(linear_geglu(&plain, x.clone()), gated(expected.clone()));
                let rows = linear(&plain, x.reshape([batch * length, input]));
                check(rows.reshape([batch, length, 2 * n]), expected);
            }
        }
    }

    /// In 16 bits the result is that of the rounded numbers in 32, rounded.
    #[test]
    fn sixteen_bits_are_computed_with_in_thirty_two() {
        let device = Device::flex();
        let layer = LinearConfig::new(40, 2 * 70).init(&device);
        let x: Tensor<3> = random([2, 150, 40], &device);
        for (dtype, most) in [(DType::F16, 6e-4), (DType::BF16, 5e-3)] {
            let rounded = |x: Tensor<3>| x.cast(dtype);
            let narrow = Linear {
                weight: layer.weight.clone().map(|w| w.cast(dtype)),
                bias: layer.bias.clone().map(|b| b.map(|b| b.cast(dtype))),
            };
            let wide = Linear {
                weight: narrow.weight.clone().map(|w| w.cast(DType::F32)),
                bias: narrow.bias.clone().map(|b| b.map(|b| b.cast(DType::F32))),
            };
            let small = rounded(x.clone());
            let large = small.clone().cast(DType::F32);
            let attend = |x: Tensor<3>| attention(x.clone(), x.clone(), x, 4, false);
            for (found, expected) in [
                (linear(&narrow, small.clone()), linear(&wide, large.clone())),
                (
                    linear_geglu(&narrow, small.clone()),
                    linear_geglu(&wide, large.clone()),
                ),
                (attend(small), attend(large)),
            ] {
                assert_eq!(found.dtype(), dtype);
                let difference = (found.cast(DType::F32) - expected.clone()).abs();
                let relative = difference / (expected.abs() + 1.0);
                let relative: f32 = relative.max().into_scalar();
                assert!(relative < most && relative > 0.0, "{dtype:?}: {relative}");
            }
        }
    }

    #[test]
    fn gelu_is_near_its_closed_form() {
        // Φ(x) at some places (scipy.stats.norm.cdf).
        for (x, phi) in [
            (-4.0, 3.167_124_183_311_998e-5),
            (-1.0, 0.158_655_253_931_457_05),
            (-0.1, 0.460_172_162_722_971),
            (0.0, 0.5),
            (0.5, 0.691_462_461_274_013),
            (2.0, 0.977_249_868_051_820_8),
            (9.0, 1.0),
        ] {
            let error = f64::from(gelu_of(x as f32)) - x * phi;
            assert!(error.abs() < 1e-6 * f64::abs(x).max(0.1), "{x}: {error}");
        }
    }

    #[test]
    fn the_thread_count_does_not_change_a_bit() {
        let device = Device::flex();
        let linear = LinearConfig::new(20, 300).init(&device);
        let (q, k) = (random([2, 150, 12], &device), random([2, 600, 12], &device));
        let x = random([1, 300, 20], &device);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let a = attention(q.clone(), k.clone(), k.clone(), 3, false).into_data();
                (a, linear_geglu(&linear, x.clone()).into_data())
            })
        };
        assert_eq!(run(1), run(3));
    }
}
