//! What a step of private training releases.
//!
//! A step sums the clipped gradients of its examples. A [`Release`] makes of it the gradient along which the optimizer
//! steps, which is all that the outside ever sees, and says what the accountant has to count. [`DpSgd`](crate::dp_sgd)
//! adds noise; [`DiceSgd`](crate::dicesgd) also remembers what clipping took off.

use nabla_base::OutOfRange;

use crate::accountant::History;

/// The sums of a step, in units of the gradient.
#[derive(Clone, Debug)]
pub struct Sums {
    /// `Σ_i clip(g_i)`.
    pub clipped: Vec<f64>,
    /// `Σ_i g_i`, if the release [needs](Release::needs_raw) it; else empty.
    pub raw: Vec<f64>,
}

/// Makes what is released of the sums; see the [module documentation](self).
pub trait Release: Send {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Whether it needs the sum of the gradients before clipping. Default no.
    fn needs_raw(&self) -> bool {
        false
    }

    /// What `steps` steps reveal, for the accountant.
    ///
    /// # Errors
    /// If there is too little noise to count.
    fn history(&self, steps: u64) -> Result<History, OutOfRange>;

    /// What is said about a guarantee that does not hold for all data, in one sentence. Default nothing.
    fn caveat(&self) -> Option<String> {
        None
    }

    /// The deviation of the noise in the released gradient, if it follows from the sums of its step alone. Default none.
    fn deviation_of_step(&self) -> Option<f64> {
        None
    }

    /// The gradient that is released.
    ///
    /// - `noise`: as many independent standard normal numbers as there are parameters
    fn release(&mut self, sums: Sums, noise: Vec<f64>) -> Vec<f64>;

    /// What is remembered from step to step, which is never released. Default nothing.
    fn state(&self) -> Vec<f64> {
        Vec::new()
    }

    /// Restores a state.
    fn restore(&mut self, _state: Vec<f64>) {}
}
