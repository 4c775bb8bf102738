//! The tiny models of `reference/tiny`, and what `diffusers` computes with them.

#![allow(dead_code)] // each file of tests uses a part

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_diffusion::stable_diffusion::model_folder::ModelFolder;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Of the model `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference/tiny")
        .join(name)
}

/// The model's folder.
pub fn folder(name: &str) -> ModelFolder {
    ModelFolder::open(&path(name)).unwrap()
}

/// The inputs and outputs of every stage of a model.
pub struct Reference {
    bytes: Vec<u8>,
    /// What is not a tensor.
    pub facts: Value,
}

impl Reference {
    /// Of a model without facts.
    pub fn tensors_of(name: &str) -> Self {
        Self {
            bytes: fs::read(path(name).join("reference.safetensors")).unwrap(),
            facts: Value::Null,
        }
    }

    pub fn of(name: &str) -> Self {
        let facts = fs::read_to_string(path(name).join("reference.json")).unwrap();
        Self {
            bytes: fs::read(path(name).join("reference.safetensors")).unwrap(),
            facts: serde_json::from_str(&facts).unwrap(),
        }
    }

    fn data(&self, name: &str) -> TensorData {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = tensors.tensor(name).unwrap();
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::I64 => DType::I64,
            other => panic!("{name} holds {other:?}"),
        };
        TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype)
    }

    /// A tensor of floats.
    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        Tensor::from_data(self.data(name), &Device::flex())
    }

    /// A tensor's floats, whatever its shape; `None` if there is no such tensor.
    pub fn values(&self, name: &str) -> Option<Vec<f32>> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let known = tensors.names().contains(&name);
        known.then(|| self.data(name).try_to_vec().unwrap())
    }

    /// A tensor of integers, flat.
    pub fn integers(&self, name: &str) -> Vec<i64> {
        self.data(name).try_to_vec().unwrap()
    }
}

/// The largest difference.
pub fn distance<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a.cast(DType::F32) - b).abs().max().into_scalar()
}
