//! The gradient of a convolution by its kernel: correlations of the input and the gradient by the output.

use std::ops::Range;

use rayon::prelude::*;

use super::PART;
use super::layout::{Layout, Stored, copy, split};
use crate::aligned::Aligned;
use crate::memory;
use crate::real::Real;
use crate::taps::{correlate, correlate_turned, padded, turn};

/// A part of the kernel: some channels of the input and of the output of a group.
struct Tile {
    group: usize,
    channels: Range<usize>,
    rows: Range<usize>,
}

/// `dw[o, i, tap] = Σ g[o, n] x[i, n stride + tap]`.
pub(super) struct WeightGradient {
    pub(super) batch: usize,
    pub(super) groups: usize,
    /// The channels of the input in a group.
    pub(super) channels: usize,
    /// The channels of the output in a group.
    pub(super) rows: usize,
    pub(super) input: [usize; 3],
    pub(super) stride: [usize; 3],
    pub(super) output: [usize; 3],
    pub(super) distances: [Vec<isize>; 3],
    pub(super) taps: Vec<[isize; 3]>,
}

/// Room that tasks use one after another.
#[derive(Debug)]
pub(super) struct Scratch<F> {
    stored: Stored<F>,
    /// The gradients, and how they lie.
    grads: Aligned<F>,
    lie: Option<Layout>,
    /// The rows of the outputs in the layout.
    segments: Vec<(usize, usize)>,
}

impl<F> Default for Scratch<F> {
    fn default() -> Self {
        Self {
            stored: Stored::default(),
            grads: Aligned::default(),
            lie: None,
            segments: Vec::new(),
        }
    }
}

impl WeightGradient {
    /// The gradient of one picture, `[channels_out, channels_in, taps]`.
    pub(super) fn of_picture<F: Real>(
        &self,
        x: &[F],
        g: &[F],
        picture: usize,
        scratch: &mut Scratch<F>,
    ) -> Vec<F> {
        let whole = |group: usize| Tile {
            group,
            channels: 0..self.channels,
            rows: 0..self.rows,
        };
        let parts = (0..self.groups)
            .map(|group| self.part(x, g, &whole(group), picture..picture + 1, scratch));
        parts
            .reduce(|mut all, part| {
                all.extend(part);
                all
            })
            .unwrap_or_default()
    }

    pub(super) fn compute<F: Real>(&self, x: &[F], g: &[F]) -> Vec<F> {
        let size = self.taps.len();
        let mut dw = memory::zeros(self.groups * self.rows * self.channels * size);
        if x.is_empty() || g.is_empty() {
            return dw;
        }
        // Blocks of channels need no memory of their own; few channels are split by pictures.
        let depth = if self.turns(self.rows) { 288 } else { 144 };
        let block = self
            .channels
            .div_ceil((self.channels * size / depth).clamp(1, 32));
        let height = self
            .rows
            .div_ceil(self.rows.div_ceil(96))
            .next_multiple_of(3);
        let (blocks, heights) = (self.channels.div_ceil(block), self.rows.div_ceil(height));
        let tiles = self.groups * blocks * heights;
        let chunk = self.batch.div_ceil(8_usize.div_ceil(tiles).min(self.batch));
        let chunks = self.batch.div_ceil(chunk);
        let tile = |at: usize| {
            let (group, at) = (at / (blocks * heights), at % (blocks * heights));
            let (channel, row) = (at / heights * block, at % heights * height);
            Tile {
                group,
                channels: channel..(channel + block).min(self.channels),
                rows: row..(row + height).min(self.rows),
            }
        };
        let parts: Vec<Vec<F>> = (0..tiles * chunks)
            .into_par_iter()
            .map_init(Scratch::default, |scratch, task| {
                let (at, number) = (task / chunks, task % chunks);
                let pictures = number * chunk..((number + 1) * chunk).min(self.batch);
                self.part(x, g, &tile(at), pictures, scratch)
            })
            .collect();
        for (at, parts) in parts.chunks(chunks).enumerate() {
            let tile = tile(at);
            let depth = tile.channels.len() * size;
            for o in 0..tile.rows.len() {
                let row = tile.group * self.rows + tile.rows.start + o;
                let to = (row * self.channels + tile.channels.start) * size;
                let to = &mut dw[to..to + depth];
                for part in parts {
                    for (to, from) in to.iter_mut().zip(&part[o * depth..(o + 1) * depth]) {
                        *to += *from;
                    }
                }
            }
        }
        dw
    }

    /// Whether the gradients by so many channels of the output are worth lying side by side.
    fn turns(&self, rows: usize) -> bool {
        2 * padded(rows) <= 3 * rows
    }

    /// The gradient by a tile from some pictures, `[rows, channels, taps]`.
    fn part<F: Real>(
        &self,
        x: &[F],
        g: &[F],
        tile: &Tile,
        pictures: Range<usize>,
        scratch: &mut Scratch<F>,
    ) -> Vec<F> {
        let Tile {
            group,
            channels,
            rows,
        } = tile;
        let depth = channels.len() * self.taps.len();
        let area: usize = self.input.iter().product();
        let outputs: usize = self.output.iter().product();
        let axis = split(self.output);
        let length = self.output[axis];
        let layout = |range: [Range<usize>; 3], pictures: usize| {
            Layout::new(self.input, self.stride, &self.distances, range, pictures)
        };
        let whole = self.output.map(|n| 0..n);
        let size = (channels.len() + rows.len()) * layout(whole.clone(), 1).channel();
        let together = (PART / size.max(1)).clamp(1, pictures.len());
        let part = (length * PART / size.max(1)).clamp(1, length);

        let mut sums = vec![F::ZERO; rows.len() * depth];
        let Scratch {
            stored,
            grads,
            lie,
            segments,
        } = scratch;
        for first in pictures.clone().step_by(together) {
            let count = together.min(pictures.end - first);
            for start in (0..length).step_by(part) {
                let mut range = whole.clone();
                range[axis] = start..(start + part).min(length);
                let layout = layout(range.clone(), count);
                let plane = |picture: usize, channel: usize| {
                    let of = (first + picture) * self.groups * self.channels;
                    let plane = of + group * self.channels + channels.start + channel;
                    &x[plane * area..(plane + 1) * area]
                };
                layout.store(channels.len(), plane, stored);
                let offsets = layout.offsets(channels.len(), &self.taps);
                let counts = layout.counts();
                // The positions along the dimension that is split, and all that follow them, lie together.
                let begin = start * outputs / length;
                let line = |picture: usize, row: usize| {
                    let plane = (first + picture) * self.groups + group;
                    let plane = plane * self.rows + rows.start + row;
                    let end = begin + counts.iter().product::<usize>();
                    &g[plane * outputs + begin..plane * outputs + end]
                };
                if self.turns(rows.len()) {
                    let positions: usize = counts.iter().product();
                    let picture = positions * padded(rows.len());
                    grads.make_room(count * picture);
                    *lie = None;
                    let places = grads.values_mut().chunks_exact_mut(picture);
                    for (at, to) in places.enumerate() {
                        turn(rows.len(), |row| line(at, row), to);
                    }
                    segments.clear();
                    for picture in 0..count {
                        for i in 0..counts[0] {
                            let starts = (0..counts[1]).map(|j| layout.start(picture, i, j));
                            segments.extend(starts.map(|start| (start, counts[2])));
                        }
                    }
                    let (x, g) = (stored.values(), grads.values());
                    correlate_turned(x, &offsets, g, segments, &mut sums);
                    continue;
                }
                // The gradients lie as the input does, with zeros where there is no output.
                let columns = layout.columns(counts);
                let stride = padded(columns);
                let size = rows.len() * stride;
                if lie.as_ref() != Some(&layout) || grads.len() != size {
                    grads.reset(size);
                    *lie = Some(layout.clone());
                }
                let lines = grads.values_mut().chunks_exact_mut(stride);
                for (row, to) in lines.enumerate() {
                    for picture in 0..count {
                        let from = line(picture, row);
                        for i in 0..counts[0] {
                            for j in 0..counts[1] {
                                let at = (i * counts[1] + j) * counts[2];
                                let to = &mut to[layout.start(picture, i, j)..][..counts[2]];
                                copy(to, &from[at..at + counts[2]]);
                            }
                        }
                    }
                }
                let grads = grads.values();
                correlate(stored.values(), &offsets, grads, columns, &mut sums);
            }
        }
        sums
    }
}
