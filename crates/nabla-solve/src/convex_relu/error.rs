//! Why a two-layer network cannot be trained through its convex program.

use nabla_base::range::OutOfRange;

/// The reason; every message says what was found and what is expected.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConvexReluError {
    /// There is nothing to train on.
    #[error("there are no examples: at least one is needed")]
    Empty,
    /// The examples have no features.
    #[error("the examples have no features: at least one is needed")]
    NoFeatures,
    /// A row differs in length from the first.
    #[error("example {example} has {found} features, but the first has {expected}")]
    RowLength {
        /// The example, from 0.
        example: usize,
        /// Its features.
        found: usize,
        /// Features of the first.
        expected: usize,
    },
    /// The number of labels is not that of the examples.
    #[error("there are {found} labels for {expected} examples: one for each is needed")]
    LabelCount {
        /// Number of labels.
        found: usize,
        /// Number of examples.
        expected: usize,
    },
    /// A feature is NaN or infinite.
    #[error("feature {feature} of example {example} is {value}, but it must be finite")]
    NotFinite {
        /// The example, from 0.
        example: usize,
        /// The feature, from 0.
        feature: usize,
        /// The value.
        value: f64,
    },
    /// The loss is not defined for a label.
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
        /// The labels for which the loss is defined.
        expected: &'static str,
    },
    /// A number of the configuration is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There may be too many patterns.
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
    /// The program has no patterns.
    #[error("there are no activation patterns: at least one is needed")]
    NoPatterns,
    /// The patterns belong to other examples.
    #[error("the activation patterns are for {found} examples, but there are {expected}")]
    PatternLength {
        /// Of the patterns.
        found: usize,
        /// Of the problem.
        expected: usize,
    },
    /// The gated form needs patterns with known directions.
    #[error(
        "the gated form needs the directions of the activation patterns, but these patterns have \
         none: sample or enumerate them, or use the ReLU form"
    )]
    NoGates,
    /// The examples do not fit the network.
    #[error("the examples have {found} features, but {expected} are expected")]
    Features {
        /// Of the examples.
        found: usize,
        /// Of the network or problem.
        expected: usize,
    },
    /// The parts of the network do not fit together.
    #[error("this is not a two-layer network: {0}")]
    Network(String),
    /// The linear system would have more rows than allowed.
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
    /// Block descent was used with a loss that has kinks.
    #[error(
        "block descent needs a differentiable loss, and the hinge loss is not: use the factored \
         step"
    )]
    NotDifferentiable,
    /// A matrix cannot be factored.
    #[error("a matrix of the program cannot be factored ({0}): scale the features")]
    Factorization(String),
    /// The interior-point solver found no solution.
    #[error("the interior-point solver ended without a solution: {0}")]
    InteriorPoint(String),
    /// The steps lead to numbers that are not finite.
    #[error("the weights are no longer finite: lower the {0}")]
    Diverged(&'static str),
}
