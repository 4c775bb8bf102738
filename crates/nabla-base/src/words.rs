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

/// A text as a field of a CSV file: in quotation marks if it needs them.
///
/// ```
/// use nabla_base::words::csv_field;
///
/// assert_eq!(csv_field("mean, std"), "\"mean, std\"");
/// assert_eq!(csv_field("art"), "art");
/// ```
pub fn csv_field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// A reader's message about a value of the wrong type, with the types of Rust in the words of their users.
///
/// ```
/// use nabla_base::words::without_types;
///
/// let told = |text: &str| without_types(&serde_json::from_str::<(f64, usize, Vec<bool>)>(text).unwrap_err().to_string());
/// assert_eq!(told("[\"much\", 1, []]"), "invalid type: string \"much\", expected a number at line 1 column 7");
/// assert_eq!(
///     told("[1, -1, []]"),
///     "invalid value: integer `-1`, expected a whole number of at least 0 at line 1 column 6"
/// );
/// assert_eq!(told("[1, 1, 2]"), "invalid type: integer `2`, expected a list at line 1 column 8");
/// ```
pub fn without_types(message: &str) -> String {
    const EXPECTED: &str = "expected ";
    let Some((said, expected)) = message.rsplit_once(EXPECTED) else {
        return message.to_owned();
    };
    const WORDS: [(&[&str], &str); 6] = [
        (&["f32", "f64"], "a number"),
        (
            &["usize", "u8", "u16", "u32", "u64", "u128"],
            "a whole number of at least 0",
        ),
        (
            &["isize", "i8", "i16", "i32", "i64", "i128"],
            "a whole number",
        ),
        (&["a boolean"], "true or false"),
        (&["a string"], "a text"),
        (&["a sequence"], "a list"),
    ];
    let named = |(types, words): &(&[&str], &str)| {
        types.iter().find_map(|name| {
            let rest = expected.strip_prefix(name)?;
            let whole = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            whole.then(|| format!("{said}{EXPECTED}{words}{rest}"))
        })
    };
    WORDS
        .iter()
        .find_map(named)
        .unwrap_or_else(|| message.to_owned())
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
