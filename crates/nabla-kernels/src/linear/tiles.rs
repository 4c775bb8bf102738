//! Linear layers in tiles: what a layer is followed by is computed while a tile is in the cache, and weights of 16
//! bits are widened part by part where they are multiplied.

use burn::nn::Linear;
use burn::tensor::{DType, Tensor};
use faer::linalg::matmul::matmul;
use faer::reborrow::ReborrowMut;
use faer::{Accum, MatMut, MatRef, Par};
use nabla_grad::elementwise::Dense;

use crate::activation::gelu_of;
use crate::elementwise::vectorized;
use crate::half_precision::{Numbers, result};
use crate::product::for_each_tile;

/// The rows and outputs of a tile: as many rows as keep its part of the input in the cache, and few enough outputs that
/// all threads have some.
const TILE: [usize; 2] = [512, 64];

/// A linear layer with numbers of 16 bits; none if autodiff tracks them.
pub(super) fn half_linear<const D: usize>(linear: &Linear, x: &Tensor<D>) -> Option<Tensor<D>> {
    DenseLayer::take(linear, x.clone()).map(|layer| layer.apply())
}

/// `a · gelu(b)` with `[a, b] = x Wᵀ + bias`; none if autodiff tracks them.
pub(super) fn gated_linear<const D: usize>(linear: &Linear, x: &Tensor<D>) -> Option<Tensor<D>> {
    DenseLayer::take(linear, x.clone()).map(|layer| layer.apply_gated())
}

/// A linear layer and its input.
struct DenseLayer<const D: usize> {
    /// `[rows, input]`
    x: Dense,
    /// `[output, input]`
    weight: Numbers,
    /// `[output]`
    bias: Option<Dense>,
    input: usize,
    /// The shape of `x`.
    shape: [usize; D],
    dtype: DType,
}

impl<const D: usize> DenseLayer<D> {
    /// `None` if Burn's operations must do it.
    fn take(linear: &Linear, x: Tensor<D>) -> Option<Self> {
        let (shape, dtype) = (x.dims(), x.dtype());
        let bias = match &linear.bias {
            Some(bias) => Some(Numbers::take(bias.val())?.into_dense()),
            None => None,
        };
        Some(Self {
            x: Numbers::take(x)?.into_dense(),
            // In the stored layout: one row per output.
            weight: Numbers::take(linear.weight.val().transpose())?,
            bias,
            input: shape[D - 1],
            shape,
            dtype,
        })
    }

    /// Some outputs of some rows: `tile = x Wᵀ + bias`.
    ///
    /// - `row`: the first row of `x`; `output`: the first output of the layer
    /// - `place`: scratch space for weights that are stored in 16 bits
    fn multiply(&self, mut tile: MatMut<'_, f32>, row: usize, output: usize, place: &mut Vec<f32>) {
        let (rows, outputs) = (tile.nrows(), tile.ncols());
        let begin = match &self.bias {
            Some(bias) => {
                for i in 0..rows {
                    row_of(&mut tile, i).copy_from_slice(&bias.values()[output..output + outputs]);
                }
                Accum::Add
            }
            None => Accum::Replace,
        };
        let part = |first: usize, count: usize| first * self.input..(first + count) * self.input;
        let x = &self.x.values()[part(row, rows)];
        let weight = self.weight.read(part(output, outputs), place);
        matmul(
            tile,
            begin,
            MatRef::from_row_major_slice(x, rows, self.input),
            MatRef::from_row_major_slice(weight, outputs, self.input).transpose(),
            1.0,
            Par::Seq,
        );
    }

    fn apply(&self) -> Tensor<D> {
        let n = self.outputs();
        let (mut out, shape) = self.place(n);
        for_each_tile(out.values_mut(), n, TILE, |row, column, tile, place| {
            self.multiply(tile, row, column, place);
        });
        result(out, shape, self.dtype)
    }

    fn apply_gated(&self) -> Tensor<D> {
        let n = self.outputs() / 2;
        let (mut out, shape) = self.place(n);
        let compute = |row, column, mut tile: MatMut<'_, f32>, scratch: &mut [Vec<f32>; 2]| {
            let (rows, columns) = (tile.nrows(), tile.ncols());
            let [gates, place] = scratch;
            self.multiply(tile.rb_mut(), row, column, place);
            gates.resize(rows * columns, 0.0);
            let gate = MatMut::from_row_major_slice_mut(gates, rows, columns);
            self.multiply(gate, row, n + column, place);
            vectorized::<f32, _>(
                #[inline(always)]
                || {
                    for (i, gates) in gates.chunks_exact(columns).enumerate() {
                        for (v, &g) in row_of(&mut tile, i).iter_mut().zip(gates) {
                            *v *= gelu_of(g);
                        }
                    }
                },
            );
        };
        for_each_tile(out.values_mut(), n, TILE, compute);
        result(out, shape, self.dtype)
    }

    /// For a result with this number of channels; also returns its shape.
    fn place(&self, channels: usize) -> (Dense, [usize; D]) {
        let mut shape = self.shape;
        shape[D - 1] = channels;
        (Dense::zeros(&shape), shape)
    }

    fn outputs(&self) -> usize {
        self.weight.len() / self.input.max(1)
    }
}

/// A row of a matrix with contiguous rows.
fn row_of<'a>(tile: &'a mut MatMut<'_, f32>, row: usize) -> &'a mut [f32] {
    let tile = tile.rb_mut().try_as_row_major_mut();
    tile.map_or(&mut [], |tile| tile.row_mut(row).as_slice_mut())
}
