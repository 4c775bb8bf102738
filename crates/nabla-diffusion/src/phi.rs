//! The `φ` functions of exponential integrators.
//!
//! ```text
//! φ_0(z) = e^z,   φ_{k+1}(z) = (φ_k(z) − 1/k!) / z = Σ_j z^j / (j + k + 1)!
//! ∫_0^h e^{a (h − u)} u^k/k! du = h^{k+1} φ_{k+1}(a h)
//! ```
//!
//! Source: Hochbruck, Ostermann, *Exponential Integrators*, Acta Numerica 19, 2010, section 2.1.

/// `φ_k(z)`, without the cancellation of the recursion near 0.
pub(crate) fn phi(k: usize, z: f64) -> f64 {
    if z.abs() > 1.0 {
        let mut factorial = 1.0;
        let mut value = z.exp();
        for below in 0..k {
            value = (value - 1.0 / factorial) / z;
            factorial *= (below + 1) as f64;
        }
        return value;
    }
    let mut term = (1..=k).fold(1.0, |term, i| term / i as f64);
    let mut sum = 0.0;
    // 1/20! is below the precision of the sum.
    for next in k + 1..=k + 20 {
        sum += term;
        term *= z / next as f64;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_the_integrals() {
        for z in [-30.0, -2.5, -1.0, -0.3, -1e-9, 0.0, 0.2, 1.0, 4.0] {
            assert!((phi(0, z) / f64::exp(z) - 1.0).abs() < 1e-14);
            for k in 0..3 {
                // Simpson's rule over ∫_0^1 e^{z (1 − u)} u^k/k! du.
                let factorial = if k == 2 { 2.0 } else { 1.0 };
                let value = |u: f64| (z * (1.0 - u)).exp() * u.powi(k) / factorial;
                let n = 20_000;
                let sum: f64 = (0..=n)
                    .map(|i| {
                        let weight = match i {
                            0 => 1.0,
                            _ if i == n => 1.0,
                            _ if i % 2 == 1 => 4.0,
                            _ => 2.0,
                        };
                        weight * value(f64::from(i) / f64::from(n))
                    })
                    .sum();
                let integral = sum / (3.0 * f64::from(n));
                let found = phi(k as usize + 1, z);
                assert!((found / integral - 1.0).abs() < 1e-10, "φ_{}({z})", k + 1);
            }
        }
    }
}
