//! The prior that a folder contains.
//!
//! The files show what it is: a `prior.json` means a prior that
//! [`prior_training`](crate::prior_training) made, `stablesr_*.ckpt` or `.safetensors` mean
//! [StableSR](crate::stable_sr_prior).

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use nabla_diffusion::prior::{PriorError, SuperResolutionPrior};
use nabla_diffusion::stable_diffusion::model_folder::ModelFolderError;
use nabla_diffusion::stable_diffusion::stable_sr::StableSr;
use nabla_diffusion::stable_diffusion::weights::Precision;

use crate::{StableSrPrior, TangentPrior};

/// The reason why a folder gives no prior.
#[derive(Debug, thiserror::Error)]
pub enum OpenPriorError {
    /// The files of StableSR are not usable.
    #[error(transparent)]
    StableSr(#[from] ModelFolderError),
    /// The prior is not usable, or there is none.
    #[error(transparent)]
    Prior(#[from] PriorError),
    /// A Stable Diffusion model, which has no condition.
    #[error(
        "{} makes pictures from texts and cannot take a small picture as a condition, which \
         super-resolution needs: give a folder with stablesr_*.ckpt and vqgan_cfw_*.ckpt",
        .0.display()
    )]
    TextToImage(PathBuf),
    /// A precision was chosen, but the prior has only one.
    #[error("a precision is for StableSR, but {} is another prior, which computes in f32", .0.display())]
    Precision(PathBuf),
}

/// Opens the prior in `folder`, or the embedded one. StableSR computes in `precision` (default `f32`); the
/// others always in `f32`.
///
/// # Errors
/// If the folder contains no prior, or a `precision` was chosen for another one than StableSR.
///
/// ```
/// use burn::tensor::Device;
/// use nabla_panorama::{TangentPrior, open_prior};
///
/// let embedded = open_prior(None, &Device::flex(), None)?;
/// assert_eq!(embedded.multiple(), 1);
/// # Ok::<(), nabla_panorama::OpenPriorError>(())
/// ```
pub fn open_prior(
    folder: Option<&Path>,
    device: &Device,
    precision: Option<Precision>,
) -> Result<Box<dyn TangentPrior>, OpenPriorError> {
    let Some(folder) = folder else {
        return Ok(Box::new(SuperResolutionPrior::embedded(device)?));
    };
    if StableSr::is_in(folder) {
        let model = StableSr::load(folder, device, precision.unwrap_or_default())?;
        return Ok(Box::new(StableSrPrior::new(model)));
    }
    if folder.join("model_index.json").is_file() {
        return Err(OpenPriorError::TextToImage(folder.into()));
    }
    let prior = SuperResolutionPrior::load(folder, device)?;
    match precision {
        Some(_) => Err(OpenPriorError::Precision(folder.into())),
        None => Ok(Box::new(prior)),
    }
}
