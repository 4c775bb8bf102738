//! Training the super-resolution prior on photographs and on views of panoramas.
//!
//! A sharp crop `I_0` and the same crop `I_in` from fewer pixels come from two sources:
//!
//! * a photograph, reduced by antialiased bicubic interpolation, rounded to 8 bit and enlarged again, `I_in =
//!   bicubic(round(bicubic(I_0, 1/s_y, 1/s_x)), s_y, s_x)`, with different factors for rows and columns in
//!   part of the examples, because away from the horizon a panorama's pixels are narrower than high;
//! * tangent planes of a training panorama `E`, which are planar pictures too: `I_0 = ERP→TP(E)` and `I_in =
//!   ERP→TP(bicubic(round(A E), s))`, as the prior sees them in [OmniSSR](crate::omnissr).
//!
//! Each crop is rotated and mirrored at random.
//!
//! Everything is drawn from one seed ([`PriorRecipe`]), so the same recipe gives the same file.

use std::error::Error;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use nabla_base::range::{self, OutOfRange};
use nabla_data::{DataSetError, PanoramaSet, PhotoSet, Raster, Split};
use nabla_diffusion::ema::EmaConfig;
use nabla_diffusion::prior::{PriorConfig, PriorError, SuperResolutionPrior};
use nabla_diffusion::rddm_sampler::{Loss, seeded_weights};
use nabla_diffusion::rddm_trainer::{
    Batch, BatchError, BatchSource, Rate, RddmTrainerConfig, RddmTrainingError,
};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_train::{Observer, TrainingError};
use rand::RngExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::pixels::to_tensor;
use crate::{
    BicubicDown, DegradationError, Erp, ErpError, Interpolation, LinearOperator, ResampleError,
    TangentError, TangentGrid, TangentOptions, TangentProjection, resize_erp, resize_planar,
};

/// The reason why a prior cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum PriorTrainingError {
    /// The pictures cannot be read.
    #[error(transparent)]
    Data(#[from] DataSetError),
    /// A panorama is not one.
    #[error(transparent)]
    Erp(#[from] ErpError),
    /// A panorama cannot be projected.
    #[error(transparent)]
    Tangent(#[from] TangentError),
    /// A picture cannot be resampled.
    #[error(transparent)]
    Resample(#[from] ResampleError),
    /// A panorama cannot be reduced.
    #[error(transparent)]
    Degradation(#[from] DegradationError),
    /// A number of the recipe is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The model cannot be built or stored.
    #[error(transparent)]
    Prior(#[from] PriorError),
    /// The training fails.
    #[error(transparent)]
    Training(#[from] RddmTrainingError),
    /// The checkpoint is from an older version.
    #[error(
        "the training in {} was started by an older version, whose checkpoints can no longer be \
         read: finish it with that version, or remove the folder to start again", folder.display()
    )]
    OldCheckpoint {
        /// Its folder.
        folder: PathBuf,
    },
}

impl From<TrainingError> for PriorTrainingError {
    fn from(error: TrainingError) -> Self {
        Self::Training(error.into())
    }
}

/// Crops and their degradation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriorData {
    /// Side of a crop, pixels. Default 80.
    pub crop: usize,
    /// Share of crops from panoramas (the others are from photographs), in `[0, 1]`. Default 0.5.
    pub panorama_share: f64,
    /// Share of the photographs' crops with equal factors in rows and columns, in `[0, 1]`. Default
    /// 0.6.
    pub isotropic_share: f64,
    /// Factors of reduction, of which one is drawn; they must divide the panoramas' height. Default
    /// 2 and 4.
    pub factors: [usize; 2],
}

impl Default for PriorData {
    fn default() -> Self {
        Self {
            crop: 80,
            panorama_share: 0.5,
            isotropic_share: 0.6,
            factors: [2, 4],
        }
    }
}

/// Everything that determines the weights: together with the pictures, the complete recipe of the prior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriorRecipe {
    /// Crops and degradation.
    pub data: PriorData,
    /// The training; its seed is also used for the initial weights.
    pub training: RddmTrainerConfig,
    /// The model.
    pub model: PriorConfig,
}

impl Default for PriorRecipe {
    /// The recipe of the embedded prior.
    fn default() -> Self {
        Self {
            data: PriorData::default(),
            training: RddmTrainerConfig::new(36_000)
                .with_batch(8)
                .with_loss(Loss::L2)
                .with_first_step_share(0.5)
                .with_learning_rate(1e-3)
                .with_rate(Rate::WarmupCosine {
                    warmup: 300,
                    floor: 0.01,
                })
                .with_ema(EmaConfig::new().with_decay(0.98))
                .with_checkpoint_every(500),
            model: PriorConfig::new(),
        }
    }
}

impl PriorRecipe {
    /// Trains, or resumes from the checkpoint.
    ///
    /// - `assets`: the folder with `photos/` and `panoramas/`
    /// - `checkpoint`: the file of the checkpoint, in an existing folder; see [`checkpoint_file`]
    /// - `observe`: is called after every step; if it breaks, a checkpoint is saved and the function returns
    /// - returns the prior, with the average of the weights
    ///
    /// # Errors
    /// If the pictures cannot be read, a value of the recipe is out of range, the checkpoint belongs to
    /// another recipe, or a file cannot be written.
    pub fn train(
        &self,
        assets: &Path,
        checkpoint: &Path,
        device: &Device,
        observe: Observer<'_, ()>,
    ) -> Result<TrainedPrior, PriorTrainingError> {
        let folder = checkpoint.with_extension("");
        if !checkpoint.exists() && folder.is_dir() {
            return Err(PriorTrainingError::OldCheckpoint { folder });
        }
        let mut pictures = PriorPictures::open(assets, self.data)?;
        let training_device = device.clone().autodiff();
        let network = seeded_weights(self.training.seed, &training_device, || {
            self.model.init_network(&training_device)
        })?;
        let source: &mut dyn BatchSource = &mut pictures;
        let mut trainer = self.training.trainer(self.model.rddm()?, network, source)?;
        if checkpoint.exists() {
            trainer = trainer.resume(checkpoint)?;
        }
        trainer.run(Some(checkpoint), observe)?;
        let average = trainer.average().unwrap_or(trainer.model()).clone();
        let prior = SuperResolutionPrior::new(self.model.clone(), average, device)?;
        Ok(TrainedPrior {
            finished: trainer.is_finished(),
            losses: trainer.history().losses(),
            prior,
        })
    }
}

/// The result of a training.
#[derive(Clone, Debug)]
pub struct TrainedPrior {
    /// The prior, with the average of the weights.
    pub prior: SuperResolutionPrior,
    /// The loss of every step.
    pub losses: Vec<f32>,
    /// Whether all steps are done.
    pub finished: bool,
}

/// The pictures for training the prior, in memory.
#[derive(Clone, Debug)]
pub struct PriorPictures {
    photos: Vec<Raster>,
    views: Vec<View>,
    data: PriorData,
}

/// A tangent plane of a training panorama.
#[derive(Clone, Debug)]
struct View {
    /// `I_0`.
    sharp: Raster,
    /// `I_in` for each of the factors.
    enlarged: [Raster; 2],
}

/// One drawn crop: its source, and its changes.
#[derive(Clone, Copy, Debug)]
struct Draw {
    view: bool,
    picture: usize,
    top: usize,
    left: usize,
    symmetry: u8,
    choice: usize,
    factors: [f64; 2],
    shift: [usize; 2],
}

/// The panorama is rotated around its axis by a sixteenth of a turn for a second set of planes.
const TURNS: [usize; 2] = [0, 1];

/// Pixels around a crop that are degraded with it, so that its borders look like its middle.
const MARGIN: usize = 16;

impl PriorPictures {
    /// Reads `assets/photos` and the training part of `assets/panoramas`; the 18 tangent planes of the
    /// octadecaplex are used twice, a sixteenth of a turn apart.
    ///
    /// # Errors
    /// If a folder or file cannot be read, a picture is smaller than a crop, or a value of `data` is
    /// out of range.
    pub fn open(assets: &Path, data: PriorData) -> Result<Self, PriorTrainingError> {
        let fits = data.crop > 0 && data.crop.is_multiple_of(8);
        range::check(fits, "recipe's crop", data.crop, "a positive multiple of 8")?;
        range::within("recipe's panorama_share", data.panorama_share, 0.0..=1.0)?;
        range::within("recipe's isotropic_share", data.isotropic_share, 0.0..=1.0)?;
        for factor in data.factors {
            range::within("recipe's factor", factor, 1..=8)?;
        }
        let photos = PhotoSet::open(&assets.join("photos"))?;
        let photos: Vec<Raster> = (0..photos.len())
            .into_par_iter()
            .map(|i| photos.load(i).map(|p| p.raster))
            .collect::<Result<_, _>>()?;
        let panoramas = PanoramaSet::open(&assets.join("panoramas"))?;
        let mut views = Vec::new();
        for name in panoramas.names(Split::Training) {
            let panorama = panoramas.load(name)?.raster;
            for turn in TURNS {
                views.extend(views_of(&turned(&panorama, turn), data.factors)?);
            }
        }
        let side = data.crop + 2 * MARGIN + SHIFTS;
        let smallest = photos
            .iter()
            .chain(views.iter().map(|view| &view.sharp))
            .map(|p| p.height().min(p.width()))
            .min()
            .unwrap_or(0);
        let fits = smallest >= side;
        range::check(
            fits,
            "recipe's crop",
            data.crop,
            "smaller than every picture by 40",
        )?;
        Ok(Self {
            photos,
            views,
            data,
        })
    }

    /// Number of photographs and of views of panoramas.
    pub fn len(&self) -> [usize; 2] {
        [self.photos.len(), self.views.len()]
    }

    /// Whether there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.len() == [0, 0]
    }

    fn draw(&self, draw: &mut SeededNoise) -> Draw {
        let view = draw.random_bool(self.data.panorama_share);
        let (pictures, side) = if view {
            (self.views.len(), self.data.crop)
        } else {
            (self.photos.len(), self.side())
        };
        let picture = draw.random_range(0..pictures);
        let [_, height, width] = if view {
            self.views[picture].sharp.shape()
        } else {
            self.photos[picture].shape()
        };
        let choice = draw.random_range(0..self.data.factors.len());
        let factor = self.data.factors[choice] as f64;
        let factors = if draw.random_bool(self.data.isotropic_share) {
            [factor; 2]
        } else {
            // The pixels of a panorama are narrower than high by the cosine of the latitude.
            let other = (factor * draw.random_range(0.3..1.2)).max(1.0);
            [factor * draw.random_range(0.9..1.1), other]
        };
        Draw {
            view,
            picture,
            top: draw.random_range(0..=height - side),
            left: draw.random_range(0..=width - side),
            symmetry: draw.random_range(0..8),
            choice,
            factors,
            shift: [draw.random_range(0..SHIFTS), draw.random_range(0..SHIFTS)],
        }
    }

    fn side(&self) -> usize {
        self.data.crop + 2 * MARGIN + SHIFTS
    }

    /// `[I_0, I_in]`, each `[3, crop, crop]` in `[0, 1]`.
    fn crop(&self, draw: Draw) -> Result<[Raster; 2], ResampleError> {
        let crop = self.data.crop;
        if draw.view {
            let view = &self.views[draw.picture];
            let enlarged = &view.enlarged[draw.choice];
            return Ok([&view.sharp, enlarged].map(|picture| draw.cut(picture, crop)));
        }
        let side = self.side();
        let sharp = draw.cut(&self.photos[draw.picture], side);
        let small = draw
            .factors
            .map(|f| ((side as f64 / f).round() as usize).max(1));
        let low = resize_planar(&sharp, small[0], small[1], Interpolation::BICUBIC)?;
        let enlarged = resize_planar(&eight_bit(low), side, side, Interpolation::BICUBIC)?;
        // The grid of the reduction has a random offset, as on a tangent plane.
        Ok([sharp, enlarged].map(|picture| {
            Raster::from_fn(3, crop, crop, |c, y, x| {
                picture.get(c, MARGIN + draw.shift[0] + y, MARGIN + draw.shift[1] + x)
            })
        }))
    }
}

impl Draw {
    /// A square of the picture, rotated and mirrored.
    fn cut(&self, picture: &Raster, side: usize) -> Raster {
        let symmetry = self.symmetry;
        Raster::from_fn(3, side, side, |c, y, x| {
            let [y, x] = if symmetry & 1 == 0 { [y, x] } else { [x, y] };
            let y = if symmetry & 2 == 0 { y } else { side - 1 - y };
            let x = if symmetry & 4 == 0 { x } else { side - 1 - x };
            picture.get(c, self.top + y, self.left + x)
        })
    }
}

/// Samples as stored in an 8-bit file.
fn eight_bit(picture: Raster) -> Raster {
    picture.map(|v| (v.clamp(0.0, 1.0) * 255.0).round() / 255.0)
}

/// The panorama rotated around its axis by sixteenths of a turn.
fn turned(panorama: &Raster, sixteenths: usize) -> Raster {
    let [channels, height, width] = panorama.shape();
    let shift = sixteenths * width / 16;
    Raster::from_fn(channels, height, width, |c, y, x| {
        panorama.get(c, y, (x + shift) % width)
    })
}

/// The tangent planes of a panorama, sharp and enlarged from fewer pixels.
fn views_of(panorama: &Raster, factors: [usize; 2]) -> Result<Vec<View>, PriorTrainingError> {
    let erp = Erp::of(panorama)?;
    let projection = TangentProjection::new(
        TangentGrid::octadecaplex(),
        erp,
        erp.height() / 2,
        TangentOptions::of(Interpolation::BICUBIC),
    )?;
    let planes = |panorama: &Raster| -> Result<Vec<Raster>, PriorTrainingError> {
        let planes = projection.to_tangent(panorama)?.into_iter();
        Ok(planes.map(|p| p.map(|v| v.clamp(0.0, 1.0))).collect())
    };
    let enlarged = |factor: usize| -> Result<Vec<Raster>, PriorTrainingError> {
        let low = eight_bit(BicubicDown::new(factor, erp)?.apply(panorama)?);
        planes(&resize_erp(&low, erp.height(), Interpolation::BICUBIC)?)
    };
    let [first, second] = factors;
    Ok(planes(panorama)?
        .into_iter()
        .zip(enlarged(first)?)
        .zip(enlarged(second)?)
        .map(|((sharp, first), second)| View {
            sharp,
            enlarged: [first, second],
        })
        .collect())
}

/// Positions of the reduction's grid under a crop.
const SHIFTS: usize = 8;

impl BatchSource for PriorPictures {
    fn batch(
        &mut self,
        size: usize,
        draw: &mut SeededNoise,
        device: &Device,
    ) -> Result<Batch, BatchError> {
        let draws: Vec<Draw> = (0..size).map(|_| self.draw(draw)).collect();
        let crops: Vec<[Raster; 2]> = draws
            .into_par_iter()
            .map(|draw| self.crop(draw))
            .collect::<Result<_, _>>()
            .map_err(|error| Box::new(error) as Box<dyn Error + Send + Sync>)?;
        let tensor = |part: usize| to_tensor(crops.iter().map(|crop| &crop[part]), device);
        Ok(Batch::restoration(tensor(0), tensor(1)))
    }
}

/// The checkpoint in the folder of a prior's training.
pub fn checkpoint_file(prior: &Path) -> PathBuf {
    prior.join("checkpoint.safetensors")
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use burn::tensor::Tensor;

    fn assets() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets")
    }

    #[test]
    fn crops_are_degraded_but_have_the_means_of_the_sharp_ones() {
        let mut pictures = PriorPictures::open(&assets(), PriorData::default()).unwrap();
        assert_eq!(pictures.len(), [31, 16 * 18 * 2]);
        let device = Device::flex();
        let mut draw = SeededNoise::new(0, 0);
        let batch = pictures.batch(16, &mut draw, &device).unwrap();
        let degraded = batch.degraded.unwrap();
        assert_eq!(batch.clean.dims(), [16, 3, 80, 80]);
        let mean = |x: &Tensor<4>| x.clone().mean().into_scalar::<f32>();
        assert!((mean(&batch.clean) - mean(&degraded)).abs() < 0.01);
        let error = (batch.clean.clone() - degraded.clone())
            .square()
            .mean()
            .into_scalar::<f32>();
        assert!(error > 1e-4 && error < 0.1, "{error}");
        // Less detail: the mean step between neighbours falls.
        let detail = |x: &Tensor<4>| {
            let right = x.clone().slice_dim(3, 1..80) - x.clone().slice_dim(3, 0..79);
            right.abs().mean().into_scalar::<f32>()
        };
        assert!(detail(&degraded) < detail(&batch.clean));
        // The position of the stream alone decides.
        let again = pictures
            .batch(16, &mut SeededNoise::new(0, 0), &device)
            .unwrap();
        assert_eq!(again.clean.into_data(), batch.clean.into_data());
    }

    #[test]
    fn a_wrong_recipe_is_told() {
        let error = |data: PriorData| {
            PriorPictures::open(&assets(), data)
                .unwrap_err()
                .to_string()
        };
        let default = PriorData::default();
        assert!(error(PriorData { crop: 7, ..default }).contains("crop is 7"));
        assert!(
            error(PriorData {
                crop: 800,
                ..default
            })
            .contains("smaller than every picture")
        );
        assert!(
            error(PriorData {
                panorama_share: 1.5,
                ..default
            })
            .contains("from 0 to 1")
        );
        assert!(
            error(PriorData {
                factors: [0, 2],
                ..default
            })
            .contains("factor is 0")
        );
    }

    /// Ten steps are five, a checkpoint, and five more, to the bit; and the file is the same.
    #[test]
    fn a_resumed_training_gives_the_same_file() {
        let recipe = PriorRecipe {
            training: RddmTrainerConfig::new(4)
                .with_batch(2)
                .with_checkpoint_every(1),
            model: PriorConfig::new().with_network(
                PriorConfig::new()
                    .network
                    .with_base_channels(8)
                    .with_blocks_per_level(1),
            ),
            ..PriorRecipe::default()
        };
        let device = Device::flex();
        let run = |stops: &[usize]| {
            let folder = tempfile::tempdir().unwrap();
            let mut trained = None;
            for &stop in stops {
                let checkpoint = checkpoint_file(folder.path());
                let result = recipe.train(&assets(), &checkpoint, &device, &mut |step| {
                    if step.step >= stop {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                });
                trained = Some(result.unwrap());
            }
            let trained = trained.unwrap();
            assert!(trained.finished);
            trained.prior.save(folder.path()).unwrap();
            let file = folder.path().join(nabla_diffusion::prior::WEIGHTS_FILE);
            (trained.losses, std::fs::read(file).unwrap())
        };
        assert_eq!(run(&[4]), run(&[2, 4]));
    }

    /// The folder of checkpoints that versions up to 0.1 kept is not taken for a training that has not
    /// begun.
    #[test]
    fn a_checkpoint_of_an_older_version_is_no_fresh_beginning() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("checkpoint/step-00000500")).unwrap();
        let train = PriorRecipe::default().train(
            &assets(),
            &checkpoint_file(folder.path()),
            &Device::flex(),
            &mut |_| ControlFlow::Break(()),
        );
        let told = train.unwrap_err().to_string();
        assert!(told.contains("started by an older version"), "{told}");
    }
}
