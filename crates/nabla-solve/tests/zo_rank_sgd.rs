//! ZO-RankSGD against the authors' code, and on the functions of the paper's first experiment.

use std::ops::ControlFlow;

use nabla_grad::seeded_noise::SeededNoise;
use nabla_solve::cma_es::CmaEs;
use nabla_solve::gld::{GradientlessDescent, Radii};
use nabla_solve::ranking_oracle::{
    FunctionOracle, NoisyFunctionOracle, Ranking, RankingOracle, ValueNoise,
};
use nabla_solve::scobo::{Scobo, ScoboConfig};
use nabla_solve::zeroth_order::{Directions, LineSearch};
use nabla_solve::zo_rank_sgd::{EdgeWeights, ZoRankSgd, ZoRankSgdConfig};
use nabla_solve::zo_sgd::{ZoSgd, ZoSgdConfig};
use serde::{Deserialize, Serialize};

/// A run of the authors' code; `reference/zo_rank_sgd.py`.
#[derive(Deserialize, Serialize)]
struct Case {
    candidates: usize,
    best: usize,
    line: usize,
    mu: f64,
    eta: f64,
    seed: u64,
    start: Vec<f64>,
    /// The perturbations of each iteration, `[m, d]`.
    directions: Vec<Vec<f64>>,
    /// Where each iteration ended.
    #[serde(default)]
    points: Vec<Vec<f64>>,
    /// The search direction of each iteration.
    #[serde(default)]
    found: Vec<Vec<f64>>,
}

const ITERATIONS: usize = 12;

fn value(x: &[f64]) -> f64 {
    let squares = x.iter().enumerate().map(|(i, x)| {
        let i = i as f64;
        (i + 1.0) * (x - 0.25 * i).powi(2)
    });
    squares.sum::<f64>() + 0.5 * x[0] * x[1]
}

/// What the script is given.
#[test]
#[ignore = "prints the input of reference/zo_rank_sgd.py"]
fn print_the_directions() {
    let case = |candidates, best, line, mu, eta, seed, start: &[f64]| {
        let draw = |i: u64| Directions::Gaussian.draw(candidates, start.len(), seed, 2 * i);
        Case {
            candidates,
            best,
            line,
            mu,
            eta,
            seed,
            start: start.to_vec(),
            directions: (0..ITERATIONS as u64).map(draw).collect(),
            points: Vec::new(),
            found: Vec::new(),
        }
    };
    let cases = [
        case(5, 5, 5, 0.1, 0.5, 1, &[2.0, -1.0, 0.5]),
        case(6, 2, 4, 0.05, 2.0, 2, &[-1.0, 1.0, 3.0, 0.0, 1.5]),
        case(8, 1, 6, 0.5, 0.25, 3, &[1.0, 1.0, 1.0, -1.0]),
        case(4, 3, 3, 0.01, 0.3, 4, &[0.3, 0.3]),
    ];
    println!("{}", serde_json::to_string(&cases).unwrap());
}

#[test]
fn every_step_is_that_of_the_authors_code() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("reference/zo_rank_sgd.json")).unwrap();
    assert_eq!(cases.len(), 4);
    let mut stays = 0;
    for case in cases {
        let config = ZoRankSgdConfig::new()
            .with_candidates(case.candidates)
            .with_best(Some(case.best))
            .with_smoothing(case.mu)
            .with_step_size(case.eta)
            .with_edge_weights(EdgeWeights::OfficialCode)
            .with_line_search(Some(LineSearch::human_feedback(case.line)))
            .with_seed(case.seed);
        let mut run = ZoRankSgd::new(config, case.start.iter().copied()).unwrap();
        let mut oracle = FunctionOracle::new(value);
        for i in 0..ITERATIONS {
            let (m, d) = (case.candidates, case.start.len());
            let drawn = Directions::Gaussian.draw(m, d, case.seed, 2 * i as u64);
            assert_eq!(drawn, case.directions[i]);
            let ranking = oracle.rank(&run.question().unwrap()).unwrap();
            assert_eq!(run.answer(&ranking).unwrap(), None);
            for (a, b) in run.state().direction.iter().zip(&case.found[i]) {
                assert!((a - b).abs() < 1e-11 * (1.0 + b.abs()), "{i}: {a} {b}");
            }
            let before = run.point().to_vec();
            run.step(&mut oracle).unwrap();
            for (a, b) in run.point().iter().zip(&case.points[i]) {
                assert!((a - b).abs() < 1e-11 * (1.0 + b.abs()), "{i}: {a} {b}");
            }
            stays += usize::from(before == run.point());
        }
    }
    // Both branches of the line search are there.
    assert!(stays >= 4, "{stays}");
}

/// A run of the package cmaes; `reference/cma_es.py`.
#[derive(Deserialize)]
struct Evolution {
    candidates: usize,
    sigma: f64,
    start: Vec<f64>,
    steps: Vec<Generation>,
}

#[derive(Deserialize)]
struct Generation {
    points: Vec<f64>,
    order: Vec<usize>,
    mean: Vec<f64>,
    sigma: f64,
}

#[test]
fn cma_es_learns_as_the_package_does() {
    let cases: Vec<Evolution> =
        serde_json::from_str(include_str!("reference/cma_es.json")).unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let mut run = CmaEs::new(case.start, case.sigma, case.candidates, 0).unwrap();
        for (i, step) in case.steps.into_iter().enumerate() {
            let ranking = Ranking::new(case.candidates, step.order).unwrap();
            run.update(&step.points, &ranking).unwrap();
            let close = |a: f64, b: f64| (a - b).abs() < 1e-9 * (1.0 + b.abs());
            assert!(close(run.sigma() / step.sigma, 1.0), "{i}: {}", run.sigma());
            for (&a, &b) in run.point().iter().zip(&step.mean) {
                assert!(close(a, b), "{i}: {a} {b}");
            }
        }
    }
}

fn quadratic(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

fn rosenbrock(x: &[f64]) -> f64 {
    let term = |w: &[f64]| 100.0 * (w[1] - w[0] * w[0]).powi(2) + (1.0 - w[0]).powi(2);
    x.windows(2).map(term).sum()
}

const DIMENSION: usize = 100;

/// The start of the paper, `N(0, I)`.
fn start(seed: u64) -> Vec<f32> {
    SeededNoise::new(seed, u64::MAX).normal_values(DIMENSION)
}

/// Where a run from the start of `seed` ends after `budget` queries.
fn rank_sgd(
    f: fn(&[f64]) -> f64,
    oracle: &mut impl RankingOracle<Error = std::convert::Infallible>,
    config: &ZoRankSgdConfig,
    budget: u64,
    seed: u64,
) -> f64 {
    let mut run = ZoRankSgd::new(config.clone().with_seed(seed), start(seed)).unwrap();
    run.minimise(oracle, budget, &mut |_, _| ControlFlow::Continue(()))
        .unwrap();
    f(run.point())
}

/// The geometric mean over three seeds.
fn mean(value: impl Fn(u64) -> f64) -> f64 {
    ((0..3).map(|seed| value(seed).ln()).sum::<f64>() / 3.0).exp()
}

fn searching() -> ZoRankSgdConfig {
    let search = LineSearch::new().with_candidates(6).with_shrink(0.2);
    ZoRankSgdConfig::new()
        .with_step_size(0.3)
        .with_line_search(Some(search))
}

fn plain(step_size: f64) -> ZoRankSgdConfig {
    ZoRankSgdConfig::new()
        .with_candidates(15)
        .with_step_size(step_size)
}

/// In 100 dimensions with 15 queries an iteration, from a value of about 100: an order alone is enough
/// to reach the minimum, and with a line search it comes far nearer than without at any of three step
/// sizes.
#[test]
fn an_order_is_enough_for_the_quadratic_and_the_line_search_goes_further() {
    let run = |config: &ZoRankSgdConfig| {
        mean(|seed| {
            let oracle = &mut FunctionOracle::new(quadratic);
            rank_sgd(quadratic, oracle, config, 6000, seed)
        })
    };
    let searched = run(&searching());
    let fixed = [0.02, 0.05, 0.2].map(|step| run(&plain(step)));
    println!("quadratic: line search {searched:.3e}, without {fixed:?}");
    assert!(searched < 2e-3, "{searched}");
    for fixed in fixed {
        assert!(fixed > 10.0 * searched && fixed < 10.0, "{fixed}");
    }
}

/// The same on Rosenbrock's function, from a value of about 40 000 to the bottom of the valley, whose
/// value is about the number of dimensions.
#[test]
fn the_valley_of_rosenbrocks_function_is_reached() {
    let run = |config: &ZoRankSgdConfig| {
        mean(|seed| {
            let oracle = &mut FunctionOracle::new(rosenbrock);
            rank_sgd(rosenbrock, oracle, config, 6000, seed)
        })
    };
    let before =
        mean(|seed| rosenbrock(&start(seed).into_iter().map(f64::from).collect::<Vec<_>>()));
    let (searched, fixed) = (run(&searching()), run(&plain(0.2)));
    println!("Rosenbrock: from {before:.3e}, line search {searched:.4}, without {fixed:.4}");
    assert!(before > 1e4, "{before}");
    assert!(searched < 200.0 && fixed > searched, "{searched} {fixed}");
}

/// At the same number of iterations, with the same line search: more points, and a longer order of
/// them, descend further.
#[test]
fn more_points_and_longer_orders_descend_further() {
    let run = |m: usize, k: usize| {
        let config = searching().with_candidates(m).with_best(Some(k));
        mean(|seed| {
            let oracle = &mut FunctionOracle::new(quadratic);
            rank_sgd(quadratic, oracle, &config, 150 * (m as u64 + 5), seed)
        })
    };
    let orders = [1, 3, 10, 100].map(|k| run(100, k));
    let sizes = [5, 20, 100].map(|m| run(m, m));
    println!("m = 100, k = 1, 3, 10, 100: {orders:?}; m = k = 5, 20, 100: {sizes:?}");
    for values in [&orders[..], &sizes[..]] {
        assert!(values.windows(2).all(|w| w[1] < w[0]), "{values:?}");
    }
}

/// With noise on the values that is small against what there is to gain, the run still descends.
#[test]
fn noise_slows_the_descent_but_does_not_end_it() {
    let run = |deviation: f64| {
        mean(|seed| {
            let noise = ValueNoise::Gaussian(deviation);
            let mut oracle = NoisyFunctionOracle::new(quadratic, noise, seed).unwrap();
            let config = searching().with_smoothing(0.1);
            rank_sgd(quadratic, &mut oracle, &config, 6000, seed)
        })
    };
    let found = [0.0, 0.1, 1.0].map(run);
    println!("noise 0, 0.1, 1: {found:?}");
    assert!(
        found[0] < found[1] && found[1] < found[2] && found[2] < 20.0,
        "{found:?}"
    );
}

/// The methods of the paper's comparison with the same 6000 queries: ZO-RankSGD is better than those
/// that compare with `x` only or jump at random, and about as good as CMA-ES.
#[test]
fn the_order_of_the_papers_comparison() {
    const BUDGET: u64 = 6000;
    let search = LineSearch::new().with_candidates(6).with_shrink(0.2);
    let ranked = |f: fn(&[f64]) -> f64| {
        mean(|seed| rank_sgd(f, &mut FunctionOracle::new(f), &searching(), BUDGET, seed))
    };
    let values = |f: fn(&[f64]) -> f64, step: f64| {
        mean(|seed| {
            let config = ZoSgdConfig::new().with_step_size(step).with_smoothing(1e-4);
            let config = config.with_line_search(Some(search)).with_seed(seed);
            let mut run = ZoSgd::new(config, start(seed)).unwrap();
            while run.queries() + 15 <= BUDGET {
                run.step(f).unwrap();
            }
            f(run.point())
        })
    };
    let compared = |f: fn(&[f64]) -> f64| {
        mean(|seed| {
            let config = ScoboConfig::new().with_step_size(1.0).with_seed(seed);
            let config = config.with_line_search(Some(search));
            let mut run = Scobo::new(config, start(seed)).unwrap();
            while run.queries() + 15 <= BUDGET {
                run.step(&mut FunctionOracle::new(f)).unwrap();
            }
            f(run.point())
        })
    };
    let jumped = |f: fn(&[f64]) -> f64| {
        mean(|seed| {
            let radii = Radii::Search {
                largest: 10.0,
                smallest: 10.0 * (-14f64).exp2(),
            };
            let mut run = GradientlessDescent::new(radii, start(seed), seed).unwrap();
            while run.queries() + 15 <= BUDGET {
                run.step(&mut FunctionOracle::new(f)).unwrap();
            }
            f(run.point())
        })
    };
    let evolved = |f: fn(&[f64]) -> f64| {
        mean(|seed| {
            let mut run = CmaEs::new(start(seed), 0.5, 15, seed).unwrap();
            while run.queries() + 15 <= BUDGET {
                run.step(&mut FunctionOracle::new(f)).unwrap();
            }
            f(run.point())
        })
    };
    for (name, f, step) in [
        ("quadratic", quadratic as fn(&[f64]) -> f64, 0.1),
        ("Rosenbrock", rosenbrock, 1e-3),
    ] {
        let found = [
            ranked(f),
            values(f, step),
            compared(f),
            jumped(f),
            evolved(f),
        ];
        println!("{name}: rank, values, comparisons, jumps, evolution {found:?}");
        assert!(found[0] < found[2] && found[0] < found[3], "{found:?}");
        // Evolution is about as good.
        let ratio = found[0] / found[4];
        assert!((0.1..10.0).contains(&ratio), "{found:?}");
    }
}
