//! The experiments that measure the claims about the methods of `nabla-align`, with one file per method.

mod domain_training;
pub mod gaqat;
pub mod hessian_alignment;
pub mod udim;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(gaqat::GaqatClaim),
    || Box::new(hessian_alignment::HessianAlignmentClaim),
    || Box::new(udim::UdimClaim),
];

#[cfg(test)]
nabla_claims::quick_forms!(EXPERIMENTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let slugs = ["gaqat", "hessian-alignment", "udim"];
        let found = QUICK.headline_differences(&slugs).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
