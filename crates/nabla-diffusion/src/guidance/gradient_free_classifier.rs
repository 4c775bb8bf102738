//! GFCG, gradient-free classifier guidance: away from the class with which a sample is being confused.
//!
//! Guidance with a reference is `D_w = D_c + (w − 1) (D_c − D_ref)`. Classifier-free guidance takes the
//! prediction without a condition as its reference; here it is the prediction under a *wrong class*, which a
//! classifier chooses in each step without any gradient:
//!
//! ```text
//! D_c   = D(x; c)                                     call 1
//! p     = softmax(classifier(decode(D_c)))
//! c_ref = argmax_{k ≠ c} p_k
//! w     = scale(p)                                    1 if the classifier is sure of c
//! D_ref = D(x; c_ref)                                 call 2
//! D_w   = D_c + (w − 1) (D_c − D_ref)
//! ```
//!
//! With exact predictions, `∇ ln p(x | c) − ∇ ln p(x | c_ref)` is the gradient of the log-odds of the two
//! classes: the diffusion model itself is the classifier that is followed, and the other one only says where to.
//!
//! | [`Reference`] | prediction | evaluations |
//! |---|---|---|
//! | `Alone` | as above | 2 |
//! | `WithClassifierFree` | `… + (s − 1) (D_c − D_∅)` | 3 |
//! | `OrClassifierFree` | the reference is `c_ref` where `c` is not the most likely class, otherwise none, with `s` | 2 |
//! | `Weak` | on [`Autoguidance`](super::Autoguidance): the reference is the weak model's prediction under `c_ref`; the scale goes from `s` (sure) to `w_max` | 1 and 1 of the weak model |
//!
//! A row whose scale is 1 is not evaluated a second time. In a sampler with several calls in a step, the first
//! one makes the plan for all of them.
//!
//! The paper says that the class and the scale follow from the classifier in each step; its formula of the scale
//! was not available to us, so the rules in [`ScaleRule`], the start and the temperature are ours.
//!
//! Source: Shenoy, Pan, Balakrishnan, Cheng, Jeon, Yang, Kim, *Gradient-Free Classifier Guidance for Diffusion
//! Model Sampling*, 2024, arXiv 2411.15393.

use burn::config::Config;
use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, TensorData};
use nabla_base::range;

use super::classifier_guidance::check_targets;
use super::{Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised, Denoiser, rows};
use crate::sampler_error::OwnError;

/// A classifier of clean samples. It is never differentiated.
pub trait Classifier<const D: usize = 4> {
    /// The logits of the classes, `[batch, classes]`; at least two classes.
    ///
    /// - `sample`: predicted clean samples, `[batch, …]`, in the form in which the diffusion model has them: a
    ///   classifier of pictures decodes latents first
    ///
    /// # Errors
    /// Any error, which ends the run.
    fn logits(&self, sample: Tensor<D>) -> Result<Tensor<2>, OwnError>;
}

/// A closure that computes the logits.
impl<F, const D: usize> Classifier<D> for F
where
    F: Fn(Tensor<D>) -> Result<Tensor<2>, OwnError>,
{
    fn logits(&self, sample: Tensor<D>) -> Result<Tensor<2>, OwnError> {
        self(sample)
    }
}

/// How strongly a sample is guided, given the probabilities of its class and of the reference.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum ScaleRule {
    /// `1 + (w_max − 1) p_ref/(p_c + p_ref)`.
    Odds,
    /// `1 + (w_max − 1) (1 − p_c)`.
    Doubt,
    /// `w_max` where `c` is not the most likely class, otherwise 1.
    Hard,
}

impl ScaleRule {
    /// The share of the way from the lowest scale to `w_max`.
    fn share(self, own: f64, reference: f64) -> f64 {
        match self {
            // Both are 0 if neither is likely, and then as unlikely as each other.
            Self::Odds if own + reference == 0.0 => 0.5,
            Self::Odds => reference / (own + reference),
            Self::Doubt => 1.0 - own,
            Self::Hard => f64::from(u8::from(reference > own)),
        }
    }
}

/// The options of [`GradientFreeClassifier`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct GradientFreeClassifierConfig {
    /// `w_max`, at least 1. Default 3.
    #[config(default = 3.0)]
    pub max_scale: f64,
    /// The rule. Default [`ScaleRule::Odds`].
    #[config(default = "ScaleRule::Odds")]
    pub rule: ScaleRule,
    /// The share of the steps, in `[0, 1)`, before the classifier is asked: it would see blur. Default 0.1.
    #[config(default = 0.1)]
    pub start: f64,
    /// The classifier is asked in every step with this number; the plan is kept in between. Default 1.
    #[config(default = 1)]
    pub every: usize,
    /// Divides the logits; above 1 for a classifier that is too sure. Default 1.
    #[config(default = 1.0)]
    pub temperature: f64,
}

/// What a sample is guided away from; see the [table](GradientFreeClassifier).
pub enum Reference<'a, const D: usize = 4> {
    /// The class with which it is being confused.
    Alone,
    /// That class, and the prediction without a condition with classifier-free guidance of this scale.
    WithClassifierFree(f64),
    /// That class if the sample is being confused, otherwise the prediction without a condition, with
    /// classifier-free guidance of this scale.
    OrClassifierFree(f64),
    /// A weak model under that class, with this scale of autoguidance where the classifier is sure.
    Weak(&'a dyn Denoiser<D>, f64),
}

impl<const D: usize> std::fmt::Debug for Reference<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Alone => f.write_str("Alone"),
            Self::WithClassifierFree(scale) => write!(f, "WithClassifierFree({scale})"),
            Self::OrClassifierFree(scale) => write!(f, "OrClassifierFree({scale})"),
            Self::Weak(_, scale) => write!(f, "Weak({scale})"),
        }
    }
}

/// Gradient-free classifier guidance, for a model whose condition `Condition::Given(k)` is class `k`.
///
/// | [`Reference`] | prediction | evaluations |
/// |---|---|---|
/// | `Alone` | `D_c + (w − 1) (D_c − D(c_ref))` | 2 |
/// | `WithClassifierFree` | the same `+ (s − 1) (D_c − D_∅)` | 3 |
/// | `OrClassifierFree` | the one where the sample is being confused, the other elsewhere | 2 |
/// | `Weak` | `D_c + (w − 1) (D_c − D_weak(c_ref))` | 1 and 1 of the weak model |
///
/// `c_ref` is the most likely wrong class, and `w` follows [`ScaleRule`]. Source: Shenoy et al., 2024, arXiv
/// 2411.15393; the rules are ours.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{GaussianMixture, MixturePart};
/// use nabla_diffusion::guidance::{GradientFreeClassifier, GradientFreeClassifierConfig, Reference};
/// use nabla_diffusion::level::Level;
/// use nabla_diffusion::sampler::{Sampler, Sampling, samplers};
/// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let part = |class, place: [f64; 2]| MixturePart {
///     class,
///     weight: 1.0,
///     mean: place.to_vec(),
///     deviation: 0.3,
/// };
/// let places = [[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]];
/// let model = GaussianMixture::new((0..3).map(|class| part(class, places[class])).collect())?;
/// let classifier = |x: Tensor<2>| Ok(model.log_posterior(x, Level::straight(0.01))?);
/// let mut guidance = GradientFreeClassifier::new(
///     GradientFreeClassifierConfig::new(),
///     &classifier,
///     vec![0, 1, 2, 2], // the class of each row
///     Reference::Alone,
/// );
///
/// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 20)?;
/// let sampler = Sampler::new(samplers().get("heun")?, schedule)?;
/// let mut noise = SeededNoise::new(42, 0);
/// let start = noise.normal([4, 2], &Device::flex());
/// let sampling = Sampling::of(&model).guided_by(&mut guidance);
/// let points = sampling.run(&sampler, start, &mut noise)?;
/// assert_eq!(points.dims(), [4, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct GradientFreeClassifier<'a, const D: usize = 4> {
    config: GradientFreeClassifierConfig,
    classifier: &'a dyn Classifier<D>,
    targets: Vec<usize>,
    reference: Reference<'a, D>,
    plan: Option<(usize, ReferencePlan)>,
}

impl<const D: usize> std::fmt::Debug for GradientFreeClassifier<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GradientFreeClassifier")
            .field("config", &self.config)
            .field("targets", &self.targets)
            .field("reference", &self.reference)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// What each row of the batch is guided away from.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferencePlan {
    /// `c_ref`.
    pub classes: Vec<usize>,
    /// Whether `c_ref` is more likely than the row's own class.
    pub confused: Vec<bool>,
    /// The share of the way from the lowest scale to `w_max`.
    pub shares: Vec<f64>,
}

impl<'a, const D: usize> GradientFreeClassifier<'a, D> {
    /// - `targets`: `c`, the class of each row of the batch
    pub fn new(
        config: GradientFreeClassifierConfig,
        classifier: &'a dyn Classifier<D>,
        targets: Vec<usize>,
        reference: Reference<'a, D>,
    ) -> Self {
        Self {
            config,
            classifier,
            targets,
            reference,
            plan: None,
        }
    }

    /// The plan of the latest step.
    pub fn latest_plan(&self) -> Option<&ReferencePlan> {
        self.plan.as_ref().map(|(_, plan)| plan)
    }

    /// Chooses the reference of each row.
    ///
    /// - `sample`: `D_c`, `[batch, …]`
    ///
    /// # Errors
    /// If the number of targets is not that of the rows, a target is no class, there are fewer than two
    /// classes, or the classifier fails or returns numbers that are not finite.
    pub fn plan(&self, sample: Tensor<D>) -> Result<ReferencePlan, OwnError> {
        let batch = sample.dims()[0];
        let logits = self.classifier.logits(sample)?;
        let [rows, classes] = logits.dims();
        range::at_least("number of the classifier's classes", classes, 2)?;
        check_targets(&self.targets, batch, [rows, classes])?;
        let logits = logits.without_autodiff();
        let shares = softmax(logits / self.config.temperature, 1);
        let shares: Vec<f64> = shares.try_into_vec_as()?;
        let mut plan = ReferencePlan {
            classes: Vec::with_capacity(batch),
            confused: Vec::with_capacity(batch),
            shares: Vec::with_capacity(batch),
        };
        for (p, &own) in shares.chunks(classes).zip(&self.targets) {
            if p.iter().any(|p| !p.is_finite()) {
                return Err("the classifier's logits are not finite".into());
            }
            let others = (0..classes).filter(|&class| class != own);
            let reference = others.max_by(|&a, &b| p[a].total_cmp(&p[b]));
            let reference = reference.ok_or("there is no other class")?;
            plan.classes.push(reference);
            plan.confused.push(p[reference] > p[own]);
            plan.shares
                .push(self.config.rule.share(p[own], p[reference]));
        }
        Ok(plan)
    }

    /// The plan of a step; `None` before the start.
    fn planned(
        &mut self,
        step: &Step<'_, D>,
        sample: &Tensor<D>,
    ) -> Result<Option<ReferencePlan>, OwnError> {
        if (step.done() as f64) < self.config.start * step.steps as f64 {
            return Ok(None);
        }
        if let Some((index, plan)) = &self.plan
            && step.index + self.config.every > *index
        {
            return Ok(Some(plan.clone()));
        }
        let plan = self.plan(sample.clone())?;
        self.plan = Some((step.index, plan.clone()));
        Ok(Some(plan))
    }
}

/// One number for each row, `[batch, 1, …]`.
fn column<const D: usize>(values: Vec<f64>, like: &Tensor<D>) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = values.len();
    Tensor::from_data(
        TensorData::new(values, shape),
        (&like.device(), like.dtype()),
    )
}

impl<const D: usize> Guidance<D> for GradientFreeClassifier<'_, D> {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        self.plan = None;
        let config = self.config;
        range::finite("largest scale of GFCG", config.max_scale)?;
        range::at_least("largest scale of GFCG", config.max_scale, 1.0)?;
        range::check(
            (0.0..1.0).contains(&config.start),
            "start of GFCG",
            config.start,
            "in [0, 1)",
        )?;
        range::at_least("number of steps between two looks of GFCG", config.every, 1)?;
        range::positive("temperature of GFCG", config.temperature)?;
        match self.reference {
            Reference::Alone => {}
            Reference::WithClassifierFree(scale)
            | Reference::OrClassifierFree(scale)
            | Reference::Weak(_, scale) => range::finite("guidance scale", scale)?,
        }
        Ok(())
    }

    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let batch = model.rows();
        let expected = format!("{batch}, as the batch has rows");
        let (config, targets) = (self.config, self.targets.clone());
        let count = targets.len();
        range::check(count == batch, "number of target classes", count, expected)?;
        let own = |row: usize| Condition::Given(targets[row]);
        let asked: Vec<_> = (0..batch).map(|row| (row, own(row))).collect();
        let with = model.ask_rows(&asked)?;
        let denoised = model.read(with.clone())?;
        let plan = self.planned(step, &denoised.sample)?;
        // For each row: the references, each with its weight (w − 1).
        let share = |row: usize| plan.as_ref().map_or(0.0, |plan| plan.shares[row]);
        let confused = |row: usize| plan.as_ref().is_some_and(|plan| plan.confused[row]);
        let class = |row: usize| match &plan {
            Some(plan) => Condition::Given(plan.classes[row]),
            None => own(row),
        };
        let weight = |row: usize| (config.max_scale - 1.0) * share(row);
        let mut guided = with.clone();
        let mut away = |condition: &dyn Fn(usize) -> (Condition, f64)| -> Result<(), OwnError> {
            let each: Vec<_> = (0..batch).map(condition).collect();
            // A row that isn't moved needs no evaluation.
            let moved: Vec<usize> = (0..batch).filter(|&row| each[row].1 != 0.0).collect();
            if moved.is_empty() {
                return Ok(());
            }
            let asked: Vec<_> = moved.iter().map(|&row| (row, each[row].0)).collect();
            let reference = model.ask_rows(&asked)?;
            let weights = column(moved.iter().map(|&row| each[row].1).collect(), &reference);
            let step = (rows::select(&with, &moved) - reference) * weights;
            let still: Vec<usize> = (0..batch).filter(|row| !moved.contains(row)).collect();
            let mut parts = vec![(moved, step)];
            if !still.is_empty() {
                let zeros = rows::select(&with, &still).zeros_like();
                parts.push((still, zeros));
            }
            guided = guided.clone() + rows::joined(parts);
            Ok(())
        };
        match self.reference {
            Reference::Alone => away(&|row| (class(row), weight(row)))?,
            Reference::WithClassifierFree(scale) => {
                away(&|_| (Condition::Without, scale - 1.0))?;
                away(&|row| (class(row), weight(row)))?;
            }
            Reference::OrClassifierFree(scale) => away(&|row| match confused(row) {
                true => (class(row), weight(row)),
                false => (Condition::Without, scale - 1.0),
            })?,
            Reference::Weak(weak, scale) => {
                let each: Vec<_> = (0..batch).map(class).collect();
                let reference = model.ask_other_rows(weak, &each)?;
                let weight = |row| scale - 1.0 + (config.max_scale - scale) * share(row);
                let weights = column((0..batch).map(weight).collect(), &reference);
                guided = with.clone() + (with.clone() - reference) * weights;
            }
        }
        Ok(model.read(guided)?)
    }
}
