//! The Fréchet distance between two sets of samples, as their features have it.
//!
//! With the means `μ` and covariances `Σ` of the features of real and of generated samples,
//!
//! ```text
//! FD = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½
//! ```
//!
//! is the squared 2-Wasserstein distance of the two normal distributions. Which number comes out is decided by the
//! features. "FID" is the name of this distance for one network of 2015 with its weights of 2015; with another
//! network, say *FD with* its name.
//!
//! With few samples the distance is too large, by an amount that depends on the samples: compare only distances
//! of equally many samples. Covariances have `n − 1` in the denominator, as in the established packages.
//!
//! Sources: Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter, *GANs Trained by a Two Time-Scale Update Rule
//! Converge to a Local Nash Equilibrium*, 2017, arXiv 1706.08500; Dowson, Landau, *The Fréchet Distance between
//! Multivariate Normal Distributions*, 1982.

use faer::linalg::solvers::SelfAdjointEigen;
use faer::{Mat, Par, Side};
use serde::{Deserialize, Serialize};

/// The reason why there is no distance.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MomentsError {
    /// There are too few rows.
    #[error("the moments of {features} features need at least 2 samples, but there are {samples}")]
    TooFew {
        /// The number of rows.
        samples: usize,
        /// The number of columns.
        features: usize,
    },
    /// The values are no rows of that width.
    #[error("{values} values are no rows of {features} features")]
    Ragged {
        /// The number of values.
        values: usize,
        /// The width.
        features: usize,
    },
    /// A feature is infinite or not a number.
    #[error("feature {feature} of sample {sample} is {value}, but a finite number is expected")]
    NotFinite {
        /// The row.
        sample: usize,
        /// The column.
        feature: usize,
        /// The value.
        value: f32,
    },
    /// The two sets have other features.
    #[error("moments of {first} features cannot be compared with moments of {second}")]
    Widths {
        /// The first number of features.
        first: usize,
        /// The second.
        second: usize,
    },
    /// The eigenvalues were not found.
    #[error("the eigenvalues of a covariance of {features} features were not found")]
    NoEigenvalues {
        /// The number of features.
        features: usize,
    },
}

/// Mean and covariance of features.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moments {
    /// The number of samples.
    pub samples: usize,
    /// `[features]`.
    pub mean: Vec<f64>,
    /// `[features, features]`, row by row.
    pub covariance: Vec<f64>,
}

impl Moments {
    /// Mean and covariance of the rows of `features`, `[samples, width]`.
    ///
    /// # Errors
    /// If there are fewer than two rows, or a value is not finite.
    pub fn of(features: &[f32], width: usize) -> Result<Self, MomentsError> {
        if width == 0 || !features.len().is_multiple_of(width) {
            return Err(MomentsError::Ragged {
                values: features.len(),
                features: width,
            });
        }
        if let Some(i) = features.iter().position(|v| !v.is_finite()) {
            return Err(MomentsError::NotFinite {
                sample: i / width,
                feature: i % width,
                value: features[i],
            });
        }
        let samples = features.len() / width;
        if samples < 2 {
            return Err(MomentsError::TooFew {
                samples,
                features: width,
            });
        }
        let mut mean = vec![0.0; width];
        for row in features.chunks_exact(width) {
            for (sum, &value) in mean.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
        for sum in &mut mean {
            *sum /= samples as f64;
        }
        let centred = Mat::from_fn(samples, width, |i, j| {
            f64::from(features[i * width + j]) - mean[j]
        });
        let mut covariance = Mat::zeros(width, width);
        faer::linalg::matmul::matmul(
            &mut covariance,
            faer::Accum::Replace,
            centred.transpose(),
            &centred,
            1.0 / (samples - 1) as f64,
            // The order of the sums must not depend on the number of threads.
            Par::Seq,
        );
        Ok(Self {
            samples,
            covariance: (0..width * width)
                .map(|i| covariance[(i / width, i % width)])
                .collect(),
            mean,
        })
    }

    fn matrix(&self) -> Mat<f64> {
        let width = self.mean.len();
        Mat::from_fn(width, width, |i, j| self.covariance[i * width + j])
    }
}

/// The squared Fréchet distance of two normal distributions; see the [module documentation](self).
///
/// ```
/// use nabla_train::frechet::{Moments, frechet_distance};
///
/// let one = Moments { samples: 100, mean: vec![0.0], covariance: vec![1.0] };
/// let two = Moments { samples: 100, mean: vec![3.0], covariance: vec![4.0] };
/// // (0 − 3)² + (1 − 2)²
/// assert_eq!(frechet_distance(&one, &two)?, 10.0);
/// # Ok::<(), nabla_train::frechet::MomentsError>(())
/// ```
///
/// # Errors
/// If the numbers of features differ, or a covariance has no eigenvalues (it holds no numbers).
pub fn frechet_distance(first: &Moments, second: &Moments) -> Result<f64, MomentsError> {
    let width = first.mean.len();
    for moments in [first, second] {
        let fits = moments.mean.len() == width && moments.covariance.len() == width * width;
        if !fits {
            return Err(MomentsError::Widths {
                first: width,
                second: moments.mean.len(),
            });
        }
    }
    let apart = first.mean.iter().zip(&second.mean);
    let apart: f64 = apart.map(|(a, b)| (a - b).powi(2)).sum();
    let [one, two] = [first, second].map(Moments::matrix);
    let traces: f64 = (0..width).map(|i| one[(i, i)] + two[(i, i)]).sum();
    // A covariance has no negative eigenvalue; rounding has.
    let eigen = |matrix: &Mat<f64>| {
        SelfAdjointEigen::new(matrix.as_ref(), Side::Lower)
            .map_err(|_| MomentsError::NoEigenvalues { features: width })
    };
    let of_one = eigen(&one)?;
    let vectors = of_one.U();
    let roots: Vec<f64> = of_one
        .S()
        .column_vector()
        .iter()
        .map(|s| s.max(0.0).sqrt())
        .collect();
    let scaled = Mat::from_fn(width, width, |i, j| vectors[(i, j)] * roots[j]);
    let root = &scaled * vectors.transpose(); // Σ₁^½
    let product = &root * &two * &root;
    let symmetric = Mat::from_fn(width, width, |i, j| {
        0.5 * (product[(i, j)] + product[(j, i)])
    });
    let of_product = eigen(&symmetric)?;
    let shared: f64 = of_product
        .S()
        .column_vector()
        .iter()
        .map(|s| s.max(0.0).sqrt())
        .sum();
    Ok((apart + traces - 2.0 * shared).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(mean: [f64; 3], covariance: [f64; 9]) -> Moments {
        Moments {
            samples: 100,
            mean: mean.to_vec(),
            covariance: covariance.to_vec(),
        }
    }

    /// `scipy.linalg.sqrtm` 1.17 gives the same.
    #[test]
    fn the_distance_is_that_of_scipy() {
        let a = moments([1.0, 0.0, -1.0], [1., 0., 0., 0., 4., 0., 0., 0., 9.]);
        let b = moments([0.0; 3], [2., 0.5, 0., 0.5, 1., 0.2, 0., 0.2, 3.]);
        for distance in [frechet_distance(&a, &b), frechet_distance(&b, &a)] {
            assert!((distance.unwrap() - 4.907_642).abs() < 1e-6);
        }
        assert!(frechet_distance(&b, &b).unwrap() < 1e-12);
    }

    #[test]
    fn moments_are_those_of_the_rows() {
        let found = Moments::of(&[0., 1., 2., 5., 4., 3.], 2).unwrap();
        assert_eq!(found.mean, [2.0, 3.0]);
        assert_eq!(found.covariance, [4.0, 2.0, 2.0, 4.0]);
        // One feature does not vary: the covariance has rank 1.
        let flat = Moments::of(&[0., 7., 2., 7., 4., 7.], 2).unwrap();
        let distance = frechet_distance(&found, &flat).unwrap();
        // |Δμ|² + tr Σ₁ + tr Σ₂ − 2 √(λ of Σ₁ in that direction · 4)
        assert!(
            (distance - (16.0 + 8.0 + 4.0 - 2.0 * 4.0)).abs() < 1e-9,
            "{distance}"
        );
    }

    #[test]
    fn what_has_no_moments_is_refused() {
        let told = |features: &[f32], width| Moments::of(features, width).unwrap_err().to_string();
        assert!(told(&[1.0, 2.0], 2).contains("at least 2 samples"));
        assert!(told(&[1.0, 2.0, 3.0], 2).contains("3 values"));
        assert!(told(&[1.0, 2.0, 3.0, f32::NAN], 2).contains("feature 1 of sample 1 is NaN"));
        let one = Moments::of(&[0., 1., 2.], 1).unwrap();
        let two = Moments::of(&[0., 1., 2., 3.], 2).unwrap();
        assert!(frechet_distance(&one, &two).is_err());
    }
}
