//! The graphs of the experiment.

use nabla_claims::ClaimError;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_physics::graph::Graph;
use nabla_physics::graph_example::GraphExample;
use nabla_physics::pore_network::{Features, Joining, PoreNetworkConfig};
use nabla_physics::value_iteration::DecisionProcess;
use rand::RngExt;

/// What is to be predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The values of a decision process with discount 0.9: 15 to 29 states, or 30 to 59, with 3 to 5 actions.
    Values,
    /// The pressures of a Delaunay network in a cube: 30 to 59 points, or 60 to 119.
    Pores,
    /// The pressures of a Delaunay network in a box eight times as long as wide, given in a twentieth of the pores at each end:
    /// as many points.
    LongPores,
    /// Whether open bonds of a square lattice join its left and its right side: 5 to 7 sites along a side, or 8 to 10.
    Percolation,
}

/// How large graphs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    Trained,
    Larger,
}

impl Problem {
    /// The widths of features of nodes and edges.
    pub(super) fn features(self) -> [usize; 2] {
        match self {
            Self::Values => [1, 1],
            Self::Pores | Self::LongPores => [5, 3],
            Self::Percolation => [3, 1],
        }
    }

    pub(super) fn of_graphs(self) -> bool {
        self == Self::Percolation
    }

    pub(super) fn draw(
        self,
        range: Range,
        noise: &mut SeededNoise,
    ) -> Result<GraphExample, ClaimError> {
        let mut size = |small: [usize; 2], large: [usize; 2]| {
            let [least, most] = match range {
                Range::Trained => small,
                Range::Larger => large,
            };
            noise.random_range(least..=most)
        };
        match self {
            Self::Values => {
                let states = size([15, 29], [30, 59]);
                let actions = noise.random_range(3..=5);
                let process = DecisionProcess::random(states, actions, 0.9, noise);
                let process = process.map_err(ClaimError::experiment)?;
                process.example().map_err(ClaimError::experiment)
            }
            Self::Pores => {
                let points = size([30, 59], [60, 119]);
                pores(&PoreNetworkConfig::new(Joining::Delaunay, points), noise)
            }
            Self::LongPores => {
                let points = size([30, 59], [60, 119]);
                let config = PoreNetworkConfig {
                    elongation: 8.0,
                    boundary: 0.05,
                    ..PoreNetworkConfig::new(Joining::Delaunay, points)
                };
                pores(&config, noise)
            }
            Self::Percolation => {
                let side = size([5, 7], [8, 10]);
                let joined = noise.random::<bool>();
                loop {
                    // Half of the bonds are open, which joins the sides of about as many lattices.
                    let found = lattice(side, noise)?;
                    if found.1 == joined {
                        return Ok(found.0);
                    }
                }
            }
        }
    }
}

fn pores(config: &PoreNetworkConfig, noise: &mut SeededNoise) -> Result<GraphExample, ClaimError> {
    let network = config.draw(noise).map_err(ClaimError::experiment)?;
    network
        .example(Features::Scaled)
        .map_err(ClaimError::experiment)
}

/// A lattice whose bonds are open with probability ½, and whether its left and right side are joined.
fn lattice(side: usize, noise: &mut SeededNoise) -> Result<(GraphExample, bool), ClaimError> {
    let site = |row: usize, column: usize| row * side + column;
    let mut pairs = Vec::new();
    for row in 0..side {
        for column in 0..side {
            for (below, right) in [(1, 0), (0, 1)] {
                let there = row + below < side && column + right < side;
                if there && noise.random::<bool>() {
                    pairs.push([site(row, column), site(row + below, column + right)]);
                }
            }
        }
    }
    let mut reached: Vec<bool> = (0..side * side).map(|site| site % side == 0).collect();
    loop {
        let mut changed = false;
        for &[a, b] in &pairs {
            changed |= reached[a] != reached[b];
            let either = reached[a] || reached[b];
            (reached[a], reached[b]) = (either, either);
        }
        if !changed {
            break;
        }
    }
    let joined = (0..side).any(|row| reached[site(row, side - 1)]);
    let flag = |is: bool| f64::from(u8::from(is));
    let nodes = (0..side * side).map(|site| {
        let column = site % side;
        vec![flag(column == 0), flag(column + 1 == side), 1.0]
    });
    let graph = Graph::undirected(side * side, &pairs).map_err(ClaimError::experiment)?;
    let edges = vec![vec![0.0]; graph.edges()];
    let example = GraphExample::new(graph, nodes.collect(), edges, vec![vec![flag(joined)]]);
    Ok((example.map_err(ClaimError::experiment)?, joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of the drawn lattices are joined; the sizes are those that are said.
    #[test]
    fn lattices_are_balanced_and_sizes_right() {
        let mut noise = SeededNoise::new(1, 0);
        let mut joined = 0.0;
        for _ in 0..200 {
            let example = Problem::Percolation.draw(Range::Trained, &mut noise);
            joined += example.unwrap().targets().sum::<f64>();
        }
        assert!((70.0..=130.0).contains(&joined), "{joined}");
        for (range, least, most) in [(Range::Trained, 15, 29), (Range::Larger, 30, 59)] {
            let nodes = Problem::Values.draw(range, &mut noise).unwrap();
            assert!((least..=most).contains(&nodes.graph().nodes()));
        }
    }
}
