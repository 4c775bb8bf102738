//! A style learned by a denoiser of labelled pictures: all its weights, tuned by AdjointDPM along a loss of finished
//! pictures.
//!
//! Source: Pan et al., 2024, arXiv 2307.10711, section 5.2.

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::Tensor;
use nabla_base::range;

use super::ClassDenoiser;
use crate::adjoint_dpm::{
    AdjointDpm, AdjointError, ModuleGradients, StyleSample, Tuning, TuningProgress,
};
use crate::denoiser::{Condition, Denoiser, RowConditions};
use crate::guidance::ClassifierFree;
use crate::level::Levels;
use crate::sampler_error::{OwnError, SamplerError};
use crate::seeded_noise::SeededNoise;
use crate::unet::UNet;

/// How a style is learned.
#[derive(Clone, Debug)]
pub struct ClassStyleConfig {
    /// The classes that are drawn, in turn.
    pub classes: Vec<usize>,
    /// Pictures of an iteration, each from new noise. Default 20.
    pub pictures: usize,
    /// Whether the loss also gets what the untuned denoiser draws from the same noise. Default false.
    pub with_first: bool,
    /// Steps of the sampler. Default 20.
    pub steps: usize,
    /// The scale of the classifier-free guidance, 1 for none. Default 2.
    pub guidance_scale: f64,
    /// The steps of AdamW. Default: 50 with the learning rate 0.0002.
    pub tuning: Tuning,
    /// How the pictures are drawn and differentiated.
    pub adjoint: AdjointDpm,
    /// The seed of the noise. Default 0.
    pub seed: u64,
}

impl ClassStyleConfig {
    /// The defaults.
    pub fn new(classes: Vec<usize>) -> Self {
        Self {
            classes,
            pictures: 20,
            with_first: false,
            steps: 20,
            guidance_scale: 2.0,
            tuning: Tuning::new().with_learning_rate(2e-4),
            adjoint: AdjointDpm::new(),
            seed: 0,
        }
    }

    /// Draws pictures as an iteration does.
    ///
    /// - `noise`: `[pictures, channels, height, width]`, a row for each of the model's
    ///
    /// # Errors
    /// If the model fails.
    pub fn draw(
        &self,
        model: &dyn Denoiser,
        levels: &Levels,
        noise: Tensor<4>,
    ) -> Result<Tensor<4>, AdjointError> {
        let mut guidance = ClassifierFree::new().with_scale(self.guidance_scale);
        let mut run = self.adjoint.of(model, levels)?;
        run = run.classifier_free(&mut guidance);
        Ok(run.sample(noise)?.sample().clone())
    }
}

impl ClassDenoiser {
    /// The denoiser with weights tuned along a loss of its finished pictures, and the loss before each iteration.
    ///
    /// - `loss`: of pictures that were drawn, `[pictures, channels, height, width]` from about −1 to 1, such as a
    ///   [`StyleLoss`](crate::adjoint_dpm::StyleLoss) of their feature maps
    /// - `observe`: is called after each iteration, and may stop the run
    ///
    /// # Errors
    /// If there is no class or picture, a number is out of range, the loss fails, or `observe` stops the run
    /// ([`SamplerError::Cancelled`]).
    pub fn learn_style(
        &self,
        config: &ClassStyleConfig,
        loss: &mut dyn FnMut(StyleSample) -> Result<Tensor<1>, OwnError>,
        observe: &mut dyn FnMut(TuningProgress) -> ControlFlow<()>,
    ) -> Result<(Self, Vec<f64>), AdjointError> {
        range::at_least("number of classes", config.classes.len(), 1)?;
        range::at_least("number of pictures", config.pictures, 1)?;
        let levels = self.levels(config.steps);
        let levels = levels.map_err(|error| SamplerError::from(OwnError::from(error)))?;
        let with = |network: UNet| Self {
            network,
            ..self.clone()
        };
        let mut gradient = |network: &UNet, k: usize| {
            let drawn = k * config.pictures;
            let rows = (drawn..drawn + config.pictures)
                .map(|i| Condition::Given(config.classes[i % config.classes.len()]));
            let rows: Vec<Condition> = rows.collect();
            let mut noise = SeededNoise::new(config.seed, k as u64);
            let noise = self.start(config.pictures, &levels, &mut noise);
            let first = match config.with_first {
                true => {
                    let model = RowConditions::new(self, rows.clone());
                    Some(config.draw(&model, &levels, noise.clone())?)
                }
                false => None,
            };
            let tuned = with(network.clone());
            let model = RowConditions::new(&tuned, rows);
            let mut guidance = ClassifierFree::new().with_scale(config.guidance_scale);
            let mut run = config.adjoint.of(&model, &levels)?;
            run = run.classifier_free(&mut guidance);
            let mut wanted = ModuleGradients::new(network);
            let mut of_sample = |sample| {
                let first = first.clone();
                loss(StyleSample { sample, first })
            };
            let found = run.gradient(noise, &mut of_sample, &mut wanted)?;
            Ok::<_, AdjointError>((found.loss, wanted.gradients()))
        };
        let network = self.network.clone().train();
        let (network, losses) = config.tuning.run(network, &mut gradient, observe)?;
        Ok((with(network.valid()), losses))
    }
}
