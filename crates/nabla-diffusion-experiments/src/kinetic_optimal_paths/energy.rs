//! Energies of exact flows to sets of points.

use std::f64::consts::FRAC_PI_2;

use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_claims::ClaimError;
use nabla_diffusion::cosine_path::CosinePath;
use nabla_diffusion::kinetic_optimal::{
    DataSeparation, KineticOptimal, SeparationConfig, kinetic_energy, normalized,
};
use nabla_diffusion::level::{Level, NoisePath, StraightLine};
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// The energies of the flow to one set of points.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Energies {
    /// Of the kinetic-optimal path, Cond-OT and VP: by the formula in the data separation, and directly.
    pub(super) paths: [[f64; 2]; 3],
    /// `2 − 2 cos Φ`.
    pub(super) chord: f64,
    /// The least of the random schedules.
    pub(super) random: f64,
    /// The data separation function at evenly spaced angles.
    pub(super) kappa: Vec<f64>,
}

/// The number of random schedules.
pub(super) const SCHEDULES: usize = 100;

/// - `points`: with mean 0 and mean square 1
/// - `times`, `draws`: of the direct mean
pub(super) fn energies(
    points: &[f64],
    dimension: usize,
    config: &SeparationConfig,
    [times, draws]: [usize; 2],
) -> Result<Energies, ClaimError> {
    let separation = DataSeparation::of_points(points, dimension, config);
    let separation = separation.map_err(ClaimError::experiment)?;
    let optimal = KineticOptimal::new(separation.clone()).map_err(ClaimError::experiment)?;
    let flow = ExactFlow::new(points, dimension);
    let both = |path: &dyn NoisePath| {
        let formula = kinetic_energy(path, &separation);
        [formula, flow.energy(path, [times, draws], config.seed)]
    };
    let mut noise = SeededNoise::new(config.seed, 21);
    let random = (0..SCHEDULES).map(|_| kinetic_energy(&Bent::drawn(&mut noise), &separation));
    Ok(Energies {
        paths: [
            both(&optimal),
            both(&StraightLine::new()),
            both(&CosinePath::new()),
        ],
        chord: optimal.energy(),
        random: random.fold(f64::INFINITY, f64::min),
        kappa: separation.values().to_vec(),
    })
}

/// How far Cond-OT is from the best path, as a share of its energy, and by how much `1 − λ` exceeds its bound at most.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Gap {
    pub(super) gap: f64,
    pub(super) excess: f64,
}

/// Of a normal sample of `count` points, normalized. The bound is `1 − λ(r) ≤ 0.663 (n − 1)/(r² d)`.
pub(super) fn gap(
    count: usize,
    dimension: usize,
    draws: usize,
    seed: u64,
) -> Result<Gap, ClaimError> {
    let values = SeededNoise::new(seed, 22).normal_values(count * dimension);
    let values: Vec<f64> = values.into_iter().map(f64::from).collect();
    let points = normalized(&values, dimension)
        .map_err(ClaimError::experiment)?
        .points;
    let config = SeparationConfig::new().with_draws(draws).with_seed(seed);
    let separation = DataSeparation::of_points(&points, dimension, &config);
    let separation = separation.map_err(ClaimError::experiment)?;
    let optimal = KineticOptimal::new(separation.clone()).map_err(ClaimError::experiment)?;
    let straight = kinetic_energy(&StraightLine::new(), &separation);
    let excess = [0.5, 1.0, 2.0, 4.0].map(|r: f64| {
        let bound = 0.663 * (count - 1) as f64 / (r * r * dimension as f64);
        1.0 - separation.lambda(r) - bound
    });
    Ok(Gap {
        gap: straight / optimal.energy() - 1.0,
        excess: excess.into_iter().fold(f64::NEG_INFINITY, f64::max),
    })
}

/// The flow whose posterior mean `E[x_0 | x]` is the weighted mean of the points.
struct ExactFlow {
    /// `[count, dimension]`, in f64.
    points: Tensor<2>,
    /// `‖x_i‖²`, `[1, count]`.
    squares: Tensor<2>,
}

impl ExactFlow {
    fn new(points: &[f64], dimension: usize) -> Self {
        let data = TensorData::new(points.to_vec(), [points.len() / dimension, dimension]);
        // Always on the CPU, where there is f64.
        let points = Tensor::<2>::from_data(data, (&Device::flex(), DType::F64));
        let squares = points.clone().square().sum_dim(1).transpose();
        Self { points, squares }
    }

    /// `(1/d) ∫ E‖u_t(x_t)‖² dt`, from `draws` points and noises at each of `times` times.
    fn energy(&self, path: &dyn NoisePath, [times, draws]: [usize; 2], seed: u64) -> f64 {
        let [count, dimension] = self.points.dims();
        let device = self.points.device();
        let mut noise = SeededNoise::new(seed, 20);
        let mut sum = 0.0;
        for k in 0..times {
            let time = (k as f64 + 0.5) / times as f64;
            let level = path.level_at(time);
            let [signal, scale] = path.rates_at(time);
            let chosen = (0..draws).map(|_| {
                let i = noise.random_range(0..count);
                self.points.clone().slice_dim(0, i..i + 1)
            });
            let data = Tensor::cat(chosen.collect(), 0);
            let epsilon = noise.normal([draws, dimension], &device).cast(DType::F64);
            let x = level.mix(data, epsilon);
            let predicted = self.posterior_mean(&x, level);
            let epsilon = (x - predicted.clone() * level.signal()) / level.noise();
            let velocity = predicted * signal + epsilon * scale;
            sum += velocity.square().mean().into_scalar::<f64>();
        }
        sum / times as f64
    }

    /// `Σ w_i x_i`, `ln w_i = (a x·x_i − a² ‖x_i‖²/2)/m²` up to a constant.
    fn posterior_mean(&self, x: &Tensor<2>, level: Level) -> Tensor<2> {
        let (a, power) = (level.signal(), level.noise().powi(2));
        let products = x.clone().matmul(self.points.clone().transpose()); // [draws, count]
        let logits = products * (a / power) - self.squares.clone() * (0.5 * a * a / power);
        softmax(logits, 1).matmul(self.points.clone())
    }
}

/// A random monotone schedule: a bent angle and a bulge of the radius.
#[derive(Debug)]
struct Bent {
    power: f64,
    twist: f64,
    bulge: f64,
}

impl Bent {
    fn drawn(noise: &mut SeededNoise) -> Self {
        let values: Vec<f64> = noise.normal_values(3).into_iter().map(f64::from).collect();
        Self {
            power: values[0].abs().max(0.1),
            twist: values[1].tanh(),
            bulge: values[2].tanh(),
        }
    }
}

impl NoisePath for Bent {
    fn level_at(&self, time: f64) -> Level {
        let share = (1.0 - time).powf(self.power);
        let theta = FRAC_PI_2 * (share + self.twist * share * (1.0 - share));
        let radius = 1.0 + self.bulge * time * (1.0 - time);
        Level::new(time, radius * theta.sin(), radius * theta.cos())
    }

    /// By halving, since `σ` rises with the time.
    fn level_of_sigma(&self, sigma: f64) -> Level {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            match self.level_at(middle).sigma() < sigma {
                true => low = middle,
                false => high = middle,
            }
        }
        self.level_at(0.5 * (low + high))
    }

    fn times(&self) -> [f64; 2] {
        [0.0, 1.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two points at ±1 in one dimension the energies are known.
    #[test]
    fn the_energies_of_two_points_are_the_reference_values() {
        let config = SeparationConfig::new().with_draws(4000).with_grid(200);
        let found = energies(&[-1.0, 1.0], 1, &config, [100, 400]).unwrap();
        let expected = [0.459, 0.982, 0.869];
        for (found, expected) in found.paths.iter().zip(expected) {
            for value in found {
                assert!(
                    (value / expected - 1.0).abs() < 0.04,
                    "{found:?}, {expected}"
                );
            }
        }
        assert!(found.random >= found.chord);
    }

    #[test]
    fn a_schedule_is_inverted() {
        let bent = Bent::drawn(&mut SeededNoise::new(4, 0));
        let level = bent.level_at(0.3);
        let back = bent.level_of_sigma(level.sigma());
        assert!((back.time() - 0.3).abs() < 1e-9);
    }
}
