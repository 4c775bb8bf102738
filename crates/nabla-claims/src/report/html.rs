//! The HTML page.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use nabla_base::words::duration;

use super::{
    INTRODUCTION, ResultsFolder, cell, heading, holding, metrics_in, name_of, provenance,
    variants_in,
};
use crate::names::{Direction, Metric, Task, Variant};
use crate::plot::{DotPanel, DotPlot, DotRow, PlotError, Theme, dot_plot, line_plot};
use crate::result::{ClaimResult, Verdict};
use crate::table::Table;

const STYLE: &str = "
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1d2125; --dim: #5d666f; --line: #d8dcdf;
  --held: #1c7a3a; --not: #b3261e;
  --series-1: #4477aa; --series-2: #ee6677; --series-3: #228833; --series-4: #aa3377;
  --series-5: #b3a125; --series-6: #35a7cf; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --ink: #e4e7ea; --dim: #9aa4ad;
  --line: #343a40; --held: #6fcf8b; --not: #ff8a80;
  --series-1: #77aadd; --series-2: #ff8f9c; --series-3: #5cc46c; --series-4: #e07ab5;
  --series-5: #ddcc66; --series-6: #88d8f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 5rem; background: var(--paper);
  color: var(--ink); font: 1.0625rem/1.6 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; text-wrap: balance; } h2 { margin-top: 3.5rem; }
p, li { max-width: 46rem; } a { color: inherit; text-underline-offset: 0.15em; }
.dim { color: var(--dim); font-size: 0.9375rem; }
.held { color: var(--held); } .not_held { color: var(--not); }
.scroll { overflow-x: auto; } .checks, .notes { padding-left: 0; list-style: none; }
.checks li, .notes li { margin: 0.35rem 0; }
table { border-collapse: collapse; font-size: 0.9375rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { font-weight: 600; } td.n, th.n { text-align: right; padding-left: 0.6rem; }
tr.method td:first-child { font-weight: 600; }
svg { display: block; max-width: 100%; height: auto; margin: 1.25rem 0; color: var(--ink); }
";

/// Renders results as one self-contained HTML page with styles and plots, which follows the reader's light or
/// dark setting.
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
                p { (INTRODUCTION.replace('*', "")) }
                @if folder.results.is_empty() { p { "No claim has been measured yet." } }
                @else {
                    div.scroll { table {
                        thead { tr {
                            th { "Method" } th { "Verdict" } th { "Headlines" } th { "Details" }
                            th.n { "Seeds" } th.n { "Time" }
                        } }
                        tbody { @for result in &folder.results { tr {
                            td { a href={ "#" (result.slug) } { (name_of(result)) } }
                            td { (verdict(result.verdict)) }
                            td { (holding(result, true)) }
                            td { (holding(result, false)) }
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
            // A metric that is always infinite still has its row in the table.
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
            (checks("Headlines", result, true))
            @for task in table.tasks() {
                h3 { (task) }
                div.scroll { table {
                    thead { tr {
                        th { "Variant" }
                        @for metric in metrics_in(table, task) { th.n { (heading(metric)) } }
                    } }
                    tbody { @for variant in variants_in(table, task) { tr class=(variant.role().word()) {
                        td { (variant) }
                        @for metric in metrics_in(table, task) {
                            td.n { @match cell(table, task, variant, metric) {
                                Some((text, true)) => strong { (text) },
                                Some((text, false)) => (text),
                                None => "–",
                            } }
                        }
                    } } }
                } }
            }
            (checks("Details", result, false))
            @if !result.notes.is_empty() {
                h3 { "Notes" }
                ul.notes { @for note in &result.notes { li { (note) } } }
            }
            @for svg in &plots { (PreEscaped(svg)) }
            p.dim { (provenance(result)) }
        }
    })
}

/// The headlines or the details, if there are any.
fn checks(title: &str, result: &ClaimResult, headline: bool) -> Markup {
    let chosen = || result.checks.iter().filter(|c| c.headline == headline);
    html! {
        @if chosen().next().is_some() {
            h3 { (title) }
            ul.checks { @for check in chosen() { li {
                @if check.holds { span.held { "✔ " } } @else { span.not_held { "✘ " } }
                (check.text) " " span.dim { "(" (check.detail) ")" }
            } } }
        }
    }
}

/// The dot plots of one metric: a panel per task that has a finite value of it, side by side if they have the
/// same variants.
fn metric_plots(table: &Table, metric: &Metric) -> Vec<DotPlot> {
    let mut alike: Vec<(Vec<&Variant>, Vec<&Task>)> = Vec::new();
    for task in table.tasks() {
        let has = |v: &&Variant| table.has(task, v, metric);
        let variants: Vec<_> = table.variants().iter().filter(has).collect();
        match alike.iter_mut().find(|(others, _)| *others == variants) {
            Some((_, tasks)) => tasks.push(task),
            None => alike.push((variants, vec![task])),
        }
    }
    alike.retain(|(variants, _)| !variants.is_empty());
    alike
        .into_iter()
        .map(|(variants, tasks)| metric_plot(table, metric, &variants, &tasks))
        .collect()
}

fn metric_plot(table: &Table, metric: &Metric, variants: &[&Variant], tasks: &[&Task]) -> DotPlot {
    let row = |task: &Task, variant: &Variant| {
        let values = table.values(task, variant, metric).ok()?;
        Some(DotRow {
            label: variant.name().to_owned(),
            role: variant.role(),
            values,
        })
    };
    let panels = tasks.iter().map(|task| DotPanel {
        title: task.name().to_owned(),
        rows: variants.iter().map(|variant| row(task, variant)).collect(),
    });
    let has_value = |panel: &DotPanel| {
        panel
            .rows
            .iter()
            .flatten()
            .any(|row| row.values.iter().any(|value| value.is_finite()))
    };
    let better = match metric.direction() {
        Direction::HigherIsBetter => ", higher is better",
        Direction::LowerIsBetter => ", lower is better",
        Direction::Informative => "",
    };
    let unit = match metric.unit() {
        "" => String::new(),
        unit => format!(" ({unit})"),
    };
    DotPlot {
        title: metric.name().to_owned(),
        x_label: format!("{metric}{unit}{better}"),
        labels: variants.iter().map(|v| v.name().to_owned()).collect(),
        panels: panels.filter(has_value).collect(),
    }
}
