//! The network of a neural ODE: layers that see the time, as the right side of an equation.
//!
//! ```text
//! f(u, t) = σ_last(L_n(σ(… σ(L_1(u, t)) …), t)),      L_i(u, t) = u W_i + t w_i + b_i
//! ```
//!
//! A [`NeuralOde`] is a [`Dynamics`], so any solver and any adjoint take it. The networks of the papers:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_grad::seeded_noise::SeededNoise;
//! use nabla_kernels::activation::Activation;
//! use nabla_physics::neural_ode::NeuralOdeConfig;
//! use nabla_physics::{Method, Solver};
//!
//! let (device, mut draws) = (Device::flex().autodiff(), SeededNoise::new(1, 0));
//! // That of ERNODE for MNIST; local regularisation has no activation at the end.
//! let digits = NeuralOdeConfig::new(784).with_hidden([100]).with_last(Activation::Tanh);
//! // That of its latent ODE, which begins with an activation and does not see the time.
//! let latent = NeuralOdeConfig::new(20)
//!     .with_hidden([50, 20, 50, 20, 50, 20, 50])
//!     .with_first(Activation::Tanh)
//!     .with_last(Activation::Tanh)
//!     .without_time();
//! let net = latent.init(&device, &mut draws)?;
//! let start = Tensor::<2>::ones([3, 20], &device); // [batch, state]
//! let solution = Solver::new(Method::TSIT5).solve(&net, start, &[0.0, 1.0])?;
//! let gradients = solution.last().mean().backward();
//! assert!(net.layers()[0].linear.weight.val().grad(&gradients).is_some());
//! # let _ = digits;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*, 2018, arXiv 1806.07366.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::Activation;

use crate::field::Dynamics;
use crate::time_linear::{TimeLinear, TimeLinearConfig};

/// Makes a [`NeuralOde`].
#[derive(Clone, Debug, PartialEq)]
pub struct NeuralOdeConfig {
    state: usize,
    hidden: Vec<usize>,
    activations: Activations,
    time: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Activations {
    /// Of the state.
    first: Option<Activation>,
    /// Between the layers.
    hidden: Activation,
    /// Of the last layer.
    last: Option<Activation>,
}

impl NeuralOdeConfig {
    /// A linear layer that sees the time; `tanh` between layers, if there will be more.
    ///
    /// - `state`: the width of the state
    pub fn new(state: usize) -> Self {
        Self {
            state,
            hidden: Vec::new(),
            activations: Activations {
                first: None,
                hidden: Activation::Tanh,
                last: None,
            },
            time: true,
        }
    }

    /// Sets the widths of the hidden layers.
    #[must_use]
    pub fn with_hidden(mut self, widths: impl Into<Vec<usize>>) -> Self {
        self.hidden = widths.into();
        self
    }

    /// Sets the activation between layers.
    #[must_use]
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activations.hidden = activation;
        self
    }

    /// Sets an activation of the state, before the first layer.
    #[must_use]
    pub fn with_first(mut self, activation: Activation) -> Self {
        self.activations.first = Some(activation);
        self
    }

    /// Sets an activation of the last layer: `tanh` bounds the slope.
    #[must_use]
    pub fn with_last(mut self, activation: Activation) -> Self {
        self.activations.last = Some(activation);
        self
    }

    /// Without the time: `u' = f(u)`.
    #[must_use]
    pub fn without_time(mut self) -> Self {
        self.time = false;
        self
    }

    /// The network with initial values that are uniform by Glorot and Bengio, 2010.
    ///
    /// - `draws`: from which the values are drawn; the same draws give the same bits
    ///
    /// # Errors
    /// If a width is 0.
    pub fn init(&self, device: &Device, draws: &mut SeededNoise) -> Result<NeuralOde, OutOfRange> {
        let mut layers = Vec::with_capacity(self.hidden.len() + 1);
        let mut input = self.state;
        range::at_least("width of the state", self.state, 1)?;
        for &output in self.hidden.iter().chain([&self.state]) {
            range::at_least("width of a hidden layer", output, 1)?;
            let config = TimeLinearConfig {
                input,
                output,
                time: self.time,
            };
            layers.push(config.init(device, draws));
            input = output;
        }
        Ok(NeuralOde {
            layers,
            activations: self.activations,
        })
    }
}

/// The network of a neural ODE; see the [module documentation](self).
#[derive(Module, Debug)]
pub struct NeuralOde {
    layers: Vec<TimeLinear>,
    #[module(skip)]
    activations: Activations,
}

impl NeuralOde {
    /// The layers, first to last.
    pub fn layers(&self) -> &[TimeLinear] {
        &self.layers
    }

    /// With other layers, whose widths must fit each other: what was trained elsewhere.
    #[must_use]
    pub fn with_layers(mut self, layers: Vec<TimeLinear>) -> Self {
        self.layers = layers;
        self
    }
}

impl Dynamics for NeuralOde {
    fn slope(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        let Activations {
            first,
            hidden,
            last,
        } = self.activations;
        let applied = |activation: Option<Activation>, x: Tensor<2>| match activation {
            Some(activation) => activation.forward(x),
            None => x,
        };
        let mut x = applied(first, u);
        for (place, layer) in self.layers.iter().enumerate() {
            let at_end = place + 1 == self.layers.len();
            let y = layer.forward(x, t.clone()); // [batch, width]
            x = applied(if at_end { last } else { Some(hidden) }, y);
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Field;
    use burn::tensor::{DType, Tolerance};
    use nabla_grad::flat::with_float_type;

    fn drawn(config: &NeuralOdeConfig) -> NeuralOde {
        let net = config.init(&Device::flex(), &mut SeededNoise::new(3, 0));
        with_float_type(net.unwrap(), DType::F64)
    }

    fn state() -> Tensor<2> {
        let values = [[0.3, -1.2, 0.8], [2.0, 0.1, -0.4]];
        Tensor::from_data(values, (&Device::flex(), DType::F64))
    }

    /// The formula of the module documentation, layer by layer.
    #[test]
    fn slopes_are_those_of_layers_with_the_time_appended() {
        let t = Tensor::<2>::from_data([[0.7]], (&Device::flex(), DType::F64));
        let ones = Tensor::<2>::ones([2, 1], (&Device::flex(), DType::F64));
        for first in [false, true] {
            for time in [false, true] {
                let mut config = NeuralOdeConfig::new(3)
                    .with_hidden([5, 2])
                    .with_activation(Activation::Softplus)
                    .with_last(Activation::Tanh);
                if first {
                    config = config.with_first(Activation::Tanh);
                }
                if !time {
                    config = config.without_time();
                }
                let net = drawn(&config);
                let mut x = if first { state().tanh() } else { state() };
                for (place, layer) in net.layers().iter().enumerate() {
                    let mut whole = layer.linear.weight.val();
                    if let Some(row) = &layer.by_time {
                        whole = Tensor::cat(vec![whole, row.val().unsqueeze()], 0);
                        x = Tensor::cat(vec![x, ones.clone() * 0.7], 1);
                    }
                    let y = x.matmul(whole);
                    x = match place {
                        2 => y.tanh(),
                        _ => (y.exp() + 1.0).log(),
                    };
                }
                let found = Field::slope(&net, state(), t.clone());
                let close = Tolerance::absolute(1e-12);
                found
                    .into_data()
                    .assert_approx_eq::<f64>(&x.into_data(), close);
            }
        }
    }

    #[test]
    fn widths_of_zero_are_refused_in_words() {
        let device = Device::flex();
        let mut draws = SeededNoise::new(3, 0);
        let error = NeuralOdeConfig::new(0)
            .init(&device, &mut draws)
            .unwrap_err();
        assert!(error.to_string().contains("width of the state"), "{error}");
        let config = NeuralOdeConfig::new(3).with_hidden([4, 0]);
        let error = config.init(&device, &mut draws).unwrap_err();
        assert!(error.to_string().contains("hidden layer"), "{error}");
    }
}
