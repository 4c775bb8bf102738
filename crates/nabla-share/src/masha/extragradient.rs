//! Extragradient and its optimistic form: the methods without snapshots, to which MASHA is compared.
//!
//! ```text
//! extragradient:   zh = prox_γh(z − γ F(z)),           z ← prox_γh(z − γ F(zh))       two exchanges
//! optimistic:      zh = prox_γh(z − γ F(zh of before)),  z ← prox_γh(z − γ F(zh))     one exchange
//! ```
//!
//! Each value of `F` is a mean of messages of all workers. With an [`Uplink`] that compresses, this is the naive
//! compression of the operator itself, which does not converge: the noise of a compressor is as large as its input,
//! and no `F_m` vanishes at the solution.
//!
//! Sources: Korpelevich, *The extragradient method for finding saddle points and other problems*, Matecon 1976; Popov,
//! *A modification of the Arrow-Hurwicz method for search of saddle points*, 1980.

use std::ops::ControlFlow;

use nabla_base::choices;
use nabla_base::range;
use nabla_grad::compressor::Identity;

use super::draws::Draws;
use super::problem::{Point, Value};
use super::uplink::dense;
use super::{MashaError, Network, Outcome, Problem, Progress, Uplink, iterate, numbers_of};

/// Where the first of the two steps takes its operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lookahead {
    /// At `z`.
    #[default]
    Extragradient,
    /// At the last `zh`, so that it need not be computed.
    Optimistic,
}

choices! {
    Lookahead: "lookahead" {
        "extragradient" => Self::Extragradient, "The operator at the point, in a second exchange";
        "optimistic" => Self::Optimistic, "The operator at the last point ahead, which is there already";
    }
}

/// The method; see the [module documentation](self).
pub struct Extragradient {
    /// Which of the two.
    pub lookahead: Lookahead,
    /// The compressor of every value of the operator; the identity by default.
    pub uplink: Uplink,
    /// `γ`. Default 0.1.
    pub step: f64,
    /// Default 1000.
    pub iterations: usize,
    /// Of the compressors' randomness. Default 0.
    pub seed: u64,
}

impl Default for Extragradient {
    fn default() -> Self {
        Self {
            lookahead: Lookahead::default(),
            uplink: Uplink::Independent(Box::new(Identity)),
            step: 0.1,
            iterations: 1000,
            seed: 0,
        }
    }
}

impl Extragradient {
    /// As [`Masha1::run`](super::Masha1::run).
    ///
    /// # Errors
    /// Those of [`Masha1::run`](super::Masha1::run).
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use nabla_share::masha::extragradient::Extragradient;
    /// use nabla_share::masha::{OneProcess, Operator, Problem};
    ///
    /// // x y from (1, 1): the point ahead is (1/2, 3/2).
    /// let operator = Operator::new(|z: &[f64]| vec![z[1], -z[0]]);
    /// let problem = Problem::new(2, vec![operator])?;
    /// let method = Extragradient { step: 0.5, iterations: 1, ..Extragradient::default() };
    /// let outcome = method.run(&problem, &[1.0, 1.0], &mut OneProcess::new(1), |_| ControlFlow::Continue(()))?;
    /// assert_eq!(outcome.z, [0.25, 1.25]);
    /// assert_eq!((outcome.sent.up.numbers, outcome.sent.down.numbers), (4, 4));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run<N: Network>(
        &self,
        problem: &Problem<'_>,
        start: &[f64],
        network: &mut N,
        observe: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome, MashaError> {
        range::positive("step γ", self.step)?;
        self.uplink.check(problem.dimension(), problem.workers())?;
        problem.check(start, None, network.workers())?;
        let mut draws = Draws::new(self.seed, problem.workers(), problem.dimension());
        let mut ahead = None;
        let start = problem.start(start, network.here());
        iterate(
            self.iterations,
            start,
            network,
            observe,
            |point, network| {
                let first = match (self.lookahead, ahead.take()) {
                    (Lookahead::Optimistic, Some(last)) => last,
                    _ => mean_operator(problem, point, &self.uplink, &mut draws, network)?,
                };
                let step = |value: &Value| {
                    let mut moved = point.clone();
                    moved.step(self.step, value);
                    problem.prox(self.step, &mut moved);
                    moved
                };
                let second =
                    mean_operator(problem, &step(&first), &self.uplink, &mut draws, network)?;
                *point = step(&second);
                ahead = Some(second);
                Ok(())
            },
        )
    }
}

/// `F` at a point on all workers, from one exchange: each sends its value by `uplink`, and the server broadcasts the
/// mean as it is.
pub(super) fn mean_operator<N: Network>(
    problem: &Problem<'_>,
    point: &Point,
    uplink: &Uplink,
    draws: &mut Draws,
    network: &mut N,
) -> Result<Value, MashaError> {
    draws.next_round();
    let workers: Vec<usize> = (0..problem.workers()).collect();
    let of = workers.len();
    let lengths: Vec<usize> = workers
        .iter()
        .map(|&m| uplink.length(draws, m, of))
        .collect();
    let first = network.here().start;
    let mut each = Vec::with_capacity(point.own.len());
    let received = network.to_server(&workers, &lengths, |worker| {
        let value = problem.at(worker, &point.z, &point.own[worker - first])?;
        let shared = &value[..problem.dimension()];
        let message = uplink.message(draws, worker, (worker, of), shared);
        each.push(value);
        message
    })?;
    let mean = received.map(|received| dense(&uplink.mean(draws, &received)));
    let message = network.to_all(mean.transpose()?, problem.dimension())?;
    let mean = numbers_of(&message);
    Ok(Value { mean, each })
}
