//! Attention over many positions, forward and backward, without a matrix of all scores.
//!
//! The forward pass stores the scores of only some queries with some keys at a time: with the running maximum `m`
//! and sum `l` of each query,
//!
//! ```text
//! m' = max(m, max_j s_j),   p_j = exp(s_j − m'),   l' = l exp(m − m') + Σ p_j
//! o' = o exp(m − m') + Σ p_j v_j;   at the end  o/l
//! ```
//!
//! The backward pass computes the probabilities `P` again from `m` and `l`: with the gradient `∂o`,
//!
//! ```text
//! ∂v = Pᵀ ∂o,   ∂P = ∂o vᵀ,   ∂s = P (∂P − Σ_d ∂o o),   ∂q = ∂s k/√d,   ∂k = ∂sᵀ q/√d
//! ```
//!
//! Sources: Milakov, Gimelshein, *Online normalizer calculation for softmax*, 2018, arXiv 1805.02867; Dao et al.,
//! *FlashAttention*, 2022, arXiv 2205.14135.

use crate::product::matmul;
use burn::tensor::Tensor;
use burn::tensor::ops::AttentionModuleOptions;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::elementwise::{LANES, vectorized};
use crate::memory;
use crate::operation::{Array, Operation, Saved, compiled, computes_both, ternary};
use crate::real::Real;

/// The number of queries per task.
const QUERIES: usize = 128;
/// The number of keys whose scores are stored at a time.
const KEYS: usize = 512;

/// `softmax(q kᵀ/√d) v` for each head.
///
/// - `q`: `[batch, length, heads · d]`; `k`, `v`: `[batch, words, heads · d]`
/// - `causal`: whether a position attends only to itself and earlier positions; the last query is at the last key, as
///   in Burn
/// - returns the shape of `q`
///
/// # Panics
/// Like Burn's attention, if the shapes don't fit.
pub fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    heads: usize,
    causal: bool,
) -> Tensor<3> {
    let ([batch, length, inner], [_, words, _]) = (q.dims(), k.dims());
    let fits = k.dims() == [batch, words, inner]
        && v.dims() == k.dims()
        && heads > 0
        && inner.is_multiple_of(heads)
        && words > 0
        // A query that sees no key is left to Burn.
        && (!causal || words >= length);
    if fits && computes_both(&q, &k) && computes_both(&q, &v) {
        return ternary(Attention { heads, causal }, q, k, v);
    }
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
    let y = burn::tensor::module::attention(split(q), split(k), split(v), None, None, options);
    y.swap_dims(1, 2).reshape([batch, length, inner])
}

/// [`attention`].
#[derive(Clone, Copy, Debug)]
struct Attention {
    heads: usize,
    causal: bool,
}

/// The sizes of an attention.
struct Sizes {
    length: usize,
    words: usize,
    /// The distance between positions, in numbers.
    inner: usize,
    d: usize,
    causal: bool,
}

compiled!(Attention: 3);

impl Operation<3> for Attention {
    /// The highest score and the sum of exponentials of each query, by picture and head.
    type Kept = Vec<[f64; 2]>;

    fn reads_output(&self) -> bool {
        true
    }

    fn forward<F: Real>(&self, [q, k, v]: [Array<F>; 3], tracked: bool) -> (Array<F>, Self::Kept) {
        let shape = q.shape();
        let sizes = Sizes::new(self, &shape, &k.shape());
        let blocks = sizes.length.div_ceil(QUERIES);
        let batch = shape[0];
        let [q, k, v] = [q.values(), k.values(), v.values()];
        type Part<F> = (Vec<F>, Vec<[f64; 2]>);
        let parts: Vec<Part<F>> = (0..batch * self.heads * blocks)
            .into_par_iter()
            .map_init(Vec::new, |scores, task| {
                let (place, block) = (task / blocks, task % blocks);
                let given = sizes.head(place / self.heads, place % self.heads, [q, k, v]);
                sizes.block(block * QUERIES, given, scores)
            })
            .collect();
        let mut y = memory::room(q.len());
        if sizes.inner > 0 {
            y.par_chunks_mut(sizes.inner)
                .enumerate()
                .for_each(|(row, y)| {
                    let (b, position) = (row / sizes.length, row % sizes.length);
                    let (block, local) = (position / QUERIES, position % QUERIES);
                    for (head, y) in y.chunks_exact_mut(sizes.d).enumerate() {
                        let (part, _) = &parts[(b * self.heads + head) * blocks + block];
                        y.copy_from_slice(&part[local * sizes.d..(local + 1) * sizes.d]);
                    }
                });
        }
        let kept = match tracked {
            true => parts.into_iter().flat_map(|(_, kept)| kept).collect(),
            false => Vec::new(),
        };
        (Array::new(y, &shape), kept)
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, Self::Kept, 3>) -> [Option<Array<F>>; 3] {
        let Saved {
            inputs,
            output,
            kept,
            grad,
            ..
        } = saved;
        let ([Some(q), Some(k), Some(v)], Some(output)) = (inputs, output) else {
            return [const { None }; 3];
        };
        let (shape, other) = (q.shape(), k.shape());
        let sizes = Sizes::new(self, &shape, &other);
        let batch = shape[0];
        let given = [q.values(), k.values(), v.values()];
        let parts: Vec<[Vec<F>; 3]> = (0..batch * self.heads)
            .into_par_iter()
            .map_init(<[Vec<F>; 2]>::default, |scratch, place| {
                let (b, head) = (place / self.heads, place % self.heads);
                let given = sizes.head(b, head, given);
                let of_output = [output.values(), grad.values()].map(|x| {
                    let start = b * sizes.length * sizes.inner + head * sizes.d;
                    &x[start..(b + 1) * sizes.length * sizes.inner]
                });
                let kept = &kept[place * sizes.length..(place + 1) * sizes.length];
                sizes.gradients(given, of_output, kept, scratch)
            })
            .collect();
        let gather = |which: usize, length: usize, shape: &[usize]| {
            let mut to = memory::room(batch * length * sizes.inner);
            if sizes.inner > 0 {
                to.par_chunks_mut(sizes.inner)
                    .enumerate()
                    .for_each(|(row, to)| {
                        let (b, position) = (row / length, row % length);
                        for (head, to) in to.chunks_exact_mut(sizes.d).enumerate() {
                            let part = &parts[b * self.heads + head][which];
                            to.copy_from_slice(&part[position * sizes.d..(position + 1) * sizes.d]);
                        }
                    });
            }
            Some(Array::new(to, shape))
        };
        [
            gather(0, sizes.length, &shape),
            gather(1, sizes.words, &other),
            gather(2, sizes.words, &other),
        ]
    }
}

impl Sizes {
    fn new(attention: &Attention, shape: &[usize], other: &[usize]) -> Self {
        Self {
            length: shape[1],
            words: other[1],
            inner: shape[2],
            d: shape[2] / attention.heads,
            causal: attention.causal,
        }
    }

    /// From the first number of a head of a picture on.
    fn head<'a, F>(&self, b: usize, head: usize, [q, k, v]: [&'a [F]; 3]) -> [&'a [F]; 3] {
        let of = |x: &'a [F], length: usize| {
            let start = b * length * self.inner + head * self.d;
            &x[start..(b + 1) * length * self.inner]
        };
        [of(q, self.length), of(k, self.words), of(v, self.words)]
    }

    /// Some positions of a head, `[count, d]`.
    fn rows<'a, F: Real>(&self, x: &'a [F], first: usize, count: usize) -> MatRef<'a, F> {
        let x = &x[first * self.inner..];
        MatRef::from_row_major_slice_with_stride(x, count, self.d, self.inner)
    }

    /// The keys that some queries from `first` on see.
    fn seen(&self, first: usize, count: usize) -> usize {
        match self.causal {
            true => self.words.min(first + count + self.words - self.length),
            false => self.words,
        }
    }

    /// `q kᵀ/√d` of some queries and keys, `[queries, keys]`; minus infinity where a query doesn't see a key.
    fn scores<F: Real>(
        &self,
        [q, k]: [&[F]; 2],
        [first, count]: [usize; 2],
        [start, keys]: [usize; 2],
        scores: &mut Vec<F>,
    ) {
        scores.resize(count * keys, F::ZERO);
        matmul(
            MatMut::from_column_major_slice_mut(scores, keys, count),
            Accum::Replace,
            self.rows(k, start, keys),
            self.rows(q, first, count).transpose(),
            F::of(1.0 / (self.d as f64).sqrt()),
            Par::Seq,
        );
        if self.causal {
            for (query, scores) in scores.chunks_exact_mut(keys).enumerate() {
                let last = first + query + self.words - self.length;
                let seen = (last + 1).saturating_sub(start).min(keys);
                scores[seen..].fill(F::of(f64::NEG_INFINITY));
            }
        }
    }

    /// The results of the queries from `first` on, `[queries, d]`, with their highest scores and sums. `q`, `k` and
    /// `v` all start at the head.
    fn block<F: Real>(
        &self,
        first: usize,
        [q, k, v]: [&[F]; 3],
        scores: &mut Vec<F>,
    ) -> (Vec<F>, Vec<[f64; 2]>) {
        let d = self.d;
        let count = QUERIES.min(self.length - first);
        let mut out = vec![F::ZERO; count * d];
        let mut highest = vec![F::of(f64::NEG_INFINITY); count];
        let mut sums = vec![F::ZERO; count];
        let end = self.seen(first, count);
        for start in (0..end).step_by(KEYS) {
            let keys = KEYS.min(end - start);
            self.scores([q, k], [first, count], [start, keys], scores);
            vectorized::<F, _>(
                #[inline(always)]
                || {
                    for (query, scores) in scores.chunks_exact_mut(keys).enumerate() {
                        let before = highest[query];
                        let now = maximum(scores).or_larger(before);
                        let shrink = (before - now).exp();
                        sums[query] = sums[query] * shrink + exponentials(scores, now);
                        highest[query] = now;
                        if shrink != F::ONE {
                            for o in &mut out[query * d..(query + 1) * d] {
                                *o *= shrink;
                            }
                        }
                    }
                },
            );
            matmul(
                MatMut::from_column_major_slice_mut(&mut out, d, count),
                Accum::Add,
                self.rows(v, start, keys).transpose(),
                MatRef::from_column_major_slice(scores, keys, count),
                F::ONE,
                Par::Seq,
            );
        }
        for (out, &sum) in out.chunks_exact_mut(d.max(1)).zip(&sums) {
            for o in out {
                *o /= sum;
            }
        }
        let kept = highest.into_iter().zip(sums);
        (out, kept.map(|(m, l)| [m.wide(), l.wide()]).collect())
    }

    /// The gradients by the queries, keys and values of a head, `[length, d]`, `[words, d]` and `[words, d]`.
    fn gradients<F: Real>(
        &self,
        [q, k, v]: [&[F]; 3],
        [output, grad]: [&[F]; 2],
        kept: &[[f64; 2]],
        [scores, slopes]: &mut [Vec<F>; 2],
    ) -> [Vec<F>; 3] {
        let d = self.d;
        let scale = F::of(1.0 / (d as f64).sqrt());
        let mut dq = vec![F::ZERO; self.length * d];
        let mut dk = vec![F::ZERO; self.words * d];
        let mut dv = vec![F::ZERO; self.words * d];
        for first in (0..self.length).step_by(QUERIES) {
            let count = QUERIES.min(self.length - first);
            // Σ_d ∂o o of each query.
            let levels: Vec<F> = (first..first + count)
                .map(|row| {
                    let range = row * self.inner..row * self.inner + d;
                    let products = output[range.clone()].iter().zip(&grad[range]);
                    products.map(|(&o, &g)| o * g).sum()
                })
                .collect();
            let end = self.seen(first, count);
            for start in (0..end).step_by(KEYS) {
                let keys = KEYS.min(end - start);
                self.scores([q, k], [first, count], [start, keys], scores);
                slopes.resize(count * keys, F::ZERO);
                matmul(
                    MatMut::from_column_major_slice_mut(slopes, keys, count),
                    Accum::Replace,
                    self.rows(v, start, keys),
                    self.rows(grad, first, count).transpose(),
                    F::ONE,
                    Par::Seq,
                );
                vectorized::<F, _>(
                    #[inline(always)]
                    || {
                        let rows = scores
                            .chunks_exact_mut(keys)
                            .zip(slopes.chunks_exact_mut(keys));
                        for (query, (scores, slopes)) in rows.enumerate() {
                            let [highest, sum] = kept[first + query];
                            let (highest, factor) = (F::of(highest), F::of(1.0 / sum));
                            let level = levels[query];
                            for (p, s) in scores.iter_mut().zip(slopes) {
                                *p = (*p - highest).exp() * factor;
                                *s = *p * (*s - level);
                            }
                        }
                    },
                );
                let probabilities = MatRef::from_row_major_slice(scores, count, keys);
                let slopes = MatRef::from_row_major_slice(slopes, count, keys);
                let part = start * d..(start + keys) * d;
                let add = |to: &mut [F], rows: usize, a: MatRef<'_, F>, b: MatRef<'_, F>, by: F| {
                    let to = MatMut::from_row_major_slice_mut(to, rows, d);
                    matmul(to, Accum::Add, a, b, by, Par::Seq);
                };
                let grad = self.rows(grad, first, count);
                add(
                    &mut dv[part.clone()],
                    keys,
                    probabilities.transpose(),
                    grad,
                    F::ONE,
                );
                let queries = self.rows(q, first, count);
                add(&mut dk[part], keys, slopes.transpose(), queries, scale);
                let range = first * d..(first + count) * d;
                add(
                    &mut dq[range],
                    count,
                    slopes,
                    self.rows(k, start, keys),
                    scale,
                );
            }
        }
        [dq, dk, dv]
    }
}

#[inline(always)]
fn maximum<F: Real>(values: &[F]) -> F {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [F::of(f64::NEG_INFINITY); LANES];
    for block in blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    let start = F::of(f64::NEG_INFINITY);
    let rest = rest.iter().copied().fold(start, Real::or_larger);
    lanes.into_iter().fold(rest, Real::or_larger)
}

/// `exp(v − highest)` in place; their sum.
#[inline(always)]
fn exponentials<F: Real>(values: &mut [F], highest: F) -> F {
    let (blocks, rest) = values.as_chunks_mut::<LANES>();
    let mut lanes = [F::ZERO; LANES];
    for block in blocks {
        for (lane, v) in lanes.iter_mut().zip(block) {
            *v = (*v - highest).exp();
            *lane += *v;
        }
    }
    let mut sum = F::ZERO;
    for v in rest {
        *v = (*v - highest).exp();
        sum += *v;
    }
    lanes.into_iter().sum::<F>() + sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Distribution, Tolerance};

    fn random(shape: [usize; 3], device: &Device) -> Tensor<3> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    /// In double precision, without any of the tricks.
    fn exact(q: &Tensor<3>, k: &Tensor<3>, v: &Tensor<3>, heads: usize, causal: bool) -> Vec<f64> {
        let [batch, length, inner] = q.dims();
        let [_, words, _] = k.dims();
        let d = inner / heads;
        let [q, k, v] = [q, k, v].map(|x| x.to_data().iter::<f64>().collect::<Vec<f64>>());
        let mut out = vec![0.0; q.len()];
        for b in 0..batch {
            for h in 0..heads {
                for i in 0..length {
                    let at = |row: usize, rows: usize| (b * rows + row) * inner + h * d;
                    let seen = if causal {
                        words - length + i + 1
                    } else {
                        words
                    };
                    let scores: Vec<f64> = (0..seen)
                        .map(|j| {
                            let dot: f64 = (0..d)
                                .map(|c| q[at(i, length) + c] * k[at(j, words) + c])
                                .sum();
                            (dot / (d as f64).sqrt()).exp()
                        })
                        .collect();
                    let sum: f64 = scores.iter().sum();
                    for c in 0..d {
                        let value = |j: usize| v[at(j, words) + c];
                        let total: f64 = scores.iter().enumerate().map(|(j, s)| s * value(j)).sum();
                        out[at(i, length) + c] = total / sum;
                    }
                }
            }
        }
        out
    }

    const SIZES: [([usize; 3], usize, usize, bool); 6] = [
        ([2, 3, 140], 2, 4, true),
        ([1, 3, 3], 1, 1, false),
        ([2, 130, 77], 2, 5, false),
        ([1, 200, 1100], 3, 8, false),
        ([1, 600, 600], 2, 4, true),
        ([2, 7, 7], 1, 16, true),
    ];

    #[test]
    fn attention_is_the_closed_form() {
        let device = Device::flex();
        for ([batch, length, words], heads, d, causal) in SIZES {
            let q = random([batch, length, heads * d], &device) * 3.0;
            let k = random([batch, words, heads * d], &device);
            let v = random([batch, words, heads * d], &device);
            let expected = exact(&q, &k, &v, heads, causal);
            for device in [device.clone(), device.clone().autodiff()] {
                let [q, k, v] = [&q, &k, &v].map(|x| Tensor::from_data(x.to_data(), &device));
                let found = attention(q, k, v, heads, causal).into_data();
                for (found, expected) in found.iter::<f64>().zip(&expected) {
                    assert!((found - expected).abs() < 2e-5, "{found} {expected}");
                }
            }
        }
    }

    /// Those of the composition of Burn's operations, in double precision.
    #[test]
    fn gradients_are_burns() {
        let device = Device::flex().autodiff();
        for ([batch, length, words], heads, d, causal) in SIZES {
            let double = |shape| random(shape, &device).cast(DType::F64).require_grad();
            let q = double([batch, length, heads * d]);
            let [k, v] = [0, 1].map(|_| double([batch, words, heads * d]));
            let weights = random([batch, length, heads * d], &device).cast(DType::F64);
            let loss = attention(q.clone(), k.clone(), v.clone(), heads, causal) * weights.clone();
            let grads = loss.sum().backward();
            let split = |x: &Tensor<3>| {
                let [batch, length, inner] = x.dims();
                let x = x.clone().reshape([batch, length, heads, inner / heads]);
                x.swap_dims(1, 2)
            };
            let mut scores = split(&q).matmul(split(&k).swap_dims(2, 3)) / (d as f64).sqrt();
            if causal {
                let hidden = Tensor::<2>::ones([length, words], &device)
                    .triu((words - length) as i64 + 1)
                    .bool();
                scores = scores.mask_fill(hidden.unsqueeze(), f64::NEG_INFINITY);
            }
            let y = burn::tensor::activation::softmax(scores, 3).matmul(split(&v));
            let y = y.swap_dims(1, 2).reshape([batch, length, heads * d]);
            let expected = (y * weights).sum().backward();
            for x in [&q, &k, &v] {
                let [found, expected] = [&grads, &expected].map(|g| x.grad(g).unwrap().into_data());
                // Burn's division by the root is rounded to single precision.
                found.assert_approx_eq(&expected, Tolerance::<f64>::absolute(1e-6));
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
}
