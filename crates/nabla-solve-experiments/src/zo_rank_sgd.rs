//! ZO-RankSGD, which sees only rankings, against methods that see values, pairs or rankings.
//!
//! Each method gets the same number of queries, which are evaluations of the function, from the same starts.
//! Each has one scale to choose (the step size; the first radius; the first deviation), and chooses it from
//! the same number of settings, a factor of `√10` apart, by the mean logarithm of the value at the end of its
//! runs, on seeds and data other than those reported. All else is fixed: the perturbation μ, and the line
//! search, which tries steps of η, η/10, η/100 and η/1000.
//!
//! The functions are the paper's, in 100 dimensions from `N(0, I)`. With noise, new noise is added in every
//! query to the values that are ranked, or that ZO-SGD sees; the reported values are without noise. The norm of
//! the true gradient at the end of a run is reported as a share of its initial norm.
//!
//! The practical task is a linear classifier of handwritten digits (4 x 4 pixels) whose parameters are tuned only
//! by preferences among a few candidates, as if a judge compared their results on the same pictures and gave
//! no number.

use std::ops::ControlFlow;

use nabla_claims::{
    Bench, Cell, Claim, ClaimError, LinePlot, Measurement, Metric, Series, Stage, Table, Task,
    Variant,
};
use nabla_data::LabelledPictures;
use nabla_solve::cma_es::CmaEs;
use nabla_solve::gld::{GradientlessDescent, Radii};
use nabla_solve::ranking_oracle::ValueNoise;
use nabla_solve::scobo::{Scobo, ScoboConfig};
use nabla_solve::zeroth_order::{LineSearch, RunError, ZerothOrderError};
use nabla_solve::zo_rank_sgd::{ZoRankSgd, ZoRankSgdConfig};
use nabla_solve::zo_sgd::{ZoSgd, ZoSgdConfig};
use serde::{Deserialize, Serialize};

const RANKS: Variant = Variant::method("ZO-RankSGD, line search");
const RANKS_PLAIN: Variant = Variant::ablation("ZO-RankSGD, no line search");
const RANKS_BEST: Variant = Variant::ablation("ZO-RankSGD, (10, 1)");
const MANY_BEST: Variant = Variant::ablation("ZO-RankSGD, (50, 1)");
const MANY_TEN: Variant = Variant::ablation("ZO-RankSGD, (50, 10)");
const MANY_ALL: Variant = Variant::ablation("ZO-RankSGD, (50, 50)");
const VALUES: Variant = Variant::baseline("ZO-SGD (values), line search");
const VALUES_PLAIN: Variant = Variant::baseline("ZO-SGD (values), no line search");
const PAIRS: Variant = Variant::baseline("SCOBO, line search");
const JUMPS: Variant = Variant::baseline("GLD-Fast");
const EVOLUTION: Variant = Variant::baseline("CMA-ES");

const VALUE: Metric = Metric::lower("log10 of the value", "");
const SLOPE: Metric = Metric::lower("gradient norm, share of the first", "");
const ACCURACY: Metric = Metric::higher("held-out accuracy", "%");

mod checks;
mod problems;

use checks::{checks, evolution};
use problems::{Noise, Problem};

const DIMENSION: usize = 100;
/// The number of pixels per side of the digits.
const SIDE: usize = 4;
const CLASSES: usize = 10;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct ZoRankSgdClaim;

impl Claim for ZoRankSgdClaim {
    fn slug(&self) -> &str {
        "zo-ranksgd"
    }

    fn version(&self) -> u32 {
        2
    }

    fn statement(&self) -> &str {
        "A descent direction from the order of a few perturbed points is enough to optimise a function of \
         which only a ranking oracle tells: ZO-RankSGD converges to a stationary point. In detail: it \
         comes about as far as ZO-SGD with the function's values, and further than methods that compare \
         pairs (SCOBO) or jump at random (GLD-Fast); a line search with the same oracle and longer \
         orders (larger k) take it further."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds after the same number of queries, on the quadratic, Rosenbrock's function \
         and a classifier's loss: where ZO-RankSGD with line search, (m, k) = (10, 10), ends, the norm of \
         the true gradient is below half of that at the start. In detail: below a tenth. And by the \
         logarithm of the value: it is at most a factor of 2 above ZO-SGD that sees values, with line \
         search, and below SCOBO and GLD-Fast; it is below ZO-RankSGD without line search; at m = 50, \
         k = 50 is below k = 10, and k = 10 below k = 1. With noise that is put on the quadratic before \
         points are put in order, it is below SCOBO and GLD-Fast too. CMA-ES, what a user would take \
         instead, stands beside and is not judged."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let context = bench.context();
        let size = if bench.quick() {
            Size::quick()
        } else {
            Size::full()
        };
        let digits = nabla_data::digits().map_err(ClaimError::experiment)?;
        let problems = problems(&size);
        let mut table = Table::new(
            bench.seeds(),
            [VALUE, SLOPE, ACCURACY],
            [
                RANKS,
                RANKS_PLAIN,
                RANKS_BEST,
                MANY_ALL,
                MANY_TEN,
                MANY_BEST,
                VALUES,
                VALUES_PLAIN,
                PAIRS,
                JUMPS,
                EVOLUTION,
            ],
            problems.iter().map(|setting| setting.task.clone()),
        )?;
        let points: Vec<(&Setting, &Contender)> = problems
            .iter()
            .flat_map(|setting| setting.contenders().map(move |c| (setting, c)))
            .collect();
        let outcomes = bench.measure_side_by_side(
            &Stage::new("ZO-RankSGD", &size),
            &points,
            |(setting, contender)| Cell::of(&setting.task).variant(&contender.variant),
            |(setting, contender)| Outcome::of(bench, &size, &digits, setting, contender),
        )?;
        let mut edges = Vec::new();
        for ((setting, contender), outcome) in points.iter().zip(&outcomes) {
            let (task, variant) = (&setting.task, &contender.variant);
            for (&seed, run) in bench.seeds().iter().zip(&outcome.runs) {
                table.record(task, variant, &VALUE, seed, run.value.log10())?;
                table.record(task, variant, &SLOPE, seed, run.slope)?;
                if let Some(accuracy) = run.accuracy {
                    table.record(task, variant, &ACCURACY, seed, 100.0 * accuracy)?;
                }
            }
            let line = format!(
                "{task}, {variant}: scale {:.3e} of {} settings",
                outcome.scale,
                size.settings.len()
            );
            context.progress.note(&line);
            if outcome.edge {
                edges.push(format!("{variant} ({task})"));
            }
        }
        let checks = checks(&table)?;
        let evolution = evolution(&table)?;
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
        measurement = measurement.with_note(evolution).with_note(
            "Not measured: policies of reinforcement learning, and pictures that people put in order.",
        );
        for setting in &problems {
            let title = format!("{} (first seed)", setting.task);
            let plot = LinePlot::new(title, "queries", "value, without noise").log_y();
            let plot = points
                .iter()
                .zip(&outcomes)
                .filter(|((other, _), _)| other.task == setting.task)
                .fold(plot, |plot, ((_, contender), outcome)| {
                    match outcome.runs.first() {
                        Some(run) if contender.shown => {
                            let name = contender.variant.name();
                            plot.with_series(Series::new(name, run.curve.clone()))
                        }
                        _ => plot,
                    }
                });
            measurement = measurement.with_plot(plot);
        }
        Ok(measurement)
    }
}

/// The size of the experiment.
#[derive(Debug)]
struct Size {
    queries: u64,
    job_queries: u64,
    /// The factors by which a method's scale is varied.
    settings: Vec<f64>,
    /// The seeds for choosing among them.
    tuning: u64,
    /// The number of pictures by which a classifier is judged; the same number is held out.
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

/// The way in which a step is found.
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
    variant: Variant,
    method: Method,
    middle: f64,
    /// Whether its curve is plotted.
    shown: bool,
    /// Whether it also runs with noise.
    noisy: bool,
}

const fn ranks(variant: Variant, m: usize, k: usize, search: bool) -> Contender {
    Contender {
        variant,
        method: Method::Ranks { m, k, search },
        middle: if search { 1.0 } else { 0.03 },
        shown: m == 10 && k == 10,
        noisy: m == 10 && k == 10,
    }
}

const fn other(variant: Variant, method: Method, middle: f64) -> Contender {
    let shown = !matches!(method, Method::Values { search: false });
    Contender {
        variant,
        method,
        middle,
        shown,
        noisy: true,
    }
}

/// All methods. At the middle setting, a step is about as long as the distance to the minimum, given the
/// length of each method's direction.
static CONTENDERS: [Contender; 11] = [
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

/// A task of the table with its problem.
struct Setting {
    task: Task,
    objective: Objective,
    noise: Option<ValueNoise>,
    queries: u64,
    /// μ, and SCOBO's radius on the scale of Gaussian perturbations.
    smoothing: f64,
}

const QUADRATIC: Task = Task::named("quadratic");
const ROSENBROCK: Task = Task::named("Rosenbrock");
const CLASSIFIER: Task = Task::named("digit classifier by preference");
const GAUSSIAN: Task = Task::named("quadratic, Gaussian noise of 1");
const GUMBEL: Task = Task::named("quadratic, Plackett-Luce judge");

fn problems(size: &Size) -> Vec<Setting> {
    let setting = |task, objective, noise| Setting {
        task,
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
        setting(QUADRATIC, Objective::Quadratic, None),
        setting(ROSENBROCK, Objective::Rosenbrock, None),
        setting(CLASSIFIER, Objective::Classifier, None),
        setting(
            GAUSSIAN,
            Objective::Quadratic,
            Some(ValueNoise::Gaussian(1.0)),
        ),
        setting(
            GUMBEL,
            Objective::Quadratic,
            Some(ValueNoise::PlackettLuce(1.0)),
        ),
    ]
}

impl Setting {
    fn contenders(&self) -> impl Iterator<Item = &'static Contender> + use<> {
        let noisy = self.noise.is_some();
        CONTENDERS.iter().filter(move |c| c.noisy || !noisy)
    }
}

/// The results of a method on a task.
#[derive(Serialize, Deserialize)]
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
        bench: &Bench<'_>,
        size: &Size,
        digits: &LabelledPictures,
        setting: &Setting,
        contender: &Contender,
    ) -> Result<Self, ClaimError> {
        let device = &bench.context().device;
        let run = |seed: u64, scale: f64| {
            let problem = Problem::new(setting.objective, seed, size, digits, device)?;
            Descent::run(&problem, setting, contender.method, scale, seed)
        };
        let scales: Vec<f64> = size.settings.iter().map(|s| s * contender.middle).collect();
        let mut best = (f64::INFINITY, 0);
        for (i, &scale) in scales.iter().enumerate() {
            let mut sum = 0.0;
            for seed in tuning_seeds(bench.seeds(), size.tuning) {
                sum += run(seed, scale)?.value.log10();
            }
            if sum < best.0 {
                best = (sum, i);
            }
        }
        let scale = scales.get(best.1).copied().unwrap_or(contender.middle);
        let runs = bench.seeds().iter().map(|&seed| run(seed, scale));
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

/// One run.
#[derive(Serialize, Deserialize)]
struct Descent {
    /// The value at the last point, without noise; infinite if the run has left the finite numbers.
    value: f64,
    /// The norm of the gradient at the last point relative to that at the first; infinite if the value is.
    slope: f64,
    accuracy: Option<f64>,
    /// Queries and the value without noise.
    curve: Vec<[f64; 2]>,
}

/// The line search shared by all methods that have one.
fn line_search() -> LineSearch {
    LineSearch::new().with_candidates(5).with_shrink(0.1)
}

impl Descent {
    fn run(
        problem: &Problem,
        setting: &Setting,
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
        let steep = problem.slope(&start)?;
        let mut curve = vec![[0.0, first]];
        let every = setting.queries as f64 / 100.0;
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
        let mut judge = problem.judge(setting.noise, seed)?;
        let (budget, mu) = (setting.queries, setting.smoothing);
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
                let mut noise = Noise::new(setting.noise, seed);
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
        let slope = problem.slope(&point)? / steep;
        let accuracy = match &oracle {
            Some((classifier, oracle)) => {
                let module = oracle.module(&point).map_err(ClaimError::experiment)?;
                Some(classifier.accuracy(&module)?)
            }
            None => None,
        };
        let finite = |number: f64| match diverged || number.is_nan() {
            true => f64::INFINITY,
            false => number,
        };
        Ok(Self {
            value: finite(last),
            slope: finite(slope),
            accuracy,
            curve,
        })
    }
}

/// Steps with `means` as long as the budget allows one more step with as many queries as the longest so far.
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

#[cfg(test)]
mod tests {
    use super::problems::small;
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_quick_form_runs_whole() {
        let result = crate::QUICK.result("zo-ranksgd").unwrap();
        assert!(result.quick);
        assert_eq!(result.checks.len(), 3 * 8 + 2 * 2);
        let headlines = result.checks.iter().filter(|check| check.headline);
        let headlines: Vec<&str> = headlines.map(|check| check.text.as_str()).collect();
        let judged = [QUADRATIC, ROSENBROCK, CLASSIFIER].map(|task| {
            format!("{task}: {RANKS} ends with a gradient norm below half of the first")
        });
        assert_eq!(headlines, judged);
        assert_eq!(result.plots.len(), 5);
        let size = Size::quick();
        for setting in problems(&size) {
            for Contender { variant, .. } in setting.contenders() {
                let task = &setting.task;
                let value = result.measured.mean(task, variant, &VALUE).unwrap();
                assert!(value.is_finite(), "{task} {variant}: {value}");
            }
        }
        // Even 200 orders of ten teach the classifier something.
        let taught = result.measured.mean(&CLASSIFIER, &RANKS, &VALUE).unwrap();
        assert!(taught < 10_f64.ln().log10(), "{taught}");
    }

    #[test]
    fn no_method_has_more_queries_than_another() {
        let size = Size::quick();
        let digits = nabla_data::digits().unwrap();
        let settings = problems(&size);
        let device = Device::flex();
        let problem = Problem::new(Objective::Quadratic, 5, &size, &digits, &device).unwrap();
        for contender in &CONTENDERS {
            let middle = contender.middle;
            let run = Descent::run(&problem, &settings[0], contender.method, middle, 5).unwrap();
            let last = run.curve.last().unwrap()[0];
            assert!(last <= size.queries as f64, "{}: {last}", contender.variant);
            // An iteration more would not have been within the budget.
            assert!(
                last > size.queries as f64 - 60.0,
                "{}: {last}",
                contender.variant
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
}
