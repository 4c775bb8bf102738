//! A small staged generator: the decoder of a [variational autoencoder](super::decoder_training).
//!
//! ```text
//! z → tanh(W_1 z + b_1) → … → sigmoid(W_N h + b_N)        one linear layer a stage
//! ```

use std::path::Path;

use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_kernels::activation::{sigmoid, tanh};
use nabla_kernels::linear::linear;
use nabla_train::network_folder::{NetworkFolder, NetworkFolderError};
use serde::{Deserialize, Serialize};

use super::staged_generator::StagedGenerator;

/// The configuration's file name in a generator's folder.
pub const CONFIG_FILE: &str = "generator.json";

const FOLDER: NetworkFolder = NetworkFolder {
    kind: "generator",
    config: CONFIG_FILE,
};

/// The most numbers of a picture, and units of a layer.
const MAX_WIDTH: usize = 65_536;

/// The reason why a generator is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// Its folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] NetworkFolderError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

/// The size of a [`Decoder`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels, height and width of the pictures.
    pub shape: [usize; 3],
    /// The length of the latent vector.
    pub latent: usize,
    /// The units of each stage but the last, which makes the pixels.
    pub hidden: Vec<usize>,
}

impl DecoderConfig {
    /// With a latent vector of 16 numbers, and stages of 64 and 256 units.
    pub fn of(shape: [usize; 3]) -> Self {
        Self {
            shape,
            latent: 16,
            hidden: vec![64, 256],
        }
    }

    /// The decoder, with weights to be drawn or loaded.
    ///
    /// # Errors
    /// If a size is 0 or above 65536.
    pub fn init(&self, device: &Device) -> Result<Decoder, OutOfRange> {
        let pixels = self
            .shape
            .iter()
            .try_fold(1_usize, |n, &s| n.checked_mul(s));
        let pixels = pixels.unwrap_or(usize::MAX);
        range::within("numbers of a generator's picture", pixels, 1..=MAX_WIDTH)?;
        let widths: Vec<usize> = [self.latent]
            .into_iter()
            .chain(self.hidden.iter().copied())
            .chain([pixels])
            .collect();
        for &width in &widths {
            range::within("width of a generator's stage", width, 1..=MAX_WIDTH)?;
        }
        Ok(Decoder {
            layers: layers(&widths, device),
            shape: self.shape,
            latent: self.latent,
        })
    }
}

pub(super) fn layers(widths: &[usize], device: &Device) -> Vec<Linear> {
    let layer = |pair: &[usize]| {
        LinearConfig::new(pair[0], pair[1])
            .with_initializer(Initializer::Zeros)
            .init(device)
    };
    widths.windows(2).map(layer).collect()
}

/// The generator.
#[derive(Module, Debug)]
pub struct Decoder {
    layers: Vec<Linear>,
    #[module(skip)]
    shape: [usize; 3],
    #[module(skip)]
    latent: usize,
}

impl StagedGenerator for Decoder {
    fn stages(&self) -> usize {
        self.layers.len()
    }

    fn latent(&self) -> usize {
        self.latent
    }

    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn stage(&self, k: usize, feature: Tensor<2>) -> Tensor<2> {
        self.activated(k, linear(&self.layers[k], tracked(feature)))
    }

    /// Each layer's matrix, row by row, and then its bias.
    fn weights(&self) -> Tensor<1> {
        let parts = self.layers.iter().flat_map(|layer| {
            let matrix = layer.weight.val().flatten::<1>(0, 1);
            [Some(matrix), layer.bias.as_ref().map(|bias| bias.val())]
        });
        Tensor::cat(parts.flatten().collect(), 0).without_autodiff()
    }

    fn pictures_by(&self, weights: Tensor<2>, latent: Tensor<2>) -> Tensor<2> {
        let weights = tracked(weights);
        let [batch, _] = weights.dims();
        let mut at = 0;
        let mut next = |length: usize| {
            at += length;
            weights.clone().narrow(1, at - length, length)
        };
        let mut h = tracked(latent); // [batch, features]
        for (k, layer) in self.layers.iter().enumerate() {
            let [inputs, outputs] = layer.weight.dims();
            let matrix = next(inputs * outputs).reshape([batch, inputs, outputs]);
            let product = h.unsqueeze_dim::<3>(1).matmul(matrix); // [batch, 1, outputs]
            let mut sums = product.reshape([batch, outputs]);
            if layer.bias.is_some() {
                sums = sums + next(outputs);
            }
            h = self.activated(k, sums);
        }
        h
    }
}

fn tracked(x: Tensor<2>) -> Tensor<2> {
    match x.is_autodiff() {
        true => x,
        false => x.autodiff(),
    }
}

impl Decoder {
    /// What stage `k`, from 0, makes of its sums.
    fn activated(&self, k: usize, sums: Tensor<2>) -> Tensor<2> {
        match k + 1 == self.layers.len() {
            true => sigmoid(sums),
            false => tanh(sums),
        }
    }

    /// Writes it to a folder.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, config: &DecoderConfig, folder: &Path) -> Result<(), DecoderError> {
        Ok(FOLDER.save(config, self, folder)?)
    }

    /// Checks, before a training, that a folder holds no model of another kind.
    ///
    /// # Errors
    /// If it does.
    pub fn check(folder: &Path) -> Result<(), DecoderError> {
        Ok(FOLDER.check(folder)?)
    }

    /// Reads it from a folder.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, DecoderError> {
        let [config, weights] = FOLDER.read(folder)?;
        let config: DecoderConfig = FOLDER.config(&config, folder)?;
        let mut decoder = config.init(&device.clone().autodiff())?;
        FOLDER.load(&mut decoder, weights, folder)?;
        Ok(decoder.no_grad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_grad::seeded_noise::SeededNoise;
    use nabla_train::initialization::he_normal;

    #[test]
    fn sizes_out_of_range_are_refused() {
        let config = DecoderConfig {
            latent: 0,
            ..DecoderConfig::of([1, 2, 2])
        };
        assert!(config.init(&Device::flex()).is_err());
        let huge = DecoderConfig::of([usize::MAX, 2, 2]);
        assert!(huge.init(&Device::flex()).is_err());
    }

    /// One decoder of the same weights for each row is one decoder.
    #[test]
    fn pictures_by_the_own_weights_are_the_pictures() {
        let device = Device::flex().autodiff();
        let config = DecoderConfig {
            latent: 3,
            hidden: vec![5, 7],
            shape: [1, 2, 3],
        };
        let decoder = he_normal(config.init(&device).unwrap(), 4).unwrap();
        let z = SeededNoise::new(1, 0).normal::<2>([4, 3], &Device::flex());
        let weights = decoder.weights();
        assert_eq!(weights.dims(), [3 * 5 + 5 + 5 * 7 + 7 + 7 * 6 + 6]);
        let weights = weights.unsqueeze_dim::<2>(0).repeat_dim(0, 4);
        let apart = decoder.pictures_by(weights, z.clone()) - decoder.pictures(0, z);
        assert!(apart.abs().max().into_scalar::<f32>() < 1e-6);
    }
}
