//! Group and instance normalization.

use burn::module::Param;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{affine, by_affine, mean_and_scale, planes, slopes};
use crate::activation::{rectified, rectified_slope, silu_of, silu_slope};
use crate::elementwise::{for_each_row, vectorized};
use crate::memory;
use crate::operation::{
    Array, Batch, Operation, Saved, but_first, compiled, computes, ternary, unary,
};
use crate::real::Real;

/// The activation after a norm.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Nothing,
    Silu,
    Relu,
}

/// Calls a method with these arguments and the derivative of the activation.
///
/// A closure for each: a function's name would be called, not compiled into the loop.
macro_rules! with_slope {
    ($own:ident.$method:ident($($argument:expr),*)) => {
        match $own.then {
            Then::Nothing => $own.$method(
                $($argument,)*
                #[inline(always)]
                |_| F::ONE,
            ),
            Then::Silu => $own.$method(
                $($argument,)*
                #[inline(always)]
                |u| silu_slope(u),
            ),
            Then::Relu => $own.$method(
                $($argument,)*
                #[inline(always)]
                |u| rectified_slope(u, F::ONE),
            ),
        }
    };
}

/// Group normalization.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grouped {
    pub(super) groups: usize,
    pub(super) epsilon: f64,
    pub(super) then: Then,
}

impl Grouped {
    /// The operation with γ and β; none if the kernels don't compute it.
    pub(super) fn run<const D: usize>(
        self,
        channels: usize,
        x: &Tensor<D>,
        affine: Option<(&Param<Tensor<1>>, &Param<Tensor<1>>)>,
    ) -> Option<Tensor<D>> {
        if !computes(x) || D < 2 || x.dims()[1] != channels {
            return None;
        }
        let x = x.clone();
        Some(match affine {
            Some((gamma, beta)) => ternary(self, x, gamma.val(), beta.val()),
            None => unary(self, x),
        })
    }

    fn values<F: Real>(
        &self,
        x: &[F],
        [_, channels, area]: [usize; 3],
        affine: &[[F; 2]],
        y: &mut [F],
        activation: impl Fn(F) -> F + Sync,
    ) -> Vec<[f64; 2]> {
        let members = channels / self.groups;
        let size = members * area;
        for_each_row(
            y,
            size,
            #[inline(always)]
            |group, y| {
                let x = &x[group * size..(group + 1) * size];
                let [mean, scale] = mean_and_scale(x, self.epsilon);
                let first = group % self.groups * members;
                let planes = y.chunks_exact_mut(area).zip(x.chunks_exact(area));
                for (channel, (y, x)) in planes.enumerate() {
                    let [gain, shift] = affine[first + channel];
                    let (gain, mean) = (F::of(gain.wide() * scale), F::of(mean));
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = activation((x - mean) * gain + shift);
                    }
                }
                [mean, scale]
            },
        )
    }

    /// The gradient by `x`, and `Σ ∂u x̂` and `Σ ∂u` of each channel.
    fn gradients<F: Real>(
        &self,
        [x, grad]: [&[F]; 2],
        [_, channels, area]: [usize; 3],
        affine: &[[F; 2]],
        known: &[[f64; 2]],
        slope: impl Fn(F) -> F + Copy + Sync,
    ) -> (Vec<F>, Vec<[f64; 2]>) {
        let members = channels / self.groups;
        let size = members * area;
        let mut dx = memory::room(x.len());
        let parts = for_each_row(
            &mut dx,
            size,
            #[inline(always)]
            |group, dx| {
                let range = group * size..(group + 1) * size;
                let (x, grad) = (&x[range.clone()], &grad[range]);
                let first = group % self.groups * members;
                let [mean, scale] = known[group].map(F::of);
                let mut by_channel = Vec::with_capacity(members);
                let (mut level, mut along) = (0.0, 0.0);
                // ∂u, in the place of ∂x for now.
                for channel in 0..members {
                    let plane = channel * area..(channel + 1) * area;
                    let [gain, shift] = affine[first + channel];
                    let [of_normal, of_one] = slopes(
                        &mut dx[plane.clone()],
                        &x[plane.clone()],
                        &grad[plane],
                        [mean, scale, gain, shift],
                        slope,
                    );
                    level += gain.wide() * of_one;
                    along += gain.wide() * of_normal;
                    by_channel.push([of_normal, of_one]);
                }
                let count = size as f64;
                let (level, along) = (F::of(level / count), F::of(along / count));
                let planes = dx.chunks_exact_mut(area).zip(x.chunks_exact(area));
                for (channel, (dx, x)) in planes.enumerate() {
                    let [gain, _] = affine[first + channel];
                    for (dx, &x) in dx.iter_mut().zip(x) {
                        let normal = (x - mean) * scale;
                        *dx = (*dx * gain - level - normal * along) * scale;
                    }
                }
                by_channel
            },
        );
        let mut sums = vec![[0.0; 2]; channels];
        for (group, part) in parts.into_iter().enumerate() {
            let first = group % self.groups * members;
            for (sum, part) in sums[first..].iter_mut().zip(part) {
                sum[0] += part[0];
                sum[1] += part[1];
            }
        }
        (dx, sums)
    }

    /// `Σ ∂u x̂` and `Σ ∂u` of each channel of one picture.
    ///
    /// - `room`: for a plane
    #[allow(
        clippy::too_many_arguments,
        reason = "what `gradients` takes, and which picture"
    )]
    fn sums_of<F: Real>(
        &self,
        [x, grad]: [&[F]; 2],
        [_, channels, area]: [usize; 3],
        affine: &[[F; 2]],
        known: &[[f64; 2]],
        picture: usize,
        room: &mut Vec<F>,
        slope: impl Fn(F) -> F + Copy + Sync,
    ) -> Vec<[f64; 2]> {
        let members = channels / self.groups;
        room.resize(area, F::ZERO);
        let mut sums = Vec::with_capacity(channels);
        vectorized::<F, _>(
            #[inline(always)]
            || {
                for (channel, &[gain, shift]) in affine.iter().enumerate() {
                    let group = picture * self.groups + channel / members;
                    let [mean, scale] = known[group].map(F::of);
                    let plane = picture * channels + channel;
                    let plane = plane * area..(plane + 1) * area;
                    let numbers = [mean, scale, gain, shift];
                    sums.push(slopes(
                        room,
                        &x[plane.clone()],
                        &grad[plane],
                        numbers,
                        slope,
                    ));
                }
            },
        );
        sums
    }
}

compiled!(Grouped: 1, 3);

impl<const N: usize> Operation<N> for Grouped {
    /// Mean and scale of each group.
    type Kept = Vec<[f64; 2]>;

    fn parameters(&self) -> [bool; N] {
        but_first()
    }

    fn for_each_example<F: Real, R: Send>(
        &self,
        batch: &Batch<'_, F, Self::Kept, N>,
        wanted: [bool; N],
        then: impl Fn([Option<&[F]>; N]) -> R + Sync,
    ) -> Option<Vec<R>> {
        let mut given = batch.inputs.iter().map(Option::as_ref);
        let (Some(Some(x)), gamma, beta) = (given.next(), given.next(), given.next()) else {
            return None;
        };
        let sizes = planes(&x.shape());
        let affine = affine(gamma.flatten(), beta.flatten(), sizes[1]);
        let arrays = [x.values(), batch.grad.values()];
        let sums = |example: usize, room: &mut Vec<F>| {
            with_slope!(self.sums_of(arrays, sizes, &affine, batch.kept, example, room))
        };
        let each = (0..batch.examples).into_par_iter();
        let each = each.map_init(Vec::new, |room, example| {
            let sums = sums(example, room);
            let by = [0, 1].map(|k| sums.iter().map(|sum| F::of(sum[k])).collect::<Vec<F>>());
            then(std::array::from_fn(|input| {
                let by = by.get(input.wrapping_sub(1)).filter(|_| wanted[input]);
                by.map(Vec::as_slice)
            }))
        });
        Some(each.collect())
    }

    fn forward<F: Real>(&self, inputs: [Array<F>; N], _: bool) -> (Array<F>, Self::Kept) {
        let shape = inputs[0].shape();
        let sizes = planes(&shape);
        let affine = affine(inputs.get(1), inputs.get(2), sizes[1]);
        let x = inputs[0].values();
        let mut y = memory::room(x.len());
        let kept = match self.then {
            Then::Nothing => self.values(
                x,
                sizes,
                &affine,
                &mut y,
                #[inline(always)]
                |u| u,
            ),
            Then::Silu => self.values(
                x,
                sizes,
                &affine,
                &mut y,
                #[inline(always)]
                |u| silu_of(u),
            ),
            Then::Relu => self.values(
                x,
                sizes,
                &affine,
                &mut y,
                #[inline(always)]
                |u| rectified(u),
            ),
        };
        (Array::new(y, &shape), kept)
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, Self::Kept, N>) -> [Option<Array<F>>; N] {
        let Saved {
            inputs,
            kept,
            grad,
            wanted,
            ..
        } = saved;
        let mut gradients = [const { None }; N];
        let mut given = inputs.iter().map(Option::as_ref);
        let (Some(Some(x)), gamma, beta) = (given.next(), given.next(), given.next()) else {
            return gradients;
        };
        let shape = x.shape();
        let sizes = planes(&shape);
        let affine = affine(gamma.flatten(), beta.flatten(), sizes[1]);
        let arrays = [x.values(), grad.values()];
        let (dx, sums) = with_slope!(self.gradients(arrays, sizes, &affine, kept));
        gradients[0] = Some(Array::new(dx, &shape));
        by_affine(&mut gradients, wanted, &sums);
        gradients
    }
}
