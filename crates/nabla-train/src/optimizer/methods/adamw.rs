//! AdamW: Adam with decoupled weight decay.

use crate::optimizer::method::{Entry, per_parameter};
use nabla_optim::adamw::AdamWConfig;

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
    // It is Burn's method, a baseline of comparisons; only its steps are Nabla's.
    of_nabla: false,
    defaults,
    ranges: &[],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(decay).build()?)
        })
    },
};
