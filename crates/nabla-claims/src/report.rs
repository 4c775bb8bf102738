//! Renders the results: `RESULTS.md`, a self-contained HTML page, the method tables of the
//! README and of `nabla list`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use nabla_base::methods::{METHODS, Paper, method};
use nabla_base::words::duration;
use nabla_base::write_bytes_atomically;

use crate::measurement::Check;
use crate::names::{Metric, Task, Variant};
use crate::plot::PlotError;
use crate::result::{ClaimResult, ResultError, Verdict, read_result};
use crate::table::Table;

mod html;
mod methods;

pub use html::render_html;
pub use methods::{
    TABLE_BEGIN, TABLE_END, insert_method_table, method_table_markdown, method_table_text,
};

/// The contents of a folder of results.
#[derive(Debug, Default)]
pub struct ResultsFolder {
    /// The valid results, in the order of [`METHODS`], others after them by slug.
    pub results: Vec<ClaimResult>,
    /// The errors of the other `.json` files; each names its file.
    pub problems: Vec<ResultError>,
}

impl ResultsFolder {
    /// The result of a method, if it has a valid one.
    pub fn result(&self, slug: &str) -> Option<&ClaimResult> {
        self.results.iter().find(|result| result.slug == slug)
    }
}

/// Reads all results of a folder. A file that is not a valid result does not hide the others: it
/// becomes one of the [`problems`](ResultsFolder::problems). A folder that does not exist counts as empty.
///
/// # Errors
/// [`ResultError::Io`] if the folder exists but cannot be listed.
pub fn read_results(folder: &Path) -> Result<ResultsFolder, ResultError> {
    let io = |source| ResultError::Io {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    let mut found = ResultsFolder::default();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(io(error)),
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        match read_result(&path) {
            Ok(result) => found.results.push(result),
            Err(problem) => found.problems.push(problem),
        }
    }
    // The sort is stable, so unknown slugs stay sorted by name.
    found.results.sort_by_key(|result| {
        METHODS
            .iter()
            .position(|method| method.slug == result.slug)
            .unwrap_or(METHODS.len())
    });
    Ok(found)
}

/// The reason why a report cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or folder.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// A plot.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// A document without the pair of markers.
    #[error("the document has no line '{0}', which marks the place of the method table")]
    NoMarker(&'static str),
}

/// Renders all results of a folder to a Markdown file and, if requested, an HTML page. Returns the contents
/// of the folder; both files also name its `problems`.
///
/// # Errors
/// If the folder cannot be listed, a plot cannot be drawn, or a file cannot be written.
pub fn write_report(
    results: &Path,
    markdown: &Path,
    html: Option<&Path>,
) -> Result<ResultsFolder, ReportError> {
    let folder = read_results(results)?;
    let page = html.map(|path| Ok::<_, PlotError>((path, render_html(&folder)?)));
    let page = page.transpose()?;
    write_bytes_atomically(markdown, render_markdown(&folder).as_bytes())
        .map_err(ResultError::from)?;
    if let Some((path, page)) = page {
        write_bytes_atomically(path, page.as_bytes()).map_err(ResultError::from)?;
    }
    Ok(folder)
}

fn name_of(result: &ClaimResult) -> &str {
    method(&result.slug).map_or(result.slug.as_str(), |method| method.name)
}

fn verdict_mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Held => "✅",
        Verdict::NotHeld => "❌",
    }
}

/// How many of the headlines or of the details hold, such as `3 of 4`; a dash if there are none.
fn holding(result: &ClaimResult, headline: bool) -> String {
    let checks = || result.checks.iter().filter(|c| c.headline == headline);
    match checks().count() {
        0 => "–".to_owned(),
        all => format!("{} of {all}", checks().filter(|c| c.holds).count()),
    }
}

fn heading(metric: &Metric) -> String {
    let unit = match metric.unit() {
        "" => String::new(),
        unit => format!(" ({unit})"),
    };
    format!("{metric}{unit} {}", metric.direction().arrow())
        .trim_end()
        .to_owned()
}

fn seeds_of(table: &Table) -> String {
    table
        .seeds()
        .iter()
        .map(u64::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A cell as text, and whether nothing in its column is better.
fn cell(table: &Table, task: &Task, variant: &Variant, metric: &Metric) -> Option<(String, bool)> {
    let summary = table.summary(task, variant, metric).ok()?;
    let best = table.best(task, metric);
    let best = best.and_then(|best| table.mean(task, best, metric).ok());
    Some((summary.to_string(), best == Some(summary.mean)))
}

/// The variants that have any value in a task.
fn variants_in<'t>(table: &'t Table, task: &Task) -> Vec<&'t Variant> {
    let has = |variant: &&Variant| table.metrics().iter().any(|m| table.has(task, variant, m));
    table.variants().iter().filter(has).collect()
}

/// The metrics that have any value in a task: a column of dashes would be useless.
fn metrics_in<'t>(table: &'t Table, task: &Task) -> Vec<&'t Metric> {
    let has = |metric: &&Metric| table.variants().iter().any(|v| table.has(task, v, metric));
    table.metrics().iter().filter(has).collect()
}

/// Text for a cell of a Markdown table: a bar or a line break would end the cell.
fn cell_text(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// Text for running Markdown: characters that could begin markup are escaped.
fn md(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '*' | '_' | '`' | '<' | '>' | '[' | ']' | '\\' => escaped.extend(['\\', c]),
            '\n' | '\r' => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

fn md_cell(text: &str) -> String {
    cell_text(&md(text))
}

fn md_paper(paper: &Paper) -> String {
    let title = match paper.url() {
        Some(url) => format!("[{}]({url})", md(&paper.title)),
        None => md(&paper.title),
    };
    format!("{}, {title}, {}", md(&paper.authors), paper.year)
}

/// The introduction of the report.
const INTRODUCTION: &str = "What papers claim of their methods, and what came out here. A verdict follows the \
    headlines, which say what the paper's own sentence says: it is *held* if all of them hold, and *not held* \
    otherwise. Details, such as what a claim says after “In detail”, are reported beside it. Numbers are the mean \
    ± the sample standard deviation over the seeds; a number without ± is the same for every seed. Two means are \
    *within the spread* if they differ by less than the sample standard deviation of their differences seed by \
    seed. The best of each column is bold.";

/// Renders results as Markdown: a table of verdicts, then a section per claim with its headlines, numbers
/// (mean ± spread; the best of a column in bold), details, notes and provenance.
pub fn render_markdown(folder: &ResultsFolder) -> String {
    let mut out = format!(
        "# Measured claims\n\n{INTRODUCTION}\n\nWritten by `nabla claims report` from `results/`; do not edit.\n\n"
    );
    // Writing to a String cannot fail, so the results of `write!` are dropped throughout.
    if folder.results.is_empty() {
        out.push_str("No claim has been measured yet.\n");
    } else {
        out.push_str("| Method | Verdict | Headlines | Details | Seeds | Time |\n");
        out.push_str("|---|---|---|---|---:|---:|\n");
        for result in &folder.results {
            let _ = writeln!(
                out,
                "| [{}](#{}) | {} {} | {} | {} | {} | {} |",
                md_cell(name_of(result)),
                result.slug,
                verdict_mark(result.verdict),
                result.verdict.words(),
                holding(result, true),
                holding(result, false),
                result.measured.seeds().len(),
                duration(result.seconds),
            );
        }
    }
    for result in &folder.results {
        markdown_section(&mut out, result);
    }
    if !folder.problems.is_empty() {
        out.push_str("\n## Files that are not results\n\n");
        for problem in &folder.problems {
            let _ = writeln!(out, "- {}", md(&problem.to_string()));
        }
    }
    out
}

fn markdown_section(out: &mut String, result: &ClaimResult) {
    let table = &result.measured;
    let _ = write!(
        out,
        "\n<a id=\"{}\"></a>\n\n## {}: {} {}\n\n{}.\n\n**Claim.** {}\n\n**Criterion.** {}\n",
        result.slug,
        md(name_of(result)),
        verdict_mark(result.verdict),
        result.verdict.words(),
        md_paper(&result.paper),
        md(&result.claim),
        md(&result.criterion),
    );
    markdown_checks(out, "Headlines", &result.checks, true);
    for task in table.tasks() {
        let metrics = metrics_in(table, task);
        let _ = write!(out, "\n### {}\n\n| Variant |", md(task.name()));
        for metric in &metrics {
            let _ = write!(out, " {} |", md_cell(&heading(metric)));
        }
        let _ = writeln!(out, "\n|---|{}", "---:|".repeat(metrics.len()));
        for variant in variants_in(table, task) {
            let _ = write!(out, "| {} |", md_cell(variant.name()));
            for metric in &metrics {
                let _ = match cell(table, task, variant, metric) {
                    Some((text, true)) => write!(out, " **{text}** |"),
                    Some((text, false)) => write!(out, " {text} |"),
                    None => write!(out, " – |"),
                };
            }
            out.push('\n');
        }
    }
    markdown_checks(out, "Details", &result.checks, false);
    if !result.notes.is_empty() {
        out.push_str("\n**Notes**\n\n");
        for note in &result.notes {
            let _ = writeln!(out, "- {}", md(note));
        }
    }
    let _ = writeln!(out, "\n{}", md(&provenance(result)));
}

/// The headlines or the details, if there are any.
fn markdown_checks(out: &mut String, title: &str, checks: &[Check], headline: bool) {
    let mut checks = checks.iter().filter(|c| c.headline == headline).peekable();
    if checks.peek().is_none() {
        return;
    }
    let _ = write!(out, "\n**{title}**\n\n");
    for check in checks {
        let mark = if check.holds { "✅" } else { "❌" };
        let _ = writeln!(out, "- {mark} {} ({})", md(&check.text), md(&check.detail));
    }
}

fn provenance(result: &ClaimResult) -> String {
    let dirty = if result.commit.dirty {
        " with uncommitted changes"
    } else {
        ""
    };
    format!(
        "Seeds {}. {}, {}. {} {}, commit {}{dirty}, {}.",
        seeds_of(&result.measured),
        result.device,
        duration(result.seconds),
        result.program,
        result.version,
        result.commit.hash.chars().take(12).collect::<String>(),
        result.date,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_cells_cannot_break_their_table() {
        assert_eq!(md_cell("a|b\nc *d*"), "a\\|b c \\*d\\*");
    }
}
