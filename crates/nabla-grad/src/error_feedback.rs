//! Error feedback: what a compressor leaves out is not lost, but sent later.
//!
//! A contraction ([`Constant::Contraction`]) is biased: sent instead of gradients, its messages can miss the
//! same part in every step, so that descent stops far from the minimum or diverges, however small
//! its steps are. Two remedies, each with a state per worker that lives beside the
//! [`Compressor`]:
//!
//! **[`ErrorFeedback`]** (EF-SGD) keeps what was left out and adds it to the next update. With the
//! update `u_t = γ_t g_t`,
//!
//! ```text
//! p_t = u_t + e_t,   Δ_t = C(p_t),   e_{t+1} = p_t − Δ_t;      x_{t+1} = x_t − mean of the Δ_t
//! Σ_t Δ_t + e_{T+1} = Σ_t u_t
//! ```
//!
//! The second line holds at every time: all that a worker wanted to say has been said, but for the
//! memory `e`. Its rate is that of SGD itself in the leading term.
//!
//! **[`Ef21`]** compresses differences: both sides keep an estimate `g` of the worker's gradient, and
//! what is sent brings it nearer to the present one,
//!
//! ```text
//! c_t = C(∇f_i(x_t) − g_i),   g_i ← g_i + c_t                  x_{t+1} = x_t − γ mean of the g_i
//! ```
//!
//! so that what is compressed vanishes where the gradients do not change, and the error with it: it
//! converges with a constant step, whatever the workers' data are, for
//!
//! ```text
//! γ ≤ 1 / (L + L̃ √(β/θ)),   θ = 1 − √(1 − δ),   β = (1 − δ)/θ                          (ef21_step_size)
//! ```
//!
//! Unbiased compressors become contractions here: with `ω < 1` they are one (`δ = 1 − ω`), otherwise
//! their messages are divided by `1 + ω` (`δ = 1/(1 + ω)`).
//!
//! The states are in `f64`, and both sides change them by the numbers that were sent, so that they stay the
//! same to the bit.
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

/// Why there is no message, or a state does not fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ErrorFeedbackError {
    /// A vector of another length.
    #[error("the {what} must have {expected} elements, but it has {found}")]
    Length {
        /// Update, gradient, message or state.
        what: &'static str,
        /// The length of the state.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// A worker that there is not.
    #[error("there is no worker {worker}: there are {workers}, counted from 0")]
    Worker {
        /// The number given.
        worker: usize,
        /// How many there are.
        workers: usize,
    },
    /// No workers.
    #[error("the mean of the workers' gradients needs at least one worker")]
    NoWorkers,
    /// Bytes that are not a state.
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
    /// What a message is multiplied by.
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

/// `state ± message`.
fn add_message(state: &mut [f64], sign: f64, message: &Compressed) {
    for (state, sent) in state.iter_mut().zip(message.values()) {
        *state += sign * f64::from(sent);
    }
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
/// // What was left out is now the larger one.
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

    /// The message for an update, `[dimension]`: a gradient times its learning rate, as what is kept
    /// must have the size that it had then. The memory is as before if there is none.
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
        add_message(&mut p, -1.0, &message);
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

    /// The memory as bytes (`f64`, little-endian), from which [`restored`](Self::restored) goes on to
    /// the bit.
    pub fn to_bytes(&self) -> Vec<u8> {
        state_bytes(&self.memory)
    }

    /// This worker with the memory of `bytes`.
    ///
    /// # Errors
    /// If they are not a memory of this dimension.
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
    /// With the estimate 0 of a gradient of `dimension` elements, as the server has it.
    pub fn new(compressor: C, dimension: usize) -> Self {
        Self {
            contraction: Contraction::new(compressor, dimension),
            estimate: vec![0.0; dimension],
        }
    }

    /// The message for the worker's present gradient, `[dimension]`. The estimate is as before if
    /// there is none.
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
        add_message(&mut self.estimate, 1.0, &message);
        Ok(message)
    }

    /// `δ` of the compressor as it is used here.
    pub fn contraction(&self) -> f64 {
        self.contraction.delta
    }

    /// `g_i`, what the server takes for the worker's gradient.
    pub fn estimate(&self) -> &[f64] {
        &self.estimate
    }

    /// The estimate as bytes (`f64`, little-endian), from which [`restored`](Self::restored) goes on to
    /// the bit.
    pub fn to_bytes(&self) -> Vec<u8> {
        state_bytes(&self.estimate)
    }

    /// This worker with the estimate of `bytes`.
    ///
    /// # Errors
    /// If they are not an estimate of this dimension.
    pub fn restored(mut self, bytes: &[u8]) -> Result<Self, ErrorFeedbackError> {
        self.estimate = state_from(bytes, self.estimate.len())?;
        Ok(self)
    }
}

/// The receiving side of [`Ef21`]: the estimates of all workers.
#[derive(Clone, Debug, PartialEq)]
pub struct Ef21Server {
    /// `[workers]` of `[dimension]`. One by one, as a sum would round otherwise than the workers.
    estimates: Vec<Vec<f64>>,
}

impl Ef21Server {
    /// With the estimates 0 of `workers` gradients of `dimension` elements.
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

    /// Takes the message of a worker, counted from 0.
    ///
    /// # Errors
    /// If there is no such worker, or the message is for another length.
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
        add_message(estimate, 1.0, message);
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
    /// If they are not estimates of as many workers and this dimension.
    pub fn restored(mut self, bytes: &[u8]) -> Result<Self, ErrorFeedbackError> {
        let dimension = self.estimates[0].len();
        let all = state_from(bytes, self.estimates.len() * dimension)?;
        for (worker, estimate) in self.estimates.iter_mut().enumerate() {
            estimate.copy_from_slice(&all[worker * dimension..(worker + 1) * dimension]);
        }
        Ok(self)
    }
}

/// The largest step with which EF21 converges: `1 / (L + L̃ √(β/θ))`, for the smoothness `L` of the mean
/// of the workers' losses, the root mean square `L̃` of that of each, and the contraction `δ`.
///
/// # Errors
/// If a constant is not positive and finite, or `δ` is above 1.
///
/// ```
/// use nabla_grad::error_feedback::ef21_step_size;
///
/// // Without compression it is that of gradient descent.
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
mod tests {
    use super::*;
    use crate::compressor::{Identity, Natural, Qsgd, RandK, ScaledSign, TopK};
    use proptest::prelude::*;

    fn tensor(x: &[f64]) -> Tensor<1> {
        let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let length = x.len();
        Tensor::from_data(TensorData::new(x, [length]), &Device::flex())
    }

    fn compressors() -> Vec<(&'static str, Box<dyn Compressor>)> {
        vec![
            ("top", Box::new(TopK::new(2).unwrap())),
            ("sign", Box::new(ScaledSign)),
            ("random", Box::new(RandK::new(2).unwrap())),
            ("ternary", Box::new(Qsgd::new(1).unwrap())),
            ("fine", Box::new(Qsgd::new(64).unwrap())),
            ("natural", Box::new(Natural)),
            ("identity", Box::new(Identity)),
        ]
    }

    proptest! {
        #[test]
        fn what_was_sent_and_the_memory_are_what_was_to_be_sent(
            d in 2_usize..40,
            steps in 1_usize..30,
            seed: u64,
        ) {
            for (name, compressor) in compressors() {
                let mut worker = ErrorFeedback::new(compressor, d);
                let mut noise = SeededNoise::new(seed, 1);
                let mut draw = SeededNoise::new(seed, 0);
                let (mut wanted, mut sent) = (vec![0.0; d], vec![0.0; d]);
                for _ in 0..steps {
                    let update: Vec<f64> =
                        draw.normal_values(d).into_iter().map(f64::from).collect();
                    let message = worker.compress(&tensor(&update), &mut noise).unwrap();
                    for i in 0..d {
                        wanted[i] += update[i];
                        sent[i] += f64::from(message.values()[i]);
                    }
                    for i in 0..d {
                        let off = sent[i] + worker.memory()[i] - wanted[i];
                        prop_assert!(off.abs() < 1e-12 * (1.0 + wanted[i].abs()) * 100.0, "{}", name);
                    }
                }
            }
        }

        #[test]
        fn the_memory_is_bounded_as_theory_says(d in 2_usize..40, seed: u64) {
            // ‖e‖ ≤ √(1 − δ) / (1 − √(1 − δ)) · the largest ‖u‖, for contractions that always contract.
            for compressor in [&TopK::new(2).unwrap() as &dyn Compressor, &ScaledSign] {
                let mut worker = ErrorFeedback::new(compressor, d);
                let q = (1.0 - worker.contraction()).sqrt();
                let mut draw = SeededNoise::new(seed, 0);
                let mut largest = 0.0_f64;
                for _ in 0..40 {
                    let update: Vec<f64> =
                        draw.normal_values(d).into_iter().map(f64::from).collect();
                    largest = largest.max(update.iter().map(|x| x * x).sum::<f64>().sqrt());
                    worker.compress(&tensor(&update), &mut draw).unwrap();
                    let memory = worker.memory().iter().map(|x| x * x).sum::<f64>().sqrt();
                    prop_assert!(memory <= (q / (1.0 - q) + 1e-5) * largest + 1e-5);
                }
            }
        }

        #[test]
        fn any_bytes_are_a_state_or_refused(bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(any::<u8>(), 24..=24),
        ]) {
            let finite = bytes
                .chunks_exact(8)
                .all(|part| f64::from_le_bytes(part.try_into().unwrap()).is_finite());
            match ErrorFeedback::new(Identity, 3).restored(&bytes) {
                Ok(worker) => prop_assert_eq!(worker.to_bytes(), bytes),
                Err(_) => prop_assert!(bytes.len() != 24 || !finite),
            }
        }
    }

    /// Karimireddy et al., counterexample 3: `ε |x₁ + x₂| + |x₁ − x₂|`. The sign of every subgradient is
    /// `±(1, −1)`, so that `x₁ + x₂` never changes without feedback.
    #[test]
    fn feedback_mends_the_counterexample_of_signs() {
        let epsilon = 0.5;
        let loss = |x: &[f64]| epsilon * (x[0] + x[1]).abs() + (x[0] - x[1]).abs();
        let gradient = |x: &[f64]| {
            let sign = |x: f64| if x < 0.0 { -1.0 } else { 1.0 };
            let (sum, difference) = (epsilon * sign(x[0] + x[1]), sign(x[0] - x[1]));
            [sum + difference, sum - difference]
        };
        let run = |feedback: bool| {
            let mut worker = ErrorFeedback::new(ScaledSign, 2);
            let mut noise = SeededNoise::new(1, 0);
            let mut x = [1.0, 1.0];
            for t in 0..4000 {
                let rate = 0.05 / f64::from(t + 1).sqrt();
                let update = gradient(&x).map(|g| rate * g);
                let message = if feedback {
                    worker.compress(&tensor(&update), &mut noise).unwrap()
                } else {
                    ScaledSign.compress(&tensor(&update), &mut noise).unwrap()
                };
                for (x, step) in x.iter_mut().zip(message.values()) {
                    *x -= f64::from(step);
                }
            }
            (loss(&x), x)
        };
        let (stuck, x) = run(false);
        assert!((x[0] + x[1] - 2.0).abs() < 1e-3 && stuck > 0.99, "{x:?}");
        let (mended, x) = run(true);
        assert!(mended < 0.02, "{x:?}");
    }

    /// Beznosikov et al., example 1: three workers with `⟨a_i, x⟩² + ‖x‖²/4`, and Top-1 without feedback
    /// makes `x` longer in every step.
    #[test]
    fn feedback_mends_the_divergence_of_top_1() {
        let a = [[-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]];
        let gradient = |i: usize, x: &[f64]| -> Vec<f64> {
            let along: f64 = a[i].iter().zip(x).map(|(a, x)| a * x).sum();
            (0..3).map(|j| 2.0 * along * a[i][j] + 0.5 * x[j]).collect()
        };
        let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let top = TopK::new(1).unwrap();
        let noise = &mut SeededNoise::new(0, 0);
        // 2 a aᵀ + I/2: L = 34.5 for each worker; their mean has the largest eigenvalue 50/3 + 1/2.
        let rate = ef21_step_size(50.0 / 3.0 + 0.5, 34.5, 1.0 / 3.0).unwrap();

        let mut x = vec![1.0; 3];
        for _ in 0..300 {
            let mut step = vec![0.0; 3];
            for i in 0..3 {
                let message = top.compress(&tensor(&gradient(i, &x)), noise).unwrap();
                add_message(&mut step, 1.0 / 3.0, &message);
            }
            x.iter_mut().zip(&step).for_each(|(x, s)| *x -= rate * s);
        }
        let plain = length(&x);
        assert!(plain > 10.0, "{x:?}");

        let mut workers = vec![ErrorFeedback::new(top, 3); 3];
        let mut x = vec![1.0; 3];
        for _ in 0..5000 {
            let mut step = vec![0.0; 3];
            for (i, worker) in workers.iter_mut().enumerate() {
                let update: Vec<f64> = gradient(i, &x).iter().map(|g| rate * g).collect();
                let message = worker.compress(&tensor(&update), noise).unwrap();
                add_message(&mut step, 1.0 / 3.0, &message);
            }
            x.iter_mut().zip(&step).for_each(|(x, s)| *x -= s);
        }
        assert!(length(&x) < 1e-3, "{x:?}");

        let mut workers = vec![Ef21::new(top, 3); 3];
        let mut server = Ef21Server::new(3, 3).unwrap();
        let mut x = vec![1.0; 3];
        for _ in 0..5000 {
            for (i, worker) in workers.iter_mut().enumerate() {
                let message = worker.compress(&tensor(&gradient(i, &x)), noise).unwrap();
                // Over the wire.
                let message = Compressed::from_bytes(&message.to_bytes(), 3).unwrap();
                server.receive(i, &message).unwrap();
                assert_eq!(worker.estimate(), server.estimates[i]);
            }
            x.iter_mut()
                .zip(server.mean())
                .for_each(|(x, g)| *x -= rate * g);
        }
        assert!(length(&x) < 1e-3, "{x:?}");
    }

    #[test]
    fn a_restored_worker_goes_on_to_the_bit() {
        for (name, compressor) in compressors() {
            let update = |step: u64| {
                let draw = SeededNoise::new(step, 9).normal_values(7);
                tensor(&draw.into_iter().map(f64::from).collect::<Vec<_>>())
            };
            let mut noise = SeededNoise::new(4, 0);
            let mut feedback = ErrorFeedback::new(&*compressor, 7);
            let mut ef21 = Ef21::new(&*compressor, 7);
            let mut server = Ef21Server::new(1, 7).unwrap();
            for step in 0..5 {
                feedback.compress(&update(step), &mut noise).unwrap();
                let message = ef21.compress(&update(step), &mut noise).unwrap();
                server.receive(0, &message).unwrap();
            }
            let fresh = ErrorFeedback::new(&*compressor, 7);
            let mut restored = fresh.restored(&feedback.to_bytes()).unwrap();
            let fresh = Ef21::new(&*compressor, 7);
            let mut restored_21 = fresh.restored(&ef21.to_bytes()).unwrap();
            let again = Ef21Server::new(1, 7).unwrap();
            assert_eq!(again.restored(&server.to_bytes()).unwrap(), server);
            let mut again = noise.clone();
            for step in 5..9 {
                let on = feedback.compress(&update(step), &mut noise).unwrap();
                let resumed = restored.compress(&update(step), &mut again).unwrap();
                assert_eq!(on.to_bytes(), resumed.to_bytes(), "{name}");
                let on = ef21.compress(&update(step), &mut noise).unwrap();
                let resumed = restored_21.compress(&update(step), &mut again).unwrap();
                assert_eq!(on.to_bytes(), resumed.to_bytes(), "{name}");
            }
            assert_eq!(feedback.to_bytes(), restored.to_bytes());
        }
    }

    #[test]
    fn unbiased_compressors_become_contractions() {
        let delta = |compressor: &dyn Compressor| ErrorFeedback::new(compressor, 12).contraction();
        assert_eq!(delta(&RandK::new(3).unwrap()), 0.25);
        assert_eq!(delta(&Natural), 7.0 / 8.0);
        assert_eq!(delta(&Identity), 1.0);
        // With ω = 3 the message is divided by 4: the elements themselves, for RandK.
        let mut worker = ErrorFeedback::new(RandK::new(3).unwrap(), 12);
        let message = worker
            .compress(&tensor(&[1.5; 12]), &mut SeededNoise::new(0, 0))
            .unwrap();
        let (_, values) = message.sparse().unwrap();
        assert_eq!(values, [1.5; 3]);
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let noise = &mut SeededNoise::new(0, 0);
        let mut worker = ErrorFeedback::new(TopK::new(1).unwrap(), 3);
        worker.compress(&tensor(&[1.0, 2.0, 3.0]), noise).unwrap();
        let before = worker.to_bytes();
        let refused = worker.compress(&tensor(&[1.0; 2]), noise).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the update must have 3 elements, but it has 2"
        );
        let refused = worker.compress(&tensor(&[1.0, f64::NAN, 0.0]), noise);
        assert!(matches!(refused, Err(ErrorFeedbackError::Compressor(_))));
        assert_eq!(worker.to_bytes(), before);
        let mut server = Ef21Server::new(2, 3).unwrap();
        let message = Identity.compress(&tensor(&[1.0; 3]), noise).unwrap();
        assert!(matches!(
            server.receive(2, &message),
            Err(ErrorFeedbackError::Worker {
                worker: 2,
                workers: 2
            })
        ));
        let message = Identity.compress(&tensor(&[1.0; 2]), noise).unwrap();
        assert!(server.receive(0, &message).is_err());
        assert!(Ef21Server::new(0, 3).is_err());
        assert!(ef21_step_size(0.0, 1.0, 0.5).is_err());
        assert!(ef21_step_size(1.0, 1.0, 1.5).is_err());
    }
}
