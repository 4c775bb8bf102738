//! Gradient descent with momentum, the heavy ball's or Nesterov's.

use super::coupled;
use crate::optimizer::method::{Entry, per_parameter};
use burn::optim::SgdConfig;
use burn::optim::momentum::MomentumConfig;
use nabla_optim::optimizer_config::{decay_rate, ratio};

pub(super) const METHOD: Entry<MomentumConfig> = Entry {
    name: "momentum",
    summary: "gradient descent with momentum",
    learning_rate: 0.1,
    decay: "coupled",
    state: "1",
    source: "Polyak 1964; Nesterov 1983",
    of_nabla: false,
    defaults: || MomentumConfig::new().with_dampening(0.0),
    ranges: &[("momentum", decay_rate), ("dampening", ratio)],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(SgdConfig::new()
                .with_momentum(Some(config.clone()))
                .with_weight_decay(coupled(decay))
                .build())
        })
    },
};
