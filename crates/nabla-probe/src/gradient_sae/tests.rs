use burn::tensor::DType;

use super::*;
use crate::activation_set::Storage;
use crate::sparse_autoencoder::tests::{Reference, data, ids};

#[test]
fn losses_and_gradients_are_pytorchs() {
    let reference = Reference::read();
    let revived: &[usize] = &[1, 4, 5, 9, 13];
    for (name, alpha, beta, selection, mean, dead) in [
        ("top-k", 1.0, 0.0, Selection::Example, 0.8, &[][..]),
        ("with gradients", 1.0, 1.5, Selection::Example, 0.8, &[]),
        ("attribution", 0.0, 1.0, Selection::Example, 0.8, &[]),
        ("batch", 1.0, 0.5, Selection::Batch, 0.8, &[]),
        ("revived", 1.0, 1.0, Selection::Example, 0.8, revived),
    ] {
        let mut config = GradientSaeConfig::new(3);
        (config.alpha, config.beta, config.selection) = (alpha, beta, selection);
        let sae = config.with(reference.dictionary(), mean).unwrap();
        let objective = sae.objective(reference.batch(dead)).unwrap();
        reference.check(name, &sae, objective, &ids(&sae.dictionary));
    }
}

/// The example of two dimensions and three latents.
fn example(active: usize, beta: f64) -> GradientSae {
    let device = Device::flex().autodiff();
    let decoder = Tensor::<2>::from_data(
        TensorData::from([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]),
        (&device, DType::F64),
    );
    // With x = 0, the bias is the activity.
    let bias = Tensor::from_data(TensorData::from([1.0, 0.4, 0.7]), (&device, DType::F64));
    let offset = Tensor::zeros([2], (&device, DType::F64));
    let dictionary = Dictionary::of(decoder.zeros_like(), bias, decoder, offset).unwrap();
    let mut config = GradientSaeConfig::new(active);
    config.beta = beta;
    config.with(dictionary, 1.0).unwrap()
}

fn chosen(sae: &GradientSae, gradient: [f64; 2]) -> Vec<usize> {
    let options = (&Device::flex(), DType::F64);
    let x = Tensor::<2>::zeros([1, 2], options);
    let gradient = Tensor::from_data(TensorData::from([gradient]), options);
    let codes = sae.encode(x, Some(gradient)).unwrap();
    codes.of(0).map(|(id, _)| id).collect()
}

#[test]
fn the_gradient_chooses() {
    // z = (1, 0.4, 0.7), a = (0.1, 2, 1.54): the scores are 1.1, 1.2 and 1.778.
    let gradient = [0.1, -2.0];
    assert_eq!(chosen(&example(1, 0.0), gradient), [0]);
    assert_eq!(chosen(&example(1, 1.0), gradient), [2]);
    assert_eq!(chosen(&example(2, 0.0), gradient), [0, 2]);
    assert_eq!(chosen(&example(2, 1.0), gradient), [1, 2]);
    let scored = example(1, 1.0)
        .scored(
            Tensor::zeros([1, 2], (&Device::flex(), DType::F64)),
            Some(Tensor::from_data(
                TensorData::from([[0.1, -2.0]]),
                (&Device::flex(), DType::F64),
            )),
        )
        .unwrap();
    let mut scores = [0.0; 3];
    scored.write_scores(0, &mut scores);
    for (score, expected) in scores.iter().zip([1.1, 1.2, 1.778_f32]) {
        assert!((score - expected).abs() < 1e-6);
    }
}

#[test]
fn a_gradient_scaled_against_beta_chooses_the_same() {
    for gradient in [[0.1, -2.0], [3.0, 0.4]] {
        let scaled = gradient.map(|g| g * 8.0);
        assert_eq!(
            chosen(&example(2, 1.0), gradient),
            chosen(&example(2, 0.125), scaled)
        );
    }
}

#[test]
fn equal_scores_are_chosen_in_order_and_none_below_zero() {
    assert_eq!(largest(&[1.0, 2.0, 2.0, 2.0, 0.5], 2), [1, 2]);
    assert_eq!(largest(&[0.0, -1.0, 3.0], 2), [2]);
    assert_eq!(largest(&[], 2), Vec::<usize>::new());
    assert_eq!(largest(&[1.0], 0), Vec::<usize>::new());
    assert_eq!(largest(&[f32::NAN, 1.0], 2), [1]);
}

#[test]
fn with_beta_0_the_gradient_changes_no_bit() {
    let reference = Reference::read();
    let sae = GradientSaeConfig::top_k(4)
        .with(reference.dictionary(), 1.0)
        .unwrap();
    let x = reference.matrix("x");
    let gradient = reference.matrix("gradient");
    assert_eq!(
        sae.encode(x.clone(), Some(gradient)).unwrap(),
        sae.encode(x, None).unwrap()
    );
}

#[test]
fn gradients_are_asked_for() {
    let device = Device::flex().autodiff();
    let mut set = crate::activation_set::ActivationSet::new(2, Storage::default()).unwrap();
    set.push(&[1.0, 2.0, 3.0, 5.0], None).unwrap();
    let begin = DictionaryConfig::new(4);
    let without = GradientSaeConfig::new(1).init(&begin, &set, &device);
    assert!(matches!(without, Err(SaeError::NoGradients)));
    assert!(
        GradientSaeConfig::top_k(1)
            .init(&begin, &set, &device)
            .is_ok()
    );
    let init = |change: fn(&mut GradientSaeConfig)| {
        let mut config = GradientSaeConfig::new(2);
        change(&mut config);
        config
            .init(&begin, &data(16), &device)
            .unwrap_err()
            .to_string()
    };
    let told = init(|c| c.active = 5);
    assert!(
        told.contains("number of active latents") && told.contains('5'),
        "{told}"
    );
    let told = init(|c| c.beta = -1.0);
    assert!(told.contains("beta") && told.contains("-1"), "{told}");
    init(|c| (c.alpha, c.beta) = (0.0, 0.0));
}
