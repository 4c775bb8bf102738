//! Kinetic-optimal paths: the path on which the flow from noise to *your* data moves least.
//!
//! On a Gaussian path `x_t = a_t x_1 + m_t ε` (here `t` runs from the noise at 0 to the data at 1), every schedule
//! `(a_t, m_t)` gives the same map from noise to data. They differ in the kinetic energy of the flow on the way,
//!
//! ```text
//! KE = (1/d) ∫ E‖u_t(x_t)‖² dt = ∫ ρ̇² + ρ² κ(θ) θ̇² dt,   a = ρ sin θ,   m = ρ cos θ
//! ```
//!
//! which depends on the data only through one function of one number, the *data separation function*, in one of two
//! forms ([`DataSeparation`]). With `z = r x_1 + ε`, `x̂ = E[x_1 | z]` and `r = tan θ`:
//!
//! ```text
//! λ(r) = E‖x̂‖²/d,   κ(θ) = 1 − (1 − λ)(1 + r²) = (1 + r²) E‖x̂ − r z/(1 + r²)‖²/d,   both in [0, 1]
//! ```
//!
//! `κ` is 0 for data of a normal distribution and 1 for points that are far apart. The second form of `κ` is never
//! negative, however it is estimated.
//!
//! The metric `dρ² + ρ² κ dθ²` is flat: with `φ(θ) = ∫_0^θ √κ` and `Φ = φ(π/2)`, the shortest path is the chord of a
//! sector of angle `Φ`, in closed form:
//!
//! ```text
//! ρ_t² = 1 − 2t(1 − t)(1 − cos Φ),   tan φ_t = t sin Φ/(1 − t + t cos Φ),   KE = 2 − 2 cos Φ
//! ```
//!
//! It solves `θ̇ = sin Φ/(ρ² √κ(θ))`, the ordinary differential equation of the paper. For points that are far apart,
//! `Φ = π/2`, and it is the straight line `a = t, m = 1 − t` ("Cond-OT"). [`KineticOptimal`] is this path as a
//! [`NoisePath`], so that every sampler runs on it and every denoiser here can be asked on it.
//!
//! # What to know
//! - The data must have mean 0 and mean square 1 ([`normalized`]).
//! - The path depends on the data, but the distribution of exact samples does not depend on the path. Which error a
//!   number of steps makes depends on the stepper as well: near the noise, `a` rises like a root of `t`, and a DDIM
//!   step there is a large one in a direction that is not known yet.
//! - Near the noise `κ` is near 0 and the derivative of `a` unbounded; [`KineticOptimal::FLOOR`] bounds it.
//! - Noise-free points have `κ(π/2) = 1`, data on a smooth `k`-dimensional set `1 − k/d` ([`Boundary`]).
//!
//! In this crate times run the other way, from the data at 0 to the noise at 1: `time = 1 − t`.
//!
//! ```
//! use nabla_diffusion::kinetic_optimal::{DataSeparation, KineticOptimal, SeparationConfig, kinetic_energy};
//! use nabla_diffusion::level::StraightLine;
//!
//! // Two points on a line, at ±1.
//! let separation = DataSeparation::of_points(&[-1.0, 1.0], 1, &SeparationConfig::new())?;
//! let path = KineticOptimal::new(separation.clone())?;
//! let straight = kinetic_energy(&StraightLine::new(), &separation);
//! assert!(path.energy() < 0.6 * straight);
//!
//! let levels = path.levels(10)?; // for any sampler
//! assert_eq!(levels.steps(), 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Shaul, Chen, Nickel, Le, Lipman, *On Kinetic Optimal Probability Paths for Generative Models*, 2023,
//! arXiv 2306.06626.

use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

use nabla_base::range::{self, OutOfRange};

use crate::level::{Level, Levels, NoisePath};
use crate::schedule::ScheduleError;

mod separation;

pub use separation::{
    Boundary, DataSeparation, Normalized, SeparationConfig, SeparationError, normalized,
};

/// Why there is no kinetic-optimal path.
#[derive(Debug, thiserror::Error)]
pub enum KineticOptimalError {
    /// Every path along the circle has the energy 0.
    #[error(
        "the data separation function is 0 everywhere, as for data of a normal distribution: no path is better \
         than a variance-preserving one, whose kinetic energy is 0"
    )]
    NoSeparation,
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

/// The path; see the [module documentation](self). Its times are those of the crate, in `[0, 1]`, the data at 0.
#[derive(Clone, Debug)]
pub struct KineticOptimal {
    separation: DataSeparation,
    /// `Φ`
    angle: f64,
}

impl KineticOptimal {
    /// The least `κ` that the path takes into account; it bounds the derivatives near the ends.
    pub const FLOOR: f64 = 1e-4;

    /// The path for this data separation, whose values below [`FLOOR`](Self::FLOOR) are raised to it.
    ///
    /// # Errors
    /// If it is 0 everywhere.
    pub fn new(separation: DataSeparation) -> Result<Self, KineticOptimalError> {
        Self::with_floor(separation, Self::FLOOR)
    }

    /// The same with another floor.
    ///
    /// - `floor`: above 0 and below 1
    ///
    /// # Errors
    /// If the floor is out of range, or `κ` is below it everywhere.
    pub fn with_floor(separation: DataSeparation, floor: f64) -> Result<Self, KineticOptimalError> {
        let fits = floor > 0.0 && floor < 1.0;
        range::check(
            fits,
            "floor of the data separation",
            floor,
            "above 0 and below 1",
        )?;
        if separation.largest() <= floor {
            return Err(KineticOptimalError::NoSeparation);
        }
        let separation = separation.raised_to(floor);
        let angle = separation.angle();
        Ok(Self { separation, angle })
    }

    /// `Φ`, the angle of the sector, in `(0, π/2]`.
    pub fn angle(&self) -> f64 {
        self.angle
    }

    /// `2 − 2 cos Φ`, the kinetic energy for each dimension.
    pub fn energy(&self) -> f64 {
        4.0 * (0.5 * self.angle).sin().powi(2)
    }

    /// The levels of `steps` evenly spaced times, from 0.999 down to the data at 0: at time 1 there is no signal, and
    /// `σ` is infinite.
    ///
    /// # Errors
    /// If there are no steps.
    pub fn levels(&self, steps: usize) -> Result<Levels, ScheduleError> {
        Levels::evenly(Arc::new(self.clone()), Self::START, steps)
    }

    /// Where a run starts.
    const START: f64 = 0.999;

    /// `ρ_t` and `θ_t` at the paper's time `t`.
    pub fn polar(&self, t: f64) -> [f64; 2] {
        let radius = self.radius(t);
        let (sine, cosine) = self.angle.sin_cos();
        let theta = match t {
            t if t <= 0.0 => 0.0,
            t if t >= 1.0 => FRAC_PI_2,
            t => self
                .separation
                .theta_of_phi((t * sine).atan2(1.0 - t + t * cosine)),
        };
        [radius, theta]
    }

    fn radius(&self, t: f64) -> f64 {
        (1.0 - t * (1.0 - t) * self.energy()).sqrt()
    }

    fn level(time: f64, [radius, theta]: [f64; 2]) -> Level {
        let (signal, noise) = theta.sin_cos();
        // cos(π/2) is not exactly 0.
        let noise = if theta == FRAC_PI_2 { 0.0 } else { noise };
        Level::new(time, radius * signal, radius * noise)
    }
}

impl NoisePath for KineticOptimal {
    fn level_at(&self, time: f64) -> Level {
        let time = time.clamp(0.0, 1.0);
        Self::level(time, self.polar(1.0 - time))
    }

    fn level_of_sigma(&self, sigma: f64) -> Level {
        let theta = FRAC_PI_2 - sigma.atan();
        let phi = self.separation.phi(theta);
        let t = phi.sin() / (phi.sin() + (self.angle - phi).sin());
        Self::level(1.0 - t, [self.radius(t), theta])
    }

    fn times(&self) -> [f64; 2] {
        [0.0, 1.0]
    }

    /// `ȧ = ρ̇ sin θ + ρ θ̇ cos θ`, `ṁ = ρ̇ cos θ − ρ θ̇ sin θ`, with `ρρ̇ = −(1 − 2t)(1 − cos Φ)` and
    /// `θ̇ = sin Φ/(ρ² √κ)`.
    fn rates_at(&self, time: f64) -> [f64; 2] {
        let t = 1.0 - time.clamp(0.0, 1.0);
        let [radius, theta] = self.polar(t);
        let outward = -(1.0 - 2.0 * t) * 0.5 * self.energy() / radius;
        let turning = self.angle.sin() / (radius.powi(2) * self.separation.kappa(theta).sqrt());
        let (sine, cosine) = theta.sin_cos();
        // The crate's time runs the other way.
        [
            -(outward * sine + radius * turning * cosine),
            -(outward * cosine - radius * turning * sine),
        ]
    }

    fn smooth_at(&self, time: f64) -> (Level, f64) {
        let level = self.level_at(time);
        let [signal, noise] = self.rates_at(time);
        (
            level,
            2.0 * (signal / level.signal() - noise / level.noise()),
        )
    }
}

/// The number of intervals in which a path's energy is measured.
const INTERVALS: usize = 20_000;

/// The kinetic energy of any path for each dimension, with its time scaled to a length of 1.
///
/// Between two near times, the least energy is that of the chord: it is never overestimated, and exact in the limit.
///
/// - `path`: for data of mean 0 and mean square 1
pub fn kinetic_energy(path: &dyn NoisePath, separation: &DataSeparation) -> f64 {
    let [first, last] = path.times();
    let place = |k: usize| {
        let level = path.level_at(first + (last - first) * k as f64 / INTERVALS as f64);
        let theta = level.signal().atan2(level.noise());
        [level.scale(), separation.phi(theta)]
    };
    let mut before = place(0);
    let mut sum = 0.0;
    for k in 1..=INTERVALS {
        let after = place(k);
        let half = (0.5 * (after[1] - before[1])).sin();
        sum += (after[0] - before[0]).powi(2) + 4.0 * after[0] * before[0] * half * half;
        before = after;
    }
    sum * INTERVALS as f64
}

#[cfg(test)]
mod tests;
