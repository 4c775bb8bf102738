//! The digits in their principal components.

use faer::Mat;
use faer::Side;
use faer::linalg::solvers::SelfAdjointEigen;
use nabla_claims::ClaimError;
use nabla_train::frechet::Moments;

/// Principal components.
pub(super) const NUMBERS: usize = 20;

/// Rows of unit variance, `[count, NUMBERS]`.
pub(super) struct Data {
    pub(super) values: Vec<f64>,
}

/// Eigenvalues, rising, and the eigenvectors as columns.
pub(super) fn eigen(matrix: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>), ClaimError> {
    let found = SelfAdjointEigen::new(matrix.as_ref(), Side::Lower)
        .map_err(|_| ClaimError::experiment("the eigenvalues of a covariance were not found"))?;
    let values = found.S().column_vector().iter().copied().collect();
    Ok((values, found.U().to_owned()))
}

impl Data {
    /// The 1797 digits.
    pub(super) fn digits() -> Result<Self, ClaimError> {
        let digits = nabla_data::digits().map_err(ClaimError::experiment)?;
        let (count, width) = (digits.len(), digits.pixels(0).len());
        let pixel = |i: usize, j: usize| f64::from(digits.pixels(i)[j]);
        let mean: Vec<f64> = (0..width)
            .map(|j| (0..count).map(|i| pixel(i, j)).sum::<f64>() / count as f64)
            .collect();
        let centred = Mat::from_fn(count, width, |i, j| pixel(i, j) - mean[j]);
        let covariance = centred.transpose() * &centred;
        let covariance = Mat::from_fn(width, width, |i, j| covariance[(i, j)] / (count - 1) as f64);
        let (variances, vectors) = eigen(&covariance)?;
        // The largest variances are the last; each component is scaled by its own.
        let kept = Mat::from_fn(width, NUMBERS, |i, j| {
            let column = width - 1 - j;
            vectors[(i, column)] / variances[column].sqrt()
        });
        let scores = &centred * &kept;
        let rows = (0..count).flat_map(|i| (0..NUMBERS).map(move |j| (i, j)));
        Ok(Self {
            values: rows.map(|place| scores[place]).collect(),
        })
    }

    pub(super) fn rows(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.values.chunks_exact(NUMBERS)
    }

    /// Mean and covariance of the rows.
    pub(super) fn moments(&self) -> Result<Moments, ClaimError> {
        let values: Vec<f32> = self.values.iter().map(|&v| v as f32).collect();
        Moments::of(&values, NUMBERS).map_err(ClaimError::experiment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_components_are_independent_and_of_unit_variance() {
        let data = Data::digits().unwrap();
        assert_eq!(data.rows().len(), 1797);
        let moments = data.moments().unwrap();
        for i in 0..NUMBERS {
            assert!(moments.mean[i].abs() < 1e-5);
            for j in 0..NUMBERS {
                let expected = if i == j { 1.0 } else { 0.0 };
                let found = moments.covariance[i * NUMBERS + j];
                assert!((found - expected).abs() < 1e-4, "{i}, {j}: {found}");
            }
        }
    }
}
