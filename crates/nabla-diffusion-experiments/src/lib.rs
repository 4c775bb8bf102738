//! The experiments that measure what is claimed of the methods of `nabla-diffusion`: one file per method.

pub mod pndm;
pub mod rddm;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] =
    &[|| Box::new(pndm::PndmClaim), || Box::new(rddm::RddmClaim)];

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
        let slug = "rddm";
        let quick = run_claim(experiments.find(slug).unwrap(), &context).unwrap();
        let kept = read_result(&root.join(format!("results/{slug}.json"))).unwrap();
        let other = kept.other_headlines(&quick);
        assert!(other.is_empty(), "{slug}: {other:?}");
        let shared = |text: &str| kept.checks.iter().any(|c| c.text == text);
        assert!(quick.checks.iter().any(|c| c.headline && shared(&c.text)));
    }
}
