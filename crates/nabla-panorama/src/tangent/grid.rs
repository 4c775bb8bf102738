//! Grids of tangent planes, and the check that they cover the sphere.

use std::f64::consts::PI;

use nabla_base::range::{self, OutOfRange};
use rayon::prelude::*;

use crate::erp::{direction, longitude_latitude};
use crate::gnomonic::{Axes, dot};

/// A set of tangent planes cannot be used.
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
    /// There are too many planes.
    #[error("a tangent grid may have at most {} planes", TangentGrid::MAX_PLANES)]
    TooManyPlanes,
    /// A latitude or a field of view is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
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

/// The points where planes touch the sphere: rows of equal latitude, in each of which the planes are evenly
/// spaced, `λ = (j + ½)·360/n − 180` degrees for `j = 0 … n − 1`. All planes are square and have the same
/// field of view, and together they see the whole sphere.
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
    pub(super) rows: Vec<(f64, usize)>,
    pub(super) fov: f64,
}

impl TangentGrid {
    /// The maximum number of planes.
    pub const MAX_PLANES: usize = 1024;
    /// The maximum field of view in degrees; at 180 a plane would be infinite.
    pub const MAX_FOV: f64 = 170.0;

    /// The grid of OmniSSR: rows at −67.5, −22.5, 22.5 and 67.5 degrees with 3, 6, 6 and 3 planes
    /// of 75 degrees.
    ///
    /// With the true field of 75 degrees, 2.2 planes see a pixel on average. The published code takes `h =
    /// F/2` instead of `tan(F/2)`, which is a true field of 66.4 degrees and 1.75 planes; the smallest field
    /// without a hole is 65.6 degrees (73.8 in the code's units).
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
    /// If there are no planes or too many, a latitude or the field of view is out of range, or no plane sees
    /// some point of the sphere (holes below 1e-4 radians are not searched for).
    pub fn new(rows: Vec<(f64, usize)>, fov: f64) -> Result<Self, TangentGridError> {
        if rows.is_empty() {
            return Err(TangentGridError::NoRows);
        }
        for (row, &(latitude, columns)) in rows.iter().enumerate() {
            let fits = (-90.0..=90.0).contains(&latitude);
            let name = format!("latitude of row {row} of the tangent grid");
            range::check(fits, name, latitude, "from -90 to 90 degrees")?;
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
        let fits = (1.0..=Self::MAX_FOV).contains(&fov);
        let expected = format!("from 1 to {} degrees", Self::MAX_FOV);
        range::check(fits, "field of view of a plane", fov, expected)?;
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

    /// The points of contact of the planes, row by row.
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
    /// If they do not, the border of a hole consists of parts of the planes' borders, and it has a corner:
    /// the corner of a plane or a point where two borders cross, which is not inside any plane. So only the
    /// immediate neighbourhood of such points needs to be checked.
    pub(super) fn check_coverage(&self, h: f64) -> Result<(), TangentGridError> {
        /// The radius of this neighbourhood, in radians; also the minimum size of holes that are found.
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

/// The point where a plane touches the sphere, in radians.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TangentPlane {
    /// The longitude of the centre, in `[−π, π)`.
    pub longitude: f64,
    /// The latitude of the centre, in `[−π/2, π/2]`.
    pub latitude: f64,
}

impl TangentPlane {
    /// The unit direction in which the point `(x, y)` of the plane is seen, where `x` points to
    /// the right, `y` to the north, and the sphere has radius 1.
    pub fn direction(&self, x: f64, y: f64) -> [f64; 3] {
        unit(Axes::new(self.longitude, self.latitude).direction(x, y))
    }

    /// The point `(x, y)` of the plane that is seen in a longitude and latitude in radians, or `None` if it
    /// lies on the other half of the sphere.
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
