//! AdaBelief.

use crate::optimizer::method::{Entry, per_parameter};
use nabla_optim::adabelief::AdaBeliefConfig;

pub(super) const METHOD: Entry<AdaBeliefConfig> = Entry {
    name: "adabelief",
    summary: "long steps where the gradient is as expected",
    learning_rate: 1e-3,
    decay: "decoupled",
    state: "2",
    source: "arXiv 2010.07468",
    of_nabla: true,
    defaults: AdaBeliefConfig::new,
    ranges: &[],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(decay).build()?)
        })
    },
};
