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
use nabla_grad::elementwise::{Constant, Real};

use crate::RecordState;
use crate::optimizer_config;
use crate::precision::{bias_correction, flat_like, in_full_precision, shaped};

mod projection;

pub use projection::{ChannelDim, is_scale_invariant};
use projection::{Perturbation, Projection};

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
        let shape = tensor.dims();
        let (tensor, state) = in_full_precision(tensor, grad, |w, g| {
            let (time, m, v) = match state {
                Some(s) => (s.time, Some(s.moment_1), Some(s.moment_2)),
                None => (0, None, None),
            };
            let time = time + 1;
            let moments = [m, v].map(|x| flat_like(x, &w));
            let (w, moments) = self.projected(&shape, lr, time, w, moments, g);
            let [moment_1, moment_2] = moments.map(|x| shaped(x, shape));
            let state = AdamPState {
                moment_1,
                moment_2,
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
    /// The step number `time`, from the numbers of a weight of the shape `shape` and its moments.
    fn projected(
        &self,
        shape: &[usize],
        lr: f64,
        time: usize,
        w: Tensor<1>,
        moments: [Tensor<1>; 2],
        g: Tensor<1>,
    ) -> (Tensor<1>, [Tensor<1>; 2]) {
        let rule = AdamRule::new(self, lr, time);
        let decay = lr * self.weight_decay;
        self.projection.step(&rule, decay, shape, w, moments, g)
    }
}

/// The moments of AdamP and its step before the projection.
#[derive(Clone, Copy)]
struct AdamRule {
    beta_1: Constant,
    rest_1: Constant,
    beta_2: Constant,
    rest_2: Constant,
    root: Constant,
    epsilon: Constant,
    /// The numerator of `p` is `of_m m + of_g g`.
    of_m: Constant,
    of_g: Constant,
    nesterov: bool,
    step: Constant,
}

impl AdamRule {
    fn new(options: &AdamP, lr: f64, time: usize) -> Self {
        let (of_m, of_g) = if options.nesterov {
            (options.beta_1, 1.0 - options.beta_1)
        } else {
            (1.0, 0.0)
        };
        Self {
            beta_1: options.beta_1.into(),
            rest_1: (1.0 - options.beta_1).into(),
            beta_2: options.beta_2.into(),
            rest_2: (1.0 - options.beta_2).into(),
            root: (1.0 / bias_correction(options.beta_2, time).sqrt()).into(),
            epsilon: options.projection.epsilon.into(),
            of_m: of_m.into(),
            of_g: of_g.into(),
            nesterov: options.nesterov,
            step: (lr / bias_correction(options.beta_1, time)).into(),
        }
    }
}

impl Perturbation<2, 3> for AdamRule {
    #[inline(always)]
    fn moments<N: Real>(&self, [m, v]: [N; 2], g: N) -> [N; 2] {
        let m = m * self.beta_1 + g.clone() * self.rest_1;
        let v = v * self.beta_2 + g.square() * self.rest_2;
        [m, v]
    }

    #[inline(always)]
    fn perturb<N: Real>(&self, [m, v]: [N; 2], g: N) -> N {
        (m * self.of_m + g * self.of_g) / (v.sqrt() * self.root + self.epsilon)
    }

    #[inline(always)]
    fn length(&self) -> Constant {
        self.step
    }

    fn looks_ahead(&self) -> bool {
        self.nesterov
    }

    #[inline(always)]
    fn join<T>(first: T, [m, v]: [T; 2]) -> [T; 3] {
        [first, m, v]
    }

    #[inline(always)]
    fn split<T>([first, m, v]: [T; 3]) -> (T, [T; 2]) {
        (first, [m, v])
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
        let shape = tensor.dims();
        let (tensor, state) = in_full_precision(tensor, grad, |w, g| {
            let b = flat_like(state.map(|state| state.momentum), &w);
            let (w, b) = self.projected(&shape, lr, w, b, g);
            let momentum = shaped(b, shape);
            (w, SgdPState { momentum })
        });
        (tensor, Some(state))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

impl SgdP {
    /// The step from the numbers of a weight of the shape `shape` and the accumulated gradients.
    fn projected(
        &self,
        shape: &[usize],
        lr: f64,
        w: Tensor<1>,
        b: Tensor<1>,
        g: Tensor<1>,
    ) -> (Tensor<1>, Tensor<1>) {
        let rule = SgdRule::new(self, lr);
        // As strong as the coupled decay of SGD with momentum.
        let decay = lr * self.weight_decay / (1.0 - self.momentum);
        let (w, [b]) = self.projection.step(&rule, decay, shape, w, [b], g);
        (w, b)
    }
}

/// The accumulated gradients of SGDP and its step before the projection.
#[derive(Clone, Copy)]
struct SgdRule {
    momentum: Constant,
    rest: Constant,
    /// `p` is `of_b b + of_g g`.
    of_b: Constant,
    of_g: Constant,
    nesterov: bool,
    step: Constant,
}

impl SgdRule {
    fn new(options: &SgdP, lr: f64) -> Self {
        let (of_b, of_g) = if options.nesterov {
            (options.momentum, 1.0)
        } else {
            (1.0, 0.0)
        };
        Self {
            momentum: options.momentum.into(),
            rest: (1.0 - options.dampening).into(),
            of_b: of_b.into(),
            of_g: of_g.into(),
            nesterov: options.nesterov,
            step: lr.into(),
        }
    }
}

impl Perturbation<1, 2> for SgdRule {
    #[inline(always)]
    fn moments<N: Real>(&self, [b]: [N; 1], g: N) -> [N; 1] {
        [b * self.momentum + g * self.rest]
    }

    #[inline(always)]
    fn perturb<N: Real>(&self, [b]: [N; 1], g: N) -> N {
        b * self.of_b + g * self.of_g
    }

    #[inline(always)]
    fn length(&self) -> Constant {
        self.step
    }

    fn looks_ahead(&self) -> bool {
        self.nesterov
    }

    #[inline(always)]
    fn join<T>(first: T, [b]: [T; 1]) -> [T; 2] {
        [first, b]
    }

    #[inline(always)]
    fn split<T>([first, b]: [T; 2]) -> (T, [T; 1]) {
        (first, [b])
    }
}

#[cfg(test)]
mod tests;
