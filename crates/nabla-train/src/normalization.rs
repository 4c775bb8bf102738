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

/// What a pass through a network of pictures shows on its way.
pub(crate) enum Sight<'a> {
    /// The feature map of a stage, `[batch, channels, height, width]`.
    Map(&'a Tensor<4>),
    /// A batch normalisation and what goes into it, `[batch, channels, height, width]`.
    Normalizes(&'a BatchNorm, &'a Tensor<4>),
}

/// Looks at what a pass shows.
pub(crate) type See<'a> = &'a mut dyn FnMut(Sight<'_>);

/// Mean and variance of each channel of what goes into a batch normalisation, over the batch and all places, beside
/// those by which it normalises.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// `[channels]`.
    pub mean: Tensor<1>,
    /// Not corrected for the number of values, `[channels]`.
    pub variance: Tensor<1>,
    /// Of the training, `[channels]`.
    pub running_mean: Tensor<1>,
    /// Of the training, `[channels]`.
    pub running_variance: Tensor<1>,
}

impl BatchStatistics {
    fn of(norm: &BatchNorm, x: &Tensor<4>) -> Self {
        let [_, channels, ..] = x.dims();
        let rows = x.clone().swap_dims(0, 1).reshape([channels as i32, -1]); // [channels, values]
        let mean = rows.clone().mean_dim(1);
        let variance = (rows - mean.clone()).square().mean_dim(1);
        Self {
            mean: mean.flatten(0, 1),
            variance: variance.flatten(0, 1),
            running_mean: norm.running_mean.value(),
            running_variance: norm.running_var.value(),
        }
    }
}

/// The statistics of every batch normalisation in a pass.
pub(crate) fn batch_statistics(pass: impl FnOnce(See<'_>)) -> Vec<BatchStatistics> {
    let mut found = Vec::new();
    pass(&mut |sight| {
        if let Sight::Normalizes(norm, x) = sight {
            found.push(BatchStatistics::of(norm, x));
        }
    });
    found
}

/// The maps in a pass.
pub(crate) fn maps(pass: impl FnOnce(See<'_>)) -> Vec<Tensor<4>> {
    let mut found = Vec::new();
    pass(&mut |sight| {
        if let Sight::Map(map) = sight {
            found.push(map.clone());
        }
    });
    found
}

/// `x` after the normalisation that there is.
pub(crate) fn normalized(
    batch: &Option<BatchNorm>,
    group: &Option<GroupNorm>,
    x: Tensor<4>,
    see: See<'_>,
) -> Tensor<4> {
    match (batch, group) {
        (Some(norm), _) => {
            see(Sight::Normalizes(norm, &x));
            batch_norm(norm, x)
        }
        (None, Some(norm)) => group_norm(norm, x),
        (None, None) => x,
    }
}

/// `relu` of [`normalized`].
pub(crate) fn normalized_relu(
    batch: &Option<BatchNorm>,
    group: &Option<GroupNorm>,
    x: Tensor<4>,
    see: See<'_>,
) -> Tensor<4> {
    match (batch, group) {
        (Some(norm), _) => {
            see(Sight::Normalizes(norm, &x));
            batch_norm_relu(norm, x)
        }
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

    /// Two channels of two pictures of two pixels, by hand.
    #[test]
    fn statistics_are_those_of_each_channel() {
        let device = Device::flex();
        let (norm, _) = Normalization::Batch.init(2, &device);
        let norm = norm.unwrap();
        let x = Tensor::<1>::from_floats([1.0, 3.0, 0.0, 2.0, 5.0, 7.0, 4.0, 6.0], &device);
        let x: Tensor<4> = x.reshape([2, 2, 1, 2]);
        let found = batch_statistics(|see| {
            normalized(&Some(norm), &None, x, see);
        });
        let values = |x: &Tensor<1>| x.clone().into_data().iter::<f64>().collect::<Vec<_>>();
        assert_eq!(found.len(), 1);
        assert_eq!(values(&found[0].mean), [4.0, 3.0]);
        assert_eq!(values(&found[0].variance), [5.0, 5.0]);
        assert_eq!(values(&found[0].running_mean), [0.0, 0.0]);
        assert_eq!(values(&found[0].running_variance), [1.0, 1.0]);
    }
}
