//! Lion.

use crate::optimizer::method::{Entry, per_parameter};
use burn::optim::LionConfig;
use nabla_optim::optimizer_config::decay_rate;

pub(super) const METHOD: Entry<LionConfig> = Entry {
    name: "lion",
    summary: "steps along the sign of the momentum",
    learning_rate: 1e-4,
    decay: "decoupled",
    state: "1",
    source: "arXiv 2302.06675",
    of_nabla: false,
    defaults: LionConfig::new,
    ranges: &[("beta_1", decay_rate), ("beta_2", decay_rate)],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(decay as f32).build())
        })
    },
};
