use burn::tensor::{DType, Device, Tensor, TensorData, Tolerance};
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use serde::Deserialize;

use super::*;
use crate::contracting_map::{Bound, ContractingMapConfig, Normalizer};

#[derive(Clone, Deserialize)]
struct Case {
    src: Vec<usize>,
    dst: Vec<usize>,
    nodes: usize,
    gamma: f64,
    direction: String,
    normalizer: String,
    bound: String,
    phi: String,
    logits: Vec<Vec<f64>>,
    offsets: Vec<Vec<f64>>,
    loss_weights: Vec<Vec<f64>>,
    z: Vec<Vec<f64>>,
    by_logits: Vec<Vec<f64>>,
    by_offsets: Vec<Vec<f64>>,
}

fn cases() -> Vec<Case> {
    let text = include_str!("../../tests/reference/cgs.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    serde_json::from_value(all["maps"].clone()).unwrap()
}

fn tensor(rows: &[Vec<f64>]) -> Tensor<2> {
    let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
    Tensor::from_data(data, (&Device::flex().autodiff(), DType::F64))
}

fn near(found: &Tensor<2>, expected: &[Vec<f64>], within: f64) {
    let found = numbers(found).unwrap();
    for (place, (found, expected)) in found.iter().zip(expected.concat()).enumerate() {
        assert!(
            (found - expected).abs() < within,
            "{place}: {found} {expected}"
        );
    }
}

impl Case {
    fn config(&self) -> ContractingMapConfig {
        let direction = match self.direction.as_str() {
            "in" => Direction::In,
            _ => Direction::Out,
        };
        let normalizer = match self.normalizer.as_str() {
            "degree" => Normalizer::Degree,
            _ => Normalizer::Softmax,
        };
        let bound = match self.bound.as_str() {
            "clip" => Bound::Clip,
            _ => Bound::Sigmoid,
        };
        let nonlinearity = match self.phi.as_str() {
            "identity" => Nonlinearity::Identity,
            "tanh" => Nonlinearity::Tanh,
            _ => Nonlinearity::Relu,
        };
        ContractingMapConfig::new(self.gamma)
            .with_direction(direction)
            .with_normalizer(normalizer)
            .with_bound(bound)
            .with_nonlinearity(nonlinearity)
    }

    fn graph(&self) -> Graph {
        Graph::new(self.nodes, self.src.clone(), self.dst.clone()).unwrap()
    }

    /// Logits and offsets as leaves, and the map.
    fn map(&self) -> (Tensor<2>, Tensor<2>, EdgeMap) {
        let logits = tensor(&self.logits).require_grad();
        let offsets = tensor(&self.offsets).require_grad();
        let map = self
            .config()
            .map(&self.graph(), logits.clone(), offsets.clone());
        (logits, offsets, map.unwrap())
    }

    fn loss(&self, z: Tensor<2>) -> Tensor<1> {
        (z.square() * tensor(&self.loss_weights)).sum()
    }

    fn gradients(&self, solver: &FixedPointSolver) -> [Tensor<2>; 3] {
        let (logits, offsets, map) = self.map();
        let z = map.solve(solver).unwrap().z;
        let gradients = self.loss(z.clone()).backward();
        let by_logits = logits.grad(&gradients).unwrap();
        [z.inner(), by_logits, offsets.grad(&gradients).unwrap()]
    }
}

const EXACT: FixedPointSolver = FixedPointSolver::Picard {
    tolerance: 1e-13,
    most: None,
};

/// Values and gradients of PyTorch through unrolled steps, for both directions, both normalizers, both bounds and every `φ`,
/// with edges that come twice, loops, and nodes without edges.
#[test]
fn fixed_points_and_gradients_are_those_of_torch() {
    for case in cases() {
        let mut solvers = vec![EXACT];
        if case.phi == "identity" {
            solvers.push(FixedPointSolver::Direct);
        }
        for solver in solvers {
            let [z, by_logits, by_offsets] = case.gradients(&solver);
            near(&z, &case.z, 1e-10);
            near(&by_offsets, &case.by_offsets, 1e-10);
            let mut expected = case.by_logits.clone();
            if case.logits.iter().flatten().any(|&logit| logit == 1.0) {
                // On the clip's bound, where both slopes are right, the whole gradient passes; PyTorch 2.15 has none.
                expected[4] = vec![numbers(&by_logits).unwrap()[4]];
            }
            near(&by_logits, &expected, 1e-10);
        }
    }
}

/// What the notes on the method have, by NumPy and differences, also on the bound of the clip.
#[test]
fn a_small_map_has_its_known_numbers() {
    let known = [
        (
            [0.04719764, -1.90560472, 0.84955752, 3.42477876],
            [
                0.00062426, 0.0, 0.0, 0.01123665, 0.00023656, 0.00317879, 4.381e-05,
            ],
        ),
        (
            [0.90622763, -1.77344309, 1.15962777, 3.34788833],
            [
                -0.85131419,
                0.0,
                0.0,
                -0.20707642,
                0.39091682,
                0.06770208,
                0.55666155,
            ],
        ),
    ];
    for (case, (z, by_logits)) in cases().into_iter().zip(known) {
        let found = case.gradients(&EXACT);
        near(&found[0], &z.map(|z| vec![z]), 1e-8);
        near(&found[1], &by_logits.map(|z| vec![z]), 1e-8);
    }
}

/// A graph with logits and offsets of any size.
fn drawn(seed: u64, gamma: f64) -> Case {
    let mut noise = SeededNoise::new(seed, 0);
    let nodes = noise.random_range(5..40);
    let edges = noise.random_range(1..4 * nodes);
    let mut rows = |count: usize, size: f64| -> Vec<Vec<f64>> {
        (0..count)
            .map(|_| {
                (0..3)
                    .map(|_| size * noise.random_range(-1.0..1.0))
                    .collect()
            })
            .collect()
    };
    let (logits, offsets, loss_weights) = (rows(edges, 5.0), rows(nodes, 100.0), rows(nodes, 1.0));
    let mut ends = || (0..edges).map(|_| noise.random_range(0..nodes)).collect();
    let case = cases()[0].clone();
    Case {
        src: ends(),
        dst: ends(),
        nodes,
        gamma,
        logits,
        offsets,
        loss_weights,
        ..case
    }
}

/// `‖γ A‖_∞ ≤ γ`, steps shrink by `γ`, and there are no more of them than the bound says.
#[test]
fn maps_contract_whatever_the_numbers_are() {
    for seed in 0..30 {
        for gamma in [0.5, 0.9, 0.99] {
            let mut case = drawn(seed, gamma);
            case.direction = ["in", "out"][seed as usize % 2].into();
            case.normalizer = ["degree", "degree", "softmax"][seed as usize % 3].into();
            let (_, offsets, map) = case.map();
            assert!(map.contraction_factor().unwrap() <= gamma * (1.0 + 1e-12));
            let mut z = offsets.zeros_like().inner();
            let mut last = f64::INFINITY;
            let map = EdgeMap {
                weights: map.weights.clone().inner(),
                offsets: map.offsets.clone().inner(),
                ..map
            };
            for _ in 0..20 {
                let next = map.apply(z.clone()).unwrap();
                let moved = (next.clone() - z).abs().max().into_scalar::<f64>();
                assert!(moved <= gamma * last + 1e-10, "{moved} {last}");
                (z, last) = (next, moved);
            }
            let found = map.solve(&FixedPointSolver::default()).unwrap();
            assert!(found.iterations <= most_steps(gamma, 1e-6).unwrap());
            let direct = map.solve(&FixedPointSolver::Direct).unwrap();
            let apart = (found.z - direct.z).abs().max().into_scalar::<f64>();
            assert!(apart <= 1e-6 * 100.0 * gamma / (1.0 - gamma), "{apart}");
        }
    }
}

/// Gradients by the implicit function theorem are those through 30 steps.
#[test]
fn implicit_gradients_are_those_of_unrolled_steps() {
    for (seed, phi) in [(1, "identity"), (2, "tanh"), (3, "relu")] {
        let mut case = drawn(seed, 0.5);
        case.phi = phi.into();
        let [_, by_logits, by_offsets] = case.gradients(&EXACT);
        let (logits, offsets, map) = case.map();
        let mut z = offsets.zeros_like();
        for _ in 0..30 {
            z = map.apply(z).unwrap();
        }
        let gradients = case.loss(z).backward();
        for (found, leaf) in [(by_logits, logits), (by_offsets, offsets)] {
            let expected = leaf.grad(&gradients).unwrap();
            let size = expected.clone().abs().max().into_scalar::<f64>();
            let apart = (found - expected).abs().max().into_scalar::<f64>();
            assert!(apart <= 1e-6 * size, "{phi}: {apart} of {size}");
        }
    }
}

/// The paper's two passes: `Σ u · T(z*)` with constant `u` and `z*` has the gradients that the fixed point has.
#[test]
fn a_surrogate_has_the_same_gradients() {
    for case in cases() {
        let [z, by_logits, by_offsets] = case.gradients(&EXACT);
        let (logits, offsets, map) = case.map();
        let leaf = z.clone().autodiff().require_grad();
        let g = leaf.grad(&case.loss(leaf.clone()).backward()).unwrap();
        let u = map.adjoint(&EXACT, &z, &g).unwrap();
        let surrogate = (map.apply(z.autodiff()).unwrap() * u.autodiff()).sum();
        let gradients = surrogate.backward();
        let close = Tolerance::absolute(1e-10);
        for (found, leaf) in [(by_logits, logits), (by_offsets, offsets)] {
            let expected = leaf.grad(&gradients).unwrap().into_data();
            found.into_data().assert_approx_eq::<f64>(&expected, close);
        }
    }
}

/// Bit for bit.
#[test]
fn graphs_of_a_batch_don_t_know_of_each_other() {
    let [one, two] = [drawn(4, 0.9), drawn(5, 0.9)];
    let graph = Graph::batch(&[one.graph(), two.graph()]);
    let rows = |a: &[Vec<f64>], b: &[Vec<f64>]| tensor(&[a, b].concat());
    let map = one.config().map(
        &graph,
        rows(&one.logits, &two.logits),
        rows(&one.offsets, &two.offsets),
    );
    let map = map.unwrap();
    for solver in [FixedPointSolver::default(), FixedPointSolver::Direct] {
        let both = numbers(&map.solve(&solver).unwrap().z).unwrap();
        let each = [&one, &two].map(|case| numbers(&case.map().2.solve(&solver).unwrap().z));
        let each = each.map(Result::unwrap).concat();
        assert_eq!(both, each);
    }
}

/// The official stop depends on the sizes of numbers, ours doesn't.
#[test]
fn the_official_steps_end_at_fifty() {
    let mut case = drawn(6, 0.9);
    // A loop through all nodes.
    case.src = (0..case.nodes).collect();
    case.dst = case
        .src
        .iter()
        .map(|node| (node + 1) % case.nodes)
        .collect();
    case.logits = vec![vec![1.0; 3]; case.nodes];
    let (_, _, map) = case.map();
    let found = map.solve(&FixedPointSolver::OFFICIAL).unwrap();
    assert_eq!((found.iterations, found.converged), (50, false));
    let ours = map.solve(&FixedPointSolver::default()).unwrap();
    case.offsets.iter_mut().flatten().for_each(|b| *b *= 1e-6);
    let small = case.map().2;
    assert_eq!(
        small
            .solve(&FixedPointSolver::default())
            .unwrap()
            .iterations,
        ours.iterations
    );
}

#[test]
fn what_has_no_fixed_point_is_refused_in_words() {
    let graph = || Graph::new(2, vec![0, 1], vec![1, 0]).unwrap();
    let map = |weight: f64, gamma: f64| {
        let weights = tensor(&[vec![weight], vec![weight]]);
        let offsets = tensor(&[vec![1.0], vec![1.0]]);
        let map = EdgeMap::new(graph(), Direction::In, weights, offsets).unwrap();
        map.with_gamma(gamma)
    };
    let solver = FixedPointSolver::default();
    let error = map(2.0, 1.0).solve(&solver).unwrap_err();
    assert!(error.to_string().contains("no contraction"), "{error}");
    assert!(matches!(error, FixedPointError::NotConverged { .. }));
    let error = map(f64::NAN, 1.0).solve(&solver).unwrap_err();
    assert!(error.to_string().contains("not finite"), "{error}");
    let error = map(1.0, 1.0).solve(&FixedPointSolver::Direct).unwrap_err();
    assert!(error.to_string().contains("no finite solution"), "{error}");
    let bent = map(0.5, 1.0).with_nonlinearity(Nonlinearity::Tanh);
    let error = bent.solve(&FixedPointSolver::Direct).unwrap_err();
    assert!(error.to_string().contains("Tanh"), "{error}");
    let few = FixedPointSolver::Picard {
        tolerance: 1e-6,
        most: Some(3),
    };
    assert!(map(0.9, 1.0).solve(&few).is_err());
    for gamma in [0.0, 1.0, f64::NAN] {
        assert!(ContractingMapConfig::new(gamma).validate().is_err());
    }
    let (logits, offsets) = (tensor(&[vec![1.0]]), tensor(&[vec![1.0], vec![1.0]]));
    let error = ContractingMapConfig::new(0.5).map(&graph(), logits, offsets);
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "logits have 1 rows, expected 2");
}

/// The bound is that of the geometric series.
#[test]
fn the_bound_of_steps_is_that_of_powers() {
    assert_eq!(most_steps(0.5, 1e-6).unwrap(), 21);
    assert_eq!(most_steps(0.9, 1e-6).unwrap(), 133);
}
