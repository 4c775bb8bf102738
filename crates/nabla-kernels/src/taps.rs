//! Sums of products over shifted pieces of memory, at the speed of the processor's multipliers.
//!
//! A convolution is a matrix product `y[m][n] = Σ_k w[m][k] x[offset_k + n]`: once the picture lies in memory
//! with its padding, a tap of the kernel is one distance for all positions, so no columns are gathered
//! ([`product`]). The gradient by the weights is `Σ_n g[o][n] x[offset_k + n]`: with the gradients of many outputs side
//! by side ([`correlate_turned`]), or of few outputs along the positions ([`correlate`]).
//!
//! Each loop holds a block of sums in registers. Every sum has a fixed order.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over the positions of a block are unrolled, and their sums stay in registers"
)]

use pulp::{Simd, WithSimd};

use crate::elementwise::vectorized;
use crate::real::Real;

/// `y[m][n] = start[m] + Σ_k w[m][k] x[offsets[k] + n]` for all rows `m` of `y` and `n < columns`.
///
/// - `x`: readable up to the greatest offset plus [`padded(columns)`](padded)
/// - `weights`: `[rows, offsets]`
/// - `start`: one for each row, or none
/// - `y`: `[rows, padded(columns)]`
pub(crate) fn product<F: Real>(
    x: &[F],
    offsets: &[usize],
    weights: &[F],
    start: Option<&[F]>,
    y: &mut [F],
    columns: usize,
) {
    let product = Product {
        x,
        offsets,
        weights,
        start,
        y,
        columns,
    };
    F::dispatch(product);
}

/// The smallest multiple of a vector's length that holds `columns`, on any processor.
pub(crate) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

struct Product<'a, F> {
    x: &'a [F],
    offsets: &'a [usize],
    weights: &'a [F],
    start: Option<&'a [F]>,
    y: &'a mut [F],
    columns: usize,
}

impl<F: Real> WithSimd for Product<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.y.len() / padded(self.columns).max(1);
        // The smaller operand is walked through in the inner loop.
        let few_weights = rows * self.offsets.len() * size_of::<F>() <= 1 << 18;
        let wide = S::REGISTER_COUNT >= 32;
        let height = if wide { 8 } else { 4 };
        if few_weights {
            let mut column = 0;
            while column < self.columns {
                let vectors = self.vectors::<S>(column);
                for row in (0..rows).step_by(height) {
                    self.block(simd, row, (rows - row).min(height), column, vectors);
                }
                column += vectors * F::lanes::<S>();
            }
        } else {
            for row in (0..rows).step_by(height) {
                let mut column = 0;
                while column < self.columns {
                    let vectors = self.vectors::<S>(column);
                    self.block(simd, row, (rows - row).min(height), column, vectors);
                    column += vectors * F::lanes::<S>();
                }
            }
        }
    }
}

impl<F: Real> Product<'_, F> {
    /// How many vectors the block at `column` has.
    #[inline(always)]
    fn vectors<S: Simd>(&self, column: usize) -> usize {
        (self.columns - column).div_ceil(F::lanes::<S>()).min(3)
    }

    #[inline(always)]
    fn block<S: Simd>(
        &mut self,
        simd: S,
        mut row: usize,
        rows: usize,
        column: usize,
        vectors: usize,
    ) {
        let end = row + rows;
        macro_rules! of_height {
            ($height:literal) => {
                match vectors {
                    3 => self.rows::<S, $height, 3>(simd, row, column),
                    2 => self.rows::<S, $height, 2>(simd, row, column),
                    _ => self.rows::<S, $height, 1>(simd, row, column),
                }
            };
        }
        while row < end {
            match end - row {
                8.. => {
                    of_height!(8);
                    row += 8;
                }
                4.. => {
                    of_height!(4);
                    row += 4;
                }
                _ => {
                    of_height!(1);
                    row += 1;
                }
            }
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const M: usize, const V: usize>(
        &mut self,
        simd: S,
        row: usize,
        column: usize,
    ) {
        let depth = self.offsets.len();
        let lanes = F::lanes::<S>();
        let mut weights = [self.weights; M];
        let mut sums = [[F::splat(simd, F::ZERO); V]; M];
        for m in 0..M {
            weights[m] = &self.weights[(row + m) * depth..(row + m + 1) * depth];
            if let Some(start) = self.start {
                sums[m] = [F::splat(simd, start[row + m]); V];
            }
        }
        let x = &self.x[column..];
        for k in 0..depth {
            let offset = self.offsets[k];
            let (x, _) = F::vectors::<S>(&x[offset..offset + V * lanes]);
            let Some(x) = x.first_chunk::<V>() else {
                continue;
            };
            for m in 0..M {
                let w = F::splat(simd, weights[m][k]);
                for v in 0..V {
                    sums[m][v] = F::multiply_add(simd, w, x[v], sums[m][v]);
                }
            }
        }
        let stride = padded(self.columns);
        for (m, sums) in sums.iter().enumerate() {
            let at = (row + m) * stride + column;
            let (y, _) = F::vectors_mut::<S>(&mut self.y[at..at + V * lanes]);
            for (y, sum) in y.iter_mut().zip(sums) {
                *y = *sum;
            }
        }
    }
}

/// `sums[o][k] += Σ_{n < columns} g[o][n] x[offsets[k] + n]`.
///
/// - `g`: `[rows, padded(columns)]`, of which `columns` are read
/// - `sums`: `[rows, offsets]`
pub(crate) fn correlate<F: Real>(
    x: &[F],
    offsets: &[usize],
    g: &[F],
    columns: usize,
    sums: &mut [F],
) {
    let correlation = Correlation {
        x,
        offsets,
        g,
        columns,
        sums,
        lanes: vec![F::ZERO; 27 * 16],
    };
    F::dispatch(correlation);
}

struct Correlation<'a, F> {
    x: &'a [F],
    offsets: &'a [usize],
    g: &'a [F],
    columns: usize,
    sums: &'a mut [F],
    /// Room for the vectors of a block.
    lanes: Vec<F>,
}

impl<F: Real> WithSimd for Correlation<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.g.len() / padded(self.columns).max(1);
        let wide = S::REGISTER_COUNT >= 32;
        let mut first = 0;
        while first < self.offsets.len() {
            let width = match (wide, self.offsets.len() - first) {
                (true, 9..) => 9,
                (_, 3..) => 3,
                _ => 1,
            };
            let mut row = 0;
            while row < rows {
                let height = if rows - row >= 3 { 3 } else { 1 };
                match (height, width) {
                    (3, 9) => self.block::<S, 3, 9>(simd, row, first),
                    (3, 3) => self.block::<S, 3, 3>(simd, row, first),
                    (3, _) => self.block::<S, 3, 1>(simd, row, first),
                    (_, 9) => self.block::<S, 1, 9>(simd, row, first),
                    (_, 3) => self.block::<S, 1, 3>(simd, row, first),
                    _ => self.block::<S, 1, 1>(simd, row, first),
                }
                row += height;
            }
            first += width;
        }
    }
}

impl<F: Real> Correlation<'_, F> {
    #[inline(always)]
    fn block<S: Simd, const M: usize, const T: usize>(
        &mut self,
        simd: S,
        row: usize,
        first: usize,
    ) {
        let lanes = F::lanes::<S>();
        let columns = self.columns;
        let mut sums = [[F::splat(simd, F::ZERO); T]; M];
        let mut g = [self.g; M];
        for m in 0..M {
            g[m] = &self.g[(row + m) * padded(columns)..][..columns];
        }
        let mut x = [self.x; T];
        for t in 0..T {
            x[t] = &self.x[self.offsets[first + t]..][..columns];
        }
        let whole = columns / lanes;
        // All of one length, so that the loop checks no bounds.
        let g_vectors = g.map(|g| &F::vectors::<S>(g).0[..whole]);
        let x_vectors = x.map(|x| &F::vectors::<S>(x).0[..whole]);
        for at in 0..whole {
            let mut of_g = [F::splat(simd, F::ZERO); M];
            for m in 0..M {
                of_g[m] = g_vectors[m][at];
            }
            for t in 0..T {
                let of_x = x_vectors[t][at];
                for m in 0..M {
                    sums[m][t] = F::multiply_add(simd, of_x, of_g[m], sums[m][t]);
                }
            }
        }
        if whole * lanes < columns {
            let g = g.map(|g| F::partial(simd, &g[whole * lanes..]));
            let x = x.map(|x| F::partial(simd, &x[whole * lanes..]));
            for t in 0..T {
                for m in 0..M {
                    sums[m][t] = F::multiply_add(simd, x[t], g[m], sums[m][t]);
                }
            }
        }
        // The sums leave their registers as vectors: a loop that added their lanes would keep all of them in memory.
        let (places, _) = F::vectors_mut::<S>(&mut self.lanes);
        for m in 0..M {
            for t in 0..T {
                places[m * T + t] = sums[m][t];
            }
        }
        let vectors = F::vectors::<S>(&self.lanes).0;
        for (place, &vector) in vectors[..M * T].iter().enumerate() {
            let at = (row + place / T) * self.offsets.len() + first + place % T;
            self.sums[at] += F::total(simd, vector);
        }
    }
}

/// `sums[o][k] += Σ g[n][o] x[offsets[k] + p_n]` over the positions `p_n` of all `segments`, one after the other.
///
/// No vector of `x` is read, only single numbers, so it doesn't matter where they start.
///
/// - `segments`: the first position and the length of each
/// - `g`: `[positions, padded(rows)]`, from [`turn`]
/// - `sums`: `[rows, offsets]`
pub(crate) fn correlate_turned<F: Real>(
    x: &[F],
    offsets: &[usize],
    g: &[F],
    segments: &[(usize, usize)],
    sums: &mut [F],
) {
    let correlation = TurnedCorrelation {
        x,
        offsets,
        g,
        segments,
        sums,
    };
    F::dispatch(correlation);
}

struct TurnedCorrelation<'a, F> {
    x: &'a [F],
    offsets: &'a [usize],
    g: &'a [F],
    segments: &'a [(usize, usize)],
    sums: &'a mut [F],
}

impl<F: Real> WithSimd for TurnedCorrelation<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let wide = S::REGISTER_COUNT >= 32;
        let rows = self.sums.len() / self.offsets.len().max(1);
        let mut first = 0;
        while first < self.offsets.len() {
            let taps = match (wide, self.offsets.len() - first) {
                (true, 9..) => 9,
                (_, 3..) => 3,
                _ => 1,
            };
            let mut row = 0;
            while row < rows {
                let vectors = (rows - row).div_ceil(F::lanes::<S>()).min(3);
                macro_rules! of_width {
                    ($taps:literal) => {
                        match vectors {
                            3 => self.block::<S, $taps, 3>(simd, first, row),
                            2 => self.block::<S, $taps, 2>(simd, first, row),
                            _ => self.block::<S, $taps, 1>(simd, first, row),
                        }
                    };
                }
                match taps {
                    9 => of_width!(9),
                    3 => of_width!(3),
                    _ => of_width!(1),
                }
                row += vectors * F::lanes::<S>();
            }
            first += taps;
        }
    }
}

impl<F: Real> TurnedCorrelation<'_, F> {
    #[inline(always)]
    fn block<S: Simd, const T: usize, const V: usize>(
        &mut self,
        simd: S,
        first: usize,
        row: usize,
    ) {
        let lanes = F::lanes::<S>();
        let depth = self.offsets.len();
        let rows = self.sums.len() / depth;
        let width = padded(rows);
        let mut sums = [[F::splat(simd, F::ZERO); V]; T];
        let mut rest = self.g;
        for &(start, len) in self.segments {
            let (g, others) = rest.split_at(len * width);
            rest = others;
            let mut x = [self.x; T];
            for t in 0..T {
                x[t] = &self.x[self.offsets[first + t] + start..][..len];
            }
            for (n, g) in g.chunks_exact(width).enumerate().take(len) {
                let (g, _) = F::vectors::<S>(&g[row..row + V * lanes]);
                let Some(g) = g.first_chunk::<V>() else {
                    continue;
                };
                for t in 0..T {
                    let x = F::splat(simd, x[t][n]);
                    for v in 0..V {
                        sums[t][v] = F::multiply_add(simd, x, g[v], sums[t][v]);
                    }
                }
            }
        }
        // The sums leave their registers as vectors, as in `Correlation`.
        let mut place = [F::ZERO; 9 * 3 * 16];
        let (vectors, _) = F::vectors_mut::<S>(&mut place);
        for t in 0..T {
            for v in 0..V {
                vectors[t * V + v] = sums[t][v];
            }
        }
        for (t, sums) in place.chunks_exact(V * lanes).take(T).enumerate() {
            for (row, &sum) in (row..rows).zip(sums) {
                self.sums[row * depth + first + t] += sum;
            }
        }
    }
}

/// `to[n][row] = lines(row)[n]`, and zeros behind the last row.
///
/// - `lines`: all of one length
/// - `to`: `[positions, padded(rows)]`
pub(crate) fn turn<'a, F: Real>(rows: usize, lines: impl Fn(usize) -> &'a [F], to: &mut [F]) {
    let width = padded(rows);
    vectorized::<F, _>(
        #[inline(always)]
        || {
            // Rows of zeros follow the last one.
            const TOGETHER: usize = 16;
            for first in (0..width).step_by(TOGETHER) {
                let count = (rows - first).min(TOGETHER);
                let positions = to.chunks_exact_mut(width);
                let len = positions.len();
                let mut group = [&[][..]; TOGETHER];
                for i in 0..count {
                    group[i] = &lines(first + i)[..len];
                }
                if count < TOGETHER {
                    for (n, to) in positions.enumerate() {
                        for i in 0..TOGETHER {
                            to[first + i] = group[i].get(n).copied().unwrap_or(F::ZERO);
                        }
                    }
                    continue;
                }
                for (n, to) in positions.enumerate() {
                    let Some(to) = to[first..].first_chunk_mut::<TOGETHER>() else {
                        continue;
                    };
                    for i in 0..TOGETHER {
                        to[i] = group[i][n];
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests;
