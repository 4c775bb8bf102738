//! The score of a [plan](crate::autodiffusion) for Stable Diffusion: the Fréchet distance of pictures of given texts to
//! reference pictures, as CLIP's encoder of pictures has it.
//!
//! The distance is named FD with CLIP, never FID. Pictures are brought to the encoder's size by averaging areas, the
//! reference pictures like those that are drawn. With fewer pictures than channels of the embedding the covariances are
//! singular; distances of equally many pictures can still be compared.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{DType, Device, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_train::frechet::{Moments, MomentsError, frechet_distance};

use super::clip_vision::ClipVisionEncoder;
use super::model_folder::{ModelFolderError, Part};
use super::pipeline::{
    Conditioning, RunDoors, SamplingOptions, StableDiffusion, StableDiffusionError, Start,
};
use super::weights::Precision;
use crate::autodiffusion::{Plan, PlanTrial};
use crate::guidance::{Evaluations, Guidance};
use crate::sampler_error::OwnError;

/// The reason why a plan has no score.
#[derive(Debug, thiserror::Error)]
pub enum TextPlanError {
    /// The encoder's folder.
    #[error(transparent)]
    Folder(#[from] ModelFolderError),
    /// The model.
    #[error(transparent)]
    Model(#[from] StableDiffusionError),
    /// The features.
    #[error(transparent)]
    Moments(#[from] MomentsError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A number cannot be read from the device.
    #[error("the features of the pictures cannot be read from the device: {0}")]
    Device(String),
    /// The caller stopped the trial.
    #[error(transparent)]
    Stopped(OwnError),
}

/// CLIP's embeddings of pictures.
#[derive(Debug)]
pub struct ClipFeatures {
    encoder: ClipVisionEncoder,
    width: usize,
}

impl ClipFeatures {
    /// Loads an encoder: a folder with `config.json` and `model.safetensors`, as that of an
    /// [IP-Adapter](super::ip_adapter).
    ///
    /// # Errors
    /// If a file is missing, or belongs to another network.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, ModelFolderError> {
        let part = Part::open(folder, "CLIPVisionModelWithProjection")?;
        let (encoder, config) = ClipVisionEncoder::load(&part, device, Precision::F32)?;
        Ok(Self {
            encoder,
            width: config.projection_dim,
        })
    }

    /// The number of features.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The features of pictures, `[batch, width]`, row by row.
    ///
    /// - `pictures`: `[batch, 3, height, width]` from −1 to 1, of any size
    ///
    /// # Errors
    /// If they cannot be read from the device.
    pub fn of(&self, pictures: Tensor<4>) -> Result<Vec<f32>, TextPlanError> {
        let size = self.encoder.size();
        let pictures = adaptive_avg_pool2d(pictures.cast(DType::F32), [size, size]);
        let pixels = ClipVisionEncoder::normalize(pictures * 0.5 + 0.5);
        let embedding = self.encoder.forward(pixels).embedding;
        let values = embedding.try_into_vec_as::<f32>();
        values.map_err(|error| TextPlanError::Device(error.to_string()))
    }

    /// Mean and covariance of the features of reference pictures.
    ///
    /// - `pictures`: `[1, 3, height, width]` each, from −1 to 1, at least two
    ///
    /// # Errors
    /// If there are fewer, or a feature is not finite.
    pub fn moments(
        &self,
        pictures: impl IntoIterator<Item = Tensor<4>>,
    ) -> Result<Moments, TextPlanError> {
        let mut features = Vec::new();
        for picture in pictures {
            features.extend(self.of(picture)?);
        }
        Ok(Moments::of(&features, self.width)?)
    }
}

/// Draws pictures of texts by plans and judges them.
#[derive(Debug)]
pub struct TextPlanTrials<'a> {
    /// The model.
    pub model: &'a StableDiffusion,
    /// Judges the pictures.
    pub features: &'a ClipFeatures,
    /// Of the reference pictures.
    pub reference: &'a Moments,
    /// What the pictures show, in turn; at least one.
    pub texts: &'a [Conditioning],
    /// What they do not show.
    pub negative: &'a Conditioning,
    /// Size, sampler, and the scale of classifier-free guidance; steps and seed have no effect.
    pub options: SamplingOptions,
}

impl TextPlanTrials<'_> {
    /// Draws so many pictures by a plan, and judges them.
    ///
    /// - `guidance`: instead of classifier-free guidance
    /// - `seed`: of the noise; picture number `i` has the seed `seed + i`
    /// - `drawn`: is called with 1 after each picture, and with 0 after each network call; an error ends the trial
    ///
    /// # Errors
    /// If the plan does not fit the model or the sampler, or the run fails.
    pub fn run(
        &self,
        plan: &Plan,
        count: usize,
        mut guidance: Option<&mut dyn Guidance>,
        seed: u64,
        drawn: &mut dyn FnMut(usize) -> Result<(), OwnError>,
    ) -> Result<PlanTrial, TextPlanError> {
        range::at_least("number of pictures", count, 2)?;
        range::at_least("number of texts", self.texts.len(), 1)?;
        let mut features = Vec::with_capacity(count * self.features.width);
        let mut evaluations = Evaluations::new();
        let mut seconds = 0.0;
        let texts = self.texts.iter().cycle().take(count);
        for (number, text) in texts.enumerate() {
            let begun = Instant::now();
            let options = SamplingOptions {
                seed: seed.wrapping_add(number as u64),
                ..self.options.clone()
            };
            let mut doors = RunDoors::default()
                .planned_by(plan)
                .counted_in(&mut evaluations);
            if let Some(guidance) = guidance.as_deref_mut() {
                doors = doors.guided_by(guidance);
            }
            let mut stopped = None;
            let latent = self.model.sample_with(
                text,
                self.negative,
                &Start::Noise,
                &options,
                doors,
                &mut |_| match drawn(0) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(error) => {
                        stopped = Some(error);
                        ControlFlow::Break(())
                    }
                },
            );
            if let Some(error) = stopped {
                return Err(TextPlanError::Stopped(error));
            }
            let picture = self.model.decode(latent?)?;
            seconds += begun.elapsed().as_secs_f64();
            features.extend(self.features.of(picture)?);
            drawn(1).map_err(TextPlanError::Stopped)?;
        }
        let distance = match Moments::of(&features, self.features.width) {
            Ok(moments) => Some(frechet_distance(self.reference, &moments)?),
            Err(MomentsError::NotFinite { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(PlanTrial {
            frechet_distance: distance.filter(|distance| distance.is_finite()),
            pictures: count,
            evaluations: evaluations.total() as f64 / count as f64,
            seconds,
        })
    }
}
