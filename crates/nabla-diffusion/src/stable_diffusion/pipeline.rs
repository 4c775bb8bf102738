//! Text to picture: the whole pipeline of Stable Diffusion 1.x, 2.x and XL, from a folder or a single file.
//!
//! ```text
//! c = text encoder(prompt),   c₀ = text encoder(negative prompt)
//! ε̂ = ε(x, t, c₀) + s (ε(x, t, c) − ε(x, t, c₀))               classifier-free guidance
//! x_T ~ N(0, I)  →  sampler  →  z_0,   picture = decoder(z_0/0.18215)
//! ```
//!
//! - **From a picture** ([`Start::Picture`]): its latent is noised to the level of the last `⌊steps ·
//!   strength⌋` steps, and only these are taken (SDEdit).
//! - **Within a mask** ([`Start::Masked`]): where the mask is 0, the prediction is replaced by the picture's
//!   latent and the noise that was added to it, so that every step there is exactly that of the noised
//!   picture, and the end result is the picture's latent. An inpainting UNet, with 9 input channels, also
//!   gets the mask and the masked latent; its prediction is not replaced.
//! - **Guidance rescale** `φ` moves the standard deviation of the guided prediction towards that of the
//!   conditional one, by the share `φ`.
//! - **Your own parts**: [`RunDoors`] takes your guidance and corrections, and a [`SamplerChoice`] is your
//!   sampler, or one of Nabla's with options.
//!
//! The pictures of one call are independent: number `i` is the picture that the seed `seed + i` gives alone.
//!
//! Sources: Rombach et al., 2022, arXiv 2112.10752; Ho, Salimans, *Classifier-Free Diffusion Guidance*,
//! 2022, arXiv 2207.12598; Meng et al., *SDEdit*, 2022, arXiv 2108.01073; Lugmayr et al., *RePaint*, 2022,
//! arXiv 2201.09865 (the known region); Lin et al., *Common Diffusion Noise Schedules and Sample Steps are
//! Flawed*, 2023, arXiv 2305.08891, section 3.4 (rescale).

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor};
use nabla_base::OutOfRange;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::autoencoder_kl::{AutoencoderError, AutoencoderKl, Tiling};
use super::clip_text::{ClipTextEncoder, ClipTextError};
use super::clip_tokenizer::ClipTokenizerError;
use super::conditioned_unet::ConditionedUNet;
use super::control_net::ControlNetError;
use super::ip_adapter::IpAdapterError;
use super::latent_diffusion_names::LatentDiffusionNames;
use super::lora::{Lora, LoraError, LoraTarget};
use super::model_folder::{ModelFolder, ModelFolderError};
use super::model_parts::{ModelConfig, ModelWeights};
pub use super::sampler_choice::SamplerChoice;
use super::scheduler_config::{ScheduledSampler, SchedulerConfig, SchedulerError};
use super::single_file::{SingleFile, SingleFileError};
use super::text_encoding::TextPart;
use super::textual_inversion::{TextualInversion, TextualInversionError};
use super::unet2d_condition::{UNet2DCondition, UNet2DConditionConfig, nearest};
use super::weights::{Precision, Weights, WeightsError};
use crate::asking::Step;
use crate::autodiffusion::{Plan, PlanError, PlannedDenoiser, Space};
use crate::correction::Correction;
use crate::ddim::Ddim;
use crate::denoiser::{Denoised, Denoiser, Prediction};
use crate::guidance::{ClassifierFree, Evaluations, Guidance, NoGuidance};
use crate::sampler::{Sampler, Sampling};
use crate::sampler_error::{Cancelled, OwnError, SamplerError};
use crate::seeded_noise::SeededNoise;

mod checks;
mod run;

use checks::kept;
pub use run::{Conditioning, GivenNoise, RunDoors, SamplingOptions, SamplingProgress, Start};

/// The reason why the pipeline fails.
#[derive(Debug, thiserror::Error)]
pub enum StableDiffusionError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] ModelFolderError),
    /// The checkpoint.
    #[error(transparent)]
    File(#[from] SingleFileError),
    /// A LoRA.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The schedule or the sampler's options.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// The sampler, the guidance or a correction.
    #[error(transparent)]
    Sampler(SamplerError),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The text.
    #[error(transparent)]
    Tokenizer(#[from] ClipTokenizerError),
    /// The text encoder.
    #[error(transparent)]
    Text(#[from] ClipTextError),
    /// A textual inversion.
    #[error(transparent)]
    Embedding(#[from] TextualInversionError),
    /// A ControlNet.
    #[error(transparent)]
    Control(#[from] ControlNetError),
    /// An IP-Adapter.
    #[error(transparent)]
    IpAdapter(#[from] IpAdapterError),
    /// The autoencoder.
    #[error(transparent)]
    Autoencoder(#[from] AutoencoderError),
    /// Parts of the model do not fit together.
    #[error("the parts of {model} do not fit together: {reason}")]
    Parts {
        /// The folder or file.
        model: String,
        /// What does not fit.
        reason: String,
    },
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A value is not numeric, or does not fit the model.
    #[error("the {what} is {value}, but it must be {expected}")]
    Value {
        /// The name of the value.
        what: &'static str,
        /// The value.
        value: String,
        /// The expected value.
        expected: String,
    },
    /// The observer, the guidance or a correction stopped the run.
    #[error("{}", Cancelled)]
    Cancelled,
}

impl From<SamplerError> for StableDiffusionError {
    fn from(error: SamplerError) -> Self {
        match error {
            SamplerError::Cancelled => Self::Cancelled,
            other => Self::Sampler(other),
        }
    }
}

/// The error for a wrong value.
pub(super) fn wrong<T>(
    what: &'static str,
    value: impl Into<String>,
    expected: impl Into<String>,
) -> Result<T, StableDiffusionError> {
    Err(StableDiffusionError::Value {
        what,
        value: value.into(),
        expected: expected.into(),
    })
}

/// How a model is loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The precision in which it computes.
    pub precision: Precision,
    /// Changes to merge.
    pub loras: Vec<Lora>,
    /// What the UNet predicts; `None` to follow the configuration.
    pub prediction: Option<Prediction>,
}

/// A model; see the [module](self).
#[derive(Debug)]
pub struct StableDiffusion {
    pub(super) unet: UNet2DCondition,
    pub(super) config: UNet2DConditionConfig,
    vae: AutoencoderKl,
    pub(super) latent_channels: usize,
    pub(super) texts: Vec<TextPart>,
    pub(super) embeddings: Vec<TextualInversion>,
    /// The number of IP-Adapters whose projections the UNet has.
    pub(super) ip_adapters: usize,
    scheduler: SchedulerConfig,
    prediction: Prediction,
    /// Whether a missing negative prompt means zeros instead of an empty text.
    pub(super) zeros_for_nothing: bool,
    pub(super) device: Device,
    pub(super) precision: Precision,
}

impl StableDiffusion {
    /// Loads a folder; see [`ModelFolder`].
    ///
    /// # Errors
    /// If a file is missing, a configuration is for a model that is not implemented, tensors are missing,
    /// superfluous or have the wrong shape, the parts do not fit together, or a LoRA does not fit.
    pub fn load(
        folder: &ModelFolder,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Self, StableDiffusionError> {
        let config = ModelConfig::of_folder(folder)?;
        let weights = ModelWeights::of_folder(folder, &config, device, options.precision)?;
        Self::assemble(folder.path(), config, weights, device, options)
    }

    /// Loads a checkpoint; see [`SingleFile`].
    ///
    /// # Errors
    /// If the file lacks a network or contains another model, and as [`load`](Self::load).
    pub fn load_file(
        file: &SingleFile,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Self, StableDiffusionError> {
        let (config, weights) = file.parts(device, options.precision)?;
        Self::assemble(file.path(), config, weights, device, options)
    }

    /// - `path`: the source of the parts, for error messages
    fn assemble(
        path: &Path,
        config: ModelConfig,
        weights: ModelWeights,
        device: &Device,
        options: &LoadOptions,
    ) -> Result<Self, StableDiffusionError> {
        let wrong = |reason: String| StableDiffusionError::Parts {
            model: path.display().to_string(),
            reason,
        };
        if let Some(reason) = config.fault() {
            return Err(wrong(reason));
        }
        for (target, name) in [
            (LoraTarget::TextEncoder, "text_encoder"),
            (LoraTarget::TextEncoder2, "text_encoder_2"),
        ] {
            let there = config.texts.iter().any(|text| text.target == target);
            let mut loras = options.loras.iter();
            if !there && let Some(lora) = loras.find(|lora| lora.changes(target)) {
                return Err(wrong(format!(
                    "it has no {name}, which the LoRA {} changes",
                    lora.path().display()
                )));
            }
        }
        let levels = config.autoencoder.block_out_channels.len();
        let names = LatentDiffusionNames::new(&config.unet, levels);
        let merge = |target: LoraTarget, weights: Weights| {
            let loras = options.loras.iter();
            loras.fold(weights, |weights, lora| lora.merge(target, &names, weights))
        };
        let mut texts = Vec::with_capacity(config.texts.len());
        for (text, weights) in config.texts.into_iter().zip(weights.texts) {
            let weights = merge(text.target, weights);
            texts.push(TextPart {
                tokenizer: text.tokenizer,
                encoder: ClipTextEncoder::from_weights(&text.encoder, &weights)?,
            });
        }
        let unet = merge(LoraTarget::UNet, weights.unet);
        let unet = UNet2DCondition::from_weights(&config.unet, &unet)?;
        let vae = AutoencoderKl::from_weights(&config.autoencoder, &weights.autoencoder)?;
        let prediction = match options.prediction {
            Some(prediction) => prediction,
            None => config.scheduler.prediction()?,
        };
        Ok(Self {
            unet,
            latent_channels: config.autoencoder.latent_channels,
            config: config.unet,
            vae,
            texts,
            embeddings: Vec::new(),
            ip_adapters: 0,
            scheduler: config.scheduler,
            prediction,
            zeros_for_nothing: config.zeros_for_nothing,
            device: device.clone(),
            precision: options.precision,
        })
    }

    /// The same model with another tiling of large pictures in the autoencoder.
    ///
    /// # Errors
    /// If tiles overlap by more than half.
    pub fn with_tiling(mut self, tiling: Tiling) -> Result<Self, StableDiffusionError> {
        self.vae = self.vae.with_tiling(tiling)?;
        Ok(self)
    }

    /// The autoencoder.
    pub fn autoencoder(&self) -> &AutoencoderKl {
        &self.vae
    }

    /// The scheduler's configuration.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// DDIM over `steps` steps, for runs that are differentiated.
    ///
    /// # Errors
    /// If the scheduler does not support this number of steps.
    pub fn ddim(&self, steps: usize) -> Result<ScheduledSampler, StableDiffusionError> {
        Ok(self.scheduler.sampler(&"ddim".into(), None, steps)?)
    }

    /// The height and width of the pictures on which the model was trained, if its configuration states them.
    pub fn native_size(&self) -> Option<usize> {
        Some(self.config.sample_size? * self.vae.factor())
    }

    /// Heights and widths must be multiples of this factor.
    pub fn factor(&self) -> usize {
        self.vae.factor()
    }

    /// The shape of the latents of `batch` pictures, `[batch, channels, height/8, width/8]`.
    pub fn latent_shape(&self, batch: usize, options: &SamplingOptions) -> [usize; 4] {
        let [height, width] = options.size.map(|side| side / self.vae.factor());
        [batch, self.latent_channels, height, width]
    }

    /// Whether the UNet gets the mask and the masked picture as inputs.
    pub fn is_inpainting(&self) -> bool {
        self.config.in_channels != self.latent_channels
    }

    /// Whether the UNet takes the picture's original size and its crop, as SDXL's does.
    pub fn takes_sizes(&self) -> bool {
        self.config.pooled_text_channels().is_some()
    }

    /// What the model offers to a [plan](crate::autodiffusion).
    ///
    /// # Errors
    /// If the scheduler's file describes no training schedule.
    pub fn space(&self) -> Result<Space, StableDiffusionError> {
        Ok(Space {
            steps: self.scheduler.training_schedule()?.steps(),
            blocks: self.unet.blocks(),
        })
    }

    /// What the UNet predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// The UNet with texts bound to it, for your own samplers, guidances and corrections; see
    /// [`ConditionedUNet`].
    ///
    /// - `texts`: the conditions, at least one, each [encoded](Self::encode_text) or
    ///   [nothing](Self::encode_nothing)
    /// - `without`: the text for no condition, for guidance: a negative text, or
    ///   [nothing](Self::encode_nothing)
    /// - `options`: only the sizes and the crop are used, as inputs of SDXL's UNet
    /// - `inpainting`: the additional inputs of an [inpainting](Self::is_inpainting) UNet, the mask and the
    ///   latent of the masked picture, `[1, 1 + channels, height/8, width/8]`
    ///
    /// # Errors
    /// If there is no text, a text belongs to another model, `inpainting` is missing or given to another kind
    /// of UNet, or a size is wrong.
    pub fn denoiser(
        &self,
        texts: &[&Conditioning],
        without: Option<&Conditioning>,
        options: &SamplingOptions,
        inpainting: Option<Tensor<4>>,
    ) -> Result<ConditionedUNet<'_>, StableDiffusionError> {
        self.check_sizes(options)?;
        ConditionedUNet::new(self, texts, without, options, inpainting)
    }

    /// Samples a latent, `[1, channels, height/8, width/8]`.
    ///
    /// - `negative`: the negative text; used if the guidance is not 1
    /// - `observe`: is called after each network call, and may stop the run
    ///
    /// # Errors
    /// If a size, a strength or an option of the sampler is wrong; [`StableDiffusionError::Cancelled`] if
    /// `observe` stops the run.
    pub fn sample(
        &self,
        positive: &Conditioning,
        negative: &Conditioning,
        start: &Start,
        options: &SamplingOptions,
        observe: &mut dyn FnMut(SamplingProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Tensor<4>, StableDiffusionError> {
        let doors = RunDoors::default();
        self.sample_with(positive, negative, start, options, doors, observe)
    }

    /// [`sample`](Self::sample) with your own guidance and corrections, or with a plan.
    ///
    /// # Errors
    /// As [`sample`](Self::sample), and those of the guidance and the corrections.
    pub fn sample_with(
        &self,
        positive: &Conditioning,
        negative: &Conditioning,
        start: &Start,
        options: &SamplingOptions,
        doors: RunDoors<'_>,
        observe: &mut dyn FnMut(SamplingProgress<'_>) -> ControlFlow<()>,
    ) -> Result<Tensor<4>, StableDiffusionError> {
        let RunDoors {
            guidance,
            mut corrections,
            given,
            evaluations,
            controls,
            prompts,
            plan,
        } = doors;
        let mut uncounted = Evaluations::new();
        let evaluations = evaluations.unwrap_or(&mut uncounted);
        let steps = plan.map_or(options.steps, Plan::count);
        let options = &SamplingOptions {
            steps,
            ..options.clone()
        };
        self.check(start, options)?;
        let shape = self.latent_shape(1, options);
        let [_, _, height, width] = shape;
        let mut noise = SeededNoise::new(options.seed, 0);
        let mut draw = |given: &Option<Tensor<4>>| match given {
            Some(tensor) => tensor.clone(),
            None => noise.normal(shape, &self.device),
        };

        let scheduled = match plan {
            Some(plan) => self.scheduler.planned_sampler(&options.sampler, plan)?,
            None => self
                .scheduler
                .sampler(&options.sampler, options.sigmas, steps)?,
        };
        let (sampler, scale) = (scheduled.sampler, scheduled.start_scale);
        // A start from a picture takes only some of them.
        let levels = sampler.levels().clone();
        let (sampler, x, known, extra) = match start {
            Start::Noise => {
                let x = draw(&given.start) * scale;
                let extra = match self.is_inpainting() {
                    // The whole picture is drawn, and nothing of it is known.
                    true => {
                        let grey =
                            Tensor::zeros([1, 3, options.size[0], options.size[1]], &self.device);
                        let latent = self.encode(grey, None)?;
                        let mask = latent.ones_like().slice_dim(1, 0..1);
                        Some(Tensor::cat(vec![mask, latent], 1))
                    }
                    false => None,
                };
                (sampler, x, None, extra)
            }
            Start::Picture { picture, strength } => {
                let latent = self.encode(picture.clone(), Some(draw(&given.posterior)))?;
                let sampler = sampler.last_steps(kept(options.steps, *strength))?;
                let x = noised(&sampler, latent, draw(&given.start));
                (sampler, x, None, None)
            }
            Start::Inverted {
                picture, strength, ..
            } => {
                let latent = self.encode(picture.clone(), None)?;
                let sampler = sampler.last_steps(kept(options.steps, *strength))?;
                (sampler, latent, None, None)
            }
            Start::Masked {
                picture,
                mask,
                strength,
            } => {
                let mask = nearest(mask.clone(), [height, width])
                    .greater_elem(0.5)
                    .float();
                let [latent, start] = [&given.posterior, &given.start].map(&mut draw);
                let latent = self.encode(picture.clone(), Some(latent))?;
                let (sampler, x) = match *strength < 1.0 {
                    true => {
                        let sampler = sampler.last_steps(kept(options.steps, *strength))?;
                        let x = noised(&sampler, latent.clone(), start.clone());
                        (sampler, x)
                    }
                    false => (sampler, start.clone() * scale),
                };
                if self.is_inpainting() {
                    let new = nearest(mask.clone(), options.size);
                    let masked = picture.clone() * (new.neg() + 1.0);
                    let masked = self.encode(masked, Some(draw(&given.masked_posterior)))?;
                    let extra = Tensor::cat(vec![mask, masked], 1);
                    (sampler, x, None, Some(extra))
                } else {
                    (sampler, x, Some([mask, latent, start]), None)
                }
            }
        };

        let mut none = NoGuidance::new();
        let mut usual = ClassifierFree {
            scale: options.guidance_scale,
            rescale: options.guidance_rescale,
        };
        // Without guidance, the negative text has no effect.
        let (guidance, without): (&mut dyn Guidance, _) = match guidance {
            Some(guidance) => (guidance, Some(negative)),
            None if options.guidance_scale == 1.0 => (&mut none, None),
            None => (&mut usual, Some(negative)),
        };
        let unet = ConditionedUNet::new(self, &[positive], without, options, extra)?
            .controlled_by(controls.clone(), sampler.levels())?
            .prompted_by(prompts.clone())?;
        let mut keep = |_: &Step<'_>, denoised: Denoised| match &known {
            Some(known) => keep_known(denoised, known),
            None => denoised,
        };
        let inverting = match start {
            Start::Inverted { iterations, .. } => iterations * sampler.levels().steps(),
            _ => 0,
        };
        let total = inverting + sampler.calls();
        let mut done = 0;
        let mut progress = |_: &Step<'_>, denoised: Denoised| -> Result<Denoised, OwnError> {
            done += 1;
            let progress = SamplingProgress {
                done,
                total: total.max(done),
                predicted: &denoised.sample,
            };
            match observe(progress).is_break() {
                true => Err(Cancelled.into()),
                false => Ok(denoised),
            }
        };
        let x = match start {
            Start::Inverted {
                source, iterations, ..
            } => {
                let unet = ConditionedUNet::new(self, &[source], without, options, None)?
                    .controlled_by(controls, sampler.levels())?
                    .prompted_by(prompts)?;
                let planned = plan.map(|plan| PlannedDenoiser::new(&unet, plan, &levels));
                let planned = planned.transpose()?;
                let sampling = Sampling::of(either(&unet, planned.as_ref()))
                    .guided_by(&mut *guidance)
                    .counted_in(&mut *evaluations);
                let sampling = corrected(sampling, &mut corrections, [&mut progress]);
                Ddim::new().invert_with(sampler.levels(), sampling, x, *iterations)?
            }
            _ => x,
        };
        let planned = plan.map(|plan| PlannedDenoiser::new(&unet, plan, &levels));
        let planned = planned.transpose()?;
        let sampling = Sampling::of(either(&unet, planned.as_ref()))
            .guided_by(guidance)
            .counted_in(evaluations);
        let sampling = corrected(sampling, &mut corrections, [&mut keep, &mut progress]);
        let latent = sampling.run(&sampler, x, &mut noise)?;
        Ok(match known {
            Some([mask, clean, _]) => latent * mask.clone() + clean * (mask.neg() + 1.0),
            None => latent,
        })
    }

    /// Decodes a latent to a picture, `[batch, 3, height, width]`, from −1 to 1.
    ///
    /// # Errors
    /// If the latent has the wrong number of channels.
    pub fn decode(&self, latent: Tensor<4>) -> Result<Tensor<4>, StableDiffusionError> {
        let picture = self.vae.decode(self.vae.denormalize(latent))?;
        Ok(picture.clamp(-1.0, 1.0))
    }

    /// Encodes a picture, `[batch, 3, height, width]` from −1 to 1, to a latent for the UNet: a drawn one if
    /// noise is given, otherwise the most likely one.
    ///
    /// # Errors
    /// If the size is not a multiple of [`factor`](Self::factor).
    pub fn encode(
        &self,
        picture: Tensor<4>,
        noise: Option<Tensor<4>>,
    ) -> Result<Tensor<4>, StableDiffusionError> {
        let posterior = self.vae.encode(picture)?;
        let latent = match noise {
            Some(noise) => posterior.sample(noise),
            None => posterior.mode(),
        };
        Ok(self.vae.normalize(latent))
    }
}

/// The UNet, or the UNet as a plan runs it.
fn either<'a>(
    unet: &'a ConditionedUNet<'a>,
    planned: Option<&'a PlannedDenoiser<'a>>,
) -> &'a dyn Denoiser {
    match planned {
        Some(planned) => planned,
        None => unet,
    }
}

/// A run with a user's corrections, and then ours.
fn corrected<'a, const N: usize>(
    mut sampling: Sampling<'a>,
    corrections: &'a mut [&mut dyn Correction],
    ours: [&'a mut dyn Correction; N],
) -> Sampling<'a> {
    for correction in corrections {
        sampling = sampling.corrected_by(&mut **correction);
    }
    for correction in ours {
        sampling = sampling.corrected_by(correction);
    }
    sampling
}

/// The bytes of a `safetensors` file with the tensor `latents`, `[batch, channels, height, width]`.
///
/// # Errors
/// If they cannot be read from the device.
pub fn latent_file(latents: Tensor<4>) -> Result<Vec<u8>, StableDiffusionError> {
    let shape = latents.dims().to_vec();
    let failed = |reason: String| StableDiffusionError::Value {
        what: "tensor of the latents",
        value: reason,
        expected: "readable".to_owned(),
    };
    let data = latents.cast(DType::F32).into_data();
    let view = TensorView::new(Dtype::F32, shape, data.as_bytes());
    let view = view.map_err(|e| failed(e.to_string()))?;
    safetensors::serialize([("latents", view)], None).map_err(|e| failed(e.to_string()))
}

/// A latent at the level where `sampler` starts.
fn noised(sampler: &Sampler, latent: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
    sampler.levels().add_noise(latent, noise)
}

/// The prediction where the mask is 1; elsewhere the picture's latent and the noise that was added to it.
fn keep_known(denoised: Denoised, [mask, latent, noise]: &[Tensor<4>; 3]) -> Denoised {
    let keep = mask.clone().neg() + 1.0;
    let known = |sample: Tensor<4>| sample * mask.clone() + latent.clone() * keep.clone();
    Denoised {
        sample: known(denoised.sample),
        remembered: denoised.remembered.map(known),
        epsilon: denoised.epsilon * mask.clone() + noise.clone() * keep,
        ..denoised
    }
}
