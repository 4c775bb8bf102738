//! The experiments that measure the claims about the methods of `nabla-physics`, with one file per method.

pub mod barron_pde;
mod classification;
pub mod ernode;
mod latent_series;
pub mod local_regularisation;
mod regularisation;
mod spiral;
mod stiff;
mod training;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[
    || Box::new(ernode::ErnodeClaim),
    || Box::new(local_regularisation::LocalRegularisationClaim),
    || Box::new(barron_pde::BarronPdeClaim),
];

#[cfg(test)]
nabla_claims::quick_forms!(EXPERIMENTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let found = QUICK.headline_differences(&["barron-pde"]).unwrap();
        assert!(found.is_empty(), "{found:?}");
    }

    /// Headlines are written before any result.
    #[test]
    fn quick_forms_have_headlines() {
        for slug in ["ernode", "local-regularisation"] {
            let result = QUICK.result(slug).unwrap();
            let headlines = result.checks.iter().filter(|check| check.headline);
            assert!(headlines.count() >= 6, "{slug}");
        }
    }
}
