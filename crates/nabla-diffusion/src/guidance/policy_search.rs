//! The search for a policy of guidance: differentiable architecture search over what happens in each step.
//!
//! Every step has the same options `F` with logits `α ∈ R^{T×|F|}`. A relaxed run mixes all of them,
//!
//! ```text
//! ε = Σ_i softmax(α_t)_i ε_i
//! loss = mean (x_0(α) − x_0^{CFG})² + λ max(0, Σ_t Σ_i softmax(α_t)_i evaluations_i − C)
//! ```
//!
//! both from the same noise, and is differentiated from its end to its beginning. A mixture may do what no single
//! option does: half of no guidance and half of twice the scale is the whole scale, for one and a half evaluations.
//! Therefore the softmax is taken of `α/τ`, with a temperature `τ` that falls from 1 to 0.1 over the search, so that
//! the shares come close to 0 and 1. Then each step takes its most likely option; if they take more than `C`
//! evaluations, the steps that are least sure take their best option of one evaluation.
//!
//! The whole run is kept for the gradient, which suits small models. The paper's policies guide early and not
//! late, which is why [`Adaptive`](super::Adaptive) needs no search. Its list of options and its `λ` are not known
//! to us; the mean in place of the sum makes `λ` independent of the size of a sample, and the temperature is ours.
//!
//! Source: Castillo et al., *Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models*,
//! 2023, arXiv 2312.12487, section 3.

use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};
use nabla_base::range;

use super::{ClassifierFree, Guidance, GuidancePolicy, ModelAt, PolicyStep};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised, Denoiser};
use crate::sampler::{Sampler, Sampling};
use crate::sampler_error::{OwnError, SamplerError};
use crate::seeded_noise::SeededNoise;

/// `τ` at the end of a search.
const COLDEST: f64 = 0.1;

/// The search for a policy of guidance.
///
/// ```
/// use burn::tensor::Device;
/// use nabla_diffusion::ddim::Ddim;
/// use nabla_diffusion::denoiser::{GaussianMixture, MixturePart};
/// use nabla_diffusion::guidance::PolicySearch;
/// use nabla_diffusion::sampler::Sampler;
/// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let part = |class, place| MixturePart { class, weight: 1.0, mean: vec![place; 2], deviation: 0.3 };
/// let model = GaussianMixture::new(vec![part(0, -1.0), part(1, 1.0)])?;
/// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 6)?;
/// let sampler = Sampler::new(Ddim::new(), schedule)?;
/// let starts = [SeededNoise::new(1, 0).normal([64, 2], &Device::flex().autodiff())];
///
/// let search = PolicySearch { epochs: 5, ..PolicySearch::new(3.0, 9) };
/// let found = search.run(&model, &sampler, &starts)?;
/// assert!(found.policy.evaluations() <= 9);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySearch {
    /// The scale of the classifier-free guidance that the policy imitates.
    pub scale: f64,
    /// `F`, what may happen in a step.
    pub options: Vec<PolicyStep>,
    /// `C`, the most evaluations of a run.
    pub budget: usize,
    /// `λ`. Default 0.1.
    pub penalty: f64,
    /// The learning rate of Adam. Default 0.1.
    pub learning_rate: f64,
    /// How often every batch of noise is used. Default 50.
    pub epochs: usize,
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundPolicy {
    /// The policy.
    pub policy: GuidancePolicy,
    /// `softmax(α/τ)`: for each step, the noisiest first, the share of each option.
    pub shares: Vec<Vec<f64>>,
    /// The loss before each update.
    pub losses: Vec<f64>,
}

#[derive(Module, Debug)]
struct Logits {
    /// `α`, `[steps, options]`.
    values: Param<Tensor<2>>,
}

impl PolicySearch {
    /// A search among no guidance, classifier-free guidance of half, the same and twice the scale, and no
    /// condition.
    ///
    /// - `scale`: of the classifier-free guidance to imitate
    /// - `budget`: the most evaluations of a run
    pub fn new(scale: f64, budget: usize) -> Self {
        Self {
            scale,
            options: vec![
                PolicyStep::Conditional,
                PolicyStep::ClassifierFree(0.5 * scale),
                PolicyStep::ClassifierFree(scale),
                PolicyStep::ClassifierFree(2.0 * scale),
                PolicyStep::Unconditional,
            ],
            budget,
            penalty: 0.1,
            learning_rate: 0.1,
            epochs: 50,
        }
    }

    /// Searches.
    ///
    /// - `model`: differentiable in its state
    /// - `sampler`: without noise of its own, or the two runs differ by it only if they draw differently: both
    ///   draw the same noise
    /// - `starts`: batches of noise at the level where the sampler starts, on an autodiff device
    ///
    /// # Errors
    /// If an option is out of range, the budget is below the number of steps, there are no starts or they are on
    /// a device without automatic differentiation, or a run fails.
    pub fn run<const D: usize>(
        &self,
        model: &dyn Denoiser<D>,
        sampler: &Sampler<D>,
        starts: &[Tensor<D>],
    ) -> Result<FoundPolicy, SamplerError> {
        let steps = sampler.levels().steps();
        self.check(steps)?;
        range::at_least("number of batches of noise", starts.len(), 1)?;
        if starts.iter().any(|start| !start.is_autodiff()) {
            let device = "one without automatic differentiation";
            let expected = "made by `device.autodiff()`";
            return Err(range::OutOfRange::new("device of the noise", device, expected).into());
        }
        let device = starts[0].device();
        let mut logits = Logits {
            values: Param::from_tensor(Tensor::zeros([steps, self.options.len()], &device)),
        };
        let mut adam = AdamConfig::new().init();
        let run = |guidance: &mut dyn Guidance<D>, start: &Tensor<D>| {
            let sampling = Sampling::of(model).guided_by(guidance);
            sampling.run(sampler, start.clone(), &mut SeededNoise::new(0, 0))
        };
        let mut targets = Vec::with_capacity(starts.len());
        for start in starts {
            let mut usual = ClassifierFree::new().with_scale(self.scale);
            targets.push(run(&mut usual, start)?.detach());
        }
        let mut losses = Vec::with_capacity(self.epochs * starts.len());
        for epoch in 0..self.epochs {
            let temperature = COLDEST.powf((epoch + 1) as f64 / self.epochs as f64);
            for (start, target) in starts.iter().zip(&targets) {
                let shares = softmax(logits.values.val() / temperature, 1);
                let mut relaxed = Relaxed {
                    options: &self.options,
                    shares: shares.clone(),
                };
                let end = run(&mut relaxed, start)?;
                let excess = (self.expected(shares, &device) - self.budget as f64).clamp_min(0.0);
                let loss = (end - target.clone()).square().mean() + excess * self.penalty;
                losses.push(number(loss.clone().without_autodiff())?);
                let gradients = GradientsParams::from_grads(loss.backward(), &logits);
                logits = adam.step(self.learning_rate, logits, gradients);
            }
        }
        let shares = softmax(logits.values.val().without_autodiff() / COLDEST, 1);
        let shares: Vec<f64> = shares.try_into_vec_as().map_err(OwnError::from)?;
        let shares: Vec<Vec<f64>> = shares
            .chunks(self.options.len())
            .map(<[f64]>::to_vec)
            .collect();
        Ok(FoundPolicy {
            policy: self.chosen(&shares),
            shares,
            losses,
        })
    }

    fn check(&self, steps: usize) -> Result<(), SamplerError> {
        range::finite("guidance scale", self.scale)?;
        range::at_least("number of options of the search", self.options.len(), 1)?;
        let cheap = self.options.iter().any(|option| option.evaluations() == 1);
        let least = if cheap { steps } else { 2 * steps };
        range::at_least("number of evaluations of the search", self.budget, least)?;
        range::not_negative("penalty of the search", self.penalty)?;
        Ok(range::positive(
            "learning rate of the search",
            self.learning_rate,
        )?)
    }

    /// `Σ_t Σ_i softmax(α_t)_i evaluations_i`.
    fn expected(&self, shares: Tensor<2>, device: &Device) -> Tensor<1> {
        let costs: Vec<f32> = self
            .options
            .iter()
            .map(|o| o.evaluations() as f32)
            .collect();
        let costs = Tensor::<1>::from_floats(costs.as_slice(), device).unsqueeze::<2>();
        (shares * costs).sum()
    }

    /// The most likely options within the budget.
    fn chosen(&self, shares: &[Vec<f64>]) -> GuidancePolicy {
        let best = |each: &[f64], most: usize| {
            let fits = |i: &usize| self.options[*i].evaluations() <= most;
            let all = (0..each.len()).filter(fits);
            all.max_by(|&a, &b| each[a].total_cmp(&each[b]))
        };
        let mut choices: Vec<usize> = shares
            .iter()
            .map(|each| best(each, 2).unwrap_or(0))
            .collect();
        let cost = |choices: &[usize]| -> usize {
            choices.iter().map(|&i| self.options[i].evaluations()).sum()
        };
        while cost(&choices) > self.budget {
            // The step that loses least.
            let changes = choices.iter().enumerate().filter_map(|(step, &now)| {
                let other =
                    best(&shares[step], 1).filter(|_| self.options[now].evaluations() > 1)?;
                Some((step, other, shares[step][now] - shares[step][other]))
            });
            match changes.min_by(|a, b| a.2.total_cmp(&b.2)) {
                Some((step, other, _)) => choices[step] = other,
                None => break,
            }
        }
        GuidancePolicy {
            steps: choices.into_iter().map(|i| self.options[i]).collect(),
        }
    }
}

/// The mixture of all options.
#[derive(Debug)]
struct Relaxed<'a> {
    options: &'a [PolicyStep],
    /// `softmax(α)`, `[steps, options]`.
    shares: Tensor<2>,
}

impl<const D: usize> Guidance<D> for Relaxed<'_> {
    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
        let row = step.done();
        let shares = self.shares.clone().slice_dim(0, row..row + 1);
        let mut mixed = with.zeros_like();
        for (i, option) in self.options.iter().enumerate() {
            let share = shares.clone().slice_dim(1, i..i + 1).reshape([1; D]);
            mixed = mixed + option.combined(&without, &with) * share;
        }
        Ok(model.read(mixed)?)
    }
}

fn number(x: Tensor<1>) -> Result<f64, OwnError> {
    let values: Vec<f64> = x.try_into_vec_as()?;
    Ok(values.into_iter().sum())
}
