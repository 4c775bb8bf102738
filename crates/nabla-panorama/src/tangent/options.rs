//! The options of a projection, and its errors.

use nabla_base::range::OutOfRange;
use serde::{Deserialize, Serialize};

use super::TangentGridError;
use crate::erp::{Erp, ErpError};
use crate::resample::{Interpolation, ResampleError};

/// The positions of the samples of panorama and planes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convention {
    /// At pixel centres, half a pixel inside the borders; `h = tan(F/2)`; panoramas wrap around.
    #[default]
    PixelCentre,
    /// As in the published code of OmniSSR, for comparison only: `h = F/2` in radians; the
    /// outermost samples of panorama and plane lie on the border (both ±180 degrees are columns)
    /// on the way to the planes, but on the way back plane coordinate `u` is read at
    /// `(u + 1)/2·P`; nothing wraps around. Its interpolation is `Bicubic { a: -0.75 }` to the
    /// planes and `Bilinear` back.
    Official,
}

/// The weight of each plane if several see a pixel, by its plane coordinates `(u, v)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blend {
    /// `exp(−d²/(2 variance))` with `d = |(u, v)|/2`, the distance from the centre in plane widths.
    Gaussian {
        /// In squared plane widths; 0.01 in the paper.
        variance: f32,
    },
    /// `(1 − |u|)(1 − |v|)`: falls to 0 at the border, so that no border is visible.
    Feather,
    /// Equal weights for all planes.
    Uniform,
}

impl Blend {
    /// The Gaussian of the paper, of variance 0.01.
    pub const PAPER: Self = Self::Gaussian { variance: 0.01 };
}

impl Default for Blend {
    fn default() -> Self {
        Self::PAPER
    }
}

/// The options of projections between panorama and planes.
///
/// The default kernel is [`Interpolation::BICUBIC_SHARP`], `a = −0.75`: to 18 planes and back, it loses less
/// of a photograph than Keys' `a = −0.5`, which is more accurate for smooth pictures; the numbers are in the
/// book, under *Backends, Geometry*. [OmniSSR](crate::omnissr) uses Keys' kernel, with which its results were
/// measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TangentOptions {
    /// Interpolation of the panorama on the way to the planes. Default: bicubic, `a = −0.75`.
    pub to_tangent: Interpolation,
    /// Interpolation of the planes on the way to the panorama. Default: bicubic, `a = −0.75`.
    pub to_erp: Interpolation,
    /// The positions of the samples. Default: pixel centres.
    pub convention: Convention,
    /// The factor, at least 1, by which panorama and planes are enlarged before each projection
    /// (bicubic, `a = −0.5`). Default: 1; the paper needs 4.
    pub pre_upsample: usize,
    /// Weights of overlapping planes. Default: the paper's Gaussian.
    pub blend: Blend,
}

impl Default for TangentOptions {
    fn default() -> Self {
        Self::of(Interpolation::BICUBIC_SHARP)
    }
}

impl TangentOptions {
    /// The same kernel in both directions, with defaults for everything else.
    pub fn of(interpolation: Interpolation) -> Self {
        Self {
            to_tangent: interpolation,
            to_erp: interpolation,
            convention: Convention::default(),
            pre_upsample: 1,
            blend: Blend::default(),
        }
    }

    /// The options of the published code: its lattices, interpolation and fourfold enlargement.
    pub fn official() -> Self {
        Self {
            to_tangent: Interpolation::BICUBIC_SHARP,
            to_erp: Interpolation::Bilinear,
            convention: Convention::Official,
            pre_upsample: 4,
            blend: Blend::PAPER,
        }
    }
}

/// A projection cannot be set up, or pictures do not fit it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TangentError {
    /// The planes leave a hole in this convention.
    #[error(transparent)]
    Grid(#[from] TangentGridError),
    /// The panorama, or the enlarged one, cannot have this size.
    #[error(transparent)]
    Erp(#[from] ErpError),
    /// A picture cannot be resampled.
    #[error(transparent)]
    Resample(#[from] ResampleError),
    /// The planes cannot have this size.
    #[error(
        "tangent planes must be 1 to {} pixels wide after enlargement, but this is {size} times \
         {pre_upsample}",
        Erp::MAX_WIDTH
    )]
    PlaneSize {
        /// Pixels.
        size: usize,
        /// The factor of enlargement.
        pre_upsample: usize,
    },
    /// The factor of enlargement, or the variance of the blending weights, is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The size of the panorama is not that of the projection.
    #[error(
        "the projection is for panoramas of {} x {}, but this picture is {width} x {height}",
        expected.width(),
        expected.height()
    )]
    WrongPanorama {
        /// The size of the projection.
        expected: Erp,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// The number of planes is not that of the grid.
    #[error("the grid has {expected} planes, but {found} were given")]
    WrongPlaneCount {
        /// Planes of the grid.
        expected: usize,
        /// Planes given.
        found: usize,
    },
    /// A plane has the wrong shape.
    #[error("plane {index} has the shape {found:?}, but it should have {expected:?}")]
    WrongPlane {
        /// Its index in the list.
        index: usize,
        /// `[channels, size, size]`.
        expected: [usize; 3],
        /// `[channels, height, width]`.
        found: [usize; 3],
    },
}
