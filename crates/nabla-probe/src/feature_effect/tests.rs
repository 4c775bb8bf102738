use burn::tensor::DType;

use super::*;
use crate::gradient_sae::GradientSaeConfig;
use crate::sparse_autoencoder::Dictionary;

/// `logits = V tanh(x)` with `x` the input itself.
struct Small {
    upper: Tensor<2>,
    keeps_first: bool,
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn tensor(values: Vec<f64>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F64))
}

fn drawn(count: usize, seed: u64) -> Vec<f64> {
    let values = SeededNoise::new(seed, 0).normal_values(count);
    values.into_iter().map(f64::from).collect()
}

impl Small {
    fn new() -> Self {
        Self {
            upper: tensor(drawn(12, 1), [4, 3], &device()),
            keeps_first: true,
        }
    }
}

impl HookedModel for Small {
    type Input = (Vec<f64>, Vec<u32>);

    fn device(&self) -> Device {
        device()
    }

    fn lower(&self, (x, _): &Self::Input) -> Result<Tensor<2>, EffectError> {
        Ok(tensor(x.clone(), [x.len() / 4, 4], &device()))
    }

    fn upper(&self, _: &Self::Input, x: Tensor<2>) -> Result<Tensor<2>, EffectError> {
        Ok(x.tanh().matmul(self.upper.clone()))
    }

    fn labels(&self, (_, labels): &Self::Input) -> Vec<u32> {
        labels.clone()
    }

    fn rows(&self, _: &Self::Input, x: &Tensor<2>) -> Result<Vec<usize>, EffectError> {
        Ok((usize::from(!self.keeps_first)..x.dims()[0]).collect())
    }
}

fn inputs() -> Vec<(Vec<f64>, Vec<u32>)> {
    vec![(drawn(12, 2), vec![0, 2, 1]), (drawn(8, 3), vec![1, 1])]
}

#[test]
fn gradients_are_those_of_the_summed_loss() {
    let model = Small::new();
    let set = record(
        &model,
        &inputs(),
        GradientOf::Label,
        Storage::default(),
        &to_the_end,
    )
    .unwrap();
    assert_eq!((set.rows(), set.width()), (5, 4));
    let found = set.read(&[3]).unwrap();
    let loss = |x: &[f64]| {
        let logits = model
            .upper(&inputs()[1], tensor(x.to_vec(), [1, 4], &device()))
            .unwrap();
        read(losses(logits, &[1])).unwrap()[0]
    };
    let x = &inputs()[1].0[..4];
    for i in 0..4 {
        let moved = |h: f64| {
            let mut x = x.to_vec();
            x[i] += h;
            loss(&x)
        };
        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((f64::from(found.gradients[i]) - slope).abs() < 1e-6);
    }
}

#[test]
fn a_unit_of_a_latent_changes_the_loss_by_its_product_with_the_gradient() {
    let model = Small::new();
    let input = &inputs()[0];
    let run = Cut::of(&model, input).unwrap();
    let gradient = run.gradient(&model, input, GradientOf::Label).unwrap();
    let gradient = read(gradient.unwrap()).unwrap();
    let direction = random_directions(4, 1, 7).remove(0);
    let summed = |h: f64| {
        let rows = run.chosen.clone() + tensor(direction.clone(), [1, 4], &Device::flex()) * h;
        let logits = run.with(&model, input, rows).unwrap();
        read(losses(logits, &input.1).sum()).unwrap()[0]
    };
    let slope = (summed(1e-4) - summed(-1e-4)) / 2e-4;
    let product: f64 = gradient
        .chunks_exact(4)
        .flat_map(|g| g.iter().zip(&direction))
        .map(|(g, w)| g * w)
        .sum();
    assert!((slope - product).abs() < 1e-6 * product.abs().max(1.0));
}

/// A dictionary that holds every activation: all axes, up and down.
fn whole() -> crate::gradient_sae::GradientSae {
    let mut rows = vec![0.0; 32];
    for i in 0..4 {
        rows[4 * i + i] = 1.0;
        rows[16 + 4 * i + i] = -1.0;
    }
    let rows = tensor(rows, [8, 4], &device());
    let [bias, offset] = [8, 4].map(|n| Tensor::<1>::zeros([n], (&device(), DType::F64)));
    let dictionary = Dictionary::of(rows.clone(), bias, rows, offset).unwrap();
    GradientSaeConfig::top_k(8).with(dictionary, 1.0).unwrap()
}

#[test]
fn a_whole_dictionary_loses_nothing() {
    let (model, sae) = (Small::new(), whole());
    let saes: [(&dyn Coder, GradientOf); 2] =
        [(&sae, GradientOf::None), (&sae, GradientOf::OwnPrediction)];
    for ablation in [Ablation::Mean, Ablation::Zero] {
        let found = effects(&model, &inputs(), &saes, ablation, &[0.1; 4], &to_the_end).unwrap();
        for effect in &found {
            assert!((effect.loss - effect.clean_loss).abs() < 1e-6);
            // Where the ablation loses nothing, there is nothing to recover.
            let recovered = effect.loss_recovered();
            match effect.ablated_loss > effect.clean_loss {
                true => assert!((recovered - 1.0).abs() < 1e-5),
                false => assert!(recovered.is_nan()),
            }
            assert!(effect.divergence.abs() < 1e-6 && effect.unexplained < 1e-6);
            assert_eq!(effect.accuracy, effect.clean_accuracy);
            assert_eq!((effect.active, effect.latents), (4.0, 8));
        }
        assert_eq!(found[0], found[1]);
    }
}

#[test]
fn what_is_not_chosen_stays() {
    let mut model = Small::new();
    model.keeps_first = false;
    let sae = whole();
    let saes: [(&dyn Coder, GradientOf); 1] = [(&sae, GradientOf::None)];
    // One row is all that the second input has chosen: ablating it with itself loses nothing.
    let last = inputs()[1].0[4..].to_vec();
    let found = effects(
        &model,
        &inputs()[1..],
        &saes,
        Ablation::Mean,
        &last,
        &to_the_end,
    )
    .unwrap();
    assert!((found[0].ablated_loss - found[0].clean_loss).abs() < 1e-6);
    let set = record(
        &model,
        &inputs(),
        GradientOf::None,
        Storage::default(),
        &to_the_end,
    )
    .unwrap();
    assert_eq!(set.rows(), 3);
}

#[test]
fn steering_moves_along_the_direction() {
    let (model, input) = (Small::new(), &inputs()[0]);
    let direction = vec![0.0, 1.0, 0.0, 0.0];
    let run = Cut::of(&model, input).unwrap();
    let values = read(run.chosen.clone()).unwrap();
    let size = values.iter().map(|v| v * v).sum::<f64>() / 3.0;
    let mut moved = values;
    for row in moved.chunks_exact_mut(4) {
        row[1] += 0.5 * size.sqrt();
    }
    let expected = model
        .upper(input, tensor(moved, [3, 4], &device()))
        .unwrap();
    let found = steered(&model, input, &direction, 0.5).unwrap();
    let (found, expected) = (read(found).unwrap(), read(expected).unwrap());
    assert!(
        found
            .iter()
            .zip(&expected)
            .all(|(a, b)| (a - b).abs() < 1e-9)
    );
    let directions = [direction, vec![0.0; 4]];
    let both = steering_effect(&model, &inputs(), &directions, 0.5).unwrap();
    let one = steering_effect(&model, &inputs(), &directions[..1], 0.5).unwrap();
    assert!(one > 0.0 && (both - one / 2.0).abs() < 1e-12);
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = Small::new();
    let wrong = vec![(drawn(8, 1), vec![0])];
    let told = record(
        &model,
        &wrong,
        GradientOf::Label,
        Storage::default(),
        &to_the_end,
    )
    .unwrap_err();
    assert_eq!(
        told.to_string(),
        "the network gives 2 answers, but there are 1 labels"
    );
    let none = record(
        &model,
        &[],
        GradientOf::Label,
        Storage::default(),
        &to_the_end,
    );
    assert!(matches!(none, Err(EffectError::NoInputs)));
    assert!(steered(&model, &inputs()[0], &[1.0], 1.0).is_err());
    assert!(steered(&model, &inputs()[0], &[1.0; 4], f64::NAN).is_err());
    assert!(steering_effect(&model, &inputs(), &[], 1.0).is_err());
}
