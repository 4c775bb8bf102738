//! The choice of a scheme and its parameters from measured delays.
//!
//! Some rounds are run uncoded and recorded, and some with other loads, which is a [`Profile`]; then every admissible scheme is
//! [simulated](super::simulation) with these delays, and of each family the one that takes the shortest time is taken.
//! What fits one stretch of time best need not fit the next one equally well: simulate the choice with another trace
//! if you have one.
//!
//! Source: Krishnan, Ebrahimi, Khisti, *Sequential Gradient Coding For Straggler Mitigation*, ICLR 2023, arXiv
//! 2211.13802. Their code's search leaves out `s = 0` and `λ = 0`, which is the
//! uncoded scheme here.

use std::sync::Arc;

use nabla_base::choices;
use nabla_base::range::{self, OutOfRange};

use super::simulation::{Simulated, Simulation, SimulationError};
use super::{CodeKind, CodingError, CodingScheme, GradientCode, MSgc, SrSgc, WaitRule};
use crate::communicator::delays::{Delays, LoadFit};
use crate::communicator::trace::{Trace, TraceError};

/// A family of schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// No redundancy: all workers are waited for.
    Uncoded,
    /// GC(n, s).
    GradientCoding,
    /// SR-SGC(n, B, W, λ).
    SrSgc,
    /// M-SGC(n, B, W, λ).
    MSgc,
}

choices! {
    Family: "coding" {
        "uncoded" => Self::Uncoded, "No redundancy: all workers are waited for";
        "gc" => Self::GradientCoding, "Gradient coding: every chunk at several workers";
        "sr-sgc" => Self::SrSgc, "Sequential gradient coding that repeats lost answers";
        "m-sgc" => Self::MSgc, "Sequential gradient coding that retries uncoded chunks and codes some";
    }
}

impl Family {
    /// All families.
    pub const ALL: [Self; 4] = [Self::Uncoded, Self::GradientCoding, Self::SrSgc, Self::MSgc];
}

/// How fast the workers are: their delays without redundancy, and the seconds per load.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The delays of uncoded rounds.
    pub delays: Delays,
    /// The fit to the rounds of all loads.
    pub fit: LoadFit,
}

impl Profile {
    /// Measures a profile, at the loads `d/n` for the divisors `d` of the number of workers.
    ///
    /// - `run`: runs some rounds of a scheme that wait for all workers (see
    ///   [`CodedRun::waiting_for_all`](super::run::CodedRun::waiting_for_all)), and returns their trace. It is called
    ///   with the uncoded scheme first
    ///
    /// # Errors
    /// If there are fewer than two workers, `run` fails, or its trace has no whole round.
    pub fn measure<E>(
        workers: usize,
        mut run: impl FnMut(&GradientCode) -> Result<Trace, E>,
    ) -> Result<Self, E>
    where
        E: From<OutOfRange> + From<CodingError> + From<TraceError>,
    {
        range::at_least("number of workers", workers, 2)?;
        let mut traces = Vec::new();
        for group in (1..=workers).filter(|&group| workers.is_multiple_of(group)) {
            let code = GradientCode::new(workers, group - 1, CodeKind::Repetition)?;
            traces.push(run(&code)?);
        }
        let delays = traces[0].delays(workers)?;
        // Two loads at least, 1/n and 1, so there is a line.
        let fit = Trace::load_fit(&traces).ok_or(TraceError::NoWholeRound { workers })?;
        Ok(Self { delays, fit })
    }

    /// A simulation of these workers with the published settings.
    pub fn simulation(&self) -> Simulation<'_> {
        // A slope below 0 is noise: more work takes no less time.
        Simulation::new(&self.delays, self.fit.slope.max(0.0))
    }
}

/// What is searched.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// The largest `T`: one less than the number of models that are trained in turn. Default 3.
    pub max_delay: usize,
    /// The largest `s` and `λ`; `None` for all. Default `None`.
    pub max_stragglers: Option<usize>,
    /// The code. Default [`CodeKind::Fitting`].
    pub kind: CodeKind,
    /// Whether schemes whose codes are ill-conditioned are left out, which takes about a second for each code of some
    /// hundred workers. Default true.
    pub usable: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            max_delay: 3,
            max_stragglers: None,
            kind: CodeKind::Fitting,
            usable: true,
        }
    }
}

/// The best scheme of a family.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The family.
    pub family: Family,
    /// The scheme.
    pub scheme: Arc<dyn CodingScheme>,
    /// What its simulation gave.
    pub simulated: Simulated,
}

/// Returns the fastest scheme of every family, the fastest family first; of two equally fast schemes the one with the
/// lower load.
///
/// # Errors
/// As those of [`Simulation::run`].
///
/// ```
/// use nabla_share::communicator::delays::TwoStateDelays;
/// use nabla_share::sequential_gradient_coding::selection::{Family, Search, select};
/// use nabla_share::sequential_gradient_coding::simulation::Simulation;
///
/// let delays = TwoStateDelays::default().draw(32, 80, 0)?;
/// let chosen = select(&Simulation::new(&delays, 2.2), &Search::default())?;
/// assert_eq!(chosen.len(), 4);
/// assert_eq!(chosen.last().unwrap().family, Family::Uncoded);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn select(
    simulation: &Simulation<'_>,
    search: &Search,
) -> Result<Vec<Chosen>, SimulationError> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let mut best: Option<Chosen> = None;
        for scheme in candidates(family, simulation, search) {
            let simulated = simulation.run(&*scheme)?;
            let better = best.as_ref().is_none_or(|best| {
                let seconds = simulated.seconds.total_cmp(&best.simulated.seconds);
                let load = simulated.load.total_cmp(&best.simulated.load);
                seconds.then(load).is_lt()
            });
            // The code of a scheme that is no better need not be made.
            if better && (!search.usable || scheme.prepare().is_ok()) {
                best = Some(Chosen {
                    family,
                    scheme,
                    simulated,
                });
            }
        }
        all.extend(best);
    }
    all.sort_by(|a, b| a.simulated.seconds.total_cmp(&b.simulated.seconds));
    Ok(all)
}

/// The schemes of a family with different parameters, as far as they exist.
fn candidates(
    family: Family,
    simulation: &Simulation<'_>,
    search: &Search,
) -> Vec<Arc<dyn CodingScheme>> {
    let workers = simulation.delays.workers();
    let most = search.max_stragglers.unwrap_or(workers).min(workers);
    match family {
        Family::Uncoded => GradientCode::uncoded(workers)
            .into_iter()
            .map(|scheme| Arc::new(scheme) as _)
            .collect(),
        Family::GradientCoding => (1..=most)
            .filter_map(|s| GradientCode::new(workers, s, search.kind).ok())
            .map(|scheme| Arc::new(scheme) as _)
            .collect(),
        Family::SrSgc => {
            let mut schemes: Vec<Arc<dyn CodingScheme>> = Vec::new();
            for burst in 1..=search.max_delay {
                // Under the default rule only B and s matter, so the least window says it all. The other rules
                // read λ and W from the models.
                let multiples = match simulation.rule {
                    WaitRule::UntilRecoverable => 1,
                    WaitRule::ForAll | WaitRule::UntilModelHolds => 3,
                };
                for x in 1..=multiples {
                    // The largest λ for each s.
                    let lambdas = (1..=most).map(|s| (s * (x + 1)).min(workers));
                    schemes.extend(lambdas.filter_map(|lambda| {
                        let window = x * burst + 1;
                        let scheme = SrSgc::new(workers, burst, window, lambda, search.kind);
                        scheme.ok().map(|scheme| Arc::new(scheme) as _)
                    }));
                }
            }
            schemes
        }
        Family::MSgc => {
            let mut schemes: Vec<Arc<dyn CodingScheme>> = Vec::new();
            for burst in 1..=search.max_delay {
                let windows = burst + 1..=(search.max_delay + 2).saturating_sub(burst);
                for window in windows {
                    let lambdas = 1..=most;
                    schemes.extend(lambdas.filter_map(|lambda| {
                        let scheme = MSgc::new(workers, burst, window, lambda, search.kind);
                        scheme.ok().map(|scheme| Arc::new(scheme) as _)
                    }));
                }
            }
            schemes
        }
    }
}
