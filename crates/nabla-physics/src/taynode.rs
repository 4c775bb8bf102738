//! TayNODE: a penalty on the derivatives of the solution by time, on which the error of a method of order `K − 1` depends. A
//! baseline of [ERNODE](crate::ernode); with `K = 1` it is the kinetic energy of RNODE.
//!
//! ```text
//! R_K = ∫ ‖d^K u/dt^K‖² / d  dt,       u' = f(u, t),   R' = ‖d^K u/dt^K‖² / d
//! ```
//!
//! The penalty is one more component of the state, [`WithDerivatives`] is the field of both, and the solver, its error
//! control and its adjoint see it as the others.
//!
//! The paper finds the derivatives by Taylor-mode autodiff, whose gradient needs derivatives of derivatives, which Burn does
//! not have. Here the field is differentiated along the solution by differences of order 4, which first-order autodiff goes
//! through:
//!
//! ```text
//! u″  = d/ds f(u + s f, t + s),     u‴ = d²/ds² f(u + s f + s²/2 u″, t + s)       at s = 0
//! ```
//!
//! This costs 1, 5 and 10 evaluations for `K` = 1, 2 and 3. Larger `K` would be lost in rounding. In `f32`, `K = 3` has
//! about three digits.
//!
//! Sources: Kelly, Bettencourt, Johnson, Duvenaud, *Learning Differential Equations that are Easy to Solve*, 2020, arXiv
//! 2007.04504; Finlay, Jacobsen, Nurbekyan, Oberman, *How to train your neural ODE: the world of Jacobian and kinetic
//! regularization*, 2020, arXiv 2002.02798.

use burn::tensor::{Gradients, Tensor};
use nabla_base::range::{self, OutOfRange};

use crate::differences;
use crate::field::Field;
use crate::solver::Solution;

/// A field whose last component is the penalty.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_physics::field::parametric;
/// use nabla_physics::taynode::{self, WithDerivatives};
/// use nabla_physics::{Method, Solver};
///
/// let device = Device::flex().autodiff();
/// let rate = Tensor::<1>::from_floats([-3.0], &device).require_grad();
/// let decay = parametric(rate.clone(), |u: Tensor<2>, _t, p: Tensor<1>| u * p.unsqueeze());
/// let start = taynode::extended(Tensor::<2>::ones([8, 1], &device));
/// let field = WithDerivatives::new(decay, 2)?;
/// let solution = Solver::new(Method::TSIT5).solve(&field, start, &[0.0, 1.0])?;
/// let (end, penalty) = taynode::divided(&solution);
/// let loss = end.mean() + penalty.mean() * 0.01;
/// assert!(rate.grad(&loss.backward()).is_some());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct WithDerivatives<F> {
    field: F,
    order: usize,
}

impl<F: Field> WithDerivatives<F> {
    /// - `order`: `K`, from 1 to 3
    ///
    /// # Errors
    /// If it is not.
    pub fn new(field: F, order: usize) -> Result<Self, OutOfRange> {
        range::within("order of the derivative", order, 1..=3)?;
        Ok(Self { field, order })
    }

    /// `d^K u/dt^K` at a state, `[batch, d]`.
    ///
    /// - `u`: `[batch, d]`; `t`: `[1, 1]` or `[batch, 1]`
    pub fn derivative(&self, u: &Tensor<2>, t: &Tensor<2>) -> Tensor<2> {
        let f = self.field.slope(u.clone(), t.clone());
        self.derivative_of(f, u, t)
    }

    fn derivative_of(&self, f: Tensor<2>, u: &Tensor<2>, t: &Tensor<2>) -> Tensor<2> {
        if self.order == 1 {
            return f;
        }
        let shift = differences::distance(u.dtype(), 1);
        let line = |s: f64| u.clone() + f.clone() * s;
        let second = self.along(t, shift, line, &differences::FIRST) / shift;
        if self.order == 2 {
            return second;
        }
        let shift = differences::distance(u.dtype(), 2);
        let curve = |s: f64| u.clone() + f.clone() * s + second.clone() * (0.5 * s * s);
        self.along(t, shift, curve, &differences::SECOND) / (shift * shift)
    }

    /// `Σ w_i f(curve(s_i), t + s_i)`.
    fn along(
        &self,
        t: &Tensor<2>,
        shift: f64,
        curve: impl Fn(f64) -> Tensor<2>,
        differences: &[(f64, f64)],
    ) -> Tensor<2> {
        let terms = differences.iter().map(|(place, weight)| {
            let s = place * shift;
            self.field.slope(curve(s), t.clone() + s) * *weight
        });
        let sum = terms.reduce(|sum, term| sum + term);
        sum.unwrap_or_else(|| curve(0.0).zeros_like())
    }
}

impl<F: Field> Field for WithDerivatives<F> {
    fn slope(&self, x: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        let width = x.dims()[1] - 1;
        let u = x.narrow(1, 0, width);
        let f = self.field.slope(u.clone(), t.clone());
        let derivative = self.derivative_of(f.clone(), &u, &t);
        Tensor::cat(vec![f, derivative.square().mean_dim(1)], 1)
    }

    fn parameters(&self) -> Option<Tensor<1>> {
        self.field.parameters()
    }

    fn frozen(&self) -> Self {
        Self {
            field: self.field.frozen(),
            order: self.order,
        }
    }

    fn leaves(&self) -> Self {
        Self {
            field: self.field.leaves(),
            order: self.order,
        }
    }

    fn gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        self.field.gradient(gradients)
    }
}

/// The state `[batch, d]` with the penalty 0 behind it, `[batch, d + 1]`.
pub fn extended(start: Tensor<2>) -> Tensor<2> {
    let [batch, _] = start.dims();
    let zeros = start
        .clone()
        .narrow(1, 0, 1)
        .zeros_like()
        .reshape([batch, 1]);
    Tensor::cat(vec![start, zeros], 1)
}

/// The state at the end, `[batch, d]`, and `R_K` of each trajectory, `[batch, 1]`.
pub fn divided(solution: &Solution) -> (Tensor<2>, Tensor<2>) {
    let last = solution.last();
    let width = last.dims()[1] - 1;
    (last.clone().narrow(1, 0, width), last.narrow(1, width, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{field, parametric};
    use crate::{Method, Solver};
    use burn::tensor::{DType, Device, TensorData};

    fn wide<const D: usize>(values: &[f64], dims: [usize; D]) -> Tensor<D> {
        Tensor::from_data(
            TensorData::new(values.to_vec(), dims),
            (&Device::flex(), DType::F64),
        )
    }

    /// `u' = −2 t u²` has the solution `1/(1 + t²)` for `u(0) = 1`.
    #[test]
    fn derivatives_are_those_of_the_solution() {
        let f = field(|u: Tensor<2>, t: Tensor<2>| u.square() * t * -2.0);
        for t in [0.0_f64, 0.3, 1.2] {
            let v = 1.0 / (1.0 + t * t);
            let expected = [
                -2.0 * t * v.powi(2),
                (6.0 * t * t - 2.0) * v.powi(3),
                24.0 * t * (1.0 - t * t) * v.powi(4),
            ];
            for (order, expected) in (1..).zip(expected) {
                let f = WithDerivatives::new(f, order).unwrap();
                let found = f.derivative(&wide(&[v], [1, 1]), &wide(&[t], [1, 1]));
                let found = found.into_scalar::<f64>();
                let near = [1e-14, 1e-11, 1e-8][order - 1];
                assert!(
                    (found - expected).abs() < near * 10.0,
                    "{order} {t}: {found} {expected}"
                );
            }
        }
        assert!(WithDerivatives::new(f, 4).is_err());
    }

    /// `u = exp(λ t)`: `R_K = λ^{2K} (exp(2λ) − 1)/(2λ)`.
    #[test]
    fn penalties_and_gradients_have_their_closed_form() {
        for order in 1..=3 {
            let value = |rate: f64| rate.powi(2 * order) * (2.0 * rate).exp_m1() / (2.0 * rate);
            let rate = wide(&[-1.3], [1]).autodiff().require_grad();
            let decay = parametric(rate.clone(), |u: Tensor<2>, _, p: Tensor<1>| {
                u * p.unsqueeze()
            });
            let f = WithDerivatives::new(decay, order as usize).unwrap();
            let start = extended(wide(&[1.0], [1, 1]).autodiff());
            let solver = Solver::new(Method::TSIT5).with_tolerances(1e-9, 1e-9);
            let solution = solver.solve(&f, start, &[0.0, 1.0]).unwrap();
            let (end, penalty) = divided(&solution);
            assert!((end.inner().into_scalar::<f64>() - (-1.3_f64).exp()).abs() < 1e-7);
            let found = penalty.clone().inner().into_scalar::<f64>();
            assert!((found - value(-1.3)).abs() < 1e-6, "{order}: {found}");
            let gradient = rate
                .grad(&penalty.sum().backward())
                .unwrap()
                .into_scalar::<f64>();
            let expected = (value(-1.3 + 1e-5) - value(-1.3 - 1e-5)) / 2e-5;
            assert!(
                (gradient - expected).abs() < 1e-5,
                "{order}: {gradient} {expected}"
            );
        }
    }
}
