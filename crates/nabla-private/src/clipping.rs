//! Clipped gradients: no example counts for more than a limit.
//!
//! With the gradient `g_i` of example `i`, the sum `Σ_i w_i g_i` of private training takes weights by which no summand
//! is longer than `C`, so that one example more or less changes the sum by at most `C`:
//!
//! | | weights |
//! |---|---|
//! | flat | `w_i = min(1, C/‖g_i‖)` (Abadi et al.) |
//! | per layer | each of the `L` parameters its own, `w_il = min(1, C/(√L ‖g_il‖))` (McMahan et al.) |
//! | automatic | `w_i = C/(‖g_i‖ + γ)`: all examples count alike, and `C` only scales the learning rate (Bu et al.) |
//!
//! The gradients of the examples are never made: their norms follow from the inputs of the layers and the gradients by
//! their outputs ([`nabla_kernels::per_example`]), and the weighted sum is one more product of these.
//!
//! Sources: Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, *Deep Learning with Differential Privacy*, 2016,
//! arXiv 1607.00133; McMahan, Andrew, Erlingsson, Chien, Mironov, Papernot, Kairouz, *A General Approach to Adding
//! Differential Privacy to Iterative Training Procedures*, 2018, arXiv 1812.06210; Bu, Wang, Zha, Karypis, *Automatic
//! Clipping: Differentially Private Deep Learning Made Easier and Stronger*, 2022, arXiv 2206.07136.

use std::collections::HashMap;

use burn::module::{Module, ParamId};
use burn::optim::GradientsParams;
use nabla_base::range::{self, OutOfRange};
use nabla_grad::per_example::PerExampleError;
use nabla_kernels::per_example::ExampleGradients;
use serde::{Deserialize, Serialize};

/// The reason why gradients are not clipped.
#[derive(Debug, thiserror::Error)]
pub enum ClippingError {
    /// The gradients of the examples cannot be told apart.
    #[error(transparent)]
    Gradients(#[from] PerExampleError),
    /// Clipping does not make it finite.
    #[error(
        "the gradient of an example is not finite: lower the learning rate, or bring the features into a range of few units"
    )]
    NotFinite,
}

/// How gradients are clipped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Clipping {
    /// By the norm of an example's whole gradient.
    Flat {
        /// The limit `C`.
        norm: f64,
    },
    /// By the norm of each parameter's part.
    PerLayer {
        /// The limit `C` of all parts together.
        norm: f64,
    },
    /// To the same norm, or almost.
    Automatic {
        /// The limit `C`.
        norm: f64,
        /// `γ`, in the units of the gradient: shorter gradients count for less. 0.01 in the paper.
        stability: f64,
    },
}

/// The largest norm to which gradients are clipped.
const LARGEST_NORM: f64 = 1e9;
/// The largest deviation of noise: the squares of a hundred million such numbers are finite together in single precision.
const LARGEST_DEVIATION: f64 = 1e15;

/// Refuses a norm to clip to that is out of range.
pub(crate) fn check_norm(norm: f64) -> Result<(), OutOfRange> {
    range::check(
        norm > 0.0 && norm <= LARGEST_NORM,
        "norm to which gradients are clipped",
        norm,
        "positive and at most 1e9",
    )
}

/// Refuses a deviation of noise that is out of range.
///
/// - `name`: of the number, as it follows "the"
pub(crate) fn check_deviation(name: &'static str, deviation: f64) -> Result<(), OutOfRange> {
    range::check(
        (0.0..=LARGEST_DEVIATION).contains(&deviation),
        name,
        deviation,
        "at least 0 and at most 1e15",
    )
}

/// Refuses noise for clipped gradients, in multiples of the norm, whose deviation is out of range.
pub(crate) fn check_noise(noise_multiplier: f64, norm: f64) -> Result<(), OutOfRange> {
    let name = "product of the noise multiplier and the norm to which gradients are clipped";
    check_deviation(name, noise_multiplier * norm)
}

impl Default for Clipping {
    /// Flat, to 1.
    fn default() -> Self {
        Self::Flat { norm: 1.0 }
    }
}

nabla_base::choices! {
    Clipping: "clipping" {
        "flat" => Self::Flat { norm: 1.0 }, "By the norm of an example's whole gradient";
        "per-layer" => Self::PerLayer { norm: 1.0 }, "By the norm of each parameter's part";
        "automatic" => Self::Automatic { norm: 1.0, stability: 0.01 }, "To the same norm, whatever it was";
    }
}

/// A sum of clipped gradients.
#[derive(Debug)]
pub struct ClippedSum {
    /// `Σ_i w_i g_i`.
    pub gradients: GradientsParams,
    /// Examples whose gradient was longer than the limit.
    pub clipped: usize,
}

impl Clipping {
    /// The same clipping to another limit.
    #[must_use]
    pub fn to(mut self, limit: f64) -> Self {
        match &mut self {
            Self::Flat { norm } | Self::PerLayer { norm } | Self::Automatic { norm, .. } => {
                *norm = limit;
            }
        }
        self
    }

    /// By how much one example changes the sum: `C`.
    pub fn sensitivity(self) -> f64 {
        match self {
            Self::Flat { norm } | Self::PerLayer { norm } | Self::Automatic { norm, .. } => norm,
        }
    }

    /// The length of a gradient of norm `norm` after clipping, if it is all in one of `layers` parameters.
    pub(crate) fn clipped(self, norm: f64, layers: usize) -> f64 {
        match self {
            Self::Flat { norm: limit } => norm.min(limit),
            Self::PerLayer { norm: limit } => norm.min(limit / (layers.max(1) as f64).sqrt()),
            Self::Automatic {
                norm: limit,
                stability,
            } => limit * norm / (norm + stability),
        }
    }

    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(self) -> Result<(), OutOfRange> {
        check_norm(self.sensitivity())?;
        match self {
            Self::Automatic { stability, .. } => {
                range::not_negative("stability of automatic clipping", stability)
            }
            _ => Ok(()),
        }
    }

    /// The sum of the examples' gradients, each of them clipped.
    ///
    /// # Errors
    /// If the gradients of the examples cannot be told apart, or one is not finite.
    pub fn sum<M: Module>(
        self,
        gradients: &ExampleGradients,
        model: &M,
    ) -> Result<ClippedSum, ClippingError> {
        let squares = gradients.squared_norms_by_parameter(model)?;
        let mut totals = vec![0.0; gradients.examples()];
        for (_, squares) in &squares {
            totals.iter_mut().zip(squares).for_each(|(t, s)| *t += s);
        }
        if totals.iter().any(|total| !total.is_finite()) {
            return Err(ClippingError::NotFinite);
        }
        let limit = self.sensitivity();
        let within = |square: &f64, limit: f64| (limit / square.sqrt()).min(1.0);
        let clipped = totals.iter().filter(|total| total.sqrt() > limit).count();
        let weights: Vec<f64> = match self {
            Self::Flat { .. } => totals.iter().map(|square| within(square, limit)).collect(),
            Self::Automatic { stability, .. } => {
                let weight = |square: &f64| match square.sqrt() + stability {
                    // A gradient of zeros stays one.
                    0.0 => 0.0,
                    length => limit / length,
                };
                totals.iter().map(weight).collect()
            }
            Self::PerLayer { .. } => {
                let share = limit / (squares.len().max(1) as f64).sqrt();
                let of = |(id, squares): &(ParamId, Vec<f64>)| {
                    let weights = squares.iter().map(|square| within(square, share));
                    (*id, weights.collect())
                };
                let weights: HashMap<ParamId, Vec<f64>> = squares.iter().map(of).collect();
                let none: &[f64] = &[];
                let of = |id| weights.get(&id).map_or(none, Vec::as_slice);
                let gradients = gradients.weighted_each(model, of)?;
                return Ok(ClippedSum { gradients, clipped });
            }
        };
        let gradients = gradients.weighted(model, &weights)?;
        Ok(ClippedSum { gradients, clipped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::LinearConfig;
    use burn::tensor::{Device, Tensor};
    use nabla_grad::flat::ParameterLayout;
    use nabla_grad::per_example::Reduction;
    use nabla_kernels::nn::Linear;
    use nabla_kernels::per_example::backward;

    /// The rows of the gradients of each example, and a sum of clipped ones.
    fn found(clipping: Clipping) -> (Vec<Vec<f64>>, Vec<f64>, usize) {
        let device = Device::flex().autodiff();
        let layer: Linear = LinearConfig::new(2, 2).init(&device).into();
        // The last example has a gradient of zeros by the weight and by the bias.
        let x = [[3.0, 4.0], [0.1, 0.0], [0.0, 0.0], [1e-30, 0.0]];
        let g = [[1.0, 2.0], [0.1, 0.1], [0.5, 0.5], [0.0, 0.0]];
        let x = Tensor::<2>::from_floats(x, &device);
        let g = Tensor::<2>::from_floats(g, &device);
        let loss = (layer.forward(x) * g).sum();
        let gradients = backward(loss, 4, Reduction::Sum).unwrap();
        let layout = ParameterLayout::trainable(&layer).unwrap();
        let rows = gradients.rows(&layer, &layout).unwrap();
        let rows: Vec<f64> = rows.into_data().iter::<f64>().collect();
        let sum = clipping.sum(&gradients, &layer).unwrap();
        let vector = layout.flatten_gradients_or_zeros(&sum.gradients).unwrap();
        let vector = vector.into_data().iter::<f64>().collect();
        (
            rows.chunks(6).map(<[f64]>::to_vec).collect(),
            vector,
            sum.clipped,
        )
    }

    fn norm(x: &[f64]) -> f64 {
        x.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    fn assert_sum(found: &[f64], rows: &[Vec<f64>], weight: impl Fn(&[f64]) -> Vec<f64>) {
        let mut expected = vec![0.0; 6];
        for row in rows {
            let weighted = weight(row);
            expected.iter_mut().zip(weighted).for_each(|(e, w)| *e += w);
        }
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn flat_clipping_shortens_what_is_longer() {
        let (rows, sum, clipped) = found(Clipping::default());
        let scaled = |row: &[f64]| {
            let weight = (1.0 / norm(row)).min(1.0);
            row.iter().map(|x| x * weight).collect()
        };
        assert_sum(&sum, &rows, scaled);
        assert_eq!(clipped, 1);
    }

    #[test]
    fn the_layers_share_the_limit() {
        let (rows, sum, _) = found(Clipping::PerLayer { norm: 2.0 });
        let scaled = |row: &[f64]| {
            let of = |part: &[f64]| {
                let weight = (2f64.sqrt() / norm(part)).min(1.0);
                part.iter().map(|x| x * weight).collect::<Vec<f64>>()
            };
            // The bias, then the weight, or the weight, then the bias.
            let layout = row.split_at(4);
            [of(layout.0), of(layout.1)].concat()
        };
        assert_sum(&sum, &rows, scaled);
    }

    #[test]
    fn automatic_clipping_gives_all_the_same_norm_and_zeros_stay() {
        for stability in [0.0, 0.01] {
            let clipping = Clipping::Automatic {
                norm: 2.0,
                stability,
            };
            let (rows, sum, _) = found(clipping);
            let scaled = |row: &[f64]| {
                let length = norm(row) + stability;
                let weight = if length > 0.0 { 2.0 / length } else { 0.0 };
                row.iter().map(|x| x * weight).collect()
            };
            assert_sum(&sum, &rows, scaled);
        }
    }

    #[test]
    fn limits_are_positive() {
        for clipping in [
            Clipping::Flat { norm: 0.0 },
            Clipping::PerLayer { norm: f64::NAN },
            Clipping::Automatic {
                norm: 1.0,
                stability: -1.0,
            },
        ] {
            assert!(clipping.validate().is_err());
        }
        assert!(Clipping::default().to(0.1).validate().is_ok());
    }
}
