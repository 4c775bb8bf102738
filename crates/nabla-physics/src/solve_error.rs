//! Why an equation cannot be solved.

use nabla_base::range::OutOfRange;

/// Why an equation cannot be solved, or there is no gradient.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SolveError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There are fewer than two times.
    #[error(
        "{0} times are no interval: the first is that of the initial state, and at least one must follow"
    )]
    TooFewTimes(usize),
    /// The times do not rise.
    #[error(
        "time {index} (from 0) is {time}, but it must be finite and greater than the one before, {before}"
    )]
    TimesDoNotRise {
        /// Which, from 0.
        index: usize,
        /// The time.
        time: f64,
        /// The time before, NaN for the first.
        before: f64,
    },
    /// An event lies outside of the interval.
    #[error(
        "an event at the time {time} lies outside of the interval from {start} to {end}, without its ends"
    )]
    EventOutside {
        /// Of the event.
        time: f64,
        /// Of the interval.
        start: f64,
        /// Of the interval.
        end: f64,
    },
    /// There is no state.
    #[error("a state of the shape {0:?} has no numbers")]
    Empty([usize; 2]),
    /// The initial state is not finite.
    #[error(
        "the initial state has the value {value} in row {row} and column {column} (from 0), but it must be finite"
    )]
    State {
        /// The trajectory, from 0.
        row: usize,
        /// The component, from 0.
        column: usize,
        /// The number.
        value: f64,
    },
    /// The field has another shape than the state.
    #[error(
        "the field has the shape {found:?} at a state of the shape {expected:?}, but it must have the same"
    )]
    FieldShape {
        /// Of the state.
        expected: [usize; 2],
        /// Of the field.
        found: [usize; 2],
    },
    /// The field has another number type than the state.
    #[error(
        "the field has numbers of the type {found} at a state of {expected}, but it must have the same"
    )]
    FieldType {
        /// Of the state.
        expected: String,
        /// Of the field.
        found: String,
    },
    /// The field is not finite.
    #[error("the field is not finite at the time {time} in trajectory {trajectory} (from 0)")]
    NotFinite {
        /// The time.
        time: f64,
        /// The trajectory, from 0.
        trajectory: usize,
    },
    /// The step became too small.
    #[error(
        "the step underflows at the time {time}: {length} is too short to tell from it, so the tolerance is too small for \
         the number type, or the solution has a singularity (trajectory {trajectory}, from 0)"
    )]
    Underflow {
        /// The time.
        time: f64,
        /// Of the step.
        length: f64,
        /// The trajectory, from 0.
        trajectory: usize,
    },
    /// There were too many steps.
    #[error(
        "the time {time} was reached after {steps} steps, which are the most that are allowed: the equation may be stiff"
    )]
    TooManySteps {
        /// The time reached.
        time: f64,
        /// The number of steps.
        steps: usize,
    },
    /// A fixed step without its length.
    #[error("steps of one length need that length: set the first step")]
    NoLength,
    /// The tableau is none.
    #[error("the tableau `{name}` is no explicit method: {what}")]
    Tableau {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// The linear system of a step has no solution.
    #[error(
        "the matrix I/(γh) − J of a step has no inverse at the time {time} in trajectory {trajectory} (from 0)"
    )]
    Singular {
        /// The time.
        time: f64,
        /// The trajectory, from 0.
        trajectory: usize,
    },
    /// The field holds what requires gradients besides its parameters.
    #[error(
        "the field depends on tensors that require gradients and are none of its parameters: give them as `parameters`, or \
         as a module"
    )]
    HiddenParameters,
    /// The event depends on what requires gradients.
    #[error(
        "the event at the time {0} depends on tensors that require gradients, which events cannot have"
    )]
    HiddenInEvent(f64),
    /// Gradients on another device.
    #[error(
        "gradients through a solver are computed on the processor (`Device::flex()`), but the state is on {0}"
    )]
    Device(String),
    /// A method and an adjoint that do not go together.
    #[error("the gradient by {adjoint} is not there for {method}: take the discrete one")]
    NoAdjoint {
        /// The adjoint.
        adjoint: &'static str,
        /// The method.
        method: &'static str,
    },
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Read(String),
}
