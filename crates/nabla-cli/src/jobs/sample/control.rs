//! ControlNets and IP-Adapters: pictures that say where what goes, or what it looks like.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use clap::Args;
use nabla::data::{Picture, Raster};
use nabla::diffusion::filter_prompt::{FilterChain, FilterPrompt, pixel_filters};
use nabla::diffusion::stable_diffusion::control_net::{Control, ControlNet, ControlOptions};
use nabla::diffusion::stable_diffusion::ip_adapter::{ImagePrompt, IpAdapter};
use nabla::diffusion::stable_diffusion::pipeline::{StableDiffusion, StableDiffusionError};
use nabla::panorama::pixels::to_tensor;
use nabla::panorama::{Interpolation, resize_planar};
use serde::Serialize;

use crate::errors::Failure;

/// The flags.
#[derive(Args)]
pub struct ControlFlags {
    /// A ControlNet: a folder in the diffusers layout (config.json, diffusion_pytorch_model.safetensors), or
    /// a single .safetensors or .pth file; may be given several times
    #[arg(long, value_name = "DIR|FILE")]
    controlnet: Vec<PathBuf>,
    /// The picture for a ControlNet (edges, depth, a pose …), which is resized to the size of the result; one
    /// for each --controlnet, in the same order
    #[arg(long, value_name = "IN", requires = "controlnet")]
    control_image: Vec<PathBuf>,
    /// How strongly a ControlNet acts; one number for all, or one for each [default: 1]
    #[arg(
        long,
        value_name = "SCALE",
        requires = "controlnet",
        allow_negative_numbers = true
    )]
    control_scale: Vec<f64>,
    /// The share of the steps at which a ControlNet begins to act, 0 to 1; one for all, or one for each
    /// [default: 0]
    #[arg(long, value_name = "SHARE", requires = "controlnet")]
    control_start: Vec<f64>,
    /// The share of the steps at which it ends [default: 1]
    #[arg(long, value_name = "SHARE", requires = "controlnet")]
    control_end: Vec<f64>,
    /// Let the ControlNets act only on the prediction with the text, and weaker on details: for pictures
    /// without a prompt
    #[arg(long, requires = "controlnet")]
    control_guess: bool,
    /// An IP-Adapter, such as ip-adapter_sd15.safetensors; may be given several times
    #[arg(long, value_name = "FILE")]
    ip_adapter: Vec<PathBuf>,
    /// The picture that is its prompt; one for each --ip-adapter, in the same order
    #[arg(long, value_name = "IN", requires = "ip_adapter")]
    ip_image: Vec<PathBuf>,
    /// How strongly an IP-Adapter acts; one number for all, or one for each [default: 1]
    #[arg(
        long,
        value_name = "SCALE",
        requires = "ip_adapter",
        allow_negative_numbers = true
    )]
    ip_scale: Vec<f64>,
    /// CLIP's encoder of pictures for the IP-Adapters, a folder with config.json and model.safetensors
    /// [default: the folder image_encoder beside the IP-Adapter]
    #[arg(long, value_name = "DIR", requires = "ip_adapter")]
    ip_encoder: Option<PathBuf>,
    /// Filters of the guiding pictures (FilterPrompt): `structure=` for those of the ControlNets, `appearance=` for
    /// those of the IP-Adapters, and a chain such as `gray|match-polarity|match-range` or `blur:3`. An unknown filter
    /// is refused with a list of the known ones
    #[arg(long, value_name = "BRANCH=CHAIN")]
    image_filter: Vec<String>,
}

/// What the flags name, with the pictures read.
pub struct Controls<'a> {
    nets: Vec<Net<'a>>,
    adapters: Vec<Adapter<'a>>,
    filters: FilterPrompt,
}

struct Net<'a> {
    path: &'a Path,
    image: &'a Path,
    picture: Raster,
    options: ControlOptions,
}

struct Adapter<'a> {
    file: &'a Path,
    image: &'a Path,
    picture: Raster,
    scale: f64,
    encoder: PathBuf,
}

/// The networks.
#[derive(Default)]
pub struct Loaded {
    nets: Vec<ControlNet>,
    adapters: Vec<IpAdapter>,
}

/// What is told about them.
#[derive(Serialize)]
pub struct Told {
    controlnets: Vec<ToldNet>,
    ip_adapters: Vec<ToldAdapter>,
    /// `null` without filters.
    structure_filter: Option<String>,
    appearance_filter: Option<String>,
}

#[derive(Serialize)]
struct ToldNet {
    model: PathBuf,
    image: PathBuf,
    scale: f64,
    start: f64,
    end: f64,
    guess: bool,
}

#[derive(Serialize)]
struct ToldAdapter {
    file: PathBuf,
    image: PathBuf,
    scale: f64,
}

impl ControlFlags {
    pub fn read(&self) -> Result<Controls<'_>, Failure> {
        let nets = pairs(
            ["--controlnet", "--control-image"],
            &self.controlnet,
            &self.control_image,
        )?;
        let count = nets.len();
        let usual = ControlOptions::default();
        let scales = each("--control-scale", &self.control_scale, count, usual.scale)?;
        let starts = each("--control-start", &self.control_start, count, usual.start)?;
        let ends = each("--control-end", &self.control_end, count, usual.end)?;
        let nets = nets.into_iter().enumerate().map(|(i, (path, image))| {
            Ok(Net {
                path,
                image,
                picture: picture(image)?,
                options: ControlOptions {
                    scale: scales[i],
                    start: starts[i],
                    end: ends[i],
                    guess: self.control_guess,
                },
            })
        });
        let nets = nets.collect::<Result<_, Failure>>()?;
        let adapters = pairs(
            ["--ip-adapter", "--ip-image"],
            &self.ip_adapter,
            &self.ip_image,
        )?;
        let scales = each("--ip-scale", &self.ip_scale, adapters.len(), 1.0)?;
        let adapters = adapters
            .into_iter()
            .zip(scales)
            .map(|((file, image), scale)| {
                let beside = || file.with_file_name("image_encoder");
                Ok(Adapter {
                    file,
                    image,
                    picture: picture(image)?,
                    scale,
                    encoder: self.ip_encoder.clone().unwrap_or_else(beside),
                })
            });
        Ok(Controls {
            nets,
            adapters: adapters.collect::<Result<_, Failure>>()?,
            filters: self.filters()?,
        })
    }

    /// The filters of both branches, which must have pictures.
    fn filters(&self) -> Result<FilterPrompt, Failure> {
        let family = pixel_filters();
        let mut filters = FilterPrompt::new();
        for given in &self.image_filter {
            let (branch, chain) = given.split_once('=').unwrap_or((given, ""));
            let (taken, pictures, flag) = match branch {
                STRUCTURE => (&filters.structure, &self.controlnet, "--controlnet"),
                APPEARANCE => (&filters.appearance, &self.ip_adapter, "--ip-adapter"),
                _ => {
                    return Err(Failure::input(format!(
                        "--image-filter {given}: it must be {STRUCTURE}=CHAIN or {APPEARANCE}=CHAIN"
                    )));
                }
            };
            if !taken.is_empty() {
                return Err(Failure::input(format!(
                    "--image-filter {branch} is given twice: join the filters, as {branch}=gray|invert"
                )));
            }
            if pictures.is_empty() {
                return Err(Failure::input(format!(
                    "--image-filter {branch} filters the pictures of {flag}, but there is none"
                )));
            }
            let made = match branch {
                STRUCTURE => filters.with_structure(chain, &family),
                _ => filters.with_appearance(chain, &family),
            };
            filters = made.map_err(Failure::input)?;
        }
        Ok(filters)
    }
}

/// The branches of FilterPrompt.
const STRUCTURE: &str = "structure";
const APPEARANCE: &str = "appearance";

fn picture(path: &Path) -> Result<Raster, Failure> {
    Ok(Picture::read(path)?.into_rgb().raster)
}

/// A network and its picture each.
fn pairs<'a>(
    [network, image]: [&str; 2],
    networks: &'a [PathBuf],
    images: &'a [PathBuf],
) -> Result<Vec<(&'a Path, &'a Path)>, Failure> {
    if networks.len() != images.len() {
        return Err(Failure::input(format!(
            "each {network} needs one {image}, but there are {} and {}",
            networks.len(),
            images.len()
        )));
    }
    let pairs = networks.iter().zip(images);
    Ok(pairs.map(|(n, i)| (n.as_path(), i.as_path())).collect())
}

/// A number for each of `count`.
fn each(flag: &str, given: &[f64], count: usize, usual: f64) -> Result<Vec<f64>, Failure> {
    match given {
        [] => Ok(vec![usual; count]),
        [one] => Ok(vec![*one; count]),
        all if all.len() == count => Ok(all.to_vec()),
        all => Err(Failure::input(format!(
            "{flag} is given {} times, but it must be given once or for each of {count}",
            all.len()
        ))),
    }
}

impl Controls<'_> {
    /// Loads the networks; the model gets the projections of the IP-Adapters.
    pub fn load(&self, mut model: StableDiffusion) -> Result<(StableDiffusion, Loaded), Failure> {
        let mut loaded = Loaded::default();
        for net in &self.nets {
            let net = ControlNet::load(net.path, &model).map_err(StableDiffusionError::from)?;
            loaded.nets.push(net);
        }
        for adapter in &self.adapters {
            let adapter = IpAdapter::load(adapter.file, &adapter.encoder, &model)
                .map_err(StableDiffusionError::from)?;
            model = model.with_ip_adapter(&adapter);
            loaded.adapters.push(adapter);
        }
        Ok((model, loaded))
    }

    /// The networks with their pictures, for results of this height and width.
    pub fn bind<'a>(
        &self,
        loaded: &'a Loaded,
        size: [usize; 2],
        device: &Device,
    ) -> Result<(Vec<Control<'a>>, Vec<ImagePrompt>), Failure> {
        let tensor = |raster: &Raster| -> Tensor<4> {
            let picture = to_tensor([raster], device) * 0.5 + 0.5;
            picture.clamp(0.0, 1.0)
        };
        let structures = self.nets.iter().map(|net| {
            let lanczos = Interpolation::Lanczos3;
            let picture = resize_planar(&net.picture, size[0], size[1], lanczos)?;
            Ok(tensor(&picture))
        });
        let structures = structures.collect::<Result<Vec<_>, Failure>>()?;
        let appearances = self.adapters.iter().zip(&loaded.adapters);
        let appearances = appearances.map(|(adapter, network)| {
            let picture = square(&adapter.picture, network.picture_size())?;
            Ok(tensor(&picture))
        });
        let appearances = appearances.collect::<Result<Vec<_>, Failure>>()?;
        let filtered = self.filters.filtered_all(structures, appearances);
        let [structures, appearances] = filtered.map_err(Failure::input)?;
        let mut controls = Vec::new();
        for ((net, network), picture) in self.nets.iter().zip(&loaded.nets).zip(structures) {
            let control = network.control(picture, net.options);
            controls.push(control.map_err(StableDiffusionError::from)?);
        }
        let mut prompts = Vec::new();
        let adapters = self.adapters.iter().zip(&loaded.adapters);
        for ((adapter, network), picture) in adapters.zip(appearances) {
            let prompt = network.prompt(picture, adapter.scale);
            prompts.push(prompt.map_err(StableDiffusionError::from)?);
        }
        Ok((controls, prompts))
    }

    pub fn told(&self) -> Told {
        let nets = self.nets.iter().map(|net| ToldNet {
            model: net.path.to_owned(),
            image: net.image.to_owned(),
            scale: net.options.scale,
            start: net.options.start,
            end: net.options.end,
            guess: net.options.guess,
        });
        let adapters = self.adapters.iter().map(|adapter| ToldAdapter {
            file: adapter.file.to_owned(),
            image: adapter.image.to_owned(),
            scale: adapter.scale,
        });
        Told {
            controlnets: nets.collect(),
            ip_adapters: adapters.collect(),
            structure_filter: told_chain(&self.filters.structure),
            appearance_filter: told_chain(&self.filters.appearance),
        }
    }

    /// What the picture's metadata say.
    pub fn parameters(&self) -> String {
        let name = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let mut text = String::new();
        for net in &self.nets {
            let ControlOptions {
                scale,
                start,
                end,
                guess,
            } = net.options;
            let _ = write!(
                text,
                ", ControlNet: \"Model: {}, Weight: {scale}, Guidance Start: {start}, Guidance End: {end}{}\"",
                name(net.path),
                if guess { ", Guess: true" } else { "" }
            );
        }
        for adapter in &self.adapters {
            let (file, scale) = (name(adapter.file), adapter.scale);
            let _ = write!(text, ", IP-Adapter: \"Model: {file}, Weight: {scale}\"");
        }
        for (branch, chain) in [
            ("Structure", &self.filters.structure),
            ("Appearance", &self.filters.appearance),
        ] {
            if !chain.is_empty() {
                let _ = write!(text, ", {branch} filter: \"{chain}\"");
            }
        }
        text
    }
}

/// `None` without filters.
fn told_chain(chain: &FilterChain) -> Option<String> {
    (!chain.is_empty()).then(|| chain.to_string())
}

/// The middle of a picture, whose shorter side becomes `side`, as CLIP's preparation of pictures takes it.
fn square(picture: &Raster, side: usize) -> Result<Raster, Failure> {
    let [channels, height, width] = picture.shape();
    let shorter = height.min(width).max(1);
    let [height, width] = [height, width].map(|length| (length * side / shorter).max(side));
    let resized = resize_planar(picture, height, width, Interpolation::BICUBIC)?;
    let (top, left) = ((height - side) / 2, (width - side) / 2);
    Ok(Raster::from_fn(channels, side, side, |c, y, x| {
        resized.get(c, top + y, left + x)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_square_is_taken() {
        let wide = Raster::from_fn(1, 8, 24, |_, _, x| if x < 8 { 0.0 } else { 1.0 });
        let square = square(&wide, 4).unwrap();
        assert_eq!(square.shape(), [1, 4, 4]);
        assert!(square.data().iter().all(|&v| v > 0.9), "{square:?}");
    }

    #[test]
    fn numbers_are_for_all_or_for_each() {
        assert_eq!(each("-s", &[], 2, 1.0).ok(), Some(vec![1.0, 1.0]));
        assert_eq!(each("-s", &[0.5], 2, 1.0).ok(), Some(vec![0.5, 0.5]));
        assert_eq!(each("-s", &[0.5, 2.0], 2, 1.0).ok(), Some(vec![0.5, 2.0]));
        assert!(each("-s", &[0.5, 2.0], 3, 1.0).is_err());
    }
}
