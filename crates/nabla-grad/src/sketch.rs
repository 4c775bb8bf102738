//! Linear sketches: a random matrix `S` turns `d` numbers into `m` and keeps inner products on average.
//!
//! ```text
//! S ∈ R^{m×d},   E SᵀS = I,   so   E⟨Sx, Sy⟩ = ⟨x, y⟩   and   E Sᵀ(Sx) = x
//! ```
//!
//! A sketch is linear, so the sketches of several workers add up to the sketch of the sum, which no other
//! kind of compressor can do, and `Sᵀ` maps results for the sketch back to the parameters. `S` is never
//! stored in full. It comes from a seed: whoever knows the seed, the length and the size has the same matrix.
//!
//! | Sketch | `S` | Variance of `⟨Sx, Sy⟩` | Time |
//! |---|---|---|---|
//! | [`CountSketch`] | one `±1/√r` in each column of each of `r` blocks of `c` rows | `(‖x‖²‖y‖² + ⟨x,y⟩² − 2 Σ x_i² y_i²) / (r c)` | `r d` |
//! | [`GaussianSketch`] | independent `N(0, 1/m)` | `(‖x‖²‖y‖² + ⟨x,y⟩²) / m` | `m d` |
//! | [`AmsSketch`] | independent `±1/√m` | `(‖x‖²‖y‖² + ⟨x,y⟩² − 2 Σ x_i² y_i²) / m` | `m d` |
//! | [`Srht`] | `√(n/m) P H D` | `(n − m)/(n − 1)` times `(‖x‖²‖y‖² + ⟨x,y⟩² − 2 Σ x_i² y_i²) / m` | `n log n` |
//!
//! These variances, over the draw of `S`, are exact; [`LinearSketch::variance`] is the common bound, as the
//! factor of `‖x‖²‖y‖² + ⟨x,y⟩²`. In the last line `D` is a diagonal of random signs, `H` the orthonormal
//! Walsh-Hadamard matrix of size `n`, the next power of two, and `P` takes `m` of the `n` rows without
//! replacement: its rows are orthogonal, `S Sᵀ = (n/m) I`, and for `m = n` the sketch is an isometry. The
//! variance of the last line follows from that of sampling without replacement given `D`, and then from that
//! of the signs.
//!
//! With one block, the count sketch has one element in each column; with several, it is the sparse embedding. A
//! [`SketchFamily`] draws any of these matrices.
//!
//! A method that steps along `SᵀS g` needs to know how much longer that is than `g`. Summed over the unit vectors `x`,
//! the variances above give it exactly, for every `h` of length 1:
//!
//! ```text
//! E‖SᵀS h‖² = 1 + (d + 1)/m                            Gaussian
//!             1 + (d − 1)/m                            signs, count sketch in any number of blocks
//!             1 + (d − 1)(n − m) / (m (n − 1))         subsampled Hadamard transform
//! ```
//!
//! which is [`LinearSketch::second_moment`].
//!
//! The count sketch finds **heavy hitters**: [`CountSketch::estimate`] is the median over the blocks of `±√r`
//! times the number that element `i` was added to. Each of these estimates is unbiased with variance `(‖x‖² −
//! x_i²) / c`, so it is off by more than `2‖x‖/√c` with a probability of at most 1/4, and their median with a
//! probability of at most `exp(−r/8)`.
//!
//! [`SketchMessage`] is a sketch as it is sent, with 32 bits per number and the identity of the matrix, so
//! that sketches by different matrices are never added.
//!
//! All arithmetic is in f64 on the host, in an order that does not depend on the number of threads.
//!
//! Sources: Charikar, Chen, Farach-Colton, *Finding Frequent Items in Data Streams*, 2002; Thorup,
//! Zhang, *Tabulation Based 4-Universal Hashing with Applications to Second Moment Estimation*,
//! SODA 2004 (unbiased second moments of the count sketch); Rothchild et al., *FetchSGD:
//! Communication-Efficient Federated Learning with Sketching*, ICML 2020, arXiv 2007.07682; Ailon,
//! Chazelle, *The Fast Johnson-Lindenstrauss Transform and Approximate Nearest Neighbors*, 2009;
//! Tropp, *Improved Analysis of the Subsampled Randomized Hadamard Transform*, 2011, arXiv
//! 1011.1595; Woodruff, *Sketching as a Tool for Numerical Linear Algebra*, 2014, arXiv 1411.4357 (the sparse
//! embedding); Alon, Matias, Szegedy, *The Space Complexity of Approximating the Frequency Moments*, 1996 (signs).

use burn::tensor::{Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use rand::RngExt;
use rand::seq::index;
use rayon::prelude::*;

use crate::fingerprint::fingerprint_number;
use crate::seeded_noise::SeededNoise;

mod family;
mod independent;
mod message;

pub use family::{DrawnSketch, IdentitySketch, SketchFamily};
pub use independent::{AmsSketch, GaussianSketch};
pub use message::SketchMessage;

/// The reason why a sketch cannot be created or applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SketchError {
    /// A size of the sketch is 0.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There are fewer rows than requested.
    #[error(
        "a subsampled Hadamard transform of {dimension} elements has {padded} rows to choose from, \
         but {rows} were requested"
    )]
    Rows {
        /// The number of rows requested.
        rows: usize,
        /// Length of the vectors.
        dimension: usize,
        /// The next power of two.
        padded: usize,
    },
    /// The length has no next power of two that fits in memory.
    #[error("the vectors of a subsampled Hadamard transform are too long: {0} elements")]
    TooLong(usize),
    /// The blocks cannot have the same number of rows.
    #[error(
        "a sketch of {rows} numbers cannot be divided among {blocks} blocks of the same length"
    )]
    Blocks {
        /// The number of rows requested.
        rows: usize,
        /// The number of blocks.
        blocks: usize,
    },
    /// The vector has another length.
    #[error("the {what} must have {expected} elements, but it has {found}")]
    Length {
        /// The vector or the sketch.
        what: &'static str,
        /// The length that this sketch needs.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// There is no such element.
    #[error("the vectors have {dimension} elements, but element {index} was requested")]
    Index {
        /// The element requested, counted from 0.
        index: usize,
        /// Length of the vectors.
        dimension: usize,
    },
    /// A number of the sketch is out of the range of 32 bits.
    #[error("number {index} of the sketch is {value} in 32 bits, but it must be finite to be sent")]
    NotFinite {
        /// Its position.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// The sketches are by different matrices and cannot be added.
    #[error(
        "the sketches are by different matrices: all workers must draw them from the same seed"
    )]
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

    /// `E‖SᵀS h‖²` for every `h` of length 1, exactly.
    ///
    /// ```
    /// use nabla_grad::{GaussianSketch, LinearSketch, SeededNoise};
    ///
    /// let sketch = GaussianSketch::new(128, 1970, &mut SeededNoise::new(0, 0))?;
    /// assert_eq!(sketch.second_moment(), 1.0 + 1971.0 / 128.0);
    /// # Ok::<(), nabla_grad::SketchError>(())
    /// ```
    fn second_moment(&self) -> f64 {
        // The variances of ⟨S e_i, S h⟩ with signs, summed over i, where the diagonal of SᵀS is 1.
        1.0 + self.variance() * (self.dimension() as f64 - 1.0)
    }

    /// A number that identifies the matrix: equal matrices have the same number, and almost every other
    /// matrix has another one.
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

    /// `S x`, `[d]` to `[m]`, detached from the graph.
    ///
    /// # Errors
    /// If the vector has another length, or cannot be read from its device.
    fn apply(&self, x: &Tensor<1>) -> Result<Tensor<1>, SketchError> {
        Ok(device_like(self.apply_values(&host(x)?)?, x))
    }

    /// `Sᵀ y`, `[m]` to `[d]`, detached from the graph.
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

/// A polynomial of degree 3 over the prime field: with random coefficients, its values at any four points are
/// independent and uniform.
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
            // Both factors are below 2⁶¹, so this is below 2¹²² + 2⁶¹; 2⁶¹ equals 1 in this field.
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
    /// Creates `rows` tables of `columns` buckets for vectors of `dimension` elements. With an odd number of
    /// rows, the median is one of the estimates.
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

    /// Estimates these elements of `x` from its sketch, `[r · c]`, by the median.
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

    /// Returns the indices and estimates of the `count` elements of `x` with the largest estimates in
    /// magnitude, the largest first, from its sketch, `[r · c]`. If `x` has fewer elements, all are returned.
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

/// The subsampled randomised Hadamard transform; see the [module documentation](self).
///
/// It stores the `d` signs and the indices of the `m` rows taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Srht {
    /// `n`.
    padded: usize,
    /// The diagonal of `D`, `[d]`; the padding is 0 and needs no signs.
    signs: Vec<f64>,
    /// The rows that `P` takes, in increasing order, `[m]`.
    taken: Vec<usize>,
}

impl Srht {
    /// With `rows = m` numbers, for vectors of `dimension` elements. `rows` may be at most the next power of
    /// two.
    ///
    /// # Errors
    /// If a size is 0, or there are fewer rows.
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
        // With one row there is nothing to choose.
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

/// The Walsh-Hadamard transform in natural order and without a factor. The number of values must be a power
/// of two. With `H_1 = 1`,
///
/// ```text
/// H_{2n} = [ H_n  H_n ; H_n  −H_n ]
/// ```
fn walsh_hadamard(values: &mut [f64]) {
    /// The size below which another thread costs more than it saves.
    const SEQUENTIAL: usize = 1 << 14;
    let half = values.len() / 2;
    if half == 0 {
        return;
    }
    let (low, high) = values.split_at_mut(half);
    // The sums are the same whether or not both halves are transformed in parallel.
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
mod tests;
