//! The number of steps that gradient descent on the logistic loss needs to separate two classes.
//!
//! Every rule starts from `θ = 0` and stops when all examples are on the correct side. The worst case of the
//! paper (theorem 5.1) has one example `(½, −1)` of one class and `n − 1` examples `(−½, −1)` of the other.
//! The real data are the built-in handwritten digits and the Fashion-MNIST sample: two classes, pixels in
//! `[0, 1]`, and a constant 1 for the bias. In the imbalanced sets only every tenth or every fiftieth example
//! of the first class is kept. A seed draws nine tenths of the examples of each class; the worst case is the
//! same for all.
//!
//! If a rule has not separated the classes by its last allowed step, its number of steps counts as infinite.
//!
//! With growing step sizes, LR+GD is compared with its limit, the batch perceptron. The measure is the distance
//! of `θ_t/γ` from the perceptron's `θ_t`, the largest over the first 20 steps, in units of `R/n`. The longest of
//! the `n` examples changes `θ` by this much in a step of the perceptron: below 1, no example was treated
//! differently.

use std::ops::ControlFlow;

use nabla_base::rate_fit::power_rate;
use nabla_base::vector::distance;
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Role, Series, Stage,
    Table, TableError, Task, Variant,
};
use nabla_data::{LabelledPictures, LabelledRows, digits, fashion_sample};
use nabla_solve::normalized_lr::{Rule, iteration_bound, maximal_margin, radius, separate};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

const STEPS: Metric = Metric::lower("steps to separation", "");
const PEAK: Metric = Metric::lower("highest loss", "");
const DISTANCE: Metric = Metric::lower("θ/γ to the batch perceptron", "R/n");
const BOUND: Metric = Metric::informative("bound of theorem 6.1", "");

const WORST: Task = Task::named("worst case, n = 1000");

const STEP_SIZES: [f64; 4] = [0.1, 1.0, 10.0, 100.0];
/// The step sizes `γ` of LR+GD on the way to its limit.
const GROWING: [f64; 4] = [1.0, 100.0, 1e4, 1e6];
/// The number of steps compared with those of the limit.
const FIRST_STEPS: usize = 20;
/// The distance from the limit, in `R/n`, below which there is only rounding.
const ROUNDING: f64 = 1e-9;
/// The share by which the found margin may be smaller than the largest; the bound is looser by as much.
const MARGIN_TOLERANCE: f64 = 0.01;

/// The numbers of the paper's table 1 for the worst case.
const PUBLISHED_NORMALIZED: [usize; 4] = [157, 16, 2, 2];
const PUBLISHED_PLAIN: usize = 308;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct NormalizedLrClaim;

/// Two classes of the built-in pictures.
struct Pair {
    task: Task,
    fashion: bool,
    classes: [u8; 2],
    /// One of this many examples of the first class is kept.
    one_in: usize,
}

const PAIRS: [Pair; 8] = [
    pair("digits 3 / 8", false, [3, 8], 1),
    pair("digits 4 / 9", false, [4, 9], 1),
    pair("digits 1 / 8", false, [1, 8], 1),
    pair("digits 1 / 8, one in 10", false, [1, 8], 10),
    pair("digits 1 / 8, one in 50", false, [1, 8], 50),
    pair("fashion trouser / dress", true, [1, 3], 1),
    pair("fashion trouser / dress, one in 10", true, [1, 3], 10),
    pair("fashion trouser / dress, one in 50", true, [1, 3], 50),
];

const fn pair(name: &'static str, fashion: bool, classes: [u8; 2], one_in: usize) -> Pair {
    Pair {
        task: Task::named(name),
        fashion,
        classes,
        one_in,
    }
}

fn normalized(step_size: f64) -> Variant {
    Variant::of(Role::Method, format!("Normalized LR+GD, γ = {step_size}"))
}

fn plain(step_size: f64) -> Variant {
    Variant::of(Role::Baseline, format!("LR+GD, γ = {step_size}"))
}

/// The limits of large steps.
const PERCEPTRONS: [(Variant, Rule); 3] = [
    (
        Variant::baseline("Normalized Batch Perceptron"),
        Rule::NormalizedBatchPerceptron,
    ),
    (Variant::baseline("Batch Perceptron"), Rule::BatchPerceptron),
    (Variant::baseline("Perceptron"), Rule::Perceptron),
];

/// All rules.
fn rules() -> Vec<(Variant, Rule)> {
    let [.., large, largest] = GROWING;
    let plain_sizes = STEP_SIZES.into_iter().chain([large, largest]);
    STEP_SIZES
        .into_iter()
        .map(|g| (normalized(g), Rule::NormalizedGradientDescent(g)))
        .chain(plain_sizes.map(|g| (plain(g), Rule::GradientDescent(g))))
        .chain(PERCEPTRONS)
        .collect()
}

impl Claim for NormalizedLrClaim {
    fn slug(&self) -> &str {
        "normalized-lr"
    }

    fn version(&self) -> u32 {
        2
    }

    fn statement(&self) -> &str {
        "Gradient descent on the logistic loss (LR+GD) becomes the batch perceptron as its step size γ goes \
         to infinity; larger γ give higher losses, but separate the classes in fewer steps. The number of \
         steps may still grow with the number n of examples, where that of Normalized LR+GD hardly does. \
         In detail: Normalized LR+GD needs at most R²/μ² + 2 log(2n − 1)/(γ μ²) steps, and fewer than \
         LR+GD on imbalanced data."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds. On each balanced real set: over the first 20 steps θ/γ of LR+GD is nearer to \
         the θ of the batch perceptron with each larger γ of 1, 100, 10^4 and 10^6 (or as near as \
         rounding allows), and at last nearer than R/n, which is what one example changes in a step; \
         LR+GD takes fewer steps at γ = 100 than at γ = 1, and its highest loss is higher. In the worst \
         case, over n from 100 to 2000, LR+GD's steps (γ = 100) grow as n to the power 0.95 to 1.05 and \
         Normalized LR+GD's (γ = 0.1) to at most 0.2. In detail: the same of large steps on the \
         imbalanced sets, and fewer of them in the worst case; the highest loss rises with each larger γ \
         of 100, 10^4 and 10^6; the worst case takes exactly the steps of the paper's table 1; on the \
         imbalanced sets the best γ of Normalized LR+GD needs no more steps than that of LR+GD, both up \
         to 100; no count of Normalized LR+GD is above the bound of theorem 6.1 with the data's own \
         margin, found within 1%."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let most = if bench.quick() { 1_200 } else { 10_000 };
        let pairs = if bench.quick() {
            &PAIRS[1..4]
        } else {
            &PAIRS[..]
        };
        let rules = rules();
        let mut table = Table::new(
            bench.seeds(),
            [STEPS, PEAK, DISTANCE, BOUND],
            rules.iter().map(|(variant, _)| variant.clone()),
            std::iter::once(WORST).chain(pairs.iter().map(|pair| pair.task.clone())),
        )?;
        let worst = worst_case(1000)?;
        let found = bench.measure(
            &Stage::new("normalized LR, worst case", &LIMIT),
            &rules,
            |(variant, _)| Cell::of(&WORST).variant(variant),
            |&(_, rule)| steps(&worst, rule, LIMIT),
        )?;
        for ((variant, _), steps) in rules.iter().zip(found) {
            table.record_for_every_seed(&WORST, variant, &STEPS, steps)?;
        }
        let digits = digits().map_err(ClaimError::experiment)?;
        let [fashion, _] = fashion_sample().map_err(ClaimError::experiment)?;
        let pictures = [digits, fashion];
        let excesses = real_data(bench, &rules, pairs, &pictures, most, &mut table)?;
        limit(bench, pairs, &pictures, &mut table)?;

        let mut checks = Vec::new();
        for pair in pairs {
            checks.extend(large_steps(&table, pair)?);
        }
        checks.push(table.compare(&WORST, &STEPS, &plain(100.0), &plain(1.0))?);
        let (growth, curves) = growth(bench)?;
        checks.extend(growth);
        checks.extend(published(&table)?);
        for pair in pairs.iter().filter(|pair| pair.one_in > 1) {
            let best = |variant: fn(f64) -> Variant| -> Result<f64, ClaimError> {
                STEP_SIZES.iter().try_fold(f64::INFINITY, |least, &g| {
                    Ok(least.min(table.mean(&pair.task, &variant(g), &STEPS)?))
                })
            };
            let [method, baseline] = [best(normalized)?, best(plain)?];
            checks.push(Check::new(
                format!("{}: Normalized LR+GD needs no more steps", pair.task),
                method <= baseline,
                format!("{method:.0} against {baseline:.0} at the best γ of each"),
            ));
        }
        checks.push(Check::new(
            "no count of Normalized LR+GD above the bound of theorem 6.1",
            excesses.is_empty(),
            if excesses.is_empty() {
                "on every set, seed and γ".into()
            } else {
                excesses.join("; ")
            },
        ));
        let mut plot = LinePlot::new(
            "The worst case: steps to separation",
            "examples n",
            "steps to separation",
        )
        .log_x()
        .log_y();
        for curve in curves {
            plot = plot.with_series(curve);
        }
        Ok(Measurement::new(table, checks)
            .with_plot(plot)
            .with_note(format!(
                "A rule that needs more than {most} steps on real data counts as infinite. On \
                 balanced data the paper finds LR+GD slightly faster, and so Normalized LR+GD is judged \
                 on the imbalanced sets only."
            ))
            .with_note(
                "Every run begins at θ = 0 with a loss of ln 2 = 0.6931, which is the highest loss of one \
                 that never rises above it. A rule that has separated the classes stays where it is, also \
                 where it is compared with the limit.",
            ))
    }
}

/// The largest number of steps of a rule in the worst case.
const LIMIT: usize = 100_000;

/// The steps that one rule needs on one pair of classes.
#[derive(Serialize, Deserialize)]
struct Separation {
    steps: f64,
    /// The highest loss, for plain gradient descent.
    peak: Option<f64>,
    /// Of normalised gradient descent.
    bound: Option<f64>,
}

/// Records the steps that the rules need on real data; returns in words where a rule exceeds its bound or has
/// none.
fn real_data(
    bench: &Bench<'_>,
    rules: &[(Variant, Rule)],
    pairs: &[Pair],
    pictures: &[LabelledPictures; 2],
    most: usize,
    table: &mut Table,
) -> Result<Vec<String>, ClaimError> {
    let mut points = Vec::new();
    for pair in pairs {
        for &seed in bench.seeds() {
            let of_rule = |(variant, rule)| (pair, seed, variant, rule);
            points.extend(rules.iter().map(|(v, r)| (v, *r)).map(of_rule));
        }
    }
    // Computed for the first cell of a pair and seed that is not stored: examples, radius and margin.
    let mut read: Option<(&Pair, u64, Examples)> = None;
    let found = bench.measure(
        &Stage::new("normalized LR", &most),
        &points,
        |(pair, seed, variant, _)| Cell::of(&pair.task).variant(variant).seed(*seed),
        |&(pair, seed, _, rule)| {
            let examples = match read.take() {
                Some((p, s, examples)) if p.task == pair.task && s == seed => examples,
                _ => Examples::of(pair.rows(pictures, seed)?)?,
            };
            let (_, _, examples) = read.insert((pair, seed, examples));
            let (steps, peak) = search(&examples.rows, rule, most)?;
            Ok(Separation {
                steps,
                peak: matches!(rule, Rule::GradientDescent(_)).then_some(peak),
                bound: match rule {
                    Rule::NormalizedGradientDescent(step_size) => Some(examples.bound(step_size)),
                    _ => None,
                },
            })
        },
    )?;
    let mut excesses = Vec::new();
    for (&(pair, seed, variant, _), separation) in points.iter().zip(found) {
        let Separation { steps, peak, bound } = separation;
        table.record(&pair.task, variant, &STEPS, seed, steps)?;
        if let Some(peak) = peak {
            table.record(&pair.task, variant, &PEAK, seed, peak)?;
        }
        if let Some(bound) = bound {
            table.record(&pair.task, variant, &BOUND, seed, bound)?;
            excesses.extend(excess(steps, bound).map(|why| {
                let task = &pair.task;
                format!("{task}, {variant}, seed {seed}: {why}")
            }));
        }
    }
    Ok(excesses)
}

/// The reason, in words, why a count is not within its bound.
fn excess(steps: f64, bound: f64) -> Option<String> {
    if bound.is_nan() {
        Some("the margin was not found".to_owned())
    } else if steps > bound {
        Some(format!("{steps} > {bound:.0}"))
    } else {
        None
    }
}

/// Records how far LR+GD is from its limit, with a cell for each pair and seed.
fn limit(
    bench: &Bench<'_>,
    pairs: &[Pair],
    pictures: &[LabelledPictures; 2],
    table: &mut Table,
) -> Result<(), ClaimError> {
    let mut points = Vec::new();
    for pair in pairs {
        for &seed in bench.seeds() {
            points.push((pair, seed));
        }
    }
    let found = bench.measure(
        &Stage::new("normalized LR, large steps", &(FIRST_STEPS, GROWING)),
        &points,
        |(pair, seed)| Cell::of(&pair.task).seed(*seed),
        |(pair, seed)| distances(&pair.rows(pictures, *seed)?),
    )?;
    for ((pair, seed), distances) in points.iter().zip(found) {
        for (step_size, distance) in GROWING.into_iter().zip(distances) {
            let variant = plain(step_size);
            table.record(&pair.task, &variant, &DISTANCE, *seed, distance)?;
        }
    }
    Ok(())
}

/// The largest distance of `θ_t/γ` from the batch perceptron's `θ_t` for each `γ` of [`GROWING`], in `R/n`.
fn distances(rows: &LabelledRows) -> Result<Vec<f64>, ClaimError> {
    // θ_1 … θ_20
    let path = |rule: Rule| -> Result<Vec<Vec<f64>>, ClaimError> {
        let mut path = Vec::new();
        for steps in 1..=FIRST_STEPS {
            let found = separate(rows, rule, steps, &mut |_| ControlFlow::Continue(()));
            path.push(found.map_err(ClaimError::experiment)?.theta);
        }
        Ok(path)
    };
    let perceptron = path(Rule::BatchPerceptron)?;
    let unit = radius(rows) / rows.len() as f64;
    let mut distances = Vec::new();
    for step_size in GROWING {
        let own = path(Rule::GradientDescent(step_size))?;
        let apart = own.iter().zip(&perceptron).map(|(theta, limit)| {
            let theta: Vec<f64> = theta.iter().map(|x| x / step_size).collect();
            let apart = distance(&theta, limit) / unit;
            if apart.is_nan() { f64::INFINITY } else { apart }
        });
        distances.push(apart.fold(0.0, f64::max));
    }
    Ok(distances)
}

/// Examples with the quantities that the bound needs.
struct Examples {
    rows: LabelledRows,
    radius: f64,
    margin: Option<f64>,
}

impl Examples {
    fn of(rows: LabelledRows) -> Result<Self, ClaimError> {
        Ok(Self {
            radius: radius(&rows),
            margin: maximal_margin(&rows, MARGIN_TOLERANCE, 100_000)
                .map_err(ClaimError::experiment)?,
            rows,
        })
    }

    fn bound(&self, step_size: f64) -> f64 {
        self.margin.map_or(f64::NAN, |margin| {
            iteration_bound(self.radius, margin, self.rows.len(), step_size)
        })
    }
}

/// One example of one class and `n − 1` of the other (theorem 5.1).
fn worst_case(n: usize) -> Result<LabelledRows, ClaimError> {
    let mut rows = LabelledRows::new(2);
    for i in 0..n {
        let (label, x) = if i == 0 { (1.0, 0.5) } else { (-1.0, -0.5) };
        rows.push(label, [(0, x), (1, -1.0)])
            .map_err(ClaimError::experiment)?;
    }
    Ok(rows)
}

/// The number of steps until the classes are separated (infinite if they are not after `most`), and the highest
/// loss.
fn search(rows: &LabelledRows, rule: Rule, most: usize) -> Result<(f64, f64), ClaimError> {
    let mut peak = f64::NEG_INFINITY;
    let found = separate(rows, rule, most, &mut |step| {
        peak = peak.max(step.loss);
        ControlFlow::Continue(())
    })
    .map_err(ClaimError::experiment)?;
    let steps = if found.separated {
        found.iterations as f64
    } else {
        f64::INFINITY
    };
    Ok((steps, peak))
}

fn steps(rows: &LabelledRows, rule: Rule, most: usize) -> Result<f64, ClaimError> {
    Ok(search(rows, rule, most)?.0)
}

impl Pair {
    /// Nine tenths of the examples, with the bias as the last feature.
    ///
    /// - `pictures`: the digits, then fashion
    fn rows(
        &self,
        pictures: &[LabelledPictures; 2],
        seed: u64,
    ) -> Result<LabelledRows, ClaimError> {
        let pictures = &pictures[usize::from(self.fashion)];
        let mut random = StdRng::seed_from_u64(seed);
        let mut chosen: Vec<usize> = Vec::new();
        for (class, one_in) in self.classes.into_iter().zip([self.one_in, 1]) {
            let all = (0..pictures.len()).filter(|&i| pictures.labels()[i] == class);
            let mut some: Vec<usize> = all.step_by(one_in).collect();
            some.shuffle(&mut random);
            some.truncate((some.len() * 9).div_ceil(10));
            chosen.extend(some);
        }
        chosen.sort_unstable();
        let pixels: usize = pictures.shape().iter().product();
        let white = f64::from(pictures.white());
        let mut rows = LabelledRows::new(pixels + 1);
        for i in chosen {
            let first = pictures.labels()[i] == self.classes[0];
            let features = pictures
                .pixels(i)
                .iter()
                .map(|&v| f64::from(v) / white)
                .chain([1.0])
                .enumerate()
                .filter(|&(_, v)| v != 0.0);
            rows.push(if first { 1.0 } else { -1.0 }, features)
                .map_err(ClaimError::experiment)?;
        }
        Ok(rows)
    }
}

/// The checks that large steps turn LR+GD on a pair of classes into the batch perceptron, with higher losses but
/// fewer steps. On balanced data they are headlines.
fn large_steps(table: &Table, pair: &Pair) -> Result<Vec<Check>, TableError> {
    let task = &pair.task;
    let (small, large) = (plain(1.0), plain(100.0));
    let said = [
        nearer(table, task)?,
        table.compare(task, &STEPS, &large, &small)?,
        table.compare(task, &PEAK, &small, &large)?,
    ];
    let said = said.map(|check| check.headline_if(pair.one_in == 1));
    Ok(said.into_iter().chain([rising(table, task)?]).collect())
}

/// The means of a metric of LR+GD for these `γ`.
fn at(
    table: &Table,
    task: &Task,
    metric: &Metric,
    step_sizes: &[f64],
) -> Result<Vec<f64>, TableError> {
    let mean = |&step_size: &f64| table.mean(task, &plain(step_size), metric);
    step_sizes.iter().map(mean).collect()
}

/// Formats numbers as a list.
fn list(numbers: &[f64]) -> String {
    let words: Vec<String> = numbers.iter().map(|x| format!("{x:.2e}")).collect();
    words.join(", ")
}

/// The check that LR+GD approaches its limit.
fn nearer(table: &Table, task: &Task) -> Result<Check, TableError> {
    let distances = at(table, task, &DISTANCE, &GROWING)?;
    let nearer = |pair: &[f64]| pair[1] < pair[0] || pair[1] < ROUNDING;
    Ok(Check::new(
        format!(
            "{task}: θ/γ of LR+GD is nearer to the batch perceptron with each larger γ, and at last nearer \
             than one example in one step"
        ),
        distances.windows(2).all(nearer) && distances.last().is_some_and(|&last| last < 1.0),
        format!("{} R/n at γ = 1, 100, 10^4, 10^6", list(&distances)),
    ))
}

/// The check that the loss keeps rising on the way to the limit.
fn rising(table: &Table, task: &Task) -> Result<Check, TableError> {
    let losses = at(table, task, &PEAK, &GROWING[1..])?;
    Ok(Check::new(
        format!("{task}: the highest loss of LR+GD rises with each larger γ from 100 on"),
        losses.windows(2).all(|pair| pair[0] < pair[1]),
        format!("{} at γ = 100, 10^4, 10^6", list(&losses)),
    ))
}

/// The paper's table 1 for the worst case, number by number.
fn published(table: &Table) -> Result<Vec<Check>, ClaimError> {
    let expected = STEP_SIZES
        .iter()
        .zip(PUBLISHED_NORMALIZED)
        .map(|(&g, count)| (normalized(g), count))
        .chain([(plain(100.0), PUBLISHED_PLAIN)]);
    expected
        .map(|(variant, count)| {
            let found = table.mean(&WORST, &variant, &STEPS)?;
            Ok(Check::new(
                format!("worst case: {variant} takes the {count} steps of the paper's table 1"),
                found == count as f64,
                format!("{found}"),
            ))
        })
        .collect()
}

/// How the steps grow with the number of examples.
fn growth(bench: &Bench<'_>) -> Result<(Vec<Check>, Vec<Series>), ClaimError> {
    let sizes: &[usize] = if bench.quick() {
        &[100, 1000]
    } else {
        &[100, 300, 500, 1000, 2000]
    };
    let mut checks = Vec::new();
    let mut curves = Vec::new();
    for (variant, rule, powers) in [
        (plain(100.0), Rule::GradientDescent(100.0), 0.95..=1.05),
        (
            normalized(0.1),
            Rule::NormalizedGradientDescent(0.1),
            0.0..=0.2,
        ),
    ] {
        let found = bench.measure(
            &Stage::new("normalized LR, number of examples", &LIMIT),
            sizes,
            |n| Cell::whole().variant(&variant).part(format!("n = {n}")),
            |&n| steps(&worst_case(n)?, rule, LIMIT),
        )?;
        let counts = || {
            let sizes = sizes.iter().map(|&n| n as f64);
            sizes.zip(found.iter().copied())
        };
        let power = power_rate(counts()).map_or(f64::NAN, |fit| fit.rate);
        let check = Check::new(
            format!(
                "worst case: {variant} grows as n to the power {} to {}",
                powers.start(),
                powers.end()
            ),
            powers.contains(&power),
            format!("power {power:.3}"),
        );
        checks.push(check.headline());
        curves.push(Series::new(variant.name(), counts().map(|(n, c)| [n, c])));
    }
    Ok((checks, curves))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_form_runs_whole() {
        let result = crate::QUICK.result("normalized-lr").unwrap();
        assert!(result.quick);
        // There are four checks of large steps on three sets, fewer steps in the worst case, its growth and
        // table 1, the one imbalanced set, and the bound.
        assert_eq!(result.checks.len(), 3 * 4 + 1 + 2 + 5 + 1 + 1);
        let headlines = result.checks.iter().filter(|check| check.headline);
        // There are three on each of the two balanced sets, and the growth.
        assert_eq!(headlines.count(), 2 * 3 + 2);
        let bound = result.checks.last().unwrap();
        assert!(bound.holds, "{}", bound.detail);
    }

    /// A table of one pair with these distances and losses, and the steps at γ = 1 and 100.
    fn table(distances: [f64; 4], steps: [f64; 2], losses: [f64; 4]) -> Table {
        let variants = GROWING.map(plain);
        let metrics = [STEPS, PEAK, DISTANCE];
        let tasks = [PAIRS[0].task.clone()];
        let mut table = Table::new(&[0], metrics, variants.clone(), tasks).unwrap();
        let mut record = |variant: &Variant, metric: &Metric, value: f64| {
            let task = &PAIRS[0].task;
            table.record(task, variant, metric, 0, value).unwrap();
        };
        for (i, variant) in variants.iter().enumerate() {
            record(variant, &DISTANCE, distances[i]);
            record(variant, &PEAK, losses[i]);
            if let Some(&steps) = steps.get(i) {
                record(variant, &STEPS, steps);
            }
        }
        table
    }

    #[test]
    fn every_part_of_large_steps_can_fail() {
        let held = |table: Table| -> Vec<bool> {
            let checks = large_steps(&table, &PAIRS[0]).unwrap();
            let headlines: Vec<bool> = checks.iter().map(|check| check.headline).collect();
            assert_eq!(headlines, [true, true, true, false]);
            checks.iter().map(|check| check.holds).collect()
        };
        let losses = [0.7, 20.0, 2e3, 2e5];
        let good = table([100.0, 20.0, 0.5, 1e-12], [300.0, 80.0], losses);
        assert_eq!(held(good), [true; 4]);
        // A distance as small as rounding allows is small enough.
        let rounded = table([100.0, 1e-12, 3e-12, 2e-12], [300.0, 80.0], losses);
        assert_eq!(held(rounded), [true; 4]);
        let bad = table([100.0, 20.0, 0.5, 0.6], [80.0, 80.0], [0.7, 0.7, 0.7, 9.0]);
        assert_eq!(held(bad), [false; 4]);
        let far = table([100.0, 20.0, 5.0, 1.5], [300.0, 80.0], losses);
        assert_eq!(held(far), [false, true, true, true]);
        // An example on the hyperplane keeps the two apart for every γ.
        let apart = table([f64::NAN; 4], [300.0, f64::INFINITY], losses);
        assert_eq!(held(apart), [false, false, true, true]);
    }

    #[test]
    fn a_missing_margin_is_an_excess() {
        assert_eq!(excess(10.0, 10.0), None);
        assert_eq!(excess(11.0, 10.0).as_deref(), Some("11 > 10"));
        assert!(excess(f64::INFINITY, 10.0).is_some());
        let missing = excess(1.0, f64::NAN);
        assert_eq!(missing.as_deref(), Some("the margin was not found"));
    }

    /// With large steps LR+GD approaches the perceptron on points of two classes; with small ones it does not.
    #[test]
    fn distances_fall_to_rounding() {
        let mut rows = LabelledRows::new(2);
        // The perceptron takes three steps; only the first example causes the last two.
        for (label, x) in [
            (1.0, [1.0, 0.31]),
            (-1.0, [1.7, -0.73]),
            (-1.0, [1.7, -0.9]),
            (-1.0, [1.5, -1.1]),
        ] {
            rows.push(label, x.into_iter().enumerate()).unwrap();
        }
        let found = distances(&rows).unwrap();
        assert!(found[0] > 0.1 && found[3] < ROUNDING, "{found:?}");
    }
}
