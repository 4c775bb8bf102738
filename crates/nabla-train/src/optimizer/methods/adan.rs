//! Adan.

use crate::optimizer::method::{Entry, per_parameter};
use burn::optim::AdanConfig;
use nabla_optim::optimizer_config::{decay_rate, positive};

pub(super) const METHOD: Entry<AdanConfig> = Entry {
    name: "adan",
    summary: "Nesterov's momentum of gradient differences",
    learning_rate: 1e-3,
    decay: "proximal",
    state: "4",
    source: "arXiv 2208.06677",
    of_nabla: false,
    defaults: AdanConfig::new,
    ranges: &[
        ("beta_1", decay_rate),
        ("beta_2", decay_rate),
        ("beta_3", decay_rate),
        ("epsilon", positive),
    ],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(decay as f32).build())
        })
    },
};
