//! RMSProp.

use super::coupled;
use crate::optimizer::method::{Entry, per_parameter};
use burn::optim::RmsPropConfig;
use nabla_optim::optimizer_config::{decay_rate, positive};

pub(super) const METHOD: Entry<RmsPropConfig> = Entry {
    name: "rmsprop",
    summary: "steps that shrink by the mean square of the last gradients",
    learning_rate: 1e-3,
    decay: "coupled",
    state: "1 to 3",
    source: "Tieleman, Hinton 2012",
    of_nabla: false,
    defaults: || RmsPropConfig::new().with_momentum(0.0).with_epsilon(1e-8),
    ranges: &[
        ("alpha", decay_rate),
        ("momentum", decay_rate),
        ("epsilon", positive),
    ],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(coupled(decay)).build())
        })
    },
};
