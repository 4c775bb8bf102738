//! Compressors: fewer bits for a gradient, with the constants that convergence theory needs.
//!
//! A worker that sends `C(x)` to the others instead of `x` needs less of the network between them, but more
//! steps. How many more depends on one constant, which holds for all `x ∈ Rᵈ`:
//!
//! ```text
//! unbiased:     E C(x) = x,  E‖C(x) − x‖² ≤ ω ‖x‖²          (Constant::Variance)
//! contraction:               E‖C(x) − x‖² ≤ (1 − δ) ‖x‖²     (Constant::Contraction)
//! ```
//!
//! An unbiased compressor can replace a gradient as it is. A contraction is biased and needs [error
//! feedback](crate::error_feedback), which adds what was left out to the next step. Dividing an unbiased
//! compressor by `1 + ω` makes it a contraction with `δ = 1 / (1 + ω)`.
//!
//! | Compressor | What it sends | Constant | Bits |
//! |---|---|---|---|
//! | [`RandK`] | `K` random elements, times `d/K` | `ω = d/K − 1` | `K (32 + ⌈log₂ d⌉)` |
//! | [`TopK`] | the `K` largest elements | `δ = K/d` | `K (32 + ⌈log₂ d⌉)` |
//! | [`ScaledSign`] | `‖x‖₁/d · sign(x)` | `δ = 1/d` | `32 + d` |
//! | [`Qsgd`] | `‖x‖₂ sign(x) ξ`, `s` levels | `ω = min(d/s², √d/s)` | `32 + d ⌈log₂(2s+1)⌉` |
//! | [`Natural`] | powers of two | `ω = 1/8` | `9 d` |
//! | [`Identity`] | `x` | `ω = 0` | `32 d` |
//!
//! The constant of [`ScaledSign`] is for the worst `x`, which has a single nonzero element. For a
//! given `x` its contraction is exactly `‖x‖₁² / (d ‖x‖²)`, which is 2/π for Gaussian elements.
//!
//! [`Compressed::to_bytes`] packs a message into the number of bits in the table, after a header of 18 bytes,
//! and [`Compressed::from_bytes`] reads it.
//!
//! Everything happens on the host, from which the message is sent. Every compressor draws from the noise
//! passed to it, one number per element in order, so a seed gives the same message on every device and with
//! any number of threads.
//!
//! Sources: Stich, Cordonnier, Jaggi, *Sparsified SGD with Memory*, NeurIPS 2018, arXiv 1809.07599,
//! definition 2.1 and appendix A (RandK, TopK); Karimireddy et al., *Error Feedback Fixes SignSGD
//! and other Gradient Compression Schemes*, ICML 2019, arXiv 1901.09847 (sign); Alistarh et
//! al., *QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding*, NeurIPS 2017,
//! arXiv 1610.02132, lemma 3.1; Horváth et al., *Natural Compression for Distributed Deep
//! Learning*, 2019, arXiv 1905.10988, theorem 1; Beznosikov et al., *On Biased Compression for
//! Distributed Learning*, JMLR 2023, arXiv 2002.12410 (the classes of compressors).

use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use rand::RngExt;
use rand::seq::index;

use crate::seeded_noise::SeededNoise;

pub(crate) mod wire;

pub use wire::WireError;

/// The reason why a vector cannot be compressed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompressorError {
    /// The number of elements or levels is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The vector has no elements.
    #[error("the vector must have at least one element")]
    Empty,
    /// An element is infinite or not a number.
    #[error("the vector must be finite, but element {index} is {value}")]
    NotFinite {
        /// Its position.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A number of the message is too large for an f32.
    #[error("the vector is too large: its {what} is more than 3.4e38, the largest f32")]
    Overflow {
        /// The norm, or the rounded element.
        what: &'static str,
    },
    /// An index of a sparse message is outside the vector, or not above the index before it.
    #[error(
        "the indices of a sparse message must rise and lie below {dimension}, but there is {index}"
    )]
    Index {
        /// The index.
        index: usize,
        /// The length of the vector.
        dimension: usize,
    },
    /// The vector cannot be read from its device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// What a compressor guarantees for every vector `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Constant {
    /// `ω`: the compressor is unbiased, and `E‖C(x) − x‖² ≤ ω ‖x‖²`.
    Variance(f64),
    /// `δ` in `(0, 1]`: `E‖C(x) − x‖² ≤ (1 − δ) ‖x‖²`; the compressor is biased.
    Contraction(f64),
}

impl Constant {
    /// The `δ` of the compressor in error feedback: its own, or `1 / (1 + ω)` for an unbiased compressor,
    /// which is then divided by `1 + ω`.
    pub fn contraction(self) -> f64 {
        match self {
            Self::Variance(omega) => 1.0 / (1.0 + omega),
            Self::Contraction(delta) => delta,
        }
    }
}

/// A map from vectors to shorter messages.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::compressor::{Compressor, Constant, TopK};
/// use nabla_grad::seeded_noise::SeededNoise;
///
/// let device = Device::flex();
/// let gradient = Tensor::<1>::from_floats([0.1, -3.0, 0.2, 2.0], &device);
/// let top = TopK::new(2)?;
/// let message = top.compress(&gradient, &mut SeededNoise::new(42, 0))?;
/// assert_eq!(message.size_in_bits(), 2 * (32 + 2));
/// assert_eq!(top.constant(4), Constant::Contraction(0.5));
/// let received = message.decompress(&device);
/// assert_eq!(received.into_data().try_to_vec::<f32>()?, [0.0, -3.0, 0.0, 2.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Compressor {
    /// The message for `vector`, `[d]`.
    ///
    /// # Errors
    /// If the vector has no elements, is not finite, or cannot be read from its device.
    fn compress(
        &self,
        vector: &Tensor<1>,
        noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError>;

    /// Returns the constant that the compressor guarantees for vectors of `dimension` elements.
    fn constant(&self, dimension: usize) -> Constant;
}

impl<C: Compressor + ?Sized> Compressor for &C {
    fn compress(
        &self,
        vector: &Tensor<1>,
        noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError> {
        (**self).compress(vector, noise)
    }

    fn constant(&self, dimension: usize) -> Constant {
        (**self).constant(dimension)
    }
}

impl<C: Compressor + ?Sized> Compressor for Box<C> {
    fn compress(
        &self,
        vector: &Tensor<1>,
        noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError> {
        (**self).compress(vector, noise)
    }

    fn constant(&self, dimension: usize) -> Constant {
        (**self).constant(dimension)
    }
}

/// A compressed vector, which is the message to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Compressed {
    dimension: usize,
    form: Form,
}

#[derive(Clone, Debug, PartialEq)]
enum Form {
    /// Elements in increasing order of their indices.
    Sparse {
        indices: Vec<usize>,
        values: Vec<f32>,
    },
    /// `scale` with each element's sign.
    Signs {
        scale: f32,
        negative: Vec<bool>,
    },
    /// `scale · level / levels`, with levels from `−levels` to `levels`.
    Levels {
        scale: f32,
        levels: u32,
        level: Vec<i32>,
    },
    /// 0 or `± 2^(code − 127)`, as the sign and the exponent of an f32.
    Powers(Vec<i16>),
    Dense(Vec<f32>),
}

impl Compressed {
    /// Creates a message with some elements of a vector of length `dimension`, for your own compressors.
    ///
    /// - `indices`: in increasing order; `values`: one per index
    ///
    /// # Errors
    /// If an index is too high or not above the one before it, or a value is not finite.
    ///
    /// ```
    /// use nabla_grad::compressor::Compressed;
    ///
    /// let message = Compressed::of_sparse(4, &[1, 3], &[-3.0, 2.0])?;
    /// assert_eq!(message.values(), [0.0, -3.0, 0.0, 2.0]);
    /// assert!(Compressed::of_sparse(4, &[3, 1], &[2.0, -3.0]).is_err());
    /// # Ok::<(), nabla_grad::compressor::CompressorError>(())
    /// ```
    pub fn of_sparse(
        dimension: usize,
        indices: &[usize],
        values: &[f32],
    ) -> Result<Self, CompressorError> {
        let mut least = 0;
        for (&index, &value) in indices.iter().zip(values) {
            if index < least || index >= dimension {
                return Err(CompressorError::Index { index, dimension });
            }
            if !value.is_finite() {
                return Err(CompressorError::NotFinite { index, value });
            }
            least = index + 1;
        }
        let count = indices.len().min(values.len());
        Ok(Self {
            dimension,
            form: Form::Sparse {
                indices: indices[..count].to_vec(),
                values: values[..count].to_vec(),
            },
        })
    }

    /// Creates a message with every element of a vector, for your own compressors that change the elements.
    ///
    /// # Errors
    /// If there are no elements, or one is not finite.
    pub fn of_dense(values: Vec<f32>) -> Result<Self, CompressorError> {
        let values = checked(values)?;
        Ok(Self {
            dimension: values.len(),
            form: Form::Dense(values),
        })
    }

    /// The length `d` of the vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The indices that were sent, in increasing order, and their values, if the message is sparse.
    pub fn sparse(&self) -> Option<(&[usize], &[f32])> {
        match &self.form {
            Form::Sparse { indices, values } => Some((indices, values)),
            _ => None,
        }
    }

    /// The vector as the receiver reconstructs it, `[d]`, in f32.
    pub fn decompress(&self, device: &Device) -> Tensor<1> {
        Tensor::from_data(TensorData::new(self.values(), [self.dimension]), device)
    }

    /// The message for the vector times `factor`, up to rounding. A message of powers of two is left
    /// unscaled, since its numbers would no longer be powers of two.
    pub(crate) fn scaled(mut self, factor: f64) -> Self {
        let scale = |value: &mut f32| *value = (f64::from(*value) * factor) as f32;
        match &mut self.form {
            Form::Sparse { values, .. } | Form::Dense(values) => values.iter_mut().for_each(scale),
            Form::Signs { scale: number, .. } | Form::Levels { scale: number, .. } => scale(number),
            Form::Powers(_) => {}
        }
        self
    }

    /// [`decompress`](Self::decompress) on the host.
    pub fn values(&self) -> Vec<f32> {
        match &self.form {
            Form::Sparse { indices, values } => {
                let mut dense = vec![0.0; self.dimension];
                for (&index, &value) in indices.iter().zip(values) {
                    dense[index] = value;
                }
                dense
            }
            Form::Signs { scale, negative } => negative
                .iter()
                .map(|&negative| if negative { -scale } else { *scale })
                .collect(),
            Form::Levels {
                scale,
                levels,
                level,
            } => level
                .iter()
                .map(|&level| (f64::from(*scale) * f64::from(level) / f64::from(*levels)) as f32)
                .collect(),
            Form::Powers(codes) => codes.iter().map(|&code| power(code)).collect(),
            Form::Dense(values) => values.clone(),
        }
    }

    /// Adds a multiple of the vector to `sum`, of which a sparse message touches only what it has.
    pub fn add_to(&self, sum: &mut [f64], factor: f64) {
        if let Form::Sparse { indices, values } = &self.form {
            for (&index, &value) in indices.iter().zip(values) {
                sum[index] += factor * f64::from(value);
            }
            return;
        }
        for (sum, value) in sum.iter_mut().zip(self.values()) {
            *sum += factor * f64::from(value);
        }
    }

    /// The size of the message in a code of fixed length: 32 bits for a number, and for an index or a level
    /// the bits that distinguish all of them. In theory both sides know the length `d` and the kind;
    /// [`size_in_bytes`](Self::size_in_bytes) counts these too.
    pub fn size_in_bits(&self) -> u64 {
        let dimension = self.dimension as u64;
        match &self.form {
            Form::Sparse { indices, .. } => {
                indices.len() as u64 * u64::from(32 + bits_for(dimension))
            }
            Form::Signs { .. } => 32 + dimension,
            Form::Levels { levels, .. } => {
                32 + dimension * u64::from(bits_for(2 * u64::from(*levels) + 1))
            }
            // One bit for the sign, eight for the exponent.
            Form::Powers(_) => 9 * dimension,
            Form::Dense(_) => 32 * dimension,
        }
    }
}

/// `⌈log₂ count⌉`.
fn bits_for(count: u64) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// The elements, checked to exist and to be finite.
fn elements(vector: &Tensor<1>) -> Result<Vec<f32>, CompressorError> {
    let values = vector
        .try_to_vec_as::<f32>()
        .map_err(|error| CompressorError::Device(error.to_string()))?;
    checked(values)
}

/// `values`, checked to exist and to be finite.
fn checked(values: Vec<f32>) -> Result<Vec<f32>, CompressorError> {
    if values.is_empty() {
        return Err(CompressorError::Empty);
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(CompressorError::NotFinite {
            index,
            value: values[index],
        }),
        None => Ok(values),
    }
}

/// The unchanged vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity;

impl Compressor for Identity {
    fn compress(
        &self,
        vector: &Tensor<1>,
        _noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError> {
        let values = elements(vector)?;
        Ok(Compressed {
            dimension: values.len(),
            form: Form::Dense(values),
        })
    }

    fn constant(&self, _dimension: usize) -> Constant {
        Constant::Variance(0.0)
    }
}

/// `K` elements drawn without replacement, times `d/K`: `C(x) = d/K Σ_{i ∈ S} x_i e_i`. Its variance
/// is `(d/K − 1) ‖x‖²` for every `x`. All elements are kept if the vector has no more than `K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandK {
    k: usize,
}

impl RandK {
    /// Keeps `k ≥ 1` elements.
    ///
    /// # Errors
    /// If `k` is 0.
    pub fn new(k: usize) -> Result<Self, CompressorError> {
        range::at_least("number of kept elements K", k, 1)?;
        Ok(Self { k })
    }
}

impl Compressor for RandK {
    fn compress(
        &self,
        vector: &Tensor<1>,
        noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError> {
        let x = elements(vector)?;
        let kept = self.k.min(x.len());
        let mut indices = index::sample(noise, x.len(), kept).into_vec();
        indices.sort_unstable();
        let scale = x.len() as f64 / kept as f64;
        let values: Vec<f32> = indices
            .iter()
            .map(|&index| (f64::from(x[index]) * scale) as f32)
            .collect();
        if values.iter().any(|value| value.is_infinite()) {
            return Err(CompressorError::Overflow {
                what: "scaled element",
            });
        }
        Ok(Compressed {
            dimension: x.len(),
            form: Form::Sparse { indices, values },
        })
    }

    fn constant(&self, dimension: usize) -> Constant {
        let kept = self.k.min(dimension.max(1));
        Constant::Variance(dimension.max(1) as f64 / kept as f64 - 1.0)
    }
}

/// The `K` elements of largest magnitude; among equals, the smaller index wins. All elements are kept if the
/// vector has no more than `K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopK {
    k: usize,
}

impl TopK {
    /// Keeps `k ≥ 1` elements.
    ///
    /// # Errors
    /// If `k` is 0.
    pub fn new(k: usize) -> Result<Self, CompressorError> {
        range::at_least("number of kept elements K", k, 1)?;
        Ok(Self { k })
    }
}

impl Compressor for TopK {
    fn compress(
        &self,
        vector: &Tensor<1>,
        _noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError> {
        let x = elements(vector)?;
        let mut indices: Vec<usize> = (0..x.len()).collect();
        if self.k < x.len() {
            let order = |&a: &usize, &b: &usize| {
                let falling = x[b].abs().total_cmp(&x[a].abs());
                falling.then(a.cmp(&b))
            };
            indices.select_nth_unstable_by(self.k, order);
            indices.truncate(self.k);
            indices.sort_unstable();
        }
        let values = indices.iter().map(|&index| x[index]).collect();
        Ok(Compressed {
            dimension: x.len(),
            form: Form::Sparse { indices, values },
        })
    }

    fn constant(&self, dimension: usize) -> Constant {
        let kept = self.k.min(dimension.max(1));
        Constant::Contraction(kept as f64 / dimension.max(1) as f64)
    }
}

/// `‖x‖₁/d · sign(x)`, one bit per element, with `sign(0) = 1`. Then
/// `‖C(x) − x‖² = (1 − ‖x‖₁² / (d ‖x‖²)) ‖x‖²` exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScaledSign;

impl Compressor for ScaledSign {
    fn compress(
        &self,
        vector: &Tensor<1>,
        _noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError> {
        let x = elements(vector)?;
        let one_norm: f64 = x.iter().map(|&value| f64::from(value.abs())).sum();
        Ok(Compressed {
            dimension: x.len(),
            form: Form::Signs {
                scale: (one_norm / x.len() as f64) as f32,
                negative: x.iter().map(|&value| value < 0.0).collect(),
            },
        })
    }

    fn constant(&self, dimension: usize) -> Constant {
        Constant::Contraction(1.0 / dimension.max(1) as f64)
    }
}

/// Stochastic rounding to `s` levels of the norm: `C(x)_i = ‖x‖₂ sign(x_i) ξ_i`, where `ξ_i` is one of the
/// two multiples of `1/s` around `|x_i| / ‖x‖₂`. The nearer one is more likely, so that the mean is exact.
/// With one level the message is ternary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qsgd {
    levels: u32,
}

impl Qsgd {
    /// The largest number of levels; with more, f32 itself would be as accurate.
    const HIGHEST: u32 = 1 << 23;

    /// Creates the compressor with `s` levels besides 0, from 1 to 2²³.
    ///
    /// # Errors
    /// If the number is out of that range.
    pub fn new(levels: u32) -> Result<Self, CompressorError> {
        range::within("number of levels", levels, 1..=Self::HIGHEST)?;
        Ok(Self { levels })
    }
}

impl Compressor for Qsgd {
    fn compress(
        &self,
        vector: &Tensor<1>,
        noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError> {
        let x = elements(vector)?;
        let squares = x.iter().map(|&value| f64::from(value).powi(2));
        let norm = squares.sum::<f64>().sqrt();
        // The norm is sent as an f32. Rounding it up keeps every element within the highest level. The mean
        // stays exact, since levels are fractions of the number that is sent.
        let mut scale = norm as f32;
        if f64::from(scale) < norm {
            scale = scale.next_up();
        }
        if scale.is_infinite() {
            return Err(CompressorError::Overflow { what: "norm" });
        }
        let levels = f64::from(self.levels);
        let quantise = |&value: &f32| {
            let uniform: f64 = noise.random();
            if value == 0.0 {
                return 0;
            }
            // At most s, so the upper level is reached with probability 0 there.
            let position = f64::from(value.abs()) / f64::from(scale) * levels;
            let lower = position.floor();
            let level = lower as i32 + i32::from(uniform < position - lower);
            if value < 0.0 { -level } else { level }
        };
        Ok(Compressed {
            dimension: x.len(),
            form: Form::Levels {
                scale,
                levels: self.levels,
                level: x.iter().map(quantise).collect(),
            },
        })
    }

    fn constant(&self, dimension: usize) -> Constant {
        let (d, s) = (dimension as f64, f64::from(self.levels));
        Constant::Variance((d / (s * s)).min(d.sqrt() / s))
    }
}

/// Stochastic rounding to one of the two powers of two around each element, which is an f32 without its
/// mantissa. The nearer one is more likely, so that the mean is exact.
///
/// Below 2⁻¹²⁶, where f32 has no normal powers, the two are 0 and 2⁻¹²⁶. This is unbiased too; each such
/// element adds a variance of at most 2⁻²⁵⁴ to `‖x‖² / 8`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Natural;

/// The bits of an f32's mantissa.
const MANTISSA: u32 = 23;

/// The power of two of a code, which is the sign and the exponent field of an f32.
fn power(code: i16) -> f32 {
    let magnitude = f32::from_bits(u32::from(code.unsigned_abs()) << MANTISSA);
    if code < 0 { -magnitude } else { magnitude }
}

impl Compressor for Natural {
    fn compress(
        &self,
        vector: &Tensor<1>,
        noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError> {
        let x = elements(vector)?;
        let round = |&value: &f32| {
            let uniform: f64 = noise.random();
            // The exponent field of a finite f32 is at most 254. The next value, 255, means infinity.
            let lower = (value.abs().to_bits() >> MANTISSA) as i16;
            let (below, above) = (power(lower), power(lower + 1));
            let up = if above.is_finite() {
                let (below, above) = (f64::from(below), f64::from(above));
                uniform < (f64::from(value.abs()) - below) / (above - below)
            } else if value.abs() == below {
                false
            } else {
                return Err(CompressorError::Overflow {
                    what: "rounded element",
                });
            };
            let code = lower + i16::from(up);
            Ok(if value < 0.0 { -code } else { code })
        };
        Ok(Compressed {
            dimension: x.len(),
            form: Form::Powers(x.iter().map(round).collect::<Result<_, _>>()?),
        })
    }

    fn constant(&self, _dimension: usize) -> Constant {
        Constant::Variance(1.0 / 8.0)
    }
}

#[cfg(test)]
mod tests;
