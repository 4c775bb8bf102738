//! The random numbers of a run: a stream for every round and purpose, so that threads, processes and one loop draw the
//! same ones in any order.

use nabla_grad::SeededNoise;
use rand::RngExt;
use rand::seq::{SliceRandom, index};

/// The streams of the current round.
pub(super) struct Draws {
    seed: u64,
    round: u64,
    workers: usize,
    pub(super) dimension: usize,
}

impl Draws {
    pub(super) fn new(seed: u64, workers: usize, dimension: usize) -> Self {
        Self {
            seed,
            round: 0,
            workers,
            dimension,
        }
    }

    pub(super) fn next_round(&mut self) {
        self.round += 1;
    }

    fn stream(&self, purpose: usize) -> SeededNoise {
        let purposes = 2 * self.workers as u64 + 4;
        SeededNoise::new(self.seed, self.round * purposes + purpose as u64)
    }

    /// For the compressor of a worker.
    pub(super) fn worker(&self, worker: usize) -> SeededNoise {
        self.stream(worker)
    }

    /// The components that a worker takes, in order.
    pub(super) fn components(&self, worker: usize, batch: usize, count: usize) -> Vec<usize> {
        let mut noise = self.stream(self.workers + worker);
        let mut chosen = index::sample(&mut noise, count, batch.min(count)).into_vec();
        chosen.sort_unstable();
        chosen
    }

    /// For the compressor of the server.
    pub(super) fn server(&self) -> SeededNoise {
        self.stream(2 * self.workers)
    }

    /// The permutation that all workers have in common.
    pub(super) fn permutation(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.dimension).collect();
        order.shuffle(&mut self.stream(2 * self.workers + 1));
        order
    }

    /// The workers of this round, in order.
    pub(super) fn participants(&self, count: usize) -> Vec<usize> {
        let mut noise = self.stream(2 * self.workers + 2);
        let mut chosen = index::sample(&mut noise, self.workers, count).into_vec();
        chosen.sort_unstable();
        chosen
    }

    /// Whether there is a new snapshot.
    pub(super) fn snapshot(&self, probability: f64) -> bool {
        self.stream(2 * self.workers + 3).random::<f64>() < probability
    }
}
