//! A panorama as overlapping pictures on planes that touch the sphere, and back.
//!
//! Planar networks see an equirectangular panorama distorted. OmniSSR (R. Li, X. Sheng, W. Li,
//! J. Zhang: "OmniSSR: Zero-shot Omnidirectional Image Super-Resolution using Stable Diffusion
//! Model", ECCV 2024, arXiv 2404.10312) therefore works on tangent planes: 18 of them in four
//! rows, the "octadecaplex", each a perspective picture of 75 by 75 degrees.
//!
//! **Gnomonic projection.** A plane touches the sphere at longitude `λ₀` and latitude `φ₀`. With
//! `k = sin φ₀ sin φ + cos φ₀ cos φ cos(λ − λ₀)`, a direction `(λ, φ)` with `k > 0` is seen at
//!
//! ```text
//! X = cos φ sin(λ − λ₀) / k
//! Y = (cos φ₀ sin φ − sin φ₀ cos φ cos(λ − λ₀)) / k
//! ```
//!
//! and lies inside the picture if `u = X/h` and `v = Y/h` are within `[−1, 1]`, where
//! `h = tan(F/2)` for a field of view `F`. The inverse is the direction
//! `forward + X right + Y up`, which has no singular point (the textbook form with
//! `c = atan √(X² + Y²)` divides 0 by 0 at the centre). Row 0 of a plane is its northern border.
//!
//! **Panorama to planes** samples the panorama at the direction of each plane pixel, around the
//! 180-degree meridian and over the poles where needed.
//!
//! **Planes to panorama** samples, for each panorama pixel, every plane `i` that sees it, and
//! blends: `E = Σᵢ gᵢ xᵢ(uᵢ, vᵢ) / Σᵢ gᵢ`, with weights `g` of [`Blend`].
//!
//! Going there and back is one OTII exchange (octadecaplex tangent information interaction):
//! planes that overlap agree afterwards. The less the two resamplings lose, the more often it may
//! be done. [`Convention::PixelCentre`] therefore puts samples at pixel centres everywhere. The
//! published code mixes lattices and drifts by up to a pixel in each exchange, which it pays for
//! with a fourfold enlargement before each projection; [`Convention::Official`] and
//! [`TangentOptions::pre_upsample`] are there to repeat it.

use std::borrow::Cow;
use std::f64::consts::PI;

use nabla_data::Raster;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use wide::{f32x8, i32x8};

use crate::erp::{Erp, ErpError, direction, longitude_latitude};
use crate::erp_area::ErpArea;
use crate::gnomonic::{Axes, Band, Lattice, LookTable, dot, look, reshape};
use crate::resample::{
    BATCH, FRACTION_BITS, Interpolation, ONE, PixelSampler, ResampleError, Values, resize_corners,
    resize_erp, resize_planar,
};

/// A set of tangent planes that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TangentGridError {
    /// There are no planes at all.
    #[error("a tangent grid needs at least one row of planes")]
    NoRows,
    /// A row has no planes.
    #[error("row {row} of the tangent grid has no planes")]
    NoColumns {
        /// The row, from 0.
        row: usize,
    },
    /// There are more planes than is sensible.
    #[error("a tangent grid may have at most {} planes", TangentGrid::MAX_PLANES)]
    TooManyPlanes,
    /// A latitude lies beyond a pole.
    #[error("the latitude of a row must lie from -90 to 90 degrees, but row {row} has {latitude}")]
    Latitude {
        /// The row, from 0.
        row: usize,
        /// Degrees.
        latitude: f64,
    },
    /// A plane cannot have this field of view.
    #[error(
        "the field of view of a plane must lie from 1 to {} degrees, but it is {fov}",
        TangentGrid::MAX_FOV
    )]
    FieldOfView {
        /// Degrees.
        fov: f64,
    },
    /// The planes leave a hole.
    #[error(
        "the planes leave a hole near longitude {longitude:.2}, latitude {latitude:.2} degrees; \
         widen their field of view or add planes"
    )]
    Uncovered {
        /// Degrees.
        longitude: f64,
        /// Degrees.
        latitude: f64,
    },
}

/// Where planes touch the sphere: rows of equal latitude, in each of which the planes stand at
/// equal distances, `λ = (j + ½)·360/n − 180` degrees for `j = 0 … n − 1`. All planes are square
/// and have the same field of view, and together they see the whole sphere.
///
/// ```
/// use nabla_panorama::TangentGrid;
/// let grid = TangentGrid::octadecaplex();
/// assert_eq!((grid.len(), grid.fov()), (18, 75.0));
/// // Four planes around the horizon leave holes at the poles.
/// assert!(TangentGrid::new(vec![(0.0, 4)], 90.0).is_err());
/// let six = TangentGrid::new(vec![(90.0, 1), (0.0, 4), (-90.0, 1)], 100.0)?;
/// assert_eq!(six.len(), 6);
/// # Ok::<(), nabla_panorama::TangentGridError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TangentGrid {
    rows: Vec<(f64, usize)>,
    fov: f64,
}

impl TangentGrid {
    /// The greatest number of planes.
    pub const MAX_PLANES: usize = 1024;
    /// The greatest field of view in degrees; at 180 a plane would be infinite.
    pub const MAX_FOV: f64 = 170.0;

    /// The grid of OmniSSR: rows at −67.5, −22.5, 22.5 and 67.5 degrees with 3, 6, 6 and 3 planes
    /// of 75 degrees.
    ///
    /// With the true field of 75 degrees, 2.2 planes see a pixel on average. The published code
    /// takes `h = F/2` instead of `tan(F/2)`, which is a true field of 66.4 degrees and 1.75
    /// planes; the smallest without a hole is 65.6 (73.8 in its way of counting).
    pub fn octadecaplex() -> Self {
        Self {
            rows: vec![(-67.5, 3), (-22.5, 6), (22.5, 6), (67.5, 3)],
            fov: 75.0,
        }
    }

    /// The official grid of three rows: 3, 4 and 3 planes at −60, 0 and 60 degrees. It
    /// needs a field of 90.2 degrees.
    ///
    /// # Errors
    /// If the field of view in degrees leaves a hole or is out of range.
    pub fn three_rows(fov: f64) -> Result<Self, TangentGridError> {
        Self::new(vec![(-60.0, 3), (0.0, 4), (60.0, 3)], fov)
    }

    /// The official grid of five rows: 3, 6, 8, 6 and 3 planes at ±72.2, ±36.1 and 0 degrees.
    /// It needs a field of 54.2 degrees.
    ///
    /// # Errors
    /// As [`Self::three_rows`].
    pub fn five_rows(fov: f64) -> Result<Self, TangentGridError> {
        Self::new(
            vec![(-72.2, 3), (-36.1, 6), (0.0, 8), (36.1, 6), (72.2, 3)],
            fov,
        )
    }

    /// The official grid of six rows: 3, 8, 12, 12, 8 and 3 planes at ±75.2, ±45.93 and ±15.72
    /// degrees. It needs a field of 42.3 degrees.
    ///
    /// # Errors
    /// As [`Self::three_rows`].
    pub fn six_rows(fov: f64) -> Result<Self, TangentGridError> {
        Self::new(
            vec![
                (-75.2, 3),
                (-45.93, 8),
                (-15.72, 12),
                (15.72, 12),
                (45.93, 8),
                (75.2, 3),
            ],
            fov,
        )
    }

    /// A grid of `rows`, each `(latitude in degrees, number of planes)`, with planes of `fov` by
    /// `fov` degrees.
    ///
    /// # Errors
    /// If there are no planes or too many, a latitude or the field of view is out of range, or a
    /// point of the sphere is seen by no plane (holes below 1e-4 radians are not looked for).
    pub fn new(rows: Vec<(f64, usize)>, fov: f64) -> Result<Self, TangentGridError> {
        if rows.is_empty() {
            return Err(TangentGridError::NoRows);
        }
        for (row, &(latitude, columns)) in rows.iter().enumerate() {
            if !(-90.0..=90.0).contains(&latitude) {
                return Err(TangentGridError::Latitude { row, latitude });
            }
            if columns == 0 {
                return Err(TangentGridError::NoColumns { row });
            }
        }
        let planes = rows
            .iter()
            .fold(0usize, |sum, &(_, columns)| sum.saturating_add(columns));
        if planes > Self::MAX_PLANES {
            return Err(TangentGridError::TooManyPlanes);
        }
        if !(1.0..=Self::MAX_FOV).contains(&fov) {
            return Err(TangentGridError::FieldOfView { fov });
        }
        let grid = Self { rows, fov };
        grid.check_coverage((fov.to_radians() / 2.0).tan())?;
        Ok(grid)
    }

    /// The rows, each `(latitude in degrees, number of planes)`.
    pub fn rows(&self) -> &[(f64, usize)] {
        &self.rows
    }

    /// The field of view of a plane in degrees, from border to border.
    pub fn fov(&self) -> f64 {
        self.fov
    }

    /// The number of planes.
    #[expect(clippy::len_without_is_empty, reason = "a grid is never empty")]
    pub fn len(&self) -> usize {
        self.rows.iter().map(|&(_, columns)| columns).sum()
    }

    /// Where the planes touch, row by row.
    pub fn planes(&self) -> Vec<TangentPlane> {
        self.rows
            .iter()
            .flat_map(|&(latitude, columns)| {
                (0..columns).map(move |j| TangentPlane {
                    longitude: ((j as f64 + 0.5) / columns as f64 - 0.5) * 2.0 * PI,
                    latitude: latitude.to_radians(),
                })
            })
            .collect()
    }

    /// Whether planes of half field `h` (a tangent) see the whole sphere.
    ///
    /// If they do not, the border of a hole consists of parts of the planes' borders, and it has
    /// a corner: the corner of a plane or a point where two borders cross, which no plane has in
    /// its inside. So only such points need a look, at what lies right around them.
    fn check_coverage(&self, h: f64) -> Result<(), TangentGridError> {
        /// How far around a corner to look, in radians; also the size of holes that are found.
        const NEAR: f64 = 1e-4;
        const LOOKS: usize = 32;

        let tiles: Vec<Axes> = self
            .planes()
            .iter()
            .map(|p| Axes::new(p.longitude, p.latitude))
            .collect();
        let seen = |d: [f64; 3], reach: f64| {
            tiles.iter().any(|tile| {
                tile.point(d)
                    .is_some_and(|(x, y)| x.abs() <= h * reach && y.abs() <= h * reach)
            })
        };
        let hole_near = |d: [f64; 3]| -> Option<[f64; 3]> {
            if seen(d, 1.0 - 1e-9) {
                return None;
            }
            let (longitude, latitude) = longitude_latitude(d);
            let axes = Axes::new(longitude, latitude);
            (0..LOOKS)
                .map(|i| {
                    let (sin, cos) = ((i as f64 + 0.5) / LOOKS as f64 * 2.0 * PI).sin_cos();
                    axes.direction(NEAR * cos, NEAR * sin)
                })
                .find(|&d| !seen(d, 1.0 + 1e-9))
        };
        let corners = |tile: &Axes| {
            [(-h, -h), (h, -h), (h, h), (-h, h)].map(|(x, y)| unit(tile.direction(x, y)))
        };
        let edges: Vec<[[f64; 3]; 4]> = tiles
            .iter()
            .map(|tile| {
                let c = corners(tile);
                std::array::from_fn(|i| cross(c[i], c[(i + 1) % 4]))
            })
            .collect();
        let on_tile = |tile: &Axes, d| {
            tile.point(d)
                .is_some_and(|(x, y)| x.abs() <= h * (1.0 + 1e-9) && y.abs() <= h * (1.0 + 1e-9))
        };
        // Planes meet if their centres are no farther apart than two half diagonals.
        let reach = (2.0 * (h * 2f64.sqrt()).atan() + 1e-6).min(PI).cos();
        let hole = (0..tiles.len()).into_par_iter().find_map_first(|i| {
            let corner = corners(&tiles[i]).into_iter().find_map(hole_near);
            corner.or_else(|| {
                (i + 1..tiles.len())
                    .filter(|&j| dot(tiles[i].forward, tiles[j].forward) >= reach)
                    .find_map(|j| {
                        let pairs = edges[i]
                            .iter()
                            .flat_map(|&a| edges[j].iter().map(move |&b| cross(a, b)));
                        pairs
                            .filter(|&d| dot(d, d) > 1e-20)
                            .flat_map(|d| [unit(d), unit(d.map(|x| -x))])
                            .filter(|&d| on_tile(&tiles[i], d) && on_tile(&tiles[j], d))
                            .find_map(hole_near)
                    })
            })
        });
        match hole {
            None => Ok(()),
            Some(d) => {
                let (longitude, latitude) = longitude_latitude(d);
                Err(TangentGridError::Uncovered {
                    longitude: longitude.to_degrees(),
                    latitude: latitude.to_degrees(),
                })
            }
        }
    }
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

fn unit(d: [f64; 3]) -> [f64; 3] {
    let length = dot(d, d).sqrt();
    d.map(|x| x / length)
}

/// Where a plane touches the sphere, in radians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TangentPlane {
    /// Of the centre, in `[−π, π)`.
    pub longitude: f64,
    /// Of the centre, in `[−π/2, π/2]`.
    pub latitude: f64,
}

impl TangentPlane {
    /// The unit direction in which the point `(x, y)` of the plane is seen, where `x` points to
    /// the right, `y` to the north, and the sphere has radius 1.
    pub fn direction(&self, x: f64, y: f64) -> [f64; 3] {
        unit(Axes::new(self.longitude, self.latitude).direction(x, y))
    }

    /// The point `(x, y)` of the plane that is seen in a longitude and latitude in radians, or
    /// nothing if it lies on the other half of the sphere.
    ///
    /// ```
    /// use nabla_panorama::TangentPlane;
    /// let front = TangentPlane { longitude: 0.0, latitude: 0.0 };
    /// let (x, y) = front.point(0.5, 0.0).unwrap();
    /// assert!((x - 0.5f64.tan()).abs() < 1e-12 && y.abs() < 1e-12);
    /// assert_eq!(front.point(3.0, 0.0), None);
    /// ```
    pub fn point(&self, longitude: f64, latitude: f64) -> Option<(f64, f64)> {
        Axes::new(self.longitude, self.latitude).point(direction(longitude, latitude))
    }
}

/// Where the samples of panorama and planes lie.
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

/// How much each plane counts where several see a pixel, by its plane coordinates `(u, v)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blend {
    /// `exp(−d²/(2 variance))` with `d = |(u, v)|/2`, the distance from the centre in plane widths.
    Gaussian {
        /// In squared plane widths; 0.01 in the paper.
        variance: f32,
    },
    /// `(1 − |u|)(1 − |v|)`: falls to 0 at the border, so that no border shows.
    Feather,
    /// All planes alike.
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

/// How to go between panorama and planes.
///
/// The default kernel is [`Interpolation::BICUBIC_SHARP`], `a = −0.75`: to 18 planes and back it loses less
/// of a photograph than Keys' `a = −0.5`, which is the more exact one on what is smooth; the numbers are in
/// the book, under *Backends, Geometry*. [OmniSSR](crate::omnissr), whose results were measured with it, has
/// Keys'.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TangentOptions {
    /// Interpolation of the panorama on the way to the planes. Default: bicubic, `a = −0.75`.
    pub to_tangent: Interpolation,
    /// Interpolation of the planes on the way to the panorama. Default: bicubic, `a = −0.75`.
    pub to_erp: Interpolation,
    /// Where samples lie. Default: pixel centres.
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
    /// One kernel on both ways, and the defaults otherwise.
    pub fn of(interpolation: Interpolation) -> Self {
        Self {
            to_tangent: interpolation,
            to_erp: interpolation,
            convention: Convention::default(),
            pre_upsample: 1,
            blend: Blend::default(),
        }
    }

    /// What the published code does: its lattices, interpolation and fourfold enlargement.
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

/// A projection that cannot be set up, or pictures that do not belong to it.
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
    /// The factor of enlargement is 0.
    #[error("the factor of enlargement before projection must be at least 1")]
    PreUpsample,
    /// The blending weights are not positive.
    #[error(
        "the variance of the blending weights must be positive and finite, but it is {variance}"
    )]
    Variance {
        /// In squared plane widths.
        variance: f32,
    },
    /// The panorama has another size than the projection.
    #[error(
        "the projection is for panoramas of {} x {}, but this picture is {width} x {height}",
        expected.width(),
        expected.height()
    )]
    WrongPanorama {
        /// What the projection is for.
        expected: Erp,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// There are not as many planes as the grid has.
    #[error("the grid has {expected} planes, but {found} were given")]
    WrongPlaneCount {
        /// Planes of the grid.
        expected: usize,
        /// Planes given.
        found: usize,
    },
    /// A plane has another shape than it should.
    #[error("plane {index} has the shape {found:?}, but it should have {expected:?}")]
    WrongPlane {
        /// Its place in the list.
        index: usize,
        /// `[channels, size, size]`.
        expected: [usize; 3],
        /// `[channels, height, width]`.
        found: [usize; 3],
    },
}

/// The way between an equirectangular panorama and its tangent planes; the module of this type
/// has the equations.
///
/// It holds 8 bytes for each pixel of one plane of each row of the grid (32 MiB for the
/// octadecaplex at 1024 x 1024), and 8 for each column of the panorama and each plane. While
/// projecting, it holds nothing but the source and what it makes (and, with
/// [`TangentOptions::pre_upsample`], the enlarged source).
///
/// Results do not depend on the number of threads.
///
/// ```
/// use nabla_data::Raster;
/// use nabla_panorama::{Erp, TangentGrid, TangentOptions, TangentProjection};
/// let panorama = Raster::from_fn(3, 64, 128, |c, y, _| c as f32 + y as f32 / 64.0);
/// let projection = TangentProjection::new(
///     TangentGrid::octadecaplex(),
///     Erp::of(&panorama)?,
///     32,
///     TangentOptions::default(),
/// )?;
/// let planes = projection.to_tangent(&panorama)?;
/// assert_eq!((planes.len(), planes[0].shape()), (18, [3, 32, 32]));
/// assert_eq!(projection.to_erp(&planes)?.shape(), [3, 64, 128]);
/// # Ok::<(), nabla_panorama::TangentError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TangentProjection {
    grid: TangentGrid,
    planes: Vec<TangentPlane>,
    /// The row of the grid in which each plane lies.
    rows: Vec<usize>,
    erp: Erp,
    plane_size: usize,
    options: TangentOptions,
    half_field: f64,
    /// One for each row of the grid, in the coordinates of the enlarged panorama.
    tables: Vec<LookTable>,
    /// `[planes]` of `[width]`: sine and cosine of the longitude from the centre of the plane.
    turns: Vec<Vec<[f32; 2]>>,
    weight: Weight,
}

impl TangentProjection {
    /// Prepares the way between panoramas of size `erp` and planes of `plane_size` pixels squared.
    ///
    /// The paper takes planes half as high as the panorama, at which both sample alike.
    ///
    /// # Errors
    /// If a size, the factor of enlargement or a parameter is out of range, or the planes leave a
    /// hole ([`Convention::Official`] makes them smaller than they are called).
    pub fn new(
        grid: TangentGrid,
        erp: Erp,
        plane_size: usize,
        options: TangentOptions,
    ) -> Result<Self, TangentError> {
        let factor = options.pre_upsample;
        if factor == 0 {
            return Err(TangentError::PreUpsample);
        }
        if !(1..=Erp::MAX_WIDTH).contains(&plane_size.saturating_mul(factor)) {
            return Err(TangentError::PlaneSize {
                size: plane_size,
                pre_upsample: factor,
            });
        }
        let enlarged = Erp::new(
            erp.height().saturating_mul(factor),
            erp.width().saturating_mul(factor),
        )?;
        options.to_tangent.check()?;
        options.to_erp.check()?;
        let corners = options.convention == Convention::Official;
        let half = grid.fov.to_radians() / 2.0;
        let half_field = if corners { half } else { half.tan() };
        if corners {
            grid.check_coverage(half_field)?;
        }
        let lattice = Lattice {
            erp: enlarged,
            corners,
        };
        let tables = grid
            .rows
            .iter()
            .map(|(latitude, _)| {
                LookTable::new(lattice, latitude.to_radians(), half_field, plane_size)
            })
            .collect();
        let planes = grid.planes();
        let counts = grid.rows.iter().enumerate();
        let rows = counts.flat_map(|(row, &(_, columns))| std::iter::repeat_n(row, columns));
        let rows = rows.collect();
        let lattice = Lattice { erp, corners };
        let turns = planes
            .iter()
            .map(|plane| {
                (0..erp.width())
                    .map(|column| {
                        let turn = lattice.longitude(column as f64) - plane.longitude;
                        [turn.sin() as f32, turn.cos() as f32]
                    })
                    .collect()
            })
            .collect();
        Ok(Self {
            planes,
            rows,
            erp,
            plane_size,
            options,
            half_field,
            tables,
            turns,
            weight: Weight::new(options.blend)?,
            grid,
        })
    }

    /// The same projection with those planes only that see something of `area`. What no plane sees of
    /// a panorama becomes 0 in [`Self::to_erp`]; within the area nothing changes.
    ///
    /// # Errors
    /// If the area is one of a panorama of another size.
    pub fn facing(&self, area: &ErpArea) -> Result<Self, TangentError> {
        if area.whole() != self.erp {
            return Err(TangentError::WrongPanorama {
                expected: self.erp,
                height: area.whole().height(),
                width: area.whole().width(),
            });
        }
        let [_, top] = area.offset();
        let mut inside = vec![false; self.erp.width()];
        for column in 0..area.width() {
            inside[area.column(column)] = true;
        }
        let mut sightings = Sightings::default();
        let faces: Vec<bool> = (0..self.planes.len())
            .map(|plane| {
                (top..top + area.height()).any(|row| {
                    self.look_up(plane, row, &mut sightings);
                    let mut columns = sightings.columns().iter();
                    columns.any(|&column| inside[column as usize])
                })
            })
            .collect();
        fn kept<T: Clone>(all: &[T], faces: &[bool]) -> Vec<T> {
            let pairs = all.iter().zip(faces);
            pairs
                .filter(|&(_, &kept)| kept)
                .map(|(v, _)| v.clone())
                .collect()
        }
        Ok(Self {
            planes: kept(&self.planes, &faces),
            rows: kept(&self.rows, &faces),
            turns: kept(&self.turns, &faces),
            ..self.clone()
        })
    }

    /// The grid of planes.
    pub fn grid(&self) -> &TangentGrid {
        &self.grid
    }

    /// Where the planes touch, in the order of [`Self::to_tangent`].
    pub fn planes(&self) -> &[TangentPlane] {
        &self.planes
    }

    /// The size of the panorama.
    pub fn erp(&self) -> Erp {
        self.erp
    }

    /// Pixels along a side of a plane.
    pub fn plane_size(&self) -> usize {
        self.plane_size
    }

    /// The options.
    pub fn options(&self) -> TangentOptions {
        self.options
    }

    /// The tangent of half the field of view, which is half the width of a plane.
    pub fn half_field(&self) -> f64 {
        self.half_field
    }

    /// Projects a panorama `[channels, H, W]` onto the planes, each `[channels, P, P]`.
    ///
    /// # Errors
    /// If the panorama has another size than the projection or no channels.
    pub fn to_tangent(&self, panorama: &Raster) -> Result<Vec<Raster>, TangentError> {
        let mut planes = Vec::new();
        self.to_tangent_into(panorama, &mut planes)?;
        Ok(planes)
    }

    /// As [`Self::to_tangent`], but writes over `planes` where their shape allows it. Who projects
    /// again and again saves what fresh memory costs, a fifth to a third of the time.
    ///
    /// # Errors
    /// As [`Self::to_tangent`]; then `planes` stay as they are.
    pub fn to_tangent_into(
        &self,
        panorama: &Raster,
        planes: &mut Vec<Raster>,
    ) -> Result<(), TangentError> {
        self.check_panorama(panorama)?;
        let [_, height, width] = panorama.shape();
        let factor = self.options.pre_upsample;
        let interpolation = self.options.to_tangent;
        let (height, width) = (height * factor, width * factor);
        let sampler = match (self.options.convention, factor) {
            (Convention::PixelCentre, 1) => PixelSampler::erp(panorama, interpolation)?,
            (Convention::PixelCentre, _) => {
                let large = resize_erp(panorama, height, Interpolation::BICUBIC)?;
                PixelSampler::erp_of(Cow::Owned(large), interpolation)?
            }
            (Convention::Official, 1) => PixelSampler::planar(panorama, interpolation)?,
            (Convention::Official, _) => {
                let large = resize_corners(panorama, height, width, OFFICIAL_CUBIC)?;
                PixelSampler::planar_of(Cow::Owned(large), interpolation)?
            }
        };
        let tables = self.rows.iter().map(|&row| &self.tables[row]);
        let longitudes = self.planes.iter().map(|plane| plane.longitude);
        let looks: Vec<_> = tables.zip(longitudes).collect();
        look(&sampler, &looks, planes);
        Ok(())
    }

    /// Blends the planes, each `[channels, P, P]`, into a panorama `[channels, H, W]`.
    ///
    /// # Errors
    /// If there are not as many planes as the grid has, or they have other shapes.
    pub fn to_erp(&self, planes: &[Raster]) -> Result<Raster, TangentError> {
        let mut panorama = Raster::zeros(0, 0, 0);
        self.to_erp_into(planes, &mut panorama)?;
        Ok(panorama)
    }

    /// As [`Self::to_erp`], but writes over `panorama` if its shape allows it (see
    /// [`Self::to_tangent_into`]).
    ///
    /// # Errors
    /// As [`Self::to_erp`]; then `panorama` stays as it is.
    pub fn to_erp_into(
        &self,
        planes: &[Raster],
        panorama: &mut Raster,
    ) -> Result<(), TangentError> {
        let (samplers, channels) = self.samplers(planes)?;
        let width = self.erp.width();
        reshape(panorama, [channels, self.erp.height(), width]);
        Band::of_panorama(panorama).into_par_iter().for_each_init(
            || (Sightings::default(), vec![0f32; width], Vec::new()),
            |(sightings, total, scratch), band| {
                band.fill(scratch, |rows, samples| {
                    samples.fill(0.0);
                    let plane = rows.len() * width;
                    for (i, row) in rows.enumerate() {
                        let mut lines = samples
                            .chunks_mut(plane)
                            .map(|c| &mut c[i * width..][..width])
                            .collect::<Vec<_>>();
                        self.blend(&samplers, row, sightings, total, &mut lines);
                    }
                });
            },
        );
        Ok(())
    }

    /// What was done on the planes of a panorama, `E + TP→ERP(after − before)`, where `before` is
    /// `ERP→TP(E)`.
    ///
    /// Unlike `TP→ERP(after)` it takes nothing from the panorama that the planes cannot hold: where
    /// nothing was done, the panorama stays as it is.
    ///
    /// ```
    /// # use nabla_data::Raster;
    /// # use nabla_panorama::{Erp, TangentGrid, TangentOptions, TangentProjection};
    /// let panorama = Raster::from_fn(1, 64, 128, |_, y, x| ((x * y) % 7) as f32);
    /// let grid = TangentGrid::octadecaplex();
    /// let projection =
    ///     TangentProjection::new(grid, Erp::of(&panorama)?, 32, TangentOptions::default())?;
    /// let planes = projection.to_tangent(&panorama)?;
    /// let brighter = planes.iter().map(|plane| plane.clone().map(|v| v + 1.0)).collect();
    /// let merged = projection.merge_changes(&panorama, &planes, brighter)?;
    /// for (merged, before) in merged.data().iter().zip(panorama.data()) {
    ///     assert!((merged - before - 1.0).abs() < 1e-5);
    /// }
    /// # Ok::<(), nabla_panorama::TangentError>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::to_erp`], for `before` and `after`; and if the panorama has another size than the
    /// projection, or another number of channels than the planes.
    pub fn merge_changes(
        &self,
        panorama: &Raster,
        before: &[Raster],
        after: Vec<Raster>,
    ) -> Result<Raster, TangentError> {
        self.check_panorama(panorama)?;
        let expected = [panorama.channels(), self.plane_size, self.plane_size];
        for planes in [before, &after] {
            self.check_planes(planes, expected)?;
        }
        let mut changes = after;
        for (change, before) in changes.iter_mut().zip(before) {
            for (change, before) in change.data_mut().iter_mut().zip(before.data()) {
                *change -= before;
            }
        }
        let mut merged = self.to_erp(&changes)?;
        for (merged, before) in merged.data_mut().iter_mut().zip(panorama.data()) {
            *merged += before;
        }
        Ok(merged)
    }

    /// Blends what the planes show of a row of the panorama into its lines in every channel, which
    /// are 0 before.
    fn blend(
        &self,
        samplers: &[PixelSampler],
        row: usize,
        sightings: &mut Sightings,
        total: &mut [f32],
        lines: &mut [&mut [f32]],
    ) {
        total.fill(0.0);
        for (plane, sampler) in samplers.iter().enumerate() {
            self.look_up(plane, row, sightings);
            let (columns, weights) = (sightings.columns(), sightings.weights());
            for (columns, weights) in columns.chunks(BATCH).zip(weights.chunks(BATCH)) {
                add_at(total, columns, weights, &[1.0; BATCH]);
            }
            sampler.sample_line(
                0,
                sightings.positions(),
                |p| p,
                |points, channel, values| {
                    let (columns, own) = (&columns[points.clone()], &weights[points]);
                    add_at(lines[channel], columns, own, values);
                },
            );
        }
        for total in total.iter_mut() {
            // Every pixel is seen; the guard is against rounding on borders.
            *total = if *total > 0.0 { 1.0 / *total } else { 0.0 };
        }
        for line in lines {
            for (value, inverse) in line.iter_mut().zip(&*total) {
                *value *= inverse;
            }
        }
    }

    /// How much overlapping planes disagree: the variance between the planes that see a pixel,
    /// averaged over the channels and over the area of the sphere that at least two planes see.
    /// It is 0 if and only if they agree, and in the squared unit of the samples.
    ///
    /// # Errors
    /// As [`Self::to_erp`].
    pub fn spread(&self, planes: &[Raster]) -> Result<f64, TangentError> {
        let (samplers, channels) = self.samplers(planes)?;
        let width = self.erp.width();
        // Each row gives its sum and its area; they are added in order, whatever thread was first.
        let rows: Vec<(f64, f64)> = (0..self.erp.height())
            .into_par_iter()
            .map_init(Sightings::default, |sightings, row| {
                let mut variance = 0.0;
                // For each channel the first plane's value, then of the differences to it the sums
                // of these and of their squares.
                let mut first = vec![0f32; channels * width];
                let mut sums = vec![[0f32; 2]; channels * width];
                let mut seen = vec![0u32; width];
                for (plane, sampler) in samplers.iter().enumerate() {
                    self.look_up(plane, row, sightings);
                    let columns = sightings.columns();
                    let positions = sightings.positions();
                    sampler.sample_line(
                        0,
                        positions,
                        |p| p,
                        |points, channel, values| {
                            for (&column, &value) in columns[points].iter().zip(values) {
                                let column = column as usize;
                                let at = channel * width + column;
                                if seen[column] == 0 {
                                    first[at] = value;
                                }
                                let d = value - first[at];
                                sums[at][0] += d;
                                sums[at][1] += d * d;
                            }
                        },
                    );
                    for &column in columns {
                        seen[column as usize] += 1;
                    }
                }
                for sums in sums.chunks(width) {
                    for (&n, [sum, squares]) in seen.iter().zip(sums) {
                        if n >= 2 {
                            let mean = f64::from(*sum) / f64::from(n);
                            variance += f64::from(*squares) / f64::from(n) - mean * mean;
                        }
                    }
                }
                let area = self.erp.row_weight(row);
                let shared = seen.iter().filter(|&&n| n >= 2).count() as f64;
                (area * variance.max(0.0), area * shared)
            })
            .collect();
        let (sum, area) = rows
            .iter()
            .fold((0.0, 0.0), |(s, a), (sum, area)| (s + sum, a + area));
        Ok(if area > 0.0 {
            sum / (area * channels as f64)
        } else {
            0.0
        })
    }

    /// How many planes see each pixel, `[1, H, W]`.
    pub fn coverage(&self) -> Raster {
        let width = self.erp.width();
        let mut out = Raster::zeros(1, self.erp.height(), width);
        out.data_mut()
            .par_chunks_mut(width)
            .enumerate()
            .for_each_init(Sightings::default, |sightings, (row, line)| {
                for plane in 0..self.planes.len() {
                    self.look_up(plane, row, sightings);
                    for &column in sightings.columns() {
                        line[column as usize] += 1.0;
                    }
                }
            });
        out
    }

    fn check_panorama(&self, panorama: &Raster) -> Result<(), TangentError> {
        let [_, height, width] = panorama.shape();
        if Erp::of(panorama) == Ok(self.erp) {
            return Ok(());
        }
        Err(TangentError::WrongPanorama {
            expected: self.erp,
            height,
            width,
        })
    }

    fn check_planes(&self, planes: &[Raster], expected: [usize; 3]) -> Result<(), TangentError> {
        if planes.len() != self.planes.len() {
            return Err(TangentError::WrongPlaneCount {
                expected: self.planes.len(),
                found: planes.len(),
            });
        }
        match planes.iter().position(|plane| plane.shape() != expected) {
            None => Ok(()),
            Some(index) => Err(TangentError::WrongPlane {
                index,
                expected,
                found: planes[index].shape(),
            }),
        }
    }

    fn samplers<'a>(
        &self,
        planes: &'a [Raster],
    ) -> Result<(Vec<PixelSampler<'a>>, usize), TangentError> {
        let size = self.plane_size;
        let channels = planes.first().map_or(0, Raster::channels);
        self.check_planes(planes, [channels, size, size])?;
        let factor = self.options.pre_upsample;
        let large = size * factor;
        let sampler = |plane: &'a Raster| {
            let plane = match (self.options.convention, factor) {
                (_, 1) => Cow::Borrowed(plane),
                (Convention::PixelCentre, _) => {
                    Cow::Owned(resize_planar(plane, large, large, Interpolation::BICUBIC)?)
                }
                (Convention::Official, _) => {
                    Cow::Owned(resize_corners(plane, large, large, OFFICIAL_CUBIC)?)
                }
            };
            PixelSampler::planar_of(plane, self.options.to_erp)
        };
        let samplers = planes.par_iter().map(sampler).collect::<Result<_, _>>()?;
        Ok((samplers, channels))
    }

    /// The pixels of a row of the panorama that a plane sees, and where.
    fn look_up(&self, plane: usize, row: usize, sightings: &mut Sightings) {
        sightings.clear(self.erp.width());
        let TangentPlane { latitude, .. } = self.planes[plane];
        let lattice = Lattice {
            erp: self.erp,
            corners: self.options.convention == Convention::Official,
        };
        let (sin_lat0, cos_lat0) = latitude.sin_cos();
        let here = lattice.latitude(row as f64);
        let (sin_lat, cos_lat) = here.sin_cos();
        let h = self.half_field;
        // No point of a plane is farther from its centre than its corners.
        if (here - latitude).abs() > (h * 2f64.sqrt()).atan() + 1e-6 {
            return;
        }
        let size = (self.plane_size * self.options.pre_upsample) as f64;
        let centre = match self.options.convention {
            Convention::PixelCentre => size / 2.0 - 0.5,
            Convention::Official => size / 2.0,
        };
        let turns = &self.turns[plane];
        let mut visit = |columns: std::ops::Range<usize>| {
            pulp::Arch::new().dispatch(Scan {
                turns: &turns[columns.clone()],
                first: columns.start,
                k: [(sin_lat0 * sin_lat) as f32, (cos_lat0 * cos_lat) as f32],
                x: (cos_lat / h) as f32,
                y: [
                    (cos_lat0 * sin_lat / h) as f32,
                    (-sin_lat0 * cos_lat / h) as f32,
                ],
                half: (size / 2.0) as f32,
                centre: centre as f32,
                weight: self.weight,
                out: &mut *sightings,
            });
        };
        let width = self.erp.width();
        match self.window(sin_lat, cos_lat, sin_lat0, cos_lat0) {
            Window::Nothing => {}
            Window::All => visit(0..width),
            Window::Within(turn) => {
                let reach = turn / (2.0 * PI) * lattice.columns_per_turn() as f64;
                let (middle, _) = lattice.pixel_of(self.planes[plane].longitude, 0.0);
                let first = (middle - reach).floor() as i64 - 1;
                let end = (middle + reach).ceil() as i64 + 2;
                let width = width as i64;
                if end - first >= width {
                    visit(0..width as usize);
                } else {
                    // In order of columns: what has come around the meridian first.
                    let (a, b) = (first.rem_euclid(width), end.rem_euclid(width));
                    if a < b {
                        visit(a as usize..b as usize);
                    } else {
                        visit(0..b as usize);
                        visit(a as usize..width as usize);
                    }
                }
            }
        }
    }

    /// The turns `Δ = |λ − λ₀|` at which a parallel is between the left and right borders of a
    /// plane: `cos φ sin Δ ≤ h k`, which is `R sin(Δ − δ) ≤ c` with `tan δ = h cos φ₀`,
    /// `R = cos φ √(1 + h² cos² φ₀)` and `c = h sin φ₀ sin φ`.
    fn window(&self, sin_lat: f64, cos_lat: f64, sin_lat0: f64, cos_lat0: f64) -> Window {
        let h = self.half_field;
        let r = cos_lat * (1.0 + (h * cos_lat0).powi(2)).sqrt();
        let c = h * sin_lat0 * sin_lat;
        let delta = (h * cos_lat0).atan();
        if c >= r {
            return Window::All;
        }
        if c < -r {
            return Window::Nothing;
        }
        let turn = (c / r).asin();
        if turn >= delta {
            // The parallel comes in again beyond the pole.
            Window::All
        } else if delta + turn < 0.0 {
            Window::Nothing
        } else {
            Window::Within(delta + turn)
        }
    }
}

/// Adds the first of the `values` times the `weights` to the line at `columns`.
#[inline(always)]
fn add_at(line: &mut [f32], columns: &[u32], weights: &[f32], values: &Values) {
    let first = columns[0] as usize;
    let runs = columns[BATCH.min(columns.len()) - 1] as usize == first + BATCH - 1;
    // Mostly the columns follow each other.
    if let (true, Some(line), Ok(weights)) = (
        runs,
        line[first..].first_chunk_mut::<BATCH>(),
        <&Values>::try_from(weights),
    ) {
        for i in 0..BATCH {
            line[i] += weights[i] * values[i];
        }
    } else {
        for ((&column, g), value) in columns.iter().zip(weights).zip(values) {
            line[column as usize] += g * value;
        }
    }
}

/// PyTorch's bicubic, which enlarges before projection in the published code.
const OFFICIAL_CUBIC: Interpolation = Interpolation::BICUBIC_SHARP;

enum Window {
    Nothing,
    Within(f64),
    All,
}

/// What a plane sees of a row of the panorama: the columns, where in the plane, and their weights.
#[derive(Default)]
struct Sightings {
    columns: Vec<u32>,
    positions: Vec<[i32; 2]>,
    weights: Vec<f32>,
    len: usize,
}

impl Sightings {
    /// Forgets everything, and makes room for `width` columns.
    fn clear(&mut self, width: usize) {
        // One more, as what is not seen is written, too, before it is passed over.
        self.columns.resize(width + 1, 0);
        self.positions.resize(width + 1, [0; 2]);
        self.weights.resize(width + 1, 0.0);
        self.len = 0;
    }

    fn columns(&self) -> &[u32] {
        &self.columns[..self.len]
    }

    fn positions(&self) -> &[[i32; 2]] {
        &self.positions[..self.len]
    }

    fn weights(&self) -> &[f32] {
        &self.weights[..self.len]
    }
}

/// Finds which of some columns of a row a plane sees, as one function for the compiler to
/// vectorise.
struct Scan<'a> {
    /// Sine and cosine of the longitude from the centre of the plane.
    turns: &'a [[f32; 2]],
    /// The column of the first of them.
    first: usize,
    /// `k = k[0] + k[1] cos`, `u k = x sin` and `v k = y[0] + y[1] cos`.
    k: [f32; 2],
    x: f32,
    y: [f32; 2],
    /// Positions are `centre + half u` and `centre - half v`.
    half: f32,
    centre: f32,
    weight: Weight,
    out: &'a mut Sightings,
}

impl pulp::WithSimd for Scan<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Sightings {
            columns,
            positions,
            weights,
            len,
        } = self.out;
        let one = f32x8::splat(1.0);
        let mut column = self.first as u32;
        for turns in self.turns.chunks(8) {
            let (mut sin, mut cos) = ([0f32; 8], [0f32; 8]);
            for (i, turn) in turns.iter().enumerate() {
                [sin[i], cos[i]] = *turn;
            }
            let (sin, cos) = (f32x8::new(sin), f32x8::new(cos));
            let k = f32x8::splat(self.k[0]) + f32x8::splat(self.k[1]) * cos;
            let x = f32x8::splat(self.x) * sin;
            let y = f32x8::splat(self.y[0]) + f32x8::splat(self.y[1]) * cos;
            // |u| <= 1 and |v| <= 1, before the division; a pixel on the border is inside.
            let border = k * f32x8::splat(1.0 + 1e-6);
            let seen = k.simd_gt(f32x8::ZERO) & x.abs().simd_le(border) & y.abs().simd_le(border);
            let mut seen = seen.to_bitmask();
            if seen == 0 {
                column += 8;
                continue;
            }
            let inverse = one / k;
            let (u, v) = (x * inverse, y * inverse);
            let px = to_fixed(f32x8::splat(self.centre) + f32x8::splat(self.half) * u);
            let py = to_fixed(f32x8::splat(self.centre) - f32x8::splat(self.half) * v);
            let own = match self.weight {
                Weight::Gaussian { exponent } => exp2((u * u + v * v) * f32x8::splat(exponent)),
                Weight::Feather => ((one - u.abs()) * (one - v.abs())).max(f32x8::splat(1e-6)),
                Weight::Uniform => one,
            };
            let (px, py, own) = (px.to_array(), py.to_array(), own.to_array());
            // What is not seen is written, too, and passed over by not moving on.
            for i in 0..turns.len() {
                columns[*len] = column;
                positions[*len] = [px[i], py[i]];
                weights[*len] = own[i];
                *len += (seen & 1) as usize;
                seen >>= 1;
                column += 1;
            }
        }
    }
}

/// Coordinates in pixels, below 2^15 in size, in fixed point.
#[inline(always)]
fn to_fixed(coordinates: f32x8) -> i32x8 {
    let whole = coordinates.fast_round_int();
    let rest = (coordinates - f32x8::from_i32x8(whole)) * f32x8::splat(ONE as f32);
    (whole << FRACTION_BITS) + rest.fast_round_int()
}

/// `2^x`, not less than 2^-100, for `x <= 0`; the error is below 1e-6 of the value.
#[inline(always)]
fn exp2(x: f32x8) -> f32x8 {
    let x = x.max(f32x8::splat(-100.0));
    let whole = x.fast_round_int();
    let t = (x - f32x8::from_i32x8(whole)) * f32x8::splat(std::f32::consts::LN_2);
    // The series of exp, on half a binary digit to either side.
    let mut series = f32x8::splat(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * t + f32x8::splat(c);
    }
    // The exponent of a float stands above its 23 digits.
    let power: i32x8 = (whole + i32x8::splat(127)) << 23u32;
    series * f32x8::new(power.to_array().map(|bits| f32::from_bits(bits as u32)))
}

/// Blending weights by plane coordinates; they are positive everywhere, so that a pixel that one
/// plane sees in its corner has a value.
#[derive(Clone, Copy, Debug)]
enum Weight {
    /// `2^(exponent (u² + v²))`.
    Gaussian {
        exponent: f32,
    },
    Feather,
    Uniform,
}

impl Weight {
    fn new(blend: Blend) -> Result<Self, TangentError> {
        match blend {
            Blend::Gaussian { variance } if !(variance > 0.0 && variance.is_finite()) => {
                Err(TangentError::Variance { variance })
            }
            // exp(−d²/(2 variance)) with d² = (u² + v²)/4.
            Blend::Gaussian { variance } => Ok(Self::Gaussian {
                exponent: -std::f32::consts::LOG2_E / (8.0 * variance),
            }),
            Blend::Feather => Ok(Self::Feather),
            Blend::Uniform => Ok(Self::Uniform),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nabla_data::PanoramaSet;

    use super::*;

    /// A sum of smooth waves on the sphere, from 0 to 1.
    fn smooth(height: usize) -> Raster {
        let erp = Erp::new(height, 2 * height).unwrap();
        Raster::from_fn(3, height, 2 * height, |c, row, column| {
            let [x, y, z] = direction(erp.longitude(column as f64), erp.latitude(row as f64));
            let s = 2.0 + c as f64;
            let f = (s * x + 0.3).sin() * (s * y).cos() + (s * z - y).sin();
            (0.5 + f / 4.0) as f32
        })
    }

    fn ws_psnr(a: &Raster, b: &Raster) -> f64 {
        let erp = Erp::of(a).unwrap();
        let (mut sum, mut weight) = (0.0, 0.0);
        for (i, (a, b)) in a.data().iter().zip(b.data()).enumerate() {
            let q = erp.row_weight(i / erp.width() % erp.height());
            sum += q * f64::from(a - b).powi(2);
            weight += q;
        }
        -10.0 * (sum / weight).log10()
    }

    fn projection(erp: Erp, size: usize, options: TangentOptions) -> TangentProjection {
        TangentProjection::new(TangentGrid::octadecaplex(), erp, size, options).unwrap()
    }

    fn round_trip(panorama: &Raster, size: usize, options: TangentOptions) -> f64 {
        let way = projection(Erp::of(panorama).unwrap(), size, options);
        ws_psnr(
            panorama,
            &way.to_erp(&way.to_tangent(panorama).unwrap()).unwrap(),
        )
    }

    #[test]
    fn there_and_back_keeps_what_is_smooth() {
        let panorama = smooth(64);
        let db = round_trip(&panorama, 32, TangentOptions::default());
        assert!(db > 60.0, "{db}");
        for blend in [Blend::Feather, Blend::Uniform] {
            let options = TangentOptions {
                blend,
                ..TangentOptions::default()
            };
            assert!(round_trip(&panorama, 32, options) > 55.0);
        }
        let grid = TangentGrid::new(vec![(90.0, 1), (0.0, 4), (-90.0, 1)], 100.0).unwrap();
        let erp = Erp::of(&panorama).unwrap();
        let way = TangentProjection::new(grid, erp, 64, TangentOptions::default()).unwrap();
        let back = way.to_erp(&way.to_tangent(&panorama).unwrap()).unwrap();
        assert!(ws_psnr(&panorama, &back) > 60.0);
    }

    #[test]
    fn there_and_back_keeps_a_real_panorama_better_than_the_official_way() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/panoramas");
        let set = PanoramaSet::open(&folder).unwrap();
        let panorama = set.load(set.sample()).unwrap().raster;
        let size = panorama.height() / 2;
        let options = TangentOptions::default();
        let db = round_trip(&panorama, size, options);
        assert!(db >= 40.0, "{db}");
        // The field that planes of 75 official degrees really have, to compare like with like.
        let fov = 2.0 * (75f64.to_radians() / 2.0).atan().to_degrees();
        let grid = TangentGrid::new(TangentGrid::octadecaplex().rows, fov).unwrap();
        let erp = Erp::of(&panorama).unwrap();
        let way = TangentProjection::new(grid, erp, size, options).unwrap();
        let back = way.to_erp(&way.to_tangent(&panorama).unwrap()).unwrap();
        let ours = ws_psnr(&panorama, &back);
        let without = TangentOptions {
            pre_upsample: 1,
            ..TangentOptions::official()
        };
        let without = round_trip(&panorama, size, without);
        let with = round_trip(&panorama, size, TangentOptions::official());
        assert!(
            ours > with + 2.0 && with > without + 6.0,
            "{ours} {with} {without}"
        );
    }

    #[test]
    fn constant_panoramas_stay_constant_whatever_the_options() {
        let panorama = Raster::zeros(5, 16, 32).map(|_| 0.25);
        for to_tangent in [Interpolation::Nearest, Interpolation::Lanczos3] {
            for to_erp in [Interpolation::Bilinear, Interpolation::BICUBIC] {
                for convention in [Convention::PixelCentre, Convention::Official] {
                    for pre_upsample in [1, 3] {
                        for size in [1, 7, 8] {
                            let options = TangentOptions {
                                to_tangent,
                                to_erp,
                                convention,
                                pre_upsample,
                                blend: Blend::Gaussian { variance: 1e-4 },
                            };
                            let erp = Erp::of(&panorama).unwrap();
                            let way = projection(erp, size, options);
                            let planes = way.to_tangent(&panorama).unwrap();
                            assert!(way.spread(&planes).unwrap() < 1e-10);
                            let back = way.to_erp(&planes).unwrap();
                            assert!(back.data().iter().all(|v| (v - 0.25).abs() < 1e-5));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn coverage_is_that_of_the_solid_angle_and_leaves_no_hole() {
        let erp = Erp::new(128, 256).unwrap();
        let official = TangentOptions {
            convention: Convention::Official,
            ..TangentOptions::default()
        };
        for (options, planes) in [(TangentOptions::default(), 2.175), (official, 1.745)] {
            let way = projection(erp, 8, options);
            let seen = way.coverage();
            let (mut sum, mut area) = (0.0, 0.0);
            for row in 0..128 {
                for column in 0..256 {
                    let n = seen.get(0, row, column);
                    assert!((1.0..=6.0).contains(&n), "{n} at {column}, {row}");
                    sum += erp.row_weight(row) * f64::from(n);
                    area += erp.row_weight(row);
                }
            }
            // A square pyramid of half field h: 4 asin(h²/(1 + h²)).
            let h2 = way.half_field().powi(2);
            let exact = 18.0 * 4.0 * (h2 / (1.0 + h2)).asin() / (4.0 * PI);
            assert!((exact - planes).abs() < 1e-3);
            assert!((sum / area - exact).abs() < 0.03);
        }
    }

    #[test]
    fn planes_that_leave_a_hole_are_refused() {
        let rows = TangentGrid::octadecaplex().rows().to_vec();
        assert_eq!(
            TangentGrid::new(rows.clone(), 75.0).unwrap(),
            TangentGrid::octadecaplex()
        );
        assert!(TangentGrid::new(rows.clone(), 66.0).is_ok());
        let hole = TangentGrid::new(rows.clone(), 65.0);
        let Err(TangentGridError::Uncovered {
            longitude,
            latitude,
        }) = hole
        else {
            panic!("{hole:?}");
        };
        // And nobody sees that point.
        let h = (65f64.to_radians() / 2.0).tan();
        let unseen = TangentGrid::octadecaplex().planes().iter().all(|plane| {
            plane
                .point(longitude.to_radians(), latitude.to_radians())
                .is_none_or(|(x, y)| x.abs() > h || y.abs() > h)
        });
        assert!(unseen);
        // In the official way of counting, 74 degrees is the smallest whole number.
        let erp = Erp::new(16, 32).unwrap();
        let official = |fov| {
            let grid = TangentGrid::new(rows.clone(), fov).unwrap();
            TangentProjection::new(grid, erp, 8, TangentOptions::official())
        };
        assert!(official(75.0).is_ok() && official(74.0).is_ok());
        assert!(matches!(
            official(73.0),
            Err(TangentError::Grid(TangentGridError::Uncovered { .. }))
        ));
        // Faces that touch leave no hole. (At the poles, one of four alike would do.)
        let cube = vec![(90.0, 4), (0.0, 4), (-90.0, 4)];
        assert!(TangentGrid::new(cube.clone(), 90.0).is_ok());
        assert!(TangentGrid::new(cube, 89.9).is_err());
    }

    #[test]
    fn the_official_grids_cover_the_sphere() {
        for (grid, planes) in [
            (TangentGrid::three_rows(100.0), 10),
            (TangentGrid::five_rows(75.0), 26),
            (TangentGrid::six_rows(60.0), 46),
        ] {
            assert_eq!(grid.unwrap().len(), planes);
        }
        assert!(TangentGrid::three_rows(75.0).is_err());
    }

    #[test]
    fn what_makes_no_grid_or_projection_is_refused() {
        let new = TangentGrid::new;
        assert_eq!(new(vec![], 75.0), Err(TangentGridError::NoRows));
        assert_eq!(
            new(vec![(0.0, 4), (10.0, 0)], 75.0),
            Err(TangentGridError::NoColumns { row: 1 })
        );
        assert_eq!(
            new(vec![(0.0, usize::MAX), (0.0, 1)], 75.0),
            Err(TangentGridError::TooManyPlanes)
        );
        assert!(new(vec![(f64::NAN, 4)], 75.0).is_err());
        assert!(new(vec![(91.0, 4)], 75.0).is_err());
        assert!(new(vec![(0.0, 4)], 180.0).is_err());
        assert!(new(vec![(0.0, 4)], f64::NAN).is_err());

        let erp = Erp::new(16, 32).unwrap();
        let grid = TangentGrid::octadecaplex;
        let options = TangentOptions::default;
        let with = |size, options| TangentProjection::new(grid(), erp, size, options);
        assert!(matches!(
            with(0, options()),
            Err(TangentError::PlaneSize { .. })
        ));
        assert!(matches!(
            with(usize::MAX, options()),
            Err(TangentError::PlaneSize { .. })
        ));
        let bad = TangentOptions {
            pre_upsample: 0,
            ..options()
        };
        assert_eq!(with(8, bad).unwrap_err(), TangentError::PreUpsample);
        let bad = TangentOptions {
            pre_upsample: 2000,
            ..options()
        };
        assert!(matches!(with(8, bad), Err(TangentError::Erp(_))));
        let bad = TangentOptions {
            blend: Blend::Gaussian { variance: 0.0 },
            ..options()
        };
        assert!(matches!(with(8, bad), Err(TangentError::Variance { .. })));

        let way = with(8, options()).unwrap();
        assert!(matches!(
            way.to_tangent(&Raster::zeros(3, 8, 16)),
            Err(TangentError::WrongPanorama { .. })
        ));
        assert!(way.to_tangent(&Raster::zeros(0, 16, 32)).is_err());
        assert!(matches!(
            way.to_erp(&[]),
            Err(TangentError::WrongPlaneCount { .. })
        ));
        let mut planes = vec![Raster::zeros(3, 8, 8); 18];
        planes[5] = Raster::zeros(3, 8, 9);
        assert!(matches!(
            way.to_erp(&planes),
            Err(TangentError::WrongPlane { index: 5, .. })
        ));
        assert!(way.spread(&vec![Raster::zeros(0, 8, 8); 18]).is_err());
    }

    #[test]
    fn a_panorama_turned_by_whole_pixels_gives_turned_planes() {
        let panorama = smooth(48);
        let shift = 96 / 3;
        let turned = Raster::from_fn(3, 48, 96, |c, y, x| panorama.get(c, y, (x + shift) % 96));
        let way = projection(Erp::of(&panorama).unwrap(), 24, TangentOptions::default());
        let planes = way.to_tangent(&panorama).unwrap();
        let turned_planes = way.to_tangent(&turned).unwrap();
        // One plane on in a row of three, two in a row of six.
        let mut start = 0;
        for &(_, columns) in way.grid().rows() {
            for j in 0..columns {
                let other = &planes[start + (j + columns / 3) % columns];
                assert!(turned_planes[start + j] == *other, "not bit for bit");
            }
            start += columns;
        }
        let back = way.to_erp(&planes).unwrap();
        let turned_back = way.to_erp(&turned_planes).unwrap();
        for c in 0..3 {
            for y in 0..48 {
                for x in 0..96 {
                    let (a, b) = (back.get(c, y, (x + shift) % 96), turned_back.get(c, y, x));
                    assert!((a - b).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn memory_that_is_written_over_leaves_no_trace() {
        let (a, b) = (smooth(32), smooth(32).map(|v| 1.0 - v));
        let mut planes = vec![Raster::zeros(1, 2, 3); 20];
        let mut back = Raster::zeros(3, 32, 64).map(|_| f32::NAN);
        for size in [16, 11] {
            let way = projection(Erp::of(&a).unwrap(), size, TangentOptions::default());
            for panorama in [&a, &b] {
                way.to_tangent_into(panorama, &mut planes).unwrap();
                assert!(planes == way.to_tangent(panorama).unwrap());
                way.to_erp_into(&planes, &mut back).unwrap();
                assert!(back == way.to_erp(&planes).unwrap());
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let panorama = smooth(40);
        let way = projection(Erp::of(&panorama).unwrap(), 21, TangentOptions::default());
        let run = |threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
                .install(|| {
                    let planes = way.to_tangent(&panorama).unwrap();
                    let back = way.to_erp(&planes).unwrap();
                    let spread = way.spread(&planes).unwrap();
                    (planes, back, spread.to_bits())
                })
        };
        assert!(run(1) == run(3));
    }

    #[test]
    fn spread_is_the_variance_of_what_the_planes_say() {
        // Planes that alternate between 0 and 1: where n see a pixel and m say 1, the variance is
        // m/n (1 − m/n).
        let erp = Erp::new(32, 64).unwrap();
        let way = projection(erp, 16, TangentOptions::default());
        let planes: Vec<Raster> = (0..18)
            .map(|i| Raster::zeros(6, 16, 16).map(|_| (i % 2) as f32))
            .collect();
        let h = way.half_field();
        let (mut sum, mut area) = (0.0, 0.0);
        for row in 0..32 {
            for column in 0..64 {
                let at = (erp.longitude(column as f64), erp.latitude(row as f64));
                let says: Vec<usize> = (0..18)
                    .filter(|&i| {
                        let point = way.planes()[i].point(at.0, at.1);
                        point.is_some_and(|(x, y)| x.abs() <= h && y.abs() <= h)
                    })
                    .map(|i| i % 2)
                    .collect();
                if says.len() >= 2 {
                    let p = says.iter().sum::<usize>() as f64 / says.len() as f64;
                    sum += erp.row_weight(row) * p * (1.0 - p);
                    area += erp.row_weight(row);
                }
            }
        }
        let spread = way.spread(&planes).unwrap();
        assert!(
            (spread - sum / area).abs() < 1e-6,
            "{spread} {}",
            sum / area
        );
    }

    #[test]
    fn powers_of_two_are_close_enough() {
        for i in 0..2000 {
            let x = -i as f32 * 0.049;
            let y = exp2(f32x8::splat(x)).to_array()[3];
            let exact = f64::from(x).exp2();
            assert!((f64::from(y) / exact - 1.0).abs() < 1e-6, "2^{x}");
        }
        assert!(exp2(f32x8::splat(-1e9)).to_array()[0] > 0.0);
    }

    #[test]
    fn directions_and_points_of_a_plane_are_inverse() {
        for plane in TangentGrid::octadecaplex().planes() {
            for (x, y) in [(0.0, 0.0), (0.7, -0.3), (-0.75, 0.75)] {
                let (longitude, latitude) = longitude_latitude(plane.direction(x, y));
                let (u, v) = plane.point(longitude, latitude).unwrap();
                assert!((u - x).abs() < 1e-12 && (v - y).abs() < 1e-12);
            }
        }
    }
}
