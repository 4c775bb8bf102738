//! `nabla privacy`: what a private training reveals, by every accountant, or the noise that a budget needs.

use clap::Args;
use nabla::base::words::count;
use nabla::private::accountant::calibrate::noise_multiplier;
use nabla::private::accountant::{AccountError, Accountant, History, accountants};
use serde::Serialize;

use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::output::table;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The noise multiplier: the noise's standard deviation divided by the clipping norm
    #[arg(
        long,
        value_name = "SIGMA",
        required_unless_present = "epsilon",
        conflicts_with = "epsilon"
    )]
    noise: Option<f64>,
    /// Find the least noise for this ε, instead of the ε of a noise
    #[arg(long, value_name = "EPSILON")]
    epsilon: Option<f64>,
    /// The probability δ that the promise of ε doesn't hold; less than one in the number of examples
    #[arg(long, value_name = "DELTA", default_value_t = 1e-5)]
    delta: f64,
    /// The probability that an example takes part in a step; 1 for all examples in every step
    #[arg(
        long,
        value_name = "Q",
        required_unless_present = "examples",
        requires = "steps"
    )]
    rate: Option<f64>,
    /// The number of steps
    #[arg(long, value_name = "N", requires = "rate")]
    steps: Option<u64>,
    /// The number of examples, with --batch and --epochs instead of --rate and --steps
    #[arg(
        long,
        value_name = "N",
        requires_all = ["batch", "epochs"],
        conflicts_with_all = ["rate", "steps"]
    )]
    examples: Option<u64>,
    /// The mean number of examples in a step
    #[arg(long, value_name = "N", requires = "examples")]
    batch: Option<u64>,
    /// How often each example is expected to take part
    #[arg(long, value_name = "N", requires = "examples")]
    epochs: Option<f64>,
}

/// What was asked.
#[derive(Clone, Copy, Debug, Serialize)]
struct Question {
    noise: Option<f64>,
    epsilon: Option<f64>,
    delta: f64,
    rate: f64,
    steps: u64,
}

/// What an accountant says.
#[derive(Serialize)]
struct Answer {
    accountant: &'static str,
    /// The noise that was asked for, or the least that is enough.
    noise: Option<f64>,
    epsilon: Option<f64>,
    /// Known to be at most the true ε.
    lower: Option<f64>,
    estimate: Option<f64>,
    order: Option<f64>,
    /// Why there is no answer.
    reason: Option<String>,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Accounts {
    #[serde(flatten)]
    question: Question,
    answers: Vec<Answer>,
}

impl From<AccountError> for Failure {
    fn from(error: AccountError) -> Self {
        Self::input(error)
    }
}

impl Arguments {
    fn question(&self) -> Result<Question, Failure> {
        let (rate, steps) = match (
            self.rate,
            self.steps,
            self.examples,
            self.batch,
            self.epochs,
        ) {
            (Some(rate), Some(steps), ..) => (rate, steps),
            (_, _, Some(examples), Some(batch), Some(epochs)) => {
                of_epochs(examples, batch, epochs)?
            }
            _ => {
                return Err(Failure::input(
                    "give --rate and --steps, or --examples, --batch and --epochs",
                ));
            }
        };
        Ok(Question {
            noise: self.noise,
            epsilon: self.epsilon,
            delta: self.delta,
            rate,
            steps,
        })
    }
}

/// The sampling rate and the number of steps.
fn of_epochs(examples: u64, batch: u64, epochs: f64) -> Result<(f64, u64), Failure> {
    if batch == 0 || batch > examples {
        return Err(Failure::input(format!(
            "a batch has {batch} of {examples} examples, but it must have from 1 to all of them"
        )));
    }
    // The last batch of an epoch may be smaller, and is a step.
    let steps = epochs * examples.div_ceil(batch.max(1)) as f64;
    if !(epochs > 0.0 && steps < 1e15) {
        return Err(Failure::input(format!(
            "the number of epochs is {epochs}, but it must be positive, with less than 1e15 steps"
        )));
    }
    Ok((batch as f64 / examples as f64, steps.ceil() as u64))
}

impl Question {
    fn answer(&self, accountant: &dyn Accountant) -> Result<Answer, AccountError> {
        let none = History::new();
        let noise = match (self.noise, self.epsilon) {
            (Some(noise), _) => noise,
            (None, epsilon) => noise_multiplier(
                accountant,
                epsilon.unwrap_or_default(),
                self.delta,
                self.rate,
                self.steps,
                &none,
            )?,
        };
        let history = none.with(noise, self.rate, self.steps)?;
        let spent = accountant.epsilon(&history, self.delta)?;
        Ok(Answer {
            accountant: accountant.name(),
            noise: Some(noise),
            epsilon: Some(spent.epsilon),
            lower: spent.lower,
            estimate: spent.estimate,
            order: spent.order,
            reason: None,
        })
    }
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let question = self.question()?;
        let all = accountants();
        let mut answers = Vec::new();
        for name in all.names() {
            context.check()?;
            let accountant = all.get(name).map_err(Failure::input)?;
            answers.push(match question.answer(accountant.as_ref()) {
                Ok(answer) => answer,
                // A wrong number is wrong for all of them.
                Err(error @ AccountError::Range(_)) => return Err(error.into()),
                Err(error) => Answer {
                    accountant: name,
                    noise: question.noise,
                    epsilon: None,
                    lower: None,
                    estimate: None,
                    order: None,
                    reason: Some(error.to_string()),
                },
            });
        }
        let accounts = Accounts { question, answers };
        context.report(&accounts, || told(&accounts))
    }
}

/// A number with six digits, or a dash.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value == 0.0 || (1e-4..1e7).contains(&value) => {
            let digits = if value < 10.0 { 5 } else { 3 };
            format!("{value:.digits$}")
        }
        Some(value) => format!("{value:.4e}"),
    }
}

fn told(accounts: &Accounts) -> String {
    let Question {
        noise,
        epsilon,
        delta,
        rate,
        steps,
    } = accounts.question;
    let asked = match (noise, epsilon) {
        (Some(noise), _) => format!("noise multiplier {noise}"),
        (None, epsilon) => format!("the noise for ε = {}", epsilon.unwrap_or_default()),
    };
    let steps = count(steps, "step");
    let mut text = format!("{asked}, sampling rate {rate}, {steps}, δ = {delta:e}\n\n");
    let head = [
        "accountant",
        "noise",
        "ε at most",
        "estimate",
        "at least",
        "order",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut reasons = String::new();
    for answer in &accounts.answers {
        if let Some(reason) = &answer.reason {
            reasons += &format!("\n{reason}\n");
        }
        rows.push(vec![
            answer.accountant.to_owned(),
            number(answer.noise),
            number(answer.epsilon),
            number(answer.estimate),
            number(answer.lower),
            answer
                .order
                .map_or("-".to_owned(), |order| order.to_string()),
        ]);
    }
    if noise.is_some() {
        // It is the same for all of them, and in the first line.
        rows.iter_mut().for_each(|row| drop(row.remove(1)));
    }
    text += &table(&rows);
    text + &reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_steps_of_a_rate() {
        assert_eq!(of_epochs(60_000, 600, 15.0).unwrap(), (0.01, 1500));
        assert_eq!(of_epochs(1000, 300, 1.0).unwrap(), (0.3, 4));
        for (examples, batch, epochs) in
            [(10, 0, 1.0), (10, 11, 1.0), (10, 5, 0.0), (10, 5, f64::NAN)]
        {
            assert!(of_epochs(examples, batch, epochs).is_err());
        }
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        let texts = [0.0, 0.001_234_5, 1.234_567, 31.234_567, 1e-9, 5e8].map(|v| number(Some(v)));
        assert_eq!(
            texts,
            [
                "0.00000",
                "0.00123",
                "1.23457",
                "31.235",
                "1.0000e-9",
                "5.0000e8"
            ]
        );
    }
}
