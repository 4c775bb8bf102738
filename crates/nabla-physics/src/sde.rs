//! Stochastic differential equations, `du = f(u, t) dt + g(u, t) dW` with diagonal noise, in the sense of Itô.
//!
//! | method | strong order | noise |
//! |---|---|---|
//! | [`EulerMaruyama`](SdeMethod::EulerMaruyama) | 1/2 (1 if `g` does not depend on `u`) | any diagonal |
//! | [`Milstein`](SdeMethod::Milstein) | 1 | diagonal, `g_i` of `u_i` |
//! | [`SOSRI`](SdeMethod::SOSRI) | 3/2 | diagonal, `g_i` of `u_i` |
//! | [`SOSRA`](SdeMethod::SOSRA) | 3/2 and more | additive: `g` does not depend on `u` |
//!
//! Steps are adaptive, with the error estimates below and a [`Controller`](crate::Controller). Noise of a rejected step is
//! never drawn again: a [`BrownianPath`] remembers it, and finds what lies between by its conditional distribution, with
//! the time integral that methods of order 3/2 need, so that the accepted steps are not biased towards calm noise.
//!
//! **Error estimates** are `E = rms((E_d + E_n)/(atol + rtol max(|u|, |u⁺|)))`. The drift's part `E_d` is a difference of
//! slopes; with [`DriftError::Sum`] it is their sum, as in the published software, whose tolerances (0.14 in ERNODE) are
//! made for that: it is about `4 h f`, and no error.
//!
//! **Gradients** go through the steps that were taken, with all noise and lengths constant; values, errors and stiffness
//! estimates are part of Burn's graph.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_physics::field::field;
//! use nabla_physics::sde::{SdeMethod, SdeSolver};
//!
//! // A price that grows by half its value with noise of a tenth of it.
//! let drift = field(|u: Tensor<2>, _t| u * 0.5);
//! let diffusion = field(|u: Tensor<2>, _t| u * 0.1);
//! let start = Tensor::<2>::ones([100, 1], &Device::flex());
//! let solver = SdeSolver::new(SdeMethod::SOSRI).with_tolerances(1e-3, 1e-3);
//! let end = solver.solve(&drift, &diffusion, start, &[0.0, 1.0], 42)?.last();
//! assert!((end.mean().into_scalar::<f32>() - 0.5_f32.exp()).abs() < 0.1);
//! # Ok::<(), nabla_physics::SolveError>(())
//! ```
//!
//! Sources: Rößler, *Runge-Kutta Methods for the Strong Approximation of Solutions of Stochastic Differential Equations*,
//! 2010 (SRI, SRA); Rackauckas, Nie, *Adaptive Methods for Stochastic Differential Equations via Natural Embeddings and
//! Rejection Sampling with Memory*, 2017; Rackauckas, Nie, *Stability-Optimized High Order Methods and Stiffness Detection
//! for Pathwise Stiff Stochastic Differential Equations*, 2020 (SOSRI, SOSRA); Lamba, *An Adaptive Timestepping Algorithm
//! for Stochastic Differential Equations*, 2003 (errors of the first two methods).

mod brownian_path;
mod euler_maruyama;
mod milstein;
mod sde_solver;
mod sosra;
mod sosri;
mod step;

pub use brownian_path::{BrownianPath, Increment};
pub use sde_solver::{SdeSolution, SdeSolver};
pub use sosra::{SOSRA, SraTableau};
pub use sosri::{SOSRI, SriTableau};
pub use step::{DriftError, SdeMethod};

#[cfg(test)]
mod tests;
