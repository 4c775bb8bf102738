//! AdamP and SGDP against Adam and momentum: how long scale-invariant weights grow, how far a step
//! turns them, and what that is worth.
//!
//! * **Noisy steps on the sphere.** Any loss of the direction of `w` alone has the gradient
//!   `g = Π_w(z)/‖w‖`. Here `z` is noise about a fixed vector, as stochastic gradients are. The paper's
//!   lemmas say how `‖w‖²` grows: by `‖Δw‖²` in a step of gradient descent or with the projection, and
//!   with momentum, `p` being the step over the learning rate, by
//!   `‖Δw‖² + 2η² Σ_{k<t} β^{t−k} ‖p_k‖²`, which is `1 + 2β/(1 − β)` times as much in the long run.
//! * **Scale-invariant Rosenbrock.** Rosenbrock's valley `(1 − ψ)² + 10 (φ − ψ²)²` in longitude ψ and
//!   latitude φ of a point in space, which is the paper's picture of the problem with numbers of our
//!   own.
//! * **Training.** A network with batch normalisation: with the customary learning rate held constant,
//!   where nothing but the norms changes how far a step turns the kernels, and with searched ones.
//!
//! The baselines of SGDP and AdamP are SGD with momentum and AdamW; without weight decay, on the first
//! two problems, AdamW is Adam.

use burn::optim::momentum::MomentumConfig;
use burn::optim::{Adam, AdamConfig, Optimizer, Sgd, SgdConfig};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_optim::adamp::{AdamPConfig, ChannelDim, SgdPConfig};
use nabla_train::classification::TrainingConfig;
use nabla_train::cnn::Cnn;
use nabla_train::optimizer::Method;
use nabla_train::schedule::{Decay, Schedule};

use crate::claim::{Claim, ClaimContext, ClaimError, Paper};
use crate::measurement::{Check, Measurement, Metric, Table, TableError, Variant};
use crate::plot::{LinePlot, Series};
use crate::training_contest::{
    self, ACCURACY, ADAPTIVE, Contest, around, contender, kernels, mean_of_kernels,
};
use crate::trajectory::{angle, dot, norm, walk};

const GD: &str = "SGD without momentum";
const MOMENTUM: &str = "SGD with momentum";
const SGDP: &str = "SGDP";
const ADAM: &str = "AdamW";
const ADAMP: &str = "AdamP";

/// Each method and what it is without the projection.
const PAIRS: [(&str, &str); 2] = [(SGDP, MOMENTUM), (ADAMP, ADAM)];

const SPHERE: &str = "noisy steps on the sphere";
const VALLEY: &str = "scale-invariant Rosenbrock";
const CONSTANT: &str = "Fashion-MNIST, customary rate held constant";
const SEARCHED: &str = "Fashion-MNIST, searched rates";

const GROWTH: &str = "‖w‖² gained per ‖Δw‖²";
const NORM: &str = "‖w‖ at the end over at first";
const TURN: &str = "turn per step at the end";
const STEPS: &str = "steps to 1e-3";
const BEST_STEPS: &str = "steps to 1e-3, best rate";

const BETA: f64 = 0.9;
/// The factor of the paper's lemma, 19.
const INFLATION: f64 = 1.0 + 2.0 * BETA / (1.0 - BETA);
/// Numbers of the weight on the sphere.
const SIZE: usize = 32;
const SPHERE_RATE: f64 = 0.1;
/// The learning rate at which the valley is walked by all alike, and those of the search.
const VALLEY_RATE: f64 = 1e-2;
const VALLEY_RATES: [f64; 9] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0];
const VALLEY_LOSS: f64 = 1e-3;
const EPOCHS: usize = 6;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct AdamPClaim;

impl Claim for AdamPClaim {
    fn slug(&self) -> &str {
        "adamp"
    }

    fn paper(&self) -> Paper {
        Paper::new(
            "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
            "Heo et al.",
            2020,
            "2006.08217",
        )
    }

    fn statement(&self) -> &str {
        "Momentum makes scale-invariant weights grow up to 1 + 2β/(1 − β) times as fast as gradient \
         descent does, so that the steps they effectively take shrink too early. Taking the radial part \
         out of the step (SGDP, AdamP) stops that, and trains better than SGD with momentum and Adam(W)."
    }

    fn criterion(&self) -> &str {
        "On the sphere, for every seed: ‖w‖² gains ‖Δw‖² with SGDP and AdamP as with plain SGD (to 1e-6), \
         and 19 times as much (to 5 %) with momentum 0.9, in every step what the paper's lemma says (to \
         1e-9); at the end SGDP and AdamP turn the weight more per step than momentum and AdamW. On \
         Rosenbrock's valley SGDP and AdamP need fewer steps on average to a loss of 1e-3 than momentum \
         and AdamW, at the same rate and at the best of nine each. In the network at the same constant \
         rate, kernels grow less and turn more per step with SGDP and AdamP, for every seed; with \
         searched rates their mean test accuracy is higher."
    }

    fn run(&self, context: &ClaimContext<'_>) -> Result<Measurement, ClaimError> {
        let mut table = Table::new(
            &context.seeds,
            [
                Metric::informative(GROWTH, ""),
                Metric::lower(NORM, ""),
                Metric::higher(TURN, "mrad"),
                Metric::lower(STEPS, ""),
                Metric::lower(BEST_STEPS, ""),
            ]
            .into_iter()
            .chain(training_contest::metrics()),
            [
                Variant::method(ADAMP),
                Variant::method(SGDP),
                Variant::baseline(ADAM),
                Variant::baseline(MOMENTUM),
                Variant::baseline(GD),
            ],
            [SPHERE, VALLEY, CONSTANT, SEARCHED],
        )?;
        let mut checks = Vec::new();
        let mut notes = Vec::new();
        let norms = sphere(context, &mut table, &mut checks)?;
        let losses = valley(context, &mut table, &mut checks)?;

        let mut contenders = Vec::new();
        for label in [ADAMP, SGDP, ADAM, MOMENTUM] {
            let (name, decay) = match label {
                ADAMP => ("adamp", 1e-2),
                SGDP => ("sgdp", 1e-4),
                ADAM => ("adamw", 1e-2),
                _ => ("momentum", 1e-4),
            };
            let method = Method::named(name).map_err(ClaimError::experiment)?;
            let contender = contender(label, method, decay);
            contenders.push(match label {
                ADAMP | ADAM => around(ADAPTIVE, contender),
                _ => contender,
            });
        }
        let contest = Contest::new(context, EPOCHS, contenders)?.searched_widely(context);
        notes.push(format!(
            "{} Weight decay: 1e-2 for AdamP and AdamW, 1e-4 for SGDP and SGD, as in the examples of \
             the authors' repository and their baselines. The rates are around 0.003 for methods that divide by the size of the gradients, since the best \
             around their customary 0.001 were the highest, and around the customary 0.1 for the others.",
            contest.describe()
        ));
        let kernels = constant(context, &contest, &mut table, &mut checks)?;
        let mut growths = Vec::new();
        let accuracy = contest.hold(
            context,
            SEARCHED,
            &mut table,
            &mut notes,
            &mut |label, run| {
                growths.push((label.to_owned(), run.growth));
            },
        )?;
        for ((label, growth), seed) in growths.iter().zip(context.seeds.iter().cycle()) {
            table.record(SEARCHED, label, NORM, *seed, *growth)?;
        }
        for (method, baseline) in PAIRS {
            checks.push(table.compare(SEARCHED, ACCURACY, method, baseline)?);
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

/// What is done with each of the five optimizers, which see the weight as one vector.
trait WithOptimizer {
    type Output;

    fn with<O: Optimizer>(&mut self, optimizer: &O) -> Result<Self::Output, ClaimError>;

    fn with_named(&mut self, name: &str) -> Result<Self::Output, ClaimError> {
        let whole = ChannelDim::Dim(0);
        match name {
            GD => self.with(&sgd(0.0)),
            MOMENTUM => self.with(&sgd(BETA)),
            ADAM => self.with(&adam()),
            SGDP => {
                let config = SgdPConfig::new()
                    .with_momentum(BETA)
                    .with_channel_dim(whole);
                self.with(&config.build().map_err(ClaimError::experiment)?)
            }
            ADAMP => {
                let config = AdamPConfig::new().with_channel_dim(whole);
                self.with(&config.build().map_err(ClaimError::experiment)?)
            }
            name => Err(ClaimError::experiment(format!(
                "no optimizer is named {name}"
            ))),
        }
    }
}

/// A walk from `start` along the gradient `Π_w(z)/‖w‖`, `z` being noise about `pull`.
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

/// The greatest relative difference of `‖w‖²`, over the steps of a walk with momentum β, to what the
/// paper's lemma says: that it grows by `‖Δw_t‖² + 2 Σ_{k<t} β^{t−k} ‖Δw_k‖²`.
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

fn sphere(
    context: &ClaimContext<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let names = [ADAMP, SGDP, ADAM, MOMENTUM, GD];
    let steps = if context.quick { 400 } else { 4000 };
    let runs = names.len() * context.seeds.len();
    context.progress.begin(SPHERE, runs as u64);
    let mut plot = LinePlot::new(
        "Norm of a scale-invariant weight under noisy gradients",
        "step",
        "‖w‖ (at first 1)",
    );
    let mut lemma = Vec::new();
    for (i, &seed) in context.seeds.iter().enumerate() {
        let mut draw = SeededNoise::new(seed, 0);
        let mut problem = OnSphere {
            start: normal(&mut draw, 1.0),
            pull: normal(&mut draw, 1.0),
            seed,
            steps,
        };
        for name in names {
            let points = problem.with_named(name)?;
            let end = &points[points.len() - 1];
            let gained = dot(end, end) - dot(&points[0], &points[0]);
            table.record(SPHERE, name, GROWTH, seed, gained / squared_steps(&points))?;
            table.record(SPHERE, name, NORM, seed, norm(end) / norm(&points[0]))?;
            table.record(SPHERE, name, TURN, seed, last_turns(&points))?;
            if name == MOMENTUM {
                // Burn keeps β in 32 bits.
                lemma.push(lemma_error(&points, f64::from(BETA as f32)));
            }
            if i == 0 {
                let curve = points.iter().enumerate().step_by(steps / 100);
                let curve = curve.map(|(t, w)| [t as f64, norm(w)]);
                plot = plot.with_series(Series::new(name, curve));
            }
            context.progress.advance(1);
        }
    }
    for (name, factor, tolerance) in [
        (SGDP, 1.0, 1e-6),
        (ADAMP, 1.0, 1e-6),
        (GD, 1.0, 1e-6),
        (MOMENTUM, INFLATION, 0.05),
    ] {
        let values = table.values(SPHERE, name, GROWTH)?;
        let farthest = values
            .iter()
            .map(|v| (v / factor - 1.0).abs())
            .fold(0.0, f64::max);
        checks.push(Check::new(
            format!("{SPHERE}: ‖w‖² gains {factor:.0} ‖Δw‖² with {name}"),
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
        checks.push(for_every_seed(table, SPHERE, TURN, method, baseline)?);
    }
    Ok(plot)
}

/// The check that `better` beats `worse` for each seed.
fn for_every_seed(
    table: &Table,
    group: &str,
    metric: &str,
    better: &str,
    worse: &str,
) -> Result<Check, TableError> {
    let check = table.compare(group, metric, better, worse)?;
    let direction = table
        .metrics()
        .iter()
        .find(|m| m.name == metric)
        .map(|m| m.direction);
    let pairs = table.values(group, better, metric)?;
    let holds = pairs
        .iter()
        .zip(table.values(group, worse, metric)?)
        .all(|(&a, b)| direction.is_some_and(|d| d.is_better(a, b)));
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

fn valley(
    context: &ClaimContext<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let names = [ADAMP, SGDP, ADAM, MOMENTUM];
    let steps = if context.quick { 500 } else { 5000 };
    let runs = names.len() * context.seeds.len();
    context.progress.begin(VALLEY, runs as u64);
    let title = format!("{VALLEY} at learning rate {VALLEY_RATE}");
    let mut plot = LinePlot::new(title, "step", "loss").log_y();
    for (i, &seed) in context.seeds.iter().enumerate() {
        // Beyond the bend of the valley, at unit length.
        let draw = SeededNoise::new(seed, 2).normal_values(2);
        let psi = -0.8 + 0.1 * f64::from(draw[0]).clamp(-2.0, 2.0);
        let phi = 0.7 + 0.1 * f64::from(draw[1]).clamp(-2.0, 2.0);
        let start = [phi.cos() * psi.cos(), phi.cos() * psi.sin(), phi.sin()];
        for name in names {
            let mut best = f64::INFINITY;
            for rate in VALLEY_RATES {
                let mut problem = InValley { start, rate, steps };
                let points = problem.with_named(name)?;
                let needed = steps_of(&points);
                best = best.min(needed);
                if rate != VALLEY_RATE {
                    continue;
                }
                let end = &points[points.len() - 1];
                table.record(VALLEY, name, STEPS, seed, needed)?;
                table.record(VALLEY, name, NORM, seed, norm(end))?;
                if i == 0 {
                    let every = (points.len() / 200).max(1);
                    let curve = points.iter().enumerate().step_by(every);
                    let curve = curve.map(|(t, w)| [t as f64, valley_at(w).0]);
                    plot = plot.with_series(Series::new(name, curve));
                }
            }
            table.record(VALLEY, name, BEST_STEPS, seed, best)?;
            context.progress.advance(1);
        }
    }
    for metric in [STEPS, BEST_STEPS] {
        for (method, baseline) in PAIRS {
            checks.push(table.compare(VALLEY, metric, method, baseline)?);
        }
    }
    Ok(plot)
}

fn constant(
    context: &ClaimContext<'_>,
    contest: &Contest,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let runs = contest.contenders().len() * context.seeds.len();
    context.progress.begin(CONSTANT, runs as u64);
    let training = TrainingConfig {
        schedule: Schedule {
            decay: Decay::Constant,
            ..Schedule::default()
        },
        ..contest.training().clone()
    };
    let epoch = contest.steps_per_epoch();
    let mut plot = LinePlot::new(
        "Network at the customary constant rate: kernels",
        "step",
        "‖w‖ over that at first (mean of the kernels)",
    );
    for contender in contest.contenders() {
        // The customary rate, not the middle of the search.
        let (label, rate) = (
            contender.label(),
            contender.optimizer.method.learning_rate(),
        );
        for (i, &seed) in context.seeds.iter().enumerate() {
            let mut first = Vec::new();
            let mut before: Vec<Vec<f64>> = Vec::new();
            let mut growth = Vec::new();
            let mut turns = Vec::new();
            let mut watch = |model: &Cnn| {
                let now = kernels(model)?;
                if growth.is_empty() {
                    first = now.clone();
                } else {
                    turns.push(mean_of_kernels(&before, &now, angle));
                }
                growth.push(mean_of_kernels(&first, &now, |a, b| norm(b) / norm(a)));
                before = now;
                Ok(())
            };
            let trained = contest.train(
                context,
                training.clone(),
                &contender.optimizer,
                rate,
                seed,
                &mut watch,
            )?;
            trained.record(table, CONSTANT, label, rate, seed)?;
            let last = &turns[turns.len().saturating_sub(epoch)..];
            let turn = 1e3 * last.iter().sum::<f64>() / last.len() as f64;
            let end = growth.last().copied().unwrap_or(f64::NAN);
            table.record(CONSTANT, label, TURN, seed, turn)?;
            table.record(CONSTANT, label, NORM, seed, end)?;
            if i == 0 {
                let curve = growth.iter().enumerate().map(|(t, g)| [t as f64, *g]);
                plot = plot.with_series(Series::new(label, curve));
            }
        }
    }
    for metric in [NORM, TURN] {
        for (method, baseline) in PAIRS {
            checks.push(for_every_seed(table, CONSTANT, metric, method, baseline)?);
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
            [GD, MOMENTUM, SGDP].map(|name| problem.with_named(name).unwrap());
        for (a, b) in plain[1].iter().zip(momentum[1]) {
            assert!((a - b).abs() < 1e-15);
        }
        for (a, b) in plain[1].iter().zip(projected[1]) {
            assert!((a - b).abs() < 1e-9);
        }
        assert!(norm(&momentum[2]) > norm(&projected[2]));
        assert!(problem.with_named("none").is_err());
    }
}
