//! SGDP.

use crate::optimizer::method::{Entry, per_parameter};
use nabla_optim::adamp::SgdPConfig;

pub(super) const METHOD: Entry<SgdPConfig> = Entry {
    name: "sgdp",
    summary: "momentum that does not inflate scale-invariant weights",
    learning_rate: 0.1,
    decay: "decoupled",
    state: "1",
    source: "arXiv 2006.08217",
    of_nabla: true,
    defaults: || SgdPConfig::new().with_momentum(0.9),
    ranges: &[],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(decay).build()?)
        })
    },
};
