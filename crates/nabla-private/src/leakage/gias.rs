//! GIAS: a generator's latent vector first, then the generator's own weights, one copy of them for each picture.
//!
//! ```text
//! latent search:     z ~ N(0, I);  minimise L(G_w(z)) over z               of the best of several restarts
//! parameter search:  w_b = w for each picture b of the batch;  minimise L(G_{w_1}(z_1), …, G_{w_B}(z_B)) over w_1 … w_B
//! L(x) = 1 − cos(A g(x), g*) + λ_tv TV(x) + λ_n ‖x‖₂/S²
//! ```
//!
//! A generator cannot make every picture, but one whose weights may change can, and what it has learnt stays in the place
//! where the search begins. A batch's pictures share no weights in the second search: one set for all of them would have
//! to make each picture better with the same change. Each search has an Adam of its own, whose learning rate is divided by
//! ten after 3/8, 5/8 and 7/8 of the steps.
//!
//! The answer are the pictures of the second search, or those of the first if their gradient is nearer.
//!
//! Defaults: learning rates, steps and restarts as in the official scripts for ImageNet at 128 pixels
//! (`scripts/ours_v2_bs4.sh`), the regulariser as in GIFD's comparison with this method; the scripts have `λ_tv = 1e-6` and
//! `λ_n = 0`. The official code repeats the second search for every restart, though all of them then begin at the same
//! best `z` with the same weights and follow the same steps: here it is done once. What the paper does beyond this, to
//! learn a generator from the gradients of many rounds (GIML), is not here.
//!
//! Source: Jeon, Lee, Oh, Kim, Ok, *Gradient Inversion with Generative Image Prior*, NeurIPS 2021, arXiv 2110.14962,
//! section 4; ml-postech/gradient-inversion-generative-image-prior for the defaults.

use burn::tensor::{Device, Tensor};
use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use super::descent::{Descent, three_drops};
use super::error::LeakageError;
use super::gradient_oracle::Objective;
use super::inverting_gradients::Recovered;
use super::pixel_prior::PixelPrior;
use super::staged_generator::{StagedGenerator, through_generator, through_weights};

/// Configuration of [`gias`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GiasConfig {
    /// Steps of the latent search, of each restart. Default 1000.
    pub latent_steps: usize,
    /// Its learning rate. Default 0.03.
    pub latent_rate: f64,
    /// Steps of the search of the weights, in which there are no restarts. Default 8000.
    pub weight_steps: usize,
    /// Its learning rate. Default 1e-3; the larger the generator, the smaller.
    pub weight_rate: f64,
    /// Default 4.
    pub restarts: usize,
    /// `λ_tv` and `λ_n`.
    pub prior: PixelPrior,
}

impl Default for GiasConfig {
    fn default() -> Self {
        Self {
            latent_steps: 1000,
            latent_rate: 0.03,
            weight_steps: 8000,
            weight_rate: 1e-3,
            restarts: 4,
            prior: PixelPrior::default(),
        }
    }
}

impl GiasConfig {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), LeakageError> {
        range::at_least("number of steps of the latent search", self.latent_steps, 1)?;
        range::at_least("number of restarts", self.restarts, 1)?;
        range::positive("learning rate of the latent search", self.latent_rate)?;
        range::positive(
            "learning rate of the search of the weights",
            self.weight_rate,
        )?;
        Ok(self.prior.validate()?)
    }
}

/// What the attack found.
#[derive(Clone, Debug)]
pub struct Gias {
    /// In `[0, 1]`, `[batch, pixels]`.
    pub pictures: Tensor<2>,
    /// The distance of the gradients of these pictures, without the regulariser.
    pub cost: f64,
    /// After the latent search.
    pub latent: Recovered,
}

/// Searches pictures through a generator and its weights.
///
/// - `objective`: the cosine distance of pictures, `[batch, pixels]`
///
/// # Errors
/// If a setting is out of range, or no restart has a finite cost.
pub fn gias(
    objective: &Objective<'_>,
    generator: &dyn StagedGenerator,
    batch: usize,
    config: GiasConfig,
    seed: u64,
    device: &Device,
) -> Result<Gias, LeakageError> {
    config.validate()?;
    let device = device.clone().without_autodiff();
    let shape = generator.shape();
    let also = |x: &Tensor<2>| config.prior.slope(x, shape);
    let recovered = |pictures: Tensor<2>| {
        let pictures = pictures.without_autodiff().clamp(0.0, 1.0);
        let cost = objective(&pictures)?.cost;
        Ok::<_, LeakageError>(Recovered { pictures, cost })
    };

    // Latent search.
    let mut best: Option<(Tensor<2>, Recovered)> = None;
    for restart in 0..config.restarts {
        let size = [batch, generator.latent()];
        let start = SeededNoise::new(seed, restart as u64).normal(size, &device);
        let search = Descent {
            steps: config.latent_steps,
            rate: &|share| config.latent_rate * three_drops(share),
            slope: &mut |z| Ok(through_generator(generator, objective, &also, 0, z)?.slope),
            then: &mut |z, _| Ok(z),
        };
        let found = search.run(start).and_then(|latent| {
            let found = recovered(generator.pictures(0, latent.clone()))?;
            Ok((latent, found))
        });
        let found = match found {
            // Other restarts may do better.
            Err(error) if error.is_of_one_start() => continue,
            found => found?,
        };
        if best.as_ref().is_none_or(|best| found.1.cost < best.1.cost) {
            best = Some(found);
        }
    }
    let (latent, of_latent) = best.ok_or(LeakageError::NoRestart)?;

    // Parameter search: [batch, n].
    let weights = generator
        .weights()
        .unsqueeze_dim::<2>(0)
        .repeat_dim(0, batch);
    let search = Descent {
        steps: config.weight_steps,
        rate: &|share| config.weight_rate * three_drops(share),
        slope: &mut |w| Ok(through_weights(generator, objective, &also, &latent, w)?.slope),
        then: &mut |w, _| Ok(w),
    };
    let found = search
        .run(weights)
        .and_then(|weights| recovered(generator.pictures_by(weights, latent.clone())));
    let found = match found {
        Ok(found) if found.cost < of_latent.cost => found,
        // A search that ran away, or that found nothing better.
        Ok(_) => of_latent.clone(),
        Err(error) if error.is_of_one_start() => of_latent.clone(),
        Err(error) => return Err(error),
    };
    Ok(Gias {
        pictures: found.pictures,
        cost: found.cost,
        latent: of_latent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leakage::two_stages::{TwoStages, squared_distance};

    /// Pictures that the generator cannot make from a latent vector alone, `[2, 4]`.
    const FAR: [[f32; 4]; 2] = [[0.9, 0.2, 0.6, 0.5], [0.1, 0.9, 0.2, 0.8]];

    fn quick() -> GiasConfig {
        GiasConfig {
            latent_steps: 200,
            latent_rate: 0.1,
            weight_steps: 400,
            weight_rate: 0.02,
            restarts: 2,
            prior: PixelPrior {
                total_variation: 0.0,
                norm: 0.0,
            },
        }
    }

    fn found(targets: &[[f32; 4]], config: GiasConfig) -> Gias {
        let objective = squared_distance(targets);
        gias(
            &objective,
            &TwoStages,
            targets.len(),
            config,
            3,
            &Device::flex(),
        )
        .unwrap()
    }

    /// Weights that may change reach what a latent vector cannot, for each picture of a batch.
    #[test]
    fn weights_reach_what_the_latent_vector_does_not() {
        for targets in [&FAR[..1], &FAR[..]] {
            let found = found(targets, quick());
            assert!(found.latent.cost > 1e-4, "{}", found.latent.cost);
            assert!(found.cost < 1e-5, "{}", found.cost);
            let pixels: Vec<f32> = found.pictures.into_data().iter().collect();
            for (found, expected) in pixels.iter().zip(targets.as_flattened()) {
                assert!((found - expected).abs() < 5e-3, "{found} {expected}");
            }
        }
    }

    #[test]
    fn without_steps_for_the_weights_it_is_the_latent_search() {
        let config = GiasConfig {
            weight_steps: 0,
            ..quick()
        };
        let found = found(&FAR, config);
        assert_eq!(found.cost, found.latent.cost);
    }

    /// The slope by the weights is that of the cost, by differences.
    #[test]
    fn slopes_by_weights_are_differences() {
        let objective = squared_distance(&FAR);
        let device = Device::flex();
        let latent = SeededNoise::new(1, 0).normal::<2>([2, 2], &device);
        let own = TwoStages.weights();
        let weights = own.unsqueeze_dim::<2>(0).repeat_dim(0, 2);
        let also = |x: &Tensor<2>| Ok(x.zeros_like());
        let at =
            |w: &Tensor<2>| through_weights(&TwoStages, &objective, &also, &latent, w).unwrap();
        let slope: Vec<f64> = at(&weights).slope.into_data().iter().collect();
        let [rows, columns] = weights.dims();
        for index in [0, 4, columns - 1, columns + 3, rows * columns - 2] {
            let moved = |h: f32| {
                let mut values: Vec<f32> = weights.clone().into_data().iter().collect();
                values[index] += h;
                let data = burn::tensor::TensorData::new(values, [rows, columns]);
                at(&Tensor::from_data(data, &device)).cost
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let error = (difference - slope[index]).abs();
            assert!(error < 1e-3, "{index}: {difference} {}", slope[index]);
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let wrong = GiasConfig {
            weight_rate: f64::NAN,
            ..quick()
        };
        let objective = squared_distance(&FAR);
        let found = gias(&objective, &TwoStages, 2, wrong, 0, &Device::flex());
        assert!(matches!(found, Err(LeakageError::Range(_))));
    }
}
