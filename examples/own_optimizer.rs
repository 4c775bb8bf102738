//! Your own optimizer, beside the built-in ones.
//!
//! You can train with and compare any type that implements Burn's `Optimizer`. If you register it, it has a
//! name in files and on command lines, and the fields of its configuration are its options.
//!
//! ```text
//! cargo run --release -p nabla --example own_optimizer
//! ```

use std::error::Error;
use std::ops::ControlFlow;

use burn::config::Config;
use burn::optim::Optimizer;
use burn::tensor::{Device, Tensor};
use nabla::optim::optimizer_config::decay_rate;
use nabla::train::optimizer::{Entry, per_parameter, register};
use nabla::train::{Comparison, Contender, Experiment, OptimizerConfig};

/// Steps along the sign of a moving average of the gradient (Bernstein et al. 2018, *signSGD*, arXiv
/// 1802.04434, there "Signum").
#[derive(Clone)]
struct Signum {
    beta: f64,
    weight_decay: f64,
}

impl Optimizer for Signum {
    // The moving average. Burn's records store tensors under the names of their fields.
    type State<const D: usize> = SignumState<D>;

    fn step<const D: usize>(
        &self,
        rate: f64,
        weight: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<SignumState<D>>,
    ) -> (Tensor<D>, Option<SignumState<D>>) {
        let average = match state {
            Some(state) => state.average * self.beta + gradient * (1.0 - self.beta),
            None => gradient * (1.0 - self.beta),
        };
        let weight = weight * (1.0 - rate * self.weight_decay) - average.clone().sign() * rate;
        (weight, Some(SignumState { average }))
    }

    fn to_device<const D: usize>(state: SignumState<D>, device: &Device) -> SignumState<D> {
        SignumState {
            average: state.average.to_device(device),
        }
    }
}

#[derive(RecordState, Clone)]
struct SignumState<const D: usize> {
    average: Tensor<D>,
}

// Burn's derive macro for `RecordState` looks for these in the root of the crate.
use burn::optim::{RecordState, StateSink, StateSource};

/// Its options.
#[derive(Config, Debug)]
struct SignumConfig {
    #[config(default = 0.9)]
    beta: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    register(Entry::<SignumConfig> {
        name: "signum",
        summary: "steps along the sign of the averaged gradient",
        learning_rate: 1e-3,
        decay: "decoupled",
        state: "1",
        source: "arXiv 1802.04434",
        of_nabla: false,
        defaults: SignumConfig::new,
        ranges: &[("beta", decay_rate)],
        assemble: |config, parameters| {
            let beta = config.beta;
            per_parameter(parameters, |weight_decay| Ok(Signum { beta, weight_decay }))
        },
    })?;

    // A file can name it, and an option that it does not have is refused.
    let text = "training = { epochs = 5, optimizer = { learning_rate = 3e-3, method = { name = \"signum\", beta = 0.95 } } }";
    let experiment: Experiment = toml::from_str(text)?;
    let refused = toml::from_str::<Experiment>(&text.replace("beta", "momentum"));
    assert!(refused.is_err_and(|e| e.to_string().contains("unknown field `momentum`")));
    let outcome = experiment.run(&Device::flex(), None, &mut |_| ControlFlow::Continue(()))?;
    let accuracy = outcome.history.last().map_or(0.0, |e| e.test_accuracy);
    println!(
        "signum: {:.1} % of the digits after 5 epochs",
        100.0 * accuracy
    );
    assert!(accuracy > 0.8);

    // Compare it with AdamP, each at its best learning rate.
    let contender = |name: &str| -> Result<Contender, Box<dyn Error>> {
        Ok(Contender {
            label: None,
            optimizer: OptimizerConfig::named(name)?,
        })
    };
    let comparison = Comparison {
        experiment,
        contenders: vec![contender("signum")?, contender("adamp")?],
        trials: 3,
        seeds: vec![1],
        ..Comparison::default()
    };
    let (standings, runs) =
        comparison.run(&Device::flex(), None, &mut |_| ControlFlow::Continue(()))?;
    for standing in &standings {
        let accuracy = standing.test_accuracy.map_or(0.0, |s| 100.0 * s.mean);
        println!(
            "{} at {:?}: {accuracy:.1} %",
            standing.label, standing.learning_rate
        );
    }
    assert_eq!(runs.len(), 2 * (3 + 1));
    assert!(
        standings
            .iter()
            .all(|s| s.test_accuracy.is_some_and(|s| s.mean > 0.8))
    );
    Ok(())
}
