//! The choice of a scheme and its parameters from measured delays.
//!
//! Some rounds are run uncoded and recorded, and some with other loads; then every admissible scheme is
//! [simulated](super::simulation) with these delays, and of each family the one that takes the shortest time is taken.
//! What fits one stretch of time best need not fit the next one equally well: simulate the choice with another trace
//! if you have one.
//!
//! Source: Krishnan, Ebrahimi, Khisti, *Sequential Gradient Coding For Straggler Mitigation*, ICLR 2023, arXiv
//! 2211.13802, appendix on the selection of parameters. Their search leaves out `s = 0` and `λ = 0`, which is the
//! uncoded scheme here.

use std::sync::Arc;

use nabla_base::choices;
use nabla_base::range;

use super::simulation::{Simulated, Simulation, SimulationError};
use super::{CodeKind, CodingError, CodingScheme, GradientCode, MSgc, SrSgc};

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

/// What is searched.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    /// The largest `T`: one less than the number of models that are trained in turn. Default 3.
    pub max_delay: usize,
    /// The largest `s` and `λ`; `None` for all. Default `None`.
    pub max_stragglers: Option<usize>,
    /// The code. Default [`CodeKind::Fitting`].
    pub kind: CodeKind,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            max_delay: 3,
            max_stragglers: None,
            kind: CodeKind::Fitting,
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
/// A cyclic code can turn out to be ill-conditioned when its coefficients are computed, which the search doesn't do:
/// see [`CodingScheme::prepare`].
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
    range::at_least("number of workers", simulation.delays.workers(), 1)?;
    let mut all = Vec::new();
    for family in Family::ALL {
        let mut best: Option<Chosen> = None;
        for scheme in candidates(family, simulation.delays.workers(), search) {
            let simulated = simulation.run(&*scheme)?;
            let better = best.as_ref().is_none_or(|best| {
                let seconds = simulated.seconds.total_cmp(&best.simulated.seconds);
                let load = simulated.load.total_cmp(&best.simulated.load);
                seconds.then(load).is_lt()
            });
            if better {
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
fn candidates(family: Family, workers: usize, search: &Search) -> Vec<Arc<dyn CodingScheme>> {
    let most = search.max_stragglers.unwrap_or(workers).min(workers);
    let shared = |scheme: Result<_, CodingError>| scheme.ok();
    match family {
        Family::Uncoded => GradientCode::uncoded(workers)
            .into_iter()
            .map(|scheme| Arc::new(scheme) as _)
            .collect(),
        Family::GradientCoding => (1..=most)
            .filter_map(|s| shared(GradientCode::new(workers, s, search.kind)))
            .map(|scheme| Arc::new(scheme) as _)
            .collect(),
        Family::SrSgc => {
            let mut schemes: Vec<Arc<dyn CodingScheme>> = Vec::new();
            for burst in 1..=search.max_delay {
                // With the least W. Others give the same codes: only s matters under the default rule, and λ is the
                // largest that this s tolerates, λ = s (x + 1) with x = 1.
                let window = burst + 1;
                for lambda in (2..=2 * most).step_by(2).map(|lambda| lambda.min(workers)) {
                    let scheme = SrSgc::new(workers, burst, window, lambda, search.kind);
                    schemes.extend(scheme.ok().map(|scheme| Arc::new(scheme) as _));
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
