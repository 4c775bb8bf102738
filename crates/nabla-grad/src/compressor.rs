//! Compressors: fewer bits for a gradient, and the constants that convergence theory asks for.
//!
//! A worker that sends `C(x)` instead of `x` to the others trains as fast as the network between
//! them allows, and how many more steps it needs depends on one number, over all `x ∈ Rᵈ`:
//!
//! ```text
//! unbiased:     E C(x) = x,  E‖C(x) − x‖² ≤ ω ‖x‖²          (Constant::Variance)
//! contraction:               E‖C(x) − x‖² ≤ (1 − δ) ‖x‖²     (Constant::Contraction)
//! ```
//!
//! An unbiased compressor can replace a gradient as it is. A contraction is biased and needs
//! [error feedback](crate::error_feedback), which adds what was left out to the next step. `C / (1 + ω)` makes a contraction with
//! `δ = 1 / (1 + ω)` of an unbiased one.
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
//! The constant of [`ScaledSign`] is that of the worst `x`, with one element that is not zero. For a
//! given `x` its contraction is exactly `‖x‖₁² / (d ‖x‖²)`, which is 2/π for Gaussian elements.
//!
//! [`Compressed::to_bytes`] packs a message into as many bits as the table says, behind a header of 18
//! bytes, and [`Compressed::from_bytes`] reads it.
//!
//! Everything happens on the host, where the message is sent from. Every compressor draws from the
//! noise that it is given, one number per element and in their order, so that a seed gives the same
//! message on every device and with any number of threads.
//!
//! Sources: Stich, Cordonnier, Jaggi, *Sparsified SGD with Memory*, NeurIPS 2018, arXiv 1809.07599,
//! definition 2.1 and appendix A (RandK, TopK); Karimireddy et al., *Error Feedback Fixes SignSGD
//! and other Gradient Compression Schemes*, ICML 2019, arXiv 1901.09847 (sign); Alistarh et
//! al., *QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding*, NeurIPS 2017,
//! arXiv 1610.02132, lemma 3.1; Horváth et al., *Natural Compression for Distributed Deep
//! Learning*, 2019, arXiv 1905.10988, theorem 1; Beznosikov et al., *On Biased Compression for
//! Distributed Learning*, JMLR 2023, arXiv 2002.12410 (the classes of compressors).

use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand::seq::index;

use crate::seeded_noise::SeededNoise;

pub(crate) mod wire;

pub use wire::WireError;

/// Why a vector cannot be compressed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompressorError {
    /// Nothing would be sent.
    #[error("a sparse compressor must keep at least one element, but K is 0")]
    NoElements,
    /// Nothing could be told apart.
    #[error("the number of levels must lie in 1 to {highest}, but it is {levels}", highest = Qsgd::HIGHEST)]
    Levels {
        /// The number asked for.
        levels: u32,
    },
    /// A vector without elements.
    #[error("the vector must have at least one element")]
    Empty,
    /// An element that is infinite or not a number.
    #[error("the vector must be finite, but element {index} is {value}")]
    NotFinite {
        /// Its place.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A number of the message that is larger than an f32 can be.
    #[error("the vector is too large: its {what} is more than 3.4e38, the largest f32")]
    Overflow {
        /// Norm or rounded element.
        what: &'static str,
    },
    /// An index of a sparse message that is no place of the vector, or not above the one before.
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
    /// `δ` of the compressor used with error feedback: its own, or `1 / (1 + ω)` of an unbiased one
    /// divided by `1 + ω`.
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

    /// What the compressor guarantees for vectors of `dimension` elements.
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

/// A compressed vector: the message that is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Compressed {
    dimension: usize,
    form: Form,
}

#[derive(Clone, Debug, PartialEq)]
enum Form {
    /// Elements in rising order of their indices.
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
    /// The message that has some elements of a vector of `dimension`, for a compressor of one's own.
    ///
    /// - `indices`: rising; `values`: as many
    ///
    /// # Errors
    /// If an index does not rise or is too high, or a value is not finite.
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

    /// The message that has every element of a vector, for a compressor of one's own that changes them.
    ///
    /// # Errors
    /// If there are none, or one is not finite.
    pub fn of_dense(values: Vec<f32>) -> Result<Self, CompressorError> {
        if values.is_empty() {
            return Err(CompressorError::Empty);
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(CompressorError::NotFinite {
                index,
                value: values[index],
            }),
            None => Ok(Self {
                dimension: values.len(),
                form: Form::Dense(values),
            }),
        }
    }

    /// The length `d` of the vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The indices that were sent, in rising order, and their values, if the message is sparse.
    pub fn sparse(&self) -> Option<(&[usize], &[f32])> {
        match &self.form {
            Form::Sparse { indices, values } => Some((indices, values)),
            _ => None,
        }
    }

    /// What the receiver takes for the vector, `[d]`, in f32.
    pub fn decompress(&self, device: &Device) -> Tensor<1> {
        Tensor::from_data(TensorData::new(self.values(), [self.dimension]), device)
    }

    /// The message for the vector times `factor`, but for the rounding of its numbers. Powers of two
    /// stay as they are: no factor leaves all of them powers.
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

    /// The size of the message in a code of fixed length: 32 bits for a number, as many for an index
    /// or a level as tell all of them apart. The length `d` and the kind are known to both sides in
    /// theory; [`size_in_bytes`](Self::size_in_bytes) counts them too.
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

/// The elements, if there are any and all are finite.
fn elements(vector: &Tensor<1>) -> Result<Vec<f32>, CompressorError> {
    let values = vector
        .try_to_vec_as::<f32>()
        .map_err(|error| CompressorError::Device(error.to_string()))?;
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

/// The vector as it is.
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
/// is `(d/K − 1) ‖x‖²` for every `x`. All elements if the vector has no more than `K`.
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
        if k == 0 {
            return Err(CompressorError::NoElements);
        }
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

/// The `K` elements of largest magnitude; of equal ones, those of smaller index. All elements if the
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
        if k == 0 {
            return Err(CompressorError::NoElements);
        }
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

/// Stochastic rounding to `s` levels of the norm: `C(x)_i = ‖x‖₂ sign(x_i) ξ_i`, where `ξ_i` is one
/// of both multiples of `1/s` around `|x_i| / ‖x‖₂`, the nearer the likelier, so that its mean is
/// right. With one level it is ternary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qsgd {
    levels: u32,
}

impl Qsgd {
    /// The largest number of levels: beyond it, f32 is as exact.
    const HIGHEST: u32 = 1 << 23;

    /// With `s` levels beside 0, from 1 to 2²³.
    ///
    /// # Errors
    /// If the number is out of that range.
    pub fn new(levels: u32) -> Result<Self, CompressorError> {
        if (1..=Self::HIGHEST).contains(&levels) {
            Ok(Self { levels })
        } else {
            Err(CompressorError::Levels { levels })
        }
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
        // The norm is sent as an f32. Rounded up, no element is above the highest level, and as the
        // levels are shares of the number that is sent, the mean stays exact.
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

/// Stochastic rounding to one of both powers of two around each element, the nearer the likelier, so
/// that its mean is right: an f32 without its mantissa.
///
/// Below 2⁻¹²⁶, where f32 has no powers with a full exponent, both are 0 and 2⁻¹²⁶: unbiased too,
/// with a variance of at most 2⁻²⁵⁴ per such element beside `‖x‖² / 8`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Natural;

/// The bits of an f32's mantissa.
const MANTISSA: u32 = 23;

/// The power of two of a code: its sign and the exponent field of an f32.
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
            // The exponent field of a finite f32 is at most 254; that of the power above, 255, is
            // the one of infinity.
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector(values: &[f32]) -> Tensor<1> {
        Tensor::from_data(
            TensorData::new(values.to_vec(), [values.len()]),
            &Device::flex(),
        )
    }

    fn sent(compressor: &dyn Compressor, x: &[f32], noise: &mut SeededNoise) -> Vec<f32> {
        let message = compressor.compress(&vector(x), noise).unwrap();
        assert_eq!(message.dimension(), x.len());
        let received = message.decompress(&Device::flex());
        received.into_data().try_to_vec().unwrap()
    }

    fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
            .sum()
    }

    fn squared_norm(x: &[f32]) -> f64 {
        squared_distance(x, &vec![0.0; x.len()])
    }

    /// Vectors on which compressors differ most: dense, equal, one-hot, steep, and with zeros.
    fn vectors(d: usize) -> Vec<Vec<f32>> {
        let mut noise = SeededNoise::new(11, 0);
        let mut one_hot = vec![0.0; d];
        one_hot[d / 2] = -3.0;
        vec![
            noise.normal_values(d),
            vec![0.7; d],
            one_hot,
            (0..d).map(|i| 0.6_f32.powi(i as i32) * 5.0).collect(),
            // The worst of powers of two: 4/3 of one.
            (0..d)
                .map(|i| if i % 2 == 0 { 4.0 / 3.0 } else { 0.0 })
                .collect(),
        ]
    }

    fn unbiased() -> Vec<(&'static str, Box<dyn Compressor>)> {
        vec![
            ("RandK", Box::new(RandK::new(5).unwrap())),
            ("RandK of one", Box::new(RandK::new(1).unwrap())),
            ("ternary", Box::new(Qsgd::new(1).unwrap())),
            ("QSGD", Box::new(Qsgd::new(4).unwrap())),
            ("fine QSGD", Box::new(Qsgd::new(100).unwrap())),
            ("natural", Box::new(Natural)),
            ("identity", Box::new(Identity)),
        ]
    }

    /// `E (C(x)_i − x_i)²` of each element, by its closed form.
    fn exact_variances(name: &str, x: &[f32]) -> Vec<f64> {
        let (d, norm) = (x.len() as f64, squared_norm(x).sqrt());
        // Rounding at random between both multiples of `width` around the magnitude.
        let rounded = |magnitude: f64, width: f64| {
            let share = magnitude / width - (magnitude / width).floor();
            width * width * share * (1.0 - share)
        };
        let variance = |magnitude: f64| match name {
            "RandK" => (d / 5.0 - 1.0) * magnitude * magnitude,
            "RandK of one" => (d - 1.0) * magnitude * magnitude,
            "ternary" => rounded(magnitude, norm),
            "QSGD" => rounded(magnitude, norm / 4.0),
            "fine QSGD" => rounded(magnitude, norm / 100.0),
            "natural" if magnitude == 0.0 => 0.0,
            "natural" => rounded(magnitude, magnitude.log2().floor().exp2()),
            "identity" => 0.0,
            _ => panic!("{name}"),
        };
        x.iter().map(|v| variance(f64::from(v.abs()))).collect()
    }

    fn exact_variance(name: &str, x: &[f32]) -> f64 {
        exact_variances(name, x).into_iter().sum()
    }

    #[test]
    fn means_and_variances_are_those_of_theory() {
        let (d, trials) = (24, 20_000);
        for (number, x) in vectors(d).iter().enumerate() {
            for (name, compressor) in unbiased() {
                let mut noise = SeededNoise::new(42, number as u64);
                let mut sums = vec![0.0; d];
                let mut errors = (0.0, 0.0);
                for _ in 0..trials {
                    let c = sent(compressor.as_ref(), x, &mut noise);
                    for (sum, (&c, &x)) in sums.iter_mut().zip(c.iter().zip(x)) {
                        *sum += f64::from(c) - f64::from(x);
                    }
                    let error = squared_distance(&c, x);
                    errors.0 += error;
                    errors.1 += error * error;
                }
                let n = f64::from(trials);
                let (exact, square) = (exact_variance(name, x), squared_norm(x));
                let rounding = 1e-6 * (square + exact);
                // Five standard errors, of 840 estimates; and one message, as a small element is
                // sent so rarely that the number of times is far from normal.
                let largest = (d as f64 * square).sqrt();
                let variances = exact_variances(name, x);
                for (index, (sum, variance)) in sums.into_iter().zip(variances).enumerate() {
                    let few = if variance > 0.0 { largest / n } else { 0.0 };
                    let bound = 5.0 * (variance / n).sqrt() + few + 1e-6 * square.sqrt();
                    assert!(
                        (sum / n).abs() <= bound,
                        "{name}, vector {number}, element {index}: bias {}",
                        sum / n
                    );
                }
                let mean = errors.0 / n;
                let spread = (errors.1 / n - mean * mean).max(0.0);
                assert!(
                    (mean - exact).abs() <= 5.0 * (spread / n).sqrt() + rounding,
                    "{name}, vector {number}: {mean} {exact}"
                );
                let Constant::Variance(omega) = compressor.constant(d) else {
                    panic!("{name}");
                };
                assert!(
                    exact <= omega * square * (1.0 + 1e-6),
                    "{name}, vector {number}: {exact} {}",
                    omega * square
                );
                // As a contraction: ‖C/(1 + ω) − x‖² has mean (V + ω² ‖x‖²) / (1 + ω)².
                let shrunk = (exact + omega * omega * square) / (1.0 + omega).powi(2);
                let delta = compressor.constant(d).contraction();
                assert!(shrunk <= (1.0 - delta) * square * (1.0 + 1e-6), "{name}");
            }
        }
    }

    #[test]
    fn the_constants_are_attained() {
        // RandK by every vector, natural compression by 4/3.
        let worst = [4.0 / 3.0; 3];
        let share = exact_variance("natural", &worst) / squared_norm(&worst);
        assert!((share - 0.125).abs() < 1e-6, "{share}");
        // TopK by equal elements, the sign by one element that is not zero.
        let mut noise = SeededNoise::new(0, 0);
        let equal = [0.5; 12];
        let error = squared_distance(&sent(&TopK::new(3).unwrap(), &equal, &mut noise), &equal);
        assert!(
            (error - 0.75 * squared_norm(&equal)).abs() < 1e-6,
            "{error}"
        );
        let mut one_hot = [0.0; 12];
        one_hot[4] = -2.0;
        let error = squared_distance(&sent(&ScaledSign, &one_hot, &mut noise), &one_hot);
        assert!((error - 4.0 * (1.0 - 1.0 / 12.0)).abs() < 1e-6, "{error}");
    }

    #[test]
    fn constants_of_chosen_dimensions() {
        let variance = |compressor: &dyn Compressor, d| match compressor.constant(d) {
            Constant::Variance(omega) => omega,
            Constant::Contraction(_) => panic!("biased"),
        };
        assert_eq!(variance(&RandK::new(25).unwrap(), 100), 3.0);
        assert_eq!(variance(&RandK::new(25).unwrap(), 20), 0.0);
        // Few levels: √d/s; many: d/s².
        assert_eq!(variance(&Qsgd::new(2).unwrap(), 100), 5.0);
        assert_eq!(variance(&Qsgd::new(100).unwrap(), 100), 0.01);
        assert_eq!(variance(&Identity, 7), 0.0);
        assert_eq!(
            TopK::new(25).unwrap().constant(100),
            Constant::Contraction(0.25)
        );
        assert_eq!(
            TopK::new(25).unwrap().constant(20),
            Constant::Contraction(1.0)
        );
        assert_eq!(ScaledSign.constant(8), Constant::Contraction(0.125));
        assert_eq!(Constant::Variance(3.0).contraction(), 0.25);
    }

    proptest! {
        #[test]
        fn contractions_contract(
            d in 1_usize..60,
            k in 1_usize..70,
            seed: u64,
            steepness in 0.0..8.0_f64,
        ) {
            // From dense to nearly one-hot.
            let mut noise = SeededNoise::new(seed, 0);
            let x: Vec<f32> = noise
                .normal_values(d)
                .into_iter()
                .map(|v| v.signum() * v.abs().powf(steepness as f32))
                .collect();
            let square = squared_norm(&x);
            for compressor in [&TopK::new(k).unwrap() as &dyn Compressor, &ScaledSign] {
                let Constant::Contraction(delta) = compressor.constant(d) else {
                    panic!("unbiased");
                };
                let error = squared_distance(&sent(compressor, &x, &mut noise), &x);
                prop_assert!(error <= (1.0 - delta) * square + 1e-6 * square);
            }
            // The sign's contraction for this vector.
            let one_norm: f64 = x.iter().map(|&v| f64::from(v.abs())).sum();
            let error = squared_distance(&sent(&ScaledSign, &x, &mut noise), &x);
            let expected = square - one_norm * one_norm / d as f64;
            prop_assert!((error - expected).abs() <= 1e-5 * square);
            // Of all choices of K elements, TopK's leaves the least.
            let mut squares: Vec<f64> = x.iter().map(|&v| f64::from(v).powi(2)).collect();
            squares.sort_by(|a, b| b.total_cmp(a));
            let left: f64 = squares.iter().skip(k).sum();
            let error = squared_distance(&sent(&TopK::new(k).unwrap(), &x, &mut noise), &x);
            prop_assert!((error - left).abs() <= 1e-12 * square);
        }

        #[test]
        fn any_bits_are_compressed_or_refused(bits in prop::collection::vec(any::<u32>(), 0..40)) {
            let x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let biased: [Box<dyn Compressor>; 2] =
                [Box::new(TopK::new(3).unwrap()), Box::new(ScaledSign)];
            let all = unbiased().into_iter().map(|(_, compressor)| compressor).chain(biased);
            for compressor in all {
                let message = compressor.compress(&vector(&x), &mut SeededNoise::new(0, 0));
                match message {
                    Ok(message) => {
                        let received = message.decompress(&Device::flex());
                        let received: Vec<f32> = received.into_data().try_to_vec().unwrap();
                        prop_assert_eq!(received.len(), x.len());
                        prop_assert!(received.iter().all(|value| value.is_finite()));
                    }
                    Err(CompressorError::Empty) => prop_assert!(x.is_empty()),
                    Err(CompressorError::NotFinite { index, .. }) => {
                        prop_assert!(!x[index].is_finite());
                    }
                    Err(CompressorError::Overflow { .. }) => {
                        prop_assert!(x.iter().any(|value| value.abs() > 1e36));
                    }
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
        }
    }

    #[test]
    fn equal_magnitudes_are_kept_from_the_front() {
        let x = [1.0, -2.0, 2.0, -2.0, 0.0];
        let message = TopK::new(2)
            .unwrap()
            .compress(&vector(&x), &mut SeededNoise::new(0, 0))
            .unwrap();
        assert_eq!(message.sparse(), Some((&[1, 2][..], &[-2.0, 2.0][..])));
        assert_eq!(
            ScaledSign
                .compress(&vector(&x), &mut SeededNoise::new(0, 0))
                .unwrap()
                .sparse(),
            None
        );
    }

    #[test]
    fn random_k_draws_every_set_of_indices() {
        let x = vector(&[1.0; 5]);
        let mut noise = SeededNoise::new(8, 0);
        let mut seen = std::collections::HashMap::new();
        let trials = 5_000;
        for _ in 0..trials {
            let message = RandK::new(2).unwrap().compress(&x, &mut noise).unwrap();
            let (indices, values) = message.sparse().unwrap();
            assert!(indices[0] < indices[1] && values == [2.5, 2.5]);
            *seen.entry(indices.to_vec()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 10);
        for (indices, &count) in &seen {
            // Five standard deviations of a binomial number with p = 1/10.
            let deviation = (f64::from(trials) * 0.09).sqrt();
            let off = f64::from(count) - f64::from(trials) / 10.0;
            assert!(off.abs() < 5.0 * deviation, "{indices:?}: {count}");
        }
    }

    #[test]
    fn sizes_are_those_of_the_table() {
        let x = vector(&[1.0; 100]);
        let size = |compressor: &dyn Compressor| {
            let message = compressor.compress(&x, &mut SeededNoise::new(0, 0));
            message.unwrap().size_in_bits()
        };
        assert_eq!(size(&Identity), 3200);
        // Seven bits tell 100 indices apart.
        assert_eq!(size(&TopK::new(10).unwrap()), 10 * 39);
        assert_eq!(size(&RandK::new(10).unwrap()), 10 * 39);
        assert_eq!(size(&ScaledSign), 132);
        // −1, 0, 1 in two bits; −4 to 4 in four.
        assert_eq!(size(&Qsgd::new(1).unwrap()), 32 + 200);
        assert_eq!(size(&Qsgd::new(4).unwrap()), 32 + 400);
        assert_eq!(size(&Natural), 900);
        let one = vector(&[1.0]);
        let message = TopK::new(1).unwrap();
        let message = message.compress(&one, &mut SeededNoise::new(0, 0)).unwrap();
        assert_eq!(message.size_in_bits(), 32);
    }

    #[test]
    fn what_fits_the_code_is_exact() {
        let mut noise = SeededNoise::new(1, 0);
        let powers = [0.0, 1.0, -0.25, 2.0_f32.powi(127), -2.0_f32.powi(-126)];
        assert_eq!(sent(&Natural, &powers, &mut noise), powers);
        // 3/5 and 4/5 of the norm 5.
        let x = [3.0, -4.0, 0.0];
        assert_eq!(sent(&Qsgd::new(5).unwrap(), &x, &mut noise), x);
        for compressor in [&Qsgd::new(3).unwrap() as &dyn Compressor, &Natural] {
            assert_eq!(sent(compressor, &[0.0; 4], &mut noise), [0.0; 4]);
        }
        let zero = sent(&ScaledSign, &[0.0; 4], &mut noise);
        assert!(zero.into_iter().all(|value| value == 0.0));
        // Below the smallest normal number: 0 or that number, by its share.
        let small = f32::MIN_POSITIVE / 4.0;
        let sum: f64 = (0..4000)
            .map(|_| f64::from(sent(&Natural, &[small], &mut noise)[0] / f32::MIN_POSITIVE))
            .sum();
        assert!((sum / 4000.0 - 0.25).abs() < 4.0 * (0.25 * 0.75 / 4000.0_f64).sqrt());
    }

    #[test]
    fn a_seed_gives_the_same_message() {
        let x = SeededNoise::new(5, 0).normal_values(300);
        for (name, compressor) in unbiased() {
            let message = |seed| {
                compressor
                    .compress(&vector(&x), &mut SeededNoise::new(seed, 3))
                    .unwrap()
            };
            assert_eq!(message(1), message(1), "{name}");
            if name != "identity" {
                assert_ne!(message(1), message(2), "{name}");
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(TopK::new(0), Err(CompressorError::NoElements));
        assert_eq!(RandK::new(0), Err(CompressorError::NoElements));
        let error = Qsgd::new(0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the number of levels must lie in 1 to 8388608, but it is 0"
        );
        assert!(Qsgd::new((1 << 23) + 1).is_err());
        let compress = |compressor: &dyn Compressor, x: &[f32]| {
            compressor
                .compress(&vector(x), &mut SeededNoise::new(0, 0))
                .unwrap_err()
        };
        assert_eq!(compress(&Identity, &[]), CompressorError::Empty);
        let expected = CompressorError::NotFinite {
            index: 1,
            value: f32::NEG_INFINITY,
        };
        assert_eq!(compress(&ScaledSign, &[1.0, f32::NEG_INFINITY]), expected);
        let large = [f32::MAX, f32::MAX];
        for compressor in [
            &Qsgd::new(2).unwrap() as &dyn Compressor,
            &Natural,
            &RandK::new(1).unwrap(),
        ] {
            let error = compress(compressor, &large);
            assert!(matches!(error, CompressorError::Overflow { .. }), "{error}");
        }
    }
}
