//! DCDM: directions from a network against conjugate gradients with usual preconditioners, on grids and obstacles that the network
//! has not been trained on.
//!
//! One network for planes is trained on 32 × 32 cells without obstacles, one for volumes on 16 × 16 × 16. All methods solve the same
//! systems from 0 to the same relative residual. Right sides are white noise and, once, a smooth field.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Device;
use nabla_base::vector;
use nabla_claims::plot::{LinePlot, Series};
use nabla_claims::{
    Bench, Cell as Point, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task,
    Variant,
};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_physics::dcdm::{Dcdm, DcdmTrainingConfig, LearntDirections, RitzConfig};
use nabla_physics::linear::{
    Border, Cell, ConjugateGradient, Deflation, Identity, IncompleteCholesky, Jacobi, LinearError,
    Multigrid, MultigridConfig, PoissonGrid, Preconditioner, Report, SpdOperator,
};
use rand::RngExt;
use serde::{Deserialize, Serialize};

const TRAINED_PLANE: Task = Task::named("training on 32 x 32");
const TRAINED_VOLUME: Task = Task::named("training on 16 x 16 x 16");

const DCDM: Variant = Variant::method("DCDM");
const DESCENT: Variant = Variant::baseline("descent along the network (k = 0)");
const CG: Variant = Variant::baseline("CG");
const JACOBI: Variant = Variant::baseline("CG, Jacobi");
const CHOLESKY: Variant = Variant::baseline("CG, incomplete Cholesky");
const MULTIGRID: Variant = Variant::baseline("CG, algebraic multigrid");
const DEFLATED: Variant = Variant::baseline("CG, 16 deflated vectors");

const ITERATIONS: Metric = Metric::lower("iterations to 1e-4", "");
const TIME: Metric = Metric::lower("time to 1e-4", "ms");
const EXACTLY: Metric = Metric::lower("iterations to 1e-8", "");
const LOSS: Metric = Metric::lower("loss of the last 100 steps", "");
const SECONDS: Metric = Metric::lower("training", "s");

const TOLERANCE: f64 = 1e-4;
const TIGHT: f64 = 1e-8;
/// The most iterations of directions: what has not converged by then counts as so many.
const MOST: usize = 300;

/// What a grid holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Obstacles {
    None,
    /// A disc, or ball, in the middle.
    Disc,
    /// Blocks of 4 cells a side at random places, until a fifth is solid.
    Blocks,
}

/// A system to solve.
#[derive(Clone, Copy, Debug, Serialize)]
struct Problem {
    name: &'static str,
    dimensions: usize,
    side: usize,
    obstacles: Obstacles,
    smooth: bool,
    /// In the quick form.
    quick: usize,
}

const fn problem(
    name: &'static str,
    dimensions: usize,
    side: usize,
    obstacles: Obstacles,
    quick: usize,
) -> Problem {
    Problem {
        name,
        dimensions,
        side,
        obstacles,
        smooth: false,
        quick,
    }
}

const P32: Problem = problem("32 x 32", 2, 32, Obstacles::None, 12);
const P64: Problem = problem("64 x 64", 2, 64, Obstacles::None, 24);
const SMOOTH: Problem = Problem {
    smooth: true,
    ..problem("64 x 64, smooth", 2, 64, Obstacles::None, 24)
};
const DISC: Problem = problem("64 x 64, disc", 2, 64, Obstacles::Disc, 24);
const BLOCKS: Problem = problem("64 x 64, blocks", 2, 64, Obstacles::Blocks, 24);
const P128: Problem = problem("128 x 128", 2, 128, Obstacles::None, 32);
const LARGE_DISC: Problem = problem("128 x 128, disc", 2, 128, Obstacles::Disc, 32);
const V16: Problem = problem("16 x 16 x 16", 3, 16, Obstacles::None, 6);
const V32: Problem = problem("32 x 32 x 32", 3, 32, Obstacles::None, 8);
const BALL: Problem = problem("32 x 32 x 32, ball", 3, 32, Obstacles::Disc, 8);
const LARGE_BALL: Problem = problem("64 x 64 x 64, ball", 3, 64, Obstacles::Disc, 10);

const PROBLEMS: [Problem; 11] = [
    P32, P64, SMOOTH, DISC, BLOCKS, P128, LARGE_DISC, V16, V32, BALL, LARGE_BALL,
];

impl Problem {
    fn task(&self) -> Task {
        Task::named(self.name)
    }

    fn sides(&self, quick: bool) -> Vec<usize> {
        vec![if quick { self.quick } else { self.side }; self.dimensions]
    }

    fn grid(&self, quick: bool, seed: u64) -> Result<PoissonGrid, LinearError> {
        let sides = self.sides(quick);
        match self.obstacles {
            Obstacles::None => PoissonGrid::new(&sides, Border::Dirichlet),
            Obstacles::Disc => PoissonGrid::with_cells(&sides, Border::Dirichlet, &disc(&sides)),
            Obstacles::Blocks => {
                PoissonGrid::with_cells(&sides, Border::Dirichlet, &blocks(&sides, seed))
            }
        }
    }

    /// Of norm 1, and 0 in obstacles.
    fn right_side(&self, grid: &PoissonGrid, seed: u64) -> Vec<f64> {
        let mut noise = SeededNoise::new(seed, 11);
        let mut b: Vec<f64> = match self.smooth {
            false => {
                let values = noise.normal_values(grid.dim());
                values.into_iter().map(f64::from).collect()
            }
            true => smooth(grid.sides(), &mut noise),
        };
        grid.kernel().project(&mut b);
        let norm = vector::norm(&b);
        b.iter_mut().for_each(|b| *b /= norm);
        b
    }
}

fn coordinates(index: usize, sides: &[usize]) -> Vec<f64> {
    let mut rest = index;
    let mut at: Vec<f64> = sides
        .iter()
        .rev()
        .map(|&side| {
            let place = rest % side;
            rest /= side;
            (place as f64 + 0.5) / side as f64
        })
        .collect();
    at.reverse();
    at
}

fn disc(sides: &[usize]) -> Vec<Cell> {
    let cell = |index| {
        let square: f64 = coordinates(index, sides)
            .into_iter()
            .map(|x| (x - 0.5).powi(2))
            .sum();
        if square < 0.04 {
            Cell::Solid
        } else {
            Cell::Fluid
        }
    };
    (0..sides.iter().product()).map(cell).collect()
}

fn blocks(sides: &[usize], seed: u64) -> Vec<Cell> {
    let [height, width] = [sides[0], sides[1]];
    let mut cells = vec![Cell::Fluid; height * width];
    let mut noise = SeededNoise::new(seed, 12);
    let mut solid = 0;
    while 5 * solid < height * width {
        let [y, x] = [height, width].map(|side| noise.random_range(0..side - 3));
        for (dy, dx) in (0..4).flat_map(|dy| (0..4).map(move |dx| (dy, dx))) {
            cells[(y + dy) * width + x + dx] = Cell::Solid;
        }
        solid = cells.iter().filter(|&&cell| cell == Cell::Solid).count();
    }
    cells
}

/// Four waves of the lowest frequencies.
fn smooth(sides: &[usize], noise: &mut SeededNoise) -> Vec<f64> {
    let waves: Vec<(Vec<f64>, f32)> = (0..4)
        .map(|_| {
            let k = sides.iter().map(|_| f64::from(noise.random_range(1..4_u8)));
            (k.collect(), noise.normal_values(1)[0])
        })
        .collect();
    let value = |index| -> f64 {
        let at = coordinates(index, sides);
        let wave = |(k, amplitude): &(Vec<f64>, f32)| {
            let parts = k.iter().zip(&at);
            let product: f64 = parts
                .map(|(k, x)| (k * std::f64::consts::PI * x).sin())
                .product();
            f64::from(*amplitude) * product
        };
        waves.iter().map(wave).sum()
    };
    (0..sides.iter().product()).map(value).collect()
}

/// What a method takes on a system.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Taken {
    iterations: usize,
    converged: bool,
    ms: f64,
    /// Iterations to the tight tolerance, and whether it was reached; not asked of the descent.
    exactly: Option<(usize, bool)>,
    residuals: Vec<f64>,
}

/// A network, and what all methods take on the systems of its dimensions.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    loss: f64,
    seconds: f64,
    /// For each system of these dimensions, for each variant.
    taken: Vec<Vec<Taken>>,
}

const VARIANTS: [Variant; 7] = [DCDM, DESCENT, CG, JACOBI, CHOLESKY, MULTIGRID, DEFLATED];

/// Sizes of a training.
#[derive(Clone, Debug, Serialize)]
struct Training(DcdmTrainingConfig);

impl Training {
    fn new(dimensions: usize, quick: bool) -> Self {
        let (sides, steps) = match (dimensions, quick) {
            (2, false) => (vec![32; 2], 1500),
            (2, true) => (vec![12; 2], 30),
            (_, false) => (vec![16; 3], 1000),
            (_, true) => (vec![6; 3], 20),
        };
        let mut config = DcdmTrainingConfig::for_grid(&sides);
        config.steps = steps;
        if quick {
            config.right_sides = RitzConfig {
                steps: 50,
                ..RitzConfig::default()
            };
        }
        Self(config)
    }

    fn learnt(&self, seed: u64) -> Result<(LearntDirections, f64, f64), ClaimError> {
        let config = DcdmTrainingConfig {
            seed,
            ..self.0.clone()
        };
        let begun = Instant::now();
        let mut trainer = config
            .trainer(&Device::flex())
            .map_err(ClaimError::experiment)?;
        trainer
            .run(None, &mut |_| ControlFlow::Continue(()))
            .map_err(ClaimError::experiment)?;
        let seconds = begun.elapsed().as_secs_f64();
        let losses = trainer.history().losses();
        let last = &losses[losses.len().saturating_sub(100)..];
        let loss = last.iter().map(|&loss| f64::from(loss)).sum::<f64>() / last.len() as f64;
        Ok((LearntDirections::of(&trainer), loss, seconds))
    }
}

/// A method is timed so often, if it is fast.
const TIMED: usize = 3;

/// - `exact`: whether the tight tolerance is asked for, too
/// - `solve`: to a tolerance, with the preparation
fn taken(
    exact: bool,
    mut solve: impl FnMut(f64) -> Result<Report, ClaimError>,
) -> Result<Taken, ClaimError> {
    let mut ms = f64::INFINITY;
    let mut found = None;
    for _ in 0..TIMED {
        let begun = Instant::now();
        found = Some(solve(TOLERANCE)?);
        ms = ms.min(1e3 * begun.elapsed().as_secs_f64());
        if ms > 500.0 {
            break;
        }
    }
    let Some(found) = found else {
        return Err(ClaimError::experiment("nothing was solved"));
    };
    let mut taken = Taken {
        iterations: found.iterations,
        converged: found.converged,
        ms,
        exactly: None,
        residuals: found.residuals,
    };
    if exact {
        let found = solve(TIGHT)?;
        taken.exactly = Some((found.iterations, found.converged));
        taken.residuals = found.residuals;
    }
    Ok(taken)
}

fn solved(
    problem: &Problem,
    learnt: &LearntDirections,
    quick: bool,
    seed: u64,
) -> Result<Vec<Taken>, ClaimError> {
    let grid = problem.grid(quick, seed).map_err(ClaimError::experiment)?;
    let b = problem.right_side(&grid, seed);
    let model = learnt.on(grid.sides()).map_err(ClaimError::experiment)?;
    let along = |keep: usize, tolerance: f64| {
        let solver = Dcdm {
            keep,
            tolerance,
            // The quick form's networks are no good, and would take all of them.
            iterations: if quick { MOST / 15 } else { MOST },
            ..Dcdm::default()
        };
        solver
            .solve(&grid, &model, &b)
            .map_err(ClaimError::experiment)
    };
    // With the preparation in the time.
    let by = |make: &dyn Fn() -> Result<Box<dyn Preconditioner>, LinearError>, tolerance| {
        let m = make().map_err(ClaimError::experiment)?;
        let solver = ConjugateGradient {
            tolerance,
            iterations: 100_000,
        };
        solver.solve(&grid, &m, &b).map_err(ClaimError::experiment)
    };
    let matrix = grid.matrix();
    let identity = || -> Result<Box<dyn Preconditioner>, LinearError> { Ok(Box::new(Identity)) };
    let jacobi =
        || -> Result<Box<dyn Preconditioner>, LinearError> { Ok(Box::new(Jacobi::new(&grid)?)) };
    let cholesky = || -> Result<Box<dyn Preconditioner>, LinearError> {
        Ok(Box::new(IncompleteCholesky::new(&matrix)?))
    };
    let multigrid = || -> Result<Box<dyn Preconditioner>, LinearError> {
        Ok(Box::new(Multigrid::new(
            &matrix,
            &MultigridConfig::default(),
        )?))
    };
    let deflated = || -> Result<Box<dyn Preconditioner>, LinearError> {
        let inner = Jacobi::new(&grid)?;
        Ok(Box::new(Deflation::of_krylov_space(&grid, inner, &b, 16)?))
    };
    Ok(vec![
        taken(true, |tolerance| along(2, tolerance))?,
        taken(false, |tolerance| along(0, tolerance))?,
        taken(true, |tolerance| by(&identity, tolerance))?,
        taken(true, |tolerance| by(&jacobi, tolerance))?,
        taken(true, |tolerance| by(&cholesky, tolerance))?,
        taken(true, |tolerance| by(&multigrid, tolerance))?,
        taken(true, |tolerance| by(&deflated, tolerance))?,
    ])
}

fn of_dimensions(dimensions: usize) -> impl Iterator<Item = &'static Problem> {
    PROBLEMS
        .iter()
        .filter(move |problem| problem.dimensions == dimensions)
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct DcdmClaim;

impl Claim for DcdmClaim {
    fn slug(&self) -> &str {
        "dcdm"
    }

    fn statement(&self) -> &str {
        "A network that is trained without solutions to give directions for a conjugate direction method reduces the residual of \
         discretised Poisson equations to a given tolerance in few iterations, whose number does not depend on the size of the \
         problem, and generalises to systems that it was not trained on."
    }

    fn criterion(&self) -> &str {
        "To 1e-4, in the mean over the seeds: at most a quarter of the iterations of CG on 32 x 32, and a sixth on 64 x 64 with \
         the same weights; from 32 x 32 to 64 x 64 they grow by less than 1.5 times; fewer than CG with incomplete Cholesky on \
         64 x 64, with a disc, and in the volume of 32 x 32 x 32 with a ball. 1e-8 is reached on 64 x 64 with every seed. In \
         detail: random blocks, larger grids, times, and what the kept directions bring."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let metrics = [ITERATIONS, TIME, EXACTLY, LOSS, SECONDS];
        let tasks = PROBLEMS.iter().map(Problem::task);
        let tasks = tasks.chain([TRAINED_PLANE, TRAINED_VOLUME]);
        let mut table = Table::new(bench.seeds(), metrics, VARIANTS, tasks)?;
        let quick = bench.quick();
        let mut unfinished = Vec::new();
        let mut plot = LinePlot::new(
            "convergence on 64 x 64 with a disc",
            "iteration",
            "residual, relative to the right side",
        )
        .log_y();
        for (dimensions, task) in [(2, TRAINED_PLANE), (3, TRAINED_VOLUME)] {
            let training = Training::new(dimensions, quick);
            let problems: Vec<&Problem> = of_dimensions(dimensions).collect();
            let found = bench.measure(
                &Stage::new(task.name(), &(&training, &problems, MOST)),
                bench.seeds(),
                |&seed| Point::of(&task).seed(seed),
                |&seed| {
                    let (learnt, loss, seconds) = training.learnt(seed)?;
                    let taken = problems
                        .iter()
                        .map(|problem| solved(problem, &learnt, quick, seed));
                    Ok(Outcome {
                        loss,
                        seconds,
                        taken: taken.collect::<Result<_, _>>()?,
                    })
                },
            )?;
            for (&seed, outcome) in bench.seeds().iter().zip(found) {
                table.record(&task, &DCDM, &LOSS, seed, outcome.loss)?;
                table.record(&task, &DCDM, &SECONDS, seed, outcome.seconds)?;
                for (problem, all) in problems.iter().zip(outcome.taken) {
                    for (variant, taken) in VARIANTS.iter().zip(all) {
                        let task = problem.task();
                        table.record(&task, variant, &ITERATIONS, seed, taken.iterations as f64)?;
                        table.record(&task, variant, &TIME, seed, taken.ms)?;
                        let mut told = vec![(taken.converged, TOLERANCE)];
                        if let Some((iterations, converged)) = taken.exactly {
                            table.record(&task, variant, &EXACTLY, seed, iterations as f64)?;
                            told.push((converged, TIGHT));
                        }
                        for (_, tolerance) in told.into_iter().filter(|(done, _)| !done) {
                            unfinished.push((problem.name, variant.clone(), tolerance, seed));
                        }
                        if problem.name == DISC.name && seed == bench.seeds()[0] {
                            let points = taken.residuals.iter().enumerate();
                            let points = points.map(|(i, r)| [i as f64, *r]);
                            plot = plot.with_series(Series::new(variant.to_string(), points));
                        }
                    }
                }
            }
        }
        let checks = checks(&table, &unfinished)?;
        let told: Vec<String> = unfinished
            .iter()
            .map(|(name, variant, tolerance, seed)| {
                format!("{variant} on {name} to {tolerance:e} (seed {seed})")
            })
            .collect();
        let told = match told.is_empty() {
            true => "All methods converged everywhere.".to_owned(),
            false => format!(
                "Not converged in {MOST} iterations, which count as so many: {}.",
                told.join("; ")
            ),
        };
        Ok(Measurement::new(table, checks)
            .with_plot(plot)
            .with_note(told)
            .with_note(
                "Iterations of DCDM take two products and one pass through the network, those of CG one product and one \
                 application of the preconditioner. Times are the shortest of three (one where it takes half a second), with the \
                 preparation of preconditioners, but not with the training. Fluid simulations of 128³ and 256³ \
                 cells are not measured; networks have 8 channels in place of 16, and 200 Ritz vectors in place of 10,000.",
            ))
    }
}

/// Systems on which something has not converged: the name, the method, the tolerance and the seed.
type Unfinished = (&'static str, Variant, f64, u64);

fn checks(table: &Table, unfinished: &[Unfinished]) -> Result<Vec<Check>, ClaimError> {
    let mean = |problem: &Problem, variant: &Variant, metric: &Metric| {
        table.mean(&problem.task(), variant, metric)
    };
    let share = |problem: &Problem, other: &Variant, metric: &Metric| -> Result<_, ClaimError> {
        let (one, other) = (mean(problem, &DCDM, metric)?, mean(problem, other, metric)?);
        Ok((
            one / other,
            format!("{one:.3} and {other:.3}: {:.3}", one / other),
        ))
    };
    let mut checks = Vec::new();
    for (problem, part, text) in [(&P32, 0.25, "a quarter"), (&P64, 1.0 / 6.0, "a sixth")] {
        let (found, detail) = share(problem, &CG, &ITERATIONS)?;
        let text = format!("{}: at most {text} of the iterations of {CG}", problem.name);
        checks.push(Check::new(text, found <= part, detail).headline());
    }
    let growth = |variant: &Variant| -> Result<f64, ClaimError> {
        Ok(mean(&P64, variant, &ITERATIONS)? / mean(&P32, variant, &ITERATIONS)?)
    };
    let (own, other) = (growth(&DCDM)?, growth(&CG)?);
    checks.push(
        Check::new(
            "from 32 x 32 to 64 x 64, iterations grow by less than 1.5 times",
            own < 1.5,
            format!("{own:.2} times; those of {CG} {other:.2} times"),
        )
        .headline(),
    );
    for problem in [&P64, &DISC, &BALL] {
        let (found, detail) = share(problem, &CHOLESKY, &ITERATIONS)?;
        let text = format!("{}: fewer iterations than {CHOLESKY}", problem.name);
        checks.push(Check::new(text, found < 1.0, detail).headline());
    }
    let failed = unfinished
        .iter()
        .filter(|(name, variant, tolerance, _)| {
            *name == P64.name && *variant == DCDM && *tolerance == TIGHT
        })
        .count();
    let exactly = mean(&P64, &DCDM, &EXACTLY)?;
    let detail = format!("{exactly:.1} iterations in the mean, {failed} seeds have not converged");
    checks.push(Check::new("64 x 64: 1e-8 is reached", failed == 0, detail).headline());
    for problem in [
        &SMOOTH,
        &BLOCKS,
        &P128,
        &LARGE_DISC,
        &V16,
        &V32,
        &LARGE_BALL,
    ] {
        let (found, detail) = share(problem, &CHOLESKY, &ITERATIONS)?;
        let text = format!("{}: fewer iterations than {CHOLESKY}", problem.name);
        checks.push(Check::new(text, found < 1.0, detail));
    }
    for problem in [&P64, &LARGE_BALL] {
        for other in [&CG, &CHOLESKY, &MULTIGRID] {
            let (found, detail) = share(problem, other, &TIME)?;
            let text = format!("{}: faster than {other}", problem.name);
            checks.push(Check::new(text, found < 1.0, format!("ms, {detail}")));
        }
    }
    for problem in [&P64, &DISC] {
        let (found, detail) = share(problem, &DESCENT, &ITERATIONS)?;
        let text = format!(
            "{}: fewer iterations than without kept directions",
            problem.name
        );
        checks.push(Check::new(text, found < 1.0, detail));
    }
    Ok(checks)
}
