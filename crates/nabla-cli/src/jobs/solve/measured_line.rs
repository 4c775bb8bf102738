//! The accuracy or error of a model, as text.

use nabla::base::words::count;
use nabla::solve::model::Measured;

/// The measurement, on one line.
///
/// - `what`: the name of the examples
pub fn measured_line(measured: &Measured, what: &str) -> String {
    let mut text = format!("{what}: ");
    match (
        measured.accuracy,
        measured.wrong,
        measured.mean_squared_error,
    ) {
        (Some(accuracy), Some(wrong), _) => {
            text += &format!(
                "{:.2} % right ({wrong} of {} wrong)",
                100.0 * accuracy,
                measured.examples
            );
        }
        (_, _, Some(error)) => {
            text += &format!("root mean squared error {:.4}", error.sqrt());
            if let Some(r_squared) = measured.r_squared {
                text += &format!(", R² {r_squared:.4}");
            }
            text += &format!(" ({})", count(measured.examples, "example"));
        }
        _ => text += "not measured, because the model knows none of the labels",
    }
    text + "\n"
}
