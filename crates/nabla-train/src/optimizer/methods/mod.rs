//! The built-in methods: a file for each, and a line here.

use std::sync::Arc;

use burn::optim::decay::WeightDecayConfig;
use nabla_optim::adamw::AdamWConfig;

use super::method::{Entry, OptimizerMethod};

macro_rules! methods {
    ($($method:ident,)*) => {
        $(mod $method;)*

        /// All of them, baselines first.
        pub(super) fn all() -> Vec<Arc<dyn OptimizerMethod>> {
            vec![$(Arc::new($method::METHOD),)*]
        }
    };
}

methods! {
    sgd,
    momentum,
    adagrad,
    rmsprop,
    adam,
    adamw,
    adan,
    lamb,
    lion,
    adafactor,
    muon,
    adamp,
    sgdp,
    diffgrad,
    adabelief,
    m_fac,
}

/// The default method.
pub(super) const USUAL: Entry<AdamWConfig> = adamw::METHOD;

/// A weight decay in the form of Burn's optimizers that add it to the gradient.
fn coupled(decay: f64) -> Option<WeightDecayConfig> {
    (decay > 0.0).then(|| WeightDecayConfig::new(decay as f32))
}
