use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use nabla_data::LabelledRows;
use nabla_grad::seeded_noise::SeededNoise;
use proptest::prelude::*;

use super::partition::neighbours;
use super::problem::solve_positive;
use super::selection::largest_of;
use super::update::proximal_quadratic;
use super::*;

mod runs;

fn normal(seed: u64, count: usize) -> Vec<f64> {
    let values = SeededNoise::new(seed, 7).normal_values(count);
    values.into_iter().map(f64::from).collect()
}

/// `rows x features` with a third of the entries, and labels from `label`.
fn sparse(seed: u64, rows: usize, features: usize, label: fn(usize, f64) -> f64) -> LabelledRows {
    let values = normal(seed, rows * features);
    let mut out = LabelledRows::new(features);
    for r in 0..rows {
        let row = &values[r * features..(r + 1) * features];
        let kept = row.iter().enumerate().filter(|(j, _)| (r + 2 * j) % 3 == 0);
        let sum: f64 = row.iter().sum();
        out.push(label(r, sum), kept.map(|(j, &v)| (j, v))).unwrap();
    }
    out
}

fn squares(l2: f64) -> LinearModel<SquaredLoss> {
    LinearModel::least_squares(&sparse(1, 40, 12, |_, sum| sum), l2).unwrap()
}

fn logistic(l2: f64) -> LinearModel<LogisticLoss> {
    let rows = sparse(2, 60, 12, |r, sum| {
        if sum + (r % 3) as f64 > 1.0 {
            1.0
        } else {
            -1.0
        }
    });
    LinearModel::logistic(&rows, l2).unwrap()
}

fn softmax(l2: f64) -> LinearModel<SoftmaxLoss> {
    LinearModel::softmax(&sparse(3, 40, 6, |r, _| (r * 7 % 4) as f64), l2).unwrap()
}

fn chain(n: usize) -> SparseQuadratic {
    let edges: Vec<(usize, usize, f64)> = (1..n).map(|i| (i - 1, i, -1.0)).collect();
    SparseQuadratic::new(&vec![2.5; n], &edges, normal(4, n)).unwrap()
}

fn go(_: BlockStep<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn solve<P: SmoothProblem>(
    config: &BlockCoordinateDescentConfig,
    problem: &P,
    penalty: &Penalty,
) -> BlockDescentSolution {
    config.solve(problem, penalty, None, &mut go).unwrap()
}

/// The derivatives that a problem states against differences of its values, and its bounds against
/// its derivatives.
fn check_derivatives<P: SmoothProblem>(problem: &P, seed: u64) {
    let n = problem.dimension();
    let x: Vec<f64> = normal(seed, n).iter().map(|v| 0.5 * v).collect();
    let all: Vec<usize> = (0..n).collect();
    let mut tracked = problem.state(&x, true);
    let fresh = problem.state(&x, false);
    let gradient = problem.gradient(&fresh, &x, &all);
    let hessian = problem.curvature_block(&fresh, Curvature::Here, &all);
    let bound = problem.curvature_block(&fresh, Curvature::Bound, &all);
    let h = 1e-5;
    let at = |i: usize, h: f64| {
        let mut y = x.clone();
        y[i] += h;
        let state = problem.state(&y, false);
        (
            problem.value(&state, &y),
            problem.gradient(&state, &y, &all),
        )
    };
    for i in 0..n {
        let (above, g_above) = at(i, h);
        let (below, g_below) = at(i, -h);
        let scale = 1.0 + gradient[i].abs();
        assert!(((above - below) / (2.0 * h) - gradient[i]).abs() < 1e-6 * scale);
        for j in 0..n {
            let slope = (g_above[j] - g_below[j]) / (2.0 * h);
            assert!((slope - hessian[(i, j)]).abs() < 1e-6 * (1.0 + slope.abs()));
        }
        for (kind, matrix) in [(Curvature::Here, &hessian), (Curvature::Bound, &bound)] {
            let mut row = vec![0.0; n];
            for (j, value) in problem.curvature_row(&fresh, kind, i) {
                row[j] = value;
            }
            for j in 0..n {
                assert!((row[j] - matrix[(i, j)]).abs() < 1e-12);
            }
        }
        let constant = problem.coordinate_lipschitz(&fresh)[i];
        assert!(constant >= hessian[(i, i)] - 1e-12);
    }
    // The bound is one, of every block.
    let block: Vec<usize> = (0..n).filter(|i| i % 3 != 1).collect();
    for block in [all.clone(), block] {
        let here = problem.curvature_block(&fresh, Curvature::Here, &block);
        let above = problem.curvature_block(&fresh, Curvature::Bound, &block) - here;
        let least = above.self_adjoint_eigenvalues(Side::Lower).unwrap()[0];
        assert!(least > -1e-10, "{least}");
    }
    let v = normal(seed + 1, n);
    let product = problem.bound_product(&fresh, &v);
    for i in 0..n {
        let direct: f64 = (0..n).map(|j| bound[(i, j)] * v[j]).sum();
        assert!((product[i] - direct).abs() < 1e-10 * (1.0 + direct.abs()));
    }
    // Moving the state is the same as computing it again, and its change equals the change of the value.
    let mut moved = x.clone();
    let block: Vec<usize> = (0..n).step_by(2).collect();
    let delta: Vec<f64> = normal(seed + 2, block.len());
    let said = problem.change(&mut tracked, &x, &block, &delta);
    let done = problem.advance(&mut tracked, &x, &block, &delta);
    for (&i, d) in block.iter().zip(&delta) {
        moved[i] += d;
    }
    let anew = problem.state(&moved, false);
    let change = problem.value(&anew, &moved) - problem.value(&fresh, &x);
    assert!(
        (said - change).abs() < 1e-10 * (1.0 + change.abs()),
        "{said} {change}"
    );
    assert!(
        (done - change).abs() < 1e-10 * (1.0 + change.abs()),
        "{done} {change}"
    );
    let kept = problem.full_gradient(&tracked, &moved);
    for (a, b) in kept.iter().zip(problem.full_gradient(&anew, &moved)) {
        assert!((a - b).abs() < 1e-10 * (1.0 + b.abs()));
    }
}

#[test]
fn derivatives_and_bounds_are_those_of_the_values() {
    for seed in [10, 20] {
        check_derivatives(&squares(0.3), seed);
        check_derivatives(&logistic(0.3), seed);
        check_derivatives(&softmax(0.3), seed);
        check_derivatives(&chain(9), seed);
    }
}

proptest! {
    #[test]
    fn messages_solve_what_elimination_solves(
        parents in prop::collection::vec(0_usize..60, 1..60),
        values in prop::collection::vec(-1.0_f64..1.0, 240),
    ) {
        // Node i hangs below a node before it, or is a root.
        let n = parents.len();
        let mut edges = Vec::new();
        let mut diagonal = vec![0.1; n];
        for i in 1..n {
            if parents[i] < i {
                let value = values[i];
                edges.push((i, parents[i], value));
                diagonal[i] += value.abs();
                diagonal[parents[i]] += value.abs();
            }
        }
        let right = &values[100..100 + n];
        let d = solve_forest(&diagonal, &edges, right).unwrap();
        let mut dense = Mat::from_fn(n, n, |i, j| if i == j { diagonal[i] } else { 0.0 });
        for &(i, j, value) in &edges {
            dense[(i, j)] = value;
            dense[(j, i)] = value;
        }
        let exact = dense.llt(Side::Lower).unwrap().solve(Mat::from_fn(n, 1, |i, _| right[i]));
        for i in 0..n {
            prop_assert!((d[i] - exact[(i, 0)]).abs() < 1e-9 * (1.0 + d[i].abs()));
        }
    }

    #[test]
    fn proximal_steps_are_minima(v in -3.0_f64..3.0, t in 0.1_f64..2.0, to in -4.0_f64..4.0) {
        let penalties = [
            Penalty::None,
            Penalty::L1(0.7),
            Penalty::NonNegative,
            Penalty::NonNegativeL1(0.7),
            Penalty::Box { low: -0.5, high: 1.5 },
        ];
        for penalty in penalties {
            let model = |y: f64| 0.5 * (y - v).powi(2) + t * penalty.coordinate_value(y);
            let at = penalty.coordinate_prox(v, t);
            prop_assert!(model(at) <= model(to) + 1e-12, "{penalty:?}");
            // 0 lies in the subdifferential there.
            let slope = penalty.coordinate_subgradient(at, (at - v) / t);
            prop_assert!(slope.abs() < 1e-12, "{penalty:?} {slope}");
        }
    }

    #[test]
    fn penalised_models_are_solved_exactly(
        values in prop::collection::vec(-1.0_f64..1.0, 36),
        gradient in prop::collection::vec(-2.0_f64..2.0, 6),
        start in prop::collection::vec(0.0_f64..1.0, 6),
        low_rank in any::<bool>(),
    ) {
        let rank = if low_rank { 3 } else { 6 };
        let root = Mat::from_fn(rank, 6, |i, j| values[i * 6 + j]);
        let mut h = root.transpose() * &root;
        for i in 0..6 {
            h[(i, i)] += if low_rank { 1e-3 } else { 0.01 };
        }
        let penalties = [
            Penalty::L1(0.5),
            Penalty::NonNegative,
            Penalty::NonNegativeL1(0.5),
            Penalty::Box { low: -1.0, high: 2.0 },
        ];
        for penalty in penalties {
            let to = proximal_quadratic(&h, &gradient, &start, &penalty).unwrap();
            for i in 0..6 {
                let slope: f64 = gradient[i]
                    + (0..6).map(|j| h[(i, j)] * (to[j] - start[j])).sum::<f64>();
                let least = penalty.coordinate_subgradient(to[i], slope);
                prop_assert!(least.abs() < 1e-8, "{penalty:?} {i} {least} {to:?}");
            }
        }
    }
}

#[test]
fn cycles_and_indefinite_forests_are_refused() {
    let triangle = [(0, 1, 0.1), (1, 2, 0.1), (2, 0, 0.1)];
    let error = solve_forest(&[1.0; 3], &triangle, &[1.0; 3]);
    assert!(matches!(error, Err(BlockDescentError::NotForest { .. })));
    let twice = [(0, 1, 0.1), (1, 0, 0.1)];
    let error = solve_forest(&[1.0; 2], &twice, &[1.0; 2]);
    assert!(matches!(error, Err(BlockDescentError::NotForest { .. })));
    let error = solve_forest(&[1.0, 1.0], &[(0, 1, 2.0)], &[1.0; 2]);
    assert!(matches!(
        error,
        Err(BlockDescentError::NotPositiveDefinite { .. })
    ));
    assert!(solve_forest(&[1.0], &[(0, 1, 2.0)], &[1.0]).is_err());
    assert!(solve_forest(&[1.0], &[], &[1.0, 2.0]).is_err());
}

/// Edges within a set, each once.
fn inner_edges(graph: &[Vec<usize>], set: &[usize]) -> Vec<(usize, usize, f64)> {
    let mut edges = Vec::new();
    for (a, &i) in set.iter().enumerate() {
        for &j in &graph[i] {
            if let Ok(b) = set.binary_search(&j)
                && i < j
            {
                edges.push((a, b, 0.0));
            }
        }
    }
    edges
}

#[test]
fn graph_partitions_are_forests_and_independent_sets() {
    let (rows, columns) = (9, 8);
    let mut graph = vec![Vec::new(); rows * columns];
    let mut link = |i: usize, j: usize| {
        graph[i].push(j);
        graph[j].push(i);
    };
    for c in 0..columns {
        for r in 0..rows {
            let i = c * rows + r;
            if r + 1 < rows {
                link(i, i + 1);
            }
            if c + 1 < columns {
                link(i, i + rows);
            }
        }
    }
    let order: Vec<usize> = (0..rows * columns).collect();
    let colours = red_black_partition(&graph, &order);
    assert_eq!(colours.len(), 2);
    let combs = lattice_trees(rows, columns).unwrap().to_vec();
    // A tree of all its nodes has one edge less than nodes.
    for comb in &combs {
        assert_eq!(inner_edges(&graph, comb).len(), comb.len() - 1);
    }
    let cloud = sparse(5, 80, 6, |_, _| 0.0);
    let edges = nearest_neighbour_edges(&cloud, 4).unwrap();
    assert!(edges.len() >= 160);
    let mut near = vec![Vec::new(); 80];
    for &(i, j, _) in &edges {
        near[i].push(j);
        near[j].push(i);
    }
    let order: Vec<usize> = (0..80).rev().collect();
    let cases = [
        (&graph, colours, true),
        (&graph, combs, false),
        (&near, red_black_partition(&near, &order), true),
        (&near, forest_partition(&near, &order), false),
    ];
    for (graph, sets, independent) in cases {
        let mut seen: Vec<usize> = sets.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..graph.len()).collect::<Vec<_>>());
        for set in &sets {
            let inner = inner_edges(graph, set);
            if independent {
                assert!(inner.is_empty());
            } else {
                assert!(solve_forest(&vec![1.0; set.len()], &inner, &vec![1.0; set.len()]).is_ok());
            }
        }
    }
    assert!(lattice_trees(1, 5).is_none());
}

#[test]
fn partitions_are_sorted_and_averaged_by_the_constants() {
    let problem = squares(0.0);
    let state = problem.state(&[0.0; 12], false);
    let constants = problem.coordinate_lipschitz(&state);
    let blocks = |partition: Partition| {
        partition
            .blocks(&problem, &state, &constants, &mut SeededNoise::new(3, 0))
            .unwrap()
    };
    let most = |b: &[usize]| largest_of(&constants, b);
    let least = |b: &[usize]| {
        b.iter()
            .map(|&i| constants[i])
            .fold(f64::INFINITY, f64::min)
    };
    let sorted = blocks(Partition::Sort { size: 4 });
    assert!(sorted.windows(2).all(|w| most(&w[0]) <= least(&w[1])));
    let averaged = blocks(Partition::Average { size: 4 });
    // Each pair of ranks i and n − 1 − i is in one block.
    let rank = |i: usize| constants.iter().filter(|&&c| c < constants[i]).count();
    for block in &averaged {
        assert_eq!(block.iter().map(|&i| rank(i)).sum::<usize>(), 2 * 11);
    }
    let random = [
        blocks(Partition::Random { size: 5 }),
        blocks(Partition::Random { size: 5 }),
    ];
    assert_eq!(random[0], random[1]);
    assert_eq!(
        random[0].iter().map(Vec::len).collect::<Vec<_>>(),
        [5, 5, 2]
    );
    assert_ne!(random[0], blocks(Partition::Order { size: 5 }));
}

#[test]
fn messages_make_the_steps_of_dense_solves() {
    let quadratic = chain(40);
    // Features i and i + 1 share examples, so that Newton's matrices are chains too.
    let mut rows = LabelledRows::new(30);
    let values = normal(6, 120);
    for r in 0..60 {
        let i = r % 29;
        let row = [(i, values[2 * r]), (i + 1, values[2 * r + 1])];
        rows.push(if r % 4 < 2 { 1.0 } else { -1.0 }, row).unwrap();
    }
    let chained = LinearModel::logistic(&rows, 0.1).unwrap();
    let state = chained.state(&[0.0; 30], false);
    assert!(neighbours(&chained, &state).iter().all(|n| n.len() <= 2));
    let config = BlockCoordinateDescentConfig::message_passing()
        .with_tolerance(1e-9)
        .with_selection(Selection::GaussSouthwell);
    let fixed = config
        .clone()
        .with_blocks(Blocks::Fixed(Partition::RedBlack(DealOrder::Index)))
        .with_selection(Selection::Cyclic);
    for config in [config, fixed] {
        let dense = config.clone().with_solver(BlockSolver::Dense);
        let newton = config.clone().with_update(Update::Newton);
        let pairs = [
            (
                solve(&config, &quadratic, &Penalty::None),
                solve(&dense, &quadratic, &Penalty::None),
            ),
            (
                solve(&newton, &chained, &Penalty::None),
                solve(
                    &dense.clone().with_update(Update::Newton),
                    &chained,
                    &Penalty::None,
                ),
            ),
        ];
        for (passed, dense) in pairs {
            assert!(passed.converged && passed.iterations == dense.iterations);
            for (a, b) in passed.trace.iter().zip(&dense.trace) {
                assert!((a.objective - b.objective).abs() < 1e-10 * b.objective.abs().max(1.0));
            }
        }
    }
    // All of a chain is one forest: one exact step.
    let whole = solve(
        &BlockCoordinateDescentConfig::message_passing().with_tolerance(1e-12),
        &quadratic,
        &Penalty::None,
    );
    assert_eq!((whole.converged, whole.iterations), (true, 1));
}

#[test]
fn the_quadratic_rule_is_that_of_the_largest_improvement() {
    let problem = squares(0.2);
    let run = |selection| {
        let mut blocks = Vec::new();
        let config = BlockCoordinateDescentConfig::new()
            .with_blocks(Blocks::Fixed(Partition::Order { size: 3 }))
            .with_selection(selection)
            .with_max_iterations(40);
        config
            .solve(&problem, &Penalty::None, None, &mut |step| {
                blocks.push(step.block.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
        blocks
    };
    let quadratic = run(Selection::GaussSouthwellQuadratic);
    assert_eq!(quadratic, run(Selection::MaximumImprovement));
    assert_ne!(quadratic, run(Selection::GaussSouthwell));
    assert!(quadratic.len() > 10);
}

#[test]
fn pursuit_is_near_the_best_of_all_blocks() {
    let problem = squares(0.2);
    let state = problem.state(&[0.0; 12], true);
    let decrease = |block: &[usize]| {
        let g = problem.gradient(&state, &[0.0; 12], block);
        let h = problem.curvature_block(&state, Curvature::Bound, block);
        let d = solve_positive(&h, &g).unwrap();
        g.iter().zip(d).map(|(g, d)| g * d).sum::<f64>()
    };
    let mut best = 0.0_f64;
    for i in 0..12 {
        for j in 0..i {
            for k in 0..j {
                best = best.max(decrease(&[k, j, i]));
            }
        }
    }
    for (selection, share) in [
        (Selection::OrthogonalMatchingPursuit, 0.95),
        (Selection::GaussSouthwellQuadratic, 0.8),
    ] {
        let mut first = Vec::new();
        BlockCoordinateDescentConfig::new()
            .with_blocks(Blocks::Variable { size: 3 })
            .with_selection(selection)
            .with_max_iterations(1)
            .solve(&problem, &Penalty::None, None, &mut |step| {
                first = step.block.to_vec();
                ControlFlow::Continue(())
            })
            .unwrap();
        let found = decrease(&first);
        assert!(
            found <= best * (1.0 + 1e-12) && found > share * best,
            "{found} {best}"
        );
    }
}
