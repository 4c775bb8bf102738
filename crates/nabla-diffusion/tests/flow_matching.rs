//! Flows that are trained, followed, measured and stored, on every path.

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use nabla_diffusion::adjoint_dpm::OdeMethod;
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::denoiser::Denoised;
use nabla_diffusion::flow_matching::{
    Flow, FlowConfig, FlowPath, FlowTask, FlowTrainingConfig, PathChoice,
};
use nabla_diffusion::kinetic_optimal::normalized;
use nabla_diffusion::level::Level;
use nabla_diffusion::likelihood::Divergence;
use nabla_diffusion::sampler::Sampler;
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_train::{Task, Trainer};

/// The four paths, for two points at ±1.
fn paths() -> Vec<FlowPath> {
    [
        PathChoice::CondOt,
        PathChoice::Vp,
        PathChoice::Ve,
        PathChoice::KineticOptimal,
    ]
    .map(|choice| choice.path(&[-1.0, 1.0], 1, 0).unwrap())
    .into()
}

fn config(points: &[f64], path: FlowPath) -> (FlowConfig, Vec<f64>) {
    let data = normalized(points, 1).unwrap();
    let config = FlowConfig::of(vec!["x".to_owned()], &data).with_path(path);
    (config.with_hidden(vec![32, 32]), data.points)
}

fn trained(config: &FlowConfig, points: &[f64], steps: usize) -> Flow {
    let device = Device::flex();
    let training = FlowTrainingConfig::new(steps)
        .with_batch(128)
        .with_learning_rate(5e-3);
    let autodiff = device.clone().autodiff();
    let mut trainer = training.trainer(config, points, &autodiff).unwrap();
    trainer
        .run(None, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    Flow::new(config.clone(), trainer.model().valid(), &device).unwrap()
}

/// On its own path the flow's velocity is `a' x̂_0 + m' ε̂` of what it says as a denoiser, and on another path the
/// estimates of the same point at another scale are the same.
#[test]
fn as_a_denoiser_a_flow_says_what_its_velocity_says() {
    let device = Device::flex();
    for path in paths() {
        let (config, _) = config(&[-1.0, 1.0], path);
        let network = config.init_network(&device).unwrap();
        let flow = Flow::new(config, network, &device).unwrap();
        for time in [0.1, 0.5, 0.9] {
            let level = flow.path().level_at(time);
            let x = SeededNoise::new(3, 0).normal([6, 1], &device) * level.scale();
            let found = Denoised::predict(&flow, &x, level).unwrap();
            let [signal, noise] = flow.path().rates_at(time);
            let velocity = found.sample.clone() * signal + found.epsilon * noise;
            let own = flow.velocity(x.clone(), time);
            let size = own.clone().abs().max().into_scalar::<f32>();
            let error = (velocity - own).abs().max().into_scalar::<f32>();
            assert!(error < 1e-3 * size, "{:?}, {time}: {error}", flow.path());
            let other = Level::variance_preserving(0.0, level.alpha_bar());
            let there = Denoised::predict(&flow, &(x / level.scale()), other).unwrap();
            let size = found.sample.clone().abs().max().into_scalar::<f32>();
            let error = (there.sample - found.sample)
                .abs()
                .max()
                .into_scalar::<f32>();
            assert!(
                error < 1e-3 * size.max(1.0),
                "{:?}, {time}: {error}",
                flow.path()
            );
        }
    }
}

/// Normal data around 3 with the standard deviation 2: the samples have both, by the velocity and by a sampler, on every
/// path.
#[test]
fn samples_have_the_moments_of_the_data() {
    let values = SeededNoise::new(5, 0).normal_values(1000);
    let points: Vec<f64> = values
        .into_iter()
        .map(|v| 3.0 + 2.0 * f64::from(v))
        .collect();
    for path in paths() {
        let (config, normal) = config(&points, path);
        let flow = trained(&config, &normal, 400);
        let noise = SeededNoise::new(7, 0).normal([500, 1], &Device::flex());
        let by_velocity = flow.sample(noise.clone(), 40, OdeMethod::Heun).unwrap();
        let levels = flow.levels(60).unwrap();
        let start = noise * levels.start().scale();
        let sampler = Sampler::new(Ddim::new(), levels).unwrap();
        let mut none = SeededNoise::new(0, 0);
        let by_sampler = sampler.sample(&flow, start, &mut none).unwrap();
        for x in [by_velocity.x, by_sampler] {
            let values = flow.restored(x).unwrap();
            let mean = values.iter().sum::<f64>() / 500.0;
            let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 500.0;
            assert!((mean - 3.0).abs() < 0.5, "{:?}: {mean}", config.path);
            let deviation = square.sqrt();
            assert!(
                (deviation - 2.0).abs() < 0.5,
                "{:?}: {deviation}",
                config.path
            );
        }
    }
}

#[test]
fn every_method_follows_the_flow() {
    let (config, points) = config(&[-1.0, 1.0], FlowPath::CondOt);
    let flow = trained(&config, &points, 100);
    let noise = SeededNoise::new(7, 0).normal([16, 1], &Device::flex());
    let fine = flow
        .sample(noise.clone(), 800, OdeMethod::RungeKutta4)
        .unwrap();
    for method in [
        OdeMethod::Euler,
        OdeMethod::Midpoint,
        OdeMethod::Heun,
        OdeMethod::RungeKutta4,
        OdeMethod::Adams2,
    ] {
        let error = |steps| {
            let found = flow.sample(noise.clone(), steps, method).unwrap();
            (found.x - fine.x.clone()).abs().max().into_scalar::<f32>()
        };
        // The network's time has high frequencies, which few steps do not see.
        let (coarse, finer) = (error(10), error(200));
        assert!(finer < 0.1 * coarse, "{method:?}: {coarse}, {finer}");
    }
    assert!(flow.sample(noise, 0, OdeMethod::Euler).is_err());
}

/// Normal data around 3 with the standard deviation 2: `ln p` is that of the normal distribution, in its unit.
#[test]
fn the_density_is_that_of_the_data() {
    let values = SeededNoise::new(5, 0).normal_values(2000);
    let points: Vec<f64> = values
        .into_iter()
        .map(|v| 3.0 + 2.0 * f64::from(v))
        .collect();
    let (config, normal) = config(&points, FlowPath::CondOt);
    let flow = trained(&config, &normal, 400);
    let places = [3.0, 5.0, 0.0];
    let found = flow.log_density(&places, 40, Divergence::Exact).unwrap();
    for (found, place) in found.iter().zip(places) {
        let expected = -0.5 * (8.0 * std::f64::consts::PI).ln() - (place - 3.0f64).powi(2) / 8.0;
        assert!((found - expected).abs() < 0.25, "{found} {expected}");
    }
}

fn trainer(config: &FlowConfig, points: &[f64], steps: usize) -> Trainer<FlowTask> {
    let training = FlowTrainingConfig::new(steps).with_batch(8);
    let device = Device::flex().autodiff();
    training.trainer(config, points, &device).unwrap()
}

#[test]
fn a_training_that_is_broken_off_continues_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint.safetensors");
    let (config, points) = config(&[-1.0, 1.0], FlowPath::Vp);
    let mut whole = trainer(&config, &points, 6);
    whole.run(None, &mut |_| ControlFlow::Continue(())).unwrap();
    let mut first = trainer(&config, &points, 6);
    first
        .run(Some(&checkpoint), &mut |step| match step.step {
            3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
        .unwrap();
    let mut second = trainer(&config, &points, 6).resume(&checkpoint).unwrap();
    second
        .run(None, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(second.history().losses(), whole.history().losses());
    assert!(second.task().settings().is_object());
    let other = config.with_path(FlowPath::CondOt);
    assert!(trainer(&other, &points, 6).resume(&checkpoint).is_err());
}

#[test]
fn a_folder_is_the_flow() {
    let folder = tempfile::tempdir().unwrap();
    for path in paths() {
        let (config, points) = config(&[0.5, 1.5], path);
        let flow = trained(&config, &points, 3);
        flow.save(folder.path()).unwrap();
        let back = Flow::load(folder.path(), &Device::flex()).unwrap();
        assert_eq!(back.config(), flow.config());
        let x = Tensor::<2>::ones([1, 1], &Device::flex());
        let [a, b] = [flow, back].map(|f| f.velocity(x.clone(), 0.5).into_scalar::<f32>());
        // The weights have 16 bits.
        assert!((a - b).abs() < 0.02 * a.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn wrong_points_and_configurations_are_refused() {
    let (config, points) = config(&[-1.0, 1.0], FlowPath::CondOt);
    let device = Device::flex().autodiff();
    let training = FlowTrainingConfig::new(1);
    let wrong = FlowConfig {
        mean: vec![0.0, 0.0],
        ..config.clone()
    };
    assert!(training.trainer(&wrong, &points, &device).is_err());
    assert!(training.trainer(&config, &[], &device).is_err());
    let layers = config.clone().with_hidden(Vec::new());
    assert!(layers.init_network(&device).is_err());
    let flat = config.clone().with_path(FlowPath::KineticOptimal {
        kappa: vec![0.0, 0.0],
    });
    assert!(training.trainer(&flat, &points, &device).is_err());
    let fast = training.with_learning_rate(-1.0);
    assert!(fast.trainer(&config, &points, &device).is_err());
    let flow = trained(&config, &points, 1);
    assert!(
        flow.restored(Tensor::ones([1, 2], &Device::flex()))
            .is_err()
    );
    assert!(flow.log_density(&[0.0], 0, Divergence::Exact).is_err());
}

#[test]
fn the_kinetic_optimal_path_says_how_good_the_straight_line_is() {
    for path in paths() {
        match (path.energies().unwrap(), path) {
            (Some([least, straight]), FlowPath::KineticOptimal { .. }) => {
                // 0.459 and 0.982 for two points.
                assert!((least - 0.459).abs() < 0.03 && (straight - 0.982).abs() < 0.05);
            }
            (found, path) => assert!(found.is_none(), "{path:?}"),
        }
    }
}
