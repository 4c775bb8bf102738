use faer::linalg::solvers::Solve;
use faer::{Mat, Side};
use nabla_data::LabelledRows;
use proptest::prelude::*;

use super::partition::neighbours;
use super::update::proximal_quadratic;
use super::*;

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
    // Moving the state is the same as making it anew, and its change is that of the value.
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

/// That the gap is at least the excess at every step, and small at the end.
fn check_gap<P: SmoothProblem>(problem: &P, penalty: &Penalty, blocks: Blocks) {
    let config = BlockCoordinateDescentConfig::new()
        .with_blocks(blocks)
        .with_selection(Selection::Cyclic)
        .with_update(Update::Gradient(StepSize::Block))
        .with_tolerance(1e-11);
    let best = solve(&config, problem, penalty);
    assert!(best.converged);
    let mut looked = 0;
    config
        .solve(problem, penalty, None, &mut |step| {
            if step.iteration < 100 {
                let state = problem.state(step.x, false);
                let gap = problem.duality_gap(&state, step.x, penalty).unwrap();
                let excess = step.objective - best.objective;
                assert!(gap >= excess - 1e-10, "{penalty:?} {gap} {excess}");
                looked += 1;
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(looked > 3);
    let gap = best.certificate.duality_gap.unwrap();
    assert!(gap < 1e-8, "{penalty:?} {gap}");
}

#[test]
fn duality_gaps_are_above_the_excess_and_vanish() {
    let order = |size| Blocks::Fixed(Partition::Order { size });
    let groups: Vec<Vec<usize>> = (0..4).map(|g| (3 * g..3 * g + 3).collect()).collect();
    let penalties = [
        Penalty::L1(1.5),
        Penalty::NonNegativeL1(1.5),
        Penalty::Box {
            low: -0.3,
            high: 0.2,
        },
        Penalty::GroupL1 {
            weight: 2.0,
            groups,
        },
    ];
    for penalty in &penalties {
        check_gap(&squares(0.0), penalty, order(3));
        check_gap(&logistic(0.0), penalty, order(3));
        check_gap(&squares(0.5), penalty, order(3));
    }
    check_gap(&squares(0.5), &Penalty::None, order(5));
    check_gap(&logistic(0.5), &Penalty::None, order(4));
    check_gap(&logistic(0.5), &Penalty::NonNegative, order(4));
    check_gap(&softmax(0.5), &Penalty::None, order(4));
    check_gap(&softmax(0.0), &Penalty::L1(1.0), order(4));
    let none = squares(0.0);
    let state = none.state(&[0.0; 12], false);
    assert_eq!(none.duality_gap(&state, &[0.0; 12], &Penalty::None), None);
    assert_eq!(
        none.duality_gap(&state, &[0.0; 12], &Penalty::NonNegative),
        None
    );
}

#[test]
fn the_active_set_is_found_within_its_complexity() {
    let problem = squares(0.5);
    let all: Vec<usize> = (0..12).collect();
    for penalty in [
        Penalty::L1(6.0),
        Penalty::NonNegativeL1(3.0),
        Penalty::NonNegative,
    ] {
        let exact = solve(
            &BlockCoordinateDescentConfig::proximal_newton(12).with_tolerance(1e-13),
            &problem,
            &penalty,
        );
        let state = problem.state(&exact.x, false);
        let gradient = problem.full_gradient(&state, &exact.x);
        let delta = exact.active_set.nondegeneracy.unwrap();
        assert_eq!(nondegeneracy(&penalty, &exact.x, &gradient), Some(delta));
        assert!(delta > 1e-3 && (1..12).contains(&exact.active_set.free.len()));
        let h = problem.curvature_block(&state, Curvature::Here, &all);
        let eigenvalues = h.self_adjoint_eigenvalues(Side::Lower).unwrap();
        let (mu, l) = (eigenvalues[0], eigenvalues[11]);
        let radius = identification_radius(delta, l, l);

        // The proximal gradient method, whose rate is 1 − μ/L.
        let start: Vec<f64> = normal(9, 12).iter().map(|v| 10.0 * v.abs()).collect();
        let config = BlockCoordinateDescentConfig::new()
            .with_blocks(Blocks::Fixed(Partition::Order { size: 12 }))
            .with_selection(Selection::Cyclic)
            .with_update(Update::Gradient(StepSize::Global))
            .with_tolerance(1e-12);
        let (mut near, mut wrong) = (None, 0);
        let free = |x: &[f64]| -> Vec<usize> {
            (0..12).filter(|&i| penalty.face(x[i]).is_none()).collect()
        };
        let found = config
            .solve(&problem, &penalty, Some(&start), &mut |step| {
                // From the step after the first within the radius on, nothing is missed.
                if near.is_some_and(|near| step.iteration > near)
                    && !exact.active_set.free.iter().eq(free(step.x).iter())
                {
                    wrong += 1;
                }
                let distance = step.x.iter().zip(&exact.x).map(|(a, b)| (a - b).powi(2));
                if distance.sum::<f64>().sqrt() <= radius {
                    near.get_or_insert(step.iteration);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(found.converged && near.is_some());
        // Coordinates of the support may still be 0 within the radius only if they are below it.
        let smallest = exact.active_set.free.iter().map(|&i| exact.x[i].abs());
        if smallest.fold(f64::INFINITY, f64::min) > radius {
            assert_eq!(wrong, 0, "{penalty:?}");
        }
        assert_eq!(found.active_set.free, exact.active_set.free);
        let excess = found.trace[0].objective - exact.objective;
        let bound = active_set_complexity(l / mu, excess, mu, radius);
        let near = near.unwrap_or(usize::MAX);
        assert!(
            near <= bound && found.active_set.last_change <= bound + 1,
            "{near} {bound}"
        );
        // It is a bound that says something: not thousands of times the truth.
        assert!(bound < 100 * near.max(5), "{near} {bound}");
    }
    assert_eq!(random_round(1, 0.5), 1);
    // Ten blocks are all drawn, but for one time in a hundred, and not by half as many draws.
    let missed = |draws: usize| {
        let misses = (0..1000).filter(|&seed| {
            let mut noise = SeededNoise::new(seed, 0);
            let mut seen = [false; 10];
            for _ in 0..draws {
                seen[rand::RngExt::random_range(&mut noise, 0..10)] = true;
            }
            seen.contains(&false)
        });
        misses.count()
    };
    let draws = random_round(10, 0.01);
    assert!(missed(draws) <= 15 && missed(draws / 2) > 100);
}

#[test]
fn newton_steps_are_superlinear_after_identification_and_finite_for_squares() {
    // Least squares: the first step with the right support is the last.
    let lasso = Penalty::L1(6.0);
    let mut supports = Vec::new();
    let all = BlockCoordinateDescentConfig::proximal_newton(12).with_tolerance(1e-12);
    let size = solve(&all, &squares(0.0), &lasso).active_set.free.len();
    assert!((3..12).contains(&size));
    // Blocks that just hold the support.
    let exact = BlockCoordinateDescentConfig::proximal_newton(size)
        .with_tolerance(1e-12)
        .solve(&squares(0.0), &lasso, None, &mut |step| {
            supports.push(step.x.iter().map(|x| *x != 0.0).collect::<Vec<_>>());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(exact.converged && exact.active_set.free.len() == size);
    assert!(
        exact.iterations <= exact.active_set.last_change + 1,
        "{supports:?}"
    );

    // Logistic: the number of right digits about doubles.
    for (update, penalty) in [
        (Update::Newton, Penalty::L1(1.0)),
        (Update::TwoMetric, Penalty::L1(1.0)),
        (Update::TwoMetric, Penalty::NonNegative),
    ] {
        let problem = logistic(0.0);
        let config = BlockCoordinateDescentConfig::proximal_newton(12)
            .with_update(update)
            .with_tolerance(1e-14);
        let best = solve(&config, &problem, &penalty);
        let mut errors = Vec::new();
        config
            .solve(&problem, &penalty, None, &mut |step| {
                let distance = step.x.iter().zip(&best.x).map(|(a, b)| (a - b).powi(2));
                errors.push(distance.sum::<f64>().sqrt());
                ControlFlow::Continue(())
            })
            .unwrap();
        let late: Vec<f64> = errors[best.active_set.last_change..]
            .iter()
            .copied()
            .filter(|e| (1e-13..0.1).contains(e))
            .collect();
        assert!(late.len() >= 2, "{update:?} {penalty:?} {errors:?}");
        for pair in late.windows(2) {
            // e' ≤ C e² with one C.
            assert!(
                pair[1] < 3.0 * pair[0].powi(2) + 1e-12,
                "{update:?} {errors:?}"
            );
        }
        assert!(errors.len() < 25, "{errors:?}");
    }
}

/// Only what the trait requires: `½ ‖X x − y‖²` with nothing kept up to date.
struct Plain(LinearModel<SquaredLoss>);

impl SmoothProblem for Plain {
    type State = ();

    fn dimension(&self) -> usize {
        self.0.dimension()
    }

    fn state(&self, _: &[f64], _: bool) {}

    fn value(&self, (): &(), x: &[f64]) -> f64 {
        self.0.value(&self.0.state(x, false), x)
    }

    fn gradient(&self, (): &(), x: &[f64], block: &[usize]) -> Vec<f64> {
        self.0.gradient(&self.0.state(x, false), x, block)
    }

    fn curvature_row(&self, (): &(), kind: Curvature, i: usize) -> Vec<(usize, f64)> {
        let origin = vec![0.0; self.dimension()];
        self.0.curvature_row(&self.0.state(&origin, false), kind, i)
    }

    fn change(&self, state: &mut (), x: &[f64], block: &[usize], delta: &[f64]) -> f64 {
        let mut moved = x.to_vec();
        for (&i, d) in block.iter().zip(delta) {
            moved[i] += d;
        }
        self.value(state, &moved) - self.value(state, x)
    }

    fn advance(&self, state: &mut (), x: &[f64], block: &[usize], delta: &[f64]) -> f64 {
        self.change(state, x, block, delta)
    }
}

#[test]
fn a_problem_of_ones_own_takes_the_same_steps() {
    let model = squares(0.3);
    let plain = Plain(squares(0.3));
    for selection in [
        Selection::GaussSouthwellQuadratic,
        Selection::OrthogonalMatchingPursuit,
        Selection::GaussSouthwellLipschitz,
        Selection::Lipschitz,
    ] {
        for update in [
            Update::Matrix,
            Update::Newton,
            Update::Gradient(StepSize::Global),
        ] {
            let config = BlockCoordinateDescentConfig::new()
                .with_blocks(Blocks::Variable { size: 3 })
                .with_selection(selection)
                .with_update(update)
                .with_tolerance(0.0)
                .with_max_iterations(15);
            let ours = solve(&config, &plain, &Penalty::None);
            let theirs = solve(&config, &model, &Penalty::None);
            for (a, b) in ours.trace.iter().zip(&theirs.trace) {
                assert!(
                    (a.objective - b.objective).abs() < 1e-9 * b.objective,
                    "{config}"
                );
            }
        }
    }
}

#[test]
fn gradient_steps_never_raise_the_objective() {
    let groups: Vec<Vec<usize>> = (0..6).map(|g| vec![2 * g, 2 * g + 1]).collect();
    let group = Penalty::GroupL1 {
        weight: 1.0,
        groups,
    };
    let updates = [
        Update::Gradient(StepSize::Block),
        Update::Gradient(StepSize::Global),
        Update::Backtracking,
        Update::Matrix,
        Update::Newton,
        Update::TwoMetric,
    ];
    for penalty in [Penalty::None, Penalty::L1(0.5), Penalty::NonNegative, group] {
        for update in updates {
            let config = BlockCoordinateDescentConfig::new()
                .with_blocks(Blocks::Fixed(Partition::Order { size: 4 }))
                .with_selection(Selection::Random)
                .with_update(update)
                .with_max_iterations(200);
            let Ok(found) = config.solve(&logistic(0.1), &penalty, None, &mut go) else {
                // What a penalty has no form of.
                assert!(config.check_update(&penalty).is_err());
                continue;
            };
            for pair in found.trace.windows(2) {
                assert!(
                    pair[1].objective <= pair[0].objective + 1e-13,
                    "{update:?} {penalty:?}"
                );
            }
            assert!(found.objective < 0.9 * found.trace[0].objective);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bits() {
    let run = |seed, selection| {
        let config = BlockCoordinateDescentConfig::new()
            .with_blocks(Blocks::Variable { size: 3 })
            .with_selection(selection)
            .with_seed(seed)
            .with_max_iterations(30);
        solve(&config, &logistic(0.1), &Penalty::L1(0.1)).x
    };
    for selection in [Selection::Random, Selection::Cyclic, Selection::Lipschitz] {
        assert_eq!(run(1, selection), run(1, selection));
        assert_ne!(run(1, selection), run(2, selection));
    }
}

#[test]
fn lipschitz_sampling_follows_the_constants() {
    let quadratic = SparseQuadratic::new(&[1.0, 2.0, 5.0], &[], vec![1.0; 3]).unwrap();
    for blocks in [
        Blocks::Fixed(Partition::Order { size: 1 }),
        Blocks::Variable { size: 1 },
    ] {
        let mut times = [0.0; 3];
        BlockCoordinateDescentConfig::new()
            .with_blocks(blocks)
            .with_selection(Selection::Lipschitz)
            .with_update(Update::Gradient(StepSize::Global))
            .with_tolerance(0.0)
            .with_max_iterations(8000)
            .solve(&quadratic, &Penalty::None, None, &mut |step| {
                for &i in step.block {
                    times[i] += 1.0 / 8000.0;
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        for (share, expected) in times.iter().zip([0.125_f64, 0.25, 0.625]) {
            assert!((share - expected).abs() < 0.03, "{times:?}");
        }
    }
}

#[test]
fn the_observer_sees_the_steps_and_ends_them() {
    let problem = squares(0.1);
    let mut seen = Vec::new();
    let config = BlockCoordinateDescentConfig::new()
        .with_tolerance(0.0)
        .with_trace_every(3);
    let found = config
        .solve(&problem, &Penalty::None, None, &mut |step| {
            seen.push((step.iteration, step.block.len()));
            if step.iteration == 7 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
    assert_eq!(seen[..3], [(0, 0), (1, 5), (2, 5)]);
    assert_eq!((found.iterations, found.converged), (7, false));
    assert!((found.epochs - 35.0 / 12.0).abs() < 1e-12);
    let kept: Vec<usize> = found.trace.iter().map(|t| t.iteration).collect();
    assert_eq!(kept, [0, 3, 6, 7]);
    let value = problem.value(&problem.state(&found.x, false), &found.x);
    assert_eq!(found.objective, value);
    // From the minimum there is nothing to do.
    let best = solve(
        &BlockCoordinateDescentConfig::new(),
        &problem,
        &Penalty::None,
    );
    let again = BlockCoordinateDescentConfig::new()
        .solve(&problem, &Penalty::None, Some(&best.x), &mut go)
        .unwrap();
    assert_eq!((again.iterations, again.converged), (0, true));
}

#[test]
fn configurations_are_saved_and_read() {
    let config = BlockCoordinateDescentConfig::new()
        .with_blocks(Blocks::Fixed(Partition::RedBlack(DealOrder::Index)))
        .with_selection(Selection::GaussSouthwellDiagonal(DiagonalBound::RowSum))
        .with_update(Update::Gradient(StepSize::Global))
        .with_solver(BlockSolver::MessagePassing);
    let text = serde_json::to_string(&config).unwrap();
    assert!(
        text.contains(r#"{"fixed":{"red-black":"index"}}"#),
        "{text}"
    );
    let read: BlockCoordinateDescentConfig = serde_json::from_str(&text).unwrap();
    assert_eq!(read.blocks, config.blocks);
    assert_eq!(read.selection, config.selection);
    assert_eq!(read.update, config.update);
}

#[test]
fn wrong_input_is_told() {
    let rows: LabelledRows = "1 1:1 2:2\n2 1:2 2:1\n".parse().unwrap();
    let told = |error: BlockDescentError| error.to_string();
    let error = LinearModel::logistic(&rows, 0.0).unwrap_err();
    assert_eq!(
        told(error),
        "the label of example 1 is 2, but it must be -1 or 1"
    );
    let error = LinearModel::least_squares(&rows, -1.0).unwrap_err();
    assert_eq!(
        told(error),
        "the l2 weight is -1, but it must be at least 0 and finite"
    );
    let error = LinearModel::least_squares(&LabelledRows::new(3), 0.0).unwrap_err();
    assert_eq!(told(error), "the problem has no examples");
    let one = rows.clone().map_labels(|_| 1.0);
    assert!(matches!(
        LinearModel::softmax(&one, 0.0),
        Err(BlockDescentError::Classes(1))
    ));

    let problem = squares(0.1);
    let config = BlockCoordinateDescentConfig::new;
    let fails = |config: BlockCoordinateDescentConfig, penalty: &Penalty| {
        told(config.solve(&problem, penalty, None, &mut go).unwrap_err())
    };
    let none = Penalty::None;
    let large = config().with_blocks(Blocks::Variable { size: 13 });
    assert!(
        fails(large, &none).contains("13 coordinates were asked for, but they can have 1 to 12")
    );
    let zero = config().with_blocks(Blocks::Fixed(Partition::Sort { size: 0 }));
    assert!(fails(zero, &none).contains("0 coordinates"));
    let torn = config().with_blocks(Blocks::Fixed(Partition::Explicit(vec![
        vec![0, 1],
        vec![1],
    ])));
    assert!(fails(torn, &none).contains("coordinate 1 is in 2 blocks"));
    let far = config().with_blocks(Blocks::Fixed(Partition::Explicit(vec![vec![12]])));
    assert!(fails(far, &none).contains("coordinate 12"));
    assert!(fails(config().with_tolerance(f64::NAN), &none).contains("tolerance is NaN"));
    assert!(fails(config(), &Penalty::L1(f64::NAN)).contains("penalty weight is NaN"));
    let bounds = Penalty::Box {
        low: 1.0,
        high: 1.0,
    };
    assert!(fails(config(), &bounds).contains("the lower must be less"));
    let quadratic = config().with_selection(Selection::GaussSouthwellQuadratic);
    assert!(fails(quadratic, &Penalty::L1(1.0)).contains("take proximal-decrease"));
    let improvement = config().with_selection(Selection::MaximumImprovement);
    assert!(fails(improvement, &none).contains("maximum-improvement cannot try all"));
    let forest = config().with_blocks(Blocks::Forest);
    assert!(fails(forest.clone().with_selection(Selection::Cyclic), &none).contains("forests"));
    assert!(fails(forest, &Penalty::NonNegative).contains("forests with a penalty"));
    assert!(fails(config().with_update(Update::TwoMetric), &none).contains("take newton"));
    let messages = config().with_solver(BlockSolver::MessagePassing);
    assert!(fails(messages.clone(), &Penalty::L1(1.0)).contains("message passing"));
    assert!(fails(messages, &none).contains("without cycles"));
    let groups = Penalty::GroupL1 {
        weight: 1.0,
        groups: (0..6).map(|g| vec![2 * g, 2 * g + 1]).collect(),
    };
    let gradient = config().with_update(Update::Backtracking);
    assert!(fails(gradient.clone(), &groups).contains("whole groups"));
    let thirds = gradient.with_blocks(Blocks::Fixed(Partition::Order { size: 3 }));
    assert!(fails(thirds, &groups).contains("whole groups"));
    assert!(fails(config(), &groups).contains("group penalty"));
    let start = |start: &[f64], penalty: &Penalty| {
        told(
            config()
                .solve(&problem, penalty, Some(start), &mut go)
                .unwrap_err(),
        )
    };
    assert!(start(&[0.0; 3], &none).contains("has 3 numbers, but it must have 12"));
    assert!(start(&[-1.0; 12], &Penalty::NonNegative).contains("is -1, but it must be finite"));
    assert!(start(&[f64::NAN; 12], &none).contains("NaN"));
    assert_eq!(
        fails(
            config(),
            &Penalty::GroupL1 {
                weight: 1.0,
                groups: vec![vec![0]]
            }
        ),
        "coordinate 1 is in 0 groups, but it must be in 1"
    );
    let huge: LabelledRows = "1e200 1:1e200\n".parse().unwrap();
    let huge = LinearModel::least_squares(&huge, 0.0).unwrap();
    let error = config()
        .with_blocks(Blocks::Variable { size: 1 })
        .solve(&huge, &none, None, &mut go);
    assert_eq!(error.unwrap_err(), BlockDescentError::Diverged);

    assert!(SparseQuadratic::new(&[1.0, 0.0], &[], vec![0.0; 2]).is_err());
    assert!(SparseQuadratic::new(&[1.0; 2], &[(0, 2, 1.0)], vec![0.0; 2]).is_err());
    assert!(SparseQuadratic::new(&[1.0; 2], &[(0, 0, 1.0)], vec![0.0; 2]).is_err());
    assert!(SparseQuadratic::new(&[1.0; 2], &[], vec![0.0; 3]).is_err());
    let lonely = LabelPropagation::new(&[(0, 1, 1.0)], &[Some(1.0), None, None]).unwrap_err();
    assert_eq!(
        told(lonely),
        "node 2 is linked to no node with a known label"
    );
    assert!(LabelPropagation::new(&[(0, 1, -1.0)], &[Some(1.0), None]).is_err());
    assert!(LabelPropagation::new(&[(0, 1, 1.0)], &[Some(1.0), Some(2.0)]).is_err());
    assert!(nearest_neighbour_edges(&rows, 2).is_err());
}
