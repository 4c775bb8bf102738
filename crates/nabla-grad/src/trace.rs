//! The trace and the diagonal of a matrix that is known only through its products with vectors.
//!
//! With random probes `z` whose elements are independent with mean 0 and variance 1,
//! `E[zᵀ A z] = tr A`. [`hutchinson`] averages `m` of them; for a symmetric `A` the variance is
//!
//! ```text
//! Rademacher (±1)   2/m (‖A‖_F² − Σ_i a_ii²)
//! Gaussian          2/m ‖A‖_F²
//! ```
//!
//! [`hutch_plus_plus`] computes the trace exactly on the part of `A` that a random projection captures, and
//! estimates only the rest. With `k` vectors for each of the three parts (`3k` products):
//!
//! ```text
//! S, G ∈ {±1}^(d × k),   Q = orthonormal basis of A S
//! tr A ≈ tr(Qᵀ A Q) + 1/k tr(Gᵀ (I − QQᵀ) A (I − QQᵀ) G)
//! ```
//!
//! It is exact (up to rounding) if the rank of `A` is at most `k`. For a positive semi-definite `A` its error
//! falls as `1/m`, while Hutchinson's falls as `1/√m`.
//!
//! [`diagonal`] averages `z ⊙ A z` instead, divided by the average of `z ⊙ z`; with Rademacher probes
//! the variance of element `i` is `1/m Σ_{j≠i} a_ij²`.
//!
//! Sources: Hutchinson, *A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian
//! Smoothing Splines*, 1990; Avron, Toledo, *Randomized Algorithms for Estimating the Trace of an
//! Implicit Symmetric Positive Semi-Definite Matrix*, 2011 (the variances); Meyer, Musco, Musco,
//! Woodruff, *Hutch++: Optimal Stochastic Trace Estimation*, 2021, arXiv 2010.09649, algorithm 1;
//! Bekas, Kokiopoulou, Saad, *An Estimator for the Diagonal of a Matrix*, 2007.

use burn::config::Config;
use faer::Mat;
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::mean_with_error;
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::curvature::{CurvatureError, CurvatureOperator, add_scaled, dot, norm};
use crate::seeded_noise::SeededNoise;

/// The reason why there is no estimate.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A number of probes or products, or a tolerance, is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The matrix is empty.
    #[error("the matrix has no rows, so there is no trace to estimate")]
    Empty,
    /// A product failed.
    #[error(transparent)]
    Curvature(#[from] CurvatureError),
}

/// The distribution of a probe's elements.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Probe {
    /// 1 or −1 with equal probability, which has the least variance.
    Rademacher,
    /// Standard normal.
    Gaussian,
}

impl Probe {
    /// Draws a vector of `dim` independent elements with mean 0 and variance 1.
    pub fn draw(self, dim: usize, noise: &mut SeededNoise) -> Vec<f64> {
        match self {
            Self::Rademacher => {
                let mut vector = Vec::with_capacity(dim);
                while vector.len() < dim {
                    // One bit per element.
                    let mut bits = noise.next_u64();
                    for _ in 0..(dim - vector.len()).min(64) {
                        vector.push(if bits & 1 == 1 { 1.0 } else { -1.0 });
                        bits >>= 1;
                    }
                }
                vector
            }
            Self::Gaussian => StandardNormal.sample_iter(noise).take(dim).collect(),
        }
    }
}

/// An estimate of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceEstimate {
    /// The trace.
    pub trace: f64,
    /// The standard error of `trace`, from the scatter of the probes; `None` for a single probe. For
    /// [`hutch_plus_plus`] it is the standard error of the random part, given the basis.
    pub standard_error: Option<f64>,
    /// The largest error of `trace` that the errors of the operator's products can cause: the mean of `‖z‖₂`
    /// times the error of `A z`. It adds to the standard error. This bound always holds; the standard error
    /// holds only with the usual probability.
    pub operator_error: f64,
    /// The number of products with the matrix used.
    pub products: usize,
    /// Whether the estimate settled before the last probe; true if the number of probes is fixed.
    pub settled: bool,
}

impl TraceEstimate {
    /// `count` standard errors plus the operator's error; infinite for a single probe.
    pub fn error(&self, count: f64) -> f64 {
        count * self.standard_error.unwrap_or(f64::INFINITY) + self.operator_error
    }
}

/// Returns Hutchinson's estimate from `probes` products.
///
/// # Errors
/// If `probes` is 0, the matrix is empty, or a product fails.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::curvature::DenseOperator;
/// use nabla_grad::seeded_noise::SeededNoise;
/// use nabla_grad::trace::{Probe, hutchinson};
///
/// let matrix = Tensor::<2>::from_floats([[2.0, 0.0], [0.0, 3.0]], &Device::flex());
/// let operator = DenseOperator::new(matrix)?;
/// // For a diagonal matrix, Rademacher probes have no variance.
/// let estimate = hutchinson(&operator, Probe::Rademacher, 2, &mut SeededNoise::new(1, 0))?;
/// assert_eq!((estimate.trace, estimate.standard_error), (5.0, Some(0.0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn hutchinson(
    operator: &impl CurvatureOperator,
    probe: Probe,
    probes: usize,
    noise: &mut SeededNoise,
) -> Result<TraceEstimate, TraceError> {
    let dim = checked_dim(operator)?;
    range::at_least("number of probes", probes, 1)?;
    let mut forms = Forms::default();
    for _ in 0..probes {
        forms.add(operator, &probe.draw(dim, noise))?;
    }
    Ok(forms.estimate(true))
}

/// Configuration of [`hutchinson_until_settled`]. The defaults are PyHessian's.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct TraceConfig {
    /// The largest number of probes. Default 100.
    #[config(default = 100)]
    pub probes: usize,
    /// The estimate has settled once a probe changes it by less than this share of its absolute
    /// value. Default 1e-3.
    #[config(default = 1e-3)]
    pub tolerance: f64,
    /// Distribution of the probes. Default [`Probe::Rademacher`].
    #[config(default = "Probe::Rademacher")]
    pub probe: Probe,
}

/// Returns Hutchinson's estimate with as many probes as it needs to settle: `|change| < tolerance · |mean|`.
///
/// The rule is PyHessian's except for the absolute value: divided by a negative mean, every change is below
/// the tolerance, so PyHessian 0.1 stops after two probes there. A settled estimate need not be accurate;
/// [`TraceEstimate::error`] states the accuracy.
///
/// # Errors
/// If there is no probe, the tolerance is negative or not finite, the matrix is empty, or a product
/// fails.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::curvature::DenseOperator;
/// use nabla_grad::seeded_noise::SeededNoise;
/// use nabla_grad::trace::{TraceConfig, hutchinson_until_settled};
///
/// let matrix = Tensor::<2>::from_floats([[-2.0, 1.0], [1.0, -3.0]], &Device::flex());
/// let operator = DenseOperator::new(matrix)?;
/// let config = TraceConfig::new().with_probes(1000);
/// let found = hutchinson_until_settled(&operator, &config, &mut SeededNoise::new(1, 0))?;
/// assert!(found.settled && (found.trace + 5.0).abs() < found.error(4.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn hutchinson_until_settled(
    operator: &impl CurvatureOperator,
    config: &TraceConfig,
    noise: &mut SeededNoise,
) -> Result<TraceEstimate, TraceError> {
    let dim = checked_dim(operator)?;
    range::at_least("number of probes", config.probes, 1)?;
    range::not_negative("tolerance of the trace", config.tolerance)?;
    let mut forms = Forms::default();
    let mut last: Option<f64> = None;
    for _ in 0..config.probes {
        forms.add(operator, &config.probe.draw(dim, noise))?;
        let found = forms.estimate(true);
        let allowed = config.tolerance * found.trace.abs();
        if last.is_some_and(|last| (found.trace - last).abs() <= allowed) {
            return Ok(found);
        }
        last = Some(found.trace);
    }
    Ok(forms.estimate(false))
}

/// Values of `zᵀ A z`, each with the error that the operator's error causes.
#[derive(Default)]
struct Forms {
    values: Vec<f64>,
    error: f64,
}

impl Forms {
    fn add(&mut self, operator: &impl CurvatureOperator, z: &[f64]) -> Result<(), TraceError> {
        let product = operator.apply_with_error(z)?;
        self.values.push(dot(z, &product.values));
        self.error += norm(z) * product.error;
        Ok(())
    }

    fn estimate(&self, settled: bool) -> TraceEstimate {
        let (trace, standard_error) = mean_with_error(&self.values);
        TraceEstimate {
            trace,
            standard_error,
            operator_error: self.error / self.values.len() as f64,
            products: self.values.len(),
            settled,
        }
    }
}

/// Returns the estimate of Hutch++ with at most `products` products: a third each for the random projection,
/// for the trace on its range and for the rest.
///
/// # Errors
/// If `products` is less than 3, the matrix is empty, or a product fails.
pub fn hutch_plus_plus(
    operator: &impl CurvatureOperator,
    products: usize,
    noise: &mut SeededNoise,
) -> Result<TraceEstimate, TraceError> {
    let dim = checked_dim(operator)?;
    range::at_least("number of products", products, 3)?;
    let k = products / 3;

    // Q spans A S. More columns than rows add nothing.
    let columns = k.min(dim);
    let mut sketch = Mat::<f64>::zeros(dim, columns); // A S
    for j in 0..columns {
        let s = Probe::Rademacher.draw(dim, noise);
        let product = operator.apply_values(&s)?;
        for (to, from) in sketch.col_mut(j).iter_mut().zip(product) {
            *to = from;
        }
    }
    let q = sketch.qr().compute_thin_Q();
    let basis: Vec<Vec<f64>> = q
        .col_iter()
        .map(|column| column.iter().copied().collect())
        .collect();

    // tr(Qᵀ A Q)
    let mut caught = Forms::default();
    for column in &basis {
        caught.add(operator, column)?;
    }

    // 1/k tr(Gᵀ (I − QQᵀ) A (I − QQᵀ) G)
    let mut left = Forms::default();
    for _ in 0..k {
        let mut g = Probe::Rademacher.draw(dim, noise);
        // Twice, so that the part of Q that rounding leaves in g is of the order of ε, too.
        for _ in 0..2 {
            for column in &basis {
                let share = dot(column, &g);
                add_scaled(&mut g, -share, column);
            }
        }
        left.add(operator, &g)?;
    }
    let rest = left.estimate(true);
    Ok(TraceEstimate {
        trace: caught.values.iter().sum::<f64>() + rest.trace,
        operator_error: caught.error + rest.operator_error,
        products: 2 * columns + k,
        ..rest
    })
}

/// An estimate of a diagonal.
#[derive(Clone, Debug, PartialEq)]
pub struct DiagonalEstimate {
    /// The diagonal.
    pub diagonal: Vec<f64>,
    /// The standard error of every element, from the scatter of the probes; `None` for a single
    /// probe.
    pub standard_error: Option<Vec<f64>>,
    /// The largest error of each element that the errors of the operator's products can cause.
    pub operator_error: f64,
}

/// Returns the estimate of the diagonal by Bekas, Kokiopoulou and Saad, `Σ z ⊙ A z ⊘ Σ z ⊙ z`.
///
/// # Errors
/// If `probes` is 0, the matrix is empty, or a product fails.
pub fn diagonal(
    operator: &impl CurvatureOperator,
    probe: Probe,
    probes: usize,
    noise: &mut SeededNoise,
) -> Result<DiagonalEstimate, TraceError> {
    let dim = checked_dim(operator)?;
    range::at_least("number of probes", probes, 1)?;
    let mut numerator = vec![0.0; dim]; // Σ z ⊙ A z
    let mut denominator = vec![0.0; dim]; // Σ z ⊙ z
    // For the scatter of the residuals z_i (Az)_i − d_i z_i² of the ratio, whose d_i is known only
    // at the end: Σ (z_i (Az)_i)², Σ z_i (Az)_i z_i², Σ z_i⁴.
    let mut moments = vec![[0.0; 3]; dim];
    // Σ max|z| ‖error of A z‖ bounds the error of every numerator.
    let mut off = 0.0;
    for _ in 0..probes {
        let z = probe.draw(dim, noise);
        let found = operator.apply_with_error(&z)?;
        let product = found.values;
        off += found.error * z.iter().fold(0.0_f64, |most, z| most.max(z.abs()));
        for i in 0..dim {
            let (above, below) = (z[i] * product[i], z[i] * z[i]);
            numerator[i] += above;
            denominator[i] += below;
            moments[i][0] += above * above;
            moments[i][1] += above * below;
            moments[i][2] += below * below;
        }
    }
    let diagonal: Vec<f64> = numerator
        .iter()
        .zip(&denominator)
        .map(|(above, below)| above / below)
        .collect();
    let standard_error = (probes > 1).then(|| {
        let m = probes as f64;
        (0..dim)
            .map(|i| {
                let d = diagonal[i];
                let [a, b, c] = moments[i];
                let squares = (a - 2.0 * d * b + d * d * c).max(0.0);
                // The choice of d gives the residuals the mean 0.
                (squares * m / (m - 1.0)).sqrt() / denominator[i]
            })
            .collect()
    });
    let least = denominator
        .iter()
        .fold(f64::INFINITY, |least, d| least.min(*d));
    Ok(DiagonalEstimate {
        diagonal,
        standard_error,
        operator_error: off / least,
    })
}

fn checked_dim(operator: &impl CurvatureOperator) -> Result<usize, TraceError> {
    match operator.dim() {
        0 => Err(TraceError::Empty),
        dim => Ok(dim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    use crate::curvature::tests::{dense, reference, symmetric, theta, vector};
    use crate::curvature::{DifferenceConfig, FunctionOperator, Hessian, Order, Step};

    fn true_trace(rows: &[Vec<f64>]) -> f64 {
        (0..rows.len()).map(|i| rows[i][i]).sum()
    }

    fn squares(rows: &[Vec<f64>]) -> f64 {
        rows.iter().flatten().map(|x| x * x).sum()
    }

    /// `Q diag(values) Qᵀ` with a random orthogonal `Q`.
    fn with_eigenvalues(values: &[f64], seed: u64) -> Vec<Vec<f64>> {
        let dim = values.len();
        let draw = SeededNoise::new(seed, 0).normal_values(dim * dim);
        let q = Mat::<f64>::from_fn(dim, dim, |i, j| f64::from(draw[i * dim + j]))
            .qr()
            .compute_thin_Q();
        let element = |i, j| -> f64 { (0..dim).map(|k| q[(i, k)] * values[k] * q[(j, k)]).sum() };
        (0..dim)
            .map(|i| (0..dim).map(|j| element(i.max(j), i.min(j))).collect())
            .collect()
    }

    #[test]
    fn probes_have_mean_0_variance_1_and_their_own_fourth_moment() {
        let dim = 100_001;
        for (probe, fourth, spread) in [(Probe::Rademacher, 1.0, 0.0), (Probe::Gaussian, 3.0, 96.0)]
        {
            let z = probe.draw(dim, &mut SeededNoise::new(3, 0));
            assert_eq!(z.len(), dim);
            let mean = |power| z.iter().map(|z| z.powi(power)).sum::<f64>() / dim as f64;
            let four_errors = |variance: f64| 4.0 * (variance / dim as f64).sqrt() + 1e-12;
            assert!(mean(1).abs() < four_errors(1.0), "{probe:?}");
            assert!(
                (mean(2) - 1.0).abs() < four_errors(fourth - 1.0),
                "{probe:?}"
            );
            assert!((mean(4) - fourth).abs() < four_errors(spread), "{probe:?}");
            // Neighbours are independent, also across the words of random bits.
            let neighbours: f64 = z.windows(2).map(|z| z[0] * z[1]).sum::<f64>() / dim as f64;
            assert!(neighbours.abs() < four_errors(1.0), "{probe:?}");
        }
    }

    #[test]
    fn hutchinson_is_unbiased_with_the_stated_variance() {
        let (rows, operator) = symmetric(12, 7);
        let diagonal: f64 = (0..12).map(|i| rows[i][i].powi(2)).sum();
        let probes = 20_000;
        for (probe, variance) in [
            (Probe::Rademacher, 2.0 * (squares(&rows) - diagonal)),
            (Probe::Gaussian, 2.0 * squares(&rows)),
        ] {
            let found = hutchinson(&operator, probe, probes, &mut SeededNoise::new(11, 0)).unwrap();
            let error = (variance / probes as f64).sqrt();
            assert!(
                (found.trace - true_trace(&rows)).abs() < 4.0 * error,
                "{probe:?}: {found:?}"
            );
            let ratio = (found.standard_error.unwrap() / error).powi(2);
            assert!((ratio - 1.0).abs() < 0.06, "{probe:?}: {ratio}");
            assert_eq!(found.products, probes);
        }
    }

    #[test]
    fn hutch_plus_plus_is_exact_for_low_rank() {
        let mut values = vec![0.0; 40];
        values[..5].copy_from_slice(&[3.0, -2.0, 1.0, 0.5, 0.1]);
        let operator = dense(&with_eigenvalues(&values, 2));
        let mut noise = SeededNoise::new(1, 0);
        // Five directions are caught with 15 products; with fewer, something is left.
        let found = hutch_plus_plus(&operator, 15, &mut noise).unwrap();
        assert!((found.trace - 2.6).abs() < 1e-12, "{found:?}");
        assert!(found.standard_error.unwrap() < 1e-12);
        assert_eq!(found.products, 15);
        let found = hutch_plus_plus(&operator, 12, &mut noise).unwrap();
        assert!((found.trace - 2.6).abs() > 1e-6, "{found:?}");
        // Hutchinson's is not.
        let found = hutchinson(&operator, Probe::Rademacher, 15, &mut noise).unwrap();
        assert!((found.trace - 2.6).abs() > 0.01, "{found:?}");
    }

    #[test]
    fn hutch_plus_plus_is_exact_if_there_are_as_many_directions_as_rows() {
        let (rows, operator) = symmetric(6, 4);
        let mut noise = SeededNoise::new(1, 0);
        let found = hutch_plus_plus(&operator, 30, &mut noise).unwrap();
        assert!((found.trace - true_trace(&rows)).abs() < 1e-12);
        assert_eq!(found.products, 22);
    }

    #[test]
    fn hutch_plus_plus_is_unbiased() {
        let (rows, operator) = symmetric(12, 9);
        let mut noise = SeededNoise::new(21, 0);
        let estimates: Vec<f64> = (0..3000)
            .map(|_| hutch_plus_plus(&operator, 9, &mut noise).unwrap().trace)
            .collect();
        let (trace, error) = mean_with_error(&estimates);
        let error = error.unwrap();
        assert!(
            (trace - true_trace(&rows)).abs() < 4.0 * error,
            "{trace} ± {error} for {}",
            true_trace(&rows)
        );
    }

    /// Eigenvalues `1/i²`: from 12 to 48 products Hutchinson's error halves, as theory says, and that
    /// of Hutch++ falls at least fourfold (`1/m`) and is smaller to begin with.
    #[test]
    fn the_error_of_hutch_plus_plus_falls_faster_on_a_decaying_spectrum() {
        let values: Vec<f64> = (1..=80).map(|i| 1.0 / f64::from(i * i)).collect();
        let trace: f64 = values.iter().sum();
        let operator = dense(&with_eigenvalues(&values, 6));
        let mut noise = SeededNoise::new(31, 0);
        let mut errors = |estimate: &dyn Fn(usize, &mut SeededNoise) -> f64| {
            [12, 48].map(|products| {
                let squares: f64 = (0..200)
                    .map(|_| (estimate(products, &mut noise) - trace).powi(2))
                    .sum();
                (squares / 200.0).sqrt()
            })
        };
        let plain = errors(&|products, noise| {
            hutchinson(&operator, Probe::Rademacher, products, noise)
                .unwrap()
                .trace
        });
        let better =
            errors(&|products, noise| hutch_plus_plus(&operator, products, noise).unwrap().trace);
        let fall = plain[0] / plain[1];
        assert!((fall - 2.0).abs() < 0.4, "{plain:?}");
        assert!(better[0] / better[1] > 4.0, "{better:?}");
        assert!(better[0] < 0.5 * plain[0], "{better:?} {plain:?}");
    }

    #[test]
    fn the_diagonal_is_unbiased_with_the_stated_variance() {
        let (rows, operator) = symmetric(10, 13);
        let probes = 20_000;
        let mut noise = SeededNoise::new(17, 0);
        let found = diagonal(&operator, Probe::Rademacher, probes, &mut noise).unwrap();
        let errors = found.standard_error.unwrap();
        for i in 0..10 {
            let others = squares(&rows[i..=i]) - rows[i][i].powi(2);
            let error = (others / probes as f64).sqrt();
            let off = (found.diagonal[i] - rows[i][i]) / error;
            assert!(off.abs() < 4.0, "{i}: {off}");
            assert!((errors[i] / error - 1.0).abs() < 0.04, "{i}");
        }
        // Gaussian probes are weighted by their own squares.
        let found = diagonal(&operator, Probe::Gaussian, probes, &mut noise).unwrap();
        let errors = found.standard_error.unwrap();
        for i in 0..10 {
            let off = (found.diagonal[i] - rows[i][i]) / errors[i];
            assert!(off.abs() < 4.5, "{i}: {off}");
        }
    }

    #[test]
    fn a_diagonal_matrix_is_exact_with_one_probe() {
        let rows: Vec<Vec<f64>> = (0..4)
            .map(|i| {
                (0..4)
                    .map(|j| f64::from(u8::from(i == j)) * (i as f64 - 1.5))
                    .collect()
            })
            .collect();
        for probe in [Probe::Rademacher, Probe::Gaussian] {
            let mut noise = SeededNoise::new(1, 0);
            let found = diagonal(&dense(&rows), probe, 1, &mut noise).unwrap();
            for (i, d) in found.diagonal.iter().enumerate() {
                assert!((d - rows[i][i]).abs() < 1e-15);
            }
            assert_eq!(found.standard_error, None);
        }
    }

    #[test]
    fn trace_and_diagonal_of_a_networks_hessian_are_torchs() {
        let gradient = crate::curvature::tests::network_gradient;
        let config = DifferenceConfig::new()
            .with_step(Step::Automatic)
            .with_order(Order::Fourth);
        let hessian = Hessian::new(gradient, vector(&theta()), config).unwrap();
        let exact: f64 = reference("network", "hessian_eigenvalues").iter().sum();
        // As many directions as rows: exact.
        let mut noise = SeededNoise::new(1, 0);
        let found = hutch_plus_plus(&hessian, 93, &mut noise).unwrap();
        assert!((found.trace - exact).abs() < 1e-7, "{found:?} {exact}");
        let found = hutchinson(&hessian, Probe::Rademacher, 300, &mut noise).unwrap();
        let error = found.standard_error.unwrap();
        assert!((found.trace - exact).abs() < 4.0 * error);
        let found = diagonal(&hessian, Probe::Rademacher, 300, &mut noise).unwrap();
        let exact = reference("network", "hessian_diagonal");
        let errors = found.standard_error.unwrap();
        for i in 0..exact.len() {
            assert!((found.diagonal[i] - exact[i]).abs() < 4.5 * errors[i] + 1e-9);
        }
        assert!(norm(&errors) < 0.5);
    }

    /// PyHessian 0.1 divides by the mean itself, and stops after two probes where it is negative.
    #[test]
    fn a_negative_trace_settles_as_late_as_a_positive_one() {
        let (rows, _) = symmetric(40, 6);
        let config = TraceConfig::new().with_probes(400);
        for seed in 0..5 {
            let mut probes = Vec::new();
            for sign in [1.0, -1.0] {
                let shifted: Vec<Vec<f64>> = rows
                    .iter()
                    .enumerate()
                    .map(|(i, row)| {
                        let element =
                            |(j, x): (usize, &f64)| sign * (x + 1.5 * f64::from(u8::from(i == j)));
                        row.iter().enumerate().map(element).collect()
                    })
                    .collect();
                let noise = &mut SeededNoise::new(seed, 0);
                let found = hutchinson_until_settled(&dense(&shifted), &config, noise).unwrap();
                assert!(found.settled && found.trace * sign > 0.0, "{found:?}");
                let off = (found.trace - true_trace(&shifted)).abs();
                assert!(off < found.error(5.0), "{found:?}");
                probes.push(found.products);
            }
            assert!(probes[0] == probes[1] && probes[0] > 2, "{probes:?}");
        }
        let config = TraceConfig::new().with_probes(3).with_tolerance(0.0);
        let (_, operator) = symmetric(10, 1);
        let noise = &mut SeededNoise::new(0, 0);
        let found = hutchinson_until_settled(&operator, &config, noise).unwrap();
        assert_eq!((found.settled, found.products), (false, 3));
        let config = config.with_tolerance(f64::NAN);
        let refused = hutchinson_until_settled(&operator, &config, noise);
        assert!(matches!(refused, Err(TraceError::Range(_))));
    }

    #[test]
    fn a_seed_gives_the_same_bits() {
        let (_, operator) = symmetric(20, 3);
        let run = |seed| {
            let mut noise = SeededNoise::new(seed, 5);
            (
                hutchinson(&operator, Probe::Gaussian, 4, &mut noise).unwrap(),
                hutch_plus_plus(&operator, 9, &mut noise).unwrap(),
                diagonal(&operator, Probe::Rademacher, 4, &mut noise).unwrap(),
            )
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1).0, run(2).0);
    }

    #[test]
    fn too_few_probes_and_empty_matrices_are_refused() {
        let (_, operator) = symmetric(3, 3);
        let mut noise = SeededNoise::new(1, 0);
        let refused = hutchinson(&operator, Probe::Gaussian, 0, &mut noise).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the number of probes is 0, but it must be at least 1"
        );
        let refused = hutch_plus_plus(&operator, 2, &mut noise).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the number of products is 2, but it must be at least 3"
        );
        let empty = FunctionOperator::new(0, Device::flex(), |v: &Tensor<1>| Ok(v.clone()));
        assert!(matches!(
            diagonal(&empty, Probe::Gaussian, 1, &mut noise),
            Err(TraceError::Empty)
        ));
    }
}
