//! Layer and RMS normalization.

use rayon::prelude::*;

use super::{by_affine, mean_and_scale, sums_around};
use crate::elementwise::{for_each_row, sums, vectorized};
use crate::memory;
use crate::operation::{Array, Operation, Saved, but_bias, but_first, compiled};
use crate::real::Real;

/// Layer normalization, or without a mean RMS normalization.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) centred: bool,
    pub(super) epsilon: f64,
}

impl Row {
    #[inline(always)]
    fn statistics<F: Real>(&self, x: &[F]) -> [f64; 2] {
        match self.centred {
            true => mean_and_scale(x, self.epsilon),
            false => {
                let [_, squares] = sums_around(x, F::ZERO);
                [0.0, 1.0 / (squares / x.len() as f64 + self.epsilon).sqrt()]
            }
        }
    }
}

compiled!(Row: 2, 3);

impl<const N: usize> Operation<N> for Row {
    /// Mean and scale of each row.
    type Kept = Vec<[f64; 2]>;

    fn parameters(&self) -> [bool; N] {
        but_first()
    }

    fn of_example(
        &self,
        kept: &Self::Kept,
        example: usize,
        examples: usize,
    ) -> Option<(Self, Self::Kept)> {
        let rows = kept.len() / examples;
        Some((*self, kept[example * rows..(example + 1) * rows].to_vec()))
    }

    fn reads(&self) -> [bool; N] {
        but_bias()
    }

    fn forward<F: Real>(&self, inputs: [Array<F>; N], _: bool) -> (Array<F>, Self::Kept) {
        let shape = inputs[0].shape();
        let width = shape[shape.len() - 1];
        let (x, gamma) = (inputs[0].values(), inputs[1].values());
        let beta = match inputs.get(2) {
            Some(beta) => beta.values().to_vec(),
            None => vec![F::ZERO; width],
        };
        let mut y = memory::room(x.len());
        let kept = for_each_row(
            &mut y,
            width,
            #[inline(always)]
            |row, y| {
                let x = &x[row * width..(row + 1) * width];
                let known = self.statistics(x);
                let [mean, scale] = known.map(F::of);
                for ((y, &x), (&gain, &shift)) in y.iter_mut().zip(x).zip(gamma.iter().zip(&beta)) {
                    *y = (x - mean) * scale * gain + shift;
                }
                known
            },
        );
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
        let (Some(Some(x)), Some(Some(gamma))) = (inputs.first(), inputs.get(1)) else {
            return gradients;
        };
        let shape = x.shape();
        let width = shape[shape.len() - 1];
        let (x, gamma, grad) = (x.values(), gamma.values(), grad.values());
        let mut dx = memory::room(x.len());
        let centred = if self.centred { F::ONE } else { F::ZERO };
        for_each_row(
            &mut dx,
            width,
            #[inline(always)]
            |row, dx| {
                let range = row * width..(row + 1) * width;
                let (x, grad) = (&x[range.clone()], &grad[range]);
                let [mean, scale] = kept[row].map(F::of);
                for ((dx, &grad), &gain) in dx.iter_mut().zip(grad).zip(gamma) {
                    *dx = grad * gain;
                }
                let [level, along] = sums(
                    [dx, x],
                    #[inline(always)]
                    |[du, x]| [du, du * ((x - mean) * scale)],
                );
                let count = width as f64;
                let (level, along) = (F::of(level / count) * centred, F::of(along / count));
                for (dx, &x) in dx.iter_mut().zip(x) {
                    *dx = (*dx - level - (x - mean) * scale * along) * scale;
                }
            },
        );
        gradients[0] = Some(Array::new(dx, &shape));
        if wanted.iter().skip(1).any(|&wanted| wanted) {
            by_affine(&mut gradients, wanted, &column_sums(x, grad, width, kept));
        }
        gradients
    }
}

/// `Σ ∂y x̂` and `Σ ∂y` of each column.
fn column_sums<F: Real>(x: &[F], grad: &[F], width: usize, kept: &[[f64; 2]]) -> Vec<[f64; 2]> {
    /// The rows that are summed in their own precision.
    const ROWS: usize = 64;
    let parts: Vec<Vec<[F; 2]>> = kept
        .par_chunks(ROWS)
        .enumerate()
        .map(|(part, kept)| {
            let mut along = vec![F::ZERO; width];
            let mut level = vec![F::ZERO; width];
            vectorized::<F, _>(
                #[inline(always)]
                || {
                    for (row, known) in kept.iter().enumerate() {
                        let start = (part * ROWS + row) * width;
                        let (x, grad) = (&x[start..start + width], &grad[start..start + width]);
                        let [mean, scale] = known.map(F::of);
                        let to = along.iter_mut().zip(&mut level);
                        for ((along, level), (&x, &grad)) in to.zip(x.iter().zip(grad)) {
                            *along += grad * ((x - mean) * scale);
                            *level += grad;
                        }
                    }
                },
            );
            along.into_iter().zip(level).map(|(a, l)| [a, l]).collect()
        })
        .collect();
    let mut sums = vec![[0.0; 2]; width];
    for part in parts {
        for (sum, part) in sums.iter_mut().zip(part) {
            sum[0] += part[0].wide();
            sum[1] += part[1].wide();
        }
    }
    sums
}
