//! Examples by domain, and how one domain is held out.
//!
//! To measure how a method works in a domain that it has not seen, one domain is the test, and the others are trained on
//! ([`Domains::hold_out`]). A share of the examples of every training domain is left out for validation; these are
//! drawn from a stream of the seed that belongs to the domain.

use nabla_base::range::{self, OutOfRange};
use nabla_grad::fingerprint::fingerprint;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::order::permutation;

/// The reason why there are no domains, or one cannot be held out.
#[derive(Debug, thiserror::Error)]
pub enum DomainError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There are not two domains.
    #[error(
        "there is only the domain {0:?}, but at least two are needed: one to train on, and one to test with"
    )]
    OneDomain(String),
    /// There is no domain.
    #[error("there are no domains")]
    None,
    /// Two domains have the same name.
    #[error("there are two domains with the name {0:?}")]
    Twice(String),
    /// There is no domain of this name.
    #[error("there is no domain {name:?}; there are: {}", known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// A domain has too few examples to be split.
    #[error(
        "the domain {domain:?} has {examples} examples, too few to leave out {share} of them for validation"
    )]
    TooFew {
        /// Its name.
        domain: String,
        /// Its examples.
        examples: usize,
        /// The share.
        share: f64,
    },
    /// An example is no number of features long, or has a label that is no class.
    #[error("{what} of the domain {domain:?} is {found}, but {expected} is expected")]
    Example {
        /// The domain.
        domain: String,
        /// What is wrong.
        what: &'static str,
        /// What was found.
        found: usize,
        /// What is expected.
        expected: String,
    },
    /// The built-in pictures cannot be made into the set.
    #[error(
        "the set needs pictures of one channel with square pixels of {expected}, but they are {found:?}"
    )]
    Pictures {
        /// What is expected.
        expected: String,
        /// Channels, height and width that were found.
        found: [usize; 3],
    },
}

/// Classified examples of several domains.
#[derive(Clone, Debug, PartialEq)]
pub struct Domains {
    names: Vec<String>,
    classes: Vec<String>,
    shape: InputShape,
    examples: Vec<Examples>,
}

/// The parts of a set of domains of which one is the test; see [`Domains::hold_out`].
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOut {
    /// The examples to train on, one domain after the other.
    pub training: Examples,
    /// The names of the training domains.
    pub names: Vec<String>,
    /// The number of examples to train on, of each of them.
    pub counts: Vec<usize>,
    /// The examples of the training domains that were left out, one domain after the other.
    pub validation: Examples,
    /// The number of those, of each domain.
    pub validation_counts: Vec<usize>,
    /// All examples of the domain that was held out.
    pub test: Examples,
}

/// The place of a name among the names that there are.
pub(crate) fn place_of(name: &str, known: &[String]) -> Result<usize, DomainError> {
    let place = known.iter().position(|k| k == name);
    place.ok_or_else(|| DomainError::Unknown {
        name: name.to_owned(),
        known: known.to_vec(),
    })
}

/// The examples for validation are drawn from stream `VALIDATION + domain` of the seed.
const VALIDATION: u64 = 1 << 40;

impl Domains {
    /// - `domains`: the name and the examples of each
    /// - `classes`: the names of the classes
    /// - `shape`: of an example
    ///
    /// # Errors
    /// If there is no domain, a name occurs twice, or an example is of another shape or class.
    pub fn new(
        domains: Vec<(String, Examples)>,
        classes: Vec<String>,
        shape: InputShape,
    ) -> Result<Self, DomainError> {
        if domains.is_empty() {
            return Err(DomainError::None);
        }
        let (names, examples): (Vec<String>, Vec<Examples>) = domains.into_iter().unzip();
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                return Err(DomainError::Twice(name.clone()));
            }
            let Examples { features, labels } = &examples[i];
            let expected = labels.len() * shape.features();
            let wrong = |what, found, expected| DomainError::Example {
                domain: name.clone(),
                what,
                found,
                expected,
            };
            if features.len() != expected {
                let expected = format!("{expected}, {} for each example", shape.features());
                return Err(wrong("the number of features", features.len(), expected));
            }
            let most = labels.iter().copied().max().unwrap_or(0) as usize;
            if most >= classes.len() {
                let expected = format!("less than {}, the number of classes", classes.len());
                return Err(wrong("a label", most, expected));
            }
        }
        Ok(Self {
            names,
            classes,
            shape,
            examples,
        })
    }

    /// The names of the domains.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The shape of an example.
    pub fn shape(&self) -> InputShape {
        self.shape
    }

    /// The examples of each domain.
    pub fn examples(&self) -> &[Examples] {
        &self.examples
    }

    /// The place of a domain.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn place(&self, name: &str) -> Result<usize, DomainError> {
        place_of(name, &self.names)
    }

    /// The same set without some domains, as when two are held out to choose a model.
    ///
    /// # Errors
    /// If a name is unknown, or no domain is left.
    pub fn without(&self, names: &[&str]) -> Result<Self, DomainError> {
        let places: Vec<usize> = names
            .iter()
            .map(|name| self.place(name))
            .collect::<Result<_, _>>()?;
        let left = (0..self.names.len()).filter(|i| !places.contains(i));
        let left = left.map(|i| (self.names[i].clone(), self.examples[i].clone()));
        Self::new(left.collect(), self.classes.clone(), self.shape)
    }

    /// How many examples of every other domain are left to train on if one is the test.
    ///
    /// # Errors
    /// As [`hold_out`](Self::hold_out).
    pub fn training_counts(&self, test: &str, share: f64) -> Result<Vec<usize>, DomainError> {
        let fits = (0.0..1.0).contains(&share);
        range::check(
            fits,
            "validation share",
            share,
            "at least 0 and less than 1",
        )?;
        let place = self.place(test)?;
        if self.names.len() < 2 {
            return Err(DomainError::OneDomain(test.to_owned()));
        }
        let others = (0..self.names.len()).filter(|&i| i != place);
        let of = |i: usize| {
            let examples = self.examples[i].len();
            let validation = (share * examples as f64) as usize;
            match examples - validation < 2 || (share > 0.0 && validation == 0) {
                true => Err(DomainError::TooFew {
                    domain: self.names[i].clone(),
                    examples,
                    share,
                }),
                false => Ok(examples - validation),
            }
        };
        others.map(of).collect()
    }

    /// A short name of all examples, by which others are noticed.
    pub fn fingerprint(&self) -> String {
        let all: Vec<String> = self.examples.iter().map(Examples::fingerprint).collect();
        fingerprint(all.concat().as_bytes())
    }

    /// Makes one domain the test, and leaves out a share of the examples of every other one for validation.
    ///
    /// - `test`: the name of the domain
    /// - `share`: of the examples of a training domain, in `[0, 1)`; DomainBed's is 0.2
    ///
    /// # Errors
    /// If there is no such domain, or no other one, or a training domain has too few examples.
    pub fn hold_out(&self, test: &str, share: f64, seed: u64) -> Result<HeldOut, DomainError> {
        let place = self.place(test)?;
        let training_counts = self.training_counts(test, share)?;
        let width = self.shape.features();
        let mut parts = HeldOut {
            training: Examples::default(),
            names: Vec::new(),
            counts: Vec::new(),
            validation: Examples::default(),
            validation_counts: Vec::new(),
            test: self.examples[place].clone(),
        };
        let others = self
            .examples
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != place);
        for ((i, examples), training) in others.zip(training_counts) {
            let count = examples.len() - training;
            let mut draw = SeededNoise::new(seed, VALIDATION + i as u64);
            let order = permutation(examples.len(), &mut draw);
            let (validation, training) = order.split_at(count);
            let (training, validation) = (
                examples.chosen(training, width),
                examples.chosen(validation, width),
            );
            parts.names.push(self.names[i].clone());
            parts.counts.push(training.len());
            parts.validation_counts.push(validation.len());
            append(&mut parts.training, training);
            append(&mut parts.validation, validation);
        }
        Ok(parts)
    }
}

impl HeldOut {
    /// The validation examples of each training domain.
    pub fn validation_by_domain(&self, width: usize) -> Vec<Examples> {
        let mut begin = 0;
        let parts = self.validation_counts.iter().map(|&count| {
            let rows: Vec<usize> = (begin..begin + count).collect();
            begin += count;
            self.validation.chosen(&rows, width)
        });
        parts.collect()
    }
}

fn append(to: &mut Examples, more: Examples) {
    to.features.extend(more.features);
    to.labels.extend(more.labels);
}
