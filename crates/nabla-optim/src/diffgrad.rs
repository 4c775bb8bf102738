//! diffGrad: Adam with a friction on the parameters whose gradient does not change.
//!
//! A drop-in variant of Adam. If the gradient is the same in two successive steps, this is taken as a sign
//! that an optimum is near, and the step is halved; where the gradient changes fast, the step is Adam's. With
//! the gradient `g`, the one before `g'` (0 at first), the learning rate η and `t` steps so far:
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
//! ξ = 1/(1 + exp(−|g' − g|))                               in [½, 1)
//! w ← w − η √(1 − β₂ᵗ)/(1 − β₁ᵗ) · ξ m / (√v + ε)
//! ```
//!
//! The last line follows the authors' code and the other implementations; the paper's formula,
//! `w − η ξ m̂/(√v̂ + ε)`, differs by the size of ε and is [`EpsilonPlacement::Corrected`].
//!
//! Unlike Adam's step, ξ depends on the size of the gradient: if you scale the loss, undo that before the
//! step. Where gradients are small, as they mostly are in networks, ξ is nearly ½ everywhere, and the method
//! is nearly Adam with half the learning rate; [`DiffGrad::friction`] shows how close it is.
//!
//! Coupled weight decay is added to the gradient before anything else, so it is part of the difference, as in
//! the authors' code; [decoupled decay](crate::weight_decay) is not.
//!
//! [`Friction::Sigmoid`] is the published and recommended coefficient. The paper compares five others, DFC1
//! to DFC5, in its section "Experiments With diffGrad Variants", of which DFC3 to DFC5 do best there at batch
//! sizes of 64 and 128; two more are from public code. [`Friction`] has all.
//!
//! The paper's proof of the regret bound is like the first proof for Adam and, like that one, does not rule
//! out that the method diverges on a convex problem.
//!
//! The state has 3 floats per parameter.
//!
//! Source: Dubey, Chakraborty, Roy, Mukherjee, Singh, Chaudhuri, *diffGrad: An Optimization Method for
//! Convolutional Neural Networks*, 2019, arXiv 1909.11015; their code,
//! github.com/shivram1987/diffGrad, in its second version: in the first, `g'` was the buffer of `g`,
//! and ξ always ½.

use burn::config::Config;
use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{LearningRate, ModuleOptimizer, Optimizer};
use burn::store::burn_pack;
use burn::tensor::{Device, Tensor};
use nabla_base::OutOfRange;
use nabla_grad::elementwise::{Channels, Constant, Dense, Kernel, Real, update, update_channels};
use serde::{Deserialize, Serialize};

use crate::RecordState;
use crate::optimizer_config;
use crate::precision::{bias_correction, flat_like, in_full_precision, like, shaped};
use crate::weight_decay::WeightDecayMode;

/// The friction coefficient ξ as a function of the gradients; σ is the logistic function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Friction {
    /// `σ(|g' − g|)`, in [½, 1): the method, the paper's DFC.
    #[serde(alias = "Sigmoid")]
    Sigmoid,
    /// `σ(g' − g)`, in (0, 1): DFC1.
    #[serde(alias = "SignedSigmoid")]
    SignedSigmoid,
    /// `9 σ(½|g' − g|) − 4`, in [½, 5): DFC2, whose parentheses (but not its range) are misprinted in the
    /// journal.
    #[serde(alias = "WideSigmoid")]
    WideSigmoid,
    /// `σ(ν|g' − g| − μ)`: DFC3, with the mean μ and the standard deviation ν of the absolute gradients of
    /// the batch. Here they are taken over the elements of the parameter's gradient, because an optimizer
    /// sees nothing else of a batch. The value is below ½ where the change is small, contrary to the range in
    /// the paper.
    #[serde(alias = "DeviationSigmoid")]
    DeviationSigmoid,
    /// `σ(ν²|g' − g| − μ)`: DFC4, otherwise like DFC3.
    #[serde(alias = "SquaredDeviationSigmoid")]
    SquaredDeviationSigmoid,
    /// `σ(√ν|g' − g| − μ)`: DFC5, otherwise like DFC3.
    #[serde(alias = "RootDeviationSigmoid")]
    RootDeviationSigmoid,
    /// `2σ(|g' − g|) − 1 = tanh(½|g' − g|)`, in [0, 1): no step at all where the gradient is the same. Not
    /// from the paper.
    #[serde(alias = "Tanh")]
    Tanh,
    /// `σ(|m' − m|)`, in [½, 1): the difference of successive averages instead of gradients. Not from the
    /// paper.
    #[serde(alias = "MomentumSigmoid")]
    MomentumSigmoid,
}

/// Where ε is added to the denominator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EpsilonPlacement {
    /// To `√v`, whose bias the step size corrects, as in the authors' code.
    #[serde(alias = "Uncorrected")]
    Uncorrected,
    /// To `√(v/(1 − β₂ᵗ))`, as in the paper.
    #[serde(alias = "Corrected")]
    Corrected,
}

/// Configuration of [`DiffGrad`]. The learning rate of the paper's experiments is 1e-3.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::GradientsParams;
/// use burn::tensor::{Device, Tensor};
/// use nabla_optim::diffgrad::DiffGradConfig;
///
/// let device = Device::flex().autodiff();
/// let layer: Linear = LinearConfig::new(4, 2).init(&device);
/// let mut optimizer = DiffGradConfig::new().init()?;
/// let loss = layer.forward(Tensor::<2>::ones([1, 4], &device)).sum();
/// let grads = GradientsParams::from_grads(loss.backward(), &layer);
/// let layer = optimizer.step(1e-3, layer, grads);
/// # let _ = layer;
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
#[derive(Config, Debug)]
pub struct DiffGradConfig {
    /// Decay rate of the gradient's average, β₁. Default 0.9.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// Decay rate of its square's average, β₂. Default 0.999.
    #[config(default = 0.999)]
    pub beta_2: f64,
    /// Added to the denominator, ε. Default 1e-8.
    #[config(default = 1e-8)]
    pub epsilon: f64,
    /// Where ε is added. Default [`EpsilonPlacement::Uncorrected`].
    #[config(default = "EpsilonPlacement::Uncorrected")]
    pub epsilon_placement: EpsilonPlacement,
    /// Weight decay, λ. Default 0.
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// How weights decay. Default [`WeightDecayMode::Coupled`].
    #[config(default = "WeightDecayMode::Coupled")]
    pub weight_decay_mode: WeightDecayMode,
    /// The friction coefficient. Default [`Friction::Sigmoid`].
    #[config(default = "Friction::Sigmoid")]
    pub friction: Friction,
    /// Gradient clipping for [`init`](Self::init). Default none.
    pub grad_clipping: Option<GradientClippingConfig>,
}

impl DiffGradConfig {
    /// Creates the optimizer for a parameter group.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn build(&self) -> Result<DiffGrad, OutOfRange> {
        Ok(DiffGrad {
            beta_1: optimizer_config::decay_rate("beta_1", self.beta_1)?,
            beta_2: optimizer_config::decay_rate("beta_2", self.beta_2)?,
            epsilon: optimizer_config::epsilon(self.epsilon)?,
            epsilon_placement: self.epsilon_placement,
            weight_decay: optimizer_config::non_negative("weight_decay", self.weight_decay)?,
            weight_decay_mode: self.weight_decay_mode,
            friction: self.friction,
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

/// The optimizer diffGrad; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct DiffGrad {
    beta_1: f64,
    beta_2: f64,
    epsilon: f64,
    epsilon_placement: EpsilonPlacement,
    weight_decay: f64,
    weight_decay_mode: WeightDecayMode,
    friction: Friction,
}

/// State of [`DiffGrad`] for one parameter.
#[derive(RecordState, Clone, Debug)]
pub struct DiffGradState<const D: usize> {
    /// Moving average of the gradient, `m`.
    pub moment_1: Tensor<D>,
    /// Moving average of its square, `v`.
    pub moment_2: Tensor<D>,
    /// The last gradient, `g'`, with coupled weight decay.
    pub previous_grad: Tensor<D>,
    /// Steps so far, `t`.
    pub time: usize,
}

impl DiffGrad {
    /// The friction coefficient ξ of a step along `grad` from `state` (`None` before the first step), without
    /// weight decay. Its mean shows how far the method is from Adam at half the learning rate.
    pub fn friction<const D: usize>(
        &self,
        state: Option<&DiffGradState<D>>,
        grad: Tensor<D>,
    ) -> Tensor<D> {
        let (previous, m) = match state {
            Some(state) => (
                like(state.previous_grad.clone(), &grad),
                like(state.moment_1.clone(), &grad),
            ),
            None => (grad.zeros_like(), grad.zeros_like()),
        };
        let new_m = m.clone() * self.beta_1 + grad.clone() * (1.0 - self.beta_1);
        let difference = previous - grad.clone();
        self.friction
            .coefficient(difference, m - new_m, || self.friction.deviation(&grad))
    }

    /// The step number `time`, from `[w, m, v, g']` and `g` to `[w, m, v, g]`.
    fn stepped(
        &self,
        lr: f64,
        time: usize,
        [w, m, v, previous]: [Tensor<1>; 4],
        g: Tensor<1>,
    ) -> [Tensor<1>; 4] {
        let numbers = Numbers::new(self, lr, time);
        match Dense::take_all([w, m, v, previous, g]) {
            Ok([w, m, v, previous, g]) => numbers
                .fused(self.friction, [w, m, v, previous], g)
                .map(Dense::into_tensor),
            Err([w, m, v, previous, g]) => {
                let rule = Step {
                    numbers,
                    xi: |difference, m, g: &Tensor<1>| {
                        let deviation = || self.friction.deviation(g);
                        self.friction.coefficient(difference, m, deviation)
                    },
                };
                rule.apply([w, m, v, previous], g)
            }
        }
    }

    /// The step size, and the factor of `√v` in the denominator.
    fn step_size(&self, lr: f64, time: usize) -> (f64, f64) {
        let correction_1 = bias_correction(self.beta_1, time);
        let root = bias_correction(self.beta_2, time).sqrt();
        match self.epsilon_placement {
            EpsilonPlacement::Uncorrected => (lr * root / correction_1, 1.0),
            EpsilonPlacement::Corrected => (lr / correction_1, 1.0 / root),
        }
    }
}

impl Optimizer for DiffGrad {
    type State<const D: usize> = DiffGradState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let shape = tensor.dims();
        let (tensor, state) = in_full_precision(tensor, grad, |w, g| {
            let (time, parts) = match state {
                Some(s) => (s.time, [s.moment_1, s.moment_2, s.previous_grad].map(Some)),
                None => (0, [const { None }; 3]),
            };
            let time = time + 1;
            let [m, v, previous] = parts.map(|x| flat_like(x, &w));
            let [w, m, v, previous] = self.stepped(lr, time, [w, m, v, previous], g);
            let [moment_1, moment_2, previous_grad] = [m, v, previous].map(|x| shaped(x, shape));
            let state = DiffGradState {
                moment_1,
                moment_2,
                previous_grad,
                time,
            };
            (w, state)
        });
        (tensor, Some(state))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.moment_1 = state.moment_1.to_device(device);
        state.moment_2 = state.moment_2.to_device(device);
        state.previous_grad = state.previous_grad.to_device(device);
        state
    }
}

impl Friction {
    /// ξ, from the differences of the gradients and of their averages; `deviation` gives the
    /// [`deviation`](Self::deviation) of the gradient, if it is needed.
    #[inline(always)]
    fn coefficient<N: Real>(self, difference: N, m: N, deviation: impl FnOnce() -> [N; 2]) -> N {
        let number = Constant::from;
        match self {
            Self::Sigmoid => difference.abs().sigmoid(),
            Self::SignedSigmoid => difference.sigmoid(),
            Self::WideSigmoid => {
                (difference.abs() * number(0.5)).sigmoid() * number(9.0) - number(4.0)
            }
            Self::DeviationSigmoid | Self::SquaredDeviationSigmoid | Self::RootDeviationSigmoid => {
                let [factor, mean] = deviation();
                (difference.abs() * factor - mean).sigmoid()
            }
            Self::Tanh => difference.abs().sigmoid() * number(2.0) - number(1.0),
            Self::MomentumSigmoid => m.abs().sigmoid(),
        }
    }

    /// The factor of `|g' − g|` that comes from the variance of the absolute gradients.
    fn factor<N: Real>(self, variance: N) -> N {
        match self {
            Self::SquaredDeviationSigmoid => variance,
            Self::RootDeviationSigmoid => variance.sqrt().sqrt(),
            _ => variance.sqrt(),
        }
    }

    /// The factor and the mean of the absolute gradients, each with one element.
    fn deviation<const D: usize>(self, g: &Tensor<D>) -> [Tensor<D>; 2] {
        let size = g.clone().abs();
        let mean = size.clone().mean().reshape([1; D]);
        let variance = (size - mean.clone()).square().mean().reshape([1; D]);
        [self.factor(variance), mean]
    }
}

/// The numbers that are the same for all elements.
#[derive(Clone, Copy)]
struct Numbers {
    decay: Constant,
    coupling: Constant,
    /// Whether weight decay is part of the gradient.
    couples: bool,
    beta_1: Constant,
    rest_1: Constant,
    beta_2: Constant,
    rest_2: Constant,
    epsilon: Constant,
    step: Constant,
    root: Constant,
}

impl Numbers {
    fn new(options: &DiffGrad, lr: f64, time: usize) -> Self {
        let (step, root) = options.step_size(lr, time);
        let mode = options.weight_decay_mode;
        let coupling = mode.coupling(options.weight_decay);
        Self {
            decay: mode.factor(lr, options.weight_decay).into(),
            coupling: coupling.into(),
            couples: coupling != 0.0,
            beta_1: options.beta_1.into(),
            rest_1: (1.0 - options.beta_1).into(),
            beta_2: options.beta_2.into(),
            rest_2: (1.0 - options.beta_2).into(),
            epsilon: options.epsilon.into(),
            step: step.into(),
            root: root.into(),
        }
    }

    /// The gradient with coupled weight decay.
    #[inline(always)]
    fn coupled<N: Real>(&self, w: &N, g: N) -> N {
        g + w.clone() * self.coupling
    }

    /// [`Friction::deviation`] of all of `g`.
    fn deviation(&self, friction: Friction, w: &Dense, g: &Dense) -> [f32; 2] {
        let count = g.values().len();
        let mean_of = |power, mean| {
            let sizes = Sizes {
                numbers: self,
                mean,
                power,
            };
            let sums = update_channels(&sizes, Channels::whole(count), None, [], [w, g]);
            sums.iter().map(|[sum]| sum).sum::<f64>() / count.max(1) as f64
        };
        let mean = mean_of(1, 0.0);
        let variance = mean_of(2, mean as f32);
        [friction.factor(variance) as f32, mean as f32]
    }

    /// The step from `[w, m, v, g']` and `g` to `[w, m, v, g]`, in one pass.
    fn fused(
        self,
        friction: Friction,
        [mut w, mut m, mut v, mut previous]: [Dense; 4],
        g: Dense,
    ) -> [Dense; 4] {
        let deviation = match friction {
            Friction::DeviationSigmoid
            | Friction::SquaredDeviationSigmoid
            | Friction::RootDeviationSigmoid => self.deviation(friction, &w, &g),
            _ => [0.0; 2],
        };
        let moved = [&mut w, &mut m, &mut v];
        // There is one function per coefficient, because a choice per element would not be vectorised.
        macro_rules! with {
            ($friction:expr) => {{
                let xi = |difference: f32, m: f32, _: &f32| {
                    $friction.coefficient(difference, m, || deviation)
                };
                let step = Step { numbers: self, xi };
                if self.couples {
                    let [w, m, v] = moved;
                    update(&step, [w, m, v, &mut previous], [&g]);
                } else {
                    update(&Uncoupled(step), moved, [&previous, &g]);
                }
            }};
        }
        match friction {
            Friction::Sigmoid => with!(Friction::Sigmoid),
            Friction::SignedSigmoid => with!(Friction::SignedSigmoid),
            Friction::WideSigmoid => with!(Friction::WideSigmoid),
            Friction::DeviationSigmoid
            | Friction::SquaredDeviationSigmoid
            | Friction::RootDeviationSigmoid => with!(Friction::DeviationSigmoid),
            Friction::Tanh => with!(Friction::Tanh),
            Friction::MomentumSigmoid => with!(Friction::MomentumSigmoid),
        };
        // A gradient without decay is itself what the state keeps: nothing has to be written.
        let previous = if self.couples { previous } else { g };
        [w, m, v, previous]
    }
}

/// The sum of `||g| − mean|`, to a power of 1 or 2, over gradients with coupled weight decay.
struct Sizes<'a> {
    numbers: &'a Numbers,
    mean: f32,
    power: i32,
}

impl Kernel<0, 2, 1> for Sizes<'_> {
    #[inline(always)]
    fn apply(&self, _: [f32; 0], [w, g]: [f32; 2], _: f32) -> ([f32; 0], [f32; 1]) {
        let size = self.numbers.coupled(&w, g).abs() - self.mean;
        ([], [if self.power == 1 { size } else { size * size }])
    }
}

/// The step with the coefficient `xi` of the differences of the gradients and of their averages, and of the
/// gradient.
struct Step<F> {
    numbers: Numbers,
    xi: F,
}

impl<F> Step<F> {
    /// The step from `[w, m, v, g']` and `g` to `[w, m, v, g]`.
    #[inline(always)]
    fn apply<N: Real>(&self, [w, m, v, previous]: [N; 4], g: N) -> [N; 4]
    where
        F: Fn(N, N, &N) -> N,
    {
        let n = &self.numbers;
        let g = n.coupled(&w, g);
        let new_m = m.clone() * n.beta_1 + g.clone() * n.rest_1;
        let v = v * n.beta_2 + g.clone().square() * n.rest_2;
        let xi = (self.xi)(previous - g.clone(), m - new_m.clone(), &g);
        let denominator = v.clone().sqrt() * n.root + n.epsilon;
        let w = w * n.decay - xi * new_m.clone() / denominator * n.step;
        [w, new_m, v, g]
    }
}

impl<F: Fn(f32, f32, &f32) -> f32 + Sync> Kernel<4, 1, 0> for Step<F> {
    #[inline(always)]
    fn apply(&self, written: [f32; 4], [g]: [f32; 1], _: f32) -> ([f32; 4], [f32; 0]) {
        (Step::apply(self, written, g), [])
    }
}

/// The step without coupled weight decay, which reads `g'` and `g` and leaves them as they are.
struct Uncoupled<F>(Step<F>);

impl<F: Fn(f32, f32, &f32) -> f32 + Sync> Kernel<3, 2, 0> for Uncoupled<F> {
    #[inline(always)]
    fn apply(&self, [w, m, v]: [f32; 3], [previous, g]: [f32; 2], _: f32) -> ([f32; 3], [f32; 0]) {
        let [w, m, v, _] = self.0.apply([w, m, v, previous], g);
        ([w, m, v], [])
    }
}

#[cfg(test)]
mod tests;
