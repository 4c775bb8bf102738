//! Recovering a low-rank matrix from linear measurements by gradient descent on its factors, if the true rank
//! is unknown.
//!
//! Measurements `y = 𝒜(M*)`, `y_i = ⟨A_i, M*⟩`, of a matrix of rank `r`; factors of width `k ≥ r`;
//! and `E = 𝒜*(𝒜(·) − y)` for the current product:
//!
//! ```text
//! symmetric    L(X) = ¼ ‖𝒜(XXᵀ) − y‖²     X ← X − η ½(E + Eᵀ) X
//! asymmetric   L(F,G) = ½ ‖𝒜(FGᵀ) − y‖²   F ← F − η E G,   G ← G − η Eᵀ F    (at once)
//! ```
//!
//! from small random factors: `X_0 = α X̃` or `F_0 = α F̃`, `G_0 = α/3 G̃`, with entries
//! `N(0, 1/n)`. How fast the squared error `‖· − M*‖²` falls depends on the parameterisation:
//!
//! | | `k = r` | `k > r` |
//! |---|---|---|
//! | symmetric | `exp(−Ω(T))` | `Ω(1/T²)`: slow, whatever the start |
//! | asymmetric | `exp(−Ω(T))` | `exp(−Ω(α² T))`: the imbalance `FᵀF − GᵀG`, nearly conserved, shrinks the surplus directions |
//! | asymmetric, [rebalanced](AsymmetricFactors::rebalance) once | | `exp(−Ω(β² T))`, independent of `α` |
//!
//! The modification, done once when the error is small: with the thin singular value decomposition
//! `F = A S B`,
//!
//! ```text
//! F ← β A B,   G ← G Bᵀ (S/β) B
//! ```
//!
//! which does not change `FGᵀ` and gives all singular values of `F` the size `β`.
//!
//! Everything is `f64`: rates are read at errors of 1e-10 to 1e-25.
//!
//! Source: Xiong, Ding, Du, *How Over-Parameterization Slows Down Gradient Descent in Matrix
//! Sensing: The Curses of Symmetry and Initialization*, ICLR 2024, arXiv 2310.01769.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::squared_norm;
use nabla_grad::seeded_noise::SeededNoise;

/// The reason why a matrix cannot be sensed or factored.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MatrixSensingError {
    /// A width, a size or another number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The number of measurements is not that of the operator.
    #[error("the operator makes {expected} measurements, but {found} were given")]
    Count {
        /// Of the operator.
        expected: usize,
        /// Of the data.
        found: usize,
    },
    /// The matrix has the wrong size.
    #[error(
        "the operator measures matrices of {} x {}, but this one is {} x {}",
        expected[0], expected[1], found[0], found[1]
    )]
    Shape {
        /// Of the operator.
        expected: [usize; 2],
        /// Of the matrix.
        found: [usize; 2],
    },
    /// The symmetric form needs a square matrix.
    #[error("the symmetric form needs a square matrix, but this one is {rows} x {columns}")]
    NotSquare {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
    /// A factor without full rank cannot be rebalanced.
    #[error(
        "the factor cannot be rebalanced: its smallest singular value {smallest:e} is below \
         {limit:e} times the largest"
    )]
    Singular {
        /// The smallest singular value.
        smallest: f64,
        /// The required share of the largest.
        limit: f64,
    },
    /// The steps lead to numbers that are not finite.
    #[error("the factors are no longer finite: lower the step size")]
    Diverged,
}

/// A linear map `𝒜` from matrices to measurements.
pub trait LinearMeasurement {
    /// Rows and columns of the matrices.
    fn shape(&self) -> [usize; 2];

    /// Number of measurements.
    fn count(&self) -> usize;

    /// `𝒜(M)` of a matrix of [`shape`](Self::shape), `[count]`.
    fn forward(&self, matrix: MatRef<'_, f64>) -> Vec<f64>;

    /// `𝒜*(z) = Σ z_i A_i` of `[count]` numbers.
    fn adjoint(&self, z: &[f64]) -> Mat<f64>;
}

/// Every entry is measured, `𝒜 = I`: matrix factorisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullObservation {
    rows: usize,
    columns: usize,
}

impl FullObservation {
    /// Of matrices of `rows x columns`.
    ///
    /// # Errors
    /// If one is 0.
    pub fn new(rows: usize, columns: usize) -> Result<Self, MatrixSensingError> {
        check_sizes([("number of rows", rows), ("number of columns", columns)])?;
        Ok(Self { rows, columns })
    }
}

impl LinearMeasurement for FullObservation {
    fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    fn count(&self) -> usize {
        self.rows * self.columns
    }

    fn forward(&self, matrix: MatRef<'_, f64>) -> Vec<f64> {
        entries(matrix)
    }

    fn adjoint(&self, z: &[f64]) -> Mat<f64> {
        Mat::from_fn(self.rows, self.columns, |i, j| z[j * self.rows + i])
    }
}

/// Independent Gaussian `A_i` with entries `N(0, 1/m)`, for which `𝒜*𝒜` is close to the identity on matrices
/// of low rank (the restricted isometry property) once `m` is a multiple of `(rows + columns) k`.
#[derive(Clone, Debug)]
pub struct GaussianSensing {
    /// `[measurements, rows · columns]`, columns of the matrices one after the other.
    matrices: Mat<f64>,
    rows: usize,
    columns: usize,
}

impl GaussianSensing {
    /// `measurements` matrices of `rows x columns`, drawn from `seed`.
    ///
    /// # Errors
    /// If a size is 0.
    pub fn new(
        rows: usize,
        columns: usize,
        measurements: usize,
        seed: u64,
    ) -> Result<Self, MatrixSensingError> {
        check_sizes([
            ("number of rows", rows),
            ("number of columns", columns),
            ("number of measurements", measurements),
        ])?;
        let mut noise = SeededNoise::new(seed, 0);
        let scale = 1.0 / (measurements as f64).sqrt();
        let values = noise.normal_values(measurements * rows * columns);
        let matrices = Mat::from_fn(measurements, rows * columns, |i, j| {
            scale * f64::from(values[i * rows * columns + j])
        });
        Ok(Self {
            matrices,
            rows,
            columns,
        })
    }

    /// Reduces the measurements to at most as many as a matrix has entries, for the same problem: the result is the
    /// factor `R` of the decomposition `𝒜 = QR`, for which `R*R = 𝒜*𝒜`. With the measurements that it makes itself,
    /// losses and steps equal those of `𝒜` except for rounding, and their cost falls in proportion to the number of
    /// measurements.
    pub fn condensed(self) -> Self {
        let entries = self.rows * self.columns;
        if self.matrices.nrows() <= entries {
            return self;
        }
        let qr = self.matrices.qr();
        let r = qr.thin_R();
        let above = |i: usize, j: usize| if i <= j { r[(i, j)] } else { 0.0 };
        Self {
            matrices: Mat::from_fn(entries, entries, above),
            ..self
        }
    }
}

impl LinearMeasurement for GaussianSensing {
    fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    fn count(&self) -> usize {
        self.matrices.nrows()
    }

    fn forward(&self, matrix: MatRef<'_, f64>) -> Vec<f64> {
        let vector = Mat::from_fn(self.rows * self.columns, 1, |i, _| {
            matrix[(i % self.rows, i / self.rows)]
        });
        entries((self.matrices.as_ref() * vector.as_ref()).as_ref())
    }

    fn adjoint(&self, z: &[f64]) -> Mat<f64> {
        let z = Mat::from_fn(z.len(), 1, |i, _| z[i]);
        let sum = self.matrices.transpose() * z.as_ref();
        Mat::from_fn(self.rows, self.columns, |i, j| sum[(j * self.rows + i, 0)])
    }
}

/// Measurements and their operator.
#[derive(Clone, Debug)]
struct Problem<A> {
    operator: A,
    measured: Vec<f64>,
}

impl<A: LinearMeasurement> Problem<A> {
    fn new(operator: A, measured: Vec<f64>) -> Result<Self, MatrixSensingError> {
        if measured.len() == operator.count() {
            Ok(Self { operator, measured })
        } else {
            Err(MatrixSensingError::Count {
                expected: operator.count(),
                found: measured.len(),
            })
        }
    }

    /// `𝒜(M) − y`.
    fn residual(&self, matrix: MatRef<'_, f64>) -> Vec<f64> {
        let mut residual = self.operator.forward(matrix);
        for (r, y) in residual.iter_mut().zip(&self.measured) {
            *r -= y;
        }
        residual
    }
}

/// The start of the factors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FactorStart {
    /// Width `k` of the factors.
    pub rank: usize,
    /// `α`, the scale of the first factor.
    pub scale: f64,
    /// The scale of the second factor as a share of `α`. Default 1/3, as in the paper.
    pub imbalance: f64,
    /// The seed of the random entries. Default 0.
    pub seed: u64,
}

impl FactorStart {
    /// Factors of the width `rank` and the scale `scale`.
    pub fn new(rank: usize, scale: f64) -> Self {
        Self {
            rank,
            scale,
            imbalance: 1.0 / 3.0,
            seed: 0,
        }
    }

    fn check(&self, shape: [usize; 2]) -> Result<(), MatrixSensingError> {
        let largest = shape[0].min(shape[1]);
        range::within("factors' width", self.rank, 1..=largest)?;
        range::positive("scale of the start", self.scale)?;
        Ok(range::positive("imbalance of the start", self.imbalance)?)
    }

    /// Entries `N(0, scale²/rows)`.
    fn draw(&self, rows: usize, scale: f64, stream: u64) -> Mat<f64> {
        let values = SeededNoise::new(self.seed, stream).normal_values(rows * self.rank);
        let scale = scale / (rows as f64).sqrt();
        Mat::from_fn(rows, self.rank, |i, j| {
            scale * f64::from(values[i * self.rank + j])
        })
    }
}

/// Gradient descent on `XXᵀ`; see the [module](self).
#[derive(Clone, Debug)]
pub struct SymmetricFactors<A> {
    problem: Problem<A>,
    /// `X`, `[n, k]`.
    x: Mat<f64>,
}

impl<A: LinearMeasurement> SymmetricFactors<A> {
    /// Creates the start, before the first step.
    ///
    /// # Errors
    /// If the matrices are not square, the start does not fit, or the number of measurements is wrong.
    pub fn new(
        operator: A,
        measured: Vec<f64>,
        start: FactorStart,
    ) -> Result<Self, MatrixSensingError> {
        let [rows, columns] = operator.shape();
        if rows != columns {
            return Err(MatrixSensingError::NotSquare { rows, columns });
        }
        start.check([rows, columns])?;
        Ok(Self {
            x: start.draw(rows, start.scale, 0),
            problem: Problem::new(operator, measured)?,
        })
    }

    /// `X`, `[n, k]`.
    pub fn factor(&self) -> MatRef<'_, f64> {
        self.x.as_ref()
    }

    /// `XXᵀ`.
    pub fn matrix(&self) -> Mat<f64> {
        self.x.as_ref() * self.x.transpose()
    }

    /// `L = ¼ ‖𝒜(XXᵀ) − y‖²`.
    pub fn loss(&self) -> f64 {
        0.25 * squared_norm(&self.problem.residual(self.matrix().as_ref()))
    }

    /// One step of the size `η`; about `1/(4 σ_1)` is the largest that is stable.
    ///
    /// # Errors
    /// If the step size is not positive, or the factors are not finite afterwards.
    pub fn step(&mut self, step_size: f64) -> Result<(), MatrixSensingError> {
        range::positive("step size", step_size)?;
        let residual = self.problem.residual(self.matrix().as_ref());
        let e = self.problem.operator.adjoint(&residual);
        let symmetric = Mat::from_fn(e.nrows(), e.ncols(), |i, j| 0.5 * (e[(i, j)] + e[(j, i)]));
        let old = self.x.clone();
        descend(&mut self.x, symmetric.as_ref(), old.as_ref(), step_size);
        finite(&self.x)
    }
}

/// Gradient descent on `FGᵀ`; see the [module](self).
///
/// ```
/// use faer::Mat;
/// use nabla_solve::matrix_sensing::{
///     AsymmetricFactors, FactorStart, FullObservation, LinearMeasurement, squared_distance,
/// };
///
/// let truth = Mat::from_fn(20, 20, |i, j| if i == j && i < 2 { 1.0 } else { 0.0 });
/// let operator = FullObservation::new(20, 20)?;
/// let y = operator.forward(truth.as_ref());
/// let mut factors = AsymmetricFactors::new(operator, y, FactorStart::new(4, 0.1))?;
/// for _ in 0..100 {
///     factors.step(0.25)?;
/// }
/// factors.rebalance(1.0)?;
/// for _ in 0..100 {
///     factors.step(0.25)?;
/// }
/// assert!(squared_distance(factors.matrix().as_ref(), truth.as_ref())? < 1e-20);
/// # Ok::<(), nabla_solve::matrix_sensing::MatrixSensingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct AsymmetricFactors<A> {
    problem: Problem<A>,
    /// `F`, `[rows, k]`.
    f: Mat<f64>,
    /// `G`, `[columns, k]`.
    g: Mat<f64>,
}

/// The minimum share of its largest singular value that the smallest singular value of a factor must have to
/// be rebalanced.
const SINGULAR: f64 = 1e-12;

impl<A: LinearMeasurement> AsymmetricFactors<A> {
    /// Creates the start, before the first step.
    ///
    /// # Errors
    /// If the start does not fit, or the number of measurements is wrong.
    pub fn new(
        operator: A,
        measured: Vec<f64>,
        start: FactorStart,
    ) -> Result<Self, MatrixSensingError> {
        let [rows, columns] = operator.shape();
        start.check([rows, columns])?;
        Ok(Self {
            f: start.draw(rows, start.scale, 0),
            g: start.draw(columns, start.scale * start.imbalance, 1),
            problem: Problem::new(operator, measured)?,
        })
    }

    /// `F` and `G`, `[rows, k]` and `[columns, k]`.
    pub fn factors(&self) -> [MatRef<'_, f64>; 2] {
        [self.f.as_ref(), self.g.as_ref()]
    }

    /// `FGᵀ`.
    pub fn matrix(&self) -> Mat<f64> {
        self.f.as_ref() * self.g.transpose()
    }

    /// `FᵀF − GᵀG`, which gradient descent nearly conserves, `[k, k]`.
    pub fn imbalance(&self) -> Mat<f64> {
        self.f.transpose() * self.f.as_ref() - self.g.transpose() * self.g.as_ref()
    }

    /// `L = ½ ‖𝒜(FGᵀ) − y‖²`, which shows the user when the error is small, because the truth is unknown.
    pub fn loss(&self) -> f64 {
        0.5 * squared_norm(&self.problem.residual(self.matrix().as_ref()))
    }

    /// One step of the size `η`; about `1/(4 σ_1)` is the largest that is stable.
    ///
    /// # Errors
    /// If the step size is not positive, or the factors are not finite afterwards.
    pub fn step(&mut self, step_size: f64) -> Result<(), MatrixSensingError> {
        range::positive("step size", step_size)?;
        let residual = self.problem.residual(self.matrix().as_ref());
        let e = self.problem.operator.adjoint(&residual);
        let old = self.f.clone();
        descend(&mut self.f, e.as_ref(), self.g.as_ref(), step_size);
        descend(&mut self.g, e.transpose(), old.as_ref(), step_size);
        finite(&self.f)?;
        finite(&self.g)
    }

    /// The one modified step: gives all singular values of `F` the size `β` and does not change `FGᵀ`. Do it
    /// once, when [`loss`](Self::loss) is small; `β` of the order of `√σ_1` is fast.
    ///
    /// # Errors
    /// If `β` is not positive, or `F` does not have full column rank.
    pub fn rebalance(&mut self, beta: f64) -> Result<(), MatrixSensingError> {
        range::positive("size of the singular values", beta)?;
        let svd = self
            .f
            .thin_svd()
            .map_err(|_| MatrixSensingError::Diverged)?;
        // F = U S Vᵀ; the paper's A is U and its B is Vᵀ.
        let (u, s, v) = (svd.U(), svd.S().column_vector(), svd.V());
        let k = self.f.ncols();
        let (largest, smallest) = (s[0], s[k - 1]);
        // Not `<`, so that a factor with only zeros or with NaN is refused, too.
        if smallest.is_nan() || smallest <= SINGULAR * largest {
            return Err(MatrixSensingError::Singular {
                smallest,
                limit: SINGULAR,
            });
        }
        let scaled = Mat::from_fn(k, k, |i, j| v[(i, j)] * s[j] / beta);
        // Bᵀ (S/β) B
        let stretch = scaled.as_ref() * v.transpose();
        self.g = self.g.as_ref() * stretch.as_ref();
        let rotated = u * v.transpose();
        self.f = Mat::from_fn(rotated.nrows(), k, |i, j| beta * rotated[(i, j)]);
        Ok(())
    }
}

/// `‖A − B‖²`, the squared Frobenius norm.
///
/// # Errors
/// If the matrices have different sizes.
pub fn squared_distance(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Result<f64, MatrixSensingError> {
    let [found, expected] = [a, b].map(|m| [m.nrows(), m.ncols()]);
    if found == expected {
        Ok((a - b).squared_norm_l2())
    } else {
        Err(MatrixSensingError::Shape { expected, found })
    }
}

/// `X ← X − η E Y`.
fn descend(x: &mut Mat<f64>, e: MatRef<'_, f64>, y: MatRef<'_, f64>, step_size: f64) {
    matmul(x.as_mut(), Accum::Add, e, y, -step_size, Par::Seq);
}

/// Column after column.
fn entries(matrix: MatRef<'_, f64>) -> Vec<f64> {
    (0..matrix.ncols())
        .flat_map(|j| (0..matrix.nrows()).map(move |i| matrix[(i, j)]))
        .collect()
}

fn check_sizes<const N: usize>(
    sizes: [(&'static str, usize); N],
) -> Result<(), MatrixSensingError> {
    for (name, size) in sizes {
        range::at_least(name, size, 1)?;
    }
    Ok(())
}

fn finite(x: &Mat<f64>) -> Result<(), MatrixSensingError> {
    if x.norm_max().is_finite() {
        Ok(())
    } else {
        Err(MatrixSensingError::Diverged)
    }
}

#[cfg(test)]
mod tests;
