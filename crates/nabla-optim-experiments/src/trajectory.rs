//! Runs any optimizer that implements Burn's [`Optimizer`] on a function of a few numbers, step by step in 64
//! bits.
//!
//! ```
//! use burn::optim::SgdConfig;
//! use nabla_base::vector::norm;
//! use nabla_optim_experiments::trajectory::walk;
//!
//! // Gradient descent on ½ (x² + 9 y²), until it is near the minimum.
//! let sgd = SgdConfig::new().build();
//! let near = |point: &[f64; 2]| norm(point) < 1e-3;
//! let points = walk(&sgd, 0.1, [1.0, 1.0], 200, |[x, y]| [*x, 9.0 * y], near)?;
//! assert_eq!(points[1], [0.9, 0.09999999999999998]);
//! assert!(points.last().is_some_and(near));
//! # Ok::<(), nabla_claims::ClaimError>(())
//! ```

use burn::optim::Optimizer;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::vector::{distance, norm};
use nabla_claims::ClaimError;

/// Walks from `start` along `gradient`, for at most `steps` steps.
///
/// - `rate`: the learning rate
/// - `gradient`: called once per step, with the current point
/// - `arrived`: ends the walk at the first point for which it returns true
/// - returns all points, the start first; the walk also ends at a point that is not finite
///
/// The point is the only row of a matrix, `[1, N]`.
///
/// # Errors
/// If a point cannot be read back.
pub fn walk<O: Optimizer, const N: usize>(
    optimizer: &O,
    rate: f64,
    start: [f64; N],
    steps: usize,
    mut gradient: impl FnMut(&[f64; N]) -> [f64; N],
    mut arrived: impl FnMut(&[f64; N]) -> bool,
) -> Result<Vec<[f64; N]>, ClaimError> {
    let device = Device::flex();
    let tensor = |values: &[f64; N]| {
        let data = TensorData::new(values.to_vec(), [1, N]);
        Tensor::<2>::from_data(data, (&device, DType::F64))
    };
    let mut weight = tensor(&start);
    let mut state = None;
    let mut points = vec![start];
    let mut here = start;
    while points.len() <= steps && !arrived(&here) && here.iter().all(|x| x.is_finite()) {
        (weight, state) = optimizer.step(rate, weight, tensor(&gradient(&here)), state);
        let values = weight
            .to_data()
            .try_to_vec::<f64>()
            .map_err(|e| ClaimError::experiment(format!("cannot read the point: {e}")))?;
        here.copy_from_slice(&values);
        points.push(here);
    }
    Ok(points)
}

/// The angle between two vectors, in radians, accurate for small angles too.
pub fn angle(x: &[f64], y: &[f64]) -> f64 {
    let (a, b) = (norm(x), norm(y));
    let unit = |v: &[f64], n: f64| v.iter().map(|v| v / n).collect::<Vec<f64>>();
    let half = 0.5 * distance(&unit(x, a), &unit(y, b));
    2.0 * half.min(1.0).asin()
}

/// The greatest of `|∂f/∂x − gradient|` over the numbers, with `∂f/∂x` by central differences.
#[cfg(test)]
pub(crate) fn gradient_error<const N: usize>(
    f: impl Fn(&[f64; N]) -> f64,
    gradient: &[f64; N],
    x: &[f64; N],
) -> f64 {
    let step = 1e-6;
    (0..N)
        .map(|i| {
            let moved = |by: f64| {
                let mut x = *x;
                x[i] += by;
                f(&x)
            };
            ((moved(step) - moved(-step)) / (2.0 * step) - gradient[i]).abs()
        })
        .fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::optim::SgdConfig;

    #[test]
    fn gradient_descent_on_a_parabola_is_a_geometric_sequence() {
        let sgd = SgdConfig::new().build();
        let gradient = |x: &[f64; 2]| *x;
        let points = walk(&sgd, 0.25, [4.0, -8.0], 3, gradient, |_| false).unwrap();
        assert_eq!(
            points,
            [[4.0, -8.0], [3.0, -6.0], [2.25, -4.5], [1.6875, -3.375]]
        );
        let near = walk(&sgd, 0.25, [4.0, -8.0], 99, gradient, |x| x[0] < 2.5).unwrap();
        assert_eq!(near.len(), 3);
        let far = walk(&sgd, 1e200, [4.0, -8.0], 99, gradient, |_| false).unwrap();
        assert!(far.len() < 5, "a walk ends where numbers end");
    }

    #[test]
    fn angles_are_those_of_plane_geometry() {
        assert!((angle(&[1.0, 0.0], &[0.0, 3.0]) - std::f64::consts::FRAC_PI_2).abs() < 1e-15);
        let tiny = 1e-9_f64;
        let turned = [2.0 * tiny.cos(), 2.0 * tiny.sin()];
        assert!((angle(&[1.0, 0.0], &turned) / tiny - 1.0).abs() < 1e-6);
        assert_eq!(angle(&[1.0, 2.0], &[3.0, 6.0]), 0.0);
    }
}
