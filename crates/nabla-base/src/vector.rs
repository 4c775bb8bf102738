//! Sums over slices of numbers, each from the first element to the last in one thread, which gives the same
//! bits on every machine.
//!
//! If two slices differ in length, the excess elements of the longer one are ignored.

use std::ops::{AddAssign, Mul};

/// `aᵀ b`.
///
/// ```
/// assert_eq!(nabla_base::vector::dot(&[1.0, 2.0], &[3.0, -1.0]), 1.0);
/// ```
#[inline]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `‖x‖₂²`.
#[inline]
pub fn squared_norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

/// `‖x‖₂`.
///
/// ```
/// assert_eq!(nabla_base::vector::norm(&[3.0, -4.0]), 5.0);
/// ```
#[inline]
pub fn norm(x: &[f64]) -> f64 {
    squared_norm(x).sqrt()
}

/// `‖a − b‖₂`.
#[inline]
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
    squares.sum::<f64>().sqrt()
}

/// `sum ← sum + factor · x`.
///
/// ```
/// let mut sum = [1.0_f32, 2.0];
/// nabla_base::vector::add_scaled(&mut sum, 0.5, &[4.0, -2.0]);
/// assert_eq!(sum, [3.0, 1.0]);
/// ```
#[inline]
pub fn add_scaled<T: Copy + Mul<Output = T> + AddAssign>(sum: &mut [T], factor: T, x: &[T]) {
    for (sum, &x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}

/// `point + factor · vector`.
///
/// ```
/// assert_eq!(nabla_base::vector::moved(&[1.0, 2.0], 0.5, &[2.0, 4.0]), [2.0, 4.0]);
/// ```
pub fn moved(point: &[f64], factor: f64, vector: &[f64]) -> Vec<f64> {
    let mut moved = point.to_vec();
    add_scaled(&mut moved, factor, vector);
    moved
}

/// A coordinate is not finite.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("coordinate {index} of the {vector} is {value}, but it must be finite")]
pub struct NotFinite {
    /// Which vector.
    pub vector: &'static str,
    /// Which coordinate, from 0.
    pub index: usize,
    /// Its value.
    pub value: f64,
}

/// Checks that all coordinates are finite.
///
/// - `vector`: its name
///
/// # Errors
/// The first that is not.
pub fn finite(vector: &'static str, values: &[f64]) -> Result<(), NotFinite> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(NotFinite {
            vector,
            index,
            value: values[index],
        }),
    }
}

/// The mean of values and its standard error, which one value alone does not have; not a number if there are none.
///
/// ```
/// use nabla_base::vector::mean_with_error;
/// assert_eq!(mean_with_error(&[1.0, 3.0]), (2.0, Some(1.0)));
/// assert_eq!(mean_with_error(&[5.0]), (5.0, None));
/// ```
pub fn mean_with_error(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let error = (values.len() > 1).then(|| {
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        (squares / (count - 1.0) / count).sqrt()
    });
    (mean, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_from_the_first_to_the_last() {
        // In any other order the 1 would not be lost.
        assert_eq!(dot(&[1.0, 1e16, -1e16], &[1.0; 3]), 0.0);
        assert_eq!(dot(&[1e16, -1e16, 1.0], &[1.0; 3]), 1.0);
        assert_eq!(squared_norm(&[1.0, 1e8]), 1e16);
    }

    #[test]
    fn distances_are_norms_of_differences() {
        let (a, b) = ([1.0, -2.0, 0.5], [4.0, 2.0, 0.5]);
        assert_eq!(distance(&a, &b), 5.0);
        let mut change = a;
        add_scaled(&mut change, -1.0, &b);
        assert_eq!(norm(&change), 5.0);
    }
}
