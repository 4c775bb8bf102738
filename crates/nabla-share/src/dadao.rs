//! DADAO: decentralised descent without rounds, in which nodes compute and gossip whenever their clocks say so.
//!
//! `n` nodes of a [graph](crate::graph) minimise `Σ f_i`. Node `i` knows the gradient of `f_i`, which is `L`-smooth and
//! `μ`-strongly convex, and talks to its neighbours only; there is no server, no round and no inner loop for consensus.
//! A node takes a gradient once per unit of time on average, and edge `(i, j)` gossips `λ_ij` times, all at the times
//! of independent Poisson clocks. So the number of gradients does not depend on the graph.
//!
//! With `ν = μ/2` and `ρ = √(ν/L)`, node `i` keeps `x, x̃` (its solution), `y, ỹ` (near `∇f_i − ν x`) and `z, z̃` (by
//! which the nodes agree). Between events they drift, and events change them:
//!
//! ```text
//! dx = η (x̃ − x) dt        dx̃ = η (x − x̃) dt                     η = α̃ = ρ/8
//! dy = α (ỹ − y) dt        dỹ = −θ (y + z + ν x̃) dt              α = ρ/4,  θ = 1/(2ρ)
//! dz = α (z̃ − z) dt        dz̃ = α̃ (z − z̃) dt
//!
//! gradient at i:  g = ∇f_i(x) − ν x − ỹ
//!                 x −= γ g,  x̃ −= γ̃ g,  ỹ += (δ + δ̃) g           γ = 1/(4L),  γ̃ = 1/(4√(Lν)),  δ = ρ/4,  δ̃ = 1
//! gossip (i, j):  m = (y_i + z_i) − (y_j + z_j)                  one vector each way
//!                 z_i −= β m,  z̃_i −= β̃ m,  z_j += β m,  z̃_j += β̃ m      β = ½,  β̃ = 2χ₁/ρ
//! ```
//!
//! A node drifts only when an event touches it, for all of the time since its last one, by the exponential of the 6 × 6
//! drift. This drift has eigenvalues that nearly coincide, so the exponential is a power series of a small part, which
//! is then squared, and not taken from eigenvectors. In the optimum `x = x̃ = x*`, `y = ỹ = ∇f_i(x*) − ν x*` and
//! `z = z̃ = −y − ν x*`, and neither drift nor events move it; `Σ z_i` and `Σ z̃_i` stay 0.
//!
//! The rates must have `χ₁ χ₂ ≤ ½`; [`EdgeRates::uniform`] and [`EdgeRates::optimal`] do, with as few messages as that
//! allows.
//!
//! [`Dadao::simulate`] runs all nodes in one loop. [`Dadao::run_on`] is one node on any [`Communicator`]: the nodes
//! derive all clocks from a common seed, wait for nobody but the other end of an edge, and get the bits of the
//! simulation. [`adom`], [`msda`] and [`gradient_tracking`] have synchronous methods to compare with.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use nabla_share::dadao::{Dadao, Objective};
//! use nabla_share::graph::{EdgeRates, Graph};
//!
//! // f_i = (x − i)²/2: the minimum of the sum is the mean of the i.
//! let gradients = (0..4).map(|i| Box::new(move |x: &[f64]| vec![x[0] - f64::from(i)]) as _);
//! let objective = Objective { smoothness: 1.0, strong_convexity: 1.0, gradients: gradients.collect() };
//! let rates = EdgeRates::uniform(&Graph::ring(4)?)?;
//! let dadao = Dadao::new(&objective, &rates)?;
//! let report = dadao.simulate(&objective, &vec![vec![0.0]; 4], 300.0, 0, |_| ControlFlow::Continue(()))?;
//! assert!(report.solutions.iter().all(|x| (x[0] - 1.5).abs() < 1e-3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Nabli, Oyallon, *DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization*, ICML 2023, arXiv
//! 2208.00779; their code, github.com/AdelNabli/DADAO, for the constants.

use std::ops::ControlFlow;

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::add_scaled;

use crate::communicator::numbers::{from_bytes, to_bytes};
use crate::communicator::{Communicator, CommunicatorError, Tag};
use crate::graph::{EdgeRates, GraphError, GraphSpectrum};

pub mod adom;
mod clocks;
mod drift;
pub mod gradient_tracking;
pub mod msda;
mod rounds;

use clocks::{Clocks, Event};
use drift::Drift;

pub use rounds::Round;

/// The reason why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum DadaoError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The edges gossip too rarely.
    #[error(
        "the gossip is too rare: χ₁ χ₂ is {product:.3}, but it must be at most 1/2; multiply all rates by {factor:.3}"
    )]
    TooRare {
        /// `χ₁ χ₂`.
        product: f64,
        /// By which the rates would suffice.
        factor: f64,
    },
    /// A vector has another length.
    #[error("the {what} of node {node} must have {expected} elements, but it has {found}")]
    Length {
        /// The start, the gradient or the message.
        what: &'static str,
        /// The node.
        node: usize,
        /// The dimension.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// A node has left the finite numbers.
    #[error(
        "the solution of node {node} is not finite: the gradients are not those of {smoothness}-smooth functions"
    )]
    NotFinite {
        /// The node.
        node: usize,
        /// `L` as it was given.
        smoothness: f64,
    },
    /// The graph's constants cannot be computed.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The ranks cannot communicate. It is a cause of its own, so that a rank that has ended is found among the causes.
    #[error("{0}")]
    Communicator(#[from] CommunicatorError),
}

/// The gradient of one node's function, from `x` to `∇f_i(x)` of the same length.
pub type Gradient<'a> = Box<dyn Fn(&[f64]) -> Vec<f64> + 'a>;

/// What the nodes minimise together.
pub struct Objective<'a> {
    /// `L`, the largest of all nodes.
    pub smoothness: f64,
    /// `μ`, the smallest of all nodes; above 0 and at most `L`.
    pub strong_convexity: f64,
    /// One per node.
    pub gradients: Vec<Gradient<'a>>,
}

impl Objective<'_> {
    fn check(&self, nodes: usize) -> Result<(), OutOfRange> {
        range::positive("smoothness L", self.smoothness)?;
        range::positive("strong convexity μ", self.strong_convexity)?;
        let fits = self.strong_convexity <= self.smoothness;
        let expected = "at most the smoothness L";
        range::check(fits, "strong convexity μ", self.strong_convexity, expected)?;
        let count = self.gradients.len();
        range::within("number of gradients", count, nodes..=nodes)
    }

    /// `∇f_i(x)`, checked.
    fn gradient(&self, node: usize, x: &[f64]) -> Result<Vec<f64>, DadaoError> {
        let gradient = (self.gradients[node])(x);
        check_length("gradient", node, x.len(), gradient.len())?;
        match gradient.iter().all(|g| g.is_finite()) {
            true => Ok(gradient),
            false => Err(DadaoError::NotFinite {
                node,
                smoothness: self.smoothness,
            }),
        }
    }

    /// `∇f_i(x_i)` of all nodes, checked.
    fn gradients(&self, x: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, DadaoError> {
        let nodes = x.iter().enumerate();
        nodes.map(|(node, x)| self.gradient(node, x)).collect()
    }
}

fn check_length(
    what: &'static str,
    node: usize,
    expected: usize,
    found: usize,
) -> Result<(), DadaoError> {
    match expected == found {
        true => Ok(()),
        false => Err(DadaoError::Length {
            what,
            node,
            expected,
            found,
        }),
    }
}

/// Checks one start per node, all of the same length, and returns this length.
fn check_starts(starts: &[Vec<f64>], nodes: usize) -> Result<usize, DadaoError> {
    range::within("number of starts", starts.len(), nodes..=nodes)?;
    let dimension = starts[0].len();
    range::at_least("dimension", dimension, 1)?;
    for (node, start) in starts.iter().enumerate() {
        check_length("start", node, dimension, start.len())?;
    }
    Ok(dimension)
}

/// The constants of events; those of the drift are in [`Drift`].
#[derive(Clone, Copy, Debug)]
struct Constants {
    nu: f64,
    gamma: f64,
    gamma_tilde: f64,
    /// `δ + δ̃`.
    delta: f64,
    beta: f64,
    beta_tilde: f64,
}

/// The state of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct DadaoNode {
    /// `x, x̃, y, ỹ, z, z̃`.
    state: [Vec<f64>; 6],
    /// When the state was that.
    time: f64,
}

const X: usize = 0;
const X_TILDE: usize = 1;
const Y: usize = 2;
const Y_TILDE: usize = 3;
const Z: usize = 4;
const Z_TILDE: usize = 5;

impl DadaoNode {
    /// At time 0, with all vectors 0 but `x`.
    pub fn new(x: Vec<f64>) -> Self {
        let zero = vec![0.0; x.len()];
        let [a, b, c, d] = [(); 4].map(|()| zero.clone());
        Self {
            state: [x, zero, a, b, c, d],
            time: 0.0,
        }
    }

    /// `x`, the node's solution at its last event.
    pub fn solution(&self) -> &[f64] {
        &self.state[X]
    }

    /// Drifts to a later time.
    fn advance(&mut self, drift: &Drift, time: f64) {
        let flow = drift.exponential(time - self.time);
        self.time = time;
        for k in 0..self.state[X].len() {
            let before: [f64; 6] = std::array::from_fn(|part| self.state[part][k]);
            for (part, row) in flow.iter().enumerate() {
                self.state[part][k] = nabla_base::vector::dot(row, &before);
            }
        }
    }

    fn gradient_event(&mut self, constants: &Constants, gradient: Vec<f64>) {
        let mut g = gradient;
        add_scaled(&mut g, -constants.nu, &self.state[X]);
        add_scaled(&mut g, -1.0, &self.state[Y_TILDE]);
        add_scaled(&mut self.state[X], -constants.gamma, &g);
        add_scaled(&mut self.state[X_TILDE], -constants.gamma_tilde, &g);
        add_scaled(&mut self.state[Y_TILDE], constants.delta, &g);
    }

    /// `y + z`, which it tells a neighbour.
    fn message(&self) -> Vec<f64> {
        let mut sum = self.state[Y].clone();
        add_scaled(&mut sum, 1.0, &self.state[Z]);
        sum
    }

    /// This node's half of a gossip, with the message of both.
    fn gossip(&mut self, constants: &Constants, own: &[f64], other: &[f64]) {
        let mut m = own.to_vec();
        add_scaled(&mut m, -1.0, other);
        add_scaled(&mut self.state[Z], -constants.beta, &m);
        add_scaled(&mut self.state[Z_TILDE], -constants.beta_tilde, &m);
    }
}

/// What an observer sees after every event.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The time of the event, in units in which a node takes one gradient.
    pub time: f64,
    /// The gradients of all nodes so far.
    pub gradients: u64,
    /// The gossips of all edges so far; each is one vector in both directions.
    pub gossips: u64,
    /// All nodes, each at its last event.
    pub nodes: &'a [DadaoNode],
}

/// The end of a run.
#[derive(Default, Clone, Debug, PartialEq)]
pub struct Report {
    /// The time.
    pub time: f64,
    /// The gradients of all nodes.
    pub gradients: u64,
    /// The gossips of all edges.
    pub gossips: u64,
    /// `x` of every node.
    pub solutions: Vec<Vec<f64>>,
}

/// The method for an objective and the rates of its edges; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Dadao {
    rates: EdgeRates,
    constants: Constants,
    drift: Drift,
}

impl Dadao {
    /// # Errors
    /// If `μ` or `L` are out of range, there is not one gradient per node, or the edges gossip too rarely.
    pub fn new(objective: &Objective<'_>, rates: &EdgeRates) -> Result<Self, DadaoError> {
        objective.check(rates.graph().nodes())?;
        let GraphSpectrum { chi1, chi2 } = rates.spectrum();
        let product = chi1 * chi2;
        if product > 0.5 * (1.0 + 1e-9) {
            let factor = (2.0 * product).sqrt();
            return Err(DadaoError::TooRare { product, factor });
        }
        let l = objective.smoothness;
        let nu = 0.5 * objective.strong_convexity;
        let rho = (nu / l).sqrt();
        Ok(Self {
            rates: rates.clone(),
            constants: Constants {
                nu,
                gamma: 0.25 / l,
                gamma_tilde: 0.25 / (l * nu).sqrt(),
                delta: 0.25 * rho + 1.0,
                beta: 0.5,
                beta_tilde: 2.0 * chi1 / rho,
            },
            drift: Drift::new(nu, rho),
        })
    }

    /// Runs all nodes in this thread until a time, or until the observer breaks. Nobody drifts after its last event.
    ///
    /// - `starts`: `x` of every node, all of the same length; `until`: in units in which a node takes one gradient;
    /// - `seed`: of the clocks
    ///
    /// # Errors
    /// If the starts do not fit, or a gradient has another length or is not finite.
    pub fn simulate(
        &self,
        objective: &Objective<'_>,
        starts: &[Vec<f64>],
        until: f64,
        seed: u64,
        mut observe: impl FnMut(Moment<'_>) -> ControlFlow<()>,
    ) -> Result<Report, DadaoError> {
        objective.check(self.rates.graph().nodes())?;
        range::not_negative("end time", until)?;
        check_starts(starts, self.rates.graph().nodes())?;
        let mut nodes: Vec<DadaoNode> = starts.iter().cloned().map(DadaoNode::new).collect();
        let mut report = Report::default();
        for (time, event) in Clocks::new(&self.rates, until, seed) {
            match event {
                Event::Gradient(i) => {
                    nodes[i].advance(&self.drift, time);
                    let gradient = objective.gradient(i, &nodes[i].state[X])?;
                    nodes[i].gradient_event(&self.constants, gradient);
                    report.gradients += 1;
                }
                Event::Gossip(i, j) => {
                    let messages = [i, j].map(|node| {
                        nodes[node].advance(&self.drift, time);
                        nodes[node].message()
                    });
                    let [of_i, of_j] = &messages;
                    nodes[i].gossip(&self.constants, of_i, of_j);
                    nodes[j].gossip(&self.constants, of_j, of_i);
                    report.gossips += 1;
                }
            }
            report.time = time;
            let moment = Moment {
                time,
                gradients: report.gradients,
                gossips: report.gossips,
                nodes: &nodes,
            };
            if observe(moment).is_break() {
                break;
            }
        }
        report.solutions = nodes
            .into_iter()
            .map(|node| node.state[X].clone())
            .collect();
        Ok(report)
    }

    /// Runs one node until a time, on a communicator whose ranks are the nodes; all must have the same seed. Only the
    /// gradient of this rank is asked for. The report counts this node's gradients and gossips, and has its solution.
    ///
    /// # Errors
    /// If there are not as many ranks as nodes, a gradient does not fit, or a neighbour is silent or has ended.
    pub fn run_on<C: Communicator + ?Sized>(
        &self,
        ranks: &mut C,
        objective: &Objective<'_>,
        start: Vec<f64>,
        until: f64,
        seed: u64,
    ) -> Result<Report, DadaoError> {
        const GOSSIP: Tag = Tag::new(0x4441);
        let nodes = self.rates.graph().nodes();
        objective.check(nodes)?;
        range::not_negative("end time", until)?;
        range::within("number of ranks", ranks.size(), nodes..=nodes)?;
        let (own, dimension) = (ranks.rank(), start.len());
        range::at_least("dimension", dimension, 1)?;
        let mut node = DadaoNode::new(start);
        let mut report = Report::default();
        // The events have the same order at all ranks, so that no two wait for each other in a circle.
        for (time, event) in Clocks::new(&self.rates, until, seed) {
            let other = match event {
                Event::Gradient(i) if i == own => None,
                Event::Gossip(i, j) if i == own => Some(j),
                Event::Gossip(i, j) if j == own => Some(i),
                _ => continue,
            };
            node.advance(&self.drift, time);
            report.time = time;
            if let Some(other) = other {
                let message = node.message();
                let answer = ranks.exchange(other, GOSSIP, &to_bytes(&message))?;
                let answer = from_bytes::<f64>(&answer);
                check_length("message", other, dimension, answer.len())?;
                node.gossip(&self.constants, &message, &answer);
                report.gossips += 1;
            } else {
                let gradient = objective.gradient(own, &node.state[X])?;
                node.gradient_event(&self.constants, gradient);
                report.gradients += 1;
            }
        }
        report.solutions.push(node.state[X].clone());
        Ok(report)
    }
}

#[cfg(test)]
mod tests;
