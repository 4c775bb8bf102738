use burn::tensor::{DType, Tolerance};
use nabla_grad::flat::with_float_type;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Reference {
    src: Vec<usize>,
    dst: Vec<usize>,
    raw: Vec<Vec<f64>>,
    weight: Vec<Vec<f64>>,
    offsets: Vec<Vec<f64>>,
    z: Vec<Vec<f64>>,
    loss_weights: Vec<Vec<f64>>,
    by_weight: Vec<Vec<f64>>,
    by_offsets: Vec<Vec<f64>>,
}

fn tensor(rows: &[Vec<f64>]) -> Tensor<2> {
    let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
    Tensor::from_data(data, (&Device::flex().autodiff(), DType::F64))
}

/// The projection by SciPy's root of its threshold, fixed point and gradients by PyTorch's unrolled steps.
#[test]
fn projection_fixed_point_and_gradients_are_those_of_the_reference() {
    let text = include_str!("../../tests/reference/cgs.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    let case: Reference = serde_json::from_value(all["ignn"].clone()).unwrap();
    let mut config = IgnnConfig::new(CgsConfig::new([1, 1], 1).with_heads(3));
    config.tolerance = 1e-13;
    config.most = 1000;
    let device = Device::flex().autodiff();
    let model = config.init(&device, &mut SeededNoise::new(1, 0)).unwrap();
    let mut model = with_float_type(model, DType::F64);
    model.weight = Param::from_tensor(tensor(&case.raw));
    let model = model.projected().unwrap();
    let near = |found: Tensor<2>, expected: &[Vec<f64>]| {
        let expected = tensor(expected).into_data();
        let close = Tolerance::absolute(1e-10);
        found.into_data().assert_approx_eq::<f64>(&expected, close);
    };
    near(model.weight.val(), &case.weight);
    let graph = Graph::new(case.offsets.len(), case.src, case.dst).unwrap();
    let offsets = tensor(&case.offsets).require_grad();
    let found = model.fixed_point(&graph, offsets.clone()).unwrap();
    near(found.z.clone(), &case.z);
    let gradients = (found.z * tensor(&case.loss_weights)).sum().backward();
    near(offsets.grad(&gradients).unwrap(), &case.by_offsets);
    near(
        model.weight.val().grad(&gradients).unwrap(),
        &case.by_weight,
    );
}
