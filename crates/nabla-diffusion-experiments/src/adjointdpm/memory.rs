//! The peak memory of a gradient through all steps, as the operating system counts it: the pages of this process. Only
//! Linux tells it here.

use std::fs;

use burn::tensor::{Device, Tensor};
use nabla_claims::ClaimError;
use nabla_diffusion::adjoint_dpm::ModuleGradients;
use nabla_diffusion::denoiser::{Prediction, denoiser};
use nabla_diffusion::level::Level;
use nabla_diffusion::vp_path::VpPath;
use nabla_grad::seeded_noise::SeededNoise;

use super::digit_network::DigitNetwork;
use super::gradient::{Source, gradient};
use crate::digits::{CLASSES, PIXELS};

/// The peaks in MiB above what was there before the first, for each number of steps; `None` where nobody tells.
///
/// - `steps`: rising, because what was freed may stay with the process
/// - `rows`: digits that are sampled at once
pub(super) fn peaks(
    source: Source,
    steps: &[usize],
    rows: usize,
    device: &Device,
) -> Result<Option<Vec<f64>>, ClaimError> {
    let network = DigitNetwork::new(0, &device.clone().autodiff())?;
    let classes: Vec<usize> = (0..rows).map(|row| row % CLASSES).collect();
    let run = |steps: usize| -> Result<(), ClaimError> {
        let levels = VpPath::new()
            .even_in_log_snr(steps)
            .map_err(ClaimError::experiment)?;
        let model = denoiser(Prediction::Velocity, |x: Tensor<2>, level: Level| {
            let times = level.times(rows, &x.device());
            network.forward(x, times, network.conditions(&classes))
        });
        let noise = SeededNoise::new(1, 0).normal([rows, PIXELS], device);
        let mut wanted = ModuleGradients::new(&network);
        let mut loss = |x: Tensor<2>| Ok(x.square().sum());
        gradient(source, &levels, &model, noise, &mut loss, &mut wanted)?;
        Ok(())
    };
    // What is made once: threads, packed weights.
    run(2)?;
    let Some(before) = status("VmRSS:") else {
        return Ok(None);
    };
    let mut peaks = Vec::new();
    for &steps in steps {
        if fs::write("/proc/self/clear_refs", "5").is_err() {
            return Ok(None);
        }
        run(steps)?;
        match status("VmHWM:") {
            Some(peak) => peaks.push((peak - before).max(0.0)),
            None => return Ok(None),
        }
    }
    Ok(Some(peaks))
}

/// A number of the process, in MiB.
fn status(name: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}
