//! AdamP and SGDP: momentum that does not inflate scale-invariant weights.
//!
//! A weight before a normalisation layer is scale invariant: `f(c w) = f(w)` for `c > 0`. Its gradient is
//! orthogonal to it, and what matters is the step relative to `‖w‖`. Each step makes `w` longer. Momentum,
//! which is not orthogonal to the new `w`, makes it far longer than plain gradient descent would, by a factor
//! `1 + 2β/(1 − β)` (19 at β = 0.9), so the effective step size decays too early. AdamP and SGDP remove the
//! radial part of such a weight's step `p`,
//!
//! ```text
//! Π_w(p) = p − (ŵ·p) ŵ,    ŵ = w/(‖w‖ + ε),
//! ```
//!
//! and reduce the weight's decay by the ratio ρ. A weight is treated as scale invariant if its gradient `g`
//! is nearly orthogonal to it in one of two views, which are tried in this order:
//!
//! ```text
//! channels   |cos(w_c, g_c)| < δ/√K for all channels c, each of K numbers
//! layer      |cos(w, g)| < δ/√N, with all N numbers as one vector
//! ```
//!
//! Then Π acts on each channel or on the whole, and `r = ρ`; otherwise `r = 1`. Vectors (biases, gains
//! of normalisation layers) are never projected. AdamP's step after `t` steps is
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
//! p = m / (√v/√(1 − β₂ᵗ) + ε)        with Nesterov's momentum, β₁ m + (1 − β₁) g instead of m
//! w ← (1 − η λ r) w − η/(1 − β₁ᵗ) Π(p)
//! ```
//!
//! and SGDP's, with the momentum μ and the dampening τ,
//!
//! ```text
//! b ← μ b + (1 − τ) g
//! p = b                              with Nesterov's momentum, g + μ b
//! w ← (1 − η λ r/(1 − μ)) w − η Π(p)
//! ```
//!
//! AdamP's ε is added after the correction of the bias, as in the authors' package; `pytorch_optimizer` adds
//! it before, `(√v + ε)/√(1 − β₂ᵗ)`, which makes first steps shorter where gradients are not much
//! larger than ε: with gradients of 1e-6 and ε = 1e-8 by a quarter.
//!
//! Π does not change `m` and `b`, as in the paper. The authors' SGDP without Nesterov's momentum also
//! projects the stored `b`, because there it is the same tensor as `p`.
//!
//! The channels of a weight are its layer's outputs. PyTorch has them in dimension 0 everywhere, Burn in
//! dimension 0 of convolutions and in dimension 1 of `Linear`; [`ChannelDim::ByRank`] follows Burn. For
//! transposed convolutions (dimension 1) and embeddings (dimension 0), use a parameter group with another
//! [`ChannelDim`].
//!
//! The state has 2 floats per parameter for AdamP, 1 for SGDP.
//!
//! Source: Heo, Chun, Oh, Han, Yun, Kim, Uh, Ha, *AdamP: Slowing Down the Slowdown for Momentum
//! Optimizers on Scale-invariant Weights*, 2020, arXiv 2006.08217; their code,
//! github.com/clovaai/AdamP.

use burn::config::Config;
use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{LearningRate, ModuleOptimizer, Optimizer};
use burn::store::burn_pack;
use burn::tensor::{Device, Tensor};
use nabla_base::OutOfRange;
use nabla_grad::elementwise::{Dense, Kernel, update, update_channels};

use crate::RecordState;
use crate::optimizer_config;
use crate::precision::{bias_correction, in_full_precision, like};

mod projection;

pub use projection::{ChannelDim, is_scale_invariant};
use projection::{Projection, terms};

/// Configuration of [`AdamP`]. The authors' learning rate is 1e-3, with a weight decay of 1e-2.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::GradientsParams;
/// use burn::tensor::{Device, Tensor};
/// use nabla_optim::adamp::AdamPConfig;
///
/// let device = Device::flex().autodiff();
/// let layer: Linear = LinearConfig::new(4, 2).init(&device);
/// let mut optimizer = AdamPConfig::new().with_weight_decay(1e-2).init()?;
/// let loss = layer.forward(Tensor::<2>::ones([1, 4], &device)).sum();
/// let grads = GradientsParams::from_grads(loss.backward(), &layer);
/// let layer = optimizer.step(1e-3, layer, grads);
/// # let _ = layer;
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
#[derive(Config, Debug)]
pub struct AdamPConfig {
    /// Decay rate of the gradient's average, β₁. Default 0.9.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// Decay rate of its square's average, β₂. Default 0.999.
    #[config(default = 0.999)]
    pub beta_2: f64,
    /// Added to denominators, ε. Default 1e-8.
    #[config(default = 1e-8)]
    pub epsilon: f64,
    /// Decoupled weight decay, λ. Default 0.
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// Threshold of the test for scale invariance, δ. Default 0.1; 0 never projects.
    #[config(default = 0.1)]
    pub delta: f64,
    /// The part of the decay that scale-invariant weights get, ρ, in [0, 1]. Default 0.1.
    #[config(default = 0.1)]
    pub wd_ratio: f64,
    /// Nesterov's momentum. Default false.
    #[config(default = false)]
    pub nesterov: bool,
    /// The dimension of the channels. Default [`ChannelDim::ByRank`].
    #[config(default = "ChannelDim::ByRank")]
    pub channel_dim: ChannelDim,
    /// Gradient clipping for [`init`](Self::init). Default none.
    pub grad_clipping: Option<GradientClippingConfig>,
}

impl AdamPConfig {
    /// Creates the optimizer for a parameter group.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn build(&self) -> Result<AdamP, OutOfRange> {
        Ok(AdamP {
            beta_1: optimizer_config::decay_rate("beta_1", self.beta_1)?,
            beta_2: optimizer_config::decay_rate("beta_2", self.beta_2)?,
            weight_decay: optimizer_config::non_negative("weight_decay", self.weight_decay)?,
            nesterov: self.nesterov,
            projection: Projection {
                delta: optimizer_config::non_negative("delta", self.delta)?,
                wd_ratio: optimizer_config::ratio("wd_ratio", self.wd_ratio)?,
                epsilon: optimizer_config::epsilon(self.epsilon)?,
                channel_dim: self.channel_dim,
            },
        })
    }

    /// Creates the optimizer for a module.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn init(&self) -> Result<ModuleOptimizer, OutOfRange> {
        let clipping = self.grad_clipping.as_ref();
        Ok(optimizer_config::for_module(self.build()?, clipping))
    }
}

/// The optimizer AdamP; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct AdamP {
    beta_1: f64,
    beta_2: f64,
    weight_decay: f64,
    nesterov: bool,
    projection: Projection,
}

/// State of [`AdamP`] for one parameter.
#[derive(RecordState, Clone, Debug)]
pub struct AdamPState<const D: usize> {
    /// Moving average of the gradient, `m`.
    pub moment_1: Tensor<D>,
    /// Moving average of its square, `v`.
    pub moment_2: Tensor<D>,
    /// Steps so far, `t`.
    pub time: usize,
}

impl Optimizer for AdamP {
    type State<const D: usize> = AdamPState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let (tensor, state) = in_full_precision(tensor, grad, |w, g| {
            let state = state.unwrap_or_else(|| AdamPState {
                moment_1: w.zeros_like(),
                moment_2: w.zeros_like(),
                time: 0,
            });
            let time = state.time + 1;
            let shape = w.dims();
            let m = like(state.moment_1, &w);
            let v = like(state.moment_2, &w);
            let [w, m, v] = match Dense::take_all([w, m, v, g]) {
                Ok([w, m, v, g]) => self
                    .fused(lr, time, &shape, [w, m, v], &g)
                    .map(Dense::into_tensor),
                Err(tensors) => self.composed(lr, time, tensors),
            };
            let state = AdamPState {
                moment_1: m,
                moment_2: v,
                time,
            };
            (w, state)
        });
        (tensor, Some(state))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.moment_1 = state.moment_1.to_device(device);
        state.moment_2 = state.moment_2.to_device(device);
        state
    }
}

impl AdamP {
    /// The step from `[w, m, v, g]` to `[w, m, v]`, with Burn's operations.
    fn composed<const D: usize>(
        &self,
        lr: f64,
        time: usize,
        [w, m, v, g]: [Tensor<D>; 4],
    ) -> [Tensor<D>; 3] {
        let m = m * self.beta_1 + g.clone() * (1.0 - self.beta_1);
        let v = v * self.beta_2 + g.clone().square() * (1.0 - self.beta_2);
        let root = 1.0 / bias_correction(self.beta_2, time).sqrt();
        let numerator = if self.nesterov {
            m.clone() * self.beta_1 + g.clone() * (1.0 - self.beta_1)
        } else {
            m.clone()
        };
        let p = numerator / (v.clone().sqrt() * root + self.projection.epsilon);
        let step = lr / bias_correction(self.beta_1, time);
        let decay = lr * self.weight_decay;
        let w = self.projection.composed_step(w, g, p, decay, step);
        [w, m, v]
    }

    /// The step from `[w, m, v]` and `g` to `[w, m, v]`. A weight that may be projected takes two passes,
    /// because the sums of the first pass decide what the second one does.
    fn fused(
        &self,
        lr: f64,
        time: usize,
        shape: &[usize],
        [mut w, mut m, mut v]: [Dense; 3],
        g: &Dense,
    ) -> [Dense; 3] {
        let decay = lr * self.weight_decay;
        let mut numbers = AdamNumbers {
            beta_1: self.beta_1 as f32,
            rest_1: (1.0 - self.beta_1) as f32,
            beta_2: self.beta_2 as f32,
            rest_2: (1.0 - self.beta_2) as f32,
            root: (1.0 / bias_correction(self.beta_2, time).sqrt()) as f32,
            epsilon: self.projection.epsilon as f32,
            of_m: if self.nesterov {
                self.beta_1 as f32
            } else {
                1.0
            },
            of_g: if self.nesterov {
                (1.0 - self.beta_1) as f32
            } else {
                0.0
            },
            keep: (1.0 - decay) as f32,
            step: (lr / bias_correction(self.beta_1, time)) as f32,
        };
        let Some(channels) = self.projection.channels(shape) else {
            update(&Adam(numbers), [&mut w, &mut m, &mut v], [g]);
            return [w, m, v];
        };
        let moments = AdamMoments(numbers);
        let sums = update_channels(&moments, channels, None, [&mut m, &mut v], [&w, g]);
        let (along, ratio) = self.projection.decide(channels, &sums);
        numbers.keep = (1.0 - decay * ratio) as f32;
        let project = AdamProject(numbers);
        if self.nesterov {
            update_channels(&project, channels, Some(&along), [&mut w], [&m, &v, g]);
        } else {
            update_channels(&project, channels, Some(&along), [&mut w], [&m, &v]);
        }
        [w, m, v]
    }
}

/// The values that are the same for all elements of an AdamP step.
#[derive(Clone, Copy)]
struct AdamNumbers {
    beta_1: f32,
    rest_1: f32,
    beta_2: f32,
    rest_2: f32,
    root: f32,
    epsilon: f32,
    /// The numerator of `p` is `of_m m + of_g g`.
    of_m: f32,
    of_g: f32,
    keep: f32,
    step: f32,
}

impl AdamNumbers {
    /// The new `m` and `v`.
    #[inline(always)]
    fn moments(&self, m: f32, v: f32, g: f32) -> (f32, f32) {
        (
            self.beta_1 * m + self.rest_1 * g,
            self.beta_2 * v + self.rest_2 * (g * g),
        )
    }

    /// `p`.
    #[inline(always)]
    fn perturb(&self, m: f32, v: f32, g: f32) -> f32 {
        (self.of_m * m + self.of_g * g) / (v.sqrt() * self.root + self.epsilon)
    }
}

/// The step without projection.
struct Adam(AdamNumbers);

impl Kernel<3, 1, 0> for Adam {
    #[inline(always)]
    fn apply(&self, [w, m, v]: [f32; 3], [g]: [f32; 1], _: f32) -> ([f32; 3], [f32; 0]) {
        let (m, v) = self.0.moments(m, v, g);
        let w = self.0.keep * w - self.0.step * self.0.perturb(m, v, g);
        ([w, m, v], [])
    }
}

/// The moments, and the terms of the sums.
struct AdamMoments(AdamNumbers);

impl Kernel<2, 2, 4> for AdamMoments {
    #[inline(always)]
    fn apply(&self, [m, v]: [f32; 2], [w, g]: [f32; 2], _: f32) -> ([f32; 2], [f32; 4]) {
        let (m, v) = self.0.moments(m, v, g);
        ([m, v], terms(w, g, self.0.perturb(m, v, g)))
    }
}

/// `w ← keep w − step (p − along w)`.
struct AdamProject(AdamNumbers);

impl Kernel<1, 2, 0> for AdamProject {
    #[inline(always)]
    fn apply(&self, [w]: [f32; 1], [m, v]: [f32; 2], along: f32) -> ([f32; 1], [f32; 0]) {
        let p = self.0.perturb(m, v, 0.0) - along * w;
        ([self.0.keep * w - self.0.step * p], [])
    }
}

impl Kernel<1, 3, 0> for AdamProject {
    #[inline(always)]
    fn apply(&self, [w]: [f32; 1], [m, v, g]: [f32; 3], along: f32) -> ([f32; 1], [f32; 0]) {
        let p = self.0.perturb(m, v, g) - along * w;
        ([self.0.keep * w - self.0.step * p], [])
    }
}

/// Configuration of [`SgdP`]. The authors' example: learning rate 0.1, momentum 0.9, weight decay
/// 1e-5, Nesterov's momentum.
///
/// ```
/// use nabla_optim::adamp::SgdPConfig;
///
/// let optimizer = SgdPConfig::new()
///     .with_momentum(0.9)
///     .with_weight_decay(1e-5)
///     .with_nesterov(true)
///     .init()?;
/// # let _ = optimizer;
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
#[derive(Config, Debug)]
pub struct SgdPConfig {
    /// Momentum, μ. Default 0.
    #[config(default = 0.0)]
    pub momentum: f64,
    /// Dampening of the gradient, τ, in [0, 1]. Default 0.
    #[config(default = 0.0)]
    pub dampening: f64,
    /// Added to norms, ε. Default 1e-8.
    #[config(default = 1e-8)]
    pub epsilon: f64,
    /// Decoupled weight decay, λ. It is divided by 1 − μ, which makes it as strong as the coupled decay of
    /// SGD with momentum. Default 0.
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// Threshold of the test for scale invariance, δ. Default 0.1; 0 never projects.
    #[config(default = 0.1)]
    pub delta: f64,
    /// The part of the decay that scale-invariant weights get, ρ, in [0, 1]. Default 0.1.
    #[config(default = 0.1)]
    pub wd_ratio: f64,
    /// Nesterov's momentum. Default false.
    #[config(default = false)]
    pub nesterov: bool,
    /// The dimension of the channels. Default [`ChannelDim::ByRank`].
    #[config(default = "ChannelDim::ByRank")]
    pub channel_dim: ChannelDim,
    /// Gradient clipping for [`init`](Self::init). Default none.
    pub grad_clipping: Option<GradientClippingConfig>,
}

impl SgdPConfig {
    /// Creates the optimizer for a parameter group.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn build(&self) -> Result<SgdP, OutOfRange> {
        Ok(SgdP {
            momentum: optimizer_config::decay_rate("momentum", self.momentum)?,
            dampening: optimizer_config::ratio("dampening", self.dampening)?,
            weight_decay: optimizer_config::non_negative("weight_decay", self.weight_decay)?,
            nesterov: self.nesterov,
            projection: Projection {
                delta: optimizer_config::non_negative("delta", self.delta)?,
                wd_ratio: optimizer_config::ratio("wd_ratio", self.wd_ratio)?,
                epsilon: optimizer_config::epsilon(self.epsilon)?,
                channel_dim: self.channel_dim,
            },
        })
    }

    /// Creates the optimizer for a module.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn init(&self) -> Result<ModuleOptimizer, OutOfRange> {
        let clipping = self.grad_clipping.as_ref();
        Ok(optimizer_config::for_module(self.build()?, clipping))
    }
}

/// The optimizer SGDP; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct SgdP {
    momentum: f64,
    dampening: f64,
    weight_decay: f64,
    nesterov: bool,
    projection: Projection,
}

/// State of [`SgdP`] for one parameter.
#[derive(RecordState, Clone, Debug)]
pub struct SgdPState<const D: usize> {
    /// The accumulated gradients, `b`.
    pub momentum: Tensor<D>,
}

impl Optimizer for SgdP {
    type State<const D: usize> = SgdPState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let (tensor, state) = in_full_precision(tensor, grad, |w, g| {
            let shape = w.dims();
            let b = match state {
                Some(state) => like(state.momentum, &w),
                None => w.zeros_like(),
            };
            let [w, b] = match Dense::take_all([w, b, g]) {
                Ok([w, b, g]) => self.fused(lr, &shape, [w, b], &g).map(Dense::into_tensor),
                Err(tensors) => self.composed(lr, tensors),
            };
            (w, SgdPState { momentum: b })
        });
        (tensor, Some(state))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

impl SgdP {
    /// `η λ/(1 − μ)`.
    fn decay(&self, lr: f64) -> f64 {
        lr * self.weight_decay / (1.0 - self.momentum)
    }

    /// The step from `[w, b, g]` to `[w, b]`, with Burn's operations.
    fn composed<const D: usize>(&self, lr: f64, [w, b, g]: [Tensor<D>; 3]) -> [Tensor<D>; 2] {
        let b = b * self.momentum + g.clone() * (1.0 - self.dampening);
        let p = if self.nesterov {
            g.clone() + b.clone() * self.momentum
        } else {
            b.clone()
        };
        let decay = self.decay(lr);
        let w = self.projection.composed_step(w, g, p, decay, lr);
        [w, b]
    }

    /// The step from `[w, b]` and `g` to `[w, b]`, in passes as those of [`AdamP::fused`].
    fn fused(&self, lr: f64, shape: &[usize], [mut w, mut b]: [Dense; 2], g: &Dense) -> [Dense; 2] {
        let decay = self.decay(lr);
        let mut numbers = SgdNumbers {
            momentum: self.momentum as f32,
            rest: (1.0 - self.dampening) as f32,
            of_b: if self.nesterov {
                self.momentum as f32
            } else {
                1.0
            },
            of_g: if self.nesterov { 1.0 } else { 0.0 },
            keep: (1.0 - decay) as f32,
            step: lr as f32,
        };
        let Some(channels) = self.projection.channels(shape) else {
            update(&Sgd(numbers), [&mut w, &mut b], [g]);
            return [w, b];
        };
        let moments = SgdMoments(numbers);
        let sums = update_channels(&moments, channels, None, [&mut b], [&w, g]);
        let (along, ratio) = self.projection.decide(channels, &sums);
        numbers.keep = (1.0 - decay * ratio) as f32;
        let project = SgdProject(numbers);
        update_channels(&project, channels, Some(&along), [&mut w], [&b, g]);
        [w, b]
    }
}

/// The values that are the same for all elements of an SGDP step.
#[derive(Clone, Copy)]
struct SgdNumbers {
    momentum: f32,
    rest: f32,
    /// `p` is `of_b b + of_g g`.
    of_b: f32,
    of_g: f32,
    keep: f32,
    step: f32,
}

impl SgdNumbers {
    /// The new `b`.
    #[inline(always)]
    fn buffer(&self, b: f32, g: f32) -> f32 {
        self.momentum * b + self.rest * g
    }

    /// `p`.
    #[inline(always)]
    fn perturb(&self, b: f32, g: f32) -> f32 {
        self.of_b * b + self.of_g * g
    }
}

/// The step without projection.
struct Sgd(SgdNumbers);

impl Kernel<2, 1, 0> for Sgd {
    #[inline(always)]
    fn apply(&self, [w, b]: [f32; 2], [g]: [f32; 1], _: f32) -> ([f32; 2], [f32; 0]) {
        let b = self.0.buffer(b, g);
        let w = self.0.keep * w - self.0.step * self.0.perturb(b, g);
        ([w, b], [])
    }
}

/// The accumulated gradients, and the terms of the sums.
struct SgdMoments(SgdNumbers);

impl Kernel<1, 2, 4> for SgdMoments {
    #[inline(always)]
    fn apply(&self, [b]: [f32; 1], [w, g]: [f32; 2], _: f32) -> ([f32; 1], [f32; 4]) {
        let b = self.0.buffer(b, g);
        ([b], terms(w, g, self.0.perturb(b, g)))
    }
}

/// `w ← keep w − step (p − along w)`.
struct SgdProject(SgdNumbers);

impl Kernel<1, 2, 0> for SgdProject {
    #[inline(always)]
    fn apply(&self, [w]: [f32; 1], [b, g]: [f32; 2], along: f32) -> ([f32; 1], [f32; 0]) {
        let p = self.0.perturb(b, g) - along * w;
        ([self.0.keep * w - self.0.step * p], [])
    }
}

#[cfg(test)]
mod tests;
