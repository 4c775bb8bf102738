//! Computes many samples at once, with the registers of the machine.

use std::ops::Range;

use wide::f32x4;

use super::{BATCH, FRACTION_BITS, LANCZOS_STEPS, ONE, PixelSampler, Values};

/// The four weights of cubic convolution at a fraction `t` of a pixel past the second tap.
#[inline(always)]
pub(super) fn cubic_weights(a: f32, t: f32) -> [f32; 4] {
    let s = 1.0 - t;
    let inner = |d: f32| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    // Beyond 1 the kernel is a(d − 1)(d − 2)²; the outer taps lie at d = 1 + t and 1 + s.
    [a * t * s * s, inner(t), inner(s), a * s * t * t]
}

/// Weights by tap and position.
#[inline(always)]
pub(super) fn each<const N: usize>(
    fractions: &Values,
    weights: impl Fn(f32) -> [f32; N],
) -> [Values; N] {
    let mut all = [[0.0; BATCH]; N];
    for i in 0..BATCH {
        let taps = weights(fractions[i]);
        for k in 0..N {
            all[k][i] = taps[k];
        }
    }
    all
}

/// The weights of Lanczos by tap and position.
#[inline(always)]
pub(super) fn lanczos_weights(table: &[[f32; 8]], fractions: &Values) -> [Values; 6] {
    let mut all = [[0.0; BATCH]; 6];
    for first in (0..BATCH).step_by(4) {
        let (mut left, mut right) = ([f32x4::ZERO; 4], [f32x4::ZERO; 4]);
        for i in 0..4 {
            let x = fractions[first + i] * LANCZOS_STEPS as f32;
            let step = x as usize;
            let s = f32x4::splat(x - step as f32);
            let (a, b) = (&table[step], &table[step + 1]);
            for (weights, k) in [(&mut left, 0), (&mut right, 4)] {
                let (a, b) = (f32x4::new(taps(a, k)), f32x4::new(taps(b, k)));
                weights[i] = a + s * (b - a);
            }
        }
        let (left, right) = (f32x4::transpose(left), f32x4::transpose(right));
        for (all, weights) in all.iter_mut().zip(left.iter().chain(&right)) {
            all[first..first + 4].copy_from_slice(&weights.to_array());
        }
    }
    all
}

/// Samples with `N x N` taps, where number `(N − 1)/2` is the pixel at or before the position moved by
/// `shift`. It is a single function so that the compiler can vectorise it, for each instruction set that
/// [`pulp`] finds at run time. No operations are fused, so all instruction sets give the same bits.
pub(super) struct Gather<'a, const N: usize, L, P, W, E> {
    pub(super) sampler: &'a PixelSampler<'a>,
    pub(super) lines: L,
    pub(super) position: P,
    pub(super) shift: i32,
    pub(super) weights: W,
    pub(super) emit: E,
}

impl<'p, const N: usize, T, L, P, W, E> pulp::WithSimd for Gather<'_, N, L, P, W, E>
where
    T: Copy + 'p,
    L: Iterator<Item = (usize, &'p [T])>,
    P: Fn(T) -> [i32; 2],
    W: Fn(&Values) -> [Values; N],
    E: FnMut(Range<usize>, usize, &Values),
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) {
        let [channels, height, width] = self.sampler.picture.shape();
        let before = ((N - 1) / 2) as i32;
        // The last column and row from which all taps are inside, if there are any.
        let (right, bottom) = (width as i32 - N as i32, height as i32 - N as i32);
        for (start, points) in
            (self.lines).flat_map(|(start, line)| (start..).step_by(BATCH).zip(line.chunks(BATCH)))
        {
            let numbers = start..start + points.len();
            // An incomplete batch repeats its last point.
            let points: [T; BATCH] = match points.try_into() {
                Ok(full) => full,
                Err(_) => repeat_last(points),
            };
            let (mut xs, mut ys) = ([0i32; BATCH], [0i32; BATCH]);
            for i in 0..BATCH {
                let [x, y] = (self.position)(points[i]);
                (xs[i], ys[i]) = (x + self.shift, y + self.shift);
            }
            let (mut right_of, mut below) = ([0f32; BATCH], [0f32; BATCH]);
            for (fractions, x) in [(&mut right_of, &xs), (&mut below, &ys)] {
                for i in 0..BATCH {
                    fractions[i] = (x[i] & (ONE - 1)) as f32 * (1.0 / ONE as f32);
                }
            }
            let weights = [(self.weights)(&right_of), (self.weights)(&below)];
            let mut batch = Batch {
                columns: [0; BATCH],
                rows: [0; BATCH],
                inside: [false; BATCH],
                weights,
            };
            for i in 0..BATCH {
                batch.columns[i] = (xs[i] >> FRACTION_BITS) - before;
                batch.rows[i] = (ys[i] >> FRACTION_BITS) - before;
                let (x, y) = (batch.columns[i], batch.rows[i]);
                batch.inside[i] = (x >= 0) & (x <= right) & (y >= 0) & (y <= bottom);
            }
            for first in (0..channels).step_by(4) {
                let mut emit = |values: &[Values]| {
                    for (channel, values) in (first..).zip(values) {
                        (self.emit)(numbers.clone(), channel, values);
                    }
                };
                match channels - first {
                    1 => emit(&batch.values::<1>(self.sampler, first)),
                    2 => emit(&batch.values::<2>(self.sampler, first)),
                    3 => emit(&batch.values::<3>(self.sampler, first)),
                    _ => emit(&batch.values::<4>(self.sampler, first)),
                }
            }
        }
    }
}

/// Points with the last of them as often as is needed.
#[inline(never)]
fn repeat_last<T: Copy>(points: &[T]) -> [T; BATCH] {
    std::array::from_fn(|i| points[i.min(points.len() - 1)])
}

/// Positions to be sampled together.
struct Batch<const N: usize> {
    /// Of the first of the `N x N` taps.
    columns: [i32; BATCH],
    rows: [i32; BATCH],
    /// Whether all taps are.
    inside: [bool; BATCH],
    /// Along the columns and the rows, by tap.
    weights: [[Values; N]; 2],
}

impl<const N: usize> Batch<N> {
    /// The values in `C` channels from `first` on.
    #[inline(always)]
    fn values<const C: usize>(&self, sampler: &PixelSampler, first: usize) -> [Values; C] {
        let [_, height, width] = sampler.picture.shape();
        if self.inside.iter().fold(true, |all, &inside| all & inside) {
            let data = &sampler.picture.data()[first * height * width..];
            let mut starts = [0; BATCH];
            for (i, start) in starts.iter_mut().enumerate() {
                *start = self.start(i, width);
            }
            combine(data, [height * width, width], &starts, &self.weights)
        } else {
            let patches = self.patches::<C>(sampler, first);
            let data = patches.as_flattened().as_flattened().as_flattened();
            let starts = std::array::from_fn(|i| (i * N * N) as u32);
            combine(data, [BATCH * N * N, N], &starts, &self.weights)
        }
    }

    /// The address of the first tap, if it is inside.
    #[inline(always)]
    fn start(&self, i: usize, width: usize) -> u32 {
        (self.rows[i] as u32)
            .wrapping_mul(width as u32)
            .wrapping_add(self.columns[i] as u32)
    }

    /// The taps in `C` channels from `first` on, if some are beyond the border. It is rarely needed, and
    /// separate so that the compiler does not optimise for it.
    #[cold]
    #[inline(never)]
    fn patches<const C: usize>(
        &self,
        sampler: &PixelSampler,
        first: usize,
    ) -> [[[[f32; N]; N]; BATCH]; C] {
        let width = sampler.picture.width();
        let mut patches = [[[[0.0; N]; N]; BATCH]; C];
        for i in 0..BATCH {
            let start = self.start(i, width) as usize;
            let beyond = if self.inside[i] {
                None
            } else {
                Some(sampler.addresses::<N>(self.columns[i], self.rows[i]))
            };
            for (c, patches) in patches.iter_mut().enumerate() {
                let channel = first + c;
                let plane = sampler.picture.plane(channel);
                for (k, line) in patches[i].iter_mut().enumerate() {
                    *line = match beyond {
                        None => taps(plane, start + k * width),
                        Some(addresses) => {
                            addresses[k].map(|address| sampler.at(channel, plane, address))
                        }
                    };
                }
            }
        }
        patches
    }
}

/// `M` samples from `start` on.
#[inline(always)]
pub(super) fn taps<const M: usize>(samples: &[f32], start: usize) -> [f32; M] {
    let mut taps = [0.0; M];
    taps.copy_from_slice(&samples[start..start + M]);
    taps
}

/// Four values of a batch.
#[inline(always)]
fn quarter(values: &Values, first: usize) -> f32x4 {
    f32x4::new(taps(values, first))
}

/// The values of `C` channels: the sums over the taps of `wx wy` times the sample, for
/// `[wx, wy]` by tap and position. In the samples, channels and rows are as far apart as `strides`
/// say, and the first taps are at the addresses `starts`.
#[inline(always)]
fn combine<const N: usize, const C: usize>(
    samples: &[f32],
    [plane, row]: [usize; 2],
    starts: &[u32; BATCH],
    weights: &[[Values; N]; 2],
) -> [Values; C] {
    // Of 32 bits, so that the compiler knows that no sum overflows.
    let (plane, row) = (plane as u32 as usize, row as u32 as usize);
    let tap = |c: usize, k: usize| c * plane + k * row;
    let reach = tap(C - 1, N - 1) + N;
    for c in 0..C {
        for k in 0..N {
            assert!(tap(c, k) + N.min(4) <= reach && tap(c, k) + N <= reach);
        }
    }
    let [wx, wy] = weights;
    let mut values = [[0.0; BATCH]; C];
    for first in (0..BATCH).step_by(4) {
        // Test one address per position: whether its taps lie in their window is the same for all positions,
        // and was tested above.
        let mut windows: [&[f32]; 4] = [&[]; 4];
        for i in 0..4 {
            let start = starts[first + i] as usize;
            windows[i] = &samples[start..start + reach];
        }
        for c in 0..C {
            let sums = match N {
                1 => {
                    let mut nearest = [0.0; 4];
                    for i in 0..4 {
                        nearest[i] = windows[i][tap(c, 0)];
                    }
                    f32x4::new(nearest)
                }
                2 => {
                    let down = quarter(&wy[1], first).to_array();
                    let rows = [tap(c, 0), tap(c, 1)];
                    let [a, b, c, d] = two_columns(&windows[..2], rows, &down[..2]).to_array();
                    let [e, f, g, h] = two_columns(&windows[2..], rows, &down[2..]).to_array();
                    let (left, right) = (f32x4::new([a, c, e, g]), f32x4::new([b, d, f, h]));
                    left + quarter(&wx[1], first) * (right - left)
                }
                _ => {
                    // Four taps of a row at a time: the first four, then the last four.
                    let left = four_columns(&windows, tap(c, 0), row, wy, first);
                    let mut sum = quarter(&wx[0], first) * left[0];
                    for k in 1..4 {
                        sum += quarter(&wx[k], first) * left[k];
                    }
                    if N > 4 {
                        let right = four_columns(&windows, tap(c, 0) + N - 4, row, wy, first);
                        for k in 4..N {
                            sum += quarter(&wx[k], first) * right[k - (N - 4)];
                        }
                    }
                    sum
                }
            };
            values[c][first..first + 4].copy_from_slice(&sums.to_array());
        }
    }
    values
}

/// Between two rows, two columns of one position and two of another, as they fill a register.
#[inline(always)]
fn two_columns(windows: &[&[f32]], rows: [usize; 2], down: &[f32]) -> f32x4 {
    let line = |row| {
        let [a, b] = taps(windows[0], row);
        let [c, d] = taps(windows[1], row);
        f32x4::new([a, b, c, d])
    };
    let (upper, lower) = (line(rows[0]), line(rows[1]));
    upper + f32x4::new([down[0], down[0], down[1], down[1]]) * (lower - upper)
}

/// Of four positions, the sums over the rows of `wy` times the sample in four columns from
/// `offset` on: by column.
#[inline(always)]
fn four_columns<const N: usize>(
    windows: &[&[f32]; 4],
    offset: usize,
    row: usize,
    wy: &[Values; N],
    first: usize,
) -> [f32x4; 4] {
    let mut sums = [f32x4::ZERO; 4];
    for i in 0..4 {
        for (k, wy) in wy.iter().enumerate() {
            let line = f32x4::new(taps(windows[i], offset + k * row));
            let line = f32x4::splat(wy[first + i]) * line;
            sums[i] = if k == 0 { line } else { sums[i] + line };
        }
    }
    f32x4::transpose(sums)
}
