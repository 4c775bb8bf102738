use super::*;
use burn::tensor::{DType, Device};
use nabla_base::vector::dot;
use proptest::prelude::*;

fn normal(count: usize, seed: u64, stream: u64) -> Vec<f64> {
    let values = SeededNoise::new(seed, stream).normal_values(count);
    values.into_iter().map(f64::from).collect()
}

type Make = fn(usize, usize, &mut SeededNoise) -> Box<dyn LinearSketch>;

/// With m numbers; the count sketch in two rows where m is even.
fn makers() -> [(&'static str, Make); 4] {
    [
        ("count", |m, d, noise| {
            let rows = if m % 2 == 0 { 2 } else { 1 };
            Box::new(CountSketch::new(rows, m / rows, d, noise).unwrap())
        }),
        ("Gaussian", |m, d, noise| {
            Box::new(GaussianSketch::new(m, d, noise).unwrap())
        }),
        ("AMS", |m, d, noise| {
            Box::new(AmsSketch::new(m, d, noise).unwrap())
        }),
        ("SRHT", |m, d, noise| {
            Box::new(Srht::new(m, d, noise).unwrap())
        }),
    ]
}

/// `S` itself, one column per unit vector: `[d][m]`.
fn columns(sketch: &dyn LinearSketch) -> Vec<Vec<f64>> {
    (0..sketch.dimension())
        .map(|index| {
            let mut unit = vec![0.0; sketch.dimension()];
            unit[index] = 1.0;
            sketch.apply_values(&unit).unwrap()
        })
        .collect()
}

#[test]
fn the_transform_is_the_matrix_of_its_definition() {
    // H[i][j] = (−1)^(number of common bits of i and j).
    for n in [1_usize, 2, 8, 64] {
        let x = normal(n, 1, 0);
        let mut found = x.clone();
        walsh_hadamard(&mut found);
        for (i, found) in found.into_iter().enumerate() {
            let expected: f64 = x
                .iter()
                .enumerate()
                .map(|(j, x)| {
                    if (i & j).count_ones() % 2 == 0 {
                        *x
                    } else {
                        -x
                    }
                })
                .sum();
            assert!((found - expected).abs() < 1e-12, "{n}, {i}");
        }
    }
}

#[test]
fn means_and_variances_of_inner_products_are_those_of_theory() {
    // A sketch this small is not worth the start of other threads.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.unwrap().install(check_means_and_variances);
}

fn check_means_and_variances() {
    let (d, m, trials) = (24, 6, 20_000);
    let x = normal(d, 2, 0);
    let mut steep: Vec<f64> = x
        .iter()
        .enumerate()
        .map(|(i, x)| x / (1 + i) as f64)
        .collect();
    steep[3] = 2.0;
    let ones = vec![1.0; d];
    let pairs = [
        (&x, &x),
        (&x, &steep),
        (&steep, &steep),
        (&ones, &ones),
        (&ones, &x),
    ];
    for (name, make) in makers() {
        let mut noise = SeededNoise::new(42, 0);
        let mut moments = vec![[0.0_f64; 4]; pairs.len()];
        let mut bound = 0.0;
        for _ in 0..trials {
            let sketch = make(m, d, &mut noise);
            bound = sketch.variance();
            for ((x, y), moments) in pairs.iter().zip(&mut moments) {
                let sx = sketch.apply_values(x).unwrap();
                let sy = sketch.apply_values(y).unwrap();
                let error = dot(&sx, &sy) - dot(x, y);
                for (power, moment) in (1..).zip(moments.iter_mut()) {
                    *moment += error.powi(power) / f64::from(trials);
                }
            }
        }
        for (number, ((x, y), [mean, second, _, fourth])) in pairs.iter().zip(moments).enumerate() {
            let common = dot(x, x) * dot(y, y) + dot(x, y).powi(2);
            let diagonal: f64 = x.iter().zip(*y).map(|(x, y)| (x * y).powi(2)).sum();
            let (m, n) = (m as f64, 32.0);
            let expected = match name {
                "count" | "AMS" => (common - 2.0 * diagonal) / m,
                "Gaussian" => common / m,
                _ => (n - m) / (n - 1.0) * (common - 2.0 * diagonal) / m,
            };
            assert!(
                expected <= bound * common * (1.0 + 1e-12),
                "{name}, {number}"
            );
            // Five standard errors of a mean and of a variance.
            let count = f64::from(trials);
            let error = 5.0 * (second / count).sqrt();
            assert!(mean.abs() <= error, "{name}, {number}: {mean} {error}");
            let error = 5.0 * ((fourth - second * second) / count).sqrt();
            assert!(
                (second - expected).abs() <= error,
                "{name}, {number}: {second} {expected} {error}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sketches_are_linear_and_have_their_transposes(
        d in 1_usize..80,
        m in 1_usize..20,
        seed: u64,
    ) {
        for (name, make) in makers() {
            let m = m.min(d.next_power_of_two());
            let sketch = make(m, d, &mut SeededNoise::new(seed, 0));
            prop_assert_eq!(sketch.dimension(), d);
            prop_assert_eq!(sketch.sketch_length(), m);
            let (x, y, z) = (normal(d, seed, 1), normal(d, seed, 2), normal(m, seed, 3));
            let sum: Vec<f64> = x.iter().zip(&y).map(|(x, y)| 2.0 * x - y).collect();
            let (sx, sy) =
                (sketch.apply_values(&x).unwrap(), sketch.apply_values(&y).unwrap());
            for (index, found) in sketch.apply_values(&sum).unwrap().into_iter().enumerate() {
                prop_assert!((found - (2.0 * sx[index] - sy[index])).abs() < 1e-10, "{}", name);
            }
            // ⟨Sx, z⟩ = ⟨x, Sᵀz⟩.
            let back = sketch.transposed_values(&z).unwrap();
            prop_assert!((dot(&sx, &z) - dot(&x, &back)).abs() < 1e-10, "{}", name);
        }
    }

    #[test]
    fn all_rows_of_the_hadamard_transform_are_an_isometry(d in 1_usize..300, seed: u64) {
        let n = d.next_power_of_two();
        let sketch = Srht::new(n, d, &mut SeededNoise::new(seed, 0)).unwrap();
        prop_assert_eq!(sketch.variance(), 0.0);
        let (x, y) = (normal(d, seed, 1), normal(d, seed, 2));
        let (sx, sy) = (sketch.apply_values(&x).unwrap(), sketch.apply_values(&y).unwrap());
        prop_assert!((dot(&sx, &sy) - dot(&x, &y)).abs() < 1e-10);
        let back = sketch.transposed_values(&sx).unwrap();
        for (back, x) in back.iter().zip(&x) {
            prop_assert!((back - x).abs() < 1e-12);
        }
    }
}

#[test]
fn the_isometry_is_exact_where_its_factor_is() {
    // 1/√64 and integers leave nothing to round.
    let sketch = Srht::new(64, 50, &mut SeededNoise::new(3, 0)).unwrap();
    let x: Vec<f64> = (0..50).map(|i| f64::from(i * i - 700)).collect();
    let sx = sketch.apply_values(&x).unwrap();
    assert_eq!(dot(&sx, &sx), dot(&x, &x));
    assert_eq!(sketch.transposed_values(&sx).unwrap(), x);
}

#[test]
fn rows_of_the_subsampled_transform_are_orthogonal() {
    // S Sᵀ = (n/m) I, where no element of the vectors is padding.
    let sketch = Srht::new(16, 64, &mut SeededNoise::new(5, 0)).unwrap();
    for row in 0..16 {
        let mut unit = vec![0.0; 16];
        unit[row] = 1.0;
        let there = sketch.transposed_values(&unit).unwrap();
        let back = sketch.apply_values(&there).unwrap();
        let expected: Vec<f64> = unit.iter().map(|u| u * 4.0).collect();
        assert_eq!(back, expected);
    }
}

#[test]
fn columns_of_the_count_sketch_have_one_element_per_table() {
    let sketch = CountSketch::new(4, 9, 200, &mut SeededNoise::new(6, 0)).unwrap();
    let mut hit = [[0; 2]; 36];
    for column in columns(&sketch) {
        for (row, table) in column.chunks(9).enumerate() {
            let filled: Vec<_> = table
                .iter()
                .enumerate()
                .filter(|(_, v)| **v != 0.0)
                .collect();
            assert_eq!(filled.len(), 1);
            let (bucket, value) = filled[0];
            assert_eq!(value.abs(), 0.5);
            hit[row * 9 + bucket][usize::from(*value > 0.0)] += 1;
        }
    }
    // 200 elements in 9 buckets of 2 signs: about 11 each.
    for counts in hit {
        assert!(
            counts.iter().all(|&count| (1..30).contains(&count)),
            "{counts:?}"
        );
    }
}

#[test]
fn the_hash_is_the_polynomial() {
    let hash = Hash([PRIME - 1, 5, PRIME - 3, 7]);
    for point in [0_usize, 1, 2, 12_345, usize::MAX, PRIME as usize - 1] {
        let x = point as u64 as u128 % u128::from(PRIME);
        let p = u128::from(PRIME);
        let cube = x * x % p * x % p;
        let expected = ((p - 1) * cube % p + 5 * (x * x % p) + (p - 3) * x % p + 7) % p;
        assert_eq!(u128::from(hash.at(point)), expected, "{point}");
    }
}

#[test]
fn heavy_hitters_are_found_with_the_stated_probability() {
    let (d, columns, rows) = (2_000, 100, 9);
    let mut x: Vec<f64> = normal(d, 7, 0);
    let heavy = [(17, 40.0), (900, -55.0), (1_999, 30.0)];
    for (index, value) in heavy {
        x[index] = value;
    }
    let norm = dot(&x, &x).sqrt();
    let bound = 2.0 * norm / (columns as f64).sqrt();
    let (mut off, mut off_in_one_row, trials) = (0, 0, 20);
    for seed in 0..trials {
        let sketch = CountSketch::new(rows, columns, d, &mut SeededNoise::new(seed, 0)).unwrap();
        let data = TensorData::new(x.clone(), [d]);
        let vector = Tensor::<1>::from_data(data, (&Device::flex(), DType::F64));
        let table = sketch.apply(&vector).unwrap();
        let all: Vec<usize> = (0..d).collect();
        let estimates = sketch.estimate(&table, &all).unwrap();
        off += (0..d)
            .filter(|&i| (estimates[i] - x[i]).abs() > bound)
            .count();
        let found = sketch.heavy_hitters(&table, 3).unwrap();
        assert_eq!(found[0].0, 900);
        assert_eq!(found[1].0, 17);
        assert_eq!(found[2].0, 1_999);
        assert_eq!(found[1].1, estimates[17]);

        let one = CountSketch::new(1, columns, d, &mut SeededNoise::new(seed, 1)).unwrap();
        let table = one.apply(&vector).unwrap();
        let estimates = one.estimate(&table, &all).unwrap();
        off_in_one_row += (0..d)
            .filter(|&i| (estimates[i] - x[i]).abs() > bound)
            .count();
    }
    let all = (d as u64 * trials) as f64;
    assert!(off as f64 / all <= (-(rows as f64) / 8.0).exp(), "{off}");
    assert!(off_in_one_row as f64 / all <= 0.25, "{off_in_one_row}");
    // More rows help.
    assert!(off < off_in_one_row);
}

#[test]
fn an_even_number_of_estimates_has_the_mean_of_both_middle_ones() {
    let sketch = CountSketch::new(4, 3, 30, &mut SeededNoise::new(1, 0)).unwrap();
    let x = normal(30, 4, 0);
    let s = sketch.apply_values(&x).unwrap();
    let mut estimates: Vec<f64> = sketch
        .hashes
        .iter()
        .enumerate()
        .map(|(row, (buckets, signs))| {
            2.0 * sign(signs, 11) * s[row * 3 + sketch.bucket(buckets, 11)]
        })
        .collect();
    estimates.sort_by(f64::total_cmp);
    let expected = 0.5 * (estimates[1] + estimates[2]);
    assert!((sketch.median(&s, 11) - expected).abs() < 1e-12);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    // Long enough for several blocks, and for both halves of the transform at once.
    let d = 40_000;
    let x = normal(d, 9, 0);
    let z = normal(12, 9, 1);
    let of = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| {
            makers().map(|(_, make)| {
                let sketch = make(12, d, &mut SeededNoise::new(8, 0));
                let there = sketch.apply_values(&x).unwrap();
                (there, sketch.transposed_values(&z).unwrap())
            })
        })
    };
    assert_eq!(of(1), of(4));
}

#[test]
fn a_seed_gives_the_same_sketch() {
    let x = normal(50, 1, 0);
    for (name, make) in makers() {
        let of = |seed| {
            let sketch = make(8, 50, &mut SeededNoise::new(seed, 2));
            sketch.apply_values(&x).unwrap()
        };
        assert_eq!(of(1), of(1), "{name}");
        assert_ne!(of(1), of(2), "{name}");
    }
}

#[test]
fn tensors_keep_their_type_and_leave_the_graph() {
    let device = Device::flex().autodiff();
    let x = Tensor::<1>::ones([5], &device).require_grad();
    for (_, make) in makers() {
        let sketch = make(4, 5, &mut SeededNoise::new(0, 0));
        let there = sketch.apply(&x).unwrap();
        assert_eq!((there.dims(), there.dtype()), ([4], DType::F32));
        assert!(!there.is_autodiff());
        assert_eq!(sketch.transposed(&there).unwrap().dims(), [5]);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let noise = &mut SeededNoise::new(0, 0);
    assert_eq!(
        CountSketch::new(3, 0, 5, noise).unwrap_err().to_string(),
        "the number of columns of the sketch is 0, but it must be at least 1"
    );
    assert_eq!(
        GaussianSketch::new(3, 0, noise).unwrap_err().to_string(),
        "the dimension of the sketch is 0, but it must be at least 1"
    );
    assert_eq!(
        Srht::new(9, 5, noise).unwrap_err(),
        SketchError::Rows {
            rows: 9,
            dimension: 5,
            padded: 8
        }
    );
    assert_eq!(
        Srht::new(9, usize::MAX, noise).unwrap_err(),
        SketchError::TooLong(usize::MAX)
    );
    for (_, make) in makers() {
        let sketch = make(4, 5, noise);
        assert_eq!(
            sketch.apply_values(&[1.0; 4]).unwrap_err().to_string(),
            "the vector must have 5 elements, but it has 4"
        );
        assert_eq!(
            sketch.transposed_values(&[1.0; 5]).unwrap_err(),
            SketchError::Length {
                what: "sketch",
                expected: 4,
                found: 5
            }
        );
    }
    let count = CountSketch::new(2, 2, 5, noise).unwrap();
    let table = Tensor::<1>::zeros([4], &Device::flex());
    assert_eq!(
        count.estimate(&table, &[4, 5]).unwrap_err(),
        SketchError::Index {
            index: 5,
            dimension: 5
        }
    );
    assert!(count.estimate(&table.slice(0..3), &[0]).is_err());
}

/// The polynomial with these values at 0, 1, 2 and 3, by Newton's divided differences in the field.
fn hash_with(values: [u64; 4]) -> Hash {
    let p = u128::from(PRIME);
    let times = |a: u128, b: u128| a * b % p;
    let inverse = |a: u128| {
        // a^(p−2).
        let (mut power, mut square, mut exponent) = (1, a, p - 2);
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = times(power, square);
            }
            square = times(square, square);
            exponent >>= 1;
        }
        power
    };
    let mut differences = values.map(u128::from);
    for order in 1..4_usize {
        for i in (order..4).rev() {
            let rise = (differences[i] + p - differences[i - 1]) % p;
            differences[i] = times(rise, inverse(order as u128));
        }
    }
    // From a + (x − 0)(b + (x − 1)(c + (x − 2) e)) to powers, the highest first.
    let mut powers = vec![differences[3]];
    for i in (0..3).rev() {
        powers.push(0);
        for k in (1..powers.len()).rev() {
            powers[k] = (powers[k] + p - times(i as u128, powers[k - 1])) % p;
        }
        let last = powers.len() - 1;
        powers[last] = (powers[last] + differences[i]) % p;
    }
    Hash(std::array::from_fn(|k| powers[k] as u64))
}

fn count_sketch_with(buckets: [u64; 4], signs: [u64; 4]) -> CountSketch {
    CountSketch {
        columns: 2,
        dimension: 4,
        hashes: vec![(hash_with(buckets), hash_with(signs))],
    }
}

#[test]
fn four_elements_in_two_buckets() {
    let sketch = count_sketch_with([0, 1, 0, 1], [0, 1, 0, 0]);
    let there = sketch.apply_values(&[1.0, 2.0, 3.0, 4.0]).unwrap();
    assert_eq!(there, [4.0, 2.0]);
    let back = sketch.transposed_values(&there).unwrap();
    assert_eq!(back, [4.0, -2.0, 4.0, 2.0]);
}

/// The mean over all matrices, of which each has the same probability up to 2⁻⁶⁰.
#[test]
fn the_second_moment_of_the_count_sketch_is_exact() {
    let h = [0.3, -1.2, 2.0, 0.7];
    let mut mean = 0.0;
    for number in 0..256_u64 {
        let bits = |shift: u64| std::array::from_fn(|i| number >> (shift + i as u64) & 1);
        let sketch = count_sketch_with(bits(0), bits(4));
        let back = sketch.transposed_values(&sketch.apply_values(&h).unwrap());
        let back = back.unwrap();
        mean += dot(&back, &back) / dot(&h, &h) / 256.0;
        assert_eq!(sketch.second_moment(), 2.5);
    }
    assert!((mean - 2.5).abs() < 1e-12, "{mean}");
}
