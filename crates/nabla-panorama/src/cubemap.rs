//! A panorama as the six faces of a cube, and back.
//!
//! A face is the picture on a plane that touches the sphere with a field of view of 90 degrees
//! (see [`crate::TangentProjection`] for the equations), sampled at pixel centres. The faces are
//! oriented as somebody in the middle of the cube sees them: who looks to the front and turns
//! right sees `Right`, `Back` and `Left` upright; who looks to the front and tips the head back or
//! forward sees `Up`, whose lower border is that of the front, and `Down`, whose upper border is.
//!
//! | face | looks to | right | top |
//! |---|---|---|---|
//! | `Front` | `+z`, longitude 0 | `+x` | `+y` |
//! | `Right` | `+x`, longitude 90° | `−z` | `+y` |
//! | `Back` | `−z`, longitude ±180° | `−x` | `+y` |
//! | `Left` | `−x`, longitude −90° | `+z` | `+y` |
//! | `Up` | `+y`, north pole | `+x` | `−z` |
//! | `Down` | `−y`, south pole | `+x` | `+z` |
//!
//! **Seams.** Close to the border of a face its pixel centres end half a pixel short of the edge
//! of the cube, and an interpolation kernel reaches further still. What lies there is taken from
//! the neighbouring face: the plane of the face goes on beyond its border, and the face that owns
//! the direction of such a pixel is interpolated there. (To repeat the neighbour's outermost row
//! instead, as is usual, misplaces it by up to half a pixel along the edge.)

use std::f64::consts::{FRAC_PI_2, PI};
use std::ops::Range;

use nabla_data::Raster;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::erp::{Erp, ErpError, direction};
use crate::gnomonic::{Axes, Band, Lattice, LookTable, look, reshape};
use crate::resample::{Frame, Interpolation, ONE, PixelSampler, ResampleError, fixed, store};

/// A face of the cube; [the module](self) says how it is oriented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CubeFace {
    /// Longitude 0.
    Front,
    /// Longitude 90 degrees.
    Right,
    /// Longitude 180 degrees.
    Back,
    /// Longitude −90 degrees.
    Left,
    /// The north pole.
    Up,
    /// The south pole.
    Down,
}

impl CubeFace {
    /// The faces in the order of [`Cubemap::faces`].
    pub const ALL: [Self; 6] = [
        Self::Front,
        Self::Right,
        Self::Back,
        Self::Left,
        Self::Up,
        Self::Down,
    ];

    fn axes(self) -> Axes {
        let (longitude, latitude) = self.centre();
        let axes = Axes::new(longitude, latitude);
        // The axes are those of the coordinates; the sines of their angles are rounded.
        let exact = |v: [f64; 3]| v.map(f64::round);
        Axes {
            right: exact(axes.right),
            up: exact(axes.up),
            forward: exact(axes.forward),
        }
    }

    fn centre(self) -> (f64, f64) {
        match self {
            Self::Front => (0.0, 0.0),
            Self::Right => (FRAC_PI_2, 0.0),
            Self::Back => (-PI, 0.0),
            Self::Left => (-FRAC_PI_2, 0.0),
            Self::Up => (0.0, FRAC_PI_2),
            Self::Down => (0.0, -FRAC_PI_2),
        }
    }

    /// The face that sees a direction, and where: `u` to the right and `v` up, from −1 to 1.
    /// Where faces meet it is the first of: front and back, left and right, up and down.
    ///
    /// ```
    /// use nabla_panorama::{CubeFace, direction};
    /// let (face, u, v) = CubeFace::of(direction(std::f64::consts::FRAC_PI_2, 0.1));
    /// assert_eq!(face, CubeFace::Right);
    /// assert!(u.abs() < 1e-12 && (v - 0.1f64.tan()).abs() < 1e-12);
    /// ```
    pub fn of([x, y, z]: [f64; 3]) -> (Self, f64, f64) {
        let (face, right, up, forward) = if z.abs() >= x.abs() && z.abs() >= y.abs() {
            if z >= 0.0 {
                (Self::Front, x, y, z)
            } else {
                (Self::Back, -x, y, -z)
            }
        } else if x.abs() >= y.abs() {
            if x >= 0.0 {
                (Self::Right, -z, y, x)
            } else {
                (Self::Left, z, y, -x)
            }
        } else if y >= 0.0 {
            (Self::Up, x, -z, y)
        } else {
            (Self::Down, x, z, -y)
        };
        if forward == 0.0 {
            (face, 0.0, 0.0)
        } else {
            (face, right / forward, up / forward)
        }
    }
}

/// How the six faces are put together in one picture. None of them turns a face.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CubeLayout {
    /// One row of six: front, right, back, left, up, down.
    #[default]
    Strip,
    /// Two rows of three: right, left, up; down, front, back (the order of FFmpeg's `c3x2`).
    Dice,
    /// The unfolded cube, four by three faces: up above and down below the front, and left, front,
    /// right, back in the middle row. The six empty places are 0.
    Cross,
}

impl CubeLayout {
    /// `(rows, columns)` of faces.
    pub fn shape(self) -> (usize, usize) {
        match self {
            Self::Strip => (1, 6),
            Self::Dice => (2, 3),
            Self::Cross => (3, 4),
        }
    }

    /// `(row, column)` of a face.
    pub fn place(self, face: CubeFace) -> (usize, usize) {
        use CubeFace::{Back, Down, Front, Left, Right, Up};
        match (self, face) {
            (Self::Strip, face) => (0, face as usize),
            (Self::Dice, Right) => (0, 0),
            (Self::Dice, Left) => (0, 1),
            (Self::Dice, Up) => (0, 2),
            (Self::Dice, Down) => (1, 0),
            (Self::Dice, Front) => (1, 1),
            (Self::Dice, Back) => (1, 2),
            (Self::Cross, Up) => (0, 1),
            (Self::Cross, Left) => (1, 0),
            (Self::Cross, Front) => (1, 1),
            (Self::Cross, Right) => (1, 2),
            (Self::Cross, Back) => (1, 3),
            (Self::Cross, Down) => (2, 1),
        }
    }
}

/// A cube or projection that cannot be, or pictures that do not belong to it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CubemapError {
    /// There are not six faces.
    #[error("a cube has 6 faces, but {found} were given")]
    FaceCount {
        /// Faces given.
        found: usize,
    },
    /// A face has another shape than it should.
    #[error("the face {face:?} has the shape {found:?}, but it should have {expected:?}")]
    FaceShape {
        /// The face.
        face: CubeFace,
        /// `[channels, size, size]`.
        expected: [usize; 3],
        /// `[channels, height, width]`.
        found: [usize; 3],
    },
    /// A picture does not consist of square faces in this layout.
    #[error("a cube in the layout {layout:?} cannot be {width} x {height} pixels")]
    LayoutSize {
        /// The layout.
        layout: CubeLayout,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// Faces cannot have this size.
    #[error(
        "the faces of a cube must be 1 to {} pixels wide, not {size}",
        Erp::MAX_WIDTH
    )]
    FaceSize {
        /// Pixels.
        size: usize,
    },
    /// The picture is no panorama.
    #[error(transparent)]
    Erp(#[from] ErpError),
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
    /// A picture cannot be resampled.
    #[error(transparent)]
    Resample(#[from] ResampleError),
}

/// Six square faces of equal shape, in the order of [`CubeFace::ALL`].
#[derive(Clone, Debug, PartialEq)]
pub struct Cubemap {
    faces: Vec<Raster>,
}

impl Cubemap {
    /// Takes the faces, each `[channels, size, size]`: front, right, back, left, up, down.
    ///
    /// # Errors
    /// If there are not six, or they are empty, not square or not alike.
    pub fn from_faces(faces: Vec<Raster>) -> Result<Self, CubemapError> {
        let [channels, size, _] = match faces.first() {
            Some(front) if faces.len() == 6 => front.shape(),
            _ => return Err(CubemapError::FaceCount { found: faces.len() }),
        };
        let expected = [channels.max(1), size.max(1), size.max(1)];
        for (face, raster) in CubeFace::ALL.into_iter().zip(&faces) {
            if raster.shape() != expected {
                return Err(CubemapError::FaceShape {
                    face,
                    expected,
                    found: raster.shape(),
                });
            }
        }
        Ok(Self { faces })
    }

    /// Cuts a picture of all faces into them.
    ///
    /// # Errors
    /// If its size is not that of square faces in this layout.
    ///
    /// ```
    /// use nabla_data::Raster;
    /// use nabla_panorama::{CubeLayout, Cubemap};
    /// let cross = Raster::zeros(3, 48, 64);
    /// let cube = Cubemap::from_layout(&cross, CubeLayout::Cross)?;
    /// assert_eq!(cube.to_layout(CubeLayout::Strip).shape(), [3, 16, 96]);
    /// # Ok::<(), nabla_panorama::CubemapError>(())
    /// ```
    pub fn from_layout(picture: &Raster, layout: CubeLayout) -> Result<Self, CubemapError> {
        let [channels, height, width] = picture.shape();
        let (rows, columns) = layout.shape();
        let size = height / rows;
        if size == 0 || size * rows != height || size * columns != width {
            return Err(CubemapError::LayoutSize {
                layout,
                height,
                width,
            });
        }
        Self::from_faces(
            CubeFace::ALL
                .into_iter()
                .map(|face| {
                    let (row, column) = layout.place(face);
                    Raster::from_fn(channels, size, size, |c, y, x| {
                        picture.get(c, row * size + y, column * size + x)
                    })
                })
                .collect(),
        )
    }

    /// All faces in one picture.
    pub fn to_layout(&self, layout: CubeLayout) -> Raster {
        let (rows, columns) = layout.shape();
        let size = self.size();
        let width = columns * size;
        let mut out = Raster::zeros(self.channels(), rows * size, width);
        for (face, raster) in CubeFace::ALL.into_iter().zip(&self.faces) {
            let (row, column) = layout.place(face);
            for channel in 0..self.channels() {
                let lines = out.plane_mut(channel)[row * size * width..].chunks_mut(width);
                for (to, from) in lines.zip(raster.plane(channel).chunks(size)) {
                    to[column * size..][..size].copy_from_slice(from);
                }
            }
        }
        out
    }

    /// Front, right, back, left, up, down.
    pub fn faces(&self) -> &[Raster] {
        &self.faces
    }

    /// One face.
    pub fn face(&self, face: CubeFace) -> &Raster {
        &self.faces[face as usize]
    }

    /// The faces, without a copy.
    pub fn into_faces(self) -> Vec<Raster> {
        self.faces
    }

    /// Pixels along an edge.
    pub fn size(&self) -> usize {
        self.faces[0].height()
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.faces[0].channels()
    }
}

/// The way between an equirectangular panorama and a cube.
///
/// Faces a quarter as wide as the panorama (half its height) sample the horizon somewhat more
/// coarsely in their middle than the panorama does (2 against `π/2` of the radius for as many
/// pixels); faces of `W/π` sample it alike.
///
/// It holds 24 bytes for each pixel of a face and 32 for each column of the panorama, besides
/// where the pixels around the faces lie. Results do not depend on the number of threads.
///
/// ```
/// use nabla_data::Raster;
/// use nabla_panorama::{CubeFace, CubemapProjection, Erp, Interpolation};
/// let panorama = Raster::from_fn(1, 64, 128, |_, y, _| 1.0 - y as f32 / 64.0);
/// let way = CubemapProjection::new(Erp::of(&panorama)?, 32, Interpolation::BICUBIC)?;
/// let cube = way.to_cubemap(&panorama)?;
/// let mean = |face| cube.face(face).data().iter().sum::<f32>() / 1024.0;
/// assert!(mean(CubeFace::Up) > 0.75 && mean(CubeFace::Down) < 0.25);
/// assert_eq!(way.to_erp(&cube)?.shape(), [1, 64, 128]);
/// # Ok::<(), nabla_panorama::CubemapError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CubemapProjection {
    erp: Erp,
    size: usize,
    interpolation: Interpolation,
    /// Faces on the horizon, up, down.
    tables: [LookTable; 3],
    sides: Vec<Side>,
    /// Tangent and secant of the longitude of each column from the centre of its side face, in
    /// half widths of a face in fixed point.
    sights: Vec<[f64; 2]>,
    /// Sine and cosine of the longitude of each column, in the same unit.
    turns: Vec<[f64; 2]>,
    frame: Frame,
    /// What lies in the frame of each face.
    beyond: [Vec<Stretch>; 6],
}

impl CubemapProjection {
    /// Prepares the way between panoramas of size `erp` and faces of `size` pixels squared.
    ///
    /// # Errors
    /// If `size` is 0 or above [`Erp::MAX_WIDTH`] or the kernel is not finite.
    pub fn new(erp: Erp, size: usize, interpolation: Interpolation) -> Result<Self, CubemapError> {
        if !(1..=Erp::MAX_WIDTH).contains(&size) {
            return Err(CubemapError::FaceSize { size });
        }
        interpolation.check()?;
        let lattice = Lattice {
            erp,
            corners: false,
        };
        let frame = Frame {
            height: size,
            width: size,
            // From a position on a face, and the nearest pixel may be one beyond it.
            reach: interpolation.support().ceil() as usize,
        };
        let scale = size as f64 / 2.0 * f64::from(ONE);
        let turns: Vec<[f64; 2]> = (0..erp.width())
            .map(|column| {
                let (sin, cos) = erp.longitude(column as f64).sin_cos();
                [sin, cos]
            })
            .collect();
        Ok(Self {
            erp,
            size,
            interpolation,
            tables: [0.0, FRAC_PI_2, -FRAC_PI_2]
                .map(|latitude| LookTable::new(lattice, latitude, 1.0, size)),
            sides: Side::all(erp),
            sights: turns
                .iter()
                .map(|&[sin, cos]| {
                    let (_, tan, _) = CubeFace::of([sin, 0.0, cos]);
                    [tan, 1.0 / sin.abs().max(cos.abs())].map(|x| scale * x)
                })
                .collect(),
            turns: turns.iter().map(|turn| turn.map(|x| scale * x)).collect(),
            beyond: CubeFace::ALL.map(|face| Stretch::all(face, frame)),
            frame,
        })
    }

    /// The size of the panorama.
    pub fn erp(&self) -> Erp {
        self.erp
    }

    /// Pixels along an edge of the cube.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Projects a panorama `[channels, H, W]` onto the faces of a cube.
    ///
    /// # Errors
    /// If the panorama has another size than the projection or no channels.
    pub fn to_cubemap(&self, panorama: &Raster) -> Result<Cubemap, CubemapError> {
        let mut cube = Cubemap { faces: Vec::new() };
        self.to_cubemap_into(panorama, &mut cube)?;
        Ok(cube)
    }

    /// As [`Self::to_cubemap`], but writes over `cube` if its shape allows it. Who projects again
    /// and again saves the time that fresh memory costs.
    ///
    /// # Errors
    /// As [`Self::to_cubemap`]; then `cube` stays as it is.
    pub fn to_cubemap_into(
        &self,
        panorama: &Raster,
        cube: &mut Cubemap,
    ) -> Result<(), CubemapError> {
        if Erp::of(panorama) != Ok(self.erp) {
            return Err(CubemapError::WrongPanorama {
                expected: self.erp,
                height: panorama.height(),
                width: panorama.width(),
            });
        }
        let sampler = PixelSampler::erp(panorama, self.interpolation)?;
        let looks = CubeFace::ALL.map(|face| {
            let table = match face {
                CubeFace::Up => &self.tables[1],
                CubeFace::Down => &self.tables[2],
                _ => &self.tables[0],
            };
            (table, face.centre().0)
        });
        look(&sampler, &looks, &mut cube.faces);
        Ok(())
    }

    /// Projects a cube onto a panorama `[channels, H, W]`.
    ///
    /// # Errors
    /// If the faces of the cube have another size than the projection.
    pub fn to_erp(&self, cube: &Cubemap) -> Result<Raster, CubemapError> {
        let mut panorama = Raster::zeros(0, 0, 0);
        self.to_erp_into(cube, &mut panorama)?;
        Ok(panorama)
    }

    /// As [`Self::to_erp`], but writes over `panorama` if its shape allows it.
    ///
    /// # Errors
    /// As [`Self::to_erp`]; then `panorama` stays as it is.
    pub fn to_erp_into(&self, cube: &Cubemap, panorama: &mut Raster) -> Result<(), CubemapError> {
        let channels = cube.channels();
        let expected = [channels, self.size, self.size];
        for (face, raster) in CubeFace::ALL.into_iter().zip(&cube.faces) {
            if raster.shape() != expected {
                return Err(CubemapError::FaceShape {
                    face,
                    expected,
                    found: raster.shape(),
                });
            }
        }
        let samplers = self.joined_samplers(cube)?;
        reshape(panorama, [channels, self.erp.height(), self.erp.width()]);
        let width = self.erp.width();
        Band::of_panorama(panorama)
            .into_par_iter()
            .for_each_init(Vec::new, |scratch, band| {
                band.fill(scratch, |rows, samples| {
                    let plane = rows.len() * width;
                    for (i, row) in rows.enumerate() {
                        for run in self.runs(row) {
                            let points = self.points(&run);
                            let sampler = &samplers[run.face as usize];
                            let factors = run.factors;
                            let position = |point| self.position(factors, point);
                            let first = i * width + run.columns.start;
                            sampler.sample_line(
                                first,
                                points,
                                position,
                                |points, channel, values| {
                                    store(&mut samples[channel * plane..][points], values);
                                },
                            );
                        }
                    }
                });
            });
        Ok(())
    }

    /// Which face sees which pixels of a row of the panorama.
    fn runs(&self, row: usize) -> Vec<Run> {
        let (sin_lat, cos_lat) = self.erp.latitude(row as f64).sin_cos();
        let (tan, cot) = (sin_lat / cos_lat, cos_lat / sin_lat);
        let (cap, cap_factors) = if tan > 0.0 {
            (CubeFace::Up, [cot, cot])
        } else {
            (CubeFace::Down, [-cot, cot])
        };
        // `CubeFace::of` by products: the direction is (cos φ sin λ, sin φ, cos φ cos λ), and the
        // side face of this longitude sees it at v = tan φ / cos(λ − λ₀).
        let beyond = |[_, sec]: &[f64; 2]| (tan * sec).abs() > self.scale();
        let mut runs: Vec<Run> = Vec::new();
        let mut push = |face, factors, columns: Range<usize>| match runs.last_mut() {
            _ if columns.is_empty() => {}
            Some(last) if last.face == face => last.columns.end = columns.end,
            _ => runs.push(Run {
                face,
                columns,
                factors,
            }),
        };
        for side in &self.sides {
            let (before, after) = (side.start..side.middle, side.middle..side.end);
            let start = side.start + self.sights[before].partition_point(beyond);
            let end = side.middle + self.sights[after].partition_point(|p| !beyond(p));
            push(cap, cap_factors, side.start..start);
            push(side.face, [1.0, -tan], start..end);
            push(cap, cap_factors, end..side.end);
        }
        runs
    }

    /// What the columns of a run have in common with those of other rows.
    fn points(&self, run: &Run) -> &[[f64; 2]] {
        let points = match run.face {
            CubeFace::Up | CubeFace::Down => &self.turns,
            _ => &self.sights,
        };
        &points[run.columns.clone()]
    }

    /// The fixed-point position on its face of a pixel of a run.
    #[inline(always)]
    fn position(&self, factors: [f64; 2], point: [f64; 2]) -> [i32; 2] {
        let centre = self.scale() - 0.5 * f64::from(ONE);
        [
            to_nearest(centre + factors[0] * point[0]),
            to_nearest(centre + factors[1] * point[1]),
        ]
    }

    /// Half the width of a face in fixed point.
    fn scale(&self) -> f64 {
        self.size as f64 / 2.0 * f64::from(ONE)
    }

    /// The faces, ready to be sampled, with what lies beyond their borders taken from their
    /// neighbours.
    fn joined_samplers<'a>(
        &self,
        cube: &'a Cubemap,
    ) -> Result<Vec<PixelSampler<'a>>, CubemapError> {
        let mut samplers = cube
            .faces
            .iter()
            .map(|face| PixelSampler::planar(face, self.interpolation))
            .collect::<Result<Vec<_>, _>>()?;
        let (channels, cells) = (cube.channels(), self.frame.len());
        // The neighbour is itself interpolated close to its border: the second round corrects what
        // the first took from repeated pixels.
        for _ in 0..2 {
            let frames: Vec<Vec<f32>> = self
                .beyond
                .par_iter()
                .map(|stretches| {
                    let mut pixels = vec![0.0; channels * cells];
                    for stretch in stretches {
                        let sampler = &samplers[stretch.owner as usize];
                        sampler.sample_line(
                            stretch.first,
                            &stretch.positions,
                            |p| p,
                            |points, channel, values| {
                                store(&mut pixels[channel * cells..][points], values);
                            },
                        );
                    }
                    pixels
                })
                .collect();
            for (sampler, pixels) in samplers.iter_mut().zip(frames) {
                sampler.set_frame(self.frame, pixels);
            }
        }
        Ok(samplers)
    }
}

/// The nearest whole number, below 2^31 in size.
#[inline(always)]
fn to_nearest(x: f64) -> i32 {
    // Above 2^52 the last digit of a number stands for 1: an addition instead of a conversion,
    // which has no vector instruction.
    (x + 1.5 * (1u64 << 52) as f64).to_bits() as i32
}

/// Columns of the panorama that see the same face on the horizon.
#[derive(Clone, Copy, Debug)]
struct Side {
    face: CubeFace,
    start: usize,
    /// The first column right of the centre of the face, if that is among them.
    middle: usize,
    end: usize,
}

impl Side {
    fn all(erp: Erp) -> Vec<Self> {
        let mut sides: Vec<Self> = Vec::new();
        for column in 0..erp.width() {
            let longitude = erp.longitude(column as f64);
            let (face, tan, _) = CubeFace::of(direction(longitude, 0.0));
            match sides.last_mut() {
                Some(side) if side.face == face => side.end = column + 1,
                _ => sides.push(Self {
                    face,
                    start: column,
                    middle: column,
                    end: column + 1,
                }),
            }
            if let (Some(side), true) = (sides.last_mut(), tan < 0.0) {
                side.middle = column + 1;
            }
        }
        sides
    }
}

/// Pixels of a row of the panorama that a face sees.
#[derive(Clone, Debug)]
struct Run {
    face: CubeFace,
    columns: Range<usize>,
    /// What [`CubemapProjection::points`] are multiplied by.
    factors: [f64; 2],
}

/// Successive pixels of a frame around a face that lie on the same other face.
#[derive(Clone, Debug)]
struct Stretch {
    owner: CubeFace,
    /// The number of the first in the frame.
    first: usize,
    /// Where they lie on the other face.
    positions: Vec<[i32; 2]>,
}

impl Stretch {
    fn all(face: CubeFace, frame: Frame) -> Vec<Self> {
        let axes = face.axes();
        let half = frame.width as f64 / 2.0;
        let coordinate = |i: i64| (i as f64 + 0.5) / half - 1.0;
        let mut stretches: Vec<Self> = Vec::new();
        for (cell, (column, row)) in frame.cells().enumerate() {
            let d = axes.direction(coordinate(column), -coordinate(row));
            let (owner, u, v) = CubeFace::of(d);
            let position = [u, -v].map(|x| fixed(half * (1.0 + x) - 0.5));
            match stretches.last_mut() {
                Some(last) if last.owner == owner => last.positions.push(position),
                _ => stretches.push(Self {
                    owner,
                    first: cell,
                    positions: vec![position],
                }),
            }
        }
        stretches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A panorama given by a function of the direction.
    fn panorama(height: usize, f: impl Fn([f64; 3]) -> f64) -> Raster {
        let erp = Erp::new(height, 2 * height).unwrap();
        Raster::from_fn(1, height, 2 * height, |_, row, column| {
            f(direction(
                erp.longitude(column as f64),
                erp.latitude(row as f64),
            )) as f32
        })
    }

    /// A cube given by a function of the direction.
    fn cube(size: usize, f: impl Fn([f64; 3]) -> f64) -> Cubemap {
        let faces = CubeFace::ALL.map(|face| {
            Raster::from_fn(1, size, size, |_, row, column| {
                let at = |i: usize| (2 * i + 1) as f64 / size as f64 - 1.0;
                let d = face.axes().direction(at(column), -at(row));
                let length = (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]).sqrt();
                f(d.map(|x| x / length)) as f32
            })
        });
        Cubemap::from_faces(faces.into()).unwrap()
    }

    fn waves([x, y, z]: [f64; 3]) -> f64 {
        0.5 + ((3.0 * x + 0.3).sin() * (2.0 * y).cos() + (3.0 * z - y).sin()) / 4.0
    }

    fn largest_difference(a: &Raster, b: &Raster) -> f32 {
        assert_eq!(a.shape(), b.shape());
        let pairs = a.data().iter().zip(b.data());
        pairs.fold(0.0, |m, (a, b)| m.max((a - b).abs()))
    }

    #[test]
    fn faces_look_where_they_say() {
        let erp = Erp::new(64, 128).unwrap();
        let way = CubemapProjection::new(erp, 32, Interpolation::BICUBIC).unwrap();
        for axis in 0..3 {
            let made = way.to_cubemap(&panorama(64, |d| d[axis])).unwrap();
            let exact = cube(32, |d| d[axis]);
            for face in CubeFace::ALL {
                let difference = largest_difference(made.face(face), exact.face(face));
                assert!(difference < 2e-3, "{face:?} {axis}: {difference}");
            }
        }
        // Row 0, column 0 of the right face: forward, up and x = 1.
        let d = CubeFace::Right.axes().direction(-1.0, 1.0);
        assert_eq!(d, [1.0, 1.0, 1.0]);
        let d = CubeFace::Up.axes().direction(-1.0, 1.0);
        assert_eq!(d, [-1.0, 1.0, -1.0]);
    }

    #[test]
    fn the_face_of_a_direction_is_the_inverse_of_its_axes() {
        for face in CubeFace::ALL {
            for (u, v) in [(0.0, 0.0), (0.9, -0.4), (-0.3, 0.99)] {
                let (found, x, y) = CubeFace::of(face.axes().direction(u, v));
                assert_eq!(found, face);
                assert!((x - u).abs() < 1e-15 && (y - v).abs() < 1e-15);
            }
        }
        assert_eq!(CubeFace::of([0.0; 3]).0, CubeFace::Front);
    }

    #[test]
    fn there_and_back_keeps_what_is_smooth() {
        let source = panorama(64, waves);
        let erp = Erp::of(&source).unwrap();
        for (interpolation, tolerance) in [
            (Interpolation::Bilinear, 5e-3),
            (Interpolation::BICUBIC, 1e-3),
            (Interpolation::Lanczos3, 2e-3),
        ] {
            let way = CubemapProjection::new(erp, 32, interpolation).unwrap();
            let back = way.to_erp(&way.to_cubemap(&source).unwrap()).unwrap();
            let difference = largest_difference(&source, &back);
            assert!(difference < tolerance, "{interpolation:?}: {difference}");
        }
    }

    /// In float32, to faces and to planes: the sample grids are exact, so only the kernel loses anything. One
    /// with another `a` than Keys' does not even keep a slope, and ends below 90 dB.
    #[test]
    fn a_smooth_picture_comes_back_above_90_decibels_where_the_kernel_allows_it() {
        use crate::metrics::psnr;
        use crate::tangent::{TangentGrid, TangentOptions, TangentProjection};

        let source = panorama(512, waves);
        let erp = Erp::of(&source).unwrap();
        let decibels = |interpolation| {
            let way = CubemapProjection::new(erp, 256, interpolation).unwrap();
            let cube = way.to_erp(&way.to_cubemap(&source).unwrap()).unwrap();
            let options = TangentOptions::of(interpolation);
            let grid = TangentGrid::octadecaplex();
            let way = TangentProjection::new(grid, erp, 256, options).unwrap();
            let planes = way.to_erp(&way.to_tangent(&source).unwrap()).unwrap();
            [cube, planes].map(|back| psnr(&source, &back).unwrap())
        };
        let keys = decibels(Interpolation::BICUBIC);
        let sharp = decibels(Interpolation::BICUBIC_SHARP);
        println!("a = -0.5: {keys:.1?} dB, a = -0.75: {sharp:.1?} dB");
        assert!(keys.iter().all(|&db| db > 90.0), "{keys:?}");
        assert!(
            sharp
                .iter()
                .zip(keys)
                .all(|(&sharp, keys)| sharp < keys - 20.0),
            "{sharp:?}"
        );
    }

    #[test]
    fn memory_that_is_written_over_leaves_no_trace() {
        let way = |size| {
            let erp = Erp::new(32, 64).unwrap();
            CubemapProjection::new(erp, size, Interpolation::BICUBIC).unwrap()
        };
        let (source, other) = (panorama(32, waves), panorama(32, |d| d[1]));
        let mut made = way(16).to_cubemap(&other).unwrap();
        let mut back = way(16).to_erp(&made).unwrap();
        for size in [16, 12] {
            let way = way(size);
            way.to_cubemap_into(&source, &mut made).unwrap();
            assert_eq!(made, way.to_cubemap(&source).unwrap());
            way.to_erp_into(&made, &mut back).unwrap();
            assert_eq!(back, way.to_erp(&made).unwrap());
        }
    }

    #[test]
    fn seams_are_as_good_as_the_middle_of_faces() {
        let erp = Erp::new(128, 256).unwrap();
        let exact = panorama(128, waves);
        let way = CubemapProjection::new(erp, 24, Interpolation::BICUBIC).unwrap();
        let made = way.to_erp(&cube(24, waves)).unwrap();
        let (mut seams, mut middle) = (0f32, 0f32);
        for row in 0..128 {
            for column in 0..256 {
                let d = direction(erp.longitude(column as f64), erp.latitude(row as f64));
                let (_, u, v) = CubeFace::of(d);
                let error = (made.get(0, row, column) - exact.get(0, row, column)).abs();
                let outermost = u.abs().max(v.abs());
                if outermost > 1.0 - 1.0 / 24.0 {
                    seams = seams.max(error);
                } else if outermost < 0.8 {
                    middle = middle.max(error);
                }
            }
        }
        assert!(
            seams < 2.0 * middle,
            "{seams} at the seams, {middle} inside"
        );
    }

    #[test]
    fn pixels_are_looked_up_where_their_direction_is() {
        let erp = Erp::new(30, 60).unwrap();
        let way = CubemapProjection::new(erp, 16, Interpolation::BICUBIC).unwrap();
        for row in 0..30 {
            let mut seen = 0;
            for run in way.runs(row) {
                assert_eq!(run.columns.start, seen);
                seen = run.columns.end;
                for (column, &point) in run.columns.clone().zip(way.points(&run)) {
                    let at = (erp.longitude(column as f64), erp.latitude(row as f64));
                    let (owner, u, v) = CubeFace::of(direction(at.0, at.1));
                    // On an edge either face will do.
                    if u.abs().max(v.abs()) < 1.0 - 1e-9 {
                        assert_eq!(owner, run.face);
                        let position = way.position(run.factors, point);
                        for (p, x) in position.iter().zip([u, -v]) {
                            let exact = (8.0 + 8.0 * x - 0.5) * f64::from(ONE);
                            assert!((f64::from(*p) - exact).abs() < 0.51);
                        }
                    }
                }
            }
            assert_eq!(seen, 60);
        }
    }

    #[test]
    fn layouts_are_cut_as_they_are_put_together() {
        let source = cube(4, |d| d[0] + 10.0 * d[1] + 100.0 * d[2]);
        for layout in [CubeLayout::Strip, CubeLayout::Dice, CubeLayout::Cross] {
            let picture = source.to_layout(layout);
            let (rows, columns) = layout.shape();
            assert_eq!(picture.shape(), [1, 4 * rows, 4 * columns]);
            assert_eq!(Cubemap::from_layout(&picture, layout).unwrap(), source);
            assert!(matches!(
                Cubemap::from_layout(&Raster::zeros(1, 7, 9), layout),
                Err(CubemapError::LayoutSize { .. })
            ));
        }
    }

    #[test]
    fn what_is_no_cube_is_refused() {
        let face = Raster::zeros(3, 4, 4);
        assert!(matches!(
            Cubemap::from_faces(vec![face.clone(); 5]),
            Err(CubemapError::FaceCount { found: 5 })
        ));
        let mut faces = vec![face; 6];
        faces[3] = Raster::zeros(3, 4, 5);
        assert!(matches!(
            Cubemap::from_faces(faces),
            Err(CubemapError::FaceShape {
                face: CubeFace::Left,
                ..
            })
        ));
        assert!(Cubemap::from_faces(vec![Raster::zeros(0, 0, 0); 6]).is_err());
        let erp = Erp::new(8, 16).unwrap();
        assert!(matches!(
            CubemapProjection::new(erp, 0, Interpolation::BICUBIC),
            Err(CubemapError::FaceSize { size: 0 })
        ));
        let way = CubemapProjection::new(erp, 4, Interpolation::BICUBIC).unwrap();
        assert!(matches!(
            way.to_cubemap(&Raster::zeros(3, 4, 8)),
            Err(CubemapError::WrongPanorama { .. })
        ));
        assert!(matches!(
            way.to_erp(&cube(5, waves)),
            Err(CubemapError::FaceShape { .. })
        ));
        // Faces smaller than any kernel.
        let way = CubemapProjection::new(erp, 1, Interpolation::Lanczos3).unwrap();
        assert_eq!(way.to_erp(&cube(1, waves)).unwrap().shape(), [1, 8, 16]);
    }
}
