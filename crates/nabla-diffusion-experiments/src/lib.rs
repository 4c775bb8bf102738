//! The experiments that measure the claims about the methods of `nabla-diffusion`, with one file per method.

pub mod adjointdpm;
pub mod dds;
mod digits;
pub mod kinetic_optimal_paths;
mod mean_psnr;
pub mod pndm;
pub mod rddm;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(pndm::PndmClaim),
    || Box::new(rddm::RddmClaim),
    || Box::new(dds::DdsClaim),
    || Box::new(kinetic_optimal_paths::KineticOptimalClaim),
    || Box::new(adjointdpm::AdjointDpmClaim),
];

/// The quick forms of this crate's experiments, for its tests.
#[cfg(test)]
static QUICK: std::sync::LazyLock<nabla_claims::QuickForms> = std::sync::LazyLock::new(|| {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    nabla_claims::QuickForms::new(EXPERIMENTS, root)
});

#[cfg(test)]
mod tests {
    use super::*;

    /// Before their results are committed: the quick forms run whole.
    #[test]
    fn quick_forms_have_headlines() {
        for slug in ["dds", "kinetic-optimal-paths", "adjointdpm"] {
            let result = QUICK.result(slug).unwrap();
            assert!(result.checks.iter().any(|check| check.headline), "{slug}");
        }
    }

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let found = QUICK.headline_differences(&["pndm", "rddm"]).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
