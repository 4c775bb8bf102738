use burn::tensor::{Device, TensorData};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::classification::TrainingConfig;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::initialization::he_normal;
use nabla_train::mlp::{Mlp, MlpConfig};
use nabla_train::optimizer::OptimizerConfig;

use super::*;

fn tensor(rows: &[&[f64]]) -> Tensor<2> {
    let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
    Tensor::from_data(data, &Device::flex())
}

fn close(found: f64, expected: f64) {
    assert!(
        (found - expected).abs() < 1e-5,
        "{found} instead of {expected}"
    );
}

#[test]
fn reference_values_hold() {
    let rows = tensor(&[
        &[1.0, 0.0, 0.0],
        &[1.0, 1.0, 0.0],
        &[0.0, -1.0, 2.0],
        &[1.0, 0.0, 1.0],
    ]);
    let found = coherence_from_grads(&rows).unwrap();
    close(found.m_coherence, 1.8);
    close(found.alpha, 0.45);
    close(found.alpha_unbiased, 0.266_667);
    // A factor changes nothing, and every example twice doubles the number that it helps.
    assert_eq!(coherence_from_grads(&(rows.clone() * 4.0)).unwrap(), found);
    let twice = coherence_from_grads(&Tensor::cat(vec![rows.clone(), rows.clone()], 0)).unwrap();
    close(twice.m_coherence, 3.6);
    close(twice.alpha, found.alpha);
    // The gradients of a linear model with weights 0 on (e_0 + e_i)/√2 with the target 1.
    let half = 0.5_f64.sqrt();
    let learnable: Vec<Vec<f64>> = (0..8)
        .map(|i| {
            (0..9)
                .map(|j| if j == 0 || j == i + 1 { -half } else { 0.0 })
                .collect()
        })
        .collect();
    let learnable: Vec<&[f64]> = learnable.iter().map(Vec::as_slice).collect();
    close(
        coherence_from_grads(&tensor(&learnable))
            .unwrap()
            .m_coherence,
        4.5,
    );
}

fn examples() -> Examples {
    let features = SeededNoise::new(1, 0).normal_values(30 * 4);
    let labels = features
        .chunks(4)
        .map(|x| u32::from(x[0] > 0.0) + u32::from(x[1] > 1.0))
        .collect();
    Examples { features, labels }
}

fn model() -> Mlp {
    let config = MlpConfig { hidden: vec![6] };
    he_normal(config.init(4, 3, &Device::flex().autodiff()).unwrap(), 2).unwrap()
}

fn with_loss<T>(on: impl FnOnce(&ClassifierLoss<'_, Mlp>) -> T) -> T {
    let examples = examples();
    let training = TrainingConfig::default();
    let seen = training.examples(&examples, InputShape::Row(4)).unwrap();
    let indices: Vec<usize> = (0..30).collect();
    on(&ClassifierLoss::new(model(), seen, &indices, false).unwrap())
}

#[test]
fn sums_and_norms_of_a_backward_pass_are_those_of_the_gradients() {
    with_loss(|loss| {
        let mut rows = Vec::new();
        loss.for_each_backward::<CoherenceError>(7, |gradients| {
            rows.push(gradients.rows(&loss.model, &loss.layout)?);
            Ok(())
        })
        .unwrap();
        let rows = Tensor::cat(rows, 0);
        let mut meter = CoherenceMeter::new(&loss.layout);
        meter.push_rows(&rows).unwrap();
        let found = ClassifierCoherence::of(loss, true).unwrap();
        let expected = meter.finish().unwrap();
        close(
            found.coherence.whole.m_coherence,
            expected.whole.m_coherence,
        );
        close(
            expected.whole.alpha,
            coherence_from_grads(&rows).unwrap().alpha,
        );
        let names: Vec<&str> = found
            .coherence
            .layers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["hidden.0", "output"]);
        for ((_, a), (_, b)) in found.coherence.layers.iter().zip(&expected.layers) {
            close(a.unwrap().alpha, b.unwrap().alpha);
        }
        // The whole is the mean of the layers, weighted by their squares.
        let weighted: f64 = meter
            .layers
            .iter()
            .zip(&expected.layers)
            .map(|(l, (_, c))| l.squares * c.unwrap().alpha)
            .sum();
        close(weighted / meter.squares(), expected.whole.alpha);
        // The alignment of one example, from its definition.
        let values: Vec<f64> = read(&rows).unwrap();
        let width = loss.parameters();
        let own = &values[3 * width..4 * width];
        let mut others = meter.sum().to_vec();
        add_scaled(&mut others, -1.0, own);
        let cosine = dot(own, &others) / (squared_norm(own) * squared_norm(&others)).sqrt();
        assert_eq!(found.alignments.len(), 30);
        close(found.alignments[3].cosine, cosine);
        close(found.alignments[3].norm, squared_norm(own).sqrt());
        close(
            cross_coherence(&meter, &meter).unwrap(),
            expected.whole.alpha,
        );
    });
}

#[test]
fn a_training_is_measured_on_its_way() {
    let examples = examples();
    let config = TrainingConfig {
        epochs: 40,
        batch: 10,
        optimizer: OptimizerConfig::named("sgd").unwrap(),
        ..TrainingConfig::default()
    };
    let run = || {
        let mut trainer = config
            .trainer(&examples, &examples, InputShape::Row(4), model())
            .unwrap();
        let seen = config.examples(&examples, InputShape::Row(4)).unwrap();
        let indices: Vec<usize> = (0..30).collect();
        let go_on = &mut || ControlFlow::Continue(());
        CoherenceCurve::of(&mut trainer, &seen, &indices, &[0, 10, 120, 121], go_on).unwrap()
    };
    let found = run();
    assert_eq!(found, run());
    let steps: Vec<usize> = found.moments.iter().map(|moment| moment.step).collect();
    assert_eq!(steps, [0, 10, 120]); // it has no more steps
    assert!(found.moments[2].loss < found.moments[0].loss);
    let right = found
        .learnt
        .since()
        .iter()
        .filter(|since| since.is_some())
        .count();
    close(right as f64 / 30.0, found.moments[2].accuracy);
}

#[test]
fn learning_times_are_the_first_and_those_for_good() {
    let mut times = LearnTimes::new(3);
    times.record(0, &[false, true, false]).unwrap();
    times.record(5, &[true, false, false]).unwrap();
    times.record(9, &[true, true, false]).unwrap();
    assert_eq!(times.first(), [Some(5), Some(0), None]);
    assert_eq!(times.since(), [Some(5), Some(9), None]);
    assert!(times.record(10, &[true]).is_err());
}

#[test]
fn wrong_input_is_refused() {
    let of = |rows: &[&[f64]]| coherence_from_grads(&tensor(rows)).unwrap_err();
    assert!(matches!(of(&[&[1.0]]), CoherenceError::TooFew(1)));
    assert!(matches!(of(&[&[0.0], &[0.0]]), CoherenceError::NoGradients));
    assert!(matches!(
        of(&[&[f64::NAN], &[0.0]]),
        CoherenceError::NotFinite
    ));
    let narrow = alignments(&tensor(&[&[1.0]]), &[1.0, 2.0]);
    assert!(matches!(
        narrow,
        Err(CoherenceError::Width {
            expected: 2,
            found: 1
        })
    ));
}
