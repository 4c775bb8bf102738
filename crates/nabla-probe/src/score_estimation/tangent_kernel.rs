//! The tangent kernel of a two-layer network with rectified units, of which the first layer is trained.

use std::f64::consts::PI;

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{dot, norm};

/// `κ(z, z′) = z·z′ (π − angle(z, z′))/2π`, of a network of infinite width with weights `w ~ N(0, I)`, `[a, b]`.
///
/// The kernel of `d` outputs is `κ` times the identity: heights of random signs average to 0 between two outputs.
///
/// - `a`, `b`: inputs, `[a, width]` and `[b, width]`
///
/// # Errors
/// If the width is 0 or does not divide the numbers.
///
/// ```
/// use nabla_probe::score_estimation::tangent_kernel;
///
/// assert_eq!(tangent_kernel(&[1.0, 2.0, 2.0], &[1.0, 2.0, 2.0], 3)?, [4.5]);
/// let found = tangent_kernel(&[1.0, 0.0], &[0.0, 1.0, 1.0, 1.0], 2)?;
/// assert!(found[0] == 0.0 && (found[1] - 0.375).abs() < 1e-15);
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
pub fn tangent_kernel(a: &[f64], b: &[f64], width: usize) -> Result<Vec<f64>, OutOfRange> {
    check(a, b, width)?;
    let lengths: Vec<f64> = b.chunks(width).map(norm).collect();
    let mut kernel = Vec::with_capacity(a.len() / width * lengths.len());
    for a in a.chunks(width) {
        let length = norm(a);
        for (b, other) in b.chunks(width).zip(&lengths) {
            let product = dot(a, b);
            // Rounding takes the cosine of equal directions above 1.
            let cosine = (product / (length * other)).clamp(-1.0, 1.0);
            kernel.push(match product == 0.0 {
                true => 0.0,
                false => product * (PI - cosine.acos()) / (2.0 * PI),
            });
        }
    }
    Ok(kernel)
}

/// `1/m Σ_r 1[w_r·z > 0] 1[w_r·z′ > 0] z·z′`, of a network of finite width, `[a, b]`.
///
/// - `weights`: `w`, `[m, width]`
///
/// # Errors
/// If the width is 0 or does not divide the numbers.
pub fn finite_width_kernel(
    weights: &[f64],
    a: &[f64],
    b: &[f64],
    width: usize,
) -> Result<Vec<f64>, OutOfRange> {
    check(a, b, width)?;
    check(weights, b, width)?;
    let units = weights.len() / width;
    let active =
        |x: &[f64]| -> Vec<bool> { weights.chunks(width).map(|w| dot(w, x) > 0.0).collect() };
    let of_b: Vec<Vec<bool>> = b.chunks(width).map(active).collect();
    let mut kernel = Vec::new();
    for a in a.chunks(width) {
        let own = active(a);
        for (b, others) in b.chunks(width).zip(&of_b) {
            let both = own.iter().zip(others).filter(|(x, y)| **x && **y).count();
            kernel.push(dot(a, b) * both as f64 / units as f64);
        }
    }
    Ok(kernel)
}

fn check(a: &[f64], b: &[f64], width: usize) -> Result<(), OutOfRange> {
    range::at_least("width of the inputs", width, 1)?;
    for values in [a, b] {
        let fits = !values.is_empty() && values.len().is_multiple_of(width);
        let expected = format!("a positive multiple of {width}");
        range::check(
            fits,
            "number of values of the inputs",
            values.len(),
            expected,
        )?;
    }
    Ok(())
}
