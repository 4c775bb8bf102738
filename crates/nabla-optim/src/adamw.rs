//! AdamW: Adam whose weight decay is not rescaled with the gradient.
//!
//! Adam divides a moving average of the gradient by the root of one of its square. A decay that is added to
//! the gradient, as in SGD, is divided too, so that weights with large gradients decay less. AdamW shrinks the
//! weights by themselves instead. With the gradient `g`, the learning rate η, the weight decay λ and `t` steps
//! so far, including this one:
//!
//! ```text
//! m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
//! w ← (1 − η λ) w − η/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//! ```
//!
//! The paper multiplies its schedule, but not the learning rate α, into the decay; with η in both places, this
//! is the form of PyTorch, of Burn and of most published learning rates. [`WeightDecayMode::Fixed`] is the
//! paper's without a schedule, and [`WeightDecayMode::Coupled`] is Adam.
//!
//! Two options:
//! * AMSGrad divides by the root of the highest `v` so far, so that the step along a direction never becomes
//!   longer again; without it, there are convex problems on which Adam diverges;
//! * cautious weight decay only shrinks a weight whose sign is that of `m`, where the step shrinks it, too. It has
//!   no effect on coupled decay.
//!
//! It takes the steps of Burn's `AdamW` up to the rounding of β₁ and β₂ to 32 bits, and reads its records, but
//! makes one pass over memory where that makes a dozen.
//!
//! The state has 2 floats per parameter, 3 with AMSGrad.
//!
//! Sources: Loshchilov, Hutter, *Decoupled Weight Decay Regularization*, 2017, arXiv 1711.05101; Reddi, Kale,
//! Kumar, *On the Convergence of Adam and Beyond*, 2018, arXiv 1904.09237 (AMSGrad); Chen et al., *Cautious Weight
//! Decay*, 2025, arXiv 2510.12402.

use burn::config::Config;
use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{AdamWState, AdaptiveMomentumState, LearningRate, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor};
use nabla_base::OutOfRange;
use nabla_grad::elementwise::{Constant, Real, Rule, step};

use crate::optimizer_config;
use crate::precision::{bias_correction, flat_like, in_full_precision, shaped};
use crate::weight_decay::WeightDecayMode;

/// Configuration of [`AdamW`]. Names and defaults are those of Burn's `AdamWConfig`; PyTorch's defaults are an ε
/// of 1e-8, as in Adam's paper, and a weight decay of 1e-2.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::optim::GradientsParams;
/// use burn::tensor::{Device, Tensor};
/// use nabla_optim::adamw::AdamWConfig;
///
/// let device = Device::flex().autodiff();
/// let layer: Linear = LinearConfig::new(4, 2).init(&device);
/// let mut optimizer = AdamWConfig::new().with_epsilon(1e-8).init()?;
/// let loss = layer.forward(Tensor::<2>::ones([1, 4], &device)).sum();
/// let grads = GradientsParams::from_grads(loss.backward(), &layer);
/// let layer = optimizer.step(1e-3, layer, grads);
/// # let _ = layer;
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
#[derive(Config, Debug)]
pub struct AdamWConfig {
    /// Decay rate of the gradient's average, β₁. Default 0.9.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// Decay rate of its square's average, β₂. Default 0.999.
    #[config(default = 0.999)]
    pub beta_2: f64,
    /// Added to the denominator, ε. Default 1e-5, PyTorch's is 1e-8.
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// Weight decay, λ. Default 1e-4, PyTorch's is 1e-2.
    #[config(default = 1e-4)]
    pub weight_decay: f64,
    /// How weights decay. Default [`WeightDecayMode::Decoupled`].
    #[config(default = "WeightDecayMode::Decoupled")]
    pub weight_decay_mode: WeightDecayMode,
    /// Whether only those weights decay which the step shrinks. Default false.
    #[config(default = false)]
    pub cautious_weight_decay: bool,
    /// Whether the root of the highest `v` so far is the denominator. Default false.
    #[config(default = false)]
    pub amsgrad: bool,
    /// Gradient clipping for [`init`](Self::init). Default none.
    pub grad_clipping: Option<GradientClippingConfig>,
}

impl AdamWConfig {
    /// Creates the optimizer for a parameter group.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn build(&self) -> Result<AdamW, OutOfRange> {
        Ok(AdamW {
            beta_1: optimizer_config::decay_rate("beta_1", self.beta_1)?,
            beta_2: optimizer_config::decay_rate("beta_2", self.beta_2)?,
            epsilon: optimizer_config::epsilon(self.epsilon)?,
            weight_decay: optimizer_config::non_negative("weight_decay", self.weight_decay)?,
            weight_decay_mode: self.weight_decay_mode,
            cautious: self.cautious_weight_decay,
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

/// The optimizer AdamW; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct AdamW {
    beta_1: f64,
    beta_2: f64,
    epsilon: f64,
    weight_decay: f64,
    weight_decay_mode: WeightDecayMode,
    cautious: bool,
    amsgrad: bool,
}

impl Optimizer for AdamW {
    /// Burn's state of the same method, so that records of both optimizers are the same.
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self::State<D>>,
    ) -> (Tensor<D>, Option<Self::State<D>>) {
        let shape = tensor.dims();
        let (tensor, state) = in_full_precision(tensor, grad, |w, g| {
            let (time, m, v, max) = match state {
                Some(AdamWState { momentum: s }) => {
                    (s.time, Some(s.moment_1), Some(s.moment_2), s.max_moment_2)
                }
                None => (0, None, None, None),
            };
            let time = time + 1;
            let [m, v] = [m, v].map(|x| flat_like(x, &w));
            let numbers = Numbers::new(self, lr, time);
            let (w, m, v, max) = if self.amsgrad {
                // There is none either if a record without AMSGrad was loaded.
                let max = flat_like(max, &w);
                let [w, m, v, max] = numbers.with_max(self.cautious, [w, m, v, max], g);
                (w, m, v, Some(max))
            } else {
                let [w, m, v] = numbers.without_max(self.cautious, [w, m, v], g);
                (w, m, v, None)
            };
            let [m, v] = [m, v].map(|x| shaped(x, shape));
            let mut momentum = AdaptiveMomentumState::new(time, m, v);
            momentum.max_moment_2 = max.map(|max| shaped(max, shape));
            (w, AdamWState::new(momentum))
        });
        (tensor, Some(state))
    }

    fn to_device<const D: usize>(mut state: Self::State<D>, device: &Device) -> Self::State<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

/// The numbers that are the same for all elements.
#[derive(Clone, Copy)]
struct Numbers {
    decay: Constant,
    /// The part of a weight that decays, `1 − decay`.
    decaying: Constant,
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
    fn new(options: &AdamW, lr: f64, time: usize) -> Self {
        let mode = options.weight_decay_mode;
        let decay = mode.factor(lr, options.weight_decay);
        Self {
            decay: decay.into(),
            decaying: (1.0 - decay).into(),
            coupling: mode.coupling(options.weight_decay).into(),
            beta_1: options.beta_1.into(),
            rest_1: (1.0 - options.beta_1).into(),
            beta_2: options.beta_2.into(),
            rest_2: (1.0 - options.beta_2).into(),
            epsilon: options.epsilon.into(),
            step: (lr / bias_correction(options.beta_1, time)).into(),
            root: (1.0 / bias_correction(options.beta_2, time).sqrt()).into(),
        }
    }

    /// The step from `[w, m, v]` and `g`. There is one rule for each kind of decay, because a choice per element
    /// would not be vectorised.
    fn without_max(self, cautious: bool, tensors: [Tensor<1>; 3], g: Tensor<1>) -> [Tensor<1>; 3] {
        match cautious {
            true => step(&Divided::<true>(self), tensors, [g]),
            false => step(&Divided::<false>(self), tensors, [g]),
        }
    }

    /// The step from `[w, m, v, max]` and `g`.
    fn with_max(self, cautious: bool, tensors: [Tensor<1>; 4], g: Tensor<1>) -> [Tensor<1>; 4] {
        match cautious {
            true => step(&Divided::<true>(self), tensors, [g]),
            false => step(&Divided::<false>(self), tensors, [g]),
        }
    }

    /// The new `m` and `v`.
    #[inline(always)]
    fn moments<N: Real>(&self, w: &N, m: N, v: N, g: N) -> (N, N) {
        let g = g + w.clone() * self.coupling;
        let m = m * self.beta_1 + g.clone() * self.rest_1;
        let v = v * self.beta_2 + g.square() * self.rest_2;
        (m, v)
    }
}

/// The step, with cautious decay or not.
struct Divided<const CAUTIOUS: bool>(Numbers);

impl<const CAUTIOUS: bool> Divided<CAUTIOUS> {
    /// `decay w − step m / (√v root + ε)`.
    #[inline(always)]
    fn divided<N: Real>(&self, w: N, m: N, v: N) -> N {
        let n = &self.0;
        let decayed = if CAUTIOUS {
            w.clone() - (w.clone() * n.decaying).where_signs_agree(w, m.clone())
        } else {
            w * n.decay
        };
        decayed - m / (v.sqrt() * n.root + n.epsilon) * n.step
    }
}

impl<const CAUTIOUS: bool> Rule<3, 1> for Divided<CAUTIOUS> {
    #[inline(always)]
    fn apply<N: Real>(&self, [w, m, v]: [N; 3], [g]: [N; 1]) -> [N; 3] {
        let (m, v) = self.0.moments(&w, m, v, g);
        [self.divided(w, m.clone(), v.clone()), m, v]
    }
}

impl<const CAUTIOUS: bool> Rule<4, 1> for Divided<CAUTIOUS> {
    #[inline(always)]
    fn apply<N: Real>(&self, [w, m, v, max]: [N; 4], [g]: [N; 1]) -> [N; 4] {
        let (m, v) = self.0.moments(&w, m, v, g);
        let max = max.greater(v.clone());
        [self.divided(w, m.clone(), max.clone()), m, v, max]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, TensorData};

    fn vector(x: &[f64]) -> Tensor<1> {
        let data = TensorData::new(x.to_vec(), [x.len()]);
        Tensor::from_data(data, (&Device::flex(), DType::F64))
    }

    /// The weights after each of the steps along `grads`, from `start`.
    fn run(optimizer: &impl Optimizer, start: &[f64], grads: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (mut w, mut state) = (vector(start), None);
        grads
            .iter()
            .map(|g| {
                (w, state) = optimizer.step(0.01, w.clone(), vector(g), state.take());
                w.to_data().try_to_vec().unwrap()
            })
            .collect()
    }

    fn gradients() -> Vec<Vec<f64>> {
        let at = |t: usize, i: usize| ((t * 7 + i * 3) as f64 * 0.7).sin() * (1.0 + i as f64);
        (0..30)
            .map(|t| (0..5).map(|i| at(t, i)).collect())
            .collect()
    }

    const START: [f64; 5] = [1.0, -0.5, 0.2, -2.0, 0.0];

    /// Burn rounds 1 − β₂ in 32 bits, 5e-5 off, and the step has half of that.
    #[test]
    fn its_steps_are_burns() {
        for amsgrad in [false, true] {
            for cautious in [false, true] {
                for decay in [0.0, 0.1] {
                    let ours = AdamWConfig::new()
                        .with_weight_decay(decay)
                        .with_amsgrad(amsgrad)
                        .with_cautious_weight_decay(cautious);
                    let burns = burn::optim::AdamWConfig::new()
                        .with_weight_decay(decay as f32)
                        .with_amsgrad(amsgrad)
                        .with_cautious_weight_decay(cautious);
                    let ours = run(&ours.build().unwrap(), &START, &gradients());
                    let burns = run(&burns.build(), &START, &gradients());
                    for (ours, burns) in ours.iter().flatten().zip(burns.iter().flatten()) {
                        // Thirty steps of at most 0.01 each.
                        assert!((ours - burns).abs() <= 0.3 * 5e-5, "{ours} {burns}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_state_of_burns_goes_on() {
        let burns = burn::optim::AdamWConfig::new().build();
        let (w, state) = burns.step(0.01, vector(&START), vector(&[1.0; 5]), None);
        let ours = AdamWConfig::new().build().unwrap();
        let (ours, state_after) = ours.step(0.01, w.clone(), vector(&[0.5; 5]), state.clone());
        let (burns, _) = burns.step(0.01, w, vector(&[0.5; 5]), state);
        let apart: f64 = (ours - burns).abs().max().into_scalar();
        assert!(apart < 1e-6, "{apart}");
        assert_eq!(state_after.unwrap().momentum.time, 2);
    }

    /// AMSGrad never divides by less than it has: a burst of gradients shortens later steps for good.
    #[test]
    fn amsgrad_remembers_the_highest_square() {
        let mut grads = vec![vec![0.1]; 300];
        grads[0] = vec![10.0];
        let config = AdamWConfig::new().with_beta_2(0.9).with_weight_decay(0.0);
        let last = |config: AdamWConfig| {
            let w = run(&config.build().unwrap(), &[1.0], &grads);
            w[298][0] - w[299][0]
        };
        let (plain, amsgrad) = (last(config.clone()), last(config.with_amsgrad(true)));
        assert!(amsgrad > 0.0 && amsgrad < 0.1 * plain, "{amsgrad} {plain}");
    }

    #[test]
    fn decays_are_those_of_their_mode() {
        let after = |mode: WeightDecayMode, grad: f64, cautious: bool| {
            let config = AdamWConfig::new()
                .with_weight_decay(0.1)
                .with_weight_decay_mode(mode)
                .with_epsilon(1e-12)
                .with_cautious_weight_decay(cautious);
            run(&config.build().unwrap(), &[1.0], &[vec![grad]])[0][0]
        };
        let assert_close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        assert_close(after(WeightDecayMode::Decoupled, 0.0, false), 1.0 - 0.001);
        assert_close(after(WeightDecayMode::Fixed, 0.0, false), 1.0 - 0.1);
        // The gradient is 0.1, and the first step of Adam is as long as the learning rate.
        assert_close(after(WeightDecayMode::Coupled, 0.0, false), 1.0 - 0.01);
        // The step grows the weight, and shrinks it.
        assert_close(after(WeightDecayMode::Decoupled, -1.0, true), 1.01);
        assert_close(
            after(WeightDecayMode::Decoupled, 1.0, true),
            1.0 - 0.001 - 0.01,
        );
    }

    #[test]
    fn configurations_are_checked() {
        let config = AdamWConfig::new();
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
}
