//! The singular values of a matrix above 0, and their right vectors.

use std::sync::OnceLock;

use faer::Mat;

use crate::restore::operator::OperatorError;

/// `S` and `V` of `A = U S Vᵀ`, without the values that are 0.
#[derive(Clone, Debug)]
pub(super) struct RightVectors {
    /// From the largest.
    pub(super) s: Vec<f64>,
    /// In columns.
    pub(super) v: Mat<f64>,
}

/// Computed when it is first needed.
#[derive(Clone, Debug, Default)]
pub(super) struct LazyVectors(OnceLock<Result<RightVectors, String>>);

impl LazyVectors {
    /// - `operator`: with its article
    /// - `matrix`: makes the matrix
    ///
    /// # Errors
    /// If the decomposition does not converge.
    pub(super) fn get(
        &self,
        operator: &'static str,
        matrix: impl FnOnce() -> Mat<f64>,
    ) -> Result<&RightVectors, OperatorError> {
        let found = self.0.get_or_init(|| RightVectors::of(&matrix()));
        found
            .as_ref()
            .map_err(|reason| OperatorError::Decomposition {
                operator,
                reason: reason.clone(),
            })
    }
}

impl RightVectors {
    fn of(matrix: &Mat<f64>) -> Result<Self, String> {
        let svd = matrix.thin_svd().map_err(|error| format!("{error:?}"))?;
        let s: Vec<f64> = svd.S().column_vector().iter().copied().collect();
        let least = 1e-12 * s.iter().copied().fold(0.0, f64::max);
        let kept = s.iter().filter(|s| **s > least).count();
        Ok(Self {
            s: s[..kept].to_vec(),
            v: svd.V().subcols(0, kept).to_owned(),
        })
    }
}
