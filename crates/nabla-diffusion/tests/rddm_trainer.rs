//! The training of RDDMs: it learns, repeats bit by bit, resumes bit by bit, refuses what it must.
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use nabla_diffusion::ema::EmaConfig;
use nabla_diffusion::rddm::{
    Objective, ResidualNetwork, ResidualScheduleConfig, Sharing, TimeCondition,
};
use nabla_diffusion::rddm_sampler::{Loss, Rddm, RddmConfig, seeded_weights};
use nabla_diffusion::rddm_trainer::{
    Batch, BatchError, Rate, RddmTrainer, RddmTrainerConfig, RddmTrainingError, select_objective,
};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::unet::{Normalization, UNetConfig};

/// A folder of its own for a test, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nabla-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn rddm(objective: Objective) -> Rddm {
    let schedule = ResidualScheduleConfig::new().with_noise_variance(0.01);
    RddmConfig::new()
        .with_objective(objective)
        .with_condition_on_input(true)
        .init(schedule.init().unwrap())
}

fn network(objective: Objective, sharing: Sharing, seed: u64) -> ResidualNetwork {
    let unet = UNetConfig::new(1, 1)
        .with_condition_channels(1)
        .with_base_channels(8)
        .with_multipliers(vec![1, 2])
        .with_blocks_per_level(1)
        .with_attention_levels(vec![])
        .with_middle_attention(false)
        .with_normalization(Normalization::Group { groups: 4 });
    let device = device();
    seeded_weights(seed, &device, || {
        ResidualNetwork::init(&unet, objective, sharing, &device)
    })
    .unwrap()
}

/// Ramps of random direction and their noisy, darkened copies.
fn ramps(size: usize, draw: &mut SeededNoise, device: &Device) -> Result<Batch, BatchError> {
    let slope = |draw: &mut SeededNoise| draw.normal([size, 1, 1, 1], device) * 0.3;
    let ramp = Tensor::<1>::from_floats([-0.75, -0.25, 0.25, 0.75], device);
    let clean = slope(draw).expand([size, 1, 4, 4]) * ramp.clone().reshape([1, 1, 1, 4])
        + slope(draw).expand([size, 1, 4, 4]) * ramp.reshape([1, 1, 4, 1])
        + slope(draw);
    let degraded = clean.clone() * 0.5 - 0.3 + draw.normal([size, 1, 4, 4], device) * 0.05;
    Ok(Batch::restoration(clean, degraded))
}

fn config(steps: usize) -> RddmTrainerConfig {
    RddmTrainerConfig::new(steps)
        .with_batch(4)
        .with_learning_rate(2e-3)
        .with_ema(EmaConfig::new().with_decay(0.9))
        .with_ema_every(2)
        .with_checkpoint_every(5)
}

fn train(config: RddmTrainerConfig, folder: Option<&Path>) -> RddmTrainer<ResidualNetwork> {
    let objective = Objective::ResidualNoise;
    let network = network(objective, Sharing::Separate, 7);
    let mut trainer = RddmTrainer::new(config, rddm(objective), network).unwrap();
    trainer
        .run(&mut ramps, folder, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    trainer
}

/// Every weight of a network as bits.
fn bits<M: Module>(network: &M) -> Vec<u32> {
    struct Bits(Vec<u32>);
    impl ModuleVisitor for Bits {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values: Vec<f32> = param.val().without_autodiff().try_into_vec_as().unwrap();
            self.0.extend(values.into_iter().map(f32::to_bits));
        }
    }
    let mut bits = Bits(Vec::new());
    network.visit(&mut bits);
    bits.0
}

fn same(a: &RddmTrainer<ResidualNetwork>, b: &RddmTrainer<ResidualNetwork>) -> bool {
    let losses = |t: &RddmTrainer<_>| t.losses().iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    losses(a) == losses(b)
        && bits(a.network()) == bits(b.network())
        && bits(a.average()) == bits(b.average())
}

fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len() as f32
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_seed_others() {
    let first = train(config(6), None);
    assert!(same(&first, &train(config(6), None)));
    let other = train(config(6).with_seed(1), None);
    assert_ne!(first.losses(), other.losses());
    assert_ne!(bits(first.network()), bits(first.average()));
}

#[test]
fn ten_steps_are_five_and_five_with_a_checkpoint_between() {
    let rates = [
        Rate::Constant,
        Rate::WarmupCosine {
            warmup: 3,
            floor: 0.1,
        },
    ];
    for (index, rate) in rates.into_iter().enumerate() {
        let config = config(10)
            .with_rate(rate)
            .with_accumulate(1 + index)
            .with_weight_decay(0.01 * index as f64);
        let whole = train(config, None);
        let scratch = Scratch::new(&format!("resume-{index}"));
        let objective = Objective::ResidualNoise;
        let start = network(objective, Sharing::Separate, 7);
        let mut trainer = RddmTrainer::new(config, rddm(objective), start).unwrap();
        trainer
            .run(&mut ramps, Some(&scratch.0), &mut |step| {
                if step.step == 5 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .unwrap();
        assert_eq!(trainer.step(), 5);
        assert!(!same(&trainer, &whole));
        // Another network, whose weights the checkpoint replaces.
        let other = network(objective, Sharing::Separate, 8);
        let mut resumed = RddmTrainer::resume(config, rddm(objective), other, &scratch.0).unwrap();
        assert!(same(&resumed, &trainer));
        resumed
            .run(&mut ramps, Some(&scratch.0), &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(same(&resumed, &whole));
        // One checkpoint is kept.
        let names: Vec<_> = fs::read_dir(&scratch.0)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["step-00000010"]);
    }
}

#[test]
fn the_loss_falls_for_every_objective_and_sharing() {
    let objectives = [
        Objective::Residual,
        Objective::Noise,
        Objective::ResidualNoise,
        Objective::ResidualAddNoise,
        Objective::CleanNoise,
        Objective::CleanAddNoise,
    ];
    for objective in objectives {
        for sharing in [Sharing::Separate, Sharing::Encoder] {
            if objective.outputs() == 1 && sharing == Sharing::Encoder {
                continue;
            }
            let network = network(objective, sharing, 3);
            let mut trainer = RddmTrainer::new(config(120), rddm(objective), network).unwrap();
            trainer
                .run(&mut ramps, None, &mut |_| ControlFlow::Continue(()))
                .unwrap();
            let losses = trainer.losses();
            let (before, after) = (mean(&losses[..10]), mean(&losses[110..]));
            assert!(
                after < 0.85 * before,
                "{objective:?} {sharing:?}: {before} {after}"
            );
        }
    }
}

#[test]
fn a_generator_trains_on_clean_pictures_alone() {
    let device = device();
    let unet = UNetConfig::new(1, 1)
        .with_base_channels(8)
        .with_multipliers(vec![1])
        .with_blocks_per_level(1)
        .with_attention_levels(vec![])
        .with_middle_attention(false)
        .with_normalization(Normalization::None);
    let network = seeded_weights(0, &device, || unet.init(&device)).unwrap();
    let rddm = RddmConfig::new()
        .with_objective(Objective::Noise)
        .with_time(TimeCondition::Coefficients)
        .init(ResidualScheduleConfig::new().init().unwrap());
    let mut source = |size, draw: &mut SeededNoise, device: &Device| {
        Ok::<_, BatchError>(Batch::generation(ramps(size, draw, device)?.clean))
    };
    let config = config(150).with_loss(Loss::L2);
    let mut trainer = RddmTrainer::new(config, rddm, network).unwrap();
    trainer
        .run(&mut source, None, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let losses = trainer.losses();
    assert!(mean(&losses[140..]) < 0.5 * mean(&losses[..10]));
}

#[test]
fn gradients_are_limited_by_their_norm_over_all_parameters() {
    // Plain steps are proportional to the gradient only in Adam's first step with a large ε.
    let objective = Objective::Residual;
    let run = |clip: f64| {
        let config = config(1)
            .with_gradient_clip(clip)
            .with_epsilon(1e6)
            .with_learning_rate(1e6);
        let network = network(objective, Sharing::Separate, 5);
        let before = network.clone();
        let mut trainer = RddmTrainer::new(config, rddm(objective), network).unwrap();
        let norm = trainer.train_step(&mut ramps).unwrap().gradient_norm;
        let moved: f64 = bits(&before)
            .into_iter()
            .zip(bits(trainer.network()))
            .map(|(a, b)| f64::from(f32::from_bits(b) - f32::from_bits(a)).powi(2))
            .sum();
        (f64::from(norm), moved.sqrt())
    };
    let (norm, free) = run(0.0);
    assert!((free / norm - 1.0).abs() < 1e-3, "{free} {norm}");
    let (again, limited) = run(norm / 2.0);
    assert_eq!(norm, again);
    assert!((limited / (norm / 2.0) - 1.0).abs() < 1e-3, "{limited}");
    let (_, loose) = run(2.0 * norm);
    assert_eq!(free, loose);
}

#[test]
fn a_constant_rate_may_be_given_more_steps_but_nothing_else_changes() {
    let scratch = Scratch::new("mismatch");
    let trainer = train(config(2), Some(&scratch.0));
    let objective = Objective::ResidualNoise;
    let resume = |config: RddmTrainerConfig, rddm: Rddm, network: ResidualNetwork| {
        RddmTrainer::resume(config, rddm, network, &scratch.0).map(|t| t.step())
    };
    let fresh = || network(objective, Sharing::Separate, 7);
    assert_eq!(resume(config(20), rddm(objective), fresh()).unwrap(), 2);
    for other in [
        config(2).with_batch(5),
        config(2).with_learning_rate(2.000_000_1e-3),
        config(2).with_seed(1),
        config(2).with_rate(Rate::WarmupCosine {
            warmup: 0,
            floor: 0.0,
        }),
    ] {
        let error = resume(other, rddm(objective), fresh())
            .unwrap_err()
            .to_string();
        assert!(error.contains("it was trained with"), "{error}");
    }
    let schedule = ResidualScheduleConfig::new().with_noise_variance(0.02);
    let other = rddm(objective).with_schedule(schedule.init().unwrap());
    assert!(resume(config(2), other, fresh()).is_err());
    // Another network.
    let error = resume(
        config(2),
        rddm(objective),
        network(objective, Sharing::Encoder, 7),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("its network is another"), "{error}");
    assert_eq!(trainer.step(), 2);
}

#[test]
fn damaged_and_half_written_checkpoints_are_told() {
    let scratch = Scratch::new("damage");
    let objective = Objective::ResidualNoise;
    let resume = || {
        let network = network(objective, Sharing::Separate, 7);
        RddmTrainer::resume(config(2), rddm(objective), network, &scratch.0).map(|t| t.step())
    };
    assert!(matches!(
        resume(),
        Err(RddmTrainingError::NoCheckpoint { .. })
    ));
    // A training that was killed while it saved.
    let part = scratch.0.join("step-00000002.part");
    fs::create_dir_all(&part).unwrap();
    fs::write(part.join("network.bpk"), "half").unwrap();
    assert!(matches!(
        resume(),
        Err(RddmTrainingError::NoCheckpoint { .. })
    ));
    train(config(2), Some(&scratch.0));
    assert_eq!(resume().unwrap(), 2);
    let whole = scratch.0.join("step-00000002");
    for name in [
        "network.bpk",
        "average.bpk",
        "optimizer.bpk",
        "losses.f32",
        "state.json",
    ] {
        let file = whole.join(name);
        let good = fs::read(&file).unwrap();
        fs::write(&file, &good[..good.len() / 2]).unwrap();
        let error = resume().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        fs::remove_file(&file).unwrap();
        let error = resume().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        fs::write(&file, &good).unwrap();
    }
    assert_eq!(resume().unwrap(), 2);
}

#[test]
fn wrong_settings_and_data_are_told() {
    let objective = Objective::Residual;
    let fresh = || network(objective, Sharing::Separate, 1);
    for wrong in [
        config(1).with_batch(0),
        config(1).with_accumulate(0),
        config(1).with_learning_rate(-1.0),
        config(1).with_learning_rate(f64::NAN),
        config(1).with_beta_1(1.0),
        config(1).with_gradient_clip(-1.0),
        config(1).with_rate(Rate::WarmupCosine {
            warmup: 0,
            floor: 2.0,
        }),
    ] {
        assert!(matches!(
            RddmTrainer::new(wrong, rddm(objective), fresh()),
            Err(RddmTrainingError::Field { .. })
        ));
    }
    let plain = fresh().valid();
    assert!(matches!(
        RddmTrainer::new(config(1), rddm(objective), plain),
        Err(RddmTrainingError::NoGradients)
    ));
    let mut trainer = RddmTrainer::new(config(1), rddm(objective), fresh()).unwrap();
    let mut failing = |_: usize, _: &mut SeededNoise, _: &Device| {
        Err::<Batch, BatchError>("the disk is gone".into())
    };
    let error = trainer.train_step(&mut failing).unwrap_err().to_string();
    assert!(error.contains("the disk is gone"), "{error}");
    let mut nan = |size: usize, draw: &mut SeededNoise, device: &Device| {
        let batch = ramps(size, draw, device)?;
        Ok::<_, BatchError>(Batch {
            clean: batch.clean * f32::NAN,
            ..batch
        })
    };
    let before = bits(trainer.network());
    assert!(matches!(
        trainer.train_step(&mut nan),
        Err(RddmTrainingError::NotFinite { .. })
    ));
    assert_eq!((bits(trainer.network()), trainer.step()), (before, 0));
    let mut uneven = |size: usize, draw: &mut SeededNoise, device: &Device| {
        let batch = ramps(size, draw, device)?;
        let degraded = batch.degraded.map(|d| d.slice([0..size, 0..1, 0..4, 0..2]));
        Ok::<_, BatchError>(Batch { degraded, ..batch })
    };
    assert!(matches!(
        trainer.train_step(&mut uneven),
        Err(RddmTrainingError::Rddm(_))
    ));
}

#[test]
fn the_objective_that_is_easier_to_learn_is_selected() {
    let select = |degrade: fn(Tensor<4>) -> Tensor<4>, threshold: f64| {
        let mut source = |size, draw: &mut SeededNoise, device: &Device| {
            let clean = ramps(size, draw, device)?.clean;
            Ok::<_, BatchError>(Batch::restoration(clean.clone(), degrade(clean)))
        };
        let network = network(Objective::Residual, Sharing::Separate, 2);
        let config = config(200).with_learning_rate(1e-3);
        let rddm = rddm(Objective::Residual);
        select_objective(&config, threshold, &rddm, network, &mut source, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap()
    };
    // The degraded picture is the clean one, darkened by a constant: the residual is known.
    let found = select(|clean| clean - 0.4, 0.01);
    assert_eq!(
        found.objective,
        Some(Objective::Residual),
        "{:?}",
        found.shares
    );
    assert_eq!(found.shares[0], 0.5);
    assert!(found.shares.len() >= 10);
    let undecided = select(|clean| clean - 0.4, 0.4999);
    assert_eq!((undecided.objective, undecided.shares.len()), (None, 201));
}
