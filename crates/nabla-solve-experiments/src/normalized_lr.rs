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

use std::ops::ControlFlow;

use nabla_base::rate_fit::power_rate;
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Role, Series, Stage,
    Table, Task, Variant,
};
use nabla_data::{LabelledPictures, LabelledRows, digits, fashion_sample};
use nabla_solve::normalized_lr::{Rule, iteration_bound, maximal_margin, radius, separate};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

const STEPS: Metric = Metric::lower("steps to separation", "");
const BOUND: Metric = Metric::informative("bound of theorem 6.1", "");

const WORST: Task = Task::named("worst case, n = 1000");

const STEP_SIZES: [f64; 4] = [0.1, 1.0, 10.0, 100.0];

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
    let of = |f: fn(f64) -> Variant, rule: fn(f64) -> Rule| {
        STEP_SIZES.map(move |step_size| (f(step_size), rule(step_size)))
    };
    of(normalized, Rule::NormalizedGradientDescent)
        .into_iter()
        .chain(of(plain, Rule::GradientDescent))
        .chain(PERCEPTRONS)
        .collect()
}

impl Claim for NormalizedLrClaim {
    fn slug(&self) -> &str {
        "normalized-lr"
    }

    fn statement(&self) -> &str {
        "Normalised gradient descent on the logistic loss separates the classes within \
         R²/μ² + 2 log(2n − 1)/(γ μ²) steps, where plain gradient descent may need a number that \
         grows with the number n of examples. In detail: on imbalanced data it needs fewer."
    }

    fn criterion(&self) -> &str {
        "The worst case takes exactly the steps of the paper's table 1. Over n from 100 to 2000, \
         LR+GD's steps (γ = 100) grow as n to the power 0.95 to 1.05 and Normalized LR+GD's \
         (γ = 0.1) to at most 0.2. On the imbalanced real sets the best γ of Normalized LR+GD needs \
         no more steps than that of LR+GD (means over the seeds). No count of Normalized LR+GD is \
         above the bound of theorem 6.1 with the data's own margin."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let most = if bench.quick() { 500 } else { 10_000 };
        let pairs = if bench.quick() {
            &PAIRS[3..4]
        } else {
            &PAIRS[..]
        };
        let rules = rules();
        let mut table = Table::new(
            bench.seeds(),
            [STEPS, BOUND],
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
        let excesses = real_data(bench, &rules, pairs, most, &mut table)?;

        let mut checks = published(&table)?;
        let (growth, curves) = growth(bench)?;
        checks.extend(growth);
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
        let check = Check::new(
            "no count of Normalized LR+GD above the bound of theorem 6.1",
            excesses.is_empty(),
            if excesses.is_empty() {
                "on every set, seed and γ whose margin was found".into()
            } else {
                excesses.join("; ")
            },
        );
        checks.push(check.headline());
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
                 balanced data the paper finds LR+GD slightly faster, and so it is judged on the \
                 imbalanced sets only."
            )))
    }
}

/// The largest number of steps of a rule in the worst case.
const LIMIT: usize = 100_000;

/// The steps that one rule needs on one pair of classes.
#[derive(Serialize, Deserialize)]
struct Separation {
    steps: f64,
    /// Of normalised gradient descent.
    bound: Option<f64>,
}

/// Records the steps that the rules need on real data; returns in words where a rule exceeds its bound.
fn real_data(
    bench: &Bench<'_>,
    rules: &[(Variant, Rule)],
    pairs: &[Pair],
    most: usize,
    table: &mut Table,
) -> Result<Vec<String>, ClaimError> {
    let digits = digits().map_err(ClaimError::experiment)?;
    let [fashion, _] = fashion_sample().map_err(ClaimError::experiment)?;
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
                _ => {
                    let pictures = if pair.fashion { &fashion } else { &digits };
                    Examples::of(pair.rows(pictures, seed)?)?
                }
            };
            let (_, _, examples) = read.insert((pair, seed, examples));
            Ok(Separation {
                steps: steps(&examples.rows, rule, most)?,
                bound: match rule {
                    Rule::NormalizedGradientDescent(step_size) => Some(examples.bound(step_size)),
                    _ => None,
                },
            })
        },
    )?;
    let mut excesses = Vec::new();
    for (&(pair, seed, variant, _), separation) in points.iter().zip(found) {
        let Separation { steps, bound } = separation;
        table.record(&pair.task, variant, &STEPS, seed, steps)?;
        if let Some(bound) = bound {
            table.record(&pair.task, variant, &BOUND, seed, bound)?;
            if steps > bound {
                excesses.push(format!("{}, {variant}: {steps} > {bound:.0}", pair.task));
            }
        }
    }
    Ok(excesses)
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
            margin: maximal_margin(&rows, 0.2, 20_000).map_err(ClaimError::experiment)?,
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

/// Steps until the classes are separated, infinite if they are not after `most`.
fn steps(rows: &LabelledRows, rule: Rule, most: usize) -> Result<f64, ClaimError> {
    let found = separate(rows, rule, most, &mut |_| ControlFlow::Continue(()))
        .map_err(ClaimError::experiment)?;
    Ok(if found.separated {
        found.iterations as f64
    } else {
        f64::INFINITY
    })
}

impl Pair {
    /// Nine tenths of the examples, with the bias as the last feature.
    fn rows(&self, pictures: &LabelledPictures, seed: u64) -> Result<LabelledRows, ClaimError> {
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
