//! OmniSSR with a tiny StableSR of random weights, end to end.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use nabla_data::Raster;
use nabla_diffusion::stable_diffusion::stable_sr::StableSr;
use nabla_diffusion::stable_diffusion::weights::Precision;
use nabla_panorama::{Erp, OmniSsr, OmniSsrConfig, OmniSsrError, StableSrPrior, direction};

fn prior() -> StableSrPrior {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../nabla-diffusion/tests/reference/tiny/stable_sr");
    let model = StableSr::load(&folder, &Device::flex(), Precision::F32).unwrap();
    StableSrPrior::new(model)
}

/// A smooth panorama of 64 x 32 pixels.
fn low() -> Raster {
    let erp = Erp::new(32, 64).unwrap();
    Raster::from_fn(3, 32, 64, |c, y, x| {
        let d = direction(erp.longitude(x as f64), erp.latitude(y as f64));
        (0.5 + 0.3 * (5.0 * d[0] + c as f64).sin() * (4.0 * d[2]).cos()) as f32
    })
}

fn config() -> OmniSsrConfig {
    OmniSsrConfig {
        steps: Some(3),
        ..OmniSsrConfig::new(2)
    }
}

fn set_up(config: &OmniSsrConfig, wrapping: f64) -> OmniSsr<StableSrPrior> {
    let prior = prior().with_wrapping(wrapping);
    config.init(prior, Erp::of(&low()).unwrap()).unwrap()
}

#[test]
fn the_whole_path_gives_a_panorama_that_reduces_to_its_input() {
    let omnissr = set_up(&config(), 0.5);
    let (mut done, mut total) = (0, 0);
    let output = omnissr
        .run(&low(), &mut |step| {
            (done, total) = (step.done, step.total);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(output.panorama.shape(), [3, 64, 128]);
    assert!(output.panorama.data().iter().all(|v| v.is_finite()));
    assert!(output.inconsistency < 1e-4, "{}", output.inconsistency);
    assert_eq!([done, total], [54, 54]);
}

#[test]
fn seed_steps_wrapping_and_tiles_decide_the_result() {
    let run = |config: &OmniSsrConfig, wrapping| {
        let omnissr = set_up(config, wrapping);
        omnissr
            .upscale(&low(), &mut |_| ControlFlow::Continue(()))
            .unwrap()
    };
    let here = run(&config(), 0.5);
    assert_eq!(here, run(&config(), 0.5));
    let others = [
        OmniSsrConfig {
            seed: 1,
            ..config()
        },
        OmniSsrConfig {
            steps: Some(4),
            ..config()
        },
        // Planes of 32 pixels are 4 positions, and a tile then 2.
        OmniSsrConfig {
            tile: 16,
            ..config()
        },
    ];
    for other in others {
        assert_ne!(here, run(&other, 0.5), "{other:?}");
    }
    assert_ne!(here, run(&config(), 0.0));
}

#[test]
fn planes_fit_the_autoencoder() {
    let config = OmniSsrConfig {
        plane_size: Some(36),
        ..config()
    };
    let error = config.init(prior(), Erp::of(&low()).unwrap()).unwrap_err();
    assert!(matches!(
        error,
        OmniSsrError::PlaneSide {
            multiple: 8,
            side: 36
        }
    ));
}

#[test]
fn a_break_ends_the_run() {
    let mut calls = 0;
    let error = set_up(&config(), 0.5)
        .upscale(&low(), &mut |_| {
            calls += 1;
            ControlFlow::Break(())
        })
        .unwrap_err();
    assert!(matches!(error, OmniSsrError::Cancelled));
    assert_eq!(calls, 1);
}
