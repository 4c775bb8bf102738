//! Gauge freedom: what a field may have beside the score, and what that does to dimensions read from its flow.
//!
//! * **Exactness**: a mixture of three Gaussians in the plane, whose score is known, with noise from 8 down to 0.02. To
//!   the score is added nothing, a gauge field of half or twice its size, or a rotation that is no gauge field; or the
//!   score is scaled. The starts are drawn from the mixture with noise 8, so nothing else is wrong.
//! * **Dimensions from exact scores**: circles and spheres, noise from 10 down to 0.01, with gauge fields `c A ∇ln p`,
//!   `A` random and antisymmetric of spectral norm 1.
//! * **Dimensions from trained networks**: 2000 points of a sphere and of a Swiss roll, in three and in five dimensions;
//!   networks of the same number of parameters, trained in the same way.

use nabla_claims::plot::{LinePlot, Series};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::trace::Probe;
use nabla_probe::gauge_freedom::{
    Criterion, Divergence, FlowGrid, FlowJacobian, FlowSpectrum, GaugeError, Gauged,
    GaussianMixtureScore, HostField, MixtureComponent, SphereScore, VectorField, flow_samples,
    flow_singular_values, gauge_residual, intrinsic_dimension, log_density,
};
use nabla_train::sliced_wasserstein::{SliceDirections, WassersteinOrder, sliced_wasserstein};
use rand::RngExt;
use serde::{Deserialize, Serialize};

mod trained;

const MIXTURE: Task = Task::named("mixture, exact scores");

const SCORE: Variant = Variant::method("score");
const HALF: Variant = Variant::method("score and half a gauge field");
const TWICE: Variant = Variant::method("score and twice a gauge field");
const FIVE: Variant = Variant::method("score and five times a gauge field");
const ROTATED: Variant = Variant::baseline("score and a rotation");
const SCALED: Variant = Variant::baseline("1.2 times the score");
const TRUTH: Variant = Variant::baseline("other data");

const DISTANCE: Metric = Metric::lower("sliced Wasserstein distance to data", "");
const DENSITY: Metric = Metric::lower("mean error of ln p", "");
const RESIDUAL: Metric = Metric::lower("gauge residual at σ = 0.5", "");
const SLOPE: Metric = Metric::higher("right dimension by slope", "%");
const GAP: Metric = Metric::higher("right dimension by gap", "%");
const SHARE: Metric = Metric::informative("right dimension by share of the largest", "%");
const SPREAD: Metric = Metric::informative("largest over smallest tangent singular value", "");

fn failed(error: GaugeError) -> ClaimError {
    ClaimError::experiment(error)
}

fn normal(count: usize, noise: &mut SeededNoise) -> Vec<f64> {
    Probe::Gaussian.draw(count, noise)
}

fn distance(one: &[f64], other: &[f64], dimension: usize) -> Result<f64, ClaimError> {
    let directions = SliceDirections::random(dimension, 64, 5).map_err(ClaimError::experiment)?;
    sliced_wasserstein(one, other, WassersteinOrder::First, &directions)
        .map_err(ClaimError::experiment)
}

const MEANS: [[f64; 2]; 3] = [[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.0]];
const DEVIATIONS: [f64; 3] = [0.15, 0.3, 0.2];
const WEIGHTS: [f64; 3] = [0.5, 0.3, 0.2];

fn mixture() -> Result<GaussianMixtureScore, ClaimError> {
    let part = |k: usize| MixtureComponent::isotropic(WEIGHTS[k], MEANS[k].to_vec(), DEVIATIONS[k]);
    GaussianMixtureScore::new((0..3).map(part).collect()).map_err(failed)
}

/// Points of the mixture with noise.
fn mixture_points(count: usize, sigma: f64, noise: &mut SeededNoise) -> Vec<f64> {
    let mut points = Vec::with_capacity(2 * count);
    for _ in 0..count {
        let share: f64 = noise.random();
        let part = usize::from(share > 0.5) + usize::from(share > 0.8);
        let z = normal(2, noise);
        let each = MEANS[part].iter().zip(z);
        points.extend(each.map(|(mean, z)| mean + DEVIATIONS[part].hypot(sigma) * z));
    }
    points
}

const TURN: [f64; 4] = [0.0, -1.0, 1.0, 0.0];

/// Calls `act` with the field of a variant.
fn with_field<O>(
    variant: &Variant,
    act: impl FnOnce(&dyn VectorField) -> Result<O, ClaimError>,
) -> Result<O, ClaimError> {
    let score = mixture()?;
    let gauged = |factor: f64| Gauged::new(score.clone(), &TURN.map(|t| factor * t));
    let field = |change: fn([f64; 2], &[f64], f64) -> [f64; 2]| {
        let score = score.clone();
        HostField::new(2, move |x: &[f64], sigma| match score.eval(x, sigma) {
            Ok(s) => change([s[0], s[1]], x, sigma).to_vec(),
            Err(_) => vec![f64::NAN; 2],
        })
    };
    match variant {
        v if *v == HALF => act(&gauged(0.5).map_err(failed)?),
        v if *v == TWICE => act(&gauged(2.0).map_err(failed)?),
        v if *v == ROTATED => act(&field(|s, x, sigma| {
            let factor = 0.5 / (1.0 + sigma * sigma);
            [s[0] - factor * x[1], s[1] + factor * x[0]]
        })),
        v if *v == SCALED => act(&field(|s, _, _| s.map(|s| 1.2 * s))),
        _ => act(&score),
    }
}

/// How much is computed of the exactness.
#[derive(Clone, Copy, Debug)]
struct Budget {
    samples: usize,
    densities: usize,
    steps: usize,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Exactness {
    distance: f64,
    density: f64,
    residual: f64,
}

/// Sets of other data whose distances are averaged.
const PAIRS: usize = 10;

fn exactness(variant: &Variant, budget: Budget, seed: u64) -> Result<Exactness, ClaimError> {
    let grid = FlowGrid {
        sigma_max: 8.0,
        sigma_min: 0.02,
        steps: budget.steps,
    };
    let score = mixture()?;
    let data = mixture_points(
        budget.samples,
        grid.sigma_min,
        &mut SeededNoise::new(seed, 1),
    );
    if *variant == TRUTH {
        // One pair alone differs by chance.
        let mut noise = SeededNoise::new(seed, 2);
        let mut sum = 0.0;
        for _ in 0..PAIRS {
            let other = mixture_points(budget.samples, grid.sigma_min, &mut noise);
            sum += distance(&data, &other, 2)?;
        }
        return Ok(Exactness {
            distance: sum / PAIRS as f64,
            density: 0.0,
            residual: 0.0,
        });
    }
    let starts = mixture_points(
        budget.samples,
        grid.sigma_max,
        &mut SeededNoise::new(seed, 3),
    );
    with_field(variant, |field| {
        let drawn = flow_samples(field, &starts, &grid).map_err(failed)?;
        let x = &data[..2 * budget.densities];
        let prior = |x: &[f64]| match score.log_density(x, grid.sigma_max) {
            Ok(found) => found[0],
            Err(_) => f64::NAN,
        };
        let found = log_density(field, x, &grid, Divergence::Exact, &prior).map_err(failed)?;
        let truth = score.log_density(x, grid.sigma_min).map_err(failed)?;
        let errors = found.iter().zip(&truth).map(|(a, b)| (a - b).abs());
        let noisy = mixture_points(budget.densities, 0.5, &mut SeededNoise::new(seed, 4));
        let residual = gauge_residual(field, &score, &noisy, 0.5, Divergence::Exact);
        Ok(Exactness {
            distance: distance(&data, &drawn, 2)?,
            density: errors.sum::<f64>() / truth.len() as f64,
            residual: residual.map_err(failed)?,
        })
    })
}

fn exact_part(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<(), ClaimError> {
    let budget = match bench.quick() {
        true => Budget {
            samples: 200,
            densities: 20,
            steps: 100,
        },
        false => Budget {
            samples: 4000,
            densities: 300,
            steps: 400,
        },
    };
    let variants = [SCORE, HALF, TWICE, ROTATED, SCALED, TRUTH];
    let points: Vec<(Variant, u64)> = variants
        .iter()
        .flat_map(|v| bench.seeds().iter().map(|&seed| (v.clone(), seed)))
        .collect();
    let found = bench.measure_side_by_side(
        &Stage::new("exactness", &budget),
        &points,
        |(variant, seed)| Cell::of(&MIXTURE).variant(variant).seed(*seed),
        |(variant, seed)| exactness(variant, budget, *seed),
    )?;
    for ((variant, seed), found) in points.iter().zip(&found) {
        table.record(&MIXTURE, variant, &DISTANCE, *seed, found.distance)?;
        if *variant != TRUTH {
            table.record(&MIXTURE, variant, &DENSITY, *seed, found.density)?;
            table.record(&MIXTURE, variant, &RESIDUAL, *seed, found.residual)?;
        }
    }
    let mean = |variant: &Variant, metric: &Metric| table.mean(&MIXTURE, variant, metric);
    let floor = mean(&TRUTH, &DISTANCE)?;
    let mut distances = Vec::new();
    let mut errors = Vec::new();
    let mut residuals = Vec::new();
    for variant in [SCORE, HALF, TWICE] {
        distances.push(mean(&variant, &DISTANCE)?);
        errors.push(mean(&variant, &DENSITY)?);
        residuals.push(mean(&variant, &RESIDUAL)?);
    }
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    checks.push(
        Check::new(
            "with every gauge field, the distance to data is at most twice that of other data, and the error of \
             ln p is below 1e-5",
            most(&distances) <= 2.0 * floor && most(&errors) < 1e-5,
            format!(
                "distances up to {:.3}, other data {floor:.3}; errors up to {:.1e}",
                most(&distances),
                most(&errors)
            ),
        )
        .headline(),
    );
    let (rotated, scaled) = (mean(&ROTATED, &DISTANCE)?, mean(&SCALED, &DISTANCE)?);
    let (of_rotated, of_scaled) = (mean(&ROTATED, &DENSITY)?, mean(&SCALED, &DENSITY)?);
    checks.push(
        Check::new(
            "with a rotation, and with a scaled score, the distance to data and the error of ln p are above 0.1",
            [rotated, scaled, of_rotated, of_scaled].iter().all(|&x| x > 0.1),
            format!(
                "distances {rotated:.3} and {scaled:.3}, errors {of_rotated:.2} and {of_scaled:.2}"
            ),
        )
        .headline(),
    );
    let of_rotated = mean(&ROTATED, &RESIDUAL)?;
    checks.push(Check::new(
        "the gauge residual is below 1e-6 with every gauge field, and above 0.1 with the rotation",
        most(&residuals) < 1e-6 && of_rotated > 0.1,
        format!("{:.1e} and {of_rotated:.2}", most(&residuals)),
    ));
    Ok(())
}

/// A manifold whose score is known.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Manifold {
    intrinsic: usize,
    ambient: usize,
}

const MANIFOLDS: [Manifold; 3] = [
    Manifold {
        intrinsic: 1,
        ambient: 2,
    },
    Manifold {
        intrinsic: 2,
        ambient: 3,
    },
    Manifold {
        intrinsic: 2,
        ambient: 5,
    },
];

impl Manifold {
    fn task(self) -> Task {
        Task::named(match (self.intrinsic, self.ambient) {
            (1, _) => "circle in 2 dimensions, exact scores",
            (_, 3) => "sphere in 3 dimensions, exact scores",
            _ => "sphere in 5 dimensions, exact scores",
        })
    }
}

/// A random antisymmetric matrix of the spectral norm `norm`, by powers of `−A²`.
fn antisymmetric(d: usize, norm: f64, noise: &mut SeededNoise) -> Vec<f64> {
    let drawn = normal(d * d, noise);
    let mut matrix: Vec<f64> = (0..d * d)
        .map(|i| drawn[i] - drawn[(i % d) * d + i / d])
        .collect();
    let apply = |matrix: &[f64], v: &[f64]| -> Vec<f64> {
        let rows = matrix.chunks(d);
        rows.map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum())
            .collect()
    };
    let mut v = normal(d, noise);
    let mut length = 1.0;
    for _ in 0..2000 {
        let size = nabla_base::vector::norm(&v);
        v.iter_mut().for_each(|x| *x /= size);
        v = apply(&matrix, &v);
        length = nabla_base::vector::norm(&v);
    }
    // In a pair of eigenvalues ±iω, products of one vector are all of length ω once it is in their plane.
    matrix.iter_mut().for_each(|x| *x *= norm / length);
    matrix
}

/// What the flows of a field tell.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Readings {
    slope: f64,
    gap: f64,
    share: f64,
    spread: f64,
    /// Levels, and the mean logarithm of each singular value there.
    curve: Vec<(f64, Vec<f64>)>,
}

impl Readings {
    fn of(spectrum: &FlowSpectrum, intrinsic: usize) -> Result<Self, ClaimError> {
        let right = |criterion| -> Result<f64, ClaimError> {
            let found = intrinsic_dimension(spectrum, criterion).map_err(failed)?;
            let right = found.iter().filter(|&&d| d == intrinsic).count();
            Ok(100.0 * right as f64 / found.len() as f64)
        };
        let last = spectrum.values.last().map_or(&[][..], Vec::as_slice);
        let spreads = last.iter().map(|values| values[0] / values[intrinsic - 1]);
        let level = |(sigma, values): (&f64, &Vec<Vec<f64>>)| {
            let each = (0..values[0].len())
                .map(|i| values.iter().map(|v| v[i].ln()).sum::<f64>() / values.len() as f64);
            (*sigma, each.collect())
        };
        Ok(Self {
            slope: right(Criterion::slope())?,
            gap: right(Criterion::Gap)?,
            share: right(Criterion::Share(0.5))?,
            spread: spreads.sum::<f64>() / last.len() as f64,
            curve: spectrum
                .sigmas
                .iter()
                .zip(&spectrum.values)
                .map(level)
                .collect(),
        })
    }
}

const STARTS: usize = 32;

fn readings(
    manifold: Manifold,
    factor: f64,
    steps: usize,
    seed: u64,
) -> Result<Readings, ClaimError> {
    let d = manifold.ambient;
    let mut noise = SeededNoise::new(seed, 10);
    let matrix = antisymmetric(d, factor, &mut noise);
    let score = SphereScore::new(manifold.intrinsic, d, 1.0).map_err(failed)?;
    let field = Gauged::new(score, &matrix).map_err(failed)?;
    let config = FlowJacobian {
        grid: FlowGrid {
            steps,
            ..FlowGrid::default()
        },
        ..FlowJacobian::default()
    };
    let starts = normal(STARTS * d, &mut noise);
    let starts: Vec<f64> = starts.iter().map(|z| config.grid.sigma_max * z).collect();
    let spectrum = flow_singular_values(&field, &starts, &config).map_err(failed)?;
    Readings::of(&spectrum, manifold.intrinsic)
}

const GAUGES: [(Variant, f64); 3] = [
    (SCORE, 0.0),
    (Variant::method("score and a gauge field"), 1.0),
    (FIVE, 5.0),
];

fn dimension_part(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let steps = if bench.quick() { 200 } else { 600 };
    let mut points = Vec::new();
    for manifold in MANIFOLDS {
        for (variant, factor) in &GAUGES {
            let seeds = bench.seeds().iter();
            points.extend(seeds.map(|&seed| (manifold, variant.clone(), *factor, seed)));
        }
    }
    let found = bench.measure_side_by_side(
        &Stage::new("dimensions from exact scores", &(steps, STARTS)),
        &points,
        |(manifold, variant, _, seed)| Cell::of(&manifold.task()).variant(variant).seed(*seed),
        |&(manifold, _, factor, seed)| readings(manifold, factor, steps, seed),
    )?;
    for ((manifold, variant, _, seed), found) in points.iter().zip(&found) {
        let task = manifold.task();
        for (metric, value) in [
            (SLOPE, found.slope),
            (GAP, found.gap),
            (SHARE, found.share),
            (SPREAD, found.spread),
        ] {
            table.record(&task, variant, &metric, *seed, value)?;
        }
    }
    let least = found.iter().map(|f| f.slope).fold(100.0, f64::min);
    checks.push(
        Check::new(
            "from exact scores, the slope gives the right dimension in every flow, with every gauge field",
            least == 100.0,
            format!("at least {least:.0} % of {STARTS} flows"),
        )
        .headline(),
    );
    let sphere = MANIFOLDS[1].task();
    let mean = |variant: &Variant, metric: &Metric| table.mean(&sphere, variant, metric);
    let (plain, sheared) = (mean(&SCORE, &SPREAD)?, mean(&FIVE, &SPREAD)?);
    let (right, wrong) = (mean(&SCORE, &SHARE)?, mean(&FIVE, &SHARE)?);
    checks.push(
        Check::new(
            "on the sphere in 3 dimensions, a gauge field shears the flow: the tangent singular values differ by a \
             factor of less than 1.01 without and more than 2 with it, and the share of the largest gives the right \
             dimension in all flows without and in less than half with it",
            plain < 1.01 && sheared > 2.0 && right == 100.0 && wrong < 50.0,
            format!("factors {plain:.3} and {sheared:.2}; {right:.0} % and {wrong:.0} %"),
        )
        .headline(),
    );
    let mut plot = LinePlot::new(
        "Sphere in 3 dimensions: singular values of the flow's Jacobian",
        "σ",
        "singular value",
    )
    .log_x()
    .log_y();
    for (variant, place) in [(&SCORE, 0), (&FIVE, 2)] {
        let of = points.iter().zip(&found);
        let first = of
            .filter(|((m, v, _, _), _)| *m == MANIFOLDS[1] && v == variant)
            .map(|(_, found)| found)
            .next();
        if let Some(found) = first {
            for i in 0..3 {
                let curve = found
                    .curve
                    .iter()
                    .map(|(sigma, logs)| [*sigma, logs[i].exp()]);
                let name = format!("c = {}: value {}", GAUGES[place].1, i + 1);
                plot = plot.with_series(Series::new(name, curve));
            }
        }
    }
    Ok(plot)
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct GaugeFreedomClaim;

impl Claim for GaugeFreedomClaim {
    fn slug(&self) -> &str {
        "gauge-freedom"
    }

    fn statement(&self) -> &str {
        "A diffusion model samples and estimates densities exactly if and only if the conservative component of its field \
         is the score; that the field be conservative is neither necessary nor sufficient. To read local information \
         about the data manifold, such as its dimension, a conservative field is desirable."
    }

    fn criterion(&self) -> &str {
        "Exactness, on a mixture with known scores: with every gauge field the distance of samples to data is at most \
         twice that between two sets of data, and the mean error of ln p below 1e-5; with a rotation that is no gauge \
         field, and with a scaled score, both are above 0.1. Dimensions from exact scores: the slope of the singular \
         values gives the right one in all flows; on the sphere in 3 dimensions, a gauge field of five times the score's \
         size makes the tangent singular values differ by more than a factor of 2, against 1.01 without, and the share \
         of the largest, right in all flows without, is right in less than half with it. Trained networks: over the \
         sphere and the Swiss roll in 3 and 5 dimensions, the slope gives the right dimension in at least as many flows \
         with the deep energy as with the unconstrained network, on the mean. In detail: the same of the tied energy; the \
         energies' asymmetry is below 1e-10; the penalty lowers the asymmetry; their losses are within 5 %."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let tasks = [MIXTURE]
            .into_iter()
            .chain(MANIFOLDS.map(Manifold::task))
            .chain(trained::Shape::ALL.map(trained::Shape::task));
        let variants = [
            SCORE,
            HALF,
            GAUGES[1].0.clone(),
            TWICE,
            FIVE,
            ROTATED,
            SCALED,
            TRUTH,
        ];
        let mut table = Table::new(
            bench.seeds(),
            [DISTANCE, DENSITY, RESIDUAL, SLOPE, GAP, SHARE, SPREAD]
                .into_iter()
                .chain(trained::METRICS),
            variants
                .into_iter()
                .chain(trained::Network::ALL.map(trained::Network::variant)),
            tasks,
        )?;
        let mut checks = Vec::new();
        exact_part(bench, &mut table, &mut checks)?;
        let plot = dimension_part(bench, &mut table, &mut checks)?;
        let sizes = trained::measure(bench, &mut table, &mut checks)?;
        let mut measurement = Measurement::new(table, checks).with_plot(plot);
        measurement.notes = vec![
            "That samples are as near to data as other data is tested with a factor of 2, since sets of data differ by \
             chance."
                .to_owned(),
            sizes,
        ];
        Ok(measurement)
    }
}
