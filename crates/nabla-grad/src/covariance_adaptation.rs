//! CMA-ES: a normal distribution that learns the shape of a function's level sets from the order of its draws.
//!
//! This is the search behind `nabla_solve::cma_es` and the gradient-free attack of `nabla_private`. In each generation,
//! of `λ` points `x_i = m + σ y_i`, `y_i ~ N(0, C)`, in their order, with weights `w_i` that fall with the place and are
//! negative in the second half,
//!
//! ```text
//! y   = Σ_{i ≤ λ/2} w_i y_i                                            m ← m + σ y
//! p_σ ← (1 − c_σ) p_σ + √(c_σ (2 − c_σ) μ_eff) C^{−½} y                σ ← σ exp(c_σ/d_σ (‖p_σ‖/χ − 1))
//! p_c ← (1 − c_c) p_c + h √(c_c (2 − c_c) μ_eff) y
//! C   ← (1 + c_1 δ − c_1 − c_μ Σ w_i) C + c_1 p_c p_cᵀ + c_μ Σ w°_i y_i y_iᵀ
//! ```
//!
//! with `w°_i = w_i d/‖C^{−½} y_i‖²` for negative weights and `h = 0`, `δ = c_c (2 − c_c)` where `p_σ`
//! is long, otherwise 1 and 0. All constants are the defaults of the source. A generation costs `O(d³)`
//! for the root of `C`.
//!
//! Source: Hansen, *The CMA Evolution Strategy: A Tutorial*, 2016, arXiv 1604.00772.

use faer::{Mat, Side};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{NotFinite, add_scaled, finite, moved, norm};
use serde::{Deserialize, Serialize};

use crate::seeded_noise::SeededNoise;

/// The reason why a search cannot start or go on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AdaptationError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There is no start.
    #[error("the start has no coordinates")]
    Empty,
    /// A coordinate of the start or of a saved state is not finite.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// The order is not one of the points of a generation.
    #[error(
        "an order of {found} points and {numbers} coordinates was given, but a generation has {candidates} points of \
         {dimension} coordinates"
    )]
    Order {
        /// Points in the order.
        found: usize,
        /// Coordinates of the points.
        numbers: usize,
        /// Points of a generation.
        candidates: usize,
        /// Coordinates of a point.
        dimension: usize,
    },
    /// The distribution is no longer finite.
    #[error("the distribution is no longer finite")]
    Diverged,
    /// The saved state is impossible.
    #[error("the saved state does not fit: {0}")]
    State(&'static str),
}

/// Constants that depend only on the dimension and the number of points.
#[derive(Clone, Debug, PartialEq)]
struct Constants {
    /// `w_i` from the best on, `[λ]`.
    weights: Vec<f64>,
    /// `μ_eff`.
    effective: f64,
    c_sigma: f64,
    d_sigma: f64,
    c_c: f64,
    c_1: f64,
    c_mu: f64,
    /// `χ`, about the mean length of a normal vector.
    chi: f64,
}

impl Constants {
    fn new(dimension: usize, candidates: usize) -> Self {
        let d = dimension as f64;
        let lambda = candidates as f64;
        let parents = candidates / 2;
        let raw: Vec<f64> = (1..=candidates)
            .map(|i| ((lambda + 1.0) / 2.0).ln() - (i as f64).ln())
            .collect();
        let effective = |part: &[f64]| {
            part.iter().sum::<f64>().powi(2) / part.iter().map(|w| w * w).sum::<f64>()
        };
        let (mu_eff, mu_eff_minus) = (effective(&raw[..parents]), effective(&raw[parents..]));
        let c_1 = 2.0 / ((d + 1.3).powi(2) + mu_eff);
        let c_mu = (2.0 * (mu_eff - 2.0 + 1.0 / mu_eff) / ((d + 2.0).powi(2) + mu_eff))
            .min(1.0 - c_1 - 1e-8);
        let negative = (1.0 + c_1 / c_mu)
            .min(1.0 + 2.0 * mu_eff_minus / (mu_eff + 2.0))
            .min((1.0 - c_1 - c_mu) / (d * c_mu));
        let sum = |sign: f64| raw.iter().map(|w| (sign * w).max(0.0)).sum::<f64>();
        let (above, below) = (sum(1.0), sum(-1.0));
        let c_sigma = (mu_eff + 2.0) / (d + mu_eff + 5.0);
        let excess = (((mu_eff - 1.0) / (d + 1.0)).sqrt() - 1.0).max(0.0);
        Self {
            weights: raw
                .iter()
                .map(|&w| {
                    if w >= 0.0 {
                        w / above
                    } else {
                        w * negative / below
                    }
                })
                .collect(),
            effective: mu_eff,
            c_sigma,
            d_sigma: 1.0 + 2.0 * excess + c_sigma,
            c_c: (4.0 + mu_eff / d) / (d + 4.0 + 2.0 * mu_eff / d),
            c_1,
            c_mu,
            chi: d.sqrt() * (1.0 - 1.0 / (4.0 * d) + 1.0 / (21.0 * d * d)),
        }
    }
}

/// A search; see the [module](self). It can be saved and loaded with serde, and continues with the same bits; loading
/// checks it.
///
/// ```
/// use nabla_grad::covariance_adaptation::CovarianceAdaptation;
///
/// let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
/// let mut search = CovarianceAdaptation::new(vec![1.0; 5], 0.5, 10, 0)?;
/// for _ in 0..100 {
///     let generation = search.draw()?;
///     let values: Vec<f64> = generation.points().map(f).collect();
///     search.learn(&generation, &values)?;
/// }
/// assert!(f(search.mean()) < 1e-6);
/// # Ok::<(), nabla_grad::covariance_adaptation::AdaptationError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct CovarianceAdaptation {
    constants: Constants,
    /// `m`, `[d]`.
    mean: Vec<f64>,
    /// `σ`.
    sigma: f64,
    /// `C`, `[d, d]`.
    covariance: Mat<f64>,
    /// `p_σ`, `[d]`.
    path_sigma: Vec<f64>,
    /// `p_c`, `[d]`.
    path: Vec<f64>,
    seed: u64,
    generations: u64,
}

/// The points of a generation.
#[derive(Clone, Debug)]
pub struct Generation {
    /// `[λ, d]`, row by row.
    points: Vec<f64>,
    dimension: usize,
    /// `C^{−½}`.
    inverse_root: Mat<f64>,
}

impl Generation {
    /// The points, `[d]` each.
    pub fn points(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.points.chunks_exact(self.dimension)
    }

    /// The points, `[λ, d]`, row by row.
    pub fn values(&self) -> &[f64] {
        &self.points
    }
}

/// The serialised form of a run.
#[derive(Serialize, Deserialize)]
struct Saved {
    candidates: usize,
    mean: Vec<f64>,
    sigma: f64,
    /// `[d · d]`.
    covariance: Vec<f64>,
    path_sigma: Vec<f64>,
    path: Vec<f64>,
    seed: u64,
    generations: u64,
}

impl From<CovarianceAdaptation> for Saved {
    fn from(run: CovarianceAdaptation) -> Self {
        let d = run.mean.len();
        Self {
            candidates: run.constants.weights.len(),
            covariance: (0..d * d).map(|i| run.covariance[(i / d, i % d)]).collect(),
            mean: run.mean,
            sigma: run.sigma,
            path_sigma: run.path_sigma,
            path: run.path,
            seed: run.seed,
            generations: run.generations,
        }
    }
}

impl TryFrom<Saved> for CovarianceAdaptation {
    type Error = AdaptationError;

    fn try_from(saved: Saved) -> Result<Self, AdaptationError> {
        let d = saved.mean.len();
        let run = Self::new(saved.mean, saved.sigma, saved.candidates, saved.seed)?;
        finite("covariance", &saved.covariance)?;
        finite("path of the size", &saved.path_sigma)?;
        finite("path of the mean", &saved.path)?;
        let lengths = [saved.path_sigma.len(), saved.path.len()];
        if lengths != [d, d] || saved.covariance.len() != d * d {
            return Err(AdaptationError::State(
                "its covariance or paths have other lengths than its mean",
            ));
        }
        Ok(Self {
            covariance: Mat::from_fn(d, d, |i, j| saved.covariance[i * d + j]),
            path_sigma: saved.path_sigma,
            path: saved.path,
            generations: saved.generations,
            ..run
        })
    }
}

impl CovarianceAdaptation {
    /// Starts a search around `start`, `[d]`, with the standard deviation `sigma` and `candidates` points per
    /// generation, at least 4; `4 + ⌊3 ln d⌋` is usual.
    ///
    /// # Errors
    /// If there are too few points, `sigma` is not positive and finite, or `start` is empty or not
    /// finite.
    pub fn new(
        start: Vec<f64>,
        sigma: f64,
        candidates: usize,
        seed: u64,
    ) -> Result<Self, AdaptationError> {
        if start.is_empty() {
            return Err(AdaptationError::Empty);
        }
        finite("point", &start)?;
        range::at_least("number of points in a generation", candidates, 4)?;
        range::positive("standard deviation", sigma)?;
        let d = start.len();
        Ok(Self {
            constants: Constants::new(d, candidates),
            mean: start,
            sigma,
            covariance: Mat::identity(d, d),
            path_sigma: vec![0.0; d],
            path: vec![0.0; d],
            seed,
            generations: 0,
        })
    }

    /// The usual number of points in a generation, `4 + ⌊3 ln d⌋`.
    pub fn usual_candidates(dimension: usize) -> usize {
        4 + (3.0 * (dimension.max(1) as f64).ln()) as usize
    }

    /// The mean of the distribution, `m`, `[d]`.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Its size, `σ`.
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    /// Points of a generation, `λ`.
    pub fn candidates(&self) -> usize {
        self.constants.weights.len()
    }

    /// Generations so far.
    pub fn generations(&self) -> u64 {
        self.generations
    }

    /// `C^½` and `C^{−½}`.
    fn roots(&self) -> Result<[Mat<f64>; 2], AdaptationError> {
        let eigen = self
            .covariance
            .self_adjoint_eigen(Side::Lower)
            .map_err(|_| AdaptationError::Diverged)?;
        let (u, values) = (eigen.U(), eigen.S().column_vector());
        let d = self.mean.len();
        // Rounding may leave an eigenvalue of about 0 negative.
        let power = |p: f64| {
            let scaled = Mat::from_fn(d, d, |i, j| u[(i, j)] * values[j].max(1e-16).powf(p));
            scaled.as_ref() * u.transpose()
        };
        Ok([power(0.5), power(-0.5)])
    }

    /// Draws the next generation; the same one until something is learnt.
    ///
    /// # Errors
    /// If the root of the covariance cannot be computed.
    pub fn draw(&self) -> Result<Generation, AdaptationError> {
        let (lambda, d) = (self.candidates(), self.mean.len());
        let [root, inverse_root] = self.roots()?;
        let mut noise = SeededNoise::new(self.seed, self.generations);
        let mut points = Vec::with_capacity(lambda * d);
        for _ in 0..lambda {
            let z: Vec<f64> = noise.normal_values(d).into_iter().map(f64::from).collect();
            points.extend(moved(&self.mean, self.sigma, &times(&root, &z)));
        }
        Ok(Generation {
            points,
            dimension: d,
            inverse_root,
        })
    }

    /// Learns from the values of a generation's points, of which only the order counts; a value that is not a number
    /// comes last.
    ///
    /// # Errors
    /// If there is not one value for each point, or the distribution is not finite afterwards. The search is then
    /// unchanged.
    pub fn learn(
        &mut self,
        generation: &Generation,
        values: &[f64],
    ) -> Result<(), AdaptationError> {
        let key = |i: &usize| {
            if values[*i].is_nan() {
                f64::INFINITY
            } else {
                values[*i]
            }
        };
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|a, b| key(a).total_cmp(&key(b)));
        self.learn_order(generation, &order)
    }

    /// Learns from the order of a generation's points, the best first.
    ///
    /// # Errors
    /// As [`learn`](Self::learn).
    pub fn learn_order(
        &mut self,
        generation: &Generation,
        order: &[usize],
    ) -> Result<(), AdaptationError> {
        self.adapt(&generation.points, order, &generation.inverse_root)
    }

    /// Learns from the order of any `points`, `[λ, d]`, the best first.
    ///
    /// # Errors
    /// As [`learn`](Self::learn).
    pub fn learn_points(&mut self, points: &[f64], order: &[usize]) -> Result<(), AdaptationError> {
        let [_, inverse_root] = self.roots()?;
        self.adapt(points, order, &inverse_root)
    }

    fn adapt(
        &mut self,
        points: &[f64],
        order: &[usize],
        inverse_root: &Mat<f64>,
    ) -> Result<(), AdaptationError> {
        let (c, d) = (&self.constants, self.mean.len());
        let lambda = c.weights.len();
        let fits = order.len() == lambda && order.iter().all(|&i| i < lambda);
        if !fits || points.len() != lambda * d {
            return Err(AdaptationError::Order {
                found: order.len(),
                numbers: points.len(),
                candidates: lambda,
                dimension: d,
            });
        }
        // y_i in their order.
        let steps: Vec<Vec<f64>> = order
            .iter()
            .map(|&i| {
                let pairs = points[i * d..][..d].iter().zip(&self.mean);
                pairs.map(|(x, m)| (x - m) / self.sigma).collect()
            })
            .collect();
        let mut y = vec![0.0; d];
        for (weight, step) in c.weights.iter().zip(&steps).take(lambda / 2) {
            add_scaled(&mut y, *weight, step);
        }
        let path = |old: &[f64], rate: f64, gain: f64, step: &[f64]| {
            let kept: Vec<f64> = old.iter().map(|p| (1.0 - rate) * p).collect();
            moved(
                &kept,
                gain * (rate * (2.0 - rate) * c.effective).sqrt(),
                step,
            )
        };
        let path_sigma = path(&self.path_sigma, c.c_sigma, 1.0, &times(inverse_root, &y));
        let length = norm(&path_sigma);
        let sigma = self.sigma * (c.c_sigma / c.d_sigma * (length / c.chi - 1.0)).exp();
        let generations = self.generations + 1;
        let begun = 1.0 - (1.0 - c.c_sigma).powf(2.0 * (generations + 1) as f64);
        let short = length / begun.sqrt() < (1.4 + 2.0 / (d as f64 + 1.0)) * c.chi;
        let path_c = path(&self.path, c.c_c, if short { 1.0 } else { 0.0 }, &y);
        let delta = if short { 0.0 } else { c.c_c * (2.0 - c.c_c) };
        let kept = 1.0 + c.c_1 * delta - c.c_1 - c.c_mu * c.weights.iter().sum::<f64>();
        // Columns whose outer products are added to C.
        let factors: Vec<f64> = c
            .weights
            .iter()
            .zip(&steps)
            .map(|(&weight, step)| {
                let length = norm(&times(inverse_root, step));
                let scale = if weight >= 0.0 {
                    1.0
                } else {
                    d as f64 / (length * length + 1e-8)
                };
                c.c_mu * weight * scale
            })
            .collect();
        let columns = Mat::from_fn(d, lambda, |i, k| steps[k][i]);
        let scaled = Mat::from_fn(d, lambda, |i, k| factors[k] * steps[k][i]);
        let rank_mu = scaled.as_ref() * columns.transpose();
        let old = &self.covariance;
        let covariance = Mat::from_fn(d, d, |i, j| {
            kept * 0.5 * (old[(i, j)] + old[(j, i)])
                + c.c_1 * path_c[i] * path_c[j]
                + 0.5 * (rank_mu[(i, j)] + rank_mu[(j, i)])
        });
        let mean = moved(&self.mean, self.sigma, &y);
        let vectors = [&mean, &path_sigma, &path_c];
        let finite = vectors.into_iter().flatten().all(|v| v.is_finite())
            && sigma.is_finite()
            && sigma > 0.0
            && covariance.is_all_finite();
        if !finite {
            return Err(AdaptationError::Diverged);
        }
        self.mean = mean;
        self.sigma = sigma;
        self.covariance = covariance;
        self.path_sigma = path_sigma;
        self.path = path_c;
        self.generations = generations;
        Ok(())
    }
}

/// `matrix · vector`.
fn times(matrix: &Mat<f64>, vector: &[f64]) -> Vec<f64> {
    let mut product = vec![0.0; matrix.nrows()];
    for (j, &v) in vector.iter().enumerate() {
        for (i, p) in product.iter_mut().enumerate() {
            *p += matrix[(i, j)] * v;
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ellipsoid(x: &[f64]) -> f64 {
        let d = (x.len() - 1) as f64;
        let squares = x
            .iter()
            .enumerate()
            .map(|(i, x)| 1e4_f64.powf(i as f64 / d) * x * x);
        squares.sum()
    }

    #[test]
    fn values_and_their_order_are_the_same_search() {
        let mut by_values = CovarianceAdaptation::new(vec![1.0; 5], 1.0, 9, 3).unwrap();
        let mut by_order = by_values.clone();
        let mut by_points = by_values.clone();
        for _ in 0..250 {
            let generation = by_values.draw().unwrap();
            let values: Vec<f64> = generation.points().map(ellipsoid).collect();
            by_values.learn(&generation, &values).unwrap();
            let mut order: Vec<usize> = (0..9).collect();
            order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
            by_order.learn_order(&generation, &order).unwrap();
            by_points.learn_points(generation.values(), &order).unwrap();
        }
        assert!(ellipsoid(by_values.mean()) < 1e-8);
        assert_eq!(by_values, by_order);
        assert_eq!(by_values, by_points);
        assert_eq!(by_values.generations(), 250);
    }

    /// A value that is not a number is the worst, and does not disturb.
    #[test]
    fn what_is_not_a_number_comes_last() {
        let mut search = CovarianceAdaptation::new(vec![0.5; 3], 0.5, 8, 1).unwrap();
        for _ in 0..120 {
            let generation = search.draw().unwrap();
            let values = generation.points().enumerate().map(|(i, x)| match i {
                0 => f64::NAN,
                _ => ellipsoid(x),
            });
            let values: Vec<f64> = values.collect();
            search.learn(&generation, &values).unwrap();
        }
        assert!(ellipsoid(search.mean()) < 1e-6);
    }

    #[test]
    fn wrong_input_is_told() {
        let told = |start: Vec<f64>, sigma, candidates| {
            let found = CovarianceAdaptation::new(start, sigma, candidates, 0);
            found.unwrap_err().to_string()
        };
        assert_eq!(told(vec![], 1.0, 4), "the start has no coordinates");
        assert!(told(vec![f64::NAN], 1.0, 4).contains("coordinate 0 of the point"));
        assert!(told(vec![0.0], -1.0, 4).contains("standard deviation"));
        assert!(told(vec![0.0], 1.0, 3).contains("at least 4"));
        let mut search = CovarianceAdaptation::new(vec![0.0], 1.0, 4, 0).unwrap();
        let generation = search.draw().unwrap();
        assert!(matches!(
            search.learn(&generation, &[0.0; 3]),
            Err(AdaptationError::Order { .. })
        ));
        assert!(search.learn_order(&generation, &[0, 1, 2, 4]).is_err());
    }
}
