//! The failure of a job, and the exit code for each kind of failure.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use nabla::base::OutputError;
use nabla::claims::report::ReportError;
use nabla::claims::{ClaimError, ResultError};
use nabla::data::{DataSetError, ImageFileError};
use nabla::diffusion::prior::PriorError;
use nabla::diffusion::stable_diffusion::model_folder::ModelFolderError;
use nabla::diffusion::stable_diffusion::pipeline::StableDiffusionError;
use nabla::panorama::projection_files::ProjectionFileError;
use nabla::panorama::{
    CubemapError, MetricError, OmniSsrError, OpenPriorError, ResampleError, TangentError,
    TangentGridError,
};
use nabla::solve::block_coordinate_descent::BlockDescentError;
use nabla::solve::convex_relu::ConvexReluError;
use nabla::solve::model::ModelError;
use nabla::solve::normalized_lr::SeparatorError;

use crate::interrupt::INTERRUPTED;
use crate::wrong_value;

/// The kind of a failure, which determines the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The job failed while it ran: 1.
    Run,
    /// The input or the command line is wrong, so the caller can fix it: 2.
    Input,
    /// The user interrupted the program: 130.
    Interrupted,
}

/// The reason why a job was not done: the error, which is displayed on one line with all its causes.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    source: Box<dyn Error + Send + Sync>,
}

/// The action attempted, for errors that state only the cause.
#[derive(Debug, thiserror::Error)]
#[error("{tried}")]
struct Tried {
    tried: String,
    source: Box<dyn Error + Send + Sync>,
}

/// An error and its causes, outermost first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Whether an error or one of its causes is a cancellation. When an observer stops the work, the input is not
/// at fault, however many errors wrap the cancellation.
fn is_cancellation(error: &(dyn Error + 'static)) -> bool {
    let omnissr = |e: &OmniSsrError| matches!(e, OmniSsrError::Cancelled);
    let stable_diffusion = |e: &StableDiffusionError| matches!(e, StableDiffusionError::Cancelled);
    chain(error).any(|error| {
        error.downcast_ref().is_some_and(omnissr)
            || error.downcast_ref().is_some_and(stable_diffusion)
    })
}

impl Failure {
    /// A failure of this kind, or an interrupt if the error is a cancellation.
    fn new(kind: Kind, source: Box<dyn Error + Send + Sync>) -> Self {
        let kind = match is_cancellation(source.as_ref()) {
            true => Kind::Interrupted,
            false => kind,
        };
        Self { kind, source }
    }

    /// A wrong input or command line.
    pub fn input(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Kind::Input, source.into())
    }

    /// A wrong input, with what was tried, for errors that don't say it.
    pub fn input_because(
        tried: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::input(Tried {
            tried: tried.into(),
            source: source.into(),
        })
    }

    /// A failure of the job itself.
    pub fn run(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Kind::Run, source.into())
    }

    /// A failure of the job itself, with what was tried, for errors that don't say it.
    pub fn run_because(
        tried: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::run(Tried {
            tried: tried.into(),
            source: source.into(),
        })
    }

    /// An interrupt by the user.
    pub fn interrupted() -> Self {
        Self {
            kind: Kind::Interrupted,
            source: "interrupted".into(),
        }
    }

    /// Clap's error about a command line, without the usage and the tips.
    pub fn usage(error: &clap::Error) -> Self {
        let text = wrong_value::told(error);
        let said: Vec<&str> = text
            .lines()
            .map(str::trim)
            .take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"))
            .filter(|l| !l.is_empty() && !l.starts_with("tip:"))
            .collect();
        let said = said.join(" ");
        Self::input(said.strip_prefix("error: ").unwrap_or(&said).to_owned())
    }

    /// The kind of this failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The exit code of the program.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Run => 1,
            Kind::Input => 2,
            Kind::Interrupted => INTERRUPTED,
        })
    }
}

/// The error and all its causes on one line. A cause that the error already displays is not repeated.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        for error in chain(self.source.as_ref()) {
            let text = error.to_string();
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            match line.is_empty() {
                true => line = text,
                false if line.contains(&text) => {}
                false => line = format!("{line}: {text}"),
            }
        }
        f.write_str(&line)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// Errors about a file or a size that the caller chose.
macro_rules! input {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::input(error)
            }
        })+
    };
}

input!(
    CubemapError,
    ProjectionFileError,
    DataSetError,
    ImageFileError,
    MetricError,
    ModelFolderError,
    OmniSsrError,
    OpenPriorError,
    OutputError,
    PriorError,
    ReportError,
    ResampleError,
    ResultError,
    SeparatorError,
    TangentError,
    TangentGridError,
);

/// Errors with some variants for a failed job, and the others for a wrong input.
macro_rules! run_or_input {
    ($($error:ty: $run:pat),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                match error {
                    $run => Self::run(error),
                    _ => Self::input(error),
                }
            }
        })+
    };
}

run_or_input!(
    BlockDescentError: BlockDescentError::Diverged,
    ConvexReluError: ConvexReluError::Factorization(_)
        | ConvexReluError::InteriorPoint(_)
        | ConvexReluError::Diverged(_),
    ModelError: ModelError::Json(_),
);

impl From<ClaimError> for Failure {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Unknown { .. }
            | ClaimError::Planned(_)
            | ClaimError::TooFewSeeds { .. }
            | ClaimError::RepeatedSeed(_)
            | ClaimError::Asset { .. } => Self::input(error),
            other => Self::run(other),
        }
    }
}

/// Where the last panic happened, which the panic's payload does not contain.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Keeps panics from writing to standard error: some are caught on purpose (a damaged image, a
/// device without its driver), and the others become a [failure](of_panic).
pub fn quiet_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
}

/// The message of a panic, on one line.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = nabla::base::words::panic_message(panic);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The failure for a panic that nothing else caught.
pub fn of_panic(panic: &(dyn Any + Send)) -> Failure {
    let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let place = place
        .map(|place| format!(" at {place}"))
        .unwrap_or_default();
    Failure::run(format!(
        "nabla stopped because of a bug; please report it: {}{place}",
        panic_message(panic)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_broken_off_is_no_wrong_input() {
        let panorama = || OmniSsrError::Cancelled;
        for failure in [
            Failure::from(panorama()),
            Failure::input(panorama()),
            Failure::run(panorama()),
            Failure::input_because("a.png cannot be upscaled", panorama()),
            Failure::from(StableDiffusionError::Cancelled),
            Failure::from(ClaimError::Experiment(Box::new(panorama()))),
            Failure::interrupted(),
        ] {
            assert_eq!(failure.kind(), Kind::Interrupted, "{failure}");
            assert_eq!(failure.exit_code(), ExitCode::from(130));
        }
        let other = OmniSsrError::PlaneSide {
            multiple: 8,
            side: 12,
        };
        assert_eq!(Failure::from(other).kind(), Kind::Input);
        assert_eq!(Failure::from(BlockDescentError::Diverged).kind(), Kind::Run);
        let empty = BlockDescentError::Empty("examples");
        assert_eq!(Failure::from(empty).kind(), Kind::Input);
    }

    #[test]
    fn a_failure_is_one_line_that_says_everything_once() {
        let source = std::io::Error::other("the disk\n  is full");
        let failure = Failure::run_because("cannot write a.csv", source);
        assert_eq!(failure.to_string(), "cannot write a.csv: the disk is full");
        // This one shows its source by itself.
        let shown = OutputError::Io {
            path: "a.csv".into(),
            source: std::io::Error::other("the disk is full"),
        };
        let told = Failure::from(shown).to_string();
        assert_eq!(told.matches("the disk is full").count(), 1, "{told}");
        // The error itself is still there.
        let failure = Failure::from(SeparatorError::Empty);
        let source = failure.source().and_then(|e| e.downcast_ref());
        assert_eq!(source, Some(&SeparatorError::Empty));
    }
}
