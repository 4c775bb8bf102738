//! A symmetric sparse matrix.

use faer::sparse::{SparseRowMat, Triplet};
use nabla_data::matrix_market::MatrixMarket;
use rayon::prelude::*;

use super::{Kernel, LinearError, SpdOperator};

/// Rows that one thread multiplies at once.
const ROWS: usize = 4096;

/// A symmetric matrix in rows, all of whose entries are stored, not one triangle alone.
///
/// ```
/// use nabla_physics::linear::{SparseMatrix, SpdOperator};
///
/// let a = SparseMatrix::of_entries(2, &[(0, 0, 2.0), (0, 1, -1.0), (1, 0, -1.0), (1, 1, 2.0)])?;
/// let mut y = [0.0; 2];
/// a.apply(&[1.0, 2.0], &mut y);
/// assert_eq!(y, [0.0, 3.0]);
/// # Ok::<(), nabla_physics::linear::LinearError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SparseMatrix {
    rows: SparseRowMat<u32, f64>,
    kernel: Kernel,
}

impl SparseMatrix {
    /// Relative differences between an entry and its mirror image up to this are taken for rounding.
    pub const ROUNDING: f64 = 1e-12;

    /// A matrix whose rows have rising columns, as all of `faer`'s constructors but the unsorted ones make them.
    ///
    /// # Errors
    /// If it is not square, or an entry is not finite, not symmetric, or shows that the matrix is not positive definite.
    pub fn new(rows: SparseRowMat<u32, f64>) -> Result<Self, LinearError> {
        let n = rows.nrows();
        if n != rows.ncols() {
            return Err(LinearError::NotSquare {
                rows: n,
                columns: rows.ncols(),
            });
        }
        if n == 0 {
            return Err(LinearError::Empty);
        }
        let (mut sums, mut scale) = (vec![0.0; n], vec![0.0_f64; n]);
        for row in 0..n {
            let mut diagonal = 0.0;
            for (column, value) in entries(&rows, row) {
                if !value.is_finite() {
                    return Err(LinearError::Entry { row, column, value });
                }
                if column == row {
                    diagonal = value;
                } else if column > row || value != 0.0 {
                    let other = rows.as_ref().get(column, row).copied().unwrap_or(0.0);
                    if (value - other).abs() > Self::ROUNDING * value.abs().max(other.abs()) {
                        return Err(LinearError::NotSymmetric {
                            row,
                            column,
                            value,
                            other,
                        });
                    }
                }
                sums[row] += value;
                scale[row] = scale[row].max(value.abs());
            }
            // A row of a semi-definite matrix with a zero on its diagonal is zero.
            if diagonal < 0.0 || (diagonal == 0.0 && scale[row] > 0.0) {
                return Err(LinearError::Diagonal {
                    row,
                    value: diagonal,
                });
            }
        }
        let kernel = Kernel::find(
            n,
            |row| f64::abs(sums[row]) <= 1e-13 * scale[row],
            |row, call| {
                let linked = entries(&rows, row).filter(|(_, value)| *value != 0.0);
                linked.for_each(|(column, _)| call(column));
            },
        );
        Ok(Self { rows, kernel })
    }

    /// A matrix from `(row, column, value)`, from 0, in any order. Entries of one place are added.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if an index is too large.
    pub fn of_entries(n: usize, entries: &[(usize, usize, f64)]) -> Result<Self, LinearError> {
        Self::assembled(n, entries.len(), entries.iter().copied())
    }

    /// The matrix of a Matrix Market file.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_market(file: &MatrixMarket) -> Result<Self, LinearError> {
        if file.rows != file.columns {
            return Err(LinearError::NotSquare {
                rows: file.rows,
                columns: file.columns,
            });
        }
        Self::assembled(file.rows, 2 * file.stored(), file.all_entries())
    }

    /// - `most`: entries, or more
    fn assembled(
        n: usize,
        most: usize,
        entries: impl Iterator<Item = (usize, usize, f64)>,
    ) -> Result<Self, LinearError> {
        if n.max(most) > i32::MAX as usize {
            return Err(LinearError::TooLarge(n.max(most)));
        }
        let mut triplets = Vec::with_capacity(most);
        for (row, column, value) in entries {
            if row.max(column) >= n {
                return Err(LinearError::Grid(format!(
                    "the entry ({}, {}) lies outside of a matrix with {n} rows",
                    row + 1,
                    column + 1
                )));
            }
            triplets.push(Triplet::new(row as u32, column as u32, value));
        }
        let rows = SparseRowMat::try_new_from_triplets(n, n, &triplets);
        Self::new(rows.map_err(|error| LinearError::Matrix(error.to_string()))?)
    }

    /// For a matrix that is symmetric by construction.
    pub(super) fn with_kernel(rows: SparseRowMat<u32, f64>, kernel: Kernel) -> Self {
        Self { rows, kernel }
    }

    /// The rows.
    pub fn rows(&self) -> &SparseRowMat<u32, f64> {
        &self.rows
    }

    /// Entries that are stored.
    pub fn stored(&self) -> usize {
        self.rows.val().len()
    }
}

/// The entries of a row, `(column, value)`.
pub(super) fn entries(
    rows: &SparseRowMat<u32, f64>,
    row: usize,
) -> impl Iterator<Item = (usize, f64)> {
    let range = rows.symbolic().row_range(row);
    let columns = &rows.symbolic().col_idx()[range.clone()];
    let values = &rows.val()[range];
    columns
        .iter()
        .zip(values)
        .map(|(&column, &value)| (column as usize, value))
}

pub(super) fn diagonal(rows: &SparseRowMat<u32, f64>) -> Vec<f64> {
    let of = |row: usize| rows.as_ref().get(row, row).copied().unwrap_or(0.0);
    (0..rows.nrows()).map(of).collect()
}

/// `y = A x` for any sparse matrix.
pub(super) fn multiply(a: &SparseRowMat<u32, f64>, x: &[f64], y: &mut [f64]) {
    let (starts, columns, values) = (a.symbolic().row_ptr(), a.symbolic().col_idx(), a.val());
    y.par_chunks_mut(ROWS).enumerate().for_each(|(part, y)| {
        let starts = &starts[part * ROWS..];
        for (y, ends) in y.iter_mut().zip(starts.windows(2)) {
            let range = ends[0] as usize..ends[1] as usize;
            let terms = columns[range.clone()].iter().zip(&values[range]);
            *y = terms
                .map(|(&column, value)| value * x[column as usize])
                .sum();
        }
    });
}

impl SpdOperator for SparseMatrix {
    fn dim(&self) -> usize {
        self.rows.nrows()
    }

    fn apply(&self, x: &[f64], y: &mut [f64]) {
        multiply(&self.rows, x, y);
    }

    fn diagonal(&self) -> Vec<f64> {
        diagonal(&self.rows)
    }

    fn kernel(&self) -> &Kernel {
        &self.kernel
    }
}
