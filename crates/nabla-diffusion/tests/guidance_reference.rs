//! Guidances against the authors' code and the guiders of diffusers, on the same closed-form network
//! (`reference/guidance_reference.py`).

use burn::tensor::{Device, Tensor};
use nabla_diffusion::asking::Step;
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::denoiser::{
    Condition, Denoised, Denoiser, GaussianDenoiser, OwnError, Prediction, SamplerError,
};
use nabla_diffusion::guidance::{CfgPlusPlus, ClassifierFree, Guidance, History, guidances};
use nabla_diffusion::level::Level;
use nabla_diffusion::registry::Options;
use nabla_diffusion::sampler::{Sampler, Sampling, samplers};
use nabla_diffusion::schedule::{NoiseSchedule, NoiseScheduleConfig};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::stable_diffusion::attention::Context;
use nabla_diffusion::stable_diffusion::unet2d_condition::{Inputs, UNet2DCondition};
use nabla_diffusion::stable_diffusion::weights::Precision;
use serde_json::Value;

use crate::reference_values::{floats, reference, tensor};
use crate::tiny_models::{Reference, distance, folder};

const SHAPE: [usize; 4] = [2, 1, 2, 2];

/// One Gaussian under the condition, and another one without it.
struct Network {
    with: GaussianDenoiser,
    without: GaussianDenoiser,
}

impl Network {
    fn of(values: &Value) -> Self {
        let of = |which: &str| {
            let [mean, variance] =
                ["mean", "variance"].map(|what| tensor(&values[what][which], SHAPE));
            GaussianDenoiser::new(mean, variance, Prediction::Epsilon)
        };
        Self {
            with: of("with"),
            without: of("without"),
        }
    }
}

impl Denoiser for Network {
    fn prediction(&self) -> Prediction {
        Prediction::Epsilon
    }

    fn predict(
        &self,
        x: Tensor<4>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        let answer = |condition: &Condition| match condition {
            Condition::Without => self.without.answer(x.clone(), level),
            Condition::Given(_) => self.with.answer(x.clone(), level),
        };
        Ok(conditions.iter().map(answer).collect())
    }
}

/// The levels of a run, the noisiest first in the file.
fn schedule(run: &Value) -> NoiseSchedule {
    let (times, alpha_bars) = (floats(&run["times"]), floats(&run["alpha_bars"]));
    let levels = times.iter().zip(&alpha_bars).rev();
    let levels: Vec<Level> = levels
        .map(|(&time, &alpha_bar)| Level::variance_preserving(time, alpha_bar))
        .collect();
    let training = NoiseScheduleConfig::new().init().unwrap();
    NoiseSchedule::from_levels(&levels, 1.0)
        .unwrap()
        .of_training(&training)
}

/// Runs, and compares the state after each step: `1e-5` after the first, `1e-4` after the others.
///
/// - `scale`: takes our state of a step to the scale of the recorded one
fn compare(
    name: &str,
    network: &Network,
    guidance: &mut dyn Guidance,
    sampler: &Sampler,
    start: Tensor<4>,
    states: &Value,
    scale: impl Fn(usize) -> f64,
) {
    let mut seen = Vec::new();
    let mut see = |step: &Step<'_>, d: Denoised| {
        seen.push(step.x.clone());
        d
    };
    let end = Sampling::of(network)
        .guided_by(guidance)
        .corrected_by(&mut see)
        .run(sampler, start, &mut SeededNoise::new(7, 0))
        .unwrap();
    seen.push(end);
    let states = states.as_array().unwrap();
    assert_eq!(seen.len(), states.len() + 1, "{name}");
    for (step, (found, expected)) in seen[1..].iter().zip(states).enumerate() {
        let expected = tensor(expected, SHAPE);
        let error = distance(found.clone() * scale(step), expected);
        let most = if step == 0 { 1e-5 } else { 1e-4 };
        assert!(
            error < most * scale(step).max(1.0) as f32,
            "{name}, step {step}: {error}"
        );
    }
}

#[test]
fn the_guiders_of_diffusers_take_the_same_steps() {
    let values = reference("guidance_reference.json");
    let network = Network::of(&values);
    let schedule = schedule(&values["guiders"]);
    let runs = values["guiders"]["runs"].as_object().unwrap();
    assert_eq!(runs.len(), 7);
    for (name, run) in runs {
        let member = name.split(' ').next().unwrap();
        let mut options = Options::new();
        for (option, value) in run["options"].as_object().unwrap() {
            options.set(option, value.clone());
        }
        let mut guidance = guidances::<4>().make(member, &options).unwrap();
        let sampler = Sampler::new(Ddim::new(), &schedule).unwrap();
        let start = tensor(&values["start"], SHAPE);
        let states = &run["states"];
        compare(
            name,
            &network,
            &mut guidance,
            &sampler,
            start,
            states,
            |_| 1.0,
        );
    }
}

#[test]
fn the_authors_of_cfg_plus_plus_take_the_same_steps() {
    let values = reference("guidance_reference.json");
    let network = Network::of(&values);
    let mut guidance = CfgPlusPlus::new().with_scale(values["lambda"].as_f64().unwrap());
    let authors = &values["authors"];
    let start = tensor(&values["start"], SHAPE);

    let run = &authors["ddim_cfg++"];
    let sampler = Sampler::new(Ddim::new(), schedule(run)).unwrap();
    let states = &run["states"];
    compare(
        "ddim",
        &network,
        &mut guidance,
        &sampler,
        start.clone(),
        states,
        |_| 1.0,
    );

    let training = NoiseScheduleConfig::new().init().unwrap();
    for (theirs, ours, history) in [
        ("euler_cfg++", "euler", History::Guided),
        ("euler_a_cfg++", "euler-ancestral", History::Guided),
        ("dpm++_2m_cfg++", "dpm++2m", History::Published),
    ] {
        let run = &authors[theirs];
        let sigmas = floats(&run["sigmas"]);
        let falling = &sigmas[..sigmas.len() - 1];
        let levels = training.respace_to_sigmas(falling).unwrap();
        let sampler = Sampler::new(samplers().get(ours).unwrap(), levels).unwrap();
        guidance.history = history;
        // Theirs has the signal 1.
        let scale = |step: usize| (sigmas[step + 1].powi(2) + 1.0).sqrt();
        let states = &run["states"];
        compare(
            ours,
            &network,
            &mut guidance,
            &sampler,
            start.clone(),
            states,
            scale,
        );
    }
}

#[test]
fn inversions_find_the_noise_that_the_authors_code_finds() {
    let values = reference("guidance_reference.json");
    let network = Network::of(&values);
    let scale = values["lambda"].as_f64().unwrap();
    let levels = schedule(&values["authors"]["ddim_cfg++"]).into();
    let invert = |guidance: &mut dyn Guidance, name: &str| {
        let run = &values["inversions"][name];
        let sampling = Sampling::of(&network).guided_by(guidance);
        let start = tensor(&run["start"], SHAPE);
        let found = Ddim::new()
            .invert_with(&levels, sampling, start, 1)
            .unwrap();
        let error = distance(found, tensor(&run["found"], SHAPE));
        assert!(error < 1e-4, "{name}: {error}");
    };
    invert(
        &mut CfgPlusPlus::new().with_scale(scale),
        "ddim_inversion_cfg++",
    );
    invert(
        &mut ClassifierFree::new().with_scale(scale),
        "ddim_inversion",
    );
}

/// The tiny UNet under one text, with what diffusers makes of its self-attention.
#[test]
fn perturbed_and_self_attention_are_those_of_diffusers() {
    let values = reference("guidance_reference.json");
    let values = &values["networks"]["sd15"];
    let device = Device::flex();
    let part = folder("sd15")
        .part("unet", &["UNet2DConditionModel"])
        .unwrap();
    let (unet, _) = UNet2DCondition::load(&part, &device, Precision::F32).unwrap();
    let of_model = Reference::of("sd15");
    let (x, text) = (
        of_model.tensor::<4>("unet.sample_wide"),
        of_model.tensor::<3>("text.embeds"),
    );
    let time = values["time"].as_f64().unwrap();
    let level = Level::variance_preserving(time, values["alpha_bar"].as_f64().unwrap());

    struct Tiny {
        unet: UNet2DCondition,
        text: Tensor<3>,
    }
    impl Denoiser for Tiny {
        fn prediction(&self) -> Prediction {
            Prediction::Epsilon
        }
        fn predict(
            &self,
            x: Tensor<4>,
            level: Level,
            _: &[Condition],
        ) -> Result<Vec<Tensor<4>>, OwnError> {
            let times = level.times(1, &x.device());
            Ok(vec![self.unet.forward(x, times, &self.text, None)])
        }
        fn predict_perturbed(
            &self,
            x: Tensor<4>,
            level: Level,
            _: &[(usize, Condition)],
        ) -> Result<Tensor<4>, OwnError> {
            let times = level.times(1, &x.device());
            Ok(self
                .unet
                .forward_perturbed(Inputs::new(x, times, &Context::text(&self.text))))
        }
        fn predict_attending(
            &self,
            x: Tensor<4>,
            level: Level,
            _: &[(usize, Condition)],
        ) -> Result<(Tensor<4>, Tensor<3>), OwnError> {
            let times = level.times(1, &x.device());
            Ok(self
                .unet
                .forward_attending(Inputs::new(x, times, &Context::text(&self.text))))
        }
    }
    let model = Tiny { unet, text };
    let close = |found: Tensor<4>, name: &str| {
        let expected = tensor(&values[name], found.dims());
        let largest = expected.clone().abs().max().into_scalar::<f32>();
        let error = distance(found, expected) / largest;
        assert!(error < 1e-4, "{name}: {error}");
    };
    let rows = [(0, Condition::FIRST)];
    let plain = model
        .predict(x.clone(), level, &[Condition::FIRST])
        .unwrap()
        .remove(0);
    close(plain.clone(), "plain");
    let perturbed = model.predict_perturbed(x.clone(), level, &rows).unwrap();
    close(perturbed.clone(), "perturbed");
    let (again, attention) = model.predict_attending(x.clone(), level, &rows).unwrap();
    assert_eq!(distance(again, plain.clone()), 0.0);
    let [_, height, width] = attention.dims();
    let size = floats(&values["attention_size"]);
    assert_eq!([height as f64, width as f64], size[..]);
    let heads_mean = attention.reshape([1, 1, height, width]);
    close(heads_mean, "attention");

    // Without classifier-free guidance both are one difference.
    let guided = |guidance: &str, options: &[&str]| -> Result<Tensor<4>, SamplerError> {
        let options = Options::parse(options).unwrap();
        let mut guidance = guidances::<4>().make(guidance, &options).unwrap();
        let levels = NoiseSchedule::from_levels(&[level], 1.0).unwrap();
        let sampler = Sampler::new(Ddim::new(), levels).unwrap();
        let mut noise = None;
        let mut see = |_: &Step<'_>, d: Denoised| {
            noise = Some(d.epsilon.clone());
            d
        };
        let sampling = Sampling::of(&model)
            .guided_by(&mut guidance)
            .corrected_by(&mut see);
        sampling.run(&sampler, x.clone(), &mut SeededNoise::new(0, 0))?;
        Ok(noise.unwrap())
    };
    let found = guided("self-attention", &["scale=1", "blurred_scale=0.75"]).unwrap();
    close(found, "self_attention");
    let found = guided("perturbed-attention", &["scale=1", "perturbed_scale=3"]).unwrap();
    let expected = plain.clone() + (plain - perturbed) * 3.0;
    assert!(distance(found, expected) < 1e-4);
}
