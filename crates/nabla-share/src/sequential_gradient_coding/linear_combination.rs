//! Sums of gradients with factors.

use crate::communicator::numbers::Number;

use super::CodingError;

/// A sum of vectors with factors, in double precision whatever the type of the vectors, from the first to the last.
///
/// ```
/// use nabla_share::sequential_gradient_coding::LinearCombination;
///
/// let mut sum = LinearCombination::new();
/// sum.add(1.0, &[1.0_f32, 2.0])?;
/// sum.add(-0.5, &[4.0_f32, 2.0])?;
/// assert_eq!(sum.rounded::<f32>(), [-1.0, 1.0]);
/// # Ok::<(), nabla_share::sequential_gradient_coding::CodingError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinearCombination {
    /// `None` before the first vector, which says the length.
    sum: Option<Vec<f64>>,
}

impl LinearCombination {
    /// The empty sum.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `factor · vector`.
    ///
    /// # Errors
    /// If the vector has another length than the first one.
    pub fn add<T: Number>(&mut self, factor: f64, vector: &[T]) -> Result<(), CodingError> {
        let Some(sum) = &mut self.sum else {
            self.sum = Some(vector.iter().map(|x| factor * x.to_f64()).collect());
            return Ok(());
        };
        if sum.len() != vector.len() {
            return Err(CodingError::Length {
                expected: sum.len(),
                found: vector.len(),
            });
        }
        for (sum, x) in sum.iter_mut().zip(vector) {
            *sum += factor * x.to_f64();
        }
        Ok(())
    }

    /// The sum, rounded once; nothing if no vector was added.
    pub fn rounded<T: Number>(&self) -> Vec<T> {
        let sum = self.sum.iter().flatten();
        sum.map(|&x| T::from_f64(x)).collect()
    }
}
