//! Derivatives by differences of order 4: of places and weights.

use burn::tensor::DType;

/// The first derivative, times the distance of two places.
pub(crate) const FIRST: [(f64, f64); 4] = [
    (-2.0, 1.0 / 12.0),
    (-1.0, -2.0 / 3.0),
    (1.0, 2.0 / 3.0),
    (2.0, -1.0 / 12.0),
];

/// The second derivative, times the square of that distance.
pub(crate) const SECOND: [(f64, f64); 5] = [
    (-2.0, -1.0 / 12.0),
    (-1.0, 4.0 / 3.0),
    (0.0, -2.5),
    (1.0, 4.0 / 3.0),
    (2.0, -1.0 / 12.0),
];

/// The distance of two places, relative to the argument: rounding and what the differences leave out are about as large.
///
/// - `derivative`: the first or the second
pub(crate) fn distance(dtype: DType, derivative: u8) -> f64 {
    let epsilon = match dtype {
        DType::F64 => f64::EPSILON,
        _ => f64::from(f32::EPSILON),
    };
    epsilon.powf(1.0 / (4.0 + f64::from(derivative)))
}
