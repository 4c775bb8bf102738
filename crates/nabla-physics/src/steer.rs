//! STEER: the end of the interval is drawn anew for every update, so that a neural ODE does not rely on one time. A baseline
//! of [ERNODE](crate::ernode).
//!
//! ```text
//! T' ~ U(T − b, T + b)                                            of the whole interval
//! t'_i ~ U(t_i − b_i, t_i + b_i),  b_i = (t_i − t_{i−1})/2         of all times of a series
//! ```
//!
//! In a series with gaps of different lengths, half the gap before can be more than half of the one after; then the drawn
//! times would not rise, so `b_i` is at most that.
//!
//! Source: Ghosh, Behl, Dupont, Torr, Namboodiri, *STEER: Simple Temporal Regularization For Neural ODEs*, 2020, arXiv
//! 2006.10711.

use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;

use crate::options::check_times;
use crate::solve_error::SolveError;

/// An end drawn around `end`.
///
/// - `start`: of the interval
/// - `width`: `b`, less than the length of the interval; half of it in ERNODE
///
/// # Errors
/// If the width is negative, or not less than the interval.
///
/// ```
/// use nabla_grad::seeded_noise::SeededNoise;
/// let end = nabla_physics::steer::drawn_end(0.0, 1.0, 0.5, &mut SeededNoise::new(1, 0))?;
/// assert!((0.5..1.5).contains(&end));
/// # Ok::<(), nabla_base::range::OutOfRange>(())
/// ```
pub fn drawn_end(
    start: f64,
    end: f64,
    width: f64,
    draws: &mut SeededNoise,
) -> Result<f64, OutOfRange> {
    range::not_negative("width of the drawn end", width)?;
    let fits = width < end - start;
    range::check(
        fits,
        "width of the drawn end",
        width,
        "less than the length of the interval",
    )?;
    Ok(end + width * (2.0 * draws.random::<f64>() - 1.0))
}

/// Times drawn around those of a series, the first of which stays; they rise.
///
/// # Errors
/// If the times do not rise.
pub fn drawn_times(times: &[f64], draws: &mut SeededNoise) -> Result<Vec<f64>, SolveError> {
    check_times(times)?;
    let mut drawn = vec![times[0]];
    for (place, &time) in times.iter().enumerate().skip(1) {
        let before = time - times[place - 1];
        let after = times.get(place + 1).map_or(before, |next| next - time);
        let half = 0.5 * before.min(after);
        drawn.push(time + half * (2.0 * draws.random::<f64>() - 1.0));
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_uniform_around_the_end() {
        let mut draws = SeededNoise::new(3, 0);
        let count = 4000;
        let all: Vec<f64> = (0..count)
            .map(|_| drawn_end(1.0, 3.0, 1.5, &mut draws).unwrap())
            .collect();
        let mean = all.iter().sum::<f64>() / f64::from(count);
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(count);
        assert!((mean - 3.0).abs() < 0.06 && (variance - 0.75).abs() < 0.06);
        assert!(all.iter().all(|x| (1.5..=4.5).contains(x)));
        assert!(drawn_end(1.0, 3.0, 2.0, &mut draws).is_err());
    }

    #[test]
    fn times_rise() {
        let mut draws = SeededNoise::new(3, 0);
        let times = [0.0, 1.0, 1.1, 5.0];
        for _ in 0..500 {
            let drawn = drawn_times(&times, &mut draws).unwrap();
            check_times(&drawn).unwrap();
            assert_eq!(drawn[0], 0.0);
            for (i, pair) in times.windows(2).enumerate() {
                assert!((drawn[i + 1] - pair[1]).abs() <= 0.5 * (pair[1] - pair[0]));
            }
        }
        assert!(drawn_times(&[1.0, 0.0], &mut draws).is_err());
    }
}
