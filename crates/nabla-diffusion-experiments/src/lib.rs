//! The experiments that measure the claims about the methods of `nabla-diffusion`, with one file per method.

pub mod adaptive_guidance;
pub mod adjointdpm;
pub mod apg;
pub mod autodiffusion;
pub mod cfg_plus_plus;
pub mod dds;
mod digits;
mod fashion_ground;
pub mod filterprompt;
pub mod gfcg;
mod guided_mixture;
pub mod kinetic_optimal_paths;
mod mean_psnr;
pub mod pndm;
pub mod rddm;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(autodiffusion::AutoDiffusionClaim),
    || Box::new(pndm::PndmClaim),
    || Box::new(rddm::RddmClaim),
    || Box::new(cfg_plus_plus::CfgPlusPlusClaim),
    || Box::new(apg::ApgClaim),
    || Box::new(adaptive_guidance::AdaptiveGuidanceClaim),
    || Box::new(gfcg::GfcgClaim),
    || Box::new(filterprompt::FilterPromptClaim),
    || Box::new(dds::DdsClaim),
    || Box::new(kinetic_optimal_paths::KineticOptimalClaim),
    || Box::new(adjointdpm::AdjointDpmClaim),
];

#[cfg(test)]
nabla_claims::quick_forms!(EXPERIMENTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let found = QUICK
            .headline_differences(&[
                "autodiffusion",
                "pndm",
                "rddm",
                "cfg-plus-plus",
                "filterprompt",
                "dds",
                "kinetic-optimal-paths",
                "adjointdpm",
                "apg",
                "adaptive-guidance",
                "gfcg",
            ])
            .unwrap();
        assert!(found.is_empty(), "{found:?}");
    }

    /// The quick form runs whole, and what it checks is what the paper's abstract says.
    #[test]
    fn the_search_of_steps_is_measured() {
        let found = QUICK.result("autodiffusion").unwrap();
        let headlines = found.checks.iter().filter(|check| check.headline);
        assert_eq!(headlines.count(), 5);
    }
}
