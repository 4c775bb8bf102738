use std::cell::Cell;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, TensorData};

use super::*;
use crate::class_denoiser::{ClassDenoiser, ClassDenoiserConfig, TrainingPath};
use crate::ddim::Ddim;
use crate::denoiser::{
    Condition, GaussianDenoiser, GaussianMixture, MixturePart, Prediction, RowConditions, denoiser,
};
use crate::guidance::{AdaptiveProjectedConfig, CfgPlusPlus, ClassifierFree};
use crate::level::Level;
use crate::sampler::{Sampler, Sampling};
use crate::schedule::{NoiseScheduleConfig, Spacing};
use crate::seeded_noise::SeededNoise;
use crate::vp_path::VpPath;

const METHODS: [OdeMethod; 5] = [
    OdeMethod::Euler,
    OdeMethod::Midpoint,
    OdeMethod::Heun,
    OdeMethod::RungeKutta4,
    OdeMethod::Adams2,
];
const FORMS: [FlowForm; 2] = [FlowForm::Rho, FlowForm::Time];
const MODES: [GradientMode; 3] = [
    GradientMode::Exact,
    GradientMode::Adjoint,
    GradientMode::Reintegrated,
];

fn points<const N: usize>(values: &[[f64; N]]) -> Tensor<2> {
    let data = TensorData::new(values.concat(), [values.len(), N]);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
    x.to_data().convert::<f64>().iter::<f64>().collect()
}

fn mixture() -> GaussianMixture {
    let part = |class, weight, mean: [f64; 3], deviation| MixturePart {
        class,
        weight,
        mean: mean.to_vec(),
        deviation,
    };
    GaussianMixture::new(vec![
        part(0, 1.0, [1.0, 0.0, -0.5], 0.3),
        part(1, 2.0, [-1.0, 0.5, 0.2], 0.4),
        part(1, 0.5, [0.0, -1.0, 0.8], 0.5),
    ])
    .unwrap()
}

/// The adjoint's factors of a Gaussian with independent numbers, against the exact flow's.
fn gaussian_factors<const N: usize>(
    deviations: [f64; N],
    levels: &Levels,
    adjoint: AdjointDpm,
) -> [f64; N] {
    let variance = points(&[deviations.map(|s| s * s)]);
    let model = GaussianDenoiser::new(variance.zeros_like(), variance, Prediction::Epsilon);
    let mut run = adjoint.of(&model, levels).unwrap();
    let trajectory = run.sample(points(&[[0.7; N]])).unwrap();
    let ones = points(&[[1.0; N]]);
    let gradient = run.backward(&trajectory, ones.clone(), &mut ()).unwrap();
    let [from, to] = [levels.start(), levels.end()];
    let exact = model.transport(ones, from, to);
    let ratio = values(&(gradient / exact));
    std::array::from_fn(|i| ratio[i])
}

/// The table of the values that another program, in NumPy, computed for the same equations.
#[test]
fn the_factors_of_a_gaussian_are_the_reference_values() {
    let levels = VpPath::new().even_in_time(10).unwrap();
    let deviations = [1.0, 0.3, 0.1, 0.03, 0.01];
    let config = |method, form, mode| AdjointDpm { method, form, mode };
    use {FlowForm::*, GradientMode::*, OdeMethod::*};
    for (adjoint, expected) in [
        (
            config(RungeKutta4, Rho, Adjoint),
            [1.001, 0.995, 1.041, 1.957, 2.517],
        ),
        (
            config(RungeKutta4, Time, Adjoint),
            [1.000, 0.996, 1.055, 1.348, -5.334],
        ),
        (
            config(Euler, Rho, Adjoint),
            [-0.0155, -0.0033, 0.0003, -0.013, -0.194],
        ),
        (
            config(Euler, Time, Adjoint),
            [1.0, 0.839, 0.321, -7.31, -84.1],
        ),
        (
            config(Euler, Rho, Exact),
            [0.832, 0.636, 0.373, 0.410, 0.743],
        ),
    ] {
        let found = gaussian_factors(deviations, &levels, adjoint);
        for (found, expected) in found.iter().zip(expected) {
            let close =
                (found - expected).abs() < 6e-4 * expected.abs().max(1.0) + 4e-3 * expected.abs();
            assert!(close, "{adjoint:?}: {found} against {expected}");
        }
    }
}

/// `ε = σx/(α²θ + σ²)`, `L = ½ (x_0 − 1)²`: the exact gradients of noise and parameter.
#[test]
fn the_gradient_of_a_parameter_is_the_closed_form() {
    let theta = points(&[[0.3]]).autodiff().require_grad();
    let model = denoiser(Prediction::Epsilon, |x: Tensor<2>, level: Level| {
        let variance = theta.clone() * level.alpha_bar() + (1.0 - level.alpha_bar());
        x * level.noise() / variance
    });
    let levels = VpPath::new().even_in_log_snr(200).unwrap();
    for form in FORMS {
        for mode in MODES {
            let adjoint = AdjointDpm {
                method: OdeMethod::RungeKutta4,
                form,
                mode,
            };
            let mut run = adjoint.of(&model, &levels).unwrap();
            let mut wanted = LeafGradient::new(theta.clone());
            let found = run
                .gradient(
                    points(&[[0.8]]),
                    &mut |x| Ok((x - 1.0).square().sum() * 0.5),
                    &mut wanted,
                )
                .unwrap();
            let found = [
                values(&found.sample)[0],
                values(&found.noise)[0],
                values(&wanted.gradient())[0],
            ];
            let expected = [0.43824087, -0.30773226, -0.41015404];
            for (found, expected) in found.iter().zip(expected) {
                let error = (found - expected).abs();
                assert!(error < 2e-7, "{adjoint:?}: {found} against {expected}");
            }
        }
    }
}

/// A model with a parameter and two conditions, with another meaning for each row.
fn with_parameter(theta: Tensor<2>) -> impl Fn(Tensor<2>, Level) -> Tensor<2> {
    move |x, level| {
        let point = theta.clone() * level.signal();
        let gain = level.noise() / (0.1 + level.noise().powi(2));
        (x - point).tanh() * gain + theta.clone() * 0.1
    }
}

#[test]
fn the_exact_gradient_is_that_of_finite_differences() {
    let start = points(&[[0.4, -1.1, 0.3], [1.3, 0.2, -0.7]]);
    let value = |x: Tensor<2>| x.clone().sin().sum() + x.square().sum() * 0.3;
    let training = NoiseScheduleConfig::new().init().unwrap();
    let respaced = training.respace(Spacing::Trailing, 6).unwrap().into();
    let noisy_end = VpPath::new().with_first(0.05).even_in_log_snr(5).unwrap();
    let straight = crate::level::StraightLine::new()
        .with_start(0.98)
        .levels(6)
        .unwrap();
    let theta = points(&[[0.5, -0.2, 0.1]]);
    for levels in [&respaced, &noisy_end, &straight] {
        for form in FORMS {
            for method in METHODS {
                let adjoint = AdjointDpm {
                    method,
                    form,
                    mode: GradientMode::Exact,
                };
                let sampled = |theta: Tensor<2>, x: Tensor<2>| {
                    let model = denoiser(Prediction::Epsilon, with_parameter(theta));
                    let mut run = adjoint.of(&model, levels).unwrap();
                    number(value(run.sample(x).unwrap().sample().clone()))
                };
                let leaf = theta.clone().autodiff().require_grad();
                let model = denoiser(Prediction::Epsilon, with_parameter(leaf.clone()));
                let mut wanted = LeafGradient::new(leaf);
                let mut run = adjoint.of(&model, levels).unwrap();
                let found = run
                    .gradient(start.clone(), &mut |x| Ok(value(x)), &mut wanted)
                    .unwrap();
                let step = points(&[[0.3, -0.8, 0.5], [-0.4, 0.9, 0.1]]) * 1e-5;
                let along = number((found.noise * step.clone()).sum()) * 2.0;
                let difference = sampled(theta.clone(), start.clone() + step.clone())
                    - sampled(theta.clone(), start.clone() - step);
                let scale = difference.abs().max(1e-5);
                assert!(
                    (along - difference).abs() < 1e-6 * scale,
                    "{adjoint:?}: {along} against {difference}"
                );
                let step = points(&[[0.2, 0.7, -0.4]]) * 1e-5;
                let along = number((wanted.gradient() * step.clone()).sum()) * 2.0;
                let difference = sampled(theta.clone() + step.clone(), start.clone())
                    - sampled(theta.clone() - step, start.clone());
                let scale = difference.abs().max(1e-5);
                assert!(
                    (along - difference).abs() < 1e-6 * scale,
                    "weights of {adjoint:?}: {along} against {difference}"
                );
            }
        }
    }
}

/// Through the whole sampler at once, under guidance.
#[test]
fn the_exact_gradient_is_back_propagation_through_ddim() {
    let mixture = mixture();
    let model = RowConditions::new(&mixture, vec![Condition::Given(0), Condition::Given(1)]);
    let training = NoiseScheduleConfig::new().init().unwrap();
    let schedule = training.respace(Spacing::Trailing, 8).unwrap();
    let start = points(&[[0.4, -1.1, 0.3], [1.3, 0.2, -0.7]]);

    let leaf = start.clone().autodiff().require_grad();
    let sampler = Sampler::new(Ddim::new(), &schedule).unwrap();
    let mut guidance = ClassifierFree::new().with_scale(2.5);
    let whole = Sampling::of(&model)
        .guided_by(&mut guidance)
        .run(&sampler, leaf.clone(), &mut SeededNoise::new(0, 0))
        .unwrap();
    let gradients = whole.clone().square().sum().backward();
    let expected = leaf.grad(&gradients).unwrap();

    let levels = schedule.into();
    let mut guidance = ClassifierFree::new().with_scale(2.5);
    let mut run = AdjointDpm::new().of(&model, &levels).unwrap();
    run = run.guided_by(&mut guidance);
    let found = run
        .gradient(start, &mut |x| Ok(x.square().sum()), &mut ())
        .unwrap();
    let difference = number((found.sample - whole.inner()).abs().max());
    assert!(difference < 1e-12, "{difference}");
    let size = number(expected.clone().abs().max());
    let difference = number((found.noise - expected).abs().max());
    assert!(difference < 1e-7 * size, "{difference} of {size}");
}

/// The largest differences of all gradients, as shares of the largest gradient.
struct Differences<'a> {
    found: &'a GradientsParams,
    expected: &'a GradientsParams,
    largest: f64,
    size: f64,
    parameters: usize,
}

impl ModuleVisitor for Differences<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(expected) = self.expected.get::<D>(param.id) else {
            return;
        };
        let found = self.found.get::<D>(param.id).expect("a gradient");
        self.parameters += 1;
        let difference = number((found - expected.clone()).abs().max());
        self.largest = self.largest.max(difference);
        self.size = self.size.max(number(expected.abs().max()));
    }
}

#[test]
fn the_gradients_of_a_networks_weights_are_those_of_back_propagation() {
    let device = Device::flex().autodiff();
    let names = ["left", "right"].map(str::to_owned).to_vec();
    // Of the linear schedule: where less signal is left, `x/signal` loses the digits of 32 bits.
    let path = TrainingPath::VariancePreserving(NoiseScheduleConfig::new());
    let mut config = ClassDenoiserConfig::for_pictures(names, [1, 8, 8]).with_path(path);
    config.network = config
        .network
        .with_base_channels(32)
        .with_blocks_per_level(1);
    // At first the last layer is zero, and so is every gradient before it.
    let mut noise = SeededNoise::new(3, 0);
    let network = config.init_network(&device).unwrap();
    let network = network.map(&mut Fill(&mut noise));
    let model = ClassDenoiser::new(config, network.clone(), &device).unwrap();
    let rows = vec![Condition::Given(0), Condition::Given(1)];
    let rows = RowConditions::new(&model, rows);
    let levels = model.levels(4).unwrap();
    let start = noise.normal([2, 1, 8, 8], &Device::flex());
    let value = |x: Tensor<4>| x.square().mean();

    let leaf = start.clone().autodiff().require_grad();
    let sampler = Sampler::new(Ddim::new(), levels.clone()).unwrap();
    let whole = sampler
        .sample(&rows, leaf.clone(), &mut SeededNoise::new(0, 0))
        .unwrap();
    let mut gradients = value(whole).backward();
    let of_noise = leaf.grad(&gradients).unwrap();
    let expected = GradientsParams::from_module(&mut gradients, &network);

    let mut wanted = ModuleGradients::new(&network);
    let mut run = AdjointDpm::new().of(&rows, &levels).unwrap();
    let found = run
        .gradient(start, &mut |x| Ok(value(x)), &mut wanted)
        .unwrap();
    let size = number(of_noise.clone().abs().max());
    let difference = number((found.noise - of_noise).abs().max());
    assert!(difference < 1e-4 * size, "{difference} of {size}");
    let mut differences = Differences {
        found: &wanted.gradients(),
        expected: &expected,
        largest: 0.0,
        size: 0.0,
        parameters: 0,
    };
    network.visit(&mut differences);
    assert!(differences.parameters > 20 && differences.size > 0.0);
    let share = differences.largest / differences.size;
    assert!(share < 1e-4, "{share}");
}

/// Gives every parameter a random value.
struct Fill<'a>(&'a mut SeededNoise);

impl burn::module::ModuleMapper for Fill<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|x| {
            let fan: usize = x.dims().iter().skip(1).product();
            let scale = 0.7 / (fan.max(4) as f64).sqrt();
            let values = self.0.normal_values(x.shape().num_elements());
            let data = TensorData::new(values, x.dims());
            (Tensor::from_data(data, &x.device()) * scale)
                .detach()
                .require_grad()
        })
    }
}

/// The orders with which the adjoint equation's gradient converges to that of the exact flow.
#[test]
fn the_adjoint_converges_with_the_order_of_its_method() {
    let deviations = [1.0, 0.3, 0.1];
    for form in FORMS {
        for mode in MODES {
            for method in METHODS {
                let adjoint = AdjointDpm { method, form, mode };
                let error = |steps| {
                    let levels = VpPath::new().even_in_log_snr(steps).unwrap();
                    let factors = gaussian_factors(deviations, &levels, adjoint);
                    factors.map(|f| (f - 1.0).abs()).iter().sum::<f64>()
                };
                // Some of Burn's gradients of numbers in f64 are rounded to f32.
                let [coarse, fine] = match method.order() {
                    4 => [error(60), error(120)],
                    _ => [error(160), error(320)],
                };
                let order = (coarse / fine).log2();
                let least = method.order() as f64 - 0.3;
                assert!(order > least, "{adjoint:?}: order {order}, error {fine}");
            }
        }
    }
}

/// On a coarse grid, the gradient of the sampler is nearer to that of the flow than the adjoint equation's.
#[test]
fn on_coarse_grids_the_exact_gradient_is_nearer_to_the_flow() {
    let mixture = mixture();
    let start = points(&[[0.4, -1.1, 0.3], [1.3, 0.2, -0.7]]);
    let model = RowConditions::new(&mixture, vec![Condition::Without; 2]);
    let gradient = |levels: &Levels, adjoint: AdjointDpm| {
        let mut run = adjoint.of(&model, levels).unwrap();
        let found = run.gradient(start.clone(), &mut |x| Ok(x.square().sum()), &mut ());
        found.unwrap().noise
    };
    let fine = VpPath::new().even_in_log_snr(400).unwrap();
    let truth = gradient(&fine, AdjointDpm::new().with_method(OdeMethod::RungeKutta4));
    let coarse = VpPath::new().even_in_time(10).unwrap();
    let error = |mode| {
        let found = gradient(&coarse, AdjointDpm::new().with_mode(mode));
        number((found - truth.clone()).square().sum()) / number(truth.clone().square().sum())
    };
    let [exact, adjoint] = [GradientMode::Exact, GradientMode::Adjoint].map(error);
    assert!(2.0 * exact < adjoint, "{exact} against {adjoint}");
}

#[test]
fn only_what_the_mode_needs_is_kept() {
    let model = GaussianDenoiser::new(points(&[[0.0]]), points(&[[1.0]]), Prediction::Epsilon);
    let levels = VpPath::new().even_in_log_snr(30).unwrap();
    for (mode, kept) in [
        (GradientMode::Exact, 31),
        (GradientMode::Adjoint, 31),
        (GradientMode::Reintegrated, 1),
    ] {
        let mut run = AdjointDpm::new()
            .with_mode(mode)
            .of(&model, &levels)
            .unwrap();
        assert_eq!(run.sample(points(&[[1.0]])).unwrap().kept(), kept);
        assert_eq!(run.evaluations().calls(), 30);
    }
}

#[test]
fn what_has_no_gradient_is_an_error() {
    let mixture = mixture();
    let model = RowConditions::new(&mixture, vec![Condition::Given(0)]);
    let levels = VpPath::new().even_in_log_snr(4).unwrap();
    let start = points(&[[0.4, -1.1, 0.3]]);
    let mut square = |x: Tensor<2>| Ok(x.square().sum());

    let mut apart = CfgPlusPlus::new();
    let run = AdjointDpm::new().of(&model, &levels).unwrap();
    let error = run.guided_by(&mut apart).sample(start.clone());
    assert!(matches!(error, Err(AdjointError::Apart)));

    let momentum = AdaptiveProjectedConfig::new().with_momentum(-0.9);
    let mut momentum = momentum.init::<2>();
    let mut run = AdjointDpm::new().of(&model, &levels).unwrap();
    run = run.guided_by(&mut momentum);
    let error = run.gradient(start.clone(), &mut square, &mut ());
    assert!(matches!(error, Err(AdjointError::NotRepeatable { .. })));

    let calls = Cell::new(0.0);
    let dropout = denoiser(Prediction::Epsilon, |x: Tensor<2>, _| {
        calls.set(calls.get() + 1.0);
        x * calls.get()
    });
    let mut run = AdjointDpm::new().of(&dropout, &levels).unwrap();
    let error = run.gradient(start.clone(), &mut square, &mut ());
    let told = error.unwrap_err().to_string();
    assert!(told.contains("step 4"), "{told}");

    let mut run = AdjointDpm::new().of(&model, &levels).unwrap();
    let found = run.sample(start.clone()).unwrap();
    let error = run.backward(&found, points(&[[1.0]]), &mut ());
    assert!(matches!(error, Err(AdjointError::Shape { .. })));
    let error = run.gradient(
        start.clone(),
        &mut |_| Ok(Tensor::zeros([1], &Device::flex())),
        &mut (),
    );
    assert!(matches!(error, Err(AdjointError::NoDependence)));
    let error = run.gradient(start.clone(), &mut |_| Err("no loss".into()), &mut ());
    assert_eq!(error.unwrap_err().to_string(), "no loss");

    let infinite = denoiser(Prediction::Epsilon, |x: Tensor<2>, _| x * f64::MAX);
    let mut run = AdjointDpm::new().of(&infinite, &levels).unwrap();
    let error = run.gradient(start, &mut square, &mut ());
    assert!(matches!(
        error,
        Err(AdjointError::NotFinite { .. } | AdjointError::NotRepeatable { .. })
    ));

    let no_signal = crate::level::StraightLine::new().levels(4).unwrap();
    let error = AdjointDpm::new().of(&model, &no_signal).err();
    assert!(error.unwrap().to_string().contains("infinite"));
}

/// A linear "classifier" of exact samples: the loss rises, and the bound holds around the first noise.
#[test]
fn adversarial_noise_stays_within_its_bound() {
    let mixture = mixture();
    let model = RowConditions::new(&mixture, vec![Condition::Without; 2]);
    let levels = VpPath::new().even_in_log_snr(20).unwrap();
    let mut run = AdjointDpm::new().of(&model, &levels).unwrap();
    let first = points(&[[0.4, -1.1, 0.3], [1.3, 0.2, -0.7]]);
    let away = points(&[[-1.0, 0.3, 0.2]]);
    let mut loss = |x: Tensor<2>| Ok((x * away.clone()).sum());
    let attack = AdversarialNoise::new().with_steps(5).with_bound(0.2);
    let found = attack.raise(&mut run, first.clone(), &mut loss).unwrap();
    assert_eq!(found.losses.len(), 6);
    assert!(
        found.losses[5] > found.losses[0] + 0.01,
        "{:?}",
        found.losses
    );
    let change = number((found.noise.clone() - first.clone()).abs().max());
    assert!(change <= 0.2 + 1e-12 && change > 0.05, "{change}");
    let again = run.sample(found.noise).unwrap();
    let difference = number((again.sample().clone() - found.sample).abs().max());
    assert_eq!(difference, 0.0);
    for wrong in [
        attack.with_steps(0),
        attack.with_bound(0.0),
        attack.with_length(-1.0),
    ] {
        assert!(wrong.raise(&mut run, first.clone(), &mut loss).is_err());
    }
}

/// Weights learn a style through all steps: the Gram matrix of the finished samples becomes the given one.
#[test]
fn weights_are_fine_tuned_for_a_style() {
    let device = Device::flex();
    let mut theta = Tensor::<1>::from_floats([0.3, 0.3], &device);
    let style = Tensor::<4>::from_floats([[[[1.0, -1.0]], [[0.6, 0.6]]]], &device);
    let style = StyleLoss::new(vec![style], vec![1.0]).unwrap();
    let levels = VpPath::new().even_in_log_snr(12).unwrap();
    let start = SeededNoise::new(8, 0).normal([1, 2, 4, 4], &device);
    let mut losses = Vec::new();
    for _ in 0..60 {
        let leaf = theta.clone().autodiff().require_grad();
        // The denoiser of a Gaussian for each channel.
        let model = denoiser(Prediction::Epsilon, |x: Tensor<4>, level: Level| {
            let variance = leaf.clone().square().reshape([1, 2, 1, 1]) * level.alpha_bar();
            x * level.noise() / (variance + (1.0 - level.alpha_bar()))
        });
        let mut wanted = LeafGradient::new(leaf.clone());
        let mut run = AdjointDpm::new().of(&model, &levels).unwrap();
        let mut loss = |x: Tensor<4>| Ok(style.of(vec![x])?);
        losses.push(
            run.gradient(start.clone(), &mut loss, &mut wanted)
                .unwrap()
                .loss,
        );
        theta = theta - wanted.gradient() * 1.0;
    }
    assert!(losses[59] < 0.5 * losses[0], "{losses:?}");
    assert!(StyleLoss::new(Vec::new(), Vec::new()).is_err());
    assert!(style.of(Vec::new()).is_err());
    // Without any features, the relative distance is 1; of the style itself, 0.
    let layers = [
        Tensor::<4>::ones([1, 2, 3, 3], &device),
        Tensor::ones([1, 4, 2, 2], &device) * 7.0,
    ];
    let relative = StyleLoss::relative(layers.to_vec()).unwrap();
    let of = |layers: Vec<Tensor<4>>| number(relative.of(layers).unwrap());
    assert_eq!(of(layers.to_vec()), 0.0);
    assert!((of(layers.map(|x| x.zeros_like()).to_vec()) - 1.0).abs() < 1e-6);
    assert!(
        style
            .of(vec![Tensor::zeros([1, 3, 2, 2], &device)])
            .is_err()
    );
}
