//! A Brownian path with its time integral, found piece by piece.
//!
//! Over an interval of length `h`, the increment `W` and the integral `I = ∫ (W(s) − W(start)) ds` are normal, with
//!
//! ```text
//! Cov(W, I) = Σ(h) = [[h, h²/2], [h²/2, h³/3]]
//! W = W_1 + W_2,   I = I_1 + h_2 W_1 + I_2            of two parts, one after the other
//! ```
//!
//! What is not known yet is drawn: beyond the end of what is known, from `Σ(h)`; inside an interval, from the distribution
//! of the first part given the whole,
//!
//! ```text
//! (W_1, I_1) | (W, I) ~ N(C Σ⁻¹ (W, I)ᵀ,  Σ(h_1) − C Σ⁻¹ Cᵀ),
//! C = [[h_1, h_1²/2 + h_1 h_2], [h_1²/2, h_1³/3 + h_1² h_2/2]]
//! ```
//!
//! So whatever steps are tried and rejected, the path is one of Brownian motion.

use std::collections::VecDeque;

use nabla_grad::seeded_noise::SeededNoise;
use rand_distr::{Distribution, StandardNormal};

/// Numbers of a path over an interval, one for each component.
#[derive(Clone, Debug, PartialEq)]
pub struct Increment {
    /// `W`.
    pub value: Vec<f64>,
    /// `I = ∫ (W(s) − W(start)) ds`.
    pub integral: Vec<f64>,
}

/// Many independent Brownian motions, from a seed: the same seed and the same questions give the same bits.
///
/// ```
/// use nabla_physics::sde::BrownianPath;
///
/// let mut path = BrownianPath::new(3, 0.0, 42);
/// let whole = path.until(1.0);
/// let half = path.until(0.5);
/// path.forget(0.5);
/// let rest = path.until(1.0);
/// assert!((whole.value[2] - half.value[2] - rest.value[2]).abs() < 1e-12);
/// ```
#[derive(Clone, Debug)]
pub struct BrownianPath {
    components: usize,
    now: f64,
    /// What is known from now on: the ends of intervals, and the path over them.
    known: VecDeque<(f64, Increment)>,
    noise: SeededNoise,
}

impl BrownianPath {
    /// - `components`: how many motions
    /// - `start`: the time at which the path begins
    pub fn new(components: usize, start: f64, seed: u64) -> Self {
        Self {
            components,
            now: start,
            known: VecDeque::new(),
            noise: SeededNoise::new(seed, 0),
        }
    }

    /// Draws the path at these times first, so that solvers with different steps see the same one.
    ///
    /// - `times`: rising, after the current time; what does not rise is left out
    #[must_use]
    pub fn drawn_at(mut self, times: &[f64]) -> Self {
        for &time in times {
            self.extend(time);
        }
        self
    }

    /// How many motions.
    pub fn components(&self) -> usize {
        self.components
    }

    /// The time from which on the path can be asked for.
    pub fn now(&self) -> f64 {
        self.now
    }

    /// The path from [`now`](Self::now) to a later time; zeros for an earlier one.
    pub fn until(&mut self, time: f64) -> Increment {
        let mut sum = Increment {
            value: vec![0.0; self.components],
            integral: vec![0.0; self.components],
        };
        if time <= self.now {
            return sum;
        }
        self.extend(time);
        self.split(time);
        let mut start = self.now;
        for (end, part) in self.known.iter().take_while(|(end, _)| *end <= time) {
            let length = end - start;
            let each = part.value.iter().zip(&part.integral);
            let sums = sum.value.iter_mut().zip(&mut sum.integral);
            for ((value, integral), (w, i)) in sums.zip(each) {
                *integral += i + length * *value;
                *value += w;
            }
            start = *end;
        }
        sum
    }

    /// Goes on to a later time, before which nothing is remembered.
    pub fn forget(&mut self, time: f64) {
        if time <= self.now {
            return;
        }
        self.extend(time);
        self.split(time);
        self.known.retain(|(end, _)| *end > time);
        self.now = time;
    }

    fn end(&self) -> f64 {
        self.known.back().map_or(self.now, |(end, _)| *end)
    }

    fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.noise)
    }

    /// Draws beyond what is known.
    fn extend(&mut self, time: f64) {
        let length = time - self.end();
        if length <= 0.0 {
            return;
        }
        let (mut value, mut integral) = (Vec::new(), Vec::new());
        for _ in 0..self.components {
            let (w, rest) = (length.sqrt() * self.normal(), self.normal());
            value.push(w);
            // Given W, the integral has the mean h W / 2 and the variance h³/12.
            integral.push(0.5 * length * w + (length.powi(3) / 12.0).sqrt() * rest);
        }
        self.known.push_back((time, Increment { value, integral }));
    }

    /// Divides the interval that a time lies in.
    fn split(&mut self, time: f64) {
        let Some(place) = self.known.iter().position(|(end, _)| *end >= time) else {
            return;
        };
        let start = if place == 0 {
            self.now
        } else {
            self.known[place - 1].0
        };
        let end = self.known[place].0;
        if end == time {
            return;
        }
        let (first, second) = (time - start, end - time);
        let bridge = Bridge::new(first, second);
        let whole = self.known[place].1.clone();
        let mut parts = [(); 2].map(|()| Increment {
            value: Vec::new(),
            integral: Vec::new(),
        });
        for (&w, &i) in whole.value.iter().zip(&whole.integral) {
            let normals = [self.normal(), self.normal()];
            let [w1, i1] = bridge.draw([w, i], normals);
            parts[0].value.push(w1);
            parts[0].integral.push(i1);
            parts[1].value.push(w - w1);
            parts[1].integral.push(i - i1 - second * w1);
        }
        let [before, after] = parts;
        self.known[place].1 = after;
        self.known.insert(place, (time, before));
    }
}

/// The first part of an interval, given the whole.
struct Bridge {
    /// `C Σ⁻¹`.
    mean: [[f64; 2]; 2],
    /// The Cholesky factor of the variance: its first column and its corner.
    factor: [f64; 3],
}

impl Bridge {
    fn new(first: f64, second: f64) -> Self {
        let h = first + second;
        let c = [
            [first, 0.5 * first * first + first * second],
            [
                0.5 * first * first,
                first.powi(3) / 3.0 + 0.5 * first * first * second,
            ],
        ];
        // Σ⁻¹ = [[4/h, −6/h²], [−6/h², 12/h³]]
        let inverse = [
            [4.0 / h, -6.0 / (h * h)],
            [-6.0 / (h * h), 12.0 / h.powi(3)],
        ];
        let mean = c.map(|row| [0, 1].map(|j| row[0] * inverse[0][j] + row[1] * inverse[1][j]));
        let own = [
            [first, 0.5 * first * first],
            [0.5 * first * first, first.powi(3) / 3.0],
        ];
        let variance = |a: usize, b: usize| own[a][b] - mean[a][0] * c[b][0] - mean[a][1] * c[b][1];
        let corner = variance(0, 0).max(0.0).sqrt();
        let below = if corner > 0.0 {
            variance(1, 0) / corner
        } else {
            0.0
        };
        let last = (variance(1, 1) - below * below).max(0.0).sqrt();
        Self {
            mean,
            factor: [corner, below, last],
        }
    }

    fn draw(&self, [w, i]: [f64; 2], [a, b]: [f64; 2]) -> [f64; 2] {
        let [corner, below, last] = self.factor;
        [
            self.mean[0][0] * w + self.mean[0][1] * i + corner * a,
            self.mean[1][0] * w + self.mean[1][1] * i + below * a + last * b,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Second moments of a path that was asked for back and forth are those of Brownian motion.
    #[test]
    fn a_path_that_was_split_is_brownian_motion() {
        let count = 40_000;
        let mut path = BrownianPath::new(count, 1.0, 7);
        path.until(3.0);
        path.until(1.5);
        path.until(2.2);
        path.forget(1.5);
        path.until(1.7);
        let mut moments = Vec::new();
        let mut start = 1.5;
        let mut before: Option<Vec<f64>> = None;
        for end in [1.7, 2.2, 3.0, 3.4] {
            let part = path.until(end);
            path.forget(end);
            let h: f64 = end - start;
            let mean = |a: &[f64], b: &[f64]| {
                a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / count as f64
            };
            let (w, i) = (&part.value, &part.integral);
            moments.push((mean(w, w), h));
            moments.push((mean(w, i) / h, h / 2.0));
            moments.push((mean(i, i) / (h * h), h / 3.0));
            if let Some(before) = &before {
                assert!(
                    mean(before, w).abs() < 0.02,
                    "increments depend on each other"
                );
            }
            before = Some(part.value);
            start = end;
        }
        for (found, expected) in moments {
            // Four standard errors of a variance.
            let error = 4.0 * (2.0 / count as f64).sqrt() * expected;
            assert!((found - expected).abs() < error, "{found} {expected}");
        }
    }

    #[test]
    fn parts_sum_to_the_whole_whatever_is_asked_between() {
        let mut path = BrownianPath::new(2, 0.0, 1).drawn_at(&[0.5, 1.0]);
        let mut same = BrownianPath::new(2, 0.0, 1).drawn_at(&[0.5, 1.0]);
        let whole = path.until(1.0);
        assert_eq!(whole, same.until(1.0));
        path.until(0.3);
        path.until(0.7);
        let split = path.until(1.0);
        for i in 0..2 {
            assert!((whole.value[i] - split.value[i]).abs() < 1e-14);
            assert!((whole.integral[i] - split.integral[i]).abs() < 1e-14);
        }
    }
}
