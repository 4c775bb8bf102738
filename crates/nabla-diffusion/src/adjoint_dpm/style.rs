//! The style of a picture: the Gram matrices of a network's features, the loss with which AdjointDPM fine-tunes the
//! weights of a model for a style.
//!
//! ```text
//! G(F)_{ij} = 1/(C H W) Σ_p F_{ip} F_{jp},   L = Σ_l w_l mean (G(F_l(x_0)) − G(F_l(style)))²
//! ```
//!
//! A style alone may displace what the pictures show. [`content_distance`] from the picture that the model drew from the
//! same noise before it was tuned ([`StyleSample::first`]) keeps it, as in the transfer of styles by Gatys et al.
//!
//! Source: Gatys, Ecker, Bethge, *A Neural Algorithm of Artistic Style*, 2015, arXiv 1508.06576; Pan et al., 2024,
//! arXiv 2307.10711, section 5.2.

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};

use super::number;

/// The products of all pairs of channels, over all places: `[batch, channels, channels]`.
///
/// - `features`: `[batch, channels, height, width]`
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::adjoint_dpm::gram_matrix;
///
/// // Where the features are does not matter.
/// let features = Tensor::<4>::from_floats([[[[1.0, 2.0]], [[0.0, 3.0]]]], &Device::flex());
/// let turned = features.clone().flip([3]);
/// let difference = gram_matrix(features) - gram_matrix(turned);
/// assert_eq!(difference.abs().max().into_scalar::<f32>(), 0.0);
/// ```
pub fn gram_matrix(features: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = features.dims();
    let flat = features.reshape([batch, channels, height * width]);
    let size = (channels * height * width) as f64;
    flat.clone().matmul(flat.transpose()) / size
}

/// A sample of a model that learns a style.
#[derive(Clone, Debug)]
pub struct StyleSample {
    /// The sample, on which the loss depends.
    pub sample: Tensor<4>,
    /// What the model drew from the same noise before it was tuned, if it was asked for.
    pub first: Option<Tensor<4>>,
}

/// The squared relative distance of what samples show: `mean ‖F − F*‖²/‖F*‖²` over the batch.
///
/// - `features`, `kept`: of a deep layer, `[batch, channels, height, width]`, of the samples and of those whose content
///   they shall keep
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::adjoint_dpm::content_distance;
///
/// let kept = Tensor::<4>::ones([2, 3, 4, 4], &Device::flex());
/// let distance = content_distance(kept.clone() * 1.5, kept);
/// assert!((distance.into_scalar::<f32>() - 0.25).abs() < 1e-6);
/// ```
pub fn content_distance(features: Tensor<4>, kept: Tensor<4>) -> Tensor<1> {
    let square = |x: Tensor<4>| x.square().sum_dim(1).sum_dim(2).sum_dim(3);
    let whole = square(kept.clone()).clamp_min(f64::from(f32::MIN_POSITIVE));
    (square(features - kept) / whole).mean()
}

/// The distance of a sample's style from a given one.
#[derive(Clone, Debug)]
pub struct StyleLoss {
    grams: Vec<Tensor<3>>,
    weights: Vec<f64>,
}

impl StyleLoss {
    /// - `style`: the features of the style's picture in each layer, `[1, channels, height, width]`
    /// - `weights`: `w_l`, one for each layer, at least 0
    ///
    /// # Errors
    /// If there is no layer, or not one weight for each.
    pub fn new(style: Vec<Tensor<4>>, weights: Vec<f64>) -> Result<Self, OutOfRange> {
        range::at_least("number of layers of a style", style.len(), 1)?;
        let expected = format!("{}, one for each layer", style.len());
        let (found, fits) = (weights.len(), weights.len() == style.len());
        range::check(fits, "number of weights of a style", found, expected)?;
        for &weight in &weights {
            range::not_negative("weight of a layer", weight)?;
        }
        Ok(Self {
            grams: style.into_iter().map(|f| gram_matrix(f.inner())).collect(),
            weights,
        })
    }

    /// The same with weights that make every layer count alike: `w_l = 1/(layers · mean G_l²)`. The loss is the
    /// mean over the layers of the squared relative distance, 1 for a sample without any features.
    ///
    /// - `style`: as for [`new`](Self::new)
    ///
    /// # Errors
    /// If there is no layer.
    pub fn relative(style: Vec<Tensor<4>>) -> Result<Self, OutOfRange> {
        let layers = style.len();
        let mut loss = Self::new(style, vec![1.0; layers])?;
        for (gram, weight) in loss.grams.iter().zip(&mut loss.weights) {
            let square = number(gram.clone().square().mean());
            *weight = 1.0 / (layers as f64 * square.max(f64::MIN_POSITIVE));
        }
        Ok(loss)
    }

    /// The loss, `[1]`.
    ///
    /// - `features`: of the samples in the same layers, `[batch, channels, height, width]`
    ///
    /// # Errors
    /// If the layers are others.
    pub fn of(&self, features: Vec<Tensor<4>>) -> Result<Tensor<1>, OutOfRange> {
        let expected = format!("{}, as of the style", self.grams.len());
        let (found, fits) = (features.len(), features.len() == self.grams.len());
        range::check(fits, "number of layers", found, expected)?;
        let layers = features.into_iter().zip(&self.grams).zip(&self.weights);
        let mut sum: Option<Tensor<1>> = None;
        for ((features, gram), &weight) in layers {
            let found = gram_matrix(features);
            let (channels, expected) = (found.dims()[1], gram.dims()[1]);
            let told = format!("{expected}, as of the style");
            range::check(channels == expected, "channels of a layer", channels, told)?;
            let term = (found - gram.clone()).square().mean() * weight;
            sum = Some(match sum {
                Some(sum) => sum + term,
                None => term,
            });
        }
        sum.ok_or_else(|| OutOfRange::new("number of layers of a style", 0, "at least 1"))
    }
}
