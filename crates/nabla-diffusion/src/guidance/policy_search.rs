//! The search for a policy of guidance: differentiable architecture search over what happens in each step.
//!
//! Every step has the same options `F` with logits `α ∈ R^{T×|F|}`, and shares `p_t = softmax(α_t)`. A run mixes
//! the options with weights `w`, and is differentiated from its end to its beginning:
//!
//! ```text
//! ε = Σ_i w_{t,i} ε_i
//! loss = mean (x_0(w) − x_0^{CFG})² + λ max(0, Σ_t Σ_i p_{t,i} evaluations_i − C)
//! ```
//!
//! both ends from the same noise. [`Relaxation::Soft`] has `w = p`, as the paper, and takes the most likely option of
//! each step at the end. But a mixture may do what no single option does: half of no guidance and half of twice the
//! scale is the whole scale, for one and a half evaluations. So it finds mixtures that are all but perfect, whose
//! most likely options are far from it. [`Relaxation::StraightThrough`], the default, draws one option
//! for each step (`w` is 1 for the largest `α_{t,i} + g_i`, `g` Gumbel noise) and takes the gradient as if `w` were
//! `softmax(α_t + g)`. So each run is one of a policy, and the best one within the budget is kept.
//!
//! If no policy within the budget was seen, each step takes its most likely option, and the steps that are least
//! sure their best option of one evaluation.
//!
//! The whole run is kept for the gradient, which suits small models. The paper's policies guide early and not
//! late, which is why [`Adaptive`](super::Adaptive) needs no search. Its list of options and its `λ` are not known
//! to us; the mean in place of the sum makes `λ` independent of the size of a sample.
//!
//! Source: Castillo et al., *Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models*,
//! 2023, arXiv 2312.12487, section 3; Jang, Gu, Poole, *Categorical Reparameterization with Gumbel-Softmax*, 2017,
//! arXiv 1611.01144 (straight through).

use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsAccumulator, GradientsParams};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range;

use super::{ClassifierFree, Guidance, GuidancePolicy, ModelAt, PolicyStep};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised, Denoiser};
use crate::sampler::{Sampler, Sampling};
use crate::sampler_error::{OwnError, SamplerError};
use crate::seeded_noise::SeededNoise;

/// How a run depends on the shares; see [`PolicySearch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relaxation {
    /// A run takes one option in each step, drawn from the shares; the gradient is that of a mixture.
    StraightThrough,
    /// A run mixes all options by their shares, as in the paper.
    Soft,
}

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
    /// How a run depends on the shares. Default [`Relaxation::StraightThrough`].
    pub relaxation: Relaxation,
    /// `λ`. Default 0.1.
    pub penalty: f64,
    /// The learning rate of Adam. Default 0.3.
    pub learning_rate: f64,
    /// The number of updates, for each of which every batch of noise is used. Default 100.
    pub epochs: usize,
    /// The seed of the draws. Default 0.
    pub seed: u64,
}

/// The result of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundPolicy {
    /// The policy.
    pub policy: GuidancePolicy,
    /// `softmax(α)`: for each step, the noisiest first, the share of each option.
    pub shares: Vec<Vec<f64>>,
    /// The loss of each update, the mean over the batches.
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
            relaxation: Relaxation::StraightThrough,
            penalty: 0.1,
            learning_rate: 0.3,
            epochs: 100,
            seed: 0,
        }
    }

    /// Searches.
    ///
    /// - `model`: differentiable in its state
    /// - `sampler`: if it adds noise, it is the same in all runs
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
        let mut draws = SeededNoise::new(self.seed, 0);
        let mut losses = Vec::with_capacity(self.epochs);
        let mut best: Option<(f64, GuidancePolicy)> = None;
        for _ in 0..self.epochs {
            let (noise, mut gradients) = (
                self.gumbel(&mut draws, steps, &device),
                GradientsAccumulator::new(),
            );
            let (mut distance, mut total, mut policy) = (0.0, 0.0, None);
            for (start, target) in starts.iter().zip(&targets) {
                let logits_now = logits.values.val();
                let weights = softmax(logits_now.clone() + noise.clone(), 1);
                let weights = match self.relaxation {
                    Relaxation::Soft => weights,
                    Relaxation::StraightThrough => {
                        let (drawn, one_hot) = self.drawn(&weights)?;
                        policy = Some(drawn);
                        one_hot.autodiff() + weights.clone() - weights.detach()
                    }
                };
                let mut relaxed = Relaxed {
                    options: &self.options,
                    weights,
                };
                let end = run(&mut relaxed, start)?;
                let error = (end - target.clone()).square().mean();
                distance += number(error.clone())?;
                let expected = self.expected(softmax(logits_now, 1), &device);
                let excess = (expected - self.budget as f64).clamp_min(0.0);
                let loss = error + excess * self.penalty;
                total += number(loss.clone())? / starts.len() as f64;
                let of_start = GradientsParams::from_grads(loss.backward(), &logits);
                gradients.accumulate(&logits, of_start);
            }
            losses.push(total);
            if let Some(policy) = policy
                && policy.evaluations() <= self.budget
                && best.as_ref().is_none_or(|(least, _)| distance < *least)
            {
                best = Some((distance, policy));
            }
            logits = adam.step(self.learning_rate, logits, gradients.grads());
        }
        let shares = softmax(logits.values.val().without_autodiff(), 1);
        let shares = self.rows(shares)?;
        Ok(FoundPolicy {
            policy: best.map_or_else(|| self.chosen(&shares), |(_, policy)| policy),
            shares,
            losses,
        })
    }

    /// `g = −ln e` of exponential noise `e`, `[steps, options]`; zeros if nothing is drawn.
    fn gumbel(&self, draws: &mut SeededNoise, steps: usize, device: &Device) -> Tensor<2> {
        let shape = [steps, self.options.len()];
        match self.relaxation {
            Relaxation::Soft => Tensor::zeros(shape, device),
            // Half the sum of two squares of normal numbers is exponential.
            Relaxation::StraightThrough => {
                let [a, b] = [0; 2].map(|_| draws.normal(shape, device).square());
                ((a + b) * 0.5).clamp_min(1e-12).log().neg()
            }
        }
    }

    /// The most likely options, as a policy and as weights.
    fn drawn(&self, weights: &Tensor<2>) -> Result<(GuidancePolicy, Tensor<2>), OwnError> {
        let shape = weights.dims();
        let mut one_hot = vec![0.0; shape[0] * shape[1]];
        let mut steps = Vec::with_capacity(shape[0]);
        for (step, each) in self
            .rows(weights.clone().without_autodiff())?
            .iter()
            .enumerate()
        {
            let largest = (0..each.len()).max_by(|&a, &b| each[a].total_cmp(&each[b]));
            let largest = largest.ok_or("there are no options")?;
            one_hot[step * shape[1] + largest] = 1.0;
            steps.push(self.options[largest]);
        }
        let one_hot = TensorData::new(one_hot, shape);
        let device = weights.clone().without_autodiff().device();
        let one_hot = Tensor::from_data(one_hot, (&device, weights.dtype()));
        Ok((GuidancePolicy { steps }, one_hot))
    }

    fn rows(&self, shares: Tensor<2>) -> Result<Vec<Vec<f64>>, OwnError> {
        let shares: Vec<f64> = shares.try_into_vec_as()?;
        let rows = shares.chunks(self.options.len()).map(<[f64]>::to_vec);
        Ok(rows.collect())
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
    /// `w`, `[steps, options]`.
    weights: Tensor<2>,
}

impl<const D: usize> Guidance<D> for Relaxed<'_> {
    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
        let row = step.done();
        let weights = self.weights.clone().slice_dim(0, row..row + 1);
        let mut mixed = with.zeros_like();
        for (i, option) in self.options.iter().enumerate() {
            let weight = weights.clone().slice_dim(1, i..i + 1).reshape([1; D]);
            mixed = mixed + option.combined(&without, &with) * weight;
        }
        Ok(model.read(mixed)?)
    }
}

fn number(x: Tensor<1>) -> Result<f64, OwnError> {
    let values: Vec<f64> = x.without_autodiff().try_into_vec_as()?;
    Ok(values.into_iter().sum())
}
