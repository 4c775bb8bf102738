//! The experiments that measure the claims about the methods of `nabla-share`, with one file per method.

pub mod dadao;
pub mod masha;
pub mod sequential_gradient_coding;
pub mod sketching;
mod softmax;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(dadao::DadaoClaim),
    || Box::new(masha::MashaClaim),
    || Box::new(sequential_gradient_coding::SequentialGradientCodingClaim),
    || Box::new(sketching::SketchingClaim),
];

#[cfg(test)]
nabla_claims::quick_forms!(EXPERIMENTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let slugs = ["dadao", "masha", "sequential-gradient-coding", "sketching"];
        let found = QUICK.headline_differences(&slugs).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
