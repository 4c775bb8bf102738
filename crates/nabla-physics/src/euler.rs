//! Euler's method, of order 1, with the error by comparison with Heun's method, of which it needs the slope that begins
//! the next step anyway: `ũ = h (k_2 − k_1) / 2`.

use crate::tableau::{Dense, StiffnessPair, Tableau};

/// The method.
pub const EULER: Tableau = Tableau {
    name: "euler",
    order: 1,
    error_order: 2,
    nodes: &[0.0, 1.0],
    stages: &[&[], &[1.0]],
    weights: &[1.0],
    error: &[0.5, -0.5],
    last_is_first: true,
    // Along the solution instead of at one time: what a time-dependent field changes by itself counts too.
    stiffness: Some(StiffnessPair {
        first: 0,
        second: 1,
        stability: 2.0,
    }),
    dense: Dense::Hermite,
};
