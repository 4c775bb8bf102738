//! DIFF2: private descent by differences of gradients, for nonconvex problems and many clients.
//!
//! The gradient of all `n` examples is released rarely, and otherwise only by how much it has changed. A step of length
//! `Δ` changes an example's gradient by at most `LΔ`, so that the noise of a change dies out as the steps get shorter:
//!
//! ```text
//! for r = 1, 2, …, R:
//!   if (r − 1) mod T = 0:                                                        a restart
//!     v_r ← 1/n Σ_i clip(g_i(x_{r−1}), C₁) + N(0, σ₁² I)
//!   else:
//!     Δ   ← ‖x_{r−1} − x_{r−2}‖                                                  public
//!     v_r ← v_{r−1} + 1/n Σ_i clip(g_i(x_{r−1}) − g_i(x_{r−2}), C₂ Δ) + N(0, σ₂² Δ² I)
//!   x_r ← routine(x_{r−1}, v_r)
//! ```
//!
//! The differences are clipped example by example, and `C₂` plays the part of `L`. The routines of the paper:
//!
//! * **DIFF2-GD**, `x − ηv`: the optimizer of the training makes the step. Any optimizer is as private, since `v` and `x`
//!   are public.
//! * **DIFF2-BVR-L-SGD**: one client, drawn anew each round, makes `K` cheap steps around `v`:
//!   `w_1 = v`, `y_k ← y_{k−1} − η w_k`, `w_{k+1} ← w_k + 1/b Σ_{i∈I} clip(g_i(y_k) − g_i(y_{k−1}), C₃ ‖y_k − y_{k−1}‖) + N(0, σ₃² ‖y_k − y_{k−1}‖² I)`,
//!   with each of its examples in `I` with probability `b/n_p`. It hands `(x − y_K)/η` to the optimizer, which should be
//!   SGD without momentum: it then arrives at `y_K`.
//!
//! # What is revealed
//! A round is a Gaussian mechanism: one example more or less changes the mean over the public number `n` by at most
//! `C/n`, and `Δ` cancels against the noise. `N₁` restarts with the noise `z₁ C₁/n` and `N₂` differences with
//! `z₂ C₂ Δ/n` are `μ`-Gaussian private with `μ² = N₁/z₁² + N₂/z₂²`, exactly. A share `a` of the budget `μ²` goes to the
//! restarts. The local steps are subsampled Gaussians, with a share of their own.
//!
//! With [`Trust::SecureSum`], the clients' noises add up to that of the mean: each of `P` adds `1/√P` of it. With
//! [`Trust::LocalNoise`], the server sees every message, each is private on its own, and the mean has `√P` times the
//! noise.
//!
//! The noise of a restart stays in `v` until the next one, and that of the differences adds up: `T` should not be long.
//!
//! Source: Murata, Suzuki, *DIFF2: Differential Private Optimization via Gradient Differences for Nonconvex Distributed
//! Learning*, 2023, arXiv 2302.03884. There is no official code; the accounts and the form of the local steps are
//! derived here.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{distance, norm};
use nabla_grad::flat::ParameterLayout;
use nabla_grad::per_example::Reduction;
use nabla_kernels::per_example::backward;
use nabla_train::classification::LabelledBatch;
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::gradient_source::{Answers, GradientSource, Plan, TrainingExamples};
use nabla_train::learner::Learner;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::accountant::History;
use crate::clipping::ClippingError;
use crate::private_training::{PrivacyConfig, PrivacyError, Report, Spending};
use crate::secret_noise::NoiseKey;

/// Who may see what a client sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// Nobody: only the sum is seen.
    #[default]
    SecureSum,
    /// The server: each message is private on its own.
    LocalNoise,
}

/// What happens between two rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Routine {
    /// The optimizer's step along `v`.
    #[default]
    GradientDescent,
    /// Steps of one client around `v`.
    LocalSteps {
        /// Their number `K`.
        steps: usize,
        /// Examples `b` that a step is expected to see.
        batch: usize,
        /// The limit `C₃` of differences, in multiples of the distance.
        clip: f64,
        /// The share of the budget.
        share: f64,
    },
}

/// How DIFF2 takes differences.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Diff2Config {
    /// The limit `C₂` of the differences, in multiples of the distance between the weights: the curvature that the
    /// examples are supposed to have at most. Default 5.
    pub difference_clip: f64,
    /// Rounds `T` from one whole gradient to the next. Default 10.
    pub restart: usize,
    /// The share `a` of the budget for whole gradients. Default ½.
    pub split: f64,
    /// What happens between two rounds. Default a step of the optimizer.
    pub routine: Routine,
    /// Clients `P`, which have equal parts of the examples. Default 1.
    pub clients: usize,
    /// Who may see what a client sends. Default nobody.
    pub trust: Trust,
}

impl Default for Diff2Config {
    fn default() -> Self {
        Self {
            difference_clip: 5.0,
            restart: 10,
            split: 0.5,
            routine: Routine::default(),
            clients: 1,
            trust: Trust::default(),
        }
    }
}

impl Diff2Config {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::positive("difference_clip of DIFF2", self.difference_clip)?;
        range::at_least("restart of DIFF2", self.restart, 1)?;
        range::at_least("number of clients of DIFF2", self.clients, 1)?;
        range::between("split of DIFF2", self.split, 0.0, 1.0)?;
        if let Routine::LocalSteps {
            steps,
            batch,
            clip,
            share,
        } = self.routine
        {
            range::at_least("number of local steps of DIFF2", steps, 1)?;
            range::at_least("local batch of DIFF2", batch, 1)?;
            range::positive("clip of the local steps of DIFF2", clip)?;
            range::between("share of the local steps of DIFF2", share, 0.0, 1.0)?;
        }
        Ok(())
    }

    /// Restarts among the first `rounds` rounds, and the others.
    fn rounds(&self, rounds: u64) -> [u64; 2] {
        let restarts = rounds.div_ceil(self.restart as u64);
        [restarts, rounds - restarts]
    }

    /// The noise multipliers of whole gradients, differences and local steps, which share a budget: `scale` is `1/μ` of
    /// the first two if there are no others. Local steps on a sample reveal less by about the square of its rate.
    ///
    /// - `examples`: their number `n`
    pub fn multipliers(&self, rounds: u64, scale: f64, examples: usize) -> [f64; 3] {
        let [whole, differences] = self.rounds(rounds);
        // What never happens needs no budget.
        let split = if differences == 0 { 1.0 } else { self.split };
        let [whole, differences] = [whole, differences].map(|count| count.max(1) as f64);
        let (rest, local) = match self.routine {
            Routine::GradientDescent => (1.0, 0.0),
            Routine::LocalSteps {
                steps,
                batch,
                share,
                ..
            } => {
                let count = rounds.max(1) as f64 * steps as f64;
                let rate = self.local_rate(batch, examples);
                // Below a multiplier of 1 a sample hides little.
                (
                    1.0 - share,
                    (rate * (count / share).sqrt()).max(1.0 / scale),
                )
            }
        };
        [
            scale * (whole / (split * rest)).sqrt(),
            match split < 1.0 {
                true => scale * (differences / ((1.0 - split) * rest)).sqrt(),
                false => 0.0,
            },
            scale * local,
        ]
    }

    /// What the first `rounds` rounds reveal.
    ///
    /// - `examples`: their number `n`
    ///
    /// # Errors
    /// If there is too little noise to count.
    pub fn history(
        &self,
        multipliers: [f64; 3],
        rounds: u64,
        examples: usize,
    ) -> Result<History, OutOfRange> {
        let [whole, differences] = self.rounds(rounds);
        let mut history = History::new().with(multipliers[0], 1.0, whole)?;
        if differences > 0 {
            history.add(multipliers[1], 1.0, differences)?;
        }
        if let Routine::LocalSteps { steps, batch, .. } = self.routine {
            let rate = self.local_rate(batch, examples);
            history.add(multipliers[2], rate, rounds * steps as u64)?;
        }
        Ok(history)
    }

    /// The probability that a local step sees one of the client's examples.
    fn local_rate(&self, batch: usize, examples: usize) -> f64 {
        let of_client = examples as f64 / self.clients as f64;
        (batch as f64 / of_client).min(1.0)
    }
}

/// The estimate `v` of the gradient, round after round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The limit `C₁` of a gradient, and that of a difference in multiples of the distance, `C₂`.
    pub clips: [f64; 2],
    /// The noise of the mean of both, in multiples of the limits.
    pub deviations: [f64; 2],
    /// Rounds `T` from one whole gradient to the next.
    pub restart: usize,
    /// Rounds so far.
    round: u64,
    /// `x_{r−1}` and `v_r` of the last round.
    last: Option<[Vec<f64>; 2]>,
}

impl Estimate {
    /// Before the first round.
    pub fn new(clips: [f64; 2], deviations: [f64; 2], restart: usize) -> Self {
        Self {
            clips,
            deviations,
            restart: restart.max(1),
            round: 0,
            last: None,
        }
    }

    /// The next `v`, at the weights `x`.
    ///
    /// - `noise`: as many standard normal numbers as there are weights
    /// - `mean`: the mean of the clipped gradients or, with weights before, of the clipped differences, and their limit
    ///
    /// # Errors
    /// That of `mean`.
    pub fn advance<E>(
        &mut self,
        x: Vec<f64>,
        noise: Vec<f64>,
        mean: impl FnOnce(Option<&[f64]>, f64) -> Result<Vec<f64>, E>,
    ) -> Result<Vec<f64>, E> {
        let restarts = self.round.is_multiple_of(self.restart as u64);
        let (mut v, limit, deviation, mean) = match self.last.take().filter(|_| !restarts) {
            None => {
                let limit = self.clips[0];
                (
                    vec![0.0; x.len()],
                    limit,
                    self.deviations[0],
                    mean(None, limit)?,
                )
            }
            Some([before, v]) => {
                let limit = self.clips[1] * distance(&x, &before);
                let mean = mean(Some(&before), limit)?;
                (v, limit, self.deviations[1], mean)
            }
        };
        let added = mean.into_iter().zip(noise);
        v.iter_mut()
            .zip(added)
            .for_each(|(v, (mean, noise))| *v += mean + deviation * limit * noise);
        self.round += 1;
        self.last = Some([x, v.clone()]);
        Ok(v)
    }
}

/// The gradients of DIFF2; see the [module documentation](self).
pub(crate) struct Diff2Gradients {
    method: Diff2Config,
    config: PrivacyConfig,
    plan: Plan,
    multipliers: [f64; 3],
    key: NoiseKey,
    spending: Spending,
    estimate: Estimate,
}

/// The state in a checkpoint.
#[derive(Serialize, Deserialize)]
struct State {
    key: Option<NoiseKey>,
    spending: Spending,
    estimate: Estimate,
}

/// Numbers of a tensor.
fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// A sum of clipped vectors, with what a round tells.
#[derive(Default)]
struct ClippedSum {
    sum: Vec<f64>,
    clipped: u64,
    loss: f64,
    answers: Answers,
}

impl Diff2Gradients {
    pub(crate) fn new(
        method: Diff2Config,
        config: PrivacyConfig,
        plan: Plan,
        multipliers: [f64; 3],
        key: NoiseKey,
    ) -> Self {
        let trust = match method.trust {
            Trust::SecureSum => 1.0,
            Trust::LocalNoise => (method.clients as f64).sqrt(),
        };
        let of_mean = |multiplier: f64| multiplier * trust / plan.examples as f64;
        let clips = [config.clipping.sensitivity(), method.difference_clip];
        let deviations = [of_mean(multipliers[0]), of_mean(multipliers[1])];
        Self {
            estimate: Estimate::new(clips, deviations, method.restart),
            method,
            config,
            plan,
            multipliers,
            key,
            spending: Spending::default(),
        }
    }

    /// `Σ clip(g_i(at) − g_i(before), limit)` over examples; without `before`, `Σ clip(g_i(at), limit)`.
    fn sum<M: Classifier>(
        &self,
        indices: &[usize],
        examples: &TrainingExamples<'_>,
        step: usize,
        at: &M,
        before: Option<&M>,
        limit: f64,
    ) -> Result<ClippedSum, TrainingError> {
        let layout = ParameterLayout::trainable(at)?;
        let width = layout.total_length();
        let mut sum = ClippedSum {
            sum: vec![0.0; width],
            clipped: 0,
            loss: 0.0,
            answers: Answers::default(),
        };
        let failed = |error| TrainingError::from(PrivacyError::Clipping(error));
        for part in indices.chunks(self.config.virtual_batch) {
            let batch = examples.chosen(part, step, layout.device());
            let of = |model: &M, batch: LabelledBatch| -> Result<_, TrainingError> {
                let layout = ParameterLayout::trainable(model)?;
                let (loss, right) = examples.mean_loss(model, batch);
                let mean: f64 = loss.clone().without_autodiff().into_scalar();
                let rows = backward(loss, part.len(), Reduction::Mean)
                    .and_then(|gradients| gradients.rows(model, &layout))
                    .map_err(|error| failed(error.into()))?;
                Ok((numbers(rows), mean, right))
            };
            let (mut rows, mean, right) = of(at, batch.clone())?;
            if let Some(before) = before {
                let (others, ..) = of(before, batch)?;
                rows.iter_mut()
                    .zip(others)
                    .for_each(|(row, other)| *row -= other);
            }
            for row in rows.chunks(width) {
                let length = norm(row);
                if !length.is_finite() {
                    return Err(failed(ClippingError::NotFinite));
                }
                // Weights that did not move have differences of zeros and a limit of zero.
                let weight = if length > limit { limit / length } else { 1.0 };
                sum.clipped += u64::from(length > limit);
                sum.sum
                    .iter_mut()
                    .zip(row)
                    .for_each(|(sum, x)| *sum += weight * x);
            }
            sum.loss += mean * part.len() as f64;
            sum.answers.right += right;
            sum.answers.examples += part.len();
        }
        Ok(sum)
    }

    /// The number of a draw from the key: 0 for the round's noise and client, `k` for the local step `k`.
    fn draw(&self, number: u64) -> u64 {
        let draws = match self.method.routine {
            Routine::GradientDescent => 1,
            Routine::LocalSteps { steps, .. } => 1 + steps as u64,
        };
        self.spending.steps * draws + number
    }

    /// `(x − y_K)/η` of the local steps.
    fn local<M: Classifier>(
        &self,
        x: &[f64],
        v: &[f64],
        examples: &TrainingExamples<'_>,
        learner: &Learner<M>,
    ) -> Result<Vec<f64>, TrainingError> {
        let Routine::LocalSteps {
            steps, batch, clip, ..
        } = self.method.routine
        else {
            return Ok(v.to_vec());
        };
        let rate = learner.learning_rate(nabla_train::trainer::MODEL)?;
        if rate == 0.0 {
            return Ok(v.to_vec());
        }
        let clients = self.method.clients;
        let client = self.key.chosen(self.draw(0), clients);
        let own: Vec<usize> = (0..examples.len())
            .filter(|i| i % clients == client)
            .collect();
        let rate_of_examples = self.method.local_rate(batch, examples.len());
        let model = learner.model();
        let layout = ParameterLayout::trainable(model)?;
        let at = |y: &[f64]| placed(model, &layout, y);
        let (mut y, mut w) = (x.to_vec(), v.to_vec());
        for k in 0..steps {
            let last = y.clone();
            y.iter_mut().zip(&w).for_each(|(y, w)| *y -= rate * w);
            if k + 1 == steps {
                break;
            }
            let distance = distance(&y, &last);
            let draw = self.draw(1 + k as u64);
            let sampled = self.key.poisson_sample(draw, own.len(), rate_of_examples);
            let sampled: Vec<usize> = sampled.into_iter().map(|i| own[i]).collect();
            let limit = clip * distance;
            let (here, before) = (at(&y)?, at(&last)?);
            let step = learner.step();
            let sum = self.sum(&sampled, examples, step, &here, Some(&before), limit)?;
            let deviation = self.multipliers[2] * limit;
            let noise = self.key.normal(draw, y.len());
            let summed = sum.sum.iter().zip(noise);
            w.iter_mut()
                .zip(summed)
                .for_each(|(w, (sum, noise))| *w += (sum + deviation * noise) / batch as f64);
        }
        Ok(x.iter().zip(y).map(|(x, y)| (x - y) / rate).collect())
    }
}

/// `model` with the weights `x`.
fn placed<M: Module>(model: &M, layout: &ParameterLayout, x: &[f64]) -> Result<M, TrainingError> {
    let data = TensorData::new(x.to_vec(), [x.len()]);
    let vector = Tensor::<1>::from_data(data, layout.device());
    Ok(layout.with_parameters(model.clone(), vector)?)
}

impl<M: Classifier> GradientSource<M> for Diff2Gradients {
    fn name(&self) -> &str {
        "diff2"
    }

    fn gradient(
        &mut self,
        examples: &mut TrainingExamples<'_>,
        learner: &mut Learner<M>,
    ) -> Result<Answers, TrainingError> {
        let layout = ParameterLayout::trainable(learner.model())?;
        let x = numbers(layout.flatten_parameters(learner.model())?);
        let all: Vec<usize> = (0..examples.len()).collect();
        let count = self.plan.examples as f64;
        let noise = self.key.normal(self.draw(0), x.len());
        let mut told = None;
        let mut estimate = self.estimate.clone();
        let v = estimate.advance(x.clone(), noise, |before, limit| {
            let model = learner.model();
            let before = before.map(|x| placed(model, &layout, x)).transpose()?;
            let step = learner.step();
            let mut sum = self.sum(&all, examples, step, model, before.as_ref(), limit)?;
            sum.sum.iter_mut().for_each(|sum| *sum /= count);
            let mean = std::mem::take(&mut sum.sum);
            told = Some(sum);
            Ok::<_, TrainingError>(mean)
        })?;
        self.estimate = estimate;
        let gradient = self.local(&x, &v, examples, learner)?;
        let data = TensorData::new(gradient, [v.len()]);
        let gradient = Tensor::<1>::from_data(data, layout.device());
        let told = told.unwrap_or_default();
        let loss = (told.loss / count) as f32;
        learner.contribute(layout.to_gradients(gradient)?, Some(loss))?;
        self.spending
            .add(told.clipped, told.answers.examples as u64);
        Ok(told.answers)
    }

    fn settings(&self) -> Value {
        json!({ "privacy": self.config, "multipliers": self.multipliers })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        let state = State {
            key: self.spending.key(&self.key, self.plan),
            spending: self.spending,
            estimate: self.estimate.clone(),
        };
        serde_json::to_vec(&state).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let state: State = serde_json::from_slice(state)
            .map_err(|error| PrivacyError::State(error.to_string()))?;
        self.key = state.key.unwrap_or_else(|| self.key.clone());
        self.spending = state.spending;
        self.estimate = state.estimate;
        Ok(())
    }

    fn report(&self) -> Result<Value, TrainingError> {
        let history =
            self.method
                .history(self.multipliers, self.spending.steps, self.plan.examples);
        let history = history.map_err(PrivacyError::Range)?;
        let caveat = match self.method.trust {
            Trust::LocalNoise => None,
            Trust::SecureSum if self.method.clients == 1 => None,
            Trust::SecureSum => Some(
                "the guarantee holds for who sees the sum of the clients' messages, not a single one (trust = \
                 \"local-noise\" protects each message)"
                    .to_owned(),
            ),
        };
        let report = Report {
            history,
            caveat,
            audit: None,
        };
        self.spending
            .told(&self.config, self.plan, &self.key, report)
    }
}

#[cfg(test)]
mod tests;
