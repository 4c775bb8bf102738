//! Loops over the elements of arrays, vectorised and shared among the cores.

#![allow(
    clippy::needless_range_loop,
    reason = "loops over lanes are turned into vector instructions"
)]

use std::ops::Range;

use pulp::NullaryFnOnce;
use rayon::prelude::*;

use crate::real::Real;

/// The numbers that one task handles: few enough that tasks are shared well, and so many that short arrays aren't
/// shared at all.
pub(crate) const CHUNK: usize = 1 << 14;

/// Sums side by side, which the compiler turns into vector instructions.
pub(crate) const LANES: usize = 16;

/// Runs a closure compiled for the processor's vector instructions.
///
/// Mark the closure, and every closure and function that it calls, `#[inline(always)]`: what is not inlined is
/// compiled for the least processor.
#[inline(always)]
pub(crate) fn vectorized<F: Real, T>(f: impl FnMut() -> T) -> T {
    /// A closure that is called as `FnMut`: called as `FnOnce`, it would go through a function that isn't inlined.
    struct Inlined<F>(F);

    impl<T, F: FnMut() -> T> NullaryFnOnce for Inlined<F> {
        type Output = T;

        #[inline(always)]
        fn call(mut self) -> T {
            (self.0)()
        }
    }

    F::dispatch(Inlined(f))
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
        vectorized::<F, _>(
            #[inline(always)]
            || in_blocks(y, None, inputs, &f),
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
        vectorized::<F, _>(
            #[inline(always)]
            || in_blocks(y, Some(x), inputs, &f),
        );
    });
}

/// `y ← f(x, inputs)` for each element; `x` is `y` itself if there is none.
///
/// Blocks go in and out by value: in a long function of slices, the compiler doesn't see that they are apart, and
/// computes number by number.
#[inline(always)]
fn in_blocks<F: Real, const R: usize>(
    y: &mut [F],
    x: Option<&[F]>,
    inputs: [&[F]; R],
    f: &impl Fn(F, [F; R]) -> F,
) {
    let len = y.len();
    let whole = len / LANES;
    let (blocks, rest) = y.as_chunks_mut::<LANES>();
    let x = x.map(|x| x[..len].as_chunks::<LANES>());
    let inputs = inputs.map(|input| input[..len].as_chunks::<LANES>());
    // All of one length, so that the loop checks no bounds.
    let blocks = &mut blocks[..whole];
    let of_x = x.map(|(x, _)| &x[..whole]);
    let of_inputs = inputs.map(|(input, _)| &input[..whole]);
    for i in 0..whole {
        let x = match of_x {
            Some(x) => x[i],
            None => blocks[i],
        };
        let mut given = [[F::ZERO; LANES]; R];
        for r in 0..R {
            given[r] = of_inputs[r][i];
        }
        let mut new = [F::ZERO; LANES];
        for lane in 0..LANES {
            let mut numbers = [F::ZERO; R];
            for r in 0..R {
                numbers[r] = given[r][lane];
            }
            new[lane] = f(x[lane], numbers);
        }
        blocks[i] = new;
    }
    for (lane, y) in rest.iter_mut().enumerate() {
        let mut numbers = [F::ZERO; R];
        for r in 0..R {
            numbers[r] = inputs[r].1[lane];
        }
        *y = f(x.map_or(*y, |(_, x)| x[lane]), numbers);
    }
}

pub(crate) fn for_each_part<F: Real>(y: &mut [F], part: impl Fn(Range<usize>, &mut [F]) + Sync) {
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
        vectorized::<F, _>(
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

/// The sums of `f`'s terms over all elements: in [`LANES`] side by side, in `f64` over short pieces, in a fixed order.
///
/// Call it inside of [`vectorized`], and mark `f` `#[inline(always)]`.
#[inline(always)]
pub(crate) fn sums<F: Real, const R: usize, const S: usize>(
    inputs: [&[F]; R],
    f: impl Fn([F; R]) -> [F; S],
) -> [f64; S] {
    /// The numbers that are summed in their own precision.
    const PIECE: usize = 64 * LANES;
    let len = inputs.first().map_or(0, |input| input.len());
    let mut totals = [0.0; S];
    let mut start = 0;
    while start < len {
        let end = len.min(start + PIECE);
        let (blocks, rest) = ((end - start) / LANES, (end - start) % LANES);
        let pieces = inputs.map(|input| input[start..end].as_chunks::<LANES>());
        // All of one length, so that the loop checks no bounds.
        let whole = pieces.map(|(whole, _)| &whole[..blocks]);
        let mut lanes = [[F::ZERO; LANES]; S];
        for i in 0..blocks {
            for lane in 0..LANES {
                let terms = f(whole.map(|whole| whole[i][lane]));
                for s in 0..S {
                    lanes[s][lane] += terms[s];
                }
            }
        }
        for lane in 0..rest {
            let terms = f(pieces.map(|(_, rest)| rest[lane]));
            for s in 0..S {
                lanes[s][lane] += terms[s];
            }
        }
        for s in 0..S {
            totals[s] += lanes[s].iter().map(|&v| v.wide()).sum::<f64>();
        }
        start = end;
    }
    totals
}

/// `Σ (a − b)²`.
pub(crate) fn square_distance<F: Real>(a: &[F], b: &[F]) -> f64 {
    let part = |a: &[F], b: &[F]| {
        vectorized::<F, _>(
            #[inline(always)]
            || {
                let [sum] = sums(
                    [a, b],
                    #[inline(always)]
                    |[a, b]| [(a - b) * (a - b)],
                );
                sum
            },
        )
    };
    if a.len() <= CHUNK {
        return part(a, b);
    }
    let parts = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
    let parts: Vec<f64> = parts.map(|(a, b)| part(a, b)).collect();
    parts.into_iter().sum()
}
