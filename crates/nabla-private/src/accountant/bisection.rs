//! Where a monotone condition begins to hold.

/// Halves the interval until its ends are neighbours in f64, or 200 times.
///
/// - `ends`: the condition is false at the first and true at the second; they are not asked
///
/// Returns the last point where it is false, and the first where it is true.
pub fn bisect(ends: [f64; 2], mut holds: impl FnMut(f64) -> bool) -> [f64; 2] {
    let [mut low, mut high] = ends;
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle == low || middle == high {
            break;
        }
        match holds(middle) {
            true => high = middle,
            false => low = middle,
        }
    }
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_meet() {
        let [low, high] = bisect([0.0, 2.0], |x| x * x >= 2.0);
        assert!(low < 2_f64.sqrt() && high - low < 1e-15 && high * high >= 2.0);
        let [low, high] = bisect([3.0, 1.0], |x| x <= 2.0);
        assert!(
            high == 2.0 && low > 2.0,
            "the second end may be the lower one"
        );
    }
}
