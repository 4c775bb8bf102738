//! GAQAT: flat minima for a network of few bits, whose step sizes hear the plain loss only while it is undecided.
//!
//! In a [quantised](nabla_quantize) network every quantiser has a step size `s_i`, and [SAGM](super::sagm) gives it two
//! gradients: one of the loss here and one of the loss at the worst weights nearby. They may pull it to different sides.
//! Where the first keeps its sign for long, it drags `s_i` steadily into what the loss likes and flatness does not; GAQAT
//! then freezes it for a while.
//!
//! ```text
//! g = ∇L(θ, s),   (θ_p, s_p) = (θ, s) + (ρ/‖g‖ − α) g,   p = ∇L(θ_p, s_p)
//! gradient of the weights:      ½ g + ½ p
//! gradient of the step size i:  ½ p_i if frozen, else ½ g_i + ½ p_i
//! every K steps:  δ_i = flips of sign(g_i) in the last K steps / (K − 1);   frozen_i ← δ_i < τ
//! ```
//!
//! The conflict of two gradients is the share of steps in which their signs differ. A gradient of 0 neither flips nor
//! conflicts. Step sizes per channel are frozen one by one. With `τ = 0`, or the rule `off`, the objective is SAGM, and
//! the conflicts are measured all the same.
//!
//! The authors have published no code; how the freezing works is taken from their pseudo-code as reviewers quote it. One
//! of them reads it the other way round, which is the rule `smooth`.
//!
//! Source: Jiang, Meng, Tang, Yu, Li, Wang, Zhu, *GAQAT: gradient-adaptive quantization-aware training for domain
//! generalization*, 2024, arXiv 2412.05551.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use nabla_base::range;
use nabla_grad::flat::ParameterLayout;
use nabla_quantize::{Quantizer, Role};
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{DomainPlan, DomainStep, Objective, ObjectiveError, read};
use crate::objectives::sam::Ascent;
use crate::search::{Draw, Searched};

/// What is frozen of a step size whose plain gradient is steady.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FreezeRule {
    /// The gradient of the loss here, as in the paper.
    #[default]
    Task,
    /// The gradient of the loss nearby.
    Smooth,
    /// Both: the step size stays.
    Both,
    /// The gradient here, of all step sizes in every second window, whatever their signs.
    Alternate,
    /// Nothing.
    Off,
}

/// Configuration of [`Gaqat`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaqatConfig {
    /// `ρ`. Default 0.05.
    pub rho: f64,
    /// `α`. Default 0.001.
    pub alpha: f64,
    /// `K`, in steps. The paper tunes it for each data set. Default 50.
    pub window: usize,
    /// `τ`. Default 0.3.
    pub threshold: f64,
    /// What is frozen. Default the gradient of the loss here.
    pub rule: FreezeRule,
    /// Whether what was frozen once stays frozen. Default no.
    pub forever: bool,
}

impl Default for GaqatConfig {
    fn default() -> Self {
        Self {
            rho: 0.05,
            alpha: 1e-3,
            window: 50,
            threshold: 0.3,
            rule: FreezeRule::default(),
            forever: false,
        }
    }
}

/// How often the sign of a gradient changes from step to step.
///
/// ```
/// use nabla_align::objectives::gaqat::GradientDisorder;
///
/// let mut disorder = GradientDisorder::default();
/// for gradient in [0.5, 2.0, -1.0, -3.0] {
///     disorder.push(gradient);
/// }
/// assert_eq!(disorder.value(), 1.0 / 3.0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GradientDisorder {
    last: f32,
    steps: usize,
    flips: usize,
}

/// Whether one number is positive and the other one negative.
fn differ(a: f32, b: f32) -> bool {
    (a > 0.0 && b < 0.0) || (a < 0.0 && b > 0.0)
}

impl GradientDisorder {
    /// The gradient of the next step.
    pub fn push(&mut self, gradient: f32) {
        self.flips += usize::from(self.steps > 0 && differ(self.last, gradient));
        self.last = gradient.signum() * f32::from(u8::from(gradient != 0.0));
        self.steps += 1;
    }

    /// `δ`: 0 for one that never changes, about ½ for noise; 0 before the second step.
    pub fn value(&self) -> f64 {
        self.flips as f64 / self.steps.saturating_sub(1).max(1) as f64
    }
}

/// One step size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    /// Of the gradient here, in the current window.
    window: GradientDisorder,
    /// Of both gradients, in all steps.
    task: GradientDisorder,
    smooth: GradientDisorder,
    /// Steps in which the two had different signs.
    conflicts: usize,
    frozen: bool,
    /// Steps in which it was.
    frozen_steps: usize,
}

/// What was measured of a quantiser, the mean over its channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleStats {
    /// The layer.
    pub layer: String,
    /// What is rounded.
    pub role: Role,
    /// The share of steps in which the gradients here and nearby had different signs.
    pub conflict: f64,
    /// `δ` of the gradient here, over all steps.
    pub disorder: f64,
    /// `δ` of the gradient nearby.
    pub disorder_nearby: f64,
    /// The share of steps in which something was frozen.
    pub frozen: f64,
}

/// What the state of a checkpoint has.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    records: Vec<Record>,
    /// Steps of the current window.
    in_window: usize,
    /// Windows that have ended.
    windows: usize,
}

/// The objective; see the [module documentation](self).
#[derive(Clone, Debug, Default)]
pub struct Gaqat {
    config: GaqatConfig,
    state: State,
    /// The quantisers, with where their step sizes are among all parameters, since the first step.
    quantizers: Vec<(Quantizer, Range<usize>)>,
    /// What both gradients are multiplied with, `[parameters]` each, while something is frozen.
    shares: Option<[Tensor<1>; 2]>,
}

impl Gaqat {
    /// With a configuration.
    pub fn new(config: GaqatConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// What was measured of each quantiser; nothing before the first step.
    pub fn stats(&self) -> Vec<ScaleStats> {
        let mut records = self.state.records.iter();
        let each = self.quantizers.iter().map(|(quantizer, range)| {
            let records: Vec<&Record> = records.by_ref().take(range.len()).collect();
            let mean = |of: &dyn Fn(&Record) -> f64| {
                records.iter().map(|r| of(r)).sum::<f64>() / records.len().max(1) as f64
            };
            let share =
                |count: usize, record: &Record| count as f64 / record.task.steps.max(1) as f64;
            ScaleStats {
                layer: quantizer.layer.clone(),
                role: quantizer.role,
                conflict: mean(&|r| share(r.conflicts, r)),
                disorder: mean(&|r| r.task.value()),
                disorder_nearby: mean(&|r| r.smooth.value()),
                frozen: mean(&|r| share(r.frozen_steps, r)),
            }
        });
        each.collect()
    }

    /// Where all step sizes are.
    fn places(&self) -> Vec<usize> {
        let ranges = self.quantizers.iter().map(|(_, range)| range.clone());
        ranges.flatten().collect()
    }

    /// Notes the gradients of a step here and nearby, of all step sizes.
    fn note(&mut self, task: &[f32], smooth: &[f32]) {
        let state = &mut self.state;
        state.records.resize(task.len(), Record::default());
        for ((record, &task), &smooth) in state.records.iter_mut().zip(task).zip(smooth) {
            record.window.push(task);
            record.task.push(task);
            record.smooth.push(smooth);
            record.conflicts += usize::from(differ(task, smooth));
            record.frozen_steps += usize::from(record.frozen);
        }
        state.in_window += 1;
        if state.in_window < self.config.window {
            return;
        }
        state.in_window = 0;
        state.windows += 1;
        let odd = state.windows % 2 == 1;
        for record in &mut state.records {
            let steady = record.window.value() < self.config.threshold;
            let stays = self.config.forever && record.frozen;
            record.frozen = match self.config.rule {
                FreezeRule::Off => false,
                FreezeRule::Alternate => odd,
                FreezeRule::Task | FreezeRule::Smooth | FreezeRule::Both => steady || stays,
            };
            record.window = GradientDisorder::default();
        }
        self.shares = None;
    }

    /// What the gradients here and nearby are multiplied with; none while nothing is frozen.
    fn shares(&mut self, layout: &ParameterLayout, like: &Tensor<1>) -> Option<[Tensor<1>; 2]> {
        if !self.state.records.iter().any(|record| record.frozen) {
            return None;
        }
        if self.shares.is_none() {
            let [task, smooth] = match self.config.rule {
                FreezeRule::Smooth => [0.5, 0.0],
                FreezeRule::Both => [0.0, 0.0],
                FreezeRule::Task | FreezeRule::Alternate | FreezeRule::Off => [0.0, 0.5],
            };
            let places = self.places();
            let of = |frozen: f32| {
                let mut shares = vec![0.5; layout.total_length()];
                for (&place, record) in places.iter().zip(&self.state.records) {
                    if record.frozen {
                        shares[place] = frozen;
                    }
                }
                let data = TensorData::new(shares, [layout.total_length()]);
                Tensor::<1>::from_data(data, (&like.device(), like.dtype()))
            };
            self.shares = Some([of(task), of(smooth)]);
        }
        self.shares.clone()
    }
}

/// The quantisers of a model, with where their step sizes are among all parameters.
fn placed(layout: &ParameterLayout, quantizers: Vec<Quantizer>) -> Vec<(Quantizer, Range<usize>)> {
    let with_range = |quantizer: Quantizer| {
        let entry = layout.entries().iter().find(|e| e.id() == quantizer.id)?;
        Some((quantizer, entry.range()))
    };
    quantizers.into_iter().filter_map(with_range).collect()
}

impl<M: Classifier> Objective<M> for Gaqat {
    fn name(&self) -> &str {
        "gaqat"
    }

    fn check(&self, model: &M, _plan: &DomainPlan) -> Result<(), ObjectiveError> {
        let config = &self.config;
        range::positive("GAQAT's rho", config.rho)?;
        range::not_negative("GAQAT's alpha", config.alpha)?;
        range::at_least("GAQAT's window", config.window, 2)?;
        range::within("GAQAT's threshold", config.threshold, 0.0..=1.0)?;
        match model.quantizers().is_empty() {
            true => Err(ObjectiveError::NoQuantizers { objective: "gaqat" }),
            false => Ok(()),
        }
    }

    fn step(&mut self, step: &mut DomainStep<'_, M>) -> Result<(), ObjectiveError> {
        let ascent = Ascent::of(step)?;
        let layout = ascent.landscape.layout().clone();
        if self.quantizers.is_empty() {
            self.quantizers = placed(&layout, step.model().quantizers());
        }
        let here = ascent.slope.gradient.clone(); // g
        let there = ascent.aligned(self.config.rho, self.config.alpha, step)?; // p
        let gradient = match self.shares(&layout, &here) {
            None => (here.clone() + there.clone()) * 0.5,
            Some([task, smooth]) => here.clone() * task + there.clone() * smooth,
        };
        let gradients = layout.to_gradients(gradient)?;
        step.learner()
            .contribute(gradients, Some(ascent.slope.loss))?;
        let places = self.places();
        let count = places.len();
        let indices: Vec<i32> = places.into_iter().map(|place| place as i32).collect();
        let indices = Tensor::from_data(TensorData::new(indices, [count]), &here.device());
        let of = |gradient: Tensor<1>| read(gradient.select(0, indices.clone()));
        self.note(&of(here)?, &of(there)?);
        Ok(())
    }

    fn search(&self) -> Vec<Searched> {
        vec![
            Searched::new("rho", Draw::OneOf(&[0.01, 0.02, 0.05, 0.1])),
            Searched::new("alpha", Draw::Power(-4.0, -2.0)),
            Searched::new("threshold", Draw::OneOf(&[0.2, 0.3, 0.4])),
        ]
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn state(&self) -> Result<Vec<u8>, ObjectiveError> {
        let mut state = Vec::new();
        ciborium::into_writer(&self.state, &mut state)
            .map_err(|error| ObjectiveError::Own(error.to_string().into()))?;
        Ok(state)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), ObjectiveError> {
        let wrong = |_| ObjectiveError::State {
            objective: "GAQAT",
            found: state.len(),
            expected: "those of its signs".into(),
        };
        self.state = ciborium::from_reader(state).map_err(wrong)?;
        self.shares = None;
        Ok(())
    }

    fn report(&self) -> Value {
        json!({ "quantizers": self.stats() })
    }
}

#[cfg(test)]
mod tests;
