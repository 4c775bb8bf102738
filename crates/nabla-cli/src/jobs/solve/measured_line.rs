//! How good a model is, as text.

use nabla::solve::model::Measured;

/// In a line.
///
/// - `what`: the examples
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
            text += &format!("root of the mean squared error {:.4}", error.sqrt());
            if let Some(r_squared) = measured.r_squared {
                text += &format!(", R² {r_squared:.4}");
            }
            text += &format!(" ({} examples)", measured.examples);
        }
        _ => text += "not measured, as no label is one of the model's",
    }
    text + "\n"
}
