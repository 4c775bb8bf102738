//! The linear drift of `(x, x̃, y, ỹ, z, z̃)`, the same for every coordinate.

use super::{X, X_TILDE, Y, Y_TILDE, Z, Z_TILDE};

type Matrix = [[f64; 6]; 6];

/// Its matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drift(Matrix);

impl Drift {
    pub(super) fn new(nu: f64, rho: f64) -> Self {
        let (eta, alpha, alpha_tilde, theta) = (rho / 8.0, rho / 4.0, rho / 8.0, 0.5 / rho);
        let mut matrix = [[0.0; 6]; 6];
        let mut pull = |from: usize, to: usize, rate: f64| {
            matrix[from][from] -= rate;
            matrix[from][to] += rate;
        };
        pull(X, X_TILDE, eta);
        pull(X_TILDE, X, eta);
        pull(Y, Y_TILDE, alpha);
        pull(Z, Z_TILDE, alpha);
        pull(Z_TILDE, Z, alpha_tilde);
        for (part, factor) in [(Y, 1.0), (Z, 1.0), (X_TILDE, nu)] {
            matrix[Y_TILDE][part] -= theta * factor;
        }
        Self(matrix)
    }

    /// `exp(duration · matrix)`: the power series of a matrix that is so small that 14 terms are exact to rounding, and
    /// its squares.
    pub(super) fn exponential(&self, duration: f64) -> Matrix {
        let rows = self.0.iter().map(|row| row.iter().map(|a| a.abs()).sum());
        let norm = duration * rows.fold(0.0, f64::max);
        let mut squarings = 0;
        let mut scale = duration;
        while norm * scale > 0.5 * duration {
            scale *= 0.5;
            squarings += 1;
        }
        let small = self.0.map(|row| row.map(|a| scale * a));
        let mut flow: Matrix = std::array::from_fn(|i| std::array::from_fn(|j| f64::from(i == j)));
        // Horner's scheme: I + A (I + A/2 (I + A/3 (…))).
        for term in (1..=14).rev() {
            flow = product(&small, &flow).map(|row| row.map(|a| a / f64::from(term)));
            for (i, row) in flow.iter_mut().enumerate() {
                row[i] += 1.0;
            }
        }
        for _ in 0..squarings {
            flow = product(&flow, &flow);
        }
        flow
    }
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..6).map(|k| a[i][k] * b[k][j]).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_is_that_of_the_equations() {
        let (nu, rho) = (0.3, 0.2);
        let drift = Drift::new(nu, rho);
        let start = [1.0, -2.0, 0.5, 3.0, -1.0, 0.25];
        let apply = |flow: &Matrix| flow.map(|row| (0..6).map(|k| row[k] * start[k]).sum::<f64>());
        for duration in [0.0, 1e-3, 0.7, 25.0] {
            let found = apply(&drift.exponential(duration));
            // The pairs of x and z in closed form: a mean that stays, and a difference that decays.
            let decay = (-0.25 * rho * duration).exp();
            assert!((found[X] + found[X_TILDE] + 1.0).abs() < 1e-12);
            assert!((found[X] - found[X_TILDE] - 3.0 * decay).abs() < 1e-12);
            let decay = (-0.375 * rho * duration).exp();
            assert!((found[Z] + 2.0 * found[Z_TILDE] + 0.5).abs() < 1e-12);
            assert!((found[Z] - found[Z_TILDE] + 1.25 * decay).abs() < 1e-12);
            // The others by their derivative.
            let step = 1e-4;
            let [before, after] =
                [-step, step].map(|step| apply(&drift.exponential((duration + step).abs())));
            if duration > 0.5 {
                let slope = |part: usize| (after[part] - before[part]) / (2.0 * step);
                let y = rho / 4.0 * (found[Y_TILDE] - found[Y]);
                assert!((slope(Y) - y).abs() < 1e-6);
                let y_tilde = -0.5 / rho * (found[Y] + found[Z] + nu * found[X_TILDE]);
                assert!((slope(Y_TILDE) - y_tilde).abs() < 1e-6);
            }
        }
    }
}
