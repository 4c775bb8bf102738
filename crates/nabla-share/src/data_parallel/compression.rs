//! How workers compress their gradients.

use nabla_base::range::{self, OutOfRange};
use nabla_grad::compressor::{Compressor, CompressorError, Identity, Natural, Qsgd, RandK, TopK};
use serde::{Deserialize, Serialize};

/// How gradients are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Random numbers of it, scaled up.
    #[serde(rename = "randk")]
    RandK {
        /// Their share.
        share: f64,
    },
    /// The largest numbers of its change (EF21).
    #[serde(rename = "topk")]
    TopK {
        /// Their share.
        share: f64,
    },
    /// A count sketch.
    Sketch {
        /// Its length as a share.
        share: f64,
    },
    /// Powers of two.
    Natural,
    /// Random levels.
    Qsgd {
        /// Levels from 0 to the norm.
        levels: u32,
    },
}

nabla_base::choices! {
    Compression: "compression" {
        "none" => Self::None, "Not at all";
        "randk" => Self::RandK { share: 0.1 }, "Random numbers, scaled up";
        "topk" => Self::TopK { share: 0.01 }, "The largest numbers of the change, with error feedback (EF21)";
        "sketch" => Self::Sketch { share: 0.1 }, "A count sketch, by a new matrix in every step";
        "natural" => Self::Natural, "Powers of two";
        "qsgd" => Self::Qsgd { levels: 16 }, "Random levels";
    }
}

impl Compression {
    /// The same compression with another share of the numbers, if it sends one.
    pub fn with_share(self, share: f64) -> Option<Self> {
        match self {
            Self::RandK { .. } => Some(Self::RandK { share }),
            Self::TopK { .. } => Some(Self::TopK { share }),
            Self::Sketch { .. } => Some(Self::Sketch { share }),
            Self::None | Self::Natural | Self::Qsgd { .. } => None,
        }
    }

    pub(super) fn validate(self) -> Result<(), OutOfRange> {
        match self {
            Self::RandK { share } | Self::TopK { share } | Self::Sketch { share } => range::check(
                share > 0.0 && share <= 1.0,
                "share of the compression",
                share,
                "greater than 0 and at most 1",
            ),
            Self::Qsgd { levels } => range::at_least("levels of the compression", levels, 1),
            Self::None | Self::Natural => Ok(()),
        }
    }

    /// Numbers of a share of `dimension`.
    pub(super) fn kept(share: f64, dimension: usize) -> usize {
        ((share * dimension as f64).round() as usize).clamp(1, dimension.max(1))
    }

    pub(super) fn compressor(
        self,
        dimension: usize,
    ) -> Result<Box<dyn Compressor + Send>, CompressorError> {
        Ok(match self {
            Self::None | Self::Sketch { .. } => Box::new(Identity),
            Self::RandK { share } => Box::new(RandK::new(Self::kept(share, dimension))?),
            Self::TopK { share } => Box::new(TopK::new(Self::kept(share, dimension))?),
            Self::Natural => Box::new(Natural),
            Self::Qsgd { levels } => Box::new(Qsgd::new(levels)?),
        })
    }
}
