//! The loss of a training as the points of a curve.

/// The maximum number of points of a curve.
const POINTS: usize = 200;

/// The losses of all steps as means over windows, so that the trend is visible, and the number of steps in a window.
/// A point is at the middle of its window.
pub fn averaged(losses: &[f32]) -> (usize, Vec<[f64; 2]>) {
    let window = losses.len().div_ceil(POINTS).max(1);
    let point = |(i, chunk): (usize, &[f32])| {
        let mean = chunk.iter().map(|&l| f64::from(l)).sum::<f64>() / chunk.len() as f64;
        [(i * window) as f64 + 0.5 * chunk.len() as f64, mean]
    };
    (
        window,
        losses.chunks(window).enumerate().map(point).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_keep_the_mean_and_the_end() {
        assert_eq!(averaged(&[4.0, 2.0]), (1, vec![[0.5, 4.0], [1.5, 2.0]]));
        let losses: Vec<f32> = (0..1001).map(|i| i as f32).collect();
        let (window, points) = averaged(&losses);
        assert_eq!((window, points.len()), (6, 167));
        assert_eq!(points[0], [3.0, 2.5]);
        assert_eq!(points[166], [998.5, 998.0]);
        assert_eq!(averaged(&[]), (1, Vec::new()));
    }
}
