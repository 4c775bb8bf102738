//! Products of a matrix of few long rows with vectors, at the speed of the memory.
//!
//! Methods that keep a window of gradients have a matrix `G` of `m` rows and as many columns as the model has
//! parameters. They need
//!
//! ```text
//! G x,   s x + Gᵀ c
//! ```
//!
//! As matrix products, each would pass over memory for every temporary. Here each reads `G` and `x` once: the
//! columns are split into chunks, and a chunk's part of `x`, or of the sum, stays in the cache while all rows
//! are read.
//!
//! This runs on `f32`s of Burn's CPU backend `flex`; elsewhere Burn's own operations run. Results do not
//! depend on the number of threads: chunks are at fixed positions, and sums have a fixed order.

use std::array::from_fn;

use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

use crate::elementwise::Dense;

/// The number of columns that one task handles: their part of one vector fills an eighth of a typical
/// second-level cache.
const CHUNK: usize = 1 << 14;

/// The number of separate partial sums of a row. Those of `ROWS` rows fit into the vector registers even
/// without AVX-512.
const LANES: usize = 16;

/// The number of rows read together, so that the vector is loaded and stored once for all of them.
const ROWS: usize = 4;

/// Returns `G x`, `[m]`, in the precision of `G`, with the sums of long parts in `f64`.
///
/// - `rows`: `G`, `[m, d]`
/// - `x`: `[d]`
///
/// # Panics
/// If the length of `x` is not that of a row.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::long_rows::products;
///
/// let rows = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &Device::flex());
/// let x = Tensor::<1>::from_floats([1.0, -1.0], &Device::flex());
/// assert_eq!(products(&rows, &x), [-1.0, -1.0]);
/// ```
pub fn products(rows: &Tensor<2>, x: &Tensor<1>) -> Vec<f64> {
    let [m, d] = rows.dims();
    assert_eq!(x.dims(), [d], "a vector has the length of the rows");
    match (Dense::take(rows.clone()), Dense::take(x.clone())) {
        (Ok(rows), Ok(x)) => dense_products(rows.values(), x.values(), m),
        _ => {
            let product = rows.clone().matmul(x.clone().unsqueeze_dim(1)); // [m, 1]
            product.into_data().iter::<f64>().collect()
        }
    }
}

/// `s x + Gᵀ c`, `[d]`.
///
/// - `rows`: `G`, `[m, d]`
/// - `c`: `m` numbers
/// - `x`: `[d]`
///
/// # Panics
/// If `c` does not have one number for each row, or the length of `x` is not that of a row.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::long_rows::combination;
///
/// let rows = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &Device::flex());
/// let x = Tensor::<1>::from_floats([1.0, -1.0], &Device::flex());
/// let y = combination(&rows, &[1.0, -1.0], &x, 0.5);
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [-1.5, -2.5]);
/// ```
pub fn combination(rows: &Tensor<2>, c: &[f64], x: &Tensor<1>, s: f64) -> Tensor<1> {
    let [m, d] = rows.dims();
    assert_eq!(x.dims(), [d], "a vector has the length of the rows");
    assert_eq!(c.len(), m, "there is one factor per row");
    let short = |dtype| TensorData::new(c.to_vec(), [1, m]).convert_dtype(dtype);
    match (Dense::take(rows.clone()), Dense::take(x.clone())) {
        (Ok(rows), Ok(x)) => {
            let c: Vec<f32> = c.iter().map(|&c| c as f32).collect();
            let mut sum = x.zeros_like();
            dense_combination(rows.values(), &c, x.values(), s as f32, sum.values_mut());
            sum.into_tensor()
        }
        _ => {
            let dtype: DType = rows.dtype();
            let c = Tensor::<2>::from_data(short(dtype), (&rows.device(), dtype)); // [1, m]
            x.clone() * s + c.matmul(rows.clone()).squeeze_dim(0)
        }
    }
}

fn dense_products(rows: &[f32], x: &[f32], m: usize) -> Vec<f64> {
    let d = x.len();
    let arch = pulp::Arch::new();
    let parts: Vec<Vec<f32>> = x
        .par_chunks(CHUNK)
        .enumerate()
        .map(|(chunk, x)| {
            let mut sums = vec![0.0; m];
            for (block, sums) in sums.chunks_mut(ROWS).enumerate() {
                let rows = block_of(rows, d, block, m, chunk, x.len());
                let dots = arch.dispatch(Dots { rows, x });
                sums.copy_from_slice(&dots[..sums.len()]);
            }
            sums
        })
        .collect();
    (0..m)
        .map(|i| parts.iter().map(|part| f64::from(part[i])).sum())
        .collect()
}

fn dense_combination(rows: &[f32], c: &[f32], x: &[f32], s: f32, sum: &mut [f32]) {
    let (d, m) = (x.len(), c.len());
    let arch = pulp::Arch::new();
    sum.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .enumerate()
        .for_each(|(chunk, (sum, x))| {
            for (block, c) in c.chunks(ROWS).enumerate() {
                let mut factors = [0.0; ROWS];
                factors[..c.len()].copy_from_slice(c);
                arch.dispatch(Add {
                    rows: block_of(rows, d, block, m, chunk, x.len()),
                    factors,
                    first: (block == 0).then_some((x, s)),
                    sum: &mut *sum,
                });
            }
        });
}

/// The parts of a block of `m` rows of `d` numbers that are in chunk number `chunk` and are `len` numbers
/// long. The last row replaces the rows that the last block lacks.
fn block_of(
    rows: &[f32],
    d: usize,
    block: usize,
    m: usize,
    chunk: usize,
    len: usize,
) -> [&[f32]; ROWS] {
    from_fn(|i| {
        let start = (block * ROWS + i).min(m - 1) * d + chunk * CHUNK;
        &rows[start..start + len]
    })
}

/// The inner products of each of the rows with `x`.
struct Dots<'a> {
    rows: [&'a [f32]; ROWS],
    x: &'a [f32],
}

impl pulp::NullaryFnOnce for Dots<'_> {
    type Output = [f32; ROWS];

    #[inline(always)]
    fn call(self) -> Self::Output {
        let (x, x_rest) = self.x.as_chunks::<LANES>();
        let [a, b, c, d] = self.rows.map(|row| row.as_chunks::<LANES>().0);
        let [mut sa, mut sb, mut sc, mut sd] = [[0.0; LANES]; ROWS];
        for ((((x, a), b), c), d) in x.iter().zip(a).zip(b).zip(c).zip(d) {
            for lane in 0..LANES {
                sa[lane] += a[lane] * x[lane];
                sb[lane] += b[lane] * x[lane];
                sc[lane] += c[lane] * x[lane];
                sd[lane] += d[lane] * x[lane];
            }
        }
        let sums = [sa, sb, sc, sd];
        from_fn(|i| {
            let rest = self.rows[i][self.x.len() - x_rest.len()..].iter();
            let rest = rest.zip(x_rest).map(|(a, b)| a * b);
            sums[i].iter().sum::<f32>() + rest.sum::<f32>()
        })
    }
}

/// Adds each of the rows times its factor to `sum`, or to `s x`, which is written to `sum`.
struct Add<'a> {
    rows: [&'a [f32]; ROWS],
    factors: [f32; ROWS],
    /// `x` and `s`, if the rows are the first.
    first: Option<(&'a [f32], f32)>,
    sum: &'a mut [f32],
}

impl pulp::NullaryFnOnce for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let c = self.factors;
        let (sum, sum_rest) = self.sum.as_chunks_mut::<LANES>();
        let rows = self.rows.map(|row| row.as_chunks::<LANES>());
        let term = |r: [f32; ROWS]| (c[0] * r[0] + c[1] * r[1]) + (c[2] * r[2] + c[3] * r[3]);
        let x = self.first.map(|(x, s)| (x.as_chunks::<LANES>(), s));
        for (at, sum) in sum.iter_mut().enumerate() {
            // The compiler knows that nothing overlaps a local array.
            let mut new = match x {
                Some(((x, _), s)) => x[at].map(|x| s * x),
                None => *sum,
            };
            let [a, b, c, d] = rows.map(|(row, _)| &row[at]);
            for lane in 0..LANES {
                new[lane] += term([a[lane], b[lane], c[lane], d[lane]]);
            }
            *sum = new;
        }
        for (j, sum) in sum_rest.iter_mut().enumerate() {
            let before = match x {
                Some(((_, x), s)) => s * x[j],
                None => *sum,
            };
            *sum = before + term(rows.map(|(_, row)| row[j]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded_noise::SeededNoise;
    use burn::tensor::Device;

    fn noise(stream: u64, len: usize) -> Vec<f32> {
        SeededNoise::new(3, stream).normal_values(len)
    }

    fn tensors(m: usize, d: usize, dtype: DType) -> (Tensor<2>, Tensor<1>) {
        let device = Device::flex();
        let rows = TensorData::new(noise(0, m * d), [m, d]).convert_dtype(dtype);
        let x = TensorData::new(noise(1, d), [d]).convert_dtype(dtype);
        (
            Tensor::from_data(rows, (&device, dtype)),
            Tensor::from_data(x, (&device, dtype)),
        )
    }

    /// All rests of the blocks of rows, of lanes and of chunks, against sums in `f64`.
    #[test]
    fn both_products_are_the_sums_they_are_defined_as() {
        for (m, d) in [(1, 1), (4, 64), (3, 37), (6, CHUNK + 33), (9, 2 * CHUNK)] {
            let (g, x) = (noise(0, m * d), noise(1, d));
            let c: Vec<f64> = noise(2, m).into_iter().map(f64::from).collect();
            let at = |i: usize, j: usize| f64::from(g[i * d + j]);
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
                let (rows, vector) = tensors(m, d, dtype);
                for (i, found) in products(&rows, &vector).into_iter().enumerate() {
                    let terms = || (0..d).map(|j| at(i, j) * f64::from(x[j]));
                    let size: f64 = terms().map(f64::abs).sum();
                    let error = (found - terms().sum::<f64>()).abs();
                    assert!(error <= tolerance * size, "{m} x {d}, row {i}: {error}");
                }
                let sum = combination(&rows, &c, &vector, -0.7).into_data();
                for (j, found) in sum.iter::<f64>().enumerate() {
                    let expected: f64 =
                        -0.7 * f64::from(x[j]) + (0..m).map(|i| c[i] * at(i, j)).sum::<f64>();
                    let error = (found - expected).abs();
                    assert!(error <= 10.0 * tolerance, "{m} x {d}, column {j}: {error}");
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (rows, x) = tensors(5, 3 * CHUNK + 7, DType::F32);
        let c = [0.1, -0.2, 0.3, 0.4, -0.5];
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let sum = combination(&rows, &c, &x, 2.0).into_data();
                (products(&rows, &x), sum)
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    #[should_panic(expected = "a vector has the length of the rows")]
    fn a_vector_of_another_length_is_refused() {
        let (rows, _) = tensors(2, 5, DType::F32);
        products(&rows, &Tensor::zeros([4], &Device::flex()));
    }
}
