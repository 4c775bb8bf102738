//! Volumes slice by slice: differences between neighbouring slices, which the model of single slices does not know.
//!
//! ```text
//! min_x ½‖y − A x‖² + λ ‖D_z x‖₁
//! ```
//!
//! by ADMM, one iteration for each step of the diffusion, whose `z` and `u` are kept from step to step:
//!
//! ```text
//! x = CG(AᵀA + ρ D_zᵀD_z,  Aᵀy + ρ D_zᵀ(z − u),  from x̂_0)
//! z = soft(D_z x + u, λ/ρ),   u = u + D_z x − z
//! ```
//!
//! The slices are the batch. `D_z` is the difference from a slice to the next one. In the published code the first slice
//! follows the last one, which ties the two ends of a volume to each other; here they are free, unless asked for.
//!
//! Source: Chung, Ryu, McCann, Klasky, Ye, *Solving 3D Inverse Problems using Pre-trained 2D Diffusion Models*, 2023,
//! arXiv 2211.10655 (DiffusionMBIR); Boyd et al., *Distributed Optimization and Statistical Learning via the
//! Alternating Direction Method of Multipliers*, 2011.

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};

use super::Problem;
use super::conjugate_gradient::{ConjugateGradient, Coupling};
use super::operator::OperatorError;

/// The options of the total variation between slices; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TotalVariation {
    /// `λ`, at least 0.
    pub weight: f64,
    /// `ρ`, above 0.
    pub penalty: f64,
    /// Whether the first slice follows the last one.
    pub cyclic: bool,
}

impl TotalVariation {
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        range::not_negative("weight of the total variation", self.weight)?;
        range::positive("penalty of the total variation", self.penalty)
    }

    /// `D_z x`: the difference from each slice to the next one; 0 for the last one, unless it is cyclic.
    ///
    /// - `x`: `[slices, …]`
    pub fn differences<const D: usize>(&self, x: &Tensor<D>) -> Tensor<D> {
        let count = x.dims()[0];
        let first = x.clone().slice_dim(0, 0..1);
        let last = x.clone().slice_dim(0, count - 1..count);
        let after = if self.cyclic { first } else { last };
        following(x, after) - x.clone()
    }

    /// `D_zᵀ d`.
    ///
    /// - `d`: `[slices, …]`
    pub fn adjoint<const D: usize>(&self, d: &Tensor<D>) -> Tensor<D> {
        let count = d.dims()[0];
        let last = d.clone().slice_dim(0, count - 1..count);
        if self.cyclic {
            return preceding(d, last) - d.clone();
        }
        // The last difference is none.
        let zero = last.zeros_like();
        let d = match count {
            1 => zero.clone(),
            _ => Tensor::cat(vec![d.clone().slice_dim(0, 0..count - 1), zero.clone()], 0),
        };
        preceding(&d, zero) - d
    }
}

/// Each slice's successor.
fn following<const D: usize>(x: &Tensor<D>, after: Tensor<D>) -> Tensor<D> {
    match x.dims()[0] {
        1 => after,
        count => Tensor::cat(vec![x.clone().slice_dim(0, 1..count), after], 0),
    }
}

/// Each slice's predecessor.
fn preceding<const D: usize>(x: &Tensor<D>, before: Tensor<D>) -> Tensor<D> {
    match x.dims()[0] {
        1 => before,
        count => Tensor::cat(vec![before, x.clone().slice_dim(0, 0..count - 1)], 0),
    }
}

/// ADMM with its state between the steps of a diffusion.
#[derive(Clone, Debug)]
pub(crate) struct Admm<const D: usize> {
    pub(crate) options: TotalVariation,
    /// `z` and `u`.
    state: Option<[Tensor<D>; 2]>,
}

impl<const D: usize> Admm<D> {
    pub(crate) fn new(options: TotalVariation) -> Self {
        Self {
            options,
            state: None,
        }
    }

    /// One iteration.
    ///
    /// - `projected`: `Aᵀ y`
    /// - `x`: the estimate, from which the conjugate gradients start
    pub(crate) fn step(
        &mut self,
        problem: &Problem<D>,
        projected: &Tensor<D>,
        x: Tensor<D>,
        solver: ConjugateGradient,
    ) -> Result<Tensor<D>, OperatorError> {
        let (options, operator) = (self.options, problem.operator());
        let [z, u] = match self.state.take() {
            Some(state) => state,
            None => [x.zeros_like(), x.zeros_like()],
        };
        let apply = |x: Tensor<D>| {
            let smooth = options.adjoint(&options.differences(&x)) * options.penalty;
            Ok(operator.normal(x)? + smooth)
        };
        let right = projected.clone() + options.adjoint(&(z - u.clone())) * options.penalty;
        let x = solver.solve_coupled(Coupling::Batch, apply, right, x)?.x;
        let moved = options.differences(&x) + u;
        let z = soft(moved.clone(), options.weight / options.penalty);
        self.state = Some([z.clone(), moved - z]);
        Ok(x)
    }
}

/// `sign(v) max(|v| − k, 0)`.
fn soft<const D: usize>(v: Tensor<D>, k: f64) -> Tensor<D> {
    v.clone() - v.clamp(-k, k)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::{DType, Device, TensorData};

    use super::super::MatrixOperator;
    use super::super::operator::host;
    use super::*;

    fn f64s<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(values.to_vec(), shape);
        Tensor::from_data(data, (&Device::flex(), DType::F64))
    }

    #[test]
    fn differences_and_their_adjoint_pass_the_dot_product_test() {
        for count in [1, 2, 5] {
            let value = |i: usize| ((i * i) as f64 * 0.7).sin();
            let values = |from: usize| (from..from + 3 * count).map(value).collect::<Vec<f64>>();
            let x = f64s(&values(0), [count, 3]);
            let d = f64s(&values(50), [count, 3]);
            for cyclic in [false, true] {
                let tv = TotalVariation {
                    weight: 1.0,
                    penalty: 1.0,
                    cyclic,
                };
                let dot = |a: Tensor<2>, b: Tensor<2>| (a * b).sum().into_scalar::<f64>();
                let forward = dot(tv.differences(&x), d.clone());
                let backward = dot(x.clone(), tv.adjoint(&d));
                assert!((forward - backward).abs() < 1e-12, "{count} {cyclic}");
            }
        }
        let tv = TotalVariation {
            weight: 1.0,
            penalty: 1.0,
            cyclic: false,
        };
        let found = host(tv.differences(&f64s(&[1.0, 3.0, 2.0], [3, 1]))).unwrap();
        assert_eq!(found, [2.0, -1.0, 0.0]);
    }

    /// With the identity as the operator this is total variation denoising: for two slices `y₁ < y₂` the solution moves
    /// both towards each other by `λ`, at most to the middle.
    #[test]
    fn iterations_go_to_the_denoised_volume() {
        for (weight, expected) in [(0.1, [0.1, 0.9]), (2.0, [0.5, 0.5])] {
            let identity = MatrixOperator::new([1, 1], vec![1.0]).unwrap();
            let y = f64s(&[0.0, 1.0], [2, 1]);
            let problem = Problem::new(Arc::new(identity), y.clone(), 0.0).unwrap();
            let mut admm = Admm::new(TotalVariation {
                weight,
                penalty: 1.0,
                cyclic: false,
            });
            let solver = ConjugateGradient {
                iterations: 3,
                tolerance: 0.0,
            };
            let mut x = y.clone();
            for _ in 0..200 {
                x = admm.step(&problem, &y, x, solver).unwrap();
            }
            let found = host(x).unwrap();
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
    }
}
