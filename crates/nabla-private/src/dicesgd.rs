//! DiceSGD: differentially private descent without the bias of clipping, by error feedback.
//!
//! Clipping moves the optimum: gradients that are longer than `C₁` count for less than they should. DiceSGD remembers
//! what was taken off in `e`, which is never released, and gives it back, clipped to `C₂`:
//!
//! ```text
//! e⁰ = 0
//! for t = 0, 1, …:
//!   S  ← each example with probability q                        B = q N
//!   gc ← 1/B Σ_{i∈S} clip(g_i, C₁),   gu ← 1/B Σ_{i∈S} g_i      the second sum is not clipped
//!   v  ← gc + clip(e, C₂)
//!   e  ← e + gu − v                                             the noise never enters
//!   θ  ← step along v + w,   w ~ N(0, σ_w² I)
//! ```
//!
//! A fixed point has `v = 0` and `gu = v`: the mean gradient is 0, without bias, if `C₂` is at least the norm of the mean
//! of the clipped gradients there, for which `C₂ ≥ C₁` suffices. While `‖e‖ ≤ C₂`, `v` is the clipped gradient plus what
//! was taken off one step before.
//!
//! # What is revealed
//! The paper adds the noise of DP-SGD, widened: `σ_w = σ C₁/B · √(1 + 2 C₂²/C₁²)`, counted as DP-SGD's
//! ([`Accounting::Paper`]). That supposes that the gradients before clipping are bounded: one that is much longer enters
//! `e` whole and is paid out over many steps, and an audit of that rule finds far more than it promises.
//! [`Accounting::WorstCase`], the default, holds for any data (derived here): `gc + w_A` is the mechanism of DP-SGD with
//! the multiplier `σ`; `e` may be anything, so that `clip(e, C₂) + w_E` is a Gaussian mechanism without sampling, of
//! the sensitivity `2 C₂` and the multiplier `z`; `σ_w² = (σ C₁/B)² + (z · 2 C₂)²`. It is cheap only if `C₂` is small
//! beside `C₁`.
//!
//! # Where the official code differs
//! It keeps `min(s, 1 − s) e` with `s = min(1, C₂/‖e‖)` of the memory where the paper keeps `(1 − s) e`
//! ([`Carry::Capped`]): the memory cannot grow without limit, but most of what was taken off is forgotten. Its noise has
//! `2 C₂/C₁` under the root where the theory needs the square; the two are the same for `C₂ = C₁`. Both carries are
//! here; the noise is the theory's.
//!
//! Source: Zhang, Bu, Wu, Hong, *Differentially Private SGD Without Clipping Bias: An Error-Feedback Approach*, 2023,
//! arXiv 2311.14632.

use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

use crate::accountant::History;
use crate::release::{Release, Sums};

/// How much of the memory is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carry {
    /// All that is not given back, as in the paper.
    #[default]
    Exact,
    /// At most as much as is given back, as in the official code.
    Capped,
}

/// What the noise protects from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accounting {
    /// Any data.
    #[default]
    WorstCase,
    /// Data whose gradients before clipping are bounded, as the paper supposes.
    Paper,
}

/// How DiceSGD remembers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiceConfig {
    /// The limit of what is given back, in multiples of that of the gradients: `C₂/C₁`. Default 3: with 1, the memory
    /// of gradients much longer than `C₁` drains for thousands of steps.
    pub error_clip: f64,
    /// How much of the memory is kept. Default all.
    pub carry: Carry,
    /// What the noise protects from. Default any data.
    pub accounting: Accounting,
}

impl Default for DiceConfig {
    fn default() -> Self {
        Self {
            error_clip: 3.0,
            carry: Carry::default(),
            accounting: Accounting::default(),
        }
    }
}

impl DiceConfig {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::not_negative("error_clip of DiceSGD", self.error_clip)
    }
}

/// The mean with error feedback; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq)]
pub struct DiceSgd {
    /// How it remembers.
    pub config: DiceConfig,
    /// The limit `C₁` to which gradients are clipped.
    pub clip: f64,
    /// The noise multiplier `σ` of the clipped gradients.
    pub noise_multiplier: f64,
    /// The noise multiplier `z` of what is given back, for [`Accounting::WorstCase`].
    pub error_multiplier: f64,
    /// The sampling rate `q`.
    pub sampling_rate: f64,
    /// Examples `B` that a step is expected to see.
    pub batch: f64,
    /// The memory `e`; empty before the first step.
    error: Vec<f64>,
}

impl DiceSgd {
    /// With nothing remembered.
    pub fn new(
        config: DiceConfig,
        clip: f64,
        [noise_multiplier, error_multiplier]: [f64; 2],
        sampling_rate: f64,
        batch: f64,
    ) -> Self {
        Self {
            config,
            clip,
            noise_multiplier,
            error_multiplier,
            sampling_rate,
            batch,
            error: Vec::new(),
        }
    }

    /// `C₂`.
    fn error_clip(&self) -> f64 {
        self.config.error_clip * self.clip
    }

    /// `σ C₁/B`, the noise of DP-SGD with the same multiplier.
    fn of_gradients(&self) -> f64 {
        self.noise_multiplier * self.clip / self.batch
    }

    /// `σ_w`.
    pub fn deviation(&self) -> f64 {
        let of_gradients = self.of_gradients();
        match self.config.accounting {
            Accounting::Paper => of_gradients * (1.0 + 2.0 * self.config.error_clip.powi(2)).sqrt(),
            Accounting::WorstCase => {
                of_gradients.hypot(self.error_multiplier * 2.0 * self.error_clip())
            }
        }
    }
}

impl Release for DiceSgd {
    fn name(&self) -> &'static str {
        "dice-sgd"
    }

    fn needs_raw(&self) -> bool {
        true
    }

    fn history(&self, steps: u64) -> Result<History, OutOfRange> {
        let gradients = History::new().with(self.noise_multiplier, self.sampling_rate, steps)?;
        match self.config.accounting {
            Accounting::WorstCase if self.config.error_clip > 0.0 => {
                gradients.with(self.error_multiplier, 1.0, steps)
            }
            _ => Ok(gradients),
        }
    }

    fn caveat(&self) -> Option<String> {
        match self.config.accounting {
            _ if self.config.error_clip == 0.0 => None,
            Accounting::Paper => Some(
                "the account is the paper's: it holds only for gradients that are bounded before clipping, and an \
                 example whose gradient is 10 times as long as the clip is revealed more than it says (accounting = \
                 \"worst-case\" holds for any data)"
                    .to_owned(),
            ),
            Accounting::WorstCase => {
                let factor = self.deviation() / self.of_gradients();
                (factor > 2.0).then(|| {
                    format!(
                        "so that the account holds for any data, the noise is {factor:.1} times that of the gradients \
                         alone, because of what is given back: an error_clip below {:.1e} costs little",
                        1.0 / self.batch
                    )
                })
            }
        }
    }

    fn release(&mut self, sums: Sums, noise: Vec<f64>) -> Vec<f64> {
        self.error.resize(sums.clipped.len(), 0.0);
        let norm = nabla_base::vector::norm(&self.error);
        // The part of the memory that is given back.
        let back = match norm {
            0.0 => 1.0,
            norm => (self.error_clip() / norm).min(1.0),
        };
        let kept = match self.config.carry {
            Carry::Exact => 1.0 - back,
            Carry::Capped => back.min(1.0 - back),
        };
        let (deviation, batch) = (self.deviation(), self.batch);
        let sums = sums.clipped.into_iter().zip(sums.raw).zip(noise);
        let released = self.error.iter_mut().zip(sums);
        released
            .map(|(e, ((clipped, raw), w))| {
                let (clipped, raw) = (clipped / batch, raw / batch);
                let v = clipped + back * *e;
                *e = kept * *e + raw - clipped;
                v + deviation * w
            })
            .collect()
    }

    fn state(&self) -> Vec<f64> {
        self.error.clone()
    }

    fn restore(&mut self, state: Vec<f64>) {
        self.error = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dice(ratio: f64, carry: Carry, clip: f64) -> DiceSgd {
        let config = DiceConfig {
            error_clip: ratio,
            carry,
            ..DiceConfig::default()
        };
        DiceSgd::new(config, clip, [0.0, 0.0], 1.0, 1.0)
    }

    /// The step along `v` of a batch of one number.
    fn step(dice: &mut DiceSgd, gradient: f64) -> f64 {
        let clipped = gradient.clamp(-dice.clip, dice.clip);
        let sums = Sums {
            clipped: vec![clipped],
            raw: vec![gradient],
        };
        dice.release(sums, vec![0.0])[0]
    }

    /// `f = ½ (x − 10)²`, one example, `C₁ = C₂ = 1`, rate 1: by hand.
    #[test]
    fn a_quadratic_by_hand() {
        let mut dice = dice(1.0, Carry::Exact, 1.0);
        let mut x = 0.0;
        let path: Vec<[f64; 2]> = (0..3)
            .map(|_| {
                x -= step(&mut dice, x - 10.0);
                [x, dice.state()[0]]
            })
            .collect();
        assert_eq!(path, [[1.0, -9.0], [3.0, -16.0], [5.0, -21.0]]);
    }

    /// `Σ v + e = Σ gu`, whatever the limits are: nothing is lost.
    #[test]
    fn what_is_released_and_remembered_is_what_came() {
        for ratio in [0.0, 0.3, 1.0, 7.0] {
            let mut dice = dice(ratio, Carry::Exact, 0.5);
            let (mut released, mut came) = (0.0, 0.0);
            for t in 0..200 {
                let gradient = 3.0 * f64::from(t).sin();
                released += step(&mut dice, gradient);
                came += gradient;
            }
            assert!((released + dice.state()[0] - came).abs() < 1e-9);
        }
    }

    #[test]
    fn what_is_not_clipped_is_as_it_was() {
        let mut dice = dice(1.0, Carry::Exact, 1e9);
        for t in 0..20 {
            let gradient = f64::from(t).cos();
            assert_eq!(step(&mut dice, gradient), gradient);
            assert_eq!(dice.state(), [0.0]);
        }
    }

    #[test]
    fn the_official_memory_stays_small() {
        let mut capped = dice(1.0, Carry::Capped, 1.0);
        for _ in 0..100 {
            step(&mut capped, 10.0);
            // One gradient less its clip, and at most what is given back.
            assert!(capped.state()[0] <= 9.0 + 1.0);
        }
    }

    #[test]
    fn the_noise_is_that_of_its_account() {
        let of = |accounting| {
            let config = DiceConfig {
                accounting,
                error_clip: 2.0,
                ..DiceConfig::default()
            };
            DiceSgd::new(config, 0.5, [1.5, 0.25], 0.1, 10.0)
        };
        let paper = of(Accounting::Paper);
        assert!((paper.deviation() - 0.075 * 3.0).abs() < 1e-12);
        assert_eq!(paper.history(7).unwrap().phases().len(), 1);
        assert!(paper.caveat().is_some());
        let worst = of(Accounting::WorstCase);
        // Sensitivity 2 C₂ = 2, multiplier 0.25.
        assert!((worst.deviation() - 0.075_f64.hypot(0.5)).abs() < 1e-12);
        let history = worst.history(7).unwrap();
        assert_eq!(history.phases()[1].sampling_rate(), 1.0);
        assert!(worst.caveat().unwrap().contains("6.7 times"));
    }
}
