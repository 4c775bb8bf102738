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

use std::f64::consts::PI;

use nabla_data::Raster;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::erp::{Erp, ErpError, direction, longitude_latitude};
use crate::gnomonic::{Axes, Lattice, LookTable, dot, rows_mut};
use crate::resample::{
    Interpolation, ONE, ResampleError, Sampler, resize_corners, resize_erp, resize_planar,
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
/// let cube = TangentGrid::new(vec![(90.0, 1), (0.0, 4), (-90.0, 1)], 90.0)?;
/// assert_eq!(cube.len(), 6);
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
    /// planes; the smallest without a hole is 65.4 (73.6 in its way of counting).
    pub fn octadecaplex() -> Self {
        Self {
            rows: vec![(-67.5, 3), (-22.5, 6), (22.5, 6), (67.5, 3)],
            fov: 75.0,
        }
    }

    /// The official grid of three rows: 3, 4 and 3 planes at −60, 0 and 60 degrees.
    ///
    /// # Errors
    /// If the field of view in degrees leaves a hole or is out of range.
    pub fn three_rows(fov: f64) -> Result<Self, TangentGridError> {
        Self::new(vec![(-60.0, 3), (0.0, 4), (60.0, 3)], fov)
    }

    /// The official grid of five rows: 3, 6, 8, 6 and 3 planes at ±72.2, ±36.1 and 0 degrees.
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
    /// degrees.
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TangentOptions {
    /// Interpolation of the panorama on the way to the planes. Default: bicubic.
    pub to_tangent: Interpolation,
    /// Interpolation of the planes on the way to the panorama. Default: bicubic.
    pub to_erp: Interpolation,
    /// Where samples lie. Default: pixel centres.
    pub convention: Convention,
    /// The factor, at least 1, by which panorama and planes are enlarged before each projection
    /// (bicubic). Default: 1; the paper needs 4.
    pub pre_upsample: usize,
    /// Weights of overlapping planes. Default: the paper's Gaussian.
    pub blend: Blend,
}

impl Default for TangentOptions {
    fn default() -> Self {
        Self {
            to_tangent: Interpolation::default(),
            to_erp: Interpolation::default(),
            convention: Convention::default(),
            pre_upsample: 1,
            blend: Blend::default(),
        }
    }
}

impl TangentOptions {
    /// What the published code does: its lattices, interpolation and fourfold enlargement.
    pub fn official() -> Self {
        Self {
            to_tangent: Interpolation::Bicubic { a: -0.75 },
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
/// octadecaplex at 1024 x 1024). While projecting, the source is held once more as four channels
/// side by side (16 bytes for each pixel of each four channels begun).
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
    erp: Erp,
    plane_size: usize,
    options: TangentOptions,
    half_field: f64,
    /// One for each row of the grid, in the coordinates of the enlarged panorama.
    tables: Vec<LookTable>,
    /// `[planes]` of `[width]`: sine and cosine of the longitude from the centre of the plane.
    turns: Vec<Vec<[f32; 2]>>,
    weights: WeightTable,
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
            erp,
            plane_size,
            options,
            half_field,
            tables,
            turns,
            weights: WeightTable::new(options.blend)?,
            grid,
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
        let [_, height, width] = panorama.shape();
        if Erp::of(panorama) != Ok(self.erp) {
            return Err(TangentError::WrongPanorama {
                expected: self.erp,
                height,
                width,
            });
        }
        let factor = self.options.pre_upsample;
        let interpolation = self.options.to_tangent;
        let (height, width) = (height * factor, width * factor);
        let sampler = match (self.options.convention, factor) {
            (Convention::PixelCentre, 1) => Sampler::erp(panorama, interpolation)?,
            (Convention::PixelCentre, _) => {
                let large = resize_erp(panorama, height, Interpolation::BICUBIC)?;
                Sampler::erp(&large, interpolation)?
            }
            (Convention::Official, 1) => Sampler::planar(panorama, interpolation)?,
            (Convention::Official, _) => {
                let large = resize_corners(panorama, height, width, OFFICIAL_CUBIC)?;
                Sampler::planar(&large, interpolation)?
            }
        };
        let tables = self
            .grid
            .rows
            .iter()
            .zip(&self.tables)
            .flat_map(|(&(_, columns), table)| std::iter::repeat_n(table, columns));
        Ok(tables
            .zip(&self.planes)
            .map(|(table, plane)| table.look(&sampler, plane.longitude))
            .collect())
    }

    /// Blends the planes, each `[channels, P, P]`, into a panorama `[channels, H, W]`.
    ///
    /// # Errors
    /// If there are not as many planes as the grid has, or they have other shapes.
    pub fn to_erp(&self, planes: &[Raster]) -> Result<Raster, TangentError> {
        let (samplers, channels) = self.samplers(planes)?;
        let width = self.erp.width();
        let mut out = Raster::zeros(channels, self.erp.height(), width);
        rows_mut(&mut out)
            .into_par_iter()
            .enumerate()
            .for_each_init(
                || (Sightings::default(), vec![[0f32; 5]; width]),
                |(sightings, sums), (row, mut lines)| {
                    for (group, lines) in lines.chunks_mut(4).enumerate() {
                        sums.fill([0.0; 5]);
                        for (plane, sampler) in samplers.iter().enumerate() {
                            self.look_up(plane, row, sightings);
                            let Sightings {
                                columns,
                                positions,
                                weights,
                            } = sightings;
                            sampler.sample_each(group, positions, |i, pixel| {
                                let sum = &mut sums[columns[i] as usize];
                                let g = weights[i];
                                for c in 0..4 {
                                    sum[c] += g * pixel[c];
                                }
                                sum[4] += g;
                            });
                        }
                        for (c, line) in lines.iter_mut().enumerate() {
                            for (value, sum) in line.iter_mut().zip(&*sums) {
                                // Every pixel is seen; the guard is against rounding on borders.
                                *value = if sum[4] > 0.0 { sum[c] / sum[4] } else { 0.0 };
                            }
                        }
                    }
                },
            );
        Ok(out)
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
                let mut seen = vec![0u32; width];
                for group in 0..channels.div_ceil(4) {
                    // Of the differences to the first plane: sums of these and of their squares.
                    let mut first = vec![[0f32; 4]; width];
                    let mut sums = vec![[[0f32; 4]; 2]; width];
                    seen.fill(0);
                    for (plane, sampler) in samplers.iter().enumerate() {
                        self.look_up(plane, row, sightings);
                        let columns = &sightings.columns;
                        sampler.sample_each(group, &sightings.positions, |i, pixel| {
                            let column = columns[i] as usize;
                            if seen[column] == 0 {
                                first[column] = pixel;
                            }
                            seen[column] += 1;
                            for c in 0..4 {
                                let d = pixel[c] - first[column][c];
                                sums[column][0][c] += d;
                                sums[column][1][c] += d * d;
                            }
                        });
                    }
                    for (&n, [sum, squares]) in seen.iter().zip(&sums) {
                        if n >= 2 {
                            for c in 0..4 {
                                let mean = f64::from(sum[c]) / f64::from(n);
                                variance += f64::from(squares[c]) / f64::from(n) - mean * mean;
                            }
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
                    for &column in &sightings.columns {
                        line[column as usize] += 1.0;
                    }
                }
            });
        out
    }

    fn samplers(&self, planes: &[Raster]) -> Result<(Vec<Sampler>, usize), TangentError> {
        if planes.len() != self.planes.len() {
            return Err(TangentError::WrongPlaneCount {
                expected: self.planes.len(),
                found: planes.len(),
            });
        }
        let size = self.plane_size;
        let channels = planes.first().map_or(0, Raster::channels);
        let expected = [channels, size, size];
        for (index, plane) in planes.iter().enumerate() {
            if plane.shape() != expected {
                return Err(TangentError::WrongPlane {
                    index,
                    expected,
                    found: plane.shape(),
                });
            }
        }
        let factor = self.options.pre_upsample;
        let large = size * factor;
        let sampler = |plane: &Raster| {
            let interpolation = self.options.to_erp;
            match (self.options.convention, factor) {
                (_, 1) => Sampler::planar(plane, interpolation),
                (Convention::PixelCentre, _) => Sampler::planar(
                    &resize_planar(plane, large, large, Interpolation::BICUBIC)?,
                    interpolation,
                ),
                (Convention::Official, _) => Sampler::planar(
                    &resize_corners(plane, large, large, OFFICIAL_CUBIC)?,
                    interpolation,
                ),
            }
        };
        let samplers = planes.par_iter().map(sampler).collect::<Result<_, _>>()?;
        Ok((samplers, channels))
    }

    /// The pixels of a row of the panorama that a plane sees, and where.
    fn look_up(&self, plane: usize, row: usize, sightings: &mut Sightings) {
        sightings.clear();
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
        let (half, centre) = ((size / 2.0) as f32 * ONE as f32, centre as f32 * ONE as f32);
        let (k0, k1) = ((sin_lat0 * sin_lat) as f32, (cos_lat0 * cos_lat) as f32);
        let x1 = (cos_lat / h) as f32;
        let (y0, y1) = (
            (cos_lat0 * sin_lat / h) as f32,
            (-sin_lat0 * cos_lat / h) as f32,
        );
        let turns = &self.turns[plane];
        let mut visit = |columns: std::ops::Range<usize>| {
            for (column, &[sin, cos]) in columns.clone().zip(&turns[columns]) {
                let k = k0 + k1 * cos;
                let (x, y) = (x1 * sin, y0 + y1 * cos);
                // |u| <= 1 and |v| <= 1, before the division; a pixel on the border is inside.
                let border = k * (1.0 + 1e-6);
                if k > 0.0 && x.abs() <= border && y.abs() <= border {
                    let (u, v) = (x / k, y / k);
                    sightings.columns.push(column as u32);
                    sightings.positions.push([
                        (centre + half * u).round_ties_even() as i32,
                        (centre - half * v).round_ties_even() as i32,
                    ]);
                    sightings.weights.push(self.weights.at(u, v));
                }
            }
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

/// PyTorch's bicubic, which enlarges before projection in the published code.
const OFFICIAL_CUBIC: Interpolation = Interpolation::Bicubic { a: -0.75 };

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
}

impl Sightings {
    fn clear(&mut self) {
        self.columns.clear();
        self.positions.clear();
        self.weights.clear();
    }
}

/// Blending weights by plane coordinates.
#[derive(Clone, Debug)]
enum WeightTable {
    /// Values at equal steps of `u² + v²` from 0 to 2, to interpolate between.
    Gaussian(Vec<f32>),
    Feather,
    Uniform,
}

impl WeightTable {
    /// A step of 2/4096 errs by less than 5e-6 of the weight at the paper's variance.
    const STEPS: usize = 4096;
    /// Keeps weights positive, so that a pixel that one plane sees in its corner has a value.
    const LEAST: f32 = 1e-30;

    fn new(blend: Blend) -> Result<Self, TangentError> {
        match blend {
            Blend::Gaussian { variance } if !(variance > 0.0 && variance.is_finite()) => {
                Err(TangentError::Variance { variance })
            }
            Blend::Gaussian { variance } => Ok(Self::Gaussian(
                (0..=Self::STEPS + 1)
                    .map(|i| {
                        let square = i as f64 * 2.0 / Self::STEPS as f64;
                        let g = (-square / 4.0 / (2.0 * f64::from(variance))).exp();
                        (g as f32).max(Self::LEAST)
                    })
                    .collect(),
            )),
            Blend::Feather => Ok(Self::Feather),
            Blend::Uniform => Ok(Self::Uniform),
        }
    }

    fn at(&self, u: f32, v: f32) -> f32 {
        match self {
            Self::Gaussian(table) => {
                let x = (u * u + v * v) * (Self::STEPS as f32 / 2.0);
                let i = (x as usize).min(Self::STEPS);
                let s = x - i as f32;
                (table[i] + s * (table[i + 1] - table[i])).max(Self::LEAST)
            }
            Self::Feather => ((1.0 - u.abs()) * (1.0 - v.abs())).max(1e-6),
            Self::Uniform => 1.0,
        }
    }
}
