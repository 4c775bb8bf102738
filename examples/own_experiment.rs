//! Your own experiment: does a warm-up help plain gradient descent in a narrow valley?
//!
//! The experiment declares its cells. The program runs it twice (the second run measures only what the first did
//! not) and prints the report.
//!
//! ```text
//! cargo run --release -p nabla --example own_experiment
//! ```

use std::error::Error;
use std::path::Path;

use burn::tensor::Device;
use nabla::base::progress::NoProgress;
use nabla::claims::report::render_markdown;
use nabla::claims::{Commit, Experiments, Source, read_results, run_claims};
use nabla::grad::seeded_noise::SeededNoise;
use nabla::prelude::*;

// Each name is written once: a misspelt name, or a metric in the place of a variant, does not compile.
const VALLEY: Task = Task::named("valley, curvatures 1 and 100");
const WARM: Variant = Variant::method("with a warm-up");
const PLAIN: Variant = Variant::baseline("without");
const LOSS: Metric = Metric::lower("loss at the end", "");

/// The steps that each variant takes.
const STEPS: u32 = 40;

/// The experiment. `fails_at` is a seed at which it stops, as in a power cut.
struct WarmUp {
    fails_at: Option<u64>,
}

impl Claim for WarmUp {
    fn slug(&self) -> &str {
        "warm-up"
    }

    fn paper(&self) -> Option<Paper> {
        // For one of Nabla's methods the slug would be enough.
        let title = "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour";
        Some(Paper::new(title, "Goyal et al.", 2017, "1706.02677"))
    }

    fn statement(&self) -> &str {
        "Raising the learning rate over the first steps lets gradient descent use a larger one."
    }

    fn criterion(&self) -> &str {
        "At a rate of 0.0199, close to the limit of 2/100, the mean loss is lower with a warm-up."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        // Measure every variant with every seed.
        let mut points = Vec::new();
        for &seed in bench.seeds() {
            points.extend([(WARM, seed), (PLAIN, seed)]);
        }
        let losses = bench.measure(
            &Stage::new("descent", &STEPS),
            &points,
            |(variant, seed)| Cell::of(&VALLEY).variant(variant).seed(*seed),
            |(variant, seed)| {
                if self.fails_at == Some(*seed) {
                    return Err(ClaimError::experiment("the power is gone"));
                }
                Ok(descend(*variant == WARM, *seed))
            },
        )?;
        let mut table = Table::new(bench.seeds(), [LOSS], [WARM, PLAIN], [VALLEY])?;
        for ((variant, seed), loss) in points.iter().zip(losses) {
            table.record(&VALLEY, variant, &LOSS, *seed, loss)?;
        }
        let check = table.compare(&VALLEY, &LOSS, &WARM, &PLAIN)?;
        Ok(Measurement::new(table, vec![check.headline()]))
    }
}

/// Gradient descent on ½ (x² + 100 y²) from a point that the seed draws; the loss at the end.
fn descend(warm: bool, seed: u64) -> f64 {
    let start = SeededNoise::new(seed, 0).normal_values(2);
    let [mut x, mut y] = [0, 1].map(|i| f64::from(start[i]));
    for step in 1..=STEPS {
        let share = if warm { f64::from(step) / 10.0 } else { 1.0 };
        let rate = 0.0199 * share.min(1.0);
        x -= rate * x;
        y -= rate * 100.0 * y;
    }
    0.5 * (x * x + 100.0 * y * y)
}

fn main() -> Result<(), Box<dyn Error>> {
    // Results name your program, not Nabla.
    let source = Source {
        program: "my-experiments".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: Commit::of_checkout(Path::new(env!("CARGO_MANIFEST_DIR"))),
    };
    let context = ClaimContext::new(Device::flex(), &NoProgress).with_source(source);
    let folder = std::env::temp_dir().join(format!("nabla-own-experiment-{}", std::process::id()));

    // The first run stops at the last seed; what it has measured is kept.
    let claim = WarmUp { fails_at: Some(2) };
    let first = run_claims([&claim as &dyn Claim], &context, Some(&folder), |_| {});
    for (slug, error) in &first.failures {
        println!("{slug}: {error}");
    }

    // A program with several experiments keeps them in a list.
    let all = Experiments::of([&[make as nabla::claims::MakeClaim][..]]);
    let second = run_claims([all.find("warm-up")?], &context, Some(&folder), |_| {});
    assert!(second.failures.is_empty(), "{:?}", second.failures);

    let report = render_markdown(&read_results(&folder)?);
    println!("{report}");
    assert!(report.contains("✅ held"));
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn make() -> Box<dyn Claim> {
    Box::new(WarmUp { fails_at: None })
}
