//! GGL: a generator's latent vector without derivatives, through what the attacker supposes of the defence.
//!
//! ```text
//! z* = argmin_z  ‖𝒯(∇_w ℓ(f(G(z)), y)) − g*‖²/P + λ R(z)        by CMA-ES from z ~ N(0, I)
//! R(z) = KL(N(m, s²) ‖ N(0, 1)) = ½ (m² + s² − 1 − ln s²)        m, s² the mean and variance of the numbers of z
//! ```
//!
//! with the number `P` of the network's parameter tensors, and the mean of `R` over a batch's pictures, whose latent
//! vectors are searched together. Since nothing is differentiated, `𝒯` may be any transformation, and a
//! cost takes one backward pass instead of three: a generation of 50 points costs as much as 17 steps of an attack that
//! follows slopes. The labels are [inferred](super::labels) from the sums of the last layer's rows, as in the source.
//!
//! **The transformation.** The attacker knows which defence is used, but not how strong it is, and reads this from the
//! gradient that it sees ([`supposed`]):
//!
//! | defence | 𝒯 of the attacker's own gradient |
//! |---|---|
//! | none, noise | identity: noise of mean 0 adds the same on average to every guess's cost |
//! | clipping | clipping to `‖g*‖`, the bound wherever something was clipped |
//! | sparsification | the share of zeros in `g*`, as a percentile of each parameter's magnitudes |
//! | Soteria | 0 where `g*` is |
//! | sketch | the sketch, whose matrix is public |
//! | DP | clipping to the norm `C`, which is public with a DP mechanism |
//!
//! The last two are ours; the source has no such defences.
//!
//! **Where paper and code differ.** The official code divides the squared error by `P` and has no factor for it, which is
//! done here, since the default `λ = 0.1` belongs to it. For BigGAN it has no `R` but `G(tanh z)`, which keeps the numbers
//! of `z` within one deviation or so: [`GglConfig::truncated`]. It begins at uniform numbers in `[0, 1]`, the paper at
//! normal ones. It asks nevergrad's CMA-ES 50 times before it answers, whose own generations have `4 + ⌊3 ln d⌋` points; here
//! a generation has 50. For noise the code for CelebA adds fresh noise to every guess's gradient, that for ImageNet
//! nothing. The code attacks single pictures only.
//!
//! Source: Li, Zhang, Liu, Liu, *Auditing Privacy Defenses in Federated Learning via Generative Gradient Leakage*, CVPR
//! 2022, arXiv 2203.15696; zhuohangli/GGL for the defaults.

use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range;
use nabla_grad::covariance_adaptation::{AdaptationError, CovarianceAdaptation};
use nabla_grad::flat::ParameterLayout;
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use super::defence::{Defence, Observed};
use super::error::LeakageError;
use super::gradient_oracle::norm;
use super::inverting_gradients::Recovered;
use super::staged_generator::StagedGenerator;

/// Configuration of [`ggl`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GglConfig {
    /// Generations of CMA-ES. Default 500.
    pub generations: usize,
    /// Points of a generation, at least 4. Default 50.
    pub candidates: usize,
    /// The first standard deviation. Default 1.
    pub deviation: f64,
    /// `λ`. Default 0.1.
    pub divergence: f64,
    /// Whether the generator gets `tanh z`. Default false.
    pub truncated: bool,
}

impl Default for GglConfig {
    fn default() -> Self {
        Self {
            generations: 500,
            candidates: 50,
            deviation: 1.0,
            divergence: 0.1,
            truncated: false,
        }
    }
}

impl GglConfig {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), LeakageError> {
        range::at_least("number of generations", self.generations, 1)?;
        range::at_least("number of points in a generation", self.candidates, 4)?;
        range::positive("first deviation of the search", self.deviation)?;
        Ok(range::not_negative(
            "weight of the latent vector's divergence",
            self.divergence,
        )?)
    }
}

/// What the attacker supposes of an observed gradient, by the kind of the defence and what it sees; the strength in
/// `defence` is looked at only where it is public.
///
/// - `layout`: of the network's parameters
///
/// # Errors
/// If the observed values cannot be read, or are not finite.
pub fn supposed(
    observed: &Observed,
    defence: Defence,
    layout: &ParameterLayout,
) -> Result<Observed, LeakageError> {
    Ok(match defence {
        Defence::None
        | Defence::Noise { .. }
        | Defence::Soteria { .. }
        | Defence::Sketch { .. } => observed.clone(),
        Defence::Clip { .. } => observed.supposed_clipped(norm(&observed.values)?),
        Defence::Private { norm, .. } => observed.supposed_clipped(norm),
        Defence::Sparsify { .. } => {
            let values = observed.numbers()?;
            let zeros = values.iter().filter(|v| **v == 0.0).count();
            let percentile = 100.0 * zeros as f64 / values.len().max(1) as f64;
            observed.supposed_sparsified(percentile, layout)
        }
    })
}

/// `R(z)`: how far the numbers of a latent vector are from normal ones.
///
/// ```
/// use nabla_private::leakage::ggl::divergence;
///
/// assert!(divergence(&[1.0, -1.0]).abs() < 1e-9);
/// // Moved by 2, of the same variance: 2²/2.
/// assert!((divergence(&[3.0, 1.0]) - 2.0).abs() < 1e-9);
/// ```
pub fn divergence(latent: &[f64]) -> f64 {
    let count = latent.len().max(1) as f64;
    let mean = latent.iter().sum::<f64>() / count;
    let variance = latent.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / count;
    // Equal numbers have a finite divergence, as in the official code.
    0.5 * (mean * mean + variance - 1.0 - (variance + 1e-10).ln())
}

/// Searches pictures through a generator, and returns those of the best point of all generations.
///
/// - `cost`: `‖𝒯(g(x)) − g*‖²` of pictures, `[batch, pixels]`
/// - `tensors`: `P`, the number of the network's parameter tensors
///
/// # Errors
/// If a setting is out of range, or no point has a finite cost.
pub fn ggl(
    cost: &dyn Fn(&Tensor<2>) -> Result<f64, LeakageError>,
    generator: &dyn StagedGenerator,
    batch: usize,
    tensors: usize,
    config: GglConfig,
    seed: u64,
    device: &Device,
) -> Result<Recovered, LeakageError> {
    config.validate()?;
    range::at_least("number of parameter tensors", tensors, 1)?;
    let device = device.clone().without_autodiff();
    let latent = generator.latent();
    let pictures = |point: &[f64]| {
        let z = point.iter().map(|&z| match config.truncated {
            true => z.tanh() as f32,
            false => z as f32,
        });
        let z = TensorData::new(z.collect(), [batch, latent]);
        let z = Tensor::<2>::from_data(z, &device);
        generator.pictures(0, z).without_autodiff()
    };
    let start = SeededNoise::new(seed, START).normal_values(batch * latent);
    let start = start.into_iter().map(f64::from).collect();
    let mut search = CovarianceAdaptation::new(start, config.deviation, config.candidates, seed)?;
    let mut best: Option<(f64, f64, Vec<f64>)> = None;
    for _ in 0..config.generations {
        let generation = search.draw()?;
        let mut values = Vec::with_capacity(config.candidates);
        for point in generation.points() {
            let error = match cost(&pictures(point)) {
                Ok(error) => error,
                // The last place in the order.
                Err(error) if error.is_of_one_start() => f64::INFINITY,
                Err(error) => return Err(error),
            };
            let apart = match config.truncated {
                true => 0.0,
                false => point.chunks_exact(latent).map(divergence).sum::<f64>() / batch as f64,
            };
            let value = error / tensors as f64 + config.divergence * apart;
            if value.is_finite() && best.as_ref().is_none_or(|best| value < best.0) {
                best = Some((value, error, point.to_vec()));
            }
            values.push(value);
        }
        match search.learn(&generation, &values) {
            // It has shrunk to a point: the best one stands.
            Err(AdaptationError::Diverged) => break,
            learnt => learnt?,
        }
    }
    let (_, cost, point) = best.ok_or(LeakageError::NoRestart)?;
    Ok(Recovered {
        pictures: pictures(&point),
        cost,
    })
}

/// The stream of the seed for the start; those of the generations follow from 0.
const START: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leakage::defence::Hidden;
    use crate::leakage::small_network::{SmallNetwork, Units, label_loss};
    use crate::leakage::two_stages::{TwoStages, squared_distance};
    use crate::leakage::{Distance, GradientOracle};

    fn quick() -> GglConfig {
        GglConfig {
            generations: 60,
            candidates: 10,
            divergence: 0.0,
            ..GglConfig::default()
        }
    }

    /// What a generator can make is found without slopes, for a batch too, and the same seed gives the same bits.
    #[test]
    fn pictures_of_the_generator_are_found() {
        let latent = [[0.7_f32, -0.4], [-1.0, 0.3]];
        let device = Device::flex();
        for batch in [1, 2] {
            let data = TensorData::new(latent[..batch].as_flattened().to_vec(), [batch, 2]);
            let z = Tensor::<2>::from_data(data, &device);
            let made: Vec<f32> = TwoStages.pictures(0, z).into_data().iter().collect();
            let targets: Vec<[f32; 4]> = made.chunks(4).map(|p| [p[0], p[1], p[2], p[3]]).collect();
            let objective = squared_distance(&targets);
            let cost = |x: &Tensor<2>| Ok(objective(x)?.cost);
            let search = || ggl(&cost, &TwoStages, batch, 1, quick(), 5, &device).unwrap();
            let found = search();
            assert!(found.cost < 1e-6, "{batch}: {}", found.cost);
            assert_eq!(found.cost, search().cost);
        }
    }

    #[test]
    fn the_regulariser_keeps_latent_vectors_near_normal_ones() {
        // The cost falls without end as the pixel grows, to which only the regulariser puts an end.
        let cost = |x: &Tensor<2>| Ok(1.0 - x.clone().max().into_scalar::<f64>());
        let brightest = |divergence| {
            let config = GglConfig {
                divergence,
                ..quick()
            };
            ggl(&cost, &TwoStages, 1, 1, config, 1, &Device::flex())
                .unwrap()
                .cost
        };
        assert!(brightest(0.0) < 0.5 * brightest(1.0));
    }

    fn network() -> (SmallNetwork, Tensor<2>) {
        let device = Device::flex();
        let network = SmallNetwork::new([4, 8, 3], Units::Sigmoid, 2, &device).unwrap();
        (
            network,
            Tensor::from_floats([[0.9, 0.2, 0.6, 0.5]], &device),
        )
    }

    /// Each defence's strength is read from what is seen: the supposed transformation gives the observed gradient for
    /// the true picture, so that its cost is 0.
    #[test]
    fn the_true_picture_costs_nothing_under_what_is_supposed() {
        let (network, secret) = network();
        let loss = |n: &SmallNetwork, x| label_loss(n.scores(x), &[1]);
        let oracle = GradientOracle::new(network, loss).unwrap();
        let gradient = oracle.gradient(&secret).unwrap();
        let bound = 0.5 * norm(&gradient).unwrap();
        let weight = oracle
            .layout()
            .entry("output.weight")
            .unwrap()
            .name()
            .to_owned();
        let hidden = Hidden {
            weight,
            features: vec![1, 4],
        };
        for defence in [
            Defence::None,
            Defence::Clip { norm: bound },
            Defence::Sparsify { percentile: 50.0 },
            Defence::Soteria { share: 0.2 },
            Defence::Private {
                norm: bound,
                noise: 0.0,
            },
            Defence::Sketch {
                share: 0.5,
                family: nabla_grad::sketch::SketchFamily::Count,
            },
        ] {
            let gradients = std::slice::from_ref(&gradient);
            let observed = defence.protect(gradients, oracle.layout(), &hidden, 3);
            // The strength is not looked at, but for DP, where it is public.
            let kind = match defence {
                Defence::Clip { .. } => Defence::Clip { norm: 77.0 },
                Defence::Sparsify { .. } => Defence::Sparsify { percentile: 77.0 },
                other => other,
            };
            let seen = supposed(&observed.unwrap(), kind, oracle.layout()).unwrap();
            let cost = |x: &Tensor<2>| oracle.cost(x, &seen, Distance::SquaredError).unwrap();
            assert!(cost(&secret) < 1e-8, "{defence:?}: {}", cost(&secret));
            assert!(cost(&(secret.clone() * 0.5)) > 1e-5, "{defence:?}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let cost = |_: &Tensor<2>| Ok(0.0);
        for config in [
            GglConfig {
                candidates: 3,
                ..quick()
            },
            GglConfig {
                deviation: 0.0,
                ..quick()
            },
            GglConfig {
                divergence: -1.0,
                ..quick()
            },
        ] {
            let found = ggl(&cost, &TwoStages, 1, 1, config, 0, &Device::flex());
            assert!(matches!(found, Err(LeakageError::Range(_))));
        }
        let never = |_: &Tensor<2>| Err(LeakageError::NotFinite("a cost"));
        let found = ggl(&never, &TwoStages, 1, 1, quick(), 0, &Device::flex());
        assert!(matches!(found, Err(LeakageError::NoRestart)));
    }
}
