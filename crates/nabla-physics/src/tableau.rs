//! Tableaux: all that an explicit Runge-Kutta method is.
//!
//! ```text
//! y_i = u + h Σ_j a_ij k_j,   k_i = f(y_i, t + c_i h)
//! u⁺ = u + h Σ_i b_i k_i                      the next state
//! ũ  = h Σ_i e_i k_i,  e = b − b̂               its local error, by the embedded method b̂
//! u(t + θ h) = u + h Σ_i B_i(θ) k_i            between the two: dense output
//! S  = ‖k_j − k_i‖ / ‖y_j − y_i‖               stiffness, from two stages at one time
//! ```
//!
//! A method of your own is a constant of this type.

use crate::solve_error::SolveError;

/// An explicit Runge-Kutta method with an embedded one; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tableau {
    /// The name.
    pub name: &'static str,
    /// The order of the method.
    pub order: usize,
    /// The power of the step with which the error estimate falls: the order of the lower method of the two, plus 1.
    pub error_order: usize,
    /// `c_i`, ascending or not; the first is 0.
    pub nodes: &'static [f64],
    /// `a_ij` for `j < i`: the row `i` has at most `i` numbers, what is missing is 0.
    pub stages: &'static [&'static [f64]],
    /// `b_i`; what is missing is 0.
    pub weights: &'static [f64],
    /// `e_i = b_i − b̂_i`; what is missing is 0.
    pub error: &'static [f64],
    /// Whether the last stage is `f(u⁺, t + h)`, the first one of the next step.
    pub last_is_first: bool,
    /// From which stages stiffness is estimated.
    pub stiffness: Option<StiffnessPair>,
    /// How states between two steps are found.
    pub dense: Dense,
}

/// Two stages at one time, `S = ‖k_second − k_first‖ / ‖y_second − y_first‖`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StiffnessPair {
    /// The stage with the lower number, from 0.
    pub first: usize,
    /// The other.
    pub second: usize,
    /// The `−z` up to which the method is stable on the negative real axis. `S h` beyond it means a stiff equation.
    pub stability: f64,
}

/// Dense output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dense {
    /// The cubic polynomial with the states and slopes at both ends; for methods whose last stage is the first of the
    /// next step.
    Hermite,
    /// Polynomials of the method's own.
    Polynomials {
        /// Stages that only dense output needs, evaluated where it is asked for: node `c` and row `a` each, over all
        /// stages before.
        extra: &'static [(f64, &'static [f64])],
        /// For each stage, extra ones too, `B_i(θ)` as factors of `θ, θ², …`.
        polynomials: &'static [&'static [f64]],
    },
}

impl Tableau {
    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// If they do not: the name of the tableau, and what is wrong.
    pub fn check(&self) -> Result<(), SolveError> {
        let wrong = |what: &'static str| {
            let name = self.name;
            Err(SolveError::Tableau { name, what })
        };
        let stages = self.nodes.len();
        if stages == 0 || self.stages.len() != stages {
            return wrong("it needs a node and a row for each stage");
        }
        if self.nodes[0] != 0.0 || !self.stages[0].is_empty() {
            return wrong("its first stage is not the state itself");
        }
        if self.stages.iter().enumerate().any(|(i, row)| row.len() > i) {
            return wrong("a stage depends on itself or a later one");
        }
        for (row, node) in self.stages.iter().zip(self.nodes) {
            if (row.iter().sum::<f64>() - node).abs() > 1e-9 {
                return wrong("a row does not sum to its node");
            }
        }
        if self.weights.len() > stages || self.error.len() > stages {
            return wrong("it has more weights than stages");
        }
        if (self.weights.iter().sum::<f64>() - 1.0).abs() > 1e-9 {
            return wrong("its weights do not sum to 1");
        }
        if self.error_order == 0 || self.order == 0 {
            return wrong("an order is 0");
        }
        if self.last_is_first && !same(self.stages[stages - 1], self.weights) {
            return wrong("its last stage is not at the next state");
        }
        match self.dense {
            Dense::Hermite if !self.last_is_first => {
                wrong("Hermite's polynomial needs the slope at the next state as last stage")
            }
            Dense::Polynomials { extra, polynomials }
                if polynomials.len() != stages + extra.len() =>
            {
                wrong("dense output needs a polynomial for each stage")
            }
            _ => match self.stiffness {
                Some(pair) if pair.first >= pair.second || pair.second >= stages => {
                    wrong("the stages for stiffness are none of its stages")
                }
                _ => Ok(()),
            },
        }
    }

    /// Stages of a step.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// `c` and `a` of a stage, extra ones too.
    pub(crate) fn row(&self, stage: usize) -> (f64, &'static [f64]) {
        match self.dense {
            Dense::Polynomials { extra, .. } if stage >= self.count() => {
                extra[stage - self.count()]
            }
            _ => (self.nodes[stage], self.stages[stage]),
        }
    }

    /// Stages that dense output needs besides.
    pub(crate) fn extra(&self) -> usize {
        match self.dense {
            Dense::Hermite => 0,
            Dense::Polynomials { extra, .. } => extra.len(),
        }
    }

    /// `B_i(θ)`.
    pub(crate) fn dense_weights(&self, theta: f64) -> Vec<f64> {
        match self.dense {
            Dense::Hermite => {
                // u + θ(u⁺ − u) + θ(θ−1) [(1−2θ)(u⁺ − u) + (θ−1) h k_first + θ h k_last]
                let chord = theta + theta * (theta - 1.0) * (1.0 - 2.0 * theta);
                let last = self.count() - 1;
                (0..=last)
                    .map(|i| {
                        let mut weight = chord * self.weights.get(i).copied().unwrap_or(0.0);
                        if i == 0 {
                            weight += theta * (theta - 1.0).powi(2);
                        }
                        if i == last {
                            weight += theta * theta * (theta - 1.0);
                        }
                        weight
                    })
                    .collect()
            }
            Dense::Polynomials { polynomials, .. } => {
                let value = |p: &&[f64]| p.iter().rev().fold(0.0, |sum, c| (sum + c) * theta);
                polynomials.iter().map(value).collect()
            }
        }
    }
}

/// Whether two rows are the same, up to zeros behind them.
fn same(a: &[f64], b: &[f64]) -> bool {
    let at = |row: &[f64], i: usize| row.get(i).copied().unwrap_or(0.0);
    (0..a.len().max(b.len())).all(|i| at(a, i) == at(b, i))
}
