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

    /// These options with the threshold at which a run takes `evaluations` for a sample, found from the cosines of a
    /// run in which every step was guided, with `threshold = 1`, by the same model, sampler and steps.
    ///
    /// Until a sample is released it takes the same way with and without this guidance, so what the run takes is
    /// known exactly. The threshold is the highest one for which it is at most `evaluations`.
    ///
    /// # Errors
    /// If no cosine was recorded, a step was not guided, or `evaluations` is below what the steps that are not
    /// tested take.
    ///
    /// ```
    /// use nabla_diffusion::guidance::{AdaptiveConfig, Cosines};
    ///
    /// // Two samples in five steps.
    /// let of_step = |index, one, other| Cosines { index, each: vec![Some(one), Some(other)] };
    /// let cosines = [
    ///     of_step(4, 0.90, 0.90),
    ///     of_step(3, 0.92, 0.91),
    ///     of_step(2, 0.94, 0.92),
    ///     of_step(1, 0.96, 0.93),
    ///     of_step(0, 0.98, 0.94),
    /// ];
    /// // The first is released after step 2 with 8 evaluations, the second never with 10.
    /// let config = AdaptiveConfig::new().calibrated(&cosines, 9.0)?;
    /// assert!(config.threshold > 0.94 - 1e-9 && config.threshold <= 0.96);
    /// # Ok::<(), nabla_base::OutOfRange>(())
    /// ```
    pub fn calibrated(self, cosines: &[Cosines], evaluations: f64) -> Result<Self, OutOfRange> {
        let samples = cosines.first().map_or(0, |first| first.each.len());
        range::at_least("number of samples of the recorded run", samples, 1)?;
        let mut runs = vec![Vec::with_capacity(cosines.len()); samples];
        for step in cosines {
            for (run, cosine) in runs.iter_mut().zip(&step.each) {
                let guided = cosine.is_some();
                range::check(
                    guided,
                    "recorded step",
                    step.index,
                    "guided for all samples",
                )?;
                run.extend(cosine);
            }
        }
        let taken = |threshold: f64| -> f64 {
            let config = Self { threshold, ..self };
            let guided = |run: &Vec<f64>| {
                let released = (0..run.len()).find(|&done| {
                    let last = done.checked_sub(1).map(|last| run[last]);
                    config.releases(done, run[done], last)
                });
                released.map_or(run.len(), |done| done + 1)
            };
            let guided: usize = runs.iter().map(guided).sum();
            cosines.len() as f64 + guided as f64 / samples as f64
        };
        let mut candidates: Vec<f64> = runs.concat();
        candidates.sort_by(f64::total_cmp);
        let fitting = candidates.partition_point(|&threshold| taken(threshold) <= evaluations);
        let found = fitting.checked_sub(1).map(|last| candidates[last]);
        let least = taken(-1.0);
        let told = format!("at least {least}, which the first steps take");
        range::check(found.is_some(), "number of evaluations", evaluations, told)?;
        Ok(Self {
            threshold: found.unwrap_or(self.threshold),
            ..self
        })
    }

    /// Whether a sample is no longer guided after a step.
    ///
    /// - `done`: the number of steps before it
    /// - `last`: the cosine in the step before it
    fn releases(&self, done: usize, cosine: f64, last: Option<f64>) -> bool {
        let fallen = self.rising && last.is_some_and(|last| cosine < last - ROUNDING);
        let tested = done >= self.warm_up && self.threshold < 1.0;
        tested && !fallen && cosine >= self.threshold
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
            if self.config.releases(step.done(), cosine, last) {
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
