//! Linear layers in tiles: what a layer is followed by is computed while a tile is in the cache, and weights of 16
//! bits are widened part by part where they are multiplied.

use crate::product::matmul;
use burn::nn::Linear;
use burn::tensor::{DType, Tensor};
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
    DenseLayer::take(linear, x.clone()).map(|layer| {
        let out = layer.apply();
        result(out, wide(x, layer.outputs()), layer.dtype)
    })
}

/// `a · gelu(b)` with `[a, b] = x Wᵀ + bias`; none if autodiff tracks them.
pub(super) fn gated_linear<const D: usize>(linear: &Linear, x: &Tensor<D>) -> Option<Tensor<D>> {
    DenseLayer::take(linear, x.clone()).map(|layer| {
        let out = layer.apply_gated();
        result(out, wide(x, layer.outputs() / 2), layer.dtype)
    })
}

/// The shape of `x` with another number of channels.
fn wide<const D: usize>(x: &Tensor<D>, channels: usize) -> [usize; D] {
    let mut shape = x.dims();
    shape[D - 1] = channels;
    shape
}

/// A linear layer and its input. Without the rank of the input, so that the loops are compiled here only.
struct DenseLayer {
    /// `[rows, input]`
    x: Dense,
    /// `[output, input]`
    weight: Numbers,
    /// `[output]`
    bias: Option<Dense>,
    input: usize,
    rows: usize,
    dtype: DType,
}

impl DenseLayer {
    /// `None` if Burn's operations must do it.
    fn take<const D: usize>(linear: &Linear, x: Tensor<D>) -> Option<Self> {
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
            rows: shape[..D - 1].iter().product(),
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

    /// `[rows, output]`
    fn apply(&self) -> Dense {
        let n = self.outputs();
        let mut out = Dense::zeros(&[self.rows, n]);
        for_each_tile(out.values_mut(), n, TILE, |row, column, tile, place| {
            self.multiply(tile, row, column, place);
        });
        out
    }

    /// `[rows, output/2]`
    fn apply_gated(&self) -> Dense {
        let n = self.outputs() / 2;
        let mut out = Dense::zeros(&[self.rows, n]);
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
        out
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
