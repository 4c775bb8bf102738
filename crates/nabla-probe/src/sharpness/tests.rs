use burn::tensor::TensorData;
use nabla_grad::curvature::DenseOperator;
use nabla_train::classification::TrainingConfig;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::mlp::{Mlp, MlpConfig};
use serde_json::Value;

use super::steady_hessian::on_host;
use super::*;
use crate::classifier_stability::{ClassifierStability, Rest};
use crate::dynamical_stability::{ExampleCurvature, Sampling};

/// Values of PyTorch and PyHessian, and the network and the examples that they are of.
struct Reference(Value);

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

impl Reference {
    fn read() -> Self {
        Self(serde_json::from_str(include_str!("../../tests/reference/sharpness.json")).unwrap())
    }

    fn number(&self, pointer: &str) -> f64 {
        self.0.pointer(pointer).unwrap().as_f64().unwrap()
    }

    fn examples(&self) -> Examples {
        Examples {
            features: numbers(&self.0["inputs"])
                .iter()
                .map(|&x| x as f32)
                .collect(),
            labels: numbers(&self.0["labels"])
                .iter()
                .map(|&l| l as u32)
                .collect(),
        }
    }

    fn model(&self) -> Mlp {
        let device = Device::flex().autodiff();
        let widths: Vec<usize> = numbers(&self.0["widths"])
            .iter()
            .map(|&w| w as usize)
            .collect();
        let config = MlpConfig {
            hidden: widths[1..3].to_vec(),
        };
        let model = config.init(widths[0], widths[3], &device).unwrap();
        let layout = ParameterLayout::trainable(&model).unwrap();
        let weights = numbers(&self.0["weights"]);
        let data = TensorData::new(weights, [layout.total_length()]);
        layout
            .with_parameters(
                model,
                Tensor::from_data(data, (layout.device(), DType::F32)),
            )
            .unwrap()
    }
}

fn with_loss<T>(double: bool, on: impl FnOnce(&Reference, &ClassifierLoss<'_, Mlp>) -> T) -> T {
    let reference = Reference::read();
    let examples = reference.examples();
    let training = TrainingConfig::default();
    let seen = training.examples(&examples, InputShape::Row(6)).unwrap();
    let indices: Vec<usize> = (0..examples.len()).collect();
    let loss = ClassifierLoss::new(reference.model(), seen, &indices, double).unwrap();
    on(&reference, &loss)
}

fn go_on() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn close(found: f64, expected: f64, tolerance: f64) {
    let off = (found - expected).abs();
    assert!(
        off <= tolerance * expected.abs(),
        "{found} instead of {expected}"
    );
}

#[test]
fn the_hessian_is_that_of_pytorch_and_pyhessian() {
    for (double, tolerance) in [(false, 1e-2), (true, 1e-4)] {
        with_loss(double, |reference, loss| {
            close(loss.loss().unwrap().0, reference.number("/loss"), 1e-5);
            let operator = loss.hessian(&mut SeededNoise::new(1, 0)).unwrap();
            // As many steps as parameters: the quadrature of each run is exact.
            let config = SpectrumConfig {
                runs: 40,
                steps: 119,
                top: 3,
                points: 200,
            };
            let found =
                Spectrum::of(&operator, &config, &mut SeededNoise::new(2, 0), &go_on).unwrap();
            let highest = numbers(&reference.0["highest"]);
            for (found, expected) in found.highest.iter().zip(&highest) {
                close(found.value, *expected, tolerance);
            }
            close(
                found.highest[0].value,
                reference.number("/pyhessian/highest"),
                tolerance,
            );
            assert!(
                (found.lowest.value - reference.number("/lowest")).abs() < tolerance * highest[0]
            );
            for (estimate, expected) in [(found.trace, "/trace"), (found.frobenius, "/frobenius")] {
                let off = (estimate.value - reference.number(expected)).abs();
                assert!(
                    off < 4.0 * estimate.standard_error.unwrap(),
                    "{expected}: {estimate:?}"
                );
            }
            // The density has the trace, too.
            let mean = found.density.integrate(|t| t);
            close(mean * 119.0, found.trace.value, 1e-2);
        });
    }
}

/// The trace of a matrix from the products with all unit vectors.
fn exact_trace(operator: &impl CurvatureOperator) -> f64 {
    let unit = |k: usize| {
        let mut unit = vec![0.0; operator.dim()];
        unit[k] = 1.0;
        operator.apply_with_error(&unit).unwrap().values[k]
    };
    (0..operator.dim()).map(unit).sum()
}

#[test]
fn exact_traces_are_those_of_pytorch() {
    with_loss(true, |reference, loss| {
        let hessian = loss.hessian(&mut SeededNoise::new(1, 0)).unwrap();
        close(exact_trace(&hessian), reference.number("/trace"), 1e-4);
        let gauss_newton = loss.gauss_newton().unwrap();
        close(
            exact_trace(&gauss_newton),
            reference.number("/gauss_newton/trace"),
            1e-4,
        );
    });
}

#[test]
fn gauss_newton_and_its_thresholds_are_those_of_pytorch() {
    with_loss(true, |reference, loss| {
        let operator = loss.gauss_newton().unwrap();
        let changes: Vec<Tensor<2>> = (0..119)
            .map(|k| {
                let mut unit = vec![0.0; 119];
                unit[k] = 1.0;
                let data = TensorData::new(unit, [119]);
                let unit = Tensor::from_data(data, (&operator.device(), DType::F64));
                operator.output_change(&unit).unwrap().unwrap().value
            })
            .collect();
        let curvature = ExampleCurvature::of_softmax(&operator.outputs(), &changes).unwrap();
        let sharpness = curvature.sharpness(loss.loss().unwrap().0);
        let expected = |name: &str| reference.number(&format!("/gauss_newton/{name}"));
        close(sharpness.trace, expected("trace"), 1e-4);
        close(sharpness.frobenius, expected("frobenius"), 1e-4);
        close(sharpness.lambda_max, expected("lambda_max"), 1e-4);
        assert!(!sharpness.at_minimum);
        let stability =
            ClassifierStability::of(loss, 60, &mut SeededNoise::new(3, 0), &go_on).unwrap();
        close(stability.trace, expected("trace"), 1e-4);
        close(stability.lambda_max.value, expected("lambda_max"), 1e-4);
        let traces = numbers(&reference.0["gauss_newton"]["example_traces"]);
        for (found, expected) in stability.example_traces.iter().zip(&traces) {
            assert!((found - expected).abs() < 1e-4 * stability.trace);
        }
        for batch in [1, 4, 40] {
            for (name, sampling) in [
                ("with", Sampling::WithReplacement),
                ("without", Sampling::WithoutReplacement),
            ] {
                let exact = curvature.sgd_threshold(batch, sampling).unwrap();
                close(exact, expected(&format!("thresholds/{batch} {name}")), 1e-4);
                // Few directions are enough for most of it.
                let bounds = stability.rates(batch, sampling).unwrap();
                assert!(
                    bounds.rests_up_to <= exact * 1.0001 && exact <= bounds.leaves_above * 1.0001
                );
                assert!(
                    bounds.leaves_above < 1.2 * exact,
                    "{batch} {name}: {bounds:?}, {exact}"
                );
                assert_eq!(bounds.at(0.99 * bounds.rests_up_to), Rest::Rests);
                assert_eq!(bounds.at(1.01 * bounds.leaves_above), Rest::Leaves);
            }
        }
        let descent = stability.gradient_descent().unwrap();
        assert!(descent.rests_up_to <= descent.leaves_above);
        close(descent.leaves_above, 2.0 / expected("lambda_max"), 1e-4);
    });
}

#[test]
fn the_same_seed_gives_the_same_bits_and_an_observer_stops_the_work() {
    with_loss(false, |_, loss| {
        let config = SpectrumConfig {
            runs: 2,
            steps: 6,
            top: 2,
            points: 64,
        };
        let measured = || {
            let operator = loss.hessian(&mut SeededNoise::new(5, 0)).unwrap();
            Spectrum::of(&operator, &config, &mut SeededNoise::new(5, 1), &go_on).unwrap()
        };
        assert_eq!(measured(), measured());
        let operator = loss.hessian(&mut SeededNoise::new(5, 0)).unwrap();
        let stop = || ControlFlow::Break(());
        let error =
            Spectrum::of(&operator, &config, &mut SeededNoise::new(5, 1), &stop).unwrap_err();
        assert!(error.is_stopped(), "{error}");
    });
}

#[test]
fn moments_of_full_runs_are_exact_for_every_start() {
    // Signs have no variance in a diagonal matrix, and neither have its moments.
    let matrix = Tensor::<2>::from_floats(
        [[3.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, -2.0]],
        &Device::flex(),
    );
    let operator = DenseOperator::new(matrix).unwrap();
    let config = SpectrumConfig {
        runs: 3,
        steps: 3,
        top: 2,
        points: 64,
    };
    let found = Spectrum::of(&operator, &config, &mut SeededNoise::new(0, 0), &go_on).unwrap();
    close(found.trace.value, 2.0, 1e-6);
    close(found.frobenius.value, 14.0_f64.sqrt(), 1e-6);
    assert!(found.trace.standard_error.unwrap() < 1e-6);
    close(found.highest[0].value, 3.0, 1e-6);
    close(found.highest[1].value, 1.0, 1e-6);
    close(found.lowest.value, -2.0, 1e-6);
    assert_eq!((found.products, found.directions.len()), (9, 2));
    for wrong in [
        SpectrumConfig { runs: 0, ..config },
        SpectrumConfig { steps: 1, ..config },
        SpectrumConfig { top: 4, ..config },
        SpectrumConfig {
            points: 3,
            ..config
        },
    ] {
        let refused = Spectrum::of(&operator, &wrong, &mut SeededNoise::new(0, 0), &go_on);
        assert!(matches!(refused, Err(SharpnessError::Range(_))));
    }
}

/// `½ ‖x‖² + a (1 − cos k x_0)`: flat in almost every direction, and sharp over a short way in one.
struct Rippled;

const RIPPLE: [f64; 2] = [0.01, 1000.0];

impl GradientField for Rippled {
    fn gradient(&self, x: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        let [a, k] = RIPPLE;
        let mut values: Vec<f64> = on_host(x.clone())?;
        values[0] += a * k * (k * values[0]).sin();
        let count = values.len();
        Ok(Tensor::from_data(
            TensorData::new(values, [count]),
            (&x.device(), x.dtype()),
        ))
    }
}

/// The step of a random direction is too long for the sharp one, with `f32` by far.
#[test]
fn steps_are_short_enough_for_the_sharpest_direction() {
    let at = Tensor::<1>::ones([400], &Device::flex()).slice_fill(0..1, 0.0);
    let hessian = SteadyHessian::new(Rippled, at.clone(), &mut SeededNoise::new(3, 0)).unwrap();
    let config = SpectrumConfig {
        runs: 1,
        steps: 6,
        ..SpectrumConfig::default()
    };
    let go_on = || ControlFlow::Continue(());
    let mut noise = SeededNoise::new(4, 0);
    let found = Spectrum::of(&hessian, &config, &mut noise, &go_on).unwrap();
    // 1 + a k².
    let highest = found.highest[0].value;
    assert!((highest / 10_001.0 - 1.0).abs() < 1e-3, "{highest}");
    // What is stated is no less than what is seen.
    assert!((highest / 10_001.0 - 1.0).abs() <= hessian.relative_error());
    // No less exact where the steps are those of another function, and searches are made with it.
    let evaluated = Counted::default();
    let count = || evaluated.0.get();
    let hessian = hessian.like(&evaluated, at).unwrap();
    let before = count();
    let mut noise = SeededNoise::new(5, 0);
    let found = Spectrum::of(&hessian, &config, &mut noise, &go_on).unwrap();
    let again = found.highest[0].value;
    assert!((again / 10_001.0 - 1.0).abs() < 1e-3, "{again}");
    assert!(
        count() - before <= 2 * (config.steps + 1),
        "{}",
        count() - before
    );
}

/// [`Rippled`], evaluations counted.
#[derive(Default)]
struct Counted(std::cell::Cell<usize>);

impl GradientField for &Counted {
    fn gradient(&self, x: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        self.0.set(self.0.get() + 1);
        Rippled.gradient(x)
    }
}
