//! Matrix products, divided among the cores at fixed places.

use faer::linalg::matmul;
use faer::reborrow::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::elementwise::vectorized;
use crate::real::Real;
use crate::vector_registers::clear_upper_halves;

/// `to ← by a b`, or `to ← to + by a b`: faer's product, which leaves this thread as it was.
pub(crate) fn matmul<F: Real>(
    to: MatMut<'_, F>,
    accum: Accum,
    a: MatRef<'_, F>,
    b: MatRef<'_, F>,
    by: F,
    par: Par,
) {
    matmul::matmul(to, accum, a, b, by, par);
    clear_upper_halves();
}

/// `y ← a b`, or `y ← y + a b`.
///
/// - `y`: `[rows, columns]`, row after row
/// - `a`: `[rows, depth]`; `b`: `[depth, columns]`, in any layout
pub(crate) fn multiply<F: Real>(y: &mut [F], a: MatRef<'_, F>, b: MatRef<'_, F>, add: bool) {
    let (rows, columns) = (a.nrows(), b.ncols());
    if rows == 0 || columns == 0 {
        return;
    }
    if a.ncols() == 0 {
        // An empty sum.
        if !add {
            y.fill(F::ZERO);
        }
        return;
    }
    let accum = if add { Accum::Add } else { Accum::Replace };
    let tile = tile(rows, columns, a.ncols());
    let depth = a.ncols();
    let apart = [a, b.transpose()].map(lies_apart);
    let step = if apart == [false; 2] { depth } else { DEPTH };
    for_each_tile(y, columns, tile, |row, column, mut tile, places| {
        let [of_a, of_b]: &mut [Vec<F>; 2] = places;
        for start in (0..depth).step_by(step) {
            let count = step.min(depth - start);
            let a = a.submatrix(row, start, tile.nrows(), count);
            let b = b.submatrix(start, column, count, tile.ncols());
            let a = if apart[0] { together(a, of_a) } else { a };
            let b = if apart[1] { together(b, of_b) } else { b };
            let accum = if start > 0 { Accum::Add } else { accum };
            matmul(tile.rb_mut(), accum, a, b, F::ONE, Par::Seq);
        }
    });
}

/// The depth of the parts of a product whose factors are copied together.
const DEPTH: usize = 256;

/// Whether neighbours along the sum share few lines of the first-level cache, because they lie a multiple of a
/// kilobyte apart, so that a factor is worth a copy.
fn lies_apart<F: Real>(x: MatRef<'_, F>) -> bool {
    let long = x.col_stride().unsigned_abs();
    x.nrows() >= 64 && x.ncols() >= 64 && long > 1 && (long * size_of::<F>()).is_multiple_of(1024)
}

/// A copy of `x`, in the same order, whose neighbours lie in different lines of the cache.
fn together<'a, F: Real>(x: MatRef<'_, F>, place: &'a mut Vec<F>) -> MatRef<'a, F> {
    let turned = x.row_stride() == 1;
    let lines = if turned { x.transpose() } else { x };
    let (count, len) = (lines.nrows(), lines.ncols());
    // An odd number of lines.
    let stride = (len.div_ceil(16) | 1) * 16;
    place.resize(count * stride, F::ZERO);
    for (to, at) in place.chunks_exact_mut(stride).zip(0..count) {
        match lines.row(at).try_as_row_major() {
            Some(from) => to[..len].copy_from_slice(from.as_slice()),
            None => to
                .iter_mut()
                .zip(lines.row(at).iter())
                .for_each(|(to, from)| *to = *from),
        }
    }
    let copy = MatRef::from_row_major_slice_with_stride(place, count, len, stride);
    if turned { copy.transpose() } else { copy }
}

/// Calls `compute(row, column, tile, scratch)` for each tile of `y`, `[rows, columns]`, of about this height and width,
/// which starts at that row and column.
pub(crate) fn for_each_tile<F: Real, S: Default + Send>(
    y: &mut [F],
    columns: usize,
    [height, width]: [usize; 2],
    compute: impl Fn(usize, usize, MatMut<'_, F>, &mut S) + Sync,
) {
    let rows = y.len() / columns.max(1);
    let mut tiles = Vec::new();
    let mut below = MatMut::from_row_major_slice_mut(y, rows, columns);
    for (row, height) in parts(rows, height) {
        let (mut right, others) = below.split_at_row_mut(height);
        below = others;
        for (column, width) in parts(columns, width) {
            let (tile, others) = right.split_at_col_mut(width);
            tiles.push((row, column, tile));
            right = others;
        }
    }
    if tiles.len() == 1 {
        // Waking another thread takes longer than a small product.
        for (row, column, tile) in tiles {
            compute(row, column, tile, &mut S::default());
        }
        return;
    }
    tiles
        .into_par_iter()
        .for_each_init(S::default, |scratch, (row, column, tile)| {
            compute(row, column, tile, scratch);
        });
}

/// The fewest rows and columns of a tile. Thinner products are summed in another order.
const THIN: usize = 16;

/// The starts and lengths of parts of a length of about `each`. What would be thin belongs to the part before it.
fn parts(length: usize, each: usize) -> impl Iterator<Item = (usize, usize)> {
    let each = each.max(1);
    let least = if each < THIN { 1 } else { THIN };
    let count = (length / each + usize::from(length % each >= least)).max(1);
    let end = move |part: usize| {
        if part + 1 < count {
            (part + 1) * each
        } else {
            length
        }
    };
    (0..count).map(move |part| (part * each, end(part) - part * each))
}

/// The height and width of a tile: two tiles for each thread, if there is work for them. Each part of a factor is read
/// for each tile, so many tiles cost time. The sums are the same for tiles of any size that isn't thin.
fn tile(rows: usize, columns: usize, depth: usize) -> [usize; 2] {
    /// Sums of products that are worth a task.
    const WORK: usize = 1 << 18;
    let most = match rows.min(columns) < 2 * THIN {
        // At fixed places.
        true => 16,
        false => 2 * rayon::current_num_threads(),
    };
    let [mut height, mut width] = [rows.min(512), columns.min(256)];
    let tiles =
        |height: usize, width: usize| parts(rows, height).count() * parts(columns, width).count();
    let least = (rows * columns * depth / WORK).min(most);
    while tiles(height, width) < least && height.max(width) > 32 {
        if width >= height {
            width = width.div_ceil(2).next_multiple_of(THIN).min(columns);
        } else {
            height = height.div_ceil(2).next_multiple_of(THIN).min(rows);
        }
        if height.max(width) <= 48 {
            break;
        }
    }
    [height, width]
}

/// The sums of the columns, `[columns]`, of `x`, `[rows, columns]`.
pub(crate) fn column_sums<F: Real>(x: &[F], columns: usize) -> Vec<F> {
    /// The rows that are summed in their own precision.
    const ROWS: usize = 64;
    if columns == 0 {
        return Vec::new();
    }
    let part = |x: &[F]| {
        let mut sums = vec![F::ZERO; columns];
        vectorized::<F, _>(
            #[inline(always)]
            || {
                for x in x.chunks_exact(columns) {
                    for (sum, &x) in sums.iter_mut().zip(x) {
                        *sum += x;
                    }
                }
            },
        );
        sums
    };
    let parts: Vec<Vec<F>> = match x.len() > 1 << 16 {
        true => x.par_chunks(ROWS * columns).map(part).collect(),
        false => x.chunks(ROWS * columns).map(part).collect(),
    };
    let mut sums = vec![0.0; columns];
    for part in parts {
        for (sum, part) in sums.iter_mut().zip(part) {
            *sum += part.wide();
        }
    }
    sums.into_iter().map(F::of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_the_same_for_any_number_of_threads() {
        let number = |i: usize| ((i * 7919 % 1009) as f64 / 1009.0 - 0.5) as f32;
        for [rows, depth, columns] in [
            [130, 784, 512],
            [300, 40, 100],
            [700, 520, 17],
            [9, 300, 500],
        ] {
            let a: Vec<f32> = (0..rows * depth).map(number).collect();
            let b: Vec<f32> = (0..depth * columns).map(|i| number(i + 500)).collect();
            for turned in [false, true] {
                let of_a = match turned {
                    false => MatRef::from_row_major_slice(&a, rows, depth),
                    true => MatRef::from_row_major_slice(&a, depth, rows).transpose(),
                };
                let of_b = match turned {
                    false => MatRef::from_row_major_slice(&b, depth, columns),
                    true => MatRef::from_row_major_slice(&b, columns, depth).transpose(),
                };
                let by = |threads: usize| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
                    let mut y = vec![0.0; rows * columns];
                    pool.build()
                        .unwrap()
                        .install(|| multiply(&mut y, of_a, of_b, false));
                    y
                };
                let one = by(1);
                for threads in [2, 3, 5, 8] {
                    assert_eq!(
                        one,
                        by(threads),
                        "{rows} {depth} {columns} {turned} {threads}"
                    );
                }
            }
        }
    }

    /// Factors whose neighbours along the sum lie kilobytes apart, in both orders, and some that don't.
    #[test]
    fn a_product_is_the_sum_of_products_however_its_factors_lie() {
        let number = |i: usize| ((i * 7919 % 1009) as f64 / 1009.0 - 0.5) as f32;
        for [rows, depth, columns] in [[70, 512, 256], [256, 300, 90], [512, 256, 64], [3, 5, 7]] {
            let a: Vec<f32> = (0..rows * depth).map(number).collect();
            let b: Vec<f32> = (0..depth * columns).map(|i| number(i + 500)).collect();
            for [a_turned, b_turned] in [[false, false], [true, false], [false, true], [true, true]]
            {
                let matrix = |values, [height, width]: [usize; 2], turned| match turned {
                    false => MatRef::from_row_major_slice(values, height, width),
                    true => MatRef::from_row_major_slice(values, width, height).transpose(),
                };
                let of_a = matrix(&a[..], [rows, depth], a_turned);
                let of_b = matrix(&b[..], [depth, columns], b_turned);
                let mut y = vec![1.0; rows * columns];
                multiply(&mut y, of_a, of_b, true);
                for (at, &found) in y.iter().enumerate() {
                    let (row, column) = (at / columns, at % columns);
                    let terms = (0..depth).map(|k| f64::from(of_a[(row, k)] * of_b[(k, column)]));
                    let expected = 1.0 + terms.sum::<f64>();
                    assert!(
                        (f64::from(found) - expected).abs() < 1e-4,
                        "{found} {expected}"
                    );
                }
            }
        }
    }
}
