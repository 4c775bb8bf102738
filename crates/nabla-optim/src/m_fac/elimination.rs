//! The elimination that applies the inverse of the Fisher matrix; see the [parent module](super).

use faer::{Mat, Side};

use super::MFacError;

/// `G Gᵀ/λ + m I = L Q Lᵀ` with a unit lower `L`.
#[derive(Clone, Debug)]
pub(super) struct Elimination {
    /// Below the diagonal.
    lower: Mat<f64>,
    pub(super) q: Vec<f64>,
}

impl Elimination {
    pub(super) fn of(gram: &Mat<f64>, damping: f64) -> Result<Self, MFacError> {
        let m = gram.nrows();
        if (0..m).any(|i| !gram[(i, i)].is_finite()) {
            return Err(MFacError::NotFinite);
        }
        let a = Mat::from_fn(m, m, |i, j| {
            gram[(i, j)] / damping + if i == j { m as f64 } else { 0.0 }
        });
        // Positive definite: no pivots. Its Cholesky factor C gives L = C diag(C)⁻¹, Q = diag(C)².
        let factor = a
            .llt(Side::Lower)
            .map_err(|e| MFacError::Factorization(format!("{e:?}")))?;
        let c = factor.L();
        Ok(Self {
            lower: Mat::from_fn(m, m, |i, j| match i.cmp(&j) {
                std::cmp::Ordering::Less => 0.0,
                std::cmp::Ordering::Equal => 1.0,
                std::cmp::Ordering::Greater => c[(i, j)] / c[(j, j)],
            }),
            q: (0..m).map(|i| c[(i, i)].powi(2)).collect(),
        })
    }

    /// `c ← L⁻ᵀ Q⁻¹ L⁻¹ c`.
    pub(super) fn solve(&self, c: &mut [f64]) {
        let m = c.len();
        for j in 0..m {
            for i in j + 1..m {
                c[i] -= self.lower[(i, j)] * c[j];
            }
        }
        for (c, q) in c.iter_mut().zip(&self.q) {
            *c /= q;
        }
        for j in (0..m).rev() {
            for i in j + 1..m {
                c[j] -= self.lower[(i, j)] * c[i];
            }
        }
    }

    /// `scale · L⁻¹`.
    pub(super) fn inverse_of_lower(&self, scale: f64) -> Mat<f64> {
        let m = self.lower.nrows();
        let mut out = Mat::from_fn(m, m, |i, j| if i == j { scale } else { 0.0 });
        self.lower
            .as_ref()
            .solve_unit_lower_triangular_in_place(out.as_mut());
        out
    }
}
