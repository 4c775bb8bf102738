//! A search on a model of labelled pictures, judged by a classifier.

use burn::tensor::Device;
use nabla_diffusion::autodiffusion::{
    Budget, FixedPlan, Gene, Plan, PlanTrials, SearchConfig, Space, planned_sampler, search,
};
use nabla_diffusion::block_skipping::BlockSet;
use nabla_diffusion::guidance_trial::{GuidanceTrials, TrialConfig};
use nabla_diffusion::registry::Options;
use nabla_diffusion::sample_quality::Judge;

use crate::guidance_trial::{SIDE, classifier, denoiser, pictures};

#[test]
fn plans_are_scored_by_the_pictures_that_they_draw() {
    let judging = classifier(0);
    let real = pictures(60);
    let judge = Judge::new(&judging, &real, &Device::flex()).unwrap();
    let model = denoiser(SIDE);
    let trials = |guidance: &str, scale| PlanTrials {
        trials: GuidanceTrials {
            model: &model,
            weak: None,
            guide: None,
            judge: &judge,
            config: TrialConfig {
                pictures: 20,
                batch: 8,
                ..TrialConfig::default()
            },
        },
        sampler: planned_sampler("ddim", &Options::new().with("clip", 1.0)).unwrap(),
        guidance: guidance.to_owned(),
        guidance_options: Options::new(),
        scale,
    };
    let plain = trials("none", 1.0);
    let space = plain.space();
    assert_eq!(
        space,
        Space {
            steps: 1000,
            blocks: 6
        }
    );
    let plan = Plan::new([
        Gene {
            step: 100,
            skipped: BlockSet::of([1]),
        },
        Gene::whole(600),
        Gene::whole(900),
    ]);
    let plan = plan.unwrap();
    let mut drawn = 0;
    let mut count = |pictures| {
        drawn += pictures;
        Ok(())
    };
    let trial = plain.run(&plan, 3, &mut count).unwrap();
    assert_eq!((drawn, trial.pictures), (20, 20));
    assert_eq!(trial.evaluations, 3.0);
    let distance = |trials: &PlanTrials<'_>, plan: &Plan, seed| {
        let trial = trials.run(plan, seed, &mut |_| Ok(())).unwrap();
        trial.frechet_distance.unwrap()
    };
    // The same noise, the same score; with other noise another one.
    assert_eq!(trial.frechet_distance, Some(distance(&plain, &plan, 3)));
    assert!(trial.frechet_distance != Some(distance(&plain, &plan, 4)));
    let guided = trials("classifier-free", 2.0).run(&plan, 3, &mut |_| Ok(()));
    assert_eq!(guided.unwrap().evaluations, 6.0);

    let config = SearchConfig {
        epochs: 2,
        most_pruned: 0.5,
        first_stage: 1,
        ..SearchConfig::new(Budget::Units(14)).with_population(6)
    };
    let report = search(config, space, &mut |candidate| {
        let trial = plain.run(&candidate.plan, candidate.seed, &mut |_| Ok(()))?;
        Ok(trial.frechet_distance.unwrap_or(f64::NAN))
    });
    let report = report.unwrap();
    let stride = FixedPlan::Stride.plan(1000, 2).unwrap();
    assert!(report.best.score <= distance(&plain, &stride, 0));
    assert!(report.best.plan.cost(6) <= 14);

    let beyond = Plan::of_steps([1000]).unwrap();
    let told = plain.run(&beyond, 0, &mut |_| Ok(())).unwrap_err();
    assert!(told.to_string().contains("step 1000 of the plan"), "{told}");
    let stopped = plain.run(&plan, 0, &mut |_| Err("enough".into()));
    assert_eq!(stopped.unwrap_err().to_string(), "enough");
}
