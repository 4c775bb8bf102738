//! AdamW: Adam with decoupled weight decay.

use crate::optimizer::method::{Entry, per_parameter};
use burn::optim::AdamWConfig;
use nabla_optim::optimizer_config::{decay_rate, positive};

/// Muon also uses them, for everything except hidden matrices.
pub(super) fn defaults() -> AdamWConfig {
    AdamWConfig::new().with_epsilon(1e-8)
}

pub(super) const METHOD: Entry<AdamWConfig> = Entry {
    name: "adamw",
    summary: "Adam with decoupled weight decay",
    learning_rate: 1e-3,
    decay: "decoupled",
    state: "2",
    source: "arXiv 1711.05101",
    of_nabla: false,
    defaults,
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
