//! The guidances' own mathematics, on mixtures of Gaussians whose densities are known.

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_diffusion::asking::Step;
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::denoiser::{
    Condition, Denoised, Denoiser, GaussianDenoiser, GaussianMixture, MixturePart, OwnError,
    Prediction, RowConditions, SamplerError,
};
use nabla_diffusion::guidance::{
    Adaptive, AdaptiveConfig, Autoguidance, CfgPlusPlus, CfgTrajectory, ClassifierFree,
    ClassifierGuidance, Evaluations, GradientFreeClassifier, GradientFreeClassifierConfig,
    Guidance, GuidancePolicy, LinearAdaptive, LinearCoefficients, LinearStep, ModelAt,
    PolicySearch, PolicyStep, Reference, Relaxation, ScaleRule, TrajectoryRecorder,
    equivalent_omega,
};
use nabla_diffusion::level::Level;
use nabla_diffusion::sampler::{Sampler, Sampling, samplers};
use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;

/// Three classes in the plane that overlap, the last of two parts.
fn mixture() -> GaussianMixture {
    let part = |class, mean: [f64; 2], deviation| MixturePart {
        class,
        weight: 1.0,
        mean: mean.to_vec(),
        deviation,
    };
    GaussianMixture::new(vec![
        part(0, [-0.8, 0.0], 0.35),
        part(1, [0.8, 0.0], 0.35),
        part(2, [0.0, 0.9], 0.3),
        part(2, [0.0, -1.1], 0.2),
    ])
    .unwrap()
}

fn start(rows: usize) -> Tensor<2> {
    SeededNoise::new(3, 0).normal([rows, 2], &Device::flex())
}

fn sampler(name: &str, steps: usize) -> Sampler<2> {
    let training = NoiseScheduleConfig::new().init().unwrap();
    let schedule = training.respace(Spacing::Trailing, steps).unwrap();
    Sampler::new(samplers().get(name).unwrap(), schedule).unwrap()
}

fn largest(x: Tensor<2>) -> f64 {
    x.abs().max().cast(DType::F64).into_scalar::<f64>()
}

fn run(
    model: &dyn Denoiser<2>,
    guidance: &mut dyn Guidance<2>,
    sampler: &Sampler<2>,
    x: Tensor<2>,
) -> (Tensor<2>, Evaluations) {
    let mut evaluations = Evaluations::new();
    let found = Sampling::of(model)
        .guided_by(guidance)
        .counted_in(&mut evaluations)
        .run(sampler, x, &mut SeededNoise::new(0, 0))
        .unwrap();
    (found, evaluations)
}

/// One query of a guidance at a state.
fn query(
    model: &dyn Denoiser<2>,
    guidance: &mut dyn Guidance<2>,
    x: &Tensor<2>,
    level: Level,
) -> Result<(Denoised<2>, Evaluations), OwnError> {
    let mut evaluations = Evaluations::new();
    let step = Step {
        index: 4,
        steps: 10,
        call: 0,
        level,
        x,
    };
    guidance.begin(10)?;
    let mut at = ModelAt::new(model, x, level, &mut evaluations);
    let denoised = guidance.guide(&step, &mut at)?;
    Ok((denoised, evaluations))
}

/// Classifier-free guidance whose scale in each step is the one that equals CFG++.
#[derive(Debug)]
struct Equivalent<'a> {
    lambda: f64,
    sampler: &'a Sampler<2>,
}

impl Guidance<2> for Equivalent<'_> {
    fn guide(
        &mut self,
        step: &Step<'_, 2>,
        model: &mut ModelAt<'_, 2>,
    ) -> Result<Denoised<2>, OwnError> {
        let to = self.sampler.levels().level_after(step.index);
        let omega = equivalent_omega(step.level, to, self.lambda);
        ClassifierFree::new().with_scale(omega).guide(step, model)
    }
}

#[test]
fn cfg_plus_plus_is_classifier_free_guidance_of_the_equivalent_scale() {
    let mixture = mixture();
    let model = RowConditions::new(&mixture, [0, 1, 2, 0, 1].map(Condition::Given).to_vec());
    for lambda in [0.0, 0.3, 0.6, 1.0] {
        for steps in [1, 2, 10, 50] {
            let sampler = sampler("ddim", steps);
            let mut plus = CfgPlusPlus::new().with_scale(lambda);
            let mut equivalent = Equivalent {
                lambda,
                sampler: &sampler,
            };
            let (found, _) = run(&model, &mut plus, &sampler, start(5));
            let (expected, _) = run(&model, &mut equivalent, &sampler, start(5));
            let error = largest(found - expected);
            assert!(error < 2e-4, "{lambda} in {steps} steps: {error}");
        }
    }
    // In the last step it is λ; with twice the steps about twice as large.
    let omega = |steps, index: usize| {
        let levels = sampler("ddim", steps).levels().clone();
        equivalent_omega(levels.level(index), levels.level_after(index), 0.6)
    };
    assert!((omega(50, 0) - 0.6).abs() < 1e-12);
    let ratio = omega(100, 50) / omega(50, 25);
    assert!((ratio - 2.0).abs() < 0.1, "{ratio}");
}

/// More calls of the fixed-point iteration undo a guided run exactly.
#[test]
fn guided_runs_are_inverted() {
    let mixture = mixture();
    let model = RowConditions::new(&mixture, vec![Condition::Given(2); 6]);
    let sampler = sampler("ddim", 40);
    for guidance in [
        &mut CfgPlusPlus::new() as &mut dyn Guidance<2>,
        &mut ClassifierFree::new().with_scale(2.0),
    ] {
        let (drawn, _) = run(&model, guidance, &sampler, start(6));
        let error = |guidance: &mut dyn Guidance<2>, iterations: usize| {
            let mut evaluations = Evaluations::new();
            let sampling = Sampling::of(&model)
                .guided_by(guidance)
                .counted_in(&mut evaluations);
            let levels = sampler.levels();
            let found = Ddim::new().invert_with(levels, sampling, drawn.clone(), iterations);
            let (again, _) = run(&model, guidance, &sampler, found.unwrap());
            assert_eq!(evaluations.each(), [2 * 40 * iterations; 6]);
            largest(again - drawn.clone())
        };
        let (usual, exact) = (error(guidance, 1), error(guidance, 12));
        assert!(
            exact < 2e-3 && exact < usual,
            "{guidance:?}: {usual}, {exact}"
        );
    }
    // Without guidance it is the inversion that there was.
    let levels = sampler.levels();
    let x = start(6) * 0.3;
    let old = Ddim::new().invert(levels, &model, x.clone(), 2).unwrap();
    let mut step_by_step = x;
    for index in 0..levels.steps() {
        let stepped = Ddim::new().invert_step(levels, &model, &step_by_step, index, 2);
        step_by_step = stepped.unwrap();
    }
    assert_eq!(largest(old - step_by_step), 0.0);
}

/// Bayes: the score of a class is the score of all plus the gradient of the classifier's logarithm.
#[test]
fn classifier_guidance_with_the_exact_classifier_is_the_conditional_model() {
    let mixture = mixture();
    let without = RowConditions::new(&mixture, vec![Condition::Without; 4]);
    let targets = vec![0, 1, 2, 1];
    let classifier = |x: Tensor<2>, level: Level| Ok(mixture.log_posterior(x, level)?);
    let mut guidance = ClassifierGuidance::new(&classifier, targets.clone());
    let with = RowConditions::new(
        &mixture,
        targets.into_iter().map(Condition::Given).collect(),
    );
    for level in [Level::variance_preserving(1.0, 0.4), Level::straight(0.3)] {
        let x = start(4);
        let (found, _) = query(&without, &mut guidance, &x, level).unwrap();
        let expected = Denoised::predict(&with, &x, level).unwrap();
        let error = largest(found.epsilon - expected.epsilon);
        assert!(error < 1e-5, "{level:?}: {error}");
        assert!(largest(found.sample - expected.sample) < 1e-4);
        // Twice the gradient, also where the state is differentiable itself.
        let mut twice = ClassifierGuidance::new(&classifier, vec![0, 1, 2, 1]).with_scale(2.0);
        let (found, _) = query(&without, &mut twice, &x, level).unwrap();
        let (again, _) = query(&without, &mut twice, &x.clone().autodiff(), level).unwrap();
        assert!(largest(found.epsilon - again.epsilon.without_autodiff()) < 1e-6);
    }
    let told = |targets: Vec<usize>| {
        let mut guidance = ClassifierGuidance::new(&classifier, targets);
        let (x, level) = (start(4), Level::straight(0.3));
        query(&without, &mut guidance, &x, level)
            .unwrap_err()
            .to_string()
    };
    assert!(told(vec![0; 3]).contains("number of target classes is 3, but it must be 4"));
    assert!(told(vec![0, 0, 0, 3]).contains("target class is 3, but it must be below 3"));
}

fn clean_classifier(
    mixture: &GaussianMixture,
) -> impl Fn(Tensor<2>) -> Result<Tensor<2>, OwnError> {
    move |x: Tensor<2>| Ok(mixture.log_posterior(x, Level::variance_preserving(0.0, 0.9))?)
}

/// `∇ ln p(x | c) − ∇ ln p(x | c_ref)` is the gradient of the log-odds.
#[test]
fn gfcg_follows_the_gradient_of_the_log_odds() {
    let mixture = mixture();
    let classifier = clean_classifier(&mixture);
    let targets = vec![0, 1, 2, 1, 0];
    let config = GradientFreeClassifierConfig::new().with_start(0.0);
    let mut guidance =
        GradientFreeClassifier::new(config, &classifier, targets.clone(), Reference::Alone);
    let (x, level) = (start(5), Level::variance_preserving(1.0, 0.5));
    let (found, evaluations) = query(&mixture, &mut guidance, &x, level).unwrap();
    assert_eq!(evaluations.each(), [2; 5]);
    let plan = guidance.latest_plan().unwrap().clone();

    let conditions = targets
        .iter()
        .map(|&class| Condition::Given(class))
        .collect();
    let own = RowConditions::new(&mixture, conditions);
    let with = Denoised::predict(&own, &x, level).unwrap();
    let leaf = x.clone().autodiff().require_grad();
    let posterior = mixture.log_posterior(leaf.clone(), level).unwrap();
    let one_hot = |classes: &[usize], weights: &[f64]| {
        let mut values = vec![0.0; 15];
        for (row, (&class, &weight)) in classes.iter().zip(weights).enumerate() {
            values[3 * row + class] = weight;
        }
        Tensor::<2>::from_data(TensorData::new(values, [5, 3]), &Device::flex())
    };
    let weights: Vec<f64> = plan.shares.iter().map(|share| 2.0 * share).collect();
    let odds = one_hot(&targets, &weights) - one_hot(&plan.classes, &weights);
    let gradients = (posterior * odds.autodiff()).sum().backward();
    let gradient = leaf.grad(&gradients).unwrap();
    let expected = with.epsilon - gradient * level.noise();
    let error = largest(found.epsilon - expected);
    assert!(error < 2e-5, "{error}");
    for (row, &target) in targets.iter().enumerate() {
        assert_ne!(plan.classes[row], target);
        assert_eq!(plan.confused[row], plan.shares[row] > 0.5);
    }
}

#[test]
fn gfcg_saves_the_second_evaluation_where_the_classifier_is_sure() {
    let mixture = mixture();
    let classifier = clean_classifier(&mixture);
    // A row of class 0 where it belongs, and one among class 1.
    let x = Tensor::<2>::from_floats([[-0.9, 0.0], [0.9, 0.0]], &Device::flex());
    let level = Level::variance_preserving(1.0, 0.9);
    let config = GradientFreeClassifierConfig::new()
        .with_rule(ScaleRule::Hard)
        .with_start(0.0);
    let of = |reference| {
        let mut guidance = GradientFreeClassifier::new(config, &classifier, vec![0, 0], reference);
        query(&mixture, &mut guidance, &x, level).unwrap()
    };
    let answer = |condition| {
        mixture
            .predict(x.clone(), level, &[condition])
            .unwrap()
            .remove(0)
    };
    let [own, other, none] =
        [Condition::Given(0), Condition::Given(1), Condition::Without].map(answer);
    let row = |x: &Tensor<2>, row: usize| x.clone().slice_dim(0, row..row + 1);
    let away = |from: &Tensor<2>, at: usize, weight: f64| {
        row(&own, at) + (row(&own, at) - row(from, at)) * weight
    };

    let (found, evaluations) = of(Reference::Alone);
    assert_eq!(evaluations.each(), [1, 2]);
    assert!(largest(row(&found.epsilon, 0) - row(&own, 0)) < 1e-6);
    assert!(largest(row(&found.epsilon, 1) - away(&other, 1, 2.0)) < 1e-5);

    let (found, evaluations) = of(Reference::OrClassifierFree(3.0));
    assert_eq!(evaluations.each(), [2, 2]);
    assert!(largest(row(&found.epsilon, 0) - away(&none, 0, 2.0)) < 1e-5);
    assert!(largest(row(&found.epsilon, 1) - away(&other, 1, 2.0)) < 1e-5);

    let (found, evaluations) = of(Reference::WithClassifierFree(2.5));
    assert_eq!(evaluations.each(), [2, 3]);
    assert!(largest(row(&found.epsilon, 0) - away(&none, 0, 1.5)) < 1e-5);
    let both = away(&none, 1, 1.5) + (row(&own, 1) - row(&other, 1)) * 2.0;
    assert!(largest(row(&found.epsilon, 1) - both) < 1e-5);

    let weak = mixture.clone();
    let (found, evaluations) = of(Reference::Weak(&weak, 1.5));
    assert_eq!(
        (evaluations.each(), evaluations.of_others()),
        (&[1, 1][..], 2)
    );
    assert!(largest(row(&found.epsilon, 1) - away(&other, 1, 2.0)) < 1e-5);
    let plan = GradientFreeClassifier::new(config, &classifier, vec![0, 0], Reference::Alone);
    let plan = plan.plan(x.clone()).unwrap();
    let reference = answer(Condition::Given(plan.classes[0]));
    assert!(largest(row(&found.epsilon, 0) - away(&reference, 0, 0.5)) < 1e-5);
}

/// In a run: no classifier before the start, and only in every second step.
#[test]
fn gfcg_asks_the_classifier_as_often_as_it_is_told() {
    let mixture = mixture();
    let asked = std::cell::Cell::new(0);
    let classifier = |x: Tensor<2>| {
        asked.set(asked.get() + 1);
        Ok(mixture.log_posterior(x, Level::variance_preserving(0.0, 0.9))?)
    };
    let config = GradientFreeClassifierConfig::new()
        .with_start(0.2)
        .with_every(2)
        .with_rule(ScaleRule::Doubt);
    let mut guidance =
        GradientFreeClassifier::new(config, &classifier, vec![0, 1, 2], Reference::Alone);
    for (name, queries) in [("ddim", 10), ("heun", 19)] {
        asked.set(0);
        let (found, evaluations) = run(&mixture, &mut guidance, &sampler(name, 10), start(3));
        assert!(largest(found).is_finite());
        assert_eq!(asked.get(), 4, "{name}");
        let unguided = if name == "heun" { 4 } else { 2 };
        assert_eq!(evaluations.each(), [2 * queries - unguided; 3], "{name}");
    }
    let told = |classifier: &dyn Fn(Tensor<2>) -> Result<Tensor<2>, OwnError>, targets| {
        let classifier = |x: Tensor<2>| classifier(x);
        let config = config.with_start(0.0);
        let mut guidance =
            GradientFreeClassifier::new(config, &classifier, targets, Reference::Alone);
        let (x, level) = (start(2), Level::straight(0.4));
        query(&mixture, &mut guidance, &x, level)
            .unwrap_err()
            .to_string()
    };
    let logits = |value: f32, classes: usize| {
        move |x: Tensor<2>| Ok(Tensor::full([x.dims()[0], classes], value, &x.device()))
    };
    assert!(told(&logits(0.0, 3), vec![0]).contains("number of target classes is 1"));
    assert!(told(&logits(0.0, 1), vec![0, 0]).contains("classes is 1, but it must be at least 2"));
    assert!(told(&logits(f32::NAN, 3), vec![0, 0]).contains("not finite"));
    assert!(told(&logits(0.0, 2), vec![0, 2]).contains("target class is 2"));
}

#[test]
fn autoguidance_takes_a_weak_model_of_any_kind_of_prediction() {
    let full = |value: f64| Tensor::<2>::full([1, 2], value, &Device::flex());
    let of = |variance, kind| GaussianDenoiser::new(full(0.4), full(variance), kind);
    let good = of(0.1, Prediction::Epsilon);
    let (x, level) = (start(4), Level::variance_preserving(1.0, 0.5));
    let [d, e] = [0.1, 0.5].map(|v| of(v, Prediction::Sample).answer(x.clone(), level));
    let expected = e.clone() + (d - e) * 2.5;
    for kind in Prediction::ALL {
        let weak = of(0.5, kind);
        let mut guidance = Autoguidance::new(&weak, 2.5);
        let (found, evaluations) = query(&good, &mut guidance, &x, level).unwrap();
        let error = largest(found.sample - expected.clone());
        assert!(error < 1e-5, "{kind:?}: {error}");
        assert_eq!(
            (evaluations.each(), evaluations.of_others()),
            (&[1; 4][..], 4)
        );
        assert_eq!(evaluations.total(), 8);
    }
}

/// Recorded predictions that follow a linear law exactly.
#[test]
fn the_fit_of_linear_ag_finds_the_law_of_the_predictions() {
    let mut noise = SeededNoise::new(1, 0);
    let mut record = || {
        let mut trajectory = CfgTrajectory::<2> {
            times: (0..5).rev().map(f64::from).collect(),
            ..CfgTrajectory::default()
        };
        for step in 0..5 {
            let c: Tensor<2> = noise.normal([40, 2], &Device::flex());
            // ε_∅(t) = 0.8 ε_c(t), then + 0.5 ε_∅(t + 1) − 0.25 ε_c(T).
            let mut n = c.clone() * 0.8;
            if step > 0 {
                let (last, first): (Tensor<2>, Tensor<2>) = (
                    trajectory.without[step - 1].clone(),
                    trajectory.with[0].clone(),
                );
                n = n + last * 0.5 - first * 0.25;
            }
            trajectory.with.push(c);
            trajectory.without.push(n);
        }
        trajectory
    };
    let trajectories: Vec<_> = (0..3).map(|_| record()).collect();
    let found = LinearCoefficients::fit(&trajectories).unwrap();
    // The first prediction without the condition is a multiple of the one with it: only their sum is known.
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-4, "{found}");
    close(found.of_step(0).unwrap()[0], 0.8);
    for step in 1..5 {
        let weights = found.of_step(step).unwrap();
        assert_eq!(weights.len(), 2 * step + 1);
        close(weights[2 * step], 0.8);
        let of_first = weights[0] + 0.8 * weights[1];
        match step {
            1 => close(of_first, 0.8 * 0.5 - 0.25),
            _ => {
                // The law of the step before stands in for its prediction, too.
                let all: f64 = found.explained(&[record()]).unwrap()[step];
                close(all, 1.0);
            }
        }
    }
    assert!(
        found
            .explained(&trajectories)
            .unwrap()
            .iter()
            .all(|share| *share > 0.9999)
    );

    let text = serde_json::to_string(&found).unwrap();
    assert_eq!(
        serde_json::from_str::<LinearCoefficients>(&text).unwrap(),
        found
    );
    let mut other = record();
    other.times[2] = 7.5;
    let error = LinearCoefficients::fit(&[trajectories[0].clone(), other]).unwrap_err();
    assert!(error.to_string().contains("7.5"), "{error}");
    assert!(LinearCoefficients::fit::<2>(&[]).is_err());
}

#[test]
fn linear_ag_imitates_classifier_free_guidance_with_fewer_evaluations() {
    let mixture = mixture();
    let rows = 60;
    let labels: Vec<Condition> = (0..rows).map(|row| Condition::Given(row % 3)).collect();
    let model = RowConditions::new(&mixture, labels);
    let (sampler, usual) = (sampler("ddim", 20), ClassifierFree::new().with_scale(3.0));
    let mut recorder = TrajectoryRecorder::new(usual);
    let record = |recorder: &mut TrajectoryRecorder<2>, seed| {
        let x = SeededNoise::new(seed, 0).normal([rows, 2], &Device::flex());
        let (found, _) = run(&model, recorder, &sampler, x.clone());
        // It is classifier-free guidance.
        let (same, _) = run(&model, &mut usual.clone(), &sampler, x.clone());
        assert_eq!(largest(found.clone() - same), 0.0);
        (x, found)
    };
    let mut trajectories = Vec::new();
    for seed in 10..14 {
        record(&mut recorder, seed);
        trajectories.push(recorder.trajectory().clone());
    }
    let coefficients = LinearCoefficients::fit(&trajectories).unwrap();
    let (x, expected) = record(&mut recorder, 99);
    let held_out = coefficients
        .explained(&[recorder.trajectory().clone()])
        .unwrap();
    assert!(held_out.iter().all(|share| *share > 0.8), "{held_out:?}");

    let plan = LinearStep::alternating(20);
    let mut linear = LinearAdaptive::new(coefficients.clone(), usual, plan.clone()).unwrap();
    let (found, evaluations) = run(&model, &mut linear, &sampler, x.clone());
    assert_eq!(evaluations.each(), [25; 60]);
    let distance = |x: Tensor<2>| (x - expected.clone()).square().mean().into_scalar::<f32>();
    // The same plan without estimates: none in every second step of the first half.
    let unguided = plan.iter().map(|step| match step {
        LinearStep::Guided => PolicyStep::ClassifierFree(3.0),
        _ => PolicyStep::Conditional,
    });
    let mut skipped = GuidancePolicy {
        steps: unguided.collect(),
    };
    let (plain, _) = run(&model, &mut skipped, &sampler, x);
    let (linear_error, plain_error) = (distance(found), distance(plain));
    assert!(
        linear_error < plain_error,
        "{linear_error} and {plain_error}"
    );

    // One call in each step, on the schedule of the fit.
    let refused = |name: &str, steps: usize| {
        let mut linear = LinearAdaptive::new(coefficients.clone(), usual, plan.clone()).unwrap();
        let sampling = Sampling::of(&model).guided_by(&mut linear);
        let sampler = self::sampler(name, steps);
        sampling
            .run(&sampler, start(rows), &mut SeededNoise::new(0, 0))
            .unwrap_err()
    };
    let error = refused("heun", 20);
    assert!(
        matches!(error, SamplerError::SeveralCalls { step: 1, .. }),
        "{error}"
    );
    assert!(
        refused("ddim", 10)
            .to_string()
            .contains("the number of steps is 10")
    );
    let mut late = plan.clone();
    late[19] = LinearStep::Estimated;
    let error = LinearAdaptive::<2>::new(coefficients, usual, late).unwrap_err();
    assert!(
        error.to_string().contains("last estimated step is 20"),
        "{error}"
    );
}

#[test]
fn a_policy_is_what_it_says() {
    let mixture = mixture();
    let model = RowConditions::new(&mixture, [0, 1, 2].map(Condition::Given).to_vec());
    let sampler = sampler("ddim", 12);
    let usual = ClassifierFree::new().with_scale(4.0);
    let (expected, _) = run(&model, &mut usual.clone(), &sampler, start(3));
    let mut all = GuidancePolicy::early(12, 12, 4.0);
    let (found, evaluations) = run(&model, &mut all, &sampler, start(3));
    assert_eq!(largest(found - expected), 0.0);
    assert_eq!(evaluations.each(), [24; 3]);
    let mut some = GuidancePolicy::early(12, 5, 4.0);
    some.steps[11] = PolicyStep::Unconditional;
    let (_, evaluations) = run(&model, &mut some, &sampler, start(3));
    assert_eq!(evaluations.each(), [17; 3]);
    assert_eq!(some.evaluations(), 17);
    let text = serde_json::to_string(&some).unwrap();
    assert_eq!(serde_json::from_str::<GuidancePolicy>(&text).unwrap(), some);
    let error = Guidance::<2>::begin(&mut some, 10).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("number of steps is 10, but it must be 12")
    );
}

#[test]
fn the_search_finds_a_policy_within_its_budget_that_beats_chance() {
    let mixture = mixture();
    let rows = 48;
    let labels: Vec<Condition> = (0..rows).map(|row| Condition::Given(row % 3)).collect();
    let model = RowConditions::new(&mixture, labels);
    let sampler = sampler("ddim", 8);
    let device = Device::flex().autodiff();
    let starts = [1, 2].map(|seed| SeededNoise::new(seed, 0).normal([rows, 2], &device));
    let search = PolicySearch::new(3.0, 12);
    let found = search.run(&model, &sampler, &starts).unwrap();
    assert_eq!(found, search.run(&model, &sampler, &starts).unwrap());
    assert!(found.policy.evaluations() <= 12);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&found.losses[..20]), mean(&found.losses[80..]));
    assert!(last < 0.5 * first, "{first} {last}");
    for shares in &found.shares {
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-5);
    }
    // Against all ways to guide four of the eight steps.
    let x = SeededNoise::new(9, 0).normal([rows, 2], &Device::flex());
    let (target, _) = run(
        &model,
        &mut ClassifierFree::new().with_scale(3.0),
        &sampler,
        x.clone(),
    );
    let error = |mut policy: GuidancePolicy| {
        let (end, _) = run(&model, &mut policy, &sampler, x.clone());
        (end - target.clone()).square().mean().into_scalar::<f32>()
    };
    let ours = error(found.policy.clone());
    let mut others: Vec<f32> = (0..256_u32)
        .filter(|places| places.count_ones() == 4)
        .map(|places| {
            let of_step = |step: u32| match places >> step & 1 {
                1 => PolicyStep::ClassifierFree(3.0),
                _ => PolicyStep::Conditional,
            };
            error(GuidancePolicy {
                steps: (0..8).map(of_step).collect(),
            })
        })
        .collect();
    others.sort_by(f32::total_cmp);
    println!(
        "{ours} of {:?}: {found:?}",
        [others[0], others[35], others[69]]
    );
    assert!(ours < others[10], "{ours} of {others:?}");
    // The mixture of the paper has a lower loss, and a worse policy.
    let soft = PolicySearch {
        relaxation: Relaxation::Soft,
        ..search.clone()
    };
    let soft = soft.run(&model, &sampler, &starts).unwrap();
    assert!(soft.policy.evaluations() <= 12);
    assert!(mean(&soft.losses[80..]) < last, "{:?}", soft.losses);
    let softly = error(soft.policy);
    assert!(ours < softly, "{ours} {softly}");

    let told = |search: PolicySearch, starts: &[Tensor<2>]| {
        search
            .run(&model, &sampler, starts)
            .unwrap_err()
            .to_string()
    };
    assert!(told(PolicySearch::new(3.0, 7), &starts).contains("is 7, but it must be at least 8"));
    assert!(told(PolicySearch::new(3.0, 12), &[x]).contains("device.autodiff()"));
    assert!(told(PolicySearch::new(3.0, 12), &[]).contains("number of batches of noise is 0"));
}

/// The rule, written out for one row after the other with one call for each prediction.
#[test]
fn adaptive_guidance_releases_each_row_after_the_step_that_reaches_the_threshold() {
    let (mixture, steps, scale) = (mixture(), 20, 2.0);
    let row = |x: &Tensor<2>, row: usize| x.clone().slice_dim(0, row..row + 1);
    for (threshold, warm_up, rising) in [(0.9, 6, true), (0.7, 0, false), (0.95, 8, true)] {
        let labels = [0, 1, 2, 0, 1, 2].map(Condition::Given);
        let model = RowConditions::new(&mixture, labels.to_vec());
        let config = AdaptiveConfig::new()
            .with_scale(scale)
            .with_threshold(threshold)
            .with_warm_up(warm_up)
            .with_rising(rising);
        let mut guidance = config.init();
        let sampler = sampler("ddim", steps);
        let (found, evaluations) = run(&model, &mut guidance, &sampler, start(6));
        let mut counts = Vec::new();
        for (number, label) in labels.into_iter().enumerate() {
            let (mut x, mut guided, mut last, mut count) = (row(&start(6), number), true, None, 0);
            for index in (0..steps).rev() {
                let level = sampler.levels().level(index);
                let ask = |c| mixture.predict(x.clone(), level, &[c]).unwrap().remove(0);
                let with = ask(label);
                count += 1 + usize::from(guided);
                let epsilon = match guided {
                    false => with,
                    true => {
                        let without = ask(Condition::Without);
                        let values =
                            |x: &Tensor<2>| -> Vec<f64> { x.clone().try_into_vec_as().unwrap() };
                        let (c, u) = (values(&with), values(&without));
                        let dot = |a: &[f64], b: &[f64]| -> f64 {
                            a.iter().zip(b).map(|(a, b)| a * b).sum()
                        };
                        let cosine = dot(&c, &u) / (dot(&c, &c) * dot(&u, &u)).sqrt();
                        let fallen = rising && last.is_some_and(|last| cosine < last - 1e-6);
                        last = Some(cosine);
                        if steps - 1 - index >= warm_up && cosine >= threshold && !fallen {
                            guided = false;
                        }
                        without.clone() + (with - without) * scale
                    }
                };
                let sample = (x.clone() - epsilon.clone() * level.noise()) / level.signal();
                x = sampler.levels().level_after(index).mix(sample, epsilon);
            }
            let error = largest(x - row(&found, number));
            // Rounding grows where the parts of the mixture meet.
            assert!(error < 2e-3, "{threshold} row {number}: {error}");
            counts.push(count);
        }
        assert_eq!(evaluations.each(), counts, "{threshold}");
        assert!(counts.iter().any(|&count| count < 2 * steps), "{counts:?}");
        let released = guidance.released().to_vec();
        for (count, released) in counts.iter().zip(released) {
            let guided = released.map_or(steps, |index| steps - index);
            assert_eq!(*count, steps + guided);
        }
        let seen = guidance.cosines();
        assert_eq!(seen[0].index, steps - 1);
        assert!(seen[0].each.iter().all(Option::is_some));
    }
}

/// What one run of a batch releases does not remain for the next.
#[test]
fn adaptive_guidance_forgets_between_runs() {
    let mixture = mixture();
    let model = RowConditions::new(&mixture, [0, 1, 2].map(Condition::Given).to_vec());
    let config = AdaptiveConfig::new().with_threshold(0.8).with_scale(2.0);
    let mut guidance: Adaptive = config.init();
    let sampler = sampler("dpm++2m", 15);
    let (first, of_first) = run(&model, &mut guidance, &sampler, start(3));
    let (second, of_second) = run(&model, &mut guidance, &sampler, start(3));
    assert_eq!(largest(first - second), 0.0);
    assert_eq!(of_first, of_second);
    assert!(of_first.saved() > 0);
}
