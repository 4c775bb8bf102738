//! Errors of block coordinate descent.

use nabla_base::range::OutOfRange;

/// The reason why a problem cannot be solved as asked.
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
    /// There are too few classes.
    #[error("softmax needs labels of at least 2 classes, but there are {0}")]
    Classes(usize),
    /// A weight or a tolerance is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There is no room between the bounds.
    #[error("the bounds are {low} and {high}, but the lower must be less than the upper")]
    Bounds {
        /// The lower.
        low: f64,
        /// The upper.
        high: f64,
    },
    /// The problem does not have the coordinate.
    #[error("a {name} has coordinate {coordinate}, but there are only {dimension}, counted from 0")]
    Coordinate {
        /// In what.
        name: &'static str,
        /// The coordinate.
        coordinate: usize,
        /// How many there are.
        dimension: usize,
    },
    /// The sets are not a partition.
    #[error("coordinate {coordinate} is in {times} {name}s, but it must be in 1")]
    Cover {
        /// What the sets are.
        name: &'static str,
        /// The coordinate.
        coordinate: usize,
        /// In how many.
        times: usize,
    },
    /// The number of values does not fit.
    #[error("the {name} has {found} numbers, but it must have {expected}")]
    Length {
        /// Of what.
        name: &'static str,
        /// How many it must have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// A matrix or graph cannot have this entry.
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
    /// The blocks are too small or too large.
    #[error("blocks of {size} coordinates were requested, but blocks can have 1 to {dimension}")]
    BlockSize {
        /// The requested number.
        size: usize,
        /// The most.
        dimension: usize,
    },
    /// There are not enough examples for this number of neighbours.
    #[error(
        "{count} nearest neighbours were requested, but the number must be at least 1 and less \
         than the number of examples, {examples}"
    )]
    Neighbours {
        /// The requested number.
        count: usize,
        /// How many examples there are.
        examples: usize,
    },
    /// No label reaches the node.
    #[error("node {0} is linked to no node with a known label")]
    Unreachable(usize),
    /// The blocks or the penalty do not allow the rule.
    #[error("the selection rule {rule} {why}")]
    Selection {
        /// The rule.
        rule: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// The penalty does not allow the update.
    #[error("the update {update} {why}")]
    Update {
        /// The update.
        update: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// A group is divided between blocks.
    #[error("a group penalty needs fixed blocks that consist of whole groups")]
    Groups,
    /// A block for message passing has a cycle.
    #[error("message passing needs blocks without cycles, but coordinate {coordinate} lies on one")]
    NotForest {
        /// A coordinate on it.
        coordinate: usize,
    },
    /// The matrix is not positive definite.
    #[error("the matrix is not positive definite at coordinate {coordinate}")]
    NotPositiveDefinite {
        /// Where.
        coordinate: usize,
    },
    /// The start is not finite, or outside the bounds.
    #[error(
        "coordinate {coordinate} of the start is {value}, but it must be finite and within the bounds"
    )]
    Start {
        /// The coordinate.
        coordinate: usize,
        /// Its value.
        value: f64,
    },
    /// The objective is no longer finite.
    #[error(
        "the objective is no longer finite: the problem's numbers are too large, or it has no \
         minimum"
    )]
    Diverged,
}
