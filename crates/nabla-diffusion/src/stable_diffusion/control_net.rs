//! ControlNet: a second way down that reads a picture (edges, depth, a pose …) and tells the UNet where what
//! goes.
//!
//! ```text
//! r = zero convolutions(encoder(x + hint(picture), time, text))
//! ε = UNet(x, time, text), with s r added to the maps that its way up joins
//! ```
//!
//! The network is a copy of the UNet's [way down](super::unet_encoder), a small convolutional network for the
//! picture, whose result is added after the first convolution, and one convolution with kernel 1 for each map
//! that the UNet's way up joins. Several networks are added up.
//!
//! - **Guess mode** leaves the outputs out where there is no text (so that the guidance enlarges their effect)
//!   and weakens them towards the finest maps, from 1 down to 0.1.
//! - **A share of the run**: a network may act only from one share of the steps to another.
//!
//! Two layouts are read: folders of `diffusers` (`config.json`, `diffusion_pytorch_model.safetensors`), and
//! single files (`.safetensors`, `.pth`) with the names of `diffusers` or of the original code
//! (`control_model.input_hint_block.…`). A single file has no configuration, so its sizes are those of the
//! model that it is for.
//!
//! ```no_run
//! use burn::tensor::Tensor;
//! use nabla_diffusion::stable_diffusion::control_net::{ControlNet, ControlOptions};
//! use nabla_diffusion::stable_diffusion::pipeline::{RunDoors, StableDiffusion};
//!
//! # fn run(model: &StableDiffusion, edges: Tensor<4>) -> Result<(), Box<dyn std::error::Error>> {
//! let network = ControlNet::load("sd-controlnet-canny".as_ref(), model)?;
//! let options = ControlOptions {
//!     scale: 0.8,
//!     ..ControlOptions::default()
//! };
//! // [1, 3, height, width], from 0 to 1.
//! let doors = RunDoors::default().controlled_by(network.control(edges, options)?);
//! # let _ = doors;
//! # Ok(())
//! # }
//! ```
//!
//! Source: Zhang, Rao, Agrawala, *Adding Conditional Control to Text-to-Image Diffusion Models*, 2023, arXiv
//! 2302.05543.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{DType, Device, Tensor};
use nabla_base::range::{self, OutOfRange};

use super::attention::Context;
use super::control_net_files::{ControlNetConfig, ControlNetFiles};
use super::model_folder::ModelFolderError;
use super::pipeline::StableDiffusion;
use super::transformer::SpatialTransformer;
use super::unet_encoder::UNetEncoder;
use super::unet2d_condition::{AddedCondition, Inputs, Residuals};
use super::weights::{Scope, WeightsError};
use nabla_kernels::activation::silu;
use nabla_kernels::convolution::conv2d;

/// The reason why a ControlNet cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum ControlNetError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] ModelFolderError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Neither a folder nor a file.
    #[error(
        "there is no ControlNet {}: a folder in the diffusers layout or a .safetensors or .pth file was expected",
        .0.display()
    )]
    Nothing(PathBuf),
    /// Another file.
    #[error(
        "{} holds no ControlNet: it has neither controlnet_cond_embedding.conv_in.weight nor \
         input_hint_block.0.weight",
        .0.display()
    )]
    Other(PathBuf),
    /// It is for another model.
    #[error(
        "the ControlNet {} is for another model: its {what} is {found}, but the model's is {expected}",
        path.display()
    )]
    Model {
        /// The folder or file.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
        /// Its value.
        found: String,
        /// The model's value.
        expected: String,
    },
    /// The picture has the wrong shape.
    #[error(
        "the picture for the ControlNet {} has the shape {found:?}, but it must be {expected}",
        path.display()
    )]
    Picture {
        /// The folder or file.
        path: PathBuf,
        /// Its shape.
        found: Vec<usize>,
        /// The expected shape.
        expected: String,
    },
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

/// How a ControlNet acts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ControlOptions {
    /// By how much its outputs are multiplied. Default 1.
    pub scale: f64,
    /// The share of the run at which it begins to act. Default 0.
    pub start: f64,
    /// The share of the run at which it ends. Default 1.
    pub end: f64,
    /// Whether it acts only where there is a text, and weaker on finer maps. Default false.
    pub guess: bool,
}

impl Default for ControlOptions {
    fn default() -> Self {
        Self {
            scale: 1.0,
            start: 0.0,
            end: 1.0,
            guess: false,
        }
    }
}

/// A ControlNet; see the [module](self).
#[derive(Debug)]
pub struct ControlNet {
    path: PathBuf,
    config: ControlNetConfig,
    network: Network,
    device: Device,
    dtype: DType,
}

#[derive(Module, Debug)]
struct Network {
    encoder: UNetEncoder,
    hint: HintEmbedding,
    outputs: Vec<Conv2d>,
    middle: Conv2d,
}

impl ControlNet {
    /// Loads a folder or a single file for a model, in the model's precision and to its device.
    ///
    /// # Errors
    /// If there is none, it is another kind of network, or it is for another model.
    pub fn load(path: &Path, model: &StableDiffusion) -> Result<Self, ControlNetError> {
        let ControlNetFiles { config, weights } =
            ControlNetFiles::open(path, &model.config, &model.device, model.precision)?;
        config.check_model(path, model)?;
        let scope = weights.root();
        let unet = &config.unet;
        let network = Network {
            encoder: UNetEncoder::from_scope(unet, &scope)?,
            hint: HintEmbedding::load(&config, &scope.at("controlnet_cond_embedding"))?,
            outputs: (0..)
                .zip(unet.skip_channels())
                .map(|(i, channels)| {
                    let scope = scope.at("controlnet_down_blocks").at(i);
                    scope.conv2d(channels, channels, 1, 1)
                })
                .collect::<Result<_, _>>()?,
            middle: {
                let channels = unet.block_out_channels.last().copied().unwrap_or(0);
                scope
                    .at("controlnet_mid_block")
                    .conv2d(channels, channels, 1, 1)?
            },
        };
        weights.finish(|_| false)?;
        Ok(Self {
            path: path.to_owned(),
            config,
            network,
            device: model.device.clone(),
            dtype: model.precision.dtype(),
        })
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Binds a picture to it.
    ///
    /// - `picture`: `[1, channels, height, width]` from 0 to 1, of the size of the picture to make
    ///
    /// # Errors
    /// If the picture has another number of channels, the scale is not finite, or the shares are not in order.
    pub fn control(
        &self,
        picture: Tensor<4>,
        options: ControlOptions,
    ) -> Result<Control<'_>, ControlNetError> {
        range::finite("scale of the ControlNet", options.scale)?;
        let ControlOptions { start, end, .. } = options;
        let fits = (0.0..=1.0).contains(&start);
        range::check(fits, "start of the ControlNet", start, "in [0, 1]")?;
        let fits = (start..=1.0).contains(&end);
        let expected = format!("in [{start}, 1], from the start on");
        range::check(fits, "end of the ControlNet", end, expected)?;
        let channels = self.config.hint_channels;
        let [batch, found, _, _] = picture.dims();
        if batch != 1 || found != channels {
            return Err(ControlNetError::Picture {
                path: self.path.clone(),
                found: picture.dims().to_vec(),
                expected: format!("[1, {channels}, height, width]"),
            });
        }
        let picture = match self.config.reversed {
            true => picture.flip([1]),
            false => picture,
        };
        let picture = picture.to_device(&self.device).cast(self.dtype);
        Ok(Control {
            network: self,
            hint: self.network.hint.forward(picture),
            options,
        })
    }
}

/// A ControlNet with its picture.
#[derive(Clone, Debug)]
pub struct Control<'a> {
    network: &'a ControlNet,
    /// The embedded picture, `[1, channels, height/8, width/8]`.
    hint: Tensor<4>,
    options: ControlOptions,
}

impl Control<'_> {
    /// Checks the size of its picture.
    ///
    /// - `latent`: height and width of the latents
    pub(super) fn check(&self, latent: [usize; 2]) -> Result<(), ControlNetError> {
        let [_, _, height, width] = self.hint.dims();
        if [height, width] == latent {
            return Ok(());
        }
        let pixels = |side: usize| side << self.network.config.halvings();
        Err(ControlNetError::Picture {
            path: self.network.path.clone(),
            found: [height, width].map(pixels).to_vec(),
            expected: format!("{:?}, as the picture to make", latent.map(pixels)),
        })
    }

    /// Whether it acts in step number `step` (from 0) of `steps`.
    pub(super) fn acts_in(&self, step: usize, steps: usize) -> bool {
        let share = |step: usize| step as f64 / steps.max(1) as f64;
        share(step) >= self.options.start && share(step + 1) <= self.options.end
    }

    /// Whether it acts only where there is a text.
    pub(super) fn guesses(&self) -> bool {
        self.options.guess || self.network.config.pooled
    }

    /// What it adds to the UNet's maps.
    ///
    /// - `x`: latents, `[batch, channels, height, width]`
    pub(super) fn residuals(
        &self,
        x: Tensor<4>,
        timestep: Tensor<1>,
        text: &Tensor<3>,
        added: Option<&AddedCondition>,
    ) -> Residuals {
        let Network {
            encoder,
            outputs,
            middle,
            ..
        } = &self.network.network;
        let hint = self.hint.clone().repeat_dim(0, x.dims()[0]);
        let context = Context::text(text);
        let inputs = Inputs {
            added,
            ..Inputs::new(x, timestep, &context)
        };
        let attend = &mut |transformer: &SpatialTransformer, h| transformer.forward(h, &context);
        let encoded = encoder.forward(inputs, Some(hint), &mut |_, h| h, attend);
        let pooled = self.network.config.pooled;
        let scale = self.options.scale;
        // From 0.1 for the finest map to 1 after the middle.
        let last = outputs.len() as f64;
        let of_map = |number: usize| match self.guesses() && !pooled {
            true => scale * 10f64.powf(number as f64 / last - 1.0),
            false => scale,
        };
        let result = |convolve: &Conv2d, map, number| {
            let y = conv2d(convolve, map) * of_map(number);
            match pooled {
                true => y.mean_dim(2).mean_dim(3),
                false => y,
            }
        };
        let skips = outputs.iter().zip(encoded.skips).enumerate();
        Residuals {
            skips: skips
                .map(|(number, (convolve, map))| result(convolve, map, number))
                .collect(),
            middle: result(middle, encoded.middle, outputs.len()),
        }
    }
}

/// The small network for the picture: convolutions, each second one of which halves the size.
#[derive(Module, Debug)]
struct HintEmbedding {
    first: Conv2d,
    blocks: Vec<Conv2d>,
    last: Conv2d,
}

impl HintEmbedding {
    fn load(config: &ControlNetConfig, scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let widths = &config.hint_widths;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let mut blocks = Vec::new();
        for (i, pair) in widths.windows(2).enumerate() {
            let scope = |number| scope.at("blocks").at(number);
            blocks.push(scope(2 * i).conv2d(pair[0], pair[0], 3, 1)?);
            blocks.push(scope(2 * i + 1).conv2d(pair[0], pair[1], 3, 2)?);
        }
        let result = config.unet.block_out_channels[0];
        Ok(Self {
            first: scope
                .at("conv_in")
                .conv2d(config.hint_channels, first, 3, 1)?,
            blocks,
            last: scope.at("conv_out").conv2d(last, result, 3, 1)?,
        })
    }

    /// `[1, channels, height, width]` to `[1, channels of the UNet, height/8, width/8]`.
    fn forward(&self, picture: Tensor<4>) -> Tensor<4> {
        let mut h = silu(conv2d(&self.first, picture));
        for block in &self.blocks {
            h = silu(conv2d(block, h));
        }
        conv2d(&self.last, h)
    }
}
