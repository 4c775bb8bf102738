use std::path::Path;

use nabla_language::llama::LlamaConfig;

use super::*;
use crate::activation_set::Storage;
use crate::feature_effect::{Ablation, effects, record, to_the_end};
use crate::gradient_sae::GradientSaeConfig;
use crate::sparse_autoencoder::{DictionaryConfig, SparseAutoencoder, read};

fn device() -> Device {
    Device::flex().autodiff()
}

fn reference(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../nabla-language/tests/reference")
        .join(name)
}

fn decoder() -> HookedLanguageModel {
    let config = LlamaConfig {
        vocabulary: 13,
        width: 16,
        hidden: 16,
        blocks: 2,
        heads: 2,
        key_heads: 1,
        context: 64,
        epsilon: 1e-5,
        rope_base: 100.0,
    };
    let model = config.init(3, &device()).unwrap();
    HookedLanguageModel::new(Network::Llama(model), 1, device()).unwrap()
}

fn texts() -> Vec<Passages> {
    let text = |seed: u32| Passages::Text((0..10).map(|i| (i * i + seed) % 13).collect());
    (0..4).map(text).collect()
}

#[test]
fn a_decoder_is_read_between_its_first_and_last_piece() {
    let model = decoder();
    let set = record(
        &model,
        &texts(),
        GradientOf::Label,
        Storage::default(),
        &to_the_end,
    )
    .unwrap();
    assert_eq!((set.rows(), set.width()), (4 * 8, 16));
    let text = texts().remove(0);
    assert_eq!((text.pieces(), text.around(7).1), (10, 7));
    let gradients = set.read(&(0..32).collect::<Vec<_>>()).unwrap().gradients;
    assert!(
        gradients
            .chunks_exact(16)
            .all(|g| g.iter().any(|&v| v != 0.0))
    );
}

#[test]
fn massive_activations_are_left_out() {
    let model = decoder();
    let mut values = vec![1.0; 10 * 16];
    for place in [0, 4, 9] {
        values[place * 16] = 100.0;
    }
    values[6 * 16] = 30.0;
    let x = Tensor::from_data(TensorData::new(values, [10, 16]), &Device::flex());
    let rows = model.rows(&texts()[0], &x).unwrap();
    assert_eq!(rows, [1, 2, 3, 5, 6, 7, 8]);
}

#[test]
fn features_are_found_where_they_are_active() {
    let model = decoder();
    let set = record(
        &model,
        &texts(),
        GradientOf::OwnPrediction,
        Storage::default(),
        &to_the_end,
    )
    .unwrap();
    let sae = GradientSaeConfig::new(3).init(&DictionaryConfig::new(20), &set, &device());
    let sae = sae.unwrap();
    let found = features(
        &model,
        &texts(),
        &sae,
        GradientOf::OwnPrediction,
        2,
        &to_the_end,
    )
    .unwrap();
    let total: f64 = found.iter().map(|f| f.density).sum();
    assert!((total - 3.0).abs() < 1e-9, "{total}");
    for feature in &found {
        assert!(!feature.strongest.is_empty() && feature.strongest.len() <= 2);
        let [first, rest @ ..] = &feature.strongest[..] else {
            panic!("none");
        };
        assert!(
            rest.iter()
                .all(|l| l.passage != first.passage && l.activity <= first.activity)
        );
        let codes = crate::feature_effect::codes(
            &model,
            &texts()[first.passage],
            &sae,
            GradientOf::OwnPrediction,
        );
        let (own, places) = codes.unwrap();
        let example = places.iter().position(|&p| p == first.row).unwrap();
        let found = own.of(example).find(|(id, _)| *id == feature.latent);
        assert_eq!(found.map(|f| f64::from(f.1)), Some(first.activity));
    }
    let saes: [(&dyn Coder, GradientOf); 1] = [(&sae, GradientOf::OwnPrediction)];
    let found = effects(
        &model,
        &texts(),
        &saes,
        Ablation::Mean,
        &[0.0; 16],
        &to_the_end,
    )
    .unwrap();
    assert_eq!(found[0].active, 3.0);
}

#[test]
fn steering_changes_what_follows() {
    let model = decoder();
    let sae = {
        let set = record(
            &model,
            &texts(),
            GradientOf::None,
            Storage::default(),
            &to_the_end,
        )
        .unwrap();
        let config = GradientSaeConfig::top_k(2);
        config
            .init(&DictionaryConfig::new(8), &set, &device())
            .unwrap()
    };
    let rows = read(sae.dictionary().decoder.val()).unwrap();
    let text = [1, 2, 3];
    let plain = model.continued(&text, 6, None).unwrap();
    assert_eq!(plain.len(), 9);
    assert_eq!(
        plain,
        model.continued(&text, 6, Some((&rows[..16], 0.0))).unwrap()
    );
    let moved: Vec<Vec<u32>> = rows
        .chunks_exact(16)
        .map(|row| model.continued(&text, 6, Some((row, 20.0))).unwrap())
        .collect();
    assert!(moved.iter().any(|ids| *ids != plain));
    let directions = sae.dictionary().decoder.val().without_autodiff();
    let promoted = model.promoted(directions, 3).unwrap().unwrap();
    assert!(promoted.len() == 8 && promoted.iter().all(|p| p.len() == 3));
    assert!(
        model
            .promoted(Tensor::zeros([1, 3], &Device::flex()), 3)
            .is_err()
    );
    assert!(model.continued(&text, 1, Some((&[1.0], 1.0))).is_err());
    assert!(model.continued(&[], 1, None).is_err());
}

#[test]
fn an_encoder_is_asked_what_follows() {
    let model = Bert::load(&reference("tiny_bert"), &device()).unwrap();
    let model = HookedLanguageModel::new(Network::Bert(model), 1, device()).unwrap();
    let ids = |seed: u32, length: u32| (0..length).map(|i| (i * i + seed) % 19).collect();
    let pairs = (0..3).map(|i| [ids(i, 5), ids(i + 7, 6)]).collect();
    let input = Passages::Pairs(pairs);
    let (pieces, place) = input.around(12);
    assert_eq!((pieces.len(), place), (5, 1));
    assert_eq!(input.around(33).0.len(), 0);
    let logits = {
        let x = model.lower(&input).unwrap();
        assert_eq!(x.dims(), [33, 16]);
        read(model.upper(&input, x).unwrap()).unwrap()
    };
    assert_eq!(logits.len(), 9);
    assert!(logits.iter().all(|l| l.abs() <= 20.0 + 1e-4));
    let set = record(
        &model,
        &[input],
        GradientOf::Label,
        Storage::default(),
        &to_the_end,
    )
    .unwrap();
    assert_eq!(set.rows(), 33);
    let text = Passages::Text(vec![1, 2, 3]);
    assert!(model.lower(&text).is_err());
    assert!(
        model
            .promoted(Tensor::zeros([1, 16], &Device::flex()), 3)
            .unwrap()
            .is_none()
    );
    assert!(model.continued(&[1], 1, None).is_err());
}

#[test]
fn texts_are_cut_into_passages() {
    let model = LanguageModel::open(&reference("tiny_llama.gguf"), &device()).unwrap();
    let text = "abc ab12".repeat(30);
    let found = passages(&model, &[text.clone(), text.clone()], 16, 1000).unwrap();
    for passage in &found {
        let Passages::Text(ids) = passage else {
            panic!("a decoder reads texts");
        };
        assert_eq!((ids.len(), ids[0]), (16, 0));
    }
    let few = passages(&model, std::slice::from_ref(&text), 16, 40).unwrap();
    assert_eq!(few.len(), 3);
    assert_eq!(few[..], found[..3]);
    let short = passages(&model, &["abc".to_owned()], 16, 40).unwrap_err();
    assert!(short.to_string().contains("16 are needed"), "{short}");
    assert!(passages(&model, &[text], 65, 40).is_err());
    let network = model.network;
    assert!(HookedLanguageModel::new(network.clone(), 0, device()).is_err());
    assert!(HookedLanguageModel::new(network, 2, device()).is_err());
}
