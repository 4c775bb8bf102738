//! The sets of coordinates that may be updated together: partitions fixed before the first step, or blocks
//! chosen again in every step.

use nabla_grad::seeded_noise::SeededNoise;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::BlockDescentError;
use super::message_passing::{DealOrder, forest_partition, red_black_partition};
use super::problem::{Curvature, SmoothProblem, check_cover};

/// The default size of a block: the smallest in the paper.
pub(super) const USUAL_SIZE: usize = 5;

/// The blocks from which a rule selects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blocks {
    /// A fixed partition.
    Fixed(Partition),
    /// Any set of `size` coordinates, chosen again in every step.
    Variable {
        /// Coordinates of a block.
        size: usize,
    },
    /// Any set of coordinates that form a forest, as large as possible: in every step, coordinates are added
    /// in the order of their scores if they close no cycle.
    Forest,
}

/// Partitions of the coordinates. If `size` does not divide their number, the last block is smaller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Partition {
    /// Neighbouring coordinates.
    Order {
        /// Coordinates of a block.
        size: usize,
    },
    /// At random, once.
    Random {
        /// Coordinates of a block.
        size: usize,
    },
    /// In order of increasing Lipschitz constants `L_i`, so that the constants of a block are similar:
    /// recommended in the paper for the greedy rules.
    Sort {
        /// Coordinates of a block.
        size: usize,
    },
    /// Small and large Lipschitz constants in turn, so that the blocks are similar.
    Average {
        /// Coordinates of a block.
        size: usize,
    },
    /// Like [`Sort`](Self::Sort), but by the row sums `Σ_j |H_ij|` of the bound.
    BoundSort {
        /// Coordinates of a block.
        size: usize,
    },
    /// Like [`Average`](Self::Average), but by the row sums `Σ_j |H_ij|` of the bound.
    BoundAverage {
        /// Coordinates of a block.
        size: usize,
    },
    /// Sets without an edge in the graph of the second derivatives, by colouring: the matrix update of a
    /// block then updates its coordinates one by one.
    RedBlack(DealOrder),
    /// Sets that are forests in the graph of the second derivatives, for message passing.
    Forests(DealOrder),
    /// Given by the user.
    Explicit(Vec<Vec<usize>>),
}

nabla_base::choices! {
    Partition: "partition" {
        "order" => Self::Order { size: USUAL_SIZE }, "Neighbouring weights";
        "random" => Self::Random { size: USUAL_SIZE }, "At random";
        "sort" => Self::Sort { size: USUAL_SIZE }, "In order of increasing Lipschitz constants";
        "average" => Self::Average { size: USUAL_SIZE }, "Small and large Lipschitz constants in turn";
        "bound-sort" => Self::BoundSort { size: USUAL_SIZE }, "In order of increasing row sums of the bound of the second derivatives";
        "bound-average" => Self::BoundAverage { size: USUAL_SIZE }, "Small and large row sums in turn";
        "red-black" => Self::RedBlack(DealOrder::Lipschitz), "Sets of weights without links between them, by graph colouring";
        "red-black-by-index" => Self::RedBlack(DealOrder::Index), "The same, coloured in the order of the weights";
        "forests" => Self::Forests(DealOrder::Lipschitz), "Sets of weights without cycles; solved by message passing";
        "forests-by-index" => Self::Forests(DealOrder::Index), "The same, assigned in the order of the weights";
    }
}

impl Partition {
    /// The same with another block size, if the blocks have one.
    pub fn with_size(self, size: usize) -> Self {
        match self {
            Self::Order { .. } => Self::Order { size },
            Self::Random { .. } => Self::Random { size },
            Self::Sort { .. } => Self::Sort { size },
            Self::Average { .. } => Self::Average { size },
            Self::BoundSort { .. } => Self::BoundSort { size },
            Self::BoundAverage { .. } => Self::BoundAverage { size },
            Self::RedBlack(_) | Self::Forests(_) | Self::Explicit(_) => self,
        }
    }

    /// Coordinates of a block, if the blocks have a size.
    pub fn size(&self) -> Option<usize> {
        match *self {
            Self::Order { size }
            | Self::Random { size }
            | Self::Sort { size }
            | Self::Average { size }
            | Self::BoundSort { size }
            | Self::BoundAverage { size } => Some(size),
            Self::RedBlack(_) | Self::Forests(_) | Self::Explicit(_) => None,
        }
    }
}

/// The graph of the second derivatives: the other coordinates of each row of the bound.
pub(super) fn neighbours<P: SmoothProblem>(problem: &P, state: &P::State) -> Vec<Vec<usize>> {
    (0..problem.dimension())
        .map(|i| {
            let row = problem.curvature_row(state, Curvature::Bound, i);
            let others = row.into_iter().filter(|&(j, value)| j != i && value != 0.0);
            others.map(|(j, _)| j).collect()
        })
        .collect()
}

/// `Σ_j |H_ij|` of the bound, which is a diagonal upper bound of it.
pub(super) fn row_sums<P: SmoothProblem>(problem: &P, state: &P::State) -> Vec<f64> {
    (0..problem.dimension())
        .map(|i| {
            let row = problem.curvature_row(state, Curvature::Bound, i);
            row.iter().map(|(_, value)| value.abs()).sum()
        })
        .collect()
}

impl Partition {
    /// The blocks, each sorted.
    pub(super) fn blocks<P: SmoothProblem>(
        &self,
        problem: &P,
        state: &P::State,
        lipschitz: &[f64],
        noise: &mut SeededNoise,
    ) -> Result<Vec<Vec<usize>>, BlockDescentError> {
        let n = problem.dimension();
        match self {
            Self::Order { size } => chunks((0..n).collect(), *size),
            Self::Random { size } => {
                let mut order: Vec<usize> = (0..n).collect();
                order.shuffle(noise);
                chunks(order, *size)
            }
            Self::Sort { size } => chunks(rising(lipschitz), *size),
            Self::Average { size } => chunks(by_turns(rising(lipschitz)), *size),
            Self::BoundSort { size } => chunks(rising(&row_sums(problem, state)), *size),
            Self::BoundAverage { size } => {
                chunks(by_turns(rising(&row_sums(problem, state))), *size)
            }
            Self::RedBlack(deal) => {
                let order = deal_order(*deal, lipschitz);
                Ok(red_black_partition(&neighbours(problem, state), &order))
            }
            Self::Forests(deal) => {
                let order = deal_order(*deal, lipschitz);
                Ok(forest_partition(&neighbours(problem, state), &order))
            }
            Self::Explicit(blocks) => {
                check_cover("block", blocks, n)?;
                let mut blocks: Vec<Vec<usize>> =
                    blocks.iter().filter(|b| !b.is_empty()).cloned().collect();
                for block in &mut blocks {
                    block.sort_unstable();
                }
                Ok(blocks)
            }
        }
    }
}

fn deal_order(deal: DealOrder, lipschitz: &[f64]) -> Vec<usize> {
    match deal {
        DealOrder::Index => (0..lipschitz.len()).collect(),
        DealOrder::Lipschitz => falling(lipschitz),
    }
}

/// The indices of the numbers in ascending order; equal numbers keep their order.
pub(super) fn rising(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    order
}

/// The indices of the numbers in descending order; equal numbers keep their order.
pub(super) fn falling(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

/// The first, the last, the second, the last but one, and so on.
fn by_turns(order: Vec<usize>) -> Vec<usize> {
    let n = order.len();
    (0..n)
        .map(|i| {
            if i % 2 == 0 {
                order[i / 2]
            } else {
                order[n - 1 - i / 2]
            }
        })
        .collect()
}

fn chunks(order: Vec<usize>, size: usize) -> Result<Vec<Vec<usize>>, BlockDescentError> {
    check_size(size, order.len())?;
    Ok(order
        .chunks(size)
        .map(|block| {
            let mut block = block.to_vec();
            block.sort_unstable();
            block
        })
        .collect())
}

/// Checks that a block can have `size` of `dimension` coordinates.
pub(super) fn check_size(size: usize, dimension: usize) -> Result<(), BlockDescentError> {
    if (1..=dimension).contains(&size) {
        Ok(())
    } else {
        Err(BlockDescentError::BlockSize { size, dimension })
    }
}
