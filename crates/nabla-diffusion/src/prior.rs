//! A super-resolution prior: an RDDM whose `I_in` is a picture enlarged by bicubic interpolation.
//!
//! The network sees the noisy picture and the enlarged one, and predicts the residual between the
//! enlarged and the sharp picture (SM-Res), in pixel space:
//!
//! ```text
//! I_in = bicubic(low, s),   I_T = I_in + β̄_T ε,   I_0 = I_in − I_res
//! ```
//!
//! One set of weights serves every factor `s`, because the network can see how blurred `I_in` is. The network
//! has neither normalisation nor attention, so a picture computed in tiles with a margin equals the picture
//! computed whole ([`SuperResolutionPrior::predictor`]).
//!
//! A prior is a folder of two files: `prior.json`, a [`PriorConfig`], and `model.safetensors`, the weights in
//! half precision. [`SuperResolutionPrior::embedded`] is built into the crate; `nabla train prior` writes
//! such folders.
//!
//! Source: Liu et al., *Residual Denoising Diffusion Models*, CVPR 2024, arXiv 2308.13712.

use std::path::Path;

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use nabla_train::network_folder::{NetworkFolder, NetworkFolderError};

use crate::block_skipping::BlockSet;
use crate::rddm::{
    Objective, RddmError, ResidualNetwork, ResidualScheduleConfig, Sharing, TimeCondition,
};
use crate::rddm_sampler::{Rddm, RddmConfig, RddmInput, RddmSamplingConfig, ResidualDenoiser};
use crate::sampler_error::{OwnError, SamplerError};
use crate::seeded_noise::SeededNoise;
use crate::unet::{Normalization, UNetConfig};

/// The configuration's file name in a prior's folder.
pub const CONFIG_FILE: &str = "prior.json";
pub use nabla_train::network_folder::WEIGHTS_FILE;

const FOLDER: NetworkFolder = NetworkFolder {
    kind: "prior",
    config: CONFIG_FILE,
};

const EMBEDDED_CONFIG: &str = include_str!("../assets/prior/prior.json");
const EMBEDDED_WEIGHTS: &[u8] = include_bytes!("../assets/prior/model.safetensors");

/// The reason why a prior cannot be loaded, saved or run.
#[derive(Debug, thiserror::Error)]
pub enum PriorError {
    /// The folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] NetworkFolderError),
    /// The configuration describes no model.
    #[error(transparent)]
    Rddm(#[from] RddmError),
    /// The sampling failed.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The network cannot be computed in tiles.
    #[error(
        "the prior's network has {feature}, so a picture computed in tiles would differ from one \
         computed whole: a prior must have neither normalisation nor attention"
    )]
    NotLocal {
        /// The feature of the network.
        feature: &'static str,
    },
}

/// The configuration of a prior, without its weights.
#[derive(Config, Debug, PartialEq)]
pub struct PriorConfig {
    /// The network, with 3 input channels for `I_t` and 3 for `I_in`.
    #[config(default = "PriorConfig::default_network()")]
    pub network: UNetConfig,
    /// What the network predicts. Default `Residual`.
    #[config(default = "Objective::Residual")]
    pub objective: Objective,
    /// The coefficient schedules. Default: the paper's for restoration, `β̄_T² = 0.01`.
    #[config(default = "ResidualScheduleConfig::new().with_noise_variance(0.01)")]
    pub schedule: ResidualScheduleConfig,
    /// The default number of sampler steps. Default 1, which predicts the mean of the detail and is closest
    /// to the truth; each additional step draws more of the detail at random, which costs fidelity.
    #[config(default = 1)]
    pub sampling_steps: usize,
}

impl PriorConfig {
    /// 1 million parameters at 1/4 of the picture's resolution. With the same training time, a second,
    /// coarser level gave worse results.
    fn default_network() -> UNetConfig {
        UNetConfig::new(3, 3)
            .with_condition_channels(3)
            .with_patch(4)
            .with_base_channels(64)
            .with_multipliers(vec![1])
            .with_attention_levels(vec![])
            .with_middle_attention(false)
            .with_normalization(Normalization::None)
    }

    /// The network with random weights.
    ///
    /// # Errors
    /// If the configuration describes no network, or one that cannot be tiled.
    pub fn init_network(&self, device: &Device) -> Result<ResidualNetwork, PriorError> {
        for (feature, present) in [
            (
                "normalisation",
                self.network.normalization != Normalization::None,
            ),
            (
                "attention",
                self.network.middle_attention || !self.network.attention_levels.is_empty(),
            ),
        ] {
            if present {
                return Err(PriorError::NotLocal { feature });
            }
        }
        Ok(ResidualNetwork::init(
            &self.network,
            self.objective,
            Sharing::Separate,
            device,
        )?)
    }

    /// The model without its network.
    ///
    /// # Errors
    /// If the schedule is out of range.
    pub fn rddm(&self) -> Result<Rddm, PriorError> {
        Ok(RddmConfig::new()
            .with_objective(self.objective)
            .with_time(TimeCondition::Step)
            .with_condition_on_input(true)
            .init(self.schedule.init()?))
    }
}

/// A super-resolution prior; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::prior::SuperResolutionPrior;
///
/// let device = Device::flex();
/// let prior = SuperResolutionPrior::embedded(&device)?;
/// // A picture that was enlarged by bicubic interpolation, [batch, 3, height, width] in [−1, 1].
/// let enlarged = Tensor::<4>::zeros([1, 3, 32, 32], &device);
/// let sharp = prior.restore(enlarged, 2, 42)?;
/// assert_eq!(sharp.dims(), [1, 3, 32, 32]);
/// # Ok::<(), nabla_diffusion::prior::PriorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SuperResolutionPrior {
    network: ResidualNetwork,
    rddm: Rddm,
    config: PriorConfig,
    device: Device,
}

impl SuperResolutionPrior {
    /// Creates a prior from the weights of `network`, which is on `device`.
    ///
    /// # Errors
    /// If the schedule is out of range.
    pub fn new(
        config: PriorConfig,
        network: ResidualNetwork,
        device: &Device,
    ) -> Result<Self, PriorError> {
        Ok(Self {
            network,
            rddm: config.rddm()?,
            config,
            device: device.clone(),
        })
    }

    /// The prior that is built into the crate, trained by `nabla train prior` (`docs/src/prior.md`).
    ///
    /// # Errors
    /// Never with the files of the repository.
    pub fn embedded(device: &Device) -> Result<Self, PriorError> {
        Self::from_parts(
            EMBEDDED_CONFIG.as_bytes(),
            EMBEDDED_WEIGHTS.to_vec(),
            Path::new("the embedded prior"),
            device,
        )
    }

    /// Loads a folder that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// If the folder or one of its files is missing or damaged, or the weights do not fit the configuration;
    /// the message names the file and the tensor.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, PriorError> {
        let [config, weights] = FOLDER.read(folder)?;
        Self::from_parts(&config, weights, folder, device)
    }

    fn from_parts(
        config: &[u8],
        weights: Vec<u8>,
        folder: &Path,
        device: &Device,
    ) -> Result<Self, PriorError> {
        let config: PriorConfig = FOLDER.config(config, folder)?;
        let mut network = config.init_network(device)?;
        FOLDER.load(&mut network, weights, folder)?;
        Self::new(config, network, device)
    }

    /// Writes the folder: the weights in half precision, the configuration as JSON.
    ///
    /// The same weights give the same bytes.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), PriorError> {
        Ok(FOLDER.save(&self.config, &self.network, folder)?)
    }

    /// The configuration.
    pub fn config(&self) -> &PriorConfig {
        &self.config
    }

    /// The model without its network, from which samplers are made.
    pub fn rddm(&self) -> &Rddm {
        &self.rddm
    }

    /// The device of the network.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.network.num_params()
    }

    /// The network in tiles of at most `tile` x `tile` pixels (0 for whole pictures), one picture of the
    /// batch after the other, which limits the memory of a call. Apart from rounding, the result does not
    /// depend on `tile`.
    pub fn predictor(&self, tile: usize) -> TiledPredictor<'_> {
        self.predictor_skipping(tile, BlockSet::none())
    }

    /// The same without some blocks; see [`block_skipping`](crate::block_skipping).
    pub fn predictor_skipping<'a>(
        &'a self,
        tile: usize,
        skipped: &'a BlockSet,
    ) -> TiledPredictor<'a> {
        TiledPredictor {
            skipped,
            network: &self.network,
            // Tiles start at multiples of the network's pixel grids.
            tile: match tile {
                0 => usize::MAX,
                tile => tile.next_multiple_of(self.config.network.multiple()),
            },
            margin: self
                .config
                .network
                .receptive_radius()
                .next_multiple_of(self.config.network.multiple()),
        }
    }

    /// The number of blocks that can be skipped.
    pub fn blocks(&self) -> usize {
        self.network.blocks()
    }

    /// Sharpens pictures that were enlarged by bicubic interpolation.
    ///
    /// - `enlarged`: `[batch, 3, height, width]`, in `[−1, 1]`
    /// - `steps`: steps of the sampler
    /// - `seed`: of the initial noise
    /// - returns the same shape, in `[−1, 1]`
    ///
    /// # Errors
    /// If `steps` is 0 or more than the schedule has, or the picture does not have 3 channels.
    pub fn restore(
        &self,
        enlarged: Tensor<4>,
        steps: usize,
        seed: u64,
    ) -> Result<Tensor<4>, PriorError> {
        let sampler = self
            .rddm
            .sampler(RddmSamplingConfig::new().with_steps(steps))?;
        let mut noise = SeededNoise::new(seed, 0);
        Ok(sampler.restore(&self.predictor(0), &RddmInput::new(enlarged), &mut noise)?)
    }
}

/// See [`SuperResolutionPrior::predictor`].
#[derive(Clone, Copy, Debug)]
pub struct TiledPredictor<'a> {
    network: &'a ResidualNetwork,
    skipped: &'a BlockSet,
    tile: usize,
    margin: usize,
}

impl TiledPredictor<'_> {
    /// `(first, count, skip, keep)` of each tile along one side: the part that is read, and the part of it
    /// that is kept.
    fn cuts(&self, side: usize) -> Vec<[usize; 4]> {
        if side <= self.tile.saturating_add(self.margin) {
            return vec![[0, side, 0, side]];
        }
        (0..side)
            .step_by(self.tile)
            .map(|start| {
                let end = (start + self.tile).min(side);
                let first = start.saturating_sub(self.margin);
                [
                    first,
                    (end + self.margin).min(side) - first,
                    start - first,
                    end - start,
                ]
            })
            .collect()
    }
}

impl ResidualDenoiser for TiledPredictor<'_> {
    fn predict(
        &self,
        x: Tensor<4>,
        times: [Tensor<1>; 2],
        condition: Option<Tensor<4>>,
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        let [batch, _, height, width] = x.dims();
        let (rows, columns) = (self.cuts(height), self.cuts(width));
        // [batch][row][column] -> outputs, joined from the inside out.
        let mut pictures: Vec<Vec<Tensor<4>>> = Vec::new();
        for b in 0..batch {
            let mut bands: Vec<Vec<Tensor<4>>> = Vec::new();
            for [top, high, skip_rows, keep_rows] in rows.iter().copied() {
                let mut tiles: Vec<Vec<Tensor<4>>> = Vec::new();
                for [left, wide, skip_columns, keep_columns] in columns.iter().copied() {
                    let cut = |x: &Tensor<4>| {
                        x.clone()
                            .slice_dim(0, b..b + 1)
                            .slice_dim(2, top..top + high)
                            .slice_dim(3, left..left + wide)
                    };
                    let times = times.clone().map(|t| t.slice_dim(0, b..b + 1));
                    let condition = condition.as_ref().map(cut);
                    let outputs = self.network.forward_skipping(
                        cut(&x),
                        times,
                        condition,
                        None,
                        self.skipped,
                    );
                    let keep = |y: Tensor<4>| {
                        y.slice_dim(2, skip_rows..skip_rows + keep_rows)
                            .slice_dim(3, skip_columns..skip_columns + keep_columns)
                    };
                    tiles.push(outputs.into_iter().map(keep).collect());
                }
                bands.push(join(tiles, 3));
            }
            pictures.push(join(bands, 2));
        }
        Ok(join(pictures, 0))
    }
}

/// Concatenates the parts of each output along `dim`.
fn join(parts: Vec<Vec<Tensor<4>>>, dim: usize) -> Vec<Tensor<4>> {
    let outputs = parts.first().map_or(0, Vec::len);
    (0..outputs)
        .map(|i| {
            let parts: Vec<_> = parts
                .iter()
                .filter_map(|part| part.get(i).cloned())
                .collect();
            match <[Tensor<4>; 1]>::try_from(parts) {
                Ok([only]) => only,
                Err(parts) => Tensor::cat(parts, dim),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rddm_sampler::seeded_weights;
    use burn::tensor::Distribution;
    use std::fs;

    /// A small network whose last convolutions are not zero, as after training.
    fn prior(device: &Device) -> SuperResolutionPrior {
        let config = PriorConfig::new().with_network(
            PriorConfig::default_network()
                .with_base_channels(8)
                .with_blocks_per_level(1),
        );
        let network = seeded_weights(3, device, || config.init_network(device)).unwrap();
        let prior = SuperResolutionPrior::new(config, network, device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        prior.save(folder.path()).unwrap();
        let bytes = fs::read(folder.path().join(WEIGHTS_FILE)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut noise = SeededNoise::new(1, 0);
        let stored: Vec<_> = tensors
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let count: usize = view.shape().iter().product();
                let values: Vec<u8> = noise
                    .normal_values(count)
                    .into_iter()
                    .flat_map(|v| half::f16::from_f32(0.1 * v).to_le_bytes())
                    .collect();
                (name, view.shape().to_vec(), values)
            })
            .collect();
        let views = stored.iter().map(|(name, shape, values)| {
            let view = safetensors::tensor::TensorView::new(
                safetensors::Dtype::F16,
                shape.clone(),
                values,
            );
            (name.as_str(), view.unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        fs::write(folder.path().join(WEIGHTS_FILE), bytes).unwrap();
        SuperResolutionPrior::load(folder.path(), device).unwrap()
    }

    #[test]
    fn tiles_give_the_whole_picture() {
        let device = Device::flex();
        let prior = prior(&device);
        let shape = [2, 3, 424, 264];
        let x = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let y = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let times = || [0, 1].map(|_| Tensor::<1>::from_floats([300.0, 700.0], &device));
        let run = |tile| {
            prior
                .predictor(tile)
                .predict(x.clone(), times(), Some(y.clone()))
                .unwrap()
                .remove(0)
        };
        let whole = prior
            .network
            .predict(x.clone(), times(), Some(y.clone()))
            .unwrap()
            .remove(0);
        assert!(whole.clone().abs().mean().into_scalar::<f32>() > 1e-3);
        assert!(prior.predictor(64).cuts(424).len() > 3);
        for tile in [0, 64, 100] {
            let difference = (run(tile) - whole.clone()).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "tile {tile}: {difference}");
        }
    }

    #[test]
    fn the_receptive_radius_is_the_distance_that_a_pixel_reaches() {
        let device = Device::flex();
        let prior = prior(&device);
        let radius = prior.config.network.receptive_radius();
        let side = 2 * radius + 64;
        let zero = Tensor::<4>::zeros([1, 3, side, side], &device);
        let centre = side / 2..side / 2 + 1;
        let spot = zero
            .clone()
            .slice_fill([0..1, 0..3, centre.clone(), centre], 5.0);
        let times = || [0, 1].map(|_| Tensor::<1>::from_floats([300.0], &device));
        let run = |x: Tensor<4>| {
            prior
                .network
                .predict(x, times(), Some(zero.clone()))
                .unwrap()
                .remove(0)
        };
        let reached = (run(spot) - run(zero.clone()))
            .abs()
            .sum_dim(1)
            .squeeze_dim::<3>(1);
        let values = reached.into_data().try_to_vec::<f32>().unwrap();
        let far = values
            .iter()
            .enumerate()
            .filter(|(_, v)| **v > 0.0)
            .map(|(i, _)| {
                (i % side)
                    .abs_diff(side / 2)
                    .max((i / side).abs_diff(side / 2))
            })
            .max()
            .unwrap();
        assert!(far <= radius, "{far} > {radius}");
        assert!(far * 10 > radius * 7, "{far} is far below {radius}");
    }

    #[test]
    fn a_folder_gives_the_prior_back_and_the_same_bytes() {
        let device = Device::flex();
        let prior = prior(&device);
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        prior.save(first.path()).unwrap();
        let loaded = SuperResolutionPrior::load(first.path(), &device).unwrap();
        assert_eq!(loaded.config(), prior.config());
        loaded.save(second.path()).unwrap();
        for file in [CONFIG_FILE, WEIGHTS_FILE] {
            let read = |folder: &tempfile::TempDir| fs::read(folder.path().join(file)).unwrap();
            assert_eq!(read(&first), read(&second), "{file}");
        }
        let x = Tensor::<4>::random([1, 3, 16, 24], Distribution::Uniform(-1.0, 1.0), &device);
        let run = |p: &SuperResolutionPrior| p.restore(x.clone(), 3, 1).unwrap().into_data();
        assert_eq!(run(&prior), run(&loaded));
    }

    #[test]
    fn a_wrong_folder_is_told_in_one_sentence() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| {
            let text = SuperResolutionPrior::load(path, &device)
                .unwrap_err()
                .to_string();
            assert!(!text.contains('\n'), "{text}");
            text
        };
        assert!(error(&folder.path().join("none")).starts_with("there is no model folder"));
        assert!(error(folder.path()).ends_with("holds no prior.json"));
        prior(&device).save(folder.path()).unwrap();
        let config = folder.path().join(CONFIG_FILE);
        let text = fs::read_to_string(&config).unwrap();
        fs::write(
            &config,
            text.replace("\"base_channels\": 8", "\"base_channels\": 16"),
        )
        .unwrap();
        let told = error(folder.path());
        assert!(told.contains("stem") || told.contains("first"), "{told}");
        fs::write(&config, text.replace("\"patch\": 4", "\"patch\": 0")).unwrap();
        assert!(error(folder.path()).contains("patch is 0"));
        fs::write(
            &config,
            text.replace("\"None\"", "{\"Group\": {\"groups\": 8}}"),
        )
        .unwrap();
        assert!(error(folder.path()).contains("normalisation"));
        fs::write(&config, "{").unwrap();
        assert!(error(folder.path()).contains("is not the configuration of a prior"));
        fs::write(&config, text).unwrap();
        fs::write(folder.path().join(WEIGHTS_FILE), b"not a tensor").unwrap();
        assert!(error(folder.path()).contains("does not hold the weights"));
    }

    #[test]
    fn the_embedded_prior_fits_eight_mebibytes() {
        const { assert!(EMBEDDED_WEIGHTS.len() <= 8 << 20) };
        let prior = SuperResolutionPrior::embedded(&Device::flex()).unwrap();
        // Half precision, and a header of names.
        let header = EMBEDDED_WEIGHTS.len() - 2 * prior.parameters();
        assert!(header < 16 << 10, "{header}");
    }
}
