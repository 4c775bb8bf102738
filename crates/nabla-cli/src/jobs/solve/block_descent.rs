//! `nabla solve bcd`: block coordinate descent for regression, classification and label propagation.

use std::ops::ControlFlow;
use std::time::Instant;

use clap::{Args, ValueEnum};
use nabla::claims::plot::{LinePlot, Series};
use nabla::data::LabelledRows;
use nabla::grad::seeded_noise::SeededNoise;
use nabla::solve::block_coordinate_descent::{
    BlockCoordinateDescentConfig, BlockDescentError, BlockDescentSolution, BlockSolver, Blocks,
    DealOrder, DiagonalBound, LabelPropagation, LinearModel, Partition, Penalty, Selection,
    SmoothProblem, StepSize, Update, nearest_neighbour_edges,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::model_file::{Measured, Model, Predictor, Task};
use super::problem_file::{DataFlags, Examples, OutputFlags, check_weights, two_classes};
use super::steps::{Approach, Steps};
use crate::errors::Failure;
use crate::progress::Progress;
use nabla::base::words::duration;

/// Coordinates of a block, if there are as many: the paper's smallest.
const BLOCK_SIZE: usize = 5;

/// The command line.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    output: OutputFlags,
    /// What is lowered; losses are sums over the examples
    #[arg(long, value_enum, default_value_t = Loss::LeastSquares)]
    loss: Loss,
    /// λ of λ/2 ‖x‖²; 1 if there is no other penalty, otherwise 0
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    l2: Option<f64>,
    /// λ of λ ‖x‖₁, for few weights that are not 0
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    l1: Option<f64>,
    /// λ of λ Σ ‖x_G‖ over groups of weights that are 0 together
    #[arg(
        long,
        value_name = "WEIGHT",
        allow_negative_numbers = true,
        conflicts_with_all = ["l1", "non_negative", "bounds", "blocks"]
    )]
    group_l1: Option<f64>,
    /// Weights of a group: neighbours, with softmax those of a feature
    #[arg(long, value_name = "N", requires = "group_l1", value_parser = at_least_one)]
    group_size: Option<usize>,
    /// Weights of each group, neighbours, where they are not equally many: `--group-sizes 2,2,4`
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
    /// Every weight between these: `--bounds=-1,1`
    #[arg(
        long,
        value_name = "LOW,HIGH",
        value_delimiter = ',',
        num_args = 1,
        allow_hyphen_values = true,
        conflicts_with_all = ["l1", "non_negative"]
    )]
    bounds: Vec<f64>,
    /// Adds a feature that is 1 in all examples; its weight is penalised like the others
    #[arg(long)]
    bias: bool,
    /// The label that becomes 1, against all others, for two classes
    #[arg(long, value_name = "LABEL", allow_negative_numbers = true)]
    positive: Option<f64>,
    /// Which weights are moved together
    #[arg(long, value_enum)]
    blocks: Option<BlocksChoice>,
    /// Weights of a block; 5 if there are as many
    #[arg(long, value_name = "N")]
    block_size: Option<usize>,
    /// How fixed blocks part the weights; `sort` for a greedy rule, otherwise `order`
    #[arg(long, value_enum)]
    partition: Option<PartitionChoice>,
    /// Which block is next; gsd, with a penalty that has kinks or bounds gs-q
    #[arg(long, value_enum)]
    rule: Option<Rule>,
    /// How a block moves; matrix for least squares, otherwise newton
    #[arg(long, value_enum)]
    update: Option<UpdateChoice>,
    /// Ends where the gradient (or what it is to a penalty) is this share of that at 0
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
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Label propagation: the nearest others that every example is linked with
    #[arg(long, value_name = "N", default_value_t = 5)]
    neighbours: usize,
    /// Label propagation: the label of examples whose label is to be found
    #[arg(long, value_name = "LABEL", allow_negative_numbers = true)]
    unknown: Option<f64>,
    /// Label propagation: so many labels, drawn, are used, and the others measure the result
    #[arg(long, value_name = "N", conflicts_with = "unknown")]
    known: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Loss {
    /// ½ (x·a − y)²
    LeastSquares,
    /// log(1 + exp(−y x·a)) with labels −1 and 1
    Logistic,
    /// Of as many classes as there are labels
    Softmax,
    /// ½ Σ w (y_i − y_j)² over the links of near examples, some labels being known
    LabelPropagation,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum BlocksChoice {
    /// A partition that stays
    Fixed,
    /// Any set of weights
    Variable,
    /// The largest sets without cycles, for sparse problems; solved by message passing
    Forest,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum PartitionChoice {
    /// Neighbours
    Order,
    /// At random
    Random,
    /// By rising Lipschitz constants
    Sort,
    /// Small and large Lipschitz constants by turns
    Average,
    /// By rising row sums of the bound of the second derivatives
    BoundSort,
    /// Small and large row sums by turns
    BoundAverage,
    /// Sets without links, by colouring
    RedBlack,
    /// Sets without cycles; solved by message passing
    Forests,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Rule {
    /// One after the other
    Cyclic,
    /// At random
    Random,
    /// At random, in proportion to the Lipschitz constants
    Lipschitz,
    /// The largest gradient
    Gs,
    /// The largest gradient by the root of the Lipschitz constant
    Gsl,
    /// The largest sum of squared gradients by Lipschitz constants
    Gsd,
    /// The same by row sums of the bound of the second derivatives
    GsdRowSum,
    /// The largest decrease of the quadratic model
    Gsq,
    /// The same, searched weight by weight
    Omp,
    /// The longest proximal step
    GsR,
    /// The largest decrease of the proximal model
    GsQ,
    /// The largest decrease of the objective
    Mi,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum UpdateChoice {
    /// Along the gradient, by the Lipschitz constant of the block
    Gradient,
    /// Along the gradient, by the Lipschitz constant of all weights
    GradientGlobal,
    /// Along the gradient, with constants that are found
    Backtracking,
    /// By the bound of the second derivatives; exact for least squares
    Matrix,
    /// By the second derivatives, with a line search
    Newton,
    /// Newton where no bound is in the way
    TwoMetric,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("it must be a whole number from 1".into()),
    }
}

impl From<BlockDescentError> for Failure {
    fn from(error: BlockDescentError) -> Self {
        match error {
            BlockDescentError::Diverged => Self::run(error),
            other => Self::input(other),
        }
    }
}

impl Arguments {
    fn l2(&self) -> f64 {
        let other = self.l1.is_some()
            || self.group_l1.is_some()
            || self.non_negative
            || !self.bounds.is_empty();
        self.l2.unwrap_or(if other { 0.0 } else { 1.0 })
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
                    "the groups of --group-sizes have {sum} weights together, but it must be all \
                     {weights} of the model"
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
                    "--bounds has {} numbers, but it must have 2: the lower and the upper",
                    others.len()
                )));
            }
        })
    }

    /// How `weights` weights are found.
    fn config(&self, weights: usize, penalty: &Penalty) -> BlockCoordinateDescentConfig {
        let labels = self.loss == Loss::LabelPropagation;
        let rule = match (self.rule, penalty) {
            (Some(rule), _) => rule,
            (None, Penalty::None) if labels => Rule::Gsl,
            (None, Penalty::None) => Rule::Gsd,
            // What the other greedy rules have no form of groups for.
            (None, Penalty::GroupL1 { .. }) => Rule::Gsl,
            (None, _) => Rule::GsQ,
        };
        let greedy = !matches!(rule, Rule::Cyclic | Rule::Random | Rule::Lipschitz);
        let quadratic = matches!(self.loss, Loss::LeastSquares | Loss::LabelPropagation);
        let update = match (self.update, penalty) {
            (Some(update), _) => update,
            (None, Penalty::GroupL1 { .. }) => UpdateChoice::Gradient,
            (None, _) if quadratic => UpdateChoice::Matrix,
            (None, _) => UpdateChoice::Newton,
        };
        let update = match update {
            UpdateChoice::Gradient => Update::Gradient(StepSize::Block),
            UpdateChoice::GradientGlobal => Update::Gradient(StepSize::Global),
            UpdateChoice::Backtracking => Update::Backtracking,
            UpdateChoice::Matrix => Update::Matrix,
            UpdateChoice::Newton => Update::Newton,
            UpdateChoice::TwoMetric => Update::TwoMetric,
        };
        let size = self.block_size.unwrap_or(BLOCK_SIZE.min(weights));
        let partition = self.partition.unwrap_or(match greedy {
            true => PartitionChoice::Sort,
            false => PartitionChoice::Order,
        });
        let kind = self
            .blocks
            .unwrap_or(match (self.partition, self.block_size) {
                (Some(_), _) => BlocksChoice::Fixed,
                (None, None) if labels => BlocksChoice::Forest,
                // It tries all blocks of a partition.
                _ if rule == Rule::Mi => BlocksChoice::Fixed,
                _ => BlocksChoice::Variable,
            });
        let blocks = match (penalty, kind) {
            (Penalty::GroupL1 { groups, .. }, _) => {
                Blocks::Fixed(Partition::Explicit(groups.clone()))
            }
            (_, BlocksChoice::Variable) => Blocks::Variable { size },
            (_, BlocksChoice::Forest) => Blocks::Forest,
            (_, BlocksChoice::Fixed) => Blocks::Fixed(match partition {
                PartitionChoice::Order => Partition::Order { size },
                PartitionChoice::Random => Partition::Random { size },
                PartitionChoice::Sort => Partition::Sort { size },
                PartitionChoice::Average => Partition::Average { size },
                PartitionChoice::BoundSort => Partition::BoundSort { size },
                PartitionChoice::BoundAverage => Partition::BoundAverage { size },
                PartitionChoice::RedBlack => Partition::RedBlack(DealOrder::Lipschitz),
                PartitionChoice::Forests => Partition::Forests(DealOrder::Lipschitz),
            }),
        };
        let forests = matches!(
            blocks,
            Blocks::Forest | Blocks::Fixed(Partition::Forests(_))
        );
        let systems = matches!(update, Update::Matrix | Update::Newton);
        let solver = match forests && systems && *penalty == Penalty::None {
            true => BlockSolver::MessagePassing,
            false => BlockSolver::Dense,
        };
        BlockCoordinateDescentConfig::new()
            .with_blocks(blocks)
            .with_selection(match rule {
                Rule::Cyclic => Selection::Cyclic,
                Rule::Random => Selection::Random,
                Rule::Lipschitz => Selection::Lipschitz,
                Rule::Gs => Selection::GaussSouthwell,
                Rule::Gsl => Selection::GaussSouthwellLipschitz,
                Rule::Gsd => Selection::GaussSouthwellDiagonal(DiagonalBound::Coordinate),
                Rule::GsdRowSum => Selection::GaussSouthwellDiagonal(DiagonalBound::RowSum),
                Rule::Gsq => Selection::GaussSouthwellQuadratic,
                Rule::Omp => Selection::OrthogonalMatchingPursuit,
                Rule::GsR => Selection::ProximalLength,
                Rule::GsQ => Selection::ProximalDecrease,
                Rule::Mi => Selection::MaximumImprovement,
            })
            .with_update(update)
            .with_solver(solver)
            .with_tolerance(self.tolerance)
            .with_max_iterations(self.max_iterations)
            .with_seed(self.seed)
            // The observer keeps them.
            .with_trace_every(0)
    }
}

/// What is kept of a step.
struct Step {
    iteration: usize,
    epochs: f64,
    objective: f64,
    residual: Option<f64>,
    free: usize,
}

/// One problem, solved.
struct Descent {
    /// What tells it from others of the same call.
    name: String,
    solution: BlockDescentSolution,
    steps: Vec<Step>,
}

fn descend<P: SmoothProblem>(
    config: &BlockCoordinateDescentConfig,
    problem: &P,
    penalty: &Penalty,
    name: String,
    progress: &Progress,
) -> Result<Descent, Failure> {
    let stage = format!("descending: {name}");
    let mut approach = Approach::new(progress, &stage, config.max_iterations, config.tolerance);
    let mut first = None;
    let mut steps = Steps::new();
    let solution = config.solve(problem, penalty, None, &mut |step| {
        // The descent begins where the residual is relative to.
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
        ControlFlow::Continue(())
    })?;
    Ok(Descent {
        name,
        solution,
        steps: steps.finish(),
    })
}

/// What came out, for the model file and `--json`.
#[derive(Serialize)]
struct Solved {
    loss: &'static str,
    l2: f64,
    penalty: &'static str,
    examples: usize,
    features: usize,
    unknowns: usize,
    converged: bool,
    iterations: usize,
    epochs: f64,
    objective: f64,
    certificate: Certificate,
    /// Weights that lie on no kink and no bound of the penalty.
    free: usize,
    /// The step after which these were the same.
    active_set_since: usize,
    seconds: f64,
    training: Option<Measured>,
    /// Of label propagation, on the examples whose labels were held back.
    test: Option<Measured>,
}

/// How far from the minimum the result can be. Of several problems that are solved one by one, the
/// worst residual and the sum of the gaps.
#[derive(Clone, Copy, Serialize)]
struct Certificate {
    /// The largest entry of the gradient or of what it is to a penalty.
    residual: f64,
    relative_residual: f64,
    /// The objective less a lower bound of the minimum.
    duality_gap: Option<f64>,
}

impl Certificate {
    fn of(descents: &[Descent]) -> Self {
        let all = || descents.iter().map(|d| &d.solution.certificate);
        Self {
            residual: all().map(|c| c.residual).fold(0.0, f64::max),
            relative_residual: all().map(|c| c.relative_residual).fold(0.0, f64::max),
            // Rounding alone makes a gap negative.
            duality_gap: all().map(|c| c.duality_gap.map(|gap| gap.max(0.0))).sum(),
        }
    }

    fn told(&self, penalty: &Penalty) -> String {
        let what = match penalty {
            Penalty::None => "gradient",
            _ => "proximal gradient",
        };
        let gap = match self.duality_gap {
            Some(gap) => format!("the minimum is at most {gap:.2e} lower (duality gap); "),
            None => String::new(),
        };
        format!(
            "certificate: {gap}largest entry of the {what} {:.2e}, {:.2e} of that at 0\n",
            self.residual, self.relative_residual
        )
    }
}

fn loss_name(loss: Loss) -> &'static str {
    match loss {
        Loss::LeastSquares => "least squares",
        Loss::Logistic => "logistic regression",
        Loss::Softmax => "softmax regression",
        Loss::LabelPropagation => "label propagation",
    }
}

fn penalty_name(penalty: &Penalty) -> &'static str {
    match penalty {
        Penalty::None => "none",
        Penalty::L1(_) => "l1",
        Penalty::NonNegative => "non-negative",
        Penalty::NonNegativeL1(_) => "non-negative l1",
        Penalty::Box { .. } => "bounds",
        Penalty::GroupL1 { .. } => "group l1",
    }
}

/// Does it.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    arguments.output.check(&arguments.data)?;
    match arguments.loss {
        Loss::LabelPropagation => propagate(arguments),
        _ => fit(arguments),
    }
}

/// The flags that only label propagation has, and those that it does not have.
fn refuse(flags: &[(bool, &str)], why: &str) -> Result<(), Failure> {
    match flags.iter().find(|(given, _)| *given) {
        Some((_, flag)) => Err(Failure::input(format!("{flag} {why}"))),
        None => Ok(()),
    }
}

fn fit(arguments: &Arguments) -> Result<(), Failure> {
    refuse(
        &[
            (arguments.unknown.is_some(), "--unknown"),
            (arguments.known.is_some(), "--known"),
        ],
        "is for --loss label-propagation",
    )?;
    if arguments.loss != Loss::Logistic {
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
    if arguments.loss == Loss::Logistic {
        inputs = two_classes(inputs, arguments.positive)?;
    }
    if arguments.bias {
        inputs = inputs.with_bias();
    }
    let l2 = arguments.l2();
    let progress = Progress::new();
    let solve = |outputs: usize| -> Result<(Penalty, BlockCoordinateDescentConfig), Failure> {
        let weights = inputs.features().saturating_mul(outputs);
        check_weights(weights)?;
        let penalty = arguments.penalty(weights, outputs)?;
        let config = arguments.config(weights, &penalty);
        Ok((penalty, config))
    };
    let name = loss_name(arguments.loss).to_owned();
    let (task, outputs, penalty, config, descent) = match arguments.loss {
        Loss::Softmax => {
            let problem = LinearModel::softmax(&inputs, l2)?;
            let classes = problem.loss().labels().to_vec();
            let (penalty, config) = solve(classes.len())?;
            let descent = descend(&config, &problem, &penalty, name, &progress)?;
            (
                Task::Classes(classes.clone()),
                classes.len(),
                penalty,
                config,
                descent,
            )
        }
        Loss::Logistic => {
            let problem = LinearModel::logistic(&inputs, l2)?;
            let (penalty, config) = solve(1)?;
            let descent = descend(&config, &problem, &penalty, name, &progress)?;
            (Task::TwoClasses, 1, penalty, config, descent)
        }
        Loss::LeastSquares | Loss::LabelPropagation => {
            let problem = LinearModel::least_squares(&inputs, l2)?;
            let (penalty, config) = solve(1)?;
            let descent = descend(&config, &problem, &penalty, name, &progress)?;
            (Task::Regression, 1, penalty, config, descent)
        }
    };
    progress.finish();
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
        loss: loss_name(arguments.loss),
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
    finish(arguments, &mut model, &solved, &penalty, vec![descent])
}

/// What the method was told, for the model file.
fn configuration(
    config: &BlockCoordinateDescentConfig,
    l2: f64,
    penalty: &Penalty,
) -> Result<Value, Failure> {
    let descent = serde_json::to_value(config).map_err(Failure::run)?;
    Ok(json!({ "l2": l2, "penalty": penalty, "descent": descent }))
}

/// Writes and tells what came out.
fn finish(
    arguments: &Arguments,
    model: &mut Model,
    solved: &Solved,
    penalty: &Penalty,
    descents: Vec<Descent>,
) -> Result<(), Failure> {
    let title = format!("{} on {}", solved.loss, arguments.data.title());
    arguments.output.finish(
        &arguments.data,
        model,
        solved,
        || csv(&descents),
        || plot(title, &descents),
        || told(arguments.loss, solved, penalty),
    )
}

fn told(loss: Loss, solved: &Solved, penalty: &Penalty) -> String {
    let (penalties, unknowns) = match loss {
        Loss::LabelPropagation => (String::new(), "labels to find"),
        _ => (
            format!(", l2 {}, penalty {}", solved.l2, solved.penalty),
            "weights",
        ),
    };
    let mut text = format!(
        "{}{penalties}: {} examples of {} features, {} {unknowns}\n\
         objective {:.10} after {} steps ({:.1} rounds) in {}; {}\n",
        solved.loss,
        solved.examples,
        solved.features,
        solved.unknowns,
        solved.objective,
        solved.iterations,
        solved.epochs,
        duration(solved.seconds),
        match solved.converged {
            true => "the tolerance was reached",
            false => "the tolerance was NOT reached",
        }
    );
    text += &solved.certificate.told(penalty);
    if *penalty != Penalty::None {
        text += &format!(
            "{} of {} weights are off the kinks and bounds of the penalty, the same ones since step {}\n",
            solved.free, solved.unknowns, solved.active_set_since
        );
    }
    if let Some(measured) = &solved.training {
        text += &measured.told("training");
    }
    if let Some(measured) = &solved.test {
        text += &measured.told("test");
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

/// The distance of the objective from what is known of the minimum, and the residual.
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
            // Nothing left has no logarithm.
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

fn propagate(arguments: &Arguments) -> Result<(), Failure> {
    let penalised = arguments.l2.is_some()
        || arguments.l1.is_some()
        || arguments.group_l1.is_some()
        || arguments.non_negative
        || !arguments.bounds.is_empty();
    refuse(
        &[
            (arguments.bias, "--bias"),
            (arguments.positive.is_some(), "--positive"),
            (penalised, "a penalty"),
            (arguments.data.test.is_some(), "--test"),
        ],
        "is not for --loss label-propagation, which has no weights of features",
    )?;
    let begun = Instant::now();
    let Examples {
        rows, index_base, ..
    } = arguments.data.read()?;
    let known = match (arguments.unknown, arguments.known) {
        (Some(unknown), _) => rows.labels().iter().map(|&y| y != unknown).collect(),
        (None, Some(count)) => drawn(rows.labels(), count, arguments.seed)?,
        (None, None) => {
            return Err(Failure::input(
                "label propagation needs --unknown LABEL, the label that stands for none, or \
                 --known N, how many labels to use",
            ));
        }
    };
    let mut classes: Vec<f64> = labels_where(&rows, &known, true);
    classes.sort_by(f64::total_cmp);
    classes.dedup();
    if classes.len() < 2 {
        return Err(Failure::input(format!(
            "label propagation needs known labels of at least 2 classes, but there are {}",
            classes.len()
        )));
    }
    let edges = nearest_neighbour_edges(&rows, arguments.neighbours)?;
    let progress = Progress::new();
    // Two classes are one problem, of −1 and 1; more are one each, of 0 and 1.
    let solved = match classes.len() {
        2 => &classes[1..],
        _ => &classes[..],
    };
    let mut descents = Vec::new();
    let mut scores = Vec::new();
    let mut config = BlockCoordinateDescentConfig::new();
    for &class in solved {
        let other = if classes.len() == 2 { -1.0 } else { 0.0 };
        let value = |y: f64| if y == class { 1.0 } else { other };
        let labels = rows.labels().iter().zip(&known);
        let labels: Vec<Option<f64>> = labels.map(|(&y, k)| k.then(|| value(y))).collect();
        let graph = LabelPropagation::new(&edges, &labels).map_err(|error| match error {
            BlockDescentError::Unreachable(node) => Failure::input(format!(
                "example {} is linked, however indirectly, to none whose label is known: take more \
                 --neighbours",
                node + 1
            )),
            other => other.into(),
        })?;
        config = arguments.config(graph.nodes().len(), &Penalty::None);
        let name = format!("label {class}");
        let descent = descend(&config, graph.quadratic(), &Penalty::None, name, &progress)?;
        scores.push(graph.labels(&descent.solution.x)?);
        descents.push(descent);
    }
    progress.finish();
    let label = |i: usize| match &scores[..] {
        [score] if score[i] > 0.0 => classes[1],
        [_] => classes[0],
        scores => {
            let mut best = 0;
            for (class, score) in scores.iter().enumerate() {
                if score[i] > scores[best][i] {
                    best = class;
                }
            }
            classes[best]
        }
    };
    let labels: Vec<f64> = (0..rows.len()).map(label).collect();
    let found = known.iter().zip(&labels).filter(|(k, _)| !**k);
    let found: Vec<f64> = found.map(|(_, &y)| y).collect();
    let solutions = || descents.iter().map(|d| &d.solution);
    let mut configuration = configuration(&config, 0.0, &Penalty::None)?;
    configuration["neighbours"] = arguments.neighbours.into();
    configuration["known"] = known.iter().filter(|k| **k).count().into();
    let mut model = Model {
        nabla: env!("CARGO_PKG_VERSION").to_owned(),
        method: "bcd".to_owned(),
        features: rows.features(),
        index_base,
        bias: false,
        positive: None,
        task: Task::Classes(classes.clone()),
        configuration,
        result: Value::Null,
        predictor: Predictor::Labels(labels),
    };
    // Labels that the file marks as unknown are no truth.
    let truth = arguments.unknown.is_none();
    let solved = Solved {
        loss: loss_name(arguments.loss),
        l2: 0.0,
        penalty: penalty_name(&Penalty::None),
        examples: rows.len(),
        features: rows.features(),
        unknowns: found.len(),
        converged: solutions().all(|s| s.converged),
        iterations: solutions().map(|s| s.iterations).sum(),
        epochs: solutions().map(|s| s.epochs).sum(),
        objective: solutions().map(|s| s.objective).sum(),
        certificate: Certificate::of(&descents),
        free: found.len(),
        active_set_since: 0,
        seconds: begun.elapsed().as_secs_f64(),
        training: None,
        test: truth.then(|| model.measure(&found, &labels_where(&rows, &known, false))),
    };
    finish(arguments, &mut model, &solved, &Penalty::None, descents)
}

/// The labels of the examples that are known, or of those that are not.
fn labels_where(rows: &LabelledRows, known: &[bool], wanted: bool) -> Vec<f64> {
    let labels = rows.labels().iter().zip(known);
    let kept = labels.filter(|(_, known)| **known == wanted);
    kept.map(|(&y, _)| y).collect()
}

/// Which labels are used: one of every class at least, drawn.
fn drawn(labels: &[f64], count: usize, seed: u64) -> Result<Vec<bool>, Failure> {
    let noise = SeededNoise::new(seed, 0).normal_values(labels.len());
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by(|&a, &b| noise[a].total_cmp(&noise[b]));
    let mut met: Vec<f64> = Vec::new();
    // The first of every class, then the others.
    let (first, others): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&i| {
        let new = !met.contains(&labels[i]);
        if new {
            met.push(labels[i]);
        }
        new
    });
    if count < first.len() || count >= labels.len() {
        return Err(Failure::input(format!(
            "{count} labels were to be known, but it must be at least {}, the number of different \
             labels, and less than {}, that of the examples",
            first.len(),
            labels.len()
        )));
    }
    let mut known = vec![false; labels.len()];
    for i in first.into_iter().chain(others).take(count) {
        known[i] = true;
    }
    Ok(known)
}
