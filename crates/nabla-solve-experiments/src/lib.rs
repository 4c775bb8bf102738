//! The experiments that measure what is claimed of the solvers of `nabla-solve`: one file per method.

pub mod block_coordinate_descent;
pub mod convex_relu;
pub mod matrix_sensing;
pub mod normalized_lr;
pub mod zo_rank_sgd;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(normalized_lr::NormalizedLrClaim),
    || Box::new(matrix_sensing::MatrixSensingClaim),
    || Box::new(block_coordinate_descent::BlockCoordinateDescentClaim),
    || Box::new(zo_rank_sgd::ZoRankSgdClaim),
    || Box::new(convex_relu::ConvexReluClaim),
];

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use nabla_base::progress::NoProgress;
    use nabla_claims::{ClaimContext, Experiments, read_result, run_claim};
    use std::path::Path;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let context =
            ClaimContext::quick(Device::flex(), &NoProgress).with_assets(root.join("assets"));
        let experiments = Experiments::of([EXPERIMENTS]);
        for slug in ["block-coordinate-descent", "zo-ranksgd", "convex-relu"] {
            let quick = run_claim(experiments.find(slug).unwrap(), &context).unwrap();
            let kept = read_result(&root.join(format!("results/{slug}.json"))).unwrap();
            let other = kept.other_headlines(&quick);
            assert!(other.is_empty(), "{slug}: {other:?}");
            let shared = |text: &str| kept.checks.iter().any(|c| c.text == text);
            assert!(quick.checks.iter().any(|c| c.headline && shared(&c.text)));
        }
    }
}
