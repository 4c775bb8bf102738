//! What a run is refused for before it begins.

use nabla_base::range::{self, OutOfRange};

use super::{SamplingOptions, StableDiffusion, StableDiffusionError, Start, wrong};

impl StableDiffusion {
    /// Checks the sizes for the UNet and for the latent.
    pub(super) fn check_sizes(
        &self,
        options: &SamplingOptions,
    ) -> Result<(), StableDiffusionError> {
        let factor = self.vae.factor();
        let [height, width] = options.size;
        if height == 0 || width == 0 || height % factor != 0 || width % factor != 0 {
            let expected = format!("multiples of {factor}");
            return wrong(
                "size of the picture",
                format!("{width} x {height}"),
                expected,
            );
        }
        if !self.takes_sizes() {
            let told = "left out: only SDXL's UNet takes it";
            if let Some([height, width]) = options.original_size {
                return wrong("original size", format!("{width} x {height}"), told);
            }
            let [top, left] = options.crop;
            if top > 0 || left > 0 {
                return wrong("crop", format!("{left}, {top}"), told);
            }
        }
        Ok(())
    }

    /// Checks the start and the options of a run.
    pub(super) fn check(
        &self,
        start: &Start,
        options: &SamplingOptions,
    ) -> Result<(), StableDiffusionError> {
        self.check_sizes(options)?;
        let [height, width] = options.size;
        range::finite("guidance scale", options.guidance_scale)?;
        let rescale = options.guidance_rescale;
        let fits = (0.0..=1.0).contains(&rescale);
        range::check(fits, "guidance rescale", rescale, "in [0, 1]")?;
        let (picture, strength) = match start {
            Start::Noise => return Ok(()),
            Start::Picture { .. } | Start::Inverted { .. } if self.is_inpainting() => {
                return wrong(
                    "UNet",
                    "one for inpainting".to_owned(),
                    "used with a mask, or without a picture",
                );
            }
            Start::Inverted { iterations: 0, .. } => {
                let name = "number of iterations of the inversion";
                return Err(OutOfRange::new(name, 0, "at least 1").into());
            }
            Start::Picture { picture, strength }
            | Start::Masked {
                picture, strength, ..
            }
            | Start::Inverted {
                picture, strength, ..
            } => (picture, *strength),
        };
        let fits = (0.0..=1.0).contains(&strength) && kept(options.steps, strength) > 0;
        let expected = format!(
            "in [0, 1], and leave at least one of {} steps",
            options.steps
        );
        range::check(fits, "strength", strength, expected)?;
        let shape = picture.dims();
        if shape != [1, 3, height, width] {
            let expected = format!("{:?}", [1, 3, height, width]);
            return wrong("shape of the picture", format!("{shape:?}"), expected);
        }
        if let Start::Masked { mask, .. } = start
            && mask.dims() != [1, 1, height, width]
        {
            let expected = format!("{:?}", [1, 1, height, width]);
            return wrong("shape of the mask", format!("{:?}", mask.dims()), expected);
        }
        Ok(())
    }
}

/// The number of steps that a strength leaves.
pub(super) fn kept(steps: usize, strength: f64) -> usize {
    ((steps as f64 * strength) as usize).min(steps)
}
