use super::*;
use crate::ranking_oracle::{FunctionOracle, NoisyFunctionOracle, ValueNoise};
use nabla_base::vector::dot;
use std::f64::consts::PI;

/// Mean and its standard error of `value` over estimates at `x` with the perturbation `mu`.
fn over_estimates(
    f: impl FnMut(&[f64]) -> f64 + Copy,
    [m, k]: [usize; 2],
    x: &[f64],
    mu: f64,
    directions: Directions,
    value: impl Fn(&[f64]) -> f64,
) -> (f64, f64) {
    const COUNT: u64 = 20_000;
    let (mut sum, mut squares) = (0.0, 0.0);
    for stream in 0..COUNT {
        let xi = directions.draw(m, x.len(), 1, stream);
        let values: Vec<f64> = xi
            .chunks_exact(x.len())
            .map(|xi| moved(x, mu, xi))
            .map(|p| {
                let mut f = f;
                f(&p)
            })
            .collect();
        let ranking = Ranking::of_values(&values, k).unwrap();
        let v = value(&estimate(&ranking, &xi, EdgeWeights::Graph));
        sum += v;
        squares += v * v;
    }
    let n = COUNT as f64;
    (sum / n, ((squares / n - (sum / n).powi(2)) / n).sqrt())
}

/// Kummer's function, by its series.
fn kummer(a: f64, b: f64, z: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 0..200 {
        let n = f64::from(n);
        term *= (a + n) / (b + n) * z / (n + 1.0);
        sum += term;
    }
    sum
}

/// On `f = ‖x‖²` the difference of two perturbed points is along `v = √2 x + μ s` with a normal
/// `s`, so that `E g = 2/√π E[v/‖v‖]`, the mean of a projected normal vector:
/// `Γ((d+1)/2)/Γ(d/2+1) κ/√2 ₁F₁(½; d/2+1; −κ²/2)` along `x`, with `κ = √2‖x‖/μ`. Every order
/// of all m has this mean, at any μ.
#[test]
fn the_mean_estimate_on_a_quadratic_is_the_closed_form() {
    let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    let x = [0.6, -0.8, 0.0];
    // Γ(2)/Γ(5/2)
    let gamma = 1.0 / (0.75 * PI.sqrt());
    for (mu, m) in [(0.5, 2), (1.0, 2), (1.0, 5), (3.0, 4)] {
        let kappa = 2f64.sqrt() / mu;
        let expected =
            2.0 / PI.sqrt() * gamma * kappa / 2f64.sqrt() * kummer(0.5, 2.5, -kappa * kappa / 2.0);
        let along = |g: &[f64]| dot(g, &x);
        let (found, error) = over_estimates(f, [m, m], &x, mu, Directions::Gaussian, along);
        assert!(
            (found - expected).abs() < 4.0 * error,
            "{m} {mu}: {found} {expected}"
        );
        assert!(error < 0.02 * expected.max(0.5), "{error}");
        let across = |g: &[f64]| dot(g, &[0.8, 0.6, 0.0]) + g[2];
        let (found, error) = over_estimates(f, [m, m], &x, mu, Directions::Gaussian, across);
        assert!(found.abs() < 4.0 * error, "{m} {mu}: {found}");
    }
}

/// On a linear function: the mean along its gradient from the order statistics of normal numbers
/// (of three, ±3/(2√π)), and the second moment from M₁ and M₂.
#[test]
fn the_moments_on_a_linear_function_are_the_closed_forms() {
    let f = |x: &[f64]| x[0];
    let along = |g: &[f64]| g[0];
    let c = 1.5 / PI.sqrt();
    // k = 1: (0 + c + 2c)/2 from the best; k = 3: weights 2 at both ends, over 3 edges.
    for (k, expected) in [(1, 1.5 * c), (3, 4.0 * c / 3.0)] {
        let x = [0.0; 4];
        let (found, error) = over_estimates(f, [3, k], &x, 0.1, Directions::Gaussian, along);
        assert!(
            (found - expected).abs() < 4.0 * error,
            "{k}: {found} {expected}"
        );
    }
    for (m, d) in [(2, 3), (5, 4), (8, 6)] {
        let (m_1, m_2) = (4.0 / PI, 2.0 * 3f64.sqrt() / PI + d as f64 / 3.0);
        let expected = second_moment(m, m, d, m_1, m_2);
        let x = vec![0.0; d];
        let square = |g: &[f64]| dot(g, g);
        let (found, error) = over_estimates(f, [m, m], &x, 0.1, Directions::Gaussian, square);
        assert!(
            (found - expected).abs() < 4.0 * error,
            "{m}: {found} {expected}"
        );
        assert!(error < 0.02 * expected, "{error}");
    }
}

/// A longer order and more points make an estimate that is nearer to the gradient's direction, and
/// so do orthogonal perturbations: the mean cosine.
#[test]
fn more_points_longer_orders_and_orthogonal_directions_have_less_variance() {
    let f = |x: &[f64]| x[0];
    let cosine = |g: &[f64]| g[0] / norm(g);
    let mean = |mk, directions| over_estimates(f, mk, &[0.0; 20], 0.1, directions, cosine);
    let increases = |lower: (f64, f64), higher: (f64, f64)| {
        assert!(
            higher.0 - lower.0 > 4.0 * lower.1.hypot(higher.1),
            "{lower:?} {higher:?}"
        );
    };
    let gaussian = |mk| mean(mk, Directions::Gaussian);
    increases(gaussian([10, 1]), gaussian([10, 3]));
    increases(gaussian([10, 3]), gaussian([10, 10]));
    increases(gaussian([5, 5]), gaussian([10, 10]));
    increases(gaussian([10, 10]), mean([10, 10], Directions::Orthogonal));
}

#[test]
fn directions_are_what_they_are_called() {
    for (count, d) in [(7, 3), (3, 3), (2, 9), (5, 1)] {
        let sphere = Directions::Sphere.draw(count, d, 3, 4);
        let orthogonal = Directions::Orthogonal.draw(count, d, 3, 4);
        for rows in [&sphere, &orthogonal] {
            assert_eq!(rows.len(), count * d);
            assert!(rows.chunks_exact(d).all(|r| (norm(r) - 1.0).abs() < 1e-14));
        }
        for block in orthogonal.chunks(d * d) {
            for (i, a) in block.chunks_exact(d).enumerate() {
                for b in block.chunks_exact(d).skip(i + 1) {
                    assert!(dot(a, b).abs() < 1e-14, "{}", dot(a, b));
                }
            }
        }
        assert_eq!(sphere, Directions::Sphere.draw(count, d, 3, 4));
        assert_ne!(sphere, Directions::Sphere.draw(count, d, 3, 5));
        assert_ne!(sphere, Directions::Sphere.draw(count, d, 4, 4));
    }
    // Uniform: every coordinate has the mean 0 and the mean square 1/d.
    for directions in [Directions::Sphere, Directions::Orthogonal] {
        let rows = directions.draw(30_000, 3, 0, 0);
        for axis in 0..3 {
            let values = || rows.iter().skip(axis).step_by(3);
            let mean: f64 = values().sum::<f64>() / 30_000.0;
            let square: f64 = values().map(|v| v * v).sum::<f64>() / 30_000.0;
            assert!(mean.abs() < 0.014, "{mean}");
            assert!((square - 1.0 / 3.0).abs() < 0.007, "{square}");
        }
    }
}

/// The run at the line search from 1 with the direction 1, best perturbed point 0.3.
fn before_line_search(search: LineSearch) -> ZoRankSgd {
    let config = ZoRankSgdConfig::new()
        .with_step_size(0.8)
        .with_line_search(Some(search));
    let mut state = ZoRankSgd::new(config, [1.0]).unwrap().state().clone();
    state.direction = vec![1.0];
    state.estimates = 1;
    state.rankings = 1;
    state.questions = 1;
    state.queries = 10;
    state.phase = Phase::LineSearch;
    if search.best_perturbed {
        state.best_perturbed = vec![vec![0.3]];
    }
    ZoRankSgd::from_state(state).unwrap()
}

#[test]
fn the_line_search_takes_the_best_point() {
    let near = |to: f64| FunctionOracle::new(move |x: &[f64]| (x[0] - to).abs());
    let plain = LineSearch::new().with_candidates(4);
    let question = before_line_search(plain).question().unwrap();
    assert_eq!(question.best(), 1);
    let points: Vec<f64> = question.points().map(|p| p[0]).collect();
    for (found, expected) in points.iter().zip([0.2, 0.6, 0.8, 1.0]) {
        assert!((found - expected).abs() < 1e-15, "{points:?}");
    }
    for (to, choice, point) in [
        (0.0, Choice::Step(0), 0.2),
        (0.55, Choice::Step(1), 0.6),
        (0.85, Choice::Step(2), 0.8),
        (3.0, Choice::Stay, 1.0),
    ] {
        let mut run = before_line_search(plain);
        let iteration = run.step(&mut near(to)).unwrap();
        assert_eq!(iteration.choice, choice);
        assert!((run.point()[0] - point).abs() < 1e-15);
        // Three of the four points are new.
        assert_eq!(
            (iteration.queries, iteration.questions, iteration.estimates),
            (13, 2, 1)
        );
    }
    let mut run = before_line_search(LineSearch::human_feedback(4));
    let points: Vec<f64> = run.question().unwrap().points().map(|p| p[0]).collect();
    assert_eq!(points[2..], [0.3, 1.0]);
    let iteration = run.step(&mut near(0.3)).unwrap();
    assert_eq!(
        (iteration.choice, iteration.queries),
        (Choice::Perturbed(0), 12)
    );
    assert_eq!(run.point(), [0.3]);
}

/// Where the run stays, the next direction is the mean of the estimates.
#[test]
fn estimates_accumulate_until_there_is_a_move() {
    let mut run = before_line_search(LineSearch::human_feedback(4));
    let stay = Ranking::new(4, vec![3]).unwrap();
    run.answer(&stay).unwrap();
    assert_eq!((run.state().estimates, run.state().direction[0]), (1, 1.0));
    let question = run.question().unwrap();
    let values: Vec<f64> = question.points().map(|p| p[0]).collect();
    let ranking = Ranking::of_values(&values, 10).unwrap();
    let xi = Directions::Gaussian.draw(10, 1, 0, 2);
    let second = estimate(&ranking, &xi, EdgeWeights::Graph)[0];
    assert_eq!(run.answer(&ranking).unwrap(), None);
    assert_eq!(run.state().estimates, 2);
    assert!((run.state().direction[0] - (1.0 + second) / 2.0).abs() < 1e-15);
    let moved = run
        .answer(&Ranking::new(4, vec![0]).unwrap())
        .unwrap()
        .unwrap();
    assert_eq!((moved.estimates, run.state().estimates), (2, 0));
}

/// Several rankings are one estimate: the mean of theirs.
#[test]
fn rankings_are_averaged() {
    let config = ZoRankSgdConfig::new()
        .with_candidates(4)
        .with_rankings(3)
        .with_step_size(1.0);
    let mut run = ZoRankSgd::new(config, [0.5f32, -0.25]).unwrap();
    let f = |x: &[f64]| x[0] + x[1];
    let mut sum = [0.0; 2];
    for stream in 0..3 {
        let xi = Directions::Gaussian.draw(4, 2, 0, stream);
        let values: Vec<f64> = xi.chunks_exact(2).map(f).collect();
        let ranking = Ranking::of_values(&values, 4).unwrap();
        nabla_base::vector::add_scaled(
            &mut sum,
            1.0 / 3.0,
            &estimate(&ranking, &xi, EdgeWeights::Graph),
        );
    }
    let iteration = run.step(&mut FunctionOracle::new(f)).unwrap();
    assert_eq!((iteration.questions, iteration.queries), (3, 12));
    for ((x, start), sum) in run.point().iter().zip([0.5, -0.25]).zip(sum) {
        assert!((x - (start - sum)).abs() < 1e-14);
    }
}

/// A ranking is all that is used: another function with the same order makes the same run, bit for
/// bit; and the same seed, too.
#[test]
fn an_increasing_function_of_the_values_changes_nothing() {
    let config = ZoRankSgdConfig::new().with_line_search(Some(LineSearch::human_feedback(6)));
    let run = |f: fn(f64) -> f64, seed| {
        let config = config.clone().with_seed(seed);
        let mut run = ZoRankSgd::new(config, [1.0, 2.0, 3.0]).unwrap();
        let mut oracle = FunctionOracle::new(|x: &[f64]| f(dot(x, x)));
        run.minimise(&mut oracle, 500, &mut |_, _| ControlFlow::Continue(()))
            .unwrap();
        run
    };
    let plain = run(|f| f, 0);
    assert_eq!(plain, run(|f| (0.1 * f).exp() - 7.0, 0));
    assert_ne!(plain.point(), run(|f| f, 1).point());
    // 10 + 4 new points an iteration.
    assert_eq!(plain.state().queries, 490);
    assert_eq!(plain.state().iterations, 35);
}

#[test]
fn a_saved_run_goes_on_to_the_same_bits_from_any_question() {
    let noise = ValueNoise::Gaussian(0.1);
    let oracle = || NoisyFunctionOracle::new(|x: &[f64]| dot(x, x), noise, 9).unwrap();
    for directions in [
        Directions::Gaussian,
        Directions::Sphere,
        Directions::Orthogonal,
    ] {
        let config = ZoRankSgdConfig::new()
            .with_candidates(5)
            .with_best(Some(2))
            .with_rankings(2)
            .with_directions(directions)
            .with_theory_schedule(3)
            .with_line_search(Some(LineSearch::human_feedback(6)));
        let mut whole = ZoRankSgd::new(config, [0.1, 0.2, -0.3]).unwrap();
        let mut saved = whole.clone();
        for _ in 0..20 {
            let text = serde_json::to_string(saved.state()).unwrap();
            saved = ZoRankSgd::from_state(serde_json::from_str(&text).unwrap()).unwrap();
            let ranking = oracle().rank(&saved.question().unwrap()).unwrap();
            saved.answer(&ranking).unwrap();
            let ranking = oracle().rank(&whole.question().unwrap()).unwrap();
            whole.answer(&ranking).unwrap();
            assert_eq!(saved, whole);
        }
    }
}

#[test]
fn the_theorys_schedule() {
    let config = ZoRankSgdConfig::new()
        .with_theory_schedule(4)
        .with_smoothing(0.3);
    let mut run = ZoRankSgd::new(config, [1.0; 4]).unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push((run.step_size(), run.smoothing()));
        run.step(&mut FunctionOracle::new(|x: &[f64]| x[0]))
            .unwrap();
    }
    assert_eq!((seen[0], seen[3]), ((0.5, 0.3), (0.25, 0.15)));
}

#[test]
fn the_budget_is_kept_and_the_observer_ends_the_run() {
    let run = |budget, stop: u64| {
        let config = ZoRankSgdConfig::new().with_line_search(Some(LineSearch::new()));
        let mut run = ZoRankSgd::new(config, [1.0; 3]).unwrap();
        let mut oracle = FunctionOracle::new(|x: &[f64]| dot(x, x));
        run.minimise(&mut oracle, budget, &mut |_, iteration| {
            if iteration.number == stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
        run.state().queries
    };
    assert_eq!(
        [run(13, 9), run(14, 9), run(41, 9), run(1000, 5)],
        [0, 14, 28, 70]
    );
}

#[test]
fn wrong_input_is_told() {
    let told = |config: ZoRankSgdConfig| ZoRankSgd::new(config, [1.0]).unwrap_err().to_string();
    let config = ZoRankSgdConfig::new;
    for (config, message) in [
        (
            config().with_candidates(1),
            "the number of points in a ranking is 1, but it must be at least 2",
        ),
        (
            config().with_best(Some(11)),
            "the best 11 of 10 points were requested, but the number must be 1 to 10",
        ),
        (
            config().with_rankings(0),
            "the number of rankings is 0, but it must be at least 1",
        ),
        (
            config().with_smoothing(0.0),
            "the smoothing is 0, but it must be positive and finite",
        ),
        (
            config().with_step_size(f64::NAN),
            "the step size is NaN, but it must be positive and finite",
        ),
        (
            config().with_line_search(Some(LineSearch::new().with_candidates(1))),
            "the number of points in the line search is 1, but it must be at least 2",
        ),
        (
            config().with_line_search(Some(LineSearch::human_feedback(2))),
            "the number of points in the line search is 2, but it must be at least 3",
        ),
        (
            config().with_line_search(Some(LineSearch::new().with_shrink(1.0))),
            "the shrinking factor of the line search is 1, but it must be greater than 0 and less \
             than 1",
        ),
    ] {
        assert_eq!(told(config), message);
    }
    let empty: [f64; 0] = [];
    assert_eq!(
        ZoRankSgd::new(config(), empty),
        Err(ZerothOrderError::Empty)
    );
    let error = ZoRankSgd::new(config(), [0.0, f64::NAN]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "coordinate 1 of the point is NaN, but it must be finite"
    );
    let mut run = ZoRankSgd::new(config(), [1.0]).unwrap();
    let before = run.clone();
    let error = run.answer(&Ranking::new(10, vec![1]).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the answer names 1 of 10 points, but the question is for 10 of 10"
    );
    assert_eq!(run, before);
    let far = ZoRankSgd::new(config().with_smoothing(1e308), [1e308]).unwrap();
    assert_eq!(far.question(), Err(ZerothOrderError::Diverged));
    let mut state = before.state().clone();
    state.phase = Phase::LineSearch;
    assert!(ZoRankSgd::from_state(state).is_err());
    let mut state = before.state().clone();
    state.direction.push(0.0);
    assert_eq!(
        ZoRankSgd::from_state(state).unwrap_err().to_string(),
        "the saved state does not fit: its vectors have different lengths"
    );
}
