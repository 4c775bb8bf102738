//! Linear sketches: a random matrix `S` makes `m` numbers of `d`, and keeps inner products.
//!
//! ```text
//! S ∈ R^{m×d},   E SᵀS = I,   so   E⟨Sx, Sy⟩ = ⟨x, y⟩   and   E Sᵀ(Sx) = x
//! ```
//!
//! A sketch is linear, so sketches of several workers add up to the sketch of the sum, which no
//! compressor of another kind can do; and `Sᵀ` takes what was found for the sketch back to the
//! parameters. `S` is never stored but for what the table says: it comes from a seed, and who knows
//! the seed, the length and the size has the same matrix.
//!
//! | Sketch | `S` | Variance of `⟨Sx, Sy⟩` | Time |
//! |---|---|---|---|
//! | [`CountSketch`] | one `±1/√r` in each column of each of `r` blocks of `c` rows | `(‖x‖²‖y‖² + ⟨x,y⟩² − 2 Σ x_i² y_i²) / (r c)` | `r d` |
//! | [`GaussianSketch`] | independent `N(0, 1/m)` | `(‖x‖²‖y‖² + ⟨x,y⟩²) / m` | `m d` |
//! | [`Srht`] | `√(n/m) P H D` | `(n − m)/(n − 1)` times `(‖x‖²‖y‖² + ⟨x,y⟩² − 2 Σ x_i² y_i²) / m` | `n log n` |
//!
//! These are equalities, over the draw of `S`; [`LinearSketch::variance`] is the common bound, the
//! factor of `‖x‖²‖y‖² + ⟨x,y⟩²`. In the last line `D` is a diagonal of random signs, `H` the
//! orthonormal Walsh-Hadamard matrix of size `n`, the next power of two, and `P` takes `m` of the `n`
//! rows without replacement: its rows are orthogonal, `S Sᵀ = (n/m) I`, and for `m = n` the sketch is
//! an isometry. The variance of the last follows from that of sampling without replacement given
//! `D`, then of the signs.
//!
//! The count sketch finds **heavy hitters**: [`CountSketch::estimate`] is the median over the blocks
//! of `±√r` times the number that element `i` was added to. Each of them is unbiased with variance
//! `(‖x‖² − x_i²) / c`, so that it is off by more than `2‖x‖/√c` with a probability of at most 1/4,
//! and their median with at most `exp(−r/8)`.
//!
//! [`SketchMessage`] is a sketch on its way: 32 bits a number, and an identity of the matrix, so that
//! sketches of different matrices are not added up.
//!
//! All arithmetic is in f64 on the host, in an order that does not depend on the number of threads.
//!
//! Sources: Charikar, Chen, Farach-Colton, *Finding Frequent Items in Data Streams*, 2002; Thorup,
//! Zhang, *Tabulation Based 4-Universal Hashing with Applications to Second Moment Estimation*,
//! SODA 2004 (unbiased second moments of the count sketch); Rothchild et al., *FetchSGD:
//! Communication-Efficient Federated Learning with Sketching*, ICML 2020, arXiv 2007.07682; Ailon,
//! Chazelle, *The Fast Johnson-Lindenstrauss Transform and Approximate Nearest Neighbors*, 2009;
//! Tropp, *Improved Analysis of the Subsampled Randomized Hadamard Transform*, 2011, arXiv
//! 1011.1595; Woodruff, *Sketching as a Tool for Numerical Linear Algebra*, 2014, arXiv 1411.4357.

use burn::tensor::{Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use rand::RngExt;
use rand::seq::index;
use rayon::prelude::*;

use crate::fingerprint::fingerprint_number;
use crate::seeded_noise::SeededNoise;

mod message;

pub use message::SketchMessage;

/// Why a sketch cannot be made or applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SketchError {
    /// A size of the sketch is 0.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// More rows than there are to take.
    #[error(
        "a subsampled Hadamard transform of {dimension} elements has {padded} rows to take, but it \
         must take {rows}"
    )]
    Rows {
        /// Rows asked for.
        rows: usize,
        /// Length of the vectors.
        dimension: usize,
        /// The next power of two.
        padded: usize,
    },
    /// The length has no next power of two that fits in memory.
    #[error("the vectors of a subsampled Hadamard transform are too long: {0} elements")]
    TooLong(usize),
    /// A vector of another length.
    #[error("the {what} must have {expected} elements, but it has {found}")]
    Length {
        /// Vector or sketch.
        what: &'static str,
        /// Its length in this sketch.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// No such element.
    #[error("the vectors have {dimension} elements, but element {index} was asked for")]
    Index {
        /// The element asked for, from 0.
        index: usize,
        /// Length of the vectors.
        dimension: usize,
    },
    /// A sketch that 32 bits cannot hold.
    #[error("number {index} of the sketch is {value} in 32 bits, but it must be finite to be sent")]
    NotFinite {
        /// Its place.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// Sketches that do not add up.
    #[error("the sketches are by different matrices: all workers must draw them from one seed")]
    OtherSketch,
    /// A vector cannot be read from its device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// A random matrix `S`, `[m, d]`, with `E SᵀS = I`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::seeded_noise::SeededNoise;
/// use nabla_grad::sketch::{CountSketch, LinearSketch};
///
/// let mut gradient = Tensor::<1>::ones([10_000], &Device::flex());
/// gradient = gradient.slice_fill(123..124, 500.0);
/// let sketch = CountSketch::new(5, 200, 10_000, &mut SeededNoise::new(42, 0))?;
/// // Two workers: the sketch of the sum is the sum of the sketches.
/// let sum = sketch.apply(&gradient)? + sketch.apply(&gradient)?; // [1000]
/// let (index, value) = sketch.heavy_hitters(&sum, 1)?[0];
/// assert_eq!(index, 123);
/// assert!((value - 1000.0).abs() < 2.0 * 1020.0 / f64::sqrt(200.0));
/// # Ok::<(), nabla_grad::sketch::SketchError>(())
/// ```
pub trait LinearSketch {
    /// The length `d` of the vectors.
    fn dimension(&self) -> usize;

    /// The length `m` of the sketch.
    fn sketch_length(&self) -> usize;

    /// `Var⟨Sx, Sy⟩ ≤ variance · (‖x‖²‖y‖² + ⟨x,y⟩²)` for all `x` and `y`.
    fn variance(&self) -> f64;

    /// A number that tells matrices apart: the same on both sides if the matrices are, and another
    /// one for almost every other matrix.
    fn identity(&self) -> u64;

    /// `S x`, `[d]` to `[m]`, in f64.
    ///
    /// # Errors
    /// If the vector has another length.
    fn apply_values(&self, x: &[f64]) -> Result<Vec<f64>, SketchError>;

    /// `Sᵀ y`, `[m]` to `[d]`, in f64.
    ///
    /// # Errors
    /// If the sketch has another length.
    fn transposed_values(&self, y: &[f64]) -> Result<Vec<f64>, SketchError>;

    /// `S x`, `[d]` to `[m]`, off the graph.
    ///
    /// # Errors
    /// If the vector has another length, or cannot be read from its device.
    fn apply(&self, x: &Tensor<1>) -> Result<Tensor<1>, SketchError> {
        Ok(device_like(self.apply_values(&host(x)?)?, x))
    }

    /// `Sᵀ y`, `[m]` to `[d]`, off the graph.
    ///
    /// # Errors
    /// If the sketch has another length, or cannot be read from its device.
    fn transposed(&self, y: &Tensor<1>) -> Result<Tensor<1>, SketchError> {
        Ok(device_like(self.transposed_values(&host(y)?)?, y))
    }
}

fn host(x: &Tensor<1>) -> Result<Vec<f64>, SketchError> {
    x.try_to_vec_as::<f64>()
        .map_err(|error| SketchError::Device(error.to_string()))
}

fn device_like(values: Vec<f64>, like: &Tensor<1>) -> Tensor<1> {
    let length = values.len();
    let data = TensorData::new(values, [length]);
    let device = like.device().without_autodiff();
    Tensor::from_data(data, (&device, like.dtype()))
}

fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), SketchError> {
    if found == expected {
        return Ok(());
    }
    Err(SketchError::Length {
        what,
        expected,
        found,
    })
}

fn check_sizes(sizes: &[(&'static str, usize)]) -> Result<(), SketchError> {
    for (what, size) in sizes {
        range::at_least(format!("{what} of the sketch"), *size, 1)?;
    }
    Ok(())
}

fn identity(kind: &[u8], numbers: impl Iterator<Item = u64>) -> u64 {
    let numbers = numbers.flat_map(u64::to_le_bytes);
    fingerprint_number(kind.iter().copied().chain(numbers))
}

/// The prime 2⁶¹ − 1.
const PRIME: u64 = (1 << 61) - 1;

/// A polynomial of degree 3 over the prime field: its values at any four points are independent and
/// uniform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash([u64; 4]);

impl Hash {
    fn draw(noise: &mut SeededNoise) -> Self {
        Self(std::array::from_fn(|_| noise.random_range(0..PRIME)))
    }

    /// In `0 … PRIME − 1`.
    fn at(&self, point: usize) -> u64 {
        let point = point as u64 % PRIME;
        self.0.iter().fold(0, |value, &coefficient| {
            // Both factors are below 2⁶¹, so this is below 2¹²² + 2⁶¹; 2⁶¹ is 1 in this field.
            let next = u128::from(value) * u128::from(point) + u128::from(coefficient);
            let folded = (next as u64 & PRIME) + (next >> 61) as u64;
            let folded = (folded & PRIME) + (folded >> 61);
            if folded == PRIME { 0 } else { folded }
        })
    }
}

/// `r` hash tables of `c` buckets; see the [module documentation](self).
///
/// The sketch is the tables one after the other, `[r · c]`, each divided by `√r`.
#[derive(Clone, Debug, PartialEq)]
pub struct CountSketch {
    columns: usize,
    dimension: usize,
    /// Buckets and signs of each table.
    hashes: Vec<(Hash, Hash)>,
}

impl CountSketch {
    /// With `rows` tables of `columns` buckets, for vectors of `dimension` elements. An odd number
    /// of rows makes the median one of the estimates.
    ///
    /// # Errors
    /// If a size is 0.
    pub fn new(
        rows: usize,
        columns: usize,
        dimension: usize,
        noise: &mut SeededNoise,
    ) -> Result<Self, SketchError> {
        check_sizes(&[
            ("number of rows", rows),
            ("number of columns", columns),
            ("dimension", dimension),
        ])?;
        Ok(Self {
            columns,
            dimension,
            hashes: (0..rows)
                .map(|_| (Hash::draw(noise), Hash::draw(noise)))
                .collect(),
        })
    }

    /// The number of tables.
    pub fn rows(&self) -> usize {
        self.hashes.len()
    }

    /// The number of buckets of each table.
    pub fn columns(&self) -> usize {
        self.columns
    }

    fn bucket(&self, hash: &Hash, index: usize) -> usize {
        // The remainder is uniform up to a share of columns / 2⁶¹, and below `columns`.
        (hash.at(index) % self.columns as u64) as usize
    }

    /// `1/√r`.
    fn scale(&self) -> f64 {
        1.0 / (self.rows() as f64).sqrt()
    }

    fn median(&self, sketch: &[f64], index: usize) -> f64 {
        let tables = self.hashes.iter().zip(sketch.chunks_exact(self.columns));
        let mut estimates: Vec<f64> = tables
            .map(|((buckets, signs), table)| {
                sign(signs, index) * table[self.bucket(buckets, index)]
            })
            .collect();
        estimates.sort_unstable_by(f64::total_cmp);
        let middle = estimates.len() / 2;
        let median = if estimates.len() % 2 == 1 {
            estimates[middle]
        } else {
            0.5 * (estimates[middle - 1] + estimates[middle])
        };
        median / self.scale()
    }

    /// The median estimates of these elements of `x` from its sketch, `[r · c]`.
    ///
    /// # Errors
    /// If the sketch has another length or cannot be read, or an index is not less than the
    /// dimension.
    pub fn estimate(&self, sketch: &Tensor<1>, indices: &[usize]) -> Result<Vec<f64>, SketchError> {
        let sketch = host(sketch)?;
        check_length("sketch", self.sketch_length(), sketch.len())?;
        if let Some(&index) = indices.iter().find(|&&index| index >= self.dimension) {
            return Err(SketchError::Index {
                index,
                dimension: self.dimension,
            });
        }
        Ok(indices
            .par_iter()
            .map(|&index| self.median(&sketch, index))
            .collect())
    }

    /// The `count` elements of `x` with the estimates of largest magnitude, the largest first, from
    /// its sketch, `[r · c]`: indices and estimates. All if there are no more.
    ///
    /// # Errors
    /// If the sketch has another length or cannot be read.
    pub fn heavy_hitters(
        &self,
        sketch: &Tensor<1>,
        count: usize,
    ) -> Result<Vec<(usize, f64)>, SketchError> {
        let all: Vec<usize> = (0..self.dimension).collect();
        let estimates = self.estimate(sketch, &all)?;
        let mut hitters: Vec<(usize, f64)> = all.into_iter().zip(estimates).collect();
        let order = |a: &(usize, f64), b: &(usize, f64)| {
            let falling = b.1.abs().total_cmp(&a.1.abs());
            falling.then(a.0.cmp(&b.0))
        };
        if count < hitters.len() {
            hitters.select_nth_unstable_by(count, order);
            hitters.truncate(count);
        }
        hitters.sort_unstable_by(order);
        Ok(hitters)
    }
}

fn sign(hash: &Hash, index: usize) -> f64 {
    if hash.at(index) & 1 == 0 { 1.0 } else { -1.0 }
}

impl LinearSketch for CountSketch {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn sketch_length(&self) -> usize {
        self.rows() * self.columns
    }

    fn variance(&self) -> f64 {
        1.0 / self.sketch_length() as f64
    }

    fn identity(&self) -> u64 {
        let hashes = self.hashes.iter();
        let hashes = hashes.flat_map(|(buckets, signs)| buckets.0.into_iter().chain(signs.0));
        identity(b"count", hashes.chain([self.columns as u64]))
    }

    fn apply_values(&self, x: &[f64]) -> Result<Vec<f64>, SketchError> {
        check_length("vector", self.dimension, x.len())?;
        let mut sketch = vec![0.0; self.sketch_length()];
        let tables = sketch.par_chunks_exact_mut(self.columns);
        // Each table is filled by one thread, in the order of the elements.
        tables
            .zip(&self.hashes)
            .for_each(|(table, (buckets, signs))| {
                for (index, value) in x.iter().enumerate() {
                    table[self.bucket(buckets, index)] += sign(signs, index) * value;
                }
                table.iter_mut().for_each(|sum| *sum *= self.scale());
            });
        Ok(sketch)
    }

    fn transposed_values(&self, y: &[f64]) -> Result<Vec<f64>, SketchError> {
        check_length("sketch", self.sketch_length(), y.len())?;
        let element = |index| {
            let tables = self.hashes.iter().zip(y.chunks_exact(self.columns));
            let terms = tables.map(|((buckets, signs), table)| {
                sign(signs, index) * table[self.bucket(buckets, index)]
            });
            terms.sum::<f64>() * self.scale()
        };
        Ok((0..self.dimension).into_par_iter().map(element).collect())
    }
}

/// Independent Gaussian elements of variance `1/m`; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq)]
pub struct GaussianSketch {
    rows: usize,
    dimension: usize,
    seed: u64,
}

impl GaussianSketch {
    /// Elements of the vectors whose columns of `S` come from one stream of noise.
    const BLOCK: usize = 1024;

    /// With `rows = m` numbers, for vectors of `dimension` elements.
    ///
    /// # Errors
    /// If a size is 0.
    pub fn new(
        rows: usize,
        dimension: usize,
        noise: &mut SeededNoise,
    ) -> Result<Self, SketchError> {
        check_sizes(&[("number of rows", rows), ("dimension", dimension)])?;
        Ok(Self {
            rows,
            dimension,
            seed: noise.random(),
        })
    }

    /// `1/√m`.
    fn scale(&self) -> f64 {
        1.0 / (self.rows as f64).sqrt()
    }

    /// The noise of block `number`; its columns of `S` follow each other, `[m]` each.
    fn block(&self, number: usize) -> SeededNoise {
        SeededNoise::new(self.seed, number as u64)
    }
}

impl LinearSketch for GaussianSketch {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn sketch_length(&self) -> usize {
        self.rows
    }

    fn variance(&self) -> f64 {
        1.0 / self.rows as f64
    }

    fn identity(&self) -> u64 {
        identity(b"gaussian", [self.seed, self.rows as u64].into_iter())
    }

    fn apply_values(&self, x: &[f64]) -> Result<Vec<f64>, SketchError> {
        check_length("vector", self.dimension, x.len())?;
        let blocks: Vec<Vec<f64>> = x
            .par_chunks(Self::BLOCK)
            .enumerate()
            .map(|(number, x)| {
                let mut noise = self.block(number);
                let mut sums = vec![0.0; self.rows];
                for value in x {
                    let column = noise.normal_values(self.rows); // [m]
                    for (sum, element) in sums.iter_mut().zip(column) {
                        *sum += f64::from(element) * value;
                    }
                }
                sums
            })
            .collect();
        // Added in the order of the blocks, whichever was ready first.
        let mut sketch = vec![0.0; self.rows];
        for block in blocks {
            for (sum, part) in sketch.iter_mut().zip(block) {
                *sum += part * self.scale();
            }
        }
        Ok(sketch)
    }

    fn transposed_values(&self, y: &[f64]) -> Result<Vec<f64>, SketchError> {
        check_length("sketch", self.rows, y.len())?;
        let mut x = vec![0.0; self.dimension];
        x.par_chunks_mut(Self::BLOCK)
            .enumerate()
            .for_each(|(number, x)| {
                let mut noise = self.block(number);
                for value in x {
                    let column = noise.normal_values(self.rows); // [m]
                    let products = column.iter().zip(y).map(|(&a, b)| f64::from(a) * b);
                    *value = products.sum::<f64>() * self.scale();
                }
            });
        Ok(x)
    }
}

/// The subsampled randomised Hadamard transform; see the [module documentation](self).
///
/// It keeps the `d` signs and the `m` rows taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Srht {
    /// `n`.
    padded: usize,
    /// The diagonal of `D`, `[d]`; the padding is 0 and needs no signs.
    signs: Vec<f64>,
    /// The rows that `P` takes, rising, `[m]`.
    taken: Vec<usize>,
}

impl Srht {
    /// With `rows = m` numbers, for vectors of `dimension` elements. There are as many rows to take
    /// as the next power of two.
    ///
    /// # Errors
    /// If a size is 0, or there are not so many rows.
    pub fn new(
        rows: usize,
        dimension: usize,
        noise: &mut SeededNoise,
    ) -> Result<Self, SketchError> {
        check_sizes(&[("number of rows", rows), ("dimension", dimension)])?;
        let padded = dimension
            .checked_next_power_of_two()
            .filter(|&padded| padded <= isize::MAX as usize / size_of::<f64>())
            .ok_or(SketchError::TooLong(dimension))?;
        if rows > padded {
            return Err(SketchError::Rows {
                rows,
                dimension,
                padded,
            });
        }
        let signs = (0..dimension)
            .map(|_| if noise.random() { 1.0 } else { -1.0 })
            .collect();
        let mut taken = index::sample(noise, padded, rows).into_vec();
        taken.sort_unstable();
        Ok(Self {
            padded,
            signs,
            taken,
        })
    }

    /// The next power of two, `n`.
    pub fn padded_dimension(&self) -> usize {
        self.padded
    }

    /// `√(n/m) / √n`, with the factor of the orthonormal transform.
    fn scale(&self) -> f64 {
        1.0 / (self.taken.len() as f64).sqrt()
    }
}

impl LinearSketch for Srht {
    fn dimension(&self) -> usize {
        self.signs.len()
    }

    fn sketch_length(&self) -> usize {
        self.taken.len()
    }

    fn variance(&self) -> f64 {
        let (n, m) = (self.padded as f64, self.taken.len() as f64);
        // Of one row there is nothing to choose.
        if self.padded == 1 {
            0.0
        } else {
            (n - m) / (n - 1.0) / m
        }
    }

    fn identity(&self) -> u64 {
        let signs = self.signs.iter().map(|sign| sign.to_bits());
        identity(
            b"srht",
            signs.chain(self.taken.iter().map(|&row| row as u64)),
        )
    }

    fn apply_values(&self, x: &[f64]) -> Result<Vec<f64>, SketchError> {
        check_length("vector", self.signs.len(), x.len())?;
        let mut padded = vec![0.0; self.padded];
        for ((to, from), sign) in padded.iter_mut().zip(x).zip(&self.signs) {
            *to = from * sign;
        }
        walsh_hadamard(&mut padded);
        let scale = self.scale();
        Ok(self.taken.iter().map(|&row| padded[row] * scale).collect())
    }

    fn transposed_values(&self, y: &[f64]) -> Result<Vec<f64>, SketchError> {
        check_length("sketch", self.taken.len(), y.len())?;
        let mut padded = vec![0.0; self.padded];
        for (&row, value) in self.taken.iter().zip(y) {
            padded[row] = *value;
        }
        // H is symmetric.
        walsh_hadamard(&mut padded);
        let scale = self.scale();
        let elements = padded.iter().zip(&self.signs);
        Ok(elements.map(|(value, sign)| value * sign * scale).collect())
    }
}

/// The Walsh-Hadamard transform in natural order and without a factor, of a power of two of values:
/// with `H_1 = 1`,
///
/// ```text
/// H_{2n} = [ H_n  H_n ; H_n  −H_n ]
/// ```
fn walsh_hadamard(values: &mut [f64]) {
    /// Below it, another thread costs more than it saves.
    const SEQUENTIAL: usize = 1 << 14;
    let half = values.len() / 2;
    if half == 0 {
        return;
    }
    let (low, high) = values.split_at_mut(half);
    // The same sums whether both halves are transformed at once or not.
    if half >= SEQUENTIAL {
        rayon::join(|| walsh_hadamard(low), || walsh_hadamard(high));
    } else {
        walsh_hadamard(low);
        walsh_hadamard(high);
    }
    for (a, b) in low.iter_mut().zip(high) {
        (*a, *b) = (*a + *b, *a - *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};
    use proptest::prelude::*;

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn normal(count: usize, seed: u64, stream: u64) -> Vec<f64> {
        let values = SeededNoise::new(seed, stream).normal_values(count);
        values.into_iter().map(f64::from).collect()
    }

    type Make = fn(usize, usize, &mut SeededNoise) -> Box<dyn LinearSketch>;

    /// With m numbers; the count sketch in two rows where m is even.
    fn makers() -> [(&'static str, Make); 3] {
        [
            ("count", |m, d, noise| {
                let rows = if m % 2 == 0 { 2 } else { 1 };
                Box::new(CountSketch::new(rows, m / rows, d, noise).unwrap())
            }),
            ("Gaussian", |m, d, noise| {
                Box::new(GaussianSketch::new(m, d, noise).unwrap())
            }),
            ("SRHT", |m, d, noise| {
                Box::new(Srht::new(m, d, noise).unwrap())
            }),
        ]
    }

    /// `S` itself, one column per unit vector: `[d][m]`.
    fn columns(sketch: &dyn LinearSketch) -> Vec<Vec<f64>> {
        (0..sketch.dimension())
            .map(|index| {
                let mut unit = vec![0.0; sketch.dimension()];
                unit[index] = 1.0;
                sketch.apply_values(&unit).unwrap()
            })
            .collect()
    }

    #[test]
    fn the_transform_is_the_matrix_of_its_definition() {
        // H[i][j] = (−1)^(number of common bits of i and j).
        for n in [1_usize, 2, 8, 64] {
            let x = normal(n, 1, 0);
            let mut found = x.clone();
            walsh_hadamard(&mut found);
            for (i, found) in found.into_iter().enumerate() {
                let expected: f64 = x
                    .iter()
                    .enumerate()
                    .map(|(j, x)| {
                        if (i & j).count_ones() % 2 == 0 {
                            *x
                        } else {
                            -x
                        }
                    })
                    .sum();
                assert!((found - expected).abs() < 1e-12, "{n}, {i}");
            }
        }
    }

    #[test]
    fn means_and_variances_of_inner_products_are_those_of_theory() {
        // So small a sketch is not worth waking other threads for.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        pool.unwrap().install(check_means_and_variances);
    }

    fn check_means_and_variances() {
        let (d, m, trials) = (24, 6, 20_000);
        let x = normal(d, 2, 0);
        let mut steep: Vec<f64> = x
            .iter()
            .enumerate()
            .map(|(i, x)| x / (1 + i) as f64)
            .collect();
        steep[3] = 2.0;
        let ones = vec![1.0; d];
        let pairs = [
            (&x, &x),
            (&x, &steep),
            (&steep, &steep),
            (&ones, &ones),
            (&ones, &x),
        ];
        for (name, make) in makers() {
            let mut noise = SeededNoise::new(42, 0);
            let mut moments = vec![[0.0_f64; 4]; pairs.len()];
            let mut bound = 0.0;
            for _ in 0..trials {
                let sketch = make(m, d, &mut noise);
                bound = sketch.variance();
                for ((x, y), moments) in pairs.iter().zip(&mut moments) {
                    let sx = sketch.apply_values(x).unwrap();
                    let sy = sketch.apply_values(y).unwrap();
                    let error = dot(&sx, &sy) - dot(x, y);
                    for (power, moment) in (1..).zip(moments.iter_mut()) {
                        *moment += error.powi(power) / f64::from(trials);
                    }
                }
            }
            for (number, ((x, y), [mean, second, _, fourth])) in
                pairs.iter().zip(moments).enumerate()
            {
                let common = dot(x, x) * dot(y, y) + dot(x, y).powi(2);
                let diagonal: f64 = x.iter().zip(*y).map(|(x, y)| (x * y).powi(2)).sum();
                let (m, n) = (m as f64, 32.0);
                let expected = match name {
                    "count" => (common - 2.0 * diagonal) / m,
                    "Gaussian" => common / m,
                    _ => (n - m) / (n - 1.0) * (common - 2.0 * diagonal) / m,
                };
                assert!(
                    expected <= bound * common * (1.0 + 1e-12),
                    "{name}, {number}"
                );
                // Five standard errors of a mean and of a variance.
                let count = f64::from(trials);
                let error = 5.0 * (second / count).sqrt();
                assert!(mean.abs() <= error, "{name}, {number}: {mean} {error}");
                let error = 5.0 * ((fourth - second * second) / count).sqrt();
                assert!(
                    (second - expected).abs() <= error,
                    "{name}, {number}: {second} {expected} {error}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sketches_are_linear_and_have_their_transposes(
            d in 1_usize..80,
            m in 1_usize..20,
            seed: u64,
        ) {
            for (name, make) in makers() {
                let m = m.min(d.next_power_of_two());
                let sketch = make(m, d, &mut SeededNoise::new(seed, 0));
                prop_assert_eq!(sketch.dimension(), d);
                prop_assert_eq!(sketch.sketch_length(), m);
                let (x, y, z) = (normal(d, seed, 1), normal(d, seed, 2), normal(m, seed, 3));
                let sum: Vec<f64> = x.iter().zip(&y).map(|(x, y)| 2.0 * x - y).collect();
                let (sx, sy) =
                    (sketch.apply_values(&x).unwrap(), sketch.apply_values(&y).unwrap());
                for (index, found) in sketch.apply_values(&sum).unwrap().into_iter().enumerate() {
                    prop_assert!((found - (2.0 * sx[index] - sy[index])).abs() < 1e-10, "{}", name);
                }
                // ⟨Sx, z⟩ = ⟨x, Sᵀz⟩.
                let back = sketch.transposed_values(&z).unwrap();
                prop_assert!((dot(&sx, &z) - dot(&x, &back)).abs() < 1e-10, "{}", name);
            }
        }

        #[test]
        fn all_rows_of_the_hadamard_transform_are_an_isometry(d in 1_usize..300, seed: u64) {
            let n = d.next_power_of_two();
            let sketch = Srht::new(n, d, &mut SeededNoise::new(seed, 0)).unwrap();
            prop_assert_eq!(sketch.variance(), 0.0);
            let (x, y) = (normal(d, seed, 1), normal(d, seed, 2));
            let (sx, sy) = (sketch.apply_values(&x).unwrap(), sketch.apply_values(&y).unwrap());
            prop_assert!((dot(&sx, &sy) - dot(&x, &y)).abs() < 1e-10);
            let back = sketch.transposed_values(&sx).unwrap();
            for (back, x) in back.iter().zip(&x) {
                prop_assert!((back - x).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn the_isometry_is_exact_where_its_factor_is() {
        // 1/√64 and integers leave nothing to round.
        let sketch = Srht::new(64, 50, &mut SeededNoise::new(3, 0)).unwrap();
        let x: Vec<f64> = (0..50).map(|i| f64::from(i * i - 700)).collect();
        let sx = sketch.apply_values(&x).unwrap();
        assert_eq!(dot(&sx, &sx), dot(&x, &x));
        assert_eq!(sketch.transposed_values(&sx).unwrap(), x);
    }

    #[test]
    fn rows_of_the_subsampled_transform_are_orthogonal() {
        // S Sᵀ = (n/m) I, where no element of the vectors is padding.
        let sketch = Srht::new(16, 64, &mut SeededNoise::new(5, 0)).unwrap();
        for row in 0..16 {
            let mut unit = vec![0.0; 16];
            unit[row] = 1.0;
            let there = sketch.transposed_values(&unit).unwrap();
            let back = sketch.apply_values(&there).unwrap();
            let expected: Vec<f64> = unit.iter().map(|u| u * 4.0).collect();
            assert_eq!(back, expected);
        }
    }

    #[test]
    fn columns_of_the_count_sketch_have_one_element_per_table() {
        let sketch = CountSketch::new(4, 9, 200, &mut SeededNoise::new(6, 0)).unwrap();
        let mut hit = [[0; 2]; 36];
        for column in columns(&sketch) {
            for (row, table) in column.chunks(9).enumerate() {
                let filled: Vec<_> = table
                    .iter()
                    .enumerate()
                    .filter(|(_, v)| **v != 0.0)
                    .collect();
                assert_eq!(filled.len(), 1);
                let (bucket, value) = filled[0];
                assert_eq!(value.abs(), 0.5);
                hit[row * 9 + bucket][usize::from(*value > 0.0)] += 1;
            }
        }
        // 200 elements in 9 buckets of 2 signs: about 11 each.
        for counts in hit {
            assert!(
                counts.iter().all(|&count| (1..30).contains(&count)),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn the_hash_is_the_polynomial() {
        let hash = Hash([PRIME - 1, 5, PRIME - 3, 7]);
        for point in [0_usize, 1, 2, 12_345, usize::MAX, PRIME as usize - 1] {
            let x = point as u64 as u128 % u128::from(PRIME);
            let p = u128::from(PRIME);
            let cube = x * x % p * x % p;
            let expected = ((p - 1) * cube % p + 5 * (x * x % p) + (p - 3) * x % p + 7) % p;
            assert_eq!(u128::from(hash.at(point)), expected, "{point}");
        }
    }

    #[test]
    fn heavy_hitters_are_found_with_the_stated_probability() {
        let (d, columns, rows) = (2_000, 100, 9);
        let mut x: Vec<f64> = normal(d, 7, 0);
        let heavy = [(17, 40.0), (900, -55.0), (1_999, 30.0)];
        for (index, value) in heavy {
            x[index] = value;
        }
        let norm = dot(&x, &x).sqrt();
        let bound = 2.0 * norm / (columns as f64).sqrt();
        let (mut off, mut off_in_one_row, trials) = (0, 0, 20);
        for seed in 0..trials {
            let sketch =
                CountSketch::new(rows, columns, d, &mut SeededNoise::new(seed, 0)).unwrap();
            let data = TensorData::new(x.clone(), [d]);
            let vector = Tensor::<1>::from_data(data, (&Device::flex(), DType::F64));
            let table = sketch.apply(&vector).unwrap();
            let all: Vec<usize> = (0..d).collect();
            let estimates = sketch.estimate(&table, &all).unwrap();
            off += (0..d)
                .filter(|&i| (estimates[i] - x[i]).abs() > bound)
                .count();
            let found = sketch.heavy_hitters(&table, 3).unwrap();
            assert_eq!(found[0].0, 900);
            assert_eq!(found[1].0, 17);
            assert_eq!(found[2].0, 1_999);
            assert_eq!(found[1].1, estimates[17]);

            let one = CountSketch::new(1, columns, d, &mut SeededNoise::new(seed, 1)).unwrap();
            let table = one.apply(&vector).unwrap();
            let estimates = one.estimate(&table, &all).unwrap();
            off_in_one_row += (0..d)
                .filter(|&i| (estimates[i] - x[i]).abs() > bound)
                .count();
        }
        let all = (d as u64 * trials) as f64;
        assert!(off as f64 / all <= (-(rows as f64) / 8.0).exp(), "{off}");
        assert!(off_in_one_row as f64 / all <= 0.25, "{off_in_one_row}");
        // More rows help.
        assert!(off < off_in_one_row);
    }

    #[test]
    fn an_even_number_of_estimates_has_the_mean_of_both_middle_ones() {
        let sketch = CountSketch::new(4, 3, 30, &mut SeededNoise::new(1, 0)).unwrap();
        let x = normal(30, 4, 0);
        let s = sketch.apply_values(&x).unwrap();
        let mut estimates: Vec<f64> = sketch
            .hashes
            .iter()
            .enumerate()
            .map(|(row, (buckets, signs))| {
                2.0 * sign(signs, 11) * s[row * 3 + sketch.bucket(buckets, 11)]
            })
            .collect();
        estimates.sort_by(f64::total_cmp);
        let expected = 0.5 * (estimates[1] + estimates[2]);
        assert!((sketch.median(&s, 11) - expected).abs() < 1e-12);
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        // Long enough for several blocks, and for both halves of the transform at once.
        let d = 40_000;
        let x = normal(d, 9, 0);
        let z = normal(12, 9, 1);
        let of = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap().install(|| {
                makers().map(|(_, make)| {
                    let sketch = make(12, d, &mut SeededNoise::new(8, 0));
                    let there = sketch.apply_values(&x).unwrap();
                    (there, sketch.transposed_values(&z).unwrap())
                })
            })
        };
        assert_eq!(of(1), of(4));
    }

    #[test]
    fn a_seed_gives_the_same_sketch() {
        let x = normal(50, 1, 0);
        for (name, make) in makers() {
            let of = |seed| {
                let sketch = make(8, 50, &mut SeededNoise::new(seed, 2));
                sketch.apply_values(&x).unwrap()
            };
            assert_eq!(of(1), of(1), "{name}");
            assert_ne!(of(1), of(2), "{name}");
        }
    }

    #[test]
    fn tensors_keep_their_type_and_leave_the_graph() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::ones([5], &device).require_grad();
        for (_, make) in makers() {
            let sketch = make(4, 5, &mut SeededNoise::new(0, 0));
            let there = sketch.apply(&x).unwrap();
            assert_eq!((there.dims(), there.dtype()), ([4], DType::F32));
            assert!(!there.is_autodiff());
            assert_eq!(sketch.transposed(&there).unwrap().dims(), [5]);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let noise = &mut SeededNoise::new(0, 0);
        assert_eq!(
            CountSketch::new(3, 0, 5, noise).unwrap_err().to_string(),
            "the number of columns of the sketch is 0, but it must be at least 1"
        );
        assert_eq!(
            GaussianSketch::new(3, 0, noise).unwrap_err().to_string(),
            "the dimension of the sketch is 0, but it must be at least 1"
        );
        assert_eq!(
            Srht::new(9, 5, noise).unwrap_err(),
            SketchError::Rows {
                rows: 9,
                dimension: 5,
                padded: 8
            }
        );
        assert_eq!(
            Srht::new(9, usize::MAX, noise).unwrap_err(),
            SketchError::TooLong(usize::MAX)
        );
        for (_, make) in makers() {
            let sketch = make(4, 5, noise);
            assert_eq!(
                sketch.apply_values(&[1.0; 4]).unwrap_err().to_string(),
                "the vector must have 5 elements, but it has 4"
            );
            assert_eq!(
                sketch.transposed_values(&[1.0; 5]).unwrap_err(),
                SketchError::Length {
                    what: "sketch",
                    expected: 4,
                    found: 5
                }
            );
        }
        let count = CountSketch::new(2, 2, 5, noise).unwrap();
        let table = Tensor::<1>::zeros([4], &Device::flex());
        assert_eq!(
            count.estimate(&table, &[4, 5]).unwrap_err(),
            SketchError::Index {
                index: 5,
                dimension: 5
            }
        );
        assert!(count.estimate(&table.slice(0..3), &[0]).is_err());
    }
}
