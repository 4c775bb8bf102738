//! DCDM: conjugate directions from a network, for linear systems that come again and again.
//!
//! A network that sees a residual returns a direction, meant to be a multiple of `A⁻¹ r`. The solver makes it conjugate to the
//! last directions and goes along it as far as the error falls:
//!
//! ```text
//! x = x_0;  r = b − A x;  stop when ‖r‖ ≤ tolerance · ‖b‖
//! repeat:  q = f(r/‖r‖)
//!          q ← q − Σ_{last k (p, Ap, α)} p (qᵀAp)/α          all products with q as the network gave it
//!          α = qᵀAq;  β = qᵀr;  x ← x + q β/α
//!          r = b − A x                                        computed anew; (q, Aq, α) is kept, the oldest is dropped
//! ```
//!
//! Neither the scale nor the sign of `f` matters, and `‖x − x*‖_A` never grows, whatever `f` is. With `f(r) = r` these are
//! conjugate gradients, with a fixed symmetric positive definite `f(r) = M r` preconditioned ones (and `k = 1` is enough), with
//! `f = A⁻¹` one iteration is. A network is none of these: the method is a truncated flexible conjugate gradient method (Notay
//! 2000), and `k = 0` is descent along `f`.
//!
//! The network learns without solutions, from the matrix and right sides alone: [`dcdm_loss`] is `‖b − a A f(b)‖²` with the step
//! `a` that the solver would take, and right sides are mixtures of Ritz vectors in which low modes have most of the weight
//! ([`RitzSpace`]). The matrix of a solve may be another than that of the training: another size, other obstacles.
//!
//! Source: Kaneda, Akar, Chen, Kala, Hyde, Teran, *A Deep Conjugate Direction Method for Iteratively Solving Linear Systems*,
//! 2022, arXiv 2205.10763. The official code does not mask what the network returns inside of obstacles, where the matrix is
//! zero; here it is masked, and the means of regions without a Dirichlet border are taken out.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};
use nabla_base::range::OutOfRange;
use nabla_grad::curvature::{add_scaled, dot};
use nabla_train::error::TrainingError;
use nabla_train::network_folder::NetworkFolderError;
use rayon::prelude::*;

use crate::linear::{LinearError, Observer, Preconditioner, Report, SpdOperator};
use crate::linear::{System, step};

mod network;
mod ritz;
#[cfg(test)]
mod tests;
mod training;

pub use network::{DcdmNet, DcdmNetConfig, GridDirections};
pub use ritz::{RitzConfig, RitzSpace};
pub use training::{CONFIG_FILE, DcdmTask, DcdmTrainingConfig, LearntDirections};

/// Why there is no solution, network or training.
#[derive(Debug, thiserror::Error)]
pub enum DcdmError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The system is wrong.
    #[error(transparent)]
    Linear(#[from] LinearError),
    /// A direction cannot be gone along.
    #[error(
        "in iteration {iteration}, qᵀAq is {value} for the model's direction q: it is 0 or not finite, or the matrix is not \
         positive definite"
    )]
    Direction {
        /// From 1.
        iteration: usize,
        /// `qᵀAq`.
        value: f64,
    },
    /// A direction or a batch has another length.
    #[error("the {what} has {found} numbers, but {expected} are expected")]
    Length {
        /// Which vector.
        what: &'static str,
        /// What fits.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// A network is for grids of other dimensions.
    #[error("the network is for grids of {expected} dimensions, but this one has {found}")]
    Dimensions {
        /// Of the network.
        expected: usize,
        /// Of the grid.
        found: usize,
    },
    /// There is nothing to learn from.
    #[error("no Ritz value is at least {0}, so that there are no right sides to learn from")]
    NoRitzVectors(f64),
    /// A configuration is damaged.
    #[error("{0}")]
    Config(String),
    /// The training failed.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// A folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] NetworkFolderError),
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

impl DcdmError {
    /// Whether the work failed, and not what was given to it.
    pub fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Training(_) | Self::Device(_) | Self::Direction { .. }
        )
    }
}

/// `f`: from a residual of norm 1 to a direction.
pub trait DirectionModel {
    /// - `unit_residual`: `[dim]`, of norm 1
    /// - returns a direction, `[dim]`, of any scale and sign
    ///
    /// # Errors
    /// If the residual doesn't fit.
    fn direction(&self, unit_residual: &[f64]) -> Result<Vec<f64>, DcdmError>;
}

/// `f(r) = M r`: the method is then preconditioned conjugate gradients.
#[derive(Clone, Copy, Debug)]
pub struct Fixed<M>(pub M);

impl<M: Preconditioner> DirectionModel for Fixed<M> {
    fn direction(&self, unit_residual: &[f64]) -> Result<Vec<f64>, DcdmError> {
        let mut direction = vec![0.0; unit_residual.len()];
        self.0.apply(unit_residual, &mut direction);
        Ok(direction)
    }
}

impl<F: Fn(&[f64]) -> Vec<f64>> DirectionModel for F {
    fn direction(&self, unit_residual: &[f64]) -> Result<Vec<f64>, DcdmError> {
        Ok(self(unit_residual))
    }
}

/// The solver; see the [module documentation](self).
///
/// ```
/// use nabla_physics::dcdm::Dcdm;
/// use nabla_physics::linear::{Border, ConjugateGradient, Identity, PoissonGrid, SpdOperator};
///
/// let grid = PoissonGrid::new(&[16, 16], Border::Dirichlet)?;
/// let b = vec![1.0; grid.dim()];
/// // The residual itself as the direction: conjugate gradients.
/// let found = Dcdm::default().solve(&grid, &|r: &[f64]| r.to_vec(), &b)?;
/// let cg = ConjugateGradient { tolerance: 1e-4, iterations: 100 }.solve(&grid, &Identity, &b)?;
/// assert_eq!(found.iterations, cg.iterations);
/// # Ok::<(), nabla_physics::dcdm::DcdmError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dcdm {
    /// `k`, the directions that are kept. Default 2.
    pub keep: usize,
    /// The solution has converged when `‖b − A x‖` is at most this times `‖b‖`. Default 1e-4.
    pub tolerance: f64,
    /// The most iterations. Default 100.
    pub iterations: usize,
    /// Whether each residual is computed anew, with a second product. Default true.
    pub recompute_residual: bool,
}

impl Default for Dcdm {
    fn default() -> Self {
        Self {
            keep: 2,
            tolerance: 1e-4,
            iterations: 100,
            recompute_residual: true,
        }
    }
}

/// A direction that was gone along.
struct Kept {
    p: Vec<f64>,
    ap: Vec<f64>,
    alpha: f64,
}

impl Dcdm {
    /// Solves `A x = b` from 0.
    ///
    /// # Errors
    /// If `b` doesn't fit, or a direction cannot be gone along. A solution that has not converged is no error: see
    /// [`Report::converged`].
    pub fn solve(
        &self,
        a: &impl SpdOperator,
        model: &(impl DirectionModel + ?Sized),
        b: &[f64],
    ) -> Result<Report, DcdmError> {
        self.solve_observed(a, model, b, None, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Solves `A x = b` from a start, and tells of every residual.
    ///
    /// # Errors
    /// As [`solve`](Self::solve), and if `observe` breaks.
    pub fn solve_observed(
        &self,
        a: &impl SpdOperator,
        model: &(impl DirectionModel + ?Sized),
        b: &[f64],
        start: Option<&[f64]>,
        observe: Observer<'_>,
    ) -> Result<Report, DcdmError> {
        nabla_base::range::not_negative("tolerance", self.tolerance)?;
        let mut system = System::new(a, b, start)?;
        let (n, kernel) = (a.dim(), a.kernel());
        let goal = self.tolerance * system.b_norm();
        let (mut r, mut length) = system.begin();
        let mut residuals = vec![system.share(length)];
        let mut kept: VecDeque<Kept> = VecDeque::with_capacity(self.keep + 1);
        let mut iterations = 0;
        let mut known = start.is_some() || system.b_norm() == 0.0;
        loop {
            if observe(iterations, system.share(length)).is_break() {
                return Err(LinearError::Cancelled.into());
            }
            if length <= goal && !known {
                length = system.residual(&mut r);
                known = true;
            }
            if length <= goal || iterations == self.iterations {
                break;
            }
            let unit: Vec<f64> = r.iter().map(|r| r / length).collect();
            let mut q = model.direction(&unit)?;
            if q.len() != n {
                return Err(DcdmError::Length {
                    what: "direction of the model",
                    expected: n,
                    found: q.len(),
                });
            }
            kernel.project(&mut q);
            // Classical Gram-Schmidt.
            let shares: Vec<f64> = kept.iter().map(|k| dot(&q, &k.ap) / k.alpha).collect();
            for (kept, share) in kept.iter().zip(shares) {
                add_scaled(&mut q, -share, &kept.p);
            }
            let mut aq = vec![0.0; n];
            system.product(&q, &mut aq);
            let alpha = dot(&q, &aq);
            if !(alpha > 0.0 && alpha.is_finite()) {
                return Err(DcdmError::Direction {
                    iteration: iterations + 1,
                    value: alpha,
                });
            }
            let beta = dot(&q, &r);
            length = step(&mut system.x, &mut r, &q, &aq, beta / alpha);
            known = self.recompute_residual;
            if known {
                length = system.residual(&mut r);
            }
            kept.push_back(Kept {
                p: q,
                ap: aq,
                alpha,
            });
            if kept.len() > self.keep {
                kept.pop_front();
            }
            iterations += 1;
            residuals.push(system.share(length));
        }
        if !known {
            length = system.residual(&mut r);
        }
        Ok(system.report(residuals, iterations, length, length <= goal))
    }
}

/// Keeps `qᵀAq` from 0 in the loss: a network may begin with next to nothing.
const GUARD: f64 = 1e-30;

/// The loss, `[1]`: the mean over the batch of
///
/// ```text
/// ℓ = ‖b − a A q‖²,   a = qᵀb / qᵀAq
/// ```
///
/// for `q = f(b)`. It knows no solution, and does not change with the scale of `q`. `a` is the step of the solver, not the one
/// that makes `ℓ` least, so `ℓ` may exceed `‖b‖²`.
///
/// Products are those of `A` in `f64`, and its gradient is written out, `a` being a part of the graph:
///
/// ```text
/// ∂ℓ/∂q = −2 [ (rᵀAq)/α (b − 2 a A q) + a A r ],   α = qᵀAq,  r = b − a A q
/// ```
///
/// - `q`: `[batch, dim]`
/// - `b`: right sides, `batch · dim` numbers
///
/// # Errors
/// If the shapes don't fit.
pub fn dcdm_loss(a: &impl SpdOperator, q: &Tensor<2>, b: &[f64]) -> Result<Tensor<1>, DcdmError> {
    let [batch, n] = q.dims();
    for (what, expected, found) in [
        ("direction", a.dim(), n),
        ("batch of right sides", batch * n, b.len()),
    ] {
        if expected != found {
            return Err(DcdmError::Length {
                what,
                expected,
                found,
            });
        }
    }
    let (device, dtype) = (q.device(), q.dtype());
    let values = q.clone().detach().try_into_vec_as::<f64>();
    let mut values = values.map_err(|error| DcdmError::Device(error.to_string()))?;
    let losses: Vec<f64> = values
        .par_chunks_mut(n)
        .zip(b.par_chunks(n))
        .map(|(q, b)| {
            let loss = of_one(a, q, b);
            // In place of q, the gradient of the mean.
            q.iter_mut().for_each(|q| *q /= batch as f64);
            loss
        })
        .collect();
    let loss = losses.iter().sum::<f64>() / batch as f64;
    let data = TensorData::new(values, [batch, n]);
    let gradient = Tensor::<2>::from_data(data, (&device, dtype));
    // The value of qᵀ∂ℓ/∂q is 0 but for rounding, since the scale of q does not matter.
    let carrier = (q.clone() * gradient).sum();
    Ok(carrier.clone() - carrier.detach() + loss)
}

/// `ℓ` of one sample; `q` becomes its gradient.
fn of_one(a: &impl SpdOperator, q: &mut [f64], b: &[f64]) -> f64 {
    let n = q.len();
    let inner = nabla_base::vector::dot;
    a.kernel().project(q);
    let (mut aq, mut ar) = (vec![0.0; n], vec![0.0; n]);
    a.apply(q, &mut aq);
    let alpha = inner(q, &aq) + GUARD;
    let step = inner(q, b) / alpha;
    let r: Vec<f64> = b.iter().zip(&aq).map(|(b, aq)| b - step * aq).collect();
    a.apply(&r, &mut ar);
    let share = inner(&r, &aq) / alpha;
    for (((q, b), aq), ar) in q.iter_mut().zip(b).zip(&aq).zip(&ar) {
        *q = -2.0 * (share * (b - 2.0 * step * aq) + step * ar);
    }
    a.kernel().project(q);
    inner(&r, &r)
}
