use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{DType, Tolerance};
use nabla_grad::flat::with_float_type;

use super::*;
use crate::fixed_point::Direction;
use crate::graph_example::GraphBatch;
use crate::ignn::IgnnConfig;
use crate::sse::SseConfig;
use crate::value_iteration::DecisionProcess;

fn batch(seed: u64, sizes: &[usize], device: &Device) -> GraphBatch {
    let mut noise = SeededNoise::new(seed, 0);
    let examples: Vec<_> = sizes
        .iter()
        .map(|&states| {
            let process = DecisionProcess::random(states, 3, 0.9, &mut noise).unwrap();
            process.example().unwrap()
        })
        .collect();
    GraphBatch::new(&examples, device).unwrap()
}

fn config() -> CgsConfig {
    CgsConfig::new([1, 1], 1)
        .with_gamma(0.9)
        .with_hidden_layers(1)
}

fn init(config: &CgsConfig, device: &Device) -> Cgs {
    config.init(device, &mut SeededNoise::new(2, 0)).unwrap()
}

/// Nodes and edges in another order give the same numbers in that order.
#[test]
fn the_order_of_nodes_and_edges_does_not_matter() {
    let device = Device::flex();
    let model = with_float_type(init(&config(), &device), DType::F64);
    let drawn = batch(1, &[9], &device);
    let [nodes, edges] = [drawn.graph.nodes(), drawn.graph.edges()];
    let place = |node: usize| (4 * node + 3) % nodes;
    let order: Vec<usize> = (0..edges).map(|e| (5 * e + 2) % edges).collect();
    let ends = |of: &[usize]| order.iter().map(|&e| place(of[e])).collect();
    let turned = Graph::new(
        nodes,
        ends(drawn.graph.sources()),
        ends(drawn.graph.targets()),
    );
    let features: Vec<f64> = drawn.edges.clone().into_data().iter().collect();
    let features: Vec<f64> = order.iter().map(|&e| features[e]).collect();
    let f64s = (&device, DType::F64);
    let column = |values: Vec<f64>| {
        let count = values.len();
        Tensor::<2>::from_data(burn::tensor::TensorData::new(values, [count, 1]), f64s)
    };
    // A number for each node, so that they differ.
    let own = |node: usize| (node as f64).sin();
    let mut moved = vec![0.0; nodes];
    (0..nodes).for_each(|node| moved[place(node)] = own(node));
    let y = model.forward(
        &drawn.graph,
        column((0..nodes).map(own).collect()),
        drawn.edges.cast(DType::F64),
    );
    let y: Vec<f64> = y.unwrap().into_data().iter().collect();
    let found = model.forward(&turned.unwrap(), column(moved), column(features));
    let found: Vec<f64> = found.unwrap().into_data().iter().collect();
    for node in 0..nodes {
        assert!((found[place(node)] - y[node]).abs() < 1e-8);
    }
}

/// A graph in a batch has the numbers that it has alone, of nodes and of graphs.
#[test]
fn a_batch_is_its_graphs() {
    let device = Device::flex();
    let both = batch(3, &[8, 13], &device);
    let parts: Vec<_> = both.graph.parts().collect();
    let whole = config()
        .with_of_graphs(true)
        .init(&device, &mut SeededNoise::new(2, 0));
    let (model, whole) = (init(&config(), &device), whole.unwrap());
    let y = model.forward(&both.graph, both.nodes.clone(), both.edges.clone());
    let (y, sums) = (
        y.unwrap(),
        whole.forward(&both.graph, both.nodes.clone(), both.edges.clone()),
    );
    let sums = sums.unwrap();
    assert_eq!(sums.dims(), [2, 1]);
    for (place, (nodes, edges)) in parts.into_iter().enumerate() {
        let ends = |of: &[usize]| {
            of[edges.clone()]
                .iter()
                .map(|&end| end - nodes.start)
                .collect()
        };
        let graph = Graph::new(
            nodes.len(),
            ends(both.graph.sources()),
            ends(both.graph.targets()),
        );
        let graph = graph.unwrap();
        let own = [
            both.nodes.clone().slice_dim(0, nodes.clone()),
            both.edges.clone().slice_dim(0, edges),
        ];
        let alone = model
            .forward(&graph, own[0].clone(), own[1].clone())
            .unwrap();
        let close = Tolerance::absolute(1e-5);
        let expected = y.clone().slice_dim(0, nodes).into_data();
        alone.into_data().assert_approx_eq::<f32>(&expected, close);
        let alone = whole
            .forward(&graph, own[0].clone(), own[1].clone())
            .unwrap();
        let expected = sums.clone().slice_dim(0, place..place + 1).into_data();
        alone
            .into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
    }
}

/// The whole model's gradient against central differences along a direction.
#[test]
fn the_gradient_of_the_model_is_that_of_differences() {
    let device = Device::flex().autodiff();
    let drawn = batch(4, &[10], &device);
    let edges = drawn.edges.clone().inner().cast(DType::F64);
    let nodes = drawn.nodes.clone().inner().cast(DType::F64);
    for direction in [Direction::In, Direction::Out] {
        let mut config = config();
        config.map.direction = direction;
        let model = with_float_type(init(&config, &device), DType::F64)
            .with_solver(FixedPointSolver::Direct);
        let loss = |edges: Tensor<2>| {
            let y = model.forward(&drawn.graph, nodes.clone().autodiff(), edges);
            y.unwrap().square().mean()
        };
        let leaf = edges.clone().autodiff().require_grad();
        let gradient = leaf.grad(&loss(leaf.clone()).backward()).unwrap();
        let way = edges.clone() * 2.0 + 0.3;
        let expected = {
            let at = |step: f64| {
                loss((edges.clone() + way.clone() * step).autodiff()).into_scalar::<f64>()
            };
            (at(1e-6) - at(-1e-6)) / 2e-6
        };
        let found = (gradient * way).sum().into_scalar::<f64>();
        assert!(
            (found - expected).abs() < 1e-6 * expected.abs().max(1e-3),
            "{found} {expected}"
        );
    }
}

fn trained<M: Module + GraphModel>(
    mut model: M,
    after: impl Fn(M) -> M,
    batch: &GraphBatch,
) -> [f64; 2] {
    let mut optimizer = AdamConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..40 {
        let found = model.predict(&batch.graph, batch.nodes.clone(), batch.edges.clone());
        let loss = (found.unwrap() - batch.targets.clone()).square().mean();
        losses.push(loss.clone().into_scalar::<f32>().into());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = after(optimizer.step(3e-3, model, gradients));
    }
    [losses[0], losses[39]]
}

/// Every model learns, and two trainings with one seed are the same bits.
#[test]
fn models_learn() {
    let device = Device::flex().autodiff();
    let data = batch(5, &[10, 12], &device);
    let draws = || SeededNoise::new(2, 0);
    let cgs = || trained(init(&config(), &device), |model| model, &data);
    let first = cgs();
    assert_eq!(first, cgs());
    let plain = StackedMessagePassing::new(&config(), &device, &mut draws()).unwrap();
    let ignn = IgnnConfig::new(config())
        .init(&device, &mut draws())
        .unwrap();
    let sse = SseConfig::new(config())
        .init(&device, &mut draws())
        .unwrap();
    for [before, end] in [
        first,
        trained(plain, |model| model, &data),
        trained(ignn, |model| model.projected().unwrap(), &data),
        trained(sse, |model| model, &data),
    ] {
        assert!(end < 0.6 * before, "{before} {end}");
    }
}

/// The paper's sizes, and what is out of range.
#[test]
fn configurations_are_checked() {
    let draws = || SeededNoise::new(1, 0);
    for config in [
        CgsConfig::pore_networks(),
        CgsConfig::value_iteration(),
        CgsConfig::classification([7, 1], 2),
    ] {
        assert!(config.init(&Device::flex(), &mut draws()).is_ok());
        assert_eq!(config.map.gamma, 0.5);
    }
    let error = config().with_gamma(1.0).init(&Device::flex(), &mut draws());
    assert!(error.unwrap_err().to_string().contains('γ'));
    assert!(
        config()
            .with_heads(0)
            .init(&Device::flex(), &mut draws())
            .is_err()
    );
}
