//! What a search tells: a table, a list of all candidates, and a curve.

use std::path::Path;

use nabla::base::choices::Choices;
use nabla::base::words::{count, duration};
use nabla::claims::plot::{LinePlot, Series, Theme, line_plot, write_svg};
use nabla::diffusion::autodiffusion::{Epoch, FixedPlan, Plan, SearchReport, SearchState};

use super::{Found, SEARCH};
use crate::errors::Failure;
use crate::output::table;

/// The name of a fixed plan.
pub fn name(fixed: FixedPlan) -> &'static str {
    fixed.choice_name().unwrap_or("fixed")
}

/// `94, 217 (2, 3), 574`: the steps, and the blocks that each skips.
fn steps(plan: &Plan) -> String {
    let each = plan
        .genes()
        .iter()
        .map(|gene| match gene.skipped.is_empty() {
            true => gene.step.to_string(),
            false => format!("{} ({})", gene.step, gene.skipped),
        });
    each.collect::<Vec<_>>().join(", ")
}

/// The table of the comparison, the plan, and what the search has cost.
pub fn text(found: &Found) -> String {
    let head = [
        "plan".to_owned(),
        format!("FD ({})", found.judge),
        "steps".to_owned(),
        "blocks".to_owned(),
        "evaluations".to_owned(),
        "time".to_owned(),
    ];
    let rows = found.compared.iter().map(|row| {
        let distance = row.trial.frechet_distance;
        vec![
            row.name.clone(),
            distance.map_or("-".to_owned(), |distance| format!("{distance:.3}")),
            row.plan.count().to_string(),
            row.plan.cost(found.blocks).to_string(),
            format!("{:.1}", row.trial.evaluations),
            duration(row.trial.seconds),
        ]
    });
    let rows: Vec<_> = std::iter::once(head.to_vec()).chain(rows).collect();
    let skips = match found.steps.skipped() {
        0 => "",
        _ => " (with the blocks that are skipped)",
    };
    let SearchReport {
        evaluations,
        dropped,
        ..
    } = &found.report;
    let lost = match dropped {
        0 => String::new(),
        dropped => format!(", of which {dropped} had no finite distance"),
    };
    let folder = found.plan.parent().unwrap_or(Path::new(""));
    format!(
        "{}steps{skips}: {}\n{} scored{lost}: {}, {:.0} evaluations of the network, {}\n\
         {}, history.csv, search.svg and {SEARCH} in {}\n",
        table(&rows),
        steps(&found.steps),
        count(*evaluations, "plan"),
        count(found.pictures, "picture"),
        found.network_evaluations,
        duration(found.seconds),
        found.plan.file_name().unwrap_or_default().display(),
        folder.display(),
    )
}

/// All candidates.
pub fn csv(state: &SearchState, blocks: usize) -> Result<String, Failure> {
    let mut text = "candidate,epoch,score,units,steps\n".to_owned();
    for (number, (epoch, plan, score)) in state.scored()?.into_iter().enumerate() {
        let score = score.map_or(String::new(), |score| score.to_string());
        let units = plan.cost(blocks);
        text += &format!("{number},{epoch},{score},{units},\"{}\"\n", steps(&plan));
    }
    Ok(text)
}

/// Writes `search.svg`, the course of the search.
pub fn draw(folder: &Path, report: &SearchReport, judge: &str) -> Result<(), Failure> {
    let curve = |name: &str, value: fn(&Epoch) -> f64| {
        let epochs = report.history.iter();
        let points = epochs.map(|epoch| [epoch.evaluations as f64, value(epoch)]);
        Series::new(name, points)
    };
    let plot = LinePlot::new(
        "Search of steps",
        "plans scored",
        format!("FD ({judge}), with the noise of the search"),
    )
    .log_y()
    .with_series(curve("best", |epoch| epoch.best))
    .with_series(curve("mean of the epoch", |epoch| epoch.mean));
    let curve = line_plot(&plot, Theme::Standalone).map_err(Failure::run)?;
    Ok(write_svg(&folder.join("search.svg"), &curve)?)
}
