//! The experiments that measure the claims about the methods of `nabla-align`, with one file per method.

mod domain_training;
pub mod hessian_alignment;
pub mod udim;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(hessian_alignment::HessianAlignmentClaim),
    || Box::new(udim::UdimClaim),
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

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let slugs = ["hessian-alignment", "udim"];
        let found = QUICK.headline_differences(&slugs).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
