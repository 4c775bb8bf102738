//! Searched steps against uniform ones, random search, and steps with skipped blocks.
//!
//! The data are the 1797 digits of 8×8 pixels in their first 20 principal components, each scaled to unit variance.
//! The distance is the Fréchet distance in these 20 numbers.
//!
//! The first part needs no network: the model is a mixture of ten Gaussians with full covariances, fitted to the data,
//! whose prediction is exact at every level, and whose moments are the reference. A search has the budget of the
//! paper's on ImageNet-64: 10 epochs of 50 plans, 1000 samples for each. What it finds is judged by 5000 samples of
//! noise that no candidate was scored with, and so are the fixed plans, and the steps that were found run on another
//! model, a mixture of 25 Gaussians. Beside it stand random search with as many plans, and the search as published,
//! with fresh noise for each candidate.
//!
//! The second part has a small residual network, trained for the noise, so that blocks can be skipped. A budget of 24
//! blocks is 4 steps of the whole network of 6 blocks. Searches of steps alone and of steps with blocks score at most
//! as many plans as each other.

use nabla_claims::{
    Bench, Cell, Claim, ClaimError, LinePlot, Measurement, Metric, Series, Stage, Table, Task,
    Variant,
};
use nabla_diffusion::autodiffusion::{
    Behaviour, Budget, FixedPlan, Plan, ScoringNoise, SearchConfig, Space, search,
};
use nabla_diffusion::block_skipping::SkippableDenoiser;
use nabla_diffusion::schedule::BetaSchedule;
use serde::{Deserialize, Serialize};

mod checks;
mod data;
mod mixture;
mod network;
mod run;

use checks::checks;
use data::Data;
use mixture::Mixture;
use network::NoiseNetwork;
use run::{Model, Score};

const SEARCHED: Variant = Variant::method("AutoDiffusion");
const FRESH: Variant = Variant::ablation("AutoDiffusion, fresh noise");
const PUBLISHED: Variant = Variant::ablation("AutoDiffusion as published, fresh noise");
const RANDOM: Variant = Variant::baseline("random search, as many plans");
const UNIFORM: Variant = Variant::baseline("uniform steps (ddimK)");
const TRAILING: Variant = Variant::baseline("trailing steps");
const QUADRATIC: Variant = Variant::baseline("quadratic steps");
const LINSPACE: Variant = Variant::baseline("even steps from the first to the last");
const JOINT: Variant = Variant::method("AutoDiffusion, steps and blocks");
const STEPS_ALONE: Variant = Variant::ablation("AutoDiffusion, steps alone");

const LINEAR_4: Task = Task::named("mixture, linear, 4 steps");
const COSINE_4: Task = Task::named("mixture, cosine, 4 steps");
const COSINE_6: Task = Task::named("mixture, cosine, 6 steps");
const DPM_4: Task = Task::named("mixture, linear, 4 steps of DPM-Solver++ 2M");
const PLMS_4: Task = Task::named("mixture, linear, 4 steps of PLMS (5 calls)");
const OTHER_LINEAR_4: Task = Task::named("another mixture, linear, 4 steps");
const OTHER_COSINE_4: Task = Task::named("another mixture, cosine, 4 steps");
const UNITS_24: Task = Task::named("network, linear, 24 blocks");
const UNITS_18: Task = Task::named("network, linear, 18 blocks");

const DISTANCE: Metric = Metric::lower("Fréchet distance", "");
const SCORED: Metric = Metric::informative("plans scored", "");
const STEPS: Metric = Metric::informative("steps", "");
const BLOCKS: Metric = Metric::informative("computed blocks", "");
const SECONDS: Metric = Metric::informative("seconds of drawing", "s");

/// A task of the first part.
struct Setting {
    task: Task,
    betas: BetaSchedule,
    steps: usize,
    sampler: &'static str,
    /// The task with the other mixture.
    other: Option<Task>,
    searches: &'static [Search],
}

/// A search and what it is called.
type Search = (Variant, Behaviour, ScoringNoise);

static SEARCHES: [Search; 4] = [
    (SEARCHED, Behaviour::Evolution, ScoringNoise::Common),
    (FRESH, Behaviour::Evolution, ScoringNoise::Fresh),
    (PUBLISHED, Behaviour::Published, ScoringNoise::Fresh),
    (RANDOM, Behaviour::Random, ScoringNoise::Common),
];

static SETTINGS: [Setting; 5] = [
    Setting {
        task: LINEAR_4,
        betas: BetaSchedule::DDPM,
        steps: 4,
        sampler: "ddim",
        other: Some(OTHER_LINEAR_4),
        searches: &SEARCHES,
    },
    Setting {
        task: COSINE_4,
        betas: BetaSchedule::COSINE,
        steps: 4,
        sampler: "ddim",
        other: Some(OTHER_COSINE_4),
        searches: &SEARCHES,
    },
    Setting {
        task: COSINE_6,
        betas: BetaSchedule::COSINE,
        steps: 6,
        sampler: "ddim",
        other: None,
        searches: &SEARCHES,
    },
    Setting {
        task: DPM_4,
        betas: BetaSchedule::DDPM,
        steps: 4,
        sampler: "dpm++2m",
        other: None,
        searches: &[(SEARCHED, Behaviour::Evolution, ScoringNoise::Common)],
    },
    Setting {
        task: PLMS_4,
        betas: BetaSchedule::DDPM,
        steps: 4,
        sampler: "plms",
        other: None,
        searches: &[(SEARCHED, Behaviour::Evolution, ScoringNoise::Common)],
    },
];

static FIXED: [(Variant, FixedPlan); 4] = [
    (UNIFORM, FixedPlan::Stride),
    (TRAILING, FixedPlan::Trailing),
    (QUADRATIC, FixedPlan::Quadratic),
    (LINSPACE, FixedPlan::Linspace),
];

/// Budgets of the second part.
const UNITS: [(Task, usize); 2] = [(UNITS_24, 24), (UNITS_18, 18)];

/// The size of the experiment.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// How many of the [`SETTINGS`].
    settings: usize,
    /// Steps of the fit of a mixture.
    fit: usize,
    population: usize,
    epochs: usize,
    samples: usize,
    final_samples: usize,
    /// Steps of the training of the network.
    training: usize,
    /// Epochs of the second part, and how many of them search steps alone.
    joint: [usize; 2],
}

const FULL: Size = Size {
    settings: 5,
    fit: 60,
    population: 50,
    epochs: 10,
    samples: 1000,
    final_samples: 5000,
    training: 5000,
    joint: [15, 5],
};
const QUICK: Size = Size {
    settings: 5,
    fit: 5,
    population: 6,
    epochs: 2,
    samples: 60,
    final_samples: 100,
    training: 60,
    joint: [3, 1],
};

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct AutoDiffusionClaim;

impl Claim for AutoDiffusionClaim {
    fn slug(&self) -> &str {
        "autodiffusion"
    }

    fn version(&self) -> u32 {
        1
    }

    fn statement(&self) -> &str {
        "Uniform steps are not the best few steps of a diffusion model: an evolutionary search with the Fréchet \
         distance as its score finds steps with which four steps are far better (17.86 FID on ImageNet 64x64 against \
         138.66 with DDIM), without any training. It is orthogonal to the sampler, and what was found can be applied to \
         other models. In detail: the evolution is better than random search, and searching blocks to skip together \
         with the steps is better than steps alone at the same cost."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds, on noise that no candidate was scored with: with four steps of DDIM on the linear \
         schedule, the searched steps have at most half the distance of the uniform ones (ddimK), and on the cosine \
         schedule a lower one; on the linear schedule they have a lower one with DPM-Solver++ 2M and with PLMS too, \
         searched with each; and run on another mixture, the steps found on the linear schedule have at most half of \
         the distance of the uniform ones there. In detail: each search is at least as good as random search with as \
         many plans, and better than the best fixed plan; steps with skipped blocks are better than steps alone at 24 \
         blocks, and at most 5 % worse at 18."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() { QUICK } else { FULL };
        let settings = &SETTINGS[..size.settings];
        let data = Data::digits()?;
        let variants = SEARCHES.iter().map(|(variant, ..)| variant.clone());
        let fixed = FIXED.iter().map(|(variant, _)| variant.clone());
        let tasks = settings.iter();
        let tasks = tasks.flat_map(|s| std::iter::once(s.task.clone()).chain(s.other.clone()));
        let mut table = Table::new(
            bench.seeds(),
            [DISTANCE, SCORED, STEPS, BLOCKS, SECONDS],
            variants.chain(fixed).chain([JOINT, STEPS_ALONE]),
            tasks.chain(UNITS.map(|(task, _)| task)),
        )?;
        steps(bench, settings, &size, &data, &mut table)?;
        let curves = blocks(bench, &size, &data, &mut table)?;
        let checks = checks(&table, settings)?;
        let mut plot = LinePlot::new(
            "Network, 24 blocks: the best plan, with the noise of the search (last seed)",
            "plans scored",
            "Fréchet distance",
        )
        .log_y();
        for (variant, points) in curves {
            plot = plot.with_series(Series::new(variant.name(), points));
        }
        Ok(Measurement::new(table, checks)
            .with_plot(plot)
            .with_note(
                "The seeds are those of the searches and of their noise, and of the network's training; the mixtures \
                 are the same for every seed.",
            )
            .with_note(
                "The uniform steps of the paper's code start at 750 of 1000 from pure noise, which is a weak plan; the \
                 other fixed plans are there so that not only this is measured.",
            )
            .with_note(
                "Not measured: pictures and their FID; guidance, and so the transfer at the same guidance scale; the \
                 transfer of architectures; the cost of a search on networks of the paper's size, which is that of \
                 drawing 500 to 750 times 1000 to 5000 samples.",
            ))
    }
}

/// What a search has found, or what a fixed plan gives.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    plan: Plan,
    distance: f64,
    /// On the other mixture.
    other: Option<f64>,
    seconds: f64,
    /// Plans scored; 0 for a fixed plan.
    scored: usize,
    /// Plans scored and the lowest score, epoch by epoch.
    history: Vec<[f64; 2]>,
}

/// Searches and fixed plans of the first part.
fn steps(
    bench: &Bench<'_>,
    settings: &'static [Setting],
    size: &Size,
    data: &Data,
    table: &mut Table,
) -> Result<(), ClaimError> {
    let fitted = Mixture::fit(data, 10, size.fit)?;
    let another = Mixture::fit(data, 25, size.fit)?;
    let mut points = Vec::new();
    for &seed in bench.seeds() {
        for setting in settings {
            let searched = setting.searches.iter().map(Way::Search);
            let fixed = FIXED
                .iter()
                .map(|(variant, fixed)| Way::Fixed(variant, *fixed));
            points.extend(searched.chain(fixed).map(|way| (seed, setting, way)));
        }
    }
    let found = bench.measure_side_by_side(
        &Stage::new("searching steps", size),
        &points,
        |(seed, setting, way)| Cell::of(&setting.task).variant(way.variant()).seed(*seed),
        |(seed, setting, way)| {
            let score = |mixture| Score {
                model: Model::Whole(mixture),
                betas: setting.betas,
                sampler: setting.sampler,
            };
            let score_here = score(&fitted);
            let budget = Budget::Steps(setting.steps);
            let config = SearchConfig {
                epochs: size.epochs,
                ..SearchConfig::new(budget).with_population(size.population)
            };
            let mut outcome = way.outcome(config, *seed, size, &score_here, fitted.moments())?;
            if setting.other.is_some() {
                let seed = final_seed(*seed);
                let on_other = score(&another).measured(
                    &outcome.plan,
                    another.moments(),
                    seed,
                    size.final_samples,
                )?;
                outcome.other = Some(on_other.distance);
            }
            Ok(outcome)
        },
    )?;
    for ((seed, setting, way), outcome) in points.iter().zip(found) {
        record(table, &setting.task, way.variant(), *seed, &outcome, None)?;
        if let (Some(task), Some(distance)) = (&setting.other, outcome.other) {
            table.record(task, way.variant(), &DISTANCE, *seed, distance)?;
        }
    }
    Ok(())
}

fn final_seed(seed: u64) -> u64 {
    let config = SearchConfig {
        seed,
        ..SearchConfig::new(Budget::Steps(1))
    };
    config.final_seed()
}

/// How a plan comes about.
enum Way {
    Search(&'static Search),
    Fixed(&'static Variant, FixedPlan),
}

impl Way {
    fn variant(&self) -> &'static Variant {
        match self {
            Self::Search((variant, ..)) => variant,
            Self::Fixed(variant, _) => variant,
        }
    }

    fn outcome(
        &self,
        config: SearchConfig,
        seed: u64,
        size: &Size,
        score: &Score<'_>,
        reference: &nabla_train::frechet::Moments,
    ) -> Result<Outcome, ClaimError> {
        match self {
            Self::Search((_, behaviour, noise)) => {
                let config = SearchConfig {
                    behaviour: *behaviour,
                    noise: *noise,
                    seed,
                    ..config
                };
                searched(config, size, score, reference)
            }
            Self::Fixed(_, fixed) => {
                let space = score.space();
                let plan = fixed.plan(space.steps, config.budget.whole_steps(space));
                let plan = plan.map_err(ClaimError::experiment)?;
                let seed = final_seed(seed);
                let measured = score.measured(&plan, reference, seed, size.final_samples)?;
                Ok(Outcome {
                    plan,
                    distance: measured.distance,
                    other: None,
                    seconds: measured.seconds,
                    scored: 0,
                    history: Vec::new(),
                })
            }
        }
    }
}

/// Searches, and measures what was found with other noise.
fn searched(
    config: SearchConfig,
    size: &Size,
    score: &Score<'_>,
    reference: &nabla_train::frechet::Moments,
) -> Result<Outcome, ClaimError> {
    let seed = config.final_seed();
    let report = search(config, score.space(), &mut |candidate| {
        let found = score.measured(&candidate.plan, reference, candidate.seed, size.samples)?;
        Ok(found.distance)
    });
    let report = report.map_err(ClaimError::experiment)?;
    let measured = score.measured(&report.best.plan, reference, seed, size.final_samples)?;
    let history = report.history.iter();
    Ok(Outcome {
        distance: measured.distance,
        other: None,
        seconds: measured.seconds,
        scored: report.evaluations,
        history: history
            .map(|epoch| [epoch.evaluations as f64, epoch.best])
            .collect(),
        plan: report.best.plan,
    })
}

fn record(
    table: &mut Table,
    task: &Task,
    variant: &Variant,
    seed: u64,
    outcome: &Outcome,
    space: Option<Space>,
) -> Result<(), ClaimError> {
    table.record(task, variant, &DISTANCE, seed, outcome.distance)?;
    table.record(task, variant, &STEPS, seed, outcome.plan.count() as f64)?;
    if outcome.scored > 0 {
        table.record(task, variant, &SCORED, seed, outcome.scored as f64)?;
    }
    if let Some(space) = space {
        let blocks = outcome.plan.cost(space.blocks) as f64;
        table.record(task, variant, &BLOCKS, seed, blocks)?;
        table.record(task, variant, &SECONDS, seed, outcome.seconds)?;
    }
    Ok(())
}

type Curves = Vec<(Variant, Vec<[f64; 2]>)>;

/// The outcomes of a network: of every budget, the search of steps and blocks, of steps alone, and the fixed plans.
type OfNetwork = Vec<Vec<Outcome>>;

/// Trains a network for each seed and searches its steps and blocks, with a cell for each network.
fn blocks(
    bench: &Bench<'_>,
    size: &Size,
    data: &Data,
    table: &mut Table,
) -> Result<Curves, ClaimError> {
    let reference = data.moments()?;
    let variants = || {
        let fixed = FIXED.iter().map(|(variant, _)| variant.clone());
        [JOINT, STEPS_ALONE].into_iter().chain(fixed)
    };
    let found: Vec<OfNetwork> = bench.measure_side_by_side(
        &Stage::new("searching steps and blocks", size),
        bench.seeds(),
        |seed| Cell::whole().seed(*seed),
        |&seed| {
            let device = &bench.context().device;
            let network = NoiseNetwork::trained(data, size.training, seed, device)?;
            let score = Score {
                model: Model::Blocks(&network),
                betas: BetaSchedule::DDPM,
                sampler: "ddim",
            };
            let of_budget = |&(_, units): &(Task, usize)| {
                let [epochs, first_stage] = size.joint;
                let joint = SearchConfig {
                    epochs,
                    first_stage,
                    most_pruned: 0.5,
                    ..SearchConfig::new(Budget::Units(units)).with_population(size.population)
                };
                // Nothing is ever skipped.
                let steps_alone = SearchConfig {
                    budget: Budget::Steps(units / network.blocks()),
                    ..joint.clone()
                };
                let search = |config: SearchConfig| {
                    let config = SearchConfig { seed, ..config };
                    searched(config, size, &score, &reference)
                };
                let mut outcomes = vec![search(joint.clone())?, search(steps_alone)?];
                for (variant, fixed) in &FIXED {
                    let way = Way::Fixed(variant, *fixed);
                    outcomes.push(way.outcome(joint.clone(), seed, size, &score, &reference)?);
                }
                Ok(outcomes)
            };
            UNITS.iter().map(of_budget).collect()
        },
    )?;
    let space = Space {
        steps: 1000,
        blocks: network::BLOCKS,
    };
    let mut curves = Vec::new();
    for (&seed, of_network) in bench.seeds().iter().zip(found) {
        curves.clear();
        for ((task, units), outcomes) in UNITS.iter().zip(of_network) {
            for (variant, outcome) in variants().zip(outcomes) {
                record(table, task, &variant, seed, &outcome, Some(space))?;
                if *units == 24 && outcome.scored > 0 {
                    curves.push((variant, outcome.history));
                }
            }
        }
    }
    Ok(curves)
}
