//! A generator for tests, of fixed weights: 2 → 3 by a matrix and tanh, 3 → 4 by a matrix and a sigmoid.

use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};

use super::error::LeakageError;
use super::gradient_oracle::Matched;
use super::staged_generator::StagedGenerator;

/// The generator.
pub(crate) struct TwoStages;

const FIRST: [[f32; 3]; 2] = [[1.0, -0.5, 0.3], [0.2, 0.8, -1.0]];
const SECOND: [[f32; 4]; 3] = [
    [2.0, 0.5, -1.0, 0.0],
    [-0.4, 1.5, 0.3, 1.0],
    [0.6, -0.7, 2.0, 1.0],
];

fn matrix<const R: usize, const C: usize>(values: [[f32; C]; R]) -> Tensor<2> {
    Tensor::from_floats(values, &Device::flex()).autodiff()
}

fn tracked(x: Tensor<2>) -> Tensor<2> {
    match x.is_autodiff() {
        true => x,
        false => x.autodiff(),
    }
}

impl StagedGenerator for TwoStages {
    fn stages(&self) -> usize {
        2
    }

    fn latent(&self) -> usize {
        2
    }

    fn shape(&self) -> [usize; 3] {
        [1, 2, 2]
    }

    fn stage(&self, k: usize, feature: Tensor<2>) -> Tensor<2> {
        let feature = tracked(feature);
        match k {
            0 => feature.matmul(matrix(FIRST)).tanh(),
            _ => sigmoid(feature.matmul(matrix(SECOND))),
        }
    }

    fn weights(&self) -> Tensor<1> {
        let parts = [
            matrix(FIRST).flatten::<1>(0, 1),
            matrix(SECOND).flatten::<1>(0, 1),
        ];
        Tensor::cat(parts.to_vec(), 0).without_autodiff()
    }

    fn pictures_by(&self, weights: Tensor<2>, latent: Tensor<2>) -> Tensor<2> {
        let weights = tracked(weights);
        let [batch, _] = weights.dims();
        let first = weights.clone().narrow(1, 0, 6).reshape([batch, 2, 3]);
        let second = weights.narrow(1, 6, 12).reshape([batch, 3, 4]);
        let h: Tensor<3> = tracked(latent).unsqueeze_dim(1); // [batch, 1, 2]
        let h = h.matmul(first).tanh();
        sigmoid(h.matmul(second)).reshape([batch, 4])
    }
}

/// An objective: the squared distance from pictures of four pixels.
pub(crate) fn squared_distance(
    targets: &[[f32; 4]],
) -> impl Fn(&Tensor<2>) -> Result<Matched, LeakageError> {
    let values = targets.as_flattened().to_vec();
    let data = burn::tensor::TensorData::new(values, [targets.len(), 4]);
    let target = Tensor::<2>::from_data(data, &Device::flex());
    move |x| {
        let difference = x.clone() - target.clone();
        let cost = difference.clone().square().sum().into_scalar::<f64>();
        Ok(Matched {
            cost,
            slope: difference * 2.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generators_of_the_same_weights_are_one_generator() {
        let z = Tensor::<2>::from_floats([[0.3, -0.2], [1.0, 0.5]], &Device::flex());
        let weights = TwoStages.weights().unsqueeze_dim::<2>(0).repeat_dim(0, 2);
        let apart = TwoStages.pictures_by(weights, z.clone()) - TwoStages.pictures(0, z);
        assert!(apart.abs().max().into_scalar::<f32>() < 1e-6);
    }
}
