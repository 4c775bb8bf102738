//! The plane that touches the sphere: where its pixels look, and sampling a panorama there.

use nabla_data::Raster;
use rayon::prelude::*;

use crate::erp::{Erp, direction, longitude_latitude};
use crate::resample::{ONE, Sampler, fixed};

/// How the pixels of panorama and plane are laid out: see [`crate::Convention`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lattice {
    pub(crate) erp: Erp,
    /// Whether the outermost pixel centres lie on the border instead of half a pixel inside.
    pub(crate) corners: bool,
}

impl Lattice {
    /// Columns that make one turn.
    pub(crate) fn columns_per_turn(&self) -> usize {
        self.erp.width() - usize::from(self.corners)
    }

    pub(crate) fn longitude(&self, column: f64) -> f64 {
        if self.corners {
            column / self.columns_per_turn() as f64 * std::f64::consts::TAU - std::f64::consts::PI
        } else {
            self.erp.longitude(column)
        }
    }

    pub(crate) fn latitude(&self, row: f64) -> f64 {
        if self.corners {
            std::f64::consts::FRAC_PI_2
                - row / (self.erp.height() - 1).max(1) as f64 * std::f64::consts::PI
        } else {
            self.erp.latitude(row)
        }
    }

    pub(crate) fn pixel_of(&self, longitude: f64, latitude: f64) -> (f64, f64) {
        if self.corners {
            (
                (longitude / std::f64::consts::TAU + 0.5) * self.columns_per_turn() as f64,
                (0.5 - latitude / std::f64::consts::PI) * (self.erp.height() - 1).max(1) as f64,
            )
        } else {
            self.erp.pixel_of(longitude, latitude)
        }
    }

    /// The plane coordinate in `[−1, 1]` of pixel `i` of `size`.
    pub(crate) fn plane_coordinate(&self, i: usize, size: usize) -> f64 {
        if self.corners {
            2.0 * i as f64 / (size as f64 - 1.0).max(1.0) - 1.0
        } else {
            (2 * i + 1) as f64 / size as f64 - 1.0
        }
    }
}

/// The axes of a plane that touches the sphere at a longitude and latitude: to its right, up, and
/// from the centre of the sphere to where it touches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axes {
    pub(crate) right: [f64; 3],
    pub(crate) up: [f64; 3],
    pub(crate) forward: [f64; 3],
}

impl Axes {
    pub(crate) fn new(longitude: f64, latitude: f64) -> Self {
        let (sin_lon, cos_lon) = longitude.sin_cos();
        let (sin_lat, cos_lat) = latitude.sin_cos();
        Self {
            right: [cos_lon, 0.0, -sin_lon],
            up: [-sin_lat * sin_lon, cos_lat, -sin_lat * cos_lon],
            forward: direction(longitude, latitude),
        }
    }

    /// The direction, not of unit length, in which a point of the plane is seen.
    pub(crate) fn direction(&self, x: f64, y: f64) -> [f64; 3] {
        std::array::from_fn(|i| self.forward[i] + x * self.right[i] + y * self.up[i])
    }

    /// The point of the plane in a direction, or nothing if it lies behind.
    pub(crate) fn point(&self, direction: [f64; 3]) -> Option<(f64, f64)> {
        let k = dot(self.forward, direction);
        (k > 0.0).then(|| (dot(self.right, direction) / k, dot(self.up, direction) / k))
    }
}

pub(crate) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Pixels along a side of the squares in which planes are sampled.
const TILE: usize = 16;

/// Where in a panorama the pixels of a plane look: fixed-point `[columns from the centre, row]` of
/// each pixel, `[size, size]`. Planes of one latitude share it, as they differ by a turn only.
#[derive(Clone, Debug)]
pub(crate) struct LookTable {
    offsets: Vec<[i32; 2]>,
    size: usize,
    lattice: Lattice,
}

impl LookTable {
    pub(crate) fn new(lattice: Lattice, latitude: f64, half_field: f64, size: usize) -> Self {
        let axes = Axes::new(0.0, latitude);
        let zero = lattice.pixel_of(0.0, 0.0).0;
        let mut offsets = vec![[0; 2]; size * size];
        offsets
            .par_chunks_mut(size)
            .enumerate()
            .for_each(|(row, line)| {
                let y = -lattice.plane_coordinate(row, size) * half_field;
                // The right half mirrors the left one, exactly.
                for column in 0..size.div_ceil(2) {
                    let x = lattice.plane_coordinate(column, size) * half_field;
                    let (longitude, latitude) = longitude_latitude(axes.direction(x, y));
                    let (c, r) = lattice.pixel_of(longitude, latitude);
                    let offset = fixed(c - zero);
                    line[column] = [offset, fixed(r)];
                    line[size - 1 - column] = [-offset, fixed(r)];
                }
                if size % 2 == 1 {
                    // The middle column lies on the meridian, before the pole or beyond it.
                    let middle = &mut line[size / 2];
                    middle[0] = middle[0].abs();
                }
            });
        Self {
            offsets,
            size,
            lattice,
        }
    }

    /// The plane that touches at `longitude`, `[channels, size, size]`, sampled from a panorama of
    /// the table's lattice.
    pub(crate) fn look(&self, sampler: &Sampler, longitude: f64) -> Raster {
        let size = self.size;
        let turn = self.lattice.columns_per_turn() as i64 * i64::from(ONE);
        let centre = i64::from(fixed(self.lattice.pixel_of(longitude, 0.0).0));
        let mut plane = Raster::zeros(sampler.channels(), size, size);
        // Square tiles: neighbours in both directions read the same part of the panorama, whose
        // rows are far apart in memory.
        let mut rows = rows_mut(&mut plane);
        rows.par_chunks_mut(TILE).enumerate().for_each_init(
            || (Vec::with_capacity(TILE * TILE), vec![[0.0; 4]; TILE * TILE]),
            |(positions, pixels), (band, rows)| {
                for left in (0..size).step_by(TILE) {
                    let width = TILE.min(size - left);
                    positions.clear();
                    for row in band * TILE..band * TILE + rows.len() {
                        let offsets = &self.offsets[row * size + left..][..width];
                        positions.extend(offsets.iter().map(|&[column, row]| {
                            let column = centre + i64::from(column);
                            // Within half a turn each, centre and offset are at most one turn off.
                            let column = match column {
                                c if c < 0 => c + turn,
                                c if c >= turn => c - turn,
                                c => c,
                            };
                            [column as i32, row]
                        }));
                    }
                    for group in 0..sampler.groups() {
                        sampler.sample_each(group, positions, |i, pixel| pixels[i] = pixel);
                        for (lines, pixels) in rows.iter_mut().zip(pixels.chunks(width)) {
                            let lines = lines[4 * group..].iter_mut().take(4);
                            for (c, line) in lines.enumerate() {
                                let line = &mut line[left..left + width];
                                for (value, pixel) in line.iter_mut().zip(pixels) {
                                    *value = pixel[c];
                                }
                            }
                        }
                    }
                }
            },
        );
        plane
    }
}

/// The rows of a raster, each with its line in every channel, for threads to write.
pub(crate) fn rows_mut(raster: &mut Raster) -> Vec<Vec<&mut [f32]>> {
    let [channels, height, width] = raster.shape();
    let mut rows: Vec<Vec<&mut [f32]>> =
        (0..height).map(|_| Vec::with_capacity(channels)).collect();
    for (i, line) in raster.data_mut().chunks_mut(width).enumerate() {
        rows[i % height].push(line);
    }
    rows
}
