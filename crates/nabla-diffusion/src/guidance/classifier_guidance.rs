//! Classifier guidance: along the gradient of a classifier of noisy samples.
//!
//! ```text
//! ε̂ = ε(x) − s · noise · ∇_x ln p(y | x)
//! ```
//!
//! A diffusion model follows the score `∇_x ln p(x) = −ε/noise`; Bayes' rule adds the gradient of the classifier
//! to it. With `s = 1` and an exact classifier the samples are those of the class; a larger `s` makes them more
//! typical of it. The classifier must have learned from noisy samples of every level. The gradient is taken by
//! automatic differentiation of the classifier alone: the diffusion model may be without it.
//!
//! Source: Dhariwal, Nichol, *Diffusion Models Beat GANs on Image Synthesis*, 2021, arXiv 2105.05233, section 4
//! and algorithm 2.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use nabla_base::range;

use super::{Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised, Prediction};
use crate::level::Level;
use crate::sampler_error::OwnError;

/// A classifier of noisy samples.
pub trait NoisyClassifier<const D: usize = 4> {
    /// The logits of the classes, `[batch, classes]`, differentiable in `x`.
    ///
    /// - `x`: `[batch, …]`, on an autodiff device
    ///
    /// # Errors
    /// Any error, which ends the run.
    fn logits(&self, x: Tensor<D>, level: Level) -> Result<Tensor<2>, OwnError>;
}

/// A closure that computes the logits.
impl<F, const D: usize> NoisyClassifier<D> for F
where
    F: Fn(Tensor<D>, Level) -> Result<Tensor<2>, OwnError>,
{
    fn logits(&self, x: Tensor<D>, level: Level) -> Result<Tensor<2>, OwnError> {
        self(x, level)
    }
}

/// Classifier guidance: `ε̂ = ε − s · noise · ∇_x ln p(y | x)`.
///
/// Source: Dhariwal, Nichol, 2021, arXiv 2105.05233.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::ddim::Ddim;
/// use nabla_diffusion::denoiser::{Condition, GaussianMixture, MixturePart, RowConditions};
/// use nabla_diffusion::guidance::ClassifierGuidance;
/// use nabla_diffusion::level::Level;
/// use nabla_diffusion::sampler::{Sampler, Sampling};
/// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let part = |class, place| MixturePart { class, weight: 1.0, mean: vec![place; 2], deviation: 0.1 };
/// let mixture = GaussianMixture::new(vec![part(0, -1.0), part(1, 1.0)])?;
/// // A model without a condition, which the classifier leads to class 1.
/// let model = RowConditions::new(&mixture, vec![Condition::Without; 50]);
/// let classifier = |x: Tensor<2>, level: Level| Ok(mixture.log_posterior(x, level)?);
/// let mut guidance = ClassifierGuidance::new(&classifier, vec![1; 50]);
///
/// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 20)?;
/// let sampler = Sampler::new(Ddim::new(), schedule)?;
/// let mut noise = SeededNoise::new(42, 0);
/// let start = noise.normal([50, 2], &Device::flex());
/// let sampling = Sampling::of(&model).guided_by(&mut guidance);
/// let found = sampling.run(&sampler, start, &mut noise)?;
/// assert!(found.min().into_scalar::<f32>() > 0.5);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ClassifierGuidance<'a, const D: usize = 4> {
    classifier: &'a dyn NoisyClassifier<D>,
    targets: Vec<usize>,
    scale: f64,
}

impl<const D: usize> std::fmt::Debug for ClassifierGuidance<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClassifierGuidance")
            .field("targets", &self.targets)
            .field("scale", &self.scale)
            .finish_non_exhaustive()
    }
}

impl<'a, const D: usize> ClassifierGuidance<'a, D> {
    /// Guidance with the scale 1.
    ///
    /// - `targets`: `y`, the class of each row of the batch
    pub fn new(classifier: &'a dyn NoisyClassifier<D>, targets: Vec<usize>) -> Self {
        Self {
            classifier,
            targets,
            scale: 1.0,
        }
    }

    /// Sets `s`.
    #[must_use]
    pub fn with_scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// `∇_x ln p(y | x)`, of the shape of `x`.
    ///
    /// # Errors
    /// If the number of targets is not that of the rows, a target is no class, the classifier fails, or its
    /// logits do not depend on `x`.
    pub fn gradient(&self, x: &Tensor<D>, level: Level) -> Result<Tensor<D>, OwnError> {
        let leaf = x.clone().autodiff().detach().require_grad();
        let logits = self.classifier.logits(leaf.clone(), level)?;
        let [rows, classes] = logits.dims();
        check_targets(&self.targets, x.dims()[0], [rows, classes])?;
        let targets: Vec<i64> = self.targets.iter().map(|&class| class as i64).collect();
        let targets = TensorData::new(targets, [rows, 1]);
        let targets = Tensor::<2, Int>::from_data(targets, &logits.device());
        let chosen = log_softmax(logits, 1).gather(1, targets);
        let gradients = chosen.sum().backward();
        let gradient = leaf.grad(&gradients);
        let gradient =
            gradient.ok_or("the logits of the classifier do not depend on the sample")?;
        // As the state is: with or without automatic differentiation.
        Ok(match x.is_autodiff() {
            true => gradient.autodiff(),
            false => gradient,
        })
    }
}

/// Checks that there is one class for each row.
pub(super) fn check_targets(
    targets: &[usize],
    batch: usize,
    [rows, classes]: [usize; 2],
) -> Result<(), OwnError> {
    let expected = format!("{batch}, as the batch has rows");
    range::check(
        targets.len() == batch,
        "number of target classes",
        targets.len(),
        expected,
    )?;
    let expected = format!("{batch}, as the batch has rows");
    range::check(
        rows == batch,
        "number of rows of the classifier's logits",
        rows,
        expected,
    )?;
    if let Some(&wrong) = targets.iter().find(|&&class| class >= classes) {
        let expected = format!("below {classes}, the number of the classifier's classes");
        range::check(false, "target class", wrong, expected)?;
    }
    Ok(())
}

impl<const D: usize> Guidance<D> for ClassifierGuidance<'_, D> {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        Ok(range::finite(
            "scale of the classifier's gradient",
            self.scale,
        )?)
    }

    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let [output] = model.ask([Condition::FIRST])?;
        let denoised = model.read(output)?;
        let gradient = self.gradient(step.x, step.level)?;
        let epsilon = denoised.epsilon - gradient * (self.scale * step.level.noise());
        let (kind, x) = (Prediction::Epsilon, step.x.clone());
        let sample = kind.convert(Prediction::Sample, epsilon.clone(), x, step.level);
        Ok(Denoised {
            variance: denoised.variance,
            ..Denoised::new(sample, epsilon)
        })
    }
}
