//! Equations as descents in function space, and the two-layer networks that solve them: in any number of dimensions.
//!
//! The minimum of a convex energy solves an elliptic equation, linear or not:
//!
//! ```text
//! E(u) = ∫_Ω L(x, u, ∇u) − f u dx,        DE(u) = ∂_u L − ∇·∂_p L − f = 0
//! ```
//!
//! Steepest descent in the norm of `H¹`, whose preconditioner is `(I − Δ)⁻¹`, converges at a rate that knows nothing of the
//! dimension:
//!
//! ```text
//! u_{t+1} = u_t − η (I − Δ)⁻¹ DE(u_t),      ‖u_t − u*‖ ≤ ((Λ − λ)/(Λ + λ))^t ‖u_0 − u*‖      for η = 2/(λ + Λ)
//! ```
//!
//! and each step takes a function with few frequencies to one with few. The Barron norm `‖u‖ = Σ_ω (1 + ‖ω‖) |û_ω|` grows in a
//! step by a bounded power, so that it is polynomial in the dimension; and a function with a small Barron norm is a two-layer
//! network of few units, which [`TwoLayerNetwork`] draws from the coefficients.
//!
//! The paper proves this and computes nothing. [`SobolevDescent`] runs it, and records in every step the Barron norm with what
//! the theorem allows, which is far more. The paper's recursion assumes that `∂_p L` has a Barron norm bounded by a power of that
//! of `u`, which is not so where it holds slopes, unless frequencies are bounded: so the recursion of a norm of second order,
//! which does hold, is recorded beside it ([`Growth`]).
//!
//! Source: Marwah, Lipton, Lu, Risteski, *Neural Network Approximations of PDEs Beyond Linearity: A Representational
//! Perspective*, 2022, arXiv 2210.12101; the networks: Barron, *Universal approximation bounds for superpositions of a sigmoidal
//! function*, 1993.

use nabla_base::range::{self, OutOfRange};

mod grid_fourier;
mod growth;
mod lagrangian;
mod network;
mod sparse_fourier;
mod spectral;

pub use grid_fourier::GridFourier;
pub use growth::Growth;
pub use lagrangian::{Lagrangian, Quartic};
pub use network::{TwoLayerNetwork, Unit, barron_bound};
pub use sparse_fourier::SparseFourier;
pub use spectral::{Borders, Domain, Spectral};

/// Why there is no function, solution or network.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BarronError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A frequency or a point has another number of coordinates.
    #[error("{found} coordinates for a function of {expected}")]
    Dimensions {
        /// Of the domain.
        expected: usize,
        /// Of the frequency or point.
        found: usize,
    },
    /// Functions on different domains.
    #[error("a function on {0:?} and one on {1:?} have no sum or product")]
    Domains(Domain, Domain),
    /// Functions with different bands of frequencies.
    #[error("a function with frequencies up to {0} and one with up to {1} have no sum or product")]
    Bands(usize, usize),
    /// A frequency is given twice.
    #[error("the frequency {0:?} comes twice, itself or its negative")]
    Twice(Vec<i32>),
    /// A coefficient is not finite.
    #[error("the coefficient of the frequency {0:?} is not finite")]
    NotFinite(Vec<i32>),
    /// The mean is not real.
    #[error("the coefficient of the frequency 0 must be real")]
    NotReal,
    /// Too many frequencies.
    #[error(
        "a function of {0} frequencies is too large, the most are {most}: prune more, or take fewer steps",
        most = SparseFourier::MOST_MODES
    )]
    Modes(usize),
    /// A grid with too many frequencies.
    #[error(
        "all frequencies up to {band} in {dims} dimensions are too many, the most are {most}: take a sparse function",
        most = GridFourier::MOST_MODES
    )]
    Grid {
        /// The band.
        band: usize,
        /// The dimensions.
        dims: usize,
    },
    /// The energy is not known to be convex.
    #[error("the energy is not known to be strictly convex: its least curvature may be {0}")]
    NotConvex(f64),
    /// The right side has a mean, but the equation has no solution then.
    #[error("the right side has the mean {0}, but without a term in u it must be 0")]
    Mean(f64),
    /// A function is not zero at the borders.
    #[error("{0} is not odd in the coordinate {1} (from 0), so that it is not zero at the borders")]
    NotOdd(&'static str, usize),
    /// A step raised the energy.
    #[error(
        "step {step} raised the energy from {before} to {after}: its rate {rate} is too large, or the energy is not convex"
    )]
    Rises {
        /// From 1.
        step: usize,
        /// The step's `η`.
        rate: f64,
        /// Before.
        before: f64,
        /// After.
        after: f64,
    },
    /// A function has no part that a network could be drawn from.
    #[error("the function is constant, so that there is nothing to draw units from")]
    Constant,
    /// Least squares have no solution.
    #[error("the outer weights cannot be fitted: {0}")]
    Fit(&'static str),
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// How long a step is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum StepRule {
    /// `η` itself.
    Fixed(f64),
    /// `η = 2 / (λ + Λ)`, with `Λ` at the present function.
    Convexity,
    /// The longest `η` among halves of the last one's double that lowers the energy by `η/2 ‖(I − Δ)⁻¹ DE‖²`: a bound of `Λ`
    /// holds only near the function at which it is computed. The default.
    #[default]
    Backtracking,
}

/// The norm in which a step is steepest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preconditioner {
    /// `H¹`: steps of `(I − Δ)⁻¹ DE`. The default.
    #[default]
    Sobolev,
    /// None: steps of `DE`, which need `η` below `2 / (Λ (1 + ‖ω‖²))` at the greatest frequency. To compare with.
    None,
}

/// The paper's descent.
///
/// ```
/// use nabla_physics::barron_pde::{Domain, Quartic, SobolevDescent, SparseFourier, Spectral};
///
/// // −Δu + u + 2u³ = f in 20 dimensions.
/// let domain = Domain::periodic(20);
/// let mut k = [0; 20];
/// k[3] = 1;
/// let f = SparseFourier::cosine(domain, &k, 10.0, 0.0)?;
/// let one = SparseFourier::constant(domain, 1.0)?;
/// let equation = Quartic::linear(one.clone(), one)?.with_cubed_value(2.0)?;
/// let solution = SobolevDescent::default().solve(&equation, &f, &f.zero())?;
/// assert!(solution.error_bound < 1e-6);
/// # Ok::<(), nabla_physics::barron_pde::BarronError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SobolevDescent {
    /// The lengths of steps; [`StepRule::Backtracking`] by default.
    pub rule: StepRule,
    /// In which norm steps are steepest; that of `H¹` by default.
    pub preconditioner: Preconditioner,
    /// The most steps; 100 by default.
    pub steps: usize,
    /// The distance from the solution, in the norm of `H¹`, at which the descent ends; `1e-6` by default.
    pub tolerance: f64,
    /// Coefficients below it are left out after each step; `1e-9` by default.
    pub prune: f64,
}

impl Default for SobolevDescent {
    fn default() -> Self {
        Self {
            rule: StepRule::default(),
            preconditioner: Preconditioner::default(),
            steps: 100,
            tolerance: 1e-6,
            prune: 1e-9,
        }
    }
}

/// What is known of an iterate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Iterate {
    /// `η` of the step that led to it; 0 for the start.
    pub rate: f64,
    /// `E(u)`.
    pub energy: f64,
    /// `‖DE(u)‖` in the dual norm of `H¹`: at least `λ` times the distance from the solution.
    pub residual: f64,
    /// `Σ (1 + ‖ω‖) |û_ω|`.
    pub barron_norm: f64,
    /// `Σ (1 + ‖ω‖)² |û_ω|`.
    pub second_norm: f64,
    /// The logarithm of what the paper's recursion allows for the Barron norm.
    pub log_bound: f64,
    /// The logarithm of what the recursion of second order allows for that norm.
    pub log_second_bound: f64,
    /// How many frequencies.
    pub modes: usize,
    /// `Σ |û_ω|` of what was left out after the step: no value has changed by more.
    pub dropped: f64,
}

/// What the descent has found.
#[derive(Clone, Debug)]
pub struct Solution<S> {
    /// `u`.
    pub u: S,
    /// From the start on.
    pub history: Vec<Iterate>,
    /// No further in the norm of `H¹` is `u` from the solution.
    pub error_bound: f64,
    /// Whether that is within the tolerance.
    pub converged: bool,
}

impl SobolevDescent {
    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        if let StepRule::Fixed(rate) = self.rule {
            range::positive("step length", rate)?;
        }
        range::positive("tolerance", self.tolerance)?;
        range::not_negative("least coefficient", self.prune)
    }

    /// From a start to the solution, or as far as the steps go.
    ///
    /// # Errors
    /// If the functions don't fit each other or the borders, the energy is not known to be convex, a step raises it, or there
    /// are too many frequencies.
    pub fn solve<S: Spectral>(
        &self,
        equation: &impl Lagrangian<S>,
        f: &S,
        start: &S,
    ) -> Result<Solution<S>, BarronError> {
        self.validate()?;
        let convexity = equation.convexity();
        if convexity.is_nan() || convexity <= 0.0 {
            return Err(BarronError::NotConvex(convexity));
        }
        equation.check(f)?;
        check_borders("the right side", f)?;
        check_borders("the start", start)?;
        let growth = equation.growth();
        let (dims, right_side) = (f.domain().dims, f.barron_norm());
        let mut at = Point::new(equation, f, start.clone())?;
        let mut history = vec![Iterate {
            log_bound: at.u.barron_norm().ln(),
            log_second_bound: at.u.spectral_norm(2).ln(),
            ..at.iterate()
        }];
        let mut rate = 0.5 / convexity;
        while at.residual > self.tolerance * convexity && history.len() <= self.steps {
            let direction = match self.preconditioner {
                Preconditioner::Sobolev => at.descent.clone(),
                Preconditioner::None => at.gradient.clone(),
            };
            let (moved, next) = self.moved(equation, f, &at, &direction, (history.len(), rate))?;
            rate = next;
            let (u, dropped) = moved.pruned(self.prune);
            let before = std::mem::replace(&mut at, Point::new(equation, f, u)?);
            // A function is convex above its tangent: what was left out raised the energy by no more than this. And sums
            // are rounded.
            let by_pruning = at.residual * dropped.h1_norm();
            let rounding = 1e-12 * before.energy.abs().max(at.energy.abs());
            if at.energy.is_nan() || at.energy > before.energy + by_pruning + rounding {
                return Err(BarronError::Rises {
                    step: history.len(),
                    rate,
                    before: before.energy,
                    after: at.energy,
                });
            }
            let last = history[history.len() - 1];
            history.push(Iterate {
                rate,
                log_bound: growth.next_log_norm(last.log_bound, rate, dims, right_side),
                log_second_bound: growth.next_log_second_norm(
                    last.log_second_bound,
                    rate,
                    dims,
                    right_side,
                ),
                dropped: dropped.spectral_norm(0),
                ..at.iterate()
            });
        }
        let error_bound = at.residual / convexity;
        Ok(Solution {
            u: at.u,
            history,
            error_bound,
            converged: error_bound <= self.tolerance,
        })
    }

    /// The function after a step, and the step's rate.
    ///
    /// - `last`: which step it is, from 1, and the rate of the one before
    fn moved<S: Spectral>(
        &self,
        equation: &impl Lagrangian<S>,
        f: &S,
        at: &Point<S>,
        direction: &S,
        (number, last): (usize, f64),
    ) -> Result<(S, f64), BarronError> {
        let step = |rate: f64| at.u.plus(-rate, direction);
        match self.rule {
            StepRule::Fixed(rate) => Ok((step(rate)?, rate)),
            StepRule::Convexity => {
                let smoothness = equation.smoothness(&at.u, &at.u.slopes());
                let rate = 2.0 / (equation.convexity() + smoothness);
                Ok((step(rate)?, rate))
            }
            StepRule::Backtracking => {
                // DE applied to the direction.
                let fall = at.gradient.inner(direction)?;
                let rounding = 1e-14 * at.energy.abs();
                let mut rate = 2.0 * last;
                loop {
                    let moved = step(rate)?;
                    let energy = energy(equation, f, &moved, &moved.slopes())?;
                    if energy <= at.energy - 0.5 * rate * fall + rounding {
                        return Ok((moved, rate));
                    }
                    if rate < f64::MIN_POSITIVE {
                        return Err(BarronError::Rises {
                            step: number,
                            rate,
                            before: at.energy,
                            after: energy,
                        });
                    }
                    rate *= 0.5;
                }
            }
        }
    }
}

/// A function with what a step from it needs.
struct Point<S> {
    u: S,
    /// `DE(u)`.
    gradient: S,
    /// `(I − Δ)⁻¹ DE(u)`.
    descent: S,
    /// Its norm in `H¹`.
    residual: f64,
    energy: f64,
}

impl<S: Spectral> Point<S> {
    fn new(equation: &impl Lagrangian<S>, f: &S, u: S) -> Result<Self, BarronError> {
        let slopes = u.slopes();
        // DE(u) = ∂_u L − f − Σ_j ∂_j ∂_{p_j} L.
        let mut gradient = equation.by_value(&u, &slopes)?.plus(-1.0, f)?;
        for j in 0..slopes.len() {
            let flow = equation.by_slope(j, &u, &slopes)?;
            gradient = gradient.plus(-1.0, &flow.slope(j))?;
        }
        check_borders("the gradient of the energy", &gradient)?;
        let descent =
            gradient.multiplied(&|frequency| (1.0 / (1.0 + spectral::square(frequency))).into());
        Ok(Self {
            residual: descent.h1_norm(),
            energy: energy(equation, f, &u, &slopes)?,
            u,
            gradient,
            descent,
        })
    }

    fn iterate(&self) -> Iterate {
        Iterate {
            rate: 0.0,
            energy: self.energy,
            residual: self.residual,
            barron_norm: self.u.barron_norm(),
            second_norm: self.u.spectral_norm(2),
            log_bound: 0.0,
            log_second_bound: 0.0,
            modes: self.u.modes(),
            dropped: 0.0,
        }
    }
}

/// `E(u)`.
fn energy<S: Spectral>(
    equation: &impl Lagrangian<S>,
    f: &S,
    u: &S,
    slopes: &[S],
) -> Result<f64, BarronError> {
    Ok(equation.energy(u, slopes)? - f.inner(u)?)
}

/// Refuses what is not odd where functions must be zero at the borders.
fn check_borders<S: Spectral>(what: &'static str, function: &S) -> Result<(), BarronError> {
    let domain = function.domain();
    if domain.borders == Borders::Periodic {
        return Ok(());
    }
    let size = function.spectral_norm(0);
    for j in 0..domain.dims {
        let even = function.plus(1.0, &function.reflected(j))?;
        if even.spectral_norm(0) > 1e-9 * size {
            return Err(BarronError::NotOdd(what, j));
        }
    }
    Ok(())
}

/// How far apart the solutions of two equations are at most, in the norm of `H¹`: if `f` and `L` are replaced by
/// approximations, such as networks, with
///
/// - `right_sides`: `‖f − f̃‖` in the dual norm of `H¹`
/// - `gradients`: the greatest `‖DL(u) − DL̃(u)‖` in the dual norm
/// - `convexity`: `λ` of the second equation
///
/// # Errors
/// If a distance is negative or `λ` is not positive.
pub fn perturbed_distance(
    right_sides: f64,
    gradients: f64,
    convexity: f64,
) -> Result<f64, OutOfRange> {
    range::not_negative("distance of the right sides", right_sides)?;
    range::not_negative("distance of the gradients", gradients)?;
    range::positive("convexity", convexity)?;
    Ok((right_sides + gradients) / convexity)
}

#[cfg(test)]
mod tests;
