//! Sums over shifted pictures: a convolution, its gradient by the input, and a transposed convolution.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::layout::{Layout, Stored, copy, split};
use super::{COLUMNS, PART};
use crate::activation::rectified;
use crate::elementwise::vectorized;
use crate::memory;
use crate::real::Real;
use crate::taps::{padded, product};

/// The outputs of a [`Stencil`] that are `step` apart.
pub(super) struct Phase<'a, F: Clone> {
    /// Where each tap reads, from the number of the output times the stride.
    pub(super) taps: Vec<[isize; 3]>,
    /// `[groups · rows, channels · taps]`
    pub(super) weights: Cow<'a, [F]>,
    /// How many outputs there are along each dimension.
    pub(super) outputs: [usize; 3],
    pub(super) step: [usize; 3],
    pub(super) first: [usize; 3],
}

/// `y[row, n step + first] = start[row] + Σ weights[row, c, tap] x[c, n stride + tap]`.
pub(super) struct Stencil<'a, F: Clone> {
    pub(super) batch: usize,
    pub(super) groups: usize,
    /// The channels of the input in a group.
    pub(super) channels: usize,
    /// The channels of the output in a group.
    pub(super) rows: usize,
    pub(super) input: [usize; 3],
    pub(super) stride: [usize; 3],
    /// Where the taps of any phase read along each dimension.
    pub(super) distances: [Vec<isize>; 3],
    pub(super) output: [usize; 3],
    pub(super) phases: Vec<Phase<'a, F>>,
    /// Whether negative outputs become 0.
    pub(super) with_relu: bool,
}

/// A part of the output of a [`Stencil`].
struct Task<'a, F> {
    group: usize,
    pictures: Range<usize>,
    rows: Range<usize>,
    /// The positions along the dimension that is split.
    part: Range<usize>,
    /// The pieces of the planes of all rows of all pictures.
    pieces: Vec<&'a mut [F]>,
}

impl<F: Real> Stencil<'_, F> {
    pub(super) fn apply(&self, x: &[F], bias: Option<&[F]>) -> Vec<F> {
        let area: usize = self.output.iter().product();
        let planes = self.batch * self.groups * self.rows;
        // Without a tap, there is nothing to compute.
        let reached = !x.is_empty() && self.phases.iter().all(|phase| !phase.taps.is_empty());
        let mut y = match reached {
            true => memory::room(planes * area),
            false => memory::zeros(planes * area),
        };
        if y.is_empty() || x.is_empty() {
            return y;
        }
        if self.is_pointwise() {
            self.apply_pointwise(x, bias, &mut y);
            return y;
        }
        let mut tasks = self.tasks(&mut y);
        tasks.par_iter_mut().for_each_init(
            || (Stored::default(), Vec::new()),
            |(stored, sums), task| self.compute(task, x, bias, stored, sums),
        );
        y
    }

    /// Whether every output depends on one position of the input, at the same place.
    fn is_pointwise(&self) -> bool {
        let area: usize = self.input.iter().product();
        self.distances.iter().all(|d| d[..] == [0])
            && self.stride == [1; 3]
            && self.phases.len() == 1
            && self.output == self.input
            && padded(area) == area
    }

    /// Planes are used where they lie.
    fn apply_pointwise(&self, x: &[F], bias: Option<&[F]>, y: &mut [F]) {
        let area: usize = self.input.iter().product();
        let offsets: Vec<usize> = (0..self.channels).map(|c| c * area).collect();
        let rows = self.rows_per_task(self.batch * self.groups);
        let weights = &self.phases[0].weights;
        // [batch, groups, rows, area]
        let mut tasks: Vec<(usize, usize, &mut [F])> = Vec::new();
        for (of, y) in y.chunks_mut(self.rows * area).enumerate() {
            for (part, y) in y.chunks_mut(rows * area).enumerate() {
                tasks.push((of, part, y));
            }
        }
        tasks.into_par_iter().for_each(|(of, part, y)| {
            let x = &x[of * self.channels * area..(of + 1) * self.channels * area];
            let first = of % self.groups * self.rows + part * rows;
            let range = first..first + y.len() / area;
            let weights = &weights[range.start * self.channels..range.end * self.channels];
            product(x, &offsets, weights, bias.map(|b| &b[range]), y, area);
            if self.with_relu {
                rectify(y);
            }
        });
    }

    /// How many rows a task takes, if there are `tasks` besides.
    fn rows_per_task(&self, tasks: usize) -> usize {
        /// Enough for processors of many cores.
        const TASKS: usize = 16;
        let parts = TASKS.div_ceil(tasks.max(1));
        self.rows.div_ceil(parts).next_multiple_of(8)
    }

    fn layout(&self, outputs: [Range<usize>; 3], pictures: usize) -> Layout {
        Layout::new(self.input, self.stride, &self.distances, outputs, pictures)
    }

    /// All outputs of the longest phase.
    fn whole(&self) -> [Range<usize>; 3] {
        [0, 1, 2].map(|d| {
            let most = self.phases.iter().map(|phase| phase.outputs[d]).max();
            0..most.unwrap_or(0)
        })
    }

    fn tasks<'y>(&self, y: &'y mut [F]) -> Vec<Task<'y, F>> {
        let one = self.layout(self.whole(), 1);
        let size = self.channels * one.channel();
        // So many pictures that few columns are left over, and some tasks for each core.
        let wide = COLUMNS.div_ceil(one.columns(one.counts()).max(1));
        let together = (PART / size.max(1)).max(wide.min(4));
        let pictures = together.clamp(1, self.batch.div_ceil(8));
        let axis = split(self.output);
        let length = self.output[axis];
        let splits = self.phases.len() == 1 && size > PART;
        let part = match splits {
            true => self.part_length(axis, length * PART / size),
            false => length,
        };
        let (chunks, parts) = (self.batch.div_ceil(pictures), length.div_ceil(part));
        let rows = self.rows_per_task(chunks * parts * self.groups);
        let blocks = self.rows.div_ceil(rows);
        let mut tasks = Vec::new();
        for group in 0..self.groups {
            for chunk in 0..chunks {
                for at in 0..parts {
                    for block in 0..blocks {
                        tasks.push(Task {
                            group,
                            pictures: chunk * pictures..((chunk + 1) * pictures).min(self.batch),
                            rows: block * rows..((block + 1) * rows).min(self.rows),
                            part: at * part..((at + 1) * part).min(length),
                            pieces: Vec::new(),
                        });
                    }
                }
            }
        }
        let area: usize = self.output.iter().product();
        for (plane, y) in y.chunks_mut(area).enumerate() {
            let (picture, channel) = (
                plane / (self.groups * self.rows),
                plane % (self.groups * self.rows),
            );
            let (group, row) = (channel / self.rows, channel % self.rows);
            for (at, piece) in y.chunks_mut(part * (area / length)).enumerate() {
                let task =
                    ((group * chunks + picture / pictures) * parts + at) * blocks + row / rows;
                tasks[task].pieces.push(piece);
            }
        }
        tasks
    }

    /// At most `most` positions, so that few columns of the vectors are left over.
    fn part_length(&self, axis: usize, most: usize) -> usize {
        let most = most.clamp(1, self.output[axis]);
        let waste = |length: usize| {
            let mut outputs = self.whole();
            outputs[axis] = 0..length;
            let layout = self.layout(outputs, 1);
            let columns = layout.columns(layout.counts());
            padded(columns) as f64 / length as f64
        };
        let candidates = most.div_ceil(2)..=most;
        candidates
            .min_by(|&a, &b| waste(a).total_cmp(&waste(b)))
            .unwrap_or(most)
    }

    fn compute(
        &self,
        task: &mut Task<'_, F>,
        x: &[F],
        bias: Option<&[F]>,
        stored: &mut Stored<F>,
        sums: &mut Vec<F>,
    ) {
        let axis = split(self.output);
        let mut outputs = self.whole();
        if self.phases.len() == 1 {
            outputs[axis] = task.part.clone();
        }
        let layout = self.layout(outputs, task.pictures.len());
        let area: usize = self.input.iter().product();
        let first = task.group * self.channels;
        let of = self.groups * self.channels;
        let plane = |picture: usize, channel: usize| {
            let plane = (task.pictures.start + picture) * of + first + channel;
            &x[plane * area..(plane + 1) * area]
        };
        layout.store(self.channels, plane, stored);
        let channels =
            task.group * self.rows + task.rows.start..task.group * self.rows + task.rows.end;
        for phase in &self.phases {
            if phase.taps.is_empty() && bias.is_none() {
                continue;
            }
            let mut counts = phase.outputs;
            if self.phases.len() == 1 {
                counts[axis] = task.part.len();
            }
            let columns = layout.columns(counts);
            if columns == 0 {
                continue;
            }
            let offsets = layout.offsets(self.channels, &phase.taps);
            let depth = offsets.len();
            let weights = &phase.weights[channels.start * depth..channels.end * depth];
            let stride = padded(columns);
            sums.resize(channels.len() * stride, F::ZERO);
            let start = bias.map(|bias| &bias[channels.clone()]);
            match depth {
                // No tap reaches these outputs.
                0 => {
                    let rows = sums
                        .chunks_exact_mut(stride)
                        .zip(start.into_iter().flatten());
                    rows.for_each(|(sums, &start)| sums.fill(start));
                }
                _ => product(stored.values(), &offsets, weights, start, sums, columns),
            }
            if self.with_relu {
                rectify(sums);
            }

            let [_, height, width] = self.output;
            for (piece, y) in task.pieces.iter_mut().enumerate() {
                let (picture, row) = (piece / channels.len(), piece % channels.len());
                let sums = &sums[row * stride..];
                for i in 0..counts[0] {
                    for j in 0..counts[1] {
                        let from = &sums[layout.start(picture, i, j)..][..counts[2]];
                        let line = (i * phase.step[0] + phase.first[0]) * height
                            + j * phase.step[1]
                            + phase.first[1];
                        let at = line * width + phase.first[2];
                        match phase.step[2] {
                            1 => copy(&mut y[at..at + counts[2]], from),
                            step => {
                                for (to, from) in y[at..].iter_mut().step_by(step).zip(from) {
                                    *to = *from;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `max(·, 0)`, in place.
fn rectify<F: Real>(values: &mut [F]) {
    vectorized::<F, _>(
        #[inline(always)]
        || {
            for value in values.iter_mut() {
                *value = rectified(*value);
            }
        },
    );
}
