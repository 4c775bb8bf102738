//! How good drawn pictures are, in numbers: close to real ones, varied, of the class that was asked for, and not
//! oversaturated.
//!
//! | number | what |
//! |---|---|
//! | `frechet_distance` | the [Fréchet distance](nabla_train::frechet) of the features; named *FD with* the classifier that computes them, never FID |
//! | `precision`, `recall` | [`nabla_train::precision_recall`], with the same features |
//! | `accuracy` | the share of the pictures that the classifier takes for the class that was asked for |
//! | `contrast` | the mean standard deviation within a picture, divided by that of real pictures |
//! | `clipped` | the share of values outside the range of pictures before they are clipped |
//!
//! The classifier that judges must be another one than the classifier that guides, if one does: it would find its
//! own mistakes good.

use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_train::classifier::Seen;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::frechet::{Moments, MomentsError, frechet_distance};
use nabla_train::precision_recall::{Manifold, PrecisionRecallError};
use nabla_train::trained_classifier::{TrainedClassifier, TrainedClassifierError};
use serde::{Deserialize, Serialize};

/// The number of neighbours of precision and recall.
const NEIGHBOURS: usize = 3;

/// Pictures that the classifier sees at once.
const BATCH: usize = 250;

/// The reason why pictures cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum QualityError {
    /// The classifier cannot be asked.
    #[error(transparent)]
    Classifier(#[from] TrainedClassifierError),
    /// The features have no moments.
    #[error(transparent)]
    Moments(#[from] MomentsError),
    /// The features cover no region.
    #[error(transparent)]
    Region(#[from] PrecisionRecallError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The classifier is not one of such pictures.
    #[error("the judge is a classifier of {judge:?}, but the pictures are {pictures:?}")]
    OtherPictures {
        /// The classifier's examples.
        judge: InputShape,
        /// `[channels, height, width]`.
        pictures: [usize; 3],
    },
    /// There is not one class for each picture.
    #[error("{pictures} pictures were given with {classes} classes")]
    Classes {
        /// The number of pictures.
        pictures: usize,
        /// The number of classes.
        classes: usize,
    },
    /// A number cannot be read from the device.
    #[error("the pictures cannot be read from the device: {0}")]
    Device(String),
}

/// How good pictures are; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quality {
    /// The number of pictures.
    pub pictures: usize,
    /// The Fréchet distance to real pictures.
    pub frechet_distance: f64,
    /// The share that looks real.
    pub precision: f64,
    /// The share of real pictures that is reached.
    pub recall: f64,
    /// The share of the class that was asked for.
    pub accuracy: f64,
    /// Relative to that of real pictures: above 1 is more contrast.
    pub contrast: f64,
    /// The share of values outside the range of pictures.
    pub clipped: f64,
}

/// A classifier and what it sees in real pictures.
#[derive(Debug)]
pub struct Judge<'a> {
    classifier: &'a TrainedClassifier,
    shape: [usize; 3],
    device: Device,
    moments: Moments,
    region: Manifold,
    contrast: f64,
}

impl<'a> Judge<'a> {
    /// - `classifier`: of pictures, on `device`
    /// - `real`: real pictures with values in `[0, 1]`; as many as will be judged, or more
    ///
    /// # Errors
    /// If the classifier is not one of pictures, or there are too few real ones.
    pub fn new(
        classifier: &'a TrainedClassifier,
        real: &Examples,
        device: &Device,
    ) -> Result<Self, QualityError> {
        let judge = classifier.config().shape;
        let InputShape::Picture(shape) = judge else {
            return Err(QualityError::OtherPictures {
                judge,
                pictures: [1, 1, judge.features()],
            });
        };
        range::at_least("number of real pictures", real.len(), NEIGHBOURS + 1)?;
        let seen = Examined::of(classifier, &real.features, judge.features(), device)?;
        Ok(Self {
            classifier,
            shape,
            device: device.clone(),
            moments: Moments::of(&seen.features, seen.width)?,
            region: Manifold::new(&seen.features, seen.width, NEIGHBOURS)?,
            contrast: contrast(&real.features, judge.features()),
        })
    }

    /// `[channels, height, width]` of the pictures.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The judging classifier.
    pub fn classifier(&self) -> &TrainedClassifier {
        self.classifier
    }

    /// The Fréchet distance of pictures to real ones, alone.
    ///
    /// - `pictures`: as of [`quality`](Self::quality)
    ///
    /// # Errors
    /// If there are fewer than two pictures, or a value is not finite.
    pub fn frechet_distance(&self, pictures: &[f32]) -> Result<f64, QualityError> {
        let seen = Examined::of(
            self.classifier,
            &shown(pictures),
            self.shape.iter().product(),
            &self.device,
        )?;
        self.distance(&seen)
    }

    fn distance(&self, seen: &Examined) -> Result<f64, QualityError> {
        let moments = Moments::of(&seen.features, seen.width)?;
        Ok(frechet_distance(&self.moments, &moments)?)
    }

    /// Judges pictures.
    ///
    /// - `pictures`: `[count, channels, height, width]`, row by row, with values in `[−1, 1]` as diffusion models
    ///   draw them
    /// - `classes`: the class of each that was asked for
    ///
    /// # Errors
    /// If there are too few pictures, not one class for each, or a value is not finite.
    pub fn quality(&self, pictures: &[f32], classes: &[usize]) -> Result<Quality, QualityError> {
        let width = self.shape.iter().product();
        if pictures.len() != width * classes.len() {
            return Err(QualityError::Classes {
                pictures: pictures.len() / width,
                classes: classes.len(),
            });
        }
        let outside = pictures.iter().filter(|value| value.abs() > 1.0).count();
        let shown = shown(pictures);
        let seen = Examined::of(self.classifier, &shown, width, &self.device)?;
        let region = Manifold::new(&seen.features, seen.width, NEIGHBOURS)?;
        let right = seen.classes.iter().zip(classes);
        let right = right.filter(|(seen, asked)| seen == asked).count();
        Ok(Quality {
            pictures: classes.len(),
            frechet_distance: self.distance(&seen)?,
            precision: self.region.share_of(&region)?,
            recall: region.share_of(&self.region)?,
            accuracy: right as f64 / classes.len() as f64,
            contrast: contrast(&shown, width) / self.contrast,
            clipped: outside as f64 / pictures.len() as f64,
        })
    }
}

/// From `[−1, 1]` to `[0, 1]`.
fn shown(pictures: &[f32]) -> Vec<f32> {
    let pictures = pictures.iter();
    pictures
        .map(|value| ((value + 1.0) / 2.0).clamp(0.0, 1.0))
        .collect()
}

/// What the classifier sees in pictures.
struct Examined {
    /// `[pictures, width]`.
    features: Vec<f32>,
    width: usize,
    /// The most likely class of each.
    classes: Vec<usize>,
}

impl Examined {
    fn of(
        classifier: &TrainedClassifier,
        pictures: &[f32],
        size: usize,
        device: &Device,
    ) -> Result<Self, QualityError> {
        let mut seen = Self {
            features: Vec::new(),
            width: 0,
            classes: Vec::new(),
        };
        let read = |tensor: Tensor<2>| {
            let values = tensor.try_into_vec_as::<f32>();
            values.map_err(|error| QualityError::Device(error.to_string()))
        };
        for batch in pictures.chunks(BATCH * size) {
            let rows = batch.len() / size;
            let data = TensorData::new(batch.to_vec(), [rows, size]);
            let examples = Tensor::<2>::from_data(data, device);
            let Seen { features, logits } = classifier.seen(examples)?;
            seen.width = features.dims()[1];
            seen.features.extend(read(features)?);
            let classes = read(logits.argmax(1).float())?; // [rows, 1]
            let classes = classes.into_iter().map(|class| class as usize);
            seen.classes.extend(classes);
        }
        Ok(seen)
    }
}

/// The mean over the pictures of the standard deviation within each.
fn contrast(pictures: &[f32], size: usize) -> f64 {
    let deviation = |picture: &[f32]| {
        let mean = picture.iter().map(|&v| f64::from(v)).sum::<f64>() / size as f64;
        let squares = picture.iter().map(|&v| (f64::from(v) - mean).powi(2));
        (squares.sum::<f64>() / size as f64).sqrt()
    };
    let pictures = pictures.chunks(size);
    let count = pictures.len().max(1) as f64;
    pictures.map(deviation).sum::<f64>() / count
}
