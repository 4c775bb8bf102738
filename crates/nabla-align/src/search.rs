//! Where the options of an objective are searched.
//!
//! A comparison is fair if every objective gets the same number of draws. What is drawn, and from where, is what the
//! objective says ([`Objective::search`](crate::Objective::search)); those of Nabla have DomainBed's distributions. A number of
//! steps is that of a training with 5000 steps, and scales with the training.

use nabla_base::registry::Options;
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use serde_json::Value;

/// A distribution of an option's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// `10^u` with `u` uniform between two numbers.
    Power(f64, f64),
    /// Uniform between two numbers.
    Uniform(f64, f64),
    /// One of some values.
    OneOf(&'static [f64]),
    /// As [`Power`](Self::Power), a whole number of steps in a training with 5000.
    PowerOfSteps(f64, f64),
    /// As [`Uniform`](Self::Uniform), a whole number of steps in a training with 5000.
    UniformSteps(f64, f64),
}

/// The steps of DomainBed's trainings, to which numbers of steps refer.
const STEPS: f64 = 5000.0;

impl Draw {
    /// A value for a training with so many steps.
    pub fn value(self, steps: usize, noise: &mut SeededNoise) -> Value {
        let mut between = |low: f64, high: f64| low + (high - low) * noise.random::<f64>();
        let whole = |x: f64| Value::from((x * steps as f64 / STEPS).round() as u64);
        match self {
            Self::Power(low, high) => Value::from(10_f64.powf(between(low, high))),
            Self::Uniform(low, high) => Value::from(between(low, high)),
            Self::PowerOfSteps(low, high) => whole(10_f64.powf(between(low, high))),
            Self::UniformSteps(low, high) => whole(between(low, high)),
            Self::OneOf(values) => {
                let at = (between(0.0, values.len() as f64)) as usize;
                Value::from(
                    values
                        .get(at)
                        .or(values.last())
                        .copied()
                        .unwrap_or_default(),
                )
            }
        }
    }
}

/// An option that is searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Searched {
    /// The option's name.
    pub option: &'static str,
    /// Its distribution.
    pub draw: Draw,
}

impl Searched {
    /// An option with its distribution.
    pub const fn new(option: &'static str, draw: Draw) -> Self {
        Self { option, draw }
    }
}

/// The defaults of the options that are numbers of steps, where the training has not 5000.
///
/// - `defaults`: of all options
pub fn scaled(searched: &[Searched], defaults: &Options, steps: usize) -> Options {
    let is_steps = |draw: Draw| matches!(draw, Draw::PowerOfSteps(..) | Draw::UniformSteps(..));
    let mut options = Options::new();
    for option in searched.iter().filter(|s| is_steps(s.draw)) {
        if let Some(default) = defaults.get(option.option).and_then(Value::as_f64)
            && steps as f64 != STEPS
        {
            let value = (default * steps as f64 / STEPS).round() as u64;
            options.set(option.option, Value::from(value));
        }
    }
    options
}

/// Values for all options that are searched.
pub fn drawn(searched: &[Searched], steps: usize, noise: &mut SeededNoise) -> Options {
    let values = searched
        .iter()
        .map(|s| (s.option, s.draw.value(steps, noise)));
    values.fold(Options::new(), |options, (name, value)| {
        options.with(name, value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_within_their_ranges_and_steps_scale() {
        let mut noise = SeededNoise::new(3, 0);
        for _ in 0..200 {
            let mut number = |draw: Draw| draw.value(500, &mut noise).as_f64().unwrap();
            assert!((0.1..=1e5).contains(&number(Draw::Power(-1.0, 5.0))));
            assert!((0.9..=0.99).contains(&number(Draw::Uniform(0.9, 0.99))));
            assert!([0.05, 0.1].contains(&number(Draw::OneOf(&[0.05, 0.1]))));
            let steps = number(Draw::PowerOfSteps(0.0, 4.0));
            assert!((0.0..=1000.0).contains(&steps) && steps.fract() == 0.0);
            assert!(number(Draw::UniformSteps(0.0, 5000.0)) <= 500.0);
        }
        let searched = [
            Searched::new("every", Draw::UniformSteps(0.0, 5000.0)),
            Searched::new("rate", Draw::Uniform(0.0, 1.0)),
        ];
        let defaults = Options::new().with("every", 500).with("rate", 0.1);
        let every = scaled(&searched, &defaults, 1000);
        assert_eq!(every, Options::new().with("every", 100_u64));
        assert!(scaled(&searched, &defaults, 5000).is_empty());
        let searched = [
            Searched::new("a", Draw::Uniform(0.0, 1.0)),
            Searched::new("b", Draw::Power(0.0, 1.0)),
        ];
        let of = |seed| drawn(&searched, 10, &mut SeededNoise::new(seed, 0));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_eq!(of(1).names().collect::<Vec<_>>(), ["a", "b"]);
    }
}
