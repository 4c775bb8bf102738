//! The parts of a pipeline run: texts, a start, options, and user-defined parts.

use burn::tensor::Tensor;

use super::SamplerChoice;
use crate::autodiffusion::Plan;
use crate::correction::Correction;
use crate::guidance::{Evaluations, Guidance};
use crate::sigma_spacing::SigmaSpacing;
use crate::stable_diffusion::control_net::Control;
use crate::stable_diffusion::ip_adapter::ImagePrompt;

/// An encoded text for the UNet.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// `[1, words, channels]`.
    pub text: Tensor<3>,
    /// `[1, channels]`, for SDXL.
    pub pooled: Option<Tensor<2>>,
    /// The number of tokens of the text that did not fit and were left out.
    pub cut: usize,
}

/// The start of sampling.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one of it, and tensors in boxes are a burden to whoever makes it"
)]
pub enum Start {
    /// Noise alone.
    Noise,
    /// A picture.
    Picture {
        /// `[1, 3, height, width]` from −1 to 1.
        picture: Tensor<4>,
        /// How much of it is redrawn: 0 is nothing, 1 is everything.
        strength: f64,
    },
    /// A picture with a part to redraw.
    Masked {
        /// `[1, 3, height, width]` from −1 to 1.
        picture: Tensor<4>,
        /// Above ½ where the picture is redrawn, `[1, 1, height, width]`.
        mask: Tensor<4>,
        /// How much of it is redrawn there.
        strength: f64,
    },
    /// A picture to edit: the noise from which DDIM draws it under one text is where another text begins; see
    /// [`Ddim::invert_with`](crate::ddim::Ddim::invert_with). Both runs have the same guidance and levels, and
    /// the second one should be of DDIM without noise too.
    Inverted {
        /// `[1, 3, height, width]` from −1 to 1.
        picture: Tensor<4>,
        /// A text that says what the picture shows.
        source: Conditioning,
        /// How far the inversion goes: 0 is nowhere, 1 is to the noise alone.
        strength: f64,
        /// The number of queries per step of the inversion: 1 is the usual one, a few more are exact.
        iterations: usize,
    },
}

/// The options of sampling.
#[derive(Clone, Debug)]
pub struct SamplingOptions {
    /// Height and width, in pixels.
    pub size: [usize; 2],
    /// The number of sampler steps, before a strength reduces it.
    pub steps: usize,
    /// The strength `s` of the classifier-free guidance; 1 means no guidance.
    pub guidance_scale: f64,
    /// `φ`.
    pub guidance_rescale: f64,
    /// The sampler. Default: the folder's own.
    pub sampler: SamplerChoice,
    /// The spacing of the noise levels; `None` to follow the folder.
    pub sigmas: Option<SigmaSpacing>,
    /// The seed of the noise.
    pub seed: u64,
    /// The original height and width of the picture, for SDXL; `None` for its size. Small values make it
    /// blurred.
    pub original_size: Option<[usize; 2]>,
    /// The top and left of the crop, for SDXL.
    pub crop: [usize; 2],
}

impl SamplingOptions {
    /// The usual defaults: 30 steps, guidance 7.5, no rescale, seed 42.
    pub fn new(size: [usize; 2]) -> Self {
        Self {
            size,
            steps: 30,
            guidance_scale: 7.5,
            guidance_rescale: 0.0,
            sampler: SamplerChoice::default(),
            sigmas: None,
            seed: 42,
            original_size: None,
            crop: [0; 2],
        }
    }
}

/// Given noise, which a run uses instead of noise from its seed.
#[derive(Clone, Debug, Default)]
pub struct GivenNoise {
    /// The noise of the start, `[1, channels, height/8, width/8]`.
    pub start: Option<Tensor<4>>,
    /// The noise of the picture's latent, of the same shape.
    pub posterior: Option<Tensor<4>>,
    /// The noise of the masked picture's latent, of the same shape.
    pub masked_posterior: Option<Tensor<4>>,
}

/// User-defined parts of a run.
///
/// ```no_run
/// # use nabla_diffusion::asking::Step;
/// # use nabla_diffusion::denoiser::Denoised;
/// # use nabla_diffusion::stable_diffusion::pipeline::*;
/// # use std::ops::ControlFlow;
/// # fn run(model: StableDiffusion, text: Conditioning, nothing: Conditioning) -> Result<(), StableDiffusionError> {
/// // The predicted latents within 4 of 0.
/// let mut limit = |_: &Step<'_>, d: Denoised| {
///     let sample = d.sample.clone().clamp(-4.0, 4.0);
///     d.with_sample(sample)
/// };
/// let options = SamplingOptions {
///     sampler: SamplerChoice::named("euler").with_option("churn", 10.0),
///     ..SamplingOptions::new([512, 512])
/// };
/// let doors = RunDoors::default().corrected_by(&mut limit);
/// let latent = model.sample_with(&text, &nothing, &Start::Noise, &options, doors, &mut |_| {
///     ControlFlow::Continue(())
/// })?;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct RunDoors<'a> {
    pub(super) guidance: Option<&'a mut dyn Guidance>,
    pub(super) corrections: Vec<&'a mut (dyn Correction + 'a)>,
    pub(super) given: GivenNoise,
    pub(super) evaluations: Option<&'a mut Evaluations>,
    pub(super) controls: Vec<Control<'a>>,
    pub(super) prompts: Vec<ImagePrompt>,
    pub(super) plan: Option<&'a Plan>,
}

impl<'a> RunDoors<'a> {
    /// Sets a guidance, which replaces the classifier-free guidance of the options. The positive text is its
    /// [`Condition::FIRST`](crate::denoiser::Condition::FIRST), the negative text its
    /// [`Condition::Without`](crate::denoiser::Condition::Without).
    #[must_use]
    pub fn guided_by(self, guidance: &'a mut dyn Guidance) -> Self {
        Self {
            guidance: Some(guidance),
            ..self
        }
    }

    /// Adds a correction, which sees predictions after the corrections added before it, and before a mask
    /// restores the known part.
    #[must_use]
    pub fn corrected_by(mut self, correction: &'a mut (dyn Correction + 'a)) -> Self {
        self.corrections.push(correction);
        self
    }

    /// Adds a [ControlNet](crate::stable_diffusion::control_net) with its picture.
    #[must_use]
    pub fn controlled_by(mut self, control: Control<'a>) -> Self {
        self.controls.push(control);
        self
    }

    /// Adds a picture as a prompt, for the model's next [IP-Adapter](crate::stable_diffusion::ip_adapter).
    #[must_use]
    pub fn prompted_by(mut self, prompt: ImagePrompt) -> Self {
        self.prompts.push(prompt);
        self
    }

    /// Sets the steps, and the blocks of the UNet that are skipped in them; then the steps and the spacing of the
    /// options have no effect.
    #[must_use]
    pub fn planned_by(self, plan: &'a Plan) -> Self {
        Self {
            plan: Some(plan),
            ..self
        }
    }

    /// Sets given noise.
    #[must_use]
    pub fn with_noise(self, given: GivenNoise) -> Self {
        Self { given, ..self }
    }

    /// Adds the network evaluations of the run to `evaluations`.
    #[must_use]
    pub fn counted_in(self, evaluations: &'a mut Evaluations) -> Self {
        Self {
            evaluations: Some(evaluations),
            ..self
        }
    }
}

impl std::fmt::Debug for RunDoors<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunDoors")
            .field("guidance", &self.guidance)
            .field("corrections", &self.corrections.len())
            .field("given", &self.given)
            .field("evaluations", &self.evaluations)
            .field("controls", &self.controls)
            .field("prompts", &self.prompts)
            .field("plan", &self.plan)
            .finish()
    }
}

/// The progress of a run.
#[derive(Clone, Debug)]
pub struct SamplingProgress<'a> {
    /// The number of finished network calls.
    pub done: usize,
    /// The total number of network calls.
    pub total: usize,
    /// The last predicted latent, `[1, channels, height/8, width/8]`.
    pub predicted: &'a Tensor<4>,
}
