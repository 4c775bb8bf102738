//! Poisson clocks of all nodes and edges.

use nabla_grad::SeededNoise;
use rand::RngExt;
use rand_distr::{Distribution, Exp1};

use crate::graph::EdgeRates;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Gradient(usize),
    Gossip(usize, usize),
}

/// The events of all clocks in order. Together the clocks are one of the sum of their rates, and each event belongs to
/// one of them with the probability of its share.
pub(super) struct Clocks<'a> {
    rates: &'a EdgeRates,
    noise: SeededNoise,
    total: f64,
    time: f64,
    until: f64,
}

impl<'a> Clocks<'a> {
    pub(super) fn new(rates: &'a EdgeRates, until: f64, seed: u64) -> Self {
        Self {
            rates,
            noise: SeededNoise::new(seed, 0),
            total: rates.graph().nodes() as f64 + rates.total(),
            time: 0.0,
            until,
        }
    }
}

impl Iterator for Clocks<'_> {
    type Item = (f64, Event);

    fn next(&mut self) -> Option<Self::Item> {
        let wait: f64 = Exp1.sample(&mut self.noise);
        self.time += wait / self.total;
        if self.time > self.until {
            return None;
        }
        let nodes = self.rates.graph().nodes();
        let mut place = self.noise.random::<f64>() * self.total - nodes as f64;
        if place < 0.0 {
            let node = (place + nodes as f64) as usize;
            return Some((self.time, Event::Gradient(node.min(nodes - 1))));
        }
        let mut chosen = None;
        for (&edge, &rate) in self.rates.graph().edges().iter().zip(self.rates.rates()) {
            if rate > 0.0 {
                chosen = Some(edge);
            }
            if place < rate {
                break;
            }
            place -= rate;
        }
        let (i, j) = chosen?;
        Some((self.time, Event::Gossip(i, j)))
    }
}
