//! Fishr: gradients of single examples that vary alike in every domain.
//!
//! ```text
//! v_e = variance (1/n) of the gradients of the last layer, G_i = (p_i − y_i) z̃_iᵀ, number by number
//! v̂_e = v_e + β/(1 − β) v̂'_e,     v̂'_e ← β v̂'_e + (1 − β) v_e afterwards, without gradient
//! L = mean loss + λ · 1/E Σ_e mean (v̂_e − v̄)²,     v̄ = 1/E Σ_e v̂_e
//! ```
//!
//! The moving average is divided by `1 − β`, so that the gradient through `v_e` does not depend on `β`. `λ` is 0 until the
//! step `anneal_steps` and `penalty` from then on, where the optimizer restarts. The averages are taken from the first
//! step on.
//!
//! Source: Rame, Dancette, Cord, *Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization*, 2022, arXiv
//! 2109.02934, in the form of DomainBed.

use burn::tensor::{Tensor, TensorData};
use nabla_base::range;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{
    DomainPlan, DomainStep, Objective, ObjectiveError, check_domains, check_head, read,
};
use crate::search::{Draw, Searched};

/// Configuration of [`Fishr`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FishrConfig {
    /// `λ` after the annealing. Default 1000.
    pub penalty: f64,
    /// The step from which on it counts. Default 1500.
    pub anneal_steps: usize,
    /// `β`, in `[0, 1)`. Default 0.95.
    pub average: f64,
}

impl Default for FishrConfig {
    fn default() -> Self {
        Self {
            penalty: 1000.0,
            anneal_steps: 1500,
            average: 0.95,
        }
    }
}

/// The objective; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Fishr {
    config: FishrConfig,
    /// `v̂'_e` of each domain, `classes·(d + 1)` numbers; none before the first step.
    averages: Vec<Vec<f32>>,
}

impl Fishr {
    /// With averages that begin at 0.
    pub fn new(config: FishrConfig) -> Self {
        Self {
            config,
            averages: Vec::new(),
        }
    }
}

impl<M: Classifier> Objective<M> for Fishr {
    fn name(&self) -> &str {
        "fishr"
    }

    fn check(&self, model: &M, plan: &DomainPlan) -> Result<(), ObjectiveError> {
        check_domains("Fishr", plan.batches.len())?;
        check_head(model, "Fishr")?;
        range::not_negative("Fishr's penalty", self.config.penalty)?;
        let fits = (0.0..1.0).contains(&self.config.average);
        let average = self.config.average;
        Ok(range::check(
            fits,
            "Fishr's average",
            average,
            "at least 0 and less than 1",
        )?)
    }

    fn loss(&mut self, step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
        let FishrConfig {
            penalty,
            anneal_steps,
            average: beta,
        } = self.config;
        let number = step.step();
        let passes = step.together();
        let mut variances = Vec::with_capacity(passes.len());
        let mut told = Vec::with_capacity(passes.len());
        for (i, pass) in passes.iter().enumerate() {
            let variance = pass.head()?.variance(); // [classes, d + 1]
            let shape = variance.dims();
            let now = read(variance.clone())?;
            let corrected = match self.averages.get(i) {
                None => variance,
                Some(average) => {
                    let before = TensorData::new(average.clone(), shape);
                    let before = Tensor::<2>::from_data(before, &variance.device());
                    variance.clone() + before.cast(variance.dtype()) * (beta / (1.0 - beta))
                }
            };
            variances.push(corrected);
            told.push(now);
        }
        for (i, now) in told.into_iter().enumerate() {
            let before = self.averages.get(i);
            let mixed = now.iter().enumerate().map(|(j, &v)| {
                let before = before.and_then(|b| b.get(j)).copied().unwrap_or(0.0);
                (beta * f64::from(before) + (1.0 - beta) * f64::from(v)) as f32
            });
            let mixed: Vec<f32> = mixed.collect();
            match self.averages.get_mut(i) {
                Some(average) => *average = mixed,
                None => self.averages.push(mixed),
            }
        }
        let losses = passes.iter().map(|pass| {
            let [examples, _] = pass.logits.dims();
            pass.loss() * examples as f64
        });
        let examples: usize = step.domains().iter().map(|batch| batch.labels.len()).sum();
        let loss = Tensor::cat(losses.collect(), 0).sum() * (1.0 / examples.max(1) as f64);
        if number == anneal_steps && number > 0 {
            step.learner().restart_optimizers()?;
        }
        if number < anneal_steps {
            return Ok(loss);
        }
        let count = variances.len() as f64;
        let mean = variances.iter().cloned().reduce(|sum, v| sum + v);
        let Some(mean) = mean.map(|sum| sum * (1.0 / count)) else {
            return Ok(loss);
        };
        let distances = variances
            .into_iter()
            .map(|v| (v - mean.clone()).square().mean());
        Ok(loss + Tensor::cat(distances.collect(), 0).mean() * penalty)
    }

    fn search(&self) -> Vec<Searched> {
        vec![
            Searched::new("penalty", Draw::Power(1.0, 4.0)),
            Searched::new("anneal_steps", Draw::UniformSteps(0.0, 5000.0)),
            Searched::new("average", Draw::Uniform(0.9, 0.99)),
        ]
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    /// The number of domains, and the averages one after the other.
    fn state(&self) -> Result<Vec<u8>, ObjectiveError> {
        let count = (self.averages.len() as u32).to_le_bytes().into_iter();
        let numbers = self.averages.iter().flatten().flat_map(|x| x.to_le_bytes());
        Ok(count.chain(numbers).collect())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), ObjectiveError> {
        let wrong = || ObjectiveError::State {
            objective: "Fishr",
            found: state.len(),
            expected: "4, and 4 for each number of the last layer of every domain".into(),
        };
        let (count, rest) = state.split_first_chunk::<4>().ok_or_else(wrong)?;
        let count = u32::from_le_bytes(*count) as usize;
        let (numbers, left) = rest.as_chunks::<4>();
        let fits = match count {
            0 => numbers.is_empty(),
            count => numbers.len().is_multiple_of(count) && !numbers.is_empty(),
        };
        if !fits || !left.is_empty() {
            return Err(wrong());
        }
        let values: Vec<f32> = numbers.iter().map(|&n| f32::from_le_bytes(n)).collect();
        self.averages = match count {
            0 => Vec::new(),
            count => values
                .chunks(values.len() / count)
                .map(<[f32]>::to_vec)
                .collect(),
        };
        Ok(())
    }
}
