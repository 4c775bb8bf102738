//! Block coordinate descent against minima of scikit-learn and scipy, against the steps of the
//! authors' code, and the paper's order of its rules on real data; `reference/` says where the
//! numbers are from.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use nabla_data::LabelledRows;
use nabla_solve::block_coordinate_descent::{
    BlockCoordinateDescentConfig, BlockDescentSolution, BlockNorm, BlockSolver, Blocks, DealOrder,
    DiagonalBound, LabelPropagation, LinearModel, Partition, Penalty, Selection, SmoothProblem,
    StepSize, Update, lattice_trees, nearest_neighbour_edges,
};
use serde::Deserialize;

fn data(name: &str, features: usize) -> LabelledRows {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    LabelledRows::read(&folder.join(name).with_extension("libsvm"), Some(features)).unwrap()
}

fn diabetes() -> LabelledRows {
    data("diabetes", 10)
}

fn breast_cancer() -> LabelledRows {
    data("breast_cancer", 30)
}

fn digits() -> LabelledRows {
    data("digits", 64)
}

fn solve<P: SmoothProblem>(
    config: &BlockCoordinateDescentConfig,
    problem: &P,
    penalty: &Penalty,
) -> BlockDescentSolution {
    config
        .solve(problem, penalty, None, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

#[derive(Deserialize)]
struct Minimum {
    objective: f64,
    x: Vec<f64>,
}

fn minima() -> BTreeMap<String, Minimum> {
    serde_json::from_str(include_str!("reference/block_coordinate_descent.json")).unwrap()
}

/// That every configuration finds the reference minimum: not above it by more than `within` of its
/// size, at the same point, with a gap (where there is one) that covers the excess.
fn agrees<P: SmoothProblem>(
    name: &str,
    problem: &P,
    penalty: &Penalty,
    within: [f64; 2],
    configs: &[BlockCoordinateDescentConfig],
) {
    let minimum = &minima()[name];
    for config in configs {
        let found = solve(&config.clone().with_tolerance(1e-10), problem, penalty);
        assert!(found.converged, "{name} {config}");
        let excess = (found.objective - minimum.objective) / minimum.objective;
        assert!(excess.abs() < within[0], "{name} {config}: {excess:e}");
        let scale = minimum.x.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
        for (a, b) in found.x.iter().zip(&minimum.x) {
            assert!(
                (a - b).abs() < within[1] * scale,
                "{name} {config}: {a} {b}"
            );
        }
        if let Some(gap) = found.certificate.duality_gap {
            assert!(gap < 1e-7 * minimum.objective, "{name} {config}: {gap:e}");
        }
    }
}

fn config(blocks: Blocks, selection: Selection, update: Update) -> BlockCoordinateDescentConfig {
    BlockCoordinateDescentConfig::new()
        .with_blocks(blocks)
        .with_selection(selection)
        .with_update(update)
        .with_max_iterations(1_000_000)
        .with_trace_every(0)
}

const COORDINATE: Selection = Selection::GaussSouthwellDiagonal(DiagonalBound::Coordinate);
const LB: Update = Update::Gradient(StepSize::Block);

fn smooth_configs(size: usize) -> Vec<BlockCoordinateDescentConfig> {
    let sort = || Blocks::Fixed(Partition::Sort { size });
    let any = || Blocks::Variable { size };
    vec![
        config(sort(), Selection::Cyclic, LB),
        config(any(), Selection::Random, Update::Matrix),
        config(sort(), Selection::Lipschitz, Update::Newton),
        config(any(), Selection::Lipschitz, Update::Newton),
        config(
            sort(),
            Selection::GaussSouthwellLipschitz,
            Update::Backtracking,
        ),
        config(any(), Selection::GaussSouthwellQuadratic, Update::Matrix),
        config(any(), Selection::OrthogonalMatchingPursuit, Update::Newton),
        config(sort(), Selection::MaximumImprovement, Update::Newton),
        config(
            Blocks::Fixed(Partition::Random { size }),
            Selection::GaussSouthwellQuadratic,
            Update::Matrix,
        ),
        config(any(), COORDINATE, Update::Newton),
    ]
}

#[test]
fn smooth_minima_are_those_of_scikit_learn() {
    let none = Penalty::None;
    let ridge = LinearModel::least_squares(&diabetes(), 0.1).unwrap();
    let mut configs = smooth_configs(3);
    configs.push(config(
        Blocks::Fixed(Partition::BoundAverage { size: 4 }),
        Selection::GaussSouthwell,
        Update::Gradient(StepSize::Global),
    ));
    agrees("ridge", &ridge, &none, [1e-10, 1e-7], &configs);
    let logistic = LinearModel::logistic(&breast_cancer(), 1.0).unwrap();
    agrees(
        "logistic",
        &logistic,
        &none,
        [1e-10, 1e-7],
        &smooth_configs(5),
    );
    let softmax = LinearModel::softmax(&digits(), 1.0).unwrap();
    let fast = config(Blocks::Variable { size: 64 }, COORDINATE, Update::Newton);
    let slow = config(
        Blocks::Fixed(Partition::Order { size: 10 }),
        Selection::Cyclic,
        Update::Matrix,
    );
    agrees("softmax", &softmax, &none, [1e-9, 1e-6], &[fast, slow]);
}

#[test]
fn sparse_and_bounded_minima_are_those_of_scikit_learn_and_scipy() {
    let squares = LinearModel::least_squares(&diabetes(), 0.0).unwrap();
    let sort = |size| Blocks::Fixed(Partition::Sort { size });
    let any = |size| Blocks::Variable { size };
    let configs = [
        config(sort(2), Selection::Cyclic, LB),
        config(any(1), Selection::GaussSouthwell, LB),
        config(any(1), Selection::MaximumImprovement, LB),
        config(sort(3), Selection::ProximalLength, Update::Backtracking),
        config(any(3), Selection::ProximalLength, Update::Matrix),
        config(any(5), Selection::ProximalDecrease, Update::Newton),
        config(sort(5), Selection::ProximalDecrease, Update::Matrix),
        config(any(4), Selection::Random, Update::TwoMetric),
        config(sort(5), COORDINATE, Update::TwoMetric),
    ];
    let cases = [
        ("lasso", Penalty::L1(100.0)),
        ("positive_lasso", Penalty::NonNegativeL1(100.0)),
        ("non_negative", Penalty::NonNegative),
        (
            "box",
            Penalty::Box {
                low: -200.0,
                high: 300.0,
            },
        ),
    ];
    for (name, penalty) in &cases {
        agrees(name, &squares, penalty, [1e-9, 1e-6], &configs);
    }
    let groups = vec![vec![0, 1], vec![2, 3], vec![4, 5, 6, 7], vec![8, 9]];
    let blocks = Blocks::Fixed(Partition::Explicit(groups.clone()));
    let penalty = Penalty::GroupL1 {
        weight: 150.0,
        groups,
    };
    let configs = [
        config(blocks.clone(), Selection::Cyclic, LB),
        config(
            blocks.clone(),
            Selection::GaussSouthwell,
            Update::Backtracking,
        ),
        config(blocks, Selection::ProximalDecrease, LB),
    ];
    agrees("group_lasso", &squares, &penalty, [1e-9, 1e-5], &configs);

    let logistic = LinearModel::logistic(&breast_cancer(), 0.0).unwrap();
    let configs = [
        config(any(1), Selection::ProximalDecrease, LB),
        config(any(15), Selection::ProximalDecrease, Update::Newton),
        config(sort(10), Selection::Random, Update::TwoMetric),
        config(sort(5), Selection::Cyclic, Update::Matrix),
    ];
    agrees(
        "l1_logistic",
        &logistic,
        &Penalty::L1(5.0),
        [1e-9, 1e-5],
        &configs,
    );
}

#[derive(Deserialize)]
struct Official {
    steps: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    problem: String,
    partition: String,
    selection: String,
    update: String,
    size: i64,
    blocks: Option<Vec<Vec<usize>>>,
    objectives: Vec<f64>,
}

impl Case {
    fn config(&self, steps: usize) -> BlockCoordinateDescentConfig {
        let size = usize::try_from(self.size).unwrap_or(0);
        let blocks = match (self.partition.as_str(), self.selection.as_str()) {
            (_, "RedBlackTree" | "TreePartitions") | ("Sort", _) if self.blocks.is_some() => {
                Blocks::Fixed(Partition::Explicit(self.blocks.clone().unwrap()))
            }
            ("Order", _) => Blocks::Fixed(Partition::Order { size }),
            ("Sort", _) => Blocks::Fixed(Partition::Sort { size }),
            ("Avg", _) => Blocks::Fixed(Partition::Average { size }),
            ("Hsort", _) => Blocks::Fixed(Partition::BoundSort { size }),
            ("Havg", _) => Blocks::Fixed(Partition::BoundAverage { size }),
            ("VB", "GSTree" | "GSLTree" | "GSDTree") => Blocks::Forest,
            ("VB", _) => Blocks::Variable { size },
            other => panic!("{other:?}"),
        };
        let selection = match self.selection.as_str() {
            "Cyclic" | "RedBlackTree" | "TreePartitions" => Selection::Cyclic,
            "GS" | "GSTree" => Selection::GaussSouthwell,
            "GSL" | "GSLTree" => Selection::GaussSouthwellLipschitz,
            "GSD" => COORDINATE,
            "GSDHb" | "GSDTree" => Selection::GaussSouthwellDiagonal(DiagonalBound::RowSum),
            "GSQ" => Selection::GaussSouthwellQuadratic,
            "gsq-nn" => Selection::ProximalDecrease,
            other => panic!("{other}"),
        };
        let update = match self.update.as_str() {
            "Lb" | "Lb-NN" => LB,
            "Hb" | "qp-nn" | "bpExact" | "bpGabp" => Update::Matrix,
            "LA" => Update::Backtracking,
            "LS" => Update::Newton,
            "TMP-NN" => Update::TwoMetric,
            other => panic!("{other}"),
        };
        let solver = match self.update.as_str() {
            "bpExact" | "bpGabp" => BlockSolver::MessagePassing,
            _ => BlockSolver::Dense,
        };
        config(blocks, selection, update)
            .with_block_norm(BlockNorm::Sum)
            .with_solver(solver)
            .with_max_iterations(steps)
            .with_tolerance(0.0)
            .with_trace_every(1)
    }
}

/// A lattice whose every eleventh node has a label, as in the reference.
fn lattice(side: usize) -> LabelPropagation {
    let mut edges = Vec::new();
    for i in 0..side * side {
        if i % side != side - 1 {
            edges.push((i, i + 1, 1.0));
        }
        if i + side < side * side {
            edges.push((i, i + side, 1.0));
        }
    }
    let known: Vec<Option<f64>> = (0..side * side)
        .map(|i| (i >= 3 && (i - 3) % 11 == 0).then_some((i % 7) as f64 - 3.5))
        .collect();
    LabelPropagation::new(&edges, &known).unwrap()
}

/// The five nearest neighbours of the examples, of which every tenth keeps its label.
fn neighbourhood() -> LabelPropagation {
    let rows = breast_cancer();
    let edges = nearest_neighbour_edges(&rows, 5).unwrap();
    let labels = rows.labels().iter().enumerate();
    let known: Vec<Option<f64>> = labels.map(|(i, &y)| (i % 10 == 0).then_some(y)).collect();
    LabelPropagation::new(&edges, &known).unwrap()
}

/// The first 40 pixels that are not empty in all digits.
fn some_digits() -> LabelledRows {
    let rows = digits();
    let mut used = vec![false; rows.features()];
    for (column, _) in (0..rows.len()).flat_map(|i| rows.row(i)) {
        used[column] = true;
    }
    let mut place = vec![None; rows.features()];
    let columns = (0..rows.features()).filter(|&c| used[c]).take(40);
    for (at, column) in columns.enumerate() {
        place[column] = Some(at);
    }
    let mut out = LabelledRows::new(40);
    for i in 0..rows.len() {
        let row = rows.row(i).filter_map(|(c, v)| place[c].map(|at| (at, v)));
        out.push(rows.labels()[i], row).unwrap();
    }
    out
}

#[test]
fn steps_are_those_of_the_authors() {
    let official: Official = serde_json::from_str(include_str!(
        "reference/block_coordinate_descent_official.json"
    ))
    .unwrap();
    let squares = LinearModel::least_squares(&diabetes(), 0.0).unwrap();
    let logistic = LinearModel::logistic(&breast_cancer(), 0.0).unwrap();
    let softmax = LinearModel::softmax(&some_digits(), 0.0).unwrap();
    let (lattice, neighbourhood) = (lattice(12), neighbourhood());
    let mut wrong = Vec::new();
    for case in &official.cases {
        let config = case.config(official.steps);
        let run = |graph: &LabelPropagation| {
            let n = graph.quadratic().dimension();
            let start: Vec<f64> = (0..n).map(|i| (i as f64 + 1.0).sin()).collect();
            config
                .solve(graph.quadratic(), &Penalty::None, Some(&start), &mut |_| {
                    ControlFlow::Continue(())
                })
                .unwrap()
        };
        let found = match case.problem.as_str() {
            "A" => solve(&config, &squares, &Penalty::None),
            "A+" => solve(&config, &squares, &Penalty::NonNegativeL1(100.0)),
            "B" => solve(&config, &logistic, &Penalty::None),
            "C" => solve(&config, &softmax, &Penalty::None),
            "D" => run(&lattice),
            "E" => run(&neighbourhood),
            other => panic!("{other}"),
        };
        assert!(found.trace.len() > 2);
        // After the first step of a greedy tree, rounding decides among scores of 0.
        let greedy_tree = matches!(config.blocks, Blocks::Forest);
        let compared = if greedy_tree {
            2
        } else {
            case.objectives.len()
        };
        // The authors' messages are sent until they change by less than 1e-4, and their quadratic
        // programs are solved by an interior-point method.
        let within = match case.update.as_str() {
            "bpGabp" | "qp-nn" => 1e-7,
            _ => 1e-9,
        };
        let pairs = found.trace.iter().zip(&case.objectives).take(compared);
        for (step, (ours, theirs)) in pairs.enumerate() {
            let off = (ours.objective - theirs).abs() / theirs.abs().max(1.0);
            if off.is_nan() || off > within {
                wrong.push(format!(
                    "{} {} {} {} {}: {off:e} at step {step}",
                    case.problem, case.partition, case.selection, case.update, case.size
                ));
                break;
            }
        }
        let (ours, theirs) = (found.objective, case.objectives[official.steps]);
        assert!(
            (ours - theirs).abs() < 0.03 * theirs.abs(),
            "{ours} {theirs}"
        );
    }
    assert!(official.cases.len() > 100);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Steps until the excess over `best` is a millionth of that of the start; the mean over `seeds`.
fn steps_to<P: SmoothProblem>(
    problem: &P,
    penalty: &Penalty,
    config: &BlockCoordinateDescentConfig,
    best: f64,
    seeds: u64,
) -> f64 {
    let mut sum = 0.0;
    for seed in 0..seeds {
        let config = config.clone().with_tolerance(0.0).with_seed(seed);
        let mut first = None;
        let found = config
            .solve(problem, penalty, None, &mut |step| {
                let first = *first.get_or_insert(step.objective);
                if step.objective - best <= 1e-6 * (first - best) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .unwrap();
        sum += found.iterations as f64;
    }
    sum / seeds as f64
}

/// The minimum, to rounding.
fn minimum<P: SmoothProblem>(problem: &P, penalty: &Penalty) -> f64 {
    let size = problem.dimension();
    let config = config(Blocks::Variable { size }, Selection::Cyclic, Update::Newton)
        .with_tolerance(1e-11)
        .with_max_iterations(100);
    solve(&config, problem, penalty).objective
}

#[test]
fn the_rules_are_ordered_as_in_the_paper() {
    let rows = digits();
    let squares = LinearModel::least_squares(&rows, 1.0).unwrap();
    let binary = rows.map_labels(|y| if y < 5.0 { 1.0 } else { -1.0 });
    let logistic = LinearModel::logistic(&binary, 1.0).unwrap();
    let any = |size| Blocks::Variable { size };
    let sort = || Blocks::Fixed(Partition::Sort { size: 5 });
    let order = || Blocks::Fixed(Partition::Order { size: 5 });
    use Selection as S;
    for squared in [true, false] {
        let (best_a, best_b) = (
            minimum(&squares, &Penalty::None),
            minimum(&logistic, &Penalty::None),
        );
        let steps = |blocks: Blocks, selection, update| {
            let config = config(blocks, selection, update);
            if squared {
                steps_to(&squares, &Penalty::None, &config, best_a, 1)
            } else {
                steps_to(&logistic, &Penalty::None, &config, best_b, 1)
            }
        };
        // Gradient updates: greedy rules beat the others, sorting beats the order, variable blocks
        // beat fixed ones, L_b beats L.
        let gs = steps(sort(), S::GaussSouthwell, LB);
        assert!(gs < 0.7 * steps(sort(), S::Cyclic, LB));
        assert!(gs < 0.7 * steps(sort(), S::Random, LB));
        assert!(gs < 0.95 * steps(order(), S::GaussSouthwell, LB));
        assert!(2.0 * steps(any(5), S::GaussSouthwell, LB) < 1.2 * gs);
        let global = Update::Gradient(StepSize::Global);
        assert!(4.0 * gs < steps(sort(), S::GaussSouthwell, global));
        // Matrix updates: faster, and with them GSD, GSL and GSQ beat GS.
        let matrix = steps(sort(), S::GaussSouthwell, Update::Matrix);
        assert!(matrix < 0.5 * gs);
        for rule in [
            COORDINATE,
            S::GaussSouthwellLipschitz,
            S::GaussSouthwellQuadratic,
        ] {
            assert!(
                steps(sort(), rule, Update::Matrix) < 0.99 * matrix,
                "{rule:?}"
            );
        }
        // Larger blocks.
        let [five, twenty, forty] = [5, 20, 40].map(|n| steps(any(n), COORDINATE, Update::Matrix));
        assert!(forty < twenty && 2.0 * twenty < five);
        // Pursuit sees what single coordinates hide: they are correlated here.
        let pursued = steps(any(5), S::OrthogonalMatchingPursuit, Update::Matrix);
        assert!(4.0 * pursued < steps(any(5), S::GaussSouthwellQuadratic, Update::Matrix));
        if !squared {
            assert!(steps(sort(), S::GaussSouthwell, Update::Newton) < 0.6 * matrix);
        }
    }
}

#[test]
fn message_passing_makes_greedy_trees_fast() {
    let side = 50;
    let mut edges = Vec::new();
    for i in 0..side * side {
        if i % side != side - 1 {
            edges.push((i, i + 1, 1e5));
        }
        if i + side < side * side {
            edges.push((i, i + side, 1e5));
        }
    }
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    let mut known = vec![None; side * side];
    while known.iter().flatten().count() < 100 {
        let node = next() % (side * side);
        known[node] = Some((next() % 2001) as f64 / 50.0 - 20.0);
    }
    let lattice = LabelPropagation::new(&edges, &known).unwrap();
    let combs = lattice_trees(side, side).unwrap();
    let place = |node: &usize| lattice.nodes().binary_search(node).ok();
    let combs = combs.map(|tree| tree.iter().filter_map(place).collect::<Vec<_>>());
    let graph = neighbourhood();
    for (name, quadratic) in [("D", lattice.quadratic()), ("E", graph.quadratic())] {
        let n = quadratic.dimension();
        let best = solve(
            &BlockCoordinateDescentConfig::message_passing().with_tolerance(1e-13),
            quadratic,
            &Penalty::None,
        )
        .objective;
        let general = (n as f64).cbrt() as usize;
        let mut found = BTreeMap::new();
        let mut rules = vec![
            (
                "general gs",
                Blocks::Variable { size: general },
                Selection::GaussSouthwell,
            ),
            (
                "general gsl",
                Blocks::Variable { size: general },
                Selection::GaussSouthwellLipschitz,
            ),
            ("random tree", Blocks::Forest, Selection::Random),
            ("gs tree", Blocks::Forest, Selection::GaussSouthwell),
            (
                "gsl tree",
                Blocks::Forest,
                Selection::GaussSouthwellLipschitz,
            ),
            (
                "red-black",
                Blocks::Fixed(Partition::RedBlack(DealOrder::Lipschitz)),
                Selection::Cyclic,
            ),
            (
                "red-black order",
                Blocks::Fixed(Partition::RedBlack(DealOrder::Index)),
                Selection::Cyclic,
            ),
            (
                "trees",
                Blocks::Fixed(Partition::Forests(DealOrder::Lipschitz)),
                Selection::Cyclic,
            ),
            (
                "trees order",
                Blocks::Fixed(Partition::Forests(DealOrder::Index)),
                Selection::Cyclic,
            ),
        ];
        if name == "D" {
            let blocks = Blocks::Fixed(Partition::Explicit(combs.to_vec()));
            rules.push(("combs", blocks, Selection::Cyclic));
        }
        for (rule, blocks, selection) in rules {
            let solver = match &blocks {
                Blocks::Variable { .. } => BlockSolver::Dense,
                _ => BlockSolver::MessagePassing,
            };
            let config = config(blocks, selection, Update::Matrix)
                .with_solver(solver)
                .with_max_iterations(50_000);
            found.insert(rule, steps_to(quadratic, &Penalty::None, &config, best, 1));
        }
        // The paper's order: greedy trees, fixed trees, red-black, blocks of n^(1/3) that cost as much.
        for greedy in ["gs tree", "gsl tree"] {
            assert!(found[greedy] < found["trees"], "{name} {found:?}");
            assert!(found[greedy] < found["random tree"], "{name} {found:?}");
        }
        assert!(
            2.0 * found["trees"] < found["red-black"],
            "{name} {found:?}"
        );
        assert!(
            5.0 * found["red-black"] < found["general gs"],
            "{name} {found:?}"
        );
        if name == "D" {
            assert!(found["combs"] < found["trees"], "{name} {found:?}");
        }
    }
}
