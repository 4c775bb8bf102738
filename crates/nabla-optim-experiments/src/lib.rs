//! The experiments that measure the claims about the optimizers of `nabla-optim`, with one file per method.
//!
//! You can use their common parts in your own experiments: [`training_contest`] trains one network with
//! several optimizers, each with a learning rate found by a search with the same budget, and [`trajectory`] runs
//! an optimizer on a function of a few numbers.

pub mod adabelief;
pub mod adamp;
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
nabla_claims::quick_forms!(EXPERIMENTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let slugs = ["adamp", "diffgrad", "adabelief", "m-fac"];
        let found = QUICK.headline_differences(&slugs).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
