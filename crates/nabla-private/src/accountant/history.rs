//! What has been done with the data: the record that every accountant reads.

use nabla_base::OutOfRange;
use nabla_base::range;
use serde::{Deserialize, Serialize};

/// The range of noise multipliers; beyond it, every account in f64 says "everything" or "nothing".
pub const NOISE_MULTIPLIERS: std::ops::RangeInclusive<f64> = 1e-4..=1e9;

/// Equal steps: each adds Gaussian noise to a sum over a Poisson sample of the examples.
///
/// In each step, every example is drawn independently with the sampling rate, contributes a vector of at most
/// norm `C`, and the sum gets noise of standard deviation `noise multiplier · C` per coordinate. A rate of 1
/// means that all examples take part: the plain Gaussian mechanism. If the sensitivity of the sum is not `C`, the
/// noise multiplier is the standard deviation divided by the sensitivity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Phase {
    noise_multiplier: f64,
    sampling_rate: f64,
    steps: u64,
}

/// A phase as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    noise_multiplier: f64,
    sampling_rate: f64,
    steps: u64,
}

impl TryFrom<Unchecked> for Phase {
    type Error = OutOfRange;

    fn try_from(phase: Unchecked) -> Result<Self, OutOfRange> {
        Self::new(phase.noise_multiplier, phase.sampling_rate, phase.steps)
    }
}

impl Phase {
    /// - `noise_multiplier`: the noise's standard deviation divided by the sensitivity, from 1e-4 to 1e9
    /// - `sampling_rate`: the probability that an example takes part in a step, greater than 0 and at most 1
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn new(noise_multiplier: f64, sampling_rate: f64, steps: u64) -> Result<Self, OutOfRange> {
        range::within("noise multiplier", noise_multiplier, NOISE_MULTIPLIERS)?;
        range::check(
            sampling_rate > 0.0 && sampling_rate <= 1.0,
            "sampling rate",
            sampling_rate,
            "greater than 0 and at most 1",
        )?;
        Ok(Self {
            noise_multiplier,
            sampling_rate,
            steps,
        })
    }

    /// One step on all examples. Many steps may have less noise together than one of them may have.
    pub(super) fn of_all_examples(noise_multiplier: f64) -> Self {
        Self {
            noise_multiplier,
            sampling_rate: 1.0,
            steps: 1,
        }
    }

    /// The noise's standard deviation divided by the sensitivity.
    pub fn noise_multiplier(&self) -> f64 {
        self.noise_multiplier
    }

    /// The probability that an example takes part in a step.
    pub fn sampling_rate(&self) -> f64 {
        self.sampling_rate
    }

    /// The number of steps.
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

/// Everything that has been done with the data so far, for checkpoints and the folders of models.
///
/// Its JSON is the list of its phases. Their order doesn't matter, because the privacy losses of all steps add up.
///
/// ```
/// use nabla_private::accountant::History;
///
/// let mut history = History::new().with(1.1, 0.01, 1000)?;
/// history.add(1.1, 0.01, 1)?; // one more of the same
/// history.add(4.0, 1.0, 10)?; // on all examples
/// assert_eq!(history.phases().len(), 2);
/// assert_eq!(history.steps(), 1011);
///
/// let error = History::new().with(1.1, 2.0, 10).unwrap_err();
/// let told = "the sampling rate is 2, but it must be greater than 0 and at most 1";
/// assert_eq!(error.to_string(), told);
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History {
    phases: Vec<Phase>,
}

impl History {
    /// Nothing has been done yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same history with more steps; the arguments are those of [`Phase::new`].
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn with(
        mut self,
        noise_multiplier: f64,
        sampling_rate: f64,
        steps: u64,
    ) -> Result<Self, OutOfRange> {
        self.add(noise_multiplier, sampling_rate, steps)?;
        Ok(self)
    }

    /// Adds steps; the arguments are those of [`Phase::new`]. Steps like earlier ones only increase a count, so a
    /// training may add its steps one by one, and alternate between two kinds of them.
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn add(
        &mut self,
        noise_multiplier: f64,
        sampling_rate: f64,
        steps: u64,
    ) -> Result<(), OutOfRange> {
        let phase = Phase::new(noise_multiplier, sampling_rate, steps)?;
        let same = |p: &&mut Phase| {
            p.noise_multiplier == noise_multiplier && p.sampling_rate == sampling_rate
        };
        match self.phases.iter_mut().find(same) {
            Some(earlier) => earlier.steps = earlier.steps.saturating_add(steps),
            None => self.phases.push(phase),
        }
        Ok(())
    }

    /// The phases, each with another noise multiplier or sampling rate than the others.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// The number of steps of all phases.
    pub fn steps(&self) -> u64 {
        let steps = self.phases.iter().map(|p| p.steps);
        steps.fold(0, u64::saturating_add)
    }

    /// The phases that draw a sample, and those of rate 1 together as one number: the `μ` of Gaussian differential
    /// privacy, `μ² = Σ steps/noise²`. It is exact: `μ` is the distance of the two means of all their
    /// answers, in standard deviations.
    pub(super) fn sampled_and_mu(&self) -> (Vec<Phase>, f64) {
        let done = self.phases.iter().filter(|p| p.steps > 0);
        let (sampled, full): (Vec<Phase>, Vec<Phase>) = done.partition(|p| p.sampling_rate < 1.0);
        let squares = full
            .iter()
            .map(|p| p.steps as f64 / p.noise_multiplier.powi(2));
        (sampled, squares.sum::<f64>().sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_checked_as_an_argument_is() {
        let history = History::new().with(1.1, 0.01, 7).unwrap();
        let json = serde_json::to_string(&history).unwrap();
        let expected = r#"[{"noise_multiplier":1.1,"sampling_rate":0.01,"steps":7}]"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<History>(&json).unwrap(), history);
        let told = |json: &str| {
            serde_json::from_str::<History>(json)
                .unwrap_err()
                .to_string()
        };
        let wrong = told(&expected.replace("1.1", "-1"));
        assert!(
            wrong.starts_with("the noise multiplier is -1, but it must be"),
            "{wrong}"
        );
        assert!(told(&expected.replace("steps", "step")).contains("unknown field"));
    }

    #[test]
    fn no_number_out_of_range_is_recorded() {
        let nan = f64::NAN;
        for (noise, rate) in [(0.0, 0.1), (-1.0, 0.1), (nan, 0.1), (f64::INFINITY, 0.1)] {
            assert!(Phase::new(noise, rate, 1).is_err(), "{noise} {rate}");
        }
        for rate in [0.0, -0.1, 1.1, nan] {
            assert!(Phase::new(1.0, rate, 1).is_err(), "{rate}");
        }
        assert!(Phase::new(1.0, 1.0, 0).is_ok());
    }

    #[test]
    fn steps_without_a_sample_are_one_gaussian() {
        let history = History::new().with(2.0, 1.0, 4).unwrap();
        let history = history
            .with(0.5, 1.0, 2)
            .unwrap()
            .with(1.0, 0.5, 3)
            .unwrap();
        let (sampled, mu) = history.sampled_and_mu();
        assert_eq!(mu, 3.0);
        assert_eq!(sampled, [Phase::new(1.0, 0.5, 3).unwrap()]);
    }
}
