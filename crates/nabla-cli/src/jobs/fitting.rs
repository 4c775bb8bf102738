//! Whether a trained model is for the examples that it is to see.

use std::path::Path;

use nabla::train::data_set::DataSet;
use nabla::train::examples::InputShape;
use nabla::train::trained_classifier::ClassifierConfig;

/// Says what doesn't fit, if something doesn't.
///
/// - `folder`: of the model
/// - `source`: the name of the data
pub fn misfit(
    folder: &Path,
    config: &ClassifierConfig,
    source: &str,
    data: &DataSet,
) -> Option<String> {
    let classes = data.classes.len();
    let fits = config.shape == data.shape && config.classes.len() == classes;
    (!fits).then(|| {
        format!(
            "{} classifies {} into {} classes, but {source} has {} of {classes} classes: name its examples by --data",
            folder.display(),
            described_shape(config.shape),
            config.classes.len(),
            described_shape(data.shape),
        )
    })
}

fn described_shape(shape: InputShape) -> String {
    match shape {
        InputShape::Picture([channels, height, width]) => {
            format!("pictures of {channels} x {height} x {width}")
        }
        InputShape::Row(features) => format!("rows of {features} numbers"),
    }
}
