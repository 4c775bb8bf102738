//! AutoDiffusion: an evolutionary search for the few steps that a trained model should take, and for the blocks of
//! its network that can be skipped in them.
//!
//! With few steps it matters which. A [`Plan`] is a set of training steps `t_1 < … < t_K` with a set `S_i` of skipped
//! blocks for each; its cost is `K` steps, or `Σ (L − |S_i|)` of the network's `L` [blocks](crate::block_skipping). The
//! search finds the plan within a [`Budget`] whose samples have the lowest score, usually the Fréchet distance to real
//! ones. No weight changes.
//!
//! ```text
//! population ← fixed plans, random plans, mutations of the uniform plan
//! for each epoch:
//!     elite ← the best k of elite and population
//!     population ← mutations of elites, crossovers of two elites, random plans
//! mutation:   with probability p another step; in the second stage, with probability p another set of blocks
//! crossover:  of each pair of steps one; the step and its blocks stay together
//! ```
//!
//! A search in [`Budget::Steps`] chooses steps of the whole network. A search in [`Budget::Units`] has two stages:
//! first steps of the whole network too; then blocks are skipped, up to a share that grows for five epochs, and what
//! they save pays for more steps. Each candidate is scored once.
//!
//! # Running a plan
//! The steps keep their levels and the times that the network was trained on: [`Plan::levels`] gives the levels of a
//! run, which any sampler takes. The paper's is [DDIM](crate::ddim) with the prediction clipped
//! (`Ddim::new().with_clip(Some(1.0)).with_rederive_epsilon(true)`). A plan is not good for another sampler than the
//! one that it was searched with, nor at another guidance scale. If it skips blocks, [`PlannedDenoiser`] runs them:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::autodiffusion::{Gene, Plan, PlannedDenoiser};
//! use nabla_diffusion::block_skipping::BlockSet;
//! use nabla_diffusion::class_denoiser::{ClassDenoiser, ClassDenoiserConfig};
//! use nabla_diffusion::ddim::Ddim;
//! use nabla_diffusion::sampler::Sampler;
//! use nabla_diffusion::seeded_noise::SeededNoise;
//!
//! let device = Device::flex();
//! let config = ClassDenoiserConfig::for_pictures(vec!["any".to_owned()], [1, 8, 8]);
//! let network = config.init_network(&device)?;
//! let model = ClassDenoiser::new(config, network, &device)?;
//!
//! let plan = Plan::new([Gene { step: 300, skipped: BlockSet::of([2]) }, Gene::whole(800)])?;
//! let levels = plan.levels(&model.levels(model.training_steps())?)?;
//! let planned = PlannedDenoiser::new(&model, &plan, &levels)?;
//! let mut noise = SeededNoise::new(0, 0);
//! let start = noise.normal([2, 1, 8, 8], &device);
//! let pictures = Sampler::new(Ddim::new(), levels)?.sample(&planned, start, &mut noise)?;
//! assert_eq!(pictures.dims(), [2, 1, 8, 8]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The score
//! It is any function of a plan. Scores must be comparable: by default every candidate is to be scored with the same
//! noise ([`ScoringNoise::Common`]), because with fresh noise the elite consists of the lucky draws, which never
//! age. Score the winner again with other noise ([`SearchConfig::final_seed`]).
//!
//! ```
//! use nabla_diffusion::autodiffusion::{Budget, SearchConfig, Space, search};
//!
//! // As a stand-in for a distance: how far the steps are from 100, 400 and 800.
//! let space = Space { steps: 1000, blocks: 0 };
//! let report = search(SearchConfig::new(Budget::Steps(3)), space, &mut |candidate| {
//!     let wanted = [100.0, 400.0, 800.0_f64].into_iter();
//!     Ok(wanted.zip(candidate.plan.steps()).map(|(a, b)| (a - b as f64).abs()).sum())
//! })?;
//! assert!(report.best.score < 200.0);
//! assert!(report.evaluations <= 500);
//! # Ok::<(), nabla_diffusion::autodiffusion::SearchError>(())
//! ```
//!
//! A [`Search`] does the same candidate by candidate. Its [`SearchState`] can be written after each, and a search that
//! resumes from it goes on to the bit.
//!
//! # Where the paper's code differs
//! [`Behaviour::Published`] is the search as published. There the steps have no order, so that crossovers mix places
//! which mean nothing, permutations are other candidates, and a crossover may repeat a step, which is then lost; the
//! blocks are skipped in the step of their rank, not in the one that they belong to; a set with blocks in it never
//! mutates; children may exceed the budget; the first stage ends as soon as the best plan stays the same for an epoch;
//! and in a search of steps alone the last epoch is scored in vain. By default none of this is so, the first stage
//! has a fixed length, and the search starts from all [`FixedPlan`]s, not only from the stride.
//!
//! Source: Li, Li, Zheng, Wu, Xiao, Wang, Zheng, Pan, Chao, Ji, *AutoDiffusion: Training-Free Optimization of Time Steps
//! and Architectures for Automated Diffusion Model Acceleration*, ICCV 2023, arXiv 2309.10438, and its code.

use nabla_base::choices;
use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

use crate::sampler_error::OwnError;

mod genetics;
mod plan;
mod plan_file;
mod plan_trial;
mod planned_denoiser;
mod search;

pub use plan::{Budget, FixedPlan, Gene, Plan, PlanError, Space};
pub use plan_file::{PLAN_FILE, PlanFile, PlanFileError, PlanScore, PlannedModel};
#[cfg(feature = "stable-diffusion")]
pub(crate) use plan_trial::planned_options;
pub use plan_trial::{PlanTrial, PlanTrials, planned_sampler};
pub use planned_denoiser::PlannedDenoiser;
pub use search::{Candidate, Scored, Search, SearchState, search};

/// The reason why a search cannot begin, or ends without a plan.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The budget does not fit the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The score of a candidate failed.
    #[error(transparent)]
    Score(OwnError),
    /// No candidate has a score.
    #[error("none of the {0} candidates of the search has a finite score")]
    NoScore(usize),
    /// A stored state is not that of a search.
    #[error("the stored search cannot be continued: {0}")]
    State(String),
}

/// Which noise a candidate is scored with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoringNoise {
    /// The same for all candidates.
    Common,
    /// New noise for each, as in the paper.
    Fresh,
}

choices! {
    ScoringNoise: "noise" {
        "common" => Self::Common, "the same for all candidates";
        "fresh" => Self::Fresh, "new noise for each, as in the paper";
    }
}

/// How candidates are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// By an evolution of plans.
    Evolution,
    /// As the published code does; see the [module documentation](self#where-the-papers-code-differs).
    Published,
    /// At random, as many as an evolution makes: its competitor.
    Random,
}

choices! {
    Behaviour: "search" {
        "evolution" => Self::Evolution, "mutations and crossovers of the best plans";
        "published" => Self::Published, "the same with the faults of the published code";
        "random" => Self::Random, "as many random plans";
    }
}

/// The options of a search; the defaults are those of the paper's search on ImageNet-64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// What a plan may cost.
    pub budget: Budget,
    /// `P`, candidates in an epoch. Default 50.
    pub population: usize,
    /// `k`, plans whose descendants make up the next epoch. Default 10.
    pub elite: usize,
    /// Mutations in an epoch. Default 25.
    pub mutations: usize,
    /// Crossovers in an epoch; the rest of the population is random. Default 15.
    pub crossovers: usize,
    /// `E`. Default 10, with [`Budget::Units`] 15.
    pub epochs: usize,
    /// `p`. Default 0.25.
    pub mutation_probability: f64,
    /// Epochs in which only steps are searched, with [`Budget::Units`]. Default 5.
    pub first_stage: usize,
    /// The highest share of blocks that a step skips, below 1. Default 0.1.
    pub most_pruned: f64,
    /// The lowest share that a new set of blocks skips at the end of the search. Default 0.
    pub least_pruned: f64,
    /// Default [`ScoringNoise::Common`].
    pub noise: ScoringNoise,
    /// Default [`Behaviour::Evolution`].
    pub behaviour: Behaviour,
    /// The seed of the candidates and of their noise. Default 0.
    pub seed: u64,
}

impl SearchConfig {
    /// The defaults.
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            population: 50,
            elite: 10,
            mutations: 25,
            crossovers: 15,
            epochs: match budget {
                Budget::Steps(_) => 10,
                Budget::Units(_) => 15,
            },
            mutation_probability: 0.25,
            first_stage: 5,
            most_pruned: 0.1,
            least_pruned: 0.0,
            noise: ScoringNoise::Common,
            behaviour: Behaviour::Evolution,
            seed: 0,
        }
    }

    /// Another population, with elite, mutations and crossovers in the same proportions.
    #[must_use]
    pub fn with_population(self, population: usize) -> Self {
        Self {
            population,
            elite: (population / 5).max(1),
            mutations: population / 2,
            crossovers: 3 * population / 10,
            ..self
        }
    }

    /// The most candidates that are scored.
    pub fn most_evaluations(&self) -> usize {
        self.population.saturating_mul(self.epochs)
    }

    /// A seed for the comparison of what was found, whose noise no candidate was scored with.
    pub fn final_seed(&self) -> u64 {
        // Candidates have the seed plus multiples of 2³².
        self.seed.wrapping_add(1 << 63)
    }

    /// The seed of the noise of a candidate.
    ///
    /// - `number`: of the candidate, from 0
    fn scoring_seed(&self, number: usize) -> u64 {
        match self.noise {
            ScoringNoise::Common => self.seed,
            ScoringNoise::Fresh => self.seed.wrapping_add((number as u64) << 32),
        }
    }

    /// Checks the options.
    ///
    /// # Errors
    /// If a number is out of range, or the budget does not fit the model.
    pub fn check(&self, space: Space) -> Result<(), SearchError> {
        range::at_least("population of the search", self.population, 1)?;
        range::at_least("elite of the search", self.elite, 1)?;
        range::at_least("number of epochs", self.epochs, 1)?;
        let children = self.mutations.saturating_add(self.crossovers);
        let (most, fits) = (self.population, children <= self.population);
        let expected = format!("at most {most}, the population");
        range::check(
            fits,
            "number of mutations and crossovers",
            children,
            expected,
        )?;
        let p = self.mutation_probability;
        range::check(
            (0.0..=1.0).contains(&p),
            "mutation probability",
            p,
            "in [0, 1]",
        )?;
        let [low, high] = [self.least_pruned, self.most_pruned];
        let fits = (0.0..1.0).contains(&high);
        range::check(fits, "highest share of skipped blocks", high, "in [0, 1)")?;
        let (fits, expected) = ((0.0..=high).contains(&low), format!("in [0, {high}]"));
        range::check(fits, "lowest share of skipped blocks", low, expected)?;
        Ok(self.budget.check(space)?)
    }
}

/// An epoch of a search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// Candidates that were scored up to its end.
    pub evaluations: usize,
    /// The lowest score so far.
    pub best: f64,
    /// The mean score of its candidates.
    pub mean: f64,
    /// The highest share of blocks that its new steps skip; 0 in the first stage.
    pub pruned: f64,
}

/// What a search has found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchReport {
    /// The plan with the lowest score.
    pub best: Scored,
    /// The best plans, the best first.
    pub elite: Vec<Scored>,
    /// The epochs.
    pub history: Vec<Epoch>,
    /// The number of candidates that were scored.
    pub evaluations: usize,
    /// How many of them had no finite score.
    pub dropped: usize,
}

#[cfg(test)]
mod tests;
