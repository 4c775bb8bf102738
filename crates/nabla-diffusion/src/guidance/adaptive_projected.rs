//! APG, adaptive projected guidance: classifier-free guidance at high scales without oversaturation.
//!
//! With the clean samples `D_c` predicted under the condition and `D_u` without it, classifier-free guidance is
//! `D_c + (w − 1) ΔD`, `ΔD = D_c − D_u`. As `ΔD` is the gradient of `½‖D_c − D_u‖²` in `D_c`, this is one step of
//! gradient ascent of length `w − 1`. Three changes make it one of a better kind:
//!
//! ```text
//! m ← ΔD + β m                               reverse momentum, β ≤ 0;  ΔD ← m
//! ΔD ← ΔD min(1, r/‖ΔD‖)                      rescaling
//! ΔD_∥ = ⟨ΔD, D_c⟩/⟨D_c, D_c⟩ D_c             projection
//! ΔD ← (ΔD − ΔD_∥) + η ΔD_∥
//! D = D_c + (w − 1) ΔD
//! ```
//!
//! `ΔD_∥` only makes `D_c` larger, which saturates the picture; the rest changes its content. Norms and products
//! are those of each example of the batch, in 32 bits at least. With `η = 1`, `r = ∞` and `β = 0` it is
//! classifier-free guidance. Whatever the network predicts, it works on clean samples: along `ε`, "parallel" has
//! another meaning.
//!
//! If a sampler calls the model several times in a step, the momentum counts steps, not calls: each call of a
//! step uses the momentum of the steps before it, and the first one is what the next step remembers.
//!
//! Source: Sadat, Hilliges, Weber, *Eliminating Oversaturation and Artifacts of High Guidance Scales in
//! Diffusion Models*, 2024, arXiv 2410.02416, section 4 and algorithm 1.

use burn::config::Config;
use burn::tensor::{DType, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::decomposition::{Views, decompose};

use super::{Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised};
use crate::sampler_error::OwnError;

/// The options of [`AdaptiveProjected`]. The defaults are those of the paper for Stable Diffusion 2.1.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct AdaptiveProjectedConfig {
    /// `w`: 1 gives the prediction with the condition. Default 10.
    #[config(default = 10.0)]
    pub scale: f64,
    /// `η`, the share of the parallel part that is kept, in `[0, 1]`. Default 0.
    #[config(default = 0.0)]
    pub eta: f64,
    /// `r`, the largest norm of `ΔD` for one example; `null` for no limit. It grows with the square root of the
    /// number of values: 7.5 is for latents of 4 x 64 x 64. Default 7.5.
    #[config(default = "Some(7.5)")]
    pub norm_threshold: Option<f64>,
    /// `β`, above −1 and below 1. Default −0.75.
    #[config(default = -0.75)]
    pub momentum: f64,
}

impl AdaptiveProjectedConfig {
    /// The guidance.
    pub fn init<const D: usize>(&self) -> AdaptiveProjected<D> {
        AdaptiveProjected {
            config: *self,
            momentum: None,
        }
    }

    /// # Errors
    /// If an option is out of range.
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        range::finite("guidance scale", self.scale)?;
        let fits = (0.0..=1.0).contains(&self.eta);
        range::check(fits, "eta of APG", self.eta, "in [0, 1]")?;
        if let Some(threshold) = self.norm_threshold {
            range::positive("norm threshold of APG", threshold)?;
        }
        let fits = self.momentum.abs() < 1.0;
        let expected = "above -1 and below 1, and usually negative";
        range::check(fits, "momentum of APG", self.momentum, expected)
    }
}

/// Adaptive projected guidance.
///
/// ```text
/// ΔD = D_c − D_u + β m,   ΔD ← ΔD min(1, r/‖ΔD‖),   D = D_c + (w − 1) (ΔD_⊥ + η ΔD_∥)
/// ```
///
/// on the predicted clean samples, `∥` and `⊥` along and across `D_c`, for each example of the batch. Source:
/// Sadat, Hilliges, Weber, 2024, arXiv 2410.02416.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::guidance::AdaptiveProjectedConfig;
///
/// let device = Device::flex();
/// let with = Tensor::<2>::from_floats([[2.0, 0.0]], &device);
/// let without = Tensor::<2>::from_floats([[1.0, -1.0]], &device);
/// let guidance = AdaptiveProjectedConfig::new()
///     .with_scale(3.0)
///     .with_momentum(0.0)
///     .init::<2>();
/// // Only what is across the prediction is strengthened: classifier-free guidance gives (4, 2).
/// let guided = guidance.guided(without, with)?;
/// assert_eq!(guided.try_into_vec_as::<f32>()?, [2.0, 2.0]);
/// # Ok::<(), nabla_diffusion::sampler_error::OwnError>(())
/// ```
#[derive(Clone, Debug)]
pub struct AdaptiveProjected<const D: usize = 4> {
    config: AdaptiveProjectedConfig,
    momentum: Option<Momentum<D>>,
}

/// `m` after the steps before `index`, and after that step too.
#[derive(Clone, Debug)]
struct Momentum<const D: usize> {
    index: usize,
    before: Option<Tensor<D>>,
    after: Tensor<D>,
}

impl<const D: usize> AdaptiveProjected<D> {
    /// The options.
    pub fn config(&self) -> AdaptiveProjectedConfig {
        self.config
    }

    /// `D` of a first step, in which there is no momentum yet.
    ///
    /// - `without`, `with`: `D_u` and `D_c`, `[batch, …]`
    ///
    /// # Errors
    /// If the shapes differ, or there are no values.
    pub fn guided(&self, without: Tensor<D>, with: Tensor<D>) -> Result<Tensor<D>, OwnError> {
        let difference = wide(with.clone()) - wide(without);
        self.step_along(with, difference)
    }

    /// `D_c + (w − 1) ΔD` of a `ΔD` that contains the momentum.
    fn step_along(&self, with: Tensor<D>, difference: Tensor<D>) -> Result<Tensor<D>, OwnError> {
        let dtype = with.dtype();
        let with = wide(with);
        let difference = match self.config.norm_threshold {
            Some(threshold) => difference.clone() * limit(difference, threshold),
            None => difference,
        };
        // The part across is the whole where D_c is 0.
        let (along, across) = decompose(difference, with.clone(), Views::Each(0))?;
        let update = across + along * self.config.eta;
        Ok((with + update * (self.config.scale - 1.0)).cast(dtype))
    }

    /// `ΔD + β m` at a call of step `index`.
    fn with_momentum(&mut self, difference: Tensor<D>, index: usize) -> Tensor<D> {
        let add = |before: &Option<Tensor<D>>| match before {
            Some(m) => difference.clone() + m.clone() * self.config.momentum,
            None => difference.clone(),
        };
        match &mut self.momentum {
            Some(momentum) if index >= momentum.index => add(&momentum.before),
            Some(momentum) => {
                let before = Some(momentum.after.clone());
                let after = add(&before);
                *momentum = Momentum {
                    index,
                    before,
                    after: after.clone(),
                };
                after
            }
            None => {
                self.momentum = Some(Momentum {
                    index,
                    before: None,
                    after: difference.clone(),
                });
                difference
            }
        }
    }
}

impl<const D: usize> Guidance<D> for AdaptiveProjected<D> {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        self.momentum = None;
        Ok(self.config.check()?)
    }

    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
        let [without, with] = [model.read(without)?, model.read(with)?];
        let difference = wide(with.sample.clone()) - wide(without.sample);
        let difference = self.with_momentum(difference, step.index);
        let sample = self.step_along(with.sample, difference)?;
        Ok(Denoised {
            variance: with.variance,
            ..model.read_sample(sample)?
        })
    }
}

/// In at least 32 bits.
fn wide<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}

/// `min(1, r/‖ΔD‖)` for each example, `[batch, 1, …]`.
fn limit<const D: usize>(difference: Tensor<D>, threshold: f64) -> Tensor<D> {
    let shape = difference.dims();
    let values: Tensor<2> = difference.reshape([shape[0], shape[1..].iter().product()]);
    let mut each = [1; D];
    each[0] = shape[0];
    // 1 over a norm of 0 is infinite, and so is limited to 1.
    let norm = values.square().sum_dim(1).sqrt();
    (norm.recip() * threshold).clamp_max(1.0).reshape(each)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use nabla_grad::seeded_noise::SeededNoise;

    use super::super::ClassifierFree;
    use super::*;

    const SHAPE: [usize; 4] = [3, 2, 4, 4];

    fn pair() -> [Tensor<4>; 2] {
        let mut noise = SeededNoise::new(5, 0);
        [0; 2].map(|_| noise.normal(SHAPE, &Device::flex()))
    }

    fn largest(x: Tensor<4>) -> f32 {
        x.abs().max().into_scalar()
    }

    fn config() -> AdaptiveProjectedConfig {
        AdaptiveProjectedConfig::new().with_norm_threshold(None)
    }

    #[test]
    fn without_its_changes_it_is_classifier_free_guidance() {
        let [without, with] = pair();
        let guidance = config().with_scale(7.5).with_eta(1.0).init();
        let found = guidance.guided(without.clone(), with.clone()).unwrap();
        let expected = ClassifierFree::new().guided(without, with);
        assert!(largest(found - expected) < 1e-5);
    }

    #[test]
    fn the_scale_1_gives_the_prediction_under_the_condition() {
        let [without, with] = pair();
        let guidance = AdaptiveProjectedConfig::new().with_scale(1.0).init();
        let found = guidance.guided(without, with.clone()).unwrap();
        assert_eq!(largest(found - with), 0.0);
    }

    #[test]
    fn the_update_is_across_the_prediction_and_no_longer_than_the_threshold() {
        let [without, with] = pair();
        let guidance = AdaptiveProjectedConfig::new()
            .with_scale(2.0)
            .with_norm_threshold(Some(1.5));
        let found = guidance.init().guided(without, with.clone()).unwrap();
        let update = found - with.clone();
        let sums =
            |x: Tensor<4>| -> Vec<f32> { x.reshape([3, 32]).sum_dim(1).try_into_vec_as().unwrap() };
        for dot in sums(update.clone() * with) {
            assert!(dot.abs() < 1e-5, "{dot}");
        }
        for square in sums(update.square()) {
            assert!(square.sqrt() <= 1.5 + 1e-5, "{square}");
        }
    }

    #[test]
    fn rows_do_not_influence_each_other() {
        let [without, with] = pair();
        let guidance = AdaptiveProjectedConfig::new().init();
        let all = guidance.guided(without.clone(), with.clone()).unwrap();
        for row in 0..3 {
            let of = |x: &Tensor<4>| x.clone().slice_dim(0, row..row + 1);
            let alone = guidance.guided(of(&without), of(&with)).unwrap();
            assert!(largest(alone - of(&all)) < 1e-6);
        }
    }

    #[test]
    fn a_prediction_of_zeros_leaves_the_whole_update() {
        let [without, with] = pair();
        let zero = with.zeros_like();
        let guidance = config().with_scale(3.0).init();
        let found = guidance.guided(without.clone(), zero.clone()).unwrap();
        assert!(largest(found + without * 2.0) < 1e-5);
        let nothing = guidance.guided(zero.clone(), zero).unwrap();
        assert_eq!(largest(nothing), 0.0);
    }

    /// `m ← ΔD + β m` once in each step, however many calls it has.
    #[test]
    fn the_momentum_counts_steps_and_not_calls() {
        let [d, e] = pair();
        let mut guidance = config().with_momentum(-0.5).init();
        let add = |guidance: &mut AdaptiveProjected, x: &Tensor<4>, index| {
            guidance.with_momentum(x.clone(), index)
        };
        // The second call of the first step has no momentum either.
        assert_eq!(largest(add(&mut guidance, &d, 9) - d.clone()), 0.0);
        assert_eq!(largest(add(&mut guidance, &e, 9) - e.clone()), 0.0);
        let second = add(&mut guidance, &e, 8);
        assert!(largest(second.clone() - (e.clone() - d.clone() * 0.5)) < 1e-6);
        assert!(largest(add(&mut guidance, &d, 8) - d.clone() * 0.5) < 1e-6);
        assert!(largest(add(&mut guidance, &d, 7) - (d - second * 0.5)) < 1e-6);
        Guidance::<4>::begin(&mut guidance, 10).unwrap();
        assert_eq!(largest(add(&mut guidance, &e, 9) - e), 0.0);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let told = |config: AdaptiveProjectedConfig| config.check().unwrap_err().to_string();
        let usual = AdaptiveProjectedConfig::new;
        assert!(told(usual().with_eta(2.0)).contains("eta of APG is 2"));
        assert!(
            told(usual().with_norm_threshold(Some(-1.0))).contains("norm threshold of APG is -1")
        );
        assert!(told(usual().with_momentum(1.5)).contains("momentum of APG is 1.5"));
        assert!(told(usual().with_scale(f64::NAN)).contains("guidance scale is NaN"));
    }
}
