//! `nabla claims`: the experiments that measure what the papers claim.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::write_bytes_atomically;
use nabla::claims::report::insert_method_table;
use nabla::claims::{
    Claim, ClaimContext, ClaimResult, Experiments, RunError, Verdict, read_results, run_claims,
    write_report,
};
use serde::Serialize;

use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Of, Report, jobs};
use nabla::base::words::{count, duration};

/// The experiments of all families.
fn experiments() -> Experiments {
    Experiments::of([
        nabla_align_experiments::EXPERIMENTS,
        nabla_optim_experiments::EXPERIMENTS,
        nabla_solve_experiments::EXPERIMENTS,
        nabla_diffusion_experiments::EXPERIMENTS,
        nabla_panorama_experiments::EXPERIMENTS,
        nabla_physics_experiments::EXPERIMENTS,
        nabla_private_experiments::EXPERIMENTS,
        nabla_probe_experiments::EXPERIMENTS,
        nabla_share_experiments::EXPERIMENTS,
    ])
}

jobs! {
    /// What can be done with claims.
    pub enum Task {
        /// List the claims that can be run, and their results
        List(Of<ListArguments>),
        /// Measure claims: the method and its baselines on the same data, over several seeds. An interrupted run
        /// continues where it stopped
        Run(Of<RunArguments>),
        /// Render the results to RESULTS.md and, if asked for, an HTML page
        Report(Of<ReportArguments>),
    }
}

/// The command line of `nabla claims list`.
#[derive(Args)]
pub struct ListArguments {
    /// The folder with the results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

/// The command line of `nabla claims run`.
#[derive(Args)]
pub struct RunArguments {
    /// The methods, by their names in `nabla claims list`; without SLUG, all of them
    #[arg(value_name = "SLUG")]
    slugs: Vec<String>,
    /// Only check, in seconds, that the experiments work; no results are stored
    #[arg(long)]
    quick: bool,
    /// Seeds, one run each [default: those of each experiment, usually 0,1,2; with --quick only the first]
    #[arg(long, value_name = "SEED,..", value_delimiter = ',')]
    seeds: Vec<u64>,
    #[command(flatten)]
    device: DeviceFlag,
    /// The folder that the results are written to
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// The folder with the repository's pictures and data sets
    #[arg(long, value_name = "DIR", default_value = "assets")]
    assets: PathBuf,
}

/// The command line of `nabla claims report`.
#[derive(Args)]
pub struct ReportArguments {
    /// The folder with the results
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
    /// The Markdown file to write
    #[arg(long, value_name = "FILE", default_value = "RESULTS.md")]
    markdown: PathBuf,
    /// An HTML page to write as well, with all plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A document in which to update the table of methods, between its two marker lines
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
}

impl Job for ListArguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        list(self, context)
    }
}

impl Job for RunArguments {
    const JSON: Option<&'static str> = Some("Print the results as JSON");
    const MAY_WAIT: bool = true;

    fn run(&self, context: &Context) -> Result<Report, Failure> {
        measure(self, context)
    }
}

impl Job for ReportArguments {
    const JSON: Option<&'static str> = None;

    fn run(&self, context: &Context) -> Result<Report, Failure> {
        report(self, context)
    }
}

#[derive(Serialize)]
struct Listed {
    slug: String,
    claim: String,
    criterion: String,
    verdict: Option<Verdict>,
}

fn list(arguments: &ListArguments, context: &Context) -> Result<Report, Failure> {
    let folder = read_results(&arguments.results)?;
    for problem in &folder.problems {
        context.note(&problem.to_string());
    }
    let listed: Vec<Listed> = experiments()
        .iter()
        .map(|claim| Listed {
            slug: claim.slug().to_owned(),
            claim: claim.statement().to_owned(),
            criterion: claim.criterion().to_owned(),
            verdict: folder.result(claim.slug()).map(|result| result.verdict),
        })
        .collect();
    context.report(&listed, || {
        let mut text = String::new();
        for Listed {
            slug,
            claim,
            criterion,
            verdict,
        } in &listed
        {
            let verdict = verdict.map_or("not measured", Verdict::words);
            text.push_str(&format!(
                "{slug}: {verdict}\n  claim:     {claim}\n  criterion: {criterion}\n"
            ));
        }
        if listed.is_empty() {
            text.push_str("no method has a claim that can be run yet\n");
        }
        text
    })
}

fn measure(arguments: &RunArguments, context: &Context) -> Result<Report, Failure> {
    let experiments = experiments();
    let chosen: Vec<&dyn Claim> = if arguments.slugs.is_empty() {
        experiments.iter().collect()
    } else {
        let slugs = arguments.slugs.iter();
        let found = slugs.map(|slug| experiments.find(slug));
        found.collect::<Result<_, _>>()?
    };
    let progress = context.progress();
    let device = arguments.device.open()?;
    let mut claim_context = if arguments.quick {
        ClaimContext::quick(device, progress)
    } else {
        ClaimContext::new(device, progress)
    }
    .with_assets(&arguments.assets);
    if !arguments.seeds.is_empty() {
        claim_context = claim_context.with_seeds(arguments.seeds.clone());
    }
    claim_context.validate()?;
    if !arguments.quick {
        // A long run must not end in a folder that cannot be written.
        check_folder(&arguments.results)?;
    }
    let summary = run_claims(chosen, &claim_context, Some(&arguments.results), |slug| {
        progress.note(&format!("{slug} ..."));
    });
    progress.finish();
    let results: Vec<&ClaimResult> = summary.results.iter().map(|(r, _)| r).collect();
    let report = context.report(&results, || {
        let texts = summary.results.iter();
        let texts: Vec<String> = texts.map(|(r, path)| text(r, path.as_deref())).collect();
        texts.concat()
    })?;
    let failures: Vec<String> = summary
        .failures
        .iter()
        .map(|(slug, error)| format!("{slug}: {error}"))
        .collect();
    let failure = match summary.failures.into_iter().next() {
        None => None,
        Some((_, RunError::Claim(error))) if failures.len() == 1 => Some(error.into()),
        Some(_) => Some(Failure::run(failures.join("; "))),
    };
    Ok(report.ending_in(failure))
}

fn check_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|e| {
        Failure::input_because(format!("cannot write results to {}", folder.display()), e)
    })?;
    nabla::base::check_writable(&folder.join("claim.json"))?;
    Ok(())
}

fn text(result: &ClaimResult, path: Option<&Path>) -> String {
    let mut text = format!(
        "{}: {} ({}, {})\n",
        result.slug,
        result.verdict.words(),
        duration(result.seconds),
        result.device
    );
    for (title, headline) in [("headlines", true), ("details", false)] {
        let chosen = || result.checks.iter().filter(|c| c.headline == headline);
        if chosen().next().is_some() {
            text.push_str(&format!("  {title}:\n"));
        }
        for check in chosen() {
            let mark = if check.holds {
                "holds"
            } else {
                "does not hold"
            };
            text.push_str(&format!("    {mark}: {} ({})\n", check.text, check.detail));
        }
    }
    for note in &result.notes {
        text.push_str(&format!("  {note}\n"));
    }
    match path {
        Some(path) => text.push_str(&format!("  written to {}\n", path.display())),
        None if result.quick => text.push_str("  a quick run: its numbers are not results\n"),
        None => {}
    }
    text
}

fn report(arguments: &ReportArguments, context: &Context) -> Result<Report, Failure> {
    let document = match &arguments.readme {
        None => None,
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|e| {
                Failure::input_because(format!("cannot read {}", path.display()), e)
            })?;
            Some((path, text))
        }
    };
    let folder = write_report(
        &arguments.results,
        &arguments.markdown,
        arguments.html.as_deref(),
    )?;
    for problem in &folder.problems {
        context.note(&problem.to_string());
    }
    let files = match &arguments.html {
        None => arguments.markdown.display().to_string(),
        Some(html) => format!("{} and {}", arguments.markdown.display(), html.display()),
    };
    let mut text = format!("{} in {files}\n", count(folder.results.len(), "result"));
    if let Some((path, document)) = document {
        let document = insert_method_table(&document, &folder)?;
        write_bytes_atomically(path, document.as_bytes())?;
        text.push_str(&format!("table of methods in {}\n", path.display()));
    }
    let failure = (!folder.problems.is_empty()).then(|| {
        Failure::input(format!(
            "{} files in {} are not results",
            folder.problems.len(),
            arguments.results.display()
        ))
    });
    Ok(Report::of_text(text).ending_in(failure))
}
