//! `nabla solve relu`: a two-layer ReLU network by its convex program.

use std::time::Instant;

use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::claims::plot::{LinePlot, Series};
use nabla::data::LabelledRows;
use nabla::solve::convex_relu::{
    ActivationPatterns, Admm, AdmmStep, Attack, ConvexReluProblem, ConvexReluSolution,
    DenseExamples, Form, InteriorPoint, Loss, PatternSampling, SampledProgram, TrainingMethod,
    TwoLayerRelu,
};
use nabla::solve::model::{Measured, Model, Predictor, Task, dense};
use serde::Serialize;
use serde_json::{Value, json};

use super::measured_line::measured_line;
use super::problem_file::{DataFlags, OutputFlags, Solution, two_classes};
use super::steps::{Approach, Steps};
use crate::choice::choice;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::seeds::SeedFlag;
use nabla::base::words::{count, duration};

/// The maximum number of patterns that `--all-patterns` lists.
const MOST_PATTERNS: usize = 20_000;

/// The number of data sets whose patterns are drawn for robust training: the examples and perturbed copies.
const PERTURBED_COPIES: usize = 5;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    output: OutputFlags,
    /// The loss to minimise, a sum over the examples
    #[arg(long, value_parser = choice::<Loss>(), default_value = "cross-entropy")]
    loss: Loss,
    /// β in the penalty β/2 times the sum of the squares of all weights
    #[arg(
        long,
        value_name = "WEIGHT",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    beta: f64,
    /// How the convex program is solved; interior-point is exact, for small problems
    #[arg(long, value_parser = choice::<TrainingMethod>())]
    method: Option<TrainingMethod>,
    /// How many activation patterns are drawn, each with at most two hidden units [default: 20]
    #[arg(long, value_name = "N", conflicts_with_all = ["all_patterns", "units"])]
    patterns: Option<usize>,
    /// Use all activation patterns, so that no network of any width is better; for data with few features
    #[arg(long, conflicts_with = "units")]
    all_patterns: bool,
    /// How many hidden units are drawn, with --method drawn-units [default: 1000]
    #[arg(long, value_name = "N")]
    units: Option<usize>,
    /// Train for the worst case when every feature may move by up to this much
    #[arg(long, value_name = "RADIUS", allow_negative_numbers = true)]
    robust: Option<f64>,
    /// Hidden units without a bias
    #[arg(long)]
    no_bias: bool,
    /// For two classes: the label that becomes 1; all others become −1
    #[arg(long, value_name = "LABEL", allow_negative_numbers = true)]
    positive: Option<f64>,
    /// Stop when the relative residuals (admm) or the relative gap are at most this [default: 1e-6;
    /// 1e-8 with interior-point]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    tolerance: Option<f64>,
    /// The most steps [default: 20 000; 200 with interior-point]
    #[arg(long, value_name = "N")]
    max_iterations: Option<usize>,
    #[command(flatten)]
    seed: SeedFlag<0>,
}

/// A network with its solver's certificate.
struct Trained {
    network: TwoLayerRelu,
    objective: f64,
    lower_bound: f64,
    violation: f64,
    iterations: usize,
    converged: bool,
    patterns: Option<usize>,
    configuration: Value,
    steps: Vec<AdmmStep>,
}

impl Trained {
    /// The solution of the program with these patterns.
    fn of(
        solution: &ConvexReluSolution,
        patterns: &ActivationPatterns,
        configuration: Value,
        steps: Vec<AdmmStep>,
    ) -> Self {
        Self {
            network: solution.network(),
            objective: solution.objective,
            lower_bound: solution.lower_bound,
            violation: solution.violation,
            iterations: solution.iterations,
            converged: solution.converged,
            patterns: Some(patterns.len()),
            configuration,
            steps,
        }
    }
}

/// The result, for the model file and `--json`.
#[derive(Serialize)]
struct Solved {
    loss: &'static str,
    beta: f64,
    method: &'static str,
    examples: usize,
    features: usize,
    /// The number of activation patterns of the program.
    patterns: Option<usize>,
    hidden_units: usize,
    converged: bool,
    iterations: usize,
    certificate: Certificate,
    robust: Option<Robust>,
    seconds: f64,
    training: Measured,
    test: Option<Measured>,
}

#[derive(Serialize)]
struct Certificate {
    /// The objective of the convex program.
    objective: f64,
    /// A lower bound of the program.
    lower_bound: f64,
    duality_gap: f64,
    relative_gap: f64,
    /// How much the worst constraint is violated.
    violation: f64,
    /// The objective of the network itself: the loss plus β/2 times the sum of its squared weights.
    network_objective: f64,
    /// Whether the lower bound applies to every network, or only to those of the program.
    bounds_every_network: bool,
}

#[derive(Serialize)]
struct Robust {
    radius: f64,
    /// Under projected gradient attacks of this radius.
    attacked_training: Measured,
    attacked_test: Option<Measured>,
}

impl Arguments {
    /// The method, if it fits the other flags.
    fn method(&self) -> Result<TrainingMethod, Failure> {
        let wrong = |text: &'static str| Err(Failure::input(text));
        match (self.method, self.robust, self.units) {
            (Some(TrainingMethod::Admm | TrainingMethod::DrawnUnits), Some(_), _) => {
                wrong("--robust works only with --method interior-point")
            }
            (Some(TrainingMethod::Admm | TrainingMethod::InteriorPoint), _, Some(_))
            | (None, Some(_), Some(_)) => wrong("--units is for --method drawn-units"),
            (Some(TrainingMethod::DrawnUnits), ..)
                if self.patterns.is_some() || self.all_patterns =>
            {
                wrong("--method drawn-units has no patterns: --units sets how many units are drawn")
            }
            (Some(method), ..) => Ok(method),
            (None, robust, units) => Ok(TrainingMethod::suited(robust.is_some(), units.is_some())),
        }
    }

    fn patterns(&self, problem: &ConvexReluProblem) -> Result<ActivationPatterns, Failure> {
        if self.all_patterns {
            return Ok(ActivationPatterns::enumerate(problem, MOST_PATTERNS)?);
        }
        let sampling =
            PatternSampling::new(self.patterns.unwrap_or(20)).with_seed(self.seed.value());
        Ok(match self.robust {
            Some(radius) => {
                ActivationPatterns::sample_perturbed(problem, sampling, radius, PERTURBED_COPIES)?
            }
            None => ActivationPatterns::sample(problem, sampling)?,
        })
    }

    fn train(
        &self,
        method: TrainingMethod,
        problem: &ConvexReluProblem,
        context: &Context,
    ) -> Result<Trained, Failure> {
        let progress = context.progress();
        let mut steps = Steps::new();
        match method {
            TrainingMethod::DrawnUnits => {
                let mut program =
                    SampledProgram::new(self.units.unwrap_or(1000)).with_seed(self.seed.value());
                program.tolerance = self.tolerance.unwrap_or(program.tolerance);
                program.max_iterations = self.max_iterations.unwrap_or(program.max_iterations);
                let (limit, tolerance) = (program.max_iterations, program.tolerance);
                let mut approach = Approach::new(progress, "solving", limit, tolerance);
                let solution = program.solve(problem, |step| {
                    approach.at(step.iteration, None);
                    steps.push(step);
                    context.go_on()
                })?;
                Ok(Trained {
                    network: solution.network(),
                    objective: solution.objective,
                    lower_bound: solution.lower_bound,
                    violation: 0.0,
                    iterations: solution.iterations,
                    converged: solution.converged,
                    patterns: None,
                    configuration: json!(program),
                    steps: steps.finish(),
                })
            }
            TrainingMethod::Admm => {
                let patterns = self.patterns(problem)?;
                let mut admm = Admm::new();
                admm.tolerance = self.tolerance.unwrap_or(admm.tolerance);
                admm.max_iterations = self.max_iterations.unwrap_or(admm.max_iterations);
                let (limit, tolerance) = (admm.max_iterations, admm.tolerance);
                let mut approach = Approach::new(progress, "solving", limit, tolerance);
                let solution = admm.solve(problem, &patterns, Form::Relu, |step| {
                    let residual = step.primal_residual.max(step.dual_residual);
                    approach.at(step.iteration, Some(residual));
                    steps.push(step);
                    context.go_on()
                })?;
                Ok(Trained::of(
                    &solution,
                    &patterns,
                    json!(admm),
                    steps.finish(),
                ))
            }
            TrainingMethod::InteriorPoint => {
                let patterns = self.patterns(problem)?;
                let mut solver = InteriorPoint::new().with_epsilon(self.robust.unwrap_or(0.0));
                solver.tolerance = self.tolerance.unwrap_or(solver.tolerance);
                solver.max_iterations = self.max_iterations.unwrap_or(solver.max_iterations);
                progress.begin("solving", 1);
                let solution = solver.solve(problem, &patterns, Form::Relu)?;
                Ok(Trained::of(&solution, &patterns, json!(solver), Vec::new()))
            }
        }
    }
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        run(self, context)
    }
}

fn run(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    let output = &arguments.output;
    output.check(&arguments.data)?;
    let method = arguments.method()?;
    if method == TrainingMethod::InteriorPoint && (output.trace.is_some() || output.plot.is_some())
    {
        return Err(Failure::input(
            "the interior-point method has no steps to write or plot",
        ));
    }
    let begun = Instant::now();
    let examples = arguments.data.read()?;
    let loss = arguments.loss;
    let known = |rows: LabelledRows| match loss.is_classification() {
        true => two_classes(rows, arguments.positive),
        false if arguments.positive.is_some() => Err(Failure::input(
            "--positive is for the losses with two classes: hinge, cross-entropy",
        )),
        false => Ok(rows),
    };
    let inputs = dense(&known(examples.rows.clone())?)?;
    let bias = !arguments.no_bias;
    let problem = ConvexReluProblem::new(&inputs, loss, arguments.beta, bias)?;
    let trained = arguments.train(method, &problem, context)?;
    context.check()?;
    context.progress().finish();
    let network_objective = trained.network.objective(&problem)?;
    let hidden_units = trained.network.units();
    let mut configuration = json!({
        "loss": loss, "beta": arguments.beta, "solver": trained.configuration,
        "patterns": trained.patterns, "all_patterns": arguments.all_patterns,
        "seed": arguments.seed.value(),
    });
    configuration["method"] = method.name().into();
    let robust = match arguments.robust {
        Some(radius) => {
            let attack = |examples: &DenseExamples| -> Result<Vec<f64>, Failure> {
                let moved = Attack::pgd(radius).perturb(&trained.network, examples, loss)?;
                Ok(trained.network.outputs(moved.features())?)
            };
            let test = match &examples.test {
                // Test labels that are not a class of the model cannot be attacked.
                Some(test) => {
                    let test = dense(&known_test(test, arguments, loss)?)?;
                    Some((attack(&test)?, test.labels().to_vec()))
                }
                None => None,
            };
            Some((radius, attack(&inputs)?, test))
        }
        None => None,
    };
    let mut model = Model {
        nabla: env!("CARGO_PKG_VERSION").to_owned(),
        method: "relu".to_owned(),
        features: examples.rows.features(),
        index_base: examples.index_base,
        bias,
        positive: arguments.positive,
        task: match loss.is_classification() {
            true => Task::TwoClasses,
            false => Task::Regression,
        },
        configuration,
        result: Value::Null,
        predictor: Predictor::Network(trained.network),
    };
    let attacked = |outputs: &[f64], labels: &[f64]| {
        let found: Vec<f64> = outputs.iter().map(|&f| model.label(&[f])).collect();
        model.measure(&found, labels)
    };
    let gap = (trained.objective - trained.lower_bound).max(0.0);
    let solved = Solved {
        loss: loss.name(),
        beta: arguments.beta,
        method: method.name(),
        examples: inputs.len(),
        features: model.features,
        patterns: trained.patterns,
        hidden_units,
        converged: trained.converged,
        iterations: trained.iterations,
        certificate: Certificate {
            objective: trained.objective,
            lower_bound: trained.lower_bound,
            duality_gap: gap,
            relative_gap: gap / trained.objective.abs().max(1.0),
            violation: trained.violation,
            network_objective,
            bounds_every_network: arguments.all_patterns && arguments.robust.is_none(),
        },
        robust: robust.map(|(radius, training, test)| Robust {
            radius,
            attacked_training: attacked(&training, inputs.labels()),
            attacked_test: test.map(|(outputs, labels)| attacked(&outputs, &labels)),
        }),
        seconds: begun.elapsed().as_secs_f64(),
        training: model.measured_on(&examples.rows)?,
        test: match &examples.test {
            Some(test) => Some(model.measured_on(test)?),
            None => None,
        },
    };
    let title = format!(
        "ReLU network by {} on {}",
        solved.method,
        arguments.data.title()
    );
    let (steps, bound) = (&trained.steps, trained.lower_bound);
    output.finish(
        context,
        Solution {
            data: &arguments.data,
            model: &mut model,
            solved: &solved,
        },
        || csv(steps),
        || plot(title, steps, bound),
        || text(&solved),
    )
}

/// The test examples with the labels that the loss requires.
fn known_test(
    test: &LabelledRows,
    arguments: &Arguments,
    loss: Loss,
) -> Result<LabelledRows, Failure> {
    match (loss.is_classification(), arguments.positive) {
        (false, _) => Ok(test.clone()),
        // The test set may have no example of the class.
        (true, Some(label)) => {
            let test = test.clone();
            Ok(test.map_labels(|y| if y == label { 1.0 } else { -1.0 }))
        }
        (true, None) => two_classes(test.clone(), None),
    }
}

fn text(solved: &Solved) -> String {
    let certificate = &solved.certificate;
    let patterns = match solved.patterns {
        Some(patterns) => format!("{}, ", count(patterns, "activation pattern")),
        None => String::new(),
    };
    let mut text = format!(
        "{} loss, beta {}: {} of {}\n\
         {}: {patterns}{}, {} in {}; {}\n",
        solved.loss,
        solved.beta,
        count(solved.examples, "example"),
        count(solved.features, "feature"),
        solved.method,
        count(solved.hidden_units, "hidden unit"),
        count(solved.iterations, "step"),
        duration(solved.seconds),
        match solved.converged {
            true => "the tolerance was reached",
            false => "the tolerance was NOT reached",
        }
    );
    let every = match (certificate.bounds_every_network, solved.patterns) {
        (true, _) => "no network of any width has an objective below",
        (false, Some(_)) => "no network with these patterns has an objective below",
        (false, None) => "no weights of these units have an objective below",
    };
    text += &format!(
        "objective {:.8} (convex program), {:.8} (the network itself)\n\
         certificate: {every} {:.8} (duality gap {:.2e}, {:.2e} of the objective); worst constraint \
         violated by {:.2e}\n",
        certificate.objective,
        certificate.network_objective,
        certificate.lower_bound,
        certificate.duality_gap,
        certificate.relative_gap,
        certificate.violation,
    );
    text += &measured_line(&solved.training, "training");
    if let Some(measured) = &solved.test {
        text += &measured_line(measured, "test");
    }
    if let Some(robust) = &solved.robust {
        let attacked = |what: &str| format!("{what}, attacked within {}", robust.radius);
        text += &measured_line(&robust.attacked_training, &attacked("training"));
        if let Some(measured) = &robust.attacked_test {
            text += &measured_line(measured, &attacked("test"));
        }
    }
    text
}

fn csv(steps: &[AdmmStep]) -> String {
    let mut text = "step,objective,violation,primal_residual,dual_residual,rho\n".to_owned();
    for step in steps {
        text += &format!(
            "{},{},{},{},{},{}\n",
            step.iteration,
            step.objective,
            step.violation,
            step.primal_residual,
            step.dual_residual,
            step.rho
        );
    }
    text
}

fn plot(title: String, steps: &[AdmmStep], bound: f64) -> LinePlot {
    let points = |value: &dyn Fn(&AdmmStep) -> f64| -> Vec<[f64; 2]> {
        let steps = steps.iter();
        steps.map(|s| [s.iteration as f64, value(s)]).collect()
    };
    LinePlot::new(title, "step", "distance from the optimum")
        .log_y()
        .with_series(Series::new(
            "objective less its lower bound",
            points(&|s| s.objective - bound),
        ))
        .with_series(Series::new(
            "primal residual, relative",
            points(&|s| s.primal_residual),
        ))
        .with_series(Series::new(
            "dual residual, relative",
            points(&|s| s.dual_residual),
        ))
}
