//! Networks of which some blocks can be left out of a call.
//!
//! A residual block computes `shortcut(x) + f(x)`, an attention block `x + f(x)`. A *skipped* block returns its
//! shortcut alone (the identity, or the 1 × 1 convolution that changes the number of channels), and `f` is not
//! computed. All shapes and all skip connections stay as they are, so any set of blocks can be skipped, another one
//! in every step of a run. Every residual block and every attention block is a unit, numbered from 0 in the order in
//! which a call computes them: the way down, the middle, the way up. First and last convolutions, the convolutions
//! between two resolutions and the embedding of the time are always computed.
//!
//! [`autodiffusion`](crate::autodiffusion) searches which blocks to skip, and runs what it has found.
//!
//! # Your own network
//! Count the blocks with a [`BlockCounter`]:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::block_skipping::{BlockCounter, BlockSet};
//!
//! /// Three blocks, each of which adds its number.
//! fn network(mut x: Tensor<2>, skipped: &BlockSet) -> Tensor<2> {
//!     let mut blocks = BlockCounter::new(skipped);
//!     for number in [1.0, 10.0, 100.0] {
//!         if blocks.computes_next() {
//!             x = x + number;
//!         }
//!     }
//!     x
//! }
//!
//! let x = Tensor::zeros([1, 1], &Device::flex());
//! let y = network(x, &BlockSet::of([1]));
//! assert_eq!(y.into_scalar::<f32>(), 101.0);
//! ```
//!
//! Source: Li et al., *AutoDiffusion*, ICCV 2023, arXiv 2309.10438, and its code.

use std::collections::BTreeSet;
use std::fmt;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::denoiser::{Condition, Denoiser, OwnError};
use crate::level::Level;

/// Numbers of blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockSet(BTreeSet<usize>);

/// The set without any block.
static NONE: BlockSet = BlockSet(BTreeSet::new());

impl BlockSet {
    /// No block.
    pub fn none() -> &'static Self {
        &NONE
    }

    /// The set of these numbers.
    pub fn of(numbers: impl IntoIterator<Item = usize>) -> Self {
        Self(numbers.into_iter().collect())
    }

    /// Whether a block belongs to the set.
    pub fn contains(&self, block: usize) -> bool {
        self.0.contains(&block)
    }

    /// The number of blocks.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied()
    }

    /// The highest number.
    pub fn last(&self) -> Option<usize> {
        self.0.last().copied()
    }
}

/// The numbers with commas between them; `none` for the empty set.
impl fmt::Display for BlockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        for (i, block) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{block}")?;
        }
        Ok(())
    }
}

/// Counts the blocks of a network while a call computes them, and tells which ones to skip.
#[derive(Clone, Copy, Debug)]
pub struct BlockCounter<'a> {
    skipped: &'a BlockSet,
    next: usize,
}

impl<'a> BlockCounter<'a> {
    /// Starts before the first block.
    pub fn new(skipped: &'a BlockSet) -> Self {
        Self { skipped, next: 0 }
    }

    /// Goes to the next block, and tells whether it is computed.
    pub fn computes_next(&mut self) -> bool {
        let computes = !self.skipped.contains(self.next);
        self.next += 1;
        computes
    }

    /// The number of blocks so far, skipped ones included.
    pub fn count(&self) -> usize {
        self.next
    }
}

/// A denoiser that can skip blocks of its network; see the [module documentation](self).
pub trait SkippableDenoiser<const D: usize = 4>: Denoiser<D> {
    /// The number of blocks.
    fn blocks(&self) -> usize;

    /// As [`predict_rows`](Denoiser::predict_rows), from the network without some blocks; with none skipped, the
    /// same to the bit.
    ///
    /// - `skipped`: the blocks that are not computed, the same for all rows; numbers from
    ///   [`blocks`](Self::blocks) on have no effect
    ///
    /// # Errors
    /// As [`predict_rows`](Denoiser::predict_rows).
    fn predict_rows_skipping(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
        skipped: &BlockSet,
    ) -> Result<Tensor<D>, OwnError>;
}
