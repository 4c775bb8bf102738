//! Domains, the one that is held out, and the objective, as one serialisable choice.
//!
//! | source | what |
//! |---|---|
//! | `coloured-digits`, `coloured-fashion` | the built-in pictures in [two colours](crate::coloured) |
//! | `rotated-digits`, `rotated-fashion` | the built-in pictures, [turned](crate::rotated) |
//! | a folder | `domain/class/picture`, as PACS, VLCS, OfficeHome and DomainNet [come](crate::domain_folder) |

use std::path::Path;

use nabla_data::{LabelledPicturesError, digits, fashion_sample};
use nabla_train::data_set::{DataConfig, DataSet, Standardization, TableReading};
use nabla_train::examples::{Examples, Scaling};
use serde::{Deserialize, Serialize};

use crate::coloured::Coloured;
use crate::domain_folder::{DomainFolder, DomainFolderError};
use crate::domain_source::DomainObjective;
use crate::domains::{DomainError, Domains};
use crate::rotated::Rotated;

/// The reason why there are no domains of a name.
#[derive(Debug, thiserror::Error)]
pub enum DomainConfigError {
    /// The built-in pictures.
    #[error(transparent)]
    Pictures(#[from] LabelledPicturesError),
    /// A folder.
    #[error(transparent)]
    Folder(#[from] DomainFolderError),
    /// The domains.
    #[error(transparent)]
    Domains(#[from] DomainError),
    /// The source is neither a name nor a folder.
    #[error("there are no domains {source_name:?}: it is none of {known}, nor a folder", known = SETS.join(", "))]
    NoSource {
        /// The source.
        source_name: String,
    },
    /// No test domain was chosen.
    #[error("choose the domain to test with; there are: {}", known.join(", "))]
    NoTest {
        /// The names that there are.
        known: Vec<String>,
    },
}

/// The built-in sets.
const SETS: [&str; 4] = [
    "coloured-digits",
    "coloured-fashion",
    "rotated-digits",
    "rotated-fashion",
];

/// The choice; see the [module documentation](self).
///
/// ```
/// use nabla_align::domain_config::DomainConfig;
/// use nabla_train::data_set::DataConfig;
///
/// let config = DomainConfig {
///     source: "rotated-digits".into(),
///     test: Some("75".into()),
///     ..DomainConfig::default()
/// };
/// let open = config.open(&DataConfig::default())?;
/// assert_eq!(open.names, ["0", "15", "30", "45", "60"]);
/// assert_eq!(open.objective.domains.len(), 5);
/// # Ok::<(), nabla_align::domain_config::DomainConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DomainConfig {
    /// A name or a folder. Default `coloured-digits`.
    pub source: String,
    /// The domain to test with.
    pub test: Option<String>,
    /// The side of the pictures of a folder, in pixels. Default 64.
    pub side: usize,
    /// The objective. Default ERM.
    pub objective: DomainObjective,
}

impl Default for DomainConfig {
    fn default() -> Self {
        Self {
            source: "coloured-digits".into(),
            test: None,
            side: 64,
            objective: DomainObjective::named("erm"),
        }
    }
}

/// Open domains, of which one is held out.
#[derive(Clone, Debug)]
pub struct OpenDomains {
    /// The training domains one after the other; its test examples are those left out of them for validation.
    pub data: DataSet,
    /// The names of the training domains.
    pub names: Vec<String>,
    /// The validation examples of each.
    pub validation: Vec<Examples>,
    /// The examples of the test domain.
    pub test: Examples,
    /// The objective for these domains, with the validation examples.
    pub objective: DomainObjective,
}

impl DomainConfig {
    /// Reads the domains.
    ///
    /// - `seed`: of how built-in pictures are dealt and coloured
    ///
    /// # Errors
    /// If there are none of this name, or a picture cannot be read.
    pub fn domains(&self, seed: u64) -> Result<Domains, DomainConfigError> {
        let fashion = || -> Result<_, LabelledPicturesError> {
            let [training, _] = fashion_sample()?;
            Ok(training)
        };
        Ok(match self.source.as_str() {
            "coloured-digits" => Coloured::default().of(&digits()?, seed)?,
            "coloured-fashion" => Coloured::default().of(&fashion()?, seed)?,
            "rotated-digits" => Rotated::default().of(&digits()?, seed)?,
            "rotated-fashion" => Rotated::default().of(&fashion()?, seed)?,
            folder if Path::new(folder).is_dir() => {
                DomainFolder::open(Path::new(folder))?.read(self.side)?
            }
            name => {
                return Err(DomainConfigError::NoSource {
                    source_name: name.to_owned(),
                });
            }
        })
    }

    /// Reads the domains, holds one out, and standardises features by the training examples.
    ///
    /// - `data`: the share for validation, the seed of the split, and whether features are standardised
    ///
    /// # Errors
    /// As [`domains`](Self::domains), and if no test domain is chosen, or a domain is too small.
    pub fn open(&self, data: &DataConfig) -> Result<OpenDomains, DomainConfigError> {
        let domains = self.domains(data.split_seed)?;
        let Some(test) = &self.test else {
            return Err(DomainConfigError::NoTest {
                known: domains.names().to_vec(),
            });
        };
        let mut parts = domains.hold_out(test, data.validation_share, data.split_seed)?;
        let shape = domains.shape();
        let scaling = match data.standardization {
            Standardization::Auto => Scaling::of(&parts.training, shape),
            Standardization::None => Scaling::none(),
        };
        for part in [&mut parts.training, &mut parts.validation, &mut parts.test] {
            scaling.apply(&mut part.features, shape);
        }
        let objective = self.objective.clone().for_domains(&parts.counts);
        Ok(OpenDomains {
            validation: parts.validation_by_domain(shape.features()),
            objective: objective.validated_on(parts.validation.clone()),
            names: parts.names,
            test: parts.test,
            data: DataSet {
                name: self.source.clone(),
                shape,
                classes: domains.classes().to_vec(),
                training: parts.training,
                test: parts.validation,
                scaling,
                reading: TableReading::default(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(config: &DomainConfig) -> String {
        config.open(&DataConfig::default()).unwrap_err().to_string()
    }

    #[test]
    fn every_built_in_set_opens_and_is_standardised() {
        for (source, test, domains) in [
            ("coloured-digits", "-90%", 2),
            ("coloured-fashion", "+80%", 2),
            ("rotated-digits", "45", 5),
            ("rotated-fashion", "0", 5),
        ] {
            let config = DomainConfig {
                source: source.into(),
                test: Some(test.into()),
                ..DomainConfig::default()
            };
            let open = config.open(&DataConfig::default()).unwrap();
            assert_eq!(
                (open.names.len(), open.validation.len()),
                (domains, domains)
            );
            assert!(!open.names.contains(&test.to_owned()));
            let features = &open.data.training.features;
            let mean = features.iter().map(|&x| f64::from(x)).sum::<f64>() / features.len() as f64;
            assert!(mean.abs() < 1e-4, "{source}: {mean}");
            let counts: usize = open.objective.domains.iter().sum();
            assert_eq!(counts, open.data.training.len());
        }
    }

    #[test]
    fn wrong_choices_are_refused_in_one_sentence() {
        let mut config = DomainConfig::default();
        assert!(told(&config).contains("there are: +90%, +80%, -90%"));
        config.test = Some("red".into());
        assert!(told(&config).contains("there is no domain \"red\""));
        config.source = "cats".into();
        assert!(told(&config).contains("none of coloured-digits"));
    }
}
