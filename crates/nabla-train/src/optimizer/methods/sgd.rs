//! Plain gradient descent.

use burn::optim::SgdConfig;
use serde::{Deserialize, Serialize};

use super::coupled;
use crate::optimizer::method::{Entry, per_parameter};

/// It has no options.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct SgdOptions {}

pub(super) const METHOD: Entry<SgdOptions> = Entry {
    name: "sgd",
    summary: "plain gradient descent",
    learning_rate: 0.1,
    decay: "coupled",
    state: "0",
    source: "",
    of_nabla: false,
    defaults: SgdOptions::default,
    ranges: &[],
    assemble: |_, parameters| {
        per_parameter(parameters, |decay| {
            Ok(SgdConfig::new().with_weight_decay(coupled(decay)).build())
        })
    },
};
