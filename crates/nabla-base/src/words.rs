//! Values in words, for people.

use std::any::Any;

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
