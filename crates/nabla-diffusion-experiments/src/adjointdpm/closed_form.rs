//! Models whose gradients are known: a Gaussian in closed form, and a mixture of Gaussians with a fine grid.

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_claims::ClaimError;
use nabla_diffusion::adjoint_dpm::{AdjointDpm, GradientMode};
use nabla_diffusion::denoiser::{
    Condition, GaussianDenoiser, GaussianMixture, MixturePart, Prediction, RowConditions,
};
use nabla_diffusion::level::Levels;
use nabla_diffusion::vp_path::VpPath;
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

/// The standard deviations of the Gaussian's coordinates.
const DEVIATIONS: [f64; 5] = [1.0, 0.3, 0.1, 0.03, 0.01];

/// The relative errors of a gradient of the Gaussian.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct GaussianError {
    /// In the thinnest direction.
    pub(super) thinnest: f64,
    /// The largest of all directions.
    pub(super) largest: f64,
}

/// Of the sum of a Gaussian's finished numbers: `∂x_0/∂x_T = √(v_0/v_T)` in every coordinate.
pub(super) fn gaussian_error(
    adjoint: AdjointDpm,
    levels: &Levels,
) -> Result<GaussianError, ClaimError> {
    let row = |values: [f64; 5]| {
        let data = TensorData::new(values.to_vec(), [1, 5]);
        // Always on the CPU, where there is f64.
        Tensor::<2>::from_data(data, (&Device::flex(), DType::F64))
    };
    let variance = row(DEVIATIONS.map(|s| s * s));
    let model = GaussianDenoiser::new(variance.zeros_like(), variance, Prediction::Epsilon);
    let ones = row([1.0; 5]);
    let exact = model.transport(ones.clone(), levels.start(), levels.end());
    let mut run = adjoint.of(&model, levels).map_err(ClaimError::experiment)?;
    let trajectory = run.sample(row([0.7; 5])).map_err(ClaimError::experiment)?;
    let found = run.backward(&trajectory, ones, &mut ());
    let ratio = found.map_err(ClaimError::experiment)? / exact;
    let errors = (ratio - 1.0).abs();
    let errors = errors
        .try_into_vec_as::<f64>()
        .map_err(ClaimError::experiment)?;
    Ok(GaussianError {
        thinnest: errors[4],
        largest: errors.into_iter().fold(0.0, f64::max),
    })
}

/// A mixture of five narrow Gaussians in eight dimensions, four starts, and a target.
pub(super) struct Mixture {
    model: GaussianMixture,
    start: Tensor<2>,
    target: Tensor<2>,
    /// `∂L/∂x_T` of the exact flow.
    truth: Tensor<2>,
}

const DIMENSION: usize = 8;
const PARTS: usize = 5;
const ROWS: usize = 4;
const VARIANCE: f64 = 0.05;

/// The half length of a finite difference.
const STEP: f64 = 1e-4;

impl Mixture {
    /// - `fine`: steps of the grid that gives the truth
    pub(super) fn drawn(seed: u64, fine: usize) -> Result<Self, ClaimError> {
        let mut draw = SeededNoise::new(seed, 31);
        let parts = (0..PARTS).map(|_| MixturePart {
            class: 0,
            weight: 1.0,
            mean: draw
                .normal_values(DIMENSION)
                .into_iter()
                .map(f64::from)
                .collect(),
            deviation: VARIANCE.sqrt(),
        });
        let model = GaussianMixture::new(parts.collect()).map_err(ClaimError::experiment)?;
        let device = Device::flex();
        let mut drawn = || draw.normal([ROWS, DIMENSION], &device).cast(DType::F64);
        let mut mixture = Self {
            model,
            start: drawn(),
            target: drawn(),
            truth: Tensor::zeros([ROWS, DIMENSION], (&device, DType::F64)),
        };
        let levels = VpPath::new()
            .even_in_log_snr(fine)
            .map_err(ClaimError::experiment)?;
        let exact = AdjointDpm::new().with_method(super::RUNGE_KUTTA);
        mixture.truth = mixture.gradient(exact, &levels)?;
        Ok(mixture)
    }

    fn model(&self) -> RowConditions<'_, 2> {
        RowConditions::new(&self.model, vec![Condition::Without; ROWS])
    }

    fn gradient(&self, adjoint: AdjointDpm, levels: &Levels) -> Result<Tensor<2>, ClaimError> {
        let model = self.model();
        let mut run = adjoint.of(&model, levels).map_err(ClaimError::experiment)?;
        let mut loss = |x: Tensor<2>| Ok((x - self.target.clone()).square().sum() * 0.5);
        let found = run.gradient(self.start.clone(), &mut loss, &mut ());
        Ok(found.map_err(ClaimError::experiment)?.noise)
    }

    /// The relative error against the exact flow.
    pub(super) fn error(&self, adjoint: AdjointDpm, levels: &Levels) -> Result<f64, ClaimError> {
        let found = self.gradient(adjoint, levels)?;
        let squares = [found - self.truth.clone(), self.truth.clone()]
            .map(|x| x.square().sum().into_scalar::<f64>());
        Ok((squares[0] / squares[1]).sqrt())
    }

    /// The relative difference of the exact mode from central differences of the sampler, along one direction.
    pub(super) fn difference(&self, levels: &Levels, seed: u64) -> Result<f64, ClaimError> {
        let exact = AdjointDpm::new().with_mode(GradientMode::Exact);
        let found = self.gradient(exact, levels)?;
        let along = SeededNoise::new(seed, 32).normal([ROWS, DIMENSION], &Device::flex());
        let along = along.cast(DType::F64);
        let model = self.model();
        let loss = |side: f64| -> Result<f64, ClaimError> {
            let mut run = exact.of(&model, levels).map_err(ClaimError::experiment)?;
            let run = run.sample(self.start.clone() + along.clone() * side);
            let sample = run.map_err(ClaimError::experiment)?.sample().clone();
            Ok((sample - self.target.clone())
                .square()
                .sum()
                .into_scalar::<f64>()
                * 0.5)
        };
        let difference = (loss(STEP)? - loss(-STEP)?) / (2.0 * STEP);
        let product = (found * along.clone()).sum().into_scalar::<f64>();
        Ok((product / difference - 1.0).abs())
    }
}

#[cfg(test)]
mod tests {
    use nabla_diffusion::adjoint_dpm::FlowForm;

    use super::*;

    /// The factors in the thinnest direction, of another program, are 2.517 and −5.334.
    #[test]
    fn the_errors_of_the_gaussian_are_the_reference_values() {
        let levels = VpPath::new().even_in_time(10).unwrap();
        for (form, expected) in [(FlowForm::Rho, 1.517), (FlowForm::Time, 6.334)] {
            let adjoint = AdjointDpm {
                method: super::super::RUNGE_KUTTA,
                form,
                mode: GradientMode::Adjoint,
            };
            let found = gaussian_error(adjoint, &levels).unwrap();
            assert!((found.thinnest - expected).abs() < 2e-3, "{found:?}");
            assert_eq!(found.largest, found.thinnest);
        }
    }

    #[test]
    fn the_mixture_knows_its_gradient() {
        let mixture = Mixture::drawn(0, 100).unwrap();
        let levels = VpPath::new().even_in_log_snr(60).unwrap();
        let exact = AdjointDpm::new().with_method(super::super::RUNGE_KUTTA);
        assert!(mixture.error(exact, &levels).unwrap() < 1e-3);
        assert!(mixture.error(AdjointDpm::new(), &levels).unwrap() > 1e-3);
        assert!(mixture.difference(&levels, 0).unwrap() < 1e-6);
    }
}
