//! Block coordinate descent's rules, updates and blocks against each other, on real data.
//!
//! Every configuration starts at 0 and is stopped as soon as its excess `F(x) − F*` has fallen to a
//! given share of that at 0; what is counted are the steps, as in the paper, and beside them the
//! rounds, which are the coordinates updated divided by their number. `F*` is from Newton's method
//! over all coordinates. The seeds draw the examples, the labels that are known, and whatever a rule
//! draws at random. Nothing here has a step size to tune: the constants are those of the data.
//!
//! The problems are the paper's kinds on the data that is embedded: least squares, logistic regression
//! and its multi-class form with `‖x‖²/2` (the paper's A, B and C), label propagation on a graph of
//! nearest neighbours (E), and the two sparse ones on which the active set is found.

use std::ops::ControlFlow;

use nabla_data::{LabelledPictures, LabelledRows};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_solve::block_coordinate_descent::{
    BlockCoordinateDescentConfig, BlockDescentError, BlockSolver, Blocks, Curvature, DealOrder,
    DiagonalBound, LabelPropagation, LinearModel, Partition, Penalty, Selection, SmoothProblem,
    StepSize, Update, nearest_neighbour_edges,
};
use rand::RngExt;

use crate::claim::{Claim, ClaimContext, ClaimError, Paper};
use crate::measurement::{Check, Measurement, Metric, Table, TableError, Variant};
use crate::plot::{LinePlot, Series};

const STEPS: &str = "steps";
const ROUNDS: &str = "rounds";
const SUPPORT: &str = "steps to the support";
const CONTRACTION: &str = "last contraction";
const CORRELATION: &str = "correlation in blocks";

const CYCLIC: &str = "cyclic";
const RANDOM: &str = "random";
const LIPSCHITZ: &str = "Lipschitz sampling";
const GS: &str = "GS";
const GSL: &str = "GSL";
const GSD: &str = "GSD";
const GSQ: &str = "GSQ";
const MI: &str = "MI";
const OMP: &str = "GSQ by pursuit";

const STEP_L: &str = "gradient, L";
const STEP_GUESS: &str = "gradient, backtracking";
const STEP_LB: &str = "gradient, L_b";
const MATRIX: &str = "matrix";
const NEWTON: &str = "Newton";

const IN_ORDER: &str = "blocks in order";
const AT_RANDOM: &str = "blocks at random";
const AVERAGED: &str = "averaged blocks";
const SORTED: &str = "sorted blocks";

const SIZES: [(usize, &str); 4] = [
    (1, "1 coordinate"),
    (5, "5 coordinates"),
    (20, "20 coordinates"),
    (50, "50 coordinates"),
];

const GREEDY_TREES: &str = "greedy trees (GS)";
const GREEDY_TREES_L: &str = "greedy trees (GSL)";
const RANDOM_TREES: &str = "random trees";
const FIXED_TREES: &str = "fixed trees";
const RED_BLACK: &str = "red-black";
const DENSE: &str = "dense blocks (GS)";
const DENSE_L: &str = "dense blocks (GSL)";

const PROXIMAL_NEWTON: &str = "proximal Newton";
const TWO_METRIC: &str = "two-metric";
const PROXIMAL_GRADIENT: &str = "proximal gradient";
const SMALL_NEWTON: &str = "proximal Newton, 5 coordinates";
const CYCLIC_COORDINATES: &str = "cyclic coordinates";

/// What the paper compares its rules with.
const NOT_GREEDY: [&str; 3] = [CYCLIC, RANDOM, LIPSCHITZ];

const SQUARES: &str = "least squares, digits";
const LOGISTIC: &str = "logistic, Fashion";
const SOFTMAX: &str = "softmax, digits";
const SMOOTH: [&str; 3] = [SQUARES, LOGISTIC, SOFTMAX];
const PROPAGATION: &str = "label propagation, digits";
const SPARSE: [&str; 2] = [
    "non-negative l1 least squares, digits",
    "l1 logistic, Fashion",
];

/// The four ways in which the rules are compared.
const WAYS: [&str; 4] = [
    "fixed blocks, gradient",
    "fixed blocks, matrix",
    "variable blocks, gradient",
    "variable blocks, matrix",
];
const UPDATES: &str = "updates (GS, fixed blocks)";
const PARTITIONS: &str = "partitions (GS, gradient)";
const SIZES_GRADIENT: &str = "sizes (GSL, fixed blocks, gradient)";
const SIZES_MATRIX: &str = "sizes (GSD, variable blocks, matrix)";

/// Excess at which the sparse runs end, as a share of that at 0: superlinear ends need room.
const SPARSE_SHARE: f64 = 1e-9;
/// A step that leaves less than this share of the excess is not one of a linear rate.
const SUPERLINEAR: f64 = 0.1;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct BlockCoordinateDescentClaim;

impl Claim for BlockCoordinateDescentClaim {
    fn slug(&self) -> &str {
        "block-coordinate-descent"
    }

    fn paper(&self) -> Paper {
        Paper::new(
            "Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules, Message-Passing, Active-Set Complexity, and Superlinear Convergence",
            "Nutini, Laradji, Schmidt",
            2017,
            "1712.08859",
        )
    }

    fn statement(&self) -> &str {
        "Greedy rules that know the Lipschitz constants or the second derivatives (GSL, GSD, GSQ, MI), \
         larger and variable blocks, and matrix or Newton updates each lower the number of iterations \
         that block coordinate descent needs; message passing makes huge tree-structured blocks as \
         cheap as small dense ones; with sparse solutions the active set is found after finitely many \
         iterations, and the end is superlinear where the blocks hold it."
    }

    fn criterion(&self) -> &str {
        "Mean number of steps over the seeds, on each of the problems. With fixed and variable blocks of \
         5, gradient (L_b) and matrix updates: GS, GSL, GSD, GSQ and MI each take fewer steps than the \
         cyclic rule, random blocks and Lipschitz sampling. GSL and GSQ take fewer than GS, with gradient \
         and with matrix updates. GS: L_b beats L, matrix updates beat L_b, and Newton beats matrix \
         updates where they differ; sorted blocks beat the other partitions; variable blocks beat fixed \
         ones. Blocks of 1, 5, 20 and 50 take fewer steps the larger they are. Label propagation: greedy \
         trees beat random trees and fixed trees, these red-black, and red-black dense blocks of n^(1/3). \
         Sparse: every method has the solution's support when it ends; proximal Newton and two-metric \
         steps over blocks as large as the support end with a step that leaves less than a tenth of the \
         excess, gradient steps and small blocks with one that leaves more."
    }

    fn run(&self, context: &ClaimContext<'_>) -> Result<Measurement, ClaimError> {
        let size = if context.quick {
            Size::quick()
        } else {
            Size::full()
        };
        let names = |problems: &[&str], parts: &[&str]| -> Vec<String> {
            let pairs = problems
                .iter()
                .flat_map(|p| parts.iter().map(move |s| group(p, s)));
            pairs.collect()
        };
        let parts = [
            &WAYS[..],
            &[UPDATES, PARTITIONS, SIZES_GRADIENT, SIZES_MATRIX],
        ]
        .concat();
        let mut groups = names(&SMOOTH[..size.problems], &parts);
        groups.push(PROPAGATION.to_owned());
        groups.extend(SPARSE[..size.problems.min(2)].iter().map(|&s| s.to_owned()));
        let mut table = Table::new(
            &context.seeds,
            [
                Metric::lower(STEPS, ""),
                Metric::lower(ROUNDS, ""),
                Metric::lower(SUPPORT, ""),
                Metric::lower(CONTRACTION, ""),
                Metric::informative(CORRELATION, ""),
            ],
            variants(),
            groups,
        )?;
        let digits = nabla_data::digits().map_err(ClaimError::experiment)?;
        let [fashion, _] = nabla_data::fashion_sample().map_err(ClaimError::experiment)?;
        context.progress.begin(
            "block coordinate descent",
            (context.seeds.len() * table.groups().len()) as u64,
        );
        // The seeds do not know of each other.
        let runs = std::thread::scope(|scope| {
            let threads: Vec<_> = context
                .seeds
                .iter()
                .map(|&seed| {
                    let (digits, fashion, size) = (&digits, &fashion, &size);
                    scope.spawn(move || Run::of(context, seed, size, digits, fashion))
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Run, ClaimError>>| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(ClaimError::experiment("the thread of a seed stopped")))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        })?;
        for (&seed, run) in context.seeds.iter().zip(&runs) {
            for (group, variant, metric, value) in &run.cells {
                table.record(group, variant, metric, seed, *value)?;
            }
        }
        let checks = checks(&table, &SMOOTH[..size.problems])?;
        let mut measurement = Measurement::new(table, checks).with_note(format!(
            "{} pictures of handwritten digits (8 x 8; {} for softmax and {} for the graph) and {} of \
             Fashion-MNIST (14 x 14, the mean of 2 x 2 pixels, the first five classes against the \
             others), with a constant feature, drawn anew for every seed; λ = 1. A run ends at an excess \
             of {:.0e} of that at 0, a sparse one at {SPARSE_SHARE:.0e}, or after {} and {} \
             steps, which is written as ∞.",
            size.digits, size.softmax, size.nodes, size.fashion, size.share, size.most, size.most_sparse,
        ));
        let alike = alike(&measurement.table, &SMOOTH[..size.problems])?;
        measurement = measurement.with_note(alike);
        for plot in plots(&runs) {
            measurement = measurement.with_plot(plot);
        }
        Ok(measurement)
    }
}

fn variants() -> Vec<Variant> {
    let method = [GSL, GSD, GSQ, OMP, MI, NEWTON, MATRIX, SORTED];
    let method =
        method
            .into_iter()
            .chain([GREEDY_TREES, GREEDY_TREES_L, PROXIMAL_NEWTON, TWO_METRIC]);
    let ablation = [
        GS,
        STEP_LB,
        STEP_GUESS,
        AVERAGED,
        RANDOM_TREES,
        FIXED_TREES,
        SMALL_NEWTON,
    ];
    let ablation = SIZES.map(|(_, name)| name).into_iter().chain(ablation);
    let baseline = NOT_GREEDY
        .into_iter()
        .chain([STEP_L, IN_ORDER, AT_RANDOM, RED_BLACK]);
    let baseline = baseline.chain([DENSE, DENSE_L, PROXIMAL_GRADIENT, CYCLIC_COORDINATES]);
    method
        .map(Variant::method)
        .chain(ablation.map(Variant::ablation))
        .chain(baseline.map(Variant::baseline))
        .collect()
}

fn group(problem: &str, part: &str) -> String {
    format!("{problem}: {part}")
}

/// How large the experiment is.
struct Size {
    /// Examples.
    digits: usize,
    fashion: usize,
    softmax: usize,
    nodes: usize,
    /// Of [`SMOOTH`].
    problems: usize,
    /// Excess at which a run ends, as a share of that at 0.
    share: f64,
    /// The most steps.
    most: usize,
    /// The same of a sparse run, which goes on for longer.
    most_sparse: usize,
}

impl Size {
    fn full() -> Self {
        Self {
            digits: 800,
            fashion: 500,
            softmax: 200,
            nodes: 1000,
            problems: 3,
            share: 1e-4,
            most: 30_000,
            most_sparse: 1_000_000,
        }
    }

    fn quick() -> Self {
        Self {
            digits: 100,
            fashion: 60,
            softmax: 60,
            nodes: 150,
            problems: 2,
            share: 1e-2,
            most: 2000,
            most_sparse: 20_000,
        }
    }
}

type Cell = (String, &'static str, &'static str, f64);

/// What one seed gives.
struct Run {
    cells: Vec<Cell>,
    /// Group, variant and the excess over the steps.
    curves: Vec<(String, &'static str, Vec<[f64; 2]>)>,
}

impl Run {
    fn of(
        context: &ClaimContext<'_>,
        seed: u64,
        size: &Size,
        digits: &LabelledPictures,
        fashion: &LabelledPictures,
    ) -> Result<Self, ClaimError> {
        let draw = |pictures, side, count, stream, label: &dyn Fn(u8) -> f64| {
            rows(
                pictures,
                side,
                &chosen(pictures.len(), count, seed, stream),
                label,
            )
        };
        let of_digits = |count, stream| draw(digits, 8, count, stream, &f64::from);
        let halves = |label: u8| if label < 5 { 1.0 } else { -1.0 };
        let mut run = Self {
            cells: Vec::new(),
            curves: Vec::new(),
        };
        let squares = of_digits(size.digits, 0)?;
        let of_fashion = draw(fashion, 14, size.fashion, 1, &halves)?;
        let model = LinearModel::least_squares(&squares, 1.0).map_err(ClaimError::experiment)?;
        run.smooth(context, seed, size, SQUARES, &model)?;
        let model = LinearModel::logistic(&of_fashion, 1.0).map_err(ClaimError::experiment)?;
        run.smooth(context, seed, size, LOGISTIC, &model)?;
        if size.problems > 2 {
            let rows = of_digits(size.softmax, 2)?;
            let model = LinearModel::softmax(&rows, 1.0).map_err(ClaimError::experiment)?;
            run.smooth(context, seed, size, SOFTMAX, &model)?;
        }
        run.propagation(
            seed,
            size,
            &draw(digits, 8, size.nodes, 3, &|label| {
                if label % 2 == 0 { 1.0 } else { -1.0 }
            })?,
        )?;
        context.progress.advance(1);
        let model = LinearModel::least_squares(&squares, 0.0).map_err(ClaimError::experiment)?;
        run.sparse(seed, size, SPARSE[0], &model, Penalty::NonNegativeL1)?;
        context.progress.advance(1);
        let model = LinearModel::logistic(&of_fashion, 0.0).map_err(ClaimError::experiment)?;
        run.sparse(seed, size, SPARSE[1], &model, Penalty::L1)?;
        context.progress.advance(1);
        Ok(run)
    }

    /// The rules, updates, partitions and sizes on a smooth problem.
    fn smooth<P: SmoothProblem>(
        &mut self,
        context: &ClaimContext<'_>,
        seed: u64,
        size: &Size,
        name: &str,
        problem: &P,
    ) -> Result<(), ClaimError> {
        let n = problem.dimension();
        let all = config(
            Blocks::Variable { size: n },
            Selection::Cyclic,
            Update::Newton,
        );
        let best = solved(problem, &Penalty::None, &all)?.0;
        for (part, rows) in smooth_settings(n, name == SOFTMAX, name != SQUARES) {
            let group = group(name, part);
            for (variant, config) in rows {
                let config = config.with_max_iterations(size.most).with_seed(seed);
                if WAYS.contains(&part) {
                    let value = correlation(problem, &config)?;
                    let cell = (group.clone(), variant, CORRELATION, value);
                    self.cells.push(cell);
                }
                let descent =
                    Descent::run(problem, &Penalty::None, &config, best, size.share, None)?;
                self.add(&group, variant, descent);
            }
            context.progress.advance(1);
        }
        Ok(())
    }

    fn propagation(
        &mut self,
        seed: u64,
        size: &Size,
        rows: &LabelledRows,
    ) -> Result<(), ClaimError> {
        let graph = label_propagation(rows, seed)?;
        let problem = graph.quadratic();
        let trees = BlockCoordinateDescentConfig::message_passing().with_tolerance(1e-13);
        let best = solved(problem, &Penalty::None, &trees)?.0;
        let dense = (problem.dimension() as f64).cbrt() as usize;
        let dense = || Blocks::Variable { size: dense.max(1) };
        let red_black = Partition::RedBlack(DealOrder::Lipschitz);
        let rules = [
            (GREEDY_TREES, Blocks::Forest, Selection::GaussSouthwell),
            (
                GREEDY_TREES_L,
                Blocks::Forest,
                Selection::GaussSouthwellLipschitz,
            ),
            (RANDOM_TREES, Blocks::Forest, Selection::Random),
            (
                FIXED_TREES,
                Blocks::Fixed(Partition::Forests(DealOrder::Lipschitz)),
                Selection::Cyclic,
            ),
            (RED_BLACK, Blocks::Fixed(red_black), Selection::Cyclic),
            (DENSE, dense(), Selection::GaussSouthwell),
            (DENSE_L, dense(), Selection::GaussSouthwellLipschitz),
        ];
        for (variant, blocks, selection) in rules {
            let solver = match blocks {
                Blocks::Variable { .. } => BlockSolver::Dense,
                _ => BlockSolver::MessagePassing,
            };
            let config = config(blocks, selection, Update::Matrix)
                .with_solver(solver)
                .with_max_iterations(size.most)
                .with_seed(seed);
            let descent = Descent::run(problem, &Penalty::None, &config, best, size.share, None)?;
            self.add(PROPAGATION, variant, descent);
        }
        Ok(())
    }

    /// How a sparse solution's support is found, with a twentieth of the weight that makes it 0.
    fn sparse<P: SmoothProblem>(
        &mut self,
        seed: u64,
        size: &Size,
        name: &str,
        problem: &P,
        penalty: impl Fn(f64) -> Penalty,
    ) -> Result<(), ClaimError> {
        let n = problem.dimension();
        let zero = vec![0.0; n];
        let slopes = problem.full_gradient(&problem.state(&zero, true), &zero);
        let penalty = penalty(slopes.iter().fold(0.0_f64, |m, g| m.max(g.abs())) / 20.0);
        let all = BlockCoordinateDescentConfig::proximal_newton(n);
        let (best, x) = solved(problem, &penalty, &all)?;
        let support = support(&x);
        let whole = Blocks::Variable {
            size: (support.len() * 5).div_ceil(4).clamp(1, n),
        };
        let promising = Selection::ProximalDecrease;
        let small = Blocks::Variable { size: 5.min(n) };
        let gradient = Update::Gradient(StepSize::Block);
        let rules = [
            (PROXIMAL_NEWTON, whole.clone(), promising, Update::Newton),
            (TWO_METRIC, whole.clone(), promising, Update::TwoMetric),
            (PROXIMAL_GRADIENT, whole, promising, gradient),
            (SMALL_NEWTON, small, promising, Update::Newton),
            (
                CYCLIC_COORDINATES,
                Blocks::Fixed(Partition::Order { size: 1 }),
                Selection::Cyclic,
                gradient,
            ),
        ];
        for (variant, blocks, selection, update) in rules {
            let config = config(blocks, selection, update)
                .with_max_iterations(size.most_sparse)
                .with_seed(seed);
            let wanted = Some(&support[..]);
            let descent = Descent::run(problem, &penalty, &config, best, SPARSE_SHARE, wanted)?;
            let mut cell = |metric, value| {
                self.cells.push((name.to_owned(), variant, metric, value));
            };
            cell(SUPPORT, descent.support);
            cell(CONTRACTION, descent.contraction);
            self.add(name, variant, descent);
        }
        Ok(())
    }

    fn add(&mut self, group: &str, variant: &'static str, descent: Descent) {
        let cell = |metric, value| (group.to_owned(), variant, metric, value);
        self.cells.push(cell(STEPS, descent.steps));
        self.cells.push(cell(ROUNDS, descent.rounds));
        self.curves.push((group.to_owned(), variant, descent.curve));
    }
}

type Rows = Vec<(&'static str, BlockCoordinateDescentConfig)>;

/// The parts of a smooth problem of `n` coordinates. `many` leaves out the rule that tries all blocks,
/// which is too slow there; `curved` adds what a quadratic does not tell apart.
fn smooth_settings(n: usize, many: bool, curved: bool) -> Vec<(&'static str, Rows)> {
    let fixed = |size: usize| Blocks::Fixed(Partition::Sort { size });
    let any = |size: usize| Blocks::Variable { size };
    let gradient = Update::Gradient(StepSize::Block);
    let diagonal = Selection::GaussSouthwellDiagonal(DiagonalBound::Coordinate);
    let mut settings = Vec::new();
    for (way, variable, update) in [
        (WAYS[0], false, gradient),
        (WAYS[1], false, Update::Matrix),
        (WAYS[2], true, gradient),
        (WAYS[3], true, Update::Matrix),
    ] {
        let mut rules = vec![
            (CYCLIC, Selection::Cyclic),
            (RANDOM, Selection::Random),
            (LIPSCHITZ, Selection::Lipschitz),
            (GS, Selection::GaussSouthwell),
            (GSL, Selection::GaussSouthwellLipschitz),
            (GSD, diagonal),
            (GSQ, Selection::GaussSouthwellQuadratic),
        ];
        if variable && update == Update::Matrix {
            rules.push((OMP, Selection::OrthogonalMatchingPursuit));
        }
        if !variable && !many {
            rules.push((MI, Selection::MaximumImprovement));
        }
        let blocks = || if variable { any(5) } else { fixed(5) };
        let row = |(name, rule)| (name, config(blocks(), rule, update));
        settings.push((way, rules.into_iter().map(row).collect()));
    }
    let mut updates = vec![
        (STEP_L, Update::Gradient(StepSize::Global)),
        (STEP_GUESS, Update::Backtracking),
        (STEP_LB, gradient),
        (MATRIX, Update::Matrix),
    ];
    if curved {
        updates.push((NEWTON, Update::Newton));
    }
    let row = |(name, update)| (name, config(fixed(5), Selection::GaussSouthwell, update));
    settings.push((UPDATES, updates.into_iter().map(row).collect()));
    let row = |(name, partition)| {
        let blocks = Blocks::Fixed(partition);
        (name, config(blocks, Selection::GaussSouthwell, gradient))
    };
    let partitions = [
        (IN_ORDER, Partition::Order { size: 5 }),
        (AT_RANDOM, Partition::Random { size: 5 }),
        (AVERAGED, Partition::Average { size: 5 }),
        (SORTED, Partition::Sort { size: 5 }),
    ];
    settings.push((PARTITIONS, partitions.into_iter().map(row).collect()));
    let sizes = || SIZES.into_iter().filter(|(size, _)| *size <= n);
    let lipschitz = Selection::GaussSouthwellLipschitz;
    let row = |(size, name)| (name, config(fixed(size), lipschitz, gradient));
    settings.push((SIZES_GRADIENT, sizes().map(row).collect()));
    let row = |(size, name)| (name, config(any(size), diagonal, Update::Matrix));
    settings.push((SIZES_MATRIX, sizes().map(row).collect()));
    settings
}

fn config(blocks: Blocks, selection: Selection, update: Update) -> BlockCoordinateDescentConfig {
    BlockCoordinateDescentConfig::new()
        .with_blocks(blocks)
        .with_selection(selection)
        .with_update(update)
        .with_tolerance(0.0)
        .with_trace_every(0)
}

/// The minimum, to rounding, and where it is.
fn solved<P: SmoothProblem>(
    problem: &P,
    penalty: &Penalty,
    config: &BlockCoordinateDescentConfig,
) -> Result<(f64, Vec<f64>), ClaimError> {
    let tolerance = if config.tolerance > 0.0 {
        config.tolerance.min(1e-11)
    } else {
        1e-11
    };
    let config = config
        .clone()
        .with_tolerance(tolerance)
        .with_max_iterations(1000);
    let found = config
        .solve(problem, penalty, None, &mut |_| ControlFlow::Continue(()))
        .map_err(ClaimError::experiment)?;
    if found.certificate.relative_residual > 1e-8 {
        return Err(ClaimError::experiment(format!(
            "the reference minimum was not reached: the residual is {:.1e}",
            found.certificate.relative_residual
        )));
    }
    Ok((found.objective, found.x))
}

/// The mean size of the correlation of two coordinates of a block, `|H_ij|/√(H_ii H_jj)`, over the
/// first 100 steps.
fn correlation<P: SmoothProblem>(
    problem: &P,
    config: &BlockCoordinateDescentConfig,
) -> Result<f64, ClaimError> {
    let state = problem.state(&vec![0.0; problem.dimension()], false);
    let (mut sum, mut pairs) = (0.0, 0_u32);
    let config = config.clone().with_max_iterations(100);
    let mut look = |block: &[usize]| {
        let h = problem.curvature_block(&state, Curvature::Bound, block);
        for i in 0..block.len() {
            for j in 0..i {
                let scale = (h[(i, i)] * h[(j, j)]).sqrt();
                // A pixel that is black in all pictures is like no other.
                sum += if scale > 0.0 {
                    h[(i, j)].abs() / scale
                } else {
                    0.0
                };
                pairs += 1;
            }
        }
    };
    config
        .solve(problem, &Penalty::None, None, &mut |step| {
            look(step.block);
            ControlFlow::Continue(())
        })
        .map_err(ClaimError::experiment)?;
    Ok(sum / f64::from(pairs.max(1)))
}

/// What the rules' variable blocks have in common where updates are exact.
fn alike(table: &Table, problems: &[&str]) -> Result<String, TableError> {
    let (mut parts, mut more) = (Vec::new(), true);
    for problem in problems {
        let group = group(problem, WAYS[3]);
        let mean = |rule| table.mean(&group, rule, CORRELATION);
        let (greedy, random, pursuit) = (mean(GS)?, mean(RANDOM)?, mean(OMP)?);
        more &= greedy > random;
        parts.push(format!(
            "{problem} {greedy:.2} (GS), {random:.2} (random), {pursuit:.2} (pursuit)"
        ));
    }
    let why = if more {
        " Coordinates with the largest slopes are alike, so that an exact step over them gains little \
         over one of them; a rule that sees only single slopes cannot know."
    } else {
        ""
    };
    Ok(format!(
        "Mean correlation of two coordinates of a variable block: {}.{why}",
        parts.join("; ")
    ))
}

/// The coordinates that are not 0.
fn support(x: &[f64]) -> Vec<usize> {
    (0..x.len()).filter(|&i| x[i] != 0.0).collect()
}

/// What is measured of one run.
struct Descent {
    /// Steps to the excess that ends it; infinite if it is not reached.
    steps: f64,
    /// Coordinates updated until then, divided by their number.
    rounds: f64,
    /// Steps after which the support is the solution's for good; infinite if it never is.
    support: f64,
    /// [`last_contraction`].
    contraction: f64,
    /// The excess as a share of that at 0, over the steps.
    curve: Vec<[f64; 2]>,
}

impl Descent {
    fn run<P: SmoothProblem>(
        problem: &P,
        penalty: &Penalty,
        config: &BlockCoordinateDescentConfig,
        best: f64,
        share: f64,
        wanted: Option<&[usize]>,
    ) -> Result<Self, ClaimError> {
        let mut excesses: Vec<f64> = Vec::new();
        let mut curve = Vec::new();
        let (mut reached, mut last_other, mut next) = (false, None, 0.0);
        let found = config
            .solve(problem, penalty, None, &mut |step| {
                let excess = step.objective - best;
                excesses.push(excess);
                let relative = excess / excesses[0];
                reached = relative <= share;
                if wanted.is_some_and(|wanted| support(step.x) != wanted) {
                    last_other = Some(step.iteration);
                }
                // Points for a plot, about as dense on a linear as on a logarithmic axis.
                let at = step.iteration as f64;
                if at >= next || reached {
                    curve.push([at, relative]);
                    next = (at * 1.04).max(at + 1.0);
                }
                if reached {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .map_err(ClaimError::experiment)?;
        let (iterations, never) = (found.iterations, f64::INFINITY);
        Ok(Self {
            steps: if reached { iterations as f64 } else { never },
            rounds: if reached { found.epochs } else { never },
            support: match last_other {
                None => 0.0,
                Some(last) if last < iterations => (last + 1) as f64,
                Some(_) => never,
            },
            contraction: last_contraction(&excesses),
            curve,
        })
    }
}

/// What the last step left of the excess; what is left is not told apart from rounding below 10⁻¹⁴ of
/// the first excess. NaN without a step.
fn last_contraction(excesses: &[f64]) -> f64 {
    match excesses {
        [first, .., before, last] => last.max(1e-14 * first) / before,
        [first, last] => last.max(1e-14 * first) / first,
        _ => f64::NAN,
    }
}

/// `count` different numbers below `all`, rising.
fn chosen(all: usize, count: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut noise = SeededNoise::new(seed, stream);
    let mut numbers: Vec<usize> = (0..all).collect();
    let count = count.min(all);
    for i in 0..count {
        let j = noise.random_range(i..all);
        numbers.swap(i, j);
    }
    numbers.truncate(count);
    numbers.sort_unstable();
    numbers
}

/// Pictures as examples: pixels in `[0, 1]`, the means of squares that leave `side` of them, and a
/// constant.
fn rows(
    pictures: &LabelledPictures,
    side: usize,
    which: &[usize],
    label: &dyn Fn(u8) -> f64,
) -> Result<LabelledRows, ClaimError> {
    let [_, height, width] = pictures.shape();
    let factor = (width / side).max(1);
    let (rows, columns) = (height / factor, width / factor);
    let features = rows * columns + 1;
    let full = f64::from(pictures.white()) * (factor * factor) as f64;
    let mut out = LabelledRows::new(features);
    for &i in which {
        let pixels = pictures.pixels(i);
        let mut values = vec![0.0; features];
        for (at, &pixel) in pixels.iter().enumerate() {
            let (row, column) = (at / width / factor, at % width / factor);
            if row < rows && column < columns {
                values[row * columns + column] += f64::from(pixel) / full;
            }
        }
        values[features - 1] = 1.0;
        let class = pictures.labels().get(i).copied().unwrap_or(0);
        out.push(label(class), values.into_iter().enumerate())
            .map_err(ClaimError::experiment)?;
    }
    Ok(out)
}

/// The five nearest neighbours of the examples, of which a tenth keeps its label, and one more
/// wherever no label would come.
fn label_propagation(rows: &LabelledRows, seed: u64) -> Result<LabelPropagation, ClaimError> {
    let edges = nearest_neighbour_edges(rows, 5).map_err(ClaimError::experiment)?;
    let mut known = vec![None; rows.len()];
    for i in chosen(rows.len(), rows.len() / 10, seed, 4) {
        known[i] = Some(rows.labels()[i]);
    }
    loop {
        match LabelPropagation::new(&edges, &known) {
            Err(BlockDescentError::Unreachable(node)) if known[node].is_none() => {
                known[node] = Some(rows.labels()[node]);
            }
            other => return other.map_err(ClaimError::experiment),
        }
    }
}

/// One comparison of a check: its name, the cell (group, variant) that should have fewer steps, and
/// those that should have more.
type Fewer = (String, (String, &'static str), Vec<(String, &'static str)>);

/// The check that in every comparison the first cell has a lower mean number of steps than each other
/// that was measured. Comparisons without any are left out.
fn fewer(
    table: &Table,
    text: impl Into<String>,
    comparisons: &[Fewer],
) -> Result<Check, TableError> {
    let (mut holds, mut details) = (true, Vec::new());
    for (name, (group, variant), others) in comparisons {
        if !table.has(group, variant, STEPS) {
            continue;
        }
        let own = table.mean(group, variant, STEPS)?;
        let mut least: Option<(f64, &str)> = None;
        for (group, other) in others {
            if table.has(group, other, STEPS) {
                let mean = table.mean(group, other, STEPS)?;
                if least.is_none_or(|(value, _)| mean < value) {
                    least = Some((mean, other));
                }
            }
        }
        let Some((value, other)) = least else {
            continue;
        };
        let better = own < value;
        holds &= better;
        let mark = if better { "" } else { " (not fewer)" };
        details.push(format!(
            "{name}: {} against {} ({other}){mark}",
            whole(own),
            whole(value)
        ));
    }
    let compared = !details.is_empty();
    Ok(Check::new(text, holds && compared, details.join("; ")))
}

/// A mean number of steps.
fn whole(steps: f64) -> String {
    if steps.is_infinite() {
        "∞".to_owned()
    } else if steps < 10.0 {
        format!("{steps:.1}")
    } else {
        format!("{steps:.0}")
    }
}

fn checks(table: &Table, problems: &[&str]) -> Result<Vec<Check>, TableError> {
    let mut checks = Vec::new();
    // Within one part of each problem.
    let within = |part: &str, better: &'static str, others: &[&'static str]| -> Vec<Fewer> {
        let comparison = |problem: &&str| {
            let group = group(problem, part);
            let others = others.iter().map(|&o| (group.clone(), o)).collect();
            ((*problem).to_owned(), (group, better), others)
        };
        problems.iter().map(comparison).collect()
    };
    for way in WAYS {
        for rule in [GS, GSL, GSD, GSQ, OMP, MI] {
            let comparisons = within(way, rule, &NOT_GREEDY);
            if comparisons
                .iter()
                .any(|(_, (group, rule), _)| table.has(group, rule, STEPS))
            {
                let text = format!(
                    "{way} updates: {rule} takes fewer steps than cyclic, random and Lipschitz sampling"
                );
                checks.push(fewer(table, text, &comparisons)?);
            }
        }
        for rule in [GSL, GSQ] {
            let text = format!("{way} updates: {rule} takes fewer steps than GS");
            checks.push(fewer(table, text, &within(way, rule, &[GS]))?);
        }
    }
    for (better, worse) in [(STEP_LB, STEP_L), (MATRIX, STEP_LB), (NEWTON, MATRIX)] {
        let text = format!("GS, fixed blocks: {better} updates take fewer steps than {worse}");
        checks.push(fewer(table, text, &within(UPDATES, better, &[worse]))?);
    }
    let text = "GS, gradient updates: sorted blocks take fewer steps than other partitions";
    let others = [IN_ORDER, AT_RANDOM, AVERAGED];
    checks.push(fewer(table, text, &within(PARTITIONS, SORTED, &others))?);
    for (fixed, variable, update) in [(WAYS[0], WAYS[2], "gradient"), (WAYS[1], WAYS[3], "matrix")]
    {
        let comparison = |problem: &&str| {
            let other = vec![(group(problem, fixed), GS)];
            ((*problem).to_owned(), (group(problem, variable), GS), other)
        };
        let text =
            format!("GS, {update} updates: variable blocks take fewer steps than fixed ones");
        let comparisons: Vec<Fewer> = problems.iter().map(comparison).collect();
        checks.push(fewer(table, text, &comparisons)?);
    }
    for part in [SIZES_GRADIENT, SIZES_MATRIX] {
        for pair in SIZES.windows(2) {
            let (smaller, larger) = (pair[0].1, pair[1].1);
            let text = format!("{part}: {larger} take fewer steps than {smaller}");
            checks.push(fewer(table, text, &within(part, larger, &[smaller]))?);
        }
    }
    for (better, worse) in [
        (GREEDY_TREES, &[RANDOM_TREES, FIXED_TREES][..]),
        (GREEDY_TREES_L, &[RANDOM_TREES, FIXED_TREES]),
        (FIXED_TREES, &[RED_BLACK]),
        (RED_BLACK, &[DENSE, DENSE_L]),
    ] {
        let at = |name| (PROPAGATION.to_owned(), name);
        let others = worse.iter().map(|&name| at(name)).collect();
        let comparisons = [(PROPAGATION.to_owned(), at(better), others)];
        let text = format!(
            "label propagation: {better} take fewer steps than {}",
            worse.join(" and ")
        );
        checks.push(fewer(table, text, &comparisons)?);
    }
    for group in SPARSE
        .into_iter()
        .filter(|g| table.groups().iter().any(|o| o == g))
    {
        checks.extend(sparse_checks(table, group)?);
    }
    Ok(checks)
}

/// The active set and the end of the runs of a sparse problem.
fn sparse_checks(table: &Table, group: &str) -> Result<Vec<Check>, TableError> {
    let all = [
        PROXIMAL_NEWTON,
        TWO_METRIC,
        PROXIMAL_GRADIENT,
        SMALL_NEWTON,
        CYCLIC_COORDINATES,
    ];
    let (mut early, mut details) = (true, Vec::new());
    for variant in all {
        let found = table.values(group, variant, SUPPORT)?;
        let ends = table.values(group, variant, STEPS)?;
        early &= found
            .iter()
            .zip(&ends)
            .all(|(found, end)| found.is_finite() && found <= end);
        let mean = |values: &[f64]| whole(values.iter().sum::<f64>() / values.len() as f64);
        details.push(format!("{variant}: {} of {}", mean(&found), mean(&ends)));
    }
    let text = format!("{group}: every method has the solution's support when it ends");
    let mut checks = vec![Check::new(text, early, details.join("; "))];
    for variant in all {
        let superlinear = matches!(variant, PROXIMAL_NEWTON | TWO_METRIC);
        let worst = table.values(group, variant, CONTRACTION)?;
        let holds = worst
            .iter()
            .all(|c| (*c < SUPERLINEAR) == superlinear && !c.is_nan());
        let word = if superlinear { "less" } else { "no less" };
        let text = format!(
            "{group}: the last step of {variant} leaves {word} than {SUPERLINEAR} of the excess"
        );
        let shown: Vec<String> = worst.iter().map(|c| format!("{c:.1e}")).collect();
        checks.push(Check::new(text, holds, shown.join(", ")));
    }
    Ok(checks)
}

/// The curves of the first seed.
fn plots(runs: &[Run]) -> Vec<LinePlot> {
    let Some(run) = runs.first() else {
        return Vec::new();
    };
    let shown = [
        group(LOGISTIC, WAYS[0]),
        group(LOGISTIC, WAYS[3]),
        group(LOGISTIC, SIZES_MATRIX),
        PROPAGATION.to_owned(),
        SPARSE[1].to_owned(),
    ];
    let plot = |group: &String| {
        let title = format!("{group} (first seed)");
        let plot = LinePlot::new(title, "step", "excess, share of the first");
        let curves = run.curves.iter().filter(|(g, ..)| g == group);
        curves.fold(plot.log_x().log_y(), |plot, (_, name, points)| {
            plot.with_series(Series::new(*name, points.iter().copied()))
        })
    };
    shown
        .iter()
        .map(plot)
        .filter(|plot| !plot.series.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::NoProgress;
    use crate::runner::run_claim;
    use burn::tensor::Device;

    #[test]
    fn the_quick_form_runs_whole() {
        let context = ClaimContext::quick(Device::flex(), &NoProgress);
        let result = run_claim(&BlockCoordinateDescentClaim, &context).unwrap();
        assert!(result.quick);
        // Five, five with MI, four and five with pursuit of the rules (MI with fixed blocks only),
        // GSL and GSQ against GS in each way, and the others.
        assert_eq!(
            result.checks.len(),
            5 + 5 + 4 + 5 + 8 + 3 + 1 + 2 + 6 + 4 + 2 * 6
        );
        assert_eq!(result.plots.len(), 5);
        let mean = |variant| result.measured.mean(PROPAGATION, variant, STEPS).unwrap();
        assert!(mean(GREEDY_TREES) < mean(DENSE));
        for group in SPARSE {
            let support = result
                .measured
                .mean(group, PROXIMAL_NEWTON, SUPPORT)
                .unwrap();
            assert!(support >= 1.0 && support.is_finite(), "{group}: {support}");
        }
    }

    #[test]
    fn correlation_is_that_of_the_columns() {
        // Two columns at 45 degrees and one at a right angle to both: 1/√2, 0 and 0.
        let rows: LabelledRows = "1 1:1 2:1\n0 2:1\n1 3:2\n".parse().unwrap();
        let problem = LinearModel::least_squares(&rows, 0.0).unwrap();
        let all = Blocks::Fixed(Partition::Order { size: 3 });
        let config = config(all, Selection::Cyclic, Update::Matrix);
        let found = correlation(&problem, &config).unwrap();
        assert!((found - 0.5_f64.sqrt() / 3.0).abs() < 1e-12, "{found}");
    }

    #[test]
    fn a_check_needs_every_comparison_and_names_the_best_of_the_others() {
        let mut table = Table::new(
            &[0, 1],
            [Metric::lower(STEPS, "")],
            [GS, RANDOM, CYCLIC].map(Variant::method),
            ["a", "b"],
        )
        .unwrap();
        for (group, variant, steps) in [
            ("a", GS, [4.0, 6.0]),
            ("a", RANDOM, [9.0, 5.0]),
            ("a", CYCLIC, [6.0, 6.0]),
            ("b", GS, [20.0, 20.0]),
            ("b", RANDOM, [20.0, 20.0]),
        ] {
            for (seed, value) in steps.into_iter().enumerate() {
                table
                    .record(group, variant, STEPS, seed as u64, value)
                    .unwrap();
            }
        }
        let comparison = |group: &str| -> Fewer {
            let at = |name| (group.to_owned(), name);
            (group.to_owned(), at(GS), vec![at(RANDOM), at(CYCLIC)])
        };
        let one = fewer(&table, "a", &[comparison("a")]).unwrap();
        assert!(one.holds);
        assert_eq!(one.detail, "a: 5.0 against 6.0 (cyclic)");
        let both = fewer(&table, "both", &[comparison("a"), comparison("b")]).unwrap();
        assert!(
            !both.holds
                && both
                    .detail
                    .ends_with("b: 20 against 20 (random) (not fewer)")
        );
        // Nothing compared is nothing held.
        assert!(!fewer(&table, "none", &[]).unwrap().holds);
    }

    #[test]
    fn a_superlinear_end_is_told_from_a_linear_one() {
        let linear: Vec<f64> = (0..60).map(|k| 0.9_f64.powi(k)).collect();
        assert!((last_contraction(&linear) - 0.9).abs() < 1e-12);
        let newton = [1.0, 1e-1, 1e-2, 1e-4, 1e-8, 0.0];
        assert_eq!(last_contraction(&newton), 1e-14 / 1e-8);
        assert_eq!(last_contraction(&[2.0, 1.0]), 0.5);
        assert!(last_contraction(&[1.0]).is_nan());
    }

    #[test]
    fn examples_are_different_and_their_pixels_are_means() {
        let digits = nabla_data::digits().unwrap();
        let some = chosen(digits.len(), 50, 3, 0);
        assert_eq!(some.len(), 50);
        assert!(some.windows(2).all(|w| w[0] < w[1]));
        assert_ne!(some, chosen(digits.len(), 50, 4, 0));
        let full = rows(&digits, 8, &some, &f64::from).unwrap();
        let half = rows(&digits, 4, &some, &f64::from).unwrap();
        assert_eq!((full.features(), half.features()), (65, 17));
        for (i, &picture) in some.iter().enumerate() {
            // The mean brightness is the same, and the last feature is 1.
            let mean = |rows: &LabelledRows| {
                let sum: f64 = rows.row(i).map(|(_, value)| value).sum();
                (sum - 1.0) / (rows.features() - 1) as f64
            };
            assert!((mean(&full) - mean(&half)).abs() < 1e-12);
            assert_eq!(full.row(i).last(), Some((64, 1.0)));
            assert_eq!(full.labels()[i], f64::from(digits.labels()[picture]));
        }
    }
}
