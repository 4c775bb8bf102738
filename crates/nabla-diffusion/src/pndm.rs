//! PNDM: pseudo numerical methods, which draw pictures in 20 to 100 calls of the network.
//!
//! A classical solver takes a weighted mean of gradients, and follows it along a straight line. A
//! *pseudo* method keeps the weights, but follows DDIM's step, the [`transfer`] `φ`: it stays on the
//! manifold of the noisy data wherever `ε` is exact. From the time `t` to `s < t`, with
//! `e_t = ε_θ(x_t, t)`:
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
//! `SPndm` and `FPndm` converge with the second order: the transfer limits it, not the weights. `Fon` is
//! the classical method that the paper compares with; its derivative is `φ(x, ε, t → t − 1) − x`. `Plms`
//! is the start that Stable Diffusion uses (`skip_prk_steps`).
//!
//! Where the times of the schedule are uneven, the multistep weights are computed for them
//! ([`adams_bashforth`](crate::multistep::adams_bashforth)); the last step counts as long as the one before it.
//!
//! A network that predicts the velocity or the picture is asked for its `ε`. The diffusers library
//! instead combines the network's own outputs ([`PndmConfig::combine_outputs`]), which loses an order
//! for networks that predict the velocity.
//!
//! With whole half steps, `FPndm` makes the same calls as diffusers' `PNDMScheduler` without
//! `skip_prk_steps`. Where the stride of the grid is odd, diffusers takes the picture half a step down,
//! rounded one way, and tells the network a time rounded the other way; here the picture and the network
//! are both at the middle, between two training steps. Where its grid's steps are of several lengths,
//! diffusers takes all as `⌊T/N⌋` long; here each leads to the next level of the grid. On Gaussian
//! data the first changes the result by a fortieth of its error in 8 steps.
//!
//! Sources: Liu, Ren, Lin, Zhao, *Pseudo Numerical Methods for Diffusion Models on Manifolds*, 2022,
//! arXiv 2202.09778, eq. 9 to 14; `Plms` is from the code of Rombach et al., arXiv 2112.10752.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::ddim::transfer;
use crate::denoiser::{
    Denoiser, Prediction, Questions, SamplerError, SamplerHook, check_clip, check_sigmas,
    check_times, sample_without_hook,
};
use crate::multistep::History;
use crate::schedule::{NoiseLevel, NoiseSchedule, sigma_from_alpha_bar};
use crate::seeded_noise::SeededNoise;

/// Which of the methods; see the [module documentation](self).
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

    /// The fewest steps of a schedule for it: the start must not ask about the time behind the end.
    pub fn least_steps(self) -> usize {
        match self.runge_kutta_steps() {
            0 => 2,
            start => start + 1,
        }
    }

    /// Calls of the network in so many steps.
    pub fn calls(self, steps: usize) -> usize {
        match self.runge_kutta_steps() {
            0 => steps + 1,
            start => steps + 3 * start,
        }
    }
}

/// Configuration of [`Pndm`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct PndmConfig {
    /// The method. Default [`PndmMethod::FPndm`].
    #[config(default = "PndmMethod::FPndm")]
    pub method: PndmMethod,
    /// Whether the network's outputs are combined, as in diffusers, and not `ε`: the same for a network
    /// that predicts `ε`, of a lower order for others. Default false.
    #[config(default = false)]
    pub combine_outputs: bool,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl PndmConfig {
    /// The sampler over `schedule`.
    ///
    /// Runge and Kutta's start asks about the time half-way between two steps, and the classical method
    /// about the time one training step on: both are read from the schedule's
    /// [`training`](NoiseSchedule::training). The paper's times are [`Spacing::Leading`] without an offset.
    ///
    /// # Errors
    /// If the schedule has fewer than 4 steps (2 for `SPndm` and `Plms`), its times do not rise, an `ᾱ` is
    /// 0, or `clip` is not positive and finite.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
    /// use nabla_diffusion::pndm::PndmConfig;
    /// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    ///
    /// let device = Device::flex();
    /// let model = GaussianDenoiser::new(
    ///     Tensor::zeros([1, 3, 8, 8], &device),
    ///     Tensor::ones([1, 3, 8, 8], &device) * 0.25,
    ///     Prediction::Epsilon,
    /// );
    /// let training = NoiseScheduleConfig::new().init()?;
    /// let schedule = training.respace(Spacing::Leading { offset: 0 }, 25)?;
    /// let pndm = PndmConfig::new().init(schedule)?;
    /// let mut noise = SeededNoise::new(42, 0);
    /// let start = noise.normal([2, 3, 8, 8], &device);
    /// let pictures = pndm.sample(&model, start, &mut noise)?;
    /// assert_eq!(pictures.dims(), [2, 3, 8, 8]);
    /// assert_eq!(pndm.calls(), 34);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [`Spacing::Leading`]: crate::schedule::Spacing::Leading
    pub fn init(&self, schedule: NoiseSchedule) -> Result<Pndm, SamplerError> {
        check_clip(self.clip)?;
        check_sigmas(&schedule)?;
        let (steps, least) = (schedule.steps(), self.method.least_steps());
        if steps < least {
            return Err(SamplerError::TooFewSteps {
                sampler: self.method.name(),
                steps,
                least,
            });
        }
        check_times(&schedule)?;
        Ok(Pndm {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Pndm {
    schedule: NoiseSchedule,
    config: PndmConfig,
}

/// From where to where a step goes, with the length that the straight lines of the classical method
/// have.
#[derive(Clone, Copy)]
struct Way {
    from: NoiseLevel,
    to: NoiseLevel,
    length: f64,
}

sample_without_hook!(Pndm);

impl Pndm {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Calls of the network for one run.
    pub fn calls(&self) -> usize {
        self.config.method.calls(self.schedule.steps())
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step: standard normal noise, or a
    ///   noised picture; `[batch, channels, height, width]`
    /// - `_noise`: not touched: no step adds any
    /// - `hook`: sees, and may replace, the predicted picture of every call of the network; the calls of
    ///   one step have the same index
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
        let method = self.config.method;
        let mut questions = Questions::new(model, hook, self.config.clip, steps);
        // Gradients at the times of the schedule.
        let mut history = History::new(method.order());
        for index in (0..steps).rev() {
            let done = steps - 1 - index;
            let way = self.way(index);
            let gradient = self.gradient(&mut questions, &x, index, way.from)?;
            let time = way.from.timestep;
            let mean = if done < method.runge_kutta_steps() {
                history.push(time, gradient.clone());
                self.runge_kutta(&mut questions, &x, gradient, index, way)?
            } else if done == 0 {
                history.push(time, gradient.clone());
                let ahead = self.follow(&questions, &x, &gradient, way);
                (gradient + self.gradient(&mut questions, &ahead, index, way.to)?) * 0.5
            } else {
                history.mean(time, gradient, self.time_after(index))
            };
            x = self.follow(&questions, &x, &mean, way);
        }
        Ok(x)
    }

    fn runge_kutta(
        &self,
        questions: &mut Questions<'_, '_>,
        x: &Tensor<4>,
        first: Tensor<4>,
        index: usize,
        way: Way,
    ) -> Result<Tensor<4>, SamplerError> {
        let middle = (way.from.timestep + way.to.timestep) / 2.0;
        let half = Way {
            to: self.schedule.training().level_at(middle),
            length: way.length / 2.0,
            ..way
        };
        let ahead = self.follow(questions, x, &first, half);
        let second = self.gradient(questions, &ahead, index, half.to)?;
        let ahead = self.follow(questions, x, &second, half);
        let third = self.gradient(questions, &ahead, index, half.to)?;
        let ahead = self.follow(questions, x, &third, way);
        let fourth = self.gradient(questions, &ahead, index, way.to)?;
        Ok((first + (second + third) * 2.0 + fourth) / 6.0)
    }

    /// What is averaged: `ε`, the network's output, or the derivative of the classical method.
    fn gradient(
        &self,
        questions: &mut Questions<'_, '_>,
        x: &Tensor<4>,
        index: usize,
        level: NoiseLevel,
    ) -> Result<Tensor<4>, SamplerError> {
        let epsilon = questions.ask(x, index, level)?.epsilon;
        Ok(match self.config.method {
            PndmMethod::Fon => {
                let to = match level.timestep - 1.0 {
                    time if time >= self.schedule.training().timestep(0) => {
                        self.schedule.training().level_at(time).alpha_bar
                    }
                    _ => self.schedule.previous_alpha_bar(0),
                };
                transfer(x.clone(), epsilon, level.alpha_bar, to) - x.clone()
            }
            _ => {
                let kind = self.combined(questions);
                Prediction::Epsilon.convert(kind, epsilon, x.clone(), level)
            }
        })
    }

    fn combined(&self, questions: &Questions<'_, '_>) -> Prediction {
        match self.config.combine_outputs {
            true => questions.prediction(),
            false => Prediction::Epsilon,
        }
    }

    /// Where a mean gradient leads.
    fn follow(
        &self,
        questions: &Questions<'_, '_>,
        x: &Tensor<4>,
        mean: &Tensor<4>,
        way: Way,
    ) -> Tensor<4> {
        let (from, to) = (way.from.alpha_bar, way.to.alpha_bar);
        match self.config.method {
            PndmMethod::Fon => x.clone() + mean.clone() * way.length,
            _ => {
                let kind = self.combined(questions);
                let epsilon = kind.convert(Prediction::Epsilon, mean.clone(), x.clone(), way.from);
                transfer(x.clone(), epsilon, from, to)
            }
        }
    }

    fn way(&self, index: usize) -> Way {
        let from = self.schedule.level(index);
        let alpha_bar = self.schedule.previous_alpha_bar(index);
        let timestep = match index {
            // Behind the first training step, time -1, nothing is left of the noise.
            0 if alpha_bar == 1.0 => -1.0,
            0 => {
                let sigma = sigma_from_alpha_bar(alpha_bar);
                self.schedule.training().timestep_of_sigma(sigma)
            }
            _ => self.schedule.timestep(index - 1),
        };
        Way {
            from,
            to: NoiseLevel {
                timestep,
                alpha_bar,
            },
            length: from.timestep - timestep,
        }
    }

    /// The time to which the multistep weights of a step extend.
    fn time_after(&self, index: usize) -> f64 {
        let time = |i: usize| self.schedule.timestep(i);
        match index {
            0 => 2.0 * time(0) - time(1),
            _ => time(index - 1),
        }
    }
}
