//! How long each worker takes in each round: drawn from a law, or recorded.
//!
//! [`TwoStateDelays`] is a law for workers of a cloud service. A worker is fast or straggles; with `z ~ N(0, 1)` and
//! `u` uniform in the range of slowdowns,
//!
//! ```text
//! P(straggles | was fast) = p,   P(straggles | straggled) = q
//! seconds = base · exp(σ z) · (u if it straggles, else 1)
//! ```
//!
//! The [simulator](crate::sequential_gradient_coding::simulation) and [fault injection](super::faults) take a table
//! of [`Delays`], so both can repeat the same rounds.

use nabla_base::range::{self, OutOfRange};
use nabla_grad::SeededNoise;
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// The seconds that every worker takes in every round, at one load.
#[derive(Clone, Debug, PartialEq)]
pub struct Delays {
    workers: usize,
    load: f64,
    /// Row by row, one per round.
    seconds: Vec<f64>,
}

impl Delays {
    /// - `workers`: their number; `load`: the share of a batch that each of them processed per round;
    /// - `seconds`: of every round those of every worker, `[rounds, workers]`
    ///
    /// # Errors
    /// If there are no workers or no rounds, the last round is not whole, or a number is negative or not finite.
    pub fn new(workers: usize, load: f64, seconds: Vec<f64>) -> Result<Self, OutOfRange> {
        range::at_least("number of workers", workers, 1)?;
        range::not_negative("load", load)?;
        range::check(
            !seconds.is_empty() && seconds.len().is_multiple_of(workers),
            "number of delays",
            seconds.len(),
            format!("a positive multiple of the {workers} workers"),
        )?;
        seconds
            .iter()
            .try_for_each(|&delay| range::not_negative("delay", delay))?;
        Ok(Self {
            workers,
            load,
            seconds,
        })
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The number of rounds, after which they are repeated.
    pub fn rounds(&self) -> usize {
        self.seconds.len() / self.workers
    }

    /// The share of a batch that each worker processed per round.
    pub fn load(&self) -> f64 {
        self.load
    }

    /// The seconds of every worker in a round, from 0. After the last round, the first one follows.
    pub fn of_round(&self, round: usize) -> &[f64] {
        let start = round % self.rounds() * self.workers;
        &self.seconds[start..start + self.workers]
    }
}

/// A law of delays with two states; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TwoStateDelays {
    /// The median seconds of a fast worker. Default 0.6.
    pub base_seconds: f64,
    /// σ, the standard deviation of their logarithm. Default 0.12.
    pub sigma: f64,
    /// `p`, the probability that a fast worker straggles in the next round. Default 0.05.
    pub straggle: f64,
    /// `q`, the probability that a straggler straggles again. Default 0.1.
    pub stay: f64,
    /// The least slowdown of a straggler. Default 2.2.
    pub least_slowdown: f64,
    /// The largest slowdown of a straggler. Default 4.
    pub most_slowdown: f64,
}

impl Default for TwoStateDelays {
    fn default() -> Self {
        Self {
            base_seconds: 0.6,
            sigma: 0.12,
            straggle: 0.05,
            stay: 0.1,
            least_slowdown: 2.2,
            most_slowdown: 4.0,
        }
    }
}

impl TwoStateDelays {
    /// Draws the delays of `rounds` rounds, at load 0: the law says nothing about the work. Each worker has its own
    /// stream of the seed, so with more workers or rounds the first ones stay the same.
    ///
    /// # Errors
    /// If there are no workers or no rounds, a probability is not from 0 to 1, the base is not positive, σ is
    /// negative, or the slowdowns don't rise from at least 1.
    ///
    /// ```
    /// use nabla_share::communicator::delays::TwoStateDelays;
    ///
    /// let delays = TwoStateDelays::default().draw(8, 100, 42)?;
    /// let slow = |round| delays.of_round(round).iter().filter(|&&seconds| seconds > 1.2).count();
    /// let stragglers: usize = (0..100).map(slow).sum();
    /// assert!((20..80).contains(&stragglers)); // about 5 % of 800
    /// # Ok::<(), nabla_base::OutOfRange>(())
    /// ```
    pub fn draw(&self, workers: usize, rounds: usize, seed: u64) -> Result<Delays, OutOfRange> {
        range::at_least("number of workers", workers, 1)?;
        range::at_least("number of rounds", rounds, 1)?;
        range::positive("base of the delays", self.base_seconds)?;
        range::not_negative("sigma of the delays", self.sigma)?;
        range::within("probability to straggle", self.straggle, 0.0..=1.0)?;
        range::within("probability to straggle again", self.stay, 0.0..=1.0)?;
        range::at_least("least slowdown", self.least_slowdown, 1.0)?;
        range::finite("largest slowdown", self.most_slowdown)?;
        range::at_least("largest slowdown", self.most_slowdown, self.least_slowdown)?;
        let mut seconds = vec![0.0; workers * rounds];
        for worker in 0..workers {
            let mut noise = SeededNoise::new(seed, worker as u64);
            let mut straggles = false;
            for round in 0..rounds {
                // Every round draws three numbers, whatever the state.
                let change: f64 = noise.random();
                let z: f64 = StandardNormal.sample(&mut noise);
                let u: f64 = noise.random();
                straggles = change < if straggles { self.stay } else { self.straggle };
                let slowdown = match straggles {
                    true => self.least_slowdown + u * (self.most_slowdown - self.least_slowdown),
                    false => 1.0,
                };
                seconds[round * workers + worker] =
                    self.base_seconds * (self.sigma * z).exp() * slowdown;
            }
        }
        Delays::new(workers, 0.0, seconds)
    }
}

/// The line `seconds = constant + slope · load`, fitted to measured rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadFit {
    /// `c`: the seconds of a round without work.
    pub constant: f64,
    /// α: the seconds of a whole batch.
    pub slope: f64,
}

impl LoadFit {
    /// Fits the line by least squares to pairs of load and seconds; `None` if all have the same load, or none is
    /// finite.
    ///
    /// ```
    /// use nabla_share::communicator::delays::LoadFit;
    ///
    /// let measured = [(0.0, 0.5), (0.5, 1.6), (1.0, 2.7)];
    /// let fit = LoadFit::of(measured).unwrap();
    /// assert!((fit.constant - 0.5).abs() < 1e-12 && (fit.slope - 2.2).abs() < 1e-12);
    /// ```
    pub fn of(measured: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let finite = |&(load, seconds): &(f64, f64)| load.is_finite() && seconds.is_finite();
        let points: Vec<(f64, f64)> = measured.into_iter().filter(finite).collect();
        let count = points.len() as f64;
        let load = points.iter().map(|point| point.0).sum::<f64>() / count;
        let seconds = points.iter().map(|point| point.1).sum::<f64>() / count;
        let products = points.iter().map(|(l, s)| (l - load) * (s - seconds));
        let slope = products.sum::<f64>()
            / points
                .iter()
                .map(|(l, _)| (l - load) * (l - load))
                .sum::<f64>();
        slope.is_finite().then_some(Self {
            constant: seconds - slope * load,
            slope,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_law_that_makes_no_sense_is_refused() {
        let law = TwoStateDelays::default();
        assert!(law.draw(0, 1, 0).is_err() && law.draw(1, 0, 0).is_err());
        let never = TwoStateDelays {
            straggle: 1.5,
            ..law.clone()
        };
        let error = never.draw(1, 1, 0).unwrap_err().to_string();
        assert_eq!(
            error,
            "the probability to straggle is 1.5, but it must be from 0 to 1"
        );
        let falling = TwoStateDelays {
            most_slowdown: 2.0,
            ..law
        };
        assert!(falling.draw(1, 1, 0).is_err());
    }

    #[test]
    fn more_workers_and_rounds_leave_the_first_ones_unchanged() {
        let law = TwoStateDelays::default();
        let (few, many) = (law.draw(2, 5, 7).unwrap(), law.draw(3, 9, 7).unwrap());
        for round in 0..5 {
            assert_eq!(few.of_round(round), &many.of_round(round)[..2]);
        }
        assert_eq!(few.of_round(5), few.of_round(0));
    }

    #[test]
    fn one_load_fits_no_line() {
        assert_eq!(LoadFit::of([]), None);
        assert_eq!(LoadFit::of([(0.5, 1.0), (0.5, 2.0)]), None);
    }
}
