//! A model's UNet with texts bound to it: Stable Diffusion as a [`Denoiser`].
//!
//! With it, you can run every sampler of this crate, and your own guidances and corrections, on Stable
//! Diffusion. It works on the latents of [`StableDiffusion::encode`] and [`StableDiffusion::decode`], in the
//! variance-preserving form, and predicts what the network predicts: `ε` or `v`. Its texts are its
//! [conditions](Condition); one of them may be the text for [`Condition::Without`].
//!
//! This example of your own guidance combines two texts, each of which pulls away from the negative one
//! (composable diffusion; Liu et al., 2022, arXiv 2206.01714):
//!
//! ```no_run
//! use std::path::Path;
//!
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::asking::Step;
//! use nabla_diffusion::denoiser::{Condition, Denoised};
//! use nabla_diffusion::guidance::{Guidance, ModelAt};
//! use nabla_diffusion::sampler::Sampling;
//! use nabla_diffusion::sampler_error::OwnError;
//! use nabla_diffusion::seeded_noise::SeededNoise;
//! use nabla_diffusion::stable_diffusion::model_folder::ModelFolder;
//! use nabla_diffusion::stable_diffusion::pipeline::{LoadOptions, SamplingOptions, StableDiffusion};
//!
//! #[derive(Debug)]
//! struct TwoTexts;
//!
//! impl Guidance for TwoTexts {
//!     fn guide(&mut self, _step: &Step<'_>, model: &mut ModelAt<'_>) -> Result<Denoised, OwnError> {
//!         let texts = [Condition::Without, Condition::Given(0), Condition::Given(1)];
//!         let [nothing, sea, storm] = model.ask(texts)?;
//!         let from_nothing = |text: Tensor<4>| text - nothing.clone();
//!         let both = from_nothing(sea) * 5.0 + from_nothing(storm) * 2.5;
//!         Ok(model.read(nothing.clone() + both)?)
//!     }
//! }
//!
//! let (device, options) = (Device::flex(), SamplingOptions::new([512, 512]));
//! let folder = ModelFolder::open(Path::new("stable-diffusion-v1-5"))?;
//! let model = StableDiffusion::load(&folder, &device, &LoadOptions::default())?;
//!
//! let nothing = model.encode_nothing()?;
//! let [sea, storm] = [model.encode_text("the sea")?, model.encode_text("a thunderstorm")?];
//! let unet = model.denoiser(&[&sea, &storm], Some(&nothing), &options, None)?;
//!
//! let made = model.scheduler().sampler(&"dpm++2m".into(), None, 30)?;
//! let mut noise = SeededNoise::new(42, 0);
//! let start = noise.normal(model.latent_shape(1, &options), &device) * made.start_scale;
//! let mut guidance = TwoTexts;
//! let sampling = Sampling::of(&unet).guided_by(&mut guidance);
//! let latent = sampling.run(&made.sampler, start, &mut noise)?;
//! let picture = model.decode(latent)?; // [1, 3, 512, 512], from -1 to 1
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use burn::tensor::{DType, Tensor};
use nabla_base::OutOfRange;

use super::attention::Context;
use super::control_net::Control;
use super::ip_adapter::ImagePrompt;
use super::pipeline::{
    Conditioning, SamplingOptions, StableDiffusion, StableDiffusionError, wrong,
};
use super::unet2d_condition::{AddedCondition, Inputs, Residuals, UNet2DCondition};
use crate::block_skipping::{BlockSet, SkippableDenoiser};
use crate::denoiser::{Condition, Denoiser, Prediction, rows};
use crate::level::{Level, Levels};
use crate::sampler_error::{OwnError, SamplerError};

/// A UNet with one or several texts bound to it; see the [module](self).
#[derive(Clone, Debug)]
pub struct ConditionedUNet<'a> {
    unet: &'a UNet2DCondition,
    prediction: Prediction,
    channels: usize,
    /// The number of texts that are conditions; one more may be the text for no condition.
    given: usize,
    /// `[texts, words, channels]`
    text: Tensor<3>,
    added: Option<AddedCondition>,
    /// What is concatenated to the latent, `[1, 1 + channels, height, width]`.
    inpainting: Option<Tensor<4>>,
    /// Pictures beside the texts, in the order of the model's IP-Adapters.
    prompts: Vec<ImagePrompt>,
    ip_adapters: usize,
    /// Height and width of the latents.
    size: [usize; 2],
    controls: Vec<Control<'a>>,
    /// The times of the run's steps, from the least noise on; only to know which controls act.
    times: Vec<f64>,
    dtype: DType,
}

impl<'a> ConditionedUNet<'a> {
    pub(super) fn new(
        model: &'a StableDiffusion,
        texts: &[&Conditioning],
        without: Option<&Conditioning>,
        options: &SamplingOptions,
        inpainting: Option<Tensor<4>>,
    ) -> Result<Self, StableDiffusionError> {
        let Some(&first) = texts.first() else {
            return Err(OutOfRange::new("number of texts", 0, "at least 1").into());
        };
        let given = texts.len();
        let texts: Vec<&Conditioning> = texts.iter().copied().chain(without).collect();
        let [_, _, channels] = first.text.dims();
        for text in &texts {
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
        let latent_size = [height, width];
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
            given,
            text: text.cast(dtype),
            added,
            inpainting,
            prompts: Vec::new(),
            ip_adapters: model.ip_adapters,
            size: latent_size,
            controls: Vec::new(),
            times: Vec::new(),
            dtype,
        })
    }

    /// The same under the control of networks that read a picture.
    ///
    /// - `levels`: those of the run, which decide in which steps a control acts
    ///
    /// # Errors
    /// If a control's picture does not have the size of the picture to make.
    pub fn controlled_by(
        mut self,
        controls: Vec<Control<'a>>,
        levels: &Levels,
    ) -> Result<Self, StableDiffusionError> {
        for control in &controls {
            control.check(self.size)?;
        }
        self.controls.extend(controls);
        self.times = (0..levels.steps())
            .map(|index| levels.level(index).time())
            .collect();
        Ok(self)
    }

    /// The same with pictures beside every text except that for no condition, one for each of the model's
    /// [IP-Adapters](super::ip_adapter), in their order.
    ///
    /// # Errors
    /// If there are more pictures than adapters.
    pub fn prompted_by(mut self, prompts: Vec<ImagePrompt>) -> Result<Self, StableDiffusionError> {
        self.prompts.extend(prompts);
        let (found, most) = (self.prompts.len(), self.ip_adapters);
        match found > most {
            true => wrong(
                "number of pictures as prompts",
                found.to_string(),
                format!("at most {most}, one for each IP-Adapter of the model"),
            ),
            false => Ok(self),
        }
    }

    /// The tokens of the pictures for each row, and their scales.
    fn pictures(&self, conditions: &[Condition]) -> Vec<(Tensor<3>, f64)> {
        let pictures = self.prompts.iter().map(|prompt| {
            let rows = conditions.iter().map(|condition| match condition {
                Condition::Without => prompt.without.clone(),
                Condition::Given(_) => prompt.with.clone(),
            });
            (Tensor::cat(rows.collect(), 0), prompt.scale)
        });
        pictures.collect()
    }

    /// The number of the step (from 0) to which a call at `time` belongs.
    fn step_at(&self, time: f64) -> usize {
        let calmer = self.times.partition_point(|&t| t < time - 1e-6);
        self.times.len().saturating_sub(1 + calmer)
    }

    /// The sum of what the controls add to the UNet's maps; `None` if none of them acts.
    ///
    /// - `conditions`: of each row
    fn residuals(
        &self,
        time: f64,
        conditions: &[Condition],
        x: &Tensor<4>,
        times: &Tensor<1>,
        text: &Tensor<3>,
        added: Option<&AddedCondition>,
    ) -> Option<Residuals> {
        let mut sum: Option<Residuals> = None;
        for control in &self.controls {
            if !control.acts_in(self.step_at(time), self.times.len()) {
                continue;
            }
            let residuals = match control.guesses() {
                false => control.residuals(x.clone(), times.clone(), text, added),
                true => {
                    let with_text = |condition: &Condition| *condition != Condition::Without;
                    let kept: Vec<bool> = conditions.iter().map(with_text).collect();
                    let chosen: Vec<usize> = (0..kept.len()).filter(|&row| kept[row]).collect();
                    if chosen.is_empty() {
                        continue;
                    }
                    let added = added.map(|added| AddedCondition {
                        text: rows::select(&added.text, &chosen),
                        size: rows::select(&added.size, &chosen),
                    });
                    let residuals = control.residuals(
                        rows::select(x, &chosen),
                        rows::select(times, &chosen),
                        &rows::select(text, &chosen),
                        added.as_ref(),
                    );
                    residuals.map(|map| with_zeros(map, &kept))
                }
            };
            sum = Some(match sum {
                Some(sum) => sum.plus(residuals),
                None => residuals,
            });
        }
        sum
    }

    /// The row of the text of a condition.
    fn row(&self, condition: Condition) -> Result<usize, SamplerError> {
        let texts = self.text.dims()[0];
        match condition {
            Condition::Given(number) if number < self.given => Ok(number),
            Condition::Without if texts > self.given => Ok(self.given),
            _ => Err(SamplerError::NoCondition {
                condition,
                known: match texts > self.given {
                    true => format!("{} text(s), and one without", self.given),
                    false => format!("{} text(s), and none without", self.given),
                },
            }),
        }
    }
}

impl ConditionedUNet<'_> {
    /// Evaluates the network, each row under its own condition.
    ///
    /// - `x`: latents, `[rows, channels, height/8, width/8]`
    /// - `skipped`: the blocks that are not computed
    /// - `pass`: gets the network and its inputs
    fn evaluate<R>(
        &self,
        x: Tensor<4>,
        level: Level,
        conditions: impl Iterator<Item = Condition>,
        skipped: &BlockSet,
        pass: impl FnOnce(&UNet2DCondition, Inputs<'_>) -> R,
    ) -> Result<R, OwnError> {
        let device = x.device();
        let [count, channels, _, _] = x.dims();
        if channels != self.channels {
            let channels = channels.to_string();
            let expected = format!("{}, as the model's latents have", self.channels);
            wrong("number of channels of the latents", channels, expected)?;
        }
        let conditions: Vec<Condition> = conditions.collect();
        let rows = conditions.iter().map(|&condition| self.row(condition));
        let rows = rows.collect::<Result<Vec<usize>, _>>()?;
        let x = match &self.inpainting {
            Some(extra) => Tensor::cat(vec![x, extra.clone().repeat_dim(0, count)], 1),
            None => x,
        };
        let x = x.cast(self.dtype);
        let times = level.times(count, &device);
        let text = rows::select(&self.text, &rows);
        let added = self.added.as_ref().map(|added| AddedCondition {
            text: rows::select(&added.text, &rows),
            size: rows::select(&added.size, &rows),
        });
        let residuals = match self.controls.is_empty() {
            true => None,
            // A control does not get the mask and the masked picture.
            false => self.residuals(
                level.time(),
                &conditions,
                &x.clone().slice_dim(1, 0..self.channels),
                &times,
                &text,
                added.as_ref(),
            ),
        };
        let pictures = self.pictures(&conditions);
        let context = Context {
            text: &text,
            pictures: &pictures,
        };
        let inputs = Inputs {
            x,
            timestep: times,
            context: &context,
            added: added.as_ref(),
            residuals,
            skipped,
        };
        Ok(pass(self.unet, inputs))
    }
}

impl Denoiser for ConditionedUNet<'_> {
    fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// - `x`: latents, `[batch, channels, height/8, width/8]`; for SDXL and inpainting, they must have the
    ///   given size
    /// - returns tensors of the shape of `x`, in `f32`
    fn predict(
        &self,
        x: Tensor<4>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        rows::of_conditions(x, conditions, |x, rows| self.predict_rows(x, level, rows))
    }

    /// In one call.
    fn predict_rows(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<4>, OwnError> {
        self.predict_rows_skipping(x, level, rows, BlockSet::none())
    }

    fn predict_perturbed(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<4>, OwnError> {
        let each = rows.iter().map(|&(_, condition)| condition);
        let output = self.evaluate(x, level, each, BlockSet::none(), |unet, inputs| {
            unet.forward_perturbed(inputs)
        })?;
        Ok(output.cast(DType::F32))
    }

    fn predict_attending(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<(Tensor<4>, Tensor<3>), OwnError> {
        let each = rows.iter().map(|&(_, condition)| condition);
        let (output, attention) =
            self.evaluate(x, level, each, BlockSet::none(), |unet, inputs| {
                unet.forward_attending(inputs)
            })?;
        Ok((output.cast(DType::F32), attention))
    }
}

impl SkippableDenoiser for ConditionedUNet<'_> {
    fn blocks(&self) -> usize {
        self.unet.blocks()
    }

    fn predict_rows_skipping(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
        skipped: &BlockSet,
    ) -> Result<Tensor<4>, OwnError> {
        let each = rows.iter().map(|&(_, condition)| condition);
        let output = self.evaluate(x, level, each, skipped, |unet, inputs| {
            unet.forward_joined(inputs, &mut |_, h| h)
        })?;
        Ok(output.cast(DType::F32))
    }
}

/// The rows of `x` where `kept` is true, and rows of zeros elsewhere.
fn with_zeros(x: Tensor<4>, kept: &[bool]) -> Tensor<4> {
    let zeros = x.clone().slice_dim(0, 0..1).zeros_like();
    let mut row = 0;
    let rows = kept.iter().map(|kept| match kept {
        true => {
            row += 1;
            x.clone().slice_dim(0, row - 1..row)
        }
        false => zeros.clone(),
    });
    Tensor::cat(rows.collect(), 0)
}
