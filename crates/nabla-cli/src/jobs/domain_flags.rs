//! The flags by which `nabla train model` trains on domains.

use std::path::Path;

use burn::tensor::Device;
use clap::Args;
use nabla::align::domain_config::{DomainConfig, OpenDomains};
use nabla::align::objectives;
use nabla::base::registry::Options;
use nabla::train::classification::{measured_batches, rightly};
use nabla::train::examples::{Examples, Scaling};
use nabla::train::experiment::Outcome;
use nabla::train::mlp::Mlp;
use nabla::train::trained_classifier::{ClassifierConfig, TrainedClassifier};
use nabla::train::validation::Keep;
use serde::Serialize;
use serde_json::Value;

use crate::choice::choice;
use crate::errors::Failure;

/// Each flag overrides the file.
#[derive(Args)]
pub struct DomainFlags {
    /// Train on several domains for one that is not seen: a folder `domain/class/picture`, or `coloured-digits`,
    /// `coloured-fashion`, `rotated-digits` or `rotated-fashion` (built in)
    #[arg(
        long,
        value_name = "DIR",
        help_heading = "Domains",
        conflicts_with_all = ["data", "test", "label_column"]
    )]
    domains: Option<String>,
    /// The domain to test with; the others are trained on
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Domains",
        allow_hyphen_values = true
    )]
    test_domain: Option<String>,
    // The help lists the names of the registry.
    #[arg(long, value_name = "NAME", help_heading = "Domains", help = names())]
    objective: Option<String>,
    /// An option of the objective; may be given several times
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Domains")]
    objective_option: Vec<String>,
    /// The side to which the pictures of a folder are brought, in pixels [default: 64]
    #[arg(long, value_name = "PIXELS", help_heading = "Domains")]
    side: Option<usize>,
    /// Which weights to leave; the accuracy is the mean over the training domains
    #[arg(long, value_parser = choice::<Keep>(), help_heading = "Domains")]
    keep: Option<Keep>,
}

fn names() -> String {
    let names = objectives::<Mlp>().names().join(", ");
    format!("What is asked of the domains: {names} [default: erm]")
}

impl DomainFlags {
    /// What the file says, overridden by the flags.
    ///
    /// # Errors
    /// If other flags are given without domains, or the objective or an option is unknown.
    pub fn apply(&self, file: Option<DomainConfig>) -> Result<Option<DomainConfig>, Failure> {
        let any = self.test_domain.is_some()
            || self.objective.is_some()
            || !self.objective_option.is_empty()
            || self.side.is_some()
            || self.keep.is_some();
        let mut config = match (&self.domains, file) {
            (None, None) if any => {
                return Err(Failure::input(
                    "--test-domain, --objective, --objective-option, --side and --keep are for --domains",
                ));
            }
            (None, None) => return Ok(None),
            (_, Some(file)) => file,
            (Some(_), None) => DomainConfig::default(),
        };
        if let Some(source) = &self.domains {
            config.source.clone_from(source);
        }
        if self.test_domain.is_some() {
            config.test.clone_from(&self.test_domain);
        }
        if let Some(name) = &self.objective
            && *name != config.objective.name
        {
            config.objective.name.clone_from(name);
            config.objective.options = Options::new();
        }
        let options = Options::parse(&self.objective_option).map_err(Failure::input)?;
        config.objective.options = config.objective.options.overridden(&options);
        config.side = self.side.unwrap_or(config.side);
        config.keep = self.keep.unwrap_or(config.keep);
        config.objective.make::<Mlp>().map_err(Failure::input)?;
        Ok(Some(config))
    }
}

/// How right a model is in each domain.
#[derive(Serialize)]
pub struct DomainReport {
    objective: String,
    /// On the validation examples of the training domains.
    training_domains: Vec<(String, f64)>,
    test_domain: String,
    test_accuracy: f64,
    /// What the objective has to tell.
    #[serde(skip_serializing_if = "Value::is_null")]
    told: Value,
}

impl DomainReport {
    /// Of a training that is done.
    ///
    /// # Errors
    /// If a number cannot be read from the device.
    pub fn of(
        config: &DomainConfig,
        open: &OpenDomains,
        outcome: &Outcome,
    ) -> Result<Self, Failure> {
        let classifier = unscaled(outcome)?;
        let accuracy = |examples: &Examples| accuracy(&classifier, examples);
        let training = open.names.iter().zip(&open.validation);
        let training = training.map(|(name, examples)| Ok((name.clone(), accuracy(examples)?)));
        Ok(Self {
            objective: config.objective.name.clone(),
            training_domains: training.collect::<Result<_, Failure>>()?,
            test_domain: config.test.clone().unwrap_or_default(),
            test_accuracy: accuracy(&open.test)?,
            told: outcome.told.clone(),
        })
    }

    /// In lines.
    pub fn told(&self) -> String {
        let mut text = format!("{} on domains, share of right answers:\n", self.objective);
        for (name, accuracy) in &self.training_domains {
            text += &format!(
                "  {name}: {:.2} % of the validation examples\n",
                100.0 * accuracy
            );
        }
        let accuracy = 100.0 * self.test_accuracy;
        text += &format!(
            "  {}: {accuracy:.2} %, a domain that it has not seen\n",
            self.test_domain
        );
        let quantizers = self.told.get("quantizers").and_then(Value::as_array);
        for quantizer in quantizers.into_iter().flatten() {
            let share = |name: &str| 100.0 * quantizer[name].as_f64().unwrap_or(0.0);
            let name = |name: &str| quantizer[name].as_str().unwrap_or_default().to_owned();
            text += &format!(
                "  step size of the {} of {}: its gradients conflict in {:.0} % of the steps, frozen in {:.0} %\n",
                name("role"),
                name("layer"),
                share("conflict"),
                share("frozen")
            );
        }
        text
    }
}

/// The model of a training for examples that are scaled already.
///
/// # Errors
/// If it cannot be built.
pub fn unscaled(outcome: &Outcome) -> Result<TrainedClassifier, Failure> {
    let config = ClassifierConfig {
        scaling: Scaling::none(),
        ..outcome.classifier.clone()
    };
    let config = serde_json::to_vec(&config).map_err(Failure::run)?;
    let weights = outcome.weights.clone();
    let name = Path::new("the trained model");
    TrainedClassifier::from_files(&config, weights, name, &Device::flex()).map_err(Failure::run)
}

/// The share of right answers.
fn accuracy(classifier: &TrainedClassifier, examples: &Examples) -> Result<f64, Failure> {
    let Examples { features, labels } = examples;
    let width = classifier.config().shape.features();
    let mut right = 0;
    for (input, labels) in measured_batches(features, labels, width, &Device::flex()) {
        right += rightly(classifier.logits(input).map_err(Failure::run)?, labels);
    }
    Ok(right as f64 / examples.len().max(1) as f64)
}
