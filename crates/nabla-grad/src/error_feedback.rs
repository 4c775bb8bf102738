//! Error feedback, which sends later what a compressor leaves out.
//!
//! A contraction ([`Constant::Contraction`]) is biased: messages sent instead of gradients can miss the same
//! part in every step, so that descent stops far from the minimum or diverges, however small its steps are.
//! There are two remedies. Each has a state per worker, kept besides the [`Compressor`]:
//!
//! **[`ErrorFeedback`]** (EF-SGD) keeps what was left out and adds it to the next update. With the
//! update `u_t = γ_t g_t`,
//!
//! ```text
//! p_t = u_t + e_t,   Δ_t = C(p_t),   e_{t+1} = p_t − Δ_t;      x_{t+1} = x_t − mean of the Δ_t
//! Σ_t Δ_t + e_{T+1} = Σ_t u_t
//! ```
//!
//! The second line holds after every step: all updates of a worker have been sent, except for the memory `e`.
//! In its leading term the rate of convergence is that of SGD itself.
//!
//! **[`Ef21`]** compresses differences: both sides keep an estimate `g` of the worker's gradient, and each
//! message moves it towards the current gradient,
//!
//! ```text
//! c_t = C(∇f_i(x_t) − g_i),   g_i ← g_i + c_t                  x_{t+1} = x_t − γ mean of the g_i
//! ```
//!
//! so that the difference to compress, and with it the error, vanishes where the gradients do not change.
//! EF21 converges with a constant step, whatever the workers' data, if
//!
//! ```text
//! γ ≤ 1 / (L + L̃ √(β/θ)),   θ = 1 − √(1 − δ),   β = (1 − δ)/θ                          (ef21_step_size)
//! ```
//!
//! Unbiased compressors become contractions here: with `ω < 1` they are contractions already (`δ = 1 − ω`),
//! otherwise their messages are divided by `1 + ω` (`δ = 1/(1 + ω)`).
//!
//! The states are in `f64`, and both sides change them by the numbers that were sent, so the states of both
//! sides stay the same to the bit.
//!
//! Sources: Seide, Fu, Droppo, Li, Yu, *1-Bit Stochastic Gradient Descent and its Application to
//! Data-Parallel Distributed Training of Speech DNNs*, Interspeech 2014 (the idea); Stich, Cordonnier,
//! Jaggi, *Sparsified SGD with Memory*, NeurIPS 2018, arXiv 1809.07599, algorithm 1; Karimireddy,
//! Rebjock, Stich, Jaggi, *Error Feedback Fixes SignSGD and other Gradient Compression Schemes*, ICML
//! 2019, arXiv 1901.09847, algorithm 2; Richtárik, Sokolov, Fatkhullin, *EF21: A New, Simpler,
//! Theoretically Better, and Practically Faster Error Feedback*, NeurIPS 2021, arXiv 2106.05203,
//! algorithm 2 and theorem 1.

use burn::tensor::{Device, Tensor, TensorData};

use nabla_base::range::{self, OutOfRange};

use crate::compressor::{Compressed, Compressor, CompressorError, Constant};
use crate::seeded_noise::SeededNoise;

/// The reason why there is no message, or why a state does not fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ErrorFeedbackError {
    /// The vector has another length.
    #[error("the {what} must have {expected} elements, but it has {found}")]
    Length {
        /// The update, gradient, message or state.
        what: &'static str,
        /// The length of the state.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// The worker does not exist.
    #[error("there is no worker {worker}: there are {workers}, counted from 0")]
    Worker {
        /// The number given.
        worker: usize,
        /// The number of workers.
        workers: usize,
    },
    /// There are no workers.
    #[error("the mean of the workers' gradients needs at least one worker")]
    NoWorkers,
    /// The bytes are not a state.
    #[error("the bytes are not a state of {expected} elements: {reason}")]
    State {
        /// The length of the state.
        expected: usize,
        /// What is wrong.
        reason: String,
    },
    /// A constant out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The compressor.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
}

/// A compressor as a contraction.
#[derive(Clone, Debug)]
struct Contraction<C> {
    compressor: C,
    /// The factor of a message.
    shrink: f64,
    delta: f64,
}

impl<C: Compressor> Contraction<C> {
    fn new(compressor: C, dimension: usize) -> Self {
        let (shrink, delta) = match compressor.constant(dimension) {
            Constant::Contraction(delta) => (1.0, delta),
            Constant::Variance(omega) if omega < 1.0 => (1.0, 1.0 - omega),
            constant => (constant.contraction(), constant.contraction()),
        };
        Self {
            compressor,
            shrink,
            delta,
        }
    }

    fn compress(
        &self,
        values: &[f64],
        noise: &mut SeededNoise,
    ) -> Result<Compressed, CompressorError> {
        let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        let length = values.len();
        let vector = Tensor::from_data(TensorData::new(values, [length]), &Device::flex());
        let message = self.compressor.compress(&vector, noise)?;
        Ok(if self.shrink == 1.0 {
            message
        } else {
            message.scaled(self.shrink)
        })
    }
}

fn values(
    what: &'static str,
    x: &Tensor<1>,
    state: &[f64],
) -> Result<Vec<f64>, ErrorFeedbackError> {
    let values = x
        .try_to_vec_as::<f64>()
        .map_err(|error| CompressorError::Device(error.to_string()))?;
    check_length(what, state.len(), values.len())?;
    Ok(values)
}

fn check_length(
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), ErrorFeedbackError> {
    if expected == found {
        return Ok(());
    }
    Err(ErrorFeedbackError::Length {
        what,
        expected,
        found,
    })
}

/// A state as bytes: `f64`, little-endian.
fn state_bytes(state: &[f64]) -> Vec<u8> {
    state.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn state_from(bytes: &[u8], expected: usize) -> Result<Vec<f64>, ErrorFeedbackError> {
    let refused = |reason: String| Err(ErrorFeedbackError::State { expected, reason });
    if bytes.len() != 8 * expected {
        return refused(format!(
            "there are {} bytes for {}",
            bytes.len(),
            8 * expected
        ));
    }
    let mut state = Vec::with_capacity(expected);
    for part in bytes.chunks_exact(8) {
        let bits = part
            .iter()
            .rev()
            .fold(0, |n, &byte| n << 8 | u64::from(byte));
        let value = f64::from_bits(bits);
        if !value.is_finite() {
            return refused(format!("element {} is {value}", state.len()));
        }
        state.push(value);
    }
    Ok(state)
}

/// The memory of one worker's errors; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::compressor::TopK;
/// use nabla_grad::error_feedback::ErrorFeedback;
/// use nabla_grad::seeded_noise::SeededNoise;
///
/// let device = Device::flex();
/// let mut noise = SeededNoise::new(42, 0);
/// let mut worker = ErrorFeedback::new(TopK::new(1)?, 2);
/// let update = Tensor::<1>::from_floats([1.0, 0.75], &device); // γ g
/// let first = worker.compress(&update, &mut noise)?;
/// assert_eq!(first.values(), [1.0, 0.0]);
/// assert_eq!(worker.memory(), [0.0, 0.75]);
/// // The part left out before is now the larger one.
/// let second = worker.compress(&update, &mut noise)?;
/// assert_eq!(second.values(), [0.0, 1.5]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ErrorFeedback<C> {
    contraction: Contraction<C>,
    /// `e`.
    memory: Vec<f64>,
}

impl<C: Compressor> ErrorFeedback<C> {
    /// An empty memory for updates of `dimension` elements.
    pub fn new(compressor: C, dimension: usize) -> Self {
        Self {
            contraction: Contraction::new(compressor, dimension),
            memory: vec![0.0; dimension],
        }
    }

    /// Returns the message for an update, `[dimension]`. The update is a gradient times its learning rate,
    /// since the memory must keep the size that the step had then. On an error the memory is unchanged.
    ///
    /// # Errors
    /// If the update has another length, or cannot be compressed together with the memory.
    pub fn compress(
        &mut self,
        update: &Tensor<1>,
        noise: &mut SeededNoise,
    ) -> Result<Compressed, ErrorFeedbackError> {
        let mut p = values("update", update, &self.memory)?;
        for (p, e) in p.iter_mut().zip(&self.memory) {
            *p += e;
        }
        let message = self.contraction.compress(&p, noise)?;
        message.add_to(&mut p, -1.0);
        self.memory = p;
        Ok(message)
    }

    /// `δ` of the compressor as it is used here.
    pub fn contraction(&self) -> f64 {
        self.contraction.delta
    }

    /// `e`, what has not been sent yet.
    pub fn memory(&self) -> &[f64] {
        &self.memory
    }

    /// The memory as bytes (`f64`, little-endian), from which [`restored`](Self::restored) continues exactly
    /// to the bit.
    pub fn to_bytes(&self) -> Vec<u8> {
        state_bytes(&self.memory)
    }

    /// This worker with the memory of `bytes`.
    ///
    /// # Errors
    /// If the bytes are not a memory of this dimension.
    pub fn restored(mut self, bytes: &[u8]) -> Result<Self, ErrorFeedbackError> {
        self.memory = state_from(bytes, self.memory.len())?;
        Ok(self)
    }
}

/// One worker of EF21; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::compressor::TopK;
/// use nabla_grad::error_feedback::{Ef21, Ef21Server};
/// use nabla_grad::seeded_noise::SeededNoise;
///
/// let mut noise = SeededNoise::new(42, 0);
/// let mut worker = Ef21::new(TopK::new(1)?, 2);
/// let mut server = Ef21Server::new(1, 2)?;
/// let gradient = Tensor::<1>::from_floats([1.0, 0.75], &Device::flex());
/// for _ in 0..2 {
///     server.receive(0, &worker.compress(&gradient, &mut noise)?)?;
/// }
/// assert_eq!(server.mean(), [1.0, 0.75]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ef21<C> {
    contraction: Contraction<C>,
    /// `g_i`.
    estimate: Vec<f64>,
}

impl<C: Compressor> Ef21<C> {
    /// Starts with the estimate 0 of a gradient of `dimension` elements, as the server does.
    pub fn new(compressor: C, dimension: usize) -> Self {
        Self {
            contraction: Contraction::new(compressor, dimension),
            estimate: vec![0.0; dimension],
        }
    }

    /// Returns the message for the worker's current gradient, `[dimension]`. On an error the estimate is
    /// unchanged.
    ///
    /// # Errors
    /// If the gradient has another length, or its difference from the estimate cannot be compressed.
    pub fn compress(
        &mut self,
        gradient: &Tensor<1>,
        noise: &mut SeededNoise,
    ) -> Result<Compressed, ErrorFeedbackError> {
        let mut change = values("gradient", gradient, &self.estimate)?;
        for (change, g) in change.iter_mut().zip(&self.estimate) {
            *change -= g;
        }
        let message = self.contraction.compress(&change, noise)?;
        message.add_to(&mut self.estimate, 1.0);
        Ok(message)
    }

    /// `δ` of the compressor as it is used here.
    pub fn contraction(&self) -> f64 {
        self.contraction.delta
    }

    /// `g_i`, the server's estimate of the worker's gradient.
    pub fn estimate(&self) -> &[f64] {
        &self.estimate
    }

    /// The estimate as bytes (`f64`, little-endian), from which [`restored`](Self::restored) continues
    /// exactly to the bit.
    pub fn to_bytes(&self) -> Vec<u8> {
        state_bytes(&self.estimate)
    }

    /// This worker with the estimate of `bytes`.
    ///
    /// # Errors
    /// If the bytes are not an estimate of this dimension.
    pub fn restored(mut self, bytes: &[u8]) -> Result<Self, ErrorFeedbackError> {
        self.estimate = state_from(bytes, self.estimate.len())?;
        Ok(self)
    }
}

/// The receiving side of [`Ef21`]: the estimates of all workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Ef21Server {
    /// `[workers]` of `[dimension]`. Kept separately, since a sum would round differently from the workers.
    estimates: Vec<Vec<f64>>,
}

impl Ef21Server {
    /// Starts with the estimates 0 of `workers` gradients of `dimension` elements.
    ///
    /// # Errors
    /// If there are no workers.
    pub fn new(workers: usize, dimension: usize) -> Result<Self, ErrorFeedbackError> {
        if workers == 0 {
            return Err(ErrorFeedbackError::NoWorkers);
        }
        Ok(Self {
            estimates: vec![vec![0.0; dimension]; workers],
        })
    }

    /// Applies the message of a worker, counted from 0.
    ///
    /// # Errors
    /// If there is no such worker, or the message is for a vector of another length.
    pub fn receive(
        &mut self,
        worker: usize,
        message: &Compressed,
    ) -> Result<(), ErrorFeedbackError> {
        let workers = self.estimates.len();
        let Some(estimate) = self.estimates.get_mut(worker) else {
            return Err(ErrorFeedbackError::Worker { worker, workers });
        };
        check_length("message", estimate.len(), message.dimension())?;
        message.add_to(estimate, 1.0);
        Ok(())
    }

    /// The mean of the estimates, `[dimension]`: the direction of the step.
    pub fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.estimates[0].len()];
        for estimate in &self.estimates {
            for (mean, g) in mean.iter_mut().zip(estimate) {
                *mean += g;
            }
        }
        let workers = self.estimates.len() as f64;
        mean.iter_mut().for_each(|mean| *mean /= workers);
        mean
    }

    /// The estimates as bytes, worker by worker (`f64`, little-endian).
    pub fn to_bytes(&self) -> Vec<u8> {
        self.estimates.iter().flat_map(|e| state_bytes(e)).collect()
    }

    /// This server with the estimates of `bytes`.
    ///
    /// # Errors
    /// If the bytes are not estimates for this number of workers and this dimension.
    pub fn restored(mut self, bytes: &[u8]) -> Result<Self, ErrorFeedbackError> {
        let dimension = self.estimates[0].len();
        let all = state_from(bytes, self.estimates.len() * dimension)?;
        for (worker, estimate) in self.estimates.iter_mut().enumerate() {
            estimate.copy_from_slice(&all[worker * dimension..(worker + 1) * dimension]);
        }
        Ok(self)
    }
}

/// The largest step with which EF21 converges: `1 / (L + L̃ √(β/θ))`, for the smoothness `L` of the mean of
/// the workers' losses, the root mean square `L̃` of the smoothness of each loss, and the contraction `δ`.
///
/// # Errors
/// If a constant is not positive and finite, or `δ` is above 1.
///
/// ```
/// use nabla_grad::error_feedback::ef21_step_size;
///
/// // Without compression this is the step of gradient descent.
/// assert_eq!(ef21_step_size(2.0, 3.0, 1.0)?, 0.5);
/// // δ = 3/4: θ = 1/2, β = 1/2.
/// assert_eq!(ef21_step_size(2.0, 3.0, 0.75)?, 0.2);
/// # Ok::<(), nabla_grad::error_feedback::ErrorFeedbackError>(())
/// ```
pub fn ef21_step_size(l: f64, l_tilde: f64, delta: f64) -> Result<f64, ErrorFeedbackError> {
    range::positive("smoothness L", l)?;
    range::positive("mean smoothness L̃", l_tilde)?;
    let fits = delta > 0.0 && delta <= 1.0;
    range::check(fits, "contraction δ", delta, "above 0 and at most 1")?;
    let theta = 1.0 - (1.0 - delta).sqrt();
    let beta = (1.0 - delta) / theta;
    Ok(1.0 / (l + l_tilde * (beta / theta).sqrt()))
}

#[cfg(test)]
mod tests;
