use burn::nn::LinearConfig;
use burn::tensor::Device;
use nabla_kernels::nn;
use proptest::prelude::*;

use super::*;
use crate::quantized::QuantizationConfig;
use crate::quantized::tests::{Network, picture, rounded};

fn bits_of(tensor: Tensor<2>) -> Vec<u32> {
    tensor.into_data().iter::<f32>().map(f32::to_bits).collect()
}

/// Convolutions with strides, dilation, padding and groups, and linear layers: integers give the bits of the simulation,
/// also after a trip through a file, into a network with other weights.
#[test]
fn integers_give_the_bits_of_the_simulation() {
    let device = Device::flex();
    for bits in [2, 3, 4, 5, 8] {
        for per_channel in [true, false] {
            let config = QuantizationConfig {
                bits,
                edge_bits: (bits % 2 == 0).then_some(8),
                input_bits: (bits == 3).then_some(8),
                per_channel,
            };
            let model = rounded(&config, &device);
            let simulated = bits_of(model.pass(|network| network.forward(picture(&device))));
            let integers = IntegerNetwork::new(&model).unwrap();
            let found = bits_of(integers.pass(|network| network.forward(picture(&device))));
            assert_eq!(found, simulated, "{config:?}");
            let file = integers.to_bytes().unwrap();
            assert_eq!(file, integers.to_bytes().unwrap());
            let other = Network::new(2, &device);
            let read = IntegerNetwork::from_bytes(other, &file).unwrap();
            let found = bits_of(read.pass(|network| network.forward(picture(&device))));
            assert_eq!(found, simulated, "{config:?}");
        }
    }
}

/// Sums of more than 24 bits: products in single precision would be rounded.
#[test]
fn wide_sums_are_exact() {
    let device = Device::flex();
    let inputs = 4000;
    let layer = nn::Linear::from(LinearConfig::new(inputs, 3).init(&device));
    let values: Vec<f32> = (0..2 * inputs)
        .map(|i| ((i * 7 % 13) as f32).sqrt())
        .collect();
    let x = Tensor::<2>::from_data(TensorData::new(values, [2, inputs]), &device);
    let config = QuantizationConfig {
        edge_bits: Some(8),
        ..QuantizationConfig::default()
    };
    let model = Quantized::new(layer, &config, |layer| drop(layer.forward(x.clone()))).unwrap();
    let simulated = bits_of(model.pass(|layer| layer.forward(x.clone())));
    let integers = IntegerNetwork::new(&model).unwrap();
    assert_eq!(bits_of(integers.pass(|layer| layer.forward(x))), simulated);
}

#[test]
fn weights_take_their_bits() {
    let device = Device::flex();
    let config = QuantizationConfig {
        bits: 3,
        ..QuantizationConfig::default()
    };
    let integers = IntegerNetwork::new(&rounded(&config, &device)).unwrap();
    // 6 kernels of 2·9 numbers and 7 rows of 60: each from a whole byte on.
    assert_eq!(integers.packed(), (6 * 18 + 7 * 60, 6 * 7 + 7 * 23));
}

#[test]
fn damaged_files_are_refused() {
    let device = Device::flex();
    let integers = IntegerNetwork::new(&rounded(&QuantizationConfig::default(), &device)).unwrap();
    let file = integers.to_bytes().unwrap();
    let told = |bytes: &[u8]| {
        let read = IntegerNetwork::from_bytes(Network::new(2, &device), bytes);
        read.map(|_| ()).unwrap_err().to_string()
    };
    for cut in [0, 7, 100, file.len() - 1] {
        assert!(
            told(&file[..cut]).starts_with("the file does not hold"),
            "{cut}"
        );
    }
    // Another network: its second convolution has one group.
    let read = IntegerNetwork::from_bytes(Network::new(1, &device), &file);
    assert!(read.is_err());
    // Bits of a grid that does not exist.
    let text = String::from_utf8_lossy(&file).into_owned();
    assert!(text.contains(r#"\"bits\":4"#));
    let place = file
        .windows(10)
        .position(|w| w == br#"\"bits\":4"#)
        .unwrap();
    let mut other = file.clone();
    other[place + 9] = b'9';
    assert!(
        told(&other).contains("must be from 2 to 8"),
        "{}",
        told(&other)
    );
}

proptest! {
    #[test]
    fn packed_rows_are_unpacked(values in prop::collection::vec(-128_i16..128, 0..40), bits in 2_u32..=8) {
        let unused = 16 - bits;
        let row: Vec<i16> = values.iter().map(|v| v << unused >> unused).collect();
        let bytes = packed(&row, bits);
        prop_assert_eq!(bytes.len(), (row.len() * bits as usize).div_ceil(8));
        prop_assert_eq!(unpacked(&bytes, bits, row.len()), row);
    }

    /// The sum of products of 8-bit integers, whatever its length.
    #[test]
    fn sums_have_no_overflow(length in 0_usize..80_000, a in -128_i16..256, b in -128_i16..128) {
        let sum = dot(&vec![a; length], &vec![b; length]);
        prop_assert_eq!(sum, length as i64 * i64::from(a) * i64::from(b));
    }
}
