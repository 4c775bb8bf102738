//! DPM-Solver and DPM-Solver++: multistep exponential integrators in the logarithm of the signal-to-noise
//! ratio.
//!
//! In `λ = ln(√ᾱ/√(1 − ᾱ)) = −ln σ` the linear part of the diffusion equation is solved exactly, and only the
//! network's prediction is interpolated. A step from `λ` to `λ' = λ + h` is
//!
//! ```text
//! x' = a x + c z (φ_1(z) D_0 + φ_2(z) D_1 + φ_3(z) D_2) + s ζ
//! ```
//!
//! with fresh noise `ζ`, the `φ` functions of exponential integrators, and
//!
//! | [`DpmAlgorithm`] | what is interpolated | `a` | `z` | `c` | `s` |
//! |---|---|---|---|---|---|
//! | `DpmSolverPlusPlus` | `x̂_0` | `√((1 − ᾱ')/(1 − ᾱ))` | `−h` | `−√ᾱ'` | 0 |
//! | `SdeDpmSolverPlusPlus` | `x̂_0` | `√((1 − ᾱ')/(1 − ᾱ)) e^{−h}` | `−2h` | `−√ᾱ'` | `√(1 − ᾱ') √(1 − e^{−2h})` |
//! | `DpmSolver` | `ε̂` | `√(ᾱ'/ᾱ)` | `h` | `−√(1 − ᾱ')` | 0 |
//! | `SdeDpmSolver` | `ε̂` | `√(ᾱ'/ᾱ)` | `h` | `−2 √(1 − ᾱ')` | `√(1 − ᾱ') √(e^{2h} − 1)` |
//!
//! `D_0 + D_1 (u/h) + D_2 (u/h)²` is the polynomial, in the time `u` since the step's start, through the
//! last 1, 2 or 3 predictions; order 1 uses `D_0` alone; without noise it is DDIM. Order 2 has `φ_1/2`
//! instead of `φ_2` with [`DpmSolverType::Midpoint`].
//!
//! The exact integral of the quadratic term is `2 φ_3`. [`ThirdOrder::Exact`] uses it, and converges with
//! order 3 (as far as there is no noise). The authors' code, diffusers and k-diffusion all use `φ_3`, which leaves an error of `h³` in
//! every step, so they converge with order 2, with a small constant. [`ThirdOrder::Diffusers`] gives the same
//! pictures as they do. Both differ from diffusers in one sign: in the third order of its `sde-dpmsolver++` a
//! constant 1/2 has the wrong sign, so that the weight of `D_2` does not vanish with the step; here the sign
//! is that of k-diffusion's `sample_dpmpp_3m_sde`.
//!
//! Sources: Lu, Zhou, Bao, Chen, Li, Zhu, *DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model
//! Sampling in Around 10 Steps*, 2022, arXiv 2206.00927 (`ε̂`); the same, *DPM-Solver++: Fast Solver for
//! Guided Sampling of Diffusion Probabilistic Models*, 2022, arXiv 2211.01095, algorithm 2 and appendix
//! (`x̂_0`, noise). The third order, and the lower orders at the end of runs with fewer than 15 steps, are
//! from their code.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::asking::{Asking, Reading};
use crate::level::{Level, Levels};
use crate::multistep::History;
use crate::phi::phi;
use crate::sampler::{Grid, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip, check_order};
use crate::seeded_noise::SeededNoise;

/// The equation that is solved, and the prediction that is interpolated; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum DpmAlgorithm {
    /// The ordinary equation, interpolating the noise: diffusers' `dpmsolver`.
    DpmSolver,
    /// The ordinary equation, interpolating the picture: `dpmsolver++`.
    DpmSolverPlusPlus,
    /// The stochastic equation, interpolating the noise: `sde-dpmsolver`.
    SdeDpmSolver,
    /// The stochastic equation, interpolating the picture: `sde-dpmsolver++`.
    SdeDpmSolverPlusPlus,
}

impl DpmAlgorithm {
    fn is_stochastic(self) -> bool {
        matches!(self, Self::SdeDpmSolver | Self::SdeDpmSolverPlusPlus)
    }

    fn is_of_sample(self) -> bool {
        matches!(self, Self::DpmSolverPlusPlus | Self::SdeDpmSolverPlusPlus)
    }

    fn name(self) -> &'static str {
        match self {
            Self::DpmSolver => "DPM-Solver",
            Self::DpmSolverPlusPlus => "DPM-Solver++",
            Self::SdeDpmSolver => "SDE-DPM-Solver",
            Self::SdeDpmSolverPlusPlus => "SDE-DPM-Solver++",
        }
    }

    /// Checks that the algorithm can end at the last level.
    pub(crate) fn check_end(self, levels: &Levels) -> Result<(), SamplerError> {
        // Its noise is larger than that of the level it steps to, where it only takes D_0.
        match self == Self::SdeDpmSolver && levels.end().noise() == 0.0 {
            true => Err(SamplerError::FinalSigma {
                sampler: self.name(),
            }),
            false => Ok(()),
        }
    }

    /// The state from which the step continues, and the value that is interpolated.
    pub(crate) fn ask<const D: usize>(
        self,
        ask: &mut Asking<'_, D>,
        x: Tensor<D>,
        index: usize,
        level: Level,
    ) -> Result<Asked<D>, SamplerError> {
        let answer = ask.ask(x, index, level)?;
        Ok(match self.is_of_sample() {
            true => Asked {
                x: answer.x,
                value: answer.sample,
                remembered: answer.remembered,
            },
            false => Asked {
                x: answer.x,
                value: answer.epsilon,
                remembered: None,
            },
        })
    }

    /// The step from `x` at `level` to the level `to`.
    ///
    /// - `differences`: `D_0` and, depending on the order, `D_1/h` and `D_2/h²`
    /// - `weights`: the weights of `D_1` and `D_2`
    pub(crate) fn step<const D: usize>(
        self,
        x: Tensor<D>,
        level: Level,
        to: Level,
        differences: Vec<Tensor<D>>,
        weights: StepWeights,
        noise: &mut SeededNoise,
    ) -> Tensor<D> {
        // Infinite towards σ = 0, where only D_0 counts.
        let decay = to.sigma() / level.sigma();
        let h = -decay.ln();
        // The network's part of the stochastic equation counts twice.
        let twice = if self.is_stochastic() { 2.0 } else { 1.0 };
        let (keep, z, scale, first) = if self.is_of_sample() {
            let keep = to.noise() / level.noise() * decay.powf(twice - 1.0);
            let z = -twice * h;
            (keep, z, -to.signal(), -to.signal() * z.exp_m1())
        } else {
            let fall = to.signal() * (to.sigma() - level.sigma());
            (
                to.signal() / level.signal(),
                h,
                -twice * to.noise(),
                twice * fall,
            )
        };
        let only = differences.len() == 2 && weights.second == DpmSolverType::Midpoint;
        let weight = |k: usize| match k {
            0 => first,
            1 if only => 0.5 * first * h,
            2 if weights.third == ThirdOrder::Exact => 2.0 * scale * z * phi(3, z) * h * h,
            _ => scale * z * phi(k + 1, z) * h.powi(k as i32),
        };
        let mut next = x.clone() * keep;
        for (k, difference) in differences.into_iter().enumerate() {
            next = next + difference * weight(k);
        }
        if self.is_stochastic() {
            let spread = match self.is_of_sample() {
                true => to.noise() * (1.0 - decay * decay).sqrt(),
                // √(1 − ᾱ') √(e^{2h} − 1) = √ᾱ' √(σ² − σ'²)
                false => to.signal() * (level.sigma().powi(2) - to.sigma().powi(2)).max(0.0).sqrt(),
            };
            next = next + noise.normal(x.dims(), &x.device()).cast(x.dtype()) * spread;
        }
        next
    }
}

/// An answer as a step takes it.
pub(crate) struct Asked<const D: usize> {
    /// The state from which the step continues.
    pub(crate) x: Tensor<D>,
    /// The value that is interpolated in this step.
    pub(crate) value: Tensor<D>,
    /// The value that is kept for later steps, if it is another one.
    pub(crate) remembered: Option<Tensor<D>>,
}

/// The weights of the polynomial's terms.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepWeights {
    pub(crate) second: DpmSolverType,
    pub(crate) third: ThirdOrder,
}

impl StepWeights {
    /// `φ_2` and `2 φ_3`.
    pub(crate) const EXACT: Self = Self {
        second: DpmSolverType::Heun,
        third: ThirdOrder::Exact,
    };
}

/// The weight of `D_1` in steps of order 2.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum DpmSolverType {
    /// Half the weight of `D_0`.
    Midpoint,
    /// The weight of the exact integral; diffusers calls it `heun`.
    Heun,
}

/// The weight of `D_2` in steps of order 3; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum ThirdOrder {
    /// `2 φ_3`, the exact integral.
    Exact,
    /// `φ_3`, as in the authors' code, diffusers and k-diffusion, to draw the same pictures.
    Diffusers,
}

/// The sampler; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct DpmSolverMultistep {
    /// The number of predictions that a step uses, 1 to 3 (1 or 2 for [`DpmAlgorithm::SdeDpmSolver`]).
    /// Default 2.
    #[config(default = 2)]
    pub order: usize,
    /// The algorithm. Default [`DpmAlgorithm::DpmSolverPlusPlus`].
    #[config(default = "DpmAlgorithm::DpmSolverPlusPlus")]
    pub algorithm: DpmAlgorithm,
    /// The form of steps of order 2. Default [`DpmSolverType::Midpoint`].
    #[config(default = "DpmSolverType::Midpoint")]
    pub solver_type: DpmSolverType,
    /// The form of steps of order 3. Default [`ThirdOrder::Exact`].
    #[config(default = "ThirdOrder::Exact")]
    pub third_order: ThirdOrder,
    /// Whether, in a schedule of fewer than 15 steps, the last step has order 1 and the one before it at most
    /// order 2. A last step to `σ = 0` always has order 1. Default true.
    #[config(default = true)]
    pub lower_order_final: bool,
    /// Whether the last step has order 1 in any schedule. Default false.
    #[config(default = false)]
    pub euler_at_final: bool,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

/// Needs noise with the stochastic algorithms, once per step.
impl<const D: usize> Solver<D> for DpmSolverMultistep {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        levels.check_sigmas()?;
        let most = match self.algorithm {
            DpmAlgorithm::SdeDpmSolver => 2,
            _ => 3,
        };
        check_order(self.algorithm.name(), self.order, most)?;
        self.algorithm.check_end(levels)?;
        let weights = StepWeights {
            second: self.solver_type,
            third: self.third_order,
        };
        // Over λ.
        let mut history = History::new(self.order);
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let (level, to) = (levels.level(index), levels.level_after(index));
            let asked = self.algorithm.ask(ask, x, index, level)?;
            history.push(level.lambda(), asked.value);
            let order = match index {
                0 if self.euler_at_final => 1,
                _ => order_at(levels, index, self.order, self.lower_order_final),
            };
            let differences = history.polynomial(order);
            if let Some(value) = asked.remembered {
                history.replace_newest(value);
            }
            let step = self.algorithm;
            Ok(step.step(asked.x, level, to, differences, weights, ask.noise()))
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn grid(&self) -> Grid {
        Grid::WithoutLowest
    }
}

/// The maximum number of predictions that a step uses; it falls at the end.
///
/// - `falls`: whether the order falls at the end of a run of fewer than 15 steps
pub(crate) fn order_at(levels: &Levels, index: usize, order: usize, falls: bool) -> usize {
    let falls = falls && levels.steps() < 15;
    match index {
        0 if falls || levels.end().noise() == 0.0 => 1,
        1 if falls => order.min(2),
        _ => order,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::denoiser::{GaussianDenoiser, Prediction};
    use crate::level::alpha_bar_from_sigma;

    /// The state of the stochastic equation without its noise at `λ + way`, by small Runge-Kutta steps from the
    /// state `x` at `λ`, for a model that predicts `x̂_0 = sin x`: `dx/dλ = −(1 + ᾱ) x + 2 √ᾱ sin x`. (With the
    /// right model of a Gaussian, `x̂_0` is constant along this path, and every order is exact.)
    fn without_noise(mut x: f64, mut lambda: f64, way: f64) -> f64 {
        let slope = |x: f64, lambda: f64| {
            let alpha_bar = alpha_bar_from_sigma((-lambda).exp());
            -(1.0 + alpha_bar) * x + 2.0 * alpha_bar.sqrt() * x.sin()
        };
        let count = (way.abs() / 1e-3).ceil();
        let h = way / count.max(1.0);
        for _ in 0..count as usize {
            let first = slope(x, lambda);
            let second = slope(x + 0.5 * h * first, lambda + 0.5 * h);
            let third = slope(x + 0.5 * h * second, lambda + 0.5 * h);
            let fourth = slope(x + h * third, lambda + h);
            x += h / 6.0 * (first + 2.0 * (second + third) + fourth);
            lambda += h;
        }
        x
    }

    /// The error at the end of `steps` even steps of λ from −2 to 2 with order 3, the two predictions before
    /// the first step being exact, in `f64`: what is measured is the step alone, not its start. Of the
    /// stochastic equation, it is the error without noise.
    fn error(algorithm: DpmAlgorithm, third: ThirdOrder, steps: usize) -> f64 {
        let device = Device::flex();
        let full = |value: f64| Tensor::<4>::full([1, 1, 1, 1], value, (&device, DType::F64));
        let model = GaussianDenoiser::new(full(0.4), full(0.09), Prediction::Sample);
        let h = 4.0 / steps as f64;
        let level = |k: i32| {
            let sigma = (2.0 - h * f64::from(k)).exp();
            Level::variance_preserving(0.0, alpha_bar_from_sigma(sigma))
        };
        let start = full(1.3);
        let at = |k: i32| match algorithm.is_stochastic() {
            true => full(without_noise(1.3, -2.0, h * f64::from(k))),
            false => model.transport(start.clone(), level(0), level(k)),
        };
        let value = |x: Tensor<4>, k: i32| {
            if algorithm.is_stochastic() {
                return x.sin();
            }
            let sample = model.answer(x.clone(), level(k));
            match algorithm.is_of_sample() {
                true => sample,
                false => Prediction::Sample.convert(Prediction::Epsilon, sample, x, level(k)),
            }
        };
        let weights = StepWeights {
            second: DpmSolverType::Heun,
            third,
        };
        let mut history = History::new(3);
        for k in [-2, -1] {
            history.push(level(k).lambda(), value(at(k), k));
        }
        let mut x = start.clone();
        for k in 0..steps as i32 {
            history.push(level(k).lambda(), value(x.clone(), k));
            let differences = history.polynomial(3);
            let step = |x, differences| {
                let mut noise = SeededNoise::new(0, k as u64);
                algorithm.step(x, level(k), level(k + 1), differences, weights, &mut noise)
            };
            // What the noise alone adds is taken away again.
            let of_noise = match algorithm.is_stochastic() {
                true => step(full(0.0), vec![full(0.0)]),
                false => full(0.0),
            };
            x = step(x, differences) - of_noise;
        }
        (x - at(steps as i32)).abs().into_scalar()
    }

    #[test]
    fn the_exact_third_order_converges_with_order_3_and_that_of_diffusers_with_2() {
        for algorithm in [
            DpmAlgorithm::DpmSolverPlusPlus,
            DpmAlgorithm::DpmSolver,
            DpmAlgorithm::SdeDpmSolverPlusPlus,
        ] {
            let order = |third| {
                // Below 320 steps the error of the noise's form changes its sign.
                let errors = [640, 1280].map(|steps| error(algorithm, third, steps));
                (errors[0] / errors[1]).log2()
            };
            let (exact, code) = (order(ThirdOrder::Exact), order(ThirdOrder::Diffusers));
            println!("{algorithm:?}: {exact:.3} and {code:.3}");
            assert!((exact - 3.0).abs() < 0.15, "{algorithm:?}: {exact}");
            assert!((code - 2.0).abs() < 0.1, "{algorithm:?}: {code}");
        }
    }

    /// The weight of `D_2` in the stochastic form vanishes with the step as its square does: with diffusers'
    /// sign it would tend to −√ᾱ'.
    #[test]
    fn the_stochastic_third_order_vanishes_with_the_step() {
        let device = Device::flex();
        let full = |value: f64| Tensor::<4>::full([1, 1, 1, 1], value, &device);
        for (third, factor) in [(ThirdOrder::Exact, 2.0), (ThirdOrder::Diffusers, 1.0)] {
            let weights = StepWeights {
                second: DpmSolverType::Heun,
                third,
            };
            let h: f64 = 1e-3;
            let [level, to] = [1.0, (-h).exp()]
                .map(|sigma| Level::variance_preserving(0.0, alpha_bar_from_sigma(sigma)));
            let zero = full(0.0);
            let step = |d_2: f64| {
                // D_2/h² is the coefficient of u².
                let differences = vec![zero.clone(), zero.clone(), full(d_2 / (h * h))];
                let algorithm = DpmAlgorithm::SdeDpmSolverPlusPlus;
                let mut noise = SeededNoise::new(0, 0);
                algorithm.step(zero.clone(), level, to, differences, weights, &mut noise)
            };
            let weight = f64::from((step(1.0) - step(0.0)).into_scalar::<f32>());
            // √ᾱ' 2h φ_3(−2h), and φ_3 is 1/6 at 0.
            let expected = to.signal() * 2.0 * h * factor / 6.0;
            assert!(
                (weight / expected - 1.0).abs() < 1e-2,
                "{weight} for {expected}"
            );
        }
    }
}
