//! A Runge-Kutta method of one's own is a constant: the solver, its errors, dense output and every adjoint follow from it.
//!
//! Here it is Heun's method, whose error is found by comparison with Euler's.

use burn::tensor::{Device, Tensor};
use nabla::physics::field::parametric;
use nabla::physics::tableau::{Dense, StiffnessPair, Tableau};
use nabla::physics::{Adjoint, Method, Solver};

const HEUN: Tableau = Tableau {
    name: "heun",
    order: 2,
    error_order: 2,
    nodes: &[0.0, 1.0, 1.0],
    // The last stage is the first of the next step, and costs nothing.
    stages: &[&[], &[1.0], &[0.5, 0.5]],
    weights: &[0.5, 0.5],
    // (½, ½) − (1, 0)
    error: &[-0.5, 0.5],
    last_is_first: true,
    stiffness: Some(StiffnessPair {
        first: 1,
        second: 2,
        stability: 2.0,
    }),
    dense: Dense::Hermite,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let rate = Tensor::<1>::from_floats([-0.5], &device).require_grad();
    let growth = parametric(rate.clone(), |u: Tensor<2>, _t, rate: Tensor<1>| {
        u * rate.unsqueeze()
    });
    for adjoint in [Adjoint::default(), Adjoint::Interpolating, Adjoint::Forward] {
        let solver = Solver::new(Method::Explicit(&HEUN))
            .with_tolerances(1e-5, 1e-5)
            .with_adjoint(adjoint);
        let start = Tensor::<2>::ones([1, 1], &device);
        let solution = solver.solve(&growth, start, &[0.0, 2.0])?;
        let end = solution.last();
        let gradients = end.clone().sum().backward();
        let gradient = rate.grad(&gradients).ok_or("no gradient")?;
        println!(
            "{adjoint:?}: exp(2λ) = {:.5}, its derivative {:.5}, after {} steps",
            end.inner().into_scalar::<f32>(),
            gradient.clone().into_scalar::<f32>(),
            solution.statistics().accepted()
        );
        let expected = 2.0 * (-1.0_f32).exp();
        assert!((gradient.into_scalar::<f32>() - expected).abs() < 1e-2);
    }
    Ok(())
}
