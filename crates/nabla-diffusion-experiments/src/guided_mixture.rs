//! Mixtures of Gaussians with classes, whose denoiser is exact: what a guidance does there is its own.

use burn::tensor::{Device, Tensor};
use nabla_claims::{Bench, Cell, ClaimError, Metric, Stage, Table, Task, Variant};
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::denoiser::{Condition, Denoiser, GaussianMixture, MixturePart, RowConditions};
use nabla_diffusion::guidance::Guidance;
use nabla_diffusion::sampler::{Sampler, Sampling};
use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_train::sliced_wasserstein::{SliceDirections, WassersteinOrder, sliced_wasserstein};
use serde::{Deserialize, Serialize};

/// A mixture and how it is sampled.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    pub(crate) model: GaussianMixture,
    pub(crate) steps: usize,
    pub(crate) points: usize,
}

impl Mixture {
    /// `modes` equal Gaussians on a circle of radius 1, of a quarter of the distance between neighbours, with the
    /// classes in turn.
    pub(crate) fn ring(
        modes: usize,
        classes: usize,
        deviation: f64,
    ) -> Result<GaussianMixture, ClaimError> {
        let parts = (0..modes).map(|k| {
            let angle = std::f64::consts::TAU * k as f64 / modes as f64;
            MixturePart {
                class: k % classes,
                weight: 1.0,
                mean: vec![angle.cos(), angle.sin()],
                deviation,
            }
        });
        GaussianMixture::new(parts.collect()).map_err(ClaimError::experiment)
    }

    /// The number of values of a point.
    fn width(&self) -> usize {
        self.model.parts()[0].mean.len()
    }

    /// The class of each point: all in turn.
    pub(crate) fn classes(&self) -> Vec<usize> {
        (0..self.points).map(|i| i % self.model.classes()).collect()
    }

    pub(crate) fn sampler(&self) -> Result<Sampler<2>, ClaimError> {
        let schedule = NoiseScheduleConfig::new().init();
        let schedule = schedule.and_then(|all| all.respace(Spacing::Trailing, self.steps));
        let schedule = schedule.map_err(ClaimError::experiment)?;
        Sampler::new(Ddim::new(), schedule).map_err(ClaimError::experiment)
    }

    /// Points of DDIM under a guidance, `[points, width]`.
    ///
    /// - `itself`: whether the guidance knows the classes of the rows itself
    pub(crate) fn drawn(
        &self,
        guidance: &mut dyn Guidance<2>,
        itself: bool,
        seed: u64,
    ) -> Result<Tensor<2>, ClaimError> {
        let mut noise = SeededNoise::new(seed, 0);
        let start = noise.normal([self.points, self.width()], &Device::flex());
        let conditions = self.classes().into_iter().map(Condition::Given).collect();
        let rows = RowConditions::new(&self.model, conditions);
        let model: &dyn Denoiser<2> = match itself {
            true => &self.model,
            false => &rows,
        };
        let sampling = Sampling::of(model).guided_by(guidance);
        sampling
            .run(&self.sampler()?, start, &mut noise)
            .map_err(ClaimError::experiment)
    }

    /// Points of the mixture itself, with the same classes.
    pub(crate) fn true_points(&self, seed: u64) -> Vec<Vec<f64>> {
        let mut noise = SeededNoise::new(seed, 7);
        let drawn = noise.normal([self.points, self.width()], &Device::flex());
        let numbers = rows(drawn);
        let of_class = |class| {
            let parts = self.model.parts().iter();
            parts
                .filter(move |part| part.class == class)
                .collect::<Vec<_>>()
        };
        let classes = self.model.classes();
        numbers
            .into_iter()
            .enumerate()
            .map(|(i, z)| {
                let parts = of_class(i % classes);
                // Equal weights, so the parts take turns.
                let part = parts[i / classes % parts.len()];
                let each = z.iter().zip(&part.mean);
                each.map(|(z, mean)| mean + part.deviation * z).collect()
            })
            .collect()
    }

    /// `ln p(x | class)` up to a constant of the class.
    fn log_density(&self, x: &[f64], class: usize) -> f64 {
        let parts = self.model.parts().iter().filter(|part| part.class == class);
        let terms: Vec<f64> = parts
            .map(|part| {
                let distance: f64 = x.iter().zip(&part.mean).map(|(x, m)| (x - m).powi(2)).sum();
                let variance = part.deviation * part.deviation;
                part.weight.ln() - 0.5 * (distance / variance + x.len() as f64 * variance.ln())
            })
            .collect();
        let most = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + terms
            .iter()
            .map(|term| (term - most).exp())
            .sum::<f64>()
            .ln()
    }

    /// The share of points that are less likely under their class than 99 % of true points, in per cent.
    pub(crate) fn off_support(&self, points: &[Vec<f64>], truth: &[Vec<f64>]) -> f64 {
        let classes = self.model.classes();
        let density = |points: &[Vec<f64>]| -> Vec<f64> {
            let each = points.iter().enumerate();
            each.map(|(i, x)| self.log_density(x, i % classes))
                .collect()
        };
        let mut known = density(truth);
        known.sort_by(f64::total_cmp);
        let bound = known[known.len() / 100];
        let outside = density(points).into_iter().filter(|d| *d < bound).count();
        100.0 * outside as f64 / points.len() as f64
    }

    /// The mean over the classes of a distance between drawn and true points of a class.
    pub(crate) fn mean_over_classes(
        &self,
        drawn: &[Vec<f64>],
        truth: &[Vec<f64>],
        distance: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> f64,
    ) -> f64 {
        let classes = self.model.classes();
        let of = |points: &[Vec<f64>], class: usize| -> Vec<Vec<f64>> {
            let each = points.iter().skip(class).step_by(classes);
            each.cloned().collect()
        };
        let each = (0..classes).map(|class| distance(&of(drawn, class), &of(truth, class)));
        each.sum::<f64>() / classes as f64
    }

    /// The share of points of which the exact classifier says their class, in per cent.
    pub(crate) fn accuracy(&self, points: &[Vec<f64>]) -> f64 {
        let classes = self.model.classes();
        let right = points.iter().enumerate().filter(|(i, x)| {
            let own = self.log_density(x, i % classes);
            (0..classes).all(|class| self.log_density(x, class) <= own)
        });
        100.0 * right.count() as f64 / points.len() as f64
    }
}

/// Guidances that are compared on a mixture at several scales.
pub(crate) struct MixtureContest<'a> {
    pub(crate) mixture: &'a Mixture,
    /// The task of a scale.
    pub(crate) task: fn(f64) -> Task,
    pub(crate) scales: &'a [f64],
    pub(crate) variants: &'a [Variant],
    /// The experiment's own metric.
    pub(crate) own: &'a Metric,
    /// The sliced Wasserstein distance, the mean over the classes.
    pub(crate) distance: &'a Metric,
}

/// What is measured of the points that were drawn.
#[derive(Serialize, Deserialize)]
struct Found {
    own: f64,
    distance: f64,
}

impl MixtureContest<'_> {
    /// Draws with every seed, and records both metrics.
    ///
    /// - `drawn`: the points of a variant at a scale with a seed
    /// - `own`: the experiment's own metric, of drawn and of true points
    pub(crate) fn run(
        &self,
        bench: &Bench<'_>,
        table: &mut Table,
        drawn: impl Fn(&Variant, f64, u64) -> Result<Tensor<2>, ClaimError>,
        own: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> f64,
    ) -> Result<(), ClaimError> {
        let mut points = Vec::new();
        for &seed in bench.seeds() {
            for &scale in self.scales {
                points.extend(self.variants.iter().map(|variant| (seed, scale, variant)));
            }
        }
        let mixture = self.mixture;
        let found = bench.measure(
            &Stage::new("ring", &(mixture.points, mixture.steps)),
            &points,
            |&(seed, scale, variant)| Cell::of(&(self.task)(scale)).variant(variant).seed(seed),
            |&(seed, scale, variant)| {
                let drawn = rows(drawn(variant, scale, seed)?);
                let truth = mixture.true_points(seed);
                Ok(Found {
                    own: own(&drawn, &truth),
                    distance: mixture.mean_over_classes(&drawn, &truth, sliced),
                })
            },
        )?;
        for ((seed, scale, variant), found) in points.into_iter().zip(found) {
            let task = (self.task)(scale);
            table.record(&task, variant, self.own, seed, found.own)?;
            table.record(&task, variant, self.distance, seed, found.distance)?;
        }
        Ok(())
    }
}

/// The rows of a tensor.
fn rows(points: Tensor<2>) -> Vec<Vec<f64>> {
    let [_, width] = points.dims();
    let values: Vec<f64> = points.to_data().iter::<f64>().collect();
    values.chunks(width).map(<[f64]>::to_vec).collect()
}

/// The sliced Wasserstein distance (of order 2) of two sets of equally many points of two numbers, over 64 even
/// directions.
fn sliced(one: &[Vec<f64>], other: &[Vec<f64>]) -> f64 {
    let distance = SliceDirections::even(64).and_then(|directions| {
        let [one, other] = [one, other].map(<[Vec<f64>]>::concat);
        sliced_wasserstein(&one, &other, WassersteinOrder::Second, &directions)
    });
    distance.unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_diffusion::guidance::ClassifierFree;

    /// Without guidance the exact denoiser draws the mixture, and true points are true points.
    #[test]
    fn true_points_are_on_the_support() {
        let mixture = Mixture {
            model: Mixture::ring(8, 4, 0.1).unwrap(),
            steps: 50,
            points: 2000,
        };
        let [one, other] = [0, 1].map(|seed| mixture.true_points(seed));
        assert!(mixture.off_support(&one, &other) < 2.5);
        assert!(mixture.accuracy(&one) > 99.0);
        let plain = ClassifierFree::new().with_scale(1.0);
        let drawn = rows(mixture.drawn(&mut plain.clone(), false, 0).unwrap());
        assert!(sliced(&drawn, &one) < 0.1);
        let shifted: Vec<Vec<f64>> = one.iter().map(|x| vec![x[0] + 0.5, x[1]]).collect();
        // The mean of cos² over the directions is a half.
        let distance = sliced(&one, &shifted);
        assert!((distance - 0.5 / 2f64.sqrt()).abs() < 1e-9, "{distance}");
    }
}
