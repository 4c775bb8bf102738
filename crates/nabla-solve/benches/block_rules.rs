//! Steps until the excess over the minimum is 1e-3 and 1e-6 of that of the start, for the blocks,
//! rules and updates of block coordinate descent: on real data (digits), and on data made like the
//! paper's A and B (columns of very different sizes, few entries, more features than examples).
//!
//! ```text
//! cargo bench -p nabla-solve --bench block_rules
//! ```

#![allow(clippy::unwrap_used)] // a program for developers

use std::ops::ControlFlow;
use std::path::Path;

use nabla_data::LabelledRows;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_solve::block_coordinate_descent::{
    BlockCoordinateDescentConfig, Blocks, DiagonalBound, LinearModel, Partition, Penalty,
    Selection, SmoothProblem, StepSize, Update,
};
use rand::RngExt;

fn config(blocks: Blocks, selection: Selection, update: Update) -> BlockCoordinateDescentConfig {
    BlockCoordinateDescentConfig::new()
        .with_blocks(blocks)
        .with_selection(selection)
        .with_update(update)
        .with_tolerance(0.0)
        .with_trace_every(0)
}

/// The first steps with an excess of at most 1e-3 and 1e-6; the mean over `seeds`, infinite where
/// one did not get there.
fn steps_to<P: SmoothProblem>(
    problem: &P,
    config: &BlockCoordinateDescentConfig,
    best: f64,
    seeds: u64,
) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for seed in 0..seeds {
        let mut first = None;
        let mut at = [f64::INFINITY; 2];
        config
            .clone()
            .with_seed(seed)
            .solve(problem, &Penalty::None, None, &mut |step| {
                let first = *first.get_or_insert(step.objective);
                let excess = (step.objective - best) / (first - best);
                for (at, limit) in at.iter_mut().zip([1e-3, 1e-6]) {
                    if excess <= limit && at.is_infinite() {
                        *at = step.iteration as f64;
                    }
                }
                if at[1].is_finite() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .unwrap();
        for (sum, at) in sums.iter_mut().zip(at) {
            *sum += at;
        }
    }
    sums.map(|sum| sum / seeds as f64)
}

const COORDINATE: Selection = Selection::GaussSouthwellDiagonal(DiagonalBound::Coordinate);
const LB: Update = Update::Gradient(StepSize::Block);

fn measure<P: SmoothProblem>(name: &str, problem: &P, limit: usize) {
    let size = problem.dimension();
    let best = config(Blocks::Variable { size }, Selection::Cyclic, Update::Newton)
        .with_tolerance(1e-11)
        .with_max_iterations(100)
        .solve(problem, &Penalty::None, None, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap()
        .objective;
    let add = |label: String, config: BlockCoordinateDescentConfig, seeds: u64| {
        let [rough, fine] = steps_to(problem, &config.with_max_iterations(limit), best, seeds);
        println!("{name:<10} {label:<28} {rough:>9.0} {fine:>9.0}");
    };
    let any = |size| Blocks::Variable { size };
    let sort = |size| Blocks::Fixed(Partition::Sort { size });
    use Selection as S;
    let rules = [
        ("cyclic", S::Cyclic, 3),
        ("random", S::Random, 3),
        ("lipschitz", S::Lipschitz, 3),
        ("gs", S::GaussSouthwell, 1),
        ("gsd", COORDINATE, 1),
        ("gsl", S::GaussSouthwellLipschitz, 1),
        ("gsq", S::GaussSouthwellQuadratic, 1),
    ];
    let updates = [
        (LB, "lb"),
        (Update::Matrix, "hb"),
        (Update::Newton, "newton"),
    ];
    for (rule, selection, seeds) in rules {
        for (update, name) in updates {
            if update == Update::Newton && problem.is_quadratic() {
                continue;
            }
            for (blocks, kind) in [(any(5), "any"), (sort(5), "sort")] {
                add(
                    format!("{kind} 5 {rule} {name}"),
                    config(blocks, selection, update),
                    seeds,
                );
            }
        }
    }
    let pursuit = config(any(5), S::OrthogonalMatchingPursuit, Update::Matrix);
    add("any 5 omp hb".into(), pursuit, 1);
    let improvement = config(sort(5), S::MaximumImprovement, Update::Matrix);
    add("sort 5 mi hb".into(), improvement, 1);
    for size in [1, 10, 20, 40] {
        for (update, name) in [(LB, "lb"), (Update::Matrix, "hb")] {
            add(
                format!("any {size} gsd {name}"),
                config(any(size), COORDINATE, update),
                1,
            );
        }
    }
    for (name, partition) in [
        ("order", Partition::Order { size: 5 }),
        ("average", Partition::Average { size: 5 }),
        ("random", Partition::Random { size: 5 }),
    ] {
        for (selection, rule) in [
            (S::GaussSouthwell, "gs"),
            (S::GaussSouthwellLipschitz, "gsl"),
        ] {
            let blocks = Blocks::Fixed(partition.clone());
            add(
                format!("{name} 5 {rule} lb"),
                config(blocks, selection, LB),
                1,
            );
        }
    }
    for (update, name) in [
        (Update::Gradient(StepSize::Global), "global"),
        (Update::Backtracking, "backtracking"),
    ] {
        add(
            format!("sort 5 gs {name}"),
            config(sort(5), S::GaussSouthwell, update),
            1,
        );
    }
}

/// As the paper makes its data sets A and B, with fewer rows and columns.
fn made(rows: usize, features: usize) -> (LabelledRows, LabelledRows) {
    let mut noise = SeededNoise::new(1, 0);
    let scales: Vec<f64> = normal(&mut noise, features)
        .iter()
        .map(|s| 10.0 * s)
        .collect();
    let weights: Vec<f64> = normal(&mut noise, features)
        .into_iter()
        .map(|w| if noise.random::<f64>() < 0.1 { w } else { 0.0 })
        .collect();
    let share = 10.0 * (rows as f64).ln() / rows as f64;
    let mut squares = LabelledRows::new(features);
    let mut binary = LabelledRows::new(features);
    for _ in 0..rows {
        let entries = normal(&mut noise, features);
        let row: Vec<(usize, f64)> = (0..features)
            .filter(|_| noise.random::<f64>() < share)
            .map(|j| (j, (entries[j] + 1.0) * scales[j]))
            .collect();
        let z: f64 = row.iter().map(|&(j, v)| v * weights[j]).sum();
        let error = normal(&mut noise, 1)[0];
        squares.push(z + error, row.clone()).unwrap();
        let flip = if noise.random::<f64>() < 0.1 {
            -1.0
        } else {
            1.0
        };
        binary
            .push(flip * if z > 0.0 { 1.0 } else { -1.0 }, row)
            .unwrap();
    }
    (squares, binary)
}

fn normal(noise: &mut SeededNoise, count: usize) -> Vec<f64> {
    noise
        .normal_values(count)
        .into_iter()
        .map(f64::from)
        .collect()
}

fn main() {
    println!(
        "{:<10} {:<28} {:>9} {:>9}",
        "problem", "blocks rule update", "1e-3", "1e-6"
    );
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/digits.libsvm");
    let digits = LabelledRows::read(&path, Some(64)).unwrap();
    measure(
        "A digits",
        &LinearModel::least_squares(&digits, 1.0).unwrap(),
        50_000,
    );
    let binary = digits.map_labels(|y| if y < 5.0 { 1.0 } else { -1.0 });
    measure(
        "B digits",
        &LinearModel::logistic(&binary, 1.0).unwrap(),
        50_000,
    );
    let (squares, binary) = made(200, 500);
    measure(
        "A made",
        &LinearModel::least_squares(&squares, 1.0).unwrap(),
        10_000,
    );
    measure(
        "B made",
        &LinearModel::logistic(&binary, 1.0).unwrap(),
        10_000,
    );
}
