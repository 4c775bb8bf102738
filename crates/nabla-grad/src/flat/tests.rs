use super::*;
use burn::module::Param;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::optim::{AdamConfig, SgdConfig};
use burn::store::ModuleSnapshot;
use burn::tensor::TensorData;
use proptest::prelude::*;

#[derive(Module, Debug)]
struct Network {
    layers: Vec<Linear>,
    norm: Option<BatchNorm>,
    scale: Param<Tensor<3>>,
}

/// `widths[0] → widths[1] → …`, without biases after the first layer.
fn network(widths: &[usize], norm: bool, device: &Device) -> Network {
    let layers = widths.windows(2).enumerate().map(|(index, pair)| {
        LinearConfig::new(pair[0], pair[1])
            .with_bias(index == 0)
            .init(device)
    });
    Network {
        layers: layers.collect(),
        norm: norm.then(|| BatchNormConfig::new(widths[1]).init(device)),
        scale: Param::from_tensor(Tensor::ones([1, 2, 3], device)),
    }
}

/// Depends on every parameter.
fn loss(network: &Network, device: &Device) -> Tensor<1> {
    let [inputs, _] = network.layers[0].weight.dims();
    let mut x = Tensor::<1>::from_floats([0.3, -0.7, 1.1, 0.2, -0.4, 0.9], device)
        .slice(0..inputs)
        .unsqueeze::<2>(); // [1, inputs]
    for layer in &network.layers {
        x = layer.forward(x).tanh();
    }
    x.square().sum() + network.scale.val().powi_scalar(2).sum() * 0.5
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_to_vec().unwrap()
}

#[test]
fn names_shapes_and_values_are_those_of_burns_records() {
    let device = Device::flex();
    let network = network(&[3, 4, 2], true, &device);
    let layout = ParameterLayout::of(&network).unwrap();
    let vector = layout.flatten_parameters(&network).unwrap();
    let tensors = network.collect(None, None, false);
    assert_eq!(tensors.len(), layout.entries().len());
    let mut offset = 0;
    for (entry, tensor) in layout.entries().iter().zip(tensors) {
        assert_eq!(entry.name(), tensor.name);
        assert_eq!(Some(entry.id().val()), tensor.param_id);
        assert_eq!(entry.shape(), tensor.shape.as_slice());
        assert_eq!(entry.offset(), offset);
        offset += entry.num_elements();
        let bytes: Vec<u8> = values(&layout.slice(entry.name(), &vector).unwrap())
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        assert_eq!(bytes, *tensor.to_bytes().unwrap(), "{}", entry.name());
    }
    assert_eq!(layout.total_length(), offset);
    assert_eq!(layout.total_length(), network.num_params());
    let names: Vec<_> = layout.entries().iter().map(ParameterEntry::name).collect();
    assert_eq!(
        names,
        [
            "layers.0.weight",
            "layers.0.bias",
            "layers.1.weight",
            "norm.gamma",
            "norm.beta",
            "norm.running_mean",
            "norm.running_var",
            "scale"
        ]
    );
}

#[test]
fn the_flat_gradient_is_the_derivative_along_each_coordinate() {
    let device = Device::flex().autodiff();
    let network = network(&[3, 4, 2], false, &device);
    let layout = ParameterLayout::of(&network).unwrap();
    let gradients = GradientsParams::from_grads(loss(&network, &device).backward(), &network);
    let gradient = layout.flatten_gradients(&gradients).unwrap();
    assert!(!gradient.is_autodiff());
    let gradient = values(&gradient);
    let parameters = layout.flatten_parameters(&network).unwrap();
    assert!(!parameters.is_autodiff());
    let parameters = values(&parameters);
    for index in 0..layout.total_length() {
        let at = |step: f32| {
            let mut moved = parameters.clone();
            moved[index] += step;
            let moved = Tensor::from_floats(moved.as_slice(), &Device::flex());
            let moved = layout.with_parameters(network.clone(), moved).unwrap();
            f64::from(loss(&moved, &device).into_scalar::<f32>())
        };
        let difference = (at(1e-2) - at(-1e-2)) / 2e-2;
        assert!(
            (difference - f64::from(gradient[index])).abs() < 1e-3,
            "{index}: {difference} {}",
            gradient[index]
        );
    }
}

#[test]
fn what_goes_back_keeps_ids_and_the_requirement_of_a_gradient() {
    let device = Device::flex().autodiff().gradient_checkpointing();
    let mut before = network(&[3, 4, 2], false, &device);
    before.layers[1].weight = before.layers[1].weight.clone().set_require_grad(false);
    let layout = ParameterLayout::of(&before).unwrap();
    // A vector that is part of a graph is detached from it.
    let vector = layout.flatten_parameters(&before).unwrap().autodiff();
    let vector = (vector.require_grad() * 2.0).exp();
    let after = layout
        .with_parameters(before.clone(), vector.clone())
        .unwrap();
    let kept = ParameterLayout::of(&after).unwrap();
    for (a, b) in layout.entries().iter().zip(kept.entries()) {
        assert_eq!((a.id(), a.name()), (b.id(), b.name()));
    }
    assert!(after.layers[0].weight.is_require_grad());
    assert!(!after.layers[1].weight.is_require_grad());
    assert!(after.scale.is_require_grad());
    assert_eq!(
        after.scale.gradient_checkpointing_strategy(),
        before.scale.gradient_checkpointing_strategy()
    );
    assert_eq!(
        values(&layout.flatten_parameters(&after).unwrap()),
        values(&vector)
    );
    // It trains: gradients arrive at the leaves that require them.
    let gradients = GradientsParams::from_grads(loss(&after, &device).backward(), &after);
    assert!(gradients.get::<3>(after.scale.id).is_some());
    assert!(gradients.get::<2>(after.layers[1].weight.id).is_none());
}

#[test]
fn an_optimizer_steps_along_the_changed_gradient() {
    let device = Device::flex().autodiff();
    let network = network(&[3, 4, 2], false, &device);
    let layout = ParameterLayout::of(&network).unwrap();
    let direction: Vec<f32> = (0..layout.total_length()).map(|i| i as f32).collect();
    let direction = Tensor::<1>::from_floats(direction.as_slice(), &Device::flex());
    let before = layout.flatten_parameters(&network).unwrap();
    let gradients = layout.to_gradients(direction.clone()).unwrap();
    let stepped = SgdConfig::new()
        .init()
        .step(0.5, network.clone(), gradients);
    let after = layout.flatten_parameters(&stepped).unwrap();
    let expected = values(&(before - direction * 0.5));
    for (found, expected) in values(&after).into_iter().zip(expected) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }

    // An unchanged vector gives the same bits as without the detour; Adam keeps a state per id.
    let gradients = || GradientsParams::from_grads(loss(&network, &device).backward(), &network);
    let flat = layout.flatten_gradients(&gradients()).unwrap();
    let step = |gradients| {
        let stepped = AdamConfig::new()
            .init()
            .step(0.1, network.clone(), gradients);
        values(&layout.flatten_parameters(&stepped).unwrap())
    };
    assert_eq!(step(layout.to_gradients(flat).unwrap()), step(gradients()));
}

#[test]
fn a_missing_gradient_is_an_error_or_zero_as_asked() {
    let device = Device::flex().autodiff();
    let mut network = network(&[3, 4, 2], false, &device);
    let all = ParameterLayout::of(&network).unwrap();
    let full = all
        .flatten_gradients(&GradientsParams::from_grads(
            loss(&network, &device).backward(),
            &network,
        ))
        .unwrap();
    network.layers[1].weight = network.layers[1].weight.clone().set_require_grad(false);
    let gradients = GradientsParams::from_grads(loss(&network, &device).backward(), &network);
    assert_eq!(
        all.flatten_gradients(&gradients).unwrap_err(),
        FlatError::MissingGradient {
            name: "layers.1.weight".into()
        }
    );
    let zeros = all.flatten_gradients_or_zeros(&gradients).unwrap();
    for entry in all.entries() {
        let found = values(&all.slice(entry.name(), &zeros).unwrap());
        let expected = if entry.name() == "layers.1.weight" {
            vec![0.0; 8]
        } else {
            values(&all.slice(entry.name(), &full).unwrap())
        };
        assert_eq!(found, expected, "{}", entry.name());
    }
    let none = all.flatten_gradients_or_zeros(&GradientsParams::new());
    assert_eq!(values(&none.unwrap()), vec![0.0; all.total_length()]);

    // A trainable layout misses nothing, and leaves the rest alone.
    let trainable = ParameterLayout::trainable(&network).unwrap();
    assert_eq!(trainable.total_length(), all.total_length() - 8);
    let gradient = trainable.flatten_gradients(&gradients).unwrap();
    let frozen = values(&network.layers[1].weight.val());
    let moved = trainable
        .with_parameters(network, gradient.clone())
        .unwrap();
    assert_eq!(values(&moved.layers[1].weight.val()), frozen);
    assert_eq!(
        values(&trainable.flatten_parameters(&moved).unwrap()),
        values(&gradient)
    );
}

#[test]
fn a_trainable_layout_leaves_shared_statistics_alone() {
    let device = Device::flex().autodiff();
    let network = network(&[3, 4, 2], true, &device);
    let layout = ParameterLayout::trainable(&network).unwrap();
    assert!(layout.entry("norm.gamma").is_ok());
    assert_eq!(
        layout.entry("norm.running_var").unwrap_err(),
        FlatError::UnknownName("norm.running_var".into())
    );
    let vector = Tensor::zeros([layout.total_length()], layout.device());
    let moved = layout.with_parameters(network.clone(), vector).unwrap();
    for norm in [network.norm.as_ref().unwrap(), moved.norm.as_ref().unwrap()] {
        assert_eq!(values(&norm.running_var.value()), [1.0; 4]);
    }
    assert_eq!(values(&moved.norm.unwrap().gamma.val()), [0.0; 4]);
    assert_eq!(values(&network.norm.unwrap().gamma.val()), [1.0; 4]);
}

#[test]
fn taking_the_layout_does_not_initialise() {
    let linear: Linear = LinearConfig::new(3, 2).init(&Device::flex());
    assert_eq!(ParameterLayout::of(&linear).unwrap().total_length(), 8);
    assert!(!linear.weight.is_initialized());
}

#[test]
fn a_shaped_slice_has_the_shape_of_the_parameter() {
    let network = network(&[3, 4, 2], false, &Device::flex());
    let layout = ParameterLayout::of(&network).unwrap();
    let vector = layout.flatten_parameters(&network).unwrap();
    let weight = layout.slice_shaped::<2>(0, &vector).unwrap();
    assert_eq!(weight.to_data(), network.layers[0].weight.val().to_data());
    assert_eq!(
        layout.slice_shaped::<3>("scale", &vector).unwrap().dims(),
        [1, 2, 3]
    );
    let error = layout.slice_shaped::<1>(0, &vector).unwrap_err();
    assert!(matches!(error, FlatError::Rank { .. }), "{error}");
    assert_eq!(
        layout.slice(4, &vector).unwrap_err(),
        FlatError::UnknownIndex { index: 4, count: 4 }
    );
    assert_eq!(
        layout.slice(0, &vector.slice(0..5)).unwrap_err(),
        FlatError::Length {
            expected: layout.total_length(),
            found: 5
        }
    );
}

#[test]
fn another_module_is_refused_with_what_differs() {
    let device = Device::flex();
    let layout = ParameterLayout::of(&network(&[3, 4, 2], false, &device)).unwrap();
    let refused = |other: &Network| {
        let error = layout.flatten_parameters(other).unwrap_err();
        let vector = Tensor::zeros([layout.total_length()], &device);
        let put = layout.with_parameters(other.clone(), vector).unwrap_err();
        assert_eq!(error, put);
        error
    };
    assert_eq!(
        refused(&network(&[3, 5, 2], false, &device)),
        FlatError::Shape {
            name: "layers.0.weight".into(),
            expected: vec![3, 4],
            found: vec![3, 5]
        }
    );
    assert_eq!(
        refused(&network(&[3, 4, 2], true, &device)),
        FlatError::Name {
            index: 3,
            expected: "scale".into(),
            found: "norm.gamma".into()
        }
    );
    let short = ParameterLayout::of(&network(&[3, 4, 2], false, &device).layers).unwrap();
    assert_eq!(
        short
            .flatten_parameters(&network(&[3, 4, 2, 2], false, &device).layers)
            .unwrap_err(),
        FlatError::Count {
            expected: 3,
            found: 4
        }
    );
    assert_eq!(
        short
            .flatten_parameters(&network(&[3, 4], false, &device).layers)
            .unwrap_err(),
        FlatError::Count {
            expected: 3,
            found: 2
        }
    );
    // The same structure fits: a layout contains no values.
    assert!(
        layout
            .flatten_parameters(&network(&[3, 4, 2], false, &device))
            .is_ok()
    );
}

#[test]
fn modules_that_cannot_be_flattened_are_refused() {
    let device = Device::flex();
    assert_eq!(
        ParameterLayout::of(&Vec::<Linear>::new()).unwrap_err(),
        FlatError::EmptyModule { trainable: false }
    );
    // Nothing requires a gradient on a device without autodiff.
    let error = ParameterLayout::trainable(&network(&[3, 4], false, &device)).unwrap_err();
    assert_eq!(error, FlatError::EmptyModule { trainable: true });
    assert_eq!(
        error.to_string(),
        "the module has no float parameters that require a gradient"
    );
    let linear: Linear = LinearConfig::new(3, 2).init(&device);
    assert_eq!(
        ParameterLayout::of(&vec![linear.clone(), linear]).unwrap_err(),
        FlatError::SharedId {
            first: "0.weight".into(),
            second: "1.weight".into()
        }
    );
    let mut hollow = network(&[3, 4], false, &device);
    hollow.scale = Param::from_tensor(Tensor::zeros([1, 0, 3], &device));
    assert_eq!(
        ParameterLayout::of(&hollow).unwrap_err(),
        FlatError::EmptyParameter {
            name: "scale".into(),
            shape: vec![1, 0, 3]
        }
    );
    let mut mixed = network(&[3, 4], false, &device);
    mixed.scale = Param::from_tensor(Tensor::ones([1, 2, 3], (&device, DType::F64)));
    let layout = ParameterLayout::of(&mixed).unwrap();
    let expected = FlatError::ElementType {
        what: "the parameter `scale`".into(),
        expected: DType::F32,
        found: DType::F64,
    };
    assert_eq!(layout.flatten_parameters(&mixed).unwrap_err(), expected);
}

#[test]
fn vectors_that_do_not_fit_are_refused() {
    let device = Device::flex();
    let network = network(&[3, 4], false, &device);
    let layout = ParameterLayout::of(&network).unwrap();
    let expected = FlatError::Length {
        expected: 22,
        found: 21,
    };
    let short = Tensor::zeros([21], &device);
    assert_eq!(layout.to_gradients(short.clone()).unwrap_err(), expected);
    let error = layout.with_parameters(network.clone(), short).unwrap_err();
    assert_eq!(error, expected);
    let double = Tensor::zeros([22], (&device, DType::F64));
    let error = layout.with_parameters(network, double).unwrap_err();
    assert!(matches!(error, FlatError::ElementType { .. }), "{error}");
    // A gradient of another shape under the parameter's id.
    let mut gradients = layout.to_gradients(Tensor::zeros([22], &device)).unwrap();
    let bias = layout.entry("layers.0.bias").unwrap();
    gradients.register(bias.id(), Tensor::<1>::zeros([3], &device));
    let error = layout.flatten_gradients(&gradients).unwrap_err();
    assert!(error.to_string().contains("layers.0.bias"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_vector_goes_into_a_module_and_comes_back(
        widths in prop::collection::vec(1_usize..6, 2..5),
        norm: bool,
        seed: u64,
    ) {
        let device = Device::flex();
        let network = network(&widths, norm, &device);
        let layout = ParameterLayout::of(&network).unwrap();
        let mut noise = crate::seeded_noise::SeededNoise::new(seed, 0);
        let vector = noise.normal_values(layout.total_length());
        let tensor = Tensor::<1>::from_data(
            TensorData::new(vector.clone(), [vector.len()]),
            &device,
        );
        let moved = layout.with_parameters(network, tensor.clone()).unwrap();
        prop_assert_eq!(values(&layout.flatten_parameters(&moved).unwrap()), vector.clone());
        let gradients = layout.to_gradients(tensor).unwrap();
        prop_assert_eq!(values(&layout.flatten_gradients(&gradients).unwrap()), vector);
    }
}
