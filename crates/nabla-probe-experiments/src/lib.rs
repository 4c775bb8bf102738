//! The experiments that measure the claims about the methods of `nabla-probe`, with one file per method.

pub mod coherence;
pub mod dynamical_stability;
pub mod gauge_freedom;
pub mod gradient_sae;
pub mod score_estimation;
pub mod xor_grokking;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(dynamical_stability::DynamicalStabilityClaim),
    || Box::new(coherence::CoherenceClaim),
    || Box::new(xor_grokking::XorGrokkingClaim),
    || Box::new(gradient_sae::GradientSaeClaim),
    || Box::new(gauge_freedom::GaugeFreedomClaim),
    || Box::new(score_estimation::ScoreEstimationClaim),
];

#[cfg(test)]
nabla_claims::quick_forms!(EXPERIMENTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let slugs = [
            "dynamical-stability",
            "coherence",
            "xor-grokking",
            "gauge-freedom",
            "score-estimation",
            "gradient-sae",
        ];
        let found = QUICK.headline_differences(&slugs).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
