//! diffGrad against Adam and others: the paper's three functions of one number, and training.
//!
//! * **Functions.** F1, F2 and F3 of the paper with its settings: 300 steps from −1 at the rate 0.1, β₁ =
//!   0.95, β₂ = 0.999. In F1 and F2, an optimizer first passes a global minimum and then a local one; F3 has
//!   a global minimum with kinks. Since one start shows little, the number of 41 starts between −1.2 and −0.8
//!   that end at the global minimum is reported too.
//! * **Training.** With learning rates found by a search, against the optimizers of the paper except
//!   AdaDelta, which Burn does not have. The headlines are about the training, because the abstract claims
//!   nothing about the functions except that they are analysed.
//!
//! Where gradients hardly change, diffGrad is Adam at half the rate, so this is a baseline on the functions;
//! in the training the search covers it. A bound shows how near diffGrad is to that: with `n` parameters the
//! mean of the coefficients `ξ = σ(|g' − g|)` is at most `σ((‖g'‖ + ‖g‖)/√n)`, since σ is concave on positive
//! numbers.

use burn::optim::momentum::MomentumConfig;
use burn::optim::{Adam, AdamConfig, Optimizer, Sgd, SgdConfig};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Series, Stage, Table,
    Task, Variant,
};
use nabla_optim::diffgrad::{DiffGrad, DiffGradConfig};
use nabla_train::history::StepRecord;
use nabla_train::optimizer::Method;
use serde::{Deserialize, Serialize};

use crate::training_contest::{self, ACCURACY, ADAPTIVE, Contest, entrant};
use crate::trajectory::walk;

const DIFFGRAD: Variant = Variant::method("diffGrad");
const ADAM: Variant = Variant::baseline("Adam");
const HALF: Variant = Variant::baseline("Adam at half the rate");
const AMSGRAD: Variant = Variant::baseline("AMSGrad");
const RMSPROP: Variant = Variant::baseline("RMSProp");
const ADAGRAD: Variant = Variant::baseline("AdaGrad");
const SGD: Variant = Variant::baseline("SGD with momentum");

const TRAINING: Task = Task::named("Fashion-MNIST, searched rates");

const DISTANCE: Metric = Metric::lower("distance to the global minimum", "");
const EXCESS: Metric = Metric::lower("loss above it", "");
const VARIATION: Metric = Metric::lower("way of the last 200 steps", "");
const SHARE: Metric = Metric::higher("starts that reach it", "%");
const FRICTION: Metric = Metric::informative("mean ξ at most", "");

const RATE: f64 = 0.1;
const BETA_1: f64 = 0.95;
const STEPS: usize = 300;
/// The last steps, whose total path shows how an optimizer oscillates.
const LAST: usize = 200;
const START: f64 = -1.0;
/// The distance within which the minimum counts as reached.
const NEAR: f64 = 0.01;
/// The distance for F3, whose slope is as steep next to its minimum as elsewhere.
const NEAR_KINK: f64 = 0.1;
const EPOCHS: usize = 6;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct DiffGradClaim;

impl Claim for DiffGradClaim {
    fn slug(&self) -> &str {
        "diffgrad"
    }

    fn statement(&self) -> &str {
        "diffGrad, which takes smaller steps for parameters whose gradient changes little, trains \
         convolutional networks to higher accuracy than SGD with momentum, AdaGrad, AdaDelta, RMSProp, \
         AMSGrad and Adam (AdaDelta is not measured here). In detail: on functions of one number it does \
         not overshoot global minima, at which Adam passes by, and oscillates less about them."
    }

    fn criterion(&self) -> &str {
        "Training with searched rates: higher mean test accuracy than each of SGD with momentum, AdaGrad, \
         RMSProp, AMSGrad and Adam. In detail: from −1, diffGrad ends within 0.01 of the global minimum of \
         F1 and of F2 and nearer to it than Adam at the same rate and at half the rate; more of the 41 \
         starts reach it than with each of the two. On F3 diffGrad and Adam end within 0.1 of it, and \
         diffGrad's last 200 steps are a shorter way than Adam's at the same rate and at half the rate."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let mut table = Table::new(
            bench.seeds(),
            [DISTANCE, EXCESS, VARIATION, SHARE, FRICTION]
                .into_iter()
                .chain(training_contest::metrics()),
            [DIFFGRAD, ADAM, HALF, AMSGRAD, RMSPROP, ADAGRAD, SGD],
            Function::ALL
                .map(Function::task)
                .into_iter()
                .chain([TRAINING]),
        )?;
        let mut checks = Vec::new();
        let mut notes = Vec::new();
        let plots = functions(bench, &mut table, &mut checks)?;

        let named = |name: &str| Method::named(name).map_err(ClaimError::experiment);
        let amsgrad = named("adam")?.with("amsgrad", true);
        let amsgrad = amsgrad.map_err(ClaimError::experiment)?;
        let entrants = vec![
            entrant(DIFFGRAD, named("diffgrad")?, 0.0).around(ADAPTIVE),
            entrant(ADAM, named("adam")?, 0.0).around(ADAPTIVE),
            entrant(AMSGRAD, amsgrad, 0.0).around(ADAPTIVE),
            entrant(RMSPROP, named("rmsprop")?, 0.0).around(ADAPTIVE),
            entrant(ADAGRAD, named("adagrad")?, 0.0),
            entrant(SGD, named("momentum")?, 0.0),
        ];
        let context = bench.context();
        let contest = Contest::new(context, EPOCHS, entrants)?.searched_widely(context);
        notes.push(format!(
            "{} No weight decay, as in the paper. The rates are around 0.003 for methods that divide by \
             an average size of the gradients, since the best around their customary 0.001 were the \
             highest, and around the customary 0.01 for AdaGrad and 0.1 for SGD.",
            contest.describe()
        ));
        notes.push(
            "Not measured: AdaDelta, which Burn does not have (it would be an optimizer to write, and a \
             sixth more trainings); other activation functions than this network's ReLU, with which the \
             paper says that diffGrad does uniformly well; the paper's own pictures and networks (CIFAR-10 \
             and CIFAR-100, ResNet)."
                .to_owned(),
        );
        let parameters = contest.parameters();
        let mut frictions = Vec::new();
        let accuracy = contest.hold(
            bench,
            &TRAINING,
            &mut table,
            &mut notes,
            &mut |variant, run| {
                if *variant == DIFFGRAD {
                    frictions.push(highest_mean_friction(&run.steps, parameters));
                }
            },
        )?;
        for (&seed, friction) in bench.seeds().iter().zip(frictions) {
            table.record(&TRAINING, &DIFFGRAD, &FRICTION, seed, friction)?;
        }
        for other in [ADAM, AMSGRAD, RMSPROP, ADAGRAD, SGD] {
            let check = table.compare(&TRAINING, &ACCURACY, &DIFFGRAD, &other)?;
            checks.push(check.headline());
        }
        let mut measurement = Measurement::new(table, checks);
        measurement.plots = plots;
        measurement.plots.push(accuracy);
        measurement.notes = notes;
        Ok(measurement)
    }
}

/// The mean over the steps of the upper bound of a step's mean ξ.
fn highest_mean_friction(steps: &[StepRecord], parameters: usize) -> f64 {
    let root = (parameters as f64).sqrt();
    let mut last = 0.0;
    let mut sum = 0.0;
    for step in steps {
        let now = f64::from(step.gradient_norm);
        sum += 1.0 / (1.0 + (-(last + now) / root).exp());
        last = now;
    }
    sum / steps.len() as f64
}

/// The paper's functions of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    F1,
    F2,
    F3,
}

impl Function {
    const ALL: [Self; 3] = [Self::F1, Self::F2, Self::F3];

    fn task(self) -> Task {
        Task::named(match self {
            Self::F1 => "F1",
            Self::F2 => "F2",
            Self::F3 => "F3",
        })
    }

    /// The position of its minimum.
    fn minimum(self) -> f64 {
        match self {
            Self::F1 => -0.3,
            Self::F2 => F2_MINIMUM,
            Self::F3 => 0.0,
        }
    }

    /// The distance within which it counts as reached.
    fn near(self) -> f64 {
        match self {
            Self::F3 => NEAR_KINK,
            _ => NEAR,
        }
    }

    /// The value and the derivative, or the left derivative where there are two.
    fn at(self, x: f64) -> (f64, f64) {
        match self {
            Self::F1 if x <= 0.0 => ((x + 0.3).powi(2), 2.0 * (x + 0.3)),
            Self::F1 => ((x - 0.2).powi(2) + 0.05, 2.0 * (x - 0.2)),
            Self::F2 if x <= -0.9 => (-40.0 * x - 35.15, -40.0),
            Self::F2 => {
                let (sin, cos) = (8.0 * x).sin_cos();
                let value = x.powi(3) + x * sin + 0.85;
                (value, 3.0 * x * x + sin + 8.0 * x * cos)
            }
            Self::F3 if x <= -0.5 || x > 0.5 => (x * x, 2.0 * x),
            Self::F3 if x <= -0.4 => (0.75 + x, 1.0),
            Self::F3 if x <= 0.0 => (-0.875 * x, -0.875),
            Self::F3 if x <= 0.4 => (0.875 * x, 0.875),
            Self::F3 => (0.75 - x, -1.0),
        }
    }

    fn walk<O: Optimizer>(
        self,
        optimizer: &O,
        rate: f64,
        start: f64,
    ) -> Result<Vec<f64>, ClaimError> {
        let gradient = |x: &[f64; 1]| [self.at(x[0]).1];
        let points = walk(optimizer, rate, [start], STEPS, gradient, |_| false)?;
        Ok(points.into_iter().map(|[x]| x).collect())
    }

    fn walk_by(self, rule: Rule, start: f64) -> Result<Vec<f64>, ClaimError> {
        match rule {
            Rule::DiffGrad => self.walk(&diffgrad()?, RATE, start),
            Rule::Adam => self.walk(&adam(), RATE, start),
            Rule::Half => self.walk(&adam(), 0.5 * RATE, start),
            Rule::Momentum => self.walk(&sgd(), RATE, start),
        }
    }

    /// The distance of the last point to the minimum.
    fn miss(self, points: &[f64]) -> f64 {
        points
            .last()
            .map_or(f64::NAN, |x| (x - self.minimum()).abs())
    }
}

/// The optimizers on the functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    DiffGrad,
    Adam,
    Half,
    Momentum,
}

impl Rule {
    const ALL: [Self; 4] = [Self::DiffGrad, Self::Adam, Self::Half, Self::Momentum];

    fn variant(self) -> Variant {
        match self {
            Self::DiffGrad => DIFFGRAD,
            Self::Adam => ADAM,
            Self::Half => HALF,
            Self::Momentum => SGD,
        }
    }
}

/// The root of F2's derivative `3x² + sin 8x + 8x cos 8x` at which F2 is least.
const F2_MINIMUM: f64 = -0.642_918_598_915_261_8;

fn diffgrad() -> Result<DiffGrad, ClaimError> {
    let config = DiffGradConfig::new().with_beta_1(BETA_1);
    config.build().map_err(ClaimError::experiment)
}

fn adam() -> Adam {
    AdamConfig::new()
        .with_beta_1(BETA_1 as f32)
        .with_epsilon(1e-8)
        .build()
}

fn sgd() -> Sgd {
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    SgdConfig::new().with_momentum(Some(momentum)).build()
}

/// The result of one optimizer on a function.
#[derive(Serialize, Deserialize)]
struct Walks {
    distance: f64,
    excess: f64,
    variation: f64,
    share: f64,
    /// The points from [`START`].
    points: Vec<f64>,
}

impl Walks {
    /// - `starts`: the number of starts from which to count those that reach the minimum
    fn of(function: Function, rule: Rule, starts: i32) -> Result<Self, ClaimError> {
        let points = function.walk_by(rule, START)?;
        let end = points.last().copied().unwrap_or(START);
        let last = &points[points.len().saturating_sub(LAST + 1)..];
        let mut reached = 0;
        for k in 0..starts {
            let start = -1.2 + 0.4 * f64::from(k) / f64::from(starts - 1);
            let points = function.walk_by(rule, start)?;
            reached += i32::from(function.miss(&points) <= function.near());
        }
        Ok(Self {
            distance: function.miss(&points),
            excess: function.at(end).0 - function.at(function.minimum()).0,
            variation: last.windows(2).map(|w| (w[1] - w[0]).abs()).sum(),
            share: 100.0 * f64::from(reached) / f64::from(starts),
            points,
        })
    }
}

fn functions(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<Vec<LinePlot>, ClaimError> {
    let starts = if bench.quick() { 3 } else { 41 };
    let points: Vec<(Function, Rule)> = Function::ALL
        .into_iter()
        .flat_map(|function| Rule::ALL.map(|rule| (function, rule)))
        .collect();
    let found = bench.measure(
        &Stage::new("functions", &(STEPS, starts)),
        &points,
        |(function, rule)| Cell::of(&function.task()).variant(&rule.variant()),
        |&(function, rule)| Walks::of(function, rule, starts),
    )?;
    let mut plots = Vec::new();
    for (function, found) in Function::ALL.into_iter().zip(found.chunks(Rule::ALL.len())) {
        let task = function.task();
        let mut plot = LinePlot::new(format!("{task} from −1 at the rate 0.1: x"), "step", "x");
        for (rule, walks) in Rule::ALL.into_iter().zip(found) {
            let variant = rule.variant();
            for (metric, value) in [
                (DISTANCE, walks.distance),
                (EXCESS, walks.excess),
                (VARIATION, walks.variation),
                (SHARE, walks.share),
            ] {
                table.record_for_every_seed(&task, &variant, &metric, value)?;
            }
            let curve = walks.points.iter().enumerate();
            let curve = curve.map(|(t, x)| [t as f64, *x]);
            plot = plot.with_series(Series::new(variant.name(), curve));
        }
        plots.push(plot);
        let arrives = |variant: &Variant| {
            let distance = table.mean(&task, variant, &DISTANCE)?;
            Ok::<_, ClaimError>(Check::new(
                format!(
                    "{task}: {variant} ends within {} of the global minimum",
                    function.near()
                ),
                distance <= function.near(),
                format!("{distance:.1e} from it"),
            ))
        };
        checks.push(arrives(&DIFFGRAD)?);
        let judged = match function {
            Function::F3 => {
                checks.push(arrives(&ADAM)?);
                vec![VARIATION]
            }
            _ => vec![DISTANCE, SHARE],
        };
        for metric in judged {
            for other in [ADAM, HALF] {
                checks.push(table.compare(&task, &metric, &DIFFGRAD, &other)?);
            }
        }
    }
    Ok(plots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory::gradient_error;

    #[test]
    fn the_derivatives_are_the_functions_and_nothing_is_below_the_minimum() {
        for function in Function::ALL {
            for x in [-1.1, -0.7, -0.45, -0.2, 0.15, 0.45, 0.8] {
                let error = gradient_error(|x| function.at(x[0]).0, &[function.at(x).1], &[x]);
                assert!(error < 1e-7, "{function:?} at {x}: {error}");
            }
            let least = function.at(function.minimum()).0;
            for k in -1500..=1500 {
                assert!(
                    function.at(f64::from(k) * 1e-3).0 >= least,
                    "{function:?}, {k}"
                );
            }
        }
        assert!(Function::F2.at(F2_MINIMUM).1.abs() < 1e-12);
    }

    /// On the constant slope of F2 diffGrad is Adam at half the rate from the second step on.
    #[test]
    fn on_a_constant_slope_diffgrad_is_adam_at_half_the_rate() {
        let [ours, half] =
            [Rule::DiffGrad, Rule::Half].map(|rule| Function::F2.walk_by(rule, -30.0).unwrap());
        for (a, b) in ours[1..100].windows(2).zip(half[1..100].windows(2)) {
            assert!(((a[1] - a[0]) - (b[1] - b[0])).abs() < 1e-5);
        }
        assert!(ours[1] - ours[0] > 1.9 * (half[1] - half[0]));
    }

    #[test]
    fn the_friction_of_equal_gradients_meets_its_bound() {
        let step = |gradient_norm| StepRecord {
            loss: Some(0.0),
            gradient_norm,
            learning_rate: 0.1,
        };
        // Gradients ±1 in each of 4 numbers: |g' − g| is 1 in the first step and 2 in the second.
        let bound = highest_mean_friction(&[step(2.0), step(2.0)], 4);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        assert!((bound - 0.5 * (sigmoid(1.0) + sigmoid(2.0))).abs() < 1e-12);
        assert!((highest_mean_friction(&[step(0.0)], 4) - 0.5).abs() < 1e-12);
    }
}
