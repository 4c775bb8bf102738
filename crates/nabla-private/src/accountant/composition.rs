//! The sum of the privacy losses of all steps, to full relative accuracy in its far tail.
//!
//! The convolution power of a distribution on a grid is a power of its Fourier transform. Rounding puts an error of
//! about 1e-16 times the number of steps into every bin, which is more than a small `δ` is made of. So the
//! distributions are **tilted** first: with `K(s) = ln E e^{s loss}` of one step, the probability of each loss is
//! multiplied by `e^{s loss − K(s)}`. Sums of tilted losses are the tilted sum of the losses,
//!
//! ```text
//! P(Σ loss = l) = e^{Σ K(s) − s l} P̃(Σ loss = l)
//! ```
//!
//! so the errors are relative to `δ` if the tilted sum is where the answer is. That is where Chernoff's bound
//!
//! ```text
//! ln δ(ε) ≤ Σ K(s) − s ε + s ln s − (s + 1) ln(s + 1)
//! ```
//!
//! is least. (It is the bound of [`rdp`](super::rdp) with `α = s + 1`, for any order.)
//!
//! Chernoff's bounds of the tilted sum give a window beyond each of whose ends it has a probability of at most
//! `e^{−16}`. The transform is of the length of the window. What lies beyond it comes in again on the other side;
//! what is above may be lost, so its bound is added to `δ`. What is below makes `δ` larger. The rounding is bounded and
//! added as well.
//!
//! From the top of the grid downwards, with spacing `h`, probabilities `p` and tails `A`, `δ` has the recurrence of
//! positive terms
//!
//! ```text
//! δ(l_k) = (1 − e^{−h}) A_k + e^{−h} δ(l_{k+1}),    A_k = A_{k+1} + p_{k+1}
//! ```

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

use super::bisection::bisect;
use super::log_sum::LogSum;
use super::privacy_loss::{Direction, Node, PrivacyLoss};
use super::{History, Phase};

/// Equal steps of a composition.
struct Part {
    loss: PrivacyLoss,
    nodes: Vec<Node>,
    steps: f64,
}

/// The losses of all steps, in one direction.
pub struct Composition {
    parts: Vec<Part>,
    /// The probability that is left out, of all steps together.
    left_out: f64,
}

/// A tilt of one or all steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tilt {
    /// The parameter.
    pub s: f64,
    /// `K(s)`
    log_moment: f64,
    /// The mean of the tilted loss, `K'(s)`.
    mean: f64,
    /// The relative entropy of the tilted loss, `s K'(s) − K(s)`.
    entropy: f64,
}

/// Where nearly all of the tilted sum is.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    tilt: Tilt,
    bottom: f64,
    top: f64,
    /// How much stronger the tilt is whose mean is the upper end.
    stronger: f64,
}

/// The tilted loss of one step on a grid, which begins anew beyond its end.
pub struct Discrete {
    window: Window,
    spacing: f64,
    log_moment: f64,
    masses: Vec<f64>,
    total: f64,
    /// The sum of the losses, times their probabilities.
    first_moment: f64,
    /// The sum of the probabilities after the further tilt by which the end of the window is found.
    beyond: LogSum,
    /// What to add to every loss of the grid.
    pub shift: f64,
}

/// The tilted sum on a grid.
pub struct Composed {
    spacing: f64,
    s: f64,
    log_moment: f64,
    /// The loss of the first probability.
    first: f64,
    /// `δ` at each loss, divided by the factor of the tilt there.
    tilted_deltas: Vec<f64>,
    /// A bound of the rounding of each of them.
    rounding: f64,
    /// What to add to every `δ` for what isn't on the grid.
    missing: f64,
}

/// What is to be known of `δ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It is not larger than this.
    Upper,
    /// About this.
    Estimate,
    /// It is not smaller than this, if the grid is exact.
    Lower,
}

/// The losses of all steps on a grid, not yet added up.
pub struct Steps<'a> {
    composition: &'a Composition,
    window: Window,
    points: usize,
    spacing: f64,
    discrete: Vec<Discrete>,
}

/// The negative logarithm of the probability beyond each end of the window.
const NATS: f64 = 16.0;

/// What is negligible of a tilted step: far below the rounding.
const LIGHT: f64 = 1e-22;

/// How often the losses of a step may cover the window.
const MOST_TIMES: f64 = 10.0;

/// The logarithms of the weakest and of the strongest tilt.
const TILTS: [f64; 2] = [-35.0, 80.0];

impl Tilt {
    /// The tilt of one step.
    fn of_step(nodes: &[Node], s: f64) -> Self {
        let extremes =
            [nodes.first(), nodes.last()].map(|node| node.map_or(0.0, |(loss, _)| *loss));
        let [lowest, highest] = match s > 0.0 {
            true => extremes,
            false => [extremes[1], extremes[0]],
        };
        // Around 0, small losses keep their digits, as the probabilities add up to 1; around the highest, large ones do.
        let small = s * highest < 500.0 && s * lowest > -20.0;
        let origin = if small { 0.0 } else { highest };
        let [mut moment, mut slope] = [0.0; 2];
        for (loss, mass) in nodes {
            let distance = loss - origin;
            let exponent = s * distance;
            // Far below the origin, e^x − 1 has no digits left of e^x.
            moment += mass
                * if small {
                    exponent.exp_m1()
                } else {
                    exponent.exp()
                };
            slope += mass * distance * exponent.exp();
        }
        let (log_moment, slope) = match small {
            true => (moment.ln_1p(), slope / (1.0 + moment)),
            false => (moment.ln(), slope / moment),
        };
        Self {
            s,
            log_moment: log_moment + s * origin,
            mean: slope + origin,
            entropy: s * slope - log_moment,
        }
    }

    /// The tilt of all steps.
    fn of_all<'a>(s: f64, parts: impl Iterator<Item = (&'a [Node], f64)>) -> Self {
        let none = Self {
            s,
            ..Self::default()
        };
        parts.fold(none, |total, (nodes, steps)| {
            let step = Self::of_step(nodes, s);
            Self {
                s,
                log_moment: total.log_moment + steps * step.log_moment,
                mean: total.mean + steps * step.mean,
                entropy: total.entropy + steps * step.entropy,
            }
        })
    }

    /// The logarithm of Chernoff's bound of `δ(ε)`.
    pub fn log_delta(&self, epsilon: f64) -> f64 {
        self.log_moment - self.s * epsilon - self.cost()
    }

    /// The `ε` whose bound is `δ`.
    pub fn epsilon(&self, delta: f64) -> f64 {
        (self.log_moment - delta.ln() - self.cost()) / self.s
    }

    /// `(s + 1) ln(s + 1) − s ln s`
    fn cost(&self) -> f64 {
        self.s.ln_1p() + self.s * (1.0 / self.s).ln_1p()
    }

    /// The size of `ε` to which its error relates: `ε`, or what changes `δ` by a factor, but 1 if that is from 1 to 10, and
    /// a tenth of it beyond.
    pub fn scale(&self, epsilon: f64) -> f64 {
        let size = epsilon.max(1.0 / self.s);
        size.min(1.0).max(0.1 * size)
    }

    /// The `ε` for which this tilt is the best one.
    fn target(&self) -> f64 {
        self.mean - (1.0 / self.s).ln_1p()
    }
}

impl Composition {
    /// Both directions, or one if they are the same.
    ///
    /// - `left_out`: the probability that may be left out
    pub fn directions(history: &History, left_out: f64) -> Vec<Self> {
        let (mut phases, mu) = history.sampled_and_mu();
        let directions = match phases.is_empty() {
            true => &[Direction::Remove][..],
            false => &[Direction::Remove, Direction::Add],
        };
        phases.extend((mu > 0.0).then(|| Phase::of_all_examples(1.0 / mu)));
        let steps = phases.iter().map(|p| p.steps() as f64).sum::<f64>();
        let of_direction = |&direction: &Direction| {
            let part = |phase: &Phase| {
                let loss = PrivacyLoss::new(phase, direction, left_out / steps);
                Part {
                    nodes: loss.nodes(),
                    loss,
                    steps: phase.steps() as f64,
                }
            };
            let parts: Vec<Part> = phases.iter().map(part).collect();
            let left_out = parts.iter().map(|part| part.steps * part.loss.left_out());
            Self {
                left_out: left_out.sum(),
                parts,
            }
        };
        directions.iter().map(of_direction).collect()
    }

    /// The probability that is left out.
    pub fn left_out(&self) -> f64 {
        self.left_out
    }

    /// The number of steps, where those without a sample are one.
    pub fn steps(&self) -> f64 {
        self.parts.iter().map(|part| part.steps).sum()
    }

    /// The tilt of a parameter.
    fn tilt(&self, s: f64) -> Tilt {
        let parts = self.parts.iter();
        Tilt::of_all(s, parts.map(|part| (part.nodes.as_slice(), part.steps)))
    }

    /// The best tilt for a `δ`.
    pub fn tilt_for_delta(&self, delta: f64) -> Tilt {
        self.first_tilt(|tilt| tilt.entropy + tilt.s.ln_1p() >= -delta.ln())
    }

    /// The best tilt for an `ε`.
    pub fn tilt_for_epsilon(&self, epsilon: f64) -> Tilt {
        self.first_tilt(|tilt| tilt.target() >= epsilon)
    }

    /// A weaker tilt, for losses whose far tail is so heavy that the best Chernoff bound is far above `ε`.
    pub fn weaker(&self, tilt: Tilt) -> Tilt {
        self.tilt(0.25 * tilt.s)
    }

    /// The weakest tilt for which a condition holds, or the strongest of all.
    fn first_tilt(&self, holds: impl Fn(&Tilt) -> bool) -> Tilt {
        let tilted = |log: f64| self.tilt(log.exp());
        let [_, log] = bisect(TILTS, |log| holds(&tilted(log)));
        tilted(log)
    }

    /// The same without losses that are negligible in every step of a tilt, so that a grid has less to hold.
    pub fn without_light(&self, tilt: Tilt) -> Self {
        let narrowed = |part: &Part| {
            let log_moment = Tilt::of_step(&part.nodes, tilt.s).log_moment;
            let tilted = |(loss, mass): &Node| mass * (tilt.s * loss - log_moment).exp();
            Part {
                loss: part.loss.without_light(tilted, LIGHT),
                nodes: part.nodes.clone(),
                steps: part.steps,
            }
        };
        Self {
            parts: self.parts.iter().map(narrowed).collect(),
            left_out: self.left_out,
        }
    }

    /// Where nearly all of a tilted sum is, and the `ε` of its tilt.
    pub fn window(&self, tilt: Tilt) -> Window {
        let tilted = |part: &Part| {
            let log_moment = Tilt::of_step(&part.nodes, tilt.s).log_moment;
            let nodes = part.nodes.iter();
            let nodes =
                nodes.map(|(loss, mass)| (*loss, mass * (tilt.s * loss - log_moment).exp()));
            // The tilt looks for the highest and the lowest of them.
            (
                nodes.filter(|(_, mass)| *mass > 0.0).collect::<Vec<_>>(),
                part.steps,
            )
        };
        let tilted: Vec<_> = self.parts.iter().map(tilted).collect();
        let beyond = |sign: f64| {
            let further = |log: f64| {
                let parts = tilted
                    .iter()
                    .map(|(nodes, steps)| (nodes.as_slice(), *steps));
                Tilt::of_all(sign * log.exp(), parts)
            };
            let [_, log] = bisect(TILTS, |log| further(log).entropy >= NATS);
            further(log)
        };
        let [below, above] = [beyond(-1.0), beyond(1.0)];
        // Not the means, which jump where nothing is between two groups of losses.
        let [bottom, top] = [below, above].map(|t| (t.log_moment + NATS) / t.s);
        let margin = 0.5 * (tilt.mean - bottom);
        Window {
            tilt,
            bottom: bottom.min(tilt.target() - margin),
            // A bounded sum ends there, and its grid a little above.
            top: top + 0.02 * (top - tilt.mean),
            stronger: above.s,
        }
    }

    /// Puts the losses on a grid; none if a step covers it many times. The strongest tilts have such narrow windows,
    /// for an `ε` that hardly any loss can reach, and Chernoff's bound is all there is.
    ///
    /// - `points`: the number of points in the window, even
    /// - `discretize`: distributes the probability of a loss over the grid
    pub fn on_grid(
        &self,
        window: Window,
        points: usize,
        discretize: impl Fn(&PrivacyLoss, &mut Discrete),
    ) -> Option<Steps<'_>> {
        // The highest loss may be rounded up, beyond the window.
        let spacing = window.width() / (points - 4) as f64;
        let longest = MOST_TIMES * window.width();
        let narrow = self.parts.iter().all(|part| part.loss.length() <= longest);
        if !(narrow && spacing > 0.0) {
            return None;
        }
        let of_part = |part: &Part| {
            let mut discrete = Discrete {
                window,
                spacing,
                log_moment: Tilt::of_step(&part.nodes, window.tilt.s).log_moment,
                masses: vec![0.0; points],
                total: 0.0,
                first_moment: 0.0,
                beyond: LogSum::default(),
                shift: 0.0,
            };
            discretize(&part.loss, &mut discrete);
            discrete
        };
        Some(Steps {
            composition: self,
            window,
            points,
            spacing,
            discrete: self.parts.iter().map(of_part).collect(),
        })
    }
}

impl Window {
    /// The length.
    pub fn width(&self) -> f64 {
        self.top - self.bottom
    }
}

impl Discrete {
    /// The distance of the points.
    pub fn spacing(&self) -> f64 {
        self.spacing
    }

    /// Adds probability at a point.
    pub fn add(&mut self, position: i64, mass: f64) {
        if mass <= 0.0 {
            return;
        }
        let loss = position as f64 * self.spacing;
        let log_mass = mass.ln() + self.window.tilt.s * loss - self.log_moment;
        let tilted = log_mass.exp();
        let index = position.rem_euclid(self.masses.len() as i64) as usize;
        self.masses[index] += tilted;
        self.total += tilted;
        self.first_moment += tilted * loss;
        self.beyond.add(log_mass + self.window.stronger * loss);
    }
}

impl Steps<'_> {
    /// The distance of the points.
    pub fn spacing(&self) -> f64 {
        self.spacing
    }

    /// How much larger the grid has made `Σ K(s)`.
    pub fn excess(&self) -> f64 {
        self.total(|discrete| discrete.total.ln())
    }

    /// A sum over all steps.
    fn total(&self, of_step: impl Fn(&Discrete) -> f64) -> f64 {
        let parts = self.composition.parts.iter().zip(&self.discrete);
        parts.map(|(part, d)| part.steps * of_step(d)).sum()
    }

    /// The transform of the tilted losses of one step, to the power of the number of steps.
    fn power(
        &self,
        discrete: &Discrete,
        steps: f64,
        planner: &mut FftPlanner<f64>,
    ) -> Vec<Complex<f64>> {
        let scaled = discrete.masses.iter().map(|mass| mass / discrete.total);
        let mut values: Vec<Complex<f64>> = scaled.map(Complex::from).collect();
        planner.plan_fft_forward(self.points).process(&mut values);
        if steps > 1.0 {
            for value in &mut values {
                let log_radius = 0.5 * value.norm_sqr().ln();
                *value = Complex::from_polar((steps * log_radius).exp(), steps * value.arg());
            }
        }
        values
    }

    /// The sum of all losses.
    pub fn composed(&self) -> Composed {
        let (s, spacing) = (self.window.tilt.s, self.spacing);
        let mut planner = FftPlanner::new();
        let mut spectrum: Option<Vec<Complex<f64>>> = None;
        for (part, discrete) in self.composition.parts.iter().zip(&self.discrete) {
            let power = self.power(discrete, part.steps, &mut planner);
            match &mut spectrum {
                None => spectrum = Some(power),
                Some(product) => product.iter_mut().zip(power).for_each(|(p, f)| *p *= f),
            }
        }
        let mut sums = spectrum.unwrap_or_else(|| vec![Complex::new(1.0, 0.0); self.points]);
        planner.plan_fft_inverse(self.points).process(&mut sums);

        let moved = self.total(|d| d.first_moment / d.total) - self.window.tilt.mean;
        let first = ((self.window.bottom + moved) / spacing).floor() as i64;
        let log_moment = self.window.tilt.log_moment + self.excess();
        let steps = self.composition.steps();
        let digits = steps + log_moment.abs() + 4.0 * (self.points as f64).log2();
        let rounding = 4.0 * f64::EPSILON * digits;
        let [keep, rise] = [(-spacing).exp(), -(-spacing).exp_m1()];
        let fall = (-s * spacing).exp();
        let [mut tail, mut delta] = [0.0; 2];
        let mut tilted_deltas = vec![0.0; self.points];
        for (i, tilted) in tilted_deltas.iter_mut().enumerate().rev() {
            *tilted = delta;
            let index = (first + i as i64).rem_euclid(self.points as i64) as usize;
            let mass = sums[index].re / self.points as f64;
            tail = fall * (tail + mass.max(0.0));
            delta = rise * tail + keep * fall * delta;
        }

        let top = (first + self.points as i64 - 1) as f64 * spacing;
        let above = self.log_probability_above(top) + log_moment - s * top;
        let shift = self.total(|discrete| discrete.shift);
        Composed {
            spacing,
            s,
            // The factor of the tilt is that of the grid without the shift.
            log_moment: log_moment + s * shift,
            first: first as f64 * spacing + shift,
            tilted_deltas,
            rounding,
            missing: self.composition.left_out + above.exp(),
        }
    }

    /// The logarithm of a bound of the tilted sum's probability above a loss.
    fn log_probability_above(&self, top: f64) -> f64 {
        let of_step = |discrete: &Discrete| discrete.beyond.log() - discrete.total.ln();
        self.total(of_step) - self.window.stronger * top
    }
}

impl Composed {
    /// The loss at a point.
    fn loss(&self, index: usize) -> f64 {
        self.first + index as f64 * self.spacing
    }

    /// The logarithm of `δ` at a point, without what is missing.
    fn log_delta(&self, index: usize, side: Side) -> f64 {
        let rounding = match side {
            Side::Upper => self.rounding,
            Side::Estimate => 0.0,
            Side::Lower => -self.rounding,
        };
        let tilted = (self.tilted_deltas[index] + rounding).max(0.0);
        tilted.ln() + self.log_moment - self.s * self.loss(index)
    }

    /// The least `ε` for a `δ`; none if it is above the grid, and its first loss if it is below.
    pub fn epsilon(&self, delta: f64, side: Side) -> Option<f64> {
        let missing = if side == Side::Upper {
            self.missing
        } else {
            0.0
        };
        let log_target = (delta - missing).max(0.0).ln();
        // From the top, because far below it there is only rounding.
        let points = self.tilted_deltas.len();
        let enough = |&index: &usize| self.log_delta(index, side) <= log_target;
        let low_end = (0..points).rev().take_while(enough).last()?;
        if low_end == 0 {
            return Some(self.first);
        }
        // Between two points, δ is linear in e^ε.
        let ratio = |index: usize| (self.log_delta(index, side) - log_target).exp();
        let [above, below] = [ratio(low_end - 1), ratio(low_end)];
        let share = (1.0 - below) / (above - below);
        Some(self.loss(low_end) + (share * (-self.spacing).exp_m1()).ln_1p())
    }

    /// Whether an `ε` is on the grid, not at its lower end.
    pub fn holds(&self, epsilon: f64) -> bool {
        epsilon > self.first
    }

    /// How much less than `ε` its `δ` could need if the grid were finer: a convex curve through the points is above
    /// the lines through the two points before and the two after it.
    pub fn resolution(&self, epsilon: f64) -> f64 {
        let last = self.tilted_deltas.len() - 2;
        let inner = self
            .index_below(epsilon)
            .filter(|index| (1..last).contains(index));
        let Some(index) = inner else {
            return 0.0;
        };
        // In units of e^ε, from ε on.
        let x = |index: usize| (self.loss(index) - epsilon).exp_m1();
        let highest = self.log_delta(index, Side::Upper);
        let y = |index: usize| (self.log_delta(index, Side::Upper) - highest).exp();
        let slope = |i: usize| (y(i + 1) - y(i)) / (x(i + 1) - x(i));
        let delta = y(index) - slope(index) * x(index);
        let reached = |from: usize, slope: f64| x(from) + (delta - y(from)) / slope;
        let before = reached(index, slope(index - 1));
        let after = reached(index + 1, slope(index + 1));
        let low = before.max(after).clamp(-1.0, 0.0);
        (-low.ln_1p()).min(self.spacing)
    }

    /// The last point that is not above an `ε`.
    fn index_below(&self, epsilon: f64) -> Option<usize> {
        let index = ((epsilon - self.first) / self.spacing).floor();
        let within = index >= 0.0 && index + 1.0 < self.tilted_deltas.len() as f64;
        within.then_some(index as usize)
    }

    /// `δ` for an `ε`; none if it is beyond the grid.
    pub fn delta(&self, epsilon: f64) -> Option<f64> {
        let index = self.index_below(epsilon)?;
        let [above, below] = [index, index + 1].map(|i| self.log_delta(i, Side::Upper).exp());
        let share = (epsilon - self.loss(index + 1)).exp_m1() / (-self.spacing).exp_m1();
        Some(below + share.clamp(0.0, 1.0) * (above - below) + self.missing)
    }
}
