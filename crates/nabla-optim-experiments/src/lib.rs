//! The experiments that measure what is claimed of the optimizers of `nabla-optim`: one file per method.
//!
//! What they share is there for experiments of one's own: [`training_contest`] trains one network by several
//! optimizers, each with a learning rate that was searched with the same budget, [`trajectory`] walks on
//! functions of a few numbers, and [`checks`] has what "as good as" means.

pub mod adabelief;
pub mod adamp;
pub mod checks;
pub mod diffgrad;
pub mod m_fac;
pub mod training_contest;
pub mod trajectory;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(adamp::AdamPClaim),
    || Box::new(diffgrad::DiffGradClaim),
    || Box::new(adabelief::AdaBeliefClaim),
    || Box::new(m_fac::MFacClaim),
];

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_claims::headline_differences;
    use std::path::Path;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let slugs = ["adamp", "diffgrad", "adabelief", "m-fac"];
        let found = headline_differences(EXPERIMENTS, &root, &slugs).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
