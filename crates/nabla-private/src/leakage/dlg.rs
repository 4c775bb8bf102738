//! Deep Leakage from Gradients: pixels and labels by the squared error of the gradients.
//!
//! ```text
//! x', y' ~ N(0, I)
//! repeat:  minimise ‖∇_w ℓ(f(x'), softmax(y')) − g*‖² over (x', y') by L-BFGS
//! ```
//!
//! The unknowns are rows of pixels followed by the scores of the labels, so the loss of the
//! [oracle](super::gradient_oracle) takes both: [`soft_label_loss`].
//!
//! Source: Zhu, Liu, Han, *Deep Leakage from Gradients*, NeurIPS 2019, arXiv 1906.08935, algorithm 1.

use burn::optim::{LBFGSConfig, LineSearchFn};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Tensor};
use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use super::descent::Point;
use super::error::LeakageError;
use super::gradient_oracle::Objective;

/// Configuration of [`dlg`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DlgConfig {
    /// Rounds of L-BFGS, of 20 iterations each. Default 300.
    pub rounds: usize,
    /// The length of a step before the line search. Default 1.
    pub learning_rate: f64,
}

impl Default for DlgConfig {
    fn default() -> Self {
        Self {
            rounds: 300,
            learning_rate: 1.0,
        }
    }
}

/// The cross-entropy of scores with soft labels.
///
/// - `scores`: of the model, `[batch, classes]`; `labels`: scores of the labels, `[batch, classes]`
pub fn soft_label_loss(scores: Tensor<2>, labels: Tensor<2>) -> Tensor<1> {
    -(softmax(labels, 1) * log_softmax(scores, 1))
        .sum_dim(1)
        .mean()
}

/// What DLG found.
#[derive(Clone, Debug)]
pub struct Leaked {
    /// `[batch, unknowns]`
    pub unknowns: Tensor<2>,
    /// Its cost.
    pub cost: f64,
}

/// Searches pixels and labels.
///
/// - `objective`: the squared error for rows of unknowns
/// - `size`: the batch and the number of unknowns
///
/// # Errors
/// If a setting is out of range, or the gradients at the start are not finite.
pub fn dlg(
    objective: &Objective<'_>,
    size: [usize; 2],
    config: DlgConfig,
    seed: u64,
    device: &Device,
) -> Result<Leaked, LeakageError> {
    range::positive("learning rate of the attack", config.learning_rate)?;
    range::at_least("number of rounds", config.rounds, 1)?;
    let device = device.clone().without_autodiff();
    let start = SeededNoise::new(seed, 0).normal(size, &device);
    let mut best = Leaked {
        cost: objective(&start)?.cost,
        unknowns: start.clone(),
    };
    let mut point = Point::new(start);
    let mut search = LBFGSConfig::new()
        .with_line_search_fn(LineSearchFn::StrongWolfe)
        .init();
    for _ in 0..config.rounds {
        let mut failed = None;
        let (next, _) = search.step(config.learning_rate, point.clone(), |guess: Point| {
            let plain = guess.plain();
            match objective(&plain) {
                Ok(matched) => {
                    if matched.cost < best.cost {
                        best = Leaked {
                            unknowns: plain,
                            cost: matched.cost,
                        };
                    }
                    (matched.cost, guess.gradients(matched.slope))
                }
                Err(error) => {
                    // The line search turns back from an infinite cost.
                    failed = Some(error);
                    let zeros = plain.zeros_like();
                    (f64::INFINITY, guess.gradients(zeros))
                }
            }
        });
        point = next;
        match failed {
            // A search that ran away ends with the best it saw.
            Some(LeakageError::NotFinite(_)) => break,
            Some(error) => return Err(error),
            None => {}
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leakage::inverting_gradients::{InvertingConfig, inverting_gradients};
    use crate::leakage::pixel_prior::PixelPrior;
    use crate::leakage::small_network::{SmallNetwork, Units, label_loss};
    use crate::leakage::{Distance, GradientOracle, Observed};

    const PIXELS: usize = 9;
    const CLASSES: usize = 4;

    /// The secret, and what is observed of it.
    fn secret() -> (SmallNetwork, Tensor<2>, Observed) {
        let device = Device::flex();
        let network = SmallNetwork::new([PIXELS, 12, CLASSES], Units::Sigmoid, 5, &device).unwrap();
        let values = [[0.1, 0.2, 0.9, 0.4, 0.5, 0.6, 0.3, 0.8, 0.7]];
        let pictures = Tensor::<2>::from_floats(values, &device);
        let oracle = GradientOracle::new(network.clone(), |n: &SmallNetwork, x| {
            label_loss(n.scores(x), &[2])
        })
        .unwrap();
        let observed = Observed::whole(oracle.gradient(&pictures).unwrap());
        (network, pictures, observed)
    }

    fn error(found: &Tensor<2>, truth: &Tensor<2>) -> f64 {
        let difference = found.clone() - truth.clone();
        difference.abs().max().into_scalar::<f64>()
    }

    #[test]
    fn pixels_and_label_are_found_together() {
        let (network, pictures, observed) = secret();
        let oracle = GradientOracle::new(network, |n: &SmallNetwork, x: Tensor<2>| {
            let scores = n.scores(x.clone().narrow(1, 0, PIXELS));
            soft_label_loss(scores, x.narrow(1, PIXELS, CLASSES))
        })
        .unwrap();
        let objective = |x: &Tensor<2>| oracle.matched(x, &observed, Distance::SquaredError);
        let config = DlgConfig {
            rounds: 20,
            ..DlgConfig::default()
        };
        let size = [1, PIXELS + CLASSES];
        let found = dlg(&objective, size, config, 1, &Device::flex()).unwrap();
        let found_pictures = found.unknowns.clone().narrow(1, 0, PIXELS);
        let worst = error(&found_pictures, &pictures);
        assert!(worst < 0.05, "{worst} {}", found.cost);
        let label = found.unknowns.narrow(1, PIXELS, CLASSES).argmax(1);
        assert_eq!(label.into_scalar::<i64>(), 2);
    }

    #[test]
    fn pixels_are_found_by_the_cosine() {
        let (network, pictures, observed) = secret();
        let oracle =
            GradientOracle::new(network, |n: &SmallNetwork, x| label_loss(n.scores(x), &[2]))
                .unwrap();
        let objective = |x: &Tensor<2>| oracle.matched(x, &observed, Distance::Cosine);
        let config = InvertingConfig {
            steps: 800,
            signed: false,
            prior: PixelPrior {
                total_variation: 0.0,
                norm: 0.0,
            },
            ..InvertingConfig::default()
        };
        let found = inverting_gradients(&objective, 1, [1, 3, 3], config, 1, &Device::flex());
        let found = found.unwrap();
        let worst = error(&found.pictures, &pictures);
        assert!(worst < 0.05, "{worst} {}", found.cost);
    }
}
