//! The experiments that measure the claims about the solvers of `nabla-solve`, with one file per method.

pub mod block_coordinate_descent;
pub mod convex_relu;
pub mod matrix_sensing;
pub mod normalized_lr;
pub mod zo_rank_sgd;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(normalized_lr::NormalizedLrClaim),
    || Box::new(matrix_sensing::MatrixSensingClaim),
    || Box::new(block_coordinate_descent::BlockCoordinateDescentClaim),
    || Box::new(zo_rank_sgd::ZoRankSgdClaim),
    || Box::new(convex_relu::ConvexReluClaim),
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
            "normalized-lr",
            "matrix-sensing",
            "block-coordinate-descent",
            "zo-ranksgd",
            "convex-relu",
        ];
        let found = QUICK.headline_differences(&slugs).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
