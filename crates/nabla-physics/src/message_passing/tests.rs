use burn::module::{ModuleMapper, ParamId};
use burn::tensor::{DType, Tolerance};
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Reference {
    src: Vec<usize>,
    dst: Vec<usize>,
    nodes: Vec<Vec<f64>>,
    edges: Vec<Vec<f64>>,
    h_e: Vec<Vec<f64>>,
    h_v: std::collections::BTreeMap<String, Vec<Vec<f64>>>,
}

/// Sets every parameter to `sin(place) / 2`.
struct Sines;

impl ModuleMapper for Sines {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let dims = param.dims();
        let count: usize = dims.iter().product();
        let values: Vec<f64> = (0..count).map(|i| (i as f64).sin() / 2.0).collect();
        let data = TensorData::new(values, dims);
        let device = param.val().device();
        Param::initialized(
            ParamId::new(),
            Tensor::from_data(data, (&device, DType::F64)),
        )
    }
}

fn tensor(rows: &[Vec<f64>]) -> Tensor<2> {
    let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn near(found: Tensor<2>, expected: &[Vec<f64>]) {
    let close = Tolerance::absolute(1e-12);
    let expected = tensor(expected).into_data();
    found.into_data().assert_approx_eq::<f64>(&expected, close);
}

/// With attention, and for each aggregator.
#[test]
fn a_layer_is_that_of_torch() {
    let text = include_str!("../../tests/reference/cgs.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    let case: Reference = serde_json::from_value(all["layer"].clone()).unwrap();
    let graph = Graph::new(case.nodes.len(), case.src, case.dst).unwrap();
    for (name, expected) in &case.h_v {
        let config = MessagePassingConfig {
            hidden: vec![4],
            aggregator: match name.as_str() {
                "sum" => Aggregator::Sum,
                "mean" => Aggregator::Mean,
                _ => Aggregator::Max,
            },
            ..MessagePassingConfig::new([2, 1], [2, 3])
        };
        let layer = config.init(&Device::flex(), &mut SeededNoise::new(1, 0));
        let layer = layer.unwrap().map(&mut Sines);
        let (nodes, edges) = layer
            .forward(&graph, tensor(&case.nodes), tensor(&case.edges))
            .unwrap();
        near(nodes, expected);
        near(edges, &case.h_e);
    }
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let device = Device::flex();
    let config = MessagePassingConfig::new([2, 1], [2, 3]);
    let layer = config.init(&device, &mut SeededNoise::new(1, 0)).unwrap();
    let graph = Graph::new(2, vec![0], vec![1]).unwrap();
    let found = |nodes: [usize; 2], edges: [usize; 2]| {
        let (nodes, edges) = (Tensor::ones(nodes, &device), Tensor::ones(edges, &device));
        layer.forward(&graph, nodes, edges).unwrap_err().to_string()
    };
    assert_eq!(
        found([3, 2], [1, 1]),
        "the features of nodes have 3 rows, expected 2"
    );
    assert_eq!(
        found([2, 2], [1, 2]),
        "the inputs of a network have 6 columns, expected 5"
    );
    assert!(
        MessagePassingConfig::new([0, 1], [1, 1])
            .init(&device, &mut SeededNoise::new(1, 0))
            .is_err()
    );
}
