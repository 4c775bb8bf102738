//! Renders what was measured: `RESULTS.md`, a self-contained HTML page, the method tables of the
//! README and of `nabla list`.

use crate::claim::Paper;
use crate::measurement::{Direction, Metric, Table};
use crate::plot::{DotPanel, DotPlot, DotRow, PlotError, Theme, dot_plot, line_plot};
use crate::registry::{METHOD_COUNT, METHODS, Method, State, method};
use crate::result::{ClaimResult, ResultError, Verdict, read_result};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use nabla_base::write_bytes_atomically;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What a folder of results holds.
#[derive(Debug, Default)]
pub struct ResultsFolder {
    /// The valid results, in the order of [`METHODS`], others after them by slug.
    pub results: Vec<ClaimResult>,
    /// What is wrong with the other `.json` files; each error names its file.
    pub problems: Vec<ResultError>,
}

impl ResultsFolder {
    /// The result of a method, if it has a valid one.
    pub fn result(&self, slug: &str) -> Option<&ClaimResult> {
        self.results.iter().find(|result| result.slug == slug)
    }
}

/// Reads all results of a folder. A file that is not a valid result does not hide the others: it
/// becomes one of the [`problems`](ResultsFolder::problems). A folder that does not exist holds
/// nothing.
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
    // Stable, so unknown slugs stay sorted by name.
    found.results.sort_by_key(|result| {
        METHODS
            .iter()
            .position(|method| method.slug == result.slug)
            .unwrap_or(METHOD_COUNT)
    });
    Ok(found)
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or folder.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// A plot.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// A document without the pair of markers.
    #[error("the document lacks the line '{0}', which marks where the method table goes")]
    NoMarker(&'static str),
}

/// Renders all results of a folder to a Markdown and an HTML file, and returns what the folder
/// held: its `problems` are named in both files too.
///
/// # Errors
/// If the folder cannot be listed, a plot not drawn or a file not written.
pub fn write_report(
    results: &Path,
    markdown: &Path,
    html: &Path,
) -> Result<ResultsFolder, ReportError> {
    let folder = read_results(results)?;
    let page = render_html(&folder)?;
    write_bytes_atomically(markdown, render_markdown(&folder).as_bytes())
        .map_err(ResultError::from)?;
    write_bytes_atomically(html, page.as_bytes()).map_err(ResultError::from)?;
    Ok(folder)
}

fn name_of(result: &ClaimResult) -> &str {
    method(&result.slug).map_or(result.slug.as_str(), |method| method.name)
}

fn verdict_mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Held => "✅",
        Verdict::HeldInPart => "🟡",
        Verdict::NotHeld => "❌",
    }
}

fn heading(metric: &Metric) -> String {
    let unit = if metric.unit.is_empty() {
        String::new()
    } else {
        format!(" ({})", metric.unit)
    };
    format!("{}{unit} {}", metric.name, metric.direction.arrow())
        .trim_end()
        .to_owned()
}

fn duration(seconds: f64) -> String {
    if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else if seconds < 7200.0 {
        format!("{:.1} min", seconds / 60.0)
    } else {
        format!("{:.1} h", seconds / 3600.0)
    }
}

fn seeds_of(table: &Table) -> String {
    table
        .seeds()
        .iter()
        .map(u64::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A cell as text, and whether it is the best of its column.
fn cell(table: &Table, group: &str, variant: &str, metric: &str) -> Option<(String, bool)> {
    let summary = table.summary(group, variant, metric).ok()?;
    Some((
        summary.to_string(),
        table.best(group, metric) == Some(variant),
    ))
}

/// The variants that have any value in a group.
fn variants_in<'t>(table: &'t Table, group: &'t str) -> impl Iterator<Item = &'t crate::Variant> {
    table.variants().iter().filter(move |variant| {
        table
            .metrics()
            .iter()
            .any(|metric| table.has(group, &variant.name, &metric.name))
    })
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

/// Renders results as Markdown: a table of verdicts, then a section per claim with its numbers
/// (mean ± spread; the best of a column in bold), checks, notes and provenance.
pub fn render_markdown(folder: &ResultsFolder) -> String {
    let mut out = String::from(
        "# Measured claims\n\n\
         Generated by `nabla claims report` from `results/`; do not edit. Numbers are the mean ± \
         the sample standard deviation over the seeds; the best of each column is bold. A claim \
         is `held` if all its checks hold, `held in part` if some do, `not held` if none does.\n\n",
    );
    // Writing to a String cannot fail, so the results of `write!` are dropped throughout.
    if folder.results.is_empty() {
        out.push_str("No claim has been measured yet.\n");
    } else {
        out.push_str("| Method | Verdict | Checks | Seeds | Time |\n|---|---|---|---|---|\n");
        for result in &folder.results {
            let held = result.checks.iter().filter(|check| check.holds).count();
            let _ = writeln!(
                out,
                "| [{}](#{}) | {} {} | {held} of {} hold | {} | {} |",
                md_cell(name_of(result)),
                result.slug,
                verdict_mark(result.verdict),
                result.verdict.words(),
                result.checks.len(),
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
    for group in table.groups() {
        let _ = write!(out, "\n### {}\n\n| Variant |", md(group));
        for metric in table.metrics() {
            let _ = write!(out, " {} |", md_cell(&heading(metric)));
        }
        let _ = writeln!(out, "\n|---|{}", "---:|".repeat(table.metrics().len()));
        for variant in variants_in(table, group) {
            let _ = write!(out, "| {} |", md_cell(&variant.name));
            for metric in table.metrics() {
                let _ = match cell(table, group, &variant.name, &metric.name) {
                    Some((text, true)) => write!(out, " **{text}** |"),
                    Some((text, false)) => write!(out, " {text} |"),
                    None => write!(out, " – |"),
                };
            }
            out.push('\n');
        }
    }
    out.push_str("\n**Checks**\n\n");
    for check in &result.checks {
        let mark = if check.holds { "✅" } else { "❌" };
        let _ = writeln!(out, "- {mark} {} ({})", md(&check.text), md(&check.detail));
    }
    if !result.notes.is_empty() {
        out.push_str("\n**Notes**\n\n");
        for note in &result.notes {
            let _ = writeln!(out, "- {}", md(note));
        }
    }
    let _ = writeln!(out, "\n{}", md(&provenance(result)));
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

const STYLE: &str = "
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1d2125; --dim: #5d666f; --line: #d8dcdf;
  --held: #1c7a3a; --part: #8a6100; --not: #b3261e;
  --series-1: #4477aa; --series-2: #ee6677; --series-3: #228833; --series-4: #aa3377;
  --series-5: #b3a125; --series-6: #35a7cf; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e4e7ea; --dim: #9aa4ad;
  --line: #343a40; --held: #6fcf8b; --part: #e0b64f; --not: #ff8a80;
  --series-1: #77aadd; --series-2: #ff8f9c; --series-3: #5cc46c; --series-4: #e07ab5;
  --series-5: #ddcc66; --series-6: #88d8f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 5rem; background: var(--paper);
  color: var(--ink); font: 1.0625rem/1.6 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; } h2 { margin-top: 3.5rem; }
p, li { max-width: 46rem; } a { color: inherit; text-underline-offset: 0.15em; }
.dim { color: var(--dim); font-size: 0.9375rem; }
.held { color: var(--held); } .held_in_part { color: var(--part); } .not_held { color: var(--not); }
.scroll { overflow-x: auto; } .checks, .notes { padding-left: 0; list-style: none; }
.checks li, .notes li { margin: 0.35rem 0; }
table { border-collapse: collapse; font-size: 0.9375rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; } td.n, th.n { text-align: right; padding-left: 0.6rem; }
tr.method td:first-child { font-weight: 600; }
svg { display: block; max-width: 100%; height: auto; margin: 1.25rem 0; color: var(--ink); }
";

/// Renders results as one HTML page that needs nothing else: styles and plots are within it, and
/// it follows the reader's light or dark setting.
///
/// # Errors
/// [`PlotError`] if a plot cannot be drawn; a metric without any finite value has no plot.
pub fn render_html(folder: &ResultsFolder) -> Result<String, PlotError> {
    let sections: Vec<Markup> = folder
        .results
        .iter()
        .map(html_section)
        .collect::<Result<_, PlotError>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Nabla: measured claims" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "Measured claims" }
                p {
                    "What papers claim of their methods, and what came out here. Numbers are the \
                     mean ± the sample standard deviation over the seeds; the best of each column \
                     is bold. A claim that does not hold is reported as not held."
                }
                @if folder.results.is_empty() { p { "No claim has been measured yet." } }
                @else {
                    div.scroll { table {
                        thead { tr {
                            th { "Method" } th { "Verdict" } th { "Checks" } th.n { "Seeds" } th.n { "Time" }
                        } }
                        tbody { @for result in &folder.results { tr {
                            td { a href={ "#" (result.slug) } { (name_of(result)) } }
                            td { (verdict(result.verdict)) }
                            td {
                                (result.checks.iter().filter(|check| check.holds).count())
                                " of " (result.checks.len()) " hold"
                            }
                            td.n { (result.measured.seeds().len()) }
                            td.n { (duration(result.seconds)) }
                        } } }
                    } }
                }
                @for section in &sections { (section) }
                @if !folder.problems.is_empty() {
                    h2 { "Files that are not results" }
                    ul { @for problem in &folder.problems { li { (problem) } } }
                }
            }
        }
    };
    Ok(page.into_string() + "\n")
}

fn verdict(verdict: Verdict) -> Markup {
    let class = match verdict {
        Verdict::Held => "held",
        Verdict::HeldInPart => "held_in_part",
        Verdict::NotHeld => "not_held",
    };
    html! { strong class=(class) { (verdict.words()) } }
}

fn html_section(result: &ClaimResult) -> Result<Markup, PlotError> {
    let table = &result.measured;
    let mut plots = Vec::new();
    for plot in table.metrics().iter().flat_map(|m| metric_plots(table, m)) {
        match dot_plot(&plot, Theme::Page) {
            Ok(svg) => plots.push(svg),
            // A metric that is infinite throughout still has its row in the table.
            Err(PlotError::NothingToShow(_)) => {}
            Err(error) => return Err(error),
        }
    }
    for plot in &result.plots {
        match line_plot(plot, Theme::Page) {
            Ok(svg) => plots.push(svg),
            Err(PlotError::NothingToShow(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(html! {
        section id=(result.slug) {
            h2 { (name_of(result)) ": " (verdict(result.verdict)) }
            p {
                (result.paper.authors) ", "
                @match result.paper.url() {
                    Some(url) => a href=(url) { (result.paper.title) },
                    None => cite { (result.paper.title) },
                }
                ", " (result.paper.year) "."
            }
            p { strong { "Claim. " } (result.claim) }
            p { strong { "Criterion. " } (result.criterion) }
            @for group in table.groups() {
                h3 { (group) }
                div.scroll { table {
                    thead { tr {
                        th { "Variant" }
                        @for metric in table.metrics() { th.n { (heading(metric)) } }
                    } }
                    tbody { @for variant in variants_in(table, group) { tr class=(variant.role.word()) {
                        td { (variant.name) }
                        @for metric in table.metrics() {
                            td.n { @match cell(table, group, &variant.name, &metric.name) {
                                Some((text, true)) => strong { (text) },
                                Some((text, false)) => (text),
                                None => "–",
                            } }
                        }
                    } } }
                } }
            }
            h3 { "Checks" }
            ul.checks { @for check in &result.checks { li {
                @if check.holds { span.held { "✔ " } } @else { span.not_held { "✘ " } }
                (check.text) " " span.dim { "(" (check.detail) ")" }
            } } }
            @if !result.notes.is_empty() {
                h3 { "Notes" }
                ul.notes { @for note in &result.notes { li { (note) } } }
            }
            @for svg in &plots { (PreEscaped(svg)) }
            p.dim { (provenance(result)) }
        }
    })
}

/// The dot plots of one metric: a panel per group that has a finite value of it, side by side where
/// they have the same variants.
fn metric_plots(table: &Table, metric: &Metric) -> Vec<DotPlot> {
    let mut alike: Vec<(Vec<&crate::Variant>, Vec<&String>)> = Vec::new();
    for group in table.groups() {
        let has = |v: &&crate::Variant| table.has(group, &v.name, &metric.name);
        let variants: Vec<_> = table.variants().iter().filter(has).collect();
        match alike.iter_mut().find(|(others, _)| *others == variants) {
            Some((_, groups)) => groups.push(group),
            None => alike.push((variants, vec![group])),
        }
    }
    alike.retain(|(variants, _)| !variants.is_empty());
    alike
        .into_iter()
        .map(|(variants, groups)| metric_plot(table, metric, &variants, &groups))
        .collect()
}

fn metric_plot(
    table: &Table,
    metric: &Metric,
    variants: &[&crate::Variant],
    groups: &[&String],
) -> DotPlot {
    let row = |group: &str, variant: &crate::Variant| {
        let values = table.values(group, &variant.name, &metric.name).ok()?;
        Some(DotRow {
            label: variant.name.clone(),
            role: variant.role,
            values,
        })
    };
    let panels = groups.iter().map(|group| DotPanel {
        title: (*group).clone(),
        rows: variants.iter().map(|variant| row(group, variant)).collect(),
    });
    let has_value = |panel: &DotPanel| {
        panel
            .rows
            .iter()
            .flatten()
            .any(|row| row.values.iter().any(|value| value.is_finite()))
    };
    let better = match metric.direction {
        Direction::HigherIsBetter => ", higher is better",
        Direction::LowerIsBetter => ", lower is better",
        Direction::Informative => "",
    };
    let unit = if metric.unit.is_empty() {
        String::new()
    } else {
        format!(" ({})", metric.unit)
    };
    DotPlot {
        title: metric.name.clone(),
        x_label: format!("{}{unit}{better}", metric.name),
        labels: variants
            .iter()
            .map(|variant| variant.name.clone())
            .collect(),
        panels: panels.filter(has_value).collect(),
    }
}

/// The verdict on a method's claim in words, or a dash.
fn claim_words(folder: &ResultsFolder, method: &Method) -> &'static str {
    folder
        .result(method.slug)
        .map_or("–", |result| result.verdict.words())
}

/// All methods as a Markdown table: method, crate, paper, state, and what became of the claim.
pub fn method_table_markdown(folder: &ResultsFolder) -> String {
    let done = METHODS
        .iter()
        .filter(|method| method.state == State::Done)
        .count();
    let mut out = format!("{done} of {METHOD_COUNT} methods are done.\n\n");
    out.push_str("| Method | Slug | Crate | Paper | State | Claim |\n|---|---|---|---|---|---|\n");
    for method in &METHODS {
        let paper = method
            .paper
            .as_ref()
            .map_or_else(|| "–".to_owned(), md_paper);
        let _ = writeln!(
            out,
            "| {} | `{}` | `{}` | {} | {} | {} |",
            md_cell(method.name),
            method.slug,
            method.crate_name,
            cell_text(&paper),
            method.state.word(),
            claim_words(folder, method),
        );
    }
    out
}

/// All methods as aligned text, as `nabla list` prints it: slug, state, claim, and the paper
/// (authors, year, title, arXiv number).
pub fn method_table_text(folder: &ResultsFolder) -> String {
    let header = ["METHOD", "STATE", "CLAIM", "CRATE", "PAPER"].map(str::to_owned);
    let rows = METHODS.iter().map(|method| {
        let paper = method.paper.as_ref().map_or_else(
            || "–".to_owned(),
            |paper| {
                let arxiv = paper.arxiv.as_ref().map(|id| format!(", arXiv {id}"));
                let arxiv = arxiv.unwrap_or_default();
                format!("{} {}, {}{arxiv}", paper.authors, paper.year, paper.title)
            },
        );
        [
            method.slug.to_owned(),
            method.state.word().to_owned(),
            claim_words(folder, method).to_owned(),
            method.crate_name.to_owned(),
            paper,
        ]
    });
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(rows).collect();
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// The line before the method table in a document.
pub const TABLE_BEGIN: &str = "<!-- methods:begin -->";
/// The line after the method table in a document.
pub const TABLE_END: &str = "<!-- methods:end -->";

/// Puts the method table between the two marker lines of a document, in place of what was there.
///
/// # Errors
/// [`ReportError::NoMarker`] if a marker is missing or the two are in the wrong order.
pub fn insert_method_table(document: &str, folder: &ResultsFolder) -> Result<String, ReportError> {
    let begin = document
        .find(TABLE_BEGIN)
        .ok_or(ReportError::NoMarker(TABLE_BEGIN))?;
    let begin = begin + TABLE_BEGIN.len();
    let end = document[begin..]
        .find(TABLE_END)
        .ok_or(ReportError::NoMarker(TABLE_END))?
        + begin;
    let table = method_table_markdown(folder);
    Ok(format!(
        "{}\n\n{table}\n{}",
        &document[..begin],
        &document[end..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_cells_cannot_break_their_table() {
        assert_eq!(md_cell("a|b\nc *d*"), "a\\|b c \\*d\\*");
    }

    #[test]
    fn times_have_readable_units() {
        assert_eq!(duration(3.07), "3.1 s");
        assert_eq!(duration(600.0), "10.0 min");
        assert_eq!(duration(9000.0), "2.5 h");
    }

    #[test]
    fn the_method_table_replaces_what_is_between_its_markers() {
        let folder = ResultsFolder::default();
        let document = format!("before\n{TABLE_BEGIN}\na stale row\n{TABLE_END}\nafter\n");
        let once = insert_method_table(&document, &folder).unwrap();
        assert!(once.starts_with("before\n") && once.ends_with("\nafter\n"));
        assert!(once.contains("| OmniSSR | `omnissr` |") && !once.contains("stale row"));
        assert_eq!(insert_method_table(&once, &folder).unwrap(), once);
        let error = insert_method_table("nothing", &folder).unwrap_err();
        assert!(error.to_string().contains(TABLE_BEGIN));
    }

    #[test]
    fn the_text_table_is_aligned() {
        let text = method_table_text(&ResultsFolder::default());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + METHOD_COUNT);
        let column = lines[0].find("STATE").unwrap();
        for line in &lines[1..] {
            assert!(line[column..].starts_with("done") || line[column..].starts_with("planned"));
            assert_eq!(line.as_bytes()[column - 1], b' ');
        }
    }
}
