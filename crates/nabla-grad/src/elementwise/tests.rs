use super::*;
use burn::tensor::{Device, Distribution};

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn dense<const D: usize>(tensor: Tensor<D>) -> Dense {
    Dense::take(tensor).unwrap()
}

/// `a <- a b + c`.
struct MultiplyAdd;
impl Kernel<1, 2, 0> for MultiplyAdd {
    #[inline(always)]
    fn apply(&self, [a]: [f32; 1], [b, c]: [f32; 2], _: f32) -> ([f32; 1], [f32; 0]) {
        ([a * b + c], [])
    }
}

/// `a <- a + scale b`, with the sums of `a b`, `b²` and 1.
struct AddAndSum;
impl Kernel<1, 1, 3> for AddAndSum {
    #[inline(always)]
    fn apply(&self, [a]: [f32; 1], [b]: [f32; 1], scale: f32) -> ([f32; 1], [f32; 3]) {
        ([a + scale * b], [a * b, b * b, 1.0])
    }
}

#[test]
fn a_kernel_runs_at_every_place() {
    for len in [0, 1, 15, 16, 17, CHUNK - 1, CHUNK, 3 * CHUNK + 5] {
        let [a, b, c] = [random([len]), random([len]), random([len])];
        let expected = a.clone() * b.clone() + c.clone();
        let mut y = dense(a);
        update(&MultiplyAdd, [&mut y], [&dense(b), &dense(c)]);
        let burns = expected.into_data().try_to_vec::<f32>().unwrap();
        for (ours, burns) in y.values().iter().zip(&burns) {
            assert!((ours - burns).abs() <= 1e-6 * (1.0 + burns.abs()));
        }
        assert_eq!(y.into_tensor::<1>().dims(), [len]);
    }
}

const SHAPES: [[usize; 3]; 9] = [
    [1, 5, 7],
    [3, 4, 1],
    [2, 3, 33],
    [1, 1, 1],
    [300, 70, 1],
    [1, 20_000, 1],
    [2, 3, CHUNK + 9],
    [1, 2, CHUNK],
    [40, 3, 900],
];

/// A loop in double precision is the reference.
#[test]
fn sums_and_scales_are_those_of_each_channel() {
    for shape in SHAPES {
        let channels = Channels::along(&shape, 1).unwrap();
        let [a, b] = [random(shape), random(shape)];
        let [va, vb] = [&a, &b].map(|t| t.to_data().try_to_vec::<f32>().unwrap());
        let scales: Vec<f32> = (0..shape[1]).map(|c| (c % 7) as f32 - 1.5).collect();
        let mut exact = vec![[0.0f64; 3]; shape[1]];
        for (i, (a, b)) in va.iter().zip(&vb).enumerate() {
            let (a, b) = (f64::from(*a), f64::from(*b));
            let channel = &mut exact[i / shape[2] % shape[1]];
            for (sum, term) in channel.iter_mut().zip([a * b, b * b, 1.0]) {
                *sum += term;
            }
        }
        for scales in [None, Some(scales.as_slice())] {
            let (mut y, b) = (dense(a.clone()), dense(b.clone()));
            let sums = update_channels(&AddAndSum, channels, scales, [&mut y], [&b]);
            assert_eq!(sums.len(), shape[1]);
            let size = channels.size() as f64;
            for (ours, exact) in sums.iter().zip(&exact) {
                assert_eq!(ours[2], size);
                for (ours, exact) in ours.iter().zip(exact) {
                    assert!((ours - exact).abs() <= 1e-5 * size, "{ours} {exact}");
                }
            }
            for (i, y) in y.values().iter().enumerate() {
                let scale = scales.map_or(1.0, |s| s[i / shape[2] % shape[1]]);
                let term = scale * vb[i];
                let bound = 1e-6 * (va[i].abs() + term.abs());
                assert!((y - (va[i] + term)).abs() <= bound);
            }
        }
    }
}

#[test]
fn the_thread_count_does_not_change_a_bit() {
    for shape in SHAPES {
        let channels = Channels::along(&shape, 1).unwrap();
        let [a, b] = [random(shape), random(shape)];
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let (mut y, b) = (dense(a.clone()), dense(b.clone()));
                update_channels(&AddAndSum, channels, None, [&mut y], [&b])
            })
        };
        assert_eq!(run(1), run(3));
    }
}

#[test]
fn a_tensor_of_ones_own_is_written_in_place_and_a_shared_one_is_not() {
    let (b, c) = (dense(random([100])), dense(random([100])));
    let mut y = dense(random([100]));
    let place = y.values().as_ptr();
    update(&MultiplyAdd, [&mut y], [&b, &c]);
    assert_eq!(y.values().as_ptr(), place);
    let tensor: Tensor<1> = y.into_tensor();
    let before = tensor.to_data();
    let mut y = dense(tensor.clone());
    update(&MultiplyAdd, [&mut y], [&b, &c]);
    assert_eq!(tensor.to_data(), before);
    assert_ne!(y.into_tensor::<1>().to_data(), before);
}

#[test]
fn views_are_read_in_their_own_order() {
    let x = random([6, 5]);
    for view in [
        x.clone().transpose(),
        x.clone().slice([1..4, 1..3]),
        x.clone().flip([0]),
    ] {
        let expected = view.to_data().try_to_vec::<f32>().unwrap();
        assert_eq!(dense(view).values(), expected);
    }
}

#[test]
fn other_tensors_are_given_back() {
    let x = random([3]);
    let back = Dense::take(x.clone().cast(burn::tensor::FloatDType::F64)).unwrap_err();
    assert_eq!(back.dtype(), DType::F64);
    let tracked = Tensor::<1>::ones([3], &Device::flex().autodiff()).require_grad();
    assert!(Dense::take(tracked).is_err());
    let mixed = [x.clone(), x.cast(burn::tensor::FloatDType::F64)];
    assert!(Dense::take_all(mixed).is_err());
}

#[test]
fn a_number_that_is_not_finite_is_found_wherever_it_is() {
    let device = Device::flex();
    for place in [0, 17, CHUNK - 1, CHUNK, 2 * CHUNK + 3] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0f32; 2 * CHUNK + 4];
            assert!(all_finite(Tensor::<1>::from_floats(
                values.as_slice(),
                &device
            )));
            values[place] = bad;
            let tensor = Tensor::<1>::from_floats(values.as_slice(), &device);
            assert!(!all_finite(tensor.clone()));
            let double = tensor.cast(burn::tensor::FloatDType::F64);
            assert!(!all_finite(double));
        }
    }
    let double = random([7]).cast(burn::tensor::FloatDType::F64);
    assert!(all_finite(double));
    assert!(all_finite(random([0])));
}

#[test]
fn the_sigmoid_is_within_rounding_of_its_closed_form() {
    for i in -4000..=4000 {
        let x = i as f32 * 0.03;
        let exact = 1.0 / (1.0 + (-f64::from(x)).exp());
        assert!((f64::from(sigmoid(x)) - exact).abs() <= 1e-6 * exact + 1e-37);
    }
}
