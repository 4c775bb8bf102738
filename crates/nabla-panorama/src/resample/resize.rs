//! Resizing pictures and panoramas: sums along the rows, then along the columns.

use nabla_base::vector::add_scaled;
use nabla_data::Raster;
use rayon::prelude::*;

use super::{Interpolation, ResampleError, check_erp, check_planar, check_size};
use crate::erp::Erp;

/// The taps of each output sample along one axis.
struct Taps {
    /// The first input sample, which is outside the picture if the axis wraps.
    starts: Vec<i64>,
    /// `[outputs, count]`.
    weights: Vec<f32>,
    count: usize,
}

/// The positions of output samples between input samples.
#[derive(Clone, Copy, PartialEq)]
enum Alignment {
    /// The outer edges of the outermost pixels coincide.
    Edges,
    /// The centres of the outermost pixels coincide.
    Corners,
}

impl Taps {
    fn new(
        input: usize,
        output: usize,
        interpolation: Interpolation,
        alignment: Alignment,
        wraps: bool,
    ) -> Self {
        let scale = match alignment {
            Alignment::Edges => input as f64 / output as f64,
            Alignment::Corners => (input as f64 - 1.0) / (output as f64 - 1.0).max(1.0),
        };
        let stretch = match interpolation {
            Interpolation::Nearest => 1.0,
            _ => scale.max(1.0),
        };
        let support = interpolation.support() * stretch;
        let mut rows = Vec::with_capacity(output);
        for i in 0..output {
            // Position from the left edge of the first pixel.
            let centre = match alignment {
                Alignment::Edges => (i as f64 + 0.5) * scale,
                Alignment::Corners => i as f64 * scale + 0.5,
            };
            if interpolation == Interpolation::Nearest {
                rows.push((centre.floor() as i64, vec![1.0]));
                continue;
            }
            let mut first = (centre - support + 0.5).floor() as i64;
            let mut end = (centre + support + 0.5).floor() as i64;
            if !wraps {
                first = first.max(0);
                end = end.min(input as i64);
            }
            let mut taps: Vec<f64> = (first..end)
                .map(|j| interpolation.kernel((j as f64 - centre + 0.5) / stretch))
                .collect();
            let sum: f64 = taps.iter().sum();
            taps.iter_mut().for_each(|w| *w /= sum);
            rows.push((first, taps));
        }
        // All rows have the same number of taps: shorter rows get zeros, on the side where there is room.
        let count = rows.iter().map(|(_, taps)| taps.len()).max().unwrap_or(0);
        let mut starts = Vec::with_capacity(output);
        let mut weights = Vec::with_capacity(output * count);
        for (first, taps) in rows {
            let start = if wraps {
                first
            } else {
                first.min(input.saturating_sub(count) as i64)
            };
            let before = (first - start) as usize;
            starts.push(start);
            weights.extend(std::iter::repeat_n(0.0, before));
            weights.extend(taps.iter().map(|&w| w as f32));
            weights.extend(std::iter::repeat_n(0.0, count - before - taps.len()));
        }
        Self {
            starts,
            weights,
            count,
        }
    }

    fn of(&self, output: usize) -> (i64, &[f32]) {
        (
            self.starts[output],
            &self.weights[output * self.count..][..self.count],
        )
    }
}

/// Resizes a planar picture to `[channels, height, width]`, as Pillow does in `F` mode.
///
/// # Errors
/// If the picture is empty, a size is zero or above [`Erp::MAX_WIDTH`], or the kernel is not
/// finite.
///
/// ```
/// use nabla_data::Raster;
/// use nabla_panorama::{Interpolation, resize_planar};
/// let picture = Raster::new(1, 1, 4, vec![0.0, 1.0, 2.0, 3.0])?;
/// let half = resize_planar(&picture, 1, 2, Interpolation::Bilinear)?;
/// assert!((half.get(0, 0, 0) - 5.0 / 7.0).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn resize_planar(
    picture: &Raster,
    height: usize,
    width: usize,
    interpolation: Interpolation,
) -> Result<Raster, ResampleError> {
    resize_plane(picture, height, width, interpolation, Alignment::Edges)
}

/// Resizes a planar picture so that the centres of its outermost pixels stay where they are
/// (`align_corners` of PyTorch).
pub(crate) fn resize_corners(
    picture: &Raster,
    height: usize,
    width: usize,
    interpolation: Interpolation,
) -> Result<Raster, ResampleError> {
    resize_plane(picture, height, width, interpolation, Alignment::Corners)
}

fn resize_plane(
    picture: &Raster,
    height: usize,
    width: usize,
    interpolation: Interpolation,
    alignment: Alignment,
) -> Result<Raster, ResampleError> {
    check_planar(picture)?;
    check_size(height, width)?;
    interpolation.check()?;
    let columns = Taps::new(picture.width(), width, interpolation, alignment, false);
    let rows = Taps::new(picture.height(), height, interpolation, alignment, false);
    Ok(resize(picture, &rows, &columns, None))
}

/// Resizes an equirectangular panorama to `height` rows and `2 * height` columns; its filters continue on its
/// other side and across its poles.
///
/// # Errors
/// If the picture is empty or not a panorama, the new size is invalid or too large ([`Erp::MAX_WIDTH`]), or
/// the kernel is not finite.
///
/// ```
/// use nabla_data::Raster;
/// use nabla_panorama::{Interpolation, resize_erp};
/// let small = Raster::zeros(3, 64, 128);
/// assert_eq!(resize_erp(&small, 256, Interpolation::BICUBIC)?.shape(), [3, 256, 512]);
/// # Ok::<(), nabla_panorama::ResampleError>(())
/// ```
pub fn resize_erp(
    panorama: &Raster,
    height: usize,
    interpolation: Interpolation,
) -> Result<Raster, ResampleError> {
    let erp = check_erp(panorama)?;
    let target = Erp::new(height, height.saturating_mul(2))?;
    interpolation.check()?;
    let edges = Alignment::Edges;
    let columns = Taps::new(erp.width(), target.width(), interpolation, edges, true);
    let rows = Taps::new(erp.height(), height, interpolation, edges, true);
    Ok(resize(panorama, &rows, &columns, Some(erp)))
}

/// Row by row: first the rows under the taps are added up, then that line is resized.
fn resize(picture: &Raster, rows: &Taps, columns: &Taps, sphere: Option<Erp>) -> Raster {
    let [channels, height, width] = picture.shape();
    let (new_height, new_width) = (rows.starts.len(), columns.starts.len());
    // The line is extended beyond its ends as far as the taps reach.
    let left = columns.starts.iter().copied().min().unwrap_or(0).min(0);
    let right = columns.starts.iter().copied().max().unwrap_or(0) + columns.count as i64;
    let before = left.unsigned_abs() as usize;
    let length = before + (right.max(width as i64)) as usize;
    let starts: Vec<usize> = columns.starts.iter().map(|s| (s - left) as usize).collect();

    let mut out = Raster::zeros(channels, new_height, new_width);
    out.data_mut()
        .par_chunks_mut(new_width)
        .enumerate()
        .for_each_init(
            || vec![0.0f32; length],
            |line, (index, out)| {
                let (channel, row) = (index / new_height, index % new_height);
                let plane = picture.plane(channel);
                let middle = &mut line[before..before + width];
                middle.fill(0.0);
                let (start, weights) = rows.of(row);
                for (k, &weight) in weights.iter().enumerate() {
                    let row = start + k as i64;
                    let (row, turn) = match sphere {
                        Some(erp) => {
                            let (turn, row) = erp.wrap(0, row);
                            (row, turn)
                        }
                        None => (row.clamp(0, height as i64 - 1) as usize, 0),
                    };
                    let (head, tail) = plane[row * width..][..width].split_at(turn);
                    let (first, second) = middle.split_at_mut(width - turn);
                    add_scaled(first, weight, tail);
                    add_scaled(second, weight, head);
                }
                if sphere.is_some() {
                    for i in (0..before).rev() {
                        line[i] = line[i + width];
                    }
                    for i in before + width..length {
                        line[i] = line[i - width];
                    }
                }
                match columns.count {
                    4 => convolve::<4>(line, &starts, &columns.weights, out),
                    6 => convolve::<6>(line, &starts, &columns.weights, out),
                    count => {
                        let weights = columns.weights.chunks_exact(count);
                        for ((out, &start), weights) in out.iter_mut().zip(&starts).zip(weights) {
                            let taps = &line[start..start + count];
                            *out = taps.iter().zip(weights).map(|(v, w)| v * w).sum();
                        }
                    }
                }
            },
        );
    out
}

fn convolve<const N: usize>(line: &[f32], starts: &[usize], weights: &[f32], out: &mut [f32]) {
    for ((out, &start), weights) in out.iter_mut().zip(starts).zip(weights.chunks_exact(N)) {
        let taps = &line[start..start + N];
        *out = (0..N).map(|k| taps[k] * weights[k]).sum();
    }
}
