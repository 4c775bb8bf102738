//! What is kept of a layer: what the gradients of its examples follow from, or these gradients.

use crate::product::matmul;
use burn::backend::autodiff::NodeId;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::DType;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::Layer;
use crate::elementwise::{sums, vectorized};
use crate::memory;
use crate::operation::{Applied, Array, Operation, narrowed};
use crate::real::Real;

impl<O: Operation<N>, const N: usize> Layer for Applied<O, N> {
    fn nodes(&self) -> Vec<NodeId> {
        self.parameters.iter().flatten().copied().collect()
    }

    fn rows(&self) -> usize {
        self.grad.shape().first().copied().unwrap_or(0)
    }

    fn squared_norms(&self) -> Option<Vec<Vec<f64>>> {
        match self.is_wide() {
            true => self.squared_norms_in::<f64>(),
            false => self.squared_norms_in::<f32>(),
        }
    }

    fn weighted(&self, weights: &[&[f64]]) -> Vec<FloatTensor<Flex>> {
        match self.is_wide() {
            true => self.weighted_in::<f64>(weights),
            false => self.weighted_in::<f32>(weights),
        }
    }

    fn gradients(&self, node: NodeId) -> Option<Vec<f64>> {
        match self.is_wide() {
            true => self.gradients_in::<f64>(node),
            false => self.gradients_in::<f32>(node),
        }
    }
}

impl<O: Operation<N>, const N: usize> Applied<O, N> {
    /// Which inputs are asked for.
    pub(super) fn wanted(&self) -> [bool; N] {
        self.parameters.map(|node| node.is_some())
    }

    /// The gradients of each example by the parameters that are `wanted`.
    pub(super) fn remembered<F: Real>(&self, wanted: [bool; N]) -> Option<Vec<Box<dyn Layer>>> {
        let batch = self.batch::<F>(self.rows());
        let rows = self
            .operation
            .for_each_example(&batch, wanted, |gradients| {
                gradients.map(|gradient| gradient.map_or_else(Vec::new, <[F]>::to_vec))
            })?;
        let mut of_inputs = [const { Vec::new() }; N];
        for rows in rows {
            for (of_input, row) in of_inputs.iter_mut().zip(rows) {
                of_input.push(row);
            }
        }
        let parameters = self.parameters.into_iter().zip(self.dtypes());
        let found = parameters.zip(of_inputs).zip(wanted);
        let found = found.filter_map(|(((node, dtype), rows), wanted)| {
            let node = node.filter(|_| wanted)?;
            Some(Box::new(Remembered { node, dtype, rows }) as Box<dyn Layer>)
        });
        Some(found.collect())
    }

    fn squared_norms_in<F: Real>(&self) -> Option<Vec<Vec<f64>>> {
        let batch = self.batch::<F>(self.rows());
        let mut wanted = self.wanted();
        let mut known: [Option<Vec<f64>>; N] = [const { None }; N];
        for (input, known) in known.iter_mut().enumerate() {
            if wanted[input] {
                *known = self.operation.squared_norms(&batch, input);
                wanted[input] = known.is_none();
            }
        }
        if wanted.contains(&true) {
            let each = self
                .operation
                .for_each_example(&batch, wanted, |gradients| {
                    gradients.map(|gradient| gradient.map_or(0.0, square))
                })?;
            for (input, known) in known.iter_mut().enumerate() {
                if wanted[input] {
                    *known = Some(each.iter().map(|norms| norms[input]).collect());
                }
            }
        }
        Some(known.into_iter().flatten().collect())
    }

    fn weighted_in<F: Real>(&self, weights: &[&[f64]]) -> Vec<FloatTensor<Flex>> {
        let batch = self.batch::<F>(self.rows());
        let mut given = weights.iter();
        let of_inputs: [&[f64]; N] = self
            .parameters
            .map(|node| node.and_then(|_| given.next()).copied().unwrap_or_default());
        let mut found: [Option<FloatTensor<Flex>>; N] = [const { None }; N];
        for input in 0..N {
            // Those with the same weights together.
            let mut wanted = of_inputs.map(|weights| weights == of_inputs[input]);
            for (wanted, found) in wanted.iter_mut().zip(&found) {
                *wanted &= found.is_none();
            }
            if of_inputs[input].is_empty() || !wanted[input] {
                continue;
            }
            let grad = scaled(&batch.grad, of_inputs[input]);
            let gradients = self.of_all(&batch, grad, wanted).into_iter().zip(wanted);
            for (found, (gradient, wanted)) in found.iter_mut().zip(gradients) {
                if wanted {
                    *found = gradient;
                }
            }
        }
        let parameters = found.into_iter().zip(&self.parameters);
        parameters
            .filter_map(|(gradient, node)| node.and(gradient))
            .collect()
    }

    fn gradients_in<F: Real>(&self, node: NodeId) -> Option<Vec<f64>> {
        let batch = self.batch::<F>(self.rows());
        let wanted = self.parameters.map(|own| own == Some(node));
        let rows = self
            .operation
            .for_each_example(&batch, wanted, |gradients| {
                // A layer may have one parameter in several places.
                let mut sum: Vec<f64> = Vec::new();
                for gradient in gradients.into_iter().zip(wanted) {
                    if let (Some(gradient), true) = gradient {
                        sum.resize(gradient.len(), 0.0);
                        for (sum, value) in sum.iter_mut().zip(gradient) {
                            *sum += value.wide();
                        }
                    }
                }
                sum
            });
        Some(rows?.concat())
    }
}

/// The gradients of each example by a parameter.
struct Remembered<F> {
    node: NodeId,
    dtype: DType,
    rows: Vec<Vec<F>>,
}

impl<F: Real> Layer for Remembered<F> {
    fn nodes(&self) -> Vec<NodeId> {
        vec![self.node]
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn squared_norms(&self) -> Option<Vec<Vec<f64>>> {
        let norms = self.rows.par_iter().map(|row| square(row)).collect();
        Some(vec![norms])
    }

    fn weighted(&self, weights: &[&[f64]]) -> Vec<FloatTensor<Flex>> {
        /// The numbers that stay in the cache while all rows are added.
        const PART: usize = 1 << 12;
        let weights: Vec<F> = weights
            .iter()
            .copied()
            .flatten()
            .map(|&w| F::of(w))
            .collect();
        let mut sum: Vec<F> = memory::zeros(self.rows.first().map_or(0, Vec::len));
        sum.par_chunks_mut(PART)
            .enumerate()
            .for_each(|(part, sum)| {
                vectorized::<F, _>(
                    #[inline(always)]
                    || {
                        for (row, &weight) in self.rows.iter().zip(&weights) {
                            let row = &row[part * PART..][..sum.len()];
                            for (sum, &value) in sum.iter_mut().zip(row) {
                                *sum += value * weight;
                            }
                        }
                    },
                );
            });
        let numbers = sum.len();
        vec![narrowed(Array::new(sum, &[numbers]), self.dtype)]
    }

    fn gradients(&self, _: NodeId) -> Option<Vec<f64>> {
        let values = self.rows.iter().flatten();
        Some(values.map(|value| value.wide()).collect())
    }
}

/// Whether the Gram matrices of a product's factors take less arithmetic than the product.
///
/// - `positions`: of an example
pub(crate) fn is_tall([inputs, outputs]: [usize; 2], positions: usize) -> bool {
    positions == 1 || 2 * positions * (inputs + outputs) < inputs * outputs
}

/// `‖xᵀ g‖²` by the Gram matrices of the factors.
///
/// - `x`: `[positions, inputs]`; `g`: `[positions, outputs]`
pub(crate) fn product_square<F: Real>(x: MatRef<'_, F>, g: MatRef<'_, F>) -> f64 {
    let positions = x.nrows();
    let gram = |x: MatRef<'_, F>| {
        let mut gram = vec![F::ZERO; positions * positions];
        let to = MatMut::from_row_major_slice_mut(&mut gram, positions, positions);
        matmul(to, Accum::Replace, x, x.transpose(), F::ONE, Par::Seq);
        gram
    };
    let (of_x, of_g) = (gram(x), gram(g));
    let (mut sum, mut size) = (0.0, 0.0);
    for (x, g) in of_x.iter().zip(&of_g) {
        let term = x.wide() * g.wide();
        sum += term;
        size += term.abs();
    }
    // Terms that cancel leave their rounding errors: a norm that is too small would not be clipped. Nor is NaN 0.
    if sum > 1e-4 * size || size == 0.0 {
        return sum;
    }
    let mut product = vec![F::ZERO; x.ncols() * g.ncols()];
    let to = MatMut::from_row_major_slice_mut(&mut product, x.ncols(), g.ncols());
    matmul(to, Accum::Replace, x.transpose(), g, F::ONE, Par::Seq);
    square(&product)
}

/// `Σ x²`.
pub(crate) fn square<F: Real>(x: &[F]) -> f64 {
    vectorized::<F, _>(
        #[inline(always)]
        || {
            let [sum] = sums(
                [x],
                #[inline(always)]
                |[x]| [x * x],
            );
            sum
        },
    )
}

/// The gradients by the output, each example's times its weight.
fn scaled<F: Real>(grad: &Array<F>, weights: &[f64]) -> Array<F> {
    let values = grad.values();
    let width = values.len() / weights.len().max(1);
    let mut scaled = memory::room(values.len());
    if width > 0 {
        scaled
            .par_chunks_mut(width)
            .zip(values.par_chunks(width))
            .zip(weights.par_iter())
            .for_each(|((to, from), &weight)| {
                let weight = F::of(weight);
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = from * weight;
                }
            });
    }
    Array::new(scaled, &grad.shape())
}
