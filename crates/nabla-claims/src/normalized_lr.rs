//! How many steps of gradient descent on the logistic loss it takes to separate two classes.
//!
//! Every rule starts from `θ = 0` and stops when all examples lie on the right side. The worst case
//! of the paper (theorem 5.1) has one example `(½, −1)` of one class and `n − 1` examples
//! `(−½, −1)` of the other. Real data are the handwritten digits and the Fashion-MNIST sample that
//! the program carries: two classes, pixels in `[0, 1]`, a constant 1 beside them for the bias; in
//! the imbalanced sets only each tenth or each fiftieth example of the first class is kept. A seed
//! draws nine tenths of the examples of each class; the worst case is the same for all.
//!
//! A rule that has not separated the classes at the last step that it is allowed counts as infinite.

use std::ops::ControlFlow;

use nabla_data::{LabelledPictures, LabelledRows, digits, fashion_sample};
use nabla_solve::normalized_lr::{Rule, iteration_bound, maximal_margin, radius, separate};
use nabla_solve::rate_fit::power_rate;
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};

use crate::claim::{Claim, ClaimContext, ClaimError, Paper};
use crate::measurement::{Check, Measurement, Metric, Table, Variant};
use crate::plot::{LinePlot, Series};

const STEPS: &str = "steps to separation";
const BOUND: &str = "bound of theorem 6.1";

const WORST: &str = "worst case, n = 1000";

const STEP_SIZES: [f64; 4] = [0.1, 1.0, 10.0, 100.0];

/// The numbers of the paper's table 1 for the worst case.
const PUBLISHED_NORMALIZED: [usize; 4] = [157, 16, 2, 2];
const PUBLISHED_PLAIN: usize = 308;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct NormalizedLrClaim;

/// Two classes of the pictures that the program carries.
struct Pair {
    name: &'static str,
    fashion: bool,
    classes: [u8; 2],
    /// Of how many examples of the first class one is kept.
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
        name,
        fashion,
        classes,
        one_in,
    }
}

fn normalized(step_size: f64) -> String {
    format!("Normalized LR+GD, γ = {step_size}")
}

fn plain(step_size: f64) -> String {
    format!("LR+GD, γ = {step_size}")
}

/// The limits of large steps, by name.
const PERCEPTRONS: [(&str, Rule); 3] = [
    (
        "Normalized Batch Perceptron",
        Rule::NormalizedBatchPerceptron,
    ),
    ("Batch Perceptron", Rule::BatchPerceptron),
    ("Perceptron", Rule::Perceptron),
];

/// All rules, by name.
fn rules() -> Vec<(String, Rule)> {
    let of = |f: fn(f64) -> String, rule: fn(f64) -> Rule| {
        STEP_SIZES.map(move |step_size| (f(step_size), rule(step_size)))
    };
    of(normalized, Rule::NormalizedGradientDescent)
        .into_iter()
        .chain(of(plain, Rule::GradientDescent))
        .chain(PERCEPTRONS.map(|(name, rule)| (name.into(), rule)))
        .collect()
}

impl Claim for NormalizedLrClaim {
    fn slug(&self) -> &str {
        "normalized-lr"
    }

    fn paper(&self) -> Paper {
        Paper::new(
            "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes",
            "Tyurin",
            2024,
            "2412.08424",
        )
    }

    fn statement(&self) -> &str {
        "Normalised gradient descent on the logistic loss separates the classes within \
         R²/μ² + 2 log(2n − 1)/(γ μ²) steps, where plain gradient descent may need a number that \
         grows with the number n of examples; on imbalanced data it needs fewer."
    }

    fn criterion(&self) -> &str {
        "The worst case takes exactly the steps of the paper's table 1. Over n from 100 to 2000, \
         LR+GD's steps (γ = 100) grow as n to the power 0.95 to 1.05 and Normalized LR+GD's \
         (γ = 0.1) to at most 0.2. On the imbalanced real sets the best γ of Normalized LR+GD needs \
         no more steps than that of LR+GD (means over the seeds). No count of Normalized LR+GD is \
         above the bound of theorem 6.1 with the data's own margin."
    }

    fn run(&self, context: &ClaimContext<'_>) -> Result<Measurement, ClaimError> {
        let most = if context.quick { 500 } else { 10_000 };
        let pairs = if context.quick {
            &PAIRS[3..4]
        } else {
            &PAIRS[..]
        };
        let digits = digits().map_err(ClaimError::experiment)?;
        let [fashion, _] = fashion_sample().map_err(ClaimError::experiment)?;
        let mut table = Table::new(
            &context.seeds,
            [Metric::lower(STEPS, ""), Metric::informative(BOUND, "")],
            STEP_SIZES
                .map(|g| Variant::method(normalized(g)))
                .into_iter()
                .chain(STEP_SIZES.map(|g| Variant::baseline(plain(g))))
                .chain(PERCEPTRONS.map(|(name, _)| Variant::baseline(name))),
            std::iter::once(WORST).chain(pairs.iter().map(|pair| pair.name)),
        )?;
        let total = (1 + pairs.len() * context.seeds.len()) * rules().len();
        context.progress.begin("normalized LR", total as u64);

        let worst = worst_case(1000)?;
        for (name, rule) in rules() {
            let steps = steps(&worst, rule, 100_000)?;
            table.record_for_every_seed(WORST, &name, STEPS, steps)?;
            context.progress.advance(1);
        }
        let mut excesses = Vec::new();
        for pair in pairs {
            let pictures = if pair.fashion { &fashion } else { &digits };
            for &seed in &context.seeds {
                let rows = pair.rows(pictures, seed)?;
                let r = radius(&rows);
                let margin = maximal_margin(&rows, 0.2, 20_000).map_err(ClaimError::experiment)?;
                for (name, rule) in rules() {
                    let count = steps(&rows, rule, most)?;
                    table.record(pair.name, &name, STEPS, seed, count)?;
                    if let Rule::NormalizedGradientDescent(step_size) = rule {
                        let bound = margin.map_or(f64::NAN, |margin| {
                            iteration_bound(r, margin, rows.len(), step_size)
                        });
                        table.record(pair.name, &name, BOUND, seed, bound)?;
                        if count > bound {
                            excesses.push(format!("{}, {name}: {count} > {bound:.0}", pair.name));
                        }
                    }
                    context.progress.advance(1);
                }
            }
        }

        let mut checks = published(&table)?;
        let (growth, curves) = growth(context.quick)?;
        checks.extend(growth);
        for pair in pairs.iter().filter(|pair| pair.one_in > 1) {
            let best = |name: fn(f64) -> String| -> Result<f64, ClaimError> {
                STEP_SIZES.iter().try_fold(f64::INFINITY, |least, &g| {
                    Ok(least.min(table.mean(pair.name, &name(g), STEPS)?))
                })
            };
            let [method, baseline] = [best(normalized)?, best(plain)?];
            checks.push(Check::new(
                format!("{}: Normalized LR+GD needs no more steps", pair.name),
                method <= baseline,
                format!("{method:.0} against {baseline:.0} at the best γ of each"),
            ));
        }
        checks.push(Check::new(
            "no count of Normalized LR+GD above the bound of theorem 6.1",
            excesses.is_empty(),
            if excesses.is_empty() {
                "on every set, seed and γ whose margin was found".into()
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
                 balanced data the paper finds LR+GD slightly faster, and so it is judged on the \
                 imbalanced sets only."
            )))
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
        .map(|(name, count)| {
            let found = table.mean(WORST, &name, STEPS)?;
            Ok(Check::new(
                format!("worst case: {name} takes the {count} steps of the paper's table 1"),
                found == count as f64,
                format!("{found}"),
            ))
        })
        .collect()
}

/// How the steps grow with the number of examples.
fn growth(quick: bool) -> Result<(Vec<Check>, Vec<Series>), ClaimError> {
    let sizes: &[usize] = if quick {
        &[100, 1000]
    } else {
        &[100, 300, 500, 1000, 2000]
    };
    let mut checks = Vec::new();
    let mut curves = Vec::new();
    for (name, rule, powers) in [
        (plain(100.0), Rule::GradientDescent(100.0), 0.95..=1.05),
        (
            normalized(0.1),
            Rule::NormalizedGradientDescent(0.1),
            0.0..=0.2,
        ),
    ] {
        let counts = sizes
            .iter()
            .map(|&n| Ok((n as f64, steps(&worst_case(n)?, rule, 100_000)?)))
            .collect::<Result<Vec<_>, ClaimError>>()?;
        let power = power_rate(counts.iter().copied()).map_or(f64::NAN, |fit| fit.rate);
        checks.push(Check::new(
            format!(
                "worst case: {name} grows as n to the power {} to {}",
                powers.start(),
                powers.end()
            ),
            powers.contains(&power),
            format!("power {power:.3}"),
        ));
        curves.push(Series::new(name, counts.into_iter().map(|(n, c)| [n, c])));
    }
    Ok((checks, curves))
}
