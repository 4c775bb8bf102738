//! The experiments that measure the claims about the methods of `nabla-private`, with one file per method.

pub mod dicesgd;
pub mod diff2;
pub mod gifd;
mod skewed_regression;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(dicesgd::DiceSgdClaim),
    || Box::new(diff2::Diff2Claim),
    || Box::new(gifd::GifdClaim),
];

#[cfg(test)]
nabla_claims::quick_forms!(EXPERIMENTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let slugs = ["dicesgd", "diff2", "gifd"];
        let found = QUICK.headline_differences(&slugs).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
