//! The training of RDDMs: it learns, repeats bit for bit, resumes bit for bit, refuses what it must.
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
    Batch, BatchError, BatchSource, Rate, RddmTask, RddmTrainerConfig, RddmTrainingError,
    select_objective,
};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::unet::{Normalization, UNetConfig};
use nabla_train::{CheckpointError, Trainer, TrainingError};

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

type Source = fn(usize, &mut SeededNoise, &Device) -> Result<Batch, BatchError>;
type RampTrainer = Trainer<RddmTask<ResidualNetwork, Source>>;

fn trainer(config: RddmTrainerConfig, rddm: Rddm, network: ResidualNetwork) -> RampTrainer {
    config.trainer(rddm, network, ramps as Source).unwrap()
}

fn train(config: RddmTrainerConfig, folder: Option<&Path>) -> RampTrainer {
    let objective = Objective::ResidualNoise;
    let network = network(objective, Sharing::Separate, 7);
    let mut trainer = trainer(config, rddm(objective), network);
    let checkpoint = folder.map(checkpoint);
    trainer
        .run(checkpoint.as_deref(), &mut |_| ControlFlow::Continue(()))
        .unwrap();
    trainer
}

/// The checkpoint in a folder, which is made.
fn checkpoint(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    folder.join("checkpoint.safetensors")
}

fn average(trainer: &RampTrainer) -> &ResidualNetwork {
    trainer.average().unwrap()
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

fn same(a: &RampTrainer, b: &RampTrainer) -> bool {
    let losses = |t: &RampTrainer| {
        let losses = t.history().losses();
        losses.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    losses(a) == losses(b)
        && bits(a.model()) == bits(b.model())
        && bits(average(a)) == bits(average(b))
}

fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len() as f32
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_seed_others() {
    let first = train(config(6), None);
    assert!(same(&first, &train(config(6), None)));
    let other = train(config(6).with_seed(1), None);
    assert_ne!(first.history().losses(), other.history().losses());
    assert_ne!(bits(first.model()), bits(average(&first)));
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
        let path = checkpoint(&scratch.0);
        let mut begun = trainer(config, rddm(objective), start);
        begun
            .run(Some(&path), &mut |step| {
                if step.step == 5 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .unwrap();
        assert_eq!(begun.step(), 5);
        assert!(!same(&begun, &whole));
        // Another network, whose weights the checkpoint replaces.
        let other = network(objective, Sharing::Separate, 8);
        let mut resumed = trainer(config, rddm(objective), other)
            .resume(&path)
            .unwrap();
        assert!(same(&resumed, &begun));
        resumed
            .run(Some(&path), &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(same(&resumed, &whole));
        // One checkpoint is kept, and nothing else.
        let names: Vec<_> = fs::read_dir(&scratch.0)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["checkpoint.safetensors"]);
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
            let mut trainer = trainer(config(120), rddm(objective), network);
            trainer
                .run(None, &mut |_| ControlFlow::Continue(()))
                .unwrap();
            let losses = trainer.history().losses();
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
    let mut source = |size: usize, draw: &mut SeededNoise, device: &Device| {
        Ok::<_, BatchError>(Batch::generation(ramps(size, draw, device)?.clean))
    };
    let config = config(150).with_loss(Loss::L2);
    // The source stays with the program.
    let source: &mut dyn BatchSource = &mut source;
    let mut trainer = config.trainer(rddm, network, source).unwrap();
    trainer
        .run(None, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let losses = trainer.history().losses();
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
        let mut trainer = trainer(config, rddm(objective), network);
        let norm = trainer.train_step().unwrap().record.gradient_norm;
        let moved: f64 = bits(&before)
            .into_iter()
            .zip(bits(trainer.model()))
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
    let whole = train(config(2), Some(&scratch.0));
    let path = checkpoint(&scratch.0);
    let objective = Objective::ResidualNoise;
    let resume = |config: RddmTrainerConfig, rddm: Rddm, network: ResidualNetwork| {
        let resumed = trainer(config, rddm, network).resume(&path);
        resumed.map(|t| t.step())
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
        assert!(error.contains("is of another training"), "{error}");
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
    assert!(error.contains("its model is another"), "{error}");
    assert_eq!(whole.step(), 2);
}

#[test]
fn damaged_and_half_written_checkpoints_are_told() {
    let scratch = Scratch::new("damage");
    let path = checkpoint(&scratch.0);
    let objective = Objective::ResidualNoise;
    let resume = || {
        let network = network(objective, Sharing::Separate, 7);
        let resumed = trainer(config(2), rddm(objective), network).resume(&path);
        resumed.map(|t| t.step())
    };
    assert!(matches!(
        resume(),
        Err(TrainingError::Checkpoint(CheckpointError::Read { .. }))
    ));
    // What a training that was killed while it saved leaves beside it.
    fs::write(scratch.0.join(".nabla-1.part"), "half").unwrap();
    train(config(2), Some(&scratch.0));
    assert_eq!(resume().unwrap(), 2);
    let good = fs::read(&path).unwrap();
    // A bit of each of its parts, which lie one after the other.
    let told: Vec<String> = (1..40)
        .map(|part| {
            let mut bytes = good.clone();
            let place = bytes.len() * part / 40;
            bytes[place] ^= 4;
            fs::write(&path, &bytes).unwrap();
            resume().unwrap_err().to_string()
        })
        .collect();
    for error in &told {
        assert!(error.contains("cannot be resumed"), "{error}");
    }
    for part in ["model", "average", "optimizer"] {
        let named = told.iter().any(|error| error.contains(part));
        assert!(named, "{part}: {told:?}");
    }
    for half in [0, 10, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..half]).unwrap();
        let error = resume().unwrap_err().to_string();
        assert!(error.contains("cannot be resumed"), "{error}");
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(resume().unwrap(), 2);
}

#[test]
fn wrong_settings_and_data_are_told() {
    let objective = Objective::Residual;
    let fresh = || network(objective, Sharing::Separate, 1);
    let rate = |floor| Rate::WarmupCosine { warmup: 0, floor };
    for (wrong, told) in [
        (
            config(1).with_batch(0),
            "batch is 0, but it must be at least 1",
        ),
        (
            config(1).with_accumulate(0),
            "accumulate is 0, but it must be at least 1",
        ),
        (
            config(1).with_learning_rate(-1.0),
            "learning_rate is -1, but it must be positive and finite",
        ),
        (
            config(1).with_learning_rate(f64::NAN),
            "learning_rate is NaN, but it must be positive and finite",
        ),
        (
            config(1).with_beta_1(1.0),
            "beta_1 is 1, but it must be at least 0 and less than 1",
        ),
        (
            config(1).with_gradient_clip(-1.0),
            "gradient_clip is -1, but it must be at least 0 and finite",
        ),
        (
            config(1).with_first_step_share(1.5),
            "first_step_share is 1.5, but it must be from 0 to 1",
        ),
        (
            config(1).with_rate(rate(2.0)),
            "floor of the learning rate is 2, but it must be from 0 to 1",
        ),
    ] {
        let trainer = wrong.trainer(rddm(objective), fresh(), ramps as Source);
        let error = trainer.err().unwrap();
        assert!(matches!(error, RddmTrainingError::Range(_)), "{error}");
        assert_eq!(error.to_string(), format!("the training's {told}"));
    }
    let plain = fresh().valid();
    assert!(matches!(
        config(1).trainer(rddm(objective), plain, ramps as Source),
        Err(RddmTrainingError::Training(TrainingError::NoGradients))
    ));
    let with = |source: Source| config(1).trainer(rddm(objective), fresh(), source).unwrap();
    let mut failing = with(|_, _, _| Err("the disk is gone".into()));
    let error = failing.train_step().unwrap_err().to_string();
    assert!(error.contains("the disk is gone"), "{error}");
    let mut nan = with(|size, draw, device| {
        let batch = ramps(size, draw, device)?;
        Ok(Batch {
            clean: batch.clean * f32::NAN,
            ..batch
        })
    });
    let before = bits(nan.model());
    assert!(nan.train_step().unwrap_err().is_divergence());
    assert_eq!((bits(nan.model()), nan.step()), (before, 0));
    let mut uneven = with(|size, draw, device| {
        let batch = ramps(size, draw, device)?;
        let degraded = batch.degraded.map(|d| d.slice([0..size, 0..1, 0..4, 0..2]));
        Ok(Batch { degraded, ..batch })
    });
    let Err(TrainingError::Task(error)) = uneven.train_step() else {
        panic!("pictures of two sizes");
    };
    assert!(matches!(
        error.downcast_ref::<RddmTrainingError>(),
        Some(RddmTrainingError::Rddm(_))
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
