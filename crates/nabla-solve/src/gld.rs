//! Gradientless descent: the best of random jumps of many lengths.
//!
//! This is a method without gradient estimates, with which [`zo_rank_sgd`](crate::zo_rank_sgd) is compared.
//! In each iteration, with `v_k` uniform in the unit ball, `x` becomes the best of
//!
//! ```text
//! x,   x + 2^{−k} R v_k
//! GLD-Search   k = 0, …, log₂(R/r)                    from the distance R to the target down to r
//! GLD-Fast     k = −K, …, K,  K = log₂(4√Q)           around a radius R that halves every
//!              H = ⌈d Q log₂ Q⌉ iterations             for the condition number Q
//! ```
//!
//! It uses only comparisons: one question for the best of all points.
//!
//! Source: Golovin, Karro, Kochanski, Lee, Song, Zhang, *Gradientless Descent: High-Dimensional
//! Zeroth-Order Optimization*, ICLR 2020, arXiv 1911.06317.

use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::ranking_oracle::{RankingOracle, ask};
use crate::zeroth_order::{Directions, RunError, RunState, ZerothOrderError, check_point, load};
use nabla_base::vector::moved;

/// The lengths of the jumps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Radii {
    /// GLD-Search: from the largest to the smallest.
    Search {
        /// `R`.
        largest: f64,
        /// `r`, at most `R`.
        smallest: f64,
    },
    /// GLD-Fast.
    Fast {
        /// `R` at first.
        radius: f64,
        /// `Q`, a bound of the condition number, at least 1.
        condition: f64,
    },
}

/// A run of gradientless descent; see the [module](self). It can be saved and loaded with serde, and
/// continues with the same bits; loading checks it.
///
/// ```
/// use nabla_solve::gld::{GradientlessDescent, Radii};
/// use nabla_solve::ranking_oracle::FunctionOracle;
/// let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
/// let radii = Radii::Search { largest: 2.0, smallest: 1e-3 };
/// let mut run = GradientlessDescent::new(radii, [1.0; 5], 0)?;
/// for _ in 0..100 {
///     run.step(&mut FunctionOracle::new(f))?;
/// }
/// assert!(f(run.point()) < 1e-2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GradientlessDescent {
    #[serde(deserialize_with = "load")]
    state: State,
}

/// The serialised form of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    radii: Radii,
    point: Vec<f64>,
    seed: u64,
    iterations: u64,
    queries: u64,
}

impl RunState for State {
    fn check(&self) -> Result<(), ZerothOrderError> {
        let (radius, name, value, holds, expected) = match self.radii {
            Radii::Search { largest, smallest } => (
                largest,
                "smallest radius",
                smallest,
                smallest <= largest,
                "at most the largest",
            ),
            Radii::Fast { radius, condition } => (
                radius,
                "condition number",
                condition,
                condition >= 1.0,
                "at least 1",
            ),
        };
        range::positive("radius", radius)?;
        range::positive(name, value)?;
        range::check(holds, name, value, expected)?;
        check_point(&self.point)
    }
}

impl GradientlessDescent {
    /// Starts a run at `start`, `[d]`, with jumps drawn from `seed`.
    ///
    /// # Errors
    /// If a radius is not positive and finite, the smallest is larger than the largest, the condition
    /// number is less than 1, or `start` is empty or not finite.
    pub fn new<X: Into<f64>>(
        radii: Radii,
        start: impl IntoIterator<Item = X>,
        seed: u64,
    ) -> Result<Self, ZerothOrderError> {
        let state = State {
            radii,
            point: start.into_iter().map(Into::into).collect(),
            seed,
            iterations: 0,
            queries: 0,
        };
        Ok(Self {
            state: state.checked()?,
        })
    }

    /// The current point, `[d]`.
    pub fn point(&self) -> &[f64] {
        &self.state.point
    }

    /// The number of points so far, without the current points of the run.
    pub fn queries(&self) -> u64 {
        self.state.queries
    }

    /// The radii of the next iteration, the largest first.
    pub fn radii(&self) -> Vec<f64> {
        let (middle, least, most) = match self.state.radii {
            Radii::Search { largest, smallest } => {
                (largest, 0, (largest / smallest).log2().floor() as i32)
            }
            Radii::Fast { radius, condition } => {
                let each = (self.state.point.len() as f64 * condition * condition.log2()).ceil();
                let halvings = (self.state.iterations as f64 / each.max(1.0)).floor();
                let k = (4.0 * condition.sqrt()).log2().ceil() as i32;
                (radius * (-halvings).exp2(), -k, k)
            }
        };
        (least..=most)
            .map(|k| middle * (-f64::from(k)).exp2())
            .collect()
    }

    /// One iteration.
    ///
    /// # Errors
    /// If the oracle does not answer, or a point is not finite. The run is then unchanged.
    pub fn step<O>(&mut self, oracle: &mut O) -> Result<(), RunError<O::Error>>
    where
        O: RankingOracle + ?Sized,
        O::Error: 'static,
    {
        let (d, radii) = (self.state.point.len(), self.radii());
        // Directions and lengths come from separate streams.
        let directions =
            Directions::Sphere.draw(radii.len(), d, self.state.seed, 2 * self.state.iterations);
        let mut noise = SeededNoise::new(self.state.seed, 2 * self.state.iterations + 1);
        let mut points = Vec::with_capacity((radii.len() + 1) * d);
        for (radius, v) in radii.iter().zip(directions.chunks_exact(d)) {
            // Uniform in the ball: the share within a radius is its d-th power.
            let length = noise.random::<f64>().powf(1.0 / d as f64);
            points.extend(moved(&self.state.point, radius * length, v));
        }
        points.extend(&self.state.point);
        let (question, ranking) = ask(oracle, self.state.iterations, 1, d, points)?;
        self.state.point = question.point(ranking.best()[0]).to_vec();
        self.state.queries += radii.len() as u64;
        self.state.iterations += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking_oracle::FunctionOracle;

    #[test]
    fn radii_are_those_of_the_paper() {
        let search = Radii::Search {
            largest: 4.0,
            smallest: 0.5,
        };
        let run = GradientlessDescent::new(search, [0.0; 3], 0).unwrap();
        assert_eq!(run.radii(), [4.0, 2.0, 1.0, 0.5]);
        // K = log₂ 8 = 3; H = 2·4·2 = 16.
        let fast = Radii::Fast {
            radius: 1.0,
            condition: 4.0,
        };
        let mut run = GradientlessDescent::new(fast, [0.0; 2], 0).unwrap();
        let first = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125];
        for _ in 0..16 {
            assert_eq!(run.radii(), first);
            run.step(&mut FunctionOracle::new(|x: &[f64]| x[0]))
                .unwrap();
        }
        assert_eq!(run.radii(), first.map(|r| r / 2.0));
        assert_eq!(run.queries(), 16 * 7);
    }

    /// Jumps fill the ball: half of them lie within 2^{-1/d} of its radius.
    #[test]
    fn jumps_are_uniform_in_the_ball() {
        let radii = Radii::Search {
            largest: 2.0,
            smallest: 2.0,
        };
        let mut run = GradientlessDescent::new(radii, [0.0; 3], 0).unwrap();
        let mut within = 0;
        for _ in 0..4000 {
            let mut oracle = FunctionOracle::new(|x: &[f64]| {
                let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
                assert!(length <= 2.0 + 1e-12);
                within += usize::from(length > 0.0 && length < 2.0 * 0.5f64.cbrt());
                // The start is always the better.
                length
            });
            run.step(&mut oracle).unwrap();
        }
        // Four standard errors.
        assert!((within as f64 - 2000.0).abs() < 127.0, "{within}");
    }

    #[test]
    fn a_saved_run_goes_on_to_the_same_bits() {
        let f = |x: &[f64]| x.iter().map(|x| x.powi(4)).sum::<f64>();
        let radii = Radii::Fast {
            radius: 1.0,
            condition: 2.0,
        };
        let mut whole = GradientlessDescent::new(radii, [0.1, -0.7], 4).unwrap();
        // The radius halves after four iterations.
        for _ in 0..6 {
            let text = serde_json::to_string(&whole).unwrap();
            let mut saved: GradientlessDescent = serde_json::from_str(&text).unwrap();
            saved.step(&mut FunctionOracle::new(f)).unwrap();
            whole.step(&mut FunctionOracle::new(f)).unwrap();
            assert_eq!(saved, whole);
        }
        let text = serde_json::to_string(&whole).unwrap();
        let wrong = text.replace("\"condition\":2.0", "\"condition\":0.5");
        let told = serde_json::from_str::<GradientlessDescent>(&wrong);
        let told = told.unwrap_err().to_string();
        assert!(told.contains("the condition number is 0.5"), "{told}");
    }

    #[test]
    fn it_never_climbs_and_wrong_radii_are_told() {
        let f = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
        let radii = Radii::Search {
            largest: 4.0,
            smallest: 1e-4,
        };
        let mut run = GradientlessDescent::new(radii, [1.0, 2.0, 3.0], 5).unwrap();
        for _ in 0..300 {
            let before = f(run.point());
            run.step(&mut FunctionOracle::new(f)).unwrap();
            assert!(f(run.point()) <= before);
        }
        assert!(f(run.point()) < 1e-6, "{}", f(run.point()));
        let told = |radii| {
            GradientlessDescent::new(radii, [1.0], 0)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            told(Radii::Search {
                largest: 1.0,
                smallest: 2.0
            }),
            "the smallest radius is 2, but it must be at most the largest"
        );
        assert_eq!(
            told(Radii::Fast {
                radius: 1.0,
                condition: 0.5
            }),
            "the condition number is 0.5, but it must be at least 1"
        );
        assert_eq!(
            told(Radii::Fast {
                radius: -1.0,
                condition: 2.0
            }),
            "the radius is -1, but it must be positive and finite"
        );
    }
}
