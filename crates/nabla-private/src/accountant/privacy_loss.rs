//! The privacy loss of one step: a random variable, as the accountants `pld` and `prv` integrate it.
//!
//! Let `P` be the distribution of a step's answer, divided by the sensitivity, if a given example is among the data,
//! and `Q` if it isn't: `Q = N(0, σ²)`, `P = (1 − q) N(0, σ²) + q N(1, σ²)`. Whoever sees the answer `x` has
//! `L = ln P(x)/Q(x)` as evidence for the example. If the example is removed, the privacy loss is `L` with `x ~ P`;
//! if it is added, it is `−L` with `x ~ Q`. Either has
//!
//! ```text
//! δ(ε) = E (1 − e^{ε − loss})₊
//! ```
//!
//! and the losses of independent steps add up. No other pair of neighbours reveals more: the pair dominates all of
//! them (Zhu, Dong, Wang, *Optimal Accounting of Differential Privacy via Characteristic Function*, 2021, arXiv
//! 2106.08567).
//!
//! In units of the noise, `u = x/σ`, the loss is increasing (for the second direction after a reflection), so a bin
//! of losses is an interval of `u`. Every bin is integrated by Gauss-Legendre rules over pieces short enough for the
//! rounding to be the only error, which keeps the relative accuracy in the smallest bin.

use super::Phase;
use super::normal::density;

/// Which of the two neighbouring data sets is the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The one with the example.
    Remove,
    /// The one without it.
    Add,
}

/// The privacy loss of one step, without the tails of its answer.
#[derive(Clone, Debug)]
pub struct PrivacyLoss {
    noise: f64,
    rate: f64,
    direction: Direction,
    /// How far the answer may be from each mean, in standard deviations.
    reach: f64,
    /// The positions to which it is narrowed.
    between: [f64; 2],
}

/// The bins of losses: bin `k` is from `(k + first_edge) spacing` to `(k + 1 + first_edge) spacing`.
#[derive(Clone, Copy, Debug)]
pub struct Bins {
    /// The width of a bin.
    pub spacing: f64,
    /// The lower edge of bin 0, in bins.
    pub first_edge: f64,
}

/// A value of the loss and its probability.
pub type Node = (f64, f64);

/// The length of the longest piece, in standard deviations.
const PIECE: f64 = 0.05;

/// The Gauss-Legendre rules on `[−1, 1]`, each for pieces up to a length, as positions and weights. At 10
/// standard deviations, where the density changes by `e^{10}` over one of them, their errors are still below 1e-12.
const RULES: [(f64, &[(f64, f64)]); 3] = [
    (
        5e-4,
        &[
            (-0.577_350_269_189_625_8, 1.0),
            (0.577_350_269_189_625_8, 1.0),
        ],
    ),
    (
        0.01,
        &[
            (-0.774_596_669_241_483_4, 5.0 / 9.0),
            (0.0, 8.0 / 9.0),
            (0.774_596_669_241_483_4, 5.0 / 9.0),
        ],
    ),
    (
        f64::INFINITY,
        &[
            (-0.906_179_845_938_664, 0.236_926_885_056_189_08),
            (-0.538_469_310_105_683_1, 0.478_628_670_499_366_47),
            (0.0, 128.0 / 225.0),
            (0.538_469_310_105_683_1, 0.478_628_670_499_366_47),
            (0.906_179_845_938_664, 0.236_926_885_056_189_08),
        ],
    ),
];

impl PrivacyLoss {
    /// - `left_out`: the probability of the tails that may be left out; more is if it is below 1e-296
    pub fn new(phase: &Phase, direction: Direction, left_out: f64) -> Self {
        // A tail has at most e^{−reach²/2}/2.
        let reach = (-2.0 * (0.5 * left_out).ln())
            .max(1.0)
            .sqrt()
            .min(HIGHEST_REACH);
        Self {
            noise: phase.noise_multiplier(),
            rate: phase.sampling_rate(),
            direction,
            reach,
            between: [f64::NEG_INFINITY, f64::INFINITY],
        }
    }

    /// The same without the losses at both ends that have less than a weight altogether.
    ///
    /// Losses may be equal to rounding over a wide interval of answers, so it is the answers that are narrowed.
    pub fn without_light(&self, weight: impl Fn(&Node) -> f64, light: f64) -> Self {
        let support = self.support().into_iter();
        let pieces = support.flat_map(|[start, end]| pieces(start, end));
        let mut pieces: Vec<[f64; 2]> = pieces.collect();
        let first_heavy = |pieces: &[[f64; 2]]| {
            let mut sum = 0.0;
            let mut heavy = |[start, end]: &[f64; 2]| {
                let mut nodes = Vec::new();
                self.integrate(*start, *end, &mut nodes);
                sum += nodes.iter().map(&weight).sum::<f64>();
                sum > light
            };
            pieces
                .iter()
                .position(&mut heavy)
                .map(|index| pieces[index])
        };
        let lowest = first_heavy(&pieces);
        pieces.reverse();
        let highest = first_heavy(&pieces);
        let between = lowest.zip(highest).map(|(low, high)| [low[0], high[1]]);
        Self {
            between: between.unwrap_or(self.between),
            ..self.clone()
        }
    }

    /// The probability of what is left out, at most: two tails of each of two normal distributions.
    pub fn left_out(&self) -> f64 {
        2.0 * (-0.5 * self.reach * self.reach).exp()
    }

    /// `L` where the answer is `u`.
    fn evidence(&self, u: f64) -> f64 {
        let (q, noise) = (self.rate, self.noise);
        log_mixture(q, (u - 0.5 / noise) / noise)
    }

    /// Where `L` is this large; `−∞` if it is never as small.
    fn answer(&self, evidence: f64) -> f64 {
        let q = self.rate;
        let t = if q == 1.0 {
            evidence
        } else if evidence > 1.0 {
            evidence + (-(1.0 - q) * (-evidence).exp()).ln_1p() - q.ln()
        } else {
            let ratio = evidence.exp_m1() / q;
            match ratio > -1.0 {
                true => ratio.ln_1p(),
                false => f64::NEG_INFINITY,
            }
        };
        self.noise * t + 0.5 / self.noise
    }

    /// The loss at a position.
    fn loss(&self, position: f64) -> f64 {
        match self.direction {
            Direction::Remove => self.evidence(position),
            Direction::Add => -self.evidence(-position),
        }
    }

    /// The position of a loss.
    fn position(&self, loss: f64) -> f64 {
        match self.direction {
            Direction::Remove => self.answer(loss),
            Direction::Add => -self.answer(-loss),
        }
    }

    /// The density at a position.
    fn density(&self, position: f64) -> f64 {
        match self.direction {
            Direction::Remove => {
                let without = (1.0 - self.rate) * density(position);
                without + self.rate * density(position - 1.0 / self.noise)
            }
            Direction::Add => density(position),
        }
    }

    /// The intervals of positions that aren't left out.
    fn support(&self) -> Vec<[f64; 2]> {
        let around = |mean: f64| [mean - self.reach, mean + self.reach];
        let [low, high] = [around(0.0), around(1.0 / self.noise)];
        let intervals = match self.direction {
            Direction::Add => vec![low],
            Direction::Remove if self.rate == 1.0 => vec![high],
            Direction::Remove if low[1] < high[0] => vec![low, high],
            Direction::Remove => vec![[low[0], high[1]]],
        };
        let [least, most] = self.between;
        let narrow = |[start, end]: [f64; 2]| [start.max(least), end.min(most)];
        let narrowed = intervals.into_iter().map(narrow);
        narrowed.filter(|[start, end]| start < end).collect()
    }

    /// The length of all intervals of losses.
    pub fn length(&self) -> f64 {
        let support = self.support().into_iter();
        support
            .map(|[start, end]| self.loss(end) - self.loss(start))
            .sum()
    }

    /// All nodes, for expectations.
    pub fn nodes(&self) -> Vec<Node> {
        let mut all = Vec::new();
        for [start, end] in self.support() {
            for [start, end] in pieces(start, end) {
                self.integrate(start, end, &mut all);
            }
        }
        all
    }

    /// Calls a function with every bin that isn't empty and its nodes, in increasing order. A bin that lies in two
    /// intervals comes twice.
    pub fn each_bin(&self, bins: Bins, mut each: impl FnMut(i64, &[Node])) {
        let mut nodes = Vec::new();
        let upper_edge =
            |bin: i64| self.position((bin as f64 + 1.0 + bins.first_edge) * bins.spacing);
        for [start, end] in self.support() {
            let mut bin = (self.loss(start) / bins.spacing - bins.first_edge).floor() as i64;
            let mut edge = upper_edge(bin);
            let mut position = start;
            for [_, end] in pieces(start, end) {
                while edge <= end {
                    self.integrate(position, edge, &mut nodes);
                    position = position.max(edge);
                    flush(bin, &mut nodes, &mut each);
                    bin += 1;
                    edge = upper_edge(bin);
                }
                self.integrate(position, end, &mut nodes);
                position = position.max(end);
            }
            flush(bin, &mut nodes, &mut each);
        }
    }

    /// Adds the nodes of a piece.
    fn integrate(&self, start: f64, end: f64, nodes: &mut Vec<Node>) {
        let half = 0.5 * (end - start);
        if half <= 0.0 {
            return;
        }
        let rule = RULES.iter().find(|(longest, _)| 2.0 * half <= *longest);
        let rule = rule.map_or(&[][..], |(_, rule)| rule);
        nodes.extend(rule.iter().map(|(at, weight)| {
            let position = start + half * (1.0 + at);
            (self.loss(position), half * weight * self.density(position))
        }));
    }
}

/// The densities of f64 end here.
const HIGHEST_REACH: f64 = 37.0;

/// An interval in equal pieces.
fn pieces(start: f64, end: f64) -> impl Iterator<Item = [f64; 2]> {
    let count = ((end - start) / PIECE).ceil().max(1.0);
    let at = move |i: u32| start + (end - start) * (f64::from(i) / count);
    (0..count as u32).map(move |i| [at(i), at(i + 1)])
}

fn flush(bin: i64, nodes: &mut Vec<Node>, each: &mut impl FnMut(i64, &[Node])) {
    if !nodes.is_empty() {
        each(bin, nodes);
        nodes.clear();
    }
}

/// `ln(1 − q + q e^t)`.
pub(crate) fn log_mixture(q: f64, t: f64) -> f64 {
    if q == 1.0 {
        t
    } else if t < -1.0 {
        ((1.0 - q) + q * t.exp()).ln()
    } else if t < 700.0 {
        (q * t.exp_m1()).ln_1p()
    } else {
        q.ln() + t + ((1.0 - q) / q * (-t).exp()).ln_1p()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Direction; 2] = [Direction::Remove, Direction::Add];

    fn loss(noise: f64, rate: f64, direction: Direction) -> PrivacyLoss {
        PrivacyLoss::new(&Phase::new(noise, rate, 1).unwrap(), direction, 1e-30)
    }

    #[test]
    fn a_loss_is_found_where_it_is() {
        for direction in BOTH {
            for noise in [0.1, 1.0, 100.0] {
                for rate in [1e-6, 0.01, 0.5, 0.999, 1.0] {
                    let loss = loss(noise, rate, direction);
                    for position in [-3.0, -0.1, 0.5, 4.0, 9.0] {
                        let value = loss.loss(position);
                        let back = loss.loss(loss.position(value));
                        let bound = 1e-11 * value.abs() + 1e-15;
                        assert!(
                            (back - value).abs() <= bound,
                            "{noise} {rate} {position} {back} {value}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn bins_hold_their_losses_and_all_of_the_probability() {
        for direction in BOTH {
            for (noise, rate, spacing) in [(0.7, 0.01, 1e-3), (0.05, 0.3, 0.1), (3.0, 1.0, 1e-4)] {
                for first_edge in [0.0, -0.5] {
                    let bins = Bins {
                        spacing,
                        first_edge,
                    };
                    let loss = loss(noise, rate, direction);
                    let [mut total, mut other] = [0.0; 2];
                    let mut last = i64::MIN;
                    loss.each_bin(bins, |bin, nodes| {
                        assert!(bin >= last);
                        last = bin;
                        for (value, mass) in nodes {
                            let within = value / spacing - first_edge - bin as f64;
                            assert!((-1e-6..1.0 + 1e-6).contains(&within), "{within}");
                            total += mass;
                            // The probability by the other distribution.
                            other += mass * (-value).exp();
                        }
                    });
                    assert!((total - 1.0).abs() < 1e-13, "{noise} {rate} {total}");
                    // Where two intervals are taken, the other distribution may have more of its mass between.
                    assert!(other <= 1.0 + 1e-12, "{noise} {rate} {other}");
                    assert!(
                        (other - 1.0).abs() < 1e-12 || noise < 0.1,
                        "{noise} {rate} {other}"
                    );
                    let nodes: f64 = loss.nodes().iter().map(|(_, mass)| mass).sum();
                    assert!((nodes - 1.0).abs() < 1e-13, "{nodes}");
                }
            }
        }
    }
}
