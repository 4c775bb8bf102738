//! Group norms whose mean and variance come from elsewhere than from what they normalise.
//!
//! A group norm sees the whole picture: a part of it, computed alone, has other means and variances, and
//! comes out in another tone. So the norms of a network are first [recorded](NormStatistics::Record) on a
//! small version of the picture, and then [given](NormStatistics::Given) to each part of it, in the order
//! in which the network runs them:
//!
//! ```text
//! y = silu(gamma (x − mean_g)/√(variance_g + ε) + beta)
//! ```

use burn::nn::GroupNorm;
use burn::tensor::{DType, Tensor};

use nabla_kernels::picture::{group_norm_silu, modulated_silu};

/// Where the norms of a network take their statistics from.
#[derive(Clone, Debug)]
pub enum NormStatistics {
    /// What they normalise.
    Own,
    /// What they normalise; they are kept.
    Record(Vec<GroupStatistics>),
    /// Those of a record, the next first.
    Given(std::vec::IntoIter<GroupStatistics>),
}

/// The mean and the variance of each group of channels of each picture.
#[derive(Clone, Debug)]
pub struct GroupStatistics {
    /// `[batch, groups]`
    mean: Tensor<2>,
    /// `[batch, groups]`
    variance: Tensor<2>,
}

impl GroupStatistics {
    /// Of `x`, `[batch, channels, height, width]`.
    fn of(x: Tensor<4>, groups: usize) -> Self {
        let [batch, channels, height, width] = x.dims();
        // A sum of squares leaves the range of 16 bits.
        let x = x.cast(DType::F32);
        let x = x.reshape([batch, groups, channels / groups * height * width]);
        let (variance, mean) = x.var_mean_bias(2);
        let [mean, variance] = [mean, variance].map(|v| v.reshape([batch, groups]));
        Self { mean, variance }
    }

    /// `silu` of the norm with these statistics; `x` is `[batch, channels, height, width]`.
    fn normalize(&self, norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, _, _] = x.dims();
        let (groups, dtype) = (norm.num_groups, x.dtype());
        let each = |v: Tensor<2>| {
            let v = v.reshape([batch, groups, 1]);
            v.repeat_dim(2, channels / groups)
                .reshape([batch, channels])
        };
        let rows = |v: Tensor<1>| v.cast(DType::F32).reshape([1, channels]);
        let mut gain = each((self.variance.clone() + norm.epsilon).sqrt().recip());
        if let Some(gamma) = &norm.gamma {
            gain = gain * rows(gamma.val());
        }
        let shift = match &norm.beta {
            Some(beta) => rows(beta.val()).repeat_dim(0, batch),
            None => gain.zeros_like(),
        };
        // The mean goes first: beside a large one the rest would be lost.
        let mean = each(self.mean.clone()).reshape([batch, channels, 1, 1]);
        let x = x.cast(DType::F32) - mean;
        modulated_silu(x, gain - 1.0, shift).cast(dtype)
    }
}

impl NormStatistics {
    /// What has been recorded, to be given.
    pub fn recorded(self) -> Self {
        match self {
            Self::Record(kept) => Self::Given(kept.into_iter()),
            other => other,
        }
    }

    /// `silu(norm(x))`.
    ///
    /// - `x`: `[batch, channels, height, width]`
    /// - returns the shape of `x`
    pub fn group_norm_silu(&mut self, norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Own => group_norm_silu(norm, x),
            Self::Record(kept) => {
                kept.push(GroupStatistics::of(x.clone(), norm.num_groups));
                group_norm_silu(norm, x)
            }
            Self::Given(rest) => match rest.next() {
                Some(statistics) => statistics.normalize(norm, x),
                None => group_norm_silu(norm, x),
            },
        }
    }
}
