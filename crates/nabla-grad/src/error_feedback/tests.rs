use super::*;
use crate::compressor::{Identity, Natural, Qsgd, RandK, ScaledSign, TopK};
use proptest::prelude::*;

fn tensor(x: &[f64]) -> Tensor<1> {
    let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let length = x.len();
    Tensor::from_data(TensorData::new(x, [length]), &Device::flex())
}

fn compressors() -> Vec<(&'static str, Box<dyn Compressor>)> {
    vec![
        ("top", Box::new(TopK::new(2).unwrap())),
        ("sign", Box::new(ScaledSign)),
        ("random", Box::new(RandK::new(2).unwrap())),
        ("ternary", Box::new(Qsgd::new(1).unwrap())),
        ("fine", Box::new(Qsgd::new(64).unwrap())),
        ("natural", Box::new(Natural)),
        ("identity", Box::new(Identity)),
    ]
}

proptest! {
    #[test]
    fn what_was_sent_and_the_memory_are_what_was_to_be_sent(
        d in 2_usize..40,
        steps in 1_usize..30,
        seed: u64,
    ) {
        for (name, compressor) in compressors() {
            let mut worker = ErrorFeedback::new(compressor, d);
            let mut noise = SeededNoise::new(seed, 1);
            let mut draw = SeededNoise::new(seed, 0);
            let (mut wanted, mut sent) = (vec![0.0; d], vec![0.0; d]);
            for _ in 0..steps {
                let update: Vec<f64> =
                    draw.normal_values(d).into_iter().map(f64::from).collect();
                let message = worker.compress(&tensor(&update), &mut noise).unwrap();
                for i in 0..d {
                    wanted[i] += update[i];
                    sent[i] += f64::from(message.values()[i]);
                }
                for i in 0..d {
                    let off = sent[i] + worker.memory()[i] - wanted[i];
                    prop_assert!(off.abs() < 1e-12 * (1.0 + wanted[i].abs()) * 100.0, "{}", name);
                }
            }
        }
    }

    #[test]
    fn the_memory_is_bounded_as_theory_says(d in 2_usize..40, seed: u64) {
        // ‖e‖ ≤ √(1 − δ) / (1 − √(1 − δ)) · the largest ‖u‖, for contractions that always contract.
        for compressor in [&TopK::new(2).unwrap() as &dyn Compressor, &ScaledSign] {
            let mut worker = ErrorFeedback::new(compressor, d);
            let q = (1.0 - worker.contraction()).sqrt();
            let mut draw = SeededNoise::new(seed, 0);
            let mut largest = 0.0_f64;
            for _ in 0..40 {
                let update: Vec<f64> =
                    draw.normal_values(d).into_iter().map(f64::from).collect();
                largest = largest.max(update.iter().map(|x| x * x).sum::<f64>().sqrt());
                worker.compress(&tensor(&update), &mut draw).unwrap();
                let memory = worker.memory().iter().map(|x| x * x).sum::<f64>().sqrt();
                prop_assert!(memory <= (q / (1.0 - q) + 1e-5) * largest + 1e-5);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_state_or_refused(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(any::<u8>(), 24..=24),
    ]) {
        let finite = bytes
            .chunks_exact(8)
            .all(|part| f64::from_le_bytes(part.try_into().unwrap()).is_finite());
        match ErrorFeedback::new(Identity, 3).restored(&bytes) {
            Ok(worker) => prop_assert_eq!(worker.to_bytes(), bytes),
            Err(_) => prop_assert!(bytes.len() != 24 || !finite),
        }
    }
}

/// Karimireddy et al., counterexample 3: `ε |x₁ + x₂| + |x₁ − x₂|`. The sign of every subgradient is
/// `±(1, −1)`, so that `x₁ + x₂` never changes without feedback.
#[test]
fn feedback_mends_the_counterexample_of_signs() {
    let epsilon = 0.5;
    let loss = |x: &[f64]| epsilon * (x[0] + x[1]).abs() + (x[0] - x[1]).abs();
    let gradient = |x: &[f64]| {
        let sign = |x: f64| if x < 0.0 { -1.0 } else { 1.0 };
        let (sum, difference) = (epsilon * sign(x[0] + x[1]), sign(x[0] - x[1]));
        [sum + difference, sum - difference]
    };
    let run = |feedback: bool| {
        let mut worker = ErrorFeedback::new(ScaledSign, 2);
        let mut noise = SeededNoise::new(1, 0);
        let mut x = [1.0, 1.0];
        for t in 0..4000 {
            let rate = 0.05 / f64::from(t + 1).sqrt();
            let update = gradient(&x).map(|g| rate * g);
            let message = if feedback {
                worker.compress(&tensor(&update), &mut noise).unwrap()
            } else {
                ScaledSign.compress(&tensor(&update), &mut noise).unwrap()
            };
            for (x, step) in x.iter_mut().zip(message.values()) {
                *x -= f64::from(step);
            }
        }
        (loss(&x), x)
    };
    let (stuck, x) = run(false);
    assert!((x[0] + x[1] - 2.0).abs() < 1e-3 && stuck > 0.99, "{x:?}");
    let (mended, x) = run(true);
    assert!(mended < 0.02, "{x:?}");
}

/// Beznosikov et al., example 1: three workers with `⟨a_i, x⟩² + ‖x‖²/4`, and Top-1 without feedback
/// makes `x` longer in every step.
#[test]
fn feedback_mends_the_divergence_of_top_1() {
    let a = [[-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]];
    let gradient = |i: usize, x: &[f64]| -> Vec<f64> {
        let along: f64 = a[i].iter().zip(x).map(|(a, x)| a * x).sum();
        (0..3).map(|j| 2.0 * along * a[i][j] + 0.5 * x[j]).collect()
    };
    let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let top = TopK::new(1).unwrap();
    let noise = &mut SeededNoise::new(0, 0);
    // 2 a aᵀ + I/2: L = 34.5 for each worker; their mean has the largest eigenvalue 50/3 + 1/2.
    let rate = ef21_step_size(50.0 / 3.0 + 0.5, 34.5, 1.0 / 3.0).unwrap();

    let mut x = vec![1.0; 3];
    for _ in 0..300 {
        let mut step = vec![0.0; 3];
        for i in 0..3 {
            let message = top.compress(&tensor(&gradient(i, &x)), noise).unwrap();
            message.add_to(&mut step, 1.0 / 3.0);
        }
        x.iter_mut().zip(&step).for_each(|(x, s)| *x -= rate * s);
    }
    let plain = length(&x);
    assert!(plain > 10.0, "{x:?}");

    let mut workers = vec![ErrorFeedback::new(top, 3); 3];
    let mut x = vec![1.0; 3];
    for _ in 0..5000 {
        let mut step = vec![0.0; 3];
        for (i, worker) in workers.iter_mut().enumerate() {
            let update: Vec<f64> = gradient(i, &x).iter().map(|g| rate * g).collect();
            let message = worker.compress(&tensor(&update), noise).unwrap();
            message.add_to(&mut step, 1.0 / 3.0);
        }
        x.iter_mut().zip(&step).for_each(|(x, s)| *x -= s);
    }
    assert!(length(&x) < 1e-3, "{x:?}");

    let mut workers = vec![Ef21::new(top, 3); 3];
    let mut server = Ef21Server::new(3, 3).unwrap();
    let mut x = vec![1.0; 3];
    for _ in 0..5000 {
        for (i, worker) in workers.iter_mut().enumerate() {
            let message = worker.compress(&tensor(&gradient(i, &x)), noise).unwrap();
            // Over the wire.
            let message = Compressed::from_bytes(&message.to_bytes(), 3).unwrap();
            server.receive(i, &message).unwrap();
            assert_eq!(worker.estimate(), server.estimates[i]);
        }
        x.iter_mut()
            .zip(server.mean())
            .for_each(|(x, g)| *x -= rate * g);
    }
    assert!(length(&x) < 1e-3, "{x:?}");
}

#[test]
fn a_restored_worker_goes_on_to_the_bit() {
    for (name, compressor) in compressors() {
        let update = |step: u64| {
            let draw = SeededNoise::new(step, 9).normal_values(7);
            tensor(&draw.into_iter().map(f64::from).collect::<Vec<_>>())
        };
        let mut noise = SeededNoise::new(4, 0);
        let mut feedback = ErrorFeedback::new(&*compressor, 7);
        let mut ef21 = Ef21::new(&*compressor, 7);
        let mut server = Ef21Server::new(1, 7).unwrap();
        for step in 0..5 {
            feedback.compress(&update(step), &mut noise).unwrap();
            let message = ef21.compress(&update(step), &mut noise).unwrap();
            server.receive(0, &message).unwrap();
        }
        let fresh = ErrorFeedback::new(&*compressor, 7);
        let mut restored = fresh.restored(&feedback.to_bytes()).unwrap();
        let fresh = Ef21::new(&*compressor, 7);
        let mut restored_21 = fresh.restored(&ef21.to_bytes()).unwrap();
        let again = Ef21Server::new(1, 7).unwrap();
        assert_eq!(again.restored(&server.to_bytes()).unwrap(), server);
        let mut again = noise.clone();
        for step in 5..9 {
            let on = feedback.compress(&update(step), &mut noise).unwrap();
            let resumed = restored.compress(&update(step), &mut again).unwrap();
            assert_eq!(on.to_bytes(), resumed.to_bytes(), "{name}");
            let on = ef21.compress(&update(step), &mut noise).unwrap();
            let resumed = restored_21.compress(&update(step), &mut again).unwrap();
            assert_eq!(on.to_bytes(), resumed.to_bytes(), "{name}");
        }
        assert_eq!(feedback.to_bytes(), restored.to_bytes());
    }
}

#[test]
fn unbiased_compressors_become_contractions() {
    let delta = |compressor: &dyn Compressor| ErrorFeedback::new(compressor, 12).contraction();
    assert_eq!(delta(&RandK::new(3).unwrap()), 0.25);
    assert_eq!(delta(&Natural), 7.0 / 8.0);
    assert_eq!(delta(&Identity), 1.0);
    // With ω = 3 the message is divided by 4: the elements themselves, for RandK.
    let mut worker = ErrorFeedback::new(RandK::new(3).unwrap(), 12);
    let message = worker
        .compress(&tensor(&[1.5; 12]), &mut SeededNoise::new(0, 0))
        .unwrap();
    let (_, values) = message.sparse().unwrap();
    assert_eq!(values, [1.5; 3]);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let noise = &mut SeededNoise::new(0, 0);
    let mut worker = ErrorFeedback::new(TopK::new(1).unwrap(), 3);
    worker.compress(&tensor(&[1.0, 2.0, 3.0]), noise).unwrap();
    let before = worker.to_bytes();
    let refused = worker.compress(&tensor(&[1.0; 2]), noise).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the update must have 3 elements, but it has 2"
    );
    let refused = worker.compress(&tensor(&[1.0, f64::NAN, 0.0]), noise);
    assert!(matches!(refused, Err(ErrorFeedbackError::Compressor(_))));
    assert_eq!(worker.to_bytes(), before);
    let mut server = Ef21Server::new(2, 3).unwrap();
    let message = Identity.compress(&tensor(&[1.0; 3]), noise).unwrap();
    assert!(matches!(
        server.receive(2, &message),
        Err(ErrorFeedbackError::Worker {
            worker: 2,
            workers: 2
        })
    ));
    let message = Identity.compress(&tensor(&[1.0; 2]), noise).unwrap();
    assert!(server.receive(0, &message).is_err());
    assert!(Ef21Server::new(0, 3).is_err());
    assert!(ef21_step_size(0.0, 1.0, 0.5).is_err());
    assert!(ef21_step_size(1.0, 1.0, 1.5).is_err());
}
