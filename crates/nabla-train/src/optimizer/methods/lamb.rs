//! LAMB.

use crate::optimizer::method::{Entry, per_parameter};
use burn::optim::LambConfig;
use nabla_optim::optimizer_config::{decay_rate, positive};

pub(super) const METHOD: Entry<LambConfig> = Entry {
    name: "lamb",
    summary: "Adam with steps as long as their layers, for large batches",
    learning_rate: 0.01,
    decay: "decoupled",
    state: "2",
    source: "arXiv 1904.00962",
    of_nabla: false,
    defaults: LambConfig::new,
    ranges: &[
        ("beta_1", decay_rate),
        ("beta_2", decay_rate),
        ("epsilon", positive),
    ],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(decay as f32).build())
        })
    },
};
