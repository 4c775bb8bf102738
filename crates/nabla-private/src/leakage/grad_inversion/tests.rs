use super::*;
use nabla_train::classifier::Classifier;
use nabla_train::cnn::CnnConfig;
use nabla_train::initialization::he_normal;

use crate::leakage::small_network::{SmallNetwork, Units, label_loss};
use crate::leakage::{GradientOracle, Observed};

const SHAPE: [usize; 3] = [1, 3, 3];

fn pictures() -> Tensor<2> {
    let values = [
        [0.1, 0.2, 0.9, 0.4, 0.5, 0.6, 0.3, 0.8, 0.7],
        [0.9, 0.9, 0.1, 0.8, 0.2, 0.1, 0.7, 0.2, 0.2],
    ];
    Tensor::from_floats(values, &Device::flex())
}

fn quick() -> GradInversionConfig {
    GradInversionConfig {
        steps: 600,
        learning_rate: 0.05,
        seeds: 3,
        gradient: 1.0,
        prior: PixelPrior {
            total_variation: 0.0,
            norm: 0.0,
        },
        group: 0.01,
        group_every: 20,
        shift: 0,
        noise: 0.02,
        ..GradInversionConfig::default()
    }
}

fn none(_: Tensor<2>) -> Vec<BatchStatistics> {
    Vec::new()
}

fn attacked(config: GradInversionConfig) -> GradInversion {
    let network = SmallNetwork::new([9, 14, 4], Units::Sigmoid, 5, &Device::flex()).unwrap();
    let loss = |n: &SmallNetwork, x| label_loss(n.scores(x), &[1, 2]);
    let oracle = GradientOracle::new(network, loss).unwrap();
    let observed = Observed::whole(oracle.gradient(&pictures()).unwrap());
    let entries = oracle.layout().entries().iter();
    let lengths: Vec<usize> = entries.map(|entry| entry.num_elements()).collect();
    let objective = |x: &Tensor<2>| {
        oracle.matched_by(x, &observed, |found, observed| {
            layer_distance(found, observed, &lengths)
        })
    };
    grad_inversion(&objective, &none, 2, SHAPE, config, 1, &Device::flex()).unwrap()
}

#[test]
fn a_batch_is_found_and_the_answer_is_the_nearest_candidate() {
    let found = attacked(quick());
    let apart = (found.pictures.clone() - pictures()).abs().max();
    let apart = apart.into_scalar::<f64>();
    assert!(apart < 0.1, "{apart} {}", found.cost);
    assert_eq!(found.seeds.len(), 3);
    assert!(!found.statistics);
    let consensus = found.consensus.clone().unwrap();
    let candidates = found.seeds.iter().chain([&consensus]);
    let least = candidates.map(|c| c.cost).fold(f64::INFINITY, f64::min);
    assert_eq!(found.cost, least);
    assert_eq!(found.cost, attacked(quick()).cost);
}

/// Drawn to their consensus, the seeds end nearer to each other than alone.
#[test]
fn the_group_draws_the_seeds_together() {
    let spread = |group: f64| {
        let config = GradInversionConfig {
            steps: 60,
            group,
            ..quick()
        };
        let found = attacked(config);
        assert_eq!(found.consensus.is_some(), group > 0.0);
        let [a, b] = [0, 1].map(|s| found.seeds[s].pictures.clone());
        (a - b).square().sum().into_scalar::<f64>()
    };
    assert!(spread(3.0) < 0.5 * spread(0.0));
}

#[test]
fn the_rate_rises_and_falls() {
    let config = GradInversionConfig {
        steps: 1000,
        warmup: 50,
        learning_rate: 1.0,
        ..GradInversionConfig::default()
    };
    for (share, expected) in [(0.0, 0.02), (0.024, 0.5), (0.05, 1.0), (0.525, 0.5)] {
        let found = config.rate(share);
        assert!((found - expected).abs() < 1e-9, "{share}: {found}");
    }
    assert!(config.rate(0.999) < 1e-4);
    let short = GradInversionConfig {
        steps: 10,
        ..config
    };
    assert!((0..10).all(|step| short.rate(f64::from(step) / 10.0) > 0.0));
}

/// A bright spot at three places: each is moved to where the mean has it.
#[test]
fn pictures_are_moved_before_the_mean() {
    let spot = |y: usize, x: usize| -> Vec<f32> {
        let at = |i: usize| {
            let (dy, dx) = ((i / 9).abs_diff(y), (i % 9).abs_diff(x));
            if dy.max(dx) < 2 { 1.0 } else { 0.0 }
        };
        (0..81).map(at).collect()
    };
    let pictures = [spot(4, 4), spot(4, 4), spot(5, 3)];
    let pictures: Vec<&[f32]> = pictures.iter().map(Vec::as_slice).collect();
    let found = registered_mean(&pictures, [1, 9, 9], 2);
    assert_eq!(found, spot(4, 4));
    let plain = registered_mean(&pictures, [1, 9, 9], 0);
    assert!((plain[4 * 9 + 5] - 2.0 / 3.0).abs() < 1e-6);
    let two: Vec<f32> = (0..8).map(|i| i as f32).collect();
    assert_eq!(
        moved(&two, [2, 2, 2], [0, 1]),
        [0., 0., 2., 2., 4., 4., 6., 6.]
    );
    assert_eq!(
        moved(&two, [2, 2, 2], [-1, 0]),
        [2., 3., 2., 3., 6., 7., 6., 7.]
    );
}

/// The statistics' slope is that of their distance, by differences, in a network with batch normalisation; without any
/// there is none.
#[test]
fn statistics_of_batch_normalisations_are_matched() {
    let device = Device::flex().autodiff();
    let config = CnnConfig {
        channels: vec![2, 3],
        ..CnnConfig::default()
    };
    let cnn = he_normal(config.init([1, 4, 4], 2, &device).unwrap(), 3).unwrap();
    let x = SeededNoise::new(1, 0).normal::<2>([2, 16], &Device::flex());
    // Not trained yet.
    let fresh = nabla_grad::training_mode::freeze_layers(cnn.clone());
    assert!(!are_trained(&fresh.batch_statistics(x.clone().autodiff())));
    assert!(!are_trained(&none(x.clone())));
    cnn.logits(x.clone().autodiff());
    for norm in cnn.stages.iter().filter_map(|stage| stage.norm.as_ref()) {
        norm.running_mean.value_sync();
        norm.running_var.value_sync();
    }
    let cnn = nabla_grad::training_mode::freeze_layers(cnn);
    assert!(are_trained(&cnn.batch_statistics(x.clone().autodiff())));
    let statistics = |x: Tensor<2>| cnn.batch_statistics(x);
    let settings = GradInversionConfig::default();
    let slope = statistics_slope(&statistics, &x, settings).unwrap();
    let slope: Vec<f64> = slope.into_data().iter().collect();
    let cost = |x: Tensor<2>| -> f64 {
        let layers = cnn.batch_statistics(x.autodiff()).into_iter().enumerate();
        let cost = layers.map(|(layer, own)| {
            let length = |x: Tensor<1>| x.square().sum().sqrt().into_scalar::<f64>();
            let factor = if layer == 0 { 10.0 } else { 1.0 };
            let variance = length(own.variance - own.running_variance);
            factor * (length(own.mean - own.running_mean) + variance)
        });
        cost.sum()
    };
    let values: Vec<f32> = x.clone().into_data().iter().collect();
    let largest = slope.iter().fold(0.0_f64, |m, s| m.max(s.abs()));
    for i in [0, 5, 13, 31] {
        let at = |h: f32| {
            let mut moved = values.clone();
            moved[i] += h;
            cost(Tensor::from_data(
                TensorData::new(moved, [2, 16]),
                &Device::flex(),
            ))
        };
        let difference = (at(1e-3) - at(-1e-3)) / 2e-3;
        assert!(
            (difference - slope[i]).abs() < 0.02 * largest,
            "{i}: {difference} {}",
            slope[i]
        );
    }
    assert!(statistics_slope(&none, &x, settings).is_none());
}

#[test]
fn what_is_out_of_range_is_refused() {
    let objective = |_: &Tensor<2>| Err(LeakageError::NoGradient);
    for config in [
        GradInversionConfig {
            seeds: 0,
            ..quick()
        },
        GradInversionConfig {
            group_every: 0,
            ..quick()
        },
        GradInversionConfig {
            noise: -1.0,
            ..quick()
        },
        GradInversionConfig {
            shift: 9,
            ..quick()
        },
        GradInversionConfig {
            group_from: 1.5,
            ..quick()
        },
    ] {
        let found = grad_inversion(&objective, &none, 1, SHAPE, config, 0, &Device::flex());
        assert!(matches!(found, Err(LeakageError::Range(_))));
    }
    let vector = Tensor::<1>::zeros([3], &Device::flex());
    assert!(layer_distance(&vector, &vector, &[2]).is_err());
}
