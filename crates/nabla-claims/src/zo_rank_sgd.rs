//! ZO-RankSGD, which sees only orders, against methods that see values, pairs or orders.
//!
//! Each method gets the same number of queries, which are evaluations of the function, from the same
//! starts. Each has one scale to choose (the step size; the first radius; the first deviation), and
//! chooses it from as many settings, a factor of `√10` apart, by the mean logarithm of the value
//! where its runs end, on seeds and data that are not those reported. All else is fixed: the
//! perturbation μ, and the line search, which tries steps of η, η/10, η/100 and η/1000.
//!
//! The functions are the paper's, in 100 dimensions from `N(0, I)`. With noise, the values that are
//! put in order, or that ZO-SGD sees, have it added anew in every query; what is reported is without.
//! The job is a linear classifier of handwritten digits (4 x 4 pixels) whose parameters are tuned by
//! nothing but which of a few of them is preferred: a judge who looks at what each does with the
//! same pictures, and says no number.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData, activation::log_softmax};
use nabla_data::LabelledPictures;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_solve::cma_es::CmaEs;
use nabla_solve::gld::{GradientlessDescent, Radii};
use nabla_solve::ranking_oracle::{
    FunctionOracle, ModuleOracle, NoisyFunctionOracle, Ranking, RankingOracle, RankingQuestion,
    ValueNoise,
};
use nabla_solve::scobo::{Scobo, ScoboConfig};
use nabla_solve::zeroth_order::{LineSearch, RunError, ZerothOrderError};
use nabla_solve::zo_rank_sgd::{ZoRankSgd, ZoRankSgdConfig};
use nabla_solve::zo_sgd::{ZoSgd, ZoSgdConfig};
use rand::RngExt;

use crate::claim::{Claim, ClaimContext, ClaimError, Paper};
use crate::measurement::{Check, Measurement, Metric, Table, TableError, Variant};
use crate::plot::{LinePlot, Series};

const RANKS: &str = "ZO-RankSGD, line search";
const RANKS_PLAIN: &str = "ZO-RankSGD, no line search";
const RANKS_BEST: &str = "ZO-RankSGD, (10, 1)";
const MANY_BEST: &str = "ZO-RankSGD, (50, 1)";
const MANY_TEN: &str = "ZO-RankSGD, (50, 10)";
const MANY_ALL: &str = "ZO-RankSGD, (50, 50)";
const VALUES: &str = "ZO-SGD (values), line search";
const VALUES_PLAIN: &str = "ZO-SGD (values), no line search";
const PAIRS: &str = "SCOBO, line search";
const JUMPS: &str = "GLD-Fast";
const EVOLUTION: &str = "CMA-ES";

const VALUE: &str = "log10 of the value";
const ACCURACY: &str = "held-out accuracy";

/// By how much the logarithm of ZO-RankSGD's value may be above ZO-SGD's: a factor of 10.
const WITHIN: f64 = 1.0;

const DIMENSION: usize = 100;
/// Pixels of a side of the digits.
const SIDE: usize = 4;
const CLASSES: usize = 10;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct ZoRankSgdClaim;

impl Claim for ZoRankSgdClaim {
    fn slug(&self) -> &str {
        "zo-ranksgd"
    }

    fn paper(&self) -> Paper {
        Paper::new(
            "Zeroth-Order Optimization Meets Human Feedback: Provable Learning via Ranking Oracles",
            "Tang, Rybin, Chang",
            2023,
            "2303.03751",
        )
    }

    fn statement(&self) -> &str {
        "A descent direction from the order of a few perturbed points is enough to minimise a function: \
         ZO-RankSGD with a ranking oracle comes about as far as ZO-SGD with the function's values, and \
         further than methods that compare pairs (SCOBO) or jump at random (GLD-Fast); a line search \
         with the same oracle and longer orders (larger k) take it further."
    }

    fn criterion(&self) -> &str {
        "Mean over the seeds of the logarithm of the value after the same number of queries, on the \
         quadratic, Rosenbrock's function and a classifier's loss: ZO-RankSGD with line search, \
         (m, k) = (10, 10), is at most 10 times above ZO-SGD that sees values, with line search, and \
         below SCOBO and GLD-Fast; it is below ZO-RankSGD without line search; at m = 50, k = 50 is \
         below k = 10, and k = 10 below k = 1. With noise that is put on the quadratic before points are \
         put in order, it is below SCOBO and GLD-Fast too. CMA-ES, what a user would take instead, \
         stands beside and is not judged."
    }

    fn run(&self, context: &ClaimContext<'_>) -> Result<Measurement, ClaimError> {
        let size = if context.quick {
            Size::quick()
        } else {
            Size::full()
        };
        let digits = nabla_data::digits().map_err(ClaimError::experiment)?;
        let tasks = tasks(&size);
        let mut table = Table::new(
            &context.seeds,
            [Metric::lower(VALUE, ""), Metric::higher(ACCURACY, "%")],
            [
                Variant::method(RANKS),
                Variant::ablation(RANKS_PLAIN),
                Variant::ablation(RANKS_BEST),
                Variant::ablation(MANY_ALL),
                Variant::ablation(MANY_TEN),
                Variant::ablation(MANY_BEST),
                Variant::baseline(VALUES),
                Variant::baseline(VALUES_PLAIN),
                Variant::baseline(PAIRS),
                Variant::baseline(JUMPS),
                Variant::baseline(EVOLUTION),
            ],
            tasks.iter().map(|task| task.name),
        )?;
        let cells: Vec<(&Task, &Contender)> = tasks
            .iter()
            .flat_map(|task| task.contenders().map(move |contender| (task, contender)))
            .collect();
        context.progress.begin("ZO-RankSGD", cells.len() as u64);
        let work = |&(task, contender): &(&Task, &Contender)| {
            let outcome = Outcome::of(context, &size, &digits, task, contender);
            context.progress.advance(1);
            outcome
        };
        let outcomes = side_by_side(&cells, &work)?;
        let mut edges = Vec::new();
        for ((task, contender), outcome) in cells.iter().zip(&outcomes) {
            for (&seed, run) in context.seeds.iter().zip(&outcome.runs) {
                table.record(task.name, contender.name, VALUE, seed, run.value.log10())?;
                if let Some(accuracy) = run.accuracy {
                    table.record(task.name, contender.name, ACCURACY, seed, 100.0 * accuracy)?;
                }
            }
            let line = format!(
                "{}, {}: scale {:.3e} of {} settings",
                task.name,
                contender.name,
                outcome.scale,
                size.settings.len()
            );
            context.progress.note(&line);
            if outcome.edge {
                edges.push(format!("{} ({})", contender.name, task.name));
            }
        }
        let checks = checks(&table)?;
        let mut measurement = Measurement::new(table, checks).with_note(format!(
            "{} queries for each run ({} for the classifier's {} parameters). Each method's scale is the \
             best of {} settings on {} other seeds. The value of the classifier is its cross-entropy on \
             the {} pictures that the judge looks at; a classifier that guesses has log10 = {:.3}.",
            size.queries,
            size.job_queries,
            (SIDE * SIDE + 1) * CLASSES,
            size.settings.len(),
            size.tuning,
            size.pictures,
            (CLASSES as f64).ln().log10(),
        ));
        measurement = measurement.with_note(if edges.is_empty() {
            "No method's best setting is the smallest or largest that it was given.".to_owned()
        } else {
            format!(
                "The best setting is the smallest or largest that was given for: {}.",
                edges.join(", ")
            )
        });
        for task in &tasks {
            let title = format!("{} (first seed)", task.name);
            let plot = LinePlot::new(title, "queries", "value, without noise").log_y();
            let plot = cells
                .iter()
                .zip(&outcomes)
                .filter(|((t, _), _)| t.name == task.name)
                .fold(plot, |plot, ((_, contender), outcome)| {
                    match outcome.runs.first() {
                        Some(run) if contender.shown => {
                            plot.with_series(Series::new(contender.name, run.curve.clone()))
                        }
                        _ => plot,
                    }
                });
            measurement = measurement.with_plot(plot);
        }
        Ok(measurement)
    }
}

/// How large the experiment is.
struct Size {
    queries: u64,
    job_queries: u64,
    /// Factors of a method's scale.
    settings: Vec<f64>,
    /// Seeds to choose among them.
    tuning: u64,
    /// Pictures that a classifier is judged by, and as many held out.
    pictures: usize,
}

impl Size {
    fn full() -> Self {
        Self {
            queries: 6000,
            job_queries: 3000,
            settings: (-4..=4).map(|i| 10_f64.powf(0.5 * f64::from(i))).collect(),
            tuning: 2,
            pictures: 300,
        }
    }

    fn quick() -> Self {
        Self {
            queries: 400,
            job_queries: 200,
            settings: vec![1.0],
            tuning: 1,
            pictures: 40,
        }
    }
}

/// How a step is found.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Ranks { m: usize, k: usize, search: bool },
    Values { search: bool },
    Pairs,
    Jumps,
    Evolution,
}

/// A method with the middle of its settings.
struct Contender {
    name: &'static str,
    method: Method,
    middle: f64,
    /// Whether its curve is plotted.
    shown: bool,
    /// Whether it also runs with noise.
    noisy: bool,
}

const fn ranks(name: &'static str, m: usize, k: usize, search: bool) -> Contender {
    Contender {
        name,
        method: Method::Ranks { m, k, search },
        middle: if search { 1.0 } else { 0.03 },
        shown: m == 10 && k == 10,
        noisy: m == 10 && k == 10,
    }
}

const fn other(name: &'static str, method: Method, middle: f64) -> Contender {
    let shown = !matches!(method, Method::Values { search: false });
    Contender {
        name,
        method,
        middle,
        shown,
        noisy: true,
    }
}

/// All of them. The middles are where a step is about as long as what there is to go, from the length
/// of each method's direction.
const CONTENDERS: [Contender; 11] = [
    ranks(RANKS, 10, 10, true),
    ranks(RANKS_PLAIN, 10, 10, false),
    ranks(RANKS_BEST, 10, 1, true),
    ranks(MANY_ALL, 50, 50, true),
    ranks(MANY_TEN, 50, 10, true),
    ranks(MANY_BEST, 50, 1, true),
    other(VALUES, Method::Values { search: true }, 0.1),
    other(VALUES_PLAIN, Method::Values { search: false }, 0.001),
    other(PAIRS, Method::Pairs, 3.0),
    other(JUMPS, Method::Jumps, 1.0),
    other(EVOLUTION, Method::Evolution, 0.5),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Objective {
    Quadratic,
    Rosenbrock,
    Classifier,
}

/// A group of the table.
struct Task {
    name: &'static str,
    objective: Objective,
    noise: Option<ValueNoise>,
    queries: u64,
    /// μ, and SCOBO's radius on the scale of Gaussian perturbations.
    smoothing: f64,
}

const QUADRATIC: &str = "quadratic";
const ROSENBROCK: &str = "Rosenbrock";
const CLASSIFIER: &str = "digit classifier by preference";
const GAUSSIAN: &str = "quadratic, Gaussian noise of 1";
const GUMBEL: &str = "quadratic, Plackett-Luce judge";

fn tasks(size: &Size) -> Vec<Task> {
    let task = |name, objective, noise| Task {
        name,
        objective,
        noise,
        queries: if objective == Objective::Classifier {
            size.job_queries
        } else {
            size.queries
        },
        // Noise drowns the difference of points that are near each other.
        smoothing: match (objective, noise) {
            (_, Some(_)) => 0.1,
            (Objective::Classifier, None) => 0.1,
            _ => 0.01,
        },
    };
    vec![
        task(QUADRATIC, Objective::Quadratic, None),
        task(ROSENBROCK, Objective::Rosenbrock, None),
        task(CLASSIFIER, Objective::Classifier, None),
        task(
            GAUSSIAN,
            Objective::Quadratic,
            Some(ValueNoise::Gaussian(1.0)),
        ),
        task(
            GUMBEL,
            Objective::Quadratic,
            Some(ValueNoise::PlackettLuce(1.0)),
        ),
    ]
}

impl Task {
    fn contenders(&self) -> impl Iterator<Item = &'static Contender> + use<> {
        let noisy = self.noise.is_some();
        CONTENDERS.iter().filter(move |c| c.noisy || !noisy)
    }
}

/// What a method does on a task.
struct Outcome {
    /// The chosen scale.
    scale: f64,
    /// Whether it is the first or the last of several settings.
    edge: bool,
    /// One for each reported seed.
    runs: Vec<Descent>,
}

impl Outcome {
    fn of(
        context: &ClaimContext<'_>,
        size: &Size,
        digits: &LabelledPictures,
        task: &Task,
        contender: &Contender,
    ) -> Result<Self, ClaimError> {
        let run = |seed: u64, scale: f64| {
            let problem = Problem::new(task.objective, seed, size, digits, &context.device)?;
            Descent::run(&problem, task, contender.method, scale, seed)
        };
        let scales: Vec<f64> = size.settings.iter().map(|s| s * contender.middle).collect();
        let mut best = (f64::INFINITY, 0);
        for (i, &scale) in scales.iter().enumerate() {
            let mut sum = 0.0;
            for seed in tuning_seeds(&context.seeds, size.tuning) {
                sum += run(seed, scale)?.value.log10();
            }
            if sum < best.0 {
                best = (sum, i);
            }
        }
        let scale = scales.get(best.1).copied().unwrap_or(contender.middle);
        let runs = context.seeds.iter().map(|&seed| run(seed, scale));
        Ok(Self {
            scale,
            edge: scales.len() > 1 && (best.1 == 0 || best.1 + 1 == scales.len()),
            runs: runs.collect::<Result<_, _>>()?,
        })
    }
}

/// The highest seeds that are not reported.
fn tuning_seeds(reported: &[u64], count: u64) -> impl Iterator<Item = u64> {
    let free = (0..u64::MAX).rev().filter(|seed| !reported.contains(seed));
    free.take(count as usize)
}

/// Something to be minimised.
enum Problem {
    Function {
        value: fn(&[f64]) -> f64,
        start: Vec<f64>,
    },
    Classifier(Box<Classifier>),
}

fn quadratic(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

fn rosenbrock(x: &[f64]) -> f64 {
    let term = |w: &[f64]| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2);
    x.windows(2).map(term).sum()
}

impl Problem {
    fn new(
        objective: Objective,
        seed: u64,
        size: &Size,
        digits: &LabelledPictures,
        device: &Device,
    ) -> Result<Self, ClaimError> {
        let function = |value| {
            let start = SeededNoise::new(seed, u64::MAX).normal_values(DIMENSION);
            Self::Function {
                value,
                start: start.into_iter().map(f64::from).collect(),
            }
        };
        Ok(match objective {
            Objective::Quadratic => function(quadratic),
            Objective::Rosenbrock => function(rosenbrock),
            Objective::Classifier => Self::Classifier(Box::new(Classifier::new(
                seed,
                size.pictures,
                digits,
                device,
            ))),
        })
    }

    fn start(&self) -> Vec<f64> {
        match self {
            Self::Function { start, .. } => start.clone(),
            // A classifier that guesses.
            Self::Classifier(_) => vec![0.0; (SIDE * SIDE + 1) * CLASSES],
        }
    }

    /// Who sees the values and tells only the order.
    fn judge(
        &self,
        noise: Option<ValueNoise>,
        seed: u64,
    ) -> Result<Box<dyn RankingOracle<Error = ClaimError> + '_>, ClaimError> {
        Ok(match (self, noise) {
            (Self::Function { value, .. }, None) => Box::new(Judge(FunctionOracle::new(value))),
            (Self::Function { value, .. }, Some(noise)) => {
                let oracle = NoisyFunctionOracle::new(value, noise, seed);
                Box::new(Judge(oracle.map_err(ClaimError::experiment)?))
            }
            (Self::Classifier(classifier), _) => Box::new(Judge(classifier.oracle()?)),
        })
    }
}

/// Any oracle, its error as that of an experiment.
struct Judge<O>(O);

impl<O> RankingOracle for Judge<O>
where
    O: RankingOracle,
    O::Error: Send + Sync + 'static,
{
    type Error = ClaimError;

    fn rank(&mut self, question: &RankingQuestion) -> Result<Ranking, ClaimError> {
        self.0.rank(question).map_err(ClaimError::experiment)
    }
}

/// A linear classifier and its pictures.
struct Classifier {
    module: Linear,
    /// Those that the judge looks at, `[pictures, SIDE²]`, and their classes.
    seen: (Tensor<2>, Vec<u8>),
    /// The others.
    held_out: (Tensor<2>, Vec<u8>),
    /// 1 for the class of a picture that is looked at, `[pictures, CLASSES]`.
    wanted: Tensor<2>,
}

impl Classifier {
    fn new(seed: u64, pictures: usize, digits: &LabelledPictures, device: &Device) -> Self {
        let mut noise = SeededNoise::new(seed, u64::MAX - 1);
        let mut order: Vec<usize> = (0..digits.len()).collect();
        for i in 0..order.len() {
            let j = noise.random_range(i..order.len());
            order.swap(i, j);
        }
        let batch = |which: &[usize]| {
            let pixels: Vec<f32> = which.iter().flat_map(|&i| small(digits, i)).collect();
            let labels = which
                .iter()
                .map(|&i| digits.labels()[i])
                .collect::<Vec<_>>();
            let data = TensorData::new(pixels, [which.len(), SIDE * SIDE]);
            (Tensor::from_data(data, device), labels)
        };
        let (seen, rest) = order.split_at(pictures.min(order.len()));
        let (seen, held_out) = (batch(seen), batch(&rest[..(2 * pictures).min(rest.len())]));
        let one_hot: Vec<f32> = seen
            .1
            .iter()
            .flat_map(|&label| {
                (0..CLASSES).map(move |c| f32::from(u8::from(c == usize::from(label))))
            })
            .collect();
        let wanted = TensorData::new(one_hot, [seen.1.len(), CLASSES]);
        Self {
            module: LinearConfig::new(SIDE * SIDE, CLASSES).init(device),
            seen,
            held_out,
            wanted: Tensor::from_data(wanted, device),
        }
    }

    /// Orders parameters by the cross-entropy of what they make of the pictures.
    fn oracle(&self) -> Result<ModuleOracle<Linear, impl FnMut(&Linear) -> f64>, ClaimError> {
        ModuleOracle::new(self.module.clone(), |module: &Linear| self.loss(module))
            .map_err(ClaimError::experiment)
    }

    fn loss(&self, module: &Linear) -> f64 {
        let logits = module.forward(self.seen.0.clone());
        let chosen = log_softmax(logits, 1) * self.wanted.clone();
        -f64::from(chosen.sum().into_scalar::<f32>()) / self.seen.1.len() as f64
    }

    /// Share of the held-out pictures whose class has the highest output.
    fn accuracy(&self, module: &Linear) -> Result<f64, ClaimError> {
        let (pictures, labels) = &self.held_out;
        let logits = module.forward(pictures.clone());
        let logits: Vec<f32> = logits.try_into_vec_as().map_err(ClaimError::experiment)?;
        let right = |(row, label): &(&[f32], &u8)| {
            let own = row[usize::from(**label)];
            row.iter().filter(|output| **output >= own).count() == 1
        };
        let rows = logits.chunks_exact(CLASSES).zip(labels);
        Ok(rows.filter(right).count() as f64 / labels.len() as f64)
    }
}

/// The means of 2 x 2 pixels of a digit, in `[0, 1]`.
fn small(digits: &LabelledPictures, i: usize) -> Vec<f32> {
    let mut sums = vec![0.0; SIDE * SIDE];
    for (at, &pixel) in digits.pixels(i).iter().enumerate() {
        let (row, column) = (at / (2 * SIDE) / 2, at % (2 * SIDE) / 2);
        sums[row * SIDE + column] += f32::from(pixel) / (4.0 * f32::from(digits.white()));
    }
    sums
}

/// One run.
struct Descent {
    /// At the last point, without noise; infinite if the run has left the finite numbers.
    value: f64,
    accuracy: Option<f64>,
    /// Queries and the value without noise.
    curve: Vec<[f64; 2]>,
}

/// The line search that all methods with one share.
fn line_search() -> LineSearch {
    LineSearch::new().with_candidates(5).with_shrink(0.1)
}

impl Descent {
    fn run(
        problem: &Problem,
        task: &Task,
        method: Method,
        scale: f64,
        seed: u64,
    ) -> Result<Self, ClaimError> {
        let oracle = match problem {
            Problem::Classifier(classifier) => Some((classifier, classifier.oracle()?)),
            Problem::Function { .. } => None,
        };
        let value = |x: &[f64]| match (problem, &oracle) {
            (Problem::Function { value, .. }, _) => Ok(value(x)),
            (_, Some((classifier, oracle))) => {
                let module = oracle.module(x).map_err(ClaimError::experiment)?;
                Ok(classifier.loss(&module))
            }
            _ => Err(ClaimError::experiment("the problem has no value")),
        };
        let start = problem.start();
        let first = value(&start)?;
        let mut curve = vec![[0.0, first]];
        let every = task.queries as f64 / 100.0;
        let mut failed = None;
        let point;
        let mut seen = |queries: u64, x: &[f64]| {
            if queries as f64 >= curve[curve.len() - 1][0] + every {
                match value(x) {
                    Ok(value) => curve.push([queries as f64, value]),
                    Err(error) => failed = Some(error),
                }
            }
        };
        let mut judge = problem.judge(task.noise, seed)?;
        let (budget, mu) = (task.queries, task.smoothing);
        let bad = |error: ZerothOrderError| ClaimError::experiment(error);
        let ended: Result<(), RunError<ClaimError>> = match method {
            Method::Ranks { m, k, search } => {
                let config = ZoRankSgdConfig::new()
                    .with_candidates(m)
                    .with_best(Some(k))
                    .with_smoothing(mu)
                    .with_step_size(scale)
                    .with_line_search(search.then(line_search))
                    .with_seed(seed);
                let mut run = ZoRankSgd::new(config, start).map_err(bad)?;
                let ended = run.minimise(&mut *judge, budget, &mut |run, iteration| {
                    seen(iteration.queries, run.point());
                    ControlFlow::Continue(())
                });
                point = run.point().to_vec();
                ended
            }
            Method::Values { search } => {
                let config = ZoSgdConfig::new()
                    .with_smoothing(mu)
                    .with_step_size(scale)
                    .with_line_search(search.then(line_search))
                    .with_seed(seed);
                let mut run = ZoSgd::new(config, start).map_err(bad)?;
                let mut noise = Noise::new(task.noise, seed);
                let noisy = |x: &[f64]| value(x).map_or(f64::NAN, |v| v + noise.next());
                let ended = repeated(budget, &mut seen, noisy, |f| {
                    run.step(f)?;
                    Ok((run.queries(), run.point().to_vec()))
                });
                point = run.point().to_vec();
                ended
            }
            Method::Pairs => {
                let config = ScoboConfig::new()
                    // A perturbation of the same length: N(0, I) is about √d long.
                    .with_radius(mu * (start.len() as f64).sqrt())
                    .with_step_size(scale)
                    .with_line_search(Some(line_search()))
                    .with_seed(seed);
                let mut run = Scobo::new(config, start).map_err(bad)?;
                let ended = repeated(budget, &mut seen, judge, |judge| {
                    run.step(&mut **judge)?;
                    Ok((run.queries(), run.point().to_vec()))
                });
                point = run.point().to_vec();
                ended
            }
            Method::Jumps => {
                // A radius that fits is within 2⁻⁴ and 2⁴ of this one.
                let radii = Radii::Fast {
                    radius: scale,
                    condition: 10.0,
                };
                let mut run = GradientlessDescent::new(radii, start, seed).map_err(bad)?;
                let ended = repeated(budget, &mut seen, judge, |judge| {
                    run.step(&mut **judge)?;
                    Ok((run.queries(), run.point().to_vec()))
                });
                point = run.point().to_vec();
                ended
            }
            Method::Evolution => {
                let usual = 4 + (3.0 * (start.len() as f64).ln()) as usize;
                let mut run = CmaEs::new(start, scale, usual, seed).map_err(bad)?;
                let ended = repeated(budget, &mut seen, judge, |judge| {
                    run.step(&mut **judge)?;
                    Ok((run.queries(), run.point().to_vec()))
                });
                point = run.point().to_vec();
                ended
            }
        };
        if let Some(error) = failed {
            return Err(error);
        }
        let diverged = match ended {
            Ok(()) => false,
            Err(RunError::Run(ZerothOrderError::Diverged)) => true,
            Err(error) => return Err(ClaimError::experiment(error)),
        };
        let last = value(&point)?;
        let accuracy = match &oracle {
            Some((classifier, oracle)) => {
                let module = oracle.module(&point).map_err(ClaimError::experiment)?;
                Some(classifier.accuracy(&module)?)
            }
            None => None,
        };
        Ok(Self {
            value: if diverged || last.is_nan() {
                f64::INFINITY
            } else {
                last
            },
            accuracy,
            curve,
        })
    }
}

/// Steps with `means` for as long as one more is within the budget, if it takes as many queries as the
/// longest so far.
fn repeated<T>(
    budget: u64,
    seen: &mut dyn FnMut(u64, &[f64]),
    mut means: T,
    mut step: impl FnMut(&mut T) -> Result<(u64, Vec<f64>), RunError<ClaimError>>,
) -> Result<(), RunError<ClaimError>> {
    let (mut before, mut longest) = (0, 0);
    while before + longest <= budget {
        let (queries, point) = step(&mut means)?;
        longest = longest.max(queries - before);
        before = queries;
        seen(queries, &point);
    }
    Ok(())
}

/// What is added to the values that ZO-SGD sees.
struct Noise {
    noise: Option<ValueNoise>,
    draw: SeededNoise,
}

impl Noise {
    fn new(noise: Option<ValueNoise>, seed: u64) -> Self {
        Self {
            noise,
            draw: SeededNoise::new(seed, u64::MAX - 2),
        }
    }

    fn next(&mut self) -> f64 {
        match self.noise {
            None => 0.0,
            Some(ValueNoise::Gaussian(deviation)) => {
                deviation * f64::from(self.draw.normal_values(1)[0])
            }
            Some(ValueNoise::PlackettLuce(scale)) => {
                let uniform: f64 = self.draw.random();
                scale * (-uniform.max(f64::MIN_POSITIVE).ln()).ln()
            }
        }
    }
}

/// The results of `work` on all items, in their order, on as many threads as there are cores.
fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    work: &(impl Fn(&T) -> Result<R, ClaimError> + Sync),
) -> Result<Vec<R>, ClaimError> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Option<Result<R, ClaimError>>>> =
        Mutex::new(items.iter().map(|_| None).collect());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores.min(items.len()) {
            scope.spawn(|| {
                while let Some((i, item)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    items.get(i).map(|item| (i, item))
                } {
                    let result = work(item);
                    done.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(result);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let missing = || Err(ClaimError::experiment("the thread of a run stopped"));
    done.into_iter()
        .map(|result| result.unwrap_or_else(missing))
        .collect()
}

fn checks(table: &Table) -> Result<Vec<Check>, TableError> {
    let mut checks = Vec::new();
    for task in [QUADRATIC, ROSENBROCK, CLASSIFIER] {
        checks.push(within(table, task)?);
        for worse in [PAIRS, JUMPS, RANKS_PLAIN] {
            checks.push(table.compare(task, VALUE, RANKS, worse)?);
        }
        for (longer, shorter) in [(MANY_ALL, MANY_TEN), (MANY_TEN, MANY_BEST)] {
            checks.push(table.compare(task, VALUE, longer, shorter)?);
        }
    }
    for task in [GAUSSIAN, GUMBEL] {
        for worse in [PAIRS, JUMPS] {
            checks.push(table.compare(task, VALUE, RANKS, worse)?);
        }
    }
    Ok(checks)
}

/// That orders are enough: no more than [`WITHIN`] above what values reach.
fn within(table: &Table, task: &str) -> Result<Check, TableError> {
    let own = table.summary(task, RANKS, VALUE)?;
    let values = table.summary(task, VALUES, VALUE)?;
    Ok(Check::new(
        format!("{task}: {RANKS} ends at most 10 times above {VALUES}"),
        own.mean <= values.mean + WITHIN,
        format!("{own} against {values} ({VALUE})"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::NoProgress;
    use crate::runner::run_claim;

    #[test]
    fn the_quick_form_runs_whole() {
        let context = ClaimContext::quick(Device::flex(), &NoProgress);
        let result = run_claim(&ZoRankSgdClaim, &context).unwrap();
        assert!(result.quick);
        assert_eq!(result.checks.len(), 3 * 6 + 2 * 2);
        assert_eq!(result.plots.len(), 5);
        let size = Size::quick();
        for task in tasks(&size) {
            for contender in task.contenders() {
                let value = result
                    .measured
                    .mean(task.name, contender.name, VALUE)
                    .unwrap();
                assert!(
                    value.is_finite(),
                    "{} {}: {value}",
                    task.name,
                    contender.name
                );
            }
        }
        // Even 200 orders of ten teach the classifier something.
        let taught = result.measured.mean(CLASSIFIER, RANKS, VALUE).unwrap();
        assert!(taught < 10_f64.ln().log10(), "{taught}");
    }

    #[test]
    fn no_method_has_more_queries_than_another() {
        let size = Size::quick();
        let digits = nabla_data::digits().unwrap();
        let tasks = tasks(&size);
        let device = Device::flex();
        let problem = Problem::new(Objective::Quadratic, 5, &size, &digits, &device).unwrap();
        for contender in &CONTENDERS {
            let middle = contender.middle;
            let run = Descent::run(&problem, &tasks[0], contender.method, middle, 5).unwrap();
            let last = run.curve.last().unwrap()[0];
            assert!(last <= size.queries as f64, "{}: {last}", contender.name);
            // An iteration more would not have been within the budget.
            assert!(
                last > size.queries as f64 - 60.0,
                "{}: {last}",
                contender.name
            );
        }
    }

    #[test]
    fn settings_are_chosen_on_other_seeds() {
        let reported = [0, u64::MAX - 1, 7];
        let tuning: Vec<u64> = tuning_seeds(&reported, 3).collect();
        assert_eq!(tuning, [u64::MAX - 2, u64::MAX - 3, u64::MAX - 4]);
    }

    #[test]
    fn a_classifier_that_guesses_loses_the_logarithm_of_the_classes() {
        let digits = nabla_data::digits().unwrap();
        let device = Device::flex();
        let problem =
            Problem::new(Objective::Classifier, 0, &Size::quick(), &digits, &device).unwrap();
        let Problem::Classifier(classifier) = &problem else {
            panic!("the problem is a classifier");
        };
        let module = classifier
            .oracle()
            .unwrap()
            .module(&problem.start())
            .unwrap();
        assert!((classifier.loss(&module) - 10_f64.ln()).abs() < 1e-6);
        // Equal outputs name no class.
        assert_eq!(classifier.accuracy(&module).unwrap(), 0.0);
        // Means of pixels keep the brightness.
        let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
        let full: Vec<f32> = digits
            .pixels(9)
            .iter()
            .map(|p| f32::from(*p) / 16.0)
            .collect();
        assert!((mean(&small(&digits, 9)) - mean(&full)).abs() < 1e-6);
    }

    #[test]
    fn ten_times_above_is_within_and_more_is_not() {
        let check = |own: f64| {
            let mut table = Table::new(
                &[0],
                [Metric::lower(VALUE, "")],
                [RANKS, VALUES].map(Variant::method),
                [QUADRATIC],
            )
            .unwrap();
            table.record(QUADRATIC, RANKS, VALUE, 0, own).unwrap();
            table.record(QUADRATIC, VALUES, VALUE, 0, -2.0).unwrap();
            within(&table, QUADRATIC).unwrap().holds
        };
        assert!(check(-3.0) && check(-1.0) && !check(-0.99));
    }

    #[test]
    fn work_side_by_side_keeps_its_order_and_its_errors() {
        let items: Vec<u64> = (0..50).collect();
        let squares = side_by_side(&items, &|i| Ok(i * i)).unwrap();
        assert_eq!(squares, items.iter().map(|i| i * i).collect::<Vec<_>>());
        let error = side_by_side(&items, &|&i| match i {
            7 => Err(ClaimError::experiment("seven")),
            _ => Ok(i),
        });
        assert_eq!(error.err().map(|e| e.to_string()).as_deref(), Some("seven"));
    }
}
