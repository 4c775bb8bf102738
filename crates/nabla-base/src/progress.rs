//! Where a long job says how far it is.

/// Where a job says how far it is; a program shows it, a test ignores it.
///
/// A job calls [`begin`](ProgressSink::begin) for each of its stages and
/// [`advance`](ProgressSink::advance) within it.
pub trait ProgressSink: Send + Sync {
    /// A stage of `steps` steps begins, ending the one before.
    fn begin(&self, stage: &str, steps: u64);
    /// `steps` further steps of the stage are done.
    fn advance(&self, steps: u64);
    /// A remark that belongs in a log.
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
