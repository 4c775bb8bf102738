//! From the gradient of the sample to that of the noise.

use burn::tensor::{Gradients, Tensor};

use super::equation::Node;
use super::run::{DifferentiableRun, Trajectory};
use super::{AdjointError, GradientMode, Wanted, number};
use crate::level::transfer;
use crate::ode_method::{Tableau, adams_weights, plus};
use crate::vector_jacobian::vector_jacobian;

/// The largest relative difference of a recomputed step that rounding can explain.
const ROUNDING: f64 = 1e-3;

impl<const D: usize> DifferentiableRun<'_, D> {
    /// From the gradient of a loss with respect to the sample to that with respect to the noise.
    ///
    /// - `run`: of this object, in the mode that it still has
    /// - `of_sample`: `∂L/∂x_0`, of the shape of the sample
    /// - `wanted`: receives the gradients of everything but the noise
    ///
    /// # Errors
    /// If the shape is wrong, the model or the guidance fails, a step gives another result than in the run, or a
    /// gradient is not finite.
    pub fn backward(
        &mut self,
        run: &Trajectory<D>,
        of_sample: Tensor<D>,
        wanted: &mut dyn Wanted,
    ) -> Result<Tensor<D>, AdjointError> {
        let (found, expected) = (of_sample.dims(), run.sample().dims());
        if found != expected {
            return Err(AdjointError::Shape {
                found: found.to_vec(),
                expected: expected.to_vec(),
            });
        }
        // ∂L/∂u, where x = scale u.
        let scale = self.equation.at(self.equation.steps()).scale;
        let adjoint = self.last(run, of_sample.inner(), wanted)? * scale;
        let adjoint = match (self.config.mode, self.config.method.tableau()) {
            (GradientMode::Exact, Some(tableau)) => self.exact(run, tableau, adjoint, wanted)?,
            (GradientMode::Exact, None) => self.exact_adams(run, adjoint, wanted)?,
            (_, Some(tableau)) => self.adjoint(run, tableau, adjoint, wanted)?,
            (_, None) => self.adjoint_adams(run, adjoint, wanted)?,
        };
        let scale = self.equation.at(0).scale;
        Ok(match scale == 1.0 {
            true => adjoint,
            false => adjoint / scale,
        })
    }

    /// Back through the step to the level without noise, if there is one.
    fn last(
        &mut self,
        run: &Trajectory<D>,
        of_sample: Tensor<D>,
        wanted: &mut dyn Wanted,
    ) -> Result<Tensor<D>, AdjointError> {
        let Some(clean) = self.equation.clean else {
            return Ok(of_sample);
        };
        let step = self.equation.steps();
        let node = self.equation.at(step);
        let u = run.states[run.states.len() - 1].clone() * node.scale;
        let leaf = u.autodiff().require_grad();
        let epsilon = self.epsilon(&leaf, node.level, step)?;
        let end = transfer(leaf.clone(), epsilon, node.level, clean);
        check_repeated(&end, run.sample(), step)?;
        let (gradient, mut gradients) = vector_jacobian(&leaf, end, of_sample);
        wanted.receive(&mut gradients);
        self.checked(gradient, step)
    }

    /// The gradient of the sampler: step by step, each recomputed from its beginning.
    fn exact(
        &mut self,
        run: &Trajectory<D>,
        tableau: &Tableau,
        mut adjoint: Tensor<D>,
        wanted: &mut dyn Wanted,
    ) -> Result<Tensor<D>, AdjointError> {
        let lengths = self.equation.lengths();
        for step in (0..self.equation.steps()).rev() {
            let leaf = run.states[step].clone().autodiff().require_grad();
            let next = tableau.step(leaf.clone(), lengths[step], |share, ahead| {
                let node = self.equation.between(step, step + 1, share);
                self.recorded(&ahead, node, step)
            })?;
            check_repeated(&next, &run.states[step + 1], step)?;
            let (gradient, mut gradients) = vector_jacobian(&leaf, next, adjoint);
            wanted.receive(&mut gradients);
            adjoint = self.checked(gradient, step)?;
        }
        Ok(adjoint)
    }

    /// The gradient of the sampler with two steps: the slope of a node enters the step from there and the next.
    fn exact_adams(
        &mut self,
        run: &Trajectory<D>,
        mut adjoint: Tensor<D>,
        wanted: &mut dyn Wanted,
    ) -> Result<Tensor<D>, AdjointError> {
        let lengths = self.equation.lengths();
        let mut later: Option<Tensor<D>> = None;
        for step in (0..lengths.len()).rev() {
            let [own, _] = adams_weights(&lengths, step);
            let mut vector = adjoint.clone() * own;
            if let Some(later) = later.replace(adjoint.clone()) {
                let [_, before] = adams_weights(&lengths, step + 1);
                vector = vector + later * before;
            }
            let (gradient, mut gradients, _) =
                self.jacobian(&run.states[step], vector, self.equation.at(step), step)?;
            wanted.receive(&mut gradients);
            adjoint = self.checked(adjoint + gradient, step)?;
        }
        Ok(adjoint)
    }

    /// The adjoint equation, from each node back to the one before.
    fn adjoint(
        &mut self,
        run: &Trajectory<D>,
        tableau: &Tableau,
        mut adjoint: Tensor<D>,
        wanted: &mut dyn Wanted,
    ) -> Result<Tensor<D>, AdjointError> {
        let lengths = self.equation.lengths();
        let mut u = run.states[run.states.len() - 1].clone();
        for step in (0..lengths.len()).rev() {
            let length = -lengths[step];
            let (mut slopes, mut products) = (Vec::new(), Vec::new());
            let stages = tableau.nodes.iter().zip(tableau.stages);
            for ((share, weights), &weight) in stages.zip(tableau.weights) {
                let node = self.equation.between(step + 1, step, *share);
                let state = plus(u.clone(), &slopes, weights, length);
                let vector = plus(adjoint.clone(), &products, weights, -length);
                let [product, slope] =
                    self.weighted(&state, vector, node, step, -length * weight, wanted)?;
                slopes.push(slope);
                products.push(product);
            }
            adjoint = plus(adjoint, &products, tableau.weights, -length);
            adjoint = self.checked(adjoint, step)?;
            u = match self.config.mode {
                GradientMode::Reintegrated => plus(u, &slopes, tableau.weights, length),
                _ => run.states[step].clone(),
            };
        }
        Ok(adjoint)
    }

    /// The adjoint equation with the method of two steps, which begins at the sample.
    fn adjoint_adams(
        &mut self,
        run: &Trajectory<D>,
        mut adjoint: Tensor<D>,
        wanted: &mut dyn Wanted,
    ) -> Result<Tensor<D>, AdjointError> {
        // Of the steps from the sample to the noise.
        let lengths: Vec<f64> = self.equation.lengths().iter().rev().map(|h| -h).collect();
        let mut u = run.states[run.states.len() - 1].clone();
        let mut before: Option<[Tensor<D>; 2]> = None;
        for back in 0..lengths.len() {
            let node = lengths.len() - back;
            // In this step and the next, the product with the node's Jacobian has these weights.
            let mut weight = adams_weights(&lengths, back)[0];
            if back + 1 < lengths.len() {
                weight += adams_weights(&lengths, back + 1)[1];
            }
            let (vector, at) = (adjoint.clone(), self.equation.at(node));
            let [product, slope] = self.weighted(&u, vector, at, node - 1, -weight, wanted)?;
            let weights = adams_weights(&lengths, back);
            let (mut products, mut slopes) = (vec![product.clone()], vec![slope.clone()]);
            if let Some([product, slope]) = before.replace([product, slope]) {
                products.push(product);
                slopes.push(slope);
            }
            adjoint = plus(adjoint, &products, &weights, -1.0);
            adjoint = self.checked(adjoint, node - 1)?;
            u = match self.config.mode {
                GradientMode::Reintegrated => plus(u, &slopes, &weights, 1.0),
                _ => run.states[node - 1].clone(),
            };
        }
        Ok(adjoint)
    }

    /// `Jᵀ a` at a node, and the slope there; the other gradients are received with a weight.
    fn weighted(
        &mut self,
        u: &Tensor<D>,
        vector: Tensor<D>,
        node: Node,
        step: usize,
        weight: f64,
        wanted: &mut dyn Wanted,
    ) -> Result<[Tensor<D>; 2], AdjointError> {
        if weight == 0.0 {
            let (product, _, slope) = self.jacobian(u, vector, node, step)?;
            return Ok([product, slope]);
        }
        let (product, mut gradients, slope) = self.jacobian(u, vector * weight, node, step)?;
        wanted.receive(&mut gradients);
        Ok([product / weight, slope])
    }

    /// `Jᵀ a` at a node, the gradients of the same scalar with respect to everything else, and the slope.
    fn jacobian(
        &mut self,
        u: &Tensor<D>,
        vector: Tensor<D>,
        node: Node,
        step: usize,
    ) -> Result<(Tensor<D>, Gradients, Tensor<D>), AdjointError> {
        let leaf = u.clone().autodiff().require_grad();
        let slope = self.recorded(&leaf, node, step)?;
        let value = slope.clone().inner();
        let (product, gradients) = vector_jacobian(&leaf, slope, vector);
        Ok((product, gradients, value))
    }

    /// `step`: before which the adjoint is taken, from 0.
    fn checked(&self, adjoint: Tensor<D>, step: usize) -> Result<Tensor<D>, AdjointError> {
        match number(adjoint.clone().sum()).is_finite() {
            true => Ok(adjoint),
            false => Err(AdjointError::NotFinite { step: step + 1 }),
        }
    }
}

/// Checks that a step gives the same again.
fn check_repeated<const D: usize>(
    again: &Tensor<D>,
    first: &Tensor<D>,
    step: usize,
) -> Result<(), AdjointError> {
    let difference = number((again.clone().inner() - first.clone()).abs().max());
    let size = number(first.clone().abs().max());
    match difference > ROUNDING * size {
        true => Err(AdjointError::NotRepeatable { step: step + 1 }),
        false => Ok(()),
    }
}
