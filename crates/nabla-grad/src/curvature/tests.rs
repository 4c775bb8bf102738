use super::*;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::log_softmax;

use crate::flat::ParameterLayout;
use crate::per_example::per_example_gradients;
use crate::seeded_noise::SeededNoise;

const EXAMPLES: usize = 5;
const INPUTS: usize = 3;
const HIDDEN: usize = 4;
const OUTPUTS: usize = 3;
const PARAMETERS: usize = 31;

/// Values of `tests/reference/curvature_reference.py`.
pub(crate) fn reference(part: &str, field: &str) -> Vec<f64> {
    let file = include_str!("../../tests/reference/curvature_reference.json");
    let file: serde_json::Value = serde_json::from_str(file).unwrap();
    let mut numbers = Vec::new();
    let mut pending = vec![&file[part][field]];
    while let Some(value) = pending.pop() {
        match value.as_array() {
            Some(array) => pending.extend(array.iter().rev()),
            None => numbers.push(value.as_f64().unwrap()),
        }
    }
    numbers
}

pub(crate) fn vector(values: &[f64]) -> Tensor<1> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), [values.len()]),
        (&Device::flex(), DType::F64),
    )
}

/// A symmetric matrix in `f64` with standard normal elements on and below the diagonal.
pub(crate) fn symmetric(dim: usize, seed: u64) -> (Vec<Vec<f64>>, DenseOperator) {
    let draw = SeededNoise::new(seed, 0).normal_values(dim * dim);
    let rows: Vec<Vec<f64>> = (0..dim)
        .map(|i| {
            (0..dim)
                .map(|j| f64::from(draw[i.max(j) * dim + i.min(j)]))
                .collect()
        })
        .collect();
    let operator = dense(&rows);
    (rows, operator)
}

pub(crate) fn dense(rows: &[Vec<f64>]) -> DenseOperator {
    let dim = rows.len();
    let matrix = vector(&rows.concat()).reshape([dim, dim]);
    DenseOperator::new(matrix).unwrap()
}

pub(crate) fn product(rows: &[Vec<f64>], v: &[f64]) -> Vec<f64> {
    rows.iter().map(|row| dot(row, v)).collect()
}

pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let change: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    norm(&change)
}

/// The parameters of the reference's network.
pub(crate) fn theta() -> Vec<f64> {
    (0..PARAMETERS)
        .map(|k| (((7 * k + 3) % 13) as f64 - 6.0) / 8.0)
        .collect()
}

fn direction() -> Vec<f64> {
    (0..PARAMETERS)
        .map(|k| (((3 * k + 1) % 7) as f64 - 3.0) / 4.0)
        .collect()
}

fn inputs() -> Tensor<2> {
    let values: Vec<f64> = (0..EXAMPLES * INPUTS)
        .map(|k| (((5 * (k / INPUTS) + 6 * (k % INPUTS) + 1) % 9) as f64 - 4.0) / 4.0)
        .collect();
    vector(&values).reshape([EXAMPLES, INPUTS])
}

fn one_hot() -> Tensor<2> {
    let values: Vec<f64> = (0..EXAMPLES * OUTPUTS)
        .map(|k| f64::from(u8::from(k / OUTPUTS % OUTPUTS == k % OUTPUTS)))
        .collect();
    vector(&values).reshape([EXAMPLES, OUTPUTS])
}

fn network(theta: Tensor<1>, x: Tensor<2>) -> Tensor<2> {
    let mut from = 0;
    let mut take = |rows: usize, columns: usize| {
        let part = theta.clone().narrow(0, from, rows * columns);
        from += rows * columns;
        part.reshape([rows, columns])
    };
    let (w1, b1) = (take(INPUTS, HIDDEN), take(1, HIDDEN));
    let (w2, b2) = (take(HIDDEN, OUTPUTS), take(1, OUTPUTS));
    (x.matmul(w1) + b1).tanh().matmul(w2) + b2
}

fn cross_entropy(outputs: Tensor<2>, one_hot: Tensor<2>) -> Tensor<1> {
    // Not a division: Burn's backward pass of a division by a number rounds its inverse to `f32`.
    let share = -1.0 / outputs.dims()[0] as f64;
    (log_softmax(outputs, 1) * one_hot).sum() * share
}

/// The gradient of the reference's loss in `f64`.
pub(crate) fn network_gradient(theta: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
    let theta = theta.clone().autodiff().require_grad();
    let outputs = network(theta.clone(), inputs().autodiff());
    let loss = cross_entropy(outputs, one_hot().autodiff());
    theta
        .grad(&loss.backward())
        .ok_or(CurvatureError::NoGradient { what: "loss" })
}

struct Outputs<F>(F);

impl<F: Fn(Tensor<1>) -> Tensor<2>> OutputFunction for Outputs<F> {
    fn outputs(&self, parameters: &Tensor<1>) -> Result<Tensor<2>, CurvatureError> {
        Ok((self.0)(parameters.clone().autodiff()).without_autodiff())
    }

    fn pull_back(
        &self,
        parameters: &Tensor<1>,
        cotangent: Tensor<2>,
    ) -> Result<Tensor<1>, CurvatureError> {
        let parameters = parameters.clone().autodiff().require_grad();
        let sum = ((self.0)(parameters.clone()) * cotangent.autodiff()).sum();
        parameters
            .grad(&sum.backward())
            .ok_or(CurvatureError::NoGradient { what: "output" })
    }
}

fn config(order: Order, step: Step) -> DifferenceConfig {
    DifferenceConfig::new().with_step(step).with_order(order)
}

#[test]
fn the_gradient_is_that_of_torch() {
    let found = values(&network_gradient(&vector(&theta())).unwrap()).unwrap();
    assert!(distance(&found, &reference("network", "gradient")) < 1e-14);
}

#[test]
fn the_difference_converges_to_torchs_hessian_with_order_two_and_four() {
    let exact = reference("network", "hessian_product");
    let error = |order, step| {
        let config = config(order, Step::Fixed(step));
        let hessian = Hessian::new(network_gradient, vector(&theta()), config).unwrap();
        distance(&hessian.apply_values(&direction()).unwrap(), &exact)
    };
    for (order, step, expected) in [(Order::Second, 0.02, 4.0), (Order::Fourth, 0.04, 16.0)] {
        for step in [step, step / 2.0] {
            let ratio = error(order, step) / error(order, step / 2.0);
            assert!(
                (ratio / expected - 1.0).abs() < 0.03,
                "{order:?} {step}: {ratio}"
            );
        }
    }
}

#[test]
fn the_automatic_step_gives_torchs_hessian_and_tells_its_error() {
    let exact = reference("network", "hessian_product");
    let limits = [(Order::Second, 1e-8), (Order::Fourth, 1e-10)];
    for (order, limit) in limits {
        let config = config(order, Step::Automatic);
        let hessian = Hessian::new(network_gradient, vector(&theta()), config).unwrap();
        let found = hessian.product(&vector(&direction())).unwrap();
        let plain = hessian.apply_values(&direction()).unwrap();
        assert_eq!(values(&found.value).unwrap(), plain);
        let error = distance(&plain, &exact);
        assert!(error < limit, "{order:?}: {error}");
        assert!(
            error < 1.5 * found.error && found.error < 200.0 * error,
            "{order:?}: {error}, said to be {}",
            found.error
        );
    }
}

#[test]
fn a_step_that_was_found_is_kept() {
    let at = vector(&theta());
    let config = config(Order::Second, Step::Automatic);
    let searching = Hessian::new(network_gradient, at, config).unwrap();
    let found = searching.product(&vector(&direction())).unwrap();
    let steady = searching.with_step(found.step).unwrap();
    let again = steady.apply_values(&direction()).unwrap();
    let searched = values(&found.value).unwrap();
    assert!(distance(&again, &searched) <= found.error);
    assert!(steady.with_step(0.0).is_err());
}

#[test]
fn extrapolation_of_second_order_is_the_fourth() {
    let at = vector(&theta());
    let product = |order| {
        let config = config(order, Step::Fixed(0.05));
        let hessian = Hessian::new(network_gradient, at.clone(), config).unwrap();
        hessian.product(&vector(&direction())).unwrap()
    };
    let (second, fourth) = (product(Order::Second), product(Order::Fourth));
    let extrapolated = values(&second.extrapolated).unwrap();
    assert!(distance(&extrapolated, &values(&fourth.value).unwrap()) < 1e-13);
    // The error of the fourth order is smaller still.
    let exact = reference("network", "hessian_product");
    let error = |t: &Tensor<1>| distance(&values(t).unwrap(), &exact);
    assert!(error(&fourth.extrapolated) < 0.1 * error(&fourth.value));
    // Truncation dominates: `error` is 2^p − 1 times the error.
    for (found, gain) in [(second, 3.0), (fourth, 15.0)] {
        let ratio = found.error / error(&found.value);
        // The part for kinks is added; the even parts show none to the order r³.
        assert!(ratio > 0.9 * gain && ratio < 2.5 * gain, "{gain}: {ratio}");
    }
}

#[test]
fn a_quadratic_has_the_same_hessian_everywhere_and_for_any_length_of_v() {
    let (rows, operator) = symmetric(9, 3);
    let draw = SeededNoise::new(4, 0).normal_values(18);
    let draw: Vec<f64> = draw.into_iter().map(f64::from).collect();
    let (at, v) = draw.split_at(9);
    let gradient = |theta: &Tensor<1>| operator.apply(theta);
    for order in [Order::Second, Order::Fourth] {
        let config = config(order, Step::Automatic);
        let hessian = Hessian::new(gradient, vector(at), config).unwrap();
        for scale in [1e-6, 1.0, 1e6] {
            let scaled: Vec<f64> = v.iter().map(|x| x * scale).collect();
            let found = hessian.apply_values(&scaled).unwrap();
            let error = distance(&found, &product(&rows, &scaled)) / scale;
            assert!(error < 1e-9, "{order:?} {scale}: {error}");
        }
    }
}

#[test]
fn the_hessian_is_symmetric() {
    let config = config(Order::Fourth, Step::Automatic);
    let hessian = Hessian::new(network_gradient, vector(&theta()), config).unwrap();
    let draw = SeededNoise::new(8, 0).normal_values(2 * PARAMETERS);
    let draw: Vec<f64> = draw.into_iter().map(f64::from).collect();
    let (u, v) = draw.split_at(PARAMETERS);
    let one = dot(u, &hessian.apply_values(v).unwrap());
    let other = dot(v, &hessian.apply_values(u).unwrap());
    assert!((one - other).abs() < 1e-9, "{one} {other}");
    assert!(one.abs() > 1e-3, "{one}");
}

#[derive(Module, Debug)]
struct Classifier {
    first: Linear,
    second: Linear,
}

impl Classifier {
    fn outputs(&self, x: Tensor<2>) -> Tensor<2> {
        self.second.forward(self.first.forward(x).tanh())
    }
}

/// The reference's network as a module in `f32`.
fn classifier() -> (Classifier, ParameterLayout, Tensor<2>, Tensor<2>) {
    let device = Device::flex().autodiff();
    let module = Classifier {
        first: LinearConfig::new(INPUTS, HIDDEN).init(&device),
        second: LinearConfig::new(HIDDEN, OUTPUTS).init(&device),
    };
    let layout = ParameterLayout::of(&module).unwrap();
    let theta = vector(&theta()).cast(DType::F32);
    let module = layout.with_parameters(module, theta).unwrap();
    let constant = |t: Tensor<2>| t.cast(DType::F32).autodiff();
    (module, layout, constant(inputs()), constant(one_hot()))
}

#[test]
fn a_module_in_f32_has_torchs_hessian_to_the_precision_of_f32() {
    let (module, layout, x, y) = classifier();
    let exact = reference("network", "hessian_product");
    let loss = ModuleLoss::new(module, layout, move |m: &Classifier| {
        cross_entropy(m.outputs(x.clone()), y.clone())
    });
    let at = loss.parameters().unwrap();
    assert_eq!(values(&at).unwrap(), theta());
    for (order, limit) in [(Order::Second, 3e-4), (Order::Fourth, 1e-4)] {
        let config = config(order, Step::Automatic);
        let hessian = Hessian::new(loss.clone(), at.clone(), config).unwrap();
        let found = hessian.apply_values(&direction()).unwrap();
        let error = distance(&found, &exact) / norm(&exact);
        assert!(error < limit, "{order:?}: {error}");
    }
}

#[test]
fn gauss_newton_products_are_torchs() {
    let model = || Outputs(|theta| network(theta, inputs().autodiff()));
    let mean = 1.0 / EXAMPLES as f64;
    for (loss, scale, field) in [
        (
            OutputLoss::SoftmaxCrossEntropy,
            mean,
            "softmax_gauss_newton_product",
        ),
        (
            OutputLoss::SquaredError,
            1.0,
            "squared_gauss_newton_product",
        ),
    ] {
        let exact = reference("network", field);
        let at = vector(&theta());
        let config = config(Order::Fourth, Step::Automatic);
        let matrix = GaussNewton::new(model(), at, loss, scale, config).unwrap();
        let found = matrix.apply_values(&direction()).unwrap();
        assert!(distance(&found, &exact) < 1e-10, "{field}");
        let change = matrix
            .output_change(&vector(&direction()))
            .unwrap()
            .unwrap();
        assert!(change.error < 1e-9 && change.error > 0.0);

        let (module, layout, x, _) = classifier();
        let outputs = move |m: &Classifier| m.outputs(x.clone());
        let model = ModuleOutputs::new(module, layout, outputs);
        let at = model.parameters().unwrap();
        let config = DifferenceConfig::new();
        let matrix = GaussNewton::new(model, at, loss, scale, config).unwrap();
        let found = matrix.apply_values(&direction()).unwrap();
        let error = distance(&found, &exact) / norm(&exact);
        assert!(error < 3e-4, "{field} in f32: {error}");
    }
}

/// For outputs that are linear in the parameters, Hessian and Gauss-Newton matrix are the same;
/// with two classes and the first one's logit held at 0 they are `Xᵀ D X`, `D = p (1 − p)`.
#[test]
fn logistic_regression_has_its_closed_form() {
    let (n, d) = (7, 4);
    let draw = SeededNoise::new(5, 0).normal_values(n * d + 2 * d);
    let draw: Vec<f64> = draw.into_iter().map(f64::from).collect();
    let (x, rest) = draw.split_at(n * d);
    let (w, v) = rest.split_at(d);
    let mut exact = vec![0.0; d];
    for row in x.chunks(d) {
        let p = 1.0 / (1.0 + (-dot(row, w)).exp());
        add_scaled(&mut exact, p * (1.0 - p) * dot(row, v), row);
    }
    let features = vector(x).reshape([n, d]);
    let outputs = move |w: Tensor<1>| {
        let logit = features.clone().autodiff().matmul(w.unsqueeze_dim(1));
        Tensor::cat(vec![logit.zeros_like(), logit], 1)
    };
    let matrix = GaussNewton::new(
        Outputs(outputs.clone()),
        vector(w),
        OutputLoss::SoftmaxCrossEntropy,
        1.0,
        DifferenceConfig::new(),
    )
    .unwrap();
    assert!(distance(&matrix.apply_values(v).unwrap(), &exact) < 1e-9);

    let gradient = |w: &Tensor<1>| {
        let w = w.clone().autodiff().require_grad();
        // All labels are the first class: the Hessian does not depend on them.
        let loss = -log_softmax(outputs(w.clone()), 1).narrow(1, 0, 1).sum();
        w.grad(&loss.backward())
            .ok_or(CurvatureError::NoGradient { what: "loss" })
    };
    let hessian = Hessian::new(gradient, vector(w), DifferenceConfig::new()).unwrap();
    assert!(distance(&hessian.apply_values(v).unwrap(), &exact) < 1e-8);
}

#[test]
fn the_empirical_fisher_is_torchs_from_our_per_example_gradients() {
    let (module, layout, x, y) = classifier();
    let gradients = per_example_gradients(&module, &layout, EXAMPLES, |m, i| {
        let (x, y) = (x.clone().narrow(0, i, 1), y.clone().narrow(0, i, 1));
        cross_entropy(m.outputs(x), y)
    })
    .unwrap();
    let exact = reference("network", "per_example_gradients");
    assert!(distance(&values(&gradients).unwrap(), &exact) < 1e-5);

    let exact = reference("network", "fisher_product");
    let fisher = EmpiricalFisher::new(gradients.clone(), 0.0).unwrap();
    assert!(distance(&fisher.apply_values(&direction()).unwrap(), &exact) < 1e-5);
    let damped = EmpiricalFisher::new(gradients.clone(), 0.5).unwrap();
    let found = damped.apply_values(&direction()).unwrap();
    let mut expected = exact.clone();
    add_scaled(&mut expected, 0.5, &direction());
    assert!(distance(&found, &expected) < 1e-5);
    // The general damping is the same.
    let damped = Damped::new(EmpiricalFisher::new(gradients, 0.0).unwrap(), 0.5).unwrap();
    assert!(distance(&damped.apply_values(&direction()).unwrap(), &expected) < 1e-5);
}

#[test]
fn a_zero_vector_has_the_product_zero() {
    let zeros = [0.0; PARAMETERS];
    let config = DifferenceConfig::new();
    let hessian = Hessian::new(network_gradient, vector(&theta()), config).unwrap();
    assert_eq!(hessian.apply_values(&zeros).unwrap(), zeros);
    let found = hessian.product(&vector(&zeros)).unwrap();
    assert_eq!((found.error, found.step), (0.0, 0.0));
    let model = Outputs(|theta| network(theta, inputs().autodiff()));
    let loss = OutputLoss::SquaredError;
    let matrix = GaussNewton::new(model, vector(&theta()), loss, 1.0, config).unwrap();
    assert_eq!(matrix.apply_values(&zeros).unwrap(), zeros);
    assert!(matrix.output_change(&vector(&zeros)).unwrap().is_none());
}

#[test]
fn a_gradient_that_differs_from_time_to_time_is_refused() {
    let calls = std::cell::Cell::new(0.0);
    let gradient = |theta: &Tensor<1>| {
        calls.set(calls.get() + 1.0);
        Ok(network_gradient(theta)? * (1.0 + 0.01 * calls.get()))
    };
    let refused = Hessian::new(gradient, vector(&theta()), DifferenceConfig::new());
    assert!(matches!(
        refused.err(),
        Some(CurvatureError::Random { what: "gradient", change }) if change > 1e-3
    ));
    let bad = DifferenceConfig::new().with_accuracy(-1.0);
    let refused = Hessian::new(network_gradient, vector(&theta()), bad);
    assert!(matches!(refused, Err(CurvatureError::Range(_))));
}

/// On a kink itself there is no Hessian, and the stated error shows it.
#[test]
fn a_kink_at_the_parameters_is_in_the_stated_error() {
    // |x| + x²: the gradient jumps by 2 at 0.
    let gradient = |x: &Tensor<1>| Ok(x.clone().sign() + x.clone() * 2.0);
    let at = |x: f64| Hessian::new(gradient, vector(&[x]), DifferenceConfig::new()).unwrap();
    let found = at(0.0).apply_with_error(&[1.0]).unwrap();
    assert!(found.error > found.values[0].abs() * 0.4, "{found:?}");
    // Beside it, the step ends before it.
    for x in [1e-6, -1e-6, 0.1] {
        let found = at(x).apply_with_error(&[1.0]).unwrap();
        let off = (found.values[0] - 2.0).abs();
        assert!(off <= found.error && found.error < 1e-3, "{x}: {found:?}");
    }
}

#[test]
fn closures_and_references_are_operators() {
    let (rows, matrix) = symmetric(6, 1);
    let function = FunctionOperator::new(6, Device::flex(), |v: &Tensor<1>| {
        matrix.apply(v).map_err(Into::into)
    })
    .with_dtype(DType::F64);
    let v = [1.0, -2.0, 0.5, 0.0, 3.0, 1.0];
    assert_eq!(
        function.apply_values(&v).unwrap(),
        (&&matrix).apply_values(&v).unwrap()
    );
    assert!(distance(&function.apply_values(&v).unwrap(), &product(&rows, &v)) < 1e-14);
}

#[test]
fn what_cannot_be_is_refused() {
    let (_, matrix) = symmetric(6, 1);
    assert!(matches!(
        matrix.apply_values(&[1.0; 5]),
        Err(CurvatureError::Dimension {
            expected: 6,
            found: 5,
            ..
        })
    ));
    assert!(matches!(
        DenseOperator::new(Tensor::zeros([2, 3], &Device::flex())),
        Err(CurvatureError::NotSquare {
            rows: 2,
            columns: 3
        })
    ));
    for step in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let config = config(Order::Second, Step::Fixed(step));
        let refused = Hessian::new(network_gradient, vector(&theta()), config);
        assert!(matches!(refused, Err(CurvatureError::Range(_))));
    }
    for damping in [-1.0, f64::NAN] {
        let refused = Damped::new(&matrix, damping);
        assert!(matches!(refused, Err(CurvatureError::Range(_))));
    }
    let refused = EmpiricalFisher::new(Tensor::zeros([0, 3], &Device::flex()), 0.0);
    assert!(matches!(refused, Err(CurvatureError::NoExamples)));
    let nan = FunctionOperator::new(1, Device::flex(), |v: &Tensor<1>| Ok(v.clone().log()));
    assert!(matches!(
        nan.apply_values(&[-1.0]),
        Err(CurvatureError::NotFinite { .. })
    ));
    let failing = FunctionOperator::new(1, Device::flex(), |_: &Tensor<1>| Err("no".into()));
    assert!(matches!(
        failing.apply_values(&[1.0]),
        Err(CurvatureError::Function(_))
    ));
    let (module, layout, x, _) = classifier();
    let loss = ModuleLoss::new(module, layout, move |_: &Classifier| x.clone().sum());
    assert!(matches!(
        loss.gradient(&loss.parameters().unwrap()),
        Err(CurvatureError::NoGradient { what: "loss" })
    ));
}

#[test]
fn sums_do_not_depend_on_the_number_of_threads() {
    let draw = SeededNoise::new(2, 0).normal_values(200_000);
    let draw: Vec<f64> = draw.into_iter().map(f64::from).collect();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let mut sum = draw.clone();
            add_scaled(&mut sum, 0.3, &draw);
            (dot(&draw, &sum).to_bits(), norm(&sum).to_bits())
        })
    };
    assert_eq!(with(1), with(3));
}
