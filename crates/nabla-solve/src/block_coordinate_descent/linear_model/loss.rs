//! The losses of one prediction.

/// A convex loss `φ_r(z)` of the `k` outputs `z` that a linear model predicts for example `r`.
pub trait PredictionLoss {
    /// Number `k` of outputs.
    fn outputs(&self) -> usize;

    /// `φ_r(z)`.
    fn value(&self, example: usize, z: &[f64]) -> f64;

    /// `∇φ_r(z)` into `slope`, `[k]`.
    fn slope(&self, example: usize, z: &[f64], slope: &mut [f64]);

    /// `∂²φ_r/∂z_c∂z_e`, given `z` and its `slope`.
    fn second(&self, example: usize, z: &[f64], slope: &[f64], c: usize, e: usize) -> f64;

    /// `φ_r(z + δ) − φ_r(z)`, given the `slope` at `z`. Implement it if it can be computed without the
    /// cancellation of the difference, for line searches near the minimum.
    fn change(&self, example: usize, z: &[f64], slope: &[f64], delta: &[f64]) -> f64 {
        let _ = slope;
        let new: Vec<f64> = z.iter().zip(delta).map(|(z, d)| z + d).collect();
        self.value(example, &new) - self.value(example, z)
    }

    /// Entry `(c, e)` of a matrix that is an upper bound of the second derivatives everywhere, over a set of
    /// `distinct` outputs that contains `c` and `e`.
    fn bound(&self, distinct: usize, c: usize, e: usize) -> f64;

    /// `φ_r*(u)`, infinite outside its domain; it gives the duality gap.
    fn conjugate(&self, example: usize, u: &[f64]) -> f64;

    /// Whether `φ` is quadratic and [`bound`](Self::bound) is its second derivative.
    fn is_quadratic(&self) -> bool {
        false
    }
}

/// `φ_r(z) = ½ (z − y_r)²`.
#[derive(Clone, Debug, PartialEq)]
pub struct SquaredLoss {
    pub(super) labels: Vec<f64>,
}

impl PredictionLoss for SquaredLoss {
    fn outputs(&self) -> usize {
        1
    }

    fn value(&self, example: usize, z: &[f64]) -> f64 {
        0.5 * (z[0] - self.labels[example]).powi(2)
    }

    fn slope(&self, example: usize, z: &[f64], slope: &mut [f64]) {
        slope[0] = z[0] - self.labels[example];
    }

    fn second(&self, _: usize, _: &[f64], _: &[f64], _: usize, _: usize) -> f64 {
        1.0
    }

    fn change(&self, _: usize, _: &[f64], slope: &[f64], delta: &[f64]) -> f64 {
        delta[0] * (slope[0] + 0.5 * delta[0])
    }

    fn bound(&self, _: usize, _: usize, _: usize) -> f64 {
        1.0
    }

    fn conjugate(&self, example: usize, u: &[f64]) -> f64 {
        u[0] * (0.5 * u[0] + self.labels[example])
    }

    fn is_quadratic(&self) -> bool {
        true
    }
}

/// `φ_r(z) = log(1 + exp(−y_r z))` with labels −1 and 1.
#[derive(Clone, Debug, PartialEq)]
pub struct LogisticLoss {
    pub(super) labels: Vec<f64>,
}

impl PredictionLoss for LogisticLoss {
    fn outputs(&self) -> usize {
        1
    }

    fn value(&self, example: usize, z: &[f64]) -> f64 {
        let t = -self.labels[example] * z[0];
        t.max(0.0) + (-t.abs()).exp().ln_1p()
    }

    fn slope(&self, example: usize, z: &[f64], slope: &mut [f64]) {
        let y = self.labels[example];
        slope[0] = -y / (1.0 + (y * z[0]).exp());
    }

    fn second(&self, _: usize, z: &[f64], _: &[f64], _: usize, _: usize) -> f64 {
        // σ(z) σ(−z), without cancellation.
        let e = (-z[0].abs()).exp();
        e / (1.0 + e).powi(2)
    }

    fn change(&self, example: usize, z: &[f64], slope: &[f64], delta: &[f64]) -> f64 {
        // log((1 + exp(−y (z + δ))) / (1 + exp(−y z)))
        let t = -self.labels[example] * delta[0];
        if t < LARGE {
            (slope[0].abs() * t.exp_m1()).ln_1p()
        } else {
            self.value(example, &[z[0] + delta[0]]) - self.value(example, z)
        }
    }

    fn bound(&self, _: usize, _: usize, _: usize) -> f64 {
        0.25
    }

    fn conjugate(&self, example: usize, u: &[f64]) -> f64 {
        let s = -self.labels[example] * u[0];
        if (0.0..=1.0).contains(&s) {
            entropy_term(s) + entropy_term(1.0 - s)
        } else {
            f64::INFINITY
        }
    }
}

/// `φ_r(z) = log Σ_c exp(z_c) − z_{y_r}` of classes numbered from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftmaxLoss {
    /// The class of every example.
    pub(super) classes: Vec<usize>,
    /// The label of each class in the data.
    pub(super) labels: Vec<f64>,
}

impl SoftmaxLoss {
    /// The label of each class in the data, in ascending order.
    pub fn labels(&self) -> &[f64] {
        &self.labels
    }
}

impl PredictionLoss for SoftmaxLoss {
    fn outputs(&self) -> usize {
        self.labels.len()
    }

    fn value(&self, example: usize, z: &[f64]) -> f64 {
        let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = z.iter().map(|z| (z - most).exp()).sum();
        sum.ln() + most - z[self.classes[example]]
    }

    fn slope(&self, example: usize, z: &[f64], slope: &mut [f64]) {
        let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        for (s, z) in slope.iter_mut().zip(z) {
            *s = (z - most).exp();
            sum += *s;
        }
        for s in slope.iter_mut() {
            *s /= sum;
        }
        slope[self.classes[example]] -= 1.0;
    }

    fn second(&self, example: usize, _: &[f64], slope: &[f64], c: usize, e: usize) -> f64 {
        let share = |c: usize| slope[c] + f64::from(u8::from(c == self.classes[example]));
        if c == e {
            share(c) * (1.0 - share(c))
        } else {
            -share(c) * share(e)
        }
    }

    fn change(&self, example: usize, z: &[f64], slope: &[f64], delta: &[f64]) -> f64 {
        if delta.iter().any(|&d| d > LARGE) {
            let new: Vec<f64> = z.iter().zip(delta).map(|(z, d)| z + d).collect();
            return self.value(example, &new) - self.value(example, z);
        }
        // log Σ_c p_c exp(δ_c) − δ_y
        let shares = slope.iter().zip(delta);
        let sum: f64 = shares.map(|(s, d)| s * d.exp_m1()).sum();
        let own = delta[self.classes[example]];
        (sum + own.exp_m1()).ln_1p() - own
    }

    /// Böhning's `½ (I − 11ᵀ/m)`: if the set does not have all outputs, the others form one more class, whose
    /// row and column are left out.
    fn bound(&self, distinct: usize, c: usize, e: usize) -> f64 {
        let m = self.outputs().min(distinct + 1) as f64;
        0.5 * (f64::from(u8::from(c == e)) - 1.0 / m)
    }

    fn conjugate(&self, example: usize, u: &[f64]) -> f64 {
        let mut sum = 0.0;
        let mut value = 0.0;
        for (c, u) in u.iter().enumerate() {
            let p = u + f64::from(u8::from(c == self.classes[example]));
            // Rounding may make a `p` on the simplex slightly negative.
            if p < -1e-12 {
                return f64::INFINITY;
            }
            sum += p;
            value += entropy_term(p.max(0.0));
        }
        if (sum - 1.0).abs() < 1e-9 {
            value
        } else {
            f64::INFINITY
        }
    }
}

/// Exponents above this gain no accuracy, and may overflow.
const LARGE: f64 = 30.0;

/// `p log p`.
fn entropy_term(p: f64) -> f64 {
    if p > 0.0 { p * p.ln() } else { 0.0 }
}
