//! One call of a UNet of full size (Stable Diffusion 1.5, 2.1 or XL, random weights) against `diffusers` on
//! the same threads in the same run: the difference of the results, the ratio of the times, and the peak
//! memory of both.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-diffusion --bench full_unet -- sd15 [SIDE] [FOLDER]
//! ```
//!
//! `SIDE` is that of the latent (64 for 512 pixels). The weights (2 to 5 GB) are made in `FOLDER`, and
//! stay there. With `NABLA_PRECISION=f16` or `bf16` ours computes in half precision.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use burn::tensor::{DType, Device, Tensor};
use nabla_diffusion::stable_diffusion::model_folder::Part;
use nabla_diffusion::stable_diffusion::unet2d_condition::{AddedCondition, UNet2DCondition};
use nabla_diffusion::stable_diffusion::weights::{Precision, Weights};

/// The most memory that this process has had, in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    words
        .and_then(|w| w.parse::<f64>().ok())
        .unwrap_or(f64::NAN)
        / 1024.0
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
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/full_unet_peer.py");
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
    let &[theirs, their_peak] = numbers.as_slice() else {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned().into());
    };

    let precision = match std::env::var("NABLA_PRECISION").as_deref() {
        Ok("f16") => Precision::F16,
        Ok("bf16") => Precision::Bf16,
        _ => Precision::F32,
    };
    let device = Device::flex();
    let begun = Instant::now();
    let part = Part::open(&folder.join("unet"), "UNet2DConditionModel")?;
    let (unet, config) = UNet2DCondition::load(&part, &device, precision)?;
    let loaded = begun.elapsed().as_secs_f64();
    let call = Weights::open(&[folder.join("call.safetensors")], &device, precision)?;
    let call = call.root();
    let shape = |name: &str| call.shape(name).unwrap_or_default();
    let s = shape("sample");
    let latent = [s[0], s[1], s[2], s[3]];
    let x: Tensor<4> = call.tensor("sample", latent)?;
    let text = call.tensor("text", [1, 77, config.cross_attention_dim])?;
    let added = match config.pooled_text_channels() {
        Some(channels) => Some(AddedCondition {
            text: call.tensor("pooled", [1, channels])?,
            size: call.tensor("size", [1, 6])?,
        }),
        None => None,
    };
    let mut times = Vec::new();
    let mut output = None;
    for _ in 0..4 {
        let begun = Instant::now();
        let t = Tensor::<1>::from_floats([500.0], &device);
        let y = unet.forward(x.clone(), t, &text, added.as_ref());
        let _ = y.clone().sum().into_scalar::<f32>();
        times.push(begun.elapsed().as_secs_f64());
        output = Some(y);
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    let ours = times[1];
    let expected: Tensor<4> = call.tensor("output", latent)?;
    if let Some(output) = output {
        let expected = expected.cast(DType::F32);
        let difference = (output.cast(DType::F32) - expected.clone()).abs().max();
        println!(
            "largest difference {:.2e}, largest output {:.3}",
            difference.into_scalar::<f32>(),
            expected.abs().max().into_scalar::<f32>()
        );
    }
    println!(
        "{kind} at {side}, {precision:?}, {} threads: ours {ours:.2} s, diffusers {theirs:.2} s, ratio {:.2}; \
         peak ours {:.0} MiB, diffusers {their_peak:.0} MiB; loaded in {loaded:.1} s",
        rayon::current_num_threads(),
        ours / theirs,
        peak()
    );
    Ok(())
}
