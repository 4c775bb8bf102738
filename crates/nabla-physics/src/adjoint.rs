//! Gradients through a solver.
//!
//! | adjoint | gradient of | memory | evaluations |
//! |---|---|---|---|
//! | [discrete](Adjoint::Discrete) | the steps themselves, exactly | the graphs of 16 steps, or of those between two checkpoints | a product for each stage, and each stage that has no graph again |
//! | [interpolating](Adjoint::Interpolating) | the solution, up to the tolerance | the stages of all steps, without graphs | those of another solve |
//! | [backsolve](Adjoint::Backsolve) | the solution, where its equation can be solved backwards | one state | those of another solve |
//! | [forward](Adjoint::Forward) | the steps, exactly | `d` numbers for each parameter and trajectory | `batch · d` products for each stage |
//!
//! With `a = ∂L/∂u`, the continuous adjoints solve, from the end to the beginning,
//!
//! ```text
//! a' = −(∂f/∂u)ᵀ a,   G' = −(∂f/∂θ)ᵀ a,   a jumps by ∂L/∂u(t_i) at each time that was asked for
//! ```
//!
//! with the solver's own method and tolerances; errors of `G` do not count for the steps, since nothing depends on them.
//! Only the discrete adjoint has gradients of error and stiffness estimates, and only it is there for Rosenbrock methods.
//!
//! Sources: Chen et al., *Neural Ordinary Differential Equations*, 2018, arXiv 1806.07366; Kidger, *On Neural Differential
//! Equations*, 2021, arXiv 2202.02435, chapter 5; Kidger, Chen, Lyons, *"Hey, That's Not an ODE"*, 2020, arXiv 2009.09457
//! (the error of `G`).

use burn::tensor::Tensor;

use crate::field::{Field, FieldSystem, Pulled};
use crate::method::Method;
use crate::run::{Keep, Plan, Run, run};
use crate::solve_error::SolveError;

mod continuous;
mod discrete;
mod sensitivities;

/// How gradients are computed; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjoint {
    /// Through the steps.
    Discrete(Checkpoints),
    /// The adjoint equation, with the solution between the steps from dense output.
    Interpolating,
    /// The adjoint equation, together with the equation itself solved backwards.
    Backsolve,
    /// Sensitivities, solved together with the equation. The trajectories of a batch must not depend on each other.
    Forward,
}

impl Default for Adjoint {
    fn default() -> Self {
        Self::Discrete(Checkpoints::Automatic)
    }
}

/// What the discrete adjoint keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpoints {
    /// The graphs of the first 16 steps, and a state for 16 of those that follow, which are computed again: the least time.
    #[default]
    Automatic,
    /// A state for so many steps (at least 1), which are computed again. More than some tens take long: the time in which
    /// Burn follows a graph grows with the graphs that there are.
    Every(usize),
    /// States about as many as steps between them, so that memory grows with the square root of the steps.
    SquareRoot,
}

/// The gradients by what a solution has.
pub(crate) struct Cotangents {
    /// By the value at each time but the first, `[batch, d]`.
    pub(crate) by_values: Vec<Tensor<2>>,
    /// `[steps, groups]`
    pub(crate) by_errors: Option<Tensor<2>>,
    pub(crate) by_stiffness: Option<Tensor<2>>,
}

/// From the gradients by what a solution has to those by state and parameters.
pub(crate) type Pull = Box<dyn FnOnce(Cotangents) -> Result<Pulled, SolveError> + Send>;

/// A solution, and how it is pulled back.
pub(crate) struct Found {
    pub(crate) run: Run,
    pub(crate) evaluations: usize,
    /// Whether errors and stiffness have gradients.
    pub(crate) estimates: bool,
}

/// Solves, and prepares the gradient.
///
/// - `wanted`: by the state, and by parameters
pub(crate) fn forward<F: Field>(
    adjoint: Adjoint,
    plan: Plan,
    mut system: FieldSystem<F>,
    start: Tensor<2>,
    times: &[f64],
    wanted: [bool; 2],
) -> Result<(Found, Pull), SolveError> {
    if let Adjoint::Discrete(Checkpoints::Every(every)) = adjoint {
        nabla_base::range::at_least("steps between two checkpoints", every, 1)?;
    }
    if let (Method::Rosenbrock(tableau), false) =
        (plan.method, matches!(adjoint, Adjoint::Discrete(_)))
    {
        let adjoint = match adjoint {
            Adjoint::Interpolating => "the interpolating adjoint",
            Adjoint::Backsolve => "the backsolve adjoint",
            _ => "forward sensitivities",
        };
        return Err(SolveError::NoAdjoint {
            adjoint,
            method: tableau.name,
        });
    }
    let keep = match adjoint {
        Adjoint::Discrete(Checkpoints::Automatic) => Keep::Graphs,
        Adjoint::Discrete(Checkpoints::Every(every)) => Keep::States(every),
        Adjoint::Discrete(Checkpoints::SquareRoot) => Keep::States(0),
        Adjoint::Interpolating => Keep::Stages,
        Adjoint::Backsolve => Keep::States(usize::MAX),
        Adjoint::Forward => return sensitivities::forward(plan, system, start, times, wanted),
    };
    if plan.options.first_step.is_some() {
        // Otherwise, the search for a first step evaluates the field without graph, which shows it.
        system.check_hidden(&start, times[0])?;
    }
    let mut found = run(&plan, &mut system, start, times, keep)?;
    let evaluations = system.evaluations;
    let kept = discrete::Trace {
        records: found.records.clone(),
        kept: std::mem::take(&mut found.kept),
        checkpoints: std::mem::take(&mut found.checkpoints),
    };
    let last = found.values[found.values.len() - 1].clone();
    let times = times.to_vec();
    let pull: Pull = match adjoint {
        Adjoint::Discrete(_) => {
            Box::new(move |cotangents| discrete::pull(&plan, &mut system, kept, cotangents))
        }
        _ => Box::new(move |cotangents| {
            let back = adjoint == Adjoint::Backsolve;
            continuous::pull(&plan, system, kept, &times, last, cotangents, back)
        }),
    };
    let estimates = matches!(adjoint, Adjoint::Discrete(_));
    Ok((
        Found {
            run: found,
            evaluations,
            estimates,
        },
        pull,
    ))
}

#[cfg(test)]
mod tests;
