//! Embeddings, forward and backward.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::nn::Embedding;
use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

use crate::elementwise::for_each_row;
use crate::memory;
use crate::operation::{Array, Batch, Operation, Saved, compiled, computes, unary};
use crate::per_example::square;
use crate::real::Real;

/// Computes `layer`: the rows of its weight.
///
/// - `ids`: `[batch, length]`, the numbers of rows
/// - returns `[batch, length, width]`
///
/// # Panics
/// Like `layer.forward`, if a number isn't that of a row.
pub fn embedding(layer: &Embedding, ids: Tensor<2, Int>) -> Tensor<3> {
    let weight = layer.weight.val();
    let [count, width] = weight.dims();
    let [batch, length] = ids.dims();
    if !computes(&weight) || width == 0 {
        return layer.forward(ids);
    }
    let rows: Vec<i64> = ids.to_data().iter().collect();
    if rows.iter().any(|&row| row < 0 || row as usize >= count) {
        return layer.forward(ids);
    }
    let rows = rows.into_iter().map(|row| row as usize).collect();
    unary(
        Rows {
            rows: Arc::new(rows),
            shape: [batch, length, width],
        },
        weight,
    )
}

#[derive(Clone, Debug)]
struct Rows {
    rows: Arc<Vec<usize>>,
    shape: [usize; 3],
}

compiled!(Rows: 1);

impl Operation<1> for Rows {
    /// The rows of the weight.
    type Kept = usize;

    fn reads(&self) -> [bool; 1] {
        [false]
    }

    fn parameters(&self) -> [bool; 1] {
        [true]
    }

    fn of_example(&self, &count: &usize, example: usize, examples: usize) -> Option<(Self, usize)> {
        let [batch, length, width] = self.shape;
        let batch = batch / examples;
        let places = example * batch * length..(example + 1) * batch * length;
        let operation = Self {
            rows: Arc::new(self.rows[places].to_vec()),
            shape: [batch, length, width],
        };
        Some((operation, count))
    }

    fn squared_norms<F: Real>(&self, batch: &Batch<'_, F, usize, 1>, _: usize) -> Option<Vec<f64>> {
        let (grad, examples) = (&batch.grad, batch.examples);
        let [rows, length, width] = self.shape;
        let places = rows / examples * length;
        let grad = grad.values();
        let each = (0..examples).into_par_iter().map(|example| {
            let own = example * places..(example + 1) * places;
            // The sum of the gradients at the places of each row.
            let mut of_rows: BTreeMap<usize, Vec<F>> = BTreeMap::new();
            for place in own {
                let sum = of_rows
                    .entry(self.rows[place])
                    .or_insert_with(|| vec![F::ZERO; width]);
                let grad = &grad[place * width..(place + 1) * width];
                for (sum, &grad) in sum.iter_mut().zip(grad) {
                    *sum += grad;
                }
            }
            of_rows.values().map(|row| square(row)).sum()
        });
        Some(each.collect())
    }

    fn forward<F: Real>(&self, [weight]: [Array<F>; 1], _: bool) -> (Array<F>, usize) {
        let width = self.shape[2];
        let values = weight.values();
        let mut y = memory::room(self.rows.len() * width);
        for_each_row(&mut y, width, |place, y| {
            let row = self.rows[place];
            y.copy_from_slice(&values[row * width..(row + 1) * width]);
        });
        (Array::new(y, &self.shape), values.len() / width)
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, usize, 1>) -> [Option<Array<F>>; 1] {
        /// Tasks, each with some of the rows.
        const TASKS: usize = 16;
        let (count, width) = (*saved.kept, self.shape[2]);
        let grad = saved.grad.values();
        // The places of each row in their order, so that sums have a fixed order.
        let mut places: Vec<usize> = (0..self.rows.len()).collect();
        places.sort_by_key(|&place| self.rows[place]);
        let mut dw = memory::zeros(count * width);
        let together = count.div_ceil(TASKS).max(1);
        dw.par_chunks_mut(together * width)
            .enumerate()
            .for_each(|(task, dw)| {
                let first = task * together;
                let start = places.partition_point(|&place| self.rows[place] < first);
                for &place in &places[start..] {
                    let row = self.rows[place] - first;
                    let Some(to) = dw.get_mut(row * width..(row + 1) * width) else {
                        break;
                    };
                    for (to, &from) in to.iter_mut().zip(&grad[place * width..]) {
                        *to += from;
                    }
                }
            });
        [Some(Array::new(dw, &[count, width]))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::EmbeddingConfig;
    use burn::tensor::{Device, Distribution, Tolerance};

    #[test]
    fn values_and_gradients_are_burns() {
        let device = Device::flex().autodiff();
        for (count, width, shape) in [(1, 1, [1, 1]), (40, 5, [3, 90]), (7, 33, [2, 3])] {
            let layer = EmbeddingConfig::new(count, width).init(&device);
            let ids = (0..shape[0] * shape[1]).map(|i| (i * i + 3) % count as i32);
            let ids = Tensor::<1, Int>::from_ints(&ids.collect::<Vec<i32>>()[..], &device);
            let ids: Tensor<2, Int> = ids.reshape(shape);
            let burns = layer.forward(ids.clone());
            let found = embedding(&layer, ids);
            found.to_data().assert_eq(&burns.to_data(), true);
            let weights = Tensor::random(found.dims(), Distribution::Default, &device);
            let weight = layer.weight.val();
            let expected = weight.grad(&(burns * weights.clone()).sum().backward());
            let grad = weight.grad(&(found * weights).sum().backward());
            let near = Tolerance::<f32>::absolute(1e-5);
            let (grad, expected) = (grad.unwrap().into_data(), expected.unwrap().into_data());
            grad.assert_approx_eq(&expected, near);
        }
    }
}
