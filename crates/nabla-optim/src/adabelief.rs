//! AdaBelief: trusts a gradient more the closer it is to its moving average.
//!
//! A drop-in replacement for Adam. The denominator is not the size of the gradient but its variance about its
//! moving average: where the gradient is as predicted, the step is long; where it is not, the step is short.
//! With the gradient `g`, the learning rate α and `t` steps so far, including this one:
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g
//! s ← β₂ s + (1 − β₂) (g − m)² + ε                          (m is the updated one)
//! w ← w − α/(1 − β₁ᵗ) · m / (√s/√(1 − β₂ᵗ) + ε)
//! ```
//!
//! The ε of the second line stays in the state, so `s` settles at `ε/(1 − β₂)` above the variance, as in the
//! authors' code, the paper's algorithm and `pytorch_optimizer`. The ε of the third line is added after the
//! bias correction. Because a square root is taken, this ε corresponds to the square of Adam's.
//!
//! The options are those of `adabelief-pytorch` 0.2:
//! * AMSGrad divides by the root of the highest `s` so far. The theory of the paper needs it;
//! * rectification as in RAdam: with `ρ∞ = 2/(1 − β₂) − 1` and `ρ = ρ∞ − 2tβ₂ᵗ/(1 − β₂ᵗ)`, a step
//!   is, once ρ ≥ 5,
//!   `w ← w − α R/(1 − β₁ᵗ) · m / (√s + ε)`,
//!   `R² = (1 − β₂ᵗ) (ρ − 4)(ρ − 2) ρ∞ / ((ρ∞ − 4)(ρ∞ − 2) ρ)`,
//!   where AMSGrad has no effect. Before, there is no step, or that of SGD with momentum,
//!   `w ← w − α/(1 − β₁ᵗ) · m`. With β₂ = 0.999, the first rectified step is the sixth;
//! * [weight decay](crate::weight_decay) of all kinds.
//!
//! Clip gradients by their norm, not by value: clipped values are as predicted, `s` vanishes, and the
//! step explodes.
//!
//! The state has 2 floats per parameter, 3 with AMSGrad.
//!
//! Source: Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan, *AdaBelief Optimizer:
//! Adapting Stepsizes by the Belief in Observed Gradients*, 2020, arXiv 2010.07468; their code,
//! github.com/juntang-zhuang/Adabelief-Optimizer.

use burn::config::Config;
use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{LearningRate, ModuleOptimizer, Optimizer};
use burn::store::burn_pack;
use burn::tensor::{Device, Tensor};
use nabla_base::OutOfRange;
use nabla_grad::elementwise::{Constant, Real, Rule, step};

use crate::RecordState;
use crate::optimizer_config;
use crate::precision::{bias_correction, flat_like, in_full_precision, shaped};
use crate::weight_decay::WeightDecayMode;

/// Configuration of [`AdaBelief`]. The defaults are those of `adabelief-pytorch` since 0.1; the
/// presets are the rows of the table of hyper-parameters in the authors' repository, each with the
/// learning rate to use with it.
///
/// A large ε (1e-8) suits tasks where SGD is better than Adam, a small one (1e-12 to 1e-16) those
/// where Adam is better.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::GradientsParams;
/// use burn::tensor::{Device, Tensor};
/// use nabla_optim::adabelief::AdaBeliefConfig;
///
/// let device = Device::flex().autodiff();
/// let layer: Linear = LinearConfig::new(4, 2).init(&device);
/// let mut optimizer = AdaBeliefConfig::new().with_weight_decay(1e-2).init()?;
/// let loss = layer.forward(Tensor::<2>::ones([1, 4], &device)).sum();
/// let grads = GradientsParams::from_grads(loss.backward(), &layer);
/// let layer = optimizer.step(1e-3, layer, grads);
/// # let _ = layer;
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
#[derive(Config, Debug)]
pub struct AdaBeliefConfig {
    /// Decay rate of the gradient's average, β₁. Default 0.9.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// Decay rate of its variance, β₂. Default 0.999.
    #[config(default = 0.999)]
    pub beta_2: f64,
    /// Added to the variance and to its root, ε. Default 1e-16.
    #[config(default = 1e-16)]
    pub epsilon: f64,
    /// Weight decay, λ. Default 0.
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// How weights decay. Default [`WeightDecayMode::Decoupled`].
    #[config(default = "WeightDecayMode::Decoupled")]
    pub weight_decay_mode: WeightDecayMode,
    /// Whether steps are rectified while the variance is uncertain. Default true.
    #[config(default = true)]
    pub rectify: bool,
    /// Whether to take an SGD step as long as there is no rectified step. Default true.
    #[config(default = true)]
    pub degenerated_to_sgd: bool,
    /// Whether the highest variance so far is the denominator. Default false.
    #[config(default = false)]
    pub amsgrad: bool,
    /// Gradient clipping for [`init`](Self::init). Default none.
    pub grad_clipping: Option<GradientClippingConfig>,
}

impl AdaBeliefConfig {
    /// Small pictures (CIFAR): learning rate 1e-3.
    pub fn vision() -> Self {
        Self::new()
            .with_epsilon(1e-8)
            .with_weight_decay(5e-4)
            .with_weight_decay_mode(WeightDecayMode::Coupled)
            .with_rectify(false)
    }

    /// ImageNet: learning rate 1e-3.
    pub fn imagenet() -> Self {
        Self::new()
            .with_epsilon(1e-8)
            .with_weight_decay(1e-2)
            .with_rectify(false)
    }

    /// Object detection (PASCAL VOC): learning rate 1e-4.
    pub fn object_detection() -> Self {
        Self::vision().with_weight_decay(1e-4)
    }

    /// A transformer for translation: learning rate 5e-4.
    pub fn transformer() -> Self {
        Self::new().with_weight_decay(1e-4)
    }

    /// A small generative adversarial network: learning rate 2e-4.
    pub fn gan() -> Self {
        Self::new()
            .with_beta_1(0.5)
            .with_epsilon(1e-12)
            .with_rectify(false)
    }

    /// A generative adversarial network with spectral normalisation: learning rate 2e-4.
    pub fn spectral_normalisation_gan() -> Self {
        Self::new().with_beta_1(0.5)
    }

    /// An LSTM of `layers` layers for language modelling: learning rate 1e-3 for one layer, 1e-2 for
    /// more.
    pub fn lstm(layers: usize) -> Self {
        Self::new()
            .with_epsilon(if layers <= 1 { 1e-16 } else { 1e-12 })
            .with_weight_decay(1.2e-6)
            .with_weight_decay_mode(WeightDecayMode::Coupled)
            .with_rectify(false)
    }

    /// Reinforcement learning with a value network (Rainbow): learning rate 1e-4.
    pub fn reinforcement_learning() -> Self {
        Self::new().with_epsilon(1e-10)
    }

    /// Reinforcement learning with continuous actions (HalfCheetah-v2): learning rate 1e-3.
    pub fn continuous_control() -> Self {
        Self::new().with_epsilon(1e-12)
    }

    /// Creates the optimizer for a parameter group.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn build(&self) -> Result<AdaBelief, OutOfRange> {
        Ok(AdaBelief {
            beta_1: optimizer_config::decay_rate("beta_1", self.beta_1)?,
            beta_2: optimizer_config::decay_rate("beta_2", self.beta_2)?,
            epsilon: optimizer_config::epsilon(self.epsilon)?,
            weight_decay: optimizer_config::non_negative("weight_decay", self.weight_decay)?,
            weight_decay_mode: self.weight_decay_mode,
            rectify: self.rectify,
            degenerated_to_sgd: self.degenerated_to_sgd,
            amsgrad: self.amsgrad,
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

/// The optimizer AdaBelief; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct AdaBelief {
    beta_1: f64,
    beta_2: f64,
    epsilon: f64,
    weight_decay: f64,
    weight_decay_mode: WeightDecayMode,
    rectify: bool,
    degenerated_to_sgd: bool,
    amsgrad: bool,
}

/// State of [`AdaBelief`] for one parameter.
#[derive(RecordState, Clone, Debug)]
pub struct AdaBeliefState<const D: usize> {
    /// Moving average of the gradient, `m`.
    pub moment_1: Tensor<D>,
    /// Moving average of the gradient's squared distance from it, `s`.
    pub variance: Tensor<D>,
    /// The highest variance so far, with AMSGrad.
    pub max_variance: Option<Tensor<D>>,
    /// Steps so far, `t`.
    pub time: usize,
}

/// `w ← decay w − step · m / (√s · root + ε)`, or without the denominator.
#[derive(Clone, Copy, Debug, PartialEq)]
struct StepSize {
    step: f64,
    /// The factor of `√s`, if it divides.
    root: Option<f64>,
    /// Whether `s` is the highest one so far.
    max: bool,
}

impl AdaBelief {
    /// The sizes of step number `time`.
    fn step_size(&self, lr: f64, time: usize) -> StepSize {
        let correction_1 = bias_correction(self.beta_1, time);
        let correction_2 = bias_correction(self.beta_2, time);
        if !self.rectify {
            return StepSize {
                step: lr / correction_1,
                root: Some(1.0 / correction_2.sqrt()),
                max: self.amsgrad,
            };
        }
        let rho_inf = 2.0 / (1.0 - self.beta_2) - 1.0;
        let rho = rho_inf - 2.0 * time as f64 * (1.0 - correction_2) / correction_2;
        if rho >= 5.0 {
            let squared = correction_2 * (rho - 4.0) / (rho_inf - 4.0) * (rho - 2.0) / rho
                * rho_inf
                / (rho_inf - 2.0);
            StepSize {
                step: lr * squared.sqrt() / correction_1,
                root: Some(1.0),
                max: false,
            }
        } else {
            StepSize {
                step: if self.degenerated_to_sgd {
                    lr / correction_1
                } else {
                    0.0
                },
                root: None,
                max: false,
            }
        }
    }
}

impl Optimizer for AdaBelief {
    type State<const D: usize> = AdaBeliefState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let shape = tensor.dims();
        let (tensor, state) = in_full_precision(tensor, grad, |w, g| {
            let (time, m, s, max) = match state {
                Some(s) => (s.time, Some(s.moment_1), Some(s.variance), s.max_variance),
                None => (0, None, None, None),
            };
            let time = time + 1;
            let [m, s] = [m, s].map(|x| flat_like(x, &w));
            let numbers = Numbers::new(self, lr, self.step_size(lr, time));
            let (w, m, s, max) = if self.amsgrad {
                // There is none either if a record without AMSGrad was loaded.
                let max = flat_like(max, &w);
                let [w, m, s, max] = numbers.with_max([w, m, s, max], g);
                (w, m, s, Some(max))
            } else {
                let [w, m, s] = numbers.without_max([w, m, s], g);
                (w, m, s, None)
            };
            let state = AdaBeliefState {
                moment_1: shaped(m, shape),
                variance: shaped(s, shape),
                max_variance: max.map(|max| shaped(max, shape)),
                time,
            };
            (w, state)
        });
        (tensor, Some(state))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.moment_1 = state.moment_1.to_device(device);
        state.variance = state.variance.to_device(device);
        state.max_variance = state.max_variance.map(|max| max.to_device(device));
        state
    }
}

/// The numbers that are the same for all elements.
#[derive(Clone, Copy)]
struct Numbers {
    size: StepSize,
    decay: Constant,
    coupling: Constant,
    beta_1: Constant,
    rest_1: Constant,
    beta_2: Constant,
    rest_2: Constant,
    epsilon: Constant,
    step: Constant,
    root: Constant,
}

impl Numbers {
    fn new(options: &AdaBelief, lr: f64, size: StepSize) -> Self {
        let mode = options.weight_decay_mode;
        Self {
            size,
            decay: mode.factor(lr, options.weight_decay).into(),
            coupling: mode.coupling(options.weight_decay).into(),
            beta_1: options.beta_1.into(),
            rest_1: (1.0 - options.beta_1).into(),
            beta_2: options.beta_2.into(),
            rest_2: (1.0 - options.beta_2).into(),
            epsilon: options.epsilon.into(),
            step: size.step.into(),
            root: size.root.unwrap_or(0.0).into(),
        }
    }

    /// The step from `[w, m, s]` and `g` to `[w, m, s]`. There is one rule for each denominator, because a
    /// choice per element would not be vectorised.
    fn without_max(self, tensors: [Tensor<1>; 3], g: Tensor<1>) -> [Tensor<1>; 3] {
        match self.size.root {
            Some(_) => step(&Divided(self), tensors, [g]),
            None => step(&Undivided(self), tensors, [g]),
        }
    }

    /// The step from `[w, m, s, max]` and `g` to `[w, m, s, max]`.
    fn with_max(self, tensors: [Tensor<1>; 4], g: Tensor<1>) -> [Tensor<1>; 4] {
        match (self.size.root, self.size.max) {
            (Some(_), true) => step(&DividedByMax(self), tensors, [g]),
            (Some(_), false) => step(&Divided(self), tensors, [g]),
            (None, _) => step(&Undivided(self), tensors, [g]),
        }
    }

    /// The new `m` and `s`.
    #[inline(always)]
    fn moments<N: Real>(&self, w: &N, m: N, s: N, g: N) -> (N, N) {
        let g = g + w.clone() * self.coupling;
        let m = m * self.beta_1 + g.clone() * self.rest_1;
        let residual = g - m.clone();
        let s = s * self.beta_2 + residual.square() * self.rest_2 + self.epsilon;
        (m, s)
    }

    /// `decay w − step m / (√s root + ε)`.
    #[inline(always)]
    fn divided<N: Real>(&self, w: N, m: N, s: N) -> N {
        w * self.decay - m / (s.sqrt() * self.root + self.epsilon) * self.step
    }

    /// `decay w − step m`.
    #[inline(always)]
    fn undivided<N: Real>(&self, w: N, m: N) -> N {
        w * self.decay - m * self.step
    }
}

/// The step that divides by `√s`.
struct Divided(Numbers);

impl Rule<3, 1> for Divided {
    #[inline(always)]
    fn apply<N: Real>(&self, [w, m, s]: [N; 3], [g]: [N; 1]) -> [N; 3] {
        let (m, s) = self.0.moments(&w, m, s, g);
        [self.0.divided(w, m.clone(), s.clone()), m, s]
    }
}

impl Rule<4, 1> for Divided {
    #[inline(always)]
    fn apply<N: Real>(&self, [w, m, s, max]: [N; 4], [g]: [N; 1]) -> [N; 4] {
        let [w, m, s] = self.apply([w, m, s], [g]);
        [w, m, s.clone(), max.greater(s)]
    }
}

/// The step that divides by the root of the highest `s`.
struct DividedByMax(Numbers);

impl Rule<4, 1> for DividedByMax {
    #[inline(always)]
    fn apply<N: Real>(&self, [w, m, s, max]: [N; 4], [g]: [N; 1]) -> [N; 4] {
        let (m, s) = self.0.moments(&w, m, s, g);
        let max = max.greater(s.clone());
        [self.0.divided(w, m.clone(), max.clone()), m, s, max]
    }
}

/// The step of SGD, or none.
struct Undivided(Numbers);

impl Rule<3, 1> for Undivided {
    #[inline(always)]
    fn apply<N: Real>(&self, [w, m, s]: [N; 3], [g]: [N; 1]) -> [N; 3] {
        let (m, s) = self.0.moments(&w, m, s, g);
        [self.0.undivided(w, m.clone()), m, s]
    }
}

impl Rule<4, 1> for Undivided {
    #[inline(always)]
    fn apply<N: Real>(&self, [w, m, s, max]: [N; 4], [g]: [N; 1]) -> [N; 4] {
        let [w, m, s] = self.apply([w, m, s], [g]);
        [w, m, s.clone(), max.greater(s)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::DType;

    fn vector(x: &[f64]) -> Tensor<1> {
        let data = burn::tensor::TensorData::new(x.to_vec(), [x.len()]);
        Tensor::from_data(data, (&Device::flex(), DType::F64))
    }

    /// The weight after each of the steps along `grads`, from 1.
    fn run(config: &AdaBeliefConfig, lr: f64, grads: &[f64]) -> Vec<f64> {
        let optimizer = config.build().unwrap();
        let (mut w, mut state) = (vector(&[1.0]), None);
        grads
            .iter()
            .map(|&g| {
                (w, state) = optimizer.step(lr, w.clone(), vector(&[g]), state.take());
                w.clone().into_scalar()
            })
            .collect()
    }

    fn assert_close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-11 * (1.0 + b.abs()), "{a} {b}");
    }

    /// `m = (1 - β₁) g` and `g - m = β₁ g`, so that the first step is `1/β₁` of Adam's.
    #[test]
    fn the_first_step_is_longer_than_adams() {
        let config = AdaBeliefConfig::new().with_rectify(false).with_epsilon(0.0);
        for (g, beta) in [(3.0, 0.9), (-0.2, 0.5)] {
            let w = run(&config.clone().with_beta_1(beta), 0.01, &[g])[0];
            assert_close(w, 1.0 - 0.01 / beta * g.signum());
        }
    }

    /// With a constant gradient, nothing deviates from the prediction: steps grow. The loop is the
    /// reference.
    #[test]
    fn steps_grow_where_the_gradient_is_as_predicted() {
        let config = AdaBeliefConfig::new()
            .with_rectify(false)
            .with_epsilon(1e-12);
        let weights = run(&config, 0.01, &[0.5; 100]);
        let (mut w, mut m, mut s) = (1.0f64, 0.0, 0.0);
        for (t, ours) in weights.iter().enumerate() {
            let t = t as i32 + 1;
            m = 0.9 * m + 0.1 * 0.5;
            s = 0.999 * s + 0.001 * (0.5 - m) * (0.5 - m) + 1e-12;
            let denominator = (s / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-12;
            w -= 0.01 * m / (1.0 - 0.9f64.powi(t)) / denominator;
            assert_close(*ours, w);
        }
        let (first, last) = (1.0 - weights[0], weights[98] - weights[99]);
        assert!(last > 2.0 * first, "{first} {last}");
    }

    /// ε is in the recursion: with a gradient of 0, `s = ε (1 - β₂ᵗ)/(1 - β₂)`.
    #[test]
    fn epsilon_accumulates_in_the_state() {
        let optimizer = AdaBeliefConfig::new().with_epsilon(1e-6).build().unwrap();
        let (mut w, mut state) = (vector(&[1.0]), None);
        for _ in 0..2000 {
            (w, state) = optimizer.step(0.1, w, vector(&[0.0]), state);
        }
        let s: f64 = state.unwrap().variance.into_scalar();
        assert_close(s / 1e-6, (1.0 - 0.999f64.powi(2000)) / 0.001);
    }

    /// ρ is 4.996 after five steps and 5.994 after six. The loop is the reference.
    #[test]
    fn rectification_begins_with_the_sixth_step() {
        let grads: Vec<f64> = (0..10).map(|t| (f64::from(t) * 1.7).sin()).collect();
        let none = AdaBeliefConfig::new().with_degenerated_to_sgd(false);
        let weights = run(&none, 0.01, &grads);
        assert_eq!(weights[..5], [1.0; 5]);
        assert_ne!(weights[5], 1.0);

        let weights = run(&AdaBeliefConfig::new(), 0.01, &grads);
        let (mut w, mut m, mut s) = (1.0f64, 0.0, 0.0);
        for (t, (g, ours)) in grads.iter().zip(&weights).enumerate() {
            let t = t as i32 + 1;
            m = 0.9 * m + 0.1 * g;
            s = 0.999 * s + 0.001 * (g - m) * (g - m) + 1e-16;
            let (c1, b2) = (1.0 - 0.9f64.powi(t), 0.999f64.powi(t));
            let rho = 1999.0 - 2.0 * f64::from(t) * b2 / (1.0 - b2);
            if t <= 5 {
                assert!(rho < 5.0);
                w -= 0.01 / c1 * m;
            } else {
                assert!(rho >= 5.0);
                let r = (1.0 - b2) * (rho - 4.0) / 1995.0 * (rho - 2.0) / rho * 1999.0 / 1997.0;
                w -= 0.01 * r.sqrt() / c1 * m / (s.sqrt() + 1e-16);
            }
            assert!((ours - w).abs() <= 1e-9, "{t}: {ours} {w}");
        }
    }

    /// AMSGrad never divides by less than it has: a burst of gradients shortens later steps for good.
    #[test]
    fn amsgrad_remembers_the_highest_variance() {
        let mut grads = vec![0.1; 300];
        grads[0] = 10.0;
        let config = AdaBeliefConfig::new().with_rectify(false).with_beta_2(0.9);
        let step = |w: Vec<f64>| w[298] - w[299];
        let plain = step(run(&config, 0.01, &grads));
        let amsgrad = step(run(&config.with_amsgrad(true), 0.01, &grads));
        assert!(amsgrad > 0.0 && amsgrad < 0.1 * plain, "{amsgrad} {plain}");
    }

    /// The step of SGD has the same decay as the others.
    #[test]
    fn decays_are_those_of_their_mode() {
        let after = |mode: WeightDecayMode| {
            let config = AdaBeliefConfig::new()
                .with_weight_decay(0.1)
                .with_weight_decay_mode(mode);
            run(&config, 0.01, &[0.0])[0]
        };
        assert_close(after(WeightDecayMode::Decoupled), 1.0 - 0.001);
        assert_close(after(WeightDecayMode::Fixed), 1.0 - 0.1);
        // The gradient is 0.1, the bias-corrected average, too.
        assert_close(after(WeightDecayMode::Coupled), 1.0 - 0.01 * 0.1);
    }

    #[test]
    fn configurations_are_checked() {
        let config = AdaBeliefConfig::new();
        for bad in [
            config.clone().with_beta_1(1.0),
            config.clone().with_beta_2(-0.1),
            config.clone().with_epsilon(1e-40),
            config.clone().with_weight_decay(f64::NAN),
        ] {
            assert!(bad.build().is_err() && bad.init().is_err());
        }
        let clipped = config.with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)));
        assert!(clipped.init().unwrap().has_gradient_clipping());
    }

    /// The table of the authors' README: β₁, ε, decay, whether it is decoupled, rectification. β₂ is
    /// 0.999 and AMSGrad off in all rows.
    #[test]
    fn presets_are_the_authors_table() {
        let row = |config: AdaBeliefConfig| {
            assert!(config.init().is_ok() && config.beta_2 == 0.999 && !config.amsgrad);
            let decoupled = config.weight_decay_mode == WeightDecayMode::Decoupled;
            let decay = (config.weight_decay, config.weight_decay == 0.0 || decoupled);
            (config.beta_1, config.epsilon, decay, config.rectify)
        };
        type C = AdaBeliefConfig;
        assert_eq!(row(C::vision()), (0.9, 1e-8, (5e-4, false), false));
        assert_eq!(row(C::imagenet()), (0.9, 1e-8, (1e-2, true), false));
        assert_eq!(
            row(C::object_detection()),
            (0.9, 1e-8, (1e-4, false), false)
        );
        assert_eq!(row(C::lstm(1)), (0.9, 1e-16, (1.2e-6, false), false));
        assert_eq!(row(C::lstm(2)), (0.9, 1e-12, (1.2e-6, false), false));
        assert_eq!(row(C::lstm(3)), (0.9, 1e-12, (1.2e-6, false), false));
        assert_eq!(row(C::gan()), (0.5, 1e-12, (0.0, true), false));
        assert_eq!(
            row(C::spectral_normalisation_gan()),
            (0.5, 1e-16, (0.0, true), true)
        );
        assert_eq!(row(C::transformer()), (0.9, 1e-16, (1e-4, true), true));
        assert_eq!(
            row(C::reinforcement_learning()),
            (0.9, 1e-10, (0.0, true), true)
        );
        assert_eq!(
            row(C::continuous_control()),
            (0.9, 1e-12, (0.0, true), true)
        );
    }
}
