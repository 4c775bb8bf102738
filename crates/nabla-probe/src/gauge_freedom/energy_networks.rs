//! Networks for scores: energies, whose fields are gradients by construction, and an unconstrained one beside them.
//!
//! To train `s = ∇_x ψ_θ` needs `∂_θ ∇_x ψ_θ`. Here `∇_x ψ` is written out in forward operations, through which one
//! backward pass goes as through any network:
//!
//! ```text
//! tied       ψ = Σ_j a_j(σ) softplus(w_j·u + b_j(σ))                s = Wᵀ (a ∘ sigmoid(W u + b))
//! deep       h₁ = W₁ u + b₁(σ),  h₂ = W₂ φ(h₁) + b₂(σ),             s = W₁ᵀ (φ′(h₁) ∘ W₂ᵀ (φ′(h₂) ∘ c(σ)))
//!            ψ = c(σ)·φ(h₂)
//! quadratic  ψ = −½‖u − F(u)‖²,  F = W₂ φ(W₁ u + b₁(σ)) + b₂(σ)     s = −(u − F) + W₁ᵀ (φ′(h₁) ∘ W₂ᵀ (u − F))
//! ```
//!
//! with `φ = softplus`, `φ′ = sigmoid`. What depends on the noise does so through the features `τ(σ)` of the level. A
//! [`ScoreNetwork`] puts the input and output to scale, which keeps a gradient a gradient, as one factor depends on `x`:
//!
//! ```text
//! s(x, σ) = −x/(σ² + σ_d²) + σ_d / (σ √(σ² + σ_d²)) · head(x/√(σ² + σ_d²), τ(σ))
//! ```
//!
//! Source of the scales: Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative
//! Models*, 2022, arXiv 2206.00364, table 1.

use burn::module::{Initializer, Module, ModuleDisplay};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{sigmoid, softplus};
use burn::tensor::{Device, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::flat::FlatError;
use nabla_train::initialization::he_normal;

/// A network for a score, which [`ScoreMatching`](super::ScoreMatching) can train.
pub trait ScoreModel: Module {
    /// `s(x, σ)`, `[batch, dimension]`.
    ///
    /// - `x`: `[batch, dimension]`
    /// - `sigma`: the level of each row, `[batch, 1]`
    fn score(&self, x: Tensor<2>, sigma: Tensor<2>) -> Tensor<2>;
}

/// The features of a level: `l`, `sin l`, `cos l`, `sin 2l`, `cos 2l` with `l = ln σ`.
pub const LEVEL_FEATURES: usize = 5;

fn level_features(sigma: &Tensor<2>) -> Tensor<2> {
    let l = sigma.clone().log();
    let double = l.clone() * 2.0;
    let each = [
        l.clone() * 0.25,
        l.clone().sin(),
        l.cos(),
        double.clone().sin(),
        double.cos(),
    ];
    Tensor::cat(each.to_vec(), 1) // [batch, 5]
}

/// The part of a [`ScoreNetwork`] that is learnt.
pub trait ScoreHead: Module + ModuleDisplay {
    /// - `u`: `[batch, dimension]`
    /// - `tau`: features of the level, `[batch, LEVEL_FEATURES]`
    fn forward(&self, u: Tensor<2>, tau: Tensor<2>) -> Tensor<2>;
}

/// A head with input and output to scale; see the [module documentation](self).
#[derive(Module, Debug)]
pub struct ScoreNetwork<H: Module + ModuleDisplay> {
    /// The head.
    pub head: H,
    #[module(skip)]
    data_scale: f64,
}

/// Why there is no such network.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// A size is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The weights cannot be drawn.
    #[error(transparent)]
    Flat(#[from] FlatError),
}

impl<H: ScoreHead> ScoreNetwork<H> {
    /// - `data_scale`: `σ_d`, the root mean square of the data's numbers
    /// - `seed`: of the first matrices, drawn by [He's rule](nabla_train::initialization)
    ///
    /// # Errors
    /// If the scale is not positive.
    pub fn new(head: H, data_scale: f64, seed: u64) -> Result<Self, NetworkError> {
        range::positive("scale of the data", data_scale)?;
        Ok(Self {
            head: he_normal(head, seed)?,
            data_scale,
        })
    }
}

impl<H: ScoreHead> ScoreModel for ScoreNetwork<H> {
    fn score(&self, x: Tensor<2>, sigma: Tensor<2>) -> Tensor<2> {
        let variance = sigma.clone().square() + self.data_scale * self.data_scale;
        let root = variance.clone().sqrt(); // [batch, 1]
        let head = self
            .head
            .forward(x.clone() / root.clone(), level_features(&sigma));
        let factor = (sigma * root).recip() * self.data_scale;
        head * factor - x / variance
    }
}

fn layer(inputs: usize, outputs: usize, bias: bool, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs)
        .with_bias(bias)
        .with_initializer(Initializer::Zeros)
        .init(device)
}

fn check(dimension: usize, hidden: usize) -> Result<(), OutOfRange> {
    range::at_least("numbers of a point", dimension, 1)?;
    range::at_least("number of hidden units", hidden, 1)
}

/// `x W` for the matrix of a layer without its offset, and `x Wᵀ`, back through it.
fn back(layer: &Linear, x: Tensor<2>) -> Tensor<2> {
    x.matmul(layer.weight.val().transpose())
}

/// The energy with tied weights; `a(σ)` and `b(σ)` are a network of one hidden layer of the level.
#[derive(Module, Debug)]
pub struct TiedEnergy {
    /// `Wᵀ`, `[dimension, units]`.
    pub inner: Linear,
    /// The network of the level, to its hidden units.
    pub level: Linear,
    /// From there to `a`, relative to the root of the units.
    pub heights: Linear,
    /// From there to `b`.
    pub offsets: Linear,
}

impl TiedEnergy {
    /// - `units`: of the energy; `level_units`: of the network of the level
    ///
    /// # Errors
    /// If a number is 0.
    pub fn new(
        dimension: usize,
        units: usize,
        level_units: usize,
        device: &Device,
    ) -> Result<Self, OutOfRange> {
        check(dimension, units)?;
        range::at_least("number of units for the level", level_units, 1)?;
        Ok(Self {
            inner: layer(dimension, units, false, device),
            level: layer(LEVEL_FEATURES, level_units, true, device),
            heights: layer(level_units, units, true, device),
            offsets: layer(level_units, units, true, device),
        })
    }

    /// `a` and `W u + b`, `[batch, units]` each.
    fn parts(&self, u: Tensor<2>, tau: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let [_, units] = self.inner.weight.dims();
        let level = softplus(self.level.forward(tau), 1.0); // [batch, level_units]
        let heights = self.heights.forward(level.clone()) / (units as f64).sqrt();
        (heights, self.inner.forward(u) + self.offsets.forward(level))
    }

    /// `ψ`, `[batch, 1]`.
    pub fn energy(&self, u: Tensor<2>, tau: Tensor<2>) -> Tensor<2> {
        let (heights, hidden) = self.parts(u, tau);
        (heights * softplus(hidden, 1.0)).sum_dim(1)
    }
}

impl ScoreHead for TiedEnergy {
    fn forward(&self, u: Tensor<2>, tau: Tensor<2>) -> Tensor<2> {
        let (heights, hidden) = self.parts(u, tau);
        back(&self.inner, heights * sigmoid(hidden))
    }
}

/// The deep energy.
#[derive(Module, Debug)]
pub struct DeepEnergy {
    /// `W₁ᵀ`, `[dimension, units]`.
    pub first: Linear,
    /// `b₁` of the level.
    pub first_level: Linear,
    /// `W₂ᵀ`, `[units, units]`.
    pub second: Linear,
    /// `b₂` of the level.
    pub second_level: Linear,
    /// `c` of the level.
    pub heights: Linear,
}

impl DeepEnergy {
    /// - `units`: of each of the two hidden layers
    ///
    /// # Errors
    /// If a number is 0.
    pub fn new(dimension: usize, units: usize, device: &Device) -> Result<Self, OutOfRange> {
        check(dimension, units)?;
        Ok(Self {
            first: layer(dimension, units, false, device),
            first_level: layer(LEVEL_FEATURES, units, true, device),
            second: layer(units, units, false, device),
            second_level: layer(LEVEL_FEATURES, units, true, device),
            heights: layer(LEVEL_FEATURES, units, true, device),
        })
    }

    /// `h₁`, `h₂` and `c`, `[batch, units]` each.
    fn parts(&self, u: Tensor<2>, tau: Tensor<2>) -> [Tensor<2>; 3] {
        let h1 = self.first.forward(u) + self.first_level.forward(tau.clone());
        let h2 =
            self.second.forward(softplus(h1.clone(), 1.0)) + self.second_level.forward(tau.clone());
        [h1, h2, self.heights.forward(tau)]
    }

    /// `ψ`, `[batch, 1]`.
    pub fn energy(&self, u: Tensor<2>, tau: Tensor<2>) -> Tensor<2> {
        let [_, h2, c] = self.parts(u, tau);
        (c * softplus(h2, 1.0)).sum_dim(1)
    }
}

impl ScoreHead for DeepEnergy {
    fn forward(&self, u: Tensor<2>, tau: Tensor<2>) -> Tensor<2> {
        let [h1, h2, c] = self.parts(u, tau);
        let outer = back(&self.second, sigmoid(h2) * c);
        back(&self.first, sigmoid(h1) * outer)
    }
}

/// The energy `−½‖u − F(u)‖²`, whose `F` cleans a point.
#[derive(Module, Debug)]
pub struct QuadraticEnergy {
    /// `W₁ᵀ`, `[dimension, units]`.
    pub first: Linear,
    /// `b₁` of the level.
    pub first_level: Linear,
    /// `W₂ᵀ`, `[units, dimension]`.
    pub second: Linear,
    /// `b₂` of the level.
    pub second_level: Linear,
}

impl QuadraticEnergy {
    /// - `units`: of the hidden layer
    ///
    /// # Errors
    /// If a number is 0.
    pub fn new(dimension: usize, units: usize, device: &Device) -> Result<Self, OutOfRange> {
        check(dimension, units)?;
        Ok(Self {
            first: layer(dimension, units, false, device),
            first_level: layer(LEVEL_FEATURES, units, true, device),
            second: layer(units, dimension, false, device),
            second_level: layer(LEVEL_FEATURES, dimension, true, device),
        })
    }

    /// `h₁`, `[batch, units]`, and `u − F(u)`, `[batch, dimension]`.
    fn parts(&self, u: Tensor<2>, tau: Tensor<2>) -> [Tensor<2>; 2] {
        let h1 = self.first.forward(u.clone()) + self.first_level.forward(tau.clone());
        let cleaned =
            self.second.forward(softplus(h1.clone(), 1.0)) + self.second_level.forward(tau);
        [h1, u - cleaned]
    }

    /// `ψ`, `[batch, 1]`.
    pub fn energy(&self, u: Tensor<2>, tau: Tensor<2>) -> Tensor<2> {
        let [_, left] = self.parts(u, tau);
        left.square().sum_dim(1) * -0.5
    }
}

impl ScoreHead for QuadraticEnergy {
    fn forward(&self, u: Tensor<2>, tau: Tensor<2>) -> Tensor<2> {
        let [h1, left] = self.parts(u, tau);
        let through = back(&self.first, sigmoid(h1) * back(&self.second, left.clone()));
        through - left
    }
}

/// An unconstrained network of two hidden layers.
#[derive(Module, Debug)]
pub struct Unconstrained {
    /// `[dimension, units]`.
    pub first: Linear,
    /// The first offset, of the level.
    pub first_level: Linear,
    /// `[units, units]`.
    pub second: Linear,
    /// The second offset, of the level.
    pub second_level: Linear,
    /// `[units, dimension]`.
    pub last: Linear,
}

impl Unconstrained {
    /// - `units`: of each of the two hidden layers
    ///
    /// # Errors
    /// If a number is 0.
    pub fn new(dimension: usize, units: usize, device: &Device) -> Result<Self, OutOfRange> {
        check(dimension, units)?;
        Ok(Self {
            first: layer(dimension, units, false, device),
            first_level: layer(LEVEL_FEATURES, units, true, device),
            second: layer(units, units, false, device),
            second_level: layer(LEVEL_FEATURES, units, true, device),
            last: layer(units, dimension, true, device),
        })
    }
}

impl ScoreHead for Unconstrained {
    fn forward(&self, u: Tensor<2>, tau: Tensor<2>) -> Tensor<2> {
        let h1 = self.first.forward(u) + self.first_level.forward(tau.clone());
        let h2 = self.second.forward(softplus(h1, 1.0)) + self.second_level.forward(tau);
        self.last.forward(softplus(h2, 1.0))
    }
}
