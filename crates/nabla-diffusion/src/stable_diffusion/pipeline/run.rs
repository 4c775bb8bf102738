//! What a run of the pipeline is made of: texts, a start, options, and what of one's own takes part.

use burn::tensor::Tensor;

use super::SamplerChoice;
use crate::correction::Correction;
use crate::guidance::Guidance;
use crate::sigma_spacing::SigmaSpacing;

/// A text as the UNet takes it.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// `[1, words, channels]`.
    pub text: Tensor<3>,
    /// `[1, channels]`, of SDXL.
    pub pooled: Option<Tensor<2>>,
    /// How many pieces of the text did not fit, and were left out.
    pub cut: usize,
}

/// What sampling starts from.
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
        /// How much of it is made anew: 0 is nothing, 1 everything.
        strength: f64,
    },
    /// A picture of which a part is made anew.
    Masked {
        /// `[1, 3, height, width]` from −1 to 1.
        picture: Tensor<4>,
        /// Above ½ where it is made anew, `[1, 1, height, width]`.
        mask: Tensor<4>,
        /// How much of it is made anew there.
        strength: f64,
    },
}

/// How a picture is sampled.
#[derive(Clone, Debug)]
pub struct SamplingOptions {
    /// Height and width, in pixels.
    pub size: [usize; 2],
    /// Steps of the sampler, before a strength takes some away.
    pub steps: usize,
    /// Strength of the classifier-free guidance `s`; 1 is none.
    pub guidance_scale: f64,
    /// `φ`.
    pub guidance_rescale: f64,
    /// The sampler. Default: the folder's own.
    pub sampler: SamplerChoice,
    /// How the noise levels are spaced; without it, as the folder says.
    pub sigmas: Option<SigmaSpacing>,
    /// Of the noise.
    pub seed: u64,
    /// Height and width that the picture had originally, for SDXL; without it, its size. Small ones make
    /// it blurred.
    pub original_size: Option<[usize; 2]>,
    /// Top and left of the crop, for SDXL.
    pub crop: [usize; 2],
}

impl SamplingOptions {
    /// The defaults that people know: 30 steps, guidance 7.5, no rescale, seed 42.
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

/// Noise that a run takes from elsewhere than its seed.
#[derive(Clone, Debug, Default)]
pub struct GivenNoise {
    /// Of the start, `[1, channels, height/8, width/8]`.
    pub start: Option<Tensor<4>>,
    /// Of the picture's latent, of the same shape.
    pub posterior: Option<Tensor<4>>,
    /// Of the masked picture's latent, of the same shape.
    pub masked_posterior: Option<Tensor<4>>,
}

/// What of one's own takes part in a run.
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
}

impl<'a> RunDoors<'a> {
    /// The same with a guidance in the place of the classifier-free one of the options. The positive text is
    /// its [`Condition::FIRST`](crate::denoiser::Condition::FIRST), the negative one its
    /// [`Condition::Without`](crate::denoiser::Condition::Without).
    #[must_use]
    pub fn guided_by(self, guidance: &'a mut dyn Guidance) -> Self {
        Self {
            guidance: Some(guidance),
            ..self
        }
    }

    /// The same with one more correction, which sees predictions after those before it, and before a mask
    /// keeps what is known.
    #[must_use]
    pub fn corrected_by(mut self, correction: &'a mut (dyn Correction + 'a)) -> Self {
        self.corrections.push(correction);
        self
    }

    /// The same with noise of which some is given.
    #[must_use]
    pub fn with_noise(self, given: GivenNoise) -> Self {
        Self { given, ..self }
    }
}

impl std::fmt::Debug for RunDoors<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunDoors")
            .field("guidance", &self.guidance)
            .field("corrections", &self.corrections.len())
            .field("given", &self.given)
            .finish()
    }
}

/// Where a run is.
#[derive(Clone, Debug)]
pub struct SamplingProgress<'a> {
    /// Calls of the network that are done.
    pub done: usize,
    /// Calls that there are.
    pub total: usize,
    /// The latent predicted last, `[1, channels, height/8, width/8]`.
    pub predicted: &'a Tensor<4>,
}
