use std::ops::ControlFlow;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_data::trajectories::{Trajectories, Trajectory};
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;

use super::model::FittedConfig;
use super::transition::surprise;
use super::windows::{Data, Series, Window};
use super::*;
use crate::ernode::Heuristic;
use crate::local_regularisation::Sampling;

fn table(columns: usize, trajectories: Vec<Trajectory>) -> Trajectories {
    Trajectories {
        time: "t".to_owned(),
        trajectory: Some("id".to_owned()),
        columns: ["a", "b", "c"][..columns]
            .iter()
            .map(|&c| c.to_owned())
            .collect(),
        trajectories,
    }
}

/// `x'' = −x − 0.2 x'`: turning and falling, from any state.
fn oscillator([x, v]: [f64; 2], t: f64) -> [f64; 2] {
    let (rate, turn) = (0.1, (1.0_f64 - 0.01).sqrt());
    let (sine, cosine) = (turn * t).sin_cos();
    let falls = (-rate * t).exp();
    let place = falls * (x * cosine + (v + rate * x) / turn * sine);
    let speed = falls * (v * cosine - (x + rate * v) / turn * sine);
    [place, speed]
}

/// Trajectories of the oscillator at irregular times, with a share of gaps.
fn oscillators(count: usize, rows: usize, gaps: f64) -> Trajectories {
    let mut draws = SeededNoise::new(9, 0);
    let trajectories = (0..count).map(|id| {
        let start = [(); 2].map(|()| 2.0 * draws.random::<f64>() - 1.0);
        let (mut times, mut values, mut time) = (Vec::new(), Vec::new(), 3.0);
        for _ in 0..rows {
            times.push(time);
            let state = oscillator(start, time - 3.0);
            values.extend(state.map(|x| (draws.random::<f64>() >= gaps).then_some(x)));
            time += 0.1 + 0.4 * draws.random::<f64>();
        }
        Trajectory {
            name: format!("run {id}"),
            times,
            values,
        }
    });
    table(2, trajectories.collect())
}

fn fitted(config: &FitConfig, table: &Trajectories) -> Fitted {
    let mut fit = Fit::new(config, table).unwrap();
    fit.run(None, &mut |_| ControlFlow::Continue(())).unwrap();
    fit.finish().unwrap()
}

fn short(steps: usize) -> FitConfig {
    FitConfig {
        steps,
        hidden: vec![16],
        ..FitConfig::default()
    }
}

#[test]
fn a_damped_oscillator_is_found_from_irregular_times_with_gaps() {
    let table = oscillators(10, 40, 0.2);
    let mut config = short(600);
    config.optimizer.learning_rate = Some(0.02);
    let found = fitted(&config, &table);
    let errors = found.report.validation.unwrap();
    let [model, constant] = [errors.model, errors.constant].map(Option::unwrap);
    assert!(model < 0.1 * constant && model < 0.1, "{errors:?}");
    // A trajectory that nobody has seen, beyond the data's last time.
    let start = Start {
        name: "new".to_owned(),
        time: 0.0,
        values: vec![0.8, -0.1],
    };
    let times: Vec<f64> = (1..=10).map(f64::from).collect();
    let solver = found.model.config().solver;
    let path = found.model.simulate(&start, &times, &solver).unwrap();
    for (time, state) in times.iter().zip(&path.values) {
        let expected = oscillator([0.8, -0.1], *time);
        for (a, b) in state.iter().zip(expected) {
            assert!((a - b).abs() < 0.1, "{time}: {state:?} {expected:?}");
        }
    }
    // The slope is that of the equation.
    let (slope, noise) = found.model.slope(&[0.5, 0.2], 1.0).unwrap();
    assert!(
        (slope[0] - 0.2).abs() < 0.1 && (slope[1] + 0.54).abs() < 0.1,
        "{slope:?}"
    );
    assert!(noise.is_none());
}

/// No row is complete: every window begins with a number that must be learnt.
#[test]
fn states_that_are_never_seen_whole_are_learnt() {
    let mut table = oscillators(6, 40, 0.0);
    for trajectory in &mut table.trajectories {
        for row in 0..trajectory.len() {
            trajectory.values[2 * row + row % 2] = None;
        }
    }
    let mut config = short(600);
    config.optimizer.learning_rate = Some(0.02);
    let found = fitted(&config, &table);
    // What is carried on is half a row old, so the forecasts begin with an error.
    let (slope, _) = found.model.slope(&[0.5, 0.2], 1.0).unwrap();
    assert!(
        (slope[0] - 0.2).abs() < 0.15 && (slope[1] + 0.54).abs() < 0.15,
        "{slope:?}"
    );
}

#[test]
fn what_was_broken_off_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for (name, kind) in [("ode", Kind::Ode), ("sde", Kind::Sde)] {
        let table = oscillators(3, 25, 0.3);
        let regularisation = match kind {
            Kind::Ode => Regularisation::Local {
                heuristic: Heuristic::Error,
                sampling: Sampling::Biased,
                weight: 1.0,
                last_weight: 0.1,
            },
            Kind::Sde => Regularisation::None,
        };
        let config = FitConfig {
            kind,
            regularisation,
            time_dependent: true,
            batch: 4,
            measurements: 6,
            ..short(12)
        };
        let bits = |fit: &Fit, folder: &std::path::Path| {
            let found = fit.finish().unwrap();
            found.model.save(folder).unwrap();
            (
                std::fs::read(folder.join("model.safetensors")).unwrap(),
                found.report,
            )
        };
        let path = |what: &str| folder.path().join(format!("{name}-{what}"));
        let mut whole = Fit::new(&config, &table).unwrap();
        whole.run(None, &mut |_| ControlFlow::Continue(())).unwrap();
        let expected = bits(&whole, &path("whole"));
        let mut again = Fit::new(&config, &table).unwrap();
        again.run(None, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(expected == bits(&again, &path("again")), "{name}");

        let checkpoint = path("checkpoint");
        let mut first = Fit::new(&config, &table).unwrap();
        let stop = &mut |progress: nabla_train::Progress<'_, Measured>| match progress.step {
            7 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        first.run(Some(&checkpoint), stop).unwrap();
        let mut rest = Fit::new(&config, &table)
            .unwrap()
            .resume(&checkpoint)
            .unwrap();
        rest.run(None, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(expected == bits(&rest, &path("rest")), "{name}");
        assert_eq!(whole.history().epochs, rest.history().epochs);
        // Other data, another seed.
        let other = Fit::new(&config, &oscillators(3, 25, 0.2)).unwrap();
        let told = other.resume(&checkpoint).unwrap_err().to_string();
        assert!(told.contains("another training"), "{told}");
        let other = FitConfig { seed: 1, ..config };
        assert!(
            Fit::new(&other, &table)
                .unwrap()
                .resume(&checkpoint)
                .is_err()
        );
        // What is read is what was written.
        let read = FittedModel::load(&path("whole")).unwrap();
        let start = Start {
            name: String::new(),
            time: 3.0,
            values: vec![0.3, -0.2],
        };
        let solver = read.config().solver;
        let [a, b] = [&read, &whole.finish().unwrap().model]
            .map(|model| model.simulate(&start, &[3.5, 4.0], &solver).unwrap());
        assert_eq!(a, b);
        if kind == Kind::Sde {
            let paths = |seed| {
                read.simulate_paths(&start, &[3.5, 4.0], 5, 0.01, seed)
                    .unwrap()
            };
            assert_eq!(paths(1), paths(1));
            assert!(paths(1) != paths(2));
        }
    }
}

/// `dx = θ (μ − x) dt + σ dW`, drawn from its exact transitions at irregular times. The errors of the estimates are those
/// of the maximum likelihood: `√((1 − φ²)/n)/(φ Δ)` for `θ` with `φ = exp(−θ Δ)`, and `σ/√(2n)` for `σ`.
#[test]
fn drift_and_noise_of_an_ornstein_uhlenbeck_process_are_found() {
    let (theta, level, sigma) = (0.8, 2.0, 0.5);
    let (rows, step) = (4000, 0.25);
    let mut draws = SeededNoise::new(4, 0);
    let normal = draws.normal_values(rows);
    let (mut x, mut time) = (level, 0.0);
    let (mut times, mut values) = (Vec::new(), Vec::new());
    for z in normal {
        times.push(time);
        values.push(Some(x));
        let length = step * (0.5 + draws.random::<f64>());
        let falls = (-theta * length).exp();
        let spread = sigma * ((1.0 - falls * falls) / (2.0 * theta)).sqrt();
        x = level + (x - level) * falls + spread * f64::from(z);
        time += length;
    }
    let table = table(
        1,
        vec![Trajectory {
            name: String::new(),
            times,
            values,
        }],
    );
    let mut config = FitConfig {
        kind: Kind::Sde,
        hidden: Vec::new(),
        batch: 1000,
        validation: 0.0,
        ..short(400)
    };
    config.optimizer.learning_rate = Some(0.03);
    let found = fitted(&config, &table).model;
    let at = |x: f64| {
        let (slope, noise) = found.slope(&[x], 0.0).unwrap();
        (slope[0], noise.unwrap()[0])
    };
    let deviation = sigma / (2.0_f64 * theta).sqrt();
    let (low, high) = (at(level - deviation), at(level + deviation));
    let rate = (low.0 - high.0) / (2.0 * deviation);
    let n = rows as f64;
    let falls = (-theta * step).exp();
    let error = ((1.0 - falls * falls) / n).sqrt() / (falls * step);
    assert!(
        (rate - theta).abs() < 3.0 * error,
        "θ: {rate}, error {error}"
    );
    // Of the level: σ/(θ √T).
    let found_level = level - deviation + low.0 / rate;
    let error = sigma / (theta * (n * step).sqrt());
    assert!(
        (found_level - level).abs() < 3.0 * error,
        "μ: {found_level}, error {error}"
    );
    let error = sigma / (2.0 * n).sqrt();
    let noise = at(level).1;
    assert!(
        (noise - sigma).abs() < 3.0 * error,
        "σ: {noise}, error {error}"
    );
    // Paths from a start have the mean and the spread of the process.
    let start = Start {
        name: String::new(),
        time: 0.0,
        values: vec![3.0],
    };
    let paths = found
        .simulate_paths(&start, &[1.0], 4000, 0.003, 5)
        .unwrap();
    let quantiles = Quantiles::of(&paths);
    let falls = (-theta).exp();
    let spread = sigma * ((1.0 - falls * falls) / (2.0 * theta)).sqrt();
    assert!(
        (quantiles.mean[0][0] - (level + falls)).abs() < 0.03,
        "{quantiles:?}"
    );
    let width = quantiles.high[0][0] - quantiles.low[0][0];
    // 80 % of a normal distribution are within 1.2816 deviations.
    assert!(
        (width / (2.0 * 1.2816 * spread) - 1.0).abs() < 0.06,
        "{width} {spread}"
    );
}

/// A linear equation's rows, one of which is half seen, are normal together.
#[test]
fn the_likelihood_of_a_linear_equation_is_that_of_a_normal_distribution() {
    let a = [[-0.4, 0.9], [-0.7, -0.2]];
    let b = [0.1, -0.3];
    let g = [0.5, 0.8];
    let rows = vec![
        Some(0.3),
        Some(-0.5),
        Some(0.7),
        None,
        Some(-0.2),
        Some(0.4),
    ];
    let times = vec![0.0, 0.5, 1.2];
    let table = table(
        2,
        vec![Trajectory {
            name: String::new(),
            times: times.clone(),
            values: rows.clone(),
        }],
    );
    let mut data = Data::new(&table, 0.0, 1).unwrap();
    // In the units of the data.
    data.scaling.unit = 1.0;
    let config = FitConfig {
        kind: Kind::Sde,
        hidden: Vec::new(),
        ..FitConfig::default()
    };
    let device = Device::flex();
    let described = FittedConfig::new(&config, &table, data.scaling.clone());
    let mut network = described
        .network(&device, &mut SeededNoise::new(1, 0))
        .unwrap();
    let set = |net: &crate::neural_ode::NeuralOde, weight: [f32; 4], bias: [f32; 2]| {
        let mut layers = net.layers().to_vec();
        let data = TensorData::new(weight.to_vec(), [2, 2]);
        layers[0].linear.weight = Param::from_tensor(Tensor::from_data(data, &device));
        layers[0].linear.bias = Some(Param::from_tensor(Tensor::from_floats(bias, &device)));
        net.clone().with_layers(layers)
    };
    let f32s = |x: [f64; 2]| x.map(|x| x as f32);
    let transposed = [a[0][0], a[1][0], a[0][1], a[1][1]].map(|x| x as f32);
    network.drift = set(&network.drift, transposed, f32s(b));
    // The inverse of ln(1 + eˣ).
    let before = g.map(|g: f64| ((g - 1e-3).exp() - 1.0).ln());
    let diffusion = network.diffusion.as_ref().unwrap();
    network.diffusion = Some(set(diffusion, [0.0; 4], f32s(before)));
    let series = vec![Series {
        name: String::new(),
        times,
        values: rows.iter().map(|x| x.unwrap_or(0.0)).collect(),
        observed: rows.iter().map(Option::is_some).collect(),
        carried: vec![0.0; 6],
        interpolated: vec![0.0; 6],
    }];
    let window = Window {
        series: 0,
        first: 0,
        rows: 3,
    };
    let nll = |substeps| {
        let found = surprise(
            &data,
            &series,
            &[window],
            &network,
            false,
            substeps,
            &device,
        );
        assert_eq!(found.1, 3.0);
        found.0.into_scalar::<f32>() as f64
    };
    // The moments by many small steps of Euler's method in double precision.
    let moments = |mut m: [f64; 2], mut p: [[f64; 2]; 2], length: f64| {
        let steps = 200_000;
        let h = length / f64::from(steps);
        let mut flow = [[1.0, 0.0], [0.0, 1.0]];
        for _ in 0..steps {
            let dm = [0, 1].map(|i| a[i][0] * m[0] + a[i][1] * m[1] + b[i]);
            let ap = [0, 1].map(|i| [0, 1].map(|j| a[i][0] * p[0][j] + a[i][1] * p[1][j]));
            let df = [0, 1].map(|i| [0, 1].map(|j| a[i][0] * flow[0][j] + a[i][1] * flow[1][j]));
            for i in 0..2 {
                m[i] += h * dm[i];
                for j in 0..2 {
                    p[i][j] += h * (ap[i][j] + ap[j][i] + if i == j { g[i] * g[i] } else { 0.0 });
                    flow[i][j] += h * df[i][j];
                }
            }
        }
        (m, p, flow)
    };
    let (m1, p1, _) = moments([0.3, -0.5], [[0.0; 2]; 2], 0.5);
    let (m2, p2, flow) = moments(m1, p1, 0.7);
    // Of the first number of row 1, and both of row 2.
    let across = [0, 1].map(|i| flow[i][0] * p1[0][0] + flow[i][1] * p1[1][0]);
    let covariance = [
        [p1[0][0], across[0], across[1]],
        [across[0], p2[0][0], p2[0][1]],
        [across[1], p2[1][0], p2[1][1]],
    ];
    let error = [0.7 - m1[0], -0.2 - m2[0], 0.4 - m2[1]];
    // By Cholesky's factor.
    let mut factor = [[0.0; 3]; 3];
    let mut solved = [0.0; 3];
    let mut expected = 1.5 * std::f64::consts::TAU.ln();
    for i in 0..3 {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| factor[i][k] * factor[j][k]).sum();
            factor[i][j] = match i == j {
                true => (covariance[i][i] - sum).sqrt(),
                false => (covariance[i][j] - sum) / factor[j][j],
            };
        }
        let sum: f64 = (0..i).map(|k| factor[i][k] * solved[k]).sum();
        solved[i] = (error[i] - sum) / factor[i][i];
        expected += factor[i][i].ln() + 0.5 * solved[i] * solved[i];
    }
    let errors = [8, 16, 64].map(|substeps| (nll(substeps) - expected).abs());
    assert!(errors[2] < 3e-5, "{errors:?}, expected {expected}");
    assert!(
        errors[0] < 1e-3 && errors[1] < 0.4 * errors[0],
        "{errors:?}"
    );
}

#[test]
fn every_method_adjoint_and_penalty_trains() {
    let table = oscillators(2, 12, 0.1);
    let solver = |method| SolverSettings {
        method,
        step: (!method_is_adaptive(method)).then_some(0.1),
        ..SolverSettings::default()
    };
    let loss = |config: FitConfig| {
        let mut fit = Fit::new(&config, &table).unwrap();
        fit.run(None, &mut |_| ControlFlow::Continue(())).unwrap();
        fit.history().losses()[1]
    };
    let base = loss(short(2));
    for choice in <MethodName as nabla_base::choices::Choices>::choices() {
        let config = FitConfig {
            solver: solver(choice.value),
            ..short(2)
        };
        let found = loss(config);
        assert!(
            (found / base - 1.0).abs() < 0.05,
            "{}: {found} {base}",
            choice.name
        );
    }
    for choice in <AdjointName as nabla_base::choices::Choices>::choices() {
        let config = FitConfig {
            adjoint: choice.value,
            ..short(2)
        };
        let found = loss(config);
        assert!(
            (found / base - 1.0).abs() < 1e-2,
            "{}: {found} {base}",
            choice.name
        );
    }
    for activation in <ActivationName as nabla_base::choices::Choices>::choices() {
        let config = FitConfig {
            activation: activation.value,
            time_dependent: true,
            ..short(2)
        };
        assert!(loss(config).is_finite());
    }
    let config = FitConfig {
        regularisation: Regularisation::Ernode {
            heuristic: Heuristic::Error,
            weight: 10.0,
            last_weight: 10.0,
        },
        ..short(2)
    };
    assert!(loss(config) > base);
}

fn method_is_adaptive(method: MethodName) -> bool {
    method.is_adaptive()
}

#[test]
fn what_does_not_go_together_is_refused() {
    let table = oscillators(2, 12, 0.0);
    let told = |change: &dyn Fn(&mut FitConfig)| {
        let mut config = short(2);
        change(&mut config);
        Fit::new(&config, &table).unwrap_err().to_string()
    };
    let ernode = Regularisation::Ernode {
        heuristic: Heuristic::Error,
        weight: 1.0,
        last_weight: 1.0,
    };
    assert!(told(&|c| c.window = 1).contains("rows of a window is 1"));
    assert!(told(&|c| c.batch = 0).contains("batch size is 0"));
    assert!(told(&|c| c.hidden = vec![0]).contains("hidden layer is 0"));
    assert!(told(&|c| c.validation = 1.0).contains("held out is 1"));
    assert!(told(&|c| c.solver.method = MethodName::Rk4).contains("give their length"));
    assert!(told(&|c| c.solver.absolute = 0.0).contains("absolute tolerance"));
    assert!(
        told(&|c| {
            c.solver.method = MethodName::Rodas4;
            c.adjoint = AdjointName::Backsolve;
        })
        .contains("rodas4 has gradients")
    );
    assert!(
        told(&|c| {
            c.regularisation = ernode;
            c.adjoint = AdjointName::Interpolating;
        })
        .contains("ernode needs")
    );
    assert!(
        told(&|c| {
            c.regularisation = ernode;
            c.kind = Kind::Sde;
        })
        .contains("without a solver")
    );
    let mut one = table.clone();
    one.trajectories[1].times.truncate(1);
    one.trajectories[1].values.truncate(2);
    let error = Fit::new(&short(2), &one).unwrap_err().to_string();
    assert_eq!(
        error,
        "the trajectory \"run 1\" has 1 row(s), but at least 2 are needed to learn from"
    );
    let mut unseen = table.clone();
    for trajectory in &mut unseen.trajectories {
        for row in 0..trajectory.len() - 1 {
            trajectory.values[2 * row + 1] = None;
        }
    }
    let error = Fit::new(&short(2), &unseen).unwrap_err().to_string();
    assert!(
        error.starts_with("the column \"b\" has no values in the part"),
        "{error}"
    );
}

#[test]
fn a_simulation_that_fails_says_when_and_where() {
    let model = fitted(&short(2), &oscillators(2, 12, 0.0)).model;
    let solver = model.config().solver;
    let start = |values: Vec<f64>| Start {
        name: "x".to_owned(),
        time: 3.0,
        values,
    };
    let told = |start: &Start, times: &[f64]| {
        model
            .simulate(start, times, &solver)
            .unwrap_err()
            .to_string()
    };
    let two = start(vec![0.1, 0.2]);
    assert!(told(&start(vec![0.1]), &[4.0]).contains("1 numbers, but the model has 2"));
    assert!(told(&start(vec![0.1, f64::NAN]), &[4.0]).contains("start of \"b\" is NaN"));
    assert!(told(&two, &[3.0]).contains("time to simulate is 3"));
    assert!(told(&two, &[4.0, 3.5]).contains("greater than the one before, 4"));
    let sde = model.simulate_paths(&two, &[4.0], 2, 0.1, 1).unwrap_err();
    assert!(sde.to_string().contains("ordinary equation"));
    // Growth without end.
    let mut network = model.network().clone();
    let mut config = model.config().clone();
    config.hidden = Vec::new();
    let described = FitConfig {
        hidden: Vec::new(),
        ..FitConfig::default()
    };
    let table = oscillators(2, 12, 0.0);
    let described = FittedConfig::new(&described, &table, config.scaling.clone());
    network.drift = described
        .network(&Device::flex(), &mut SeededNoise::new(1, 0))
        .unwrap()
        .drift;
    let mut layers = network.drift.layers().to_vec();
    layers[0].linear.weight = Param::from_tensor(Tensor::eye(2, &Device::flex()) * 3.0);
    network.drift = network.drift.with_layers(layers);
    let grows = FittedModel::new(config, network);
    let error = grows.simulate(&two, &[1e4], &solver).unwrap_err();
    assert!(error.is_failure());
    let told = error.to_string();
    assert!(
        told.starts_with("the trajectory \"x\" cannot be followed beyond the time "),
        "{told}"
    );
}
