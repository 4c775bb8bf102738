//! SCOBO: descent by comparisons of pairs, for gradients that may be sparse.
//!
//! This is the method with which [`zo_rank_sgd`](crate::zo_rank_sgd) is compared when two points at a time
//! are compared. Each of `m` comparisons of `x` with `x + r z_i`, `z_i` on the unit sphere, is one bit `y_i =
//! sign(f(x + r z_i) − f(x))`, and the direction is the one that agrees best with them:
//!
//! ```text
//! g = argmax Σ y_i ⟨z_i, g⟩   over ‖g‖₂ ≤ 1, ‖g‖₁ ≤ √s
//! x ← x − η g
//! ```
//!
//! with `s` the assumed number of nonzero coordinates of the gradient; `s = d` is no restriction. The maximum
//! is `Σ y_i z_i` with all entries shrunk towards zero by one threshold, then normalised. With a line search,
//! the best of `x` and `x − η γ^i g`.
//!
//! Source: Cai, McKenzie, Yin, Zhang, *A One-bit, Comparison-Based Gradient Estimator*, Applied and
//! Computational Harmonic Analysis, 2022, arXiv 2010.02479.

use burn::config::Config;
use nabla_base::range;
use nabla_base::vector::{add_scaled, moved, norm};
use serde::{Deserialize, Serialize};

use crate::ranking_oracle::{RankingOracle, RankingQuestion, ask};
use crate::zeroth_order::{
    Directions, LineSearch, RunError, RunState, Schedule, ZerothOrderError, check_point, load,
};

/// Configuration of [`Scobo`].
#[derive(Config, Debug, PartialEq)]
pub struct ScoboConfig {
    /// Comparisons in an estimate, `m`. Default 10.
    #[config(default = 10)]
    pub candidates: usize,
    /// The assumed number of nonzero coordinates of the gradient, `s`. Default: all.
    pub sparsity: Option<usize>,
    /// Distance of the compared points, `r`. Default 0.01.
    #[config(default = 0.01)]
    pub radius: f64,
    /// Length of a step, η; with a line search, of the longest. Default 0.1.
    #[config(default = 0.1)]
    pub step_size: f64,
    /// How it changes. Default: constant.
    #[config(default = "Schedule::Constant")]
    pub step_schedule: Schedule,
    /// Search along the direction; only its number of points and its factor are used. Default: none.
    pub line_search: Option<LineSearch>,
    /// The seed of the perturbations. Default 0.
    #[config(default = 0)]
    pub seed: u64,
}

/// A run of SCOBO; see the [module](self). It can be saved and loaded with serde, and continues with the same
/// bits; loading checks it.
///
/// ```
/// use nabla_solve::ranking_oracle::FunctionOracle;
/// use nabla_solve::scobo::{Scobo, ScoboConfig};
/// use nabla_solve::zeroth_order::LineSearch;
/// let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
/// let config = ScoboConfig::new().with_line_search(Some(LineSearch::new()));
/// let mut run = Scobo::new(config, [1.0; 5])?;
/// for _ in 0..100 {
///     run.step(&mut FunctionOracle::new(f))?;
/// }
/// assert!(f(run.point()) < 1e-2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scobo {
    #[serde(deserialize_with = "load")]
    state: State,
}

/// The serialised form of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    config: ScoboConfig,
    point: Vec<f64>,
    iterations: u64,
    questions: u64,
    queries: u64,
}

impl RunState for State {
    fn check(&self) -> Result<(), ZerothOrderError> {
        range::at_least("number of comparisons", self.config.candidates, 1)?;
        range::at_least("sparsity", self.config.sparsity.unwrap_or(1), 1)?;
        range::positive("radius", self.config.radius)?;
        range::positive("step size", self.config.step_size)?;
        self.config.line_search.map_or(Ok(()), |s| s.check(0))?;
        check_point(&self.point)
    }
}

impl Scobo {
    /// Starts a run at `start`, `[d]`.
    ///
    /// # Errors
    /// If a value of the configuration is out of range, or `start` is empty or not finite.
    pub fn new<X: Into<f64>>(
        config: ScoboConfig,
        start: impl IntoIterator<Item = X>,
    ) -> Result<Self, ZerothOrderError> {
        let state = State {
            config,
            point: start.into_iter().map(Into::into).collect(),
            iterations: 0,
            questions: 0,
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

    /// The number of points compared so far, without the current points of the run.
    pub fn queries(&self) -> u64 {
        self.state.queries
    }

    /// The question for the best of `points`, `[n, d]`, and its answer.
    fn best<O>(
        &mut self,
        points: Vec<f64>,
        oracle: &mut O,
    ) -> Result<(RankingQuestion, usize), RunError<O::Error>>
    where
        O: RankingOracle + ?Sized,
        O::Error: 'static,
    {
        let d = self.state.point.len();
        let (question, ranking) = ask(oracle, self.state.questions, 1, d, points)?;
        self.state.questions += 1;
        self.state.queries += question.candidates() as u64 - 1;
        Ok((question, ranking.best()[0]))
    }

    /// One iteration.
    ///
    /// # Errors
    /// If the oracle does not answer, or a point is not finite. The run is then unchanged.
    pub fn step<O>(&mut self, oracle: &mut O) -> Result<(), RunError<O::Error>>
    where
        O: RankingOracle + ?Sized,
        O::Error: 'static,
    {
        let (m, d) = (self.state.config.candidates, self.state.point.len());
        let directions =
            Directions::Sphere.draw(m, d, self.state.config.seed, self.state.iterations);
        let mut sum = vec![0.0; d];
        for z in directions.chunks_exact(d) {
            let mut points = moved(&self.state.point, self.state.config.radius, z);
            points.extend(&self.state.point);
            let (_, best) = self.best(points, oracle)?;
            let lower = best == 0;
            add_scaled(&mut sum, if lower { -1.0 } else { 1.0 }, z);
        }
        let direction = one_bit_direction(&sum, self.state.config.sparsity.unwrap_or(d));
        let schedule = self.state.config.step_schedule;
        let step = schedule.at(self.state.config.step_size, self.state.iterations + 1);
        let next = match self.state.config.line_search {
            None => moved(&self.state.point, -step, &direction),
            Some(search) => {
                let trial = |i| search.trial(&self.state.point, step, &direction, i);
                let mut points: Vec<f64> = (0..search.candidates - 1).flat_map(trial).collect();
                points.extend(&self.state.point);
                let (question, best) = self.best(points, oracle)?;
                question.point(best).to_vec()
            }
        };
        if next.iter().any(|x| !x.is_finite()) {
            return Err(ZerothOrderError::Diverged.into());
        }
        self.state.point = next;
        self.state.iterations += 1;
        Ok(())
    }
}

/// `argmax ⟨c, g⟩` over `‖g‖₂ ≤ 1` and `‖g‖₁ ≤ √s`; zero for `c = 0`.
///
/// ```
/// use nabla_solve::scobo::one_bit_direction;
/// assert_eq!(one_bit_direction(&[3.0, 4.0], 2), [0.6, 0.8]);
/// assert_eq!(one_bit_direction(&[3.0, -4.0], 1), [0.0, -1.0]);
/// ```
pub fn one_bit_direction(c: &[f64], sparsity: usize) -> Vec<f64> {
    let shrunk = |threshold: f64| -> Vec<f64> {
        let shrunk = c
            .iter()
            .map(|c| c.signum() * (c.abs() - threshold).max(0.0));
        let shrunk: Vec<f64> = shrunk.collect();
        let length = norm(&shrunk);
        if length > 0.0 {
            shrunk.into_iter().map(|x| x / length).collect()
        } else {
            shrunk
        }
    };
    let limit = (sparsity as f64).sqrt();
    let fits = |g: &[f64]| g.iter().map(|x| x.abs()).sum::<f64>() <= limit;
    let largest = c.iter().fold(0.0, |m: f64, c| m.max(c.abs()));
    let plain = shrunk(0.0);
    if fits(&plain) || largest == 0.0 {
        return plain;
    }
    // ‖g‖₁ falls with the threshold. If several entries are the largest, possibly no threshold makes it small
    // enough; then one of them alone is a maximum.
    let (mut low, mut high) = (0.0, largest);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        let g = shrunk(middle);
        if norm(&g) > 0.0 && !fits(&g) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let g = shrunk(high);
    if norm(&g) > 0.0 {
        return g;
    }
    let mut alone = vec![0.0; c.len()];
    if let Some(i) = c.iter().position(|c| c.abs() == largest) {
        alone[i] = c[i].signum();
    }
    alone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking_oracle::{FunctionOracle, NoisyFunctionOracle, ValueNoise};
    use proptest::prelude::*;

    proptest! {
        /// Feasible, and better than any other feasible point that is tried.
        #[test]
        fn the_direction_is_the_maximum(
            c in prop::collection::vec(-2.0..2.0f64, 1..7),
            others in prop::collection::vec(prop::collection::vec(-1.0..1.0f64, 7), 40),
            s in 1usize..5,
        ) {
            let limit = (s as f64).sqrt();
            let one = |g: &[f64]| g.iter().map(|x| x.abs()).sum::<f64>();
            let dot = |g: &[f64]| g.iter().zip(&c).map(|(a, b)| a * b).sum::<f64>();
            let g = one_bit_direction(&c, s);
            prop_assert!(norm(&g) <= 1.0 + 1e-12 && one(&g) <= limit + 1e-9);
            for other in others {
                let other = &other[..c.len()];
                let scale = (1.0 / norm(other)).min(limit / one(other));
                prop_assert!(dot(&g) >= scale * dot(other) - 1e-9);
                // Near the maximum, too.
                let near: Vec<f64> = g.iter().zip(other).map(|(a, b)| a + 0.05 * b).collect();
                let scale = (1.0 / norm(&near)).min(limit / one(&near));
                prop_assert!(dot(&g) >= scale * dot(&near) - 1e-9);
            }
        }
    }

    /// With an oracle whose noise depends on the number of the question, which is saved, too.
    #[test]
    fn a_saved_run_goes_on_to_the_same_bits() {
        let noise = ValueNoise::Gaussian(0.1);
        let oracle = || {
            let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
            NoisyFunctionOracle::new(f, noise, 9).unwrap()
        };
        let config = ScoboConfig::new()
            .with_sparsity(Some(2))
            .with_step_schedule(Schedule::InverseSquareRoot)
            .with_line_search(Some(LineSearch::new()));
        let mut whole = Scobo::new(config, [0.1, -0.7, 0.3]).unwrap();
        for _ in 0..6 {
            let text = serde_json::to_string(&whole).unwrap();
            let mut saved: Scobo = serde_json::from_str(&text).unwrap();
            saved.step(&mut oracle()).unwrap();
            whole.step(&mut oracle()).unwrap();
            assert_eq!(saved, whole);
        }
        let text = serde_json::to_string(&whole).unwrap();
        let told = serde_json::from_str::<Scobo>(&text.replace("0.01", "-0.01"));
        let told = told.unwrap_err().to_string();
        assert!(told.contains("the radius is -0.01"), "{told}");
    }

    #[test]
    fn equal_entries_have_a_direction() {
        assert_eq!(one_bit_direction(&[0.0, 0.0], 1), [0.0, 0.0]);
        assert_eq!(one_bit_direction(&[1.0, -1.0, 1.0], 1), [1.0, 0.0, 0.0]);
        let g = one_bit_direction(&[1.0, -1.0], 2);
        assert!((g[0] - 0.5f64.sqrt()).abs() < 1e-15 && g[0] == -g[1]);
    }

    /// A linear function of one coordinate of 50: the comparisons find it when told that it is one.
    #[test]
    fn a_sparse_gradient_is_found() {
        let along = |sparsity| {
            let config = ScoboConfig::new()
                .with_candidates(60)
                .with_sparsity(sparsity);
            let mut run = Scobo::new(config.with_step_size(1.0), [0.0; 50]).unwrap();
            run.step(&mut FunctionOracle::new(|x: &[f64]| -x[7]))
                .unwrap();
            assert_eq!(run.queries(), 60);
            run.point()[7]
        };
        assert!(along(Some(1)) > 0.999, "{}", along(Some(1)));
        assert!(along(None) < 0.8, "{}", along(None));
    }
}
