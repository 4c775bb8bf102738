use super::*;
use proptest::prelude::*;

fn question(best: usize, points: &[f64]) -> RankingQuestion {
    RankingQuestion::new(0, best, 1, points.to_vec()).unwrap()
}

proptest! {
    /// The paper's formulas, the graph itself, and the weights, counted one by one.
    #[test]
    fn the_graph_has_the_papers_edges(
        values in prop::collection::vec(-10i32..10, 2..12), k in 1usize..12,
    ) {
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        let (m, k) = (values.len(), k.min(values.len()));
        let ranking = Ranking::of_values(&values, k).unwrap();
        let edges: Vec<_> = ranking.edges().collect();
        prop_assert!(edges.iter().all(|&(i, j)| values[i] <= values[j]));
        let (mf, kf) = (m as i64, k as i64);
        prop_assert_eq!(edges.len() as i64, kf * mf - kf * (kf + 1) / 2);
        prop_assert_eq!(edges.len(), edge_count(m, k));
        let shared = |a: (usize, usize), b: (usize, usize)| {
            a != b && (a.0 == b.0 || a.1 == b.1 || a.0 == b.1 || a.1 == b.0)
        };
        let pairs = edges.iter().flat_map(|&a| edges.iter().map(move |&b| (a, b)));
        let pairs = pairs.filter(|&(a, b)| shared(a, b)).count() as i64;
        let paper = mf * mf * kf + mf * kf * kf - kf.pow(3) + kf * kf - 4 * mf * kf + 2 * kf;
        prop_assert_eq!(pairs, paper);
        prop_assert_eq!(pairs, neighbouring_edge_pairs(m, k) as i64);
        let mut weights = vec![0.0; m];
        for (i, j) in edges {
            weights[i] -= 1.0;
            weights[j] += 1.0;
        }
        prop_assert_eq!(weights, ranking.weights());
    }

    #[test]
    fn the_order_is_that_of_any_increasing_function(
        points in prop::collection::vec(-3.0..3.0f64, 1..9), k in 1usize..9,
    ) {
        let question = question(k.min(points.len()), &points);
        let plain = FunctionOracle::new(|x: &[f64]| x[0]).rank(&question);
        let other = FunctionOracle::new(|x: &[f64]| x[0].powi(3).exp()).rank(&question);
        prop_assert_eq!(plain, other);
    }
}

#[test]
fn wrong_orders_are_told() {
    let told = |candidates, best: &[usize]| {
        Ranking::new(candidates, best.to_vec())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        told(3, &[3]),
        "the order names point 3, but the points are 0 to 2"
    );
    assert_eq!(told(3, &[1, 1]), "the order names point 1 twice");
    assert_eq!(
        told(3, &[]),
        "the best 0 of 3 points were requested, but the number must be 1 to 3"
    );
    assert!(Ranking::new(0, vec![]).is_err());
    assert_eq!(
        Ranking::new(0, vec![0]).unwrap_err().to_string(),
        "the order names point 0, but there are no points"
    );
    assert!(RankingQuestion::new(0, 1, 2, vec![1.0; 3]).is_err());
    assert!(RankingQuestion::new(0, 1, 0, vec![1.0; 3]).is_err());
    assert!(RankingQuestion::new(0, 4, 1, vec![1.0; 3]).is_err());
    assert!(RankingQuestion::new(0, 1, 1, vec![]).is_err());
    assert_eq!((edge_count(0, 1), neighbouring_edge_pairs(0, 1)), (0, 0));
    assert_eq!((edge_count(1, 1), neighbouring_edge_pairs(1, 1)), (0, 0));
}

#[test]
fn equal_values_keep_their_places_and_nan_is_last() {
    let values = [
        f64::NAN,
        1.0,
        f64::INFINITY,
        1.0,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    assert_eq!(
        Ranking::of_values(&values, 6).unwrap().best(),
        [4, 1, 3, 2, 0, 5]
    );
}

/// How often each of three points is called the best, against the models' probabilities.
#[test]
fn noise_follows_its_model() {
    let points = [0.0, 0.5, 1.5];
    let share = |noise| {
        let mut oracle = NoisyFunctionOracle::new(|x: &[f64]| x[0], noise, 7).unwrap();
        let mut count = [0.0; 3];
        for number in 0..40_000 {
            let question = RankingQuestion::new(number, 1, 1, points.to_vec()).unwrap();
            count[oracle.rank(&question).unwrap().best()[0]] += 1.0 / 40_000.0;
        }
        count
    };
    let scale: f64 = 0.7;
    let odds = points.map(|f| (-f / scale).exp());
    let sum: f64 = odds.iter().sum();
    for (found, odds) in share(ValueNoise::PlackettLuce(scale)).into_iter().zip(odds) {
        // Four standard errors are at most 0.01.
        assert!((found - odds / sum).abs() < 0.01, "{found} {}", odds / sum);
    }
    assert_eq!(share(ValueNoise::Gaussian(0.0)), {
        let mut all = [0.0; 3];
        (0..40_000).for_each(|_| all[0] += 1.0 / 40_000.0);
        all
    });
    // Of two points one standard deviation of the difference apart: Φ(1).
    let mut oracle =
        NoisyFunctionOracle::new(|x: &[f64]| x[0], ValueNoise::Gaussian(1.0), 3).unwrap();
    let right = (0..40_000).filter(|&number| {
        let points = vec![0.0, 2f64.sqrt()];
        let question = RankingQuestion::new(number, 1, 1, points).unwrap();
        oracle.rank(&question).unwrap().best() == [0]
    });
    let share = right.count() as f64 / 40_000.0;
    assert!((share - 0.841_345).abs() < 0.008, "{share}");
}

#[test]
fn slips_swap_neighbours() {
    let points: Vec<f64> = (0..6).map(f64::from).collect();
    let exact = || FunctionOracle::new(|x: &[f64]| x[0]);
    let rank = |p, k| {
        let mut oracle = SwappingOracle::new(exact(), p, 1).unwrap();
        oracle.rank(&question(k, &points)).unwrap().best().to_vec()
    };
    assert_eq!(rank(0.0, 6), [0, 1, 2, 3, 4, 5]);
    // With certainty, the best one goes to the end.
    assert_eq!(rank(1.0, 6), [1, 2, 3, 4, 5, 0]);
    assert_eq!(rank(1.0, 2), [1, 2]);
    for p in [-0.1, 1.1, f64::NAN] {
        assert!(SwappingOracle::new(exact(), p, 1).is_err());
    }
    for size in [-1.0, f64::NAN, f64::INFINITY] {
        let noise = ValueNoise::Gaussian(size);
        assert!(NoisyFunctionOracle::new(|x: &[f64]| x[0], noise, 0).is_err());
    }
}

/// A linear layer learns what another one does from the order of its losses alone; a parameter that
/// requires no gradient is no coordinate.
#[test]
fn a_module_learns_from_the_order_of_its_losses() {
    use crate::zeroth_order::LineSearch;
    use crate::zo_rank_sgd::{ZoRankSgd, ZoRankSgdConfig};
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;
    for device in [Device::flex(), Device::flex().autodiff()] {
        let x = SeededNoise::new(0, 0).normal([20, 3], &device);
        let model: Linear = LinearConfig::new(3, 1).init(&device);
        let target = x.clone().sum_dim(1);
        let loss = |model: &Linear| {
            let error = model.forward(x.clone()) - target.clone();
            f64::from(error.square().mean().into_scalar::<f32>())
        };
        let mut oracle = ModuleOracle::new(model, loss).unwrap();
        let zero = vec![0.0; 4];
        let before = loss(&oracle.module(&zero).unwrap());
        let config = ZoRankSgdConfig::new()
            .with_step_size(0.5)
            .with_line_search(Some(LineSearch::new()));
        assert_eq!(oracle.start().unwrap().len(), 4);
        let mut run = ZoRankSgd::new(config, zero).unwrap();
        for _ in 0..60 {
            run.step(&mut oracle).unwrap();
        }
        let after = loss(&oracle.module(run.point()).unwrap());
        assert!(after < 0.02 * before, "{before} {after}");
        // The layer contains the point, in 32 bits.
        let layer = oracle.module(run.point()).unwrap();
        let bias: Vec<f64> = match &layer.bias {
            Some(bias) => bias.val().into_data().iter::<f64>().collect(),
            None => Vec::new(),
        };
        assert_eq!(bias, [f64::from(run.point()[3] as f32)]);
        assert!(oracle.module(&[0.0; 3]).is_err());

        let frozen = layer.weight.set_require_grad(false);
        let model = Linear {
            weight: frozen,
            bias: layer.bias.map(|bias| bias.set_require_grad(true)),
        };
        if device.is_autodiff() {
            let layout = ParameterLayout::trainable(&model).unwrap();
            let oracle = ModuleOracle::with_layout(model, layout, loss).unwrap();
            assert_eq!(oracle.start().unwrap(), bias);
        }
    }
}
