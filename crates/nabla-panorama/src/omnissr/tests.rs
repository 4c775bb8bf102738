use super::*;
use crate::{LinearOperator, ws_psnr};
use burn::tensor::Device;
use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction, denoiser};
use nabla_diffusion::schedule::NoiseScheduleConfig;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A smooth picture of the sphere.
fn scene(height: usize) -> Raster {
    let erp = Erp::new(height, 2 * height).unwrap();
    Raster::from_fn(3, height, 2 * height, |c, y, x| {
        let d = crate::direction(erp.longitude(x as f64), erp.latitude(y as f64));
        let wave = (7.0 * d[0] + c as f64).sin() * (9.0 * d[1]).cos() + (8.0 * d[2]).sin();
        (0.5 + 0.2 * wave) as f32
    })
}

fn go(_: OmniSsrStep) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A prior that knows the planes up to a standard deviation and draws the rest.
fn gaussian(deviation: f64) -> impl TangentPrior {
    AncestralPrior::new(
        NoiseScheduleConfig::new().init().unwrap(),
        Device::flex(),
        move |init: &Tensor<4>| {
            let variance = init.ones_like() * deviation * deviation;
            Box::new(GaussianDenoiser::new(
                init.clone(),
                variance,
                Prediction::Epsilon,
            )) as _
        },
    )
}

#[test]
fn the_result_reduces_to_the_input() {
    let high = scene(64);
    for scale in [2, 4] {
        let low = BicubicDown::new(scale, Erp::of(&high).unwrap())
            .unwrap()
            .apply(&high)
            .unwrap();
        let config = OmniSsrConfig {
            steps: Some(10),
            ..OmniSsrConfig::new(scale)
        };
        let omnissr = config.init(gaussian(0.1), Erp::of(&low).unwrap()).unwrap();
        let out = omnissr.run(&low, &mut go).unwrap();
        assert_eq!(out.panorama.shape(), high.shape());
        assert!(out.inconsistency < 1e-4, "{}", out.inconsistency);
    }
}

/// A part of the sphere is enlarged as the whole is: the same far from its borders, and close to
/// them still what the input was reduced from.
#[test]
fn a_part_of_the_sphere_is_enlarged_in_its_place() {
    let high = scene(64);
    let erp = Erp::of(&high).unwrap();
    let low = BicubicDown::new(2, erp).unwrap().apply(&high).unwrap();
    let whole = Erp::of(&low).unwrap();
    let parts = [([0, 8], [64, 16]), ([10, 6], [30, 20]), ([50, 0], [30, 14])];
    for (offset, size) in parts {
        let area = ErpArea::new(whole, offset, size).unwrap();
        for merge in [Merge::Changes, Merge::Pictures] {
            let config = OmniSsrConfig {
                steps: Some(5),
                merge,
                colour_fix: Some(ColourFix::None),
                ..OmniSsrConfig::new(2)
            };
            let omnissr = config.init_area(gaussian(0.02), area).unwrap();
            // A band around the full circle is seen from everywhere.
            let fewer = omnissr.projection().planes().len() < 18;
            assert_eq!(fewer, size[0] < 64, "{offset:?}");
            let part = area.cut(&low);
            let out = omnissr.run(&part, &mut go).unwrap();
            assert_eq!(out.panorama.shape(), [3, 2 * size[1], 2 * size[0]]);
            assert!(out.inconsistency < 1e-4, "{}", out.inconsistency);
            let truth = omnissr.area().cut(&high);
            let quality = crate::psnr(&out.panorama, &truth).unwrap();
            let enlarged = resize_erp(&area.extended(&part), 64, Interpolation::BICUBIC).unwrap();
            let enlarged = crate::psnr(&omnissr.area().cut(&enlarged), &truth).unwrap();
            // The prior is the enlarged panorama with a little noise, so only the noise makes it worse.
            assert!(quality > enlarged.min(34.0) - 1.0, "{quality} {enlarged}");
        }
    }
}

/// A band around the full circle goes around the meridian, another part does not.
#[test]
fn only_a_full_circle_wraps() {
    let whole = Erp::new(16, 32).unwrap();
    let operator = |size: [usize; 2]| {
        let area = ErpArea::new(whole, [0, 4], size).unwrap();
        let omnissr = OmniSsrConfig::new(2)
            .init_area(gaussian(0.1), area)
            .unwrap();
        let large = omnissr.area();
        // A bright first column: does it reach the last one?
        let bright = Raster::from_fn(1, large.height(), large.width(), |_, _, x| {
            f32::from(u8::from(x < 2))
        });
        omnissr.operator().apply(&bright).unwrap()
    };
    let (band, part) = (operator([32, 8]), operator([20, 8]));
    assert!(band.get(0, 3, 31).abs() > 1e-3);
    assert_eq!(part.get(0, 3, 19), 0.0);
}

/// With planes that agree and an exact input nothing is left to correct.
#[test]
fn a_prior_that_draws_nothing_gives_the_enlarged_panorama() {
    let low = scene(32);
    let config = OmniSsrConfig {
        steps: Some(5),
        gamma_post: 0.0,
        gamma_erp: 0.0,
        colour_fix: Some(ColourFix::None),
        ..OmniSsrConfig::new(2)
    };
    let enlarged = resize_erp(&low, 64, Interpolation::BICUBIC).unwrap();
    let psnr = |merge| {
        let config = OmniSsrConfig {
            merge,
            ..config.clone()
        };
        let omnissr = config.init(gaussian(1e-4), Erp::of(&low).unwrap()).unwrap();
        let out = omnissr.upscale(&low, &mut go).unwrap();
        ws_psnr(&out, &enlarged).unwrap()
    };
    let (pictures, changes) = (psnr(Merge::Pictures), psnr(Merge::Changes));
    assert!(pictures > 40.0, "{pictures}");
    // The noise of the prior is all that is left.
    assert!(changes > 75.0, "{changes}");
}

/// The paper's reason for OTII: what the planes draw independently is made to agree.
#[test]
fn interaction_makes_overlapping_planes_agree() {
    let low = scene(32);
    let spread = |gamma_latent| {
        let config = OmniSsrConfig {
            steps: Some(20),
            gamma_latent,
            colour_fix: Some(ColourFix::None),
            ..OmniSsrConfig::new(2)
        };
        let omnissr = config.init(gaussian(0.2), Erp::of(&low).unwrap()).unwrap();
        omnissr.run(&low, &mut go).unwrap().spread
    };
    let (alone, together) = (spread(0.0), spread(0.5));
    assert!(together < 0.5 * alone, "{together} against {alone}");
}

#[test]
fn the_seed_decides_every_bit() {
    let low = scene(16);
    let run = |seed| {
        let config = OmniSsrConfig {
            steps: Some(3),
            seed,
            ..OmniSsrConfig::new(2)
        };
        let omnissr = config.init(gaussian(0.1), Erp::of(&low).unwrap()).unwrap();
        omnissr.upscale(&low, &mut go).unwrap()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn progress_reaches_its_end_and_a_break_ends_the_run() {
    let low = scene(16);
    let config = OmniSsrConfig {
        steps: Some(3),
        ..OmniSsrConfig::new(2)
    };
    let omnissr = config.init(gaussian(0.1), Erp::of(&low).unwrap()).unwrap();
    let mut steps = Vec::new();
    omnissr
        .upscale(&low, &mut |step| {
            steps.push(step.done);
            assert_eq!(step.total, 54);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(steps, (1..=54).collect::<Vec<_>>());
    let error = omnissr
        .upscale(&low, &mut |_| ControlFlow::Break(()))
        .unwrap_err();
    assert!(matches!(error, OmniSsrError::Cancelled));
}

/// A prior that cannot encode what it is given back: its error, and no other, ends the run.
struct Mute(AtomicUsize);

impl TangentPrior for Mute {
    fn device(&self) -> Device {
        Device::flex()
    }
    fn default_steps(&self) -> usize {
        5
    }
    fn encode(
        &self,
        _pixels: Tensor<4>,
        _noise: &mut SeededNoise,
    ) -> Result<Tensor<4>, OmniSsrError> {
        Err(OmniSsrError::Channels(7))
    }
    fn sample(
        &self,
        init: &Tensor<4>,
        run: PriorRun<'_>,
        noise: &mut SeededNoise,
        correct: &mut CleanCorrection<'_>,
    ) -> Result<Tensor<4>, OmniSsrError> {
        let schedule = NoiseScheduleConfig::new().init().unwrap();
        let network = denoiser(Prediction::Sample, |z: Tensor<4>, _| {
            self.0.fetch_add(1, Ordering::Relaxed);
            z
        });
        ancestral(&schedule, run.steps, &network, init, noise, correct)
    }
}

#[test]
fn an_error_of_a_correction_comes_out_as_itself_and_at_once() {
    let low = scene(16);
    let config = OmniSsrConfig::new(2);
    let omnissr = config
        .init(Mute(AtomicUsize::new(0)), Erp::of(&low).unwrap())
        .unwrap();
    let error = omnissr.upscale(&low, &mut go).unwrap_err();
    assert!(matches!(error, OmniSsrError::Channels(7)), "{error}");
    assert_eq!(omnissr.prior().0.load(Ordering::Relaxed), 1);
}

#[test]
fn wrong_panoramas_and_strengths_are_refused() {
    let low = scene(16);
    let erp = Erp::of(&low).unwrap();
    let error = |config: OmniSsrConfig, picture: &Raster| match config.init(gaussian(0.1), erp) {
        Ok(omnissr) => omnissr.upscale(picture, &mut go).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    let config = OmniSsrConfig {
        steps: Some(1),
        ..OmniSsrConfig::new(2)
    };
    let wrong = OmniSsrConfig {
        gamma_latent: 1.5,
        ..config.clone()
    };
    assert_eq!(
        error(wrong, &low),
        "the gamma_latent of OmniSSR is 1.5, but it must be from 0 to 1"
    );
    for scale in [0, 1] {
        let wrong = OmniSsrConfig {
            scale,
            ..config.clone()
        };
        let expected = format!("the scale of a reduction is {scale}, but it must be from 2 to 16");
        assert_eq!(error(wrong, &low), expected);
    }
    assert!(
        error(
            OmniSsrConfig {
                scale: 5000,
                ..config.clone()
            },
            &low
        )
        .contains("at most")
    );
    let wrong = OmniSsrConfig {
        steps: Some(0),
        ..config.clone()
    };
    assert!(error(wrong, &low).contains("0 steps"));
    assert!(error(config.clone(), &scene(32)).contains("set up for panoramas of 32 x 16"));
    assert!(error(config.clone(), &Raster::zeros(1, 16, 32)).contains("has 1"));
    let mut broken = low.clone();
    broken.data_mut()[16 * 32 + 33] = f32::NAN;
    assert!(error(config, &broken).contains("channel 1, row 1, column 1"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    /// Turning the camera by whole longitudes of the grid's symmetry turns the result.
    #[test]
    fn no_longitude_is_special(turn in 1usize..3) {
        let low = scene(12);
        // The octadecaplex has a threefold symmetry about the poles.
        let shift = turn * 24 / 3;
        let turned = Raster::from_fn(3, 12, 24, |c, y, x| low.get(c, y, (x + shift) % 24));
        let config = OmniSsrConfig { steps: Some(1), ..OmniSsrConfig::new(2) };
        let omnissr = config.init(gaussian(1e-3), Erp::of(&low).unwrap()).unwrap();
        let a = omnissr.upscale(&low, &mut go).unwrap();
        let b = omnissr.upscale(&turned, &mut go).unwrap();
        for c in 0..3 {
            for y in 0..24 {
                for x in 0..48 {
                    let d = a.get(c, y, (x + 2 * shift) % 48) - b.get(c, y, x);
                    prop_assert!(d.abs() < 0.02, "{d}");
                }
            }
        }
    }
}
