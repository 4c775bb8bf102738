use burn::module::{ModuleVisitor, ParamId};
use burn::tensor::{DType, Gradients as Found};
use serde_json::Value;

use super::*;
use crate::activation_set::Storage;
use crate::gradient_sae::{GradientSae, GradientSaeConfig};

/// What PyTorch's autodiff has found.
pub(crate) struct Reference(Value);

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        value => vec![value.as_f64().unwrap()],
    }
}

impl Reference {
    pub(crate) fn read() -> Self {
        let text = include_str!("../../tests/reference/sparse_autoencoders.json");
        Self(serde_json::from_str(text).unwrap())
    }

    fn device() -> Device {
        Device::flex().autodiff()
    }

    pub(crate) fn vector(&self, name: &str) -> Tensor<1> {
        let values = numbers(&self.0[name]);
        let data = TensorData::new(values.clone(), [values.len()]);
        Tensor::from_data(data, (&Self::device(), DType::F64))
    }

    pub(crate) fn matrix(&self, name: &str) -> Tensor<2> {
        let rows = self.0[name].as_array().unwrap().len();
        let values = self.vector(name);
        let columns = values.dims()[0] / rows;
        values.reshape([rows, columns])
    }

    pub(crate) fn dictionary(&self) -> Dictionary {
        let decoder = self.matrix("decoder");
        let bias = self.vector("bias");
        let encoder_bias = self.vector("encoder_bias");
        Dictionary::of(self.matrix("encoder"), encoder_bias, decoder, bias).unwrap()
    }

    pub(crate) fn batch(&self, dead: &[usize]) -> SaeBatch {
        SaeBatch {
            x: self.matrix("x"),
            gradient: self.matrix("gradient"),
            dead: dead.to_vec(),
            progress: 0.5,
        }
    }

    /// Checks loss and gradients, of the parameters in this order.
    pub(crate) fn check<S: SparseAutoencoder>(
        &self,
        name: &str,
        sae: &S,
        objective: Objective,
        parameters: &[ParamId],
    ) {
        let expected = &self.0[name];
        let loss = read(objective.loss.clone()).unwrap()[0];
        let near = |a: f64, b: f64| (a - b).abs() < 1e-10 * (1.0 + b.abs());
        assert!(
            near(loss, expected["loss"].as_f64().unwrap()),
            "{name}: {loss}"
        );
        let grads = objective.loss.backward();
        for (place, &id) in parameters.iter().enumerate() {
            let mut visitor = Visit {
                id,
                grads: &grads,
                found: Vec::new(),
            };
            sae.visit(&mut visitor);
            let wanted = numbers(&expected["gradients"][place]);
            assert_eq!(
                visitor.found.len(),
                wanted.len(),
                "{name}, parameter {place}"
            );
            for (found, wanted) in visitor.found.iter().zip(&wanted) {
                assert!(
                    near(*found, *wanted),
                    "{name}, parameter {place}: {found} {wanted}"
                );
            }
        }
        if let Some(active) = expected.get("active") {
            let rows = active.as_array().unwrap();
            for (example, row) in rows.iter().enumerate() {
                let row = numbers(row);
                let wanted: Vec<usize> = (0..row.len()).filter(|&i| row[i] > 0.0).collect();
                let found: Vec<usize> = objective.seen.codes.of(example).map(|c| c.0).collect();
                assert_eq!(found, wanted, "{name}, example {example}");
            }
        }
    }
}

struct Visit<'a> {
    id: ParamId,
    grads: &'a Found,
    found: Vec<f64>,
}

impl ModuleVisitor for Visit<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.id == self.id {
            let gradient = param.val().grad(self.grads).unwrap();
            self.found = read(gradient).unwrap();
        }
    }
}

pub(crate) fn ids(dictionary: &Dictionary) -> Vec<ParamId> {
    vec![
        dictionary.encoder.id,
        dictionary.encoder_bias.id,
        dictionary.decoder.id,
        dictionary.decoder_bias.id,
    ]
}

/// Sums of two of eight directions in eight dimensions, with their gradients.
pub(crate) fn data(rows: usize) -> ActivationSet {
    let mut set = ActivationSet::new(8, Storage::default()).unwrap();
    let mut noise = SeededNoise::new(5, 0);
    let directions = noise.normal_values(64);
    for row in 0..rows {
        let [a, b] = [row % 8, (row / 8 + row) % 8];
        let mut x = noise.normal_values(8);
        x.iter_mut().for_each(|v| *v *= 0.05);
        for (place, scale) in [(a, 1.0), (b, 2.0)] {
            for (x, v) in x.iter_mut().zip(&directions[8 * place..]) {
                *x += scale * v;
            }
        }
        set.push(&x, Some(&noise.normal_values(8))).unwrap();
    }
    set
}

pub(crate) fn top_k() -> GradientSae {
    let device = Device::flex().autodiff();
    let config = GradientSaeConfig::new(2);
    let begin = DictionaryConfig::new(24);
    config.init(&begin, &data(256), &device).unwrap()
}

#[test]
fn the_geometric_median_is_not_moved_by_one_far_point() {
    let mut values = SeededNoise::new(3, 0).normal_values(198);
    values.extend([1e6, -1e6]);
    let mean = mean_row(&values, 2);
    let median = geometric_median(&values, mean.clone());
    assert!(mean[0] > 1e3 && norm(&median) < 0.3, "{median:?}");
    // The minimum of the sum of distances: the unit vectors to all points add up to about 0.
    let mut sum = [0.0; 2];
    for row in values.chunks_exact(2) {
        let apart: Vec<f64> = row
            .iter()
            .zip(&median)
            .map(|(&x, m)| f64::from(x) - m)
            .collect();
        let length = norm(&apart);
        sum.iter_mut()
            .zip(&apart)
            .for_each(|(sum, v)| *sum += v / length);
    }
    assert!(norm(&sum) < 1e-3, "{sum:?}");
}

#[test]
fn codes_are_padded_and_counted() {
    let mut codes = Codes::new(5);
    codes.push([(4, 1.0), (2, 0.0), (3, 2.0)]);
    codes.push([]);
    assert_eq!(codes.of(0).collect::<Vec<_>>(), [(4, 1.0), (3, 2.0)]);
    assert_eq!((codes.examples(), codes.mean_active()), (2, 1.0));
    assert_eq!(codes.counts(), [0, 0, 0, 1, 1]);
    let (ids, values) = codes.padded(&Device::flex());
    let ids: Vec<i64> = ids.to_data().iter().collect();
    assert_eq!(ids, [4, 3, 0, 0]);
    assert_eq!(read(values).unwrap(), [1.0, 2.0, 0.0, 0.0]);
    assert_eq!(codes.of(7).count(), 0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::flex().autodiff();
    let told = |error: SaeError| error.to_string();
    let set = data(16);
    assert!(DictionaryConfig::new(0).init(&set, &device).is_err());
    let mut same = ActivationSet::new(2, Storage::default()).unwrap();
    same.push(&[1.0, 2.0, 1.0, 2.0], None).unwrap();
    assert_eq!(
        told(DictionaryConfig::new(3).init(&same, &device).unwrap_err()),
        "all activations are the same, so that there is nothing to learn"
    );
    let x = Tensor::<2>::zeros([3, 5], &device);
    assert_eq!(
        told(top_k().encode(x, None).unwrap_err()),
        "the dictionary is of activations of 8 values, but they have 5"
    );
    let zeros = Tensor::<2>::zeros([3, 2], &device);
    let [bias, offset] = [3, 2].map(|n| Tensor::<1>::zeros([n], &device));
    assert_eq!(
        told(Dictionary::of(zeros.clone(), bias, zeros, offset).unwrap_err()),
        "row 0 of the dictionary is zero or not finite, so that it has no direction"
    );
}
