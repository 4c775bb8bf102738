//! The gradients of each picture of a batch, and their norms.

use faer::MatRef;
use rayon::prelude::*;

use super::weight_gradient::Scratch;
use super::{Convolution, spatial, sum, taps};
use crate::elementwise::vectorized;
use crate::operation::Array;
use crate::per_example::{is_tall, product_square};
use crate::real::Real;

impl Convolution {
    /// The squared norms of the examples' gradients by the kernel, where the Gram matrices of neighbourhoods and
    /// gradients take less arithmetic.
    ///
    /// - `x`: `[examples, channels_in, …]`; `grad`: `[examples, channels_out, …]`
    pub(super) fn weight_squares<F: Real>(
        &self,
        [x, grad]: [&Array<F>; 2],
        kernel: &[usize],
    ) -> Option<Vec<f64>> {
        let [input, output, size] =
            [&x.shape()[..], &grad.shape(), kernel].map(|s| spatial(s, self.dimensions));
        let (channels, rows) = (kernel[1], kernel[0] / self.groups);
        let taps = taps(&self.distances(size));
        let positions: usize = output.iter().product();
        let area: usize = input.iter().product();
        let depth = channels * taps.len();
        if !is_tall([depth, rows], positions) {
            return None;
        }
        let examples = x.shape()[0];
        let [x, grad] = [x, grad].map(Array::values);
        let each = (0..examples).into_par_iter().map(|example| {
            // [channels · taps, positions]
            let mut patches = vec![F::ZERO; depth * positions];
            let squares = (0..self.groups).map(|group| {
                let group = example * self.groups + group;
                let x = &x[group * channels * area..(group + 1) * channels * area];
                let planes = x.chunks_exact(area);
                for (plane, to) in planes.zip(patches.chunks_exact_mut(taps.len() * positions)) {
                    for (&tap, to) in taps.iter().zip(to.chunks_exact_mut(positions)) {
                        self.gather(plane, input, output, tap, to);
                    }
                }
                let grad = &grad[group * rows * positions..(group + 1) * rows * positions];
                let grad = MatRef::from_row_major_slice(grad, rows, positions);
                let patches = MatRef::from_row_major_slice(&patches, depth, positions);
                product_square(patches.transpose(), grad.transpose())
            });
            squares.sum()
        });
        Some(each.collect())
    }

    /// Calls `then` with the gradients by kernel and bias of each picture.
    ///
    /// - `x`, `grad`: as for [`weight_squares`](Self::weight_squares)
    /// - `by_output`: the gradient whose sums are those by the bias
    pub(super) fn for_each_picture<F: Real, R: Send, const N: usize>(
        &self,
        [x, grad]: [&Array<F>; 2],
        kernel: &[usize],
        by_output: &Array<F>,
        wanted: [bool; N],
        then: impl Fn([Option<&[F]>; N]) -> R + Sync,
    ) -> Vec<R> {
        let output = spatial(&grad.shape(), self.dimensions);
        let of_weights = self.weight_gradients(&x.shape(), kernel, output);
        let [pictures, channels] = [by_output.shape()[0], by_output.shape()[1]];
        let [x, grad, by_output] = [x, grad, by_output].map(Array::values);
        let area = by_output.len() / (pictures * channels).max(1);
        let by_bias = |picture: usize| -> Vec<F> {
            let planes = picture * channels..(picture + 1) * channels;
            let plane = |at: usize| &by_output[at * area..(at + 1) * area];
            vectorized::<F, _>(
                #[inline(always)]
                || planes.clone().map(|at| F::of(sum(plane(at)))).collect(),
            )
        };
        let each = (0..pictures).into_par_iter();
        let each = each.map_init(Scratch::default, |scratch, picture| {
            let is_wanted = |input: usize| wanted.get(input) == Some(&true);
            let by_kernel = is_wanted(1).then(|| of_weights.of_picture(x, grad, picture, scratch));
            let by_bias = is_wanted(2).then(|| by_bias(picture));
            then(std::array::from_fn(|input| match input {
                1 => by_kernel.as_deref(),
                2 => by_bias.as_deref(),
                _ => None,
            }))
        });
        each.collect()
    }

    /// What a tap reads at each position of the output: 0 outside of the picture.
    fn gather<F: Real>(
        &self,
        plane: &[F],
        input: [usize; 3],
        output: [usize; 3],
        tap: [isize; 3],
        to: &mut [F],
    ) {
        let inside = |d: usize, position: usize| {
            let place = (position * self.stride[d]) as isize + tap[d];
            usize::try_from(place)
                .ok()
                .filter(|&place| place < input[d])
        };
        let mut to = to.iter_mut();
        for i in 0..output[0] {
            for j in 0..output[1] {
                let row = inside(0, i).zip(inside(1, j));
                for (k, to) in (0..output[2]).zip(&mut to) {
                    let place = row.zip(inside(2, k));
                    *to = place.map_or(F::ZERO, |((i, j), k)| {
                        plane[(i * input[1] + j) * input[2] + k]
                    });
                }
            }
        }
    }
}
