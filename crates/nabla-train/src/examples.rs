//! Classified examples in memory.

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

    /// Those at `indices`, of examples with `width` features.
    pub(crate) fn chosen(&self, indices: &[usize], width: usize) -> Self {
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
