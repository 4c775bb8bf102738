//! How workers compress their gradients.

use nabla_base::range::{self, OutOfRange};
use nabla_grad::compressor::{Compressor, CompressorError, Identity, Natural, Qsgd, RandK, TopK};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::sketch::{DrawnSketch, SketchError, SketchFamily};
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
    /// A sketch, by a new matrix in every step.
    Sketch {
        /// Its length as a share.
        share: f64,
        /// Of the matrices. Default the count sketch.
        #[serde(default = "count")]
        family: SketchFamily,
    },
    /// Powers of two.
    Natural,
    /// Random levels.
    Qsgd {
        /// Levels from 0 to the norm.
        levels: u32,
    },
}

fn count() -> SketchFamily {
    SketchFamily::Count
}

nabla_base::choices! {
    Compression: "compression" {
        "none" => Self::None, "Not at all";
        "randk" => Self::RandK { share: 0.1 }, "Random numbers, scaled up";
        "topk" => Self::TopK { share: 0.01 }, "The largest numbers of the change, with error feedback (EF21)";
        "sketch" => Self::Sketch { share: 0.1, family: count() }, "A sketch, by a new matrix in every step";
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
            Self::Sketch { family, .. } => Some(Self::Sketch { share, family }),
            Self::None | Self::Natural | Self::Qsgd { .. } => None,
        }
    }

    /// The same sketch by matrices of another family, if it is a sketch.
    pub fn with_family(self, family: SketchFamily) -> Option<Self> {
        match self {
            Self::Sketch { share, .. } => Some(Self::Sketch { share, family }),
            _ => None,
        }
    }

    pub(super) fn validate(self) -> Result<(), OutOfRange> {
        match self {
            Self::RandK { share } | Self::TopK { share } | Self::Sketch { share, .. } => {
                range::check(
                    share > 0.0 && share <= 1.0,
                    "share of the compression",
                    share,
                    "greater than 0 and at most 1",
                )
            }
            Self::Qsgd { levels } => range::at_least("levels of the compression", levels, 1),
            Self::None | Self::Natural => Ok(()),
        }
    }

    /// Numbers of a share of `dimension`.
    pub(super) fn kept(share: f64, dimension: usize) -> usize {
        ((share * dimension as f64).round() as usize).clamp(1, dimension.max(1))
    }

    /// The matrix of a sketch of `dimension` numbers, if this is one. Its length is a share of them, rounded to what the
    /// family has.
    pub(super) fn sketch(
        self,
        dimension: usize,
        noise: &mut SeededNoise,
    ) -> Result<Option<DrawnSketch>, SketchError> {
        let Self::Sketch { share, family } = self else {
            return Ok(None);
        };
        let kept = Self::kept(share, dimension);
        let rows = match family {
            SketchFamily::Sparse { blocks } => kept.next_multiple_of(blocks.max(1)),
            _ => kept,
        };
        family.draw(rows, dimension, noise).map(Some)
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
