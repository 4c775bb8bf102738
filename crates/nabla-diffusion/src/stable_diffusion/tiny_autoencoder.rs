//! TAESD, a decoder so small that it can show a picture while it is sampled, and a matrix for the same purpose
//! if there is no such decoder.
//!
//! ```text
//! h = conv(3 tanh(z/3)),   h ← relu(conv(relu(conv(relu(conv(h))))) + h)    (blocks, with enlargements between)
//! picture = 2 h − 1
//! ```
//!
//! It takes the latents as the UNet has them, and its pictures are blurred but true. Two layouts are read: a
//! folder with an `AutoencoderTiny` of `diffusers`, or a single file, either with the names of `diffusers`
//! (`decoder.layers.…`) or of the original code (`taesd_decoder.safetensors`, `.pth`: `1.weight`,
//! `3.conv.0.weight` …). The sizes are those of the tensors. The encoder is not used.
//!
//! [`latent_colours`] is a linear map from the channels of a latent to red, green and blue at an eighth of the
//! size, which was fitted to the published autoencoders.
//!
//! Source: Ollin Boer Bohan, *Tiny AutoEncoder for Stable Diffusion*, 2023, github.com/madebyollin/taesd; the
//! matrices are those of AUTOMATIC1111's `stable-diffusion-webui`, the first by keturn (2022).

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::json;

use super::model_folder::{ModelFolderError, Part};
use super::unet2d_condition::nearest;
use super::weights::{Precision, Scope, Weights, WeightsError};
use nabla_kernels::activation::relu;
use nabla_kernels::convolution::conv2d;

/// The reason why a tiny autoencoder cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TinyAutoencoderError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] ModelFolderError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Neither a folder nor a file.
    #[error(
        "there is no TAESD {}: a folder with an AutoencoderTiny or a file taesd_decoder.safetensors was expected",
        .0.display()
    )]
    Nothing(PathBuf),
    /// Another file.
    #[error(
        "{} holds no TAESD decoder: a tensor decoder.layers.0.weight or 1.weight was expected",
        .0.display()
    )]
    Other(PathBuf),
    /// The latents have another number of channels.
    #[error("the latents have {found} channels, but the TAESD {} takes {expected}", path.display())]
    Channels {
        /// The folder or file.
        path: PathBuf,
        /// Of the latents.
        found: usize,
        /// Of the decoder.
        expected: usize,
    },
}

/// The decoder; see the [module](self).
#[derive(Debug)]
pub struct TinyAutoencoder {
    path: PathBuf,
    decoder: Decoder,
    channels: usize,
    device: Device,
    dtype: DType,
}

#[derive(Module, Debug)]
struct Decoder {
    first: Conv2d,
    blocks: Vec<Block>,
    /// For each block, what comes after it.
    after: Vec<Option<Conv2d>>,
}

#[derive(Module, Debug)]
struct Block {
    convolutions: Vec<Conv2d>,
}

/// The keys of `config.json` that the decoder depends on; the sizes are those of the tensors.
#[derive(Debug, Deserialize)]
struct TinyConfig {
    #[serde(default)]
    act_fn: Option<String>,
    #[serde(default)]
    scaling_factor: Option<f64>,
}

impl TinyAutoencoder {
    /// Loads a folder or a single file.
    ///
    /// # Errors
    /// If there is none, or it holds something else.
    pub fn load(
        path: &Path,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, TinyAutoencoderError> {
        let weights = if path.is_dir() {
            let part = Part::open(path, "AutoencoderTiny")?;
            check_config(&part)?;
            part.weights("diffusion_pytorch_model", device, precision)?
        } else if path.is_file() {
            Weights::open(&[path.to_owned()], device, precision)?
        } else {
            return Err(TinyAutoencoderError::Nothing(path.to_owned()));
        };
        // In the original code, number 0 is the bound of the latents.
        let weights = match weights.root().has("decoder.layers.0.weight") {
            true => weights,
            false => weights.with_names(original_name),
        };
        let scope = weights.root().at("decoder.layers");
        let other = || TinyAutoencoderError::Other(path.to_owned());
        let shape = scope.shape("0.weight");
        let Some(&[_, channels, 3, 3]) = shape.as_deref() else {
            return Err(other());
        };
        let decoder = Decoder::load(&scope)?.ok_or_else(other)?;
        weights.finish(|name| name.starts_with("encoder."))?;
        Ok(Self {
            path: path.to_owned(),
            decoder,
            channels,
            device: device.clone(),
            dtype: precision.dtype(),
        })
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Decodes latents.
    ///
    /// - `latents`: as the UNet has them, `[batch, channels, height, width]`
    /// - returns `[batch, 3, 8 height, 8 width]`, from −1 to 1
    ///
    /// # Errors
    /// If the latents have another number of channels.
    pub fn decode(&self, latents: Tensor<4>) -> Result<Tensor<4>, TinyAutoencoderError> {
        let [_, found, _, _] = latents.dims();
        if found != self.channels {
            return Err(TinyAutoencoderError::Channels {
                path: self.path.clone(),
                found,
                expected: self.channels,
            });
        }
        let latents = latents.to_device(&self.device).cast(self.dtype);
        let picture = self.decoder.forward((latents / 3.0).tanh() * 3.0);
        Ok((picture * 2.0 - 1.0).cast(DType::F32).clamp(-1.0, 1.0))
    }
}

/// `decoder.layers.2.conv.0.weight` as `3.conv.0.weight`.
fn original_name(name: &str) -> String {
    let found = name.strip_prefix("decoder.layers.").and_then(|rest| {
        let (number, rest) = rest.split_once('.')?;
        let number: usize = number.parse().ok()?;
        Some(format!("{}.{rest}", number + 1))
    });
    found.unwrap_or_else(|| name.to_owned())
}

fn check_config(part: &Part) -> Result<(), ModelFolderError> {
    part.check_class()?;
    let sizes = [
        "decoder_block_out_channels",
        "encoder_block_out_channels",
        "in_channels",
        "latent_channels",
        "latent_magnitude",
        "latent_shift",
        "num_decoder_blocks",
        "num_encoder_blocks",
        "out_channels",
        "force_upcast",
        "shift_factor",
        "block_out_channels",
    ];
    let off = [
        ("upsample_fn", json!("nearest")),
        ("upsampling_scaling_factor", json!(2)),
    ];
    let config: TinyConfig = part.config("config.json", &sizes, &off)?;
    if let Some(other) = config.act_fn.filter(|name| name != "relu") {
        return Err(part.unsupported("act_fn", other, "only relu is implemented"));
    }
    match config.scaling_factor.filter(|&factor| factor != 1.0) {
        Some(other) => Err(part.unsupported("scaling_factor", other, "only 1 is implemented")),
        None => Ok(()),
    }
}

impl Decoder {
    /// `None` if the layers are not in the order of such a decoder.
    fn load(scope: &Scope<'_>) -> Result<Option<Self>, WeightsError> {
        let first = convolve(&scope.at(0), scope.has("0.bias"))?;
        let (mut blocks, mut after) = (Vec::new(), Vec::new());
        // Number 1 is the activation.
        let mut number = 2;
        loop {
            let layer = scope.at(number);
            if layer.has("conv.0.weight") {
                let convolutions = [0, 2, 4].map(|i| convolve(&layer.at("conv").at(i), true));
                let convolutions = convolutions.into_iter().collect::<Result<_, _>>()?;
                blocks.push(Block { convolutions });
                after.push(None);
                number += 1;
                continue;
            }
            // An enlargement has no tensors; the layer after it has no offset.
            let last = layer.has("weight");
            let layer = scope.at(number + usize::from(!last));
            let Some(place) = after.last_mut().filter(|_| layer.has("weight")) else {
                return Ok(None);
            };
            *place = Some(convolve(&layer, layer.has("bias"))?);
            if last {
                return Ok(Some(Self {
                    first,
                    blocks,
                    after,
                }));
            }
            number += 2;
        }
    }

    fn forward(&self, latents: Tensor<4>) -> Tensor<4> {
        let mut h = relu(conv2d(&self.first, latents));
        let count = self.blocks.len();
        for (number, (block, after)) in self.blocks.iter().zip(&self.after).enumerate() {
            h = block.forward(h);
            let Some(after) = after else { continue };
            if number + 1 < count {
                let [_, _, height, width] = h.dims();
                h = nearest(h, [2 * height, 2 * width]);
            }
            h = conv2d(after, h);
        }
        h
    }
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut h = x.clone();
        for (number, layer) in self.convolutions.iter().enumerate() {
            if number > 0 {
                h = relu(h);
            }
            h = conv2d(layer, h);
        }
        relu(h + x)
    }
}

/// A convolution of the size of its tensor.
fn convolve(scope: &Scope<'_>, offset: bool) -> Result<Conv2d, WeightsError> {
    let [output, input] = match scope.shape("weight").as_deref() {
        Some([output, input, 3, 3]) => [*output, *input],
        _ => [0; 2],
    };
    if offset {
        return scope.conv2d(input, output, 3, 1);
    }
    let weight = scope.tensor("weight", [output, input, 3, 3])?;
    Ok(Conv2d {
        weight: burn::module::Param::from_tensor(weight),
        bias: None,
        stride: [1; 2],
        kernel_size: [3; 2],
        dilation: [1; 2],
        groups: 1,
        padding: PaddingConfig2d::Explicit(1, 1, 1, 1),
    })
}

/// Red, green and blue of each channel of a latent of Stable Diffusion 1.x and 2.x.
const COLOURS: [[f32; 3]; 4] = [
    [0.298, 0.207, 0.208],
    [0.187, 0.286, 0.173],
    [-0.158, 0.189, 0.264],
    [-0.184, -0.271, -0.473],
];

/// The same for SDXL.
const COLOURS_OF_XL: [[f32; 3]; 4] = [
    [0.3448, 0.4168, 0.4395],
    [-0.1953, -0.0290, 0.0250],
    [0.1074, 0.0886, -0.0163],
    [-0.3730, -0.2499, -0.2088],
];

/// What a latent shows, as far as a matrix can tell: `[batch, 3, height, width]`, from −1 to 1; `None` unless
/// it has 4 channels.
///
/// - `latents`: as the UNet has them, `[batch, channels, height, width]`
/// - `xl`: whether they are SDXL's
pub fn latent_colours(latents: Tensor<4>, xl: bool) -> Option<Tensor<4>> {
    let [batch, channels, height, width] = latents.dims();
    let colours = if xl { COLOURS_OF_XL } else { COLOURS };
    if channels != colours.len() {
        return None;
    }
    let colours = Tensor::<2>::from_floats(colours, &latents.device());
    let colours = colours.transpose().unsqueeze::<3>().repeat_dim(0, batch); // [batch, 3, channels]
    let flat = latents
        .cast(DType::F32)
        .reshape([batch, channels, height * width]);
    let picture = colours.matmul(flat).reshape([batch, 3, height, width]);
    Some(picture.clamp(-1.0, 1.0))
}
