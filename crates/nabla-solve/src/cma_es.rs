//! CMA-ES: an evolution strategy that learns the shape of the function's level sets from orders.
//!
//! This is the evolution strategy with which [`zo_rank_sgd`](crate::zo_rank_sgd) is compared; it also needs
//! only an order. In each generation, of `λ` points `x_i = m + σ y_i`, `y_i ~ N(0, C)`, in their order, with
//! weights `w_i` that fall with the place and are negative in the second half,
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
use nabla_base::range;
use nabla_base::vector::{add_scaled, norm};
use serde::{Deserialize, Serialize};

use crate::ranking_oracle::{Ranking, RankingOracle, ask};
use crate::zeroth_order::{Directions, RunError, ZerothOrderError, finite, moved, start};

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

/// A run of CMA-ES; see the [module](self). It can be saved and loaded with serde, and continues with the
/// same bits; loading checks it.
///
/// ```
/// use nabla_solve::cma_es::CmaEs;
/// use nabla_solve::ranking_oracle::FunctionOracle;
/// let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
/// let mut run = CmaEs::new([1.0; 5], 0.5, 10, 0)?;
/// for _ in 0..100 {
///     run.step(&mut FunctionOracle::new(f))?;
/// }
/// assert!(f(run.point()) < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Saved", into = "Saved")]
pub struct CmaEs {
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

impl From<CmaEs> for Saved {
    fn from(run: CmaEs) -> Self {
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

impl TryFrom<Saved> for CmaEs {
    type Error = ZerothOrderError;

    fn try_from(saved: Saved) -> Result<Self, ZerothOrderError> {
        let d = saved.mean.len();
        let run = Self::new(saved.mean, saved.sigma, saved.candidates, saved.seed)?;
        finite("covariance", &saved.covariance)?;
        finite("path of the size", &saved.path_sigma)?;
        finite("path of the mean", &saved.path)?;
        let lengths = [saved.path_sigma.len(), saved.path.len()];
        if lengths != [d, d] || saved.covariance.len() != d * d {
            return Err(ZerothOrderError::State(
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

impl CmaEs {
    /// Starts a run around `start`, `[d]`, with the standard deviation `sigma` and `candidates` points per
    /// generation, at least 4; `4 + ⌊3 ln d⌋` is usual.
    ///
    /// # Errors
    /// If there are too few points, `sigma` is not positive and finite, or `start` is empty or not
    /// finite.
    pub fn new<X: Into<f64>>(
        start: impl IntoIterator<Item = X>,
        sigma: f64,
        candidates: usize,
        seed: u64,
    ) -> Result<Self, ZerothOrderError> {
        let mean = self::start(start)?;
        range::at_least("number of points in a generation", candidates, 4)?;
        range::positive("standard deviation", sigma)?;
        let d = mean.len();
        Ok(Self {
            constants: Constants::new(d, candidates),
            mean,
            sigma,
            covariance: Mat::identity(d, d),
            path_sigma: vec![0.0; d],
            path: vec![0.0; d],
            seed,
            generations: 0,
        })
    }

    /// The mean of the distribution, `m`, `[d]`.
    pub fn point(&self) -> &[f64] {
        &self.mean
    }

    /// Its size, `σ`.
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    /// Points so far.
    pub fn queries(&self) -> u64 {
        self.generations * self.constants.weights.len() as u64
    }

    /// `C^½` and `C^{−½}`.
    fn roots(&self) -> Result<[Mat<f64>; 2], ZerothOrderError> {
        let eigen = self
            .covariance
            .self_adjoint_eigen(Side::Lower)
            .map_err(|_| ZerothOrderError::Diverged)?;
        let (u, values) = (eigen.U(), eigen.S().column_vector());
        let d = self.mean.len();
        // Rounding may leave an eigenvalue of about 0 negative.
        let power = |p: f64| {
            let scaled = Mat::from_fn(d, d, |i, j| u[(i, j)] * values[j].max(1e-16).powf(p));
            scaled.as_ref() * u.transpose()
        };
        Ok([power(0.5), power(-0.5)])
    }

    /// One generation.
    ///
    /// # Errors
    /// If the oracle does not answer, or the distribution is not finite afterwards. The run is then unchanged.
    pub fn step<O>(&mut self, oracle: &mut O) -> Result<(), RunError<O::Error>>
    where
        O: RankingOracle + ?Sized,
        O::Error: 'static,
    {
        let (lambda, d) = (self.constants.weights.len(), self.mean.len());
        let [root, inverse_root] = self.roots()?;
        let normal = Directions::Gaussian.draw(lambda, d, self.seed, self.generations);
        let mut points = Vec::with_capacity(lambda * d);
        for z in normal.chunks_exact(d) {
            points.extend(moved(&self.mean, self.sigma, &times(&root, z)));
        }
        let (question, ranking) = ask(oracle, self.generations, lambda, d, points)?;
        let points: Vec<f64> = question.points().flatten().copied().collect();
        Ok(self.learn(&points, &ranking, &inverse_root)?)
    }

    /// Learns from the full order of any `points`, `[λ, d]`.
    ///
    /// # Errors
    /// If their number is not that of a generation, not all of them are ordered, or the distribution is not
    /// finite afterwards. The run is then unchanged.
    pub fn update(&mut self, points: &[f64], ranking: &Ranking) -> Result<(), ZerothOrderError> {
        let [_, inverse_root] = self.roots()?;
        self.learn(points, ranking, &inverse_root)
    }

    /// [`update`](Self::update) with `C^{−½}`.
    fn learn(
        &mut self,
        points: &[f64],
        ranking: &Ranking,
        inverse_root: &Mat<f64>,
    ) -> Result<(), ZerothOrderError> {
        let (c, d) = (&self.constants, self.mean.len());
        let lambda = c.weights.len();
        let found = (ranking.best().len(), ranking.candidates(), points.len());
        if found != (lambda, lambda, lambda * d) {
            return Err(ZerothOrderError::Answer {
                best: found.0,
                candidates: points.len() / d,
                expected_best: lambda,
                expected_candidates: lambda,
            });
        }
        // y_i in their order.
        let steps: Vec<Vec<f64>> = ranking
            .best()
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
            return Err(ZerothOrderError::Diverged);
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
    use crate::ranking_oracle::FunctionOracle;

    /// Level sets that are a thousand times longer than wide are learned, and any increasing function
    /// of the values makes the same run.
    #[test]
    fn it_learns_an_ellipsoid_from_orders() {
        let f = |x: &[f64]| {
            let squares = x
                .iter()
                .enumerate()
                .map(|(i, x)| 1e6f64.powf(i as f64 / 5.0) * x * x);
            squares.sum::<f64>()
        };
        let mut run = CmaEs::new([1.0; 6], 1.0, 9, 3).unwrap();
        let mut other = run.clone();
        for _ in 0..400 {
            run.step(&mut FunctionOracle::new(f)).unwrap();
            other
                .step(&mut FunctionOracle::new(|x: &[f64]| f(x).ln()))
                .unwrap();
        }
        assert!(f(run.point()) < 1e-8, "{}", f(run.point()));
        assert_eq!(run.point(), other.point());
        assert_eq!(run.queries(), 3600);
    }

    #[test]
    fn a_saved_run_goes_on_to_the_same_bits() {
        let f = |x: &[f64]| x[0] * x[0] + 30.0 * (x[1] - x[0]).powi(2) + x[2].powi(4);
        let mut whole = CmaEs::new([0.1, -0.7, 0.3], 0.5, 7, 4).unwrap();
        for _ in 0..20 {
            let text = serde_json::to_string(&whole).unwrap();
            let mut saved: CmaEs = serde_json::from_str(&text).unwrap();
            saved.step(&mut FunctionOracle::new(f)).unwrap();
            whole.step(&mut FunctionOracle::new(f)).unwrap();
            assert_eq!(saved, whole);
        }
        let mut saved = serde_json::to_value(&whole).unwrap();
        saved["path"] = serde_json::json!([0.0]);
        let told = serde_json::from_value::<CmaEs>(saved).unwrap_err();
        let expected = "its covariance or paths have other lengths than its mean";
        assert!(told.to_string().contains(expected), "{told}");
    }

    #[test]
    fn wrong_input_is_told() {
        let told = |result: Result<CmaEs, ZerothOrderError>| result.unwrap_err().to_string();
        assert_eq!(
            told(CmaEs::new([0.0], 1.0, 3, 0)),
            "the number of points in a generation is 3, but it must be at least 4"
        );
        assert_eq!(
            told(CmaEs::new([0.0], 0.0, 4, 0)),
            "the standard deviation is 0, but it must be positive and finite"
        );
        let mut run = CmaEs::new([0.0, 0.0], 1.0, 4, 0).unwrap();
        let ranking = Ranking::new(4, vec![0, 1]).unwrap();
        assert_eq!(
            run.update(&[0.0; 8], &ranking).unwrap_err().to_string(),
            "the answer names 2 of 4 points, but the question is for 4 of 4"
        );
    }
}
