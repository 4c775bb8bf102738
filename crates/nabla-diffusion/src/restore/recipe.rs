//! Operators by name, with options by name: what `nabla restore --operator NAME` offers.

use std::fmt::Debug;
use std::sync::Arc;

use burn::config::Config;
use burn::tensor::Tensor;
use nabla_base::range;
use serde::{Deserialize, Serialize};

use super::Problem;
use super::coil_maps::CoilMaps;
use super::operator::{LinearOperator, OperatorError};
use super::operators::{
    Blur, Boundary, FanBeam, Inpainting, MultiCoilMri, Radon, Reduction, Separable, views,
};
use super::sampling_mask::SamplingPattern;
use crate::registry::Registry;

/// What is given for an operator besides its options.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// For inpainting and MRI: what is known, row after row, `[height, width]` and the values; above one half is known.
    pub mask: Option<([usize; 2], Vec<f64>)>,
    /// For blur: `[height, width]` of a kernel and its values, row after row; divided by their sum.
    pub kernel: Option<([usize; 2], Vec<f64>)>,
    /// For MRI.
    pub coil_maps: Option<CoilMaps>,
    /// Of what is drawn at random.
    pub seed: u64,
}

impl Given {
    /// The mask, of the sides of the picture.
    fn mask_of(&self, sides: [usize; 2]) -> Result<Option<Vec<bool>>, OperatorError> {
        let Some((found, values)) = &self.mask else {
            return Ok(None);
        };
        match *found == sides {
            true => Ok(Some(values.iter().map(|value| *value > 0.5).collect())),
            false => Err(OperatorError::Given {
                what: "the mask",
                expected: format!("{} x {}, as the picture", sides[1], sides[0]),
                found: format!("it is {} x {}", found[1], found[0]),
            }),
        }
    }
}

/// Makes an operator for pictures of a size.
pub trait OperatorRecipe: Debug + Send + Sync {
    /// The operator.
    ///
    /// - `picture`: `[channels, height, width]`
    ///
    /// # Errors
    /// If an option is out of range, or something does not fit the picture.
    fn build(
        &self,
        picture: [usize; 3],
        given: &Given,
    ) -> Result<Arc<dyn LinearOperator>, OperatorError>;

    /// The sides of the picture to which a measurement belongs, if they follow from it.
    ///
    /// - `measurement`: `[height, width]`
    fn picture_sides(&self, measurement: [usize; 2]) -> [usize; 2] {
        measurement
    }

    /// A picture without detail that the measurement shows at once: what a super-resolution prior takes for the blurred
    /// picture ([`PriorDenoiser`](super::PriorDenoiser)). `None` for scans, which show none.
    ///
    /// # Errors
    /// If the measurement does not fit.
    fn first_estimate(&self, problem: &Problem) -> Result<Option<Tensor<4>>, OperatorError> {
        let _ = problem;
        Ok(None)
    }
}

/// A picture reduced by a whole number.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct SuperResolutionRecipe {
    /// How many times larger the picture is in each direction. Default 4.
    #[config(default = 4)]
    pub scale: usize,
    /// `bicubic` or `average`. Default bicubic.
    #[config(default = "Reduction::Bicubic")]
    pub filter: Reduction,
}

impl OperatorRecipe for SuperResolutionRecipe {
    fn build(
        &self,
        picture: [usize; 3],
        _given: &Given,
    ) -> Result<Arc<dyn LinearOperator>, OperatorError> {
        let operator = Separable::reduction(picture, self.scale, self.filter)?;
        Ok(Arc::new(operator))
    }

    fn picture_sides(&self, measurement: [usize; 2]) -> [usize; 2] {
        measurement.map(|side| side * self.scale)
    }

    /// The measurement, enlarged.
    fn first_estimate(&self, problem: &Problem) -> Result<Option<Tensor<4>>, OperatorError> {
        let [_, channels, height, width] = problem.measurement().dims();
        let enlarge = Separable::enlargement([channels, height, width], self.scale)?;
        Ok(Some(enlarge.apply(problem.measurement().clone())?))
    }
}

/// A picture with missing pixels: those of a mask, a box in the middle, or a random share.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct InpaintingRecipe {
    /// Without a mask: the share of the pixels that is known, drawn at random, in `(0, 1]`. Default 0.3.
    #[config(default = 0.3)]
    pub known: f64,
    /// Without a mask: the share of each side that a missing box in the middle covers, in `(0, 1)`; 0 for random pixels.
    /// Default 0.
    #[config(default = 0.0)]
    pub hole: f64,
}

impl OperatorRecipe for InpaintingRecipe {
    fn build(
        &self,
        picture: [usize; 3],
        given: &Given,
    ) -> Result<Arc<dyn LinearOperator>, OperatorError> {
        let [_, height, width] = picture;
        let operator = match given.mask_of([height, width])? {
            Some(known) => Inpainting::new(picture, known)?,
            None if self.hole == 0.0 => Inpainting::random(picture, self.known, given.seed)?,
            None => Inpainting::without_box(picture, self.hole)?,
        };
        Ok(Arc::new(operator))
    }

    /// The known pixels, and between them means of those that are near.
    fn first_estimate(&self, problem: &Problem) -> Result<Option<Tensor<4>>, OperatorError> {
        let [_, channels, height, width] = problem.measurement().dims();
        let (known, y) = (problem.measured()?, problem.measurement().clone());
        let longest = height.max(width) as f64;
        let mut filled = y.zeros_like();
        // From the widest to the narrowest Gaussian that has enough known pixels; the narrowest counts.
        let mut deviation = longest / 4.0;
        while deviation >= 0.7 {
            let picture = [channels, height, width];
            let blur = Separable::gaussian_blur(picture, deviation, Boundary::Reflect)?;
            let weight = blur.apply(known.clone())?;
            let few = weight.clone().lower_elem(0.05);
            let mean = blur.apply(y.clone())? / weight.clamp_min(1e-6);
            let few = few.expand(y.dims());
            filled = match deviation > longest / 5.0 {
                true => mean,
                false => mean.mask_where(few, filled),
            };
            deviation /= 2.0;
        }
        Ok(Some(filled))
    }
}

/// A blurred picture.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct BlurRecipe {
    /// Without a kernel: the standard deviation of a Gaussian in pixels, above 0. Default 2.
    #[config(default = 2.0)]
    pub deviation: f64,
    /// What lies beyond the edge: `reflect`, `circular` or `zero`. Default reflect.
    #[config(default = "Boundary::Reflect")]
    pub boundary: Boundary,
}

impl OperatorRecipe for BlurRecipe {
    fn build(
        &self,
        picture: [usize; 3],
        given: &Given,
    ) -> Result<Arc<dyn LinearOperator>, OperatorError> {
        let Some((sides, values)) = &given.kernel else {
            let operator = Separable::gaussian_blur(picture, self.deviation, self.boundary)?;
            return Ok(Arc::new(operator));
        };
        let sum: f64 = values.iter().sum();
        let fits = sum.is_finite() && sum != 0.0;
        range::check(fits, "sum of the kernel's values", sum, "finite and not 0")?;
        let values: Vec<f64> = values.iter().map(|value| value / sum).collect();
        Ok(Arc::new(Blur::new(
            picture,
            *sides,
            &values,
            self.boundary,
        )?))
    }

    /// The measurement.
    fn first_estimate(&self, problem: &Problem) -> Result<Option<Tensor<4>>, OperatorError> {
        Ok(Some(problem.measurement().clone()))
    }
}

/// An MRI scan: a mask of frequencies, or a pattern that is drawn; coil maps, or simulated ones.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct MriRecipe {
    /// Without a mask: `uniform1d`, `gaussian1d`, `gaussian2d` or `poisson`. Default uniform1d.
    #[config(default = "SamplingPattern::Uniform1d")]
    pub pattern: SamplingPattern,
    /// Without a mask: one in so many frequencies is measured, at least 1. Default 4.
    #[config(default = 4.0)]
    pub acceleration: f64,
    /// Without a mask: the share of each side in the middle that is measured whole, in `[0, 1]`. Default 0.08.
    #[config(default = 0.08)]
    pub centre: f64,
    /// Without coil maps: the number of simulated coils, at least 1. Default 4.
    #[config(default = 4)]
    pub coils: usize,
}

impl OperatorRecipe for MriRecipe {
    fn build(
        &self,
        picture: [usize; 3],
        given: &Given,
    ) -> Result<Arc<dyn LinearOperator>, OperatorError> {
        let [channels, height, width] = picture;
        let sides = [height, width];
        let mask = match given.mask_of(sides)? {
            Some(mask) => mask,
            None => self
                .pattern
                .mask(sides, self.acceleration, self.centre, given.seed)?,
        };
        let maps = match &given.coil_maps {
            Some(maps) if maps.sides() != sides => {
                let [found_height, found_width] = maps.sides();
                return Err(OperatorError::Given {
                    what: "the coil maps",
                    expected: format!("{width} x {height}, as the picture"),
                    found: format!("they are {found_width} x {found_height}"),
                });
            }
            Some(maps) => maps.clone(),
            None if self.coils == 1 => CoilMaps::single(sides)?,
            None => CoilMaps::simulated(self.coils, sides)?,
        };
        Ok(Arc::new(MultiCoilMri::new(channels, maps, mask)?))
    }
}

/// The course of the rays of a CT scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rays {
    /// Parallel, as many as the longer side has pixels.
    #[default]
    Parallel,
    /// From a source at the distance of the picture's diagonal.
    Fan,
}

/// A CT scan: few views, or views from a limited range of angles.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct RadonRecipe {
    /// The number of views, at least 1. Default 30.
    #[config(default = 30)]
    pub views: usize,
    /// The first angle in degrees. Default 0.
    #[config(default = 0.0)]
    pub first: f64,
    /// The range of the angles in degrees; `null` for 180 with parallel rays and 360 with a fan. Default `null`.
    pub span: Option<f64>,
    /// `parallel` or `fan`. Default parallel.
    #[config(default = "Rays::Parallel")]
    pub rays: Rays,
}

impl OperatorRecipe for RadonRecipe {
    fn build(
        &self,
        picture: [usize; 3],
        _given: &Given,
    ) -> Result<Arc<dyn LinearOperator>, OperatorError> {
        let whole = match self.rays {
            Rays::Parallel => 180.0,
            Rays::Fan => 360.0,
        };
        let angles = views(self.views, self.first, self.span.unwrap_or(whole));
        let [_, height, width] = picture;
        let radon = match self.rays {
            Rays::Parallel => Radon::parallel(picture, angles)?,
            Rays::Fan => Radon::of_fan_beam(picture, &FanBeam::around([height, width], angles))?,
        };
        Ok(Arc::new(radon))
    }

    /// A sinogram of parallel rays has as many columns as the picture.
    fn picture_sides(&self, [_, detectors]: [usize; 2]) -> [usize; 2] {
        [detectors, detectors]
    }
}

/// All operators, by name.
///
/// ```
/// use nabla_diffusion::registry::Options;
/// use nabla_diffusion::restore::{Given, operators};
///
/// let recipe = operators().make("super-resolution", &Options::parse(&["scale=2"])?)?;
/// let operator = recipe.build([3, 8, 8], &Given::default())?;
/// assert_eq!(operator.range(), [3, 4, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn operators() -> Registry<Box<dyn OperatorRecipe>> {
    fn boxed(recipe: impl OperatorRecipe + 'static) -> Box<dyn OperatorRecipe> {
        Box::new(recipe)
    }
    Registry::new("operator")
        .with(
            "super-resolution",
            "the picture reduced by a whole number",
            SuperResolutionRecipe::new(),
            boxed,
        )
        .with(
            "inpainting",
            "some pixels are known: those of a mask, all but a hole, or a random share",
            InpaintingRecipe::new(),
            boxed,
        )
        .with(
            "blur",
            "the picture blurred by a Gaussian or a kernel",
            BlurRecipe::new(),
            boxed,
        )
        .with(
            "mri",
            "some frequencies of the picture as several coils see it",
            MriRecipe::new(),
            boxed,
        )
        .with(
            "ct",
            "sums along rays from few views or a limited range of angles",
            RadonRecipe::new(),
            boxed,
        )
}
