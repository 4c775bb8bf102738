//! `nabla compare --domains`: several objectives in every domain of a set, with the same search for each.

use std::ops::ControlFlow;
use std::path::Path;

use clap::Args;
use nabla::align::domain_comparison::{
    Check, DomainComparison, DomainComparisonError, DomainEvent, DomainRun, DomainTable, Row,
};
use nabla::align::{DomainObjective, Selection, objectives};
use nabla::base::progress::ProgressSink;
use nabla::base::words::count;
use nabla::base::write_bytes_atomically;
use nabla::claims::Role;
use nabla::claims::plot::{DotPanel, DotPlot, DotRow, Theme, dot_plot, write_svg};
use nabla::train::mlp::Mlp;
use serde::Serialize;

use crate::choice::choice;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Report};
use crate::jobs::experiment_flags::ExperimentFlags;
use crate::jobs::quantization_flags::QuantizationFlags;
use crate::output::{json_text, table};
use crate::recipe_file::{ComparisonFolder, read_toml};

/// Each flag overrides the file.
#[derive(Args)]
pub struct ObjectiveFlags {
    /// Compare objectives, with each domain as the test domain in turn: a folder `domain/class/picture`, or
    /// `coloured-digits`, `coloured-fashion`, `rotated-digits` or `rotated-fashion` (built in)
    #[arg(long, value_name = "DIR", help_heading = "Domains")]
    domains: Option<String>,
    // The help lists the names of the registry.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        help_heading = "Domains",
        help = names()
    )]
    objectives: Vec<String>,
    /// A domain to test with, instead of each of them; may be given several times
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Domains",
        allow_hyphen_values = true
    )]
    test_domain: Vec<String>,
    /// The side to which the pictures of a folder are brought, in pixels [default: 64]
    #[arg(long, value_name = "PIXELS", help_heading = "Domains")]
    side: Option<usize>,
    /// Steps of a training [default: 5000]
    #[arg(long, value_name = "N", help_heading = "Domains")]
    steps: Option<usize>,
    /// Steps between two measurements, of which the best is chosen [default: 100]
    #[arg(long, value_name = "N", help_heading = "Domains")]
    check_every: Option<usize>,
    /// The learning rate of Adam in the first trial [default: 0.001]
    #[arg(long, value_name = "RATE", help_heading = "Domains")]
    learning_rate: Option<f64>,
    #[command(flatten)]
    quantization: QuantizationFlags,
    /// How a trial and its step are chosen, a table for each rule [default: training-domains]
    #[arg(
        long,
        value_name = "RULES",
        value_delimiter = ',',
        value_parser = choice::<Selection>(),
        help_heading = "Domains"
    )]
    selection: Vec<Selection>,
}

/// The name for every objective.
const ALL: &str = "all";

fn names() -> String {
    let names = objectives::<Mlp>().names().join(", ");
    format!("The objectives, or `{ALL}` that fit: {names} [default: erm,irm,vrex,fishr]")
}

impl ObjectiveFlags {
    /// Whether objectives are compared, rather than optimizers.
    ///
    /// # Errors
    /// If other flags of domains are given without domains, or the file cannot be read.
    pub fn is_chosen(&self, config: Option<&Path>) -> Result<bool, Failure> {
        let of_domains = match config {
            Some(path) => {
                let given: toml::Table = read_toml(path, "a comparison")?;
                given.contains_key("domains") || given.contains_key("objectives")
            }
            None => false,
        };
        if self.domains.is_some() || of_domains {
            return Ok(true);
        }
        let given = [
            ("--objectives", !self.objectives.is_empty()),
            ("--test-domain", !self.test_domain.is_empty()),
            ("--side", self.side.is_some()),
            ("--steps", self.steps.is_some()),
            ("--check-every", self.check_every.is_some()),
            ("--learning-rate", self.learning_rate.is_some()),
            ("--selection", !self.selection.is_empty()),
            ("--quantize", self.quantization.is_given()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Failure::input(format!(
                "{flag} is for a comparison of objectives: give --domains, too"
            ))),
            None => Ok(false),
        }
    }
}

/// What the command line says of a comparison of objectives.
pub struct Asked<'a> {
    pub flags: &'a ObjectiveFlags,
    pub experiment: &'a ExperimentFlags,
    pub config: Option<&'a Path>,
    pub trials: Option<usize>,
    pub seeds: &'a [u64],
    pub out: Option<&'a Path>,
    pub device: &'a DeviceFlag,
    pub print_config: bool,
}

impl Asked<'_> {
    /// The comparison, and whether it is of all objectives that fit.
    fn comparison(&self) -> Result<(DomainComparison, bool), Failure> {
        let flags = self.flags;
        let mut comparison = match self.config {
            Some(path) => read_toml(path, "a comparison of objectives")?,
            None => DomainComparison::default(),
        };
        let all = flags.objectives.iter().any(|name| name == ALL);
        if all && flags.objectives.len() > 1 {
            return Err(Failure::input(format!(
                "--objectives {ALL} has every objective already: leave out the others"
            )));
        }
        if all {
            let names = objectives::<Mlp>().names();
            comparison.objectives = names.into_iter().map(DomainObjective::named).collect();
        } else if !flags.objectives.is_empty() {
            // Those of the file keep their options.
            let of_name = |name: &String| {
                let known = comparison.objectives.iter().find(|o| o.name == *name);
                known.cloned().unwrap_or(DomainObjective::named(name))
            };
            comparison.objectives = flags.objectives.iter().map(of_name).collect();
        }
        if let Some(source) = &flags.domains {
            comparison.domains.source.clone_from(source);
        }
        comparison.domains.side = flags.side.unwrap_or(comparison.domains.side);
        if !flags.test_domain.is_empty() {
            comparison.tests.clone_from(&flags.test_domain);
        }
        self.experiment
            .apply_to_domains(&mut comparison.model, &mut comparison.batch)?;
        comparison.quantization = flags.quantization.apply(comparison.quantization)?;
        comparison.steps = flags.steps.unwrap_or(comparison.steps);
        comparison.check_every = match flags.check_every {
            Some(every) => every,
            // A short training is measured at its end.
            None => comparison.check_every.min(comparison.steps.max(1)),
        };
        comparison.learning_rate = flags.learning_rate.unwrap_or(comparison.learning_rate);
        comparison.trials = self.trials.unwrap_or(comparison.trials);
        if !self.seeds.is_empty() {
            comparison.seeds = self.seeds.to_vec();
        }
        if !flags.selection.is_empty() {
            comparison.selections.clone_from(&flags.selection);
        }
        comparison.validate()?;
        Ok((comparison, all))
    }
}

impl From<DomainComparisonError> for Failure {
    fn from(error: DomainComparisonError) -> Self {
        match error.is_failure() {
            true => Self::run(error),
            false => Self::input(error),
        }
    }
}

#[derive(Serialize)]
struct Compared<'a> {
    comparison: &'a DomainComparison,
    /// Those that were left out, with the reasons.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unfit: &'a [(String, String)],
    tables: &'a [DomainTable],
}

/// Compares objectives.
pub fn run(asked: &Asked<'_>, context: &Context) -> Result<Report, Failure> {
    let (mut comparison, all) = asked.comparison()?;
    let text =
        |comparison: &DomainComparison| toml::to_string_pretty(comparison).map_err(Failure::run);
    if asked.print_config {
        return Ok(Report::of_text(text(&comparison)?));
    }
    let device = asked.device.open()?;
    let mut folder = ComparisonFolder::of(asked.out)?;
    if let Some(folder) = asked.out.filter(|_| !all) {
        comparison.check_folder(folder)?;
    }
    let domains = comparison
        .domains
        .read(&comparison.tests, 0)
        .map_err(Failure::input)?;
    let mut unfit = Vec::new();
    if all {
        for objective in std::mem::take(&mut comparison.objectives) {
            match comparison.fits(&objective, &domains) {
                Ok(()) => comparison.objectives.push(objective),
                Err(error) => unfit.push((objective.name, error.to_string())),
            }
        }
        if let (true, Some((_, reason))) = (comparison.objectives.is_empty(), unfit.first()) {
            return Err(Failure::input(format!("no objective fits: {reason}")));
        }
    }
    let text = text(&comparison)?;
    let progress = context.progress();
    let mut steps = 0;
    let tables = comparison.run_on(&domains, &device, asked.out, &mut |event| {
        match event {
            DomainEvent::Begin { runs } => {
                if folder.begin(&text).is_break() {
                    return ControlFlow::Break(());
                }
                for (name, reason) in &unfit {
                    context.note(&format!("left out {name}: {reason}"));
                }
                progress.begin("comparing objectives", (runs * comparison.steps) as u64);
            }
            DomainEvent::Step => {
                steps += 1;
                progress.advance(1);
            }
            DomainEvent::End(run) => {
                // One that is known or has diverged has not done them all.
                progress.advance((comparison.steps - steps) as u64);
                steps = 0;
                progress.note(&told(run));
            }
        }
        ControlFlow::Continue(())
    });
    progress.finish();
    folder.failure()?;
    let tables = tables?;
    let compared = Compared {
        comparison: &comparison,
        unfit: &unfit,
        tables: &tables,
    };
    if let Some(folder) = asked.out {
        write_files(folder, &compared)?;
    }
    context.report(&compared, || {
        let mut text = String::new();
        for found in &tables {
            text += &format!("{}\n", heading(found, &comparison));
            text += &table(&found.cells());
            text.push('\n');
        }
        if let Some(folder) = asked.out {
            let plots: Vec<String> = tables.iter().map(plot_name).collect();
            text += &format!(
                "comparison.md, comparison.csv, comparison.json, {} and runs.json in {}\n",
                plots.join(", "),
                folder.display()
            );
        }
        text
    })
}

/// A finished training, on one line. How right it is in the test domain is told at the end alone.
fn told(run: &DomainRun) -> String {
    let purpose = &run.purpose;
    let of = |check: &Check| match purpose.left_out {
        Some(_) => check.held_out,
        None => check.validation.iter().sum::<f64>() / check.validation.len().max(1) as f64,
    };
    let best = run.checks.iter().map(of).fold(f64::NAN, f64::max);
    let (without, accuracy) = match &purpose.left_out {
        Some(left_out) => (format!(" without {left_out}"), "accuracy there"),
        None => (String::new(), "validation accuracy"),
    };
    let result = match &run.diverged {
        Some(reason) => format!("diverged: {reason}"),
        None => format!("{accuracy} up to {:.2} %", 100.0 * best),
    };
    format!(
        "{}, test domain {}{without}, seed {}, trial {}, learning rate {:.2e}: {result}",
        purpose.objective,
        purpose.test,
        purpose.seed,
        purpose.trial + 1,
        run.learning_rate,
    )
}

/// What a table shows.
fn heading(table: &DomainTable, comparison: &DomainComparison) -> String {
    let rule = match table.selection {
        Selection::TrainingDomains => "chosen by the validation examples of the training domains",
        Selection::LeaveOneDomainOut => "chosen by leaving out one training domain after the other",
    };
    let seeds = match comparison.seeds.len() {
        1 => "one seed".to_owned(),
        seeds => format!("mean ± standard error over {}", count(seeds as u64, "seed")),
    };
    format!(
        "right answers in the test domain, %: {seeds}, {} each, {rule}",
        count(comparison.trials as u64, "trial")
    )
}

fn plot_name(table: &DomainTable) -> String {
    format!("{}.svg", table.selection.name())
}

fn write_files(folder: &Path, compared: &Compared<'_>) -> Result<(), Failure> {
    let tables = compared.tables;
    let json = json_text(compared)?;
    write_bytes_atomically(&folder.join("comparison.json"), json.as_bytes())?;
    let sections = tables.iter().map(|table| {
        let heading = heading(table, compared.comparison);
        format!("{heading}\n\n{}", table.markdown())
    });
    let markdown = sections.collect::<Vec<_>>().join("\n");
    write_bytes_atomically(&folder.join("comparison.md"), markdown.as_bytes())?;
    let mut csv = tables.first().map_or(String::new(), DomainTable::csv_head);
    tables.iter().for_each(|table| csv += &table.csv_lines());
    write_bytes_atomically(&folder.join("comparison.csv"), csv.as_bytes())?;
    for table in tables {
        // If everything diverged, there is nothing to draw.
        if table.rows.iter().any(|row| row.mean.is_some()) {
            let plot = plot(table, compared.comparison);
            let svg = dot_plot(&plot, Theme::Standalone).map_err(Failure::run)?;
            write_svg(&folder.join(plot_name(table)), &svg)?;
        }
    }
    Ok(())
}

/// The accuracies of every seed, a panel for each test domain and one for their mean.
fn plot(table: &DomainTable, comparison: &DomainComparison) -> DotPlot {
    let rows = table.ranked();
    let accuracy = |row: &Row, test: usize, seed: usize| {
        row.reached[test][seed].as_ref().map(|r| 100.0 * r.accuracy)
    };
    let panel = |title: &str, value: &dyn Fn(&Row, usize) -> Option<f64>| DotPanel {
        title: title.to_owned(),
        rows: rows
            .iter()
            .map(|row| {
                let seeds = 0..comparison.seeds.len();
                let values: Vec<f64> = seeds.filter_map(|seed| value(row, seed)).collect();
                let role = match row.objective.as_str() {
                    "erm" => Role::Baseline,
                    _ => Role::Method,
                };
                (!values.is_empty()).then(|| DotRow {
                    label: row.objective.clone(),
                    role,
                    values,
                })
            })
            .collect(),
    };
    let tests = table.tests.iter().enumerate();
    let mut panels: Vec<DotPanel> = tests
        .map(|(test, name)| panel(name, &|row, seed| accuracy(row, test, seed)))
        .collect();
    if table.tests.len() > 1 {
        let mean = panel("mean", &|row, seed| {
            let tests = table.tests.len();
            let sum = (0..tests)
                .map(|test| accuracy(row, test, seed))
                .sum::<Option<f64>>()?;
            Some(sum / tests as f64)
        });
        panels.insert(0, mean);
    }
    DotPlot {
        title: format!(
            "{} on {}, chosen by {}",
            comparison.model.name(),
            comparison.domains.source,
            table.selection.name().replace('-', " ")
        ),
        x_label: "right answers in the test domain, %: a dot per seed; mean and standard deviation"
            .to_owned(),
        labels: rows.iter().map(|row| row.objective.clone()).collect(),
        panels,
    }
}
