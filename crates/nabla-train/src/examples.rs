//! Classified examples in memory.

use nabla_grad::fingerprint::fingerprint_of;
use serde::{Deserialize, Serialize};

/// The shape of an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputShape {
    /// Channels, height and width of a picture.
    Picture([usize; 3]),
    /// Numbers of a row.
    Row(usize),
}

impl InputShape {
    /// Numbers of an example.
    pub fn features(self) -> usize {
        match self {
            Self::Picture(shape) => shape.iter().product(),
            Self::Row(features) => features,
        }
    }

    /// The number of groups of neighbouring features that are scaled alike, and the size of each: the channels
    /// of a picture, the features of a row.
    fn groups(self) -> (usize, usize) {
        match self {
            Self::Picture([channels, height, width]) => (channels, height * width),
            Self::Row(features) => (features, 1),
        }
    }
}

/// How features are shifted and scaled: `(x − mean)·scale`, with one pair for each channel of a picture or each
/// feature of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// The means. Empty: the features stay as they are.
    pub means: Vec<f64>,
    /// The factors: 1/standard deviation, or 0 for a feature that does not vary.
    pub scales: Vec<f64>,
}

impl Scaling {
    /// Leaves the features as they are.
    pub fn none() -> Self {
        Self::default()
    }

    /// From the mean and the standard deviation of examples.
    pub fn of(examples: &Examples, shape: InputShape) -> Self {
        let (groups, group) = shape.groups();
        let rows = || examples.features.chunks_exact(groups * group);
        let count = (examples.len() * group) as f64;
        let mean_of = |value: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
            let mut sums = vec![0.0; groups];
            for row in rows() {
                for (g, values) in row.chunks_exact(group).enumerate() {
                    sums[g] += values.iter().map(|&v| value(g, v.into())).sum::<f64>();
                }
            }
            sums.iter().map(|sum| sum / count).collect()
        };
        let means = mean_of(&|_, v| v);
        let variances = mean_of(&|g, v| (v - means[g]).powi(2));
        let scale = |v: &f64| {
            if v.sqrt() > 1e-12 {
                1.0 / v.sqrt()
            } else {
                0.0
            }
        };
        Self {
            scales: variances.iter().map(scale).collect(),
            means,
        }
    }

    /// Whether there is a pair for each channel or feature, or none at all.
    pub fn fits(&self, shape: InputShape) -> bool {
        let (groups, _) = shape.groups();
        let lengths = [self.means.len(), self.scales.len()];
        lengths == [0, 0] || lengths == [groups, groups]
    }

    /// Scales rows in place.
    ///
    /// - `features`: `[examples, features]`, row by row
    pub fn apply(&self, features: &mut [f32], shape: InputShape) {
        if self.means.is_empty() {
            return;
        }
        let (groups, group) = shape.groups();
        for row in features.chunks_exact_mut(groups * group) {
            for (i, value) in row.iter_mut().enumerate() {
                let g = i / group;
                *value = ((f64::from(*value) - self.means[g]) * self.scales[g]) as f32;
            }
        }
    }
}

/// Examples in memory.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Examples {
    /// `[examples, features]`, row by row.
    pub features: Vec<f32>,
    /// The class of each.
    pub labels: Vec<u32>,
}

impl Examples {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// A short name of them all, by which other examples are noticed.
    pub fn fingerprint(&self) -> String {
        let features = self.features.iter().flat_map(|x| x.to_le_bytes());
        let labels = self.labels.iter().flat_map(|label| label.to_le_bytes());
        fingerprint_of(features.chain(labels))
    }

    /// Those at `indices`.
    ///
    /// - `width`: the features of an example
    ///
    /// # Panics
    /// If there is no example of an index.
    pub fn chosen(&self, indices: &[usize], width: usize) -> Self {
        Self {
            features: indices
                .iter()
                .flat_map(|&i| &self.features[i * width..(i + 1) * width])
                .copied()
                .collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
        }
    }
}
