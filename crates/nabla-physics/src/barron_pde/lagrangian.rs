//! Energies whose minimum solves an equation.

use nabla_base::range;

use super::BarronError;
use super::growth::Growth;
use super::spectral::{Borders, Spectral};

/// The density `L(x, u, p)` of an energy `∫ L(x, u, ∇u) − f u`, convex in `u` and `p` together.
///
/// Your own equation is a type that implements this.
pub trait Lagrangian<S: Spectral> {
    /// The mean of `L(x, u, ∇u)`.
    ///
    /// # Errors
    /// If the functions don't fit, or have too many frequencies.
    fn energy(&self, u: &S, slopes: &[S]) -> Result<f64, BarronError>;

    /// `∂L/∂u`.
    ///
    /// # Errors
    /// If the functions don't fit, or have too many frequencies.
    fn by_value(&self, u: &S, slopes: &[S]) -> Result<S, BarronError>;

    /// `∂L/∂p_j`.
    ///
    /// # Errors
    /// If the functions don't fit, or have too many frequencies.
    fn by_slope(&self, direction: usize, u: &S, slopes: &[S]) -> Result<S, BarronError>;

    /// `λ` with `E''[v, v] ≥ λ ‖v‖²` in the norm of `H¹`, for all `v` that the problem allows; not positive if there is none.
    fn convexity(&self) -> f64;

    /// `Λ` with `E''[v, v] ≤ Λ ‖v‖²` in the norm of `H¹` at functions that are no larger than `u`.
    fn smoothness(&self, u: &S, slopes: &[S]) -> f64;

    /// Refuses a right side for which there is no solution; none by default.
    ///
    /// # Errors
    /// Then.
    fn check(&self, right_side: &S) -> Result<(), BarronError> {
        let _ = right_side;
        Ok(())
    }

    /// How the Barron norms of `∂L/∂u` and `∂L/∂p_j` grow with that of `u`.
    fn growth(&self) -> Growth;
}

/// Elliptic equations up to the fourth power:
///
/// ```text
/// L = ½ a(x) ‖p‖² + ½ c(x) u² + ¼ β u⁴ + ¼ α Σ_j p_j⁴
/// −∇·(a ∇u + α (∇u)³) + c u + β u³ = f
/// ```
///
/// Poisson's equation, linear elliptic ones with coefficients, reactions and nonlinear diffusion. Without `c` and `β`, `f` and
/// `u` have the mean 0.
#[derive(Clone, Debug)]
pub struct Quartic<S> {
    diffusion: S,
    reaction: S,
    value_power: f64,
    slope_power: f64,
}

impl<S: Spectral> Quartic<S> {
    /// `−∇·(a ∇u) + c u = f`.
    ///
    /// Each is positive only if its mean exceeds the sum of its other coefficients, as far as is known here.
    ///
    /// # Errors
    /// If they are functions on different domains.
    pub fn linear(diffusion: S, reaction: S) -> Result<Self, BarronError> {
        let (a, c) = (diffusion.domain(), reaction.domain());
        if a != c {
            return Err(BarronError::Domains(a, c));
        }
        Ok(Self {
            diffusion,
            reaction,
            value_power: 0.0,
            slope_power: 0.0,
        })
    }

    /// With `β u³`.
    ///
    /// # Errors
    /// If `β` is negative or not finite.
    pub fn with_cubed_value(mut self, beta: f64) -> Result<Self, BarronError> {
        range::not_negative("beta", beta)?;
        self.value_power = beta;
        Ok(self)
    }

    /// With `−∇·α (∇u)³`, each slope cubed.
    ///
    /// # Errors
    /// If `α` is negative or not finite.
    pub fn with_cubed_slopes(mut self, alpha: f64) -> Result<Self, BarronError> {
        range::not_negative("alpha", alpha)?;
        self.slope_power = alpha;
        Ok(self)
    }

    /// Whether the equation says nothing of the mean.
    fn leaves_the_mean(&self) -> bool {
        self.value_power == 0.0
            && self.reaction.modes() == 0
            && self.diffusion.domain().borders == Borders::Periodic
    }
}

/// Bounds of a function.
struct Extent {
    least: f64,
    greatest: f64,
}

impl Extent {
    fn of<S: Spectral>(function: &S) -> Self {
        let mean = function.mean();
        let around = function.spectral_norm(0) - mean.abs();
        Self {
            least: mean - around,
            greatest: mean + around,
        }
    }
}

fn cubed<S: Spectral>(u: &S) -> Result<S, BarronError> {
    u.times(u)?.times(u)
}

/// The mean of `u⁴`.
fn fourth_power<S: Spectral>(u: &S) -> Result<f64, BarronError> {
    let square = u.times(u)?;
    square.inner(&square)
}

impl<S: Spectral> Lagrangian<S> for Quartic<S> {
    fn energy(&self, u: &S, slopes: &[S]) -> Result<f64, BarronError> {
        let mut energy = 0.5 * u.inner(&self.reaction.times(u)?)?;
        if self.value_power > 0.0 {
            energy += 0.25 * self.value_power * fourth_power(u)?;
        }
        for p in slopes {
            energy += 0.5 * p.inner(&self.diffusion.times(p)?)?;
            if self.slope_power > 0.0 {
                energy += 0.25 * self.slope_power * fourth_power(p)?;
            }
        }
        Ok(energy)
    }

    fn by_value(&self, u: &S, _: &[S]) -> Result<S, BarronError> {
        let linear = self.reaction.times(u)?;
        match self.value_power > 0.0 {
            true => linear.plus(self.value_power, &cubed(u)?),
            false => Ok(linear),
        }
    }

    fn by_slope(&self, direction: usize, _: &S, slopes: &[S]) -> Result<S, BarronError> {
        let p = &slopes[direction];
        let linear = self.diffusion.times(p)?;
        match self.slope_power > 0.0 {
            true => linear.plus(self.slope_power, &cubed(p)?),
            false => Ok(linear),
        }
    }

    fn convexity(&self) -> f64 {
        let domain = self.diffusion.domain();
        let (a, c) = (
            Extent::of(&self.diffusion).least,
            Extent::of(&self.reaction).least,
        );
        // (a ‖ω‖² + c) / (1 + ‖ω‖²) lies between its values at the least frequency and far out.
        let square = domain.least_square();
        let waves = a.min((a * square + c) / (1.0 + square));
        match domain.borders == Borders::Zero || self.leaves_the_mean() {
            true => waves,
            false => waves.min(c),
        }
    }

    fn smoothness(&self, u: &S, slopes: &[S]) -> f64 {
        let by_value = Extent::of(&self.reaction).greatest
            + 3.0 * self.value_power * u.spectral_norm(0).powi(2);
        let steepest = slopes
            .iter()
            .map(|p| p.spectral_norm(0))
            .fold(0.0, f64::max);
        let by_slope =
            Extent::of(&self.diffusion).greatest + 3.0 * self.slope_power * steepest.powi(2);
        by_value.max(by_slope)
    }

    fn check(&self, right_side: &S) -> Result<(), BarronError> {
        let mean = right_side.mean();
        match self.leaves_the_mean() && mean != 0.0 {
            true => Err(BarronError::Mean(mean)),
            false => Ok(()),
        }
    }

    fn growth(&self) -> Growth {
        let degree = match self.value_power > 0.0 || self.slope_power > 0.0 {
            true => 3.0,
            false => 1.0,
        };
        let by_value = self.reaction.barron_norm() + self.value_power;
        let by_slope = self.diffusion.barron_norm() + self.slope_power;
        Growth {
            degree,
            factor: by_value.max(by_slope),
        }
    }
}
