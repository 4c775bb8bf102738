//! The flags by which `nabla train model` trains privately and `nabla audit privacy` audits such a training, and what
//! is told at the end.

use clap::Args;
use clap::builder::PossibleValuesParser;
use nabla::private::accountant::accountants;
use nabla::private::clipping::Clipping;
use nabla::private::private_training::{PrivacyConfig, PrivacyReport, PrivateMethod};
use nabla::train::data_set::Standardization;
use nabla::train::experiment::Experiment;

use crate::choice::{choice, chosen};
use crate::errors::Failure;

/// Each flag overrides the file.
#[derive(Args)]
#[command(next_help_heading = "Private training")]
pub struct PrivacyFlags {
    /// The budget ε, from which the noise follows
    #[arg(long, value_name = "EPSILON", conflicts_with = "noise_multiplier")]
    epsilon: Option<f64>,
    /// The probability δ that the guarantee does not hold [default: one in ten times the number of examples]
    #[arg(long, value_name = "DELTA")]
    delta: Option<f64>,
    /// The noise in multiples of the clip, instead of a budget
    #[arg(long, value_name = "SIGMA")]
    noise_multiplier: Option<f64>,
    /// The norm to which the gradient of each example is clipped [default: 1]
    #[arg(long, value_name = "NORM")]
    clip: Option<f64>,
    /// How gradients are clipped [default: flat]
    #[arg(long, value_parser = choice::<Clipping>())]
    clipping: Option<Clipping>,
    /// What is released of a step [default: dp-sgd]
    #[arg(long, value_parser = choice::<PrivateMethod>())]
    private_method: Option<PrivateMethod>,
    /// Whose account counts [default: pld]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(accountants().names()))]
    accountant: Option<String>,
    /// Examples that are computed at once: less memory, the same result [default: 128]
    #[arg(long, value_name = "N")]
    virtual_batch: Option<usize>,
    /// Take the noise from a seed, so that it is repeated: for experiments, not for private data
    #[arg(long, value_name = "SEED")]
    noise_seed: Option<u64>,
}

impl PrivacyFlags {
    /// Whether any is given.
    fn is_given(&self) -> bool {
        let numbers = [self.epsilon, self.delta, self.noise_multiplier, self.clip];
        numbers.iter().any(Option::is_some)
            || self.clipping.is_some()
            || self.private_method.is_some()
            || self.accountant.is_some()
            || self.virtual_batch.is_some()
            || self.noise_seed.is_some()
    }

    /// What the file says, overridden by the flags; none if neither asks for a private training.
    ///
    /// - `private`: whether the command line does
    ///
    /// # Errors
    /// If a flag is given without a private training, or a value is out of range.
    pub fn apply(
        &self,
        file: Option<PrivacyConfig>,
        private: bool,
    ) -> Result<Option<PrivacyConfig>, Failure> {
        if !private && file.is_none() {
            return match self.is_given() {
                true => Err(Failure::input(
                    "a flag of private training is given, but the training isn't private: add --private",
                )),
                false => Ok(None),
            };
        }
        self.over(file.unwrap_or_default()).map(Some)
    }

    /// A private training, overridden by the flags.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn over(&self, mut privacy: PrivacyConfig) -> Result<PrivacyConfig, Failure> {
        if self.epsilon.is_some() || self.noise_multiplier.is_some() {
            privacy.epsilon = self.epsilon;
            privacy.noise_multiplier = self.noise_multiplier;
        }
        privacy.delta = self.delta.or(privacy.delta);
        if let Some(clipping) = self.clipping {
            privacy.clipping = clipping.to(privacy.clipping.sensitivity());
        }
        if let Some(clip) = self.clip {
            privacy.clipping = privacy.clipping.to(clip);
        }
        privacy.method = chosen(self.private_method, privacy.method);
        if let Some(accountant) = &self.accountant {
            privacy.accountant.clone_from(accountant);
        }
        privacy.virtual_batch = self.virtual_batch.unwrap_or(privacy.virtual_batch);
        privacy.noise_seed = self.noise_seed.or(privacy.noise_seed);
        privacy.validate().map_err(Failure::input)?;
        Ok(privacy)
    }
}

/// Leaves features as they are: scaled by the training examples, every gradient would depend on all of them.
pub fn without_scaling(experiment: &mut Experiment) {
    experiment.data.standardization = Standardization::None;
}

/// What a private training has revealed, in lines.
///
/// - `has_folder`: whether there are files
pub fn told(report: &PrivacyReport, has_folder: bool) -> String {
    let phases = report.history.phases().iter();
    let noise: Vec<String> = phases
        .map(|phase| format!("{:.4}", phase.noise_multiplier()))
        .collect();
    let [done, all] = report.steps;
    let mut told = format!(
        "private: ε = {:.4} at δ = {:.3e}, by the accountant {}, for {} of {} examples, after {done} of {all} steps\n\
         noise multiplier {}; {:.1} % of the gradients were longer than the clip, {}\n",
        report.epsilon,
        report.delta,
        report.accountant,
        report.neighbours,
        report.examples,
        noise.join(" and "),
        100.0 * report.clipped,
        report.clipping.sensitivity(),
    );
    for caveat in &report.caveats {
        told += &format!("note: {caveat}\n");
    }
    if has_folder {
        told += &format!(
            "not covered by the guarantee, since they are computed from the training examples: {}\n",
            report.not_covered.join(", ")
        );
    }
    told
}
