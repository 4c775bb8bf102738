//! ZO-SGD: gradient descent with a gradient from differences of values.
//!
//! This is the method with which [`zo_rank_sgd`](crate::zo_rank_sgd) is compared when values are known: with
//! `m` perturbations `ξ`,
//!
//! ```text
//! g = 1/m Σ (f(x + μξ_i) − f(x))/μ ξ_i,     x ← x − η g
//! ```
//!
//! or, with a line search, the best of `x` and `x − η γ^i g`. For Gaussian `ξ`, `g` is on average the
//! gradient of `f` smoothed by a Gaussian of the size μ.
//!
//! Source: Ghadimi, Lan, *Stochastic First- and Zeroth-order Methods for Nonconvex Stochastic
//! Programming*, SIAM Journal on Optimization, 2013, arXiv 1309.5549.

use burn::config::Config;
use nabla_base::range;
use nabla_base::vector::{add_scaled, finite};
use serde::{Deserialize, Serialize};

use crate::zeroth_order::{
    Directions, LineSearch, RunState, Schedule, ZerothOrderError, check_point, load,
};

/// Configuration of [`ZoSgd`].
#[derive(Config, Debug, PartialEq)]
pub struct ZoSgdConfig {
    /// Perturbations in an estimate, `m`. Default 10.
    #[config(default = 10)]
    pub candidates: usize,
    /// Size of the perturbation, μ. Default 0.01.
    #[config(default = 0.01)]
    pub smoothing: f64,
    /// Step size, η; with a line search, that of the longest step. Default 1e-3.
    #[config(default = 1e-3)]
    pub step_size: f64,
    /// How it changes. Default: constant.
    #[config(default = "Schedule::Constant")]
    pub step_schedule: Schedule,
    /// The perturbations. Default [`Directions::Gaussian`].
    #[config(default = "Directions::Gaussian")]
    pub directions: Directions,
    /// Search along the direction; only its number of points and its factor are used. Default: none.
    pub line_search: Option<LineSearch>,
    /// The seed of the perturbations. Default 0.
    #[config(default = 0)]
    pub seed: u64,
}

/// A run of ZO-SGD; see the [module](self). It can be saved and loaded with serde, and continues with the
/// same bits; loading checks it.
///
/// ```
/// use nabla_solve::zo_sgd::{ZoSgd, ZoSgdConfig};
/// let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
/// let mut run = ZoSgd::new(ZoSgdConfig::new().with_step_size(0.1), [1.0; 5])?;
/// for _ in 0..100 {
///     run.step(f)?;
/// }
/// assert!(f(run.point()) < 1e-3);
/// # Ok::<(), nabla_solve::zeroth_order::ZerothOrderError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ZoSgd {
    #[serde(deserialize_with = "load")]
    state: State,
}

/// The serialised form of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    config: ZoSgdConfig,
    point: Vec<f64>,
    /// `f` there, if it is known and a number, which every format can hold.
    value: Option<f64>,
    iterations: u64,
    queries: u64,
}

impl RunState for State {
    fn check(&self) -> Result<(), ZerothOrderError> {
        range::at_least("number of perturbations", self.config.candidates, 1)?;
        range::positive("smoothing", self.config.smoothing)?;
        range::positive("step size", self.config.step_size)?;
        self.config.line_search.map_or(Ok(()), |s| s.check(0))?;
        finite("value", self.value.as_slice())?;
        check_point(&self.point)
    }
}

impl ZoSgd {
    /// Starts a run at `start`, `[d]`.
    ///
    /// # Errors
    /// If a value of the configuration is out of range, or `start` is empty or not finite.
    pub fn new<X: Into<f64>>(
        config: ZoSgdConfig,
        start: impl IntoIterator<Item = X>,
    ) -> Result<Self, ZerothOrderError> {
        let state = State {
            config,
            point: start.into_iter().map(Into::into).collect(),
            value: None,
            iterations: 0,
            queries: 0,
        };
        Ok(Self {
            state: state.checked()?,
        })
    }

    /// The current point, `[d]`.
    pub fn point(&self) -> &[f64] {
        &self.state.point
    }

    /// Evaluations of the function so far.
    pub fn queries(&self) -> u64 {
        self.state.queries
    }

    /// One iteration on the function `f`.
    ///
    /// # Errors
    /// If the point is not finite afterwards; the run is then unchanged, except for the evaluations.
    pub fn step(&mut self, mut f: impl FnMut(&[f64]) -> f64) -> Result<(), ZerothOrderError> {
        let (config, d) = (&self.state.config, self.state.point.len());
        let mut count = 0;
        let mut f = |x: &[f64]| {
            count += 1;
            f(x)
        };
        let here = self.state.value.unwrap_or_else(|| f(&self.state.point));
        let (directions, seed) = (config.directions, config.seed);
        let directions = directions.draw(config.candidates, d, seed, self.state.iterations);
        let mut gradient = vec![0.0; d];
        for xi in directions.chunks_exact(d) {
            let mut moved = self.state.point.clone();
            add_scaled(&mut moved, config.smoothing, xi);
            let slope = (f(&moved) - here) / config.smoothing;
            add_scaled(&mut gradient, slope / config.candidates as f64, xi);
        }
        let step = config
            .step_schedule
            .at(config.step_size, self.state.iterations + 1);
        let mut best = (here, self.state.point.clone());
        match config.line_search {
            None => add_scaled(&mut best.1, -step, &gradient),
            Some(search) => {
                for i in 0..search.candidates - 1 {
                    let point = search.trial(&self.state.point, step, &gradient, i);
                    let value = f(&point);
                    if value < best.0 {
                        best = (value, point);
                    }
                }
            }
        }
        let searched = config.line_search.is_some();
        self.state.queries += count;
        if best.1.iter().any(|x| !x.is_finite()) {
            return Err(ZerothOrderError::Diverged);
        }
        self.state.point = best.1;
        self.state.value = (searched && best.0.is_finite()).then_some(best.0);
        self.state.iterations += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a quadratic, the mean step is along the gradient itself: smoothing adds a constant.
    #[test]
    fn the_mean_estimate_on_a_quadratic_is_the_gradient() {
        let f = |x: &[f64]| 2.0 * x[0] * x[0] + x[0] * x[1] - x[1];
        let (x, n) = ([0.5, -1.0], 20_000);
        let gradient = [4.0 * x[0] + x[1], x[0] - 1.0];
        let (mut sum, mut squares) = ([0.0; 2], [0.0; 2]);
        for seed in 0..n {
            let config = ZoSgdConfig::new().with_candidates(2).with_smoothing(0.3);
            let config = config.with_step_size(1.0).with_seed(seed);
            let mut run = ZoSgd::new(config, x).unwrap();
            run.step(f).unwrap();
            for i in 0..2 {
                let g = x[i] - run.point()[i];
                sum[i] += g / n as f64;
                squares[i] += g * g / n as f64;
            }
        }
        for i in 0..2 {
            let error = ((squares[i] - sum[i] * sum[i]) / n as f64).sqrt();
            assert!(
                (sum[i] - gradient[i]).abs() < 4.0 * error,
                "{sum:?} {gradient:?}"
            );
            assert!(error < 0.05, "{error}");
        }
    }

    #[test]
    fn a_saved_run_goes_on_to_the_same_bits() {
        let f = |x: &[f64]| x.iter().map(|x| x.powi(4)).sum::<f64>();
        for search in [None, Some(LineSearch::new())] {
            let config = ZoSgdConfig::new()
                .with_step_schedule(Schedule::InverseSquareRoot)
                .with_line_search(search);
            let mut whole = ZoSgd::new(config, [0.1, -0.7, 0.3]).unwrap();
            for _ in 0..6 {
                let text = serde_json::to_string(&whole).unwrap();
                let mut saved: ZoSgd = serde_json::from_str(&text).unwrap();
                saved.step(f).unwrap();
                whole.step(f).unwrap();
                assert_eq!(saved, whole);
            }
            let text = serde_json::to_string(&whole).unwrap();
            let told = serde_json::from_str::<ZoSgd>(&text.replace("0.01", "-0.01"));
            let told = told.unwrap_err().to_string();
            assert!(told.contains("the smoothing is -0.01"), "{told}");
        }
    }

    #[test]
    fn every_evaluation_is_counted_and_the_line_search_never_climbs() {
        let mut evaluations = 0;
        let mut f = |x: &[f64]| {
            evaluations += 1;
            x.iter().map(|x| x.powi(4)).sum::<f64>()
        };
        let search = LineSearch::new().with_candidates(6);
        let config = ZoSgdConfig::new().with_line_search(Some(search));
        let mut run = ZoSgd::new(config, [1.0, -2.0]).unwrap();
        let mut before = f64::INFINITY;
        for _ in 0..10 {
            run.step(&mut f).unwrap();
            let now = run.point().iter().map(|x| x.powi(4)).sum();
            assert!(now <= before);
            before = now;
        }
        assert_eq!((run.queries(), evaluations), (1 + 10 * 15, 151));
        let error = ZoSgd::new(ZoSgdConfig::new().with_candidates(0), [1.0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the number of perturbations is 0, but it must be at least 1"
        );
        let mut lost = ZoSgd::new(ZoSgdConfig::new(), [1.0]).unwrap();
        assert_eq!(lost.step(|_| f64::NAN), Err(ZerothOrderError::Diverged));
        assert_eq!((lost.point(), lost.queries()), (&[1.0][..], 11));
    }
}
