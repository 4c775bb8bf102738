//! A run of the sampler, and the loss at its end.

use burn::tensor::Tensor;

use super::equation::{Equation, Node};
use super::{AdjointDpm, AdjointError, GradientMode, Wanted, lent, number};
use crate::asking::Step;
use crate::denoiser::{Denoised, Denoiser};
use crate::guidance::{ClassifierFree, Evaluations, Guidance, ModelAt, NoGuidance};
use crate::level::{Level, transfer};
use crate::ode_method::{Tableau, adams_weights, plus};
use crate::sampler_error::{OwnError, SamplerError};

/// Runs of one model over given levels, whose losses have gradients; made by [`AdjointDpm::of`].
pub struct DifferentiableRun<'a, const D: usize = 4> {
    pub(super) config: AdjointDpm,
    pub(super) equation: Equation<'a>,
    model: &'a dyn Denoiser<D>,
    guidance: Option<&'a mut dyn Guidance<D>>,
    evaluations: Evaluations,
    /// Whether the model's own weights record a graph, also for a state that records none.
    tracked: bool,
}

impl<const D: usize> std::fmt::Debug for DifferentiableRun<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DifferentiableRun")
            .field("config", &self.config)
            .field("steps", &self.steps())
            .field("guidance", &self.guidance)
            .finish_non_exhaustive()
    }
}

/// The states of a run, from which its gradient is computed.
#[derive(Clone, Debug)]
pub struct Trajectory<const D: usize = 4> {
    /// The states at the nodes, in the coordinate of the equation; only the last one if the mode keeps none.
    pub(super) states: Vec<Tensor<D>>,
    sample: Tensor<D>,
}

impl<const D: usize> Trajectory<D> {
    /// The finished sample, without a graph.
    pub fn sample(&self) -> &Tensor<D> {
        &self.sample
    }

    /// The number of states that are kept for the gradient.
    pub fn kept(&self) -> usize {
        self.states.len()
    }
}

/// A loss, the sample that it is of, and the gradient of the noise.
#[derive(Clone, Debug)]
pub struct LossGradient<const D: usize = 4> {
    /// The loss.
    pub loss: f64,
    /// The finished sample, `[batch, …]`.
    pub sample: Tensor<D>,
    /// `∂L/∂x_T`, of the same shape.
    pub noise: Tensor<D>,
}

impl<'a, const D: usize> DifferentiableRun<'a, D> {
    pub(super) fn new(
        config: AdjointDpm,
        equation: Equation<'a>,
        model: &'a dyn Denoiser<D>,
    ) -> Self {
        Self {
            config,
            equation,
            model,
            guidance: None,
            evaluations: Evaluations::new(),
            tracked: false,
        }
    }

    /// Sets the guidance, which is part of the equation: gradients pass through it.
    #[must_use]
    pub fn guided_by(self, guidance: &'a mut dyn Guidance<D>) -> Self {
        Self {
            guidance: Some(guidance),
            ..self
        }
    }

    /// Sets classifier-free guidance, unless its scale is 1, at which it would change nothing for twice the calls.
    #[must_use]
    pub fn classifier_free(self, guidance: &'a mut ClassifierFree) -> Self {
        match guidance.scale == 1.0 {
            true => self,
            false => self.guided_by(guidance),
        }
    }

    /// The number of steps.
    pub fn steps(&self) -> usize {
        self.equation.steps() + usize::from(self.equation.clean.is_some())
    }

    /// What the runs and their gradients have asked the model so far.
    pub fn evaluations(&self) -> &Evaluations {
        &self.evaluations
    }

    /// Draws a sample, without a graph.
    ///
    /// - `x`: the noise, at the first level of the run, `[batch, …]`
    ///
    /// # Errors
    /// If the model or the guidance fails.
    pub fn sample(&mut self, x: Tensor<D>) -> Result<Trajectory<D>, AdjointError> {
        let keeps = self.config.mode != GradientMode::Reintegrated;
        let mut u = self.begin(x)?;
        let mut states = Vec::new();
        let mut before = None;
        for step in 0..self.equation.steps() {
            if keeps {
                states.push(u.clone());
            }
            u = match self.config.method.tableau() {
                Some(tableau) => self.step(tableau, step, u)?,
                None => {
                    let slope = self.forward(&u, self.equation.at(step), step)?;
                    let weights = adams_weights(&self.equation.lengths(), step);
                    let slopes: Vec<_> = [Some(slope.clone()), before.replace(slope)]
                        .into_iter()
                        .flatten()
                        .collect();
                    plus(u, &slopes, &weights, 1.0)
                }
            };
        }
        states.push(u.clone());
        let last = self.equation.at(self.equation.steps());
        let sample = self.finish(u * last.scale, last.level)?;
        Ok(Trajectory { states, sample })
    }

    /// The gradient of a loss of the sample.
    ///
    /// - `x`: the noise, at the first level of the run, `[batch, …]`
    /// - `loss`: gets the sample, from which a graph is recorded; what it depends on besides may be wanted too
    /// - `wanted`: receives the gradients of everything but the noise
    ///
    /// # Errors
    /// If the model, the guidance or the loss fails, the loss does not depend on the sample, or a gradient is not
    /// finite.
    pub fn gradient(
        &mut self,
        x: Tensor<D>,
        loss: &mut dyn FnMut(Tensor<D>) -> Result<Tensor<1>, OwnError>,
        wanted: &mut dyn Wanted,
    ) -> Result<LossGradient<D>, AdjointError> {
        let run = self.sample(x)?;
        let leaf = run.sample.clone().autodiff().require_grad();
        let loss = loss(leaf.clone()).map_err(AdjointError::Loss)?;
        if !loss.is_tracked() {
            return Err(AdjointError::NoDependence);
        }
        let value = number(loss.clone());
        let mut gradients = loss.backward();
        let of_sample = leaf
            .grad_remove(&mut gradients)
            .ok_or(AdjointError::NoDependence)?;
        wanted.receive(&mut gradients);
        let noise = self.backward(&run, of_sample, wanted)?;
        Ok(LossGradient {
            loss: value,
            sample: run.sample,
            noise,
        })
    }

    /// Starts a run: resets the guidance, and takes the state to the equation's form.
    fn begin(&mut self, x: Tensor<D>) -> Result<Tensor<D>, AdjointError> {
        let steps = self.steps();
        if let Some(guidance) = lent(&mut self.guidance) {
            guidance.begin(steps).map_err(SamplerError::from)?;
        }
        let scale = self.equation.at(0).scale;
        Ok(match scale == 1.0 {
            true => x.inner(),
            false => x.inner() / scale,
        })
    }

    /// The step that leads to a level without noise, if the run ends there; otherwise `x`. Without a graph.
    fn finish(&mut self, x: Tensor<D>, level: Level) -> Result<Tensor<D>, AdjointError> {
        match self.equation.clean {
            None => Ok(x),
            Some(clean) => {
                let epsilon = self.without_graph(&x, level, self.equation.steps())?;
                Ok(transfer(x, epsilon, level, clean))
            }
        }
    }

    /// A step of a method that remembers none, without a graph.
    fn step(
        &mut self,
        tableau: &Tableau,
        step: usize,
        u: Tensor<D>,
    ) -> Result<Tensor<D>, AdjointError> {
        let length = self.equation.lengths()[step];
        tableau.step(u, length, |share, ahead| {
            let node = self.equation.between(step, step + 1, share);
            self.forward(&ahead, node, step)
        })
    }

    /// `du/ds` without a graph.
    fn forward(
        &mut self,
        u: &Tensor<D>,
        node: Node,
        step: usize,
    ) -> Result<Tensor<D>, AdjointError> {
        let epsilon = self.without_graph(&scaled(u, node.scale), node.level, step)?;
        Ok(slope(u, epsilon, node))
    }

    /// `du/ds`, with the graph that follows from `u` and from the model.
    pub(super) fn recorded(
        &mut self,
        u: &Tensor<D>,
        node: Node,
        step: usize,
    ) -> Result<Tensor<D>, AdjointError> {
        let epsilon = self.epsilon(&scaled(u, node.scale), node.level, step)?;
        Ok(slope(u, epsilon, node))
    }

    /// `ε` without a graph. If the model's weights record one in spite of that, it is released at once: Burn
    /// releases what nobody can follow any more only when it follows some graph of the same leaves backwards,
    /// which here is one of a single sum.
    fn without_graph(
        &mut self,
        x: &Tensor<D>,
        level: Level,
        step: usize,
    ) -> Result<Tensor<D>, AdjointError> {
        if !self.tracked {
            let epsilon = self.epsilon(x, level, step)?;
            self.tracked = epsilon.is_tracked();
            return Ok(epsilon.inner());
        }
        let leaf = x.clone().autodiff().require_grad();
        let epsilon = self.epsilon(&leaf, level, step)?.inner();
        drop(leaf.sum().backward());
        Ok(epsilon)
    }

    /// `ε` of the model under its guidance.
    ///
    /// - `step`: its number, from 0
    pub(super) fn epsilon(
        &mut self,
        x: &Tensor<D>,
        level: Level,
        step: usize,
    ) -> Result<Tensor<D>, AdjointError> {
        let steps = self.steps();
        let mut none = NoGuidance::new();
        let guidance = match lent(&mut self.guidance) {
            Some(guidance) => guidance,
            None => &mut none,
        };
        self.evaluations.query(x.dims()[0]);
        let mut model = ModelAt::new(self.model, x, level, &mut self.evaluations);
        let step = Step {
            index: steps - 1 - step,
            steps,
            call: step,
            level,
            x,
        };
        let denoised: Denoised<D> = guidance
            .guide(&step, &mut model)
            .map_err(SamplerError::from)?;
        match denoised.apart {
            true => Err(AdjointError::Apart),
            false => Ok(denoised.epsilon),
        }
    }
}

/// `x` at another scale; unchanged if that is 1.
fn scaled<const D: usize>(x: &Tensor<D>, scale: f64) -> Tensor<D> {
    match scale == 1.0 {
        true => x.clone(),
        false => x.clone() * scale,
    }
}

/// `rate · u + gain · ε`.
fn slope<const D: usize>(u: &Tensor<D>, epsilon: Tensor<D>, node: Node) -> Tensor<D> {
    if node.rate == 0.0 && node.gain == 1.0 {
        return epsilon;
    }
    u.clone() * node.rate + epsilon * node.gain
}
