//! The local steps of a client.

use nabla_base::range;
use nabla_base::vector::add_scaled;
use nabla_grad::seeded_noise::SeededNoise;
use rand::seq::index;

use super::{Client, Round, SketchingError};

/// `f_c`, the mean of a client's losses.
pub trait LocalLoss {
    /// The client's examples.
    fn examples(&self) -> usize;

    /// The gradient of the mean loss of some examples at `w`, `[d]`.
    fn gradient(&self, w: &[f64], examples: &[usize]) -> Vec<f64>;
}

/// A client that descends its own loss: `K` times `u ← u − η_loc ∇f_c(u)`.
#[derive(Clone, Debug)]
pub struct LocalDescent<L> {
    /// `f_c`.
    pub loss: L,
    /// `K`. Default 1.
    pub steps: usize,
    /// `η_loc`. Default 0.1.
    pub step: f64,
    /// The examples that a step draws without replacement. Default all.
    pub batch: Option<usize>,
    /// From which the batches are drawn, by a stream for every client and round. Default 0.
    pub seed: u64,
}

impl<L> LocalDescent<L> {
    /// With the defaults.
    pub fn new(loss: L) -> Self {
        Self {
            loss,
            steps: 1,
            step: 0.1,
            batch: None,
            seed: 0,
        }
    }
}

impl<L: LocalLoss> Client for LocalDescent<L> {
    fn answer(&mut self, round: Round<'_>) -> Result<Vec<f64>, SketchingError> {
        range::at_least("number of local steps", self.steps, 1)?;
        range::positive("local step η_loc", self.step)?;
        let examples = self.loss.examples();
        if let Some(batch) = self.batch {
            range::within("batch of a client", batch, 1..=examples.max(1))?;
        }
        // The streams below 2⁴⁰ are those of the matrices, which may have the same seed.
        let stream = (round.client as u64 + 1) << 40 | round.number;
        let mut noise = SeededNoise::new(self.seed, stream);
        let mut chosen: Vec<usize> = (0..examples).collect();
        let mut u = round.weights.to_vec();
        for _ in 0..self.steps {
            if let Some(batch) = self.batch {
                chosen = index::sample(&mut noise, examples, batch).into_vec();
                chosen.sort_unstable();
            }
            let gradient = self.loss.gradient(&u, &chosen);
            if gradient.len() != u.len() {
                return Err(SketchingError::Gradient {
                    client: round.client,
                    expected: u.len(),
                    found: gradient.len(),
                });
            }
            add_scaled(&mut u, -self.step, &gradient);
        }
        add_scaled(&mut u, -1.0, round.weights);
        Ok(round.sketch.apply_values(&u)?)
    }
}
