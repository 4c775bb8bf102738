//! A panorama as the six faces of a cube, and back.
//!
//! A face is the picture on a plane that touches the sphere with a field of view of 90 degrees (see
//! [`crate::TangentProjection`] for the equations), sampled at pixel centres. The faces are oriented as seen
//! from the middle of the cube. If you look to the front and turn right, you see `Right`, `Back` and `Left`
//! upright. If you look to the front and tip your head back, you see `Up`, whose lower border meets the
//! front; if you tip it forward, you see `Down`, whose upper border meets the front.
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
//! **Seams.** The outermost pixel centres of a face are half a pixel short of the edge of the cube, and an
//! interpolation kernel reaches even further. The pixels beyond come from the neighbouring faces: the plane
//! of the face is extended beyond its border, and the face that owns the direction of such a pixel is
//! interpolated there. (Repeating the neighbour's outermost row instead, as is usual, misplaces it by up to
//! half a pixel along the edge.)

mod layout;

use std::f64::consts::FRAC_PI_2;
use std::ops::Range;

use nabla_base::range::{self, OutOfRange};
use nabla_data::Raster;
use rayon::prelude::*;

use crate::erp::{Erp, ErpError, direction};
use crate::gnomonic::{Band, Lattice, LookTable, look, reshape};
use crate::resample::{Frame, Interpolation, ONE, PixelSampler, ResampleError, fixed, store};

pub use layout::{CubeFace, CubeLayout};

/// A cube or projection is impossible, or pictures do not fit it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CubemapError {
    /// There are not six faces.
    #[error("a cube has 6 faces, but {found} were given")]
    FaceCount {
        /// Faces given.
        found: usize,
    },
    /// A face has the wrong shape.
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
    /// The size of the faces is impossible.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The picture is not a panorama.
    #[error(transparent)]
    Erp(#[from] ErpError),
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
    /// Creates a cube from its faces, each `[channels, size, size]`: front, right, back, left, up, down.
    ///
    /// # Errors
    /// If there are not six, or they are empty, not square or of different shapes.
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
    /// If its size does not fit square faces in this layout.
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

/// The projection between an equirectangular panorama and a cube.
///
/// Faces a quarter as wide as the panorama (half its height) sample the horizon somewhat more coarsely in
/// their middle than the panorama (2 against `π/2` of the radius for the same number of pixels); faces of
/// `W/π` sample it equally finely.
///
/// It holds 24 bytes for each pixel of a face and 32 for each column of the panorama, plus the positions of
/// the pixels around the faces. Results do not depend on the number of threads.
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
    /// The sources of the frame around each face.
    beyond: [Vec<Stretch>; 6],
}

impl CubemapProjection {
    /// Prepares the projection between panoramas of size `erp` and faces of `size` by `size` pixels.
    ///
    /// # Errors
    /// If `size` is 0 or above [`Erp::MAX_WIDTH`] or the kernel is not finite.
    pub fn new(erp: Erp, size: usize, interpolation: Interpolation) -> Result<Self, CubemapError> {
        range::within(
            "width of a cube's faces in pixels",
            size,
            1..=Erp::MAX_WIDTH,
        )?;
        interpolation.check()?;
        let lattice = Lattice {
            erp,
            corners: false,
        };
        let frame = Frame {
            height: size,
            width: size,
            // The widest reach from a position on a face; the nearest pixel may be one pixel outside.
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
    /// If the size of the panorama is not that of the projection, or it has no channels.
    pub fn to_cubemap(&self, panorama: &Raster) -> Result<Cubemap, CubemapError> {
        let mut cube = Cubemap { faces: Vec::new() };
        self.to_cubemap_into(panorama, &mut cube)?;
        Ok(cube)
    }

    /// Like [`Self::to_cubemap`], but overwrites `cube` if its shape allows it. For repeated projections,
    /// this saves the time for allocating fresh memory.
    ///
    /// # Errors
    /// As [`Self::to_cubemap`]; then `cube` is unchanged.
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
    /// If the size of the faces is not that of the projection.
    pub fn to_erp(&self, cube: &Cubemap) -> Result<Raster, CubemapError> {
        let mut panorama = Raster::zeros(0, 0, 0);
        self.to_erp_into(cube, &mut panorama)?;
        Ok(panorama)
    }

    /// Like [`Self::to_erp`], but overwrites `panorama` if its shape allows it.
    ///
    /// # Errors
    /// As [`Self::to_erp`]; then `panorama` is unchanged.
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

    /// The values of a run's columns that are common to all rows.
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

    /// The faces, ready to be sampled, with frames from their neighbours.
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
        // The neighbour is interpolated close to its own border, so the second round corrects values that the
        // first round took from repeated pixels.
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
    // Above 2^52 the last digit of a number means 1, so an addition replaces a conversion, which has no
    // vector instruction.
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
    /// The factors of [`CubemapProjection::points`].
    factors: [f64; 2],
}

/// Successive pixels of a frame around a face that lie on the same other face.
#[derive(Clone, Debug)]
struct Stretch {
    owner: CubeFace,
    /// The number of the first in the frame.
    first: usize,
    /// Their positions on the other face.
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
mod tests;
