//! Group norms whose mean and variance do not come from the tensor that they normalise.
//!
//! A group norm sees the whole picture: a part computed alone has other means and variances, and gets a
//! different tone. So the norms of a network are first [recorded](NormStatistics::Record) on a small version
//! of the picture, and then [given](NormStatistics::Given) to each part of it, in the order in which the
//! network runs them:
//!
//! ```text
//! y = silu(gamma (x − mean_g)/√(variance_g + ε) + beta)
//! ```

use burn::nn::GroupNorm;
use burn::tensor::{DType, Tensor};

use nabla_kernels::normalization::{group_norm_silu, modulated_silu};

/// The source of the statistics of a network's norms.
#[derive(Clone, Debug)]
pub enum NormStatistics {
    /// The tensors that they normalise.
    Own,
    /// The tensors that they normalise; the statistics are recorded.
    Record(Vec<GroupStatistics>),
    /// Recorded statistics, the next ones first.
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
        // A sum of squares would exceed the range of 16 bits.
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
        // Subtract the mean first: a large mean would swallow the rest.
        let mean = each(self.mean.clone()).reshape([batch, channels, 1, 1]);
        let x = x.cast(DType::F32) - mean;
        modulated_silu(x, gain - 1.0, shift).cast(dtype)
    }
}

impl NormStatistics {
    /// The recorded statistics, to be given to other parts.
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
