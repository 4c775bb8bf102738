//! A style learned by a UNet: a change of its attentions to the text, tuned by AdjointDPM along a loss of finished
//! pictures.
//!
//! ```text
//! x_0 = sampler(x_T, text; W + ΔW),   ΔW ← AdamW(ΔW, ∂L(x_0)/∂ΔW)
//! ```
//!
//! for the four projections of every attention to the text. `ΔW` is a product `B A` of low rank, or any matrix. Each
//! iteration draws a picture of the next prompt from new noise. The gradient comes back through all steps of the
//! sampler, in the memory of one ([`adjoint_dpm`](crate::adjoint_dpm)).
//!
//! The paper's loss is that of Gram matrices ([`StyleLoss`](crate::adjoint_dpm::StyleLoss)). Its features are those of
//! a VGG network, which no folder of a model holds; those of the model's own autoencoder
//! ([`StableDiffusion::picture_maps`]) serve here. Any other loss of the latent will do.
//!
//! Source: Pan et al., 2024, arXiv 2307.10711, section 5.2.

use std::ops::ControlFlow;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};
use nabla_base::range;

use super::attention::AttentionNames;
use super::effect::EffectError;
use super::lora::{LoraError, WrittenChange, lora_file};
use super::pipeline::{SamplingOptions, StableDiffusion, StableDiffusionError};
use crate::adjoint_dpm::{AdjointDpm, LeafGradient, StyleSample, Tuning, TuningProgress};
use crate::guidance::ClassifierFree;
use crate::level::Levels;
use crate::sampler_error::OwnError;
use crate::seeded_noise::SeededNoise;

/// How a style is learned.
#[derive(Clone, Debug)]
pub struct StyleConfig {
    /// The texts that are drawn, in turn.
    pub prompts: Vec<String>,
    /// The rank `r` of the change; `None` for whole matrices, as in the paper.
    pub rank: Option<usize>,
    /// Whether the loss also gets what the untuned model draws from the same noise.
    pub with_first: bool,
    /// The steps of AdamW.
    pub tuning: Tuning,
    /// How a picture is drawn and differentiated.
    pub adjoint: AdjointDpm,
    /// The seed of the noise, and of `A`.
    pub seed: u64,
}

impl StyleConfig {
    /// Rank 8, 50 iterations with the learning rate 0.001, Euler's method, and the seed 0.
    pub fn new(prompts: Vec<String>) -> Self {
        Self {
            prompts,
            rank: Some(8),
            with_first: false,
            tuning: Tuning::new().with_learning_rate(1e-3),
            adjoint: AdjointDpm::new(),
            seed: 0,
        }
    }

    /// Checks what needs no model.
    ///
    /// # Errors
    /// If there is no prompt, or a number is out of range.
    pub fn check(&self) -> Result<(), EffectError> {
        let checked = self
            .tuning
            .check()
            .and_then(|()| range::at_least("number of prompts", self.prompts.len(), 1))
            .and_then(|()| range::at_least("rank of the change", self.rank.unwrap_or(1), 1));
        checked.map_err(|error| EffectError::Model(error.into()))
    }
}

/// A learned style.
#[derive(Clone, Debug)]
pub struct LearnedStyle {
    /// The name of each layer, as `diffusers` has it, and its change.
    pub changes: Vec<(String, WrittenChange)>,
    /// The loss before each iteration.
    pub losses: Vec<f64>,
}

impl LearnedStyle {
    /// The bytes of a `safetensors` file that other programs read as a LoRA; see [`lora_file`].
    ///
    /// # Errors
    /// If the numbers cannot be read from the device.
    pub fn file(&self) -> Result<Vec<u8>, LoraError> {
        lora_file(&self.changes)
    }
}

/// `A` and `B`, or the change itself in the place of `B`.
#[derive(Module, Debug)]
struct LayerChange {
    down: Option<Param<Tensor<2>>>,
    up: Param<Tensor<2>>,
}

/// The changes of all layers.
#[derive(Module, Debug)]
struct Changes {
    layers: Vec<LayerChange>,
}

impl LayerChange {
    fn change(&self) -> WrittenChange {
        WrittenChange {
            down: self.down.as_ref().map(Param::val),
            up: self.up.val(),
        }
    }

    /// Without a graph.
    fn written(&self) -> WrittenChange {
        let WrittenChange { down, up } = self.change();
        WrittenChange {
            down: down.map(Tensor::inner),
            up: up.inner(),
        }
    }
}

impl StableDiffusion {
    /// The maps that the encoder of pictures has at each of its levels, the finest first,
    /// `[batch, channels, height/2ⁱ, width/2ⁱ]`.
    ///
    /// - `picture`: `[batch, 3, height, width]` from −1 to 1
    ///
    /// # Errors
    /// If the size is not a multiple of [`factor`](Self::factor).
    pub fn picture_maps(&self, picture: Tensor<4>) -> Result<Vec<Tensor<4>>, StableDiffusionError> {
        let mut maps = Vec::new();
        let see = &mut |_: usize, map: &Tensor<4>| maps.push(map.clone());
        self.autoencoder().encode_with(picture, see)?;
        Ok(maps)
    }

    /// Learns a style; see the [module](self). The model has it afterwards.
    ///
    /// - `options`: size, steps and guidance scale of the pictures
    /// - `loss`: of a latent that was drawn; [`decode`](Self::decode) is differentiable for a loss of the picture
    /// - `observe`: is called after each iteration, and may stop the run
    ///
    /// # Errors
    /// If a number is out of range, the model or the loss fails, or `observe` stops the run.
    pub fn learn_style(
        &mut self,
        config: &StyleConfig,
        options: &SamplingOptions,
        loss: &mut dyn FnMut(&Self, StyleSample) -> Result<Tensor<1>, OwnError>,
        observe: &mut dyn FnMut(TuningProgress) -> ControlFlow<()>,
    ) -> Result<LearnedStyle, EffectError> {
        config.check()?;
        let made = self.ddim(options.steps)?;
        let levels: Levels = made.sampler.levels().clone();
        let without = self.encode_nothing()?;
        let texts = config.prompts.iter().map(|text| self.encode_text(text));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let shape = self.latent_shape(1, options);
        let names = self.text_projection_names();
        let first = self.text_projections();
        let changes = Changes {
            layers: new_changes(&first, config),
        };
        let mut gradient = |changes: &Changes, k: usize| {
            let leaves: Vec<Tensor<2>> = changes
                .layers
                .iter()
                .zip(&first)
                .map(|(layer, first)| changed(first, layer).autodiff().require_grad())
                .collect();
            let text = &texts[k % texts.len()];
            let noise = SeededNoise::new(config.seed, k as u64).normal(shape, &self.device);
            let start = noise * made.start_scale;
            let mut guidance = ClassifierFree::new().with_scale(options.guidance_scale);
            let first = match config.with_first {
                true => {
                    self.set_text_projections(first.clone());
                    let bound = self.denoiser(&[text], Some(&without), options, None)?;
                    let mut run = config
                        .adjoint
                        .of(&bound, &levels)?
                        .classifier_free(&mut guidance);
                    Some(run.sample(start.clone())?.sample().clone())
                }
                false => None,
            };
            self.set_text_projections(leaves.clone());
            let bound = self.denoiser(&[text], Some(&without), options, None)?;
            let mut run = config
                .adjoint
                .of(&bound, &levels)?
                .classifier_free(&mut guidance);
            let mut wanted: Vec<LeafGradient<2>> =
                leaves.into_iter().map(LeafGradient::new).collect();
            let mut of_sample = |sample| {
                let first = first.clone();
                loss(self, StyleSample { sample, first })
            };
            let found = run.gradient(start, &mut of_sample, &mut wanted)?;
            // From the weights to what they are made of.
            let terms = changes.layers.iter().zip(wanted).map(|(layer, wanted)| {
                let gradient = wanted.gradient().cast(DType::F32).transpose();
                (layer.change().delta() * gradient.autodiff()).sum()
            });
            let scalar = terms.reduce(|sum, term| sum + term);
            let gradients = match scalar {
                Some(scalar) => GradientsParams::from_grads(scalar.backward(), changes),
                None => GradientsParams::new(),
            };
            Ok::<_, EffectError>((found.loss, gradients))
        };
        let tuned = config.tuning.run(changes, &mut gradient, observe);
        // Without graphs: those of the style, or those of before if there is none.
        let (changes, losses) = match tuned {
            Ok(tuned) => tuned,
            Err(error) => {
                self.set_text_projections(first);
                return Err(error);
            }
        };
        let layers = changes.layers.iter().zip(&first);
        let last = layers.map(|(layer, first)| changed(first, layer)).collect();
        self.set_text_projections(last);
        let written = changes.layers.iter().map(LayerChange::written);
        Ok(LearnedStyle {
            changes: names.into_iter().zip(written).collect(),
            losses,
        })
    }

    /// The names of the projections of the attentions to the text.
    fn text_projection_names(&self) -> Vec<String> {
        let attentions = self.config.cross_attentions().into_iter();
        let names = attentions.flat_map(|(attention, _)| {
            let projections = AttentionNames::TRANSFORMER.projections;
            projections.map(|projection| format!("{attention}.{projection}"))
        });
        names.collect()
    }

    /// Their weights, `[input, output]`.
    fn text_projections(&mut self) -> Vec<Tensor<2>> {
        let attentions = self.unet.cross_attentions();
        let projections = attentions.flat_map(|attention| attention.projections());
        projections.map(|linear| linear.weight.val()).collect()
    }

    fn set_text_projections(&mut self, weights: Vec<Tensor<2>>) {
        let attentions = self.unet.cross_attentions();
        let projections = attentions.flat_map(|attention| attention.projections());
        for (linear, weight) in projections.zip(weights) {
            linear.weight = Param::from_tensor(weight);
        }
    }
}

/// `W + ΔW` without a graph, `[input, output]` in the precision of `W`.
fn changed(first: &Tensor<2>, layer: &LayerChange) -> Tensor<2> {
    let sum = first.clone().cast(DType::F32) + layer.written().delta().transpose();
    sum.cast(first.dtype())
}

/// Changes of zero for weights of the shapes `[input, output]`.
fn new_changes(weights: &[Tensor<2>], config: &StyleConfig) -> Vec<LayerChange> {
    let mut draw = SeededNoise::new(config.seed, u64::MAX);
    let layers = weights.iter().map(|weight| {
        let ([input, output], device) = (weight.dims(), weight.device());
        let leaf = |tensor: Tensor<2>| {
            let tensor = tensor.cast(DType::F32);
            Param::from_tensor(tensor.autodiff().require_grad())
        };
        let down = config.rank.map(|rank| {
            // As PEFT: of the variance of a uniform number in ±1/√input.
            draw.normal([rank, input], &device) / (3.0 * input as f64).sqrt()
        });
        let columns = config.rank.unwrap_or(input);
        LayerChange {
            down: down.map(leaf),
            up: leaf(Tensor::zeros([output, columns], &device)),
        }
    });
    layers.collect()
}
