//! UDIM: flat minima, also for examples of a domain that nobody has seen.
//!
//! A single hospital, camera or style may be all there is to train on. UDIM moves every example to where the loss and its
//! sharpness rise most, and asks of the last layer that its gradients on the moved examples vary as on the real ones and
//! are small, while all weights step along the gradient of [SAM](super::sam). With `g = ∇_θ L(θ, X)`:
//!
//! ```text
//! 1  ε = ρ g/‖g‖
//! 2  u = ∇_x [ L(θ, X) + ρ ‖∇_θ L(θ, X)‖ ],     X' = X + ρ_x normalised(u)
//! 3  A = ∇_θ L(θ + ε, X)
//! 4  G_i, G'_i = gradients of the last layer for examples of X and X', at θ;  Ḡ = mean G_i
//!    v = mean (G_i − Ḡ)²,  v' = mean (G'_i − Ḡ)²                       number by number, both around Ḡ
//!    I = ¼ mean (v − v')² + mean_i ‖G'_i‖²/numbers                     for the matrix and for the bias
//! 5  gradient of the step = A + λ ∇_θ I
//! ```
//!
//! The first part of a training ([`warmup`](UdimConfig::warmup)) is plain SAM. The weights of it that were best by the accuracy
//! on validation examples are then taken up, with the optimizer's state at that step, if the training
//! [has](crate::DomainObjective::validated_on) such examples; otherwise the last ones go on.
//!
//! **Only first derivatives are needed.** Step 4 is a [closed form](HeadStats) of one pass. Step 2 needs the change of
//! `∇_x L` along `ĝ = g/‖g‖`:
//!
//! ```text
//! u = ∇_x L(θ) + ρ/2h [∇_x L(θ + hĝ) − ∇_x L(θ − hĝ)]            Mixed::Central(h)
//! u ≈ ∇_x L(θ + ρĝ)                                              Mixed::SamPoint, free with step 3; error O(ρ²)
//! ```
//!
//! **Normalisation.** The ball of the paper is one of every example ([`Normalise::PerSample`]). The published code makes
//! every pixel a unit vector over the *batch* ([`Normalise::PerBatch`]), which moves a pixel by `ρ_x/√batch` in the mean.
//!
//! **Style.** [`Perturbation::Style`] moves the mean `μ` and the deviation `σ` of each picture's channels by `ρ_x` times
//! the gradient instead of the pixels. The published code computes its `X'` before that step and never again, so it does
//! not move; here it does.
//!
//! Source: Shin, Bae, Na, Kim, Moon, *Unknown Domain Inconsistency Minimization for Domain Generalization*, 2024, arXiv
//! 2403.07329.

use burn::tensor::Tensor;
use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::classifier::Classifier;
use nabla_train::examples::InputShape;
use nabla_train::learner::Snapshot;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::domain_source::picture_shape;
use crate::head_stats::HeadStats;
use crate::landscape::Slope;
use crate::objective::{
    DomainBatch, DomainPlan, DomainStep, Objective, ObjectiveError, Pass, check_head, number,
};
use crate::objectives::sam::Ascent;
use crate::search::{Draw, Searched};

/// What the length of a move refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalise {
    /// Every example moves by `ρ_x`.
    PerSample,
    /// Every number of an example moves by `ρ_x` in the batch together, as in the published code.
    PerBatch,
}

/// How examples are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Perturbation {
    /// All their numbers, along the gradient.
    Pixel(Normalise),
    /// The mean and the deviation of a picture's channels, along the gradient.
    Style,
    /// Not at all; for ablations.
    None,
    /// All numbers, in a random direction of the same length; for ablations.
    Random,
}

/// How the second derivative of the move is taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mixed {
    /// The gradient at SAM's weights.
    SamPoint,
    /// Central differences with this step along the gradient.
    Central(f64),
}

/// What the inconsistency is added to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// The gradient of SAM.
    Sam,
    /// The gradient of SAGM with its `α`.
    Sagm(f64),
    /// Nothing but the loss of the moved examples: adversarial training with the same moves, for comparisons.
    Adversarial,
}

/// Configuration of [`Udim`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UdimConfig {
    /// `ρ`, of weights. Default 0.05.
    pub rho: f64,
    /// `ρ_x`, of examples. Default 1; the published scripts have 10 for pictures of 224 x 224 in units of their
    /// deviation, normalised per batch.
    pub data_radius: f64,
    /// `λ`. Default 1.
    pub weight: f64,
    /// The share of the steps that are plain SAM at first. Default 0.2.
    pub warmup: f64,
    /// Steps of the warm-up between two looks at the validation examples. Default 200.
    pub validate_every: usize,
    /// How examples are moved. Default pixels, normalised per example.
    pub perturbation: Perturbation,
    /// How the second derivative is taken. Default at SAM's weights.
    pub mixed: Mixed,
    /// What the inconsistency is added to. Default SAM.
    pub base: Base,
    /// Whether `I` is a sum over the domains instead of one over all examples. Default no.
    pub by_domain: bool,
    /// The range of the data, to which moved examples are limited. Default none.
    pub clamp: Option<[f64; 2]>,
}

impl Default for UdimConfig {
    fn default() -> Self {
        Self {
            rho: 0.05,
            data_radius: 1.0,
            weight: 1.0,
            warmup: 0.2,
            validate_every: 200,
            perturbation: Perturbation::Pixel(Normalise::PerSample),
            mixed: Mixed::SamPoint,
            base: Base::Sam,
            by_domain: false,
            clamp: None,
        }
    }
}

impl UdimConfig {
    fn validate(&self) -> Result<(), ObjectiveError> {
        range::positive("UDIM's rho", self.rho)?;
        range::not_negative("UDIM's data radius", self.data_radius)?;
        range::not_negative("UDIM's weight", self.weight)?;
        let fits = (0.0..=1.0).contains(&self.warmup);
        range::check(fits, "UDIM's warm-up", self.warmup, "between 0 and 1")?;
        range::at_least("UDIM's steps between validations", self.validate_every, 1)?;
        if let Mixed::Central(step) = self.mixed {
            range::positive("UDIM's difference", step)?;
        }
        if let Base::Sagm(alpha) = self.base {
            range::not_negative("UDIM's alpha", alpha)?;
        }
        if let Some([low, high]) = self.clamp {
            range::finite("UDIM's lower limit", low)?;
            let fits = high > low;
            range::check(fits, "UDIM's upper limit", high, format!("more than {low}"))?;
        }
        Ok(())
    }
}

/// `I`, `[1]`: how differently the gradients of the last layer vary on real and on moved examples, and how large they are
/// on the moved ones. On the graph of both passes.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_align::HeadStats;
/// use nabla_align::objectives::udim::inconsistency;
///
/// let device = Device::flex();
/// let features = Tensor::<2>::from_floats([[1.0], [2.0]], &device);
/// let logits = Tensor::<2>::zeros([2, 2], &device);
/// let targets = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], &device);
/// let head = HeadStats::linear(features, logits, targets)?;
/// // The variances of the same examples are the same: what is left are the norms, 1/2·(1 + 4)/2/2 and 1/2/2.
/// let found = inconsistency(&head, &head).into_scalar::<f32>();
/// assert!((found - 0.875).abs() < 1e-6);
/// # Ok::<(), nabla_align::HeadError>(())
/// ```
pub fn inconsistency(clean: &HeadStats, moved: &HeadStats) -> Tensor<1> {
    let centre = clean.gradient(); // Ḡ
    let variance = clean.variance();
    let other = moved.variance_around(centre);
    let [classes, width] = clean.shape();
    let [matrix, bias] = moved.mean_squared_norms();
    let numbers = (classes * (width - 1)).max(1) as f64;
    (variance - other).square().mean() * 0.25
        + matrix * (1.0 / numbers)
        + bias * (1.0 / classes as f64)
}

/// The objective; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Udim {
    config: UdimConfig,
    /// Steps that were not moved because the gradient was 0.
    still: usize,
    /// `I` in the last step.
    last: Option<f32>,
    /// The best of the warm-up so far.
    best: Option<Best>,
}

/// Weights of the warm-up, and their accuracy on the validation examples.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Best {
    accuracy: f64,
    snapshot: Snapshot,
}

impl Udim {
    /// With a configuration, which the training checks.
    pub fn new(config: UdimConfig) -> Self {
        Self {
            config,
            still: 0,
            last: None,
            best: None,
        }
    }

    /// Measures the weights of the warm-up after every [`validate_every`](UdimConfig::validate_every) steps and after the
    /// last, and takes up the best ones there.
    fn look<M: Classifier>(
        &mut self,
        step: &mut DomainStep<'_, M>,
        warm: usize,
    ) -> Result<(), ObjectiveError> {
        let done = step.step();
        let due = done > 0 && (done.is_multiple_of(self.config.validate_every) || done == warm);
        if done > warm || !due {
            return Ok(());
        }
        let Some(accuracy) = step.validation_accuracy()? else {
            return Ok(());
        };
        // Of equal ones the first, as in the published code.
        if self
            .best
            .as_ref()
            .is_none_or(|best| accuracy > best.accuracy)
        {
            let snapshot = step.learner().snapshot()?;
            self.best = Some(Best { accuracy, snapshot });
        }
        if done == warm
            && let Some(best) = self.best.take()
        {
            step.learner().take_up(&best.snapshot)?;
        }
        Ok(())
    }

    /// `X'` for one batch.
    ///
    /// - `slope`: `u`, `[examples, features]`
    fn moved(
        &self,
        input: &Tensor<2>,
        slope: Tensor<2>,
        shape: InputShape,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<2>, ObjectiveError> {
        let radius = self.config.data_radius;
        let moved = match self.config.perturbation {
            Perturbation::None => input.clone(),
            Perturbation::Pixel(normalise) => input.clone() + normalised(slope, normalise) * radius,
            Perturbation::Random => {
                let drawn = noise
                    .normal(input.dims(), &input.device())
                    .cast(input.dtype());
                input.clone() + normalised(drawn, Normalise::PerSample) * radius
            }
            Perturbation::Style => restyled(input, slope, radius, picture_shape(shape, "UDIM")?),
        };
        Ok(match self.config.clamp {
            Some([low, high]) => moved.clamp(low, high),
            None => moved,
        })
    }
}

/// `u` with every row, or every column, of length 1; 0 where there is no direction.
fn normalised(u: Tensor<2>, by: Normalise) -> Tensor<2> {
    let dim = match by {
        Normalise::PerSample => 1,
        Normalise::PerBatch => 0,
    };
    // The mean over the batch makes gradients tiny: their squares would underflow.
    let largest = u.clone().abs().max_dim(dim).clamp_min(1e-30);
    let scaled = u / largest;
    let norms = scaled.clone().square().sum_dim(dim).sqrt().clamp_min(1e-12);
    scaled / norms
}

/// Pictures with the means and deviations of their channels moved along their gradients.
///
/// - `input`, `slope`: `[examples, channels·height·width]`
fn restyled(
    input: &Tensor<2>,
    slope: Tensor<2>,
    radius: f64,
    [channels, height, width]: [usize; 3],
) -> Tensor<2> {
    let [examples, features] = input.dims();
    let pixels = height * width;
    let rows = [examples * channels, pixels];
    let x = input.clone().reshape(rows);
    let mean = x.clone().mean_dim(1); // μ, [examples·channels, 1]
    let centred = x - mean.clone();
    let rest = 1.0 / (pixels.max(2) - 1) as f64;
    let deviation = (centred.clone().square().sum_dim(1) * rest + 1e-5).sqrt(); // σ
    let normed = centred / deviation.clone();
    let slope = slope.reshape(rows);
    let mean = mean + slope.clone().sum_dim(1) * radius;
    let deviation = deviation + (slope * normed.clone()).sum_dim(1) * radius;
    (normed * deviation + mean).reshape([examples, features])
}

/// A gradient with respect to the weights, and to the examples.
struct Both {
    weights: Slope,
    /// `[examples, features]`, without autodiff.
    input: Tensor<2>,
}

/// Both gradients of the mean loss at `θ + offset`.
fn both<M: Classifier>(
    ascent: &Ascent<M>,
    offset: Tensor<1>,
    step: &DomainStep<'_, M>,
    batch: &DomainBatch,
) -> Result<Both, ObjectiveError> {
    let leaf = batch.input.clone().detach().require_grad();
    let tracked = DomainBatch {
        input: leaf.clone(),
        labels: batch.labels.clone(),
    };
    let mut input = None;
    let weights = ascent.landscape.slope_with(
        offset,
        |model| step.pass_of(model, &tracked).loss(),
        |gradients| input = leaf.grad(gradients),
    )?;
    let input = input.unwrap_or_else(|| batch.input.clone().without_autodiff().zeros_like());
    Ok(Both { weights, input })
}

/// `u` by central differences, `[examples, features]`.
fn mixed<M: Classifier>(
    ascent: &Ascent<M>,
    rho: f64,
    length: f64,
    step: &DomainStep<'_, M>,
    batch: &DomainBatch,
) -> Result<Tensor<2>, ObjectiveError> {
    let at = |length: f64| -> Result<Tensor<2>, ObjectiveError> {
        Ok(both(ascent, ascent.offset(length), step, batch)?.input)
    };
    Ok(at(0.0)? + (at(length)? - at(-length)?) * (rho / (2.0 * length)))
}

impl<M: Classifier> Objective<M> for Udim {
    fn name(&self) -> &str {
        "udim"
    }

    fn check(&self, model: &M, plan: &DomainPlan) -> Result<(), ObjectiveError> {
        self.config.validate()?;
        check_head(model, "UDIM")?;
        for &batch in &plan.batches {
            range::at_least("batch of a domain for UDIM", batch, 2)?;
        }
        if let (Perturbation::Style, Some(shape)) = (self.config.perturbation, plan.shape) {
            picture_shape(shape, "UDIM")?;
        }
        Ok(())
    }

    fn step(&mut self, step: &mut DomainStep<'_, M>) -> Result<(), ObjectiveError> {
        let config = self.config.clone();
        let steps = step.learner().steps();
        let warm = (config.warmup * steps as f64).round() as usize;
        let adversarial = config.base == Base::Adversarial;
        if !adversarial {
            self.look(step, warm)?;
        }
        let ascent = Ascent::of(step)?; // 1
        let batch = step.pooled_batch();
        if step.step() < warm && !adversarial {
            let found = ascent.at(ascent.offset(config.rho), step)?;
            let gradients = ascent.landscape.layout().to_gradients(found.gradient)?;
            step.learner()
                .contribute(gradients, Some(ascent.slope.loss))?;
            return Ok(());
        }
        if ascent.norm == 0.0 {
            self.still += 1;
        }
        // 2, 3
        let rho = if adversarial { 0.0 } else { config.rho };
        let at = both(&ascent, ascent.offset(rho), step, &batch)?;
        let base = match config.base {
            Base::Sagm(alpha) => {
                let there = ascent.aligned(rho, alpha, step)?;
                (ascent.slope.gradient.clone() + there) * 0.5
            }
            _ => at.weights.gradient,
        };
        let slope = match config.mixed {
            Mixed::SamPoint => at.input,
            Mixed::Central(length) => mixed(&ascent, rho, length, step, &batch)?,
        };
        let shape = step.shape();
        let plain = batch.input.clone().without_autodiff();
        let mut noise = step.noise().clone();
        let moved = self.moved(&plain, slope, shape, &mut noise)?;
        let moved = DomainBatch {
            input: on_graph(moved, &batch.input),
            labels: batch.labels.clone(),
        };
        if adversarial {
            // The loss of the real and of the moved examples, half each.
            let landscape = &ascent.landscape;
            let found = landscape.slope(|model| step.pass_of(model, &moved).loss())?;
            let gradient = (ascent.slope.gradient.clone() + found.gradient) * 0.5;
            let gradients = landscape.layout().to_gradients(gradient)?;
            let loss = (ascent.slope.loss + found.loss) * 0.5;
            step.learner().contribute(gradients, Some(loss))?;
            return Ok(());
        }
        // 4
        let both_inputs = DomainBatch {
            input: Tensor::cat(vec![batch.input.clone(), moved.input], 0),
            labels: [batch.labels.clone(), batch.labels].concat(),
        };
        let pass = step.pass_of(step.model(), &both_inputs);
        let count = both_inputs.labels.len() / 2;
        let domains: Vec<usize> = match config.by_domain {
            true => step.domains().iter().map(|d| d.labels.len()).collect(),
            false => vec![count],
        };
        let mut begin = 0;
        let mut terms = Vec::with_capacity(domains.len());
        for domain in domains {
            let clean = part(&pass, begin, domain).head()?;
            let moved = part(&pass, count + begin, domain).head()?;
            terms.push(inconsistency(&clean, &moved));
            begin += domain;
        }
        let total = Tensor::cat(terms, 0).sum();
        self.last = Some(number(&total)?);
        let found = ascent.landscape.slope(|_| total * config.weight)?;
        // 5
        let gradient = base + found.gradient;
        let gradients = ascent.landscape.layout().to_gradients(gradient)?;
        let loss = ascent.slope.loss + found.loss;
        step.learner().contribute(gradients, Some(loss))?;
        Ok(())
    }

    fn search(&self) -> Vec<Searched> {
        vec![
            Searched::new("rho", Draw::OneOf(&[0.01, 0.02, 0.05, 0.1])),
            Searched::new("data_radius", Draw::Power(-1.0, 1.0)),
            Searched::new("weight", Draw::Power(-1.0, 1.0)),
        ]
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    /// The best of the warm-up so far, as CBOR; nothing if there is none.
    fn state(&self) -> Result<Vec<u8>, ObjectiveError> {
        let mut state = Vec::new();
        if let Some(best) = &self.best {
            ciborium::into_writer(best, &mut state)
                .map_err(|error| ObjectiveError::Own(error.to_string().into()))?;
        }
        Ok(state)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), ObjectiveError> {
        self.best = match state.is_empty() {
            true => None,
            false => Some(
                ciborium::from_reader(state).map_err(|_| ObjectiveError::State {
                    objective: "UDIM",
                    found: state.len(),
                    expected: "none, or those of a warm-up's best weights".into(),
                })?,
            ),
        };
        Ok(())
    }

    fn report(&self) -> Value {
        json!({ "inconsistency": self.last, "steps_without_gradient": self.still })
    }
}

/// Values on the device of another tensor, which computes gradients.
fn on_graph(values: Tensor<2>, like: &Tensor<2>) -> Tensor<2> {
    Tensor::from_data(values.into_data(), &like.device())
}

/// Some rows of a pass.
fn part(pass: &Pass, begin: usize, count: usize) -> Pass {
    let rows = |tensor: &Tensor<2>| {
        let [_, width] = tensor.dims();
        tensor.clone().slice([begin..begin + count, 0..width])
    };
    Pass {
        features: rows(&pass.features),
        logits: rows(&pass.logits),
        targets: rows(&pass.targets),
    }
}

/// Where the examples of a batch are moved, for a look at them.
///
/// # Errors
/// As a step.
pub fn moved_examples<M: Classifier>(
    config: &UdimConfig,
    step: &mut DomainStep<'_, M>,
) -> Result<Tensor<2>, ObjectiveError> {
    config.validate()?;
    let ascent = Ascent::of(step)?;
    let batch = step.pooled_batch();
    let slope = match config.mixed {
        Mixed::SamPoint => both(&ascent, ascent.offset(config.rho), step, &batch)?.input,
        Mixed::Central(length) => mixed(&ascent, config.rho, length, step, &batch)?,
    };
    let shape = step.shape();
    let udim = Udim::new(config.clone());
    let mut noise = step.noise().clone();
    udim.moved(&batch.input.without_autodiff(), slope, shape, &mut noise)
}

#[cfg(test)]
mod tests;
