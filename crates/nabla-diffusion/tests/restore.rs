//! Restoration: operators against other programs and the dot-product test, methods against exact posteriors.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_diffusion::denoiser::{
    Condition, GaussianDenoiser, GaussianMixture, MixturePart, Prediction, RowConditions,
};
use nabla_diffusion::level::{Level, Levels, NoisePath};
use nabla_diffusion::registry::Options;
use nabla_diffusion::restore::{
    Blur, Boundary, CoilMaps, Ddnm, Dds, Dps, Espirit, FanBeam, Given, Inpainting, LinearOperator,
    MatrixOperator, MultiCoilMri, PiGdm, Problem, Radon, Reduction, Renoising, Restoration,
    RestoreError, Restorer, Separable, Weighting, operators, radon_views, restorers,
};
use nabla_diffusion::sampler::samplers;
use nabla_diffusion::sampler_error::{Cancelled, SamplerError};
use nabla_diffusion::schedule::{NoiseScheduleConfig, ScheduleError, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;
use proptest::prelude::*;
use serde_json::Value;

use crate::reference_values::{floats, reference};

fn f64s<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    let data = TensorData::new(values.to_vec(), shape);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.try_into_vec_as().unwrap()
}

fn worst(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let each = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    each.fold(0.0, f64::max)
}

/// Every operator for a picture of this size.
fn every_operator(
    [channels, height, width]: [usize; 3],
    boundary: Boundary,
    angle: f64,
    seed: u64,
) -> Vec<Arc<dyn LinearOperator>> {
    let picture = [channels, height, width];
    let mut noise = SeededNoise::new(seed, 9);
    let mut drawn = |count: usize| -> Vec<f64> {
        noise
            .normal_values(count)
            .into_iter()
            .map(f64::from)
            .collect()
    };
    let kernel_sides = [height.min(3), width.min(4)];
    let kernel = drawn(kernel_sides[0] * kernel_sides[1]);
    let maps: Vec<[f64; 2]> = drawn(6 * height * width)
        .chunks_exact(2)
        .map(|both| [both[0], both[1]])
        .collect();
    let maps = CoilMaps::new(maps, [height, width]).unwrap();
    let mask: Vec<bool> = drawn(height * width)
        .iter()
        .enumerate()
        .map(|(i, v)| i == 0 || *v > 0.0)
        .collect();
    let single = CoilMaps::single([height, width]).unwrap();
    let angles = vec![angle, angle + 71.0, angle + 90.0];
    let fan = FanBeam::around([height, width], angles.clone());
    let large = [channels, 3 * height, 3 * width];
    vec![
        Arc::new(Separable::reduction(large, 3, Reduction::Bicubic).unwrap()),
        Arc::new(Separable::reduction(large, 3, Reduction::Average).unwrap()),
        Arc::new(Separable::gaussian_blur(picture, 0.3 + angle / 90.0, boundary).unwrap()),
        Arc::new(Inpainting::random(picture, 0.4, seed).unwrap()),
        Arc::new(Blur::new(picture, kernel_sides, &kernel, boundary).unwrap()),
        Arc::new(MultiCoilMri::new(1, maps.clone(), mask.clone()).unwrap()),
        Arc::new(MultiCoilMri::new(2, maps, mask.clone()).unwrap()),
        Arc::new(MultiCoilMri::new(2, single, mask).unwrap()),
        Arc::new(Radon::parallel(picture, angles).unwrap()),
        Arc::new(Radon::of_fan_beam(picture, &fan).unwrap()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_operator_passes_the_dot_product_test(
        channels in 1usize..4,
        height in 1usize..12,
        width in 1usize..12,
        which in 0usize..3,
        angle in 0.0..180.0,
        seed in 0u64..1000,
    ) {
        let boundary = [Boundary::Reflect, Boundary::Circular, Boundary::Zero][which];
        for operator in every_operator([channels, height, width], boundary, angle, seed) {
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
                operator
                    .check_adjoint(tolerance, &Device::flex(), dtype)
                    .map_err(|error| TestCaseError::fail(format!("{operator:?}: {error}")))?;
            }
        }
    }

    /// `V S² Vᵀ = AᵀA`, `f = 1` is the identity, and `A A⁺ A = A`.
    #[test]
    fn known_singular_values_are_those_of_the_operator(
        height in 2usize..9,
        width in 2usize..9,
        which in 0usize..3,
        seed in 0u64..1000,
    ) {
        let boundary = [Boundary::Reflect, Boundary::Circular, Boundary::Zero][which];
        let mut known = 0;
        for operator in every_operator([2, height, width], boundary, 30.0, seed) {
            let Some(decomposed) = operator.decomposed() else { continue };
            known += 1;
            let [c, h, w] = <[usize; 3]>::try_from(operator.domain()).unwrap();
            let x = SeededNoise::new(seed, 5).normal([1, c, h, w], &Device::flex()).cast(DType::F64);
            let same = numbers(decomposed.filtered(x.clone(), &|_| 1.0).unwrap());
            prop_assert!(worst(&same, &numbers(x.clone())) < 1e-10, "{operator:?}");
            let normal = numbers(operator.normal(x.clone()).unwrap());
            let squared = numbers(decomposed.filtered(x.clone(), &|s| s * s).unwrap());
            prop_assert!(worst(&squared, &normal) < 1e-9, "{operator:?}");
            let y = operator.apply(x).unwrap();
            let again = operator.apply(operator.pseudo_inverse(y.clone()).unwrap()).unwrap();
            // Directions with singular values below 1e-4 are left out.
            prop_assert!(worst(&numbers(again), &numbers(y)) < 1e-3, "{operator:?}");
        }
        prop_assert!(known >= 5);
    }
}

#[test]
fn parallel_beams_are_the_radon_transform_of_scikit_image() {
    for case in reference("restore_reference.json")["radon"]
        .as_array()
        .unwrap()
    {
        let side = case["side"].as_u64().unwrap() as usize;
        let x = f64s(&floats(&case["picture"]), [1, 1, side, side]);
        let radon = Radon::parallel([1, side, side], floats(&case["angles"])).unwrap();
        let found = numbers(radon.apply(x).unwrap());
        assert!(worst(&found, &floats(&case["sinogram"])) < 1e-7, "{side}");
    }
}

#[test]
fn blur_is_the_convolution_of_scipy() {
    let values = &reference("restore_reference.json")["convolution"];
    let x = f64s(&floats(&values["picture"]), [1, 1, 7, 9]);
    for case in values["results"].as_array().unwrap() {
        let boundary: Boundary = serde_json::from_value(case["boundary"].clone()).unwrap();
        let blur = Blur::new([1, 7, 9], [3, 5], &floats(&values["kernel"]), boundary).unwrap();
        let found = numbers(blur.apply(x.clone()).unwrap());
        assert!(
            worst(&found, &floats(&case["result"])) < 1e-7,
            "{boundary:?}"
        );
    }
}

#[test]
fn coil_maps_are_those_of_sigpy() {
    let values = &reference("restore_reference.json")["espirit"];
    let [side, coils] = ["side", "coils"].map(|key| values[key].as_u64().unwrap() as usize);
    let parts = |value: &Value| {
        let [real, imaginary] = ["real", "imaginary"].map(|part| floats(&value[part]));
        let planes = real
            .chunks_exact(side * side)
            .zip(imaginary.chunks_exact(side * side));
        planes
            .flat_map(|(re, im)| [re, im].concat())
            .collect::<Vec<f64>>()
    };
    let kspace = f64s(&parts(&values["kspace"]), [1, 2 * coils, side, side]);
    let espirit = Espirit {
        calibration: 12,
        kernel: 4,
        crop: 0.9,
        ..Espirit::default()
    };
    let found: Vec<[f64; 2]> = espirit.maps(kspace).unwrap().values().collect();
    let [real, imaginary] = ["real", "imaginary"].map(|part| floats(&values["maps"][part]));
    let filled = real.iter().filter(|v| **v != 0.0).count();
    assert!(filled > real.len() / 3, "{filled}");
    for (i, [re, im]) in found.into_iter().enumerate() {
        let error = (re - real[i]).hypot(im - imaginary[i]);
        assert!(error < 1e-4, "{i}: {error}");
    }
}

/// Without singular values the pseudo-inverse comes from conjugate gradients, and is the same.
#[test]
fn conjugate_gradients_find_the_pseudo_inverse() {
    #[derive(Debug)]
    struct Hidden(MatrixOperator);

    impl LinearOperator<2> for Hidden {
        fn name(&self) -> &'static str {
            "a hidden matrix"
        }
        fn domain(&self) -> Vec<usize> {
            self.0.domain()
        }
        fn range(&self) -> Vec<usize> {
            self.0.range()
        }
        fn apply(
            &self,
            x: Tensor<2>,
        ) -> Result<Tensor<2>, nabla_diffusion::restore::OperatorError> {
            self.0.apply(x)
        }
        fn adjoint(
            &self,
            y: Tensor<2>,
        ) -> Result<Tensor<2>, nabla_diffusion::restore::OperatorError> {
            self.0.adjoint(y)
        }
    }

    let matrix = MatrixOperator::new([2, 3], vec![1.0, 2.0, 0.0, -1.0, 0.5, 3.0]).unwrap();
    let y = f64s(&[1.0, -2.0, 0.3, 0.7], [2, 2]);
    let exact = numbers(matrix.pseudo_inverse(y.clone()).unwrap());
    let found = numbers(Hidden(matrix).pseudo_inverse(y).unwrap());
    assert!(worst(&found, &exact) < 1e-6, "{found:?} {exact:?}");
}

fn levels(steps: usize) -> Levels {
    let training = NoiseScheduleConfig::new().init().unwrap();
    training.respace(Spacing::Trailing, steps).unwrap().into()
}

/// Bayes' rule for the prior `Σ w N(μ, s² I)` and `y = A x + n`: the mean of the posterior, in `f64`.
fn posterior_mean(parts: &[MixturePart], a: [f64; 2], y: f64, noise: f64) -> [f64; 2] {
    let mut sum = [0.0; 2];
    let mut total = 0.0;
    for part in parts {
        let s2 = part.deviation.powi(2);
        let variance = s2 * (a[0] * a[0] + a[1] * a[1]) + noise * noise;
        let error = y - a[0] * part.mean[0] - a[1] * part.mean[1];
        let weight = part.weight / variance.sqrt() * (-0.5 * error * error / variance).exp();
        total += weight;
        for i in 0..2 {
            sum[i] += weight * (part.mean[i] + s2 * a[i] * error / variance);
        }
    }
    sum.map(|v| v / total)
}

fn parts() -> Vec<MixturePart> {
    let part = |mean: [f64; 2], weight| MixturePart {
        class: 0,
        weight,
        mean: mean.to_vec(),
        deviation: 0.15,
    };
    vec![
        part([-1.0, 0.8], 1.0),
        part([1.0, 0.2], 1.0),
        part([1.0, -0.2], 0.5),
    ]
}

/// Of 400 restorations of one measurement: the share at the part which explains it, after the mean of these.
fn restored(
    restorer: &dyn Restorer<2>,
    steps: usize,
    a: [f64; 2],
    y: f64,
    noise: f64,
) -> ([f64; 2], f64) {
    const ROWS: usize = 400;
    let mixture = GaussianMixture::new(parts()).unwrap();
    let model = RowConditions::new(&mixture, vec![Condition::Without; ROWS]);
    let operator = MatrixOperator::new([1, 2], a.to_vec()).unwrap();
    let measured = Tensor::full([ROWS, 1], y, &Device::flex());
    let problem = Problem::new(Arc::new(operator), measured, noise).unwrap();
    let levels = levels(steps);
    let found = Restoration::new(restorer, &problem, &levels)
        .run(&model, 5)
        .unwrap();
    let found = numbers(found.sample);
    let right: Vec<&[f64]> = found.chunks_exact(2).filter(|x| x[0] < 0.0).collect();
    let mean = [0, 1].map(|i| right.iter().map(|x| x[i]).sum::<f64>() / right.len() as f64);
    (mean, right.len() as f64 / ROWS as f64)
}

/// The measurement selects one of three parts, which the prior has in two of five draws, and a point within it. The
/// methods are approximations, and some of their draws end at a wrong part; but most are where the exact posterior is.
#[test]
fn every_method_finds_the_posterior_of_a_mixture() {
    let (a, y, noise) = ([0.8, 0.6], -0.25, 0.05);
    let exact = posterior_mean(&parts(), a, y, noise);
    let shares = Dds::new().with_renoising(Renoising::Shares);
    let bayes = PiGdm::new().with_weighting(Weighting::Bayes);
    let methods: [(&str, Box<dyn Restorer<2>>, usize, f64); 6] = [
        ("dds", Box::new(Dds::new().with_gamma(None)), 100, 0.95),
        ("dds, shares", Box::new(shares), 100, 0.75),
        ("ddnm+", Box::new(Ddnm::new()), 100, 0.75),
        ("pigdm", Box::new(PiGdm::new()), 100, 0.95),
        ("pigdm, bayes", Box::new(bayes), 100, 0.6),
        ("dps", Box::new(Dps::new().with_scale(0.5)), 200, 0.95),
    ];
    let mut wrong = Vec::new();
    for (name, method, steps, least) in methods {
        let (mean, right) = restored(method.as_ref(), steps, a, y, noise);
        let error = (mean[0] - exact[0]).hypot(mean[1] - exact[1]);
        println!("{name}: {mean:?}, exact {exact:?}, {right} at the right part");
        if error > 0.12 || right < least {
            wrong.push(format!("{name}: {mean:?}, exact {exact:?}, {right}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// For white Gaussian data of variance 1, PiGDM's assumption holds exactly, and with the weights of Bayes' rule it draws
/// from the posterior: `y = a x + n` has the mean `a y/(a² + σ²)` and the variance `σ²/(a² + σ²)`.
#[test]
fn pigdm_with_bayes_weights_is_exact_for_white_data() {
    const ROWS: usize = 4000;
    let device = Device::flex();
    let ones = Tensor::<2>::ones([1, 1], &device);
    let model = GaussianDenoiser::new(ones.zeros_like(), ones, Prediction::Epsilon);
    let (a, y, noise) = (0.7, 1.2, 0.5);
    let operator = MatrixOperator::new([1, 1], vec![a]).unwrap();
    let measured = Tensor::full([ROWS, 1], y, &device);
    let problem = Problem::new(Arc::new(operator), measured, noise).unwrap();
    let method = PiGdm::new().with_weighting(Weighting::Bayes);
    let levels = levels(500);
    let found = Restoration::new(&method, &problem, &levels)
        .run(&model, 3)
        .unwrap()
        .sample;
    let (variance, mean) = found.var_mean(0);
    let [variance, mean] = [variance, mean].map(|v: Tensor<2>| f64::from(v.into_scalar::<f32>()));
    let total = a * a + noise * noise;
    assert!((mean - a * y / total).abs() < 0.03, "{mean}");
    assert!(
        (variance - noise * noise / total).abs() < 0.03,
        "{variance}"
    );
}

/// Without noise, DDNM's result fits the measurement exactly, and so does DDS with as many iterations as unknowns.
#[test]
fn without_noise_the_measurement_is_kept() {
    let device = Device::flex();
    let ones = Tensor::<4>::ones([1, 1, 4, 4], &device);
    let model = GaussianDenoiser::new(ones.clone() * 0.3, ones * 0.2, Prediction::Epsilon);
    let reduce = Separable::reduction([1, 4, 4], 2, Reduction::Average).unwrap();
    let x = SeededNoise::new(1, 0).normal([2, 1, 4, 4], &device);
    let problem = Problem::simulated(Arc::new(reduce), x, 0.0, 0).unwrap();
    let levels = levels(20);
    let methods: [Box<dyn Restorer>; 3] = [
        Box::new(Ddnm::new()),
        Box::new(Ddnm::new().with_repeats(3)),
        Box::new(Dds::new()),
    ];
    for method in methods {
        let found = Restoration::new(method.as_ref(), &problem, &levels)
            .run(&model, 1)
            .unwrap();
        let error = problem
            .residual(found.sample)
            .unwrap()
            .abs()
            .max()
            .into_scalar::<f32>();
        assert!(error < 1e-4, "{method:?}: {error}");
    }
}

/// The theorem of DDS: a prior on a subspace that the operator maps into itself. With the exact denoiser, every
/// iterate of the conjugate gradients stays in the subspace; a gradient step of another operator leaves it.
#[test]
fn krylov_iterates_stay_among_the_clean_pictures() {
    let device = Device::flex();
    // The first two of four coordinates.
    let variance = f64s(&[1.0, 0.5, 1e-24, 1e-24], [1, 4]);
    let mean = variance.zeros_like();
    let model = GaussianDenoiser::new(mean, variance, Prediction::Epsilon);
    let run = |matrix: Vec<f64>| {
        let operator = MatrixOperator::new([4, 4], matrix).unwrap();
        let x = f64s(&[0.7, -0.4, 0.0, 0.0], [1, 4]);
        let problem = Problem::simulated(Arc::new(operator), x, 0.0, 0).unwrap();
        let levels = levels(30);
        let method = Dds::new().with_eta(0.0).with_cg_iterations(1);
        let restoration = Restoration::new(&method, &problem, &levels);
        let mut farthest = 0.0f64;
        let mut observe = |_: &nabla_diffusion::asking::Step<'_, 2>,
                           d: nabla_diffusion::denoiser::Denoised<2>| {
            let values = numbers(d.sample.clone());
            farthest = farthest.max(values[2].hypot(values[3]));
            d
        };
        let start = SeededNoise::new(2, 0)
            .normal([1, 4], &device)
            .cast(DType::F64);
        let restoration = restoration.observed_by(&mut observe);
        restoration
            .run_from(&model, start, &mut SeededNoise::new(2, 1))
            .unwrap();
        farthest
    };
    let inside = run(vec![
        1.0, 0.4, 0.0, 0.0, 0.3, 0.8, 0.0, 0.0, 0.0, 0.0, 0.5, 0.1, 0.0, 0.0, 0.2, 0.9,
    ]);
    assert!(inside < 1e-5, "{inside}");
    let outside = run(vec![
        1.0, 0.4, 0.5, 0.0, 0.3, 0.8, 0.0, 0.6, 0.2, 0.0, 0.5, 0.1, 0.0, 0.7, 0.2, 0.9,
    ]);
    assert!(outside > 1e-2, "{outside}");
}

/// The variance-exploding path, with `σ` as its time.
#[derive(Debug)]
struct Exploding;

impl NoisePath for Exploding {
    fn level_at(&self, time: f64) -> Level {
        Level::variance_exploding(time, time)
    }
    fn level_of_sigma(&self, sigma: f64) -> Level {
        self.level_at(sigma)
    }
    fn times(&self) -> [f64; 2] {
        [0.0, 200.0]
    }
}

/// The same levels of noise on both paths, and the same noise: the same picture.
#[test]
fn every_method_is_the_same_on_the_exploding_path() {
    let device = Device::flex();
    let preserving = levels(25);
    let visited: Vec<Level> = (0..25)
        .map(|i| Exploding.level_at(preserving.level(i).sigma()))
        .collect();
    let exploding = Levels::new(visited, Exploding.level_at(0.0), Arc::new(Exploding));
    let exploding: Result<Levels, ScheduleError> = exploding;
    let exploding = exploding.unwrap();
    let ones = Tensor::<2>::ones([1, 3], &device);
    let model = GaussianDenoiser::new(ones.clone() * 0.5, ones * 0.3, Prediction::Epsilon);
    let matrix = vec![1.0, 0.5, 0.0, 0.0, 0.3, 1.0];
    let operator = MatrixOperator::new([2, 3], matrix).unwrap();
    let y = Tensor::<2>::from_floats([[0.9, 0.1], [0.2, -0.4]], &device);
    let problem = Problem::new(Arc::new(operator), y, 0.1).unwrap();
    let methods: [Box<dyn Restorer<2>>; 4] = [
        Box::new(Dds::new()),
        Box::new(
            Dds::new()
                .with_renoising(Renoising::Shares)
                .with_gamma(None),
        ),
        Box::new(Ddnm::new()),
        Box::new(PiGdm::new()),
    ];
    for method in methods {
        let run = |levels: &Levels| {
            let found = Restoration::new(method.as_ref(), &problem, levels).run(&model, 4);
            numbers(found.unwrap().sample)
        };
        let error = worst(&run(&preserving), &run(&exploding));
        assert!(error < 1e-3, "{method:?}: {error}");
    }
}

/// Every method in the registry, with another sampler, a stop, and the count of what the network was asked.
#[test]
fn every_method_runs_with_every_sampler_and_can_be_stopped() {
    let device = Device::flex();
    let ones = Tensor::<4>::ones([1, 1, 4, 4], &device);
    let model = GaussianDenoiser::new(ones.clone() * 0.3, ones * 0.2, Prediction::Epsilon);
    let known = Inpainting::random([1, 4, 4], 0.5, 1).unwrap();
    let y = known.apply(Tensor::ones([1, 1, 4, 4], &device)).unwrap();
    let problem = Problem::new(Arc::new(known), y, 0.02).unwrap();
    let levels = levels(12);
    for name in restorers::<4>().names() {
        let method = restorers().get(name).unwrap();
        let run = || Restoration::new(&method, &problem, &levels);
        let plain = run().run(&model, 1).unwrap();
        assert_eq!(plain.evaluations.total(), 12, "{name}");
        for sampler in ["ddim", "dpm++2m", "euler-ancestral", "heun", "ddpm"] {
            let solver = samplers().get(sampler).unwrap();
            let found = run().sampled_by(solver).run(&model, 1).unwrap().sample;
            let largest = found.abs().max().into_scalar::<f32>();
            assert!(largest < 5.0, "{name} with {sampler}: {largest}");
        }
        let mut stop = |_: &nabla_diffusion::asking::Step<'_>,
                        _: nabla_diffusion::denoiser::Denoised|
         -> Result<nabla_diffusion::denoiser::Denoised, Cancelled> {
            Err(Cancelled)
        };
        let stopped = run().observed_by(&mut stop).run(&model, 1);
        assert!(
            matches!(stopped, Err(RestoreError::Sampler(SamplerError::Cancelled))),
            "{name}"
        );
    }
}

/// Volumes: the slices of one object, of which every second is not measured at all, are filled by their neighbours.
#[test]
fn total_variation_carries_from_slice_to_slice() {
    let device = Device::flex();
    let ones = Tensor::<2>::ones([1, 2], &device);
    let model = GaussianDenoiser::new(ones.zeros_like(), ones * 4.0, Prediction::Epsilon);
    // The first number of each slice is measured, the second is not; what is measured rises slowly.
    let operator = MatrixOperator::new([1, 2], vec![1.0, 0.0]).unwrap();
    let y = Tensor::<2>::from_floats([[1.0], [1.1], [1.2], [1.3], [1.4], [1.5]], &device);
    let problem = Problem::new(Arc::new(operator), y, 0.0).unwrap();
    let levels = levels(40);
    let roughness = |weight: f64| {
        let method = Dds::new().with_tv_weight(weight);
        let found = Restoration::new(&method, &problem, &levels)
            .run(&model, 7)
            .unwrap();
        let second = numbers(found.sample.slice_dim(1, 1..2));
        second.windows(2).map(|w| (w[1] - w[0]).abs()).sum::<f64>()
    };
    let (without, with) = (roughness(0.0), roughness(0.5));
    assert!(with < 0.3 * without, "{with} {without}");
}

#[test]
fn units_change_nothing() {
    let device = Device::flex();
    let known = Arc::new(Inpainting::random([1, 3, 3], 0.6, 0).unwrap());
    let x = SeededNoise::new(8, 0).normal([1, 1, 3, 3], &device);
    let problem = Problem::simulated(known, x.clone(), 0.3, 1).unwrap();
    // x = 50 u + 20
    let scaled = problem.in_units(50.0, 20.0).unwrap();
    let u = (x.clone() - 20.0) / 50.0;
    let before = problem.residual(x).unwrap();
    let after = scaled.residual(u).unwrap() * 50.0;
    assert!((before - after).abs().max().into_scalar::<f32>() < 1e-5);
    assert!((scaled.noise() - 0.006).abs() < 1e-12);
}

#[test]
fn what_does_not_fit_is_told_in_a_sentence() {
    let device = Device::flex();
    let zeros = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &device);
    let reduce = || Arc::new(Separable::reduction([1, 4, 4], 2, Reduction::Bicubic).unwrap());
    let told = |error: RestoreError| {
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    };
    let wrong = Problem::new(reduce(), zeros([1, 1, 3, 3]), 0.0).unwrap_err();
    assert_eq!(
        told(wrong),
        "a separable operator takes a measurement of the shape [1, 2, 2], but this one is [1, 3, 3]"
    );
    let wrong = Problem::new(reduce(), zeros([1, 1, 2, 2]), -1.0).unwrap_err();
    assert!(told(wrong).contains("noise of the measurement is -1"));
    let angles = radon_views(3, 0.0, 180.0);
    let ct = Arc::new(Radon::parallel([1, 4, 4], angles).unwrap());
    let problem = Problem::new(ct, zeros([1, 1, 3, 4]), 0.1).unwrap();
    let ones = Tensor::<4>::ones([1, 1, 4, 4], &device);
    let model = GaussianDenoiser::new(ones.clone(), ones, Prediction::Epsilon);
    let levels = levels(3);
    let run = |method: &dyn Restorer| {
        let run = Restoration::new(method, &problem, &levels).run(&model, 0);
        told(run.unwrap_err())
    };
    assert!(run(&Ddnm::new()).contains("those of a Radon transform are not known: use dds"));
    assert!(run(&Dds::new().with_eta(1.5)).contains("eta of DDS is 1.5"));
    assert!(run(&Dds::new().with_gamma(Some(-1.0))).contains("gamma of DDS is -1"));
    assert!(run(&Dds::new().with_cg_iterations(0)).contains("iterations is 0"));
    assert!(run(&Dps::new().with_scale(-1.0)).contains("scale of DPS is -1"));
    let build = |name: &str, options: &[&str], given: &Given| {
        let recipe = operators()
            .make(name, &Options::parse(options).unwrap())
            .unwrap();
        let text = recipe.build([1, 6, 6], given).unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    };
    let none = Given::default();
    assert!(build("super-resolution", &["scale=4"], &none).contains("multiples of 4"));
    assert!(build("inpainting", &["known=0"], &none).contains("share of known pixels is 0"));
    assert!(build("blur", &["deviation=0"], &none).contains("standard deviation of the blur is 0"));
    assert!(build("mri", &["acceleration=0.5"], &none).contains("acceleration is 0.5"));
    assert!(build("ct", &["views=0"], &none).contains("number of angles is 0"));
    let given = Given {
        mask: Some(([2, 2], vec![1.0; 4])),
        ..Given::default()
    };
    assert!(build("inpainting", &[], &given).contains("the mask must be 6 x 6"));
    let error = operators().get("telescope").unwrap_err().to_string();
    assert!(
        error.contains("there is no operator \"telescope\""),
        "{error}"
    );
}

/// The derivative goes through a network whose weights are not differentiated.
#[test]
fn gradients_go_through_a_network() {
    use nabla_diffusion::class_denoiser::{ClassDenoiser, ClassDenoiserConfig};

    let device = Device::flex();
    let config = ClassDenoiserConfig::for_pictures(vec!["all".to_owned()], [1, 8, 8])
        .with_prediction(Prediction::Epsilon);
    let network = config.init_network(&device).unwrap();
    let network = ClassDenoiser::new(config, network, &device).unwrap();
    let model = RowConditions::new(&network, vec![Condition::Without; 2]);
    let known = Inpainting::random([1, 8, 8], 0.5, 1).unwrap();
    let y = known.apply(Tensor::ones([2, 1, 8, 8], &device)).unwrap();
    let problem = Problem::new(Arc::new(known), y, 0.1).unwrap();
    let levels = network.levels(3).unwrap();
    for method in [
        restorers().get("dps").unwrap(),
        restorers().get("pigdm").unwrap(),
    ] {
        let run = Restoration::new(&method, &problem, &levels)
            .run(&model, 1)
            .unwrap();
        assert!(
            run.sample.sum().into_scalar::<f32>().is_finite(),
            "{method:?}"
        );
    }
}
