//! Loops over the elements of arrays, vectorised and shared among the cores.

use rayon::prelude::*;

use crate::real::Real;

/// The numbers that one task handles: few enough that tasks are shared well, and so many that short arrays aren't
/// shared at all.
const CHUNK: usize = 1 << 14;

/// `y ← f(y, inputs)` for each element.
///
/// Mark `f`'s functions `#[inline(always)]`; otherwise they are not compiled for the processor's vector
/// instructions.
pub(crate) fn update<F: Real, const R: usize>(
    y: &mut [F],
    inputs: [&[F]; R],
    f: impl Fn(F, [F; R]) -> F + Sync,
) {
    let arch = pulp::Arch::new();
    let part = |at: usize, y: &mut [F]| {
        let inputs = inputs.map(|input| &input[at * CHUNK..at * CHUNK + y.len()]);
        arch.dispatch(
            #[inline(always)]
            || {
                for (i, y) in y.iter_mut().enumerate() {
                    *y = f(*y, inputs.map(|input| input[i]));
                }
            },
        );
    };
    if y.len() <= CHUNK {
        part(0, y);
    } else {
        y.par_chunks_mut(CHUNK)
            .enumerate()
            .for_each(|(at, y)| part(at, y));
    }
}

/// `f(row, values)` for each row of `y`, `[rows, width]`, with what it returns.
///
/// Mark `f`'s functions `#[inline(always)]`, as those of [`update`].
pub(crate) fn for_each_row<F: Real, T: Send>(
    y: &mut [F],
    width: usize,
    f: impl Fn(usize, &mut [F]) -> T + Sync,
) -> Vec<T> {
    if width == 0 {
        return Vec::new();
    }
    let arch = pulp::Arch::new();
    let together = CHUNK.div_ceil(width);
    let part = |at: usize, y: &mut [F]| -> Vec<T> {
        arch.dispatch(
            #[inline(always)]
            || {
                y.chunks_exact_mut(width)
                    .enumerate()
                    .map(
                        #[inline(always)]
                        |(row, y)| f(at * together + row, y),
                    )
                    .collect()
            },
        )
    };
    if y.len() <= together * width {
        return part(0, y);
    }
    y.par_chunks_mut(together * width)
        .enumerate()
        .flat_map_iter(|(at, y)| part(at, y))
        .collect()
}
