//! The super-resolution prior as a denoiser of pictures, given a blurred version of the picture.
//!
//! The prior is an RDDM, `I_t = I_0 + ᾱ_t (I_in − I_0) + β̄_t ε`. With `u = I_t − ᾱ_t I_in = (1 − ᾱ_t) I_0 + β̄_t ε` it is
//! a diffusion of `I_0` with the noise level `σ = β̄_t/(1 − ᾱ_t)`, and `I_in − I_res` is a prediction of the picture. So
//! every sampler and every restoration method runs on it. `I_in` is a first estimate that lacks detail, as an enlarged
//! picture or a blurred one does.

use burn::tensor::Tensor;

use crate::block_skipping::{BlockSet, SkippableDenoiser};
use crate::denoiser::{Condition, Denoiser, Prediction, only_first, rows};
use crate::level::{Level, Levels};
use crate::prior::SuperResolutionPrior;
use crate::rddm_sampler::RddmInput;
use crate::sampler_error::{OwnError, SamplerError};
use crate::schedule::{NoiseSchedule, ScheduleError, Spacing};

/// The prior as a denoiser; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::Denoised;
/// use nabla_diffusion::prior::SuperResolutionPrior;
/// use nabla_diffusion::restore::PriorDenoiser;
///
/// let device = Device::flex();
/// let prior = SuperResolutionPrior::embedded(&device)?;
/// let blurred = Tensor::<4>::zeros([1, 3, 32, 32], &device);
/// let denoiser = PriorDenoiser::new(&prior, blurred.clone(), 0)?;
/// let levels = denoiser.levels(10)?;
/// let found = Denoised::predict(&denoiser, &blurred, levels.level(0))?;
/// assert_eq!(found.sample.dims(), [1, 3, 32, 32]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PriorDenoiser<'a> {
    prior: &'a SuperResolutionPrior,
    /// `I_in`.
    blurred: Tensor<4>,
    given: RddmInput,
    tile: usize,
    training: NoiseSchedule,
}

impl<'a> PriorDenoiser<'a> {
    /// - `blurred`: `I_in`, `[batch, 3, height, width]` in `[−1, 1]`
    /// - `tile`: see [`SuperResolutionPrior::predictor`]
    ///
    /// # Errors
    /// If the prior's schedule has no noise levels.
    pub fn new(
        prior: &'a SuperResolutionPrior,
        blurred: Tensor<4>,
        tile: usize,
    ) -> Result<Self, ScheduleError> {
        Ok(Self {
            prior,
            given: RddmInput::new(blurred.clone()),
            blurred,
            tile,
            training: Self::noise_schedule(prior)?,
        })
    }

    /// The noise levels of a prior, all but the last, where nothing of the picture is left.
    ///
    /// # Errors
    /// If the prior's schedule has no noise levels.
    pub fn noise_schedule(prior: &SuperResolutionPrior) -> Result<NoiseSchedule, ScheduleError> {
        let schedule = prior.rddm().schedule();
        // Of the level of the same σ: scale of I_t in the variance-preserving form.
        let scale = |t: usize| (1.0 - schedule.residual_sum(t)).hypot(schedule.noise_std(t));
        let levels: Vec<Level> = (0..schedule.steps() - 1)
            .map(|t| {
                let alpha_bar = ((1.0 - schedule.residual_sum(t)) / scale(t)).powi(2);
                Level::variance_preserving(t as f64, alpha_bar)
            })
            .collect();
        NoiseSchedule::from_levels(&levels, 1.0)
    }

    /// The noise levels on which the prior was trained.
    pub fn training(&self) -> &NoiseSchedule {
        &self.training
    }

    /// The levels of a run of `steps` steps, evenly spaced up to the noisiest.
    ///
    /// # Errors
    /// If there are no steps, or more than training steps.
    pub fn levels(&self, steps: usize) -> Result<Levels, ScheduleError> {
        Ok(self.training.respace(Spacing::Trailing, steps)?.into())
    }
}

impl Denoiser for PriorDenoiser<'_> {
    fn prediction(&self) -> Prediction {
        Prediction::Sample
    }

    fn predict(
        &self,
        x: Tensor<4>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        only_first(conditions)?;
        Ok(vec![self.picture(x, level, BlockSet::none())?])
    }

    /// Each row has its own blurred picture.
    fn predict_rows(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<4>, OwnError> {
        self.predict_rows_skipping(x, level, rows, BlockSet::none())
    }
}

impl SkippableDenoiser for PriorDenoiser<'_> {
    fn blocks(&self) -> usize {
        self.prior.blocks()
    }

    fn predict_rows_skipping(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
        skipped: &BlockSet,
    ) -> Result<Tensor<4>, OwnError> {
        for &(_, condition) in rows {
            only_first(&[condition])?;
        }
        let rows: Vec<usize> = rows.iter().map(|&(row, _)| row).collect();
        if rows.iter().copied().eq(0..self.blurred.dims()[0]) {
            return self.picture(x, level, skipped);
        }
        let blurred = rows::select(&self.blurred, &rows);
        let of_rows = Self {
            prior: self.prior,
            given: RddmInput::new(blurred.clone()),
            blurred,
            tile: self.tile,
            training: self.training.clone(),
        };
        of_rows.picture(x, level, skipped)
    }
}

impl PriorDenoiser<'_> {
    /// The predicted picture.
    fn picture(
        &self,
        x: Tensor<4>,
        level: Level,
        skipped: &BlockSet,
    ) -> Result<Tensor<4>, OwnError> {
        if x.dims() != self.blurred.dims() {
            return Err(Box::new(SamplerError::OutputShape {
                found: self.blurred.dims().to_vec(),
                state: x.dims().to_vec(),
            }));
        }
        let rddm = self.prior.rddm();
        let schedule = rddm.schedule();
        let below = (level.time().floor() as usize).min(schedule.steps() - 2);
        let weight = level.time() - below as f64;
        let removed = (1.0 - weight) * schedule.residual_sum(below)
            + weight * schedule.residual_sum(below + 1);
        // Between two steps the input has the exact level, but the network is given the nearest step.
        let t = (level.time().round() as usize).min(schedule.steps() - 1);
        let scale = (1.0 - removed) * 1.0_f64.hypot(level.sigma());
        let batch = x.dims()[0];
        // At another scale than the variance-preserving one.
        let x = match level.scale() == 1.0 {
            true => x,
            false => x / level.scale(),
        };
        let seen = x * scale + self.blurred.clone() * removed;
        let predictor = self.prior.predictor_skipping(self.tile, skipped);
        let outputs = rddm.outputs(&predictor, seen, &self.given, &vec![t; batch])?;
        // The prior predicts only the residual.
        let residual = Tensor::cat(outputs, 0);
        Ok(self.blurred.clone() - residual)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::seeded_noise::SeededNoise;

    fn largest(difference: Tensor<4>) -> f32 {
        difference.abs().max().into_scalar()
    }

    #[test]
    fn the_embedded_prior_skips_blocks() {
        let device = Device::flex();
        let prior = SuperResolutionPrior::embedded(&device).unwrap();
        // Two blocks down, two in the middle, three up, without attention.
        assert_eq!(prior.blocks(), 7);
        let mut noise = SeededNoise::new(0, 0);
        let [blurred, x] = [0; 2].map(|_| noise.normal([2, 3, 16, 16], &device) * 0.3);
        let denoiser = PriorDenoiser::new(&prior, blurred.clone(), 0).unwrap();
        let level = denoiser.levels(4).unwrap().level(2);
        let rows = [(0, Condition::FIRST), (1, Condition::FIRST)];
        let skipping = |rows: &[_], x: &Tensor<4>, blocks: &[usize]| {
            let skipped = BlockSet::of(blocks.iter().copied());
            let found = denoiser.predict_rows_skipping(x.clone(), level, rows, &skipped);
            found.unwrap()
        };
        let whole = denoiser.predict(x.clone(), level, &[Condition::FIRST]);
        let whole = whole.unwrap().remove(0);
        assert_eq!(largest(skipping(&rows, &x, &[]) - whole.clone()), 0.0);
        for block in 0..7 {
            let found = skipping(&rows, &x, &[block]);
            assert!(largest(found - whole.clone()) > 1e-5, "{block}");
        }
        // Rows in another order take their own blurred pictures with them.
        let swapped = Tensor::cat(vec![x.clone().slice_dim(0, 1..2), x.slice_dim(0, 0..1)], 0);
        let found = skipping(&[rows[1], rows[0]], &swapped, &[]);
        let back = Tensor::cat(
            vec![found.clone().slice_dim(0, 1..2), found.slice_dim(0, 0..1)],
            0,
        );
        assert!(largest(back - whole) < 1e-6);
    }
}
