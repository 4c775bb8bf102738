//! The experiment that measures the claim about OmniSSR.

pub mod omnissr;

/// All experiments of this crate.
pub const EXPERIMENTS: &[nabla_claims::MakeClaim] = &[|| Box::new(omnissr::OmniSsrClaim)];

#[cfg(test)]
nabla_claims::quick_forms!(EXPERIMENTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// The quick forms run whole, and have the headlines of the committed results.
    #[test]
    fn committed_headlines_are_the_experiments() {
        let quick = QUICK.result("omnissr").unwrap();
        let kept = QUICK.committed("omnissr").unwrap();
        let other = kept.other_headlines(&quick);
        assert!(other.is_empty(), "{other:?}");
        // The quick form has another number of steps: what comes after "x4, 2 steps, " is the same.
        let of =
            |text: &str| -> Vec<String> { text.split(", ").skip(2).map(str::to_owned).collect() };
        for check in quick.checks.iter().filter(|c| c.headline) {
            let kept = kept.checks.iter().filter(|c| c.headline);
            assert!(
                kept.map(|c| of(&c.text)).any(|c| c == of(&check.text)),
                "{}",
                check.text
            );
        }
    }
}
