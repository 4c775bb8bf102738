//! Gradient SAE: a sparse autoencoder that spends its few latents on what matters for the network's output.
//!
//! The top-k encoder keeps the `k` most active latents. Here, the gradient `g` of the network's loss by the activation has
//! a say in which ones are kept: a latent counts by its activity and by how much writing it would change the loss. The
//! values that are kept stay those of the activity.
//!
//! ```text
//! z = max(0, (x/s − b) W_encᵀ + b_enc)
//! a_j = |⟨w_j, g⟩|                             first-order change of the loss by a unit of latent j
//! score = z (α + β a/ā)                       ā: the mean of a over activations and latents at the start
//! f_j = z_j for the k largest positive scores, else 0
//! loss = Σ ‖x/s − Σ f_j w_j − b‖² / Σ ‖x/s − x̄/s‖²  +  ¹⁄₃₂ · the same for the error, from dead latents alone
//! ```
//!
//! `β = 0` is the top-k autoencoder, bit for bit; `α = 0` chooses by attribution alone. `ā` makes `β` a number without a
//! unit. The gradient is needed whenever a latent is chosen, after the training, too: without it, a dictionary trained with
//! gradients is worse than one trained without. Scores have no gradient themselves, since they only choose.
//!
//! Source: Olmo, Wilson, Forsey, Hepner, Howe, Wingate, *Features that Make a Difference: Leveraging Gradients for Improved
//! Dictionary Learning*, Findings of NAACL 2025, arXiv 2411.10397. The abstract says that the gradient augments the top-k
//! activity; that `α = 1` and that the term is added is our reading of its formula. The top-k autoencoder and the revival of
//! dead latents: Gao et al., 2024, arXiv 2406.04093. The largest of a batch: Bussmann et al., *BatchTopK Sparse
//! Autoencoders*, 2024, arXiv 2412.06410.

use burn::module::{Module, Param};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_kernels::selected_rows::row_products;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::activation_set::ActivationSet;
use crate::sparse_autoencoder::{
    Codes, ConstantDictionary, Dictionary, DictionaryConfig, Objective, SaeBatch, SaeError, Seen,
    SparseAutoencoder, changed, read_number, read_single, spread_over, times_rows, variance,
};

/// Among what the largest scores are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// `k` for every example.
    #[default]
    Example,
    /// `k` times the examples of a batch, among all of them: some have more, others fewer. Outside of training, those
    /// above a threshold, the average over steps of the least score that was chosen.
    Batch,
}

/// The numbers of the method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientSaeConfig {
    /// `k`, the active latents of an example.
    pub active: usize,
    /// `α`, the weight of the activity; 1 by default.
    pub alpha: f64,
    /// `β`, the weight of the gradient; 1 by default.
    pub beta: f64,
    /// Among what is chosen; for every example by default.
    pub selection: Selection,
    /// Dead latents that explain the error together; half the values of an activation by default.
    pub revived: Option<usize>,
    /// The weight of their loss; 1/32 by default.
    pub revival: f64,
}

impl GradientSaeConfig {
    /// With the defaults.
    ///
    /// - `active`: `k`
    pub fn new(active: usize) -> Self {
        Self {
            active,
            alpha: 1.0,
            beta: 1.0,
            selection: Selection::Example,
            revived: None,
            revival: 1.0 / 32.0,
        }
    }

    /// The top-k autoencoder, which doesn't look at gradients.
    pub fn top_k(active: usize) -> Self {
        Self {
            beta: 0.0,
            ..Self::new(active)
        }
    }

    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self, latents: usize) -> Result<(), OutOfRange> {
        range::within("number of active latents", self.active, 1..=latents)?;
        range::not_negative("alpha", self.alpha)?;
        range::not_negative("beta", self.beta)?;
        range::not_negative("weight of the revival of dead latents", self.revival)?;
        range::positive("sum of alpha and beta", self.alpha + self.beta)
    }

    /// An autoencoder for the activations of `data`.
    ///
    /// # Errors
    /// If a number is out of range, the dictionary cannot begin, or `beta` is not 0 and there are no gradients.
    pub fn init(
        &self,
        dictionary: &DictionaryConfig,
        data: &ActivationSet,
        device: &Device,
    ) -> Result<GradientSae, SaeError> {
        let dictionary = dictionary.init(data, device)?;
        self.validate(dictionary.latents())?;
        let mean = match self.beta {
            0.0 => 1.0,
            _ => mean_attribution(&dictionary.constant(), data)?,
        };
        self.with(dictionary, mean)
    }

    /// With a dictionary that there is already.
    ///
    /// - `mean_attribution`: `ā`
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn with(
        &self,
        dictionary: Dictionary,
        mean_attribution: f64,
    ) -> Result<GradientSae, SaeError> {
        self.validate(dictionary.latents())?;
        range::positive("mean attribution", mean_attribution)?;
        let decoder = dictionary.decoder.val();
        let constant = |value: f64| {
            let options = (&decoder.device(), decoder.dtype());
            let value = Tensor::from_data(TensorData::new(vec![value], [1]), options);
            Param::from_tensor(value).set_require_grad(false)
        };
        Ok(GradientSae {
            mean_attribution: constant(mean_attribution),
            threshold: constant(0.0),
            dictionary,
            config: self.clone(),
        })
    }
}

/// `ā`, from some of the activations.
fn mean_attribution(
    dictionary: &ConstantDictionary,
    data: &ActivationSet,
) -> Result<f64, SaeError> {
    /// More would hardly move the mean.
    const ROWS: usize = 512;
    let rows = spread_over(data.rows(), ROWS);
    let gradients = TensorData::new(data.read(&rows)?.gradients, [rows.len(), data.width()]);
    let decoder = dictionary.decoder.clone();
    let options = (&decoder.device(), decoder.dtype());
    let gradients = Tensor::<2>::from_data(gradients, options);
    let mean = read_number(times_rows(gradients, decoder).abs().mean())?;
    match mean > 0.0 {
        true => Ok(mean),
        false => Err(SaeError::NoGradients),
    }
}

/// The autoencoder.
#[derive(Module, Debug)]
pub struct GradientSae {
    /// The directions, and the layer that chooses.
    pub dictionary: Dictionary,
    /// `ā`, `[1]`, not trained.
    pub mean_attribution: Param<Tensor<1>>,
    /// The score above which a latent is active outside of training, `[1]`, not trained: for [`Selection::Batch`].
    pub threshold: Param<Tensor<1>>,
    /// The numbers of the method.
    #[module(skip)]
    pub config: GradientSaeConfig,
}

/// What the activity and the scores of a batch are made of, on the host: a pass over all latents for each of its parts would
/// cost more than the products.
struct Scored {
    /// `(x/s − b) W_encᵀ`, `[batch, latents]`.
    products: Vec<f32>,
    /// `b_enc`, `[latents]`.
    bias: Vec<f32>,
    /// `⟨g, w_j⟩`, `[batch, latents]`, if gradients choose.
    attributions: Option<Vec<f32>>,
    /// `α`.
    alpha: f32,
    /// `β / ā`.
    beta: f32,
}

impl Scored {
    /// Of a latent in an example.
    fn activity(&self, example: usize, latent: usize) -> f32 {
        let place = example * self.bias.len() + latent;
        (self.products[place] + self.bias[latent]).max(0.0)
    }

    /// Writes the scores of an example, `[latents]`.
    fn write_scores(&self, example: usize, scores: &mut [f32]) {
        let own = example * self.bias.len()..(example + 1) * self.bias.len();
        let z = self.products[own.clone()].iter().zip(&self.bias);
        let z = z.map(|(product, bias)| (product + bias).max(0.0));
        match &self.attributions {
            Some(attributions) => {
                let pairs = scores.iter_mut().zip(z.zip(&attributions[own]));
                for (score, (z, a)) in pairs {
                    *score = z * (a.abs() * self.beta + self.alpha);
                }
            }
            // Without gradients, `a` is 0; with `α = 0`, all scores would be: the activity is what is left.
            None => scores.iter_mut().zip(z).for_each(|(score, z)| *score = z),
        }
    }
}

/// The chosen latents of each example, in ascending order, with their activity.
struct Chosen {
    codes: Codes,
    /// The least score of a chosen latent.
    least_score: Option<f64>,
}

impl GradientSae {
    fn scored(&self, x: Tensor<2>, gradient: Option<Tensor<2>>) -> Result<Scored, SaeError> {
        self.dictionary.check(&x)?;
        let dictionary = self.dictionary.constant();
        let shape = x.dims();
        let (alpha, beta) = (self.config.alpha as f32, self.config.beta);
        let bias = read_single(dictionary.encoder_bias.clone())?;
        let products = read_single(dictionary.products(x.without_autodiff()))?;
        let (attributions, beta) = match gradient.filter(|_| beta != 0.0) {
            Some(gradient) if gradient.dims() != shape => {
                return Err(SaeError::Gradients {
                    activations: shape,
                    gradients: gradient.dims(),
                });
            }
            Some(gradient) => {
                let mean = read_number(self.mean_attribution.val())?;
                let a = times_rows(gradient.without_autodiff(), dictionary.decoder);
                (Some(read_single(a)?), (beta / mean) as f32)
            }
            None => (None, 0.0),
        };
        Ok(Scored {
            products,
            bias,
            attributions,
            alpha,
            beta,
        })
    }

    /// By the scores, as training does.
    fn choose(&self, scored: &Scored) -> Chosen {
        let latents = self.dictionary.latents();
        let examples = scored.products.len() / latents;
        let chosen: Vec<Vec<(usize, f32)>> = match self.config.selection {
            Selection::Example => (0..examples)
                .into_par_iter()
                .map_init(
                    || vec![0.0; latents],
                    |scores, example| {
                        scored.write_scores(example, scores);
                        let found = largest(scores, self.config.active).into_iter();
                        found.map(|id| (id, scores[id])).collect()
                    },
                )
                .collect(),
            Selection::Batch => {
                let mut scores = vec![0.0; scored.products.len()];
                scores
                    .par_chunks_exact_mut(latents)
                    .enumerate()
                    .for_each(|(example, scores)| scored.write_scores(example, scores));
                let mut chosen = vec![Vec::new(); examples];
                for place in largest(&scores, self.config.active * examples) {
                    chosen[place / latents].push((place % latents, scores[place]));
                }
                chosen
            }
        };
        let scores = chosen.iter().flatten().map(|&(_, score)| f64::from(score));
        Chosen {
            least_score: scores.reduce(f64::min),
            codes: coded(
                scored,
                chosen
                    .into_iter()
                    .map(|own| own.into_iter().map(|(id, _)| id)),
            ),
        }
    }

    /// The loss of the error, from dead latents alone.
    fn revival(
        &self,
        centred: &Tensor<2>,
        error: Tensor<2>,
        dead: &[usize],
    ) -> Result<Option<Tensor<1>>, SaeError> {
        let error = error.detach();
        let total = read_number(error.clone().square().sum())?;
        if dead.is_empty() || self.config.revival == 0.0 || total == 0.0 {
            return Ok(None);
        }
        let [examples, width] = error.dims();
        let most = self.config.revived.unwrap_or(width / 2).max(1);
        let ids: Vec<i32> = dead.iter().map(|&id| id as i32).collect();
        let ids = Tensor::<1, burn::tensor::Int>::from_data(
            TensorData::new(ids, [dead.len()]),
            &error.device(),
        );
        let rows = |param: &Param<Tensor<2>>| param.val().select(0, ids.clone());
        let bias = self.dictionary.encoder_bias.val().select(0, ids.clone());
        let mut z =
            relu(times_rows(centred.clone(), rows(&self.dictionary.encoder)) + bias.unsqueeze());
        if dead.len() > most {
            let activity = read_single(z.clone().without_autodiff())?;
            let mut mask = vec![0.0_f32; activity.len()];
            mask.par_chunks_exact_mut(dead.len())
                .zip(activity.par_chunks_exact(dead.len()))
                .for_each(|(mask, row)| {
                    for place in largest(row, most) {
                        mask[place] = 1.0;
                    }
                });
            let options = (&z.device(), z.dtype());
            z = z * Tensor::from_data(TensorData::new(mask, [examples, dead.len()]), options);
        }
        let found = times_rows(z, rows(&self.dictionary.decoder).transpose());
        let lacking = (error - found).square().sum() * (1.0 / total);
        Ok(Some(lacking * self.config.revival))
    }
}

/// The codes of the chosen latents of each example.
fn coded(scored: &Scored, chosen: impl Iterator<Item: Iterator<Item = usize>>) -> Codes {
    let mut codes = Codes::new(scored.bias.len());
    for (example, chosen) in chosen.enumerate() {
        codes.push(chosen.map(|id| (id, scored.activity(example, id))));
    }
    codes
}

/// The places of the `count` largest positive values, in ascending order; of equal values, the first.
pub(crate) fn largest(values: &[f32], count: usize) -> Vec<usize> {
    // Positive numbers are ordered as their bits are; below these, what comes first counts more.
    let mut keys = Vec::with_capacity(values.len());
    for (place, &value) in values.iter().enumerate() {
        if value > 0.0 {
            keys.push(u64::from(value.to_bits()) << 32 | u64::from(!(place as u32)));
        }
    }
    if keys.len() > count && count > 0 {
        keys.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
    }
    keys.truncate(count);
    let mut places: Vec<usize> = keys.iter().map(|&key| !(key as u32) as usize).collect();
    places.sort_unstable();
    places
}

impl SparseAutoencoder for GradientSae {
    fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    fn dictionary_mut(&mut self) -> &mut Dictionary {
        &mut self.dictionary
    }

    /// Without a gradient, the latents are chosen by their activity.
    fn encode(&self, x: Tensor<2>, gradient: Option<Tensor<2>>) -> Result<Codes, SaeError> {
        let scored = self.scored(x, gradient)?;
        match self.config.selection {
            Selection::Example => Ok(self.choose(&scored).codes),
            Selection::Batch => {
                let threshold = read_number(self.threshold.val())? as f32;
                let latents = self.dictionary.latents();
                let examples = scored.products.len() / latents;
                let chosen: Vec<Vec<usize>> = (0..examples)
                    .into_par_iter()
                    .map_init(
                        || vec![0.0; latents],
                        |scores, example| {
                            scored.write_scores(example, scores);
                            (0..latents).filter(|&id| scores[id] > threshold).collect()
                        },
                    )
                    .collect();
                Ok(coded(&scored, chosen.into_iter().map(Vec::into_iter)))
            }
        }
    }

    fn objective(&self, batch: SaeBatch) -> Result<Objective, SaeError> {
        let scored = self.scored(batch.x.clone(), Some(batch.gradient))?;
        let Chosen { codes, least_score } = self.choose(&scored);
        let x = batch.x / self.dictionary.scale.val().unsqueeze(); // [batch, width]
        let centred = x.clone() - self.dictionary.decoder_bias.val().unsqueeze();
        let (ids, values) = codes.padded(&x.device());
        let [examples, most] = ids.dims();
        let bias = self.dictionary.encoder_bias.val();
        let bias: Tensor<2> = bias
            .select(0, ids.clone().flatten(0, 1))
            .reshape([examples, most]);
        let z = row_products(self.dictionary.encoder.val(), ids.clone(), centred.clone()) + bias;
        // What was chosen is positive; what is only there to fill up has the value 0.
        let filled = values.greater_elem(0.0).float().cast(z.dtype());
        let error = x.clone() - self.dictionary.decoded(ids, relu(z) * filled);
        let total = variance(&x)?;
        // By the reciprocal: the gradient of Burn's division by a number is rounded to single precision.
        let lacking = error.clone().square().sum() * (1.0 / total);
        let unexplained = read_number(lacking.clone().without_autodiff())?;
        let loss = match self.revival(&centred, error, &batch.dead)? {
            Some(revival) => lacking + revival,
            None => lacking,
        };
        Ok(Objective {
            loss,
            seen: Seen {
                unexplained,
                codes,
                least_score,
            },
        })
    }

    fn stepped(mut self, seen: &Seen) -> Result<Self, SaeError> {
        /// The weight of a step in the average of the least chosen score.
        const NEW: f64 = 0.01;
        self.dictionary.normalize();
        if let (Selection::Batch, Some(least)) = (self.config.selection, seen.least_score) {
            let old = read_number(self.threshold.val())?;
            let new = match old {
                0.0 => least,
                old => old + NEW * (least - old),
            };
            self.threshold = changed(self.threshold, |t| t * 0.0 + new);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
