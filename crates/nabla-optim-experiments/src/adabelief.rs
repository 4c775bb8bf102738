//! AdaBelief against Adam and momentum: streams of gradients, valleys, and training.
//!
//! * **Streams of gradients.** The three cases of the paper's first figure and table, each as a stream of
//!   gradients: small gradients that hardly change (a plain, where the ideal step is large), large gradients
//!   that change their sign (a narrow valley, where it is small), and large gradients that hardly change (a
//!   slope, where it is large). The result is the mean length of the last steps in units of the learning
//!   rate.
//! * **Valleys.** The functions of the paper's figure of trajectories: `|x| + |y|`, `|x + y| + |x − y|/10`,
//!   `(x + y)² + (x − y)²/10`, Beale's and Rosenbrock's. An optimizer has arrived when its distance to the
//!   minimum is a hundredth of the initial distance; if this takes more than 20,000 steps, its number of
//!   steps counts as infinite. All use the learning rate 1e-3 first, as in the paper, and then the best of
//!   nine. The authors have published neither the code nor the starting points of their figure. Our starts
//!   are drawn around the points of seiyab's reproduction (github.com/seiyab/adabelief-toy-examples-pytorch),
//!   which are not the authors': for example, |x| + |y| begins near the x axis. The authors' page says that
//!   SGD's step is about the rate times the gradient, so its momentum is the moving average of the gradients,
//!   as Adam's is. Momentum as in PyTorch, whose steps are ten times as long, is measured too.
//! * **Training.** With learning rates found by a search. AdaBelief uses the values of the authors'
//!   repository for small pictures: ε = 1e-8, coupled decay of 5e-4, no rectification. The measure of the
//!   speed of convergence is the mean over the epochs of the loss on the training pictures, each at the time
//!   its batch was used: the area under the loss curve.

use std::collections::BTreeSet;

use burn::optim::momentum::MomentumConfig;
use burn::optim::{Adam, AdamConfig, Optimizer, Sgd, SgdConfig};
use nabla_base::vector::distance;
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Series, Stage, Table,
    Task, Variant,
};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_optim::adabelief::{AdaBelief, AdaBeliefConfig};
use nabla_train::optimizer::Method;
use serde::{Deserialize, Serialize};

use crate::training_contest::{self, ACCURACY, ADAPTIVE, Contest, Trained, entrant};
use crate::trajectory::walk;

const ADABELIEF: Variant = Variant::method("AdaBelief");
const ADAM: Variant = Variant::baseline("Adam");
const ADAMW: Variant = Variant::baseline("AdamW");
const SGD: Variant = Variant::baseline("SGD with momentum");
const AVERAGED: Variant = Variant::baseline("SGD with averaged momentum");

const PLAIN: Task = Task::named("small gradients that hardly change");
const NARROW: Task = Task::named("large gradients that change their sign");
const SLOPE: Task = Task::named("large gradients that hardly change");
const TRAINING: Task = Task::named("Fashion-MNIST, searched rates");

const STEP: Metric = Metric::informative("mean step over the rate", "");
const STEPS: Metric = Metric::lower("steps at 1e-3", "");
const BEST_STEPS: Metric = Metric::lower("steps, best rate", "");
const TRAINING_LOSS: Metric = Metric::lower("training loss, mean of the epochs", "");

/// The streams: the mean, the size of the part that changes its sign at every step, and the noise of the
/// gradient.
const STREAMS: [(Task, f64, f64, f64); 3] = [
    (PLAIN, 0.01, 0.0, 0.001),
    (NARROW, 0.0, 1.0, 0.1),
    (SLOPE, 1.0, 0.0, 0.1),
];
const RATE: f64 = 1e-3;
const RATES: [f64; 9] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0];
/// The fraction of the initial distance to the minimum at which an optimizer has arrived.
const NEAR: f64 = 1e-2;
const EPOCHS: usize = 8;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct AdaBeliefClaim;

impl Claim for AdaBeliefClaim {
    fn slug(&self) -> &str {
        "adabelief"
    }

    fn statement(&self) -> &str {
        "AdaBelief, which takes a large step where the gradient is near its moving average and a small one \
         where it deviates from it, converges as fast as adaptive methods and generalises as well as SGD \
         with momentum; it has a higher accuracy than Adam. In detail: its steps are large and small where \
         the ideal ones are, and it reaches the minima of test functions faster than Adam and SGD."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds. Training with searched rates: the mean over the epochs of the training loss \
         is not above that of Adam or that of AdamW by more than the spread of the latter; the test \
         accuracy is higher than that of Adam and that of AdamW, and not below that of SGD with momentum by \
         more than SGD's spread. In detail, streams: AdaBelief's step is larger than SGD's where small \
         gradients hardly change, smaller than SGD's where large ones change their sign, and larger than \
         Adam's where large ones hardly change. In detail, valleys: on each of the five functions AdaBelief \
         needs fewer steps than Adam and fewer than SGD with either form of momentum, at the rate 1e-3 and \
         at the best of nine each."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let tasks = STREAMS.map(|(task, ..)| task).into_iter();
        let tasks = tasks.chain(Valley::ALL.map(Valley::task));
        let mut table = Table::new(
            bench.seeds(),
            [STEP, STEPS, BEST_STEPS, TRAINING_LOSS]
                .into_iter()
                .chain(training_contest::metrics()),
            [ADABELIEF, ADAM, ADAMW, SGD, AVERAGED],
            tasks.chain([TRAINING]),
        )?;
        let mut checks = Vec::new();
        let mut notes = Vec::new();
        let lengths = streams(bench, &mut table, &mut checks)?;
        let distances = valleys(bench, &mut table, &mut checks, &mut notes)?;

        let named = |name: &str| Method::named(name).map_err(ClaimError::experiment);
        let vision = Method::of("adabelief", &AdaBeliefConfig::vision());
        let vision = vision.map_err(ClaimError::experiment)?;
        let entrants = vec![
            entrant(ADABELIEF, vision, 5e-4).around(ADAPTIVE),
            entrant(ADAM, named("adam")?, 5e-4).around(ADAPTIVE),
            entrant(ADAMW, named("adamw")?, 1e-2).around(ADAPTIVE),
            entrant(SGD, named("momentum")?, 5e-4),
        ];
        let context = bench.context();
        let contest = Contest::new(context, EPOCHS, entrants)?.searched_widely(context);
        notes.push(format!(
            "{} Weight decay: coupled, 5e-4, but decoupled, 1e-2, for AdamW. The rates are around 0.003 for methods that divide by the size of the gradients, since the best \
             around their customary 0.001 were the highest, and around the customary 0.1 for the others.",
            contest.describe()
        ));
        notes.push(
            "Not measured: stability, such as that of training generative adversarial networks; language \
             models; the paper's own pictures and networks (CIFAR, ImageNet)."
                .to_owned(),
        );
        let mut losses = Vec::new();
        let accuracy = contest.hold(
            bench,
            &TRAINING,
            &mut table,
            &mut notes,
            &mut |variant, run| losses.push((variant.clone(), mean_training_loss(run))),
        )?;
        // The trainings in their order: for each variant, one per seed.
        for ((variant, loss), seed) in losses.iter().zip(bench.seeds().iter().cycle()) {
            table.record(&TRAINING, variant, &TRAINING_LOSS, *seed, *loss)?;
        }
        // The headlines test the abstract: as fast as adaptive methods, as good as SGD, more accurate than Adam.
        for baseline in [ADAM, ADAMW] {
            let speed = table.not_worse(&TRAINING, &TRAINING_LOSS, &ADABELIEF, &baseline)?;
            checks.push(speed.headline());
        }
        for baseline in [ADAM, ADAMW] {
            let check = table.compare(&TRAINING, &ACCURACY, &ADABELIEF, &baseline)?;
            checks.push(check.headline());
        }
        let check = table.not_worse(&TRAINING, &ACCURACY, &ADABELIEF, &SGD)?;
        checks.push(check.headline());
        let mut measurement = Measurement::new(table, checks).with_plot(lengths);
        measurement.plots.extend(distances);
        measurement.plots.push(accuracy);
        measurement.notes = notes;
        Ok(measurement)
    }
}

/// The mean over the epochs of the loss on the training pictures; NaN if it diverged.
fn mean_training_loss(run: &Trained) -> f64 {
    let losses = run.epochs.iter().map(|epoch| epoch.training_loss);
    match run.diverged {
        true => f64::NAN,
        false => losses.sum::<f64>() / run.epochs.len() as f64,
    }
}

/// SGD with the momentum 0.9, whose steps add up the gradients, and SGD with a dampening of 0.9, whose steps
/// average them.
fn sgd(dampening: f64) -> Sgd {
    let momentum = MomentumConfig::new()
        .with_momentum(0.9)
        .with_dampening(dampening);
    SgdConfig::new().with_momentum(Some(momentum)).build()
}

fn adam() -> Adam {
    AdamConfig::new().with_epsilon(1e-8).build()
}

/// AdaBelief as in the paper's algorithm, with Adam's ε squared.
fn adabelief() -> Result<AdaBelief, ClaimError> {
    let config = AdaBeliefConfig::new().with_rectify(false);
    config.build().map_err(ClaimError::experiment)
}

/// The optimizers on streams and in valleys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    AdaBelief,
    Adam,
    Momentum,
    Averaged,
}

impl Rule {
    const ALL: [Self; 4] = [Self::AdaBelief, Self::Adam, Self::Momentum, Self::Averaged];

    fn variant(self) -> Variant {
        match self {
            Self::AdaBelief => ADABELIEF,
            Self::Adam => ADAM,
            Self::Momentum => SGD,
            Self::Averaged => AVERAGED,
        }
    }
}

/// The lengths of the steps over the learning rate along a stream of gradients.
fn step_lengths<O: Optimizer>(
    optimizer: &O,
    (mean, alternating, noise): (f64, f64, f64),
    seed: u64,
    steps: usize,
) -> Result<Vec<f64>, ClaimError> {
    let mut draw = SeededNoise::new(seed, 0);
    let mut sign = 1.0;
    let gradient = |_: &[f64; 1]| {
        sign = -sign;
        let drawn = f64::from(draw.normal_values(1)[0]);
        [mean + sign * alternating + noise * drawn]
    };
    let points = walk(optimizer, RATE, [0.0], steps, gradient, |_| false)?;
    let length = |w: &[[f64; 1]]| (w[1][0] - w[0][0]).abs() / RATE;
    Ok(points.windows(2).map(length).collect())
}

/// The result of one optimizer on a stream.
#[derive(Serialize, Deserialize)]
struct Stream {
    /// The mean length of the steps of the second half.
    mean: f64,
    /// The length of the steps, some of them.
    curve: Vec<[f64; 2]>,
}

fn streams(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let steps = if bench.quick() { 200 } else { 2000 };
    let mut points = Vec::new();
    for (task, mean, alternating, noise) in STREAMS {
        for &seed in bench.seeds() {
            for rule in [Rule::AdaBelief, Rule::Adam, Rule::Momentum] {
                points.push((task.clone(), (mean, alternating, noise), rule, seed));
            }
        }
    }
    let found = bench.measure(
        &Stage::new("streams of gradients", &steps),
        &points,
        |(task, _, rule, seed)| Cell::of(task).variant(&rule.variant()).seed(*seed),
        |&(_, stream, rule, seed)| {
            let lengths = match rule {
                Rule::AdaBelief => step_lengths(&adabelief()?, stream, seed, steps)?,
                Rule::Adam => step_lengths(&adam(), stream, seed, steps)?,
                Rule::Momentum => step_lengths(&sgd(0.0), stream, seed, steps)?,
                Rule::Averaged => step_lengths(&sgd(0.9), stream, seed, steps)?,
            };
            let last = &lengths[lengths.len() / 2..];
            let curve = lengths.iter().enumerate().step_by(steps / 200);
            Ok(Stream {
                mean: last.iter().sum::<f64>() / last.len() as f64,
                curve: curve.map(|(t, l)| [(t + 1) as f64, *l]).collect(),
            })
        },
    )?;
    let title = format!("Length of a step over the learning rate: {SLOPE}");
    let mut plot = LinePlot::new(title, "step", "|Δw| / α").log_y();
    for ((task, _, rule, seed), stream) in points.iter().zip(found) {
        let variant = rule.variant();
        table.record(task, &variant, &STEP, *seed, stream.mean)?;
        if *task == SLOPE && bench.seeds().first() == Some(seed) {
            plot = plot.with_series(Series::new(variant.name(), stream.curve));
        }
    }
    for (task, larger, other) in [
        (PLAIN, true, SGD),
        (NARROW, false, SGD),
        (SLOPE, true, ADAM),
    ] {
        let ours = table.summary(&task, &ADABELIEF, &STEP)?;
        let theirs = table.summary(&task, &other, &STEP)?;
        let (relation, holds) = match larger {
            true => ("larger", ours.mean > theirs.mean),
            false => ("smaller", ours.mean < theirs.mean),
        };
        checks.push(Check::new(
            format!("{task}: {ADABELIEF}'s step is {relation} than {other}'s"),
            holds,
            format!("{ours} against {theirs}, in units of the learning rate"),
        ));
    }
    Ok(plot)
}

/// The functions on the plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Valley {
    Absolute,
    InseparableAbsolute,
    InseparableSquare,
    Beale,
    Rosenbrock,
}

impl Valley {
    const ALL: [Self; 5] = [
        Self::Absolute,
        Self::InseparableAbsolute,
        Self::InseparableSquare,
        Self::Beale,
        Self::Rosenbrock,
    ];

    fn task(self) -> Task {
        Task::named(match self {
            Self::Absolute => "|x| + |y|",
            Self::InseparableAbsolute => "|x + y| + |x − y|/10",
            Self::InseparableSquare => "(x + y)² + (x − y)²/10",
            Self::Beale => "Beale's function",
            Self::Rosenbrock => "Rosenbrock's function",
        })
    }

    fn minimum(self) -> [f64; 2] {
        match self {
            Self::Beale => [3.0, 0.5],
            Self::Rosenbrock => [1.0, 1.0],
            _ => [0.0, 0.0],
        }
    }

    /// The point around which the start of a walk is drawn.
    fn start(self) -> [f64; 2] {
        match self {
            Self::Absolute => [-2.5, 0.0],
            Self::InseparableAbsolute | Self::InseparableSquare => [2.5, 0.0],
            Self::Beale => [-2.5, -2.5],
            Self::Rosenbrock => [-4.0, -4.0],
        }
    }

    /// The value and the gradient, where the derivative at an edge is 0.
    fn at(self, &[x, y]: &[f64; 2]) -> (f64, [f64; 2]) {
        let sign = |v: f64| if v == 0.0 { 0.0 } else { v.signum() };
        let (sum, difference) = (x + y, x - y);
        match self {
            Self::Absolute => (x.abs() + y.abs(), [sign(x), sign(y)]),
            Self::InseparableAbsolute => {
                let (a, b) = (sign(sum), 0.1 * sign(difference));
                (sum.abs() + 0.1 * difference.abs(), [a + b, a - b])
            }
            Self::InseparableSquare => {
                let (a, b) = (2.0 * sum, 0.2 * difference);
                (sum * sum + 0.1 * difference * difference, [a + b, a - b])
            }
            Self::Beale => {
                let terms = [(1.5, 1), (2.25, 2), (2.625, 3)];
                terms
                    .iter()
                    .fold((0.0, [0.0; 2]), |(f, [gx, gy]), &(c, n)| {
                        let r = c - x + x * y.powi(n);
                        let by_x = 2.0 * r * (y.powi(n) - 1.0);
                        let by_y = 2.0 * r * f64::from(n) * x * y.powi(n - 1);
                        (f + r * r, [gx + by_x, gy + by_y])
                    })
            }
            Self::Rosenbrock => {
                let across = y - x * x;
                let value = (1.0 - x).powi(2) + 100.0 * across * across;
                (
                    value,
                    [-2.0 * (1.0 - x) - 400.0 * x * across, 200.0 * across],
                )
            }
        }
    }

    fn walk<O: Optimizer>(
        self,
        optimizer: &O,
        rate: f64,
        start: [f64; 2],
        steps: usize,
    ) -> Result<Vec<[f64; 2]>, ClaimError> {
        walk(
            optimizer,
            rate,
            start,
            steps,
            |x| self.at(x).1,
            |x| distance(x, &self.minimum()) <= NEAR * distance(&start, &self.minimum()),
        )
    }

    /// The number of steps of a walk that arrived, or infinity.
    fn steps(self, points: &[[f64; 2]]) -> f64 {
        let from = |x: &[f64; 2]| distance(x, &self.minimum());
        match points {
            [first, .., last] if from(last) <= NEAR * from(first) => (points.len() - 1) as f64,
            _ => f64::INFINITY,
        }
    }
}

/// The walks of one optimizer in a valley, at all rates.
#[derive(Serialize, Deserialize)]
struct Walks {
    /// Steps at [`RATE`].
    steps: f64,
    /// Steps at the best rate.
    best: f64,
    /// Whether the best rate is the lowest or the highest.
    at_edge: bool,
    /// The distance to the minimum at [`RATE`].
    curve: Vec<[f64; 2]>,
}

impl Walks {
    fn of(valley: Valley, rule: Rule, seed: u64, steps: usize) -> Result<Self, ClaimError> {
        let drawn = SeededNoise::new(seed, 1).normal_values(2);
        let [x, y] = valley.start();
        let start = [x + 0.1 * f64::from(drawn[0]), y + 0.1 * f64::from(drawn[1])];
        let mut walks = Self {
            steps: f64::INFINITY,
            best: f64::INFINITY,
            at_edge: false,
            curve: Vec::new(),
        };
        let mut best_rate = RATE;
        for rate in RATES {
            let points = match rule {
                Rule::AdaBelief => valley.walk(&adabelief()?, rate, start, steps)?,
                Rule::Adam => valley.walk(&adam(), rate, start, steps)?,
                Rule::Momentum => valley.walk(&sgd(0.0), rate, start, steps)?,
                Rule::Averaged => valley.walk(&sgd(0.9), rate, start, steps)?,
            };
            let needed = valley.steps(&points);
            if needed < walks.best {
                (walks.best, best_rate) = (needed, rate);
            }
            if rate == RATE {
                walks.steps = needed;
                let every = (points.len() / 200).max(1);
                let curve = points.iter().enumerate().step_by(every);
                let from = |x| distance(x, &valley.minimum());
                walks.curve = curve.map(|(t, x)| [t as f64, from(x)]).collect();
            }
        }
        walks.at_edge = [RATES.first(), RATES.last()].contains(&Some(&best_rate));
        Ok(walks)
    }
}

fn valleys(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
    notes: &mut Vec<String>,
) -> Result<Vec<LinePlot>, ClaimError> {
    let steps = if bench.quick() { 300 } else { 20_000 };
    let mut points = Vec::new();
    for valley in Valley::ALL {
        for &seed in bench.seeds() {
            points.extend(Rule::ALL.map(|rule| (valley, rule, seed)));
        }
    }
    let found = bench.measure(
        &Stage::new("valleys", &(steps, RATES)),
        &points,
        |(valley, rule, seed)| {
            let cell = Cell::of(&valley.task());
            cell.variant(&rule.variant()).seed(*seed)
        },
        |&(valley, rule, seed)| Walks::of(valley, rule, seed, steps),
    )?;
    let mut edge = BTreeSet::new();
    let mut curves = Vec::new();
    for ((valley, rule, seed), walks) in points.iter().zip(found) {
        let (task, variant) = (valley.task(), rule.variant());
        table.record(&task, &variant, &STEPS, *seed, walks.steps)?;
        table.record(&task, &variant, &BEST_STEPS, *seed, walks.best)?;
        if walks.at_edge {
            edge.insert(format!("{variant} on {task}"));
        }
        if bench.seeds().first() == Some(seed) {
            curves.push((*valley, Series::new(variant.name(), walks.curve)));
        }
    }
    let mut plots = Vec::new();
    for valley in Valley::ALL {
        let task = valley.task();
        let title = format!("{task}: distance to the minimum, at the rate 1e-3");
        let of_valley = curves.iter().filter(|(other, _)| *other == valley);
        let plot = LinePlot::new(title, "step", "distance").log_y();
        plots.push(of_valley.fold(plot, |plot, (_, curve)| plot.with_series(curve.clone())));
        for metric in [STEPS, BEST_STEPS] {
            for baseline in [ADAM, SGD, AVERAGED] {
                checks.push(table.compare(&task, &metric, &ADABELIEF, &baseline)?);
            }
        }
    }
    if !edge.is_empty() {
        let edge: Vec<String> = edge.into_iter().collect();
        notes.push(format!(
            "Valleys: the best of the nine rates is the lowest or highest, for a seed at least, for: {}.",
            edge.join("; ")
        ));
    }
    Ok(plots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory::gradient_error;
    use nabla_train::history::EpochRecord;

    #[test]
    fn the_gradients_are_the_functions_and_vanish_where_the_minima_are() {
        for valley in Valley::ALL {
            for x in [[0.3, -0.7], [-1.2, 0.4], [1.1, 1.9]] {
                let (_, gradient) = valley.at(&x);
                let error = gradient_error(|x| valley.at(x).0, &gradient, &x);
                assert!(error < 1e-5, "{valley:?} at {x:?}: {error}");
            }
            let (value, gradient) = valley.at(&valley.minimum());
            assert_eq!((value, gradient), (0.0, [0.0, 0.0]), "{valley:?}");
        }
    }

    /// With a constant gradient Adam's step is the rate; AdaBelief's grows, for what it deviates
    /// from its average by vanishes; momentum's is the gradient over 1 − 0.9.
    #[test]
    fn steps_along_a_constant_gradient_are_those_of_closed_forms() {
        let stream = (0.5, 0.0, 0.0);
        let adam = step_lengths(&adam(), stream, 0, 50).unwrap();
        assert!(adam.iter().all(|l| (l - 1.0).abs() < 1e-3), "{adam:?}");
        let belief = step_lengths(&adabelief().unwrap(), stream, 0, 50).unwrap();
        assert!((belief[0] - 1.0 / 0.9).abs() < 1e-6);
        assert!(belief.windows(2).all(|w| w[1] > w[0]));
        let sgd = step_lengths(&sgd(0.0), stream, 0, 200).unwrap();
        // Burn keeps the 0.9 in 32 bits.
        assert!((sgd[199] - 5.0).abs() < 1e-5);
    }

    #[test]
    fn the_speed_of_a_training_is_the_mean_of_its_losses() {
        let epoch = |epoch, training_loss| EpochRecord {
            epoch,
            training_loss,
            training_accuracy: 0.5,
            test_loss: 9.0,
            test_accuracy: 0.5,
        };
        let mut run = Trained {
            epochs: vec![epoch(1, 2.0), epoch(2, 1.0)],
            steps: Vec::new(),
            growth: 1.0,
            diverged: false,
        };
        assert_eq!(mean_training_loss(&run), 1.5);
        run.diverged = true;
        assert!(mean_training_loss(&run).is_nan());
    }

    #[test]
    fn a_walk_that_does_not_arrive_needs_infinitely_many_steps() {
        let valley = Valley::InseparableSquare;
        let far = valley.walk(&sgd(0.0), 1e-6, [1.0, 2.0], 5).unwrap();
        assert_eq!(valley.steps(&far), f64::INFINITY);
        let near = valley.walk(&sgd(0.0), 0.1, [1.0, 2.0], 5000).unwrap();
        assert_eq!(valley.steps(&near), (near.len() - 1) as f64);
    }
}
