//! JumpReLU sparse autoencoder: a latent is active above a threshold of its own, and the number of active latents itself is
//! penalised.
//!
//! ```text
//! z = max(0, (x/s − b) W_encᵀ + b_enc),   f = z H(z − θ),   θ = e^t > 0,   H: 1 above 0, else 0
//! loss = ‖x/s − x̂(f)‖² + λ Σ H(z − θ)
//! ```
//!
//! Both are constant in `θ` wherever they have a derivative. The *expected* loss isn't, and its derivative is estimated
//! from the activities within a bandwidth `ε` of the threshold, with `K(u) = 1` for `|u| < ½`, else 0:
//!
//! ```text
//! ∂f/∂θ = −θ/ε K((z − θ)/ε),    ∂H/∂θ = −1/ε K((z − θ)/ε)
//! ```
//!
//! A threshold moves by the learning rate in each step at most. So that a short training can move it as far as the paper's,
//! the learning rate of the thresholds is raised there.
//!
//! `λ` rises over the first part of the training. Squares are means over the batch.
//!
//! The paper brings activations to the mean square 1 *of the whole vector*, and begins with `θ = ε = 0.001`. Here every
//! *value* has the mean square 1, which makes activities `√d` times as large, and the thresholds, the bandwidth and the
//! penalty are meant in the paper's scale: `ε` is multiplied by `√d`, `λ` by `d`.
//!
//! Source: Rajamanoharan, Lieberum, Sonnerat, Conmy, Varma, Kramár, Nanda, *Jumping Ahead: Improving Reconstruction
//! Fidelity with JumpReLU Sparse Autoencoders*, 2024, arXiv 2407.14435.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use nabla_base::range;
use serde::{Deserialize, Serialize};

use crate::activation_set::ActivationSet;
use crate::gated_sae::RISE;
use crate::sparse_autoencoder::{
    Codes, Dictionary, DictionaryConfig, Objective, SaeBatch, SaeError, Seen, SparseAutoencoder,
    read_number, read_single, times_rows, variance,
};

/// The numbers of the method, for activations whose mean square is 1 as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JumpReluSaeConfig {
    /// `λ`, the weight of an active latent. What sparsity it brings depends on the network: several are tried.
    pub penalty: f64,
    /// The first thresholds; 0.001 by default.
    pub threshold: f64,
    /// `ε`; 0.001 by default.
    pub bandwidth: f64,
}

impl JumpReluSaeConfig {
    /// With the defaults.
    ///
    /// - `penalty`: `λ`
    pub fn new(penalty: f64) -> Self {
        Self {
            penalty,
            threshold: 1e-3,
            bandwidth: 1e-3,
        }
    }

    /// An autoencoder for the activations of `data`.
    ///
    /// # Errors
    /// If a number is out of range, or the dictionary cannot begin.
    pub fn init(
        &self,
        dictionary: &DictionaryConfig,
        data: &ActivationSet,
        device: &Device,
    ) -> Result<JumpReluSae, SaeError> {
        self.with(dictionary.init(data, device)?)
    }

    /// With a dictionary that there is already.
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn with(&self, dictionary: Dictionary) -> Result<JumpReluSae, SaeError> {
        range::not_negative("weight of the penalty", self.penalty)?;
        range::positive("first threshold", self.threshold)?;
        range::positive("bandwidth", self.bandwidth)?;
        let root = (dictionary.width() as f64).sqrt();
        let zeros = dictionary.encoder_bias.val().zeros_like();
        Ok(JumpReluSae {
            log_threshold: Param::from_tensor(zeros + (self.threshold * root).ln()),
            dictionary,
            config: self.clone(),
        })
    }
}

/// The autoencoder.
#[derive(Module, Debug)]
pub struct JumpReluSae {
    /// The directions, and the layer before the thresholds.
    pub dictionary: Dictionary,
    /// `t`, `[latents]`.
    pub log_threshold: Param<Tensor<1>>,
    /// The numbers of the method.
    #[module(skip)]
    pub config: JumpReluSaeConfig,
}

/// What the encoder says, `[batch, latents]`, with estimated gradients of the thresholds.
struct Jumped {
    /// `f`.
    active: Tensor<2>,
    /// `H(z − θ)`.
    open: Tensor<2>,
}

impl JumpReluSae {
    /// - `centred`: `x/s − b`, `[batch, width]`
    fn jumped(&self, centred: Tensor<2>) -> Jumped {
        let bandwidth = self.config.bandwidth * (self.dictionary.width() as f64).sqrt();
        let p = times_rows(centred, self.dictionary.encoder.val());
        let z = relu(p + self.dictionary.encoder_bias.val().unsqueeze());
        let threshold: Tensor<2> = self.log_threshold.val().exp().unsqueeze(); // [1, latents]
        let held = threshold.clone().detach();
        let above = z.clone().detach() - held.clone();
        let open = above.clone().greater_elem(0.0).float().cast(z.dtype());
        let near = above
            .abs()
            .lower_elem(bandwidth / 2.0)
            .float()
            .cast(z.dtype())
            / bandwidth;
        // 0, with the gradient 1 of the threshold.
        let moved = threshold - held.clone();
        Jumped {
            active: z * open.clone() - near.clone() * held * moved.clone(),
            open: open - near * moved,
        }
    }
}

impl SparseAutoencoder for JumpReluSae {
    fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    fn dictionary_mut(&mut self) -> &mut Dictionary {
        &mut self.dictionary
    }

    /// Thresholds, which Adam moves by a learning rate each step at most: in the paper's training, of about 200 000 steps at
    /// the rate 7e-5, by a factor of e¹⁴.
    fn far_moving(&self) -> Option<(&'static str, f64)> {
        Some(("log_threshold", 14.0))
    }

    fn encode(&self, x: Tensor<2>, _: Option<Tensor<2>>) -> Result<Codes, SaeError> {
        self.dictionary.check(&x)?;
        let plain = self.clone().valid();
        let centred = plain.dictionary.centred(x.without_autodiff());
        let Jumped { active, .. } = plain.jumped(centred);
        let active = read_single(active.without_autodiff())?;
        Ok(Codes::of_dense(&active, self.dictionary.latents()))
    }

    fn objective(&self, batch: SaeBatch) -> Result<Objective, SaeError> {
        self.dictionary.check(&batch.x)?;
        let [examples, width] = batch.x.dims();
        let x = batch.x.clone() / self.dictionary.scale.val().unsqueeze();
        let Jumped { active, open } = self.jumped(self.dictionary.centred(batch.x));
        let codes = read_single(active.clone().without_autodiff())?;
        let decoder = self.dictionary.decoder.val().transpose();
        let bias = self.dictionary.decoder_bias.val().unsqueeze();
        let error = (x.clone() - times_rows(active, decoder) - bias)
            .square()
            .sum();
        let lacking = read_number(error.clone().without_autodiff())?;
        let penalty = self.config.penalty * width as f64 * (batch.progress / RISE).min(1.0);
        Ok(Objective {
            // By the reciprocal: the gradient of Burn's division by a number is rounded to single precision.
            loss: (error + open.sum() * penalty) * (1.0 / examples as f64),
            seen: Seen {
                unexplained: lacking / variance(&x)?,
                codes: Codes::of_dense(&codes, self.dictionary.latents()),
                least_score: None,
            },
        })
    }
}

#[cfg(test)]
mod tests;
