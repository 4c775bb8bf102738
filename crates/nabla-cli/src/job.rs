//! The trait of a job, and everything that all jobs share.
//!
//! A job is a struct of [arguments](Args) with a [`run`](Job::run) that gets a [`Context`] and returns a
//! [`Report`]. This module handles what is the same for every job: `--json`, the progress, the output and
//! interrupts. A new job is a file and a line in `main.rs`.

use std::cell::RefCell;
use std::ops::ControlFlow;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use nabla::base::progress::ProgressSink;
use nabla::kernels::threads::compute_here;
use serde::Serialize;

use crate::errors::Failure;
use crate::interrupt;
use crate::output::{json_text, print};
use crate::progress::Progress;

/// The arguments of a job, and how to run it.
pub trait Job: Args {
    /// The help text of `--json`; `None` for a job without JSON output.
    const JSON: Option<&'static str> = Some("Print JSON");

    /// Whether the job may start threads that do the work, so that its own one only waits.
    const MAY_WAIT: bool = false;

    /// Runs the job.
    fn run(&self, context: &Context) -> Result<Report, Failure>;
}

/// What a job gets besides its arguments.
pub struct Context {
    json: bool,
    progress: Progress,
    /// Notes to print at the end.
    notes: RefCell<Vec<String>>,
}

impl Context {
    fn new(json: bool) -> Self {
        Self {
            json,
            progress: Progress::new(),
            notes: RefCell::default(),
        }
    }

    /// The display of the job's progress.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Prints a line on standard error.
    pub fn note(&self, text: &str) {
        self.progress.note(&format!("nabla: {text}"));
    }

    /// Prints a line when the job is done. If the job is refused, the refusal is the only line.
    pub fn note_at_end(&self, text: &str) {
        self.notes.borrow_mut().push(text.to_owned());
    }

    /// Prints at once that a part of the job is done, but not with `--json`, where one report has everything.
    pub fn part_done(&self, text: &str) -> Result<(), Failure> {
        match self.json {
            true => Ok(()),
            false => print(text),
        }
    }

    /// The report of the results: `value` as JSON, or `text` for people.
    pub fn report(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<Report, Failure> {
        Ok(Report::of_text(match self.json {
            true => json_text(value)?,
            false => text(),
        }))
    }

    /// The answer of an observer: whether to continue.
    pub fn go_on(&self) -> ControlFlow<()> {
        match interrupt::received() {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    }

    /// Returns an error if the work was interrupted, so that no result is made of it.
    pub fn check(&self) -> Result<(), Failure> {
        match interrupt::received() {
            Some(_) => Err(Failure::interrupted()),
            None => Ok(()),
        }
    }
}

/// The output of a job, and whether the job failed in spite of it.
#[derive(Debug)]
pub struct Report {
    text: String,
    end: Result<(), Failure>,
}

impl Report {
    /// The same text for people and programs, such as a file that the job prints.
    pub fn of_text(text: String) -> Self {
        Self { text, end: Ok(()) }
    }

    /// Adds a failure; the report is still printed.
    pub fn ending_in(self, failure: Option<Failure>) -> Self {
        Self {
            end: failure.map_or(Ok(()), Err),
            ..self
        }
    }
}

/// Something that the command line can run: a job, or a choice of jobs.
pub trait Run {
    /// Runs it, and prints the results.
    fn run(&self) -> Result<(), Failure>;
}

/// A job with the flags that all jobs share.
pub struct Flagged<J> {
    job: J,
    json: bool,
}

/// A job as a variant of a [choice](jobs).
pub type Of<J> = Box<Flagged<J>>;

impl<J: Job> Run for Flagged<J> {
    fn run(&self) -> Result<(), Failure> {
        if !J::MAY_WAIT {
            compute_here();
        }
        let context = Context::new(self.json);
        let report = self.job.run(&context)?;
        context.progress.finish();
        context.notes.take().iter().for_each(|n| context.note(n));
        print(&report.text)?;
        report.end
    }
}

impl<R: Run> Run for Box<R> {
    fn run(&self) -> Result<(), Failure> {
        R::run(self)
    }
}

const JSON: &str = "json";

fn with_flags<J: Job>(command: Command) -> Command {
    match J::JSON {
        Some(help) => {
            let json = Arg::new(JSON).long(JSON).action(ArgAction::SetTrue);
            command.arg(json.help(help))
        }
        None => command,
    }
}

impl<J: Job> Args for Flagged<J> {
    fn augment_args(command: Command) -> Command {
        with_flags::<J>(J::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        with_flags::<J>(J::augment_args_for_update(command))
    }
}

impl<J: Job> FromArgMatches for Flagged<J> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            job: J::from_arg_matches(matches)?,
            json: J::JSON.is_some() && matches.get_flag(JSON),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.job.update_from_arg_matches(matches)?;
        self.json = J::JSON.is_some() && matches.get_flag(JSON);
        Ok(())
    }
}

/// A choice of jobs: an enum in which each variant is a subcommand, with the first line of its help.
macro_rules! jobs {
    (
        $(#[$about:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$line:meta])* $variant:ident($($job:tt)*),)*
        }
    ) => {
        $(#[$about])*
        #[derive(clap::Subcommand)]
        $visibility enum $name {
            $($(#[$line])* $variant($($job)*),)*
        }

        impl $crate::job::Run for $name {
            fn run(&self) -> Result<(), $crate::errors::Failure> {
                match self {
                    $(Self::$variant(job) => $crate::job::Run::run(job),)*
                }
            }
        }
    };
}
pub(crate) use jobs;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// A job, as short as one is.
    #[derive(Args)]
    struct Doubled {
        number: u8,
    }

    impl Job for Doubled {
        const MAY_WAIT: bool = true;

        fn run(&self, context: &Context) -> Result<Report, Failure> {
            let double = self.number.checked_mul(2);
            let double = double.ok_or_else(|| Failure::input("the number is at most 127"))?;
            context.report(&[double], || format!("{double}\n"))
        }
    }

    /// One that has nothing for programs.
    #[derive(Args)]
    struct Silent {}

    impl Job for Silent {
        const JSON: Option<&'static str> = None;
        const MAY_WAIT: bool = true;

        fn run(&self, _: &Context) -> Result<Report, Failure> {
            let failure = Some(Failure::run("no report"));
            Ok(Report::of_text(String::new()).ending_in(failure))
        }
    }

    jobs! {
        /// Both.
        enum Task {
            /// Doubles
            Double(Of<Doubled>),
            /// Says nothing
            Silent(Of<Silent>),
        }
    }

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        task: Task,
    }

    fn parsed(line: &str) -> Result<Task, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.task)
    }

    #[test]
    fn every_job_has_json_unless_it_says_that_it_has_none() {
        for (line, json) in [("x double 4", false), ("x double 4 --json", true)] {
            let Ok(Task::Double(job)) = parsed(line) else {
                panic!("{line}");
            };
            let context = Context::new(job.json);
            assert_eq!(job.json, json);
            let text = job.job.run(&context).unwrap().text;
            assert_eq!(text, if json { "[\n  8\n]\n" } else { "8\n" });
        }
        assert!(parsed("x silent").is_ok());
        assert!(parsed("x silent --json").is_err());
    }

    #[test]
    fn a_report_may_end_in_a_failure() {
        let told = |line: &str| parsed(line).unwrap().run().unwrap_err().to_string();
        assert_eq!(told("x silent"), "no report");
        assert_eq!(told("x double 200"), "the number is at most 127");
    }
}
