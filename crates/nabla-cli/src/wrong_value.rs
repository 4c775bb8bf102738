//! What is said of a value on the command line that is no number, or none that its flag takes: the words of the parsers
//! are for programmers.

use std::error::Error;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError, TryFromIntError};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use nabla::base::words::shortened;

/// The text of an error about the command line, with its value [shortened], and other words if a number is wrong.
pub fn told(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let text = error.to_string();
    let (Some(value), Some(flag)) = (
        context(ContextKind::InvalidValue),
        context(ContextKind::InvalidArg),
    ) else {
        return text;
    };
    let expected = error.source().and_then(|reason| expected(value, reason));
    let short = shortened(value);
    match expected {
        Some(expected) if error.kind() == ErrorKind::ValueValidation => {
            format!("invalid value '{short}' for '{flag}': {expected}")
        }
        _ if short != value => text.replace(value, &short),
        _ => text,
    }
}

/// What was expected, if a number is wrong.
fn expected(value: &str, reason: &(dyn Error + 'static)) -> Option<String> {
    const TOO_LARGE: &str = "the number is too large";
    if let Some(error) = reason.downcast_ref::<ParseIntError>() {
        let is_negative = value.strip_prefix('-').is_some_and(is_whole);
        return Some(match error.kind() {
            IntErrorKind::PosOverflow => TOO_LARGE.to_owned(),
            IntErrorKind::NegOverflow => "the number is too small".to_owned(),
            _ if is_negative => "expected a whole number of at least 0".to_owned(),
            _ => "expected a whole number".to_owned(),
        });
    }
    if reason.is::<TryFromIntError>() {
        return Some(TOO_LARGE.to_owned());
    }
    if reason.is::<ParseFloatError>() {
        return Some("expected a number".to_owned());
    }
    // The parser of whole numbers in a range has its reason as a text alone: "0 is not in 1..=9".
    let text = reason.to_string();
    let (found, range) = text.split_once(" is not in ")?;
    let (least, most) = range.split_once("..")?;
    let found: i128 = found.parse().ok()?;
    let least: i128 = least.parse().ok()?;
    let most: i128 = match most.strip_prefix('=') {
        Some(most) => most.parse().ok()?,
        None => most.parse::<i128>().ok()? - 1,
    };
    Some(match most >= i128::from(u32::MAX) {
        true if found > most => TOO_LARGE.to_owned(),
        // The largest number of the type is no bound that anybody has chosen.
        true => format!("expected a whole number of at least {least}"),
        false => format!("expected a whole number from {least} to {most}"),
    })
}

fn is_whole(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[arg(long, allow_hyphen_values = true)]
        size: Option<usize>,
        #[arg(long)]
        seed: Option<u64>,
        #[arg(long, allow_hyphen_values = true)]
        rate: Option<f64>,
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        steps: Option<u32>,
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=32_000))]
        side: Option<u32>,
        #[arg(long, value_parser = ["cpu", "cuda"])]
        device: Option<String>,
    }

    fn refused(flag: &str, value: &str) -> String {
        let error = Line::try_parse_from(["x", flag, value]).unwrap_err();
        told(&error)
    }

    #[test]
    fn numbers_are_refused_in_the_words_of_their_users() {
        let huge = "9".repeat(300);
        for (flag, value, expected) in [
            ("--size", "many", "expected a whole number"),
            ("--size", "", "expected a whole number"),
            ("--size", "1.5", "expected a whole number"),
            ("--size", "-5", "expected a whole number of at least 0"),
            ("--size", &huge, "the number is too large"),
            ("--seed", "x", "expected a whole number"),
            ("--seed", &huge, "the number is too large"),
            ("--rate", "1,5", "expected a number"),
            ("--rate", "", "expected a number"),
            ("--steps", "0", "expected a whole number of at least 1"),
            ("--steps", "5000000000", "the number is too large"),
            ("--steps", "ten", "expected a whole number"),
            ("--side", "0", "expected a whole number from 1 to 32000"),
            ("--side", "32001", "expected a whole number from 1 to 32000"),
        ] {
            let told = refused(flag, value);
            assert!(told.ends_with(&format!(": {expected}")), "{flag}: {told}");
            assert!(told.len() < 100, "{told}");
        }
        assert_eq!(
            refused("--size", "many"),
            "invalid value 'many' for '--size <SIZE>': expected a whole number"
        );
    }

    #[test]
    fn no_value_is_told_at_full_length() {
        let told = refused("--device", &"abacus".repeat(100));
        assert!(
            told.contains("... (600 characters)") && told.contains("cpu, cuda"),
            "{told}"
        );
        assert!(told.lines().next().unwrap().len() < 120, "{told}");
    }
}
