//! Adafactor, with the learning rates of the schedule only.

use crate::optimizer::Rule;
use crate::optimizer::method::{Entry, module_optimizer};
use burn::optim::AdafactorConfig;
use nabla_optim::optimizer_config::positive;

pub(super) const METHOD: Entry<AdafactorConfig> = Entry {
    name: "adafactor",
    summary: "second moments of rows and columns alone",
    learning_rate: 0.01,
    decay: "decoupled",
    state: "rows + columns",
    source: "arXiv 1804.04235",
    of_nabla: false,
    defaults: || AdafactorConfig::new().with_relative_step(false),
    ranges: &[("clip_threshold", positive)],
    assemble: |config, parameters| {
        let optimizer = module_optimizer(parameters, |decay| {
            Ok(config.clone().with_weight_decay(decay as f32).build())
        })?;
        Ok(Rule::Factored(optimizer))
    },
};
