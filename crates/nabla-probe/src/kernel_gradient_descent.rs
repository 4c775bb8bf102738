//! Gradient descent on a kernel regression, for any number of steps at once, and when to stop it.
//!
//! Gradient descent with the rate `η` on `1/2n Σ_j ‖f(z_j) − y_j‖²` from `f = 0`, in the space of a kernel `κ`, has
//! after `τ` steps, with `K = κ(Z, Z)` and `K/n = V diag(e) Vᵀ`,
//!
//! ```text
//! U_{τ+1} = U_τ − (η/n) K (U_τ − Y)                       on the training points, U_0 = 0
//! f_τ(z)  = κ(z, Z) V diag(c) Vᵀ Y,   c_i = (1 − (1 − η e_i)^τ) / (n e_i),   c_i → ητ/n as e_i → 0
//! ```
//!
//! so that a million steps cost as much as one. Several outputs share the kernel, and don't touch one another.
//!
//! **Stopping by theory.** With noise `ς` of the labels and `T_τ = ητ`, the last step with
//!
//! ```text
//! R̂(T^−½) ≤ 1/(2e ς T),   R̂(ε) = [1/n Σ_i min(e_i, ε²)]^½
//! ```
//!
//! Source: Raskutti, Wainwright, Yu, *Early Stopping and Non-Parametric Regression: An Optimal Data-Dependent Stopping
//! Rule*, 2014, arXiv 1306.3574.

use std::f64::consts::E;

use faer::{Mat, MatRef, Side};
use nabla_base::range::{self, OutOfRange};

/// The most training points: eigenvalues of larger kernels take too long.
pub const MOST_POINTS: usize = 5000;

/// The reason why there is no such regression.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum KernelGdError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The sizes don't fit.
    #[error("{what} has {values} values, but {rows} rows of {columns} need {}", rows * columns)]
    Shape {
        /// What.
        what: &'static str,
        /// How many values it has.
        values: usize,
        /// The rows it must have.
        rows: usize,
        /// The columns it must have.
        columns: usize,
    },
    /// A value is not a number.
    #[error("the {0} has a value that is not finite")]
    NotFinite(&'static str),
    /// The descent diverges.
    #[error(
        "the learning rate is {rate}, but it must be less than 2/λ_max = {limit} of the kernel, or the descent diverges"
    )]
    Diverges {
        /// The rate.
        rate: f64,
        /// The limit.
        limit: f64,
    },
    /// The eigenvalues were not found.
    #[error("the eigenvalues of a kernel of {0} points were not found")]
    NoConvergence(usize),
}

/// The descent; see the [module documentation](self).
///
/// ```
/// use nabla_probe::kernel_gradient_descent::KernelGd;
///
/// // Two points whose kernel is diagonal: each goes its own way to its target.
/// let descent = KernelGd::new(&[1.0, 0.0, 0.0, 0.5], &[2.0, -4.0], 1, 1.0)?;
/// let one = descent.training_at(1);
/// assert!((one[0] - 1.0).abs() < 1e-12 && (one[1] + 1.0).abs() < 1e-12);
/// let end = descent.predict_at(1_000_000, &[1.0, 0.5])?; // at a point between them
/// assert!((end[0] - (2.0 - 4.0)).abs() < 1e-9);
/// # Ok::<(), nabla_probe::kernel_gradient_descent::KernelGdError>(())
/// ```
#[derive(Clone, Debug)]
pub struct KernelGd {
    rate: f64,
    /// `e`, of `K/n`.
    eigenvalues: Vec<f64>,
    /// `V`, `[n, n]`.
    vectors: Mat<f64>,
    /// `Vᵀ Y`, `[n, outputs]`.
    targets: Mat<f64>,
}

/// `[rows, columns]`, row by row.
fn matrix(
    what: &'static str,
    values: &[f64],
    rows: usize,
    columns: usize,
) -> Result<Mat<f64>, KernelGdError> {
    if values.len() != rows * columns {
        return Err(KernelGdError::Shape {
            what,
            values: values.len(),
            rows,
            columns,
        });
    }
    if values.iter().any(|x| !x.is_finite()) {
        return Err(KernelGdError::NotFinite(what));
    }
    Ok(Mat::from_fn(rows, columns, |i, j| values[i * columns + j]))
}

fn flat(matrix: MatRef<'_, f64>) -> Vec<f64> {
    let (rows, columns) = matrix.shape();
    let rows = (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j)));
    rows.map(|place| matrix[place]).collect()
}

impl KernelGd {
    /// - `kernel`: `K`, `[n, n]`; `targets`: `Y`, `[n, outputs]`, both row by row
    /// - `rate`: `η`
    ///
    /// # Errors
    /// If there are no points or more than 5000, the sizes don't fit, or the descent would diverge.
    pub fn new(
        kernel: &[f64],
        targets: &[f64],
        outputs: usize,
        rate: f64,
    ) -> Result<Self, KernelGdError> {
        range::positive("learning rate", rate)?;
        range::at_least("number of outputs", outputs, 1)?;
        let points = kernel.len().isqrt();
        range::within("number of training points", points, 1..=MOST_POINTS)?;
        let kernel = matrix("the kernel", kernel, points, points)?;
        let targets = matrix("the list of targets", targets, points, outputs)?;
        let scaled = kernel * faer::Scale(1.0 / points as f64);
        let found = scaled.self_adjoint_eigen(Side::Lower);
        let found = found.map_err(|_| KernelGdError::NoConvergence(points))?;
        // A kernel has no negative eigenvalue; rounding has.
        let eigenvalues: Vec<f64> = found
            .S()
            .column_vector()
            .iter()
            .map(|e| e.max(0.0))
            .collect();
        let largest = eigenvalues.iter().copied().fold(0.0, f64::max);
        if rate * largest >= 2.0 {
            return Err(KernelGdError::Diverges {
                rate,
                limit: 2.0 / largest,
            });
        }
        Ok(Self {
            rate,
            eigenvalues,
            targets: found.U().transpose() * targets,
            vectors: found.U().to_owned(),
        })
    }

    /// `e`, ascending.
    pub fn eigenvalues(&self) -> &[f64] {
        &self.eigenvalues
    }

    /// `η`.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// `1 − (1 − η e)^τ`.
    fn learnt(&self, e: f64, step: u64) -> f64 {
        let (change, steps) = (self.rate * e, step as f64);
        if step == 0 {
            return 0.0;
        }
        match change < 1.0 {
            // Without the loss of digits where change is small.
            true => -(steps * (-change).ln_1p()).exp_m1(),
            false => {
                let size = (change - 1.0).powf(steps);
                if step.is_multiple_of(2) {
                    1.0 - size
                } else {
                    1.0 + size
                }
            }
        }
    }

    /// `c_i`.
    fn coefficient(&self, e: f64, step: u64) -> f64 {
        let points = self.eigenvalues.len() as f64;
        match e > 0.0 {
            true => self.learnt(e, step) / (points * e),
            false => self.rate * step as f64 / points,
        }
    }

    /// `diag(factors) Vᵀ Y`.
    fn scaled(&self, factor: impl Fn(f64) -> f64) -> Mat<f64> {
        let factors: Vec<f64> = self.eigenvalues.iter().map(|&e| factor(e)).collect();
        Mat::from_fn(self.targets.nrows(), self.targets.ncols(), |i, j| {
            factors[i] * self.targets[(i, j)]
        })
    }

    /// `U_τ`, the predictions on the training points, `[n, outputs]`.
    pub fn training_at(&self, step: u64) -> Vec<f64> {
        let scaled = self.scaled(|e| self.learnt(e, step));
        flat((&self.vectors * scaled).as_ref())
    }

    /// `f_τ` at other points, `[points, outputs]`.
    ///
    /// - `cross`: `κ(z, Z)`, `[points, n]`
    ///
    /// # Errors
    /// If the size does not fit.
    pub fn predict_at(&self, step: u64, cross: &[f64]) -> Result<Vec<f64>, KernelGdError> {
        let points = self.eigenvalues.len();
        let cross = matrix(
            "the kernel of the points",
            cross,
            cross.len() / points,
            points,
        )?;
        Ok(flat((cross * self.weights_at(step)).as_ref()))
    }

    /// `V diag(c) Vᵀ Y`, `[n, outputs]`: what a kernel of points is multiplied with.
    fn weights_at(&self, step: u64) -> Mat<f64> {
        &self.vectors * self.scaled(|e| self.coefficient(e, step))
    }

    /// The weights of the training points after some steps, for predictions at points that come one by one.
    pub fn stopped_at(&self, step: u64) -> Stopped {
        Stopped {
            weights: flat(self.weights_at(step).as_ref()),
            outputs: self.targets.ncols(),
        }
    }

    /// The mean over `targets`' rows of `‖f_τ(z) − y‖²`, for each of some steps.
    ///
    /// - `cross`: `κ(z, Z)`, `[points, n]`; `targets`: `y`, `[points, outputs]`
    ///
    /// # Errors
    /// If a size does not fit, or there is no point.
    pub fn errors_at(
        &self,
        steps: &[u64],
        cross: &[f64],
        targets: &[f64],
    ) -> Result<Vec<f64>, KernelGdError> {
        let points = self.eigenvalues.len();
        let rows = cross.len() / points;
        range::at_least("number of points", rows, 1)?;
        let cross = matrix("the kernel of the points", cross, rows, points)?;
        let targets = matrix("the list of targets", targets, rows, self.targets.ncols())?;
        let along = cross * &self.vectors; // κ(z, Z) V
        let error = |&step: &u64| {
            let found = &along * self.scaled(|e| self.coefficient(e, step));
            let left = found - &targets;
            left.squared_norm_l2() / rows as f64
        };
        Ok(steps.iter().map(error).collect())
    }

    /// The step at which theory stops; 0 if the noise is so large that nothing should be learnt.
    ///
    /// - `noise`: `ς`, the root mean square of the noise of one output
    ///
    /// # Errors
    /// If the noise is not positive.
    ///
    /// ```
    /// use nabla_probe::kernel_gradient_descent::KernelGd;
    ///
    /// // One point with e = 1: R̂ = T^−½ from T = 1 on, so √T ≤ 1/(2eς).
    /// let descent = KernelGd::new(&[1.0], &[1.0], 1, 1.0)?;
    /// let noise = 1.0 / (2.0 * std::f64::consts::E * 10.5_f64.sqrt());
    /// assert_eq!(descent.stop_by_theory(noise)?, 10);
    /// # Ok::<(), nabla_probe::kernel_gradient_descent::KernelGdError>(())
    /// ```
    pub fn stop_by_theory(&self, noise: f64) -> Result<u64, KernelGdError> {
        range::positive("noise of the labels", noise)?;
        let limit = (2.0 * E * noise).powi(-2);
        // T² R̂(T^−½)², which grows with T.
        let fits = |step: u64| {
            let time = self.rate * step as f64;
            let each = self.eigenvalues.iter().map(|e| (e * time * time).min(time));
            each.sum::<f64>() / self.eigenvalues.len() as f64 <= limit
        };
        let (mut low, mut high) = (0_u64, 1_u64);
        while fits(high) {
            // A kernel without eigenvalues never learns.
            if high > 1 << 60 {
                return Ok(high);
            }
            (low, high) = (high, 2 * high);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// A regression that was stopped.
#[derive(Clone, Debug, PartialEq)]
pub struct Stopped {
    /// `[n, outputs]`.
    weights: Vec<f64>,
    outputs: usize,
}

impl Stopped {
    /// `f(z)`, `[outputs]`, from `κ(z, Z)`, `[n]`.
    pub fn predict(&self, kernel: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; self.outputs];
        for (k, weights) in kernel.iter().zip(self.weights.chunks(self.outputs)) {
            nabla_base::vector::add_scaled(&mut sum, *k, weights);
        }
        sum
    }
}

/// Whole steps from 1 to about `most`, each `ratio` times the one before, without repetition.
///
/// # Errors
/// If the ratio is not above 1.
pub fn steps_up_to(most: u64, ratio: f64) -> Result<Vec<u64>, OutOfRange> {
    range::check(ratio > 1.0, "ratio of two steps", ratio, "greater than 1")?;
    let mut steps: Vec<u64> = Vec::new();
    let mut at = 1.0_f64;
    while at <= most as f64 {
        let step = at.round() as u64;
        if steps.last() != Some(&step) {
            steps.push(step);
        }
        at *= ratio;
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_grad::seeded_noise::SeededNoise;
    use nabla_grad::trace::Probe;

    fn normal(count: usize, seed: u64) -> Vec<f64> {
        Probe::Gaussian.draw(count, &mut SeededNoise::new(seed, 0))
    }

    /// `Z Zᵀ` of features, for `others` against `points`.
    fn linear(others: &[f64], points: &[f64], width: usize) -> Vec<f64> {
        let rows = others.chunks(width);
        rows.flat_map(|a| {
            points
                .chunks(width)
                .map(move |b| nabla_base::vector::dot(a, b))
        })
        .collect()
    }

    /// The closed form is the loop, for a kernel of low rank, and for a rate at which some directions overshoot.
    #[test]
    fn all_steps_at_once_are_the_steps_one_by_one() {
        let (points, width) = (12, 3);
        let z = normal(points * width, 1);
        let y = normal(points * 2, 2);
        let kernel = linear(&z, &z, width);
        let other = normal(5 * width, 3);
        let cross = linear(&other, &z, width);
        let plain = KernelGd::new(&kernel, &y, 2, 0.01).unwrap();
        let most = plain.eigenvalues().last().copied().unwrap();
        for rate in [0.3 / most, 1.7 / most] {
            let descent = KernelGd::new(&kernel, &y, 2, rate).unwrap();
            // In the weights of the features, [width, 2].
            let mut w = vec![0.0; width * 2];
            for step in 0..40_u64 {
                let value =
                    |z: &[f64], k: usize| -> f64 { (0..width).map(|i| z[i] * w[2 * i + k]).sum() };
                let training: Vec<f64> = z
                    .chunks(width)
                    .flat_map(|z| [value(z, 0), value(z, 1)])
                    .collect();
                let outside: Vec<f64> = other
                    .chunks(width)
                    .flat_map(|z| [value(z, 0), value(z, 1)])
                    .collect();
                for (a, b) in training.iter().zip(&descent.training_at(step)) {
                    assert!((a - b).abs() < 1e-10);
                }
                let found = descent.predict_at(step, &cross).unwrap();
                for (a, b) in outside.iter().zip(&found) {
                    assert!((a - b).abs() < 1e-10);
                }
                let stopped = descent.stopped_at(step);
                let row = stopped.predict(&cross[points..2 * points]);
                assert!((row[1] - found[3]).abs() < 1e-12);
                let error = descent.errors_at(&[step], &cross, &outside).unwrap()[0];
                assert!(error < 1e-18);
                let left: Vec<f64> = training.iter().zip(&y).map(|(u, y)| u - y).collect();
                for i in 0..width {
                    for k in 0..2 {
                        let sum: f64 = (0..points)
                            .map(|j| z[width * j + i] * left[2 * j + k])
                            .sum();
                        w[2 * i + k] -= rate / points as f64 * sum;
                    }
                }
            }
        }
    }

    #[test]
    fn small_eigenvalues_keep_their_digits() {
        let descent = KernelGd::new(&[1e-14], &[1.0], 1, 1.0).unwrap();
        let found = descent.training_at(1000)[0];
        assert!((found / 1e-11 - 1.0).abs() < 1e-10, "{found}");
        // Where e is 0, the limit.
        let flat = KernelGd::new(&[1.0, 0.0, 0.0, 0.0], &[0.0, 1.0], 1, 0.5).unwrap();
        assert_eq!(
            flat.predict_at(8, &[0.0, 3.0]).unwrap(),
            [0.5 * 8.0 / 2.0 * 3.0]
        );
    }

    #[test]
    fn the_last_step_is_found_for_any_noise() {
        let z = normal(60, 4);
        let descent = KernelGd::new(&linear(&z, &z, 3), &normal(20, 5), 1, 0.2).unwrap();
        let holds = |step: u64, noise: f64| {
            let time = 0.2 * step as f64;
            let each = descent.eigenvalues().iter().map(|e| e.min(1.0 / time));
            (each.sum::<f64>() / 20.0).sqrt() <= 1.0 / (2.0 * E * noise * time)
        };
        for noise in [1e-4, 0.01, 0.05, 0.2] {
            let step = descent.stop_by_theory(noise).unwrap();
            assert!(step == 0 || holds(step, noise), "{noise}");
            assert!(!holds(step + 1, noise), "{noise}");
        }
        assert_eq!(descent.stop_by_theory(100.0).unwrap(), 0);
    }

    #[test]
    fn what_is_no_descent_is_refused_in_words() {
        let told = |kernel: &[f64], targets: &[f64], rate| {
            KernelGd::new(kernel, targets, 1, rate)
                .unwrap_err()
                .to_string()
        };
        assert!(told(&[4.0], &[1.0], 0.5).contains("less than 2/λ_max = 0.5"));
        assert!(told(&[1.0; 3], &[1.0], 0.5).contains("the kernel has 3 values"));
        assert!(told(&[1.0], &[1.0; 2], 0.5).contains("the list of targets has 2 values"));
        assert!(told(&[f64::NAN], &[1.0], 0.5).contains("not finite"));
        assert!(told(&[], &[], 0.5).contains("number of training points is 0"));
        assert!(told(&[1.0], &[1.0], 0.0).contains("learning rate is 0"));
        assert_eq!(steps_up_to(20, 1.5).unwrap(), [1, 2, 3, 5, 8, 11, 17]);
        assert!(steps_up_to(20, 1.0).is_err());
    }
}
