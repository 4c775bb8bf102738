//! Sums of multiples of matrices, and errors against tolerances, in one pass each: what a solver of differential equations
//! does between two evaluations.
//!
//! ```text
//! y_r = Σ_j c_jr x_jr                                      of rows r, with factors for all rows or for each
//! s_r = Σ_i (e_ri / (a + b max(|u_ri|, |v_ri|)))²          the squares of scaled errors
//! ```
//!
//! They have no gradients: a tensor that is tracked, or lives elsewhere, is computed by Burn's own operations.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

use crate::elementwise::{CHUNK, sums, vectorized};
use crate::memory;
use crate::operation::Array;
use crate::real::Real;

/// A matrix and its factors.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// One factor for all rows, or one for each.
    pub factors: &'a [f64],
    /// `[rows, width]`
    pub matrix: &'a Tensor<2>,
}

/// The sum of the terms, `[rows, width]`. A row with the factor 0 adds nothing, even if its numbers are not finite.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_kernels::row_combination::{Term, row_combination};
///
/// let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &Device::flex());
/// let terms = [Term { factors: &[2.0], matrix: &x }, Term { factors: &[0.0, -1.0], matrix: &x }];
/// let sum: Vec<f32> = row_combination(&terms).into_data().iter().collect();
/// assert_eq!(sum, [2.0, 4.0, 3.0, 4.0]);
/// ```
///
/// # Panics
/// If there are no terms, the matrices differ in shape or number type, or a term has another number of factors.
pub fn row_combination(terms: &[Term<'_>]) -> Tensor<2> {
    assert!(!terms.is_empty(), "a sum needs terms");
    let dims @ [rows, _] = terms[0].matrix.dims();
    let dtype = terms[0].matrix.dtype();
    for term in terms {
        let count = term.factors.len();
        assert_eq!(term.matrix.dims(), dims, "matrices of one shape");
        assert!(count == 1 || count == rows, "a factor for each row, or one");
    }
    let arrays = terms.iter().map(|term| values_of(term.matrix, dtype));
    match arrays.collect::<Option<Vec<_>>>() {
        Some(arrays) => match dtype {
            DType::F64 => Tensor::from_primitive::<Flex>(summed::<f64>(terms, arrays, dims)),
            _ => Tensor::from_primitive::<Flex>(summed::<f32>(terms, arrays, dims)),
        },
        None => {
            let mut each = terms.iter().map(|term| match term.factors {
                [factor] => term.matrix.clone() * *factor,
                factors => {
                    let data = TensorData::new(factors.to_vec(), [rows, 1]);
                    let options = (&term.matrix.device(), dtype);
                    let factors = Tensor::<2>::from_data(data, options).expand(dims);
                    let without = factors.clone().equal_elem(0.0);
                    (term.matrix.clone() * factors).mask_fill(without, 0.0)
                }
            });
            let first = each.next().unwrap_or_else(|| terms[0].matrix.clone());
            each.fold(first, |sum, term| sum + term)
        }
    }
}

/// `Σ_i (e_ri / (absolute + relative max(|u_ri|, |v_ri|)))²` of each row, over its first columns.
///
/// - `error`, `before`, `after`: `e`, `u` and `v`, `[rows, width]`
/// - `columns`: how many, at most the width
///
/// # Panics
/// If the matrices differ in shape or number type.
pub fn scaled_squares(
    error: &Tensor<2>,
    [before, after]: [&Tensor<2>; 2],
    [absolute, relative]: [f64; 2],
    columns: usize,
) -> Vec<f64> {
    let (dims, dtype) = (error.dims(), error.dtype());
    let matrices = [error, before, after];
    assert!(
        matrices.iter().all(|matrix| matrix.dims() == dims),
        "matrices of one shape"
    );
    let arrays = matrices.map(|matrix| values_of(matrix, dtype));
    let columns = columns.min(dims[1]);
    match arrays {
        [Some(error), Some(before), Some(after)] => {
            let arrays = [error, before, after];
            match dtype {
                DType::F64 => squares::<f64>(arrays, [absolute, relative], dims, columns),
                _ => squares::<f32>(arrays, [absolute, relative], dims, columns),
            }
        }
        _ => {
            let largest = before.clone().abs().max_pair(after.clone().abs());
            let scaled = error.clone() / (largest * relative + absolute);
            let scaled = scaled.slice([0..dims[0], 0..columns]).cast(DType::F64);
            let sums = scaled.square().sum_dim(1).into_data();
            sums.iter::<f64>().collect()
        }
    }
}

/// The array, if the kernels compute with it.
fn values_of(tensor: &Tensor<2>, dtype: DType) -> Option<FloatTensor<Flex>> {
    let fits = matches!(dtype, DType::F32 | DType::F64)
        && tensor.dtype() == dtype
        && !tensor.is_autodiff()
        && tensor.device() == Device::flex();
    fits.then(|| tensor.clone().try_into_primitive::<Flex>().ok())
        .flatten()
}

fn summed<F: Real>(
    terms: &[Term<'_>],
    arrays: Vec<FloatTensor<Flex>>,
    [rows, width]: [usize; 2],
) -> FloatTensor<Flex> {
    let arrays: Vec<Array<F>> = arrays
        .into_iter()
        .map(|array| Array::take(array, false))
        .collect();
    let arrays: Vec<&[F]> = arrays.iter().map(Array::values).collect();
    let factors: Vec<&[f64]> = terms.iter().map(|term| term.factors).collect();
    let alike = factors.iter().all(|factors| factors.len() == 1);
    // One long row, if all rows have the same factors.
    let (height, length) = if alike {
        (1, rows * width)
    } else {
        (rows, width)
    };
    let mut y = memory::room(rows * width);
    let part = |start: usize, y: &mut [F]| {
        let mut at = start;
        let mut rest = y;
        while !rest.is_empty() {
            let row = at / length;
            let (own, after) = rest.split_at_mut(rest.len().min((row + 1) * length - at));
            for (term, (x, factors)) in arrays.iter().zip(&factors).enumerate() {
                let factor = F::of(if factors.len() == 1 {
                    factors[0]
                } else {
                    factors[row]
                });
                let x = &x[at..at + own.len()];
                vectorized::<F, _>(
                    #[inline(always)]
                    || match term {
                        0 if factor == F::ONE => own.copy_from_slice(x),
                        0 if factor == F::ZERO => own.fill(F::ZERO),
                        0 => own.iter_mut().zip(x).for_each(|(y, &x)| *y = factor * x),
                        _ if factor == F::ZERO => (),
                        _ => own.iter_mut().zip(x).for_each(|(y, &x)| *y += factor * x),
                    },
                );
            }
            at += own.len();
            rest = after;
        }
    };
    debug_assert!(height * length == rows * width);
    // Pieces that stay in the nearest cache while all terms are added.
    const PIECE: usize = 1 << 11;
    let chunk = |(at, y): (usize, &mut [F])| {
        for (piece, y) in y.chunks_mut(PIECE).enumerate() {
            part(at * CHUNK + piece * PIECE, y);
        }
    };
    match y.len() <= CHUNK {
        true => chunk((0, &mut y)),
        false => y.par_chunks_mut(CHUNK).enumerate().for_each(chunk),
    }
    Array::new(y, &[rows, width]).tensor
}

fn squares<F: Real>(
    arrays: [FloatTensor<Flex>; 3],
    [absolute, relative]: [f64; 2],
    [rows, width]: [usize; 2],
    columns: usize,
) -> Vec<f64> {
    let arrays = arrays.map(|array| Array::<F>::take(array, false));
    let arrays = arrays.each_ref().map(Array::values);
    let (absolute, relative) = (F::of(absolute), F::of(relative));
    let of = |from: usize, to: usize| {
        let parts = arrays.map(|values| &values[from..to]);
        vectorized::<F, _>(
            #[inline(always)]
            || {
                let [sum] = sums(
                    parts,
                    #[inline(always)]
                    |[e, u, v]| {
                        let [u, v] = [u, v].map(
                            #[inline(always)]
                            |x| if x < F::ZERO { -x } else { x },
                        );
                        let scaled = e / (absolute + relative * if u < v { v } else { u });
                        [scaled * scaled]
                    },
                );
                sum
            },
        )
    };
    // Long rows in parts, so that the order of the sums doesn't depend on the threads.
    let parts = columns.div_ceil(CHUNK).max(1);
    let sum = |part: usize| {
        let start = part / parts * width;
        let from = (part % parts * CHUNK).min(columns);
        of(start + from, start + (from + CHUNK).min(columns))
    };
    let all: Vec<f64> = match rows * columns <= CHUNK {
        true => (0..rows * parts).map(sum).collect(),
        false => (0..rows * parts).into_par_iter().map(sum).collect(),
    };
    all.chunks_exact(parts)
        .map(|parts| parts.iter().sum())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    fn random(shape: [usize; 2], dtype: DType) -> Tensor<2> {
        Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex()).cast(dtype)
    }

    /// A tensor with autodiff is computed by Burn.
    fn elsewhere(x: &Tensor<2>) -> Tensor<2> {
        x.clone().autodiff()
    }

    #[test]
    fn sums_are_burns() {
        for dtype in [DType::F32, DType::F64] {
            let near = Tolerance::<f64>::relative(1e-5).set_absolute(1e-5);
            for shape in [[1, 1], [3, 2], [700, 3], [5, 20_011]] {
                let x: Vec<_> = (0..4).map(|_| random(shape, dtype)).collect();
                let rows: Vec<f64> = (0..shape[0]).map(|row| row as f64 - 1.5).collect();
                let own: [&[f64]; 4] = [&[1.0], &[0.3], &rows, &[-2.0]];
                let alike: [&[f64]; 4] = [&[0.25]; 4];
                for own in [own, alike] {
                    let of = |x: &[Tensor<2>]| {
                        let terms = x.iter().zip(own);
                        let terms: Vec<_> = terms
                            .map(|(matrix, factors)| Term { factors, matrix })
                            .collect();
                        row_combination(&terms).inner().into_data()
                    };
                    let others: Vec<_> = x.iter().map(elsewhere).collect();
                    of(&x).assert_approx_eq(&of(&others), near);
                }
            }
        }
    }

    #[test]
    fn squares_are_burns() {
        for dtype in [DType::F32, DType::F64] {
            for (shape, columns) in [
                ([1, 1], 1),
                ([3, 2], 1),
                ([700, 3], 3),
                ([2, 40_000], 39_000),
            ] {
                let [e, u, v] = [(); 3].map(|()| random(shape, dtype));
                let tolerances = [1e-2, 1e-1];
                let found = scaled_squares(&e, [&u, &v], tolerances, columns);
                let [e, u, v] = [&e, &u, &v].map(elsewhere);
                let expected = scaled_squares(&e, [&u, &v], tolerances, columns);
                assert_eq!(found.len(), shape[0]);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found / expected - 1.0).abs() < 1e-5, "{found} {expected}");
                }
            }
        }
    }
}
