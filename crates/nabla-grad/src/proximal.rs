//! Proximal operators and projections.
//!
//! The proximal operator of a convex function `f` is a gradient step that needs no gradient:
//!
//! ```text
//! prox_{τf}(x) = argmin_p  f(p) + ‖p − x‖² / (2τ)
//! ```
//!
//! It steps against penalties that have no derivative where it matters (sparsity, low rank), and
//! onto constraints: for the indicator of a closed convex set, 0 inside and ∞ outside, it is the
//! projection onto the set, whatever `τ`.
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
//! A norm's conjugate is the indicator of the dual norm's ball, and [`Proximal::prox_conjugate`]
//! gets the one from the other by Moreau's decomposition:
//!
//! ```text
//! x = prox_{τf}(x) + τ prox_{f*/τ}(x / τ)
//! ```
//!
//! The nuclear norm's singular values and the thresholds of the ℓ₁ ball and the simplex are found on
//! the host, in f64; their result is cut off the graph. All others are operations of the device.
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

use crate::decomposition::Views;

/// Why a proximal operator cannot be made or applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProximalError {
    /// A weight, a radius or the step out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The bounds of a box.
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
    /// A tensor without elements.
    #[error("the tensor must have at least one element, but its shape is {0:?}")]
    Empty(Vec<usize>),
    /// An element that is infinite or not a number, where the operator has to compare all.
    #[error("the tensor must be finite, but element {index} in row-major order is {value}")]
    NotFinite {
        /// Its place.
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
    /// If the step is not positive and finite, or the tensor is of a kind that the function is not
    /// made for.
    fn prox(&self, x: Tensor<D>, step: f64) -> Result<Tensor<D>, ProximalError>;

    /// `f(x)`, summed in f64. For a constraint 0 inside and ∞ outside, where up to 10⁻⁵ times the
    /// size of the set counts as inside: projections round.
    ///
    /// # Errors
    /// If the tensor is of a kind that the function is not made for, or cannot be read.
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

/// Share of its size by which a point may be outside of a set and count as inside.
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
        Ok(0.5 * self.weight * two_norm(&host(x)?).powi(2))
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
        Ok(self.l1 * one_norm(&x) + 0.5 * self.l2 * two_norm(&x).powi(2))
    }
}

/// `w Σ_g ‖x_g‖`: whole groups of elements are zero or none (group lasso). With
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
        // One norm per group, [1, …, groups, …, 1]. Inside of the threshold the share is exactly 1,
        // and nothing is left of the group.
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
        // A point inside stays, bit by bit.
        let norm = norms(x.clone(), &dims); // [1, …, 1]
        Ok(x * share(self.radius, norm))
    }

    fn value(&self, x: &Tensor<D>) -> Result<f64, ProximalError> {
        let norm = two_norm(&host(x)?);
        Ok(indicator(norm <= self.radius * (1.0 + ROUNDING)))
    }
}

/// `‖x‖₁ ≤ r`: the sparse constraint.
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
    /// With these bounds; an infinite one bounds nothing.
    ///
    /// # Errors
    /// If the low bound is not at most the high bound, or leaves no finite number.
    pub fn new(low: f64, high: f64) -> Result<Self, ProximalError> {
        // False too for what is not a number.
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
        // Rounding is relative to the bound that a point was put on.
        let low = self.low - ROUNDING * self.low.abs();
        let high = self.high + ROUNDING * self.high.abs();
        let inside = |value: &f64| (low..=high).contains(value);
        Ok(indicator(host(x)?.iter().all(inside)))
    }
}

/// `x ≥ 0, Σx = s`: shares, as the weights of a mixture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Simplex {
    sum: f64,
}

impl Simplex {
    /// With sum `s > 0`; the probability simplex has 1.
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

/// The `θ` with `Σ max(u − θ, 0) = sum`, exactly, of at least one `u` and a positive sum. Duchi et
/// al., figure 1: with `u` in falling order and
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
        // The elements fall: once one is under the threshold, all further are.
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

/// `θ`, as its difference to the largest element: a sum that is far smaller than the elements is not
/// rounded away.
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
    // Where the bound is 0 for the element type.
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

fn two_norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn indicator(inside: bool) -> f64 {
    if inside { 0.0 } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device};
    use proptest::prelude::*;
    use serde_json::Value;

    use crate::seeded_noise::SeededNoise;

    fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(values.to_vec(), shape);
        Tensor::from_data(data, (&Device::flex(), DType::F32))
    }

    fn vector(values: &[f64]) -> Tensor<1> {
        tensor(values, [values.len()])
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
        a.iter().zip(b).map(|(a, b)| a - b).collect()
    }

    /// All operators, on matrices.
    fn operators() -> Vec<(&'static str, Box<dyn Proximal<2>>)> {
        vec![
            ("l1", Box::new(L1::new(0.7).unwrap())),
            ("squared_l2", Box::new(SquaredL2::new(0.7).unwrap())),
            ("elastic_net", Box::new(ElasticNet::new(0.7, 1.3).unwrap())),
            ("l2", Box::new(GroupL2::new(2.5, Views::Whole).unwrap())),
            (
                "l2_inside",
                Box::new(GroupL2::new(25.0, Views::Whole).unwrap()),
            ),
            (
                "group_columns",
                Box::new(GroupL2::new(1.5, Views::Each(1)).unwrap()),
            ),
            ("nuclear", Box::new(NuclearNorm::new(2.0).unwrap())),
            ("l2_ball", Box::new(L2Ball::new(2.0).unwrap())),
            ("l1_ball", Box::new(L1Ball::new(6.0).unwrap())),
            ("linf_ball", Box::new(LInfBall::new(0.6).unwrap())),
            ("box", Box::new(BoxConstraint::new(-0.25, 1.5).unwrap())),
            ("simplex", Box::new(Simplex::new(2.0).unwrap())),
        ]
    }

    #[test]
    fn values_are_those_of_pyproximal() {
        let reference: Value =
            serde_json::from_str(include_str!("../tests/reference/proximal_reference.json"))
                .unwrap();
        let numbers = |value: &Value| -> Vec<f64> {
            let values = value.as_array().unwrap().iter();
            values.map(|v| v.as_f64().unwrap()).collect()
        };
        let x = tensor(&numbers(&reference["x"]), [5, 7]);
        let mut compared = 0;
        for (name, operator) in operators() {
            let expected = &reference["prox"][name];
            let found = operator
                .prox(x.clone(), expected["step"].as_f64().unwrap())
                .unwrap();
            assert_eq!(found.dims(), [5, 7]);
            let found = host(&found).unwrap();
            let expected = numbers(&expected["result"]);
            assert_eq!(found.len(), expected.len());
            for (index, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{name}, {index}: {found} {expected}"
                );
            }
            if let Some(expected) = reference["value"][name].as_f64() {
                let found = operator.value(&x).unwrap();
                assert!((found / expected - 1.0).abs() < 1e-6, "{name}: {found}");
                compared += 1;
            }
        }
        assert_eq!(
            reference["prox"].as_object().unwrap().len(),
            operators().len()
        );
        assert_eq!(compared, reference["value"].as_object().unwrap().len());
    }

    #[test]
    fn closed_forms() {
        let values = |x: Tensor<1>| x.into_data().try_to_vec::<f32>().unwrap();
        let x = || vector(&[3.0, -0.5, 0.0, -4.0]);
        let soft = L1::new(2.0).unwrap().prox(x(), 0.5).unwrap();
        assert_eq!(values(soft), [2.0, 0.0, 0.0, -3.0]);
        let shrunk = SquaredL2::new(2.0).unwrap().prox(x(), 0.5).unwrap();
        assert_eq!(values(shrunk), [1.5, -0.25, 0.0, -2.0]);
        let elastic = ElasticNet::new(2.0, 2.0).unwrap().prox(x(), 0.5).unwrap();
        assert_eq!(values(elastic), [1.0, 0.0, 0.0, -1.5]);
        // ‖(3, 4)‖ = 5.
        let rows = tensor(&[3.0, 4.0, 0.3, 0.4, 0.0, 0.0], [3, 2]);
        let rows = GroupL2::new(1.0, Views::Each(0)).unwrap().prox(rows, 1.0);
        let rows = rows.unwrap().reshape([6]);
        for (found, expected) in values(rows).into_iter().zip([2.4, 3.2, 0.0, 0.0, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let ball = L2Ball::new(2.5).unwrap().prox(vector(&[3.0, -4.0]), 1.0);
        assert_eq!(values(ball.unwrap()), [1.5, -2.0]);
        let ball = L1Ball::new(3.0).unwrap().prox(x(), 1.0);
        assert_eq!(values(ball.unwrap()), [1.0, 0.0, 0.0, -2.0]);
        let shares = Simplex::new(1.0).unwrap().prox(x(), 1.0);
        assert_eq!(values(shares.unwrap()), [1.0, 0.0, 0.0, 0.0]);
        let even = Simplex::new(1.0).unwrap().prox(vector(&[-7.0; 4]), 1.0);
        assert_eq!(values(even.unwrap()), [0.25; 4]);
        // diag(3, 1) by a threshold of 2.
        let matrix = tensor(&[0.0, 3.0, 1.0, 0.0], [2, 2]);
        let low = NuclearNorm::new(2.0).unwrap().prox(matrix, 1.0).unwrap();
        for (found, expected) in values(low.reshape([4]))
            .into_iter()
            .zip([0.0, 1.0, 0.0, 0.0])
        {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn groups_inside_of_the_threshold_are_exactly_zero() {
        // 1/t · t is not always 1 in f32; a zero group must be zero all the same.
        let mut noise = SeededNoise::new(3, 0);
        for _ in 0..200 {
            let values = noise.normal_values(5);
            let x = Tensor::<1>::from_data(TensorData::new(values, [5]), &Device::flex());
            let norm = two_norm(&host(&x).unwrap());
            let operator = GroupL2::new(norm * 1.01, Views::Whole).unwrap();
            assert_eq!(
                host(&operator.prox(x.clone(), 1.0).unwrap()).unwrap(),
                [0.0; 5]
            );
            // And a ball leaves alone what is inside.
            let ball = L2Ball::new(norm * 1.01).unwrap();
            assert_eq!(ball.prox(x.clone(), 1.0).unwrap().to_data(), x.to_data());
        }
    }

    #[test]
    fn norms_of_any_scale_are_right() {
        for scale in [1e-30, 1e30] {
            let x = vector(&[3.0 * scale, -4.0 * scale]);
            let ball = L2Ball::new(2.5 * scale).unwrap().prox(x, 1.0).unwrap();
            let ball = host(&ball).unwrap();
            assert!((ball[0] / scale - 1.5).abs() < 1e-6, "{ball:?}");
            assert!((ball[1] / scale + 2.0).abs() < 1e-6, "{ball:?}");
        }
        let zero = vector(&[0.0, 0.0]);
        for threshold in [0.0, 1e-60, 1.0] {
            let operator = GroupL2::new(threshold, Views::Whole).unwrap();
            let found = operator.prox(zero.clone(), 1.0).unwrap();
            assert_eq!(host(&found).unwrap(), [0.0, 0.0]);
        }
        // A sum far below the rounding of the elements.
        let shares = Simplex::new(1e-3).unwrap();
        let shares = shares.prox(vector(&[1e6, 1e6, -1e6]), 1.0).unwrap();
        assert!(
            shares.clone().max().into_scalar::<f32>() == 5e-4,
            "{shares}"
        );
    }

    fn any_matrix() -> impl Strategy<Value = (usize, usize, u64, f64)> {
        (1_usize..7, 1_usize..7, any::<u64>(), -2.0..2.0_f64)
    }

    fn random(rows: usize, columns: usize, seed: u64, stream: u64, scale: f64) -> Tensor<2> {
        let scale = 10_f64.powf(scale);
        let mut noise = SeededNoise::new(seed, stream);
        noise.normal([rows, columns], &Device::flex()) * scale
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// `‖p − q‖² ≤ ⟨p − q, x − y⟩`, the property that characterises proximal operators.
        #[test]
        fn firmly_nonexpansive((rows, columns, seed, scale) in any_matrix(), step in 0.01..4.0_f64) {
            let x = random(rows, columns, seed, 0, scale);
            let y = random(rows, columns, seed, 1, scale);
            let (host_x, host_y) = (host(&x).unwrap(), host(&y).unwrap());
            for (name, operator) in operators() {
                let p = host(&operator.prox(x.clone(), step).unwrap()).unwrap();
                let q = host(&operator.prox(y.clone(), step).unwrap()).unwrap();
                let (moved, apart) = (minus(&p, &q), minus(&host_x, &host_y));
                let rounding = 1e-5 * dot(&apart, &apart);
                prop_assert!(dot(&moved, &moved) <= dot(&moved, &apart) + rounding, "{}", name);
            }
        }

        /// `p` minimises `f(q) + ‖q − x‖² / (2τ)`: no `q` on the way to another point is better.
        #[test]
        fn minimises_its_definition((rows, columns, seed, scale) in any_matrix(), step in 0.01..4.0_f64) {
            let x = random(rows, columns, seed, 0, scale);
            let host_x = host(&x).unwrap();
            for (name, operator) in operators() {
                let objective = |q: &Tensor<2>| {
                    let away = minus(&host(q).unwrap(), &host_x);
                    operator.value(q).unwrap() + dot(&away, &away) / (2.0 * step)
                };
                let p = operator.prox(x.clone(), step).unwrap();
                let best = objective(&p);
                prop_assert!(best.is_finite(), "{}", name);
                for stream in 1..6 {
                    // Another point where f is finite.
                    let other = random(rows, columns, seed, stream, scale);
                    let other = operator.prox(other, step).unwrap();
                    for share in [1e-3, 0.03, 0.3, 1.0] {
                        let q = p.clone() * (1.0 - share) + other.clone() * share;
                        let found = objective(&q);
                        prop_assert!(
                            found >= best * (1.0 - 1e-5) - 1e-6,
                            "{}, {}: {} {}", name, share, found, best
                        );
                    }
                }
            }
        }

        /// The certificate of a projection `p` onto a polytope: `⟨x − p, z − p⟩ ≤ 0` at each corner.
        #[test]
        fn exact_projections_onto_polytopes(
            (rows, columns, seed, scale) in any_matrix(),
            size in -2.0..2.0_f64,
        ) {
            let size = 10_f64.powf(size);
            let x = random(rows, columns, seed, 0, scale);
            let host_x = host(&x).unwrap();
            let rounding = 4e-6 * dot(&host_x, &host_x).max(size * size);

            let p = L1Ball::new(size).unwrap().prox(x.clone(), 1.0).unwrap();
            let p = host(&p).unwrap();
            let left = minus(&host_x, &p);
            // The corners are ± size in one element.
            let largest = left.iter().fold(0.0_f64, |largest, v| largest.max(v.abs()));
            prop_assert!(one_norm(&p) <= size * (1.0 + 1e-6));
            prop_assert!(size * largest <= dot(&left, &p) + rounding);

            let p = Simplex::new(size).unwrap().prox(x, 1.0).unwrap();
            let p = host(&p).unwrap();
            let left = minus(&host_x, &p);
            let largest = left.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            prop_assert!((p.iter().sum::<f64>() - size).abs() <= 1e-6 * size);
            prop_assert!(p.iter().all(|&share| share >= 0.0));
            prop_assert!(size * largest <= dot(&left, &p) + rounding);
        }

        /// Moreau: the conjugate of a norm is the indicator of the dual norm's ball.
        #[test]
        fn conjugates_of_norms_are_dual_balls(
            (rows, columns, seed, scale) in any_matrix(),
            step in 0.05..4.0_f64,
        ) {
            let x = random(rows, columns, seed, 0, scale);
            let close = |name: &str, found: Tensor<2>, expected: Tensor<2>| {
                let far = (found - expected).abs().max().into_scalar::<f32>();
                let size = x.clone().abs().max().into_scalar::<f32>();
                prop_assert!(far <= 4e-6 * size.max(2.0), "{}: {}", name, far);
                Ok(())
            };
            let l1 = L1::new(0.8).unwrap();
            let ball = LInfBall::new(0.8).unwrap().prox(x.clone(), step).unwrap();
            close("l1", l1.prox_conjugate(x.clone(), step).unwrap(), ball)?;
            let l2 = GroupL2::new(0.8, Views::Whole).unwrap();
            let ball = L2Ball::new(0.8).unwrap().prox(x.clone(), step).unwrap();
            close("l2", l2.prox_conjugate(x.clone(), step).unwrap(), ball)?;
            // And back: the conjugate of the indicator of a ball is the norm.
            let ball = LInfBall::new(0.8).unwrap();
            let soft = l1.prox(x.clone(), step).unwrap();
            close("linf ball", ball.prox_conjugate(x.clone(), step).unwrap(), soft)?;
            // (w/2 ‖x‖²)* = ‖x‖² / (2w).
            let half = SquaredL2::new(0.5).unwrap();
            let double = SquaredL2::new(2.0).unwrap().prox(x.clone(), step).unwrap();
            close("squared", half.prox_conjugate(x.clone(), step).unwrap(), double)?;
            // The conjugate of the nuclear norm bounds the largest singular value.
            let dual = NuclearNorm::new(0.8).unwrap().prox_conjugate(x.clone(), step).unwrap();
            let largest = matrix(&dual).unwrap().singular_values().unwrap()[0];
            let expected = matrix(&x).unwrap().singular_values().unwrap()[0].min(0.8);
            prop_assert!((largest - expected).abs() < 4e-6 * 10_f64.powf(scale).max(1.0) * 6.0);
        }

        /// A projection stays where it is, and counts as inside.
        #[test]
        fn projections_are_idempotent((rows, columns, seed, scale) in any_matrix()) {
            for (name, operator) in operators() {
                if !["l2_ball", "l1_ball", "linf_ball", "box", "simplex"].contains(&name) {
                    continue;
                }
                let x = random(rows, columns, seed, 0, scale);
                let once = operator.prox(x, 1.0).unwrap();
                prop_assert_eq!(operator.value(&once).unwrap(), 0.0);
                let twice = operator.prox(once.clone(), 1.0).unwrap();
                let far = (once - twice).abs().max().into_scalar::<f32>();
                prop_assert!(far < 1e-6, "{}: {}", name, far);
            }
        }
    }

    #[test]
    fn points_outside_have_infinite_value() {
        let x = vector(&[2.0, -1.0]);
        let outside: Vec<Box<dyn Proximal<1>>> = vec![
            Box::new(L2Ball::new(2.2).unwrap()),
            Box::new(L1Ball::new(2.9).unwrap()),
            Box::new(LInfBall::new(1.9).unwrap()),
            Box::new(BoxConstraint::new(-0.9, 3.0).unwrap()),
            Box::new(BoxConstraint::new(-2.0, 1.9).unwrap()),
            // The sum is right, but one element is negative.
            Box::new(Simplex::new(1.0).unwrap()),
        ];
        for (index, operator) in outside.iter().enumerate() {
            assert_eq!(operator.value(&x).unwrap(), f64::INFINITY, "{index}");
        }
        let half = vector(&[0.5, 0.4]);
        assert_eq!(
            Simplex::new(1.0).unwrap().value(&half).unwrap(),
            f64::INFINITY
        );
    }

    #[test]
    fn any_rank_and_the_element_type_are_kept() {
        let x = Tensor::<4>::ones([2, 1, 3, 2], (&Device::flex(), DType::F64)) * 2.0;
        let kept: [&dyn Proximal<4>; 4] = [
            &L1::new(0.1).unwrap(),
            &L1Ball::new(3.0).unwrap(),
            &Simplex::new(3.0).unwrap(),
            &GroupL2::new(0.1, Views::Each(2)).unwrap(),
        ];
        for operator in kept {
            let found = operator.prox(x.clone(), 1.0).unwrap();
            assert_eq!((found.dims(), found.dtype()), (x.dims(), DType::F64));
        }
        let found = L1Ball::new(3.0).unwrap().prox(x, 1.0).unwrap();
        assert_eq!(host(&found).unwrap(), [0.25; 12]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let x = || tensor(&[1.0, 2.0], [1, 2]);
        let error = L1::new(-1.0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the weight is -1, but it must be at least 0 and finite"
        );
        assert!(L2Ball::new(0.0).is_err() && L1Ball::new(f64::NAN).is_err());
        assert!(
            BoxConstraint::new(1.0, 0.0).is_err() && BoxConstraint::new(0.0, f64::NAN).is_err()
        );
        assert!(BoxConstraint::new(0.0, f64::INFINITY).is_ok());
        for (name, operator) in operators() {
            for step in [0.0, -1.0, f64::INFINITY, f64::NAN] {
                let error = operator.prox(x(), step).unwrap_err();
                assert!(
                    matches!(&error, ProximalError::Range(error) if error.name == "step"),
                    "{name}"
                );
            }
            let error = operator.prox_conjugate(x(), 0.0).unwrap_err();
            assert!(
                matches!(&error, ProximalError::Range(error) if error.name == "step"),
                "{name}"
            );
        }
        let group = GroupL2::new(1.0, Views::Each(2)).unwrap();
        let expected = ProximalError::Dim { dim: 2, rank: 2 };
        assert_eq!(group.prox(x(), 1.0).unwrap_err(), expected);
        assert_eq!(group.value(&x()).unwrap_err(), expected);
        let empty = Tensor::<2>::zeros([0, 2], &Device::flex());
        let broken = tensor(&[1.0, f64::INFINITY], [1, 2]);
        let strict: [&dyn Proximal<2>; 3] = [
            &NuclearNorm::new(1.0).unwrap(),
            &L1Ball::new(1.0).unwrap(),
            &Simplex::new(1.0).unwrap(),
        ];
        for operator in strict {
            assert_eq!(
                operator.prox(empty.clone(), 1.0).unwrap_err(),
                ProximalError::Empty(vec![0, 2])
            );
            assert_eq!(
                operator.prox(broken.clone(), 1.0).unwrap_err(),
                ProximalError::NotFinite {
                    index: 1,
                    value: f64::INFINITY
                }
            );
        }
    }
}
