//! The peak memory of a gradient through all steps of a sampler, by the number of steps: back-propagation through the
//! whole sampler, and the modes of AdjointDPM. Prints a table.
//!
//! `cargo bench --bench adjoint_memory`

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor};
use nabla_diffusion::adjoint_dpm::{AdjointDpm, GradientMode, ModuleGradients};
use nabla_diffusion::class_denoiser::{ClassDenoiser, ClassDenoiserConfig};
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::denoiser::{Condition, RowConditions};
use nabla_diffusion::sampler::Sampler;
use nabla_diffusion::seeded_noise::SeededNoise;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The peak above what was live before, in MiB.
fn peak(run: impl FnOnce()) -> f64 {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    run();
    (PEAK.load(Ordering::Relaxed) - before) as f64 / f64::from(1 << 20)
}

fn main() {
    let device = Device::flex().autodiff();
    let config = ClassDenoiserConfig::for_pictures(vec!["all".to_owned()], [1, 28, 28]);
    let network = config.init_network(&device).unwrap();
    let model = ClassDenoiser::new(config, network.clone(), &device).unwrap();
    let rows = RowConditions::new(&model, vec![Condition::Given(0)]);
    let start = || SeededNoise::new(1, 0).normal([1, 1, 28, 28], &Device::flex());
    println!(
        "peak memory in MiB of the gradient of noise and weights, one picture of 28 x 28 pixels"
    );
    println!("| steps | whole sampler | exact | reintegrated |\n|---|---|---|---|");
    for steps in [10, 20, 50, 100] {
        let levels = model.levels(steps).unwrap();
        let whole = peak(|| {
            let leaf = start().autodiff().require_grad();
            let sampler = Sampler::new(Ddim::new(), levels.clone()).unwrap();
            let mut none = SeededNoise::new(0, 0);
            let sample: Tensor<4> = sampler.sample(&rows, leaf.clone(), &mut none).unwrap();
            assert!(leaf.grad(&sample.square().sum().backward()).is_some());
        });
        let [exact, reintegrated] = [GradientMode::Exact, GradientMode::Reintegrated].map(|mode| {
            peak(|| {
                let mut run = AdjointDpm::new()
                    .with_mode(mode)
                    .of(&rows, &levels)
                    .unwrap();
                let mut wanted = ModuleGradients::new(&network);
                let mut loss = |x: Tensor<4>| Ok(x.square().sum());
                run.gradient(start(), &mut loss, &mut wanted).unwrap();
                assert!(!wanted.gradients().is_empty());
            })
        });
        println!("| {steps} | {whole:.1} | {exact:.1} | {reintegrated:.1} |");
    }
}
