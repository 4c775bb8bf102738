//! The normalisation between the layers of a network of pictures.
//!
//! Batch normalisation trains fast, but mixes the examples of a batch: none of them has a gradient of its own then, and
//! workers that share a batch see other statistics than one worker alone. Group normalisation (Wu, He, *Group
//! Normalization*, 2018, arXiv 1803.08494) takes mean and variance within one example, over groups of channels.

use burn::nn::{BatchNorm, BatchNormConfig, GroupNorm, GroupNormConfig};
use burn::tensor::{Device, Tensor};
use nabla_kernels::activation::Activation;
use nabla_kernels::normalization::{batch_norm, batch_norm_relu, group_norm, group_norm_relu};
use serde::{Deserialize, Deserializer, Serialize};

/// Which normalisation follows a convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// Over the examples of a batch.
    #[default]
    Batch,
    /// Within an example, over eight groups of channels, or as many as 8 and the number of channels have in common.
    Group,
    /// None.
    None,
}

nabla_base::choices! {
    Normalization: "normalization" {
        "batch" => Self::Batch, "Over the examples of a batch";
        "group" => Self::Group, "Within an example, over groups of channels: for private training and for workers";
        "none" => Self::None, "None";
    }
}

impl<'de> Deserialize<'de> for Normalization {
    /// Its name, or whether there is batch normalisation, as older files have it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Batch(bool),
            Name(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Batch(true) => Ok(Self::Batch),
            Form::Batch(false) => Ok(Self::None),
            Form::Name(name) => name.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// The most groups that channels fall into.
const GROUPS: usize = 8;

impl Normalization {
    /// The layer for so many channels, if there is one.
    pub(crate) fn init(
        self,
        channels: usize,
        device: &Device,
    ) -> (Option<BatchNorm>, Option<GroupNorm>) {
        match self {
            Self::Batch => (Some(BatchNormConfig::new(channels).init(device)), None),
            Self::Group => {
                let groups = (1..=GROUPS.min(channels)).rev();
                let mut groups =
                    groups.filter(|g| channels.is_multiple_of(*g) && GROUPS.is_multiple_of(*g));
                let config = GroupNormConfig::new(groups.next().unwrap_or(1), channels);
                (None, Some(config.init(device)))
            }
            Self::None => (None, None),
        }
    }
}

/// `x` after the normalisation that there is.
pub(crate) fn normalized(
    batch: &Option<BatchNorm>,
    group: &Option<GroupNorm>,
    x: Tensor<4>,
) -> Tensor<4> {
    match (batch, group) {
        (Some(norm), _) => batch_norm(norm, x),
        (None, Some(norm)) => group_norm(norm, x),
        (None, None) => x,
    }
}

/// `relu` of [`normalized`].
pub(crate) fn normalized_relu(
    batch: &Option<BatchNorm>,
    group: &Option<GroupNorm>,
    x: Tensor<4>,
) -> Tensor<4> {
    match (batch, group) {
        (Some(norm), _) => batch_norm_relu(norm, x),
        (None, Some(norm)) => group_norm_relu(norm, x),
        (None, None) => Activation::Relu.forward(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_name_it_or_say_whether_batches_are_normalised() {
        let read = |text: &str| serde_json::from_str::<Normalization>(text);
        for (text, expected) in [
            ("true", Normalization::Batch),
            ("false", Normalization::None),
            ("\"group\"", Normalization::Group),
            ("\"none\"", Normalization::None),
        ] {
            assert_eq!(read(text).unwrap(), expected);
        }
        let error = read("\"layer\"").unwrap_err().to_string();
        assert!(
            error.contains("layer") && error.contains("group"),
            "{error}"
        );
        assert_eq!(
            serde_json::to_string(&Normalization::Group).unwrap(),
            "\"group\""
        );
    }

    #[test]
    fn channels_fall_into_as_many_groups_as_fit() {
        let groups = |channels| {
            let (_, group) = Normalization::Group.init(channels, &Device::flex());
            group.unwrap().num_groups
        };
        assert_eq!([64, 16, 12, 6, 7, 1].map(groups), [8, 8, 4, 2, 1, 1]);
    }
}
