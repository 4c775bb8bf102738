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

/// Activity and scores of a batch, on the host, `[batch, latents]`.
struct Scored {
    activity: Vec<f32>,
    scores: Vec<f32>,
}

impl GradientSae {
    fn scored(&self, x: Tensor<2>, gradient: Option<Tensor<2>>) -> Result<Scored, SaeError> {
        self.dictionary.check(&x)?;
        let dictionary = self.dictionary.constant();
        let x = x.without_autodiff();
        let shape = x.dims();
        let bias = dictionary.encoder_bias.clone().unsqueeze();
        let z = relu(dictionary.products(x) + bias); // [batch, latents]
        let (alpha, beta) = (self.config.alpha, self.config.beta);
        let gradient = gradient.filter(|_| beta != 0.0);
        let activity = read_single(z.clone())?;
        let Some(gradient) = gradient else {
            // Without gradients, `a` is 0; with `α = 0`, all scores would be: the activity is what is left.
            return Ok(Scored {
                scores: activity.clone(),
                activity,
            });
        };
        if gradient.dims() != shape {
            return Err(SaeError::Gradients {
                activations: shape,
                gradients: gradient.dims(),
            });
        }
        let a = times_rows(gradient.without_autodiff(), dictionary.decoder).abs();
        let mean = self.mean_attribution.val().without_autodiff().unsqueeze();
        let scores = read_single(z * (a / mean * beta + alpha))?;
        Ok(Scored { activity, scores })
    }

    /// The chosen latents of each example, in ascending order.
    fn choose(&self, scores: &[f32]) -> Vec<Vec<usize>> {
        let latents = self.dictionary.latents();
        match self.config.selection {
            Selection::Example => {
                let rows = scores.par_chunks_exact(latents);
                rows.map(|row| largest(row, self.config.active)).collect()
            }
            Selection::Batch => {
                let examples = scores.len() / latents;
                let mut chosen = vec![Vec::new(); examples];
                for place in largest(scores, self.config.active * examples) {
                    chosen[place / latents].push(place % latents);
                }
                chosen
            }
        }
    }

    /// The codes of the chosen latents.
    fn coded(&self, activity: &[f32], chosen: Vec<Vec<usize>>) -> Codes {
        let latents = self.dictionary.latents();
        let mut codes = Codes::new(latents);
        for (row, chosen) in activity.chunks_exact(latents).zip(chosen) {
            codes.push(chosen.into_iter().map(|id| (id, row[id])));
        }
        codes
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

/// The places of the `count` largest positive values, in ascending order; of equal values, the first.
pub(crate) fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).filter(|&i| values[i] > 0.0).collect();
    if places.len() > count && count > 0 {
        let order = |&a: &usize, &b: &usize| values[b].total_cmp(&values[a]).then(a.cmp(&b));
        places.select_nth_unstable_by(count - 1, order);
    }
    places.truncate(count);
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
        let Scored { activity, scores } = self.scored(x, gradient)?;
        let chosen = match self.config.selection {
            Selection::Example => self.choose(&scores),
            Selection::Batch => {
                let threshold = read_number(self.threshold.val())? as f32;
                let rows = scores.chunks_exact(self.dictionary.latents());
                let above =
                    |row: &[f32]| (0..row.len()).filter(|&id| row[id] > threshold).collect();
                rows.map(above).collect()
            }
        };
        Ok(self.coded(&activity, chosen))
    }

    fn objective(&self, batch: SaeBatch) -> Result<Objective, SaeError> {
        let Scored { activity, scores } = self.scored(batch.x.clone(), Some(batch.gradient))?;
        let chosen = self.choose(&scores);
        let rows = scores.chunks_exact(self.dictionary.latents()).zip(&chosen);
        let least = rows.flat_map(|(row, chosen)| chosen.iter().map(|&id| f64::from(row[id])));
        let least_score = least.reduce(f64::min);
        let codes = self.coded(&activity, chosen);
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
