//! Batch normalization.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::{affine, by_affine, moments, planes, slopes, sums_around};
use crate::activation::{rectified, rectified_slope};
use crate::elementwise::{for_each_row, vectorized};
use crate::linear_pieces::Rectifier;
use crate::memory;
use crate::operation::{Array, Operation, Saved, compiled};
use crate::real::Real;

/// Batch normalization.
#[derive(Clone, Debug)]
pub(super) struct Batched {
    pub(super) epsilon: f64,
    pub(super) end: Option<Rectifier>,
    /// Mean and variance of each channel, if they aren't those of the batch.
    pub(super) fixed: Option<Arc<Vec<[f64; 2]>>>,
    /// Mean and variance of each channel of the batch.
    pub(super) seen: Arc<OnceLock<Vec<[f64; 2]>>>,
}

impl Batched {
    /// Mean and variance of a channel.
    fn statistics<F: Real>(
        x: &[F],
        [batch, channels, area]: [usize; 3],
        channel: usize,
    ) -> [f64; 2] {
        let plane = |picture: usize| {
            let start = (picture * channels + channel) * area;
            &x[start..start + area]
        };
        let origin = plane(0)[0];
        let mut totals = [0.0; 2];
        vectorized::<F, _>(
            #[inline(always)]
            || {
                for picture in 0..batch {
                    let [sum, squares] = sums_around(plane(picture), origin);
                    totals[0] += sum;
                    totals[1] += squares;
                }
            },
        );
        moments(totals, origin.wide(), (batch * area) as f64)
    }

    fn values<F: Real>(
        &self,
        x: &[F],
        [_, channels, area]: [usize; 3],
        numbers: &[[F; 3]],
        activation: impl Fn(F) -> F + Sync,
    ) -> Vec<F> {
        let mut y = memory::room(x.len());
        for_each_row(
            &mut y,
            area,
            #[inline(always)]
            |plane, y| {
                let [mean, gain, shift] = numbers[plane % channels];
                let range = plane * area..(plane + 1) * area;
                for (y, &x) in y.iter_mut().zip(&x[range.clone()]) {
                    *y = activation((x - mean) * gain + shift);
                }
                if let Some(Rectifier::Held(held)) = &self.end {
                    held.mask(y, range);
                }
            },
        );
        y
    }

    fn gradients<F: Real>(
        &self,
        [x, grad]: [&[F]; 2],
        [batch, channels, area]: [usize; 3],
        affine: &[[F; 2]],
        known: &[[f64; 2]],
        slope: impl Fn(F) -> F + Copy + Sync,
    ) -> (Vec<F>, Vec<[f64; 2]>) {
        let mut dx = memory::room(x.len());
        let numbers = |channel: usize| {
            let ([mean, scale], [gain, shift]) = (known[channel].map(F::of), affine[channel]);
            [mean, scale, gain, shift]
        };
        let of_batch = self.fixed.is_none();
        // ∂u, in the place of ∂x for now.
        let parts = for_each_row(
            &mut dx,
            area,
            #[inline(always)]
            |plane, dx| {
                let range = plane * area..(plane + 1) * area;
                let (x, mut grad) = (&x[range.clone()], &grad[range.clone()]);
                let mut masked = Vec::new();
                if let Some(Rectifier::Held(held)) = &self.end {
                    masked.extend_from_slice(grad);
                    held.mask(&mut masked, range);
                    grad = &masked;
                }
                let numbers = numbers(plane % channels);
                let sums = slopes(dx, x, grad, numbers, slope);
                if !of_batch {
                    let [_, scale, gain, _] = numbers;
                    let factor = gain * scale;
                    for dx in dx {
                        *dx *= factor;
                    }
                }
                sums
            },
        );
        let mut sums = vec![[0.0; 2]; channels];
        for (plane, part) in parts.into_iter().enumerate() {
            let sum = &mut sums[plane % channels];
            sum[0] += part[0];
            sum[1] += part[1];
        }
        if !of_batch {
            return (dx, sums);
        }
        let count = (batch * area) as f64;
        for_each_row(
            &mut dx,
            area,
            #[inline(always)]
            |plane, dx| {
                let channel = plane % channels;
                let [mean, scale, gain, _] = numbers(channel);
                let factor = gain * scale;
                let [along, level] = sums[channel].map(|sum| F::of(sum / count));
                for (dx, &x) in dx.iter_mut().zip(&x[plane * area..(plane + 1) * area]) {
                    let normal = (x - mean) * scale;
                    *dx = (*dx - level - normal * along) * factor;
                }
            },
        );
        (dx, sums)
    }
}

compiled!(Batched: 3);

impl Operation<3> for Batched {
    /// Mean and scale of each channel.
    type Kept = Vec<[f64; 2]>;

    fn parameters(&self) -> [bool; 3] {
        [false, true, true]
    }

    fn of_example(&self, kept: &Self::Kept, _: usize, _: usize) -> Option<(Self, Self::Kept)> {
        // What normalizes by the batch mixes its examples, and held are the units of all.
        if self.fixed.is_none() || matches!(self.end, Some(Rectifier::Held(_))) {
            return None;
        }
        Some((self.clone(), kept.clone()))
    }

    fn forward<F: Real>(&self, [x, gamma, beta]: [Array<F>; 3], _: bool) -> (Array<F>, Self::Kept) {
        let shape = x.shape();
        let sizes = planes(&shape);
        let statistics = match &self.fixed {
            Some(fixed) => fixed.to_vec(),
            None => {
                let of = |channel| Self::statistics(x.values(), sizes, channel);
                let seen: Vec<[f64; 2]> = (0..sizes[1]).into_par_iter().map(of).collect();
                self.seen.get_or_init(|| seen.clone());
                seen
            }
        };
        let known: Vec<[f64; 2]> = statistics
            .iter()
            .map(|[mean, variance]| [*mean, 1.0 / (variance + self.epsilon).sqrt()])
            .collect();
        let affine = affine(Some(&gamma), Some(&beta), sizes[1]);
        let numbers: Vec<[F; 3]> = known
            .iter()
            .zip(affine)
            .map(|([mean, scale], [gain, shift])| [F::of(*mean), F::of(gain.wide() * scale), shift])
            .collect();
        let y = match self.end {
            Some(Rectifier::Relu) => self.values(
                x.values(),
                sizes,
                &numbers,
                #[inline(always)]
                |u| rectified(u),
            ),
            _ => self.values(
                x.values(),
                sizes,
                &numbers,
                #[inline(always)]
                |u| u,
            ),
        };
        (Array::new(y, &shape), known)
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, Self::Kept, 3>) -> [Option<Array<F>>; 3] {
        let Saved {
            inputs,
            kept,
            grad,
            wanted,
            ..
        } = saved;
        let mut gradients = [const { None }; 3];
        let [Some(x), gamma, beta] = inputs else {
            return gradients;
        };
        let shape = x.shape();
        let sizes = planes(&shape);
        let affine = affine(gamma.as_ref(), beta.as_ref(), sizes[1]);
        let arrays = [x.values(), grad.values()];
        let (dx, sums) = match self.end {
            Some(Rectifier::Relu) => self.gradients(
                arrays,
                sizes,
                &affine,
                kept,
                #[inline(always)]
                |u| rectified_slope(u, F::ONE),
            ),
            _ => self.gradients(
                arrays,
                sizes,
                &affine,
                kept,
                #[inline(always)]
                |_| F::ONE,
            ),
        };
        gradients[0] = Some(Array::new(dx, &shape));
        by_affine(&mut gradients, wanted, &sums);
        gradients
    }
}
