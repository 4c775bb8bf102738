//! Gauge freedom: which part of a diffusion model's field is a gradient, which part does no harm, and what the Jacobian
//! of its flow tells of the data's dimension.
//!
//! A model gives a field `s(x, σ)` for the score `∇ln p_σ(x)` of data with noise, `x = x_0 + σ ε`. In `L²(p_σ)` it
//! splits uniquely into a gradient and a rest that is orthogonal to all gradients:
//!
//! ```text
//! s = ∇φ + r,   φ = argmin E_p‖s − ∇φ‖²,   ∇·r + r·∇ln p = 0   (the gauge condition, ∇·(p r) = 0)
//! ```
//!
//! The probability flow `dx/dσ = −σ s` moves densities by `∇·(p s) = ∇·(p ∇φ)` alone. So it draws from the data exactly,
//! and its densities are exact, if and only if `∇φ = ∇ln p_σ` at all levels, whatever `r` is: a conservative field
//! (`r = 0`) is neither needed nor enough. But where the manifold of the data is read from the Jacobian of the flow, a
//! gauge part distorts the reading, since it shears the flow along the manifold.
//!
//! * **Decomposition**: [`helmholtz`] from samples and a basis; [`linear_decomposition`] of a linear field. The gradient
//!   part isn't the symmetric part of the Jacobian, unless the covariance is a multiple of the identity.
//! * **Measures**: [`asymmetry`] of the Jacobian, and the [`gauge_residual`], which vanishes for a harmless field.
//!   A field without divergence is no gauge field, unless it is tangent to the levels of the density.
//! * **Densities**: [`log_density`], with an exact or estimated [`Divergence`].
//! * **Dimensions**: the singular values of the flow's Jacobian `Y = ∂x_σ/∂x_max` ([`flow_singular_values`]) saturate
//!   along the manifold, at about its extent by `σ_max`, and fall as `σ` across it; [`intrinsic_dimension`] counts them.
//!   From the score alone, [`score_dimension`] counts singular values of `σ² J_s` near 0. `|det Y|` is
//!   `p_max(x_max)/p_σ(x_σ)` with every gauge part.
//! * **Networks**: [energy networks](energy_networks) are conservative by construction, with the input gradient written
//!   out; [`AntisymmetryPenalty`] keeps any other network near to that. Both are trained by [denoising score
//!   matching](ScoreMatching).
//!
//! All that is measured is computed in double precision on the host, from a [`VectorField`]: your own, or a Burn model
//! in a [`TensorField`].
//!
//! **A denoiser on another path** `x = α x_0 + β ε` is such a field, too: with `u = x/α` and `σ = β/α`, its prediction
//! of the noise gives `s(u, σ) = −ε/σ`.
//!
//! Source: Horvat, Pfister, *On gauge freedom, conservativity and intrinsic dimensionality estimation in diffusion
//! models*, 2024, arXiv 2402.03845; for dimensions from the score: Stanczuk, Batzolis, Deveney, Schönlieb, *Your
//! diffusion model secretly knows the dimension of the data manifold*, 2022, arXiv 2212.12611; for the penalty: Chao,
//! Sun, Cheng, Lee, *On Investigating the Conservative Property of Score-Based Generative Models*, 2022, arXiv
//! 2209.12753.

use std::error::Error;

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{dot, squared_norm};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::trace::Probe;

mod dimension;
pub mod energy_networks;
mod exact_scores;
mod flow;
mod graded;
mod helmholtz;
mod score_matching;
mod vector_field;

pub use dimension::{
    Criterion, along, intrinsic_dimension, median_neighbour_distance, score_dimension, two_nn,
};
pub use exact_scores::{GaussianMixtureScore, MixtureComponent, SphereScore};
pub use flow::{
    Directions, Divergence, FlowGrid, FlowJacobian, FlowSpectrum, flow_samples,
    flow_singular_values, jacobian_singular_values, log_density, normal_log_density,
    score_singular_values,
};
pub use helmholtz::{
    Basis, Decomposition, Monomials, RadialBasis, helmholtz, linear_decomposition,
};
pub use score_matching::{
    AntisymmetryPenalty, NoisyPoints, ScoreMatching, ScoreMatchingConfig, matching_loss,
    score_field,
};
pub use vector_field::{Derivatives, Gauged, HostField, TensorField, VectorField, jacobians};

/// The reason why nothing can be told of a field.
#[derive(Debug, thiserror::Error)]
pub enum GaugeError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The values are no points.
    #[error("{values} values are no points of {dimension} numbers")]
    Points {
        /// How many values.
        values: usize,
        /// The numbers of a point.
        dimension: usize,
    },
    /// The values are not some directions at each point.
    #[error(
        "{values} values are not equally many directions of {dimension} numbers at {points} points"
    )]
    Directions {
        /// How many values.
        values: usize,
        /// How many points.
        points: usize,
        /// The numbers of a point.
        dimension: usize,
    },
    /// A matrix is not square, or of another size.
    #[error("the {what} has {values} entries, but it must be a square matrix of {dimension} rows")]
    Matrix {
        /// Which matrix.
        what: &'static str,
        /// How many entries.
        values: usize,
        /// How many rows it must have.
        dimension: usize,
    },
    /// A field gives vectors of another size than its points, so its Jacobian is not square.
    #[error(
        "the field gives {values} numbers at a point of {expected}, so its Jacobian is not square"
    )]
    Output {
        /// The numbers that it gives.
        values: usize,
        /// The numbers of a point.
        expected: usize,
    },
    /// Two things belong to different spaces.
    #[error("the score is of {score} numbers at a point, but the field of {field}")]
    OtherSpace {
        /// Of the score.
        score: usize,
        /// Of the field.
        field: usize,
    },
    /// The Gram matrix has no inverse.
    #[error(
        "the gradients of the {functions} functions depend on one another on {samples} samples: take fewer functions, \
         more samples or a ridge"
    )]
    SingularGram {
        /// How many functions.
        functions: usize,
        /// How many samples.
        samples: usize,
    },
    /// There are too few levels.
    #[error("a dimension needs at least two levels of the flow, but there are {0}")]
    NoLevels(usize),
    /// The flow has left the numbers.
    #[error("the field is not finite at noise level {sigma}")]
    NotFinite {
        /// The level.
        sigma: f64,
    },
    /// The eigenvalues were not found.
    #[error("the eigenvalues of a matrix of {0} rows were not found")]
    NoConvergence(usize),
    /// The device computes no gradients.
    #[error("the field has to be on an autodiff device to be differentiated by backward passes")]
    NoGradients,
    /// The field's own error.
    #[error(transparent)]
    Field(Box<dyn Error + Send + Sync>),
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// From which products an asymmetry is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probes {
    /// The whole Jacobian.
    All,
    /// Products with random vectors on both sides.
    Random {
        /// How many at each point, at least 1.
        count: usize,
        /// The seed.
        seed: u64,
    },
}

/// How far the Jacobian is from symmetric, over all points: `√(E‖J − Jᵀ‖² / E‖J‖²)` in Frobenius norms; 0 for a
/// gradient, 2 for an antisymmetric Jacobian. 0 also where the field is constant.
///
/// - `x`: `[points, dimension]`
///
/// # Errors
/// If the field fails, the shapes don't fit, or there is no probe.
///
/// ```
/// use nabla_probe::gauge_freedom::{HostField, Probes, asymmetry};
///
/// let whirl = HostField::new(2, |x: &[f64], _| vec![-x[1], x[0]]);
/// let found = asymmetry(&whirl, &[0.1, 0.2], 1.0, Probes::All)?;
/// assert!((found - 2.0).abs() < 1e-9);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
pub fn asymmetry<F: VectorField + ?Sized>(
    field: &F,
    x: &[f64],
    sigma: f64,
    probes: Probes,
) -> Result<f64, GaugeError> {
    let d = field.dimension();
    let (antisymmetric, whole) = match probes {
        Probes::All => {
            return Ok(jacobian_asymmetry(&jacobians(field, x, sigma)?, d));
        }
        Probes::Random { count, seed } => {
            range::at_least("number of probes", count, 1)?;
            let vectors = Probe::Gaussian.draw(x.len() * count, &mut SeededNoise::new(seed, 0));
            let products = field.products(x, &vectors, sigma)?; // J v
            let transposed = field.transposed_products(x, &vectors, sigma)?; // Jᵀ v
            let across = products.iter().zip(&transposed);
            (
                across.map(|(a, b)| (a - b) * (a - b)).sum(),
                squared_norm(&products),
            )
        }
    };
    Ok(root_share(antisymmetric, whole))
}

/// [`asymmetry`] of Jacobians that are known, `[points, dimension, dimension]`.
pub fn jacobian_asymmetry(jacobians: &[f64], dimension: usize) -> f64 {
    let d = dimension;
    let across = jacobians.chunks(d * d).flat_map(|jacobian| {
        let entry = move |i: usize| jacobian[i] - jacobian[(i % d) * d + i / d];
        (0..d * d).map(move |i| entry(i).powi(2))
    });
    root_share(across.sum(), squared_norm(jacobians))
}

/// `√(part/whole)`, and 0 of nothing.
fn root_share(part: f64, whole: f64) -> f64 {
    match whole > 0.0 {
        true => (part / whole).sqrt(),
        false => 0.0,
    }
}

/// How far a field is from the score plus a gauge field: `√E_p[(∇·r + r·∇ln p)²]` of `r = s − ∇ln p`.
///
/// - `score`: `∇ln p_σ`
/// - `x`: samples of `p_σ`, `[points, dimension]`
///
/// # Errors
/// If a field fails, the shapes don't fit, or there is no probe.
///
/// ```
/// use nabla_probe::gauge_freedom::{
///     Divergence, Gauged, GaussianMixtureScore, MixtureComponent, gauge_residual,
/// };
///
/// let parts = [-1.0, 1.0].map(|place| MixtureComponent::isotropic(1.0, vec![place, 0.5], 0.3));
/// let score = GaussianMixtureScore::new(parts.to_vec())?;
/// let field = Gauged::new(score.clone(), &[0.0, 3.0, -3.0, 0.0])?;
/// let found = gauge_residual(&field, &score, &[0.7, 0.2], 0.5, Divergence::Exact)?;
/// assert!(found < 1e-12);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
pub fn gauge_residual<F: VectorField + ?Sized, S: VectorField + ?Sized>(
    field: &F,
    score: &S,
    x: &[f64],
    sigma: f64,
    divergence: Divergence,
) -> Result<f64, GaugeError> {
    let d = field.dimension();
    if score.dimension() != d {
        return Err(GaugeError::OtherSpace {
            score: score.dimension(),
            field: d,
        });
    }
    let (whole, gradient) = (field.eval(x, sigma)?, score.eval(x, sigma)?);
    let [of_field, of_score] = [
        divergence.of(field, x, sigma)?,
        divergence.of(score, x, sigma)?,
    ];
    let mut sum = 0.0;
    let each = whole.chunks(d).zip(gradient.chunks(d));
    for ((s, gradient), (a, b)) in each.zip(of_field.iter().zip(&of_score)) {
        let across = dot(s, gradient) - squared_norm(gradient); // r·∇ln p
        sum += (a - b + across).powi(2);
    }
    Ok((sum / of_field.len() as f64).sqrt())
}

#[cfg(test)]
mod tests;
