//! DADAO against methods of rounds: gradients and messages until the error is 1e-6 of that of the start.
//!
//! Least squares on 16 nodes, 5 unknowns, 50 rows per node, a different solution at each node. A message is one vector
//! over one edge in both directions. DADAO runs with the same rate for all edges, and with the optimal rates. ADOM+ runs
//! with one gossip per round, and with as many as halve the error of the consensus; MSDA with the gradients of the
//! conjugates, which solve a system each; gradient tracking with the best step of a grid.
//!
//! The digits: logistic regression of small against large digits on 8 nodes of a ring, with sorted shards, each node a
//! thread of its own.

use std::ops::ControlFlow;

use faer::{Mat, Side};
use nabla_base::rate_fit::exponential_rate;
use nabla_base::vector::{add_scaled, distance, dot};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Series, Stage, Table,
    Task, Variant,
};
use nabla_grad::SeededNoise;
use nabla_share::dadao::adom::AdomPlus;
use nabla_share::dadao::gradient_tracking::GradientTracking;
use nabla_share::dadao::{Dadao, DadaoError, DadaoNode, Gradient, Objective, msda};
use nabla_share::graph::{EdgeRates, Graph};
use rand::RngExt;
use serde::{Deserialize, Serialize};

mod digits;

const UNIFORM: Variant = Variant::method("DADAO");
const OPTIMAL: Variant = Variant::method("DADAO, optimal rates");
const ADOM: Variant = Variant::baseline("ADOM+");
const CONSENSUS: Variant = Variant::baseline("ADOM+, multi-consensus");
const MSDA: Variant = Variant::baseline("MSDA");
const TRACKING: Variant = Variant::baseline("gradient tracking");
const VARIANTS: [Variant; 6] = [UNIFORM, OPTIMAL, ADOM, CONSENSUS, MSDA, TRACKING];

const RING: Task = Task::named("ring");
const GRID: Task = Task::named("grid 4 × 4");
const STAR: Task = Task::named("star");
const BARBELL: Task = Task::named("barbell 8 + 8");
const COMPLETE: Task = Task::named("complete");
const DIGITS: Task = Task::named("digits on 8 threads, ring");
const TASKS: [Task; 5] = [RING, GRID, STAR, BARBELL, COMPLETE];

const GRADIENTS: Metric = Metric::lower("gradients", "");
const MESSAGES: Metric = Metric::lower("messages", "");
const TIME: Metric = Metric::informative("time", "gradients per node");
const ERROR: Metric = Metric::informative("relative squared error at the end", "");

const NODES: usize = 16;
const UNKNOWNS: usize = 5;
const ROWS: usize = 50;

fn graph(task: &Task) -> Result<Graph, ClaimError> {
    let graph = match task {
        t if *t == RING => Graph::ring(NODES),
        t if *t == GRID => Graph::grid(4, 4),
        t if *t == STAR => Graph::star(NODES),
        t if *t == BARBELL => Graph::barbell(NODES / 2),
        _ => Graph::complete(NODES),
    };
    graph.map_err(ClaimError::experiment)
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct DadaoClaim;

impl Claim for DadaoClaim {
    fn slug(&self) -> &str {
        "dadao"
    }

    fn version(&self) -> u32 {
        2
    }

    fn statement(&self) -> &str {
        "DADAO needs O(n√(L/μ) log 1/ε) local gradients and O(n√(χ₁χ₂)√(L/μ) log 1/ε) communications, accelerated in \
         both without multi-consensus; rates of the edges from a semidefinite program save communications."
    }

    fn criterion(&self) -> &str {
        "To an error of 1e-6 on each of ring, grid, star and barbell: DADAO with equal rates sends fewer messages than \
         ADOM+ with and without multi-consensus, and takes fewer gradients than both. On the barbell, the optimal rates \
         send fewer messages than equal ones. In detail: the same on a complete graph; on no graph do optimal rates send \
         more than 1.05 times the messages of equal ones; the error falls linearly in time (R² above 0.97), which takes \
         the same time on all graphs, up to 10 %; DADAO sends fewer messages than MSDA and than gradient tracking; on \
         threads, the squared error of the digits falls to 1e-6 of that of the start, with both kinds of rates."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let tasks = if bench.quick() {
            vec![STAR, BARBELL]
        } else {
            TASKS.to_vec()
        };
        let target = if bench.quick() { 1e-3 } else { 1e-6 };
        let seeds = bench.seeds();
        let mut points = Vec::new();
        for task in &tasks {
            for variant in VARIANTS {
                points.extend(
                    seeds
                        .iter()
                        .map(|&seed| (task.clone(), variant.clone(), seed)),
                );
            }
        }
        let found = bench.measure_side_by_side(
            &Stage::new("descent", &(NODES, UNKNOWNS, ROWS, target)),
            &points,
            |(task, variant, seed)| Cell::of(task).variant(variant).seed(*seed),
            |(task, variant, seed)| descend(task, variant, *seed, target),
        )?;
        let metrics = [GRADIENTS, MESSAGES, TIME, ERROR];
        let named = tasks.iter().cloned().chain([DIGITS]);
        let mut table = Table::new(seeds, metrics, VARIANTS, named)?;
        let mut plot = LinePlot::new(
            "squared error of DADAO (first seed)",
            "time",
            "relative squared error",
        )
        .log_y();
        let mut straight: f64 = 1.0;
        for ((task, variant, seed), run) in points.iter().zip(&found) {
            table.record(task, variant, &GRADIENTS, *seed, run.gradients)?;
            table.record(task, variant, &MESSAGES, *seed, run.messages)?;
            if *variant == UNIFORM || *variant == OPTIMAL {
                table.record(task, variant, &TIME, *seed, run.time)?;
                let fit = exponential_rate(run.curve.iter().map(|&[t, e]| (t, e)));
                straight = straight.min(fit.map_or(0.0, |fit| fit.explained));
            }
            if *variant == UNIFORM && *seed == seeds[0] {
                plot = plot.with_series(Series::new(task.name(), run.curve.iter().copied()));
            }
        }

        let mut checks = Vec::new();
        for task in &tasks {
            for metric in [MESSAGES, GRADIENTS] {
                for baseline in [ADOM, CONSENSUS] {
                    let check = table.compare(task, &metric, &UNIFORM, &baseline)?;
                    checks.push(check.headline_if(*task != COMPLETE));
                }
            }
        }
        checks.push(
            table
                .compare(&BARBELL, &MESSAGES, &OPTIMAL, &UNIFORM)?
                .headline(),
        );
        let mut worst: f64 = 0.0;
        let mut times = Vec::new();
        for task in &tasks {
            let [optimal, uniform] = [OPTIMAL, UNIFORM].map(|v| table.mean(task, &v, &MESSAGES));
            worst = worst.max(optimal? / uniform?);
            times.push(table.mean(task, &UNIFORM, &TIME)?);
        }
        checks.push(Check::new(
            "optimal rates send at most 1.05 times the messages of equal ones on every graph",
            worst <= 1.05,
            format!("at most {worst:.3} times"),
        ));
        checks.push(Check::new(
            "the error falls linearly in time",
            straight > 0.97,
            format!("R² of a line in the logarithm at least {straight:.3}"),
        ));
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        let most = times.iter().copied().fold(0.0, f64::max);
        checks.push(Check::new(
            "the time is the same on all graphs, up to 10 %",
            most <= 1.1 * least,
            format!("from {least:.0} to {most:.0} gradients per node"),
        ));
        for task in &tasks {
            for baseline in [MSDA, TRACKING] {
                checks.push(table.compare(task, &MESSAGES, &UNIFORM, &baseline)?);
            }
        }
        on_threads(bench, &mut table, &mut checks)?;
        let mut measurement = Measurement::new(table, checks).with_plot(plot);
        measurement.notes.push(
            "Two messages of ADOM+ in one round, of the two vectors that it gossips, count as one, as in the official \
             code, and so do those of gradient tracking. A gradient of MSDA is that of a conjugate: a minimisation of a \
             node's function, which is exact here."
                .to_owned(),
        );
        Ok(measurement)
    }
}

/// A run to the target.
#[derive(Serialize, Deserialize)]
struct Descent {
    gradients: f64,
    messages: f64,
    time: f64,
    /// Time and relative squared error.
    curve: Vec<[f64; 2]>,
}

impl Default for Descent {
    /// The target is not reached.
    fn default() -> Self {
        Self {
            gradients: f64::INFINITY,
            messages: f64::INFINITY,
            time: f64::INFINITY,
            curve: Vec::new(),
        }
    }
}

/// The digits on threads, until a time.
fn on_threads(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<(), ClaimError> {
    let until = if bench.quick() { 60.0 } else { 900.0 };
    let mut points = Vec::new();
    for variant in [UNIFORM, OPTIMAL] {
        points.extend(bench.seeds().iter().map(|&seed| (variant.clone(), seed)));
    }
    let found = bench.measure(
        &Stage::new("digits", &until),
        &points,
        |(variant, seed)| Cell::of(&DIGITS).variant(variant).seed(*seed),
        |(variant, seed)| digits::descend(*variant == OPTIMAL, until, *seed),
    )?;
    let mut worst: f64 = 0.0;
    for ((variant, seed), run) in points.iter().zip(found) {
        table.record(&DIGITS, variant, &GRADIENTS, *seed, run.gradients)?;
        table.record(&DIGITS, variant, &MESSAGES, *seed, run.messages)?;
        table.record(&DIGITS, variant, &TIME, *seed, until)?;
        table.record(&DIGITS, variant, &ERROR, *seed, run.error)?;
        worst = worst.max(run.error);
    }
    checks.push(Check::new(
        "on threads, the squared error of the digits is below 1e-6 of that of the start",
        worst < 1e-6,
        format!("{worst:.1e} at most"),
    ));
    Ok(())
}

/// The least squares of one node: gradient `H x − c`.
struct Part {
    h: Vec<Vec<f64>>,
    c: Vec<f64>,
}

struct LeastSquares {
    parts: Vec<Part>,
    smoothness: f64,
    strong_convexity: f64,
    minimum: Vec<f64>,
}

impl Part {
    /// The `x` with `H x − c = y`, by Gaussian elimination of a positive definite matrix, which needs no pivots.
    fn conjugate_gradient(&self, y: &[f64]) -> Vec<f64> {
        let mut h = self.h.clone();
        let mut x: Vec<f64> = self.c.iter().zip(y).map(|(c, y)| c + y).collect();
        for i in 0..UNKNOWNS {
            for below in i + 1..UNKNOWNS {
                let factor = h[below][i] / h[i][i];
                let row = h[i].clone();
                add_scaled(&mut h[below], -factor, &row);
                x[below] -= factor * x[i];
            }
        }
        for i in (0..UNKNOWNS).rev() {
            let known = dot(&h[i][i + 1..], &x[i + 1..]);
            x[i] = (x[i] - known) / h[i][i];
        }
        x
    }
}

impl LeastSquares {
    fn draw(seed: u64) -> Result<Self, ClaimError> {
        let mut noise = SeededNoise::new(seed, 1);
        let failed = |_| ClaimError::experiment("the least squares have no eigenvalues");
        let (mut smoothness, mut strong_convexity) = (0.0, f64::INFINITY);
        let mut parts = Vec::new();
        let mut sums = (Mat::<f64>::zeros(UNKNOWNS, UNKNOWNS), vec![0.0; UNKNOWNS]);
        for _ in 0..NODES {
            let own: Vec<f64> = (0..UNKNOWNS)
                .map(|_| noise.random_range(-2.0..2.0))
                .collect();
            let mut h = vec![vec![0.0; UNKNOWNS]; UNKNOWNS];
            let mut c = vec![0.0; UNKNOWNS];
            for _ in 0..ROWS {
                let drawn = noise.normal_values(UNKNOWNS + 1);
                // Features of different scales, for a condition number of about 20.
                let row: Vec<f64> = (0..UNKNOWNS)
                    .map(|k| f64::from(drawn[k]) * (1.0 - 0.13 * k as f64))
                    .collect();
                let target = dot(&row, &own) + 0.1 * f64::from(drawn[UNKNOWNS]);
                for (h, a) in h.iter_mut().zip(&row) {
                    add_scaled(h, 2.0 * a / ROWS as f64, &row);
                }
                add_scaled(&mut c, 2.0 * target / ROWS as f64, &row);
            }
            let matrix = Mat::from_fn(UNKNOWNS, UNKNOWNS, |i, j| h[i][j]);
            let values = matrix
                .self_adjoint_eigenvalues(Side::Lower)
                .map_err(failed)?;
            smoothness = values.iter().copied().fold(smoothness, f64::max);
            strong_convexity = values.iter().copied().fold(strong_convexity, f64::min);
            sums.0 += &matrix;
            add_scaled(&mut sums.1, 1.0, &c);
            parts.push(Part { h, c });
        }
        // By conjugate gradients, exact after as many steps as there are unknowns; twice, against rounding.
        let mut minimum = vec![0.0; UNKNOWNS];
        for _ in 0..2 {
            let apply = |x: &[f64]| -> Vec<f64> {
                let row = |i| (0..UNKNOWNS).map(|j| sums.0[(i, j)] * x[j]).sum();
                (0..UNKNOWNS).map(row).collect()
            };
            let mut residual = sums.1.clone();
            add_scaled(&mut residual, -1.0, &apply(&minimum));
            let mut direction = residual.clone();
            for _ in 0..UNKNOWNS {
                let image = apply(&direction);
                let before = dot(&residual, &residual);
                if before == 0.0 {
                    break;
                }
                let length = before / dot(&direction, &image);
                add_scaled(&mut minimum, length, &direction);
                add_scaled(&mut residual, -length, &image);
                let keep = dot(&residual, &residual) / before;
                direction = residual
                    .iter()
                    .zip(&direction)
                    .map(|(r, d)| r + keep * d)
                    .collect();
            }
        }
        Ok(Self {
            parts,
            smoothness,
            strong_convexity,
            minimum,
        })
    }

    fn objective(&self) -> Objective<'_> {
        let gradient = |part: &'_ Part, x: &[f64]| -> Vec<f64> {
            part.h
                .iter()
                .zip(&part.c)
                .map(|(row, c)| dot(row, x) - c)
                .collect()
        };
        let boxed = |part| Box::new(move |x: &[f64]| gradient(part, x)) as Gradient<'_>;
        Objective {
            smoothness: self.smoothness,
            strong_convexity: self.strong_convexity,
            gradients: self.parts.iter().map(boxed).collect(),
        }
    }

    /// `L` and `μ`, with the gradients of the conjugates.
    fn duals(&self) -> Objective<'_> {
        let boxed = |part| {
            let part: &Part = part;
            Box::new(move |y: &[f64]| part.conjugate_gradient(y)) as Gradient<'_>
        };
        Objective {
            gradients: self.parts.iter().map(boxed).collect(),
            ..self.objective()
        }
    }

    fn error<'a>(&self, solutions: impl Iterator<Item = &'a [f64]>) -> f64 {
        let squares = solutions.map(|x| distance(x, &self.minimum).powi(2));
        squares.sum::<f64>() / NODES as f64
    }
}

fn descend(task: &Task, variant: &Variant, seed: u64, target: f64) -> Result<Descent, ClaimError> {
    let graph = graph(task)?;
    let problem = LeastSquares::draw(seed)?;
    let objective = problem.objective();
    let mut noise = SeededNoise::new(seed, 2);
    let starts: Vec<Vec<f64>> = (0..NODES)
        .map(|_| {
            noise
                .normal_values(UNKNOWNS)
                .into_iter()
                .map(f64::from)
                .collect()
        })
        .collect();
    let begun = problem.error(starts.iter().map(Vec::as_slice));
    let mut run = Descent::default();
    let mut see = |error: f64, gradients: u64, messages: u64, time: f64| {
        if run.curve.last().is_none_or(|last| time >= last[0] + 1.0) {
            run.curve.push([time, error / begun]);
        }
        if error > target * begun {
            return ControlFlow::Continue(());
        }
        (run.gradients, run.messages, run.time) = (gradients as f64, messages as f64, time);
        ControlFlow::Break(())
    };
    if *variant == UNIFORM || *variant == OPTIMAL {
        let rates = match *variant == UNIFORM {
            true => EdgeRates::uniform(&graph),
            false => EdgeRates::optimal(&graph),
        };
        let dadao = Dadao::new(&objective, &rates.map_err(ClaimError::experiment)?);
        let dadao = dadao.map_err(ClaimError::experiment)?;
        let simulated = dadao.simulate(&objective, &starts, 3000.0, seed, |moment| {
            let error = problem.error(moment.nodes.iter().map(DadaoNode::solution));
            see(error, moment.gradients, moment.gossips, moment.time)
        });
        simulated.map_err(ClaimError::experiment)?;
    } else if *variant == MSDA {
        let found = msda::run(&problem.duals(), &graph, UNKNOWNS, 100_000, |round| {
            let error = problem.error(round.solutions.iter().map(Vec::as_slice));
            let time = round.gradients as f64 / NODES as f64;
            see(error, round.gradients, round.gossips, time)
        });
        found.map_err(ClaimError::experiment)?;
    } else if *variant == TRACKING {
        // The step with which the fewest messages suffice; with the longest, it diverges.
        for step in [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001] {
            let method = GradientTracking {
                step: step / problem.smoothness,
            };
            let mut own = Descent::default();
            let found = method.run(&objective, &graph, &starts, 200_000, |round| {
                let error = problem.error(round.solutions.iter().map(Vec::as_slice));
                // A step before was better, or this one diverges.
                let worse = round.gossips as f64 > run.messages || error > 1e6 * begun;
                if error <= target * begun && !worse {
                    own.gradients = round.gradients as f64;
                    own.messages = round.gossips as f64;
                    own.time = own.gradients / NODES as f64;
                }
                match worse || own.messages.is_finite() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            match found {
                Ok(_) | Err(DadaoError::NotFinite { .. }) => {}
                Err(error) => return Err(ClaimError::experiment(error)),
            }
            if own.messages < run.messages {
                run = own;
            }
        }
    } else {
        let method = AdomPlus {
            multi_consensus: *variant == CONSENSUS,
        };
        let found = method.run(&objective, &graph, &starts, 100_000, |round| {
            let error = problem.error(round.solutions.iter().map(Vec::as_slice));
            let time = round.gradients as f64 / NODES as f64;
            see(error, round.gradients, round.gossips, time)
        });
        found.map_err(ClaimError::experiment)?;
    }
    if run.curve.len() > 2000 {
        // No curve of ADOM+ is drawn.
        run.curve.clear();
    }
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradients_vanish_together_at_the_minimum() {
        let problem = LeastSquares::draw(0).unwrap();
        let mut sum = vec![0.0; UNKNOWNS];
        for gradient in &problem.objective().gradients {
            add_scaled(&mut sum, 1.0, &gradient(&problem.minimum));
        }
        assert!(sum.iter().all(|g| g.abs() < 1e-10));
        let part = &problem.parts[3];
        let y = [0.3, -1.0, 0.2, 2.0, -0.5];
        let x = part.conjugate_gradient(&y);
        let back = problem.objective().gradients[3](&x);
        assert!(back.iter().zip(y).all(|(b, y)| (b - y).abs() < 1e-10));
        let condition = problem.smoothness / problem.strong_convexity;
        assert!((10.0..40.0).contains(&condition), "{condition}");
    }
}
