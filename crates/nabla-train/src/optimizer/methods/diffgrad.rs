//! diffGrad.

use crate::optimizer::method::{Entry, per_parameter};
use nabla_optim::diffgrad::DiffGradConfig;

pub(super) const METHOD: Entry<DiffGradConfig> = Entry {
    name: "diffgrad",
    summary: "Adam with a friction where the gradient does not change",
    learning_rate: 1e-3,
    decay: "coupled",
    state: "3",
    source: "arXiv 1909.11015",
    of_nabla: true,
    defaults: DiffGradConfig::new,
    ranges: &[],
    assemble: |config, parameters| {
        per_parameter(parameters, |decay| {
            Ok(config.clone().with_weight_decay(decay).build()?)
        })
    },
};
