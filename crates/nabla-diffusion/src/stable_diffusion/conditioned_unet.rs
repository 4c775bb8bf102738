//! A model's UNet with texts bound to it: Stable Diffusion as a [`Denoiser`].
//!
//! With it every sampler of this crate, and every guidance and correction of one's own, runs on Stable
//! Diffusion. It works on latents, as [`StableDiffusion::encode`] makes them and
//! [`StableDiffusion::decode`] takes them, in the variance-preserving form that samplers use, and predicts
//! what the network predicts: `ε` or `v`, see [`ConditionedUNet::prediction`].
//!
//! Guidance of one's own, here of two texts at once, each pulling away from the negative one (composable
//! diffusion; Liu et al., 2022, arXiv 2206.01714):
//!
//! ```no_run
//! use std::path::Path;
//!
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::sampler::SamplerKind;
//! use nabla_diffusion::seeded_noise::SeededNoise;
//! use nabla_diffusion::stable_diffusion::model_folder::ModelFolder;
//! use nabla_diffusion::stable_diffusion::pipeline::{LoadOptions, SamplingOptions, StableDiffusion};
//!
//! let (device, options) = (Device::flex(), SamplingOptions::new([512, 512]));
//! let folder = ModelFolder::open(Path::new("stable-diffusion-v1-5"))?;
//! let model = StableDiffusion::load(&folder, &device, &LoadOptions::default())?;
//!
//! let nothing = model.encode_nothing()?;
//! let [sea, storm] = [model.encode_text("the sea")?, model.encode_text("a thunderstorm")?];
//! let unet = model.denoiser(&[&nothing, &sea, &storm], &options, None)?;
//! let guided = unet.guided(|each: &[Tensor<4>], _level| {
//!     let from_nothing = |i: usize| each[i].clone() - each[0].clone();
//!     each[0].clone() + from_nothing(1) * 5.0 + from_nothing(2) * 2.5
//! });
//!
//! let made = model.scheduler().sampler(SamplerKind::DpmSolverMultistep, None, 30)?;
//! let mut noise = SeededNoise::new(42, 0);
//! let start = noise.normal(model.latent_shape(1, &options), &device) * made.start_scale;
//! let latent = made.sampler.sample(&guided, start, &mut noise)?;
//! let picture = model.decode(latent)?; // [1, 3, 512, 512], from -1 to 1
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use burn::tensor::{DType, Tensor};

use super::pipeline::{
    Conditioning, SamplingOptions, StableDiffusion, StableDiffusionError, wrong,
};
use super::unet2d_condition::{AddedCondition, UNet2DCondition};
use crate::denoiser::{Denoiser, Prediction};
use crate::schedule::NoiseLevel;

/// A UNet with one or several texts bound to it; see the [module](self).
///
/// As a [`Denoiser`] it is the model of its first text, without guidance.
#[derive(Clone, Debug)]
pub struct ConditionedUNet<'a> {
    unet: &'a UNet2DCondition,
    prediction: Prediction,
    channels: usize,
    /// `[texts, words, channels]`
    text: Tensor<3>,
    added: Option<AddedCondition>,
    /// What is concatenated to the latent, `[1, 1 + channels, height, width]`.
    inpainting: Option<Tensor<4>>,
    dtype: DType,
}

impl<'a> ConditionedUNet<'a> {
    pub(super) fn new(
        model: &'a StableDiffusion,
        texts: &[&Conditioning],
        options: &SamplingOptions,
        inpainting: Option<Tensor<4>>,
    ) -> Result<Self, StableDiffusionError> {
        let Some(first) = texts.first() else {
            return wrong("number of texts", "0", "at least 1");
        };
        let [_, _, channels] = first.text.dims();
        for text in texts {
            let (shape, expected) = (text.text.dims(), first.text.dims());
            if shape != expected || shape[0] != 1 {
                let expected = format!("[1, {}, {channels}], as the first text's is", expected[1]);
                return wrong("shape of a text", format!("{shape:?}"), expected);
            }
        }
        if channels != model.config.cross_attention_dim {
            let expected = format!("{}, as the UNet takes", model.config.cross_attention_dim);
            return wrong(
                "number of channels of a text",
                channels.to_string(),
                expected,
            );
        }
        let [_, latent_channels, height, width] = model.latent_shape(1, options);
        match (&inpainting, model.is_inpainting()) {
            (None, true) => {
                let expected = "given, as the UNet is one for inpainting";
                return wrong("mask with the masked latent", "missing", expected);
            }
            (Some(_), false) => {
                let expected = "left out, as the UNet is none for inpainting";
                return wrong("mask with the masked latent", "given", expected);
            }
            (Some(extra), true) => {
                let expected = [1, model.config.in_channels - latent_channels, height, width];
                if extra.dims() != expected {
                    let found = format!("{:?}", extra.dims());
                    let expected = format!("{expected:?}");
                    return wrong("shape of the mask with the masked latent", found, expected);
                }
            }
            (None, false) => {}
        }
        let dtype = model.precision.dtype();
        let pooled: Option<Vec<_>> = texts.iter().map(|t| t.pooled.clone()).collect();
        let [top, left] = options.crop.map(|side| side as f32);
        let [height, width] = options.size.map(|side| side as f32);
        let original = options.original_size.unwrap_or(options.size);
        let [high, wide] = original.map(|side| side as f32);
        let added = match (model.config.pooled_text_channels(), pooled) {
            (Some(_), Some(pooled)) => {
                let size = [high, wide, top, left, height, width];
                let size = Tensor::<1>::from_floats(size, &model.device);
                Some(AddedCondition {
                    text: Tensor::cat(pooled, 0).cast(dtype),
                    size: size.unsqueeze::<2>().repeat_dim(0, texts.len()),
                })
            }
            (Some(_), None) => {
                let expected = "there, as the UNet is SDXL's";
                return wrong("pooled form of a text", "missing", expected);
            }
            (None, _) => None,
        };
        let text = Tensor::cat(texts.iter().map(|t| t.text.clone()).collect(), 0);
        Ok(Self {
            unet: &model.unet,
            prediction: model.prediction(),
            channels: latent_channels,
            text: text.cast(dtype),
            added,
            inpainting,
            dtype,
        })
    }

    /// Number of texts.
    pub fn texts(&self) -> usize {
        self.text.dims()[0]
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// The predictions for each text, in their order, from one call of the network.
    ///
    /// - `x`: latents at one level, `[batch, channels, height/8, width/8]`
    /// - returns one tensor for each text, of the shape of `x` and in `f32`
    ///
    /// # Panics
    /// If `x` has other channels than the latents of the model, or, of SDXL and of inpainting, another size
    /// than was said.
    pub fn predict_each(&self, x: Tensor<4>, level: NoiseLevel) -> Vec<Tensor<4>> {
        let texts = self.texts();
        let batch = x.dims()[0];
        let output = self.call(x, level, texts);
        (0..texts)
            .map(|i| output.clone().slice_dim(0, i * batch..(i + 1) * batch))
            .collect()
    }

    /// The predictions of the first `texts` texts, one behind the other, `[texts batch, channels, height,
    /// width]`.
    fn call(&self, x: Tensor<4>, level: NoiseLevel, texts: usize) -> Tensor<4> {
        let device = x.device();
        let [batch, channels, _, _] = x.dims();
        assert_eq!(
            channels, self.channels,
            "latents have {} channels",
            self.channels
        );
        let x = match &self.inpainting {
            Some(extra) => Tensor::cat(vec![x, extra.clone().repeat_dim(0, batch)], 1),
            None => x,
        };
        let x = x.repeat_dim(0, texts).cast(self.dtype); // [texts batch, channels, height, width]
        let times = level.timesteps(texts * batch, &device);
        let text = each_repeated(self.text.clone().slice_dim(0, 0..texts), batch);
        let added = self.added.as_ref().map(|added| AddedCondition {
            text: each_repeated(added.text.clone().slice_dim(0, 0..texts), batch),
            size: each_repeated(added.size.clone().slice_dim(0, 0..texts), batch),
        });
        let output = self.unet.forward(x, times, &text, added.as_ref());
        output.cast(DType::F32)
    }

    /// The denoiser whose prediction `combine` makes of those for each text: guidance of one's own.
    ///
    /// - `combine`: gets the predictions in the order of the texts, and the level; returns one tensor of
    ///   their shape
    pub fn guided<F>(self, combine: F) -> Guided<'a, F>
    where
        F: Fn(&[Tensor<4>], NoiseLevel) -> Tensor<4>,
    {
        Guided {
            unet: self,
            combine,
        }
    }
}

/// Every row `count` times, one behind the other.
fn each_repeated<const D: usize>(x: Tensor<D>, count: usize) -> Tensor<D> {
    if count == 1 {
        return x;
    }
    let rows = x.dims()[0];
    let rows = (0..rows).map(|i| x.clone().slice_dim(0, i..i + 1).repeat_dim(0, count));
    Tensor::cat(rows.collect(), 0)
}

impl Denoiser for ConditionedUNet<'_> {
    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn predict(&self, x: Tensor<4>, level: NoiseLevel) -> Tensor<4> {
        self.call(x, level, 1)
    }
}

/// A UNet with guidance; see [`ConditionedUNet::guided`].
#[derive(Clone, Debug)]
pub struct Guided<'a, F> {
    unet: ConditionedUNet<'a>,
    combine: F,
}

impl<F> Denoiser for Guided<'_, F>
where
    F: Fn(&[Tensor<4>], NoiseLevel) -> Tensor<4>,
{
    fn prediction(&self) -> Prediction {
        self.unet.prediction
    }

    fn predict(&self, x: Tensor<4>, level: NoiseLevel) -> Tensor<4> {
        (self.combine)(&self.unet.predict_each(x, level), level)
    }
}

/// Classifier-free guidance, `g = without + scale (with − without)`, and its rescale, which brings the
/// standard deviation of `g` back to that of `with`, `rescale` of the way; for each picture of the batch.
///
/// Sources: Ho, Salimans, *Classifier-Free Diffusion Guidance*, 2022, arXiv 2207.12598; Lin et al., *Common
/// Diffusion Noise Schedules and Sample Steps are Flawed*, 2023, arXiv 2305.08891, section 3.4.
///
/// - `without`, `with`: the predictions without and with the text, `[batch, channels, height, width]`
pub fn classifier_free_guidance(
    without: Tensor<4>,
    with: Tensor<4>,
    scale: f64,
    rescale: f64,
) -> Tensor<4> {
    let guided = without.clone() + (with.clone() - without) * scale;
    if rescale == 0.0 {
        return guided;
    }
    let deviation = |x: Tensor<4>| -> Tensor<4> {
        let batch = x.dims()[0];
        let numbers: Tensor<2> = x.flatten(1, 3);
        numbers.var(1).sqrt().reshape([batch, 1, 1, 1])
    };
    let ratio = deviation(with) / deviation(guided.clone());
    guided * (ratio * rescale + (1.0 - rescale))
}
