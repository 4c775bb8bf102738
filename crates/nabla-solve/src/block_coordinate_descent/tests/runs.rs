//! Whole runs: what they find, report and refuse.

use nabla_data::LabelledRows;
use nabla_grad::seeded_noise::SeededNoise;

use super::*;

/// Checks that the gap is at least the excess at every step, and small at the end.
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
        // The bound is useful: it is not thousands of times the true value.
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
                // A combination that the penalty does not support.
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
        fails(large, &none).contains("13 coordinates were requested, but blocks can have 1 to 12")
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
