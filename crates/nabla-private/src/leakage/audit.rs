//! An attack on one shared gradient, with and without defences: what a person sees who wants to know.
//!
//! The pictures that come back are put into the order of the true ones ([`matched`]), which an attacker
//! does not know, before they are compared.

use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_base::range;
use nabla_grad::flat::ParameterLayout;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::training_mode::{batch_norm_in_training, freeze_layers};
use nabla_train::classifier::Classifier;
use nabla_train::examples::{Examples, Scaling};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::defence::{Defence, Hidden, Observed};
use super::dlg::{DlgConfig, dlg, soft_label_loss};
use super::error::LeakageError;
use super::ggl::{GglConfig, ggl, supposed};
use super::gias::{GiasConfig, gias};
use super::gifd::{GifdConfig, gifd};
use super::grad_inversion::{GradInversionConfig, are_trained, grad_inversion, layer_distance};
use super::gradient_oracle::{Distance, GradientOracle, Objective};
use super::inverting_gradients::{InvertingConfig, inverting_gradients};
use super::labels::{LabelRule, infer_labels, infer_labels_from_sketch};
use super::picture_quality::{MOST_PICTURES, matched, psnr, ssim};
use super::soteria::hidden_features;
use super::staged_generator::StagedGenerator;

/// An attack with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Attack {
    /// Pixels by the squared error, and labels too unless they are known.
    Dlg(DlgConfig),
    /// Pixels by the cosine.
    InvertingGradients(InvertingConfig),
    /// Pixels of a batch by several searches.
    GradInversion(GradInversionConfig),
    /// A generator's latent vector and features.
    Gifd(GifdConfig),
    /// A generator's latent vector and weights.
    Gias(GiasConfig),
    /// A generator's latent vector without derivatives.
    Ggl(GglConfig),
}

impl Attack {
    /// What of the last layer's rows it infers labels from.
    fn label_rule(&self) -> LabelRule {
        match self {
            Self::GradInversion(_) => LabelRule::Minima,
            _ => LabelRule::Sums,
        }
    }
}

/// Where an attack has its labels from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelSource {
    /// The attacker knew them.
    Known,
    /// Inferred from what was observed.
    Inferred,
    /// Given to the attacker, since a sketch so short does not tell them.
    Given,
    /// Searched together with the pictures.
    Searched,
}

/// The pictures of a batch, which the attacker wants.
#[derive(Clone, Debug)]
pub struct Secret {
    /// In [0, 1], one after the other.
    pub pictures: Vec<Vec<f32>>,
    /// Their labels.
    pub labels: Vec<u32>,
    /// Channels, height and width.
    pub shape: [usize; 3],
    /// The number of classes.
    pub classes: usize,
}

impl Secret {
    /// Pictures of different classes, as long as there are any, drawn from a seed.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn drawn(
        examples: &Examples,
        shape: [usize; 3],
        classes: usize,
        count: usize,
        seed: u64,
    ) -> Result<Self, LeakageError> {
        let most = examples.len().min(MOST_PICTURES);
        range::within("number of pictures behind the gradient", count, 1..=most)?;
        let mut order: Vec<usize> = (0..examples.len()).collect();
        order.shuffle(&mut SeededNoise::new(seed, PICTURES));
        let mut seen = vec![false; classes];
        let is_new = |&i: &usize| {
            let slot = seen.get_mut(examples.labels[i] as usize);
            slot.is_some_and(|seen| !std::mem::replace(seen, true))
        };
        let (first, rest): (Vec<usize>, Vec<usize>) = order.into_iter().partition(is_new);
        let chosen: Vec<usize> = first.into_iter().chain(rest).take(count).collect();
        let width: usize = shape.iter().product();
        let picture = |&i: &usize| examples.features[i * width..(i + 1) * width].to_vec();
        Ok(Self {
            pictures: chosen.iter().map(picture).collect(),
            labels: chosen.iter().map(|&i| examples.labels[i]).collect(),
            shape,
            classes,
        })
    }
}

/// What came of an attack on a protected gradient.
#[derive(Clone, Debug)]
pub struct Leak {
    /// The pictures, in the order of the true ones.
    pub pictures: Vec<Vec<f32>>,
    /// The labels that the attacker took, rising.
    pub labels: Vec<u32>,
    /// Where it has them from.
    pub label_source: LabelSource,
    /// The distance of the gradients.
    pub cost: f64,
    /// The PSNR of each picture, in dB.
    pub psnr: Vec<f64>,
    /// The SSIM of each picture.
    pub ssim: Vec<f64>,
}

/// The stream of the seed from which the pictures are drawn. The defences and the attacks have the first ones.
const PICTURES: u64 = 1 << 32;

/// The network whose gradient is attacked, with what its input goes through.
#[derive(Clone, Debug)]
pub struct Victim<M> {
    model: M,
    layout: ParameterLayout,
    /// Of the features, `[1, pixels]`.
    scaling: Option<[Tensor<2>; 2]>,
    device: Device,
    /// The layer that would normalise by the batch in training.
    batch_norm: Option<String>,
}

impl<M: Classifier> Victim<M> {
    /// - `model`: on a device with automatic differentiation; `scaling`: of its input
    ///
    /// # Errors
    /// If the model has no parameters.
    pub fn new(model: M, scaling: &Scaling, shape: [usize; 3]) -> Result<Self, LeakageError> {
        let batch_norm = batch_norm_in_training(&model).map(|layer| layer.to_string());
        // The network as it is used: nothing but weights and input counts.
        let model = freeze_layers(model);
        let layout = ParameterLayout::trainable(&model)?;
        let device = layout.device().clone();
        let pixels: usize = shape.iter().product();
        let row = |values: &[f64]| {
            let each = pixels / values.len();
            let row: Vec<f32> = (0..pixels).map(|i| values[i / each] as f32).collect();
            Tensor::<2>::from_data(TensorData::new(row, [1, pixels]), &device)
        };
        let fits = !scaling.means.is_empty() && pixels.is_multiple_of(scaling.means.len());
        Ok(Self {
            scaling: fits.then(|| [row(&scaling.means), row(&scaling.scales)]),
            model,
            layout,
            device,
            batch_norm,
        })
    }

    /// Refuses a defence that the network cannot have had in training, or whose values are out of range.
    ///
    /// # Errors
    /// An error with the layer or the value.
    pub fn check(&self, defence: Defence) -> Result<(), LeakageError> {
        defence.validate()?;
        match (&self.batch_norm, defence) {
            (Some(layer), Defence::Private { .. }) => Err(LeakageError::BatchNorm {
                layer: layer.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn scaled(&self, pictures: Tensor<2>) -> Tensor<2> {
        match &self.scaling {
            Some([means, scales]) => (pictures - means.clone()) * scales.clone(),
            None => pictures,
        }
    }

    fn loss(&self, model: &M, pictures: Tensor<2>, labels: &Tensor<2, Int>) -> Tensor<1> {
        let scores = model.logits(self.scaled(pictures)); // [batch, classes]
        let scores = burn::tensor::activation::log_softmax(scores, 1);
        -scores.gather(1, labels.clone()).mean()
    }

    fn labels(&self, labels: &[u32]) -> Tensor<2, Int> {
        let values: Vec<i32> = labels.iter().map(|&label| label as i32).collect();
        let data = TensorData::new(values, [labels.len(), 1]);
        Tensor::from_data(data, &self.device)
    }

    /// What is observed of a batch.
    fn observed(
        &self,
        secret: &Secret,
        defence: Defence,
        seed: u64,
    ) -> Result<Observed, LeakageError> {
        let rows = rows(&secret.pictures, &self.device);
        let gradient = |rows: Tensor<2>, labels: &[u32]| {
            let labels = self.labels(labels);
            let loss = |model: &M, x: Tensor<2>| self.loss(model, x, &labels);
            GradientOracle::new(self.model.clone(), loss)?.gradient(&rows)
        };
        let hidden = match defence {
            Defence::Soteria { share } => {
                let seen = |x: Tensor<2>| self.model.seen(self.scaled(x)).features;
                Hidden {
                    weight: self.last_layer(secret.classes)?,
                    features: hidden_features(&rows, &seen, share)?,
                }
            }
            _ => Hidden::default(),
        };
        let gradients = match defence {
            Defence::Private { .. } => (0..secret.labels.len())
                .map(|i| gradient(rows.clone().narrow(0, i, 1), &secret.labels[i..=i]))
                .collect::<Result<Vec<_>, _>>()?,
            _ => vec![gradient(rows, &secret.labels)?],
        };
        defence.protect(&gradients, &self.layout, &hidden, seed)
    }

    /// The name of the last matrix, `[features, classes]`.
    fn last_layer(&self, classes: usize) -> Result<String, LeakageError> {
        let entries = self.layout.entries().iter().rev();
        let mut last = entries.filter(|entry| matches!(entry.shape(), [_, c] if *c == classes));
        let last = last.next().ok_or(LeakageError::NoLastLayer { classes })?;
        Ok(last.name().to_owned())
    }

    /// The labels of a batch, as far as what is observed tells them.
    fn inferred(
        &self,
        observed: &Observed,
        secret: &Secret,
        rule: LabelRule,
    ) -> Result<Option<Vec<usize>>, LeakageError> {
        let batch = secret.labels.len();
        let last = self.last_layer(secret.classes)?;
        if let Some(sketch) = observed.sketch() {
            let entry = self.layout.entry(last.as_str())?;
            let [features, classes] = [0, 1].map(|dim| entry.shape()[dim]);
            let (offset, values) = (entry.offset(), observed.numbers()?);
            return infer_labels_from_sketch(sketch, &values, offset, [features, classes], batch);
        }
        let matrix: Tensor<2> = self.layout.slice_shaped(last.as_str(), &observed.values)?;
        Ok(Some(infer_labels(&matrix, batch, rule)?))
    }

    /// The labels that an attacker takes, rising, and where it has them from.
    fn taken(
        &self,
        observed: &Observed,
        secret: &Secret,
        rule: LabelRule,
        known: bool,
    ) -> Result<(Vec<u32>, LabelSource), LeakageError> {
        let mut sorted = secret.labels.clone();
        sorted.sort_unstable();
        if known {
            return Ok((sorted, LabelSource::Known));
        }
        Ok(match self.inferred(observed, secret, rule)? {
            Some(labels) => {
                let labels = labels.into_iter().map(|label| label as u32);
                (labels.collect(), LabelSource::Inferred)
            }
            None => (sorted, LabelSource::Given),
        })
    }

    /// Whether the network has batch normalisations with statistics of a training, which [`grad_inversion`] matches.
    pub fn has_batch_statistics(&self, shape: [usize; 3]) -> bool {
        let pixels = shape.iter().product();
        let zeros = Tensor::<2>::zeros([1, pixels], &self.device).autodiff();
        are_trained(&self.model.batch_statistics(self.scaled(zeros)))
    }

    /// Attacks the gradient of a batch.
    ///
    /// - `known`: whether the attacker knows the labels. Otherwise they are inferred, from a sketch only if it is long enough
    ///   to tell
    ///
    /// # Errors
    /// If a value is out of range, the network cannot have had the defence, a generator is missing or makes other pictures,
    /// or no candidate has a finite cost.
    pub fn attacked(
        &self,
        secret: &Secret,
        defence: Defence,
        attack: &Attack,
        generator: Option<&dyn StagedGenerator>,
        known: bool,
        seed: u64,
    ) -> Result<Leak, LeakageError> {
        let batch = secret.labels.len();
        range::at_least("number of pictures", batch, 1)?;
        self.check(defence)?;
        let observed = self.observed(secret, defence, seed)?;
        let device = &self.device;
        if let (Attack::Dlg(config), false) = (attack, known) {
            let (rebuilt, labels, cost) = self.by_dlg(secret, &observed, *config, seed)?;
            return leak(secret, rebuilt, cost, labels, LabelSource::Searched);
        }
        let rule = attack.label_rule();
        let (labels, source) = self.taken(&observed, secret, rule, known)?;
        let own = self.labels(&labels);
        let loss = |model: &M, x: Tensor<2>| self.loss(model, x, &own);
        let oracle = GradientOracle::new(self.model.clone(), loss)?;
        let cosine = |x: &Tensor<2>| oracle.matched(x, &observed, Distance::Cosine);
        let cosine: &Objective<'_> = &cosine;
        let generator = || fitting(generator, secret.shape);
        let (rebuilt, cost) = match attack {
            // Pixels alone, as the labels are known.
            Attack::Dlg(config) => {
                let objective =
                    |x: &Tensor<2>| oracle.matched(x, &observed, Distance::SquaredError);
                let size = [batch, secret.shape.iter().product()];
                let found = dlg(&objective, size, *config, seed, device)?;
                (found.unknowns, found.cost)
            }
            Attack::InvertingGradients(config) => {
                let shape = secret.shape;
                let found = inverting_gradients(cosine, batch, shape, *config, seed, device)?;
                (found.pictures, found.cost)
            }
            Attack::GradInversion(config) => {
                let lengths = self.layer_lengths(&observed);
                let objective = |x: &Tensor<2>| {
                    oracle.matched_by(x, &observed, |found, observed| {
                        layer_distance(found, observed, &lengths)
                    })
                };
                let statistics = |x: Tensor<2>| self.model.batch_statistics(self.scaled(x));
                let (shape, config) = (secret.shape, *config);
                let found =
                    grad_inversion(&objective, &statistics, batch, shape, config, seed, device)?;
                (found.pictures, found.cost)
            }
            Attack::Gifd(config) => {
                let found = gifd(cosine, generator()?, batch, config, seed, device)?;
                (found.pictures, found.cost)
            }
            Attack::Gias(config) => {
                let found = gias(cosine, generator()?, batch, *config, seed, device)?;
                (found.pictures, found.cost)
            }
            Attack::Ggl(config) => {
                let seen = supposed(&observed, defence, &self.layout)?;
                let cost = |x: &Tensor<2>| oracle.cost(x, &seen, Distance::SquaredError);
                let tensors = self.layout.entries().len();
                let found = ggl(&cost, generator()?, batch, tensors, *config, seed, device)?;
                (found.pictures, found.cost)
            }
        };
        leak(secret, rebuilt, cost, labels, source)
    }

    /// The lengths of the parameters in what is observed, of which a sketch is one.
    fn layer_lengths(&self, observed: &Observed) -> Vec<usize> {
        let [length] = observed.values.dims();
        match observed.sketch() {
            Some(_) => vec![length],
            None => {
                let entries = self.layout.entries().iter();
                entries.map(|entry| entry.num_elements()).collect()
            }
        }
    }

    fn by_dlg(
        &self,
        secret: &Secret,
        observed: &Observed,
        config: DlgConfig,
        seed: u64,
    ) -> Result<(Tensor<2>, Vec<u32>, f64), LeakageError> {
        let pixels: usize = secret.shape.iter().product();
        let (batch, classes) = (secret.labels.len(), secret.classes);
        let loss = |model: &M, x: Tensor<2>| {
            let pictures = x.clone().narrow(1, 0, pixels);
            let scores = model.logits(self.scaled(pictures));
            soft_label_loss(scores, x.narrow(1, pixels, classes))
        };
        let oracle = GradientOracle::new(self.model.clone(), loss)?;
        let objective = |x: &Tensor<2>| oracle.matched(x, observed, Distance::SquaredError);
        let size = [batch, pixels + classes];
        let found = dlg(&objective, size, config, seed, &self.device)?;
        let labels = found.unknowns.clone().narrow(1, pixels, classes).argmax(1);
        let mut labels: Vec<u32> = labels.into_data().iter::<u32>().collect();
        labels.sort_unstable();
        Ok((found.unknowns.narrow(1, 0, pixels), labels, found.cost))
    }
}

/// The generator, if there is one of such pictures.
fn fitting(
    generator: Option<&dyn StagedGenerator>,
    expected: [usize; 3],
) -> Result<&dyn StagedGenerator, LeakageError> {
    let generator = generator.ok_or(LeakageError::NoGenerator)?;
    let found = generator.shape();
    match found == expected {
        true => Ok(generator),
        false => {
            let [found, expected] = [found, expected].map(|s| s.iter().product());
            Err(LeakageError::Pictures { expected, found })
        }
    }
}

/// What was rebuilt, `[batch, pixels]`, in the order of the true pictures and measured.
fn leak(
    secret: &Secret,
    rebuilt: Tensor<2>,
    cost: f64,
    labels: Vec<u32>,
    label_source: LabelSource,
) -> Result<Leak, LeakageError> {
    let pixels: usize = secret.shape.iter().product();
    let values: Vec<f32> = rebuilt.clamp(0.0, 1.0).into_data().iter().collect();
    let rebuilt: Vec<Vec<f32>> = values.chunks_exact(pixels).map(<[f32]>::to_vec).collect();
    let order = matched(&secret.pictures, &rebuilt)?;
    let pictures: Vec<Vec<f32>> = order.into_iter().map(|i| rebuilt[i].clone()).collect();
    let pairs = || secret.pictures.iter().zip(&pictures);
    Ok(Leak {
        psnr: pairs().map(|(a, b)| psnr(a, b)).collect(),
        ssim: pairs().map(|(a, b)| ssim(a, b, secret.shape)).collect(),
        pictures,
        labels,
        label_source,
        cost,
    })
}

/// Pictures as the rows of a tensor, `[pictures, pixels]`.
pub fn rows(pictures: &[Vec<f32>], device: &Device) -> Tensor<2> {
    let width = pictures.first().map_or(0, Vec::len);
    let data = TensorData::new(pictures.concat(), [pictures.len(), width]);
    Tensor::from_data(data, device)
}
