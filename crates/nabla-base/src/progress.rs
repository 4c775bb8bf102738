//! Reporting the progress of a long job.

/// The receiver of a job's progress; a program shows it, a test ignores it.
///
/// A job calls [`begin`](ProgressSink::begin) for each of its stages and
/// [`advance`](ProgressSink::advance) within it.
pub trait ProgressSink: Send + Sync {
    /// Starts a stage of `steps` steps, and ends the previous one.
    fn begin(&self, stage: &str, steps: u64);
    /// Reports that `steps` more steps of the stage are done.
    fn advance(&self, steps: u64);
    /// Reports a remark for a log.
    fn note(&self, line: &str);
}

/// The progress sink that shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl ProgressSink for NoProgress {
    fn begin(&self, _stage: &str, _steps: u64) {}
    fn advance(&self, _steps: u64) {}
    fn note(&self, _line: &str) {}
}
