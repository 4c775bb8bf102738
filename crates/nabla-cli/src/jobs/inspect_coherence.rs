//! `nabla inspect coherence`: how much the gradients of examples agree.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::claims::plot::{LinePlot, Series};
use nabla::probe::coherence::{
    ClassifierCoherence, Coherence, CoherenceCurve, CoherenceError, LayeredCoherence, Moment,
};
use nabla::probe::sharpness::ClassifierLoss;
use nabla::train::data_set::DataSet;
use nabla::train::gradient_source::GradientSources;
use serde::Serialize;

use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::inspected_model::{Inspected, InspectedFlags, drawn};
use crate::jobs::plot_file;
use crate::output::table;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    inspected: InspectedFlags,
    /// Repeat the training, and measure on its way
    #[arg(long)]
    over_training: bool,
    /// The number of hardest and of easiest examples to tell
    #[arg(long, value_name = "N", default_value_t = 5)]
    extremes: usize,
    /// A plot of the coherence over the training, an SVG file
    #[arg(short, long, value_name = "FILE", requires = "over_training")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceFlag,
}

/// An example at one end of the alignments.
#[derive(Clone, Serialize)]
struct Extreme {
    /// In the data set, from 0.
    example: usize,
    class: String,
    /// The cosine of its gradient and the sum of all others.
    alignment: f64,
    right: bool,
}

#[derive(Serialize)]
struct Found {
    model: String,
    loss: f64,
    accuracy: f64,
    coherence: LayeredCoherence,
    /// The lowest alignments first.
    hardest: Vec<Extreme>,
    /// The highest alignments first.
    easiest: Vec<Extreme>,
    #[serde(skip_serializing_if = "Option::is_none")]
    over_training: Option<Curve>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plot: Option<PathBuf>,
}

/// The training, and when it learnt which example.
#[derive(Serialize)]
struct Curve {
    moments: Vec<Moment>,
    /// In the data set, from 0.
    examples: Vec<usize>,
    /// The first of the moments at which each was right.
    first_learnt: Vec<Option<usize>>,
    /// The moment since which each has been right.
    learnt_since: Vec<Option<usize>>,
}

fn failed(error: CoherenceError) -> Failure {
    match error {
        CoherenceError::Stopped => Failure::interrupted(),
        CoherenceError::TooFew(_) | CoherenceError::NoGradients => Failure::input(error),
        _ => Failure::run(error),
    }
}

impl Arguments {
    fn measured(&self, inspected: Inspected<'_>) -> Result<Found, Failure> {
        let Inspected {
            model,
            config,
            labels,
            examples,
            indices,
            ..
        } = inspected;
        let loss = ClassifierLoss::new(model, examples, &indices, false).map_err(Failure::run)?;
        let (mean_loss, accuracy) = loss.loss().map_err(Failure::run)?;
        let right = loss.answers().map_err(Failure::run)?;
        let found = ClassifierCoherence::of(&loss, true).map_err(failed)?;
        let mut order: Vec<usize> = (0..indices.len()).collect();
        let cosine = |i: usize| found.alignments[i].cosine;
        order.sort_by(|&a, &b| cosine(a).total_cmp(&cosine(b)));
        let class = |label: u32| {
            config
                .classes
                .get(label as usize)
                .cloned()
                .unwrap_or_default()
        };
        let extreme = |&i: &usize| Extreme {
            example: indices[i],
            class: class(labels[indices[i]]),
            alignment: cosine(i),
            right: right[i],
        };
        let count = self.extremes;
        Ok(Found {
            model: config.model.name(),
            loss: mean_loss,
            accuracy,
            coherence: found.coherence,
            hardest: order.iter().take(count).map(extreme).collect(),
            easiest: order.iter().rev().take(count).map(extreme).collect(),
            over_training: None,
            plot: self.out.clone(),
        })
    }
}

/// Moments of a training, beside its beginning.
const MOMENTS: usize = 12;

/// Steps that are evenly spaced in their logarithms, from 0 to the last.
fn moments(steps: usize) -> Vec<usize> {
    let at = |k: usize| (steps as f64).powf(k as f64 / MOMENTS as f64).round() as usize;
    let mut all: Vec<usize> = [0].into_iter().chain((0..=MOMENTS).map(at)).collect();
    all.dedup();
    all
}

impl Arguments {
    /// The training again.
    fn repeated(&self, device: &Device, context: &Context) -> Result<Curve, Failure> {
        let (experiment, sources) = self.inspected.training()?;
        if sources.privacy.is_some() || sources.sharing.is_some() {
            return Err(Failure::input(
                "--over-training repeats trainings of one worker that keeps no secrets, but this one was private or had several",
            ));
        }
        let data = experiment.open()?;
        let DataSet {
            training,
            test,
            shape,
            scaling,
            ..
        } = &data;
        let config = &experiment.training;
        let indices = drawn(&self.inspected, config, training, *shape)?;
        let (model, examples) = experiment.begin(&data, device)?;
        let source = match &sources.robust {
            Some(robust) => {
                let plan = config.plan(training.len(), 0, !scaling.means.is_empty());
                robust.source(&model, plan).map_err(Failure::input)?
            }
            None => None,
        };
        let mut trainer = config
            .trainer(training, test, *shape, model)
            .map_err(Failure::input)?;
        if let Some(source) = source {
            trainer.task_mut().set_source(source);
        }
        let progress = context.progress();
        progress.begin("repeating the training", trainer.steps() as u64);
        let steps = moments(trainer.steps());
        let seen = examples.without_changes();
        let observe = &mut || {
            progress.advance(1);
            context.go_on()
        };
        let curve = CoherenceCurve::of(&mut trainer, &seen, &indices, &steps, observe);
        let CoherenceCurve { moments, learnt } = curve.map_err(failed)?;
        Ok(Curve {
            moments,
            examples: indices,
            first_learnt: learnt.first().to_vec(),
            learnt_since: learnt.since().to_vec(),
        })
    }
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        if let Some(path) = &self.out {
            plot_file::check(path)?;
        }
        if self.over_training && self.inspected.is_other_data() {
            return Err(Failure::input(
                "--over-training repeats the training on its own training examples: leave out --data and --test-set",
            ));
        }
        let device = self.device.open()?;
        let mut found = self
            .inspected
            .inspect(&device, |inspected| self.measured(inspected))?;
        if self.over_training {
            found.over_training = Some(self.repeated(&device, context)?);
        }
        if let (Some(path), Some(curve)) = (&self.out, &found.over_training) {
            write_plot(path, &found, curve)?;
        }
        context.report(&found, || told(&found, &self.inspected))
    }
}

fn write_plot(path: &Path, found: &Found, curve: &Curve) -> Result<(), Failure> {
    let coherence = |of: &dyn Fn(&LayeredCoherence) -> Option<Coherence>| -> Vec<[f64; 2]> {
        let moments = curve.moments.iter().filter(|moment| moment.step > 0);
        let points = moments.filter_map(|moment| {
            Some([
                moment.step as f64,
                of(moment.coherence.as_ref()?)?.m_coherence,
            ])
        });
        points.collect()
    };
    let title = format!("{} on {} examples", found.model, curve.examples.len());
    let mut plot = LinePlot::new(title, "step", "m-coherence").log_x().log_y();
    plot = plot.with_series(Series::new("all weights", coherence(&|c| Some(c.whole))));
    let layers = found.coherence.layers.iter().enumerate();
    // More lines than this are not told apart.
    for (k, (name, _)) in layers.take(7) {
        plot = plot.with_series(Series::new(name, coherence(&|c| c.layers.get(k)?.1)));
    }
    plot_file::write(path, &plot)
}

fn row(name: &str, coherence: &Coherence) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{:.3}", coherence.m_coherence),
        format!("{:.5}", coherence.alpha),
        format!("{:.5}", coherence.alpha_unbiased),
    ]
}

fn told(found: &Found, flags: &InspectedFlags) -> String {
    let heading = ["", "m-coherence", "alpha", "unbiased"]
        .map(str::to_owned)
        .to_vec();
    let mut rows = vec![heading, row("all weights", &found.coherence.whole)];
    for (name, coherence) in &found.coherence.layers {
        rows.push(match coherence {
            Some(coherence) => row(name, coherence),
            None => vec![name.clone(), "no gradient".to_owned()],
        });
    }
    let mut told = format!(
        "{} of {} on {}: loss {:.4}, {:.2} % right\n{}",
        found.model,
        flags.folder().display(),
        flags.described(found.coherence.whole.examples),
        found.loss,
        100.0 * found.accuracy,
        table(&rows),
    );
    for (kind, extremes) in [("hardest", &found.hardest), ("easiest", &found.easiest)] {
        let each: Vec<String> = extremes
            .iter()
            .map(|e| {
                let wrong = if e.right { "" } else { ", answered wrongly" };
                format!("{} ({}{wrong}) {:.2}", e.example, e.class, e.alignment)
            })
            .collect();
        if !each.is_empty() {
            told += &format!("{kind} examples by their alignment: {}\n", each.join("; "));
        }
    }
    if let Some(curve) = &found.over_training {
        let heading = [
            "step",
            "loss",
            "right, %",
            "m-coherence",
            "learnt for good, %",
        ]
        .map(str::to_owned)
        .to_vec();
        let mut rows = vec![heading];
        for moment in &curve.moments {
            let learnt = curve
                .learnt_since
                .iter()
                .flatten()
                .filter(|&&since| since <= moment.step)
                .count();
            rows.push(vec![
                moment.step.to_string(),
                format!("{:.4}", moment.loss),
                format!("{:.2}", 100.0 * moment.accuracy),
                moment
                    .coherence
                    .as_ref()
                    .map_or("none".to_owned(), |c| format!("{:.3}", c.whole.m_coherence)),
                format!(
                    "{:.2}",
                    100.0 * learnt as f64 / curve.examples.len().max(1) as f64
                ),
            ]);
        }
        told += &table(&rows);
    }
    if let Some(plot) = &found.plot {
        told += &format!("{}: the coherence over the training\n", plot.display());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_begin_at_the_first_weights_and_end_with_the_training() {
        assert_eq!(moments(1), [0, 1]);
        let found = moments(1000);
        assert_eq!((found[0], found[1], found[found.len() - 1]), (0, 1, 1000));
        assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
