//! ZO-RankSGD: minimising a function if only the order of a few points can be queried.
//!
//! It is for objectives that are judged rather than computed: pictures that a person puts in order, or runs
//! of a program that can be compared but not measured. With the (m, k)-[ranking
//! oracle](crate::ranking_oracle) `O` and its graph `E`, a step from `x` is (algorithm 1)
//!
//! ```text
//! ξ_1 … ξ_m ~ N(0, I)
//! E  the edges of O(x + μξ_1, …, x + μξ_m)
//! g = 1/|E| Σ_{(i,j)∈E} (x_j − x_i)/μ = 1/|E| Σ_{(i,j)∈E} (ξ_j − ξ_i)
//! x ← x − η g
//! ```
//!
//! Every edge is the comparison-based estimate `sign(f(x_j) − f(x_i)) (ξ_j − ξ_i)`, which descends on
//! average: `⟨∇f, E g⟩ ≥ ‖∇f‖ − C_d μ L`. An order says nothing about the length of the gradient, so `g` has
//! about the same length everywhere: with a constant η, the run ends in a neighbourhood of the minimum whose
//! size is about η. For an `L`-smooth function, `η_t = 1/√(dt)` with μ falling like `1/√t` reaches `min
//! ‖∇f(x_t)‖ = O(√(d/T) log T)` ([`with_theory_schedule`](ZoRankSgdConfig::with_theory_schedule)).
//!
//! How noisy `g` is depends on the graph. With two independent edges' mean product
//! `M₁ = ‖E g_{12}‖²` and that of two edges which share a point, `M₂ = E⟨g_{12}, g_{13}⟩`,
//!
//! ```text
//! E‖g‖² = 2d/|E| + N(E)/|E|² M₂ + (|E|² − |E| − N(E))/|E|² M₁
//! ```
//!
//! ([`second_moment`]), of which only `M₁` is signal. For large m, only the second of the other terms
//! remains: about `4/m M₂` for `k = m`, but `M₂/k` for a short list of many points.
//!
//! **Line search** ([`LineSearch`], algorithm 2), with the same oracle: the best of
//!
//! ```text
//! x,   x − η g,   x − η γ g,   …,   x − η γ^{l−2} g
//! ```
//!
//! **Human feedback** ([`LineSearch::human_feedback`], algorithm 3, the authors' code): the best of the
//! perturbed points, which has been evaluated anyway, is also a candidate. If `x` wins, the next estimate
//! does not replace `g`, but is averaged with all estimates since the last move, so that the variance of the
//! direction falls until there is progress.
//!
//! We added two other ways to reduce the variance: several rankings per estimate
//! ([`rankings`](ZoRankSgdConfig::rankings)), averaged, for a person who can compare 5 things but not 50; and
//! orthogonal directions ([`Directions::Orthogonal`]).
//!
//! The authors' code differs from the paper. It weights the r-th best (from 0) by `m − 2r`, while in the
//! graph `m − 1 − 2r` more edges start there than end there. This adds `1/|E| Σ ξ_i` over the named points to
//! the direction, which is noise ([`EdgeWeights::OfficialCode`]). It also does not divide by μ, so its step
//! size is ours divided by μ.
//!
//! Everything is `f64`; a run is the same, bit for bit, for the same seed, and can be
//! [saved](ZoRankSgd::state) and resumed exactly, even while a question waits for its answer.
//!
//! Source: Tang, Rybin, Chang, *Zeroth-Order Optimization Meets Human Feedback: Provable Learning via
//! Ranking Oracles*, ICLR 2024, arXiv 2303.03751; their code,
//! github.com/TZW1998/Taming-Stable-Diffusion-with-Human-Ranking-Feedback.

use std::ops::ControlFlow;

use burn::config::Config;
use nabla_base::range;
use nabla_base::vector::{add_scaled, finite, moved, norm};
use serde::{Deserialize, Serialize};

use crate::ranking_oracle::{
    Ranking, RankingError, RankingOracle, RankingQuestion, edge_count, neighbouring_edge_pairs,
};
use crate::zeroth_order::{
    Directions, LineSearch, RunError, Schedule, ZerothOrderError, check_point,
};

/// The weights of the positions in the order.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum EdgeWeights {
    /// By the edges of the graph, as in the paper.
    Graph,
    /// As in the authors' code, with one more for each point that is named.
    OfficialCode,
}

/// Configuration of [`ZoRankSgd`].
///
/// The step size and μ have the unit of the coordinates. Without line search, η should be about the desired
/// length of a step divided by the length of `g`, which is the root of [`second_moment`].
#[derive(Config, Debug, PartialEq)]
pub struct ZoRankSgdConfig {
    /// Points in a ranking, `m`. Default 10.
    #[config(default = 10)]
    pub candidates: usize,
    /// The number of points that are named, `k`. Default: all of them.
    pub best: Option<usize>,
    /// The number of rankings per estimate. Default 1.
    #[config(default = 1)]
    pub rankings: usize,
    /// Size of the perturbation, μ. Default 0.01.
    #[config(default = 0.01)]
    pub smoothing: f64,
    /// How it changes. Default: constant.
    #[config(default = "Schedule::Constant")]
    pub smoothing_schedule: Schedule,
    /// Step size, η; with a line search, that of the longest step. Default 0.1.
    #[config(default = 0.1)]
    pub step_size: f64,
    /// How it changes. Default: constant.
    #[config(default = "Schedule::Constant")]
    pub step_schedule: Schedule,
    /// The perturbations. Default [`Directions::Gaussian`].
    #[config(default = "Directions::Gaussian")]
    pub directions: Directions,
    /// The weights of the positions. Default [`EdgeWeights::Graph`].
    #[config(default = "EdgeWeights::Graph")]
    pub edge_weights: EdgeWeights,
    /// Search along the direction. Default: none.
    pub line_search: Option<LineSearch>,
    /// The seed of the perturbations. Default 0.
    #[config(default = 0)]
    pub seed: u64,
}

impl ZoRankSgdConfig {
    /// The step size `1/√(dt)` and a perturbation that falls like `1/√t`, as in the theorem on `d`
    /// coordinates.
    pub fn with_theory_schedule(self, dimension: usize) -> Self {
        self.with_step_size(1.0 / (dimension.max(1) as f64).sqrt())
            .with_step_schedule(Schedule::InverseSquareRoot)
            .with_smoothing_schedule(Schedule::InverseSquareRoot)
    }

    /// `k`.
    fn named(&self) -> usize {
        self.best.unwrap_or(self.candidates)
    }

    /// The number of points in an iteration that are new to the oracle.
    fn queries_per_iteration(&self) -> u64 {
        let steps = self
            .line_search
            .map_or(0, |search| self.trial_steps(search));
        let ranked = self.candidates.saturating_mul(self.rankings);
        ranked.saturating_add(steps) as u64
    }

    /// # Errors
    /// If a value is not in its range.
    fn check(&self) -> Result<(), ZerothOrderError> {
        range::at_least("number of points in a ranking", self.candidates, 2)?;
        range::at_least("number of rankings", self.rankings, 1)?;
        if !(1..=self.candidates).contains(&self.named()) {
            return Err(ZerothOrderError::Best {
                best: self.named(),
                candidates: self.candidates,
            });
        }
        range::positive("smoothing", self.smoothing)?;
        range::positive("step size", self.step_size)?;
        match self.line_search {
            Some(search) if search.best_perturbed => search.check(self.rankings),
            Some(search) => search.check(0),
            None => Ok(()),
        }
    }

    /// The number of steps along the direction that a line search tries.
    fn trial_steps(&self, search: LineSearch) -> usize {
        let perturbed = if search.best_perturbed {
            self.rankings
        } else {
            0
        };
        search.candidates - 1 - perturbed
    }
}

/// `E‖g‖²` of the estimate from an (m, k)-ranking over `d` coordinates with Gaussian perturbations,
/// where `M₁` and `M₂` are as in the [module](self). It is exact for `k = m`; the paper uses it as a
/// bound for all `k`.
///
/// On a linear function, `M₁ = 4/π` and `M₂ = 2√3/π + d/3`.
pub fn second_moment(candidates: usize, best: usize, dimension: usize, m_1: f64, m_2: f64) -> f64 {
    let edges = edge_count(candidates, best) as f64;
    let pairs = neighbouring_edge_pairs(candidates, best) as f64;
    let others = edges * edges - edges - pairs;
    2.0 * dimension as f64 / edges + (pairs * m_2 + others * m_1) / (edges * edges)
}

/// The estimate `g`, `[d]`, of the perturbations `directions`, `[m, d]` row-major, in an order; see
/// the [module](self). Zero for a single point.
///
/// ```
/// use nabla_solve::ranking_oracle::Ranking;
/// use nabla_solve::zo_rank_sgd::{EdgeWeights, estimate};
/// // Of three points on a line, the left one is the best and the right one the worst.
/// let ranking = Ranking::new(3, vec![1, 0, 2])?;
/// let g = estimate(&ranking, &[0.0, -1.0, 1.0], EdgeWeights::Graph);
/// assert!((g[0] - 4.0 / 3.0).abs() < 1e-15); // (1 + 2 + 1)/3
/// # Ok::<(), nabla_solve::ranking_oracle::RankingError>(())
/// ```
pub fn estimate(ranking: &Ranking, directions: &[f64], weights: EdgeWeights) -> Vec<f64> {
    let (m, k) = (ranking.candidates(), ranking.best().len());
    let mut signed = ranking.weights();
    if weights == EdgeWeights::OfficialCode {
        for &named in ranking.best() {
            signed[named] -= 1.0;
        }
    }
    let dimension = directions.len() / m;
    let mut sum = vec![0.0; dimension];
    for (weight, xi) in signed.iter().zip(directions.chunks_exact(dimension.max(1))) {
        add_scaled(&mut sum, *weight, xi);
    }
    // A single point has no edge.
    let edges = edge_count(m, k).max(1) as f64;
    sum.iter_mut().for_each(|s| *s /= edges);
    sum
}

/// The stage of an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Asks for the order of perturbed points.
    Estimate,
    /// Asks for the best point along the direction.
    LineSearch,
}

/// Everything that a run needs to continue, for serde; see [`ZoRankSgd::state`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZoRankSgdState {
    /// The configuration.
    pub config: ZoRankSgdConfig,
    /// The current point, `x`, `[d]`.
    pub point: Vec<f64>,
    /// The direction, `g`, `[d]`: the mean of `estimates` estimates.
    pub direction: Vec<f64>,
    /// The number of these estimates; 0 if they belong to a previous point.
    pub estimates: u64,
    /// Sum of the estimates of this iteration's rankings so far, `[d]`.
    pub sum: Vec<f64>,
    /// This iteration's best perturbed points so far, `[d]` each, if the line search uses them.
    pub best_perturbed: Vec<Vec<f64>>,
    /// This iteration's rankings so far.
    pub rankings: usize,
    /// The current stage.
    pub phase: Phase,
    /// Iterations done.
    pub iterations: u64,
    /// Questions answered.
    pub questions: u64,
    /// The number of points in them that were new to the oracle; see [`Iteration::queries`].
    pub queries: u64,
}

impl ZoRankSgdState {
    /// New points of this iteration in the questions answered so far.
    fn shown(&self) -> u64 {
        self.rankings.saturating_mul(self.config.candidates) as u64
    }
}

/// The result of an iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Along the direction, by the step size shrunk this many times.
    Step(usize),
    /// To the best perturbed point of this ranking, from 0.
    Perturbed(usize),
    /// No move: no other point was better.
    Stay,
}

/// A finished iteration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Iteration {
    /// Its number, from 1.
    pub number: u64,
    /// Questions so far.
    pub questions: u64,
    /// The number of points so far that were new to the oracle: the perturbed points and the steps of the
    /// line search, but not the current point or the best perturbed points, which the oracle knows already.
    /// This is the number of evaluations that a function needs.
    pub queries: u64,
    /// `‖g‖` of the direction.
    pub direction_norm: f64,
    /// The number of estimates of which the direction is the mean.
    pub estimates: u64,
    /// The move.
    pub choice: Choice,
}

/// A run of ZO-RankSGD; see the [module](self).
///
/// Use [`question`](Self::question) and [`answer`](Self::answer) if the answers come from outside the
/// program, and [`step`](Self::step) or [`minimise`](Self::minimise) with an oracle object.
///
/// ```
/// use std::ops::ControlFlow;
/// use nabla_solve::ranking_oracle::FunctionOracle;
/// use nabla_solve::zeroth_order::LineSearch;
/// use nabla_solve::zo_rank_sgd::{ZoRankSgd, ZoRankSgdConfig};
///
/// let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
/// let config = ZoRankSgdConfig::new()
///     .with_step_size(0.5)
///     .with_line_search(Some(LineSearch::new()));
/// let mut run = ZoRankSgd::new(config, [1.0; 10])?;
/// run.minimise(&mut FunctionOracle::new(f), 1000, &mut |run, _| {
///     if f(run.point()) < 0.1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
/// })?;
/// assert!(f(run.point()) < 0.1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ZoRankSgd {
    state: ZoRankSgdState,
}

impl ZoRankSgd {
    /// Starts a run at `start`, `[d]`, numbers of 32 or 64 bits.
    ///
    /// # Errors
    /// If a value of the configuration is out of range, or `start` is empty or not finite.
    pub fn new<X: Into<f64>>(
        config: ZoRankSgdConfig,
        start: impl IntoIterator<Item = X>,
    ) -> Result<Self, ZerothOrderError> {
        let point: Vec<f64> = start.into_iter().map(Into::into).collect();
        let zeros = vec![0.0; point.len()];
        Self::from_state(ZoRankSgdState {
            config,
            point,
            direction: zeros.clone(),
            estimates: 0,
            sum: zeros,
            best_perturbed: Vec::new(),
            rankings: 0,
            phase: Phase::Estimate,
            iterations: 0,
            questions: 0,
            queries: 0,
        })
    }

    /// Restores the run of a [`state`](Self::state), at the same question.
    ///
    /// # Errors
    /// If the state is impossible.
    pub fn from_state(state: ZoRankSgdState) -> Result<Self, ZerothOrderError> {
        state.config.check()?;
        check_point(&state.point)?;
        finite("direction", &state.direction)?;
        finite("sum of estimates", &state.sum)?;
        let d = state.point.len();
        let fits = |holds: bool, why: &'static str| {
            if holds {
                Ok(())
            } else {
                Err(ZerothOrderError::State(why))
            }
        };
        fits(
            state.direction.len() == d
                && state.sum.len() == d
                && state.best_perturbed.iter().all(|p| p.len() == d),
            "its vectors have different lengths",
        )?;
        for perturbed in &state.best_perturbed {
            finite("best perturbed point", perturbed)?;
        }
        let (search, all) = (state.config.line_search, state.config.rankings);
        fits(
            match state.phase {
                Phase::Estimate => state.rankings < all,
                Phase::LineSearch => search.is_some() && state.rankings == all,
            },
            "it has more or fewer rankings than its iteration",
        )?;
        let kept = search.is_some_and(|search| search.best_perturbed);
        fits(
            state.questions >= state.rankings as u64 && state.queries >= state.shown(),
            "it has had fewer questions than its iteration",
        )?;
        fits(
            state.best_perturbed.len() == if kept { state.rankings } else { 0 },
            "it has more or fewer perturbed points than rankings",
        )?;
        Ok(Self { state })
    }

    /// Everything that is needed to continue.
    pub fn state(&self) -> &ZoRankSgdState {
        &self.state
    }

    /// The current point, `x`, `[d]`.
    pub fn point(&self) -> &[f64] {
        &self.state.point
    }

    /// η of this iteration.
    pub fn step_size(&self) -> f64 {
        let config = &self.state.config;
        config
            .step_schedule
            .at(config.step_size, self.state.iterations.saturating_add(1))
    }

    /// μ of this iteration.
    pub fn smoothing(&self) -> f64 {
        let config = &self.state.config;
        config
            .smoothing_schedule
            .at(config.smoothing, self.state.iterations.saturating_add(1))
    }

    /// The perturbations of this ranking, `[m, d]`.
    fn directions(&self) -> Vec<f64> {
        let (config, d) = (&self.state.config, self.state.point.len());
        config
            .directions
            .draw(config.candidates, d, config.seed, self.state.questions)
    }

    /// Step `i` of the line search.
    fn trial(&self, search: LineSearch, i: usize) -> Vec<f64> {
        let state = &self.state;
        search.trial(&state.point, self.step_size(), &state.direction, i)
    }

    /// The current question. It stays the same until it is answered.
    ///
    /// Points of the line search come from the longest step to the shortest, then the best perturbed points,
    /// then the current point.
    ///
    /// # Errors
    /// If a point is not finite.
    pub fn question(&self) -> Result<RankingQuestion, ZerothOrderError> {
        let (state, d) = (&self.state, self.state.point.len());
        let (points, best) = match (state.phase, state.config.line_search) {
            (Phase::LineSearch, Some(search)) => {
                let mut points = Vec::with_capacity(search.candidates * d);
                for i in 0..self.state.config.trial_steps(search) {
                    points.extend(self.trial(search, i));
                }
                points.extend(state.best_perturbed.iter().flatten());
                points.extend(&state.point);
                (points, 1)
            }
            _ => {
                let mu = self.smoothing();
                let mut points = self.directions();
                for xi in points.chunks_exact_mut(d) {
                    for (xi, x) in xi.iter_mut().zip(&state.point) {
                        *xi = x + mu * *xi;
                    }
                }
                (points, state.config.named())
            }
        };
        if points.iter().any(|p| !p.is_finite()) {
            return Err(ZerothOrderError::Diverged);
        }
        RankingQuestion::new(state.questions, best, d, points)
            .map_err(|_: RankingError| ZerothOrderError::Empty)
    }

    /// Takes the order of the points of the [`question`](Self::question). Returns the iteration if this was
    /// its last question.
    ///
    /// # Errors
    /// If it answers another question, or the run leads to numbers that are not finite; the run is then
    /// unchanged.
    pub fn answer(&mut self, ranking: &Ranking) -> Result<Option<Iteration>, ZerothOrderError> {
        let config = &self.state.config;
        let search = config.line_search;
        let (candidates, best, new) = match (self.state.phase, search) {
            (Phase::LineSearch, Some(search)) => (search.candidates, 1, config.trial_steps(search)),
            _ => (config.candidates, config.named(), config.candidates),
        };
        if (ranking.candidates(), ranking.best().len()) != (candidates, best) {
            return Err(ZerothOrderError::Answer {
                best: ranking.best().len(),
                candidates: ranking.candidates(),
                expected_best: best,
                expected_candidates: candidates,
            });
        }
        let mut next = self.state.clone();
        next.questions = next.questions.saturating_add(1);
        next.queries = next.queries.saturating_add(new as u64);
        let done = match (self.state.phase, search) {
            (Phase::LineSearch, Some(search)) => {
                Some(self.choose(&mut next, search, ranking.best()[0]))
            }
            _ => self.estimated(&mut next, ranking),
        };
        let iteration = done.map(|choice| {
            next.iterations = next.iterations.saturating_add(1);
            next.rankings = 0;
            next.phase = Phase::Estimate;
            next.sum.fill(0.0);
            next.best_perturbed.clear();
            let iteration = Iteration {
                number: next.iterations,
                questions: next.questions,
                queries: next.queries,
                direction_norm: norm(&next.direction),
                estimates: next.estimates,
                choice,
            };
            if choice != Choice::Stay {
                // The direction belongs to a previous point.
                next.estimates = 0;
            }
            iteration
        });
        let vectors = [&next.point, &next.direction, &next.sum];
        if vectors.into_iter().flatten().any(|v| !v.is_finite()) {
            return Err(ZerothOrderError::Diverged);
        }
        self.state = next;
        Ok(iteration)
    }

    /// Applies the order of perturbed points to `next`; without a line search, also takes the step.
    fn estimated(&self, next: &mut ZoRankSgdState, ranking: &Ranking) -> Option<Choice> {
        let (config, d) = (&self.state.config, self.state.point.len());
        let directions = self.directions();
        let estimate = estimate(ranking, &directions, config.edge_weights);
        add_scaled(&mut next.sum, 1.0, &estimate);
        next.rankings += 1;
        if config
            .line_search
            .is_some_and(|search| search.best_perturbed)
        {
            let xi = &directions[ranking.best()[0] * d..][..d];
            next.best_perturbed
                .push(moved(&self.state.point, self.smoothing(), xi));
        }
        if next.rankings < config.rankings {
            return None;
        }
        // If the run did not move, the mean of all estimates at this point; otherwise this estimate.
        let accumulate = config.line_search.is_some_and(|search| search.accumulate);
        let before = if accumulate { next.estimates } else { 0 };
        for (g, sum) in next.direction.iter_mut().zip(&next.sum) {
            let mean = sum / config.rankings as f64;
            *g = (*g * before as f64 + mean) / (before + 1) as f64;
        }
        next.estimates = before + 1;
        if config.line_search.is_some() {
            next.phase = Phase::LineSearch;
            return None;
        }
        next.point = moved(&self.state.point, -self.step_size(), &next.direction);
        Some(Choice::Step(0))
    }

    /// Applies the best point of the line search to `next`.
    fn choose(&self, next: &mut ZoRankSgdState, search: LineSearch, best: usize) -> Choice {
        let steps = self.state.config.trial_steps(search);
        if best + 1 == search.candidates {
            return Choice::Stay;
        }
        if best < steps {
            next.point = self.trial(search, best);
            Choice::Step(best)
        } else {
            next.point
                .clone_from(&self.state.best_perturbed[best - steps]);
            Choice::Perturbed(best - steps)
        }
    }

    /// Makes one iteration, or the rest of one.
    ///
    /// # Errors
    /// If the oracle does not answer or answers another question, or the run leads to numbers that are not
    /// finite. The run is then in the state before the question.
    pub fn step<O>(&mut self, oracle: &mut O) -> Result<Iteration, RunError<O::Error>>
    where
        O: RankingOracle + ?Sized,
        O::Error: 'static,
    {
        loop {
            let question = self.question()?;
            let ranking = oracle.rank(&question).map_err(RunError::Oracle)?;
            if let Some(iteration) = self.answer(&ranking)? {
                return Ok(iteration);
            }
        }
    }

    /// Makes iterations as long as the total number of [queries](Iteration::queries), counted from the start
    /// of the run, does not exceed `budget`. `observe` is called after each iteration and may end the run.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn minimise<O>(
        &mut self,
        oracle: &mut O,
        budget: u64,
        observe: &mut dyn FnMut(&Self, &Iteration) -> ControlFlow<()>,
    ) -> Result<(), RunError<O::Error>>
    where
        O: RankingOracle + ?Sized,
        O::Error: 'static,
    {
        let each = self.state.config.queries_per_iteration();
        loop {
            // Both include what this iteration has already asked.
            let shown = self.state.shown();
            if (self.state.queries - shown).saturating_add(each) > budget {
                return Ok(());
            }
            let iteration = self.step(oracle)?;
            if observe(self, &iteration).is_break() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests;
