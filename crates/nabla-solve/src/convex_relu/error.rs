//! Why a two-layer network cannot be trained through its convex program.

use nabla_base::range::OutOfRange;

/// The reason; every message says what was found and what is expected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConvexReluError {
    /// There is nothing to train on.
    #[error("there are no examples: at least one is needed")]
    Empty,
    /// Examples without numbers.
    #[error("the examples have no features: at least one is needed")]
    NoFeatures,
    /// A row of another length than the first.
    #[error("example {example} has {found} features, but the first has {expected}")]
    RowLength {
        /// The example, from 0.
        example: usize,
        /// Its features.
        found: usize,
        /// Features of the first.
        expected: usize,
    },
    /// Not one label for each example.
    #[error("there are {found} labels for {expected} examples: one for each is needed")]
    LabelCount {
        /// Number of labels.
        found: usize,
        /// Number of examples.
        expected: usize,
    },
    /// A feature that is NaN or infinite.
    #[error("feature {feature} of example {example} is {value}, but it must be finite")]
    NotFinite {
        /// The example, from 0.
        example: usize,
        /// The feature, from 0.
        feature: usize,
        /// The value.
        value: f64,
    },
    /// A label that the loss is not defined for.
    #[error(
        "the label of example {example} is {label}, but for the {loss} loss it must be {expected}"
    )]
    Label {
        /// The example, from 0.
        example: usize,
        /// Its label.
        label: f64,
        /// Name of the loss.
        loss: &'static str,
        /// What the loss takes.
        expected: &'static str,
    },
    /// A number of the configuration out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// More patterns than are wanted.
    #[error(
        "{examples} examples of rank {rank} have up to {bound} activation patterns, more than the \
         limit of {limit}: sample patterns instead"
    )]
    TooManyPatterns {
        /// Number of examples.
        examples: usize,
        /// Rank of their matrix.
        rank: usize,
        /// The most patterns there can be.
        bound: f64,
        /// The limit.
        limit: usize,
    },
    /// A program without patterns.
    #[error("there are no activation patterns: at least one is needed")]
    NoPatterns,
    /// Patterns of other examples.
    #[error("the activation patterns are for {found} examples, but there are {expected}")]
    PatternLength {
        /// Of the patterns.
        found: usize,
        /// Of the problem.
        expected: usize,
    },
    /// The gated form with patterns of which no direction is known that makes them.
    #[error(
        "the gated form needs the directions of the activation patterns, but these patterns have \
         none: sample or enumerate them, or use the ReLU form"
    )]
    NoGates,
    /// Examples of another kind than the network's.
    #[error("the examples have {found} features, but {expected} are expected")]
    Features {
        /// Of the examples.
        found: usize,
        /// Of the network or problem.
        expected: usize,
    },
    /// A network whose parts do not fit.
    #[error("this is not a two-layer network: {0}")]
    Network(String),
    /// A linear system of more rows than allowed.
    #[error(
        "the factorisation would have {side} rows, more than the limit of {limit}: use block \
         descent, fewer patterns or a higher limit"
    )]
    TooLarge {
        /// Rows.
        side: usize,
        /// The limit.
        limit: usize,
    },
    /// Block descent on a loss with kinks.
    #[error(
        "block descent needs a differentiable loss, and the hinge loss is not: use the factored \
         step"
    )]
    NotDifferentiable,
    /// A matrix cannot be factored.
    #[error("a matrix of the program cannot be factored ({0}): scale the features")]
    Factorization(String),
    /// The interior-point solver gave up.
    #[error("the interior-point solver ended without a solution: {0}")]
    InteriorPoint(String),
    /// The steps have left the finite numbers.
    #[error("the weights are no longer finite: lower the {0}")]
    Diverged(&'static str),
}
