//! Measures the claims of this crate, or those that are named, and writes their results to a folder:
//! `cargo run --release -p nabla-share-experiments --example measure -- results masha`.

use std::error::Error;
use std::path::PathBuf;

use burn::tensor::Device;
use nabla_base::progress::NoProgress;
use nabla_claims::{Claim, ClaimContext, Experiments, run_claims};
use nabla_share_experiments::EXPERIMENTS;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("the first argument is the folder")?);
    let slugs: Vec<String> = arguments.collect();
    let experiments = Experiments::of([EXPERIMENTS]);
    let chosen: Vec<&dyn Claim> = experiments
        .iter()
        .filter(|claim| slugs.is_empty() || slugs.iter().any(|slug| slug == claim.slug()))
        .collect();
    let context = ClaimContext::new(Device::flex(), &NoProgress);
    let summary = run_claims(chosen, &context, Some(&folder), |slug| {
        println!("{slug} ...")
    });
    for (result, _) in &summary.results {
        println!(
            "{}: {} in {:.0} s",
            result.slug,
            result.verdict.words(),
            result.seconds
        );
        for check in &result.checks {
            let mark = if check.holds {
                "holds"
            } else {
                "does not hold"
            };
            println!("  {mark}: {} ({})", check.text, check.detail);
        }
        result.notes.iter().for_each(|note| println!("  {note}"));
    }
    match summary.failures.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(()),
    }
}
