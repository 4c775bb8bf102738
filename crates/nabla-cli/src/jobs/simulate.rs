//! `nabla simulate`: goes on from a state.

use crate::job::{Of, jobs};
use crate::jobs::simulate_ode;

jobs! {
    /// What can be simulated.
    pub enum Task {
        /// Go on from a state with a neural ODE or SDE of `nabla train ode`
        Ode(Of<simulate_ode::Arguments>),
    }
}
