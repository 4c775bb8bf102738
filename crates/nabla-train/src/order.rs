//! The order of the examples of a training set.
//!
//! Every epoch uses each example once, in a new order; its last batch is smaller if the number of examples is
//! not a multiple of the batch size. The order of epoch `e` is drawn from a stream of the seed that belongs
//! to `e` alone, so a training that resumes from a checkpoint uses the same order without storing the state
//! of a generator.

use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;

/// The order of epoch `e` is drawn from stream `ORDER + e` of the seed.
const ORDER: u64 = 1 << 32;

/// A random order of `0..count`, the same for the same stream.
pub fn permutation(count: usize, draw: &mut SeededNoise) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    // Fisher and Yates.
    for i in (1..count).rev() {
        order.swap(i, draw.random_range(0..=i));
    }
    order
}

/// Batches in random order; see the [module documentation](self).
///
/// ```
/// use nabla_train::order::EpochOrder;
///
/// let mut order = EpochOrder::new(10, 4, 7);
/// let mut met: Vec<usize> = (0..3).flat_map(|step| order.batch(step).to_vec()).collect();
/// assert_eq!(order.batch(2).len(), 2);
/// met.sort_unstable();
/// assert_eq!(met, (0..10).collect::<Vec<_>>());
/// ```
#[derive(Clone, Debug)]
pub struct EpochOrder {
    examples: usize,
    batch: usize,
    seed: u64,
    /// The epoch, and its order.
    present: Option<(usize, Vec<usize>)>,
}

impl EpochOrder {
    /// - `examples`: their number
    /// - `batch`: examples of a step, at least 1
    pub fn new(examples: usize, batch: usize, seed: u64) -> Self {
        Self {
            examples,
            batch: batch.max(1),
            seed,
            present: None,
        }
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.examples.div_ceil(self.batch)
    }

    /// The examples of step `step`, from 0.
    pub fn batch(&mut self, step: usize) -> &[usize] {
        let steps = self.steps_per_epoch().max(1);
        let epoch = step / steps;
        let order = match self.present.take() {
            Some((drawn, order)) if drawn == epoch => order,
            _ => {
                let mut draw = SeededNoise::new(self.seed, ORDER + epoch as u64);
                permutation(self.examples, &mut draw)
            }
        };
        let (_, order) = self.present.insert((epoch, order));
        let begin = (step % steps) * self.batch;
        &order[begin..(begin + self.batch).min(self.examples)]
    }
}
