//! Block coordinate descent's rules, updates and blocks against each other, on real data.
//!
//! Every configuration starts at 0 and is stopped as soon as its excess `F(x) − F*` has fallen to a given
//! fraction of its value at 0. Steps are counted, as in the paper, and also rounds, which are the coordinate
//! updates divided by the number of coordinates. `F*` is from Newton's method over all coordinates. The seeds
//! draw the examples, the known labels, and all random choices of a rule. Nothing here has a step size to
//! tune: the constants come from the data.
//!
//! The problems are of the paper's kinds, on the embedded data: least squares, logistic regression
//! and its multi-class form with `‖x‖²/2` (the paper's A, B and C), label propagation on a graph of
//! nearest neighbours (E), and two sparse problems on which the active set is found.

use nabla_claims::{
    Bench, Cell, Claim, ClaimError, LinePlot, Measurement, Series, Stage, Table, TableError, Task,
    Variant,
};
use nabla_data::{LabelledPictures, LabelledRows};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_solve::block_coordinate_descent::{
    BlockCoordinateDescentConfig, BlockDescentError, BlockSolver, Blocks, DealOrder, DiagonalBound,
    LabelPropagation, LinearModel, Partition, Penalty, Selection, SmoothProblem, StepSize, Update,
    nearest_neighbour_edges,
};
use rand::RngExt;
use serde::{Deserialize, Serialize};

mod checks;
mod descent;
mod names;

use checks::checks;
use descent::{Descent, config, correlation, solved, support};
use names::*;

/// The excess at which the sparse runs end, as a fraction of the excess at 0: a superlinear end needs room.
const SPARSE_SHARE: f64 = 1e-9;
/// A step that leaves less than this fraction of the excess is faster than a linear rate.
const SUPERLINEAR: f64 = 0.1;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct BlockCoordinateDescentClaim;

impl Claim for BlockCoordinateDescentClaim {
    fn slug(&self) -> &str {
        "block-coordinate-descent"
    }

    fn statement(&self) -> &str {
        "Greedy block-selection rules guarantee more progress than the Gauss-Southwell rule (GS): with the \
         Lipschitz constants for gradient updates (GSL), with the second derivatives for matrix updates \
         (GSQ). Message passing gives exact updates of huge blocks, which take fewer iterations than small \
         dense blocks. With sparse solutions the active set is found after finitely many iterations, and \
         the end is superlinear where the blocks hold it. In detail: greedy rules need fewer iterations than \
         others, whatever the update, and larger blocks, variable blocks, matrix updates, Newton updates \
         and the choice of the trees each save some."
    }

    fn criterion(&self) -> &str {
        "Mean number of steps over the seeds, on each of the problems, where fewer means at least 1% fewer. \
         With fixed and variable blocks of 5: GSL takes fewer steps than GS with gradient updates (L_b), \
         and GSQ takes fewer than GS with matrix updates. Label propagation: greedy trees (GS) take fewer \
         than dense blocks of n^(1/3). Sparse: every method has the solution's support when it ends; \
         proximal Newton and two-metric steps over blocks as large as the support end with a step that \
         leaves less than a tenth of the excess. In detail: GS, GSL, GSD, GSQ and MI each take fewer steps \
         than the cyclic rule, random blocks and Lipschitz sampling; GSQ takes fewer than GS with gradient \
         updates, and GSL with matrix updates. GS: L_b beats L, matrix updates beat L_b, and Newton beats \
         matrix updates where they differ; sorted blocks beat the other partitions; variable blocks beat \
         fixed ones. Blocks of 1, 5, 20 and 50 take fewer steps the larger they are. Label propagation: \
         greedy trees beat random trees and fixed trees, these red-black, and red-black the dense blocks; \
         greedy trees also take fewer rounds than dense blocks, by any margin. Sparse: gradient steps and \
         small blocks end with a step that leaves no less than a tenth."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() {
            Size::quick()
        } else {
            Size::full()
        };
        let problems = &Smooth::ALL[..size.problems];
        let parts = problems
            .iter()
            .flat_map(|&problem| Part::ALL.map(|part| Subject::Smooth(problem, part)));
        let others = [
            Subject::Propagation,
            Subject::SparseSquares,
            Subject::SparseLogistic,
        ];
        let subjects: Vec<Subject> = parts.chain(others).collect();
        let mut table = Table::new(
            bench.seeds(),
            [STEPS, ROUNDS, SUPPORT, CONTRACTION, CORRELATION],
            variants(),
            subjects.iter().map(|subject| subject.task()),
        )?;
        let digits = nabla_data::digits().map_err(ClaimError::experiment)?;
        let [fashion, _] = nabla_data::fashion_sample().map_err(ClaimError::experiment)?;
        let mut points = Vec::new();
        for &seed in bench.seeds() {
            points.extend(subjects.iter().map(|&subject| (seed, subject)));
        }
        let found = bench.measure_side_by_side(
            &Stage::new("block coordinate descent", &size),
            &points,
            |(seed, subject)| Cell::of(&subject.task()).seed(*seed),
            |&(seed, subject)| {
                let run = Run {
                    seed,
                    size: &size,
                    digits: &digits,
                    fashion: &fashion,
                };
                run.of(subject)
            },
        )?;
        for (&(seed, subject), rows) in points.iter().zip(&found) {
            for row in rows {
                let variant = variants().into_iter().find(|v| v.name() == row.variant);
                let variant = variant.ok_or(ClaimError::experiment("a row is of no variant"))?;
                let measured = [
                    (STEPS, Some(row.steps)),
                    (ROUNDS, Some(row.rounds)),
                    (SUPPORT, row.support),
                    (CONTRACTION, row.contraction),
                    (CORRELATION, row.correlation),
                ];
                for (metric, value) in measured {
                    if let Some(value) = value {
                        table.record(&subject.task(), &variant, &metric, seed, value)?;
                    }
                }
            }
        }
        let checks = checks(&table, problems)?;
        let mut measurement = Measurement::new(table, checks).with_note(format!(
            "{} pictures of handwritten digits (8 x 8; {} for softmax and {} for the graph) and {} of \
             Fashion-MNIST (14 x 14, the mean of 2 x 2 pixels, the first five classes against the \
             others), with a constant feature, drawn anew for every seed; λ = 1. A run ends at an excess \
             of {:.0e} of that at 0, a sparse one at {SPARSE_SHARE:.0e}, or after {} and {} \
             steps, which is written as ∞.",
            size.digits, size.softmax, size.nodes, size.fashion, size.share, size.most, size.most_sparse,
        ));
        let alike = alike(&measurement.table, problems)?;
        measurement = measurement.with_note(alike).with_note(
            "Not measured: the time of an update, and the bounds on the number of iterations to the active \
             set. The time of an update by message passing grows with the size of its block, and that of a \
             dense block with the cube of its size; rounds count only the coordinates.",
        );
        let first = points.iter().zip(&found).take(subjects.len());
        for plot in plots(
            &first
                .map(|(&(_, s), rows)| (s.task(), rows))
                .collect::<Vec<_>>(),
        ) {
            measurement = measurement.with_plot(plot);
        }
        Ok(measurement)
    }
}

/// The size of the experiment.
#[derive(Debug)]
struct Size {
    /// Examples.
    digits: usize,
    fashion: usize,
    softmax: usize,
    nodes: usize,
    /// Of [`Smooth::ALL`].
    problems: usize,
    /// The excess at which a run ends, as a fraction of the excess at 0.
    share: f64,
    /// The largest number of steps.
    most: usize,
    /// The largest number of steps of a sparse run, which is longer.
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

/// The results of one configuration on a subject.
#[derive(Serialize, Deserialize)]
struct Row {
    variant: String,
    steps: f64,
    rounds: f64,
    support: Option<f64>,
    contraction: Option<f64>,
    correlation: Option<f64>,
    /// The excess over the steps.
    curve: Vec<[f64; 2]>,
}

impl Row {
    fn of(variant: &Variant, descent: Descent) -> Self {
        Self {
            variant: variant.name().to_owned(),
            steps: descent.steps,
            rounds: descent.rounds,
            support: None,
            contraction: None,
            correlation: None,
            curve: descent.curve,
        }
    }
}

/// The data from which one seed draws its problems.
struct Run<'a> {
    seed: u64,
    size: &'a Size,
    digits: &'a LabelledPictures,
    fashion: &'a LabelledPictures,
}

impl Run<'_> {
    fn of(&self, subject: Subject) -> Result<Vec<Row>, ClaimError> {
        let even = |label: u8| if label.is_multiple_of(2) { 1.0 } else { -1.0 };
        match subject {
            Subject::Smooth(Smooth::Squares, part) => {
                let model = LinearModel::least_squares(&self.squares()?, 1.0);
                let model = model.map_err(ClaimError::experiment)?;
                self.smooth(Smooth::Squares, part, &model)
            }
            Subject::Smooth(Smooth::Logistic, part) => {
                let model = LinearModel::logistic(&self.halves()?, 1.0);
                let model = model.map_err(ClaimError::experiment)?;
                self.smooth(Smooth::Logistic, part, &model)
            }
            Subject::Smooth(Smooth::Softmax, part) => {
                let rows = self.draw(self.digits, 8, self.size.softmax, 2, &f64::from)?;
                let model = LinearModel::softmax(&rows, 1.0).map_err(ClaimError::experiment)?;
                self.smooth(Smooth::Softmax, part, &model)
            }
            Subject::Propagation => {
                let rows = self.draw(self.digits, 8, self.size.nodes, 3, &even)?;
                self.propagation(&rows)
            }
            Subject::SparseSquares => {
                let model = LinearModel::least_squares(&self.squares()?, 0.0);
                let model = model.map_err(ClaimError::experiment)?;
                self.sparse(&model, Penalty::NonNegativeL1)
            }
            Subject::SparseLogistic => {
                let model = LinearModel::logistic(&self.halves()?, 0.0);
                let model = model.map_err(ClaimError::experiment)?;
                self.sparse(&model, Penalty::L1)
            }
        }
    }

    fn draw(
        &self,
        pictures: &LabelledPictures,
        side: usize,
        count: usize,
        stream: u64,
        label: &dyn Fn(u8) -> f64,
    ) -> Result<LabelledRows, ClaimError> {
        let which = chosen(pictures.len(), count, self.seed, stream);
        rows(pictures, side, &which, label)
    }

    fn squares(&self) -> Result<LabelledRows, ClaimError> {
        self.draw(self.digits, 8, self.size.digits, 0, &f64::from)
    }

    /// The first five classes against the others.
    fn halves(&self) -> Result<LabelledRows, ClaimError> {
        let label = |label: u8| if label < 5 { 1.0 } else { -1.0 };
        self.draw(self.fashion, 14, self.size.fashion, 1, &label)
    }

    /// The rules, updates, partitions or sizes on a smooth problem.
    fn smooth<P: SmoothProblem>(
        &self,
        which: Smooth,
        part: Part,
        problem: &P,
    ) -> Result<Vec<Row>, ClaimError> {
        let n = problem.dimension();
        let all = config(
            Blocks::Variable { size: n },
            Selection::Cyclic,
            Update::Newton,
        );
        let best = solved(problem, &Penalty::None, &all)?.0;
        let mut rows = Vec::new();
        for (variant, config) in settings(n, which, part) {
            let config = config
                .with_max_iterations(self.size.most)
                .with_seed(self.seed);
            let share = self.size.share;
            let descent = Descent::run(problem, &Penalty::None, &config, best, share, None)?;
            let mut row = Row::of(&variant, descent);
            if WAYS.contains(&part) {
                row.correlation = Some(correlation(problem, &config)?);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn propagation(&self, rows: &LabelledRows) -> Result<Vec<Row>, ClaimError> {
        let graph = label_propagation(rows, self.seed)?;
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
        let mut rows = Vec::new();
        for (variant, blocks, selection) in rules {
            let solver = match blocks {
                Blocks::Variable { .. } => BlockSolver::Dense,
                _ => BlockSolver::MessagePassing,
            };
            let config = config(blocks, selection, Update::Matrix)
                .with_solver(solver)
                .with_max_iterations(self.size.most)
                .with_seed(self.seed);
            let share = self.size.share;
            let descent = Descent::run(problem, &Penalty::None, &config, best, share, None)?;
            rows.push(Row::of(&variant, descent));
        }
        Ok(rows)
    }

    /// The search for a sparse solution's support, with a twentieth of the weight that makes the solution 0.
    fn sparse<P: SmoothProblem>(
        &self,
        problem: &P,
        penalty: impl Fn(f64) -> Penalty,
    ) -> Result<Vec<Row>, ClaimError> {
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
        let mut rows = Vec::new();
        for (variant, blocks, selection, update) in rules {
            let config = config(blocks, selection, update)
                .with_max_iterations(self.size.most_sparse)
                .with_seed(self.seed);
            let wanted = Some(&support[..]);
            let descent = Descent::run(problem, &penalty, &config, best, SPARSE_SHARE, wanted)?;
            rows.push(Row {
                support: Some(descent.support),
                contraction: Some(descent.contraction),
                ..Row::of(&variant, descent)
            });
        }
        Ok(rows)
    }
}

/// The configurations of a part of a smooth problem of `n` coordinates.
fn settings(n: usize, problem: Smooth, part: Part) -> Vec<(Variant, BlockCoordinateDescentConfig)> {
    let fixed = |size: usize| Blocks::Fixed(Partition::Sort { size });
    let any = |size: usize| Blocks::Variable { size };
    let gradient = Update::Gradient(StepSize::Block);
    let diagonal = Selection::GaussSouthwellDiagonal(DiagonalBound::Coordinate);
    let sizes = || SIZES.into_iter().filter(|(size, _)| *size <= n);
    match part {
        Part::Rules { variable, matrix } => {
            let update = if matrix { Update::Matrix } else { gradient };
            let mut rules = vec![
                (CYCLIC, Selection::Cyclic),
                (RANDOM, Selection::Random),
                (LIPSCHITZ, Selection::Lipschitz),
                (GS, Selection::GaussSouthwell),
                (GSL, Selection::GaussSouthwellLipschitz),
                (GSD, diagonal),
                (GSQ, Selection::GaussSouthwellQuadratic),
            ];
            if variable && matrix {
                rules.push((OMP, Selection::OrthogonalMatchingPursuit));
            }
            // It tries all blocks, which is too slow for many coordinates.
            if !variable && problem != Smooth::Softmax {
                rules.push((MI, Selection::MaximumImprovement));
            }
            let blocks = || if variable { any(5) } else { fixed(5) };
            let row = |(variant, rule)| (variant, config(blocks(), rule, update));
            rules.into_iter().map(row).collect()
        }
        Part::Updates => {
            let mut updates = vec![
                (STEP_L, Update::Gradient(StepSize::Global)),
                (STEP_GUESS, Update::Backtracking),
                (STEP_LB, gradient),
                (MATRIX, Update::Matrix),
            ];
            // On a quadratic it is the same as the matrix update.
            if problem != Smooth::Squares {
                updates.push((NEWTON, Update::Newton));
            }
            let greedy = Selection::GaussSouthwell;
            let row = |(variant, update)| (variant, config(fixed(5), greedy, update));
            updates.into_iter().map(row).collect()
        }
        Part::Partitions => {
            let row = |(variant, partition)| {
                let blocks = Blocks::Fixed(partition);
                (variant, config(blocks, Selection::GaussSouthwell, gradient))
            };
            let partitions = [
                (IN_ORDER, Partition::Order { size: 5 }),
                (AT_RANDOM, Partition::Random { size: 5 }),
                (AVERAGED, Partition::Average { size: 5 }),
                (SORTED, Partition::Sort { size: 5 }),
            ];
            partitions.into_iter().map(row).collect()
        }
        Part::SizesGradient => {
            let lipschitz = Selection::GaussSouthwellLipschitz;
            let row = |(size, variant)| (variant, config(fixed(size), lipschitz, gradient));
            sizes().map(row).collect()
        }
        Part::SizesMatrix => {
            let row = |(size, variant)| (variant, config(any(size), diagonal, Update::Matrix));
            sizes().map(row).collect()
        }
    }
}

/// The correlations within the rules' variable blocks where updates are exact.
fn alike(table: &Table, problems: &[Smooth]) -> Result<String, TableError> {
    let (mut parts, mut more) = (Vec::new(), true);
    for problem in problems {
        let task = problem.task(WAYS[3]);
        let mean = |rule: &Variant| table.mean(&task, rule, &CORRELATION);
        let (greedy, random, pursuit) = (mean(&GS)?, mean(&RANDOM)?, mean(&OMP)?);
        more &= greedy > random;
        parts.push(format!(
            "{} {greedy:.2} (GS), {random:.2} (random), {pursuit:.2} (pursuit)",
            problem.name()
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

/// `count` different numbers below `all`, in increasing order.
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

/// The graph of the five nearest neighbours of the examples. A tenth of the examples keep their label, and
/// one more wherever no label would arrive.
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

/// The curves of the first seed.
fn plots(rows: &[(Task, &Vec<Row>)]) -> Vec<LinePlot> {
    let shown = [
        Smooth::Logistic.task(WAYS[0]),
        Smooth::Logistic.task(WAYS[3]),
        Smooth::Logistic.task(Part::SizesMatrix),
        PROPAGATION,
        SPARSE_LOGISTIC,
    ];
    let plot = |task: &Task| {
        let title = format!("{task} (first seed)");
        let plot = LinePlot::new(title, "step", "excess, share of the first");
        let curves = rows.iter().filter(|(of, _)| of == task);
        let curves = curves.flat_map(|(_, rows)| rows.iter());
        curves.fold(plot.log_x().log_y(), |plot, row| {
            plot.with_series(Series::new(&row.variant, row.curve.iter().copied()))
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

    #[test]
    fn the_quick_form_runs_whole() {
        let result = crate::QUICK.result("block-coordinate-descent").unwrap();
        assert!(result.quick);
        // Five, five with MI, four and five with pursuit of the rules (MI with fixed blocks only),
        // GSL and GSQ against GS in each way, and the others.
        assert_eq!(
            result.checks.len(),
            5 + 5 + 4 + 5 + 8 + 3 + 1 + 2 + 6 + 5 + 2 + 2 * 6
        );
        let headlines = result.checks.iter().filter(|check| check.headline);
        let headlines: Vec<&str> = headlines.map(|check| check.text.as_str()).collect();
        assert_eq!(
            headlines[..5],
            [
                "fixed blocks, gradient updates: GSL takes fewer steps than GS",
                "fixed blocks, matrix updates: GSQ takes fewer steps than GS",
                "variable blocks, gradient updates: GSL takes fewer steps than GS",
                "variable blocks, matrix updates: GSQ takes fewer steps than GS",
                "label propagation: greedy trees (GS) take fewer steps than dense blocks (GS) and \
                 dense blocks (GSL)",
            ]
        );
        // The rest are the support and the two superlinear ends of each sparse problem.
        assert_eq!(headlines.len(), 5 + 2 * 3);
        assert_eq!(result.plots.len(), 5);
        let mean = |variant| {
            result
                .measured
                .mean(&PROPAGATION, &variant, &STEPS)
                .unwrap()
        };
        assert!(mean(GREEDY_TREES) < mean(DENSE));
        for task in SPARSE {
            let table = &result.measured;
            let support = table.mean(&task, &PROXIMAL_NEWTON, &SUPPORT).unwrap();
            assert!(support >= 1.0 && support.is_finite(), "{task}: {support}");
        }
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
