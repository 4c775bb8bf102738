//! GIFD: a generator's latent vector first, then what each of its stages makes, near where the stage before ended.
//!
//! ```text
//! stage 0:          z ~ N(0, I);  minimise L(G(z)) over z, and after each step z ← z ‖z_init‖/‖z‖;   h_1 = G_1(z)
//! stage k=1…K−1:    minimise L(G_N ∘ … ∘ G_{k+1}(h)) over h from c = h_k, and after each step
//!                   h ← c + Π_{‖·‖₁ ≤ ρ_k}(h − c);   h_{k+1} = G_{k+1}(h)
//! L(x) = 1 − cos(A g(x), g*) + λ_tv TV(x) + λ_n ‖x‖₂/S²
//! ```
//!
//! The answer is the picture of the stage with the smallest distance of gradients, without the regulariser, of the best
//! of several restarts. Each stage has a fresh Adam, whose learning rate rises over the first twentieth and falls along a
//! cosine over the last three quarters. The ball is one for each picture, around its feature. Features far from what a
//! generator makes need not lead to pictures: the ball is what keeps noise of the gradient out of them.
//!
//! The same algorithm serves for pictures of another kind than the generator's. A smaller distance of gradients is not a
//! better picture where the gradient has noise, so [`Select::LastStage`] and the pictures of every stage are there, too.
//! The official code returns the pictures of the last restart whatever its cost: [`GifdConfig::last_restart`].
//!
//! Source: Fang, Chen, Wang, Wang, Xia, *GIFD: A Generative Gradient Inversion Method with Feature Domain Optimization*,
//! ICCV 2023, arXiv 2308.04699, algorithm 1.

use std::f64::consts::PI;

use burn::tensor::{Device, Tensor};
use nabla_base::range;
use nabla_grad::proximal::{L1Ball, Proximal};
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use super::descent::Descent;
use super::error::LeakageError;
use super::gradient_oracle::Objective;
use super::pixel_prior::PixelPrior;
use super::staged_generator::{StagedGenerator, through_generator};

/// Which stage's pictures are the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Select {
    /// Those with the smallest distance of gradients.
    #[default]
    MatchingCost,
    /// Those of the last stage.
    LastStage,
}

/// Configuration of [`gifd`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GifdConfig {
    /// `n`, of each stage. Default 1000.
    pub steps: usize,
    /// Default 0.1.
    pub learning_rate: f64,
    /// `ρ_1 … ρ_{K−1}`: one for each stage after the first that is searched, so that none is the search of the latent
    /// vector alone. The paper has 1000 to 7500 for BigGAN; they grow with the size of the features.
    pub radii: Vec<f64>,
    /// Whether features stay in their ball. Default true.
    pub ball: bool,
    /// Whether the latent vector keeps its length. Default true.
    pub sphere: bool,
    /// Default 4.
    pub restarts: usize,
    /// `λ_tv` and `λ_n`.
    pub prior: PixelPrior,
    /// Which stage's pictures are the answer.
    pub select: Select,
    /// Whether the pictures are those of the last restart, as in the official code, and not of the best. Default false.
    pub last_restart: bool,
}

impl Default for GifdConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            learning_rate: 0.1,
            radii: Vec::new(),
            ball: true,
            sphere: true,
            restarts: 4,
            prior: PixelPrior::default(),
            select: Select::default(),
            last_restart: false,
        }
    }
}

impl GifdConfig {
    /// Refuses what does not fit the generator.
    ///
    /// # Errors
    /// If a number is out of range, or there are more radii than stages after the first.
    pub fn validate(&self, generator: &dyn StagedGenerator) -> Result<(), LeakageError> {
        range::at_least("number of steps of a stage", self.steps, 1)?;
        range::at_least("number of restarts", self.restarts, 1)?;
        range::positive("learning rate of the attack", self.learning_rate)?;
        self.prior.validate()?;
        for &radius in &self.radii {
            range::positive("radius of a stage", radius)?;
        }
        let (stages, found) = (generator.stages(), self.radii.len());
        match found < stages {
            true => Ok(()),
            false => Err(LeakageError::Stages { stages, found }),
        }
    }
}

/// What a stage found.
#[derive(Clone, Debug)]
pub struct StageResult {
    /// In `[0, 1]`, `[batch, pixels]`.
    pub pictures: Tensor<2>,
    /// The distance of the gradients, without the regulariser.
    pub cost: f64,
}

/// What the attack found.
#[derive(Clone, Debug)]
pub struct Gifd {
    /// In `[0, 1]`, `[batch, pixels]`.
    pub pictures: Tensor<2>,
    /// Of these pictures.
    pub cost: f64,
    /// Each stage of the same restart.
    pub stages: Vec<StageResult>,
}

/// The factor of the learning rate at a share of a stage's steps.
pub fn learning_rate_factor(share: f64) -> f64 {
    let fall = 0.5 - 0.5 * (PI * ((1.0 - share) / 0.75).min(1.0)).cos();
    fall * (share / 0.05).min(1.0)
}

/// `z ‖z_init‖/‖z‖` for each row.
///
/// - `latent`: `[batch, latent]`; `lengths`: `[batch, 1]`
fn onto_sphere(latent: Tensor<2>, lengths: &Tensor<2>) -> Tensor<2> {
    let now = row_norms(&latent).clamp_min(1e-12);
    latent * (lengths.clone() / now)
}

fn row_norms(x: &Tensor<2>) -> Tensor<2> {
    x.clone().square().sum_dim(1).sqrt()
}

/// `c + Π(h − c)`, one ball for each row of `[batch, features]`.
fn into_balls(
    feature: Tensor<2>,
    centre: &Tensor<2>,
    ball: &L1Ball,
) -> Result<Tensor<2>, LeakageError> {
    let away = feature - centre.clone();
    let [batch, _] = away.dims();
    let rows: Result<Vec<_>, _> = (0..batch)
        .map(|row| ball.prox(away.clone().narrow(0, row, 1), 1.0))
        .collect();
    Ok(centre.clone() + Tensor::cat(rows?, 0))
}

/// Searches pictures through a generator.
///
/// - `objective`: the cosine distance of pictures, `[batch, pixels]`
///
/// # Errors
/// If the configuration does not fit, or no restart has a finite cost.
pub fn gifd(
    objective: &Objective<'_>,
    generator: &dyn StagedGenerator,
    batch: usize,
    config: &GifdConfig,
    seed: u64,
    device: &Device,
) -> Result<Gifd, LeakageError> {
    config.validate(generator)?;
    let device = device.clone().without_autodiff();
    let mut answer: Option<Gifd> = None;
    for restart in 0..config.restarts {
        let size = [batch, generator.latent()];
        let start = SeededNoise::new(seed, restart as u64).normal(size, &device);
        let found = match one_restart(objective, generator, config, start) {
            // Other restarts may do better.
            Err(error) if error.is_of_one_start() => continue,
            found => found?,
        };
        let better = answer.as_ref().is_none_or(|best| found.cost < best.cost);
        if better || config.last_restart {
            answer = Some(found);
        }
    }
    answer.ok_or(LeakageError::NoRestart)
}

fn one_restart(
    objective: &Objective<'_>,
    generator: &dyn StagedGenerator,
    config: &GifdConfig,
    start: Tensor<2>,
) -> Result<Gifd, LeakageError> {
    let shape = generator.shape();
    let also = |x: &Tensor<2>| config.prior.slope(x, shape);
    let search =
        |k: usize,
         start: Tensor<2>,
         then: &mut dyn FnMut(Tensor<2>, f64) -> Result<Tensor<2>, LeakageError>| {
            Descent {
                steps: config.steps,
                rate: &|share| config.learning_rate * learning_rate_factor(share),
                slope: &mut |h| Ok(through_generator(generator, objective, &also, k, h)?.slope),
                then,
            }
            .run(start)
        };
    let of_stage = |k: usize, h: &Tensor<2>| {
        let pictures = generator.pictures(k, h.clone()).without_autodiff();
        let pictures = pictures.clamp(0.0, 1.0);
        let cost = objective(&pictures)?.cost;
        Ok::<_, LeakageError>(StageResult { pictures, cost })
    };

    // Stage 0: the latent vector, on its sphere.
    let lengths = row_norms(&start); // [batch, 1]
    let mut h = search(0, start, &mut |z, _| {
        Ok(match config.sphere {
            true => onto_sphere(z, &lengths),
            false => z,
        })
    })?;
    let mut stages = vec![of_stage(0, &h)?];
    for (before, &radius) in config.radii.iter().enumerate() {
        // h_k = G_k(h), the centre c of the ball.
        let k = before + 1;
        let centre = generator.stage(before, h).without_autodiff(); // [batch, features]
        let ball = L1Ball::new(radius)?;
        h = search(k, centre.clone(), &mut |h, _| match config.ball {
            true => into_balls(h, &centre, &ball),
            false => Ok(h),
        })?;
        stages.push(of_stage(k, &h)?);
    }
    let chosen = match config.select {
        Select::LastStage => stages.last(),
        Select::MatchingCost => stages.iter().min_by(|a, b| a.cost.total_cmp(&b.cost)),
    };
    let chosen = chosen.ok_or(LeakageError::NoRestart)?.clone();
    Ok(Gifd {
        pictures: chosen.pictures,
        cost: chosen.cost,
        stages,
    })
}

#[cfg(test)]
mod tests;
