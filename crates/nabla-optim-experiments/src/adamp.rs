//! AdamP and SGDP against Adam and momentum: how long scale-invariant weights grow, how far a step turns
//! them, and the effect on training.
//!
//! * **Noisy steps on the sphere.** Any loss that depends only on the direction of `w` has the gradient `g =
//!   Π_w(z)/‖w‖`. Here `z` is noise around a fixed vector, as with stochastic gradients. The paper's lemmas
//!   state how `‖w‖²` grows: by `‖Δw‖²` in a step of gradient descent or with the projection, and with
//!   momentum, where `p` is the step divided by the learning rate, by `‖Δw‖² + 2η² Σ_{k<t} β^{t−k} ‖p_k‖²`,
//!   which is `1 + 2β/(1 − β)` times as much in the long run.
//! * **Scale-invariant Rosenbrock.** Rosenbrock's valley `(1 − ψ)² + 10 (φ − ψ²)²` in longitude ψ and
//!   latitude φ of a point in space, which is the paper's illustration of the problem, with our own numbers.
//! * **Training.** A network with batch normalisation: with the customary learning rate kept constant, where
//!   only the norms change how far a step turns the kernels, and with learning rates found by a search.
//!
//! The baselines of SGDP and AdamP are SGD with momentum and AdamW; on the first two problems, which have no
//! weight decay, AdamW is Adam.

use burn::optim::momentum::MomentumConfig;
use burn::optim::{Adam, AdamConfig, Optimizer, Sgd, SgdConfig};
use nabla_base::vector::{dot, norm};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Series, Stage, Table,
    TableError, Task, Variant,
};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_optim::adamp::{AdamPConfig, ChannelDim, SgdPConfig};
use nabla_train::optimizer::Method;
use serde::{Deserialize, Serialize};

use crate::training_contest::{self, ACCURACY, ADAPTIVE, Contest, entrant};
use crate::trajectory::{angle, walk};

mod constant;

use constant::constant;

const GD: Variant = Variant::baseline("SGD without momentum");
const MOMENTUM: Variant = Variant::baseline("SGD with momentum");
const SGDP: Variant = Variant::method("SGDP");
const ADAM: Variant = Variant::baseline("AdamW");
const ADAMP: Variant = Variant::method("AdamP");

/// Each method and its counterpart without the projection.
const PAIRS: [(Variant, Variant); 2] = [(SGDP, MOMENTUM), (ADAMP, ADAM)];

const SPHERE: Task = Task::named("noisy steps on the sphere");
const VALLEY: Task = Task::named("scale-invariant Rosenbrock");
const CONSTANT: Task = Task::named("Fashion-MNIST, customary rate held constant");
const SEARCHED: Task = Task::named("Fashion-MNIST, searched rates");

const GROWTH: Metric = Metric::informative("‖w‖² gained per ‖Δw‖²", "");
const NORM: Metric = Metric::lower("‖w‖ at the end over at first", "");
const TURN: Metric = Metric::higher("turn per step at the end", "mrad");
const STEPS: Metric = Metric::lower("steps to 1e-3", "");
const BEST_STEPS: Metric = Metric::lower("steps to 1e-3, best rate", "");

const BETA: f64 = 0.9;
/// The factor of the paper's lemma, 19.
const INFLATION: f64 = 1.0 + 2.0 * BETA / (1.0 - BETA);
/// The length of the weight vector on the sphere.
const SIZE: usize = 32;
const SPHERE_RATE: f64 = 0.1;
/// The learning rate that all optimizers use in the valley, and those of the search.
const VALLEY_RATE: f64 = 1e-2;
const VALLEY_RATES: [f64; 9] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0];
const VALLEY_LOSS: f64 = 1e-3;
const EPOCHS: usize = 6;
/// Below this ratio of norms, weights have not grown enough to shorten the steps.
const GROWN: f64 = 1.01;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct AdamPClaim;

impl Claim for AdamPClaim {
    fn slug(&self) -> &str {
        "adamp"
    }

    fn statement(&self) -> &str {
        "With momentum, the steps that scale-invariant weights effectively take shrink too early. Taking the \
         radial part out of the step (SGDP, AdamP) stops that in networks, and trains them better than SGD \
         with momentum and Adam(W). In detail: momentum makes such weights grow up to 1 + 2β/(1 − β) times \
         as fast as gradient descent does; without the radial part a scale-invariant valley is walked in \
         fewer steps."
    }

    fn criterion(&self) -> &str {
        "In the network at the customary constant rate, SGDP and AdamP turn the kernels more per step at the \
         end than momentum and AdamW, for every seed; with searched rates their mean test accuracy is \
         higher. In detail: at the constant rate kernels grow less, for every seed. On the sphere, for every \
         seed: ‖w‖² gains ‖Δw‖² with SGDP and AdamP as with plain SGD (to 1e-6), and 19 times as much (to \
         5 %) with momentum 0.9, in every step what the paper's lemma says (to 1e-9); at the end SGDP and \
         AdamP turn the weight more per step than momentum and AdamW. On Rosenbrock's valley SGDP and AdamP \
         need fewer steps on average to a loss of 1e-3 than momentum and AdamW, at the same rate and at the \
         best of nine each."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let mut table = Table::new(
            bench.seeds(),
            [GROWTH, NORM, TURN, STEPS, BEST_STEPS]
                .into_iter()
                .chain(training_contest::metrics()),
            [ADAMP, SGDP, ADAM, MOMENTUM, GD],
            [SPHERE, VALLEY, CONSTANT, SEARCHED],
        )?;
        let mut checks = Vec::new();
        let mut notes = Vec::new();
        let norms = sphere(bench, &mut table, &mut checks)?;
        let losses = valley(bench, &mut table, &mut checks)?;

        let named = |name: &str| Method::named(name).map_err(ClaimError::experiment);
        let entrants = vec![
            entrant(ADAMP, named("adamp")?, 1e-2).around(ADAPTIVE),
            entrant(SGDP, named("sgdp")?, 1e-4),
            entrant(ADAM, named("adamw")?, 1e-2).around(ADAPTIVE),
            entrant(MOMENTUM, named("momentum")?, 1e-4),
        ];
        let context = bench.context();
        let contest = Contest::new(context, EPOCHS, entrants)?.searched_widely(context);
        notes.push(format!(
            "{} Weight decay: 1e-2 for AdamP and AdamW, 1e-4 for SGDP and SGD, as in the examples of \
             the authors' repository and their baselines. The rates are around 0.003 for methods that divide by the size of the gradients, since the best \
             around their customary 0.001 were the highest, and around the customary 0.1 for the others.",
            contest.describe()
        ));
        notes.push(
            "Not measured: the paper's own benchmarks (ImageNet, retrieval, detection, language, audio), over \
             which it says that the gain is uniform; one small classification stands for them."
                .to_owned(),
        );
        let kernels = constant(bench, &contest, &mut table, &mut checks)?;
        let growth = table.summary(&CONSTANT, &ADAM, &NORM)?;
        if growth.mean < GROWN {
            notes.push(format!(
                "At the customary constant rate AdamW's kernels do not grow: at the end their norm is {growth} \
                 of that at first. So there is nothing for AdamP to stop, and its turn per step says nothing \
                 of what it does to Adam where kernels grow."
            ));
        }
        let mut growths = Vec::new();
        let accuracy = contest.hold(
            bench,
            &SEARCHED,
            &mut table,
            &mut notes,
            &mut |variant, run| {
                growths.push((variant.clone(), run.growth));
            },
        )?;
        for ((variant, growth), seed) in growths.iter().zip(bench.seeds().iter().cycle()) {
            table.record(&SEARCHED, variant, &NORM, *seed, *growth)?;
        }
        for (method, baseline) in PAIRS {
            let check = table.compare(&SEARCHED, &ACCURACY, &method, &baseline)?;
            checks.push(check.headline());
        }
        let mut measurement = Measurement::new(table, checks)
            .with_plot(norms)
            .with_plot(losses)
            .with_plot(kernels)
            .with_plot(accuracy);
        measurement.notes = notes;
        Ok(measurement)
    }
}

/// The optimizers on the first two problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    AdamP,
    SgdP,
    Adam,
    Momentum,
    Plain,
}

impl Rule {
    const ALL: [Self; 5] = [
        Self::AdamP,
        Self::SgdP,
        Self::Adam,
        Self::Momentum,
        Self::Plain,
    ];

    fn variant(self) -> Variant {
        match self {
            Self::AdamP => ADAMP,
            Self::SgdP => SGDP,
            Self::Adam => ADAM,
            Self::Momentum => MOMENTUM,
            Self::Plain => GD,
        }
    }
}

fn sgd(momentum: f64) -> Sgd {
    let momentum = (momentum > 0.0).then(|| {
        MomentumConfig::new()
            .with_momentum(momentum)
            .with_dampening(0.0)
    });
    SgdConfig::new().with_momentum(momentum).build()
}

fn adam() -> Adam {
    AdamConfig::new().with_epsilon(1e-8).build()
}

/// An operation on each of the five optimizers, which see the weight as one vector.
trait WithOptimizer {
    type Output;

    fn with<O: Optimizer>(&mut self, optimizer: &O) -> Result<Self::Output, ClaimError>;

    fn with_rule(&mut self, rule: Rule) -> Result<Self::Output, ClaimError> {
        let whole = ChannelDim::Dim(0);
        match rule {
            Rule::Plain => self.with(&sgd(0.0)),
            Rule::Momentum => self.with(&sgd(BETA)),
            Rule::Adam => self.with(&adam()),
            Rule::SgdP => {
                let config = SgdPConfig::new()
                    .with_momentum(BETA)
                    .with_channel_dim(whole);
                self.with(&config.build().map_err(ClaimError::experiment)?)
            }
            Rule::AdamP => {
                let config = AdamPConfig::new().with_channel_dim(whole);
                self.with(&config.build().map_err(ClaimError::experiment)?)
            }
        }
    }
}

/// A walk from `start` along the gradient `Π_w(z)/‖w‖`, where `z` is noise around `pull`.
struct OnSphere {
    start: [f64; SIZE],
    pull: [f64; SIZE],
    seed: u64,
    steps: usize,
}

impl WithOptimizer for OnSphere {
    type Output = Vec<[f64; SIZE]>;

    fn with<O: Optimizer>(&mut self, optimizer: &O) -> Result<Self::Output, ClaimError> {
        // The same noise for every optimizer.
        let mut noise = SeededNoise::new(self.seed, 1);
        let gradient = |w: &[f64; SIZE]| {
            let mut z = self.pull;
            for (z, noise) in z.iter_mut().zip(noise.normal_values(SIZE)) {
                *z += f64::from(noise);
            }
            on_sphere(w, &z)
        };
        walk(
            optimizer,
            SPHERE_RATE,
            self.start,
            self.steps,
            gradient,
            |_| false,
        )
    }
}

/// `Π_w(z)/‖w‖`: the gradient of `z·w/‖w‖`.
fn on_sphere<const N: usize>(w: &[f64; N], z: &[f64; N]) -> [f64; N] {
    let size = norm(w);
    let along = dot(w, z) / (size * size);
    std::array::from_fn(|i| (z[i] - along * w[i]) / size)
}

/// A vector of `N` normal numbers with the given norm.
fn normal<const N: usize>(noise: &mut SeededNoise, length: f64) -> [f64; N] {
    let values = noise.normal_values(N);
    let values: [f64; N] = std::array::from_fn(|i| f64::from(values[i]));
    let factor = length / norm(&values);
    values.map(|v| v * factor)
}

/// `Σ ‖Δw‖²` of a walk.
fn squared_steps<const N: usize>(points: &[[f64; N]]) -> f64 {
    points.windows(2).map(|w| squared_step(&w[0], &w[1])).sum()
}

fn squared_step(from: &[f64], to: &[f64]) -> f64 {
    from.iter().zip(to).map(|(a, b)| (b - a) * (b - a)).sum()
}

/// The greatest relative difference of `‖w‖²`, over the steps of a walk with momentum β, from the paper's
/// lemma, which states that it grows by `‖Δw_t‖² + 2 Σ_{k<t} β^{t−k} ‖Δw_k‖²`.
fn lemma_error<const N: usize>(points: &[[f64; N]], beta: f64) -> f64 {
    let mut past = 0.0; // Σ_{k<t} β^{t−k} ‖Δw_k‖²
    let mut greatest = 0.0_f64;
    for pair in points.windows(2) {
        let step = squared_step(&pair[0], &pair[1]);
        let said = dot(&pair[0], &pair[0]) + step + 2.0 * past;
        greatest = greatest.max((dot(&pair[1], &pair[1]) / said - 1.0).abs());
        past = beta * (past + step);
    }
    greatest
}

/// The mean angle of the last tenth of the steps, in milliradians.
fn last_turns<const N: usize>(points: &[[f64; N]]) -> f64 {
    let last = &points[points.len() - 1 - (points.len() - 1) / 10..];
    let angles = last.windows(2).map(|w| angle(&w[0], &w[1]));
    1e3 * angles.sum::<f64>() / (last.len() - 1) as f64
}

/// The result of one optimizer on the sphere.
#[derive(Serialize, Deserialize)]
struct Sphere {
    growth: f64,
    norm: f64,
    turn: f64,
    /// [`lemma_error`] with momentum.
    lemma: f64,
    /// The norm, over the steps.
    curve: Vec<[f64; 2]>,
}

impl Sphere {
    fn of(rule: Rule, seed: u64, steps: usize) -> Result<Self, ClaimError> {
        let mut draw = SeededNoise::new(seed, 0);
        let mut problem = OnSphere {
            start: normal(&mut draw, 1.0),
            pull: normal(&mut draw, 1.0),
            seed,
            steps,
        };
        let points = problem.with_rule(rule)?;
        let end = &points[points.len() - 1];
        let gained = dot(end, end) - dot(&points[0], &points[0]);
        let curve = points.iter().enumerate().step_by(steps / 100);
        Ok(Self {
            growth: gained / squared_steps(&points),
            norm: norm(end) / norm(&points[0]),
            turn: last_turns(&points),
            // Burn keeps β in 32 bits.
            lemma: lemma_error(&points, f64::from(BETA as f32)),
            curve: curve.map(|(t, w)| [t as f64, norm(w)]).collect(),
        })
    }
}

fn sphere(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let steps = if bench.quick() { 400 } else { 4000 };
    let points = points(bench, &Rule::ALL);
    let found = bench.measure(
        &Stage::new(SPHERE.name(), &steps),
        &points,
        |(seed, rule)| Cell::of(&SPHERE).variant(&rule.variant()).seed(*seed),
        |&(seed, rule)| Sphere::of(rule, seed, steps),
    )?;
    let mut plot = LinePlot::new(
        "Norm of a scale-invariant weight under noisy gradients",
        "step",
        "‖w‖ (at first 1)",
    );
    let mut lemma = Vec::new();
    for (&(seed, rule), sphere) in points.iter().zip(found) {
        let variant = rule.variant();
        table.record(&SPHERE, &variant, &GROWTH, seed, sphere.growth)?;
        table.record(&SPHERE, &variant, &NORM, seed, sphere.norm)?;
        table.record(&SPHERE, &variant, &TURN, seed, sphere.turn)?;
        if rule == Rule::Momentum {
            lemma.push(sphere.lemma);
        }
        if bench.seeds().first() == Some(&seed) {
            plot = plot.with_series(Series::new(variant.name(), sphere.curve));
        }
    }
    for (variant, factor, tolerance) in [
        (SGDP, 1.0, 1e-6),
        (ADAMP, 1.0, 1e-6),
        (GD, 1.0, 1e-6),
        (MOMENTUM, INFLATION, 0.05),
    ] {
        let values = table.values(&SPHERE, &variant, &GROWTH)?;
        let farthest = values
            .iter()
            .map(|v| (v / factor - 1.0).abs())
            .fold(0.0, f64::max);
        checks.push(Check::new(
            format!("{SPHERE}: ‖w‖² gains {factor:.0} ‖Δw‖² with {variant}"),
            farthest <= tolerance,
            format!("within {farthest:.1e} for every seed, {tolerance:.0e} allowed"),
        ));
    }
    let farthest = lemma.iter().copied().fold(0.0, f64::max);
    checks.push(Check::new(
        format!("{SPHERE}: ‖w‖² grows by what the paper's lemma says with momentum"),
        farthest <= 1e-9,
        format!("within {farthest:.1e} in every step, 1e-9 allowed"),
    ));
    for (method, baseline) in PAIRS {
        // This is not a headline, because it follows from the lemma.
        checks.push(for_every_seed(table, &SPHERE, &TURN, &method, &baseline)?);
    }
    Ok(plot)
}

/// The optimizers for each seed.
fn points(bench: &Bench<'_>, rules: &[Rule]) -> Vec<(u64, Rule)> {
    let seeds = bench.seeds().iter();
    seeds
        .flat_map(|&seed| rules.iter().map(move |&rule| (seed, rule)))
        .collect()
}

/// The check that `better` beats `worse` for each seed.
fn for_every_seed(
    table: &Table,
    task: &Task,
    metric: &Metric,
    better: &Variant,
    worse: &Variant,
) -> Result<Check, TableError> {
    let check = table.compare(task, metric, better, worse)?;
    let holds = table
        .values(task, better, metric)?
        .into_iter()
        .zip(table.values(task, worse, metric)?)
        .all(|(a, b)| metric.direction().is_better(a, b));
    Ok(Check::new(
        format!("{}, for every seed", check.text),
        holds,
        check.detail,
    ))
}

/// The valley `(1 − ψ)² + 10 (φ − ψ²)²` in longitude and latitude of `w`, and its gradient.
fn valley_at(w: &[f64; 3]) -> (f64, [f64; 3]) {
    let [x, y, z] = *w;
    let flat = x * x + y * y;
    let (rho, square) = (flat.sqrt(), flat + z * z);
    let (psi, phi) = (y.atan2(x), z.atan2(rho));
    let across = phi - psi * psi;
    let by_phi = 20.0 * across;
    let by_psi = -2.0 * (1.0 - psi) - 2.0 * psi * by_phi;
    let gradient = [
        -by_psi * y / flat - by_phi * z * x / (rho * square),
        by_psi * x / flat - by_phi * z * y / (rho * square),
        by_phi * rho / square,
    ];
    ((1.0 - psi).powi(2) + 10.0 * across * across, gradient)
}

/// A walk down the valley.
struct InValley {
    start: [f64; 3],
    rate: f64,
    steps: usize,
}

impl WithOptimizer for InValley {
    type Output = Vec<[f64; 3]>;

    fn with<O: Optimizer>(&mut self, optimizer: &O) -> Result<Self::Output, ClaimError> {
        walk(
            optimizer,
            self.rate,
            self.start,
            self.steps,
            |w| valley_at(w).1,
            |w| valley_at(w).0 <= VALLEY_LOSS,
        )
    }
}

/// The number of steps of a walk that arrived, or infinity.
fn steps_of(points: &[[f64; 3]]) -> f64 {
    match points.last() {
        Some(last) if valley_at(last).0 <= VALLEY_LOSS => (points.len() - 1) as f64,
        _ => f64::INFINITY,
    }
}

/// The walks of one optimizer down the valley, at all rates.
#[derive(Serialize, Deserialize)]
struct Walks {
    /// Steps at [`VALLEY_RATE`], and the norm at their end.
    steps: f64,
    norm: f64,
    /// Steps at the best rate.
    best: f64,
    /// The loss at [`VALLEY_RATE`].
    curve: Vec<[f64; 2]>,
}

impl Walks {
    fn of(rule: Rule, seed: u64, steps: usize) -> Result<Self, ClaimError> {
        // The start is beyond the bend of the valley, at unit length.
        let draw = SeededNoise::new(seed, 2).normal_values(2);
        let psi = -0.8 + 0.1 * f64::from(draw[0]).clamp(-2.0, 2.0);
        let phi = 0.7 + 0.1 * f64::from(draw[1]).clamp(-2.0, 2.0);
        let start = [phi.cos() * psi.cos(), phi.cos() * psi.sin(), phi.sin()];
        let mut walks = Self {
            steps: f64::INFINITY,
            norm: f64::NAN,
            best: f64::INFINITY,
            curve: Vec::new(),
        };
        for rate in VALLEY_RATES {
            let mut problem = InValley { start, rate, steps };
            let points = problem.with_rule(rule)?;
            let needed = steps_of(&points);
            walks.best = walks.best.min(needed);
            if rate == VALLEY_RATE {
                walks.steps = needed;
                walks.norm = norm(&points[points.len() - 1]);
                let every = (points.len() / 200).max(1);
                let curve = points.iter().enumerate().step_by(every);
                walks.curve = curve.map(|(t, w)| [t as f64, valley_at(w).0]).collect();
            }
        }
        Ok(walks)
    }
}

fn valley(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let steps = if bench.quick() { 500 } else { 5000 };
    let points = points(
        bench,
        &[Rule::AdamP, Rule::SgdP, Rule::Adam, Rule::Momentum],
    );
    let found = bench.measure(
        &Stage::new(VALLEY.name(), &(steps, VALLEY_RATES)),
        &points,
        |(seed, rule)| Cell::of(&VALLEY).variant(&rule.variant()).seed(*seed),
        |&(seed, rule)| Walks::of(rule, seed, steps),
    )?;
    let title = format!("{VALLEY} at learning rate {VALLEY_RATE}");
    let mut plot = LinePlot::new(title, "step", "loss").log_y();
    for (&(seed, rule), walks) in points.iter().zip(found) {
        let variant = rule.variant();
        table.record(&VALLEY, &variant, &STEPS, seed, walks.steps)?;
        table.record(&VALLEY, &variant, &NORM, seed, walks.norm)?;
        table.record(&VALLEY, &variant, &BEST_STEPS, seed, walks.best)?;
        if bench.seeds().first() == Some(&seed) {
            plot = plot.with_series(Series::new(variant.name(), walks.curve));
        }
    }
    for metric in [STEPS, BEST_STEPS] {
        for (method, baseline) in PAIRS {
            checks.push(table.compare(&VALLEY, &metric, &method, &baseline)?);
        }
    }
    Ok(plot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory::gradient_error;

    /// `f(c w) = f(w)`, so that `w·∇f = 0` and `∇f(c w) = ∇f(w)/c`; and the gradient is the function's.
    #[test]
    fn both_problems_are_scale_invariant() {
        let w = [0.3, -0.4, 0.5];
        let (value, gradient) = valley_at(&w);
        assert!(gradient_error(|w| valley_at(w).0, &gradient, &w) < 1e-7);
        assert!(dot(&w, &gradient).abs() < 1e-14);
        let (same, smaller) = valley_at(&w.map(|x| 4.0 * x));
        assert!((same - value).abs() < 1e-14);
        for (a, b) in gradient.iter().zip(smaller) {
            assert!((a / 4.0 - b).abs() < 1e-13);
        }
        let bottom = [
            1_f64.cos() * 1_f64.cos(),
            1_f64.cos() * 1_f64.sin(),
            1_f64.sin(),
        ];
        assert!(valley_at(&bottom).0 < 1e-30);

        let z = [1.0, 2.0, -0.5];
        let gradient = on_sphere(&w, &z);
        assert!(gradient_error(|w| dot(w, &z) / norm(w), &gradient, &w) < 1e-9);
        assert!(dot(&w, &gradient).abs() < 1e-15);
    }

    /// A walk that is momentum by hand obeys the lemma; one that is not, does not.
    #[test]
    fn the_lemma_tells_momentum_from_what_it_is_not() {
        let z = [0.3, -1.0, 0.2, 0.7];
        let by_hand = |beta: f64| {
            let (mut w, mut p) = ([1.0, 0.5, -0.2, 0.1], [0.0; 4]);
            let mut points = vec![w];
            for t in 0..50 {
                let g = on_sphere(&w, &z.map(|z| z * (1.0 + t as f64).sin()));
                for i in 0..4 {
                    p[i] = beta * p[i] + g[i];
                    w[i] -= 0.1 * p[i];
                }
                points.push(w);
            }
            points
        };
        assert!(lemma_error(&by_hand(0.9), 0.9) < 1e-12);
        assert!(lemma_error(&by_hand(0.0), 0.0) < 1e-12);
        assert!(lemma_error(&by_hand(0.9), 0.5) > 1e-3);
    }

    #[test]
    fn each_optimizer_is_walked_along_the_same_noise() {
        let mut draw = SeededNoise::new(3, 0);
        let mut problem = OnSphere {
            start: normal(&mut draw, 1.0),
            pull: normal(&mut draw, 1.0),
            seed: 3,
            steps: 2,
        };
        // The first step of SGD is the same with and without momentum and projection.
        let [plain, momentum, projected] =
            [Rule::Plain, Rule::Momentum, Rule::SgdP].map(|rule| problem.with_rule(rule).unwrap());
        for (a, b) in plain[1].iter().zip(momentum[1]) {
            assert!((a - b).abs() < 1e-15);
        }
        for (a, b) in plain[1].iter().zip(projected[1]) {
            assert!((a - b).abs() < 1e-9);
        }
        assert!(norm(&momentum[2]) > norm(&projected[2]));
    }
}
