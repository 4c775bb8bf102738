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
//! **Planes to panorama** samples, for each panorama pixel, every plane `i` that sees it, and blends them: `E
//! = Σᵢ gᵢ xᵢ(uᵢ, vᵢ) / Σᵢ gᵢ`, with weights `g` of [`Blend`].
//!
//! Going there and back is one OTII exchange (octadecaplex tangent information interaction): afterwards,
//! overlapping planes agree. The less the two resamplings lose, the more often this can be repeated.
//! [`Convention::PixelCentre`] therefore uses pixel centres everywhere. The published code mixes lattices and
//! drifts by up to a pixel in each exchange, for which it compensates by a fourfold enlargement before each
//! projection; [`Convention::Official`] and [`TangentOptions::pre_upsample`] reproduce this.

mod grid;
mod options;
mod sightings;

use std::borrow::Cow;
use std::f64::consts::PI;

use nabla_base::range;
use nabla_data::Raster;
use rayon::prelude::*;

use crate::erp::Erp;
use crate::erp_area::ErpArea;
use crate::gnomonic::{Band, Lattice, LookTable, look, reshape};
use crate::resample::{
    BATCH, Interpolation, PixelSampler, Values, resize_corners, resize_erp, resize_planar,
};

pub use grid::{TangentGrid, TangentGridError, TangentPlane};
pub use options::{Blend, Convention, TangentError, TangentOptions};

use sightings::{OFFICIAL_CUBIC, Scan, Sightings, Weight, Window};

/// The projection between an equirectangular panorama and its tangent planes; see the module for the
/// equations.
///
/// It holds 8 bytes for each pixel of one plane of each row of the grid (32 MiB for the octadecaplex at 1024
/// x 1024), and 8 for each column of the panorama and each plane. While projecting, it holds only the source
/// and the result (and, with [`TangentOptions::pre_upsample`], the enlarged source).
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
    /// The row of the grid of each plane.
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
    /// Prepares the projection between panoramas of size `erp` and planes of `plane_size` by `plane_size`
    /// pixels.
    ///
    /// The paper uses planes half as high as the panorama, so that both sample equally finely.
    ///
    /// # Errors
    /// If a size, the factor of enlargement or a parameter is out of range, or the planes leave a
    /// hole ([`Convention::Official`] makes them smaller than their nominal size).
    pub fn new(
        grid: TangentGrid,
        erp: Erp,
        plane_size: usize,
        options: TangentOptions,
    ) -> Result<Self, TangentError> {
        let factor = options.pre_upsample;
        range::at_least("factor of enlargement before projection", factor, 1)?;
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

    /// The same projection with only those planes that overlap `area`. Pixels of a panorama that no plane
    /// sees become 0 in [`Self::to_erp`]; within the area nothing changes.
    ///
    /// # Errors
    /// If the area belongs to a panorama of another size.
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

    /// The points of contact of the planes, in the order of [`Self::to_tangent`].
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
    /// If the size of the panorama is not that of the projection, or it has no channels.
    pub fn to_tangent(&self, panorama: &Raster) -> Result<Vec<Raster>, TangentError> {
        let mut planes = Vec::new();
        self.to_tangent_into(panorama, &mut planes)?;
        Ok(planes)
    }

    /// Like [`Self::to_tangent`], but overwrites `planes` if their shape allows it. For repeated projections,
    /// this saves the cost of fresh memory, a fifth to a third of the time.
    ///
    /// # Errors
    /// As [`Self::to_tangent`]; then `planes` are unchanged.
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
    /// If the number or the shapes of the planes are wrong.
    pub fn to_erp(&self, planes: &[Raster]) -> Result<Raster, TangentError> {
        let mut panorama = Raster::zeros(0, 0, 0);
        self.to_erp_into(planes, &mut panorama)?;
        Ok(panorama)
    }

    /// As [`Self::to_erp`], but writes over `panorama` if its shape allows it (see
    /// [`Self::to_tangent_into`]).
    ///
    /// # Errors
    /// As [`Self::to_erp`]; then `panorama` is unchanged.
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

    /// Applies the changes of the planes to a panorama, `E + TP→ERP(after − before)`, where `before` is
    /// `ERP→TP(E)`.
    ///
    /// Unlike `TP→ERP(after)`, it preserves detail of the panorama that the planes cannot hold: where nothing
    /// was changed, the panorama is unchanged.
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
    /// As [`Self::to_erp`], for `before` and `after`; and if the panorama does not have the size of the
    /// projection, or the channels of the planes.
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

    /// Blends the planes' pixels for a row of the panorama into its lines in every channel, which must be 0
    /// before.
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
            // Every pixel is seen; this guards against rounding on borders.
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
    /// It is 0 if and only if they agree, and has the squared unit of the samples.
    ///
    /// # Errors
    /// As [`Self::to_erp`].
    pub fn spread(&self, planes: &[Raster]) -> Result<f64, TangentError> {
        let (samplers, channels) = self.samplers(planes)?;
        let width = self.erp.width();
        // Each row returns its sum and its area; they are added in order, whichever thread was first.
        let rows: Vec<(f64, f64)> = (0..self.erp.height())
            .into_par_iter()
            .map_init(Sightings::default, |sightings, row| {
                let mut variance = 0.0;
                // For each channel: the first plane's value, then the sums of the differences from it and of
                // their squares.
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

    /// The pixels of a row of the panorama that a plane sees, and their positions in the plane.
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
                    // In order of columns: pixels that wrapped around the meridian come first.
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
            // The parallel enters the plane again beyond the pole.
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
    // The columns are mostly consecutive.
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

#[cfg(test)]
mod tests;
