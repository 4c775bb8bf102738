//! The ways to a gradient of a finished sample that are compared.

use burn::tensor::Tensor;
use nabla_claims::ClaimError;
use nabla_diffusion::adjoint_dpm::{AdjointDpm, GradientMode, Wanted};
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::denoiser::{Denoised, Denoiser};
use nabla_diffusion::level::Levels;
use nabla_diffusion::sampler::Sampler;
use nabla_diffusion::sampler_error::OwnError;
use nabla_grad::seeded_noise::SeededNoise;

/// Where a gradient comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Source {
    /// Step by step, in the memory of one.
    StepByStep(GradientMode),
    /// Back-propagation through the whole sampler.
    Whole,
    /// From the estimate of the sample at the first step.
    OneStep,
}

/// A loss of finished samples.
pub(super) type Loss<'a> = &'a mut dyn FnMut(Tensor<2>) -> Result<Tensor<1>, OwnError>;

/// `∂L/∂x_T`; everything else that is wanted is received.
///
/// - `x`: the noise, `[batch, numbers]`
pub(super) fn gradient(
    source: Source,
    levels: &Levels,
    model: &dyn Denoiser<2>,
    x: Tensor<2>,
    loss: Loss<'_>,
    wanted: &mut dyn Wanted,
) -> Result<Tensor<2>, ClaimError> {
    if let Source::StepByStep(mode) = source {
        let adjoint = AdjointDpm::new().with_mode(mode);
        let mut run = adjoint.of(model, levels).map_err(ClaimError::experiment)?;
        let found = run.gradient(x, loss, wanted);
        return Ok(found.map_err(ClaimError::experiment)?.noise);
    }
    let leaf = x.autodiff().require_grad();
    let sample = match source {
        Source::Whole => {
            let sampler =
                Sampler::new(Ddim::new(), levels.clone()).map_err(ClaimError::experiment)?;
            // DDIM draws none.
            sampler.sample(model, leaf.clone(), &mut SeededNoise::new(0, 0))
        }
        _ => Denoised::predict(model, &leaf, levels.start()).map(|found| found.sample),
    };
    let sample = sample.map_err(ClaimError::experiment)?;
    let loss = loss(sample).map_err(ClaimError::experiment)?;
    let mut gradients = loss.backward();
    let noise = leaf.grad_remove(&mut gradients);
    wanted.receive(&mut gradients);
    Ok(noise.unwrap_or_else(|| leaf.inner().zeros_like()))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use nabla_diffusion::adjoint_dpm::ModuleGradients;
    use nabla_diffusion::denoiser::{Prediction, denoiser};
    use nabla_diffusion::level::Level;
    use nabla_diffusion::vp_path::VpPath;
    use nabla_grad::flat::ParameterLayout;

    use super::super::digit_network::DigitNetwork;
    use super::*;
    use crate::digits::PIXELS;

    /// Step by step and through the whole sampler, noise and weights have the same gradients; that of the first
    /// estimate is another.
    #[test]
    fn the_exact_gradient_is_that_of_the_whole_sampler() {
        let device = Device::flex();
        let network = DigitNetwork::new(3, &device.clone().autodiff()).unwrap();
        let layout = ParameterLayout::trainable(&network).unwrap();
        let levels = VpPath::new().even_in_log_snr(6).unwrap();
        let model = denoiser(Prediction::Velocity, |x: Tensor<2>, level: Level| {
            let times = level.times(2, &x.device());
            network.forward(x, times, network.conditions(&[1, 7]))
        });
        let of = |source| {
            let noise = SeededNoise::new(5, 0).normal([2, PIXELS], &device);
            let mut wanted = ModuleGradients::new(&network);
            let mut loss = |x: Tensor<2>| Ok(x.square().mean());
            let found = gradient(source, &levels, &model, noise, &mut loss, &mut wanted).unwrap();
            let weights = layout.flatten_gradients_or_zeros(&wanted.gradients());
            [found.flatten(0, 1), weights.unwrap()]
        };
        let exact = of(Source::StepByStep(GradientMode::Exact));
        let (whole, first) = (of(Source::Whole), of(Source::OneStep));
        for i in 0..2 {
            let size = |x: Tensor<1>| x.square().sum().sqrt().into_scalar::<f64>();
            let error = size(exact[i].clone() - whole[i].clone()) / size(whole[i].clone());
            assert!(error < 1e-3, "{i}: {error}");
            let other = size(first[i].clone() - whole[i].clone()) / size(whole[i].clone());
            assert!(other > 0.1, "{i}: {other}");
        }
    }
}
