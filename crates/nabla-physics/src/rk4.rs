//! The classical method of Runge and Kutta, of order 4.
//!
//! Its embedded method of order 3 gives the last slope's weight to the slope at the next state, which has the same node
//! and satisfies the same conditions up to order 3: `ũ = h (k_4 − k_5) / 6`.

use crate::tableau::{Dense, StiffnessPair, Tableau};

/// The method.
pub const RK4: Tableau = Tableau {
    name: "rk4",
    order: 4,
    error_order: 4,
    nodes: &[0.0, 0.5, 0.5, 1.0, 1.0],
    stages: &[
        &[],
        &[0.5],
        &[0.0, 0.5],
        &[0.0, 0.0, 1.0],
        &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
    ],
    weights: &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
    error: &[0.0, 0.0, 0.0, 1.0 / 6.0, -1.0 / 6.0],
    last_is_first: true,
    stiffness: Some(StiffnessPair {
        first: 1,
        second: 2,
        stability: 2.785_293_563_405_282,
    }),
    dense: Dense::Hermite,
};
