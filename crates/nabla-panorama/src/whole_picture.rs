//! Super-resolution of a picture with everything that belongs to it: opacity, gain map, metadata, and grey
//! or linear samples.

use std::ops::ControlFlow;

use nabla_data::{GainMap, Light, Picture, Raster};

use crate::omnissr::{OmniSsr, OmniSsrError, OmniSsrStep, TangentPrior};
use crate::pictures::panorama_metadata;
use crate::resample::{Interpolation, ResampleError, resize_erp, resize_planar};
use crate::{Erp, ErpArea};

/// A picture that [`OmniSsr::run_picture`] enlarged.
#[derive(Clone, Debug)]
pub struct EnlargedPicture {
    /// The picture.
    pub picture: Picture,
    /// The greatest difference between the input and the picture reduced again; for linear light, after the
    /// tone curve.
    pub inconsistency: f64,
}

impl<P: TangentPrior> OmniSsr<P> {
    /// Enlarges a picture of the area [`low`](Self::low), whose samples are for a screen
    /// ([`run`](Self::run)) or linear light ([`run_light`](Self::run_light)).
    ///
    /// A grey picture is computed in colour and turned back to grey. Opacity and gain map are interpolated.
    /// The metadata declare the result to be a panorama of its area; `note` is told what of them is left out.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use burn::tensor::Device;
    /// use nabla_data::{BitDepth, Picture, Raster};
    /// use nabla_panorama::{Erp, OmniSsrConfig, open_prior};
    ///
    /// let prior = open_prior(None, &Device::flex(), None)?;
    /// let grey = Raster::from_fn(1, 16, 32, |_, y, x| (y + x) as f32 / 50.0);
    /// let picture = Picture::new(grey, BitDepth::Eight);
    /// let config = OmniSsrConfig { steps: Some(1), ..OmniSsrConfig::new(2) };
    /// let omnissr = config.init(&*prior, Erp::new(16, 32)?)?;
    /// let go_on = &mut |_| ControlFlow::Continue(());
    /// let large = omnissr.run_picture(picture, go_on, &mut |_| ())?.picture;
    /// assert_eq!(large.raster.shape(), [1, 32, 64]);
    /// assert!(large.metadata.photosphere()?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_picture(
        &self,
        picture: Picture,
        observe: &mut dyn FnMut(OmniSsrStep) -> ControlFlow<()>,
        note: &mut dyn FnMut(&str),
    ) -> Result<EnlargedPicture, OmniSsrError> {
        let (low, scale) = (self.low(), self.operator().scale());
        let mut result = Picture::new(Raster::zeros(0, 0, 0), picture.bit_depth);
        result.light = picture.light;
        result.metadata = panorama_metadata(&picture.metadata, picture.size(), &self.area(), note);
        if let Some(alpha) = &picture.alpha {
            let alpha = low.resize(alpha, scale, Interpolation::BICUBIC)?;
            result.alpha = Some(alpha.map(|v| v.clamp(0.0, 1.0)));
        }
        if let Some(gain_map) = &picture.gain_map {
            result.gain_map = Some(enlarged_gain_map(gain_map, &low, scale)?);
        }
        let grey = picture.raster.channels() == 1;
        let colours = picture.into_rgb().raster;
        let output = match result.light {
            Light::Display => self.run(&colours, observe)?,
            Light::Linear => self.run_light(&colours, observe)?,
        };
        result.raster = match grey {
            true => mean_of_channels(&output.panorama),
            false => output.panorama,
        };
        Ok(EnlargedPicture {
            picture: result,
            inconsistency: output.inconsistency,
        })
    }
}

/// The gain map for a picture of `area` enlarged by `scale`; its size is independent of the picture's.
fn enlarged_gain_map(
    gain_map: &GainMap,
    area: &ErpArea,
    scale: usize,
) -> Result<GainMap, ResampleError> {
    let [_, height, width] = gain_map.raster.shape();
    let (height, width) = (height * scale, width * scale);
    let raster = if area.is_full() && Erp::of(&gain_map.raster).is_ok() {
        resize_erp(&gain_map.raster, height, Interpolation::BICUBIC)?
    } else {
        resize_planar(&gain_map.raster, height, width, Interpolation::BICUBIC)?
    };
    let size = |raster: &Raster| [raster.width() as u32, raster.height() as u32];
    let metadata = gain_map
        .metadata
        .resized(size(&gain_map.raster), size(&raster));
    Ok(GainMap {
        raster: raster.map(|v| v.clamp(0.0, 1.0)),
        metadata: metadata.unwrap_or_else(|_| gain_map.metadata.clone()),
        ..gain_map.clone()
    })
}

/// Turns a grey picture that was computed in colour back to grey.
fn mean_of_channels(raster: &Raster) -> Raster {
    let [channels, height, width] = raster.shape();
    Raster::from_fn(1, height, width, |_, y, x| {
        (0..channels).map(|c| raster.get(c, y, x)).sum::<f32>() / channels as f32
    })
}
