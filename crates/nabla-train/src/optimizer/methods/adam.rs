//! Adam.

use super::coupled;
use crate::optimizer::method::{Entry, per_parameter};
use burn::optim::AdamConfig;
use nabla_optim::optimizer_config::{decay_rate, positive};

pub(super) const METHOD: Entry<AdamConfig> = Entry {
    name: "adam",
    summary: "moving averages of the gradient and of its square",
    learning_rate: 1e-3,
    decay: "coupled",
    state: "2",
    source: "arXiv 1412.6980",
    of_nabla: false,
    defaults: || AdamConfig::new().with_epsilon(1e-8),
    ranges: &[
        ("beta_1", decay_rate),
        ("beta_2", decay_rate),
        ("epsilon", positive),
    ],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(coupled(decay)).build())
        })
    },
};
