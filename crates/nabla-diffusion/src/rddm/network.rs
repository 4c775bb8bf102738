//! The networks of an RDDM.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::{Objective, RddmError};
use crate::block_skipping::BlockSet;
use crate::unet::{Decoder, UNet, UNetConfig};

/// How the networks that predict two things are arranged (the official `share_encoder`).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Two separate UNets, the official default.
    Separate,
    /// One encoder; the residual's decoder sees only the bottleneck, the noise's has the skips.
    Encoder,
}

/// The residual and noise networks of an RDDM.
#[derive(Module, Debug)]
pub struct ResidualNetwork {
    first: UNet,
    second: Option<UNet>,
}

impl ResidualNetwork {
    /// Builds the networks that `objective` needs from one UNet configuration, whose `decoders` field is set
    /// according to `sharing`.
    ///
    /// # Errors
    /// If the UNet's configuration is wrong.
    pub fn init(
        config: &UNetConfig,
        objective: Objective,
        sharing: Sharing,
        device: &Device,
    ) -> Result<Self, RddmError> {
        let single = config.clone().with_decoders(vec![Decoder::Skip]);
        Ok(match (objective.outputs(), sharing) {
            (1, _) => Self {
                first: single.init(device)?,
                second: None,
            },
            (_, Sharing::Separate) => Self {
                first: single.init(device)?,
                second: Some(single.init(device)?),
            },
            (_, Sharing::Encoder) => Self {
                first: config
                    .clone()
                    .with_decoders(vec![Decoder::NoSkip, Decoder::Skip])
                    .init(device)?,
                second: None,
            },
        })
    }

    /// The outputs, each `[batch, channels, height, width]`.
    ///
    /// - `x`: `I_t`, `[batch, channels, height, width]`
    /// - `times`: the time of the residual and of the noise network, `[batch]` each. A single network or a
    ///   shared encoder gets the first; pass the noise's time twice to a network that predicts only the
    ///   noise.
    /// - `condition`: pictures to concatenate, `[batch, condition_channels, height, width]`
    /// - `class`: `[batch]`
    pub fn forward(
        &self,
        x: Tensor<4>,
        times: [Tensor<1>; 2],
        condition: Option<Tensor<4>>,
        class: Option<Tensor<1, Int>>,
    ) -> Vec<Tensor<4>> {
        self.forward_skipping(x, times, condition, class, BlockSet::none())
    }

    /// The same without some blocks, those of a second network counted after those of the first; see
    /// [`block_skipping`](crate::block_skipping).
    pub fn forward_skipping(
        &self,
        x: Tensor<4>,
        times: [Tensor<1>; 2],
        condition: Option<Tensor<4>>,
        class: Option<Tensor<1, Int>>,
        skipped: &BlockSet,
    ) -> Vec<Tensor<4>> {
        let [residual_time, noise_time] = times;
        let first = |x, condition, class| {
            self.first
                .forward_skipping(x, residual_time, condition, class, skipped)
        };
        match &self.second {
            None => first(x, condition, class),
            Some(second) => {
                let before = self.first.blocks();
                let of_second = skipped.iter().filter_map(|block| block.checked_sub(before));
                let of_second = BlockSet::of(of_second);
                let mut outputs = first(x.clone(), condition.clone(), class.clone());
                outputs
                    .extend(second.forward_skipping(x, noise_time, condition, class, &of_second));
                outputs
            }
        }
    }

    /// The number of blocks that can be skipped.
    pub fn blocks(&self) -> usize {
        self.first.blocks() + self.second.as_ref().map_or(0, UNet::blocks)
    }
}
