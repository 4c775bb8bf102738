//! The ground of the claims about guidance: a class-conditional denoiser of Fashion-MNIST, a worse one, two
//! classifiers and real pictures.
//!
//! `nabla train denoiser` and `nabla train model` made the models from all of Fashion-MNIST (60,000 pictures of
//! 28 x 28, 10 classes); the recipes and the curves of the losses are beside the weights
//! in `assets/fashion-models`. The worse denoiser had a
//! tenth of the training. The classifiers differ in architecture and seed: one judges, the other guides GFCG.
//!
//! The pictures are judged by [`Judge`], with the judging classifier's features: the Fréchet distance here is no FID,
//! which has Inception's. The real pictures are those in the repository, the first 550 of each class of the training
//! set.

use burn::tensor::{Device, Tensor, TensorData};
use nabla_claims::{
    Bench, Cell, ClaimContext, ClaimError, LinePlot, Metric, Series, Stage, Table, Task, Variant,
};
use nabla_diffusion::class_denoiser::ClassDenoiser;
use nabla_diffusion::guidance_trial::{GuidanceTrials, Trial, TrialConfig};
use nabla_diffusion::registry::Options;
use nabla_diffusion::sample_quality::Judge;
use nabla_train::data_set::{DataConfig, Standardization};
use nabla_train::examples::Examples;
use nabla_train::trained_classifier::TrainedClassifier;

pub(crate) const FD: Metric = Metric::lower("FD with the judge's features", "");
pub(crate) const PRECISION: Metric = Metric::higher("precision", "");
pub(crate) const RECALL: Metric = Metric::higher("recall", "");
pub(crate) const ACCURACY: Metric = Metric::higher("class accuracy", "%");
pub(crate) const CONTRAST: Metric = Metric::informative("contrast, of that of real pictures", "");
pub(crate) const CLIPPED: Metric = Metric::lower("values outside the range", "%");
pub(crate) const CALLS: Metric = Metric::informative("network calls per picture", "");
/// The metrics of a trial.
pub(crate) const METRICS: [Metric; 7] = [FD, PRECISION, RECALL, ACCURACY, CONTRAST, CLIPPED, CALLS];

/// How much is drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) pictures: usize,
    pub(crate) real: usize,
    /// DDIM's.
    pub(crate) steps: usize,
}

/// The full form, and the quick one.
pub(crate) const FULL: Size = Size {
    pictures: 5000,
    real: 5500,
    steps: 20,
};
pub(crate) const QUICK: Size = Size {
    pictures: 40,
    real: 100,
    steps: 4,
};

impl Size {
    pub(crate) fn trial(self) -> TrialConfig {
        TrialConfig {
            pictures: self.pictures,
            steps: self.steps,
            ..TrialConfig::default()
        }
    }
}

/// The models and the real pictures.
pub(crate) struct Ground {
    pub(crate) model: ClassDenoiser,
    weak: ClassDenoiser,
    guide: TrainedClassifier,
    judging: TrainedClassifier,
    real: Examples,
    device: Device,
}

impl Ground {
    /// Loads everything from `assets/fashion-models`.
    pub(crate) fn load(size: Size, context: &ClaimContext<'_>) -> Result<Self, ClaimError> {
        let (folder, device) = (context.assets.join("fashion-models"), &context.device);
        let denoiser = |name: &str| {
            let folder = folder.join(name);
            ClassDenoiser::load(&folder, device).map_err(|e| ClaimError::asset(&folder, e))
        };
        let classifier = |name: &str| {
            let folder = folder.join(name);
            TrainedClassifier::load(&folder, device).map_err(|e| ClaimError::asset(&folder, e))
        };
        let real = DataConfig {
            source: "fashion".to_owned(),
            standardization: Standardization::None,
            limit: Some(size.real),
            ..DataConfig::default()
        };
        Ok(Self {
            model: denoiser("denoiser")?,
            weak: denoiser("weak")?,
            guide: classifier("guide")?,
            judging: classifier("judge")?,
            real: real.open().map_err(ClaimError::experiment)?.training,
            device: device.clone(),
        })
    }

    /// The judge, which sees the real pictures first.
    pub(crate) fn judge(&self) -> Result<Judge<'_>, ClaimError> {
        Judge::new(&self.judging, &self.real, &self.device).map_err(ClaimError::experiment)
    }

    /// `count` real pictures of all classes, `[count, 1, 28, 28]` with values in `[−1, 1]`, and their classes; others for
    /// each `set`.
    pub(crate) fn real_pictures(&self, count: usize, set: u64) -> (Tensor<4>, Vec<usize>) {
        let [channels, height, width] = self.model.config().shape;
        let size = channels * height * width;
        let all = self.real.len();
        // The pictures are sorted by class; a prime step takes them from everywhere.
        let each = (0..count).map(|i| (set as usize * 1009 + i * 607) % all);
        let each: Vec<usize> = each.collect();
        let values = each.iter().flat_map(|&i| {
            let picture = &self.real.features[i * size..(i + 1) * size];
            picture.iter().map(|value| 2.0 * value - 1.0)
        });
        let data = TensorData::new(values.collect(), [count, channels, height, width]);
        let classes = each.iter().map(|&i| self.real.labels[i] as usize);
        (Tensor::from_data(data, &self.device), classes.collect())
    }

    pub(crate) fn trials<'a>(&'a self, judge: &'a Judge<'a>, size: Size) -> GuidanceTrials<'a> {
        GuidanceTrials {
            model: &self.model,
            weak: Some(&self.weak),
            guide: Some(&self.guide),
            judge,
            config: size.trial(),
        }
    }
}

/// The task of a scale.
pub(crate) fn task(scale: f64) -> Task {
    Task::of(format!("Fashion-MNIST, scale {scale}"))
}

/// The Fréchet distance over another metric: a line for each variant, with a point for each scale.
///
/// - `other`: the metric, and its name on the axis
pub(crate) fn plot(
    table: &Table,
    title: &str,
    (name, other): (&str, &Metric),
    scales: &[f64],
    variants: &[Variant],
) -> LinePlot {
    let plot = LinePlot::new(title, name, "Fréchet distance with the judge's features");
    variants.iter().fold(plot, |plot, variant| {
        let points = scales.iter().filter_map(|&scale| {
            let mean = |metric| table.mean(&task(scale), variant, metric).ok();
            Some([mean(other)?, mean(&FD)?])
        });
        plot.with_series(Series::new(variant.name(), points))
    })
}

/// A guidance at a scale.
pub(crate) struct Contestant {
    pub(crate) task: Task,
    pub(crate) variant: Variant,
    /// As [`GuidanceTrials`] names it.
    pub(crate) guidance: &'static str,
    pub(crate) options: Options,
    pub(crate) scale: f64,
}

impl Contestant {
    /// With the defaults of the guidance.
    pub(crate) fn new(task: &Task, variant: &Variant, guidance: &'static str, scale: f64) -> Self {
        Self {
            task: task.clone(),
            variant: variant.clone(),
            guidance,
            options: Options::new(),
            scale,
        }
    }

    /// Whether this is the same guidance, whatever its task and its name there.
    fn is_as(&self, other: &Self) -> bool {
        let [one, two] =
            [self, other].map(|each| (each.guidance, &each.options, each.scale.to_bits()));
        one == two
    }
}

/// Tries every contestant with every seed, and records the [`METRICS`].
pub(crate) fn contest(
    bench: &Bench<'_>,
    ground: &Ground,
    size: Size,
    contestants: &[Contestant],
    table: &mut Table,
) -> Result<(), ClaimError> {
    let judge = ground.judge()?;
    let trials = ground.trials(&judge, size);
    // Some take part in several tasks in the same way, and are tried once.
    let mut different: Vec<Vec<&Contestant>> = Vec::new();
    for contestant in contestants {
        match different.iter_mut().find(|same| same[0].is_as(contestant)) {
            Some(same) => same.push(contestant),
            None => different.push(vec![contestant]),
        }
    }
    let seeds = bench.seeds().iter();
    let points: Vec<(u64, &Vec<&Contestant>)> = seeds
        .flat_map(|&seed| different.iter().map(move |same| (seed, same)))
        .collect();
    let found = bench.measure(
        &Stage::new("Fashion-MNIST", &size),
        &points,
        |&(seed, same)| {
            let cell = Cell::of(&same[0].task).variant(&same[0].variant);
            cell.seed(seed).steps(size.pictures as u64)
        },
        |&(seed, same)| {
            let Contestant {
                guidance,
                options,
                scale,
                ..
            } = same[0];
            let trial = trials.run(guidance, options, *scale, seed, &mut |count| {
                bench.progress().advance(count as u64);
                Ok(())
            });
            trial.map_err(ClaimError::experiment)
        },
    )?;
    for ((seed, same), trial) in points.into_iter().zip(found) {
        for contestant in same {
            record(table, &contestant.task, &contestant.variant, seed, &trial)?;
        }
    }
    Ok(())
}

/// Records the [`METRICS`] of a trial.
pub(crate) fn record(
    table: &mut Table,
    task: &Task,
    variant: &Variant,
    seed: u64,
    trial: &Trial,
) -> Result<(), ClaimError> {
    let quality = &trial.quality;
    for (metric, value) in [
        (&FD, quality.frechet_distance),
        (&PRECISION, quality.precision),
        (&RECALL, quality.recall),
        (&ACCURACY, 100.0 * quality.accuracy),
        (&CONTRAST, quality.contrast),
        (&CLIPPED, 100.0 * quality.clipped),
        (&CALLS, trial.evaluations),
    ] {
        table.record(task, variant, metric, seed, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nabla_base::progress::NoProgress;

    use super::*;

    /// The judge knows the real pictures, and the denoiser draws what the judge takes for the class.
    #[test]
    fn the_models_are_trained() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let context =
            ClaimContext::quick(Device::flex(), &NoProgress).with_assets(root.join("assets"));
        let ground = Ground::load(QUICK, &context).unwrap();
        let judge = ground.judge().unwrap();
        let real: Vec<f32> = ground.real.features.iter().map(|v| 2.0 * v - 1.0).collect();
        let classes: Vec<usize> = ground.real.labels.iter().map(|&c| c as usize).collect();
        let known = judge.quality(&real, &classes).unwrap();
        assert!(
            known.accuracy > 0.85 && known.frechet_distance < 1e-3,
            "{known:?}"
        );
        let size = Size { steps: 10, ..QUICK };
        let trials = ground.trials(&judge, size);
        let options = Options::new();
        let drawn = trials.run("classifier-free", &options, 2.0, 0, &mut |_| Ok(()));
        assert!(drawn.unwrap().quality.accuracy > 0.8);
    }
}
