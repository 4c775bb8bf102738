//! Dynamical stability: whether gradient descent, or SGD with a batch size, can rest at a minimum.
//!
//! Near a minimum `θ*`, a step of SGD with the learning rate `η` and the batch `𝓑` moves `e = θ − θ*` linearly:
//!
//! ```text
//! e ← e − η/B Σ_{i∈𝓑} H_i e,     H_i = ∇²ℓ_i(θ*) = A_iᵀ A_i,     H = 1/n Σ_i H_i
//! ```
//!
//! For the loss `L(θ) = 1/2n Σ_i (f(x_i; θ) − y_i)²` at a global minimum, `A_i` is the row `φ_i = ∇f(x_i; θ*)`. A loss
//! without the ½ doubles `H`, and with it every threshold's inverse; `A_i = √2 φ_i` says so. For a classifier with
//! softmax, `A_i` has one row for each class ([`ExampleCurvature::of_softmax`]).
//!
//! The minimum is *linearly stable* if `E‖e_t‖²` stays bounded, whatever `e_0` is. The second moment `Σ = E[e eᵀ]` moves
//! by a linear map,
//!
//! ```text
//! Σ ← Σ − η (HΣ + ΣH) + η² D(Σ),     D(Σ) = α · 1/n Σ_i H_i Σ H_i + (1 − α) HΣH
//! α = 1/B                       batches drawn with replacement
//! α = (n − B) / (B (n − 1))     without replacement
//! ```
//!
//! With `C(Σ) = ½ (HΣ + ΣH)`, this map has no eigenvalue above 1 exactly if `η D ≤ 2 C` on the span of the `A_i`, so
//! SGD rests at `θ*` up to
//!
//! ```text
//! η_c = 2 / λ_max(C^−½ D C^−½)                         SGD     (tr H ≤ 2/η follows for B = 1)
//! η_c = 2 / λ_max(H)                                    gradient descent: B = n without replacement, α = 0
//! ```
//!
//! For `B = 1`, `tr H ≤ 2/η` is necessary but not sufficient: where few examples have long gradients, SGD leaves at a
//! small share of `2 / tr H`. The trace bounds the norms on which generalisation depends, such as the
//! [path norm](crate::two_layer_relu::TwoLayerRelu::path_norm); the largest eigenvalue does not.
//!
//! **Size.** The exact threshold costs `O(n m²)` a product, with `m ≤ min(n, p)` directions, some tens of products.
//! For a network with many parameters and examples, [`ExampleCurvature`] takes the rows `A_i P` in the directions of the
//! columns of `P`. The threshold is then that of errors in these directions, which the true one does not exceed, and
//! [`sufficient_rate`] is a rate that the true one does not fall below.
//!
//! Sources: Wu, Su, *The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent*, 2023, arXiv
//! 2305.17490 (stability and norms); Wu, Ma, E, *How SGD Selects the Global Minima in Over-parameterized Learning*, 2018
//! (linear stability); Ma, Ying, *On Linear Stability of SGD and Input-Smoothness of Neural Networks*, 2021, arXiv
//! 2105.13462; Mulayoff, Michaeli, *Exact Mean Square Linear Stability Analysis for SGD*, 2024, arXiv 2306.07850 (the
//! threshold as one eigenvalue, and batches without replacement).

use std::fmt;

use burn::tensor::{DType, Device, Tensor, TensorData};
use faer::{Mat, MatRef, Side};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{dot, norm};
use nabla_grad::curvature::{CurvatureError, CurvatureOperator};
use nabla_grad::spectrum::{LanczosConfig, SpectrumError, lanczos};
use serde::{Deserialize, Serialize};

/// The reason why there is no sharpness or threshold.
#[derive(Debug, thiserror::Error)]
pub enum StabilityError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There are no examples, or no parameters.
    #[error(
        "the stability of a minimum needs examples and parameters, but there are {examples} examples and {parameters} parameters"
    )]
    Empty {
        /// The number of examples.
        examples: usize,
        /// The number of parameters or directions.
        parameters: usize,
    },
    /// The rows are not the same number for every example.
    #[error("{rows} rows are not {per_example} for each of some examples")]
    Rows {
        /// All rows.
        rows: usize,
        /// Rows of one example.
        per_example: usize,
    },
    /// The outputs of two tensors differ in shape.
    #[error("the change of the outputs has the shape {found:?}, but the scores have {expected:?}")]
    Shape {
        /// Of the scores.
        expected: [usize; 2],
        /// Of the change.
        found: [usize; 2],
    },
    /// A gradient is not finite.
    #[error("the gradient of example {example} is not finite")]
    NotFinite {
        /// The example, from 0.
        example: usize,
    },
    /// The curvature is 0.
    #[error("no example curves the loss, so every learning rate is stable")]
    Flat,
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
    /// The eigenvalues were not found.
    #[error("the eigenvalues of a {0} × {0} matrix did not converge")]
    NoConvergence(usize),
    /// The search of the largest eigenvalue failed.
    #[error(transparent)]
    Spectrum(#[from] SpectrumError),
}

/// The mean loss up to which the Gauss-Newton matrix is taken for the Hessian.
pub const MINIMUM_LOSS: f64 = 1e-6;

/// Three measures of a curvature matrix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sharpness {
    /// `tr H`, which bounds the rates of SGD with batches of one example.
    pub trace: f64,
    /// `‖H‖_F`.
    pub frobenius: f64,
    /// `λ_max(H)`, which bounds the rates of gradient descent.
    pub lambda_max: f64,
    /// Whether the loss is at most [`MINIMUM_LOSS`]. Elsewhere, the Gauss-Newton matrix is not the Hessian.
    pub at_minimum: bool,
}

/// How the examples of a batch are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// Each independently.
    WithReplacement,
    /// All different, as in an epoch of a training. Batches of one epoch also differ from each other, which is not
    /// considered here.
    #[default]
    WithoutReplacement,
}

nabla_base::choices! {
    Sampling: "sampling" {
        "with-replacement" => Self::WithReplacement, "Each example of a batch independently";
        "without-replacement" => Self::WithoutReplacement, "All examples of a batch different";
    }
}

impl Sampling {
    /// `α`, the share of `D` that comes from single examples.
    ///
    /// - `batch`: of 1 to `examples` examples
    ///
    /// # Errors
    /// If it is not.
    pub fn share(self, batch: usize, examples: usize) -> Result<f64, OutOfRange> {
        range::at_least("batch size", batch, 1)?;
        let (b, n) = (batch as f64, examples as f64);
        match self {
            Self::WithReplacement => Ok(1.0 / b),
            Self::WithoutReplacement => {
                range::within("batch size", batch, 1..=examples)?;
                // The only example is the whole batch.
                Ok(if examples == 1 {
                    0.0
                } else {
                    (n - b) / (b * (n - 1.0))
                })
            }
        }
    }
}

/// How each example curves the loss at a minimum; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_probe::dynamical_stability::{ExampleCurvature, Sampling};
///
/// // The gradients of a model's output on three examples, all of the same length.
/// let phi = Tensor::<2>::from_floats([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], &Device::flex());
/// let curvature = ExampleCurvature::of_gradients(&phi)?;
/// let trace = curvature.sharpness(0.0).trace;
/// let sgd = curvature.sgd_threshold(1, Sampling::WithoutReplacement)?;
/// let gd = curvature.gd_threshold();
/// assert!((trace - 1.0).abs() < 1e-6 && (sgd - 2.0).abs() < 1e-6 && gd > 2.5);
/// # Ok::<(), nabla_probe::dynamical_stability::StabilityError>(())
/// ```
#[derive(Clone)]
pub struct ExampleCurvature {
    /// The `A_i` below one another in the basis of the eigenvectors of `H`, `[examples · outputs, m]`.
    rows: Mat<f64>,
    /// Rows of an example.
    outputs: usize,
    /// The positive eigenvalues of `H`, descending, `[m]`.
    eigenvalues: Vec<f64>,
}

impl fmt::Debug for ExampleCurvature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExampleCurvature")
            .field("examples", &self.examples())
            .field("outputs", &self.outputs)
            .field("eigenvalues", &self.eigenvalues)
            .finish_non_exhaustive()
    }
}

/// Eigenvalues below this share of the largest one are rounding.
const RANK_TOLERANCE: f64 = 1e-12;

impl ExampleCurvature {
    /// From the gradient `φ_i` of each example's output, `[examples, parameters]`, for half the squared error.
    ///
    /// # Errors
    /// If there are no examples or parameters, a gradient is not finite, or all are 0.
    pub fn of_gradients(phi: &Tensor<2>) -> Result<Self, StabilityError> {
        Self::of_rows(phi, 1)
    }

    /// From several rows for each example, `[examples · rows, parameters]`: the gradients of several outputs, or rows
    /// in chosen directions.
    ///
    /// - `outputs`: rows of an example
    ///
    /// # Errors
    /// As [`of_gradients`](Self::of_gradients), or if the number of rows is not a multiple of `outputs`.
    pub fn of_rows(rows: &Tensor<2>, outputs: usize) -> Result<Self, StabilityError> {
        let [height, width] = rows.dims();
        let values = rows
            .clone()
            .try_into_vec_as::<f64>()
            .map_err(|error| StabilityError::Device(error.to_string()))?;
        let values = MatRef::from_row_major_slice(&values, height, width).to_owned();
        Self::new(values, outputs)
    }

    /// From the changes of a classifier's scores along directions, for the cross-entropy of the softmax `p`, whose
    /// Gauss-Newton matrix is `Σ_c p_c J_iᵀ (e_c − p)(e_c − p)ᵀ J_i`.
    ///
    /// - `scores`: before the softmax, `[examples, classes]`
    /// - `changes`: `J v` for each direction `v`, `[examples, classes]`. The directions must be orthonormal.
    ///
    /// # Errors
    /// If the shapes differ, or as [`of_gradients`](Self::of_gradients).
    pub fn of_softmax(scores: &Tensor<2>, changes: &[Tensor<2>]) -> Result<Self, StabilityError> {
        let expected @ [examples, classes] = scores.dims();
        let read = |tensor: &Tensor<2>| {
            let values = tensor.clone().try_into_vec_as::<f64>();
            values.map_err(|error| StabilityError::Device(error.to_string()))
        };
        let scores = read(scores)?;
        let mut rows = Mat::<f64>::zeros(examples * classes, changes.len());
        for (direction, change) in changes.iter().enumerate() {
            let found = change.dims();
            if found != expected {
                return Err(StabilityError::Shape { expected, found });
            }
            let change = read(change)?;
            let each = scores
                .chunks(classes.max(1))
                .zip(change.chunks(classes.max(1)));
            for (example, (scores, change)) in each.enumerate() {
                let p = softmax(scores);
                let mean = dot(&p, change); // pᵀ J v
                for (class, (p, change)) in p.iter().zip(change).enumerate() {
                    rows[(example * classes + class, direction)] = p.sqrt() * (change - mean);
                }
            }
        }
        Self::new(rows, classes)
    }

    fn new(rows: Mat<f64>, outputs: usize) -> Result<Self, StabilityError> {
        let (height, width) = rows.shape();
        if outputs == 0 || height % outputs != 0 {
            return Err(StabilityError::Rows {
                rows: height,
                per_example: outputs,
            });
        }
        if height == 0 || width == 0 {
            return Err(StabilityError::Empty {
                examples: height / outputs,
                parameters: width,
            });
        }
        for row in 0..height {
            if !rows.row(row).iter().all(|x| x.is_finite()) {
                return Err(StabilityError::NotFinite {
                    example: row / outputs,
                });
            }
        }
        let examples = (height / outputs) as f64;
        // The smaller of H = AᵀA/n and K = AAᵀ/n has all positive eigenvalues.
        let wide = width > height;
        let gram = if wide {
            &rows * rows.transpose()
        } else {
            rows.transpose() * &rows
        };
        let size = gram.nrows();
        let found = (gram * faer::Scale(1.0 / examples)).self_adjoint_eigen(Side::Lower);
        let found = found.map_err(|_| StabilityError::NoConvergence(size))?;
        let values = found.S().column_vector();
        let largest = values[size - 1];
        if largest.is_nan() || largest <= 0.0 {
            return Err(StabilityError::Flat);
        }
        let kept: Vec<usize> = (0..size)
            .rev()
            .filter(|&i| values[i] > RANK_TOLERANCE * largest)
            .collect();
        let eigenvalues: Vec<f64> = kept.iter().map(|&i| values[i]).collect();
        let vectors = Mat::from_fn(size, kept.len(), |i, j| found.U()[(i, kept[j])]);
        let rows = match wide {
            // A = V √(n h) Uᵀ
            true => Mat::from_fn(size, kept.len(), |i, j| {
                vectors[(i, j)] * (examples * eigenvalues[j]).sqrt()
            }),
            false => &rows * &vectors,
        };
        Ok(Self {
            rows,
            outputs,
            eigenvalues,
        })
    }

    /// The number of examples.
    pub fn examples(&self) -> usize {
        self.rows.nrows() / self.outputs
    }

    /// The positive eigenvalues of `H`, descending.
    pub fn eigenvalues(&self) -> &[f64] {
        &self.eigenvalues
    }

    /// Trace, norm and largest eigenvalue of `H`, exactly.
    ///
    /// - `mean_loss`: of the examples, by which [`Sharpness::at_minimum`] is decided
    pub fn sharpness(&self, mean_loss: f64) -> Sharpness {
        Sharpness {
            trace: self.eigenvalues.iter().sum(),
            frobenius: norm(&self.eigenvalues),
            lambda_max: self.eigenvalues[0],
            at_minimum: mean_loss <= MINIMUM_LOSS,
        }
    }

    /// The largest learning rate at which gradient descent rests: `2 / λ_max(H)`.
    pub fn gd_threshold(&self) -> f64 {
        2.0 / self.eigenvalues[0]
    }

    /// The largest learning rate at which SGD rests; see the [module documentation](self).
    ///
    /// # Errors
    /// If the batch is empty or, without replacement, larger than the examples; or if the eigenvalue is not found.
    pub fn sgd_threshold(&self, batch: usize, sampling: Sampling) -> Result<f64, StabilityError> {
        let share = sampling.share(batch, self.examples())?;
        let moments = SecondMoments {
            curvature: self,
            share,
        };
        Ok(2.0 / moments.largest()?)
    }

    /// Whether SGD rests at this rate.
    ///
    /// # Errors
    /// If the rate is not positive, or as [`sgd_threshold`](Self::sgd_threshold).
    pub fn is_linearly_stable(
        &self,
        learning_rate: f64,
        batch: usize,
        sampling: Sampling,
    ) -> Result<bool, StabilityError> {
        range::positive("learning rate", learning_rate)?;
        Ok(learning_rate <= self.sgd_threshold(batch, sampling)?)
    }
}

/// A rate at which SGD is certain to rest, from bounds alone: `D ≤ (α max_i λ_max(H_i) + (1 − α) λ_max(H)) C` by the
/// theorem of Collatz and Wielandt with `Σ = I`.
///
/// - `largest`: `max_i λ_max(H_i)`, or anything above, such as `max_i tr H_i`
/// - `lambda_max`: of `H`
///
/// # Errors
/// If the batch does not fit the examples, or the bounds are not positive.
///
/// ```
/// use nabla_probe::dynamical_stability::{Sampling, sufficient_rate};
///
/// // The whole data set is gradient descent.
/// let rate = sufficient_rate(8.0, 0.5, 100, 100, Sampling::WithoutReplacement)?;
/// assert_eq!(rate, 4.0);
/// # Ok::<(), nabla_base::range::OutOfRange>(())
/// ```
pub fn sufficient_rate(
    largest: f64,
    lambda_max: f64,
    batch: usize,
    examples: usize,
    sampling: Sampling,
) -> Result<f64, OutOfRange> {
    range::positive("largest curvature of an example", largest)?;
    range::positive("largest eigenvalue", lambda_max)?;
    let share = sampling.share(batch, examples)?;
    Ok(2.0 / (share * largest + (1.0 - share) * lambda_max))
}

/// Trace, norm and largest eigenvalue of the Gauss-Newton matrix `1/n Σ_i φ_i φ_iᵀ`.
///
/// - `phi`: the gradients of the outputs, `[examples, parameters]`
/// - `mean_loss`: of the examples
///
/// # Errors
/// As [`ExampleCurvature::of_gradients`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_probe::dynamical_stability::gauss_newton_sharpness;
///
/// let phi = Tensor::<2>::from_floats([[2.0, 0.0], [0.0, 4.0]], &Device::flex());
/// let found = gauss_newton_sharpness(&phi, 0.0)?;
/// assert!((found.trace - 10.0).abs() < 1e-9 && (found.lambda_max - 8.0).abs() < 1e-9);
/// # Ok::<(), nabla_probe::dynamical_stability::StabilityError>(())
/// ```
pub fn gauss_newton_sharpness(
    phi: &Tensor<2>,
    mean_loss: f64,
) -> Result<Sharpness, StabilityError> {
    Ok(ExampleCurvature::of_gradients(phi)?.sharpness(mean_loss))
}

/// The largest learning rate at which SGD rests at a minimum of half the squared error.
///
/// - `phi`: the gradients of the outputs, `[examples, parameters]`
///
/// # Errors
/// As [`ExampleCurvature::sgd_threshold`].
pub fn sgd_stability_threshold(
    phi: &Tensor<2>,
    batch: usize,
    sampling: Sampling,
) -> Result<f64, StabilityError> {
    ExampleCurvature::of_gradients(phi)?.sgd_threshold(batch, sampling)
}

/// The largest learning rate at which gradient descent rests at a minimum of half the squared error.
///
/// # Errors
/// As [`ExampleCurvature::of_gradients`].
pub fn gd_stability_threshold(phi: &Tensor<2>) -> Result<f64, StabilityError> {
    Ok(ExampleCurvature::of_gradients(phi)?.gd_threshold())
}

/// Whether SGD rests at a minimum of half the squared error.
///
/// # Errors
/// As [`ExampleCurvature::is_linearly_stable`].
pub fn is_linearly_stable(
    phi: &Tensor<2>,
    learning_rate: f64,
    batch: usize,
    sampling: Sampling,
) -> Result<bool, StabilityError> {
    ExampleCurvature::of_gradients(phi)?.is_linearly_stable(learning_rate, batch, sampling)
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// `C^−½ D C^−½` on symmetric matrices `[m, m]`, column after column. `C` is diagonal in the basis of the eigenvectors of
/// `H`: `(C Σ)_ab = ½ (h_a + h_b) Σ_ab`.
struct SecondMoments<'a> {
    curvature: &'a ExampleCurvature,
    /// `α`.
    share: f64,
}

/// The relative residual at which the largest eigenvalue is found; its error is of the residual's square.
const TOLERANCE: f64 = 1e-7;
/// The most numbers of all Lanczos vectors together.
const MOST_NUMBERS: usize = 1 << 25;
/// The most Lanczos vectors, and the most restarts from the best vector so far.
const MOST_STEPS: usize = 60;
const RESTARTS: usize = 50;

impl SecondMoments<'_> {
    fn width(&self) -> usize {
        self.curvature.eigenvalues.len()
    }

    /// `√(½ (h_a + h_b))`.
    fn root(&self, a: usize, b: usize) -> f64 {
        let h = &self.curvature.eigenvalues;
        (0.5 * (h[a] + h[b])).sqrt()
    }

    /// `D(Σ)`.
    fn spread(&self, sigma: MatRef<'_, f64>) -> Mat<f64> {
        let ExampleCurvature {
            rows,
            outputs,
            eigenvalues: h,
        } = self.curvature;
        let examples = self.curvature.examples();
        let along = rows * sigma; // A Σ, [examples · outputs, m]
        // A_i Σ A_iᵀ A_i, below one another
        let mut each = Mat::<f64>::zeros(rows.nrows(), rows.ncols());
        for i in 0..examples {
            let own = rows.subrows(i * outputs, *outputs);
            let block = along.subrows(i * outputs, *outputs) * own.transpose();
            each.subrows_mut(i * outputs, *outputs)
                .copy_from(block * own);
        }
        let sum = rows.transpose() * &each;
        let single = self.share / examples as f64;
        Mat::from_fn(h.len(), h.len(), |a, b| {
            single * sum[(a, b)] + (1.0 - self.share) * h[a] * sigma[(a, b)] * h[b]
        })
    }

    /// The largest eigenvalue, by Lanczos from `C^½ I`. The eigenvector is `C^½ Σ` with a positive semidefinite `Σ`, so
    /// this start has a part of it: `⟨I, C Σ⟩ = tr HΣ`.
    fn largest(&self) -> Result<f64, SpectrumError> {
        let m = self.width();
        let steps = (MOST_NUMBERS / (m * m)).clamp(8, MOST_STEPS);
        let config = LanczosConfig {
            steps,
            reorthogonalise: true,
        };
        let mut start = vec![0.0; m * m];
        (0..m).for_each(|a| start[a * m + a] = self.root(a, a));
        let mut found = 0.0;
        for _ in 0..RESTARTS {
            let pairs = lanczos(self, &start, &config)?.ritz_pairs()?;
            let Some(top) = pairs.into_iter().last() else {
                break;
            };
            found = top.value;
            match top.vector {
                Some(vector) if top.residual > TOLERANCE * found => start = vector,
                _ => break,
            }
        }
        Ok(found)
    }
}

impl CurvatureOperator for SecondMoments<'_> {
    fn dim(&self) -> usize {
        self.width() * self.width()
    }

    fn device(&self) -> Device {
        Device::flex()
    }

    fn dtype(&self) -> DType {
        DType::F64
    }

    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        let values = v.clone().try_into_vec_as::<f64>();
        let values = values.map_err(|error| CurvatureError::Device(error.to_string()))?;
        let product = self.apply_values(&values)?;
        let data = TensorData::new(product, [self.dim()]);
        Ok(Tensor::from_data(data, (&v.device(), DType::F64)))
    }

    fn apply_values(&self, v: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        let m = self.width();
        if v.len() != m * m {
            return Err(CurvatureError::Dimension {
                what: "vector",
                expected: m * m,
                found: v.len(),
            });
        }
        let sigma = Mat::from_fn(m, m, |a, b| v[b * m + a] / self.root(a, b));
        let spread = self.spread(sigma.as_ref());
        let columns = (0..m).flat_map(|b| (0..m).map(move |a| (a, b)));
        Ok(columns
            .map(|(a, b)| spread[(a, b)] / self.root(a, b))
            .collect())
    }
}

#[cfg(test)]
mod tests;
