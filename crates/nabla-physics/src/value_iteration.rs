//! Decision processes on graphs, and the values of their states.
//!
//! A state is a node, an action in it is an edge that comes in, with a reward:
//!
//! ```text
//! V_v = max over the edges e that end in v of  r_e + γ V_s(e)
//! ```
//!
//! [`DecisionProcess::random`] draws the processes of Park, Choo, Park, *Convergent Graph Solvers*, 2021, arXiv 2106.01680:
//! sources are drawn with replacement among the other states, and rewards uniformly in (−1, 1).

use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;

use crate::graph::{Graph, GraphError};
use crate::graph_example::GraphExample;

/// A process in which each action leads to a certain state.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionProcess {
    graph: Graph,
    rewards: Vec<f64>,
    discount: f64,
}

/// Why there are no values.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProcessError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There is a reward for each edge.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A state without actions has no value.
    #[error("state {0} has no action: no edge ends there")]
    NoAction(usize),
}

impl DecisionProcess {
    /// - `rewards`: of each edge
    /// - `discount`: `γ`, in [0, 1)
    ///
    /// # Errors
    /// If there is not a reward for each edge, one is not finite, the discount is out of range, or a state has no action.
    pub fn new(graph: Graph, rewards: Vec<f64>, discount: f64) -> Result<Self, ProcessError> {
        graph.check_edges("rewards", rewards.len())?;
        let fits = (0.0..1.0).contains(&discount);
        range::check(fits, "discount", discount, "at least 0 and less than 1")?;
        for &reward in &rewards {
            range::finite("reward", reward)?;
        }
        let sizes = graph.by_target().sizes();
        match sizes.iter().position(|&size| size == 0) {
            Some(state) => Err(ProcessError::NoAction(state)),
            None => Ok(Self {
                graph,
                rewards,
                discount,
            }),
        }
    }

    /// The paper's process; its discount is 0.9.
    ///
    /// # Errors
    /// If there are fewer than two states or no actions, or the discount is out of range.
    pub fn random(
        states: usize,
        actions: usize,
        discount: f64,
        noise: &mut SeededNoise,
    ) -> Result<Self, ProcessError> {
        range::at_least("number of states", states, 2)?;
        range::at_least("number of actions", actions, 1)?;
        let (mut sources, mut targets, mut rewards) = (Vec::new(), Vec::new(), Vec::new());
        for state in 0..states {
            for _ in 0..actions {
                let other = noise.random_range(0..states - 1);
                sources.push(other + usize::from(other >= state));
                targets.push(state);
                rewards.push(noise.random_range(-1.0..1.0));
            }
        }
        Self::new(Graph::new(states, sources, targets)?, rewards, discount)
    }

    /// The graph of states and actions.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The reward of each edge.
    pub fn rewards(&self) -> &[f64] {
        &self.rewards
    }

    /// `V` of each state, by value iteration until no value moves by more than `1e-10`.
    pub fn values(&self) -> Vec<f64> {
        let mut now = vec![0.0_f64; self.graph.nodes()];
        loop {
            let mut next = vec![f64::NEG_INFINITY; now.len()];
            let ends = self.graph.sources().iter().zip(self.graph.targets());
            for ((&source, &target), reward) in ends.zip(&self.rewards) {
                next[target] = next[target].max(reward + self.discount * now[source]);
            }
            let moved = now.iter().zip(&next).map(|(a, b)| (a - b).abs());
            let moved = moved.fold(0.0, f64::max);
            now = next;
            let size = now.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
            if moved <= 1e-10 * size {
                return now;
            }
        }
    }

    /// What a network learns from: 1 on each node, the reward on each edge, and the values.
    ///
    /// # Errors
    /// Never: the rows are those of the graph.
    pub fn example(&self) -> Result<GraphExample, GraphError> {
        GraphExample::new(
            self.graph.clone(),
            vec![vec![1.0]; self.graph.nodes()],
            self.rewards.iter().map(|&reward| vec![reward]).collect(),
            self.values().into_iter().map(|value| vec![value]).collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop of reward 1 is worth 1/(1 − γ), and a state one step away the reward and its discounted value.
    #[test]
    fn values_of_a_loop_are_those_of_the_geometric_series() {
        let graph = Graph::new(2, vec![0, 0, 1], vec![0, 1, 1]).unwrap();
        let process = DecisionProcess::new(graph, vec![1.0, -0.5, 0.2], 0.9).unwrap();
        let values = process.values();
        assert!((values[0] - 10.0).abs() < 1e-8);
        assert!((values[1] - (-0.5 + 9.0)).abs() < 1e-8);
    }

    /// Bellman's equation, and the range of values.
    #[test]
    fn values_of_drawn_processes_solve_the_equation() {
        for seed in 0..5 {
            let mut noise = SeededNoise::new(seed, 0);
            let process = DecisionProcess::random(20, 4, 0.9, &mut noise).unwrap();
            let (values, graph) = (process.values(), process.graph());
            for state in 0..20 {
                let edges = (0..graph.edges()).filter(|&e| graph.targets()[e] == state);
                let best = edges.map(|e| {
                    assert_ne!(graph.sources()[e], state);
                    process.rewards()[e] + 0.9 * values[graph.sources()[e]]
                });
                let best = best.fold(f64::NEG_INFINITY, f64::max);
                assert!((best - values[state]).abs() < 1e-8);
                assert!(values[state].abs() <= 10.0);
            }
        }
    }

    #[test]
    fn states_without_actions_are_refused_in_words() {
        let graph = Graph::new(2, vec![0], vec![1]).unwrap();
        let error = DecisionProcess::new(graph, vec![1.0], 0.9).unwrap_err();
        assert_eq!(
            error.to_string(),
            "state 0 has no action: no edge ends there"
        );
        let error = DecisionProcess::random(5, 2, 1.0, &mut SeededNoise::new(0, 0)).unwrap_err();
        assert!(error.to_string().contains("discount"), "{error}");
    }
}
