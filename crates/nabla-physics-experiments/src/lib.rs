//! The experiments that measure the claims about the methods of `nabla-physics`, with one file per method.

pub mod barron_pde;
pub mod cgs;
mod classification;
mod comparison;
pub mod dcdm;
pub mod ernode;
mod latent_series;
pub mod local_regularisation;
mod regularisation;
mod spiral;
mod stiff;
mod training;

/// All experiments of this crate. [`barron_pde`], [`cgs`] and [`dcdm`] join them with their first results.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(ernode::ErnodeClaim),
    || Box::new(local_regularisation::LocalRegularisationClaim),
];

#[cfg(test)]
nabla_claims::quick_forms!(EXPERIMENTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let slugs = ["ernode", "local-regularisation"];
        let found = QUICK.headline_differences(&slugs).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }
}
