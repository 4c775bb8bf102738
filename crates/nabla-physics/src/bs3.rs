//! Bogacki and Shampine's method of order 3 with an error of order 2: SciPy's `RK23`, diffrax's `Bosh3`.
//!
//! Source: Bogacki, Shampine, *A 3(2) Pair of Runge-Kutta Formulas*, 1989.

use crate::tableau::{Dense, StiffnessPair, Tableau};

/// The method.
pub const BS3: Tableau = Tableau {
    name: "bs3",
    order: 3,
    error_order: 3,
    nodes: &[0.0, 0.5, 0.75, 1.0],
    stages: &[
        &[],
        &[0.5],
        &[0.0, 0.75],
        &[2.0 / 9.0, 1.0 / 3.0, 4.0 / 9.0],
    ],
    weights: &[2.0 / 9.0, 1.0 / 3.0, 4.0 / 9.0],
    error: &[-5.0 / 72.0, 1.0 / 12.0, 1.0 / 9.0, -1.0 / 8.0],
    last_is_first: true,
    // No two stages are at one time: what a time-dependent field changes by itself counts too.
    stiffness: Some(StiffnessPair {
        first: 2,
        second: 3,
        stability: 2.512_745_326_618_329,
    }),
    dense: Dense::Hermite,
};
