use burn::tensor::DType;
use serde_json::Value;

use super::*;

/// Weights, scores and counts of a training in PyTorch, in double precision.
fn reference() -> Value {
    let text = include_str!("../../tests/reference/xor_grokking.json");
    serde_json::from_str(text).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|x| x.as_f64().unwrap()).collect()
}

fn matrix(value: &Value, device: &Device) -> Tensor<2> {
    let rows = value.as_array().unwrap();
    let values: Vec<f64> = rows.iter().flat_map(numbers).collect();
    let shape = [rows.len(), values.len() / rows.len()];
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F64))
}

#[test]
fn steps_are_pytorchs() {
    let (reference, device) = (reference(), Device::flex());
    let outer = numbers(&reference["outer"]);
    let units = outer.len();
    let outer = Tensor::from_data(TensorData::new(outer, [units]), (&device, DType::F64));
    let mut network = TwoLayerRelu::of(matrix(&reference["inner"], &device), outer).unwrap();
    let noisy = numbers(&reference["labels"]);
    let batch = XorBatch {
        x: matrix(&reference["x"], &device),
        clean: noisy.clone(),
        cluster: vec![0; noisy.len()],
        noisy,
    };
    for _ in 0..reference["steps"].as_u64().unwrap() {
        descend(&mut network, &batch, reference["rate"].as_f64().unwrap()).unwrap();
    }
    let found = outputs(&network, &batch).unwrap();
    let expected = numbers(&reference["outputs"]);
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
    let found = read(network.inner.val().flatten(0, 1)).unwrap();
    let rows = reference["trained"].as_array().unwrap();
    let expected: Vec<f64> = rows.iter().flat_map(numbers).collect();
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
}

#[test]
fn clusters_are_where_their_labels_say() {
    let clusters = XorClusters {
        dim: 3,
        squared_norm: 100.0,
        noise: 0.25,
    };
    let batch = clusters.sample(4000, 7, &Device::flex()).unwrap();
    let x = read(batch.x.clone().flatten(0, 1)).unwrap();
    let mut counts = [0; 4];
    for (x, (&cluster, &label)) in x.chunks(3).zip(batch.cluster.iter().zip(&batch.clean)) {
        counts[cluster] += 1;
        assert_eq!(label, if cluster < 2 { 1.0 } else { -1.0 });
        let side = if cluster % 2 == 0 { 10.0 } else { -10.0 };
        assert!((x[cluster / 2] - side).abs() < 6.0 && x[1 - cluster / 2].abs() < 6.0);
    }
    assert!(counts.iter().all(|&count| (count - 1000_i32).abs() < 110));
    let flipped = batch.noisy.iter().zip(&batch.clean).filter(|(a, b)| a != b);
    assert!((flipped.count() as f64 - 1000.0).abs() < 110.0);
    let again = clusters.sample(4000, 7, &Device::flex()).unwrap();
    assert_eq!(x, read(again.x.flatten(0, 1)).unwrap());
    assert!((clusters.signal(30) - 100_000.0).abs() < 1e-9);
}

/// Smaller than the paper's, with as strong a signal.
fn run(squared_norm: f64) -> GrokkingTrace {
    let device = Device::flex();
    let clusters = XorClusters {
        dim: 4000,
        squared_norm,
        noise: 0.1,
    };
    let data = clusters.sample(100, 1, &device).unwrap();
    let test = clusters.sample(300, 2, &device).unwrap();
    let network = TwoLayerRelu::frozen_head(4000, 128, 1e-8, 3, &device).unwrap();
    let training = XorTraining {
        learning_rate: 2e-3,
        ..XorTraining::default()
    };
    GrokkingTrace::run(network, &data, &test, &training).unwrap()
}

#[test]
fn a_network_that_fits_noise_generalises_later_if_the_signal_is_strong() {
    let trace = run(200.0);
    let [first, last] = [trace.records[1], trace.records[9]];
    assert_eq!([first.step, last.step], [1, 100]);
    assert!(first.training == 1.0 && last.training == 1.0, "{trace:?}");
    // The first step is linear, and the last one isn't.
    assert!(first.linear.cosine > 0.9 && last.linear.cosine < first.linear.cosine);
    assert!(
        first.test < last.test && last.test >= GENERALISES,
        "{trace:?}"
    );
    // The flipped labels stay fitted, and the units turn towards the means of their label.
    assert!(
        last.clean < 0.95 && last.aligned > 2.0 * last.across,
        "{trace:?}"
    );
    let weak = run(20.0);
    assert_eq!(weak.phase(), Phase::Catastrophic, "{weak:?}");
}

#[test]
fn phases_are_told_apart() {
    let phase = |points: &[(f64, f64)]| {
        let records = points
            .iter()
            .enumerate()
            .map(|(step, &(training, test))| Record {
                step,
                training,
                clean: 0.9,
                test,
                linear: LinearPhase {
                    accuracy: 0.5,
                    cosine: 1.0,
                },
                aligned: 0.0,
                across: 0.0,
            });
        let records = records.collect();
        GrokkingTrace { records }.phase()
    };
    assert_eq!(phase(&[]), Phase::Unfitted);
    assert_eq!(phase(&[(0.9, 0.99)]), Phase::Unfitted);
    assert_eq!(
        phase(&[(0.5, 0.5), (1.0, 0.5), (1.0, 0.55)]),
        Phase::Catastrophic
    );
    assert_eq!(
        phase(&[(0.5, 0.5), (1.0, 0.5), (1.0, 0.8)]),
        Phase::Tempered
    );
    assert_eq!(
        phase(&[(0.5, 0.5), (1.0, 0.97), (1.0, 0.98)]),
        Phase::Benign
    );
    assert_eq!(
        phase(&[(0.5, 0.5), (1.0, 0.5), (1.0, 0.98)]),
        Phase::Grokking
    );
}

#[test]
fn wrong_numbers_are_refused() {
    let device = Device::flex();
    for (dim, squared_norm, noise) in [(1, 1.0, 0.1), (5, 0.0, 0.1), (5, 1.0, 0.5), (5, 1.0, -0.1)]
    {
        let clusters = XorClusters {
            dim,
            squared_norm,
            noise,
        };
        assert!(clusters.sample(3, 0, &device).is_err());
    }
    let clusters = XorClusters {
        dim: 5,
        ..XorClusters::default()
    };
    assert!(clusters.sample(0, 0, &device).is_err());
    let batch = clusters.sample(3, 0, &device).unwrap();
    let network = |inputs| TwoLayerRelu::frozen_head(inputs, 4, 1e-3, 0, &device).unwrap();
    let run = |inputs, training: &XorTraining| {
        GrokkingTrace::run(network(inputs), &batch, &batch, training)
    };
    let short = XorTraining {
        steps: 2,
        logged: vec![1, 2],
        ..XorTraining::default()
    };
    assert!(run(5, &short).is_ok());
    assert!(matches!(
        run(4, &short),
        Err(XorError::Inputs {
            network: 4,
            examples: 5
        })
    ));
    for logged in [vec![3], vec![2, 1], vec![1, 1]] {
        let training = XorTraining {
            logged,
            ..short.clone()
        };
        assert!(run(5, &training).is_err());
    }
    let training = XorTraining {
        learning_rate: f64::NAN,
        ..short
    };
    assert!(run(5, &training).is_err());
}
