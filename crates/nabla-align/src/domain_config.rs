//! Domains, the one that is held out, and the objective, as one serialisable choice.
//!
//! | source | what |
//! |---|---|
//! | `coloured-digits`, `coloured-fashion` | the built-in pictures in [two colours](crate::coloured) |
//! | `rotated-digits`, `rotated-fashion` | the built-in pictures, [turned](crate::rotated) |
//! | a folder | `domain/class/picture`, as PACS, VLCS, OfficeHome and DomainNet [come](crate::domain_folder) |

use std::path::Path;
use std::slice;

use nabla_base::range;
use nabla_data::{LabelledPicturesError, digits, fashion_sample};
use nabla_train::data_set::{DataConfig, DataSet, Standardization, TableReading};
use nabla_train::examples::{Examples, Scaling};
use nabla_train::validation::{Keep, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::coloured::Coloured;
use crate::domain_folder::{DomainFolder, DomainFolderError};
use crate::domain_source::DomainObjective;
use crate::domains::{DomainError, Domains, place_of};
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

/// Domains by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DomainSet {
    /// A name or a folder. Default `coloured-digits`.
    pub source: String,
    /// The side of the pictures of a folder, in pixels. Default 64.
    pub side: usize,
}

impl Default for DomainSet {
    fn default() -> Self {
        Self {
            source: "coloured-digits".into(),
            side: 64,
        }
    }
}

impl DomainSet {
    /// The names of the domains. No picture of a folder is read.
    ///
    /// # Errors
    /// If there are no domains of this name.
    pub fn names(&self) -> Result<Vec<String>, DomainConfigError> {
        match self.folder()? {
            Some(folder) => Ok(folder.names()),
            None => Ok(self.read(&[], 0)?.names().to_vec()),
        }
    }

    /// The folder; none for a built-in set.
    fn folder(&self) -> Result<Option<DomainFolder>, DomainConfigError> {
        let path = Path::new(&self.source);
        if SETS.contains(&self.source.as_str()) {
            return Ok(None);
        }
        match path.is_dir() {
            true => Ok(Some(DomainFolder::open(path)?)),
            false => Err(DomainConfigError::NoSource {
                source_name: self.source.clone(),
            }),
        }
    }

    /// Reads the domains.
    ///
    /// - `tests`: domains that must be there, which is checked before a picture is read
    /// - `seed`: of how built-in pictures are dealt and coloured
    ///
    /// # Errors
    /// If there are none of this name, a domain is missing, or a picture cannot be read.
    pub fn read(&self, tests: &[String], seed: u64) -> Result<Domains, DomainConfigError> {
        if let Some(folder) = self.folder()? {
            there_are(tests, &folder.names())?;
            return Ok(folder.read(self.side)?);
        }
        let pictures = match self.source.ends_with("fashion") {
            true => fashion_sample().map(|[training, _]| training)?,
            false => digits()?,
        };
        let domains = match self.source.starts_with("coloured") {
            true => Coloured::default().of(&pictures, seed)?,
            false => Rotated::default().of(&pictures, seed)?,
        };
        there_are(tests, domains.names())?;
        Ok(domains)
    }
}

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
    /// Which weights are left: those of the epoch with the highest validation accuracy, the mean over the training
    /// domains, or the last. Default the best, which is DomainBed's rule.
    pub keep: Keep,
    /// The objective. Default ERM.
    pub objective: DomainObjective,
}

impl Default for DomainConfig {
    fn default() -> Self {
        Self {
            source: DomainSet::default().source,
            test: None,
            side: DomainSet::default().side,
            keep: Keep::default(),
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
    /// The domains by name.
    pub fn set(&self) -> DomainSet {
        DomainSet {
            source: self.source.clone(),
            side: self.side,
        }
    }

    /// Reads the domains, holds one out, and standardises features by the training examples.
    ///
    /// - `data`: the share for validation, the seed of the split, and whether features are standardised
    ///
    /// # Errors
    /// As [`DomainSet::read`], and if no test domain is chosen, or a domain is too small.
    pub fn open(&self, data: &DataConfig) -> Result<OpenDomains, DomainConfigError> {
        let Some(test) = &self.test else {
            return Err(DomainConfigError::NoTest {
                known: self.set().names()?,
            });
        };
        let share = data.validation_share;
        range::check(
            share > 0.0 || self.keep == Keep::Last,
            "validation share",
            share,
            "more than 0, to keep the best weights",
        )
        .map_err(DomainError::Range)?;
        let domains = self.set().read(slice::from_ref(test), data.split_seed)?;
        let mut parts = domains.hold_out(test, share, data.split_seed)?;
        let shape = domains.shape();
        let classes = domains.classes().to_vec();
        // The parts have all examples again.
        drop(domains);
        let scaling = match data.standardization {
            Standardization::Auto => Scaling::of(&parts.training, shape),
            Standardization::None => Scaling::none(),
        };
        for part in [&mut parts.training, &mut parts.validation, &mut parts.test] {
            scaling.apply(&mut part.features, shape);
        }
        let mut settings = Map::new();
        settings.insert("domains".into(), json!(self.source));
        if !SETS.contains(&self.source.as_str()) {
            settings.insert("side".into(), json!(self.side));
        }
        settings.insert("test_domain".into(), json!(test));
        let objective = self.objective.clone().for_domains(&parts.counts);
        let objective = objective.measured_by(Validation {
            groups: parts.validation_counts.clone(),
            keep: self.keep,
            settings,
        });
        Ok(OpenDomains {
            validation: parts.validation_by_domain(shape.features()),
            objective: objective.validated_on(parts.validation.clone()),
            names: parts.names,
            test: parts.test,
            data: DataSet {
                name: self.source.clone(),
                shape,
                classes,
                training: parts.training,
                test: parts.validation,
                scaling,
                reading: TableReading::default(),
            },
        })
    }
}

/// Refuses names that no domain has.
fn there_are(names: &[String], known: &[String]) -> Result<(), DomainError> {
    names
        .iter()
        .try_for_each(|name| place_of(name, known).map(drop))
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
        config.test = Some("-90%".into());
        let data = DataConfig {
            validation_share: 0.0,
            ..DataConfig::default()
        };
        let error = config.open(&data).unwrap_err().to_string();
        assert!(error.contains("to keep the best weights"), "{error}");
        config.source = "cats".into();
        assert!(told(&config).contains("none of coloured-digits"));
    }
}
