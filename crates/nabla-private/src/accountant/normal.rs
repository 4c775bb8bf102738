//! The tails of the normal distribution, to full relative accuracy at any distance.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// `e^{x²} erfc(x)`, which stays a moderate number where `erfc` vanishes. Infinite below about −26.
fn scaled_erfc(x: f64) -> f64 {
    // The asymptotic series; at 10, its terms fall below the rounding long before they grow again.
    if x >= 10.0 {
        let ratio = -0.5 / (x * x);
        let mut term = 1.0;
        let mut sum = 1.0;
        for n in 1..30 {
            term *= ratio * (2 * n - 1) as f64;
            sum += term;
            if term.abs() < 1e-17 {
                break;
            }
        }
        return sum / (x * PI.sqrt());
    }
    // The exponential would magnify the rounding of x².
    let square = x * x;
    let rounding = x.mul_add(x, -square);
    square.exp() * rounding.exp() * libm::erfc(x)
}

/// `ln erfc(x)`.
pub fn log_erfc(x: f64) -> f64 {
    match x < 10.0 {
        true => libm::erfc(x).ln(),
        false => scaled_erfc(x).ln() - x * x,
    }
}

/// The density `φ(x)`.
pub fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
}

/// The probability `Φ(x)` of less than `x`.
pub fn below(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

/// Mills's ratio `Φ(−x)/φ(x)`: the tail beyond `x` divided by the density there.
pub fn mills_ratio(x: f64) -> f64 {
    (PI / 2.0).sqrt() * scaled_erfc(x * FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_have_the_values_of_exact_arithmetic() {
        // mpmath 1.3.0 with 40 digits: log(erfc(x)) and exp(x*x)*erfc(x).
        for (x, log, scaled) in REFERENCE {
            assert!(
                (log_erfc(x) / log - 1.0).abs() < 1e-15,
                "{x} {}",
                log_erfc(x)
            );
            assert!(
                (scaled_erfc(x) / scaled - 1.0).abs() < 2e-15,
                "{x} {}",
                scaled_erfc(x)
            );
        }
        assert_eq!(log_erfc(f64::NEG_INFINITY), 2_f64.ln());
        assert_eq!(below(0.0), 0.5);
        assert_eq!(mills_ratio(f64::INFINITY), 0.0);
    }

    const REFERENCE: [(f64, f64, f64); 7] = [
        (-3.0, 0.6931361352504468, 16205.988853999586),
        (0.5, -0.7350111298370844, 0.6156903441929259),
        (2.5, -7.806815272727264, 0.2108063640611436),
        (9.9, -100.87993773693272, 0.05670245693883227),
        (10.0, -102.87988902484489, 0.05614099274382259),
        (30.0, -903.9741171106439, 0.01879588886141675),
        (1e4, -100000009.78270532, 5.641895807268084e-05),
    ];
}
