//! AdaGrad.

use super::coupled;
use crate::optimizer::method::{Entry, per_parameter};
use burn::optim::AdaGradConfig;
use nabla_optim::optimizer_config::{non_negative, positive};

pub(super) const METHOD: Entry<AdaGradConfig> = Entry {
    name: "adagrad",
    summary: "steps that shrink by all squared gradients so far",
    learning_rate: 0.01,
    decay: "coupled",
    state: "1",
    source: "Duchi, Hazan, Singer 2011",
    of_nabla: false,
    defaults: || AdaGradConfig::new().with_epsilon(1e-10),
    ranges: &[("lr_decay", non_negative), ("epsilon", positive)],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(coupled(decay)).build())
        })
    },
};
