//! The experiments of a program, from the lists of its families.

use nabla_base::methods::{METHODS, method};

use crate::claim::{Claim, ClaimError};

/// A function that creates an experiment: one line of a family's list.
pub type MakeClaim = fn() -> Box<dyn Claim>;

/// All experiments that a program knows.
///
/// ```
/// use nabla_claims::{Experiments, MakeClaim};
///
/// // One list for each family, such as `nabla_optim_experiments::EXPERIMENTS`; here there are none.
/// const MINE: &[MakeClaim] = &[];
/// let experiments = Experiments::of([MINE]);
/// let error = experiments.find("dgno").err().map(|e| e.to_string());
/// assert_eq!(
///     error.as_deref(),
///     Some("the method 'dgno' is planned; it has no claim to run yet")
/// );
/// ```
pub struct Experiments(Vec<Box<dyn Claim>>);

impl Experiments {
    /// Joins lists. The experiments of published [methods](METHODS) come first, in their order; the others
    /// follow in the given order.
    pub fn of<'l>(lists: impl IntoIterator<Item = &'l [MakeClaim]>) -> Self {
        let mut claims: Vec<_> = lists.into_iter().flatten().map(|make| make()).collect();
        let place = |claim: &dyn Claim| METHODS.iter().position(|m| m.slug == claim.slug());
        // The sort is stable, so the other experiments keep their order.
        claims.sort_by_key(|claim| place(claim.as_ref()).unwrap_or(METHODS.len()));
        Self(claims)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Claim> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// The experiment with this slug.
    ///
    /// # Errors
    /// [`ClaimError::Planned`] for a method without an experiment yet, [`ClaimError::Unknown`] for any other
    /// slug, with the most similar one that has an experiment.
    pub fn find(&self, slug: &str) -> Result<&dyn Claim, ClaimError> {
        match self.iter().find(|claim| claim.slug() == slug) {
            Some(claim) => Ok(claim),
            None if method(slug).is_some() => Err(ClaimError::Planned(slug.to_owned())),
            None => Err(ClaimError::Unknown {
                slug: slug.to_owned(),
                nearest: self.nearest(slug),
            }),
        }
    }

    /// The most similar slug that has an experiment, if it is similar enough to have been meant.
    fn nearest(&self, slug: &str) -> Option<String> {
        let distance = |other: &&str| edit_distance(other, slug);
        self.iter()
            .map(|claim| claim.slug())
            .min_by_key(distance)
            .filter(|nearest| distance(nearest) <= nearest.len() / 3)
            .map(str::to_owned)
    }
}

/// The Levenshtein distance between two ASCII words.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Bench;
    use crate::measurement::Measurement;

    struct Named(&'static str);

    impl Claim for Named {
        fn slug(&self) -> &str {
            self.0
        }
        fn statement(&self) -> &str {
            ""
        }
        fn criterion(&self) -> &str {
            ""
        }
        fn run(&self, _: &Bench<'_>) -> Result<Measurement, ClaimError> {
            Err(ClaimError::experiment("not run"))
        }
    }

    fn experiments() -> Experiments {
        let one: &[MakeClaim] = &[|| Box::new(Named("mine")), || Box::new(Named("rddm"))];
        let other: &[MakeClaim] = &[|| Box::new(Named("adamp"))];
        Experiments::of([one, other])
    }

    #[test]
    fn published_methods_come_first_in_their_order() {
        let all = experiments();
        let slugs: Vec<&str> = all.iter().map(|claim| claim.slug()).collect();
        assert_eq!(slugs, ["adamp", "rddm", "mine"]);
        let paper = all.find("rddm").unwrap().paper().unwrap();
        assert_eq!(paper.title, "Residual Denoising Diffusion Models");
        assert_eq!(all.find("mine").unwrap().paper(), None);
    }

    #[test]
    fn unknown_and_planned_slugs_are_told_apart() {
        let all = experiments();
        let error = |slug: &str| all.find(slug).err().unwrap().to_string();
        assert_eq!(
            error("dgno"),
            "the method 'dgno' is planned; it has no claim to run yet"
        );
        assert_eq!(
            error("no-such-method"),
            "there is no claim named 'no-such-method'; 'nabla claims list' shows all"
        );
        assert_eq!(
            error("adanp"),
            "there is no claim named 'adanp' (did you mean 'adamp'?); 'nabla claims list' shows all"
        );
    }

    #[test]
    fn edit_distances_match_known_ones() {
        for (a, b, distance) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("rddm", "rddm", 0),
        ] {
            assert_eq!(edit_distance(a, b), distance);
            assert_eq!(edit_distance(b, a), distance);
        }
    }
}
