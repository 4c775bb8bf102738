use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_train::examples::InputShape;
use serde_json::json;

use super::*;
use crate::objectives::reference::{Tiny, gradients, off, reference};

fn head(z: &[f64], residuals: &[f64]) -> HeadStats {
    let rows = z.len();
    let tensor = |values: &[f64], columns: usize| {
        let data = TensorData::new(values.to_vec(), [rows, columns]);
        Tensor::<2>::from_data(data, (&Device::flex(), DType::F64))
    };
    // Targets that give these residuals at equal probabilities.
    let targets: Vec<f64> = residuals.iter().map(|r| 0.5 - r).collect();
    let logits = vec![0.0; 2 * rows];
    HeadStats::linear(tensor(z, 1), tensor(&logits, 2), tensor(&targets, 2)).unwrap()
}

fn value(tensor: Tensor<1>) -> f64 {
    tensor.into_data().try_to_vec::<f64>().unwrap()[0]
}

/// The example that is worked out by hand in the notes of the method: two classes, one feature, two examples.
#[test]
fn the_inconsistency_is_that_of_an_example_by_hand() {
    let clean = head(&[1.0, 2.0], &[-0.5, 0.5, 0.25, -0.25]);
    let moved = head(&[2.0, 2.0], &[-0.5, 0.5, 0.5, -0.5]);
    assert!((value(inconsistency(&clean, &moved)) - 1.322_265_6).abs() < 1e-7);
    // One example: no variance, and the squared distance of both gradients.
    let (clean, moved) = (head(&[1.0], &[-0.5, 0.5]), head(&[3.0], &[-0.5, 0.5]));
    // G' − G = (∓1, 0) in every row.
    let expected = 0.25 * 0.5 + (0.5 * 9.0) / 2.0 + 0.5 / 2.0;
    assert!((value(inconsistency(&clean, &moved)) - expected).abs() < 1e-12);
}

/// `u` is the derivative of `L + ρ‖∇L‖` with respect to the examples, by differences of that scalar.
#[test]
fn examples_move_along_the_loss_and_its_sharpness() {
    let rho = 0.1;
    let scalar = |model: &Tiny, batch: &DomainBatch, step: &DomainStep<'_, Tiny>| {
        let landscape = crate::landscape::Landscape::of(model).unwrap();
        let slope = landscape.slope(|m| step.pass_of(m, batch).loss()).unwrap();
        f64::from(slope.loss) + rho * crate::landscape::norm(&slope.gradient).unwrap()
    };
    gradients(1, false, |step| {
        let ascent = Ascent::of(step)?;
        let batch = step.pooled_batch();
        let u = mixed(&ascent, rho, 0.02, step, &batch)?;
        let values: Vec<f32> = u.clone().into_data().try_to_vec().unwrap();
        let norm = values
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();
        let direction = on_graph(u * (1.0 / norm), &batch.input);
        let at = |by: f64| {
            let input = batch.input.clone() + direction.clone() * by;
            let labels = batch.labels.clone();
            scalar(step.model(), &DomainBatch { input, labels }, step)
        };
        let found = (at(0.05) - at(-0.05)) / 0.1;
        assert!((found / norm - 1.0).abs() < 1e-3, "{found} for {norm}");
        // SAM's point is the same up to ρ².
        let sam = both(&ascent, ascent.offset(rho), step, &batch)?.input;
        let sam: Vec<f32> = sam.into_data().try_to_vec().unwrap();
        let near = off(&sam, &values);
        assert!(near < 0.05, "{near}");
        let plain = both(&ascent, ascent.offset(0.0), step, &batch)?.input;
        let plain: Vec<f32> = plain.into_data().try_to_vec().unwrap();
        assert!(off(&plain, &values) > 2.0 * near);
        step.learner().contribute(
            ascent
                .landscape
                .layout()
                .to_gradients(ascent.slope.gradient)?,
            Some(ascent.slope.loss),
        )?;
        Ok(())
    });
}

#[test]
fn moves_have_the_length_that_is_asked_for() {
    let u = Tensor::<2>::from_floats(
        [[3.0e-20, 4.0e-20], [0.0, 0.0], [1.0, 0.0]],
        &Device::flex(),
    );
    let rows: Vec<f32> = normalised(u.clone(), Normalise::PerSample)
        .into_data()
        .try_to_vec()
        .unwrap();
    let expected = [0.6, 0.8, 0.0, 0.0, 1.0, 0.0];
    assert!(
        rows.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
        "{rows:?}"
    );
    let columns: Vec<f32> = normalised(u, Normalise::PerBatch)
        .into_data()
        .try_to_vec()
        .unwrap();
    assert!((columns[4] - 1.0).abs() < 1e-6 && (columns[1] - 1.0).abs() < 1e-6);
}

/// The style moves by the gradient with respect to mean and deviation, and nothing else of the picture does.
#[test]
fn a_style_is_moved_and_the_rest_of_the_picture_stays() {
    let device = Device::flex();
    let x = Tensor::<2>::from_floats([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 1.0, 1.0]], &device);
    let u = Tensor::<2>::from_floats([[0.1, 0.0, 0.2, 0.1], [0.0, 0.0, 0.0, 0.3]], &device);
    let found = restyled(&x, u.clone(), 0.5, [1, 2, 2]);
    let rows: Vec<f32> = found.into_data().try_to_vec().unwrap();
    let (xs, us): (Vec<f32>, Vec<f32>) = (
        x.into_data().try_to_vec().unwrap(),
        u.into_data().try_to_vec().unwrap(),
    );
    for i in 0..2 {
        let (x, u, y) = (
            &xs[4 * i..4 * i + 4],
            &us[4 * i..4 * i + 4],
            &rows[4 * i..4 * i + 4],
        );
        let mean = x.iter().sum::<f32>() / 4.0;
        let deviation = (x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 3.0 + 1e-5).sqrt();
        let normed: Vec<f32> = x.iter().map(|x| (x - mean) / deviation).collect();
        let moved_mean = mean + 0.5 * u.iter().sum::<f32>();
        let along: f32 = u.iter().zip(&normed).map(|(u, n)| u * n).sum();
        let moved_deviation = deviation + 0.5 * along;
        for (y, n) in y.iter().zip(&normed) {
            assert!((y - (n * moved_deviation + moved_mean)).abs() < 1e-5);
        }
    }
}

fn udim(options: serde_json::Value) -> Udim {
    Udim::new(serde_json::from_value(options).unwrap())
}

/// In the warm-up a step is SAM's; without a move the variances agree.
#[test]
fn the_warm_up_is_sam_and_the_base_may_be_sagm() {
    let mut warm = udim(json!({ "warmup": 1.0 }));
    let mut sam = crate::objectives::Sam::default();
    let found = gradients(1, false, |step| warm.step(step)).remove(0);
    let expected = gradients(1, false, |step| sam.step(step)).remove(0);
    assert_eq!(found, expected);
    let mut none = udim(json!({ "warmup": 0.0, "weight": 0.0, "base": { "sagm": 0.1 } }));
    let mut sagm = crate::objectives::Sagm {
        rho: 0.05,
        alpha: 0.1,
    };
    let found = gradients(1, false, |step| none.step(step)).remove(0);
    let expected = gradients(1, false, |step| sagm.step(step)).remove(0);
    assert!(off(&found.1, &expected.1) < 1e-6);
}

/// All kinds of moves give a step, and the ones that need pictures say so.
#[test]
fn every_kind_of_move_gives_a_step() {
    let kinds = [
        json!("none"),
        json!("random"),
        json!({ "pixel": "per-sample" }),
        json!({ "pixel": "per-batch" }),
    ];
    let mut all: Vec<Vec<f32>> = Vec::new();
    for perturbation in kinds {
        let options = json!({ "warmup": 0.0, "weight": 5.0, "clamp": [-9.0, 9.0], "perturbation": perturbation });
        let mut objective = udim(options);
        let (loss, gradient) = gradients(1, false, |step| objective.step(step)).remove(0);
        assert!(loss.is_finite() && !all.contains(&gradient));
        all.push(gradient);
    }
    let mut adversarial = udim(json!({ "base": "adversarial" }));
    let found = gradients(1, false, |step| adversarial.step(step)).remove(0);
    assert!(found.0.is_finite());
    let style = udim(json!({ "perturbation": "style" }));
    let model = Tiny::of(&reference(), false);
    let mut plan = DomainPlan {
        batches: vec![6],
        steps: 5,
        shape: None,
    };
    style.check(&model, &plan).unwrap();
    plan.shape = Some(InputShape::Row(5));
    let error = style.check(&model, &plan).unwrap_err().to_string();
    assert!(error.contains("rows of 5 numbers"), "{error}");
}

#[test]
fn wrong_configurations_are_refused_in_one_sentence() {
    let model = Tiny::of(&reference(), false);
    let plan = DomainPlan {
        batches: vec![6, 1],
        steps: 5,
        shape: None,
    };
    let told =
        |options: serde_json::Value| udim(options).check(&model, &plan).unwrap_err().to_string();
    assert!(told(json!({ "rho": 0.0 })).contains("rho"));
    assert!(told(json!({ "data_radius": -1.0 })).contains("data radius"));
    assert!(told(json!({ "warmup": 1.5 })).contains("warm-up"));
    assert!(told(json!({ "mixed": { "central": 0.0 } })).contains("difference"));
    assert!(told(json!({ "clamp": [1.0, 0.0] })).contains("upper limit"));
    assert!(told(json!({})).contains("batch"));
    let other = Tiny::of(&reference(), true);
    let error = udim(json!({}))
        .check(&other, &plan)
        .unwrap_err()
        .to_string();
    assert!(error.contains("linear last layer"));
}
