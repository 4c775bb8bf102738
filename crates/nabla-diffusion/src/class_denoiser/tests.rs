use super::*;
use crate::denoiser::{Denoised, RowConditions};
use crate::rddm_sampler::seeded_weights;
use crate::seeded_noise::SeededNoise;
use burn::module::{ModuleMapper, Param};

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
    for path in [TrainingPath::cosine(), TrainingPath::Straight] {
        for prediction in Prediction::ALL {
            let model = denoiser(prediction, path);
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

#[test]
fn a_folder_gives_the_same_answers_to_half_precision() {
    let model = denoiser(Prediction::Velocity, TrainingPath::Straight);
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
