//! Values in words, for people.

use std::any::Any;
use std::fmt::Display;

/// A duration in a suitable unit.
///
/// ```
/// use nabla_base::words::duration;
///
/// assert_eq!(duration(0.25), "0.2 s");
/// assert_eq!(duration(100.0), "100 s");
/// assert_eq!(duration(600.0), "10 min");
/// assert_eq!(duration(9000.0), "2.5 h");
/// ```
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A number of things, with the noun in the singular or the plural.
///
/// - `noun`: in the singular; its plural ends in `s`
///
/// ```
/// use nabla_base::words::count;
///
/// assert_eq!(count(1, "epoch"), "1 epoch");
/// assert_eq!(count(0, "epoch"), "0 epochs");
/// ```
pub fn count<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// The most characters of a number and of any other text that are [not shortened](shortened).
const LONGEST_NUMBER: usize = 20;
const LONGEST: usize = 40;

/// What somebody wrote, short enough for a sentence: a long number by its leading digits and its power of ten, and the
/// beginning of any other long text.
///
/// ```
/// use nabla_base::words::shortened;
///
/// assert_eq!(shortened("0.125"), "0.125");
/// assert_eq!(shortened(&format!("-25{}", "0".repeat(298))), "-2.5e299");
/// assert_eq!(shortened(&"9".repeat(400)), format!("{}... (400 characters)", "9".repeat(40)));
/// ```
pub fn shortened(text: &str) -> String {
    let length = text.chars().count();
    if length <= LONGEST_NUMBER {
        return text.to_owned();
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => format!("{number:e}"),
        _ if length <= LONGEST => text.to_owned(),
        _ => {
            let begin: String = text.chars().take(LONGEST).collect();
            format!("{begin}... ({length} characters)")
        }
    }
}

/// The message of a caught panic.
///
/// ```
/// use nabla_base::words::panic_message;
///
/// let panic = std::panic::catch_unwind(|| panic!("no memory")).unwrap_err();
/// assert_eq!(panic_message(&*panic), "no memory");
/// ```
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "it gave no reason".to_owned(),
    }
}
