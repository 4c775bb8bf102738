//! How pictures lie in memory for [`taps`](crate::taps): with their padding, so that every tap of a kernel is one
//! distance.
//!
//! With the stride `s`, a position `o` and a tap at distance `d`, the input at `o s + d` is the number
//! `o + ⌊d/s⌋` of those whose position leaves the remainder `d mod s`. So the positions of each remainder (a
//! *phase*) lie in a plane of their own, and in it a tap is a shift. The zeros after a row are those before the
//! next one.

use std::ops::Range;

use crate::aligned::Aligned;
use crate::elementwise::vectorized;
use crate::real::Real;
use crate::taps::padded;

/// One spatial dimension of [`Layout`].
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    /// The positions of the input.
    input: usize,
    stride: usize,
    /// The remainders that some tap reads.
    phases: Vec<usize>,
    /// The first position that is stored, in steps of the stride.
    low: isize,
    /// The positions stored.
    extent: usize,
    /// How many of the last positions are the first ones of the next row.
    overlap: usize,
}

impl Axis {
    /// For the outputs `outputs` and taps at `distances`.
    fn new(input: usize, stride: usize, distances: &[isize], outputs: &Range<usize>) -> Self {
        let s = stride as isize;
        let mut phases: Vec<usize> = distances.iter().map(|d| d.rem_euclid(s) as usize).collect();
        phases.sort_unstable();
        phases.dedup();
        let shifts = || distances.iter().map(|d| d.div_euclid(s));
        let low = shifts().min().unwrap_or(0) + outputs.start as isize;
        let high = shifts().max().unwrap_or(0) + outputs.end as isize - 1;
        let extent = (high - low + 1).max(0) as usize;
        // The first position after the input, in the phase that ends last.
        let least = phases.first().copied().unwrap_or(0);
        let end = input.saturating_sub(least).div_ceil(stride) as isize;
        let before = (-low).max(0);
        let after = (high - end + 1).max(0);
        let overlap = before.min(after).min(extent as isize - 1).max(0) as usize;
        Self {
            input,
            stride,
            phases,
            low,
            extent,
            overlap,
        }
    }

    /// The phase that a tap reads, and how far from the first stored position it reads for the first output.
    fn tap(&self, distance: isize, first: usize) -> (usize, usize) {
        let stride = self.stride as isize;
        let phase = distance.rem_euclid(stride) as usize;
        let phase = self.phases.partition_point(|&p| p < phase);
        let shift = distance.div_euclid(stride) + first as isize - self.low;
        (phase, shift as usize)
    }

    /// The input's positions of a phase among those stored: the first one stored, the first one read, the count.
    fn inside(&self, phase: usize) -> (usize, usize, usize) {
        let phase = self.phases[phase] as isize;
        let stride = self.stride as isize;
        // q stride + phase >= 0, and < input.
        let first = self.low.max(0);
        let end = (self.input as isize - phase + stride - 1).div_euclid(stride);
        let end = end.min(self.low + self.extent as isize);
        let count = (end - first).max(0) as usize;
        let to = (first - self.low) as usize;
        (to, (first * stride + phase) as usize, count)
    }
}

/// Pictures in a [`Layout`].
#[derive(Debug)]
pub(crate) struct Stored<F> {
    layout: Option<Layout>,
    /// `[channels, phases, positions]`
    values: Aligned<F>,
}

impl<F> Default for Stored<F> {
    fn default() -> Self {
        Self {
            layout: None,
            values: Aligned::default(),
        }
    }
}

impl<F: Real> Stored<F> {
    /// `[channels, phases, positions]`
    pub(crate) fn values(&self) -> &[F] {
        self.values.values()
    }
}

/// The dimension along which large outputs are split.
pub(crate) fn split(output: [usize; 3]) -> usize {
    output.iter().position(|&n| n > 1).unwrap_or(2)
}

/// Copies a short row, without the call of a function that is made for long ones.
#[inline(always)]
pub(crate) fn copy<F: Real>(to: &mut [F], from: &[F]) {
    let (to, to_rest) = to.as_chunks_mut::<8>();
    let (from, from_rest) = from.as_chunks::<8>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
}

/// The layout of some channels of some pictures: `[channels, phases, positions]`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    axes: [Axis; 3],
    /// Distances between neighbours along each dimension.
    pitches: [usize; 3],
    /// The distance between pictures.
    picture: usize,
    /// The pictures.
    pictures: usize,
    /// The outputs that are computed.
    outputs: [Range<usize>; 3],
    /// The distance between planes.
    plane: usize,
}

impl Layout {
    /// - `input`: the positions of the input
    /// - `distances`: where taps read along each dimension, from the output's position times the stride
    /// - `outputs`: the outputs to be computed, of the longest phase
    pub(crate) fn new(
        input: [usize; 3],
        stride: [usize; 3],
        distances: &[Vec<isize>; 3],
        outputs: [Range<usize>; 3],
        pictures: usize,
    ) -> Self {
        let axis = |d: usize| Axis::new(input[d], stride[d], &distances[d], &outputs[d]);
        let axes = [axis(0), axis(1), axis(2)];
        let inner = |d: usize| axes[d].extent - axes[d].overlap;
        let pitches = [inner(1) * inner(2), inner(2), 1];
        let picture = inner(0) * pitches[0];
        let end = axes.iter().zip(pitches);
        let end: usize = end
            .map(|(axis, pitch)| axis.extent.saturating_sub(1) * pitch)
            .sum();
        let mut layout = Self {
            axes,
            pitches,
            picture,
            pictures,
            outputs,
            plane: 0,
        };
        let last = pictures.saturating_sub(1) * picture + end + 1;
        let columns = layout.columns(layout.counts());
        // Reading whole vectors at the last shift goes past the last position.
        // Whole lines of the cache.
        layout.plane = padded(last + padded(columns) - columns);
        // Planes a power of two apart would share few lines of the cache.
        if layout.plane.is_multiple_of(512) {
            layout.plane += 16;
        }
        layout
    }

    /// The outputs along each dimension.
    pub(crate) fn counts(&self) -> [usize; 3] {
        self.outputs.each_ref().map(ExactSizeIterator::len)
    }

    /// The columns of a product that computes this many outputs of each picture.
    pub(crate) fn columns(&self, counts: [usize; 3]) -> usize {
        if counts.contains(&0) || self.pictures == 0 {
            return 0;
        }
        self.start(self.pictures - 1, counts[0] - 1, counts[1] - 1) + counts[2]
    }

    /// The column of the first output of a row.
    pub(crate) fn start(&self, picture: usize, first: usize, second: usize) -> usize {
        picture * self.picture + first * self.pitches[0] + second * self.pitches[1]
    }

    /// The numbers of one channel.
    pub(crate) fn channel(&self) -> usize {
        self.axes.iter().map(|a| a.phases.len()).product::<usize>() * self.plane
    }

    /// The distance of a tap in the first channel.
    fn offset(&self, distances: [isize; 3]) -> usize {
        let mut plane = 0;
        let mut shift = 0;
        for (d, axis) in self.axes.iter().enumerate() {
            let (phase, along) = axis.tap(distances[d], self.outputs[d].start);
            plane = plane * axis.phases.len() + phase;
            shift += along * self.pitches[d];
        }
        plane * self.plane + shift
    }

    /// The distances of all taps in all channels.
    pub(crate) fn offsets(&self, channels: usize, taps: &[[isize; 3]]) -> Vec<usize> {
        let shifts: Vec<usize> = taps.iter().map(|&tap| self.offset(tap)).collect();
        (0..channels)
            .flat_map(|c| shifts.iter().map(move |shift| (c, shift)))
            .map(|(c, shift)| c * self.channel() + shift)
            .collect()
    }

    /// Stores channels of pictures.
    ///
    /// - `planes`: the channels of one picture after the other, `[channels]` for each of the pictures
    pub(crate) fn store<'a, F: Real>(
        &self,
        channels: usize,
        planes: impl Fn(usize, usize) -> &'a [F],
        to: &mut Stored<F>,
    ) {
        let size = channels * self.channel();
        // The zeros of the same layout are still there.
        if to.layout.as_ref() != Some(self) || to.values.len() != size {
            to.values.reset(size);
            to.layout = Some(self.clone());
        }
        let values = to.values.values_mut();
        vectorized::<F, _>(
            #[inline(always)]
            || {
                let [a, b, c] = &self.axes;
                let places = values.chunks_exact_mut(self.channel().max(1));
                for (channel, to) in places.enumerate() {
                    for picture in 0..self.pictures {
                        let from = planes(picture, channel);
                        let mut plane = 0;
                        for i in 0..a.phases.len() {
                            for j in 0..b.phases.len() {
                                for k in 0..c.phases.len() {
                                    let at = plane * self.plane + picture * self.picture;
                                    self.store_phase(from, [i, j, k], &mut to[at..]);
                                    plane += 1;
                                }
                            }
                        }
                    }
                }
            },
        );
    }

    /// Stores one phase of one channel of one picture.
    #[inline(always)]
    fn store_phase<F: Real>(&self, from: &[F], phases: [usize; 3], to: &mut [F]) {
        let [a, b, c] = &self.axes;
        let (to_a, from_a, count_a) = a.inside(phases[0]);
        let (to_b, from_b, count_b) = b.inside(phases[1]);
        let (to_c, from_c, count_c) = c.inside(phases[2]);
        if count_c == 0 {
            return;
        }
        for i in 0..count_a {
            for j in 0..count_b {
                let row = (from_a + i * a.stride) * b.input + from_b + j * b.stride;
                let row = &from[row * c.input + from_c..(row + 1) * c.input];
                let at = (to_a + i) * self.pitches[0] + (to_b + j) * self.pitches[1] + to_c;
                let to = &mut to[at..at + count_c];
                match c.stride {
                    1 => copy(to, &row[..count_c]),
                    2 => {
                        for (to, from) in to.iter_mut().zip(row.chunks(2)) {
                            *to = from[0];
                        }
                    }
                    stride => {
                        for (to, from) in to.iter_mut().zip(row.iter().step_by(stride)) {
                            *to = *from;
                        }
                    }
                }
            }
        }
    }
}
