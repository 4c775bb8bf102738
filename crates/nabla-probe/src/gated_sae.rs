//! Gated sparse autoencoder: whether a latent is active, and how strongly, are told by two layers with shared weights.
//!
//! A penalty on the sum of activities makes them few, but also too small. Here the penalty falls on the layer that decides,
//! and not on the one that says how much:
//!
//! ```text
//! p = (x/s − b) W_gateᵀ
//! f = 1[p + b_gate > 0] max(0, p e^r + b_mag)
//! loss = ‖x/s − x̂(f)‖² + λ Σ max(0, p + b_gate) + ‖x/s − x̂'(max(0, p + b_gate))‖²
//! ```
//!
//! `x̂'` is the decoder with its weights held fixed: the last term alone teaches the gate what to open for, since the step
//! in `f` has no gradient. `λ` rises over the first part of the training. Squares are means over the batch.
//!
//! Source: Rajamanoharan, Conmy, Smith, Lieberum, Varma, Kramár, Shah, Nanda, *Improving Dictionary Learning with Gated
//! Sparse Autoencoders*, 2024, arXiv 2404.16014.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use nabla_base::range;
use serde::{Deserialize, Serialize};

use crate::activation_set::ActivationSet;
use crate::sparse_autoencoder::{
    Codes, Dictionary, DictionaryConfig, Objective, SaeBatch, SaeError, Seen, SparseAutoencoder,
    read_number, read_single, times_rows, variance,
};

/// The share of the training over which a penalty rises.
pub(crate) const RISE: f64 = 0.1;

/// The numbers of the method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatedSaeConfig {
    /// `λ`, the weight of the penalty. What sparsity it brings depends on the network: several are tried.
    pub penalty: f64,
}

impl GatedSaeConfig {
    /// An autoencoder for the activations of `data`.
    ///
    /// # Errors
    /// If the penalty is negative or not finite, or the dictionary cannot begin.
    pub fn init(
        &self,
        dictionary: &DictionaryConfig,
        data: &ActivationSet,
        device: &Device,
    ) -> Result<GatedSae, SaeError> {
        self.with(dictionary.init(data, device)?)
    }

    /// With a dictionary that there is already; its encoder is the gate.
    ///
    /// # Errors
    /// If the penalty is negative or not finite.
    pub fn with(&self, dictionary: Dictionary) -> Result<GatedSae, SaeError> {
        range::not_negative("weight of the penalty", self.penalty)?;
        let zeros = dictionary.encoder_bias.val().zeros_like();
        Ok(GatedSae {
            magnitude: Param::from_tensor(zeros.clone()),
            magnitude_bias: Param::from_tensor(zeros),
            dictionary,
            config: self.clone(),
        })
    }
}

/// The autoencoder.
#[derive(Module, Debug)]
pub struct GatedSae {
    /// The directions, and the gate.
    pub dictionary: Dictionary,
    /// `r`, `[latents]`.
    pub magnitude: Param<Tensor<1>>,
    /// `b_mag`, `[latents]`.
    pub magnitude_bias: Param<Tensor<1>>,
    /// The numbers of the method.
    #[module(skip)]
    pub config: GatedSaeConfig,
}

/// What both layers say, `[batch, latents]`.
struct Layers {
    /// `max(0, p + b_gate)`.
    gate: Tensor<2>,
    /// `f`.
    active: Tensor<2>,
}

impl GatedSae {
    /// - `centred`: `x/s − b`, `[batch, width]`
    fn layers(&self, centred: Tensor<2>) -> Layers {
        let p = times_rows(centred, self.dictionary.encoder.val());
        let gate = relu(p.clone() + self.dictionary.encoder_bias.val().unsqueeze());
        let size = p * self.magnitude.val().exp().unsqueeze();
        let size = relu(size + self.magnitude_bias.val().unsqueeze());
        let open = gate.clone().detach().greater_elem(0.0).float();
        let open = open.cast(size.dtype());
        Layers {
            active: size * open,
            gate,
        }
    }
}

impl SparseAutoencoder for GatedSae {
    fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    fn dictionary_mut(&mut self) -> &mut Dictionary {
        &mut self.dictionary
    }

    fn encode(&self, x: Tensor<2>, _: Option<Tensor<2>>) -> Result<Codes, SaeError> {
        self.dictionary.check(&x)?;
        let plain = self.clone().valid();
        let centred = plain.dictionary.centred(x.without_autodiff());
        let Layers { active, .. } = plain.layers(centred);
        let active = read_single(active.without_autodiff())?;
        Ok(Codes::of_dense(&active, self.dictionary.latents()))
    }

    fn objective(&self, batch: SaeBatch) -> Result<Objective, SaeError> {
        self.dictionary.check(&batch.x)?;
        let [examples, _] = batch.x.dims();
        let decoder = self.dictionary.decoder.val();
        let bias: Tensor<2> = self.dictionary.decoder_bias.val().unsqueeze();
        let x = batch.x.clone() / self.dictionary.scale.val().unsqueeze();
        let Layers { gate, active } = self.layers(self.dictionary.centred(batch.x));
        let codes = read_single(active.clone().without_autodiff())?;
        let decoded = times_rows(active, decoder.clone().transpose()) + bias.clone();
        let by_gate = times_rows(gate.clone(), decoder.detach().transpose()) + bias.detach();
        let error = (x.clone() - decoded).square().sum();
        let lacking = read_number(error.clone().without_autodiff())?;
        let penalty = gate.sum() * (self.config.penalty * (batch.progress / RISE).min(1.0));
        let loss = error + penalty + (x.clone() - by_gate).square().sum();
        Ok(Objective {
            // By the reciprocal: the gradient of Burn's division by a number is rounded to single precision.
            loss: loss * (1.0 / examples as f64),
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
