//! `nabla solve bcd`: block coordinate descent for regression, classification and label propagation.

use std::time::Instant;

use clap::Args;
use nabla::solve::block_coordinate_descent::{
    BlockCoordinateDescentConfig, BlockDescentChoices, BlockKind, LinearModel, Objective,
    Partition, Penalty, Selection, Update,
};
use nabla::solve::model::{Model, Predictor, Task};
use serde_json::Value;

use super::descent::{Certificate, Solved, configuration, descend, finish, penalty_name};
use super::label_propagation::propagate;
use super::problem_file::{DataFlags, Examples, OutputFlags, check_weights, two_classes};
use crate::choice::choice;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::seeds::SeedFlag;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    pub data: DataFlags,
    #[command(flatten)]
    pub output: OutputFlags,
    /// The loss to minimise; losses are sums over the examples
    #[arg(long, value_parser = choice::<Objective>(), default_value = "least-squares")]
    pub loss: Objective,
    /// λ in the penalty λ/2 ‖x‖² [default: 1 if there is no other penalty, otherwise 0]
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    pub l2: Option<f64>,
    /// λ in the penalty λ ‖x‖₁, which makes many weights 0
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    l1: Option<f64>,
    /// λ in the penalty λ Σ ‖x_G‖ over groups of weights, which makes whole groups 0
    #[arg(
        long,
        value_name = "WEIGHT",
        allow_negative_numbers = true,
        conflicts_with_all = ["l1", "non_negative", "bounds", "blocks"]
    )]
    group_l1: Option<f64>,
    /// Number of neighbouring weights in each group [default: 1; with softmax the weights of a feature]
    #[arg(long, value_name = "N", requires = "group_l1", value_parser = at_least_one)]
    group_size: Option<usize>,
    /// Number of neighbouring weights in each group, if the groups differ in size: `--group-sizes 2,2,4`
    #[arg(
        long,
        value_name = "N,N,...",
        value_delimiter = ',',
        num_args = 1,
        requires = "group_l1",
        conflicts_with = "group_size",
        value_parser = at_least_one
    )]
    group_sizes: Vec<usize>,
    /// No weight below 0
    #[arg(long)]
    non_negative: bool,
    /// Every weight between two bounds: `--bounds=-1,1`
    #[arg(
        long,
        value_name = "LOW,HIGH",
        value_delimiter = ',',
        num_args = 1,
        allow_hyphen_values = true,
        conflicts_with_all = ["l1", "non_negative"]
    )]
    bounds: Vec<f64>,
    /// Add a feature that is 1 in all examples; its weight is penalised like the others
    #[arg(long)]
    pub bias: bool,
    /// For two classes: the label that becomes 1; all others become −1
    #[arg(long, value_name = "LABEL", allow_negative_numbers = true)]
    pub positive: Option<f64>,
    /// Which weights move together
    #[arg(long, value_parser = choice::<BlockKind>())]
    blocks: Option<BlockKind>,
    /// Weights in a block [default: 5, or all if there are fewer]
    #[arg(long, value_name = "N")]
    block_size: Option<usize>,
    /// How fixed blocks divide the weights [default: sort for a greedy rule, otherwise order]
    #[arg(long, value_parser = choice::<Partition>())]
    partition: Option<Partition>,
    /// Which block is next [default: gsd; gs-q with a penalty that has kinks or bounds]
    #[arg(long, value_parser = choice::<Selection>())]
    rule: Option<Selection>,
    /// How a block moves [default: matrix for least squares, otherwise newton]
    #[arg(long, value_parser = choice::<Update>())]
    update: Option<Update>,
    /// Stop when the gradient (with a penalty, the proximal gradient) is at most this share of its value at 0
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 1e-6,
        allow_negative_numbers = true
    )]
    tolerance: f64,
    /// The most steps
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    max_iterations: usize,
    #[command(flatten)]
    pub seed: SeedFlag<0>,
    /// Label propagation: to how many nearest neighbours each example is linked
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub neighbours: usize,
    /// Label propagation: the label that marks examples without a label
    #[arg(long, value_name = "LABEL", allow_negative_numbers = true)]
    pub unknown: Option<f64>,
    /// Label propagation: how many labels to use, drawn at random; the others measure the result
    #[arg(long, value_name = "N", conflicts_with = "unknown")]
    pub known: Option<usize>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("it must be a whole number of at least 1".into()),
    }
}

impl Arguments {
    /// Whether there is a penalty besides the squares of the weights.
    pub fn other_penalty(&self) -> bool {
        self.l1.is_some() || self.group_l1.is_some() || self.non_negative || !self.bounds.is_empty()
    }

    /// - `weights`: how many there are, `[features, outputs]`
    fn penalty(&self, weights: usize, outputs: usize) -> Result<Penalty, Failure> {
        if let Some(weight) = self.group_l1 {
            let all: Vec<usize> = (0..weights).collect();
            if self.group_sizes.is_empty() {
                let size = self.group_size.unwrap_or(outputs);
                let groups = all.chunks(size).map(<[usize]>::to_vec).collect();
                return Ok(Penalty::GroupL1 { weight, groups });
            }
            let sum = self
                .group_sizes
                .iter()
                .fold(0, |a: usize, &b| a.saturating_add(b));
            if sum != weights {
                return Err(Failure::input(format!(
                    "the groups of --group-sizes have {sum} weights in total, but the model has \
                     {weights}"
                )));
            }
            let mut rest = all.into_iter();
            let groups = self.group_sizes.iter();
            let groups = groups.map(|&size| rest.by_ref().take(size).collect());
            let groups = groups.collect();
            return Ok(Penalty::GroupL1 { weight, groups });
        }
        Ok(match (self.l1, self.non_negative, &self.bounds[..]) {
            (Some(weight), true, _) => Penalty::NonNegativeL1(weight),
            (Some(weight), false, _) => Penalty::L1(weight),
            (None, true, _) => Penalty::NonNegative,
            (None, false, []) => Penalty::None,
            (None, false, &[low, high]) => Penalty::Box { low, high },
            (None, false, others) => {
                return Err(Failure::input(format!(
                    "--bounds has {} numbers, but it must have 2: the lower and the upper bound",
                    others.len()
                )));
            }
        })
    }

    /// How `weights` weights are found.
    pub fn config(&self, weights: usize, penalty: &Penalty) -> BlockCoordinateDescentConfig {
        let choices = BlockDescentChoices {
            blocks: self.blocks,
            block_size: self.block_size,
            partition: self.partition.clone(),
            selection: self.rule,
            update: self.update,
        };
        choices
            .config(self.loss, weights, penalty)
            .with_tolerance(self.tolerance)
            .with_max_iterations(self.max_iterations)
            .with_seed(self.seed.value())
            // The observer stores the steps.
            .with_trace_every(0)
    }
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        self.output.check(&self.data)?;
        match self.loss {
            Objective::LabelPropagation => propagate(self, context),
            _ => fit(self, context),
        }
    }
}

/// Refuses flags that do not apply to the loss.
pub fn refuse(flags: &[(bool, &str)], why: &str) -> Result<(), Failure> {
    match flags.iter().find(|(given, _)| *given) {
        Some((_, flag)) => Err(Failure::input(format!("{flag} {why}"))),
        None => Ok(()),
    }
}

fn fit(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    refuse(
        &[
            (arguments.unknown.is_some(), "--unknown"),
            (arguments.known.is_some(), "--known"),
        ],
        "is for --loss label-propagation",
    )?;
    if arguments.loss != Objective::Logistic {
        refuse(
            &[(arguments.positive.is_some(), "--positive")],
            "is for --loss logistic",
        )?;
    }
    let begun = Instant::now();
    let Examples {
        rows,
        test,
        index_base,
    } = arguments.data.read()?;
    let features = rows.features();
    let mut inputs = rows.clone();
    if arguments.loss == Objective::Logistic {
        inputs = two_classes(inputs, arguments.positive)?;
    }
    if arguments.bias {
        inputs = inputs.with_bias();
    }
    let l2 = arguments
        .l2
        .unwrap_or_else(|| arguments.loss.l2(arguments.other_penalty()));
    let solve = |outputs: usize| -> Result<(Penalty, BlockCoordinateDescentConfig), Failure> {
        let weights = inputs.features().saturating_mul(outputs);
        check_weights(weights)?;
        let penalty = arguments.penalty(weights, outputs)?;
        let config = arguments.config(weights, &penalty);
        Ok((penalty, config))
    };
    let name = arguments.loss.name().to_owned();
    let (task, outputs, penalty, config, descent) = match arguments.loss {
        Objective::Softmax => {
            let problem = LinearModel::softmax(&inputs, l2)?;
            let classes = problem.loss().labels().to_vec();
            let (penalty, config) = solve(classes.len())?;
            let descent = descend(&config, &problem, &penalty, name, context)?;
            (
                Task::Classes(classes.clone()),
                classes.len(),
                penalty,
                config,
                descent,
            )
        }
        Objective::Logistic => {
            let problem = LinearModel::logistic(&inputs, l2)?;
            let (penalty, config) = solve(1)?;
            let descent = descend(&config, &problem, &penalty, name, context)?;
            (Task::TwoClasses, 1, penalty, config, descent)
        }
        Objective::LeastSquares | Objective::LabelPropagation => {
            let problem = LinearModel::least_squares(&inputs, l2)?;
            let (penalty, config) = solve(1)?;
            let descent = descend(&config, &problem, &penalty, name, context)?;
            (Task::Regression, 1, penalty, config, descent)
        }
    };
    context.progress().finish();
    let solution = &descent.solution;
    let weights = (0..outputs)
        .map(|c| {
            solution
                .x
                .iter()
                .skip(c)
                .step_by(outputs)
                .copied()
                .collect()
        })
        .collect();
    let mut model = Model {
        nabla: env!("CARGO_PKG_VERSION").to_owned(),
        method: "bcd".to_owned(),
        features,
        index_base,
        bias: arguments.bias,
        positive: arguments.positive,
        task,
        configuration: configuration(&config, l2, &penalty)?,
        result: Value::Null,
        predictor: Predictor::Linear(weights),
    };
    let solved = Solved {
        loss: arguments.loss.name(),
        l2,
        penalty: penalty_name(&penalty),
        examples: rows.len(),
        features,
        unknowns: solution.x.len(),
        converged: solution.converged,
        iterations: solution.iterations,
        epochs: solution.epochs,
        objective: solution.objective,
        certificate: Certificate::of(std::slice::from_ref(&descent)),
        free: solution.active_set.free.len(),
        active_set_since: solution.active_set.last_change,
        seconds: begun.elapsed().as_secs_f64(),
        training: Some(model.measured_on(&rows)?),
        test: test.map(|test| model.measured_on(&test)).transpose()?,
    };
    finish(
        arguments,
        context,
        &mut model,
        &solved,
        &penalty,
        vec![descent],
    )
}
