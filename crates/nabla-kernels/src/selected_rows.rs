//! Products with a few rows of a table, forward and backward: what a sparse code does with its dictionary.
//!
//! With the rows `t_i` of a table, and for every example `b` the numbers `i(b, 1), …, i(b, k)` of rows,
//!
//! ```text
//! weighted_rows   y_b = Σ_j w_bj t_i(b,j)         ∂t_i += w_bj ∂y_b      ∂w_bj = ⟨t_i, ∂y_b⟩
//! row_products    p_bj = ⟨t_i(b,j), x_b⟩          ∂t_i += ∂p_bj x_b      ∂x_b = Σ_j ∂p_bj t_i
//! ```
//!
//! Each is the other's gradient, and both cost `k` rows for an example instead of the whole table.

use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

use crate::elementwise::{LANES, for_each_row, vectorized};
use crate::memory;
use crate::operation::{Array, Operation, Saved, binary, compiled, computes_both};
use crate::real::Real;

/// The sum of the chosen rows of each example, weighted: `[batch, width]`.
///
/// - `table`: `[rows, width]`
/// - `ids`: `[batch, k]`, the numbers of rows
/// - `weights`: `[batch, k]`
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use nabla_kernels::selected_rows::weighted_rows;
///
/// let device = Device::flex();
/// let table = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]], &device);
/// let ids = Tensor::<2, Int>::from_ints([[2, 0]], &device);
/// let weights = Tensor::<2>::from_floats([[0.1, 2.0]], &device);
/// let y: Vec<f32> = weighted_rows(table, ids, weights).into_data().iter().collect();
/// assert_eq!(y, [2.5, 0.5]);
/// ```
///
/// # Panics
/// Like Burn's `select`, if a number isn't that of a row; and if `ids` and `weights` differ in shape.
pub fn weighted_rows(table: Tensor<2>, ids: Tensor<2, Int>, weights: Tensor<2>) -> Tensor<2> {
    let ([count, width], [batch, chosen]) = (table.dims(), ids.dims());
    assert_eq!(ids.dims(), weights.dims(), "a weight for each chosen row");
    if let Some(ids) = known(&table, &weights, &ids) {
        let choice = Choice {
            ids,
            chosen,
            count,
            width,
        };
        return binary(Weighted(choice), table, weights);
    }
    let rows = table.select(0, ids.flatten::<1>(0, 1));
    let rows: Tensor<3> = rows.reshape([batch, chosen, width]);
    (rows * weights.unsqueeze_dim(2))
        .sum_dim(1)
        .reshape([batch, width])
}

/// The products of each example with its chosen rows: `[batch, k]`.
///
/// - `table`: `[rows, width]`
/// - `ids`: `[batch, k]`, the numbers of rows
/// - `x`: `[batch, width]`
///
/// # Panics
/// Like Burn's `select`, if a number isn't that of a row; and if `ids` and `x` differ in their examples, or `table` and
/// `x` in their width.
pub fn row_products(table: Tensor<2>, ids: Tensor<2, Int>, x: Tensor<2>) -> Tensor<2> {
    let ([count, width], [batch, chosen]) = (table.dims(), ids.dims());
    assert_eq!(x.dims(), [batch, width], "an example for each choice");
    if let Some(ids) = known(&table, &x, &ids) {
        let choice = Choice {
            ids,
            chosen,
            count,
            width,
        };
        return binary(Products(choice), table, x);
    }
    let rows = table.select(0, ids.flatten::<1>(0, 1));
    let rows: Tensor<3> = rows.reshape([batch, chosen, width]);
    (rows * x.unsqueeze_dim(1))
        .sum_dim(2)
        .reshape([batch, chosen])
}

/// The numbers, if the kernels compute with them.
fn known(table: &Tensor<2>, other: &Tensor<2>, ids: &Tensor<2, Int>) -> Option<Arc<Vec<usize>>> {
    let [count, width] = table.dims();
    if !computes_both(table, other) || width == 0 || ids.shape().num_elements() == 0 {
        return None;
    }
    let ids: Vec<i64> = ids.to_data().iter().collect();
    let ids = ids.into_iter().map(|id| usize::try_from(id).ok());
    let ids: Option<Vec<usize>> = ids.map(|id| id.filter(|&id| id < count)).collect();
    ids.map(Arc::new)
}

/// Which rows each example has chosen.
#[derive(Clone, Debug)]
struct Choice {
    ids: Arc<Vec<usize>>,
    chosen: usize,
    count: usize,
    width: usize,
}

impl Choice {
    /// `y_b = Σ_j w_bj t_i(b,j)`.
    fn weighted<F: Real>(&self, table: &[F], weights: &[F]) -> Array<F> {
        let batch = self.ids.len() / self.chosen;
        let mut y = memory::zeros(batch * self.width);
        for_each_row(&mut y, self.width, |example, y| {
            let own = example * self.chosen..(example + 1) * self.chosen;
            for (&id, &weight) in self.ids[own.clone()].iter().zip(&weights[own]) {
                add_scaled(y, &table[id * self.width..][..self.width], weight);
            }
        });
        Array::new(y, &[batch, self.width])
    }

    /// `p_bj = ⟨t_i(b,j), x_b⟩`.
    fn products<F: Real>(&self, table: &[F], x: &[F]) -> Array<F> {
        let batch = self.ids.len() / self.chosen;
        let mut p = memory::room(batch * self.chosen);
        for_each_row(&mut p, self.chosen, |example, p| {
            let x = &x[example * self.width..][..self.width];
            let ids = &self.ids[example * self.chosen..];
            for (p, &id) in p.iter_mut().zip(ids) {
                *p = product(&table[id * self.width..][..self.width], x);
            }
        });
        Array::new(p, &[batch, self.chosen])
    }

    /// `∂t_i = Σ w_bj y_b` over all places `b, j` at which row `i` was chosen, in their order.
    fn outer<F: Real>(&self, weights: &[F], y: &[F]) -> Array<F> {
        let mut starts = vec![0; self.count + 1];
        for &id in self.ids.iter() {
            starts[id + 1] += 1;
        }
        for id in 0..self.count {
            starts[id + 1] += starts[id];
        }
        let mut next = starts.clone();
        let mut places = vec![0; self.ids.len()];
        for (place, &id) in self.ids.iter().enumerate() {
            places[next[id]] = place;
            next[id] += 1;
        }
        let mut dt = memory::zeros(self.count * self.width);
        dt.par_chunks_mut(self.width)
            .enumerate()
            .for_each(|(id, dt)| {
                for &place in &places[starts[id]..starts[id + 1]] {
                    let y = &y[place / self.chosen * self.width..][..self.width];
                    add_scaled(dt, y, weights[place]);
                }
            });
        Array::new(dt, &[self.count, self.width])
    }
}

/// `y ← y + scale x`.
fn add_scaled<F: Real>(y: &mut [F], x: &[F], scale: F) {
    vectorized::<F, _>(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y += scale * x;
            }
        },
    );
}

/// `⟨a, b⟩`, in a fixed order.
fn product<F: Real>(a: &[F], b: &[F]) -> F {
    vectorized::<F, _>(
        #[inline(always)]
        || {
            let mut sums = [F::ZERO; LANES];
            let (a, rest_a) = a.as_chunks::<LANES>();
            let (b, rest_b) = b.as_chunks::<LANES>();
            for (a, b) in a.iter().zip(b) {
                for lane in 0..LANES {
                    sums[lane] += a[lane] * b[lane];
                }
            }
            for ((sum, &a), &b) in sums.iter_mut().zip(rest_a).zip(rest_b) {
                *sum += a * b;
            }
            sums.iter().copied().sum()
        },
    )
}

/// [`weighted_rows`] of a table and weights.
#[derive(Clone, Debug)]
struct Weighted(Choice);

compiled!(Weighted: 2);

impl Operation<2> for Weighted {
    type Kept = ();

    fn forward<F: Real>(&self, [table, weights]: [Array<F>; 2], _: bool) -> (Array<F>, ()) {
        (self.0.weighted(table.values(), weights.values()), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 2>) -> [Option<Array<F>>; 2] {
        let [Some(table), Some(weights)] = &saved.inputs else {
            return [None, None];
        };
        let [by_table, by_weights] = saved.wanted;
        let grad = saved.grad.values();
        [
            by_table.then(|| self.0.outer(weights.values(), grad)),
            by_weights.then(|| self.0.products(table.values(), grad)),
        ]
    }
}

/// [`row_products`] of a table and examples.
#[derive(Clone, Debug)]
struct Products(Choice);

compiled!(Products: 2);

impl Operation<2> for Products {
    type Kept = ();

    fn forward<F: Real>(&self, [table, x]: [Array<F>; 2], _: bool) -> (Array<F>, ()) {
        (self.0.products(table.values(), x.values()), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 2>) -> [Option<Array<F>>; 2] {
        let [Some(table), Some(x)] = &saved.inputs else {
            return [None, None];
        };
        let [by_table, by_x] = saved.wanted;
        let grad = saved.grad.values();
        [
            by_table.then(|| self.0.outer(grad, x.values())),
            by_x.then(|| self.0.weighted(table.values(), grad)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Distribution, Tolerance};

    /// The rows as Burn has them.
    fn rows(table: &Tensor<2>, ids: &Tensor<2, Int>) -> Tensor<3> {
        let ([batch, chosen], [_, width]) = (ids.dims(), table.dims());
        let rows = table.clone().select(0, ids.clone().flatten::<1>(0, 1));
        rows.reshape([batch, chosen, width])
    }

    #[test]
    fn values_and_gradients_are_burns() {
        let device = Device::flex().autodiff();
        let options = (&device, DType::F64);
        for (count, width, [batch, chosen]) in [(1, 1, [1, 1]), (40, 37, [9, 5]), (7, 16, [3, 7])] {
            let random = |shape: [usize; 2]| {
                Tensor::<2>::random(shape, Distribution::Default, options).require_grad()
            };
            let (table, weights) = (random([count, width]), random([batch, chosen]));
            let x = random([batch, width]);
            let ids = (0..batch * chosen).map(|i| (i * i + 3 * i) as i32 % count as i32);
            let ids = Tensor::<1, Int>::from_ints(&ids.collect::<Vec<i32>>()[..], &device);
            let ids: Tensor<2, Int> = ids.reshape([batch, chosen]);
            let of = |table: &Tensor<2>| rows(table, &ids);
            let sums = weighted_rows(table.clone(), ids.clone(), weights.clone());
            let burns_sums: Tensor<2> = (of(&table) * weights.clone().unsqueeze_dim(2))
                .sum_dim(1)
                .squeeze_dim(1);
            let products = row_products(table.clone(), ids.clone(), x.clone());
            let burns_products: Tensor<2> = (of(&table) * x.clone().unsqueeze_dim(1))
                .sum_dim(2)
                .squeeze_dim(2);
            for (found, burns) in [(sums, burns_sums), (products, burns_products)] {
                let near = Tolerance::<f64>::absolute(1e-12);
                found.to_data().assert_approx_eq(&burns.to_data(), near);
                let upstream = Tensor::random(found.dims(), Distribution::Default, options);
                let ours = (found * upstream.clone()).sum().backward();
                let theirs = (burns * upstream).sum().backward();
                for leaf in [&table, &weights, &x] {
                    match (leaf.grad(&ours), leaf.grad(&theirs)) {
                        (Some(a), Some(b)) => a.into_data().assert_approx_eq(&b.into_data(), near),
                        (a, b) => assert_eq!(a.is_some(), b.is_some()),
                    }
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_threads() {
        let device = Device::flex().autodiff();
        let found = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let values = |count: usize| -> Vec<f32> {
                    (0..count).map(|i| (i as f32 * 0.37).sin()).collect()
                };
                let matrix = |rows: usize, columns: usize| {
                    let flat = Tensor::<1>::from_floats(&values(rows * columns)[..], &device);
                    flat.reshape([rows, columns]).require_grad()
                };
                let (table, x) = (matrix(50, 33), matrix(64, 33));
                let ids: Vec<i32> = (0..64 * 8).map(|i| (i * 7) % 50).collect();
                let ids: Tensor<2, Int> =
                    Tensor::<1, Int>::from_ints(&ids[..], &device).reshape([64, 8]);
                let products = row_products(table.clone(), ids.clone(), x.clone());
                let y = weighted_rows(table.clone(), ids, products);
                let grads = y.clone().square().sum().backward();
                let [dt, dx] = [&table, &x].map(|leaf| leaf.grad(&grads).unwrap().into_data());
                (y.into_data(), dt, dx)
            })
        };
        let one = found(1);
        for threads in [2, 3, 5] {
            assert_eq!(one, found(threads));
        }
    }
}
