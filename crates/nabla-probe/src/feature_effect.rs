//! What a network makes of its features: activations are recorded, replaced by their reconstructions, or moved along a
//! direction.
//!
//! A network is cut in two at an activation `x`: a lower part gives it, an upper part goes on from it to logits. With the
//! loss `L(x)`, the cross entropy of the answers,
//!
//! ```text
//! g = ∇_x Σ L                                        summed, not averaged: a row's gradient is that of all it affects
//! loss recovered = 1 − (L(x̂) − L(x)) / (L(ablated) − L(x))      1: nothing is lost, 0: as with the mean in its place
//! KL = Σ softmax(x) (ln softmax(x) − ln softmax(x̂))
//! steering: x + c √(mean square of x's values) √d w_j
//! ```
//!
//! The gradient that an encoder is given when it is measured can use the true answers, or those the network itself gives:
//! with the latter, nothing is known of the truth.
//!
//! Any network fits: a type that implements [`HookedModel`].

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use crate::activation_set::{ActivationError, ActivationSet, Storage};
use crate::sparse_autoencoder::{
    Codes, SaeError, SparseAutoencoder, read, read_number, read_single,
};

/// The reason why nothing can be recorded or measured.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// The network.
    #[error(transparent)]
    Model(Box<dyn std::error::Error + Send + Sync>),
    /// The autoencoder.
    #[error(transparent)]
    Autoencoder(#[from] SaeError),
    /// The activations.
    #[error(transparent)]
    Activations(#[from] ActivationError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There is nothing to measure on.
    #[error("there are no inputs, or none with an answer")]
    NoInputs,
    /// The labels don't fit the logits.
    #[error("the network gives {logits} answers, but there are {labels} labels")]
    Labels {
        /// Rows of the logits.
        logits: usize,
        /// Labels.
        labels: usize,
    },
    /// It was stopped.
    #[error("stopped")]
    Stopped,
    /// A tensor on a device that computes no gradients.
    #[error("the network must be on an autodiff device to have gradients: use `device.autodiff()`")]
    NoGradients,
}

impl EffectError {
    /// An error of the network.
    pub fn model(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Model(error.into())
    }
}

/// A frozen network, cut in two at an activation.
pub trait HookedModel {
    /// One or several inputs that are computed together.
    type Input;

    /// The device of the network: an autodiff device.
    fn device(&self) -> Device;

    /// The activation, `[rows, width]`.
    ///
    /// # Errors
    /// If the input doesn't fit.
    fn lower(&self, input: &Self::Input) -> Result<Tensor<2>, EffectError>;

    /// The logits of the answers, `[answers, classes]`, from the activation.
    ///
    /// # Errors
    /// If the input doesn't fit.
    fn upper(&self, input: &Self::Input, activation: Tensor<2>) -> Result<Tensor<2>, EffectError>;

    /// The right answers.
    fn labels(&self, input: &Self::Input) -> Vec<u32>;

    /// Which rows of the activation are recorded and replaced; all by default. Language models leave out those whose
    /// activation is many times as large as all others and says nothing, such as that of the first piece.
    ///
    /// # Errors
    /// If a value cannot be read.
    fn rows(
        &self,
        _input: &Self::Input,
        activation: &Tensor<2>,
    ) -> Result<Vec<usize>, EffectError> {
        Ok((0..activation.dims()[0]).collect())
    }
}

/// Of which answers the gradient is that an encoder is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GradientOf {
    /// The right ones.
    Label,
    /// Those to which the network itself gives the highest probability.
    OwnPrediction,
    /// No gradient.
    None,
}

/// What stands in place of the activation to tell how much it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ablation {
    /// The mean of the activations.
    #[default]
    Mean,
    /// Zero.
    Zero,
}

/// An autoencoder of any kind.
pub trait Coder {
    /// As [`SparseAutoencoder::encode`].
    ///
    /// # Errors
    /// Its errors.
    fn code(&self, x: Tensor<2>, gradient: Option<Tensor<2>>) -> Result<Codes, SaeError>;

    /// As [`SparseAutoencoder::decode`].
    fn decoded(&self, codes: &Codes) -> Tensor<2>;
}

impl<S: SparseAutoencoder + Module> Coder for S {
    fn code(&self, x: Tensor<2>, gradient: Option<Tensor<2>>) -> Result<Codes, SaeError> {
        self.encode(x, gradient)
    }

    fn decoded(&self, codes: &Codes) -> Tensor<2> {
        self.decode(codes)
    }
}

/// Is asked before each input whether to go on.
pub type Before<'a> = &'a dyn Fn() -> ControlFlow<()>;

/// Goes on to the end.
pub fn to_the_end() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

pub(crate) fn asked(before: Before<'_>) -> Result<(), EffectError> {
    match before() {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(EffectError::Stopped),
    }
}

/// Records the activations of inputs, with the gradients of the loss by them.
///
/// # Errors
/// If an input doesn't fit the network, a number is not finite, the activations cannot be kept, or it was stopped.
pub fn record<M: HookedModel>(
    model: &M,
    inputs: &[M::Input],
    of: GradientOf,
    storage: Storage,
    before: Before<'_>,
) -> Result<ActivationSet, EffectError> {
    let mut set = None;
    for input in inputs {
        asked(before)?;
        let cut = Cut::of(model, input)?;
        let gradients = cut
            .gradient(model, input, of)?
            .map(read_single)
            .transpose()?;
        let [_, width] = cut.chosen.dims();
        let set = match &mut set {
            Some(set) => set,
            none => none.insert(ActivationSet::new(width, storage.clone())?),
        };
        set.push(&read_single(cut.chosen)?, gradients.as_deref())?;
    }
    set.filter(|set| set.rows() > 0)
        .ok_or(EffectError::NoInputs)
}

/// The codes of an input's activations, and which rows of the activation they are of.
///
/// # Errors
/// If the input doesn't fit the network, or the activation the dictionary.
pub fn codes<M: HookedModel>(
    model: &M,
    input: &M::Input,
    coder: &dyn Coder,
    of: GradientOf,
) -> Result<(Codes, Vec<usize>), EffectError> {
    let cut = Cut::of(model, input)?;
    let gradient = cut.gradient(model, input, of)?;
    Ok((coder.code(cut.chosen, gradient)?, cut.places))
}

/// An input's activation, where the network is cut.
struct Cut {
    /// The whole activation, `[rows, width]`.
    whole: Tensor<2>,
    /// Which rows are recorded and replaced.
    places: Vec<usize>,
    /// As a tensor.
    rows: Tensor<1, Int>,
    /// Those rows.
    chosen: Tensor<2>,
}

/// What a network answers to an input.
struct Answered {
    /// `[answers, classes]`.
    logits: Tensor<2>,
    labels: Vec<u32>,
    /// The gradient of the loss by the chosen rows, if it was asked for.
    gradient: Option<Tensor<2>>,
}

impl Cut {
    fn of<M: HookedModel>(model: &M, input: &M::Input) -> Result<Self, EffectError> {
        let whole = model.lower(input)?.without_autodiff();
        let places = model.rows(input, &whole)?;
        let rows: Vec<i32> = places.iter().map(|&row| row as i32).collect();
        let rows = TensorData::new(rows, [places.len()]);
        let rows = Tensor::<1, Int>::from_data(rows, &whole.device());
        Ok(Self {
            chosen: whole.clone().select(0, rows.clone()),
            whole,
            places,
            rows,
        })
    }

    /// The answers to the activation as it is, with the gradient that is asked for.
    fn answered<M: HookedModel>(
        &self,
        model: &M,
        input: &M::Input,
        of: GradientOf,
    ) -> Result<Answered, EffectError> {
        let labels = model.labels(input);
        let leaf = on(self.whole.clone(), model)?.set_require_grad(of != GradientOf::None);
        let tracked = model.upper(input, leaf.clone())?;
        let logits = tracked.clone().without_autodiff();
        let [answers, _] = logits.dims();
        if labels.len() != answers {
            return Err(EffectError::Labels {
                logits: answers,
                labels: labels.len(),
            });
        }
        let gradient = match of {
            GradientOf::None => None,
            GradientOf::Label => Some(labels.clone()),
            GradientOf::OwnPrediction => Some(predicted(&logits)?),
        };
        let gradient = gradient.map(|answers| {
            let grads = losses(tracked, &answers).sum().backward();
            let all = leaf.grad(&grads);
            all.unwrap_or_else(|| self.whole.zeros_like())
                .select(0, self.rows.clone())
        });
        Ok(Answered {
            logits,
            labels,
            gradient,
        })
    }

    /// The gradient that is asked for; without one, nothing is answered.
    fn gradient<M: HookedModel>(
        &self,
        model: &M,
        input: &M::Input,
        of: GradientOf,
    ) -> Result<Option<Tensor<2>>, EffectError> {
        match of {
            GradientOf::None => Ok(None),
            of => Ok(self.answered(model, input, of)?.gradient),
        }
    }

    /// The logits with other rows in place of those that are chosen.
    fn with<M: HookedModel>(
        &self,
        model: &M,
        input: &M::Input,
        rows: Tensor<2>,
    ) -> Result<Tensor<2>, EffectError> {
        let change = rows - self.chosen.clone();
        let ids = self.rows.clone();
        let moved =
            self.whole
                .clone()
                .select_assign(0, ids, change, burn::tensor::IndexingUpdateOp::Add);
        Ok(model.upper(input, on(moved, model)?)?.without_autodiff())
    }
}

/// A tensor on the network's device.
fn on<M: HookedModel>(tensor: Tensor<2>, model: &M) -> Result<Tensor<2>, EffectError> {
    match model.device().is_autodiff() {
        true => Ok(tensor.autodiff()),
        false => Err(EffectError::NoGradients),
    }
}

/// The cross entropy of each answer, `[answers]`.
fn losses(logits: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    let ids: Vec<i32> = labels.iter().map(|&label| label as i32).collect();
    let ids = TensorData::new(ids, [labels.len(), 1]);
    let ids = Tensor::<2, Int>::from_data(ids, &logits.device());
    -log_softmax(logits, 1).gather(1, ids).squeeze_dim(1)
}

/// The class with the highest logit of each answer.
fn predicted(logits: &Tensor<2>) -> Result<Vec<u32>, EffectError> {
    let classes = logits.clone().argmax(1).try_into_vec_as::<i64>();
    let classes = classes.map_err(|error| SaeError::Device(error.to_string()))?;
    Ok(classes.into_iter().map(|class| class as u32).collect())
}

/// What replacing activations by their reconstructions does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The mean loss of an answer with the activations themselves, in nats.
    pub clean_loss: f64,
    /// With the reconstructions.
    pub loss: f64,
    /// With the ablation.
    pub ablated_loss: f64,
    /// The mean divergence of the answers' distributions from those with the activations themselves, in nats.
    pub divergence: f64,
    /// The share of right answers with the activations themselves.
    pub clean_accuracy: f64,
    /// With the reconstructions.
    pub accuracy: f64,
    /// The share of the activations' variance that the reconstructions lack.
    pub unexplained: f64,
    /// The mean number of active latents.
    pub active: f64,
    /// The latents that were active at least once.
    pub live: usize,
    /// All latents.
    pub latents: usize,
}

impl Effect {
    /// The share of the loss between ablation and nothing that the reconstructions keep; not a number if the ablation
    /// loses nothing.
    pub fn loss_recovered(&self) -> f64 {
        match self.ablated_loss > self.clean_loss {
            true => 1.0 - (self.loss - self.clean_loss) / (self.ablated_loss - self.clean_loss),
            false => f64::NAN,
        }
    }
}

/// Sums over answers and rows.
#[derive(Clone, Debug, Default)]
struct Sums {
    loss: f64,
    divergence: f64,
    right: f64,
    lacking: f64,
    active: f64,
    counts: Vec<usize>,
}

/// Measures autoencoders on inputs, each with a gradient of its choice.
///
/// - `mean`: the mean activation, for [`Ablation::Mean`]: that of the set on which they were trained
///
/// # Errors
/// If an input doesn't fit the network, there are no answers, an autoencoder is of another width, or it was stopped.
pub fn effects<M: HookedModel>(
    model: &M,
    inputs: &[M::Input],
    autoencoders: &[(&dyn Coder, GradientOf)],
    ablation: Ablation,
    mean: &[f64],
    before: Before<'_>,
) -> Result<Vec<Effect>, EffectError> {
    let mut sums = vec![Sums::default(); autoencoders.len()];
    let (mut clean, mut ablated) = (Sums::default(), Sums::default());
    let (mut answers, mut rows) = (0.0, 0.0);
    let (mut squares, mut total) = (0.0, vec![0.0; mean.len()]);
    for input in inputs {
        asked(before)?;
        let cut = Cut::of(model, input)?;
        let first = autoencoders
            .first()
            .map_or(GradientOf::None, |first| first.1);
        let Answered {
            logits: plain,
            labels,
            gradient,
        } = cut.answered(model, input, first)?;
        // One backward pass for all that are given the same gradient.
        let mut gradients = vec![(GradientOf::None, None), (first, gradient)];
        let [count, width] = cut.chosen.dims();
        answers += labels.len() as f64;
        rows += count as f64;
        squares += read_number(cut.chosen.clone().square().sum())?;
        let columns = read(cut.chosen.clone().sum_dim(0))?;
        for (total, column) in total.iter_mut().zip(columns) {
            *total += column;
        }
        clean.answer(&plain, &plain, &labels)?;
        let mut place = cut.chosen.zeros_like();
        if ablation == Ablation::Mean {
            let mean = TensorData::new(mean.to_vec(), [1, mean.len()]);
            let options = (&place.device(), place.dtype());
            place = place + Tensor::<2>::from_data(mean, options).expand([count, width]);
        }
        let logits = cut.with(model, input, place)?;
        ablated.answer(&logits, &plain, &labels)?;
        for ((coder, of), sums) in autoencoders.iter().zip(&mut sums) {
            let known = gradients.iter().find(|(known, _)| known == of);
            let gradient = match known {
                Some((_, gradient)) => gradient.clone(),
                None => {
                    let gradient = cut.gradient(model, input, *of)?;
                    gradients.push((*of, gradient.clone()));
                    gradient
                }
            };
            let codes = coder.code(cut.chosen.clone(), gradient)?;
            let decoded = coder.decoded(&codes).without_autodiff();
            let lacking = cut.chosen.clone() - decoded.clone();
            sums.lacking += read_number(lacking.square().sum())?;
            sums.active += codes.mean_active() * codes.examples() as f64;
            sums.counts.resize(codes.latents(), 0);
            for (sum, count) in sums.counts.iter_mut().zip(codes.counts()) {
                *sum += count;
            }
            let logits = cut.with(model, input, decoded)?;
            sums.answer(&logits, &plain, &labels)?;
        }
    }
    if answers == 0.0 {
        return Err(EffectError::NoInputs);
    }
    let around: f64 = squares - total.iter().map(|sum| sum * sum / rows).sum::<f64>();
    let effects = sums.into_iter().map(|sums| Effect {
        clean_loss: clean.loss / answers,
        loss: sums.loss / answers,
        ablated_loss: ablated.loss / answers,
        divergence: sums.divergence / answers,
        clean_accuracy: clean.right / answers,
        accuracy: sums.right / answers,
        unexplained: sums.lacking / around,
        active: sums.active / rows,
        live: sums.counts.iter().filter(|&&count| count > 0).count(),
        latents: sums.counts.len(),
    });
    Ok(effects.collect())
}

impl Sums {
    fn answer(
        &mut self,
        logits: &Tensor<2>,
        clean: &Tensor<2>,
        labels: &[u32],
    ) -> Result<(), EffectError> {
        let (own, other) = (
            log_softmax(logits.clone(), 1),
            log_softmax(clean.clone(), 1),
        );
        let divergence = (other.clone().exp() * (other - own)).sum();
        self.divergence += read_number(divergence)?;
        self.loss += read_number(losses(logits.clone(), labels).sum())?;
        let right = predicted(logits)?;
        self.right += right.iter().zip(labels).filter(|(a, b)| a == b).count() as f64;
        Ok(())
    }
}

/// The logits of an input, `[answers, classes]`, with its activation moved along a direction.
///
/// - `direction`: `[width]`
/// - `strength`: `c`, in units of the activation's size: the root of the mean square of its values, times `√width`
///
/// # Errors
/// If the input doesn't fit the network, or the direction is of another width.
pub fn steered<M: HookedModel>(
    model: &M,
    input: &M::Input,
    direction: &[f64],
    strength: f64,
) -> Result<Tensor<2>, EffectError> {
    range::finite("strength of the steering", strength)?;
    let cut = Cut::of(model, input)?;
    let [rows, width] = cut.chosen.dims();
    if direction.len() != width {
        return Err(EffectError::Autoencoder(SaeError::Width {
            dictionary: direction.len(),
            found: width,
        }));
    }
    let square = read_number(cut.chosen.clone().square().mean())?;
    let size = strength * (square * width as f64).sqrt();
    let options = (&cut.chosen.device(), cut.chosen.dtype());
    let direction = TensorData::new(direction.to_vec(), [1, width]);
    let along = Tensor::<2>::from_data(direction, options) * size;
    let moved = cut.chosen.clone() + along.expand([rows, width]);
    cut.with(model, input, moved)
}

/// How far steering along directions moves the answers: the mean over directions of the largest change of a mean logit.
///
/// - `directions`: of length 1
///
/// # Errors
/// Like [`steered`], or if there are no directions or answers.
pub fn steering_effect<M: HookedModel>(
    model: &M,
    inputs: &[M::Input],
    directions: &[Vec<f64>],
    strength: f64,
) -> Result<f64, EffectError> {
    let mean_logits = |direction: &[f64], strength: f64| -> Result<Vec<f64>, EffectError> {
        let (mut sum, mut answers) = (Vec::new(), 0.0);
        for input in inputs {
            let logits = steered(model, input, direction, strength)?;
            answers += logits.dims()[0] as f64;
            let columns = read(logits.sum_dim(0))?;
            sum.resize(columns.len(), 0.0);
            for (sum, column) in sum.iter_mut().zip(columns) {
                *sum += column;
            }
        }
        Ok(sum.into_iter().map(|sum| sum / answers).collect())
    };
    let first = directions.first().filter(|_| !inputs.is_empty());
    let clean = mean_logits(first.ok_or(EffectError::NoInputs)?, 0.0)?;
    let mut total = 0.0;
    for direction in directions {
        let moved = mean_logits(direction, strength)?;
        let changes = moved.iter().zip(&clean).map(|(a, b)| (a - b).abs());
        total += changes.fold(0.0, f64::max);
    }
    Ok(total / directions.len() as f64)
}

/// Random directions of length 1, with which features are compared.
pub fn random_directions(width: usize, count: usize, seed: u64) -> Vec<Vec<f64>> {
    let values = SeededNoise::new(seed, 0).normal_values(width * count);
    let rows = values.chunks_exact(width.max(1));
    let unit = |row: &[f32]| {
        let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        let length = nabla_base::vector::norm(&row);
        row.into_iter().map(|v| v / length).collect()
    };
    rows.map(unit).collect()
}

#[cfg(test)]
mod tests;
