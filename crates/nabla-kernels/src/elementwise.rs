//! Loops over the elements of arrays, vectorised and shared among the cores.

use std::ops::Range;

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::real::Real;

/// The numbers that one task handles: few enough that tasks are shared well, and so many that short arrays aren't
/// shared at all.
const CHUNK: usize = 1 << 14;

/// Runs a closure compiled for the processor's vector instructions.
///
/// Mark the closure, and every closure and function that it calls, `#[inline(always)]`: what is not inlined is
/// compiled for the least processor.
#[inline(always)]
pub(crate) fn vectorized<T>(f: impl FnMut() -> T) -> T {
    /// A closure that is called as `FnMut`: called as `FnOnce`, it would go through a function that isn't inlined.
    struct Inlined<F>(F);

    impl<T, F: FnMut() -> T> NullaryFnOnce for Inlined<F> {
        type Output = T;

        #[inline(always)]
        fn call(mut self) -> T {
            (self.0)()
        }
    }

    Arch::new().dispatch(Inlined(f))
}

/// `y ← f(y, inputs)` for each element.
///
/// Mark `f` `#[inline(always)]` ([`vectorized`]).
pub(crate) fn update<F: Real, const R: usize>(
    y: &mut [F],
    inputs: [&[F]; R],
    f: impl Fn(F, [F; R]) -> F + Sync,
) {
    for_each_part(y, |range, y| {
        let inputs = inputs.map(|input| &input[range.clone()]);
        vectorized(
            #[inline(always)]
            || {
                for (i, y) in y.iter_mut().enumerate() {
                    *y = f(*y, inputs.map(|input| input[i]));
                }
            },
        );
    });
}

/// `y ← f(x, inputs)` for each element; like [`update`].
pub(crate) fn from<F: Real, const R: usize>(
    y: &mut [F],
    x: &[F],
    inputs: [&[F]; R],
    f: impl Fn(F, [F; R]) -> F + Sync,
) {
    for_each_part(y, |range, y| {
        let inputs = inputs.map(|input| &input[range.clone()]);
        let x = &x[range];
        vectorized(
            #[inline(always)]
            || {
                for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
                    *y = f(x, inputs.map(|input| input[i]));
                }
            },
        );
    });
}

fn for_each_part<F: Real>(y: &mut [F], part: impl Fn(Range<usize>, &mut [F]) + Sync) {
    if y.len() <= CHUNK {
        return part(0..y.len(), y);
    }
    y.par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(at, y)| part(at * CHUNK..at * CHUNK + y.len(), y));
}

/// `f(row, values)` for each row of `y`, `[rows, width]`, with what it returns.
///
/// Mark `f` `#[inline(always)]` ([`vectorized`]).
pub(crate) fn for_each_row<F: Real, T: Send>(
    y: &mut [F],
    width: usize,
    f: impl Fn(usize, &mut [F]) -> T + Sync,
) -> Vec<T> {
    if width == 0 {
        return Vec::new();
    }
    let together = CHUNK.div_ceil(width);
    let part = |at: usize, y: &mut [F]| -> Vec<T> {
        vectorized(
            #[inline(always)]
            || {
                // Not mapped: an iterator's own loop isn't inlined.
                let mut found = Vec::with_capacity(y.len() / width);
                for (row, y) in y.chunks_exact_mut(width).enumerate() {
                    found.push(f(at * together + row, y));
                }
                found
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

/// `Σ (a − b)²`: in lanes, in `f64` over short pieces, in a fixed order.
pub(crate) fn square_distance<F: Real>(a: &[F], b: &[F]) -> f64 {
    const LANES: usize = 16;
    let part = |a: &[F], b: &[F]| {
        vectorized(
            #[inline(always)]
            || {
                let mut total = 0.0;
                for (a, b) in a.chunks(64 * LANES).zip(b.chunks(64 * LANES)) {
                    let mut lanes = [F::ZERO; LANES];
                    let (whole_a, rest_a) = a.as_chunks::<LANES>();
                    let (whole_b, rest_b) = b.as_chunks::<LANES>();
                    for (a, b) in whole_a.iter().zip(whole_b) {
                        for lane in 0..LANES {
                            let d = a[lane] - b[lane];
                            lanes[lane] += d * d;
                        }
                    }
                    for (lane, (&a, &b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
                        *lane += (a - b) * (a - b);
                    }
                    for lane in lanes {
                        total += lane.wide();
                    }
                }
                total
            },
        )
    };
    if a.len() <= CHUNK {
        return part(a, b);
    }
    let parts: Vec<f64> = a
        .par_chunks(CHUNK)
        .zip(b.par_chunks(CHUNK))
        .map(|(a, b)| part(a, b))
        .collect();
    parts.into_iter().sum()
}
