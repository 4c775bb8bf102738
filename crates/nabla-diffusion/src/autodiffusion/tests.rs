use std::collections::HashSet;

use burn::tensor::{DType, Device, Tensor};
use nabla_train::frechet::{Moments, frechet_distance};
use proptest::prelude::*;

use super::*;
use crate::block_skipping::{BlockSet, SkippableDenoiser};
use crate::ddim::Ddim;
use crate::denoiser::{Condition, Denoiser, GaussianDenoiser, Prediction};
use crate::level::{Level, Levels};
use crate::registry::Options;
use crate::sampler::Sampler;
use crate::schedule::{BetaSchedule, NoiseSchedule, NoiseScheduleConfig};
use crate::seeded_noise::SeededNoise;

const SPACE: Space = Space {
    steps: 1000,
    blocks: 6,
};

fn schedule(betas: BetaSchedule) -> NoiseSchedule {
    let config = NoiseScheduleConfig::new().with_betas(betas);
    config.init().unwrap()
}

fn of_steps(steps: &[usize]) -> Plan {
    Plan::of_steps(steps.iter().copied()).unwrap()
}

fn steps(plan: &Plan) -> Vec<usize> {
    plan.steps().collect()
}

#[test]
fn strides_are_those_of_guided_diffusion() {
    for (count, stride, last) in [
        (4, 250, 750),
        (5, 200, 800),
        (6, 167, 835),
        (10, 100, 900),
        (15, 67, 938),
        (20, 50, 950),
    ] {
        let found = steps(&FixedPlan::Stride.plan(1000, count).unwrap());
        assert_eq!((found[0], found[1], found[count - 1]), (0, stride, last));
        assert_eq!(found.len(), count);
    }
    let none = FixedPlan::Stride.plan(1000, 600).unwrap_err();
    assert_eq!(
        none.to_string(),
        "no stride through 1000 training steps makes 600 steps"
    );
}

#[test]
fn fixed_plans_have_the_steps_that_were_asked_for() {
    let found = FixedPlan::ALL.map(|fixed| steps(&fixed.plan(1000, 4).unwrap()));
    assert_eq!(found[0], [0, 250, 500, 750]);
    assert_eq!(found[1], [249, 499, 749, 999]);
    assert_eq!(found[2], [0, 88, 355, 800]);
    assert_eq!(found[3], [0, 333, 666, 999]);
    for fixed in FixedPlan::ALL {
        for total in [1, 2, 3, 10, 64] {
            for count in 1..=total {
                match fixed.plan(total, count) {
                    Ok(plan) => {
                        assert_eq!(plan.count(), count, "{fixed:?} {total}");
                        plan.check(Space {
                            steps: total,
                            blocks: 0,
                        })
                        .unwrap();
                    }
                    Err(error) => {
                        assert!(matches!(error, PlanError::NoStride { .. }), "{error}");
                    }
                }
            }
            assert!(fixed.plan(total, total + 1).is_err());
            assert!(fixed.plan(total, 0).is_err());
        }
    }
}

/// Values computed in numpy; see `strides_are_those_of_guided_diffusion` for the plan.
#[test]
fn a_plan_keeps_the_levels_of_its_steps() {
    let kept = of_steps(&[0, 250, 500, 750, 999]);
    for (betas, expected) in [
        (
            BetaSchedule::COSINE,
            [0.999959, 0.845888, 0.492285, 0.143179, 2.43e-9],
        ),
        (
            BetaSchedule::DDPM,
            [0.9999, 0.521423, 0.0777967, 0.00330016, 4.04e-5],
        ),
    ] {
        let levels = kept.levels(&schedule(betas).into()).unwrap();
        for (index, expected) in expected.into_iter().enumerate() {
            let level = levels.level(index);
            assert_eq!(level.time(), steps(&kept)[index] as f64);
            let error = (level.alpha_bar() / expected - 1.0).abs();
            assert!(error < 2e-3, "{} for {expected}", level.alpha_bar());
        }
    }
    let ddim4 = FixedPlan::Stride.plan(1000, 4).unwrap();
    let levels = ddim4
        .levels(&schedule(BetaSchedule::COSINE).into())
        .unwrap();
    for (index, expected) in [4.1284e-5, 0.154077, 0.418026, 0.709155]
        .into_iter()
        .enumerate()
    {
        let error = (levels.beta(index) / expected - 1.0).abs();
        assert!(error < 1e-4, "{} for {expected}", levels.beta(index));
    }
    assert!(
        of_steps(&[1000])
            .levels(&schedule(BetaSchedule::DDPM).into())
            .is_err()
    );
}

/// DDIM multiplies every sample of the data `N(0, variance)` by this factor; right would be the root of the variance.
fn gain(levels: &Levels, variance: f64) -> f64 {
    let mut x = 1.0;
    for index in (0..levels.steps()).rev() {
        let (from, to) = (levels.level(index), levels.level_after(index));
        let power = from.alpha_bar() * variance + 1.0 - from.alpha_bar();
        let epsilon = from.noise() * x / power;
        let sample = (x - from.noise() * epsilon) / from.signal();
        x = to.signal() * sample + to.noise() * epsilon;
    }
    x
}

#[test]
fn gaussian_data_are_scaled_as_in_numpy() {
    let model = {
        let full = |value: f64| Tensor::<2>::full([1, 1], value, (&Device::flex(), DType::F64));
        GaussianDenoiser::new(full(0.0), full(0.25), Prediction::Epsilon)
    };
    let shipped = of_steps(&[94, 217, 354, 574, 834, 944]);
    let stride = |count| FixedPlan::Stride.plan(1000, count).unwrap();
    for (betas, plan, expected) in [
        (BetaSchedule::COSINE, stride(4), 0.361504),
        (BetaSchedule::COSINE, stride(10), 0.433554),
        (BetaSchedule::COSINE, shipped, 0.403782),
        (BetaSchedule::DDPM, stride(4), 0.225390),
        (BetaSchedule::DDPM, stride(10), 0.374128),
    ] {
        let levels = plan.levels(&schedule(betas).into()).unwrap();
        assert!((gain(&levels, 0.25) - expected).abs() < 1e-6, "{expected}");
        // The sampler does the same.
        let sampler = Sampler::new(Ddim::new(), levels).unwrap();
        let start = Tensor::<2>::full([1, 1], 1.0, (&Device::flex(), DType::F64));
        let drawn = sampler.sample(&model, start, &mut SeededNoise::new(0, 0));
        let found: f64 = drawn.unwrap().into_scalar();
        assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
    }
}

/// scipy's `sqrtm` gives this value.
#[test]
fn the_distance_of_two_normal_distributions_is_that_of_scipy() {
    let moments = |mean: [f64; 3], covariance: [f64; 9]| Moments {
        samples: 100,
        mean: mean.to_vec(),
        covariance: covariance.to_vec(),
    };
    let first = moments(
        [1.0, 0.0, -1.0],
        [1.0, 0.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0, 9.0],
    );
    let second = moments([0.0; 3], [2.0, 0.5, 0.0, 0.5, 1.0, 0.2, 0.0, 0.2, 3.0]);
    let found = frechet_distance(&first, &second).unwrap();
    assert!((found - 4.907642).abs() < 1e-6, "{found}");
}

/// The Fréchet distance of the data `N(0, 4)`, without noise. (With a variance below 1, some plans have none at all: a
/// late start is enough.)
fn noise_free(all: &Levels, plan: &Plan) -> f64 {
    (gain(&plan.levels(all).unwrap(), 4.0) - 2.0).powi(2)
}

/// All plans of three of sixty steps are 34,220, of which a search scores 1500 at most.
#[test]
fn the_search_reaches_the_optimum_of_all_plans() {
    let training = NoiseScheduleConfig::new()
        .with_steps(60)
        .with_betas(BetaSchedule::COSINE);
    let all: Levels = training.init().unwrap().into();
    let space = Space {
        steps: 60,
        blocks: 0,
    };
    let mut best = f64::INFINITY;
    for a in 0..60 {
        for b in a + 1..60 {
            for c in b + 1..60 {
                best = best.min(noise_free(&all, &of_steps(&[a, b, c])));
            }
        }
    }
    let uniform = noise_free(&all, &FixedPlan::Stride.plan(60, 3).unwrap());
    let found = |behaviour, seed| {
        let config = SearchConfig {
            epochs: 30,
            behaviour,
            seed,
            ..SearchConfig::new(Budget::Steps(3))
        };
        let report = search(config, space, &mut |c| Ok(noise_free(&all, &c.plan))).unwrap();
        assert!(report.evaluations <= 1500);
        report.best.score
    };
    let mut optima = 0;
    for seed in 0..4 {
        let each = [
            Behaviour::Evolution,
            Behaviour::Published,
            Behaviour::Random,
        ];
        let [evolved, published, random] = each.map(|behaviour| found(behaviour, seed));
        println!("seed {seed}: {evolved:.6}, published {published:.6}, random {random:.6}");
        println!("the best plan {best:.6}, the uniform one {uniform:.6}");
        assert!(evolved < 1.01 * best && evolved <= random);
        assert!(published < uniform && random >= best);
        optima += usize::from(evolved <= best);
    }
    // A step away from the optimum is less than half a percent.
    assert!(optima >= 2, "{optima} of 4 searches found the best plan");
}

/// A score in which every step and every block of it counts.
fn some_score(plan: &Plan) -> f64 {
    let each = plan.genes().iter();
    let each = each.map(|gene| {
        let skipped: usize = gene.skipped.iter().map(|block| (block * 7 + 3) % 11).sum();
        (gene.step as f64 - 313.0).abs() + skipped as f64
    });
    each.sum::<f64>() / plan.count() as f64
}

fn config(budget: Budget, behaviour: Behaviour, seed: u64) -> SearchConfig {
    SearchConfig {
        budget,
        behaviour,
        seed,
        epochs: 8,
        first_stage: 2,
        most_pruned: 0.6,
        ..SearchConfig::new(budget).with_population(12)
    }
}

/// Every candidate of a search, and its report.
fn run(config: &SearchConfig, space: Space) -> (Vec<Candidate>, SearchReport) {
    let mut all = Vec::new();
    let report = search(config.clone(), space, &mut |candidate| {
        all.push(candidate.clone());
        Ok(some_score(&candidate.plan))
    });
    (all, report.unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn plans_are_within_the_budget_and_scored_once(
        seed in 0..u64::MAX,
        units in 6usize..40,
        count in 1usize..9,
        steps in 9usize..200,
    ) {
        let space = Space { steps, blocks: 6 };
        for budget in [Budget::Steps(count), Budget::Units(units)] {
            for behaviour in [Behaviour::Evolution, Behaviour::Random, Behaviour::Published] {
                let config = config(budget, behaviour, seed);
                let (all, report) = run(&config, space);
                prop_assert!(all.len() <= config.most_evaluations());
                prop_assert_eq!(all.len(), report.evaluations);
                for candidate in &all {
                    prop_assert!(candidate.plan.check(space).is_ok());
                    if behaviour == Behaviour::Published {
                        continue; // Its children may cost more.
                    }
                    match budget {
                        Budget::Steps(count) => {
                            prop_assert_eq!(candidate.plan.count(), count);
                            prop_assert_eq!(candidate.plan.skipped(), 0);
                        }
                        Budget::Units(units) => prop_assert!(candidate.plan.cost(6) <= units),
                    }
                }
                let plans: HashSet<&Plan> = all.iter().map(|c| &c.plan).collect();
                if behaviour != Behaviour::Published {
                    prop_assert_eq!(plans.len(), all.len());
                }
                let best = all.iter().map(|c| some_score(&c.plan)).fold(f64::INFINITY, f64::min);
                if behaviour != Behaviour::Published {
                    prop_assert_eq!(report.best.score, best);
                }
                prop_assert!(report.history.windows(2).all(|e| e[1].best <= e[0].best));
                prop_assert_eq!(run(&config, space).1, report);
            }
        }
    }

    /// Through JSON, at any candidate.
    #[test]
    fn a_search_that_is_resumed_is_the_search(seed in 0..1000u64, stop in 0usize..90) {
        for budget in [Budget::Steps(4), Budget::Units(24)] {
            for behaviour in [Behaviour::Evolution, Behaviour::Published, Behaviour::Random] {
                let config = config(budget, behaviour, seed);
                let (all, whole) = run(&config, SPACE);
                let mut search = Search::new(config, SPACE).unwrap();
                let mut again = Vec::new();
                while let Some(candidate) = search.candidate().unwrap() {
                    if candidate.number == stop {
                        let text = serde_json::to_string(search.state()).unwrap();
                        search = Search::resume(serde_json::from_str(&text).unwrap()).unwrap();
                        prop_assert_eq!(search.candidate().unwrap(), Some(candidate.clone()));
                    }
                    search.record(some_score(&candidate.plan)).unwrap();
                    again.push(candidate);
                }
                prop_assert_eq!(&again, &all);
                prop_assert_eq!(search.report().unwrap(), whole);
            }
        }
    }
}

#[test]
fn steps_come_first_and_skipped_blocks_pay_for_more_of_them() {
    let config = SearchConfig {
        most_pruned: 0.5,
        ..SearchConfig::new(Budget::Units(24))
    };
    // Many steps are good, whatever is skipped.
    let score = |plan: &Plan| 1.0 / plan.count() as f64;
    let mut counts = Vec::new();
    let report = search(config.clone(), SPACE, &mut |candidate| {
        counts.push((candidate.plan.count(), candidate.plan.skipped()));
        Ok(score(&candidate.plan))
    });
    let report = report.unwrap();
    let first = report.history[config.first_stage - 1].evaluations;
    assert!(
        counts[..first]
            .iter()
            .all(|&(count, skipped)| (count, skipped) == (4, 0))
    );
    assert!(report.best.plan.count() >= 6, "{:?}", report.best);
    let pruned: Vec<f64> = report.history.iter().map(|epoch| epoch.pruned).collect();
    assert_eq!(pruned[..6], [0.0, 0.0, 0.0, 0.0, 0.0, 0.1]);
    assert_eq!(pruned[9..], [0.5; 6]);
}

#[test]
fn the_noise_of_the_end_is_that_of_no_candidate() {
    for noise in [ScoringNoise::Common, ScoringNoise::Fresh] {
        let config = SearchConfig {
            noise,
            ..config(Budget::Steps(3), Behaviour::Evolution, 5)
        };
        let seeds: HashSet<u64> = run(&config, SPACE).0.iter().map(|c| c.seed).collect();
        assert!(!seeds.contains(&config.final_seed()));
        let evaluations = run(&config, SPACE).1.evaluations;
        let expected = match noise {
            ScoringNoise::Common => 1,
            ScoringNoise::Fresh => evaluations,
        };
        assert_eq!(seeds.len(), expected);
    }
}

#[test]
fn a_score_that_is_no_number_drops_the_candidate() {
    let config = config(Budget::Steps(3), Behaviour::Evolution, 1);
    let report = search(config.clone(), SPACE, &mut |candidate| {
        Ok(match candidate.number % 3 {
            0 => f64::NAN,
            1 => f64::INFINITY,
            _ => some_score(&candidate.plan),
        })
    });
    let report = report.unwrap();
    assert!(report.best.score.is_finite());
    assert!(report.elite.iter().all(|scored| scored.number % 3 == 2));
    assert_eq!(report.dropped, report.evaluations - report.evaluations / 3);
    let none = search(config.clone(), SPACE, &mut |_| Ok(f64::NAN)).unwrap_err();
    assert!(
        none.to_string().contains("none of the 96 candidates"),
        "{none}"
    );
    let failed = search(config, SPACE, &mut |_| Err("the network is on fire".into()));
    assert_eq!(failed.unwrap_err().to_string(), "the network is on fire");
}

#[test]
fn a_small_space_is_searched_whole() {
    let space = Space {
        steps: 5,
        blocks: 0,
    };
    let (all, report) = run(&config(Budget::Steps(2), Behaviour::Evolution, 0), space);
    assert_eq!(all.len(), 10);
    let steps: HashSet<Vec<usize>> = all.iter().map(|c| steps(&c.plan)).collect();
    assert_eq!(steps.len(), 10);
    assert_eq!(report.evaluations, 10);
}

/// Item by item, as the notes of the module say.
#[test]
fn the_published_search_has_its_faults() {
    // Blocks are skipped in the step of their rank: those of 700 in 100.
    let config = config(Budget::Units(24), Behaviour::Published, 0);
    let genetics = genetics::Genetics {
        config: &config,
        space: SPACE,
        pruned: [0.0, 0.5],
    };
    let skips = |step, blocks: &[usize]| Gene {
        step,
        skipped: BlockSet::of(blocks.iter().copied()),
    };
    let genome = vec![skips(700, &[1]), skips(100, &[]), skips(400, &[2, 3])];
    let expected = [skips(100, &[1]), skips(400, &[]), skips(700, &[2, 3])];
    assert_eq!(genetics.expressed(&genome).unwrap().genes(), expected);
    // A step that occurs twice is lost.
    let twice = vec![Gene::whole(5), Gene::whole(5), Gene::whole(3)];
    assert_eq!(steps(&genetics.expressed(&twice).unwrap()), [3, 5]);
    // A set with blocks in it never changes.
    let mut noise = SeededNoise::new(0, 0);
    for _ in 0..50 {
        let mutated = genetics.mutated(&genome, 0.5, &mut noise);
        assert_eq!(mutated[0].skipped, genome[0].skipped);
        assert_eq!(mutated[2].skipped, genome[2].skipped);
    }
    // The last epoch of a search of steps is scored in vain.
    let config = SearchConfig {
        epochs: 3,
        ..self::config(Budget::Steps(4), Behaviour::Published, 0)
    };
    let report = search(config, SPACE, &mut |c| Ok(-(c.number as f64))).unwrap();
    assert_eq!(report.evaluations, 36);
    assert_eq!(report.best.number, 23);
}

#[test]
fn what_does_not_fit_is_refused_in_a_sentence() {
    let told = |config: SearchConfig| Search::new(config, SPACE).unwrap_err().to_string();
    let with = |budget| told(SearchConfig::new(budget));
    assert!(with(Budget::Steps(0)).contains("0 steps were asked for"));
    assert!(with(Budget::Steps(1001)).contains("1 to 1000"));
    assert!(with(Budget::Units(5)).contains("the budget is 5 blocks"));
    let nothing_to_skip = Space {
        steps: 10,
        blocks: 0,
    };
    let error = Search::new(SearchConfig::new(Budget::Units(5)), nothing_to_skip);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("no blocks that can be skipped")
    );
    let steps = SearchConfig::new(Budget::Steps(4));
    assert!(
        told(SearchConfig {
            mutations: 60,
            ..steps.clone()
        })
        .contains("mutations and crossovers")
    );
    assert!(
        told(SearchConfig {
            most_pruned: 1.0,
            ..steps.clone()
        })
        .contains("in [0, 1)")
    );
    assert!(
        told(SearchConfig {
            mutation_probability: 1.5,
            ..steps.clone()
        })
        .contains("mutation probability")
    );

    // A state that was tampered with.
    let mut search = Search::new(steps, SPACE).unwrap();
    search.record(1.0).unwrap();
    let mut state = serde_json::to_value(search.state()).unwrap();
    state["elite"] = serde_json::json!([7]);
    let error = Search::resume(serde_json::from_value(state.clone()).unwrap());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("its elite was never scored")
    );
    state["elite"] = serde_json::json!([]);
    state["population"][0][0]["step"] = 5000.into();
    let error = Search::resume(serde_json::from_value(state).unwrap());
    assert!(error.unwrap_err().to_string().contains("step 5000"));

    assert!(Plan::of_steps([]).is_err());
    assert_eq!(Plan::of_steps([3, 1, 3]), Err(PlanError::Repeated(3)));
    assert!(serde_json::from_str::<Plan>("[{\"step\": 3}, {\"step\": 3}]").is_err());
}

/// A network of blocks that each add something, and count their calls.
#[derive(Default)]
struct Counting {
    computed: std::sync::Mutex<Vec<(f64, usize)>>,
}

impl Denoiser<2> for Counting {
    fn prediction(&self) -> Prediction {
        Prediction::Sample
    }

    fn predict(
        &self,
        x: Tensor<2>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<2>>, OwnError> {
        let rows: Vec<_> = (0..x.dims()[0])
            .map(|row| (row, Condition::FIRST))
            .collect();
        let y = self.predict_rows_skipping(x, level, &rows, BlockSet::none())?;
        Ok(vec![y; conditions.len()])
    }
}

impl SkippableDenoiser<2> for Counting {
    fn blocks(&self) -> usize {
        6
    }

    fn predict_rows_skipping(
        &self,
        x: Tensor<2>,
        level: Level,
        _rows: &[(usize, Condition)],
        skipped: &BlockSet,
    ) -> Result<Tensor<2>, OwnError> {
        let mut blocks = crate::block_skipping::BlockCounter::new(skipped);
        let mut y = x * 0.1;
        let mut computed = 0;
        for block in 0..6 {
            if blocks.computes_next() {
                y = y + block as f64;
                computed += 1;
            }
        }
        self.computed.lock().unwrap().push((level.time(), computed));
        Ok(y)
    }
}

/// Exactly as many blocks are computed as the plan costs, each in its own step, in every sampler that calls the network
/// once in a step.
#[test]
fn a_run_computes_what_the_plan_costs() {
    let skips = |step, blocks: &[usize]| Gene {
        step,
        skipped: BlockSet::of(blocks.iter().copied()),
    };
    let plan = Plan::new([skips(90, &[1, 2]), skips(333, &[]), skips(800, &[0, 3, 5])]).unwrap();
    let all: Levels = schedule(BetaSchedule::COSINE).into();
    let levels = plan.levels(&all).unwrap();
    for name in ["ddim", "dpm++2m", "unipc"] {
        let model = Counting::default();
        let planned = PlannedDenoiser::new(&model, &plan, &levels).unwrap();
        let solver = planned_sampler::<2>(name, &Options::new()).unwrap();
        let sampler = Sampler::new(solver, levels.clone()).unwrap();
        let mut noise = SeededNoise::new(0, 0);
        let start = noise.normal([3, 2], &Device::flex());
        sampler.sample(&planned, start, &mut noise).unwrap();
        let computed = model.computed.lock().unwrap().clone();
        assert_eq!(computed, [(800.0, 3), (333.0, 6), (90.0, 4)], "{name}");
        let sum: usize = computed.iter().map(|(_, count)| count).sum();
        assert_eq!(sum, plan.cost(6));
    }
    // Calls between two steps belong to the noisier one; PLMS looks ahead in its first step.
    let model = Counting::default();
    let planned = PlannedDenoiser::new(&model, &plan, &levels).unwrap();
    let x = Tensor::<2>::zeros([2, 2], &Device::flex());
    for (time, expected) in [(5.0, 4), (90.5, 6), (333.0, 6), (334.0, 3), (950.0, 3)] {
        let level = Level::variance_preserving(time, 0.5);
        let both = [Condition::FIRST, Condition::FIRST];
        assert_eq!(planned.predict(x.clone(), level, &both).unwrap().len(), 2);
        let last = model.computed.lock().unwrap().last().copied();
        assert_eq!(last.map(|(_, count)| count), Some(expected), "{time}");
    }
    let other = of_steps(&[1, 2]);
    assert!(PlannedDenoiser::new(&model, &other, &levels).is_err());
    let beyond = Plan::new([skips(90, &[6]), Gene::whole(333), Gene::whole(800)]).unwrap();
    let error = PlannedDenoiser::new(&model, &beyond, &levels).unwrap_err();
    assert!(
        error.to_string().contains("block 6, which step 90"),
        "{error}"
    );
}
