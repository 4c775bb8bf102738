//! The attack on a sketched gradient: who knows the weights, the matrix and the label looks for the picture.
//!
//! The network has 196, 32 and 10 units with `tanh`. With its gradient `g(x) = ∇_w ℓ(w; x)` for a picture `x` and the
//! sketch `y = R g(x*)` that was sent, the attack minimises `‖R g(x) − y‖²` over pixels in `[0, 1]` by Adam, as
//! [Inverting Gradients](nabla_private::leakage::inverting_gradients) does with the cosine. Gradients are in double
//! precision: the residual of a picture that is found falls far below single precision.

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_claims::ClaimError;
use nabla_grad::DrawnSketch;
use nabla_grad::flat::with_float_type;
use nabla_private::leakage::inverting_gradients::{InvertingConfig, inverting_gradients};
use nabla_private::leakage::picture_quality::psnr;
use nabla_private::leakage::pixel_prior::PixelPrior;
use nabla_private::leakage::small_network::{SmallNetwork, Units, label_loss};
use nabla_private::leakage::{Distance, GradientOracle, LeakageError, Matched, Observed};

use super::regression::PIXELS;
use crate::softmax::CLASSES;

const HIDDEN: usize = 32;
/// Both matrices and both offsets.
pub(super) const WEIGHTS: usize = HIDDEN * PIXELS + HIDDEN + CLASSES * HIDDEN + CLASSES;

/// Beyond this a picture is exact for every eye, in dB.
const MOST_PSNR: f64 = 60.0;

/// How near the picture is that the attack finds, in dB, at most 60.
///
/// - `picture`: from 0 to 1, `[PIXELS]`
/// - `send`: what is sent of its gradient, `[WEIGHTS]`, by the sketch
pub(super) fn recovered(
    picture: &[f64],
    label: usize,
    sketch: DrawnSketch,
    send: impl FnOnce(&[f64], &DrawnSketch) -> Result<Vec<f64>, ClaimError>,
    steps: usize,
    seed: u64,
) -> Result<f64, ClaimError> {
    let failed = |error: LeakageError| ClaimError::experiment(error);
    let device = Device::flex();
    let network = SmallNetwork::new([PIXELS, HIDDEN, CLASSES], Units::Tanh, seed, &device);
    let network = with_float_type(network.map_err(ClaimError::experiment)?, DType::F64);
    let loss = |network: &SmallNetwork, x: Tensor<2>| label_loss(network.scores(x), &[label]);
    let oracle = GradientOracle::new(network, loss).map_err(failed)?;
    let doubles = |values: Vec<f64>| TensorData::new(values, [1, PIXELS]);
    let truth = Tensor::<2>::from_data(doubles(picture.to_vec()), (&device, DType::F64));
    let gradient = oracle.gradient(&truth).map_err(failed)?;
    let gradient: Vec<f64> = gradient.into_data().iter().collect();
    let sent = send(&gradient, &sketch)?;
    let length = sent.len();
    let sent = Tensor::<1>::from_data(TensorData::new(sent, [length]), (&device, DType::F64));
    let observed = Observed::by_sketch(sent, sketch);
    // The pixels themselves need no more than single precision.
    let objective = |x: &Tensor<2>| {
        let x = x.clone().cast(DType::F64);
        let Matched { cost, slope } = oracle.matched(&x, &observed, Distance::SquaredError)?;
        Ok(Matched {
            cost,
            slope: slope.cast(DType::F32),
        })
    };
    let config = InvertingConfig {
        steps,
        learning_rate: 0.05,
        signed: false,
        prior: PixelPrior {
            total_variation: 0.0,
            norm: 0.0,
        },
    };
    let found = inverting_gradients(&objective, 1, [1, 14, 14], config, seed, &device);
    let found: Vec<f32> = found.map_err(failed)?.pictures.into_data().iter().collect();
    let picture: Vec<f32> = picture.iter().map(|&p| p as f32).collect();
    Ok(psnr(&picture, &found).min(MOST_PSNR))
}
