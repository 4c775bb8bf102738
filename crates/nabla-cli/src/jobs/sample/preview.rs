//! A picture of what is sampled, written again and again while the run goes on.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor};
use clap::Args;
use nabla::base::check_writable;
use nabla::data::{BitDepth, FileFormat, Picture, Raster, WriteOptions};
use nabla::diffusion::stable_diffusion::tiny_autoencoder::{TinyAutoencoder, latent_colours};
use nabla::diffusion::stable_diffusion::weights::Precision;
use nabla::panorama::pixels::to_rasters;
use nabla::panorama::{Interpolation, resize_planar};

use crate::errors::Failure;

/// The flags.
#[derive(Args)]
pub struct PreviewFlags {
    /// A PNG file that is written again while the run goes on, and shows the picture so far
    #[arg(long, value_name = "FILE")]
    preview: Option<PathBuf>,
    /// After how many calls of the network it is written
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        requires = "preview",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    preview_every: u32,
    /// A small decoder for previews: a folder with an AutoencoderTiny, or a taesd_decoder.safetensors
    /// [default: a matrix, which gives colours at an eighth of the size]
    #[arg(long, value_name = "DIR|FILE", requires = "preview")]
    taesd: Option<PathBuf>,
}

/// Writes previews.
pub struct Preview<'a> {
    flags: &'a PreviewFlags,
    decoder: Option<TinyAutoencoder>,
    /// Whether the latents are SDXL's.
    xl: bool,
    /// Height and width of the result.
    size: [usize; 2],
}

impl PreviewFlags {
    /// The file.
    pub fn path(&self) -> Option<PathBuf> {
        self.preview.clone()
    }

    /// Checks the file.
    pub fn check(&self) -> Result<(), Failure> {
        let Some(path) = &self.preview else {
            return Ok(());
        };
        if FileFormat::from_path(path) != Some(FileFormat::Png) {
            return Err(Failure::input(format!(
                "{} is not the name of a PNG file, which a preview is",
                path.display()
            )));
        }
        check_writable(path)?;
        Ok(())
    }

    /// Loads the decoder. `precision` is the model's.
    pub fn load(
        &self,
        device: &Device,
        precision: Precision,
    ) -> Result<Option<TinyAutoencoder>, Failure> {
        let load = |path: &PathBuf| TinyAutoencoder::load(path, device, precision);
        self.taesd
            .as_ref()
            .map(load)
            .transpose()
            .map_err(Failure::input)
    }
}

impl<'a> Preview<'a> {
    pub fn new(
        flags: &'a PreviewFlags,
        decoder: Option<TinyAutoencoder>,
        xl: bool,
        size: [usize; 2],
    ) -> Self {
        Self {
            flags,
            decoder,
            xl,
            size,
        }
    }

    /// Shows a predicted latent after the call number `done`, from 1.
    pub fn show(&self, latent: &Tensor<4>, done: usize) -> Result<(), Failure> {
        let Some(path) = &self.flags.preview else {
            return Ok(());
        };
        if !done.is_multiple_of(self.flags.preview_every as usize) {
            return Ok(());
        }
        let picture = match &self.decoder {
            Some(decoder) => Some(decoder.decode(latent.clone()).map_err(Failure::input)?),
            None => latent_colours(latent.clone(), self.xl),
        };
        let Some(raster) = picture.and_then(|picture| to_rasters(picture).pop()) else {
            return Err(Failure::input(
                "--preview needs --taesd, because the latents of this model do not have 4 channels",
            ));
        };
        let raster = self.enlarged(raster)?;
        let picture = Picture::new(raster.map(|v| v.clamp(0.0, 1.0)), BitDepth::Eight);
        picture.write(path, &WriteOptions::default())?;
        Ok(())
    }

    fn enlarged(&self, raster: Raster) -> Result<Raster, Failure> {
        let [height, width] = self.size;
        Ok(match [raster.height(), raster.width()] == self.size {
            true => raster,
            false => resize_planar(&raster, height, width, Interpolation::Bilinear)?,
        })
    }
}
