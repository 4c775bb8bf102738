//! The test for scale-invariant weights and the projection Π, which AdamP and SGDP share; see the [parent
//! module](super) for their equations.

use burn::tensor::Tensor;
use nabla_grad::decomposition::{DecompositionError, Views, cosine_similarity};
use nabla_grad::elementwise::{
    Channels, Constant, Dense, Kernel, Real, Rule, step, update_channels,
};
use serde::{Deserialize, Serialize};

use crate::precision::like;

/// The dimension of a weight that corresponds to its layer's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelDim {
    /// Dimension 1 of matrices, Burn's `[d_input, d_output]`, and 0 of tensors of higher rank,
    /// `[channels_out, channels_in, ...]`.
    #[serde(alias = "ByRank")]
    ByRank,
    /// This dimension. Tensors without it are only tested as a whole.
    #[serde(alias = "Dim")]
    Dim(usize),
}

impl ChannelDim {
    /// The dimension, for a tensor of rank `rank`.
    pub(super) fn of_rank(self, rank: usize) -> usize {
        match self {
            Self::ByRank if rank == 2 => 1,
            Self::ByRank => 0,
            Self::Dim(dim) => dim,
        }
    }
}

/// Whether the gradient is so nearly orthogonal to the weight, in all vectors of `views`, that AdamP treats
/// the weight as scale invariant. AdamP then removes from the step the part
/// [along](nabla_grad::decomposition::decompose) the weight.
///
/// # Errors
/// If the tensors differ in shape or device, have no elements, or lack the dimension of the views.
pub fn is_scale_invariant<const D: usize>(
    weight: Tensor<D>,
    grad: Tensor<D>,
    views: Views,
    delta: f64,
) -> Result<bool, DecompositionError> {
    let shape = weight.dims();
    let cosines = cosine_similarity(grad, weight, views)?;
    let count = match views {
        Views::Whole => 1,
        Views::Each(dim) => shape[dim],
    };
    let size = shape.iter().product::<usize>() / count;
    let highest: f64 = cosines.abs().max().into_scalar();
    Ok(highest < threshold(delta, size))
}

/// The least norm by which a cosine is divided if there is no ε: its square is a normal `f32`.
const LEAST_NORM: f64 = 1e-18;

/// `δ/√K`.
fn threshold(delta: f64, size: usize) -> f64 {
    delta / (size as f64).sqrt()
}

/// The common parts of AdamP and SGDP: the test, the projection, the decay and the step.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    pub(super) delta: f64,
    pub(super) wd_ratio: f64,
    pub(super) epsilon: f64,
    pub(super) channel_dim: ChannelDim,
}

/// A step of which the radial part may be removed, with `M` moments; `W` is `M + 1`.
pub(super) trait Perturbation<const M: usize, const W: usize>: Copy + Sync {
    /// The new moments.
    fn moments<N: Real>(&self, moments: [N; M], g: N) -> [N; M];

    /// The step `p`, from the new moments.
    fn perturb<N: Real>(&self, moments: [N; M], g: N) -> N;

    /// The length of the step.
    fn length(&self) -> Constant;

    /// Whether `p` depends on `g` itself (Nesterov).
    fn looks_ahead(&self) -> bool;

    /// One value before those of the moments.
    fn join<T>(first: T, moments: [T; M]) -> [T; W];

    /// The values of [`join`](Self::join).
    fn split<T>(all: [T; W]) -> (T, [T; M]);
}

/// The terms of the sums over a channel that the test and the projection need.
struct Sums<N> {
    gw: N,
    gg: N,
    ww: N,
    wp: N,
}

impl<N: Real> Sums<N> {
    #[inline(always)]
    fn terms(w: N, g: N, p: N) -> Self {
        Self {
            gw: g.clone() * w.clone(),
            gg: g.square(),
            ww: w.clone().square(),
            wp: w * p,
        }
    }

    /// `|cos(w, g)|`.
    fn cosine(&self, epsilon: f64) -> N {
        let norm = |square: &N| {
            let norm = square.clone().sqrt();
            norm.at_least(epsilon.max(LEAST_NORM).into())
        };
        self.gw.clone().abs() / (norm(&self.gg) * norm(&self.ww))
    }

    /// `w·p/(‖w‖ + ε)²`.
    fn along(&self, epsilon: f64) -> N {
        let norm = self.ww.clone().sqrt() + Constant::from(epsilon);
        self.wp.clone() / norm.at_least(LEAST_NORM.into()).square()
    }
}

impl Sums<Tensor<3>> {
    /// `[outer, channels, inner]` to `[1, channels, 1]`.
    fn summed(self) -> Self {
        let sum = |x: Tensor<3>| x.sum_dim(2).sum_dim(0);
        Self {
            gw: sum(self.gw),
            gg: sum(self.gg),
            ww: sum(self.ww),
            wp: sum(self.wp),
        }
    }
}

impl From<[f64; 4]> for Sums<f64> {
    fn from([gw, gg, ww, wp]: [f64; 4]) -> Self {
        Self { gw, gg, ww, wp }
    }
}

/// The step without projection.
struct Whole<P, const M: usize, const W: usize> {
    rule: P,
    keep: Constant,
}

impl<P: Perturbation<M, W>, const M: usize, const W: usize> Rule<W, 1> for Whole<P, M, W> {
    #[inline(always)]
    fn apply<N: Real>(&self, written: [N; W], [g]: [N; 1]) -> [N; W] {
        let (w, moments) = P::split(written);
        let moments = self.rule.moments(moments, g.clone());
        let p = self.rule.perturb(moments.clone(), g);
        P::join(w * self.keep - p * self.rule.length(), moments)
    }
}

/// The moments, and the terms of the sums.
struct Moments<P, const M: usize, const W: usize>(P);

impl<P: Perturbation<M, W>, const M: usize, const W: usize> Kernel<M, 2, 4> for Moments<P, M, W> {
    #[inline(always)]
    fn apply(&self, moments: [f32; M], [w, g]: [f32; 2], _: f32) -> ([f32; M], [f32; 4]) {
        let moments = self.0.moments(moments, g);
        let Sums { gw, gg, ww, wp } = Sums::terms(w, g, self.0.perturb(moments, g));
        (moments, [gw, gg, ww, wp])
    }
}

/// The projected step, which reads the gradient and the moments.
struct Ahead<P, const M: usize, const W: usize>(P, f32);

impl<P: Perturbation<M, W>, const M: usize, const W: usize> Kernel<1, W, 0> for Ahead<P, M, W> {
    #[inline(always)]
    fn apply(&self, [w]: [f32; 1], read: [f32; W], along: f32) -> ([f32; 1], [f32; 0]) {
        let (g, moments) = P::split(read);
        let p = self.0.perturb(moments, g);
        ([projected(w, p, along, self.1, self.0.length())], [])
    }
}

/// The projected step, which reads the moments only.
struct Plain<P, const M: usize, const W: usize>(P, f32);

impl<P: Perturbation<M, W>, const M: usize, const W: usize> Kernel<1, M, 0> for Plain<P, M, W> {
    #[inline(always)]
    fn apply(&self, [w]: [f32; 1], moments: [f32; M], along: f32) -> ([f32; 1], [f32; 0]) {
        let p = self.0.perturb(moments, 0.0);
        ([projected(w, p, along, self.1, self.0.length())], [])
    }
}

/// `keep w − length (p − along w)`.
#[inline(always)]
fn projected<N: Real>(w: N, p: N, along: N, keep: N, length: Constant) -> N {
    w.clone() * keep - (p - w * along) * length
}

impl Projection {
    /// The channels of a weight, with which the sums over the layer are sums of theirs. `None` for a weight
    /// that is not projected.
    pub(super) fn channels(&self, shape: &[usize]) -> Option<Channels> {
        if shape.len() < 2 || shape.contains(&0) {
            return None;
        }
        let along = Channels::along(shape, self.channel_dim.of_rank(shape.len()));
        Some(along.unwrap_or(Channels::whole(shape.iter().product())))
    }

    /// The factor of `w` in the radial part of the step, for each channel, and the ratio of
    /// the decay, from the sums over the channels.
    pub(super) fn decide(&self, channels: Channels, sums: &[[f64; 4]]) -> (Vec<f32>, f64) {
        let views = [
            (channels, sums.to_vec()),
            (
                Channels::whole(channels.size() * channels.count()),
                vec![sums.iter().fold([0.0; 4], |mut total, sums| {
                    for (total, sum) in total.iter_mut().zip(sums) {
                        *total += sum;
                    }
                    total
                })],
            ),
        ];
        for (view, sums) in views {
            // A cosine that is NaN is not below the threshold.
            let limit = threshold(self.delta, view.size());
            let sums: Vec<Sums<f64>> = sums.into_iter().map(Sums::from).collect();
            if sums.iter().all(|s| s.cosine(self.epsilon) < limit) {
                let along = |s: &Sums<f64>| s.along(self.epsilon) as f32;
                let coefficients = match sums.as_slice() {
                    [all] => vec![along(all); channels.count()],
                    each => each.iter().map(along).collect(),
                };
                return (coefficients, self.wd_ratio);
            }
        }
        (vec![0.0; channels.count()], 1.0)
    }

    /// The step `w ← (1 − r decay) w − Π(p)` of `rule`, and the new moments.
    pub(super) fn step<P, const D: usize, const M: usize, const W: usize>(
        &self,
        rule: &P,
        decay: f64,
        w: Tensor<D>,
        moments: [Tensor<D>; M],
        g: Tensor<D>,
    ) -> (Tensor<D>, [Tensor<D>; M])
    where
        P: Perturbation<M, W>,
    {
        let Some(channels) = self.channels(&w.dims()) else {
            let keep = (1.0 - decay).into();
            let whole = Whole::<P, M, W> { rule: *rule, keep };
            return P::split(step(&whole, P::join(w, moments), [g]));
        };
        let (written, g) = match (Dense::take_all(P::join(w, moments)), Dense::take(g)) {
            (Ok(written), Ok(g)) => {
                let (w, moments) = P::split(written);
                let (w, moments) = self.fused(rule, channels, decay, (w, moments), &g);
                return (w.into_tensor(), moments.map(Dense::into_tensor));
            }
            (Ok(written), Err(g)) => (written.map(Dense::into_tensor), g),
            (Err(written), Ok(g)) => (written, g.into_tensor()),
            (Err(written), Err(g)) => (written, g),
        };
        let (w, moments) = P::split(written);
        self.composed(rule, channels, decay, w, moments, g)
    }

    /// The step in two passes, because the sums of the first pass decide what the second one does.
    fn fused<P, const M: usize, const W: usize>(
        &self,
        rule: &P,
        channels: Channels,
        decay: f64,
        (mut w, mut moments): (Dense, [Dense; M]),
        g: &Dense,
    ) -> (Dense, [Dense; M])
    where
        P: Perturbation<M, W>,
    {
        let pass = Moments::<P, M, W>(*rule);
        let sums = update_channels(&pass, channels, None, moments.each_mut(), [&w, g]);
        let (along, ratio) = self.decide(channels, &sums);
        let keep = (1.0 - decay * ratio) as f32;
        let read = moments.each_ref();
        if rule.looks_ahead() {
            let (pass, read) = (Ahead::<P, M, W>(*rule, keep), P::join(g, read));
            update_channels(&pass, channels, Some(&along), [&mut w], read);
        } else {
            let pass = Plain::<P, M, W>(*rule, keep);
            update_channels(&pass, channels, Some(&along), [&mut w], read);
        }
        (w, moments)
    }

    /// The step with Burn's operations. The result of the test stays on the device, as a factor of 0 or 1.
    fn composed<P, const D: usize, const M: usize, const W: usize>(
        &self,
        rule: &P,
        channels: Channels,
        decay: f64,
        w: Tensor<D>,
        moments: [Tensor<D>; M],
        g: Tensor<D>,
    ) -> (Tensor<D>, [Tensor<D>; M])
    where
        P: Perturbation<M, W>,
    {
        let shape = w.dims();
        let moments = rule.moments(moments, g.clone());
        let p = rule.perturb(moments.clone(), g.clone());
        let one = [1, 1, 1];
        // 1 as long as no view was found to be scale invariant.
        let mut open = Tensor::<3>::ones(one, (&w.device(), w.dtype()));
        let mut along = open.zeros_like();
        for view in [channels, Channels::whole(shape.iter().product())] {
            let [w, g, p] = [&w, &g, &p].map(|x| x.clone().reshape(view.shape()));
            let sums = Sums::terms(w, g, p).summed();
            let fires = sums.cosine(self.epsilon).max().reshape(one);
            let fires = fires.lower_elem(threshold(self.delta, view.size()));
            let fires = like(fires.float(), &open) * open.clone();
            along = along + sums.along(self.epsilon) * fires.clone();
            open = open - fires;
        }
        let ratio = open * (1.0 - self.wd_ratio) + self.wd_ratio;
        let keep = ratio * -decay + 1.0;
        let [w, p] = [w, p].map(|x| x.reshape(channels.shape()));
        let w = projected(w, p, along, keep, rule.length());
        (w.reshape(shape), moments)
    }
}
