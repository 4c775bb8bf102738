//! `nabla solve separate`: a hyperplane that separates the examples of two classes.

use std::time::Instant;

use clap::Args;
use nabla::claims::plot::{LinePlot, Series};
use nabla::solve::model::{Measured, Model, Predictor, Task};
use nabla::solve::normalized_lr::{Rule, SeparatorStep, maximal_margin, radius, separate};
use serde::Serialize;
use serde_json::{Value, json};

use super::measured_line::measured_line;
use super::problem_file::{DataFlags, OutputFlags, Solution, two_classes};
use super::steps::{Approach, Steps};
use crate::choice::choice;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use nabla::base::words::{count, duration};

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    output: OutputFlags,
    /// How the hyperplane moves
    #[arg(long, value_parser = choice::<Rule>(), default_value = "normalized-lr")]
    rule: Rule,
    /// γ, the step size of normalized-lr and lr
    #[arg(
        long,
        value_name = "STEP",
        default_value_t = 10.0,
        allow_negative_numbers = true
    )]
    step_size: f64,
    /// Add a feature that is 1 in all examples, so that the hyperplane need not pass through the origin
    #[arg(long)]
    bias: bool,
    /// The label that becomes 1; all others become −1
    #[arg(long, value_name = "LABEL", allow_negative_numbers = true)]
    positive: Option<f64>,
    /// The most steps
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    max_iterations: usize,
    /// How closely the largest possible margin is approximated, as a share of it
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.01,
        allow_negative_numbers = true
    )]
    margin_tolerance: f64,
    /// The most steps of the search for the largest margin; 0 for no search
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    margin_iterations: usize,
}

/// The result, for the model file and `--json`.
#[derive(Serialize)]
struct Separated {
    examples: usize,
    features: usize,
    separated: bool,
    iterations: usize,
    /// The number of examples on the wrong side.
    wrong: usize,
    certificate: Certificate,
    seconds: f64,
    training: Measured,
    test: Option<Measured>,
}

#[derive(Serialize)]
struct Certificate {
    /// The least distance of an example from the hyperplane, negative on the wrong side.
    margin: f64,
    /// The largest margin of any hyperplane, if it was found.
    largest_margin: Option<f64>,
    /// The largest distance of an example from the origin.
    radius: f64,
    /// The number of steps that the theorem allows, if there is a theorem and the largest margin is known.
    iteration_bound: Option<f64>,
    /// If no hyperplane was found: by the theorem, no hyperplane has a larger margin than this.
    margin_at_most: Option<f64>,
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        run(self, context)
    }
}

fn run(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    arguments.output.check(&arguments.data)?;
    let begun = Instant::now();
    let examples = arguments.data.read()?;
    let rows = examples.rows;
    let mut inputs = two_classes(rows.clone(), arguments.positive)?;
    if arguments.bias {
        inputs = inputs.with_bias();
    }
    let rule = arguments.rule.with_step_size(arguments.step_size);
    let progress = context.progress();
    let mut approach = Approach::new(progress, "separating", arguments.max_iterations, 0.0);
    let mut steps = Steps::new();
    let found = separate(&inputs, rule, arguments.max_iterations, &mut |step| {
        approach.at(step.iteration, None);
        steps.push(step);
        context.go_on()
    })?;
    context.check()?;
    let steps = steps.finish();
    let largest_margin = match found.separated && arguments.margin_iterations > 0 {
        true => {
            progress.finish();
            let limit = arguments.margin_iterations;
            maximal_margin(&inputs, arguments.margin_tolerance, limit)?
        }
        false => None,
    };
    progress.finish();
    let factor = rule.bound_factor(&inputs);
    let bound = |margin: f64| factor.map(|factor| factor / (margin * margin));
    let allowed = |factor: f64| (factor / found.iterations as f64).sqrt();
    let mut model = Model {
        nabla: env!("CARGO_PKG_VERSION").to_owned(),
        method: "separate".to_owned(),
        features: rows.features(),
        index_base: examples.index_base,
        bias: arguments.bias,
        positive: arguments.positive,
        task: Task::TwoClasses,
        configuration: json!({ "rule": rule, "max_iterations": arguments.max_iterations }),
        result: Value::Null,
        predictor: Predictor::Linear(vec![found.theta]),
    };
    let test = examples.test;
    let separated = Separated {
        examples: rows.len(),
        features: rows.features(),
        separated: found.separated,
        iterations: found.iterations,
        wrong: steps.last().map_or(0, |step| step.wrong),
        certificate: Certificate {
            margin: found.margin,
            largest_margin,
            radius: radius(&inputs),
            iteration_bound: largest_margin.and_then(bound),
            margin_at_most: match found.separated || found.iterations == 0 {
                true => None,
                false => factor.map(allowed),
            },
        },
        seconds: begun.elapsed().as_secs_f64(),
        training: model.measured_on(&rows)?,
        test: test.map(|test| model.measured_on(&test)).transpose()?,
    };
    let title = format!("{rule} on {}", arguments.data.title());
    arguments.output.finish(
        context,
        Solution {
            data: &arguments.data,
            model: &mut model,
            solved: &separated,
        },
        || csv(&steps),
        || plot(title, &steps),
        || text(rule, &separated),
    )
}

fn text(rule: Rule, separated: &Separated) -> String {
    let Certificate {
        margin,
        largest_margin,
        radius,
        iteration_bound,
        margin_at_most,
    } = separated.certificate;
    let mut text = format!(
        "{rule}: {} of {}\n",
        count(separated.examples, "example"),
        count(separated.features, "feature"),
    );
    let (steps, time) = (
        count(separated.iterations, "step"),
        duration(separated.seconds),
    );
    if separated.separated {
        text += &format!("separated after {steps}, in {time}\n");
        text += &format!("certificate: every example is {margin:.4e} or more from the hyperplane");
        text += &match largest_margin {
            Some(largest) => format!("; the largest possible margin: {largest:.4e}\n"),
            None => String::from("; the largest possible margin was not found\n"),
        };
        if let Some(bound) = iteration_bound {
            text += &format!(
                "the theorem allows {bound:.0} steps for this margin and a radius of {radius:.4}\n"
            );
        }
    } else {
        text += &format!(
            "NOT separated within {steps} ({time}): {} on the wrong side\n",
            count(separated.wrong, "example")
        );
        text += &match margin_at_most {
            Some(most) => format!(
                "certificate: by the theorem no hyperplane has a margin above {most:.4e} (radius \
                 {radius:.4}); there may be none at all\n"
            ),
            None => "no certificate: no theorem bounds the steps of this rule\n".to_owned(),
        };
    }
    text += &measured_line(&separated.training, "training");
    if let Some(measured) = &separated.test {
        text += &measured_line(measured, "test");
    }
    text
}

fn csv(steps: &[SeparatorStep]) -> String {
    let mut text = "step,loss,least_margin,wrong\n".to_owned();
    for step in steps {
        text += &format!(
            "{},{},{},{}\n",
            step.iteration, step.loss, step.least_margin, step.wrong
        );
    }
    text
}

fn plot(title: String, steps: &[SeparatorStep]) -> LinePlot {
    let points = |value: fn(&SeparatorStep) -> f64| {
        let steps = steps.iter();
        steps.map(move |step| [step.iteration as f64, value(step)])
    };
    LinePlot::new(title, "step", "examples; loss")
        .log_y()
        .with_series(Series::new(
            "examples on the wrong side",
            points(|step| step.wrong as f64),
        ))
        .with_series(Series::new("mean logistic loss", points(|step| step.loss)))
}
