//! Records of the optimizers: saved, loaded, and refused.

use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Bytes, Device, Tensor, TensorData};
use nabla_optim::adabelief::AdaBeliefConfig;
use nabla_optim::adamp::{AdamPConfig, SgdPConfig};
use nabla_optim::adamw::AdamWConfig;
use nabla_optim::checked_record::{LoadError, checked_load};
use nabla_optim::diffgrad::DiffGradConfig;
use proptest::prelude::*;

fn optimizers() -> Vec<(&'static str, ModuleOptimizer)> {
    let momentum = SgdPConfig::new().with_momentum(0.9);
    vec![
        ("AdamP", AdamPConfig::new().init().unwrap()),
        ("SGDP", momentum.init().unwrap()),
        ("diffGrad", DiffGradConfig::new().init().unwrap()),
        ("AdaBelief", AdaBeliefConfig::new().init().unwrap()),
        (
            "AdaBelief with AMSGrad",
            AdaBeliefConfig::new().with_amsgrad(true).init().unwrap(),
        ),
        ("AdamW", AdamWConfig::new().init().unwrap()),
        (
            "AdamW with AMSGrad",
            AdamWConfig::new().with_amsgrad(true).init().unwrap(),
        ),
        ("AdamW of Burn", burn::optim::AdamWConfig::new().init()),
    ]
}

fn layer() -> Linear {
    LinearConfig::new(5, 4).init(&Device::flex().autodiff())
}

/// Steps number `steps`; the gradients differ.
fn train(
    optimizer: &mut ModuleOptimizer,
    mut layer: Linear,
    steps: std::ops::Range<i32>,
) -> Linear {
    let device = layer.weight.val().device();
    for i in steps {
        let x = Tensor::<2>::ones([3, 5], &device) * (0.1 * (i as f32 + 1.0).sin());
        let loss = (layer.forward(x) - 0.5).powi_scalar(2).sum();
        let grads = GradientsParams::from_grads(loss.backward(), &layer);
        layer = optimizer.step(0.01, layer, grads);
    }
    layer
}

fn data(layer: &Linear) -> [TensorData; 2] {
    let bias = layer.bias.as_ref().unwrap();
    [layer.weight.val().to_data(), bias.val().to_data()]
}

#[test]
fn a_loaded_optimizer_goes_on_with_the_same_bits() {
    for (name, fresh) in optimizers() {
        let mut optimizer = fresh.clone();
        let middle = train(&mut optimizer, layer(), 0..7);
        let bytes = optimizer.into_bytes().unwrap();
        let mut loaded = checked_load(fresh, bytes, &middle).unwrap();
        let on = train(&mut optimizer, middle.clone(), 7..12);
        let resumed = train(&mut loaded, middle, 7..12);
        assert_eq!(data(&on), data(&resumed), "{name}");
    }
}

#[test]
fn another_optimizers_record_is_refused() {
    for (name, fresh) in optimizers() {
        let layer = layer();
        let mut optimizer = fresh;
        let trained = train(&mut optimizer, layer, 0..2);
        for (other, into) in optimizers() {
            let bytes = optimizer.into_bytes().unwrap();
            let loaded = checked_load(into, bytes, &trained);
            // An AdaBelief takes the record of one with other options; an AdamW also that of Burn's.
            let options = ["AdaBelief", "AdamW"]
                .iter()
                .any(|method| name.starts_with(method) && other.starts_with(method));
            if name == other || options {
                assert!(loaded.is_ok(), "{name} {other}");
            } else {
                let refused = matches!(loaded, Err(LoadError::OtherOptimizer { .. }));
                assert!(refused, "{name} {other}");
            }
        }
    }
}

#[test]
fn a_record_for_another_module_is_refused() {
    let mut optimizer = AdamPConfig::new().init().unwrap();
    let trained = train(&mut optimizer, layer(), 0..2);
    let load = |layer: &Linear| {
        let bytes = optimizer.into_bytes().unwrap();
        checked_load(AdamPConfig::new().init().unwrap(), bytes, layer).err()
    };
    assert!(matches!(
        load(&layer()),
        Some(LoadError::UnknownParameter(_))
    ));
    let device = trained.weight.val().device();
    let mut other = trained.clone();
    other.weight = Param::initialized(trained.weight.id, Tensor::ones([4, 5], &device));
    let error = load(&other).unwrap();
    let LoadError::Shape {
        expected, found, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((expected, found), (&vec![4, 5], &vec![5, 4]));
    assert!(error.to_string().contains("has the shape [5, 4]"));
    assert!(load(&trained).is_none());
}

/// A module and the record of its optimizer.
fn record() -> (Linear, Vec<u8>) {
    let mut optimizer = AdaBeliefConfig::new().init().unwrap();
    let trained = train(&mut optimizer, layer(), 0..2);
    (trained, optimizer.into_bytes().unwrap().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_bytes_give_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let fresh = AdaBeliefConfig::new().init().unwrap();
        prop_assert!(checked_load(fresh, Bytes::from_bytes_vec(bytes), &layer()).is_err());
    }

    #[test]
    fn a_damaged_record_gives_an_optimizer_or_an_error(
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let (layer, mut bytes) = record();
        let at = place.index(bytes.len());
        bytes[at] = byte;
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        let fresh = AdaBeliefConfig::new().init().unwrap();
        if let Ok(mut loaded) = checked_load(fresh, Bytes::from_bytes_vec(bytes), &layer) {
            let _ = train(&mut loaded, layer, 0..1);
        }
    }
}
