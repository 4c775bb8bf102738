use std::ops::ControlFlow;

use super::*;
use crate::adjoint_dpm::{StyleSample, Tuning, content_distance};
use crate::autodiffusion::{Gene, Plan, PlannedDenoiser, planned_sampler};
use crate::denoiser::{Denoised, RowConditions};
use crate::flow_matching::PathChoice;
use crate::rddm_sampler::seeded_weights;
use crate::registry::Options;
use crate::sampler::{Sampler, samplers};
use crate::seeded_noise::SeededNoise;
use burn::module::{ModuleMapper, Param};
use nabla_base::choices::Choices;

/// Draws every weight, because those of a fresh network's last convolutions are 0.
struct Scatter(SeededNoise);

impl ModuleMapper for Scatter {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| {
            let noise = self.0.normal(value.dims(), &value.device());
            value + noise * 0.05
        })
    }
}

fn denoiser(prediction: Prediction, path: TrainingPath) -> ClassDenoiser {
    let device = Device::flex();
    let names = ["cat", "dog", "cow"].map(str::to_owned).to_vec();
    let mut config = ClassDenoiserConfig::for_pictures(names, [1, 8, 8])
        .with_prediction(prediction)
        .with_path(path);
    config.network = config
        .network
        .with_base_channels(32)
        .with_blocks_per_level(1);
    let network = seeded_weights(1, &device, || config.init_network(&device)).unwrap();
    let network = network.map(&mut Scatter(SeededNoise::new(2, 0)));
    ClassDenoiser::new(config, network, &device).unwrap()
}

/// The schedule, the straight line, and every path of a flow.
fn paths() -> Vec<TrainingPath> {
    // Not of mean 0, nor of mean square 1.
    let points = [-0.9, 0.2, 0.9, 0.4];
    let flow = |choice: PathChoice| {
        let (path, scale) = choice.path_around_zero(&points, 2, 0).unwrap();
        TrainingPath::Flow { path, scale }
    };
    let flows = PathChoice::choices()
        .into_iter()
        .map(|choice| flow(choice.value));
    [TrainingPath::cosine(), TrainingPath::Straight]
        .into_iter()
        .chain(flows)
        .collect()
}

fn states(count: usize) -> Tensor<4> {
    SeededNoise::new(3, 0).normal([count, 1, 8, 8], &Device::flex())
}

fn largest(difference: Tensor<4>) -> f32 {
    difference.abs().max().into_scalar()
}

#[test]
fn conditions_in_one_call_are_those_in_several() {
    let model = denoiser(Prediction::Epsilon, TrainingPath::cosine());
    let (x, level) = (states(2), model.levels(10).unwrap().level(6));
    let asked = [Condition::Given(2), Condition::Without, Condition::Given(0)];
    let together = model.predict(x.clone(), level, &asked).unwrap();
    for (condition, found) in asked.iter().zip(&together) {
        let alone = model.predict(x.clone(), level, &[*condition]).unwrap();
        assert!(largest(found.clone() - alone[0].clone()) < 1e-5);
    }
    assert!(largest(together[0].clone() - together[1].clone()) > 1e-3);

    // Rows of several classes in one call.
    let classes = [2, 0].map(Condition::Given);
    let rows = RowConditions::new(&model, classes.to_vec());
    let found = rows.predict(x, level, &[Condition::FIRST]).unwrap();
    for (row, of) in [(0, 0), (1, 2)] {
        let [found, expected] =
            [&found[0], &together[of]].map(|t| t.clone().slice_dim(0, row..row + 1));
        assert!(largest(found - expected) < 1e-5);
    }
}

#[test]
fn the_clean_sample_does_not_depend_on_the_path_of_the_state() {
    for path in paths() {
        for prediction in Prediction::ALL {
            let model = denoiser(prediction, path.clone());
            let own = model.levels(10).unwrap().level(6);
            let x = states(2);
            let read = |level: Level| {
                // The same point on a path of another scale.
                let factor = (level.signal() / own.signal()) as f32;
                let read = Denoised::predict(&model, &(x.clone() * factor), level);
                read.unwrap().sample
            };
            let expected = read(own);
            let sigma = own.sigma();
            for other in [
                Level::variance_exploding(sigma, sigma),
                Level::straight(sigma / (1.0 + sigma)),
                Level::new(0.3, 2.5, 2.5 * sigma),
            ] {
                let difference = largest(read(other) - expected.clone());
                assert!(difference < 2e-3, "{path:?} {prediction:?}: {difference}");
            }
        }
    }
}

/// A network learns the velocity of its path by the path's speed: this is what it then says.
#[test]
fn the_velocity_of_a_path_is_what_the_network_says() {
    for path in paths() {
        let model = denoiser(Prediction::Flow, path.clone());
        let TrainingPath::Flow { path, scale } = path else {
            continue;
        };
        let path = path.for_scale(scale).unwrap();
        for time in [0.05, 0.5, 0.95] {
            let level = path.level_at(time);
            let x = states(2) * level.scale();
            let read = Denoised::predict(&model, &x, level).unwrap();
            let [signal, noise] = path.rates_at(time);
            let velocity = read.sample * signal + read.epsilon * noise;
            let speed = signal.hypot(noise);
            let times = Tensor::full([2], 1000.0 * time, &Device::flex());
            let seen = x / level.scale();
            let first = Tensor::full([2], 0, &Device::flex());
            let said = model.network.forward(seen, times, None, Some(first));
            let error = largest(velocity / speed - said[0].clone());
            assert!(error < 1e-3, "{path:?} at {time}: {error}");
        }
    }
}

#[test]
fn a_folder_gives_the_same_answers_to_half_precision() {
    let kinetic_optimal = paths().pop().unwrap();
    let model = denoiser(Prediction::Flow, kinetic_optimal);
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    assert!(ClassDenoiser::is_folder(folder.path()));
    let back = ClassDenoiser::load(folder.path(), &Device::flex()).unwrap();
    assert_eq!(back.config(), model.config());
    assert_eq!(back.parameters(), model.parameters());
    let level = model.levels(4).unwrap().level(2);
    let [a, b] = [&model, &back].map(|m| {
        let found = m.predict(states(1), level, &[Condition::Given(1)]);
        found.unwrap().remove(0)
    });
    let difference = largest(a - b);
    assert!(difference > 0.0 && difference < 0.02, "{difference}");
}

#[test]
fn wrong_models_classes_and_states_are_refused() {
    let model = denoiser(Prediction::Epsilon, TrainingPath::cosine());
    let config = model.config();
    assert_eq!(config.class("dog").unwrap(), 1);
    assert_eq!(config.class("2").unwrap(), 2);
    assert_eq!(
        config.class("horse").unwrap_err().to_string(),
        "there is no class \"horse\": the model has cat, dog, cow"
    );
    let level = model.levels(4).unwrap().level(2);
    let wrong = model.predict(states(1), level, &[Condition::Given(3)]);
    let told = wrong.unwrap_err().to_string();
    assert!(told.contains("3 classes"), "{told}");
    let wide = Tensor::zeros([1, 1, 8, 9], &Device::flex());
    assert!(model.predict(wide, level, &[Condition::Without]).is_err());

    let mut wrong = config.clone();
    wrong.network = wrong.network.with_classes(3);
    assert_eq!(
        wrong.validate().unwrap_err().to_string(),
        "the denoiser's network has classes = 3, but its pictures and classes need 4"
    );
    let no_signal = config.clone().with_path(TrainingPath::VariancePreserving(
        NoiseScheduleConfig::new().with_zero_terminal_snr(true),
    ));
    assert!(no_signal.validate().is_err());
    assert!(
        no_signal
            .with_prediction(Prediction::Velocity)
            .validate()
            .is_ok()
    );
}

#[test]
fn blocks_are_skipped_under_every_condition() {
    let model = denoiser(Prediction::Velocity, TrainingPath::cosine());
    // A block down, block, attention and block in the middle, two blocks up.
    assert_eq!(model.blocks(), 6);
    let plan = Plan::new([
        Gene {
            step: 200,
            skipped: BlockSet::of([0, 2]),
        },
        Gene::whole(700),
    ])
    .unwrap();
    let levels = plan.levels(&model.levels(1000).unwrap()).unwrap();
    let planned = PlannedDenoiser::new(&model, &plan, &levels).unwrap();
    let x = states(2);
    let asked = [Condition::Given(2), Condition::Without];
    // In the whole step the same to the bit.
    let [whole, same] = [&model as &dyn Denoiser, &planned].map(|model| {
        let found = model.predict(x.clone(), levels.level(1), &asked);
        Tensor::cat(found.unwrap(), 0)
    });
    assert_eq!(largest(whole - same), 0.0);
    // In the other one, each condition has its own answer from the network without the blocks.
    let level = levels.level(0);
    let found = planned.predict(x.clone(), level, &asked).unwrap();
    let whole = model.predict(x.clone(), level, &asked).unwrap();
    for (i, condition) in asked.into_iter().enumerate() {
        let rows = [(0, condition), (1, condition)];
        let skipped = &plan.genes()[0].skipped;
        let expected = model.predict_rows_skipping(x.clone(), level, &rows, skipped);
        assert!(largest(found[i].clone() - expected.unwrap()) < 1e-5);
        assert!(largest(found[i].clone() - whole[i].clone()) > 1e-3);
    }
    // A guidance that looks into the network's attention cannot.
    let told = planned.predict_perturbed(x, level, &[(0, Condition::FIRST), (1, Condition::FIRST)]);
    assert!(
        told.unwrap_err()
            .to_string()
            .contains("the plan skips blocks")
    );
}

#[test]
fn a_plan_runs_on_both_paths() {
    for path in [TrainingPath::cosine(), TrainingPath::Straight] {
        let model = denoiser(Prediction::Velocity, path.clone());
        assert_eq!(model.training_steps(), 1000);
        let all = model.levels(model.training_steps()).unwrap();
        let plan = Plan::of_steps([99, 499, 999]).unwrap();
        let levels = plan.levels(&all).unwrap();
        let times = [0, 1, 2].map(|i| levels.level(i).time());
        for name in samplers::<4>().names() {
            let solver = planned_sampler(name, &Options::new()).unwrap();
            if solver.least_steps() > 3 {
                continue;
            }
            let planned = PlannedDenoiser::new(&model, &plan, &levels).unwrap();
            let sampler = Sampler::new(solver, levels.clone()).unwrap();
            let mut noise = SeededNoise::new(1, 0);
            let drawn = sampler.sample(&planned, states(2), &mut noise).unwrap();
            assert!(largest(drawn).is_finite(), "{name} {path:?}");
        }
        let unit = if path == TrainingPath::Straight {
            0.999e-3
        } else {
            1.0
        };
        let first = if path == TrainingPath::Straight {
            1.0
        } else {
            0.0
        };
        for (time, step) in times.into_iter().zip([99.0, 499.0, 999.0]) {
            assert!(
                (time - unit * (step + first)).abs() < 1e-9,
                "{time} {path:?}"
            );
        }
    }
}

/// All weights learn a loss of the finished pictures, from the same noise in the same way.
#[test]
fn a_style_is_learned() {
    let model = denoiser(Prediction::Velocity, TrainingPath::cosine());
    let mut config = ClassStyleConfig::new(vec![0, 2]);
    config.pictures = 4;
    config.steps = 4;
    config.tuning = Tuning::new().with_iterations(10).with_learning_rate(2e-3);
    let learn = |config: &ClassStyleConfig| {
        model.learn_style(
            config,
            &mut |drawn| Ok((drawn.sample.mean() - 0.5).square()),
            &mut |_| ControlFlow::Continue(()),
        )
    };
    let (tuned, losses) = learn(&config).unwrap();
    assert!(losses[9] < 0.5 * losses[0], "{losses:?}");
    assert_eq!(learn(&config).unwrap().1, losses);
    let level = Level::variance_preserving(500.0, 0.5);
    let answers = [&model, &tuned].map(|model| {
        let mut found = model
            .predict(states(1), level, &[Condition::Given(1)])
            .unwrap();
        found.remove(0)
    });
    let [before, after] = answers;
    assert!(!after.is_autodiff() && largest(before - after) > 1e-3);

    // At first, the picture of before is the picture.
    config.with_first = true;
    config.tuning.iterations = 2;
    let mut distances = Vec::new();
    let kept = model.learn_style(
        &config,
        &mut |StyleSample { sample, first }| {
            let distance = content_distance(sample.clone(), first.unwrap());
            distances.push(distance.inner().into_scalar::<f32>());
            Ok((sample.mean() - 0.5).square())
        },
        &mut |_| ControlFlow::Continue(()),
    );
    assert!(kept.is_ok());
    assert!(distances[0] < 1e-9 && distances[1] > 1e-3, "{distances:?}");

    config.classes.clear();
    assert!(
        learn(&config)
            .unwrap_err()
            .to_string()
            .contains("number of classes")
    );
    config.classes = vec![0];
    config.tuning.learning_rate = 0.0;
    assert!(
        learn(&config)
            .unwrap_err()
            .to_string()
            .contains("learning rate")
    );
}
