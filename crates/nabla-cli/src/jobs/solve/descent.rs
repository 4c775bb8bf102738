//! One descent of `nabla solve bcd`, and the report of all descents of a problem.

use nabla::claims::plot::{LinePlot, Series};
use nabla::solve::block_coordinate_descent::{
    BlockCoordinateDescentConfig, BlockDescentSolution, Objective, Penalty, SmoothProblem,
};
use nabla::solve::model::{Measured, Model};
use serde::Serialize;
use serde_json::{Value, json};

use super::block_descent::Arguments;
use super::measured_line::measured_line;
use super::problem_file::Solution;
use super::steps::{Approach, Steps};
use crate::errors::Failure;
use crate::job::{Context, Report};
use nabla::base::words::{count, duration};

/// The stored values of a step.
struct Step {
    iteration: usize,
    epochs: f64,
    objective: f64,
    residual: Option<f64>,
    free: usize,
}

/// One problem, solved.
pub struct Descent {
    /// A name that distinguishes it from others of the same call.
    name: String,
    pub solution: BlockDescentSolution,
    steps: Vec<Step>,
}

/// Solves one problem.
pub fn descend<P: SmoothProblem>(
    config: &BlockCoordinateDescentConfig,
    problem: &P,
    penalty: &Penalty,
    name: String,
    context: &Context,
) -> Result<Descent, Failure> {
    let stage = format!("descending: {name}");
    let progress = context.progress();
    let mut approach = Approach::new(progress, &stage, config.max_iterations, config.tolerance);
    let mut first = None;
    let mut steps = Steps::new();
    let solution = config.solve(problem, penalty, None, &mut |step| {
        // The descent starts at the point to which the residual is relative.
        let relative = step.residual.map(|residual| {
            let first = *first.get_or_insert(residual);
            if first > 0.0 { residual / first } else { 0.0 }
        });
        approach.at(step.iteration, relative);
        steps.push(Step {
            iteration: step.iteration,
            epochs: step.epochs,
            objective: step.objective,
            residual: relative,
            free: step.free,
        });
        context.go_on()
    })?;
    context.check()?;
    Ok(Descent {
        name,
        solution,
        steps: steps.finish(),
    })
}

/// The result, for the model file and `--json`.
#[derive(Serialize)]
pub struct Solved {
    pub loss: &'static str,
    pub l2: f64,
    pub penalty: &'static str,
    pub examples: usize,
    pub features: usize,
    pub unknowns: usize,
    pub converged: bool,
    pub iterations: usize,
    pub epochs: f64,
    pub objective: f64,
    pub certificate: Certificate,
    /// The number of weights that lie on no kink and no bound of the penalty.
    pub free: usize,
    /// The step since which these weights have been the same.
    pub active_set_since: usize,
    pub seconds: f64,
    pub training: Option<Measured>,
    /// For label propagation: the accuracy on the examples whose labels were held back.
    pub test: Option<Measured>,
}

/// How far from the minimum the result can be. If several problems are solved one by one: the
/// worst residual and the sum of the gaps.
#[derive(Clone, Copy, Serialize)]
pub struct Certificate {
    /// The largest entry of the gradient or, with a penalty, of the proximal gradient.
    residual: f64,
    relative_residual: f64,
    /// The objective minus a lower bound of the minimum.
    duality_gap: Option<f64>,
}

impl Certificate {
    pub fn of(descents: &[Descent]) -> Self {
        let all = || descents.iter().map(|d| &d.solution.certificate);
        Self {
            residual: all().map(|c| c.residual).fold(0.0, f64::max),
            relative_residual: all().map(|c| c.relative_residual).fold(0.0, f64::max),
            // Only rounding can make a gap negative.
            duality_gap: all().map(|c| c.duality_gap.map(|gap| gap.max(0.0))).sum(),
        }
    }

    fn text(&self, penalty: &Penalty) -> String {
        let what = match penalty {
            Penalty::None => "gradient",
            _ => "proximal gradient",
        };
        let gap = match self.duality_gap {
            Some(gap) => format!("the minimum is at most {gap:.2e} lower (duality gap); "),
            None => String::new(),
        };
        format!(
            "certificate: {gap}largest entry of the {what} {:.2e}, {:.2e} of its value at 0\n",
            self.residual, self.relative_residual
        )
    }
}

/// The name of a penalty.
pub fn penalty_name(penalty: &Penalty) -> &'static str {
    match penalty {
        Penalty::None => "none",
        Penalty::L1(_) => "l1",
        Penalty::NonNegative => "non-negative",
        Penalty::NonNegativeL1(_) => "non-negative l1",
        Penalty::Box { .. } => "bounds",
        Penalty::GroupL1 { .. } => "group l1",
    }
}

/// The configuration of the method, for the model file.
pub fn configuration(
    config: &BlockCoordinateDescentConfig,
    l2: f64,
    penalty: &Penalty,
) -> Result<Value, Failure> {
    let descent = serde_json::to_value(config).map_err(Failure::run)?;
    Ok(json!({ "l2": l2, "penalty": penalty, "descent": descent }))
}

/// Writes and reports the result.
pub fn finish(
    arguments: &Arguments,
    context: &Context,
    model: &mut Model,
    solved: &Solved,
    penalty: &Penalty,
    descents: Vec<Descent>,
) -> Result<Report, Failure> {
    let title = format!("{} on {}", solved.loss, arguments.data.title());
    arguments.output.finish(
        context,
        Solution {
            data: &arguments.data,
            model,
            solved,
        },
        || csv(&descents),
        || plot(title, &descents),
        || text(arguments.loss, solved, penalty),
    )
}

fn text(loss: Objective, solved: &Solved, penalty: &Penalty) -> String {
    let (penalties, unknowns) = match loss {
        Objective::LabelPropagation => (String::new(), "labels to find"),
        _ => (
            format!(", l2 {}, penalty {}", solved.l2, solved.penalty),
            "weights",
        ),
    };
    let mut text = format!(
        "{}{penalties}: {} of {}, {} {unknowns}\n\
         objective {:.10} after {} ({:.1} rounds) in {}; {}\n",
        solved.loss,
        count(solved.examples, "example"),
        count(solved.features, "feature"),
        solved.unknowns,
        solved.objective,
        count(solved.iterations, "step"),
        solved.epochs,
        duration(solved.seconds),
        match solved.converged {
            true => "the tolerance was reached",
            false => "the tolerance was NOT reached",
        }
    );
    text += &solved.certificate.text(penalty);
    if *penalty != Penalty::None {
        text += &format!(
            "{} of {} weights are off the kinks and bounds of the penalty, the same ones since step {}\n",
            solved.free, solved.unknowns, solved.active_set_since
        );
    }
    if let Some(measured) = &solved.training {
        text += &measured_line(measured, "training");
    }
    if let Some(measured) = &solved.test {
        text += &measured_line(measured, "test");
    }
    text
}

fn csv(descents: &[Descent]) -> String {
    let mut text = "problem,step,epochs,objective,relative_residual,free\n".to_owned();
    for descent in descents {
        for step in &descent.steps {
            let residual = step.residual.map_or(String::new(), |r| r.to_string());
            text += &format!(
                "{},{},{},{},{residual},{}\n",
                descent.name, step.iteration, step.epochs, step.objective, step.free
            );
        }
    }
    text
}

/// The distance of the objective from the best known bound of the minimum, and the residual.
fn plot(title: String, descents: &[Descent]) -> LinePlot {
    let mut plot = LinePlot::new(
        title,
        "weights moved, divided by their number",
        "distance from the minimum",
    )
    .log_y();
    for descent in descents {
        let mut residuals: Vec<[f64; 2]> = Vec::new();
        for step in &descent.steps {
            // A residual of 0 has no logarithm.
            residuals.extend(step.residual.filter(|&r| r > 0.0).map(|r| [step.epochs, r]));
        }
        let only = descents.len() == 1;
        if only {
            let solution = &descent.solution;
            let gap = solution.certificate.duality_gap.unwrap_or(0.0).max(0.0);
            let (bound, name) = match gap > 0.0 {
                true => (solution.objective - gap, "objective less its lower bound"),
                false => (solution.objective, "objective less the lowest"),
            };
            let steps = descent.steps.iter();
            let points = steps.map(|s| [s.epochs, s.objective - bound]);
            plot = plot.with_series(Series::new(name, points.filter(|p| p[1] > 0.0)));
        }
        let name = match only {
            true => "gradient, as a share of that at 0",
            false => descent.name.as_str(),
        };
        plot = plot.with_series(Series::new(name, residuals));
    }
    plot
}
