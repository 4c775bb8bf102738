//! Which of several trainings is chosen, without a look at the test domain.
//!
//! A search tries several settings (trials), and each training is measured at several steps. What is chosen is a setting
//! with a step:
//!
//! * [`Selection::TrainingDomains`]: the highest mean accuracy on the validation examples of the training domains. It needs no
//!   more trainings, and assumes that the test domain is like the others.
//! * [`Selection::LeaveOneDomainOut`]: every setting is also trained without one of the training domains, for each of them;
//!   the highest mean accuracy in the domain that was left out counts, at the same step. It needs as many more trainings
//!   as there are training domains, and measures what is asked for: a domain that nobody has seen.
//!
//! Both are the rules of Gulrajani, Lopez-Paz, *In Search of Lost Domain Generalization*, 2021, arXiv 2007.01434. Their third,
//! by the test domain itself, is no choice that a user has, and is not offered.

use nabla_base::choices::Choices;
use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// By validation examples of the training domains.
    TrainingDomains,
    /// By training domains that are left out.
    LeaveOneDomainOut,
}

nabla_base::choices! {
    Selection: "model selection" {
        "training-domains" => Self::TrainingDomains, "The validation examples of the training domains";
        "leave-one-domain-out" => Self::LeaveOneDomainOut, "Trainings without one of the training domains each";
    }
}

impl Selection {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.choice_name().unwrap_or_default()
    }
}

/// A training on all training domains, at one of its steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The number of the setting, from 0.
    pub trial: usize,
    /// Steps done.
    pub step: usize,
    /// The accuracy on the validation examples of each training domain.
    pub validation: Vec<f64>,
}

/// A training without one of the training domains, at one of its steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The number of the setting.
    pub trial: usize,
    /// Steps done.
    pub step: usize,
    /// The domain that was left out, by its place among the training domains.
    pub domain: usize,
    /// The accuracy on all of its examples.
    pub accuracy: f64,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// The number of the setting.
    pub trial: usize,
    /// The step.
    pub step: usize,
    /// The accuracy by which it was chosen.
    pub score: f64,
}

/// The highest score; of equal ones the first trial, and of its steps the first.
fn best(scores: impl IntoIterator<Item = Chosen>) -> Option<Chosen> {
    scores
        .into_iter()
        .filter(|chosen| !chosen.score.is_nan())
        .reduce(|best, next| {
            let earlier = (next.trial, next.step) < (best.trial, best.step);
            match next.score > best.score || (next.score == best.score && earlier) {
                true => next,
                false => best,
            }
        })
}

/// The choice by the validation examples of the training domains; none if nothing was measured.
///
/// ```
/// use nabla_align::selection::{Measured, by_training_domains};
///
/// let at = |trial, step, validation: [f64; 2]| Measured { trial, step, validation: validation.to_vec() };
/// let measured = [at(0, 100, [0.9, 0.5]), at(0, 200, [0.8, 0.7]), at(1, 100, [0.6, 0.7])];
/// assert_eq!(by_training_domains(&measured).map(|chosen| (chosen.trial, chosen.step)), Some((0, 200)));
/// ```
pub fn by_training_domains(measured: &[Measured]) -> Option<Chosen> {
    best(measured.iter().map(|m| Chosen {
        trial: m.trial,
        step: m.step,
        score: m.validation.iter().sum::<f64>() / m.validation.len() as f64,
    }))
}

/// The choice by domains that were left out; none if no setting was measured without each of them at one step.
///
/// - `domains`: the number of training domains
///
/// # Errors
/// If there are fewer than two domains, so that none is left to train on.
pub fn by_domains_left_out(
    left_out: &[LeftOut],
    domains: usize,
) -> Result<Option<Chosen>, OutOfRange> {
    range::at_least(
        "number of training domains of which one is left out",
        domains,
        2,
    )?;
    let whole = left_out
        .iter()
        .filter(|first| first.domain == 0)
        .filter_map(|first| {
            let of = |domain: usize| {
                let mut same = left_out
                    .iter()
                    .filter(|m| (m.trial, m.step, m.domain) == (first.trial, first.step, domain));
                same.next().map(|m| m.accuracy)
            };
            let sum = (0..domains).map(of).sum::<Option<f64>>()?;
            Some(Chosen {
                trial: first.trial,
                step: first.step,
                score: sum / domains as f64,
            })
        });
    Ok(best(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(trial: usize, step: usize, domain: usize, accuracy: f64) -> LeftOut {
        LeftOut {
            trial,
            step,
            domain,
            accuracy,
        }
    }

    #[test]
    fn a_setting_counts_where_every_domain_was_left_out() {
        let found = [
            left(0, 100, 0, 0.5),
            left(0, 100, 1, 0.6),
            // Without the second domain it was not trained so long.
            left(0, 200, 0, 0.99),
            left(1, 100, 1, 0.3),
            left(1, 100, 0, 0.9),
        ];
        let chosen = by_domains_left_out(&found, 2).unwrap().unwrap();
        assert_eq!((chosen.trial, chosen.step), (1, 100));
        assert!((chosen.score - 0.6).abs() < 1e-12);
        assert_eq!(by_domains_left_out(&found[..1], 2).unwrap(), None);
        assert!(
            by_domains_left_out(&found, 1)
                .unwrap_err()
                .to_string()
                .contains("left out")
        );
    }

    #[test]
    fn of_equal_scores_the_first_is_chosen_and_what_is_no_number_never() {
        let at = |trial, step, accuracy: f64| Measured {
            trial,
            step,
            validation: vec![accuracy],
        };
        let measured = [
            at(2, 10, 0.5),
            at(1, 30, 0.5),
            at(1, 20, 0.5),
            at(0, 10, f64::NAN),
        ];
        let chosen = by_training_domains(&measured).unwrap();
        assert_eq!((chosen.trial, chosen.step), (1, 20));
        assert_eq!(by_training_domains(&[]), None);
    }
}
