//! Precision and recall of generated samples: how many look real, and how much of what is real they reach.
//!
//! A set of features stands for the region that is covered by balls around its members; the radius of a ball is
//! the distance to the member's `k`-th nearest neighbour in its own set.
//!
//! ```text
//! precision = share of the generated samples that lie in the region of the real ones
//! recall    = share of the real samples that lie in the region of the generated ones
//! ```
//!
//! Both depend on `k` and on the number of samples: compare only with the same.
//!
//! Source: Kynkäänniemi, Karras, Laine, Lehtinen, Aila, *Improved Precision and Recall Metric for Assessing
//! Generative Models*, 2019, arXiv 1904.06991 (`k = 3`).

use faer::{Accum, Mat, Par};
use nabla_base::range::{self, OutOfRange};

/// The reason why a set has no region.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PrecisionRecallError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The values are no rows of that width.
    #[error("{values} values are no rows of {features} features")]
    Ragged {
        /// The number of values.
        values: usize,
        /// The width.
        features: usize,
    },
    /// The two sets have other features.
    #[error("samples of {found} features cannot lie in a region of {expected}")]
    Widths {
        /// Of the samples.
        found: usize,
        /// Of the region.
        expected: usize,
    },
}

/// Rows whose distances are computed at once.
const BLOCK: usize = 512;

/// The region that samples cover, in the space of their features.
///
/// ```
/// use nabla_train::precision_recall::Manifold;
///
/// let real = Manifold::new(&[0.0, 1.0, 2.0, 3.0], 1, 1)?; // four samples of one feature, k = 1
/// let made = Manifold::new(&[0.5, 1.5, 9.0, 9.5], 1, 1)?;
/// assert_eq!(real.share_of(&made)?, 0.5); // precision
/// assert_eq!(made.share_of(&real)?, 0.75); // recall: 0.5 ± 1 and 1.5 ± 1 do not reach 3
/// # Ok::<(), nabla_train::precision_recall::PrecisionRecallError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Manifold {
    rows: Mat<f64>,
    /// `|row|²`.
    squares: Vec<f64>,
    /// The squared radius of each row's ball.
    radii: Vec<f64>,
}

impl Manifold {
    /// - `features`: `[samples, width]`, row by row
    /// - `k`: which neighbour's distance is the radius of a ball; the paper's is 3
    ///
    /// # Errors
    /// If there are not more than `k` samples, or `k` is 0.
    pub fn new(features: &[f32], width: usize, k: usize) -> Result<Self, PrecisionRecallError> {
        if width == 0 || !features.len().is_multiple_of(width) {
            return Err(PrecisionRecallError::Ragged {
                values: features.len(),
                features: width,
            });
        }
        let samples = features.len() / width;
        range::at_least("number of neighbours", k, 1)?;
        range::at_least("number of samples", samples, k + 1)?;
        let rows = Mat::from_fn(samples, width, |i, j| f64::from(features[i * width + j]));
        let squares = (0..samples)
            .map(|i| (0..width).map(|j| rows[(i, j)].powi(2)).sum())
            .collect();
        let mut manifold = Self {
            rows,
            squares,
            radii: Vec::new(),
        };
        let mut radii = Vec::with_capacity(samples);
        manifold.distances_to(&manifold, |row, distances| {
            // A sample is not its own neighbour, but equals of it are.
            let mut others: Vec<f64> = distances.to_vec();
            others.swap_remove(row);
            let (_, radius, _) = others.select_nth_unstable_by(k - 1, f64::total_cmp);
            radii.push(*radius);
        });
        manifold.radii = radii;
        Ok(manifold)
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.rows.nrows()
    }

    /// Whether there are no samples; there always are.
    pub fn is_empty(&self) -> bool {
        self.rows.nrows() == 0
    }

    /// The share of the samples of `others` that lie in this region: the precision of `others`, if this is the
    /// region of the real samples, and the recall of this set, if `others` are the real ones.
    ///
    /// # Errors
    /// If the numbers of features differ.
    pub fn share_of(&self, others: &Self) -> Result<f64, PrecisionRecallError> {
        let [found, expected] = [others, self].map(|set| set.rows.ncols());
        if found != expected {
            return Err(PrecisionRecallError::Widths { found, expected });
        }
        let mut inside = 0;
        self.distances_to(others, |_, distances| {
            let mut pairs = distances.iter().zip(&self.radii);
            inside += usize::from(pairs.any(|(distance, radius)| distance <= radius));
        });
        Ok(inside as f64 / others.len() as f64)
    }

    /// Hands out for each row of `others` its squared distances to the rows of this set.
    fn distances_to(&self, others: &Self, mut each: impl FnMut(usize, &[f64])) {
        let count = self.len();
        for begin in (0..others.len()).step_by(BLOCK) {
            let block = BLOCK.min(others.len() - begin);
            let mut products = Mat::zeros(count, block);
            faer::linalg::matmul::matmul(
                &mut products,
                Accum::Replace,
                &self.rows,
                others.rows.subrows(begin, block).transpose(),
                1.0,
                Par::Seq,
            );
            let mut distances = vec![0.0; count];
            for column in 0..block {
                let square = others.squares[begin + column];
                for (i, distance) in distances.iter_mut().enumerate() {
                    let between = self.squares[i] + square - 2.0 * products[(i, column)];
                    *distance = between.max(0.0);
                }
                each(begin + column, &distances);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_the_same_distribution_reach_one_another_and_of_another_do_not() {
        let drawn = |seed, shift: f64| -> Vec<f32> {
            let mut noise = nabla_grad::seeded_noise::SeededNoise::new(seed, 0);
            noise
                .normal_values(600 * 4)
                .iter()
                .map(|v| v + shift as f32)
                .collect()
        };
        let sets: Vec<Manifold> = [(0, 0.0), (1, 0.0), (2, 20.0)]
            .map(|(seed, shift)| Manifold::new(&drawn(seed, shift), 4, 3).unwrap())
            .into();
        let share = |a: usize, b: usize| sets[a].share_of(&sets[b]).unwrap();
        assert!(share(0, 1) > 0.7 && share(1, 0) > 0.7);
        assert_eq!([share(0, 2), share(2, 0)], [0.0, 0.0]);
        assert_eq!(share(0, 0), 1.0);
    }

    /// A collapsed model is precise, but reaches little.
    #[test]
    fn few_points_are_precise_without_recall() {
        let real: Vec<f32> = (0..100).map(|i| i as f32).collect();
        let made: Vec<f32> = (0..100).map(|i| 50.0 + 0.01 * i as f32).collect();
        let [real, made] = [real, made].map(|set| Manifold::new(&set, 1, 3).unwrap());
        assert_eq!(real.share_of(&made).unwrap(), 1.0);
        assert!(made.share_of(&real).unwrap() <= 0.02);
    }

    #[test]
    fn sets_without_a_region_are_refused() {
        assert!(Manifold::new(&[1.0, 2.0, 3.0], 1, 3).is_err());
        assert!(Manifold::new(&[1.0, 2.0, 3.0], 1, 0).is_err());
        assert!(Manifold::new(&[1.0, 2.0, 3.0], 2, 1).is_err());
        let [one, two] =
            [1, 2].map(|width| Manifold::new(&[1., 2., 3., 4., 5., 6.], width, 1).unwrap());
        assert!(one.share_of(&two).is_err());
    }
}
