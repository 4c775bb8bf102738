//! Linear systems `A x = b` with a sparse, symmetric and positive definite `A`, by conjugate gradients.
//!
//! ```text
//! r = b − A x,  z = M r,  p = z
//! repeat:  α = rᵀz / pᵀAp,  x ← x + α p,  r ← r − α A p,  z = M r,  β = rᵀz / (rᵀz before),  p ← z + β p
//! ```
//!
//! There is one loop, [`ConjugateGradient`]. It asks an [`SpdOperator`] for products, which is a [`SparseMatrix`] or, without a
//! matrix, a [`PoissonGrid`] of two or three dimensions with obstacles; and a [`Preconditioner`] for `M r`:
//!
//! * [`Identity`]: conjugate gradients without one;
//! * [`Jacobi`]: the inverse of the diagonal;
//! * [`IncompleteCholesky`]: factors with the pattern of `A`;
//! * [`Multigrid`]: a cycle over coarser and coarser matrices, by smoothed aggregation;
//! * [`Deflation`]: another preconditioner outside of a space that is solved exactly.
//!
//! A solution comes with its true residual, `‖b − A x‖ / ‖b‖` computed anew, which is what decides whether it has converged:
//! rounding makes the residual of the recurrence smaller than that.
//!
//! Matrices may be singular where the solution is only known up to a constant (a region of Neumann borders alone), and where rows
//! are zero (cells of an obstacle). [`Kernel`] finds these, and they are kept out of residuals and solutions.
//!
//! All of it is in `f64`; results don't depend on the number of threads.
//!
//! ```
//! use nabla_physics::linear::{Border, ConjugateGradient, IncompleteCholesky, PoissonGrid, SpdOperator};
//!
//! let grid = PoissonGrid::new(&[32, 32], Border::Dirichlet)?;
//! let b = vec![1.0; grid.dim()];
//! let preconditioner = IncompleteCholesky::new(&grid.matrix())?;
//! let report = ConjugateGradient::default().solve(&grid, &preconditioner, &b)?;
//! assert!(report.converged && report.true_residual < 1e-8);
//! # Ok::<(), nabla_physics::linear::LinearError>(())
//! ```
//!
//! Sources: Hestenes, Stiefel, *Methods of Conjugate Gradients for Solving Linear Systems*, 1952; Meijerink, van der Vorst, *An
//! Iterative Solution Method for Linear Systems of Which the Coefficient Matrix is a Symmetric M-Matrix*, 1977; Vaněk, Mandel,
//! Brezina, *Algebraic Multigrid by Smoothed Aggregation for Second and Fourth Order Elliptic Problems*, 1996; Saad, Yeung,
//! Erhel, Guyomarc'h, *A Deflated Version of the Conjugate Gradient Algorithm*, 2000.

use std::ops::ControlFlow;

use nabla_base::range::{self, OutOfRange};
use nabla_grad::curvature::{CurvatureError, add_scaled, dot, norm};
use nabla_grad::spectrum::SpectrumError;
use rayon::prelude::*;

mod deflation;
mod incomplete_cholesky;
mod jacobi;
mod kernel;
mod multigrid;
mod poisson;
mod sparse;
#[cfg(test)]
mod tests;

pub use deflation::{Deflation, ritz_pairs};
pub use incomplete_cholesky::IncompleteCholesky;
pub use jacobi::Jacobi;
pub use kernel::Kernel;
pub use multigrid::{Multigrid, MultigridConfig};
pub use poisson::{Border, Cell, PoissonGrid};
pub use sparse::SparseMatrix;

/// The numbers that one thread works on at once; fixed, so that sums don't depend on the number of threads.
pub(crate) const CHUNK: usize = 16_384;

/// Why a system cannot be solved. Rows and columns are counted from 0, in messages from 1 as in files.
#[derive(Debug, thiserror::Error)]
pub enum LinearError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A vector or a mask has another length.
    #[error("the {what} has {found} numbers, but the matrix has {expected} rows")]
    Length {
        /// Which vector.
        what: &'static str,
        /// The rows of the matrix.
        expected: usize,
        /// Of the vector.
        found: usize,
    },
    /// A number is not finite.
    #[error("number {} of the {what} is {value}, but it must be finite", index + 1)]
    NotFinite {
        /// Which vector.
        what: &'static str,
        /// From 0.
        index: usize,
        /// The number.
        value: f64,
    },
    /// The matrix is not square.
    #[error("the matrix has {rows} rows and {columns} columns, but it must be square")]
    NotSquare {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
    /// The matrix has no rows.
    #[error("the matrix has no rows")]
    Empty,
    /// The matrix has too many entries for indices of 32 bits.
    #[error("the matrix has {0} rows or entries, but the most are 2147483647")]
    TooLarge(usize),
    /// An entry is not finite.
    #[error("the entry ({}, {}) of the matrix is {value}, but it must be finite", row + 1, column + 1)]
    Entry {
        /// From 0.
        row: usize,
        /// From 0.
        column: usize,
        /// The entry.
        value: f64,
    },
    /// The matrix is not symmetric.
    #[error(
        "the matrix is not symmetric: its entry ({}, {}) is {value}, but ({}, {}) is {other}",
        row + 1, column + 1, column + 1, row + 1
    )]
    NotSymmetric {
        /// From 0.
        row: usize,
        /// From 0.
        column: usize,
        /// The entry.
        value: f64,
        /// Its mirror image.
        other: f64,
    },
    /// A diagonal entry shows that the matrix is not positive definite.
    #[error(
        "the matrix is not positive definite: its entry ({0}, {0}) on the diagonal is {value}",
        row + 1
    )]
    Diagonal {
        /// From 0.
        row: usize,
        /// The entry.
        value: f64,
    },
    /// A direction shows that the matrix is not positive definite.
    #[error(
        "the matrix is not positive definite: in iteration {iteration}, pᵀAp is {value} for a direction p"
    )]
    NotPositive {
        /// From 1.
        iteration: usize,
        /// `pᵀAp`.
        value: f64,
    },
    /// A preconditioner is not positive definite.
    #[error(
        "the preconditioner is not positive definite: in iteration {iteration}, rᵀMr is {value} for a residual r"
    )]
    Preconditioner {
        /// From 1.
        iteration: usize,
        /// `rᵀMr`.
        value: f64,
    },
    /// No shift makes a factorisation possible.
    #[error(
        "the matrix has no incomplete Cholesky factors: in row {}, the pivot is {pivot} even with {shift} of the diagonal added",
        row + 1
    )]
    Pivot {
        /// From 0.
        row: usize,
        /// The last pivot.
        pivot: f64,
        /// The largest shift that was tried, relative to the diagonal.
        shift: f64,
    },
    /// A grid has no such form.
    #[error("{0}")]
    Grid(String),
    /// A matrix could not be made or multiplied.
    #[error("cannot form a matrix: {0}")]
    Matrix(String),
    /// The eigenvalues for a deflation or a data set cannot be found.
    #[error(transparent)]
    Spectrum(#[from] SpectrumError),
    /// A product failed.
    #[error(transparent)]
    Product(#[from] CurvatureError),
    /// The observer ended the work.
    #[error("the iteration was ended by its observer")]
    Cancelled,
}

/// A symmetric, positive semi-definite matrix that is known by its products.
pub trait SpdOperator: Sync {
    /// Rows, which are as many as columns.
    fn dim(&self) -> usize;

    /// `y = A x`, `[dim]` both.
    fn apply(&self, x: &[f64], y: &mut [f64]);

    /// The diagonal, `[dim]`.
    fn diagonal(&self) -> Vec<f64>;

    /// The part of the kernel that is known.
    fn kernel(&self) -> &Kernel;
}

impl<A: SpdOperator + ?Sized> SpdOperator for &A {
    fn dim(&self) -> usize {
        (**self).dim()
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        (**self).apply(x, y);
    }

    fn diagonal(&self) -> Vec<f64> {
        (**self).diagonal()
    }

    fn kernel(&self) -> &Kernel {
        (**self).kernel()
    }
}

/// `M`, an approximation of `A⁻¹`: fixed, symmetric and positive definite.
pub trait Preconditioner: Sync {
    /// `z = M r`, `[dim]` both.
    fn apply(&self, r: &[f64], z: &mut [f64]);

    /// What is added to the start, given its residual; nothing by default.
    fn start(&self, _r: &[f64]) -> Option<Vec<f64>> {
        None
    }
}

impl<M: Preconditioner + ?Sized> Preconditioner for &M {
    fn apply(&self, r: &[f64], z: &mut [f64]) {
        (**self).apply(r, z);
    }

    fn start(&self, r: &[f64]) -> Option<Vec<f64>> {
        (**self).start(r)
    }
}

impl<M: Preconditioner + ?Sized> Preconditioner for Box<M>
where
    Box<M>: Sync,
{
    fn apply(&self, r: &[f64], z: &mut [f64]) {
        (**self).apply(r, z);
    }

    fn start(&self, r: &[f64]) -> Option<Vec<f64>> {
        (**self).start(r)
    }
}

/// `M = I`: no preconditioner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity;

impl Preconditioner for Identity {
    fn apply(&self, r: &[f64], z: &mut [f64]) {
        z.copy_from_slice(r);
    }
}

/// A solution, and how good it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// `x`, `[dim]`.
    pub x: Vec<f64>,
    /// `‖r‖ / ‖b‖` of the start and after each iteration, as the method knows it.
    pub residuals: Vec<f64>,
    /// Iterations done.
    pub iterations: usize,
    /// Products with `A`.
    pub products: usize,
    /// Whether the true residual is within the tolerance.
    pub converged: bool,
    /// `‖b − A x‖ / ‖b‖`, computed anew from `x`; 0 if `b` is 0.
    pub true_residual: f64,
    /// The part of `b` that no `x` can give since it lies in the known [kernel](Kernel) of `A`, relative to `‖b‖`. The system
    /// is solved without it, and residuals are those of what is left.
    pub inconsistent: f64,
}

/// What a loop does with a residual; see [`ConjugateGradient::solve_observed`].
///
/// - iterations done, from 0
/// - `‖r‖ / ‖b‖`
pub type Observer<'a> = &'a mut dyn FnMut(usize, f64) -> ControlFlow<()>;

/// The loop; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConjugateGradient {
    /// The solution has converged when `‖b − A x‖` is at most this times `‖b‖`. Default 1e-8.
    pub tolerance: f64,
    /// The most iterations. Default 10,000.
    pub iterations: usize,
}

impl Default for ConjugateGradient {
    fn default() -> Self {
        Self {
            tolerance: 1e-8,
            iterations: 10_000,
        }
    }
}

/// A system whose right side is in the range of `A` as far as that is known, and how far it is solved.
pub(crate) struct System<'a, A> {
    a: &'a A,
    /// `b` without its part in the kernel.
    b: Vec<f64>,
    b_norm: f64,
    pub(crate) x: Vec<f64>,
    /// Whether `x` began at 0.
    from_zero: bool,
    inconsistent: f64,
    products: usize,
}

impl<'a, A: SpdOperator> System<'a, A> {
    /// - `start`: 0 if it is not given
    pub(crate) fn new(a: &'a A, b: &[f64], start: Option<&[f64]>) -> Result<Self, LinearError> {
        check("right side", b, a.dim())?;
        if let Some(start) = start {
            check("start", start, a.dim())?;
        }
        let mut b = b.to_vec();
        let whole = norm(&b);
        if !whole.is_finite() {
            return Err(OutOfRange::new("norm of the right side", whole, "finite").into());
        }
        let removed = a.kernel().project(&mut b);
        let b_norm = norm(&b);
        Ok(Self {
            a,
            b,
            b_norm,
            x: start.map_or_else(|| vec![0.0; a.dim()], <[f64]>::to_vec),
            from_zero: start.is_none(),
            inconsistent: relative(removed, whole),
            products: 0,
        })
    }

    /// The residual at the start, and its norm.
    pub(crate) fn begin(&mut self) -> (Vec<f64>, f64) {
        let mut r = self.b.clone();
        let length = match self.from_zero {
            true => self.b_norm,
            false => self.residual(&mut r),
        };
        (r, length)
    }

    /// `‖b‖`.
    pub(crate) fn b_norm(&self) -> f64 {
        self.b_norm
    }

    /// A norm as a share of `‖b‖`.
    pub(crate) fn share(&self, length: f64) -> f64 {
        relative(length, self.b_norm)
    }

    /// `y = A x` of another vector.
    pub(crate) fn product(&mut self, x: &[f64], y: &mut [f64]) {
        self.products += 1;
        self.a.apply(x, y);
    }

    /// What was found, with a true residual of this norm.
    pub(crate) fn report(
        mut self,
        residuals: Vec<f64>,
        iterations: usize,
        length: f64,
        converged: bool,
    ) -> Report {
        self.a.kernel().project(&mut self.x);
        Report {
            residuals,
            iterations,
            products: self.products,
            converged,
            true_residual: self.share(length),
            inconsistent: self.inconsistent,
            x: self.x,
        }
    }

    /// `r = b − A x`, and its norm.
    pub(crate) fn residual(&mut self, r: &mut [f64]) -> f64 {
        self.products += 1;
        self.a.apply(&self.x, r);
        let chunks = r.par_chunks_mut(CHUNK).zip(self.b.par_chunks(CHUNK));
        chunks.for_each(|(r, b)| r.iter_mut().zip(b).for_each(|(r, b)| *r = b - *r));
        norm(r)
    }
}

/// `part / whole`, and 0 of nothing.
fn relative(part: f64, whole: f64) -> f64 {
    if part == 0.0 { 0.0 } else { part / whole }
}

/// Refuses vectors of another length or with numbers that are not finite.
pub(crate) fn check(
    what: &'static str,
    values: &[f64],
    expected: usize,
) -> Result<(), LinearError> {
    if values.len() != expected {
        return Err(LinearError::Length {
            what,
            expected,
            found: values.len(),
        });
    }
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(LinearError::NotFinite {
            what,
            index,
            value: values[index],
        }),
    }
}

impl ConjugateGradient {
    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::not_negative("tolerance", self.tolerance)
    }

    /// Solves `A x = b` from 0.
    ///
    /// - `b`: `[dim]`
    ///
    /// # Errors
    /// If `b` doesn't fit or is not finite, or `A` or `M` turns out not to be positive definite. A solution that has not
    /// converged is no error: see [`Report::converged`].
    pub fn solve(
        &self,
        a: &impl SpdOperator,
        m: &impl Preconditioner,
        b: &[f64],
    ) -> Result<Report, LinearError> {
        self.solve_observed(a, m, b, None, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Solves `A x = b` from a start, and tells of every residual.
    ///
    /// # Errors
    /// As [`solve`](Self::solve), and if `observe` breaks.
    pub fn solve_observed(
        &self,
        a: &impl SpdOperator,
        m: &impl Preconditioner,
        b: &[f64],
        start: Option<&[f64]>,
        observe: Observer<'_>,
    ) -> Result<Report, LinearError> {
        self.validate()?;
        let mut system = System::new(a, b, start)?;
        let (n, kernel) = (a.dim(), a.kernel());
        let goal = self.tolerance * system.b_norm();
        let (mut r, mut length) = system.begin();
        if let Some(more) = m.start(&r) {
            add_scaled(&mut system.x, 1.0, &more);
            length = system.residual(&mut r);
        }
        let (mut z, mut ap) = (vec![0.0; n], vec![0.0; n]);
        let mut p: Vec<f64> = Vec::new();
        let mut rz_before = 0.0;
        let mut residuals = vec![system.share(length)];
        let mut iterations = 0;
        // The true residual where the recurrence last met the goal.
        let mut met = f64::INFINITY;
        let mut known = None;
        loop {
            if observe(iterations, system.share(length)).is_break() {
                return Err(LinearError::Cancelled);
            }
            if length <= goal {
                let found = system.residual(&mut r);
                known = Some(found);
                // Rounding ends the descent where a restart no longer helps.
                if found <= goal || found > 0.5 * met {
                    break;
                }
                met = found;
                p.clear();
            }
            if iterations == self.iterations {
                break;
            }
            known = None;
            m.apply(&r, &mut z);
            kernel.project(&mut z);
            let rz = dot(&r, &z);
            if !(rz > 0.0 && rz.is_finite()) {
                return Err(LinearError::Preconditioner {
                    iteration: iterations + 1,
                    value: rz,
                });
            }
            match p.is_empty() {
                true => p = z.clone(),
                false => {
                    let beta = rz / rz_before;
                    let chunks = p.par_chunks_mut(CHUNK).zip(z.par_chunks(CHUNK));
                    chunks.for_each(|(p, z)| {
                        p.iter_mut().zip(z).for_each(|(p, z)| *p = z + beta * *p);
                    });
                }
            }
            rz_before = rz;
            system.product(&p, &mut ap);
            let pap = dot(&p, &ap);
            if !(pap > 0.0 && pap.is_finite()) {
                return Err(LinearError::NotPositive {
                    iteration: iterations + 1,
                    value: pap,
                });
            }
            length = step(&mut system.x, &mut r, &p, &ap, rz / pap);
            iterations += 1;
            residuals.push(system.share(length));
        }
        let length = known.unwrap_or_else(|| system.residual(&mut r));
        Ok(system.report(residuals, iterations, length, length <= goal))
    }
}

/// `x ← x + α p`, `r ← r − α q`, and `‖r‖`, in one pass.
pub(crate) fn step(x: &mut [f64], r: &mut [f64], p: &[f64], q: &[f64], alpha: f64) -> f64 {
    let to = x.par_chunks_mut(CHUNK).zip(r.par_chunks_mut(CHUNK));
    let from = p.par_chunks(CHUNK).zip(q.par_chunks(CHUNK));
    let parts: Vec<f64> = to
        .zip(from)
        .map(|((x, r), (p, q))| {
            let (x, r) = (x.iter_mut().zip(p), r.iter_mut().zip(q));
            x.zip(r)
                .map(|((x, p), (r, q))| {
                    *x += alpha * p;
                    *r -= alpha * q;
                    *r * *r
                })
                .sum()
        })
        .collect();
    parts.iter().sum::<f64>().sqrt()
}
