//! Conjugate gradients for `B x = b` with a symmetric positive semi-definite `B` that is known by its products.
//!
//! ```text
//! r = b − B x,  p = r
//! repeat:  a = ⟨r, r⟩/⟨p, B p⟩,  x += a p,  r' = r − a B p,  p = r' + ⟨r', r'⟩/⟨r, r⟩ p
//! ```
//!
//! After `M` iterations `x` is, in `x_0 + span{r_0, B r_0, …, B^{M−1} r_0}` (the Krylov space), the point of least
//! error in the norm of `B`. Every row of the batch is a system of its own, with its own inner products; or the
//! whole batch is one system ([`Coupling::Batch`]), for volumes whose slices `B` couples.
//!
//! Source: Hestenes, Stiefel, *Methods of Conjugate Gradients for Solving Linear Systems*, 1952.

use burn::tensor::Tensor;

use super::operator::{OperatorError, host};

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConjugateGradient {
    /// The largest number of iterations.
    pub iterations: usize,
    /// Where a system is done: `‖r‖` at most this times `‖b‖`.
    pub tolerance: f64,
}

/// What is one system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coupling {
    /// Each row of the batch.
    #[default]
    Rows,
    /// The whole batch.
    Batch,
}

/// The result of [`ConjugateGradient::solve`].
#[derive(Clone, Debug)]
pub struct Solved<const D: usize> {
    /// The solution, `[batch, …]`.
    pub x: Tensor<D>,
    /// `‖r‖` before the first iteration and after each, the largest of the batch.
    pub residuals: Vec<f64>,
}

impl ConjugateGradient {
    /// Solves `B x = b` for each row.
    ///
    /// - `apply`: `x ↦ B x`
    /// - `b`, `x`: the right side and the start, `[batch, …]`
    ///
    /// # Errors
    /// Those of `apply`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::restore::ConjugateGradient;
    ///
    /// let device = Device::flex();
    /// // diag(1, 2): two different eigenvalues, so two iterations are exact.
    /// let diagonal = Tensor::<2>::from_floats([[1.0, 2.0]], &device);
    /// let b = Tensor::from_floats([[3.0, 4.0]], &device);
    /// let solver = ConjugateGradient { iterations: 2, tolerance: 0.0 };
    /// let found = solver.solve(|x| Ok(x * diagonal.clone()), b.clone(), b.zeros_like())?;
    /// let error = found.x - Tensor::from_floats([[3.0, 2.0]], &device);
    /// assert!(error.abs().max().into_scalar::<f32>() < 1e-5);
    /// # Ok::<(), nabla_diffusion::restore::OperatorError>(())
    /// ```
    pub fn solve<const D: usize>(
        &self,
        apply: impl FnMut(Tensor<D>) -> Result<Tensor<D>, OperatorError>,
        b: Tensor<D>,
        x: Tensor<D>,
    ) -> Result<Solved<D>, OperatorError> {
        self.solve_coupled(Coupling::Rows, apply, b, x)
    }

    /// As [`solve`](Self::solve), with the whole batch as one system if asked for.
    ///
    /// # Errors
    /// Those of `apply`.
    pub fn solve_coupled<const D: usize>(
        &self,
        coupling: Coupling,
        mut apply: impl FnMut(Tensor<D>) -> Result<Tensor<D>, OperatorError>,
        b: Tensor<D>,
        mut x: Tensor<D>,
    ) -> Result<Solved<D>, OperatorError> {
        let dot = |a: &Tensor<D>, b: &Tensor<D>| match coupling {
            Coupling::Rows => inner(a, b),
            // [1, …]
            Coupling::Batch => inner(a, b).sum_dim(0),
        };
        let goals: Vec<f64> = host(dot(&b, &b))?;
        let goals: Vec<f64> = goals.iter().map(|bb| bb.sqrt() * self.tolerance).collect();
        let mut r = b - apply(x.clone())?;
        let mut p = r.clone();
        let mut rr = dot(&r, &r);
        let mut residuals = Vec::with_capacity(self.iterations + 1);
        for iteration in 0..=self.iterations {
            let norms: Vec<f64> = host(rr.clone())?.iter().map(|rr| rr.sqrt()).collect();
            residuals.push(norms.iter().copied().fold(0.0, f64::max));
            let done = norms.iter().zip(&goals).all(|(norm, goal)| norm <= goal);
            if done || iteration == self.iterations {
                break;
            }
            let bp = apply(p.clone())?;
            let a = quotient(rr.clone(), dot(&p, &bp));
            x = x + p.clone() * a.clone();
            r = r - bp * a;
            let next = dot(&r, &r);
            p = r.clone() + p * quotient(next.clone(), rr);
            rr = next;
        }
        Ok(Solved { x, residuals })
    }
}

/// `a/b`, and 0 where `b` is not positive: a row that is solved stays where it is.
fn quotient<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    let none = b.clone().lower_equal_elem(0.0);
    let safe = b.mask_fill(none.clone(), 1.0);
    (a / safe).mask_fill(none, 0.0)
}

/// `⟨a, b⟩` of each row, `[batch, 1, …]`.
pub(crate) fn inner<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> Tensor<D> {
    let shape = a.dims();
    let product: Tensor<D> = a.clone() * b.clone();
    let numbers: Tensor<2> = product.reshape([shape[0], shape[1..].iter().product()]);
    let mut each = [1; D];
    each[0] = shape[0];
    numbers.sum_dim(1).reshape(each)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;

    fn f64s<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(values.to_vec(), shape);
        Tensor::from_data(data, (&Device::flex(), DType::F64))
    }

    /// With eigenvalues λ and a start of 0, one step goes to `b ⟨b, b⟩/⟨b, B b⟩`, two steps in three dimensions to
    /// the point of the plane `span{b, B b}` that solves the projected system.
    #[test]
    fn every_iterate_is_the_closed_form_of_its_krylov_space() {
        let diagonal = f64s(&[1.0, 2.0, 5.0], [1, 3]);
        let b = f64s(&[1.0, -1.0, 0.5], [1, 3]);
        let run = |iterations| {
            let solver = ConjugateGradient {
                iterations,
                tolerance: 0.0,
            };
            let found = solver
                .solve(|x| Ok(x * diagonal.clone()), b.clone(), b.zeros_like())
                .unwrap();
            host(found.x).unwrap()
        };
        let close = |found: &[f64], expected: [f64; 3]| {
            let each = found.iter().zip(expected);
            each.for_each(|(f, e)| assert!((f - e).abs() < 1e-12, "{found:?} {expected:?}"));
        };
        // ⟨b, b⟩ = 2.25, ⟨b, B b⟩ = 1 + 2 + 1.25 = 4.25.
        let a = 2.25 / 4.25;
        close(&run(1), [a, -a, 0.5 * a]);
        // x = c₁ b + c₂ B b, where Bᵢⱼ = ⟨bᵢ, B bⱼ⟩ for b₁ = b, b₂ = B b, and the right side is ⟨bᵢ, b⟩:
        // moments mₖ = Σ λᵏ b² with m₀ = 2.25, m₁ = 4.25, m₂ = 11.25, m₃ = 40.25.
        let determinant = 4.25 * 40.25 - 11.25 * 11.25;
        let c1 = (2.25 * 40.25 - 4.25 * 11.25) / determinant;
        let c2 = (4.25 * 4.25 - 2.25 * 11.25) / determinant;
        close(&run(2), [c1 + c2, -(c1 + 2.0 * c2), 0.5 * (c1 + 5.0 * c2)]);
        close(&run(3), [1.0, -0.5, 0.1]);
        // Solved rows stay: no 0/0.
        close(&run(9), [1.0, -0.5, 0.1]);
    }

    #[test]
    fn rows_are_systems_of_their_own() {
        let diagonal = f64s(&[1.0, 3.0, 2.0, 7.0], [2, 2]);
        let b = f64s(&[2.0, 3.0, 0.0, 0.0], [2, 2]);
        let solver = ConjugateGradient {
            iterations: 2,
            tolerance: 1e-10,
        };
        let apply = |x: Tensor<2>| Ok(x * diagonal.clone());
        let found = solver.solve(apply, b.clone(), b.zeros_like()).unwrap();
        assert_eq!(found.residuals.len(), 3);
        assert!(found.residuals[2] < 1e-12);
        let values = host(found.x).unwrap();
        for (found, expected) in values.iter().zip([2.0, 1.0, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-12, "{values:?}");
        }
        // As one system there are four eigenvalues, and two iterations are not enough for a general right side.
        let b = f64s(&[2.0, 3.0, 1.0, 1.0], [2, 2]);
        let coupled = solver.solve_coupled(Coupling::Batch, apply, b.clone(), b.zeros_like());
        assert!(coupled.unwrap().residuals[2] > 1e-3);
    }
}
