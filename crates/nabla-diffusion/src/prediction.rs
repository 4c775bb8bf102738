//! What a diffusion model predicts, and how to convert between the kinds of prediction.
//!
//! Given `x = a x_0 + b ε` on an affine Gaussian path, with `a = √ᾱ` and `b = √(1 − ᾱ)` in the
//! variance-preserving form, a network may be trained to predict the noise `ε`, the clean sample `x_0`,
//! the velocity `v`, the score `s`, or the velocity `u` of a straight flow; at a known level each one gives
//! the others:
//!
//! ```text
//! v = a ε − b x_0                  x_0 = (a x − b v) / (a² + b²)    ε = (b x + a v) / (a² + b²)
//! s = ∇_x log p(x) = −ε / b        x_0 = (x + b² s) / a             ε = −b s
//! u = ε − x_0                      x_0 = (x − b u) / (a + b)        ε = (x + a u) / (a + b)
//! ```
//!
//! Here `x_0` and `ε` stand for their expectations given `x`; the second line is Tweedie's formula. `u` is
//! the `dx/dt` of rectified flow and flow matching, whose path `x_t = (1 − t) x_0 + t ε` runs from the
//! picture at time 0 to the noise at time 1. If a source counts time from the noise to the picture, its
//! velocity is `−u`. `u` is the same on every path, but such a network expects its `x` on the straight line:
//! [`flow_denoiser`](crate::denoiser::flow_denoiser) takes it there.
//!
//! Sources: Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, arXiv 2006.11239
//! (`ε`); Salimans, Ho, *Progressive Distillation for Fast Sampling of Diffusion Models*, 2022,
//! arXiv 2202.00512 (`v`); Song et al., *Score-Based Generative Modeling through Stochastic Differential
//! Equations*, 2021, arXiv 2011.13456 (`s`); Liu, Gong, Liu, *Flow Straight and Fast*, 2023, arXiv
//! 2209.03003; Lipman et al., *Flow Matching for Generative Modeling*, 2023, arXiv 2210.02747 (`u`).

use burn::config::Config;
use burn::tensor::Tensor;

use crate::level::Level;
use crate::schedule::NoiseSchedule;

/// What a network predicts; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise `ε`.
    Epsilon,
    /// The clean sample `x_0`.
    Sample,
    /// The velocity `v = a ε − b x_0`, in the variance-preserving form `√ᾱ ε − √(1 − ᾱ) x_0`.
    Velocity,
    /// The score `∇_x log p(x) = −ε / b` of the noisy samples, at the scale of `x`.
    Score,
    /// The velocity `u = dx_t/dt = ε − x_0` of the straight path `x_t = (1 − t) x_0 + t ε`.
    Flow,
}

nabla_base::choices! {
    Prediction: "prediction" {
        "epsilon" => Self::Epsilon, "The noise";
        "v" => Self::Velocity, "The velocity";
        "sample" => Self::Sample, "The clean picture";
        "score" => Self::Score, "The score";
        "flow" => Self::Flow, "The velocity of the straight path";
    }
}

impl Prediction {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Epsilon,
        Self::Sample,
        Self::Velocity,
        Self::Score,
        Self::Flow,
    ];

    /// Converts a prediction of this kind into one of the kind `to`.
    ///
    /// - `output`: the prediction; `x`: the noisy sample; both of the same shape
    /// - `level`: the level of `x`, on any path. To convert from `ε` or the score, its signal must be above
    ///   0. To convert from `x_0`, or to the score, its noise must be above 0. Otherwise the result is not
    ///   finite. The two velocities have no such restriction.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::denoiser::Prediction;
    /// use nabla_diffusion::level::Level;
    ///
    /// let device = Device::flex();
    /// let (sample, noise) = (Tensor::<1>::from_floats([0.5], &device), Tensor::from_floats([-1.0], &device));
    /// // A quarter of the way from the picture to the noise.
    /// let x = sample.clone() * 0.75 + noise.clone() * 0.25;
    /// let level = Level::straight(0.25);
    /// let back = Prediction::Flow.convert(Prediction::Sample, noise - sample.clone(), x, level);
    /// assert!((back - sample).abs().into_scalar::<f32>() < 1e-6);
    /// ```
    pub fn convert<const D: usize>(
        self,
        to: Self,
        output: Tensor<D>,
        x: Tensor<D>,
        level: Level,
    ) -> Tensor<D> {
        let (signal, noise) = (level.signal(), level.noise());
        // a² + b² differs from 1 in the variance-preserving form only by rounding.
        let power = match signal * signal + noise * noise {
            power if (power - 1.0).abs() < 1e-12 => 1.0,
            power => power,
        };
        let over = |x: Tensor<D>| match power == 1.0 {
            true => x,
            false => x / power,
        };
        let both = signal + noise;
        match (self, to) {
            (Self::Epsilon, Self::Sample) => (x - output * noise) / signal,
            (Self::Epsilon, Self::Velocity) if power == 1.0 => (output - x * noise) / signal,
            (Self::Epsilon, Self::Velocity) => (output * power - x * noise) / signal,
            (Self::Epsilon, Self::Score) => output / -noise,
            (Self::Epsilon, Self::Flow) => (output * both - x) / signal,
            (Self::Sample, Self::Epsilon) => (x - output * signal) / noise,
            (Self::Sample, Self::Velocity) if power == 1.0 => (x * signal - output) / noise,
            (Self::Sample, Self::Velocity) => (x * signal - output * power) / noise,
            (Self::Sample, Self::Score) => (output * signal - x) / (noise * noise),
            (Self::Sample, Self::Flow) => (x - output * both) / noise,
            (Self::Velocity, Self::Sample) => over(x * signal - output * noise),
            (Self::Velocity, Self::Epsilon) => over(x * noise + output * signal),
            (Self::Velocity, Self::Score) => over(x * noise + output * signal) / -noise,
            (Self::Velocity, Self::Flow) => over(x * (noise - signal) + output * both),
            (Self::Score, Self::Epsilon) => output * -noise,
            (Self::Score, Self::Sample) => (x + output * (noise * noise)) / signal,
            (Self::Score, Self::Velocity) => (x + output * power) * (-noise / signal),
            (Self::Score, Self::Flow) => (x + output * (noise * both)) / -signal,
            (Self::Flow, Self::Sample) => (x - output * noise) / both,
            (Self::Flow, Self::Epsilon) => (x + output * signal) / both,
            (Self::Flow, Self::Velocity) => (x * (signal - noise) + output * power) / both,
            (Self::Flow, Self::Score) => (x + output * signal) / (-noise * both),
            (Self::Epsilon, Self::Epsilon)
            | (Self::Sample, Self::Sample)
            | (Self::Velocity, Self::Velocity)
            | (Self::Score, Self::Score)
            | (Self::Flow, Self::Flow) => output,
        }
    }

    /// The training target of a network of this kind, for the variance-preserving `x_t` made of `sample` and
    /// `noise`.
    ///
    /// - `sample`, `noise`: `[batch, …]`, of the same shape
    /// - `index`: `batch` indices into `schedule`
    ///
    /// # Panics
    /// If an index is not below `schedule.steps()`, or the shapes do not agree.
    pub fn target<const D: usize>(
        self,
        sample: Tensor<D>,
        noise: Tensor<D>,
        schedule: &NoiseSchedule,
        index: &[usize],
    ) -> Tensor<D> {
        let (signal, scale) = schedule.scales(index, &sample.device());
        self.target_at(sample, noise, signal, scale)
    }

    /// The training target of a network of this kind, for `x = signal · sample + scale · noise`.
    ///
    /// - `sample`, `noise`: `[batch, …]`, of the same shape
    /// - `signal`, `scale`: `[batch, 1, …]`; `scale` is that of the noise
    pub fn target_at<const D: usize>(
        self,
        sample: Tensor<D>,
        noise: Tensor<D>,
        signal: Tensor<D>,
        scale: Tensor<D>,
    ) -> Tensor<D> {
        match self {
            Self::Epsilon => noise,
            Self::Sample => sample,
            Self::Velocity => noise * signal - sample * scale,
            Self::Score => noise.neg() / scale,
            Self::Flow => noise - sample,
        }
    }
}
