//! Inpainting: some pixels are known, the others are not.

use burn::tensor::Tensor;
use nabla_base::range;

use crate::restore::operator::{
    Decomposed, LinearOperator, OperatorError, check_shape, check_sides, on_host,
};
use crate::seeded_noise::SeededNoise;

/// Keeps the known pixels and sets the others to 0: `A = diag(mask)`, its own adjoint and pseudo-inverse.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::restore::{Inpainting, LinearOperator};
///
/// let known = Inpainting::new([1, 1, 2], vec![true, false])?;
/// let y = known.apply(Tensor::ones([1, 1, 1, 2], &Device::flex()))?;
/// assert_eq!(y.try_into_vec_as::<f32>().unwrap(), [1.0, 0.0]);
/// # Ok::<(), nabla_diffusion::restore::OperatorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Inpainting {
    picture: [usize; 3],
    known: Vec<bool>,
}

const NAME: &str = "inpainting";

impl Inpainting {
    /// - `picture`: `[channels, height, width]`
    /// - `known`: whether each pixel is known, row after row; for all channels
    ///
    /// # Errors
    /// If a side is 0, there is not one value for each pixel, or no pixel is known.
    pub fn new(picture: [usize; 3], known: Vec<bool>) -> Result<Self, OperatorError> {
        check_sides(&picture)?;
        let [_, height, width] = picture;
        if known.len() != height * width {
            return Err(OperatorError::Given {
                what: "the mask",
                expected: format!("of {width} x {height} pixels, as the picture"),
                found: format!("it has {} pixels", known.len()),
            });
        }
        let count = known.iter().filter(|known| **known).count();
        range::at_least("number of known pixels", count, 1)?;
        Ok(Self { picture, known })
    }

    /// A random share of the pixels is known.
    ///
    /// - `share`: in `(0, 1]`
    ///
    /// # Errors
    /// If a side is 0, the share is out of range, or no pixel is known.
    pub fn random(picture: [usize; 3], share: f64, seed: u64) -> Result<Self, OperatorError> {
        check_sides(&picture)?;
        let fits = share > 0.0 && share <= 1.0;
        range::check(fits, "share of known pixels", share, "in (0, 1]")?;
        let [_, height, width] = picture;
        let pixels = height * width;
        // The places of the smallest numbers: exactly this share.
        let numbers = SeededNoise::new(seed, 0).normal_values(pixels);
        let mut order: Vec<usize> = (0..pixels).collect();
        order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
        let mut known = vec![false; pixels];
        let count = ((share * pixels as f64).round() as usize).clamp(1, pixels);
        order[..count].iter().for_each(|&place| known[place] = true);
        Self::new(picture, known)
    }

    /// Everything but a box in the middle is known.
    ///
    /// - `share`: of each side that the box covers, in `(0, 1)`
    ///
    /// # Errors
    /// If a side is 0, the share is out of range, or no pixel is known.
    pub fn without_box(picture: [usize; 3], share: f64) -> Result<Self, OperatorError> {
        check_sides(&picture)?;
        let fits = share > 0.0 && share < 1.0;
        range::check(fits, "share of the missing box", share, "in (0, 1)")?;
        let [_, height, width] = picture;
        let missing = |i: usize, n: usize| {
            let side = ((share * n as f64).round() as usize).max(1);
            let first = (n - side.min(n)) / 2;
            (first..first + side).contains(&i)
        };
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
        let known = places.map(|(y, x)| !(missing(y, height) && missing(x, width)));
        Self::new(picture, known.collect())
    }

    /// Whether each pixel is known, row after row.
    pub fn known(&self) -> &[bool] {
        &self.known
    }

    fn masked(
        &self,
        x: Tensor<4>,
        [known, unknown]: [f64; 2],
        what: &'static str,
    ) -> Result<Tensor<4>, OperatorError> {
        check_shape(NAME, what, &x, &self.picture)?;
        on_host(x, &self.picture, |x, y| {
            let pixels = self.known.iter().cycle();
            for ((y, x), &is_known) in y.iter_mut().zip(x).zip(pixels) {
                *y = x * if is_known { known } else { unknown };
            }
        })
    }
}

impl LinearOperator for Inpainting {
    fn name(&self) -> &'static str {
        NAME
    }

    fn domain(&self) -> Vec<usize> {
        self.picture.to_vec()
    }

    fn range(&self) -> Vec<usize> {
        self.picture.to_vec()
    }

    fn apply(&self, x: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        self.masked(x, [1.0, 0.0], "picture")
    }

    fn adjoint(&self, y: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        self.masked(y, [1.0, 0.0], "measurement")
    }

    fn normal(&self, x: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        self.apply(x)
    }

    fn measured(&self, y: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        self.adjoint(y)
    }

    fn decomposed(&self) -> Option<&dyn Decomposed> {
        Some(self)
    }
}

impl Decomposed for Inpainting {
    fn filtered(
        &self,
        x: Tensor<4>,
        f: &(dyn Fn(f64) -> f64 + Sync),
    ) -> Result<Tensor<4>, OperatorError> {
        self.masked(x, [f(1.0), f(0.0)], "picture")
    }
}
