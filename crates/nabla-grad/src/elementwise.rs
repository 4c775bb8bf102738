//! Operations on the elements of several tensors, in one pass over memory and in place.
//!
//! Every operation of Burn on whole tensors reads its inputs from memory and writes a fresh output. An
//! optimizer's step is a dozen such operations, and once the parameters outgrow the cache, memory limits its
//! speed. Here such a step is one function of the numbers at one position, `written, read -> written`, which
//! runs once over all tensors. The tensors that it writes are updated in place, if nothing else shares them.
//!
//! * [`Dense`] takes a tensor of `f32`s out of Burn's CPU backend `flex`, and returns any other tensor
//!   unchanged; a method then runs Burn's own operations on it;
//! * [`step`] runs a [`Rule`], which is written once for the fused pass and for Burn's operations;
//! * [`update`] runs a [`Kernel`], and [`update_channels`] runs a kernel that takes a number for each of the
//!   [`Channels`] of a tensor, or returns sums over them;
//! * [`all_finite`] looks for NaN and infinity.
//!
//! Results do not depend on the number of threads: memory is split at fixed positions, and sums have a fixed
//! order.

mod rule;

use std::array::from_fn;
use std::hint::black_box;

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Tensor, TensorData};
use prefetch_index::prefetch_index;
use rayon::prelude::*;

pub use rule::{Constant, Real, Rule, step};

/// The number of elements that one task handles.
const CHUNK: usize = 1 << 14;

/// The number of elements that are loaded, computed and stored side by side. The compiler turns a loop over
/// them into vector instructions, and each of these positions has its own partial sum.
const LANES: usize = 16;

/// How many blocks ahead of the arithmetic memory is asked for, also beyond the end of a task: the next one goes on
/// there. By itself, a processor only looks ahead to the end of a page.
const AHEAD: usize = 16;

/// The smallest number of rows per task if a task has sums for every column.
const ROWS: usize = 64;

/// A contiguous tensor of `f32`s of the CPU backend.
#[derive(Debug)]
pub struct Dense(FloatTensor<Flex>);

impl Dense {
    /// Takes `tensor` out of Burn.
    ///
    /// # Errors
    /// Returns `tensor` if it is on another device, tracked by autodiff, or not of `f32`s.
    #[allow(
        clippy::result_large_err,
        reason = "the tensor is passed on to Burn's operations"
    )]
    pub fn take<const D: usize>(tensor: Tensor<D>) -> Result<Self, Tensor<D>> {
        if tensor.dtype() != DType::F32 {
            return Err(tensor);
        }
        // A conversion that fails drops the tensor.
        let kept = tensor.clone();
        let Ok(primitive) = tensor.try_into_primitive::<Flex>() else {
            return Err(kept);
        };
        let whole = primitive.is_contiguous()
            && primitive.layout().start_offset() == 0
            && primitive.storage::<f32>().len() == primitive.layout().num_elements();
        Ok(Self(if whole {
            primitive
        } else {
            primitive.to_contiguous()
        }))
    }

    /// Takes all of `tensors`, or returns all of them.
    ///
    /// # Errors
    /// Returns `tensors` if [`take`](Self::take) would return one of them.
    pub fn take_all<const D: usize, const N: usize>(
        tensors: [Tensor<D>; N],
    ) -> Result<[Self; N], [Tensor<D>; N]> {
        let kept = tensors.clone();
        let taken: Vec<Self> = tensors
            .into_iter()
            .filter_map(|tensor| Self::take(tensor).ok())
            .collect();
        taken.try_into().map_err(|_| kept)
    }

    /// Zeros with the shape of this tensor.
    pub fn zeros_like(&self) -> Self {
        Self::zeros(&self.0.shape())
    }

    /// Zeros, on the CPU backend.
    pub fn zeros(shape: &[usize]) -> Self {
        let zeros = vec![0.0f32; shape.iter().product()];
        Self(FloatTensor::<Flex>::from_data(TensorData::new(
            zeros,
            shape.to_vec(),
        )))
    }

    /// The numbers, in row-major order.
    pub fn values(&self) -> &[f32] {
        self.0.storage()
    }

    /// The numbers, for writing. If the tensor is shared, it is copied first.
    pub fn values_mut(&mut self) -> &mut [f32] {
        self.0.storage_mut()
    }

    /// Returns the tensor to Burn.
    pub fn into_tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_primitive::<Flex>(self.0)
    }
}

/// A function of the numbers at one position of several tensors.
///
/// Mark `apply` `#[inline(always)]`; otherwise it is not compiled for the processor's vector instructions.
pub trait Kernel<const W: usize, const R: usize, const S: usize>: Sync {
    /// Computes the new values of `written`, and the terms of the sums. `scale` is the number of the channel,
    /// or 1.
    fn apply(&self, written: [f32; W], read: [f32; R], scale: f32) -> ([f32; W], [f32; S]);
}

/// The channels of a tensor's numbers, as `[outer, channels, inner]` in row-major order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channels {
    outer: usize,
    channels: usize,
    inner: usize,
}

impl Channels {
    /// The channels along dimension `dim` of `shape`; none if it has no such dimension.
    pub fn along(shape: &[usize], dim: usize) -> Option<Self> {
        Some(Self {
            channels: *shape.get(dim)?,
            outer: shape[..dim].iter().product(),
            inner: shape[dim + 1..].iter().product(),
        })
    }

    /// All of `len` numbers as one channel.
    pub fn whole(len: usize) -> Self {
        Self {
            outer: 1,
            channels: 1,
            inner: len,
        }
    }

    /// The number of channels.
    pub fn count(&self) -> usize {
        self.channels
    }

    /// The count of numbers in each channel.
    pub fn size(&self) -> usize {
        self.outer * self.inner
    }

    /// `[outer, channels, inner]`.
    pub fn shape(&self) -> [usize; 3] {
        [self.outer, self.channels, self.inner]
    }

    fn len(&self) -> usize {
        self.outer * self.channels * self.inner
    }

    /// Whether neighbours in memory belong to neighbouring channels.
    fn interleaved(&self) -> bool {
        self.inner == 1
    }

    /// Elements that one task handles: whole rows of interleaved channels, whole runs of a channel,
    /// or a part of one long run.
    fn chunk(&self) -> usize {
        if self.interleaved() {
            self.channels.max(1) * CHUNK.div_ceil(self.channels.max(1)).max(ROWS)
        } else if self.inner < CHUNK {
            self.inner.max(1) * (CHUNK / self.inner.max(1))
        } else {
            CHUNK
        }
    }

    /// The number of elements from `start` on that belong to the same channel, at most `left`.
    fn run(&self, start: usize, left: usize) -> usize {
        (self.inner - start % self.inner).min(left)
    }

    /// The channel of the element at position `place`.
    fn channel(&self, place: usize) -> usize {
        place / self.inner % self.channels
    }
}

/// The part of the tensors that one task handles.
struct Task<'a, const W: usize, const R: usize> {
    /// The position of its first element.
    start: usize,
    len: usize,
    written: [&'a mut [f32]; W],
    read: [&'a [f32]; R],
}

/// Splits tensors of `len` numbers into tasks of `chunk` numbers.
fn tasks<'a, const W: usize, const R: usize>(
    written: [&'a mut [f32]; W],
    read: [&'a [f32]; R],
    len: usize,
    chunk: usize,
) -> Vec<Task<'a, W, R>> {
    let agree = written.iter().all(|w| w.len() == len) && read.iter().all(|r| r.len() == len);
    assert!(
        agree,
        "the tensors of an elementwise operation have one length"
    );
    let mut written = written.map(|w| w.chunks_mut(chunk));
    let mut read = read.map(|r| r.chunks(chunk));
    (0..len)
        .step_by(chunk)
        .map(|start| Task {
            start,
            len: chunk.min(len - start),
            written: written.each_mut().map(|w| w.next().unwrap_or_default()),
            read: read.each_mut().map(|r| r.next().unwrap_or_default()),
        })
        .collect()
}

/// `from`, with zeros after its end.
#[inline(always)]
fn padded(from: &[f32]) -> [f32; LANES] {
    let mut block = [0.0; LANES];
    block[..from.len()].copy_from_slice(from);
    block
}

/// The results of `kernel` at `LANES` positions side by side.
///
/// Blocks go in and out by value because the compiler knows that nothing overlaps a local array, but does not
/// know this of slices in an array.
#[inline(always)]
fn block<const W: usize, const R: usize, const S: usize>(
    kernel: &impl Kernel<W, R, S>,
    written: [[f32; LANES]; W],
    read: [[f32; LANES]; R],
    scale: &[f32; LANES],
) -> ([[f32; LANES]; W], [[f32; LANES]; S]) {
    let mut new = [[0.0; LANES]; W];
    let mut terms = [[0.0; LANES]; S];
    for lane in 0..LANES {
        let mut w = [0.0; W];
        for k in 0..W {
            w[k] = written[k][lane];
        }
        let mut r = [0.0; R];
        for k in 0..R {
            r[k] = read[k][lane];
        }
        let (w, t) = kernel.apply(w, r, scale[lane]);
        for k in 0..W {
            new[k][lane] = w[k];
        }
        for k in 0..S {
            terms[k][lane] = t[k];
        }
    }
    (new, terms)
}

/// The channels of a line's blocks: their scales, and their sums so far.
trait Along<const S: usize> {
    /// The scales of block number `block`.
    fn scale(&self, block: usize) -> [f32; LANES];

    /// The sums of block number `block`.
    fn sums(&mut self, block: usize) -> &mut [[f32; LANES]; S];
}

/// All blocks are of one channel.
struct OneChannel<const S: usize> {
    scale: [f32; LANES],
    sums: [[f32; LANES]; S],
}

impl<const S: usize> Along<S> for OneChannel<S> {
    #[inline(always)]
    fn scale(&self, _: usize) -> [f32; LANES] {
        self.scale
    }

    #[inline(always)]
    fn sums(&mut self, _: usize) -> &mut [[f32; LANES]; S] {
        &mut self.sums
    }
}

/// Each column is a channel.
struct Columns<const S: usize> {
    scales: Option<Vec<[f32; LANES]>>,
    sums: Vec<[[f32; LANES]; S]>,
}

impl<const S: usize> Along<S> for Columns<S> {
    #[inline(always)]
    fn scale(&self, block: usize) -> [f32; LANES] {
        match &self.scales {
            Some(scales) => scales[block],
            None => [1.0; LANES],
        }
    }

    #[inline(always)]
    fn sums(&mut self, block: usize) -> &mut [[f32; LANES]; S] {
        &mut self.sums[block]
    }
}

/// Runs `kernel` on a line: slices of `len` numbers.
///
/// What is left after the last whole block is handled outside of the loop, which would otherwise spend more
/// time on the question whether a block is whole than on the block.
#[inline(always)]
fn sweep<const W: usize, const R: usize, const S: usize>(
    kernel: &impl Kernel<W, R, S>,
    written: [&mut [f32]; W],
    read: [&[f32]; R],
    len: usize,
    along: &mut impl Along<S>,
) {
    let mut written = written.map(|w| w[..len].as_chunks_mut());
    let read = read.map(|r| r[..len].as_chunks());
    let whole = len / LANES;
    // The compiler knows from the slices' common length that no index is beyond their end.
    let blocks = written.each_mut().map(|(blocks, _)| &mut blocks[..whole]);
    let read_blocks = read.map(|(blocks, _)| &blocks[..whole]);
    for i in 0..whole {
        // Keeps the compiler from going through several blocks at once, which it would gather from memory
        // number by number.
        black_box(());
        for blocks in &blocks {
            prefetch_index(&**blocks, i + AHEAD);
        }
        for blocks in read_blocks {
            prefetch_index(blocks, i + AHEAD);
        }
        let (w, r) = (from_fn(|k| blocks[k][i]), from_fn(|k| read_blocks[k][i]));
        let (new, terms) = block(kernel, w, r, &along.scale(i));
        for k in 0..W {
            blocks[k][i] = new[k];
        }
        for (sums, terms) in along.sums(i).iter_mut().zip(&terms) {
            for lane in 0..LANES {
                sums[lane] += terms[lane];
            }
        }
    }
    let rest = len % LANES;
    if rest > 0 {
        let w = from_fn(|k| padded(written[k].1));
        let r = from_fn(|k| padded(read[k].1));
        let (new, terms) = block(kernel, w, r, &along.scale(whole));
        for k in 0..W {
            written[k].1.copy_from_slice(&new[k][..rest]);
        }
        // The lanes after the end are the kernel's results for zeros.
        for (sums, terms) in along.sums(whole).iter_mut().zip(&terms) {
            for lane in 0..rest {
                sums[lane] += terms[lane];
            }
        }
    }
}

/// A task with its kernel. A closure would have three call sites, one for each instruction set, and the
/// compiler may not inline a function with more than one.
struct Job<'a, K, const W: usize, const R: usize> {
    kernel: &'a K,
    channels: Channels,
    scales: Option<&'a [f32]>,
    task: Task<'a, W, R>,
}

impl<K, const W: usize, const R: usize> Job<'_, K, W, R> {
    /// Handles the line of `len` numbers from `at` on.
    #[inline(always)]
    fn sweep<const S: usize>(&mut self, at: usize, len: usize, along: &mut impl Along<S>)
    where
        K: Kernel<W, R, S>,
    {
        let written = self.task.written.each_mut().map(|w| &mut w[at..at + len]);
        let read = self.task.read.map(|r| &r[at..at + len]);
        sweep(self.kernel, written, read, len, along);
    }

    /// Handles the runs of one channel after another, with the sums of each run.
    #[inline(always)]
    fn runs<const S: usize>(&mut self) -> Vec<[f32; S]>
    where
        K: Kernel<W, R, S>,
    {
        let mut parts = Vec::new();
        let mut at = 0;
        while at < self.task.len {
            let place = self.task.start + at;
            let len = self.channels.run(place, self.task.len - at);
            let scale = self.scales.map_or(1.0, |s| s[self.channels.channel(place)]);
            let mut channel = OneChannel {
                scale: [scale; LANES],
                sums: [[0.0; LANES]; S],
            };
            self.sweep(at, len, &mut channel);
            at += len;
            parts.push(channel.sums.map(|lanes| lanes.iter().sum()));
        }
        parts
    }

    /// Handles whole rows, whose columns are the channels, with the sums of each column.
    #[inline(always)]
    fn columns<const S: usize>(&mut self) -> Vec<[f32; S]>
    where
        K: Kernel<W, R, S>,
    {
        let count = self.channels.channels;
        let mut columns = Columns {
            scales: self
                .scales
                .map(|scales| scales.chunks(LANES).map(padded).collect()),
            sums: vec![[[0.0; LANES]; S]; count.div_ceil(LANES)],
        };
        for row in (0..self.task.len).step_by(count.max(1)) {
            self.sweep(row, count, &mut columns);
        }
        if S == 0 {
            return Vec::new();
        }
        (0..count)
            .map(|c| from_fn(|k| columns.sums[c / LANES][k][c % LANES]))
            .collect()
    }
}

/// [`Job`] by the number of its sums.
struct Summing<'a, K, const W: usize, const R: usize, const S: usize>(Job<'a, K, W, R>);

impl<K: Kernel<W, R, S>, const W: usize, const R: usize, const S: usize> pulp::NullaryFnOnce
    for Summing<'_, K, W, R, S>
{
    type Output = Vec<[f32; S]>;

    #[inline(always)]
    fn call(mut self) -> Self::Output {
        if self.0.channels.interleaved() {
            self.0.columns()
        } else {
            self.0.runs()
        }
    }
}

/// Runs `kernel` at every position of the tensors, which all have the same number of elements.
pub fn update<const W: usize, const R: usize>(
    kernel: &impl Kernel<W, R, 0>,
    written: [&mut Dense; W],
    read: [&Dense; R],
) {
    let len = written
        .first()
        .map(|w| w.values().len())
        .or(read.first().map(|r| r.values().len()));
    let whole = Channels::whole(len.unwrap_or(0));
    update_channels(kernel, whole, None, written, read);
}

/// Runs `kernel` at every position of the tensors with the number `scales[channel]` of its channel, and
/// returns the sums of its terms for each channel.
///
/// # Panics
/// If the number of elements of a tensor or of `scales` does not match `channels`.
pub fn update_channels<const W: usize, const R: usize, const S: usize>(
    kernel: &impl Kernel<W, R, S>,
    channels: Channels,
    scales: Option<&[f32]>,
    written: [&mut Dense; W],
    read: [&Dense; R],
) -> Vec<[f64; S]> {
    if let Some(scales) = scales {
        assert_eq!(
            scales.len(),
            channels.channels,
            "there is one scale per channel"
        );
    }
    let written = written.map(Dense::values_mut);
    let read = read.map(Dense::values);
    let chunk = channels.chunk();
    let arch = pulp::Arch::new();
    let run = |task| {
        arch.dispatch(Summing(Job {
            kernel,
            channels,
            scales,
            task,
        }))
    };
    let tasks = tasks(written, read, channels.len(), chunk);
    // For each task, the sums of its runs or columns.
    let parts: Vec<Vec<[f32; S]>> = if tasks.len() == 1 {
        // Waking another thread takes longer than the task.
        tasks.into_iter().map(run).collect()
    } else {
        tasks.into_par_iter().map(run).collect()
    };

    let mut sums = vec![[0.0; S]; channels.channels];
    for (task, parts) in parts.iter().enumerate() {
        let (mut at, end) = (task * chunk, channels.len().min((task + 1) * chunk));
        for (i, part) in parts.iter().enumerate() {
            let channel = if channels.interleaved() {
                i
            } else {
                let channel = channels.channel(at);
                at += channels.run(at, end - at);
                channel
            };
            for (sum, &part) in sums[channel].iter_mut().zip(part) {
                *sum += f64::from(part);
            }
        }
    }
    sums
}

/// Whether no number of `tensor` is NaN or infinite. On a GPU, this waits for the tensor.
pub fn all_finite<const D: usize>(tensor: Tensor<D>) -> bool {
    match Dense::take(tensor) {
        // There is no early exit inside a chunk, since this would prevent vectorisation.
        Ok(dense) => dense
            .values()
            .par_chunks(CHUNK)
            .all(|chunk| chunk.iter().fold(true, |all, x| all & x.is_finite())),
        // Zero times NaN or infinity is NaN, and then so is the sum.
        Err(tensor) => tensor
            .mul_scalar(0.0)
            .sum()
            .into_data()
            .iter::<f64>()
            .all(|zero| zero == 0.0),
    }
}

/// `eˣ` to two units in the last place; saturates outside ±87.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // x = n ln 2 + r, |r| <= ln 2 / 2; adding and subtracting 1.5 * 2^23 rounds to nearest.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // ln 2 in two parts, the first with trailing zeros so that n times it is exact.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    // The polynomial of Cephes' expf.
    let mut p = 1.987_569_2e-4;
    for c in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5.000_000_3e-1,
    ] {
        p = p * r + c;
    }
    let p = p * r * r + r + 1.0;
    // The last bits of `rounded` are those of n; the shift removes the others.
    p * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// `1 / (1 + e⁻ˣ)`, without branches so that it vectorises.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests;
