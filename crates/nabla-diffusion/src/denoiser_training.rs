//! Training a [`ClassDenoiser`](crate::class_denoiser::ClassDenoiser), as a task of the
//! [trainer](nabla_train::trainer).
//!
//! Each step draws labelled pictures `(x_0, c)`, a level and a noise `ε` for each, leaves out a share of the
//! classes, and takes one step of Adam against the mean squared error:
//!
//! ```text
//! x = signal · x_0 + noise · ε,   c ← ∅ with the probability p
//! L = ‖target(x_0, ε) − f_θ(x, t, c)‖²,   θ ← Adam(θ, ∇L),   θ̄ ← EMA(θ̄, θ)
//! ```
//!
//! The target is that of the [`Prediction`]; on the straight line with the target
//! `ε − x_0`, this is flow matching. The levels of a batch of `B` are stratified, `u_i = (i + u)/B` in a random
//! order, which has the same mean and less noise than independent ones.
//!
//! Everything random comes from streams of one seed, and a checkpoint stores the positions in them.
//!
//! Sources: Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, arXiv 2006.11239, algorithm 1; Ho,
//! Salimans, *Classifier-Free Diffusion Guidance*, 2022, arXiv 2207.12598, algorithm 1; Lipman et al., *Flow
//! Matching for Generative Modeling*, 2023, arXiv 2210.02747, eq. 23; Kingma et al., *Variational Diffusion
//! Models*, 2021, arXiv 2107.00630, appendix I.1 (the stratified levels).

use std::error::Error;

use burn::config::Config;
use burn::tensor::{Device, Int, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_train::ema::EmaConfig;
use nabla_train::optimizer::{Method, OptimizerConfig, OptimizerError};
use nabla_train::schedule::{Decay, Schedule};
use nabla_train::transform::ClipByNorm;
use nabla_train::{Averaging, Learner, Task, Trainer, TrainerConfig, TrainingError};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::class_denoiser::{ClassDenoiserConfig, ClassDenoiserError, Table};
use crate::prediction::Prediction;
use crate::rddm_sampler::seeded_weights;
use crate::seeded_noise::{NoiseState, SeededNoise};
use crate::unet::UNet;

/// Why a training of a denoiser cannot start or continue; inside a [`TrainingError`] it is the task's own error.
#[derive(Debug, thiserror::Error)]
pub enum DenoiserTrainingError {
    /// A field of the configuration is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The model cannot be built.
    #[error(transparent)]
    Denoiser(#[from] ClassDenoiserError),
    /// The data source failed.
    #[error("the training data failed: {0}")]
    Data(#[source] Box<dyn Error + Send + Sync>),
    /// The pictures do not fit the model.
    #[error(
        "the data source gave pictures of the shape {found:?}, but the model expects {expected:?}"
    )]
    Shape {
        /// Their shape.
        found: Vec<usize>,
        /// `[batch, channels, height, width]`.
        expected: [usize; 4],
    },
    /// A class that the model does not have, or not one for each picture.
    #[error(
        "the data source gave the classes {found:?} to {pictures} pictures of {classes} classes"
    )]
    Classes {
        /// The classes of a batch.
        found: Vec<usize>,
        /// Its pictures.
        pictures: usize,
        /// The number of classes.
        classes: usize,
    },
    /// An error that can occur in any training.
    #[error(transparent)]
    Training(#[from] TrainingError),
}

impl From<OptimizerError> for DenoiserTrainingError {
    fn from(error: OptimizerError) -> Self {
        Self::Training(error.into())
    }
}

impl From<DenoiserTrainingError> for TrainingError {
    fn from(error: DenoiserTrainingError) -> Self {
        match error {
            DenoiserTrainingError::Training(error) => error,
            DenoiserTrainingError::Range(error) => error.into(),
            other => Self::task(other),
        }
    }
}

/// Labelled pictures to train with.
#[derive(Clone, Debug)]
pub struct LabelledPictures {
    /// `x_0`, `[batch, channels, height, width]`, in `[−1, 1]`.
    pub pictures: Tensor<4>,
    /// The class of each.
    pub classes: Vec<usize>,
}

/// The source of a training's pictures; implemented for closures of the same form.
pub trait LabelledSource {
    /// A batch of `size` pictures on `device`.
    ///
    /// Everything random must come from `draw`, and nothing else may change from call to call, because a resumed
    /// training restores only the position of `draw`.
    ///
    /// # Errors
    /// Any error that prevents a batch; the training stops with it.
    fn batch(
        &mut self,
        size: usize,
        draw: &mut SeededNoise,
        device: &Device,
    ) -> Result<LabelledPictures, Box<dyn Error + Send + Sync>>;
}

impl<F> LabelledSource for F
where
    F: FnMut(
        usize,
        &mut SeededNoise,
        &Device,
    ) -> Result<LabelledPictures, Box<dyn Error + Send + Sync>>,
{
    fn batch(
        &mut self,
        size: usize,
        draw: &mut SeededNoise,
        device: &Device,
    ) -> Result<LabelledPictures, Box<dyn Error + Send + Sync>> {
        self(size, draw, device)
    }
}

/// Labelled pictures in memory, drawn uniformly at random.
///
/// ```
/// use nabla_diffusion::denoiser_training::PictureTable;
///
/// // Two pictures of 2 x 2 pixels, white and black.
/// let values = [[1.0; 4], [0.0; 4]].concat();
/// let table = PictureTable::new(values, vec![1, 0], [1, 2, 2])?;
/// assert_eq!(table.len(), 2);
/// # Ok::<(), nabla_diffusion::denoiser_training::DenoiserTrainingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PictureTable {
    values: Vec<f32>,
    classes: Vec<usize>,
    shape: [usize; 3],
    mirror: bool,
}

impl PictureTable {
    /// - `values`: in `[0, 1]`, `[pictures, channels, height, width]`
    /// - `classes`: the class of each
    /// - `shape`: `[channels, height, width]`
    ///
    /// # Errors
    /// If there are no pictures, or their number and that of the classes differ.
    pub fn new(
        values: Vec<f32>,
        classes: Vec<usize>,
        shape: [usize; 3],
    ) -> Result<Self, DenoiserTrainingError> {
        let pixels: usize = shape.iter().product();
        range::at_least("number of pictures", classes.len(), 1)?;
        if values.len() != classes.len() * pixels {
            let [channels, height, width] = shape;
            return Err(DenoiserTrainingError::Shape {
                found: vec![values.len()],
                expected: [classes.len(), channels, height, width],
            });
        }
        Ok(Self {
            values,
            classes,
            shape,
            mirror: false,
        })
    }

    /// Whether half of the pictures are mirrored, left to right. Default: no.
    #[must_use]
    pub fn with_mirror(self, mirror: bool) -> Self {
        Self { mirror, ..self }
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Never true: there is at least one picture.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }
}

impl LabelledSource for PictureTable {
    fn batch(
        &mut self,
        size: usize,
        draw: &mut SeededNoise,
        device: &Device,
    ) -> Result<LabelledPictures, Box<dyn Error + Send + Sync>> {
        let [channels, height, width] = self.shape;
        let pixels = channels * height * width;
        let mut values = Vec::with_capacity(size * pixels);
        let mut classes = Vec::with_capacity(size);
        for _ in 0..size {
            let i = draw.random_range(0..self.len());
            let mirrored = self.mirror && draw.random_bool(0.5);
            for row in self.values[i * pixels..(i + 1) * pixels].chunks(width) {
                let scaled = row.iter().map(|v| 2.0 * v - 1.0);
                match mirrored {
                    true => values.extend(scaled.rev()),
                    false => values.extend(scaled),
                }
            }
            classes.push(self.classes[i]);
        }
        // [size, channels, height, width]
        let pictures = Tensor::<1>::from_floats(values.as_slice(), device);
        Ok(LabelledPictures {
            pictures: pictures.reshape([size, channels, height, width]),
            classes,
        })
    }
}

/// The recipe of a training; [`trainer`](Self::trainer) starts it.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct DenoiserTrainingConfig {
    /// The total number of steps.
    pub steps: usize,
    /// Pictures per step. Default 64.
    #[config(default = 64)]
    pub batch: usize,
    /// The number of batches whose gradients are averaged in one step. Default 1.
    #[config(default = 1)]
    pub accumulate: usize,
    /// The share of examples whose class is left out, in `[0, 1]`. Default 0.1.
    #[config(default = 0.1)]
    pub label_drop: f64,
    /// Highest learning rate. Default 1e-3.
    #[config(default = 1e-3)]
    pub learning_rate: f64,
    /// The number of steps in which the learning rate rises. Then it falls along half a cosine until the last
    /// step. Default 500.
    #[config(default = 500)]
    pub warmup: usize,
    /// The final learning rate as a share of the highest, in `[0, 1]`. Default 0.
    #[config(default = 0.0)]
    pub floor: f64,
    /// Adam's decay of the mean square, in `[0, 1)`. Default 0.99.
    #[config(default = 0.99)]
    pub beta_2: f64,
    /// The maximum Euclidean norm of the gradient over all parameters; 0 for no limit. Default 1.
    #[config(default = 1.0)]
    pub gradient_clip: f64,
    /// The moving average. Default: decay 0.999 with the rational warm-up.
    #[config(default = "EmaConfig::new().with_decay(0.999)")]
    pub ema: EmaConfig,
    /// Steps between two checkpoints, if a folder is given. Default 500.
    #[config(default = 500)]
    pub checkpoint_every: usize,
    /// Seed of weights, data order, levels and noise. Default 0.
    #[config(default = 0)]
    pub seed: u64,
}

impl DenoiserTrainingConfig {
    fn validate(&self) -> Result<(), OutOfRange> {
        let name = |field: &str| format!("training's {field}");
        for (field, value) in [
            ("batch", self.batch),
            ("accumulate", self.accumulate),
            ("checkpoint_every", self.checkpoint_every),
        ] {
            range::at_least(name(field), value, 1)?;
        }
        range::within(name("label_drop"), self.label_drop, 0.0..=1.0)?;
        range::within(name("floor"), self.floor, 0.0..=1.0)?;
        range::positive(name("learning_rate"), self.learning_rate)?;
        range::not_negative(name("gradient_clip"), self.gradient_clip)?;
        let fits = (0.0..1.0).contains(&self.beta_2);
        range::check(
            fits,
            name("beta_2"),
            self.beta_2,
            "at least 0 and less than 1",
        )
    }

    fn config(&self) -> Result<TrainerConfig, OptimizerError> {
        let method = Method::named("adamw")?.with("beta_2", self.beta_2)?;
        Ok(TrainerConfig {
            steps: self.steps,
            accumulate: self.accumulate,
            checkpoint_every: self.checkpoint_every,
            schedule: Schedule {
                decay: Decay::CosineToLast { floor: self.floor },
                warmup: 0.0,
                warmup_steps: Some(self.warmup),
            },
            optimizer: OptimizerConfig {
                learning_rate: Some(self.learning_rate),
                weight_decay: 0.0,
                ..OptimizerConfig::new(method)
            },
            averaging: Some(Averaging {
                ema: self.ema,
                every: 1,
            }),
        })
    }

    /// Creates a training from random weights. Use its [average](Trainer::average) as the network of the
    /// denoiser.
    ///
    /// - `model`: what is trained
    /// - `device`: an autodiff device
    ///
    /// # Errors
    /// If a field of a configuration is out of range, or the device computes no gradients.
    ///
    /// ```
    /// use std::error::Error;
    /// use std::ops::ControlFlow;
    ///
    /// use burn::tensor::Device;
    /// use nabla_diffusion::class_denoiser::{ClassDenoiser, ClassDenoiserConfig};
    /// use nabla_diffusion::denoiser_training::{DenoiserTrainingConfig, LabelledPictures};
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    ///
    /// // Bright pictures and dark ones.
    /// let source = |size: usize, draw: &mut SeededNoise, device: &Device| {
    ///     let classes: Vec<usize> = (0..size).map(|i| i % 2).collect();
    ///     let bright: Vec<f32> = classes.iter().map(|&c| c as f32 - 0.5).collect();
    ///     let bright = burn::tensor::Tensor::<1>::from_floats(bright.as_slice(), device);
    ///     let pictures = draw.normal([size, 1, 8, 8], device) * 0.1 + bright.reshape([size, 1, 1, 1]);
    ///     Ok::<_, Box<dyn Error + Send + Sync>>(LabelledPictures { pictures, classes })
    /// };
    /// let names = ["dark", "bright"].map(str::to_owned).to_vec();
    /// let mut model = ClassDenoiserConfig::for_pictures(names, [1, 8, 8]);
    /// model.network = model.network.with_base_channels(32).with_blocks_per_level(1);
    /// let device = Device::flex();
    /// let config = DenoiserTrainingConfig::new(3).with_batch(4);
    /// let mut trainer = config.trainer(&model, source, &device.clone().autodiff())?;
    /// trainer.run(None, &mut |_| ControlFlow::Continue(()))?;
    /// if let Some(network) = trainer.average() {
    ///     let denoiser = ClassDenoiser::new(model, network.clone(), &device)?;
    ///     assert!(denoiser.parameters() > 0);
    /// }
    /// # Ok::<(), Box<dyn Error + Send + Sync>>(())
    /// ```
    pub fn trainer<S: LabelledSource>(
        &self,
        model: &ClassDenoiserConfig,
        source: S,
        device: &Device,
    ) -> Result<Trainer<DenoiserTask<S>>, DenoiserTrainingError> {
        self.validate()?;
        let network = seeded_weights(self.seed, device, || model.init_network(device))?;
        let task = DenoiserTask {
            draws: Draws::new(self.seed),
            config: *self,
            table: model.table()?,
            model: model.clone(),
            source,
        };
        let trainer = Trainer::new(self.config()?, task, network)?;
        Ok(if self.gradient_clip > 0.0 {
            trainer.with_transform(ClipByNorm(self.gradient_clip))
        } else {
            trainer
        })
    }
}

/// Streams of the seed; stream 0 is reserved for drawing the initial weights.
const DATA_STREAM: u64 = 1;
const LEVEL_STREAM: u64 = 2;
const NOISE_STREAM: u64 = 3;
const DROP_STREAM: u64 = 4;

/// The random streams of a training.
#[derive(Clone, Debug)]
struct Draws {
    data: SeededNoise,
    level: SeededNoise,
    noise: SeededNoise,
    drop: SeededNoise,
}

/// The positions of the random streams in a checkpoint.
#[derive(Serialize, Deserialize)]
struct Positions {
    data: NoiseState,
    level: NoiseState,
    noise: NoiseState,
    drop: NoiseState,
}

impl Draws {
    fn new(seed: u64) -> Self {
        Self {
            data: SeededNoise::new(seed, DATA_STREAM),
            level: SeededNoise::new(seed, LEVEL_STREAM),
            noise: SeededNoise::new(seed, NOISE_STREAM),
            drop: SeededNoise::new(seed, DROP_STREAM),
        }
    }
}

/// A batch ready for the network.
#[derive(Clone, Debug)]
pub struct Example {
    /// `x`, `[batch, channels, height, width]`.
    x: Tensor<4>,
    /// The target, of the same shape.
    target: Tensor<4>,
    /// `[batch]`.
    times: Tensor<1>,
    /// `[batch]`.
    classes: Tensor<1, Int>,
}

/// The task of training a denoiser; [`DenoiserTrainingConfig::trainer`] creates the training.
#[derive(Debug)]
pub struct DenoiserTask<S> {
    config: DenoiserTrainingConfig,
    model: ClassDenoiserConfig,
    table: Table,
    source: S,
    draws: Draws,
}

impl<S: LabelledSource> DenoiserTask<S> {
    fn example(&mut self, device: &Device) -> Result<Example, DenoiserTrainingError> {
        let size = self.config.batch;
        let LabelledPictures { pictures, classes } = self
            .source
            .batch(size, &mut self.draws.data, device)
            .map_err(DenoiserTrainingError::Data)?;
        let [channels, height, width] = self.model.shape;
        let expected = [size, channels, height, width];
        if pictures.dims() != expected {
            return Err(DenoiserTrainingError::Shape {
                found: pictures.dims().to_vec(),
                expected,
            });
        }
        let known = self.model.classes.len();
        if classes.len() != size || classes.iter().any(|&class| class >= known) {
            return Err(DenoiserTrainingError::Classes {
                found: classes,
                pictures: size,
                classes: known,
            });
        }
        let shift: f64 = self.draws.level.random();
        let mut places: Vec<usize> = (0..size).collect();
        places.shuffle(&mut self.draws.level);
        let levels: Vec<_> = places
            .iter()
            .map(|&i| self.table.drawn((i as f64 + shift) / size as f64))
            .collect();
        let column = |value: &dyn Fn(usize) -> f64| -> Tensor<4> {
            let values: Vec<f32> = (0..size).map(|i| value(i) as f32).collect();
            Tensor::<1>::from_floats(values.as_slice(), device).reshape([size, 1, 1, 1])
        };
        let signal = column(&|i| levels[i].signal()); // [batch, 1, 1, 1]
        let scale = column(&|i| levels[i].noise());
        let noise = self.draws.noise.normal(expected, device);
        let x = pictures.clone() * signal.clone() + noise.clone() * scale.clone();
        let numbers: Vec<i32> = classes
            .iter()
            .map(|&class| {
                let dropped = self.draws.drop.random_bool(self.config.label_drop);
                (if dropped { known } else { class }) as i32
            })
            .collect();
        let times: Vec<f32> = levels.iter().map(|level| level.time() as f32).collect();
        Ok(Example {
            x,
            target: match self.model.prediction {
                Prediction::Flow => {
                    let weights = levels.iter().map(|&level| self.table.velocity(level));
                    let weights: Vec<[f64; 2]> = weights.collect();
                    pictures * column(&|i| weights[i][0]) + noise * column(&|i| weights[i][1])
                }
                other => other.target_at(pictures, noise, signal, scale),
            },
            times: Tensor::from_floats(times.as_slice(), device),
            classes: Tensor::from_ints(numbers.as_slice(), device),
        })
    }
}

impl<S: LabelledSource> Task for DenoiserTask<S> {
    type Model = UNet;
    type Batch = Example;
    type Report = ();

    fn batch(&mut self, learner: &Learner<UNet>) -> Result<Example, TrainingError> {
        Ok(self.example(learner.device())?)
    }

    fn loss(&mut self, network: &UNet, example: Example) -> Result<Tensor<1>, TrainingError> {
        let Example {
            x,
            target,
            times,
            classes,
        } = example;
        let outputs = network.forward(x, times, None, Some(classes));
        Ok((Tensor::cat(outputs, 1) - target).square().mean())
    }

    fn settings(&self) -> Value {
        json!({
            "seed": self.config.seed,
            "batch": self.config.batch,
            "label_drop": self.config.label_drop,
            // As text, which keeps the numbers exact.
            "model": format!("{:?}", self.model),
        })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        let positions = Positions {
            data: self.draws.data.state(),
            level: self.draws.level.state(),
            noise: self.draws.noise.state(),
            drop: self.draws.drop.state(),
        };
        serde_json::to_vec(&positions).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let positions: Positions = serde_json::from_slice(state).map_err(TrainingError::task)?;
        self.draws = Draws {
            data: SeededNoise::from_state(positions.data),
            level: SeededNoise::from_state(positions.level),
            noise: SeededNoise::from_state(positions.noise),
            drop: SeededNoise::from_state(positions.drop),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use nabla_base::choices::Choices;

    use super::*;
    use crate::class_denoiser::TrainingPath;
    use crate::flow_matching::{FlowPath, PathChoice};

    /// Left half white, or right half white.
    fn table() -> PictureTable {
        let row = |class: usize| (0..8).map(move |x| f32::from(u8::from((x < 4) == (class == 0))));
        let values = (0..2).flat_map(|class| (0..8).flat_map(move |_| row(class)));
        PictureTable::new(values.collect(), vec![0, 1], [1, 8, 8]).unwrap()
    }

    fn model() -> ClassDenoiserConfig {
        let names = ["left", "right"].map(str::to_owned).to_vec();
        let mut model = ClassDenoiserConfig::for_pictures(names, [1, 8, 8]);
        model.network = model
            .network
            .with_base_channels(32)
            .with_blocks_per_level(1);
        model
    }

    fn trainer(steps: usize, model: &ClassDenoiserConfig) -> Trainer<DenoiserTask<PictureTable>> {
        let config = DenoiserTrainingConfig::new(steps)
            .with_batch(8)
            .with_warmup(2);
        let device = Device::flex().autodiff();
        config.trainer(model, table(), &device).unwrap()
    }

    #[test]
    fn a_training_that_is_broken_off_continues_with_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let mut whole = trainer(6, &model());
        whole.run(None, &mut |_| ControlFlow::Continue(())).unwrap();
        let mut first = trainer(6, &model());
        first
            .run(Some(&path), &mut |step| match step.step {
                3 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
            .unwrap();
        let mut second = trainer(6, &model()).resume(&path).unwrap();
        second
            .run(None, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(second.history().losses(), whole.history().losses());
        // Another model is another training.
        let other = model().with_prediction(Prediction::Epsilon);
        assert!(trainer(6, &other).resume(&path).is_err());
    }

    #[test]
    fn every_prediction_on_every_path_is_learned() {
        let flows = PathChoice::choices().into_iter().map(|choice| {
            let PictureTable { values, .. } = table();
            let values: Vec<f64> = values.iter().map(|&v| 2.0 * f64::from(v) - 1.0).collect();
            let found = choice.value.path_around_zero(&values, 64, 0);
            let (path, scale) = found.unwrap();
            TrainingPath::Flow { path, scale }
        });
        for path in [TrainingPath::cosine(), TrainingPath::Straight]
            .into_iter()
            .chain(flows)
        {
            for prediction in [
                Prediction::Epsilon,
                Prediction::Sample,
                Prediction::Velocity,
                Prediction::Flow,
            ] {
                let model = model().with_prediction(prediction).with_path(path.clone());
                let mut trainer = trainer(60, &model);
                trainer
                    .run(None, &mut |_| ControlFlow::Continue(()))
                    .unwrap();
                let losses = trainer.history().losses();
                let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
                let (begin, end) = (mean(&losses[..5]), mean(&losses[55..]));
                // Half of the times of the exploding path have hardly any noise, which no network can tell.
                let exploding = matches!(
                    &path,
                    TrainingPath::Flow {
                        path: FlowPath::Ve(_),
                        ..
                    }
                );
                let share = if exploding { 0.85 } else { 0.7 };
                assert!(
                    end < share * begin,
                    "{path:?} {prediction:?}: {begin} to {end}"
                );
            }
        }
    }

    #[test]
    fn pictures_that_do_not_fit_are_refused() {
        let few = PictureTable::new(vec![0.0; 64], vec![0, 1], [1, 8, 8]);
        assert!(few.is_err());
        assert!(PictureTable::new(Vec::new(), Vec::new(), [1, 8, 8]).is_err());
        let device = Device::flex().autodiff();
        let config = DenoiserTrainingConfig::new(1).with_batch(2);
        let wrong = PictureTable::new(vec![0.0; 64], vec![2], [1, 8, 8]).unwrap();
        let mut trainer = config.trainer(&model(), wrong, &device).unwrap();
        let told = trainer
            .run(None, &mut |_| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string();
        assert!(told.contains("2 classes"), "{told}");
        let error = config
            .with_label_drop(1.5)
            .trainer(&model(), table(), &device);
        assert!(error.is_err());
    }
}
