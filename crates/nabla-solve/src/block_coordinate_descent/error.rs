//! Why there is no solution.

use nabla_base::range::OutOfRange;

/// Why a problem cannot be solved as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BlockDescentError {
    /// There is nothing to solve.
    #[error("the problem has no {0}")]
    Empty(&'static str),
    /// A label that is not −1 or 1.
    #[error("the label of example {example} is {label}, but it must be -1 or 1")]
    Label {
        /// The example, from 0.
        example: usize,
        /// Its label.
        label: f64,
    },
    /// Too few classes.
    #[error("softmax needs labels of at least 2 classes, but there are {0}")]
    Classes(usize),
    /// A weight or a tolerance out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Bounds without room between them.
    #[error("the bounds are {low} and {high}, but the lower must be less than the upper")]
    Bounds {
        /// The lower.
        low: f64,
        /// The upper.
        high: f64,
    },
    /// A coordinate that the problem does not have.
    #[error("a {name} has coordinate {coordinate}, but there are only {dimension}, counted from 0")]
    Coordinate {
        /// In what.
        name: &'static str,
        /// The coordinate.
        coordinate: usize,
        /// How many there are.
        dimension: usize,
    },
    /// Sets that are no partition.
    #[error("coordinate {coordinate} is in {times} {name}s, but it must be in 1")]
    Cover {
        /// What the sets are.
        name: &'static str,
        /// The coordinate.
        coordinate: usize,
        /// In how many.
        times: usize,
    },
    /// A number of values that does not fit.
    #[error("the {name} has {found} numbers, but it must have {expected}")]
    Length {
        /// Of what.
        name: &'static str,
        /// How many it must have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// An entry that a matrix or graph cannot have.
    #[error(
        "the entry ({i}, {j}) is {value}, but it must be finite, off the diagonal, and positive in a graph"
    )]
    Entry {
        /// Row.
        i: usize,
        /// Column.
        j: usize,
        /// Value.
        value: f64,
    },
    /// Blocks that are too small or too large.
    #[error("blocks of {size} coordinates were requested, but blocks can have 1 to {dimension}")]
    BlockSize {
        /// What was asked for.
        size: usize,
        /// The most.
        dimension: usize,
    },
    /// Neighbours of a graph that there are not.
    #[error(
        "{count} nearest neighbours were requested, but the number must be at least 1 and less \
         than the number of examples, {examples}"
    )]
    Neighbours {
        /// What was asked for.
        count: usize,
        /// How many examples there are.
        examples: usize,
    },
    /// A node that no label reaches.
    #[error("node {0} is linked to no node with a known label")]
    Unreachable(usize),
    /// A rule that the blocks or the penalty do not allow.
    #[error("the selection rule {rule} {why}")]
    Selection {
        /// The rule.
        rule: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// An update that the penalty does not allow.
    #[error("the update {update} {why}")]
    Update {
        /// The update.
        update: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// Blocks that tear a group apart.
    #[error("a group penalty needs fixed blocks that consist of whole groups")]
    Groups,
    /// A block for message passing with a cycle.
    #[error("message passing needs blocks without cycles, but coordinate {coordinate} lies on one")]
    NotForest {
        /// A coordinate on it.
        coordinate: usize,
    },
    /// A matrix that is not positive definite.
    #[error("the matrix is not positive definite at coordinate {coordinate}")]
    NotPositiveDefinite {
        /// Where.
        coordinate: usize,
    },
    /// A start that is not finite, or outside the bounds.
    #[error(
        "coordinate {coordinate} of the start is {value}, but it must be finite and within the bounds"
    )]
    Start {
        /// The coordinate.
        coordinate: usize,
        /// Its value.
        value: f64,
    },
    /// The objective has left the finite numbers.
    #[error(
        "the objective is no longer finite: the problem's numbers are too large, or it has no \
         minimum"
    )]
    Diverged,
}
