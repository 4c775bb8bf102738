//! Incomplete Cholesky factors with the pattern of the matrix.

use faer::sparse::{SparseRowMat, SymbolicSparseRowMat};

use super::sparse::entries;
use super::{LinearError, Preconditioner, SparseMatrix, SpdOperator};

/// `M = (L D Lᵀ)⁻¹`, where `L` has a unit diagonal and no entries where `A` has none (IC(0)):
///
/// ```text
/// l_ik = (a_ik − Σ_{j<k} l_ij d_j l_kj) / d_k     for a_ik ≠ 0, k < i
/// d_i  = (1 + σ) a_ii − Σ_k l_ik² d_k
/// ```
///
/// For an M-matrix, such as that of a Poisson equation, all pivots are positive with `σ = 0`. Where one is not, the factorisation
/// begins anew with `σ` = 0.001, 0.002, 0.004, … (Manteuffel 1980).
#[derive(Clone, Debug)]
pub struct IncompleteCholesky {
    /// `L` without its diagonal.
    lower: SparseRowMat<u32, f64>,
    /// `Lᵀ` without its diagonal.
    upper: SparseRowMat<u32, f64>,
    /// `1/d_i`, 0 in rows that are zero.
    inverse: Vec<f64>,
    shift: f64,
}

/// A pivot below this part of its diagonal entry breaks the factorisation down: it is rounding.
const LEAST_PIVOT: f64 = 1e-10;
/// The first shift, and how much the next is greater.
const SHIFT: f64 = 1e-3;
const GROWTH: f64 = 2.0;
const MOST_SHIFT: f64 = 1e3;

impl IncompleteCholesky {
    /// # Errors
    /// If a diagonal entry is not positive, or no shift makes the pivots so.
    pub fn new(a: &SparseMatrix) -> Result<Self, LinearError> {
        let n = a.dim();
        let mut starts = vec![0_u32; n + 1];
        let half = a.stored() / 2 + 1;
        let (mut columns, mut below) = (Vec::with_capacity(half), Vec::with_capacity(half));
        for row in 0..n {
            for (column, value) in entries(a.rows(), row).take_while(|(column, _)| *column < row) {
                columns.push(column as u32);
                below.push(value);
            }
            starts[row + 1] = columns.len() as u32;
        }
        let diagonal = a.diagonal();
        let mut shift = 0.0;
        let mut values = below.clone();
        let inverse = loop {
            match factor(&starts, &columns, &mut values, &diagonal, shift) {
                Ok(inverse) => break inverse,
                Err((row, pivot)) => {
                    if diagonal[row] < 0.0 {
                        let value = diagonal[row];
                        return Err(LinearError::Diagonal { row, value });
                    }
                    if shift >= MOST_SHIFT {
                        return Err(LinearError::Pivot { row, pivot, shift });
                    }
                    shift = f64::max(SHIFT, GROWTH * shift);
                    values.copy_from_slice(&below);
                }
            }
        };
        drop(below);
        let symbolic = SymbolicSparseRowMat::new_checked(n, n, starts, None, columns);
        let lower = SparseRowMat::new(symbolic, values);
        let upper = lower.to_col_major();
        let upper = upper.map_err(|error| LinearError::Matrix(format!("{error:?}")))?;
        Ok(Self {
            lower,
            upper: upper.into_transpose(),
            inverse,
            shift,
        })
    }

    /// `σ`, 0 unless the factorisation broke down without.
    pub fn shift(&self) -> f64 {
        self.shift
    }
}

/// Turns entries below the diagonal into those of `L`, and returns `1/d`; or the row whose pivot is not positive, and the pivot.
fn factor(
    starts: &[u32],
    columns: &[u32],
    values: &mut [f64],
    diagonal: &[f64],
    shift: f64,
) -> Result<Vec<f64>, (usize, f64)> {
    let n = diagonal.len();
    let mut inverse = vec![0.0; n];
    for row in 0..n {
        let [begin, end] = [starts[row] as usize, starts[row + 1] as usize];
        let (done, own) = values.split_at_mut(begin);
        let own = &mut own[..end - begin];
        let own_columns = &columns[begin..end];
        let mut pivot = (1.0 + shift) * diagonal[row];
        // l_ij d_j in place of l_ij until the row is done.
        for place in 0..own.len() {
            let k = own_columns[place] as usize;
            let theirs = starts[k] as usize..starts[k + 1] as usize;
            let mut sum = own[place];
            let mut mine = 0;
            for (column, value) in columns[theirs.clone()].iter().zip(&done[theirs]) {
                while mine < place && own_columns[mine] < *column {
                    mine += 1;
                }
                if mine == place {
                    break;
                }
                if own_columns[mine] == *column {
                    sum -= own[mine] * value;
                }
            }
            own[place] = sum;
        }
        for (value, &column) in own.iter_mut().zip(own_columns) {
            let scaled = *value * inverse[column as usize];
            pivot -= *value * scaled;
            *value = scaled;
        }
        if diagonal[row] == 0.0 && own.iter().all(|value| *value == 0.0) {
            continue;
        }
        if pivot.is_nan() || pivot <= LEAST_PIVOT * diagonal[row].abs() {
            return Err((row, pivot));
        }
        inverse[row] = 1.0 / pivot;
    }
    Ok(inverse)
}

impl Preconditioner for IncompleteCholesky {
    fn apply(&self, r: &[f64], z: &mut [f64]) {
        let parts = |matrix: &SparseRowMat<u32, f64>, row: usize| {
            let starts = matrix.symbolic().row_ptr();
            starts[row] as usize..starts[row + 1] as usize
        };
        let (columns, values) = (self.lower.symbolic().col_idx(), self.lower.val());
        for row in 0..r.len() {
            let range = parts(&self.lower, row);
            let mut sum = r[row];
            for (&column, &value) in columns[range.clone()].iter().zip(&values[range]) {
                sum -= value * z[column as usize];
            }
            z[row] = sum;
        }
        let (columns, values) = (self.upper.symbolic().col_idx(), self.upper.val());
        for row in (0..r.len()).rev() {
            let range = parts(&self.upper, row);
            let mut sum = z[row] * self.inverse[row];
            for (&column, &value) in columns[range.clone()].iter().zip(&values[range]) {
                sum -= value * z[column as usize];
            }
            z[row] = sum;
        }
    }
}
