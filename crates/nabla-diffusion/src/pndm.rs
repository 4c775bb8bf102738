//! PNDM: pseudo numerical methods, which draw pictures with 20 to 100 network calls.
//!
//! A classical solver computes a weighted mean of gradients and follows it along a straight line. A *pseudo*
//! method uses the same weights, but takes DDIM's step, the [`transfer`] `φ`, which stays on the manifold of
//! the noisy data wherever `ε` is exact. From the time `t` to `s < t`, with `e_t = ε_θ(x_t, t)`:
//!
//! ```text
//! improved Euler    e¹ = e_t; x² = φ(x_t, e¹, t → s); e² = ε(x², s);  e' = (e¹ + e²)/2
//! Runge and Kutta   m = (t + s)/2; e¹ = e_t; x² = φ(x_t, e¹, t → m); e² = ε(x², m);
//!                   x³ = φ(x_t, e², t → m); e³ = ε(x³, m); x⁴ = φ(x_t, e³, t → s); e⁴ = ε(x⁴, s)
//!                   e' = (e¹ + 2e² + 2e³ + e⁴)/6
//! linear multistep  e' = (55 e_t − 59 e_{t+δ} + 37 e_{t+2δ} − 9 e_{t+3δ})/24
//! x_s = φ(x_t, e', t → s)
//! ```
//!
//! | [`PndmMethod`] | first steps | then | calls in S steps |
//! |---|---|---|---|
//! | `FPndm` | 3 × Runge and Kutta | linear multistep of order 4 | S + 9 |
//! | `SPndm` | improved Euler | linear multistep of order 2 | S + 1 |
//! | `Plms` | improved Euler | linear multistep of orders 2, 3, 4 | S + 1 |
//! | `Fon` | as `FPndm`, along straight lines | the same | S + 9 |
//!
//! `SPndm` and `FPndm` converge with order 2: the transfer limits the order, not the weights. `Fon` is the
//! classical method with which the paper compares; its derivative is `φ(x, ε, t → t − 1) − x`. `Plms` starts
//! in the way that Stable Diffusion does (`skip_prk_steps`).
//!
//! If the times of the schedule are uneven, the multistep weights are computed for them
//! ([`adams_bashforth`](crate::multistep::adams_bashforth)); the last step is treated as if it were as long
//! as the one before it, unless [`PndmWeights`] says otherwise: where the last step is much longer than the one before
//! it, as in plans that begin to sample late, [`ToEnd`](PndmWeights::ToEnd) is the better one.
//!
//! If a network predicts the velocity or the picture, its output is first converted to `ε`. The diffusers
//! library instead combines the network's own outputs ([`Pndm::combine_outputs`]), which loses one order for
//! networks that predict the velocity.
//!
//! With whole half steps, `FPndm` makes the same calls as diffusers' `PNDMScheduler` without
//! `skip_prk_steps`. If the stride of the grid is odd, diffusers moves the picture half a step, rounded in
//! one direction, and gives the network a time rounded in the other; here both use the exact middle, between
//! two training steps. If the steps of its grid differ in length, diffusers treats all of them as `⌊T/N⌋`
//! long; here each leads to the next level of the grid. On Gaussian data, the first difference changes the
//! result of 8 steps by a fortieth of its error.
//!
//! Sources: Liu, Ren, Lin, Zhao, *Pseudo Numerical Methods for Diffusion Models on Manifolds*, 2022,
//! arXiv 2202.09778, eq. 9 to 14; `Plms` is from the code of Rombach et al., arXiv 2112.10752.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::asking::{Answer, Asking, Reading};
use crate::denoiser::Prediction;
use crate::level::{Level, Levels, transfer};
use crate::multistep::History;
use crate::sampler::{Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip, check_steps};

/// The variant of the method; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum PndmMethod {
    /// Runge and Kutta's start, order 4: the paper's F-PNDM.
    FPndm,
    /// The improved Euler start, order 2: the paper's S-PNDM.
    SPndm,
    /// The improved Euler start, then the highest order up to 4: Stable Diffusion's PLMS.
    Plms,
    /// The classical method of order 4, the paper's baseline.
    Fon,
}

impl PndmMethod {
    fn runge_kutta_steps(self) -> usize {
        match self {
            Self::FPndm | Self::Fon => 3,
            Self::SPndm | Self::Plms => 0,
        }
    }

    fn order(self) -> usize {
        match self {
            Self::SPndm => 2,
            _ => 4,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::FPndm => "F-PNDM",
            Self::SPndm => "S-PNDM",
            Self::Plms => "PLMS",
            Self::Fon => "FON",
        }
    }

    /// The minimum number of steps of a schedule: the start must not need a time after the end.
    pub fn least_steps(self) -> usize {
        match self.runge_kutta_steps() {
            0 => 2,
            start => start + 1,
        }
    }

    /// The number of network calls in `steps` steps.
    pub fn calls(self, steps: usize) -> usize {
        match self.runge_kutta_steps() {
            0 => steps + 1,
            start => steps + 3 * start,
        }
    }
}

/// The times for which the multistep weights are computed.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum PndmWeights {
    /// The times of the steps; the last step as if it were as long as the one before it. On an even grid these are the
    /// well-known fractions.
    AsLong,
    /// The times of the steps; the last step to the time at which no noise is left.
    ToEnd,
    /// An even grid, whatever the times are: as in the code of Stable Diffusion and of AutoDiffusion.
    Even,
}

/// The sampler; see the [module documentation](self).
///
/// Runge and Kutta's start needs the time half-way between two steps, and the classical method the time one
/// [`tick`](crate::level::NoisePath::tick) later: both are taken from the path of the levels. The paper's
/// times are [`Spacing::Leading`] without an offset.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
/// use nabla_diffusion::pndm::Pndm;
/// use nabla_diffusion::sampler::Sampler;
/// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let device = Device::flex();
/// let model = GaussianDenoiser::new(
///     Tensor::<4>::zeros([1, 3, 8, 8], &device),
///     Tensor::ones([1, 3, 8, 8], &device) * 0.25,
///     Prediction::Epsilon,
/// );
/// let training = NoiseScheduleConfig::new().init()?;
/// let schedule = training.respace(Spacing::Leading { offset: 0 }, 25)?;
/// let sampler = Sampler::new(Pndm::new(), schedule)?;
/// let mut noise = SeededNoise::new(42, 0);
/// let start = noise.normal([2, 3, 8, 8], &device);
/// let pictures = sampler.sample(&model, start, &mut noise)?;
/// assert_eq!(pictures.dims(), [2, 3, 8, 8]);
/// assert_eq!(sampler.calls(), 34);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`Spacing::Leading`]: crate::schedule::Spacing::Leading
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Pndm {
    /// The method. Default [`PndmMethod::FPndm`].
    #[config(default = "PndmMethod::FPndm")]
    pub method: PndmMethod,
    /// Whether to combine the network's outputs, as in diffusers, instead of `ε`. For a network that predicts
    /// `ε` there is no difference; for others the order is lower. Default false.
    #[config(default = false)]
    pub combine_outputs: bool,
    /// The weights of the multistep steps. Default [`PndmWeights::AsLong`].
    #[config(default = "PndmWeights::AsLong")]
    pub weights: PndmWeights,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

impl<const D: usize> Solver<D> for Pndm {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        levels.check_sigmas()?;
        let method = self.method;
        check_steps(method.name(), levels.steps(), method.least_steps())?;
        levels.check_times()?;
        // Gradients at the times of the levels.
        let mut history = History::new(method.order());
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let done = levels.steps() - 1 - index;
            let way = way(levels, index);
            let run = Run {
                pndm: self,
                levels,
                index,
                kind: match self.combine_outputs {
                    true => ask.kind(),
                    false => Prediction::Epsilon,
                },
            };
            let (x, gradient) = run.gradient(ask, x, way.from)?;
            let [time, after] = self.nodes(levels, index, way);
            let mean = if done < method.runge_kutta_steps() {
                history.push(time, gradient.clone());
                run.runge_kutta(ask, &x, gradient, way)?
            } else if done == 0 {
                history.push(time, gradient.clone());
                let ahead = run.follow(&x, &gradient, way);
                (gradient + run.gradient(ask, ahead, way.to)?.1) * 0.5
            } else {
                history.mean(time, gradient, after)
            };
            Ok(run.follow(&x, &mean, way))
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn calls(&self, steps: usize) -> usize {
        self.method.calls(steps)
    }

    fn least_steps(&self) -> usize {
        self.method.least_steps()
    }
}

impl Pndm {
    /// The places of the beginning and of the end of a step, for the multistep weights.
    fn nodes(&self, levels: &Levels, index: usize, way: Way) -> [f64; 2] {
        let time = way.from.time();
        match self.weights {
            PndmWeights::AsLong => [time, time_after(levels, index)],
            PndmWeights::ToEnd => [time, way.to.time()],
            PndmWeights::Even => [index as f64, index as f64 - 1.0],
        }
    }
}

/// The start and the end of a step, with the length of the classical method's straight line.
#[derive(Clone, Copy)]
struct Way {
    from: Level,
    to: Level,
    length: f64,
}

fn way(levels: &Levels, index: usize) -> Way {
    let (from, to) = (levels.level(index), levels.level_after(index));
    let path = levels.path();
    let time = match index {
        0 if to.noise() == 0.0 => path.clean_time(),
        0 => path.level_of_sigma(to.sigma()).time(),
        _ => to.time(),
    };
    Way {
        from,
        to: to.with_time(time),
        length: from.time() - time,
    }
}

/// The time up to which the multistep weights of a step integrate.
fn time_after(levels: &Levels, index: usize) -> f64 {
    let time = |i: usize| levels.level(i).time();
    match index {
        0 => 2.0 * time(0) - time(1),
        _ => time(index - 1),
    }
}

/// A step of a run.
struct Run<'a> {
    pndm: &'a Pndm,
    levels: &'a Levels,
    index: usize,
    /// What is combined.
    kind: Prediction,
}

impl Run<'_> {
    fn runge_kutta<const D: usize>(
        &self,
        ask: &mut Asking<'_, D>,
        x: &Tensor<D>,
        first: Tensor<D>,
        way: Way,
    ) -> Result<Tensor<D>, SamplerError> {
        let middle = (way.from.time() + way.to.time()) / 2.0;
        let half = Way {
            to: self.levels.path().level_at(middle),
            length: way.length / 2.0,
            ..way
        };
        let ahead = self.follow(x, &first, half);
        let (_, second) = self.gradient(ask, ahead, half.to)?;
        let ahead = self.follow(x, &second, half);
        let (_, third) = self.gradient(ask, ahead, half.to)?;
        let ahead = self.follow(x, &third, way);
        let (_, fourth) = self.gradient(ask, ahead, way.to)?;
        Ok((first + (second + third) * 2.0 + fourth) / 6.0)
    }

    /// The state from which the step continues, and the value that is averaged: `ε`, the network's output, or
    /// the derivative of the classical method.
    fn gradient<const D: usize>(
        &self,
        ask: &mut Asking<'_, D>,
        x: Tensor<D>,
        level: Level,
    ) -> Result<(Tensor<D>, Tensor<D>), SamplerError> {
        let Answer { x, epsilon, .. } = ask.ask(x, self.index, level)?;
        let gradient = match self.pndm.method {
            PndmMethod::Fon => {
                let path = self.levels.path();
                let tick = path.tick();
                let to = match level.time() - tick {
                    time if time >= path.times()[0] => path.level_at(time),
                    _ => self.levels.end(),
                };
                let moved = transfer(x.clone(), epsilon, level, to) - x.clone();
                match tick == 1.0 {
                    true => moved,
                    false => moved / tick,
                }
            }
            _ => Prediction::Epsilon.convert(self.kind, epsilon, x.clone(), level),
        };
        Ok((x, gradient))
    }

    /// The state to which a mean gradient leads.
    fn follow<const D: usize>(&self, x: &Tensor<D>, mean: &Tensor<D>, way: Way) -> Tensor<D> {
        match self.pndm.method {
            PndmMethod::Fon => x.clone() + mean.clone() * way.length,
            _ => {
                let kind = Prediction::Epsilon;
                let epsilon = self.kind.convert(kind, mean.clone(), x.clone(), way.from);
                transfer(x.clone(), epsilon, way.from, way.to)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::denoiser::GaussianDenoiser;
    use crate::sampler::Sampler;
    use crate::schedule::{NoiseSchedule, NoiseScheduleConfig};
    use crate::seeded_noise::SeededNoise;

    /// The distance of a run of PLMS to the exact flow of Gaussian data.
    fn error(weights: PndmWeights, steps: &[usize]) -> f64 {
        let full = |value: f64| Tensor::<2>::full([1, 1], value, (&Device::flex(), DType::F64));
        let model = GaussianDenoiser::new(full(0.0), full(0.25), Prediction::Epsilon);
        let training: NoiseSchedule = NoiseScheduleConfig::new().init().unwrap();
        let levels: Levels = training.respace_to(steps).unwrap().into();
        let exact = model.transport(full(1.0), levels.start(), levels.end());
        let plms = Pndm::new()
            .with_method(PndmMethod::Plms)
            .with_weights(weights);
        let sampler = Sampler::new(plms, levels).unwrap();
        let drawn = sampler.sample(&model, full(1.0), &mut SeededNoise::new(0, 0));
        (drawn.unwrap() - exact).abs().into_scalar()
    }

    #[test]
    fn weights_for_the_times_of_uneven_steps_are_better_than_even_ones() {
        let all = [PndmWeights::AsLong, PndmWeights::ToEnd, PndmWeights::Even];
        // The last step is shorter than the one before it.
        let shorter = [9, 60, 130, 220, 330, 460, 610, 780, 970];
        let [long, to_end, even] = all.map(|weights| error(weights, &shorter));
        println!("as long {long:.2e}, to the end {to_end:.2e}, even {even:.2e}");
        assert!(long < to_end && to_end < even);
        // It is much longer.
        let longer = [200, 230, 280, 350, 450, 600, 780, 970];
        let [long, to_end, even] = all.map(|weights| error(weights, &longer));
        println!("as long {long:.2e}, to the end {to_end:.2e}, even {even:.2e}");
        assert!(to_end < 0.2 * long && to_end < 0.2 * even);
        // On an even grid they are the same, but for the last step.
        let grid: Vec<usize> = (0..10).map(|k| 100 * k + 99).collect();
        let [long, to_end, even] = all.map(|weights| error(weights, &grid));
        assert!((long - even).abs() < 1e-9, "{long} and {even}");
        assert!((to_end - even).abs() < 1e-9, "{to_end} and {even}");
    }
}
