//! Adaptive Guidance: no prediction without the condition once it no longer matters.
//!
//! Classifier-free guidance calls the network twice in every step. Along a run the two predictions of the noise
//! become parallel: their cosine
//!
//! ```text
//! γ_t = ⟨ε_c, ε_∅⟩ / (‖ε_c‖ ‖ε_∅‖)
//! ```
//!
//! rises towards 1. From the step after the one in which it reaches `γ̄`, a sample is no longer guided:
//!
//! ```text
//! guided:  e_c = ε(x_t, c), e_∅ = ε(x_t, ∅);  ε = e_∅ + s (e_c − e_∅);  if γ_t ≥ γ̄: from the next step on not
//! others:  ε = ε(x_t, c)
//! ```
//!
//! Each sample of the batch decides for itself, and the network is evaluated only for those that still need
//! it. `γ̄ = 1` is classifier-free guidance, bit for bit.
//!
//! **The first steps.** A network that predicts `ε` mostly repeats its input where there is hardly any signal, so
//! `γ` may begin near 1, fall, and only then rise. By default the first two steps are not tested, and a sample is
//! not released in a step in which its `γ` has fallen. The paper's rule, the threshold alone, is `warm_up=0` and
//! `rising=false`.
//!
//! `γ` is that of `ε`, whatever the network predicts. In a sampler that calls the model several times in a step,
//! all calls of a step are guided alike.
//!
//! Source: Castillo, Kohler, Pérez, Pérez, Pumarola, Ghanem, Arbeláez, Thabet, *Adaptive Guidance:
//! Training-free Acceleration of Conditional Diffusion Models*, 2023, arXiv 2312.12487, section 4.

use burn::config::Config;
use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use nabla_grad::decomposition::{Views, cosine_similarity};

use super::{ClassifierFree, Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised, rows};
use crate::sampler_error::OwnError;

/// A smaller fall of a cosine near 1 may be rounding.
const ROUNDING: f64 = 1e-6;

/// The options of [`Adaptive`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct AdaptiveConfig {
    /// `s`. Default 7.5.
    #[config(default = 7.5)]
    pub scale: f64,
    /// `φ` of the [rescale](ClassifierFree::rescale), in `[0, 1]`. Default 0.
    #[config(default = 0.0)]
    pub rescale: f64,
    /// `γ̄`, in `[−1, 1]`; 1 guides in every step. It depends on the model, the scale and the sampler. Default
    /// 0.991, which is for latents of Stable Diffusion in 20 steps, where it saves about a quarter of the
    /// evaluations.
    #[config(default = 0.991)]
    pub threshold: f64,
    /// The number of first steps that are not tested. Default 2.
    #[config(default = 2)]
    pub warm_up: usize,
    /// Whether a sample is released only where its `γ` has not fallen since the step before. Default true.
    #[config(default = true)]
    pub rising: bool,
}

impl AdaptiveConfig {
    /// The guidance.
    pub fn init(&self) -> Adaptive {
        Adaptive {
            config: *self,
            released: Vec::new(),
            cosines: Vec::new(),
        }
    }

    fn classifier_free(&self) -> ClassifierFree {
        ClassifierFree {
            scale: self.scale,
            rescale: self.rescale,
        }
    }

    /// # Errors
    /// If an option is out of range.
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        self.classifier_free().check()?;
        let fits = (-1.0..=1.0).contains(&self.threshold);
        range::check(
            fits,
            "threshold of adaptive guidance",
            self.threshold,
            "in [-1, 1]",
        )
    }
}

/// Adaptive Guidance: each sample is guided until its two predictions of the noise are nearly parallel.
///
/// Source: Castillo et al., 2023, arXiv 2312.12487.
#[derive(Clone, Debug)]
pub struct Adaptive {
    config: AdaptiveConfig,
    /// For each row, the step after which it is no longer guided.
    released: Vec<Option<usize>>,
    cosines: Vec<Cosines>,
}

/// The cosines of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Cosines {
    /// The index of the step, falling to 0.
    pub index: usize,
    /// `γ` of each row of the batch; `None` where it was not guided.
    pub each: Vec<Option<f64>>,
}

impl Adaptive {
    /// The options.
    pub fn config(&self) -> AdaptiveConfig {
        self.config
    }

    /// `γ` in each step of the run so far, at the first call of the step.
    pub fn cosines(&self) -> &[Cosines] {
        &self.cosines
    }

    /// For each row of the batch, the index of the last step in which it was guided, if it was released since.
    pub fn released(&self) -> &[Option<usize>] {
        &self.released
    }

    /// Notes the cosines of a step, and releases the rows that no longer need the guidance.
    ///
    /// - `guided`: the rows to which the cosines belong
    fn test<const D: usize>(&mut self, step: &Step<'_, D>, guided: &[usize], cosines: &[f64]) {
        let before = self.cosines.last();
        if before.is_some_and(|last| last.index <= step.index) {
            return;
        }
        let mut each = vec![None; self.released.len()];
        for (&row, &cosine) in guided.iter().zip(cosines) {
            each[row] = Some(cosine);
            let last = before.and_then(|last| last.each[row]);
            let fallen = self.config.rising && last.is_some_and(|last| cosine < last - ROUNDING);
            let tested = step.done() >= self.config.warm_up && self.config.threshold < 1.0;
            if tested && !fallen && cosine >= self.config.threshold {
                self.released[row] = Some(step.index);
            }
        }
        let index = step.index;
        self.cosines.push(Cosines { index, each });
    }
}

impl<const D: usize> Guidance<D> for Adaptive {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        self.released.clear();
        self.cosines.clear();
        Ok(self.config.check()?)
    }

    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let batch = model.rows();
        self.released.resize(batch, None);
        let needs = |row: &usize| self.released[*row].is_none_or(|last| step.index >= last);
        let (guided, others): (Vec<usize>, Vec<usize>) = (0..batch).partition(needs);
        if guided.is_empty() {
            let [with] = model.ask([Condition::FIRST])?;
            return Ok(model.read(with)?);
        }
        let (without, with, rest) = match others.is_empty() {
            true => {
                let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
                (without, with, None)
            }
            // In one call: the guided rows under both conditions, and the others under one.
            false => {
                let of = |rows: &[usize], condition| -> Vec<_> {
                    rows.iter().map(|&row| (row, condition)).collect()
                };
                let asked = [
                    of(&guided, Condition::Without),
                    of(&guided, Condition::FIRST),
                    of(&others, Condition::FIRST),
                ];
                let answers = model.ask_rows(&asked.concat())?;
                let part = |from: usize, to: usize| answers.clone().slice_dim(0, from..to);
                let count = guided.len();
                let rest = part(2 * count, count + batch);
                (part(0, count), part(count, 2 * count), Some(rest))
            }
        };
        let combined = self
            .config
            .classifier_free()
            .guided(without.clone(), with.clone());
        let of_all = |output: Tensor<D>| match &rest {
            Some(rest) => {
                let parts = vec![(guided.clone(), output), (others.clone(), rest.clone())];
                rows::joined(parts)
            }
            None => output,
        };
        let [without, with] = [without, with].map(|output| model.read(of_all(output)));
        let cosines = cosine_similarity(without?.epsilon, with?.epsilon, Views::Each(0))?;
        let cosines: Vec<f64> = cosines.without_autodiff().try_into_vec_as()?;
        let cosines: Vec<f64> = guided.iter().map(|&row| cosines[row]).collect();
        let denoised = model.read(of_all(combined))?;
        self.test(step, &guided, &cosines);
        Ok(denoised)
    }
}
