//! The Deep Ritz method: a two-layer network trained on the energy at random points.
//!
//! Source: E, Yu, *The Deep Ritz Method: A Deep Learning-Based Numerical Algorithm for Solving Variational Problems*, 2018,
//! arXiv 1710.00211.

use std::f64::consts::TAU;

use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_claims::ClaimError;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_physics::barron_pde::SparseFourier;
use rand::RngExt;

/// How it is trained.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeepRitz {
    pub units: usize,
    pub steps: usize,
    pub points: usize,
    pub learning_rate: f64,
}

/// `u(x) = c + Σ_i a_i tanh(⟨v_i, sin 2πx⟩ + ⟨w_i, cos 2πx⟩ + b_i)`, periodic by its inputs.
#[derive(Module, Debug)]
struct Network {
    /// `v_i`, `[units, d]`.
    sine: Param<Tensor<2>>,
    /// `w_i`, `[units, d]`.
    cosine: Param<Tensor<2>>,
    /// `[units]`.
    offsets: Param<Tensor<1>>,
    /// `[units, 1]`.
    outer: Param<Tensor<2>>,
    /// `[1]`.
    constant: Param<Tensor<1>>,
}

/// Points, `count` rows of `dims`.
pub(super) fn random_points(count: usize, dims: usize, noise: &mut SeededNoise) -> Vec<f64> {
    (0..count * dims).map(|_| noise.random()).collect()
}

/// The values of a function at points.
pub(super) fn values(
    function: &SparseFourier,
    points: &[f64],
    dims: usize,
) -> Result<Vec<f64>, ClaimError> {
    let rows = points.chunks_exact(dims);
    rows.map(|x| function.at(x).map_err(ClaimError::experiment))
        .collect()
}

impl Network {
    fn new(dims: usize, units: usize, noise: &mut SeededNoise, device: &Device) -> Self {
        let scale = 1.0 / (2.0 * dims as f64).sqrt();
        let mut matrix =
            |shape: [usize; 2], by: f64| Param::from_tensor(noise.normal::<2>(shape, device) * by);
        Self {
            sine: matrix([units, dims], scale),
            cosine: matrix([units, dims], scale),
            outer: matrix([units, 1], 1.0 / (units as f64).sqrt()),
            offsets: Param::from_tensor(Tensor::zeros([units], device)),
            constant: Param::from_tensor(Tensor::zeros([1], device)),
        }
    }

    /// `u`, `[batch, 1]`, and `∇u`, `[batch, d]`, at `x` `[batch, d]`.
    fn with_slope(&self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let (sin, cos) = ((x.clone() * TAU).sin(), (x * TAU).cos());
        let (v, w) = (self.sine.val(), self.cosine.val());
        let z =
            sin.clone().matmul(v.clone().transpose()) + cos.clone().matmul(w.clone().transpose());
        let h = (z + self.offsets.val().unsqueeze()).tanh(); // [batch, units]
        let outer = self.outer.val();
        let u = h.clone().matmul(outer.clone()) + self.constant.val().unsqueeze();
        // By each unit's argument, [batch, units].
        let by_z = (h.square() * -1.0 + 1.0) * outer.transpose();
        let slope = by_z.clone().matmul(v) * cos * TAU - by_z.matmul(w) * sin * TAU;
        (u, slope)
    }
}

impl DeepRitz {
    /// Trains on `½ ‖∇u‖² + ½ u² + ¼ β u⁴ − f u`, and returns the values at `points`.
    pub(super) fn values_at(
        &self,
        points: &[f64],
        f: &SparseFourier,
        [dims, seed]: [usize; 2],
        beta: f64,
    ) -> Result<Vec<f64>, ClaimError> {
        let device = Device::flex().autodiff();
        let mut noise = SeededNoise::new(seed as u64, 5);
        let mut network = Network::new(dims, self.units, &mut noise, &device);
        let mut adam = AdamConfig::new().init();
        for step in 0..self.steps {
            let x = random_points(self.points, dims, &mut noise);
            let of = |values: Vec<f64>, columns: usize| {
                let rows = values.len() / columns;
                Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device)
            };
            let right = of(values(f, &x, dims)?, 1);
            let (u, slope) = network.with_slope(of(x, dims));
            let square = u.clone().square();
            let density = slope.square().sum_dim(1) * 0.5
                + square.clone() * 0.5
                + square.square() * (0.25 * beta)
                - right * u;
            let gradients = GradientsParams::from_grads(density.mean().backward(), &network);
            let turn = std::f64::consts::PI * step as f64 / self.steps as f64;
            let rate = self.learning_rate * 0.5 * (1.0 + turn.cos());
            network = adam.step(rate, network, gradients);
        }
        let x = TensorData::new(points.to_vec(), [points.len() / dims, dims]);
        let (u, _) = network.with_slope(Tensor::from_data(x, &device));
        let found = u.without_autodiff().try_into_vec_as::<f64>();
        found.map_err(ClaimError::experiment)
    }
}
