//! Gradient, Hessian and gradient variance of a linear last layer, in closed form.
//!
//! For features `z_i` with `z̃_i = [z_i; 1]`, scores `s_i = Θ z̃_i` with `Θ = [W b]`, and the cross-entropy of the softmax
//! `p_i` (with `Δ_i = p_i − y_i`), everything that methods need of the last layer is an explicit function of the pass:
//!
//! ```text
//! gradient of an example   G_i = Δ_i z̃_iᵀ                                  [classes, d + 1]
//! gradient                 g = ΔᵀZ̃/n
//! Hessian times U          H vec(U) = 1/n Σ_i [p_i ∘ u_i − p_i (p_i·u_i)] z̃_iᵀ,   u_i = U z̃_i
//! diagonal of H            (P ∘ (1 − P))ᵀ(Z̃ ∘ Z̃)/n
//! second moment of G       (Δ ∘ Δ)ᵀ(Z̃ ∘ Z̃)/n
//! ```
//!
//! With one logit and the binary cross-entropy, `p` is the sigmoid and `p ∘ u − p (p·u)` becomes `p (1 − p) u`.
//!
//! The results are tensors on the graph of the pass: the gradient of a penalty of theirs, which goes through `p`, `z̃` and
//! `Θ`, is what a framework that differentiates twice would give.

use burn::tensor::activation::{log_sigmoid, log_softmax, sigmoid, softmax};
use burn::tensor::{Tensor, TensorData};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::trace::Probe;

/// The reason why a pass has no such statistics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// There are no examples.
    #[error("a pass without examples has no statistics of the last layer")]
    Empty,
    /// Features, scores and targets are of different numbers of examples or classes.
    #[error(
        "the pass has {features} rows of features, scores of shape {logits:?} and targets of shape {targets:?}, which must \
         agree"
    )]
    Shape {
        /// Rows of features.
        features: usize,
        /// Of the scores.
        logits: [usize; 2],
        /// Of the targets.
        targets: [usize; 2],
    },
    /// One class alone.
    #[error("a softmax over {0} score has no gradient: use the binary form for one logit")]
    OneClass(usize),
    /// Probes of Hutchinson's estimate.
    #[error("the diagonal is estimated with {0} probes, but at least one is needed")]
    Probes(usize),
}

/// How scores become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Softmax,
    Sigmoid,
}

/// The statistics of a linear last layer on some examples; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_align::HeadStats;
///
/// let device = Device::flex();
/// let features = Tensor::<2>::from_floats([[1.0, 0.0], [0.5, -1.0]], &device);
/// let logits = Tensor::<2>::from_floats([[0.3, 0.0, -0.6], [0.3, -0.3, -0.5]], &device);
/// let targets = Tensor::<2>::from_floats([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], &device);
/// let head = HeadStats::linear(features, logits, targets)?;
/// assert_eq!(head.gradient().dims(), [3, 3]); // classes, features and bias
/// // The gradients of the classes cancel.
/// assert!(head.gradient().sum_dim(0).abs().max().into_scalar::<f32>() < 1e-6);
/// # Ok::<(), nabla_align::HeadError>(())
/// ```
#[derive(Clone, Debug)]
pub struct HeadStats {
    /// `Z̃`, `[examples, d + 1]`.
    features: Tensor<2>,
    /// `P`, `[examples, classes]`.
    probabilities: Tensor<2>,
    /// `Δ`, `[examples, classes]`.
    residuals: Tensor<2>,
    /// `[1]`.
    loss: Tensor<1>,
    output: Output,
}

/// The mean cross-entropy of a softmax, `[1]`.
///
/// - `logits`, `targets`: `[examples, classes]`; the rows of `targets` sum to 1
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let [examples, _] = logits.dims();
    (log_softmax(logits, 1) * targets).sum() * (-1.0 / examples.max(1) as f64)
}

/// `[Z 1]`.
fn with_ones(features: Tensor<2>) -> Tensor<2> {
    let [examples, _] = features.dims();
    let ones = TensorData::new(vec![1.0_f32; examples], [examples, 1]);
    let ones = Tensor::<2>::from_data(ones, &features.device()).cast(features.dtype());
    Tensor::cat(vec![features, ones], 1)
}

fn check(features: &Tensor<2>, logits: &Tensor<2>, targets: &Tensor<2>) -> Result<(), HeadError> {
    let [rows, _] = features.dims();
    let (logits, targets) = (logits.dims(), targets.dims());
    if rows == 0 {
        return Err(HeadError::Empty);
    }
    match logits == targets && logits[0] == rows {
        true => Ok(()),
        false => Err(HeadError::Shape {
            features: rows,
            logits,
            targets,
        }),
    }
}

impl HeadStats {
    /// Of a softmax.
    ///
    /// - `features`: the input of the last layer, `[examples, d]`
    /// - `logits`, `targets`: `[examples, classes]`; the rows of `targets` sum to 1
    ///
    /// # Errors
    /// If there are no examples, fewer than two classes, or the shapes differ.
    pub fn linear(
        features: Tensor<2>,
        logits: Tensor<2>,
        targets: Tensor<2>,
    ) -> Result<Self, HeadError> {
        check(&features, &logits, &targets)?;
        let [_, classes] = logits.dims();
        if classes < 2 {
            return Err(HeadError::OneClass(classes));
        }
        let probabilities = softmax(logits.clone(), 1);
        Ok(Self {
            features: with_ones(features),
            residuals: probabilities.clone() - targets.clone(),
            probabilities,
            loss: cross_entropy(logits, targets),
            output: Output::Softmax,
        })
    }

    /// Of one or several logits with a sigmoid each, whose binary cross-entropies are added.
    ///
    /// - `features`: the input of the last layer, `[examples, d]`
    /// - `logits`, `targets`: `[examples, logits]`; a target is between 0 and 1
    ///
    /// # Errors
    /// If there are no examples, or the shapes differ.
    pub fn binary(
        features: Tensor<2>,
        logits: Tensor<2>,
        targets: Tensor<2>,
    ) -> Result<Self, HeadError> {
        check(&features, &logits, &targets)?;
        let [examples, _] = logits.dims();
        let probabilities = sigmoid(logits.clone());
        // −y log σ(s) − (1 − y) log σ(−s) = (1 − y) s − log σ(s)
        let losses = (targets.clone().neg() + 1.0) * logits.clone() - log_sigmoid(logits);
        Ok(Self {
            features: with_ones(features),
            residuals: probabilities.clone() - targets,
            probabilities,
            loss: losses.sum() * (1.0 / examples as f64),
            output: Output::Sigmoid,
        })
    }

    /// The number of examples.
    pub fn examples(&self) -> usize {
        self.features.dims()[0]
    }

    /// Classes and features with the bias: the shape of gradients and products.
    pub fn shape(&self) -> [usize; 2] {
        [self.residuals.dims()[1], self.features.dims()[1]]
    }

    fn share(&self) -> f64 {
        1.0 / self.examples() as f64
    }

    /// The mean loss, `[1]`.
    pub fn loss(&self) -> Tensor<1> {
        self.loss.clone()
    }

    /// `g`, `[classes, d + 1]`, the bias last.
    pub fn gradient(&self) -> Tensor<2> {
        self.residuals
            .clone()
            .transpose()
            .matmul(self.features.clone())
            * self.share()
    }

    /// `∂²loss/∂s²` times the changes of the scores, `[examples, classes]`.
    fn curved(&self, changes: Tensor<2>) -> Tensor<2> {
        let p = self.probabilities.clone();
        match self.output {
            Output::Softmax => {
                let weighted = p.clone() * changes;
                let mean = weighted.clone().sum_dim(1); // [examples, 1]
                weighted - p * mean
            }
            Output::Sigmoid => p.clone() * (p.neg() + 1.0) * changes,
        }
    }

    /// `H vec(U)`, `[classes, d + 1]`.
    ///
    /// - `direction`: `U`, `[classes, d + 1]`; the gradient of the result goes through it, too
    pub fn hessian_product(&self, direction: Tensor<2>) -> Tensor<2> {
        let changes = self.features.clone().matmul(direction.transpose()); // [examples, classes]
        self.curved(changes)
            .transpose()
            .matmul(self.features.clone())
            * self.share()
    }

    /// The diagonal of `H`, `[classes, d + 1]`.
    pub fn hessian_diagonal(&self) -> Tensor<2> {
        let p = self.probabilities.clone();
        let squares = self.features.clone().square();
        (p.clone() * (p.neg() + 1.0)).transpose().matmul(squares) * self.share()
    }

    /// Hutchinson's estimate of the diagonal, `1/R Σ_r u_r ∘ (H u_r)`, `[classes, d + 1]`.
    ///
    /// - `probes`: signs, `[classes, d + 1]` each, from [`signs`](Self::signs)
    ///
    /// # Errors
    /// If there are no probes.
    pub fn estimated_diagonal(&self, probes: &[Tensor<2>]) -> Result<Tensor<2>, HeadError> {
        let terms = probes
            .iter()
            .map(|u| u.clone() * self.hessian_product(u.clone()));
        let sum = terms.reduce(|sum, term| sum + term);
        let sum = sum.ok_or(HeadError::Probes(0))?;
        Ok(sum * (1.0 / probes.len() as f64))
    }

    /// Random signs for [`estimated_diagonal`](Self::estimated_diagonal).
    ///
    /// # Errors
    /// If `count` is 0.
    pub fn signs(
        &self,
        count: usize,
        noise: &mut SeededNoise,
    ) -> Result<Vec<Tensor<2>>, HeadError> {
        if count == 0 {
            return Err(HeadError::Probes(0));
        }
        let [classes, width] = self.shape();
        let device = self.features.device();
        let draw = |_| {
            let signs = Probe::Rademacher.draw(classes * width, noise);
            let signs: Vec<f32> = signs.into_iter().map(|sign| sign as f32).collect();
            let signs = TensorData::new(signs, [classes, width]);
            Tensor::<2>::from_data(signs, &device).cast(self.features.dtype())
        };
        Ok((0..count).map(draw).collect())
    }

    /// `H`, `[classes·(d + 1), classes·(d + 1)]`, row by row as [`gradient`](Self::gradient); for small layers.
    pub fn hessian(&self) -> Tensor<2> {
        let [classes, width] = self.shape();
        let block = |a: usize| {
            // Row block a: Σ_i (δ_ab p_ia − p_ia p_ib) z̃_i z̃_iᵀ for every b.
            let column = |b: usize| {
                let p = |c: usize| {
                    self.probabilities
                        .clone()
                        .slice([0..self.examples(), c..c + 1])
                };
                let weights = match (self.output, a == b) {
                    (_, true) => p(a) * (p(a).neg() + 1.0),
                    (Output::Softmax, false) => (p(a) * p(b)).neg(),
                    (Output::Sigmoid, false) => p(a).zeros_like(),
                };
                let weighted = self.features.clone() * weights;
                weighted.transpose().matmul(self.features.clone()) * self.share()
            };
            Tensor::cat((0..classes).map(column).collect(), 1) // [d + 1, classes·(d + 1)]
        };
        let blocks: Vec<Tensor<2>> = (0..classes).map(block).collect();
        Tensor::cat(blocks, 0).reshape([classes * width, classes * width])
    }

    /// The mean square of the gradients of single examples, `[classes, d + 1]`.
    pub fn second_moment(&self) -> Tensor<2> {
        let squares = self.residuals.clone().square().transpose();
        squares.matmul(self.features.clone().square()) * self.share()
    }

    /// The mean squared distance of the gradients of single examples from `centre`, number by number,
    /// `[classes, d + 1]`. Around the [`gradient`](Self::gradient) it is their variance.
    ///
    /// - `centre`: `[classes, d + 1]`
    pub fn variance_around(&self, centre: Tensor<2>) -> Tensor<2> {
        self.second_moment() - self.gradient() * centre.clone() * 2.0 + centre.square()
    }

    /// The variance of the gradients of single examples (with `1/n`), `[classes, d + 1]`.
    pub fn variance(&self) -> Tensor<2> {
        self.second_moment() - self.gradient().square()
    }

    /// The mean squared norms of the gradients of single examples, `[1]` each: for the matrix and for the bias.
    pub fn mean_squared_norms(&self) -> [Tensor<1>; 2] {
        let residuals = self.residuals.clone().square().sum_dim(1); // [examples, 1]
        let features = self.features.clone().square().sum_dim(1) - 1.0; // without the one of the bias
        let matrix = residuals.clone() * features;
        [matrix.sum() * self.share(), residuals.sum() * self.share()]
    }
}

#[cfg(test)]
mod tests;
