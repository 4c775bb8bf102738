//! UniPC: a predictor and a corrector in the logarithm of the signal-to-noise ratio.
//!
//! Like [`dpm_solver_multistep`](crate::dpm_solver_multistep), this is an exponential integrator of the
//! predicted picture in `λ = −ln σ`. Each step also corrects its starting point with the prediction made
//! there, without another network call. From `x` at `λ` to `λ' = λ + h`, with `m_0` the prediction at `x`,
//! `m_i` those before it, `r_i = (λ_i − λ)/h` and `D_i = (m_i − m_0)/r_i`,
//!
//! ```text
//! predictor  x' = √((1 − ᾱ')/(1 − ᾱ)) x + √ᾱ' (1 − e^{−h}) m_0 − √ᾱ' B Σ_{i<p} ρ_i D_i
//! corrector  the same with one more term, D = m' − m_0 of the prediction m' at the predicted x'
//! ```
//!
//! where the `ρ` solve `Σ_i ρ_i r_i^{k−1} = k! φ_{k+1}(−h) (−h) / B` for `k = 1, 2, …` (`r = 1` for the
//! corrector's last term), `φ_{k+1}(z) = (φ_k(z) − 1/k!)/z`, `φ_1(z) = (e^z − 1)/z`, and `B` is `−h`
//! ([`UniPcB::B1`]) or `e^{−h} − 1` ([`UniPcB::B2`]). With a single unknown, `ρ = 1/2`.
//!
//! The noise can be integrated instead of the picture ([`UniPc::of_noise`]): then `m` is `ε̂`, `h`
//! stands for `−h` in `φ`, `e` and `B`, `x` is multiplied by `√(ᾱ'/ᾱ)`, and the rest by `√(1 − ᾱ')`.
//!
//! Source: Zhao, Bai, Rao, Zhou, Lu, *UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of
//! Diffusion Models*, 2023, arXiv 2302.04867, algorithms 5 to 8.

use burn::config::Config;
use burn::tensor::Tensor;
use faer::Mat;
use faer::linalg::solvers::Solve;

use crate::asking::{Asking, Reading};
use crate::level::{Level, Levels};
use crate::phi::phi;
use crate::sampler::{Grid, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip, check_order};

/// The function `B(h)`.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum UniPcB {
    /// `B = −h`, better in fewer than 10 steps without guidance.
    B1,
    /// `B = e^{−h} − 1`.
    B2,
}

/// The sampler; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct UniPc {
    /// The number of predictions that the predictor uses, 1 to 3. Default 2.
    #[config(default = 2)]
    pub order: usize,
    /// `B(h)`. Default [`UniPcB::B2`].
    #[config(default = "UniPcB::B2")]
    pub b: UniPcB,
    /// Whether to integrate the noise instead of the picture. Default false.
    #[config(default = false)]
    pub of_noise: bool,
    /// The number of first steps that are not corrected, which helps with strong guidance. Default 0.
    #[config(default = 0)]
    pub uncorrected_steps: usize,
    /// Whether the order falls towards the end, to 1 in the last step. A last step to `σ = 0` always has
    /// order 1. Default true.
    #[config(default = true)]
    pub lower_order_final: bool,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

/// The point from which a step continues.
struct Point<const D: usize> {
    level: Level,
    /// `m`
    value: Tensor<D>,
}

impl<const D: usize> Solver<D> for UniPc {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        levels.check_sigmas()?;
        check_order("UniPC", self.order, 3)?;
        // The latest first.
        let mut points: Vec<Point<D>> = Vec::new();
        let mut corrected: Option<(Tensor<D>, usize)> = None;
        Ok(steps(
            move |x: Tensor<D>, index, ask: &mut Asking<'_, D>| {
                let (level, to) = (levels.level(index), levels.level_after(index));
                let asked = x.clone();
                let answer = ask.ask(x, index, level)?;
                let value = match self.of_noise {
                    true => answer.epsilon,
                    false => answer.sample,
                };
                let done = levels.steps() - 1 - index;
                let mut x = answer.x.clone();
                if let Some((start, order)) = corrected.take()
                    && done > self.uncorrected_steps
                {
                    x = self.update(start, &points[..order], level, Some(&value));
                    if answer.moved {
                        // The state changed by the guidance keeps its distance from the corrected one.
                        x = x + (answer.x - asked);
                    }
                }
                points.insert(0, Point { level, value });
                points.truncate(self.order);
                let mut order = points.len();
                if self.lower_order_final {
                    order = order.min(index + 1);
                }
                if to.noise() == 0.0 {
                    order = 1;
                }
                let next = self.update(x.clone(), &points[..order], to, None);
                corrected = Some((x, order));
                Ok(next)
            },
        ))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn grid(&self) -> Grid {
        Grid::WithoutLowest
    }
}

impl UniPc {
    /// The step from the latest of `points` to the level `to`, corrected with the prediction there if it is
    /// known.
    fn update<const D: usize>(
        &self,
        x: Tensor<D>,
        points: &[Point<D>],
        to: Level,
        ahead: Option<&Tensor<D>>,
    ) -> Tensor<D> {
        let Point { level, value } = &points[0];
        let minus_h = (to.sigma() / level.sigma()).ln();
        if minus_h == 0.0 {
            return x;
        }
        let ratio = |other: Level| (other.sigma() / level.sigma()).ln() / minus_h;
        let mut ratios: Vec<f64> = points[1..].iter().map(|p| ratio(p.level)).collect();
        let mut differences: Vec<Tensor<D>> = points[1..]
            .iter()
            .zip(&ratios)
            .map(|(p, r)| (p.value.clone() - value.clone()) / *r)
            .collect();
        if let Some(ahead) = ahead {
            ratios.push(1.0);
            differences.push(ahead.clone() - value.clone());
        }
        let (z, keep, scale, first) = match self.of_noise {
            // √(1 − ᾱ') (e^h − 1) = √ᾱ' (σ − σ'), finite towards σ' = 0.
            true => (
                -minus_h,
                to.signal() / level.signal(),
                to.noise(),
                to.signal() * (level.sigma() - to.sigma()),
            ),
            false => (
                minus_h,
                to.noise() / level.noise(),
                to.signal(),
                to.signal() * minus_h.exp_m1(),
            ),
        };
        let b = match self.b {
            UniPcB::B1 => z,
            UniPcB::B2 => z.exp_m1(),
        };
        let mut next = x * keep - value.clone() * first;
        for (weight, difference) in weights(&ratios, z, b).into_iter().zip(differences) {
            next = next - difference * (scale * b * weight);
        }
        next
    }
}

/// The weights `ρ` for the ratios `r`.
///
/// - `z`: `−h`, or `h` if the noise is integrated
fn weights(ratios: &[f64], z: f64, b: f64) -> Vec<f64> {
    let count = ratios.len();
    if count < 2 {
        return vec![0.5; count];
    }
    let matrix = Mat::from_fn(count, count, |k, i| ratios[i].powi(k as i32));
    let mut factorial = 1.0;
    let right = Mat::from_fn(count, 1, |k, _| {
        factorial *= (k + 1) as f64;
        factorial * phi(k + 2, z) * z / b
    });
    let solution = matrix.partial_piv_lu().solve(&right);
    (0..count).map(|i| solution[(i, 0)]).collect()
}
