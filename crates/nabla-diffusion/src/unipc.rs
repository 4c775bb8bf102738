//! UniPC: a predictor and a corrector in the logarithm of the signal-to-noise ratio.
//!
//! As [`dpm_solver_multistep`](crate::dpm_solver_multistep), an exponential integrator of the predicted
//! picture in `λ = −ln σ`. Each step also corrects the point it starts from with the prediction made
//! there, at no further call of the network. From `x` at `λ` to `λ' = λ + h`, with `m_0` the prediction
//! at `x`, `m_i` those before it, `r_i = (λ_i − λ)/h` and `D_i = (m_i − m_0)/r_i`,
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
//! Instead of the picture the noise can be integrated ([`UniPcConfig::of_noise`]): then `m` is `ε̂`, `h`
//! stands for `−h` in `φ`, `e` and `B`, `x` is multiplied by `√(ᾱ'/ᾱ)`, and the rest by `√(1 − ᾱ')`.
//!
//! Source: Zhao, Bai, Rao, Zhou, Lu, *UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of
//! Diffusion Models*, 2023, arXiv 2302.04867, algorithms 5 to 8.

use burn::config::Config;
use burn::tensor::Tensor;
use faer::Mat;
use faer::linalg::solvers::Solve;

use crate::denoiser::{
    Denoiser, Questions, SamplerError, SamplerHook, check_clip, check_order, check_sigmas,
    sample_without_hook,
};
use crate::phi::phi;
use crate::schedule::{NoiseLevel, NoiseSchedule};
use crate::seeded_noise::SeededNoise;

/// The function `B(h)`.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum UniPcB {
    /// `B = −h`, better in fewer than 10 steps without guidance.
    B1,
    /// `B = e^{−h} − 1`.
    B2,
}

/// Configuration of [`UniPc`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct UniPcConfig {
    /// How many predictions the predictor uses, 1 to 3. Default 2.
    #[config(default = 2)]
    pub order: usize,
    /// `B(h)`. Default [`UniPcB::B2`].
    #[config(default = "UniPcB::B2")]
    pub b: UniPcB,
    /// Whether the noise is integrated, and not the picture. Default false.
    #[config(default = false)]
    pub of_noise: bool,
    /// How many of the first steps are not corrected: of use with strong guidance. Default 0.
    #[config(default = 0)]
    pub uncorrected_steps: usize,
    /// Whether the order falls towards the end, to 1 in the last step. Towards `σ = 0` the last step has
    /// order 1 in any case. Default true.
    #[config(default = true)]
    pub lower_order_final: bool,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl UniPcConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If the order is not 1 to 3, `clip` is not positive and finite, or an `ᾱ` is 0.
    pub fn init(&self, schedule: NoiseSchedule) -> Result<UniPc, SamplerError> {
        check_clip(self.clip)?;
        check_sigmas(&schedule)?;
        check_order("UniPC", self.order, 3)?;
        Ok(UniPc {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct UniPc {
    schedule: NoiseSchedule,
    config: UniPcConfig,
}

/// What a step goes on from.
struct Point {
    level: NoiseLevel,
    /// `m`
    value: Tensor<4>,
}

sample_without_hook!(UniPc);

impl UniPc {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form; `[batch, channels, height, width]`
    /// - `_noise`: not touched: no step adds any
    /// - `hook`: sees, and may replace, the predicted picture of every step
    ///
    /// # Errors
    /// If the model's output has the wrong shape.
    pub fn sample_with_hook(
        &self,
        model: &dyn Denoiser,
        mut x: Tensor<4>,
        _noise: &mut SeededNoise,
        hook: &mut SamplerHook<'_>,
    ) -> Result<Tensor<4>, SamplerError> {
        let steps = self.schedule.steps();
        let mut questions = Questions::new(model, hook, self.config.clip, steps);
        // The latest first.
        let mut points: Vec<Point> = Vec::new();
        let mut corrected: Option<(Tensor<4>, usize)> = None;
        for index in (0..steps).rev() {
            let level = self.schedule.level(index);
            let denoised = questions.ask(&x, index, level)?;
            let value = match self.config.of_noise {
                true => denoised.epsilon,
                false => denoised.sample,
            };
            let done = steps - 1 - index;
            if let Some((start, order)) = corrected.take()
                && done > self.config.uncorrected_steps
            {
                x = self.update(start, &points[..order], level, Some(&value));
            }
            points.insert(0, Point { level, value });
            points.truncate(self.config.order);
            let to = self.schedule.level_after(index);
            let mut order = points.len();
            if self.config.lower_order_final {
                order = order.min(index + 1);
            }
            if to.alpha_bar == 1.0 {
                order = 1;
            }
            let next = self.update(x.clone(), &points[..order], to, None);
            corrected = Some((x, order));
            x = next;
        }
        Ok(x)
    }

    /// The step from the latest of `points` to the level `to`, corrected by the prediction there if it is
    /// known.
    fn update(
        &self,
        x: Tensor<4>,
        points: &[Point],
        to: NoiseLevel,
        ahead: Option<&Tensor<4>>,
    ) -> Tensor<4> {
        let Point { level, value } = &points[0];
        let minus_h = (to.sigma() / level.sigma()).ln();
        if minus_h == 0.0 {
            return x;
        }
        let ratio = |other: NoiseLevel| (other.sigma() / level.sigma()).ln() / minus_h;
        let mut ratios: Vec<f64> = points[1..].iter().map(|p| ratio(p.level)).collect();
        let mut differences: Vec<Tensor<4>> = points[1..]
            .iter()
            .zip(&ratios)
            .map(|(p, r)| (p.value.clone() - value.clone()) / *r)
            .collect();
        if let Some(ahead) = ahead {
            ratios.push(1.0);
            differences.push(ahead.clone() - value.clone());
        }
        let (z, keep, scale, first) = match self.config.of_noise {
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
        let b = match self.config.b {
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

/// The `ρ` for the `r`.
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
