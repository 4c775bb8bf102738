//! Planes that touch the sphere: the directions of their pixels, and sampling a panorama there.

use std::ops::Range;

use nabla_data::Raster;
use rayon::prelude::*;

use crate::erp::{Erp, direction, longitude_latitude};
use crate::resample::{ONE, PixelSampler, fixed, store};

/// The layout of the pixels of panorama and plane: see [`crate::Convention`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lattice {
    pub(crate) erp: Erp,
    /// Whether the outermost pixel centres lie on the border instead of half a pixel inside.
    pub(crate) corners: bool,
}

impl Lattice {
    /// The number of columns in one turn.
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

/// The axes of a plane that touches the sphere at a longitude and latitude: to its right, up, and from the
/// centre of the sphere to the point of contact.
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

    /// The point of the plane in a direction, or `None` if it lies behind.
    pub(crate) fn point(&self, direction: [f64; 3]) -> Option<(f64, f64)> {
        let k = dot(self.forward, direction);
        (k > 0.0).then(|| (dot(self.right, direction) / k, dot(self.up, direction) / k))
    }
}

pub(crate) fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// Columns and rows of the tiles in which planes are sampled: neighbours in both directions read
/// the same part of the panorama, whose rows are far apart in memory.
const TILE: [usize; 2] = [128, 16];

/// The positions in a panorama of the pixels of a plane: fixed-point `[columns from the centre, row]` of each
/// pixel, `[size, size]`. Planes of one latitude share the table, because they differ only by a rotation.
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

    /// Samples `rows` of the plane that touches at `longitude` into `samples`
    /// `[channels, rows, size]`.
    fn look(
        &self,
        sampler: &PixelSampler,
        longitude: f64,
        rows: Range<usize>,
        samples: &mut [f32],
    ) {
        let size = self.size;
        let offsets = &self.offsets[rows.start * size..rows.end * size];
        let turn = self.lattice.columns_per_turn() as i32 * ONE;
        let centre = fixed(self.lattice.pixel_of(longitude, 0.0).0);
        // Centre and offset are each within half a turn, so at most one turn must be added or subtracted;
        // this happens before they are added, because a sum of more than a turn might overflow.
        let (least, end) = (-centre, turn - centre);
        let position = move |[column, row]: [i32; 2]| {
            let on = if column < least { turn } else { 0 };
            let off = if column >= end { turn } else { 0 };
            let column = column.wrapping_add(centre);
            [column.wrapping_add(on).wrapping_sub(off), row]
        };
        let lines = (0..size).step_by(TILE[0]).flat_map(|left| {
            let width = TILE[0].min(size - left);
            let firsts = (left..offsets.len()).step_by(size);
            firsts.map(move |first| (first, &offsets[first..][..width]))
        });
        sampler.sample_each(lines, position, |points, channel, values| {
            store(&mut samples[channel * offsets.len()..][points], values);
        });
    }
}

/// Samples planes `[channels, size, size]` from a panorama; each plane is described by a table and the
/// longitude of its point of contact. The results replace `planes`, and reuse the memory of those with the
/// right shape.
pub(crate) fn look(sampler: &PixelSampler, looks: &[(&LookTable, f64)], planes: &mut Vec<Raster>) {
    planes.truncate(looks.len());
    for (i, (table, _)) in looks.iter().enumerate() {
        let shape = [sampler.channels(), table.size, table.size];
        match planes.get_mut(i) {
            Some(plane) => reshape(plane, shape),
            None => planes.push(Raster::zeros(shape[0], shape[1], shape[2])),
        }
    }
    let bands: Vec<_> = looks
        .iter()
        .zip(planes)
        .flat_map(|(look, plane)| Band::of(plane, TILE[1]).into_iter().map(move |b| (look, b)))
        .collect();
    bands
        .into_par_iter()
        .for_each_init(Vec::new, |scratch, (&(table, longitude), band)| {
            band.fill(scratch, |rows, samples| {
                table.look(sampler, longitude, rows, samples)
            });
        });
}

/// Gives a raster this shape, with arbitrary samples, unless it has it already.
pub(crate) fn reshape(raster: &mut Raster, shape: [usize; 3]) {
    if raster.shape() != shape {
        *raster = Raster::zeros(shape[0], shape[1], shape[2]);
    }
}

/// Some rows of a raster, to be written by one thread.
pub(crate) struct Band<'a> {
    rows: Range<usize>,
    /// Their samples in each channel.
    channels: Vec<&'a mut [f32]>,
}

impl<'a> Band<'a> {
    /// Divides a raster into bands of `height` rows, the last one possibly with fewer.
    pub(crate) fn of(raster: &'a mut Raster, height: usize) -> Vec<Self> {
        let [channels, all, width] = raster.shape();
        let mut bands: Vec<Self> = (0..all)
            .step_by(height)
            .map(|first| Self {
                rows: first..all.min(first + height),
                channels: Vec::with_capacity(channels),
            })
            .collect();
        for plane in raster.data_mut().chunks_mut(all * width) {
            for (band, samples) in bands.iter_mut().zip(plane.chunks_mut(height * width)) {
                band.channels.push(samples);
            }
        }
        bands
    }

    /// Bands of a panorama, long enough for [`Self::fill`].
    pub(crate) fn of_panorama(panorama: &'a mut Raster) -> Vec<Self> {
        let height = (1usize << 13).div_ceil(panorama.width().max(1));
        Self::of(panorama, height)
    }

    /// Calls `write` to fill the rows `[channels, rows, width]`, whose previous samples are arbitrary.
    ///
    /// It writes to `scratch`, which stays in the processor's cache, and then copies all rows at once. A long
    /// copy does not read memory before writing it; scattered writes would, and this would take most of the
    /// time.
    pub(crate) fn fill(self, scratch: &mut Vec<f32>, write: impl FnOnce(Range<usize>, &mut [f32])) {
        let length = self.channels.first().map_or(0, |samples| samples.len());
        scratch.resize(self.channels.len() * length, 0.0);
        write(self.rows, scratch);
        for (to, from) in self.channels.into_iter().zip(scratch.chunks(length.max(1))) {
            to.copy_from_slice(from);
        }
    }
}
