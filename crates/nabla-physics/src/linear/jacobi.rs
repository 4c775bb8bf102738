//! The inverse of the diagonal.

use super::{LinearError, Preconditioner, SpdOperator};

/// `M = diag(A)⁻¹`; 0 in rows that are zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Jacobi {
    inverse: Vec<f64>,
}

impl Jacobi {
    /// # Errors
    /// If a diagonal entry is negative.
    pub fn new(a: &impl SpdOperator) -> Result<Self, LinearError> {
        Ok(Self {
            inverse: inverse(a.diagonal())?,
        })
    }
}

/// `1/d`, and 0 of 0.
pub(super) fn inverse(mut diagonal: Vec<f64>) -> Result<Vec<f64>, LinearError> {
    for (row, d) in diagonal.iter_mut().enumerate() {
        if !(*d >= 0.0 && d.is_finite()) {
            return Err(LinearError::Diagonal { row, value: *d });
        }
        if *d > 0.0 {
            *d = 1.0 / *d;
        }
    }
    Ok(diagonal)
}

impl Preconditioner for Jacobi {
    fn apply(&self, r: &[f64], z: &mut [f64]) {
        for ((z, r), inverse) in z.iter_mut().zip(r).zip(&self.inverse) {
            *z = inverse * r;
        }
    }
}
