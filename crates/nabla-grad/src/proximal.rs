//! Proximal operators and projections.
//!
//! The proximal operator of a convex function `f` is an implicit step against `f` that needs no gradient:
//!
//! ```text
//! prox_{τf}(x) = argmin_p  f(p) + ‖p − x‖² / (2τ)
//! ```
//!
//! It handles penalties without a derivative at the points that matter (sparsity, low rank), and constraints.
//! For the indicator of a closed convex set, which is 0 inside and ∞ outside, it is the projection onto the
//! set, whatever `τ`.
//!
//! | Function | `f(x)` | `prox_{τf}(x)` |
//! |---|---|---|
//! | [`L1`] | `w ‖x‖₁` | `sign(x) max(\|x\| − τw, 0)` |
//! | [`SquaredL2`] | `w/2 ‖x‖²` | `x / (1 + τw)` |
//! | [`ElasticNet`] | `w₁ ‖x‖₁ + w₂/2 ‖x‖²` | soft threshold at `τw₁`, then `/ (1 + τw₂)` |
//! | [`GroupL2`] | `w Σ_g ‖x_g‖` | `x_g max(1 − τw / ‖x_g‖, 0)` |
//! | [`NuclearNorm`] | `w Σ σ_i(X)` | `U diag(max(σ − τw, 0)) Vᵀ` |
//! | [`L2Ball`] | `‖x‖ ≤ r` | `x min(1, r / ‖x‖)` |
//! | [`L1Ball`] | `‖x‖₁ ≤ r` | soft threshold at the `θ` that leaves `‖p‖₁ = r` |
//! | [`LInfBall`] | `max \|x\| ≤ r` | `clamp(x, −r, r)` |
//! | [`BoxConstraint`] | `low ≤ x ≤ high` | `clamp(x, low, high)` |
//! | [`Simplex`] | `x ≥ 0, Σx = s` | `max(x − θ, 0)` with the `θ` that leaves the sum `s` |
//!
//! A norm's conjugate is the indicator of the dual norm's ball, and [`Proximal::prox_conjugate`] computes the
//! operator of the conjugate by Moreau's decomposition:
//!
//! ```text
//! x = prox_{τf}(x) + τ prox_{f*/τ}(x / τ)
//! ```
//!
//! The nuclear norm's singular values and the thresholds of the ℓ₁ ball and the simplex are computed on the
//! host, in f64, and the result is detached from the graph. All other operators run on the device.
//!
//! Sources: Parikh, Boyd, *Proximal Algorithms*, Foundations and Trends in Optimization, 2014,
//! chapter 6; Moreau, *Proximité et dualité dans un espace hilbertien*, 1965; Duchi,
//! Shalev-Shwartz, Singer, Chandra, *Efficient Projections onto the ℓ₁-Ball for Learning in High
//! Dimensions*, ICML 2008, figure 1 (the exact thresholds); Cai, Candès, Shen, *A Singular Value
//! Thresholding Algorithm for Matrix Completion*, 2010, theorem 2.1; Zou, Hastie, *Regularization
//! and Variable Selection via the Elastic Net*, 2005; Yuan, Lin, *Model Selection and Estimation in
//! Regression with Grouped Variables*, 2006.

use burn::tensor::{Tensor, TensorData};
use faer::Mat;
use faer::diag::Diag;

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector;

use crate::decomposition::Views;

/// The reason why a proximal operator cannot be created or applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProximalError {
    /// A weight, a radius or the step is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The bounds of a box are out of order, or leave no finite number.
    #[error("the low bound of a box must be at most the high bound, but they are {low} and {high}")]
    Bounds {
        /// The low bound.
        low: f64,
        /// The high bound.
        high: f64,
    },
    /// The tensor has no such dimension.
    #[error("the dimension of the groups must be less than the rank {rank}, but it is {dim}")]
    Dim {
        /// The dimension.
        dim: usize,
        /// The rank.
        rank: usize,
    },
    /// The tensor has no elements.
    #[error("the tensor must have at least one element, but its shape is {0:?}")]
    Empty(Vec<usize>),
    /// An element is infinite or not a number, and the operator has to compare all elements.
    #[error("the tensor must be finite, but element {index} in row-major order is {value}")]
    NotFinite {
        /// Its position.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// The singular value decomposition did not converge.
    #[error("the singular value decomposition of a {rows} × {columns} matrix did not converge")]
    SingularValues {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
    /// A value cannot be read back from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// A convex function with a proximal operator, for tensors of rank `D`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::proximal::{L1, Proximal};
///
/// let sparse = L1::new(2.0)?;
/// let x = Tensor::<1>::from_floats([3.0, -0.5, -4.0], &Device::flex());
/// assert_eq!(sparse.value(&x)?, 15.0);
/// let x = sparse.prox(x, 0.5)?; // Threshold 0.5 · 2.
/// assert_eq!(x.into_data().try_to_vec::<f32>()?, [2.0, 0.0, -3.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Proximal<const D: usize> {
    /// `prox_{τf}(x)` with `τ = step`, in the shape of `x`. For a constraint, the projection of `x`
    /// onto it, whatever the step.
    ///
    /// # Errors
    /// If the step is not positive and finite, or the function does not support the tensor.
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError>;

    /// `f(x)`, summed in f64. For a constraint it is 0 inside and ∞ outside; a distance of up to 10⁻⁵ times
    /// the size of the set counts as inside, since projections round.
    ///
    /// # Errors
    /// If the function does not support the tensor, or the tensor cannot be read.
    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError>;

    /// `prox_{τf*}(x)` of the convex conjugate `f*`, with `τ = step`, by Moreau's decomposition:
    /// `x − τ prox_{f/τ}(x / τ)`. Primal-dual methods step with it.
    ///
    /// # Errors
    /// As [`prox`](Self::prox).
    fn prox_conjugate(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError> {
        range::positive("step", step)?;
        Ok(x.clone() - self.prox(x / step, 1.0 / step)? * step)
    }
}

/// The distance from a set, relative to its size, up to which a point counts as inside.
const ROUNDING: f64 = 1e-5;

/// `w ‖x‖₁`: sparsity. Its proximal operator is the soft threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L1 {
    weight: f64,
}

impl L1 {
    /// With weight `w ≥ 0`.
    ///
    /// # Errors
    /// If the weight is negative or not finite.
    pub fn new(weight: f64) -> Result<Self, ProximalError> {
        range::not_negative("weight", weight)?;
        Ok(Self { weight })
    }
}

impl<const D: usize> Proximal<D> for L1 {
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError> {
        range::positive("step", step)?;
        Ok(soft_threshold(x, step * self.weight))
    }

    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError> {
        Ok(self.weight * one_norm(&host(x)?))
    }
}

/// `w/2 ‖x‖²`: weight decay, as an implicit step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SquaredL2 {
    weight: f64,
}

impl SquaredL2 {
    /// With weight `w ≥ 0`.
    ///
    /// # Errors
    /// If the weight is negative or not finite.
    pub fn new(weight: f64) -> Result<Self, ProximalError> {
        range::not_negative("weight", weight)?;
        Ok(Self { weight })
    }
}

impl<const D: usize> Proximal<D> for SquaredL2 {
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError> {
        range::positive("step", step)?;
        Ok(x / (1.0 + step * self.weight))
    }

    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError> {
        Ok(0.5 * self.weight * vector::norm(&host(x)?).powi(2))
    }
}

/// `w₁ ‖x‖₁ + w₂/2 ‖x‖²`: sparsity that keeps correlated elements together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ElasticNet {
    l1: f64,
    l2: f64,
}

impl ElasticNet {
    /// With weights `w₁ ≥ 0` of the 1-norm and `w₂ ≥ 0` of half the squared 2-norm.
    ///
    /// # Errors
    /// If a weight is negative or not finite.
    pub fn new(l1: f64, l2: f64) -> Result<Self, ProximalError> {
        range::not_negative("weight of the 1-norm", l1)?;
        range::not_negative("weight of the squared 2-norm", l2)?;
        Ok(Self { l1, l2 })
    }
}

impl<const D: usize> Proximal<D> for ElasticNet {
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError> {
        range::positive("step", step)?;
        Ok(soft_threshold(x, step * self.l1) / (1.0 + step * self.l2))
    }

    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError> {
        let x = host(x)?;
        Ok(self.l1 * one_norm(&x) + 0.5 * self.l2 * vector::norm(&x).powi(2))
    }
}

/// `w Σ_g ‖x_g‖`: either all elements of a group are zero or none (group lasso). With
/// [`Views::Whole`] it is the 2-norm itself, with `Views::Each(dim)` each index of the dimension is
/// a group: `Each(0)` of a weight `[outputs, inputs]` drops whole outputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupL2 {
    weight: f64,
    groups: Views,
}

impl GroupL2 {
    /// With weight `w ≥ 0`.
    ///
    /// # Errors
    /// If the weight is negative or not finite.
    pub fn new(weight: f64, groups: Views) -> Result<Self, ProximalError> {
        range::not_negative("weight", weight)?;
        Ok(Self { weight, groups })
    }

    /// The dimensions of one group.
    fn dims<const D: usize>(&self, x: &Tensor<D>) -> Result<Vec<usize>, ProximalError> {
        not_empty(x)?;
        match self.groups {
            Views::Each(dim) if dim >= D => Err(ProximalError::Dim { dim, rank: D }),
            Views::Each(each) => Ok((0..D).filter(|&dim| dim != each).collect()),
            Views::Whole => Ok((0..D).collect()),
        }
    }
}

impl<const D: usize> Proximal<D> for GroupL2 {
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError> {
        range::positive("step", step)?;
        let threshold = step * self.weight;
        // One norm per group, [1, …, groups, …, 1]. Within the threshold the factor is exactly 1, and nothing
        // is left of the group.
        let norms = norms(x.clone(), &self.dims(&x)?);
        Ok(x * (-share(threshold, norms) + 1.0))
    }

    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError> {
        let norms = host(&norms(x.clone(), &self.dims(x)?))?;
        Ok(self.weight * one_norm(&norms))
    }
}

/// `w Σ σ_i(X)`, the sum of the singular values of a matrix `[rows, columns]`: low rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NuclearNorm {
    weight: f64,
}

impl NuclearNorm {
    /// With weight `w ≥ 0`.
    ///
    /// # Errors
    /// If the weight is negative or not finite.
    pub fn new(weight: f64) -> Result<Self, ProximalError> {
        range::not_negative("weight", weight)?;
        Ok(Self { weight })
    }
}

/// A matrix on the host.
fn matrix(x: &Tensor<2>) -> Result<Mat<f64>, ProximalError> {
    not_empty(x)?;
    let [rows, columns] = x.dims();
    let values = finite(host(x)?)?;
    Ok(Mat::from_fn(rows, columns, |i, j| values[i * columns + j]))
}

impl Proximal<2> for NuclearNorm {
    fn prox(&self, x: Tensor<2>, step: f64) -> Result<Tensor<2>, ProximalError> {
        range::positive("step", step)?;
        let threshold = step * self.weight;
        let [rows, columns] = x.dims();
        let svd = matrix(&x)?
            .thin_svd()
            .map_err(|_| ProximalError::SingularValues { rows, columns })?;
        // X = U diag(σ) Vᵀ, with σ: [min(rows, columns)].
        let mut singular = Diag::<f64>::zeros(rows.min(columns));
        for (to, from) in singular
            .column_vector_mut()
            .iter_mut()
            .zip(svd.S().column_vector().iter())
        {
            *to = (from - threshold).max(0.0);
        }
        let kept = svd.U() * singular * svd.V().transpose(); // [rows, columns]
        let values = (0..rows * columns).map(|i| kept[(i / columns, i % columns)]);
        Ok(device_like(values.collect(), &x))
    }

    fn value(&self, x: &Tensor<2>) -> Result<f64, ProximalError> {
        let [rows, columns] = x.dims();
        let singular = matrix(x)?
            .singular_values()
            .map_err(|_| ProximalError::SingularValues { rows, columns })?;
        Ok(self.weight * singular.into_iter().sum::<f64>())
    }
}

/// `‖x‖ ≤ r`: the norm of all elements is bounded, as in gradient clipping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L2Ball {
    radius: f64,
}

impl L2Ball {
    /// With radius `r > 0`.
    ///
    /// # Errors
    /// If the radius is not positive and finite.
    pub fn new(radius: f64) -> Result<Self, ProximalError> {
        range::positive("radius", radius)?;
        Ok(Self { radius })
    }
}

impl<const D: usize> Proximal<D> for L2Ball {
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError> {
        range::positive("step", step)?;
        not_empty(&x)?;
        let dims: Vec<usize> = (0..D).collect();
        // A point inside stays, bit for bit.
        let norm = norms(x.clone(), &dims); // [1, …, 1]
        Ok(x * share(self.radius, norm))
    }

    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError> {
        let norm = vector::norm(&host(x)?);
        Ok(indicator(norm <= self.radius * (1.0 + ROUNDING)))
    }
}

/// `‖x‖₁ ≤ r`: a constraint that favours sparsity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct L1Ball {
    radius: f64,
}

impl L1Ball {
    /// With radius `r > 0`.
    ///
    /// # Errors
    /// If the radius is not positive and finite.
    pub fn new(radius: f64) -> Result<Self, ProximalError> {
        range::positive("radius", radius)?;
        Ok(Self { radius })
    }
}

impl<const D: usize> Proximal<D> for L1Ball {
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError> {
        range::positive("step", step)?;
        not_empty(&x)?;
        let values = finite(host(&x)?)?;
        if one_norm(&values) <= self.radius {
            return Ok(x);
        }
        let magnitudes = values.iter().map(|value| value.abs()).collect();
        let threshold = simplex_threshold(magnitudes, self.radius);
        let projected = values
            .iter()
            .map(|value| threshold.excess(value.abs()).copysign(*value));
        Ok(device_like(projected.collect(), &x))
    }

    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError> {
        let norm = one_norm(&host(x)?);
        Ok(indicator(norm <= self.radius * (1.0 + ROUNDING)))
    }
}

/// `max |x| ≤ r`: every element is bounded, as in attacks and clipping by value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LInfBall {
    radius: f64,
}

impl LInfBall {
    /// With radius `r > 0`.
    ///
    /// # Errors
    /// If the radius is not positive and finite.
    pub fn new(radius: f64) -> Result<Self, ProximalError> {
        range::positive("radius", radius)?;
        Ok(Self { radius })
    }
}

impl<const D: usize> Proximal<D> for LInfBall {
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError> {
        range::positive("step", step)?;
        Ok(x.clamp(-self.radius, self.radius))
    }

    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError> {
        let bound = self.radius * (1.0 + ROUNDING);
        Ok(indicator(host(x)?.iter().all(|value| value.abs() <= bound)))
    }
}

/// `low ≤ x ≤ high`, element by element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxConstraint {
    low: f64,
    high: f64,
}

impl BoxConstraint {
    /// Creates the constraint with these bounds; an infinite bound has no effect.
    ///
    /// # Errors
    /// If the low bound is not at most the high bound, or the bounds leave no finite number.
    pub fn new(low: f64, high: f64) -> Result<Self, ProximalError> {
        // Also false for a NaN.
        if low <= high && low < f64::INFINITY && high > f64::NEG_INFINITY {
            Ok(Self { low, high })
        } else {
            Err(ProximalError::Bounds { low, high })
        }
    }
}

impl<const D: usize> Proximal<D> for BoxConstraint {
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError> {
        range::positive("step", step)?;
        Ok(x.clamp(self.low, self.high))
    }

    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError> {
        // Rounding is relative to the bound at which a point lies.
        let low = self.low - ROUNDING * self.low.abs();
        let high = self.high + ROUNDING * self.high.abs();
        let inside = |value: &f64| (low..=high).contains(value);
        Ok(indicator(host(x)?.iter().all(inside)))
    }
}

/// `x ≥ 0, Σx = s`: shares, such as the weights of a mixture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Simplex {
    sum: f64,
}

impl Simplex {
    /// Creates the constraint with sum `s > 0`, which is 1 for the probability simplex.
    ///
    /// # Errors
    /// If the sum is not positive and finite.
    pub fn new(sum: f64) -> Result<Self, ProximalError> {
        range::positive("sum", sum)?;
        Ok(Self { sum })
    }
}

impl<const D: usize> Proximal<D> for Simplex {
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError> {
        range::positive("step", step)?;
        not_empty(&x)?;
        let values = finite(host(&x)?)?;
        let threshold = simplex_threshold(values.clone(), self.sum);
        let projected = values.iter().map(|&value| threshold.excess(value));
        Ok(device_like(projected.collect(), &x))
    }

    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError> {
        let values = host(x)?;
        let rounding = ROUNDING * self.sum;
        let sum: f64 = values.iter().sum();
        let inside = (sum - self.sum).abs() <= rounding;
        Ok(indicator(
            inside && values.iter().all(|&value| value >= -rounding),
        ))
    }
}

/// The `θ` with `Σ max(u − θ, 0) = sum`, exactly, of at least one `u` and a positive sum. Duchi et al.,
/// figure 1: with `u` in descending order and
///
/// ```text
/// ρ = max { j : u_j − (Σ_{r≤j} u_r − sum) / j > 0 },   θ = (Σ_{r≤ρ} u_r − sum) / ρ
/// ```
fn simplex_threshold(mut u: Vec<f64>, sum: f64) -> Threshold {
    u.sort_unstable_by(|a, b| b.total_cmp(a));
    let largest = u[0];
    let mut excess = -sum;
    let mut threshold = -sum;
    for (j, u) in (1_u32..).zip(&u) {
        let below = u - largest;
        excess += below;
        let candidate = excess / f64::from(j);
        // The elements descend: once one is below the threshold, all later ones are.
        if below <= candidate {
            break;
        }
        threshold = candidate;
    }
    Threshold {
        largest,
        difference: threshold,
    }
}

/// `θ` as the difference to the largest element, so that a sum far smaller than the elements is not rounded
/// away.
struct Threshold {
    largest: f64,
    difference: f64,
}

impl Threshold {
    /// `max(u − θ, 0)`.
    fn excess(&self, u: f64) -> f64 {
        (u - self.largest - self.difference).max(0.0)
    }
}

/// `sign(x) max(|x| − t, 0)`, as `x − clamp(x, −t, t)`.
fn soft_threshold<const D: usize>(x: Tensor<D>, threshold: f64) -> Tensor<D> {
    x.clone() - x.clamp(-threshold, threshold)
}

/// 2-norms over `dims`, which stay as dimensions of size 1. Scaled by the largest magnitudes, so
/// that squares neither overflow nor vanish.
fn norms<const D: usize>(x: Tensor<D>, dims: &[usize]) -> Tensor<D> {
    let largest = x.clone().detach().max_abs_dims(dims);
    let zeros = largest.clone().equal_elem(0.0);
    let largest = largest.mask_fill(zeros, 1.0);
    (x / largest.clone()).square().sum_dims(dims).sqrt() * largest
}

/// `bound / max(norm, bound)`: exactly 1 up to the bound. Shapes: as `norms`.
fn share<const D: usize>(bound: f64, norms: Tensor<D>) -> Tensor<D> {
    let norms = norms.clamp_min(bound);
    // If the bound is 0 in the element type.
    let zeros = norms.clone().equal_elem(0.0);
    let norms = norms.mask_fill(zeros, 1.0);
    norms.full_like(bound) / norms
}

fn not_empty<const D: usize>(x: &Tensor<D>) -> Result<(), ProximalError> {
    let dims = x.dims();
    if dims.contains(&0) {
        return Err(ProximalError::Empty(dims.into()));
    }
    Ok(())
}

/// The elements in row-major order, in f64.
fn host<const D: usize>(x: &Tensor<D>) -> Result<Vec<f64>, ProximalError> {
    x.try_to_vec_as::<f64>()
        .map_err(|error| ProximalError::Device(error.to_string()))
}

fn finite(values: Vec<f64>) -> Result<Vec<f64>, ProximalError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(ProximalError::NotFinite {
            index,
            value: values[index],
        }),
        None => Ok(values),
    }
}

/// Values in the shape, the element type and on the device of a tensor.
fn device_like<const D: usize>(values: Vec<f64>, like: &Tensor<D>) -> Tensor<D> {
    let data = TensorData::new(values, like.dims());
    Tensor::from_data(data, (&like.device(), like.dtype()))
}

fn one_norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value.abs()).sum()
}

fn indicator(inside: bool) -> f64 {
    if inside { 0.0 } else { f64::INFINITY }
}

#[cfg(test)]
mod tests;
