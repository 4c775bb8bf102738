//! The convex losses, one term per example, with the functions that the solvers need.

use nabla_base::vector;
use serde::{Deserialize, Serialize};

use super::error::ConvexReluError;

/// `ℓ(ŷ, y) = Σ_k ℓ_k(ŷ_k)`, a sum over the examples, not a mean.
///
/// ```
/// use nabla_solve::convex_relu::Loss;
/// assert_eq!(Loss::Squared.value(3.0, 1.0), 2.0);
/// assert_eq!(Loss::Hinge.value(0.25, -1.0), 1.25);
/// assert!((Loss::BinaryCrossEntropy.value(0.0, 1.0) - 2f64.ln()).abs() < 1e-15);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// `½ (ŷ − y)²`, any finite label.
    Squared,
    /// `max(0, 1 − y ŷ)`, labels −1 and 1.
    Hinge,
    /// `log(1 + exp(−2 y ŷ))`, labels −1 and 1: the cross entropy with the sigmoid of `2 ŷ` as the
    /// probability of class 1, scaled as in the paper and the authors' code.
    BinaryCrossEntropy,
}

nabla_base::choices! {
    Loss: "loss" {
        "squared" => Self::Squared, "½ (f(x) − y)², for regression";
        "hinge" => Self::Hinge, "max(0, 1 − y f(x)), labels −1 and 1";
        "cross-entropy" => Self::BinaryCrossEntropy, "log(1 + exp(−2 y f(x))), labels −1 and 1";
    }
}

impl Loss {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Squared => "squared",
            Self::Hinge => "hinge",
            Self::BinaryCrossEntropy => "binary cross-entropy",
        }
    }

    /// Whether labels are classes, −1 and 1.
    pub fn is_classification(self) -> bool {
        self != Self::Squared
    }

    /// Of one example.
    pub fn value(self, output: f64, label: f64) -> f64 {
        match self {
            Self::Squared => 0.5 * (output - label).powi(2),
            Self::Hinge => (1.0 - label * output).max(0.0),
            Self::BinaryCrossEntropy => softplus(-2.0 * label * output),
        }
    }

    /// Of all examples.
    pub fn sum(self, outputs: &[f64], labels: &[f64]) -> f64 {
        outputs
            .iter()
            .zip(labels)
            .map(|(&output, &label)| self.value(output, label))
            .sum()
    }

    /// `dℓ/dŷ`; the hinge's at its kink is 0.
    pub fn slope(self, output: f64, label: f64) -> f64 {
        match self {
            Self::Squared => output - label,
            Self::Hinge if label * output < 1.0 => -label,
            Self::Hinge => 0.0,
            Self::BinaryCrossEntropy => -2.0 * label * sigmoid(-2.0 * label * output),
        }
    }

    /// The largest second derivative; `None` for the hinge.
    pub(super) fn curvature(self) -> Option<f64> {
        match self {
            Self::Squared | Self::BinaryCrossEntropy => Some(1.0),
            Self::Hinge => None,
        }
    }

    /// `argmin_t ℓ(t) + ρ/2 (t − a)²`.
    pub(super) fn prox(self, a: f64, label: f64, rho: f64) -> f64 {
        match self {
            Self::Squared => (label + rho * a) / (1.0 + rho),
            Self::Hinge => {
                // In the margin m = y t: slope −1 below 1.
                let margin = label * a;
                let moved = if margin >= 1.0 {
                    margin
                } else {
                    (margin + 1.0 / rho).min(1.0)
                };
                label * moved
            }
            Self::BinaryCrossEntropy => {
                // m − a + 2/ρ · sigmoid(−2m) has one root, from `a` up to `a + 2/ρ`: Newton's
                // method, kept in a bracket.
                let target = label * a;
                let (mut low, mut high) = (target, target + 2.0 / rho);
                let mut m = target + 2.0 / rho * sigmoid(-2.0 * target);
                m = m.clamp(low, high);
                for _ in 0..100 {
                    let s = sigmoid(-2.0 * m);
                    let value = m - target - 2.0 / rho * s;
                    if value > 0.0 {
                        high = m;
                    } else {
                        low = m;
                    }
                    let next = m - value / (1.0 + 4.0 / rho * s * (1.0 - s));
                    let next = if next > low && next < high {
                        next
                    } else {
                        0.5 * (low + high)
                    };
                    if (next - m).abs() <= 1e-15 * (1.0 + m.abs()) {
                        m = next;
                        break;
                    }
                    m = next;
                }
                label * m
            }
        }
    }

    /// `−ℓ*(c g)` summed over the examples, with the best `0 ≤ c ≤ largest`: the dual objective at
    /// a multiple of a slope vector `g` of the loss.
    pub(super) fn dual_objective(self, g: &[f64], labels: &[f64], largest: f64) -> f64 {
        match self {
            // −½c²‖g‖² − c g·y
            Self::Squared => {
                let squared = vector::squared_norm(g);
                let product = vector::dot(g, labels);
                if squared == 0.0 {
                    return 0.0;
                }
                let c = (-product / squared).clamp(0.0, largest);
                -0.5 * c * c * squared - c * product
            }
            // a = −y g in [0, 1]: c Σ a
            Self::Hinge => {
                let share = |(g, y): (&f64, &f64)| (-y * g).max(0.0);
                let most = g.iter().zip(labels).map(share).fold(0.0, f64::max);
                if most == 0.0 {
                    return 0.0;
                }
                let c = largest.min(1.0 / most);
                c * g.iter().zip(labels).map(share).sum::<f64>()
            }
            // a = −y g/2 in [0, 1]: the sum of the entropies
            Self::BinaryCrossEntropy => {
                let c = largest.min(1.0);
                g.iter()
                    .zip(labels)
                    .map(|(g, y)| {
                        let a = (-0.5 * c * y * g).clamp(0.0, 1.0);
                        entropy(a) + entropy(1.0 - a)
                    })
                    .sum()
            }
        }
    }

    /// Checks that the loss is defined for the labels.
    pub(super) fn check(self, labels: &[f64]) -> Result<(), ConvexReluError> {
        let fits = |y: f64| match self {
            Self::Squared => y.is_finite(),
            _ => y == 1.0 || y == -1.0,
        };
        match labels.iter().position(|&y| !fits(y)) {
            None => Ok(()),
            Some(example) => Err(ConvexReluError::Label {
                example,
                label: labels[example],
                loss: self.name(),
                expected: if self.is_classification() {
                    "-1 or 1"
                } else {
                    "finite"
                },
            }),
        }
    }
}

/// `log(1 + exp(x))`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

fn entropy(p: f64) -> f64 {
    if p > 0.0 { -p * p.ln() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Loss; 3] = [Loss::Squared, Loss::Hinge, Loss::BinaryCrossEntropy];

    #[test]
    fn slopes_are_those_of_the_values() {
        for loss in ALL {
            for label in [-1.0, 1.0] {
                for output in [-30.0, -2.3, -0.4, 0.0, 0.7, 1.9, 30.0] {
                    let h = 1e-6;
                    let measured =
                        (loss.value(output + h, label) - loss.value(output - h, label)) / (2.0 * h);
                    let slope = loss.slope(output, label);
                    assert!((measured - slope).abs() < 1e-7, "{loss:?} {output} {label}");
                }
            }
        }
    }

    #[test]
    fn the_proximal_point_is_the_least_of_a_fine_grid() {
        for loss in ALL {
            for (a, label, rho) in [
                (0.3, 1.0, 0.5),
                (-4.0, 1.0, 0.01),
                (0.99, -1.0, 7.0),
                (2.0, 1.0, 1.0),
            ] {
                let objective = |t: f64| loss.value(t, label) + 0.5 * rho * (t - a).powi(2);
                let found = loss.prox(a, label, rho);
                let wide = 3.0 / rho + 5.0;
                let best = (0..=200_000)
                    .map(|i| objective(a - wide + 2.0 * wide * f64::from(i) / 200_000.0))
                    .fold(f64::INFINITY, f64::min);
                assert!(
                    objective(found) <= best + 1e-12,
                    "{loss:?} {a} {label} {rho}"
                );
            }
        }
    }

    #[test]
    fn the_dual_objective_is_a_conjugate() {
        // Fenchel and Young: −ℓ*(g) = ℓ(t) − g t at g = ℓ'(t).
        for loss in ALL {
            for (t, label) in [(0.3, 1.0), (-1.4, 1.0), (0.2, -1.0)] {
                let g = loss.slope(t, label);
                let value = loss.value(t, label) - g * t;
                let conjugate = match loss {
                    Loss::Squared => -0.5 * g * g - g * label,
                    // With `largest` 1, both use c = 1.
                    _ => loss.dual_objective(&[g], &[label], 1.0),
                };
                assert!((conjugate - value).abs() < 1e-12, "{loss:?} {t} {label}");
            }
        }
        let best = (0..=1000)
            .map(|i| f64::from(i) / 1000.0 * 0.8)
            .map(|c| -0.5 * c * c * 5.0 - c * -3.0)
            .fold(f64::NEG_INFINITY, f64::max);
        let found = Loss::Squared.dual_objective(&[1.0, -2.0], &[1.0, 2.0], 0.8);
        assert!(found >= best - 1e-12 && found < best + 1e-5);
    }
}
