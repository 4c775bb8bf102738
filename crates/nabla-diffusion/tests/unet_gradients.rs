//! The gradients of the whole UNet against central differences, parameter by parameter.
//!
//! Each operation has its own test; this one sees what only their composition can get wrong.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::unet::{Normalization, UNet, UNetConfig};

/// Gives every parameter a random value: at first many are zero, which hides gradients.
struct Fill<'a>(&'a mut SeededNoise);

impl ModuleMapper for Fill<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|x| {
            let fan: usize = x.dims().iter().skip(1).product();
            let scale = if D == 1 {
                0.1
            } else {
                0.7 / (fan as f64).sqrt()
            };
            let values = self.0.normal_values(x.shape().num_elements());
            (Tensor::from_data(TensorData::new(values, x.dims()), &x.device()) * scale)
                .detach()
                .require_grad()
        })
    }
}

/// Collects `(id, size, direction, gradient along it)` of every parameter.
struct Along<'a> {
    gradients: &'a Gradients,
    found: Vec<(ParamId, Vec<f32>, f64)>,
}

impl ModuleVisitor for Along<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param
            .val()
            .grad(self.gradients)
            .expect("a gradient for every parameter");
        let gradient = gradient.into_data().try_to_vec::<f32>().unwrap();
        // Along the gradient itself the difference is the largest, and so the best measured.
        let norm = gradient
            .iter()
            .map(|g| f64::from(*g).powi(2))
            .sum::<f64>()
            .sqrt();
        let direction = gradient
            .iter()
            .map(|g| (f64::from(*g) / norm.max(1e-30)) as f32)
            .collect();
        self.found.push((param.id, direction, norm));
    }
}

/// Moves one parameter.
struct Move<'a> {
    id: ParamId,
    direction: &'a [f32],
    by: f64,
}

impl ModuleMapper for Move<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if param.id != self.id {
            return param;
        }
        param.map(|x| {
            let step = TensorData::new(self.direction.to_vec(), x.dims());
            x.clone() + Tensor::from_data(step, &x.device()) * self.by
        })
    }
}

fn check(config: UNetConfig, shape: [usize; 4]) {
    let device = Device::flex().autodiff();
    let mut noise = SeededNoise::new(5, 0);
    let unet: UNet = config.init(&device).unwrap().map(&mut Fill(&mut noise));
    let x = noise.normal(shape, &device);
    let condition = noise.normal(shape, &device);
    let weigh = noise.normal(shape, &device);
    let time = Tensor::<1>::from_floats([37.0, 701.0], &device);
    let loss = |unet: &UNet| {
        let y = unet
            .forward(x.clone(), time.clone(), Some(condition.clone()), None)
            .remove(0);
        (y * weigh.clone()).sum()
    };
    let gradients = loss(&unet).backward();
    let mut along = Along {
        gradients: &gradients,
        found: Vec::new(),
    };
    unet.visit(&mut along);
    assert!(along.found.len() > 20);
    let value = |unet: &UNet| {
        let y = unet
            .forward(x.clone(), time.clone(), Some(condition.clone()), None)
            .remove(0);
        let y = y.into_data().try_to_vec::<f32>().unwrap();
        let w = weigh.to_data().try_to_vec::<f32>().unwrap();
        // In double precision: the difference of two large sums is small.
        y.iter()
            .zip(w)
            .map(|(y, w)| f64::from(*y) * f64::from(w))
            .sum::<f64>()
    };
    for (index, (id, direction, expected)) in along.found.iter().enumerate() {
        let h = 2e-3;
        let moved = |by| {
            value(&unet.clone().map(&mut Move {
                id: *id,
                direction,
                by,
            }))
        };
        let found = (moved(h) - moved(-h)) / (2.0 * h);
        assert!(
            (found - expected).abs() < 0.02 * expected.abs() + 0.02,
            "parameter {index} of {} values: {expected} by autodiff, {found} by differences",
            direction.len()
        );
    }
}

#[test]
fn without_normalisation() {
    let config = UNetConfig::new(3, 3)
        .with_condition_channels(3)
        .with_base_channels(8)
        .with_multipliers(vec![1, 2])
        .with_patch(2)
        .with_attention_levels(vec![])
        .with_middle_attention(false)
        .with_normalization(Normalization::None);
    check(config, [2, 3, 16, 12]);
}

#[test]
fn with_normalisation_and_attention() {
    let config = UNetConfig::new(3, 3)
        .with_condition_channels(3)
        .with_base_channels(8)
        .with_multipliers(vec![1, 2])
        .with_blocks_per_level(1)
        .with_attention_levels(vec![1])
        .with_head_channels(8)
        .with_normalization(Normalization::Group { groups: 4 });
    check(config, [2, 3, 8, 8]);
}
