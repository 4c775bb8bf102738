//! How sharp a loss is around the weights of a network.
//!
//! [`Spectrum::of`] gets everything from one set of Lanczos runs, each from a random start `z` of signs. The Gauss
//! quadrature of a run (nodes `θ_k`, weights `τ_k²`; see [`nabla_grad::spectrum`]) is exact for polynomials, so that the
//! products of one run give
//!
//! ```text
//! zᵀ H z   = d Σ_k τ_k² θ_k           whose mean is tr H           (what Hutchinson's estimate takes a product for)
//! ‖H z‖²   = d Σ_k τ_k² θ_k²          whose mean is ‖H‖_F²
//! θ_1, θ_m                            the extreme eigenvalues, within their residuals
//! Σ_k τ_k² N(t; θ_k, σ²)              the density of all eigenvalues
//! ```
//!
//! [`ClassifierLoss`] is the mean cross-entropy of a classifier on examples, in parts that fit in memory. Burn does not
//! differentiate twice: products with its Hessian are central differences of the gradient, with the rectified units
//! [held](nabla_kernels::linear_pieces), so that no difference meets a kink. It is the Hessian that PyTorch has. [`SteadyHessian`] finds the
//! step once, on a few examples, and takes two gradients for each product from then on.
//!
//! [`ClassifierStability`](crate::classifier_stability::ClassifierStability) says between which learning rates the largest one lies at which SGD rests; see
//! [`dynamical_stability`](crate::dynamical_stability).
//!
//! Sources: Ghorbani, Krishnan, Xiao, *An Investigation into Neural Net Optimization via Hessian Eigenvalue Density*,
//! 2019, arXiv 1901.10159; Yao, Gholami, Keutzer, Mahoney, *PyHessian: Neural Networks Through the Lens of the Hessian*,
//! 2020, arXiv 1912.07145.

use std::ops::ControlFlow;

use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::mean_with_error;
use nabla_grad::curvature::{
    CurvatureError, CurvatureOperator, DifferenceConfig, GaussNewton, GradientField,
    OutputFunction, OutputLoss, Product,
};
use nabla_grad::flat::{FlatError, ParameterLayout, with_float_type};
use nabla_grad::per_example::{PerExampleError, Reduction};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::spectrum::{
    DensityConfig, LanczosConfig, Quadrature, RitzPair, SpectralDensity, SpectrumError, lanczos,
};
use nabla_grad::trace::Probe;
use nabla_grad::training_mode::freeze_layers;
use nabla_kernels::linear_pieces::{OtherNetwork, Pieces};
use nabla_kernels::per_example::{ExampleGradients, backward};
use nabla_train::classification::LabelledBatch;
use nabla_train::classifier::Classifier;
use nabla_train::gradient_source::TrainingExamples;
use serde::{Deserialize, Serialize};

use crate::dynamical_stability::StabilityError;
use crate::sparse_autoencoder::spread_over;

pub use steady_hessian::SteadyHessian;

/// The reason why nothing is known of the sharpness.
#[derive(Debug, thiserror::Error)]
pub enum SharpnessError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A product failed.
    #[error(transparent)]
    Curvature(#[from] CurvatureError),
    /// A Lanczos run failed.
    #[error(transparent)]
    Spectrum(#[from] SpectrumError),
    /// The gradients of the examples.
    #[error(transparent)]
    PerExample(#[from] PerExampleError),
    /// The stability.
    #[error(transparent)]
    Stability(#[from] StabilityError),
    /// The parameters.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// The observer stopped the work.
    #[error("stopped")]
    Stopped,
}

impl SharpnessError {
    /// Whether the observer stopped the work.
    pub fn is_stopped(&self) -> bool {
        let stopped = |error: &CurvatureError| matches!(error, CurvatureError::Function(inner) if inner.is::<StoppedByObserver>());
        match self {
            Self::Stopped => true,
            Self::Curvature(error) | Self::Spectrum(SpectrumError::Curvature(error)) => {
                stopped(error)
            }
            _ => false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct StoppedByObserver;

/// Is called before each product, and says whether to go on.
pub type BeforeProduct<'a> = &'a dyn Fn() -> ControlFlow<()>;

/// An operator whose products are watched.
struct Watched<'a, A> {
    operator: &'a A,
    before: BeforeProduct<'a>,
}

impl<A: CurvatureOperator> CurvatureOperator for Watched<'_, A> {
    fn dim(&self) -> usize {
        self.operator.dim()
    }

    fn device(&self) -> Device {
        self.operator.device()
    }

    fn dtype(&self) -> DType {
        self.operator.dtype()
    }

    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        self.go_on()?;
        self.operator.apply(v)
    }

    fn apply_with_error(&self, v: &[f64]) -> Result<Product, CurvatureError> {
        self.go_on()?;
        self.operator.apply_with_error(v)
    }
}

impl<A> Watched<'_, A> {
    fn go_on(&self) -> Result<(), CurvatureError> {
        match (self.before)() {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(CurvatureError::Function(Box::new(StoppedByObserver))),
        }
    }
}

/// How a spectrum is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpectrumConfig {
    /// Lanczos runs, each from a random start. Default 5.
    pub runs: usize,
    /// Products of a run. Default 20.
    pub steps: usize,
    /// The number of largest eigenvalues that are told, at most `steps`. Default 5.
    pub top: usize,
    /// Points of the density, at least 32. Default 1000.
    pub points: usize,
}

impl Default for SpectrumConfig {
    fn default() -> Self {
        Self {
            runs: 5,
            steps: 20,
            top: 5,
            points: 1000,
        }
    }
}

impl SpectrumConfig {
    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::within("number of Lanczos runs", self.runs, 1..=10_000)?;
        range::within(
            "number of products of a Lanczos run",
            self.steps,
            2..=10_000,
        )?;
        range::within("number of eigenvalues", self.top, 1..=self.steps)?;
        range::within(
            "number of points of the density",
            self.points,
            32..=1_000_000,
        )
    }
}

/// A number that was estimated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its standard error, from the scatter of the runs; `None` for one run.
    pub standard_error: Option<f64>,
}

/// A mean, with its standard error.
fn mean(values: &[f64]) -> Estimate {
    let (value, standard_error) = mean_with_error(values);
    Estimate {
        value,
        standard_error,
    }
}

/// An eigenvalue, by its Ritz value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eigenvalue {
    /// The Ritz value.
    pub value: f64,
    /// The matrix has an eigenvalue within this distance.
    pub residual: f64,
}

/// What one set of Lanczos runs tells of a matrix; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    /// `tr H`.
    pub trace: Estimate,
    /// `‖H‖_F`.
    pub frobenius: Estimate,
    /// The largest eigenvalues, descending.
    pub highest: Vec<Eigenvalue>,
    /// The smallest eigenvalue.
    pub lowest: Eigenvalue,
    /// The density of the eigenvalues.
    pub density: SpectralDensity,
    /// The number of products.
    pub products: usize,
    /// The vectors of the highest Ritz values of the first run, `[dim]` each, orthonormal.
    pub directions: Vec<Vec<f64>>,
}

impl Spectrum {
    /// Measures the spectrum of `operator`.
    ///
    /// - `before`: is called before each product
    ///
    /// # Errors
    /// If the configuration is out of range, the matrix is empty, a product fails, or the observer stops the work.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_grad::curvature::DenseOperator;
    /// use nabla_grad::seeded_noise::SeededNoise;
    /// use nabla_probe::sharpness::{Spectrum, SpectrumConfig};
    ///
    /// let matrix = Tensor::<2>::from_floats([[2.0, 0.0], [0.0, -1.0]], &Device::flex());
    /// let operator = DenseOperator::new(matrix)?;
    /// let config = SpectrumConfig { steps: 2, top: 1, ..SpectrumConfig::default() };
    /// let go_on = || ControlFlow::Continue(());
    /// let found = Spectrum::of(&operator, &config, &mut SeededNoise::new(1, 0), &go_on)?;
    /// assert!((found.trace.value - 1.0).abs() < 1e-5 && (found.highest[0].value - 2.0).abs() < 1e-5);
    /// # Ok::<(), nabla_probe::sharpness::SharpnessError>(())
    /// ```
    pub fn of(
        operator: &impl CurvatureOperator,
        config: &SpectrumConfig,
        noise: &mut SeededNoise,
        before: BeforeProduct<'_>,
    ) -> Result<Self, SharpnessError> {
        config.validate()?;
        let watched = Watched { operator, before };
        let dim = operator.dim();
        let run = LanczosConfig {
            steps: config.steps,
            reorthogonalise: true,
        };
        let mut quadratures: Vec<Quadrature> = Vec::with_capacity(config.runs);
        let mut highest: Vec<Eigenvalue> = Vec::new();
        let mut lowest: Option<Eigenvalue> = None;
        let mut directions = Vec::new();
        let mut products = 0;
        for index in 0..config.runs {
            let start = Probe::Rademacher.draw(dim, noise);
            let tridiagonal = lanczos(&watched, &start, &run)?;
            products += tridiagonal.alpha.len();
            quadratures.push(tridiagonal.quadrature()?);
            let pairs = tridiagonal.ritz_pairs()?;
            let known = |pair: &RitzPair| Eigenvalue {
                value: pair.value,
                residual: pair.residual,
            };
            // A Ritz value is never above the eigenvalue of its rank, so the best run is the one with the highest.
            for (rank, pair) in pairs.iter().rev().take(config.top).enumerate() {
                match highest.get_mut(rank) {
                    Some(before) if before.value >= pair.value => {}
                    Some(before) => *before = known(pair),
                    None => highest.push(known(pair)),
                }
            }
            if let Some(first) = pairs.first()
                && lowest.is_none_or(|before| first.value < before.value)
            {
                lowest = Some(known(first));
            }
            if index == 0 {
                directions = pairs
                    .into_iter()
                    .rev()
                    .take(config.top)
                    .filter_map(|pair| pair.vector)
                    .collect();
            }
        }
        let moment = |power: i32| -> Vec<f64> {
            let moments = quadratures
                .iter()
                .map(|q| dim as f64 * q.integrate(|t| t.powi(power)));
            moments.collect()
        };
        let squared = mean(&moment(2));
        let root = squared.value.sqrt();
        let density = DensityConfig::new().with_points(config.points);
        Ok(Self {
            trace: mean(&moment(1)),
            frobenius: Estimate {
                value: root,
                // d√x = dx / 2√x
                standard_error: squared
                    .standard_error
                    .map(|e| if root > 0.0 { e / (2.0 * root) } else { 0.0 }),
            },
            highest,
            lowest: lowest.ok_or(SpectrumError::Empty)?,
            density: SpectralDensity::of(&quadratures, &density)?,
            products,
            directions,
        })
    }
}

/// The largest number of examples that are computed at once: what a layer passes on to the next is still in the caches.
const PART: usize = 64;

/// Inputs, and their classes.
pub(crate) struct Part {
    pub input: Tensor<2>,
    pub indices: Vec<usize>,
    /// The classes.
    labels: Vec<u32>,
    /// Of the weights, on these examples.
    pieces: Pieces,
}

/// The mean cross-entropy of a classifier on examples, as a function of its weights; see the
/// [module documentation](self). Normalisations by the batch are those of use, by their running statistics, and gradients
/// are those of the [linear piece](Pieces) of the rectified units on which the weights lie.
pub struct ClassifierLoss<'a, M> {
    pub(crate) model: M,
    pub(crate) layout: ParameterLayout,
    examples: TrainingExamples<'a>,
    pub(crate) parts: Vec<Part>,
    count: usize,
}

impl<'a, M: Classifier> ClassifierLoss<'a, M> {
    /// - `model`: on an autodiff device
    /// - `examples`: without changes of the pictures, which would be drawn anew for each loss
    /// - `indices`: of the examples that count
    /// - `double`: whether to compute in `f64`, which takes about twice as long and is exact to ten digits instead of
    ///   about three or four
    ///
    /// # Errors
    /// If there are no examples, or the model has no parameters.
    pub fn new(
        model: M,
        examples: TrainingExamples<'a>,
        indices: &[usize],
        double: bool,
    ) -> Result<Self, SharpnessError> {
        range::within("number of examples", indices.len(), 1..=examples.len())?;
        let mut model = freeze_layers(model);
        let dtype = if double { DType::F64 } else { DType::F32 };
        if double {
            model = with_float_type(model, dtype);
        }
        let layout = ParameterLayout::trainable(&model)?;
        Ok(Self::with_layout(model, layout, dtype, examples, indices))
    }

    fn with_layout(
        model: M,
        layout: ParameterLayout,
        dtype: DType,
        examples: TrainingExamples<'a>,
        indices: &[usize],
    ) -> Self {
        let device = layout.device().clone().autodiff();
        let parts = indices.chunks(PART).map(|indices| {
            let LabelledBatch { input, labels } = examples.chosen(indices, 0, &device);
            let input = input.cast(dtype);
            let (_, pieces) = Pieces::record(|| model.logits(input.clone()));
            Part {
                input,
                indices: indices.to_vec(),
                labels,
                pieces,
            }
        });
        Self {
            parts: parts.collect(),
            count: indices.len(),
            model,
            layout,
            examples,
        }
    }

    /// The same loss of other examples.
    fn of(&self, indices: &[usize]) -> Self {
        let dtype = self.parts[0].input.dtype();
        let (model, layout) = (self.model.clone(), self.layout.clone());
        Self::with_layout(model, layout, dtype, self.examples.clone(), indices)
    }

    fn indices(&self) -> impl Iterator<Item = usize> {
        self.parts
            .iter()
            .flat_map(|part| part.indices.iter().copied())
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        self.layout.total_length()
    }

    /// The number of examples.
    pub fn examples(&self) -> usize {
        self.count
    }

    /// The weights, `[parameters]`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn at(&self) -> Result<Tensor<1>, FlatError> {
        self.layout.flatten_parameters(&self.model)
    }

    /// The mean loss, and the share of right answers.
    ///
    /// # Errors
    /// If a value cannot be read from the device.
    pub fn loss(&self) -> Result<(f64, f64), SharpnessError> {
        let (mut loss, mut right) = (0.0, 0);
        for part in &self.parts {
            let (mean, of_part) = self.of_part(&self.model, part);
            let mean = mean.without_autodiff().try_into_vec_as::<f64>();
            let mean = mean.map_err(|error| CurvatureError::Device(error.to_string()))?;
            loss += mean.iter().sum::<f64>() * part.indices.len() as f64;
            right += of_part;
        }
        let count = self.count as f64;
        Ok((loss / count, right as f64 / count))
    }

    /// Whether each example is answered rightly.
    ///
    /// # Errors
    /// If a score cannot be read from the device.
    pub fn answers(&self) -> Result<Vec<bool>, SharpnessError> {
        let mut right = Vec::with_capacity(self.count);
        for part in &self.parts {
            let highest = self
                .model
                .logits(part.input.clone())
                .without_autodiff()
                .argmax(1);
            let highest = highest.try_into_vec_as::<i64>();
            let highest = highest.map_err(|error| CurvatureError::Device(error.to_string()))?;
            let answers = highest.iter().zip(&part.labels);
            right.extend(answers.map(|(&class, &label)| class == i64::from(label)));
        }
        Ok(right)
    }

    /// Hands the backward passes of all examples, at most `at_once` of them together, to `on`.
    pub(crate) fn for_each_backward<E: From<PerExampleError>>(
        &self,
        at_once: usize,
        mut on: impl FnMut(&ExampleGradients) -> Result<(), E>,
    ) -> Result<(), E> {
        for part in &self.parts {
            for indices in part.indices.chunks(at_once) {
                let mut batch = self.examples.chosen(indices, 0, &part.input.device());
                batch.input = batch.input.cast(part.input.dtype());
                let (loss, _) = self.examples.mean_loss(&self.model, batch);
                on(&backward(loss, indices.len(), Reduction::Mean)?)?;
            }
        }
        Ok(())
    }

    /// The mean loss of a part, `[1]`, and the number of right answers.
    fn of_part(&self, model: &M, part: &Part) -> (Tensor<1>, usize) {
        let batch = LabelledBatch {
            input: part.input.clone(),
            labels: part.labels.clone(),
        };
        self.examples.mean_loss(model, batch)
    }

    fn placed(&self, parameters: &Tensor<1>) -> Result<M, CurvatureError> {
        Ok(self
            .layout
            .with_parameters(self.model.clone(), parameters.clone())?)
    }

    /// The Hessian, by differences of the gradient with a step that is found once, on a few of the examples; see
    /// [`SteadyHessian`].
    ///
    /// # Errors
    /// If the gradient is not finite.
    pub fn hessian(
        &self,
        noise: &mut SeededNoise,
    ) -> Result<SteadyHessian<&Self, Self>, SharpnessError> {
        /// A search takes dozens of gradients.
        const SEARCHED: usize = 32;
        let indices: Vec<usize> = self.indices().collect();
        let few = spread_over(indices.len(), SEARCHED.min(indices.len())).into_iter();
        let few: Vec<usize> = few.map(|place| indices[place]).collect();
        let few = self.of(&few);
        let at = few.at()?;
        SteadyHessian::new(few, at, noise)?.like(self, self.at()?)
    }

    /// The Gauss-Newton matrix.
    ///
    /// # Errors
    /// If the outputs are not finite.
    pub fn gauss_newton(&self) -> Result<GaussNewton<&Self>, SharpnessError> {
        let scale = 1.0 / self.count as f64;
        let config = DifferenceConfig::new();
        Ok(GaussNewton::new(
            self,
            self.at()?,
            OutputLoss::SoftmaxCrossEntropy,
            scale,
            config,
        )?)
    }
}

impl<M: Classifier> GradientField for &ClassifierLoss<'_, M> {
    fn gradient(&self, parameters: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        ClassifierLoss::gradient(self, parameters)
    }
}

impl<M: Classifier> GradientField for ClassifierLoss<'_, M> {
    fn gradient(&self, parameters: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        let model = self.placed(parameters)?;
        let mut sum: Option<Tensor<1>> = None;
        for part in &self.parts {
            let share = part.indices.len() as f64 / self.count as f64;
            let loss = part.pieces.hold(|| self.of_part(&model, part).0);
            let loss = loss.map_err(other_network)?;
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            let gradient = self.layout.flatten_gradients_or_zeros(&gradients)? * share;
            sum = Some(match sum {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
        sum.ok_or(CurvatureError::NoExamples)
    }
}

impl<M: Classifier> OutputFunction for &ClassifierLoss<'_, M> {
    fn outputs(&self, parameters: &Tensor<1>) -> Result<Tensor<2>, CurvatureError> {
        let model = self.placed(parameters)?;
        let scores = self.parts.iter().map(|part| {
            let scores = part.pieces.hold(|| model.logits(part.input.clone()));
            Ok(scores.map_err(other_network)?.without_autodiff())
        });
        let scores = scores.collect::<Result<Vec<_>, CurvatureError>>()?;
        Ok(Tensor::cat(scores, 0))
    }

    fn pull_back(
        &self,
        parameters: &Tensor<1>,
        cotangent: Tensor<2>,
    ) -> Result<Tensor<1>, CurvatureError> {
        let model = self.placed(parameters)?;
        let mut sum: Option<Tensor<1>> = None;
        let mut first = 0;
        for part in &self.parts {
            let rows = part.indices.len();
            let own = cotangent.clone().narrow(0, first, rows).autodiff();
            first += rows;
            let scores = part.pieces.hold(|| model.logits(part.input.clone()));
            let product = (scores.map_err(other_network)? * own).sum();
            let gradients = GradientsParams::from_grads(product.backward(), &model);
            let gradient = self.layout.flatten_gradients_or_zeros(&gradients)?;
            sum = Some(match sum {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
        sum.ok_or(CurvatureError::NoExamples)
    }
}

fn other_network(error: OtherNetwork) -> CurvatureError {
    CurvatureError::Function(Box::new(error))
}

mod steady_hessian;
#[cfg(test)]
mod tests;
