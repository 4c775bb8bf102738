//! Reads the reference values of `reference/*.json`.

#![allow(dead_code)] // each file of tests uses a part

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value;

/// The file `tests/reference/{name}`.
pub fn reference(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    serde_json::from_str(&fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

/// A list of numbers.
pub fn floats(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|v| v.as_f64().unwrap()).collect()
}

/// A list of numbers as a tensor of the device's precision.
pub fn tensor(value: &Value, shape: [usize; 4]) -> Tensor<4> {
    Tensor::from_data(TensorData::new(floats(value), shape), &Device::flex())
}

/// A tensor's numbers.
pub fn values(x: &Tensor<4>) -> Vec<f32> {
    x.clone().try_into_vec_as().unwrap()
}
