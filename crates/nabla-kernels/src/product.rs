//! Matrix products, divided among the cores at fixed places.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::elementwise::vectorized;
use crate::real::Real;

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
    for_each_tile(y, columns, tile, |row, column, tile, (): &mut ()| {
        let (height, width) = (tile.nrows(), tile.ncols());
        let (a, b) = (a.subrows(row, height), b.subcols(column, width));
        matmul(tile, accum, a, b, F::ONE, Par::Seq);
    });
}

/// Calls `compute(row, column, tile, scratch)` for each tile of `y`, `[rows, columns]`, of at most this height and
/// width, which starts at that row and column.
pub(crate) fn for_each_tile<F: Real, S: Default + Send>(
    y: &mut [F],
    columns: usize,
    [height, width]: [usize; 2],
    compute: impl Fn(usize, usize, MatMut<'_, F>, &mut S) + Sync,
) {
    let mut tiles = Vec::new();
    for (block, y) in y.chunks_mut((height * columns).max(1)).enumerate() {
        let rows = y.len() / columns;
        let mut rest = MatMut::from_row_major_slice_mut(y, rows, columns);
        for column in (0..columns).step_by(width) {
            let (tile, others) = rest.split_at_col_mut(width.min(columns - column));
            tiles.push((block * height, column, tile));
            rest = others;
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

/// The height and width of a tile: up to 16 tiles, if there is work for them.
fn tile(rows: usize, columns: usize, depth: usize) -> [usize; 2] {
    /// Sums of products that are worth a task.
    const WORK: usize = 1 << 18;
    let [mut height, mut width] = [rows.min(512), columns.min(256)];
    let tiles = |height: usize, width: usize| rows.div_ceil(height) * columns.div_ceil(width);
    let least = (rows * columns * depth / WORK).min(16);
    while tiles(height, width) < least && height.max(width) > 32 {
        if width >= height {
            width = width.div_ceil(2).next_multiple_of(16).min(columns);
        } else {
            height = height.div_ceil(2).next_multiple_of(16).min(rows);
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
