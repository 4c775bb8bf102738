//! Follows the velocity of the path itself, in the path's own time.
//!
//! ```text
//! v(x, t) = a_t' x̂_0 + m_t' ε̂,   dx/dt = v(x, t)
//! ```
//!
//! with the derivatives of signal and noise by the path's time. The samplers that step from one level to the next
//! (DDIM's increments `Δa x̂_0 + Δm ε̂`) only know which levels are visited, not how fast the path goes. On the straight
//! line that is the same; on the [kinetic-optimal path](crate::kinetic_optimal), on which the first step is the longest,
//! it is not: its advantage is that of a velocity that changes little.
//!
//! The solver is a method of Runge and Kutta ([`OdeMethod`]) or Adams and Bashforth. The step to a sample without noise is
//! DDIM's: it ends at `x̂_0`, and no network is asked where it has nothing to predict.
//!
//! Source: Lipman et al., *Flow Matching for Generative Modeling*, 2023, arXiv 2210.02747, section 4.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::asking::{Answer, Asking, Reading};
use crate::level::{Level, Levels, transfer};
use crate::ode_method::{OdeMethod, adams_weights, plus};
use crate::sampler::{Grid, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip};

/// The sampler; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct FlowVelocity {
    /// How the equation is solved. Default [`OdeMethod::Heun`].
    #[config(default = "OdeMethod::Heun")]
    pub method: OdeMethod,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

impl<const D: usize> Solver<D> for FlowVelocity {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        levels.check_times()?;
        let count = levels.steps();
        let length = |index: usize| {
            let to = match index {
                // The end of a schedule has the time of its cleanest step.
                0 => levels.path().level_of_sigma(levels.end().sigma()),
                _ => levels.level_after(index),
            };
            to.time() - levels.level(index).time()
        };
        let lengths: Vec<f64> = (0..count).rev().map(length).collect();
        let mut before: Option<Tensor<D>> = None;
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let (from, to) = (levels.level(index), levels.level_after(index));
            let answer = ask.ask(x, index, from)?;
            if to.noise() == 0.0 {
                return Ok(transfer(answer.x, answer.epsilon, from, to));
            }
            let velocity = |answer: &Answer<D>, level: Level| {
                let [signal, noise] = levels.path().rates_at(level.time());
                answer.sample.clone() * signal + answer.epsilon.clone() * noise
            };
            let (first, x) = (velocity(&answer, from), answer.x);
            let Some(tableau) = self.method.tableau() else {
                let weights = adams_weights(&lengths, count - 1 - index);
                let mut slopes = vec![first.clone()];
                slopes.extend(before.replace(first));
                return Ok(plus(x, &slopes, &weights, 1.0));
            };
            let mut first = Some(first);
            tableau.step(x, length(index), |node, ahead| match first.take() {
                Some(first) => Ok(first),
                None => {
                    let time = from.time() + node * length(index);
                    let level = levels.path().level_at(time);
                    let answer = ask.ask(ahead, index, level)?;
                    Ok(velocity(&answer, level))
                }
            })
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn calls(&self, steps: usize) -> usize {
        // A run ends without noise as a rule.
        let each = self.method.calls();
        (each * steps).saturating_sub(each - 1)
    }

    fn grid(&self) -> Grid {
        Grid::Interpolated
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::{DType, Device};

    use super::*;
    use crate::ddim::Ddim;
    use crate::denoiser::{GaussianDenoiser, Prediction};
    use crate::kinetic_optimal::{DataSeparation, KineticOptimal};
    use crate::level::{NoisePath, StraightLine};
    use crate::sampler::Sampler;
    use crate::seeded_noise::SeededNoise;

    const MEAN: f64 = 0.4;
    const VARIANCE: f64 = 0.3;

    fn model() -> GaussianDenoiser {
        let full = |value: f64| Tensor::<4>::full([1; 4], value, &Device::flex()).cast(DType::F64);
        GaussianDenoiser::new(full(MEAN), full(VARIANCE), Prediction::Sample)
    }

    fn start(level: Level) -> Tensor<4> {
        let noise = SeededNoise::new(3, 0).normal([8, 1, 1, 1], &Device::flex());
        noise.cast(DType::F64) * level.scale()
    }

    /// The flow takes every quantile of normal data to the same quantile.
    fn transported(x: Tensor<4>, from: Level, to: Level) -> Tensor<4> {
        let deviation =
            |level: Level| (level.signal().powi(2) * VARIANCE + level.noise().powi(2)).sqrt();
        (x - from.signal() * MEAN) * (deviation(to) / deviation(from)) + to.signal() * MEAN
    }

    fn error(path: &KineticOptimal, method: OdeMethod, steps: usize) -> f64 {
        let time = |k: usize| 0.2 + 0.7 * k as f64 / steps as f64;
        let visited = (1..=steps).map(|k| path.level_at(time(k))).collect();
        let levels = Levels::new(visited, path.level_at(0.2), Arc::new(path.clone())).unwrap();
        let (from, to) = (levels.start(), levels.end());
        let sampler = Sampler::new(FlowVelocity::new().with_method(method), levels).unwrap();
        let x = start(from);
        let found = sampler.sample(&model(), x.clone(), &mut SeededNoise::new(0, 0));
        let difference = found.unwrap() - transported(x, from, to);
        difference.abs().max().into_scalar::<f64>()
    }

    #[test]
    fn every_method_has_its_order_on_the_kinetic_optimal_path() {
        let kappa = (0..=40).map(|k| f64::from(k) / 40.0).collect();
        let path = KineticOptimal::new(DataSeparation::new(kappa).unwrap()).unwrap();
        for (method, steps) in [
            (OdeMethod::Euler, 40),
            (OdeMethod::Midpoint, 40),
            (OdeMethod::Heun, 40),
            (OdeMethod::Adams2, 40),
        ] {
            let order = (error(&path, method, steps) / error(&path, method, 2 * steps)).log2();
            let expected = method.order() as f64;
            assert!((order - expected).abs() < 0.35, "{method:?}: {order}");
        }
        // κ has corners, which bound what the fourth order gains.
        assert!(error(&path, OdeMethod::RungeKutta4, 20) < 0.1 * error(&path, OdeMethod::Heun, 20));
    }

    #[test]
    fn on_the_straight_line_eulers_method_is_ddim() {
        let levels = StraightLine::new().with_start(0.99).levels(9).unwrap();
        let drawn = |sampler: Sampler| {
            let x = start(levels.start());
            sampler
                .sample(&model(), x, &mut SeededNoise::new(0, 0))
                .unwrap()
        };
        let euler = FlowVelocity::new().with_method(OdeMethod::Euler);
        let ours = Sampler::new(euler, levels.clone()).unwrap();
        assert_eq!(ours.calls(), 9);
        let difference = drawn(ours) - drawn(Sampler::new(Ddim::new(), levels.clone()).unwrap());
        assert!(difference.abs().max().into_scalar::<f64>() < 1e-12);
        let heun = Sampler::<4>::new(FlowVelocity::new(), levels.clone()).unwrap();
        assert_eq!(heun.calls(), 17);
        assert!(Sampler::<4>::new(FlowVelocity::new().with_clip(Some(-1.0)), levels).is_err());
    }
}
