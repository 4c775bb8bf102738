//! Guidances in comparison: the same model, the same noise, and a scale that means the same for each.
//!
//! A trial draws pictures of all classes in turn under a guidance, and a [`Judge`] says how good they are. Trials
//! with the same seed start from the same noise, so that differences between guidances are not those of the
//! draw.
//!
//! The scale of a trial is that of classifier-free guidance, `ω`. CFG++ has a `λ` instead, which means more in
//! more steps: here it is the `λ` whose [equivalent scale](crate::guidance::equivalent_omega), averaged over the
//! steps, is `ω`, at most 1.

use std::time::Instant;

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use nabla_train::trained_classifier::TrainedClassifier;
use serde::{Deserialize, Serialize};

use crate::autodiffusion::PlanError;
use crate::class_denoiser::{ClassDenoiser, ClassDenoiserError};
use crate::denoiser::{Condition, Denoiser, RowConditions};
use crate::guidance::{
    Autoguidance, Evaluations, GradientFreeClassifier, GradientFreeClassifierConfig, Guidance,
    Reference, guidances, mean_equivalent_omega,
};
use crate::level::Levels;
use crate::registry::{Options, RegistryError};
use crate::sample_quality::{Judge, Quality, QualityError};
use crate::sampler::{Sampler, Sampling, samplers};
use crate::sampler_error::{OwnError, SamplerError};
use crate::schedule::ScheduleError;
use crate::seeded_noise::SeededNoise;

/// The reason why a trial does not run.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// There is no such sampler or guidance, or it has no such option.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The model cannot be used.
    #[error(transparent)]
    Model(#[from] ClassDenoiserError),
    /// The steps do not fit the model.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The run failed.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The pictures cannot be judged.
    #[error(transparent)]
    Quality(#[from] QualityError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A plan does not fit the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A guidance needs what was not given.
    #[error("the guidance {guidance} needs {needs}")]
    Needs {
        /// The guidance.
        guidance: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// The judge sees other pictures.
    #[error("the model draws pictures of {model:?}, but the judge is for {judge:?}")]
    Shapes {
        /// `[channels, height, width]` of the model.
        model: [usize; 3],
        /// Of the judge.
        judge: [usize; 3],
    },
}

/// Guidance by a weak model, which is not in the registry.
pub const AUTOGUIDANCE: &str = "autoguidance";
/// Gradient-free classifier guidance, which is not in the registry.
pub const GFCG: &str = "gfcg";
/// The same, with classifier-free guidance of rows that are not confused.
pub const GFCG_OR_CFG: &str = "gfcg-or-cfg";
/// The same, on autoguidance.
pub const GFCG_WEAK: &str = "gfcg-autoguidance";

/// What a trial draws and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialConfig {
    /// The number of pictures.
    pub pictures: usize,
    /// The number of steps.
    pub steps: usize,
    /// The sampler's name.
    pub sampler: String,
    /// Pictures that are drawn at once.
    pub batch: usize,
}

impl Default for TrialConfig {
    fn default() -> Self {
        Self {
            pictures: 5000,
            steps: 20,
            sampler: "ddim".to_owned(),
            batch: 250,
        }
    }
}

/// The result of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// How good the pictures are.
    pub quality: Quality,
    /// Evaluations of the network for a picture; those of a weak model count like the others.
    pub evaluations: f64,
    /// Seconds of drawing, without those of judging.
    pub seconds: f64,
}

/// The pictures of a trial.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// `[pictures, channels, height, width]`, row by row, with values in about `[−1, 1]`.
    pub values: Vec<f32>,
    /// The class of each that was asked for.
    pub classes: Vec<usize>,
    /// What they cost.
    pub evaluations: Evaluations,
    /// Seconds of drawing.
    pub seconds: f64,
}

/// The parts of a trial that are not the guidance.
#[derive(Clone, Copy)]
pub struct TrialRun<'a> {
    /// The sampler with its levels.
    pub sampler: &'a Sampler,
    /// The model that is asked: the trial's own, or a changed one of the same classes.
    pub model: &'a dyn Denoiser,
}

impl std::fmt::Debug for TrialRun<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrialRun")
            .field("sampler", &self.sampler)
            .finish_non_exhaustive()
    }
}

/// A model under trial.
#[derive(Debug)]
pub struct GuidanceTrials<'a> {
    /// The model.
    pub model: &'a ClassDenoiser,
    /// A worse model of the same pictures, for autoguidance.
    pub weak: Option<&'a ClassDenoiser>,
    /// A classifier, for gradient-free classifier guidance. Not the judge.
    pub guide: Option<&'a TrainedClassifier>,
    /// Judges the pictures.
    pub judge: &'a Judge<'a>,
    /// What is drawn and how.
    pub config: TrialConfig,
}

impl GuidanceTrials<'_> {
    /// The names of the guidances that can be tried with what is given: those of the registry that a class
    /// denoiser supports, and those that need a weak model or a classifier.
    pub fn guidances(&self) -> Vec<String> {
        // A class denoiser has no perturbed attention and gives no attention map.
        let named = guidances::<4>().names().into_iter();
        let named = named.filter(|name| !name.ends_with("-attention"));
        let others = [
            (AUTOGUIDANCE, self.weak.is_some()),
            (GFCG, self.guide.is_some()),
            (GFCG_OR_CFG, self.guide.is_some()),
            (GFCG_WEAK, self.guide.is_some() && self.weak.is_some()),
        ];
        let others = others.into_iter().filter(|(_, possible)| *possible);
        named
            .chain(others.map(|(name, _)| name))
            .map(str::to_owned)
            .collect()
    }

    /// Whether a guidance has a scale.
    ///
    /// # Errors
    /// If there is no such guidance.
    pub fn has_scale(guidance: &str) -> Result<bool, TrialError> {
        match guidance {
            AUTOGUIDANCE | GFCG | GFCG_OR_CFG | GFCG_WEAK => Ok(true),
            name => {
                let family = guidances::<4>();
                Ok(family.entry(name)?.defaults().get("scale").is_some())
            }
        }
    }

    /// Draws and judges.
    ///
    /// - `guidance`: a name of [`guidances`](Self::guidances)
    /// - `options`: of a guidance in the registry, besides its scale
    /// - `scale`: that of classifier-free guidance; without effect on a guidance that has none
    /// - `drawn`: is called with the number of pictures after each batch; an error ends the trial
    ///
    /// # Errors
    /// If there is no such guidance, it needs what is not given, or the run fails.
    pub fn run(
        &self,
        guidance: &str,
        options: &Options,
        scale: f64,
        seed: u64,
        drawn: &mut dyn FnMut(usize) -> Result<(), OwnError>,
    ) -> Result<Trial, TrialError> {
        self.judged(&self.pictures(guidance, options, scale, seed, drawn)?)
    }

    /// Judges pictures that were drawn.
    ///
    /// # Errors
    /// If there are too few of them, or a value is not finite.
    pub fn judged(&self, made: &Pictures) -> Result<Trial, TrialError> {
        Ok(Trial {
            quality: self.judge.quality(&made.values, &made.classes)?,
            evaluations: made.evaluations.total() as f64 / made.classes.len() as f64,
            seconds: made.seconds,
        })
    }

    /// The sampler that the configuration names.
    fn sampler(&self) -> Result<Sampler, TrialError> {
        let levels = self.model.levels(self.config.steps)?;
        let solver = samplers::<4>().get(&self.config.sampler)?;
        Ok(Sampler::new(solver, levels)?)
    }

    /// Draws pictures under a guidance that is not in the registry.
    ///
    /// - `guidance`: makes it, for each batch anew; the model that it asks knows the class of each row
    /// - `seed`, `drawn`: as for [`run`](Self::run)
    ///
    /// # Errors
    /// If the guidance cannot be made, or the run fails.
    pub fn pictures_under<'g>(
        &self,
        guidance: &mut dyn FnMut() -> Result<Box<dyn Guidance + 'g>, OwnError>,
        seed: u64,
        drawn: &mut dyn FnMut(usize) -> Result<(), OwnError>,
    ) -> Result<Pictures, TrialError> {
        let sampler = self.sampler()?;
        let run = TrialRun {
            sampler: &sampler,
            model: self.model,
        };
        self.draw_by(run, seed, drawn, false, &mut |_, take| {
            let mut guidance = guidance().map_err(SamplerError::Own)?;
            take(guidance.as_mut())
        })
    }

    /// Draws the pictures of a trial.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn pictures(
        &self,
        guidance: &str,
        options: &Options,
        scale: f64,
        seed: u64,
        drawn: &mut dyn FnMut(usize) -> Result<(), OwnError>,
    ) -> Result<Pictures, TrialError> {
        let sampler = self.sampler()?;
        let run = TrialRun {
            sampler: &sampler,
            model: self.model,
        };
        self.draw(run, guidance, options, scale, seed, drawn)
    }

    /// Draws the pictures of a trial with another sampler, or a changed model of the same classes.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn draw(
        &self,
        run: TrialRun<'_>,
        guidance: &str,
        options: &Options,
        scale: f64,
        seed: u64,
        drawn: &mut dyn FnMut(usize) -> Result<(), OwnError>,
    ) -> Result<Pictures, TrialError> {
        range::finite("guidance scale", scale)?;
        let scale = match guidance {
            "cfg++" => lambda(run.sampler.levels(), scale),
            _ => scale,
        };
        // GFCG knows the classes of the rows itself, and asks for others too.
        let itself = matches!(guidance, GFCG | GFCG_OR_CFG | GFCG_WEAK);
        self.draw_by(run, seed, drawn, itself, &mut |needed, take| {
            take(needed.guidance(guidance, options, scale)?.as_mut())
        })
    }

    /// Draws pictures.
    ///
    /// - `itself`: whether the guidance knows the classes of the rows itself
    /// - `with`: makes the guidance of a batch and hands it over
    fn draw_by(
        &self,
        run: TrialRun<'_>,
        seed: u64,
        drawn: &mut dyn FnMut(usize) -> Result<(), OwnError>,
        itself: bool,
        with: &mut dyn FnMut(&Needed<'_>, &mut Draw<'_>) -> Result<(), TrialError>,
    ) -> Result<Pictures, TrialError> {
        let TrialRun {
            sampler,
            model: asked,
        } = run;
        let TrialConfig {
            pictures: count,
            batch,
            ..
        } = self.config;
        range::at_least("number of pictures", count, 1)?;
        range::at_least("number of pictures drawn at once", batch, 1)?;
        let shape = self.model.config().shape;
        if shape != self.judge.shape() {
            return Err(TrialError::Shapes {
                model: shape,
                judge: self.judge.shape(),
            });
        }
        let known = self.model.config().classes.len();
        let all: Vec<usize> = (0..count).map(|picture| picture % known).collect();
        let mut values = Vec::with_capacity(count * shape.iter().product::<usize>());
        let mut evaluations = Evaluations::new();
        let mut seconds = 0.0;
        for (index, classes) in all.chunks(batch).enumerate() {
            let begun = Instant::now();
            // Each batch has its own noise, the same for every guidance.
            let mut noise = SeededNoise::new(seed, index as u64);
            let start = self
                .model
                .start(classes.len(), sampler.levels(), &mut noise);
            let conditions = classes.iter().map(|&class| Condition::Given(class));
            let weak = self
                .weak
                .map(|weak| RowConditions::new(weak, conditions.clone().collect()));
            let rows = RowConditions::new(asked, conditions.collect());
            let classify = |sample: Tensor<4>| self.classify(sample);
            let needed = Needed {
                weak: weak.as_ref().map(|weak| weak as &dyn Denoiser),
                weak_classes: self.weak.map(|weak| weak as &dyn Denoiser),
                classifier: self
                    .guide
                    .map(|_| &classify as &dyn crate::guidance::Classifier),
                classes,
            };
            let model: &dyn Denoiser = match itself {
                true => asked,
                false => &rows,
            };
            with(&needed, &mut |guidance| {
                let run = Sampling::of(model)
                    .guided_by(guidance)
                    .counted_in(&mut evaluations);
                let samples = run.run(sampler, start.clone(), &mut noise)?;
                let samples = samples.try_into_vec_as::<f32>();
                values.extend(samples.map_err(|error| QualityError::Device(error.to_string()))?);
                Ok(())
            })?;
            seconds += begun.elapsed().as_secs_f64();
            drawn(classes.len()).map_err(SamplerError::Own)?;
        }
        Ok(Pictures {
            values,
            classes: all,
            evaluations,
            seconds,
        })
    }

    /// The guiding classifier's scores of predicted clean samples.
    fn classify(&self, sample: Tensor<4>) -> Result<Tensor<2>, OwnError> {
        let Some(guide) = self.guide else {
            return Err(no_classifier(GFCG).into());
        };
        let [rows, channels, height, width] = sample.dims();
        let shown = ((sample + 1.0) / 2.0).clamp(0.0, 1.0);
        Ok(guide.logits(shown.reshape([rows, channels * height * width]))?)
    }
}

/// Draws a batch under a guidance.
type Draw<'d> = dyn FnMut(&mut dyn Guidance) -> Result<(), TrialError> + 'd;

/// What the guidances of a batch need.
struct Needed<'a> {
    /// Under the class of each row.
    weak: Option<&'a dyn Denoiser>,
    /// Under any class.
    weak_classes: Option<&'a dyn Denoiser>,
    classifier: Option<&'a dyn crate::guidance::Classifier>,
    classes: &'a [usize],
}

fn no_classifier(guidance: &'static str) -> TrialError {
    TrialError::Needs {
        guidance,
        needs: "a guiding classifier",
    }
}

impl<'a> Needed<'a> {
    fn guidance(
        &self,
        name: &str,
        options: &Options,
        scale: f64,
    ) -> Result<Box<dyn Guidance + 'a>, TrialError> {
        let weak = |weak: Option<&'a dyn Denoiser>, guidance| {
            weak.ok_or(TrialError::Needs {
                guidance,
                needs: "a weak model",
            })
        };
        let gradient_free = |guidance, reference: Reference<'a>, max_scale: f64| {
            let config = GradientFreeClassifierConfig::new().with_max_scale(max_scale);
            let classifier = self.classifier.ok_or_else(|| no_classifier(guidance))?;
            let classes = self.classes.to_vec();
            let made = GradientFreeClassifier::new(config, classifier, classes, reference);
            Ok::<_, TrialError>(Box::new(made))
        };
        Ok(match name {
            AUTOGUIDANCE => Box::new(Autoguidance::new(weak(self.weak, AUTOGUIDANCE)?, scale)),
            GFCG => gradient_free(GFCG, Reference::Alone, scale)?,
            GFCG_OR_CFG => gradient_free(GFCG_OR_CFG, Reference::OrClassifierFree(scale), scale)?,
            GFCG_WEAK => {
                let weak = weak(self.weak_classes, GFCG_WEAK)?;
                gradient_free(GFCG_WEAK, Reference::Weak(weak, scale), scale + 1.0)?
            }
            name => {
                let family = guidances::<4>();
                let mut all = Options::new();
                if GuidanceTrials::has_scale(name)? {
                    all.set("scale", scale.into());
                }
                family.make(name, &all.overridden(options))?
            }
        })
    }
}

/// The `λ` of CFG++ whose equivalent scale, averaged over the steps, is `omega`; at most 1.
fn lambda(levels: &Levels, omega: f64) -> f64 {
    (omega / mean_equivalent_omega(levels, 1.0)).clamp(0.0, 1.0)
}
