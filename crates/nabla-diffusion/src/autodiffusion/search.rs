//! The search, candidate by candidate.

use std::collections::HashSet;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::genetics::{Genetics, Genome};
use super::{
    Behaviour, Budget, Epoch, FixedPlan, Plan, SearchConfig, SearchError, SearchReport, Space,
};
use crate::sampler_error::OwnError;
use crate::seeded_noise::{NoiseState, SeededNoise};

/// Attempts to make a new candidate, for each that is wanted.
const ATTEMPTS: usize = 10;
/// The probability of a mutation of the uniform plan, with which the search starts.
const FIRST_MUTATIONS: f64 = 0.1;
/// The stream of the candidates; low streams are left to the samples.
const STREAM: u64 = u64::MAX;
/// Epochs in which the highest share of skipped blocks grows.
const GROWTH: usize = 5;

/// A plan to be scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The plan.
    pub plan: Plan,
    /// How many candidates were scored before.
    pub number: usize,
    /// The seed of the noise to score it with.
    pub seed: u64,
}

/// A plan and its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scored {
    /// The plan.
    pub plan: Plan,
    /// The lower the better.
    pub score: f64,
    /// The number of the candidate.
    pub number: usize,
}

/// A candidate that was scored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    genome: Genome,
    epoch: usize,
    /// None if it was not finite.
    score: Option<f64>,
}

/// A search between two candidates, for a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchState {
    config: SearchConfig,
    space: Space,
    epoch: usize,
    /// Epochs of the second stage, this one included.
    second_stage: usize,
    /// The candidates of this epoch.
    population: Vec<Genome>,
    /// How many of them are scored.
    scored: usize,
    /// All that were scored.
    records: Vec<Record>,
    /// Indices of the best, the best first.
    elite: Vec<usize>,
    history: Vec<Epoch>,
    noise: NoiseState,
    done: bool,
}

impl SearchState {
    /// The options of the search.
    pub fn config(&self) -> &SearchConfig {
        &self.config
    }

    /// What the model offers.
    pub fn space(&self) -> Space {
        self.space
    }

    /// The number of candidates that were scored.
    pub fn evaluations(&self) -> usize {
        self.records.len()
    }

    /// All candidates that were scored, in their order: the epoch, the plan, and its score if it was finite.
    ///
    /// # Errors
    /// If the state holds what is no plan.
    pub fn scored(&self) -> Result<Vec<(usize, Plan, Option<f64>)>, SearchError> {
        let genetics = Genetics {
            config: &self.config,
            space: self.space,
            pruned: [0.0; 2],
        };
        let records = self.records.iter();
        let each = records.map(|record| {
            let plan = genetics.expressed(&record.genome)?;
            Ok((record.epoch, plan, record.score))
        });
        each.collect()
    }
}

/// A search; see the [module documentation](super).
///
/// ```
/// use nabla_diffusion::autodiffusion::{Budget, Search, SearchConfig, Space};
///
/// let config = SearchConfig::new(Budget::Steps(2));
/// let mut search = Search::new(config, Space { steps: 100, blocks: 0 })?;
/// while let Some(candidate) = search.candidate()? {
///     let score = candidate.plan.steps().map(|step| step as f64).sum();
///     search.record(score)?;
///     let _ = search.state(); // to be written
/// }
/// assert_eq!(search.report()?.best.plan.steps().next(), Some(0));
/// # Ok::<(), nabla_diffusion::autodiffusion::SearchError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Search {
    state: SearchState,
    visited: HashSet<Genome>,
}

/// Searches from the beginning to the end.
///
/// - `score`: of a candidate, the lower the better; one without a finite score is dropped. An error ends the search
///
/// # Errors
/// If the options do not fit the model, a score fails, or no score is finite.
pub fn search(
    config: SearchConfig,
    space: Space,
    score: &mut dyn FnMut(&Candidate) -> Result<f64, OwnError>,
) -> Result<SearchReport, SearchError> {
    let mut search = Search::new(config, space)?;
    while let Some(candidate) = search.candidate()? {
        let score = score(&candidate).map_err(SearchError::Score)?;
        search.record(score)?;
    }
    search.report()
}

impl Search {
    /// Makes the first candidates.
    ///
    /// # Errors
    /// If an option is out of range, or the budget does not fit the model.
    pub fn new(config: SearchConfig, space: Space) -> Result<Self, SearchError> {
        config.check(space)?;
        let noise = SeededNoise::new(config.seed, STREAM).state();
        let mut search = Self {
            state: SearchState {
                space,
                epoch: 0,
                // Random plans are of the whole space from the beginning.
                second_stage: match config.behaviour {
                    Behaviour::Random => GROWTH,
                    _ => 0,
                },
                population: Vec::new(),
                scored: 0,
                records: Vec::new(),
                elite: Vec::new(),
                history: Vec::new(),
                noise,
                done: false,
                config,
            },
            visited: HashSet::new(),
        };
        search.begin()?;
        Ok(search)
    }

    /// Continues a search.
    ///
    /// # Errors
    /// If the state is not that of a search.
    pub fn resume(state: SearchState) -> Result<Self, SearchError> {
        state.config.check(state.space)?;
        let wrong = |what: &str| Err(SearchError::State(what.to_owned()));
        let SearchState {
            population,
            scored,
            records,
            elite,
            done,
            ..
        } = &state;
        if elite.iter().any(|&index| {
            let record = records.get(index);
            record.is_none_or(|record| record.score.is_none())
        }) {
            return wrong("its elite was never scored");
        }
        if *scored > population.len() || *scored > records.len() {
            return wrong("it has scored more candidates than it has made");
        }
        if !done && *scored == population.len() {
            return wrong("it has no candidate left, but has not ended");
        }
        let genetics = Genetics {
            config: &state.config,
            space: state.space,
            pruned: [0.0; 2],
        };
        let all = records.iter().map(|record| &record.genome);
        for genome in all.chain(population) {
            genetics.expressed(genome)?.check(state.space)?;
        }
        let visited = state.records.iter().map(|record| record.genome.clone());
        Ok(Self {
            visited: visited.collect(),
            state,
        })
    }

    /// The search up to now.
    pub fn state(&self) -> &SearchState {
        &self.state
    }

    /// The next plan to be scored; none if the search has ended.
    ///
    /// # Errors
    /// Never for a search that was made here.
    pub fn candidate(&self) -> Result<Option<Candidate>, SearchError> {
        let state = &self.state;
        let Some(genome) = state.population.get(state.scored).filter(|_| !state.done) else {
            return Ok(None);
        };
        let number = state.records.len();
        Ok(Some(Candidate {
            plan: self.genetics().expressed(genome)?,
            number,
            seed: state.config.scoring_seed(number),
        }))
    }

    /// Takes the score of the [`candidate`](Self::candidate), and goes to the next one; without effect if the search
    /// has ended.
    ///
    /// - `score`: the lower the better; one that is not finite drops the candidate
    ///
    /// # Errors
    /// Never for a search that was made here.
    pub fn record(&mut self, score: f64) -> Result<(), SearchError> {
        let state = &mut self.state;
        let Some(genome) = state.population.get(state.scored).filter(|_| !state.done) else {
            return Ok(());
        };
        self.visited.insert(genome.clone());
        state.records.push(Record {
            genome: genome.clone(),
            epoch: state.epoch,
            score: Some(score).filter(|score| score.is_finite()),
        });
        state.scored += 1;
        match state.scored == state.population.len() {
            true => self.end_epoch(),
            false => Ok(()),
        }
    }

    /// What was found up to now.
    ///
    /// # Errors
    /// If no candidate of an epoch that has ended has a finite score.
    pub fn report(&self) -> Result<SearchReport, SearchError> {
        let SearchState {
            records,
            elite,
            history,
            ..
        } = &self.state;
        let genetics = self.genetics();
        let scored = elite.iter().filter_map(|&number| {
            let record = records.get(number)?;
            Some((number, record, record.score?))
        });
        let elite = scored.map(|(number, record, score)| {
            Ok(Scored {
                plan: genetics.expressed(&record.genome)?,
                score,
                number,
            })
        });
        let elite = elite.collect::<Result<Vec<_>, SearchError>>()?;
        let Some(best) = elite.first().cloned() else {
            return Err(SearchError::NoScore(records.len()));
        };
        Ok(SearchReport {
            best,
            elite,
            history: history.clone(),
            evaluations: records.len(),
            dropped: records.iter().filter(|r| r.score.is_none()).count(),
        })
    }

    /// The highest share of blocks that a new step may skip.
    fn most_pruned(&self) -> f64 {
        let grown = self.state.second_stage.min(GROWTH) as f64 / GROWTH as f64;
        self.state.config.most_pruned * grown
    }

    fn genetics(&self) -> Genetics<'_> {
        let SearchState {
            config,
            second_stage,
            epoch,
            ..
        } = &self.state;
        let most = self.most_pruned();
        let at_end = match config.behaviour {
            // Published: after the epoch with the number 6.
            Behaviour::Published => *epoch > 6,
            _ => *second_stage >= GROWTH,
        };
        let least = match at_end && most > 0.0 {
            true => config.least_pruned.min(most),
            false => 0.0,
        };
        Genetics {
            config,
            space: self.state.space,
            pruned: [least, most],
        }
    }

    /// The first population: the fixed plans (published: the stride alone), random ones up to a bit more than half, and
    /// mutations of the first.
    fn begin(&mut self) -> Result<(), SearchError> {
        let SearchState { config, space, .. } = &self.state;
        let (size, behaviour) = (config.population, config.behaviour);
        let whole = config.budget.whole_steps(*space);
        if behaviour == Behaviour::Random {
            return self.breed();
        }
        let starts: &[FixedPlan] = match behaviour {
            Behaviour::Published => &[FixedPlan::Stride, FixedPlan::Trailing],
            _ => &FixedPlan::ALL,
        };
        // Not every number of steps has a stride.
        let plans = starts.iter().map(|fixed| fixed.plan(space.steps, whole));
        let mut genomes: Vec<Genome> = plans
            .filter_map(Result::ok)
            .map(|plan| plan.genes().to_vec())
            .collect();
        if behaviour == Behaviour::Published {
            genomes.truncate(1);
        }
        let mut noise = SeededNoise::from_state(self.state.noise);
        let mut made = Made::new(&self.visited, size);
        genomes.iter().for_each(|genome| made.add(genome.clone()));
        let genetics = self.genetics();
        let half = (size / 2 + 1).saturating_sub(made.population.len());
        made.make(half, &mut || genetics.random(&mut noise));
        if let Some(uniform) = genomes.first() {
            let missing = made.missing();
            made.make(missing, &mut || {
                genetics.mutated(uniform, FIRST_MUTATIONS, &mut noise)
            });
        }
        let missing = made.missing();
        made.make(missing, &mut || genetics.random(&mut noise));
        let population = made.population;
        self.continue_with(population, noise);
        Ok(())
    }

    /// The next population: descendants of the elite, and random plans.
    fn breed(&mut self) -> Result<(), SearchError> {
        let SearchState {
            config,
            records,
            elite,
            ..
        } = &self.state;
        let mut noise = SeededNoise::from_state(self.state.noise);
        let mut made = Made::new(&self.visited, config.population);
        let genetics = self.genetics();
        let parents: Vec<&Genome> = elite.iter().map(|&i| &records[i].genome).collect();
        if !parents.is_empty() && config.behaviour != Behaviour::Random {
            let pick = |noise: &mut SeededNoise| parents[noise.random_range(0..parents.len())];
            made.make(config.mutations, &mut || {
                let parent = pick(&mut noise);
                genetics.mutated(parent, config.mutation_probability, &mut noise)
            });
            made.make(config.crossovers, &mut || {
                let pair = [pick(&mut noise), pick(&mut noise)];
                genetics.crossed(pair, &mut noise)
            });
        }
        let missing = made.missing();
        made.make(missing, &mut || genetics.random(&mut noise));
        let population = made.population;
        self.continue_with(population, noise);
        Ok(())
    }

    fn continue_with(&mut self, population: Vec<Genome>, noise: SeededNoise) {
        let state = &mut self.state;
        state.noise = noise.state();
        state.scored = 0;
        // All plans within the budget were scored.
        state.done = population.is_empty();
        state.population = population;
    }

    /// Ranks the candidates, and makes the next ones.
    fn end_epoch(&mut self) -> Result<(), SearchError> {
        let pruned = self.most_pruned();
        let state = &mut self.state;
        let config = &state.config;
        let first = state.records.len() - state.population.len();
        let last = state.epoch + 1 == config.epochs;
        let before = state.elite.first().copied();
        let published = config.behaviour == Behaviour::Published;
        let in_steps = matches!(config.budget, Budget::Steps(_));
        // The published search of steps alone never ranks its last candidates, unless there are no others.
        let ranked = !(published && in_steps && last && state.epoch > 0);
        if ranked {
            let finite = |&i: &usize| state.records[i].score.is_some();
            state
                .elite
                .extend((first..state.records.len()).filter(finite));
            let score = |i: usize| state.records[i].score.unwrap_or(f64::INFINITY);
            // Of equal ones, the earlier.
            state
                .elite
                .sort_by(|&a, &b| score(a).total_cmp(&score(b)).then(a.cmp(&b)));
            state.elite.truncate(config.elite);
        }
        let scores: Vec<f64> = state.records[first..]
            .iter()
            .filter_map(|record| record.score)
            .collect();
        if let Some(&best) = state.elite.first()
            && let Some(best) = state.records[best].score
        {
            state.history.push(Epoch {
                evaluations: state.records.len(),
                best,
                mean: scores.iter().sum::<f64>() / scores.len().max(1) as f64,
                pruned,
            });
        }
        if !in_steps {
            let unchanged = before.is_some() && before == state.elite.first().copied();
            let second = match published {
                true => state.second_stage > 0 || unchanged || state.epoch > 4,
                false => state.epoch + 1 >= config.first_stage,
            };
            state.second_stage += usize::from(second);
        }
        if last {
            state.done = true;
            return Ok(());
        }
        state.epoch += 1;
        self.breed()
    }
}

/// A population in the making, without candidates that are in it or were scored already.
struct Made<'a> {
    visited: &'a HashSet<Genome>,
    size: usize,
    population: Vec<Genome>,
    known: HashSet<Genome>,
}

impl<'a> Made<'a> {
    fn new(visited: &'a HashSet<Genome>, size: usize) -> Self {
        Self {
            visited,
            size,
            population: Vec::new(),
            known: HashSet::new(),
        }
    }

    fn missing(&self) -> usize {
        self.size - self.population.len()
    }

    fn add(&mut self, genome: Genome) {
        let new = self.missing() > 0 && !self.visited.contains(&genome);
        if new && self.known.insert(genome.clone()) {
            self.population.push(genome);
        }
    }

    /// Adds so many new candidates, or fewer if most attempts make known ones.
    fn make(&mut self, count: usize, attempt: &mut dyn FnMut() -> Genome) {
        let wanted = self.population.len() + count.min(self.missing());
        for _ in 0..ATTEMPTS * count {
            if self.population.len() >= wanted {
                return;
            }
            self.add(attempt());
        }
    }
}
