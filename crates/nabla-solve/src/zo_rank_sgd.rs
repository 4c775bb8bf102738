//! ZO-RankSGD: descending a function of which only the order of a few points can be asked.
//!
//! For objectives that are judged rather than computed: pictures that a person puts in order, runs of
//! a program that can be compared but not measured. With the (m, k)-[ranking
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
//! average: `⟨∇f, E g⟩ ≥ ‖∇f‖ − C_d μ L`. An order tells nothing of the gradient's length, so `g` has
//! about one length wherever it is taken: a constant η ends in a neighbourhood of the minimum whose
//! size is about η. For an `L`-smooth function, `η_t = 1/√(dt)` with μ falling like `1/√t` reaches
//! `min ‖∇f(x_t)‖ = O(√(d/T) log T)` ([`with_theory_schedule`](ZoRankSgdConfig::with_theory_schedule)).
//!
//! How noisy `g` is depends on the graph. With two independent edges' mean product
//! `M₁ = ‖E g_{12}‖²` and that of two edges which share a point, `M₂ = E⟨g_{12}, g_{13}⟩`,
//!
//! ```text
//! E‖g‖² = 2d/|E| + N(E)/|E|² M₂ + (|E|² − |E| − N(E))/|E|² M₁
//! ```
//!
//! ([`second_moment`]), of which only `M₁` is signal. For large m the second term is what is left of the rest: about
//! `4/m M₂` for `k = m`, but `M₂/k` for a short list of many points.
//!
//! **Line search** ([`LineSearch`], algorithm 2), with the same oracle: the best of
//!
//! ```text
//! x,   x − η g,   x − η γ g,   …,   x − η γ^{l−2} g
//! ```
//!
//! **Human feedback** ([`LineSearch::human_feedback`], algorithm 3, the authors' code): the best of the
//! perturbed points, which has been looked at anyway, also stands for election; and where `x` wins,
//! the next estimate does not replace `g` but is averaged with all since the last move, so that the
//! direction's variance falls until there is progress.
//!
//! Further means against variance, both our additions: several rankings per estimate
//! ([`rankings`](ZoRankSgdConfig::rankings)), averaged, for a person who can compare 5 things but not
//! 50; and directions that are orthogonal to each other ([`Directions::Orthogonal`]).
//!
//! The authors' code departs from the paper: it weighs the r-th best by `m − 2r` (from 0), where the
//! graph has `m − 1 − 2r` edges more that begin than end, adding `1/|E| Σ ξ_i` over the named points
//! to the direction, which is noise ([`EdgeWeights::OfficialCode`]); and it does not divide by μ, so
//! that its step size is ours over μ.
//!
//! Everything is `f64`; a run is the same, bit for bit, for the same seed, and is
//! [saved](ZoRankSgd::state) and resumed exactly, also while a question waits for its answer.
//!
//! Source: Tang, Rybin, Chang, *Zeroth-Order Optimization Meets Human Feedback: Provable Learning via
//! Ranking Oracles*, ICLR 2024, arXiv 2303.03751; their code,
//! github.com/TZW1998/Taming-Stable-Diffusion-with-Human-Ranking-Feedback.

use std::ops::ControlFlow;

use burn::config::Config;
use nabla_base::range;
use serde::{Deserialize, Serialize};

use crate::ranking_oracle::{
    Ranking, RankingError, RankingOracle, RankingQuestion, edge_count, neighbouring_edge_pairs,
};
use crate::zeroth_order::{
    Directions, LineSearch, RunError, Schedule, ZerothOrderError, add, finite, moved, norm,
};

/// How much a place in the order weighs.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum EdgeWeights {
    /// By the edges of the graph: the paper.
    Graph,
    /// As in the authors' code, with one more for each point that is named.
    OfficialCode,
}

/// Configuration of [`ZoRankSgd`].
///
/// The step size has the unit of the coordinates, and so has μ: without line search, η is about the
/// distance to go in a step, divided by the length of `g`, which is [`second_moment`]'s root.
#[derive(Config, Debug, PartialEq)]
pub struct ZoRankSgdConfig {
    /// Points in a ranking, `m`. Default 10.
    #[config(default = 10)]
    pub candidates: usize,
    /// How many of them are named, `k`. Default all of them.
    pub best: Option<usize>,
    /// Rankings that an estimate is the mean of. Default 1.
    #[config(default = 1)]
    pub rankings: usize,
    /// Size of the perturbation, μ. Default 0.01.
    #[config(default = 0.01)]
    pub smoothing: f64,
    /// How it changes. Default not at all.
    #[config(default = "Schedule::Constant")]
    pub smoothing_schedule: Schedule,
    /// Step size, η; with a line search, that of the longest step. Default 0.1.
    #[config(default = 0.1)]
    pub step_size: f64,
    /// How it changes. Default not at all.
    #[config(default = "Schedule::Constant")]
    pub step_schedule: Schedule,
    /// The perturbations. Default [`Directions::Gaussian`].
    #[config(default = "Directions::Gaussian")]
    pub directions: Directions,
    /// How places weigh. Default [`EdgeWeights::Graph`].
    #[config(default = "EdgeWeights::Graph")]
    pub edge_weights: EdgeWeights,
    /// Search along the direction. Default none.
    pub line_search: Option<LineSearch>,
    /// Of the perturbations. Default 0.
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

    /// Points of an iteration that are new to the oracle.
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

    /// Steps along the direction that a line search tries.
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
        add(&mut sum, *weight, xi);
    }
    // A single point has no edge.
    let edges = edge_count(m, k).max(1) as f64;
    sum.iter_mut().for_each(|s| *s /= edges);
    sum
}

/// Where an iteration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The order of perturbed points is asked for.
    Estimate,
    /// The best point along the direction is asked for.
    LineSearch,
}

/// Everything that a run needs to go on, for serde; [`ZoRankSgd::state`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZoRankSgdState {
    /// How it runs.
    pub config: ZoRankSgdConfig,
    /// Where it is, `x`, `[d]`.
    pub point: Vec<f64>,
    /// The direction, `g`, `[d]`: the mean of `estimates` estimates.
    pub direction: Vec<f64>,
    /// How many estimates that is; 0 if they are those of a point that has been left.
    pub estimates: u64,
    /// Sum of the estimates of this iteration's rankings so far, `[d]`.
    pub sum: Vec<f64>,
    /// This iteration's best perturbed points so far, `[d]` each, if the line search takes them.
    pub best_perturbed: Vec<Vec<f64>>,
    /// This iteration's rankings so far.
    pub rankings: usize,
    /// What is asked for now.
    pub phase: Phase,
    /// Iterations done.
    pub iterations: u64,
    /// Questions answered.
    pub questions: u64,
    /// Points in them that the oracle had not been shown before; see [`Iteration::queries`].
    pub queries: u64,
}

impl ZoRankSgdState {
    /// New points of this iteration in the questions answered so far.
    fn shown(&self) -> u64 {
        self.rankings.saturating_mul(self.config.candidates) as u64
    }
}

/// Where an iteration went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Along the direction, by the step size shrunk this many times.
    Step(usize),
    /// To the best perturbed point of this ranking, from 0.
    Perturbed(usize),
    /// Nowhere: no other point was better.
    Stay,
}

/// An iteration that is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Iteration {
    /// Its number, from 1.
    pub number: u64,
    /// Questions so far.
    pub questions: u64,
    /// Points so far that were new to the oracle: the perturbed ones and the steps of the line search,
    /// but not the point where the run is nor a best perturbed one, of which the oracle knows. This is
    /// the number of evaluations that a function needs.
    pub queries: u64,
    /// `‖g‖` of the direction.
    pub direction_norm: f64,
    /// Estimates that the direction is the mean of.
    pub estimates: u64,
    /// Where it went.
    pub choice: Choice,
}

/// A run of ZO-RankSGD; see the [module](self).
///
/// It asks and is told: [`question`](Self::question) and [`answer`](Self::answer) for those who have
/// the oracle's time; [`step`](Self::step) and [`minimise`](Self::minimise) with an oracle at hand.
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
    /// At `start`, numbers of 32 or 64 bits, `[d]`.
    ///
    /// # Errors
    /// If a value of the configuration is not in its range, or `start` is empty or not finite.
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

    /// The run that [`state`](Self::state) was taken of, at the same question.
    ///
    /// # Errors
    /// If no run has this state.
    pub fn from_state(state: ZoRankSgdState) -> Result<Self, ZerothOrderError> {
        state.config.check()?;
        if state.point.is_empty() {
            return Err(ZerothOrderError::Empty);
        }
        finite("point", &state.point)?;
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

    /// All that is needed to go on.
    pub fn state(&self) -> &ZoRankSgdState {
        &self.state
    }

    /// Where the run is, `x`, `[d]`.
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

    /// What is to be put in order now. It is the same until it is answered.
    ///
    /// Points of the line search come from the longest step to the shortest, then the best perturbed
    /// ones, then the one where the run is.
    ///
    /// # Errors
    /// If a point cannot be made.
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

    /// The order of the points of the [`question`](Self::question). Gives the iteration if it was its
    /// last question.
    ///
    /// # Errors
    /// If it is an answer to another question, or the run leaves the finite numbers; the run is then
    /// as before.
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
                // The direction is that of a point which has been left.
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

    /// Takes the order of perturbed points into `next`; without a line search, also the step.
    fn estimated(&self, next: &mut ZoRankSgdState, ranking: &Ranking) -> Option<Choice> {
        let (config, d) = (&self.state.config, self.state.point.len());
        let directions = self.directions();
        let estimate = estimate(ranking, &directions, config.edge_weights);
        add(&mut next.sum, 1.0, &estimate);
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
        // Where the run stayed, the mean of all estimates from here; otherwise this one.
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

    /// Takes the best point of the line search into `next`.
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

    /// One iteration, or the rest of one.
    ///
    /// # Errors
    /// If the oracle does not answer or answers another question, or the run leaves the finite
    /// numbers. The run is then as before the question.
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

    /// Iterations as long as there are no more than `budget` [queries](Iteration::queries) in all, counted
    /// from the beginning of the run. `observe` sees the run after each iteration
    /// and may end it.
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
            // What this iteration has asked already is in both.
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
mod tests {
    use super::*;
    use crate::ranking_oracle::{FunctionOracle, NoisyFunctionOracle, ValueNoise};
    use std::f64::consts::PI;

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// Mean and its standard error of `value` over estimates at `x` with the perturbation `mu`.
    fn over_estimates(
        f: impl FnMut(&[f64]) -> f64 + Copy,
        [m, k]: [usize; 2],
        x: &[f64],
        mu: f64,
        directions: Directions,
        value: impl Fn(&[f64]) -> f64,
    ) -> (f64, f64) {
        const COUNT: u64 = 20_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for stream in 0..COUNT {
            let xi = directions.draw(m, x.len(), 1, stream);
            let values: Vec<f64> = xi
                .chunks_exact(x.len())
                .map(|xi| moved(x, mu, xi))
                .map(|p| {
                    let mut f = f;
                    f(&p)
                })
                .collect();
            let ranking = Ranking::of_values(&values, k).unwrap();
            let v = value(&estimate(&ranking, &xi, EdgeWeights::Graph));
            sum += v;
            squares += v * v;
        }
        let n = COUNT as f64;
        (sum / n, ((squares / n - (sum / n).powi(2)) / n).sqrt())
    }

    /// Kummer's function, by its series.
    fn kummer(a: f64, b: f64, z: f64) -> f64 {
        let (mut term, mut sum) = (1.0, 1.0);
        for n in 0..200 {
            let n = f64::from(n);
            term *= (a + n) / (b + n) * z / (n + 1.0);
            sum += term;
        }
        sum
    }

    /// On `f = ‖x‖²` the difference of two perturbed points is along `v = √2 x + μ s` with a normal
    /// `s`, so that `E g = 2/√π E[v/‖v‖]`, the mean of a projected normal vector:
    /// `Γ((d+1)/2)/Γ(d/2+1) κ/√2 ₁F₁(½; d/2+1; −κ²/2)` along `x`, with `κ = √2‖x‖/μ`. Every order
    /// of all m has this mean, at any μ.
    #[test]
    fn the_mean_estimate_on_a_quadratic_is_the_closed_form() {
        let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
        let x = [0.6, -0.8, 0.0];
        // Γ(2)/Γ(5/2)
        let gamma = 1.0 / (0.75 * PI.sqrt());
        for (mu, m) in [(0.5, 2), (1.0, 2), (1.0, 5), (3.0, 4)] {
            let kappa = 2f64.sqrt() / mu;
            let expected = 2.0 / PI.sqrt() * gamma * kappa / 2f64.sqrt()
                * kummer(0.5, 2.5, -kappa * kappa / 2.0);
            let along = |g: &[f64]| dot(g, &x);
            let (found, error) = over_estimates(f, [m, m], &x, mu, Directions::Gaussian, along);
            assert!(
                (found - expected).abs() < 4.0 * error,
                "{m} {mu}: {found} {expected}"
            );
            assert!(error < 0.02 * expected.max(0.5), "{error}");
            let across = |g: &[f64]| dot(g, &[0.8, 0.6, 0.0]) + g[2];
            let (found, error) = over_estimates(f, [m, m], &x, mu, Directions::Gaussian, across);
            assert!(found.abs() < 4.0 * error, "{m} {mu}: {found}");
        }
    }

    /// On a linear function: the mean along its gradient from the order statistics of normal numbers
    /// (of three, ±3/(2√π)), and the second moment from M₁ and M₂.
    #[test]
    fn the_moments_on_a_linear_function_are_the_closed_forms() {
        let f = |x: &[f64]| x[0];
        let along = |g: &[f64]| g[0];
        let c = 1.5 / PI.sqrt();
        // k = 1: (0 + c + 2c)/2 from the best; k = 3: weights 2 at both ends, over 3 edges.
        for (k, expected) in [(1, 1.5 * c), (3, 4.0 * c / 3.0)] {
            let x = [0.0; 4];
            let (found, error) = over_estimates(f, [3, k], &x, 0.1, Directions::Gaussian, along);
            assert!(
                (found - expected).abs() < 4.0 * error,
                "{k}: {found} {expected}"
            );
        }
        for (m, d) in [(2, 3), (5, 4), (8, 6)] {
            let (m_1, m_2) = (4.0 / PI, 2.0 * 3f64.sqrt() / PI + d as f64 / 3.0);
            let expected = second_moment(m, m, d, m_1, m_2);
            let x = vec![0.0; d];
            let square = |g: &[f64]| dot(g, g);
            let (found, error) = over_estimates(f, [m, m], &x, 0.1, Directions::Gaussian, square);
            assert!(
                (found - expected).abs() < 4.0 * error,
                "{m}: {found} {expected}"
            );
            assert!(error < 0.02 * expected, "{error}");
        }
    }

    /// A longer order and more points make an estimate that is nearer to the gradient's direction, and
    /// so do orthogonal perturbations: the mean cosine.
    #[test]
    fn more_points_longer_orders_and_orthogonal_directions_have_less_variance() {
        let f = |x: &[f64]| x[0];
        let cosine = |g: &[f64]| g[0] / norm(g);
        let mean = |mk, directions| over_estimates(f, mk, &[0.0; 20], 0.1, directions, cosine);
        let increases = |lower: (f64, f64), higher: (f64, f64)| {
            assert!(
                higher.0 - lower.0 > 4.0 * lower.1.hypot(higher.1),
                "{lower:?} {higher:?}"
            );
        };
        let gaussian = |mk| mean(mk, Directions::Gaussian);
        increases(gaussian([10, 1]), gaussian([10, 3]));
        increases(gaussian([10, 3]), gaussian([10, 10]));
        increases(gaussian([5, 5]), gaussian([10, 10]));
        increases(gaussian([10, 10]), mean([10, 10], Directions::Orthogonal));
    }

    #[test]
    fn directions_are_what_they_are_called() {
        for (count, d) in [(7, 3), (3, 3), (2, 9), (5, 1)] {
            let sphere = Directions::Sphere.draw(count, d, 3, 4);
            let orthogonal = Directions::Orthogonal.draw(count, d, 3, 4);
            for rows in [&sphere, &orthogonal] {
                assert_eq!(rows.len(), count * d);
                assert!(rows.chunks_exact(d).all(|r| (norm(r) - 1.0).abs() < 1e-14));
            }
            for block in orthogonal.chunks(d * d) {
                for (i, a) in block.chunks_exact(d).enumerate() {
                    for b in block.chunks_exact(d).skip(i + 1) {
                        assert!(dot(a, b).abs() < 1e-14, "{}", dot(a, b));
                    }
                }
            }
            assert_eq!(sphere, Directions::Sphere.draw(count, d, 3, 4));
            assert_ne!(sphere, Directions::Sphere.draw(count, d, 3, 5));
            assert_ne!(sphere, Directions::Sphere.draw(count, d, 4, 4));
        }
        // Uniform: every coordinate has the mean 0 and the mean square 1/d.
        for directions in [Directions::Sphere, Directions::Orthogonal] {
            let rows = directions.draw(30_000, 3, 0, 0);
            for axis in 0..3 {
                let values = || rows.iter().skip(axis).step_by(3);
                let mean: f64 = values().sum::<f64>() / 30_000.0;
                let square: f64 = values().map(|v| v * v).sum::<f64>() / 30_000.0;
                assert!(mean.abs() < 0.014, "{mean}");
                assert!((square - 1.0 / 3.0).abs() < 0.007, "{square}");
            }
        }
    }

    /// The run at the line search from 1 with the direction 1, best perturbed point 0.3.
    fn before_line_search(search: LineSearch) -> ZoRankSgd {
        let config = ZoRankSgdConfig::new()
            .with_step_size(0.8)
            .with_line_search(Some(search));
        let mut state = ZoRankSgd::new(config, [1.0]).unwrap().state().clone();
        state.direction = vec![1.0];
        state.estimates = 1;
        state.rankings = 1;
        state.questions = 1;
        state.queries = 10;
        state.phase = Phase::LineSearch;
        if search.best_perturbed {
            state.best_perturbed = vec![vec![0.3]];
        }
        ZoRankSgd::from_state(state).unwrap()
    }

    #[test]
    fn the_line_search_takes_the_best_point() {
        let near = |to: f64| FunctionOracle::new(move |x: &[f64]| (x[0] - to).abs());
        let plain = LineSearch::new().with_candidates(4);
        let question = before_line_search(plain).question().unwrap();
        assert_eq!(question.best(), 1);
        let points: Vec<f64> = question.points().map(|p| p[0]).collect();
        for (found, expected) in points.iter().zip([0.2, 0.6, 0.8, 1.0]) {
            assert!((found - expected).abs() < 1e-15, "{points:?}");
        }
        for (to, choice, point) in [
            (0.0, Choice::Step(0), 0.2),
            (0.55, Choice::Step(1), 0.6),
            (0.85, Choice::Step(2), 0.8),
            (3.0, Choice::Stay, 1.0),
        ] {
            let mut run = before_line_search(plain);
            let iteration = run.step(&mut near(to)).unwrap();
            assert_eq!(iteration.choice, choice);
            assert!((run.point()[0] - point).abs() < 1e-15);
            // Three of the four points are new.
            assert_eq!(
                (iteration.queries, iteration.questions, iteration.estimates),
                (13, 2, 1)
            );
        }
        let mut run = before_line_search(LineSearch::human_feedback(4));
        let points: Vec<f64> = run.question().unwrap().points().map(|p| p[0]).collect();
        assert_eq!(points[2..], [0.3, 1.0]);
        let iteration = run.step(&mut near(0.3)).unwrap();
        assert_eq!(
            (iteration.choice, iteration.queries),
            (Choice::Perturbed(0), 12)
        );
        assert_eq!(run.point(), [0.3]);
    }

    /// Where the run stays, the next direction is the mean of the estimates.
    #[test]
    fn estimates_accumulate_until_there_is_a_move() {
        let mut run = before_line_search(LineSearch::human_feedback(4));
        let stay = Ranking::new(4, vec![3]).unwrap();
        run.answer(&stay).unwrap();
        assert_eq!((run.state().estimates, run.state().direction[0]), (1, 1.0));
        let question = run.question().unwrap();
        let values: Vec<f64> = question.points().map(|p| p[0]).collect();
        let ranking = Ranking::of_values(&values, 10).unwrap();
        let xi = Directions::Gaussian.draw(10, 1, 0, 2);
        let second = estimate(&ranking, &xi, EdgeWeights::Graph)[0];
        assert_eq!(run.answer(&ranking).unwrap(), None);
        assert_eq!(run.state().estimates, 2);
        assert!((run.state().direction[0] - (1.0 + second) / 2.0).abs() < 1e-15);
        let moved = run
            .answer(&Ranking::new(4, vec![0]).unwrap())
            .unwrap()
            .unwrap();
        assert_eq!((moved.estimates, run.state().estimates), (2, 0));
    }

    /// Several rankings are one estimate: the mean of theirs.
    #[test]
    fn rankings_are_averaged() {
        let config = ZoRankSgdConfig::new()
            .with_candidates(4)
            .with_rankings(3)
            .with_step_size(1.0);
        let mut run = ZoRankSgd::new(config, [0.5f32, -0.25]).unwrap();
        let f = |x: &[f64]| x[0] + x[1];
        let mut sum = [0.0; 2];
        for stream in 0..3 {
            let xi = Directions::Gaussian.draw(4, 2, 0, stream);
            let values: Vec<f64> = xi.chunks_exact(2).map(f).collect();
            let ranking = Ranking::of_values(&values, 4).unwrap();
            add(
                &mut sum,
                1.0 / 3.0,
                &estimate(&ranking, &xi, EdgeWeights::Graph),
            );
        }
        let iteration = run.step(&mut FunctionOracle::new(f)).unwrap();
        assert_eq!((iteration.questions, iteration.queries), (3, 12));
        for ((x, start), sum) in run.point().iter().zip([0.5, -0.25]).zip(sum) {
            assert!((x - (start - sum)).abs() < 1e-14);
        }
    }

    /// A ranking is all that is used: another function with the same order makes the same run, bit for
    /// bit; and the same seed, too.
    #[test]
    fn an_increasing_function_of_the_values_changes_nothing() {
        let config = ZoRankSgdConfig::new().with_line_search(Some(LineSearch::human_feedback(6)));
        let run = |f: fn(f64) -> f64, seed| {
            let config = config.clone().with_seed(seed);
            let mut run = ZoRankSgd::new(config, [1.0, 2.0, 3.0]).unwrap();
            let mut oracle = FunctionOracle::new(|x: &[f64]| f(dot(x, x)));
            run.minimise(&mut oracle, 500, &mut |_, _| ControlFlow::Continue(()))
                .unwrap();
            run
        };
        let plain = run(|f| f, 0);
        assert_eq!(plain, run(|f| (0.1 * f).exp() - 7.0, 0));
        assert_ne!(plain.point(), run(|f| f, 1).point());
        // 10 + 4 new points an iteration.
        assert_eq!(plain.state().queries, 490);
        assert_eq!(plain.state().iterations, 35);
    }

    #[test]
    fn a_saved_run_goes_on_to_the_same_bits_from_any_question() {
        let noise = ValueNoise::Gaussian(0.1);
        let oracle = || NoisyFunctionOracle::new(|x: &[f64]| dot(x, x), noise, 9).unwrap();
        for directions in [
            Directions::Gaussian,
            Directions::Sphere,
            Directions::Orthogonal,
        ] {
            let config = ZoRankSgdConfig::new()
                .with_candidates(5)
                .with_best(Some(2))
                .with_rankings(2)
                .with_directions(directions)
                .with_theory_schedule(3)
                .with_line_search(Some(LineSearch::human_feedback(6)));
            let mut whole = ZoRankSgd::new(config, [0.1, 0.2, -0.3]).unwrap();
            let mut saved = whole.clone();
            for _ in 0..20 {
                let text = serde_json::to_string(saved.state()).unwrap();
                saved = ZoRankSgd::from_state(serde_json::from_str(&text).unwrap()).unwrap();
                let ranking = oracle().rank(&saved.question().unwrap()).unwrap();
                saved.answer(&ranking).unwrap();
                let ranking = oracle().rank(&whole.question().unwrap()).unwrap();
                whole.answer(&ranking).unwrap();
                assert_eq!(saved, whole);
            }
        }
    }

    #[test]
    fn the_theorys_schedule() {
        let config = ZoRankSgdConfig::new()
            .with_theory_schedule(4)
            .with_smoothing(0.3);
        let mut run = ZoRankSgd::new(config, [1.0; 4]).unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push((run.step_size(), run.smoothing()));
            run.step(&mut FunctionOracle::new(|x: &[f64]| x[0]))
                .unwrap();
        }
        assert_eq!((seen[0], seen[3]), ((0.5, 0.3), (0.25, 0.15)));
    }

    #[test]
    fn the_budget_is_kept_and_the_observer_ends_the_run() {
        let run = |budget, stop: u64| {
            let config = ZoRankSgdConfig::new().with_line_search(Some(LineSearch::new()));
            let mut run = ZoRankSgd::new(config, [1.0; 3]).unwrap();
            let mut oracle = FunctionOracle::new(|x: &[f64]| dot(x, x));
            run.minimise(&mut oracle, budget, &mut |_, iteration| {
                if iteration.number == stop {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .unwrap();
            run.state().queries
        };
        assert_eq!(
            [run(13, 9), run(14, 9), run(41, 9), run(1000, 5)],
            [0, 14, 28, 70]
        );
    }

    #[test]
    fn wrong_input_is_told() {
        let told = |config: ZoRankSgdConfig| ZoRankSgd::new(config, [1.0]).unwrap_err().to_string();
        let config = ZoRankSgdConfig::new;
        for (config, message) in [
            (
                config().with_candidates(1),
                "the number of points in a ranking is 1, but it must be at least 2",
            ),
            (
                config().with_best(Some(11)),
                "the best 11 of 10 points are asked for, but it must be 1 to 10",
            ),
            (
                config().with_rankings(0),
                "the number of rankings is 0, but it must be at least 1",
            ),
            (
                config().with_smoothing(0.0),
                "the smoothing is 0, but it must be positive and finite",
            ),
            (
                config().with_step_size(f64::NAN),
                "the step size is NaN, but it must be positive and finite",
            ),
            (
                config().with_line_search(Some(LineSearch::new().with_candidates(1))),
                "the number of points in the line search is 1, but it must be at least 2",
            ),
            (
                config().with_line_search(Some(LineSearch::human_feedback(2))),
                "the number of points in the line search is 2, but it must be at least 3",
            ),
            (
                config().with_line_search(Some(LineSearch::new().with_shrink(1.0))),
                "the shrinking factor of the line search is 1, but it must be greater than 0 and less \
                 than 1",
            ),
        ] {
            assert_eq!(told(config), message);
        }
        let empty: [f64; 0] = [];
        assert_eq!(
            ZoRankSgd::new(config(), empty),
            Err(ZerothOrderError::Empty)
        );
        let error = ZoRankSgd::new(config(), [0.0, f64::NAN]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "coordinate 1 of the point is NaN, but it must be finite"
        );
        let mut run = ZoRankSgd::new(config(), [1.0]).unwrap();
        let before = run.clone();
        let error = run.answer(&Ranking::new(10, vec![1]).unwrap()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the answer names 1 of 10 points, but the question is for 10 of 10"
        );
        assert_eq!(run, before);
        let far = ZoRankSgd::new(config().with_smoothing(1e308), [1e308]).unwrap();
        assert_eq!(far.question(), Err(ZerothOrderError::Diverged));
        let mut state = before.state().clone();
        state.phase = Phase::LineSearch;
        assert!(ZoRankSgd::from_state(state).is_err());
        let mut state = before.state().clone();
        state.direction.push(0.0);
        assert_eq!(
            ZoRankSgd::from_state(state).unwrap_err().to_string(),
            "the saved state does not fit: its vectors have different lengths"
        );
    }
}
