//! AdamP.

use crate::optimizer::method::{Entry, per_parameter};
use nabla_optim::adamp::AdamPConfig;

pub(super) const METHOD: Entry<AdamPConfig> = Entry {
    name: "adamp",
    summary: "Adam whose momentum does not inflate scale-invariant weights",
    learning_rate: 1e-3,
    decay: "decoupled",
    state: "2",
    source: "arXiv 2006.08217",
    of_nabla: true,
    defaults: AdamPConfig::new,
    ranges: &[],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(decay).build()?)
        })
    },
};
