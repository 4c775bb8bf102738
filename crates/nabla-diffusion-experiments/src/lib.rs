//! The experiments that measure the claims about the methods of `nabla-diffusion`, with one file per method.

pub mod pndm;
pub mod rddm;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] =
    &[|| Box::new(pndm::PndmClaim), || Box::new(rddm::RddmClaim)];

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_claims::headline_differences;
    use std::path::Path;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let found = headline_differences(EXPERIMENTS, &root, &["pndm", "rddm"]).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
