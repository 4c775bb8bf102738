//! Between which learning rates SGD leaves the weights of a classifier.
//!
//! The [exact threshold](crate::dynamical_stability) needs the rows of all examples and classes at once, which don't fit
//! for a network. Two bounds do. With the Gauss-Newton matrices `H_i` of the examples' cross-entropies:
//!
//! ```text
//! rests up to     2 / (α max_i tr H_i + (1 − α) λ_max(H))
//! leaves above    the threshold of errors within a few directions: the largest eigenvectors of H, and the
//!                 gradients of the examples with the largest tr H_i; or, if that is less,
//!                 2 tr H / (α mean_i (tr H_i)²/(C − 1) + (1 − α) Σ_k λ_k²)        of errors in all directions, Σ = I
//! ```
//!
//! `tr H_i = Σ_c p_c ‖J_iᵀ(e_c − p)‖²` takes a backward pass for each class, from which the norms of all examples'
//! gradients follow, so `tr H` is exact too. With growing batches, both bounds approach `2 / λ_max(H)`.

use burn::optim::GradientsParams;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{add_scaled, dot, norm};
use nabla_grad::curvature::CurvatureError;
use nabla_grad::per_example::Reduction;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::per_example::backward;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};

use crate::dynamical_stability::{ExampleCurvature, Sampling, StabilityError, sufficient_rate};
use crate::sharpness::{
    BeforeProduct, ClassifierLoss, Eigenvalue, SharpnessError, Spectrum, SpectrumConfig,
};

/// Directions of the largest eigenvalues.
const EIGENVECTORS: usize = 12;
/// Directions of single examples.
const EXAMPLES: usize = 8;

/// What SGD meets at the weights of a classifier; see the [module documentation](self).
#[derive(Debug)]
pub struct ClassifierStability {
    /// `tr H` of the Gauss-Newton matrix, exactly.
    pub trace: f64,
    /// `λ_max(H)` of the Gauss-Newton matrix.
    pub lambda_max: Eigenvalue,
    /// `tr H_i`, for each example.
    pub example_traces: Vec<f64>,
    /// In the directions.
    curvature: ExampleCurvature,
    classes: usize,
}

/// The bounds of the largest rate at which SGD rests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateBounds {
    /// It rests at rates up to this one.
    pub rests_up_to: f64,
    /// It leaves at rates above this one.
    pub leaves_above: f64,
}

/// Whether SGD could rest at the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rest {
    /// It rests.
    Rests,
    /// The rate lies between the bounds.
    Open,
    /// It leaves.
    Leaves,
}

impl RateBounds {
    /// What happens at a rate.
    pub fn at(&self, learning_rate: f64) -> Rest {
        match learning_rate {
            rate if rate <= self.rests_up_to => Rest::Rests,
            rate if rate > self.leaves_above => Rest::Leaves,
            _ => Rest::Open,
        }
    }
}

impl ClassifierStability {
    /// Measures it.
    ///
    /// - `steps`: products of the Lanczos run that finds the largest eigenvectors
    /// - `before`: is called before each of them
    ///
    /// # Errors
    /// If a layer of the model has no gradients by example, a value is not finite, or the observer stops the work.
    pub fn of<M: Classifier>(
        loss: &ClassifierLoss<'_, M>,
        steps: usize,
        noise: &mut SeededNoise,
        before: BeforeProduct<'_>,
    ) -> Result<Self, SharpnessError> {
        let operator = loss.gauss_newton()?;
        let config = SpectrumConfig {
            runs: 1,
            steps,
            top: EIGENVECTORS.min(steps),
            ..SpectrumConfig::default()
        };
        let found = Spectrum::of(&operator, &config, noise, before)?;
        let examples = Examples::of(loss)?;
        let mut directions = found.directions;
        for example in examples.longest(EXAMPLES) {
            add_direction(&mut directions, examples.gradient(loss, example)?);
        }
        let scores = operator.outputs();
        let [_, classes] = scores.dims();
        let mut changes = Vec::with_capacity(directions.len());
        for direction in directions {
            let direction = TensorData::new(direction, [loss.parameters()]);
            let direction = Tensor::<1>::from_data(direction, (&scores.device(), scores.dtype()));
            // The directions are of length 1.
            if let Some(change) = operator.output_change(&direction)? {
                changes.push(change.value);
            }
        }
        let count = examples.traces.len() as f64;
        Ok(Self {
            trace: examples.traces.iter().sum::<f64>() / count,
            lambda_max: found.highest.first().copied().ok_or(StabilityError::Flat)?,
            curvature: ExampleCurvature::of_softmax(&scores, &changes)?,
            example_traces: examples.traces,
            classes,
        })
    }

    /// The number of examples.
    pub fn examples(&self) -> usize {
        self.example_traces.len()
    }

    /// The bounds for batches of this size.
    ///
    /// # Errors
    /// If the batch is empty or larger than the examples.
    pub fn rates(&self, batch: usize, sampling: Sampling) -> Result<RateBounds, StabilityError> {
        let examples = self.examples();
        let share = sampling.share(batch, examples)?;
        let longest = self.example_traces.iter().copied().fold(0.0, f64::max);
        let highest = self.lambda_max.value + self.lambda_max.residual;
        let squares: f64 = self.example_traces.iter().map(|trace| trace * trace).sum();
        let rank = (self.classes.max(2) - 1) as f64;
        let eigenvalues = self.curvature.eigenvalues();
        let spread = share * squares / examples as f64 / rank
            + (1.0 - share) * dot(eigenvalues, eigenvalues);
        let everywhere = 2.0 * self.trace / spread;
        Ok(RateBounds {
            rests_up_to: sufficient_rate(longest, highest, batch, examples, sampling)?,
            leaves_above: self
                .curvature
                .sgd_threshold(batch, sampling)?
                .min(everywhere),
        })
    }

    /// The bounds for gradient descent, from those of the largest eigenvalue.
    ///
    /// # Errors
    /// If the eigenvalue is not positive.
    pub fn gradient_descent(&self) -> Result<RateBounds, OutOfRange> {
        let Eigenvalue { value, residual } = self.lambda_max;
        range::positive("largest eigenvalue", value)?;
        Ok(RateBounds {
            rests_up_to: 2.0 / (value + residual),
            leaves_above: 2.0 / value,
        })
    }
}

/// Adds what is new of a vector to an orthonormal basis.
fn add_direction(basis: &mut Vec<Vec<f64>>, mut vector: Vec<f64>) {
    let length = norm(&vector);
    // Twice, so that what rounding leaves is of the order of ε.
    for _ in 0..2 {
        for known in basis.iter() {
            let along = dot(known, &vector);
            add_scaled(&mut vector, -along, known);
        }
    }
    let left = norm(&vector);
    // Less than this is rounding of the gradient in f32.
    if left > 1e-3 * length {
        vector.iter_mut().for_each(|x| *x /= left);
        basis.push(vector);
    }
}

/// The curvatures of the examples alone.
struct Examples {
    /// `tr H_i`.
    traces: Vec<f64>,
    /// The class whose term is the largest in `tr H_i`.
    classes: Vec<usize>,
}

impl Examples {
    fn of<M: Classifier>(loss: &ClassifierLoss<'_, M>) -> Result<Self, SharpnessError> {
        let on_processor = Device::flex().autodiff();
        // With a graph of its own.
        let model = loss.model.clone().fork(&on_processor);
        let (mut traces, mut largest) = (Vec::new(), Vec::new());
        for part in &loss.parts {
            let input = part.input.clone().without_autodiff().into_data();
            let input = Tensor::<2>::from_data(input, (&on_processor, part.input.dtype()));
            let count = part.indices.len();
            let mut sums = vec![0.0; count];
            let mut most = vec![(0.0, 0); count];
            let mut class = 0;
            loop {
                let scores = model.logits(input.clone());
                let [_, classes] = scores.dims();
                let gradients = backward(of_class(scores, class).sum(), count, Reduction::Sum)?;
                let norms = gradients.squared_norms(&model)?;
                for ((sum, most), norm) in sums.iter_mut().zip(&mut most).zip(norms) {
                    *sum += norm;
                    if norm > most.0 {
                        *most = (norm, class);
                    }
                }
                class += 1;
                if class >= classes {
                    break;
                }
            }
            traces.extend(sums);
            largest.extend(most.into_iter().map(|(_, class)| class));
        }
        Ok(Self {
            traces,
            classes: largest,
        })
    }

    /// The examples with the largest traces.
    fn longest(&self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.traces.len()).collect();
        order.sort_by(|&a, &b| self.traces[b].total_cmp(&self.traces[a]));
        order.truncate(count);
        order
    }

    /// The longest row of `A_i`, `[parameters]`.
    fn gradient<M: Classifier>(
        &self,
        loss: &ClassifierLoss<'_, M>,
        example: usize,
    ) -> Result<Vec<f64>, SharpnessError> {
        let size = loss.parts.first().map_or(1, |part| part.indices.len());
        let input = loss.parts[example / size]
            .input
            .clone()
            .narrow(0, example % size, 1);
        let value = of_class(loss.model.logits(input), self.classes[example]).sum();
        let gradients = GradientsParams::from_grads(value.backward(), &loss.model);
        let gradient = loss.layout.flatten_gradients_or_zeros(&gradients)?;
        let values = gradient.try_into_vec_as::<f64>();
        Ok(values.map_err(|error| CurvatureError::Device(error.to_string()))?)
    }
}

/// `√p_c (e_c − p)ᵀ z` of each example with `p` held, `[examples]`, whose gradients are the rows of `A_i`.
fn of_class(scores: Tensor<2>, class: usize) -> Tensor<1> {
    let p = softmax(scores.clone().without_autodiff(), 1).autodiff(); // [examples, classes]
    let own = p.clone().narrow(1, class, 1); // p_c, [examples, 1]
    let mean = (p * scores.clone()).sum_dim(1);
    ((scores.narrow(1, class, 1) - mean) * own.sqrt()).squeeze_dim(1)
}
