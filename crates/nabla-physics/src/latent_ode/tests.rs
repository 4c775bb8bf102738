use super::*;
use burn::module::Param;
use burn::tensor::{DType, TensorData, Tolerance};
use nabla_grad::flat::with_float_type;
use serde_json::Value;

use crate::field::Dynamics;
use crate::{Method, Solver};

const DIMS: [usize; 3] = [4, 3, 3];

fn reference() -> Value {
    serde_json::from_str(include_str!("../../tests/reference/latent_ode.json")).unwrap()
}

fn list(value: &Value) -> Vec<f64> {
    let numbers = value.as_array().unwrap();
    numbers.iter().map(|x| x.as_f64().unwrap()).collect()
}

fn wide<const D: usize>(value: &Value, dims: [usize; D]) -> Tensor<D> {
    let data = TensorData::new(list(value), dims);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn near(found: Tensor<1>, expected: &Value) {
    let expected = TensorData::from(list(expected).as_slice());
    let close = Tolerance::absolute(1e-11).set_relative(1e-11);
    found.into_data().assert_approx_eq::<f64>(&expected, close);
}

fn series(reference: &Value) -> Series {
    let times = list(&reference["times"]);
    Series::new(
        &times,
        wide(&reference["values"], DIMS),
        wide(&reference["mask"], DIMS),
    )
    .unwrap()
}

fn model(reference: &Value, time_input: TimeInput) -> LatentOde {
    let device = Device::flex().autodiff();
    let config = LatentOdeConfig::new(3)
        .with_flow(NeuralOdeConfig::new(2).with_hidden([5]))
        .with_recognition(4, 5)
        .with_time_input(time_input);
    let drawn = config.init(&device, &mut SeededNoise::new(1, 0)).unwrap();
    let mut model = with_float_type(drawn, DType::F64);
    for (name, net) in [
        ("update", &mut model.update),
        ("reset", &mut model.reset),
        ("candidate", &mut model.candidate),
        ("posterior", &mut model.posterior),
    ] {
        for (place, layer) in [&mut net.first, &mut net.second].into_iter().enumerate() {
            let [weight, bias] =
                ["weight", "bias"].map(|part| &reference[format!("{name}.{place}.{part}")]);
            let dims = layer.weight.dims();
            layer.weight = Param::from_tensor(wide(weight, dims).autodiff());
            layer.bias = Some(Param::from_tensor(wide(bias, [dims[1]]).autodiff()));
        }
    }
    model
}

#[test]
fn encoders_and_divergences_are_those_of_pytorch() {
    let reference = reference();
    let series = series(&reference);
    for (name, time_input) in [
        ("time", TimeInput::Time),
        ("difference", TimeInput::Difference),
    ] {
        let model = model(&reference, time_input);
        let posterior = model.encode(&series).unwrap();
        let expected = &reference[name];
        near(
            posterior.mean.clone().inner().reshape([-1]),
            &expected["mean"],
        );
        near(
            posterior.deviation.clone().inner().reshape([-1]),
            &expected["deviation"],
        );
        let divergence = posterior.divergence();
        near(divergence.clone().inner(), &expected["divergence"]);
        let gradients = divergence.sum().backward();
        let found = model.update.first.weight.val().grad(&gradients).unwrap();
        near(found.reshape([-1]), &expected["gradient"]);
    }
}

#[test]
fn likelihoods_are_those_of_pytorch_over_what_is_observed() {
    let reference = reference();
    let series = series(&reference);
    let prediction = wide(&reference["prediction"], DIMS);
    let found = series.log_likelihood(prediction.clone(), 0.01).unwrap();
    near(found, &reference["log_likelihood"]);
    // What is not observed counts for nothing, not even where it is no number.
    let times = list(&reference["times"]);
    let mask = series.mask();
    let hidden = series
        .values()
        .mask_fill(mask.clone().equal_elem(0.0), f64::NAN);
    let again = Series::new(&times, hidden, mask.clone()).unwrap();
    near(
        again.log_likelihood(prediction.clone(), 0.01).unwrap(),
        &reference["log_likelihood"],
    );
    let shifted = series.values() + 0.3;
    let errors = series.squared_error(shifted).unwrap().into_data();
    let errors: Vec<f64> = errors.iter().collect();
    assert!(
        (errors[0] - 0.09).abs() < 1e-12 && errors[2] == 0.0,
        "{errors:?}"
    );
    let error = series.log_likelihood(prediction.clone().narrow(0, 0, 2), 0.01);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .starts_with("the prediction has the shape")
    );
    assert!(series.log_likelihood(prediction, 0.0).is_err());
    let error = Series::new(&times, series.values(), mask * 0.5).unwrap_err();
    assert!(error.to_string().contains("0.5"), "{error}");
    assert!(Series::new(&times[..2], series.values(), series.mask()).is_err());
}

/// The closed form of two normal distributions, and the mean of the log-ratio over draws.
#[test]
fn divergences_are_means_of_log_ratios() {
    let device = (&Device::flex(), DType::F64);
    let posterior = Posterior {
        mean: Tensor::from_data([[0.4, -1.0]], device),
        deviation: Tensor::from_data([[0.5, 1.7]], device),
    };
    let many = Posterior {
        mean: posterior.mean.clone().repeat_dim(0, 40_000),
        deviation: posterior.deviation.clone().repeat_dim(0, 40_000),
    };
    let z = many.draw(&mut SeededNoise::new(5, 0));
    let epsilon = (z.clone() - many.mean) / many.deviation;
    let log_ratio = (z.square() - epsilon.square()) * 0.5 - posterior.deviation.clone().log();
    let mean = log_ratio.sum_dim(1).mean().into_scalar::<f64>();
    let closed = posterior.divergence().into_scalar::<f64>();
    assert!((mean - closed).abs() < 0.03, "{mean} {closed}");
}

#[test]
fn weights_of_the_divergence_begin_late_and_grow_to_one() {
    assert_eq!(divergence_weight(3, 10), 0.0);
    assert_eq!(divergence_weight(10, 10), 0.0);
    assert!((divergence_weight(12, 10) - 0.0199).abs() < 1e-12);
    assert!(divergence_weight(2000, 10) > 0.999_999);
}

/// The gradient of the whole loss, through the solver, is that of central differences.
#[test]
fn gradients_of_the_loss_are_slopes() {
    let reference = reference();
    let series = series(&reference);
    let loss = |model: &LatentOde| {
        let posterior = model.encode(&series).unwrap();
        let start = posterior.draw(&mut SeededNoise::new(2, 0));
        let solver = Solver::new(Method::TSIT5).with_tolerances(1e-10, 1e-10);
        let solution = solver.solve(model.flow(), start, series.times()).unwrap();
        let likelihood = series
            .log_likelihood(model.decode(solution.values()), 0.5)
            .unwrap();
        (posterior.divergence() * 0.3 - likelihood).mean()
    };
    let model = model(&reference, TimeInput::Time);
    let gradients = loss(&model).backward();
    let layer = &model.flow.layers()[0].linear;
    let by_flow = layer.weight.val().grad(&gradients).unwrap();
    let by_encoder = model
        .candidate
        .second
        .weight
        .val()
        .grad(&gradients)
        .unwrap();
    let value = |model: &LatentOde| loss(model).inner().into_scalar::<f64>();
    let moved = |x: Tensor<2>, by: f64| {
        let plain = x.inner();
        let mut values: Vec<f64> = plain.clone().into_data().iter().collect();
        values[3] += by;
        let data = TensorData::new(values, plain.dims());
        Param::from_tensor(Tensor::<2>::from_data(data, (&Device::flex(), DType::F64)).autodiff())
    };
    let third = |x: Tensor<2>| x.into_data().iter::<f64>().nth(3).unwrap();
    let slope =
        |change: &dyn Fn(f64) -> LatentOde| (value(&change(1e-5)) - value(&change(-1e-5))) / 2e-5;
    let of_flow = slope(&|by| {
        let mut layers = model.flow.layers().to_vec();
        layers[0].linear.weight = moved(layers[0].linear.weight.val(), by);
        LatentOde {
            flow: model.flow.clone().with_layers(layers),
            ..model.clone()
        }
    });
    let of_encoder = slope(&|by| {
        let mut changed = model.clone();
        changed.candidate.second.weight = moved(changed.candidate.second.weight.val(), by);
        changed
    });
    for (found, expected) in [(third(by_flow), of_flow), (third(by_encoder), of_encoder)] {
        assert!(
            (found - expected).abs() < 1e-6 * (1.0 + expected.abs()),
            "{found} {expected}"
        );
    }
    let state = Tensor::<2>::zeros([1, 2], (&Device::flex(), DType::F64)).autodiff();
    assert_eq!(
        model
            .flow()
            .slope(state.clone(), state.narrow(1, 0, 1))
            .dims(),
        [1, 2]
    );
}

#[test]
fn defaults_are_those_of_the_paper() {
    let config = LatentOdeConfig::new(37);
    let model = config
        .init(&Device::flex(), &mut SeededNoise::new(1, 0))
        .unwrap();
    let widths: Vec<[usize; 2]> = model
        .flow
        .layers()
        .iter()
        .map(|l| l.linear.weight.dims())
        .collect();
    assert_eq!(widths[0], [20, 50]);
    assert_eq!((widths.len(), widths[7]), (8, [50, 20]));
    assert_eq!(model.update.first.weight.dims(), [2 * 40 + 2 * 37 + 1, 50]);
    let error = LatentOdeConfig::new(0).init(&Device::flex(), &mut SeededNoise::new(1, 0));
    assert!(error.is_err());
}
