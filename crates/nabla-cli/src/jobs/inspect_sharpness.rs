//! `nabla inspect sharpness`: how sharp the loss is around the weights of a classifier, and where SGD could rest.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::range;
use nabla::claims::plot::{LinePlot, Series};
use nabla::grad::SeededNoise;
use nabla::probe::classifier_stability::{ClassifierStability, RateBounds, Rest};
use nabla::probe::dynamical_stability::{MINIMUM_LOSS, Sampling};
use nabla::probe::sharpness::{
    ClassifierLoss, Eigenvalue, Estimate, SharpnessError, Spectrum, SpectrumConfig,
};
use serde::Serialize;

use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::inspected_model::{Inspected, InspectedFlags};
use crate::jobs::plot_file;
use crate::output::table;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    inspected: InspectedFlags,
    /// Lanczos runs, each from a random start, by which trace and norm are estimated
    #[arg(long, value_name = "N", default_value_t = SpectrumConfig::default().runs)]
    runs: usize,
    /// Products with the Hessian in each run: more of them tell more of the spectrum apart
    #[arg(long, value_name = "N", default_value_t = SpectrumConfig::default().steps)]
    products: usize,
    /// The number of largest eigenvalues to tell
    #[arg(long, value_name = "N", default_value_t = SpectrumConfig::default().top)]
    top: usize,
    /// Compute in double precision, which takes about twice as long
    #[arg(long)]
    double: bool,
    /// The batch size of SGD [default: that of the training]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// A learning rate: could gradient descent, and SGD with this batch size, rest here?
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// The density of the eigenvalues as a plot, an SVG file
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceFlag,
}

/// The answer for one way of training.
#[derive(Serialize)]
struct Stability {
    batch: usize,
    rates: RateBounds,
    /// At the learning rate that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    rest: Option<Rest>,
}

#[derive(Serialize)]
struct Found {
    model: String,
    examples: usize,
    parameters: usize,
    loss: f64,
    accuracy: f64,
    trace: Estimate,
    frobenius: Estimate,
    largest: Vec<Eigenvalue>,
    smallest: Eigenvalue,
    products: usize,
    /// Of a product, as a share of its norm.
    product_error: f64,
    gauss_newton_trace: f64,
    gauss_newton_largest: Eigenvalue,
    /// Whether the Gauss-Newton matrix is the Hessian, as far as the loss tells.
    at_minimum: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    learning_rate: Option<f64>,
    gradient_descent: Stability,
    sgd: Stability,
    #[serde(skip_serializing_if = "Option::is_none")]
    plot: Option<PathBuf>,
}

impl Arguments {
    fn config(&self) -> SpectrumConfig {
        SpectrumConfig {
            runs: self.runs,
            steps: self.products,
            top: self.top.min(self.products),
            ..SpectrumConfig::default()
        }
    }
}

fn failed(error: SharpnessError) -> Failure {
    match error {
        error if error.is_stopped() => Failure::interrupted(),
        SharpnessError::Range(_) | SharpnessError::Stability(_) => Failure::input(error),
        _ => Failure::run(error),
    }
}

impl Arguments {
    fn measured(
        &self,
        inspected: Inspected<'_>,
        context: &Context,
    ) -> Result<(Found, Spectrum), Failure> {
        let Inspected {
            model,
            config,
            examples,
            indices,
            training,
            ..
        } = inspected;
        let all = examples.len();
        let batch = self.batch.unwrap_or(training.batch.min(all));
        // Of a sample, the whole is not known: a batch of it is small.
        let sampling = match indices.len() == all {
            true => Sampling::WithoutReplacement,
            false => Sampling::WithReplacement,
        };
        let wrong = |error| failed(SharpnessError::Range(error));
        range::within("batch size", batch, 1..=all).map_err(wrong)?;
        let spectrum = self.config();
        let progress = context.progress();
        let before = || {
            progress.advance(1);
            context.go_on()
        };
        if let ControlFlow::Break(()) = context.go_on() {
            return Err(Failure::interrupted());
        }
        let loss = ClassifierLoss::new(model, examples, &indices, self.double).map_err(failed)?;
        let (mean_loss, accuracy) = loss.loss().map_err(failed)?;
        let noise = |stream| SeededNoise::new(self.inspected.seed.value(), stream);
        let steps = spectrum.steps.min(loss.parameters());
        progress.begin("products with the Hessian", (spectrum.runs * steps) as u64);
        let hessian = loss.hessian(&mut noise(1)).map_err(failed)?;
        let found = Spectrum::of(&hessian, &spectrum, &mut noise(2), &before).map_err(failed)?;
        progress.begin("products with the Gauss-Newton matrix", steps as u64);
        let stability = ClassifierStability::of(&loss, spectrum.steps, &mut noise(3), &before)
            .map_err(failed)?;
        let asked = |batch: usize, rates: RateBounds| Stability {
            batch,
            rates,
            rest: self.learning_rate.map(|rate| rates.at(rate)),
        };
        let descent = stability.gradient_descent().map_err(wrong)?;
        let rates = stability.rates(batch, sampling).map_err(Failure::input)?;
        let told = Found {
            model: config.model.name(),
            examples: indices.len(),
            parameters: loss.parameters(),
            loss: mean_loss,
            accuracy,
            trace: found.trace,
            frobenius: found.frobenius,
            largest: found.highest.clone(),
            smallest: found.lowest,
            products: found.products,
            product_error: hessian.relative_error(),
            gauss_newton_trace: stability.trace,
            gauss_newton_largest: stability.lambda_max,
            at_minimum: mean_loss <= MINIMUM_LOSS,
            learning_rate: self.learning_rate,
            gradient_descent: asked(indices.len(), descent),
            sgd: asked(batch, rates),
            plot: self.out.clone(),
        };
        Ok((told, found))
    }
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        if let Some(path) = &self.out {
            plot_file::check(path)?;
        }
        self.config().validate().map_err(Failure::input)?;
        if let Some(rate) = self.learning_rate {
            range::positive("learning rate", rate).map_err(Failure::input)?;
        }
        let device = self.device.open()?;
        let (found, spectrum) = self
            .inspected
            .inspect(&device, |inspected| self.measured(inspected, context))?;
        if let Some(path) = &self.out {
            write_plot(path, &found, &spectrum)?;
        }
        context.report(&found, || told(&found, &self.inspected))
    }
}

/// The density in logarithms. One eigenvalue is still well above the floor.
fn write_plot(path: &Path, found: &Found, spectrum: &Spectrum) -> Result<(), Failure> {
    let density = &spectrum.density;
    let highest = density.density.iter().copied().fold(0.0, f64::max);
    let floor = 1e-2 * highest / found.parameters as f64;
    let points = density.grid.iter().zip(&density.density);
    let points = points.map(|(&at, &value)| [at, value.max(floor)]);
    let plot = LinePlot::new(
        format!(
            "Hessian of the {} on {} examples",
            found.model, found.examples
        ),
        "eigenvalue",
        format!("density, smoothed by {:.2}", density.sigma),
    )
    .log_y()
    .with_series(Series::new("density", points));
    plot_file::write(path, &plot)
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e5).contains(&size) => {
            let digits = (3 - size.log10().floor() as i32).max(0) as usize;
            format!("{value:.digits$}")
        }
        _ => format!("{value:.3e}"),
    }
}

fn estimate(estimate: Estimate) -> String {
    match estimate.standard_error {
        Some(error) => format!("{} ± {}", number(estimate.value), number(error)),
        None => number(estimate.value),
    }
}

fn rests(stability: &Stability) -> String {
    let RateBounds {
        rests_up_to,
        leaves_above,
    } = stability.rates;
    match number(rests_up_to) == number(leaves_above) {
        true => format!("rests up to {}", number(rests_up_to)),
        false => format!(
            "rests up to {}, leaves above {}",
            number(rests_up_to),
            number(leaves_above)
        ),
    }
}

fn answer(rest: Rest) -> &'static str {
    match rest {
        Rest::Rests => "could rest here",
        Rest::Open => "may rest here or not: the rate lies between the bounds",
        Rest::Leaves => "could not rest here",
    }
}

fn told(found: &Found, flags: &InspectedFlags) -> String {
    let eigenvalues: Vec<String> = found.largest.iter().map(|e| number(e.value)).collect();
    let sgd = format!("SGD, batches of {}", found.sgd.batch);
    let rows = [
        ["trace".to_owned(), estimate(found.trace)],
        ["Frobenius norm".to_owned(), estimate(found.frobenius)],
        ["largest eigenvalues".to_owned(), eigenvalues.join(", ")],
        [
            "smallest eigenvalue".to_owned(),
            number(found.smallest.value),
        ],
        [
            "Gauss-Newton trace".to_owned(),
            number(found.gauss_newton_trace),
        ],
        [
            "gradient descent".to_owned(),
            rests(&found.gradient_descent),
        ],
        [sgd.clone(), rests(&found.sgd)],
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    let mut told = format!(
        "{} of {} with {} parameters on {}: loss {}, {:.2} % right\n{}",
        found.model,
        flags.folder().display(),
        found.parameters,
        flags.described(found.examples),
        number(found.loss),
        100.0 * found.accuracy,
        table(&rows),
    );
    told += &format!(
        "{} products with the Hessian, each off by about {} %\n",
        found.products,
        number(100.0 * found.product_error),
    );
    if let (Some(rate), Some(descent), Some(of_sgd)) = (
        found.learning_rate,
        found.gradient_descent.rest,
        found.sgd.rest,
    ) {
        told += &format!(
            "at the learning rate {rate}, gradient descent {}, and {sgd} {}\n",
            answer(descent),
            answer(of_sgd)
        );
    }
    if !found.at_minimum {
        told += "the loss is no minimum yet, so the rates are those of its Gauss-Newton matrix\n";
    }
    if let Some(plot) = &found.plot {
        told += &format!("{}: the density of the eigenvalues\n", plot.display());
    }
    told
}
