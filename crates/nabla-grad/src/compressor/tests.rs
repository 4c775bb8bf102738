use super::*;
use proptest::prelude::*;

fn vector(values: &[f32]) -> Tensor<1> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), [values.len()]),
        &Device::flex(),
    )
}

fn sent(compressor: &dyn Compressor, x: &[f32], noise: &mut SeededNoise) -> Vec<f32> {
    let message = compressor.compress(&vector(x), noise).unwrap();
    assert_eq!(message.dimension(), x.len());
    let received = message.decompress(&Device::flex());
    received.into_data().try_to_vec().unwrap()
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
        .sum()
}

fn squared_norm(x: &[f32]) -> f64 {
    squared_distance(x, &vec![0.0; x.len()])
}

/// Vectors on which compressors differ most: dense, equal, one-hot, steep, and with zeros.
fn vectors(d: usize) -> Vec<Vec<f32>> {
    let mut noise = SeededNoise::new(11, 0);
    let mut one_hot = vec![0.0; d];
    one_hot[d / 2] = -3.0;
    vec![
        noise.normal_values(d),
        vec![0.7; d],
        one_hot,
        (0..d).map(|i| 0.6_f32.powi(i as i32) * 5.0).collect(),
        // The worst of powers of two: 4/3 of one.
        (0..d)
            .map(|i| if i % 2 == 0 { 4.0 / 3.0 } else { 0.0 })
            .collect(),
    ]
}

fn unbiased() -> Vec<(&'static str, Box<dyn Compressor>)> {
    vec![
        ("RandK", Box::new(RandK::new(5).unwrap())),
        ("RandK of one", Box::new(RandK::new(1).unwrap())),
        ("ternary", Box::new(Qsgd::new(1).unwrap())),
        ("QSGD", Box::new(Qsgd::new(4).unwrap())),
        ("fine QSGD", Box::new(Qsgd::new(100).unwrap())),
        ("natural", Box::new(Natural)),
        ("identity", Box::new(Identity)),
    ]
}

/// `E (C(x)_i − x_i)²` of each element, by its closed form.
fn exact_variances(name: &str, x: &[f32]) -> Vec<f64> {
    let (d, norm) = (x.len() as f64, squared_norm(x).sqrt());
    // Rounding at random between both multiples of `width` around the magnitude.
    let rounded = |magnitude: f64, width: f64| {
        let share = magnitude / width - (magnitude / width).floor();
        width * width * share * (1.0 - share)
    };
    let variance = |magnitude: f64| match name {
        "RandK" => (d / 5.0 - 1.0) * magnitude * magnitude,
        "RandK of one" => (d - 1.0) * magnitude * magnitude,
        "ternary" => rounded(magnitude, norm),
        "QSGD" => rounded(magnitude, norm / 4.0),
        "fine QSGD" => rounded(magnitude, norm / 100.0),
        "natural" if magnitude == 0.0 => 0.0,
        "natural" => rounded(magnitude, magnitude.log2().floor().exp2()),
        "identity" => 0.0,
        _ => panic!("{name}"),
    };
    x.iter().map(|v| variance(f64::from(v.abs()))).collect()
}

fn exact_variance(name: &str, x: &[f32]) -> f64 {
    exact_variances(name, x).into_iter().sum()
}

#[test]
fn means_and_variances_are_those_of_theory() {
    let (d, trials) = (24, 20_000);
    for (number, x) in vectors(d).iter().enumerate() {
        for (name, compressor) in unbiased() {
            let mut noise = SeededNoise::new(42, number as u64);
            let mut sums = vec![0.0; d];
            let mut errors = (0.0, 0.0);
            for _ in 0..trials {
                let c = sent(compressor.as_ref(), x, &mut noise);
                for (sum, (&c, &x)) in sums.iter_mut().zip(c.iter().zip(x)) {
                    *sum += f64::from(c) - f64::from(x);
                }
                let error = squared_distance(&c, x);
                errors.0 += error;
                errors.1 += error * error;
            }
            let n = f64::from(trials);
            let (exact, square) = (exact_variance(name, x), squared_norm(x));
            let rounding = 1e-6 * (square + exact);
            // Five standard errors, of 840 estimates; and one message, as a small element is
            // sent so rarely that the number of times is far from normal.
            let largest = (d as f64 * square).sqrt();
            let variances = exact_variances(name, x);
            for (index, (sum, variance)) in sums.into_iter().zip(variances).enumerate() {
                let few = if variance > 0.0 { largest / n } else { 0.0 };
                let bound = 5.0 * (variance / n).sqrt() + few + 1e-6 * square.sqrt();
                assert!(
                    (sum / n).abs() <= bound,
                    "{name}, vector {number}, element {index}: bias {}",
                    sum / n
                );
            }
            let mean = errors.0 / n;
            let spread = (errors.1 / n - mean * mean).max(0.0);
            assert!(
                (mean - exact).abs() <= 5.0 * (spread / n).sqrt() + rounding,
                "{name}, vector {number}: {mean} {exact}"
            );
            let Constant::Variance(omega) = compressor.constant(d) else {
                panic!("{name}");
            };
            assert!(
                exact <= omega * square * (1.0 + 1e-6),
                "{name}, vector {number}: {exact} {}",
                omega * square
            );
            // As a contraction: ‖C/(1 + ω) − x‖² has mean (V + ω² ‖x‖²) / (1 + ω)².
            let shrunk = (exact + omega * omega * square) / (1.0 + omega).powi(2);
            let delta = compressor.constant(d).contraction();
            assert!(shrunk <= (1.0 - delta) * square * (1.0 + 1e-6), "{name}");
        }
    }
}

#[test]
fn the_constants_are_attained() {
    // RandK by every vector, natural compression by 4/3.
    let worst = [4.0 / 3.0; 3];
    let share = exact_variance("natural", &worst) / squared_norm(&worst);
    assert!((share - 0.125).abs() < 1e-6, "{share}");
    // TopK by equal elements, the sign by one element that is not zero.
    let mut noise = SeededNoise::new(0, 0);
    let equal = [0.5; 12];
    let error = squared_distance(&sent(&TopK::new(3).unwrap(), &equal, &mut noise), &equal);
    assert!(
        (error - 0.75 * squared_norm(&equal)).abs() < 1e-6,
        "{error}"
    );
    let mut one_hot = [0.0; 12];
    one_hot[4] = -2.0;
    let error = squared_distance(&sent(&ScaledSign, &one_hot, &mut noise), &one_hot);
    assert!((error - 4.0 * (1.0 - 1.0 / 12.0)).abs() < 1e-6, "{error}");
}

#[test]
fn constants_of_chosen_dimensions() {
    let variance = |compressor: &dyn Compressor, d| match compressor.constant(d) {
        Constant::Variance(omega) => omega,
        Constant::Contraction(_) => panic!("biased"),
    };
    assert_eq!(variance(&RandK::new(25).unwrap(), 100), 3.0);
    assert_eq!(variance(&RandK::new(25).unwrap(), 20), 0.0);
    // Few levels: √d/s; many: d/s².
    assert_eq!(variance(&Qsgd::new(2).unwrap(), 100), 5.0);
    assert_eq!(variance(&Qsgd::new(100).unwrap(), 100), 0.01);
    assert_eq!(variance(&Identity, 7), 0.0);
    assert_eq!(
        TopK::new(25).unwrap().constant(100),
        Constant::Contraction(0.25)
    );
    assert_eq!(
        TopK::new(25).unwrap().constant(20),
        Constant::Contraction(1.0)
    );
    assert_eq!(ScaledSign.constant(8), Constant::Contraction(0.125));
    assert_eq!(Constant::Variance(3.0).contraction(), 0.25);
}

proptest! {
    #[test]
    fn contractions_contract(
        d in 1_usize..60,
        k in 1_usize..70,
        seed: u64,
        steepness in 0.0..8.0_f64,
    ) {
        // From dense to nearly one-hot.
        let mut noise = SeededNoise::new(seed, 0);
        let x: Vec<f32> = noise
            .normal_values(d)
            .into_iter()
            .map(|v| v.signum() * v.abs().powf(steepness as f32))
            .collect();
        let square = squared_norm(&x);
        for compressor in [&TopK::new(k).unwrap() as &dyn Compressor, &ScaledSign] {
            let Constant::Contraction(delta) = compressor.constant(d) else {
                panic!("unbiased");
            };
            let error = squared_distance(&sent(compressor, &x, &mut noise), &x);
            prop_assert!(error <= (1.0 - delta) * square + 1e-6 * square);
        }
        // The sign's contraction for this vector.
        let one_norm: f64 = x.iter().map(|&v| f64::from(v.abs())).sum();
        let error = squared_distance(&sent(&ScaledSign, &x, &mut noise), &x);
        let expected = square - one_norm * one_norm / d as f64;
        prop_assert!((error - expected).abs() <= 1e-5 * square);
        // Of all choices of K elements, TopK's leaves the least.
        let mut squares: Vec<f64> = x.iter().map(|&v| f64::from(v).powi(2)).collect();
        squares.sort_by(|a, b| b.total_cmp(a));
        let left: f64 = squares.iter().skip(k).sum();
        let error = squared_distance(&sent(&TopK::new(k).unwrap(), &x, &mut noise), &x);
        prop_assert!((error - left).abs() <= 1e-12 * square);
    }

    #[test]
    fn any_bits_are_compressed_or_refused(bits in prop::collection::vec(any::<u32>(), 0..40)) {
        let x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let biased: [Box<dyn Compressor>; 2] =
            [Box::new(TopK::new(3).unwrap()), Box::new(ScaledSign)];
        let all = unbiased().into_iter().map(|(_, compressor)| compressor).chain(biased);
        for compressor in all {
            let message = compressor.compress(&vector(&x), &mut SeededNoise::new(0, 0));
            match message {
                Ok(message) => {
                    let received = message.decompress(&Device::flex());
                    let received: Vec<f32> = received.into_data().try_to_vec().unwrap();
                    prop_assert_eq!(received.len(), x.len());
                    prop_assert!(received.iter().all(|value| value.is_finite()));
                }
                Err(CompressorError::Empty) => prop_assert!(x.is_empty()),
                Err(CompressorError::NotFinite { index, .. }) => {
                    prop_assert!(!x[index].is_finite());
                }
                Err(CompressorError::Overflow { .. }) => {
                    prop_assert!(x.iter().any(|value| value.abs() > 1e36));
                }
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
    }
}

#[test]
fn equal_magnitudes_are_kept_from_the_front() {
    let x = [1.0, -2.0, 2.0, -2.0, 0.0];
    let message = TopK::new(2)
        .unwrap()
        .compress(&vector(&x), &mut SeededNoise::new(0, 0))
        .unwrap();
    assert_eq!(message.sparse(), Some((&[1, 2][..], &[-2.0, 2.0][..])));
    assert_eq!(
        ScaledSign
            .compress(&vector(&x), &mut SeededNoise::new(0, 0))
            .unwrap()
            .sparse(),
        None
    );
}

#[test]
fn random_k_draws_every_set_of_indices() {
    let x = vector(&[1.0; 5]);
    let mut noise = SeededNoise::new(8, 0);
    let mut seen = std::collections::HashMap::new();
    let trials = 5_000;
    for _ in 0..trials {
        let message = RandK::new(2).unwrap().compress(&x, &mut noise).unwrap();
        let (indices, values) = message.sparse().unwrap();
        assert!(indices[0] < indices[1] && values == [2.5, 2.5]);
        *seen.entry(indices.to_vec()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 10);
    for (indices, &count) in &seen {
        // Five standard deviations of a binomial number with p = 1/10.
        let deviation = (f64::from(trials) * 0.09).sqrt();
        let off = f64::from(count) - f64::from(trials) / 10.0;
        assert!(off.abs() < 5.0 * deviation, "{indices:?}: {count}");
    }
}

#[test]
fn sizes_are_those_of_the_table() {
    let x = vector(&[1.0; 100]);
    let size = |compressor: &dyn Compressor| {
        let message = compressor.compress(&x, &mut SeededNoise::new(0, 0));
        message.unwrap().size_in_bits()
    };
    assert_eq!(size(&Identity), 3200);
    // Seven bits tell 100 indices apart.
    assert_eq!(size(&TopK::new(10).unwrap()), 10 * 39);
    assert_eq!(size(&RandK::new(10).unwrap()), 10 * 39);
    assert_eq!(size(&ScaledSign), 132);
    // −1, 0, 1 in two bits; −4 to 4 in four.
    assert_eq!(size(&Qsgd::new(1).unwrap()), 32 + 200);
    assert_eq!(size(&Qsgd::new(4).unwrap()), 32 + 400);
    assert_eq!(size(&Natural), 900);
    let one = vector(&[1.0]);
    let message = TopK::new(1).unwrap();
    let message = message.compress(&one, &mut SeededNoise::new(0, 0)).unwrap();
    assert_eq!(message.size_in_bits(), 32);
}

#[test]
fn what_fits_the_code_is_exact() {
    let mut noise = SeededNoise::new(1, 0);
    let powers = [0.0, 1.0, -0.25, 2.0_f32.powi(127), -2.0_f32.powi(-126)];
    assert_eq!(sent(&Natural, &powers, &mut noise), powers);
    // 3/5 and 4/5 of the norm 5.
    let x = [3.0, -4.0, 0.0];
    assert_eq!(sent(&Qsgd::new(5).unwrap(), &x, &mut noise), x);
    for compressor in [&Qsgd::new(3).unwrap() as &dyn Compressor, &Natural] {
        assert_eq!(sent(compressor, &[0.0; 4], &mut noise), [0.0; 4]);
    }
    let zero = sent(&ScaledSign, &[0.0; 4], &mut noise);
    assert!(zero.into_iter().all(|value| value == 0.0));
    // Below the smallest normal number: 0 or that number, by its share.
    let small = f32::MIN_POSITIVE / 4.0;
    let sum: f64 = (0..4000)
        .map(|_| f64::from(sent(&Natural, &[small], &mut noise)[0] / f32::MIN_POSITIVE))
        .sum();
    assert!((sum / 4000.0 - 0.25).abs() < 4.0 * (0.25 * 0.75 / 4000.0_f64).sqrt());
}

#[test]
fn a_seed_gives_the_same_message() {
    let x = SeededNoise::new(5, 0).normal_values(300);
    for (name, compressor) in unbiased() {
        let message = |seed| {
            compressor
                .compress(&vector(&x), &mut SeededNoise::new(seed, 3))
                .unwrap()
        };
        assert_eq!(message(1), message(1), "{name}");
        if name != "identity" {
            assert_ne!(message(1), message(2), "{name}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let error = TopK::new(0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the number of kept elements K is 0, but it must be at least 1"
    );
    assert_eq!(RandK::new(0).unwrap_err(), error);
    let error = Qsgd::new(0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the number of levels is 0, but it must be from 1 to 8388608"
    );
    assert!(Qsgd::new((1 << 23) + 1).is_err());
    let compress = |compressor: &dyn Compressor, x: &[f32]| {
        compressor
            .compress(&vector(x), &mut SeededNoise::new(0, 0))
            .unwrap_err()
    };
    assert_eq!(compress(&Identity, &[]), CompressorError::Empty);
    let expected = CompressorError::NotFinite {
        index: 1,
        value: f32::NEG_INFINITY,
    };
    assert_eq!(compress(&ScaledSign, &[1.0, f32::NEG_INFINITY]), expected);
    let large = [f32::MAX, f32::MAX];
    for compressor in [
        &Qsgd::new(2).unwrap() as &dyn Compressor,
        &Natural,
        &RandK::new(1).unwrap(),
    ] {
        let error = compress(compressor, &large);
        assert!(matches!(error, CompressorError::Overflow { .. }), "{error}");
    }
}
