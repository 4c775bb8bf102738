//! CMA-ES: an evolution strategy that learns the shape of the function's level sets from orders.
//!
//! This is the evolution strategy with which [`zo_rank_sgd`](crate::zo_rank_sgd) is compared; it also needs
//! only an order, which it asks of a [ranking oracle](crate::ranking_oracle). The search itself, with its equations, is
//! [`nabla_grad::covariance_adaptation`].
//!
//! Source: Hansen, *The CMA Evolution Strategy: A Tutorial*, 2016, arXiv 1604.00772.

use nabla_grad::covariance_adaptation::{AdaptationError, CovarianceAdaptation};
use serde::{Deserialize, Serialize};

use crate::ranking_oracle::{Ranking, RankingOracle, ask};
use crate::zeroth_order::{RunError, ZerothOrderError};

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
#[serde(transparent)]
pub struct CmaEs {
    search: CovarianceAdaptation,
}

impl From<AdaptationError> for ZerothOrderError {
    fn from(error: AdaptationError) -> Self {
        match error {
            AdaptationError::Range(error) => Self::Range(error),
            AdaptationError::Empty => Self::Empty,
            AdaptationError::NotFinite(error) => Self::NotFinite(error),
            AdaptationError::Order {
                found,
                numbers,
                candidates,
                dimension,
            } => Self::Answer {
                best: found,
                candidates: numbers / dimension.max(1),
                expected_best: candidates,
                expected_candidates: candidates,
            },
            AdaptationError::Diverged => Self::Diverged,
            AdaptationError::State(reason) => Self::State(reason),
        }
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
        let start = start.into_iter().map(Into::into).collect();
        Ok(Self {
            search: CovarianceAdaptation::new(start, sigma, candidates, seed)?,
        })
    }

    /// The mean of the distribution, `m`, `[d]`.
    pub fn point(&self) -> &[f64] {
        self.search.mean()
    }

    /// Its size, `σ`.
    pub fn sigma(&self) -> f64 {
        self.search.sigma()
    }

    /// Points so far.
    pub fn queries(&self) -> u64 {
        self.search.generations() * self.search.candidates() as u64
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
        let generation = self.search.draw().map_err(ZerothOrderError::from)?;
        let (lambda, d) = (self.search.candidates(), self.point().len());
        let points = generation.values().to_vec();
        let (_, ranking) = ask(oracle, self.search.generations(), lambda, d, points)?;
        let learnt = self.search.learn_order(&generation, ranking.best());
        Ok(learnt.map_err(ZerothOrderError::from)?)
    }

    /// Learns from the full order of any `points`, `[λ, d]`.
    ///
    /// # Errors
    /// If their number is not that of a generation, not all of them are ordered, or the distribution is not
    /// finite afterwards. The run is then unchanged.
    pub fn update(&mut self, points: &[f64], ranking: &Ranking) -> Result<(), ZerothOrderError> {
        Ok(self.search.learn_points(points, ranking.best())?)
    }
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
