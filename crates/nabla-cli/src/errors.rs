//! What a job ends with when it cannot be done, and the exit code that tells it.

use std::any::Any;
use std::fmt::Display;
use std::panic;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use nabla::base::OutputError;
use nabla::claims::report::ReportError;
use nabla::claims::{ClaimError, ResultError};
use nabla::data::{DataSetError, ImageFileError};
use nabla::diffusion::prior::PriorError;
use nabla::diffusion::stable_diffusion::model_folder::ModelFolderError;
use nabla::panorama::{
    CubemapError, MetricError, OmniSsrError, ResampleError, TangentError, TangentGridError,
};

/// Why a job was not done, in one line.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The input or the command line is wrong: whoever called can mend it.
    #[error("{0}")]
    Input(String),
    /// The job failed while it ran.
    #[error("{0}")]
    Run(String),
}

/// One line of a message that may have several.
fn line(message: &impl Display) -> String {
    let text = message.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Failure {
    /// A wrong input or command line.
    pub fn input(message: impl Display) -> Self {
        Self::Input(line(&message))
    }

    /// A failure of the job itself.
    pub fn run(message: impl Display) -> Self {
        Self::Run(line(&message))
    }

    /// What clap says about a command line, without its usage and tips.
    pub fn usage(error: &clap::Error) -> Self {
        let text = error.to_string();
        let told: Vec<&str> = text
            .lines()
            .map(str::trim)
            .take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"))
            .filter(|l| !l.is_empty() && !l.starts_with("tip:"))
            .collect();
        let told = told.join(" ");
        Self::input(told.strip_prefix("error: ").unwrap_or(&told))
    }

    /// The exit code of the program.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Run(_) => 1,
            Self::Input(_) => 2,
        })
    }
}

/// Errors that say what is wrong with a file or a size that the caller chose.
macro_rules! input {
    ($($error:ty),+) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::input(error)
            }
        })+
    };
}

input!(
    CubemapError,
    DataSetError,
    ImageFileError,
    MetricError,
    ModelFolderError,
    OmniSsrError,
    OutputError,
    PriorError,
    ReportError,
    ResampleError,
    ResultError,
    TangentError,
    TangentGridError
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

/// Where the last panic happened, which the panic itself does not carry.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Keeps panics from writing to the standard error: some are caught on purpose (a damaged image, a
/// device without its driver), and the others are told by [`told_panic`].
pub fn quiet_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
}

/// What a panic said, in one line.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    line(&nabla::base::words::panic_message(panic))
}

/// The failure that a panic becomes when nothing else caught it.
pub fn told_panic(panic: &(dyn Any + Send)) -> Failure {
    let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let place = place
        .map(|place| format!(" at {place}"))
        .unwrap_or_default();
    Failure::run(format!(
        "nabla stopped by a fault of its own, please report it: {}{place}",
        panic_message(panic)
    ))
}
