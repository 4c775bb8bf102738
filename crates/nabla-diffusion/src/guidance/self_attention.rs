//! SAG, self-attention guidance: away from what the network draws when the places that it looks at are blurred.
//!
//! ```text
//! M  = [attention that a place gets from all places > 1]        in the middle of the network, mean over heads
//! x̃_0 = M · blur(x̂_0) + (1 − M) · x̂_0,   x̃ = signal x̃_0 + noise ε̂
//! ε  = ε_∅ + g (ε_c − ε_∅) + s (ε_∅ − ε(x̃, ∅))
//! ```
//!
//! where `x̂_0`, `ε̂` and the attention are those of the prediction without the condition. If `g` is 1, all of it is
//! under the condition instead. The blur is a Gaussian of standard deviation 1 over 9 x 9 values, reflected at the
//! border. It costs a third evaluation, or the second one if `g` is 1, which needs the answer of the first.
//!
//! Source: Hong, Lee, Jang, Kim, *Improving Sample Quality of Diffusion Models Using Self-Attention Guidance*,
//! 2022, arXiv 2210.00939, algorithm 1 and eq. 25; size and deviation of the blur are those of the diffusers
//! library.

use burn::config::Config;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_base::range;

use super::{ClassifierFree, Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised};
use crate::sampler_error::OwnError;

/// Self-attention guidance: `ε_∅ + g (ε_c − ε_∅) + s (ε_∅ − ε(x̃, ∅))`, where the places that the network attends
/// to are blurred in `x̃`.
///
/// For models that implement [`predict_attending`](crate::denoiser::Denoiser::predict_attending), as Stable
/// Diffusion does. Source: Hong et al., 2022, arXiv 2210.00939.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct SelfAttention {
    /// `g`, the scale of classifier-free guidance; 1 leaves it out. Default 7.5.
    #[config(default = 7.5)]
    pub scale: f64,
    /// `s`. Default 0.75.
    #[config(default = 0.75)]
    pub blurred_scale: f64,
}

impl<const D: usize> Guidance<D> for SelfAttention {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        range::finite("guidance scale", self.scale)?;
        Ok(range::finite(
            "scale of the blurred prediction",
            self.blurred_scale,
        )?)
    }

    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let (guided, plain, attention, condition) = match self.scale == 1.0 {
            true => {
                let [(with, attention)] = model.ask_attending([Condition::FIRST])?;
                (with.clone(), with, attention, Condition::FIRST)
            }
            false => {
                let asked = [Condition::Without, Condition::FIRST];
                let [(without, attention), (with, _)] = model.ask_attending(asked)?;
                let usual = ClassifierFree::new().with_scale(self.scale);
                let guided = usual.guided(without.clone(), with);
                (guided, without, attention, Condition::Without)
            }
        };
        let Denoised {
            sample, epsilon, ..
        } = model.read(plain.clone())?;
        let blurred = degraded(sample, attention)?;
        let blurred = model.ask_at(&step.level.mix(blurred, epsilon), condition)?;
        let guided = guided + (plain - blurred) * self.blurred_scale;
        Ok(model.read(guided)?)
    }
}

/// The sample with the places blurred that get more than the average attention.
///
/// - `sample`: `[batch, …, height, width]`
/// - `attention`: `[batch, rows, columns]`
fn degraded<const D: usize>(
    sample: Tensor<D>,
    attention: Tensor<3>,
) -> Result<Tensor<D>, OwnError> {
    let shape = sample.dims();
    if D < 3 {
        return Err("self-attention guidance needs pictures, with a height and a width".into());
    }
    let ([height, width], device) = ([shape[D - 2], shape[D - 1]], sample.device());
    let planes = shape[1..D - 2].iter().product();
    let pictures: Tensor<4> = sample.reshape([shape[0], planes, height, width]);
    let [_, rows, columns] = attention.dims();
    let mask = attention
        .greater_elem(1.0)
        .float()
        .cast(pictures.dtype())
        .select(1, nearest(height, rows, &device))
        .select(2, nearest(width, columns, &device))
        .unsqueeze_dim::<4>(1); // [batch, 1, height, width]
    let down = reflected_blur(height, &pictures).unsqueeze::<4>();
    let across = reflected_blur(width, &pictures)
        .transpose()
        .unsqueeze::<4>();
    let blurred = down.matmul(pictures.clone()).matmul(across);
    let change = (blurred - pictures.clone()) * mask;
    Ok((pictures + change).reshape(shape))
}

/// For each of `to` places, the nearest of `from`.
fn nearest(to: usize, from: usize, device: &Device) -> Tensor<1, Int> {
    let places: Vec<i64> = (0..to).map(|i| (i * from / to) as i64).collect();
    Tensor::from_data(TensorData::new(places, [to]), device)
}

/// The matrix that blurs a line of this length, `[length, length]`: a Gaussian of standard deviation 1 over 9
/// values, reflected at the ends.
fn reflected_blur(length: usize, like: &Tensor<4>) -> Tensor<2> {
    const REACH: i64 = 4;
    let weight = |offset: i64| (-0.5 * (offset * offset) as f64).exp();
    let sum: f64 = (-REACH..=REACH).map(weight).sum();
    let mut matrix = vec![0.0; length * length];
    let last = length as i64 - 1;
    for to in 0..length {
        for offset in -REACH..=REACH {
            let mut from = to as i64 + offset;
            // A short line is reflected several times.
            while last > 0 && !(0..=last).contains(&from) {
                from = if from < 0 { -from } else { 2 * last - from };
            }
            let from = from.clamp(0, last) as usize;
            matrix[to * length + from] += weight(offset) / sum;
        }
    }
    let data = TensorData::new(matrix, [length, length]);
    Tensor::from_data(data, (&like.device(), like.dtype()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_with_more_than_average_attention_are_blurred() {
        let device = Device::flex();
        let mut values = [0.0; 64];
        values[9] = 1.0; // row 1, column 1
        values[54] = 1.0; // row 6, column 6
        let sample = Tensor::<1>::from_floats(values, &device).reshape([1, 1, 8, 8]);
        // The upper left quarter.
        let attention = Tensor::<1>::from_floats([2.0, 0.5, 1.0, 0.5], &device).reshape([1, 2, 2]);
        let found = degraded(sample, attention).unwrap();
        let found: Vec<f32> = found.try_into_vec_as().unwrap();
        assert!(found[9] < 0.5 && found[0] > 0.05);
        assert_eq!(found[54], 1.0);
        assert_eq!(found[4], 0.0);
    }

    #[test]
    fn a_blur_keeps_what_is_constant() {
        let ones = Tensor::<4>::ones([1, 1, 1, 1], &Device::flex());
        for length in [1, 2, 3, 64] {
            let sums = reflected_blur(length, &ones).sum_dim(1);
            let error = (sums - 1.0).abs().max().into_scalar::<f32>();
            assert!(error < 1e-6, "{length}: {error}");
        }
    }
}
