//! The exact denoiser of a mixture of Gaussians with classes.
//!
//! ```text
//! x_0 ~ Σ_k w_k N(μ_k, s_k² I),   x = signal · x_0 + noise · ε
//! E[x_0 | x] = Σ_k r_k (μ_k + signal s_k²/v_k (x − signal μ_k)),   v_k = signal² s_k² + noise²
//! r_k ∝ w_k N(x; signal μ_k, v_k I)
//! ```
//!
//! where the sums go over the parts of the class that is the condition, or over all of them. With it the
//! predictions under every condition are known exactly, and so are the densities of the classes at every noise
//! level: what a guidance does can be measured without a network.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};

use super::{Condition, Denoiser, OwnError, Prediction, SamplerError};
use crate::level::Level;

/// A part of a [`GaussianMixture`].
#[derive(Clone, Debug, PartialEq)]
pub struct MixturePart {
    /// The class to which it belongs, from 0.
    pub class: usize,
    /// `w`, relative to the other parts; positive.
    pub weight: f64,
    /// `μ`.
    pub mean: Vec<f64>,
    /// `s`, at least 0.
    pub deviation: f64,
}

/// The exact denoiser of a mixture of Gaussians with classes: `Condition::Given(k)` is class `k`, and
/// `Condition::Without` all of them. It predicts `ε` for points `[batch, numbers]`.
///
/// ```text
/// E[x_0 | x] = Σ_k r_k (μ_k + signal s_k²/(signal² s_k² + noise²) (x − signal μ_k))
/// ```
///
/// This model is exact, so it can be used to measure what a guidance does.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{Condition, Denoiser, GaussianMixture, MixturePart};
/// use nabla_diffusion::level::Level;
///
/// let part = |class, place| MixturePart { class, weight: 1.0, mean: vec![place; 2], deviation: 0.1 };
/// let model = GaussianMixture::new(vec![part(0, -1.0), part(1, 1.0), part(1, 3.0)])?;
/// assert_eq!(model.classes(), 2);
/// let x = Tensor::ones([1, 2], &Device::flex());
/// let classes = model.log_posterior(x, Level::straight(0.3))?; // [1, 2]
/// assert!(classes.try_into_vec_as::<f32>()?[0] < -10.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct GaussianMixture {
    parts: Vec<MixturePart>,
    classes: usize,
}

/// Keeps the softmax of an excluded part at 0 without infinities.
const EXCLUDED: f64 = -1e30;

impl GaussianMixture {
    /// # Errors
    /// If there is no part, a class below the highest has none, a weight is not positive, a deviation is
    /// negative, or the means differ in length.
    pub fn new(parts: Vec<MixturePart>) -> Result<Self, OutOfRange> {
        range::at_least("number of parts of the mixture", parts.len(), 1)?;
        let length = parts[0].mean.len();
        range::at_least("number of numbers of a mean", length, 1)?;
        let classes = parts.iter().map(|part| part.class + 1).max().unwrap_or(1);
        for class in 0..classes {
            let there = parts.iter().any(|part| part.class == class);
            let expected = format!("without gaps, but class {class} has no part");
            range::check(there, "list of classes", classes, expected)?;
        }
        for part in &parts {
            range::positive("weight of a part", part.weight)?;
            range::not_negative("deviation of a part", part.deviation)?;
            let (found, expected) = (part.mean.len(), format!("{length}, as that of the first"));
            range::check(found == length, "length of a mean", found, expected)?;
        }
        Ok(Self { parts, classes })
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The parts.
    pub fn parts(&self) -> &[MixturePart] {
        &self.parts
    }

    /// `ln w_k N(x; signal μ_k, v_k I)` up to a common constant, `[batch, parts]`.
    fn log_joint(&self, x: &Tensor<2>, level: Level) -> Result<Tensor<2>, OutOfRange> {
        let [_, numbers] = x.dims();
        let expected = self.parts[0].mean.len();
        let told = format!("{expected}, as the means have");
        range::check(
            numbers == expected,
            "number of numbers of a point",
            numbers,
            told,
        )?;
        let each = self.parts.iter().map(|part| {
            let variance = self.variance(part, level);
            let constant = part.weight.ln() - 0.5 * numbers as f64 * variance.ln();
            let distance = (x.clone() - row(&part.mean, x) * level.signal()).square();
            distance.sum_dim(1) * (-0.5 / variance) + constant
        });
        Ok(Tensor::cat(each.collect(), 1))
    }

    /// `v_k`; never 0.
    fn variance(&self, part: &MixturePart, level: Level) -> f64 {
        let variance = (level.signal() * part.deviation).powi(2) + level.noise().powi(2);
        variance.max(f64::from(f32::MIN_POSITIVE))
    }

    /// `ln p(class | x)` at a level, `[batch, classes]`; differentiable.
    ///
    /// # Errors
    /// If the points have another number of numbers than the means.
    pub fn log_posterior(&self, x: Tensor<2>, level: Level) -> Result<Tensor<2>, OutOfRange> {
        let joint = log_softmax(self.log_joint(&x, level)?, 1);
        let each = (0..self.classes).map(|class| {
            let of_class = joint.clone() + self.excluded(&[Condition::Given(class)], &x);
            // ln Σ exp, with the largest taken out.
            let largest = of_class.clone().max_dim(1).detach();
            let sum = (of_class - largest.clone()).exp().sum_dim(1);
            sum.log() + largest
        });
        Ok(Tensor::cat(each.collect(), 1))
    }

    /// 0 for the parts of each condition, and a large negative number for the others: `[conditions, parts]`.
    fn excluded(&self, conditions: &[Condition], x: &Tensor<2>) -> Tensor<2> {
        let value = |condition: &Condition, part: &MixturePart| match condition {
            Condition::Given(class) if part.class != *class => EXCLUDED,
            _ => 0.0,
        };
        let rows = conditions.iter();
        let values = rows.flat_map(|c| self.parts.iter().map(move |part| value(c, part)));
        let shape = [conditions.len(), self.parts.len()];
        let data = TensorData::new(values.collect::<Vec<f64>>(), shape);
        Tensor::from_data(data, (&x.device(), x.dtype()))
    }

    /// `E[x_0 | x]` under each row's condition.
    ///
    /// # Errors
    /// If a class does not exist, or the points have another number of numbers than the means.
    fn sample(
        &self,
        x: &Tensor<2>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Tensor<2>, SamplerError> {
        let unknown = |c: &&Condition| matches!(c, Condition::Given(k) if *k >= self.classes);
        if let Some(&condition) = conditions.iter().find(unknown) {
            let known = format!("{} classes, and all of them", self.classes);
            return Err(SamplerError::NoCondition { condition, known });
        }
        let joint = self.log_joint(x, level)?;
        let excluded = self.excluded(conditions, x);
        let shares = softmax(joint + excluded, 1); // r, [batch, parts]
        let mut sum = x.zeros_like();
        for (k, part) in self.parts.iter().enumerate() {
            let gain = level.signal() * part.deviation.powi(2) / self.variance(part, level);
            let mean = row(&part.mean, x);
            let sample = mean.clone() + (x.clone() - mean * level.signal()) * gain;
            sum = sum + sample * shares.clone().slice_dim(1, k..k + 1);
        }
        Ok(sum)
    }
}

/// `[1, numbers]`, of the precision of `x`.
fn row(values: &[f64], x: &Tensor<2>) -> Tensor<2> {
    let data = TensorData::new(values.to_vec(), [1, values.len()]);
    Tensor::from_data(data, (&x.device(), x.dtype()))
}

impl Denoiser<2> for GaussianMixture {
    fn prediction(&self) -> Prediction {
        Prediction::Epsilon
    }

    fn predict(
        &self,
        x: Tensor<2>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<2>>, OwnError> {
        let each = conditions.iter().map(|&condition| {
            let rows: Vec<_> = (0..x.dims()[0]).map(|row| (row, condition)).collect();
            self.predict_rows(x.clone(), level, &rows)
        });
        each.collect()
    }

    fn predict_rows(
        &self,
        x: Tensor<2>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<2>, OwnError> {
        let conditions: Vec<Condition> = rows.iter().map(|&(_, condition)| condition).collect();
        let sample = self.sample(&x, level, &conditions)?;
        Ok(Prediction::Sample.convert(Prediction::Epsilon, sample, x, level))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn mixture() -> GaussianMixture {
        let part = |class, weight, mean: [f64; 2], deviation| MixturePart {
            class,
            weight,
            mean: mean.to_vec(),
            deviation,
        };
        GaussianMixture::new(vec![
            part(0, 1.0, [1.0, 0.0], 0.2),
            part(1, 2.0, [-1.0, 0.5], 0.1),
            part(1, 0.5, [0.0, -1.0], 0.4),
        ])
        .unwrap()
    }

    /// The density of a class at a level, in f64.
    fn density(model: &GaussianMixture, x: [f64; 2], level: Level, class: Option<usize>) -> f64 {
        let parts = model.parts.iter();
        let parts = parts.filter(|part| class.is_none_or(|class| part.class == class));
        parts
            .map(|part| {
                let v = model.variance(part, level);
                let each = x.iter().zip(&part.mean);
                let square: f64 = each.map(|(x, m)| (x - level.signal() * m).powi(2)).sum();
                part.weight / v * (-0.5 * square / v).exp()
            })
            .sum()
    }

    /// `ε = −noise ∇ ln p`, the derivative by differences of the density's definition.
    #[test]
    fn the_noise_is_the_score_of_the_density() {
        let (model, device) = (mixture(), Device::flex());
        for level in [Level::variance_preserving(1.0, 0.3), Level::straight(0.2)] {
            for (condition, class) in [
                (Condition::Without, None),
                (Condition::Given(0), Some(0)),
                (Condition::Given(1), Some(1)),
            ] {
                let point = [0.3, -0.2];
                let x = row(&point, &Tensor::zeros([1, 2], &device));
                let found = model.predict(x, level, &[condition]).unwrap().remove(0);
                let found: Vec<f32> = found.try_into_vec_as().unwrap();
                for i in 0..2 {
                    let log = |step: f64| {
                        let mut moved = point;
                        moved[i] += step;
                        density(&model, moved, level, class).ln()
                    };
                    let score = (log(1e-4) - log(-1e-4)) / 2e-4;
                    let error = (f64::from(found[i]) + level.noise() * score).abs();
                    assert!(error < 2e-5, "{condition:?} {level:?}: {error}");
                }
            }
        }
    }

    #[test]
    fn the_posterior_is_the_ratio_of_the_densities() {
        let (model, level) = (mixture(), Level::variance_preserving(1.0, 0.5));
        let x = Tensor::<2>::from_floats([[0.3, -0.2]], &Device::flex());
        let found = model.log_posterior(x, level).unwrap();
        let found: Vec<f32> = found.try_into_vec_as().unwrap();
        let all = density(&model, [0.3, -0.2], level, None);
        for (class, found) in found.into_iter().enumerate() {
            let expected = (density(&model, [0.3, -0.2], level, Some(class)) / all).ln();
            assert!((f64::from(found) - expected).abs() < 1e-5, "{class}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let told = |parts: Vec<MixturePart>| GaussianMixture::new(parts).unwrap_err().to_string();
        let part = |class, mean: &[f64]| MixturePart {
            class,
            weight: 1.0,
            mean: mean.to_vec(),
            deviation: 0.1,
        };
        assert!(told(vec![]).contains("number of parts"));
        assert!(told(vec![part(1, &[0.0])]).contains("class 0 has no part"));
        assert!(
            told(vec![part(0, &[0.0]), part(0, &[0.0, 1.0])]).contains("length of a mean is 2")
        );
        let x = Tensor::<2>::zeros([1, 2], &Device::flex());
        let error = mixture().predict(x, Level::straight(0.5), &[Condition::Given(2)]);
        assert!(error.unwrap_err().to_string().contains("number 2"));
    }
}
