//! One call of a network of full size and random weights (the UNet of Stable Diffusion 1.5, 2.1 or XL, or
//! the autoencoder) against `diffusers` on the same threads in the same run: the difference of the results,
//! the ratio of the times, and the peak memory of both.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-diffusion --bench full_size -- sd15 [SIDE] [FOLDER]
//! ```
//!
//! Networks are `sd15`, `sd21`, `sdxl` and `vae`. `SIDE` is that of the latent (64 for 512 pixels). The
//! weights (up to 5 GB) are made in `FOLDER`, and stay there. With `NABLA_PRECISION=f16` or `bf16` ours
//! computes in half precision.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use burn::tensor::{DType, Device, Tensor};
use nabla_diffusion::stable_diffusion::autoencoder_kl::{AutoencoderKl, TileOptions, Tiling};
use nabla_diffusion::stable_diffusion::model_folder::Part;
use nabla_diffusion::stable_diffusion::unet2d_condition::{AddedCondition, UNet2DCondition};
use nabla_diffusion::stable_diffusion::weights::{Precision, Scope, Weights, WeightsError};

/// The most memory that this process has had, in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    let kib = words.and_then(|w| w.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// The median seconds of three calls after one, and what came out.
fn seconds(compute: impl Fn() -> Tensor<4>) -> (f64, Tensor<4>) {
    let timed = || {
        let begun = Instant::now();
        let y = compute();
        let _ = y.clone().sum().into_scalar::<f32>();
        (begun.elapsed().as_secs_f64(), y)
    };
    let (_, output) = timed();
    let mut times = [(); 3].map(|()| timed().0);
    times.sort_by(f64::total_cmp);
    (times[1], output)
}

/// A recorded tensor of whatever shape.
fn recorded(call: &Scope<'_>, name: &str) -> Result<Tensor<4>, WeightsError> {
    let shape = call.shape(name).unwrap_or_default();
    let mut four = [1; 4];
    for (to, from) in four.iter_mut().zip(shape) {
        *to = from;
    }
    call.tensor(name, four)
}

/// How the difference that tiles make changes from column to column: a seam would be a column where it
/// changes more than elsewhere.
fn seam(joined: Tensor<4>, whole: Tensor<4>) -> String {
    let difference = joined - whole.clone();
    let most = difference.clone().abs().max().into_scalar::<f32>();
    let mean = difference.clone().abs().mean().into_scalar::<f32>();
    let range = whole.abs().max().into_scalar::<f32>();
    let width = difference.dims()[3];
    let step = difference.clone().slice_dim(3, 1..width) - difference.slice_dim(3, 0..width - 1);
    let steps: Tensor<1> = step
        .abs()
        .mean_dim(2)
        .mean_dim(1)
        .mean_dim(0)
        .reshape([width - 1]);
    let mut steps: Vec<f32> = steps.into_data().iter().collect();
    let at = steps
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .map_or(0, |(at, _)| at + 1);
    steps.sort_by(f32::total_cmp);
    let (median, step) = (steps[steps.len() / 2], steps[steps.len() - 1]);
    format!(
        "tiles change {mean:.4} in the mean and {most:.4} at most, of {range:.2}; from column to column this \
         differs by {median:.4} (median), at most {step:.4} (column {at} of {width})"
    )
}

fn tell(name: &str, ours: (f64, Tensor<4>), theirs: f64, expected: Tensor<4>) {
    let (seconds, output) = ours;
    let expected = expected.cast(DType::F32);
    let difference = (output.cast(DType::F32) - expected.clone()).abs().max();
    println!(
        "{name}: ours {seconds:.2} s, diffusers {theirs:.2} s, ratio {:.2}; largest difference {:.1e} of {:.2}",
        seconds / theirs,
        difference.into_scalar::<f32>(),
        expected.abs().max().into_scalar::<f32>()
    );
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let kind = arguments.first().map_or("sd15", String::as_str);
    let side = arguments.get(1).map_or("64", String::as_str);
    let folder = match arguments.get(2) {
        Some(folder) => PathBuf::from(folder),
        None => std::env::temp_dir().join(format!("nabla_full_{kind}")),
    };
    std::fs::create_dir_all(&folder)?;
    let python = std::env::var("NABLA_PYTHON").map_err(
        |_| "NABLA_PYTHON must name a Python with torch and diffusers, which makes the weights",
    )?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/full_size_peer.py");
    let out = Command::new(python)
        .arg(script)
        .arg(&folder)
        .args([kind, side])
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let numbers: Vec<f64> = text
        .split_whitespace()
        .filter_map(|w| w.parse().ok())
        .collect();
    let [their_peak, theirs @ ..] = numbers.as_slice() else {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned().into());
    };

    let precision = match std::env::var("NABLA_PRECISION").as_deref() {
        Ok("f16") => Precision::F16,
        Ok("bf16") => Precision::Bf16,
        _ => Precision::F32,
    };
    println!(
        "{kind} at {side}, {precision:?}, {} threads",
        rayon::current_num_threads()
    );
    let device = Device::flex();
    let call = Weights::open(&[folder.join("call.safetensors")], &device, precision)?;
    let call = call.root();
    let begun = Instant::now();
    if kind == "vae" {
        let part = Part::open(&folder.join("vae"), "AutoencoderKL")?;
        let (vae, _) = AutoencoderKl::load(&part, &device, precision)?;
        println!("loaded in {:.1} s", begun.elapsed().as_secs_f64());
        let (latent, image) = (recorded(&call, "latent")?, recorded(&call, "image")?);
        let decode = |vae: &AutoencoderKl| match vae.decode(latent.clone()) {
            Ok(picture) => picture,
            Err(error) => panic!("{error}"),
        };
        let half = latent.dims()[2] / 2;
        let (size, overlap) = (half, half / 4);
        let mut joined = Vec::new();
        for (name, tiling) in [
            ("seamless", Tiling::Seamless { size }),
            ("faded", Tiling::Faded(TileOptions { size, overlap })),
        ] {
            let tiling = vae.clone().with_tiling(tiling)?;
            let (tiled, picture) = seconds(|| decode(&tiling));
            println!(
                "decode in {name} tiles of a half: ours {tiled:.2} s, peak {:.0} MiB",
                peak()
            );
            joined.push((name, picture));
        }
        let expected = recorded(&call, "decoded")?;
        let (time, whole) = seconds(|| decode(&vae));
        for (name, picture) in joined {
            println!("{name} {}", seam(picture, whole.clone()));
        }
        tell("decode", (time, whole), theirs[0], expected);
        println!("peak {:.0} MiB", peak());
        let encode = || match vae.encode(image.clone()) {
            Ok(posterior) => posterior.mode(),
            Err(error) => panic!("{error}"),
        };
        tell(
            "encode",
            seconds(encode),
            theirs[1],
            recorded(&call, "encoded")?,
        );
    } else {
        let part = Part::open(&folder.join("unet"), "UNet2DConditionModel")?;
        let (unet, config) = UNet2DCondition::load(&part, &device, precision)?;
        println!("loaded in {:.1} s", begun.elapsed().as_secs_f64());
        let x = recorded(&call, "sample")?;
        let text = call.tensor("text", [1, 77, config.cross_attention_dim])?;
        let added = match config.pooled_text_channels() {
            Some(channels) => Some(AddedCondition {
                text: call.tensor("pooled", [1, channels])?,
                size: call.tensor("size", [1, 6])?,
            }),
            None => None,
        };
        let predict = || {
            let t = Tensor::<1>::from_floats([500.0], &device);
            unet.forward(x.clone(), t, &text, added.as_ref())
        };
        tell(
            "one call",
            seconds(predict),
            theirs[0],
            recorded(&call, "output")?,
        );
    }
    println!("peak ours {:.0} MiB, diffusers {their_peak:.0} MiB", peak());
    Ok(())
}
