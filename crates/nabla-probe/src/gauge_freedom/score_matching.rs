//! Training of a score network by denoising score matching, with or without a penalty on what is no gradient.

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::flat::with_float_type;
use nabla_grad::seeded_noise::{NoiseState, SeededNoise};
use nabla_train::error::TrainingError;
use nabla_train::learner::Learner;
use nabla_train::task::Task;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::GaugeError;
use super::energy_networks::ScoreModel;
use super::vector_field::TensorField;

/// A penalty on the antisymmetric part of the Jacobian, by two pairs of further evaluations a step.
///
/// ```text
/// E_{u,v} (u·Δ_v − v·Δ_u)²,   Δ_v = σ² [s(x + h v) − s(x − h v)]/2h,   u, v random unit vectors
/// ```
///
/// `σ²` puts Jacobians of all levels to one scale. The mean is `‖σ² (J − Jᵀ)‖²_F / D²`, but for the share of `u` along
/// `v`, which adds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AntisymmetryPenalty {
    /// Its factor in the loss. Default 1.
    pub weight: f64,
    /// `h`, as a share of `σ`. Default 0.01, for single precision.
    pub step: f64,
}

impl Default for AntisymmetryPenalty {
    fn default() -> Self {
        Self {
            weight: 1.0,
            step: 1e-2,
        }
    }
}

impl AntisymmetryPenalty {
    /// The penalty, without its weight, `[1]`.
    ///
    /// - `x`, `u`, `v`: `[batch, dimension]`, of which `u` and `v` are of unit length
    /// - `sigma`: `[batch, 1]`
    pub fn of<M: ScoreModel>(
        &self,
        model: &M,
        x: &Tensor<2>,
        sigma: &Tensor<2>,
        [u, v]: [Tensor<2>; 2],
    ) -> Tensor<1> {
        let h = sigma.clone() * self.step;
        let [of_u, of_v] = [u.clone(), v.clone()].map(|direction| {
            let away = direction * h.clone();
            let both = Tensor::cat(vec![x.clone() + away.clone(), x.clone() - away], 0);
            let levels = Tensor::cat(vec![sigma.clone(), sigma.clone()], 0);
            let found = model.score(both, levels);
            let rows = x.dims()[0];
            let [above, below] =
                [0, rows].map(|start| found.clone().slice_dim(0, start..start + rows));
            (above - below) * (sigma.clone() * (0.5 / self.step)) // σ² / 2h
        });
        let across = (u * of_v - v * of_u).sum_dim(1);
        across.square().mean()
    }
}

/// How a score is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreMatchingConfig {
    /// The lowest level of noise. Default 0.01.
    pub sigma_min: f64,
    /// The highest level. Default 10.
    pub sigma_max: f64,
    /// Points in a batch, drawn with replacement, each with a level of its own, even in `ln σ`. Default 256.
    pub batch: usize,
    /// Default none.
    pub penalty: Option<AntisymmetryPenalty>,
    /// The seed of points, levels and noise. Default 0.
    pub seed: u64,
}

impl Default for ScoreMatchingConfig {
    fn default() -> Self {
        Self {
            sigma_min: 0.01,
            sigma_max: 10.0,
            batch: 256,
            penalty: None,
            seed: 0,
        }
    }
}

impl ScoreMatchingConfig {
    /// # Errors
    /// If a number is out of range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::positive("highest noise level", self.sigma_max)?;
        range::between("lowest noise level", self.sigma_min, 0.0, self.sigma_max)?;
        range::at_least("number of points in a batch", self.batch, 1)?;
        if let Some(penalty) = &self.penalty {
            range::not_negative("weight of the penalty", penalty.weight)?;
            range::positive("step of the penalty", penalty.step)?;
        }
        Ok(())
    }
}

/// Points with noise: what a loss is computed from.
#[derive(Clone, Debug)]
pub struct NoisyPoints {
    /// `x_0`, `[batch, dimension]`.
    pub clean: Tensor<2>,
    /// `ε`, `[batch, dimension]`.
    pub noise: Tensor<2>,
    /// `[batch, 1]`.
    pub sigma: Tensor<2>,
    /// `u` and `v` of the penalty, `[batch, dimension]`.
    directions: Option<[Tensor<2>; 2]>,
}

/// Denoising score matching: `E‖σ s(x_0 + σ ε, σ) + ε‖²`, the squares of a point's numbers added up.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use burn::tensor::{DType, Device};
/// use nabla_probe::gauge_freedom::energy_networks::{DeepEnergy, ScoreNetwork};
/// use nabla_probe::gauge_freedom::{Probes, ScoreMatching, ScoreMatchingConfig, asymmetry, score_field};
/// use nabla_train::trainer::{Trainer, TrainerConfig};
///
/// let device = Device::flex().autodiff();
/// let ring = (0..60).flat_map(|k| [(k as f32).cos(), (k as f32).sin()]);
/// let task = ScoreMatching::new(2, ring.collect(), ScoreMatchingConfig::default())?;
/// let model = ScoreNetwork::new(DeepEnergy::new(2, 16, &device)?, 0.7, 1)?;
/// let config = TrainerConfig { steps: 20, ..TrainerConfig::default() };
/// let mut trainer = Trainer::new(config, task, model)?;
/// trainer.run(None, &mut |_| ControlFlow::Continue(()))?;
///
/// let field = score_field(trainer.model(), 2, DType::F64)?;
/// assert!(asymmetry(&field, &[1.0, 0.0], 0.1, Probes::All)? < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ScoreMatching<M> {
    dimension: usize,
    points: Vec<f32>,
    config: ScoreMatchingConfig,
    noise: SeededNoise,
    model: std::marker::PhantomData<fn() -> M>,
}

/// The stream of the seed for points, levels and noise.
const STREAM: u64 = 1;

impl<M> ScoreMatching<M> {
    /// - `points`: `[points, dimension]`
    ///
    /// # Errors
    /// If a number is out of range, or the values are no points.
    pub fn new(
        dimension: usize,
        points: Vec<f32>,
        config: ScoreMatchingConfig,
    ) -> Result<Self, GaugeError> {
        config.validate()?;
        range::at_least("dimension of the points", dimension, 1)?;
        if points.is_empty() || !points.len().is_multiple_of(dimension) {
            return Err(GaugeError::Points {
                values: points.len(),
                dimension,
            });
        }
        Ok(Self {
            dimension,
            points,
            config,
            noise: SeededNoise::new(config.seed, STREAM),
            model: std::marker::PhantomData,
        })
    }

    /// Draws the points of a step.
    pub fn draw(&mut self, device: &Device) -> NoisyPoints {
        let (d, batch) = (self.dimension, self.config.batch);
        let mut clean = Vec::with_capacity(batch * d);
        let mut sigma = Vec::with_capacity(batch);
        let (low, high) = (self.config.sigma_min.ln(), self.config.sigma_max.ln());
        for _ in 0..batch {
            let chosen = self.noise.random_range(0..self.points.len() / d);
            clean.extend_from_slice(&self.points[chosen * d..][..d]);
            let share: f64 = self.noise.random();
            sigma.push((low + (high - low) * share).exp() as f32);
        }
        let tensor = |values: Vec<f32>, width: usize| {
            Tensor::from_data(TensorData::new(values, [batch, width]), device)
        };
        let noise = self.noise.normal([batch, d], device);
        let directions = self.config.penalty.map(|_| {
            [(); 2].map(|()| {
                let drawn: Tensor<2> = self.noise.normal([batch, d], device);
                drawn.clone() / drawn.square().sum_dim(1).sqrt().clamp_min(1e-12)
            })
        });
        NoisyPoints {
            clean: tensor(clean, d),
            noise,
            sigma: tensor(sigma, 1),
            directions,
        }
    }
}

/// `E‖σ s(x_0 + σ ε, σ) + ε‖²`, `[1]`, for points that [`ScoreMatching::draw`] gives.
pub fn matching_loss<M: ScoreModel>(model: &M, points: &NoisyPoints) -> Tensor<1> {
    let x = points.clean.clone() + points.noise.clone() * points.sigma.clone();
    let score = model.score(x, points.sigma.clone());
    let left = score * points.sigma.clone() + points.noise.clone();
    left.square().sum_dim(1).mean()
}

impl<M: ScoreModel> Task for ScoreMatching<M> {
    type Model = M;
    type Batch = NoisyPoints;
    type Report = ();

    fn batch(&mut self, learner: &Learner<M>) -> Result<NoisyPoints, TrainingError> {
        Ok(self.draw(learner.device()))
    }

    fn loss(&mut self, model: &M, points: NoisyPoints) -> Result<Tensor<1>, TrainingError> {
        let loss = matching_loss(model, &points);
        let (Some(penalty), Some(directions)) = (&self.config.penalty, points.directions) else {
            return Ok(loss);
        };
        let x = points.clean + points.noise * points.sigma.clone();
        let across = penalty.of(model, &x, &points.sigma, directions);
        Ok(loss + across * penalty.weight)
    }

    fn settings(&self) -> Value {
        json!({ "score matching": self.config, "points": self.points.len() / self.dimension })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        serde_json::to_vec(&self.noise.state()).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let state: NoiseState = serde_json::from_slice(state).map_err(TrainingError::task)?;
        self.noise = SeededNoise::from_state(state);
        Ok(())
    }
}

/// A score network as a field, in another precision than it was trained in, differentiated by backward passes if its
/// device computes gradients, and by differences otherwise.
///
/// - `dtype`: of the copy that is evaluated; `DType::F64` suits all diagnostics
///
/// # Errors
/// If the model has no parameters.
pub fn score_field<M: ScoreModel>(
    model: &M,
    dimension: usize,
    dtype: DType,
) -> Result<TensorField<impl Fn(Tensor<2>, f64) -> Tensor<2> + Clone + use<M>>, GaugeError> {
    let device = model.devices().into_iter().next();
    let device = device.ok_or_else(|| GaugeError::Field("the model has no parameters".into()))?;
    // Gradients of the weights are of no use here.
    let model = with_float_type(model.clone().no_grad(), dtype);
    let evaluate = move |x: Tensor<2>, sigma: f64| {
        let levels = Tensor::full([x.dims()[0], 1], sigma, (&x.device(), x.dtype()));
        model.score(x, levels)
    };
    Ok(TensorField::new(dimension, &device, dtype, evaluate))
}
