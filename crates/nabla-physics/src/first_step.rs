//! The length of the first step, from the sizes of state and slope and from how the slope changes:
//!
//! ```text
//! h_0 = ‖u‖ / (100 ‖f‖)
//! h   = (max(‖f‖, ‖f(u + h_0 f, t + h_0) − f‖ / h_0) · 100)^(−1/k),   at most 100 h_0
//! ```
//!
//! Source: Hairer, Nørsett, Wanner, *Solving Ordinary Differential Equations I*, II.4.

/// `h_0`, over which the slope's change is found.
///
/// - `state`, `slope`: `‖u‖` and `‖f‖`
pub(crate) fn guess(state: f64, slope: f64, interval: f64) -> f64 {
    let small = state < 1e-5 || slope < 1e-5;
    let guess = if small { 1e-6 } else { 0.01 * state / slope };
    guess.min(interval)
}

/// `h`.
///
/// - `change`: `‖f(u + h_0 f, t + h_0) − f‖`
/// - `order`: `k`, with which the error estimate falls
pub(crate) fn length(guess: f64, slope: f64, change: f64, order: f64, interval: f64) -> f64 {
    let most = slope.max(change / guess);
    let length = match most <= 1e-15 {
        true => (guess * 1e-3).max(1e-6),
        false => (0.01 / most).powf(1.0 / order),
    };
    length.min(100.0 * guess).min(interval)
}
