//! Texts of vectors and matrices.

use std::fmt::Write;
use std::path::Path;

use nabla_base::write_bytes_atomically;

use super::{MatrixMarketError, Symmetry};

/// The text of a vector: an array with one column, whose numbers are read back with the same bits.
pub fn vector_text(values: &[f64]) -> String {
    let mut text = format!(
        "%%MatrixMarket matrix array real general\n{} 1\n",
        values.len()
    );
    for value in values {
        // Writing to a string never fails.
        let _ = writeln!(text, "{value:e}");
    }
    text
}

/// The text of a sparse matrix.
///
/// - `symmetry`: of what `entries` are; those of a symmetric matrix are below the diagonal, or on it
/// - `entries`: `(row, column, value)` from 0
pub fn matrix_text(
    [rows, columns]: [usize; 2],
    symmetry: Symmetry,
    entries: impl ExactSizeIterator<Item = (usize, usize, f64)>,
) -> String {
    let mut text = format!(
        "%%MatrixMarket matrix coordinate real {symmetry}\n{rows} {columns} {}\n",
        entries.len()
    );
    for (row, column, value) in entries {
        let _ = writeln!(text, "{} {} {value:e}", row + 1, column + 1);
    }
    text
}

/// Writes a [vector](vector_text), whole or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write_vector(path: &Path, values: &[f64]) -> Result<(), MatrixMarketError> {
    Ok(write_bytes_atomically(
        path,
        vector_text(values).as_bytes(),
    )?)
}
