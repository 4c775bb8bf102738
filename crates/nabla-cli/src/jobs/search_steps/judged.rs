//! The model, and how its pictures are judged.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use nabla::data::{FileFormat, Picture};
use nabla::diffusion::autodiffusion::{
    Plan, PlanTrial, PlanTrials, PlannedModel, Space, planned_sampler,
};
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::guidance::guidances;
use nabla::diffusion::guidance_trial::{GuidanceTrials, TrialConfig};
use nabla::diffusion::registry::Options;
use nabla::diffusion::sample_quality::Judge;
use nabla::diffusion::sampler::Solver;
use nabla::diffusion::sampler_error::OwnError;
use nabla::diffusion::stable_diffusion::model_folder::ModelFolder;
use nabla::diffusion::stable_diffusion::pipeline::{
    Conditioning, LoadOptions, SamplerChoice, SamplingOptions, StableDiffusion,
};
use nabla::diffusion::stable_diffusion::text_plan_trial::{
    ClipFeatures, TextPlanError, TextPlanTrials,
};
use nabla::panorama::pixels::to_tensor;
use nabla::train::data_set::{DataConfig, Standardization};
use nabla::train::frechet::Moments;
use nabla::train::trained_classifier::TrainedClassifier;

use super::{Judgement, Settings};
use crate::errors::Failure;

/// The most real pictures.
const REAL: usize = 10_000;

/// Stops a run with an error.
pub type GoOn<'a> = &'a mut dyn FnMut(usize) -> Result<(), OwnError>;

/// A model whose pictures are drawn by plans and judged.
pub trait Judged {
    /// The kind of the model.
    fn kind(&self) -> PlannedModel;

    /// What it offers to a plan.
    fn space(&self) -> Result<Space, Failure>;

    /// The name of the judge.
    fn judge(&self) -> String;

    /// Draws so many pictures by a plan, and judges them.
    fn run(
        &self,
        plan: &Plan,
        pictures: usize,
        seed: u64,
        go_on: GoOn<'_>,
    ) -> Result<PlanTrial, Failure>;
}

/// Loads a model and its judge, and has `search` use them.
pub fn with_judged<R>(
    settings: &Settings,
    device: &Device,
    search: impl FnOnce(&dyn Judged) -> Result<R, Failure>,
) -> Result<R, Failure> {
    match &settings.judgement {
        Judgement::Classifier { judge, data } => {
            let model = ClassDenoiser::load(&settings.model, device).map_err(Failure::input)?;
            let judging = TrainedClassifier::load(judge, device).map_err(Failure::input)?;
            let real = DataConfig {
                source: data.clone(),
                standardization: Standardization::None,
                limit: Some(REAL),
                ..DataConfig::default()
            };
            let real = real.open().map_err(Failure::input)?;
            let judge = Judge::new(&judging, &real.training, device).map_err(Failure::input)?;
            let sampler = planned_sampler(&settings.sampler, &settings.sampler_options);
            search(&OfClasses {
                settings,
                model: &model,
                judge: &judge,
                sampler: sampler.map_err(Failure::input)?,
            })
        }
        Judgement::Pictures {
            reference,
            encoder,
            prompts,
            negative,
            size,
        } => {
            let features = ClipFeatures::load(encoder, device).map_err(Failure::input)?;
            let reference = moments(reference, &features, device)?;
            let folder = ModelFolder::open(&settings.model).map_err(Failure::input)?;
            let model = StableDiffusion::load(&folder, device, &LoadOptions::default())?;
            let texts = prompts.iter().map(|prompt| model.encode_text(prompt));
            let texts = texts.collect::<Result<Vec<_>, _>>()?;
            let negative = match negative {
                Some(text) => model.encode_text(text)?,
                None => model.encode_nothing()?,
            };
            let native = [model.native_size().unwrap_or(512); 2];
            search(&OfTexts {
                settings,
                model: &model,
                features: &features,
                reference: &reference,
                texts: &texts,
                negative: &negative,
                size: size.unwrap_or(native),
            })
        }
    }
}

/// The features of the pictures of a folder.
fn moments(folder: &Path, features: &ClipFeatures, device: &Device) -> Result<Moments, Failure> {
    let unread = |error| Failure::input_because(format!("cannot read {}", folder.display()), error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unread)? {
        let path = entry.map_err(unread)?.path();
        if path.is_file() && FileFormat::from_path(&path).is_some() {
            files.push(path);
        }
    }
    if files.len() < 2 {
        return Err(Failure::input(format!(
            "{} holds {} pictures, but a distance needs at least 2, and is better with a thousand",
            folder.display(),
            files.len()
        )));
    }
    files.sort();
    let mut pictures: Vec<Tensor<4>> = Vec::with_capacity(files.len());
    for file in &files {
        let picture = Picture::read(file)?.into_rgb();
        pictures.push(to_tensor([&picture.raster], device).clamp(-1.0, 1.0));
    }
    features.moments(pictures).map_err(Failure::input)
}

struct OfClasses<'a> {
    settings: &'a Settings,
    model: &'a ClassDenoiser,
    judge: &'a Judge<'a>,
    sampler: Arc<dyn Solver>,
}

impl OfClasses<'_> {
    fn trials(&self, pictures: usize) -> PlanTrials<'_> {
        PlanTrials {
            trials: GuidanceTrials {
                model: self.model,
                weak: None,
                guide: None,
                judge: self.judge,
                config: TrialConfig {
                    pictures,
                    ..TrialConfig::default()
                },
            },
            sampler: self.sampler.clone(),
            guidance: self.settings.guidance.clone(),
            guidance_options: Options::new(),
            scale: self.settings.guidance_scale.unwrap_or(1.0),
        }
    }
}

impl Judged for OfClasses<'_> {
    fn kind(&self) -> PlannedModel {
        PlannedModel::ClassDenoiser
    }

    fn space(&self) -> Result<Space, Failure> {
        Ok(self.trials(0).space())
    }

    fn judge(&self) -> String {
        self.judge.classifier().config().model.name()
    }

    fn run(
        &self,
        plan: &Plan,
        pictures: usize,
        seed: u64,
        go_on: GoOn<'_>,
    ) -> Result<PlanTrial, Failure> {
        Ok(self.trials(pictures).run(plan, seed, go_on)?)
    }
}

struct OfTexts<'a> {
    settings: &'a Settings,
    model: &'a StableDiffusion,
    features: &'a ClipFeatures,
    reference: &'a Moments,
    texts: &'a [Conditioning],
    negative: &'a Conditioning,
    size: [usize; 2],
}

impl Judged for OfTexts<'_> {
    fn kind(&self) -> PlannedModel {
        PlannedModel::StableDiffusion
    }

    fn space(&self) -> Result<Space, Failure> {
        Ok(self.model.space()?)
    }

    fn judge(&self) -> String {
        "CLIP".to_owned()
    }

    fn run(
        &self,
        plan: &Plan,
        pictures: usize,
        seed: u64,
        go_on: GoOn<'_>,
    ) -> Result<PlanTrial, Failure> {
        let sampler = SamplerChoice::named(&self.settings.sampler);
        let trials = TextPlanTrials {
            model: self.model,
            features: self.features,
            reference: self.reference,
            texts: self.texts,
            negative: self.negative,
            options: SamplingOptions {
                sampler: sampler.with_options(&self.settings.sampler_options),
                ..SamplingOptions::new(self.size)
            },
        };
        let mut options = Options::new();
        if let Some(scale) = self.settings.guidance_scale {
            options.set("scale", scale.into());
        }
        let guidance = guidances::<4>().make(&self.settings.guidance, &options);
        let mut guidance = guidance.map_err(Failure::input)?;
        let trial = trials.run(plan, pictures, Some(guidance.as_mut()), seed, go_on);
        trial.map_err(|error| match error {
            TextPlanError::Model(error) => error.into(),
            other => Failure::run(other),
        })
    }
}
