//! Muon for hidden matrices, by the rule that matches AdamW's steps; AdamW for kernels, vectors and the layer
//! named `output`.

use super::{adamw, coupled};
use crate::optimizer::Rule;
use crate::optimizer::method::{Entry, module_optimizer, with_decay_groups};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdjustLrFn, MuonConfig};
use nabla_optim::optimizer_config::{decay_rate, ratio};

pub(super) const METHOD: Entry<MomentumConfig> = Entry {
    name: "muon",
    summary: "orthogonalised momentum for hidden matrices, AdamW for the rest",
    learning_rate: 1e-3,
    decay: "decoupled",
    state: "1 (matrices), 2",
    source: "K. Jordan 2024; arXiv 2502.16982",
    of_nabla: false,
    defaults: || {
        MomentumConfig::new()
            .with_momentum(0.95)
            .with_dampening(0.0)
            .with_nesterov(true)
    },
    ranges: &[("momentum", decay_rate), ("dampening", ratio)],
    assemble: |config, parameters| {
        let others = module_optimizer(parameters, |decay| {
            Ok(adamw::defaults().with_weight_decay(decay).build()?)
        })?;
        let hidden = parameters
            .iter()
            .filter(|p| p.shape.len() == 2 && !p.name.starts_with("output."));
        let optimizer = with_decay_groups(others, hidden, |decay| {
            Ok(MuonConfig::new()
                .with_momentum(config.clone())
                .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
                .with_weight_decay(coupled(decay))
                .build())
        })?;
        Ok(Rule::PerParameter(optimizer))
    },
};
